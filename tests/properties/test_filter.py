"""What holds for the safety filter whatever it is fed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from safeguard.controllers.viability import braking_point
from safeguard.core.enums import FilterStatus, NominalKind, SolverStatus
from safeguard.core.types import Envelope, FilterResult, Nominal, RobotState, Vector
from tests.unit.controllers_support import DT_NS, capsule_distances, panda, quick_filter, random_q

LIMITS = panda().limits
FILTER = quick_filter()
OTHER = quick_filter()
SEEDS = st.integers(0, 2**32 - 1)
ONE_TICK = [kind for kind in NominalKind if kind is not NominalKind.ROWS]  # rows are for ``RowArm``
KINDS = st.sampled_from(ONE_TICK)
SCALE = {
    NominalKind.TORQUE: LIMITS.tau_max,
    NominalKind.ACCELERATION: LIMITS.a_max,
    NominalKind.VELOCITY: LIMITS.v_max,
    NominalKind.POSITION: np.ones(7),
    NominalKind.TWIST: np.ones(6),
    NominalKind.POSE: np.ones(7),
}
NUMBERS = st.one_of(
    st.floats(-3.0, 3.0),
    st.floats(-1e6, 1e6),
    st.sampled_from([0.0, -0.0, 1e12, -1e100, np.inf, -np.inf, np.nan, 5e-324]),
)
SHAPES = st.sampled_from([(), (0,), (1,), (6,), (8,), (7, 1), (1, 7), (7, 7)])


def state_of(seed: int, speed: float) -> RobotState:
    """A state within the limits of position and speed; now and then on one, or in self-collision."""
    rng = np.random.default_rng(seed)
    q = random_q(rng)
    on_edge = rng.random(7) < 0.1
    q = np.where(on_edge, np.where(rng.random(7) < 0.5, LIMITS.q_min, LIMITS.q_max), q)
    return RobotState(q, speed * rng.uniform(-1.0, 1.0, 7) * LIMITS.v_max, 0)


def nominal_of(kind: NominalKind, value: Vector) -> Nominal:
    """A proposal; positions come with gains."""
    gains = (np.full(7, 200.0), np.full(7, 20.0)) if kind is NominalKind.POSITION else (None, None)
    return Nominal(kind, value, *gains)


def scaled(numbers: ArrayLike, kind: NominalKind) -> Vector:
    """As many of the numbers as a proposal of this kind has, in its units; a pose gets a unit quaternion if it can."""
    scale = SCALE[kind]
    value: Vector = np.asarray(numbers, dtype=float)[: len(scale)] * scale
    if kind is NominalKind.POSE and np.isfinite(value).all() and 0.0 < np.linalg.norm(value[3:]) < 1e100:
        value[3:] /= np.linalg.norm(value[3:])
    return value


def assert_sound(result: FilterResult) -> None:
    """Finite, within the torque limits, read-only, and labelled consistently."""
    assert result.torque.shape == (7,)
    assert np.isfinite(result.torque).all()
    assert (np.abs(result.torque) <= LIMITS.tau_max).all()
    assert not result.torque.flags.writeable
    source = {
        FilterStatus.ADMISSIBLE: "proposal",
        FilterStatus.CORRECTED: "qp",
        FilterStatus.BACKUP: "backup",
        FilterStatus.REFUSED: "terminal_stop",
    }
    assert result.source == source[result.status]
    if result.status is FilterStatus.CORRECTED:
        assert result.solver.answered
    if result.status is FilterStatus.ADMISSIBLE:
        assert result.solver is SolverStatus.SKIPPED
        assert result.effort == 0.0


def same(a: FilterResult, b: FilterResult) -> bool:
    """Equal in every bit that a decision or a record holds."""
    return (
        a.torque.tobytes() == b.torque.tobytes()
        and a.acceleration.tobytes() == b.acceleration.tobytes()
        and repr(a) == repr(b)
    )


@settings(max_examples=150)
@given(kind=KINDS, numbers=st.lists(NUMBERS, min_size=7, max_size=7), seed=SEEDS, speed=st.floats(0.0, 1.0))
def test_any_proposal_from_any_allowed_state_gives_a_torque_within_limits(
    kind: NominalKind, numbers: list[float], seed: int, speed: float
) -> None:
    """Huge, tiny, infinite and NaN proposals of every kind: finite torques within limits, and no exception."""
    state = state_of(seed, speed)
    FILTER.reset(state)
    result = FILTER.apply(state, nominal_of(kind, scaled(numbers, kind)))
    assert_sound(result)
    if not np.isfinite(numbers[: len(SCALE[kind])]).all():
        assert result.status in (FilterStatus.BACKUP, FilterStatus.REFUSED)
        assert result.solver is SolverStatus.REJECTED


@settings(max_examples=40)
@given(kind=KINDS, shape=SHAPES, seed=SEEDS)
def test_a_proposal_of_the_wrong_shape_is_answered_by_the_backup(
    kind: NominalKind, shape: tuple[int, ...], seed: int
) -> None:
    """Scalars, short, long and two-dimensional arrays are never broadcast into a motion (law 5)."""
    assume(shape != SCALE[kind].shape)
    state = state_of(seed, 0.3)
    FILTER.reset(state)
    result = FILTER.apply(state, nominal_of(kind, np.full(shape, 0.1)))
    assert_sound(result)
    assert result.status in (FilterStatus.BACKUP, FilterStatus.REFUSED)


@pytest.mark.parametrize("size", [1e160, 1e300, 1.7e308])
@pytest.mark.parametrize("kind", ONE_TICK)
def test_proposals_near_the_largest_float_neither_raise_nor_leave_nan(kind: NominalKind, size: float) -> None:
    """Where squares and products overflow, the answer is still sound and its effort is a number."""
    state = RobotState(panda().home, np.zeros(7), 0)
    FILTER.reset(state)
    result = FILTER.apply(state, nominal_of(kind, np.full(7, size)))
    assert_sound(result)
    assert not np.isnan(result.effort)


@pytest.mark.parametrize(
    "gain",
    [np.zeros(3), np.zeros((7, 7)), np.zeros(0), np.full(7, np.nan), np.full(7, np.inf)],
)
@pytest.mark.parametrize("which", ["kp", "kd"])
def test_bad_gains_are_answered_by_the_backup(which: str, gain: Vector) -> None:
    """Gains come with the proposal: misshapen or non-finite ones are an alarm, not an exception."""
    state = RobotState(panda().home, np.zeros(7), 0)
    FILTER.reset(state)
    gains: dict[str, Any] = {"kp": np.full(7, 100.0), "kd": np.full(7, 10.0), which: gain}
    result = FILTER.apply(state, Nominal(NominalKind.POSITION, panda().home, **gains))
    assert_sound(result)
    assert result.status is FilterStatus.BACKUP


@settings(max_examples=80)
@given(seed=SEEDS, speed=st.floats(0.0, 0.5), size=st.floats(0.0, 0.6))
def test_an_admissible_torque_comes_out_bit_identical_and_stays_admissible(
    seed: int, speed: float, size: float
) -> None:
    """Same bytes out as in; and filtering that output again at the same state gives it again."""
    state = state_of(seed, speed)
    assume(capsule_distances(panda(), state.q).min() > 0.01)
    FILTER.dynamics.update(state.q, state.v)
    rng = np.random.default_rng(seed)
    tau = FILTER.dynamics.torque(size * rng.uniform(-1.0, 1.0, 7) * LIMITS.a_max)
    FILTER.reset(state)
    result = FILTER(state, torque=tau)
    assume(result.status is FilterStatus.ADMISSIBLE)
    assert np.array_equal(result.torque, tau)
    assert result.torque.tobytes() == tau.tobytes()
    again = FILTER(state, torque=result.torque)
    assert again.status is FilterStatus.ADMISSIBLE
    assert again.torque.tobytes() == tau.tobytes()


def test_many_proposals_are_admissible() -> None:
    """The test above is not empty: over half of gentle proposals from clear states pass unchanged."""
    rng, passed = np.random.default_rng(1), 0
    for k in range(100):
        state = RobotState(panda().home + 0.1 * rng.normal(size=7), 0.2 * rng.normal(size=7), k * DT_NS)
        FILTER.reset(state)
        passed += FILTER(state, acceleration=0.3 * rng.normal(size=7)).status is FilterStatus.ADMISSIBLE
    assert passed > 50


@settings(max_examples=60)
@given(seed=SEEDS, speed=st.floats(0.0, 0.8), size=st.floats(0.0, 4.0))
def test_a_corrected_motion_is_a_fixed_point(seed: int, speed: float, size: float) -> None:
    """Filtering the QP's answer again moves it by less than 0.005 rad/s²: the filter is a projection."""
    state = state_of(seed, speed)
    assume(capsule_distances(panda(), state.q).min() > 0.01)
    rng = np.random.default_rng(seed)
    FILTER.reset(state)
    result = FILTER(state, acceleration=size * rng.normal(size=7) * LIMITS.a_max)
    assume(result.status is FilterStatus.CORRECTED)
    again = FILTER(state, acceleration=result.acceleration)
    assert again.status in (FilterStatus.ADMISSIBLE, FilterStatus.CORRECTED)
    assert np.abs(again.acceleration - result.acceleration).max() < 0.005


@settings(max_examples=60)
@given(seed=SEEDS, speed=st.floats(0.0, 1.0), kind=KINDS, size=st.floats(0.0, 5.0))
def test_equal_inputs_since_a_reset_give_equal_bits(seed: int, speed: float, kind: NominalKind, size: float) -> None:
    """Two filters, one with an unrelated past, agree in every bit over several ticks after ``reset``."""
    rng = np.random.default_rng(seed + 1)
    for k in range(3):
        past = state_of(seed + k, 0.5)
        OTHER.apply(past, nominal_of(kind, scaled(5.0 * rng.normal(size=7), kind)))
    state = state_of(seed, speed)
    FILTER.reset(state)
    OTHER.reset(state)
    for k in range(4):
        tick = RobotState(state.q, state.v, k * DT_NS)
        value = scaled(size * rng.normal(size=7), kind)
        if k == 2:
            value[0] = np.nan
        assert same(FILTER.apply(tick, nominal_of(kind, value)), OTHER.apply(tick, nominal_of(kind, value)))


@settings(max_examples=60)
@given(seed=SEEDS, speed=st.floats(0.0, 0.9), share=st.floats(0.05, 1.0), size=st.floats(0.0, 5.0))
def test_an_envelope_restricts_proposed_motion(seed: int, speed: float, share: float, size: float) -> None:
    """Nothing speeds up harder than its share, and no joint above its share of speed becomes faster."""
    state = state_of(seed, speed)
    rng = np.random.default_rng(seed)
    FILTER.reset(state)
    wanted = size * rng.normal(size=7) * LIMITS.a_max
    result = FILTER(state, acceleration=wanted, envelope=Envelope(velocity=share, acceleration=share))
    assume(result.status in (FilterStatus.ADMISSIBLE, FilterStatus.CORRECTED))
    a, v = result.acceleration, state.v
    after = v + a * FILTER.dt
    kept = FILTER.config.margins.position_rad  # a joint that is beyond it is led back
    speeding_up = (a * v > 0.0) & (state.q >= LIMITS.q_min + kept) & (state.q <= LIMITS.q_max - kept)
    assert (np.abs(a)[speeding_up] <= share * LIMITS.a_max[speeding_up] + 0.01).all()
    assert (np.abs(after) <= np.maximum(share * LIMITS.v_max, np.abs(v)) + 1e-5).all()


@settings(max_examples=60)
@given(seed=SEEDS, speed=st.floats(0.0, 0.9), share=st.floats(0.01, 1.0))
def test_an_envelope_never_restricts_braking(seed: int, speed: float, share: float) -> None:
    """Full braking is admissible, unchanged, however narrow the envelope (law 4)."""
    state = state_of(seed, speed)
    brake = braking_point(state.v, FILTER.a_brake, FILTER.dt)
    FILTER.reset(state)
    wide = FILTER(state, acceleration=brake)
    assume(wide.status is FilterStatus.ADMISSIBLE)
    FILTER.reset(state)
    narrow = FILTER(state, acceleration=brake, envelope=Envelope(velocity=share, acceleration=share))
    assert narrow.status is FilterStatus.ADMISSIBLE
    assert narrow.acceleration.tobytes() == brake.tobytes()


JOG = Envelope(velocity=0.1, acceleration=0.2, away=True)


def jogged(q: Vector, wanted: Vector, envelope: Envelope, ticks: int = 400) -> Vector:
    """Every configuration on the way of ``ticks`` periods with a constant velocity wanted, shape (ticks + 1, 7)."""
    v, path = np.zeros(7), [q]
    FILTER.reset(RobotState(q, v, 0))
    for k in range(ticks):
        result = FILTER(RobotState(q, v, k * DT_NS), velocity=wanted, envelope=envelope)
        a = result.acceleration
        q, v = q + v * FILTER.dt + 0.5 * a * FILTER.dt**2, v + a * FILTER.dt
        path.append(q)
    return np.array(path)


def near_q(rng: np.random.Generator) -> Vector:
    """Some joints nearer than 50 mrad to a limit, or beyond it by 5; links clear, some of them by less than 15 mm."""
    while True:
        q = random_q(rng)
        side = np.where(rng.random(7) < 0.5, LIMITS.q_min, LIMITS.q_max)
        q = np.where(rng.random(7) < 0.4, side + np.sign(-side) * rng.uniform(-0.005, 0.05, 7), q)
        if capsule_distances(panda(), q).min() > 0.006:
            return q


@settings(max_examples=25)
@given(seed=SEEDS)
def test_a_jogged_joint_comes_no_nearer_to_a_limit_that_is_near(seed: int) -> None:
    """No joint inside ``near_rad`` of a limit loses more than rounding, wherever the jog leads."""
    rng = np.random.default_rng(seed)
    q, wanted = near_q(rng), rng.uniform(-0.1, 0.1, 7) * LIMITS.v_max
    path, near = jogged(q, wanted, JOG), FILTER.config.margins.near_rad
    room = np.minimum(path - LIMITS.q_min, LIMITS.q_max - path)
    assert (room >= np.minimum(room[0], near) - 1e-9).all()


def test_links_that_are_near_are_not_jogged_together() -> None:
    """Straight against the gradient of the nearest pair for 0.8 s: 0.1 mm at most; without ``away`` more than a mm."""
    rng, seen, lost = np.random.default_rng(0), 0, {True: 0.0, False: 0.0}
    while seen < 12:
        q = near_q(rng)
        begun = capsule_distances(panda(), q)
        if not 0.006 < begun.min() < 0.012:
            continue
        pair = int(begun.argmin())
        slope = np.array([capsule_distances(panda(), q + 1e-6 * e)[pair] - begun[pair] for e in np.eye(7)])
        wanted = -0.1 * LIMITS.v_max * np.sign(np.where(np.abs(slope) > 1e-9, slope, 0.0))
        seen += 1
        for away in lost:
            path = jogged(q, wanted, Envelope(JOG.velocity, JOG.acceleration, away))
            least = min(capsule_distances(panda(), x)[pair] for x in path[::20])
            lost[away] = max(lost[away], begun[pair] - least)
    assert lost[True] < 1.5e-4
    assert lost[False] > 5e-4


def test_a_jogged_body_can_leave_and_an_ordinary_one_comes_nearer() -> None:
    """From 20 mrad before its limit joint 1 moves away as asked; towards it only without ``away`` (control)."""
    q = panda().home.copy()
    q[0] = LIMITS.q_max[0] - 0.02
    back, on = np.zeros(7), np.zeros(7)
    back[0], on[0] = -0.1, 0.1
    assert jogged(q, back, JOG)[-1][0] < q[0] - 0.06
    np.testing.assert_allclose(jogged(q, on, JOG)[-1], q, atol=1e-6)
    assert jogged(q, on, Envelope(velocity=0.1, acceleration=0.2))[-1][0] > q[0] + 0.015


def test_the_backup_keeps_the_acceleration_limits_wherever_the_body_is() -> None:
    """30 mrad and 0.3 rad/s off its stop: feedback would ask for several times the limit, and gets the limit."""
    rng, most, asked = np.random.default_rng(1), 0.0, 0.0
    home, omega = panda().home, FILTER.figures.omega
    for _ in range(100):
        FILTER.reset(RobotState(home, np.zeros(7), 0))
        off, v = 0.03 * rng.normal(size=7), 0.3 * rng.normal(size=7)
        result = FILTER.backup(RobotState(home + off, v, DT_NS))
        most = max(most, float((np.abs(result.acceleration) / LIMITS.a_max).max()))
        asked = max(asked, float((np.abs(omega * omega * off + 2.0 * omega * v) / LIMITS.a_max).max()))
        assert (np.abs(result.torque) <= LIMITS.tau_max).all()
    assert most <= 1.0
    assert asked > 3.0
