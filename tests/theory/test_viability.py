"""The viability theorem, by simulation of the tick and of the braking that follows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from safeguard.controllers.viability import JointBounds, braking_point, slower
from safeguard.core.types import Vector

JOINTS = 400
SUBSTEPS = 1000
ROUNDING = 1e-12  # rad


@dataclass(frozen=True)
class Case:
    """Many joints with limits, braking and a state of their own; the first ones sit on an edge of the viable set."""

    q_min: Vector
    q_max: Vector
    v_max: Vector
    a_max: Vector
    a_plan: Vector
    dt: float
    q: Vector
    v: Vector

    @property
    def brake(self) -> Vector:
        """The braking point."""
        return braking_point(self.v, self.a_plan, self.dt)

    def bounds(self, velocity: float = 1.0, acceleration: float = 1.0) -> tuple[Vector, Vector]:
        """The interval under test."""
        joint_bounds = JointBounds(self.q_min, self.q_max, self.v_max, self.a_max, self.a_plan, self.dt)
        return joint_bounds(self.q, self.v, self.brake, velocity, acceleration)


def viable_case(seed: int, dt: float) -> Case:
    """States inside the viable set: a stop with ``a_plan`` ends within the limits."""
    rng = np.random.default_rng(seed)
    q_min, q_max = -rng.uniform(0.1, 3.0, JOINTS), rng.uniform(0.1, 3.0, JOINTS)
    v_max, a_max = rng.uniform(0.5, 5.0, JOINTS), rng.uniform(2.0, 30.0, JOINTS)
    a_plan = rng.uniform(0.05, 1.0, JOINTS) * a_max
    v = rng.uniform(-1.0, 1.0, JOINTS) * v_max
    v *= np.minimum(1.0, np.sqrt(2.0 * a_plan * (q_max - q_min)) / np.abs(v))
    slow = rng.random(JOINTS) < 0.3  # speeds of less than one period of braking turn round within it
    v = np.where(slow, v * 1e-3, v)
    stop = v * np.abs(v) / (2.0 * a_plan)
    low, high = np.maximum(q_min, q_min - stop), np.minimum(q_max, q_max - stop)
    place = rng.random(JOINTS)
    place[: JOINTS // 4] = 1.0  # on the edge
    place[JOINTS // 4 : JOINTS // 2] = 1.0 - 10.0 ** rng.uniform(-9, -3, JOINTS // 4)
    place = np.where(v >= 0.0, place, 1.0 - place)
    return Case(q_min, q_max, v_max, a_max, a_plan, dt, low + place * (high - low), v)


def path(case: Case, a: Vector) -> Vector:
    """Positions at SUBSTEPS instants of the tick with ``a`` and as many of the braking after it, (2 SUBSTEPS, n)."""
    s = np.linspace(0.0, case.dt, SUBSTEPS)[:, None]
    tick = case.q + case.v * s + 0.5 * a * s * s
    q, v = tick[-1], case.v + a * case.dt
    s = np.linspace(0.0, 1.0, SUBSTEPS)[:, None] * np.abs(v) / case.a_plan
    braking = q + v * s - 0.5 * np.sign(v) * case.a_plan * s * s
    return np.concatenate((tick, braking))


def worst_excess(case: Case, a: Vector) -> Vector:
    """How far each joint leaves its limits under ``a`` and the stop after it, rad; negative inside."""
    q = path(case, a)
    # The exact turning point of the tick as well: 1000 instants would miss it by a little.
    turn = np.where(a * case.v < 0.0, -case.v / np.where(a == 0.0, 1.0, a), 0.0)
    turn = np.where(turn < case.dt, turn, 0.0)
    vertex = case.q + case.v * turn + 0.5 * a * turn * turn
    high, low = np.maximum(q.max(axis=0), vertex), np.minimum(q.min(axis=0), vertex)
    excess: Vector = np.maximum(high - case.q_max, case.q_min - low)
    return excess


@pytest.mark.parametrize("dt", [0.001, 0.002, 0.005])
@pytest.mark.parametrize("seed", range(3))
def test_every_acceleration_of_the_interval_keeps_the_joint_inside_for_ever(seed: int, dt: float) -> None:
    """At every instant of the tick and of the stop after it no limit is passed, wherever in the interval a lies.

    The one exception is the braking point, which the interval is widened to contain (next test).
    """
    case = viable_case(seed, dt)
    lower, upper = case.bounds()
    assert (lower <= upper).all()
    allowed = np.maximum(worst_excess(case, case.brake), 0.0) + ROUNDING
    assert (allowed == ROUNDING).mean() > 0.7
    for share in (0.0, 0.25, 0.5, 0.9, 1.0):
        a = lower + share * (upper - lower)
        assert (worst_excess(case, a) <= allowed).all()
        assert (np.abs(case.v + a * dt) <= case.v_max + ROUNDING).all()
        assert (np.abs(a) <= case.a_max + ROUNDING).all()


@pytest.mark.parametrize("dt", [0.001, 0.005])
@pytest.mark.parametrize("seed", range(3))
def test_the_braking_point_overshoots_by_no_more_than_an_eighth_of_a_dt_squared(seed: int, dt: float) -> None:
    """Coming to rest exactly at the end of a period takes up to a_b dt²/8 more room than braking at once.

    Only joints slower than a_b dt do that; the filter's position margin is there for it.
    """
    case = viable_case(seed, dt)
    excess = worst_excess(case, case.brake)
    assert (excess <= case.a_plan * dt * dt / 8.0 + ROUNDING).all()
    assert (excess[np.abs(case.v) >= case.a_plan * dt] <= ROUNDING).all()
    assert excess.max() > 0.5 * (case.a_plan * dt * dt / 8.0).min()


@pytest.mark.parametrize("dt", [0.001, 0.002, 0.005])
@pytest.mark.parametrize("seed", range(3))
def test_the_interval_is_as_large_as_it_can_be(seed: int, dt: float) -> None:
    """0.001 rad/s² beyond a bound that is no speed or acceleration cap, the joint leaves its limits."""
    case = viable_case(seed, dt)
    lower, upper = case.bounds()
    more, less = upper + 1e-3, lower - 1e-3
    free = (more < case.a_max) & (case.v + more * dt < case.v_max)
    assert free.sum() > JOINTS // 20
    assert (worst_excess(case, more)[free] > 0.0).all()
    free = (less > -case.a_max) & (case.v + less * dt > -case.v_max)
    assert free.sum() > JOINTS // 20
    assert (worst_excess(case, less)[free] > 0.0).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_continuous_time_bound_would_not_do(seed: int) -> None:
    """Control: the bound that looks at the present speed only, v² ≤ 2 a_b room, lets joints leave their limits."""
    case = viable_case(seed, 0.005)
    room = np.where(case.v > 0, case.q_max - case.q, case.q - case.q_min)
    naive = np.where(case.v**2 < 2.0 * case.a_plan * room, np.sign(case.v) * case.a_max, case.brake)
    assert worst_excess(case, naive).max() > 1e-4


@pytest.mark.parametrize("dt", [0.001, 0.005])
def test_the_interval_contains_the_braking_point_even_outside_the_viable_set(dt: float) -> None:
    """Whatever the state and the envelope, the interval is not empty and full braking lies in it."""
    rng = np.random.default_rng(5)
    case = viable_case(4, dt)
    q = case.q + rng.normal(0.0, 1.0, JOINTS)
    v = case.v + rng.normal(0.0, 3.0, JOINTS)
    wild = Case(case.q_min, case.q_max, case.v_max, case.a_max, case.a_plan, dt, q, v)
    for velocity, acceleration in ((1.0, 1.0), (0.2, 0.1)):
        lower, upper = wild.bounds(velocity, acceleration)
        assert np.isfinite(lower).all()
        assert np.isfinite(upper).all()
        assert (lower <= wild.brake).all()
        assert (wild.brake <= upper).all()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_states_outside_come_back_and_never_move_outwards_faster(share: float) -> None:
    """Beyond a limit or too fast for it, nothing in the interval is worse than full braking on that side."""
    case = viable_case(6, 0.002)
    rng = np.random.default_rng(8)
    beyond = rng.uniform(1e-6, 0.2, JOINTS)
    outwards = Case(
        case.q_min, case.q_max, case.v_max, case.a_max, case.a_plan, 0.002,
        case.q_max + beyond, np.abs(case.v),
    )  # fmt: skip
    lower, upper = outwards.bounds()
    a = lower + share * (upper - lower)
    assert np.allclose(upper, outwards.brake)
    assert (outwards.v + a * outwards.dt <= outwards.v + ROUNDING).all()


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_joint_beyond_its_limit_can_be_driven_in_but_not_out(side: float) -> None:
    """At rest 0.05 rad beyond a limit nothing outwards is allowed; inwards it crosses the whole range, no further."""
    one, a_brake, dt = np.ones(1), 5.0, 0.002
    bounds = JointBounds(-one, one, 2.0 * one, 10.0 * one, a_brake * one, dt)
    q, v = side * 1.05 * one, 0.0 * one
    lower, upper = bounds(q, v, v)
    assert (upper if side > 0 else -lower)[0] == 0.0
    for _ in range(1000):
        lower, upper = bounds(q, v, braking_point(v, a_brake * one, dt))
        a = lower if side > 0 else upper  # inwards
        q, v = q + v * dt + 0.5 * a * dt * dt, v + a * dt
        assert abs(q[0]) <= 1.05 + ROUNDING
    assert abs(q[0] + side) <= 1e-3
    assert abs(q[0]) <= 1.0 + a_brake * dt * dt / 8.0


def test_slower_asks_every_joint_both_ways() -> None:
    """A joint at the limit, beyond it in either direction, or at no number at all is not slower."""
    assert slower(np.array([0.9, -0.9]), 1.0)
    for speed in (1.0, -1.0, 2.0, -2.0, np.nan):
        assert not slower(np.array([0.0, speed, 0.0]), 1.0)
