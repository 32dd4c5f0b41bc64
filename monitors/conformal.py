"""The mathematics of alarms with a declared rate, as functions of a few numbers.

The unit of exchangeability is the episode: D is the largest score of a nominal one. With n of them, ascending,

    k = ceil((n + 1)(1 − α)),   threshold = D_(k) if k ≤ n, else there is none,   alarm where score > threshold

a fresh episode, exchangeable with these, alarms with probability at most α, whatever happens inside it, and exactly
with 1 − k/(n + 1) where no two D are equal (Vovk et al. 2005; Lei et al. 2018). Once the n episodes are drawn the
true rate is a fixed number F, distributed as Beta(n + 1 − k, k), so that m fresh episodes give
BetaBinomial(m, n + 1 − k, k) alarms: the law that every claim about a rate is tested against. With ties F is at most
that.

α counts as the decimal that it prints as, and ranks are computed in integers: (n + 1)(1 − 0.1) is 9 for n = 9, where
floats make it 9.000000000000002, whose ceil is 10. scipy, mapie and sklearn are imported where used.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from safeguard.core.errors import CalibrationError, MissingExtraError

RATE_MASS: Final = 0.9
"""How much of Beta(n + 1 − k, k) a stated interval of the true rate holds."""

TEST_MASS: Final = 0.998
"""How much of BetaBinomial(m, n + 1 − k, k) an acceptance test holds: it rejects a right calibration once in 500."""


def _exact(rate: float, name: str = "alpha") -> Fraction:
    if not 0.0 < rate < 1.0:
        raise CalibrationError(f"{name} must be in (0, 1), got {rate!r}")
    return Fraction(repr(float(rate)))


def ascending(maxima: Sequence[float]) -> tuple[float, ...]:
    """``maxima`` sorted. Raises CalibrationError naming the first that is not finite: its episode is not nominal."""
    bad = next((i for i, value in enumerate(maxima) if not math.isfinite(value)), None)
    if bad is not None:
        raise CalibrationError(f"episode {bad} has maximum {maxima[bad]}; it is not nominal: leave it out or find why")
    return tuple(sorted(float(value) for value in maxima))


# --- thresholds ----------------------------------------------------------------------------------------


def rank(n: int, alpha: float) -> int:
    """Rank k = ceil((n + 1)(1 − α)) of the threshold among n maxima; n + 1 where n is too small."""
    return math.ceil((n + 1) * (1 - _exact(alpha)))


def least_n(alpha: float) -> int:
    """Fewest episodes that have a threshold at α: ceil(1/α) − 1."""
    return math.ceil(1 / _exact(alpha)) - 1


def order_statistic(maxima: Sequence[float], k: int) -> float | None:
    """The k-th smallest, counted from 1, of ascending ``maxima``; None where there are fewer than k."""
    return maxima[k - 1] if k <= len(maxima) else None


def pac_rank(n: int, alpha: float, delta: float) -> int | None:
    """Rank whose true rate is at most α with confidence 1 − δ over the draw of the n episodes; None if none has it.

    k = n + 1 − j with the largest j for which P(Beta(j, n + 1 − j) ≤ α) ≥ 1 − δ. That probability is
    P(Binomial(n, α) ≥ j), summed here in integers. (Vovk 2012, training-conditional validity.)
    """
    a, d = _exact(alpha), _exact(delta, "delta")
    hit, miss = a.numerator, a.denominator - a.numerator
    allowed = d.numerator * a.denominator**n
    term, below, j = miss**n, 0, 0  # term: P(Binomial = j); below: P(Binomial < j); both times denominator**n
    while j <= n and d.denominator * (below + term) <= allowed:
        below += term
        term = term * (n - j) * hit // ((j + 1) * miss)
        j += 1
    return n + 1 - j if j else None


def p_value(maxima: Sequence[float], peak: float) -> float:
    """The p-value (1 + #{D_i ≥ peak})/(n + 1) of an episode whose largest score so far is ``peak``.

    ``maxima`` ascending. Never rises in an episode, and P(it ever reaches a) ≤ a for every a: valid at any stopping
    time. A peak that is NaN counts as worse than every D.
    """
    n = len(maxima)
    worse = 0 if math.isnan(peak) else n - bisect_left(maxima, peak)
    return (1 + worse) / (n + 1)


# --- what a number of episodes is worth ----------------------------------------------------------------


def rate_interval(n: int, k: int, mass: float = RATE_MASS) -> tuple[float, float] | None:
    """Central interval of the true rate, Beta(n + 1 − k, k), given these n episodes; None without a threshold."""
    if k > n:
        return None
    law = _law("beta", n + 1 - k, k)
    tail = (1.0 - mass) / 2.0
    return float(law.ppf(tail)), float(law.ppf(1.0 - tail))


def alarms_interval(m: int, n: int, k: int, mass: float = TEST_MASS) -> tuple[int, int]:
    """Central interval of the number of alarms in m fresh nominal episodes, BetaBinomial(m, n + 1 − k, k).

    A calibration at its declared rate falls outside with probability at most 1 − mass. (0, 0) without a threshold.
    Where maxima equal the threshold the law is that of alarms with ties broken at random, between the number of D above
    it and the number at or above: then the first must not exceed the upper end, nor the second fall below the lower.
    """
    if k > n:
        return 0, 0
    law = _law("betabinom", m, n + 1 - k, k)
    tail = (1.0 - mass) / 2.0
    return int(law.ppf(tail)), int(law.ppf(1.0 - tail))


def interval_power(m: int, n: int, k: int, rate: float, mass: float = TEST_MASS) -> float:
    """Probability that ``alarms_interval`` rejects a true rate: that Binomial(m, rate) lies outside.

    A test that could not have failed shows nothing, so this number stands beside its result.
    """
    low, high = alarms_interval(m, n, k, mass)
    law = _law("binom", m, rate)
    return float(law.cdf(low - 1) + law.sf(high))


def most_alarms(m: int, rate: float, level: float = 1.0 - TEST_MASS) -> int:
    """Most alarms in m independent episodes that a rate of at most ``rate`` explains: the one-sided exact test.

    P(Binomial(m, rate) > result) ≤ level. For methods that promise a bound: one calibration for each episode, or a
    test martingale's runs.
    """
    return int(_law("binom", m, rate).isf(level))


def limit_power(m: int, limit: int, rate: float) -> float:
    """Probability that a one-sided test with this limit rejects a true rate: P(Binomial(m, rate) > limit)."""
    return float(_law("binom", m, rate).sf(limit))


def most_union_alarms(m: int, n: int, ranks: Sequence[int], level: float = 1.0 - TEST_MASS) -> int:
    """Most episodes of m in which any of several rungs, calibrated on the same n episodes, may alarm.

    Rung r alarms BetaBinomial(m, n + 1 − k_r, k_r) times, so it alarms more than c_r times with probability at most
    level/len(ranks), and the union more than Σ c_r times with probability at most ``level``, whatever joins the
    rungs. Rungs on one score are nested: give only the loosest of each score. Ranks without a threshold add nothing.
    """
    return sum(int(_law("betabinom", m, n + 1 - k, k).isf(level / len(ranks))) for k in ranks if k <= n)


def _law(name: str, *parameters: float) -> Any:
    """A frozen distribution of scipy.stats, which is untyped."""
    return getattr(import_module("scipy.stats"), name)(*parameters)


# --- by MAPIE ------------------------------------------------------------------------------------------


def mapie_threshold(maxima: Sequence[float], alpha: float) -> float:
    """The threshold by MAPIE: upper bound around a predictor that always says min(D).

    MAPIE scores |y − prediction|; measured from the smallest maximum nothing is negative. It refuses n < 1/α.
    Raises MissingExtraError without the extra ``calibrate``.
    """
    lowest = min(maxima)
    conformal = _regressor(len(maxima), 1.0 - alpha)
    conformal.conformalize([[0.0]] * len(maxima), [value - lowest for value in maxima])
    _, intervals = conformal.predict_interval([[0.0]])
    return float(intervals[0, 1, 0]) + lowest


@dataclass(frozen=True, slots=True)
class Exchangeability:
    """Whether the order of the calibration episodes says anything about their maxima.

    Attributes:
        p_value: of exchangeability; small where the episodes drifted while they were recorded.
        change: how many episodes precede the largest change of mean rank, where to look first; 0 without a change.
        permutations: how many were drawn.
        seed: of their stream.
    """

    p_value: float
    change: int
    permutations: int
    seed: int


def exchangeability(maxima: Sequence[float], *, permutations: int = 999, seed: int = 0) -> Exchangeability:
    """Exchangeability of at least two ``maxima`` in the order of recording, by MAPIE's permutation test.

    The statistic is MAPIE's: over all splits the largest change of mean, scaled by sqrt(k(n − k)/n). It is taken of
    the ranks of D, those of ties averaged, so that a few huge maxima do not hide a change. MAPIE draws the permutations
    and gives p = (1 + #{statistic ≥ observed})/(1 + permutations); it is handed the same statistic in closed form,
    sixty times as fast at n = 200. Raises MissingExtraError without the extra ``calibrate``.
    """
    rising = ascending(maxima)
    n = len(rising)
    if n < 2:
        raise CalibrationError(f"an order needs at least two episodes, got {n}")
    ranks = np.array([bisect_left(rising, d) + bisect_right(rising, d) for d in maxima], dtype=np.float64)
    conformal = _regressor(n, 0.5)
    test = import_module("mapie.exchangeability_testing").PValuePermutationTest(
        mapie_estimator=conformal, task="regression", random_state=seed, num_permutations=permutations, warn=False
    )
    test.test_statistic = _largest_change
    test.run(np.zeros((n, 1)), ranks)
    changes = _changes(ranks)
    change = int(np.argmax(changes)) + 1 if np.any(changes > 0.0) else 0
    return Exchangeability(float(test.p_values[-1]), change, permutations, seed)


def _changes(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scaled change of mean at the splits 1 … n − 1, sqrt(k(n − k)/n)|mean before − mean after|.

    Written so that whole scores give whole numerators: splits that tie, tie exactly.
    """
    n = scores.size
    k = np.arange(1, n, dtype=np.float64)
    sums = np.cumsum(scores)
    changes: NDArray[np.float64] = np.abs(n * sums[:-1] - k * sums[-1]) / np.sqrt(k * (n - k) * n)
    return changes


def _largest_change(scores: NDArray[np.float64]) -> float:
    return float(_changes(np.ravel(scores)).max())


def _regressor(n: int, confidence: float) -> Any:
    """MAPIE's split conformal regressor around a predictor of zero, not yet conformalised."""
    try:
        regressor = import_module("mapie.regression").SplitConformalRegressor
        dummy = import_module("sklearn.dummy").DummyRegressor
    except ImportError as error:
        raise MissingExtraError("the oracle for calibration", "calibrate") from error
    predictor = dummy(strategy="constant", constant=0.0).fit([[0.0]] * n, [0.0] * n)
    return regressor(predictor, confidence_level=confidence, prefit=True)
