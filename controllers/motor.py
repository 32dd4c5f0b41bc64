"""Torque limits that fall with speed, as the QP, the backup and the stop bound need them.

The limits are data (``core/curves.py``). During the coming period a joint may be faster than now, by ``a_max dt``; the
bounds are those at the worst of these speeds, so that what they allow is allowed for the whole period.
"""

from __future__ import annotations

import numpy as np

from safeguard.core.compiled import MATRIX, OUT, VECTOR, kernel, part, types
from safeguard.core.limits import Limits
from safeguard.core.types import Vector, frozen_array


@part
def driving(speed: float, speeds: Vector, torques: Vector, j: int, most: float) -> float:
    """Largest torque of joint ``j`` in the direction of motion, N·m: its polygon, constant after the end."""
    last = speeds.shape[1] - 1
    found = torques[j, last]
    for k in range(last, 0, -1):
        if speed < speeds[j, k]:
            share = max(0.0, speed - speeds[j, k - 1]) / (speeds[j, k] - speeds[j, k - 1])
            found = torques[j, k - 1] + share * (torques[j, k] - torques[j, k - 1])
    return float(min(most, found))


@kernel(types.void, *[VECTOR] * 2, MATRIX, MATRIX, VECTOR, OUT, OUT)
def torque_bounds(
    v: Vector, change: Vector, speeds: Vector, torques: Vector, tau_max: Vector, low: Vector, high: Vector
) -> None:
    """Fill low and high: the tightest limits at any speed within ``change`` of v."""
    for j in range(len(v)):
        up, down = v[j] + change[j], change[j] - v[j]
        high[j] = driving(up, speeds, torques, j, tau_max[j]) if up > 0.0 else tau_max[j]
        low[j] = -driving(down, speeds, torques, j, tau_max[j]) if down > 0.0 else -tau_max[j]


class TorqueBounds:
    """What a share of the torque limits of ``n`` joints allows.

    Args:
        limits: with or without torque curves.
        share: of the limits and curves.
        dt: control period, s.
    """

    def __init__(self, limits: Limits, share: float, dt: float) -> None:
        self._tau_max = frozen_array(share * limits.tau_max)
        self._low = frozen_array(-self._tau_max)
        curves, self._change = limits.torque_curves, frozen_array(limits.a_max * dt)
        self._curves = None if curves is None else (curves.speeds, frozen_array(share * curves.torques))

    def __call__(self, v: Vector) -> tuple[Vector, Vector]:
        """(smallest, largest) torque for the period that begins at speed ``v``, each of shape (n,), N·m."""
        if self._curves is None:
            return self._low, self._tau_max
        low, high = np.empty(len(v)), np.empty(len(v))
        torque_bounds(v, self._change, *self._curves, self._tau_max, low, high)
        return low, high

    def along(self, v0: Vector) -> Vector:
        """Torque of either sign that is allowed at every speed up to ``|v0|``: all along a stop, shape (n,), N·m."""
        if self._curves is None:
            return self._tau_max
        low, high = np.empty(len(v0)), np.empty(len(v0))
        torque_bounds(np.zeros(len(v0)), np.abs(v0), *self._curves, self._tau_max, low, high)
        return high
