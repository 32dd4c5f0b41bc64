"""Folds decisions into records of events: mode changes, faults, near misses, violations, fallbacks, health.

Nothing here is an input of a decision. What comes out depends on decisions, measurements and the tick's time alone,
health apart, which asks the recorder. ``safeguard.audit.records.events`` has what the bodies mean.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from safeguard.audit.journal.journal import Journal
from safeguard.audit.journal.settings import EventsConfig
from safeguard.audit.records.encode import JsonObject
from safeguard.core.compiled import FLAG, OUT_MATRIX, VECTOR, entry, kernel
from safeguard.core.enums import Cause, Mode, RecordKind
from safeguard.core.protocols import Platform
from safeguard.core.types import NS_PER_S, Decision, Observation, Vector
from safeguard.modes import ModeTable
from safeguard.spans import Event, Fallbacks, Faults, Limits, Tick


@kernel(FLAG, VECTOR, VECTOR, OUT_MATRIX)
def _beyond(q: Vector, v: Vector, limits: NDArray[np.float64]) -> bool:
    """Whether a joint is beyond its lower or upper limit or its speed, the rows of ``limits``."""
    found = False
    for j in range(q.shape[0]):
        found = found or q[j] < limits[0, j] or q[j] > limits[1, j] or abs(v[j]) > limits[2, j]
    return found


class Events:
    """Folds the decisions of one shield; a tick in which nothing begins or ends costs it about a microsecond.

    Args:
        platform: its identity has the limits, its ``standstill`` says what standing is.
        table: the mode table that decides.
        period: of control, s.
        journal: takes the records, and is asked how it is.
        certificate: digest of the certificate behind the braking figures, or None.
        settings: thresholds; those of the journal if None.
    """

    def __init__(
        self,
        platform: Platform,
        table: ModeTable,
        period: float,
        journal: Journal,
        certificate: str | None = None,
        settings: EventsConfig | None = None,
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
        self.begin(Mode.BOOT)

    def begin(self, mode: Mode) -> None:
        """Forget the episode; the next one starts in ``mode``."""
        self._mode: tuple[Mode, str] = mode, ""
        self._faults = Faults(self._dwell)
        self._limits = Limits(self._platform, self._settings, self._dwell)
        self._fallbacks = Fallbacks(self._platform, self._known, self._dwell)
        self._rows, self._least = self._limits.rows, self._limits.least
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

        At most one for each cause, four near misses, three violations, two of a fallback, a mode change, health.
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
            return ()
        changed, self._key = key != self._key, key
        return tuple(self._happened(Tick(decision, state if measured else None, now), changed))

    def end(self) -> Iterator[Event]:
        """The ends of what is open, one period after the last decision, because its episode is over."""
        last = self._last
        if last is not None:
            tick, now = last.tick + 1, self._now + self._period_ns
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
