"""What the driver and its children say to each other: a header in JSON, then float64 arrays as they are.

Needs nothing but numpy, because it runs in every peer's own environment.
"""

from __future__ import annotations

import json
import math
import os
import select
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_PREFIX = struct.Struct("<Q")  # length of the header, bytes


def send(fd: int, head: Mapping[str, object], **arrays: Array) -> None:
    """Write one message to a file descriptor."""
    blocks = {name: np.ascontiguousarray(array, dtype=np.float64) for name, array in arrays.items()}
    header = json.dumps({**head, "arrays": {name: block.shape for name, block in blocks.items()}}).encode()
    _write(fd, b"".join([_PREFIX.pack(len(header)), header, *(block.tobytes() for block in blocks.values())]))


def receive(fd: int, timeout: float | None = None) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read one message: its header and its arrays.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: it did not answer in ``timeout`` s.
    """
    until = None if timeout is None else time.monotonic() + timeout
    (length,) = _PREFIX.unpack(_read(fd, _PREFIX.size, until))
    head: dict[str, Any] = json.loads(_read(fd, length, until))
    arrays: dict[str, Array] = {}
    for name, shape in head.pop("arrays").items():
        count = math.prod(int(side) for side in shape)
        arrays[name] = np.frombuffer(_read(fd, 8 * count, until), dtype=np.float64).reshape(shape)
    return head, arrays


def _write(fd: int, message: bytes) -> None:
    view = memoryview(message)
    while view:
        view = view[os.write(fd, view) :]


def _read(fd: int, count: int, until: float | None) -> bytes:
    parts: list[bytes] = []
    while count:
        if until is not None and not select.select([fd], [], [], max(until - time.monotonic(), 0.0))[0]:
            raise TimeoutError
        part = os.read(fd, min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
