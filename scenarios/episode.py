"""What is measured in an episode, and how its outcome is classed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from pydantic import JsonValue

from safeguard.core.enums import Enforcement, FilterStatus, Mode
from safeguard.core.types import NS_PER_S, Command, Decision, TerminalStop, Vector
from safeguard.scenarios.faults import Activity
from safeguard.scenarios.referee import MOTION, Judgement, Violation, ViolationKind
from safeguard.scenarios.scenario import Standstill

_HELD = frozenset({Mode.HOLD, Mode.STOP, Mode.ESTOP, Mode.LOCKOUT})
_BRAKED = frozenset({FilterStatus.BACKUP, FilterStatus.REFUSED})
_INTERVENED = _BRAKED | {FilterStatus.CORRECTED}
_FROM_PROPOSAL = frozenset({"proposal", "qp"})


UNITS: Mapping[ViolationKind, str] = {
    ViolationKind.POSITION: "rad",
    ViolationKind.SPEED: "rad/s",
    ViolationKind.TORQUE: "N·m",
    ViolationKind.SELF_COLLISION: "m",
    ViolationKind.NON_FINITE: "numbers",
    ViolationKind.EXPIRED: "s",
    ViolationKind.ORDER: "numbers",
    ViolationKind.MISSING: "commands",
    ViolationKind.STALE: "s old",
}
"""Unit of the size of every kind of violation."""


class Outcome(Enum):
    """Classes of episodes; each episode is in exactly one. Values are written to journals."""

    INVALID = "invalid"  # the simulation diverged although no limit was exceeded
    NOT_ACTIVATED = "not_activated"  # a fault never changed anything
    MASKED = "masked"  # the faults acted, the commands are those of the clean twin
    CLEAN = "clean"  # no fault was asked for, nothing went wrong
    HANDLED_IN_TIME = "handled_in_time"  # answered within the FTTI, nothing went wrong
    HANDLED_LATE = "handled_late"  # answered, but late, or after commands on old or broken information
    UNDETECTED_SAFE = "undetected_safe"  # never answered, yet no limit was exceeded
    HAZARD = "hazard"  # a position, speed, torque or collision limit was exceeded


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """One episode as the referee and the bookkeeping saw it.

    Attributes:
        scenario: its name.
        seed, episode: identity of the episode's random streams.
        enforcement: whether the shield enforced.
        outcome: class of the episode.
        judgement: the referee's account.
        activities: evidence of every fault, by its label.
        ticks: decisions taken.
        detect_s: from the first effect of a fault to the first new cause, worse mode or intervention, s;
            None if there was none or nothing watched.
        safe_s: from that effect to standstill in HOLD or worse inside all limits, or a completed terminal
            stop, s; None without enforcement.
        success: the task was done at the end.
        modified, braked, stuck: shares of the ticks in which the filter corrected, the backup (or the
            terminal stop) ran, and the filter called the arm stuck.
        acknowledgements: of the scripted operator.
        final_mode: mode of the last decision.
        commands: SHA-256 over the command stream.
    """

    scenario: str
    seed: int
    episode: int
    enforcement: Enforcement
    outcome: Outcome
    judgement: Judgement
    activities: Mapping[str, Activity]
    ticks: int
    detect_s: float | None
    safe_s: float | None
    success: bool
    modified: float
    braked: float
    stuck: float
    acknowledgements: int
    final_mode: Mode
    commands: str

    def as_record(self) -> dict[str, JsonValue]:
        """What ``episode_close`` holds, in the form that reports draw: counts in ticks, worst sizes in a unit."""
        seen = self.judgement.violations
        motion: dict[str, JsonValue] = {k.value: _measure(k, seen.get(k)) for k in ViolationKind if k in MOTION}
        others = (ViolationKind.NON_FINITE, ViolationKind.STALE)
        return {
            "task": "done" if self.success else "failed",
            "violations": motion,
            "commands": {k.value: _measure(k, seen.get(k)) for k in others},
            "contact pairs": self.judgement.contacts,
            "clearance_m": number(self.judgement.clearance),
            "detected_after_s": self.detect_s,
            "safe_state_after_s": self.safe_s,
            "share_modified": self.modified,
            "share_braked": self.braked,
            "share_stuck": self.stuck,
            "class": self.outcome.value.replace("_", " "),
        }

    def as_json(self) -> dict[str, JsonValue]:
        """The result for journals and machines; numbers that JSON lacks are named."""
        judgement = self.judgement
        violations: dict[str, JsonValue] = {k.value: _violation(v) for k, v in judgement.violations.items()}
        activities: dict[str, JsonValue] = {k: activity_json(v) for k, v in self.activities.items()}
        return {
            "scenario": self.scenario,
            "seed": self.seed,
            "episode": self.episode,
            "enforcement": self.enforcement.value,
            "outcome": self.outcome.value,
            "violations": violations,
            "contacts": judgement.contacts,
            "clearance_m": number(judgement.clearance),
            "nearest": judgement.nearest,
            "activities": activities,
            "ticks": self.ticks,
            "detect_s": self.detect_s,
            "safe_s": self.safe_s,
            "success": self.success,
            "modified": self.modified,
            "braked": self.braked,
            "stuck": self.stuck,
            "acknowledgements": self.acknowledgements,
            "final_mode": self.final_mode.name,
            "commands": self.commands,
        }


def _measure(kind: ViolationKind, violation: Violation | None) -> JsonValue:
    if violation is None:
        return {"count": 0, "worst": 0.0, "unit": UNITS[kind]}
    return {"count": violation.ticks, "worst": number(violation.worst), "unit": UNITS[kind]}


def number(value: float) -> JsonValue:
    """``value``, or its name where JSON has no such number."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def activity_json(activity: Activity) -> dict[str, JsonValue]:
    """Evidence of a fault as JSON."""
    return {"count": activity.count, "largest": number(activity.largest), "first": activity.first}


def _violation(violation: Violation) -> dict[str, JsonValue]:
    return {
        "ticks": violation.ticks,
        "worst": number(violation.worst),
        "where": violation.where,
        "first_ns": violation.first,
    }


def classify(
    *,
    judgement: Judgement,
    activities: Iterable[Activity],
    enforcement: Enforcement,
    detect_s: float | None,
    ftti_s: float,
    same_as_twin: bool,
) -> Outcome:
    """The class of an episode; the first that fits.

    A shield that does not enforce handles nothing, whatever it noticed.
    """
    seen = list(activities)
    if judgement.unstable and not judgement.hazard:
        return Outcome.INVALID
    if seen and not all(activity.count for activity in seen):
        return Outcome.NOT_ACTIVATED
    if judgement.hazard:
        return Outcome.HAZARD
    if seen and same_as_twin:
        return Outcome.MASKED
    if not seen and judgement.clean:
        return Outcome.CLEAN
    if detect_s is None or enforcement is not Enforcement.FULL:
        return Outcome.UNDETECTED_SAFE
    in_time = detect_s <= ftti_s and judgement.clean
    return Outcome.HANDLED_IN_TIME if in_time else Outcome.HANDLED_LATE


class Stillness:
    """Standstill from the simulation's joint speeds: all under the threshold for the dwell."""

    def __init__(self, rule: Standstill) -> None:
        self._rule, self._since = rule, None

    _since: int | None

    def observe(self, v: Vector, now: int) -> float:
        """How long the robot has stood still at ``now`` ns, s; negative while it moves. ``v`` in rad/s."""
        if not float(np.abs(v).max()) < self._rule.speed_radps:
            self._since = None
            return -1.0
        self._since = now if self._since is None else self._since
        return (now - self._since) / NS_PER_S


class TickLog:
    """Counts and times of the decisions of one episode, tick by tick."""

    def __init__(self, rule: Standstill) -> None:
        self._rule = rule
        self._digest = hashlib.sha256()
        self._statuses = dict.fromkeys(FilterStatus, 0)
        self._stuck = 0
        self._calm: Decision | None = None
        self._active_since: int | None = None
        self._last: Decision | None = None
        self.ticks = 0
        self.detect_s: float | None = None
        self.safe_s: float | None = None

    def add(self, decision: Decision, now: int, activities: Sequence[Activity]) -> None:
        """Take note of the decision of ``now`` ns; ``activities`` includes what faults did in this tick."""
        firsts = [a.first for a in activities if a.first is not None]
        if firsts and self._active_since is None:
            self._active_since, self._calm = min(firsts), self._last
        if self._active_since is not None and self.detect_s is None and self._answers(decision):
            self.detect_s = (now - self._active_since) / NS_PER_S
        self._digest.update(_bytes(decision.command))
        self._statuses[decision.filter.status] += 1
        self._stuck += decision.filter.stuck
        self._last = decision
        self.ticks += 1

    def settle(self, still_s: float, within: bool, now: int) -> None:
        """Note whether the body was safe at ``now`` ns: at rest for ``still_s``, ``within`` all limits."""
        last, since = self._last, self._active_since
        if last is None or since is None or self.detect_s is None or self.safe_s is not None:
            return
        held = last.mode in _HELD or isinstance(last.command, TerminalStop)
        if held and within and still_s >= self._rule.dwell_s:
            self.safe_s = (now - since) / NS_PER_S

    def share(self, *statuses: FilterStatus) -> float:
        """Share of the ticks with one of ``statuses``."""
        return sum(self._statuses[status] for status in statuses) / max(self.ticks, 1)

    @property
    def stuck(self) -> float:
        """Share of the ticks in which the filter called the arm stuck."""
        return self._stuck / max(self.ticks, 1)

    @property
    def braked(self) -> float:
        """Share of the ticks in which the backup or the terminal stop ran."""
        return self.share(*_BRAKED)

    @property
    def final_mode(self) -> Mode:
        """Mode of the last decision."""
        return Mode.BOOT if self._last is None else self._last.mode

    def commands(self) -> str:
        """SHA-256 over the command stream so far."""
        return self._digest.hexdigest()

    def _answers(self, decision: Decision) -> bool:
        """Something is worse than in the last tick before the fault acted."""
        calm = self._calm
        if calm is None:
            return decision.mode > Mode.NOMINAL or decision.filter.status in _INTERVENED
        new_cause = not set(decision.causes) <= set(calm.causes)
        intervenes = decision.filter.status in _INTERVENED and calm.filter.status not in _INTERVENED
        return new_cause or decision.mode > calm.mode or intervenes


def follows_proposal(decision: Decision) -> bool:
    """The command of this decision was derived from a proposal."""
    return decision.source in _FROM_PROPOSAL


def _bytes(command: Command) -> bytes:
    parts = [
        np.asarray(part).tobytes() for name in ("tau", "q", "v") if (part := getattr(command, name, None)) is not None
    ]
    return type(command).__name__.encode() + b"".join(parts)
