"""Every known pitfall of OSQP: a test that shows it on the raw library, and one that shows its absence in the wrapper.

The numbers are those of docs/decisions/0004-osqp-wrapper.md; those from 7 on are in ``test_osqp_pitfalls_run.py``. A
raw test that fails after an update of the library says that the pitfall has changed, and that the page needs another
look.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import osqp
import pytest
from scipy import sparse

from safeguard.controllers.qp import OsqpSolver
from safeguard.core.enums import SolverStatus
from tests.unit.osqp_support import raw, settings
from tests.unit.solver_support import PATIENT, ROWS, N, infeasible, random_problem, simple


@pytest.fixture
def solver() -> OsqpSolver:
    """The wrapper, with iterations enough to need no rescue."""
    return OsqpSolver(N, ROWS, PATIENT)


def two_rows(lower: tuple[float, float], upper: tuple[float, float], **options: Any) -> Any:
    """One variable near 0 with two rows of it, solved."""
    instance = osqp.OSQP(algebra="builtin")
    rows = sparse.csc_matrix(np.ones((2, 1)))
    instance.setup(
        sparse.eye(1, format="csc"), np.zeros(1), rows, np.array(lower), np.array(upper), verbose=False, **options
    )
    return instance.solve(raise_error=False)


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
