"""The MuJoCo twin: the same dynamics and pairs, and nothing that would hide a violation."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pinocchio as pin
import pytest

from safeguard.core.errors import MissingExtraError
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector
from tests.unit.controllers_support import ARM_LIMITS, panda, random_q, tiny_arm

LOAD = (2.5, [0.03, -0.02, 0.08], np.array([[0.02, 0.001, 0.0], [0.001, 0.03, -0.002], [0.0, -0.002, 0.015]]))


def mass_and_bias(model: Any, q: Vector, v: Vector) -> tuple[Vector, Vector]:
    """M(q) and C v + g by MuJoCo, without passive forces."""
    data: Any = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = q, v
    mujoco.mj_forward(model, data)
    M = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, data, M)
    return M, np.array(data.qfrc_bias)


def by_pinocchio(robot: RobotModel, q: Vector, v: Vector) -> tuple[Vector, Vector]:
    """The same by the robot model."""
    data = robot.pin_model.createData()
    M = np.triu(pin.crba(robot.pin_model, data, q))
    return M + np.triu(M, 1).T, np.array(pin.nonLinearEffects(robot.pin_model, data, q, v))


def worst_disagreement(robot: RobotModel, model: Any) -> tuple[float, float]:
    """Largest differences of mass matrix and bias at 20 random states."""
    rng, worst = np.random.default_rng(0), np.zeros(2)
    for _ in range(20):
        q = random_q(rng)[: robot.n]
        v = rng.normal(size=robot.n)
        pairs = zip(mass_and_bias(model, q, v), by_pinocchio(robot, q, v), strict=True)
        worst = np.maximum(worst, [np.abs(a - b).max() for a, b in pairs])
    return float(worst[0]), float(worst[1])


def test_mass_matrix_and_bias_are_those_of_the_robot_model() -> None:
    """To 1e-9 kg·m² and N·m at random states, armature included."""
    assert max(worst_disagreement(panda(), panda().to_mujoco().compile())) < 1e-9


def test_so_are_those_of_a_loaded_arm() -> None:
    """With a payload of general inertia too; the twin of the empty arm would be off by newton metres."""
    loaded = panda().with_payload(*LOAD)
    mass, bias = worst_disagreement(loaded, loaded.to_mujoco().compile())
    assert max(mass, bias) < 1e-7  # MuJoCo diagonalises the inertia and gets 1e-9 kg·m² against point masses
    assert worst_disagreement(loaded, panda().to_mujoco().compile())[1] > 1.0


def test_two_payloads_and_a_point_mass_are_all_there() -> None:
    """Loads add up, also one without inertia of its own, which MuJoCo would refuse."""
    loaded = panda().with_payload(*LOAD).with_payload(0.7, [0.0, 0.1, 0.0])
    assert max(worst_disagreement(loaded, loaded.to_mujoco().compile())) < 1e-7


def test_friction_is_that_of_the_model(tmp_path: Path) -> None:
    """Joint damping and dry friction are the robot's, in joint order."""
    model = tiny_arm(tmp_path).to_mujoco().compile()
    np.testing.assert_allclose(model.dof_damping, [0.3, 0.2])
    np.testing.assert_allclose(model.dof_frictionloss, [0.1, 0.1])
    np.testing.assert_allclose(model.dof_armature, [0.05, 0.04])


def test_nothing_stops_a_joint_or_clamps_a_torque() -> None:
    """No joint limit, no control, force or joint-torque range: 500 N·m arrive as 500 N·m, beyond the range as well."""
    model = panda().to_mujoco().compile()
    assert not model.jnt_limited.any()
    assert not model.jnt_actfrclimited.any()
    assert not model.actuator_ctrllimited.any()
    assert not model.actuator_forcelimited.any()
    data: Any = mujoco.MjData(model)
    data.qpos[:] = panda().limits.q_max + 0.3
    data.ctrl[:] = 500.0
    mujoco.mj_forward(model, data)
    np.testing.assert_array_equal(data.qfrc_actuator, 500.0)
    assert not (data.efc_type[: data.nefc] == mujoco.mjtConstraint.mjCNSTR_LIMIT_JOINT).any()


def test_a_plain_import_would_have_hidden_violations() -> None:
    """Control: MuJoCo's own import of the same description limits joints and clamps torques."""
    model = mujoco.MjSpec.from_string(panda().urdf_text).compile()
    assert model.jnt_limited.any()
    assert model.jnt_actfrclimited.any()


def test_contacts_exist_for_exactly_the_kept_pairs() -> None:
    """Pairs of original geometries are those whose pieces are a kept pair; nothing collides by class."""
    collision, model = panda().collision, panda().to_mujoco().compile()
    names = {model.pair(k).name for k in range(model.npair)}
    expected = {
        f"{a}|{b}" for i, j in collision.pairs for a, b in itertools.product(collision.members[i], collision.members[j])
    }
    assert names == expected
    assert not model.geom_contype.any()
    assert not model.geom_conaffinity.any()


def test_contact_is_seen_where_the_pieces_overlap_and_only_there() -> None:
    """At 300 random configurations MuJoCo sees contact exactly when a kept distance is negative."""
    model = panda().to_mujoco().compile()
    data: Any = mujoco.MjData(model)
    rng, touching = np.random.default_rng(1), 0
    placed = panda().collision.geometry.createData()
    for _ in range(300):
        q = random_q(rng)
        pin.computeDistances(panda().pin_model, panda().pin_model.createData(), panda().collision.geometry, placed, q)
        least = min(result.min_distance for result in placed.distanceResults)
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        if abs(least) > 1e-3:  # enclosing pieces are up to 1 mm larger
            assert (data.ncon > 0) == (least < 0.0)
            touching += least < 0.0
    assert touching > 50


def test_each_joint_has_one_motor_of_its_name() -> None:
    """In the robot's order, with gear 1."""
    model = panda().to_mujoco().compile()
    assert tuple(model.actuator(k).name for k in range(model.nu)) == panda().joints
    np.testing.assert_array_equal(model.actuator_gear[:, 0], 1.0)


@pytest.mark.parametrize("value", [0.0, 0.5, -1.1])
def test_locked_joints_are_where_the_model_has_them(tmp_path: Path, value: float) -> None:
    """The twin of an arm with a joint fixed at an angle has its dynamics; fixed elsewhere it would be off."""
    one = {key: {k: {**v, "values": v["values"][:1]} for k, v in part.items()} for key, part in ARM_LIMITS.items()}
    robot = tiny_arm(tmp_path, lock={"elbow": value}, limits=one)
    assert max(worst_disagreement(robot, robot.to_mujoco().compile())) < 1e-9
    other = tiny_arm(tmp_path, lock={"elbow": value + 0.1}, limits=one)
    assert max(worst_disagreement(other, robot.to_mujoco().compile())) > 1e-3


def test_without_mujoco_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """MissingExtraError names the extra ``sim``."""
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingExtraError, match=r"safeguard-runtime\[sim\]"):
        panda().to_mujoco()


def test_the_tool_is_where_mujoco_puts_it(tmp_path: Path) -> None:
    """The model's tool frame is where the tool's body is in the twin."""
    robot = tiny_arm(tmp_path)
    model = robot.to_mujoco().compile()
    data: Any = mujoco.MjData(model)
    q = np.array([0.4, -0.9])
    data.qpos[:] = q
    mujoco.mj_forward(model, data)
    expected = [0.4 * np.sin(0.4) + 0.3 * np.sin(-0.5), 0.0, 0.1 + 0.4 * np.cos(0.4) + 0.3 * np.cos(-0.5)]
    placed = robot.pin_model.createData()
    pin.framesForwardKinematics(robot.pin_model, placed, q)
    tool = placed.oMf[robot.pin_model.getFrameId(robot.tool_frame)]
    np.testing.assert_allclose(tool.translation, expected, atol=1e-12)
    np.testing.assert_allclose(data.body("tool").xpos, expected, atol=1e-9)
