"""Reading a journal back, one checked and validated record at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from safeguard.audit.journal.cut import CUT, read_cut
from safeguard.audit.journal.keys import PublicKey
from safeguard.audit.journal.scan import Entry, JournalDamageError, Scan
from safeguard.audit.journal.segments import FOLDER
from safeguard.audit.records.cut import RetentionCut
from safeguard.audit.records.registry import BY_CODE, Record, parse_body, plain_body

__all__ = ["JournalDamageError", "read_run", "record_of", "retention_cut"]


def read_run(path: str | Path, *, check: bool = True, key: PublicKey | None = None) -> Iterator[Record]:
    """The records of the run in folder ``path``, in order, one at a time, each checked as it is read.

    Args:
        path: the run folder.
        check: False reads on where chain, roots, signatures or numbers are wrong: replay says what an edit changes.
        key: the public key that must have signed; by default the one that the run names.

    Raises:
        JournalError: there is no journal.
        JournalDamageError: at the first record that is damaged, cut, out of order or not of its schema.
    """
    scan = Scan(path, key, check=check)
    for entry in scan:
        yield record_of(entry, scan)


def retention_cut(path: str | Path) -> RetentionCut | None:
    """What was cut from the beginning of the run in folder ``path``, if anything; whoever reads the run proves it."""
    file = Path(path) / FOLDER / CUT
    return read_cut(file).body() if file.exists() else None


def record_of(entry: Entry, scan: Scan) -> Record:
    """The validated record; raises JournalDamageError where it is not of its schema."""
    head = entry.head
    name = scan.kinds.get(head.kind, "")
    kind = BY_CODE.get(head.kind)
    if kind is None or kind.value != name:
        raise scan.damage("altered", head.seq, f"record kind {head.kind} ({name}) is not known to this safeguard")
    try:
        data = plain_body(kind, head.version, entry.data(), head.tick, head.t)
        body = parse_body(kind, head.version, data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise scan.damage("altered", head.seq, f"{where}: {first['msg']}", name) from None
    except (ValueError, TypeError) as error:  # orjson's is a TypeError
        raise scan.damage("altered", head.seq, str(error), name) from None
    return Record(kind, head.version, head.seq, head.tick, head.t, body, data, entry.leaf.hex())
