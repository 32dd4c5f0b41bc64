"""What an alarm is worth: rates, areas and times of one method, and two methods on the same episodes.

Only the first alarm of an episode counts, because only that is what a threshold promises anything about. An alarm
before the onset is a false one, also where a fault comes later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MISS: Final = 1.0
"""Detection time of a fault that raised no alarm, as a share of what was left of the episode."""

_RESAMPLES: Final = 4000
_DEALS: Final = 1000


@dataclass(frozen=True, slots=True)
class Result:
    """What one method made of one episode.

    Attributes:
        peak: its largest score.
        first: tick of its first alarm, or None.
        onset: tick from which the episode is not nominal, or None for a nominal one.
        ticks: length of the episode.
        deadline: tick by which a stop had to be under way, or None.
        stop_ticks: how long a stop took at the first alarm.
    """

    peak: float
    first: int | None
    onset: int | None
    ticks: int
    deadline: int | None = None
    stop_ticks: float = 0.0

    @property
    def hit(self) -> bool:
        """The first alarm was not before the onset."""
        return self.onset is not None and self.first is not None and self.first >= self.onset

    @property
    def false(self) -> bool:
        """The first alarm was in a nominal tick."""
        return self.first is not None and (self.onset is None or self.first < self.onset)

    @property
    def detection(self) -> float:
        """Share of the time from onset to end that had gone by at the alarm; MISS if there was none in it."""
        if not self.hit or self.onset is None or self.first is None:
            return MISS
        return (self.first - self.onset) / (self.ticks - self.onset)

    @property
    def actionable(self) -> bool:
        """A stop that began at the alarm had ended by the deadline."""
        if self.deadline is None or self.first is None or not self.hit:
            return False
        return self.first + self.stop_ticks <= self.deadline


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Probability that a positive's peak lies above a negative's, ties counting half (Mann and Whitney 1947)."""
    both = np.concatenate([np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)])
    values, place = np.unique(both, return_inverse=True)
    counts = np.bincount(place, minlength=len(values))
    ranks = np.cumsum(counts) - (counts - 1) / 2.0
    n, m = len(positive), len(negative)
    above = float(ranks[place[:n]].sum()) - n * (n + 1) / 2.0
    return above / (n * m)


def roc(positive: Sequence[float], negative: Sequence[float]) -> tuple[Floats, Floats]:
    """(false-positive rate, true-positive rate) at every threshold, from (0, 0) to (1, 1)."""
    p, n = np.sort(np.asarray(positive, dtype=np.float64)), np.sort(np.asarray(negative, dtype=np.float64))
    cuts = np.unique(np.concatenate([p, n]))[::-1]
    tpr = 1.0 - np.searchsorted(p, cuts, side="left") / len(p)
    fpr = 1.0 - np.searchsorted(n, cuts, side="left") / len(n)
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


def average_precision(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Area under precision over recall, a step for every peak that occurs; ties are above the threshold together."""
    p, n = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    cuts = np.unique(p)[::-1]
    hits = len(p) - np.searchsorted(np.sort(p), cuts, side="left")
    false = len(n) - np.searchsorted(np.sort(n), cuts, side="left")
    recall = np.concatenate([[0.0], hits / len(p)])
    return float((np.diff(recall) * hits / (hits + false)).sum())


def clopper_pearson(hits: int, of: int, mass: float = 0.95) -> tuple[float, float]:
    """Exact central interval of a rate (Clopper and Pearson 1934); (0, 1) of nothing."""
    from scipy.stats import beta

    law: Any = beta
    tail = (1.0 - mass) / 2.0
    low = float(law.ppf(tail, hits, of - hits + 1)) if hits else 0.0
    high = float(law.ppf(1.0 - tail, hits + 1, of - hits)) if hits < of else 1.0
    return low, high


@dataclass(frozen=True, slots=True)
class Summary:
    """One method over all episodes.

    Attributes:
        nominal, positive: how many episodes.
        false: nominal ones with an alarm.
        tpr: share of positive ones with a hit.
        early: share of positive ones with an alarm before the onset.
        auc: of the peaks, all episodes being equally long; pr_auc: their average precision.
        detection: mean detection time with misses as MISS.
        actionable: positive ones whose alarm came in time, of ``deadlines`` that had a deadline.
    """

    nominal: int
    positive: int
    false: int
    tpr: float
    early: float
    auc: float
    pr_auc: float
    detection: float
    actionable: int
    deadlines: int

    @property
    def fpr(self) -> float:
        """Alarms of a nominal episode."""
        return self.false / self.nominal

    @property
    def balanced(self) -> float:
        """Balanced accuracy."""
        return (self.tpr + 1.0 - self.fpr) / 2.0


def summary(positive: Sequence[Result], negative: Sequence[Result]) -> Summary:
    """Every figure of one method; both sequences non-empty."""
    peaks = [result.peak for result in positive], [result.peak for result in negative]
    return Summary(
        nominal=len(negative),
        positive=len(positive),
        false=sum(result.false for result in negative),
        tpr=_mean([result.hit for result in positive]),
        early=_mean([result.false for result in positive]),
        auc=auc(*peaks),
        pr_auc=average_precision(*peaks),
        detection=_mean([result.detection for result in positive]),
        actionable=sum(result.actionable for result in positive),
        deadlines=sum(result.deadline is not None for result in positive),
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """First method minus second, with the central 95 % of a paired bootstrap."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two methods on the same episodes: above 0 in ``balanced`` and below 0 in ``detection`` the first is better."""

    balanced: Difference
    detection: Difference


def compare(
    positive: tuple[Sequence[Result], Sequence[Result]],
    negative: tuple[Sequence[Result], Sequence[Result]],
    seed: int = 0,
) -> Comparison:
    """Paired bootstrap over episodes: both methods are resampled together, positives and negatives apart.

    Thresholds stay as they are, so the interval is about other test episodes, not about another calibration.
    """
    rng = np.random.default_rng(seed)
    hit = _difference([[float(r.hit) for r in results] for results in positive])
    false = _difference([[float(r.false) for r in results] for results in negative])
    late = _difference([[r.detection for r in results] for results in positive])
    balanced, detection = np.empty(_RESAMPLES), np.empty(_RESAMPLES)
    for k in range(_RESAMPLES):
        p, n = rng.integers(len(hit), size=len(hit)), rng.integers(len(false), size=len(false))
        balanced[k] = (hit[p].mean() - false[n].mean()) / 2.0
        detection[k] = late[p].mean()
    return Comparison(
        _interval(float((hit.mean() - false.mean()) / 2.0), balanced), _interval(float(late.mean()), detection)
    )


@dataclass(frozen=True, slots=True)
class Course:
    """A positive episode at any threshold: where the running maximum of its scores rose.

    Attributes:
        levels, ticks: running maximum after each rise, and the tick of the rise.
        onset, length: of the episode, ticks.
    """

    levels: Floats
    ticks: Floats
    onset: int
    length: int

    @classmethod
    def of(cls, scores: Floats, onset: int) -> Course:
        """From scores by tick."""
        highest = np.maximum.accumulate(scores)
        rises = np.flatnonzero(np.concatenate([[True], highest[1:] > highest[:-1]]))
        return cls(highest[rises], rises.astype(np.float64), onset, len(scores))

    def detection(self, thresholds: Floats) -> Floats:
        """Detection time at each threshold; an alarm before the onset is a miss."""
        k = np.searchsorted(self.levels, thresholds, side="right")
        first = np.append(self.ticks, np.inf)[k]
        time = (first - self.onset) / (self.length - self.onset)
        return np.where((first < self.onset) | np.isinf(first), np.inf, time)


def redrawn(
    courses: Sequence[Sequence[Course]], nominal: Sequence[Floats], n: int, k: int, seed: int = 0
) -> list[tuple[Floats, Floats]]:
    """Balanced accuracy and detection time of every method, over calibrations that might have been.

    The nominal episodes are dealt out anew each time, ``n`` to calibrate on and the others to test, and positives are
    drawn with replacement; the same for all methods. So what one draw of a threshold is worth cancels out.

    Args:
        courses: of every method, for the same positives.
        nominal: largest scores of every method in the same nominal episodes.
        n, k: episodes to calibrate on, and the rank of the threshold among them, from 1.
        seed: of the draws.

    Returns:
        Of every method, shape (draws,) each.
    """
    rng = np.random.default_rng(seed)
    deals = np.stack([rng.permutation(len(nominal[0])) for _ in range(_DEALS)])
    drawn = rng.integers(len(courses[0]), size=(_DEALS, len(courses[0])))
    found: list[tuple[Floats, Floats]] = []
    for own, peaks in zip(courses, nominal, strict=True):
        dealt = peaks[deals]
        thresholds = np.sort(dealt[:, :n], axis=1)[:, k - 1]
        false = (dealt[:, n:] > thresholds[:, None]).mean(axis=1)
        late = np.stack([course.detection(thresholds) for course in own], axis=1)
        late = np.take_along_axis(late, drawn, axis=1)
        hit = np.isfinite(late)
        found.append(((hit.mean(axis=1) + 1.0 - false) / 2.0, np.where(hit, late, MISS).mean(axis=1)))
    return found


def against(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> Comparison:
    """First minus second in every draw of ``redrawn``: mean and central 95 %."""
    balanced, detection = first[0] - second[0], first[1] - second[1]
    return Comparison(_interval(float(balanced.mean()), balanced), _interval(float(detection.mean()), detection))


def _difference(pair: Sequence[Sequence[float]]) -> Floats:
    first, second = pair
    return np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)


def _interval(value: float, drawn: Floats) -> Difference:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Difference(value, float(low), float(high))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
