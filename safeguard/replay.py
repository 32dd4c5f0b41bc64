"""A recorded run through the shield again: every decision must come out the same (law 10).

What a journal holds of the world is fed back (observations, times, proposals, people, measured durations, what could
not be recorded); what the shield made of it is computed anew and compared. Where records were lost the rest of the
episode cannot be computed, and the next one goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from safeguard.audit.reader import read_run
from safeguard.audit.records.decode import decode_observation, decode_proposal, decode_spec, decode_timings
from safeguard.audit.records.encode import Json, JsonObject
from safeguard.audit.records.expand import named_decision
from safeguard.audit.records.registry import (
    SCHEMAS,
    UPGRADES,
    DecisionRecord,
    EpisodeClose,
    EpisodeOpen,
    Gap,
    Human,
    Record,
    RunOpen,
)
from safeguard.core.errors import JournalError
from safeguard.own_causes import recorded_unkept
from safeguard.recorded_shield import Rebuild, RecordedPort, ShieldLike, recorded_config, recorded_shield
from safeguard.replay_compare import (
    Comparison,
    Deviation,
    Difference,
    Divergence,
    Outline,
    Strictness,
    machine_differences,
    strictness_text,
)

__all__ = [
    "Divergence",
    "Loss",
    "Rebuild",
    "RecordedPort",
    "Replay",
    "ReplayReport",
    "Replayed",
    "ShieldLike",
    "current_body",
    "recorded_config",
    "recorded_shield",
    "replay_run",
]


@dataclass(frozen=True, slots=True)
class Loss:
    """Records that were lost, and decisions that cannot be recomputed because of it.

    Attributes:
        first, last: numbers of the lost records.
        cause: why they were lost.
        episode: in which they were lost, or None between two.
        tick: the first of its ticks that was not recomputed.
        decisions: how many decisions the journal has behind the gap, up to the next episode.
    """

    first: int
    last: int
    cause: str
    episode: int | None
    tick: int
    decisions: int = 0

    def __str__(self) -> str:
        """For people."""
        lost = f"records {self.first} to {self.last} were lost ({self.cause})"
        if self.episode is None:
            behind = f", and {self.decisions:,} decisions of it cannot be recomputed" if self.decisions else ""
            return f"{lost}: an episode may have begun there{behind}"
        behind = f": {self.decisions:,} more decisions" if self.decisions else ""
        return f"{lost}: the rest of episode {self.episode}, from tick {self.tick} on, cannot be recomputed{behind}"


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What :func:`replay_run` found.

    Attributes:
        decisions: how many decisions were recomputed and found to agree.
        episodes: how many episodes were entered.
        divergence: the first one that differs, or None.
        strictness: how they were compared.
        machine: what of this machine differs from the recording one, as far as it can change a number.
        deviations: what the tolerances let pass.
        losses: where decisions could not be recomputed.
    """

    decisions: int
    episodes: int
    divergence: Divergence | None
    strictness: Strictness = "exact"
    machine: tuple[str, ...] = field(default=(), compare=False)
    deviations: tuple[Deviation, ...] = ()
    losses: tuple[Loss, ...] = ()

    @property
    def agrees(self) -> bool:
        """Every decision, at least one, was recomputed, and came out the same as strictly as was asked."""
        return self.divergence is None and self.decisions > 0 and not self.losses

    @property
    def identical(self) -> bool:
        """Every decision, at least one, was recomputed and came out the same, bit for bit."""
        return self.agrees and not self.deviations

    def lines(self) -> Iterator[str]:
        """For people: the result, how it was compared and what was let pass."""
        if self.divergence is not None:
            yield from self.divergence.lines()
        elif not self.decisions:
            yield "the run holds no decision"
        else:
            how = "within tolerance" if self.deviations else "identical"
            yield f"{self.decisions:,} decisions of {self.episodes} episodes came out {how}"
        yield from map(str, self.losses)
        yield strictness_text(self.strictness, self.machine)
        yield from map(str, self.deviations)


def replay_run(
    path: str | Path,
    *,
    rebuild: Rebuild | None = None,
    episodes: Collection[int] | None = None,
    strictness: Strictness | Literal["machine"] = "exact",
    progress: Callable[[int], None] | None = None,
) -> ReplayReport:
    """Recompute every decision of a run and compare it with the record, up to the first difference.

    Chain and signatures are ``verify_run``'s business and not checked here: replay says what an edit would change.

    Args:
        path: the run folder.
        rebuild: makes the shield of an episode from the first record of the run and of the episode; by
            default as they describe it.
        episodes: replay only these.
        strictness: ``exact`` is bit for bit, ``tolerant`` within the tolerances of the schema; ``machine`` is exact
            where libraries, Python, processor and thread settings are those of the recording, else tolerant.
        progress: called with the number of decisions replayed so far.

    Raises:
        JournalError: the journal cannot be read, or a record is out of place.
    """
    replay = Replay(path, rebuild=rebuild, episodes=episodes)
    decisions, divergence, comparison = 0, None, None
    previous: Replayed | None = None
    with closing(iter(replay)) as replayed:
        for made in replayed:
            comparison = comparison or Comparison(_decided(strictness, replay.machine))
            if (found := comparison.first(made.recorded, made.recomputed)) is not None:
                divergence = made.divergence(found, None if made.first else previous)
                break
            previous = made
            decisions += 1
            if progress is not None:
                progress(decisions)
    comparison = comparison or Comparison(_decided(strictness, replay.machine))
    return ReplayReport(
        decisions,
        replay.episodes,
        divergence,
        comparison.strictness,
        replay.machine,
        comparison.deviations,
        tuple(replay.losses),
    )


def _decided(asked: Strictness | Literal["machine"], machine: tuple[str, ...]) -> Strictness:
    if asked == "machine":
        return "tolerant" if machine else "exact"
    return asked


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decision, recorded and recomputed.

    Attributes:
        record: as it lies in the journal.
        recorded: its body, in the current version, as plain JSON.
        recomputed: what came out now, in the same form; arrays may be numpy's.
        first: it is the first one of its episode.
    """

    record: Record
    recorded: Mapping[str, Json]
    recomputed: Mapping[str, Json]
    first: bool

    def divergence(self, found: Difference, previous: Replayed | None) -> Divergence:
        """``found`` with what stood around it; ``previous`` is the decision before this one in the episode."""
        body = self.record.body
        assert isinstance(body, DecisionRecord)
        return Divergence(
            episode=body.episode,
            tick=body.tick,
            seq=self.record.seq,
            stage=found.stage,
            path=found.path,
            expected=found.expected,
            got=found.got,
            now=body.now,
            delta=found.delta,
            recorded=Outline.of(self.recorded),
            recomputed=Outline.of(self.recomputed),
            previous=None if previous is None else Outline.of(previous.recorded),
        )


class Replay:
    """The decisions of a run, recomputed one after the other; to be iterated over once.

    Args:
        path: the run folder.
        rebuild: makes the shield of an episode; by default as the records describe it.
        episodes: only these.

    Attributes:
        episodes: how many were entered so far.
        losses: where decisions could not be recomputed so far.

    Raises:
        JournalError: while iterating: the journal cannot be read, or a record is out of place.
    """

    def __init__(
        self, path: str | Path, *, rebuild: Rebuild | None = None, episodes: Collection[int] | None = None
    ) -> None:
        self.episodes = 0
        self._path, self._rebuild = path, rebuild or recorded_shield
        self._wanted = None if episodes is None else frozenset(episodes)
        self._run_open: Record | None = None
        self._shield: ShieldLike | None = None
        self._port = RecordedPort(None)
        self._episode: int | None = None
        self._first = True
        self._tick, self._over = 0, False  # the next one of the episode; whether it is closed
        self.losses: list[Loss] = []
        self._lost: Gap | None = None  # since when nothing can be computed before the next episode

    @property
    def machine(self) -> tuple[str, ...]:
        """What of this machine differs from the recording one; empty before the first record."""
        body = None if self._run_open is None else self._run_open.body
        return machine_differences(body) if isinstance(body, RunOpen) else ()

    def __iter__(self) -> Generator[Replayed]:
        try:
            for record in read_run(self._path, check=False):
                if (made := self._play(record)) is not None:
                    yield made
        finally:
            self._close()

    def _play(self, record: Record) -> Replayed | None:
        """Do what ``record`` says; the decision that came of it, if it is one."""
        match record.body:
            case RunOpen():
                self._run_open = record
            case EpisodeOpen() as body:
                self._begin(record, body)
            case Gap() as body:
                self._lose(body)
            case DecisionRecord() as body if self._lost is not None:
                self._skip(self._lost, body.episode)
            case EpisodeClose():
                self._over = True
            case Human() as body if self._episode is not None:
                _act(self._current(record), body)
            case DecisionRecord() as body if body.episode == self._episode:
                return self._decide(record, body)
            case DecisionRecord() as body if self._wanted is None or body.episode in self._wanted:
                raise JournalError(f"record {record.seq}: decision of episode {body.episode}, which is not open")
            case _:
                pass
        return None

    def _lose(self, gap: Gap) -> None:
        """What was lost may have been an input, so nothing can be computed before the next episode."""
        if self._lost is not None:
            return
        if self._episode is not None and not self._over:
            self.losses.append(Loss(gap.first, gap.last, gap.cause, self._episode, self._tick))
        elif self._wanted is None:
            self.losses.append(Loss(gap.first, gap.last, gap.cause, None, 0))
        self._lost, self._episode = gap, None

    def _skip(self, gap: Gap, episode: int) -> None:
        """Count a decision behind a gap."""
        if self._wanted is not None and episode not in self._wanted:
            return
        if not self.losses or self.losses[-1].first != gap.first:
            self.losses.append(Loss(gap.first, gap.last, gap.cause, None, 0))
        self.losses[-1] = replace(self.losses[-1], decisions=self.losses[-1].decisions + 1)

    def _begin(self, record: Record, body: EpisodeOpen) -> None:
        self._lost, self._over, self._tick = None, False, 0
        if self._wanted is not None and body.episode not in self._wanted:
            self._episode = None
            return
        assert self._run_open is not None  # the reader refuses a journal that starts with anything else
        self._port = RecordedPort(None if body.spec is None else decode_spec(body.spec))
        shield = self._rebuild(self._run_open, record, self._port)
        if shield is not self._shield:
            self._close()
        self._shield, self._episode, self._first = shield, body.episode, True
        shield.begin_episode(body.task)
        self.episodes += 1

    def _current(self, record: Record) -> ShieldLike:
        if self._shield is None:
            raise JournalError(f"record {record.seq} ({record.kind.value}) stands before any episode_open")
        return self._shield

    def _decide(self, record: Record, body: DecisionRecord) -> Replayed:
        observation = decode_observation(body.observation)
        proposal = None if body.proposal is None else decode_proposal(body.proposal)
        self._port.load(proposal)
        self._port.unkept = recorded_unkept(body.decision.verdicts)
        decision = self._current(record).step(observation, now=body.now)
        missed = self._port.poll(body.now)  # a shield that never asked for it
        self._port.measured = decode_timings(body.timings)
        first, self._first, self._tick = self._first, False, body.tick + 1
        recorded = current_body(record)
        taken = recorded["proposal"] if missed is None else None
        made = {**recorded, "tick": decision.tick, "proposal": taken, "decision": named_decision(decision)}
        return Replayed(record, recorded, made, first)

    def _close(self) -> None:
        """Close the shield of the current episode."""
        if self._shield is not None:
            self._shield.close()
        self._shield = None


def current_body(record: Record) -> JsonObject:
    """The body of a record as plain JSON in the current version."""
    data = record.data
    for step in range(record.v, SCHEMAS[record.kind].version):
        data = UPGRADES[record.kind, step](data)
    return data


def _act(shield: ShieldLike, human: Human) -> None:
    """What somebody did to the shield, done again."""
    match human.action:
        case "acknowledge":
            shield.acknowledge(operator=human.operator, reason=human.reason, simulated=human.simulated)
        case "stop":
            shield.stop(operator=human.operator, reason=human.reason, simulated=human.simulated)
        case "jog":
            shield.jog(human.velocity or (), operator=human.operator, reason=human.reason, simulated=human.simulated)
        case "give":
            shield.give(human.to or "", operator=human.operator, reason=human.reason, simulated=human.simulated)
        case "reset":
            shield.reset()
