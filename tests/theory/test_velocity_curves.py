"""Velocity curves: a stop from under the ceiling stays under the curve; proved by z3 and run in closed loop.

In the proofs r and s are √(k x) at the start of a stop and at a later moment of it, w and u its speeds there. The
square of the speed is a line in x: k (w² − u²) = 2 a (r² − s²), and the curve is s − b.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import z3

from safeguard.controllers.checker import Checker
from safeguard.controllers.viability import Ceiling, JointBounds, braking_point, ceiling_speed
from safeguard.core.curves import VelocityCurves
from safeguard.core.limits import Limits
from safeguard.core.types import Vector

r, s, w, u, k, a, b, X = z3.Reals("r s w u k a b X")
SANE = (k > 0, a > 0, b >= 0)
LATER = (s >= 0, s <= r, u > 0, k * (w * w - u * u) == 2 * a * (r * r - s * s))
STEEP = (k > 2 * a, X * (k - 2 * a) == b * b, r * (k - 2 * a) > k * b)  # beyond the point where the tangent touches
FLAT = r * (k - 2 * a) <= k * b
TANGENT = k * w * w <= 2 * a * (r * r - k * X)
ROUNDING = 1e-9  # rad/s


def solve(*constraints: Any) -> Any:
    """Whether z3 finds numbers; never a timeout."""
    solver = z3.SolverFor("QF_NRA")
    solver.set("timeout", 10_000)
    solver.add(*constraints)
    answer = solver.check()
    assert answer != z3.unknown, "z3 ran out of time"
    return answer == z3.sat


def prove(claim: Any, *assumptions: Any) -> None:
    """The claim follows, and the assumptions can be met."""
    assert solve(*assumptions), "the assumptions contradict each other"
    assert not solve(*assumptions, z3.Not(claim)), "not a theorem"


# -- the proof ------------------------------------------------------------------------------------------------


def test_where_the_curve_is_flatter_than_a_stop_being_under_it_at_the_start_is_enough() -> None:
    """√(k x) (k − 2a) ≤ k b, everywhere if k ≤ 2a: from w ≤ c(x) the whole stop keeps u ≤ c."""
    prove(u <= s - b, *SANE, *LATER, FLAT, w > 0, w <= r - b)


def test_beyond_the_tangent_keeps_the_whole_stop_under_the_curve() -> None:
    """A stop from under the tangent stays under it, and the tangent is under the curve and touches it."""
    on_stop = k * u * u <= 2 * a * (s * s - k * X)
    prove(on_stop, *SANE, *STEEP, *LATER, TANGENT)
    prove(k * (s - b) * (s - b) >= 2 * a * (s * s - k * X), *SANE, *STEEP)
    prove(s >= b, *SANE, *STEEP, s >= 0, u > 0, on_stop)
    touch = s * (k - 2 * a) == k * b
    prove(k * (s - b) * (s - b) == 2 * a * (s * s - k * X), *SANE, *STEEP, touch)


def test_the_ceiling_is_exact() -> None:
    """A stop from above the tangent passes the curve where the two touch; from above the curve it does at once."""
    touch = s * (k - 2 * a) == k * b
    prove(u > s - b, *SANE, *STEEP, *LATER, touch, z3.Not(TANGENT))


def test_a_stop_under_the_ceiling_ends_before_the_speed_must_be_zero() -> None:
    """It rests, s ≥ b, at or before x = b²/k."""
    ends = (s >= 0, s <= r, w > 0, k * w * w == 2 * a * (r * r - s * s))
    prove(s >= b, *SANE, *ends, FLAT, w <= r - b)
    prove(s >= b, *SANE, *ends, *STEEP, TANGENT)


def test_bug_being_under_the_curve_now_is_not_enough() -> None:
    """Without the tangent z3 finds a stop that begins under the curve and passes it."""
    assert solve(*SANE, *LATER, w > 0, w <= r - b, u > s - b)


# -- the code, in numbers ---------------------------------------------------------------------------------------

JOINTS = 300


class Case:
    """Many joints with curves of their own, and the deceleration that stops are planned with."""

    def __init__(self, seed: int, dt: float) -> None:
        rng = np.random.default_rng(seed)
        self.dt, self.rng = dt, rng
        ones = np.ones(JOINTS)
        self.curves = VelocityCurves(
            rng.uniform(1.0, 5.0, JOINTS), rng.choice([0.0, 0.2, 0.35], JOINTS), rng.uniform(3.0, 34.0, JOINTS),
            -2.0 * ones, rng.uniform(-1.0, 2.0, JOINTS), "test",
        )  # fmt: skip
        self.a_plan = rng.uniform(1.0, 15.0, JOINTS)
        self.a_max = 2.0 * self.a_plan
        self.limits = Limits(-2.1 * ones, 2.1 * ones, 9.0 * ones, self.a_max, ones, ones, {}, self.curves)
        self.ceiling = Ceiling.of(self.curves, self.a_plan)

    def bounds(self, ceiling: Ceiling | None) -> JointBounds:
        """The interval under test."""
        limits = self.limits
        return JointBounds(limits.q_min, limits.q_max, limits.v_max, self.a_max, self.a_plan, self.dt, ceiling)

    def excess(self, q: Vector, v: Vector) -> Vector:
        """How much faster than the curves allow, rad/s; shapes (…, n)."""
        return np.maximum(v - self.curves.upper(q), self.curves.lower(q) - v)

    def stop_excess(self, q: Vector, v: Vector, samples: int = 400) -> float:
        """The largest excess on the stops from (q, v) with ``a_plan``, at many moments."""
        t = np.linspace(0.0, 1.0, samples)[:, None] * np.abs(v) / self.a_plan
        speed = v - np.sign(v) * self.a_plan * t
        return float(self.excess(q + 0.5 * (v + speed) * t, speed).max())


def drive(case: Case, ceiling: Ceiling | None, ticks: int) -> tuple[float, float, Vector]:
    """(largest excess after a tick, on the stops from there, least distance to an edge) of greedy, wild motion."""
    bounds, rng, dt = case.bounds(ceiling), case.rng, case.dt
    q = case.curves.lower_edge + rng.uniform(0.2, 0.8, JOINTS) * (case.curves.upper_edge - case.curves.lower_edge)
    v = np.zeros(JOINTS)
    worst, on_stop, least = -np.inf, -np.inf, np.full(JOINTS, np.inf)
    towards = rng.choice([-1.0, 1.0], JOINTS)
    for tick in range(ticks):
        lower, upper = bounds(q, v, braking_point(v, case.a_plan, dt))
        towards = np.where(rng.random(JOINTS) < 0.5 * dt, -towards, towards)
        acceleration = np.where(towards > 0.0, upper, lower)
        wild = rng.random(JOINTS) < 0.1
        acceleration = np.where(wild, lower + rng.random(JOINTS) * (upper - lower), acceleration)
        q, v = q + v * dt + 0.5 * acceleration * dt * dt, v + acceleration * dt
        worst = max(worst, float(case.excess(q, v).max()))
        if tick % 20 == 0:
            on_stop = max(on_stop, case.stop_excess(q, v))
        least = np.minimum(least, np.minimum(case.curves.upper_edge - q, q - case.curves.lower_edge))
    return worst, on_stop, least


@pytest.mark.parametrize("dt", [0.001, 0.002, 0.005])
def test_greedy_motion_stays_under_the_curve_after_every_period_and_on_every_stop(dt: float) -> None:
    """300 joints driven at their edges for 3 s: no excess; without the ceiling there is plenty.

    And they use the range: every other joint comes within 5 mm of b²/k from an edge.
    """
    case = Case(3, dt)
    worst, on_stop, least = drive(case, case.ceiling, round(3.0 / dt))
    assert worst <= ROUNDING
    assert on_stop <= ROUNDING
    still = case.curves.offset**2 / case.curves.slope
    assert (least >= still - case.a_plan * dt * dt / 8.0 - ROUNDING).all()
    assert np.mean(least < still + 0.005) > 0.5
    blind, blind_stop, _ = drive(Case(3, dt), None, 300)
    assert blind > 0.1
    assert blind_stop > 0.1


@pytest.mark.parametrize("dt", [0.002, 0.005])
def test_between_two_ends_the_curve_is_passed_by_a_known_share_at_most(dt: float) -> None:
    """The chord of v² over a convex curve: k² dt² / (32 b²) of the speed; on an FR3 less than ``velocity_share``.

    From every start under the ceiling with the largest acceleration, at 50 moments of the period.
    """
    case = Case(7, dt)
    bounds, curves = case.bounds(case.ceiling), case.curves
    for share in np.linspace(0.0, 1.0, 60):
        q = curves.upper_edge - (curves.offset**2 / curves.slope) - 0.2 * share**3
        v = np.array([
            ceiling_speed(x, 0.0, v0, slope, offset, brake, 0.0, 1.0)
            for x, v0, slope, offset, brake in zip(
                curves.upper_edge - q, curves.speed, curves.slope, curves.offset, case.a_plan, strict=True
            )
        ])  # fmt: skip
        _, upper = bounds(q, v, braking_point(v, case.a_plan, dt))
        t = np.linspace(0.0, dt, 50)[:, None]
        speed, way = v + upper * t, q + v * t + 0.5 * upper * t * t
        allowed = np.where(curves.offset > 0.0, (curves.slope * dt / np.maximum(curves.offset, 1e-9)) ** 2 / 32.0, 0.0)
        moving = v > case.a_plan * dt  # whoever rests within the period runs on by a dt²/8, as at every limit
        assert (case.excess(way, speed).max(axis=0) <= 1.1 * allowed * v + ROUNDING)[moving].all()
    assert (34.0 * 0.005 / 0.35) ** 2 / 32.0 < 0.01


def test_the_checker_takes_whatever_the_bounds_allow_and_refuses_what_they_do_not() -> None:
    """The two formulations agree: at the bounds nothing is refused, a little beyond the ceiling everything is."""
    case, dt = Case(11, 0.002), 0.002
    checker = Checker(case.limits, tuple(f"j{j}" for j in range(JOINTS)), case.a_plan, dt)
    bounds, rng, refused = case.bounds(case.ceiling), case.rng, 0
    free = case.bounds(None)
    for _ in range(200):
        curves, v = case.curves, rng.uniform(-1.0, 1.0, JOINTS) * case.curves.speed
        q = curves.lower_edge + rng.random(JOINTS) * (curves.upper_edge - curves.lower_edge)
        brake = braking_point(v, case.a_plan, dt)
        lower, upper = bounds(q, v, brake)
        assert checker.motion_refusal(q, v, upper) == ""
        assert checker.motion_refusal(q, v, lower) == ""
        beyond = free(q, v, brake)[1]
        outward = v + upper * dt > 1e-3  # else it is the turn within the period that limits, not its end
        for j in np.flatnonzero(outward & (beyond > upper + 1.0))[:5]:
            wilder = upper.copy()
            wilder[j] += 1.0
            assert checker.motion_refusal(q, v, wilder).startswith(f"j{j}: ")
            refused += 1
    assert refused > 500


def test_a_joint_above_its_curve_brakes_until_it_is_under_it() -> None:
    """From twice the allowed speed: whoever is still above after a period had nothing but full braking."""
    case, dt = Case(13, 0.002), 0.002
    bounds, curves = case.bounds(case.ceiling), case.curves
    q = curves.upper_edge - 0.3 * case.rng.random(JOINTS)
    v = curves.upper(q) * 2.0 + 0.1
    assert (case.excess(q, v) > 0.0).all()
    for _ in range(2000):
        brake = braking_point(v, case.a_plan, dt)
        lower, upper = bounds(q, v, brake)
        assert (lower <= brake).all()
        assert (upper >= brake).all()
        q, v = q + v * dt + 0.5 * upper * dt * dt, v + upper * dt
        still_above = case.excess(q, v) > ROUNDING
        np.testing.assert_array_equal(upper[still_above], brake[still_above])
    assert (case.excess(q, v) <= ROUNDING).all()
