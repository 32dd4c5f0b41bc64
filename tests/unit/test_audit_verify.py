from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from safeguard.audit import open_run, verify_run
from safeguard.audit.journal import FOLDER, SEGMENT
from safeguard.core.errors import JournalError
from tests.unit.audit_runs import append_tick, decision, observation, run_open, small_run


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a closed journal with a record of every kind."""
    run = small_run(tmp_path_factory.mktemp("run"), ticks=1)
    assert verify_run(run).ok
    return (run / FOLDER / SEGMENT).read_bytes()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder whose journal a test fills."""
    (tmp_path / FOLDER).mkdir()
    return tmp_path


def put(run: Path, data: bytes) -> Path:
    """Make ``data`` the journal of ``run``."""
    (run / FOLDER / SEGMENT).write_bytes(data)
    return run


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a closed journal of three records, small enough to try every byte."""
    run = tmp_path_factory.mktemp("short")
    with open_run(run, run_open(limits=None)) as journal:
        append_tick(journal, 1, observation(1), decision(1))
    return (run / FOLDER / SEGMENT).read_bytes()


def test_every_changed_byte_is_found_and_named(run: Path, short: bytes) -> None:
    """Whatever byte is changed, the verdict is not complete and names the record that holds the byte."""
    record = 0
    with (put(run, short) / FOLDER / SEGMENT).open("r+b", buffering=0) as file:
        for at, byte in enumerate(short):
            os.pwrite(file.fileno(), bytes([byte ^ (1 + at % 255)]), at)
            report = verify_run(run)
            assert report.verdict in ("altered", "truncated")
            assert report.at_seq == record
            assert report.problem
            os.pwrite(file.fileno(), bytes([byte]), at)
            record += byte == ord("\n")
    assert verify_run(run).ok


def test_a_changed_record_is_named_by_kind(run: Path, original: bytes) -> None:
    """An edit inside a body leaves the kind legible, and the report gives it."""
    at = original.index(b'"push the block')
    report = verify_run(put(run, original[:at] + b'"push the clock' + original[at + 15 :]))
    assert (report.verdict, report.at_seq, report.at_kind) == ("altered", 1, "episode_open")


def test_every_cut_is_found(run: Path, short: bytes) -> None:
    """A journal cut at any byte is truncated, or open where the cut falls between two records."""
    put(run, short)
    for size in reversed(range(len(short))):
        os.truncate(run / FOLDER / SEGMENT, size)
        kept = short[:size]
        report = verify_run(run)
        whole = kept.count(b"\n")
        expected = "open" if kept.endswith(b"\n") else "truncated"  # the writer died, or somebody cut
        assert (report.verdict, report.records, report.at_seq) == (expected, whole, whole)


def delete(lines: list[bytes], rng: random.Random) -> int:
    """Remove a record. Returns where it shows first."""
    at = rng.randrange(len(lines) - 1)
    del lines[at]
    return at


def duplicate(lines: list[bytes], rng: random.Random) -> int:
    """Repeat a record. Returns where it shows first."""
    at = rng.randrange(len(lines))
    lines.insert(at + 1, lines[at])
    return at + 1


def swap(lines: list[bytes], rng: random.Random) -> int:
    """Exchange two records. Returns where it shows first."""
    a, b = sorted(rng.sample(range(len(lines)), 2))
    lines[a], lines[b] = lines[b], lines[a]
    return a


def insert(lines: list[bytes], rng: random.Random) -> int:
    """Add a record. Returns where it shows first."""
    at = rng.randrange(len(lines) + 1)
    lines.insert(at, b'{"h":"' + b"0" * 64 + b'","r":{}}\n')
    return at


@pytest.mark.parametrize("edit", [delete, duplicate, swap, insert])
def test_every_rearrangement_is_found(
    run: Path, original: bytes, edit: Callable[[list[bytes], random.Random], int]
) -> None:
    """Records that were removed, repeated, exchanged or added are found where it happened."""
    rng = random.Random(2)
    for _ in range(50):
        lines = original.splitlines(keepends=True)
        at = edit(lines, rng)
        report = verify_run(put(run, b"".join(lines)))
        assert (report.verdict, report.at_seq) == ("altered", at)


@pytest.mark.parametrize("tail", [b"\n", b" ", b"{}\n", b'{"h":"","r":{}}\n', b"\x00" * 100])
def test_appended_bytes_are_found(run: Path, original: bytes, tail: bytes) -> None:
    """Nothing can stand behind run_close."""
    report = verify_run(put(run, original + tail))
    assert not report.ok
    assert report.at_seq == original.count(b"\n")


@pytest.mark.parametrize("name", ["000001.jsonl", "notes.txt", ".hidden", "folder"])
def test_unknown_entries_are_found(run: Path, original: bytes, name: str) -> None:
    """A journal folder holds the journal and nothing else."""
    put(run, original)
    if name == "folder":
        (run / FOLDER / name).mkdir()
    else:
        (run / FOLDER / name).write_text("x")
    report = verify_run(run)
    assert report.verdict == "altered"
    assert name in report.problem


def test_a_link_instead_of_the_journal_is_found(run: Path, original: bytes, tmp_path: Path) -> None:
    """The journal is a file in the folder, not a link to one elsewhere."""
    (tmp_path / "elsewhere").write_bytes(original)
    (run / FOLDER / SEGMENT).symlink_to(tmp_path / "elsewhere")
    assert verify_run(run).verdict == "altered"


def test_an_open_run_names_its_unprotected_tail(run: Path, original: bytes) -> None:
    """Without run_close the verdict is open, not OK, and says after which record anything may be missing."""
    lines = original.splitlines(keepends=True)
    report = verify_run(put(run, b"".join(lines[:5])))
    assert (report.verdict, report.ok, report.records) == ("open", False, 5)
    assert "no run_close: what followed record 4 (decision, tick 0) is unprotected" in report.problem


@pytest.mark.parametrize("present", [True, False])
def test_an_empty_journal_is_truncated(run: Path, present: bool) -> None:
    """No record, or no file in the folder, is truncated at record 0."""
    report = verify_run(put(run, b"") if present else run)
    assert (report.verdict, report.records, report.at_seq) == ("truncated", 0, 0)


def test_a_folder_without_journal_is_an_error(tmp_path: Path) -> None:
    """There is nothing to give a verdict on; the message says what to give instead."""
    with pytest.raises(JournalError, match="give the folder of a run"):
        verify_run(tmp_path / "nothing")


def test_the_head_stands_for_the_whole_run(run: Path, original: bytes) -> None:
    """The hash of the last record comes with the report, and records are counted by kind."""
    report = verify_run(put(run, original))
    assert report.head.encode() == original.splitlines()[-1][6:70]
    assert report.counts == {
        "run_open": 1,
        "episode_open": 1,
        "human": 1,
        "fault_injected": 1,
        "decision": 1,
        "fault_cleared": 1,
        "episode_close": 1,
        "run_close": 1,
    }
