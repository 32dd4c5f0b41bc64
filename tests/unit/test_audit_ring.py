from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.audit.journal.frames import LONGEST, PREFIX
from safeguard.audit.journal.ring import HEADER, MAGIC, Ring
from safeguard.core.errors import JournalError

CAPACITY = 256


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a ring goes."""
    return tmp_path / "ring"


@pytest.fixture
def ring(file: Path) -> Iterator[Ring]:
    """A producer's end of a small ring."""
    ring = Ring.create(file, CAPACITY)
    yield ring
    ring.release()


@pytest.fixture
def consumer(ring: Ring, file: Path) -> Iterator[Ring]:
    """The other end, mapped on its own."""
    other = Ring(file)
    yield other
    other.release()


def size(content: bytes) -> int:
    """What an entry takes: prefix, content, zeros to a multiple of 8."""
    return -(-(PREFIX.size + len(content)) // 8) * 8


STEPS = st.lists(st.binary(min_size=1, max_size=120) | st.integers(1, 5), max_size=60)


@given(steps=STEPS)
def test_what_was_placed_comes_out_in_order(steps: list[bytes | int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any sequence of puts and drains gives back every content that was taken, once and in order."""
    file = tmp_path_factory.mktemp("rings") / "ring"
    producer = Ring.create(file, CAPACITY)
    consumer = Ring(file)
    placed, drained = list[bytes](), list[bytes]()
    for step in steps:
        if isinstance(step, bytes):
            room = CAPACITY - sum(map(size, placed[len(drained) :]))
            taken = producer.put(step)
            assert not taken or size(step) <= room
            assert taken or size(step) > room - 120, "refused although there is room, jump and all"
            placed += [step] * taken
        else:
            drained += islice(consumer.entries(), step)
            consumer.done()
        assert drained == placed[: len(drained)]
    drained += consumer.entries()
    consumer.done()
    assert drained == placed
    assert consumer.empty
    producer.release()
    consumer.release()


def test_a_full_ring_refuses_and_loses_nothing(ring: Ring, consumer: Ring) -> None:
    """What does not fit is refused until the consumer has made room; what was placed stays as it was."""
    contents = [bytes((k,)) * 24 for k in range(CAPACITY // 32)]
    assert all(map(ring.put, contents))
    assert not ring.put(b"x")
    assert list(consumer.entries()) == contents
    assert not ring.put(b"x"), "looked at is not done"
    consumer.done()
    assert ring.put(b"x")
    assert list(consumer.entries()) == [b"x"]


def test_an_entry_never_wraps(ring: Ring, consumer: Ring, file: Path) -> None:
    """Where an entry does not fit before the end, a mark says to go on at the beginning."""
    first, second, third = bytes(80), b"\1" * 80, b"\2" * 80
    assert ring.put(first)
    assert ring.put(second)
    assert list(consumer.entries()) == [first, second]
    consumer.done()
    assert ring.put(third)
    at = HEADER + size(first) + size(second)
    assert file.read_bytes()[at : at + 4] == b"\xff\xff\xff\xff"
    assert file.read_bytes()[HEADER : HEADER + PREFIX.size] == PREFIX.pack(80, crc32(third))
    assert list(consumer.entries()) == [third]


def test_an_entry_that_ends_at_the_end_needs_no_jump(ring: Ring, consumer: Ring) -> None:
    """The last bytes before the end are used."""
    contents = [bytes(120), b"\1" * 120]
    assert all(map(ring.put, contents))
    assert list(consumer.entries()) == contents
    consumer.done()
    assert ring.put(b"next")
    assert list(consumer.entries()) == [b"next"]


@pytest.mark.parametrize("length", [CAPACITY - PREFIX.size, CAPACITY - PREFIX.size - 7])
def test_the_largest_entry_fills_the_ring(ring: Ring, consumer: Ring, length: int) -> None:
    """An empty new ring takes an entry of its capacity."""
    assert ring.put(bytes(length))
    assert not ring.put(b"x")
    assert list(consumer.entries()) == [bytes(length)]


def test_what_is_larger_than_the_ring_is_refused(ring: Ring, consumer: Ring) -> None:
    """It is refused, and the ring works on."""
    assert not ring.put(bytes(CAPACITY))
    assert ring.put(b"small")
    assert list(consumer.entries()) == [b"small"]


def test_the_layout_is_the_one_that_is_documented(ring: Ring, consumer: Ring, file: Path) -> None:
    """Magic, capacity, head, tail, closing, beat and failure stand where docs/reference/journal-format.md says."""
    ring.put(b"abc")
    ring.put(b"defgh")
    next(consumer.entries())
    consumer.done()
    ring.close()
    consumer.beat()
    consumer.beat()
    consumer.fail("disk full")
    data = file.read_bytes()
    assert len(data) == HEADER + CAPACITY
    assert (data[:8], struct.unpack_from("<Q", data, 8)) == (MAGIC, (CAPACITY,))
    assert [struct.unpack_from("<Q", data, at)[0] for at in (64, 128, 192, 256, 320)] == [32, 16, 1, 2, 1]
    assert data[328 : 328 + 4 + 9] == struct.pack("<I", 9) + b"disk full"
    assert data[HEADER : HEADER + 16] == PREFIX.pack(3, crc32(b"abc")) + b"abc" + bytes(5)


def test_signals_reach_the_other_end(ring: Ring, consumer: Ring) -> None:
    """Closing, beats and problems are seen through a second mapping."""
    assert (consumer.closing, ring.beats, ring.problem) == (False, 0, "")
    ring.close()
    consumer.beat()
    consumer.fail("no space: ä")
    assert (consumer.closing, ring.beats, ring.problem) == (True, 1, "no space: ä")
    consumer.fail("")
    assert ring.problem == ""


def test_a_long_problem_is_cut(ring: Ring, consumer: Ring) -> None:
    """A problem has 512 bytes of room, also where that cuts a letter."""
    consumer.fail("x" + "ä" * 600)
    assert ring.problem.startswith("xää")
    assert len(ring.problem) == 257
    consumer.fail("short")
    assert ring.problem == "short"


@pytest.mark.parametrize("damage", ["content", "checksum", "length 0", "length beyond the end", "length too long"])
def test_a_torn_entry_stops_the_consumer(ring: Ring, consumer: Ring, file: Path, damage: str) -> None:
    """What is not whole is not given out, nor anything behind it; what stands before is."""
    for content in (b"first", b"second!", b"third"):
        ring.put(content)
    at = HEADER + size(b"first")
    what = {
        "content": (at + PREFIX.size + 2, b"?"),
        "checksum": (at + 4, b"????"),
        "length 0": (at, bytes(4)),
        "length beyond the end": (at, (CAPACITY - 16).to_bytes(4, "little")),
        "length too long": (at, (LONGEST + 1).to_bytes(4, "little")),
    }[damage]
    with file.open("r+b") as raw:
        raw.seek(what[0])
        raw.write(what[1])
    assert list(consumer.entries()) == [b"first"]
    consumer.done()
    assert not consumer.empty
    assert list(consumer.entries()) == []


@given(data=st.binary(max_size=64), head=st.integers(0, 2**64 - 1), tail=st.integers(0, 2**64 - 1))
def test_whatever_a_file_holds_it_is_read_to_an_end(
    data: bytes, head: int, tail: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A ring that somebody edited is refused or gives out some frames; it never hangs, nor raises anything else."""
    file = tmp_path_factory.mktemp("rings") / "ring"
    header = bytearray(HEADER)
    header[:16] = MAGIC + struct.pack("<Q", 64)
    struct.pack_into("<Q", header, 64, head)
    struct.pack_into("<Q", header, 128, tail)
    for aligned in (False, True):
        if aligned:
            struct.pack_into("<Q", header, 64, head & ~7)
            struct.pack_into("<Q", header, 128, tail & ~7)
        file.write_bytes(bytes(header) + data.ljust(64, b"\xff"))
        try:
            ring = Ring(file, writable=False)
        except JournalError:
            continue
        assert len(list(ring.entries())) <= 4
        ring.release()


@pytest.mark.parametrize("place", [0, 8, 56])
def test_a_jump_to_nowhere_ends(file: Path, place: int) -> None:
    """A mark that leads round and round is followed once."""
    header = bytearray(HEADER)
    header[:16] = MAGIC + struct.pack("<Q", 64)
    struct.pack_into("<QQ", header, 64, place + 64, 0)
    struct.pack_into("<Q", header, 128, place)
    file.write_bytes(bytes(header) + b"\xff" * 64)
    ring = Ring(file, writable=False)
    assert list(ring.entries()) == []
    ring.release()


def test_a_look_changes_nothing(ring: Ring, file: Path) -> None:
    """A ring that is only looked at can be read, not written."""
    ring.put(b"one")
    before = file.read_bytes()
    looking = Ring(file, writable=False)
    assert list(looking.entries()) == [b"one"]
    with pytest.raises(TypeError):
        looking.done()
    looking.release()
    assert file.read_bytes() == before


def test_a_new_end_goes_on_where_the_counters_stand(ring: Ring, consumer: Ring, file: Path) -> None:
    """Both counters lie in the file: whoever maps it after a death begins at what is not done."""
    for content in (b"a", b"b", b"c"):
        ring.put(content)
    next(consumer.entries())
    consumer.done()
    again = Ring(file)
    assert list(again.entries()) == [b"b", b"c"]
    assert again.put(b"d")
    assert list(again.entries()) == [b"b", b"c", b"d"]
    again.release()


def test_a_ring_is_made_once(ring: Ring, file: Path) -> None:
    """A ring that is there is never written over."""
    with pytest.raises(FileExistsError):
        Ring.create(file, CAPACITY)


NO_RINGS = [b"", b"x", bytes(HEADER), bytes(HEADER + 64), MAGIC + bytes(HEADER), MAGIC + b"\x3f" + bytes(4150)]


@pytest.mark.parametrize("data", NO_RINGS)
def test_what_is_no_ring_is_refused(file: Path, data: bytes) -> None:
    """Wrong magic, capacity or size is an error that names the file."""
    file.write_bytes(data)
    with pytest.raises(JournalError, match="ring"):
        Ring(file)


def test_a_missing_ring_is_refused(file: Path) -> None:
    """So is a file that is not there."""
    with pytest.raises(JournalError, match="cannot map the ring"):
        Ring(file)


def test_room_is_taken_from_the_disk_at_once(file: Path) -> None:
    """A ring has no holes: a disk that fills up later cannot kill the loop with SIGBUS."""
    Ring.create(file, 1 << 20).release()
    assert file.stat().st_blocks * 512 >= HEADER + (1 << 20)
    assert file.stat().st_size % mmap.PAGESIZE == 0
