"""A ring of frames in a file that two processes map: the control loop fills it, the writer empties it.

One producer, one consumer, no lock: each counter has one writer. The file is shared memory, so that what has been
placed outlives both processes (not a power cut). docs/reference/journal-format.md has the layout.

**Order of memory.** Counters are aligned words of 8 bytes: a load sees a whole old or a whole new value. ``put`` stores
a frame, then ``head``; ``entries`` loads ``head``, then the frame. Nothing in Python orders these; the machine does:

- x86-64 (TSO): stores are seen in the order of the program, and loads happen in it. Who sees ``head`` sees the frame.
- ARM: the two stores may change places, and so may the loads: ``head`` may be seen before the frame that it counts, and
  in the frame's place what stood there a round before. Where that is a mixture, the checksum differs (but for one in
  2³²), and ``entries`` stops. Where it is a whole old frame, its checksum is right, but its number is one from long
  ago. So the writer takes a record only if its number follows the one before (or is higher, and it is a ``gap``):
  anything else is not there yet, and looked at again 2 ms later. No number comes back, so no old frame passes.
- Room is made in order on both: a frame is read before ``tail`` is stored, and ``tail`` before room is filled again,
  because a store behind a branch (checksum right; room enough) is not seen before the loads that decide the branch.
- That the ring is closed may be seen before the last frame: the writer looks once more, 2 ms later, before it ends.
- What a dead process has stored is seen by all, so recovery needs no such care. A ``verify`` of a run at work on ARM
  can meet an old frame: it skips numbers that segments hold, and may miss the one behind; repeated, it is right.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from zlib import crc32

from safeguard.audit.journal.frames import LONGEST, PREFIX
from safeguard.core.errors import JournalError

MAGIC: Final = b"SGRING1\n"
HEADER: Final = 4096
_HEAD, _TAIL, _CLOSING, _BEAT, _FAILED, _TEXT = 8, 16, 24, 32, 40, 328  # u64 indices, then a byte offset
_TEXT_MOST: Final = 512
_JUMP: Final = 0xFFFFFFFF
_POPULATE_WRITE: Final = 23  # MADV_POPULATE_WRITE of Linux 5.14, which mmap has no name for
_LENGTH: Final = struct.Struct("<I")
_OPENING: Final = struct.Struct("<8sQ")  # magic, capacity


class Ring:
    """One end of a ring; use the methods of the producer or those of the consumer, not both.

    Args:
        file: of the ring; must exist (``create`` makes it).
        writable: False only looks.

    Raises:
        JournalError: it cannot be mapped, or is no ring.
    """

    def __init__(self, file: Path, *, writable: bool = True) -> None:
        try:
            fd = os.open(file, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
            try:
                self._map = mmap.mmap(fd, 0, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            raise JournalError(f"cannot map the ring {file}: {error}") from error
        self._bytes = memoryview(self._map)
        self.capacity = len(self._map) - HEADER
        if self.capacity < 8 or self.capacity % 8 or self._map[:16] != _OPENING.pack(MAGIC, self.capacity):
            self.release()
            raise JournalError(f"{file} is not a ring of this version")
        self._words = self._bytes[:HEADER].cast("Q")
        for _ in range(100):  # both move while one looks at a ring at work
            self._tail, self._head = self._words[_TAIL], self._words[_HEAD]
            if 0 <= self._head - self._tail <= self.capacity:
                break
        odd = self._tail % 8 or self._head % 8
        if odd or not 0 <= self._head - self._tail <= self.capacity:
            self.release()
            raise JournalError(f"{file} is not a ring: no entries lie between {self._tail} and {self._head}")
        self._seen = self._tail

    @classmethod
    def create(cls, file: Path, capacity: int) -> Ring:
        """A new ring of ``capacity`` bytes, all of which the disk has granted; raises OSError."""
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(fd, 0, HEADER + capacity)  # a hole could kill the loop with SIGBUS on a full disk
            os.pwrite(fd, _OPENING.pack(MAGIC, capacity), 0)
            ring = cls(file)
            with suppress(OSError):  # kernels before 5.14; then the loop meets each page's fault once
                ring._map.madvise(_POPULATE_WRITE)
            return ring
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def release(self) -> None:
        """Unmap."""
        if hasattr(self, "_words"):
            self._words.release()
        self._bytes.release()
        self._map.close()

    # -- the producer ---------------------------------------------------------------------------------

    def put(self, content: bytes) -> bool:
        """Place a frame; False where there is no room for it."""
        length = len(content)
        need = (PREFIX.size + length + 7) & ~7
        at = self._head % self.capacity
        jump = self.capacity - at if need > self.capacity - at else 0
        if self._head + jump + need - self._words[_TAIL] > self.capacity:
            return False
        if jump:
            _LENGTH.pack_into(self._bytes, HEADER + at, _JUMP)
            at = 0
        at += HEADER
        self._bytes[at + PREFIX.size : at + PREFIX.size + length] = content
        PREFIX.pack_into(self._bytes, at, length, crc32(content))
        self._head += jump + need
        self._words[_HEAD] = self._head
        return True

    @property
    def largest(self) -> int:
        """Longest content that an empty ring has room for wherever it stands, bytes."""
        return self.capacity // 2 - PREFIX.size

    @property
    def waiting(self) -> int:
        """Bytes that have been placed and are not done."""
        return self._head - self._words[_TAIL]

    def close(self) -> None:
        """Nothing more will be placed."""
        self._words[_CLOSING] = 1

    @property
    def problem(self) -> str:
        """Why the writer cannot write, or ""."""
        if not self._words[_FAILED]:
            return ""
        (length,) = _LENGTH.unpack_from(self._bytes, _TEXT)
        start = _TEXT + _LENGTH.size
        return bytes(self._bytes[start : start + min(length, _TEXT_MOST)]).decode(errors="replace") or "it cannot write"

    # -- the consumer ---------------------------------------------------------------------------------

    def entries(self, begin: int | None = None) -> Iterator[bytes]:
        """Contents of the frames that are placed and not yet done, oldest first; stops at one that is not whole.

        ``begin`` is where to begin instead: a ``seen`` of before.
        """
        at = self._tail if begin is None else begin
        head = min(self._words[_HEAD], self._tail + self.capacity)
        while at < head:
            place = at % self.capacity
            (length,) = _LENGTH.unpack_from(self._bytes, HEADER + place)
            if length == _JUMP:
                at += self.capacity - place
                continue
            end = HEADER + place + PREFIX.size + length
            if not 0 < length <= LONGEST or end > HEADER + self.capacity:
                return
            start = HEADER + place + PREFIX.size
            content = bytes(self._bytes[start:end])
            if crc32(content) != PREFIX.unpack_from(self._bytes, HEADER + place)[1]:
                return
            at += (PREFIX.size + length + 7) & ~7
            self._seen = at
            yield content

    @property
    def seen(self) -> int:
        """Up to where ``entries`` has been asked."""
        return self._seen

    def done(self, end: int | None = None) -> None:
        """What ``entries`` has given, all of it or up to ``end``, need not be kept any longer."""
        self._tail = self._seen if end is None else end
        self._words[_TAIL] = self._tail

    @property
    def closing(self) -> bool:
        """The producer is done."""
        return bool(self._words[_CLOSING])

    @property
    def empty(self) -> bool:
        """Everything that was placed is written."""
        return self._tail >= self._words[_HEAD]

    def beat(self) -> None:
        """The writer lives."""
        self._words[_BEAT] += 1

    @property
    def beats(self) -> int:
        """How often the writer went round."""
        return self._words[_BEAT]

    def fail(self, problem: str) -> None:
        """Say why nothing can be written; "" takes it back."""
        if problem:
            text = problem.encode()[:_TEXT_MOST]
            start = _TEXT + _LENGTH.size
            self._bytes[start : start + len(text)] = text
            _LENGTH.pack_into(self._bytes, _TEXT, len(text))
        self._words[_FAILED] = 1 if problem else 0
