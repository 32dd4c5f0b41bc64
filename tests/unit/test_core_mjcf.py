"""Robots from MJCF: MuJoCo's own numbers, limits where they are, and refusals by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pinocchio as pin
import pytest

from safeguard.core.errors import LimitError, MissingExtraError, RobotError, UnknownNameError
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector
from tests.unit.controllers_support import replaced

# Everything that a reader by hand gets wrong: degrees, euler angles, defaults, frames, joints beside the body's
# origin, a reference that is not zero, two joints on one body, inertia from geometry, gravity of its own, a mesh.
ARM = """
<mujoco model="crane">
  <compiler angle="degree" eulerseq="zyx"/>
  <option gravity="0.3 0 -9.5"/>
  <default>
    <joint armature="0.02" damping="0.4" frictionloss="0.05"/>
    <default class="seen"><geom contype="0" conaffinity="0" group="2" mass="0"/></default>
  </default>
  <asset><hfield name="hill" nrow="2" ncol="2" size="2 2 0.1 0.1" elevation="0 0 0 1"/>
    <mesh name="wedge" vertex="0 0 0  0.1 0 0  0 0.08 0  0 0 0.12  0.05 0.05 0.1"/></asset>
  <worldbody>
    <geom name="floor" type="plane" size="2 2 0.1" pos="0 0 0.02"/>
    <body name="base" pos="0 0 0.1">
      <geom type="cylinder" size="0.08 0.05"/>
      <body name="column" pos="0.02 0.01 0.1" euler="20 -10 35">
        <joint name="swing" axis="0.1 0.2 1" pos="0.03 -0.02 0.05" range="-170 170" ref="25"/>
        <joint name="lift" type="slide" axis="0 0.1 1" range="-0.1 0.2" ref="0.03" damping="3"/>
        <geom class="seen" type="box" size="0.2 0.2 0.2"/>
        <geom type="capsule" size="0.04" fromto="0 0 0 0 0.02 0.3"/>
        <frame pos="0 0.02 0.3" euler="0 5 0">
          <body name="boom">
            <inertial pos="0.1 0 0.02" mass="1.3" fullinertia="0.02 0.03 0.025 0.001 -0.002 0.003"/>
            <joint name="luff" axis="0 1 0" pos="0 0 0.01" range="-100 60"/>
            <geom type="ellipsoid" size="0.15 0.03 0.04" pos="0.16 0 0"/>
            <body name="hook" pos="0.35 0 0" quat="0.9 0.1 0.3 0.2">
              <joint name="turn" axis="1 0 0" range="-150 150"/>
              <geom type="mesh" mesh="wedge" pos="0.02 0 0.03"/>
              <geom type="sphere" size="0.03"/>
            </body>
          </body>
        </frame>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="swing" gear="30" ctrlrange="-1 1"/>
    <position joint="lift" kp="100" forcerange="-400 350"/>
    <general joint="luff" gear="2" forcerange="-20 20"/>
    <motor joint="turn"/>
  </actuator>
  <keyframe><key name="parked" qpos="0.4 0.05 -0.3 0.2"/></keyframe>
</mujoco>
"""
GIVEN: dict[str, Any] = {
    "tool_frame": "hook",
    "limits": {
        "velocity_radps": {"values": [2.0, 0.5, 2.0, 3.0], "source": "data sheet"},
        "torque_nm": {"values": [30.0, 350.0, 40.0, 6.0], "source": "data sheet"},
    },
}


def crane(folder: Path, text: str = ARM, **options: Any) -> RobotModel:
    """The robot of this page."""
    path = folder / "crane.xml"
    path.write_text(text)
    return RobotModel.from_mjcf(path, **{"limits": GIVEN, **options})


def by_mujoco(model: Any, q: Vector, v: Vector) -> tuple[Vector, Vector]:
    """M(q) and C v + g."""
    data: Any = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = q, v
    mujoco.mj_forward(model, data)
    M = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, data, M)
    return M, np.array(data.qfrc_bias)


def worst(robot: RobotModel, model: Any) -> float:
    """Largest relative difference of mass matrix and bias at 30 random states."""
    rng, found = np.random.default_rng(3), 0.0
    data = robot.pin_model.createData()
    for _ in range(30):
        q, v = rng.uniform(robot.limits.q_min, robot.limits.q_max), 3.0 * rng.normal(size=robot.n)
        M, h = by_mujoco(model, q, v)
        mine = np.triu(pin.crba(robot.pin_model, data, q))
        mine = mine + np.triu(mine, 1).T
        bias = pin.nonLinearEffects(robot.pin_model, data, q, v)
        found = max(found, np.abs(M - mine).max() / np.abs(M).max(), np.abs(h - bias).max() / np.abs(h).max())
    return float(found)


def test_the_dynamics_are_those_of_mujoco_on_the_file_itself(tmp_path: Path) -> None:
    """Mass matrix and bias agree with MuJoCo's to 1e-9 at random states; a wrong reference position would show."""
    robot = crane(tmp_path)
    assert worst(robot, mujoco.MjModel.from_xml_path(str(tmp_path / "crane.xml"))) < 1e-9
    other = tmp_path / "other.xml"
    other.write_text(replaced(ARM, 'ref="25"', 'ref="24"'))
    assert worst(robot, mujoco.MjModel.from_xml_path(str(other))) > 1e-4


def test_the_twin_is_the_robot_without_stops_and_clamps(tmp_path: Path) -> None:
    """``to_mujoco`` has the same dynamics and friction, a free motor a joint, and contacts for the kept pairs only."""
    robot = crane(tmp_path)
    model = robot.to_mujoco().compile()
    assert worst(robot, model) < 1e-9
    assert not model.jnt_limited.any()
    assert not model.actuator_ctrllimited.any()
    assert not model.actuator_forcelimited.any()
    assert model.nkey == 0
    assert tuple(model.actuator(k).name for k in range(model.nu)) == robot.joints
    np.testing.assert_allclose(model.dof_damping, [0.4, 3.0, 0.4, 0.4])
    np.testing.assert_allclose(model.dof_damping, robot.viscous)
    np.testing.assert_allclose(model.dof_frictionloss, robot.coulomb)
    assert {model.pair(k).name for k in range(model.npair)} == {
        f"{robot.collision.members[i][0]}|{robot.collision.members[j][0]}" for i, j in robot.collision.pairs
    }


def test_contact_is_seen_where_the_pieces_overlap(tmp_path: Path) -> None:
    """At 300 random configurations MuJoCo sees contact exactly when a kept distance is negative, floor included."""
    robot = crane(tmp_path)
    model = robot.to_mujoco().compile()
    data: Any = mujoco.MjData(model)
    rng, touching = np.random.default_rng(1), 0
    placed, own = robot.collision.geometry.createData(), robot.pin_model.createData()
    for _ in range(300):
        q = rng.uniform(robot.limits.q_min, robot.limits.q_max)
        pin.computeDistances(robot.pin_model, own, robot.collision.geometry, placed, q)
        least = min(result.min_distance for result in placed.distanceResults)
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        if abs(least) > 1e-4:
            assert (data.ncon > 0) == (least < 0.0)
            touching += least < 0.0
    assert touching > 10
    assert "world|hook" in robot.collision.names


def test_what_stands_in_the_world_is_nobodys_neighbour(tmp_path: Path) -> None:
    """The floor is watched against the first link too, the base is not; geometry that cannot collide is left out."""
    names = crane(tmp_path).collision.names
    assert "world|column" in names
    assert "base|column" not in names
    members = crane(tmp_path).collision.members
    assert ("column_1",) in members
    assert ("column_0",) not in members


def test_limits_are_where_the_file_or_the_mapping_has_them(tmp_path: Path) -> None:
    """Ranges in rad, torques from force and control ranges with gears, speeds from the mapping, with sources."""
    speeds = {"velocity_radps": GIVEN["limits"]["velocity_radps"]}
    text = replaced(ARM, '<motor joint="turn"/>', '<motor joint="turn" gear="4" ctrlrange="-2 1.5"/>')
    robot = crane(tmp_path, text, limits={"tool_frame": "hook", "limits": speeds})
    np.testing.assert_allclose(robot.limits.tau_max, [30.0, 350.0, 40.0, 6.0])
    np.testing.assert_allclose(robot.limits.q_max, [np.deg2rad(170), 0.2, np.deg2rad(60), np.deg2rad(150)])
    assert robot.limits.provenance["tau_max"] == "MJCF crane.xml"
    assert robot.limits.provenance["v_max"] == "data sheet"
    np.testing.assert_allclose(robot.home, [0.4, 0.05, -0.3, 0.2])
    clamped = replaced(text, '<joint name="turn" ', '<joint name="turn" actuatorfrcrange="-5 5" ')
    assert crane(tmp_path, clamped, limits={"limits": speeds}).limits.tau_max[3] == 5.0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, r"'swing' .*v_max is inf.*an MJCF has no speed limits; give limits\.velocity_radps"),
        (
            {"limits": {"velocity_radps": GIVEN["limits"]["velocity_radps"]}},
            r"'turn' .*tau_max is inf.*no actuator bounds it; give limits\.torque_nm",
        ),
        ({"limits": {"velocity_radps": {"values": [1.0], "source": "x"}}}, "1 values for 4 joints"),
    ],
    ids=["speed", "torque", "length"],
)
def test_a_missing_limit_says_what_to_give(tmp_path: Path, limits: dict[str, Any], message: str) -> None:
    """The joint, the limit and the key of the mapping are in the message."""
    with pytest.raises(LimitError, match=message):
        crane(tmp_path, limits=limits)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '<joint name="turn" axis="1 0 0" range="-150 150"/>',
            '<joint name="turn" type="ball"/>',
            "'turn' is mjJNT_BALL",
        ),
        ('<joint name="turn" ', '<joint name="turn" stiffness="2" ', "'turn' has a spring"),
        (
            "<actuator>",
            '<equality><joint joint1="turn" joint2="luff"/></equality><actuator>',
            "an equality constraint",
        ),
        ("<actuator>", '<tendon><fixed><joint joint="luff" coef="1"/></fixed></tendon><actuator>', "a tendon"),
        ('<option gravity="0.3 0 -9.5"/>', '<option density="1.2"/>', "a fluid"),
        ('<option gravity="0.3 0 -9.5"/>', '<option><flag gravity="disable"/></option>', "gravity switched off"),
        ('<body name="boom">', '<body name="boom" gravcomp="1">', "gravity compensation"),
        ('<body name="base" pos="0 0 0.1">', '<body name="base" pos="0 0 0.1"><freejoint/>', "mjJNT_FREE"),
        ('<geom type="sphere" size="0.03"/>', '<geom type="plane" size="1 1 1"/>', "'hook_1' is mjGEOM_PLANE|plane"),
        (
            '<geom name="floor" type="plane" size="2 2 0.1" ',
            '<geom type="hfield" hfield="hill" ',
            "'world_0' is mjGEOM_HFIELD",
        ),
        ("</worldbody>", "</world>", "crane.xml"),
    ],
    ids=["ball", "spring", "equality", "tendon", "fluid", "no gravity", "gravcomp", "free", "plane", "hill", "broken"],
)
def test_what_the_model_cannot_carry_is_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Dropping it silently would make another robot of it."""
    text = replaced(ARM, old, new)
    if "ball" in new or "freejoint" in new:
        text = replaced(text, '<key name="parked" qpos="0.4 0.05 -0.3 0.2"/>', "")
        text = replaced(text, '<motor joint="turn"/>', "")
    with pytest.raises(RobotError, match=message) as caught:
        crane(tmp_path, text)
    assert "crane.xml" in str(caught.value)


def test_unknown_names_and_missing_files_are_named(tmp_path: Path) -> None:
    """Keyframe, joint to lock, tool frame: what exists is listed."""
    with pytest.raises(RobotError, match=r"nowhere\.xml does not exist"):
        RobotModel.from_mjcf(tmp_path / "nowhere.xml")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"limits": {**GIVEN, "home": "folded"}}, "parked"),
        ({"lock": {"turned": 0.0}}, "turn"),
        ({"limits": {**GIVEN, "tool_frame": "claw"}}, "hook"),
    ]
    for options, known in wrong:
        with pytest.raises(UnknownNameError) as caught:
            crane(tmp_path, **options)
        assert known in caught.value.known


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_locked_joint_is_fixed_where_it_is_told(tmp_path: Path, value: float) -> None:
    """The robot with its hook at an angle moves like the free one with the hook held there, and so does its twin."""
    three = {key: {"values": part["values"][:3], "source": "x"} for key, part in GIVEN["limits"].items()}
    robot = crane(tmp_path, lock={"turn": value}, limits={"limits": three})
    assert robot.joints == ("swing", "lift", "luff")
    model = robot.to_mujoco().compile()
    assert worst(robot, model) < 1e-9
    q, v = np.array([0.5, 0.1, -0.4]), np.array([1.0, -0.2, 0.6])
    whole = mujoco.MjModel.from_xml_path(str(tmp_path / "crane.xml"))
    M, h = by_mujoco(whole, np.append(q, value), np.append(v, 0.0))
    held, bias = by_mujoco(model, q, v)
    np.testing.assert_allclose(held, M[:3, :3], atol=1e-9)
    np.testing.assert_allclose(bias, h[:3], atol=1e-9)


def test_one_of_two_joints_of_a_body_cannot_be_locked_elsewhere_in_the_twin(tmp_path: Path) -> None:
    """The error names the joint; at its reference it works."""
    given = {
        key: {"values": [part["values"][k] for k in (0, 2, 3)], "source": "x"} for key, part in GIVEN["limits"].items()
    }
    with pytest.raises(RobotError, match=r"'lift'.*at its reference only"):
        crane(tmp_path, lock={"lift": 0.1}, limits={"limits": given}).to_mujoco()
    robot = crane(tmp_path, lock={"lift": 0.03}, limits={"limits": given})
    assert worst(robot, robot.to_mujoco().compile()) < 1e-9


def test_it_can_be_built_again_and_notices_that_its_file_changed(tmp_path: Path) -> None:
    """The source rebuilds the same digest; a twin of another file than the one that was loaded is refused."""
    robot = crane(tmp_path).with_payload(0.4, [0.0, 0.0, 0.1])
    again = RobotModel.from_source(json.loads(json.dumps(dict(robot.source))))
    assert again.digest == robot.digest
    assert worst(robot, robot.to_mujoco().compile()) < 1e-7
    with pytest.raises(RobotError, match="has no URDF"):
        assert robot.urdf_text
    for old, new in (('mass="1.3"', 'mass="1.30001"'), ("0.3 0 -9.5", "0.3 0 -9.50001"), ("-100 60", "-100 61")):
        other = crane(tmp_path, replaced(ARM, old, new))
        assert other.with_payload(0.4, [0.0, 0.0, 0.1]).digest != robot.digest
        with pytest.raises(RobotError, match="has changed since"):
            robot.to_mujoco()


def test_a_load_on_a_robot_without_a_base_stands_in_the_world(tmp_path: Path) -> None:
    """A tool frame that no joint moves, and no body to hold it: the twin has the load as a body of the world."""
    text = """<mujoco><worldbody><body name="a"><joint name="a" axis="0 1 0" range="-60 60"/>
    <geom size="0.1" pos="0.1 0 0.2"/>
    </body></worldbody><actuator><motor joint="a" ctrlrange="-20 20"/></actuator></mujoco>"""
    speeds = {"velocity_radps": {"values": [1.0], "source": "x"}}
    robot = crane(tmp_path, text, limits={"tool_frame": "universe", "limits": speeds}).with_payload(1.0, [0, 0, 1])
    model = robot.to_mujoco().compile()
    assert worst(robot, model) < 1e-9
    assert model.body("payload_0").parentid[0] == 0


def test_without_mujoco_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MissingExtraError names the extra ``sim``."""
    import sys

    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingExtraError, match=r"safeguard-runtime\[sim\]"):
        crane(tmp_path)
