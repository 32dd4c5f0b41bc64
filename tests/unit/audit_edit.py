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
from safeguard.audit.records.decode import decode_decision, decode_observation, decode_proposal
from safeguard.audit.records.encode import decision_body
from safeguard.audit.records.registry import BY_CODE, DecisionRecord, parse_body, plain_body
from safeguard.core.enums import RecordKind


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
    return [as_json(content) for content in contents(run) if content[0] == frames.RECORD]


def as_json(content: bytes) -> dict[str, Any]:
    """A record as plain JSON; a decision with its names, and all that its record leaves out."""
    head = frames.head(content)
    kind = BY_CODE[head.kind]
    body = plain_body(kind, head.version, unpacked(content), head.tick, head.t)
    return {"v": head.version, "kind": kind.value, "seq": head.seq, "tick": head.tick, "t": head.t, "body": body}


def as_content(record: dict[str, Any]) -> bytes:
    """The way back from :func:`as_json`; a decision in today's version."""
    code = next(code for code, kind in BY_CODE.items() if kind.value == record["kind"])
    version, body = record["v"], record["body"]
    if record["kind"] == RecordKind.DECISION.value:
        version, body = DecisionRecord.version, _written(version, body)
    return frames.record(code, version, record["seq"], record["tick"], record["t"], ormsgpack.packb(body))


def _written(version: int, plain: dict[str, Any]) -> Any:
    body = parse_body(RecordKind.DECISION, version, plain)
    assert isinstance(body, DecisionRecord)
    arrived = None if body.proposal is None else decode_proposal(body.proposal)
    return decision_body(body.now, decode_observation(body.observation), arrived, decode_decision(body))


def edited(run: Path, change: Callable[[int, dict[str, Any]], None]) -> list[bytes]:
    """The contents of a run with records as ``change`` leaves them; checkpoints as they were."""
    found = list[bytes]()
    for content in contents(run):
        if content[0] == frames.RECORD:
            record = as_json(content)
            before = as_content(record)
            change(record["seq"], record)
            content = as_content(record) if as_content(record) != before else content
        found.append(content)
    return found


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
