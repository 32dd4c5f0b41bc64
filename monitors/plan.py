"""Sanity of a chunk of joint motion: jumps, curvature, reversals.

The bounds are far beyond what the robot could follow, so they need no calibration: a chunk that breaks one is no
plan. The filter keeps the limits whatever the plan is; this says that the policy is at fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from safeguard.core.config import PlanConfig
from safeguard.core.enums import Cause, Reference
from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.types import NS_PER_S, ActionSpec, Indices, Proposal, RobotState, Vector, Verdict, frozen_array
from safeguard.monitors.motion import is_joint_motion
from safeguard.monitors.verdicts import passed, unproven, warned

Verdicts: TypeAlias = tuple[Verdict, ...]

_JUMP: Final = passed("plan.jump")
_NO_START: Final = unproven("plan.jump", "the way to the first row was not looked at: nothing says where it starts")
_SET_POINT: Final = unproven("plan.jump", "a single row is a set point, which may be far away, and no plan")

_PLACES: Final = (Reference.ABSOLUTE, Reference.PD_TARGET, Reference.CHUNK_RELATIVE)
"""References whose rows are places; the others' rows are steps."""


class PlanSanity:
    """MONITOR_WARN while the newest chunk jumps, bends or turns back as no working policy's does.

    Args:
        spec: of the policy. Joint positions (absolute, relative to the start of the chunk, or as targets of a drive),
            increments and velocities are evaluated; for anything else the one verdict is UNPROVEN and says so.
        joints: names of the robot's joints, in the order of the limits; columns are bound by name.
        v_max, a_max: of every joint, shape (n,), rad/s and rad/s² (m/s and m/s²).
        config: the bounds, as multiples of those limits.

    Raises:
        SpecError: the policy moves joints that the robot does not have, or not all of them.
        ConfigError: not one positive limit for every joint.
    """

    def __init__(
        self,
        spec: ActionSpec,
        joints: Sequence[str],
        v_max: ArrayLike,
        a_max: ArrayLike,
        config: PlanConfig | None = None,
    ) -> None:
        config = config or PlanConfig()
        self._spec, self._joints, self._config = spec, tuple(joints), config
        self._evaluated = is_joint_motion(spec)
        if self._evaluated:
            self._columns = _columns(spec, self._joints)
        self._unit = spec.units[0].removesuffix("/s")
        row = 1.0 / spec.rate_hz
        self._row_ns = NS_PER_S * row
        self._reach = row * _positive("v_max", v_max, self._joints)  # at the speed limit, in one row's time
        self._jump = config.jump_factor * self._reach
        self._bend = config.curvature_factor * row * row * _positive("a_max", a_max, self._joints)
        self._band = config.dead_band * self._reach
        self._smooth, self._steady = self._short(spec.chunk - (spec.reference in _PLACES))
        self.reset()

    def _short(self, steps: int) -> tuple[Verdict, Verdict]:
        """Verdicts on chunks without curvature and reversals; too few ``steps`` prove nothing."""
        smooth, steady = passed("plan.curvature"), passed("plan.reversals")
        if steps < 2:
            smooth = unproven("plan.curvature", f"a chunk of {self._spec.chunk} rows has no curvature")
        if steps - 1 <= self._config.reversals:
            detail = (
                f"no more than {max(steps - 1, 0)} reversals fit into a chunk, {self._config.reversals} are allowed"
            )
            steady = unproven("plan.reversals", detail)
        return smooth, steady

    def reset(self) -> None:
        """Start a new episode."""
        if self._evaluated:
            detail = "no chunk yet"
        else:
            detail = f"not evaluated for {self._spec.reference.value} actions in {self._spec.unit!r}"
        self._standing: Verdicts = (unproven("plan", detail),)

    def check(self, arrived: Proposal | None, state: RobotState | None) -> Verdicts:
        """The verdicts on the newest chunk; they stand until the next one arrives.

        Args:
            arrived: the proposal that arrived in this tick, whatever intake says of it, or None.
            state: where the joints are now, if it can be trusted.
        """
        if arrived is not None and self._evaluated:
            self._standing = self._judged(arrived, state)
        return self._standing

    def _judged(self, chunk: Proposal, state: RobotState | None) -> Verdicts:
        expected = (self._spec.chunk, len(self._joints))
        if chunk.actions.shape != expected:
            detail = f"not evaluated: actions have shape {chunk.actions.shape}, expected {expected}"
            return (unproven("plan", detail),)
        if not np.isfinite(chunk.actions).all():
            return (unproven("plan", "not evaluated: a number of the actions is not finite"),)
        rows = chunk.actions[:, self._columns]
        with np.errstate(over="ignore", invalid="ignore"):  # differences may overflow, and are then no plan
            steps = self._steps(rows)
            return (self._jumps(rows, steps, chunk.t_obs, state), self._curvature(steps), self._reversals(steps))

    def _steps(self, rows: Vector) -> Vector:
        """How far the rows move each joint, step by step, shape (m, n), rad or m."""
        if self._spec.reference in _PLACES:
            return rows[1:] - rows[:-1]
        return rows * (self._row_ns / NS_PER_S) if self._spec.reference is Reference.VELOCITY else rows

    def _jumps(self, rows: Vector, steps: Vector, t_obs: int, state: RobotState | None) -> Verdict:
        """|step| ≤ factor · v_max · T; so is the way to the first row, where rows say where the joints are to be.

        That way has more room where the row is further than T from the state in time. Targets of a drive may lead the
        joints by design, so theirs is not looked at; nor is the way to a single row, a set point and no plan.
        """
        start, span, good = self._start(rows, t_obs, state)
        if start is None:
            sizes, bounds = np.abs(steps), self._jump[None, :].repeat(len(steps), axis=0)
        else:
            sizes = np.abs(np.concatenate((start[None, :], steps)))
            bounds = self._jump[None, :].repeat(len(sizes), axis=0)
            bounds[0] *= span
        if (sizes <= bounds).all():
            return good
        k, joint = _worst(sizes / bounds)
        row, size, bound = k + self._spec.chunk - len(sizes), float(sizes[k, joint]), float(bounds[k, joint])
        detail = f"{self._joints[joint]} is to move {size:g} {self._unit} to row {row}, limit {bound:g} {self._unit}"
        return warned("plan.jump", Cause.MONITOR_WARN, detail, size, bound)

    def _start(self, rows: Vector, t_obs: int, state: RobotState | None) -> tuple[Vector | None, float, Verdict]:
        """(way to the first row, its time in row periods, verdict if all is well)."""
        if self._spec.reference is Reference.CHUNK_RELATIVE:
            return rows[0], 1.0, _JUMP
        if self._spec.chunk == 1 and self._spec.reference in _PLACES:
            return None, 1.0, _SET_POINT
        if self._spec.reference is not Reference.ABSOLUTE:
            return None, 1.0, _JUMP
        if state is None or state.q.shape != rows[0].shape or not np.isfinite(state.q).all():
            return None, 1.0, _NO_START
        return rows[0] - state.q, max(abs(t_obs - state.t + self._row_ns) / self._row_ns, 1.0), _JUMP

    def _curvature(self, steps: Vector) -> Verdict:
        """|difference of neighbouring steps| ≤ factor · a_max · T²."""
        bends = np.abs(steps[1:] - steps[:-1])
        if (bends <= self._bend).all():
            return self._smooth
        k, joint = _worst(bends / self._bend)
        row, size, bound = k + self._spec.chunk - len(bends) - 1, float(bends[k, joint]), float(self._bend[joint])
        detail = (
            f"the steps of {self._joints[joint]} differ by {size:g} {self._unit} at row {row},"
            f" limit {bound:g} {self._unit}"
        )
        return warned("plan.curvature", Cause.MONITOR_WARN, detail, size, bound)

    def _reversals(self, steps: Vector) -> Verdict:
        """Changes of sign between one step and the next that is no standing still."""
        signs, allowed = np.sign(steps), self._config.reversals
        if (np.count_nonzero(signs[1:] != signs[:-1], axis=0) <= allowed).all():
            return self._steady  # leaving out what stands still makes no more of them
        moving = np.abs(steps) > self._band
        changes = [_changes(signs[moving[:, joint], joint]) for joint in range(len(self._joints))]
        most = max(changes)
        if most <= allowed:
            return self._steady
        joint = self._joints[changes.index(most)]
        detail = f"{joint} turns back {most} times in {self._spec.chunk} rows, limit {allowed}"
        return warned("plan.reversals", Cause.MONITOR_WARN, detail, float(most), float(allowed))


def _changes(signs: Vector) -> int:
    return int(np.count_nonzero(signs[1:] != signs[:-1]))


def _worst(ratios: Vector) -> tuple[int, int]:
    """Row and column of the largest ratio; one that is no number is worse than any."""
    k, joint = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
    return int(k), int(joint)


def _columns(spec: ActionSpec, joints: tuple[str, ...]) -> Indices:
    if set(spec.joints) != set(joints):
        odd = ", ".join(sorted(set(spec.joints) ^ set(joints)))
        raise SpecError(f"PlanSanity: policy and robot joints differ: {odd}; name every joint, nothing is padded")
    return np.array([spec.joints.index(joint) for joint in joints], dtype=np.intp)


def _positive(name: str, values: ArrayLike, joints: tuple[str, ...]) -> Vector:
    limits = frozen_array(values)
    if limits.shape != (len(joints),) or not (limits > 0.0).all():
        raise ConfigError(f"PlanSanity needs one positive {name} for each of {joints}, got {values!r}")
    return limits
