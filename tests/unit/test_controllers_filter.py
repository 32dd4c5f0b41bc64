"""The filter's outcomes one by one: who moves the arm, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from safeguard.controllers.brake import StopPlan
from safeguard.controllers.filter import SafetyFilter
from safeguard.controllers.viability import braking_point
from safeguard.core.enums import FilterStatus, NominalKind, SolverStatus
from safeguard.core.errors import ConfigError
from safeguard.core.types import Nominal, RobotState
from tests.unit.controllers_support import (
    DT,
    DT_NS,
    QUICK,
    capsule_distances,
    panda,
    quick_filter,
    state_at,
    toward_contact,
)

HOME = panda().home
STILL = state_at(HOME)
MOVING = RobotState(HOME, np.array([0.4, -0.3, 0.5, 0.2, -0.4, 0.3, 0.6]), 0)


@pytest.fixture(scope="module")
def shared() -> SafetyFilter:
    """One filter for all tests here."""
    return quick_filter()


@pytest.fixture
def filt(shared: SafetyFilter) -> SafetyFilter:
    """The filter at rest at home."""
    shared.reset(STILL)
    return shared


def plan_of(filt: SafetyFilter) -> StopPlan:
    """The stored stop; there must be one."""
    assert filt.plan is not None
    return filt.plan


def next_tick(state: RobotState, k: int = 1) -> RobotState:
    """The same state, ``k`` periods later."""
    return RobotState(state.q, state.v, state.t + k * DT_NS)


# -- inputs ---------------------------------------------------------------------------------------------


def test_each_kind_of_proposal_means_its_motion(filt: SafetyFilter) -> None:
    """Torque, acceleration, velocity and position requests for one gentle motion give that motion's torque."""
    filt.dynamics.during(MOVING.q, MOVING.v, DT)
    a = np.full(7, 0.4)
    tau = filt.dynamics.torque(a)
    kp, kd = np.full(7, 50.0), np.full(7, 4.0)
    target = MOVING.q + (tau + kd * MOVING.v) / kp
    requests: list[dict[str, Any]] = [
        {"torque": tau},
        {"acceleration": a},
        {"velocity": MOVING.v + a * DT},
        {"position": target, "kp": kp, "kd": kd},
    ]
    for request in requests:
        filt.reset(MOVING)
        result = filt(MOVING, **request)
        assert result.status is FilterStatus.ADMISSIBLE
        np.testing.assert_allclose(result.torque, tau, atol=1e-9)
        np.testing.assert_allclose(result.acceleration, a, atol=1e-9)


def test_what_is_not_sent_is_taken_back(filt: SafetyFilter) -> None:
    """The backup asked for in the tick of a commit follows the stop from before it, as if there had been none."""
    twin = SafetyFilter(panda(), DT, filt.config)
    for each in (filt, twin):
        each.reset(MOVING)
    plan = filt.plan
    later = RobotState(MOVING.q + MOVING.v * DT, MOVING.v, MOVING.t + 2_000_000)
    assert filt(later, acceleration=np.full(7, 0.4)).status is FilterStatus.ADMISSIBLE
    assert filt.plan is not plan
    assert filt.backup(later).torque.tobytes() == twin.backup(later).torque.tobytes()
    assert filt.plan is plan
    after = RobotState(later.q + later.v * DT, later.v, later.t + 2_000_000)
    assert filt.backup(after).torque.tobytes() == twin.backup(after).torque.tobytes()


def test_only_a_commit_of_this_tick_is_taken_back(filt: SafetyFilter) -> None:
    """A tick that ended in the backup asks again without going back to a stop of an earlier commit."""
    filt.reset(MOVING)
    first = next_tick(MOVING)
    filt(first, acceleration=np.zeros(7))
    plan, second = filt.plan, next_tick(first)
    refused = filt(second, acceleration=np.full(7, np.nan))
    assert refused.status is FilterStatus.BACKUP
    filt.backup(second)
    assert filt.plan is plan


@pytest.mark.parametrize(
    "request_",
    [
        {"torque": np.full(7, 500.0)},
        {"acceleration": np.full(7, 300.0)},
        {"velocity": np.full(7, -9.0)},
        {"position": HOME + 2.0, "kp": np.full(7, 600.0), "kd": np.full(7, 10.0)},
    ],
    ids=lambda r: next(iter(r)),
)
def test_each_kind_of_excess_is_corrected_within_every_limit(filt: SafetyFilter, request_: dict[str, Any]) -> None:
    """The answer is the QP's, within torque, acceleration and speed limits, and says what binds and how much."""
    result = filt(STILL, **request_)
    limits = panda().limits
    assert result.status is FilterStatus.CORRECTED
    assert (np.abs(result.torque) <= limits.tau_max).all()
    assert (np.abs(result.acceleration) <= limits.a_max).all()
    assert (np.abs(result.acceleration * DT) <= limits.v_max).all()
    assert result.effort > 1.0
    assert result.active
    kinds = {name.split(":")[0] for name in result.active}
    assert kinds <= {"lower", "upper", "torque", "clearance"}
    assert {name.split(":")[1] for name in result.active} <= {*panda().joints, *panda().collision.names}
    assert result.margins.torque >= 0.0
    assert result.margins.velocity >= 0.0


def test_only_the_joint_that_is_too_fast_is_changed(filt: SafetyFilter) -> None:
    """The closest allowed motion: one joint at its bound, the other six as proposed."""
    wanted = np.array([0.1, 0.2, -0.1, 0.1, 99.0, 0.1, -0.2])
    result = filt(STILL, acceleration=wanted)
    others = np.arange(7) != 4
    np.testing.assert_allclose(result.acceleration[others], wanted[others], atol=5e-3)
    assert result.acceleration[4] == pytest.approx(15.0, abs=0.01)
    assert result.active == ("upper:panda_joint5",)
    assert result.effort == pytest.approx((99.0 - 15.0) / 15.0, rel=1e-2)


@pytest.mark.parametrize("proposals", [{}, {"torque": np.zeros(7), "velocity": np.zeros(7)}])
def test_not_exactly_one_proposal_is_a_wiring_error(filt: SafetyFilter, proposals: dict[str, Any]) -> None:
    """None or two kinds raise ConfigError and name the kinds."""
    with pytest.raises(ConfigError, match="exactly one of torque, acceleration, velocity, position"):
        filt(STILL, **proposals)


@pytest.mark.parametrize("gains", [{}, {"kp": np.ones(7)}, {"kd": np.ones(7)}])
def test_a_position_needs_gains(filt: SafetyFilter, gains: dict[str, Any]) -> None:
    """A position request without kp or kd is a wiring error."""
    with pytest.raises(ConfigError, match="kp and kd"):
        filt(STILL, position=HOME, **gains)


@pytest.mark.parametrize("dt", [0.0, -0.001, 0.021, float("nan")])
def test_a_period_that_cannot_work_is_refused(dt: float) -> None:
    """Zero, negative, long or NaN control periods raise and say the range."""
    with pytest.raises(ConfigError, match="control period"):
        SafetyFilter(panda(), dt, QUICK)


# -- the stop that is always ready ----------------------------------------------------------------------


def test_every_committed_motion_leaves_the_stop_from_where_it_leads(filt: SafetyFilter) -> None:
    """After admissible and corrected ticks alike the stored stop starts at the predicted next state (law 3)."""
    for wanted in (np.full(7, 0.3), np.full(7, 200.0)):
        filt.reset(MOVING)
        result = filt(MOVING, acceleration=wanted)
        plan, a = plan_of(filt), result.acceleration
        np.testing.assert_allclose(plan.v0, MOVING.v + a * DT, atol=1e-12)
        np.testing.assert_allclose(plan.q0, MOVING.q + MOVING.v * DT + 0.5 * a * DT * DT, atol=1e-12)
        assert plan.t0 == MOVING.t + DT_NS
        assert not plan.q0.flags.writeable


def test_a_backup_tick_does_not_touch_the_stored_stop(filt: SafetyFilter) -> None:
    """The verified stop is the same object until a verified one replaces it."""
    filt(STILL, acceleration=np.full(7, 0.3))
    before = filt.plan
    filt(next_tick(STILL), torque=np.full(7, np.nan))
    filt.backup(next_tick(STILL, 2))
    filt.backup(None)
    assert filt.plan is before
    filt(next_tick(STILL, 4), acceleration=np.zeros(7))
    assert filt.plan is not before


def test_a_nan_is_answered_by_the_stored_stop_not_by_the_last_proposal(filt: SafetyFilter) -> None:
    """From motion, NaN ticks follow the stored reference down to rest within its duration, then hold."""
    filt.reset(MOVING)
    filt(MOVING, acceleration=np.full(7, 0.5))
    plan = plan_of(filt)
    last = np.full(7, np.nan)
    for k in range(200):
        t = plan.t0 + k * DT_NS
        q, v = plan.at(k * DT)
        result = filt(RobotState(q, v, t), torque=np.full(7, np.nan))
        assert result.status is FilterStatus.BACKUP
        assert result.solver is SolverStatus.REJECTED
        assert "finite" in result.refusal
        np.testing.assert_allclose(result.acceleration, plan.acceleration(k * DT, DT), atol=1e-6)
        last = result.acceleration
    assert plan.durations.max() < 199 * DT
    np.testing.assert_allclose(last, 0.0, atol=1e-9)


def test_after_a_nan_good_proposals_are_followed_again(filt: SafetyFilter) -> None:
    """One bad value leaves no trace in the next tick's answer."""
    filt(STILL, acceleration=np.full(7, 200.0))
    filt(next_tick(STILL), acceleration=np.full(7, np.nan))
    after = filt(next_tick(STILL, 2), acceleration=np.full(7, 200.0))
    filt.reset(STILL)
    filt(STILL, acceleration=np.full(7, 200.0))
    undisturbed = filt(next_tick(STILL, 2), acceleration=np.full(7, 200.0))
    assert after.status is FilterStatus.CORRECTED
    assert after.torque.tobytes() == undisturbed.torque.tobytes()


def test_without_a_state_the_backup_is_feed_forward_and_walks_on(filt: SafetyFilter) -> None:
    """No measurement to trust: the reference advances one period per call, and ends in gravity compensation."""
    filt.reset(MOVING)
    filt(MOVING, acceleration=np.zeros(7))
    plan = plan_of(filt)
    last = np.full(7, np.nan)
    for k in range(1, 120):
        result = filt.backup(None)
        assert result.status is FilterStatus.BACKUP
        s = (k - 1) * DT
        np.testing.assert_allclose(result.acceleration, plan.acceleration(s, DT), atol=1e-6)
        last = result.torque
    filt.dynamics.update(plan.at(9.0)[0], np.zeros(7))
    np.testing.assert_allclose(last, filt.dynamics.torque(np.zeros(7)), atol=1e-6)


def test_a_state_whose_clock_stands_still_does_not_stop_the_stop(filt: SafetyFilter) -> None:
    """With a repeated time stamp the reference moves on by one period per call."""
    filt.reset(MOVING)
    filt(MOVING, acceleration=np.zeros(7))
    plan = plan_of(filt)
    frozen = RobotState(*plan.at(0.0), plan.t0)
    first, second = filt.backup(frozen), filt.backup(frozen)
    pull = 900.0 * (plan.at(DT)[0] - plan.q0) + 60.0 * (plan.at(DT)[1] - plan.v0)
    np.testing.assert_allclose(second.acceleration - first.acceleration, pull, atol=1e-6)


def test_before_any_state_the_backup_is_the_terminal_stop() -> None:
    """Nothing stored, nothing measured: REFUSED, with zero torque and a reason."""
    result = quick_filter().backup(None)
    assert result.status is FilterStatus.REFUSED
    assert result.source == "terminal_stop"
    np.testing.assert_array_equal(result.torque, 0.0)
    assert "no stop is stored" in result.refusal


def test_reset_forgets_and_with_a_state_stores_its_stop(filt: SafetyFilter) -> None:
    """``reset()`` leaves no stop; ``reset(state)`` the stop from that state; a first call does the same itself."""
    filt.reset()
    assert filt.plan is None
    filt.reset(MOVING)
    np.testing.assert_array_equal(plan_of(filt).q0, MOVING.q)
    np.testing.assert_array_equal(plan_of(filt).v0, MOVING.v)
    filt.reset()
    assert filt(MOVING, torque=np.full(7, np.nan)).status is FilterStatus.BACKUP
    np.testing.assert_array_equal(plan_of(filt).v0, MOVING.v)


def test_the_first_backup_after_a_reset_starts_at_the_start(filt: SafetyFilter) -> None:
    """At the state and time of the reset the reference is that state: the acceleration is pure feed-forward."""
    filt.reset(MOVING)
    result = filt.backup(MOVING)
    np.testing.assert_allclose(result.acceleration, plan_of(filt).acceleration(0.0, DT), atol=1e-6)


# -- reporting ------------------------------------------------------------------------------------------


def test_an_arm_pushed_against_itself_is_stuck_after_a_while_and_says_so(filt: SafetyFilter) -> None:
    """Standing still against a moving proposal is reported after ``stuck_s``, and forgotten when it moves on."""
    state = state_at(panda().limits.q_max - 0.002)
    state = state_at(np.where(np.arange(7) == 0, state.q, HOME))
    filt.reset(state)
    push = np.where(np.arange(7) == 0, 5.0, 0.0)
    ticks = round(QUICK.stuck_s / DT)
    results = [filt(next_tick(state, k), acceleration=push) for k in range(ticks + 1)]
    assert not any(result.stuck for result in results[: ticks - 1])
    assert results[-1].stuck
    assert not filt(next_tick(state, ticks + 1), acceleration=-push).stuck


def test_margins_are_distances_to_the_limits(filt: SafetyFilter) -> None:
    """Position and speed after the tick, torque of the tick, and the nearest pair now with its name."""
    result = filt(MOVING, acceleration=np.zeros(7))
    limits, distances = panda().limits, capsule_distances(panda(), MOVING.q)
    after = MOVING.q + MOVING.v * DT
    margins = result.margins
    assert margins.position == pytest.approx(np.minimum(limits.q_max - after, after - limits.q_min).min())
    assert margins.velocity == pytest.approx((limits.v_max - np.abs(MOVING.v)).min())
    assert margins.torque == pytest.approx((limits.tau_max - np.abs(result.torque)).min())
    assert margins.clearance == pytest.approx(distances.min(), abs=1e-9)
    assert margins.nearest == panda().collision.names[int(distances.argmin())]


def test_relaxed_clearance_rows_are_reported_as_slack(filt: SafetyFilter) -> None:
    """Inside the buffer even braking cannot keep the row: the result names the pair and the amount."""
    q = toward_contact()
    while capsule_distances(panda(), q).min() > 0.006:
        q[3] -= 1e-4
    result = filt(state_at(q), acceleration=np.zeros(7))
    assert len(result.slack) >= 1
    name, amount = result.slack[0]
    assert name.removeprefix("clearance:") in panda().collision.names
    assert amount > QUICK.slack_tolerance_m


def test_a_filter_result_cannot_be_edited(filt: SafetyFilter) -> None:
    """Torques are read-only: nothing edits a command after the checker (law 1)."""
    mine = np.zeros(7)
    filt.dynamics.update(HOME, np.zeros(7))
    mine[:] = filt.dynamics.torque(np.zeros(7))
    result = filt(STILL, torque=mine)
    mine[:] = 99.0
    assert np.abs(result.torque).max() < 99.0
    with pytest.raises(ValueError, match="read-only"):
        result.torque[0] = 1.0


def test_a_state_beyond_a_limit_is_answered_with_motion_inwards_or_rest(filt: SafetyFilter) -> None:
    """0.05 rad outside a limit, and too fast, proposals outwards brake; proposals inwards are followed."""
    limits = panda().limits
    q = np.where(np.arange(7) == 6, limits.q_max + 0.05, HOME)
    for speed in (0.0, 0.3):
        state = RobotState(q, np.where(np.arange(7) == 6, speed, 0.0), 0)
        filt.reset(state)
        outwards = filt(state, acceleration=np.where(np.arange(7) == 6, 20.0, 0.0))
        assert outwards.acceleration[6] <= braking_point(state.v, filt.a_brake, DT)[6] + 5e-3
        filt.reset(state)
        inwards = filt(state, acceleration=np.where(np.arange(7) == 6, -10.0, 0.0))
        assert inwards.acceleration[6] <= -8.9


def test_apply_is_the_call(filt: SafetyFilter) -> None:
    """``apply`` with a Nominal and the call with a keyword agree in every bit."""
    filt.reset(MOVING)
    called = filt(MOVING, acceleration=np.full(7, 50.0))
    filt.reset(MOVING)
    applied = filt.apply(MOVING, Nominal(NominalKind.ACCELERATION, np.full(7, 50.0)))
    assert repr(called) == repr(applied)


def test_the_stop_of_a_joint_that_runs_beyond_its_planned_limit_brakes_it(filt: SafetyFilter) -> None:
    """A hair beyond the planned limit and still moving outwards: the stored stop starts at the edge with that speed.

    One that starts there at rest would leave the braking to the feedback, which is soft: a proposal that fails in the
    next tick would let the joint slide through the limit behind it.
    """
    j, made = 6, filt.figures
    q, v = HOME.copy(), np.zeros(7)
    q[j], v[j] = made.q_max[j] + 1e-4, 0.09
    state = RobotState(q, v, 0)
    filt.reset(state)
    result = filt(state, acceleration=np.zeros(7))
    plan = plan_of(filt)
    assert result.status is FilterStatus.CORRECTED
    assert plan.q0[j] == made.q_max[j]
    assert plan.v0[j] == pytest.approx(v[j] + result.acceleration[j] * DT, abs=1e-12)
    assert plan.v0[j] > 0.05
    moved = RobotState(q + DT * v + 0.5 * DT * DT * result.acceleration, plan.v0, DT_NS)
    spoiled = filt(moved, acceleration=np.full(7, np.nan))
    assert spoiled.status is FilterStatus.BACKUP
    assert spoiled.acceleration[j] < -0.9 * made.a_brake[j]
