"""The segments of a run: frames appended, chained, signed, synced, and compressed once closed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Final, Protocol

from safeguard.audit.journal import frames, packing
from safeguard.audit.journal.keys import Checkpoint, Signer
from safeguard.audit.journal.merkle import Tree
from safeguard.audit.journal.witness import Anchor

FOLDER: Final = "journal"
RING: Final = "ring"
FORMAT: Final = "safeguard-journal/1"
RAW, PACKED, PART = ".sgj", ".sgz", ".sgz.part"
_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Style:
    """How segments are written.

    Attributes:
        run_id, schemas: for headers and notes.
        kinds: names of the record kinds by code.
        segment_bytes: a segment that has reached this is closed.
        checkpoint_s, group_s: longest time between checkpoints and between syncs, s.
        durability: os, group or each, as in ``AuditConfig``.
    """

    run_id: str
    schemas: str
    kinds: Mapping[int, str]
    segment_bytes: int
    checkpoint_s: float
    group_s: float
    durability: str


class Clock(Protocol):
    """What the writer needs of ``time``."""

    def monotonic(self) -> float:
        """Time of a clock that is never set, s."""
        ...

    def time_ns(self) -> int:
        """Wall clock, ns."""
        ...


@dataclass(slots=True)
class State:
    """What a journal holds so far.

    Attributes:
        tree: over its records.
        chain: its value after the last frame.
        segment: number of the last file; −1 before the first.
        signed: records that the last checkpoint covers.
    """

    tree: Tree
    chain: bytes = frames.GENESIS
    segment: int = -1
    signed: int = 0

    @classmethod
    def empty(cls) -> State:
        """Before the first frame."""
        return cls(Tree())


class SegmentWriter:
    """Appends to the journal of one run; one thread of one process.

    Args:
        folder: the ``journal`` folder, which exists.
        style: how.
        signer: what signs checkpoints.
        state: what the folder holds already; whoever goes on begins a new segment.
        anchors: what gets a copy of every checkpoint; what they raise (OSError) counts as a failed write.
        clock: for cadence and time stamps, never for decisions.

    Every method may raise OSError; then nothing of that call is in the files, and it may be tried again.
    """

    def __init__(
        self,
        folder: Path,
        style: Style,
        signer: Signer,
        state: State | None = None,
        anchors: Sequence[Anchor] = (),
        clock: Clock = time,
    ) -> None:
        self._folder, self._style, self._signer, self._anchors, self._clock = folder, style, signer, anchors, clock
        self.state = state or State.empty()
        self._fd, self._size, self._dirty, self._torn = -1, 0, False, False
        self._owed = b""  # a checkpoint that the anchors have not taken
        self._named = True  # whether a power cut would leave the file its name
        self._synced = self._noted = clock.monotonic()
        self._packing: list[Thread] = []
        self._ready()

    def write(self, contents: Sequence[bytes]) -> None:
        """Append records by their contents, all of them in one ``write(2)``."""
        self._ready()
        self._append(b"".join(map(frames.frame, contents)))
        state = self.state
        for content in contents:
            state.chain = frames.link(state.chain, content)
            state.tree.append(state.chain)

    def tend(self) -> None:
        """Sign, sync and begin the next segment where that is due."""
        now, state = self._clock.monotonic(), self.state
        full = self._fd >= 0 and self._size >= self._style.segment_bytes
        if state.tree.size > state.signed and (full or now - self._noted >= self._style.checkpoint_s):
            self.checkpoint()
        due = full or self._style.durability == "each" or now - self._synced >= self._style.group_s
        if self._dirty and due and (full or self._style.durability != "os"):
            self._sync()
        if full:
            self._seal()
        self._anchor()

    @property
    def sealed(self) -> bool:
        """All of it is signed and in closed segments."""
        return self._fd < 0 and 0 < self.state.tree.size == self.state.signed

    @property
    def safe(self) -> bool:
        """What was written survives all that ``durability`` speaks of."""
        return self._style.durability == "os" or not self._dirty

    def checkpoint(self) -> None:
        """Sign everything so far, and tell the anchors."""
        self._ready()
        state = self.state
        note = self._signer.note(
            Checkpoint(
                f"safeguard/{self._style.run_id}", state.tree.size, state.tree.root(), state.chain,
                self._clock.time_ns(),
            )
        )  # fmt: skip
        self._other(bytes((frames.CHECKPOINT,)) + note)
        state.signed, self._noted = state.tree.size, self._clock.monotonic()
        self._owed = note

    def close(self) -> None:
        """Sign what is not signed yet, sync, and compress; afterwards nothing can be written."""
        if self.state.signed < self.state.tree.size:
            self.checkpoint()
        if self._fd >= 0:
            self._sync()
            self._seal()
        for thread in self._packing:
            thread.join()
        self._packing.clear()
        self._anchor()

    def _anchor(self) -> None:
        """Hand out the last checkpoint, which stands for all before it; what nobody takes is owed."""
        if self._owed:
            for anchor in self._anchors:
                anchor(self._owed)
            self._owed = b""

    def abandon(self) -> None:
        """Let go of the file as it is: whoever writes was interrupted, and ``recover`` goes on from what is there."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _ready(self) -> None:
        """Begin the next file, with its header, where none is open."""
        if self._fd >= 0:
            return
        state, style = self.state, self._style
        header = {
            "chain": state.chain.hex(),
            "first": state.tree.size,
            "format": FORMAT,
            "kinds": {str(code): name for code, name in sorted(style.kinds.items())},
            "run": style.run_id,
            "schemas": style.schemas,
            "segment": state.segment + 1,
        }
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        file = self._folder / f"{state.segment + 1:06d}{RAW}"
        self._fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._size = 0
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # so that nobody recovers what still has its writer
            self._other(bytes((frames.SEGMENT,)) + text.encode())
        except OSError:
            os.close(self._fd)
            self._fd, self._torn = -1, False
            file.unlink(missing_ok=True)
            raise
        state.segment, self._named = state.segment + 1, False

    def _seal(self) -> None:
        """Close the file and compress it beside everything else."""
        os.close(self._fd)
        self._fd, self._size = -1, 0
        thread = Thread(target=pack, args=(self._folder / f"{self.state.segment:06d}{RAW}",), name="pack")
        with suppress(RuntimeError):  # no thread to be had: the segment stays as it is
            thread.start()
            self._packing = [known for known in self._packing if known.is_alive()] + [thread]

    def _other(self, content: bytes) -> None:
        self._append(frames.frame(content))
        self.state.chain = frames.link(self.state.chain, content)

    def _append(self, data: bytes) -> None:
        """All of ``data`` or nothing of it."""
        self._mend()
        try:
            written = os.write(self._fd, data)
            if written != len(data):
                raise OSError(28, f"short write, {written} of {len(data)} bytes; is the disk full?")
        except OSError:
            self._torn = True
            with suppress(OSError):
                self._mend()
            raise
        self._size += len(data)
        self._dirty = True

    def _mend(self) -> None:
        """Cut off what a refused write has left."""
        if self._torn:
            os.ftruncate(self._fd, self._size)
            self._torn = False

    def _sync(self) -> None:
        self._mend()
        os.fdatasync(self._fd)
        if not self._named and self._style.durability != "os":
            sync_folder(self._folder)
        self._named = True
        self._dirty, self._synced = False, self._clock.monotonic()


def pack(raw: Path) -> None:
    """Compress a closed segment; the raw one goes once the other is safe, and stays, as good, if that fails."""
    done, part = raw.with_suffix(PACKED), raw.with_suffix(PART)
    try:
        with part.open("wb") as file:
            for block in packing.packed(frames.frames(blocks(raw))):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        part.rename(done)
        sync_folder(done.parent)
        raw.unlink()
    except (OSError, frames.FrameError):
        with suppress(OSError):
            part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """So that a power cut does not take a file's name."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def blocks(file: Path) -> Iterator[bytes]:
    """The bytes of a segment, raw or packed; raises OSError or PackError."""
    with file.open("rb") as source:
        if file.name.endswith(PACKED):
            yield from packing.unpacked(source)
            return
        while block := source.read(_BLOCK):
            yield block


def live_blocks(file: Path) -> Iterator[bytes]:
    """The bytes of a segment as in ``blocks``, also where a live writer packs it in the meantime."""
    try:
        yield from blocks(file)
    except FileNotFoundError:  # only as it is opened: nothing has been given out
        if file.suffix != RAW:
            raise
        yield from blocks(file.with_suffix(PACKED))


def segment_digest(file: Path) -> bytes:
    """SHA-256 of a segment's frames, packed or not; nothing where they cannot be unpacked."""
    hashed = hashlib.sha256()
    try:
        for block in live_blocks(file):
            hashed.update(block)
    except packing.PackError:
        return b""
    return hashed.digest()
