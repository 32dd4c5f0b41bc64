"""A journal boiled down to what a report shows: curves, mode spans and interventions of each episode."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import JsonValue

from safeguard.audit.journal.keys import PublicKey
from safeguard.audit.records.bodies import Array, MarginsBody, ProposalBody, VerdictBody, full_verdict
from safeguard.audit.records.decode import decode_array, decode_number
from safeguard.audit.records.registry import (
    DecisionRecord,
    EpisodeClose,
    EpisodeOpen,
    FaultCleared,
    FaultInjected,
    Human,
    Limits,
    Record,
    RunOpen,
)
from safeguard.audit.report.account import Account
from safeguard.audit.verify import VerifyReport, verify_run
from safeguard.core.enums import Enforcement, FilterStatus, Level, Mode
from safeguard.core.errors import JournalError
from safeguard.core.types import NS_PER_S, Vector

MARGINS: Final = {"position": "rad", "velocity": "rad/s", "torque": "N·m", "clearance": "m"}
"""Margins of a decision and their units."""

GAP = float("nan")

PROPOSAL_CHECKS: Final = ("intake.proposal", "intake.proposal_age", "intake.proposal_order", "intake.repetition")
KEPT: Final = 400
"""Most interventions of a run whose first decision is kept whole; of more, the gravest."""


@dataclass(frozen=True, slots=True)
class Span:
    """Something that lasted from ``start`` to ``end``, s after the first tick of the episode."""

    start: float
    end: float
    label: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at ``t``, s after the first tick of the episode."""

    t: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """The last proposal that had arrived by some tick; ``refused`` says why the intake did not take it, or ""."""

    proposal: ProposalBody
    refused: str


@dataclass(frozen=True, slots=True)
class First:
    """The first decision of an intervention, whole, with what had been proposed by then."""

    body: DecisionRecord
    arrival: Arrival | None
    seq: int


@dataclass(slots=True)
class Intervention:
    """Consecutive ticks that were not clean, with the same status, mode and causes.

    Attributes:
        start, end: s after the first tick of the episode.
        ticks: how many.
        mode, status, causes: what they have in common.
        active: rows that bound in any of them, in order of appearance.
        margins: smallest margin of each kind.
        reason: in words, from the first of them that has any.
        tick: of the first.
        effort: the largest.
        first: the first of them, whole; None where only a count was kept.
    """

    start: float
    end: float
    ticks: int
    mode: Mode
    status: FilterStatus
    causes: tuple[str, ...]
    active: dict[str, None]
    margins: dict[str, float]
    reason: str
    tick: int
    effort: float = 0.0
    first: First | None = None

    @property
    def weight(self) -> tuple[bool, int, int]:
        """How grave it is: whether the stop had to stand in, the mode, how long it lasted."""
        grave = self.status in (FilterStatus.BACKUP, FilterStatus.REFUSED)
        return grave, -1 if self.mode is Mode.BOOT else self.mode.value, self.ticks


@dataclass(slots=True)
class Series:
    """One monitor's statements over an episode, with NaN where it made none or none in numbers."""

    score: list[float] = field(default_factory=list[float])
    threshold: list[float] = field(default_factory=list[float])
    level: list[Level] = field(default_factory=list[Level])


@dataclass(slots=True)
class EpisodeSummary:
    """What a report shows of one episode. The lists have one entry per tick."""

    opened: EpisodeOpen
    outcome: dict[str, JsonValue] | None = None
    t: list[float] = field(default_factory=list[float])
    q: list[Vector] = field(default_factory=list[Vector])
    modes: list[Mode] = field(default_factory=list[Mode])
    causes: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    clearance: list[float] = field(default_factory=list[float])
    effort: list[float] = field(default_factory=list[float])
    monitors: dict[str, Series] = field(default_factory=dict[str, Series])
    interventions: list[Intervention] = field(default_factory=list[Intervention])
    events: list[Event] = field(default_factory=list[Event])
    start: int | None = None
    arrival: Arrival | None = None

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
    def duration(self) -> float:
        """Time of the last tick, s."""
        return self.t[-1] if self.t else 0.0

    def seconds(self, now: int | None) -> float:
        """``now`` in s after the first tick; the last tick's time where a record has none."""
        if now is None or self.start is None:
            return self.duration
        return (now - self.start) / NS_PER_S

    def positions(self) -> Vector:
        """Measured positions, shape (ticks, joints); NaN rows where a measurement had another shape."""
        width = max((len(row) for row in self.q), default=0)
        rows = [row if len(row) == width else np.full(width, GAP) for row in self.q]
        return np.array(rows, dtype=np.float64).reshape(len(rows), width)

    def scored(self) -> dict[str, Series]:
        """The monitors that compare a number with a threshold."""
        return {name: s for name, s in self.monitors.items() if np.isfinite(s.threshold).any()}

    def mode_spans(self) -> list[Span]:
        """Consecutive ticks of one mode."""
        return _spans(self.t, [mode.name for mode in self.modes])

    def cause_spans(self) -> dict[str, list[Span]]:
        """For every cause that was active, when."""
        names = dict.fromkeys(cause for causes in self.causes for cause in causes)
        return {
            name: [span for span in _spans(self.t, [name if name in now else "" for now in self.causes]) if span.label]
            for name in names
        }


@dataclass(slots=True)
class RunSummary:
    """What a report shows of a run."""

    path: Path
    opened: RunOpen
    integrity: VerifyReport
    episodes: list[EpisodeSummary]
    account: Account

    @property
    def limits(self) -> Limits | None:
        """Joint limits, where the run recorded them."""
        return self.opened.limits


def summarize(path: str | Path, key: PublicKey | None = None) -> RunSummary:
    """Read and verify the run in ``path`` once; a damaged journal is summarized up to the damage.

    ``key`` is the public key that must have signed.

    Raises:
        JournalError: there is no journal, or not even its first record can be trusted.
    """
    collector = _Collector()
    integrity = verify_run(path, key, visit=collector.add)
    if collector.opened is None:
        raise JournalError(f"{path}: no record can be trusted ({integrity.verdict}): {integrity.problem}")
    return RunSummary(Path(path), collector.opened, integrity, collector.episodes, collector.account)


class _Collector:
    """Takes the records of a run in order."""

    def __init__(self) -> None:
        self.opened: RunOpen | None = None
        self.episodes: list[EpisodeSummary] = []
        self.account = Account()
        self._whole: list[Intervention] = []

    def add(self, record: Record) -> None:
        self.account.add(record)
        episode = self.episodes[-1] if self.episodes else None
        match record.body:
            case RunOpen() as body:
                self.opened = body
            case EpisodeOpen() as body:
                self.episodes.append(EpisodeSummary(body))
            case DecisionRecord() as body:
                self._add_decision(episode, body, record.seq)
            case EpisodeClose() as body if episode is not None:
                episode.outcome = body.outcome
            case Human() as body if episode is not None:
                who = f"{body.operator}{' (simulated)' if body.simulated else ''}"
                text = f"{body.action} by {who}: {body.reason}"
                episode.events.append(Event(episode.seconds(record.t), "human", text))
            case FaultCleared() as body if episode is not None:
                episode.events.append(Event(episode.seconds(record.t), "fault", f"{body.id} cleared"))
            case FaultInjected() as body if episode is not None:
                text = f"{body.id} injected ({body.kind})"
                episode.events.append(Event(episode.seconds(record.t), "fault", text))
            case _:
                pass

    def _add_decision(self, episode: EpisodeSummary | None, body: DecisionRecord, seq: int) -> None:
        if episode is None:
            self.account.outside += 1
            return
        _add_tick(episode, body)
        begun = _add_intervention(episode, body)
        if begun is None:
            return
        begun.first = First(body, episode.arrival, seq)
        self._whole.append(begun)
        if len(self._whole) >= 2 * KEPT:
            self._whole.sort(key=lambda one: one.weight, reverse=True)
            for light in self._whole[KEPT:]:
                light.first = None
            del self._whole[KEPT:]


def _add_tick(episode: EpisodeSummary, body: DecisionRecord) -> None:
    if episode.start is None:
        episode.start = body.now
    decision = body.decision
    episode.t.append(episode.seconds(body.now))
    episode.q.append(_row(body.observation.state.q))
    episode.modes.append(decision.mode)
    episode.causes.append(tuple(cause.value for cause in decision.causes))
    episode.clearance.append(decode_number(decision.filter.margins.clearance))
    episode.effort.append(decode_number(decision.filter.effort))
    for verdict in decision.verdicts:
        _add_verdict(episode, full_verdict(verdict))
    if body.proposal is not None:
        episode.arrival = Arrival(body.proposal, _refusal(body))


def _refusal(body: DecisionRecord) -> str:
    """Why the proposal that arrived was not taken, or ""."""
    verdicts = (full_verdict(verdict) for verdict in body.decision.verdicts)
    refused = (v for v in verdicts if v.monitor in PROPOSAL_CHECKS and v.level >= Level.WARN)
    return next((v.detail or v.monitor for v in refused), "")


def _row(value: Array) -> Vector:
    array = decode_array(value)
    return array if array.ndim == 1 else np.empty(0)


def _add_verdict(episode: EpisodeSummary, verdict: VerdictBody) -> None:
    series = episode.monitors.setdefault(verdict.monitor, Series())
    missing = len(episode.t) - 1 - len(series.score)
    series.score += [GAP] * missing + [decode_number(verdict.score)]
    series.threshold += [GAP] * missing + [decode_number(verdict.threshold)]
    series.level += [Level.OK] * missing + [verdict.level]


def _add_intervention(episode: EpisodeSummary, body: DecisionRecord) -> Intervention | None:
    """Count the tick to the intervention that it continues, or begin one and return it; clean ticks end one."""
    decision, result = body.decision, body.decision.filter
    clean = result.status in (FilterStatus.ADMISSIBLE, FilterStatus.BYPASSED)
    if clean and not decision.causes and decision.mode is Mode.NOMINAL:
        return None
    now, causes = episode.t[-1], episode.causes[-1]
    last = episode.interventions[-1] if episode.interventions else None
    goes_on = last is not None and len(episode.t) > 1 and last.end == episode.t[-2]
    alike = (decision.mode, result.status, causes)
    begun = None
    if last is None or not goes_on or (last.mode, last.status, last.causes) != alike:
        margins = dict.fromkeys(MARGINS, float("inf"))
        last = begun = Intervention(now, now, 0, decision.mode, result.status, causes, {}, margins, "", body.tick)
        episode.interventions.append(last)
    last.end, last.ticks = now, last.ticks + 1
    last.active.update(dict.fromkeys(result.active))
    last.reason = last.reason or _reason(body)
    for name, value in _margins(result.margins).items():
        last.margins[name] = min(last.margins[name], value)
    last.effort = max(last.effort, episode.effort[-1])
    return begun


def _margins(margins: MarginsBody) -> dict[str, float]:
    return {name: decode_number(getattr(margins, name)) for name in MARGINS}


def _reason(body: DecisionRecord) -> str:
    """Why this tick was not clean: the checker's refusal, what monitors saw, rows of the table that fired."""
    decision = body.decision
    verdicts = [full_verdict(verdict) for verdict in decision.verdicts]
    seen = [f"{v.monitor}: {v.detail}" for v in verdicts if v.level >= Level.WARN and v.detail]
    said = [f"refused: {decision.filter.refusal}"] if decision.filter.refusal else []
    rows = [f"rows {', '.join(decision.reasons)}"] if decision.reasons else []
    return "; ".join(said + seen + rows)


def _spans(t: list[float], labels: list[str]) -> list[Span]:
    """Runs of equal labels; each lasts until the next begins."""
    if not t:
        return []
    starts = [at for at in range(len(t)) if at == 0 or labels[at] != labels[at - 1]]
    ends = [t[at] for at in starts[1:]] + [t[-1]]
    return [Span(t[at], end, labels[at]) for at, end in zip(starts, ends, strict=True)]


def thin(t: Vector, y: Vector, limit: int = 600) -> tuple[Vector, Vector]:
    """At most ``limit`` points of a curve that keep every peak: the extremes of equal stretches of time.

    Args:
        t, y: shape (n,); a non-finite ``y`` is a gap and stays one.
        limit: upper bound of the number of points that come back, at least 6.
    """
    y = np.where(np.isfinite(y), y, GAP)
    if len(y) <= limit:
        return t, y
    size = -(-len(y) // ((limit - 2) // 3))
    rows = -(-len(y) // size)
    padded = np.full(rows * size, GAP)
    padded[: len(y)] = y
    block, first = padded.reshape(rows, size), np.arange(rows) * size
    low = first + np.where(np.isnan(block), np.inf, block).argmin(axis=1)
    high = first + np.where(np.isnan(block), -np.inf, block).argmax(axis=1)
    gaps = np.flatnonzero(np.isnan(y))
    gap_of_row = gaps[np.unique(gaps // size, return_index=True)[1]]
    index = np.unique(np.concatenate((low, high, gap_of_row, [0, len(y) - 1])))
    index = index[index < len(y)]
    return t[index], y[index]
