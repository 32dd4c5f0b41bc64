"""The backup: a stored stop that every joint can follow, and its fixed tracking law.

From (q₀, v₀) at t₀ each joint decelerates with a_b until it rests, then holds:

    q(s) = q₀ + v₀ s' − sgn(v₀) a_b s'²/2,   v(s) = v₀ − sgn(v₀) a_b s',   s' = min(s, |v₀| / a_b).

The tracking law feeds the reference acceleration of the coming period forward and adds
ω² (q_ref − q) + 2 ω (v_ref − v).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pinocchio as pin
from numpy.typing import NDArray

from safeguard.controllers.newton_euler import LANES
from safeguard.core.compiled import COUNT, FLAGS, INTS, OUT_INTS, OUT_MATRIX, VECTOR, kernel, part
from safeguard.core.config import BrakeConfig
from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S, Vector, frozen_array

Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

_SEED = 7
_QUANTILE = 0.01
_STEP_S, _BETWEEN = 0.02, 60  # a stop is also looked at between its corners, so often, so many times at most
_JUST_BEFORE = 1.0 - 2.0**-52
_LEAST_SHARE = 0.05  # of the acceleration limits; with less, stops last for seconds


@part
def moments(rest: Vector, order: Indices, resting: Flags, groups: Indices, group: int, s: Vector) -> int:
    """Fill ``s`` with the moments at which joints of a group are looked at, in order; their number.

    The start, and for every joint whose coming to rest counts, and the last: some on the way to it, just before it,
    just after it.
    """
    left, count, before, last = 0, 1, 0.0, 0.0
    for j in order:
        if groups[j] == group:
            left, last = left + 1, rest[j]
    step, s[0] = max(_STEP_S, last / _BETWEEN), 0.0
    for j in order:
        if groups[j] != group:
            continue
        left -= 1
        if rest[j] == 0.0 or not (resting[j] or left == 0):
            continue
        parts = int((rest[j] - before) / step) + 1
        for k in range(1, parts):
            s[count] = before + (rest[j] - before) * k / parts
            count += 1
        s[count], s[count + 1] = rest[j] * _JUST_BEFORE, rest[j]
        count, before = count + 2, rest[j]
    return count


@part
def along(
    q0: float, v0: float, slope: float, rest: float, s: Vector, q: Vector, v: Vector, a: Vector, count: int
) -> None:
    """A joint's q, v, a at the first ``count`` moments."""
    for k in range(count):
        braked = min(s[k], rest)
        w = v0 - slope * braked
        q[k], v[k] = q0 + 0.5 * (v0 + w) * braked, w
        a[k] = -slope if rest > s[k] else 0.0


@kernel(COUNT, *[VECTOR] * 3, FLAGS, INTS, *[OUT_MATRIX] * 3, OUT_INTS)
def stop_corners(
    q0: Vector,
    v0: Vector,
    a_brake: Vector,
    resting: Flags,
    groups: Indices,
    q: Vector,
    v: Vector,
    a: Vector,
    columns: Indices,
) -> int:
    """Fill q, v, a, and how many columns count for every joint, as ``corners_apart`` says; the largest of these."""
    n, count = len(q0), groups.max() + 1
    rest, s, moving = np.empty(n), np.full((count, q.shape[1]), np.inf), np.zeros(count, np.int64)
    for j in range(n):
        rest[j] = abs(v0[j]) / a_brake[j]
        moving[groups[j]] += resting[j]
    order = np.argsort(rest)
    for group in range(count):
        if moving[group]:
            moving[group] = moments(rest, order, resting, groups, group, s[group])
    most = int(moving.max())
    for j in range(n):
        columns[j] = moving[groups[j]] if resting[j] else 0
        slope = a_brake[j] if v0[j] > 0.0 else -a_brake[j]
        along(q0[j], v0[j], slope, rest[j], s[groups[j]], q[j], v[j], a[j], most + -most % LANES)
    return most


@dataclass(frozen=True, slots=True)
class StopPlan:
    """A stop from (q0, v0) at time ``t0``; immutable, so a verified one stays verified.

    Attributes:
        q0, v0: start, shape (n,), rad and rad/s.
        a_brake: deceleration, shape (n,), rad/s².
        t0: when it starts, ns.
    """

    q0: Vector
    v0: Vector
    a_brake: Vector
    t0: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "q0", frozen_array(self.q0))
        object.__setattr__(self, "v0", frozen_array(self.v0))

    @property
    def durations(self) -> Vector:
        """Time to rest of every joint, shape (n,), s."""
        return np.abs(self.v0) / self.a_brake

    @property
    def slope(self) -> Vector:
        """Signed deceleration sgn(v0) a_brake, shape (n,), rad/s²."""
        return np.sign(self.v0) * self.a_brake

    def at(self, s: float | Vector) -> tuple[Vector, Vector]:
        """Reference (q, v) at ``s`` ≥ 0 seconds after the start; ``s`` is a number or has shape (k, 1)."""
        braked = np.minimum(s, self.durations)
        v = self.v0 - self.slope * braked
        return self.q0 + 0.5 * (self.v0 + v) * braked, v

    def positions(self, s: Vector) -> Vector:
        """Reference positions at times of shape (k, 1), shape (k, n), rad."""
        braked = np.minimum(s, self.durations)
        return self.q0 + (self.v0 - 0.5 * self.slope * braked) * braked

    def acceleration(self, s: float, dt: float) -> Vector:
        """Mean reference acceleration over [s, s + dt], shape (n,), rad/s²."""
        return (self.at(s + dt)[1] - self.at(s)[1]) / dt

    def elapsed(self, now: int) -> float:
        """Seconds since the start at ``now`` ns; not before the start."""
        return max(now - self.t0, 0) / NS_PER_S

    def corners(self) -> tuple[Vector, Vector, Vector]:
        """(q, v, a) wherever the torque of the stop can be largest, each of shape (k, n).

        The acceleration jumps when a joint comes to rest: the start, just before and just after every such moment,
        and in between at least every 20 ms, or every 60th of the stop if that is longer. The hold at rest is the last.
        """
        n = len(self.q0)
        q, v, a, _, k = corners_apart(self, np.ones(n, dtype=bool), np.zeros(n, dtype=np.int64))
        return q[:, :k].T, v[:, :k].T, a[:, :k].T


def corners_apart(plan: StopPlan, resting: Flags, groups: Indices) -> tuple[Vector, Vector, Vector, Indices, int]:
    """(q, v, a, columns, k): the corners of groups of joints that do not feel each other, side by side.

    Each group has its own moments: of its joints that are ``resting`` only, as ``StopPlan.corners`` says. The first
    ``columns[j]`` columns of q, v, a, shape (n, room), are those that count for joint j, 0 if it is not resting; k is
    the largest of these. The others up to k, and to the next multiple of ``LANES``, hold the joint at rest.

    Args:
        plan: the stop.
        resting: joints whose coming to rest counts, shape (n,).
        groups: number of every joint's group, from 0, shape (n,).
    """
    (q, v, a), columns = room_for_corners(len(groups))
    k = stop_corners(plan.q0, plan.v0, plan.a_brake, resting, groups, q, v, a, columns)
    return q, v, a, columns, k


def room_for_corners(n: int) -> tuple[tuple[Vector, Vector, Vector], Indices]:
    """Arrays that hold the corners of any stop of ``n`` joints, as ``stop_corners`` fills them."""
    room = 2 * n + 1 + _BETWEEN
    q, v, a = np.empty((3, n, room + -room % LANES))
    return (q, v, a), np.empty(n, dtype=np.int64)


def braking_deceleration(robot: RobotModel, config: BrakeConfig) -> Vector | None:
    """Deceleration that stops are made of, shape (n,), rad/s².

    One share of the acceleration limits for all joints: the 1st percentile over seeded, uniform samples of position
    and velocity of the largest s with |h(q, v) − s M(q) sgn(v) a_max| ≤ τ_max, times a reserve. It is no guarantee:
    some states cannot reach it. What carries the guarantee is that the torques of every stop are checked before
    the motion that leads to it is released.

    None if that is hardly anything: the robot with its load can't brake at its speed limits.
    """
    limits, model = robot.limits, robot.pin_model
    data = model.createData()
    rng = np.random.default_rng(_SEED)
    shares = np.empty(config.samples)
    for k in range(config.samples):
        q = rng.uniform(limits.q_min, limits.q_max)
        v = rng.uniform(-limits.v_max, limits.v_max)
        pin.computeAllTerms(model, data, q, v)
        h = robot.bias(v, data.nle)
        push = data.M @ (-np.sign(v) * limits.a_max)
        shares[k] = np.min((limits.tau_max - h * np.sign(push)) / np.abs(push))
    share = min(config.max_share, config.share_of_authority * float(np.quantile(shares, _QUANTILE)))
    return frozen_array(share * limits.a_max) if share >= _LEAST_SHARE else None
