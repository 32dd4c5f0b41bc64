from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import ArrayLike

from safeguard.core.config import PlanConfig
from safeguard.core.enums import Cause, Level, Reference
from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S, ActionSpec, Observation, Proposal, RobotState, Sensor, Vector, Verdict
from safeguard.monitors.plan import PlanSanity, Verdicts
from safeguard.scenarios.fault_params import TorqueSpikesParams
from safeguard.scenarios.faults import build
from safeguard.scenarios.push import READY, PushExpert
from safeguard.scenarios.scenario import load_scenario

ROWS = 8
T = 50_000_000  # ns between rows
LIMITS = (np.array([1.0, 2.0]), np.array([5.0, 10.0]))  # speeds and accelerations
MOTIONS = {
    Reference.ABSOLUTE: "rad",
    Reference.PD_TARGET: "rad",
    Reference.CHUNK_RELATIVE: "rad",
    Reference.DELTA: "rad",
    Reference.VELOCITY: "rad/s",
}


def spec(reference: Reference = Reference.ABSOLUTE, unit: str = "", rows: int = ROWS) -> ActionSpec:
    """Chunks for the joints a and b at 20 rows a second."""
    gain = 1.0 if reference is Reference.PD_TARGET else None
    return ActionSpec(("a", "b"), unit or MOTIONS[reference], reference, 20.0, rows, kp=gain, kd=gain)


def checked(reference: Reference = Reference.ABSOLUTE, rows: int = ROWS, **bounds: float) -> PlanSanity:
    """The check for such chunks."""
    return PlanSanity(spec(reference, rows=rows), ("a", "b"), *LIMITS, PlanConfig.model_validate(bounds))


def chunk(actions: ArrayLike, t_obs: int = 0) -> Proposal:
    """A proposal of these actions."""
    return Proposal(np.asarray(actions, float), t_obs, t_obs, "test", 0)


def at(q: ArrayLike, t: int = 0) -> RobotState:
    """Joints at rest."""
    return RobotState(np.asarray(q, float), np.zeros(np.size(q)), t)


def rows_of(steps: Vector, reference: Reference) -> Vector:
    """Actions that move the joints from 0 by these steps, shape (ROWS, 2)."""
    if reference is Reference.DELTA:
        return steps
    return steps * 20.0 if reference is Reference.VELOCITY else np.cumsum(steps, axis=0)


def smooth() -> Vector:
    """Steps at half the speed limit, bent a little."""
    return 0.05 * LIMITS[0] * np.sin(np.linspace(0.3, 2.5, ROWS))[:, None] * 0.5


def causes(verdicts: Sequence[Verdict]) -> set[str]:
    """Names of the verdicts with a cause, which is always MONITOR_WARN at the level of a warning."""
    found = [verdict for verdict in verdicts if verdict.cause is not None]
    assert all((verdict.cause, verdict.level) == (Cause.MONITOR_WARN, Level.WARN) for verdict in found)
    assert all(verdict.score > verdict.threshold for verdict in found)
    return {verdict.monitor for verdict in found}


def judge(steps: Vector, reference: Reference = Reference.ABSOLUTE) -> Verdicts:
    """Verdicts on these steps from joints at 0."""
    return checked(reference).check(chunk(rows_of(steps, reference)), at([0.0, 0.0]))


@pytest.mark.parametrize("reference", MOTIONS)
def test_a_smooth_chunk_is_sane(reference: Reference) -> None:
    """Whatever the rows refer to: three verdicts, all OK, constants."""
    one, two = checked(reference), chunk(rows_of(smooth(), reference))
    verdicts = one.check(two, at([0.0, 0.0]))
    assert [verdict.monitor for verdict in verdicts] == ["plan.jump", "plan.curvature", "plan.reversals"]
    assert all(verdict.level is Level.OK for verdict in verdicts)
    assert all(a is b for a, b in zip(verdicts, one.check(two, at([0.0, 0.0])), strict=True))


@pytest.mark.parametrize("reference", MOTIONS)
def test_a_step_beyond_four_times_the_speed_limit_is_a_jump(reference: Reference) -> None:
    """The detail names the joint, the row, the size and the limit: 0.05 s · 2 rad/s · 4 = 0.4 rad for joint b."""
    steps = smooth()
    steps[5, 1] = 0.41
    jump = judge(steps, reference)[0]
    assert "plan.jump" in causes([jump])
    assert jump.detail == "b is to move 0.41 rad to row 5, limit 0.4 rad"
    steps[5, 1] = 0.39
    assert "plan.jump" not in causes(judge(steps, reference))


@pytest.mark.parametrize("reference", MOTIONS)
def test_steps_that_differ_beyond_eight_times_the_acceleration_limit_bend(reference: Reference) -> None:
    """8 · 5 rad/s² · (0.05 s)² = 0.1 rad for joint a; just below is the twin."""
    steps = np.zeros((ROWS, 2))
    steps[4:, 0] = 0.101
    verdicts = judge(steps, reference)
    assert causes(verdicts) == {"plan.curvature"}
    assert "a differ by 0.101 rad at row 3, limit 0.1 rad" in verdicts[1].detail
    steps[4:, 0] = 0.099
    assert causes(judge(steps, reference)) == set()


@pytest.mark.parametrize("reference", MOTIONS)
def test_five_changes_of_direction_are_too_many(reference: Reference) -> None:
    """Four are allowed, and a joint that trembles within the dead band (2 % of the speed limit) stands."""
    signs = np.array([1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    steps = np.zeros((ROWS, 2))
    steps[:, 1] = 0.003 * signs
    verdicts = judge(steps, reference)
    assert causes(verdicts) == {"plan.reversals"}
    assert verdicts[2].detail == "b turns back 5 times in 8 rows, limit 4"
    steps[-1, 1] = steps[-2, 1]
    assert causes(judge(steps, reference)) == set()
    steps[:, 1] = 0.0019 * signs
    assert causes(judge(steps, reference)) == set()


def test_a_pause_is_no_reversal_and_hides_none() -> None:
    """Standing between two moves in one direction is nothing; between opposite ones it is one change."""
    steps = np.zeros((ROWS, 2))
    steps[:, 0] = [0.01, 0.0, 0.01, 0.0, 0.01, 0.0, 0.01, 0.0]
    assert causes(judge(steps)) == set()
    steps[:, 0] *= [1, 1, -1, 1, 1, 1, -1, 1]
    verdicts = checked(Reference.DELTA, reversals=2).check(chunk(steps), None)
    assert causes(verdicts) == {"plan.reversals"}
    assert "3 times" in verdicts[2].detail


def test_the_first_row_is_where_the_joints_can_be() -> None:
    """Joint a can be 0.2 rad away in one row; twice that if the row is two rows from the state in time."""
    check, rows = checked(), np.full((ROWS, 2), 0.21)
    far = check.check(chunk(rows), at([0.0, 0.21]))
    assert causes(far) == {"plan.jump"}
    assert far[0].detail == "a is to move 0.21 rad to row 0, limit 0.2 rad"
    assert causes(check.check(chunk(rows), at([0.02, 0.21]))) == set()
    assert causes(check.check(chunk(rows), at([0.0, 0.21], 3 * T))) == set()


def test_the_first_row_of_a_relative_chunk_is_a_way_from_zero() -> None:
    """Wherever the joints are."""
    far = checked(Reference.CHUNK_RELATIVE).check(chunk(np.full((ROWS, 2), 0.21)), at([0.21, 0.21]))
    assert causes(far) == {"plan.jump"}


def test_targets_of_a_drive_may_lead_the_joints() -> None:
    """Between them the bounds hold."""
    assert causes(checked(Reference.PD_TARGET).check(chunk(np.full((ROWS, 2), 9.0)), at([0.0, 0.0]))) == set()


@pytest.mark.parametrize("state", [None, at([0.0]), at([np.nan, 0.0])])
def test_without_a_state_only_the_rows_are_compared(state: RobotState | None) -> None:
    """That the way to the first row was not looked at is said; a jump between rows is found all the same."""
    check = checked()
    jump = check.check(chunk(np.full((ROWS, 2), 9.0)), state)[0]
    assert (jump.level, jump.cause) == (Level.UNPROVEN, None)
    assert "first row" in jump.detail
    rows = np.zeros((ROWS, 2))
    rows[4:] = 9.0
    assert "plan.jump" in causes(check.check(chunk(rows), state))


def test_verdicts_stand_until_the_next_chunk() -> None:
    """The very same ones; the next episode starts without."""
    check = checked()
    assert [(v.monitor, v.level) for v in check.check(None, at([0.0, 0.0]))] == [("plan", Level.UNPROVEN)]
    bad = check.check(chunk(np.full((ROWS, 2), 9.0)), at([0.0, 0.0]))
    assert all(check.check(None, at([0.0, 0.0], k)) is bad for k in range(5))
    assert causes(check.check(chunk(np.zeros((ROWS, 2))), at([0.0, 0.0]))) == set()
    check.reset()
    assert "no chunk yet" in check.check(None, None)[0].detail


@pytest.mark.parametrize(
    ("reference", "unit"),
    [(Reference.TORQUE, "N.m"), (Reference.POSE, "m"), (Reference.TOKENS, ""), (Reference.ABSOLUTE, "deg")],
)
def test_what_is_no_joint_motion_is_not_evaluated(reference: Reference, unit: str) -> None:
    """One verdict, UNPROVEN, says so, whatever arrives; joints need not be the robot's."""
    action = ActionSpec(("x", "y"), unit, reference, 20.0, ROWS)
    check = PlanSanity(action, ("a", "b"), *LIMITS)
    (verdict,) = check.check(chunk(np.full((ROWS, 2), 1e6)), at([0.0, 0.0]))
    assert (verdict.level, verdict.cause) == (Level.UNPROVEN, None)
    assert verdict.detail == f"not evaluated for {reference.value} actions in {unit!r}"


def test_what_is_too_short_to_be_judged_is_unproven() -> None:
    """A single place is a set point, however far; six rows have no five reversals."""
    one = checked(rows=1).check(chunk([[9.0, 9.0]]), at([0.0, 0.0]))
    assert {verdict.level for verdict in one} == {Level.UNPROVEN}
    assert "set point" in one[0].detail
    few = checked(rows=6).check(chunk(np.zeros((6, 2))), at([0.0, 0.0]))
    assert [verdict.level for verdict in few] == [Level.OK, Level.OK, Level.UNPROVEN]
    target = checked(Reference.PD_TARGET, rows=1).check(chunk([[0.1, 0.1]]), at([0.0, 0.0]))
    assert all(verdict.level is Level.UNPROVEN for verdict in target)


def test_columns_are_bound_by_name() -> None:
    """The limits are those of the joint that a column is named after."""
    swapped = ActionSpec(("b", "a"), "rad", Reference.ABSOLUTE, 20.0, ROWS)
    check = PlanSanity(swapped, ("a", "b"), *LIMITS)
    rows = np.zeros((ROWS, 2))
    rows[:, 0] = 0.3  # of b
    assert causes(check.check(chunk(rows), at([0.0, 0.0]))) == set()
    assert causes(check.check(chunk(rows[:, ::-1]), at([0.0, 0.0]))) == {"plan.jump"}


def test_limits_and_joints_are_the_robots() -> None:
    """Anything else is an error that names what differs."""
    with pytest.raises(SpecError, match="differ: c"):
        PlanSanity(spec(), ("a", "b", "c"), np.ones(3), np.ones(3))
    with pytest.raises(ConfigError, match="positive a_max"):
        PlanSanity(spec(), ("a", "b"), np.ones(2), np.zeros(2))


# -- properties ----------------------------------------------------------------------------------------------

anything = st.floats(allow_nan=True, allow_infinity=True)
moves = arrays(np.float64, (ROWS, 2), elements=st.floats(-1.0, 1.0, width=32))


@given(
    st.sampled_from(list(MOTIONS)),
    arrays(np.float64, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=ROWS), elements=anything)
    | arrays(np.float64, (ROWS, 2), elements=anything | st.just(1e308) | st.just(-1e308)),
    st.none() | arrays(np.float64, st.integers(0, 3), elements=anything).map(at),
    st.integers(-(1 << 63), (1 << 63) - 1),
)
def test_any_chunk_gets_a_verdict(reference: Reference, actions: Vector, state: RobotState | None, t: int) -> None:
    """Never an exception; what cannot be compared is UNPROVEN."""
    verdicts = checked(reference).check(chunk(actions, t), state)
    if actions.shape != (ROWS, 2) or not np.isfinite(actions).all():
        assert [(verdict.monitor, verdict.level) for verdict in verdicts] == [("plan", Level.UNPROVEN)]
    else:
        assert [verdict.monitor for verdict in verdicts] == ["plan.jump", "plan.curvature", "plan.reversals"]


def test_differences_that_overflow_are_jumps() -> None:
    """±1e308 in turn: no number is infinite, every difference is."""
    rows = np.full((ROWS, 2), 1.7e308)
    rows[::2] *= -1.0
    verdicts = checked().check(chunk(rows), at([0.0, 0.0]))
    assert all(verdict.cause is Cause.MONITOR_WARN for verdict in verdicts)


@given(moves, st.sampled_from(list(MOTIONS)), st.integers(-8, 8), arrays(np.float64, 2, elements=st.floats(-1, 1)))
def test_scale_does_not_matter(steps: Vector, reference: Reference, power: int, q: Vector) -> None:
    """Positions and limits in another unit, by a power of two so that rounding is the same: the same causes."""
    factor = 2.0**power
    config = PlanConfig(reversals=2)
    one = PlanSanity(spec(reference), ("a", "b"), *LIMITS, config)
    two = PlanSanity(spec(reference), ("a", "b"), LIMITS[0] * factor, LIMITS[1] * factor, config)
    rows = rows_of(steps, reference)
    first, second = one.check(chunk(rows), at(q)), two.check(chunk(rows * factor), at(q * factor))
    assert [verdict.cause for verdict in first] == [verdict.cause for verdict in second]


@given(moves, st.sampled_from(list(MOTIONS)), st.integers(0, 1 << 61), st.integers(-3 * T, 3 * T))
def test_time_does_not_matter(steps: Vector, reference: Reference, shift: int, age: int) -> None:
    """A chunk and a state that are both later by the same time: the same verdicts."""
    rows, check = rows_of(steps, reference), checked(reference)
    first = check.check(chunk(rows), at([0.0, 0.0], age))
    assert repr(first) == repr(check.check(chunk(rows, shift), at([0.0, 0.0], age + shift)))


@given(moves)
def test_bounds_are_those_of_the_definition(steps: Vector) -> None:
    """Every step, every difference of neighbours and every turn against its bound, one by one."""
    reach, bend = 0.05 * LIMITS[0], 0.0025 * LIMITS[1]
    rows = np.cumsum(steps, axis=0)
    moved = np.diff(rows, axis=0)
    jumps = any(abs(x) > 4 * reach[j] for row in [rows[0], *moved] for j, x in enumerate(row))
    bends = any((np.abs(b - a) > 8 * bend).any() for a, b in pairwise(moved))
    turns = 0
    for j in range(2):
        moving = [x > 0 for x in moved[:, j] if abs(x) > 0.02 * reach[j]]
        turns = max(turns, sum(a != b for a, b in pairwise(moving)))
    expected = {name for name, broken in (("jump", jumps), ("curvature", bends), ("reversals", turns > 4)) if broken}
    assert causes(judge(steps)) == {f"plan.{name}" for name in expected}


# -- the library's fault ---------------------------------------------------------------------------------------


def of_expert(severity: int, episode: int) -> list[set[str]]:
    """Causes of twenty chunks of the demo's scripted policy under the library's torque spikes."""
    robot = RobotModel.load("panda")
    expert = PushExpert(robot)
    (params,) = load_scenario("torque_spikes").faults
    assert isinstance(params, TorqueSpikesParams)
    fault = build(params.model_copy(update={"severity": severity}), robot, expert.spec, campaign=0, episode=episode)
    check = PlanSanity(expert.spec, robot.joints, robot.limits.v_max, robot.limits.a_max)
    found = list[set[str]]()
    for k in range(20):
        t = k * NS_PER_S // 10
        q = READY + 0.05 * np.sin(0.3 * k)
        sensors = {"puck": Sensor(np.array([0.6, 0.0]), t), "goal": Sensor(np.array([0.72, 0.02]), t)}
        observation = Observation(RobotState(q, np.zeros(robot.n), t), sensors)
        proposal = fault.emit(expert.infer(observation), observation)
        found.append(causes(check.check(proposal, observation.state)))
    return found


def test_torque_spikes_of_the_library_trip_and_their_twin_does_not() -> None:
    """Severity 3: whenever a row was hit that leaves the others behind, which is nearly every chunk; 0: never."""
    hit = of_expert(3, 0)
    assert sum("plan.curvature" in found for found in hit) >= 15
    assert sum("plan.jump" in found for found in hit) >= 15
    assert of_expert(0, 0) == [set()] * 20
