"""Is a journal the one that was written?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from safeguard.audit.journal.keys import PublicKey
from safeguard.audit.journal.runs import ListedRun, place_problem
from safeguard.audit.journal.scan import JournalDamageError, Proved, Scan
from safeguard.audit.reader import record_of
from safeguard.audit.records.registry import Record

IntegrityVerdict: TypeAlias = Literal["complete", "self-signed", "open", "gap", "truncated", "altered"]

EXIT_CODES: Final[Mapping[IntegrityVerdict, int]] = {
    "complete": 0,
    "altered": 3,
    "truncated": 4,
    "gap": 5,
    "open": 6,
    "self-signed": 7,
}
"""Of ``safeguard audit verify``; 2 is usage."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What :func:`verify_run` found.

    Attributes:
        verdict: from good to bad: ``complete``; ``self-signed`` (nothing is wrong, but no key was given, so nobody
            vouches); ``open`` (no ``run_close``); ``gap`` (the journal itself says that records are missing);
            ``truncated`` (it ends inside a frame, or a file is missing); ``altered``.
        records: how many records are proved to be as written, from the first on.
        problem: what is wrong, in words, or "".
        at_seq, at_kind: the first record concerned, or None and "".
        counts: the proved records by kind.
        unprotected: how many of them no signed checkpoint covers.
        lost: how many records gaps say are missing.
        head: chain value after the last proved record, hex; it stands for all before it.
        root: of the Merkle tree over them, hex.
        key, purpose: the key that the run names, and what it is for.
        cut: how many of the records are no longer there, cut by ``prune``; they count as proved.
    """

    verdict: IntegrityVerdict
    records: int
    problem: str = ""
    at_seq: int | None = None
    at_kind: str = ""
    counts: dict[str, int] = field(default_factory=dict[str, int])
    unprotected: int = 0
    lost: int = 0
    head: str = ""
    root: str = ""
    key: str = ""
    purpose: str = ""
    cut: int = 0

    @property
    def ok(self) -> bool:
        """Nothing was found, and the key that was given vouches for it; only ``complete`` is OK."""
        return self.verdict == "complete"

    @property
    def sound(self) -> bool:
        """Nothing was found, whoever signed."""
        return self.verdict in ("complete", "self-signed")


def verify_run(
    path: str | Path,
    key: PublicKey | None = None,
    *,
    visit: Callable[[Record], None] | None = None,
    runs: Path | None = None,
) -> VerifyReport:
    """Check every byte of every file in ``path/journal``.

    Frames, checksums, chain, Merkle roots, signatures, numbers, the counts of ``run_close``, and that the folder holds
    nothing else. With the key of the writer any change in a closed run is found, also by somebody who hashes everything
    anew. In an open run what the last checkpoint does not cover (``unprotected``) can be changed or cut unseen.

    What no journal can show: that what was written was true; that a whole run is missing (the list of runs and the
    anchored checkpoints show that); what somebody with the private key did.

    Args:
        path: the run folder.
        key: the public key that must have signed; None checks against the key that the run itself names, which an
            editor could have replaced: the best verdict is then ``self-signed``.
        runs: list of runs; a closed run must be in it, and the run before it too.
        visit: called with each record, validated, once it is proved as far as it can be; saves a second reading.

    Raises:
        JournalError: there is no journal to check.
    """
    scan = Scan(path, key)
    try:
        for entry in scan:
            if visit is not None:
                visit(record_of(entry, scan))
    except JournalDamageError as damage:
        return _report(scan, damage.verdict, damage.problem, damage.seq, damage.kind)
    if scan.lost:
        return _report(scan, "gap", f"{scan.lost} records were lost while the run was recorded")
    if not scan.closed:
        tail = scan.records - scan.state.signed
        return _report(
            scan, "open", f"no run_close, or it is not signed: unprotected tail of {tail} records", scan.next
        )
    if runs is not None and (problem := _misplaced(scan, runs)):
        return _report(scan, "altered", problem, scan.next)
    if key is None:
        return _report(
            scan, "self-signed", f"no key given; the run says it is signed by {scan.signer} ({scan.purpose})"
        )
    return _report(scan, "complete", "")


def _misplaced(scan: Scan, runs: Path) -> str:
    previous = None if scan.previous is None else ListedRun.model_validate(scan.previous)
    return place_problem(runs, scan.run_id, scan.records, scan.state.tree.root().hex(), previous)


def _report(
    scan: Scan, verdict: IntegrityVerdict, problem: str, seq: int | None = None, kind: str = ""
) -> VerifyReport:
    walked = Proved(scan.records, scan.leaf, scan.state.tree.root(), scan.counts)
    # A checkpoint that does not fit says nothing of the records between it and the one before.
    proved = scan.proved if verdict == "altered" and seq is not None and seq < scan.next else walked
    return VerifyReport(
        verdict,
        proved.records,
        problem,
        seq,
        kind,
        dict(proved.counts),
        proved.records - scan.proved.records,
        scan.lost,
        proved.leaf.hex(),
        proved.root.hex(),
        scan.signer,
        scan.purpose,
        scan.cut,
    )
