# pyright: reportPrivateUsage=false
# Processes are stopped and killed from inside: nobody else can say when.

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safeguard.audit import Journal, keygen, read_run, verify_run
from safeguard.audit.journal import frames, writer
from safeguard.audit.journal.keys import Signer
from safeguard.audit.journal.ring import HEADER, Ring
from safeguard.audit.journal.scan import Scan
from safeguard.audit.journal.segments import FOLDER, RAW, RING, SegmentWriter
from safeguard.audit.journal.witness import Witnesses
from safeguard.audit.records.encode import JsonObject
from safeguard.core.enums import RecordKind
from safeguard.core.errors import JournalError
from tests.unit.audit_edit import contents
from tests.unit.audit_runs import small_run, started
from tests.unit.test_audit_segments import SIGNER, make, small

HUMAN: JsonObject = {"operator": "o", "reason": "r", "action": "acknowledge", "simulated": True}


def process(run: Path, **settings: Any) -> Journal:
    """A journal that another process writes."""
    return started(run, writer="process", durability="os", **settings)


def child(journal: Journal) -> int:
    """The process that writes it."""
    sink: Any = journal._sink
    return int(sink._child.pid)


def human(journal: Journal, size: int = 1) -> int:
    """Append a record of about ``size`` bytes."""
    return journal.append(RecordKind.HUMAN, {**HUMAN, "reason": "r" * size})


def until(what: Callable[[], object]) -> None:
    """Wait for another process to make it so."""
    for _ in range(6000):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


def numbers(run: Path) -> list[int]:
    """The numbers of all records that can be read."""
    return [record.seq for record in read_run(run)]


def test_a_process_writes_the_journal_that_the_loop_would(tmp_path: Path) -> None:
    """Records are the same, byte for byte; after close the ring is gone, and so is the process."""
    keygen(tmp_path / "key", "arm", "test")
    runs = [small_run(tmp_path / how, key=tmp_path / "key", writer=how) for how in ("inline", "process")]
    inline, other = ([c for c in contents(run) if c[0] == frames.RECORD] for run in runs)
    assert inline == other
    assert not (runs[1] / FOLDER / RING).exists()
    assert [verify_run(run).verdict for run in runs] == ["self-signed"] * 2


def test_close_ends_the_process(tmp_path: Path) -> None:
    """Closing is clean: nothing is wrong, the process is gone, and the journal is whole."""
    journal = process(tmp_path)
    pid = child(journal)
    for seq in range(1, 200):
        assert human(journal) == seq
        assert journal.failed == ""
    journal.close()
    assert (journal.failed, journal.lost) == ("", 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert {file.suffix for file in (tmp_path / FOLDER).iterdir()} == {".sgz"}
    assert numbers(tmp_path) == list(range(201))


def test_the_writer_survives_ctrl_c(tmp_path: Path) -> None:
    """An interrupt is for the producer, who closes."""
    with process(tmp_path) as journal:
        os.kill(child(journal), signal.SIGINT)
        human(journal)
    assert verify_run(tmp_path).sound


def test_a_writer_that_cannot_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose writer does not come up does not start, and leaves nothing in the way of another try."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(JournalError, match="did not start: exit code 1"):
        process(tmp_path / "run")
    monkeypatch.undo()
    process(tmp_path / "run").close()
    assert verify_run(tmp_path / "run").sound


def no_process(*_: object, **__: object) -> None:
    """No memory for another process."""
    raise OSError(12, "Cannot allocate memory")


def dies_late(run: Path) -> str:
    """A program that gets as far as a segment, as a writer may, and dies."""
    program = run / "python"
    program.write_text(f"#!/bin/sh\ntouch {run}/run/{FOLDER}/000000{RAW}\nexit 7\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize("case", ["no process", "no room", "no header", "dies late", "interrupted", "no run_open"])
@pytest.mark.parametrize("there", [False, True])
def test_a_start_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, there: bool
) -> None:
    """Wherever a start fails nothing stays, no process either, and the next one works."""
    run = tmp_path / "run"
    if there:
        run.mkdir()
    children, real = list[Any](), subprocess.Popen

    def born(*given: Any, **more: Any) -> Any:
        children.append(real(*given, **more))
        return children[-1]

    with monkeypatch.context() as patch:
        what: type[BaseException] = JournalError
        patch.setattr(subprocess, "Popen", born)
        match case:
            case "no process":
                patch.setattr(subprocess, "Popen", no_process)
            case "no room":
                patch.setattr(os, "posix_fallocate", no_process)
            case "no header":
                patch.setattr(os, "pwrite", no_process)
            case "dies late":
                patch.setattr(sys, "executable", dies_late(tmp_path))
            case "interrupted":
                what = KeyboardInterrupt

                def interrupt(*_: object) -> bytes:
                    raise KeyboardInterrupt

                patch.setattr("safeguard.audit.journal.sinks.json.dumps", interrupt)
            case _:
                patch.setattr("safeguard.audit.journal.frames.LONGEST", 10)
        with pytest.raises(what):
            process(run)
        assert run.exists() is there
        assert not there or list(run.iterdir()) == []
    assert all(child.returncode is not None for child in children)
    process(run).close()
    assert verify_run(run).sound


# -- the producer dies ------------------------------------------------------------------------------------

ENDLESS = """
import os, sys
from pathlib import Path
from tests.unit.test_audit_writer import human, process
journal = process(Path(sys.argv[1]))
while True:
    os.write(1, b"%d\\n" % human(journal, 2000))
"""


@pytest.mark.parametrize("count", [1, 37, 900])
def test_returned_appends_survive_the_death_of_the_producer(tmp_path: Path, count: int, root: Path) -> None:
    """Killed at any point: every record whose append returned a number is read back, and the run is open."""
    dying = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root
    )
    assert dying.stdout is not None
    assert dying.stderr is not None
    for _ in range(count):
        assert dying.stdout.readline()
    dying.kill()
    last = [int(line) for line in dying.stdout.read().splitlines() if line]
    assert dying.stderr.read() == b""  # its end: the writer, which shares it, is done as well
    assert dying.wait() == -signal.SIGKILL
    dying.stdout.close()
    dying.stderr.close()
    assert verify_run(tmp_path).verdict == "open"
    found = numbers(tmp_path)
    assert found == list(range(len(found)))
    assert len(found) > max([count, *last])


FORKS = """
import os, signal, sys, time
from pathlib import Path
from tests.unit.test_audit_writer import child, human, process
journal = process(Path(sys.argv[1]))
human(journal)
forked = os.fork()
if forked == 0:
    os.close(1)
    time.sleep(600)
os.write(1, b"%d %d\\n" % (forked, child(journal)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_that_the_loop_forked_keeps_no_writer_alive(tmp_path: Path, root: Path) -> None:
    """It holds the loop's end of the pipe for ever; the writer sees the death of the loop all the same, and ends."""
    dying = subprocess.run([sys.executable, "-c", FORKS, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, check=False)
    assert dying.returncode == -signal.SIGKILL
    forked, writing_process = map(int, dying.stdout.split())
    try:
        until(lambda: not alive(writing_process))
        assert alive(forked)
        assert verify_run(tmp_path).verdict == "open"
        assert numbers(tmp_path) == [0, 1]
    finally:
        os.kill(forked, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- the writer dies --------------------------------------------------------------------------------------


def test_the_death_of_the_writer_is_told_and_costs_nothing(tmp_path: Path) -> None:
    """``failed`` says so within 64 records; they stay in the ring, and closing writes them down."""
    journal = process(tmp_path)
    for _ in range(10):
        human(journal)
    os.kill(child(journal), signal.SIGKILL)
    os.waitid(os.P_PID, child(journal), os.WEXITED | os.WNOWAIT)
    placed = [human(journal) for _ in range(64)]
    assert placed == list(range(11, 75))
    assert "the writer process ended with -9; records stay in" in journal.failed
    report = verify_run(tmp_path)
    assert (report.verdict, report.records) == ("open", 75)
    assert numbers(tmp_path) == list(range(75))
    journal.close()
    assert journal.failed == ""
    report = verify_run(tmp_path)
    assert (report.verdict, report.records, report.counts["recovery"]) == ("self-signed", 77, 1)
    assert not (tmp_path / FOLDER / RING).exists()


def test_both_may_die(tmp_path: Path, root: Path) -> None:
    """With the writer stopped and both killed the ring alone holds the records, and all are read back."""
    code = ENDLESS.replace("while True:\n", "os.kill(child(journal), 19)\nfor _ in range(50):\n").replace(
        "import human", "import child, human"
    )
    code += "os.kill(child(journal), 9); os.kill(os.getpid(), 9)\n"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    last = int(done.stdout.split()[-1])
    scan = Scan(tmp_path)
    assert [entry.head.seq for entry in scan] == list(range(last + 1))
    assert scan.from_ring >= 50
    assert verify_run(tmp_path).verdict == "open"


# -- the writer is slow, or its disk full -------------------------------------------------------------------


def test_a_full_ring_loses_records_and_a_gap_says_which(tmp_path: Path) -> None:
    """A writer that stands still costs records once the ring is full: told at once, and in the journal later."""
    journal = process(tmp_path, ring_mib=1)
    os.kill(child(journal), signal.SIGSTOP)
    placed = 0
    while human(journal, 100_000) >= 0:
        placed += 1
    assert placed in (8, 9, 10)
    assert "the ring is full: the writer does not keep up" in journal.failed
    assert [human(journal, 100_000) for _ in range(4)] == [-1] * 4
    assert journal.lost == 5
    os.kill(child(journal), signal.SIGCONT)
    until(lambda: human(journal) >= 0)
    lost = journal.lost
    journal.close()
    report = verify_run(tmp_path)
    assert (report.verdict, report.lost) == ("gap", lost)
    gaps: list[Any] = [record.data for record in read_run(tmp_path) if record.kind is RecordKind.GAP]
    assert gaps[0]["first"] == placed + 1
    assert sum(gap["count"] for gap in gaps) == lost
    assert all("the ring is full" in gap["cause"] for gap in gaps)


def test_a_writer_that_stands_still_is_told(tmp_path: Path) -> None:
    """A writer that is stopped while the ring has room is told after 5 s of the loop's time, and once it is over."""
    journal = process(tmp_path)
    seconds = 0

    def second(records: int = 300) -> str:
        nonlocal seconds
        seconds += 1
        for _ in range(records):
            journal.append(RecordKind.HUMAN, HUMAN, t=seconds * 10**9)
        return journal.failed

    assert [second() for _ in range(3)] == [""] * 3
    until(lambda: Ring(tmp_path / FOLDER / RING, writable=False).empty)
    os.kill(child(journal), signal.SIGSTOP)
    until(lambda: Path(f"/proc/{child(journal)}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    assert [second() for _ in range(5)] == [""] * 5
    until(second)
    assert "the writer process has not moved for" in journal.failed
    assert seconds < 12
    os.kill(child(journal), signal.SIGCONT)
    until(lambda: not second(64))
    journal.close()
    report = verify_run(tmp_path)
    assert (report.verdict, report.lost) == ("self-signed", 0)


def test_time_that_leaps_is_no_standstill(tmp_path: Path) -> None:
    """A simulation that goes on an hour later has a writer that had no time to move."""
    journal = process(tmp_path)
    os.kill(child(journal), signal.SIGSTOP)
    for leap in range(200):
        journal.append(RecordKind.HUMAN, HUMAN, t=leap * 3600 * 10**9)
        assert journal.failed == ""
    os.kill(child(journal), signal.SIGCONT)
    journal.close()
    assert verify_run(tmp_path).sound


def test_a_record_that_no_ring_has_room_for_says_so(tmp_path: Path) -> None:
    """What is larger than half the ring is lost wherever the ring stands, and the message names the setting."""
    journal = process(tmp_path, ring_mib=1)
    for _ in range(3):
        assert human(journal, 600_000) == -1
        assert "raise ring_mib" in journal.failed
        assert human(journal, 400_000) >= 0
        until(lambda: Ring(tmp_path / FOLDER / RING, writable=False).empty)
    journal.close()
    assert verify_run(tmp_path).lost == 3


def test_a_full_disk_is_told_through_the_ring(tmp_path: Path) -> None:
    """What the writer cannot write waits in the ring; the loop is told, and told when it is over."""
    journal = process(tmp_path)
    _, most = resource.prlimit(child(journal), resource.RLIMIT_FSIZE)
    resource.prlimit(child(journal), resource.RLIMIT_FSIZE, (50_000, most))  # a disk of 50 kB
    for seq in range(1, 21):
        assert human(journal, 10_000) == seq
    until(lambda: journal.failed)
    assert "short write" in journal.failed or "File too large" in journal.failed
    resource.prlimit(child(journal), resource.RLIMIT_FSIZE, (most, most))
    until(lambda: not journal.failed)
    journal.close()
    report = verify_run(tmp_path)
    assert (report.verdict, report.records, report.lost) == ("self-signed", 22, 0)


# -- the loop of the process, in this one -------------------------------------------------------------------


NOBODY = Witnesses(None, ())


class Producer(writer.Producer):
    """A producer that a test lets die."""

    def __init__(self, lives: bool = True) -> None:
        self.lives, self.looks = lives, 0
        self.then: Callable[[], object] = lambda: None

    def look(self, wait: float) -> bool:
        """Do what comes next."""
        self.looks += 1
        assert self.looks < 1000
        self.then()
        return self.lives


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    """A ring beside segments."""
    (tmp_path / FOLDER).mkdir()
    return Ring.create(tmp_path / FOLDER / RING, 1 << 16)


def writing(run: Path) -> SegmentWriter:
    """A writer of segments into a folder that has a ring."""
    ring, aside = run / FOLDER / RING, run / "aside"
    ring.rename(aside)
    (run / FOLDER).rmdir()
    made = make(run)
    aside.rename(ring)
    return made


@pytest.mark.parametrize("how", ["closed", "dead"])
def test_serving_ends_with_the_producer(tmp_path: Path, ring: Ring, how: str) -> None:
    """Whether the producer closes the ring or dies, what it placed is written and signed."""
    producer, waiting = Producer(), small()

    def step() -> None:
        if waiting:
            assert ring.put(waiting.pop(0))
        elif how == "closed":
            ring.close()
        else:
            producer.lives = False

    producer.then = step
    assert writer.serve(Ring(tmp_path / FOLDER / RING), writing(tmp_path), producer, NOBODY)
    assert ring.beats > 3
    ring.release()
    (tmp_path / FOLDER / RING).unlink()
    assert verify_run(tmp_path, SIGNER.public).ok


def test_a_refused_batch_stays_in_the_ring(tmp_path: Path, ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken out of the ring that is not written."""
    segment, down = writing(tmp_path), [True]
    real = os.write

    def write(fd: int, data: bytes) -> int:
        if down[0]:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr("safeguard.audit.journal.segments.os.write", write)
    for content in small():
        assert ring.put(content)
    producer = Producer()

    def step() -> None:
        if down[0]:
            assert "No space left" in ring.problem
            assert len(list(Ring(tmp_path / FOLDER / RING, writable=False).entries())) == len(small())
        if producer.looks == 5:
            down[0] = False
            ring.close()

    producer.then = step
    assert writer.serve(Ring(tmp_path / FOLDER / RING), segment, producer, NOBODY)
    assert ring.problem == ""
    ring.release()
    (tmp_path / FOLDER / RING).unlink()
    assert verify_run(tmp_path, SIGNER.public).ok


def test_a_disk_that_stays_full_is_given_up(tmp_path: Path, ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the producer is gone the writer does not wait for ever; the records stay in the ring."""
    segment = writing(tmp_path)

    def write(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_PATIENCE", 0.0)
    for content in small():
        ring.put(content)
    with monkeypatch.context() as patch:
        patch.setattr("safeguard.audit.journal.segments.os.write", write)
        assert not writer.serve(Ring(tmp_path / FOLDER / RING), segment, Producer(lives=False), NOBODY)
    ring.release()
    report = verify_run(tmp_path)
    assert (report.verdict, report.records) == ("open", len(small()))


def test_a_frame_of_the_round_before_is_not_there_yet(tmp_path: Path, ring: Ring) -> None:
    """Where the counter is seen before the frame that it counts, what stands there is not taken for a record."""
    segment, records, producer = writing(tmp_path), small(), Producer()
    mapped, late = ring._bytes, list[tuple[int, bytes]]()  # as another processor would see it

    def step() -> None:
        if producer.looks == 1:
            for content in records[:3]:
                assert ring.put(content)
        if producer.looks == 2:
            start = HEADER + ring._head
            assert ring.put(records[3])
            late.append((start, bytes(mapped[start : start + 512])))
            stale = frames.frame(records[1])
            mapped[start : start + len(stale)] = stale  # whole and sound, but of long ago
        if producer.looks in range(3, 6):
            assert segment.state.tree.size == 3
        if producer.looks == 6:
            start, data = late.pop()
            mapped[start : start + len(data)] = data
            for content in records[4:]:
                assert ring.put(content)
            ring.close()

    producer.then = step
    assert writer.serve(Ring(tmp_path / FOLDER / RING), segment, producer, NOBODY)
    ring.release()
    (tmp_path / FOLDER / RING).unlink()
    assert verify_run(tmp_path, SIGNER.public).ok


def test_what_is_seen_after_the_end_is_written(tmp_path: Path, ring: Ring) -> None:
    """That the ring is closed may be seen before the last record: the writer looks once more before it ends."""
    segment, records, producer = writing(tmp_path), small(), Producer()
    for content in records[:-1]:
        assert ring.put(content)

    def step() -> None:
        if producer.looks == 1:
            ring.close()
        if producer.looks == 2:
            assert ring.put(records[-1])

    producer.then = step
    assert writer.serve(Ring(tmp_path / FOLDER / RING), segment, producer, NOBODY)
    ring.release()
    (tmp_path / FOLDER / RING).unlink()
    assert verify_run(tmp_path, SIGNER.public).ok


def test_a_torn_entry_is_no_success(tmp_path: Path, ring: Ring) -> None:
    """An entry that is not whole is left in the ring, and the writer says that not all was written."""
    segment = writing(tmp_path)
    for content in small()[:3]:
        ring.put(content)
    with (tmp_path / FOLDER / RING).open("r+b") as file:
        file.seek(ring.capacity // 2)
        at = (tmp_path / FOLDER / RING).read_bytes().index(b"fault 2")
        file.seek(at)
        file.write(b"FAULT")
    ring.close()
    assert not writer.serve(Ring(tmp_path / FOLDER / RING), segment, Producer(), NOBODY)
    ring.release()
    assert sum(content[0] == frames.RECORD for content in contents(tmp_path)) == 2


def test_the_end_of_a_pipe_is_the_death_of_its_producer() -> None:
    """A producer lives as long as its end of the pipe, whatever it says through it."""
    read, write = os.pipe()
    producer = writer.Producer(read, os.getppid())
    assert producer.look(0.0)
    os.write(write, b"anything")
    assert producer.look(0.0)
    os.close(write)
    assert not producer.look(60.0)
    assert not producer.look(0.0)
    os.close(read)


def test_a_seed_is_on_no_command_line(tmp_path: Path) -> None:
    """What the process is told goes through a pipe: neither its arguments nor its environment hold the key."""
    signer = keygen(tmp_path / "key", "arm", "test")
    assert isinstance(signer, Signer)
    secret = b64encode(signer.seed)[:40]
    with process(tmp_path / "run", key=tmp_path / "key") as journal:
        for name in ("cmdline", "environ"):
            assert secret not in Path(f"/proc/{child(journal)}/{name}").read_bytes()
    assert all(secret not in file.read_bytes() for file in (tmp_path / "run" / FOLDER).iterdir())
