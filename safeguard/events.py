"""Folds decisions into records of events: mode changes, faults, near misses, violations, fallbacks, effects, health.

Nothing here is an input of a decision. What comes out depends on decisions, measurements and the tick's time alone,
health apart, which asks the recorder. ``safeguard.audit.records.events`` has what the bodies mean.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from safeguard.audit.journal.journal import Journal
from safeguard.audit.journal.settings import EventsConfig
from safeguard.audit.records.encode import JsonObject
from safeguard.core.compiled import FLAG, NUMBER, OUT_MATRIX, VECTOR, entry, kernel, private
from safeguard.core.enums import STATE_CAUSES, Cause, FilterStatus, Level, Mode, RecordKind
from safeguard.core.protocols import Platform
from safeguard.core.types import (
    NS_PER_S,
    Decision,
    Observation,
    PositionCommand,
    RobotState,
    TorqueCommand,
    Vector,
    Verdict,
)
from safeguard.modes import ModeTable
from safeguard.monitors import Calibration
from safeguard.monitors.normal import RankScale
from safeguard.spans import Event, Fallbacks, Faults, Limits, Tick

_OWN: Final = (FilterStatus.ADMISSIBLE, FilterStatus.CORRECTED, FilterStatus.BACKUP)
_RESIDUAL, _WARN_RUNG = "model_residual", "joint.warn"
_OK, _UNCALIBRATED, _WARN = Level.OK, Level.UNCALIBRATED, Level.WARN  # looking them up takes longer than to compare


@kernel(FLAG, VECTOR, VECTOR, OUT_MATRIX)
def _beyond(q: Vector, v: Vector, limits: NDArray[np.float64]) -> bool:
    """Whether a joint is beyond its lower or upper limit or its speed, the rows of ``limits``."""
    found = False
    for j in range(q.shape[0]):
        found = found or q[j] < limits[0, j] or q[j] > limits[1, j] or abs(v[j]) > limits[2, j]
    return found


@kernel(NUMBER, VECTOR, VECTOR, VECTOR, NUMBER, VECTOR, OUT_MATRIX)
def _deviate(v: Vector, before: Vector, a: Vector, seconds: float, scale: Vector, sums: NDArray[np.float64]) -> float:
    """The largest deviation of a joint from the speed predicted, times its scale; NaN if one is no finite number.

    Rows of ``sums``: largest deviation of each joint and sum of the squares, which go on unless it is NaN; this one.
    """
    worst = 0.0
    for j in range(v.shape[0]):
        sums[2, j] = abs(v[j] - before[j] - a[j] * seconds)
        share = sums[2, j] * scale[j]
        if not share < np.inf:
            return np.nan
        worst = max(worst, share)
    for j in range(v.shape[0]):
        sums[0, j] = max(sums[0, j], sums[2, j])
        sums[1, j] += sums[2, j] * sums[2, j]
    return worst


def residual_limit(calibration: Calibration | None) -> float | None:
    """The score of ``model_residual`` that alone reaches the threshold of the joint warning; None without one."""
    member = next((one for one in calibration.members if one.name == _RESIDUAL), None) if calibration else None
    if calibration is None or member is None or calibration.rungs[0].threshold is None:
        return None
    scale, threshold = RankScale(member.maxima, member.resolution), calibration.rungs[0].threshold
    low, high = 0.0, 1.0
    while scale(high) <= threshold:
        low, high = high, 2.0 * high
    for _ in range(60):  # the scale rises strictly
        middle = 0.5 * (low + high)
        low, high = (middle, high) if scale(middle) <= threshold else (low, middle)
    return low


class Effects:
    """What the body did, held against what the filter's model said of the commands that it was sent.

    Args:
        joints: their names.
        fast: speed limits, shape (n,), rad/s.
        most: ticks that one record is about.
        delay_ticks: periods from a decision to its effect.
        limit: what ``residual_limit`` says.
    """

    def __init__(self, joints: Sequence[str], fast: Vector, most: int, delay_ticks: int, limit: float | None) -> None:
        self._joints, self._most, self._limit = joints, most, limit
        self._scale = private(np.where(np.isfinite(fast), 1.0 / fast, 1.0))
        self._sums = np.zeros((3, len(joints)))
        self._delay = delay_ticks + 1
        self._places = 0, 0  # of the two verdicts that the rule needs, from the end
        self._deviate = entry(_deviate)
        self.begin()

    def begin(self) -> None:
        """Forget the episode."""
        self._sent = deque[tuple[int, Vector] | None]([None] * self._delay, self._delay)
        self._before: RobotState | None = None
        self._next = self._blind = 0
        self._begun = False
        self._clear()

    def _clear(self) -> None:
        self._first = self._next
        self._no_command = self._no_state = self._gap = self._unruled = 0
        self._sums[:] = 0.0
        self._share, self._worst, self._residual, self._differs = -1.0, 0, -math.inf, False

    def hear(self, decision: Decision, state: RobotState | None) -> tuple[Event, ...]:
        """The effect that is complete with this decision; ``state`` as measured, None without the joints' shape."""
        tick = decision.tick
        if tick != self._next:
            self._skip(tick)
        self._next, self._begun = tick + 1, True
        if state is not None and decision.causes and not STATE_CAUSES.isdisjoint(decision.causes):
            state = None
        self._look(decision, state)
        self._before = state
        self._sent.append(self._told(decision))
        return () if tick - self._first + 1 < self._most else self.end(decision)

    def end(self, decision: Decision) -> tuple[Event, ...]:
        """The effect of what was heard since the last one, if anything; ``decision`` was the last."""
        ticks, residual = self._next - self._first, self._residual
        judged = ticks - self._no_command - self._no_state - self._gap
        if not ticks:
            return ()
        largest, squares, _ = self._sums
        body: JsonObject = {
            "episode": decision.episode,
            "enforcement": decision.enforcement.value,
            "first": self._first,
            "last": self._next - 1,
            "judged": judged,
            "no_command": self._no_command,
            "no_state": self._no_state,
            "gap": self._gap,
            "largest": largest.tolist() if judged else [],
            "rms": np.sqrt(squares / judged).tolist() if judged else [],
            "worst": self._worst if judged else None,
            "worst_joint": self._joints[int(np.argmax(largest * self._scale))] if judged else "",
            "residual": residual if math.isfinite(residual) else None,
            "threshold": self._limit,
            "rule": "none" if self._limit is None else "warn_rung",
            "agreement": "differs" if self._differs else "agrees" if judged and not self._unruled else "not_judged",
        }
        self._clear()
        return ((RecordKind.EFFECT, body),)

    def _skip(self, tick: int) -> None:
        """Ticks before this one were not recorded, nor was what acts now; before the first there is nothing to miss."""
        if self._begun:
            self._gap, self._blind = self._gap + tick - self._next, self._delay
        else:
            self._first = tick

    def _look(self, decision: Decision, state: RobotState | None) -> None:
        """Count the tick as judged, or why not."""
        sent, before = self._sent[0], self._before
        if self._blind:
            self._blind -= 1
            self._gap += 1
        elif sent is None:
            self._no_command += 1
        elif state is None or before is None or (passed := state.t - before.t) <= 0:
            self._no_state += 1
        elif passed > sent[0]:
            self._no_command += 1
        else:
            share = self._deviate(state.v, before.v, sent[1], passed / NS_PER_S, self._scale, self._sums)
            if share != share:
                self._no_state += 1
                return
            if share > self._share:
                self._share, self._worst = share, decision.tick
            self._hold_against(decision.verdicts)

    def _told(self, decision: Decision) -> tuple[int, Vector] | None:
        """How long the command is valid, ns, and what it does by the model, rad/s²; None if not the filter's own."""
        command, result = decision.command, decision.filter
        if isinstance(command, TorqueCommand):
            told, own = command.tau, result.torque
        elif isinstance(command, PositionCommand) and result.position is not None:
            told, own = command.q, result.position
        else:
            return None
        if result.status not in _OWN or not (told is own or told.tobytes() == own.tobytes()):
            return None
        a = np.ascontiguousarray(result.acceleration, np.float64)
        return (command.expires - command.t, a) if a.shape == self._scale.shape else None

    def _hold_against(self, verdicts: Sequence[Verdict]) -> None:
        """The rule: is it the residual that the joint warning alarms about?"""
        at, warns_at = self._places
        if not (at and len(verdicts) >= -at and verdicts[at].monitor == _RESIDUAL):
            self._places = at, warns_at = _place(verdicts, _RESIDUAL), _place(verdicts, _WARN_RUNG)
        if not at:
            self._unruled += 1
            return
        said, limit = verdicts[at], self._limit
        if said.score > self._residual:
            self._residual = said.score
        warns = verdicts[warns_at].level
        if limit is None or not warns_at or said.level is not _OK or warns is _UNCALIBRATED:
            self._unruled += 1
        elif warns is _WARN and said.score > limit:
            self._differs = True


def _place(verdicts: Sequence[Verdict], monitor: str) -> int:
    """Where it stands, from the end: behind it the same stand in every tick. 0 if nowhere."""
    return next((k - len(verdicts) for k, verdict in enumerate(verdicts) if verdict.monitor == monitor), 0)


class Events:
    """Folds the decisions of one shield; a tick in which nothing begins or ends costs it about three microseconds.

    Args:
        platform: its identity has the limits, its ``standstill`` says what standing is.
        table: the mode table that decides.
        period: of control, s.
        journal: takes the records, and is asked how it is.
        certificate: digest of the certificate behind the braking figures, or None.
        settings: thresholds; those of the journal if None.
        delay_ticks: periods from a decision to its effect.
        calibration: of the monitors; without one nobody says whether the body obeys.
    """

    def __init__(
        self,
        platform: Platform,
        table: ModeTable,
        period: float,
        journal: Journal,
        certificate: str | None = None,
        settings: EventsConfig | None = None,
        *,
        delay_ticks: int = 0,
        calibration: Calibration | None = None,
    ) -> None:
        self._journal, self._platform = journal, platform
        self._settings = settings or journal.events
        self._known: JsonObject = {"certificate": certificate, "table": table.digest}
        self._asked = dict(zip(table.rows, Cause, strict=False))  # row id → the cause that it is about
        self._dwell = max(1, round(self._settings.dwell_s / period))
        self._period_ns, self._health_ns = round(period * NS_PER_S), round(self._settings.health_s * NS_PER_S)
        self._due: int | None = None
        self._ticks = self._slowest_record = self._slowest_tick = self._overruns = 0
        self._shape, self._beyond = (len(platform.joints),), entry(_beyond)
        most, limit = max(1, round(self._settings.effect_s / period)), residual_limit(calibration)
        self._effects = Effects(platform.joints, platform.v_max, most, delay_ticks, limit)
        self.begin(Mode.BOOT)

    def begin(self, mode: Mode) -> None:
        """Forget the episode; the next one starts in ``mode``."""
        self._mode: tuple[Mode, str] = mode, ""
        self._faults = Faults(self._dwell)
        self._limits = Limits(self._platform, self._settings, self._dwell)
        self._fallbacks = Fallbacks(self._platform, self._known, self._dwell)
        self._rows, self._least = self._limits.rows, self._limits.least
        self._effects.begin()
        self._last: Decision | None = None
        self._key: tuple[object, ...] = ()
        self._now = self._wake = 0

    # -- with the journal -----------------------------------------------------------------------------

    def tell(self, decision: Decision, observation: Observation, now: int) -> None:
        """Place what follows from a decision that has just been placed."""
        for kind, body in self.after(decision, observation, now):
            self._journal.append(kind, body, tick=decision.tick, t=now)

    def restart(self, mode: Mode | None = None) -> None:
        """Place the ends of what is open; a new episode starts in ``mode``, or the mode goes on."""
        last, now, known = self._last, self._now, self._mode
        if last is not None:
            for kind, body in self.end():
                self._journal.append(kind, body, tick=last.tick, t=now)
        self.begin(known[0] if mode is None else mode)
        if mode is None:
            self._mode = known

    # -- as a function of decisions -------------------------------------------------------------------

    def after(self, decision: Decision, observation: Observation, now: int) -> tuple[Event, ...]:
        """The events that ``decision`` at ``now`` ns completes.

        At most one for each cause, four near misses, three violations, two of a fallback, a mode change, an effect,
        health.
        """
        self._last, self._now = decision, now
        timings, result, state = decision.timings, decision.filter, observation.state
        self._ticks += 1
        if timings.record > self._slowest_record:
            self._slowest_record = timings.record
        if timings.total > self._slowest_tick:
            self._slowest_tick = timings.total
        if timings.total > self._period_ns:
            self._overruns += 1
        key = (
            decision.mode,
            decision.configuration,
            decision.causes,
            decision.authority,
            decision.source,
            result.source,
        )
        margins, least, due = result.margins, self._least, self._due
        measured = state.q.shape == state.v.shape == self._shape
        effect = self._effects.hear(decision, state if measured else None)
        if (
            key == self._key
            and decision.tick < self._wake
            and due is not None
            and due - self._health_ns <= now < due
            and not margins.position < least[0]  # not: a margin that is not a number begins nothing
            and not margins.velocity < least[1]
            and not margins.torque < least[2]
            and not margins.clearance < least[3]
            and not (measured and self._beyond(state.q, state.v, self._rows))
        ):
            return effect
        changed, self._key = key != self._key, key
        return (*self._happened(Tick(decision, state if measured else None, now), changed), *effect)

    def end(self) -> Iterator[Event]:
        """The last effect, and the ends of what is open, one period after the last decision: its episode is over."""
        last = self._last
        if last is not None:
            tick, now = last.tick + 1, self._now + self._period_ns
            yield from self._effects.end(last)
            yield from self._faults.end(last.mode, tick, now)
            yield from self._limits.end(tick, now)
            yield from self._fallbacks.end(tick, now)

    def _happened(self, at: Tick, changed: bool) -> Iterator[Event]:
        yield from self._mode_change(at)
        yield from self._faults.hear(at, changed)
        yield from self._limits.hear(at)
        yield from self._fallbacks.hear(at)
        self._wake = min(self._faults.wake, self._fallbacks.wake) if self._limits.quiet else 0
        yield from self._health(at.now)

    def _mode_change(self, at: Tick) -> Iterator[Event]:
        decision = at.decision
        before, self._mode = self._mode, (decision.mode, decision.configuration)
        if before == self._mode:
            return
        asked = [self._asked[row] for row in decision.reasons if row in self._asked]
        body: JsonObject = {
            **at.where,
            "before": before[0].value,
            "configuration_before": before[1],
            "after": decision.mode.value,
            "configuration_after": decision.configuration,
            "trigger": [cause.value for cause in asked if cause in decision.causes],
            "causes": [cause.value for cause in decision.causes],
            "reasons": list(decision.reasons),
            "authority": decision.authority.value,
        }
        yield RecordKind.MODE_CHANGE, body

    def _health(self, now: int) -> Iterator[Event]:
        """How the recorder is, once the time has come; a clock that went back starts the interval anew."""
        due = self._due
        if due is not None and due - self._health_ns <= now < due:
            return
        self._due = now + self._health_ns
        if due is not None and now >= due:
            figures: JsonObject = {
                "ticks": self._ticks,
                "longest_record_ns": max(0, self._slowest_record),
                "longest_tick_ns": max(0, self._slowest_tick),
                "overruns": self._overruns,
            }
            self._ticks = self._slowest_record = self._slowest_tick = self._overruns = 0
            yield RecordKind.HEALTH, {**self._journal.health(), **figures}
