"""The recorded inputs: states along a real filtered run, and what was proposed in each of them.

Every kind of proposal is a sequence of joint-space targets that a saturated proportional law heads for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path

import numpy as np

from benchmarks.peers.contestants import Quantity
from benchmarks.peers.score import Judge
from benchmarks.peers.wire import Array
from safeguard.controllers import SafetyFilter
from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S, RobotState

BLOCK = 100  # ticks that a filter answers in turn

_GAIN = 10.0  # 1/s, of the law that heads for a target
_FASTEST = 1.2  # of the speed limits: proposals exceed them
_SERVO = 50.0  # 1/s, with which an acceleration stands for a velocity
_TRIES = 20_000


class Kind(Enum):
    """Where proposals lead."""

    CALM = "calm"  # slow motion around home; a filter should leave it alone
    RANDOM = "random"  # targets in a box wider than the limits
    LIMITS = "limits"  # up to three joints beyond their limits
    COLLISION = "collision"  # inside the limits, links overlap
    JUMPS = "jumps"  # a new target every 80 ms


@dataclass(frozen=True, slots=True)
class Inputs:
    """Recorded ticks, kind after kind, each from rest at home.

    Attributes:
        kind: index into ``Kind`` of every tick, shape (T,).
        target: rad. q, v: state. velocity, acceleration, torque: the proposal at each level. Shape (T, n).
    """

    kind: Array
    target: Array
    q: Array
    v: Array
    velocity: Array
    acceleration: Array
    torque: Array

    def action(self, takes: Quantity) -> Array:
        """The proposals as one quantity, shape (T, n)."""
        return {"velocity": self.velocity, "acceleration": self.acceleration, "torque": self.torque}[takes]

    def save(self, path: Path) -> None:
        """Write the arrays to an ``.npz`` file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def read(cls, path: Path) -> Inputs:
        """The inputs in a file."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def digest(self) -> str:
        """SHA-256 over the arrays."""
        digest = hashlib.sha256()
        for field in fields(self):
            digest.update(np.ascontiguousarray(getattr(self, field.name)).tobytes())
        return digest.hexdigest()


def record(robot: RobotModel, judge: Judge, ticks: int, seed: int, dt: float) -> Inputs:
    """``ticks`` of every kind along runs behind this repository's filter."""
    chosen = [targets(robot, judge, kind, ticks, seed, dt) for kind in Kind]
    runs = [_run(robot, judge, kind, wanted, dt) for kind, wanted in zip(Kind, chosen, strict=True)]
    return Inputs(
        np.repeat(np.arange(len(Kind), dtype=np.float64), ticks),
        np.concatenate(chosen),
        *(np.concatenate(columns) for columns in zip(*runs, strict=True)),
    )


def targets(robot: RobotModel, judge: Judge, kind: Kind, ticks: int, seed: int, dt: float) -> Array:
    """The targets of one kind, shape (ticks, n), rad."""
    rng = np.random.default_rng([seed, list(Kind).index(kind)])
    low, high = robot.limits.q_min, robot.limits.q_max
    if kind is Kind.CALM:
        t = dt * np.arange(ticks)[:, None]
        swing = 0.1 * np.sin(1.5 * t + 0.7 * np.arange(robot.n)) * (1.0 - np.exp(-2.0 * t)) ** 2
        calm: Array = robot.home + np.clip(swing, low - robot.home, high - robot.home)
        return calm
    dwell = 0.08 if kind is Kind.JUMPS else 0.6  # s
    count = int(np.ceil(ticks * dt / dwell))
    draws = np.array([_draw(robot, judge, kind, rng) for _ in range(count)])
    drawn: Array = np.repeat(draws, int(np.ceil(dwell / dt)), axis=0)[:ticks]
    return drawn


def proposed_velocity(robot: RobotModel, q: Array, target: Array) -> Array:
    """The saturated proportional law, rad/s."""
    fastest = _FASTEST * robot.limits.v_max
    wanted: Array = np.clip(_GAIN * (target - q), -fastest, fastest)
    return wanted


def propose(robot: RobotModel, judge: Judge, takes: Quantity, q: Array, v: Array, target: Array) -> Array:
    """The proposal in one state at one level, shape (n,): a velocity, or what a fixed servo makes of it."""
    velocity = proposed_velocity(robot, q, target)
    if takes == "velocity":
        return velocity
    acceleration = _SERVO * (velocity - v)
    return acceleration if takes == "acceleration" else judge.torque(q, v, acceleration)


def _run(
    robot: RobotModel, judge: Judge, kind: Kind, wanted: Array, dt: float
) -> tuple[Array, Array, Array, Array, Array]:
    """Follow the targets behind the filter; states and proposals of every tick."""
    safety_filter, period = SafetyFilter(robot, dt), round(dt * NS_PER_S)
    q, v = np.array(robot.home), np.zeros(robot.n)
    rows: list[tuple[Array, ...]] = []
    for k, target in enumerate(wanted):
        velocity, acceleration, torque = (
            propose(robot, judge, takes, q, v, target) for takes in ("velocity", "acceleration", "torque")
        )
        rows.append((q, v, velocity, acceleration, torque))
        a = safety_filter(RobotState(q, v, k * period), velocity=velocity).acceleration
        q, v = q + v * dt + 0.5 * a * dt * dt, v + a * dt
    columns = tuple(np.array(column) for column in zip(*rows, strict=True))
    return columns[0], columns[1], columns[2], columns[3], columns[4]


def _draw(robot: RobotModel, judge: Judge, kind: Kind, rng: np.random.Generator) -> Array:
    low, high, home = robot.limits.q_min, robot.limits.q_max, robot.home
    match kind:
        case Kind.LIMITS:
            q = np.clip(home + rng.uniform(-0.6, 0.6, robot.n), low, high)
            joints = rng.choice(robot.n, size=int(rng.integers(1, 4)), replace=False)
            up, far = rng.random(len(joints)) < 0.5, rng.uniform(0.1, 0.6, len(joints))
            q[joints] = np.where(up, high[joints] + far, low[joints] - far)
            return q
        case Kind.COLLISION:
            for _ in range(_TRIES):
                q = rng.uniform(low, high)
                if judge.clearance(q) < 0.0:
                    return q
            raise ValueError(f"no configuration of {robot.name} with overlapping links in {_TRIES} draws")
        case _:
            wider = 0.0 if kind is Kind.JUMPS else 0.2 * (high - low)
            return rng.uniform(low - wider, high + wider)
