"""A journal boiled down to what a report shows: curves, mode spans and interventions, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import JsonValue

from safeguard.audit.fold import STOPS, Folder, Intervention
from safeguard.audit.journal.keys import PublicKey
from safeguard.audit.reader import retention_cut
from safeguard.audit.records.bodies import VerdictBody, full_verdict
from safeguard.audit.records.cut import RetentionCut
from safeguard.audit.records.decode import decode_array, decode_number
from safeguard.audit.records.events import Effect, Fallback, FaultDetected, Health, ModeChange
from safeguard.audit.records.registry import (
    DecisionRecord,
    EpisodeClose,
    EpisodeOpen,
    Limits,
    Record,
    RunClose,
    RunOpen,
)
from safeguard.audit.report.account import NAMES, Account
from safeguard.audit.report.curves import Span, Stretches, Trace
from safeguard.audit.report.judged import violated
from safeguard.audit.story import words
from safeguard.audit.timeline import Axis, Moment
from safeguard.audit.verify import VerifyReport, verify_run
from safeguard.core.enums import Enforcement, Level, Mode
from safeguard.core.errors import JournalError

KEPT: Final = 600
"""Most interventions of a run that are kept, the gravest."""
EPISODES: Final = 400
"""Most episodes of a run that are kept: those with most to see (``EpisodeSummary.weight``), of equal ones the first."""
DRAWN: Final = 60
"""Most episodes whose curves are kept, chosen alike."""
EVENTS: Final = 200
"""Most events of an episode that are kept, the first."""
SMALL, WIDE = 100, 200
"""Blocks of a curve in a small and in a wide chart."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at ``t``, s after the first tick of the episode."""

    t: float
    kind: str
    text: str


@dataclass(slots=True)
class Series:
    """One monitor's statements over an episode, with a gap where it made none or none in numbers."""

    score: Trace = field(default_factory=lambda: Trace(WIDE))
    threshold: Trace = field(default_factory=lambda: Trace(WIDE))
    levels: Stretches = field(default_factory=Stretches)
    scored: bool = False
    last: tuple[int, float] = (-1, 0.0)

    def add(self, tick: int, t: float, verdict: VerdictBody) -> None:
        """What it says in the episode's tick number ``tick``."""
        score, threshold = decode_number(verdict.score), decode_number(verdict.threshold)
        self.scored = self.scored or np.isfinite(threshold)
        if tick != self.last[0] + 1:  # it was silent
            self._add(self.last[1], float("nan"), float("nan"), "")
        self._add(t, score, threshold, "" if verdict.level is Level.OK else verdict.level.name)
        self.last = tick, t

    def _add(self, t: float, score: float, threshold: float, level: str) -> None:
        self.score.add(t, score)
        self.threshold.add(t, threshold)
        self.levels.add(t, level)


@dataclass(slots=True)
class Curves:
    """What is drawn of an episode."""

    joints: list[Trace] = field(default_factory=list[Trace])
    clearance: Trace = field(default_factory=lambda: Trace(WIDE))
    modes: Stretches = field(default_factory=Stretches)
    causes: dict[str, Stretches] = field(default_factory=dict[str, Stretches])
    monitors: dict[str, Series] = field(default_factory=dict[str, Series])

    def mode_spans(self) -> list[Span]:
        """Consecutive ticks of one mode."""
        return self.modes.spans()

    def cause_spans(self) -> dict[str, list[Span]]:
        """For every cause that was active, when."""
        return {name: one.spans() for name, one in self.causes.items()}

    def scored(self) -> dict[str, Series]:
        """The monitors that compare a number with a threshold."""
        return {name: series for name, series in self.monitors.items() if series.scored}

    def add(self, tick: int, t: float, body: DecisionRecord) -> None:
        """The episode's tick number ``tick`` at ``t``, s."""
        decision = body.decision
        q = decode_array(body.observation.state.q)
        if not self.joints and q.ndim == 1:
            self.joints = [Trace(SMALL) for _ in q]
        fits = q.shape == (len(self.joints),)
        for trace, value in zip(self.joints, q.tolist() if fits else [float("nan")] * len(self.joints), strict=True):
            trace.add(t, value)
        self.clearance.add(t, decode_number(decision.filter.margins.clearance))
        self.modes.add(t, decision.mode.name)
        active = {cause.value for cause in decision.causes}
        for name in {*active, *self.causes}:
            self.causes.setdefault(name, Stretches()).add(t, name if name in active else "")
        for verdict in decision.verdicts:
            full = full_verdict(verdict)
            if full.monitor not in self.monitors and len(self.monitors) >= NAMES:
                continue
            self.monitors.setdefault(full.monitor, Series()).add(tick, t, full)


@dataclass(slots=True)
class EpisodeSummary:
    """What a report shows of one episode.

    Attributes:
        opened, outcome: of its first and last record.
        ticks: decisions.
        duration: time of the last tick, s.
        worst: mode; boot counts as the least.
        acted, stops: interventions, and those in which the stop stood in.
        curves: None where other episodes are drawn in its place.
        events, more_events: what happened beside decisions, and how much of it is not kept.
    """

    opened: EpisodeOpen
    outcome: dict[str, JsonValue] | None = None
    ticks: int = 0
    duration: float = 0.0
    worst: Mode = Mode.BOOT
    acted: int = 0
    stops: int = 0
    curves: Curves | None = field(default_factory=Curves)
    events: list[Event] = field(default_factory=list[Event])
    more_events: int = 0

    @property
    def shielded(self) -> bool:
        """The shield enforced."""
        return self.opened.enforcement is Enforcement.FULL

    @property
    def watched(self) -> bool:
        """The shield decided, but proposals went out as they were."""
        return self.opened.enforcement is Enforcement.MONITOR_ONLY

    @property
    def title(self) -> str:
        """Scenario, or task where the episode has none."""
        return self.opened.scenario or self.opened.task

    @property
    def weight(self) -> tuple[bool, bool, int]:
        """How much there is to see in it: a violation in spite of the shield, a fault, interventions."""
        return self.shielded and violated(self.outcome or {}), bool(self.opened.faults), self.acted

    def add(self, t: float, body: DecisionRecord) -> None:
        """A tick at ``t``, s."""
        if self.curves is not None:
            self.curves.add(self.ticks, t, body)
        self.ticks, self.duration = self.ticks + 1, t
        self.worst = _graver(self.worst, body.decision.mode)

    def undraw(self) -> None:
        """Let go of what only a drawn episode shows."""
        self.curves, self.events, self.more_events = None, [], self.more_events + len(self.events)


def _graver(one: Mode, other: Mode) -> Mode:
    return max(one, other, key=lambda mode: -1 if mode is Mode.BOOT else mode.value)


@dataclass(slots=True)
class Total:
    """What episodes add up to, however many there are.

    Attributes:
        episodes, ticks: how many.
        ticked: episodes with a decision.
        acted, stops: interventions, and those in which the stop stood in.
        asked: episodes with an intervention.
        worst: mode; boot counts as the least.
        judged, violated, faulted: episodes with an outcome, and of those the ones with a violation, with a fault.
    """

    episodes: int = 0
    ticks: int = 0
    ticked: int = 0
    acted: int = 0
    stops: int = 0
    asked: int = 0
    worst: Mode = Mode.BOOT
    judged: int = 0
    violated: int = 0
    faulted: int = 0

    def add(self, episode: EpisodeSummary) -> None:
        """Count one that is over."""
        self.episodes += 1
        self.ticks += episode.ticks
        self.ticked += episode.ticks > 0
        self.acted += episode.acted
        self.stops += episode.stops
        self.asked += episode.acted > 0
        self.worst = _graver(self.worst, episode.worst)
        if episode.outcome is not None:
            self.judged += 1
            self.violated += violated(episode.outcome)
            self.faulted += bool(episode.opened.faults)


@dataclass(slots=True)
class RunSummary:
    """What a report shows of a run.

    Attributes:
        episodes, interventions: those that are kept (``EPISODES``, ``KEPT``), in order.
        totals: of all episodes, by enforcement; ``total`` of all together.
    """

    path: Path
    opened: RunOpen
    integrity: VerifyReport
    episodes: list[EpisodeSummary]
    totals: Mapping[Enforcement, Total]
    total: Total
    interventions: list[tuple[EpisodeSummary, Intervention]]
    account: Account
    cut: RetentionCut | None

    @property
    def limits(self) -> Limits | None:
        """Joint limits, where the run recorded them."""
        return self.opened.limits

    @property
    def drawn(self) -> list[tuple[EpisodeSummary, Curves]]:
        """Episodes with decisions whose curves are kept."""
        return [(one, one.curves) for one in self.episodes if one.ticks and one.curves is not None]


def summarize(path: str | Path, key: PublicKey | None = None) -> RunSummary:
    """Read and verify the run in ``path`` once; a damaged journal is summarized up to the damage.

    ``key`` is the public key that must have signed.

    Raises:
        JournalError: there is no journal, or not even its first record can be trusted.
    """
    found, axis = _Collector(), Axis()

    def visit(record: Record) -> None:
        for moment in axis.hear(record):
            found.add(moment)

    integrity = verify_run(path, key, visit=visit)
    for moment in axis.rest():
        found.add(moment)
    if found.opened is None:
        raise JournalError(f"{path}: no record can be trusted ({integrity.verdict}): {integrity.problem}")
    cut = retention_cut(path) if integrity.cut else None
    found.finish()
    return RunSummary(
        path=Path(path),
        opened=found.opened,
        integrity=integrity,
        episodes=found.episodes,
        totals=found.totals,
        total=found.total,
        interventions=found.interventions,
        account=found.account,
        cut=cut,
    )


class _Collector:
    """Takes the moments of a run in order."""

    def __init__(self) -> None:
        self.opened: RunOpen | None = None
        self.episodes: list[EpisodeSummary] = []
        self.interventions: list[tuple[EpisodeSummary, Intervention]] = []
        self.totals = {kind: Total() for kind in Enforcement}
        self.total = Total()
        self.account = Account()
        self._folder = Folder(whole=True)
        self._drawn: list[EpisodeSummary] = []

    def add(self, moment: Moment) -> None:
        self.account.add(moment.record)
        last = self.episodes[-1] if self.episodes else None
        episode = last if last is not None and last.opened.episode == moment.episode else None  # its begin may be lost
        match moment.record.body:
            case RunOpen() as body:
                self.opened = body
            case EpisodeOpen() as body:
                self._end()
                self._open(body)
            case DecisionRecord() as body if episode is not None:
                episode.add(moment.since or 0.0, body)
                self._over(self._folder.hear(moment, body))
            case DecisionRecord():
                self.account.outside += 1
            case RunClose() | ModeChange() | FaultDetected() | Fallback() | Health():
                pass  # what they say is drawn as modes and causes, or counted
            case Effect(agreement="agrees" | "not_judged"):
                pass  # counted
            case EpisodeClose() as body if episode is not None:
                episode.outcome = body.outcome
            case _ if episode is not None:
                what, text, _ = words(moment)
                episode.events.append(Event(moment.since or 0.0, what, text))
                episode.more_events += len(episode.events) > EVENTS
                del episode.events[EVENTS:]
            case _:
                pass

    def finish(self) -> None:
        """Nothing follows: what is kept stands in order."""
        self._end()
        self._trim()
        self.interventions.sort(key=lambda one: one[1].first.record.seq)
        self.episodes = self._most()

    def _open(self, body: EpisodeOpen) -> None:
        if len(self.episodes) >= 2 * EPISODES:
            self.episodes = self._most()
        self.episodes.append(EpisodeSummary(body))
        self._drawn.append(self.episodes[-1])

    def _end(self) -> None:
        """The last episode is over, if there is one."""
        self._over(self._folder.end())
        self._folder = Folder(whole=True)
        if self.episodes:
            self.total.add(self.episodes[-1])
            self.totals[self.episodes[-1].opened.enforcement].add(self.episodes[-1])
        if len(self._drawn) > DRAWN:
            least = min(reversed(range(len(self._drawn))), key=lambda at: self._drawn[at].weight)
            self._drawn.pop(least).undraw()

    def _most(self) -> list[EpisodeSummary]:
        """The episodes with most to see, in order."""
        order = sorted(range(len(self.episodes)), key=lambda at: self.episodes[at].weight, reverse=True)
        return [self.episodes[at] for at in sorted(order[:EPISODES])]

    def _over(self, over: list[Intervention]) -> None:
        for one in over:
            episode = self.episodes[-1]
            episode.acted += 1
            episode.stops += one.status in STOPS
            self.interventions.append((episode, one))
        if len(self.interventions) >= 2 * KEPT:
            self._trim()

    def _trim(self) -> None:
        self.interventions.sort(key=lambda one: one[1].weight, reverse=True)
        del self.interventions[KEPT:]
