"""Programs that settle themselves, and the solver that is asked for the others."""

from __future__ import annotations

import numpy as np
import pytest

from safeguard.controllers.daqp import DaqpSolver
from safeguard.controllers.rescue import make_solver
from safeguard.controllers.settle import EXACT, SEARCHES, SettledSolver, searched, settle
from safeguard.controllers.solver import Answer
from safeguard.core.config import SolverConfig
from safeguard.core.enums import SolverStatus
from safeguard.core.types import Vector
from tests.unit.solver_support import CONFIG, ROWS, N, Problem, infeasible, random_problem, simple

MULTIPLIER = 2.0  # of the row in ``one_row``


class Behind:
    """A solver that counts what it is asked and answers zeros."""

    def __init__(self) -> None:
        self.asked, self.resets = 0, 0
        self.x = np.zeros(N)

    def solve(self, nominal: Vector, dense: Vector, lower: Vector, upper: Vector, start: Vector) -> Answer:
        """Zeros, in 77 iterations."""
        self.asked += 1
        return self.x, SolverStatus.RESCUED, 77

    def reset(self) -> None:
        """Count."""
        self.resets += 1


def one_row(sign: float = 1.0) -> Problem:
    """Nominal 5 in [−1, 9]; sign · (x₀ + x₁ + x₂) ≤ 9 moves three of them to 3."""
    problem = simple(nominal=5.0, low=-1.0, high=9.0)
    problem.dense[4, :3] = sign
    (problem.upper if sign > 0.0 else problem.lower)[N + 4] = sign * 9.0
    return problem


def crossing(angle: float) -> Problem:
    """Two rows at an angle (rad) in the plane of x₀ and x₁, both of which bind at x₀ = 1."""
    problem = simple(nominal=5.0, low=-20.0, high=20.0)
    problem.nominal[:2] = 9.0, 0.0
    for row, side in enumerate((1.0, -1.0)):
        problem.dense[row, :2] = np.sin(angle / 2.0), side * np.cos(angle / 2.0)
        problem.upper[N + row] = np.sin(angle / 2.0)
    return problem


def check_kkt(problem: Problem, x: Vector, y: Vector) -> None:
    """X is the clip of x_nom − Dᵀ y, y only where a row touches its bound, and no row is broken by more than EXACT."""
    lower, upper = problem.lower, problem.upper
    np.testing.assert_allclose(x, np.clip(problem.nominal - problem.dense.T @ y, lower[:N], upper[:N]), atol=1e-11)
    rows = problem.dense @ x
    assert (np.maximum(lower[N:] - rows, rows - upper[N:]) <= 1.01 * EXACT).all()
    assert (np.abs(rows - upper[N:])[y > 0.0] <= 1.01 * EXACT).all()
    assert (np.abs(rows - lower[N:])[y < 0.0] <= 1.01 * EXACT).all()


def test_a_clipped_nominal_inside_every_row_is_the_answer() -> None:
    """No row binds: the clip itself, bit for bit, after no search, and nobody else is asked."""
    behind, problem = Behind(), one_row()
    problem.upper[N + 4] = 15.0
    problem.nominal[:] = np.linspace(-4.0, 12.0, N)
    problem.dense[4] = 0.1
    x, status, searches = problem.solved_by(SettledSolver(N, ROWS, behind))
    assert (status, searches, behind.asked) == (SolverStatus.SETTLED, 0, 0)
    np.testing.assert_array_equal(x, np.clip(problem.nominal, -1.0, 9.0))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_row_takes_one_search(sign: float) -> None:
    """x₀ + x₁ + x₂ ≤ 9 from (5, 5, 5), or its mirror image: the foot of the perpendicular, with its multiplier."""
    solver = SettledSolver(N, ROWS, Behind())
    x, status, searches = one_row(sign).solved_by(solver)
    assert (status, searches) == (SolverStatus.SETTLED, 1)
    np.testing.assert_allclose(x, [3.0] * 3 + [5.0] * (N - 3), atol=1e-12)
    np.testing.assert_allclose(solver.multipliers[4], sign * MULTIPLIER, atol=1e-12)
    assert not np.delete(solver.multipliers, 4).any()


def test_variables_that_meet_their_bounds_on_the_way_stay_there() -> None:
    """With x₀ ≥ 4.5 the other two give way: (4.5, 2.25, 2.25)."""
    problem = one_row()
    problem.lower[0] = 4.5
    x, status, _ = problem.solved_by(SettledSolver(N, ROWS, Behind()))
    assert status is SolverStatus.SETTLED
    np.testing.assert_allclose(x[:3], [4.5, 2.25, 2.25], atol=1e-12)


def test_rows_at_right_angles_take_one_search_each() -> None:
    """Two rows that don't disturb one another: two searches; the x is where they meet."""
    x, status, searches = crossing(np.pi / 2.0).solved_by(SettledSolver(N, ROWS, Behind()))
    assert (status, searches) == (SolverStatus.SETTLED, 2)
    np.testing.assert_allclose(x[:2], [1.0, 0.0], atol=1e-9)


def test_a_row_may_lose_its_multiplier_to_another() -> None:
    """x₀ ≤ 1 is searched first, but 0.1 (x₀ + x₁) ≤ −0.6 alone decides: searched four times in turn, x = (−3, −3)."""
    problem, solver = simple(nominal=5.0, low=-9.0, high=9.0), SettledSolver(N, ROWS, Behind())
    problem.dense[0, 0], problem.upper[N] = 1.0, 1.0
    problem.dense[1, :2], problem.upper[N + 1] = 0.1, -0.6
    x, status, searches = problem.solved_by(solver)
    assert (status, searches) == (SolverStatus.SETTLED, 4)
    np.testing.assert_allclose(x[:2], -3.0, atol=1e-12)
    np.testing.assert_allclose(solver.multipliers[:2], [0.0, 80.0], atol=1e-10)


def test_rows_that_disturb_one_another_are_left_to_the_solver_behind() -> None:
    """At a sharp angle the searches don't end: the answer is the other solver's, untouched."""
    behind, problem = Behind(), crossing(0.3)
    x, status, iterations = problem.solved_by(SettledSolver(N, ROWS, behind))
    assert (status, iterations, behind.asked) == (SolverStatus.RESCUED, 77, 1)
    assert x is behind.x
    exact = SettledSolver(N, ROWS, DaqpSolver(N, ROWS, CONFIG))
    np.testing.assert_allclose(problem.solved_by(exact)[0][:2], [1.0, 0.0], atol=1e-9)


def test_a_settled_answer_keeps_the_optimality_conditions_and_is_the_exact_solvers() -> None:
    """For 1000 programs: KKT to 1e-9, DAQP's point to 1e-8; a fifth of them and more settle, and not all."""
    rng, behind, exact = np.random.default_rng(30), Behind(), DaqpSolver(N, ROWS, CONFIG)
    solver, settled = SettledSolver(N, ROWS, behind), 0
    for _ in range(1000):
        problem = random_problem(rng)
        x, status, searches = problem.solved_by(solver)
        if status is SolverStatus.SETTLED:
            settled += 1
            assert searches <= SEARCHES
            check_kkt(problem, x, solver.multipliers)
            np.testing.assert_allclose(x, problem.solved_by(exact)[0], atol=1e-8)
    assert 1000 // 5 < settled < 1000
    assert settled + behind.asked == 1000


def test_the_check_of_the_conditions_is_not_blind() -> None:
    """Negative control: a multiplier of the wrong sign, of an idle row, or 1e-6 off is found."""
    problem, solver = one_row(), SettledSolver(N, ROWS, Behind())
    x = problem.solved_by(solver)[0]
    for row, value in ((4, -MULTIPLIER), (5, 0.1), (4, MULTIPLIER + 1e-6)):
        y = solver.multipliers.copy()
        y[row] = value
        problem.dense[5, 6] = 1.0
        with pytest.raises(AssertionError):
            check_kkt(problem, x, y)


def test_infeasible_programs_never_settle() -> None:
    """Crossed rows and bounds, by 2 or by 1e-8, go to the solver behind."""
    for gap in (2.0, 1e-6, 1e-8):
        behind = Behind()
        infeasible(gap).solved_by(SettledSolver(N, ROWS, behind))
        assert behind.asked == 1


def test_bad_data_is_rejected_before_anybody_sees_it() -> None:
    """A NaN, crossed bounds, a short row: REJECTED, with the start as x, and nobody is asked."""
    behind, good = Behind(), simple()
    solver = SettledSolver(N, ROWS, behind)
    for bad in (simple(nominal=np.nan), simple(low=1.0, high=0.0), good.with_(dense=good.dense[:-1])):
        x, status, iterations = bad.solved_by(solver)
        assert (status, iterations, behind.asked) == (SolverStatus.REJECTED, 0, 0)
        assert x is bad.start


def test_what_is_no_number_never_settles() -> None:
    """A NaN in the objective, a row or a row's bound gives −1 even where no check came before."""
    for part, place in (("nominal", 2), ("dense", 3), ("lower", N + 2), ("upper", N + 2)):
        problem, x, y = simple(), np.zeros(N), np.zeros(ROWS)
        getattr(problem, part).reshape(-1)[place] = np.nan
        assert settle(-problem.nominal, problem.dense, problem.lower, problem.upper, 4, EXACT, x, y) == -1, part


def test_numbers_that_overflow_on_the_way_do_not_settle() -> None:
    """A row of 1e-300 wants a multiplier of 1e300 and more: it is left to the solver behind."""
    behind, problem = Behind(), simple(nominal=5.0, low=-9e3, high=9e3)
    problem.dense[0, 0], problem.dense[1, 1] = 1e-300, 1e12
    problem.upper[N], problem.upper[N + 1] = -1.0, 0.0
    x, status, _ = problem.solved_by(SettledSolver(N, ROWS, behind))
    assert status is SolverStatus.RESCUED
    assert np.isfinite(x).all()


def test_settling_has_no_history_and_a_reset_reaches_the_solver_behind() -> None:
    """The same program after any of 20 others takes the same searches to the same bits."""
    rng, behind = np.random.default_rng(31), Behind()
    solver, problem = SettledSolver(N, ROWS, behind), one_row()
    first, multipliers = problem.solved_by(solver), solver.multipliers.copy()
    for _ in range(20):
        random_problem(rng).solved_by(solver)
        again = problem.solved_by(solver)
        np.testing.assert_array_equal(again[0], first[0])
        np.testing.assert_array_equal(solver.multipliers, multipliers)
        assert again[1:] == first[1:]
    solver.reset()
    assert behind.resets == 1


def test_a_budget_of_no_search_settles_clips_only() -> None:
    """With ``most`` = 0 a program whose row binds gives −1, one whose rows are idle 0."""
    x, y = np.zeros(N), np.zeros(ROWS)
    for problem, expected in ((one_row(), -1), (simple(), 0)):
        assert settle(-problem.nominal, problem.dense, problem.lower, problem.upper, 0, EXACT, x, y) == expected


def test_the_search_finds_the_place_between_breakpoints() -> None:
    """Σ clip(w − d t, l, u) · d falls from 6 to −6 for d = (1, 2): every goal between is met, others get its end."""
    w, d, low, high = np.array([5.0, 5.0]), np.array([1.0, 2.0]), np.full(2, -2.0), np.full(2, 2.0)
    for goal in np.linspace(-6.0, 6.0, 25):
        t = searched(w, d, low, high, goal, 1.0)
        assert t >= 0.0
        np.testing.assert_allclose(np.clip(w - d * t, low, high) @ d, goal, atol=1e-12)
    assert searched(w, d, low, high, 7.0, 1.0) == 0.0  # it holds without a multiplier
    assert searched(w, d, low, high, -7.0, 1.0) == 7.0  # the last breakpoint: x₀ = −2
    assert searched(w, d, low, high, 5.0, -1.0) == 0.0  # no multiplier of this sign is needed


def test_it_can_be_left_out() -> None:
    """``settle = False`` asks the solver every time, with the same answer."""
    plain = SolverConfig(settle=False)
    assert not isinstance(make_solver("daqp", N, ROWS, plain), SettledSolver)
    problem = random_problem(np.random.default_rng(5))
    asked = problem.solved_by(make_solver("daqp", N, ROWS, plain))
    settled = problem.solved_by(make_solver("daqp", N, ROWS, SolverConfig()))
    assert asked[1] is SolverStatus.SOLVED
    assert asked[0] == pytest.approx(settled[0], abs=1e-6)
