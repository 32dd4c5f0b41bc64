"""The QP solver behind the filter: OSQP, wrapped so that its known traps cannot reach a decision.

Fixed sparsity (identity on top, rows of a fixed pattern below), updated in place through preallocated buffers.
OSQP's traps and what is done about each (docs/decisions/0004-osqp-wrapper.md):
updates that fail silently → return codes and our own checks; NaN poisoning → non-finite data is refused, and after
any failure the iteration starts afresh; history dependence → the only history is the point and multipliers of the
last success, and ``reset`` forgets those, so that an episode replays bit for bit; an infeasible x that looks finite →
only status ``solved`` counts, and only for an x that satisfies every row when we recompute it; loose tolerances →
eps_rel = 0, rows of equal unit, bounds tightened by the caller; refactorisation jitter → fixed rho, no scaling,
large finite bounds, not infinities.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import osqp
from numpy.typing import NDArray
from scipy import sparse

from safeguard.controllers.solver import BIG, Answer, Buffers
from safeguard.core.compiled import INTS, MATRIX, OUT, kernel, types
from safeguard.core.config import SolverConfig
from safeguard.core.enums import SolverStatus
from safeguard.core.types import Vector

Pattern = NDArray[np.bool_]
"""Where the dense rows may differ from zero, shape (rows, n)."""


@kernel(types.boolean, MATRIX, INTS, OUT)
def gather(D: Vector, places: NDArray[np.int64], values: Vector) -> bool:
    """Put the entries of D into OSQP's order; −1 is an entry of the identity. False if one was left over."""
    left = 0
    for r in range(len(D)):
        for k in range(D.shape[1]):
            left += D[r, k] != 0.0
    for e in range(len(places)):
        if places[e] >= 0:
            values[e] = D[places[e] // D.shape[1], places[e] % D.shape[1]]
            left -= values[e] != 0.0
    return left == 0


class OsqpSolver:
    """Solves the program of ``solver.py`` for ``n`` variables and ``rows`` dense rows, within a few ``eps_abs``.

    It gives up after ``max_iter`` iterations; one program in twenty needs more than a hundred. ``make_solver`` has
    the exact solver behind it that answers those. Entries outside ``pattern`` cost nothing and must be zero, or the
    program is rejected.

    Attributes:
        raw: the library's own object.
        values: the matrix [I; D] column by column, as the library has it.
        multipliers: of the last success, shape (n + rows,), positive at upper bounds; zero after a failure.
    """

    def __init__(self, n: int, rows: int, config: SolverConfig, pattern: Pattern | None = None) -> None:
        self._eps, self._data = config.eps_abs, Buffers(n, rows)
        self._point, self.multipliers, self._warm = np.zeros(n), np.zeros(n + rows), False
        mask = np.vstack([np.eye(n, dtype=bool), np.ones((rows, n), dtype=bool) if pattern is None else pattern])
        columns, lines = np.nonzero(mask.T)
        self._places = np.where(lines < n, -1, (lines - n) * n + columns)
        self.values = np.ones(len(self._places))
        self._osqp = osqp.OSQP(algebra="builtin")
        self._osqp.setup(
            sparse.eye(n, format="csc"), self._data.q, sparse.csc_matrix(mask.astype(float)),
            np.full(n + rows, -BIG), np.full(n + rows, BIG),
            eps_abs=config.eps_abs, eps_rel=0.0, max_iter=config.max_iter, check_termination=config.check_every,
            scaling=0, adaptive_rho=0, rho=config.rho, polishing=False, warm_starting=True, verbose=False,
            check_dualgap=0,
        )  # fmt: skip
        self.raw: Any = self._osqp._solver

    def reset(self) -> None:
        """Forget the point and the multipliers of the last success."""
        self.multipliers[:] = 0.0
        self._warm = False

    def resume(self, x: Vector, y: Vector) -> None:
        """Start the next solve from the solution ``x`` with multipliers ``y`` (positive at upper bounds)."""
        self._point[:], self.multipliers[:], self._warm = x, y, True

    def solve(self, nominal: Vector, dense: Vector, lower: Vector, upper: Vector, start: Vector) -> Answer:
        """See ``Solver``; SOLVED, UNSOLVED or REJECTED."""
        if not self._load(nominal, dense, lower, upper, start):
            return start, SolverStatus.REJECTED, 0
        raw = self.raw
        raw.warm_start(self._point if self._warm else self._data.x0, self.multipliers)
        raw.solve()
        info, x = raw.info, np.array(raw.solution.x)
        if info.status_val != osqp.SolverStatus.OSQP_SOLVED or not self._data.holds(x, self._eps):
            self.reset()
            return start, SolverStatus.UNSOLVED, int(info.iter)
        self.resume(x, raw.solution.y)
        return x, SolverStatus.SOLVED, int(info.iter)

    def _load(self, nominal: Vector, dense: Vector, lower: Vector, upper: Vector, start: Vector) -> bool:
        """Give the library the program; False if it must not see it or would not take it."""
        data = self._data
        if not (data.load(nominal, dense, lower, upper, start) and gather(data.D, self._places, self.values)):
            return False
        failed = self.raw.update_data_vec(q=data.q, l=data.low, u=data.high)
        failed |= self.raw.update_data_mat(P_x=None, P_i=None, A_x=self.values, A_i=None)
        if failed:
            self.reset()
        return not failed
