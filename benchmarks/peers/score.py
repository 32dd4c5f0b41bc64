"""The common checker: every command is judged by one MuJoCo twin, none of which any contestant computes with.

A command is carried out for one period and the state that it leads to is judged. Velocity commands are taken
up at once and integrated as their libraries do, q + v dt, and judged also by the acceleration and the torque
that this takes; torque commands move the twin. What is not reached at once is judged by the stop behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import mujoco
import numpy as np

from benchmarks.peers.contestants import Quantity
from benchmarks.peers.serve import Description
from benchmarks.peers.shapes import add_mujoco_geoms
from benchmarks.peers.wire import Array
from safeguard.core.robot import RobotModel

LIMITS = ("position", "speed", "torque", "self_collision")
"""What counts as a violation. Exceeded acceleration and unavoidable violations are listed beside it."""

# Rounding of a solution that sits on its limit; rad, rad/s, N·m, m, rad/s² (1e-6 rad/s over 2 ms).
TOLERANCE: Mapping[str, float] = {
    "position": 1e-6,
    "speed": 1e-6,
    "torque": 1e-4,
    "self_collision": 1e-6,
    "acceleration": 1e-2,
    "unavoidable": 1e-4,
}

_STOP_SAMPLES = 4
_NO_CONTACT = int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
_HORIZON = 0.1  # m; clearances beyond it are reported as this much


@dataclass(frozen=True, slots=True)
class Step:
    """One period: the next state, and what it took. Shapes (n,)."""

    q: Array
    v: Array
    a: Array
    torque: Array


@dataclass(slots=True)
class Score:
    """Violations over many ticks.

    Attributes:
        ticks: judged.
        violated: of those, with any of ``LIMITS`` exceeded.
        count, worst: ticks and largest excess of every kind, in its unit.
        clearance: smallest distance between links, m, at most 0.1.
    """

    ticks: int = 0
    violated: int = 0
    count: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOLERANCE, 0))
    worst: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TOLERANCE, 0.0))
    clearance: float = 0.1

    def add(self, excess: Mapping[str, float], clearance: float) -> None:
        """Count one tick; what is not a number counts as a violation of unbounded size."""
        self.ticks += 1
        found = {kind: size if np.isfinite(size) else np.inf for kind, size in excess.items()}
        for kind, size in found.items():
            if size > TOLERANCE[kind]:
                self.count[kind] += 1
                self.worst[kind] = max(self.worst[kind], size)
        self.violated += any(found.get(kind, 0.0) > TOLERANCE[kind] for kind in LIMITS)
        self.clearance = min(self.clearance, clearance)


class Judge:
    """Moves and judges one robot.

    Args:
        robot: whose limits and twin are used.
        description: what the contestants are given of it; its pieces are what must not overlap.
    """

    def __init__(self, robot: RobotModel, description: Description) -> None:
        self._limits, self.dt = robot.limits, description.dt
        spec = robot.to_mujoco()
        for pair in list(spec.pairs):
            spec.delete(pair)
        add_mujoco_geoms(spec, description.pieces)
        for geom in (geom for body in spec.bodies for geom in body.geoms):
            geom.contype = geom.conaffinity = 0
        for i, j in description.pairs:
            a, b = description.pieces[i].name, description.pieces[j].name
            spec.add_pair(name=f"{a}|{b}", geomname1=a, geomname2=b, margin=_HORIZON, gap=_HORIZON)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        joints = [self._model.joint(name) for name in robot.joints]
        self._q = np.array([int(joint.qposadr[0]) for joint in joints])
        self._v = np.array([int(joint.dofadr[0]) for joint in joints])

    def clearance(self, q: Array) -> float:
        """Smallest distance between links, m, at most 0.1."""
        if not np.isfinite(q).all():
            return -np.inf
        self._model.opt.disableflags &= ~_NO_CONTACT
        self._data.qpos[self._q] = q
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)
        return float(self._data.contact.dist.min()) if self._data.ncon else _HORIZON

    def torque(self, q: Array, v: Array, a: Array) -> Array:
        """What the drives must give for an acceleration, shape (n,), N·m."""
        self._place(q, v)
        self._data.qacc[self._v] = a
        mujoco.mj_inverse(self._model, self._data)
        return np.array(self._data.qfrc_inverse[self._v])

    def acceleration(self, q: Array, v: Array, torque: Array) -> Array:
        """What drive torques do, shape (n,), rad/s²."""
        self._place(q, v)
        self._data.qfrc_applied[self._v] = torque
        mujoco.mj_forward(self._model, self._data)
        return np.array(self._data.qacc[self._v])

    def _place(self, q: Array, v: Array) -> None:
        """A state without contact forces: an overlap is counted, not pushed apart."""
        self._model.opt.disableflags |= _NO_CONTACT
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[self._q], self._data.qvel[self._v] = q, v

    def step(self, q: Array, v: Array, command: Array, gives: Quantity) -> Step:
        """One period under a command."""
        dt = self.dt
        if gives == "velocity":
            a = (command - v) / dt
            return Step(q + command * dt, command, a, self.torque(q, v, a))
        a = self.acceleration(q, v, command)
        return Step(q + v * dt + 0.5 * a * dt * dt, v + a * dt, a, command)

    def brake(self, q: Array, v: Array, gives: Quantity) -> Array:
        """What stands in where there is no answer: the quickest stop within acceleration and torque limits."""
        limits = self._limits
        a = np.clip(-v / self.dt, -limits.a_max, limits.a_max)
        if gives == "velocity":
            return v + a * self.dt
        held: Array = np.clip(self.torque(q, v, a), -limits.tau_max, limits.tau_max)
        return held

    def judge(self, step: Step) -> tuple[dict[str, float], float]:
        """How far every limit is exceeded at the end of a period, and the clearance there."""
        limits, clearance = self._limits, self.clearance(step.q)
        excess = {
            "position": np.maximum(step.q - limits.q_max, limits.q_min - step.q).max(),
            "speed": (np.abs(step.v) - limits.v_max).max(),
            "torque": (np.abs(step.torque) - limits.tau_max).max(),
            "acceleration": (np.abs(step.a) - limits.a_max).max(),
            "self_collision": -clearance,
        }
        return {kind: float(size) for kind, size in excess.items()}, clearance

    def unavoidable(self, step: Step) -> float:
        """How far the quickest stop from here, all joints at their acceleration limits, leaves limits or overlaps.

        Positive means that a violation can no longer be avoided by braking, whatever a filter does next.
        """
        limits = self._limits
        a = -np.sign(step.v) * limits.a_max
        rest = np.abs(step.v) / limits.a_max
        worst = -np.inf
        for share in np.arange(1, _STOP_SAMPLES + 1) / _STOP_SAMPLES:
            t = np.minimum(share * rest.max(), rest)
            q = step.q + step.v * t + 0.5 * a * t * t
            beyond = np.maximum(q - limits.q_max, limits.q_min - q).max()
            worst = max(worst, float(beyond), -self.clearance(q))
        return worst
