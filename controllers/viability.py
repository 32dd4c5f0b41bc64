"""Discrete-time viability of position, velocity and acceleration, joint by joint.

A state is viable if braking with the deceleration ``a_b`` keeps the joint inside its limits:

    q + v² / (2 a_b) ≤ q_max   for v > 0, mirrored for v < 0.

``JointBounds`` gives the interval of accelerations that, held for one period ``dt``, keep every joint viable
at the end of the period and inside its limits during it (A. Del Prete, "Joint position and velocity bounds
in discrete-time acceleration/torque control of robot manipulators", IEEE RA-L 2018).

Where the speed limit falls towards an edge of the range, c(x) = min(v₀, max(0, √(k x) − b)) at distance x (the Franka
Research 3), a stop with deceleration a must stay under the curve all the way. c² is convex in x and the square of a
stop's speed is a line of slope 2a, so the largest speed from which it does is the curve with its slope cut to 2a:

    C(x) = c(x)                          where √(k x) (k − 2a) ≤ k b, everywhere if k ≤ 2a
    C(x) = min(v₀, √(2a (x − X)))        beyond, with X = b² / (k − 2a): the tangent of slope 2a

C is 0 up to x = b²/k: there the stop must have ended, which makes that a position limit. ``Ceiling`` holds the numbers,
``JointBounds`` keeps w ≤ C at the end of every period. Between two ends the square of the speed is a chord over the
convex curve and passes it by at most a share k² dt² / (32 b²) of the speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from safeguard.core.compiled import MATRIX, NUMBER, OUT, THREE_NUMBERS, VECTOR, kernel, part, private, types
from safeguard.core.curves import VelocityCurves
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


@part
def _root(p: float, c: float) -> float:
    """The w ≥ 0 with w² + 2 p w = c, for c ≥ 0."""
    return c / (p + sqrt(p * p + c)) if c > 0.0 else 0.0


@part
def ceiling_speed(x: float, v: float, v0: float, k: float, b: float, a: float, dt: float, share: float) -> float:
    """Largest speed w with w ≤ ``share`` C(x − (v + w) dt/2): under the ceiling where the period ends, rad/s.

    C falls towards the edge, so the condition holds up to one w: a root of w² + 2 p w = c on the curve or, where that
    would lie beyond the point where the tangent touches it, on the tangent.
    """
    x0 = x - 0.5 * v * dt
    w = _root(share * (b + 0.25 * share * k * dt), share * share * (k * x0 - b * b))
    steeper = k - 2.0 * a
    if steeper > 0.0 and sqrt(max(0.0, k * (x0 - 0.5 * w * dt))) * steeper > k * b:
        w = _root(0.5 * share * share * a * dt, 2.0 * share * share * a * (x0 - b * b / steeper))
    return min(w, share * v0)


@kernel(types.void, *[VECTOR] * 3, MATRIX, *[NUMBER] * 2, OUT, OUT)
def under_ceiling(
    q: Vector, v: Vector, brake: Vector, curve: Vector, dt: float, velocity: float, lower: Vector, upper: Vector
) -> None:
    """Tighten the bounds to speeds under the ceiling, never past ``brake``; rows of ``curve`` as in ``Ceiling``."""
    for j in range(len(q)):
        v0, k, b, low, high, a, share = curve[j]
        share *= velocity
        up = (ceiling_speed(high - q[j], v[j], v0, k, b, a, dt, share) - v[j]) / dt
        down = (ceiling_speed(q[j] - low, -v[j], v0, k, b, a, dt, share) + v[j]) / dt
        upper[j] = max(brake[j], min(upper[j], up))
        lower[j] = min(brake[j], max(lower[j], -down))


@kernel(types.void, *[VECTOR] * 5, NUMBER, OUT, OUT)
def next_state(
    q: Vector, v: Vector, a: Vector, q_min: Vector, q_max: Vector, dt: float, q_next: Vector, v_next: Vector
) -> None:
    """Where acceleration ``a`` leads in one period; a joint that ends beyond its range is put on the edge of it.

    The edge is where the stop of such a joint begins, with the speed that it has: following it pulls the joint back,
    and brakes it as hard as any. Where that stop ends is looked at like every other's.
    """
    for j in range(len(q)):
        v_next[j] = v[j] + a[j] * dt
        q_next[j] = q[j] + (v[j] + v_next[j]) * (0.5 * dt)
        if q_next[j] > q_max[j]:
            q_next[j] = q_max[j]
        elif q_next[j] < q_min[j]:
            q_next[j] = q_min[j]


@kernel(types.void, *[VECTOR] * 6, *[NUMBER] * 2, OUT)
def led_back(
    q: Vector,
    v: Vector,
    q_min: Vector,
    q_max: Vector,
    a_brake: Vector,
    most: Vector,
    omega: float,
    dt: float,
    brake: Vector,
) -> None:
    """Fill the braking point, shape (n,), rad/s²; a joint beyond its range is led back to it, within ``most``.

    Braking to rest alone would let such a joint creep on under a constant push (tests/theory/test_viability_proof.py).
    With x beyond the limit the law is that of the backup, −ω² x − 2 ω v, and never less than full braking.
    """
    for j in range(len(q)):
        brake[j] = min(max(v[j] * (-1.0 / dt), -a_brake[j]), a_brake[j])
        x = max(q[j] - q_max[j], 0.0) - max(q_min[j] - q[j], 0.0)
        if x != 0.0:
            back = min(max(-omega * (omega * x + 2.0 * v[j]), -most[j]), most[j])
            brake[j] = min(back, brake[j]) if x > 0.0 else max(back, brake[j])


@kernel(types.boolean, *[VECTOR] * 6, NUMBER)
def begins_and_ends_well(
    q0: Vector, v0: Vector, a_brake: Vector, q_min: Vector, q_max: Vector, v_most: Vector, beyond: float
) -> bool:
    """Whether a stop begins no faster than ``v_most`` and ends at most ``beyond`` outside the range; no for NaN."""
    for j in range(len(q0)):
        end = q0[j] + v0[j] * abs(v0[j]) / (2.0 * a_brake[j])
        if not (q_min[j] - beyond <= end <= q_max[j] + beyond and abs(v0[j]) <= v_most[j]):
            return False
    return True


@kernel(types.boolean, VECTOR, NUMBER)
def slower(v: Vector, most: float) -> bool:
    """Whether all joints are slower than ``most``; no for NaN."""
    fine = True
    for j in range(len(v)):
        fine &= abs(v[j]) < most
    return fine


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


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Speeds from which a stop stays under the velocity curves of ``n`` joints.

    Attributes:
        curve: rows of v₀, k, b, lower and upper edge, deceleration of the stops, share of the curve, shape (n, 7).
        q_min, q_max: positions beyond which the curves allow no outward speed at all, shape (n,), rad.
    """

    curve: Vector
    q_min: Vector
    q_max: Vector

    @classmethod
    def of(cls, curves: VelocityCurves | None, a: Vector, share: float = 1.0, margin: float = 0.0) -> Ceiling | None:
        """The ceiling of stops with deceleration ``a``, shape (n,), rad/s², or None without curves.

        ``share`` of the curves is used, with edges that lie ``margin`` (rad) further in.
        """
        if curves is None:
            return None
        low, high = curves.lower_edge + margin, curves.upper_edge - margin
        columns = (curves.speed, curves.slope, curves.offset, low, high, a, np.full(len(a), share))
        still = curves.offset**2 / curves.slope
        return cls(np.ascontiguousarray(np.column_stack(columns)), low + still, high - still)


class JointBounds:
    """Interval of viable accelerations of ``n`` joints.

    Args:
        q_min, q_max: position limits, shape (n,), rad.
        v_max, a_max: speed and acceleration limits, shape (n,), rad/s and rad/s².
        a_plan: deceleration that stops are planned with, below the one they are verified with, shape (n,), rad/s².
        dt: control period, s.
        ceiling: of velocity curves, for stops with ``a_plan``; it tightens the position limits as well.

    Attributes:
        q_min, q_max: the position limits that are kept, shape (n,), rad.
    """

    def __init__(
        self,
        q_min: Vector,
        q_max: Vector,
        v_max: Vector,
        a_max: Vector,
        a_plan: Vector,
        dt: float,
        ceiling: Ceiling | None = None,
    ) -> None:
        if ceiling is not None:
            q_min, q_max = np.maximum(q_min, ceiling.q_min), np.minimum(q_max, ceiling.q_max)
        self.q_min, self.q_max = private(q_min), private(q_max)
        self._limits, self._dt, self._ceiling = (private(v_max), private(a_max), private(a_plan)), dt, ceiling

    def __call__(
        self,
        q: Vector,
        v: Vector,
        brake: Vector,
        velocity: float = 1.0,
        acceleration: float = 1.0,
        near: float | None = None,
    ) -> tuple[Vector, Vector]:
        """(lower, upper) acceleration bounds, each of shape (n,), rad/s², widened to contain ``brake``.

        ``velocity`` and ``acceleration`` are shares of the limits. A joint nearer to a position limit than ``near``
        (rad, if given) may not come any nearer. States outside the viable set get the interval that is closest to full
        braking instead of none.
        """
        lower, upper = np.empty(len(q)), np.empty(len(q))
        low, high = self.q_min, self.q_max
        if near is not None:
            low, high = np.maximum(low, np.minimum(q, low + near)), np.minimum(high, np.maximum(q, high - near))
        joint_bounds(q, v, brake, low, high, *self._limits, self._dt, velocity, acceleration, lower, upper)
        if self._ceiling is not None:
            under_ceiling(q, v, brake, self._ceiling.curve, self._dt, velocity, lower, upper)
        return lower, upper
