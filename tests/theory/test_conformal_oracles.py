"""Our threshold, p-value and confidence beside three independent implementations: MAPIE, crepes, scipy."""

from __future__ import annotations

import importlib
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from safeguard.monitors.conformal import (
    ascending,
    exchangeability,
    least_n,
    mapie_threshold,
    most_alarms,
    order_statistic,
    p_value,
    pac_rank,
    rank,
    rate_interval,
)

ALPHAS = st.integers(5, 500).map(lambda per_mille: per_mille / 1000)


def maxima_of(n: int, seed: int) -> NDArray[np.float64]:
    """Heavy-tailed maxima with ties among them, of either sign."""
    return np.round(np.random.default_rng(seed).standard_t(2, size=n), 2)


@settings(max_examples=150, deadline=None)
@given(n=st.integers(2, 400), alpha=ALPHAS, seed=st.integers(0, 2**32 - 1))
def test_threshold_equals_mapie(n: int, alpha: float, seed: int) -> None:
    """The order statistic is MAPIE's bound to 1e-12 of its size; MAPIE refuses n < 1/alpha, one more than is needed.

    At n = 1/alpha exactly it depends on how 1 − (1 − alpha) rounds; left out here.
    """
    assume(abs(n * alpha - 1.0) > 1e-9)
    maxima = maxima_of(n, seed).tolist()
    ours = order_statistic(ascending(maxima), rank(n, alpha))
    if n < 1 / alpha:
        with pytest.raises(ValueError, match="too low"):
            mapie_threshold(maxima, alpha)
        assert (ours is None) == (n < least_n(alpha))
        return
    assert ours is not None
    scale = max(1.0, abs(ours), abs(min(maxima)))
    assert abs(ours - mapie_threshold(maxima, alpha)) <= 1e-12 * scale


def crepes_threshold(maxima: NDArray[np.float64], alpha: float) -> float:
    """Upper bound of crepes' conformal regressor around min(D); infinite where n is too small."""
    regressor: Any = importlib.import_module("crepes").ConformalRegressor()
    regressor.fit(maxima - maxima.min())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return float(regressor.predict_int(np.zeros(1), confidence=1.0 - alpha)[0, 1]) + float(maxima.min())


@settings(max_examples=150, deadline=None)
@given(n=st.integers(1, 400), alpha=ALPHAS, seed=st.integers(0, 2**32 - 1))
def test_threshold_equals_crepes(n: int, alpha: float, seed: int) -> None:
    """The order statistic is crepes' bound too, unless (n + 1) alpha is whole: there floats may cost crepes a rank."""
    maxima = maxima_of(n, seed)
    ours = order_statistic(ascending(maxima.tolist()), rank(n, alpha))
    whole = (n + 1) * round(1000 * alpha) % 1000 == 0
    theirs = crepes_threshold(maxima, alpha)
    if whole:
        assert theirs >= (math.inf if ours is None else ours) - 1e-9
    else:
        assert theirs == pytest.approx(math.inf if ours is None else ours, abs=1e-12 * 1000, rel=1e-12)


@given(n=st.integers(1, 200), seed=st.integers(0, 2**32 - 1), peak=st.floats(-5, 5))
def test_p_value_equals_crepes(n: int, seed: int, peak: float) -> None:
    """The running p-value is crepes' without smoothing, also where the peak equals a calibration maximum."""
    maxima = maxima_of(n, seed)
    classifier: Any = importlib.import_module("crepes").ConformalClassifier()
    classifier.fit(maxima)
    for value in (peak, float(maxima[0])):
        theirs = classifier.predict_p(np.array([[value]]), smoothing=False)[0, 0]
        assert p_value(ascending(maxima.tolist()), value) == pytest.approx(theirs, abs=1e-12)


@settings(deadline=None)
@given(n=st.integers(1, 1500), alpha=ALPHAS, delta=st.sampled_from([0.01, 0.05, 0.1]))
def test_pac_rank_is_the_loosest_that_has_its_confidence(n: int, alpha: float, delta: float) -> None:
    """Beta(n + 1 − k, k) lies below alpha with 1 − delta at the rank given, by scipy, and not at the next one below."""
    beta = importlib.import_module("scipy.stats").beta
    k = pac_rank(n, alpha, delta)
    if k is None:
        assert (1 - alpha) ** n > delta * (1 - 1e-9)
        return
    assert k >= rank(n, alpha) - 1
    assert beta.cdf(alpha, n + 1 - k, k) >= 1 - delta - 1e-9
    if k > 1:
        assert beta.cdf(alpha, n + 2 - k, k - 1) < 1 - delta + 1e-9


def test_pac_threshold_holds_with_its_confidence() -> None:
    """Of 4,000 calibrations of 100 episodes at most 5 % have a true rate over 0.1; by the plain rank nearly half do."""
    maxima = np.sort(np.random.default_rng(1).random((4000, 100)), axis=1)
    k = pac_rank(100, 0.1, 0.05)
    assert k == 96
    over = np.count_nonzero(1.0 - maxima[:, k - 1] > 0.1)
    assert over <= most_alarms(4000, 0.05)
    assert np.count_nonzero(1.0 - maxima[:, rank(100, 0.1) - 1] > 0.1) > 0.35 * 4000


def test_rate_interval_covers() -> None:
    """The true rate lies in the stated 90 % interval in 90 % of 4,000 calibrations of 200 episodes."""
    k = rank(200, 0.05)
    interval = rate_interval(200, k)
    assert interval is not None
    rates = 1.0 - np.sort(np.random.default_rng(2).random((4000, 200)), axis=1)[:, k - 1]
    inside = np.mean((interval[0] <= rates) & (rates <= interval[1]))
    assert inside == pytest.approx(0.9, abs=0.02)


def test_order_of_episodes_is_tested_at_its_level() -> None:
    """Shuffled maxima are rejected at 5 % about as often as that; a drift of one deviation nearly always, in place."""
    rng = np.random.default_rng(3)
    null = [exchangeability(rng.standard_normal(60).tolist(), permutations=99, seed=i).p_value for i in range(300)]
    assert np.count_nonzero(np.array(null) <= 0.05) <= most_alarms(300, 0.05)
    moved = np.concatenate([rng.standard_normal(60), rng.standard_normal(60) + 1.5])
    found = exchangeability(moved.tolist(), permutations=999)
    assert found.p_value <= 0.005
    assert 45 <= found.change <= 75


def test_order_statistic_is_mapies() -> None:
    """The closed form of the statistic that MAPIE is handed equals the one that MAPIE computes by itself."""
    module = importlib.import_module("mapie.exchangeability_testing.permutations")
    theirs: Any = module.MaxSplitMeanDifferenceTestStatistic()
    ours: Any = importlib.import_module("safeguard.monitors.conformal")._largest_change
    for n in (2, 3, 10, 57):
        scores = np.random.default_rng(n).standard_normal(n)
        assert ours(scores) == pytest.approx(theirs(scores), rel=1e-12)
