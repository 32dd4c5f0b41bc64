"""Is a journal the one that was written?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from safeguard.audit.journal import FOLDER, SEGMENT
from safeguard.audit.reader import JournalDamageError, read_run
from safeguard.audit.records import Record, RunClose
from safeguard.core.enums import RecordKind
from safeguard.core.errors import JournalError

IntegrityVerdict: TypeAlias = Literal["complete", "open", "altered", "truncated"]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What :func:`verify_run` found.

    Attributes:
        verdict: ``complete``; ``open`` (no ``run_close``: whole records may be missing at the end);
            ``truncated`` (ends inside a record, or holds none); ``altered``.
        records: how many records are proved to be as written, from the first on.
        problem: what is wrong, in words, or "".
        at_seq, at_kind: the first record concerned, or None and "".
        counts: the proved records by kind.
        head: hash of the last proved record; it stands for all before it.
    """

    verdict: IntegrityVerdict
    records: int
    problem: str = ""
    at_seq: int | None = None
    at_kind: str = ""
    counts: dict[str, int] = field(default_factory=dict[str, int])
    head: str = ""

    @property
    def ok(self) -> bool:
        """Nothing was found; only ``complete`` is OK."""
        return self.verdict == "complete"


def verify_run(path: str | Path, *, visit: Callable[[Record], None] | None = None) -> VerifyReport:
    """Check every byte of every file in ``path/journal``.

    Frames, hash chain, canonical JSON, sequence numbers, schemas, the counts of ``run_close``, and that the
    folder holds nothing else. Any changed byte, and any record that was added, removed, repeated or moved, is
    found and named, as long as the editor left the chain as it was.

    What a chain without a signature cannot show: that somebody who may write the folder changed a record and
    hashed everything after it anew, or cut the end off and closed what was left, or replaced the whole
    journal; and in an ``open`` run that whole records are missing at the end. To rule that out, keep the hash
    of the last record (``head``) where the editor cannot write.

    Args:
        path: the run folder.
        visit: called with each record once it is proved, in order; saves a second reading.

    Raises:
        JournalError: there is no journal to check.
    """
    folder = Path(path) / FOLDER
    if not folder.is_dir():
        raise JournalError(f"{path} holds no journal: {folder} is not a folder; give the folder of a run")
    if (strange := _strange(folder)) is not None:
        return VerifyReport("altered", 0, f"{strange} does not belong in a journal")
    if not (folder / SEGMENT).exists():
        return VerifyReport("truncated", 0, f"{folder / SEGMENT} is missing", 0)
    counts: Counter[str] = Counter()
    last: Record | None = None
    try:
        for last in read_run(path):
            counts[last.kind.value] += 1
            if visit is not None:
                visit(last)
    except JournalDamageError as damage:
        return _report(damage.verdict, counts, last, damage.problem, damage.seq, damage.kind)
    return _ending(counts, last)


def _strange(folder: Path) -> str | None:
    """The first entry of ``folder`` that no writer of ours made."""
    for entry in sorted(folder.iterdir()):
        if entry.name != SEGMENT or entry.is_symlink() or not entry.is_file():
            return str(entry)
    return None


def _ending(counts: Counter[str], last: Record | None) -> VerifyReport:
    """The verdict on a journal whose records are all as written: how does it end?"""
    if last is None:
        return VerifyReport("truncated", 0, "the journal holds no record", 0)
    if not isinstance(last.body, RunClose):
        tick = f", tick {last.tick}" if last.tick is not None else ""
        problem = f"no run_close: what followed record {last.seq} ({last.kind.value}{tick}) is unprotected"
        return _report("open", counts, last, problem, last.seq + 1)
    before = dict(counts - Counter({RecordKind.RUN_CLOSE.value: 1}))
    if before != last.body.counts:
        problem = f"run_close counts {last.body.counts}, the journal holds {before}"
        return _report("altered", counts, last, problem, last.seq, last.kind.value)
    return _report("complete", counts, last, "", None)


def _report(
    verdict: IntegrityVerdict,
    counts: Counter[str],
    last: Record | None,
    problem: str,
    seq: int | None,
    kind: str = "",
) -> VerifyReport:
    head = "" if last is None else last.hash
    return VerifyReport(verdict, counts.total(), problem, seq, kind, dict(counts), head)
