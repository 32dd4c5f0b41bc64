# pyright: reportPrivateUsage=false
# A violation is planted where the code would make it: inside.

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from safeguard.audit import AuditConfig, PublicKey, keygen, read_public, verify, verify_run
from safeguard.audit.event_words import EVENTS
from safeguard.audit.journal import frames
from safeguard.audit.journal.keys import Checkpoint
from safeguard.audit.journal.scan import Entry, Scan
from safeguard.audit.records.expand import named_decision
from safeguard.controllers import ArmPlatform
from safeguard.core.enums import RecordKind
from safeguard.core.types import Decision
from safeguard.replay import replay_run
from safeguard.shield import Shield
from tests.laws.lab import Lab, always, beyond
from tests.unit.audit_edit import as_json, contents, edited, put, put_contents, raw, records, resigned, segments

Patch = pytest.MonkeyPatch
TICKS = 40
KEY = "arm.key"


def check_law_10_written(run: Path) -> None:
    """When ``step`` returns, the record of its decision is on file, complete, with its command."""
    lab = Lab(beyond, audit=run)
    lab.acknowledge()
    before = len(records(run))
    for tick in range(TICKS):
        decision = lab.tick()
        check_record(records(run), before + tick + 1, tick, decision)
    lab.shield.close()


def check_record(found: list[dict[str, Any]], count: int, tick: int, decision: Decision) -> None:
    """There are ``count`` records beside events, and the last is that of ``decision``; its events follow it."""
    plain = [record for record in found if RecordKind(record["kind"]) not in EVENTS]
    assert len(plain) == count, "not one record a decision"
    record = plain[-1]
    assert {event["tick"] for event in found[record["seq"] + 1 :]} <= {tick}, "an event without its decision"
    assert (record["kind"], record["tick"]) == ("decision", tick)
    command = orjson.dumps(named_decision(decision)["command"], option=orjson.OPT_SERIALIZE_NUMPY)
    assert orjson.dumps(record["body"]["decision"]["command"]) == command, "another command was released"


def check_law_10_placed(run: Path) -> None:
    """With a writer process: when ``step`` returns, the record lies where the death of no process can take it."""
    lab = Lab(beyond, audit=AuditConfig(run=run))
    with lab.shield, stopped(lab):  # whatever the process could still write, it does not
        lab.acknowledge()
        before = len(on_file(run))
        for tick in range(TICKS):
            decision = lab.tick()
            check_record(on_file(run), before + tick + 1, tick, decision)
    assert verify_run(run).sound


@contextmanager
def stopped(lab: Lab) -> Generator[None]:
    """The writer process of the lab's journal does nothing for a while."""
    journal: Any = lab.shield.journal
    pid: int = journal._sink._child.pid
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def on_file(run: Path) -> list[dict[str, Any]]:
    """Every record of an open run, from its segments and its ring."""
    return [as_json(entry.content) for entry in Scan(run)]


def closed_run(run: Path, ticks: int = TICKS) -> Path:
    """A closed run with people, modes and motion in it, signed with the key beside it."""
    keygen(run.parent / KEY, "arm", "test")
    lab = Lab(beyond, audit=AuditConfig.of(run, real_time=False, key=run.parent / KEY)).start(ticks)
    lab.shield.stop(operator="lab", reason="test")
    lab.run(10)
    lab.shield.close()
    return run


def key_of(run: Path) -> PublicKey:
    """The public key that a reviewer holds."""
    return read_public(run.parent / f"{KEY}.pub")


def places(size: int, count: int = 60) -> list[int]:
    """Both ends, and some bytes between them."""
    return [0, size - 1, *np.random.default_rng(10).integers(0, size, count).tolist()]


def check_law_10_bytes(run: Path) -> None:
    """Any changed byte of a closed run is found; in a raw segment the record that holds it is named."""
    assert verify_run(run, key_of(run)).verdict == "complete"
    (packed,) = segments(run)
    good = packed.read_bytes()
    for at in places(len(good)):
        packed.write_bytes(good[:at] + bytes((good[at] ^ 0x10,)) + good[at + 1 :])
        assert not verify_run(run).sound, f"byte {at} of the compressed segment may be changed"
    packed.write_bytes(good)
    good = raw(run)
    ends, numbers = frame_ends(contents(run))
    for at in places(len(good)):
        put(run, good[:at] + bytes((good[at] ^ 0x10,)) + good[at + 1 :])
        found = verify_run(run)
        assert not found.sound, f"byte {at} may be changed"
        assert found.at_seq == numbers[int(np.searchsorted(ends, at, side="right"))], f"byte {at}: {found.problem}"
    put(run, good)


def frame_ends(found: list[bytes]) -> tuple[list[int], list[int]]:
    """Where each frame ends, and how many records stand before it."""
    ends, numbers, at, seq = list[int](), list[int](), 0, 0
    for content in found:
        at += frames.PREFIX.size + len(content)
        ends.append(at)
        numbers.append(seq)
        seq += content[0] == frames.RECORD
    return ends, numbers


def check_law_10_cuts(run: Path) -> None:
    """A frame that is missing, repeated or moved is found; so is an end that was cut off."""
    found, good = contents(run), raw(run)
    edits = {
        "missing": found[:20] + found[21:],
        "repeated": found[:20] + found[19:],
        "swapped": [*found[:20], found[21], found[20], *found[22:]],
        "without its end": found[:-2],
        "without its last checkpoint": found[:-1],
    }
    for name, edit in edits.items():
        assert not verify_run(put_contents(run, edit)).sound, f"{name}: not found"
    assert verify_run(put(run, good[:-9])).verdict == "truncated", "cut inside: not found"
    put(run, good)


def check_law_10_edits(run: Path) -> None:
    """Whoever edits a record and makes lengths, checksums, chain and roots fit, but has no key, is found."""
    good = raw(run)
    assert not verify_run(put_contents(run, edited(run, stop_earlier))).sound, "a changed record: not found"
    put(run, good)
    assert not verify_run(resigned(run, stop_earlier, named=False)).sound, "a signature of somebody else: not found"
    put(run, good)


def check_law_10_insider(run: Path) -> None:
    """Who signs an edited journal with a key of his own is found by whoever has the key of the run."""
    key = key_of(run)
    report = verify_run(resigned(run, stop_earlier), key)
    assert (report.verdict, report.at_seq) == ("altered", 0)


def stop_earlier(seq: int, record: dict[str, Any]) -> None:
    """An edit that would move blame: the operator says that he asked for the stop before."""
    if record["kind"] == "human" and record["body"]["action"] == "stop":
        record["t"] = (record["t"] or 0) - 1_000_000


def check_law_10_replay(run: Path) -> None:
    """Replaying the run gives the same decisions, bit for bit."""
    report = replay_run(run)
    assert report.identical, report.divergence
    assert report.decisions == sum(r["kind"] == "decision" for r in records(run))


def test_law_10_written(tmp_path: Path) -> None:
    """A command is released only after its record has been handed to the operating system."""
    check_law_10_written(tmp_path / "run")


def test_law_10_placed(tmp_path: Path) -> None:
    """The same where another process writes: what is released stands in the ring."""
    check_law_10_placed(tmp_path / "run")


def test_law_10_bytes(tmp_path: Path) -> None:
    """Changed bytes are found and named."""
    check_law_10_bytes(closed_run(tmp_path / "run"))


def test_law_10_cuts(tmp_path: Path) -> None:
    """Gaps, repetitions, swaps and cuts are found."""
    check_law_10_cuts(closed_run(tmp_path / "run"))


def test_law_10_edits(tmp_path: Path) -> None:
    """Edits that fit but are not signed are found."""
    check_law_10_edits(closed_run(tmp_path / "run"))


def test_law_10_insider(tmp_path: Path) -> None:
    """Edits that are signed with another key are found."""
    check_law_10_insider(closed_run(tmp_path / "run"))


def test_law_10_replay(tmp_path: Path) -> None:
    """The same inputs give the same decisions."""
    check_law_10_replay(closed_run(tmp_path / "run"))


# -- planted ------------------------------------------------------------------------------------------


def skipped(patch: Patch) -> None:
    """Every seventh decision has no record."""
    real = Shield._recorded

    def record(self: Shield, *args: Any) -> bool:
        return args[-1].tick % 7 == 0 or real(self, *args)

    patch.setattr(Shield, "_recorded", record)


def buffered(patch: Patch) -> None:
    """Records are written one tick late."""
    real = Shield._recorded
    waiting: list[Any] = []

    def record(self: Shield, *args: Any) -> bool:
        waiting.append(args)
        return len(waiting) < 2 or real(self, *waiting.pop(0))

    patch.setattr(Shield, "_recorded", record)


def twice(patch: Patch) -> None:
    """Every decision is recorded twice."""
    real = Shield._recorded

    def record(self: Shield, *args: Any) -> bool:
        return real(self, *args) and real(self, *args)

    patch.setattr(Shield, "_recorded", record)


def another_command(patch: Patch) -> None:
    """Another command is released than the recorded one."""
    real = Shield._recorded

    def record(self: Shield, now: int, observation: Any, arrived: Any, decision: Decision) -> bool:
        written = real(self, now, observation, arrived, decision)
        object.__setattr__(decision, "command", self.platform.terminal_stop("late", now, 0))
        return written

    patch.setattr(Shield, "_recorded", record)


@pytest.mark.parametrize("check", [check_law_10_written, check_law_10_placed], ids=lambda check: check.__name__)
@pytest.mark.parametrize("plant", [skipped, buffered, twice, another_command], ids=lambda plant: plant.__name__)
def test_law_10_planted_written(
    plant: Callable[[Patch], None], check: Callable[[Path], None], tmp_path: Path, monkeypatch: Patch
) -> None:
    """A record that is missing, late, double or not of the released command is seen."""
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check(tmp_path / "run")


class Fits(int):
    """A checksum that is equal to every other."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def no_checksum(patch: Patch) -> None:
    """Checksums are not compared."""
    patch.setattr(frames, "crc32", always(Fits()))


def no_roots(patch: Patch) -> None:
    """What a checkpoint says is not compared with the journal."""
    patch.setattr(Scan, "_agrees", always(None))


def no_signatures(patch: Patch) -> None:
    """What a checkpoint says is believed, whoever signed it."""

    def opened(self: PublicKey, note: bytes) -> Checkpoint:
        return Checkpoint.parse(note.decode().partition("\n\n")[0] + "\n")

    patch.setattr(PublicKey, "opened", opened)


def no_key(patch: Patch) -> None:
    """The key that was given is not compared with the one that the run names."""
    real = Scan.__init__

    def init(self: Scan, run: Path, key: PublicKey | None = None, **named: Any) -> None:
        real(self, run, None, **named)

    patch.setattr(Scan, "__init__", init)


def no_end(patch: Patch) -> None:
    """The end of the run is not looked at."""

    class Content(Scan):
        def __iter__(self) -> Iterator[Entry]:
            yield from super().__iter__()
            self.closed = True

    patch.setattr(verify, "Scan", Content)


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (no_checksum, check_law_10_bytes),
        (no_roots, check_law_10_edits),
        (no_signatures, check_law_10_edits),
        (no_key, check_law_10_insider),
        (no_end, check_law_10_cuts),
    ],
    ids=lambda value: value.__name__,
)
def test_law_10_planted_verifier(
    plant: Callable[[Patch], None], check: Callable[[Path], None], tmp_path: Path, monkeypatch: Patch
) -> None:
    """A verifier that leaves out checksums, roots, signatures, the reviewer's key or the end of a run is seen."""
    run = closed_run(tmp_path / "run")
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check(run)


def test_law_10_planted_noise(tmp_path: Path, monkeypatch: Patch) -> None:
    """A decision that depends on more than its record does not replay."""
    run = closed_run(tmp_path / "run")
    real, calls = ArmPlatform.filter, iter(range(10**6))

    def noisy(self: ArmPlatform, state: Any, *rest: Any) -> Any:
        return real(self, type(state)(state.q + 1e-15 * next(calls), state.v, state.t), *rest)

    monkeypatch.setattr(ArmPlatform, "filter", noisy)
    with pytest.raises(AssertionError):
        check_law_10_replay(run)


@pytest.mark.parametrize("what", ["torque", "mode", "observation"])
def test_law_10_planted_edit(what: str, tmp_path: Path) -> None:
    """An insider who edits a decision or an input and signs anew is caught by the key, and by the replay."""
    run = closed_run(tmp_path / "run")
    at = [r["seq"] for r in records(run) if r["kind"] == "decision"][130]

    def edit(seq: int, record: dict[str, Any]) -> None:
        if seq != at:
            return
        body = record["body"]
        if what == "torque":
            body["decision"]["command"]["tau"][0] += 1e-9
        elif what == "mode":
            body["decision"]["mode"] = 0
        else:
            body["observation"]["state"]["q"][0] += 1e-9

    resigned(run, edit)
    assert verify_run(run).verdict == "self-signed"
    assert verify_run(run, key_of(run)).verdict == "altered"
    report = replay_run(run)
    assert report.divergence is not None
    assert report.divergence.seq == at
    with pytest.raises(AssertionError):
        check_law_10_replay(run)
