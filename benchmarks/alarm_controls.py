"""Wrong ways to set an alarm, each beside the right one, through the tests of ``alarm_laws.py``.

Each is found in published code or is one line away from a right one. All at a nominal 5 % of an episode (a run).
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Callable

import numpy as np

from benchmarks.alarm_laws import Floats, Row, ar1, one_sided, two_sided
from safeguard.monitors.conformal import ascending, least_n, order_statistic, rank
from safeguard.monitors.drift import Drift

ALPHA = 0.05
STEPS = 100
CALIBRATION = 200
FRESH = 1000
RUNS = 300

Pair = tuple[Row, Row]
"""The wrong method and the right one, on the same numbers."""


def pooled_steps(seed: int) -> Pair:
    """A threshold that 5 % of all calibration steps exceed, against one that 5 % of the episodes do."""
    rng = np.random.default_rng(seed)
    calibration, fresh = ar1((CALIBRATION, STEPS), rng), ar1((FRESH, STEPS), rng).max(axis=1)
    counts = [np.count_nonzero(fresh > _threshold(d)) for d in (calibration.ravel(), calibration.max(axis=1))]
    rows = [two_sided("", ALPHA, CALIBRATION, FRESH, int(count)) for count in counts]
    return rows[0], rows[1]


def _threshold(maxima: Floats, alpha: float = ALPHA) -> float:
    found = order_statistic(ascending(maxima.tolist()), rank(maxima.size, alpha))
    return math.inf if found is None else found


def step_martingale(seed: int) -> Pair:
    """Bets p^(−1/2)/2 on every step's p-value until 1/α, as if steps were independent; against bets on episodes."""
    rng = np.random.default_rng(seed)
    calibration, fresh = ar1((CALIBRATION, STEPS), rng), ar1((FRESH, STEPS), rng)
    pool = np.sort(calibration.ravel())
    p = (1 + pool.size - np.searchsorted(pool, fresh)) / (pool.size + 1)
    evidence = np.cumsum(np.log(0.5) - 0.5 * np.log(p), axis=1).max(axis=1)
    wrong = int(np.count_nonzero(evidence >= -math.log(ALPHA)))
    right = sum(_voids(ar1((2 * 50, STEPS), rng).max(axis=1), rng) for _ in range(FRESH))
    return one_sided("", ALPHA, CALIBRATION, FRESH, wrong), one_sided("", ALPHA, 50, FRESH, right)


def _voids(maxima: Floats, rng: np.random.Generator) -> bool:
    """Whether the drift test ever alarms on the second half, calibrated on the first."""
    half = maxima.size // 2
    drift = Drift("", maxima[:half].tolist(), ALPHA)
    return any(drift.add(d, 1.0 - u).void for d, u in zip(maxima[half:].tolist(), rng.random(half), strict=True))


def fixed_set(seed: int) -> Pair:
    """A jumper over 1,000 episodes whose p-values all come from the same 50, against a set that grows."""
    rng = np.random.default_rng(seed)
    maxima, u = rng.standard_normal((RUNS, 50 + 1000)), rng.random((RUNS, 1000))
    counts = [
        sum(_jumper(p_values(d, tie)) >= 1.0 / ALPHA for d, tie in zip(maxima, u, strict=True))
        for p_values in (_fixed, _growing)
    ]
    rows = [one_sided("", ALPHA, 50, RUNS, int(count)) for count in counts]
    return rows[0], rows[1]


def _fixed(maxima: Floats, u: Floats) -> Floats:
    calibration = np.sort(maxima[:50])
    p: Floats = (50 - np.searchsorted(calibration, maxima[50:], side="right") + u) / 51
    return p


def _growing(maxima: Floats, u: Floats) -> Floats:
    seen = sorted(maxima[:50].tolist())
    p = np.empty(u.size)
    for i, d in enumerate(maxima[50:].tolist()):
        p[i] = (len(seen) - bisect_right(seen, d) + u[i]) / (len(seen) + 1)
        insort(seen, d)
    return p


def _jumper(p: Floats) -> float:
    """Largest capital of the simple jumper, bets 1 + ε(p − 1/2) with ε of −1, 0, 1, J = 0.01 (Vovk et al.)."""
    low = still = high = 1.0 / 3.0
    largest = 1.0
    for x in p.tolist():
        dealt = 0.01 / 3.0 * (low + still + high)
        low = (0.99 * low + dealt) * (1.5 - x)
        still = 0.99 * still + dealt
        high = (0.99 * high + dealt) * (0.5 + x)
        largest = max(largest, low + still + high)
    return largest


def plain_quantile(seed: int) -> Pair:
    """np.quantile of ten maxima and one fresh episode, 20,000 times, against the rank of 19, the fewest for 5 %."""
    rng = np.random.default_rng(seed)
    ten, enough, fresh = rng.random((20_000, 10)), rng.random((20_000, least_n(ALPHA))), rng.random(20_000)
    wrong = int(np.count_nonzero(fresh > np.quantile(ten, 1.0 - ALPHA, axis=1)))
    right = sum(d > _threshold(maxima) for d, maxima in zip(fresh.tolist(), enough, strict=True))
    rows = [one_sided("", ALPHA, n, fresh.size, int(count)) for n, count in ((10, wrong), (least_n(ALPHA), right))]
    return rows[0], rows[1]


CONTROLS: dict[str, tuple[Callable[[int], Pair], float]] = {
    "pooled step threshold": (pooled_steps, 0.71),
    "step-level power martingale": (step_martingale, 0.34),
    "fixed-set jumper, n = 50": (fixed_set, 0.48),
    "plain quantile, n = 10": (plain_quantile, 0.13),
}
"""Name, the pair for a seed, and about which rate the wrong one has."""
