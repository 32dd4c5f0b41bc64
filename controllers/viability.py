"""Discrete-time viability of position, velocity and acceleration, joint by joint.

A state is viable if braking with the deceleration ``a_b`` keeps the joint inside its limits:

    q + v² / (2 a_b) ≤ q_max   for v > 0, mirrored for v < 0.

``JointBounds`` gives the interval of accelerations that, held for one period ``dt``, keep every joint viable
at the end of the period and inside its limits during it (A. Del Prete, "Joint position and velocity bounds
in discrete-time acceleration/torque control of robot manipulators", IEEE RA-L 2018).
"""

from __future__ import annotations

from math import inf, sqrt

import numpy as np

from safeguard.controllers.compiled import NUMBER, OUT, THREE_NUMBERS, VECTOR, kernel, part, types
from safeguard.core.types import Vector


def braking_point(v: Vector, a_brake: Vector, dt: float) -> Vector:
    """The acceleration that brakes as hard as ``a_brake`` allows without reversing within ``dt``, rad/s²."""
    return np.minimum(np.maximum(v * (-1.0 / dt), -a_brake), a_brake)


def stop_position(q: Vector, v: Vector, a_brake: Vector) -> Vector:
    """Where braking with ``a_brake`` from (q, v) comes to rest: q + v |v| / (2 a_b), rad."""
    return q + v * np.abs(v) / (2.0 * a_brake)


@part
def largest_acceleration(room: float, v: float, a_brake: float, dt: float) -> float:
    """Largest acceleration after which a joint can still stop within ``room``, rad/s².

    With w = v + a dt ≥ 0 the stop ends at (v + w) dt/2 + w²/(2 a_b); setting it equal to ``room`` gives
    w = (−a_b dt + √(a_b² dt² − 4 c)) / 2 with c = a_b (v dt − 2 room). If even w = 0 ends beyond ``room`` (c > 0) the
    joint must turn round inside the period, and its vertex v²/(2|a|) is held within ``room``; a joint that moves
    inwards must end within ``room``. Without any such acceleration the result is −∞.
    """
    b = a_brake * dt
    c = a_brake * (v * dt - 2.0 * room)
    if c <= 0.0:
        return ((sqrt(b * b - 4.0 * c) - b) * 0.5 - v) / dt
    if v <= 0.0:
        return (2.0 * room / dt - 2.0 * v) / dt
    return -v * v / (2.0 * room) if room > 0.0 else -inf


@part
def most(v: float, speed: float, acceleration: float, room: float, a_plan: float, dt: float) -> float:
    """The least of what acceleration, speed and position allow in the direction of ``room``."""
    return min(acceleration, (speed - v) / dt, largest_acceleration(room, v, a_plan, dt))


@kernel(types.void, *[VECTOR] * 8, *[NUMBER] * 3, OUT, OUT)
def joint_bounds(
    q: Vector,
    v: Vector,
    brake: Vector,
    q_min: Vector,
    q_max: Vector,
    v_max: Vector,
    a_max: Vector,
    a_plan: Vector,
    dt: float,
    velocity: float,
    acceleration: float,
    lower: Vector,
    upper: Vector,
) -> None:
    """The lower side of a joint is the upper side of the mirrored joint."""
    for j in range(len(q)):
        speed, push = velocity * v_max[j], acceleration * a_max[j]
        upper[j] = max(brake[j], most(v[j], speed, push, q_max[j] - q[j], a_plan[j], dt))
        lower[j] = min(brake[j], -most(-v[j], speed, push, q[j] - q_min[j], a_plan[j], dt))


@kernel(THREE_NUMBERS, *[VECTOR] * 7)
def least_margins(
    q: Vector, v: Vector, tau: Vector, q_min: Vector, q_max: Vector, v_max: Vector, tau_max: Vector
) -> tuple[float, float, float]:
    """Least distance of any joint to its limits of position, speed and torque, rad, rad/s, N·m."""
    position, velocity, torque = inf, inf, inf
    for j in range(len(q)):
        position = min(position, q[j] - q_min[j], q_max[j] - q[j])
        velocity = min(velocity, v_max[j] - abs(v[j]))
        torque = min(torque, tau_max[j] - abs(tau[j]))
    return position, velocity, torque


class JointBounds:
    """Interval of viable accelerations of ``n`` joints.

    Args:
        q_min, q_max: position limits, shape (n,), rad.
        v_max, a_max: speed and acceleration limits, shape (n,), rad/s and rad/s².
        a_plan: deceleration that stops are planned with, below the one they are verified with, shape (n,), rad/s².
        dt: control period, s.
    """

    def __init__(self, q_min: Vector, q_max: Vector, v_max: Vector, a_max: Vector, a_plan: Vector, dt: float) -> None:
        self._limits, self._dt = (q_min, q_max, v_max, a_max, a_plan), dt

    def __call__(
        self, q: Vector, v: Vector, brake: Vector, velocity: float = 1.0, acceleration: float = 1.0
    ) -> tuple[Vector, Vector]:
        """(lower, upper) acceleration bounds, each of shape (n,), rad/s², widened to contain ``brake``.

        ``velocity`` and ``acceleration`` are shares of the limits. States outside the viable set get the
        interval that is closest to full braking instead of none.
        """
        lower, upper = np.empty(len(q)), np.empty(len(q))
        joint_bounds(q, v, brake, *self._limits, self._dt, velocity, acceleration, lower, upper)
        return lower, upper
