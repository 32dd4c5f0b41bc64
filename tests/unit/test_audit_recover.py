from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from safeguard.audit import AuditConfig, Signer, keygen, open_run, read_run, verify_run
from safeguard.audit.journal import frames
from safeguard.audit.journal.recover import recover
from safeguard.audit.journal.ring import Ring
from safeguard.audit.journal.runs import ListedRun, add, listed
from safeguard.audit.journal.segments import FOLDER, RING
from safeguard.audit.records.registry import Gap, Recovery, RunClose
from safeguard.core.enums import RecordKind
from safeguard.core.errors import JournalError
from tests.unit.audit_edit import contents, put
from tests.unit.audit_runs import append_tick, decision, observation, run_open


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    """The key of the runs below."""
    return keygen(tmp_path / "key", "cell", "test")


def closed(tmp_path: Path, ticks: int = 5) -> Path:
    """A closed run with a few decisions."""
    run = tmp_path / "run"
    with open_run(AuditConfig(run=run, key=tmp_path / "key", writer="inline"), run_open()) as journal:
        for tick in range(ticks):
            append_tick(journal, tick, observation(tick), decision(tick))
    return run


def left(tmp_path: Path, frames_written: int, torn: int = 0, ring: bool = True) -> Path:
    """What a death leaves of a run: whole frames, a part of the next, and the records from there on in the ring."""
    run = closed(tmp_path)
    found = contents(run)
    rest = found[frames_written:]
    put(run, b"".join(map(frames.frame, found[:frames_written])) + frames.frame(rest[0])[:torn])
    if ring:
        made = Ring.create(run / FOLDER / RING, 1 << 16)
        for content in rest[:3]:
            made.put(content)
        made.release()
    return run


@pytest.mark.parametrize("torn", [0, 1, 8, 100])
def test_a_run_whose_processes_died_is_closed(tmp_path: Path, signer: Signer, torn: int) -> None:
    """Records of segments and ring stay, the torn part goes, a record says both, and the run is complete."""
    run = left(tmp_path, 4, torn)
    assert verify_run(run, signer.public).verdict == "open"
    done = recover(run, signer, "power of the loop was cut")
    assert (done.cut_bytes, done.from_ring) == (torn, 3)
    records = list(read_run(run))
    assert [record.seq for record in records] == list(range(done.records))
    told, closing = records[-2].body, records[-1].body
    assert isinstance(told, Recovery)
    assert isinstance(closing, RunClose)
    assert (told.cut_bytes, told.from_ring, told.reason) == (torn, 3, "power of the loop was cut")
    assert verify_run(run, signer.public).ok
    assert not (run / FOLDER / RING).exists()


def test_a_torn_end_without_a_ring_is_cut(tmp_path: Path, signer: Signer) -> None:
    """Without a ring the run is truncated until it is recovered."""
    run = left(tmp_path, 4, 50, ring=False)
    assert verify_run(run, signer.public).verdict == "truncated"
    assert recover(run, signer, "x").cut_bytes == 50
    assert verify_run(run, signer.public).ok


def test_only_the_signature_is_missing(tmp_path: Path, signer: Signer) -> None:
    """A writer that died between run_close and its checkpoint leaves nothing to record."""
    run = closed(tmp_path)
    put(run, b"".join(map(frames.frame, contents(run)[:-1])))
    before = [record.seq for record in read_run(run)]
    recover(run, signer, "x")
    assert [record.seq for record in read_run(run)] == before
    assert verify_run(run, signer.public).ok


def test_what_is_refused(tmp_path: Path, signer: Signer) -> None:
    """A closed run, another key and a writer at work are errors that change nothing."""
    run = closed(tmp_path)
    with pytest.raises(JournalError, match="is closed; there is nothing to recover"):
        recover(run, signer, "x")
    with pytest.raises(JournalError, match=r"is signed by cell\+"):
        recover(run, Signer.ephemeral(), "x")
    config = AuditConfig(run=tmp_path / "live", key=tmp_path / "key", writer="inline")
    with open_run(config, run_open()) as journal:
        append_tick(journal, 0, observation(0), decision(0))
        with pytest.raises(JournalError, match="a writer that is still at work"):
            recover(tmp_path / "live", signer, "x")
    assert verify_run(tmp_path / "live", signer.public).ok


def test_each_run_names_the_one_before(tmp_path: Path, signer: Signer) -> None:
    """A list of runs grows by each closed run, and a run that was taken out of it is missed."""
    runs = tmp_path / "runs.list"
    for k, writer in enumerate(("inline", "process", "inline")):
        config = AuditConfig(run=tmp_path / str(k), key=tmp_path / "key", writer=writer, runs=runs)
        with open_run(config, run_open(run_id=f"run-{k}")) as journal:
            append_tick(journal, 0, observation(0), decision(0))
        assert not journal.failed
    assert [known.run for known in listed(runs)] == ["run-0", "run-1", "run-2"]
    for k in range(3):
        assert verify_run(tmp_path / str(k), signer.public, runs=runs).ok
    lines = runs.read_text().splitlines(keepends=True)
    runs.write_text(lines[0] + lines[2])
    assert verify_run(tmp_path / "0", signer.public, runs=runs).ok
    for k, says in ((1, "does not have this run"), (2, "run-1, is not in the list")):
        report = verify_run(tmp_path / str(k), signer.public, runs=runs)
        assert report.verdict == "altered"
        assert says in report.problem


def test_a_replaced_run_is_not_the_listed_one(tmp_path: Path, signer: Signer) -> None:
    """Size and root must be those that the list has."""
    run = closed(tmp_path)
    report = verify_run(run, signer.public)
    add(tmp_path / "list", ListedRun(run="0123456789abcdef", size=report.records, root="00" * 32))
    assert verify_run(run, signer.public, runs=tmp_path / "list").verdict == "altered"


def test_a_list_that_is_none_is_an_error(tmp_path: Path) -> None:
    """A line that is no run is named with file and number."""
    (tmp_path / "list").write_text('{"run":"a","size":1,"root":"b"}\nnonsense\n')
    with pytest.raises(JournalError, match=r"list, line 2: not a run: 'nonsense'"):
        listed(tmp_path / "list")
    assert listed(tmp_path / "none") == []


def test_a_gap_counts_what_it_names() -> None:
    """A gap whose numbers contradict each other is no gap."""
    assert Gap(first=3, last=5, count=3, cause="full").count == 3
    with pytest.raises(ValueError, match="do not go from"):
        Gap(first=3, last=5, count=2, cause="full")
    assert RecordKind.GAP.value == "gap"


def test_an_interrupt_while_a_record_is_placed_costs_nothing(tmp_path: Path, signer: Signer) -> None:
    """Ctrl-C between the file and the count leaves a run that closes complete, with every record that was placed."""
    for writer in ("inline", "process"):
        run = tmp_path / writer
        journal = open_run(AuditConfig(run=run, key=tmp_path / "key", writer=writer), run_open())
        append_tick(journal, 0, observation(0), decision(0))
        sink: Any = getattr(journal, "_sink")  # noqa: B009  # where an interrupt hurts
        real = sink.place

        def interrupted(content: bytes, real: Any = real) -> str:
            real(content)
            raise KeyboardInterrupt

        sink.place = interrupted
        with pytest.raises(KeyboardInterrupt):
            append_tick(journal, 1, observation(1), decision(1))
        journal.close("KeyboardInterrupt")
        assert not journal.failed
        assert verify_run(run, signer.public).ok
        assert [record.tick for record in read_run(run) if record.kind is RecordKind.DECISION] == [0, 1]


def test_a_gap_in_the_ring_is_recovered_with_its_numbers(tmp_path: Path, signer: Signer) -> None:
    """What a dead writer leaves may hold a gap; and a loss that nobody could tell any more is told by the recovery."""
    run = tmp_path / "run"
    journal = open_run(AuditConfig(run=run, key=tmp_path / "key", ring_mib=1), run_open())
    sink: Any = getattr(journal, "_sink")  # noqa: B009
    os.kill(sink._child.pid, signal.SIGKILL)
    sink._child.wait()
    append_tick(journal, 0, observation(0), decision(0))
    assert journal.append(RecordKind.EPISODE_CLOSE, {"episode": 2**70, "outcome": {}}) == -1
    append_tick(journal, 1, observation(1), decision(1))
    assert journal.append(RecordKind.EPISODE_CLOSE, {"episode": 2**70, "outcome": {}}) == -1

    def full(_: bytes) -> str:
        return "no room"

    sink.place = full
    journal.close()
    report = verify_run(run, signer.public)
    assert (report.verdict, report.lost) == ("gap", 2)
    gaps = [record.body for record in read_run(run) if isinstance(record.body, Gap)]
    assert [(gap.first, gap.last) for gap in gaps] == [(2, 2), (5, 5)]


def test_an_exit_code_of_nobody_is_not_believed(tmp_path: Path, signer: Signer) -> None:
    """Where children are reaped behind our back a dead writer looks like one that ended well; its word is missing."""
    run = tmp_path / "run"
    journal = open_run(AuditConfig(run=run, key=tmp_path / "key"), run_open())
    sink: Any = getattr(journal, "_sink")  # noqa: B009
    os.kill(sink._child.pid, signal.SIGKILL)
    sink._child.wait()
    sink._child.returncode = 0
    for tick in range(30):
        append_tick(journal, tick, observation(tick), decision(tick))
    journal.close()
    assert verify_run(run, signer.public).ok
    assert sum(record.kind is RecordKind.DECISION for record in read_run(run)) == 30
