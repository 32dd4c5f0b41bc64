"""One pass over the files of a run: frames, chain, tree, signatures, numbers, counts; in memory that does not grow.

What is decided here is whether records are as they were written; what they say is for readers (``reader.py``).
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast

import ormsgpack

from safeguard.audit.journal import cut, frames
from safeguard.audit.journal.frames import FrameError, Head
from safeguard.audit.journal.keys import Checkpoint, PublicKey
from safeguard.audit.journal.packing import PackError
from safeguard.audit.journal.ring import Ring
from safeguard.audit.journal.segments import FOLDER, FORMAT, PACKED, PART, RAW, RING, State, live_blocks, segment_digest
from safeguard.audit.records.encode import JsonObject, jsonable
from safeguard.core.errors import JournalError

_STRICT: Final = json.JSONEncoder(allow_nan=False)

Damage: TypeAlias = Literal["altered", "truncated"]

_NAME: Final = re.compile(rf"(\d{{6}})({re.escape(PACKED)}|{re.escape(PART)}|{re.escape(RAW)})")
_OTHERS: Final = {RING, cut.CUT, cut.PART}
_RUN_OPEN, _DECISION, _RUN_CLOSE, _GAP = 1, 3, 8, 9
_BARE: Final = 4  # since this version decisions have no names, and arrays are bytes
_HEADER: Final = {"chain", "first", "format", "kinds", "run", "schemas", "segment"}


class JournalDamageError(JournalError):
    """A journal whose bytes are not what was written.

    Attributes:
        verdict: ``"altered"`` or ``"truncated"``.
        seq: sequence number of the first record that is not proved.
        kind: what that record says it is, or "".
        problem: what is wrong with it.
    """

    def __init__(self, where: Path, verdict: Damage, seq: int, kind: str, problem: str) -> None:
        self.verdict: Damage = verdict
        self.seq, self.kind, self.problem = seq, kind, problem
        super().__init__(f"{where}: record {seq}{f' ({kind})' if kind else ''}: {problem}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as it lies in the journal.

    Attributes:
        head: kind, version, number, tick and time.
        content: all of it, ``head`` included.
        leaf: the chain's value after it.
    """

    head: Head
    content: bytes
    leaf: bytes

    def data(self) -> JsonObject:
        """The body as in :func:`unpacked`; raises ValueError where it is not MessagePack."""
        return unpacked(self.content)


def unpacked(content: bytes) -> JsonObject:
    """The body in the content of a record, non-finite numbers by name; a decision of today as it is (``expand``).

    Raises ValueError.
    """
    kind, version = content[1], content[2]
    try:
        found = ormsgpack.unpackb(content[frames.HEAD.size :])
        if kind != _DECISION or version < _BARE:
            found = _plain(found)
    except (ValueError, TypeError, RecursionError) as error:  # ormsgpack's is a ValueError
        raise ValueError(f"not MessagePack of this format: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("the body is no map")
    return cast("JsonObject", found)


def _plain(value: object) -> object:
    """Non-finite numbers by name; nearly all bodies have none, which is quicker to see than to walk through them."""
    try:
        _STRICT.encode(value)
    except ValueError:
        return jsonable(value)
    return value


@dataclass(frozen=True, slots=True)
class Proved:
    """What a good checkpoint proves: how many records, the last one's leaf, the tree's root, records by kind."""

    records: int = 0
    leaf: bytes = b""
    root: bytes = b""
    counts: Mapping[str, int] = field(default_factory=dict[str, int])


class Scan:
    """The records of a run, in order, each proved as far as can be when it is given out.

    Args:
        run: the run folder.
        key: the public key that must have signed; without one, the key that the run names.
        check: False reads on where only what records say of each other is wrong (chain, roots, signatures, numbers).
        ring: False leaves out what only the ring of an open run holds.

    Attributes:
        records: how many are proved so far; ``next`` is the number of the one to come.
        leaf: of the last one.
        state: tree, chain, segment and signed records so far.
        counts: records by name of their kind.
        lost: records that ``gap`` says are missing.
        signer: the key that signs, "" before the first record.
        purpose: what for.
        previous: what ``run_open`` says of the run before, or None.
        proved: what the last good checkpoint proves.
        closed: ``run_close`` was the last record, and signed.
        from_ring: records that only the ring holds.
        cut: records that were cut from the beginning, and are proved without being there.

    Raises:
        JournalError: there is no journal.
        JournalDamageError: while iterating, at the first damage.
    """

    def __init__(self, run: str | Path, key: PublicKey | None = None, *, check: bool = True, ring: bool = True) -> None:
        self.folder = Path(run) / FOLDER
        if not self.folder.is_dir():
            raise JournalError(f"{run} holds no journal: {self.folder} is not a folder; give the folder of a run")
        self.records = self.lost = self.from_ring = self.cut = 0
        self.next = 0
        self.leaf = b""
        self.state = State.empty()
        self.counts: Counter[str] = Counter()
        self.signer = self.purpose = self.run_id = ""
        self.previous: object = None
        self.closed = False
        self.proved = Proved()
        self.kinds: dict[int, str] = {}
        self.file = self.folder
        self._given, self._check, self._key, self._rings = key, check, key, ring
        self._closing: dict[str, int] | None = None
        self._good = 0  # the first record after the last good checkpoint

    def __iter__(self) -> Iterator[Entry]:
        left, odd = self._left()  # before the files: a live writer moves from here to there
        files = self._files()
        if (file := self.folder / cut.CUT).exists():
            yield from self._begun_late(file, files)
        start, last = self.state.segment + 1, max(files, default=-1)
        for number in range(start, last + 1):
            if number not in files:
                self.file = self.folder / f"{number:06d}{RAW}"
                if not (packed := self.file.with_suffix(PACKED)).is_file():
                    raise self.damage("truncated", self.next, "this segment is missing")
                files[number] = [packed]  # a live writer packed it while the folder was listed
        for number in range(start, last + 1):
            yield from self._segment(number, files[number], last=number == last)
        yield from self._rest(left, odd)
        if self.records == 0 and self._rings:
            raise self.damage("truncated", 0, "the journal holds no record")

    def damage(self, verdict: Damage, seq: int, problem: str, kind: str = "") -> JournalDamageError:
        """The error for a record of the file that is being read."""
        return JournalDamageError(self.file, verdict, seq, kind, problem)

    # -- files ----------------------------------------------------------------------------------------

    def _files(self) -> dict[int, list[Path]]:
        """The files of each segment: raw, compressed, or both where a crash came between."""
        found: dict[int, list[Path]] = {}
        for entry in sorted(self.folder.iterdir()):
            match = _NAME.fullmatch(entry.name)
            if entry.is_symlink() or not entry.is_file() or (match is None and entry.name not in _OTHERS):
                if not os.path.lexists(entry):
                    continue  # a live writer has just packed it
                self.file = entry
                raise self.damage("altered", 0, "does not belong in a journal")
            if match is not None and match[2] != PART:
                found.setdefault(int(match[1]), []).append(entry)
        return found

    def _begun_late(self, file: Path, files: Mapping[int, Sequence[Path]]) -> Iterator[Entry]:
        """``run_open`` of a run whose first segments were cut; the rest goes on behind them."""
        self.file, state = file, self.state
        try:
            found = cut.read_cut(file)
            self._header(0, found.header)
            entry = self._record(found.opened)
            at = cut.boundary(found, self.run_id, self._key if self._check else None)
        except FrameError as error:
            raise self.damage("truncated" if error.torn else "altered", 0, str(error)) from None
        except (ValueError, TypeError, RecursionError) as error:  # ormsgpack's and orjson's among them
            raise self.damage("altered", 0, f"the cut: {error}") from None
        except OSError as error:
            raise JournalError(f"cannot read {file}: {error.strerror}") from error
        yield entry
        state.tree, state.chain, state.signed, self.leaf = at.tree, at.chain, at.body.size, at.leaf
        self.records = self.next = self._good = at.body.size
        self.counts, self.cut, state.segment = Counter(at.body.counts), at.body.size - 1, len(at.body.digests) - 1
        self.proved = Proved(self.records, self.leaf, state.tree.root(), dict(self.counts))
        for number, digest in enumerate(at.body.digests):  # what a kill kept prune from removing
            for path in files.get(number, ()):
                self.file = path
                if self._check and segment_digest(path).hex() != digest:
                    raise self.damage("altered", self.next, "is not the segment that was cut")

    def _segment(self, number: int, paths: list[Path], *, last: bool) -> Iterator[Entry]:
        self.file = paths[0]
        # A writer that is killed as it writes leaves a part of a frame; all of what it wrote is still in the ring.
        in_ring = last and paths[0].suffix == RAW and (self.folder / RING).exists()
        if len(paths) == 2 and segment_digest(paths[0]) != segment_digest(paths[1]):
            raise self.damage("altered", self.next, "differs from the segment of the same number beside it")
        first = True
        try:
            for content in frames.frames(live_blocks(paths[0])):
                if first:
                    self._header(number, content)
                    first = False
                elif (entry := self._frame(content)) is not None:
                    yield entry
        except (FrameError, PackError) as error:
            if error.torn and in_ring and not self.closed:
                return
            raise self.damage("truncated" if error.torn else "altered", self.next, str(error)) from None
        except OSError as error:
            raise JournalError(f"cannot read {self.file}: {error.strerror}") from error
        if first and not in_ring:
            raise self.damage("truncated", self.next, "the segment is empty")

    def _left(self) -> tuple[list[bytes], str]:
        """What the ring of an open run still holds, and what is wrong with it."""
        file = self.folder / RING
        if not self._rings or not file.exists():
            return [], ""
        try:
            ring = Ring(file, writable=False)
        except JournalError as error:
            return [], str(error) if file.exists() else ""  # else it was closed just now
        try:
            return list(ring.entries()), ""
        finally:
            ring.release()

    def _rest(self, left: Sequence[bytes], odd: str) -> Iterator[Entry]:
        """The records of a ring that are in no segment."""
        self.file = self.folder / RING
        if odd:
            raise self.damage("altered", self.next, odd)
        for content in left:
            try:
                if content[0] == frames.RECORD and frames.head(content).seq < self.next:
                    continue  # written already; the writer died before it said so
                if self.closed or content[0] != frames.RECORD:
                    raise self.damage("altered", self.next, "the ring holds what does not belong there")
                entry = self._frame(content)
            except FrameError as error:
                raise self.damage("altered", self.next, str(error)) from None
            assert entry is not None
            self.from_ring += 1
            yield entry

    # -- frames ---------------------------------------------------------------------------------------

    def _header(self, number: int, content: bytes) -> None:
        """A segment must go on where the one before it ended."""
        if self._check and self.closed:
            raise self.damage("altered", self.next, "a segment stands after the last checkpoint")
        try:
            if content[0] != frames.SEGMENT:
                raise ValueError("the first frame is no segment header")
            header = json.loads(content[1:])
            text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            if text.encode() != content[1:] or set(header) != _HEADER or header["format"] != FORMAT:
                raise ValueError(f"no header of {FORMAT}")
            kinds = {int(code): str(name) for code, name in header["kinds"].items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self.damage("altered", self.next, f"segment header: {error}") from None
        if self._check:
            expected = {"segment": number, "first": self.state.tree.size, "chain": self.state.chain.hex()}
            if self.run_id:
                expected["run"] = self.run_id
            for key, value in expected.items():
                if header[key] != value:
                    seq = self._good if key == "chain" else self.next
                    raise self.damage("altered", seq, f"segment header: {key} is {header[key]!r}, expected {value!r}")
        self.run_id, self.kinds = header["run"], kinds
        self.state.segment = number
        self.state.chain = frames.link(self.state.chain, content)

    def _frame(self, content: bytes) -> Entry | None:
        """The record in a frame, or None for a checkpoint."""
        if content[0] == frames.RECORD:
            return self._record(content)
        if content[0] == frames.CHECKPOINT:
            self._checkpoint(content)
            return None
        raise self.damage("altered", self.next, f"a frame of type {content[0]} does not belong here")

    def _record(self, content: bytes) -> Entry:
        head = frames.head(content)
        kind = self.kinds.get(head.kind, "")
        state = self.state
        if self._check:
            self._placed(head, kind, content)
        state.chain = self.leaf = leaf = frames.link(state.chain, content)
        state.tree.append(leaf)
        self.counts[kind] += 1
        self.records += 1
        self.next = head.seq + 1
        if head.kind == _RUN_CLOSE:
            self._closing = self._counted(content)
        return Entry(head, content, leaf)

    def _placed(self, head: Head, kind: str, content: bytes) -> None:
        """Whether a record may stand where it does."""
        if not kind:
            raise self.damage("altered", self.next, f"record kind {head.kind} is unknown")
        if self._closing is not None:
            raise self.damage("altered", self.next, "stands after run_close", kind)
        if (self.records == 0) is not (head.kind == _RUN_OPEN):
            raise self.damage("altered", self.next, "a journal has one run_open, its first record", kind)
        if head.kind == _GAP:
            self._gap(head, content)
        elif head.seq != self.next:
            raise self.damage("altered", self.next, f"says that it is record {head.seq}", kind)
        if head.kind == _RUN_OPEN:
            self._opened(content)

    def _opened(self, content: bytes) -> None:
        """Who says that they sign."""
        try:
            body = unpacked(content)
            run_id, self.signer, self.purpose = body["run_id"], str(body["key"]), str(body["key_purpose"])
            self.previous, signs = body["previous"], PublicKey.parse(self.signer)
        except (ValueError, KeyError, JournalError) as error:
            raise self.damage("altered", 0, f"run_open: {error}", "run_open") from None
        if run_id != self.run_id:
            raise self.damage("altered", 0, f"run_open is of run {run_id}, the segment of {self.run_id}", "run_open")
        if self._given is not None and str(self._given) != self.signer:
            raise self.damage(
                "altered", 0, f"the run names the key {self.signer}, not {self._given}: another key, or another journal"
            )
        self._key = signs

    def _gap(self, head: Head, content: bytes) -> None:
        try:
            body = unpacked(content)
            first, last, count = (int(cast("int", body[name])) for name in ("first", "last", "count"))
        except (ValueError, KeyError, TypeError) as error:
            raise self.damage("altered", self.next, f"gap: {error}", "gap") from None
        if (first, last, count) != (self.next, head.seq - 1, head.seq - self.next) or count < 1:
            raise self.damage("altered", self.next, f"a gap of {first} to {last} does not belong here", "gap")
        self.lost += count

    def _counted(self, content: bytes) -> dict[str, int]:
        """The counts of run_close, which must be those of the journal."""
        try:
            counts = {
                str(key): int(cast("int", value))
                for key, value in cast("JsonObject", unpacked(content)["counts"]).items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.damage("altered", self.next - 1, f"run_close: {error}", "run_close") from None
        before = dict(self.counts - Counter({"run_close": 1}))
        if self._check and counts != before:
            problem = f"run_close counts {counts}, the journal holds {before}"
            raise self.damage("altered", self.next - 1, problem, "run_close")
        return counts

    def _checkpoint(self, content: bytes) -> None:
        state = self.state
        if self._check:
            if self.closed or self._key is None:
                raise self.damage("altered", self.next, "a checkpoint does not belong here")
            try:
                note = self._key.opened(content[1:])
            except ValueError as error:
                raise self.damage("altered", self._good, f"checkpoint: {error}") from None
            self._agrees(note)
        state.signed, self._good = state.tree.size, self.next
        self.proved = Proved(self.records, self.leaf, state.tree.root(), dict(self.counts))
        state.chain = frames.link(state.chain, content)
        self.closed = self._closing is not None

    def _agrees(self, note: Checkpoint) -> None:
        state = self.state
        if note.origin != f"safeguard/{self.run_id}":
            raise self.damage("altered", self._good, f"checkpoint of another journal: {note.origin}")
        if (note.size, note.root, note.chain) != (state.tree.size, state.tree.root(), state.chain):
            problem = (
                f"the checkpoint after it says {note.size} records with root {note.root.hex()}, "
                f"the journal has {state.tree.size} with {state.tree.root().hex()}"
            )
            raise self.damage("altered", self._good, problem)
