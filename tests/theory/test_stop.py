"""The backup: its reference in closed form, and that the robot can follow it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pinocchio as pin
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard.controllers.brake import StopPlan, braking_deceleration
from safeguard.core.config import BrakeConfig
from safeguard.core.robot import RobotModel
from safeguard.core.types import RobotState, Vector
from tests.unit.controllers_support import DT, DT_NS, panda, quick_filter, random_q, tiny_arm

SEEDS = st.integers(0, 2**32 - 1)


def random_plan(seed: int) -> StopPlan:
    """A stop of five joints; one of them rests already."""
    rng = np.random.default_rng(seed)
    v0 = rng.uniform(-3.0, 3.0, 5) * np.array([1.0, 1.0, 1.0, 1e-3, 0.0])
    return StopPlan(rng.uniform(-3.0, 3.0, 5), v0, rng.uniform(0.1, 20.0, 5), 0)


@settings(max_examples=60)
@given(seed=SEEDS)
def test_a_stop_is_continuous_monotone_and_ends_where_the_closed_form_says(seed: int) -> None:
    """Speeds are bounded by v₀ and never grow, no joint turns round, and q₀ + v₀|v₀| / (2 a_b) is the end."""
    plan = random_plan(seed)
    end_time = float(plan.durations.max())
    t = np.linspace(0.0, 1.2 * end_time, 400)
    q, v = plan.at(t[:, None])
    step = t[1] - t[0]
    np.testing.assert_array_equal(q[0], plan.q0)
    np.testing.assert_array_equal(v[0], plan.v0)
    assert (np.abs(np.diff(q, axis=0)) <= np.abs(plan.v0) * step + 1e-12).all()
    assert (np.abs(np.diff(v, axis=0)) <= plan.a_brake * step + 1e-12).all()
    assert (np.diff(q, axis=0) * np.sign(plan.v0) >= -1e-12).all()
    assert (np.diff(np.abs(v), axis=0) <= 1e-12).all()
    np.testing.assert_allclose(
        np.diff(q, axis=0), 0.5 * (v[1:] + v[:-1]) * step, atol=2e-3 * step + plan.a_brake.max() * step**2
    )
    end = plan.q0 + plan.v0 * np.abs(plan.v0) / (2.0 * plan.a_brake)
    for late in (end_time, 1.2 * end_time, 1e6):
        rest_q, rest_v = plan.at(late)
        np.testing.assert_allclose(rest_q, end, atol=1e-12)
        np.testing.assert_allclose(rest_v, 0.0, atol=1e-12)


@given(seed=SEEDS, s=st.floats(0.0, 5.0))
def test_the_fed_forward_acceleration_leads_from_one_reference_speed_to_the_next(seed: int, s: float) -> None:
    """v(s) + a dt = v(s + dt), in the period in which a joint comes to rest too, and zero after it."""
    plan = random_plan(seed)
    a = plan.acceleration(s, DT)
    np.testing.assert_allclose(plan.at(s)[1] + a * DT, plan.at(s + DT)[1], atol=1e-12)
    assert (np.abs(a) <= plan.a_brake * (1.0 + 1e-9)).all()
    np.testing.assert_array_equal(plan.acceleration(float(plan.durations.max()) + 1e-9, DT), 0.0)


@given(seed=SEEDS)
def test_corners_of_a_stop_lie_on_it(seed: int) -> None:
    """In order: start, before and after every rest, at most 20 ms or a 60th apart; the hold is last (law 3)."""
    plan = random_plan(seed)
    d = plan.durations
    q, v, a = plan.corners()
    braking = -np.sign(plan.v0) * plan.a_brake
    slowest, end_time = int(np.argmax(d)), float(d.max())
    times = d[slowest] - np.abs(v[:, slowest]) / plan.a_brake[slowest]
    assert times[0] == 0.0
    assert (np.diff(times) >= -1e-9).all()
    assert np.diff(times).max() < max(0.02, end_time / 60.0) + 1e-6
    assert len(times) <= 2 * len(d) + 1 + 60
    expected_q, expected_v = plan.at(times[:, None])
    np.testing.assert_allclose(q, expected_q, atol=1e-7)
    np.testing.assert_allclose(v, expected_v, atol=1e-7)
    for k in np.flatnonzero(d > 0.0):
        at_rest = np.flatnonzero(np.abs(times - d[k]) < 1e-9)
        before, after = a[at_rest[0]], a[at_rest[-1]]
        np.testing.assert_allclose(before, np.where((d >= d[k] - 1e-9) & (d > 0.0), braking, 0.0), atol=1e-12)
        np.testing.assert_allclose(after, np.where(d > d[k] + 1e-9, braking, 0.0), atol=1e-12)
    np.testing.assert_allclose(q[-1], plan.at(1e6)[0], atol=1e-12)
    np.testing.assert_allclose(v[-1], 0.0, atol=1e-12)
    np.testing.assert_array_equal(a[-1], 0.0)


def test_a_stop_from_rest_has_the_hold_as_its_only_corner() -> None:
    """Nothing moves: one corner, without speed or acceleration."""
    q, v, a = StopPlan(np.ones(3), np.zeros(3), np.ones(3), 0).corners()
    np.testing.assert_array_equal(q, np.ones((1, 3)))
    np.testing.assert_array_equal(v, np.zeros((1, 3)))
    np.testing.assert_array_equal(a, np.zeros((1, 3)))


def test_a_stop_cannot_be_changed_after_it_was_verified() -> None:
    """Later edits of the arrays it was made from do not reach it, and its own arrays refuse edits (law 3)."""
    q0, v0 = np.zeros(2), np.ones(2)
    plan = StopPlan(q0, v0, np.ones(2), 0)
    q0[0] = v0[0] = 99.0
    assert plan.q0[0] == 0.0
    assert plan.v0[0] == 1.0
    assert not plan.q0.flags.writeable
    assert not plan.v0.flags.writeable


# -- feasibility ----------------------------------------------------------------------------------------


def brake_torque(robot: RobotModel, q: Vector, v: Vector, a: Vector) -> Vector:
    """M a + h with friction, in plain pinocchio."""
    data = robot.pin_model.createData()
    rnea: Vector = pin.rnea(robot.pin_model, data, q, v, a)
    return rnea + robot.viscous * v + robot.coulomb * np.tanh(v / 0.01)


def braking(robot: RobotModel, config: BrakeConfig | None = None) -> Vector:
    """The sampled deceleration of a robot that has one."""
    found = braking_deceleration(robot, config or BrakeConfig())
    assert found is not None
    return found


def test_a_robot_that_can_hardly_brake_has_no_such_deceleration() -> None:
    """3 kg at the hand leave the Panda too little at its full speeds: no such figure."""
    loaded = panda().with_payload(3.0, [0.0, 0.0, 0.0])
    assert braking_deceleration(loaded, BrakeConfig()) is None


def test_the_braking_deceleration_is_within_torque_limits_at_states_it_never_saw() -> None:
    """On 3000 fresh states all joints can brake at once within the torque limits; the double of it is not."""
    robot = panda()
    a_brake, rng = braking(robot), np.random.default_rng(123456)
    over = 0
    for _ in range(3000):
        q, v = random_q(rng), rng.uniform(-1.0, 1.0, 7) * robot.limits.v_max
        tau = brake_torque(robot, q, v, -np.sign(v) * a_brake)
        assert (np.abs(tau) <= robot.limits.tau_max).all()
        over += bool((np.abs(brake_torque(robot, q, v, -np.sign(v) * 3.0 * a_brake)) > robot.limits.tau_max).any())
    assert over > 0


def test_a_heavy_load_gives_less_deceleration_that_nearly_always_holds() -> None:
    """With 1 kg at the flange torque is what limits: 99 of 100 fresh states can brake so; the tick checks each stop."""
    loaded, rng = panda().with_payload(1.0, [0.0, 0.0, 0.0]), np.random.default_rng(77)
    a_brake = braking(loaded)
    assert (a_brake < 0.9 * braking(panda())).all()
    over, twice = 0, 0
    for _ in range(2000):
        q, v = random_q(rng), rng.uniform(-1.0, 1.0, 7) * loaded.limits.v_max
        brake = -np.sign(v) * a_brake
        over += bool((np.abs(brake_torque(loaded, q, v, brake)) > loaded.limits.tau_max).any())
        twice += bool((np.abs(brake_torque(loaded, q, v, 2.0 * brake)) > loaded.limits.tau_max).any())
    assert over < 20
    assert twice > 20


def test_friction_helps_to_brake(tmp_path: Path) -> None:
    """A viscous arm can be braked at least as hard as the same arm without friction."""
    config = BrakeConfig(samples=1000, max_share=1.0)
    decelerations: list[Vector] = []
    for viscous in (0.0, 15.0):
        friction = {"values": [viscous, viscous], "source": "test"}
        accelerations = {"values": [400.0, 1500.0], "source": "test"}
        limits = {
            "limits": {"acceleration_radps2": accelerations},
            "dynamics": {"viscous_friction_nms": friction},
        }
        decelerations.append(braking(tiny_arm(tmp_path, limits=limits), config))
    assert (decelerations[0] < [390.0, 1490.0]).all()  # torque limits, not the cap
    assert (decelerations[1] >= decelerations[0]).all()


@settings(max_examples=100)
@given(seed=SEEDS, error=st.floats(-6.0, 0.5))
def test_feedback_never_pushes_the_backup_beyond_the_torque_limits(seed: int, error: float) -> None:
    """Whatever the tracking error, a backup is either within the torque limits or refused for its feed-forward."""
    rng = np.random.default_rng(seed)
    robot, filt = panda(), FILTER
    q, v = random_q(rng, 0.9), rng.uniform(-1.0, 1.0, 7) * robot.limits.v_max
    filt.reset(RobotState(q, v, 0))
    off = 10.0**error * rng.normal(size=7)
    result = filt.backup(RobotState(q + off, v + 3.0 * off, DT_NS))
    if result.source == "terminal_stop":
        assert "torque" in result.refusal
        np.testing.assert_array_equal(result.torque, 0.0)
    else:
        assert (np.abs(result.torque) <= robot.limits.tau_max).all()


def test_feedback_pulls_towards_the_reference() -> None:
    """A joint ahead of its stop is braked harder than the reference, one behind it less."""
    robot, filt = panda(), FILTER
    for sign in (1.0, -1.0):
        filt.reset(RobotState(robot.home, np.full(7, 0.5), 0))
        plan = filt.plan
        assert plan is not None
        q, v = plan.at(DT)
        ahead = np.zeros(7)
        ahead[3] = sign * 1e-3
        exact = filt.backup(RobotState(q, v, DT_NS))
        filt.reset(RobotState(robot.home, np.full(7, 0.5), 0))
        moved = filt.backup(RobotState(q + ahead, v, DT_NS))
        change = moved.acceleration - exact.acceleration
        assert change[3] * sign < -0.5
        np.testing.assert_allclose(np.delete(change, 3), 0.0, atol=1e-9)


FILTER = quick_filter()
