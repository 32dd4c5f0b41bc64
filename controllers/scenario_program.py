"""The convex scenario program behind a braking certificate, and the bounds that samples give.

The program needs cvxpy (extra ``certify``); everything else here does not.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safeguard.controllers.stop_samples import Stops
from safeguard.core.errors import MissingExtraError
from safeguard.core.types import Vector

Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]

_TOLERANCE = 1e-5  # of the torque limit, to which all rows of the program are met
_REFINEMENTS = 40  # times that broken rows are added before the program counts as unsolved
_PICKED = 8  # hardest samples a joint and round that become rows


@dataclass(frozen=True, slots=True)
class Answer:
    """What the program says, in units of the acceleration and torque limits.

    Attributes:
        shares: decelerations, shape (n,).
        reserve: torque kept for the feedback, shape (n,).
        feasible: all rows are met; else ``shares`` is where the least torque is lacking.
    """

    shares: Vector
    reserve: Vector
    feasible: bool


def load_cvxpy() -> Any:
    """The module; raises ``MissingExtraError`` where it is not installed."""
    try:
        return import_module("cvxpy")
    except ImportError as error:
        raise MissingExtraError("the braking certificate", "certify") from error


def scenario_program(
    nominal: list[tuple[Vector, Vector]],
    wrong: list[tuple[Vector, Vector]],
    external: Vector,
    least: Vector,
    most: float,
    times: Vector,
    room: float,
    elastic: bool,
) -> tuple[Vector, Vector] | None:
    """(shares of the accelerations, torque reserves) that every given stop allows; None if the solver has no answer.

    Torques are in units of the torque limit. ``nominal[j]`` and ``wrong[j]`` are (offset, slope) of joint j's rows,
    shapes (k,) and (k, n). Least sum of squares of the stopping times ``times`` / share; elastic: least lack of torque.
    """
    cp = load_cvxpy()
    n = len(external)
    share, reserve, lack, time = cp.Variable(n), cp.Variable(n), cp.Variable(n, nonneg=True), cp.Variable(n)
    rows = [share >= least, share <= most, time >= cp.multiply(times, cp.inv_pos(share))]
    if not elastic:
        rows.append(lack == 0)
    for j in range(n):
        offset, slope = nominal[j]
        rows.append(cp.abs(offset + slope @ share) + reserve[j] <= room + lack[j])
        offset, slope = wrong[j]
        rows.append(cp.abs(offset + slope @ share) + external[j] <= reserve[j])
    goal = cp.sum(lack) if elastic else cp.sum_squares(time)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an inaccurate answer is checked by the caller, row by row
        try:
            cp.Problem(cp.Minimize(goal), rows).solve(solver=cp.CLARABEL)
        except cp.SolverError:
            return None
    return None if share.value is None else (np.array(share.value), np.array(reserve.value))


class Rows:
    """The program's rows for sampled stops at one envelope.

    Args:
        stops: the samples.
        tau_max: torque limits, shape (n,), N·m.
        unit: of the decelerations, shape (n,), rad/s².
        feedback: factor on the disturbance, for the feedback's overshoot and for samples that were not seen.
    """

    def __init__(self, stops: Stops, tau_max: Vector, unit: Vector, feedback: float) -> None:
        scale = unit / tau_max[:, None]
        self._nominal = stops.tau0 / tau_max, stops.tau1 * scale
        self._wrong = feedback * stops.wrong0 / tau_max, feedback * stops.wrong1 * scale
        self._external = feedback * stops.external / tau_max

    def excess(self, answer: Answer, room: float) -> Vector:
        """By how much every stop breaks its rows at most, shape (k,); about 0 for those that shape the answer."""
        nominal, wrong = self._sizes(answer.shares)
        worst: Vector = np.maximum((nominal + answer.reserve).max(axis=1) - room, (wrong - answer.reserve).max(axis=1))
        return worst

    def solve(self, keep: Mask, least: Vector, most: float, times: Vector, room: float) -> Answer | None:
        """``scenario_program`` over the stops of ``keep``, shape (k,), bool; elastic if it cannot be met."""
        found = self._solve(np.flatnonzero(keep), least, most, times, room, elastic=False)
        return found or self._solve(np.flatnonzero(keep), least, most, times, room, elastic=True)

    def _solve(
        self, which: Indices, least: Vector, most: float, times: Vector, room: float, elastic: bool
    ) -> Answer | None:
        """Rows are added where the answer breaks them, until it breaks none: the answer of the whole program."""
        n, nobody = len(self._external), np.zeros(0, dtype=np.intp)
        picked = [(nobody, nobody)] * n
        answer = Answer(np.maximum(least, 0.5 * most), np.zeros(n), not elastic)
        for _ in range(_REFINEMENTS):
            nominal, wrong = self._sizes(answer.shares, which)
            more = [(which[_largest(nominal[:, j])], which[_largest(wrong[:, j])]) for j in range(n)]
            picked = [(np.union1d(a, x), np.union1d(b, y)) for (a, b), (x, y) in zip(picked, more, strict=True)]
            asks = [(self._nominal[0][k, j], self._nominal[1][k, j]) for j, (k, _) in enumerate(picked)]
            errs = [(self._wrong[0][k, j], self._wrong[1][k, j]) for j, (_, k) in enumerate(picked)]
            found = scenario_program(asks, errs, self._external, least, most, times, room, elastic)
            if found is None:
                return None
            answer = Answer(*found, not elastic)
            nominal, wrong = self._sizes(answer.shares, which)
            over = (
                (wrong - answer.reserve).max()
                if elastic
                else max((nominal + answer.reserve).max() - room, (wrong - answer.reserve).max())
            )
            if over <= _TOLERANCE:
                return answer
        return None

    def _sizes(self, shares: Vector, which: Any = slice(None)) -> tuple[Vector, Vector]:
        """(torque of the stop, torque that its feedback needs) of the stops ``which``, each of shape (k, n)."""
        nominal, wrong = (
            np.abs(offset[which] + slope[which] @ shares) for offset, slope in (self._nominal, self._wrong)
        )
        return nominal, wrong + self._external


def _largest(values: Vector) -> Indices:
    """Indices of the largest few."""
    if len(values) <= _PICKED:
        return np.arange(len(values))
    return np.argpartition(-values, _PICKED)[:_PICKED]


def violation_bound(violations: int, samples: int, beta: float) -> float:
    """Upper Clopper–Pearson bound on a probability, with confidence 1 − beta."""
    if violations >= samples:
        return 1.0
    return float(import_module("scipy.stats").beta.ppf(1.0 - beta, violations + 1, samples - violations))


def scenario_bound(samples: int, variables: int, dropped: int, beta: float) -> float:
    """Violation probability of a convex scenario design with samples left out, with confidence 1 − beta.

    The least ε with C(k + d − 1, k) Σ_{i < k + d} C(N, i) εⁱ (1 − ε)^(N−i) ≤ β (Campi & Garatti, "A sampling-and-
    discarding approach to chance-constrained optimization", JOTA 2011, theorem 2.1); k = 0 is the scenario theorem.
    """
    if samples <= dropped + variables:
        return 1.0
    tail = math.log(beta) - math.log(math.comb(dropped + variables - 1, dropped))
    binom = import_module("scipy.stats").binom
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        enough = binom.logcdf(dropped + variables - 1, samples, middle) <= tail
        low, high = (low, middle) if enough else (middle, high)
    return high
