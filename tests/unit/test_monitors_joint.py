from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.errors import CalibrationError
from safeguard.monitors.joint import Joint, Witness
from safeguard.monitors.normal import RankScale

FOUR: tuple[Witness, ...] = ("effort", "residual", "action", "novelty")
Z = st.lists(st.tuples(*(st.floats(0.0, 10.0) for _ in FOUR)), min_size=1, max_size=40)
MAXIMA = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def by_the_formula(rows: list[tuple[float, ...]], m: int, n: int) -> list[tuple[float, float]]:
    """g_act and g_warn as the module's docstring says, over whole columns."""
    z = np.array(rows)
    alone = z[:, :3].max(axis=1)
    lasting = [np.sort(alone[max(0, t - n + 1) : t + 1])[-m] if t + 1 >= m else 0.0 for t in range(len(z))]
    second = np.minimum(z[:, 3], z[:, 1:3].max(axis=1))
    act = np.maximum(lasting, second)
    return list(zip(act.tolist(), np.maximum(act, z[:, 3]).tolist(), strict=True))


@given(Z, st.integers(1, 5))
def test_the_joint_scores_are_those_of_the_formula(rows: list[tuple[float, ...]], m: int) -> None:
    """Tick by tick the same as the definition over whole columns."""
    joint = Joint(FOUR, (m, 5))
    assert [joint.fold(row) for row in rows] == by_the_formula(rows, m, 5)


def test_novelty_alone_warns_and_does_not_act() -> None:
    """Whatever is merely new raises g_warn for as long as it lasts, and g_act never."""
    joint = Joint(FOUR, (3, 5))
    assert {joint.fold((0.0, 0.0, 0.0, 9.0)) for _ in range(50)} == {(0.0, 9.0)}


def test_novelty_with_a_witness_acts_at_once() -> None:
    """A second witness makes novelty act in the tick that has both."""
    assert Joint(FOUR, (3, 5)).fold((0.0, 0.0, 4.0, 9.0)) == (4.0, 9.0)


def test_what_does_not_last_does_not_act() -> None:
    """Two bad ticks in five are forgiven where three are asked for; the third acts."""
    joint = Joint(FOUR, (3, 5))
    rows = [(8.0, 0.0, 0.0, 0.0), (8.0, 0.0, 0.0, 0.0), (0.0,) * 4, (0.0,) * 4, (8.0, 0.0, 0.0, 0.0)]
    assert [joint.fold(row)[0] for row in rows] == [0.0, 0.0, 0.0, 0.0, 8.0]


def test_a_new_episode_forgets() -> None:
    """After a reset the window is empty."""
    joint = Joint(FOUR, (3, 5))
    for _ in range(5):
        joint.fold((8.0, 0.0, 0.0, 0.0))
    joint.reset()
    assert joint.fold((8.0, 0.0, 0.0, 0.0)) == (0.0, 0.0)


@given(MAXIMA, st.floats(1e-6, 10.0), st.lists(st.floats(-1e7, 1e7), min_size=2, max_size=10))
def test_a_scale_rises(maxima: list[float], resolution: float, scores: list[float]) -> None:
    """A larger score never has a smaller z, and every z is finite."""
    scale = RankScale(maxima, resolution)
    z = [scale(score) for score in sorted(scores)]
    assert all(math.isfinite(value) for value in z)
    assert z == sorted(z)


@given(MAXIMA)
def test_a_scale_is_the_rank_at_the_episodes(maxima: list[float]) -> None:
    """At every maximum z is −log of the share of episodes that reach it, with one more for the new one."""
    scale, n = RankScale(maxima, 1.0), len(maxima)
    for value in maxima:
        reached = sum(other >= value for other in maxima)
        assert scale(value) == pytest.approx(-math.log((1 + reached) / (n + 1)))


def test_a_scale_goes_on_beyond_the_largest() -> None:
    """What is worse than everything seen is not all the same; also where everything seen is the same."""
    spread, constant = RankScale([1.0, 2.0, 3.0, 4.0], 0.1), RankScale([0.0] * 20, 0.5)
    assert spread(4.0) < spread(5.0) < spread(50.0)
    assert constant(0.0) == pytest.approx(0.0, abs=1e-12)
    assert constant(1.0) == pytest.approx(constant(0.0) + 2.0)


@pytest.mark.parametrize("maxima", [[], [1.0, math.nan], [math.inf]])
def test_a_scale_of_nothing_is_refused(maxima: list[float]) -> None:
    """No fit episode, or one that was not finite, is an error and not a silent scale."""
    with pytest.raises(CalibrationError, match="finite maxima"):
        RankScale(maxima, 1.0)
