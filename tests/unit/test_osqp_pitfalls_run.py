"""The pitfalls of OSQP from 7 on: how it runs and what it remembers. See ``test_osqp_pitfalls.py`` for the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import osqp
import pytest
from scipy import sparse

from safeguard.controllers.qp import OsqpSolver
from safeguard.controllers.solver import BIG
from safeguard.core.config import SolverConfig
from safeguard.core.enums import SolverStatus
from safeguard.core.types import Vector
from tests.unit.osqp_support import raw, settings
from tests.unit.solver_support import CONFIG, PATIENT, ROWS, N, infeasible, random_problem, simple


@pytest.fixture
def solver() -> OsqpSolver:
    """The wrapper, with iterations enough to need no rescue."""
    return OsqpSolver(N, ROWS, PATIENT)


# -- 7: polishing ---------------------------------------------------------------------------------------


def polished(seed: int) -> tuple[Any, float]:
    """(result, dual residual) of a small problem with one row of large numbers, polished, at a tolerance of 1e-8."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(4, 4))
    P = root @ root.T + 0.1 * np.eye(4)
    row = rng.normal(size=4) * 10.0 ** rng.uniform(4.0, 6.0, 4)
    q, width = rng.normal(size=4) * 2.0, 0.2 * np.abs(row).sum()
    instance = osqp.OSQP(algebra="builtin")
    instance.setup(
        sparse.csc_matrix(np.triu(P)), q, sparse.csc_matrix(row[None]), np.array([-width]), np.array([width]),
        verbose=False, polishing=True, eps_abs=1e-8, eps_rel=0.0,
    )  # fmt: skip
    result = instance.solve(raise_error=False)
    return result, float(np.abs(P @ result.x + q + row * result.y).max())


def test_7_raw_osqp_accepts_a_polished_point_that_is_no_solution() -> None:
    """A polished point is "solved" with a dual residual of 0.17 where 1e-8 was asked for (osqp #790)."""
    result, residual = polished(282)
    assert (result.info.status, result.info.status_polish) == ("solved", 1)
    assert residual > 1e-3


def test_7_raw_osqp_does_not_say_solved_differently_when_polishing_fails() -> None:
    """Failed polishing leaves the status "solved"; only a second status tells."""
    result, _ = polished(3)
    assert (result.info.status, result.info.status_polish) == ("solved", -1)


def test_7_the_wrapper_does_not_polish_and_recomputes_every_row(
    solver: OsqpSolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polishing is off; and a library that says "solved" for a wrong x gets UNSOLVED."""
    assert settings(solver.raw).polishing == 0

    class Lying:
        """An OSQP that is always done, at a point that breaks a bound by a hundred tolerances."""

        class Info:
            status_val = osqp.SolverStatus.OSQP_SOLVED
            iter = 10

        class Solution:
            x = np.full(N, 1.0 + 100.0 * PATIENT.eps_abs)
            y = np.zeros(N + ROWS)

        info, solution = Info(), Solution()

        def accept(self, *_: Any, **__: Any) -> int:
            return 0

        update_data_vec = update_data_mat = warm_start = solve = accept

    monkeypatch.setattr(solver, "raw", Lying())
    problem = simple()
    x, status, _ = problem.solved_by(solver)
    assert status is SolverStatus.UNSOLVED
    assert x is problem.start
    for wrong in (np.nan, np.inf, 1e300):
        monkeypatch.setattr(Lying.Solution, "x", np.full(N, wrong))
        assert problem.solved_by(solver)[1] is SolverStatus.UNSOLVED


# -- 8: limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "status"),
    [
        ({"time_limit": 1e-9}, "run time limit reached"),
        ({"max_iter": 1, "eps_abs": 1e-9}, "maximum iterations reached"),
    ],
)
def test_8_raw_osqp_returns_its_last_iterate_at_a_limit(limit: dict[str, float], status: str) -> None:
    """At a limit x is whatever it was, here far outside the bounds; a time limit is spent by the set-up alone."""
    result = raw(**limit).solve(raise_error=False)
    assert result.info.status == status
    assert np.abs(result.x).max() > 1.1


def test_8_the_wrapper_limits_iterations_only_and_keeps_the_last_iterate_to_itself() -> None:
    """There is no time limit, and a spent budget gives the start, marked UNSOLVED, after exactly ``max_iter``."""
    hurried = OsqpSolver(N, ROWS, SolverConfig(max_iter=10, eps_abs=1e-9))
    assert settings(hurried.raw).time_limit >= 1e9
    problem = random_problem(np.random.default_rng(3))
    x, status, iterations = problem.solved_by(hurried)
    assert (status, iterations) == (SolverStatus.UNSOLVED, 10)
    assert x is problem.start


# -- 9: history -----------------------------------------------------------------------------------------


def test_9_raw_osqp_remembers_earlier_problems() -> None:
    """The same data after another problem gives other bits."""
    rng = np.random.default_rng(6)
    rows = sparse.csc_matrix(np.vstack([np.eye(N), rng.normal(size=(N, N))]))
    instance = osqp.OSQP(algebra="builtin")
    low, high = np.full(2 * N, -1.0), np.full(2 * N, 1.0)
    q = rng.normal(0.0, 9.0, N)
    instance.setup(sparse.eye(N, format="csc"), q, rows, low, high, verbose=False)
    first = np.array(instance.solve(raise_error=False).x)
    instance.update(q=-3.0 * q[::-1].copy())
    instance.solve(raise_error=False)
    instance.update(q=q)
    assert not np.array_equal(first, instance.solve(raise_error=False).x)


def test_9_a_reset_wrapper_has_no_memory(solver: OsqpSolver) -> None:
    """After unrelated, infeasible and refused problems and a reset the answer is bit-identical to a fresh solver's."""
    rng = np.random.default_rng(7)
    for k in range(30):
        random_problem(rng).solved_by(solver)
        if k % 5 == 0:
            infeasible().solved_by(solver)
            simple(nominal=np.nan).solved_by(solver)
        problem = random_problem(rng)
        solver.reset()
        found, fresh = problem.solved_by(solver), problem.solved_by(OsqpSolver(N, ROWS, PATIENT))
        np.testing.assert_array_equal(found[0], fresh[0])
        assert found[1:] == fresh[1:]


def test_9_the_wrapper_never_moves_rho(solver: OsqpSolver) -> None:
    """Adaptation of rho is off, and over 40 hard programs it was never updated."""
    assert settings(solver.raw).adaptive_rho == 0
    rng = np.random.default_rng(8)
    for _ in range(40):
        random_problem(rng).solved_by(solver)
        assert solver.raw.info.rho_updates == 0


# -- 10: types of rows and the pattern of zeros ---------------------------------------------------------


def test_10_raw_osqp_treats_an_infinite_bound_as_another_kind_of_row() -> None:
    """A row that becomes unbounded gets another weight: with u = ∞ the iterates differ from those with a huge u."""

    def after(bound: float) -> Vector:
        instance = raw(scaling=0)
        instance._solver.update_data_vec(q=None, l=np.full(N, -bound), u=np.full(N, bound))
        return np.array(instance.solve(raise_error=False).x)

    assert not np.array_equal(after(np.inf), after(1e6))


def test_10_raw_osqp_cannot_fill_a_zero_that_was_not_in_the_pattern() -> None:
    """A matrix set up from data with zeros has no room for the numbers that stand there later."""
    instance = osqp.OSQP(algebra="builtin")
    sparse_rows = sparse.csc_matrix(np.vstack([np.eye(N), np.zeros((1, N))]))
    ones = np.ones(N + 1)
    instance.setup(sparse.eye(N, format="csc"), np.zeros(N), sparse_rows, -ones, ones, verbose=False)
    full = np.vstack([np.eye(N), np.ones((1, N))])
    assert instance._solver.update_data_mat(P_x=None, P_i=None, A_x=full.T[full.T != 0.0].copy(), A_i=None) != 0


def test_10_to_the_wrapper_no_bound_is_a_large_one(solver: OsqpSolver) -> None:
    """±∞ and ±BIG give the same bits, and rows that were zero for many programs can be used in the next."""
    problem = random_problem(np.random.default_rng(9))
    expected = problem.solved_by(solver)[0]
    infinite = problem.with_(
        lower=np.where(problem.lower == -BIG, -np.inf, problem.lower),
        upper=np.where(problem.upper == BIG, np.inf, problem.upper),
    )
    solver.reset()
    assert not np.isfinite(infinite.upper).all()
    np.testing.assert_array_equal(infinite.solved_by(solver)[0], expected)
    for _ in range(5):
        simple().solved_by(solver)
    solver.reset()
    np.testing.assert_array_equal(problem.solved_by(solver)[0], expected)


# -- 11: scaling and conversion -------------------------------------------------------------------------


def test_11_raw_osqp_rescales_by_default() -> None:
    """Ten passes of scaling are the default, and each new matrix pays for them."""
    assert settings(raw()._solver).scaling == 10


def test_11_the_wrapper_scales_nothing_and_converts_nothing(solver: OsqpSolver) -> None:
    """Scaling is off, and the numbers lie in the buffer as scipy's conversion to compressed columns would put them."""
    assert settings(solver.raw).scaling == 0
    problem = random_problem(np.random.default_rng(10))
    problem.dense[problem.dense == 0.0] = 0.25
    problem.solved_by(solver)
    expected = sparse.csc_matrix(np.vstack([np.eye(N), problem.dense]))
    np.testing.assert_array_equal(solver.values, expected.data)


# -- 12: when convergence is noticed --------------------------------------------------------------------


def test_12_raw_osqp_notices_convergence_every_25_iterations() -> None:
    """By default the number of iterations is a multiple of 25, and checking more often ends earlier."""
    default = raw(scaling=0).solve(raise_error=False).info.iter
    assert default % 25 == 0
    assert raw(scaling=0, check_termination=5).solve(raise_error=False).info.iter < default


def test_12_the_wrapper_checks_as_often_as_configured() -> None:
    """The number of iterations is a multiple of ``check_every``, and not only of a multiple of it."""
    solver, rng = OsqpSolver(N, ROWS, CONFIG), np.random.default_rng(11)
    counts = {random_problem(rng).solved_by(solver)[2] for _ in range(40)}
    assert all(count % CONFIG.check_every == 0 for count in counts)
    assert any(count % (2 * CONFIG.check_every) for count in counts)
