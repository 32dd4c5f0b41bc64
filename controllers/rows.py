"""Rows of joint positions: what a host that plays them itself was told, and whether it may be told them.

A host (a client of a policy server, say) takes k rows of joint positions, plays one every T seconds with position
drives, linearly from row to row, and then asks again. Point 0 of a path is where its drives were told to be when it got
the rows; row i is point i + 1, reached T (i + 1) later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from safeguard.controllers.brake import StopPlan
from safeguard.controllers.checker import Checker
from safeguard.controllers.clearance import Clearance
from safeguard.controllers.dynamics import Dynamics
from safeguard.controllers.filter import SafetyFilter
from safeguard.core.errors import ConfigError
from safeguard.core.types import NS_PER_S, Envelope, Margins, RobotState, Vector, everywhere, sealed

_ON_TIME: Final = 0.5  # rows by which a host may ask later and still count as moving on
_JITTER: Final = 0.05  # rows; nearer to a point than this is at it
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class RowPath:
    """Rows that a host was told, and the stop behind them.

    Attributes:
        q, v: the points, shape (k + 1, n), rad and rad/s; the first is where the path starts.
        t0: when the host got them, ns.
        last: the point at which the host waits for the next rows.
        stop: from point ``stop_at`` on.
        row_ns: time from point to point, ns.
    """

    q: Vector
    v: Vector
    t0: int
    last: int
    stop: StopPlan
    stop_at: int
    row_ns: float

    def point(self, now: int) -> float:
        """How many points have been passed at ``now`` ns, if the host plays them all; a clock that went back: none."""
        x = max(now - self.t0, 0) / self.row_ns
        near = float(round(x))
        return near if abs(x - near) < _JITTER else x

    def at(self, now: int) -> RobotState:
        """Where the drives are told to be at ``now`` ns; at rest once the host has waited."""
        x = self.point(now)
        if x > self.last + _ON_TIME:
            return RobotState(self.q[self.last], np.zeros_like(self.stop.v0), now)
        x = min(x, float(self.last))
        k = min(int(x), self.last - 1)
        part = x - k
        if part == 1.0:  # the very point, without rounding
            return RobotState(self.q[k + 1], self.v[k + 1], now)
        q = self.q[k] + part * (self.q[k + 1] - self.q[k])
        return RobotState(q, self.v[k] + part * (self.v[k + 1] - self.v[k]), now)

    def onward(self, now: int, count: int) -> Vector:
        """Where the path leads in 1 to ``count`` rows from ``now``: along rows, and then the stop, shape (count, n)."""
        x = self.point(now) + np.arange(1.0, count + 1.0)
        rows = self.stop.positions(np.maximum(x - self.stop_at, 0.0)[:, None] * (self.row_ns / NS_PER_S))
        early = x < self.stop_at
        k = x[early].astype(np.intp)
        rows[early] = self.q[k] + (x[early] - k)[:, None] * (self.q[k + 1] - self.q[k])
        return rows

    def as_json(self) -> dict[str, object]:
        """Everything but what the body itself says, for a record."""
        arrays = {"q": self.q, "v": self.v, "stop_q": self.stop.q0, "stop_v": self.stop.v0}
        return {**{name: array.tolist() for name, array in arrays.items()}, "t0": self.t0, "stop_at": self.stop_at}

    @classmethod
    def from_json(
        cls, given: Mapping[str, object], shape: tuple[int, int], last: int, a_brake: Vector, row_ns: float
    ) -> RowPath:
        """What ``as_json`` wrote, with points of ``shape``; raises ConfigError if it cannot be that."""
        try:
            points = [np.array(given[name], dtype=np.float64) for name in ("q", "v")]
            ends = [np.array(given[name], dtype=np.float64) for name in ("stop_q", "stop_v")]
            t0, stop_at = given["t0"], given["stop_at"]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"these are no rows that were told: {error!r}") from error
        fits = all(array.shape == shape for array in points) and all(array.shape == shape[1:] for array in ends)
        if not fits or not isinstance(t0, int) or not isinstance(stop_at, int):
            raise ConfigError(f"rows that were told need points of shape {shape}, got {[a.shape for a in points]}")
        return cls(
            sealed(points[0]), sealed(points[1]), t0, last, StopPlan(ends[0], ends[1], a_brake, 0), stop_at, row_ns
        )


class RowCheck:
    """Whether rows and the stop behind them keep the limits.

    Args:
        checked: has the figures (margins, braking) that motion is planned with.
        row: time from row to row, s.
    """

    def __init__(self, checked: SafetyFilter, row: float) -> None:
        robot, self._row, self._figures = checked.robot, row, checked.figures
        self._limits, self._joints = robot.limits, robot.joints
        self._clearance = Clearance(robot, checked.config.clearance, self._figures.tube)
        self._reach = np.ascontiguousarray(robot.collision.reach.T)
        self._checker = Checker(robot.limits, robot.joints, checked.a_brake, checked.dt)
        self._dynamics = Dynamics(robot)
        self._a_brake, self._beyond = checked.a_brake, 0.5 * checked.config.margins.position_rad

    def reset(self) -> None:
        """Forget where searches ended."""
        self._clearance.reset()

    def plan_refusal(self, q: Vector, v0: Vector, envelope: Envelope) -> str:
        """Why points of shape (k + 1, n), begun at speed ``v0``, are not to be told as they are, or "".

        Positions within what motion is planned in, speeds and accelerations within their shares of the limits (slowing
        down may take all of it), torques of the motion, and clearance between the points.
        """
        made, limits = self._figures, self._limits
        speed, gain = self._differences(q, v0)
        if refusal := self._first(~(q[1:] >= made.q_min), "position", q[1:]):
            return refusal
        if refusal := self._first(~(q[1:] <= made.q_max), "position", q[1:]):
            return refusal
        if refusal := self._first(~(np.abs(speed) <= envelope.velocity * made.v_max + _ROUNDING), "speed", speed):
            return refusal
        slower = gain * np.vstack((v0, speed[:-1])) < 0.0
        most = np.where(slower, limits.a_max, envelope.acceleration * limits.a_max)
        if refusal := self._first(~(np.abs(gain) <= most + _ROUNDING), "acceleration", gain):
            return refusal
        if refusal := self._curve_refusal(q, speed):
            return refusal
        tau = self._dynamics.torques_along(q[:-1], speed, gain)
        return self._checker.torque_refusal(tau, v=speed) or self.way_refusal(q)

    def told_refusal(self, q: Vector, v0: Vector) -> str:
        """As ``plan_refusal`` for what comes of the filter: against the limits themselves, and no worse than before.

        Braking may take all the acceleration there is, and where the start is beyond a limit rows lead back.
        """
        limits = self._limits
        speed, gain = self._differences(q, v0)
        low, high = np.minimum(limits.q_min, q[0]) - _ROUNDING, np.maximum(limits.q_max, q[0]) + _ROUNDING
        if refusal := self._first(~((q >= low) & (q <= high)), "position", q):
            return refusal
        fast = np.maximum(limits.v_max, np.abs(v0)) * (1.0 + _ROUNDING)
        if refusal := self._first(~(np.abs(speed) <= fast), "speed", speed):
            return refusal
        if refusal := self._first(~(np.abs(gain) <= limits.a_max * (1.0 + 1e-6) + 1e-6), "acceleration", gain):
            return refusal
        return self.way_refusal(q)

    def stop_refusal(self, q: Vector, v: Vector) -> str:
        """Why the stop from (q, v) is not a verified one, or "": where it ends, its torques, its clearance."""
        limits, made = self._limits, self._figures
        plan = StopPlan(q, v, self._a_brake, 0)
        if not v.any():
            return self.way_refusal(np.stack((q, q)))
        end = plan.positions(plan.durations.max()[None, None])[0]
        low, high = np.minimum(made.q_min - self._beyond, q), np.maximum(made.q_max + self._beyond, q)
        low, high = np.maximum(low, np.minimum(limits.q_min, q)), np.minimum(high, np.maximum(limits.q_max, q))
        if refusal := self._first(~((end >= low) & (end <= high))[None], "end of the stop", end[None]):
            return refusal
        if limits.velocity_curves is not None and (
            refusal := self._checker.motion_refusal(q, v, np.maximum(np.minimum(-v, self._a_brake), -self._a_brake))
        ):
            return refusal
        corners = plan.corners()
        refusal = self._checker.torque_refusal(self._dynamics.torques_along(*corners), v=corners[1])
        if refusal:
            return refusal
        now = self._clearance.measure(q)
        return self._clearance.stop_refusal(now, self._clearance.measure(end), plan)

    def way_refusal(self, q: Vector) -> str:
        """Why the way along points of shape (k + 1, n) may not stay clear, or "".

        No distance changes by more than reach · way, which proves most of a chunk from few measurements. Where it does
        not, the piece from point to point is proved as a stop is: one whose joints all come to rest together runs
        along a straight line.
        """
        clearance, k, last = self._clearance, 0, len(q) - 1
        clearance.reset()
        ways = np.zeros(q.shape)
        np.cumsum(np.abs(q[1:] - q[:-1]), axis=0, out=ways[1:])
        now = clearance.measure(q[0])
        while k < last:
            room = now.d - clearance.floors[0]
            proved = ((ways[k + 1 :] - ways[k]) @ self._reach <= room).all(axis=1)
            far = int(np.argmin(proved)) if not everywhere(proved) else last - k
            if far == 0:
                refusal = clearance.stop_refusal(now, clearance.measure(q[k + 1]), _straight(q[k], q[k + 1]))
                if refusal:
                    return refusal.removeprefix("stop of ")
            k += max(far, 1)
            if k < last:
                now = clearance.measure(q[k])
        return ""

    def margins(self, q: Vector, v0: Vector) -> tuple[Margins, Vector]:
        """Least distances to the limits along points of shape (k + 1, n), and the torques that they need, (k, n)."""
        limits, (speed, gain) = self._limits, self._differences(q, v0)
        tau = self._dynamics.torques_along(q[:-1], speed, gain)
        nearest, clearance = self._clearance.nearest(self._clearance.measure(q[0]))
        margins = Margins(
            float(np.minimum(q[1:] - limits.q_min, limits.q_max - q[1:]).min()),
            float((limits.v_max - np.abs(speed)).min()),
            float((limits.tau_max - np.abs(tau)).min()),
            clearance,
            nearest,
        )
        return margins, tau

    def _differences(self, q: Vector, v0: Vector) -> tuple[Vector, Vector]:
        """Speeds between the points and accelerations at all but the last, rad/s and rad/s², each (k, n)."""
        speed = (q[1:] - q[:-1]) / self._row
        gain = np.empty_like(speed)
        np.subtract(speed[0], v0, out=gain[0])
        np.subtract(speed[1:], speed[:-1], out=gain[1:])
        return speed, gain / self._row

    def _curve_refusal(self, q: Vector, speed: Vector) -> str:
        """Speeds under the velocity curves of the robot, if it has any, at both ends of every piece."""
        curves = self._limits.velocity_curves
        if curves is None:
            return ""
        high, low = curves.upper(q), curves.lower(q)
        over = speed > np.minimum(high[1:], high[:-1]) + _ROUNDING
        under = speed < np.maximum(low[1:], low[:-1]) - _ROUNDING
        return self._first(over | under, "speed, by its curve,", speed)

    def _first(self, wrong: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], what: str, values: Vector) -> str:
        """Names the first place where ``wrong`` holds, or ""."""
        if everywhere(~wrong):
            return ""
        row, joint = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        return f"{self._joints[joint]}: {what} {values[row, joint]:.5g} at row {row}"


def _straight(a: Vector, b: Vector) -> StopPlan:
    """A stop that runs along the straight line from ``a`` to ``b``: all joints come to rest after one second."""
    v = 2.0 * (b - a)
    return StopPlan(a, v, sealed(np.where(v == 0.0, 1.0, np.abs(v))), 0)
