"""What a solver of the filter's program is, and the checked copy of the data that every solver works on.

    minimise ½ ‖x − x_nom‖²   subject to   l ≤ [I; D] x ≤ u

Solvers are C libraries that believe what they are given: a NaN, a short array or a view of another layout comes back
as a confident wrong answer. So nothing of the caller's reaches them. ``Buffers`` copies the data into arrays of its
own, refuses what it must, and recomputes every row for the point that comes back.
"""

from __future__ import annotations

from math import inf
from typing import Protocol

import numpy as np

from safeguard.core.compiled import MATRIX, OUT, OUT_MATRIX, VECTOR, kernel, types
from safeguard.core.enums import SolverStatus
from safeguard.core.types import Vector

BIG = 1e4
"""Stands for "no bound"; rad/s². Infinite bounds are read as this."""

LARGEST = 1e12  # what no acceleration, bound or row of a body reaches

_ROUNDING = 1.0 + 1e-6  # of the tolerance: a library's own residual and ours differ in the last bits
_FLOAT = np.dtype(np.float64)

Answer = tuple[Vector, SolverStatus, int]
"""(x, status, iterations); x is an answer only where ``status.answered``."""


class Solver(Protocol):
    """Solves one program per tick."""

    def solve(self, nominal: Vector, dense: Vector, lower: Vector, upper: Vector, start: Vector) -> Answer:
        """The point closest to ``nominal`` inside the bounds; never raises.

        Args:
            nominal: shape (n,).
            dense: D, shape (rows, n).
            lower, upper: bounds of [I; D] x, shape (n + rows,).
            start: where an iteration may start, shape (n,); comes back as x where there is no answer.
        """
        ...

    def reset(self) -> None:
        """Forget earlier programs."""
        ...


@kernel(types.boolean, VECTOR, MATRIX, *[VECTOR] * 3, OUT, OUT_MATRIX, *[OUT] * 3)
def take(
    nominal: Vector, dense: Vector, lower: Vector, upper: Vector, start: Vector,
    q: Vector, D: Vector, low: Vector, high: Vector, x0: Vector,
) -> bool:  # fmt: skip
    """Copy a program into a solver's arrays; False if a number is not finite or beyond ``LARGEST``, or l > u."""
    rows, n = dense.shape
    good = True
    for k in range(n):
        q[k], x0[k] = -nominal[k], start[k]
        good &= abs(q[k]) <= LARGEST and abs(x0[k]) <= LARGEST
    for r in range(rows):
        for k in range(n):
            D[r, k] = dense[r, k]
            good &= abs(D[r, k]) <= LARGEST
    for j in range(n + rows):
        low[j] = -BIG if lower[j] < -BIG else lower[j]
        high[j] = BIG if upper[j] > BIG else upper[j]
        good &= low[j] <= high[j]
    return good


@kernel(types.float64, VECTOR, MATRIX, *[VECTOR] * 2)
def excess(x: Vector, D: Vector, low: Vector, high: Vector) -> float:
    """Largest violation of a row at ``x``; infinite if a number of x is not finite or beyond ``LARGEST``."""
    n, worst = len(x), 0.0
    for k in range(n):
        if not abs(x[k]) <= LARGEST:
            return inf
        worst = max(worst, low[k] - x[k], x[k] - high[k])
    for r in range(len(D)):
        value = 0.0
        for k in range(n):
            value += D[r, k] * x[k]
        worst = max(worst, low[n + r] - value, value - high[n + r])
    return worst


class Buffers:
    """Checked copies of one program's data for ``n`` variables and ``rows`` dense rows.

    Attributes:
        q, D, low, high, x0: −x_nom, the dense rows, the bounds within ±``BIG``, and the start.
    """

    def __init__(self, n: int, rows: int) -> None:
        self._shapes = (n,), (rows, n), (n + rows,), (n + rows,), (n,)
        self.q, self.D, self.low, self.high, self.x0 = map(np.zeros, self._shapes)

    def load(self, nominal: Vector, dense: Vector, lower: Vector, upper: Vector, start: Vector) -> bool:
        """Copy the data; False if a solver must not see it: another shape or type, not finite, or l > u."""
        given, whole = (nominal, dense, lower, upper, start), True
        for array, shape in zip(given, self._shapes, strict=True):
            if type(array) is not np.ndarray or array.shape != shape or array.dtype != _FLOAT:
                return False
            whole &= array.flags.c_contiguous
        if not whole:
            nominal, dense, lower, upper, start = map(np.ascontiguousarray, given)
        return take(nominal, dense, lower, upper, start, self.q, self.D, self.low, self.high, self.x0)

    def holds(self, x: Vector, tolerance: float) -> bool:
        """Every row of the loaded program holds at ``x`` within ``tolerance``; never true of a NaN."""
        return excess(x, self.D, self.low, self.high) <= tolerance * _ROUNDING
