"""A monitor with its calibration: scores become verdicts."""

from __future__ import annotations

import math
from bisect import bisect_left

from safeguard.core.enums import Cause, Level
from safeguard.core.protocols import Monitor
from safeguard.core.types import Evidence, Score, Verdict
from safeguard.monitors.calibration import Calibration


class CalibratedMonitor:
    """Turns a monitor's score into a verdict, once a tick.

    WARN with ``cause`` while score > threshold (strictly: the theorem needs it). UNCALIBRATED without a
    threshold or past the calibrated horizon. A score of NaN is an alarm in every state (law 5). The p-value
    is that of the episode so far, p_t = (1 + #{D_i ≥ max_{u≤t} s_u}) / (n + 1): it never rises and is valid
    at any stopping time.

    Args:
        monitor: what scores.
        calibration: its artefact, or None. Raises CalibrationError when it belongs to another monitor.
        cause: what an alarm activates.
    """

    def __init__(self, monitor: Monitor, calibration: Calibration | None, cause: Cause = Cause.EFFORT_WARN) -> None:
        if calibration is not None:
            calibration.check({"monitor": monitor.name})
        self.monitor = monitor
        self.calibration = calibration
        self._cause = cause
        self._name = monitor.name
        self._threshold = math.inf
        self._maxima: tuple[float, ...] = ()
        self._horizon = 0
        self._why_not = "no calibration"
        if calibration is not None:
            self._use(calibration)
        self._tick = 0
        self._peak = -math.inf

    def _use(self, calibration: Calibration) -> None:
        self._maxima = calibration.maxima
        if calibration.threshold is None:
            needed = math.ceil(1.0 / calibration.alpha) - 1
            self._why_not = f"{calibration.n} episodes, at least {needed} are needed for alpha {calibration.alpha}"
        else:
            self._threshold = calibration.threshold
            self._horizon = calibration.horizon_ticks
            self._why_not = f"past the calibrated horizon of {self._horizon} ticks"

    def reset(self) -> None:
        """Start a new episode."""
        self.monitor.reset()
        self._tick = 0
        self._peak = -math.inf

    def verdict(self, evidence: Evidence) -> Verdict:
        """This tick's verdict."""
        score = self.monitor.score(evidence)
        tick = self._tick
        self._tick += 1
        if math.isnan(score.value):
            detail = score.detail or "the score is not a number"
            return Verdict(self._name, Level.WARN, score.value, self._threshold, None, self._cause, detail)
        if tick >= self._horizon:
            return Verdict(
                self._name,
                Level.UNCALIBRATED,
                score.value,
                self._threshold,
                cause=Cause.UNCALIBRATED,
                detail=self._why_not,
            )
        return self._judge(score)

    def _judge(self, score: Score) -> Verdict:
        self._peak = max(self._peak, score.value)
        n = len(self._maxima)
        p = (1 + n - bisect_left(self._maxima, self._peak)) / (n + 1)
        if score.value > self._threshold:
            return Verdict(self._name, Level.WARN, score.value, self._threshold, p, self._cause, score.detail)
        return Verdict(self._name, Level.OK, score.value, self._threshold, p, None, score.detail)
