"""All scored monitors of a shield, their joint scores, and the ladder of alarms over them.

    evidence ─▶ scores ─▶ z (how rare among the fit episodes) ─▶ g_act, g_warn ─▶ rungs: warn, degrade, stop

What is promised: the *first* alarm of a nominal episode comes with at most the declared probability. Later rungs of
the same episode hold for the episode as it would have gone on without an alarm.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from safeguard.core.enums import Cause, Level
from safeguard.core.errors import CalibrationError
from safeguard.core.types import Evidence, Score, Verdict
from safeguard.monitors.calibration import Calibration
from safeguard.monitors.drift import Drift
from safeguard.monitors.joint import Joint
from safeguard.monitors.normal import RankScale
from safeguard.monitors.registry import Setting, monitors
from safeguard.monitors.rung import ANSWERS, Alarm

_NAN: Final = math.nan
_BLAMED: Final = 3  # monitors that an alarm names
_SEEN: Final = 10.0  # resolutions above a score that nobody has calibrated: the self-test's fault was noticed


class Bank:
    """The scored monitors of one shield.

    Args:
        setting: what they are built for; what they learned comes from ``calibration``.
        calibration: the artefact, or None: then they score, and every rung is uncalibrated.
        void: why the calibration is void from the start (an earlier shield found a drift), or "".
        drift: what watches the episodes for drift, or the file in which it is kept from one process to the next
            (``Drift.kept``); by default one of this shield's own, which ends with it.

    Raises:
        CalibrationError: the artefact was made for other monitors, or ``drift`` for another artefact.

    Attributes:
        setting: what the monitors were built for.
        unproven: monitors whose planted fault did not trip them, and why.
        void: why the calibration no longer holds, or "".
    """

    def __init__(
        self,
        setting: Setting,
        calibration: Calibration | None = None,
        *,
        void: str = "",
        drift: Drift | str | Path | None = None,
    ) -> None:
        self.calibration = calibration
        if calibration is not None:
            setting = replace(setting, fit=calibration.arrays)
        found = monitors(setting)
        self.setting = setting
        self._monitors = tuple(monitor for _, monitor in found)
        self._names = tuple(entry.name for entry, _ in found)
        self._block = setting.config.past_horizon == "new_block"
        self.void = void
        self._alarms: tuple[Alarm, ...] = ()
        self._scales: tuple[RankScale, ...] = ()
        if calibration is not None:
            self._use(calibration)
            self._watch(calibration, drift)
        elif drift is not None:
            raise CalibrationError("a drift test belongs to a calibration, and this shield has none: give it one")
        self._uncalibrated = tuple(
            Verdict(f"joint.{rung}", Level.UNCALIBRATED, _NAN, math.inf, None, Cause.UNCALIBRATED, "no calibration")
            for rung in ANSWERS
        )
        self.unproven = self._self_test(setting)
        self._fresh()

    def _fresh(self) -> None:
        """What is known of an episode that begins."""
        self._tick, self._largest, self._alarmed, self._counted = 0, 0.0, False, False

    def _use(self, calibration: Calibration) -> None:
        made_for = tuple(member.name for member in calibration.members)
        if made_for != self._names:
            raise CalibrationError(
                f"the calibration was made for the monitors {', '.join(made_for)}; this shield has "
                f"{', '.join(self._names)}: calibrate again"
            )
        self._alarms = tuple(Alarm(rung) for rung in calibration.rungs)
        self._scales = tuple(RankScale(member.maxima, member.resolution) for member in calibration.members)
        self._joint = Joint([member.witness for member in calibration.members], calibration.debounce)
        self._horizon = calibration.horizon_ticks
        self._past = f"past the calibrated horizon of {self._horizon} ticks"
        if calibration.order is not None and calibration.order.rejected and not self.void:
            self.void = f"the calibration episodes are not exchangeable (p = {calibration.order.p_value:.3g})"

    def _watch(self, calibration: Calibration, drift: Drift | str | Path | None) -> None:
        """Where earlier episodes have shown a drift, there is no first episode in which that is not known."""
        digest, maxima = calibration.digest, calibration.rungs[0].maxima
        if isinstance(drift, str | Path):
            drift = Drift.kept(Path(drift), digest, maxima)
        self._drift = drift or Drift(digest, maxima)
        if self._drift.calibration != digest:
            raise CalibrationError(
                f"the drift test was made for the calibration {self._drift.calibration[:12]!r}, not {digest[:12]!r}: "
                "a new calibration starts a new test"
            )
        self._tell_drift()

    def _tell_drift(self) -> None:
        if self._drift.void and not self.void:
            self.void = (
                f"drift: the last {self._drift.episodes} episodes are not like the calibration's; calibrate again"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the scored monitors, in order."""
        return self._names

    def begin(self) -> None:
        """Start a new episode; the one before, if there was one, tells whether the world has drifted."""
        try:
            self.end()
        except CalibrationError as error:  # what is not kept would be forgotten, and nobody would know
            self.void = self.void or str(error)
        for monitor in self._monitors:
            monitor.reset()
        self._begin_block()
        self._fresh()

    def end(self) -> None:
        """Count the episode that is under way, once; the next ``begin`` does it too, but a process may end before.

        Raises:
            CalibrationError: it was counted, and the file of the drift test cannot be written.
        """
        if self.calibration is not None and self._tick and not self._counted:
            self._counted = True
            self._count(self.calibration.digest)

    def _count(self, digest: str) -> None:
        """The episode is one more for the drift test; its random number follows from what is known."""
        draw = hashlib.sha256(f"{digest}:{self._drift.episodes}".encode()).digest()
        self._drift.add(self._largest, 1.0 - int.from_bytes(draw[:6], "big") / 2.0**48)
        self._tell_drift()

    def _begin_block(self) -> None:
        for alarm in self._alarms:
            alarm.reset()
        if self._scales:
            self._joint.reset()

    def verdicts(self, evidence: Evidence) -> tuple[Verdict, ...]:
        """One verdict of every monitor, which says what it scored, and one of every rung."""
        scores = [monitor.score(evidence) for monitor in self._monitors]
        said = [self._said(name, score) for name, score in zip(self._names, scores, strict=True)]
        if not self._scales:
            return (*said, *self._uncalibrated)
        z: list[float] = []
        for scale, score in zip(self._scales, scores, strict=True):
            known = math.isfinite(score.value)
            z.append(scale(score.value) if known else 0.0)
            if not known and not self._alarmed:  # no nominal episode: worse than any number to the drift test
                self._largest, self._alarmed = math.inf, True
        return (*said, *self._judge(z))

    def _said(self, name: str, score: Score) -> Verdict:
        if math.isnan(score.value):
            detail = score.detail or "the score is not a number"
            return Verdict(name, Level.WARN, score.value, _NAN, None, Cause.MONITOR_WARN, detail)
        if name in self.unproven:
            return Verdict(name, Level.UNPROVEN, score.value, _NAN, detail=self.unproven[name])
        return Verdict(name, Level.OK, score.value, _NAN)

    def _judge(self, z: list[float]) -> tuple[Verdict, ...]:
        act, warn = self._joint.fold(z)
        tick, self._tick = self._tick, self._tick + 1
        void = self.void
        if tick >= self._horizon:
            if not self._block:
                void = void or self._past
            elif tick % self._horizon == 0:
                self._begin_block()
        elif not self._alarmed:  # what comes after an alarm is no longer a nominal episode
            self._largest = max(self._largest, warn)
            self._alarmed = self._alarms[0].alarms(warn)
        scores = (warn, act, act)
        loud = [alarm for alarm, score in zip(self._alarms, scores, strict=True) if alarm.alarms(score)]
        blame = self._blame(z) if loud else ""
        return tuple(  # the gravest says who raised it
            alarm.judge(score, blame if loud and alarm is loud[-1] else "", void)
            for alarm, score in zip(self._alarms, scores, strict=True)
        )

    def _blame(self, z: list[float]) -> str:
        loudest = sorted(zip(z, self._names, strict=True), reverse=True)[:_BLAMED]
        return ", ".join(f"{name} z = {value:.2f}" for value, name in loudest if value > 0.0)

    def _self_test(self, setting: Setting) -> Mapping[str, str]:
        """Every monitor is shown a planted fault; what does not notice it is unproven (law 9)."""
        unproven: dict[str, str] = {}
        for index, (entry, monitor) in enumerate(monitors(setting)):
            value = 0.0
            for evidence in entry.trip(setting):
                value = monitor.score(evidence).value
            if not math.isnan(value) and not self._noticed(index, value, entry.resolution):
                unproven[entry.name] = f"unproven: its planted fault scored {value:.3g} only"
        return unproven

    def _noticed(self, index: int, value: float, resolution: float) -> bool:
        if not self._scales:
            return value > _SEEN * resolution
        known = [alarm for alarm in self._alarms if not alarm.shortage]
        z = self._scales[index](value)
        return all(alarm.alarms(z) for alarm in known)
