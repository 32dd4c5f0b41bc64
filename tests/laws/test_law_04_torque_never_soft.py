# pyright: reportPrivateUsage=false
# A violation is planted where the code would make it: inside.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from safeguard.controllers import SafetyFilter
from safeguard.controllers import filter as filter_module
from safeguard.controllers.brake import StopPlan
from safeguard.controllers.checker import Checker
from safeguard.controllers.viability import JointBounds
from safeguard.core.enums import Cause, FilterStatus, NominalKind
from safeguard.core.types import FULL_ENVELOPE, Envelope, Nominal, RobotState, TorqueCommand, Vector
from safeguard.modes import load_table
from tests.laws.lab import FAST, PERIOD, TICK, Guest, Lab, always, beyond, folded, panda

Patch = pytest.MonkeyPatch
CAUTIOUS = load_table("monolithic", PERIOD).envelope[1]
ENVELOPES = (CAUTIOUS, Envelope(0.1, 0.1), Envelope(1e-3, 1e-3))


def check_law_4_torque(lab: Lab, ticks: int) -> int:
    """No torque beyond its limit, no slack on a torque, every slack is a cause of the next tick.

    Returns how many ticks had slack.
    """
    slack, torque = 0, panda().limits.tau_max
    for _ in range(ticks):
        before = lab.decisions[-1].filter.slack
        decision = lab.tick()
        assert isinstance(decision.command, TorqueCommand)
        assert (np.abs(decision.command.tau) <= torque).all(), "torque was soft"
        soft = [name for name, _ in decision.filter.slack if not name.startswith("clearance:")]
        assert not soft, f"slack where none is declared: {soft}"
        assert not before or Cause.FILTER_SLACK in decision.causes, "slack without a cause"
        slack += bool(before)
    return slack


def stopping_distance(envelope: Envelope, speed: float) -> Vector:
    """Path to rest from ``speed`` (share of the limit) of joint 1: one filtered tick, then the backup."""
    robot = panda()
    filt = SafetyFilter(robot, PERIOD, FAST)
    q, v = np.array(robot.home), np.zeros(robot.n)
    v[0] = speed * robot.limits.v_max[0]
    filt.reset(RobotState(q, v, 0))
    brake = Nominal(NominalKind.ACCELERATION, np.where(v > 0.0, -filt.a_brake, 0.0))
    result = filt.apply(RobotState(q, v, 0), brake, envelope)
    assert result.status is FilterStatus.ADMISSIBLE, "an envelope refused full braking"
    for tick in range(2000):
        if tick:
            result = filt.backup(RobotState(q, v, tick * TICK))
        a = result.acceleration
        q, v = q + v * PERIOD + 0.5 * a * PERIOD**2, v + a * PERIOD
        if np.abs(v).max() < 1e-4:
            return q - robot.home
    raise AssertionError("it never stopped")


def check_law_4_braking(envelope: Envelope, speed: float) -> None:
    """Under an envelope the arm stops within the distance that it has without one."""
    free = stopping_distance(FULL_ENVELOPE, speed)
    assert free[0] > 1e-4
    assert np.array_equal(stopping_distance(envelope, speed), free)


@pytest.mark.parametrize("guest", [beyond, folded], ids=lambda guest: guest.__name__)
def test_law_4_torque(guest: Guest) -> None:
    """Torque limits hold at the edge of everything; slack occurs only as clearance, and is a cause."""
    slack = check_law_4_torque(Lab(guest).start(), 500)
    assert slack > 0 or guest is beyond


def only_torque_limits(patch: Patch) -> None:
    """Switch every other limit off, so that torque is what binds."""
    n = panda().n
    patch.setattr(JointBounds, "__call__", always((np.full(n, -1e3), np.full(n, 1e3))))
    patch.setattr(Checker, "motion_refusal", always(""))


def test_law_4_torque_alone(monkeypatch: Patch) -> None:
    """With every other limit off the torque limits still hold, and they are what binds."""
    lab = Lab(beyond).start()
    only_torque_limits(monkeypatch)
    check_law_4_torque(lab, 60)
    assert any(row.startswith("torque:") for d in lab.decisions for row in d.filter.active)


@pytest.mark.parametrize("speed", [0.2, 0.7], ids=["inside the envelope", "outside the envelope"])
@pytest.mark.parametrize("envelope", ENVELOPES, ids=["cautious", "a tenth", "a thousandth"])
def test_law_4_braking(envelope: Envelope, speed: float) -> None:
    """The braking distance under CAUTIOUS, and under tighter envelopes, is that under NOMINAL."""
    assert CAUTIOUS.velocity < 1.0
    check_law_4_braking(envelope, speed)


# -- planted ------------------------------------------------------------------------------------------


def soft_torque(patch: Patch, lab: Lab) -> None:
    """The program may use five times the torque, and the checker lets it pass."""
    only_torque_limits(patch)
    patch.setattr(filter_module, "_FEEDBACK", 5.0)
    patch.setattr(Checker, "torque_refusal", always(""))


def soft_backup(patch: Patch, lab: Lab) -> None:
    """A torque limit is relaxed a little."""
    real = SafetyFilter.apply

    def apply(self: SafetyFilter, *args: Any) -> Any:
        result = real(self, *args)
        return replace(result, slack=(*result.slack, ("torque:panda_joint2", 1e-3)))

    patch.setattr(SafetyFilter, "apply", apply)


def silent_slack(patch: Patch, lab: Lab) -> None:
    """Nobody is told of slack."""
    patch.setattr("safeguard.shield.own_failures", always([]))


@pytest.mark.parametrize(
    ("plant", "guest"),
    [(soft_torque, beyond), (soft_backup, beyond), (silent_slack, folded)],
    ids=lambda value: value.__name__,
)
def test_law_4_planted_torque(plant: Callable[[Patch, Lab], None], guest: Guest, monkeypatch: Patch) -> None:
    """Soft torque, slack on a torque and slack that nobody is told of are seen."""
    lab = Lab(guest).start()
    plant(monkeypatch, lab)
    with pytest.raises(AssertionError):
        check_law_4_torque(lab, 500)


def softer_plan(patch: Patch) -> None:
    """Stops are planned with the envelope's share of the deceleration."""
    real = SafetyFilter.apply

    def apply(self: SafetyFilter, state: RobotState, nominal: Nominal, envelope: Envelope) -> Any:
        whole = self.a_brake
        self.a_brake = whole * envelope.velocity
        try:
            return real(self, state, nominal, envelope)
        finally:
            self.a_brake = whole

    patch.setattr(SafetyFilter, "apply", apply)


def narrow_bounds(patch: Patch) -> None:
    """The envelope holds for braking too: the bounds are not widened to contain it."""
    real = JointBounds.__call__

    def bounds(
        self: JointBounds, q: Vector, v: Vector, brake: Vector, velocity: float, acceleration: float, *near: Any
    ) -> tuple[Vector, Vector]:
        lower, upper = real(self, q, v, brake, velocity, acceleration, *near)
        most = min(velocity, acceleration) * panda().limits.a_max * 0.2
        return np.maximum(lower, -most), np.minimum(upper, most)

    patch.setattr(JointBounds, "__call__", bounds)


def weaker_tracking(patch: Patch) -> None:
    """The reference of a running stop is stretched after an envelope was seen."""
    real = SafetyFilter.apply

    def apply(self: SafetyFilter, state: RobotState, nominal: Nominal, envelope: Envelope) -> Any:
        result = real(self, state, nominal, envelope)
        plan = self._plan
        assert plan is not None
        self._plan = StopPlan(plan.q0, plan.v0, plan.a_brake * envelope.velocity, plan.t0)
        return result

    patch.setattr(SafetyFilter, "apply", apply)


@pytest.mark.parametrize("plant", [softer_plan, narrow_bounds, weaker_tracking], ids=lambda plant: plant.__name__)
def test_law_4_planted_braking(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    """An envelope that lengthens the way to rest is seen."""
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_law_4_braking(CAUTIOUS, 0.2)
