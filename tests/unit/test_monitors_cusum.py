from __future__ import annotations

import math
import random
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.enums import Reference
from safeguard.core.errors import CalibrationError
from safeguard.core.types import NS_PER_S, ActionSpec, Proposal, Vector
from safeguard.monitors import proof
from safeguard.monitors.action import OverlapError
from safeguard.monitors.cusum import MEDIAN, OverlapCusum, learn
from safeguard.monitors.motion import JointMotion

RATE = 20.0
ROW = round(NS_PER_S / RATE)
MOTION = JointMotion.of(ActionSpec(("hip",), "rad", Reference.ABSOLUTE, RATE, 3), ("hip",), np.array([RATE]))
USUAL = 0.25


def places(*at: float) -> list[Proposal]:
    """Chunks that stand still, a row apart; each contradicts the one before by the distance between the two."""
    return [proof.proposal(k, k * ROW, np.full((3, 1), place)) for k, place in enumerate(at)]


def played(monitor: OverlapError, chunks: list[Proposal]) -> list[float]:
    """The score after each chunk."""
    return [monitor.score(proof.standing(1, each.t_obs, chunk=each)).value for each in chunks]


def cusum(usual: float = USUAL) -> OverlapCusum:
    """With this median."""
    return OverlapCusum(MOTION, np.array([usual]))


def test_what_is_beyond_the_median_is_summed_up() -> None:
    """Errors of 0.5 and 1.0 count 0.25 and 0.75; an error of 0 takes the median away, and what is left stays."""
    assert played(cusum(), places(0.0, 0.5, 1.5, 1.5)) == pytest.approx([0.0, 0.25, 1.0, 0.75])


def test_less_than_usual_is_not_saved_up() -> None:
    """Ten chunks that agree do not hide the eleventh."""
    assert played(cusum(), places(*[0.0] * 10, 1.0))[-1] == pytest.approx(0.75)


@given(st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=30), st.floats(0.0, 2.0))
def test_it_is_the_sum_of_the_overlap_errors(at: list[float], usual: float) -> None:
    """After every chunk it is Page's recursion over what the overlap monitor scores."""
    errors = played(OverlapError(MOTION), places(*at))
    direct = list(accumulate(errors, lambda level, error: max(0.0, level + error - usual), initial=0.0))
    assert played(cusum(usual), places(*at)) == pytest.approx(direct[1:])


def test_a_little_too_much_in_every_chunk_is_found() -> None:
    """Errors of 0.30 to 0.34 instead of 0.20 to 0.30 never exceed twice the usual, and stand out after fifty chunks."""
    rng = random.Random(1)

    def peak(low: float, high: float) -> float:
        steps = [rng.choice((-1.0, 1.0)) * rng.uniform(low, high) for _ in range(50)]
        return max(played(cusum(), places(*accumulate(steps, initial=0.0))))

    assert peak(0.30, 0.34) > 5.0 * max(peak(0.20, 0.30) for _ in range(20))


def test_a_broken_chunk_is_an_alarm_and_changes_no_sum() -> None:
    """It scores NaN; the next one has nothing to be compared with and counts as an error of 0."""
    broken = proof.proposal(2, 2 * ROW, np.full((3, 1), np.nan))
    before, after = places(0.0, 2.0, 0.0, 2.0)[:2], places(0.0, 2.0, 0.0, 2.0)[3:]
    scores = played(cusum(), [*before, broken, *after])
    assert scores[1] == pytest.approx(1.75)
    assert math.isnan(scores[2])
    assert scores[3] == pytest.approx(1.5)


def test_huge_errors_leave_a_number() -> None:
    """A sum beyond 1e12 is 1e12, and goes on being one."""
    assert played(cusum(), places(0.0, 9e12, 0.0, 0.0))[1:] == [1e12 - USUAL, 1e12, 1e12 - USUAL]


def test_reset_forgets_the_sum_and_the_chunk() -> None:
    """The first chunk after it is the first of an episode."""
    monitor = cusum()
    played(monitor, places(0.0, 5.0))
    monitor.reset()
    assert played(monitor, places(9.0)) == [0.0]


def test_the_median_is_learned() -> None:
    """Half of the errors lie above it; it fits into the artefact as a number of its own."""
    found = learn(np.array([0.0, 0.1, 0.2, 0.7, 9.0]))
    assert list(found) == [MEDIAN]
    assert found[MEDIAN].tolist() == [0.2]
    assert played(OverlapCusum(MOTION, found[MEDIAN]), places(0.0, 0.5))[-1] == pytest.approx(0.3)


@pytest.mark.parametrize("errors", [np.array([]), np.array([0.1, np.nan]), np.array([np.inf])])
def test_nothing_is_learned_of_nothing(errors: Vector) -> None:
    """No chunk, or an error that is no finite number, is refused and says so."""
    with pytest.raises(CalibrationError, match=f"{len(errors)} chunks"):
        learn(errors)


@pytest.mark.parametrize("median", [np.array([-0.1]), np.array([np.nan]), np.array([np.inf]), np.zeros(2)])
def test_an_impossible_median_is_refused(median: Vector) -> None:
    """An artefact whose median is no number of at least 0 makes no monitor."""
    with pytest.raises(CalibrationError, match=MEDIAN):
        OverlapCusum(MOTION, median)
