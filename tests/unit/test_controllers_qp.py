"""The OSQP wrapper beyond what every solver promises (test_controllers_solver.py) and its pitfalls."""

from __future__ import annotations

import numpy as np

from safeguard.controllers.daqp import DaqpSolver
from safeguard.controllers.qp import OsqpSolver
from safeguard.controllers.rescue import RescuedSolver
from safeguard.core.config import SolverConfig
from safeguard.core.enums import SolverStatus
from tests.unit.solver_support import CONFIG, PATIENT, ROWS, N, random_problem, simple


def test_point_and_multipliers_of_the_last_success_save_iterations() -> None:
    """The second solve of the same problem needs less than half the iterations of the first, all over 30 problems."""
    rng, first, second, solver = np.random.default_rng(11), 0, 0, OsqpSolver(N, ROWS, PATIENT)
    for _ in range(30):
        problem = random_problem(rng)
        solver.reset()
        first += problem.solved_by(solver)[2]
        second += problem.solved_by(solver)[2]
    assert second < 0.5 * first


def test_a_program_that_changes_slowly_is_followed_in_fewer_iterations() -> None:
    """Along 10 paths of 50 programs whose nominal moves by 1 % a step, warm starts save a fifth of the iterations."""
    rng = np.random.default_rng(12)
    warm, cold = OsqpSolver(N, ROWS, PATIENT), OsqpSolver(N, ROWS, PATIENT)
    tracked, fresh = 0, 0
    for _ in range(10):
        problem = random_problem(rng)
        for _ in range(50):
            problem = problem.with_(nominal=problem.nominal + 0.01 * rng.normal(0.0, 15.0, N))
            cold.reset()
            tracked += problem.solved_by(warm)[2]
            fresh += problem.solved_by(cold)[2]
    assert tracked < 0.8 * fresh


def test_a_foreign_solution_is_a_start() -> None:
    """From the exact point and multipliers, by another solver, OSQP is done at its first check."""
    rng, osqp, daqp = np.random.default_rng(13), OsqpSolver(N, ROWS, PATIENT), DaqpSolver(N, ROWS, CONFIG)
    for _ in range(30):
        problem = random_problem(rng)
        x, status, _ = problem.solved_by(daqp)
        assert status is SolverStatus.SOLVED
        osqp.resume(x, daqp.multipliers)
        again, status, iterations = problem.solved_by(osqp)
        assert (status, iterations) == (SolverStatus.SOLVED, PATIENT.check_every)
        np.testing.assert_allclose(again, x, atol=1e-5)


def test_a_failure_ends_the_warm_start() -> None:
    """After a spent budget the next program starts from its own start, bit for bit like a fresh solver's."""
    config = SolverConfig(eps_abs=1e-6, rho=0.5, max_iter=80)
    solver, rng = OsqpSolver(N, ROWS, config), np.random.default_rng(14)
    assert simple().solved_by(solver)[1] is SolverStatus.SOLVED
    statuses = iter(lambda: random_problem(rng).solved_by(solver)[1], SolverStatus.UNSOLVED)
    assert len(list(statuses)) < 20  # all that came before the first failure
    np.testing.assert_array_equal(
        simple(high=2.0).solved_by(solver)[0], simple(high=2.0).solved_by(OsqpSolver(N, ROWS, config))[0]
    )


def test_the_error_of_an_answer_keeps_its_bound() -> None:
    """‖x − x*‖ ≤ (ε√n + √(ε²n + 4ε‖y − y*‖₁)) / 2 for 100 programs at two tolerances.

    With residuals r_p = A x − z and r_d = x − x_nom + Aᵀ y, both at most ε in every entry, and y normal to the bounds
    at z, (y − y*)·(z − z*) ≥ 0, and so
    ‖x − x*‖² = r_d·(x − x*) − (y − y*)·(z − z* + r_p) ≤ ε√n ‖x − x*‖ + ε ‖y − y*‖₁.
    """
    rng, exact = np.random.default_rng(15), DaqpSolver(N, ROWS, CONFIG)
    for eps in (1e-3, 1e-6):
        solver, errors = OsqpSolver(N, ROWS, SolverConfig(eps_abs=eps, rho=0.5, max_iter=20_000)), list[float]()
        for _ in range(100):
            problem = random_problem(rng)
            x, status, _ = problem.solved_by(solver)
            best = problem.solved_by(exact)[0]
            assert status is SolverStatus.SOLVED
            apart = float(np.abs(solver.multipliers - exact.multipliers).sum())
            errors.append(float(np.linalg.norm(x - best)))
            assert errors[-1] <= (eps * np.sqrt(N) + np.sqrt(eps**2 * N + 4.0 * eps * apart)) / 2.0 + 1e-8
        assert np.median(errors) < 3.0 * eps  # far within it where the multipliers are close


def test_a_pattern_changes_the_work_and_not_the_answer() -> None:
    """With half of the entries declared zero OSQP holds half as many, and the answers agree within 1e-5 rad/s²."""
    rng = np.random.default_rng(16)
    pattern = rng.random((ROWS, N)) < 0.5
    narrow, full = OsqpSolver(N, ROWS, PATIENT, pattern), OsqpSolver(N, ROWS, PATIENT)
    assert len(narrow.values) == N + pattern.sum()
    for _ in range(30):
        problem = random_problem(rng)
        brake = np.clip(np.zeros(N), problem.lower[:N], problem.upper[:N])
        sparse = np.where(pattern, problem.dense, 0.0)
        row = sparse @ brake
        lower, upper = problem.lower.copy(), problem.upper.copy()
        lower[N:], upper[N:] = np.minimum(lower[N:], row), np.maximum(upper[N:], row)
        problem = problem.with_(dense=sparse, lower=lower, upper=upper)
        (x, status, _), (y, verdict, _) = problem.solved_by(narrow), problem.solved_by(full)
        assert (status, verdict) == (SolverStatus.SOLVED, SolverStatus.SOLVED)
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_an_entry_outside_the_pattern_is_rejected_and_rescued() -> None:
    """One number where zeros were promised: OSQP alone rejects the program, with DAQP behind it it is answered."""
    pattern = np.ones((ROWS, N), dtype=bool)
    pattern[3, 4] = False
    problem = simple()
    problem.dense[3, 4] = 1e-9
    x, status, iterations = problem.solved_by(OsqpSolver(N, ROWS, PATIENT, pattern))
    assert (status, iterations) == (SolverStatus.REJECTED, 0)
    assert x is problem.start
    assert problem.solved_by(RescuedSolver(N, ROWS, CONFIG, pattern))[1] is SolverStatus.RESCUED
