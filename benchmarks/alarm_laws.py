"""Counted false alarms against the law that they should follow, and a process whose episodes are never independent.

Every row of ``false_alarms.py`` and every test of ``tests/theory/test_conformal_*`` is judged here, and so are the
controls that must fail: the same tests for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from safeguard.core.config import RungsConfig
from safeguard.monitors.conformal import (
    alarms_interval,
    ascending,
    interval_power,
    limit_power,
    most_alarms,
    most_union_alarms,
    order_statistic,
    rank,
)

Floats = NDArray[np.float64]
Maxima = Mapping[str, Floats]
"""D of every episode, for each joint score: "g_warn" and "g_act"."""

_RATES: Final = RungsConfig()
RUNGS: Final = (("warn", "g_warn", _RATES.warn), ("degrade", "g_act", _RATES.degrade), ("stop", "g_act", _RATES.stop))
"""Name, score and declared rate of every rung."""

WORSE: Final = 1.5
"""The power of a test is that against so many times the declared rate."""


@dataclass(frozen=True, slots=True)
class Row:
    """Alarms that were counted and what the declared rate allows.

    Attributes:
        name: rung, or method.
        alpha: declared rate of one episode or run; for a union the sum of its rungs' rates.
        n: calibration episodes.
        m: fresh episodes, or runs.
        expected: mean number of alarms by the law; for a bound the bound.
        alarms: counted.
        low, high: what the test accepts.
        power: probability that it rejects a true rate of WORSE times alpha.
        tied: fresh D that equal the threshold, which is no alarm; broken at random some would be, by the law.
    """

    name: str
    alpha: float
    n: int
    m: int
    expected: float
    alarms: int
    low: int
    high: int
    power: float
    tied: int = 0

    @property
    def passed(self) -> bool:
        """The count is one that the declared rate explains."""
        return self.low <= self.alarms + self.tied and self.alarms <= self.high

    @property
    def rate(self) -> float:
        """Alarms of one episode, or run."""
        return self.alarms / self.m


def two_sided(name: str, alpha: float, n: int, m: int, alarms: int, tied: int = 0) -> Row:
    """Against BetaBinomial(m, n + 1 − k, k): thresholds from one set of n calibration episodes."""
    k = rank(n, alpha)
    low, high = alarms_interval(m, n, k)
    expected = m * max(0, n + 1 - k) / (n + 1)
    return Row(name, alpha, n, m, expected, alarms, low, high, interval_power(m, n, k, WORSE * alpha), tied)


def one_sided(name: str, alpha: float, n: int, m: int, alarms: int) -> Row:
    """Against Binomial(m, alpha): a promised bound, independent trials."""
    high = most_alarms(m, alpha)
    return Row(name, alpha, n, m, alpha * m, alarms, 0, high, limit_power(m, high, WORSE * alpha))


def judge(calibration: Maxima, fresh: Maxima) -> list[Row]:
    """A row for every rung, thresholds by rank and alarms on ">", and one for the union of them."""
    n, m = calibration["g_act"].size, fresh["g_act"].size
    rows = list[Row]()
    anywhere = np.zeros(m, dtype=np.bool_)
    for name, score, alpha in RUNGS:
        threshold = order_statistic(ascending(calibration[score].tolist()), rank(n, alpha))
        alarmed = np.zeros(m, dtype=np.bool_) if threshold is None else fresh[score] > threshold
        anywhere |= alarmed
        tied = 0 if threshold is None else int(np.count_nonzero(fresh[score] == threshold))
        rows.append(two_sided(name, alpha, n, m, int(np.count_nonzero(alarmed)), tied))
    return [*rows, _union(n, m, int(np.count_nonzero(anywhere)))]


def _union(n: int, m: int, alarms: int) -> Row:
    """One-sided: stop lies inside degrade, so warn and degrade are all there is."""
    alphas = [alpha for name, _, alpha in RUNGS if name != "stop"]
    high = most_union_alarms(m, n, [rank(n, alpha) for alpha in alphas])
    bound = math.fsum(alphas)
    return Row("any rung", bound, n, m, bound * m, alarms, 0, high, limit_power(m, high, WORSE * bound))


# -- a process --------------------------------------------------------------------------------------------


def ar1(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Scores s_t = 0.9 s_(t−1) + e_t from s_0 = e_0, e standard normal; shape (episodes, steps)."""
    scores = rng.standard_normal(shape)
    for t in range(1, shape[1]):
        scores[:, t] += 0.9 * scores[:, t - 1]
    return scores


def ar1_maxima(count: int, rng: np.random.Generator, steps: tuple[int, int] = (20, 200)) -> Maxima:
    """D of ``count`` episodes of 20 to 200 steps: action AR(1), novelty another that leans on it, joined as in §8.

    g_act = action, g_warn = max(action, novelty): two scores with memory, dependent on each other, and lengths that
    say much about the maximum.
    """
    lengths = rng.integers(*steps, endpoint=True, size=count)
    late = np.arange(steps[1]) >= lengths[:, None]
    act = ar1((count, steps[1]), rng)
    novelty = 0.6 * act + 0.8 * ar1((count, steps[1]), rng)
    act[late] = novelty[late] = -np.inf
    g_act: Floats = act.max(axis=1)
    return {"g_act": g_act, "g_warn": np.maximum(g_act, novelty.max(axis=1))}
