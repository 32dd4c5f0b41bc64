"""Where the records of a journal go: to the ring of a writer process, or straight into the segments."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from safeguard.audit.journal.keys import Signer
from safeguard.audit.journal.recover import Lost, recover
from safeguard.audit.journal.ring import Ring
from safeguard.audit.journal.segments import RAW, RING, SegmentWriter
from safeguard.audit.journal.settings import AuditConfig
from safeguard.audit.journal.witness import anchors
from safeguard.audit.journal.writer import READY, make_writer
from safeguard.audit.records.encode import JsonObject
from safeguard.audit.records.registry import KINDS, schemas_digest
from safeguard.core.errors import JournalError

_LOOK: Final = 64  # records between looks at the writer process
_WAIT_S: Final = 30.0  # for the writer to finish; it gives a refusing disk 10 s, and the last checkpoint's witness 15 s
_STILL_S: Final = 5.0  # of the loop's own time in which a writer that lives has gone round
_STILL: Final = 1024  # records, as well: a simulation's time may leap


class SinkState(NamedTuple):
    """How a sink is, without asking the system.

    Attributes:
        waiting, capacity: bytes in the ring that are not yet safe, and what it takes; 0 without a ring.
        safe: everything placed is as safe as the run's durability asks for.
        beats: grows as long as the writer process lives; None without one.
    """

    waiting: int
    capacity: int
    safe: bool
    beats: int | None


class Sink(Protocol):
    """Where contents of records go."""

    def place(self, content: bytes) -> str:
        """Take a record; why not, or ""."""
        ...

    def at(self, t: int) -> None:
        """What time it is for the loop, injected, ns."""
        ...

    def abandon(self) -> None:
        """Take back a start: nothing of it is left."""
        ...

    def problem(self) -> str:
        """What is wrong although records are still taken, or ""."""
        ...

    def state(self) -> SinkState:
        """How it is, without asking the system."""
        ...

    def close(self, ended: bool, lost: Lost | None) -> str:
        """Write and sign everything; what is wrong, or "".

        Args:
            ended: ``run_close`` has been placed; otherwise the run is closed by ``recover``.
            lost: records that no ``gap`` speaks of yet.
        """
        ...

    def sealed(self) -> tuple[int, str]:
        """(records, Merkle root in hex) of what was closed well."""
        ...


class Inline:
    """The loop writes."""

    def __init__(self, folder: Path, writer: SegmentWriter, closer: Closer) -> None:
        self._folder, self._writer, self._closer = folder, writer, closer
        self._problem, self._recovered = "", (0, "")

    def place(self, content: bytes) -> str:
        """Take a record; why not, or ""."""
        try:
            self._writer.write((content,))
        except OSError as error:
            return str(error)
        self._problem = tried(self._writer.tend)
        return ""

    def at(self, t: int) -> None:
        """As in ``Sink``: nobody is waited for."""

    def abandon(self) -> None:
        """As in ``Sink``."""
        self._writer.abandon()
        _emptied(self._folder)

    def problem(self) -> str:
        """What is wrong although records are still taken, or ""."""
        return self._problem

    def state(self) -> SinkState:
        """As in ``Sink``."""
        return SinkState(0, 0, self._writer.safe, None)

    def close(self, ended: bool, lost: Lost | None) -> str:
        """As in ``Sink``."""
        if ended:
            return tried(self._writer.close)
        self._writer.abandon()
        problem, self._recovered = self._closer.recovered("closed without its end", lost)
        return problem

    def sealed(self) -> tuple[int, str]:
        """(records, Merkle root in hex) of what was closed well."""
        tree = self._writer.state.tree
        return (tree.size, tree.root().hex()) if self._writer.sealed else self._recovered


class Process:
    """Another process writes."""

    def __init__(self, folder: Path, ring: Ring, child: subprocess.Popen[bytes], closer: Closer) -> None:
        self._folder, self._ring, self._child, self._closer = folder, ring, child, closer
        self._puts, self._look, self._died, self._sealed = 0, 0, "", (0, "")
        self._t: int | None = None
        self._moved: tuple[int, int, int | None] = 0, 0, None  # beats, records and time when the writer last moved
        self._still = ""

    def place(self, content: bytes) -> str:
        """Take a record; why not, or ""."""
        self._puts += 1
        if len(content) > self._ring.largest:
            return f"it has {len(content)} bytes, the ring takes {self._ring.largest}: raise ring_mib"
        return "" if self._ring.put(content) else self.problem() or "the ring is full: the writer does not keep up"

    def problem(self) -> str:
        """What is wrong although records are still taken, or ""."""
        if not self._died and self._puts >= self._look:
            self._look = self._puts + _LOOK
            if (code := self._child.poll()) is not None:
                self._died = f"the writer process ended with {code}; records stay in {self._folder / RING}"
            self._still = self._stands_still()
        return self._died or self._still or self._ring.problem

    def _stands_still(self) -> str:
        """How long a writer that lives has been stopped, or stuck in the disk, in the loop's own time; or ""."""
        beats, (before, puts, since) = self._ring.beats, self._moved
        if beats != before or since is None or self._t is None or self._t < since:
            self._moved = beats, self._puts, self._t
            return ""
        seconds = (self._t - since) * 1e-9
        if seconds < _STILL_S or self._puts - puts < _STILL:
            return ""
        return f"the writer process has not moved for {seconds:.0f} s and {self._puts - puts} records"

    def at(self, t: int) -> None:
        """As in ``Sink``."""
        self._t = t

    def abandon(self) -> None:
        """As in ``Sink``."""
        _gone(self._child)
        self._ring.release()
        _emptied(self._folder)

    def state(self) -> SinkState:
        """As in ``Sink``: what the writer has not synced stays in the ring."""
        waiting = self._ring.waiting
        return SinkState(waiting, self._ring.capacity, waiting == 0, self._ring.beats)

    def close(self, ended: bool, lost: Lost | None) -> str:
        """As in ``Sink``."""
        self._ring.close()
        said = b""
        with suppress(OSError):
            if self._child.stdin is not None:
                self._child.stdin.close()
        try:
            code = self._child.wait(_WAIT_S)
        except subprocess.TimeoutExpired:
            return f"the writer did not finish within {_WAIT_S:.0f} s; records stay in {self._folder / RING}"
        finally:
            if self._child.stdout is not None:
                said = self._child.stdout.readline() if self._child.poll() is not None else b""
                self._child.stdout.close()
        refused = self._ring.problem
        self._ring.release()
        if code == 0 and said and ended and not lost:  # an exit code alone may be that of nobody
            (self._folder / RING).unlink(missing_ok=True)
            last = json.loads(said)
            self._sealed = last["size"], last["root"]
            return f"the last checkpoint is not anchored: {last['unanchored']}" if last["unanchored"] else ""
        why = refused or ("closed without its end" if code == 0 else f"the writer process ended with {code}")
        problem, self._sealed = self._closer.recovered(why, lost)
        if problem and not self._sealed[0]:
            return f"{why}; {problem}; records stay in {self._folder / RING}"
        return "; ".join(filter(None, (refused, problem)))

    def sealed(self) -> tuple[int, str]:
        """(records, Merkle root in hex) of what was closed well."""
        return self._sealed


@dataclass(frozen=True, slots=True)
class Closer:
    """Closes by ``recover`` what could not be closed otherwise."""

    folder: Path
    signer: Signer
    config: AuditConfig

    def recovered(self, why: str, lost: Lost | None) -> tuple[str, tuple[int, str]]:
        """(what is wrong, records and root)."""
        takers = anchors(self.config.anchor, self.config.anchor_command)
        try:
            done = recover(self.folder.parent, self.signer, why, takers, lost)
        except JournalError as error:
            return str(error), (0, "")
        problem = f"the last checkpoint is not anchored: {done.unanchored}" if done.unanchored else ""
        return problem, (done.records, done.root)


def tried(what: Callable[[], None]) -> str:
    """Do something; why the system refused it, or ""."""
    try:
        what()
    except OSError as error:
        return str(error)
    return ""


def open_sink(folder: Path, run_id: str, signer: Signer, config: AuditConfig) -> Sink:
    """The sink that the settings ask for; raises OSError, or JournalError where the writer does not start."""
    told, closer = _told(folder, run_id, signer, config), Closer(folder, signer, config)
    if config.writer == "inline":
        return Inline(folder, make_writer(folder, told, anchors(config.anchor, config.anchor_command)), closer)
    ring = Ring.create(folder / RING, config.ring_mib << 20)
    try:
        return Process(folder, ring, _spawned(folder, told), closer)
    except BaseException:
        ring.release()
        _emptied(folder)
        raise


def _spawned(folder: Path, told: JsonObject) -> subprocess.Popen[bytes]:
    """A writer process that is at work."""
    child = subprocess.Popen(
        [sys.executable, "-m", "safeguard.audit.journal.writer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C and the loss of a terminal are for the producer
    )
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        with suppress(BrokenPipeError):
            child.stdin.write(json.dumps(told).encode() + b"\n")
            child.stdin.flush()
        if child.stdout.readline() != READY:
            raise JournalError(f"the writer process of {folder} did not start: exit code {_gone(child)}")
    except BaseException:
        _gone(child)
        raise
    return child


def _gone(child: subprocess.Popen[bytes]) -> int:
    """End a writer process; its exit code."""
    child.kill()
    code = child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    return code


def _emptied(folder: Path) -> None:
    """Remove what a start that failed has made; what somebody else still writes stays."""
    for file in (folder / RING, folder / f"{0:06d}{RAW}"):
        with suppress(OSError), file.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()


def _told(folder: Path, run_id: str, signer: Signer, config: AuditConfig) -> JsonObject:
    """What the writer must know; the seed goes through a pipe, never onto a command line."""
    return {
        "folder": str(folder),
        "producer": os.getpid(),
        "run_id": run_id,
        "schemas": schemas_digest(),
        "kinds": {str(info.code): kind.value for kind, info in KINDS.items()},
        "segment_bytes": int(config.segment_mib * (1 << 20)),
        "checkpoint_s": config.checkpoint_s,
        "group_s": config.group_s,
        "durability": config.durability,
        "key_name": signer.public.name,
        "seed": b64encode(signer.seed).decode(),
        "purpose": signer.purpose,
        "anchor": None if config.anchor is None else str(config.anchor),
        "anchor_command": list(config.anchor_command),
    }
