from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from safeguard.audit import Journal, JournalDamageError, open_run, read_run, verify_run
from safeguard.audit.journal import FOLDER, GENESIS, MAX_LINE, SEGMENT, frame
from safeguard.audit.records import SCHEMAS, DecisionRecord, RunClose, RunOpen, json_schemas, schemas_digest
from safeguard.core.enums import Enforcement, Mode, RecordKind
from safeguard.core.errors import JournalError
from tests.unit.audit_runs import append_tick, decision, episode_open, observation, run_open, small_run


def lines(run: Path) -> list[bytes]:
    """The lines of a run's journal, ends included."""
    return (run / FOLDER / SEGMENT).read_bytes().splitlines(keepends=True)


def test_every_line_is_json_with_its_hash_first(tmp_path: Path) -> None:
    """Anybody with a JSON parser and SHA-256 can read a journal and check its chain."""
    last = bytes(32)
    for seq, line in enumerate(lines(small_run(tmp_path / "run"))):
        parsed = orjson.loads(line)
        raw = line[line.index(b'"r":') + 4 : -2]
        last = hashlib.sha256(last + raw).digest()
        assert list(parsed) == ["h", "r"]
        assert list(parsed["r"]) == ["v", "kind", "seq", "tick", "t", "body"]
        assert parsed["h"] == last.hex()
        assert parsed["r"]["seq"] == seq


def test_reader_gives_back_what_was_written(tmp_path: Path) -> None:
    """Records come back in order, typed, with the envelope's tick and time."""
    records = list(read_run(small_run(tmp_path / "run", ticks=3)))
    decisions = [record for record in records if isinstance(record.body, DecisionRecord)]
    assert [record.seq for record in records] == list(range(len(records)))
    assert isinstance(records[0].body, RunOpen)
    assert isinstance(records[-1].body, RunClose)
    assert [(record.tick, record.t) for record in decisions] == [(0, 0), (1, 2_000_000), (2, 4_000_000)]
    assert {record.kind for record in records} == set(RecordKind)


def test_run_open_carries_the_digest_of_the_schemas(tmp_path: Path) -> None:
    """The schemas that a run was written with are identified in its first record."""
    body = next(read_run(small_run(tmp_path / "run"))).body
    assert isinstance(body, RunOpen)
    assert body.digests.schemas == schemas_digest()
    assert set(json_schemas()) == {kind.value for kind in RecordKind} == {kind.value for kind in SCHEMAS}


def test_append_counts_from_zero(tmp_path: Path) -> None:
    """Sequence numbers are gap-free; run_open is number 0."""
    with open_run(tmp_path, run_open()) as journal:
        opened = episode_open(0, Enforcement.FULL, "clean")
        assert journal.append(RecordKind.EPISODE_OPEN, opened) == 1
        assert journal.append(RecordKind.EPISODE_CLOSE, {"episode": 0, "outcome": {}}) == 2
    assert verify_run(tmp_path).records == 4


def test_a_second_journal_is_refused(tmp_path: Path) -> None:
    """A run folder that holds a journal is never written to again."""
    before = lines(small_run(tmp_path))
    with pytest.raises(JournalError, match="already holds a journal; choose another"):
        open_run(tmp_path, run_open())
    assert lines(tmp_path) == before


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    """A run folder that cannot be made is refused with the reason and the place."""
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(JournalError, match=r"cannot start a journal in .*run.journal"):
        open_run(tmp_path / "run", run_open())


def test_a_read_only_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without write permission is refused (simulated: tests may run as root)."""

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(JournalError, match="Permission denied"):
        open_run(tmp_path / "run", run_open())


def test_a_disk_full_at_the_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose first record cannot be written does not start."""
    real = os.open

    def full(*_: object, **__: object) -> int:
        return real("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(JournalError, match="No space left"):
        open_run(tmp_path / "run", run_open())


@pytest.mark.parametrize("change", [{"run_id": 7}, {"colour": "red"}, {"limits": {"joints": 3}}])
def test_a_wrong_run_open_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """The first record is validated when it is written, before anything is made on disk."""
    with pytest.raises(JournalError, match=f"not a run_open body: (.|\n)*{next(iter(change))}"):
        open_run(tmp_path / "run", {**run_open(), **change})  # type: ignore[dict-item]
    assert not (tmp_path / "run").exists()


def full_disk(fd: int, data: bytes) -> int:
    """Write nothing: no space."""
    raise OSError(28, "No space left on device")


def short_write(fd: int, data: bytes) -> int:
    """Write the first half only."""
    return REAL_WRITE(fd, data[: len(data) // 2])


REAL_WRITE = os.write


@pytest.mark.parametrize(("fault", "says"), [(full_disk, "No space left"), (short_write, "short write")])
def test_a_write_error_never_reaches_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[int, bytes], int], says: str
) -> None:
    """ENOSPC and short writes leave their reason in ``failed``, and nothing is written after them."""
    journal = open_run(tmp_path, run_open())
    append_tick(journal, 0, observation(0), decision(0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fault)
        assert journal.append(RecordKind.EPISODE_CLOSE, {"episode": 0, "outcome": {}}) == -1
    assert says in journal.failed
    assert "record 2 (episode_close)" in journal.failed
    size = (tmp_path / FOLDER / SEGMENT).stat().st_size
    assert journal.append(RecordKind.EPISODE_CLOSE, {"episode": 0, "outcome": {}}) == -1
    journal.close()
    assert (tmp_path / FOLDER / SEGMENT).stat().st_size == size
    report = verify_run(tmp_path)
    assert (report.verdict, report.records) == ("open" if fault is full_disk else "truncated", 2)


def test_a_failed_sync_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that could not be synced on close says so and does not raise."""
    journal = open_run(tmp_path, run_open())

    def refuse(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    journal.close()
    assert "could not be synced" in journal.failed


def test_a_body_that_is_no_json_never_reaches_the_loop(tmp_path: Path) -> None:
    """A value without a JSON form leaves its reason in ``failed``."""
    journal = open_run(tmp_path, run_open())
    assert journal.append(RecordKind.EPISODE_CLOSE, {"episode": 2**70, "outcome": {}}) == -1
    assert "could not be written" in journal.failed
    journal.close()


def test_a_huge_record_is_refused(tmp_path: Path) -> None:
    """No line is longer than a reader accepts."""
    journal = open_run(tmp_path, run_open())
    assert journal.append(RecordKind.EPISODE_CLOSE, {"episode": 0, "outcome": {"x": "y" * MAX_LINE}}) == -1
    assert "the limit is" in journal.failed
    journal.close()
    assert verify_run(tmp_path).verdict == "open"


def test_close_is_idempotent_and_final(tmp_path: Path) -> None:
    """A closed journal holds one run_close and takes nothing more."""
    journal = open_run(tmp_path, run_open())
    journal.close()
    journal.close()
    assert journal.append(RecordKind.EPISODE_CLOSE, {"episode": 0, "outcome": {}}) == -1
    assert journal.failed == "the journal is closed"
    assert verify_run(tmp_path).ok


def test_an_exception_closes_with_its_reason(tmp_path: Path) -> None:
    """A run that ends in an exception is closed and says which."""
    with pytest.raises(ZeroDivisionError), open_run(tmp_path, run_open()):
        _ = 1 / 0
    *_, last = read_run(tmp_path)
    assert isinstance(last.body, RunClose)
    assert last.body.reason == "ZeroDivisionError: division by zero"


def test_returned_appends_survive_a_kill(tmp_path: Path) -> None:
    """A process that dies without closing leaves every record whose append returned."""
    code = (
        "import os, sys; from pathlib import Path; from tests.unit.audit_runs import *\n"
        "j = open_run(Path(sys.argv[1]), run_open())\n"
        "for k in range(50): append_tick(j, k, observation(k), decision(k))\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    report = verify_run(tmp_path)
    assert (report.verdict, report.records, report.at_seq) == ("open", 51, 51)


class Listener:
    """A structlog-like logger that remembers, or breaks."""

    def __init__(self, breaks: bool = False) -> None:
        self.heard: list[tuple[str, dict[str, object]]] = []
        self.breaks = breaks

    def info(self, event: str, **fields: object) -> None:
        """Remember, or break."""
        if self.breaks:
            raise RuntimeError("the log server is down")
        self.heard.append((event, fields))

    error = info


def _run_with(journal: Journal) -> None:
    for tick, mode in enumerate([Mode.BOOT, Mode.NOMINAL, Mode.NOMINAL, Mode.HOLD]):
        append_tick(journal, tick, observation(tick), decision(tick, mode=mode))
    journal.close()


def test_the_mirror_hears_mode_changes(tmp_path: Path) -> None:
    """A logger is told of each change of mode once, with both names."""
    listener = Listener()
    _run_with(open_run(tmp_path, run_open(), mirror=listener))
    modes = [(fields["was"], fields["to"]) for event, fields in listener.heard if event == "mode"]
    assert modes == [(None, "BOOT"), ("BOOT", "NOMINAL"), ("NOMINAL", "HOLD")]
    assert [event for event, _ in listener.heard if event != "mode"] == ["run_open", "run_close"]


def test_a_broken_mirror_costs_no_evidence(tmp_path: Path) -> None:
    """A logger that raises is dropped; every record is still written."""
    _run_with(open_run(tmp_path, run_open(), mirror=Listener(breaks=True)))
    assert verify_run(tmp_path).ok


def test_the_mirror_hears_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A logger is told that the journal has ended early."""
    listener = Listener()
    journal = open_run(tmp_path, run_open(), mirror=listener)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_disk)
        append_tick(journal, 0, observation(0), decision(0))
    journal.close()
    assert listener.heard[-1][0] == "journal_failed"


def rechained(run: Path, records: list[bytes]) -> None:
    """Write ``records`` with a chain that fits, as a forger would."""
    last, out = GENESIS, b""
    for raw in records:
        line, last = frame(raw, last)
        out += line
    (run / FOLDER / SEGMENT).write_bytes(out)


REFUSED: dict[str, tuple[Callable[[list[bytes]], None], int, str]] = {
    "newer schema": (lambda r: r.__setitem__(2, r[2].replace(b'{"v":1,', b'{"v":9,')), 2, "schema version 9"),
    "unknown kind": (lambda r: r.__setitem__(2, r[2].replace(b'"human"', b'"robot"')), 2, "unknown kind"),
    "wrong seq": (
        lambda r: r.__setitem__(2, r[2].replace(b'"seq":2', b'"seq":9')),
        2,
        "says that it is record 9",
    ),
    "extra field": (lambda r: r.__setitem__(2, r[2].replace(b'"reason"', b'"x":1,"reason"')), 2, "body.x"),
    "wrong type": (lambda r: r.__setitem__(2, r[2].replace(b"true", b'"yes"')), 2, "body.simulated"),
    "white space": (lambda r: r.__setitem__(2, r[2].replace(b",", b", ", 1)), 2, "not in the form"),
    "not JSON": (lambda r: r.__setitem__(2, r[2][:-1]), 2, "not JSON"),
    "no run_open": (lambda r: r.__setitem__(0, r[1].replace(b'"seq":1', b'"seq":0')), 0, "one run_open"),
    "second run_open": (lambda r: r.__setitem__(1, r[0].replace(b'"seq":0', b'"seq":1')), 1, "one run_open"),
    "after run_close": (
        lambda r: r.append(r[-2].replace(b'"seq":%d' % (len(r) - 2), b'"seq":%d' % len(r))),
        11,
        "after run_close",
    ),
    "wrong counts": (lambda r: r.__setitem__(-1, r[-1].replace(b'"human":1', b'"human":2')), 10, "counts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_well_chained_but_wrong_record_is_named(tmp_path: Path, case: str) -> None:
    """Even where somebody hashed the chain anew, a record that no writer of ours would write is found."""
    edit, seq, says = REFUSED[case]
    records = [line[line.index(b'"r":') + 4 : -2] for line in lines(small_run(tmp_path))]
    edit(records)
    rechained(tmp_path, records)
    report = verify_run(tmp_path)
    assert (report.verdict, report.at_seq) == ("altered", seq)
    assert says in report.problem


def test_an_endless_line_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    """A reader holds at most one bounded line."""
    small_run(tmp_path)
    with (tmp_path / FOLDER / SEGMENT).open("ab") as file:
        file.write(b"x" * (3 * MAX_LINE))
    with pytest.raises(JournalDamageError, match="longer than"):
        list(read_run(tmp_path))


def test_reading_nothing_is_an_error(tmp_path: Path) -> None:
    """A folder without a journal is refused by name."""
    with pytest.raises(JournalError, match=r"cannot read .*000000.jsonl"):
        list(read_run(tmp_path))
