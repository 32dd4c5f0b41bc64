"""One-joint viability under sampling, latency and disturbance, proved by z3 for all real numbers.

No number is fixed: states, limits, period, decelerations, latency and disturbance are all free. The formula that
the proofs are about is ``largest``: the docstring of ``largest_acceleration`` with its square root encoded away.
The first test ties it to the code. A theorem is a negation without a solution; every theorem's assumptions are shown
to have one, so that none is empty. Planted bugs must be found as states with concrete numbers.

The upper side is proved; the lower side is the upper one of the mirrored joint, which has a test of its own.
"""

# ruff: noqa: SIM300  capital letters are unknowns here, not constants

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import z3
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard.controllers.viability import JointBounds
from tests.theory.z3_support import number, prove, refute, solve

dt, a, a_b = z3.Reals("dt a a_b")  # period, planned deceleration, braking deceleration
room, below, v, A, u, lower, t = z3.Reals("room below v A u lower t")  # room to the upper and to the lower limit
V, a_max, e = z3.Reals("V a_max e")
W, L, T, M = z3.Reals("W L T M")  # disturbance, latency, latency + period, margin
ev, er, w = z3.Reals("ev er w")  # real minus predicted speed and room at the start of the period; disturbance in it

SANE = (dt > 0, a > 0)
DURING = (t >= 0, t <= dt)


# -- the model --------------------------------------------------------------------------------------------


def viable(gap: Any, speed: Any) -> Any:
    """Braking with a ends within the gap: v²/(2 a) ≤ gap for v > 0."""
    return z3.And(gap >= 0, z3.Implies(speed > 0, speed * speed <= 2 * a * gap))


def largest(bound: Any, gap: Any, speed: Any) -> Any:
    """``bound`` is ``largest_acceleration(gap, speed, a, dt)``; no number is where the code has −∞."""
    after, c = speed + bound * dt, a * (speed * dt - 2 * gap)
    return z3.Or(
        z3.And(c <= 0, after >= 0, after * after + a * dt * after + c == 0),
        z3.And(c > 0, speed > 0, gap > 0, 2 * gap * bound == -speed * speed),
        z3.And(c > 0, speed <= 0, bound * dt * dt == 2 * gap - 2 * speed * dt),
    )


def least_of(*values: Any) -> Any:
    """The smallest."""
    first, *rest = values
    for value in rest:
        first = z3.If(value < first, value, first)
    return first


def travel(acceleration: Any, time: Any = t, speed: Any = v) -> Any:
    """Way after ``time`` under a constant acceleration."""
    return speed * time + acceleration * time * time / 2


def braking(speed: Any) -> Any:
    """``braking_point``: −v/dt, at most a_b either way."""
    return z3.If(speed > a_b * dt, -a_b, z3.If(speed < -a_b * dt, a_b, -speed / dt))


# -- the model is the code ----------------------------------------------------------------------------------


def code_bound(gap: float, speed: float, a_plan: float, period: float) -> float:
    """Largest acceleration that the code allows towards a limit ``gap`` away; −1e300 for −∞."""
    one, huge = np.ones(1), 1e300
    bounds = JointBounds(-huge * one, gap * one, huge * one, huge * one, a_plan * one, period)
    return float(bounds(0.0 * one, speed * one, -huge * one)[1][0])


periods, decelerations = st.floats(5e-4, 0.02), st.floats(0.05, 200.0)
# In units of a dt² and a dt, where all three cases are met.
gaps = st.one_of(st.floats(-2.0, 2.0), st.floats(-1e6, 1e6)).filter(lambda x: x == 0.0 or abs(x) > 1e-100)
speeds = st.one_of(st.floats(-2.0, 2.0), st.floats(-1e3, 1e3)).filter(lambda x: x == 0.0 or abs(x) > 1e-100)


@given(periods, decelerations, gaps, speeds)
@settings(max_examples=300)
def test_the_formula_of_the_proof_is_the_code(period: float, a_plan: float, gap: float, speed: float) -> None:
    """On random numbers in all three cases both bounds of ``JointBounds`` agree with the formula to 1e-9.

    Relative to the accelerations at hand; where the formula has no number, the code has −∞.
    """
    gap, speed = gap * a_plan * period**2, speed * a_plan * period
    values = ((dt, period), (a, a_plan), (room, gap), (v, speed))
    model = solve(largest(u, room, v), *(name == z3.RealVal(Fraction(value)) for name, value in values))
    one, huge = np.ones(1), 1e300
    bounds = JointBounds(-gap * one, gap * one, huge * one, huge * one, a_plan * one, period)
    upper = float(bounds(0.0 * one, speed * one, -huge * one)[1][0])
    mirrored = float(bounds(0.0 * one, -speed * one, huge * one)[0][0])
    if model is None:
        assert speed > 0.0
        assert gap <= 0.0
        assert upper == -huge
        assert mirrored == huge
        return
    proved = number(model[u])
    scale = a_plan + abs(speed) / period + abs(proved)
    assert abs(upper - proved) <= 1e-9 * scale
    assert abs(-mirrored - proved) <= 1e-9 * scale


# -- (a) sampling: the whole period, not only its end ---------------------------------------------------------


def test_the_next_state_is_viable() -> None:
    """From any state, viable or not, every acceleration up to the bound leads to a state that can stop in time."""
    prove(viable(room - travel(A, dt), v + A * dt), *SANE, largest(u, room, v), A <= u)


def test_the_joint_stays_inside_at_every_instant_of_the_period() -> None:
    """From a viable state the vertex of the parabola is inside too: no instant lies beyond the limit."""
    prove(travel(A) <= room, *SANE, *DURING, viable(room, v), largest(u, room, v), A <= u)


def test_the_joint_never_moves_beyond_where_it_is_or_may_be() -> None:
    """From any state: no instant lies beyond the limit or, where the joint starts outside, beyond its start."""
    prove(z3.Or(travel(A) <= room, travel(A) <= 0), *SANE, *DURING, largest(u, room, v), A <= u)


def test_the_lower_side_is_the_mirrored_upper_side() -> None:
    """With room ``below`` and speed −v: accelerations from −bound up keep the mirrored state viable and inside."""
    interval = (*SANE, *DURING, viable(below, -v), largest(u, below, -v), A >= -u)
    prove(viable(below + travel(A, dt), -v - A * dt), *interval)
    prove(-travel(A) <= below, *interval)


# -- (b) never empty -------------------------------------------------------------------------------------------

BOTH = (*SANE, viable(room, v), viable(below, -v), largest(u, room, v), largest(lower, below, -v))


def test_the_interval_is_never_empty() -> None:
    """Viable both ways, in a range of at least a dt²: the lower bound is not above the upper one.

    With the caps of speed and acceleration as well, if both leave room for braking: a_max ≥ a, v_max ≥ a dt.
    """
    wide = (*BOTH, room + below >= a * dt * dt)
    prove(-lower <= u, *wide)
    capped_u, capped_l = least_of(u, a_max, (V - v) / dt), least_of(lower, a_max, (V + v) / dt)
    prove(-capped_l <= capped_u, *wide, a_max >= a, a * dt <= V, v <= V, -v <= V)


def test_a_range_narrower_than_a_dt_squared_can_leave_nothing() -> None:
    """The assumption on the range is needed, and exact: in 99 % of it z3 finds a state with an empty interval."""
    found = refute(-lower <= u, *BOTH, 100 * (room + below) >= 99 * a * dt * dt)
    up = code_bound(found["room"], found["v"], found["a"], found["dt"])
    down = code_bound(found["below"], -found["v"], found["a"], found["dt"])
    assert -down > up


def test_the_braking_point_is_inside() -> None:
    """Braking with a_b ≥ a lies in the interval unless the joint comes to rest within the period."""
    inside = z3.And(-lower <= braking(v), braking(v) <= u)
    prove(inside, *BOTH, a_b >= a, v >= a * dt)
    prove(inside, *BOTH, a_b >= a, v >= 0, v * dt <= 2 * room)


def test_widened_to_the_braking_point_the_joint_overshoots_by_an_eighth() -> None:
    """Where the bound is widened to contain it, a viable joint passes its limit by at most a dt²/8, and that much."""
    widened = (*SANE, *DURING, viable(room, v), a_b >= a, v > 0, A <= braking(v))
    prove(travel(A) <= room + a * dt * dt / 8, *widened)
    refute(travel(A) <= room + a * dt * dt * z3.Q(124, 1000), *widened)


# -- (c) latency and disturbance ---------------------------------------------------------------------------------

# The command of this period was computed from a prediction over the latency L, in which a disturbance of at most W
# acted; it acts on: |ev| ≤ W L, |er| ≤ W L²/2, |w| ≤ W. The prediction sees v − ev, and er more room.
DISTURBED = (
    W >= 0, L >= 0, T == L + dt, a_b - W >= a,
    ev <= W * L, -ev <= W * L, 2 * er <= W * L * L, -2 * er <= W * L * L, w <= W, -w <= W,
)  # fmt: skip
PREDICTED = v - ev
TIGHT = room + er - M
REAL_END, REAL_SPEED = room - travel(A + w, dt), v + (A + w) * dt


def margin_is(share: Any) -> Any:
    """M = a dt²/8 + W T²/2 + W T V/a + W² T²/(2 a), times ``share``; V is the largest predicted speed."""
    return 8 * a * M == share * (a * a * dt * dt + 4 * (a * W * T * T + 2 * W * T * V + W * W * T * T))


def settled(gap: Any, speed: Any) -> Any:
    """What is kept for ever: viable with a dt²/8 to spare, which a stop within a period may need."""
    return z3.And(
        z3.Implies(speed > 0, 4 * speed * speed + a * a * dt * dt <= 8 * a * gap), z3.Implies(speed <= 0, gap >= 0)
    )


def returning(acceleration: Any) -> Any:
    """At most the braking point that aims at −W T instead of rest: a joint that is pushed out comes back."""
    return z3.Or(
        z3.And(acceleration * dt <= -(PREDICTED + W * T), PREDICTED + W * T <= a_b * dt),
        z3.And(acceleration <= -a_b, PREDICTED + W * T > a_b * dt),
    )


def test_the_errors_of_a_period_add_up() -> None:
    """From the measurement to the end of the period speed is off by at most W T, position by W T²/2."""
    end_error = er + ev * dt + w * dt * dt / 2
    prove(z3.And(ev + w * dt <= W * T, 2 * end_error <= W * T * T), *SANE, *DISTURBED)


def test_with_the_margin_the_real_state_is_settled_after_a_period_in_the_interval() -> None:
    """The interval makes the predicted state viable within limit − M (proved above); then the real one is settled."""
    gap, speed, off, slower = z3.Reals("gap speed off slower")
    errors = (W >= 0, dt <= T, slower <= W * T, 2 * off <= W * T * T)
    assumed = (*SANE, *errors, V >= 0, speed <= V, viable(gap, speed))
    prove(settled(gap + M - off, speed + slower), *assumed, margin_is(1))
    refute(settled(gap + M - off, speed + slower), *assumed, margin_is(z3.Q(99, 100)), W > 0)


def test_with_the_margin_the_real_joint_stays_inside_during_a_period_in_the_interval() -> None:
    """Both where the prediction is within the tightened limit and where it is beyond.

    What the interval says of the predicted way is put in its place: it stays within the tightened limit if it
    starts there, and ends there in any case.
    """
    inside = travel(A + w) <= room
    known = (*SANE, *DISTURBED, *DURING, V >= 0, 8 * a * M >= 4 * a * W * T * T + a * a * dt * dt)
    prove(inside, *known, TIGHT >= 0, travel(A, t, PREDICTED) <= TIGHT)
    ends = travel(A, dt, PREDICTED) <= TIGHT
    prove(inside, *known, settled(room, v), TIGHT < 0, v <= 0, ends)
    prove(inside, *known, settled(room, v), TIGHT < 0, v > 0, ends)


def test_braking_keeps_a_settled_joint_settled_and_inside() -> None:
    """W ≤ a_b − a: the braking point that aims at −W T, or less, keeps it so under every disturbance."""
    assumed = (*SANE, *DISTURBED, settled(room, v), returning(A))
    prove(settled(REAL_END, REAL_SPEED), *assumed)
    prove(travel(A + w) <= room, *assumed, *DURING)


def test_without_the_margin_latency_and_disturbance_break_the_claim() -> None:
    """M = 0: a bound computed for the predicted state leads z3's real state out of the viable set."""
    unguarded = (*SANE, *DISTURBED, W > 0, L == dt, M == 0, viable(TIGHT, PREDICTED), largest(u, TIGHT, PREDICTED))
    found = refute(viable(REAL_END, REAL_SPEED), *unguarded, A <= u)
    gap = found["room"] - found["v"] * found["dt"] - (found["A"] + found["w"]) * found["dt"] ** 2 / 2
    speed = found["v"] + (found["A"] + found["w"]) * found["dt"]
    assert gap < 0.0 or speed**2 > 2.0 * found["a"] * gap


def test_a_disturbance_beyond_the_reserve_breaks_braking() -> None:
    """W > a_b − a: braking with everything no longer keeps a settled joint settled."""
    stronger = [W >= 0, w <= W, -w <= W, a_b > W, a_b - W < a]
    end, speed = room - travel(w - a_b, dt), v + (w - a_b) * dt
    refute(settled(end, speed), *SANE, *stronger, settled(room, v), v > a_b * dt, w == W)


def test_a_braking_point_that_only_stops_lets_a_pushed_joint_creep() -> None:
    """The braking point −v/dt, no latency, W within the reserve: the same speed W dt after every period, outwards.

    A constant push, as from a wrong weight, drives the joint through any margin in time; aiming at −W T does not.
    """
    pushed = (*SANE, *DISTURBED, L == 0, ev == 0, w == W, W > 0, v == W * dt, A == braking(v), a_b - W > a)
    prove(z3.And(REAL_SPEED == v, REAL_END < room), *pushed)


# -- (d) slightly outside ------------------------------------------------------------------------------------------


def excess_within(limit: Any, gap: Any, speed: Any) -> Any:
    """Stopping with a_b from here passes the limit by at most ``limit``: v²/(2 a_b) + a_b dt²/8 − gap ≤ ``limit``."""
    return z3.And(
        z3.Implies(speed > 0, 4 * speed * speed + a_b * a_b * dt * dt <= 8 * a_b * (limit + gap)),
        z3.Implies(speed <= 0, -gap <= limit),
    )


WIDENED = z3.Or(A <= braking(v), z3.And(largest(u, room, v), A <= u))


def test_a_state_outside_gets_no_worse_than_its_stopping_distance() -> None:
    """During the period no instant is further out than where full braking from the start would end."""
    known = (*SANE, *DURING, a_b >= a, e >= 0, excess_within(e, room, v), WIDENED)
    prove(travel(A) - room <= e, *known)


def test_the_stopping_distance_beyond_the_limit_never_grows() -> None:
    """It is no larger after the period, for any excess of at least a_b dt²/8 (the filter's least position margin)."""
    known = (*SANE, a_b >= a, 8 * e >= a_b * dt * dt, excess_within(e, room, v), WIDENED)
    prove(excess_within(e, room - travel(A, dt), v + A * dt), *known)


def test_a_joint_outside_that_moves_in_moves_no_further_out() -> None:
    """Outside at v ≤ 0 no instant of the period is further out than its start."""
    prove(travel(A) <= 0, *SANE, *DURING, a_b >= a, room < 0, v <= 0, WIDENED)


# -- planted bugs: z3 finds each of them as numbers -------------------------------------------------------------------

STATE = (*SANE, viable(room, v))


def broken(found: dict[str, float], samples: int = 2001) -> float:
    """How far the counterexample passes its limit in the period or in the stop after it, in plain floats."""
    s = np.linspace(0.0, found["dt"], samples)
    if "t" in found:
        s = np.append(s, found["t"])
    way = found["v"] * s + 0.5 * found["A"] * s * s
    speed = found["v"] + found["A"] * found["dt"]
    end = way[samples - 1] + max(speed, 0.0) ** 2 / (2.0 * found["a"])
    return float(max(way.max(), end) - found["room"])


def forbidden(found: dict[str, float]) -> bool:
    """The code's own bound excludes the counterexample's acceleration."""
    return found["A"] > code_bound(found["room"], found["v"], found["a"], found["dt"])


def test_bug_only_the_end_of_the_period_is_checked() -> None:
    """A joint that turns round passes the limit in between, though its end is inside and viable."""
    end = viable(room - travel(A, dt), v + A * dt)
    found = refute(travel(A) <= room, *STATE, *DURING, end)
    assert broken(found) > 0.0
    assert forbidden(found)


def test_bug_the_way_of_the_period_is_forgotten() -> None:
    """C = −2 a room, without v dt: the stop ends beyond the limit."""
    after = v + u * dt
    planted = z3.And(after >= 0, after * after + a * dt * after - 2 * a * room == 0)
    found = refute(viable(room - travel(A, dt), v + A * dt), *STATE, planted, A <= u)
    assert broken(found) > 0.0
    assert forbidden(found)


def test_bug_the_lower_side_is_not_mirrored() -> None:
    """The lower bound computed with v instead of −v: the joint leaves downwards."""
    mirrored = (*SANE, viable(below, -v), largest(u, below, v), A >= -u)
    found = refute(viable(below + travel(A, dt), -v - A * dt), *mirrored)
    flipped = {**found, "room": found["below"], "v": -found["v"], "A": -found["A"]}
    assert broken(flipped) > 0.0
    assert forbidden(flipped)


def test_bug_the_bound_looks_at_the_present_speed_only() -> None:
    """Whatever is allowed while v² < 2 a room: continuous time does not do for a sampled joint."""
    found = refute(viable(room - travel(A, dt), v + A * dt), *STATE, v * v < 2 * a * room, A <= a_max, a_max > 0)
    assert broken(found) > 0.0
    assert forbidden(found)


def test_bug_stops_are_planned_with_all_of_the_brake() -> None:
    """A bound planned with a_b, and a disturbance that takes W off the brake: braking no longer stops in time."""
    disturbed = (W > 0, W < a_b, A == W - a_b, v > a_b * dt, a == a_b)
    refute(viable(room - travel(A, dt), v + A * dt), *STATE, *disturbed)
