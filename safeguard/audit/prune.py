"""Whole segments cut from the beginning of a run by a retention rule; the rest still verifies (``cut.py``)."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, cast

import ormsgpack

from safeguard.audit.journal import frames
from safeguard.audit.journal.cut import CUT, PART, SIGNATURE, Cut, boundary, read_cut, signed_text
from safeguard.audit.journal.keys import Checkpoint, Signer
from safeguard.audit.journal.merkle import Tree
from safeguard.audit.journal.scan import Scan
from safeguard.audit.journal.segments import FOLDER, PACKED, RAW, blocks, segment_digest, sync_folder
from safeguard.audit.records.cut import CODE, CutRange, RetentionCut
from safeguard.audit.records.registry import BY_CODE, KINDS
from safeguard.audit.verify import VerifyReport, verify_run
from safeguard.core.enums import RecordKind
from safeguard.core.errors import JournalError

DAYS: Final[Mapping[str, int]] = {"6m": 184, "1y": 365, "5y": 1826}
"""Of the retention classes."""

DAY_NS: Final = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class Rule:
    """Which segments go: those of this age in days, or those before a record.

    Attributes:
        text: as it was given.
    """

    text: str
    days: int | None = None
    before: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """``older-than=365d`` or ``before-seq=N``; raises JournalError."""
        if match := re.fullmatch(r"older-than=([0-9]{1,6})d", text):
            return cls(text, days=int(match[1]))
        if match := re.fullmatch(r"before-seq=([0-9]{1,18})", text):
            return cls(text, before=int(match[1]))
        raise JournalError(
            f"rule {text!r}: older-than=DAYSd or before-seq=N; records are cut by whole segments, not by kind"
        )

    def cuts(self, place: Place, now: int) -> bool:
        """Whether everything before ``place`` goes, at ``now`` (wall clock, ns)."""
        if self.days is not None:
            return now - place.utc >= self.days * DAY_NS
        return self.before is not None and place.tree.size <= self.before

    def allows(self, place: Place, now: int) -> int:
        """The longest retention class that may go, days; for a record number it is the age of what goes."""
        return (now - place.utc) // DAY_NS if self.days is None else self.days


@dataclass(frozen=True, slots=True)
class Place:
    """The end of a segment whose last frame is a checkpoint.

    Attributes:
        tree: over the records up to here.
        path: siblings of the first leaf, from below.
        counts: records by kind since the last cut.
        digests: of all segments up to here, hex.
        checkpoint: content of that frame.
        utc: when it was written, ns.
    """

    tree: Tree
    path: tuple[bytes, ...]
    counts: Mapping[str, int]
    digests: tuple[str, ...]
    checkpoint: bytes
    utc: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rule cuts from a run.

    Attributes:
        first, last: records that go; ``last`` is below ``first`` where none does.
        counts: of them, by kind.
        held: those of a longer class than the rule allows.
        segments: how many segments have gone afterwards, all cuts together.
        place: where the rest begins, or None.
    """

    first: int
    last: int
    counts: Mapping[str, int]
    held: Mapping[str, int]
    segments: int
    place: Place | None


@dataclass(frozen=True, slots=True)
class Pruned:
    """What :func:`prune` did.

    Attributes:
        plan: what was cut.
        report: of the run as it is now.
        files, freed: how many files were removed, and their bytes.
    """

    plan: Plan
    report: VerifyReport
    files: int
    freed: int


def plan_cut(run: str | Path, rule: Rule, now: int) -> Plan:
    """What ``rule`` would cut at ``now`` (wall clock, ns). The last segment stays; so does ``run_open``.

    Raises:
        JournalError: there is no journal, or it cannot be read.
    """
    folder = Path(run) / FOLDER
    begin, found = _begun(folder), None
    for place in _places(folder, begin):
        if not rule.cuts(place, now):
            break
        found = place
    first = max(begin.tree.size, 1)
    if found is None:
        return Plan(first, first - 1, {}, {}, len(begin.digests), None)
    limit = rule.allows(found, now)
    held = {kind: count for kind, count in found.counts.items() if _class_days(kind) > limit}
    return Plan(first, found.tree.size - 1, dict(found.counts), held, len(found.digests), found)


def prune(
    run: str | Path, rule: Rule, signer: Signer, *, operator: str, reason: str, now: int, named: Collection[str] = ()
) -> Pruned:
    """Cut what ``rule`` says, leave a signed ``retention_cut``, and check that the rest verifies.

    Args:
        run: the run folder; the run must be complete.
        rule: what goes.
        signer: the private key that signed the run.
        operator, reason: who cuts, and why; for the record.
        now: wall clock, ns.
        named: kinds that may go although their retention class is longer than the rule.

    Raises:
        JournalError: the run is not complete under this key, a kind that is not named would be cut too early, or the
            files cannot be changed; nothing has been cut then.
    """
    before = verify_run(run, signer.public)
    if not before.ok:
        raise JournalError(f"{run} is {before.verdict}, {before.problem}; only a run that is complete is cut")
    folder, plan = Path(run) / FOLDER, plan_cut(run, rule, now)
    if early := {kind: count for kind, count in plan.held.items() if kind not in named}:
        what = ", ".join(f"{count} {kind} ({_class(kind)})" for kind, count in sorted(early.items()))
        raise JournalError(f"{rule.text} would cut records that are to be kept longer: {what}; --yes KIND cuts them")
    try:
        if plan.place is not None:
            told = CutRange(
                first=plan.first, last=plan.last, counts=dict(plan.counts), rule=rule.text, operator=operator,
                reason=reason, utc=now,
            )  # fmt: skip
            before = _placed(folder, _made(folder, plan.place, told, signer), signer, before)
        files, freed = _removed(folder, plan.segments)
    except OSError as error:
        raise JournalError(f"cannot cut {folder}: {error.strerror or error}") from error
    return Pruned(plan, before, files, freed)


def first_episode(run: str | Path) -> tuple[int, int] | None:
    """(record, episode) of the first episode that is left whole behind a cut, where replay can begin; or None."""
    scan = Scan(run, ring=False)
    for entry in scan:
        if scan.kinds.get(entry.head.kind) == RecordKind.EPISODE_OPEN.value:
            return entry.head.seq, int(cast("int", entry.data()["episode"]))
    return None


# -- reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """Where the segments that are there begin; of a run that was never cut at the beginning of all."""

    tree: Tree
    chain: bytes
    path: tuple[bytes, ...]
    digests: tuple[str, ...]


def _begun(folder: Path) -> Begin:
    try:
        found = boundary(read_cut(folder / CUT), "", None)
    except FileNotFoundError:
        return Begin(Tree(), frames.GENESIS, (), ())
    except (OSError, ValueError) as error:
        raise JournalError(f"cannot read {folder / CUT}: {error}") from error
    body = found.body
    return Begin(found.tree, found.chain, tuple(map(bytes.fromhex, body.path)), tuple(body.digests))


def _places(folder: Path, begin: Begin) -> Iterator[Place]:
    """The ends of all segments but the last where a cut is possible, in order."""
    walk = Walk(begin)
    number = len(begin.digests)
    while _files(folder, number + 1):
        if (file := next(iter(_files(folder, number)), None)) is None:
            raise JournalError(f"segment {number} of {folder} is missing")
        try:
            last = walk.segment(file)
        except (OSError, ValueError) as error:
            raise JournalError(f"cannot read {file}: {error}") from error
        if last[0] == frames.CHECKPOINT:
            yield walk.place(last)
        number += 1


class Walk:
    """Chain, tree and counts over segments that are known to be good.

    Attributes:
        tree: over the records so far.
        path: siblings of the first leaf, from below.
    """

    def __init__(self, begin: Begin) -> None:
        self.tree, self._chain = Tree.of(begin.tree.size, begin.tree.peaks), begin.chain
        self.path, self._digests = list(begin.path), list(begin.digests)
        self._counts: Counter[str] = Counter()

    def segment(self, file: Path) -> bytes:
        """Take a segment; the content of its last frame."""
        content = b"\0"
        for content in frames.frames(blocks(file)):
            self._chain = frames.link(self._chain, content)
            if content[0] == frames.RECORD:
                self.add(self._chain, frames.head(content).kind)
        self._digests.append(segment_digest(file).hex())
        return content

    def add(self, leaf: bytes, code: int) -> None:
        """Take a record by its leaf and its kind's code."""
        size, peaks = self.tree.size, self.tree.peaks
        if size and not size & (size + 1):  # the first peak gets a sibling: all that stands beside it
            beside = Tree.of(size - (size + 1) // 2, peaks[1:])
            beside.append(leaf)
            self.path.append(beside.root())
        self.tree.append(leaf)
        if size:  # run_open is kept
            self._counts[BY_CODE[code].value] += 1

    def place(self, checkpoint: bytes) -> Place:
        """Where the walk is now, behind a checkpoint."""
        note = Checkpoint.unproved(checkpoint[1:])
        tree = Tree.of(self.tree.size, self.tree.peaks)
        return Place(tree, tuple(self.path), dict(self._counts), tuple(self._digests), checkpoint, note.utc)


def _files(folder: Path, number: int) -> list[Path]:
    return [file for name in (RAW, PACKED) if (file := folder / f"{number:06d}{name}").exists()]


def _class(kind: str) -> str:
    return next((info.retention for known, info in KINDS.items() if known.value == kind), "5y")


def _class_days(kind: str) -> int:
    return DAYS[_class(kind)]


# -- writing ------------------------------------------------------------------------------------------


def _made(folder: Path, place: Place, told: CutRange, signer: Signer) -> bytes:
    """The cut file."""
    if (folder / CUT).exists():
        old = read_cut(folder / CUT)
        header, opened, cuts = old.header, old.opened, [*old.body().cuts, told]
    else:
        first = frames.frames(blocks(_files(folder, 0)[0]))
        header, opened, cuts = next(first), next(first), [told]
    body = RetentionCut(
        size=place.tree.size,
        digests=list(place.digests),
        peaks=[peak.hex() for peak in place.tree.peaks],
        path=[sibling.hex() for sibling in place.path],
        cuts=cuts,
    )
    packed = ormsgpack.packb(body.model_dump(mode="json"))
    statement = frames.record(CODE, RetentionCut.version, body.size - 1, None, None, packed)
    run_id = Checkpoint.unproved(place.checkpoint[1:]).origin.partition("/")[2]
    unsigned = Cut(header, opened, place.checkpoint, statement, b"")
    signature = bytes((SIGNATURE,)) + signer.signed(signed_text(run_id, unsigned))
    return b"".join(map(frames.frame, (header, opened, place.checkpoint, statement, signature)))


def _placed(folder: Path, data: bytes, signer: Signer, before: VerifyReport) -> VerifyReport:
    """Put the cut file in its place; takes it back unless the run verifies with it as it did before."""
    file = folder / CUT
    old = file.read_bytes() if file.exists() else None
    _replaced(folder, data)
    after = verify_run(folder.parent, signer.public)
    if (after.verdict, after.records, after.root, after.head, after.counts) != (
        before.verdict, before.records, before.root, before.head, before.counts,
    ):  # fmt: skip
        if old is None:
            file.unlink()
        else:
            _replaced(folder, old)
        raise JournalError(f"{folder.parent} would be {after.verdict} after the cut, {after.problem}; nothing was cut")
    return after


def _replaced(folder: Path, data: bytes) -> None:
    with (folder / PART).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    (folder / PART).rename(folder / CUT)
    sync_folder(folder)


def _removed(folder: Path, segments: int) -> tuple[int, int]:
    """Remove the segments below ``segments``, also those that an earlier cut left behind: how many files, and bytes."""
    gone = [file for number in range(segments) for file in _files(folder, number)]
    freed = sum(file.stat().st_size for file in gone)
    for file in gone:
        file.unlink()
    if gone:
        sync_folder(folder)
    return len(gone), freed
