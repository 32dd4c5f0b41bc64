"""The robot model: what it reads, what it refuses and how, what its digest covers, and its payload."""

from __future__ import annotations

import itertools
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pinocchio as pin
import pytest

from safeguard.core.errors import LimitError, RobotError, UnknownNameError
from safeguard.core.robot import RobotModel
from tests.unit.controllers_support import ARM_LIMITS, ARM_URDF, panda, random_q, replaced, tiny_arm, write_arm

LOAD = (1.5, [0.02, -0.01, 0.05], np.diag([0.01, 0.02, 0.015]))


AXIS = '<origin xyz="0 0 0.4"/><axis xyz="0 1 0"/>'


# -- what is read ---------------------------------------------------------------------------------------


def test_the_panda_is_the_robot_of_its_data_sheet() -> None:
    """Seven joints, fingers locked; limits of the URDF and of the YAML file; each with where it comes from."""
    robot = panda()
    assert robot.joints == tuple(f"panda_joint{k}" for k in range(1, 8))
    assert robot.n == 7
    np.testing.assert_array_equal(robot.limits.tau_max, [87.0] * 4 + [12.0] * 3)
    np.testing.assert_array_equal(robot.limits.v_max, [2.175] * 4 + [2.61] * 3)
    np.testing.assert_array_equal(robot.limits.a_max, [15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0])
    assert robot.limits.q_max[3] == -0.0698
    assert set(robot.limits.provenance) == {"q_min", "q_max", "v_max", "a_max", "tau_max", "tau_rate_max"}
    assert "panda_collision.urdf" in robot.limits.provenance["tau_max"]
    assert "Franka" in robot.limits.provenance["a_max"]
    np.testing.assert_array_equal(np.asarray(robot.pin_model.armature), 0.1)
    assert "panda" in RobotModel.known()


def test_home_is_the_group_state_and_is_clear(tmp_path: Path) -> None:
    """The named configuration of the SRDF; a joint that it leaves out is in the middle of its range."""
    np.testing.assert_allclose(panda().home, [0, -0.785398, 0, -2.35619, 0, 1.5707, 0.785398])
    srdf = tmp_path / "tiny.srdf"
    srdf.write_text(
        '<robot name="tiny"><group_state name="up"><joint name="elbow" value="0.3"/></group_state>'
        '<group_state name="down"><joint name="shoulder" value="1.1"/></group_state></robot>'
    )
    np.testing.assert_allclose(tiny_arm(tmp_path, srdf=srdf).home, [0.0, 0.3])
    named = {**ARM_LIMITS, "home": "down"}
    np.testing.assert_allclose(tiny_arm(tmp_path, srdf=srdf, limits=named).home, [1.1, 0.0])
    np.testing.assert_allclose(tiny_arm(tmp_path).home, [0.0, 0.0])


def test_a_urdf_and_a_limits_file_make_a_robot(tmp_path: Path) -> None:
    """Limits may come as a mapping or as a YAML file; both give the same robot, bit for bit."""
    by_mapping = tiny_arm(tmp_path)
    file = tmp_path / "limits.yaml"
    file.write_text(
        "limits:\n  acceleration_radps2: {values: [10.0, 12.0], source: test}\n"
        "  torque_rate_nmps: {values: [500.0, 400.0], source: test}\n"
        "dynamics:\n  armature_kgm2: {values: [0.05, 0.04], source: test}\n"
        "  viscous_friction_nms: {values: [0.3, 0.2], source: test}\n"
        "  coulomb_friction_nm: {values: [0.1, 0.1], source: test}\n"
    )
    by_file = tiny_arm(tmp_path, limits=file)
    assert by_file.digest == by_mapping.digest
    assert by_mapping.joints == ("shoulder", "elbow")
    assert by_mapping.tool_frame == "tool"
    np.testing.assert_array_equal(by_mapping.limits.a_max, [10.0, 12.0])
    np.testing.assert_array_equal(by_mapping.viscous, [0.3, 0.2])


def test_what_the_file_leaves_out_is_derived_and_says_so(tmp_path: Path) -> None:
    """Without a limits file acceleration and torque rate are derived, and their provenance starts with "derived"."""
    robot = tiny_arm(tmp_path, limits={})
    assert robot.limits.provenance["a_max"].startswith("derived")
    assert robot.limits.provenance["tau_rate_max"].startswith("derived")
    np.testing.assert_allclose(robot.limits.tau_rate_max, [6000.0, 3000.0])
    data, rng = robot.pin_model.createData(), np.random.default_rng(0)
    for _ in range(50):
        q = rng.uniform(robot.limits.q_min, robot.limits.q_max)
        gravity = np.abs(pin.computeGeneralizedGravity(robot.pin_model, data, q))
        own = np.diag(pin.crba(robot.pin_model, data, q)) * robot.limits.a_max
        assert (gravity + own <= robot.limits.tau_max).all()


def test_a_locked_joint_is_gone_and_its_link_still_counts(tmp_path: Path) -> None:
    """Locking fixes the joint where it is told, keeps its mass, and moves its geometry to the joint before it."""
    one = {key: {k: {**v, "values": v["values"][:1]} for k, v in part.items()} for key, part in ARM_LIMITS.items()}
    robot = tiny_arm(tmp_path, lock={"elbow": 0.7}, limits=one)
    free = tiny_arm(tmp_path)
    assert robot.joints == ("shoulder",)
    for angle in (0.0, 0.9):
        locked_data, data = robot.pin_model.createData(), free.pin_model.createData()
        locked = pin.computeGeneralizedGravity(robot.pin_model, locked_data, np.array([angle]))
        both = pin.computeGeneralizedGravity(free.pin_model, data, np.array([angle, 0.7]))
        assert locked[0] == pytest.approx(both[0], abs=1e-9)
    assert set(itertools.chain(*robot.collision.members)) == set(itertools.chain(*free.collision.members))


def test_friction_is_viscous_plus_smoothed_coulomb(tmp_path: Path) -> None:
    """Beyond a few hundredths of rad/s the bias holds b v + c sgn(v) on top of the rigid-body effects."""
    robot, v = tiny_arm(tmp_path), np.array([0.5, -2.0])
    np.testing.assert_allclose(robot.bias(v, np.array([1.0, 2.0])), [1.0 + 0.15 + 0.1, 2.0 - 0.4 - 0.1], atol=1e-9)
    np.testing.assert_array_equal(robot.bias(np.zeros(2), np.zeros(2)), 0.0)


def test_a_model_cannot_be_edited() -> None:
    """Neither its attributes nor its limits' arrays."""
    with pytest.raises(FrozenInstanceError):
        panda().name = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="read-only"):
        panda().limits.q_max[0] = 9.0


# -- what is refused ------------------------------------------------------------------------------------


def test_an_unknown_robot_lists_those_that_exist() -> None:
    """``load`` of a misspelt name raises UnknownNameError with the known ones."""
    with pytest.raises(UnknownNameError, match=r"unknown robot 'pandaa'; known: .*panda") as caught:
        RobotModel.load("pandaa")
    assert caught.value.name == "pandaa"
    assert caught.value.known == RobotModel.known()


@pytest.mark.parametrize("key", ["path", "srdf", "limits"])
def test_a_missing_file_is_named(tmp_path: Path, key: str) -> None:
    """URDF, SRDF or limits file: the error names the path."""
    options: dict[str, Any] = {"path": write_arm(tmp_path), key: tmp_path / "nowhere.xml"}
    with pytest.raises(RobotError, match=r"nowhere\.xml does not exist"):
        RobotModel.from_urdf(**options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not xml at all", "not well-formed XML"),
        ("<sdf/>", "root element is <sdf>, expected <robot>"),
        ("<robot name='x'><link name='a'/><link name='b'/></robot>", "tiny.urdf"),
        (replaced(ARM_URDF, '<sphere radius="0.05"/>', '<mesh filename="package://p/a.stl"/>'), "package://p/a.stl"),
        (replaced(ARM_URDF, '<sphere radius="0.05"/>', '<mesh filename="b.stl"/>'), "mesh 'b.stl' not found"),
        (replaced(ARM_URDF, ' effort="60"', ""), "'shoulder' .*lacks effort"),
        (replaced(ARM_URDF, ' lower="-3.0" upper="3.0"', ""), "'elbow' .*lacks lower, upper"),
        (replaced(ARM_URDF, 'velocity="3.0"', 'velocity="0"'), "'elbow' .*velocity='0' must be a positive"),
        (replaced(ARM_URDF, 'effort="60"', 'effort="-1"'), "'shoulder' .*effort='-1' must be a positive"),
        (replaced(ARM_URDF, '"elbow" type="revolute"', '"elbow" type="continuous"'), "'elbow' .*limits.*or lock it"),
        (replaced(ARM_URDF, '"elbow" type="revolute"', '"elbow" type="floating"'), "'elbow'"),
    ],
    ids=lambda x: None if len(x) > 60 else x,
)
def test_a_wrong_urdf_is_refused_with_what_and_where(tmp_path: Path, text: str, message: str) -> None:
    """The error names the file, the joint or mesh, and what is wrong with it."""
    with pytest.raises(RobotError, match=message) as caught:
        tiny_arm(tmp_path, text)
    assert "tiny.urdf" in str(caught.value)


def test_contradictory_position_limits_are_named(tmp_path: Path) -> None:
    """Lower > upper is a LimitError with the joint, the values and the fix."""
    text = replaced(ARM_URDF, 'lower="-2.0" upper="2.0"', 'lower="2.0" upper="-2.0"')
    with pytest.raises(LimitError, match=r"'shoulder' .*position limits"):
        tiny_arm(tmp_path, text)


def test_equal_position_limits_are_refused(tmp_path: Path) -> None:
    """A joint without any range contradicts being a joint: lock it instead."""
    text = replaced(ARM_URDF, 'lower="-2.0" upper="2.0"', 'lower="2.0" upper="2.0"')
    with pytest.raises(LimitError, match=r"'shoulder' .*position limits"):
        tiny_arm(tmp_path, text)


def changed(section: str, key: str, values: list[float]) -> dict[str, Any]:
    """The arm's limits with other values of one key."""
    part: dict[str, Any] = {**ARM_LIMITS[section], key: {"values": values, "source": "test"}}
    return {**ARM_LIMITS, section: part}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (changed("limits", "acceleration_radps2", [1.0]), "acceleration limit: 1 values for 2 joints .shoulder, elbow"),
        (changed("limits", "acceleration_radps2", [1.0, 0.0]), "'elbow' .*a_max is 0"),
        (changed("limits", "torque_rate_nmps", [1.0, -2.0]), "torque rate limit: values must not be negative"),
        (changed("dynamics", "armature_kgm2", [0.1, -0.1]), "armature: values must not be negative"),
        (changed("dynamics", "coulomb_friction_nm", [0.1, np.nan]), "coulomb_friction_nm"),
        ({"limit": {}}, "limit"),
        ({"limits": {"jerk": {"values": [1.0, 1.0], "source": "x"}}}, "jerk"),
        ({"limits": {"acceleration_radps2": {"values": [1.0, 1.0], "source": ""}}}, "source"),
    ],
)
def test_wrong_limits_are_refused_with_the_key(tmp_path: Path, limits: dict[str, Any], message: str) -> None:
    """Wrong counts, signs, NaN, unknown keys and missing provenance are named."""
    with pytest.raises(RobotError, match=message):
        tiny_arm(tmp_path, limits=limits)


@pytest.mark.parametrize(
    ("options", "known"),
    [
        ({"lock": {"elbo": 0.0}}, ("shoulder", "elbow")),
        ({"limits": {**ARM_LIMITS, "tool_frame": "hand"}}, ("tool", "fore")),
        ({"limits": {**ARM_LIMITS, "home": "rest"}}, ()),
    ],
    ids=["joint", "frame", "group state"],
)
def test_unknown_names_list_what_exists(tmp_path: Path, options: dict[str, Any], known: tuple[str, ...]) -> None:
    """A joint, frame or group state that does not exist raises UnknownNameError with those that do."""
    with pytest.raises(UnknownNameError, match="known:") as caught:
        tiny_arm(tmp_path, **options)
    assert set(known) <= set(caught.value.known)
    assert "tiny.urdf" in str(caught.value)


def test_an_unknown_group_state_lists_those_of_the_srdf(tmp_path: Path) -> None:
    """The message has the state names of the file."""
    srdf = tmp_path / "tiny.srdf"
    srdf.write_text('<robot name="tiny"><group_state name="up"><joint name="elbow" value="0"/></group_state></robot>')
    with pytest.raises(UnknownNameError, match=r"unknown group state 'rest'.*known: up"):
        tiny_arm(tmp_path, srdf=srdf, limits={**ARM_LIMITS, "home": "rest"})


def test_a_damaged_srdf_is_named(tmp_path: Path) -> None:
    """An SRDF that is no XML raises RobotError with its path."""
    srdf = tmp_path / "broken.srdf"
    srdf.write_text("<robot")
    with pytest.raises(RobotError, match=r"broken\.srdf is not well-formed XML"):
        tiny_arm(tmp_path, srdf=srdf)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("limits.yaml", "limits: [1"),
        ("limits.yaml", "- 1"),
        ("tiny.srdf", '<robot><group_state name="a"><joint name="elbow" value="x"/></group_state></robot>'),
        ("tiny.srdf", '<robot><group_state name="a"><joint name="wrist" value="0"/></group_state></robot>'),
        ("tiny.srdf", '<robot><group_state name="a"><joint name="elbow" value="99"/></group_state></robot>'),
    ],
    ids=["broken yaml", "yaml list", "value is text", "unknown joint", "outside the limits"],
)
def test_damaged_extra_files_are_refused(tmp_path: Path, name: str, text: str) -> None:
    """Unreadable YAML and group states that make no sense raise RobotError and name the file."""
    file = tmp_path / name
    file.write_text(text)
    options: dict[str, Any] = {"limits" if name.endswith("yaml") else "srdf": file}
    with pytest.raises(RobotError, match=name.replace(".", r"\.")):
        tiny_arm(tmp_path, **options)


# -- digest ---------------------------------------------------------------------------------------------


def test_the_digest_is_the_same_for_the_same_files(tmp_path: Path) -> None:
    """Two loads agree, also from another folder: places on disk don't matter."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert tiny_arm(tmp_path).digest == tiny_arm(elsewhere).digest
    assert RobotModel.load("panda").digest == panda().digest
    assert len(panda().digest) == 64


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('lower="-2.0"', 'lower="-2.000001"'),
        ('upper="3.0"', 'upper="2.999999"'),
        ('velocity="2.0"', 'velocity="2.000001"'),
        ('effort="30"', 'effort="30.00001"'),
        ('<mass value="1.0"/>', '<mass value="1.000001"/>'),
        ('ixx="0.01"', 'ixx="0.0100001"'),
        (AXIS, AXIS.replace("0 0 0.4", "0 0 0.400001")),
        ('<sphere radius="0.05"/>', '<sphere radius="0.050001"/>'),
        ('<cylinder radius="0.03" length="0.2"/>', '<cylinder radius="0.03" length="0.2001"/>'),
        ('<box size="0.06 0.06 0.3"/>', '<box size="0.06 0.06001 0.3"/>'),
        ('<origin xyz="0 0 0.02"/>', '<origin xyz="0 0 0.02001"/>'),
    ],
)
def test_the_digest_covers_the_urdf(tmp_path: Path, old: str, new: str) -> None:
    """A change in the sixth digit of a limit, mass, length or shape changes it."""
    text = replaced(ARM_URDF, old, new)
    assert tiny_arm(tmp_path, text).digest != tiny_arm(tmp_path).digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (AXIS, AXIS.replace("0 1 0", "1 0 0")),
        (AXIS, AXIS.replace("0 1 0", "0 -1 0")),
        (AXIS, AXIS.replace("0 1 0", "0 1 2")),
    ],
)
def test_the_digest_covers_joint_axes(tmp_path: Path, old: str, new: str) -> None:
    """The same arm about another axis is another robot."""
    assert tiny_arm(tmp_path, replaced(ARM_URDF, old, new)).digest != tiny_arm(tmp_path).digest


@pytest.mark.parametrize(
    ("section", "key"),
    [(section, key) for section, part in ARM_LIMITS.items() for key in part],
)
def test_the_digest_covers_the_limits_file(tmp_path: Path, section: str, key: str) -> None:
    """Acceleration, torque rate, armature and both frictions count."""
    assert tiny_arm(tmp_path, limits=changed(section, key, [0.7, 0.8])).digest != tiny_arm(tmp_path).digest


def test_the_digest_covers_names_locks_frames_and_loads(tmp_path: Path) -> None:
    """A renamed joint, another lock position, another tool frame and any payload change it."""
    renamed = tiny_arm(tmp_path, replaced(ARM_URDF, 'name="elbow"', 'name="knee"'))
    one = {key: {k: {**v, "values": v["values"][:1]} for k, v in part.items()} for key, part in ARM_LIMITS.items()}
    robots = [
        tiny_arm(tmp_path),
        renamed,
        tiny_arm(tmp_path, limits={**ARM_LIMITS, "tool_frame": "fore"}),
        tiny_arm(tmp_path, lock={"elbow": 0.0}, limits=one),
        tiny_arm(tmp_path, lock={"elbow": 0.1}, limits=one),
        tiny_arm(tmp_path).with_payload(*LOAD),
        tiny_arm(tmp_path).with_payload(LOAD[0], LOAD[1]),
        tiny_arm(tmp_path).with_payload(*LOAD).with_payload(*LOAD),
    ]
    assert len({robot.digest for robot in robots}) == len(robots)


# -- payload and source ---------------------------------------------------------------------------------


def test_a_payload_hangs_at_the_tool_frame(tmp_path: Path) -> None:
    """Gravity torques grow by those of a point at the load's centre of mass; the robot itself is unchanged."""
    arm = tiny_arm(tmp_path)
    loaded = arm.with_payload(2.0, [0.0, 0.0, 0.1])
    before = arm.digest
    lever = np.array([0.4 + 0.3 + 0.1, 0.3 + 0.1])  # both joints horizontal: shoulder at 90°
    q = np.array([np.pi / 2, 0.0])
    extra = [pin.computeGeneralizedGravity(robot.pin_model, robot.pin_model.createData(), q) for robot in (loaded, arm)]
    np.testing.assert_allclose(np.abs(extra[0] - extra[1]), 2.0 * 9.81 * lever, rtol=1e-9)
    assert arm.digest == before
    assert arm.with_payload(0.0, [0.0, 0.0, 0.0]).n == 2


@pytest.mark.parametrize(
    ("mass", "com", "inertia", "message"),
    [
        (-1.0, [0, 0, 0], None, "mass -1.0 kg"),
        (np.nan, [0, 0, 0], None, "mass nan kg"),
        (np.inf, [0, 0, 0], None, "mass inf kg"),
        (1.0, [0, 0], None, "shape"),
        (1.0, ["a", 0, 0], None, "must be numbers"),
        (1.0, [0, 0, np.inf], None, "finite"),
        (1.0, [0, 0, 0], np.eye(2), "3x3"),
        (1.0, [0, 0, 0], -np.eye(3), "positive semi-definite"),
        (1.0, [0, 0, 0], np.triu(np.ones((3, 3))), "symmetric"),
        (1.0, [0, 0, 0], np.full((3, 3), np.nan), "symmetric"),
    ],
)
def test_an_impossible_payload_is_refused(mass: float, com: list[float], inertia: Any, message: str) -> None:
    """Negative, non-finite or misshapen values raise RobotError and say what is expected."""
    with pytest.raises(RobotError, match=message):
        panda().with_payload(mass, com, inertia)


def test_a_model_can_be_built_again_from_its_source(tmp_path: Path) -> None:
    """``from_source`` of a named, a URDF and a loaded robot gives the same digest; the source is plain JSON."""
    import json

    for robot in (
        panda(),
        panda().with_payload(*LOAD),
        tiny_arm(tmp_path),
        tiny_arm(tmp_path).with_payload(*LOAD).with_payload(0.5, [0.0, 0.1, 0.0]),
    ):
        source = json.loads(json.dumps(dict(robot.source)))
        again = RobotModel.from_source(source)
        assert again.digest == robot.digest
        q = random_q(np.random.default_rng(0))[: robot.n] * 0.5
        gravity = [pin.computeGeneralizedGravity(r.pin_model, r.pin_model.createData(), q) for r in (robot, again)]
        np.testing.assert_array_equal(gravity[0], gravity[1])


# -- mimic joints, meshes, home, limits beside the URDF -------------------------------------------------

GRIPPER = """
  <link name="jaw"><inertial><mass value="0.1"/><inertia ixx="1e-4" ixy="0" ixz="0" iyy="1e-4" iyz="0" izz="1e-4"/>
    </inertial></link>
  <joint name="jaw" type="prismatic">
    <parent link="fore"/><child link="jaw"/><origin xyz="0 0 0.3"/><axis xyz="1 0 0"/>
    <limit lower="0" upper="0.1" velocity="1" effort="20"/><mimic joint="elbow" multiplier="0.1"/>
  </joint>
</robot>
"""


def test_a_joint_that_follows_another_is_locked_or_declared_independent(tmp_path: Path) -> None:
    """Left alone it is refused with both names; locked it is gone; independent it is a joint like every other."""
    text = replaced(ARM_URDF, "</robot>", GRIPPER)
    with pytest.raises(RobotError, match=r"'jaw' of .*follows 'elbow': lock it, or declare 'mimic: independent'"):
        tiny_arm(tmp_path, text, limits={})
    assert tiny_arm(tmp_path, text, lock={"jaw": 0.02}).joints == ("shoulder", "elbow")
    free = tiny_arm(tmp_path, text, limits={"mimic": "independent"})
    assert free.joints == ("shoulder", "elbow", "jaw")
    assert RobotModel.from_source(free.source).digest == free.digest
    assert free.to_mujoco().compile().neq == 0
    with pytest.raises(RobotError, match=r"'jaw' .*a link and a joint have this name"):
        tiny_arm(tmp_path, text, limits={"mimic": "independent", "tool_frame": "jaw"})


def test_home_may_be_given_joint_by_joint(tmp_path: Path) -> None:
    """A mapping instead of a name; joints that it leaves out are mid-range, unknown ones and values outside refused."""
    np.testing.assert_allclose(tiny_arm(tmp_path, limits={**ARM_LIMITS, "home": {"elbow": 0.7}}).home, [0.0, 0.7])
    with pytest.raises(UnknownNameError, match=r"'wrist'.*known: shoulder, elbow"):
        tiny_arm(tmp_path, limits={**ARM_LIMITS, "home": {"wrist": 0.7}})
    with pytest.raises(RobotError, match=r"'elbow' at 7\.0 rad, outside"):
        tiny_arm(tmp_path, limits={**ARM_LIMITS, "home": {"elbow": 7.0}})
    with pytest.raises(RobotError, match=r"home.*elbow"):
        tiny_arm(tmp_path, limits={**ARM_LIMITS, "home": {"elbow": float("nan")}})


def test_limits_of_the_file_replace_those_of_the_urdf(tmp_path: Path) -> None:
    """Position, speed and torque, each with its own source; the derived figures follow them."""
    keys = {
        "position_min_rad": [-1.0, -2.0], "position_max_rad": [1.5, 2.5], "velocity_radps": [1.0, 1.5],
        "torque_nm": [50.0, 25.0],
    }  # fmt: skip
    limits = {key: {"values": values, "source": f"sheet {key}"} for key, values in keys.items()}
    robot = tiny_arm(tmp_path, limits={"limits": limits})
    for name, key in (("q_min", "position_min_rad"), ("q_max", "position_max_rad"), ("v_max", "velocity_radps")):
        np.testing.assert_array_equal(getattr(robot.limits, name), keys[key])
        assert robot.limits.provenance[name] == f"sheet {key}"
    np.testing.assert_array_equal(robot.limits.tau_rate_max, [5000.0, 2500.0])
    assert (robot.limits.a_max < tiny_arm(tmp_path, limits={}).limits.a_max).all()
    assert RobotModel.from_source(robot.source).digest == robot.digest
    wrong = {"velocity_radps": {"values": [1.0, -1.0], "source": "typo"}}
    with pytest.raises(LimitError, match=r"v_max is -1\.0"):
        tiny_arm(tmp_path, limits={"limits": wrong})


def test_derived_accelerations_count_the_rotors(tmp_path: Path) -> None:
    """A heavy rotor makes them small: half of what gravity leaves, over link and rotor inertia together."""
    heavy = {"dynamics": {"armature_kgm2": {"values": [5.0, 5.0], "source": "test"}}}
    assert (tiny_arm(tmp_path, limits=heavy).limits.a_max <= 0.5 * np.array([60.0, 30.0]) / 5.0).all()


@pytest.mark.parametrize("scale", ["1 1", "1 1 x", "0 1 1", "1 1 inf"])
def test_a_wrong_mesh_scale_is_named(tmp_path: Path, scale: str) -> None:
    """The geometry and the text are in the message."""
    (tmp_path / "a.stl").write_bytes(bytes(84))
    text = replaced(ARM_URDF, '<sphere radius="0.05"/>', f'<mesh filename="a.stl" scale="{scale}"/>')
    with pytest.raises(RobotError, match=f"'base_0' has scale='{scale}', expected three numbers"):
        tiny_arm(tmp_path, text)
