"""Every known pitfall of OSQP: a test that shows it on the raw library, and one that shows its absence in the wrapper.

The numbers are those of docs/decisions/0004-osqp-wrapper.md. A raw test that fails after an update of the library says
that the pitfall has changed, and that the page needs another look.
"""

from __future__ import annotations

import warnings
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
from tests.unit.solver_support import CONFIG, PATIENT, ROWS, N, infeasible, random_problem, simple


@pytest.fixture
def solver() -> OsqpSolver:
    """The wrapper, with iterations enough to need no rescue."""
    return OsqpSolver(N, ROWS, PATIENT)


def raw(low: float = -1.0, high: float = 1.0, nominal: float = 5.0, **options: Any) -> Any:
    """OSQP as a newcomer would use it: min ½‖x − nominal‖², low ≤ x ≤ high."""
    bounds = np.full(N, low), np.full(N, high)
    instance = osqp.OSQP(algebra="builtin")
    eye = sparse.eye(N, format="csc")
    instance.setup(eye, np.full(N, -nominal), eye, *bounds, verbose=False, **options)
    return instance


def two_rows(lower: tuple[float, float], upper: tuple[float, float], **options: Any) -> Any:
    """One variable near 0 with two rows of it, solved."""
    instance = osqp.OSQP(algebra="builtin")
    rows = sparse.csc_matrix(np.ones((2, 1)))
    instance.setup(
        sparse.eye(1, format="csc"), np.zeros(1), rows, np.array(lower), np.array(upper), verbose=False, **options
    )
    return instance.solve(raise_error=False)


def settings(inner: Any) -> Any:
    """What the library's inner object runs with."""
    return inner.get_settings()


# -- 1: updates swallow errors --------------------------------------------------------------------------


def test_1_raw_osqp_keeps_old_data_when_an_update_fails() -> None:
    """An update with l > u goes unreported, and the next solve says "solved" for the stale problem."""
    instance = raw()
    assert instance.update(l=np.full(N, 3.0), u=np.full(N, 2.0)) is None
    result = instance.solve(raise_error=False)
    assert result.info.status == "solved"
    np.testing.assert_allclose(result.x, 1.0, atol=1e-2)


def test_1_raw_osqp_keeps_an_old_matrix_when_the_new_one_has_another_length() -> None:
    """The same with matrix values of another length; only the return code of the inner call tells."""
    instance = raw()
    assert instance.update(Ax=np.full(N + 2, 2.0)) is None
    np.testing.assert_allclose(instance.solve(raise_error=False).x, 1.0, atol=1e-2)
    assert instance._solver.update_data_mat(P_x=None, P_i=None, A_x=np.full(N + 2, 2.0), A_i=None) != 0


def test_1_raw_osqp_takes_a_short_vector_and_reads_on_behind_it() -> None:
    """An objective that is one number too short is accepted; the last entry comes from the memory behind it."""
    instance, memory = raw(), np.full(N, -0.5)
    memory[-1] = -0.125
    assert instance._solver.update_data_vec(q=memory[: N - 1], l=None, u=None) == 0
    np.testing.assert_allclose(instance.solve(raise_error=False).x[-1], 0.125, atol=1e-2)


def test_1_the_wrapper_refuses_before_the_library_sees_it(solver: OsqpSolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no library behind the wrapper the answer to crossed, short or poisoned data is the same: REJECTED."""
    monkeypatch.setattr(solver, "raw", None)
    good = simple()
    for bad in (simple(low=1.0, high=0.0), simple(nominal=np.nan), good.with_(dense=good.dense[:-1])):
        assert bad.solved_by(solver)[1:] == (SolverStatus.REJECTED, 0)


@pytest.mark.parametrize("refused", ["update_data_vec", "update_data_mat"])
def test_1_the_wrapper_believes_return_codes(solver: OsqpSolver, monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    """If OSQP refuses the data for a reason that our own checks don't know, the result is REJECTED."""

    class Refusing:
        """An OSQP whose updates fail."""

        def update_data_vec(self, **_: Any) -> int:
            return int(refused == "update_data_vec")

        def update_data_mat(self, **_: Any) -> int:
            return int(refused == "update_data_mat")

    monkeypatch.setattr(solver, "raw", Refusing())
    assert simple().solved_by(solver)[1] is SolverStatus.REJECTED


# -- 2: NaN poisons the instance ------------------------------------------------------------------------


def test_2_raw_osqp_never_recovers_from_one_nan() -> None:
    """After one NaN in the objective every later solve of good data is NaN."""
    instance = raw()
    instance.update(q=np.full(N, np.nan))
    instance.solve(raise_error=False)
    instance.update(q=np.full(N, -5.0))
    result = instance.solve(raise_error=False)
    assert result.info.status != "solved"
    assert not np.isfinite(result.x).any()


def test_2_the_wrapper_goes_on_after_a_nan(solver: OsqpSolver) -> None:
    """A NaN is REJECTED, and the next solve gives the bits that it would have given without it."""
    rng, other = np.random.default_rng(1), OsqpSolver(N, ROWS, PATIENT)
    for _ in range(10):
        problem = random_problem(rng)
        assert simple(nominal=np.nan).solved_by(solver)[1] is SolverStatus.REJECTED
        np.testing.assert_array_equal(problem.solved_by(solver)[0], problem.solved_by(other)[0])


# -- 3: an infeasible x looks finite --------------------------------------------------------------------


def test_3_raw_osqp_gives_a_finite_x_for_an_infeasible_problem() -> None:
    """``np.isfinite`` passes on what OSQP returns for x ≥ 1, x ≤ −1; only the status tells."""
    result = two_rows((1.0, -9.0), (9.0, -1.0))
    assert result.info.status == "primal infeasible"
    assert np.isfinite(result.x).all()
    assert np.abs(result.x).max() > 1e9


def test_3_the_wrapper_hands_out_the_start_instead(solver: OsqpSolver) -> None:
    """The x that comes back for an infeasible program is the caller's start, marked UNSOLVED."""
    problem = infeasible()
    x, status, _ = problem.solved_by(solver)
    assert status is SolverStatus.UNSOLVED
    assert x is problem.start


# -- 4: slightly infeasible looks solved, feasible looks infeasible -------------------------------------


def test_4_raw_osqp_calls_a_slightly_infeasible_problem_solved() -> None:
    """0.5 ≤ x ≤ 0.4995 as two rows is "solved" at default tolerances."""
    assert two_rows((0.5, -9.0), (9.0, 0.4995)).info.status == "solved"


def test_4_the_wrapper_says_solved_only_within_its_tolerance_of_every_row(solver: OsqpSolver) -> None:
    """A gap of 10 eps_abs has no answer; one of half an eps_abs may, and then no row is broken by more than eps_abs."""
    assert infeasible(10.0 * PATIENT.eps_abs).solved_by(solver)[1] is SolverStatus.UNSOLVED
    problem = infeasible(0.5 * PATIENT.eps_abs)
    x, status, _ = problem.solved_by(solver)
    assert status is not SolverStatus.SOLVED or problem.excess(x) <= PATIENT.eps_abs * (1.0 + 1e-6)


# -- 5: arrays ------------------------------------------------------------------------------------------


def test_5_raw_osqp_reads_a_view_as_if_it_were_contiguous() -> None:
    """q[:, 0] of a two-column array gives another problem's solution, silently."""
    instance, table = raw(-9.0, 9.0), np.zeros((N, 2))
    table[:, 0] = -np.arange(1.0, N + 1.0)
    instance.update(q=table[:, 0])
    result = instance.solve(raise_error=False)
    assert result.info.status == "solved"
    assert np.abs(result.x + table[:, 0]).max() > 0.5


def test_5_raw_osqp_converts_other_types_and_drops_imaginary_parts() -> None:
    """float32 and object arrays are converted, right in this version; of complex ones the imaginary part is cut off."""
    for kind in (np.float32, object, complex):
        instance = raw()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = np.linspace(-0.5, 0.5, N)
            q = -wanted.astype(kind) - (1j if kind is complex else 0)
            assert instance._solver.update_data_vec(q=q, l=None, u=None) == 0
        np.testing.assert_allclose(instance.solve(raise_error=False).x, wanted, atol=1e-2)


def test_5_the_wrapper_gives_osqp_only_its_own_contiguous_doubles(
    solver: OsqpSolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches the library is float64, contiguous, and none of the caller's memory, whatever views came in."""
    seen: list[Any] = []

    class Spy:
        """Records what it is given and passes it on."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def update_data_vec(self, **data: Any) -> int:
            seen.extend(data.values())
            return int(self._inner.update_data_vec(**data))

        def update_data_mat(self, **data: Any) -> int:
            seen.append(data["A_x"])
            return int(self._inner.update_data_mat(**data))

        def warm_start(self, *data: Any) -> None:
            seen.extend(data)
            self._inner.warm_start(*data)

    monkeypatch.setattr(solver, "raw", Spy(solver.raw))
    problem = random_problem(np.random.default_rng(2))
    given = [np.stack((part, part), axis=-1)[..., 0] for part in problem.parts]
    assert solver.solve(*given)[1] is SolverStatus.SOLVED
    assert len(seen) == 6
    for array in seen:
        assert array.dtype == np.float64
        assert array.flags.c_contiguous
        assert not any(np.shares_memory(array, own) for own in given)


# -- 6: tolerances --------------------------------------------------------------------------------------


def unit_row_beside(scale: float, **options: Any) -> float:
    """By how much |x₀| ≤ 1 is broken if the other row of the problem is in units ``scale`` times as large."""
    instance = osqp.OSQP(algebra="builtin")
    rows = sparse.csc_matrix(np.diag([1.0, scale]))
    bounds = np.array([1.0, scale])
    instance.setup(sparse.eye(2, format="csc"), np.full(2, -5.0), rows, -bounds, bounds, verbose=False, **options)
    result = instance.solve(raise_error=False)
    assert result.info.status == "solved"
    return float(result.x[0] - 1.0)


def test_6_raw_osqp_loosens_every_row_for_the_largest() -> None:
    """Beside a torque of 87 N·m a row of size 1 may be broken by more than eps_abs; without eps_rel it may not."""
    assert unit_row_beside(1.0, scaling=0) < 1e-3
    assert unit_row_beside(87.0, scaling=0) > 1e-3
    assert unit_row_beside(87.0, scaling=0, eps_rel=0.0) < 1e-3


def test_6_the_wrapper_keeps_every_row_within_the_absolute_tolerance(solver: OsqpSolver) -> None:
    """Beside a far larger row none is broken by more than eps_abs, though some are broken, in what it solves of 60.

    The rest show why callers divide rows by their size: in bad units OSQP is not done in 20,000 iterations.
    """
    rng, excesses = np.random.default_rng(4), list[float]()
    for _ in range(60):
        problem = random_problem(rng)
        problem.dense[-1], problem.lower[-1], problem.upper[-1] = 0.0, -900.0, 900.0
        problem.dense[-1, 0] = 87.0
        x, status, _ = problem.solved_by(solver)
        if status is SolverStatus.SOLVED:
            excesses.append(problem.excess(x))
    assert len(excesses) >= 15
    assert 0.0 < max(excesses) <= PATIENT.eps_abs * (1.0 + 1e-6)  # never exactly feasible: callers tighten bounds
    assert settings(solver.raw).eps_rel == 0.0


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
