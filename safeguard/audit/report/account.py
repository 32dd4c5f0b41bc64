"""What a run adds up to: who enforced, which assumptions held, what every monitor said, what was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from safeguard.audit.records.bodies import VerdictBody, full_verdict
from safeguard.audit.records.decode import decode_number
from safeguard.audit.records.events import Agreement, Effect
from safeguard.audit.records.registry import (
    DecisionRecord,
    EpisodeOpen,
    Gap,
    Human,
    Record,
    Recovery,
    RunClose,
    RunOpen,
)
from safeguard.core.enums import Enforcement, FilterStatus, Level
from safeguard.core.types import NS_PER_S

STATE_AGE: Final = ("shield", "intake", "max_age_s")
PROPOSAL_AGE: Final = ("shield", "intake", "proposal_max_age_s")
NAMES: Final = 200
"""Most names of a kind that are told apart: rows, monitors, people, strategies."""
LOSSES: Final = 50
"""Most gaps and recoveries that are kept, the first."""


def configured(config: JsonValue, *keys: str) -> JsonValue:
    """The value at the path ``keys`` of a recorded configuration, or None."""
    for key in keys:
        if not isinstance(config, dict):
            return None
        config = config.get(key)
    return config


def number(value: JsonValue) -> float | None:
    """A recorded number; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(slots=True)
class Age:
    """Ages of what came in, s: the limit, the largest, how many were looked at and how many were outside."""

    limit: float | None = None
    worst: float = float("-inf")
    seen: int = 0
    outside: int = 0

    def add(self, age: float) -> None:
        """Count one."""
        self.seen += 1
        self.worst = max(self.worst, age)
        self.outside += self.limit is not None and age > self.limit


@dataclass(slots=True)
class MonitorAccount:
    """What one monitor said over the run.

    Attributes:
        ticks: how often it spoke.
        levels: how often it said what.
        score, threshold: of the tick in which the score lay highest against the threshold; NaN if never in numbers.
        p_value: the smallest.
        said: its first words that were not OK.
        where: episode and tick of them.
    """

    ticks: int = 0
    levels: Counter[Level] = field(default_factory=Counter[Level])
    score: float = float("nan")
    threshold: float = float("nan")
    p_value: float | None = None
    said: str = ""
    where: tuple[int, int] | None = None

    def add(self, verdict: VerdictBody, place: tuple[int, int]) -> None:
        """Count one verdict."""
        self.ticks += 1
        self.levels[verdict.level] += 1
        score, threshold = decode_number(verdict.score), decode_number(verdict.threshold)
        if score == score and not score - threshold <= self.score - self.threshold:
            self.score, self.threshold = score, threshold
        if verdict.p_value is not None:
            p = decode_number(verdict.p_value)
            self.p_value = p if self.p_value is None else min(self.p_value, p)
        if verdict.level is not Level.OK and self.where is None:
            self.where = place
            self.said = verdict.detail or (verdict.cause.value if verdict.cause is not None else "")


@dataclass(slots=True)
class Effects:
    """What effect records say.

    Attributes:
        agreements: how many came to which.
        bare: how many judged ticks without coming to one.
        ticks, judged: that they are about, and that they judged.
        largest: deviation of a joint.
        worst: the record that has it.
    """

    agreements: Counter[Agreement] = field(default_factory=Counter[Agreement])
    bare: int = 0
    ticks: int = 0
    judged: int = 0
    largest: float = 0.0
    worst: Effect | None = None

    def add(self, effect: Effect) -> None:
        """Count one."""
        self.agreements[effect.agreement] += 1
        self.bare += effect.agreement == "not_judged" and effect.judged > 0
        self.ticks += effect.last - effect.first + 1
        self.judged += effect.judged
        largest = max(map(decode_number, effect.largest), default=0.0)
        if effect.judged and largest >= self.largest:
            self.largest, self.worst = largest, effect


@dataclass(slots=True)
class Account:
    """Counts over all proved records of a run, in bounded memory.

    Attributes:
        outside: decisions before any episode.
        strategies: of the episodes.
        more_losses: gaps and recoveries that are not kept.
        unnamed: how often ``reasons``, ``monitors``, ``people`` came that there was no room for.
    """

    decisions: int = 0
    outside: int = 0
    enforcement: Counter[Enforcement] = field(default_factory=Counter[Enforcement])
    statuses: Counter[FilterStatus] = field(default_factory=Counter[FilterStatus])
    provisional: int = 0
    filtered: int = 0
    relaxed: int = 0
    stuck: int = 0
    causes: Counter[str] = field(default_factory=Counter[str])
    reasons: Counter[str] = field(default_factory=Counter[str])
    monitors: dict[str, MonitorAccount] = field(default_factory=dict[str, MonitorAccount])
    state_age: Age = field(default_factory=Age)
    proposal_age: Age = field(default_factory=Age)
    total: Age = field(default_factory=Age)
    effects: Effects = field(default_factory=Effects)
    strategies: dict[str, None] = field(default_factory=dict[str, None])
    people: Counter[tuple[str, str, bool]] = field(default_factory=Counter[tuple[str, str, bool]])
    gaps: list[Gap] = field(default_factory=list[Gap])
    recoveries: list[Recovery] = field(default_factory=list[Recovery])
    more_losses: int = 0
    unnamed: Counter[str] = field(default_factory=Counter[str])
    closed: RunClose | None = None

    def add(self, record: Record) -> None:
        """Count one record."""
        match record.body:
            case RunOpen() as body:
                self.state_age.limit = number(configured(body.config, *STATE_AGE))
                self.proposal_age.limit = number(configured(body.config, *PROPOSAL_AGE))
                self.total.limit = number(configured(body.config, "period_s"))
            case DecisionRecord() as body:
                self._decision(body)
            case Effect() as body:
                self.effects.add(body)
            case EpisodeOpen() as body if self._room("strategies", self.strategies, body.strategy):
                self.strategies[body.strategy] = None
            case Human() as body if self._room(
                "people", self.people, act := (body.action, body.operator, body.simulated)
            ):
                self.people[act] += 1
            case Gap() | Recovery() if len(self.gaps) + len(self.recoveries) >= LOSSES:
                self.more_losses += 1
            case Gap() as body:
                self.gaps.append(body)
            case Recovery() as body:
                self.recoveries.append(body)
            case RunClose() as body:
                self.closed = body
            case _:
                pass

    def _room(self, what: str, known: Collection[object], name: object) -> bool:
        """Whether ``name`` is known or there is room for it; else it is counted."""
        room = name in known or len(known) < NAMES
        if not room:
            self.unnamed[what] += 1
        return room

    def _decision(self, body: DecisionRecord) -> None:
        decision, result = body.decision, body.decision.filter
        self.decisions += 1
        self.enforcement[decision.enforcement] += 1
        self.statuses[result.status] += 1
        self.filtered += result.status is not FilterStatus.BYPASSED
        self.provisional += result.status is not FilterStatus.BYPASSED and result.provisional
        self.relaxed += bool(result.slack)
        self.stuck += result.stuck
        self.causes.update(cause.value for cause in decision.causes)
        self.reasons.update(name for name in decision.reasons if self._room("reasons", self.reasons, name))
        self.state_age.add((body.now - body.observation.state.t) / NS_PER_S)
        self.total.add(body.timings.total / NS_PER_S)
        if body.proposal is not None:
            self.proposal_age.add((body.now - body.proposal.t_obs) / NS_PER_S)
        for verdict in decision.verdicts:
            full = full_verdict(verdict)
            if self._room("monitors", self.monitors, full.monitor):
                self.monitors.setdefault(full.monitor, MonitorAccount()).add(full, (body.episode, body.tick))


def levels_text(levels: Mapping[Level, int], names: Mapping[Level, str]) -> str:
    """Counts of the levels that are not OK, the gravest first."""
    loud = sorted((level for level in levels if level is not Level.OK), reverse=True)
    return ", ".join(f"{names[level]} {levels[level]:,}" for level in loud)
