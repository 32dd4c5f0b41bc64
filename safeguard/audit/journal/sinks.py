"""Where the records of a journal go: to the ring of a writer process, or straight into the segments."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from safeguard.audit.journal.keys import Signer
from safeguard.audit.journal.recover import Lost, recover
from safeguard.audit.journal.ring import Ring
from safeguard.audit.journal.segments import RING, SegmentWriter
from safeguard.audit.journal.settings import AuditConfig
from safeguard.audit.journal.writer import READY, make_writer
from safeguard.audit.records.encode import JsonObject
from safeguard.audit.records.registry import KINDS, schemas_digest
from safeguard.core.errors import JournalError

_LOOK: Final = 64  # records between looks at the writer process
_WAIT_S: Final = 30.0  # for the writer to finish


class Sink(Protocol):
    """Where contents of records go."""

    def place(self, content: bytes) -> str:
        """Take a record; why not, or ""."""
        ...

    def problem(self) -> str:
        """What is wrong although records are still taken, or ""."""
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

    def __init__(self, folder: Path, writer: SegmentWriter, signer: Signer) -> None:
        self._folder, self._writer, self._signer = folder, writer, signer
        self._problem, self._recovered = "", (0, "")

    def place(self, content: bytes) -> str:
        """Take a record; why not, or ""."""
        try:
            self._writer.write((content,))
        except OSError as error:
            return str(error)
        self._problem = tried(self._writer.tend)
        return ""

    def problem(self) -> str:
        """What is wrong although records are still taken, or ""."""
        return self._problem

    def close(self, ended: bool, lost: Lost | None) -> str:
        """As in ``Sink``."""
        if ended:
            return tried(self._writer.close)
        self._writer.abandon()
        problem, self._recovered = recovered(self._folder, self._signer, "closed without its end", lost)
        return problem

    def sealed(self) -> tuple[int, str]:
        """(records, Merkle root in hex) of what was closed well."""
        tree = self._writer.state.tree
        return self._recovered if self._recovered[0] else (tree.size, tree.root().hex())


class Process:
    """Another process writes."""

    def __init__(self, folder: Path, ring: Ring, child: subprocess.Popen[bytes], signer: Signer) -> None:
        self._folder, self._ring, self._child, self._signer = folder, ring, child, signer
        self._puts, self._look, self._died, self._sealed = 0, 0, "", (0, "")

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
        return self._died or self._ring.problem

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
        match said.decode().split():  # an exit code alone may be that of nobody
            case [size, root] if code == 0 and ended and not lost:
                (self._folder / RING).unlink(missing_ok=True)
                self._sealed = int(size), root
                return ""
            case _:
                why = refused or ("closed without its end" if code == 0 else f"the writer process ended with {code}")
        problem, self._sealed = recovered(self._folder, self._signer, why, lost)
        return f"{why}; {problem}; records stay in {self._folder / RING}" if problem else refused

    def sealed(self) -> tuple[int, str]:
        """(records, Merkle root in hex) of what was closed well."""
        return self._sealed


def recovered(folder: Path, signer: Signer, why: str, lost: Lost | None) -> tuple[str, tuple[int, str]]:
    """(what is wrong, records and root) of a journal that is closed by ``recover``."""
    try:
        done = recover(folder.parent, signer, why, lost=lost)
    except JournalError as error:
        return str(error), (0, "")
    return "", (done.records, done.root)


def tried(what: Callable[[], None]) -> str:
    """Do something; why the system refused it, or ""."""
    try:
        what()
    except OSError as error:
        return str(error)
    return ""


def open_sink(folder: Path, run_id: str, signer: Signer, config: AuditConfig) -> Sink:
    """The sink that the settings ask for; raises OSError, or JournalError where the writer does not start."""
    told = _told(folder, run_id, signer, config)
    if config.writer == "inline":
        return Inline(folder, make_writer(folder, told), signer)
    return _spawned(folder, told, signer, config)


def _spawned(folder: Path, told: JsonObject, signer: Signer, config: AuditConfig) -> Process:
    ring = Ring.create(folder / RING, config.ring_mib << 20)
    child = subprocess.Popen(
        [sys.executable, "-m", "safeguard.audit.journal.writer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C and the loss of a terminal are for the producer
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with suppress(BrokenPipeError):
        child.stdin.write(json.dumps(told).encode() + b"\n")
        child.stdin.flush()
    if child.stdout.readline() != READY:
        child.kill()
        code = child.wait()
        with suppress(BrokenPipeError):
            child.stdin.close()
        child.stdout.close()
        ring.release()
        (folder / RING).unlink()
        raise JournalError(f"the writer process of {folder} did not start: exit code {code}")
    return Process(folder, ring, child, signer)


def _told(folder: Path, run_id: str, signer: Signer, config: AuditConfig) -> JsonObject:
    """What the writer must know; the seed goes through a pipe, never onto a command line."""
    return {
        "folder": str(folder),
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
