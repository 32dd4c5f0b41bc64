"""What the filter does when something behind it fails or lies: the stored stop, or nothing at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from safeguard.controllers.clearance import Clearance
from safeguard.controllers.dynamics import Dynamics
from safeguard.controllers.filter import SafetyFilter
from safeguard.controllers.settle import SettledSolver
from safeguard.core.enums import FilterStatus, SolverStatus
from safeguard.core.types import RobotState, Vector
from tests.unit.controllers_support import DT_NS, closing, panda, quick_filter, state_at, toward_contact

HOME = panda().home
STILL = state_at(HOME)


@pytest.fixture(scope="module")
def shared() -> SafetyFilter:
    """One filter for all tests here."""
    return quick_filter()


@pytest.fixture
def filt(shared: SafetyFilter) -> SafetyFilter:
    """The filter at rest at home."""
    shared.reset(STILL)
    return shared


def lie(monkeypatch: pytest.MonkeyPatch, x: Vector, status: SolverStatus) -> None:
    """Let every solver answer with a given point and status, whatever the problem."""

    def answer(*_: object) -> tuple[Vector, SolverStatus, int]:
        return x, status, 77

    monkeypatch.setattr(SettledSolver, "solve", answer)


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (np.full(7, 1e3), "torque"),
        (np.full(7, np.nan), "torque"),
        (np.full(7, np.inf), "torque"),
        (np.array([0, 0, 0, 0, 15.5, 0, 0.0]), "acceleration"),
    ],
    ids=["huge", "nan", "inf", "just too much"],
)
def test_a_solver_that_lies_is_caught_by_the_checker(
    filt: SafetyFilter, monkeypatch: pytest.MonkeyPatch, x: Vector, why: str
) -> None:
    """A wrong x called "solved" never reaches the arm: the backup moves it, and the reason names the limit."""
    lie(monkeypatch, x, SolverStatus.SOLVED)
    with np.errstate(invalid="ignore"):
        result = filt(STILL, acceleration=np.full(7, 200.0))
    assert result.status is FilterStatus.BACKUP
    assert why in result.refusal
    np.testing.assert_allclose(result.acceleration, 0.0, atol=1e-9)


def test_a_solver_that_lies_about_clearance_is_caught_too(filt: SafetyFilter, monkeypatch: pytest.MonkeyPatch) -> None:
    """An x within every joint limit that drives two links together is refused for the pair."""
    q = toward_contact()
    state = state_at(q)
    filt.reset(state)
    honest = filt(state, acceleration=closing(q))
    assert any(name.startswith("clearance:") for name in honest.active)
    filt.reset(state)
    lie(monkeypatch, closing(q), SolverStatus.SOLVED)
    result = filt(state, acceleration=1.5 * closing(q))
    assert result.status is FilterStatus.BACKUP
    assert any(name in result.refusal for name in panda().collision.names)


@pytest.mark.parametrize("status", [SolverStatus.UNSOLVED, SolverStatus.REJECTED])
def test_a_solver_that_fails_selects_the_backup_even_if_its_x_is_fine(
    filt: SafetyFilter, monkeypatch: pytest.MonkeyPatch, status: SolverStatus
) -> None:
    """Only "solved" counts: neither the solver's x nor a clipped proposal is passed through (law 2)."""
    lie(monkeypatch, np.full(7, 0.1), status)
    result = filt(STILL, acceleration=np.full(7, 200.0))
    assert result.status is FilterStatus.BACKUP
    assert result.solver is status
    assert result.iterations == 77
    np.testing.assert_allclose(result.acceleration, 0.0, atol=1e-9)


def test_a_failing_solver_does_not_hurt_an_admissible_proposal(
    filt: SafetyFilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The QP is not asked when the proposal is fine as it is."""
    lie(monkeypatch, np.zeros(7), SolverStatus.UNSOLVED)
    assert filt(STILL, acceleration=np.full(7, 0.2)).status is FilterStatus.ADMISSIBLE


def test_a_backup_beyond_the_torque_limits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If even the stop needs more torque than there is, the result is the terminal stop, not a clipped torque."""
    filt = quick_filter()
    filt.reset(STILL)
    weak = replace(panda().limits, tau_max=np.full(7, 0.01))
    monkeypatch.setattr(filt._checker, "_limits", weak)  # pyright: ignore[reportPrivateUsage]
    result = filt(STILL, torque=np.full(7, np.nan))
    assert result.status is FilterStatus.REFUSED
    assert result.source == "terminal_stop"
    assert result.refusal.startswith("backup: ")
    assert "torque" in result.refusal
    np.testing.assert_array_equal(result.torque, 0.0)


def test_a_motion_whose_stop_is_not_verified_is_not_committed(
    filt: SafetyFilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proposal itself is harmless; without a verified stop behind it the old stop moves the arm (law 3)."""
    before = filt.plan

    def not_shown(*_: object) -> str:
        return "not shown"

    monkeypatch.setattr(Clearance, "stop_refusal", not_shown)
    result = filt(STILL, acceleration=np.full(7, 0.1))
    assert result.status is FilterStatus.BACKUP
    assert result.refusal == "not shown"
    assert filt.plan is before


def test_dynamics_that_contradict_themselves_are_caught(filt: SafetyFilter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torque whose acceleration is not the one that was checked is refused, not handed out."""
    honest = Dynamics.acceleration

    def wrong(self: Dynamics, tau: Vector) -> Vector:
        return honest(self, tau) + 1e-3

    tau = filt(STILL, acceleration=np.full(7, 0.3)).torque
    filt.reset(STILL)
    monkeypatch.setattr(Dynamics, "acceleration", wrong)
    result = filt(STILL, torque=tau)
    assert result.status is not FilterStatus.ADMISSIBLE


def test_a_first_backup_with_a_state_stops_from_there(filt: SafetyFilter) -> None:
    """With nothing stored the measured state is where the stop starts."""
    filt.reset()
    moving = RobotState(HOME, np.full(7, 0.2), DT_NS)
    result = filt.backup(moving)
    assert result.status is FilterStatus.BACKUP
    np.testing.assert_allclose(result.acceleration, -filt.a_brake, atol=1e-6)
    assert filt.plan is not None
    np.testing.assert_array_equal(filt.plan.v0, moving.v)
