from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.enums import Reference
from safeguard.core.errors import ConfigError
from safeguard.core.types import NS_PER_S, ActionSpec, Proposal, Vector
from safeguard.monitors import proof
from safeguard.monitors.action import ChunkMagnitude, OverlapError, ReversalRate
from safeguard.monitors.held import HeldScore
from safeguard.monitors.motion import JointMotion, is_joint_motion

JOINTS, V_MAX, RATE = ("hip", "knee"), np.array([2.0, 4.0]), 20.0
ROW = round(NS_PER_S / RATE)
COVERED = V_MAX / RATE  # in a row at the speed limit, rad


def motion(chunk: int = 4, reference: Reference = Reference.ABSOLUTE, unit: str = "rad") -> JointMotion:
    """Chunks of two joints at 20 Hz."""
    gain = 1.0 if reference is Reference.PD_TARGET else None
    return JointMotion.of(ActionSpec(JOINTS, unit, reference, RATE, chunk, kp=gain, kd=gain), JOINTS, V_MAX)


def chunk(rows: Vector | list[list[float]], at: float = 0.0, seq: int = 0) -> Proposal:
    """A chunk computed ``at`` so many rows after the start."""
    return proof.proposal(seq, round(at * ROW), np.array(rows, dtype=float))


def played(monitor: HeldScore, *chunks: Proposal) -> list[float]:
    """The score after each chunk."""
    return [monitor.score(proof.standing(2, each.t_obs, chunk=each)).value for each in chunks]


def line(at: float, rows: int = 4, offset: float = 0.0) -> Proposal:
    """Both joints in a straight line, the knee backwards; ``offset`` in what the limit covers in a row."""
    times = at + np.arange(1, rows + 1)
    return chunk(0.3 * np.outer(times, [1.0, -2.0]) + offset * COVERED, at)


# -- units -------------------------------------------------------------------------------------------


def test_columns_are_bound_by_name() -> None:
    """A policy that names the joints in another order has their limits in that order."""
    spec = ActionSpec(("knee", "hip"), "rad", Reference.ABSOLUTE, RATE, 1)
    rows = JointMotion.of(spec, JOINTS, V_MAX).rows(chunk([[0.2, 0.1]]))
    assert rows is not None
    assert rows.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("reference", "unit", "rows", "speeds"),
    [
        (Reference.ABSOLUTE, "rad", [[0.0, 0.0], [0.1, 0.1], [0.1, 0.3]], [[1.0, 0.5], [0.0, 1.0]]),
        (Reference.PD_TARGET, "rad", [[0.0, 0.0], [0.1, 0.1], [0.1, 0.3]], [[1.0, 0.5], [0.0, 1.0]]),
        (Reference.CHUNK_RELATIVE, "rad", [[0.1, 0.1], [0.1, 0.3], [0.1, 0.3]], [[1.0, 0.5], [0.0, 1.0], [0.0, 0.0]]),
        (Reference.DELTA, "rad", [[0.1, 0.1], [0.0, 0.2], [0.0, 0.0]], [[1.0, 0.5], [0.0, 1.0], [0.0, 0.0]]),
        (Reference.VELOCITY, "rad/s", [[2.0, 2.0], [0.0, 4.0], [0.0, 0.0]], [[1.0, 0.5], [0.0, 1.0], [0.0, 0.0]]),
    ],
)
def test_the_same_motion_has_the_same_speeds(
    reference: Reference, unit: str, rows: list[list[float]], speeds: list[list[float]]
) -> None:
    """However a policy says it, the speeds come out in shares of the limits."""
    how = motion(3, reference, unit)
    scaled = how.rows(chunk(rows))
    assert scaled is not None
    assert np.allclose(how.speeds(scaled), speeds)


def test_what_is_not_joint_motion_is_refused() -> None:
    """Torques, poses and unknown joints have no joint motion."""
    torque = ActionSpec(JOINTS, "N.m", Reference.TORQUE, RATE)
    assert not is_joint_motion(torque)
    with pytest.raises(ConfigError, match=r"torque actions in 'N.m'"):
        JointMotion.of(torque, JOINTS, V_MAX)
    with pytest.raises(ConfigError, match="ankle"):
        JointMotion.of(ActionSpec(("ankle",), "rad", Reference.ABSOLUTE, RATE), JOINTS, V_MAX)


# -- overlap -----------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.0, 3.0), max_size=6))
def test_chunks_of_one_line_agree(steps: list[float]) -> None:
    """However far apart they are computed, chunks of one straight motion overlap without error."""
    times = np.cumsum([0.0, *steps])
    assert max(played(OverlapError(motion()), *[line(float(at)) for at in times])) == pytest.approx(0.0, abs=1e-6)


def test_a_shift_is_its_own_size() -> None:
    """A chunk that is off by what the limits cover in half a row scores 0.5."""
    scores = played(OverlapError(motion()), line(0.0), line(1.5, offset=0.5), line(2.0, offset=0.5))
    assert scores == pytest.approx([0.0, 0.5, 0.0], abs=1e-6)


def test_only_the_rows_that_overlap_count() -> None:
    """Two rows of the newer chunk lie within the older one, and only one of them differs."""
    old = chunk(np.zeros((4, 2)), 0.0)
    new = chunk([[0.0, 0.0], [0.1, 0.2], [9.0, 9.0], [9.0, 9.0]], 2.0)
    assert played(OverlapError(motion()), old, new)[-1] == pytest.approx(math.sqrt((0.0 + 0.0 + 1.0 + 1.0) / 4.0))


def test_between_its_rows_the_older_chunk_is_linear() -> None:
    """Half a row after a bend the reference lies in the middle of the next piece, whichever that is."""
    old = chunk(np.outer([0.0, 1.0, 1.0, 4.0], COVERED), 0.0)
    new = chunk(np.outer([0.5, 1.0, 2.5, 9.0], COVERED), 0.5)
    assert played(OverlapError(motion()), old, new)[-1] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("at", [3.01, 100.0, -4.0])
def test_chunks_without_a_common_time_score_nothing(at: float) -> None:
    """The first is over, or has not begun."""
    assert played(OverlapError(motion()), line(0.0), line(at, offset=5.0)) == [0.0, 0.0]


def test_velocities_are_compared_as_they_are() -> None:
    """Half the limit more, in every joint, scores 0.5."""
    how = motion(4, Reference.VELOCITY, "rad/s")
    slow, fast = chunk(np.tile(0.1 * V_MAX, (4, 1))), chunk(np.tile(0.6 * V_MAX, (4, 1)), 1.0)
    assert played(OverlapError(how), slow, fast) == pytest.approx([0.0, 0.5])


def test_relative_chunks_are_compared_by_their_speeds() -> None:
    """Chunks that each begin at 0 agree if they ask for the same speed."""
    how = motion(4, Reference.CHUNK_RELATIVE)
    rows = np.outer(np.arange(1, 5), 0.5 * COVERED)
    assert played(OverlapError(how), chunk(rows), chunk(rows, 2.0)) == pytest.approx([0.0, 0.0])
    assert played(OverlapError(how), chunk(rows), chunk(2.0 * rows, 2.0))[-1] == pytest.approx(0.5)


# -- reversals ---------------------------------------------------------------------------------------


def speeds(rate: ReversalRate, *rows: list[list[float]]) -> list[float]:
    """Scores of chunks of speeds, in shares of the limit."""
    return played(rate, *[chunk(np.array(each) * V_MAX, k) for k, each in enumerate(rows)])


def by_speed(rows: int, window: int = 1) -> ReversalRate:
    """Of velocity chunks."""
    return ReversalRate(motion(rows, Reference.VELOCITY, "rad/s"), window)


def test_reversals_are_counted_per_step_and_joint() -> None:
    """One joint turns twice in three steps, the other never."""
    rows = [[0.5, 0.5], [-0.5, 0.5], [0.5, 0.4], [0.5, 0.3]]
    assert speeds(by_speed(4), rows) == [pytest.approx(2.0 / 6.0)]


def test_standing_still_is_no_direction() -> None:
    """Forth, stand, back is one reversal; trembling under 2 % of the limit is none."""
    assert speeds(by_speed(3), [[0.5, 0.01], [0.0, -0.01], [-0.5, 0.01]]) == [pytest.approx(1.0 / 4.0)]


def test_a_turn_between_chunks_counts() -> None:
    """Each chunk is steady, but they go in opposite directions."""
    there, back = [[0.5, 0.5]] * 3, [[-0.5, -0.5]] * 3
    assert speeds(by_speed(3), there, back, back) == pytest.approx([0.0, 2.0 / 6.0, 0.0])


def test_from_chunk_to_chunk_first_rows_are_compared() -> None:
    """What a chunk ends with is mostly never carried out: going there and back in each is one turn of three steps."""
    rows = [[0.5, 0.5], [0.5, 0.5], [-0.5, -0.5]]
    assert speeds(by_speed(3), rows, rows, rows) == pytest.approx([1.0 / 2.0, 1.0 / 3.0, 1.0 / 3.0])


def test_the_window_forgets() -> None:
    """A turn is out of the score once ``window`` chunks have come since."""
    turn, steady = [[0.5, 0.5], [-0.5, -0.5], [0.5, 0.5]], [[0.5, 0.5]] * 3
    found = speeds(by_speed(3, window=2), turn, steady, steady)
    assert found[0] == 1.0
    assert 0.0 < found[1] < 1.0
    assert found[2] == 0.0


@pytest.mark.parametrize("reference", [Reference.ABSOLUTE, Reference.VELOCITY])
def test_a_policy_of_single_steps_wavers_from_one_to_the_next(reference: Reference) -> None:
    """Alternating single rows turn at every step, steady ones at none."""
    unit = "rad" if reference is Reference.ABSOLUTE else "rad/s"
    signs = np.array([(-1.0) ** k for k in range(12)])
    steady = np.arange(12.0) if reference is Reference.ABSOLUTE else np.ones(12)
    for values, expected in ((signs, 1.0), (steady, 0.0)):
        rate = ReversalRate(motion(1, reference, unit), 8)
        assert played(rate, *[chunk(np.full((1, 2), x), k) for k, x in enumerate(values)])[-1] == expected


# -- magnitude ---------------------------------------------------------------------------------------


def test_magnitude_is_the_share_of_the_speed_limits() -> None:
    """Both joints at half their limit score 0.5, one of two alone half of that squared."""
    both = chunk(np.outer(np.arange(4), 0.5 * COVERED))
    one = chunk(np.outer(np.arange(4), [0.5 * COVERED[0], 0.0]))
    assert played(ChunkMagnitude(motion(), 1), both, one) == pytest.approx([0.5, 0.5 / math.sqrt(2.0)])


def test_single_positions_move_by_what_lies_between_them() -> None:
    """Half a row's reach in two rows of time is a quarter of the limit."""
    steps = [chunk([(0.5 * k * COVERED).tolist()], 2.0 * k) for k in range(5)]
    found = played(ChunkMagnitude(motion(1), 8), *steps)
    assert found[0] == 0.0
    assert found[1:] == pytest.approx([0.25] * 4)


# -- what they share ---------------------------------------------------------------------------------

ALL = (lambda: OverlapError(motion()), lambda: ReversalRate(motion(), 2), lambda: ChunkMagnitude(motion(), 2))


@pytest.mark.parametrize("make", ALL)
def test_a_proposal_is_judged_once(make: type[HeldScore]) -> None:
    """Until another object is followed the very same score is handed out; an equal one is judged anew."""
    monitor = make()
    first, second = line(0.0), line(1.0, offset=1.0)
    held = [monitor.score(proof.standing(2, now, chunk=chunk)) for chunk in (first, second) for now in (0, 1, 2)]
    assert all(a is b for a, b in [*pairwise(held[:3]), *pairwise(held[3:])])
    assert monitor.score(proof.standing(2, 3, chunk=line(1.0, offset=1.0))) is not held[-1]


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("rows", [np.full((4, 2), np.nan), np.full((4, 2), 1e308), np.zeros((3, 2)), np.zeros((4, 1))])
def test_a_broken_chunk_is_an_alarm_until_the_next(make: type[HeldScore], rows: Vector) -> None:
    """Not finite, or of another shape: NaN, and no trace of it in later scores."""
    monitor = make()
    played(monitor, line(0.0))
    score = monitor.score(proof.standing(2, ROW, chunk=chunk(rows, 1.0)))
    later = played(monitor, *[line(float(k)) for k in range(2, 8)])

    assert math.isnan(score.value)
    assert score.detail
    assert later[-1] == played(make(), *[line(float(k)) for k in range(8)])[-1]
