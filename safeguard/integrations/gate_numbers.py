"""What hosts and policies hand over, as numbers; and where the arm is, how fast, and what its gripper was told."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import numpy as np

from safeguard.controllers.rows import RowPath
from safeguard.core.types import NS_PER_S, RobotState, Vector, frozen_array

_WINDOW_NS: Final = NS_PER_S // 5  # over which speed is measured: encoder noise counts little, a stop is seen soon
_NONE: Final = frozen_array(np.zeros(0))


def plain_numbers(given: Any, most: int) -> Vector:
    """A read-only float64 copy of what a caller gave; an empty one where it is not numbers, or far too many.

    Never raises: ragged lists, objects, strings, complex, masked and boolean arrays are no numbers.

    Args:
        given: anything.
        most: how many numbers are looked at.
    """
    try:
        if np.ma.isMaskedArray(given) and np.ma.getmaskarray(given).any():
            return _NONE
        array = np.asarray(given)
        if array.dtype.kind not in "fiu" or array.size > most:
            return _NONE
        with np.errstate(over="ignore"):
            return frozen_array(np.array(array, dtype=np.float64, order="C"))
    except Exception:  # noqa: BLE001  an object may raise anything when it is asked for its numbers
        return _NONE


class Speedometer:
    """Mean joint speeds over the last 0.2 s, from measured positions alone."""

    def __init__(self) -> None:
        self._seen = deque[tuple[int, Vector]]()

    def state(self, q: Vector, now: int) -> RobotState:
        """The measured state; before a second measurement its speed is 0.

        A measurement that is not finite, or of another length than the one before, is not remembered.
        """
        seen = self._seen
        if seen and seen[-1][0] >= now:  # the clock went back
            seen.clear()
        if not np.isfinite(q).all() or (seen and seen[-1][1].shape != q.shape):
            return RobotState(q, np.zeros(q.shape), now)
        while len(seen) > 1 and seen[0][0] < now - _WINDOW_NS:
            seen.popleft()
        with np.errstate(over="ignore"):
            v = (q - seen[0][1]) * (NS_PER_S / (now - seen[0][0])) if seen else np.zeros(q.shape)
        seen.append((now, q))
        return RobotState(q, v, now)


class OtherColumns:
    """What the columns that are no joints, such as a gripper, were told row by row, and which row was played last.

    Args:
        start: what they are told before anything else is known, shape (m,).
        plays: rows of an answer that are played at most.
    """

    def __init__(self, start: Vector, plays: int) -> None:
        self._before, self._plays = start, plays
        self._rows: Vector | None = None

    def begin(self, values: Vector) -> None:
        """Where they were measured, shape (m,); counts until the first rows are told."""
        if self._rows is None:
            self._before = values

    def played(self, path: RowPath | None, now: int) -> Vector:
        """The values of the last row that was really played by ``now`` ns, shape (m,).

        Args:
            path: what the joints were told together with these rows.
            now: ns.
        """
        if self._rows is None or path is None:
            return self._before
        row = min(int(path.point(now)), self._plays, len(self._rows)) - 1
        return self._before if row < 0 else self._rows[row]

    def told(self, rows: Vector, before: Vector) -> None:
        """The host gets ``rows``, shape (k, m); ``before`` was played up to now."""
        self._rows, self._before = rows, before
