from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.audit.journal import frames, packing
from safeguard.audit.journal.packing import PackError, packed, turned, unpacked

CONTENTS = st.lists(st.binary(min_size=1, max_size=40) | st.just(b"a record like others"), max_size=60)


def packed_bytes(contents: Sequence[bytes]) -> bytes:
    """A packed segment in one piece."""
    return b"".join(packed(contents))


def read(data: bytes) -> bytes:
    """What a packed segment holds."""
    return b"".join(unpacked(io.BytesIO(data)))


@given(CONTENTS)
def test_a_packed_segment_holds_exactly_its_frames(contents: list[bytes]) -> None:
    """Whatever the frames, in whatever order, the same bytes come back."""
    assert read(packed_bytes(contents)) == b"".join(map(frames.frame, contents))


@given(st.binary(min_size=1, max_size=200), st.integers(1, 20))
def test_turning_twice_is_nothing(data: bytes, rows: int) -> None:
    """A matrix turned and turned back is as it was, and turned it is read column by column."""
    data = data[: len(data) // rows * rows]
    if data:
        columns = len(data) // rows
        there = turned(data, rows, columns)
        assert there == bytes(data[r * columns + c] for c in range(columns) for r in range(rows))
        assert turned(there, columns, rows) == data


def test_many_frames_make_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks end at their number of frames, and at their number of bytes."""
    contents = [bytes([k]) * 10 for k in range(30)]
    monkeypatch.setattr(packing, "_FRAMES", 7)
    parts = list(packed(contents))
    assert [struct.unpack_from("<I", part)[0] for part in parts[1:]] == [7, 7, 7, 7, 2]
    monkeypatch.setattr(packing, "_BYTES", 40)
    assert [struct.unpack_from("<I", part)[0] for part in list(packed(contents))[1:]] == [3] * 10


def test_alike_records_pack_well() -> None:
    """A thousand records that differ in a counter and eight random bytes take little more than these."""
    noise = b"".join(zlib.crc32(struct.pack("<I", k)).to_bytes(4, "little") for k in range(2000))
    rows = [struct.pack("<I", k) + noise[8 * k : 8 * k + 8] for k in range(1000)]
    contents = [b"{'a long key': " + row + b" and more}" for row in rows]
    assert len(packed_bytes(contents)) / 1000 < 8 + 4 + 6  # the noise, the checksum, the counter and some


def test_every_bit_counts() -> None:
    """Whatever bit of a packed segment is changed, it is not read, also where deflate would not care."""
    data = packed_bytes([b"one", b"two", b"three", b"one again"])
    for at in range(8 * len(data)):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(PackError):
            read(bytes(changed))


def test_a_cut_is_torn_but_between_blocks() -> None:
    """Bytes that end inside a block are told apart from wrong ones."""
    data = packed_bytes([b"one", b"two"])
    for end in range(9, len(data)):
        with pytest.raises(PackError) as caught:
            read(data[:end])
        assert caught.value.torn
    assert read(data[:8]) == b""
    with pytest.raises(PackError) as caught:
        read(data[:7])
    assert not caught.value.torn


def block(count: int, lengths: bytes, data: bytes) -> bytes:
    """A block that says what it is told to."""
    rest = zlib.compress(lengths) + zlib.compress(data)
    head = struct.pack("<IIII", count, len(zlib.compress(lengths)), len(zlib.compress(data)), zlib.crc32(rest))
    return packing.MAGIC + head + rest


@pytest.mark.parametrize(
    "wrong",
    [
        block(0, b"", b""),
        block(5000, bytes(20000), b""),
        block(1, struct.pack("<I", 0), b""),
        block(1, struct.pack("<I", 9), b"12345678"),
        block(1, struct.pack("<I", 7), b"12345678"),
        block(2, struct.pack("<I", 4), b"12345678"),
        block(1, struct.pack("<I", 2**32 - 1), b""),
        packing.MAGIC + struct.pack("<IIII", 1, 2**31, 8, 0),
        block(1, struct.pack("<I", 8), b"12345678") + b"\0",
    ],
)
def test_impossible_blocks_are_refused(wrong: bytes) -> None:
    """Counts, lengths and sizes that do not fit are an error before anything large is made."""
    with pytest.raises(PackError):
        read(wrong)
