"""Frames: what a segment of a journal is made of, byte for byte (docs/reference/journal-format.md).

    frame   = u32 length | u32 crc32 | content            little-endian; both are of the content
    content = 1 | JSON                                    segment header, the first frame of every file
            | 2 | kind | version | seq | tick | t | body  record; the body in MessagePack
            | 3 | signed note                             checkpoint

Every frame enters the chain, c' = SHA-256(0 | c | content). The value after a record is its leaf in the Merkle tree:
the leaf hash of RFC 6962 over c and the content, so that a tree proves what stood before a record as well.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from zlib import crc32

SEGMENT: Final = 1
RECORD: Final = 2
CHECKPOINT: Final = 3
PREFIX: Final = struct.Struct("<II")
HEAD: Final = struct.Struct("<BBBQqq")
LONGEST: Final = 1 << 23
"""Largest content, bytes; longer ones are neither written nor read."""

GENESIS: Final = bytes(32)
NO_TICK: Final = -1
NO_TIME: Final = -(1 << 63)


class FrameError(ValueError):
    """Bytes that are no frame.

    Attributes:
        torn: they end before the frame does.
    """

    def __init__(self, problem: str, *, torn: bool = False) -> None:
        self.torn = torn
        super().__init__(problem)


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before the body of a record; ``tick`` and ``t`` (ns) are None where there is none."""

    kind: int
    version: int
    seq: int
    tick: int | None
    t: int | None


def frame(content: bytes) -> bytes:
    """The content with its length and checksum before it."""
    return PREFIX.pack(len(content), crc32(content)) + content


def record(kind: int, version: int, seq: int, tick: int | None, t: int | None, body: bytes) -> bytes:
    """The content of a record."""
    at = NO_TICK if tick is None else tick, NO_TIME if t is None else t
    return HEAD.pack(RECORD, kind, version, seq, *at) + body


def head(content: bytes) -> Head:
    """What stands before the body in the content of a record; raises FrameError."""
    if len(content) <= HEAD.size:
        raise FrameError(f"a record of {len(content)} bytes has no body")
    _, kind, version, seq, tick, t = HEAD.unpack_from(content)
    return Head(kind, version, seq, None if tick == NO_TICK else tick, None if t == NO_TIME else t)


def link(chain: bytes, content: bytes) -> bytes:
    """The chain's next value, 32 bytes."""
    hashed = hashlib.sha256(b"\0" + chain)
    hashed.update(content)
    return hashed.digest()


def frames(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The contents of the frames in a stream of ``blocks``; raises FrameError at the first that is damaged."""
    rest = b""
    for block in blocks:
        data, at = rest + block, 0
        end = len(data)
        while end - at >= PREFIX.size:
            length, checksum = PREFIX.unpack_from(data, at)
            if not 0 < length <= LONGEST:
                raise FrameError(f"a frame claims {length} bytes; 1 to {LONGEST} are possible")
            if end - at < PREFIX.size + length:
                break
            at += PREFIX.size
            content = data[at : at + length]
            if crc32(content) != checksum:
                raise FrameError("the checksum does not match: changed, or written only in part")
            yield content
            at += length
        rest = data[at:]
    if rest:
        raise FrameError(f"ends inside a frame, {len(rest)} bytes after the last whole one", torn=True)
