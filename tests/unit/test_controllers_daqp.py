"""DAQP's own traps on the raw library, their absence in the wrapper, and the rescue of OSQP."""

from __future__ import annotations

from typing import Any

import daqp
import numpy as np
import pytest

from safeguard.controllers.daqp import DaqpSolver, lean
from safeguard.controllers.rescue import RescuedSolver, make_solver
from safeguard.controllers.settle import SettledSolver
from safeguard.core.config import SolverConfig
from safeguard.core.enums import SolverStatus
from safeguard.core.types import Vector
from tests.unit.solver_support import CONFIG, ROWS, N, Problem, infeasible, random_problem, simple


def raw(problem: Problem, **options: Any) -> tuple[Vector, int]:
    """(x, exit flag) of the library as a newcomer would call it."""
    sense = np.zeros(N + ROWS, dtype=np.intc)
    x, _, flag, _ = daqp.solve(
        np.eye(N), -problem.nominal, problem.dense, problem.upper, problem.lower, sense, **options
    )  # fmt: skip
    return x, flag


# -- the raw library ------------------------------------------------------------------------------------


def test_raw_daqp_calls_nan_data_optimal() -> None:
    """A NaN in the objective gives x = NaN, one in a bound or a row is ignored; the exit flag is 1 all the same."""
    x, flag = raw(simple(nominal=np.nan))
    assert flag == 1
    assert np.isnan(x).any()
    for part in ("upper", "dense"):
        problem = simple()
        getattr(problem, part).reshape(-1)[0] = np.nan
        assert raw(problem)[1] == 1


def test_raw_daqp_reads_a_view_as_if_it_were_contiguous() -> None:
    """A column of a table is read along the table's rows: a wrong x, and exit flag 1."""
    problem = simple(low=-9.0, high=9.0)
    view = np.stack((problem.nominal, -problem.nominal), axis=1)[:, 0]
    x, flag = raw(problem.with_(nominal=view.view()))
    np.testing.assert_allclose(x, 5.0)  # the minus sign made a contiguous copy
    sense = np.zeros(N + ROWS, dtype=np.intc)
    x, _, flag, _ = daqp.solve(np.eye(N), view, problem.dense, problem.upper, problem.lower, sense)
    assert flag == 1
    assert np.abs(x + 5.0).max() > 1.0


def test_raw_daqp_takes_a_short_vector_and_reads_on_behind_it() -> None:
    """An objective that is one number too short is accepted; the last entry comes from the memory behind it."""
    problem, memory = simple(), np.full(N, -0.5)
    memory[-1] = -0.25
    sense = np.zeros(N + ROWS, dtype=np.intc)
    x, _, flag, _ = daqp.solve(np.eye(N), memory[: N - 1], problem.dense, problem.upper, problem.lower, sense)
    assert flag == 1
    assert x[-1] == pytest.approx(0.25)


def test_raw_daqp_drops_short_rows_without_a_word() -> None:
    """A row of length 1e-6 that x breaks is left out, and the exit flag is 1."""
    problem = simple(low=-9.0, high=9.0)
    problem.dense[0, 0], problem.upper[N] = 1e-6, 1e-7  # x₀ ≤ 0.1
    x, flag = raw(problem)
    assert flag == 1
    assert problem.excess(x) > 1e-6


def test_raw_daqp_forgives_crossed_bounds_up_to_its_tolerance() -> None:
    """L > u by 5e-7 counts as feasible; l > u by more is exit flag −1, with a finite x."""
    problem = simple()
    problem.lower[0] = 1.0 + 5e-7
    assert raw(problem)[1] == 1
    problem.lower[0] = 1.5
    x, flag = raw(problem)
    assert flag == -1
    assert np.isfinite(x).all()


def test_raw_daqp_raises_for_read_only_and_other_types() -> None:
    """It wants writable float64: anything else is an exception."""
    problem = simple()
    problem.upper.setflags(write=False)
    with pytest.raises(ValueError, match="read-only"):
        raw(problem)
    with pytest.raises(ValueError, match="dtype"):
        raw(simple().with_(dense=np.zeros((ROWS, N), dtype=np.float32)))


def test_raw_daqp_has_no_history() -> None:
    """The same data after 20 other problems gives the same bits."""
    rng = np.random.default_rng(1)
    problem = random_problem(rng)
    first = raw(problem)[0]
    for _ in range(20):
        raw(random_problem(rng))
    np.testing.assert_array_equal(raw(problem)[0], first)


# -- the wrapper ----------------------------------------------------------------------------------------


def test_a_row_that_daqp_drops_is_found_by_the_check() -> None:
    """Where the dropped row is broken by more than eps_abs the answer is UNSOLVED; broken by less it is within it."""
    problem = simple(nominal=500.0, low=-9e3, high=9e3)
    problem.dense[0, 0], problem.upper[N] = 1e-6, 1e-7
    assert raw(problem)[1] == 1
    assert problem.excess(raw(problem)[0]) > CONFIG.eps_abs
    x, status, _ = problem.solved_by(DaqpSolver(N, ROWS, CONFIG))
    assert status is SolverStatus.UNSOLVED
    assert x is problem.start


@pytest.mark.parametrize("flag", [-7, -6, -5, -4, -3, -2, -1, 0, 2, 3])
def test_only_the_optimal_flag_counts(monkeypatch: pytest.MonkeyPatch, flag: int) -> None:
    """Any other exit flag, soft optimum included, is UNSOLVED even if x is right."""
    solver, problem, solve = DaqpSolver(N, ROWS, CONFIG), simple(), daqp.solve

    def flagged(*data: Any, **options: Any) -> Any:
        x, value, _, info = solve(*data, **options)
        return x, value, flag, info

    monkeypatch.setattr(daqp, "solve", flagged)
    x, status, _ = problem.solved_by(solver)
    assert status is SolverStatus.UNSOLVED
    assert x is problem.start


@pytest.mark.parametrize("wrong", [1.001, -9e3, np.nan, np.inf, 1e300])
def test_a_wrong_point_under_the_optimal_flag_does_not_count(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    """A library that lies gets UNSOLVED, whatever its x is."""
    info = {"iterations": 3, "lam": np.zeros(N + ROWS)}

    def lying(*_: Any, **__: Any) -> Any:
        return np.full(N, wrong), 0.0, 1, info

    monkeypatch.setattr(daqp, "solve", lying)
    problem = simple()
    x, status, _ = problem.solved_by(DaqpSolver(N, ROWS, CONFIG))
    assert status is SolverStatus.UNSOLVED
    assert x is problem.start


def test_steps_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is told a limit of ten steps a row, and 300 programs take less than three a row."""
    limits: list[int] = []
    solve = daqp.solve

    def spy(*data: Any, **options: Any) -> Any:
        limits.append(options["iter_limit"])
        return solve(*data, **options)

    monkeypatch.setattr(daqp, "solve", spy)
    solver, rng = DaqpSolver(N, ROWS, CONFIG), np.random.default_rng(3)
    steps = [random_problem(rng).solved_by(solver)[2] for _ in range(300)]
    assert set(limits) == {10 * (N + ROWS)}
    assert max(steps) < 3 * (N + ROWS)


def test_an_answer_satisfies_the_optimality_conditions_to_rounding() -> None:
    """For 300 programs x − x_nom + [I; D]ᵀ λ = 0, with λ > 0 only at upper bounds and λ < 0 only at lower ones."""
    rng, solver = np.random.default_rng(4), DaqpSolver(N, ROWS, CONFIG)
    for _ in range(300):
        problem = random_problem(rng)
        x, status, _ = problem.solved_by(solver)
        A, y = np.vstack([np.eye(N), problem.dense]), solver.multipliers
        assert status is SolverStatus.SOLVED
        np.testing.assert_allclose(x - problem.nominal + A.T @ y, 0.0, atol=1e-7)
        np.testing.assert_allclose((A @ x - problem.upper)[y > 0.0], 0.0, atol=1e-7)
        np.testing.assert_allclose((A @ x - problem.lower)[y < 0.0], 0.0, atol=1e-7)


def test_a_start_from_the_nominals_side_saves_steps_and_no_bit_of_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """On 200 programs with nominals far out, two thirds of the steps, and the point that DAQP finds from nothing."""
    rng, solver, solve = np.random.default_rng(7), DaqpSolver(N, ROWS, CONFIG), daqp.solve
    fresh: list[tuple[Vector, int]] = []

    def twice(*data: Any, **options: Any) -> Any:
        x, _, _, info = solve(*data[:-1], np.zeros(N + ROWS, dtype=np.intc), **options)
        fresh.append((x, info["iterations"]))
        return solve(*data, **options)

    monkeypatch.setattr(daqp, "solve", twice)
    steps = 0
    for _ in range(200):
        problem = random_problem(rng)
        x, status, taken = problem.with_(nominal=10.0 * problem.nominal).solved_by(solver)
        assert status is SolverStatus.SOLVED
        np.testing.assert_allclose(x, fresh[-1][0], atol=1e-8)
        steps += taken
    assert steps < 0.67 * sum(taken for _, taken in fresh)


def test_the_start_is_told_by_the_program_alone() -> None:
    """Nominals beyond a bound, at it and inside; what an earlier program left is gone, dense rows are never flagged."""
    sense = np.full(N + ROWS, 7, dtype=np.intc)
    low, high = np.full(N + ROWS, -1.0), np.full(N + ROWS, 1.0)
    lean(-np.array([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0]), low, high, sense)
    np.testing.assert_array_equal(sense, [1, 1, 0, 0, 0, 3, 3] + [0] * ROWS)


# -- the rescue -----------------------------------------------------------------------------------------

TINY = SolverConfig(eps_abs=1e-6, rho=0.5, max_iter=10)


def test_what_osqp_does_not_finish_is_answered_exactly() -> None:
    """With a budget of 10 iterations the answer is DAQP's bit for bit, marked RESCUED, with both iterations counted."""
    rng, exact, rescued = np.random.default_rng(5), DaqpSolver(N, ROWS, TINY), 0
    solver = RescuedSolver(N, ROWS, TINY)
    for _ in range(50):
        problem = random_problem(rng)
        solver.reset()
        x, status, iterations = problem.solved_by(solver)
        if status is SolverStatus.RESCUED:
            rescued += 1
            best, _, steps = problem.solved_by(exact)
            np.testing.assert_array_equal(x, best)
            assert iterations == 10 + steps
    assert rescued > 40


def test_a_rescue_helps_osqp_on_its_feet() -> None:
    """The program after a rescue, unchanged, is solved by OSQP at its first check: it starts where DAQP ended."""
    rng, solver = np.random.default_rng(6), RescuedSolver(N, ROWS, TINY)
    for _ in range(20):
        problem = random_problem(rng)
        solver.reset()
        if problem.solved_by(solver)[1] is SolverStatus.RESCUED:
            assert problem.solved_by(solver)[1:] == (SolverStatus.SOLVED, 10)


def test_what_neither_solves_is_unsolved_and_what_both_refuse_is_rejected() -> None:
    """Infeasible: UNSOLVED with the iterations of both. Bad data: REJECTED without any."""
    solver = RescuedSolver(N, ROWS, CONFIG)
    x, status, iterations = infeasible().solved_by(solver)
    assert status is SolverStatus.UNSOLVED
    assert iterations > 0
    assert simple(nominal=np.nan).solved_by(solver)[1:] == (SolverStatus.REJECTED, 0)
    assert np.isfinite(x).all()


def test_a_refusal_by_the_library_alone_is_rescued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that passes our checks and that OSQP will not take is answered by DAQP."""
    solver = RescuedSolver(N, ROWS, CONFIG)

    class Refusing:
        """An OSQP whose updates fail."""

        def update_data_vec(self, **_: Any) -> int:
            return 1

        update_data_mat = update_data_vec

    monkeypatch.setattr(solver.first, "raw", Refusing())
    x, status, _ = simple().solved_by(solver)
    assert status is SolverStatus.RESCUED
    np.testing.assert_allclose(x, 1.0)


def test_only_settled_solved_and_rescued_are_answers() -> None:
    """``answered`` holds for exactly these three."""
    answers = {SolverStatus.SETTLED, SolverStatus.SOLVED, SolverStatus.RESCUED}
    assert {status for status in SolverStatus if status.answered} == answers


def test_solvers_are_made_by_name() -> None:
    """By "osqp" one gets the rescue with it, by "daqp" DAQP alone; each is asked for what does not settle itself."""
    solvers = [make_solver("osqp", N, ROWS, CONFIG), make_solver("daqp", N, ROWS, CONFIG)]
    for solver, kind in zip(solvers, (RescuedSolver, DaqpSolver), strict=True):
        assert isinstance(solver, SettledSolver)
        assert isinstance(solver.behind, kind)
