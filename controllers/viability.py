"""Discrete-time viability of position, velocity and acceleration, joint by joint.

A state is viable if braking with the deceleration ``a_b`` keeps the joint inside its limits:

    q + v² / (2 a_b) ≤ q_max   for v > 0, mirrored for v < 0.

``JointBounds`` gives the interval of accelerations that, held for one period ``dt``, keep every joint viable
at the end of the period and inside its limits during it (A. Del Prete, "Joint position and velocity bounds
in discrete-time acceleration/torque control of robot manipulators", IEEE RA-L 2018).
"""

from __future__ import annotations

import numpy as np

from safeguard.core.types import Vector


def braking_point(v: Vector, a_brake: Vector, dt: float) -> Vector:
    """The acceleration that brakes as hard as ``a_brake`` allows without reversing within ``dt``, rad/s²."""
    return np.minimum(np.maximum(v * (-1.0 / dt), -a_brake), a_brake)


def stop_position(q: Vector, v: Vector, a_brake: Vector) -> Vector:
    """Where braking with ``a_brake`` from (q, v) comes to rest: q + v |v| / (2 a_b), rad."""
    return q + v * np.abs(v) / (2.0 * a_brake)


def largest_acceleration(room: Vector, v: Vector, a_brake: Vector, dt: float) -> Vector:
    """Largest acceleration after which a joint can still stop within ``room``, rad/s².

    With w = v + a dt ≥ 0 the stop ends at (v + w) dt/2 + w²/(2 a_b); setting it equal to ``room`` gives
    w = (−a_b dt + √(a_b² dt² − 4 c)) / 2 with c = a_b (v dt − 2 room). If even w = 0 ends beyond ``room`` (c > 0) the
    joint must turn round inside the period, and its vertex v²/(2|a|) is held within ``room``; a joint that moves
    inwards must end within ``room``. Without any such acceleration the result is −∞.
    """
    b = a_brake * dt
    c = a_brake * (v * dt - 2.0 * room)
    bound = ((np.sqrt(np.maximum(b * b - 4.0 * c, 0.0)) - b) * 0.5 - v) / dt
    if c.max() > 0.0:
        inside = np.where(room > 0.0, room, 1.0)
        turning = np.where(room > 0.0, -v * v / (2.0 * inside), -np.inf)
        bound = np.where(c <= 0.0, bound, np.where(v > 0.0, turning, (2.0 * room / dt - 2.0 * v) / dt))
    return bound


class JointBounds:
    """Interval of viable accelerations of ``n`` joints.

    Args:
        q_min, q_max: position limits, shape (n,), rad.
        v_max, a_max: speed and acceleration limits, shape (n,), rad/s and rad/s².
        a_plan: deceleration that stops are planned with, below the one they are verified with, shape (n,), rad/s².
        dt: control period, s.
    """

    def __init__(self, q_min: Vector, q_max: Vector, v_max: Vector, a_max: Vector, a_plan: Vector, dt: float) -> None:
        # Both sides of every joint at once: the lower one is the upper one of the mirrored joint.
        self._n, self._dt = len(q_min), dt
        self._edge = np.concatenate((q_max, -q_min))
        self._v_max, self._a_max, self._a_plan = (np.concatenate((x, x)) for x in (v_max, a_max, a_plan))

    def __call__(
        self, q: Vector, v: Vector, brake: Vector, velocity: float = 1.0, acceleration: float = 1.0
    ) -> tuple[Vector, Vector]:
        """(lower, upper) acceleration bounds, each of shape (n,), rad/s², widened to contain ``brake``.

        ``velocity`` and ``acceleration`` are shares of the limits. States outside the viable set get the
        interval that is closest to full braking instead of none.
        """
        n, dt, both = self._n, self._dt, np.concatenate((v, -v))
        bound = np.minimum(acceleration * self._a_max, (velocity * self._v_max - both) / dt)
        room = self._edge - np.concatenate((q, -q))
        bound = np.minimum(bound, largest_acceleration(room, both, self._a_plan, dt))
        return np.minimum(-bound[n:], brake), np.maximum(bound[:n], brake)
