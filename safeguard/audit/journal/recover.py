"""A journal that was left open, taken up again: the torn end is cut off, the ring emptied, and the journal closed.

Only what a death leaves is mended, and a ``recovery`` record says so. Other damage is never repaired.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ormsgpack

from safeguard.audit.journal import frames
from safeguard.audit.journal.frames import PREFIX, FrameError
from safeguard.audit.journal.keys import Signer
from safeguard.audit.journal.ring import Ring
from safeguard.audit.journal.scan import Scan
from safeguard.audit.journal.segments import FOLDER, RAW, RING, SegmentWriter, Style, blocks
from safeguard.audit.journal.witness import Anchor, handed
from safeguard.audit.records.registry import BY_CODE, KINDS, SCHEMAS, schemas_digest
from safeguard.core.enums import RecordKind
from safeguard.core.errors import JournalError


@dataclass(frozen=True, slots=True)
class Recovered:
    """What :func:`recover` did.

    Attributes:
        records: how many the journal holds now.
        root: of the tree over them, hex.
        cut_bytes: of an unfinished frame.
        from_ring: records that were only in the ring.
        unanchored: why an anchor did not take the last checkpoint, or "".
    """

    records: int
    root: str
    cut_bytes: int
    from_ring: int
    unanchored: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """Records that could not be placed: their first and last numbers, and why."""

    first: int
    last: int
    cause: str


def recover(
    run: str | Path, signer: Signer, reason: str, anchors: Sequence[Anchor] = (), lost: Lost | None = None
) -> Recovered:
    """Close a journal whose writer died, with the private key that signed it.

    Args:
        run: the run folder.
        signer: the run's own key: a journal signed by two keys would be worth no more than the weaker one.
        reason: for the record.
        anchors: what gets a copy of the last checkpoint, once the run is closed; what they refuse is in the result.
        lost: a gap behind everything that was placed, which nobody could record any more.

    Raises:
        JournalError: the journal is closed already, another key signs it, or it cannot be written.
        JournalDamageError: it is damaged otherwise.
    """
    folder = Path(run) / FOLDER
    try:
        scan = Scan(run)
        next(iter(scan), None)
        if scan.signer != str(signer.public):
            raise JournalError(
                f"{run} is signed by {scan.signer}, not by {signer.public}: give the private key of that one"
            )
        with _last(folder) as last:
            cut = _cut(last)
            if _scanned(run, ring=True).closed:
                raise JournalError(f"{run} is closed; there is nothing to recover")
            return _finish(folder, _scanned(run, ring=False), signer, reason, cut, anchors, lost)
    except OSError as error:
        raise JournalError(f"cannot recover {folder}: {error.strerror or error}") from error


def _scanned(run: str | Path, *, ring: bool) -> Scan:
    scan = Scan(run, ring=ring)
    for _ in scan:
        pass
    return scan


@contextmanager
def _last(folder: Path) -> Generator[Path | None]:
    """The last raw segment, which no writer has any more; raises JournalError where one still does."""
    raw = sorted(folder.glob(f"*{RAW}"))
    if not raw:
        yield None
        return
    fd = os.open(raw[-1], os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield raw[-1]
    except BlockingIOError:
        raise JournalError(f"{folder} has a writer that is still at work: close the run, or end its process") from None
    finally:
        os.close(fd)


def _cut(last: Path | None) -> int:
    """Cut an unfinished frame off a segment; how many bytes."""
    if last is None:
        return 0
    whole, size = 0, last.stat().st_size
    try:
        for content in frames.frames(blocks(last)):
            whole += PREFIX.size + len(content)
    except FrameError as error:
        if not error.torn:
            return 0  # the scan says what it is
        os.truncate(last, whole)
    if whole == 0:
        last.unlink()
    return size - whole


def _finish(
    folder: Path,
    scan: Scan,
    signer: Signer,
    reason: str,
    cut: int,
    anchors: Sequence[Anchor],
    lost: Lost | None,
) -> Recovered:
    kinds = {code: kind.value for code, kind in BY_CODE.items()}
    style = Style(scan.run_id, schemas_digest(), kinds, 1 << 62, 1.0, 1.0, "os")
    notes = list[bytes]()
    writer = SegmentWriter(folder, style, signer, scan.state, [notes.append])
    kept = _left(folder / RING, scan.next)
    if RecordKind.RUN_CLOSE.value not in scan.counts:  # else only the signature is missing
        told = {"cut_bytes": cut, "from_ring": len(kept), "reason": reason}
        writer.write([*kept, *_ending(scan, kept, lost, told)])
    writer.close()
    (folder / RING).unlink(missing_ok=True)
    tree = writer.state.tree
    return Recovered(tree.size, tree.root().hex(), cut, len(kept), handed(notes[-1], anchors) if notes else "")


def _ending(scan: Scan, kept: Sequence[bytes], lost: Lost | None, told: Mapping[str, object]) -> list[bytes]:
    """What is written behind the last record: ``gap`` if there is one, ``recovery`` and ``run_close``."""
    seq, counts, found = scan.next, scan.counts.copy(), list[bytes]()
    counts.update(scan.kinds[frames.head(content).kind] for content in kept)
    if kept:
        seq = frames.head(kept[-1]).seq + 1  # a gap among them has left numbers out
    if lost is not None and lost.last >= seq:
        body = {"first": seq, "last": lost.last, "count": lost.last - seq + 1, "cause": lost.cause}
        seq = lost.last + 1
        found.append(_record(RecordKind.GAP, seq, body))
        counts[RecordKind.GAP.value] += 1
        seq += 1
    counts[RecordKind.RECOVERY.value] += 1
    closing = {"counts": dict(counts), "reason": f"recovered: {told['reason']}"}
    return [*found, _record(RecordKind.RECOVERY, seq, told), _record(RecordKind.RUN_CLOSE, seq + 1, closing)]


def _left(file: Path, following: int) -> list[bytes]:
    """Records that only the ring holds, but for a ``run_close``, which comes anew."""
    if not file.exists():
        return []
    ring = Ring(file, writable=False)
    try:
        found = [(frames.head(content), content) for content in ring.entries()]
    finally:
        ring.release()
    closing = KINDS[RecordKind.RUN_CLOSE].code
    return [content for head, content in found if head.seq >= following and head.kind != closing]


def _record(kind: RecordKind, seq: int, body: Mapping[str, object]) -> bytes:
    return frames.record(KINDS[kind].code, SCHEMAS[kind].version, seq, None, None, ormsgpack.packb(body))
