"""A Panda with position servos in MuJoCo whose host plays rows, and chunks that nobody should play."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from safeguard.core.action import ActionSpec
from safeguard.core.config import (
    BrakeConfig,
    ClearanceConfig,
    DriveConfig,
    FilterConfig,
    MarginConfig,
    PolicyConfig,
    ShieldConfig,
)
from safeguard.core.enums import Reference
from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S, PositionCommand, Vector, frozen_array
from safeguard.integrations.gate import ChunkGate, GateAnswer
from tests.unit.servo_world import DT, SERVOS, ServoWorld, load

ERROR = SERVOS["panda"][2]
CONFIG = ShieldConfig(
    filter=FilterConfig(
        brake=BrakeConfig(samples=100),
        margins=MarginConfig(position_rad=ERROR, velocity_share=0.1),
        clearance=ClearanceConfig(hard_floor_m=0.010, floor_m=0.015, buffer_m=0.006),
    ),
    drive=DriveConfig(interface="position", tracking_error_rad=ERROR),
)
QUICK = ShieldConfig(filter=FilterConfig(brake=BrakeConfig(samples=100)), policy=PolicyConfig(ramp_s=0.0))


def spec(rate: float = 15.0, chunk: int = 15, **more: Any) -> ActionSpec:
    """Absolute joint positions of a Panda, and its gripper."""
    joints = (*load("panda").joints, "gripper")
    return ActionSpec(joints, "rad", Reference.ABSOLUTE, rate, chunk, others=("gripper",), **more)


def gate(rate: float = 15.0, chunk: int = 15, config: ShieldConfig = QUICK, **more: Any) -> ChunkGate:
    """A gate for a Panda."""
    return ChunkGate(load("panda"), spec(rate, chunk), config=config, **more)


class Host:
    """Plays what a gate answers, perfectly: the arm is where the rows say.

    Attributes:
        q: where the arm is, shape (7,), rad.
        now: ns.
        answer: the last one, or None.
    """

    def __init__(self, shield: ChunkGate) -> None:
        self.gate, self.robot = shield, load("panda")
        self.row_ns = NS_PER_S / shield.spec.rate_hz
        self.q: Vector = self.robot.home.copy()
        self.now = NS_PER_S
        self.answer: GateAnswer | None = None

    def hold(self, gripper: float = 0.04) -> Vector:
        """A chunk that stays where the arm is."""
        return self.chunk(np.tile(self.q, (self.gate.spec.chunk, 1)), gripper)

    def chunk(self, rows: Vector, gripper: float = 0.04) -> Vector:
        """Rows with a gripper beside them."""
        return np.hstack((rows, np.full((len(rows), 1), gripper)))

    def smooth(self, start: Vector, step: float = 0.02) -> Vector:
        """A chunk that sets out gently from ``start`` and comes to rest again."""
        count = self.gate.spec.chunk
        swing = 0.5 * (1.0 - np.cos(np.linspace(0.0, np.pi, count + 1)[1:]))
        return self.chunk(start + step * swing[:, None] * np.array([1, -1, 1, -1, 1, 1, 1]))

    def offer(self, actions: Any, *, late: float = 0.0, q: Any = None, **more: Any) -> GateAnswer:
        """Play the rows that are due, wait ``late`` rows more, and ask again."""
        if self.answer is not None:
            self.now += round((self.gate.plays + late) * self.row_ns)
            self.q = self.answer.actions[self.gate.plays - 1, :7].copy()
        self.answer = self.gate.offer(self.q if q is None else q, actions, now=self.now, **more)
        return self.answer

    def start(self) -> None:
        """Acknowledged, and offers of standing still until the mode is NOMINAL."""
        self.gate.begin_episode("test")
        self.gate.acknowledge(operator="somebody", reason="test")
        for _ in range(40):
            self.offer(self.hold())
            if self.gate.shield.mode == 0:
                return
        raise AssertionError(f"the mode is {self.gate.shield.mode.name}")


class ServoHost(Host):
    """Plays rows with the servos of MuJoCo, linearly from row to row.

    Attributes:
        world: with its referee.
        reached: the position at the end of every call.
    """

    def __init__(self, shield: ChunkGate) -> None:
        super().__init__(shield)
        self.world = ServoWorld("panda")
        self._target: Vector = self.robot.home.copy()

    def play(self, rows: Vector, wait: float = 0.0) -> None:
        """The rows, and then ``wait`` rows of time where the last one leads."""
        steps, seq = round(self.row_ns / (DT * NS_PER_S)), 0
        for row in [*rows, *[rows[-1]] * round(wait)]:
            start = self._target.copy()
            for k in range(1, steps + 1):
                self._target = start + (row - start) * (k / steps)
                self.world.run(PositionCommand(frozen_array(self._target), 0, NS_PER_S, seq))
        self.q = self.world.state().q.copy()

    def offer(self, actions: Any, *, late: float = 0.0, q: Any = None, **more: Any) -> GateAnswer:
        """Measure, ask, and play what is answered."""
        self.now = NS_PER_S + self.world.time_ns
        self.q = self.world.state().q.copy()
        self.answer = self.gate.offer(self.q if q is None else q, actions, now=self.now, **more)
        self.play(self.answer.actions[: self.gate.plays, :7], late)
        return self.answer


Chunks = Callable[[int, Vector, RobotModel], Vector]
"""(number of the offer, where the arm is, the robot) to rows that somebody wants."""


def _far(k: int, q: Vector, robot: RobotModel, count: int = 15) -> Vector:
    rng = np.random.default_rng(k // 3)
    goal = rng.uniform(robot.limits.q_min - 0.5, robot.limits.q_max + 0.5) + 1e-6 * k  # the same bits would be refused
    return np.tile(goal, (count, 1))


def _folded(k: int, q: Vector, robot: RobotModel, count: int = 15) -> Vector:
    rng = np.random.default_rng(100 + k // 8)
    goal = rng.uniform(robot.limits.q_min, robot.limits.q_max)
    return q + (goal - q) * np.linspace(0.0, 0.6, count + 1)[1:, None]


def _jumps(k: int, q: Vector, robot: RobotModel, count: int = 15) -> Vector:
    return q + np.random.default_rng(200 + k).uniform(-1.0, 1.0, (count, robot.n))


def _nan(k: int, q: Vector, robot: RobotModel, count: int = 15) -> Vector:
    rows = _folded(k, q, robot, count)
    if k % 8 == 1:
        rows[k % count, k % 7] = np.nan
    return rows


ADVERSARIES: dict[str, Chunks] = {"far": _far, "folded": _folded, "jumps": _jumps, "nan": _nan}
"""Chunks that leave limits, collide, jump, or are no numbers."""
