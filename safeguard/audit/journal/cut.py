"""What stands for the first segments of a run once they are cut: one file (docs/decisions/0020-prune.md).

    cut.sgc = segment header | run_open | checkpoint | retention_cut | signature      frames, as in a segment

The first two are those of segment 0, the checkpoint is the last frame of the last segment that was cut, all three as
they were written. ``retention_cut`` says what is missing and has the peaks of the tree there. The signature is a note
over the chain of the four frames before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, cast

import orjson
import ormsgpack

from safeguard.audit.journal import frames
from safeguard.audit.journal.frames import FrameError
from safeguard.audit.journal.keys import Checkpoint, PublicKey
from safeguard.audit.journal.merkle import Tree
from safeguard.audit.journal.segments import blocks
from safeguard.audit.records.cut import CODE, RetentionCut
from safeguard.audit.records.encode import jsonable

CUT: Final = "cut.sgc"
PART: Final = "cut.sgc.part"
SIGNATURE: Final = 4
_TYPES: Final = (frames.SEGMENT, frames.RECORD, frames.CHECKPOINT, frames.RECORD, SIGNATURE)


@dataclass(frozen=True, slots=True)
class Cut:
    """The contents of the five frames."""

    header: bytes
    opened: bytes
    checkpoint: bytes
    statement: bytes
    signature: bytes

    def body(self) -> RetentionCut:
        """What the statement says; raises ValueError."""
        head = frames.head(self.statement)
        if (head.kind, head.version, head.tick, head.t) != (CODE, RetentionCut.version, None, None):
            raise ValueError(f"a record of kind {head.kind}, version {head.version}, is no retention_cut of version 1")
        data = jsonable(cast("object", ormsgpack.unpackb(self.statement[frames.HEAD.size :])))
        found = RetentionCut.model_validate_json(orjson.dumps(data))
        if head.seq != found.size - 1:
            raise ValueError(f"retention_cut has the number {head.seq}, not {found.size - 1}")
        return found


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where the rest of a run goes on.

    Attributes:
        body: of ``retention_cut``.
        tree: over the records before.
        leaf: the chain's value after the last of them.
        chain: its value after the checkpoint.
    """

    body: RetentionCut
    tree: Tree
    leaf: bytes
    chain: bytes


def read_cut(file: Path) -> Cut:
    """The frames of a cut file; raises FrameError or OSError."""
    found = list(islice(frames.frames(blocks(file)), len(_TYPES) + 1))
    if tuple(content[0] for content in found) != _TYPES:
        raise FrameError("it does not hold a header, run_open, a checkpoint, retention_cut and a signature")
    return Cut(*found)


def boundary(cut: Cut, run_id: str, key: PublicKey | None) -> Boundary:
    """What a cut proves; without a key its signatures and hashes are taken as they are. Raises ValueError."""
    if key is not None and key.signed_text(cut.signature[1:]) != signed_text(run_id, cut):
        raise ValueError("what is signed is not what it says")
    body, note = cut.body(), cut.checkpoint[1:]
    tree = Tree.of(body.size, [bytes.fromhex(peak) for peak in body.peaks])
    checkpoint = Checkpoint.unproved(note) if key is None else key.opened(note)
    if key is not None:
        if (checkpoint.origin, checkpoint.size, checkpoint.root) != (f"safeguard/{run_id}", tree.size, tree.root()):
            raise ValueError("its checkpoint is of another journal, or another place in it")
        if climbed(_first_leaf(cut), body.path) != tree.peaks[0] or len(body.path) != tree.size.bit_length() - 1:
            raise ValueError("its run_open is not the run's first record")
    return Boundary(body, tree, checkpoint.chain, frames.link(checkpoint.chain, cut.checkpoint))


def signed_text(run_id: str, cut: Cut) -> str:
    """What the signature of a cut stands for; the last frame of ``cut`` does not count."""
    chain = frames.GENESIS
    for content in (cut.header, cut.opened, cut.checkpoint, cut.statement):
        chain = frames.link(chain, content)
    return f"safeguard/{run_id}/retention_cut\nchain {chain.hex()}\n"


def climbed(leaf: bytes, path: Sequence[str]) -> bytes:
    """Root of a complete tree, from its first leaf and the siblings on the way up."""
    for sibling in path:
        leaf = hashlib.sha256(b"\1" + leaf + bytes.fromhex(sibling)).digest()
    return leaf


def _first_leaf(cut: Cut) -> bytes:
    return frames.link(frames.link(frames.GENESIS, cut.header), cut.opened)
