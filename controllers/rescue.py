"""OSQP within its iteration budget, and DAQP for what it leaves: the solver that the filter uses."""

from __future__ import annotations

from typing import Literal

from safeguard.controllers.daqp import DaqpSolver
from safeguard.controllers.qp import OsqpSolver, Pattern
from safeguard.controllers.settle import SettledSolver
from safeguard.controllers.solver import Answer, Solver
from safeguard.core.config import SolverConfig
from safeguard.core.enums import SolverStatus
from safeguard.core.types import Vector

SolverName = Literal["osqp", "daqp"]


class RescuedSolver:
    """OSQP; where it isn't done within ``max_iter`` iterations, DAQP, exactly.

    A rescue gives OSQP the exact point and multipliers to start from next time.
    """

    def __init__(self, n: int, rows: int, config: SolverConfig, pattern: Pattern | None = None) -> None:
        self.first = OsqpSolver(n, rows, config, pattern)
        self.second = DaqpSolver(n, rows, config)

    def reset(self) -> None:
        """Forget earlier programs."""
        self.first.reset()

    def solve(self, nominal: Vector, dense: Vector, lower: Vector, upper: Vector, start: Vector) -> Answer:
        """See ``Solver``; SOLVED, RESCUED, UNSOLVED or REJECTED. Iterations are those of both."""
        x, status, iterations = self.first.solve(nominal, dense, lower, upper, start)
        if status is SolverStatus.SOLVED:
            return x, status, iterations
        x, status, steps = self.second.solve(nominal, dense, lower, upper, start)
        if status is SolverStatus.SOLVED:
            self.first.resume(x, self.second.multipliers)
            status = SolverStatus.RESCUED
        return x, status, iterations + steps


def make_solver(
    name: SolverName, n: int, rows: int, config: SolverConfig, pattern: Pattern | None = None
) -> Solver:  # fmt: skip
    """The solver called ``name``, asked for what does not settle by itself; "osqp" has DAQP behind it.

    OSQP is faster with ``pattern``.

    Args:
        name: "osqp" or "daqp".
        n, rows: number of variables and of dense rows.
        config: tolerance, iterations, rho.
        pattern: where the dense rows may differ from zero, shape (rows, n); everywhere if not given.
    """
    behind = RescuedSolver(n, rows, config, pattern) if name == "osqp" else DaqpSolver(n, rows, config)
    return SettledSolver(n, rows, behind) if config.settle else behind
