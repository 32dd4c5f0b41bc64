"""Where the filter's numbers come from, and what a certificate changes about it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from safeguard.controllers import SafetyFilter
from safeguard.controllers.certify import quick_design
from safeguard.controllers.figures import figures
from safeguard.controllers.speed import SpeedCaps
from safeguard.core.certificate import Certificate, CertificateError, Uncertainty
from safeguard.core.config import FilterConfig, SpeedConfig
from safeguard.core.curves import VelocityCurves
from safeguard.core.enums import FilterStatus
from safeguard.core.robot import RobotModel
from safeguard.core.types import RobotState
from tests.unit.controllers_support import DT, panda, state_at


@cache
def certificate() -> Certificate:
    """A quick one of the bare Panda, one period of delay."""
    return quick_design(panda(), DT, Uncertainty.of(panda()), delay_ticks=1)


def test_without_a_certificate_the_margins_decide_and_results_say_so() -> None:
    """Full speeds less a share, limits less the position margin, and ``provisional``."""
    made, limits = figures(panda(), DT, FilterConfig()), panda().limits
    np.testing.assert_allclose(made.v_max, 0.99 * limits.v_max)
    np.testing.assert_allclose(made.q_max, limits.q_max - 0.002)
    np.testing.assert_array_equal(made.tube, 0.0)
    assert made.provisional


def test_a_certificate_decides_speeds_brakes_reserves_and_margins() -> None:
    """Every figure comes from the file, kept at least as far from the limits as the margins say."""
    given, limits = certificate(), panda().limits
    made = SafetyFilter(panda(), DT, certificate=given, delay_ticks=1).figures
    np.testing.assert_array_equal(made.a_brake, given.deceleration)
    assert (made.v_max <= given.speed - given.velocity_margin).all()
    assert (made.q_max <= limits.q_max - given.position_margin).all()
    assert (made.tau_stop <= limits.tau_max - given.torque_reserve).all()
    np.testing.assert_array_equal(made.tube, given.path_margin)
    assert made.omega == given.tracking_radps
    assert made.provisional


def test_a_foreign_certificate_is_refused() -> None:
    """Another delay, another load, another robot: an error that names both."""
    with pytest.raises(CertificateError, match="delay_ticks = 1"):
        SafetyFilter(panda(), DT, certificate=certificate())
    with pytest.raises(CertificateError, match="payload_kg"):
        SafetyFilter(panda().with_payload(1.0, [0, 0, 0]), DT, certificate=certificate(), delay_ticks=1)
    with pytest.raises(CertificateError, match="robot"):
        SafetyFilter(RobotModel.load("ur10"), DT, certificate=certificate(), delay_ticks=1)


def test_the_configuration_carries_the_certificate(tmp_path: Path) -> None:
    """It is recorded with the configuration and comes back from its JSON unchanged, so that a run replays."""
    config = FilterConfig(certificate=certificate(), delay_ticks=1)
    again = FilterConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert SafetyFilter(panda(), DT, again).config.certificate == certificate()


def test_a_robot_that_cannot_brake_at_its_speeds_gets_lower_ones() -> None:
    """The G1 at full speed can't brake all joints at once: the filter takes the envelope of a quick certificate."""
    robot = RobotModel.load("g1")
    filt = SafetyFilter(robot)
    assert (filt.figures.v_max < 0.5 * robot.limits.v_max).any()
    result = filt(RobotState(robot.home, np.zeros(robot.n), 0), acceleration=np.full(robot.n, 0.1))
    assert result.status is FilterStatus.ADMISSIBLE
    assert result.provisional


def test_commands_in_flight_are_predicted_over() -> None:
    """With two periods of delay the decision is for the state to which the last two commands lead."""
    filt = SafetyFilter(panda(), DT, delay_ticks=2)
    q, v, flying = np.array(panda().home), np.zeros(7), [np.zeros(7), np.zeros(7)]
    for k in range(20):
        filt.dynamics.update(q, v)
        result = filt(state_at(q, v, k * 2_000_000), acceleration=np.full(7, 0.3))
        assert result.status is FilterStatus.ADMISSIBLE
        flying.append(result.acceleration)
        a = flying.pop(0)
        q, v = q + v * DT + 0.5 * a * DT * DT, v + a * DT
        plan = filt.plan
        assert plan is not None
        assert plan.t0 == (k + 3) * 2_000_000
        ahead_q, ahead_v = q, v
        for b in flying:
            ahead_q, ahead_v = ahead_q + ahead_v * DT + 0.5 * b * DT * DT, ahead_v + b * DT
        np.testing.assert_allclose(plan.q0, ahead_q, atol=1e-7)
        np.testing.assert_allclose(plan.v0, ahead_v, atol=1e-5)


@pytest.mark.parametrize("solver", ["osqp", "daqp"])
def test_the_tool_keeps_its_speed_cap_in_closed_loop(solver: Literal["osqp", "daqp"]) -> None:
    """Random targets: never over 0.25 m/s, near it most of the time, rows named; without the cap it is far over."""
    judge, seen = SpeedCaps(panda(), 0.45 * panda().limits.a_max, DT), {None: 0.0, 0.25: 0.0}
    tool = judge.names.index("speed:tool")
    for cap in seen:
        config = FilterConfig(speed=SpeedConfig(tool_mps=cap))
        filt, rng = SafetyFilter(panda(), DT, config, solver=solver), np.random.default_rng(1)
        q, v, target, named = np.array(panda().home), np.zeros(7), np.array(panda().home), 0
        speeds: list[float] = []
        for k in range(600):
            if k % 200 == 0:
                target = rng.uniform(panda().limits.q_min, panda().limits.q_max)
            result = filt(state_at(q, v, k * 2_000_000), acceleration=100.0 * (target - q) - 20.0 * v)
            named += any(row == "speed:tool" for row in result.active)
            a = result.acceleration
            q, v = q + v * DT + 0.5 * a * DT * DT, v + a * DT
            speeds.append(float(judge.speeds(q[None], v[None])[0][tool]))
        seen[cap] = max(speeds)
        if cap is not None:
            assert named > 100
            assert np.median(speeds) > 0.1
    assert seen[0.25] <= 0.25 + 1e-6
    assert seen[None] > 0.5


def test_velocity_curves_bind_the_filter() -> None:
    """Full speed at a limit of the FR3's first joint: the speed stays under the curve to the end, and follows it."""
    one = np.ones(7)
    curves = VelocityCurves(
        speed=2.0 * one, slope=12.0 * one, offset=0.3 * one, lower_edge=panda().limits.q_min,
        upper_edge=panda().limits.q_max, source="test",
    )  # fmt: skip
    robot = replace(panda(), limits=replace(panda().limits, velocity_curves=curves))
    filt, q, v = SafetyFilter(robot, DT), np.array(panda().home), np.zeros(7)
    used: list[float] = []
    for k in range(1500):
        push = np.zeros(7)
        push[0] = 15.0
        result = filt(state_at(q, v, k * 2_000_000), acceleration=push)
        assert result.status in (FilterStatus.ADMISSIBLE, FilterStatus.CORRECTED)
        q, v = q + v * DT + 0.5 * result.acceleration * DT * DT, v + result.acceleration * DT
        assert (v <= curves.upper(q) + 1e-6).all()
        used.append(float(v[0] / max(curves.upper(q)[0], 1e-3)))
    assert max(used) > 0.9
    assert q[0] > panda().limits.q_max[0] - 0.05
