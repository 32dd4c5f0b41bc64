from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from safeguard.core.config import IntakeConfig
from safeguard.core.enums import Cause, Level, Reference
from safeguard.core.errors import ConfigError
from safeguard.core.types import ActionSpec, JointLimits, Observation, Proposal, RobotState, Vector, Verdict
from safeguard.monitors import Intake

MS = 1_000_000
JOINTS = ("a", "b")
SPEC = ActionSpec(JOINTS, "rad", Reference.ABSOLUTE, 20.0, 3)


def intake(config: IntakeConfig | None = None) -> Intake:
    """Two joints with a limit of 2 rad/s each."""
    return Intake(JOINTS, 0.002, config, velocity=[2.0, 2.0])


def seen(t: int, q: float = 0.0, estop: bool = False) -> Observation:
    """Both joints at ``q``, at rest."""
    return Observation(RobotState(np.full(2, q), np.zeros(2), t), estop=estop)


def chunk(t_obs: int, seq: int, value: float = 0.5) -> Proposal:
    """A well-formed chunk of one repeated number."""
    return Proposal(np.full((3, 2), value), t_obs, t_obs, "test", seq)


def causes(verdicts: tuple[Verdict, ...]) -> set[Cause]:
    """What the verdicts activate."""
    return {verdict.cause for verdict in verdicts if verdict.cause is not None}


def details(verdicts: tuple[Verdict, ...]) -> str:
    """What the verdicts with a cause say."""
    return "; ".join(verdict.detail for verdict in verdicts if verdict.cause is not None)


def test_good_ticks_share_one_constant_answer() -> None:
    """A good observation costs no new objects: every tick returns the same verdicts, all OK."""
    check = intake()
    first = check.observe(seen(0), 0)
    second = check.observe(seen(2 * MS), 2 * MS)
    assert first is second
    assert {verdict.level for verdict in first} == {Level.OK}
    assert len({verdict.monitor for verdict in first}) == 6


@pytest.mark.parametrize(
    ("observation", "now", "cause", "words"),
    [
        (None, 12 * MS, Cause.STATE_STALE, "no observation"),
        (seen(12 * MS, estop=True), 12 * MS, Cause.ESTOP, "emergency stop"),
        (seen(12 * MS, np.nan), 12 * MS, Cause.STATE_INVALID, "q of a is nan"),
        (seen(12 * MS, np.inf), 12 * MS, Cause.STATE_INVALID, "q of a is inf"),
        (seen(11 * MS), 22 * MS, Cause.STATE_STALE, "0.011 s old, limit 0.003 s"),
        (seen(14 * MS), 12 * MS, Cause.STATE_STALE, "0.002 s in the future, limit 0.001 s"),
        (seen(10 * MS), 12 * MS, Cause.STATE_STALE, "came twice"),
        (seen(9 * MS), 12 * MS, Cause.STATE_ORDER, "before 10000000 ns"),
        (seen(12 * MS, 0.02), 12 * MS, Cause.STATE_JUMP, "a moved 0.02 in 0.002 s, limit 0.011"),
        (seen(12 * MS), 10 * MS, Cause.CLOCK_BACKWARDS, "must advance"),
    ],
    ids=lambda value: value.name if isinstance(value, Cause) else None,
)
def test_bad_observations(observation: Observation | None, now: int, cause: Cause, words: str) -> None:
    """Each fault of an observation has its own cause and says the value and the limit."""
    check = intake()
    check.observe(seen(10 * MS), 10 * MS)
    verdicts = check.observe(observation, now)
    assert cause in causes(verdicts)
    assert words in details(verdicts)
    assert len(verdicts) == 6


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), ()])
def test_misshapen_states(shape: tuple[int, ...]) -> None:
    """A state with another number of joints is invalid; nothing is padded."""
    state = RobotState(np.zeros(2), np.zeros(shape), 0)
    assert causes(intake().observe(Observation(state), 0)) == {Cause.STATE_INVALID}


def test_limits_are_inclusive() -> None:
    """Exactly at the age, the future and the jump limit nothing is wrong."""
    check = intake(IntakeConfig(jump_tolerance=0.25, jump_factor=1.0))
    assert causes(check.observe(seen(0), 3 * MS)) == set()
    assert causes(check.observe(seen(1000 * MS), 999 * MS)) == set()
    assert causes(check.observe(seen(1125 * MS, 0.5), 1125 * MS)) == set()


def test_a_stamp_from_the_future_does_not_poison_the_order() -> None:
    """After one state from the far future the next good one is good."""
    check = intake()
    check.observe(seen(0), 0)
    assert causes(check.observe(seen(9999 * MS), 2 * MS)) == {Cause.STATE_STALE}
    assert causes(check.observe(seen(4 * MS), 4 * MS)) == set()


def test_a_clock_that_went_back_stays_an_alarm_until_it_has_caught_up() -> None:
    """Ticks before the newest time seen are all backwards."""
    check = intake()
    check.observe(seen(0), 100 * MS)
    assert Cause.CLOCK_BACKWARDS in causes(check.observe(None, 50 * MS))
    assert Cause.CLOCK_BACKWARDS in causes(check.observe(None, 60 * MS))
    assert Cause.CLOCK_BACKWARDS not in causes(check.observe(None, 102 * MS))


def test_huge_finite_positions_are_a_jump_not_a_warning() -> None:
    """Differences that overflow count as jumps and raise nothing."""
    check = intake()
    check.observe(seen(0, -1.7e308), 0)
    assert causes(check.observe(seen(2 * MS, 1.7e308), 2 * MS)) == {Cause.STATE_JUMP}


def test_reset_forgets_the_episode() -> None:
    """After a reset time and positions may start anywhere."""
    check = intake()
    check.observe(seen(900 * MS, 1.0), 900 * MS)
    check.receive(None, SPEC, 900 * MS, None)
    check.receive(chunk(900 * MS, 7), SPEC, 900 * MS, None)
    check.reset()
    assert causes(check.observe(seen(0), 0)) == set()
    assert check.receive(None, SPEC, 0, None) == ()
    assert causes(check.receive(chunk(0, 0), SPEC, 0, None)) == set()


def with_parts(features: Vector | None = None, samples: Vector | None = None) -> Proposal:
    """A well-formed chunk with extras."""
    return replace(chunk(0, 0), features=features, samples=samples)


@pytest.mark.parametrize(
    ("proposal", "words"),
    [
        ("not a proposal", "got str, expected a Proposal"),
        (chunk(0, 0, np.nan), "6 of 6 numbers in actions are not finite"),
        (chunk(0, 0, -np.inf), "6 of 6 numbers in actions are not finite"),
        (replace(chunk(0, 0), actions=np.zeros((2, 3))), "shape (2, 3), expected (3, 2)"),
        (replace(chunk(0, 0), actions=np.zeros(6)), "shape (6,), expected (3, 2)"),
        (with_parts(features=np.array([0.0, np.nan])), "1 of 2 numbers in features"),
        (with_parts(samples=np.full((1, 3, 2), np.inf)), "6 of 6 numbers in samples"),
        (replace(chunk(0, 0), t_obs=float("nan")), "t_obs is nan, expected an integer"),  # type: ignore[arg-type]
        (replace(chunk(0, 0), seq=None), "seq is None, expected an integer"),  # type: ignore[arg-type]
        (chunk(50 * MS, 0), "0.05 s in the future"),
    ],
)
def test_invalid_proposals(proposal: object, words: str) -> None:
    """Wrong type, shape, stamps or non-finite numbers are PROPOSAL_INVALID and say what was found."""
    verdicts = intake().receive(proposal, SPEC, 0, seen(0))
    assert causes(verdicts) == {Cause.PROPOSAL_INVALID}
    assert words in details(verdicts)


def test_a_verdict_stands_until_the_next_proposal() -> None:
    """A bad proposal stays active in every tick until a good one arrives."""
    check = intake()
    bad = check.receive(chunk(0, 0, np.nan), SPEC, 0, seen(0))
    assert check.receive(None, SPEC, 50 * MS, seen(50 * MS)) is bad
    good = check.receive(chunk(50 * MS, 1), SPEC, 60 * MS, seen(60 * MS))
    assert causes(good) == set()
    assert check.receive(None, SPEC, 62 * MS, None) is good


def test_old_proposals_are_late() -> None:
    """A chunk from an observation older than the limit is POLICY_LATE on arrival."""
    verdicts = intake().receive(chunk(0, 0), SPEC, 201 * MS, None)
    assert causes(verdicts) == {Cause.POLICY_LATE}
    assert "0.201 s old, limit 0.2 s" in details(verdicts)
    assert causes(intake().receive(chunk(0, 0), SPEC, 200 * MS, None)) == set()


@pytest.mark.parametrize(
    ("t_obs", "seq", "words"),
    [
        (20 * MS, 3, "sequence number 3 is not after 3"),
        (20 * MS, 2, "sequence number 2 is not after 3"),
        (10 * MS, 4, "observation time 10000000 ns is not after 10000000 ns"),
        (9 * MS, 4, "observation time 9000000 ns is not after"),
    ],
)
def test_proposals_out_of_order(t_obs: int, seq: int, words: str) -> None:
    """Sequence number and observation time must both increase."""
    check = intake()
    check.receive(chunk(10 * MS, 3), SPEC, 10 * MS, None)
    verdicts = check.receive(chunk(t_obs, seq, 0.6), SPEC, 30 * MS, None)
    assert causes(verdicts) == {Cause.PROPOSAL_ORDER}
    assert words in details(verdicts)


def moving(check: Intake, speed: float, values: list[float]) -> list[set[Cause]]:
    """A chunk every 100 ms, 20 ms after its observation, while the joints move at ``speed`` rad/s."""
    found: list[set[Cause]] = []
    for tick in range(50 * len(values)):
        now = tick * 2 * MS
        observation = seen(now, speed * now * 1e-9)
        assert causes(check.observe(observation, now)) == set()
        if tick % 50 == 10:
            index = tick // 50
            found.append(causes(check.receive(chunk(now - 20 * MS, index, values[index]), SPEC, now, observation)))
    return found


def test_repetition_is_an_alarm_only_in_motion() -> None:
    """Bit-identical chunks are fine at rest; once the joints have moved 0.01 rad since, they are not."""
    assert moving(intake(), 0.0, [0.5] * 4) == [set()] * 4
    assert moving(intake(), 0.2, [0.5, 0.5, 0.6]) == [set(), {Cause.PROPOSAL_REPEATED}, set()]
    assert moving(intake(), 0.2, [0.5, 0.6, 0.5]) == [set()] * 3


def test_repetition_limit_is_inclusive() -> None:
    """A repeated chunk is fine at exactly the tolerance, and an alarm just above it."""
    for moved, expected in ((0.25, set[Cause]()), (0.26, {Cause.PROPOSAL_REPEATED})):
        check = intake(IntakeConfig(repeat_tolerance=0.25))
        check.observe(seen(0), 0)
        check.receive(chunk(0, 0), SPEC, 0, None)
        check.observe(seen(190 * MS, moved), 190 * MS)
        assert causes(check.receive(chunk(190 * MS, 1), SPEC, 190 * MS, None)) == expected


def test_repetition_without_any_good_state_is_no_alarm_and_no_error() -> None:
    """Chunks before the first good state have no motion to be compared with; the first state starts it."""
    check = intake()
    assert causes(check.receive(chunk(0, 0), SPEC, 0, seen(0, np.nan))) == set()
    check.observe(seen(10 * MS, 1.0), 10 * MS)
    assert causes(check.receive(chunk(10 * MS, 1), SPEC, 10 * MS, None)) == set()
    check.observe(seen(20 * MS, 1.02), 20 * MS)
    assert causes(check.receive(chunk(20 * MS, 2), SPEC, 20 * MS, None)) == {Cause.PROPOSAL_REPEATED}


def test_creeping_repetition_is_found() -> None:
    """A run of equal chunks is compared with where it began, however slow the motion."""
    assert moving(intake(), 0.04, [0.5] * 5) == [set()] * 3 + [{Cause.PROPOSAL_REPEATED}] * 2


def test_repetition_can_be_allowed() -> None:
    """A policy that names a fixed goal may repeat itself when its configuration says so."""
    check = intake(IntakeConfig(repeat_tolerance=1e3))
    assert moving(check, 0.2, [0.5] * 3) == [set()] * 3


def test_a_rejected_chunk_counts_as_the_one_before() -> None:
    """A chunk that was refused for its order still is what the next one must not repeat."""
    check = intake()
    check.observe(seen(0), 0)
    check.receive(chunk(0, 5), SPEC, 0, None)
    check.observe(seen(100 * MS, 0.0), 100 * MS)
    assert causes(check.receive(chunk(100 * MS, 4, 0.7), SPEC, 100 * MS, None)) == {Cause.PROPOSAL_ORDER}
    check.observe(seen(200 * MS, 0.1), 200 * MS)
    verdicts = check.receive(chunk(200 * MS, 6, 0.7), SPEC, 200 * MS, None)
    assert causes(verdicts) == {Cause.PROPOSAL_REPEATED}


@pytest.mark.parametrize("velocity", [[2.0], [2.0, 0.0], [2.0, np.nan]])
def test_wrong_limits_are_refused(velocity: list[float]) -> None:
    """A velocity limit that is missing, zero or NaN is a configuration error that names the joints."""
    with pytest.raises(ConfigError, match="one positive velocity limit"):
        Intake(JOINTS, 0.002, velocity=velocity)


def test_wrong_period_is_refused() -> None:
    """A period that is no positive time is a configuration error."""
    with pytest.raises(ConfigError, match="period"):
        Intake(JOINTS, 0.0, velocity=[1.0, 1.0])


numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)
arrays = hnp.arrays(np.float64, st.sampled_from([(2,), (3,), (1, 2)]), elements=numbers)
chunks = hnp.arrays(np.float64, st.sampled_from([(3, 2), (2, 3)]), elements=numbers)
stamps = st.integers(0, 400 * MS)
observations = st.none() | st.builds(Observation, st.builds(RobotState, arrays, arrays, stamps))
proposals = st.none() | st.builds(Proposal, chunks, stamps, stamps, st.just("x"), st.integers(0, 9))
Call: TypeAlias = tuple[Observation | None, Proposal | None, int]
ticks = st.lists(st.tuples(observations, proposals, stamps), max_size=12)


@given(ticks)
def test_nothing_misshapen_or_non_finite_passes(sequence: list[Call]) -> None:
    """Whatever arrives in whatever order: no NaN and no wrong shape goes without a cause; nothing raises."""
    check = intake()
    for observation, proposal, now in sequence:
        found = causes(check.observe(observation, now))
        if observation is None:
            assert Cause.STATE_STALE in found
        elif not _good(observation.state.q, (2,)) or not _good(observation.state.v, (2,)):
            assert Cause.STATE_INVALID in found
        found = causes(check.receive(proposal, SPEC, now, observation))
        if proposal is not None and not _good(proposal.actions, (3, 2)):
            assert Cause.PROPOSAL_INVALID in found


def _good(values: Vector, shape: tuple[int, ...]) -> bool:
    return values.shape == shape and bool(np.isfinite(values).all())


@given(ticks)
def test_intake_is_deterministic(sequence: list[Call]) -> None:
    """Two intakes that see the same calls say the same."""
    one, two = intake(), intake()
    for observation, proposal, now in sequence:
        assert repr(one.observe(observation, now)) == repr(two.observe(observation, now))
        said = repr(one.receive(proposal, SPEC, now, observation))
        assert said == repr(two.receive(proposal, SPEC, now, observation))


# -- reach ---------------------------------------------------------------------------------------------

RANGES = tuple(JointLimits(name, -1.0, 2.0, 2.0, 10.0, 20.0, {}) for name in ("a", "b"))
REACHES = {
    (Reference.ABSOLUTE, "rad"): (-7.0, 8.0),
    (Reference.PD_TARGET, "rad"): (-7.0, 8.0),
    (Reference.VELOCITY, "rad/s"): (-20.0, 20.0),
    (Reference.TORQUE, "N.m"): (-100.0, 100.0),
}


@pytest.mark.parametrize(("meant", "ends"), REACHES.items(), ids=lambda value: str(value[0]))
def test_what_is_far_outside_the_limits_is_a_mistake(meant: tuple[Reference, str], ends: tuple[float, float]) -> None:
    """Two ranges beyond a joint's limits, ten times its speed or torque: refused; a little less is the filter's."""
    gain = 1.0 if meant[0] is Reference.PD_TARGET else None
    spec = ActionSpec(("a", "b"), meant[1], meant[0], 10.0, 2, kp=gain, kd=gain)
    for end, outside in ((ends[0], -0.01), (ends[1], 0.01)):
        for off, refused in ((outside, True), (-outside, False)):
            intake = Intake(("a", "b"), 0.002, velocity=[2.0, 2.0], limits=RANGES)
            actions = np.zeros((2, 2))
            actions[1, 1] = end + off
            verdict = intake.receive(Proposal(actions, 0, 0, "guest", 0), spec, 0, None)[0]
            assert (verdict.cause is Cause.PROPOSAL_INVALID) is refused
            assert ("b is to be at" in verdict.detail) is refused


SINGLE = ActionSpec(("a", "b"), "rad", Reference.ABSOLUTE, 10.0)


def test_proposals_of_different_sources_are_not_compared() -> None:
    """Each source counts for itself: order, repetition and what stands."""
    intake, spec = Intake(("a", "b"), 0.002, velocity=[2.0, 2.0]), SINGLE

    def said(seq: int, t: int, value: float = 0.1) -> Proposal:
        return Proposal(np.full((1, 2), value), t, t, "guest", seq)

    assert not {v.cause for v in intake.receive(said(7, 50), spec, 50, None, "one")} - {None}
    assert not {v.cause for v in intake.receive(said(0, 40), spec, 52, None, "two")} - {None}
    assert Cause.PROPOSAL_ORDER in {v.cause for v in intake.receive(said(7, 51), spec, 54, None, "one")}
    assert not {v.cause for v in intake.receive(None, spec, 56, None, "two")} - {None}
    assert Cause.PROPOSAL_ORDER in {v.cause for v in intake.receive(None, spec, 58, None, "one")}


def test_a_wrong_shape_names_who_said_it() -> None:
    """What a binding refused has its reason in the source; the verdict repeats it."""
    intake, spec = Intake(("a", "b"), 0.002, velocity=[2.0, 2.0]), SINGLE
    verdict = intake.receive(Proposal(np.zeros(3), 0, 0, "guest: g is nan in row 0", 0), spec, 0, None)[0]
    assert "'guest: g is nan in row 0'" in verdict.detail
