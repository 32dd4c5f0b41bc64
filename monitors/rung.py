"""One rung of an alarm: split conformal prediction over episodes, at one declared false-alarm rate.

The unit of exchangeability is the episode: D is the largest score of a nominal one. With n of them, sorted,

    k = ceil((n + 1)(1 − α)),   threshold = D_(k) if k ≤ n else +∞,   alarm where score > threshold

an exchangeable nominal episode alarms with probability at most α (Vovk et al. 2005; Lei et al. 2018),
whatever the dependence inside it. Given these n episodes the true rate is distributed as Beta(n + 1 − k, k).
Too few episodes: no threshold, and the rung is uncalibrated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from safeguard.core.enums import Cause, Level
from safeguard.core.errors import CalibrationError
from safeguard.core.types import Verdict
from safeguard.monitors.conformal import (
    ascending,
    least_n,
    mapie_threshold,
    order_statistic,
    p_value,
    pac_rank,
    rank,
    rate_interval,
)

CONFIDENCE: Final = 0.95
"""With which the stricter threshold of a rung keeps its rate, whatever the calibration episodes happened to be."""

RungName = Literal["warn", "degrade", "stop"]

ANSWERS: Final[dict[RungName, tuple[Level, Cause]]] = {
    "warn": (Level.WARN, Cause.MONITOR_WARN),
    "degrade": (Level.DEGRADE, Cause.MONITOR_DEGRADE),
    "stop": (Level.STOP, Cause.MONITOR_STOP),
}
"""What an alarm of each rung says, and which cause it is."""


class Rung(BaseModel):
    """A frozen threshold and what it was made of. Construction checks that its parts agree with each other.

    Attributes:
        name: of the rung.
        score: which joint score it judges.
        n: number of nominal episodes.
        alpha: declared false-alarm rate of one episode.
        k: rank of the threshold among the sorted maxima.
        threshold: alarm above it; None where n is too small for alpha.
        maxima: D of every episode, ascending.
        ties: n minus the number of distinct maxima; with ties the true rate lies at or below the interval.
        rate_interval: central 90 % interval of the true rate given these episodes, or None.
        sure_threshold: the threshold that keeps the rate with confidence 0.95 given these episodes, or None where n
            is too small for that; for the record, it judges nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: RungName
    score: Literal["g_warn", "g_act"]
    n: Annotated[int, Field(ge=0)]
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)]
    k: Annotated[int, Field(ge=1)]
    threshold: float | None
    maxima: tuple[float, ...]
    ties: Annotated[int, Field(ge=0)]
    rate_interval: tuple[float, float] | None
    sure_threshold: float | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        k = rank(self.n, self.alpha)
        expected: dict[str, tuple[object, object]] = {
            "n": (self.n, len(self.maxima)),
            "k": (self.k, k),
            "maxima": (self.maxima, tuple(sorted(self.maxima))),
            "ties": (self.ties, len(self.maxima) - len(set(self.maxima))),
            "threshold": (self.threshold, order_statistic(self.maxima, k)),
        }
        for name, (found, right) in expected.items():
            if found != right:
                raise ValueError(f"{name} of the rung {self.name!r} is {found!r}, its own data say {right!r}")
        return self

    @property
    def calibrated(self) -> bool:
        """There is a threshold."""
        return self.threshold is not None

    @property
    def shortage(self) -> str:
        """Why there is no threshold, or ""."""
        if self.calibrated:
            return ""
        return f"{self.n} episodes, at least {least_n(self.alpha)} are needed for alpha {self.alpha:g}"


def conformal(name: RungName, score: Literal["g_warn", "g_act"], maxima: Sequence[float], alpha: float) -> Rung:
    """The rung ``name`` from one maximum a nominal episode, in any order; MAPIE finds the threshold too.

    Raises:
        CalibrationError: a maximum is not finite, or MAPIE finds another threshold (to 1e-12).
        MissingExtraError: MAPIE is not installed (extra ``calibrate``).
    """
    rising = ascending(maxima)
    n = len(rising)
    k = rank(n, alpha)
    threshold = order_statistic(rising, k)
    if threshold is not None and n * alpha >= 1.0:  # MAPIE refuses fewer
        theirs = mapie_threshold(rising, alpha)
        if abs(threshold - theirs) > 1e-12 * max(1.0, abs(threshold)):
            raise CalibrationError(f"threshold of the rung {name!r}: {threshold!r} by rank, {theirs!r} by MAPIE")
    sure = pac_rank(n, alpha, 1.0 - CONFIDENCE)
    return Rung(
        name=name,
        score=score,
        n=n,
        alpha=alpha,
        k=k,
        threshold=threshold,
        maxima=rising,
        ties=n - len(set(rising)),
        rate_interval=rate_interval(n, k),
        sure_threshold=None if sure is None else order_statistic(rising, sure),
    )


class Alarm:
    """A rung at work: a joint score becomes a verdict, once a tick.

    The p-value is that of the episode so far, p_t = (1 + #{D_i ≥ max_{u≤t} s_u}) / (n + 1): it never rises and is
    valid at any stopping time.

    Args:
        rung: what it judges by.
    """

    def __init__(self, rung: Rung) -> None:
        self._name = f"joint.{rung.name}"
        self._level, self._cause = ANSWERS[rung.name]
        self._maxima = rung.maxima
        self._threshold = math.inf if rung.threshold is None else rung.threshold
        self.shortage = rung.shortage
        self.reset()

    def reset(self) -> None:
        """Start a new episode, or a new block of one."""
        self._peak, self._p = -math.inf, 1.0

    def judge(self, score: float, blame: str = "", void: str = "") -> Verdict:
        """The verdict on this tick's ``score``; ``blame`` says who raised it, ``void`` why nothing is promised."""
        void = self.shortage or void
        if void:
            return Verdict(
                self._name, Level.UNCALIBRATED, score, self._threshold, None, cause=Cause.UNCALIBRATED, detail=void
            )
        if not score <= self._peak:
            self._peak, self._p = score, p_value(self._maxima, score)
        if self.alarms(score):
            return Verdict(self._name, self._level, score, self._threshold, self._p, self._cause, blame)
        return Verdict(self._name, Level.OK, score, self._threshold, self._p)

    def alarms(self, score: float) -> bool:
        """``score`` is above the threshold, or not a number."""
        return not score <= self._threshold
