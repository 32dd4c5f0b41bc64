"""The QP solver behind the filter: OSQP, wrapped so that its known traps cannot reach a decision.

    minimise ½ ‖x − x_nom‖²   subject to   l ≤ [I; D] x ≤ u

Fixed sparsity (identity on top, a dense block below), updated in place through preallocated buffers.
OSQP's traps and what is done about each (docs/decisions/0004-osqp-wrapper.md):
updates that fail silently → return codes and our own checks; NaN poisoning → non-finite data is refused, and after
any failure the multipliers start from zero; history dependence → every solve starts from the given point, the
configured rho and the multipliers of the last success, and ``reset`` forgets those, so that an episode replays bit
for bit; an infeasible x that looks finite → only status ``solved`` counts; loose tolerances → eps_rel = 0, rows of
equal unit, bounds tightened by the caller; refactorisation jitter → no scaling, large finite bounds, not infinities.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
import osqp
from scipy import sparse

from safeguard.core.config import SolverConfig
from safeguard.core.enums import SolverStatus
from safeguard.core.types import Vector

BIG = 1e4  # stands for "no bound"; rad/s²

_RHO_INTERVAL = 100


class OsqpSolver:
    """Solves the program of this module for ``n`` variables and ``rows`` dense rows."""

    def __init__(self, n: int, rows: int, config: SolverConfig) -> None:
        self._n, self._rows, self._rho = n, rows, config.rho
        pattern = sparse.csc_matrix(np.vstack([np.eye(n), np.ones((rows, n))]))
        self._values = np.ones((n, 1 + rows))
        self._flat = self._values.reshape(-1)  # the same numbers, in the solver's order
        self._q, self._l, self._u = np.zeros(n), np.full(n + rows, -BIG), np.full(n + rows, BIG)
        self._x0, self._y0 = np.zeros(n), np.zeros(n + rows)
        self._osqp = osqp.OSQP(algebra="builtin")
        self._osqp.setup(
            sparse.eye(n, format="csc"), self._q, pattern, self._l, self._u,
            eps_abs=config.eps_abs, eps_rel=0.0, max_iter=config.max_iter, check_termination=config.check_every,
            scaling=0, adaptive_rho=1, adaptive_rho_interval=_RHO_INTERVAL, rho=config.rho, polishing=False,
            warm_starting=True, verbose=False, check_dualgap=0,
        )  # fmt: skip
        self._raw: Any = self._osqp._solver
        self._rho_moved = False

    def reset(self) -> None:
        """Forget the multipliers of the last solve."""
        self._y0[:] = 0.0

    def solve(
        self, nominal: Vector, dense: Vector, lower: Vector, upper: Vector, start: Vector
    ) -> tuple[Vector, SolverStatus, int]:
        """The point closest to ``nominal`` inside the bounds.

        Args:
            nominal: shape (n,).
            dense: D, shape (rows, n).
            lower, upper: bounds of [I; D] x, shape (n + rows,).
            start: where the iteration starts, shape (n,).

        Returns:
            (x, status, iterations). Only with ``SolverStatus.SOLVED`` does x mean anything.
        """
        if not self._load(nominal, dense, lower, upper, start):
            return start, SolverStatus.REJECTED, 0
        raw = self._raw
        if self._rho_moved:
            raw.update_rho(self._rho)
        failed = raw.update_data_vec(q=self._q, l=self._l, u=self._u)
        failed |= raw.update_data_mat(P_x=None, P_i=None, A_x=self._flat, A_i=None)
        if failed:
            return start, SolverStatus.REJECTED, 0
        raw.warm_start(self._x0, self._y0)
        raw.solve()
        info = raw.info
        self._rho_moved = info.rho_updates > 0
        solved = info.status_val == osqp.SolverStatus.OSQP_SOLVED
        x = np.array(raw.solution.x) if solved else start
        self._y0[:] = raw.solution.y if solved else 0.0
        return x, SolverStatus.SOLVED if solved else SolverStatus.UNSOLVED, int(info.iter)

    def _load(self, nominal: Vector, dense: Vector, lower: Vector, upper: Vector, start: Vector) -> bool:
        """Copy the data into the solver's buffers; False if the solver must not see it."""
        if dense.shape != (self._rows, self._n) or lower.shape != self._l.shape or upper.shape != self._u.shape:
            return False
        np.negative(nominal, out=self._q)
        self._values[:, 1:] = dense.T
        np.maximum(lower, -BIG, out=self._l)
        np.minimum(upper, BIG, out=self._u)
        self._x0[:] = start
        # A sum of squares is finite only if every number is (and none is beyond 1e150).
        squares = sum(float(part @ part) for part in (self._q, self._flat, self._l, self._u, self._x0))
        return isfinite(squares) and bool((self._l <= self._u).all())
