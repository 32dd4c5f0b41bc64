"""Journals taken apart and put together again: what an editor of the files could do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ormsgpack

from safeguard.audit.journal import frames
from safeguard.audit.journal.keys import Checkpoint, Signer
from safeguard.audit.journal.merkle import Tree
from safeguard.audit.journal.scan import unpacked
from safeguard.audit.journal.segments import FOLDER, PACKED, RAW, blocks
from safeguard.audit.records.encode import expanded
from safeguard.audit.records.registry import BY_CODE


def segments(run: Path) -> list[Path]:
    """The segments of a run, in order."""
    return sorted(file for file in (run / FOLDER).iterdir() if file.name.endswith((RAW, PACKED)))


def raw(run: Path) -> bytes:
    """Every byte of a run's segments, decompressed."""
    return b"".join(b"".join(blocks(file)) for file in segments(run))


def contents(run: Path) -> list[bytes]:
    """The contents of all frames of a run."""
    return list(frames.frames(iter([raw(run)])))


def put(run: Path, data: bytes) -> Path:
    """Make ``data`` the one segment of ``run``."""
    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    for file in segments(run):
        file.unlink()
    (run / FOLDER / f"000000{RAW}").write_bytes(data)
    return run


def put_contents(run: Path, found: Sequence[bytes]) -> Path:
    """Make these the frames of ``run``, with right lengths and checksums."""
    return put(run, b"".join(map(frames.frame, found)))


def records(run: Path) -> list[dict[str, Any]]:
    """Every record of a run, as plain JSON, from the files alone; decisions with all that their records leave out."""
    return [whole(as_json(content)) for content in contents(run) if content[0] == frames.RECORD]


def whole(record: dict[str, Any]) -> dict[str, Any]:
    """A record of :func:`as_json` with all that the record of a decision leaves out."""
    if record["kind"] != "decision":
        return record
    return {**record, "body": expanded(record["body"], record["tick"], record["t"])}


def as_json(content: bytes) -> dict[str, Any]:
    """A record as plain JSON, as it was written."""
    head = frames.head(content)
    kind = BY_CODE[head.kind].value
    return {"v": head.version, "kind": kind, "seq": head.seq, "tick": head.tick, "t": head.t, "body": unpacked(content)}


def as_content(record: dict[str, Any]) -> bytes:
    """The way back from :func:`as_json`."""
    code = next(code for code, kind in BY_CODE.items() if kind.value == record["kind"])
    body = ormsgpack.packb(record["body"])
    return frames.record(code, record["v"], record["seq"], record["tick"], record["t"], body)


def edited(run: Path, change: Callable[[int, dict[str, Any]], None]) -> list[bytes]:
    """The contents of a run with records as ``change`` leaves them; checkpoints as they were.

    ``change`` gets records as they were written; only the torque of a command that is the filter's is spelt out.
    """
    found = list[bytes]()
    for content in contents(run):
        if content[0] == frames.RECORD:
            record = as_json(content)
            before = as_content(record)
            spelt = _spelt(record)
            change(record["seq"], record)
            decision: dict[str, Any] = record["body"]["decision"] if spelt else {}
            if spelt and repr(decision["command"]["tau"]) == repr(decision["filter"]["torque"]):  # signs of zero too
                decision["command"]["tau"] = None
            content = as_content(record) if as_content(record) != before else content
        found.append(content)
    return found


def _spelt(record: dict[str, Any]) -> bool:
    """Write the torque into a command that has none; whether that was so."""
    if record["kind"] != "decision":
        return False
    decision = record["body"]["decision"]
    if decision["command"].get("tau", "") is not None:
        return False
    decision["command"]["tau"] = list(decision["filter"]["torque"])
    return True


def resigned(
    run: Path, change: Callable[[int, dict[str, Any]], None], signer: Signer | None = None, *, named: bool = True
) -> Path:
    """Let ``change`` edit every record, then chain and sign everything anew, with a key of one's own: an insider.

    ``named`` False leaves the real key's name in ``run_open``.
    """
    signer = signer or Signer.ephemeral()
    opened = next(record for record in records(run))
    run_id = opened["body"]["run_id"]

    def changed(seq: int, record: dict[str, Any]) -> None:
        change(seq, record)
        if seq == 0 and named:
            record["body"]["key"] = str(signer.public)

    tree, chain, found = Tree(), frames.GENESIS, list[bytes]()
    for content in edited(run, changed):
        if content[0] == frames.CHECKPOINT:
            note = signer.note(Checkpoint(f"safeguard/{run_id}", tree.size, tree.root(), chain, 0))
            content = bytes((frames.CHECKPOINT,)) + note
        chain = frames.link(chain, content)
        if content[0] == frames.RECORD:
            tree.append(chain)
        found.append(content)
    return put_contents(run, found)
