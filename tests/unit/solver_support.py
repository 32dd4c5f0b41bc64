"""Programs of the filter's shape for the tests of its solvers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from safeguard.controllers.solver import BIG, Answer, Solver
from safeguard.core.config import SolverConfig
from safeguard.core.types import Vector

N, ROWS = 7, 15
CONFIG = SolverConfig(eps_abs=1e-6, rho=0.5, max_iter=100)
PATIENT = SolverConfig(eps_abs=1e-6, rho=0.5, max_iter=20_000)  # OSQP needs no rescue


@dataclass(frozen=True)
class Problem:
    """A problem of the filter's shape: bounds of every variable, and ROWS dense rows of unit size."""

    nominal: Vector
    dense: Vector
    lower: Vector
    upper: Vector
    start: Vector

    @property
    def parts(self) -> tuple[Vector, ...]:
        """The arguments of ``Solver.solve``, in order."""
        return self.nominal, self.dense, self.lower, self.upper, self.start

    def solved_by(self, solver: Solver) -> Answer:
        """What a solver makes of it."""
        return solver.solve(*self.parts)

    def with_(self, **parts: Any) -> Problem:
        """The same with other parts, of whatever type."""
        given = {k: getattr(self, k) for k in ("nominal", "dense", "lower", "upper", "start")}
        return Problem(**{**given, **parts})

    def excess(self, x: Vector) -> float:
        """Largest violation of a row."""
        z = np.concatenate((x, self.dense @ x))
        return float(np.maximum(self.lower - z, z - self.upper).max())


def mass_matrix(rng: np.random.Generator, n: int, spread: float) -> Vector:
    """Symmetric and positive definite; its diagonal differs by a factor of about 10^(2 spread), shape (n, n)."""
    root = rng.normal(size=(n, n))
    scale = 10.0 ** rng.uniform(-spread / 2.0, spread / 2.0, n)
    inertia: Vector = scale[:, None] * (root @ root.T / n + 0.1 * np.eye(n)) * scale
    return inertia


def random_problem(rng: np.random.Generator) -> Problem:
    """Feasible at a braking point; the nominal lies well outside; unused slots are zero rows with huge bounds."""
    brake = rng.uniform(-3.0, 3.0, N)
    M = mass_matrix(rng, N, 0.5)
    inertia = M / np.diagonal(M)[:, None]
    slots = rng.normal(size=(ROWS - N, N))
    slots /= np.linalg.norm(slots, axis=1, keepdims=True)
    used = int(rng.integers(0, ROWS - N + 1))
    slots[used:] = 0.0
    dense = np.concatenate((inertia, slots))
    at_brake = dense @ brake
    lower = np.concatenate((brake - rng.uniform(0.0, 8.0, N), at_brake[:N] - rng.uniform(0.5, 20.0, N), at_brake[N:]))
    upper = np.concatenate((brake + rng.uniform(0.1, 8.0, N), at_brake[:N] + rng.uniform(0.5, 20.0, N)))
    upper = np.concatenate((upper, np.full(ROWS - N, BIG)))
    lower[2 * N :] -= rng.uniform(0.0, 2.0, ROWS - N)
    lower[2 * N + used :] = -BIG
    nominal = rng.normal(0.0, 15.0, N)
    return Problem(nominal, dense, lower, upper, np.clip(nominal, lower[:N], upper[:N]))


def simple(nominal: float = 5.0, low: float = -1.0, high: float = 1.0) -> Problem:
    """Every variable in [low, high], rows idle."""
    lower, upper = np.full(N + ROWS, -BIG), np.full(N + ROWS, BIG)
    lower[:N], upper[:N] = low, high
    return Problem(np.full(N, nominal), np.zeros((ROWS, N)), lower, upper, np.zeros(N))


def infeasible(gap: float = 2.0) -> Problem:
    """x₀ ≥ 1 by its bound, x₀ ≤ 1 − gap by a row."""
    problem = simple(low=1.0, high=2.0)
    problem.dense[0, 0] = 1.0
    problem.upper[N] = 1.0 - gap
    return problem
