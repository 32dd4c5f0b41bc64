"""OSQP's pitfalls on the raw library, their absence in the wrapper, and two independent solvers as oracles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cvxpy
import daqp
import numpy as np
import osqp
import pinocchio as pin
import pytest
from scipy import sparse

from safeguard.controllers.qp import BIG, OsqpSolver
from safeguard.core.config import SolverConfig
from safeguard.core.enums import SolverStatus
from safeguard.core.types import Vector
from tests.unit.controllers_support import panda, random_q

N, ROWS = 7, 15
CONFIG = SolverConfig()


@dataclass(frozen=True)
class Problem:
    """A problem of the filter's shape: bounds of every variable, and ROWS dense rows of unit size."""

    nominal: Vector
    dense: Vector
    lower: Vector
    upper: Vector
    start: Vector

    def solved_by(self, solver: OsqpSolver) -> tuple[Vector, SolverStatus, int]:
        """What the wrapper makes of it."""
        return solver.solve(self.nominal, self.dense, self.lower, self.upper, self.start)

    def excess(self, x: Vector) -> float:
        """Largest violation of a row."""
        z = np.concatenate((x, self.dense @ x))
        return float(np.maximum(self.lower - z, z - self.upper).max())


def random_problem(rng: np.random.Generator) -> Problem:
    """Feasible at a braking point; the nominal lies well outside; unused slots are zero rows with huge bounds."""
    brake = rng.uniform(-3.0, 3.0, N)
    M = pin.crba(panda().pin_model, panda().pin_model.createData(), random_q(rng))
    M = np.triu(M) + np.triu(M, 1).T
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


@pytest.fixture
def solver() -> OsqpSolver:
    """The wrapper as the filter makes it."""
    return OsqpSolver(N, ROWS, CONFIG)


def raw(low: float = -1.0, high: float = 1.0, nominal: float = 5.0, **options: Any) -> Any:
    """OSQP as a newcomer would use it: min ½‖x − nominal‖², low ≤ x ≤ high."""
    bounds = np.full(N, low), np.full(N, high)
    instance = osqp.OSQP(algebra="builtin")
    eye = sparse.eye(N, format="csc")
    instance.setup(eye, np.full(N, -nominal), eye, *bounds, verbose=False, **options)
    return instance


# -- 1: updates swallow errors --------------------------------------------------------------------------


def test_raw_osqp_keeps_old_data_when_an_update_fails() -> None:
    """An update with l > u goes unreported, and the next solve says "solved" for the stale problem."""
    instance = raw()
    instance.update(l=np.full(N, 3.0), u=np.full(N, 2.0))
    result = instance.solve(raise_error=False)
    assert result.info.status == "solved"
    np.testing.assert_allclose(result.x, 1.0, atol=1e-2)


def test_the_wrapper_rejects_crossed_bounds_and_is_unharmed(solver: OsqpSolver) -> None:
    """L > u in one row is REJECTED without an iteration; the next problem is solved as if nothing had been."""
    crossed = simple()
    crossed.lower[3] = 1.5
    x, status, iterations = crossed.solved_by(solver)
    assert (status, iterations) == (SolverStatus.REJECTED, 0)
    np.testing.assert_array_equal(x, crossed.start)
    x, status, _ = simple(high=2.0).solved_by(solver)
    assert status is SolverStatus.SOLVED
    np.testing.assert_allclose(x, 2.0, atol=5e-3)


@pytest.mark.parametrize("key", ["dense", "lower", "upper"])
def test_the_wrapper_rejects_wrong_lengths(solver: OsqpSolver, key: str) -> None:
    """Rows or bounds of another size never reach the solver."""
    parts = {k: getattr(simple(), k) for k in ("nominal", "dense", "lower", "upper", "start")}
    parts[key] = parts[key][:-1]
    assert Problem(**parts).solved_by(solver)[1] is SolverStatus.REJECTED


@pytest.mark.parametrize("bad", [simple(low=1.0, high=0.0), simple(nominal=np.nan), simple(low=np.nan)])
def test_bad_data_never_reaches_the_library(solver: OsqpSolver, monkeypatch: pytest.MonkeyPatch, bad: Problem) -> None:
    """Our own checks come first: with no library behind the wrapper the answer is the same."""
    monkeypatch.setattr(solver, "_raw", None)
    assert bad.solved_by(solver)[1] is SolverStatus.REJECTED


def test_a_return_code_of_the_library_is_believed(solver: OsqpSolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """If OSQP refuses the data for a reason that our own checks don't know, the result is REJECTED."""

    class Refusing:
        """An OSQP whose updates fail."""

        def update_data_vec(self, **_: Any) -> int:
            return 1

        def update_data_mat(self, **_: Any) -> int:
            return 0

    monkeypatch.setattr(solver, "_raw", Refusing())
    assert simple().solved_by(solver)[1] is SolverStatus.REJECTED


# -- 2: NaN poisons the instance ------------------------------------------------------------------------


def test_raw_osqp_never_recovers_from_one_nan() -> None:
    """After one NaN in the objective every later solve of good data is NaN."""
    instance = raw()
    instance.update(q=np.full(N, np.nan))
    instance.solve(raise_error=False)
    instance.update(q=np.full(N, -5.0))
    result = instance.solve(raise_error=False)
    assert result.info.status != "solved"
    assert not np.isfinite(result.x).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["nominal", "dense", "lower", "upper", "start"])
def test_no_poison_reaches_the_wrapper(solver: OsqpSolver, key: str, value: float) -> None:
    """Whatever one entry is, the answer is finite or not called solved, and the next one is the fresh solver's."""
    problem = simple()
    getattr(problem, key).reshape(-1)[2] = value
    x, status, _ = problem.solved_by(solver)
    bounds_may_be_open = (key, value) in {("lower", -np.inf), ("upper", np.inf)}
    assert status is (SolverStatus.SOLVED if bounds_may_be_open else SolverStatus.REJECTED)
    assert np.isfinite(x).all() or status is not SolverStatus.SOLVED
    solver.reset()
    after, fresh = simple(), OsqpSolver(N, ROWS, CONFIG)
    np.testing.assert_array_equal(after.solved_by(solver)[0], after.solved_by(fresh)[0])


def test_opposite_infinities_do_not_cancel(solver: OsqpSolver) -> None:
    """+∞ and −∞ in the same vector are refused too, although their sum is no infinity."""
    problem = simple()
    problem.nominal[:2] = np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        assert problem.solved_by(solver)[1] is SolverStatus.REJECTED


# -- 3: an infeasible x looks finite --------------------------------------------------------------------


def infeasible() -> Problem:
    """x₀ ≥ 1 by its bound, x₀ ≤ −1 by a row."""
    problem = simple(low=1.0, high=2.0)
    problem.dense[0, 0] = 1.0
    problem.upper[N] = -1.0
    return problem


def test_raw_osqp_gives_a_finite_x_for_an_infeasible_problem() -> None:
    """``np.isfinite`` passes on what OSQP returns for x ≥ 1, x ≤ −1; only the status tells."""
    instance = osqp.OSQP(algebra="builtin")
    rows = sparse.csc_matrix(np.array([[1.0], [1.0]]))
    instance.setup(
        sparse.eye(1, format="csc"), np.zeros(1), rows, np.array([1.0, -9.0]), np.array([9.0, -1.0]), verbose=False
    )
    result = instance.solve(raise_error=False)
    assert result.info.status == "primal infeasible"
    assert np.isfinite(result.x).all()
    assert np.abs(result.x).max() > 1e9


def test_the_wrapper_calls_an_infeasible_problem_unsolved_and_recovers(solver: OsqpSolver) -> None:
    """The x that comes back is the start, never the library's; afterwards it solves as a fresh one does."""
    problem = infeasible()
    x, status, _ = problem.solved_by(solver)
    assert status is SolverStatus.UNSOLVED
    np.testing.assert_array_equal(x, problem.start)
    np.testing.assert_array_equal(simple().solved_by(solver)[0], simple().solved_by(OsqpSolver(N, ROWS, CONFIG))[0])


def test_an_exhausted_iteration_budget_is_unsolved() -> None:
    """The last iterate of an unfinished run is not handed out."""
    hurried = OsqpSolver(N, ROWS, SolverConfig(max_iter=10, eps_abs=1e-9))
    problem = random_problem(np.random.default_rng(3))
    x, status, _ = problem.solved_by(hurried)
    assert status is SolverStatus.UNSOLVED
    np.testing.assert_array_equal(x, problem.start)


# -- 4: slightly infeasible looks solved ----------------------------------------------------------------


def test_raw_osqp_calls_a_slightly_infeasible_problem_solved() -> None:
    """0.5 ≤ x ≤ 0.4995 as two rows is "solved" at default tolerances."""
    instance = osqp.OSQP(algebra="builtin")
    rows = sparse.csc_matrix(np.array([[1.0], [1.0]]))
    instance.setup(
        sparse.eye(1, format="csc"), np.zeros(1), rows, np.array([0.5, -9.0]), np.array([9.0, 0.4995]), verbose=False
    )
    assert instance.solve(raise_error=False).info.status == "solved"


def test_a_solved_answer_violates_no_row_by_more_than_the_tolerance(solver: OsqpSolver) -> None:
    """With rows of one unit and no relative tolerance, "solved" means within eps_abs of every bound."""
    rng = np.random.default_rng(4)
    worst, solved = 0.0, 0
    for _ in range(200):
        problem = random_problem(rng)
        x, status, _ = problem.solved_by(solver)
        if status is SolverStatus.SOLVED:
            solved += 1
            worst = max(worst, problem.excess(x))
    assert solved > 190
    assert worst <= CONFIG.eps_abs
    assert worst > 0.0  # never exactly feasible: callers tighten their bounds


# -- 5: views -------------------------------------------------------------------------------------------


def test_raw_osqp_reads_a_view_as_if_it_were_contiguous() -> None:
    """q[:, 0] of a two-column array gives another problem's solution, silently."""
    instance, table = raw(-9.0, 9.0), np.zeros((N, 2))
    table[:, 0] = -np.arange(1.0, N + 1.0)
    instance.update(q=table[:, 0])
    result = instance.solve(raise_error=False)
    assert result.info.status == "solved"
    assert np.abs(result.x + table[:, 0]).max() > 0.5


def test_the_wrapper_takes_views_of_any_layout(solver: OsqpSolver) -> None:
    """Columns, transposes, reversed and read-only views give bit for bit what contiguous copies give."""
    problem = random_problem(np.random.default_rng(5))
    expected = problem.solved_by(solver)

    def column(x: Vector) -> Vector:
        return np.stack((x, 99.0 * np.ones_like(x)), axis=1)[:, 0]

    views = Problem(
        column(problem.nominal), np.asfortranarray(problem.dense), column(problem.lower),
        problem.upper[::-1].copy()[::-1], column(problem.start),
    )  # fmt: skip
    views.nominal.setflags(write=False)
    assert not views.nominal.flags.c_contiguous
    solver.reset()
    found = views.solved_by(solver)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1:] == expected[1:]


def test_an_answer_does_not_change_with_the_next_solve(solver: OsqpSolver) -> None:
    """The returned x is a copy, not a window into the solver."""
    x = simple(high=1.0).solved_by(solver)[0]
    before = x.copy()
    simple(high=2.0).solved_by(solver)
    np.testing.assert_array_equal(x, before)


# -- 9: history dependence ------------------------------------------------------------------------------


def test_raw_osqp_remembers_earlier_problems() -> None:
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


def test_a_reset_wrapper_has_no_memory(solver: OsqpSolver) -> None:
    """After unrelated, infeasible and refused problems and a reset the answer is bit-identical to a fresh solver's."""
    rng, rho_moved = np.random.default_rng(7), 0
    for k in range(40):
        rho_moved += random_problem(rng).solved_by(solver)[2] > 100
        if k % 5 == 0:
            infeasible().solved_by(solver)
            simple(nominal=np.nan).solved_by(solver)
        problem = random_problem(rng)
        solver.reset()
        found, fresh = problem.solved_by(solver), problem.solved_by(OsqpSolver(N, ROWS, CONFIG))
        np.testing.assert_array_equal(found[0], fresh[0])
        assert found[1:] == fresh[1:]
    hard = random_problem(rng)
    tilted = Problem(hard.nominal, hard.dense * 30.0, hard.lower * 30.0, hard.upper * 30.0, hard.start)
    for _ in range(3):  # badly scaled: rho adapts, and must be back for the next problem
        rho_moved += tilted.solved_by(solver)[2] > 100
    assert rho_moved > 0
    solver.reset()
    np.testing.assert_array_equal(hard.solved_by(solver)[0], hard.solved_by(OsqpSolver(N, ROWS, CONFIG))[0])


def test_equal_histories_give_equal_bits() -> None:
    """Two wrappers that saw the same problems since their reset agree in every bit, failures included."""
    rng = np.random.default_rng(10)
    problems = [random_problem(rng) for _ in range(30)]
    problems[7], problems[15] = infeasible(), simple(low=1.0, high=0.0)
    first, second = OsqpSolver(N, ROWS, CONFIG), OsqpSolver(N, ROWS, CONFIG)
    for _ in range(10):
        random_problem(rng).solved_by(second)
    second.reset()
    for problem in problems:
        a, b = problem.solved_by(first), problem.solved_by(second)
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:] == b[1:]


def test_multipliers_of_the_last_success_save_iterations(solver: OsqpSolver) -> None:
    """The second solve of the same problem needs fewer iterations than the first, all over 30 problems."""
    rng, first, second = np.random.default_rng(11), 0, 0
    for _ in range(30):
        problem = random_problem(rng)
        solver.reset()
        first += problem.solved_by(solver)[2]
        second += problem.solved_by(solver)[2]
    assert second < 0.7 * first


# -- oracles --------------------------------------------------------------------------------------------


def by_daqp(problem: Problem) -> Vector:
    """The same problem by an active-set solver."""
    sense = np.zeros(N + ROWS, dtype=np.int32)
    x, _, flag, _ = daqp.solve(
        np.eye(N), -problem.nominal, np.ascontiguousarray(problem.dense),
        problem.upper.copy(), problem.lower.copy(), sense,
    )  # fmt: skip
    assert flag == 1
    return np.asarray(x, dtype=float)


def by_cvxpy(problem: Problem) -> Vector:
    """The same problem as one would write it on paper, by Clarabel."""
    x: Any = cvxpy.Variable(N)
    rows: Any = problem.dense @ x
    constraints = [
        x >= problem.lower[:N], x <= problem.upper[:N], rows >= problem.lower[N:], rows <= problem.upper[N:]
    ]  # fmt: skip
    modelling: Any = cvxpy
    goal: Any = modelling.Minimize(0.5 * modelling.sum_squares(x - problem.nominal))
    statement: Any = cvxpy.Problem(goal, constraints)
    statement.solve(solver=cvxpy.CLARABEL)
    assert statement.status == "optimal"
    return np.asarray(x.value, dtype=float)


def test_daqp_finds_the_same_points(solver: OsqpSolver) -> None:
    """On 200 problems of the filter's shape the answers agree within 0.01 rad/s² in 98 of 100, 0.05 at worst."""
    rng = np.random.default_rng(8)
    gaps: list[float] = []
    moved = 0
    for _ in range(200):
        problem = random_problem(rng)
        x, status, _ = problem.solved_by(solver)
        if status is SolverStatus.SOLVED:
            gaps.append(float(np.abs(x - by_daqp(problem)).max()))
            moved += bool(np.abs(x - problem.start).max() > 0.1)
    assert len(gaps) > 195
    assert np.quantile(gaps, 0.98) < 1e-2
    assert max(gaps) < 5e-2
    assert moved > 100  # clipping alone would not have passed


def test_a_statement_on_paper_has_the_same_solution(solver: OsqpSolver) -> None:
    """Clarabel's answer to the cvxpy statement agrees within 0.02 rad/s² on 25 problems."""
    rng = np.random.default_rng(9)
    for _ in range(25):
        problem = random_problem(rng)
        x, status, _ = problem.solved_by(solver)
        assert status is SolverStatus.SOLVED
        assert np.abs(x - by_cvxpy(problem)).max() < 2e-2
