"""A host with an arm that plays the rows it gets, a GR00T server, and the proxy between them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safeguard import RobotModel
from safeguard.core.enums import Reference
from safeguard.core.types import NS_PER_S, ActionSpec
from safeguard.integrations.gate import ChunkGate
from safeguard.integrations.groot_proxy import GrootProxy
from tests.unit.groot_support import CHUNK, Answer, Client, Server, seen

ROBOT = RobotModel.load("panda")
SPEC = ActionSpec((*ROBOT.joints, "gripper"), "rad", Reference.ABSOLUTE, 20.0, CHUNK, others=("gripper",))
COLUMNS = {"single_arm": ROBOT.joints, "gripper": "gripper"}
STEP = 0.004  # rad that the wrist moves in a row: slow enough to come through unchanged


def joints(observation: Mapping[str, Any]) -> NDArray[np.float64]:
    """What the proxy is told about observations."""
    array: NDArray[np.float64] = observation["state"]["single_arm"][0, -1].astype(np.float64)
    return array


def wave(request: dict[str, Any]) -> Any:
    """Turn the wrist on from where the arm was seen; a key that the shield knows nothing of, and some info."""
    q = request["data"]["observation"]["state"]["single_arm"][0, -1]
    rows = np.tile(q, (CHUNK, 1))
    rows[:, 6] += STEP * np.arange(1, CHUNK + 1)
    gripper = np.linspace(0.2, 0.3, CHUNK, dtype=np.float32)[None, :, None]
    return [
        {"single_arm": rows[None].astype(np.float32), "gripper": gripper, "lamp": np.ones((1, CHUNK, 2), np.int64)},
        {"took_ms": 3},
    ]


class World:
    """Everything on loopback, on a clock that only playing moves.

    Args:
        answer: of the server.
        deadline_s: of the proxy.
        audit: run folder, or None.
        gate: another class of gate.
        more: further arguments of the proxy.
    """

    def __init__(
        self,
        answer: Answer = wave,
        *,
        deadline_s: float = 2.0,
        audit: Path | None = None,
        gate: type[ChunkGate] = ChunkGate,
        **more: Any,
    ) -> None:
        self.now, self.q = 10 * NS_PER_S, np.array(ROBOT.home)
        self.server = Server(answer)
        self.gate = gate(ROBOT, SPEC, audit=audit, clock=lambda: self.now)
        given: dict[str, Any] = {"encode": joints, "columns": COLUMNS, "deadline_s": deadline_s, "port": 0, **more}
        self.proxy = GrootProxy(self.gate, f"127.0.0.1:{self.server.port}", **given)
        self.client = Client(self.proxy.port)

    def ask(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """One question of the host, from where the arm is."""
        return self.client.get_action(seen(self.q))

    def play(self, action: Mapping[str, Any]) -> None:
        """The arm goes where the rows say, and the clock on."""
        self.q = np.array(action["single_arm"], np.float64).reshape(CHUNK, 7)[-1]
        self.now += CHUNK * NS_PER_S // 20

    def ride(self, times: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Ask and play ``times`` times; the last answer."""
        answers: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for _ in range(times):
            answers.append(self.ask())
            self.play(answers[-1][0])
        return answers[-1]

    def started(self) -> World:
        """Acknowledged, and the rows come through as they are."""
        self.proxy.acknowledge(operator="test", reason="cell is clear")
        _, info = self.ride(6)
        assert not info["safeguard"]["changed"], info
        return self

    def close(self) -> None:
        """Close everything."""
        for one in (self.client, self.proxy, self.gate, self.server):
            one.close()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stands(action: Mapping[str, Any], q: Any) -> bool:
    """Whether the rows brake from ``q`` and hold: no row is further than braking takes, the last ones are equal."""
    rows = np.asarray(action["single_arm"], np.float64).reshape(CHUNK, 7)
    return bool(np.abs(rows - q).max() < 0.02 and np.ptp(rows[-3:], axis=0).max() < 1e-3)


def after(good: int, fault: Answer) -> Answer:
    """``wave`` for so many requests, then ``fault``."""
    asked = count()
    return lambda request: wave(request) if next(asked) < good else fault(request)


def bad(**changes: Any) -> Answer:
    """``wave`` with other arrays; None leaves a key out."""

    def answer(request: dict[str, Any]) -> Any:
        action, info = wave(request)
        changed = {**action, **changes}
        return [{key: value for key, value in changed.items() if value is not None}, info]

    return answer


def late(request: dict[str, Any]) -> Any:
    """Somewhere else, and after the deadline."""
    time.sleep(0.35)
    return [{**wave(request)[0], "single_arm": np.zeros((1, CHUNK, 7), np.float32)}, {}]


def saying(answer: Any) -> Answer:
    """Always the same."""

    def say(_: dict[str, Any]) -> Any:
        return answer

    return say
