"""Reading a journal back, one checked record at a time, tolerant of nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import orjson
from pydantic import ValidationError

from safeguard.audit.journal import (
    FOLDER,
    GENESIS,
    HASH_AT,
    HEAD,
    MAX_LINE,
    MIDDLE_AT,
    RECORD_AT,
    SEGMENT,
    TAIL,
    frame,
)
from safeguard.audit.records import SCHEMAS, Record, parse_record
from safeguard.core.enums import RecordKind
from safeguard.core.errors import JournalError

_KINDS = {kind.value: kind for kind in RecordKind}


class JournalDamageError(JournalError):
    """A record that is not as it was written.

    Attributes:
        verdict: ``"altered"`` or ``"truncated"``.
        seq: sequence number of the record concerned.
        kind: what that record says it is, or "".
        problem: what is wrong with it.
    """

    def __init__(
        self, where: Path, verdict: Literal["altered", "truncated"], seq: int, kind: str, problem: str
    ) -> None:
        self.verdict: Literal["altered", "truncated"] = verdict
        self.seq, self.kind, self.problem = seq, kind, problem
        super().__init__(f"{where}: record {seq}{f' ({kind})' if kind else ''}: {problem}")


class _RefusedError(Exception):
    """Why one line is refused; becomes a :class:`JournalDamageError` where the record's place is known."""


def read_run(path: str | Path, *, chain: bool = True) -> Iterator[Record]:
    """The records of the run in folder ``path``, in order, one at a time, each checked as it is read.

    Args:
        path: the run folder.
        chain: check the hash chain; replay reads without it, to say what an edit would have changed.

    Raises:
        JournalError: there is no journal.
        JournalDamageError: at the first record that is damaged, cut, out of order or not of its schema.
    """
    file = Path(path) / FOLDER / SEGMENT
    previous, seq, closed = GENESIS, 0, False
    try:
        with file.open("rb") as lines:
            while line := lines.readline(MAX_LINE + 1):
                record = _read(file, line, previous, seq, chain)
                if closed:
                    raise JournalDamageError(file, "altered", seq, record.kind.value, "stands after run_close")
                yield record
                closed = record.kind is RecordKind.RUN_CLOSE
                previous, seq = bytes.fromhex(record.hash), seq + 1
    except OSError as error:
        raise JournalError(f"cannot read {file}: {error.strerror}") from error


def _read(file: Path, line: bytes, previous: bytes, seq: int, chain: bool) -> Record:
    """The record in ``line``, proved to be number ``seq`` after the hash ``previous``."""
    raw = line[RECORD_AT : -len(TAIL)]
    kind = _claimed_kind(raw)
    try:
        link = _check_frame(line, raw, previous, chain)
        return _parse(raw, kind, seq, link)
    except _RefusedError as reason:
        whole = line.endswith(b"\n") or len(line) > MAX_LINE
        raise JournalDamageError(file, "altered" if whole else "truncated", seq, kind, str(reason)) from None


def _check_frame(line: bytes, raw: bytes, previous: bytes, chain: bool) -> str:
    """The hash of the line, which must be byte for byte the one that a writer would have written."""
    framed, link = frame(raw, previous)
    unchained = line[:HASH_AT] == HEAD and line[MIDDLE_AT:] == framed[MIDDLE_AT:]
    if line == framed or (unchained and not chain):
        return link.hex()
    if len(line) > MAX_LINE:
        raise _RefusedError(f"the line is longer than {MAX_LINE} bytes")
    if not line.endswith(b"\n"):
        raise _RefusedError("the last line has no end: it was cut, its end was changed, or its writer died")
    raise _RefusedError("not the record that the hash chain expects: changed, moved, or a neighbour is missing")


def _claimed_kind(raw: bytes) -> str:
    """The kind that possibly damaged record bytes claim, or ""."""
    name = raw[:64].partition(b'"kind":"')[2].partition(b'"')[0].decode(errors="replace")
    return name if name in _KINDS else ""


def _parse(raw: bytes, name: str, seq: int, link: str) -> Record:
    """The validated record in ``raw``; the JSON must be in the only form that is written."""
    try:
        canonical = orjson.dumps(orjson.loads(raw)) == raw
    except orjson.JSONDecodeError as error:
        raise _RefusedError(f"not JSON: {error}") from None
    if not canonical:
        raise _RefusedError("the JSON is not in the form that is written")
    if not name:
        raise _RefusedError(f"unknown kind; known: {', '.join(_KINDS)}")
    record = _validated(raw, _KINDS[name], link)
    if record.seq != seq:
        raise _RefusedError(f"says that it is record {record.seq}")
    if (seq == 0) is not (record.kind is RecordKind.RUN_OPEN):
        raise _RefusedError("a journal has one run_open, its first record")
    return record


def _validated(raw: bytes, kind: RecordKind, link: str) -> Record:
    known = SCHEMAS[kind].version
    if not raw.startswith(b'{"v":%d,' % known):
        version = raw[5:].partition(b",")[0].decode(errors="replace")
        raise _RefusedError(f"schema version {version}, this safeguard reads {known}; use the one that wrote it")
    try:
        return parse_record(kind, raw, link)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _RefusedError(f"{where}: {first['msg']}") from None
