"""Actions of simulators, described from objects and configurations shaped like theirs.

``make simulators`` compares with the simulators themselves; what is written down here has their structure.
"""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec
from safeguard.policies.binding import Binding
from safeguard.policies.specs import (
    highway_env_spec,
    highway_env_tokens,
    metadrive_spec,
    metadrive_tokens,
    robosuite_spec,
)

OSC: dict[str, Any] = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "impedance_mode": "fixed",
    "kp_limits": [0, 300],
    "damping_ratio_limits": [0, 10],
    "input_type": "delta",
    "input_ref_frame": "base",
    "gripper": {"type": "GRIP"},
}
JOINTS = tuple(f"robot0_joint{k}" for k in range(1, 8))
GRIPPED = ("right", "right_gripper")
TOOL = tuple(f"right.{axis}" for axis in ("x", "y", "z", "rx", "ry", "rz"))


def joint_config(kind: str, **changes: Any) -> dict[str, Any]:
    """A part controlled by joint."""
    return {"type": kind, "input_max": 1, "input_min": -1, "output_max": 0.05, "output_min": -0.05, **changes}


def by_joint(kind: str, **changes: Any) -> ActionSpec:
    """The spec of an arm controlled by joint, from its configuration."""
    return robosuite_spec(joint_config(kind, **changes), rate_hz=20, joints={"right": JOINTS}, parts=GRIPPED)


def controller(name: str, joints: tuple[str, ...] = JOINTS, slides: tuple[int, ...] = (), **changes: Any) -> Any:
    """What a finished part controller of robosuite has: arrays where the configuration has numbers."""
    count = {"OSC_POSE": 6, "OSC_POSITION": 3}.get(name, len(joints))
    model = SimpleNamespace(
        jnt_type=[2 if k in slides else 3 for k in range(len(joints))],
        jnt_limited=[1] * len(joints),
        jnt_range=[(-1.0 - k, 2.0 + k) for k in range(len(joints))],
    )
    return SimpleNamespace(**{
        "name": name, "control_dim": count, "control_freq": 20, "joint_names": list(joints),
        "joint_index": list(range(len(joints))), "sim": SimpleNamespace(model=model), "part_name": "right",
        "input_min": -np.ones(count), "input_max": np.ones(count), "input_type": "delta", "impedance_mode": "fixed",
        "output_min": np.full(count, -0.05), "output_max": np.full(count, 0.05), "input_ref_frame": "base", **changes,
    })  # fmt: skip


def composite(**parts: Any) -> Any:
    """A composite controller of parts and of one-finger grippers."""
    grippers = {name: SimpleNamespace(dof=1) for name in parts if name.endswith("gripper")}
    return SimpleNamespace(name="BASIC", part_controllers=dict(parts), grippers=grippers)


# --- robosuite -----------------------------------------------------------------------------------------


def test_osc_pose_is_a_delta_of_the_tool_in_metres_and_radians_with_the_gripper_beside_it() -> None:
    """What a Panda of robosuite takes by default."""
    assert robosuite_spec(OSC, rate_hz=20, parts=GRIPPED) == ActionSpec(
        (*TOOL, "right_gripper"),
        ("m", "m", "m", "rad", "rad", "rad", "1"),
        Reference.DELTA,
        20.0,
        frame="base",
        scale=(0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0),
        offset=0.0,
        low=-1.0,
        high=1.0,
        others=("right_gripper",),
    ).changed(low=(-1.0,) * 7, high=(1.0,) * 7, offset=(0.0,) * 7)


def test_files_and_loaded_configurations_of_whole_robots_say_the_same() -> None:
    """Loading a file, robosuite lifts the arms by one level; the order is that of ``parts``."""
    loaded = {"type": "BASIC", "body_parts": {"right": OSC, "left": OSC, "torso": joint_config("JOINT_POSITION")}}
    file = {"type": "BASIC", "body_parts": {"arms": {"right": OSC, "left": OSC}}}

    assert robosuite_spec(loaded, rate_hz=20, parts=GRIPPED) == robosuite_spec(OSC, rate_hz=20, parts=GRIPPED)
    assert robosuite_spec(file, rate_hz=20, parts=GRIPPED) == robosuite_spec(OSC, rate_hz=20, parts=GRIPPED)
    two = robosuite_spec(file, rate_hz=20, parts=("right", "left"))
    assert two.joints == (*TOOL, *(name.replace("right", "left") for name in TOOL))
    with pytest.raises(SpecError, match=r"say parts=, some of \['right', 'left'\]"):
        robosuite_spec(file, rate_hz=20)


def test_ranges_that_are_not_symmetric_have_an_offset() -> None:
    """Input from 0 to 1 onto -0.02 to 0.06: 0.5 means 0.02 m."""
    config = {**OSC, "type": "OSC_POSITION", "input_min": 0, "output_min": [-0.02] * 3, "output_max": [0.06] * 3}
    spec = robosuite_spec(config, rate_hz=10)

    assert spec.units == ("m", "m", "m")
    assert spec.column("scale") == pytest.approx((0.08,) * 3)
    assert np.array(spec.column("offset")) + 0.5 * np.array(spec.column("scale")) == pytest.approx([0.02] * 3)
    assert (spec.column("low"), spec.column("high")) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("kind", "reference", "unit"),
    [
        ("JOINT_POSITION", Reference.DELTA, "rad"),
        ("JOINT_VELOCITY", Reference.VELOCITY, "rad/s"),
        ("JOINT_TORQUE", Reference.TORQUE, "N.m"),
    ],
)
def test_joint_controllers_bind_to_a_body_of_the_same_joints(kind: str, reference: Reference, unit: str) -> None:
    """Such a spec is one that the shield takes; the gripper stays the caller's."""
    spec = by_joint(kind, use_torque_compensation=False)
    bound = Binding(spec, tuple(reversed(JOINTS)))

    assert (spec.joints, spec.reference, spec.frame) == ((*JOINTS, "right_gripper"), reference, None)
    assert spec.units == (*((unit,) * 7), "1")
    assert bound.others == ("right_gripper",)
    assert spec.column("scale")[:7] == (0.05,) * 7


def test_torques_above_gravity_are_not_taken_for_the_torques_of_joints() -> None:
    """With robosuite's compensation, which is its default, columns have another name: binding them is a decision."""
    spec = by_joint("JOINT_TORQUE")

    assert spec.joints[0] == "robot0_joint1.above_gravity"
    assert robosuite_spec(controller("JOINT_TORQUE", use_torque_compensation=True)).joints == spec.joints[:-1]
    assert robosuite_spec(controller("JOINT_TORQUE", use_torque_compensation=False)).joints == JOINTS
    with pytest.raises(SpecError, match="above_gravity"):
        Binding(spec, JOINTS)


def test_renamed_columns_bind_to_a_body_that_calls_its_joints_otherwise() -> None:
    """Names of robosuite to those of the model; a name that is no column is refused."""
    ours = {name: f"panda_joint{k}" for k, name in enumerate(JOINTS, 1)}
    spec = robosuite_spec(joint_config("JOINT_POSITION"), rate_hz=20, joints={"right": JOINTS}, rename=ours)

    assert spec.joints == tuple(ours.values())
    other = robosuite_spec(OSC, rate_hz=20, parts=GRIPPED, rename={"right_gripper": "hand"})
    assert (other.joints[-1], other.others) == ("hand", ("hand",))
    with pytest.raises(SpecError, match=r"rename names \['robot1_joint1'\]"):
        robosuite_spec(OSC, rate_hz=20, rename={"robot1_joint1": "panda_joint1"})


def test_absolute_targets_are_neither_scaled_nor_ranged() -> None:
    """The action space says -1 to 1 and the controller clips nothing: no range is declared, unless one is given."""
    joints = by_joint("JOINT_POSITION", input_type="absolute")
    pose = robosuite_spec({**OSC, "input_type": "absolute", "input_ref_frame": "world"}, rate_hz=20)

    assert (joints.reference, joints.low, joints.column("scale")) == (Reference.ABSOLUTE, None, (1.0,) * 8)
    assert (pose.reference, pose.frame, pose.low) == (Reference.POSE, "world", None)
    reach = {name: (-0.8, 0.8) if name[-2] == "." else (-math.pi, math.pi) for name in TOOL}
    ranged = robosuite_spec({**OSC, "input_type": "absolute"}, rate_hz=20, bounds=reach)
    assert "above" in ranged.misfit(np.full((1, 6), 1.0))
    assert ranged.misfit(np.full((1, 6), 0.8)) == ""


def test_a_finished_controller_of_absolute_joint_targets_knows_the_range_of_its_joints() -> None:
    """It is that of the simulated model."""
    arm = controller("JOINT_POSITION", input_type="absolute")
    spec = robosuite_spec(arm)

    assert spec.reference is Reference.ABSOLUTE
    assert spec.column("low") == tuple(-1.0 - k for k in range(7))
    assert spec.column("high") == tuple(2.0 + k for k in range(7))


@pytest.mark.parametrize("mode", ["variable", "variable_kp"])
def test_gains_of_a_variable_impedance_are_columns_before_the_motion(mode: str) -> None:
    """They are checked for their own limits and are no joints."""
    spec = robosuite_spec({**OSC, "impedance_mode": mode}, rate_hz=20)
    gains = ["damping_ratio", "kp"] if mode == "variable" else ["kp"]

    assert spec.joints == (*(f"{name}.{gain}" for gain in gains for name in TOOL), *TOOL)
    assert spec.others == spec.joints[:-6]
    assert dict(zip(spec.joints, spec.column("high"), strict=True))["right.x.kp"] == 300.0
    per_joint = by_joint("JOINT_POSITION", impedance_mode="variable_kp", kp_limits=[10, 80])
    assert per_joint.joints == (*(f"{name}.kp" for name in JOINTS), *JOINTS, "right_gripper")
    assert per_joint.column("low")[:7] == (10.0,) * 7
    arrays = controller(
        "JOINT_POSITION", impedance_mode="variable_kp", kp_min=np.full(7, 10.0), kp_max=np.full(7, 80.0)
    )
    assert robosuite_spec(arrays).column("high") == per_joint.column("high")[:-1]


def test_environments_robots_and_controllers_say_the_same() -> None:
    """Whichever is at hand; the rate is the one found there, or the one said."""
    whole = composite(right=controller("OSC_POSE"), right_gripper=controller("JOINT_VELOCITY", ("finger",)))
    robot = SimpleNamespace(composite_controller=whole, control_freq=20)
    env = SimpleNamespace(robots=[robot], control_freq=20)
    spec = robosuite_spec(env)

    assert spec == robosuite_spec(robot) == robosuite_spec(whole)
    assert (spec.rate_hz, spec.others) == (20.0, ("right_gripper",))
    assert robosuite_spec(whole, rate_hz=10).rate_hz == 10.0
    assert robosuite_spec(controller("OSC_POSE")).joints == TOOL


def test_parts_of_another_kind_are_others_and_slides_have_metres() -> None:
    """A mobile manipulator: tool deltas in a frame, a lift, a base, and the base's mode at the end."""
    whole = composite(
        right=controller("OSC_POSE"),
        right_gripper=controller("JOINT_VELOCITY", ("finger",)),
        torso=controller("JOINT_POSITION", ("lift",), slides=(0,)),
        base=controller("JOINT_VELOCITY", ("forward", "side", "yaw")),
        head=controller("JOINT_POSITION", ()),
    )
    whole.name = "HYBRID_MOBILE_BASE"
    whole.grippers["right_gripper"].dof = 2
    spec = robosuite_spec(whole)

    rest = ("right_gripper.0", "right_gripper.1", "lift", "base.forward", "base.side", "base.yaw", "base_mode")
    assert spec.joints == (*TOOL, *rest)
    assert spec.others == rest
    assert spec.units[8] == "m"


def test_two_robots_stand_one_after_another_with_their_names() -> None:
    """Joints have the robot's name already, parts get it."""
    first = composite(right=controller("JOINT_POSITION", ("robot0_joint1",)), right_gripper=None)
    second = composite(right=controller("JOINT_POSITION", ("robot1_joint1",)), right_gripper=None)
    robots = [SimpleNamespace(composite_controller=one) for one in (first, second)]
    spec = robosuite_spec(SimpleNamespace(robots=robots, control_freq=50))

    assert spec.joints == ("robot0_joint1", "robot0_right_gripper", "robot1_joint1", "robot1_right_gripper")
    assert spec.rate_hz == 50.0


def whole_body(representation: str = "absolute", rotation: int = 3) -> Any:
    """Inverse kinematics for two hands and the torso, with one gripper left to itself."""
    whole = composite(
        right=controller("JOINT_POSITION"), torso=controller("JOINT_POSITION", ("waist",)), right_gripper=None
    )
    splits = {"right": (0, 3 + rotation), "left": (3 + rotation, 6 + 2 * rotation)}
    whole.joint_action_policy = SimpleNamespace(
        input_action_repr=representation, rot_dim=rotation, input_ref_frame="world", action_split_indexes=lambda: splits
    )
    whole.composite_controller_specific_config = {"actuation_part_names": ["right", "torso"]}
    return whole


def test_whole_body_inverse_kinematics_takes_a_pose_for_every_tool() -> None:
    """The joints that it moves are no columns; relative poses are refused, not guessed."""
    whole = whole_body()
    spec = robosuite_spec(whole, rate_hz=20)

    assert (spec.reference, spec.frame, len(spec.joints)) == (Reference.POSE, "world", 13)
    assert spec.others == ("right_gripper",)
    assert robosuite_spec(whole_body(rotation=4), rate_hz=20).joints[3:7] == (
        "right.qw", "right.qx", "right.qy", "right.qz",
    )  # fmt: skip
    with pytest.raises(SpecError, match="'relative_pose' with 3 numbers a rotation"):
        robosuite_spec(whole_body("relative_pose"), rate_hz=20)
    assert spec.frame == "world"
    elsewhere = whole_body()
    elsewhere.joint_action_policy.input_ref_frame = None
    elsewhere.composite_controller_specific_config["ik_input_ref_frame"] = "base"
    assert robosuite_spec(elsewhere, rate_hz=20).frame == "base"
    elsewhere.composite_controller_specific_config["use_joint_angle_action_input"] = True
    with pytest.raises(SpecError, match="or of joint angles, are not described"):
        robosuite_spec(elsewhere, rate_hz=20)
    whole.composite_controller_specific_config["skip_wbc_action"] = True
    assert robosuite_spec(whole, rate_hz=20).joints == (*JOINTS, "waist", "right_gripper")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (OSC, {}, "say rate_hz="),
        ({**OSC, "type": "IK_POSE"}, {"rate_hz": 20}, "'IK_POSE' is not described here; known: OSC_POSE"),
        ({**OSC, "impedance_mode": "soft"}, {"rate_hz": 20}, "impedance_mode 'soft'"),
        ({**OSC, "output_max": [0.05] * 3}, {"rate_hz": 20}, "output_max must be a number or 6 numbers"),
        ({k: v for k, v in OSC.items() if k != "output_max"}, {"rate_hz": 20}, "right has no 'output_max'"),
        ({**OSC, "input_max": -1}, {"rate_hz": 20}, "must be a finite number"),
        ({"input_max": 1}, {"rate_hz": 20}, "right has no 'type'"),
        (OSC, {"rate_hz": 20, "parts": ("left",)}, r"has no part 'left', only \['right'\]"),
        (OSC, {"rate_hz": 20, "bounds": {"x": (0, 1)}}, r"bounds names \['x'\]"),
        (OSC, {"rate_hz": 20, "parts": ("right_gripper",)}, "nothing to bind"),
        (joint_config("JOINT_TORQUE"), {"rate_hz": 20}, r"say joints=\{'right'"),
        ({"type": "WHOLE_BODY_IK", "body_parts": {"right": OSC}}, {"rate_hz": 20}, "from the finished environment"),
        (object(), {}, "object is no robosuite environment"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_from_robosuite_is_refused(source: Any, options: dict[str, Any], message: str) -> None:
    """Nothing is guessed: the message says what is missing or unknown."""
    with pytest.raises(SpecError, match=message):
        robosuite_spec(source, **options)


def test_a_tool_action_is_not_taken_for_joint_motion() -> None:
    """Binding one to an arm fails when it is made, naming the columns."""
    with pytest.raises(SpecError, match=r"right\.x"):
        Binding(robosuite_spec(OSC, rate_hz=20), JOINTS)


# --- highway-env ---------------------------------------------------------------------------------------


def action_type(kind: str, frequency: int = 5, **attributes: Any) -> Any:
    """An object of a class called ``kind``, with the environment that it belongs to."""
    env = SimpleNamespace(config={"policy_frequency": frequency, "action": {"type": kind}})
    action = type(kind, (), {})()
    vars(action).update(attributes, env=env)
    env.action_type = action
    return action


def test_highway_env_takes_acceleration_and_steering() -> None:
    """With its default ranges, from every form in which the configuration comes."""
    spec = highway_env_spec({"type": "ContinuousAction"}, rate_hz=5)

    assert (spec.joints, spec.units) == (("acceleration", "steering"), ("m/s^2", "rad"))
    assert (spec.reference, spec.rate_hz) == (Reference.CONTROL, 5.0)
    assert spec.column("scale") == pytest.approx((5.0, math.pi / 4))
    assert spec == highway_env_spec({"action": {"type": "ContinuousAction"}, "policy_frequency": 5})
    ranges: dict[str, Any] = {"acceleration_range": (-5, 5.0), "steering_range": (-math.pi / 4, math.pi / 4)}
    built = action_type("ContinuousAction", longitudinal=True, lateral=True, **ranges)
    assert spec == highway_env_spec(built) == highway_env_spec(SimpleNamespace(unwrapped=built.env))
    assert "above" in spec.misfit(np.array([[0.0, 1.1]]))


def test_highway_env_ranges_and_parts_are_those_configured() -> None:
    """Harder braking than acceleration has an offset; what is not controlled has no column."""
    config = {"type": "ContinuousAction", "acceleration_range": (-8.0, 2.0), "lateral": False}
    spec = highway_env_spec(config, rate_hz=1)

    assert spec.joints == ("acceleration",)
    assert (spec.column("scale"), spec.column("offset")) == ((5.0,), (-3.0,))
    with pytest.raises(SpecError, match="longitudinal, lateral or both"):
        highway_env_spec({**config, "longitudinal": False}, rate_hz=1)


def test_highway_env_tokens_are_integers_in_range_and_have_words() -> None:
    """What is between two tokens, below the first or above the last means nothing."""
    meta = highway_env_spec({"type": "DiscreteMetaAction"}, rate_hz=1)

    assert highway_env_tokens({"type": "DiscreteMetaAction"}) == (
        "LANE_LEFT", "IDLE", "LANE_RIGHT", "FASTER", "SLOWER",
    )  # fmt: skip
    assert [meta.misfit(np.array([[float(k)]])) for k in range(5)] == [""] * 5
    assert "not an integer" in meta.misfit(np.array([[1.5]]))
    assert "below the declared 0" in meta.misfit(np.array([[-1.0]]))
    assert "above the declared 4" in meta.misfit(np.array([[5.0]]))
    grid = {"type": "DiscreteAction", "actions_per_axis": 3, "steering_range": (-0.2, 0.2)}
    assert highway_env_spec(grid, rate_hz=1).column("high") == (8.0,)
    assert highway_env_tokens(grid)[2] == "acceleration -5 m/s^2, steering 0.2 rad"
    assert highway_env_tokens(action_type("DiscreteMetaAction", lateral=False)) == ("SLOWER", "IDLE", "FASTER")
    with pytest.raises(SpecError, match="ContinuousAction has no tokens"):
        highway_env_tokens({"type": "ContinuousAction"})


def test_only_tokens_have_to_be_integers() -> None:
    """What stands beside them in ``others`` is a number like any other."""
    spec = ActionSpec(("word", "grip"), ("token", "1"), Reference.TOKENS, 5.0, others=("grip",))

    assert spec.misfit(np.array([[3.0, 0.25]])) == ""
    assert "word is 2.5 in row 0" in spec.misfit(np.array([[2.5, 0.25]]))
    assert "word is nan" in spec.misfit(np.array([[math.nan, 0.25]]))


def test_highway_env_vehicles_have_their_columns_one_after_another() -> None:
    """As many as the configuration has, or the environment."""
    config = {
        "action": {"type": "MultiAgentAction", "action_config": {"type": "DiscreteMetaAction"}},
        "policy_frequency": 5,
        "controlled_vehicles": 3,
    }
    spec = highway_env_spec(config)
    agents = [action_type("DiscreteMetaAction") for _ in range(3)]

    assert spec.joints == ("vehicle0.action", "vehicle1.action", "vehicle2.action")
    assert spec == highway_env_spec(action_type("MultiAgentAction", agents_action_types=agents))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"type": "ContinuousAction"}, "say rate_hz="),
        ({"type": "TrajectoryAction"}, "'TrajectoryAction' is not described here; known: ContinuousAction"),
        ({}, "action has no 'type'"),
        ({"type": "MultiAgentAction"}, "MultiAgentAction has no 'action_config'"),
        pytest.param(object(), "say rate_hz=", id="object"),
    ],
    ids=str,
)
def test_what_cannot_be_read_from_highway_env_is_refused(source: Any, message: str) -> None:
    """The message says what is missing or unknown."""
    rate = {} if message.startswith("say") else {"rate_hz": 1}

    with pytest.raises(SpecError, match=message):
        highway_env_spec(source, **rate)


# --- MetaDrive -----------------------------------------------------------------------------------------


class EnvInputPolicy:
    """Called like MetaDrive's, which executes actions as they are."""


METADRIVE: dict[str, Any] = {
    "agent_policy": EnvInputPolicy,
    "manual_control": False,
    "physics_world_step_size": 0.02,
    "decision_repeat": 5,
    "discrete_action": False,
    "use_multi_discrete": False,
    "discrete_steering_dim": 5,
    "discrete_throttle_dim": 3,
    "random_agent_model": False,
    "vehicle_config": {"vehicle_model": "default"},
}


def test_metadrive_takes_a_steering_angle_and_a_share_of_the_pedal() -> None:
    """40 degrees to either side for the default car, ten times a second."""
    spec = metadrive_spec(METADRIVE)

    assert (spec.joints, spec.units) == (("steering", "throttle_brake"), ("rad", "1"))
    assert spec.reference is Reference.CONTROL
    assert spec.rate_hz == pytest.approx(10.0)
    assert spec.column("scale") == pytest.approx((math.radians(40), 1.0))
    assert spec == metadrive_spec(SimpleNamespace(config=METADRIVE, agent=SimpleNamespace(max_steering=40.0)))
    assert "below" in spec.misfit(np.array([[0.0, -1.4]]))


def test_metadrive_steering_is_that_of_the_vehicle() -> None:
    """Of its model, of its configuration, of the running vehicle, or what the caller says; never a guess."""
    truck = {**METADRIVE, "vehicle_config": {"vehicle_model": "xl"}}
    own = {**METADRIVE, "vehicle_config": {"vehicle_model": "varying_dynamics", "max_steering": 30.0}}
    chance = {**METADRIVE, "random_agent_model": True}

    assert metadrive_spec(truck).column("scale")[0] == pytest.approx(math.radians(35))
    assert metadrive_spec(own).column("scale")[0] == pytest.approx(math.radians(30))
    running = SimpleNamespace(config=chance, agent=SimpleNamespace(max_steering=50.0))
    assert metadrive_spec(running).column("scale")[0] == pytest.approx(math.radians(50))
    assert metadrive_spec(chance, max_steering_rad=0.6).column("scale")[0] == 0.6
    for unknown in (chance, {**METADRIVE, "vehicle_config": {"vehicle_model": "varying_dynamics"}}):
        with pytest.raises(SpecError, match="say max_steering_rad="):
            metadrive_spec(unknown)


def test_metadrive_tokens_are_a_grid_over_both() -> None:
    """One token with steering running fastest, or one for each."""
    one = {**METADRIVE, "discrete_action": True}
    two = {**one, "use_multi_discrete": True}

    assert (metadrive_spec(one).joints, metadrive_spec(one).column("high")) == (("action",), (14.0,))
    assert metadrive_tokens(one)[:6] == ((-1, -1), (-0.5, -1), (0, -1), (0.5, -1), (1, -1), (-1, 0))
    assert metadrive_spec(two).column("high") == (4.0, 2.0)
    assert "not an integer" in metadrive_spec(two).misfit(np.array([[1.0, 0.5]]))
    for source in (METADRIVE, two):
        with pytest.raises(SpecError, match="not one token"):
            metadrive_tokens(source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent_policy": type("IDMPolicy", (), {})}, "'IDMPolicy' does not take the action as it is"),
        ({"manual_control": True}, "does not take the action as it is"),
        ({"decision_repeat": None}, "has no 'decision_repeat'"),
        ({"agent_policy": None}, "has no 'agent_policy'"),
    ],
    ids=str,
)
def test_a_metadrive_that_does_not_execute_the_action_is_refused(changes: dict[str, Any], message: str) -> None:
    """A policy of its own drives there, or the configuration is not complete."""
    with pytest.raises(SpecError, match=message):
        metadrive_spec({**METADRIVE, **changes})
    with pytest.raises(SpecError, match="neither a MetaDrive environment"):
        metadrive_spec(object())


# --- all -----------------------------------------------------------------------------------------------


def test_describing_changes_nothing_in_the_configuration() -> None:
    """It is the user's, and makes the environment afterwards."""
    config = {"type": "BASIC", "body_parts": {"arms": {"right": OSC}}}
    before = copy.deepcopy(config)

    robosuite_spec(config, rate_hz=20)

    assert config == before


def test_no_simulator_is_imported() -> None:
    """Neither by importing nor by describing."""
    code = (
        "import sys\n"
        "from safeguard.policies.specs import highway_env_spec\n"
        "highway_env_spec({'type': 'ContinuousAction'}, rate_hz=1)\n"
        "print({'robosuite', 'mujoco', 'gymnasium', 'highway_env', 'metadrive', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
