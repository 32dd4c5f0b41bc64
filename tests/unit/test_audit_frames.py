from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.audit.journal import frames
from safeguard.audit.journal.frames import LONGEST, PREFIX, FrameError, Head

CONTENTS = st.lists(st.binary(min_size=1, max_size=40), max_size=12)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """``data`` in blocks that end at ``places``."""
    ends = sorted({0, len(data), *(at % (len(data) + 1) for at in places)})
    return [data[a:b] for a, b in pairwise(ends)]


def read(blocks: Iterator[bytes]) -> tuple[list[bytes], FrameError | None]:
    """The contents that come out, and what ended them."""
    found = list[bytes]()
    try:
        for content in frames.frames(blocks):
            found.append(content)  # those before the error count
    except FrameError as error:
        return found, error
    return found, None


@given(contents=CONTENTS, places=st.lists(st.integers(0, 10**4)))
def test_frames_come_back_from_any_blocks(contents: list[bytes], places: list[int]) -> None:
    """However a stream is cut into blocks, empty ones included, the same contents come out."""
    data = b"".join(map(frames.frame, contents))
    assert list(frames.frames(iter([b"", *cut(data, places), b""]))) == contents


@given(contents=CONTENTS.filter(bool), places=st.lists(st.integers(0, 10**4)), size=st.integers(0))
def test_a_stream_that_ends_inside_a_frame_is_torn(contents: list[bytes], places: list[int], size: int) -> None:
    """Whole frames come out first; then the end is an error that says so, or none where it falls between two."""
    data = b"".join(map(frames.frame, contents))
    size %= len(data)
    found, error = read(iter(cut(data[:size], places)))
    whole = sum(PREFIX.size + len(content) for content in found)
    assert found == contents[: len(found)]
    if whole == size:
        assert error is None
    else:
        assert error is not None
        assert error.torn
        assert "ends inside a frame" in str(error)


@given(contents=CONTENTS.filter(bool), at=st.integers(0), change=st.integers(1, 255))
def test_a_changed_byte_ends_the_stream_at_its_frame(contents: list[bytes], at: int, change: int) -> None:
    """Frames before the changed byte come out, its own never does."""
    data = bytearray(b"".join(map(frames.frame, contents)))
    at %= len(data)
    data[at] ^= change
    found, error = read(iter([bytes(data)]))
    assert error is not None
    ends = [sum(PREFIX.size + len(content) for content in contents[: k + 1]) for k in range(len(contents))]
    assert found == contents[: sum(end <= at for end in ends)]


@pytest.mark.parametrize("length", [0, LONGEST + 1, 0xFFFFFFFF])
def test_lengths_have_bounds(length: int) -> None:
    """No frame is empty or longer than 8 MiB; one that claims to be is refused before it is read."""
    blocks = iter([PREFIX.pack(length, 0), b"never read"])
    with pytest.raises(FrameError, match=f"a frame claims {length} bytes") as raised:
        list(frames.frames(blocks))
    assert not raised.value.torn
    assert next(blocks) == b"never read"


def test_the_longest_frame_is_read() -> None:
    """8 MiB is still a frame."""
    content = bytes(LONGEST)
    assert list(frames.frames(iter([frames.frame(content)]))) == [content]


def test_bytes_of_a_frame() -> None:
    """Length and CRC-32 of the content, little-endian, then the content."""
    assert frames.frame(b"\x03abc").hex() == "04000000" + crc32(b"\x03abc").to_bytes(4, "little").hex() + "03616263"
    assert crc32(b"123456789") == 0xCBF43926  # the check value of this CRC


@given(
    kind=st.integers(0, 255),
    version=st.integers(0, 255),
    seq=st.integers(0, 2**64 - 1),
    tick=st.none() | st.integers(0, 2**63 - 1),
    t=st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
    body=st.binary(min_size=1, max_size=9),
)
def test_a_head_comes_back(kind: int, version: int, seq: int, tick: int | None, t: int | None, body: bytes) -> None:
    """Kind, version, number, tick and time are read as they were written, nothing included."""
    content = frames.record(kind, version, seq, tick, t, body)
    assert frames.head(content) == Head(kind, version, seq, tick, t)
    assert (content[0], content[frames.HEAD.size :]) == (frames.RECORD, body)


@pytest.mark.parametrize("size", range(1, frames.HEAD.size + 1))
def test_a_record_without_a_body_is_refused(size: int) -> None:
    """A head alone is no record."""
    with pytest.raises(FrameError, match="no body"):
        frames.head(frames.record(3, 1, 0, None, None, b"")[:size])


def test_the_chain_is_the_leaf_hash_of_what_stands_before_and_the_content() -> None:
    """The next value is SHA-256(0 | value | content), so that equal contents at two places have different leaves."""
    first = frames.link(frames.GENESIS, b"\x02x")
    assert first == hashlib.sha256(b"\0" + bytes(32) + b"\x02x").digest()
    assert frames.link(first, b"\x02x") != first
