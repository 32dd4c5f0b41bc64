from __future__ import annotations

import hashlib
import json
import os
from binascii import crc32
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, cast

import ormsgpack
import pytest

from safeguard.audit import AuditConfig, Journal, JournalDamageError, open_run, read_run, verify_run
from safeguard.audit.event_words import EVENTS
from safeguard.audit.journal import frames
from safeguard.audit.journal.frames import LONGEST
from safeguard.audit.journal.segments import FOLDER, RAW
from safeguard.audit.records.encode import JsonObject
from safeguard.audit.records.registry import (
    KINDS,
    SCHEMAS,
    DecisionRecord,
    Gap,
    RunClose,
    RunOpen,
    json_schemas,
    schemas_digest,
)
from safeguard.core.enums import Enforcement, Mode, RecordKind
from safeguard.core.errors import JournalError
from tests.unit import audit_edit
from tests.unit.audit_runs import append_tick, decision, episode_open, observation, run_open, small_run, started


def test_a_segment_is_frames_that_anybody_can_read(tmp_path: Path) -> None:
    """With CRC-32, SHA-256 and MessagePack anybody can read a journal and check its chain."""
    data, chain, seq, at = audit_edit.raw(small_run(tmp_path / "run")), bytes(32), 0, 0
    while at < len(data):
        length, checksum = (int.from_bytes(data[at + k : at + k + 4], "little") for k in (0, 4))
        content = data[at + 8 : at + 8 + length]
        at += 8 + length
        assert crc32(content) == checksum
        if content[0] == 1:
            header = json.loads(content[1:])
            assert (header["chain"], header["first"]) == (chain.hex(), seq)
            assert header["kinds"] == {str(info.code): kind.value for kind, info in KINDS.items()}
        if content[0] == 2:
            assert int.from_bytes(content[3:11], "little") == seq
            assert isinstance(ormsgpack.unpackb(content[27:]), dict)
            seq += 1
        chain = hashlib.sha256(b"\0" + chain + content).digest()
        if content[0] == 3:
            assert content[1:].decode().splitlines()[1] == str(seq)
    assert seq == len(list(read_run(tmp_path / "run")))


def test_reader_gives_back_what_was_written(tmp_path: Path) -> None:
    """Records come back in order, typed, with tick and time of their heads."""
    records = list(read_run(small_run(tmp_path / "run", ticks=3)))
    decisions = [record for record in records if isinstance(record.body, DecisionRecord)]
    assert [record.seq for record in records] == list(range(len(records)))
    assert isinstance(records[0].body, RunOpen)
    assert isinstance(records[-1].body, RunClose)
    assert [(record.tick, record.t) for record in decisions] == [(0, 0), (1, 2_000_000), (2, 4_000_000)]
    assert {record.kind for record in records} == set(RecordKind) - {
        RecordKind.GAP,
        RecordKind.RECOVERY,
        RecordKind.RETENTION_CUT,
        RecordKind.SOFTWARE_CHANGE,
        RecordKind.CONFIG_INTERVENTION,
        *EVENTS,
    }
    assert [record.hash for record in records][-1] == verify_run(tmp_path / "run").head


def test_data_of_a_record_is_its_body_as_plain_json(tmp_path: Path) -> None:
    """What is not finite is named, so that any JSON library takes the data."""
    with started(tmp_path) as journal:
        append_tick(journal, 0, observation(0), decision(0, effort=float("nan")))
    record = next(record for record in read_run(tmp_path) if record.kind is RecordKind.DECISION)
    body: Any = record.data
    assert body["decision"]["filter"]["effort"] == "NaN"
    json.dumps(body, allow_nan=False)


def test_only_types_of_the_format_are_written(tmp_path: Path) -> None:
    """Bodies hold maps with text keys, lists, text, booleans, nothing, integers and doubles; decisions bytes too."""

    def check(value: Any, leaves: type | UnionType) -> None:
        if isinstance(value, dict):
            for key, inner in cast("dict[object, object]", value).items():
                assert isinstance(key, str)
                check(inner, leaves)
        elif isinstance(value, list):
            for inner in cast("list[object]", value):
                check(inner, leaves)
        else:
            assert value is None or isinstance(value, leaves)

    plain = str | bool | int | float
    for content in audit_edit.contents(small_run(tmp_path)):
        if content[0] == frames.RECORD:
            decides = frames.head(content).kind == KINDS[RecordKind.DECISION].code
            check(ormsgpack.unpackb(content[frames.HEAD.size :]), plain | bytes if decides else plain)


def test_run_open_carries_the_digest_of_the_schemas(tmp_path: Path) -> None:
    """The schemas that a run was written with are identified in its first record."""
    body = next(read_run(small_run(tmp_path / "run"))).body
    assert isinstance(body, RunOpen)
    assert body.digests.schemas == schemas_digest()
    assert set(json_schemas()) == {kind.value for kind in RecordKind} == {kind.value for kind in SCHEMAS}
    assert set(KINDS) == set(RecordKind)
    assert len({info.code for info in KINDS.values()}) == len(KINDS)


def test_append_counts_from_zero(tmp_path: Path) -> None:
    """Sequence numbers are gap-free; run_open is number 0."""
    with started(tmp_path) as journal:
        opened = episode_open(0, Enforcement.FULL, "clean")
        assert journal.append(RecordKind.EPISODE_OPEN, opened) == 1
        assert journal.append(RecordKind.EPISODE_CLOSE, {"episode": 0, "outcome": {}}) == 2
    assert verify_run(tmp_path).records == 4


def test_a_second_journal_is_refused(tmp_path: Path) -> None:
    """A run folder that holds a journal is never written to again."""
    before = audit_edit.raw(small_run(tmp_path))
    with pytest.raises(JournalError, match="already holds a journal; choose another"):
        open_run(tmp_path, run_open())
    assert audit_edit.raw(tmp_path) == before


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    """A run folder that cannot be made is refused with the reason and the place."""
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(JournalError, match=r"cannot start a journal in .*run.journal"):
        open_run(tmp_path / "run", run_open())


@pytest.mark.parametrize("writer", ["inline", "process"])
def test_a_read_only_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str) -> None:
    """A folder without write permission is refused (simulated: tests may run as root)."""

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(JournalError, match="Permission denied"):
        started(tmp_path / "run", writer=writer)


def test_a_disk_full_at_the_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose header cannot be written does not start, and leaves nothing in the way of another try."""
    monkeypatch.setattr("safeguard.audit.journal.segments.os.write", full_disk)
    with pytest.raises(JournalError, match="No space left"):
        started(tmp_path / "run")
    monkeypatch.undo()
    small_run(tmp_path / "run")
    assert verify_run(tmp_path / "run").sound


@pytest.mark.parametrize("change", [{"run_id": 7}, {"colour": "red"}, {"limits": {"joints": 3}}])
def test_a_wrong_run_open_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """The first record is validated when it is written, before anything is made on disk."""
    with pytest.raises(JournalError, match=f"not a run_open body: (.|\n)*{next(iter(change))}"):
        open_run(tmp_path / "run", {**run_open(), **change})  # type: ignore[dict-item]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["nowhere.key", "empty.key"])
def test_a_key_that_cannot_be_read_is_an_error(tmp_path: Path, key: str) -> None:
    """No run starts unsigned where a signature was asked for."""
    (tmp_path / "empty.key").write_text("")
    with pytest.raises(JournalError, match=key):
        started(tmp_path / "run", key=tmp_path / key)
    assert not (tmp_path / "run").exists()


def full_disk(fd: int, data: bytes) -> int:
    """Write nothing: no space."""
    raise OSError(28, "No space left on device")


def short_write(fd: int, data: bytes) -> int:
    """Write the first half only."""
    return REAL_WRITE(fd, data[: len(data) // 2])


REAL_WRITE = os.write
CLOSED: JsonObject = {"episode": 0, "outcome": {}}


@pytest.mark.parametrize(("fault", "says"), [(full_disk, "No space left"), (short_write, "short write")])
def test_a_write_error_never_reaches_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[int, bytes], int], says: str
) -> None:
    """ENOSPC and short writes leave their reason in ``failed`` and nothing in the file; a gap tells of them later."""
    journal = started(tmp_path)
    append_tick(journal, 0, observation(0), decision(0))
    file = tmp_path / FOLDER / f"000000{RAW}"
    size = file.stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr("safeguard.audit.journal.segments.os.write", fault)
        assert journal.append(RecordKind.EPISODE_CLOSE, CLOSED) == -1
        assert says in journal.failed
        assert "record 2 (episode_close)" in journal.failed
        assert journal.append(RecordKind.EPISODE_CLOSE, CLOSED) == -1
    assert file.stat().st_size == size
    append_tick(journal, 1, observation(1), decision(1))
    assert (journal.failed, journal.lost) == ("", 2)
    journal.close()
    report = verify_run(tmp_path)
    assert (report.verdict, report.records, report.lost) == ("gap", 5, 2)
    told = [record for record in read_run(tmp_path) if isinstance(record.body, Gap)]
    assert [record.seq for record in told] == [4]
    assert says in told[0].data["cause"]  # type: ignore[operator]
    assert {key: told[0].data[key] for key in ("first", "last", "count")} == {"first": 2, "last": 3, "count": 2}


def test_failed_stays_until_a_decision_has_seen_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is placed between two ticks does not take back that a record was lost; the next decision does."""
    journal = started(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("safeguard.audit.journal.segments.os.write", full_disk)
        append_tick(journal, 0, observation(0), decision(0))
    assert journal.append(RecordKind.EPISODE_CLOSE, CLOSED) == 3
    assert "No space left" in journal.failed
    append_tick(journal, 1, observation(1), decision(1))
    assert journal.failed == ""
    journal.close()


def test_a_gap_at_the_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that were lost last are told before run_close."""
    journal = started(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("safeguard.audit.journal.segments.os.write", full_disk)
        assert journal.append(RecordKind.EPISODE_CLOSE, CLOSED) == -1
    journal.close()
    assert journal.failed == ""
    assert [record.kind.value for record in read_run(tmp_path)] == ["run_open", "gap", "run_close"]
    assert verify_run(tmp_path).verdict == "gap"


def test_a_disk_full_at_the_end_leaves_an_open_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that cannot write its end says so, does not raise, and is not taken for a closed one."""
    journal = started(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("safeguard.audit.journal.segments.os.write", full_disk)
        journal.close()
    assert "record 1 (run_close) could not be written" in journal.failed
    assert verify_run(tmp_path).verdict == "open"


@pytest.mark.parametrize("durability", ["os", "group", "each"])
def test_a_failed_sync_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str) -> None:
    """A journal that could not be synced on close says so and does not raise."""
    journal = started(tmp_path, durability=durability)

    def refuse(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("safeguard.audit.journal.segments.os.fdatasync", refuse)
    journal.close()
    assert "Input/output error" in journal.failed


def test_each_is_synced_with_every_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With durability ``each`` no record waits for its sync; a sync that fails is told, though the record is placed."""
    real, synced = os.fdatasync, list[int]()

    def sync(fd: int) -> None:
        synced.append(fd)
        real(fd)

    monkeypatch.setattr("safeguard.audit.journal.segments.os.fdatasync", sync)
    with started(tmp_path, durability="each") as journal:
        for tick in range(5):
            before = len(synced)
            append_tick(journal, tick, observation(tick), decision(tick))
            assert len(synced) == before + 1

        def refuse(fd: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("safeguard.audit.journal.segments.os.fdatasync", refuse)
            assert journal.append(RecordKind.EPISODE_CLOSE, CLOSED) == 6
            assert "Input/output error" in journal.failed
    assert verify_run(tmp_path).sound


@pytest.mark.parametrize("value", [2**70, object(), b"bytes", "\ud800", [2**70]])
def test_a_body_without_a_form_never_reaches_the_loop(tmp_path: Path, value: Any) -> None:
    """A value that the format does not have is lost, its reason in ``failed`` and in the gap."""
    journal = started(tmp_path)
    assert journal.append(RecordKind.EPISODE_CLOSE, {"episode": 0, "outcome": {"x": value}}) == -1
    assert "record 1 (episode_close) cannot be encoded" in journal.failed
    journal.close()
    report = verify_run(tmp_path, visit=lambda _record: None)
    assert (report.verdict, report.lost) == ("gap", 1)


@pytest.mark.parametrize("writer", ["inline", "process"])
def test_a_huge_record_is_refused(tmp_path: Path, writer: str) -> None:
    """No frame is longer than a reader accepts."""
    journal = started(tmp_path, writer=writer)
    assert journal.append(RecordKind.EPISODE_CLOSE, {"episode": 0, "outcome": {"x": "y" * LONGEST}}) == -1
    assert "the limit is" in journal.failed
    journal.close()
    assert verify_run(tmp_path).verdict == "gap"


def test_close_is_idempotent_and_final(tmp_path: Path) -> None:
    """A closed journal holds one run_close and takes nothing more."""
    journal = started(tmp_path)
    journal.close()
    journal.close()
    assert journal.append(RecordKind.EPISODE_CLOSE, CLOSED) == -1
    assert journal.failed == "the journal is closed"
    assert verify_run(tmp_path).sound


def test_an_exception_closes_with_its_reason(tmp_path: Path) -> None:
    """A run that ends in an exception is closed and says which."""
    with pytest.raises(ZeroDivisionError), started(tmp_path):
        _ = 1 / 0
    *_, last = read_run(tmp_path)
    assert isinstance(last.body, RunClose)
    assert last.body.reason == "ZeroDivisionError: division by zero"


def test_a_path_means_a_writer_process(tmp_path: Path) -> None:
    """The default is a process and synced groups; simulated time records inline and leaves syncs to the system."""
    config = AuditConfig(run=tmp_path)
    assert (config.writer, config.durability, config.key) == ("process", "group", None)
    assert AuditConfig.of(tmp_path, real_time=True) == config
    simulated = AuditConfig.of(str(tmp_path), real_time=False)
    assert (simulated.run, simulated.writer, simulated.durability) == (tmp_path, "inline", "os")


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


def mirrored(path: Path, mirror: Listener) -> Journal:
    """An open run that tells ``mirror``."""
    return open_run(AuditConfig.of(path, real_time=False), run_open(), mirror=mirror)


def _run_with(journal: Journal) -> None:
    for tick, mode in enumerate([Mode.BOOT, Mode.NOMINAL, Mode.NOMINAL, Mode.HOLD]):
        append_tick(journal, tick, observation(tick), decision(tick, mode=mode))
    journal.close()


def test_the_mirror_hears_mode_changes(tmp_path: Path) -> None:
    """A logger is told of each change of mode once, with both names."""
    listener = Listener()
    _run_with(mirrored(tmp_path, listener))
    modes = [(fields["was"], fields["to"]) for event, fields in listener.heard if event == "mode"]
    assert modes == [(None, "BOOT"), ("BOOT", "NOMINAL"), ("NOMINAL", "HOLD")]
    assert [event for event, _ in listener.heard if event != "mode"] == ["run_open", "run_close"]


def test_a_broken_mirror_costs_no_evidence(tmp_path: Path) -> None:
    """A logger that raises is dropped; every record is still written."""
    _run_with(mirrored(tmp_path, Listener(breaks=True)))
    assert verify_run(tmp_path).sound


def test_the_mirror_hears_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A logger is told that records are lost, once, and of the gap that says so."""
    listener = Listener()
    journal = mirrored(tmp_path, listener)
    with monkeypatch.context() as patch:
        patch.setattr("safeguard.audit.journal.segments.os.write", full_disk)
        for tick in range(3):
            append_tick(journal, tick, observation(tick), decision(tick))
    journal.close()
    assert [event for event, _ in listener.heard] == ["run_open", "journal_failed", "gap", "run_close"]


Change = Callable[[dict[str, Any]], object]

REFUSED: dict[str, tuple[Change, str]] = {
    "newer schema": (lambda r: r.update(v=9), "schema version 9"),
    "version zero": (lambda r: r.update(v=0), "schema version 0"),
    "extra field": (lambda r: r["body"].update(x=1), "x: Extra inputs"),
    "wrong type": (lambda r: r["body"].update(simulated="perhaps"), "simulated"),
    "missing field": (lambda r: r["body"].pop("reason"), "reason: Field required"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_signed_but_wrong_record_is_named(tmp_path: Path, case: str) -> None:
    """Even where somebody signed it, a record that no writer of ours would write is found by whoever reads it."""
    edit, says = REFUSED[case]

    def change(seq: int, record: dict[str, Any]) -> None:
        if seq == 2:
            edit(record)

    audit_edit.resigned(small_run(tmp_path), change)
    report = verify_run(tmp_path, visit=lambda _record: None)
    assert (report.verdict, report.at_seq, report.at_kind) == ("altered", 2, "human")
    assert says in report.problem
    with pytest.raises(JournalDamageError, match="record 2"):
        list(read_run(tmp_path))


BODIES = {
    "no MessagePack": b"\xc1",
    "no map": ormsgpack.packb([1]),
    "two values": ormsgpack.packb({}) * 2,
    "nothing": b"",
    "bytes": ormsgpack.packb({"operator": b"x"}),
    "an extension": b"\x81\xa1x\xd4\x01\x00",
    "a number as key": b"\x81\x01\x02",
    "no text": b"\x81\xa1x\xa1\xff",
    "too deep": b"\x81\xa1x" + b"\x91" * 5000 + b"\xc0",
    "too deep for Python": b"\x81\xa1x" + b"\x91" * 900 + b"\xc0",
    "too deep for JSON": b"\x81\xa1x" + b"\x91" * 300 + b"\xc0",
}


@pytest.mark.parametrize("case", BODIES)
def test_a_body_that_is_none_is_named(tmp_path: Path, case: str) -> None:
    """Whatever bytes a record holds, the reader names it; no other exception gets through."""
    contents = audit_edit.contents(small_run(tmp_path))
    contents[3] = contents[3][: frames.HEAD.size] + BODIES[case]
    audit_edit.put_contents(tmp_path, contents[:5])
    with pytest.raises(JournalDamageError, match="record 2"):
        list(read_run(tmp_path))
    assert verify_run(tmp_path, visit=lambda _record: None).verdict == "altered"


def test_an_endless_frame_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    """A reader holds at most one bounded frame."""
    data = audit_edit.raw(small_run(tmp_path))
    audit_edit.put(tmp_path, data + frames.PREFIX.pack(LONGEST + 1, 0) + b"x" * (3 * LONGEST))
    with pytest.raises(JournalDamageError, match="a frame claims"):
        list(read_run(tmp_path))


def test_reading_nothing_is_an_error(tmp_path: Path) -> None:
    """A folder without a journal is refused by name."""
    with pytest.raises(JournalError, match="holds no journal"):
        list(read_run(tmp_path))
