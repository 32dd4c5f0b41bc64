"""M a + h = τ, against pinocchio's own inverse dynamics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pinocchio as pin

from safeguard.controllers.dynamics import Dynamics
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector
from tests.unit.controllers_support import panda, tiny_arm


def states(robot: RobotModel, count: int) -> tuple[Vector, Vector, Vector]:
    """Random (q, v, a), each of shape (count, n)."""
    rng = np.random.default_rng(0)
    q = rng.uniform(robot.limits.q_min, robot.limits.q_max, (count, robot.n))
    return q, rng.normal(size=q.shape), 5.0 * rng.normal(size=q.shape)


def test_torque_and_acceleration_are_inverse_dynamics_with_friction(tmp_path: Path) -> None:
    """τ = rnea + friction at random states, armature included, and a = M⁻¹(τ − h) takes it back."""
    for robot in (panda(), tiny_arm(tmp_path)):
        dynamics, data = Dynamics(robot), robot.pin_model.createData()
        for q, v, a in zip(*states(robot, 20), strict=True):
            dynamics.update(q, v)
            friction = robot.viscous * v + robot.coulomb * np.tanh(v / 0.01)
            expected = pin.rnea(robot.pin_model, data, q, v, a) + friction
            np.testing.assert_allclose(dynamics.torque(a), expected, atol=1e-9)
            np.testing.assert_allclose(dynamics.acceleration(dynamics.torque(a)), a, atol=1e-9)
            np.testing.assert_allclose(dynamics.M, dynamics.M.T, atol=1e-12)


def test_the_middle_of_a_period_says_better_where_it_ends() -> None:
    """The speed after 5 ms of a constant torque in fast motion; the referee is the motion in a hundred steps."""
    dynamics, dt, off = Dynamics(panda()), 0.005, np.zeros((2, 20))
    for k, (q, v, _) in enumerate(zip(*states(panda(), 20), strict=True)):
        dynamics.update(q, 2.0 * v)
        torque, at, speed = dynamics.torque(-v), q, 2.0 * v
        for _ in range(100):
            dynamics.update(at, speed)
            after = speed + dynamics.acceleration(torque) * (dt / 100)
            at, speed = at + 0.5 * (speed + after) * (dt / 100), after
        dynamics.update(q, 2.0 * v)
        off[0, k] = np.abs(2.0 * v + dynamics.acceleration(torque) * dt - speed).max()
        dynamics.during(q, 2.0 * v, dt)
        off[1, k] = np.abs(2.0 * v + dynamics.acceleration(torque) * dt - speed).max()
    assert np.median(off[1]) < 0.5 * np.median(off[0])


def test_torques_along_a_path_are_those_of_its_states(tmp_path: Path) -> None:
    """Row by row the same as one state at a time, whatever was updated before."""
    for robot in (panda(), tiny_arm(tmp_path)):
        dynamics = Dynamics(robot)
        q, v, a = states(robot, 6)
        along = dynamics.torques_along(q, v, a)
        for k in range(6):
            dynamics.update(q[k], v[k])
            np.testing.assert_allclose(along[k], dynamics.torque(a[k]), atol=1e-9)


def test_the_jacobian_is_that_of_the_last_state() -> None:
    """J v is the twist at the world's origin: it moves the tool as finite differences do."""
    robot = panda()
    dynamics, (q, v, _) = Dynamics(robot), states(robot, 1)
    dynamics.update(q[0], v[0])
    twist = dynamics.data.J @ v[0]
    frame = robot.pin_model.getFrameId(robot.tool_frame)
    places: list[Vector] = []
    for step in (-1e-6, 1e-6):
        data = robot.pin_model.createData()
        pin.framesForwardKinematics(robot.pin_model, data, q[0] + step * v[0])
        places.append(np.array(data.oMf[frame].translation))
    middle = 0.5 * (places[0] + places[1])
    speed = (places[1] - places[0]) / 2e-6
    np.testing.assert_allclose(twist[:3] + np.cross(twist[3:], middle), speed, atol=1e-6)
