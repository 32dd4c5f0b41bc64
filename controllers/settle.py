"""Programs that need no iteration: few dense rows bind, and each finds its multiplier by one exact search.

    minimise ½ ‖x − x_nom‖²   subject to   l ≤ x ≤ u,   l_D ≤ D x ≤ u_D

The objective and the bounds of x are separate for every variable, so for multipliers y of the dense rows the best x is

    x(y) = clip(x_nom − Dᵀ y, l, u).

If D x(y) is inside its bounds, and at the upper bound where y > 0 and at the lower one where y < 0, the KKT conditions
hold and x(y) is the answer, wherever y came from (Boyd and Vandenberghe, Convex Optimization, §5.5.3). With y = 0 that
is the clipped nominal. Otherwise the row that is worst off gets the multiplier with which it meets its bound: D_r x is
monotone and piecewise linear in y_r, so the place is found exactly between two breakpoints. That is ascent of the dual
by coordinates. Where rows hardly disturb one another it ends after as many searches as rows bind; where they do it
would crawl, and a solver is asked instead.
"""

from __future__ import annotations

from math import inf

import numpy as np

from safeguard.controllers.solver import Answer, Buffers, Solver
from safeguard.core.compiled import COUNT, MATRIX, NUMBER, OUT, VECTOR, kernel, part
from safeguard.core.enums import SolverStatus
from safeguard.core.types import Vector

SEARCHES = 4
"""Searches after which a solver is asked."""

EXACT = 1e-9
"""rad/s² by which a row may miss its bound in a settled answer."""


@part
def value_at(t: float, w: Vector, d: Vector, low: Vector, high: Vector) -> float:
    """D_r x with y_r = t, where w is x_nom − Dᵀ y without row r."""
    total = 0.0
    for k in range(len(w)):
        z = w[k] - d[k] * t
        total += d[k] * (low[k] if z < low[k] else high[k] if z > high[k] else z)
    return total


@part
def searched(w: Vector, d: Vector, low: Vector, high: Vector, goal: float, sign: float) -> float:
    """The multiplier of this sign (or 0) with which the row d meets ``goal``; its largest breakpoint if none does."""
    near, far, over, under = 0.0, inf, sign * (value_at(0.0, w, d, low, high) - goal), 0.0
    if over <= 0.0:
        return 0.0
    for k in range(len(w)):
        for bound in (low[k], high[k]):
            t = sign * (w[k] - bound) / d[k] if d[k] != 0.0 else inf
            if near < t < far:
                rest = sign * (value_at(sign * t, w, d, low, high) - goal)
                if rest >= 0.0:
                    near, over = t, rest
                else:
                    far, under = t, rest
    return sign * (near if far == inf else near + (far - near) * over / (over - under))


@kernel(COUNT, VECTOR, MATRIX, VECTOR, VECTOR, COUNT, NUMBER, OUT, OUT)
def settle(
    q: Vector, D: Vector, low: Vector, high: Vector, most: int, exact: float, x: Vector, y: Vector
) -> int:  # fmt: skip
    """Fill x and y for the loaded program (q = −x_nom) and return the number of searches; −1 if ``most`` is not enough.

    A number that is not finite on the way counts as not enough.
    """
    n = len(x)
    y[:] = 0.0
    w = np.empty(n)
    for searches in range(most + 1):
        for k in range(n):
            w[k] = -q[k]
        for r in range(len(D)):
            if y[r] != 0.0:
                for k in range(n):
                    w[k] -= D[r, k] * y[r]
        for k in range(n):
            x[k] = low[k] if w[k] < low[k] else high[k] if w[k] > high[k] else w[k]
        worst, row, sign = exact, -1, 1.0
        for r in range(len(D)):
            value = 0.0
            for k in range(n):
                value += D[r, k] * x[k]
            above, below = value - high[n + r], low[n + r] - value
            if y[r] > 0.0:
                above = abs(above)
            if y[r] < 0.0:
                below = abs(below)
            if not above <= worst:
                worst, row, sign = above, r, 1.0
            if not below <= worst:
                worst, row, sign = below, r, -1.0
        if row < 0:
            return searches
        if searches < most:
            for k in range(n):
                w[k] += D[row, k] * y[row]
            y[row] = searched(w, D[row], low, high, high[n + row] if sign > 0.0 else low[n + row], sign)
    return -1


class SettledSolver:
    """Settles what it can, exactly to ``EXACT``, and leaves the rest to the solver ``behind`` it.

    It has no history of its own, and its work is bounded.

    Attributes:
        behind: the solver that it asks.
        multipliers: of the dense rows in the last settled answer, shape (rows,), positive at upper bounds.
    """

    def __init__(self, n: int, rows: int, behind: Solver) -> None:
        self.behind, self._data = behind, Buffers(n, rows)
        self.multipliers: Vector = np.zeros(rows)

    def reset(self) -> None:
        """Let the solver behind forget earlier programs."""
        self.behind.reset()

    def solve(self, nominal: Vector, dense: Vector, lower: Vector, upper: Vector, start: Vector) -> Answer:
        """See ``Solver``; SETTLED after as many searches as are told, or what the solver behind says."""
        data = self._data
        if not data.load(nominal, dense, lower, upper, start):
            return start, SolverStatus.REJECTED, 0
        x = np.empty(len(nominal))
        searches = settle(data.q, data.D, data.low, data.high, SEARCHES, EXACT, x, self.multipliers)
        if searches < 0:
            return self.behind.solve(nominal, dense, lower, upper, start)
        return x, SolverStatus.SETTLED, searches
