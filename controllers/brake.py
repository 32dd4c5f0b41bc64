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

from safeguard.controllers.compiled import COUNT, FLAGS, NUMBER, OUT_COLUMNS, VECTOR, kernel
from safeguard.core.config import BrakeConfig
from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S, Vector, frozen_array

Flags = NDArray[np.bool_]

_SEED = 7
_QUANTILE = 0.01
_STEP_S, _BETWEEN = 0.04, 60  # a stop is also looked at between its corners, so often, so many times at most
_LEAST_SHARE = 0.05  # of the acceleration limits; with less, stops last for seconds


@kernel(COUNT, *[VECTOR] * 3, FLAGS, NUMBER, *[OUT_COLUMNS] * 3)
def stop_corners(
    q0: Vector, v0: Vector, a_brake: Vector, resting: Flags, step: float, q: Vector, v: Vector, a: Vector
) -> int:
    """Fill the columns of q, v, a as ``StopPlan.corners`` says; the number of columns filled."""
    n, room = len(q0), q.shape[1]
    rest, count, before = np.empty(n), 0, 0.0
    for j in range(n):
        rest[j] = abs(v0[j]) / a_brake[j]
    order = np.argsort(rest)
    for r in range(-1, n):  # the start, then every joint in the order in which they come to rest
        until = 0.0 if r < 0 else rest[order[r]]
        if r >= 0 and (until == 0.0 or not (resting[order[r]] or r == n - 1)):
            continue
        parts = min(int((until - before) / step) + 1, room - count - 2 * (n - r))
        for part in range(1, parts + 2):  # on the way to it, just before it, just after it
            s, after = until if part >= parts else before + (until - before) * part / parts, part > parts
            if r < 0 and not after:
                continue
            for j in range(n):
                slope = a_brake[j] if v0[j] > 0.0 else -a_brake[j]
                braked = min(s, rest[j])
                w = v0[j] - slope * braked
                q[j, count] = q0[j] + 0.5 * (v0[j] + w) * braked
                v[j, count] = w
                a[j, count] = -slope if rest[j] > s or (not after and rest[j] >= until) else 0.0
            count += 1
        before = until
    return count


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

    def corners(self, resting: Flags | None = None) -> tuple[Vector, Vector, Vector]:
        """(q, v, a) wherever the torque of the stop can be largest, each of shape (k, n).

        With ``resting``, shape (n,), only these joints' coming to rest counts, and that of the last.

        The acceleration jumps when a joint comes to rest: the start, just before and just after every such moment,
        and at least every 40 ms in between, up to 60 moments more. The hold at rest is the last of them.
        """
        n = len(self.q0)
        q, v, a = (np.empty((n, 2 * n + 1 + _BETWEEN), order="F") for _ in range(3))
        resting = np.ones(n, dtype=bool) if resting is None else resting
        k = stop_corners(self.q0, self.v0, self.a_brake, resting, _STEP_S, q, v, a)
        return q[:, :k].T, v[:, :k].T, a[:, :k].T


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
