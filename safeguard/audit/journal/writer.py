"""The writer process: empties the ring of one run into its segments. Started by ``open_run``, not by people.

It is told how on its input, in one line of JSON. It goes on until the ring is closed or the producer dead, and
everything placed is written and signed. The producer is dead once its end of the pipe is closed, or the writer has
another parent: a child that the producer forked holds the pipe as well, and may outlive it. A disk or a witness that
refuses is told to the producer through the ring, and tried again; a slow witness keeps nobody waiting before the end.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from safeguard.audit.journal import frames
from safeguard.audit.journal.keys import Signer
from safeguard.audit.journal.ring import Ring
from safeguard.audit.journal.segments import RING, SegmentWriter, Style
from safeguard.audit.journal.witness import Anchor, Witnesses

_IDLE: Final = 0.002  # s between looks at an empty ring
_BATCH: Final = 1 << 20  # bytes a write
_AGAIN: Final = 0.1  # s before a refused write is tried again
_PATIENCE: Final = 10.0  # s that a refusing disk gets once the producer is gone
_GAP: Final = 9  # kind of the record that may leave numbers out
READY: Final = b"ready\n"


def main() -> int:
    """Serve one run; 0 if all of it is written."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # are for the producer, who closes the ring
        signal.signal(ending, signal.SIG_IGN)
    told = json.loads(sys.stdin.readline())
    folder = Path(told["folder"])
    producer = Producer(sys.stdin.fileno(), told["producer"])
    witnesses = Witnesses(told["anchor"], told["anchor_command"])
    writer = make_writer(folder, told, witnesses.each)
    ring = Ring(folder / RING)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    if not serve(ring, writer, producer, witnesses):
        return 1
    tree, refused = writer.state.tree, witnesses.close()
    with suppress(BrokenPipeError):  # the producer may be gone
        said = {"size": tree.size, "root": tree.root().hex(), "unanchored": refused}
        os.write(sys.stdout.fileno(), json.dumps(said).encode() + b"\n")
    return 0


def make_writer(folder: Path, told: dict[str, Any], anchors: Sequence[Anchor]) -> SegmentWriter:
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
    return SegmentWriter(folder, style, signer, anchors=anchors)


class Producer:
    """Whether the process that opened the run lives.

    Args:
        fd: this end of a pipe that it holds.
        pid: of the process, whose child this one is.
    """

    def __init__(self, fd: int, pid: int) -> None:
        self._fd, self._pid, self.lives = fd, pid, True

    def look(self, wait: float) -> bool:
        """Wait at most ``wait`` s for the end of the pipe; whether the producer lives."""
        if not self.lives:
            time.sleep(wait)
        elif select.select([self._fd], [], [], wait)[0]:
            self.lives = bool(os.read(self._fd, 4096))
        self.lives = self.lives and os.getppid() == self._pid
        return self.lives


def serve(ring: Ring, writer: SegmentWriter, producer: Producer, witnesses: Witnesses) -> bool:
    """Empty the ring until its producer is done or dead; whether everything is written."""
    gone: float | None = None
    drain, quiet = Drain(ring, writer), False
    while True:
        ending = ring.closing or not producer.lives
        if ending and gone is None:
            gone = time.monotonic()
        moved = False
        try:
            moved = drain.step()
            writer.tend()
            if writer.safe:  # until then a power cut may take from the file what only the ring still has
                ring.done(drain.written)
            ring.fail(witnesses.problem)
            if ending and quiet and not moved:
                writer.close()
                ring.done(drain.written)
                return ring.empty
        except OSError as error:
            ring.fail(str(error))
            if gone is not None and time.monotonic() - gone > _PATIENCE:
                return False
            producer.look(_AGAIN)
        ring.beat()
        quiet = ending and not moved  # looked at once more: that it ends may be seen before what was placed last
        if not moved:
            producer.look(_IDLE)


class Drain:
    """Takes records out of a ring into segments.

    Attributes:
        written: up to where in the ring.
    """

    def __init__(self, ring: Ring, writer: SegmentWriter) -> None:
        self._ring, self._writer = ring, writer
        self.written = ring.seen
        self._next = 0  # number of the record to come

    def step(self) -> bool:
        """Write what has come, a batch at most; whether anything has. Raises OSError and has written nothing then."""
        batch, size, end, following = list[bytes](), 0, self.written, self._next
        for content in self._ring.entries(self.written):
            seq = _number(content, following)
            if seq is None:
                break  # of the round before: what stands here now cannot be seen yet (``ring.py``)
            batch.append(content)
            size, end, following = size + len(content), self._ring.seen, seq + 1
            if size >= _BATCH:
                break
        if batch:
            self._writer.write(batch)
            self.written, self._next = end, following
        return bool(batch)


def _number(content: bytes, following: int) -> int | None:
    """Number of the record that may stand behind those before ``following``, or None if this is no such record."""
    if content[0] != frames.RECORD or len(content) <= frames.HEAD.size:
        return None
    head = frames.head(content)
    return head.seq if head.seq == following or (head.kind == _GAP and head.seq > following) else None


if __name__ == "__main__":
    sys.exit(main())
