"""Both solvers against the statement on paper, on two thousand random and adversarial programs.

HYPOTHESIS_PROFILE=explore takes twenty times as many (five minutes).
"""

from __future__ import annotations

import os
from functools import cache
from types import SimpleNamespace
from typing import Any

import cvxpy
import numpy as np
import pytest

from safeguard.controllers.clearance import ClearanceRows
from safeguard.controllers.daqp import DaqpSolver
from safeguard.controllers.program import TIGHTEN, Program
from safeguard.controllers.program import Problem as Tick
from safeguard.controllers.qp import OsqpSolver
from safeguard.controllers.rescue import RescuedSolver
from safeguard.controllers.settle import SettledSolver
from safeguard.controllers.solver import BIG, Solver
from safeguard.core.config import ClearanceConfig, FilterConfig, SolverConfig
from safeguard.core.enums import SolverStatus
from safeguard.core.types import Vector
from tests.theory.qp_problems import KINDS, program
from tests.theory.qp_specification import Physics, Specification
from tests.unit.solver_support import Problem

EPS = 1e-6  # rad/s²
MARGIN = 2.0 * EPS
CONFIG = SolverConfig(eps_abs=EPS, rho=0.5, max_iter=100)
PATIENT = SolverConfig(eps_abs=EPS, rho=0.5, max_iter=2000)
SCALED = 1e-5  # of the larger of 1 rad/s², the nominal and the answer
MORE = 20 if os.environ.get("HYPOTHESIS_PROFILE") == "explore" else 1
ARM, HUMANOID = (7, 8), (29, 16)  # joints, clearance rows
SIZES = [pytest.param(ARM, 150 * MORE, id="arm"), pytest.param(HUMANOID, 12 * MORE, id="humanoid")]
MODELLING: Any = cvxpy


@cache
def specification(size: tuple[int, int], margin: float = MARGIN) -> Specification:
    """The statement, compiled once a size and margin."""
    return Specification(*size, margin)


def scaled_error(x: Vector, best: Vector, p: Physics) -> float:
    """Largest difference of two accelerations, relative to what the program is about."""
    return float(np.abs(x - best).max() / max(1.0, np.abs(best).max(), np.abs(p.nominal).max()))


@pytest.mark.parametrize(("size", "count"), SIZES)
@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_every_solver_finds_the_point_of_the_specification(kind: Any, size: tuple[int, int], count: int) -> None:
    """Within 1e-5 scaled; DAQP and what settles exactly inside every row, OSQP and the rescued one within eps_abs."""
    n, k = size
    rng, spec = np.random.default_rng([n, *kind.__name__.encode()]), specification(size)
    exact, rescued = DaqpSolver(n, n + k, CONFIG), RescuedSolver(n, n + k, CONFIG)
    osqp, unfinished = OsqpSolver(n, n + k, PATIENT), 0
    settling = SettledSolver(n, n + k, exact)
    for _ in range(count):
        p = kind(rng, n, k)
        best, problem = spec.solve(p), program(p, MARGIN)
        x, status, _ = problem.solved_by(exact)
        assert status is SolverStatus.SOLVED
        assert scaled_error(x, best, p) < SCALED
        assert p.excess(x, MARGIN) < 1e-8
        x, status, _ = problem.solved_by(settling)
        assert status.answered
        assert scaled_error(x, best, p) < SCALED
        assert p.excess(x, MARGIN) < 1e-8
        x, status, _ = problem.solved_by(rescued)
        assert status.answered
        assert scaled_error(x, best, p) < SCALED
        assert p.excess(x, MARGIN) < 1.01 * EPS
        x, status, _ = problem.solved_by(osqp)
        unfinished += not status.answered
        if status.answered:
            assert scaled_error(x, best, p) < SCALED
    assert unfinished < count or kind.__name__ in ("wild", "vertex", "ill_scaled", "conflict")


def program_of_the_filter(size: tuple[int, int], p: Physics, config: FilterConfig) -> Program:
    """The filter's own program for a body of which it needs no more than sizes, names and torque limits."""
    n, _ = size
    limits = SimpleNamespace(tau_max=p.tau / (1.0 - config.margins.torque_share), a_max=np.ones(n), torque_curves=None)
    joints = tuple(f"joint{j}" for j in range(n))
    chain = SimpleNamespace(
        supports=[range(j + 1) for j in range(n + 1)], joints=[SimpleNamespace(idx_v=j - 1) for j in range(n + 1)]
    )
    body: Any = SimpleNamespace(
        n=n, limits=limits, joints=joints, pin_model=chain, collision=SimpleNamespace(names=("pair",))
    )
    return Program(body, config, 0.002)


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_the_program_of_the_filter_is_the_specification(kind: Any) -> None:
    """What ``Program`` makes of 40 ticks has the specification's solution within 1e-5 scaled, rows in any slots.

    At a coarse tolerance, so that the margin it keeps is seen, and with the exact solver, which does not care.
    """
    n, k = ARM
    config = FilterConfig(solver=SolverConfig(name="daqp", eps_abs=1e-3), clearance=ClearanceConfig(slots=k))
    spec, nothing = specification(ARM, TIGHTEN * config.solver.eps_abs), np.zeros(0)
    rng = np.random.default_rng([7, *kind.__name__.encode()])
    for _ in range(40):
        p = kind(rng, n, k)
        lengths = np.maximum(np.linalg.norm(p.C, axis=1), 1e-12)
        relaxed = np.minimum(p.b, p.C @ p.brake)
        rows = ClearanceRows(np.zeros(k, dtype=np.int64), rng.permutation(k), p.C, relaxed, p.b - relaxed, lengths)
        unseen: Any = None
        tick = Tick(
            nothing, np.zeros(n), p.nominal, None, None, p.low, p.high, rows, p.brake, rows, None, (), unseen
        )  # fmt: skip
        dynamics: Any = SimpleNamespace(M=np.asfortranarray(p.M), h=p.h)
        x, status, _ = program_of_the_filter(ARM, p, config).solve(tick, dynamics)
        assert status.answered
        assert scaled_error(x, spec.solve(p), p) < SCALED


def margin_of(problem: Problem) -> float:
    """By how much all rows can be tightened at once before nothing is left; negative if they must be loosened."""
    n = len(problem.nominal)
    x, room = MODELLING.Variable(n), MODELLING.Variable()
    rows = MODELLING.hstack([x, problem.dense @ x])
    kept = [rows >= problem.lower + room, rows <= problem.upper - room]
    statement = MODELLING.Problem(MODELLING.Maximize(room), kept)
    statement.solve(solver=MODELLING.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    assert statement.status == "optimal"
    return float(room.value)


def boundary_program(rng: np.random.Generator, n: int, rows: int) -> Problem:
    """Bounds of random rows around random points, which may or may not have anything in common."""
    dense = rng.normal(size=(rows, n))
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    centre, half = rng.normal(0.0, 3.0, n + rows), rng.uniform(0.0, 4.0, n + rows)
    nominal = rng.normal(0.0, 15.0, n)
    return Problem(nominal, dense, centre - half, centre + half, np.clip(nominal, -BIG, BIG))


@pytest.mark.parametrize(("n", "rows", "count"), [(2, 4, 150 * MORE), (7, 15, 150 * MORE), (29, 45, 15 * MORE)])
def test_the_verdict_is_right_outside_ten_tolerances_of_the_boundary(n: int, rows: int, count: int) -> None:
    """Programs with room for 10 to 10⁴ eps are answered, those that lack as much are not; after rescue and by DAQP."""
    rng = np.random.default_rng([n, rows])
    solvers: tuple[Solver, ...] = DaqpSolver(n, rows, CONFIG), RescuedSolver(n, rows, CONFIG)
    for _ in range(count):
        problem = boundary_program(rng, n, rows)
        room = margin_of(problem)
        for sign in (1.0, -1.0):
            shift = room - sign * EPS * 10.0 ** rng.uniform(1.01, 4.0)
            moved = problem.with_(lower=problem.lower + shift, upper=problem.upper - shift)
            for solver in solvers:
                x, status, _ = moved.solved_by(solver)
                assert status.answered == (sign > 0.0), (status, sign, shift)
                assert not status.answered or moved.excess(x) < 1.01 * EPS


def test_the_specification_is_not_blind() -> None:
    """Negative control: one bound moved by 1e-3 rad/s² in what the solver gets, and the answers differ."""
    n, k = ARM
    rng, spec, solver, seen = np.random.default_rng(1), specification(ARM), DaqpSolver(n, n + k, CONFIG), 0
    for _ in range(30):
        p = KINDS[0](rng, n, k)
        problem = program(p, MARGIN)
        binding = int(np.argmax(np.abs(solver.multipliers))) if problem.solved_by(solver)[1].answered else 0
        lower, upper = problem.lower.copy(), problem.upper.copy()
        lower[binding] -= 1e-3
        upper[binding] += 1e-3
        x = problem.with_(lower=lower, upper=upper).solved_by(solver)[0]
        seen += scaled_error(x, spec.solve(p), p) > SCALED
    assert seen == 30
