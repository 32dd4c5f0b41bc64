"""The filter's quadratic program as matrices, and the names of its rows.

    minimise ½ ‖a − a_nom‖²   subject to   low ≤ [I; D_τ; D_c] a ≤ high,

with D_τ = diag(M)⁻¹ M for the torques and D_c the clearance rows scaled to unit length: every row is in rad/s², so
that one tolerance of the solver means the same everywhere. Bounds are tightened by that tolerance, but never past
the braking point, so that the program always has a solution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from safeguard.controllers.clearance import ClearanceRows
from safeguard.controllers.dynamics import Dynamics
from safeguard.controllers.qp import BIG, OsqpSolver
from safeguard.core.config import FilterConfig
from safeguard.core.enums import SolverStatus
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

TIGHTEN = 2.0
"""Solver tolerances that bounds keep from the truth, so that rounding is not a violation."""

_ACTIVE = 5.0  # solver tolerances within which a row counts as active


@dataclass(slots=True)
class Problem:
    """What one tick knows before it decides.

    Attributes:
        q, v: measured state, shape (n,), rad and rad/s.
        nominal: proposed acceleration, shape (n,), rad/s².
        torque: the proposed torque itself, shape (n,), N·m, if that was the input.
        brake: the braking point, shape (n,), rad/s².
        lower, upper: viable accelerations, shape (n,), rad/s².
        rows: clearance rows.
        slack: (name, amount) of the relaxed ones, m.
        distances: of all kept pairs, m.
    """

    q: Vector
    v: Vector
    nominal: Vector
    torque: Vector | None
    brake: Vector
    lower: Vector
    upper: Vector
    rows: ClearanceRows
    slack: tuple[tuple[str, float], ...]
    distances: Vector


class Program:
    """Builds the program of a ``Problem`` in place, solves it, and names the rows that bind."""

    def __init__(self, robot: RobotModel, config: FilterConfig) -> None:
        n, slots = robot.n, config.clearance.slots
        self.solver = OsqpSolver(n, n + slots, config.solver)
        self._n, self._eps = n, config.solver.eps_abs
        self._tau = (1.0 - config.margins.torque_share) * robot.limits.tau_max
        self._dense = np.zeros((n + slots, n))
        self._low, self._high = np.full(2 * n + slots, -BIG), np.full(2 * n + slots, BIG)
        self._pairs = robot.collision.names
        self._rows = [f"{kind}:{joint}" for kind in ("lower", "torque", "upper", "torque") for joint in robot.joints]

    def reset(self) -> None:
        """Forget the history of the solver."""
        self.solver.reset()

    def solve(self, problem: Problem, dynamics: Dynamics) -> tuple[Vector, SolverStatus, int]:
        """(acceleration, status, iterations); only with ``SOLVED`` does the acceleration mean anything."""
        n, low, high = self._n, self._low, self._high
        tight, brake = TIGHTEN * self._eps, problem.brake
        low[:n] = np.minimum(problem.lower + tight, brake)
        high[:n] = np.maximum(problem.upper - tight, brake)
        self._torque_rows(dynamics, brake, tight)
        self._clearance_rows(problem.rows, brake, tight)
        start = np.minimum(np.maximum(problem.nominal, low[:n]), high[:n])
        wanted = np.minimum(np.maximum(problem.nominal, -BIG), BIG)
        return self.solver.solve(wanted, self._dense, low, high, start)

    def active(self, problem: Problem, a: Vector) -> tuple[str, ...]:
        """Names of the rows of the last ``solve`` that bind at ``a``."""
        tol, joints = _ACTIVE * self._eps, 2 * self._n
        value = np.concatenate((a, self._dense @ a))
        low, high = value - self._low < tol, self._high - value < tol
        names = [self._rows[k] for k in np.flatnonzero(np.concatenate((low[:joints], high[:joints])))]
        names += [f"clearance:{self._pairs[problem.rows.pairs[k]]}" for k in np.flatnonzero(low[joints:])]
        return tuple(names)

    def _torque_rows(self, dynamics: Dynamics, brake: Vector, tight: float) -> None:
        n, inertia = self._n, np.diagonal(dynamics.M)
        np.divide(dynamics.M, inertia[:, None], out=self._dense[:n])
        at_brake = self._dense[:n] @ brake
        self._low[n : 2 * n] = np.minimum((-self._tau - dynamics.h) / inertia + tight, at_brake)
        self._high[n : 2 * n] = np.maximum((self._tau - dynamics.h) / inertia - tight, at_brake)

    def _clearance_rows(self, rows: ClearanceRows, brake: Vector, tight: float) -> None:
        """Slots without a pair are rows of zeros that nothing can violate; the sparsity never changes."""
        n, k = self._n, len(rows.pairs)
        self._dense[n + k :] = 0.0
        self._low[2 * n + k :] = -BIG
        if k == 0:
            return
        length = row_lengths(rows.C)
        self._dense[n : n + k] = rows.C / length[:, None]
        at_brake = self._dense[n : n + k] @ brake
        self._low[2 * n : 2 * n + k] = np.minimum(rows.bound / length + tight, at_brake)


def row_lengths(rows: Vector) -> Vector:
    """Length of every row, never zero, shape (k,)."""
    squares: Vector = np.einsum("ij,ij->i", rows, rows)
    return np.maximum(np.sqrt(squares), 1e-12)
