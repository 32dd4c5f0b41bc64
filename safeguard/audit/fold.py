"""Decisions folded into interventions: what the timeline, the exports and the report all tell."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from safeguard.audit.records.bodies import UNITS, FilterBody, OutcomeBody, ProposalBody, VerdictBody, full_verdict
from safeguard.audit.records.decode import decode_number
from safeguard.audit.records.registry import DecisionRecord
from safeguard.audit.timeline import Moment
from safeguard.core.enums import Cause, FilterStatus, Level, Mode
from safeguard.core.types import NS_PER_S

PAUSE_S: Final = 0.1
"""Corrections that are no further apart are one intervention."""

UNTOUCHED: Final = (FilterStatus.ADMISSIBLE, FilterStatus.BYPASSED)
STOPS: Final = (FilterStatus.BACKUP, FilterStatus.REFUSED)
PROPOSAL_CHECKS: Final = ("intake.proposal", "intake.proposal_age", "intake.proposal_order", "intake.repetition")


@dataclass(frozen=True, slots=True)
class Arrival:
    """The last proposal that had arrived by some tick; ``refused`` says why the intake did not take it, or ""."""

    proposal: ProposalBody
    refused: str


@dataclass(slots=True)
class Intervention:
    """Decisions that were not clean, alike in mode, configuration, causes and status, at most ``PAUSE_S`` apart.

    Attributes:
        first: the first of them.
        body: what it says.
        arrival: the last proposal of the episode by then.
        until: ns on the run's axis, of the last.
        last: the same in s after the first tick of the episode; None outside episodes.
        ticks: how many.
        margins: smallest margin of each kind; NaN where one was no number.
        active: how often which row bound.
        reason: in words, of the first of them that has any.
        effort: the largest.
    """

    first: Moment
    body: DecisionRecord
    arrival: Arrival | None
    until: int = 0
    last: float | None = None
    ticks: int = 0
    margins: dict[str, float] = field(default_factory=dict[str, float])
    active: Counter[str] = field(default_factory=Counter[str])
    reason: str = ""
    effort: float = 0.0

    @property
    def start(self) -> float:
        """Of the first tick, s after the first of the episode."""
        return seconds_of(self.first)

    @property
    def end(self) -> float:
        """Of the last tick, s after the first of the episode."""
        return (self.until - self.first.start) / NS_PER_S if self.last is None else self.last

    @property
    def mode(self) -> Mode:
        """In force."""
        return self.body.decision.mode

    @property
    def status(self) -> FilterStatus:
        """Of the filter."""
        return self.body.decision.filter.status

    @property
    def causes(self) -> tuple[str, ...]:
        """In force, by name."""
        return tuple(cause.value for cause in self.body.decision.causes)

    @property
    def weight(self) -> tuple[bool, int, int]:
        """How grave it is: whether the stop had to stand in, the mode, how long it lasted."""
        return self.status in STOPS, -1 if self.mode is Mode.BOOT else self.mode.value, self.ticks

    def add(self, moment: Moment, decision: OutcomeBody, whole: bool) -> None:
        """Count a decision."""
        self.until, self.last, self.ticks = moment.at, moment.since, self.ticks + 1
        self.active.update(rows_of(decision.filter))
        self.reason = self.reason or reason_of(decision, whole)
        self.effort = max(self.effort, decode_number(decision.filter.effort))
        for name, value in margins_of(decision.filter).items():
            self.margins[name] = value if value != value else min(self.margins.get(name, float("inf")), value)


class Folder:
    """Folds an episode's decisions into interventions; with ``whole`` their reason tells causes and rows too."""

    def __init__(self, whole: bool = False) -> None:
        self._whole = whole
        self._current: Intervention | None = None
        self._aside: Intervention | None = None  # what follows a correction, should no other follow in time
        self._arrival: Arrival | None = None

    def hear(self, moment: Moment, body: DecisionRecord) -> list[Intervention]:
        """The interventions that are over now that ``moment`` is known."""
        if body.proposal is not None:
            self._arrival = Arrival(body.proposal, _refusal(body.decision))
        over = self._ended(moment, body.decision)
        if _clean(body.decision):
            return over
        if self._current is None:
            heard = self._current = Intervention(moment, body, self._arrival)
        elif body.decision.filter.status is not self._current.status:
            heard = self._aside = self._aside or Intervention(moment, body, self._arrival)
        else:
            heard, self._aside = self._current, None
        heard.add(moment, body.decision, self._whole)
        return over

    def _ended(self, moment: Moment, decision: OutcomeBody) -> list[Intervention]:
        """Those that the decision does not continue; one that leaves the proposal as it is only lets time pass."""
        over: list[Intervention] = []
        current, status = self._current, decision.filter.status
        if current is None:
            return over
        if _state(current.body.decision) != _state(decision):
            return self.end()
        if seconds_of(moment) - current.end > PAUSE_S:
            over, self._current, self._aside = [current], self._aside, None
            current = self._current
        passes = status in UNTOUCHED and current is not None and current.status not in UNTOUCHED
        return over if current is None or status is current.status or passes else over + self.end()

    @property
    def begun(self) -> int | None:
        """Number of the record with which the first intervention began that is not over; None if all are."""
        return None if self._current is None else self._current.first.record.seq

    def end(self) -> list[Intervention]:
        """Those that are left, as nothing follows them."""
        left = [one for one in (self._current, self._aside) if one is not None]
        self._current = self._aside = None
        return left


def _state(decision: OutcomeBody) -> tuple[Mode, str, frozenset[Cause]]:
    return decision.mode, decision.configuration, frozenset(decision.causes)


def _clean(decision: OutcomeBody) -> bool:
    return decision.filter.status in UNTOUCHED and not decision.causes and decision.mode is Mode.NOMINAL


def seconds_of(moment: Moment) -> float:
    """After the first tick of the episode, or outside one of the run, s."""
    return (moment.at - moment.start) / NS_PER_S if moment.since is None else moment.since


def margins_of(result: FilterBody) -> dict[str, float]:
    """By name, in ``UNITS``."""
    return {name: decode_number(getattr(result.margins, name)) for name in UNITS}


def rows_of(result: FilterBody) -> list[str]:
    """Rows that bound or were relaxed."""
    return list(dict.fromkeys([*result.active, *(name for name, _ in result.slack)]))


def verdicts_of(decision: OutcomeBody) -> list[VerdictBody]:
    """What the monitors said, in full."""
    return [full_verdict(verdict) for verdict in decision.verdicts]


def reason_of(decision: OutcomeBody, whole: bool = False) -> str:
    """The checker's refusal, and what monitors saw that is no cause; ``whole``: causes and rows that fired too."""
    said = [f"refused: {decision.filter.refusal}"] if decision.filter.refusal else []
    told = () if whole else decision.causes
    said += [
        f"{v.monitor}: {v.detail}"
        for v in verdicts_of(decision)
        if v.level >= Level.WARN and v.detail and v.cause not in told
    ]
    return "; ".join([*said, f"rows {', '.join(decision.reasons)}"] if whole and decision.reasons else said)


def _refusal(decision: OutcomeBody) -> str:
    """Why the proposal that arrived was not taken, or ""."""
    refused = (v for v in verdicts_of(decision) if v.monitor in PROPOSAL_CHECKS and v.level >= Level.WARN)
    return next((v.detail or v.monitor for v in refused), "")
