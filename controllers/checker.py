"""The final checker: recomputes what a motion does in plain numpy, from the raw limits, and says why not.

It shares no bound with the QP: the QP works on tightened bounds, the checker on the limits themselves.
A state that is already outside a limit may not be made worse than full braking makes it.
"""

from __future__ import annotations

import numpy as np

from safeguard.controllers.viability import braking_point
from safeguard.core.curves import TorqueCurves, VelocityCurves
from safeguard.core.limits import Limits
from safeguard.core.types import Vector, everywhere

_ROUNDING = 1e-9
_QUANTITIES = ("speed", "acceleration", "upper stop", "lower stop")
_CURVES = ("upper velocity curve", "lower velocity curve")


class Checker:
    """Checks motions and torques of a robot against its limits.

    Args:
        limits: the robot's own, untightened, with its curves if it has any.
        joints: names, for the reasons.
        a_brake: braking deceleration, shape (n,), rad/s².
        dt: control period, s.
    """

    def __init__(self, limits: Limits, joints: tuple[str, ...], a_brake: Vector, dt: float) -> None:
        self._limits, self._joints, self._a_brake, self._dt = limits, joints, a_brake, dt
        self._most = np.array((limits.v_max, limits.a_max, limits.q_max, -limits.q_min)) + _ROUNDING
        self._period, self._half = np.full(len(joints), dt), np.full(len(joints), 0.5 * dt)
        self._twice_brake = 2.0 * a_brake
        self._value = np.empty((4, len(joints)))
        self._rows = tuple(self._value)

    def speeds(self, v: Vector, a: Vector) -> Vector | None:
        """The speeds between which a command acts, where torque limits depend on them, shape (2, n), rad/s."""
        return None if self._limits.torque_curves is None else np.stack((v, v + a * self._dt))

    def motion_refusal(self, q: Vector, v: Vector, a: Vector) -> str:
        """Why acceleration ``a`` held for one period from (q, v) breaks a limit, or "".

        Speed and acceleration after the period, and where the stop from there ends; with velocity curves, its speed
        all the way.
        """
        refusal, curves = self._limit_refusal(q, v, a), self._limits.velocity_curves
        return refusal if refusal or curves is None else self._curve_refusal(curves, q, v, a)

    def _limit_refusal(self, q: Vector, v: Vector, a: Vector) -> str:
        value = self._consequences(q, v, a)
        if everywhere(value <= self._most):  # False for NaN
            return ""
        value = value.copy()
        braked = self._consequences(q, v, braking_point(v, self._a_brake, self._dt))
        most = np.maximum(self._most, braked + _ROUNDING)
        within = value <= most
        if within.all():
            return ""
        k, j = np.unravel_index(int(np.argmin(within)), within.shape)
        return f"{self._joints[j]}: {_QUANTITIES[k]} {value[k, j]:.5g}, limit {most[k, j]:.5g}"

    def _curve_refusal(self, curves: VelocityCurves, q: Vector, v: Vector, a: Vector) -> str:
        """The same for the velocity curves: at the end of the period and all along the stop from there."""
        passed = self._passed(curves, q, v, a)
        if (passed <= _ROUNDING).all():  # False for NaN
            return ""
        braked = self._passed(curves, q, v, braking_point(v, self._a_brake, self._dt))
        within = passed <= np.maximum(braked, 0.0) + _ROUNDING
        if within.all():
            return ""
        k, j = np.unravel_index(int(np.argmin(within)), within.shape)
        return f"{self._joints[j]}: {_CURVES[k]} passed by {passed[k, j]:.3g} rad/s, now or on the stop"

    def _passed(self, curves: VelocityCurves, q: Vector, v: Vector, a: Vector) -> Vector:
        """How much faster than a stop must be that stays under the curves, toward either edge, shape (2, n), rad/s.

        Over the distance x to an edge the square of the curve is convex and that of the stop's speed a line of slope
        2 a_b. Where the curve is no steeper at its start, being under it there is enough; beyond, the line must be
        under the tangent of its own slope, which reaches zero at x = b² / (k − 2 a_b).
        """
        v_next = v + a * self._dt
        q_next = q + (0.5 * self._dt) * (v + v_next)
        slope, offset, steeper = curves.slope, curves.offset, curves.slope - 2.0 * self._a_brake
        tangent_end = offset**2 / np.where(steeper > 0.0, steeper, np.inf)
        passed = [v_next - curves.upper(q_next), curves.lower(q_next) - v_next]
        rooms = (curves.upper_edge - q_next, q_next - curves.lower_edge)
        for side, (speed, room) in enumerate(zip((v_next, -v_next), rooms, strict=True)):
            beyond = np.sqrt(np.maximum(slope * room, 0.0)) * steeper > slope * offset
            tangent = np.sqrt(np.maximum(2.0 * self._a_brake * (room - tangent_end), 0.0))
            passed[side] = np.where(beyond, np.maximum(passed[side], speed - tangent), passed[side])
        return np.array(passed)

    def _consequences(self, q: Vector, v: Vector, a: Vector) -> Vector:
        """Speed after the period, acceleration, where the stop ends, both ways; shape (4, n), until the next call."""
        speed, size, end, below = self._rows
        v_next = v + a * self._period
        np.abs(v_next, speed)
        np.abs(a, size)
        np.add(q + self._half * (v + v_next), v_next * speed / self._twice_brake, end)
        np.negative(end, below)
        return self._value

    def torque_refusal(self, tau: Vector, share: float | Vector | None = None, v: Vector | None = None) -> str:
        """Why torques of shape (n,) or (k, n) exceed ``share`` of the torque limits, or "".

        Args:
            tau: N·m.
            share: of the limits, a number or one a joint; all of them if there is none.
            v: the speeds at which the torques act, of the same shape or (k, n) for one torque at several speeds, rad/s.
                Limits that depend on speed are those of infinite speed without them.
        """
        curves, tau_max = self._limits.torque_curves, self._limits.tau_max
        if curves is not None:
            v = np.full(len(tau_max), np.inf) if v is None else v
            return self._curved_torque_refusal(curves, tau, 1.0 if share is None else share, v)
        size, limit = np.abs(tau), tau_max if share is None else share * tau_max
        within = size <= limit  # False for NaN
        if everywhere(within):
            return ""
        worst = size.reshape(-1, len(self._joints)).max(axis=0)
        j = int(np.argmax(~within.reshape(-1, len(self._joints)).all(axis=0)))
        return f"{self._joints[j]}: torque {worst[j]:.5g} N·m, limit {limit[j]:.5g}"

    def _curved_torque_refusal(self, curves: TorqueCurves, tau: Vector, share: float | Vector, v: Vector) -> str:
        """In the direction of motion the curve counts, against it ``tau_max``; at infinite speed both ways."""
        tau, v = np.broadcast_arrays(tau, v)
        tau, v = tau.reshape(-1, len(self._joints)), v.reshape(-1, len(self._joints))
        columns: list[Vector] = [
            np.interp(speed, x, y) for speed, x, y in zip(np.abs(v).T, curves.speeds, curves.torques, strict=True)
        ]
        driving = (np.sign(tau) * np.sign(v) > 0.0) | np.isinf(v)
        tau_max = self._limits.tau_max
        limit = share * np.where(driving, np.minimum(np.column_stack(columns), tau_max), tau_max)
        within = (np.abs(tau) <= limit) & ~np.isnan(v)  # False for NaN
        if within.all():
            return ""
        k, j = np.unravel_index(int(np.argmin(within)), within.shape)
        return f"{self._joints[j]}: torque {abs(tau[k, j]):.5g} N·m at {v[k, j]:.4g} rad/s, limit {limit[k, j]:.5g}"
