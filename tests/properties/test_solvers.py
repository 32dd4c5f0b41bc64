"""What holds for the filter's solvers whatever they are fed."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from safeguard.controllers.daqp import DaqpSolver
from safeguard.controllers.rescue import RescuedSolver
from safeguard.controllers.settle import EXACT, SettledSolver
from safeguard.controllers.solver import BIG, Solver
from safeguard.core.enums import SolverStatus
from safeguard.core.types import Vector
from tests.unit.solver_support import CONFIG, ROWS, N, infeasible, random_problem, simple

SHAPES = {"nominal": (N,), "dense": (ROWS, N), "lower": (N + ROWS,), "upper": (N + ROWS,), "start": (N,)}
SEEDS = st.integers(0, 2**32 - 1)
NUMBERS = st.one_of(
    st.floats(-20.0, 20.0),
    st.floats(),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-9, -1e-9, 1e4, 1e12, 1.1e12, 1e200, np.inf, -np.inf, np.nan]),
)
SOLVERS: tuple[Solver, ...] = (
    RescuedSolver(N, ROWS, CONFIG),
    DaqpSolver(N, ROWS, CONFIG),
    SettledSolver(N, ROWS, RescuedSolver(N, ROWS, CONFIG)),
)


@st.composite
def garbage(draw: st.DrawFn) -> dict[str, Any]:
    """A sound program with a few entries overwritten, and now and then a part of another shape or type."""
    problem = random_problem(np.random.default_rng(draw(SEEDS)))
    parts: dict[str, Any] = {key: getattr(problem, key).copy() for key in SHAPES}
    for _ in range(draw(st.integers(0, 4))):
        part = parts[draw(st.sampled_from(sorted(parts)))].reshape(-1)
        part[draw(st.integers(0, len(part) - 1))] = draw(NUMBERS)
    if draw(st.integers(0, 3)) == 0:
        key = draw(st.sampled_from(sorted(parts)))
        with np.errstate(all="ignore"):
            parts[key] = draw(st.sampled_from([
                parts[key][1:], parts[key].T, parts[key][None], parts[key].astype(np.float32), parts[key].tolist(),
                parts[key].astype(object), np.zeros((0, N)), np.float64(1.0), None, "garbage",
            ]))  # fmt: skip
    return parts


@given(garbage())
def test_any_input_gets_a_status_and_a_sound_answer_or_none(parts: dict[str, Any]) -> None:
    """Never an exception; an answer is finite and inside every row; without one, x is the start itself."""
    for solver in SOLVERS:
        x, status, iterations = solver.solve(**parts)
        assert status is not SolverStatus.SKIPPED
        assert 0 <= iterations <= CONFIG.max_iter + 10 * (N + ROWS)
        if not status.answered:
            assert x is parts["start"]
            continue
        assert np.isfinite(x).all()
        z = np.concatenate((x, parts["dense"] @ x))
        assert np.maximum(parts["lower"] - z, z - parts["upper"]).max() <= 1.001 * CONFIG.eps_abs


@given(SEEDS, st.lists(garbage(), max_size=3), st.booleans())
def test_what_came_before_matters_to_no_exact_answer(seed: int, before: list[dict[str, Any]], fails: bool) -> None:
    """After garbage DAQP gives the bits of a fresh solver, and the rescued solver after a reset too."""
    problem = random_problem(np.random.default_rng(seed))
    rescued, exact = RescuedSolver(N, ROWS, CONFIG), DaqpSolver(N, ROWS, CONFIG)
    for parts in before:
        rescued.solve(**parts)
        exact.solve(**parts)
    if fails:
        infeasible().solved_by(rescued)
    rescued.reset()
    for solver, fresh in (
        (rescued, RescuedSolver(N, ROWS, CONFIG)), (exact, DaqpSolver(N, ROWS, CONFIG))
    ):  # fmt: skip
        found, expected = problem.solved_by(solver), problem.solved_by(fresh)
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[1:] == expected[1:]


@given(SEEDS)
def test_both_solvers_agree(seed: int) -> None:
    """Along five programs in a row the rescued solver and DAQP differ by less than 1e-4 rad/s² (nominals of 15)."""
    rng, rescued, exact = np.random.default_rng(seed), RescuedSolver(N, ROWS, CONFIG), DaqpSolver(N, ROWS, CONFIG)
    for _ in range(5):
        problem = random_problem(rng)
        (x, status, _), (best, verdict, _) = problem.solved_by(rescued), problem.solved_by(exact)
        assert status.answered
        assert verdict is SolverStatus.SOLVED
        assert np.abs(x - best).max() < 1e-4


@given(garbage(), st.floats(0.0, 2.0))
def test_what_settles_satisfies_the_optimality_conditions(parts: dict[str, Any], pull: float) -> None:
    """A settled x is the clip of x_nom − Dᵀ y, and a row with y ≠ 0 touches its bound within ``EXACT``.

    Garbage included: sums of numbers of 1e12 are exact to their own last bits only.
    """
    solver = SettledSolver(N, ROWS, DaqpSolver(N, ROWS, CONFIG))
    if type(parts["nominal"]) is np.ndarray and parts["nominal"].shape == (N,):
        with np.errstate(all="ignore"):
            parts["nominal"] = parts["nominal"] * pull
    x, status, searches = solver.solve(**parts)
    if status is not SolverStatus.SETTLED:
        return
    y: Vector = solver.multipliers
    dense: Vector = parts["dense"]
    lower: Vector = np.maximum(parts["lower"], -BIG)
    upper: Vector = np.minimum(parts["upper"], BIG)
    unclipped: Vector = parts["nominal"] - dense.T @ y
    rows: Vector = dense @ x
    rounding = 1e-14 * (1.0 + np.abs(parts["nominal"]) + np.abs(dense.T) @ np.abs(y))
    assert (np.abs(x - np.clip(unclipped, lower[:N], upper[:N])) <= rounding).all()
    near = EXACT + 1e-14 * np.abs(dense) @ np.abs(x)
    assert (np.maximum(lower[N:] - rows, rows - upper[N:]) <= near).all()
    assert (np.abs(rows - np.where(y > 0.0, upper[N:], lower[N:]))[y != 0.0] <= near[y != 0.0]).all()
    assert (y != 0.0).sum() <= searches


@given(SEEDS, st.integers(0, 2))
def test_settled_and_exact_answers_are_one(seed: int, binding: int) -> None:
    """Whatever settles is DAQP's point within 1e-8 rad/s², with nominals as far out as twenty times the bounds."""
    rng = np.random.default_rng(seed)
    problem, exact = random_problem(rng), DaqpSolver(N, ROWS, CONFIG)
    problem = problem.with_(nominal=problem.nominal * 10.0 ** (binding - 1))
    x, status, _ = problem.solved_by(SettledSolver(N, ROWS, exact))
    assert status.answered
    np.testing.assert_allclose(x, problem.solved_by(exact)[0], atol=1e-8)


@given(SEEDS)
def test_a_projection_does_not_expand(seed: int) -> None:
    """Two nominals' answers are no further apart than the nominals, and the answer of an answer is itself."""
    rng = np.random.default_rng(seed)
    problem, solver = random_problem(rng), DaqpSolver(N, ROWS, CONFIG)
    other = problem.with_(nominal=problem.nominal + rng.normal(0.0, 5.0, N))
    x, y = problem.solved_by(solver)[0], other.solved_by(solver)[0]
    assert np.linalg.norm(x - y) <= np.linalg.norm(problem.nominal - other.nominal) + 1e-6
    np.testing.assert_allclose(problem.with_(nominal=x).solved_by(solver)[0], x, atol=1e-6)


@given(SEEDS)
def test_the_order_of_the_rows_does_not_matter(seed: int) -> None:
    """Dense rows in another order give the same point."""
    rng = np.random.default_rng(seed)
    problem, solver, order = random_problem(rng), DaqpSolver(N, ROWS, CONFIG), rng.permutation(ROWS)
    rows = np.concatenate((np.arange(N), N + order))
    shuffled = problem.with_(dense=problem.dense[order], lower=problem.lower[rows], upper=problem.upper[rows])
    np.testing.assert_allclose(shuffled.solved_by(solver)[0], problem.solved_by(solver)[0], atol=1e-6)


def test_the_garbage_is_garbage_and_the_sound_is_sound() -> None:
    """Negative control: the programs under the garbage are solved, and crossed bounds in them are not."""
    rng = np.random.default_rng(0)
    for solver in SOLVERS:
        assert all(random_problem(rng).solved_by(solver)[1].answered for _ in range(50))
        assert not simple(low=1.0, high=-1.0).solved_by(solver)[1].answered
