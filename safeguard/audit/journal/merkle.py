"""The Merkle tree of RFC 6962 (section 2.1), grown leaf by leaf in O(log n) memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Self


class Tree:
    """Roots of complete subtrees from left to right, largest first; their sizes are the binary digits of ``size``.

    Attributes:
        size: how many leaves there are.
    """

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []

    @classmethod
    def of(cls, size: int, peaks: Sequence[bytes]) -> Self:
        """The tree over ``size`` leaves with these ``peaks``; raises ValueError where their number does not fit."""
        if size < 0 or len(peaks) != size.bit_count() or any(len(peak) != 32 for peak in peaks):
            raise ValueError(f"{len(peaks)} peaks are not those of {size} leaves")
        made = cls()
        made.size, made._peaks = size, list(peaks)
        return made

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """Roots of the complete subtrees from left to right: all that is needed to go on."""
        return tuple(self._peaks)

    def append(self, leaf: bytes) -> None:
        """Add a leaf by its hash, 32 bytes."""
        size, peaks = self.size, self._peaks
        while size & 1:
            leaf = hashlib.sha256(b"\1" + peaks.pop() + leaf).digest()
            size >>= 1
        peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The root, 32 bytes; of no leaf SHA-256 of nothing."""
        if not self._peaks:
            return hashlib.sha256(b"").digest()
        found = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            found = hashlib.sha256(b"\1" + peak + found).digest()
        return found
