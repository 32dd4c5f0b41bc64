"""The writer process: empties the ring of one run into its segments. Started by ``open_run``, not by people.

It is told how on its input, in one line of JSON; the end of its input means that the producer is gone. It goes on until
the ring is closed or the producer dead, and everything placed is written and signed. A disk that refuses is told to the
producer through the ring, and tried again.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from safeguard.audit.journal.keys import Signer
from safeguard.audit.journal.ring import Ring
from safeguard.audit.journal.segments import RING, Anchor, SegmentWriter, Style

_IDLE: Final = 0.002  # s between looks at an empty ring
_BATCH: Final = 1 << 20  # bytes a write
_AGAIN: Final = 0.1  # s before a refused write is tried again
_PATIENCE: Final = 10.0  # s that a refusing disk gets once the producer is gone
READY: Final = b"ready\n"


def main() -> int:
    """Serve one run; 0 if all of it is written."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # are for the producer, who closes the ring
        signal.signal(ending, signal.SIG_IGN)
    told = json.loads(sys.stdin.readline())
    folder = Path(told["folder"])
    writer = make_writer(folder, told)
    ring = Ring(folder / RING)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    if not serve(ring, writer, _Producer(sys.stdin.fileno())):
        return 1
    tree = writer.state.tree
    with suppress(BrokenPipeError):  # the producer may be gone
        os.write(sys.stdout.fileno(), f"{tree.size} {tree.root().hex()}\n".encode())
    return 0


def make_writer(folder: Path, told: dict[str, Any]) -> SegmentWriter:
    """The segment writer that the producer's line of JSON asks for."""
    style = Style(
        told["run_id"],
        told["schemas"],
        {int(code): name for code, name in told["kinds"].items()},
        told["segment_bytes"],
        told["checkpoint_s"],
        told["group_s"],
        told["durability"],
    )
    signer = Signer(told["key_name"], b64decode(told["seed"]), told["purpose"])
    return SegmentWriter(folder, style, signer, anchors=anchors(told["anchor"], told["anchor_command"]))


def anchors(file: str | None, command: Sequence[str]) -> list[Anchor]:
    """What takes copies of checkpoints: a file that only grows, a program that reads them."""
    found: list[Anchor] = []
    if file is not None:
        found.append(_to_file(Path(file)))
    if command:
        found.append(_to_command(tuple(command)))
    return found


def _to_file(path: Path) -> Anchor:
    def anchor(note: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, note + b"\n")
        finally:
            os.close(fd)

    return anchor


def _to_command(command: tuple[str, ...]) -> Anchor:
    def anchor(note: bytes) -> None:
        try:
            subprocess.run(command, input=note, check=True, timeout=10.0, stdout=subprocess.DEVNULL)
        except subprocess.SubprocessError as error:
            raise OSError(f"anchor_command {command[0]}: {error}") from error

    return anchor


class _Producer:
    """Whether the process at the other end of a pipe lives."""

    def __init__(self, fd: int) -> None:
        self._fd, self.lives = fd, True

    def look(self, wait: float) -> bool:
        """Wait at most ``wait`` s for the end of the pipe; whether the producer lives."""
        if not self.lives:
            time.sleep(wait)
        elif select.select([self._fd], [], [], wait)[0]:
            self.lives = bool(os.read(self._fd, 4096))
        return self.lives


def serve(ring: Ring, writer: SegmentWriter, producer: _Producer) -> bool:
    """Empty the ring until its producer is done or dead; whether everything is written."""
    gone: float | None = None
    written = ring.seen
    while True:
        ending = ring.closing or not producer.lives
        if ending and gone is None:
            gone = time.monotonic()
        moved = False
        try:
            before, written = written, drain(ring, writer, written)
            moved = written != before
            writer.tend()
            if writer.safe:  # until then a power cut may take from the file what only the ring still has
                ring.done(written)
            ring.fail("")
            if ending and not moved:
                writer.close()
                ring.done(written)
                return ring.empty
        except OSError as error:
            ring.fail(str(error))
            if gone is not None and time.monotonic() - gone > _PATIENCE:
                return False
            producer.look(_AGAIN)
        ring.beat()
        if not moved:
            producer.look(_IDLE)


def drain(ring: Ring, writer: SegmentWriter, begin: int) -> int:
    """Write what the ring holds from ``begin`` on; up to where. Raises OSError and has written nothing then."""
    batch, size, end = list[bytes](), 0, begin
    for content in ring.entries(begin):
        batch.append(content)
        size, end = size + len(content), ring.seen
        if size >= _BATCH:
            break
    if batch:
        writer.write(batch)
    return end


if __name__ == "__main__":
    sys.exit(main())
