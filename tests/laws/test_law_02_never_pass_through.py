# pyright: reportPrivateUsage=false
# A violation is planted where the code would make it: inside.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from safeguard.controllers import SafetyFilter, posing, proposal
from safeguard.controllers.dynamics import Dynamics
from safeguard.controllers.qp import OsqpSolver
from safeguard.controllers.settle import SettledSolver
from safeguard.core.enums import FilterStatus, NominalKind, SolverStatus
from safeguard.core.types import FilterResult, Nominal, RobotState, Vector
from tests.laws.lab import FAST, PERIOD, TICK, always, panda

Patch = pytest.MonkeyPatch


def moving(n: int) -> tuple[Vector, Vector]:
    """A state in motion."""
    return np.array(panda().home), 0.3 * np.cos(np.arange(n))


def warm() -> tuple[SafetyFilter, RobotState]:
    """A filter with a stored stop, and a measured state one period later that is a little off its start."""
    filt, (q, v) = SafetyFilter(panda(), PERIOD, FAST), moving(panda().n)
    filt.reset(RobotState(q, v, 0))
    first = filt(RobotState(q, v, 0), acceleration=np.zeros(panda().n))
    assert first.status is FilterStatus.ADMISSIBLE
    return filt, RobotState(q + v * PERIOD + 1e-4, v - 1e-3, TICK)


def tracking_law(filt: SafetyFilter, state: RobotState) -> Vector:
    """The backup's torque, from its documented law and the stored stop alone."""
    plan, dynamics = filt.plan, Dynamics(panda())
    assert plan is not None
    dynamics.during(state.q, state.v, PERIOD)
    s = (state.t - plan.t0) * 1e-9
    (q_ref, v_ref), (_, v_after) = plan.at(s), plan.at(s + PERIOD)
    omega = FAST.brake.omega_radps
    a = (v_after - v_ref) / PERIOD + omega**2 * (q_ref - state.q) + 2.0 * omega * (v_ref - state.v)
    return dynamics.M @ a + dynamics.h


def raw_torque(state: RobotState, proposal: Vector) -> Vector:
    """What the proposal amounts to, unfiltered."""
    dynamics = Dynamics(panda())
    dynamics.during(state.q, state.v, PERIOD)
    return dynamics.M @ proposal + dynamics.h


def check_law_2(filt: SafetyFilter, state: RobotState, proposal: Vector) -> FilterResult:
    """A tick that the solver or the checker failed gets the backup's tracking law at the measured state."""
    plan = filt.plan
    result = filt.apply(state, Nominal(NominalKind.ACCELERATION, proposal))
    assert result.status is FilterStatus.BACKUP
    assert result.source == "backup"
    assert filt.plan is plan, "a failed tick commits nothing"
    assert np.abs(result.torque - tracking_law(filt, state)).max() < 1e-9
    raw = raw_torque(state, proposal)
    clip = np.clip(raw, -panda().limits.tau_max, panda().limits.tau_max)
    assert not np.array_equal(result.torque, raw)
    assert not np.array_equal(result.torque, clip)
    return result


def answering(status: SolverStatus, value: float) -> Callable[..., Any]:
    """A solver that says ``status`` and hands out ``value``."""

    def solve(self: OsqpSolver, nominal: Vector, *_: Any) -> tuple[Vector, SolverStatus, int]:
        return np.full(len(nominal), value), status, 1000

    return solve


def unsolved(patch: Patch) -> None:
    """The solver runs out of iterations."""
    patch.setattr(SettledSolver, "solve", answering(SolverStatus.UNSOLVED, 0.0))


def rejected(patch: Patch) -> None:
    """The solver is not given the data."""
    patch.setattr(SettledSolver, "solve", answering(SolverStatus.REJECTED, 0.0))


def lying(patch: Patch) -> None:
    """The solver calls a point outside every bound solved."""
    patch.setattr(SettledSolver, "solve", answering(SolverStatus.SOLVED, 1e3))


def not_finite(patch: Patch) -> None:
    """The solver calls NaN solved."""
    patch.setattr(SettledSolver, "solve", answering(SolverStatus.SOLVED, np.nan))


def motion_refused(patch: Patch) -> None:
    """The checker refuses the motion."""
    patch.setattr(SafetyFilter, "_motion_refusal", always("refused"))


def stop_refused(patch: Patch) -> None:
    """The checker refuses the stop behind the motion."""
    patch.setattr(SafetyFilter, "_stop_refusal", always("refused"))


FAILURES = (unsolved, rejected, lying, not_finite, motion_refused, stop_refused)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_law_2(failure: Callable[[Patch], None], monkeypatch: Patch) -> None:
    """However the program fails, the answer is the tracking law, and the reason is given."""
    filt, state = warm()
    failure(monkeypatch)
    assert check_law_2(filt, state, np.full(panda().n, 500.0)).refusal


def test_law_2_out_of_iterations() -> None:
    """A solver that really runs out of iterations is answered by the tracking law."""
    filt, state = warm()
    solver = FAST.solver.model_copy(update={"max_iter": 10, "eps_abs": 1e-12})
    filt._program.solver = OsqpSolver(panda().n, panda().n + FAST.clearance.slots, solver)
    proposal = 1e3 * np.cos(3.0 * np.arange(panda().n))
    result = check_law_2(filt, state, proposal)
    assert result.solver is SolverStatus.UNSOLVED
    assert result.iterations == 10


@pytest.mark.parametrize("kind", NominalKind)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_law_2_not_finite(kind: NominalKind, value: float) -> None:
    """A proposal of any kind with one number that is not finite never reaches the solver."""
    filt, state = warm()
    numbers = np.zeros(panda().n)
    numbers[3] = value
    gains = np.ones(panda().n)
    result = filt.apply(state, Nominal(kind, numbers, gains, gains))
    assert result.status is FilterStatus.BACKUP
    assert result.solver is SolverStatus.REJECTED
    assert np.abs(result.torque - tracking_law(filt, state)).max() < 1e-9


# -- planted ------------------------------------------------------------------------------------------


def answered_with(make: Callable[[SafetyFilter, RobotState, Vector], Vector]) -> Callable[[Patch], None]:
    """A filter that answers failures with the torque that ``make`` gives."""

    def plant(patch: Patch) -> None:
        real = SafetyFilter._run_backup

        def backup(self: SafetyFilter, state: Any, nominal: Any, *rest: Any) -> FilterResult:
            result = real(self, state, nominal, *rest)
            return replace(result, torque=make(self, state, nominal))

        patch.setattr(SafetyFilter, "_run_backup", backup)

    return plant


def raw(filt: SafetyFilter, state: RobotState, nominal: Vector) -> Vector:
    """The proposal itself."""
    return raw_torque(state, nominal)


def clipped(filt: SafetyFilter, state: RobotState, nominal: Vector) -> Vector:
    """The proposal, clipped to the torque limits."""
    most = panda().limits.tau_max
    return np.clip(raw_torque(state, nominal), -most, most)


def blended(filt: SafetyFilter, state: RobotState, nominal: Vector) -> Vector:
    """The tracking law with a trace of the proposal."""
    return tracking_law(filt, state) + 1e-6 * raw_torque(state, nominal)


def feed_forward(filt: SafetyFilter, state: RobotState, nominal: Vector) -> Vector:
    """The stored stop without feedback from the measured state."""
    plan = filt.plan
    assert plan is not None
    return raw_torque(state, plan.acceleration((state.t - plan.t0) * 1e-9, PERIOD))


def nothing(filt: SafetyFilter, state: RobotState, nominal: Vector) -> Vector:
    """No torque at all."""
    return np.zeros(panda().n)


@pytest.mark.parametrize("make", [raw, clipped, blended, feed_forward, nothing], ids=lambda make: make.__name__)
def test_law_2_planted(make: Callable[..., Vector], monkeypatch: Patch) -> None:
    """Any other answer to a failed solver is seen."""
    filt, state = warm()
    unsolved(monkeypatch)
    answered_with(make)(monkeypatch)
    with pytest.raises(AssertionError):
        check_law_2(filt, state, np.full(panda().n, 500.0))


def test_law_2_planted_trust(monkeypatch: Patch) -> None:
    """A filter that takes the point of an unfinished solver is seen."""
    filt, state = warm()

    def solve(self: SafetyFilter, problem: Any) -> Any:
        return problem.retreat, SolverStatus.SOLVED, 1000

    monkeypatch.setattr(SafetyFilter, "_solve", solve)
    with pytest.raises(AssertionError):
        check_law_2(filt, state, np.full(panda().n, 500.0))


def test_law_2_planted_clean_up(monkeypatch: Patch) -> None:
    """A filter that makes a proposal finite first is seen."""
    filt, state = warm()
    real = proposal.wanted

    def wanted(nominal: Nominal, *rest: Any) -> Any:
        return real(replace(nominal, value=np.nan_to_num(nominal.value)), *rest)

    monkeypatch.setattr(posing, "wanted", wanted)
    with pytest.raises(AssertionError):
        check_law_2(filt, state, np.full(panda().n, np.nan))
