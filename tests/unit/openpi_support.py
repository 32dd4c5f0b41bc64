"""A proxy between a small client and a server that can fail: what its tests share."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np
from websockets.sync.client import ClientConnection, connect

from safeguard.core.config import BrakeConfig, FilterConfig, ShieldConfig
from safeguard.core.enums import Reference
from safeguard.core.robot import RobotModel
from safeguard.core.types import ActionSpec, Vector
from safeguard.integrations.gate import ChunkGate
from safeguard.integrations.openpi_proxy import OpenPiProxy
from safeguard.policies.msgpack_arrays import Map, packed, unpacked
from tests.conformance.remote_openpi import OpenPiServer

ROBOT = RobotModel.load("panda")
SPEC = ActionSpec(ROBOT.joints, "rad", Reference.ABSOLUTE, rate_hz=15.0, chunk=8)
CONFIG = ShieldConfig(filter=FilterConfig(brake=BrakeConfig(samples=200)))
DEADLINE = 0.3
GOING = ("NOMINAL", "CAUTIOUS")  # nothing is calibrated here
TURN = np.zeros(7)
TURN[6] = 0.01


def rows(q: Vector) -> Vector:
    """A slow turn of the wrist from where it is."""
    return np.asarray(q) + np.arange(1, 9)[:, None] * TURN


def joints(observation: Map) -> Vector:
    """Where the client says the arm is."""
    return np.asarray(observation["observation/joint_position"], dtype=np.float64)


class Client:
    """openpi's client in short: blocking, one map for another."""

    def __init__(self, url: str) -> None:
        self._stack = contextlib.ExitStack()
        self.socket: ClientConnection = self._stack.enter_context(connect(url, compression=None, max_size=None))
        try:
            self.metadata = unpacked(self._binary())
        except BaseException:
            self._stack.close()
            raise
        self.q = np.array(ROBOT.home)

    def infer(self, **more: object) -> Map:
        """An answer to where the arm is, which then plays all its rows."""
        self.socket.send(packed({"observation/joint_position": self.q, "prompt": "wave", **more}))
        answer = unpacked(self._binary())
        self.q = np.asarray(answer["actions"][-1], dtype=np.float64)
        return answer

    def say(self, message: bytes | str) -> bytes | str:
        """Whatever comes back."""
        self.socket.send(message)
        return self.socket.recv(timeout=10.0)

    def _binary(self) -> bytes:
        message = self.socket.recv(timeout=10.0)
        assert isinstance(message, bytes), message
        return message

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._stack.close()


def server() -> Iterator[OpenPiServer]:
    """The policy server."""
    with OpenPiServer(rows) as server:
        yield server


class Clock:
    """Time goes on by a chunk with every look: the client plays its rows in no time."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        """Now, ns."""
        self.now += round(8 / 15 * 1e9)
        return self.now


def gate() -> Iterator[ChunkGate]:
    """The shield."""
    with ChunkGate(ROBOT, SPEC, config=CONFIG, clock=Clock()) as gate:
        yield gate


def proxy(gate: ChunkGate, server: OpenPiServer) -> Iterator[OpenPiProxy]:
    """Between the two; afterwards no thread is left."""
    before = set(threading.enumerate())
    with OpenPiProxy(gate, server.url, joints, deadline_s=DEADLINE, port=0) as proxy:
        yield proxy
    until = time.monotonic() + 5.0
    while mine := {t for t in set(threading.enumerate()) - before if "safeguard" in t.name}:
        assert time.monotonic() < until, mine


def moving(client: Client, proxy: OpenPiProxy) -> None:
    """Somebody lets the arm go."""
    client.infer()
    proxy.acknowledge(operator="ada", reason="test")
    assert goes(client)


def goes(client: Client) -> bool:
    """Whether the policy moves the arm within eight answers, without a change at the end."""
    for _ in range(8):
        said = client.infer()["safeguard"]
        if said["mode"] in GOING and not said["changed"]:
            return True
    return False
