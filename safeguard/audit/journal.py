r"""The journal of a run: append-only JSON lines with a hash chain.

One record is one line, ``{"h":"<hash>","r":{…}}\n``, where ``h`` is the SHA-256 of the previous line's hash
(32 zero bytes before the first) followed by the exact bytes of ``r``. Each record is one ``write(2)``: once
``append`` has returned, it survives the death of the process, though no power cut before ``close`` synced it.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Protocol, Self

import orjson
from pydantic import ValidationError

from safeguard.audit.encode import Json, JsonObject
from safeguard.audit.records import SCHEMAS, RunOpen, schemas_digest
from safeguard.core.enums import Mode, RecordKind
from safeguard.core.errors import JournalError

FOLDER: Final = "journal"
SEGMENT: Final = "000000.jsonl"
MAX_LINE: Final = 1 << 23
"""Longest line in bytes; longer ones are neither written nor read."""

GENESIS: Final = bytes(32)
HEAD, MIDDLE, TAIL = b'{"h":"', b'","r":', b"}\n"
HASH_AT = len(HEAD)
MIDDLE_AT = HASH_AT + 64
RECORD_AT = MIDDLE_AT + len(MIDDLE)
_JSON = orjson.OPT_SERIALIZE_NUMPY  # numpy scalars in a body are written as the numbers that they are


class Mirror(Protocol):
    """What the journal needs of a structlog logger to tell people; evidence never depends on it."""

    def info(self, event: str, **fields: object) -> object:
        """Something changed."""
        ...

    def error(self, event: str, **fields: object) -> object:
        """The journal cannot be written."""
        ...


def frame(raw: bytes, previous: bytes) -> tuple[bytes, bytes]:
    """The line that holds ``raw`` after the hash ``previous``, and its own hash."""
    link = hashlib.sha256(previous + raw)
    return b"".join((HEAD, link.hexdigest().encode(), MIDDLE, raw, TAIL)), link.digest()


class Journal:
    """The writer of one run's journal. Made by :func:`open_run`; one process and one thread write.

    Attributes:
        path: the run folder.
        failed: why records can no longer be written, or "". Once set, every further append is refused: a
            chain with a hole is worse than one that ends. Whoever drives the loop must turn it into a cause.
    """

    def __init__(self, path: Path, fd: int, mirror: Mirror | None = None) -> None:
        self.path = path
        self.failed = ""
        self._fd = fd
        self._open = True
        self._last = GENESIS
        self._seq = 0
        self._counts: Counter[str] = Counter()
        self._mirror = _Narrator(mirror) if mirror is not None else None

    def append(
        self, kind: RecordKind, body: Mapping[str, Json], *, tick: int | None = None, t: int | None = None
    ) -> int:
        """Write one record; returns its sequence number, or -1 where ``failed`` says why it is not written.

        Args:
            kind: what it is.
            body: as its model in ``safeguard.audit.records`` says; checked by readers, not here.
            tick: tick of the episode, where there is one.
            t: injected monotonic time, ns.

        Never raises for what the disk or the body does (the loop must go on to a stop).
        """
        if self.failed or not self._open:
            self.failed = self.failed or "the journal is closed"
            return -1
        name = kind.value
        version, seq = SCHEMAS[kind].version, self._seq
        record = {"v": version, "kind": name, "seq": seq, "tick": tick, "t": t, "body": body}
        try:
            self._write(orjson.dumps(record, option=_JSON))
        except (OSError, TypeError, ValueError) as error:  # orjson's errors are TypeErrors
            self._fail(f"record {seq} ({name}) could not be written: {error}")
            return -1
        self._counts[name] += 1
        self._seq += 1
        if self._mirror is not None:
            self._mirror.tell(kind, body, tick)
        return seq

    def count(self, kind: RecordKind) -> int:
        """How many records of ``kind`` have been written."""
        return self._counts[kind.value]

    def _write(self, raw: bytes) -> None:
        line, link = frame(raw, self._last)
        if len(line) > MAX_LINE:
            raise ValueError(f"it has {len(line)} bytes, the limit is {MAX_LINE}")
        written = os.write(self._fd, line)
        if written != len(line):
            raise OSError(f"short write, {written} of {len(line)} bytes; is the disk full?")
        self._last = link

    def _fail(self, reason: str) -> None:
        self.failed = reason
        if self._mirror is not None:
            self._mirror.failed(reason)

    def close(self, reason: str = "done") -> None:
        """Write ``run_close``, sync and close. Idempotent; a failure is left in ``failed``."""
        if not self._open:
            return
        if not self.failed:
            self.append(RecordKind.RUN_CLOSE, {"counts": dict(self._counts), "reason": reason})
        self._open = False
        try:
            os.fsync(self._fd)
        except OSError as error:
            self._fail(self.failed or f"the journal could not be synced: {error}")
        finally:
            os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("done" if kind is None else f"{kind.__name__}: {error}")


class _Narrator:
    """Tells people what changes; a mirror that raises is dropped, never the evidence."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror: Mirror | None = mirror
        self._mode: Json = None

    def tell(self, kind: RecordKind, body: Mapping[str, Json], tick: int | None) -> None:
        """Every record but decisions; of those the ones that change the mode."""
        if kind is not RecordKind.DECISION:
            self._say("info", kind.value, _scalars(body))
            return
        decision = body["decision"]
        if isinstance(decision, Mapping) and decision["mode"] != self._mode:
            before, self._mode = self._mode, decision["mode"]
            names: dict[str, Json] = {"was": _mode_name(before), "to": _mode_name(self._mode)}
            self._say("info", "mode", {"tick": tick, **names, "causes": decision["causes"]})

    def failed(self, reason: str) -> None:
        """The journal has ended early."""
        self._say("error", "journal_failed", {"reason": reason})

    def _say(self, level: Literal["info", "error"], event: str, fields: Mapping[str, Json]) -> None:
        if self._mirror is None:
            return
        try:
            (self._mirror.info if level == "info" else self._mirror.error)(event, **fields)
        except Exception:  # noqa: BLE001  # a user's log processor may raise anything; the loop must not
            self._mirror = None


def _mode_name(mode: Json) -> str | None:
    return Mode(mode).name if isinstance(mode, int) else None


def _scalars(body: Mapping[str, Json]) -> dict[str, Json]:
    return {key: value for key, value in body.items() if isinstance(value, str | int | float)}


def open_run(path: str | Path, body: Mapping[str, Json], *, mirror: Mirror | None = None) -> Journal:
    """Start the journal of a run in folder ``path`` (made if missing) with its ``run_open`` record.

    Args:
        path: the run folder; it must not hold a journal yet.
        body: ``RunOpen``, as made by ``identity.run_open_body``; ``digests.schemas`` is filled in here.
        mirror: a structlog logger that is told of mode changes, people, faults and episodes.

    Raises:
        JournalError: the folder already holds a journal, cannot be written, or ``body`` is not a ``RunOpen``.
    """
    run = Path(path)
    checked = _checked_run_open(body)
    file = run / FOLDER / SEGMENT
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if any(file.parent.iterdir()):
            raise JournalError(f"{file.parent} already holds a journal; choose another run folder")
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise JournalError(f"cannot start a journal in {file.parent}: {error.strerror}") from error
    journal = Journal(run, fd, mirror)
    journal.append(RecordKind.RUN_OPEN, checked)
    if journal.failed:
        with suppress(OSError):
            os.close(fd)
        raise JournalError(f"cannot start a journal in {file.parent}: {journal.failed}")
    return journal


def _checked_run_open(body: Mapping[str, Json]) -> JsonObject:
    try:
        opened = RunOpen.model_validate_json(orjson.dumps(body, option=_JSON))
    except (ValidationError, TypeError) as error:
        raise JournalError(f"not a run_open body: {error}") from error
    digests = opened.digests.model_copy(update={"schemas": schemas_digest()})
    written: JsonObject = orjson.loads(opened.model_copy(update={"digests": digests}).model_dump_json())
    return written
