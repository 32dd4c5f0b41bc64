"""The filter's quadratic program as matrices, and the names of its rows.

    minimise ½ ‖a − a_nom‖²   subject to   low ≤ [I; D_τ; D_c] a ≤ high,

with D_τ = M for the torques and D_c for clearance, each row scaled to unit length: every row is in rad/s², so that one
tolerance of the solver means the same everywhere. Bounds are tightened by that tolerance, but never past
the braking point, so that the program always has a solution.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from safeguard.controllers.clearance import ClearanceRows, Distances
from safeguard.controllers.dynamics import Dynamics
from safeguard.controllers.motor import TorqueBounds
from safeguard.controllers.qp import Pattern
from safeguard.controllers.rescue import make_solver
from safeguard.controllers.solver import BIG
from safeguard.controllers.speed import joined
from safeguard.core.compiled import (
    COUNT,
    INTS,
    MATRIX,
    NUMBER,
    OUT,
    OUT_INTS,
    OUT_MATRIX,
    VECTOR,
    Integers,
    kernel,
    types,
)
from safeguard.core.config import FilterConfig
from safeguard.core.enums import SolverStatus
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

Flags = NDArray[np.bool_]

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
        smooth: (smallest, largest) torque that keeps the torque rate comfortable, each of shape (n,), N·m, or None.
        lower, upper: viable accelerations, shape (n,), rad/s².
        rows: clearance rows that a proposal keeps, relaxed to full braking.
        retreat: full braking, or what besides leads away from what is too near; the program always has this solution,
            shape (n,), rad/s².
        retreat_rows: clearance rows of the program, relaxed to the retreat.
        speed: rows of the speed caps, if there are any.
        slack: (name, amount) of the relaxed ones, m.
        distances: of all kept pairs at q.
    """

    q: Vector
    v: Vector
    nominal: Vector
    torque: Vector | None
    smooth: tuple[Vector, Vector] | None
    lower: Vector
    upper: Vector
    rows: ClearanceRows
    retreat: Vector
    retreat_rows: ClearanceRows
    speed: ClearanceRows | None
    slack: tuple[tuple[str, float], ...]
    distances: Distances


@kernel(
    types.void, *[VECTOR] * 4, MATRIX, *[VECTOR] * 3, INTS, MATRIX, *[VECTOR] * 2, NUMBER, OUT_MATRIX, *[OUT] * 4
)  # fmt: skip
def fill(
    nominal: Vector,
    brake: Vector,
    lower: Vector,
    upper: Vector,
    M: Vector,
    h: Vector,
    tau_low: Vector,
    tau_high: Vector,
    slots: Integers,
    C: Vector,
    bound: Vector,
    length: Vector,
    tight: float,
    dense: Vector,
    low: Vector,
    high: Vector,
    wanted: Vector,
    start: Vector,
) -> None:
    """Fill the program: rows, bounds, the point to come close to and where to start.

    Slots without a pair are rows of zeros that nothing can violate; the sparsity never changes.
    """
    n = len(nominal)
    for j in range(n):
        square = 0.0
        for k in range(n):
            square += M[j, k] * M[j, k]
        unit = 1.0 / sqrt(square)  # the row's own length, so that none outweighs the others
        wanted[j] = min(max(nominal[j], -BIG), BIG)
        low[j], high[j] = min(lower[j] + tight, brake[j]), max(upper[j] - tight, brake[j])
        start[j] = min(max(nominal[j], low[j]), high[j])
        at_brake = 0.0
        for k in range(n):
            dense[j, k] = M[j, k] * unit
            at_brake += dense[j, k] * brake[k]
        low[n + j] = min((tau_low[j] - h[j]) * unit + tight, at_brake)
        high[n + j] = max((tau_high[j] - h[j]) * unit - tight, at_brake)
    for r in range(n, len(dense)):
        low[n + r], high[n + r] = -BIG, BIG
        for k in range(n):
            dense[r, k] = 0.0
    for c in range(len(slots)):
        r, at_brake = n + slots[c], 0.0
        for k in range(n):
            dense[r, k] = C[c, k] / length[c]
            at_brake += dense[r, k] * brake[k]
        low[n + r] = min(bound[c] / length[c] + tight, at_brake)


@kernel(COUNT, VECTOR, MATRIX, VECTOR, VECTOR, INTS, INTS, NUMBER, OUT_INTS)
def binding(
    a: Vector,
    dense: Vector,
    low: Vector,
    high: Vector,
    slots: Integers,
    pairs: Integers,
    tolerance: float,
    out: Integers,
) -> int:
    """Fill ``out`` with the bounds that bind at ``a``, and return how many do.

    2 r and 2 r + 1 are the lower and the upper bound of row r, for joints and torques; 4 n + k is that of pair k.
    """
    n, count = len(a), 0
    for r in range(2 * n + len(slots)):
        row, value = r if r < 2 * n else 2 * n + slots[r - 2 * n], 0.0
        if r < n:
            value = a[r]
        else:
            for k in range(n):
                value += dense[row - n, k] * a[k]
        below, above = value - low[row] < tolerance, high[row] - value < tolerance
        if below or (above and r < 2 * n):
            out[count] = 4 * n + pairs[r - 2 * n] if r >= 2 * n else 2 * r if below else 2 * r + 1
            count += 1
    return count


def _pattern(robot: RobotModel, slots: int) -> Pattern:
    """Which entries of the dense rows can be other than zero: M couples joints that carry one another."""
    model, n = robot.pin_model, robot.n
    carries = np.zeros((n, n), dtype=bool)
    for j in range(n):
        carries[[model.joints[k].idx_v for k in model.supports[j + 1] if k > 0], j] = True
    return np.vstack((carries | carries.T, np.ones((slots, n), dtype=bool)))


class Program:
    """Builds the program of a ``Problem`` in place, solves it, and names the rows that bind.

    ``speed`` names the points with a speed cap.
    """

    def __init__(self, robot: RobotModel, config: FilterConfig, dt: float, speed: tuple[str, ...] = ()) -> None:
        n, self._first = robot.n, (len(robot.collision.names), config.clearance.slots)
        slots = config.clearance.slots + (config.speed.slots if speed else 0)
        self.solver = make_solver(config.solver.name, n, n + slots, config.solver, _pattern(robot, slots))
        self._n, self._eps = n, config.solver.eps_abs
        self._torque = TorqueBounds(robot.limits, 1.0 - config.margins.torque_share, dt)
        self._dense = np.zeros((n + slots, n))
        self._low, self._high = np.full(2 * n + slots, -BIG), np.full(2 * n + slots, BIG)
        self._wanted, self._start = np.zeros(n), np.zeros(n)
        self._rows: ClearanceRows | None = None  # of the last solve
        self._smoothed: tuple[Flags, Flags] | None = None  # joints whose torque bound was a rate, below and above
        self._binds = np.zeros(2 * n + slots, dtype=np.int64)
        self._names = [f"{side}:{joint}" for joint in robot.joints for side in ("lower", "upper")]
        self._names += [f"torque:{joint}" for joint in robot.joints for _ in range(2)]
        self._names += [*(f"clearance:{name}" for name in robot.collision.names), *speed]

    def reset(self) -> None:
        """Forget the history of the solver."""
        self.solver.reset()

    def solve(self, problem: Problem, dynamics: Dynamics) -> tuple[Vector, SolverStatus, int]:
        """(acceleration, status, iterations); an acceleration only where the status is ``answered``."""
        rows = problem.retreat_rows
        if problem.speed is not None:
            rows = joined(rows, problem.speed, *self._first)
        self._rows = rows
        tau_low, tau_high = self._torque(problem.v)
        self._smoothed = None
        if problem.smooth is not None:
            self._smoothed = tau_low < problem.smooth[0], problem.smooth[1] < tau_high
            tau_low, tau_high = (np.clip(edge, tau_low, tau_high) for edge in problem.smooth)
        fill(
            problem.nominal, problem.retreat, problem.lower, problem.upper, dynamics.M.T, dynamics.h,
            tau_low, tau_high, rows.slots, rows.C, rows.bound, rows.length, TIGHTEN * self._eps,
            self._dense, self._low, self._high, self._wanted, self._start,
        )  # fmt: skip
        return self.solver.solve(self._wanted, self._dense, self._low, self._high, self._start)

    def active(self, problem: Problem, a: Vector) -> tuple[str, ...]:
        """Names of the rows of the last ``solve`` that bind at ``a``."""
        rows = self._rows or problem.retreat_rows
        count = binding(a, self._dense, self._low, self._high, rows.slots, rows.pairs, _ACTIVE * self._eps, self._binds)
        bounds: list[int] = self._binds[:count].tolist()
        if self._smoothed is None:
            names = [self._names[bound] for bound in bounds]
        else:
            names = [self._rate_name(bound, self._smoothed) or self._names[bound] for bound in bounds]
        return tuple(dict.fromkeys(names))

    def _rate_name(self, bound: int, smoothed: tuple[Flags, Flags]) -> str:
        """The name of a torque bound that was a rate, else ""."""
        joint, side = divmod(bound - 2 * self._n, 2)
        rate = 0 <= joint < self._n and bool(smoothed[side][joint])
        return self._names[bound].replace("torque:", "torque_rate:") if rate else ""
