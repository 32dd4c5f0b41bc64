"""DAQP, an exact active-set solver, behind the filter's small interface (docs/decisions/0011-daqp.md).

It knows no tolerance trade: after a few steps the active set is right and the answer exact to rounding, or it says
why not. Every solve starts from the program alone, so there is no history: a variable whose nominal lies beyond a bound
counts as held there until DAQP finds otherwise, which is right for most and saves their steps. Its own traps: NaN data
and views of another layout give wrong answers with exit flag 1, and rows shorter than 3e-6 are dropped without a word.
``Buffers`` keeps the first two out and finds the third by recomputing every row.
"""

from __future__ import annotations

import daqp
import numpy as np
from numpy.typing import NDArray

from safeguard.controllers.solver import Answer, Buffers
from safeguard.core.compiled import VECTOR, kernel, types
from safeguard.core.config import SolverConfig
from safeguard.core.enums import SolverStatus
from safeguard.core.types import Vector

_OPTIMAL = 1
_PRIMAL_TOL = 1e-8  # rad/s², of rows scaled to unit length
_STEPS_PER_ROW = 10  # the limit of active-set steps; no program of the tests takes more than two
_AT_UPPER, _AT_LOWER = 1, 3  # DAQP's flags of a row that it starts from


@kernel(types.void, *[VECTOR] * 3, types.Array(types.int32, 1, "C"))
def lean(q: Vector, low: Vector, high: Vector, sense: NDArray[np.intc]) -> None:
    """Flag the variables whose nominal −q lies at a bound or beyond it; dense rows have no flag."""
    for k in range(len(sense)):
        sense[k] = 0
    for k in range(len(q)):
        sense[k] = _AT_LOWER if -q[k] <= low[k] else _AT_UPPER if -q[k] >= high[k] else 0


class DaqpSolver:
    """Solves the program of ``solver.py`` for ``n`` variables and ``rows`` dense rows, exactly.

    Attributes:
        multipliers: of the last answer, shape (n + rows,), positive at upper bounds.
    """

    def __init__(self, n: int, rows: int, config: SolverConfig) -> None:
        self._eps = config.eps_abs
        self._data = Buffers(n, rows)
        self._H, self._sense = np.eye(n), np.zeros(n + rows, dtype=np.intc)
        self._limit = _STEPS_PER_ROW * (n + rows)
        self.multipliers: Vector = np.zeros(n + rows)

    def reset(self) -> None:
        """Nothing to forget."""

    def solve(self, nominal: Vector, dense: Vector, lower: Vector, upper: Vector, start: Vector) -> Answer:
        """See ``Solver``; SOLVED, UNSOLVED or REJECTED."""
        data = self._data
        if not data.load(nominal, dense, lower, upper, start):
            return start, SolverStatus.REJECTED, 0
        lean(data.q, data.low, data.high, self._sense)
        x, _, flag, info = daqp.solve(
            self._H, data.q, data.D, data.high, data.low, self._sense, primal_tol=_PRIMAL_TOL, iter_limit=self._limit
        )
        steps = int(info["iterations"])
        if flag != _OPTIMAL or not data.holds(x, self._eps):
            return start, SolverStatus.UNSOLVED, steps
        self.multipliers = info["lam"]
        return x, SolverStatus.SOLVED, steps
