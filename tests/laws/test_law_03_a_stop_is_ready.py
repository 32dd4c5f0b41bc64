# pyright: reportPrivateUsage=false
# A violation is planted where the code would make it: inside.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pinocchio as pin
import pytest

import safeguard.controllers.filter as filter_module
from safeguard.controllers import SafetyFilter
from safeguard.controllers.brake import StopPlan
from safeguard.controllers.checker import Checker
from safeguard.controllers.clearance import Clearance, ClearanceRows
from safeguard.controllers.dynamics import Dynamics
from safeguard.controllers.viability import JointBounds
from safeguard.core.enums import FilterStatus
from safeguard.core.types import RobotState, Vector
from tests.laws.lab import FAST, PERIOD, TICK, Guest, Lab, always, beyond, folded, near, panda, watched

Patch = pytest.MonkeyPatch
ROUNDING = 1e-9


def dense_problem(plan: StopPlan, least: float) -> str:
    """What is wrong with a stop, by dense sampling with pinocchio alone; "" for nothing.

    ``least`` is the clearance that was there already; nothing may fall below it or the hard floor.
    """
    robot, count = panda(), 60
    limits, model, geometry = robot.limits, robot.pin_model, robot.collision.geometry
    data, placed = model.createData(), geometry.createData()
    ends = np.abs(plan.v0) / plan.a_brake
    floor = min(FAST.clearance.hard_floor_m, least) - 1e-6
    for s in np.linspace(0.0, float(ends.max()), count):
        ran = np.minimum(s, ends)
        a = np.where(s < ends, -np.sign(plan.v0) * plan.a_brake, 0.0)
        v = plan.v0 - np.sign(plan.v0) * plan.a_brake * ran
        q = plan.q0 + 0.5 * (plan.v0 + v) * ran
        if (q < limits.q_min - ROUNDING).any() or (q > limits.q_max + ROUNDING).any():
            return f"position {q} at {s:.3f} s"
        if (np.abs(v) > limits.v_max + ROUNDING).any():
            return f"speed {v} at {s:.3f} s"
        tau = robot.bias(v, pin.rnea(model, data, q, v, a))
        if (np.abs(tau) > limits.tau_max).any():
            return f"torque {tau} at {s:.3f} s"
        pin.computeDistances(model, data, geometry, placed, q)
        if min(result.min_distance for result in placed.distanceResults) < floor:
            return f"clearance at {s:.3f} s"
    return ""


def check_law_3(lab: Lab, ticks: int = 200) -> int:
    """A command is committed only with a verified stop from where it leads; the stored one is immutable.

    Returns how many commands were committed.
    """
    committed = 0
    with watched(lab) as produced:
        for tick in range(ticks):
            stored = lab.filter.plan
            lab.tick()
            made, plan = produced[-1], lab.filter.plan
            assert plan is not None
            if made.result.status not in (FilterStatus.ADMISSIBLE, FilterStatus.CORRECTED):
                assert plan is stored, "a stop was replaced without a commitment"
                continue
            committed += 1
            assert made.state is not None
            q, v, a = made.state.q, made.state.v, made.result.acceleration
            v_next = v + a * PERIOD
            q_next = q + 0.5 * (v + v_next) * PERIOD
            assert plan is not stored
            assert np.abs(plan.v0 - v_next).max() < ROUNDING, "the stop starts at another speed"
            assert np.abs(plan.q0 - q_next).max() < ROUNDING, "the stop starts elsewhere"
            assert plan.t0 == made.state.t + TICK
            if tick % 4 == 0:
                problem = dense_problem(plan, made.result.margins.clearance)
                assert not problem, problem
    check_immutable(lab.filter)
    return committed


def check_immutable(filt: SafetyFilter) -> None:
    """Neither the stored stop nor its numbers can be changed."""
    plan = filt.plan
    assert plan is not None
    for name in ("q0", "v0", "a_brake", "t0"):
        value = getattr(plan, name)
        try:
            setattr(plan, name, value)
        except (FrozenInstanceError, AttributeError):
            pass
        else:
            raise AssertionError(f"{name} of the stored stop can be replaced")
        if isinstance(value, np.ndarray):
            assert not value.flags.writeable, f"{name} of the stored stop can be edited"


@pytest.mark.parametrize("guest", [near, beyond, folded], ids=lambda guest: guest.__name__)
def test_law_3(guest: Guest) -> None:
    """Near, at the limits and close to self-collision a verified stop stands behind every command."""
    assert check_law_3(Lab(guest).start(), 400) > 300


def test_law_3_while_braking() -> None:
    """While the backup runs, the stop that it follows stays the very same object."""
    lab = Lab(beyond).start(60)
    plan = lab.filter.plan
    assert plan is not None
    before = (plan.q0.tobytes(), plan.v0.tobytes(), plan.a_brake.tobytes(), plan.t0)
    lab.shield.stop(operator="lab", reason="test")
    assert check_law_3(lab, 100) == 0
    assert lab.filter.plan is plan
    assert (plan.q0.tobytes(), plan.v0.tobytes(), plan.a_brake.tobytes(), plan.t0) == before


# -- planted ------------------------------------------------------------------------------------------


def not_stored(patch: Patch) -> None:
    """The command goes out, its stop is not kept."""
    real = SafetyFilter._commit

    def commit(self: SafetyFilter, *args: Any) -> Any:
        kept = self._plan
        result = real(self, *args)
        self._plan = kept
        return result

    patch.setattr(SafetyFilter, "_commit", commit)


def from_here(patch: Patch) -> None:
    """The kept stop starts at the present state."""
    real = SafetyFilter._commit

    def commit(self: SafetyFilter, state: RobotState, *args: Any) -> Any:
        result = real(self, state, *args)
        self._plan = StopPlan(state.q, state.v, self.a_brake, state.t + TICK)
        return result

    patch.setattr(SafetyFilter, "_commit", commit)


def too_soon(patch: Patch) -> None:
    """The kept stop starts one period early."""
    real = SafetyFilter._commit

    def commit(self: SafetyFilter, state: RobotState, *args: Any) -> Any:
        result = real(self, state, *args)
        assert self._plan is not None
        self._plan = replace(self._plan, t0=state.t)
        return result

    patch.setattr(SafetyFilter, "_commit", commit)


def blind_to_limits(patch: Patch) -> None:
    """Neither the bounds nor the checker look at limits of motion."""
    most = panda().limits.a_max

    def bounds(self: JointBounds, *_: Any) -> tuple[Vector, Vector]:
        return -most, most

    patch.setattr(JointBounds, "__call__", bounds)
    patch.setattr(Checker, "motion_refusal", always(""))
    patch.setattr(SafetyFilter, "_end_refusal", always(""))


def blind_to_torque(patch: Patch) -> None:
    """Stops are planned harder than the motors can brake, and nobody looks at their torques."""
    real = StopPlan

    def plan(q: Vector, v: Vector, a_brake: Vector, t0: int) -> StopPlan:
        return real(q, v, 40.0 * a_brake, t0)

    patch.setattr(filter_module, "StopPlan", plan)
    patch.setattr(Checker, "torque_refusal", always(""))


def blind_to_collision(patch: Patch) -> None:
    """Neither rows nor the stop look at distances."""

    def rows(self: Clearance, *given: Any) -> tuple[ClearanceRows, Vector]:
        return self._no_rows, given[3]

    patch.setattr(Clearance, "rows", rows)
    patch.setattr(Clearance, "stop_refusal", always(""))


class LooseStop(StopPlan):
    """A stop that anybody may edit."""

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def loose(patch: Patch) -> None:
    """The stored stop can be edited."""
    patch.setattr(filter_module, "StopPlan", LooseStop)


def writable(patch: Patch) -> None:
    """The numbers of the stored stop can be edited."""

    def plan(*args: Any) -> StopPlan:
        made = StopPlan(*args)
        made.q0.setflags(write=True)
        return made

    patch.setattr(filter_module, "StopPlan", plan)


@pytest.mark.parametrize(
    ("plant", "guest"),
    [
        (not_stored, near),
        (from_here, near),
        (too_soon, near),
        (blind_to_limits, beyond),
        (blind_to_torque, beyond),
        (blind_to_collision, folded),
        (loose, near),
        (writable, near),
    ],
    ids=lambda value: value.__name__,
)
def test_law_3_planted(plant: Callable[[Patch], None], guest: Guest, monkeypatch: Patch) -> None:
    """A command without its own verified stop, or a stop that can be edited, is seen."""
    lab = Lab(guest).start()
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_law_3(lab, 400)


def test_law_3_planted_unverified(monkeypatch: Patch) -> None:
    """A backup that replaces the stored stop by one that nobody verified is seen."""
    lab = Lab(beyond).start(60)
    real = SafetyFilter._run_backup

    def backup(self: SafetyFilter, state: Any, *rest: Any) -> Any:
        self._plan = StopPlan(state.q, state.v, self.a_brake, state.t)
        return real(self, state, *rest)

    monkeypatch.setattr(SafetyFilter, "_run_backup", backup)
    lab.shield.stop(operator="lab", reason="test")
    with pytest.raises(AssertionError, match="without a commitment"):
        check_law_3(lab, 100)


# -- a loaded arm, where torque decides what a stop is ----------------------------------------------------


def check_law_3_torque(commits: int = 3000) -> int:
    """Every stop that a heavily loaded arm commits can be followed: its torque, sampled densely, is within limits.

    Returns:
        How many proposals were refused for the torque of their stop: 0 would make this check idle.
    """
    robot = panda().with_payload(2.0, [0.0, 0.0, 0.08])
    filt, dynamics, limits = SafetyFilter(robot), Dynamics(robot), robot.limits
    rng, refused = np.random.default_rng(3), 0
    for _ in range(commits):
        state = RobotState(rng.uniform(limits.q_min, limits.q_max), rng.uniform(-limits.v_max, limits.v_max), 0)
        filt.reset(state)
        result = filt(state, acceleration=rng.normal(size=robot.n) * limits.a_max)
        refused += "torque" in result.refusal
        plan = filt.plan
        if plan is None or result.status not in (FilterStatus.ADMISSIBLE, FilterStatus.CORRECTED):
            continue
        spread = np.arange(201, dtype=np.float64) * (float(plan.durations.max()) / 200.0)
        times = np.sort(np.concatenate((spread, np.maximum(plan.durations - 1e-9, 0.0), plan.durations + 1e-9)))
        q, v = plan.at(times[:, None])
        a = np.where(times[:, None] < plan.durations, -np.copysign(plan.a_brake, plan.v0), 0.0)
        over = np.abs(dynamics.torques_along(q, v, a)) - limits.tau_max
        assert over.max() <= 0.0, f"a committed stop needs {over.max():.3f} N·m too much"
    return refused


def test_law_3_torque() -> None:
    """The torque of committed stops holds where it is scarce, and the check is not idle there."""
    assert check_law_3_torque() > 0


def test_law_3_torque_planted(monkeypatch: Patch) -> None:
    """Without the torque check of stops some committed ones cannot be followed."""

    def clearance_only(self: SafetyFilter, problem: Any, motion: Any) -> str:
        return self._clearance.stop_refusal(problem.distances, self._clearance.end, motion.plan)

    monkeypatch.setattr(SafetyFilter, "_stop_refusal", clearance_only)
    with pytest.raises(AssertionError, match="too much"):
        check_law_3_torque()
