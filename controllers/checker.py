"""The final checker: recomputes what a motion does in plain numpy, from the raw limits, and says why not.

It shares no bound with the QP: the QP works on tightened bounds, the checker on the limits themselves.
A state that is already outside a limit may not be made worse than full braking makes it.
"""

from __future__ import annotations

import numpy as np

from safeguard.controllers.viability import braking_point, stop_position
from safeguard.core.limits import Limits
from safeguard.core.types import Vector

_ROUNDING = 1e-9
_QUANTITIES = ("speed", "acceleration", "upper stop", "lower stop")


class Checker:
    """Checks motions and torques of a robot against its limits.

    Args:
        limits: the robot's own, untightened.
        joints: names, for the reasons.
        a_brake: braking deceleration, shape (n,), rad/s².
        dt: control period, s.
    """

    def __init__(self, limits: Limits, joints: tuple[str, ...], a_brake: Vector, dt: float) -> None:
        self._limits, self._joints, self._a_brake, self._dt = limits, joints, a_brake, dt
        self._most = np.array((limits.v_max, limits.a_max, limits.q_max, -limits.q_min)) + _ROUNDING

    def motion_refusal(self, q: Vector, v: Vector, a: Vector) -> str:
        """Why acceleration ``a`` held for one period from (q, v) breaks a limit, or "".

        Speed and acceleration after the period, and where the stop from there ends.
        """
        value = self._consequences(q, v, a)
        if (value <= self._most).all():  # False for NaN
            return ""
        braked = self._consequences(q, v, braking_point(v, self._a_brake, self._dt))
        most = np.maximum(self._most, braked + _ROUNDING)
        within = value <= most
        if within.all():
            return ""
        k, j = np.unravel_index(int(np.argmin(within)), within.shape)
        return f"{self._joints[j]}: {_QUANTITIES[k]} {value[k, j]:.5g}, limit {most[k, j]:.5g}"

    def _consequences(self, q: Vector, v: Vector, a: Vector) -> Vector:
        """Speed after the period, acceleration, and where the stop ends, both ways, shape (4, n)."""
        v_next, value = v + a * self._dt, np.empty((4, len(q)))
        np.abs(v_next, out=value[0])
        np.abs(a, out=value[1])
        value[2] = stop_position(q + (0.5 * self._dt) * (v + v_next), v_next, self._a_brake)
        np.negative(value[2], out=value[3])
        return value

    def torque_refusal(self, tau: Vector, share: float | Vector = 1.0) -> str:
        """Why torques of shape (n,) or (k, n) exceed ``share`` of the torque limits, a number or one a joint, or ""."""
        size, limit = np.abs(tau), share * self._limits.tau_max
        within = size <= limit  # False for NaN
        if within.all():
            return ""
        worst = size.reshape(-1, len(self._joints)).max(axis=0)
        j = int(np.argmax(~within.reshape(-1, len(self._joints)).all(axis=0)))
        return f"{self._joints[j]}: torque {worst[j]:.5g} N·m, limit {limit[j]:.5g}"
