"""What every solver of the filter promises: OSQP, DAQP, OSQP with DAQP behind it, and what settles itself first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from safeguard.controllers.daqp import DaqpSolver
from safeguard.controllers.qp import OsqpSolver
from safeguard.controllers.rescue import RescuedSolver
from safeguard.controllers.settle import SettledSolver
from safeguard.controllers.solver import BIG, Buffers, Solver
from safeguard.core.enums import SolverStatus
from safeguard.core.types import Vector
from tests.unit.solver_support import CONFIG, PATIENT, ROWS, N, infeasible, random_problem, simple

KINDS: dict[str, Callable[[], Solver]] = {
    "osqp": lambda: OsqpSolver(N, ROWS, PATIENT),
    "daqp": lambda: DaqpSolver(N, ROWS, CONFIG),
    "rescued": lambda: RescuedSolver(N, ROWS, CONFIG),
    "settled": lambda: SettledSolver(N, ROWS, RescuedSolver(N, ROWS, CONFIG)),
}
PARTS = ("nominal", "dense", "lower", "upper", "start")
SPOILS: dict[str, Callable[[Vector], Any]] = {
    "short": lambda x: x[:-1],
    "long": lambda x: np.concatenate((x, x[:1])),
    "one more dimension": lambda x: x[None],
    "float32": lambda x: x.astype(np.float32),
    "complex": lambda x: x.astype(complex),
    "integers": lambda x: x.astype(int),
    "objects": lambda x: x.astype(object),
    "bytes swapped": lambda x: x.astype(">f8"),
    "list": lambda x: x.tolist(),
    "masked": lambda x: np.ma.MaskedArray(x),
    "nothing": lambda _: None,
    "text": lambda _: "no numbers",
}
MAKES = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


@MAKES
def test_an_answer_holds_in_every_row_and_is_the_closest(make: Callable[[], Solver]) -> None:
    """On 200 programs x breaks no row by more than eps_abs and no feasible neighbour is closer to the nominal."""
    rng, solver = np.random.default_rng(4), make()
    for _ in range(200):
        problem = random_problem(rng)
        x, status, _ = problem.solved_by(solver)
        assert status.answered
        assert problem.excess(x) <= CONFIG.eps_abs * (1.0 + 1e-6)
        exact = problem.solved_by(DaqpSolver(N, ROWS, CONFIG))[0]
        np.testing.assert_allclose(x, exact, atol=1e-4)
        # First-order optimality: every feasible direction, here towards other feasible points, leads away.
        for other in (problem.start, exact):
            if problem.excess(other) <= 0.0:
                assert (x - problem.nominal) @ (other - x) >= -1e-3


@MAKES
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("key", PARTS)
def test_one_bad_number_is_rejected_and_leaves_no_trace(make: Callable[[], Solver], key: str, value: float) -> None:
    """Whatever one entry is, the answer is finite or none, and after a reset the next one is a fresh solver's."""
    solver, problem = make(), simple()
    getattr(problem, key).reshape(-1)[2] = value
    x, status, _ = problem.solved_by(solver)
    open_bound = (key == "lower" and value == -np.inf) or (key == "upper" and value > 1e100)
    assert status.answered if open_bound else status is SolverStatus.REJECTED
    assert np.isfinite(x).all() or not status.answered
    solver.reset()
    np.testing.assert_array_equal(simple().solved_by(solver)[0], simple().solved_by(make())[0])


@MAKES
@pytest.mark.parametrize("key", PARTS)
@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
def test_anything_but_a_float64_array_of_the_right_shape_is_rejected(
    make: Callable[[], Solver], key: str, spoil: Callable[[Vector], Any]
) -> None:
    """Wrong length, dimension, dtype or class: REJECTED with no iteration, and no exception."""
    problem = simple().with_(**{key: spoil(getattr(simple(), key))})
    solver = make()
    assert problem.solved_by(solver)[1:] == (SolverStatus.REJECTED, 0)
    assert simple().solved_by(solver)[1].answered


@MAKES
def test_crossed_bounds_are_rejected_and_harmless(make: Callable[[], Solver]) -> None:
    """L > u in one row, even by the smallest step, is REJECTED without an iteration; the next program is solved."""
    solver = make()
    for crossing in (1.5, np.nextafter(1.0, 2.0)):
        crossed = simple()
        crossed.lower[3] = crossing
        x, status, iterations = crossed.solved_by(solver)
        assert (status, iterations) == (SolverStatus.REJECTED, 0)
        assert x is crossed.start
    x, status, _ = simple(high=2.0).solved_by(solver)
    assert status.answered
    np.testing.assert_allclose(x, 2.0, atol=1e-4)


@MAKES
def test_opposite_infinities_do_not_cancel(make: Callable[[], Solver]) -> None:
    """+∞ and −∞ in the same vector are refused too, although their sum is no infinity."""
    problem = simple()
    problem.nominal[:2] = np.inf, -np.inf
    assert problem.solved_by(make())[1] is SolverStatus.REJECTED


@MAKES
def test_views_of_any_layout_give_the_bits_of_contiguous_copies(make: Callable[[], Solver]) -> None:
    """Columns, transposes, reversed and read-only views are read as what they show."""
    problem = random_problem(np.random.default_rng(5))
    expected = problem.solved_by(make())

    def column(x: Vector) -> Vector:
        return np.stack((x, 99.0 * np.ones_like(x)), axis=1)[:, 0]

    views = problem.with_(
        nominal=column(problem.nominal), dense=np.asfortranarray(problem.dense), lower=column(problem.lower),
        upper=problem.upper[::-1].copy()[::-1], start=column(problem.start),
    )  # fmt: skip
    views.nominal.setflags(write=False)
    assert not views.nominal.flags.c_contiguous
    found = views.solved_by(make())
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1:] == expected[1:]


@MAKES
def test_the_callers_arrays_and_earlier_answers_are_left_alone(make: Callable[[], Solver]) -> None:
    """A solve writes into nothing it was given, and an answer does not change with the next solve."""
    solver, problem = make(), random_problem(np.random.default_rng(12))
    copies = {key: getattr(problem, key).copy() for key in PARTS}
    x = problem.solved_by(solver)[0]
    before = x.copy()
    simple(high=2.0).solved_by(solver)
    np.testing.assert_array_equal(x, before)
    for key, copy in copies.items():
        np.testing.assert_array_equal(getattr(problem, key), copy)


@MAKES
def test_an_infeasible_program_has_no_answer_and_leaves_no_trace(make: Callable[[], Solver]) -> None:
    """The x that comes back is the start, never the library's; afterwards it solves as a fresh one does."""
    solver, problem = make(), infeasible()
    x, status, _ = problem.solved_by(solver)
    assert status is SolverStatus.UNSOLVED
    assert x is problem.start
    np.testing.assert_array_equal(simple().solved_by(solver)[0], simple().solved_by(make())[0])


@MAKES
def test_a_gap_of_a_few_tolerances_is_seen(make: Callable[[], Solver]) -> None:
    """Rows that miss each other by 10 eps_abs have no answer; rows that overlap by as much have one."""
    solver = make()
    assert infeasible(10.0 * CONFIG.eps_abs).solved_by(solver)[1] is SolverStatus.UNSOLVED
    assert infeasible(-10.0 * CONFIG.eps_abs).solved_by(solver)[1].answered


@MAKES
def test_unused_and_repeated_rows_change_nothing(make: Callable[[], Solver]) -> None:
    """Zero rows, infinite bounds and copies of a row leave the answer where it was."""
    solver, problem = make(), random_problem(np.random.default_rng(21))
    problem.dense[-2:], problem.lower[-2:], problem.upper[-2:] = 0.0, -BIG, BIG
    plain = problem.solved_by(solver)[0]
    for source in (None, N, N + 1):
        dense, lower, upper = problem.dense.copy(), problem.lower.copy(), problem.upper.copy()
        if source is None:
            lower[-2:], upper[-2:] = -np.inf, np.inf
        else:
            dense[-2:] = dense[source]
            lower[-2:], upper[-2:] = lower[N + source], upper[N + source]
        solver.reset()
        x, status, _ = problem.with_(dense=dense, lower=lower, upper=upper).solved_by(solver)
        assert status.answered
        np.testing.assert_allclose(x, plain, atol=1e-4)


@MAKES
def test_an_interval_of_zero_width_is_met(make: Callable[[], Solver]) -> None:
    """With l = u for every variable the answer is that point, whatever the nominal; rows through it don't matter."""
    rng, solver = np.random.default_rng(22), make()
    for _ in range(20):
        problem = random_problem(rng)
        point = rng.uniform(-3.0, 3.0, N)
        lower, upper, row = problem.lower.copy(), problem.upper.copy(), problem.dense @ point
        lower[:N] = upper[:N] = point
        lower[N:], upper[N:] = np.minimum(lower[N:], row), row
        x, status, _ = problem.with_(lower=lower, upper=upper).solved_by(solver)
        assert status.answered
        np.testing.assert_allclose(x, point, atol=CONFIG.eps_abs * 1.01)


@MAKES
def test_equal_histories_give_equal_bits(make: Callable[[], Solver]) -> None:
    """Two solvers that saw the same programs since their reset agree in every bit, failures included."""
    rng = np.random.default_rng(10)
    problems = [random_problem(rng) for _ in range(30)]
    problems[7], problems[15], problems[20] = infeasible(), simple(low=1.0, high=0.0), simple(nominal=1e6)
    first, second = make(), make()
    for _ in range(10):
        random_problem(rng).solved_by(second)
    second.reset()
    for problem in problems:
        a, b = problem.solved_by(first), problem.solved_by(second)
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:] == b[1:]


def test_the_check_of_an_answer_is_true_of_no_nan() -> None:
    """``holds`` accepts what is within the tolerance of every row; not more, and never a NaN or an infinity."""
    data, problem = Buffers(N, ROWS), simple()
    problem.dense[3, 1] = 1.0
    problem.upper[N + 3] = 0.5
    assert data.load(*problem.parts)
    x = np.zeros(N)
    x[1] = 0.5 + 0.9e-3
    assert data.holds(x, 1e-3)
    x[1] = 0.5 + 1.1e-3
    assert not data.holds(x, 1e-3)
    for bad in (np.nan, np.inf, -np.inf):
        x[:] = 0.0
        x[4] = bad
        assert not data.holds(x, 1e-3)
