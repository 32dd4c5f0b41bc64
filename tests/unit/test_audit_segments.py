from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ormsgpack
import pytest

from safeguard.audit import verify_run
from safeguard.audit.journal import frames
from safeguard.audit.journal.keys import Checkpoint, Signer
from safeguard.audit.journal.merkle import Tree
from safeguard.audit.journal.segments import FOLDER, PACKED, PART, RAW, SegmentWriter, Style, blocks, pack
from tests.unit.audit_edit import contents, raw, segments

Patch = pytest.MonkeyPatch
SIGNER = Signer("arm", bytes(range(32)), "test")
KINDS = {1: "run_open", 6: "fault_cleared", 8: "run_close"}
REAL_WRITE = os.write


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def time_ns(self) -> int:
        """The same for every checkpoint."""
        return 7


def kept(_file: Path) -> None:
    """Compress nothing: files stay where they can be looked at."""


def record(code: int, seq: int, body: dict[str, Any]) -> bytes:
    """The content of a record."""
    return frames.record(code, 1, seq, None, seq, ormsgpack.packb(body))


def small(count: int = 12) -> list[bytes]:
    """The records of a small run."""
    opened = {"run_id": "r", "key": str(SIGNER.public), "key_purpose": "test", "previous": None}
    middle = [record(6, seq, {"id": f"fault {seq}"}) for seq in range(1, count - 1)]
    counts = {"run_open": 1, "fault_cleared": count - 2}
    return [record(1, 0, opened), *middle, record(8, count - 1, {"counts": counts, "reason": "done"})]


def make(run: Path, clock: Clock | None = None, **changes: Any) -> SegmentWriter:
    """A writer into ``run``; by default three records fill a segment."""
    (run / FOLDER).mkdir(parents=True)
    style: dict[str, Any] = {
        "run_id": "r",
        "schemas": "0" * 64,
        "kinds": KINDS,
        "segment_bytes": 500,
        "checkpoint_s": 0.5,
        "group_s": 0.1,
        "durability": "group",
        "anchors": (),
        **changes,
    }
    anchors = style.pop("anchors")
    return SegmentWriter(run / FOLDER, Style(**style), SIGNER, anchors=anchors, clock=clock or Clock())


def written(run: Path, **changes: Any) -> Path:
    """A closed run."""
    writer = make(run, **changes)
    for content in small():
        writer.write([content])
        writer.tend()
    writer.close()
    return run


def test_a_run_is_segments_that_follow_each_other(tmp_path: Path) -> None:
    """Each says its number, its first record and the chain before it, and all but the first take up where one ended."""
    run = written(tmp_path)
    tree, chain, files = Tree(), frames.GENESIS, segments(run)
    assert [file.name for file in files] == [f"{k:06d}{PACKED}" for k in range(len(files))]
    assert len(files) > 2
    for number, file in enumerate(files):
        header, *rest = frames.frames(blocks(file))
        said = json.loads(header[1:])
        assert (said["segment"], said["first"], said["chain"]) == (number, tree.size, chain.hex())
        assert (said["run"], said["format"], said["kinds"]["8"]) == ("r", "safeguard-journal/1", "run_close")
        chain = frames.link(chain, header)
        for content in rest:
            if content[0] == frames.CHECKPOINT:
                note = SIGNER.public.opened(content[1:])
                assert note == Checkpoint("safeguard/r", tree.size, tree.root(), chain, 7)
            chain = frames.link(chain, content)
            if content[0] == frames.RECORD:
                tree.append(chain)
    assert [c for c in contents(run) if c[0] == frames.RECORD] == small()
    assert verify_run(run, SIGNER.public).ok


def test_every_segment_ends_with_a_checkpoint_of_all_before_it(tmp_path: Path) -> None:
    """A full segment is signed before it is closed: what is compressed is covered."""
    count = 0
    for file in segments(written(tmp_path)):
        found = list(frames.frames(blocks(file)))
        count += sum(content[0] == frames.RECORD for content in found)
        assert found[-1][0] == frames.CHECKPOINT
        assert SIGNER.public.opened(found[-1][1:]).size == count


def test_compressed_is_the_same_as_raw(tmp_path: Path, monkeypatch: Patch) -> None:
    """A segment unpacks to the bytes that were written."""
    with monkeypatch.context() as patch:
        patch.setattr("safeguard.audit.journal.segments.pack", kept)
        plain = written(tmp_path / "plain")
    packed = written(tmp_path / "packed")
    for one, other in zip(segments(plain), segments(packed), strict=True):
        assert (one.stem, one.suffix, other.stem, other.suffix) == (other.stem, RAW, one.stem, PACKED)
        assert one.read_bytes() == b"".join(blocks(other)) == b"".join(blocks(one))
    assert verify_run(plain, SIGNER.public).ok


def test_checkpoints_come_in_time(tmp_path: Path) -> None:
    """Where records are not signed, one is written after checkpoint_s; where nothing came, none."""
    clock = Clock()
    writer = make(tmp_path, clock, segment_bytes=10**9, checkpoint_s=0.5)
    for tick, content in enumerate(small(40)):
        clock.now = 0.1 * tick
        writer.write([content])
        writer.tend()
        assert tick + 1 - writer.state.signed <= 5
    signed = writer.state.signed
    clock.now += 0.5
    writer.tend()
    assert writer.state.signed == 40 > signed
    before = writer.state.chain
    clock.now += 100.0
    writer.tend()
    assert writer.state.chain == before
    writer.close()
    assert verify_run(tmp_path, SIGNER.public).ok


@pytest.mark.parametrize(("durability", "least", "most"), [("os", 1, 1), ("group", 4, 6), ("each", 21, 21)])
def test_syncs_are_as_told(tmp_path: Path, monkeypatch: Patch, durability: str, least: int, most: int) -> None:
    """``os`` syncs at the end, ``group`` every group_s while something is written, ``each`` after every write."""
    clock, real, synced = Clock(), os.fdatasync, list[int]()

    def sync(fd: int) -> None:
        synced.append(fd)
        real(fd)

    monkeypatch.setattr("safeguard.audit.journal.segments.os.fdatasync", sync)
    writer = make(tmp_path, clock, segment_bytes=10**9, durability=durability, checkpoint_s=1.0)
    for tick, content in enumerate(small(20)):
        clock.now = 0.02 * tick
        writer.write([content])
        writer.tend()
    for _ in range(10):  # nothing to sync
        clock.now += 0.02
        writer.tend()
    writer.close()
    assert least <= len(synced) <= most


# -- disks that refuse ------------------------------------------------------------------------------------


def refused(number: int) -> Callable[[int, bytes], int]:
    """A write that fails with an error number."""

    def fault(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return fault


def part_of(share: float) -> Callable[[int, bytes], int]:
    """A write that takes a share of the bytes only."""

    def fault(fd: int, data: bytes) -> int:
        return REAL_WRITE(fd, data[: int(share * len(data))])

    return fault


FAULTS: dict[str, Callable[[int, bytes], int]] = {
    "ENOSPC": refused(28),
    "EIO": refused(5),
    "nothing written": part_of(0.0),
    "half written": part_of(0.5),
    "nearly all written": part_of(0.99),
}


@contextmanager
def failing(patch: Patch, at: int, fault: Callable[[int, bytes], int]) -> Generator[list[int]]:
    """Let the write number ``at`` fail; gives the count of writes."""
    count = [0]

    def write(fd: int, data: bytes) -> int:
        count[0] += 1
        return fault(fd, data) if count[0] - 1 == at else REAL_WRITE(fd, data)

    with patch.context() as inner:
        inner.setattr("safeguard.audit.journal.segments.os.write", write)
        inner.setattr("safeguard.audit.journal.segments.pack", kept)
        yield count


def persistent(run: Path, told: list[OSError]) -> Path:
    """A closed run by somebody who tries everything again; after every refusal the files hold whole frames only."""

    def again(what: Callable[[], Any]) -> Any:
        for _ in range(3):
            try:
                return what()
            except OSError as error:
                told.append(error)
                for file in segments(run):
                    list(frames.frames(blocks(file)))
        raise AssertionError("refused for ever")

    def made() -> SegmentWriter:
        if (run / FOLDER).is_dir():
            (run / FOLDER).rmdir()  # nothing is left of a start that was refused
        return make(run)

    writer: SegmentWriter = again(made)
    for content in small():
        again(lambda content=content: writer.write([content]))  # type: ignore[misc]
        again(writer.tend)
    again(writer.close)
    return run


@pytest.mark.parametrize("fault", FAULTS)
def test_every_write_may_be_refused(tmp_path: Path, monkeypatch: Patch, fault: str) -> None:
    """Whichever write fails, nothing half-written stays, and trying again gives the very same journal."""
    with failing(monkeypatch, -1, FAULTS[fault]) as count:
        good = raw(persistent(tmp_path / "good", []))
    assert count[0] > 15
    for at in range(count[0]):
        told = list[OSError]()
        with failing(monkeypatch, at, FAULTS[fault]):
            run = persistent(tmp_path / f"{at}", told)
        assert len(told) == 1
        assert raw(run) == good, f"write {at}"


def test_half_a_frame_that_cannot_be_cut_off_is_cut_off_later(tmp_path: Path, monkeypatch: Patch) -> None:
    """Where the disk refuses the cut as well, nothing is written behind the half frame until it is gone."""
    writer = make(tmp_path)
    records = small()
    writer.write(records[:1])
    real = os.ftruncate
    with failing(monkeypatch, 0, FAULTS["half written"]), monkeypatch.context() as patch:
        patch.setattr("safeguard.audit.journal.segments.os.ftruncate", refused(5))
        for _ in range(2):
            with pytest.raises(OSError, match=r"short write|Input/output error"):
                writer.write(records[1:2])
    assert os.ftruncate is real
    for content in records[1:]:
        writer.write([content])
    writer.close()
    assert verify_run(tmp_path, SIGNER.public).ok


def test_an_end_that_was_refused_leaves_no_half_frame(tmp_path: Path, monkeypatch: Patch) -> None:
    """A half frame at the end is cut off before the file is closed."""
    writer = make(tmp_path)
    writer.write(small()[:1])
    writer.checkpoint()
    with failing(monkeypatch, 0, FAULTS["half written"]), monkeypatch.context() as patch:
        patch.setattr("safeguard.audit.journal.segments.os.ftruncate", refused(5))
        with pytest.raises(OSError, match="short write"):
            writer.write(small()[1:2])
    writer.close()
    assert verify_run(tmp_path, SIGNER.public).verdict == "open"


@pytest.mark.parametrize("at", range(3))
def test_a_refused_sync_is_told(tmp_path: Path, monkeypatch: Patch, at: int) -> None:
    """A sync that fails is an error of ``tend``; records stay, and trying again closes the run."""
    real, count = os.fdatasync, [0]

    def sync(fd: int) -> None:
        count[0] += 1
        if count[0] - 1 == at:
            raise OSError(5, "Input/output error")
        real(fd)

    monkeypatch.setattr("safeguard.audit.journal.segments.os.fdatasync", sync)
    monkeypatch.setattr("safeguard.audit.journal.segments.pack", kept)
    told = list[OSError]()
    run = persistent(tmp_path / "run", told)
    assert [error.errno for error in told] == [5]
    assert verify_run(run, SIGNER.public).ok


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    """A segment that exists is never written to."""
    writer = make(tmp_path, segment_bytes=1)
    (tmp_path / FOLDER / f"000001{RAW}").write_bytes(b"")
    writer.write(small()[:1])
    writer.tend()
    with pytest.raises(FileExistsError):
        writer.write(small()[1:2])
    assert (tmp_path / FOLDER / f"000001{RAW}").read_bytes() == b""
    (tmp_path / FOLDER / f"000001{RAW}").unlink()
    for content in small()[1:]:
        writer.write([content])
    writer.close()
    assert verify_run(tmp_path, SIGNER.public).ok


# -- compression ------------------------------------------------------------------------------------------


def test_a_death_between_rename_and_removal_leaves_both(tmp_path: Path, monkeypatch: Patch) -> None:
    """The raw segment beside its compression is the same evidence."""

    def refuse(_self: Path, missing_ok: bool = False) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        run = written(tmp_path)
    names = {file.name for file in (run / FOLDER).iterdir()}
    assert {f"000000{RAW}", f"000000{PACKED}"} <= names
    assert verify_run(run, SIGNER.public).ok


@pytest.mark.parametrize("what", ["os.fsync", "packing.packed", "Path.rename"])
def test_a_compression_that_fails_leaves_the_raw_segment(tmp_path: Path, monkeypatch: Patch, what: str) -> None:
    """Without room for the compressed segment the raw one stays, and nothing else."""

    def refuse(*given: Any, **_: object) -> None:
        if what == "os.fsync" and Path(f"/proc/self/fd/{given[0]}").resolve().suffix != ".part":
            return  # of the folder
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"safeguard.audit.journal.segments.{what}", refuse)
        run = written(tmp_path)
    assert {file.suffix for file in (run / FOLDER).iterdir()} == {RAW}
    assert verify_run(run, SIGNER.public).ok
    for file in segments(run):
        pack(file)
    assert all(file.name.endswith(PACKED) for file in segments(run))
    assert verify_run(run, SIGNER.public).ok


def test_an_unfinished_compression_is_done_again(tmp_path: Path) -> None:
    """What a death left of a compression is overwritten by the next."""
    file = tmp_path / f"000000{RAW}"
    data = b"".join(map(frames.frame, small()))
    file.write_bytes(data)
    file.with_suffix(PART).write_bytes(b"something longer than what comes" * 1000)
    pack(file)
    assert [found.name for found in tmp_path.iterdir()] == [f"000000{PACKED}"]
    assert b"".join(blocks(file.with_suffix(PACKED))) == data


# -- anchors ----------------------------------------------------------------------------------------------


def test_anchors_get_every_checkpoint_first(tmp_path: Path) -> None:
    """No checkpoint stands in the journal that an anchor has not seen, and a copy opens with the key."""
    got = list[bytes]()
    run = written(tmp_path, anchors=[got.append])
    assert got == [content[1:] for content in contents(run) if content[0] == frames.CHECKPOINT]
    assert SIGNER.public.opened(got[-1]).size == len(small())


def test_an_anchor_that_refuses_is_a_refused_write(tmp_path: Path) -> None:
    """It is told, records and checkpoints are written all the same; once it takes notes again it gets the last one."""
    down, got = [True], list[bytes]()

    def anchor(note: bytes) -> None:
        if down[0]:
            raise OSError(111, "Connection refused")
        got.append(note)

    writer = make(tmp_path, anchors=[anchor])
    records = small()
    for content in records:
        writer.write([content])
        if writer.state.tree.size > 3:
            with pytest.raises(OSError, match="Connection refused"):
                writer.tend()
    assert any(content[0] == frames.CHECKPOINT for content in contents(tmp_path))
    down[0] = False
    writer.close()
    assert verify_run(tmp_path, SIGNER.public).ok
    assert SIGNER.public.opened(got[-1]).size == len(records)


@pytest.mark.parametrize("size", [0, 1])
def test_segments_may_be_tiny(tmp_path: Path, size: int) -> None:
    """Whatever the size, a segment holds a record at least; a journal in which nothing happens begins none."""
    writer = make(tmp_path, segment_bytes=size)
    for content in small():
        writer.write([content])
        for _ in range(3):
            writer.tend()
    writer.close()
    assert len(segments(tmp_path)) == len(small())
    assert verify_run(tmp_path, SIGNER.public).ok
