"""The journal of a run, as the control loop sees it: a place where records are put before commands go out.

Putting a record costs the loop an encoding and a copy: a ring in shared memory takes it (``ring.py``), and a process
of its own chains, signs and writes it (``writer.py``, ``segments.py``). Once ``append`` has returned a number the
record survives the death of both processes. Inline, the loop writes the file itself.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import orjson
import ormsgpack
from pydantic import ValidationError

from safeguard.audit.journal import frames, runs
from safeguard.audit.journal.keys import Signer, read_signer
from safeguard.audit.journal.mirror import Mirror, Narrator, logger
from safeguard.audit.journal.recover import Lost
from safeguard.audit.journal.segments import FOLDER
from safeguard.audit.journal.settings import AuditConfig, EventsConfig
from safeguard.audit.journal.sinks import Sink, open_sink, tried
from safeguard.audit.records.encode import Json, JsonObject, Written, jsonable
from safeguard.audit.records.registry import KINDS, SCHEMAS, RunOpen, schemas_digest
from safeguard.core.enums import RecordKind
from safeguard.core.errors import JournalError

_PACK: Final = ormsgpack.OPT_SERIALIZE_NUMPY  # numpy scalars in a body are written as the numbers that they are
_HEADS: Final = {kind: (info.code, SCHEMAS[kind].version) for kind, info in KINDS.items()}
_DECISION: Final = RecordKind.DECISION  # looking up a member of an enum takes longer than to compare with it
_TRIES, _PAUSE_S = 500, 0.01  # of placing the last records in a ring that is full


class Journal:
    """The journal of one run. Made by :func:`open_run`; one thread appends.

    Attributes:
        path: the run folder.
        lost: how many records could not be placed.
        events: when the shield places records of events.
    """

    def __init__(
        self,
        path: Path,
        sink: Sink,
        mirror: Mirror | None = None,
        listing: tuple[Path, runs.RunIdentity] | None = None,
        events: EventsConfig | None = None,
    ) -> None:
        self.path = path
        self.events = events or EventsConfig()
        self._listing = listing  # the list of runs, and what it will say of this one
        self.lost = 0
        self._sink = sink
        self._open = True
        self._refused = ""
        self._seq = 0
        self._whole = True
        self._gap: tuple[int, str] | None = None  # first number that is missing, and why
        self._counts: Counter[str] = Counter()
        self._mirror = Narrator(mirror) if mirror is not None else None

    @property
    def failed(self) -> str:
        """Why a record was lost since the last decision was placed, or what threatens the next ones, or "".

        Whoever drives the loop must turn it into a cause: a decision that is placed has seen it.
        """
        return self._refused or ("" if not self._open else self._sink.problem())

    def append(
        self, kind: RecordKind, body: Mapping[str, Written], *, tick: int | None = None, t: int | None = None
    ) -> int:
        """Place one record; returns its number, or -1 where ``failed`` says why it is lost.

        What is lost has a number too, and the first record that can be placed again is a ``gap`` that says so.

        Args:
            kind: what it is.
            body: as its model in ``safeguard.audit.records.registry`` says; checked by readers, not here.
            tick: tick of the episode, where there is one.
            t: injected monotonic time, ns.

        Never raises for what the disk or the body does (the loop must go on to a stop).
        """
        if not self._open:
            self._refused = "the journal is closed"
            return -1
        if t is not None:
            self._sink.at(t)
        if self._gap is not None and (problem := self._tell_gap()):
            return self._lose(problem)
        problem = self._place(kind, body, tick, t)
        if problem:
            return self._lose(problem)
        if kind is _DECISION:
            self._refused = ""
        return self._seq - 1

    def count(self, kind: RecordKind) -> int:
        """How many records of ``kind`` have been placed."""
        return self._counts[kind.value]

    def health(self) -> JsonObject:
        """How the recorder is, for a ``health`` record; asks neither the system nor the writer."""
        state = self._sink.state()
        return {
            "placed": sum(self._counts.values()),
            "lost": self.lost,
            "waiting_bytes": state.waiting,
            "ring_bytes": state.capacity,
            "safe": state.safe,
            "writer_beats": state.beats,
            "problem": self.failed,
        }

    def _place(self, kind: RecordKind, body: Mapping[str, Written], tick: int | None, t: int | None) -> str:
        """Place a record as the next one; why not, or ""."""
        try:
            plain = body if kind is _DECISION else jsonable(body)  # the loop's own can be packed; others may hold bytes
            packed = ormsgpack.packb(plain, option=_PACK)
            content = frames.record(*_HEADS[kind], self._seq, tick, t, packed)
        except (TypeError, ValueError, RecursionError, struct.error) as error:  # ormsgpack's errors are TypeErrors
            return f"record {self._seq} ({kind.value}) cannot be encoded: {error}"
        if len(content) > frames.LONGEST:
            return f"record {self._seq} ({kind.value}) has {len(content)} bytes, the limit is {frames.LONGEST}"
        self._whole = False  # until the number is counted: an interrupt in between leaves a record that nobody counted
        problem = self._sink.place(content)
        if not problem:
            self._seq += 1
            self._counts[kind._value_] += 1
        self._whole = True
        if problem:
            return f"record {self._seq} ({kind.value}) could not be written: {problem}"
        if self._mirror is not None:
            self._mirror.tell(kind, body, tick)
        return ""

    def _lose(self, problem: str) -> int:
        if self._gap is None:
            self._gap = self._seq, problem
            if self._mirror is not None:
                self._mirror.failed(problem)
        self._seq += 1
        self.lost += 1
        self._refused = problem
        return -1

    def _tell_gap(self) -> str:
        """Say what was lost; why that cannot be placed, or ""."""
        assert self._gap is not None
        first, cause = self._gap
        body: JsonObject = {"first": first, "last": self._seq - 1, "count": self._seq - first, "cause": cause}
        problem = self._place(RecordKind.GAP, body, None, None)
        if not problem:
            self._gap = None
        return problem

    def close(self, reason: str = "done") -> None:
        """Write ``run_close``, sign and sync. Idempotent; a failure is left in ``failed``."""
        if not self._open:
            return
        closing, tries = self._ended(reason) if self._whole else "interrupted while a record was placed", 0
        while closing and self._whole and not self._sink.problem() and tries < _TRIES:
            time.sleep(_PAUSE_S)
            closing, tries = self._ended(reason), tries + 1
        lost = None if self._gap is None else Lost(self._gap[0], self._seq - 1, self._gap[1])
        problem = self._sink.close(not closing, lost)
        self._open = False
        self._refused = "; ".join(filter(None, (closing if problem else "", problem, self._listed())))
        if self._mirror is not None:
            if self._refused:
                self._mirror.failed(self._refused)
            self._mirror.close()

    def abandon(self) -> None:
        """Take back a start: nothing of it is left."""
        self._sink.abandon()
        self._open = False
        if self._mirror is not None:
            self._mirror.close()

    def _ended(self, reason: str) -> str:
        """Place ``run_close``, behind a gap if there is one; why not, or ""."""
        if self._gap is not None and (problem := self._tell_gap()):
            return problem
        counts: JsonObject = dict(self._counts)
        return self._place(RecordKind.RUN_CLOSE, {"counts": counts, "reason": reason}, None, None)

    def _listed(self) -> str:
        """Enter the run into the list of runs; why not, or ""."""
        if self._listing is None:
            return ""
        file, identity = self._listing
        size, root = self._sink.sealed()
        if not size:
            return ""
        entry = runs.ListedRun(run=identity.run, size=size, root=root, identity=identity)
        return tried(lambda: runs.add(file, entry))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("done" if kind is None else f"{kind.__name__}: {error}")


def open_run(path: str | Path | AuditConfig, body: Mapping[str, Json], *, mirror: Mirror | None = None) -> Journal:
    """Start the journal of a run (its folder is made if missing) with its ``run_open`` record.

    Behind it stands what the list of runs, if there is one, says to be different from the run before
    (``software_change``, ``config_intervention``).

    Args:
        path: the run folder, or all settings; it must not hold a journal yet.
        body: ``RunOpen``, as made by ``identity.run_open_body``; ``digests.schemas``, ``key``, ``key_purpose`` and
            ``previous`` are filled in here.
        mirror: a structlog logger that is told of mode changes, people, faults and episodes, instead of that in the
            settings; a thread of its own calls it.

    Raises:
        JournalError: the folder already holds a journal, cannot be written, the key cannot be read, the writer does not
            start, or ``body`` is not a ``RunOpen``.
    """
    config = path if isinstance(path, AuditConfig) else AuditConfig(run=Path(path))
    given = config.run
    anchor = None if config.anchor is None else config.anchor.absolute()
    config = config.model_copy(update={"run": given.absolute(), "anchor": anchor})  # wherever the process goes later
    signer = Signer.ephemeral() if config.key is None else read_signer(config.key)
    folder = config.run / FOLDER
    before = [] if config.runs is None else runs.listed(config.runs)
    checked = _checked_run_open(body, signer, before[-1] if before else None)
    new, teller = not config.run.exists(), mirror or logger(config.mirror)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise JournalError(f"{folder} already holds a journal; choose another run folder")
        sink = open_sink(folder, str(checked["run_id"]), signer, config)
    except BaseException as error:
        _unmade(folder, new=new)
        if isinstance(error, OSError):
            raise JournalError(f"cannot start a journal in {folder}: {error.strerror or error}") from error
        raise
    identity = runs.RunIdentity.of(RunOpen.model_validate_json(orjson.dumps(checked)))
    listing = None if config.runs is None else (config.runs, identity)
    journal = Journal(given, sink, teller, listing, config.events)
    first = [(RecordKind.RUN_OPEN, checked), *runs.replaced(before[-1] if before else None, identity)]
    try:
        if any(journal.append(kind, told) < 0 for kind, told in first):
            raise JournalError(f"cannot start a journal in {folder}: {journal.failed}")
    except BaseException:
        journal.abandon()
        _unmade(folder, new=new)
        raise
    return journal


def _unmade(folder: Path, *, new: bool) -> None:
    """Remove the folders of a start that failed, as far as they are empty and were not there before."""
    with suppress(OSError):
        folder.rmdir()
        if new:
            folder.parent.rmdir()


def _checked_run_open(body: Mapping[str, Json], signer: Signer, before: runs.ListedRun | None) -> JsonObject:
    filled = {**body, "key": str(signer.public), "key_purpose": signer.purpose}
    filled["previous"] = None if before is None else before.model_dump(include={"run", "size", "root"})
    try:
        opened = RunOpen.model_validate_json(orjson.dumps(filled, option=orjson.OPT_SERIALIZE_NUMPY))
    except (ValidationError, TypeError) as error:
        raise JournalError(f"not a run_open body: {error}") from error
    digests = opened.digests.model_copy(update={"schemas": schemas_digest()})
    written: JsonObject = orjson.loads(opened.model_copy(update={"digests": digests}).model_dump_json())
    return written
