"""Torque rate for comfort: corrected motion keeps to it, braking does not have to."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from safeguard.controllers.filter import SafetyFilter
from safeguard.core.enums import FilterStatus
from safeguard.core.types import FilterResult, RobotState, Vector
from tests.unit.controllers_support import DT, DT_NS, QUICK, panda

SMOOTH = QUICK.model_copy(update={"torque_rate": "comfort"})
RATE = panda().limits.tau_rate_max * DT  # N·m a period
ROUNDING = 1e-3  # N·m; the solver's tolerance of 1e-6 rad/s², times the mass matrix


def run(filt: SafetyFilter, ticks: int = 400) -> list[tuple[FilterResult, Vector]]:
    """(result, torque of the braking point) of every tick under targets that jump across the range."""
    robot, rng = filt.robot, np.random.default_rng(3)
    state, goal = RobotState(robot.home, np.zeros(robot.n), 0), robot.home
    out: list[tuple[FilterResult, Vector]] = []
    filt.reset(state)
    for k in range(ticks):
        if k % 80 == 0:
            goal = rng.uniform(robot.limits.q_min, robot.limits.q_max)
        result = filt(state, acceleration=400.0 * (goal - state.q) - 40.0 * state.v)
        brake = filt.dynamics.torque(np.clip(-state.v / DT, -filt.a_brake, filt.a_brake))
        out.append((result, brake))
        v = state.v + result.acceleration * DT
        state = RobotState(state.q + 0.5 * (state.v + v) * DT, v, state.t + DT_NS)
    return out


def excess(done: list[tuple[FilterResult, Vector]]) -> Vector:
    """By how much each change of torque passes the rate, and what the braking point needs of it, N·m."""
    passed: list[float] = []
    for (before, _), (result, brake) in pairwise(done):
        if result.status in (FilterStatus.CORRECTED, FilterStatus.ADMISSIBLE):
            low = np.minimum(before.torque - RATE, brake) - ROUNDING
            high = np.maximum(before.torque + RATE, brake) + ROUNDING
            passed.append(float(np.maximum(low - result.torque, result.torque - high).max()))
    return np.array(passed)


def test_motion_keeps_to_the_rate_or_to_the_braking_point_and_says_what_binds() -> None:
    """Of 400 ticks of jumping targets no released one changes the torque faster than braking itself asks for."""
    done = run(SafetyFilter(panda(), DT, SMOOTH))
    assert len(excess(done)) > 300
    assert excess(done).max() <= 0.0
    assert any(name.startswith("torque_rate:") for result, _ in done for name in result.active)


def test_by_default_the_rate_is_only_recorded() -> None:
    """The same targets without it: the torque jumps, and no row of that name exists."""
    done = run(SafetyFilter(panda(), DT, QUICK))
    assert excess(done).max() > 1.0
    assert not any(name.startswith("torque_rate:") for result, _ in done for name in result.active)


def test_a_proposal_that_jumps_is_corrected_although_every_limit_would_hold() -> None:
    """From rest a torque of 5 N·m more is fine by itself; with the rate it comes out smaller, in the same direction."""
    plain, smooth = SafetyFilter(panda(), DT, QUICK), SafetyFilter(panda(), DT, SMOOTH)
    state = RobotState(panda().home, np.zeros(7), 0)
    for filt in (plain, smooth):
        filt(state, acceleration=np.zeros(7))
    later = RobotState(state.q, state.v, DT_NS)
    push = plain.dynamics.h + np.array([5.0, 0, 0, 0, 0, 0, 0])
    assert plain(later, torque=push).status is FilterStatus.ADMISSIBLE
    result = smooth(later, torque=push)
    assert result.status is FilterStatus.CORRECTED
    assert 0.0 < result.torque[0] - plain.dynamics.h[0] == pytest.approx(RATE[0], abs=ROUNDING)
    assert "torque_rate:panda_joint1" in result.active
    assert all(name.startswith("torque_rate:") for name in result.active)


def test_after_a_reset_there_is_no_last_torque_to_keep_near() -> None:
    """The first command of an episode is free of the rate of another."""
    filt = SafetyFilter(panda(), DT, SMOOTH)
    state = RobotState(panda().home, np.zeros(7), 0)
    filt(state, acceleration=np.full(7, -3.0))
    filt.reset(state)
    assert filt(state, acceleration=np.full(7, 3.0)).status is FilterStatus.ADMISSIBLE
