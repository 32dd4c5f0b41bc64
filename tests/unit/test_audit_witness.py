# pyright: reportPrivateUsage=false
# Who serves a ring is driven from inside.

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from threading import Event

import pytest
from typer.testing import CliRunner

from safeguard.audit import keygen, verify_run
from safeguard.audit.journal import frames, sinks, witness, writer
from safeguard.audit.journal.ring import Ring
from safeguard.audit.journal.runs import listed
from safeguard.audit.journal.segments import FOLDER, RING
from safeguard.audit.journal.sinks import Process
from safeguard.audit.journal.witness import Witness, Witnesses, anchors, handed
from safeguard.cli_journal import commands
from safeguard.core.enums import RecordKind
from tests.unit.audit_edit import contents, segments
from tests.unit.audit_runs import started
from tests.unit.test_audit_segments import SIGNER, small
from tests.unit.test_audit_writer import HUMAN, Producer, human, process, ring, until, writing

__all__ = ["ring"]


class Slow:
    """An anchor that takes a note only when it is let; refuses the first ``refusals``."""

    def __init__(self, refusals: int = 0) -> None:
        self.asked, self.let, self.took, self.refusals = Event(), Event(), list[bytes](), refusals

    def __call__(self, note: bytes) -> None:
        """Wait, then take or refuse."""
        self.asked.set()
        assert self.let.wait(60.0)
        if self.refusals:
            self.refusals -= 1
            raise OSError(111, "Connection refused")
        self.took.append(note)


def test_a_slow_witness_gets_the_newest() -> None:
    """What came while it was busy is covered by the last of it; nobody waited."""
    slow = Slow()
    told = Witness(slow)
    told(b"0")
    assert slow.asked.wait(60.0)
    for number in range(1, 50):
        told(b"%d" % number)
    slow.let.set()
    assert told.close(time.monotonic() + 60.0) == ""
    assert slow.took == [b"0", b"49"]


def test_a_file_that_is_behind_gets_all_it_can_hold() -> None:
    """A witness with room for more gets every note, in order; beyond that the oldest give way."""
    slow = Slow()
    told = Witness(slow, waiting=10)
    told(b"0")
    assert slow.asked.wait(60.0)
    for number in range(1, 30):
        told(b"%d" % number)
    slow.let.set()
    assert told.close(time.monotonic() + 60.0) == ""
    assert slow.took == [b"0", *(b"%d" % number for number in range(20, 30))]


def test_a_refusal_is_told_and_tried_again() -> None:
    """Until a note is taken ``problem`` says why not; the newest is tried again by itself."""
    slow = Slow(refusals=1)
    told = Witness(slow)
    slow.let.set()
    told(b"note")
    until(lambda: "Connection refused" in told.problem or slow.took)
    until(lambda: slow.took == [b"note"])
    assert told.close(time.monotonic() + 60.0) == ""
    assert told.problem == ""


def test_the_end_does_not_wait_for_ever() -> None:
    """A witness that never answers, or refuses to the last, is told at the end, within a bound."""
    never = Slow()
    silent = Witness(never)
    silent(b"last")
    assert silent.close(time.monotonic() + 0.05) == "the last checkpoint was not taken in time"
    never.let.set()  # its thread must not outlive the test
    refusing = Slow(refusals=10**6)
    refusing.let.set()
    told = Witness(refusing)
    told(b"last")
    until(lambda: told.problem)
    assert "Connection refused" in told.close(time.monotonic() + 0.05)
    assert not refusing.took


def test_a_slow_witness_does_not_fill_the_ring(tmp_path: Path, ring: Ring) -> None:
    """While a witness is busy everything placed is written, and its room in the ring is given back."""
    slow, all_of_them = Slow(), Witnesses(None, ())
    all_of_them.each.append(Witness(slow))
    segment, producer, records = writing(tmp_path), Producer(), small()
    segment._anchors = all_of_them.each

    for _ in range(4):
        assert ring.put(records.pop(0))
    seen = list[bool]()

    def then() -> None:
        time.sleep(0.001)  # the thread has a turn
        if slow.asked.is_set() and records:
            for _ in range(len(records)):
                assert ring.put(records.pop(0))
        elif not records and not seen:
            seen.append(not list(Ring(tmp_path / FOLDER / RING, writable=False).entries()))
            ring.close()

    producer.then = then
    assert writer.serve(Ring(tmp_path / FOLDER / RING), segment, producer, all_of_them)
    assert seen == [True]
    assert slow.took == []
    slow.let.set()
    assert all_of_them.close() == ""
    last = [content[1:] for content in contents(tmp_path) if content[0] == frames.CHECKPOINT][-1]
    assert slow.took[-1] == last
    ring.release()
    (tmp_path / FOLDER / RING).unlink()
    assert verify_run(tmp_path, SIGNER.public).ok


def test_anchors_of_the_process(tmp_path: Path) -> None:
    """A file that only grows gets every checkpoint of the run; a program some, in order, and the last."""
    kept, copied = tmp_path / "anchored", tmp_path / "copied"
    journal = process(tmp_path / "run", anchor=kept, anchor_command=("tee", "-a", str(copied)), segment_mib=0.001)
    for _ in range(20):
        human(journal, 500)
        until(lambda: Ring(tmp_path / "run" / FOLDER / RING, writable=False).empty)
    journal.close()
    assert journal.failed == ""
    notes = [content[1:] for content in contents(tmp_path / "run") if content[0] == frames.CHECKPOINT]
    assert len(notes) >= len(segments(tmp_path / "run")) > 3
    assert kept.read_bytes() == b"".join(note + b"\n" for note in notes)
    taken = [b"safeguard/" + note for note in copied.read_bytes().split(b"safeguard/")[1:]]
    assert taken == [note for note in notes if note in taken]
    assert taken[-1] == notes[-1]


def test_a_program_that_sleeps_holds_nobody_up(tmp_path: Path) -> None:
    """With a program that takes its time the ring is emptied all the same; at the end it gets the last checkpoint."""
    copied = tmp_path / "copied"
    code = f"import sys, time; time.sleep(1); open({str(copied)!r}, 'ab').write(sys.stdin.buffer.read())"
    journal = process(tmp_path / "run", anchor_command=(sys.executable, "-c", code), checkpoint_s=0.01, ring_mib=1)
    for _ in range(40):  # three times what the ring holds
        assert human(journal, 80_000) >= 0
        assert journal.failed == ""
        until(lambda: Ring(tmp_path / "run" / FOLDER / RING, writable=False).empty)
    journal.close()
    assert journal.failed == ""
    notes = [content[1:] for content in contents(tmp_path / "run") if content[0] == frames.CHECKPOINT]
    assert copied.read_bytes().endswith(notes[-1])


def test_an_unanchored_end_is_told_and_closed(tmp_path: Path) -> None:
    """A witness that refuses is ``failed`` during the run and at its end; the run is closed and listed."""
    refusing = tmp_path / "refuse"
    refusing.write_text("#!/bin/sh\nexit 3\n")
    refusing.chmod(0o755)
    runs = tmp_path / "list"
    journal = process(tmp_path / "run", anchor_command=(str(refusing),), checkpoint_s=0.01, runs=runs)
    human(journal)
    until(lambda: journal.failed)
    assert "exit status 3" in journal.failed
    journal.close()
    assert "the last checkpoint is not anchored: anchor_command" in journal.failed
    assert verify_run(tmp_path / "run", runs=runs).sound
    assert len(listed(runs)) == 1
    assert not (tmp_path / "run" / FOLDER / RING).exists()


def test_an_inline_run_whose_anchor_is_gone_is_closed_and_listed(tmp_path: Path) -> None:
    """The loop's own writer tells it as well."""
    (tmp_path / "share").mkdir()
    journal = started(tmp_path / "run", anchor=tmp_path / "share" / "kept", runs=tmp_path / "list")
    (tmp_path / "share").rmdir()
    journal.append(RecordKind.HUMAN, HUMAN)
    journal.close()
    assert "kept" in journal.failed
    assert verify_run(tmp_path / "run", runs=tmp_path / "list").sound


@pytest.mark.parametrize("command", [("false",), ("no-such-program-as-this",)])
def test_an_anchor_program_that_fails_is_an_os_error(command: tuple[str, ...]) -> None:
    """Whatever goes wrong with a program is told like a disk that refuses."""
    (anchor,) = anchors(None, command)
    with pytest.raises(OSError, match=command[0]):
        anchor(b"note")
    assert command[0] in handed(b"note", [anchor])


def test_the_bound_at_the_end_fits_into_the_loops_patience() -> None:
    """The loop waits longer for its writer than that does for disk and witness."""
    assert writer._PATIENCE + witness.LAST_S < sinks._WAIT_S


def test_recover_anchors_what_it_signs(tmp_path: Path) -> None:
    """The checkpoint of a recovered run goes to the same witnesses; a refusal is told, and the run closed."""
    signer = keygen(tmp_path / "key", "cell", "test")
    for name in ("good", "bad"):
        journal = process(tmp_path / name, key=tmp_path / "key")
        human(journal)
        sink = journal._sink
        assert isinstance(sink, Process)
        sinks._gone(sink._child)
        sink._ring.release()
    kept, copied = tmp_path / "anchored", tmp_path / "copied"
    arguments = ["recover", str(tmp_path / "good"), "--key", str(tmp_path / "key"), "--anchor", str(kept)]
    done = CliRunner().invoke(commands, [*arguments, "--anchor-command", shlex.join(["tee", "-a", str(copied)])])
    assert done.exit_code == 0, done.output
    last = [content[1:] for content in contents(tmp_path / "good") if content[0] == frames.CHECKPOINT][-1]
    assert kept.read_bytes() == last + b"\n"
    assert copied.read_bytes() == last
    arguments[1] = str(tmp_path / "bad")
    done = CliRunner().invoke(commands, [*arguments, "--anchor-command", "false"])
    assert done.exit_code == 1
    assert "not anchored: anchor_command false" in done.output
    for name in ("good", "bad"):
        assert verify_run(tmp_path / name, signer.public).ok
        assert not (tmp_path / name / FOLDER / RING).exists()


def test_a_journal_that_closes_by_recovery_is_anchored(tmp_path: Path) -> None:
    """Where the writer died the loop closes the run, and hands its checkpoint out as the settings say."""
    kept = tmp_path / "anchored"
    journal = process(tmp_path / "run", anchor=kept)
    human(journal)
    sink = journal._sink
    assert isinstance(sink, Process)
    sink._child.kill()
    sink._child.wait()
    journal.close()
    assert journal.failed == ""
    last = [content[1:] for content in contents(tmp_path / "run") if content[0] == frames.CHECKPOINT][-1]
    assert kept.read_bytes().endswith(last + b"\n")
