"""What a run says that the argument and the clauses ask for, gathered in one pass over its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pydantic import BaseModel, JsonValue

from safeguard.audit.evidence.model import clauses
from safeguard.audit.journal.keys import PublicKey
from safeguard.audit.records.registry import (
    DecisionRecord,
    EpisodeClose,
    EpisodeOpen,
    FaultInjected,
    Human,
    Record,
    RunOpen,
)
from safeguard.audit.verify import VerifyReport, verify_run
from safeguard.core.enums import Cause, Enforcement, RecordKind


@dataclass(slots=True)
class EpisodeFacts:
    """An episode: how it was opened, and how the referee closed it, if he did."""

    opened: EpisodeOpen
    outcome: dict[str, JsonValue] | None = None

    @property
    def enforced(self) -> bool:
        """The shield had the last word."""
        return self.opened.enforcement is Enforcement.FULL


@dataclass(slots=True)
class RunFacts:
    """What the records of a run say.

    Attributes:
        folder: as it was given.
        key: the public key that must have signed, or None.
        opened: ``run_open``, where it could be read.
        report: the journal's verdict.
        decisions: by enforcement.
        uncalibrated: decisions with that cause.
        acts: of people, by (action, simulated).
        faults: that were seen to act, by kind.
        fields: records that hold something there, by (kind, field).
        first: number of the first such record.
    """

    folder: Path
    key: PublicKey | None
    report: VerifyReport
    opened: RunOpen | None = None
    episodes: list[EpisodeFacts] = field(default_factory=list[EpisodeFacts])
    decisions: Counter[Enforcement] = field(default_factory=Counter[Enforcement])
    uncalibrated: int = 0
    acts: Counter[tuple[str, bool]] = field(default_factory=Counter[tuple[str, bool]])
    faults: Counter[str] = field(default_factory=Counter[str])
    fields: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    first: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])

    def add(self, record: Record) -> None:
        """Take the next record."""
        for path in _WANTED.get(record.kind, ()):
            if present(record.body, path):
                place = record.kind.value, ".".join(path)
                self.fields[place] += 1
                self.first.setdefault(place, record.seq)
        match record.body:
            case RunOpen() as body:
                self.opened = body
            case EpisodeOpen() as body:
                self.episodes.append(EpisodeFacts(body))
            case EpisodeClose() as body if self.episodes and self.episodes[-1].opened.episode == body.episode:
                self.episodes[-1].outcome = body.outcome
            case DecisionRecord() as body:
                self.decisions[body.decision.enforcement] += 1
                self.uncalibrated += Cause.UNCALIBRATED in body.decision.causes
            case Human() as body:
                self.acts[body.action, body.simulated] += 1
            case FaultInjected() as body if record.kind is RecordKind.FAULT_INJECTED:
                self.faults[body.kind] += 1
            case _:
                pass


def gather(run: str | Path, key: PublicKey | None) -> RunFacts:
    """Read and verify a run once; of a damaged one what stands before the damage. Raises JournalError."""
    found = RunFacts(Path(run), key, VerifyReport("truncated", 0))
    found.report = verify_run(run, key, visit=found.add)
    return found


def present(value: object, path: Sequence[str]) -> bool:
    """Whether there is something at ``path``; for a list, in any of its items."""
    if not path:
        return value is not None and value not in ("", [], {}, ())
    if isinstance(value, list | tuple):
        return any(present(item, path) for item in cast("Sequence[object]", value))
    if isinstance(value, Mapping):
        return present(cast("Mapping[str, object]", value).get(path[0]), path[1:])
    return isinstance(value, BaseModel) and present(getattr(value, path[0], None), path[1:])


def _wanted() -> dict[RecordKind, tuple[tuple[str, ...], ...]]:
    found: dict[RecordKind, dict[tuple[str, ...], None]] = {}
    for need in (need for clause in clauses() for need in clause.needs):
        found.setdefault(RecordKind(need.kind), {}).update((tuple(name.split(".")), None) for name in need.fields)
    return {kind: tuple(paths) for kind, paths in found.items()}


_WANTED = _wanted()
