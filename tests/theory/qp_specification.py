"""The filter's program as one would write it on paper, in physical units, solved by an interior-point method.

Nothing here is shared with the filter: no row is scaled, no solver is warm, and the acceleration that comes back is
accurate to rounding. It is the executable specification of ``controllers/program.py`` and of the solvers behind it.

    minimise   ½ ‖a − a_nom‖²
    subject to |M a + h| ≤ τ,   a_low ≤ a ≤ a_high,   C a ≥ b,

every bound tightened by the margin t (rad/s² along the row's own direction), and none
further than the braking point a_0 needs: where a_0 breaks a bound, the bound moves to the value at a_0.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import cvxpy
import numpy as np

from safeguard.core.types import Vector

MODELLING: Any = cvxpy  # ships types in part


@dataclass(frozen=True)
class Physics:
    """One tick in physical quantities.

    Attributes:
        nominal, brake: wanted and braking acceleration, shape (n,), rad/s².
        M, h, tau: mass matrix, shape (n, n), kg·m²; bias and torque limit, shape (n,), N·m.
        low, high: viable accelerations, shape (n,), rad/s².
        C, b: clearance rows, shape (k, n), and their bounds, shape (k,), m.
    """

    nominal: Vector
    brake: Vector
    M: Vector
    h: Vector
    tau: Vector
    low: Vector
    high: Vector
    C: Vector
    b: Vector

    def relaxed(self, margin: float) -> tuple[Vector, ...]:
        """Bounds of a, of M a + h and of C a (below only), tightened, then moved to hold at the braking point."""
        inertia, lengths = np.linalg.norm(self.M, axis=1), np.linalg.norm(self.C, axis=1)
        torque, rate = self.M @ self.brake + self.h, self.C @ self.brake
        return (
            np.minimum(self.low + margin, self.brake), np.maximum(self.high - margin, self.brake),
            np.minimum(-self.tau + margin * inertia, torque), np.maximum(self.tau - margin * inertia, torque),
            np.minimum(self.b + margin * lengths, rate),
        )  # fmt: skip

    def excess(self, a: Vector, margin: float) -> float:
        """Largest violation of a row at ``a``, each in rad/s², as the solvers measure it."""
        low, high, tau_low, tau_high, b = self.relaxed(margin)
        inertia, torque = np.linalg.norm(self.M, axis=1), self.M @ a + self.h
        lengths = np.maximum(np.linalg.norm(self.C, axis=1), 1e-12)
        over = np.maximum(tau_low - torque, torque - tau_high) / inertia
        parts = low - a, a - high, over, (b - self.C @ a) / lengths
        return max(float(part.max(initial=-np.inf)) for part in parts)


@dataclass
class Specification:
    """The statement for ``n`` joints and ``k`` clearance rows; made once, solved for many ``Physics``."""

    n: int
    k: int
    margin: float
    _given: dict[str, Any] = field(init=False)
    _a: Any = field(init=False)
    _statement: Any = field(init=False)

    def __post_init__(self) -> None:
        n, k = self.n, self.k
        vectors = dict.fromkeys(("nominal", "h", "low", "high", "tau_low", "tau_high"), n)
        shapes: dict[str, Any] = {**vectors, "b": k, "M": (n, n), "C": (k, n)}
        self._given = given = {name: MODELLING.Parameter(shape) for name, shape in shapes.items()}
        self._a = a = MODELLING.Variable(n)
        torque = given["M"] @ a + given["h"]
        self._statement = MODELLING.Problem(
            MODELLING.Minimize(0.5 * MODELLING.sum_squares(a - given["nominal"])),
            [
                given["low"] <= a, a <= given["high"],
                given["tau_low"] <= torque, torque <= given["tau_high"],
                given["C"] @ a >= given["b"],
            ],
        )  # fmt: skip

    def solve(self, physics: Physics) -> Vector:
        """The optimal acceleration, shape (n,), rad/s². The braking point is always feasible, so there is one."""
        low, high, tau_low, tau_high, b = physics.relaxed(self.margin)
        values = {
            "nominal": physics.nominal, "M": physics.M, "h": physics.h, "low": low, "high": high,
            "tau_low": tau_low, "tau_high": tau_high, "C": physics.C, "b": b,
        }  # fmt: skip
        for name, value in values.items():
            self._given[name].value = value
        # The braking point satisfies every row, so another verdict than optimal is Clarabel's own: one in 10,000 at the
        # tightest tolerance.
        for tolerance in (1e-10, 1e-9, 1e-8):
            with contextlib.suppress(MODELLING.error.SolverError):
                self._statement.solve(
                    solver=MODELLING.CLARABEL, tol_gap_abs=tolerance, tol_gap_rel=tolerance, tol_feas=tolerance
                )
                if self._statement.status == "optimal":
                    return np.asarray(self._a.value, dtype=float)
        raise AssertionError(f"Clarabel says {self._statement.status} of a program that the braking point satisfies")
