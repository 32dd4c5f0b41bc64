"""A run's records on one time axis, for whoever exports or shows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from safeguard.audit.reader import read_run
from safeguard.audit.records.encode import JsonObject
from safeguard.audit.records.registry import SCHEMAS, DecisionRecord, EpisodeOpen, Record, RunOpen
from safeguard.core.enums import RecordKind
from safeguard.core.errors import JournalError
from safeguard.core.types import NS_PER_S

HELD_BACK = 1000
"""Records without a time that wait for the first one with a time; more of them are placed at 0."""


class CutShortError(JournalError):
    """A journal that can be read only up to a damage.

    Attributes:
        records: how many records before it were read.
    """

    def __init__(self, records: int, damage: JournalError) -> None:
        self.records = records
        super().__init__(f"{damage}; the {records} records before it were read")


@dataclass(frozen=True, slots=True)
class Moment:
    """A record with its place in time.

    Attributes:
        record: the record.
        at: ns on the run's axis: the recorded time, moved forward where an episode starts its clock anew, so that
            episodes follow each other; a record without a time has that of the one before it.
        start: ``at`` of the run's first time.
        since: s after the first tick of the episode, in the episode's own clock; None outside episodes.
        episode: number of the episode; None outside.
    """

    record: Record
    at: int
    start: int
    since: float | None
    episode: int | None


def current_body(record: Record) -> JsonObject:
    """The record's body as plain JSON data of the current schema, with non-finite numbers by name."""
    if record.v == SCHEMAS[record.kind].version:
        return record.data
    return cast("JsonObject", record.body.model_dump(mode="json"))


def envelope(record: Record) -> JsonObject:
    """The whole record as it was written, as plain JSON data of the form of ``records.json_schemas``."""
    return {
        "v": record.v,
        "kind": record.kind.value,
        "seq": record.seq,
        "tick": record.tick,
        "t": record.t,
        "body": record.data,
    }


def moments(path: str | Path) -> Iterator[Moment]:
    """The records of the run in folder ``path`` with their times, in order.

    Raises:
        JournalError: there is no journal, or its first record cannot be read.
        CutShortError: after the last record before a damage.
    """
    axis, done = Axis(), 0
    try:
        for record in read_run(path):
            done += 1
            yield from axis.hear(record)
    except JournalError as damage:
        yield from axis.rest()
        if not done:
            raise
        raise CutShortError(done, damage) from None
    yield from axis.rest()


class Axis:
    """Where on the run's axis records stand that are heard in order."""

    def __init__(self) -> None:
        self._waiting: list[Record] | None = []
        self._start = self._at = self._shift = 0
        self._first: int | None = None  # time of the episode's first tick, in its own clock
        self._own: int | None = None  # latest time, in the episode's own clock
        self._episode: int | None = None
        self._number: int | None = None  # of the last episode, also once it is closed
        self._fresh = False

    def hear(self, record: Record) -> Iterator[Moment]:
        """The moments that are known now: the first ones wait for the first time."""
        if self._waiting is None:
            yield self._place(record)
            return
        self._waiting.append(record)
        if record.t is not None or len(self._waiting) >= HELD_BACK:
            self._shift = max(0, -(record.t or 0))  # never below 0, which some formats cannot hold
            self._start = self._at = (record.t or 0) + self._shift
            yield from self.rest()

    def rest(self) -> Iterator[Moment]:
        """Those that still wait."""
        waiting, self._waiting = self._waiting or [], None
        for record in waiting:
            yield self._place(record)

    def _place(self, record: Record) -> Moment:
        body = record.body
        if isinstance(body, EpisodeOpen) or (isinstance(body, DecisionRecord) and self._begun_unseen(body.episode)):
            self._episode, self._fresh, self._first, self._own = body.episode, True, None, None
            self._number = body.episode
        if record.t is not None:
            if self._fresh:
                self._shift, self._fresh = max(self._shift, self._at - record.t), False
            self._at = max(0, record.t + self._shift)
            self._own = record.t
        if self._first is None and isinstance(body, DecisionRecord):
            self._first = body.now
        moment = Moment(record, self._at, self._start, self._since(), self._episode)
        if record.kind is RecordKind.EPISODE_CLOSE:
            self._episode = None
        return moment

    def _begun_unseen(self, episode: int) -> bool:
        """A decision of an episode whose begin was lost; those before the first begin are outside."""
        return self._number is not None and episode != self._number

    def _since(self) -> float | None:
        if self._episode is None:
            return None
        if self._own is None or self._first is None:
            return 0.0
        return (self._own - self._first) / NS_PER_S


def joint_names(opened: RunOpen) -> tuple[str, ...]:
    """Names of the controlled joints in order, as far as the run recorded them."""
    return tuple(limit.joint for limit in opened.limits.joints) if opened.limits else ()


def named(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """``count`` joint names: the recorded ones where they fit, else numbers."""
    return names if len(names) == count else tuple(f"joint_{at}" for at in range(count))
