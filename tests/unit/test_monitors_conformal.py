from __future__ import annotations

import math
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.errors import CalibrationError, MissingExtraError
from safeguard.monitors.conformal import (
    alarms_interval,
    ascending,
    exchangeability,
    interval_power,
    least_n,
    limit_power,
    mapie_threshold,
    most_alarms,
    most_union_alarms,
    order_statistic,
    p_value,
    pac_rank,
    rank,
    rate_interval,
)


@given(st.integers(0, 100_000), st.integers(1, 99_999))
def test_rank_is_exact(n: int, parts: int) -> None:
    """The rank is the least integer k ≥ (n + 1)(1 − alpha), in decimals, for alphas of five digits."""
    k = rank(n, parts / 100_000)
    bound = (n + 1) * (1 - Fraction(parts, 100_000))
    assert k - 1 < bound <= k


@pytest.mark.parametrize(
    ("alpha", "n"), [(0.1, 9), (0.05, 19), (0.02, 49), (0.01, 99), (0.005, 199), (0.001, 999), (0.3, 3)]
)
def test_least_n(alpha: float, n: int) -> None:
    """The fewest episodes for alpha have a threshold, the largest of all, and one fewer have none."""
    assert least_n(alpha) == n
    assert rank(n, alpha) <= n < rank(n - 1, alpha) + 1
    assert order_statistic(range(n), rank(n, alpha)) is not None
    assert order_statistic(range(n - 1), rank(n - 1, alpha)) is None


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan, math.inf])
def test_wrong_rates_are_refused(alpha: float) -> None:
    """A rate is strictly between 0 and 1; NaN is none."""
    with pytest.raises(CalibrationError, match="alpha must be in"):
        rank(10, alpha)
    with pytest.raises(CalibrationError, match="delta must be in"):
        pac_rank(10, 0.1, alpha)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_maxima_are_refused(bad: float) -> None:
    """Nothing that is not a number gets into an order."""
    with pytest.raises(CalibrationError, match="episode 1 has maximum"):
        ascending([0.0, bad, 1.0])
    with pytest.raises(CalibrationError, match="episode 0 has maximum"):
        exchangeability([bad, 1.0])


def test_ties_alarm_no_more_often() -> None:
    """With constant maxima the threshold is that constant, and an equal score is no alarm and has p = 1."""
    same = ascending([2.0] * 30)
    assert order_statistic(same, rank(30, 0.1)) == 2.0
    assert p_value(same, 2.0) == 1.0
    assert p_value(same, math.nextafter(2.0, 3.0)) == 1 / 31


@given(st.lists(st.floats(-5, 5), max_size=50).map(sorted), st.floats(-6, 6), st.floats(-6, 6))
def test_p_value_never_rises_with_the_peak(maxima: list[float], a: float, b: float) -> None:
    """It falls as the peak grows, lies in [1/(n + 1), 1], and is at most alpha exactly beyond the threshold."""
    low, high = p_value(maxima, min(a, b)), p_value(maxima, max(a, b))
    assert 1 / (len(maxima) + 1) <= high <= low <= 1.0
    threshold = order_statistic(maxima, rank(len(maxima), 0.1))
    as_rare = round(p_value(maxima, a) * (len(maxima) + 1))
    assert (threshold is not None and a > threshold) == (10 * as_rare <= len(maxima) + 1)


def test_missing_score_has_the_smallest_p_value() -> None:
    """A peak of NaN counts as worse than every calibrated episode, never as nothing."""
    assert p_value((1.0, 2.0, 3.0), math.nan) == 0.25


@pytest.mark.parametrize(
    ("n", "alpha", "k"),
    [
        (50, 0.1, 49),
        (100, 0.1, 96),
        (58, 0.05, None),
        (59, 0.05, 59),
        (100, 0.05, 99),
        (200, 0.05, 196),
        (500, 0.05, 484),
        (298, 0.01, None),
        (299, 0.01, 299),
        (1000, 0.01, 996),
        (0, 0.1, None),
    ],
)
def test_pac_rank_by_the_table(n: int, alpha: float, k: int | None) -> None:
    """Ranks with 95 % confidence, as tabulated; fewer than log(delta)/log(1 − alpha) episodes have none."""
    assert pac_rank(n, alpha, 0.05) == k


@pytest.mark.parametrize(
    ("n", "alpha", "low", "high"),
    [
        (10, 0.1, 0, 501),
        (50, 0.1, 13, 270),
        (50, 0.05, 0, 174),
        (100, 0.05, 6, 145),
        (200, 0.05, 12, 115),
        (500, 0.05, 20, 93),
        (300, 0.01, 0, 41),
        (1000, 0.01, 1, 28),
    ],
)
def test_alarms_interval_by_the_table(n: int, alpha: float, low: int, high: int) -> None:
    """99.8 % of BetaBinomial(1000, n + 1 − k, k), as tabulated."""
    assert alarms_interval(1000, n, rank(n, alpha)) == (low, high)


def test_without_a_threshold_there_is_nothing_to_expect() -> None:
    """Too few episodes: no interval of the rate, no alarms, none from that rung in a union; any alarm is rejected."""
    k = rank(100, 0.005)
    assert rate_interval(100, k) is None
    assert alarms_interval(1000, 100, k) == (0, 0)
    assert interval_power(1000, 100, k, 0.01) == pytest.approx(1 - 0.99**1000)
    assert most_union_alarms(1000, 100, [k]) == 0
    assert most_union_alarms(1000, 100, [rank(100, 0.1), k]) < most_union_alarms(1000, 100, [rank(100, 0.1)] * 2)


def test_one_sided_limits() -> None:
    """The limit leaves at most its level above, one less would leave more; power rises with the rate."""
    limit = most_alarms(1000, 0.05)
    assert limit_power(1000, limit, 0.05) <= 0.002 < limit_power(1000, limit - 1, 0.05)
    assert limit_power(1000, limit, 0.075) < limit_power(1000, limit, 0.1)
    single = alarms_interval(1000, 1000, 901, mass=0.996)[1]
    assert most_union_alarms(1000, 1000, [901]) == single


def test_order_of_constant_maxima_says_nothing() -> None:
    """All equal: p = 1 and no change; a step in the middle: the smallest p there is, and where it is."""
    assert (exchangeability([1.0] * 12).p_value, exchangeability([1.0] * 12).change) == (1.0, 0)
    found = exchangeability([0.0] * 15 + [1.0] * 15, permutations=199, seed=4)
    assert (found.p_value, found.change, found.permutations, found.seed) == (1 / 200, 15, 199, 4)
    assert exchangeability([0.0] * 15 + [1.0] * 15, permutations=199, seed=4) == found


def test_an_order_needs_two() -> None:
    """One episode has no order."""
    with pytest.raises(CalibrationError, match="at least two episodes, got 1"):
        exchangeability([1.0])


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MAPIE the error says what to install."""
    monkeypatch.setitem(sys.modules, "mapie.regression", None)
    for call in (lambda: mapie_threshold([1.0] * 30, 0.1), lambda: exchangeability([1.0, 2.0])):
        with pytest.raises(MissingExtraError, match="calibrate"):
            call()
