"""Scores of different monitors on one scale: how rare they are among the fit episodes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from safeguard.core.errors import CalibrationError


class RankScale:
    """z(s) = −log p(s) with p(s) = (1 + #{D_i ≥ s}) / (n + 1), joined by straight lines.

    D_i are the largest scores of the n fit episodes, so that the same z is equally rare for every monitor, whatever
    its unit and the weight of its tail. z rises strictly: between the D_i it is interpolated, and beyond the largest
    it goes on as steeply as over the upper half of them (by 1 every ``resolution`` where they are all the same).

    Args:
        maxima: D_i, in any order, finite.
        resolution: smallest difference of scores that means anything, in their unit.

    Raises:
        CalibrationError: no maxima, or one that is not finite.
    """

    def __init__(self, maxima: Sequence[float], resolution: float) -> None:
        ascending = sorted(maxima)
        if not ascending or not all(math.isfinite(value) for value in ascending):
            raise CalibrationError(f"a scale needs finite maxima of fit episodes, got {list(maxima)[:5]!r}")
        n = len(ascending)
        at: dict[float, float] = {}
        for below, value in enumerate(ascending):
            at.setdefault(value, -math.log((1 + n - below) / (n + 1)))
        self._x, self._z = list(at), list(at.values())
        middle = bisect_right(self._x, ascending[n // 2]) - 1
        rise, run = self._z[-1] - self._z[middle], self._x[-1] - self._x[middle]
        self._beyond = rise / max(run, resolution) if rise > 0.0 else 1.0 / resolution
        self._below = 1.0 / max(self._x[-1] - self._x[0], resolution)
        self._last = (self._x[0], self._z[0])

    def __call__(self, score: float) -> float:
        """Z of a finite score."""
        last = self._last
        if score == last[0]:
            return last[1]
        z = self._of(score)
        self._last = (score, z)
        return z

    def _of(self, score: float) -> float:
        x, z = self._x, self._z
        i = bisect_right(x, score)
        if i == 0:
            return z[0] + (score - x[0]) * self._below
        if i == len(x):
            return z[-1] + (score - x[-1]) * self._beyond
        return z[i - 1] + (z[i] - z[i - 1]) * (score - x[i - 1]) / (x[i] - x[i - 1])
