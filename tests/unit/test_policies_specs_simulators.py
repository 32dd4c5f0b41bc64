"""The specs beside the simulators themselves, where those are installed: ``make simulators`` does it."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from safeguard import RobotModel
from safeguard.core.enums import Reference
from safeguard.core.types import ActionSpec
from safeguard.integrations.gate import ChunkGate
from safeguard.policies.specs import (
    highway_env_spec,
    highway_env_tokens,
    metadrive_spec,
    metadrive_tokens,
    robosuite_spec,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # those of other people's packages


def number(spec: ActionSpec, name: str, value: float) -> np.ndarray:
    """An action of zeros with one column at ``value``."""
    action = np.zeros(len(spec.joints))
    action[spec.joints.index(name)] = value
    return action


def meaning(spec: ActionSpec, action: np.ndarray) -> np.ndarray:
    """What the numbers mean, in their units."""
    value: np.ndarray = np.array(spec.column("offset")) + np.array(spec.column("scale")) * action
    return value


# --- robosuite 1.5 -----------------------------------------------------------------------------------

IN_ARM: dict[str, dict[str, Any]] = {
    "osc_pose": {},
    "osc_pose, its own scale": {"output_max": [0.1, 0.05, 0.02, 0.4, 0.5, 0.6], "input_max": 2, "input_min": -1},
    "osc_pose, world": {"input_ref_frame": "world"},
    "osc_pose, absolute": {"input_type": "absolute"},
    "osc_pose, variable": {"impedance_mode": "variable"},
    "osc_pose, variable_kp": {"impedance_mode": "variable_kp"},
    "osc_position": {"type": "OSC_POSITION", "output_max": [0.05] * 3, "output_min": [-0.05] * 3},
    "joint_position": {"type": "JOINT_POSITION", "output_max": 0.05, "output_min": -0.05, "kp": 50},
    "joint_position, variable": {
        "type": "JOINT_POSITION", "output_max": 0.05, "output_min": -0.05, "impedance_mode": "variable",
    },
    "joint_position, absolute": {
        "type": "JOINT_POSITION", "output_max": 0.05, "output_min": -0.05, "input_type": "absolute",
    },
    "joint_velocity": {"type": "JOINT_VELOCITY", "output_max": 0.5, "output_min": -0.5, "kp": 3.0},
    "joint_torque": {"type": "JOINT_TORQUE", "output_max": 0.1, "output_min": -0.1},
}  # fmt: skip
OURS = {f"robot0_joint{k}": f"panda_joint{k}" for k in range(1, 8)}
GOALS = {
    "osc_pose": None, "osc_position": None, "joint_position": "goal_qpos", "joint_velocity": "goal_vel",
    "joint_torque": "goal_torque",
}  # fmt: skip


def lift(robot: str, changes: dict[str, Any] | None = None, controller: str | None = "BASIC") -> Any:
    """The lifting task with ``changes`` to the controller of the right arm."""
    suite: Any = pytest.importorskip("robosuite", reason="robosuite is not installed")
    generic: Any = pytest.importorskip("robosuite.controllers.parts.generic")

    # 1.5.2 cannot make one: it assigns to a property of its base class that has no setter.
    generic.JointVelocityController.torque_compensation = True
    config = suite.load_composite_controller_config(controller=controller, robot=robot)
    config["body_parts"]["right"].update(changes or {})
    options = dict.fromkeys(("has_renderer", "has_offscreen_renderer", "use_camera_obs"), False)
    env = suite.make(
        "Lift", robots=robot, controller_configs=config, control_freq=20, horizon=10_000, seed=0, **options
    )
    env.reset()
    return env


@pytest.fixture(params=list(IN_ARM))
def arm(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any]]:
    """A case of ``IN_ARM`` and its environment."""
    env = lift("Panda", IN_ARM[request.param])
    yield request.param, env
    env.close()


def controller_of(env: Any, part: str = "right") -> Any:
    """The controller of one part."""
    return env.robots[0].composite_controller.part_controllers[part]


def assert_order(spec: ActionSpec, composite: Any, splits: dict[str, tuple[int, int]]) -> None:
    """Every part's columns stand where robosuite's own ``create_action_vector`` puts them."""
    for part, (start, end) in splits.items():
        if end > start:
            vector = composite.create_action_vector({part: np.arange(1.0, end - start + 1)})
            where: list[int] = np.flatnonzero(vector)[: end - start].tolist()  # a mobile base's mode comes after
            names = [spec.joints[k] for k in where]
            own: list[str] = list(getattr(composite.part_controllers.get(part), "joint_names", ()))
            assert where == list(range(start, end))
            assert all(name.startswith((part, *own)) for name in names), (part, names)


def test_robosuite_actions_have_the_space_the_order_and_the_rate_that_the_spec_says(arm: tuple[str, Any]) -> None:
    """As many columns, in the order of ``create_action_vector``, in the bounds of the action space.

    Absolute targets are the exception: there the space says -1 to 1, and the controller takes metres and radians.
    """
    case, env = arm
    spec, (low, high) = robosuite_spec(env), env.action_spec
    composite = env.robots[0].composite_controller

    assert len(spec.joints) == env.action_dim
    assert spec.rate_hz == env.control_freq == 20
    assert spec == robosuite_spec(env.robots[0]) == robosuite_spec(composite)
    assert_order(spec, composite, composite._action_split_indexes)
    if case == "osc_pose, absolute":
        assert spec.low is None
        assert spec.reference is Reference.POSE
    elif case == "joint_position, absolute":
        assert spec.column("low")[:7] == pytest.approx(env.robots[0].sim.model.jnt_range[:7, 0])
        assert spec.reference is Reference.ABSOLUTE
    else:
        np.testing.assert_array_equal(spec.column("low"), low)
        np.testing.assert_array_equal(spec.column("high"), high)
        assert spec.misfit(np.array([high])) == ""
        assert "above" in spec.misfit(np.array([high + 0.1]))


def test_robosuite_configurations_say_the_same_as_the_environments_made_of_them(arm: tuple[str, Any]) -> None:
    """Before anything is built the same is known, but for the range of absolute joint targets."""
    case, env = arm
    suite: Any = pytest.importorskip("robosuite")
    config = suite.load_composite_controller_config(controller="BASIC", robot="Panda")
    config["body_parts"]["right"].update(copy.deepcopy(IN_ARM[case]))
    joints = {"right": env.robots[0].robot_joints}
    spec = robosuite_spec(config, rate_hz=20, joints=joints, parts=("right", "right_gripper"))
    built = robosuite_spec(env)

    assert spec == (built.changed(low=None, high=None) if case == "joint_position, absolute" else built)


def test_robosuite_controllers_make_of_an_action_what_the_spec_says(arm: tuple[str, Any]) -> None:
    """Every number at half its range sets the goal that offset + scale·x names, in the frame of the spec."""
    case, env = arm
    spec, controller = robosuite_spec(env), controller_of(env)
    action = np.zeros(len(spec.joints)) if spec.low is None else np.array(spec.column("high")) / 2
    value = meaning(spec, action)[-1 - len(controller.input_max) : -1]
    goal = GOALS[case.split(",")[0]]
    if goal == "goal_qpos" and spec.reference is Reference.DELTA:
        value = value + controller.joint_pos
    before, turned = tool(controller, spec.frame)
    motion = action[: controller.control_dim]

    controller.set_goal(motion)

    if goal is not None:
        np.testing.assert_allclose(getattr(controller, goal), value, atol=1e-12)
        return
    delta = spec.reference is Reference.DELTA
    np.testing.assert_allclose(controller.goal_pos, before + value[:3] if delta else value[:3], atol=1e-6)
    if len(value) == 6:
        np.testing.assert_allclose(
            controller.goal_ori, rotation(value[3:]) @ (turned if delta else np.eye(3)), atol=1e-6
        )


def tool(controller: Any, frame: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Position and axes of the tool in ``frame``."""
    if frame is None:
        return np.zeros(3), np.eye(3)
    if frame == "world":
        return controller.ref_pos.copy(), controller.ref_ori_mat.copy()
    base = controller.origin_ori
    return base.T @ (controller.ref_pos - controller.origin_pos), base.T @ controller.ref_ori_mat


def rotation(vector: np.ndarray) -> np.ndarray:
    """The rotation of a rotation vector (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle == 0.0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned: np.ndarray = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return turned


def settle(env: Any, action: np.ndarray, seconds: float) -> None:
    """One action, and time until the controller has done it."""
    env._pre_action(action, policy_step=True)
    for _ in range(round(seconds / env.model_timestep)):
        env.sim.step()
        env._pre_action(action, policy_step=False)


@pytest.mark.parametrize("axis", ["x", "y", "z", "rx", "ry", "rz"])
def test_a_full_robosuite_osc_action_moves_the_tool_by_its_scale(axis: str) -> None:
    """0.05 m or 0.5 rad along or about the axis that the column names, within 15 % after two seconds."""
    env = lift("Panda")
    spec, controller = robosuite_spec(env), controller_of(env)
    action = number(spec, f"right.{axis}", 1.0)
    before, turned = tool(controller, spec.frame)

    settle(env, action, 2.0)

    controller.update(force=True)
    after, axes = tool(controller, spec.frame)
    skew = axes @ turned.T
    turn = np.array([skew[2, 1] - skew[1, 2], skew[0, 2] - skew[2, 0], skew[1, 0] - skew[0, 1]]) / 2
    moved = np.concatenate([after - before, np.arcsin(np.linalg.norm(turn)) * turn / (np.linalg.norm(turn) or 1.0)])
    wanted = meaning(spec, action)[:6]
    if axis in "xyz":
        np.testing.assert_allclose(moved, wanted, atol=0.15 * 0.05)
    else:  # turning, the tool sways by up to 0.05 m before it comes back
        np.testing.assert_allclose(moved[:3], wanted[:3], atol=0.05)
        np.testing.assert_allclose(moved[3:], wanted[3:], atol=0.15 * 0.5)
    env.close()


@pytest.mark.parametrize("joint", range(7))
def test_a_full_robosuite_joint_position_action_moves_its_joint(joint: int) -> None:
    """0.05 rad of the joint that the column names; the others stay."""
    env = lift("Panda", IN_ARM["joint_position"])
    spec, controller = robosuite_spec(env), controller_of(env)
    action = number(spec, spec.joints[joint], 1.0)
    before = controller.joint_pos.copy()

    settle(env, action, 2.0)

    controller.update(force=True)
    np.testing.assert_allclose(controller.joint_pos - before, meaning(spec, action)[:7], atol=0.005)
    env.close()


def test_a_robosuite_mobile_manipulator_is_described_part_by_part() -> None:
    """PandaOmron: tool deltas; base, lift and the mode of the base are others, the lift in metres."""
    env = lift("PandaOmron", controller=None)
    spec, (low, high) = robosuite_spec(env), env.action_spec
    composite = env.robots[0].composite_controller

    assert len(spec.joints) == env.action_dim
    assert spec.reference is Reference.DELTA
    assert spec.frame == "base"
    assert spec.joints[-1] == "base_mode"
    assert set(spec.joints) - set(spec.others) == {f"right.{axis}" for axis in ("x", "y", "z", "rx", "ry", "rz")}
    assert dict(zip(spec.joints, spec.units, strict=True))["mobilebase0_joint_torso_height"] == "m"
    np.testing.assert_array_equal(spec.column("low"), low)
    np.testing.assert_array_equal(spec.column("high"), high)
    assert_order(spec, composite, composite._action_split_indexes)
    env.close()


def test_robosuite_whole_body_inverse_kinematics_takes_tool_poses() -> None:
    """GR1 with WHOLE_BODY_IK: one absolute pose for each hand, and fingers."""
    env = lift("GR1FixedLowerBody", controller="WHOLE_BODY_IK")
    spec, composite = robosuite_spec(env), env.robots[0].composite_controller

    assert len(spec.joints) == env.action_dim
    assert spec.reference is Reference.POSE
    assert len(spec.joints) - len(spec.others) == 12
    assert_order(spec, composite, composite._whole_body_controller_action_split_indexes)
    env.close()


def test_two_robosuite_robots_stand_one_after_another() -> None:
    """The columns of the second follow those of the first, in the bounds of the whole action space."""
    suite: Any = pytest.importorskip("robosuite", reason="robosuite is not installed")
    options = dict.fromkeys(("has_renderer", "has_offscreen_renderer", "use_camera_obs"), False)
    env = suite.make("TwoArmLift", robots=["Panda", "Sawyer"], **options)
    env.reset()
    spec, (low, high) = robosuite_spec(env), env.action_spec

    np.testing.assert_array_equal(spec.column("low"), low)
    np.testing.assert_array_equal(spec.column("high"), high)
    first = env.robots[0].action_dim
    assert {name[:6] for name in spec.joints[:first]} == {"robot0"}
    assert {name[:6] for name in spec.joints[first:]} == {"robot1"}
    env.close()


def farthest_beyond(env: Any, robot: RobotModel, gate: ChunkGate | None) -> float:
    """Joints driven to and fro at full action: how far the one that went farthest was beyond its limits, rad."""
    spec, beyond = robosuite_spec(env, rename=OURS), -math.inf
    rng, wanted = np.random.default_rng(0), np.zeros((1, 8))
    for k in range(300):
        if gate is not None and k == 10:
            gate.acknowledge(operator="test", reason="in simulation")
        if k % 50 == 0:
            wanted = rng.choice([-1.0, 1.0], size=(1, 8))
        q = controller_of(env).joint_pos.copy()
        beyond = max(beyond, float(np.max([robot.limits.q_min - q, q - robot.limits.q_max])))
        assert spec.misfit(wanted) == ""
        rows = wanted if gate is None else gate.offer(q, wanted, now=k * 50_000_000).actions
        env.step(rows[0])
    return beyond


def test_a_gate_keeps_robosuite_joints_inside_the_limits_that_the_same_actions_leave() -> None:
    """15 s of extreme joint steps with the spec that was read: without the gate limits are passed, with it never."""
    robot = RobotModel.load("panda")
    stiff = {**IN_ARM["joint_position"], "kp": 1000}
    raw, guarded = lift("Panda", stiff), lift("Panda", stiff)
    with ChunkGate(robot, robosuite_spec(guarded, rename=OURS)) as gate:
        gate.begin_episode("to and fro")
        kept = farthest_beyond(guarded, robot, gate)

    assert farthest_beyond(raw, robot, None) > 0.0
    assert kept <= 0.0
    raw.close()
    guarded.close()


# --- highway-env 1.12 ----------------------------------------------------------------------------------


def highway(action: dict[str, Any], **config: Any) -> Any:
    """A motorway with ``action``."""
    gymnasium: Any = pytest.importorskip("gymnasium")
    pytest.importorskip("highway_env", reason="highway-env is not installed")
    env = gymnasium.make("highway-v0", config={"action": action, "vehicles_count": 5, **config})
    env.reset(seed=0)
    return env


CONTINUOUS: list[dict[str, Any]] = [
    {"type": "ContinuousAction"},
    {"type": "ContinuousAction", "acceleration_range": (-8.0, 3.0), "steering_range": (-0.3, 0.3)},
    {"type": "ContinuousAction", "longitudinal": False},
    {"type": "ContinuousAction", "lateral": False},
]
DISCRETE: list[dict[str, Any]] = [
    {"type": "DiscreteAction"},
    {"type": "DiscreteAction", "actions_per_axis": 5, "lateral": False},
    {"type": "DiscreteMetaAction"},
    {"type": "DiscreteMetaAction", "lateral": False},
    {"type": "DiscreteMetaAction", "longitudinal": False},
]


@pytest.mark.parametrize("action", CONTINUOUS, ids=str)
def test_highway_env_does_with_numbers_what_the_spec_says(action: dict[str, Any]) -> None:
    """Bounds of the action space, and acceleration and steering of the vehicle are offset + scale·x."""
    env = highway(action, policy_frequency=5)
    spec, inner = highway_env_spec(env), env.unwrapped

    assert spec == highway_env_spec(inner.config) == highway_env_spec(inner.action_type)
    assert spec == highway_env_spec(action, rate_hz=5)
    np.testing.assert_array_equal(spec.column("low"), env.action_space.low)
    np.testing.assert_array_equal(spec.column("high"), env.action_space.high)
    assert spec.rate_hz == 5
    for numbers in itertools.product((-1.0, -0.25, 0.5, 1.0), repeat=len(spec.joints)):
        inner.action_type.act(np.array(numbers))
        done = [inner.vehicle.action[name] for name in spec.joints]
        np.testing.assert_allclose(done, meaning(spec, np.array(numbers)), atol=1e-12)
    env.close()


@pytest.mark.parametrize("action", DISCRETE, ids=str)
def test_highway_env_tokens_are_all_there_is_and_mean_what_they_say(action: dict[str, Any]) -> None:
    """As many tokens as the space has; each does what its words say."""
    env = highway(action)
    spec, names, inner = highway_env_spec(env), highway_env_tokens(env), env.unwrapped

    assert len(names) == env.action_space.n == spec.column("high")[0] + 1
    assert spec == highway_env_spec(inner.config)
    for token, words in enumerate(names):
        assert spec.misfit(np.array([[float(token)]])) == ""
        if action["type"] == "DiscreteMetaAction":
            assert inner.action_type.actions[token] == words
        else:
            inner.action_type.act(token)
            done = inner.vehicle.action
            columns = zip(("acceleration", "steering"), ("m/s^2", "rad"), strict=True)
            wanted = [f"{name} {done[name]:g} {unit}" for name, unit in columns if name in words]
            assert words == ", ".join(wanted)
    assert not env.action_space.contains(len(names))
    assert spec.misfit(np.array([[float(len(names))]]))
    env.close()


def test_several_highway_env_vehicles_have_their_columns_one_after_another() -> None:
    """The flat action, cut into the tuple that the environment takes."""
    action = {"type": "MultiAgentAction", "action_config": {"type": "ContinuousAction"}}
    env = highway(action, controlled_vehicles=2)
    spec, inner = highway_env_spec(env), env.unwrapped
    numbers = np.array([0.5, -0.2, -1.0, 0.1])

    inner.action_type.act(tuple(numbers.reshape(2, -1)))

    done = [vehicle.action[name] for vehicle in inner.controlled_vehicles for name in ("acceleration", "steering")]
    assert spec.joints == (
        "vehicle0.acceleration", "vehicle0.steering", "vehicle1.acceleration", "vehicle1.steering",
    )  # fmt: skip
    assert spec == highway_env_spec(inner.config)
    np.testing.assert_allclose(done, meaning(spec, numbers), atol=1e-12)
    env.close()


# --- MetaDrive 0.4.3 -----------------------------------------------------------------------------------


@pytest.fixture
def metadrive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes environments without the pictures that would have to be fetched; one at a time."""
    package: Any = pytest.importorskip("metadrive", reason="MetaDrive is not installed")
    engine: Any = pytest.importorskip("metadrive.engine.base_engine")

    def stay(*_: object, **__: object) -> None:
        """Fetch nothing."""

    monkeypatch.setattr(engine.BaseEngine, "try_pull_asset", stay)
    made: list[Any] = []

    def make(**config: Any) -> Any:
        env: Any = package.MetaDriveEnv({"num_scenarios": 1, "traffic_density": 0.0, "log_level": 50, **config})
        env.reset(seed=0)
        made.append(env)
        return env

    yield make
    for env in made:
        env.close()


@pytest.mark.parametrize("model", ["default", "static_default", "s", "m", "l", "xl"])
def test_metadrive_steers_by_the_angle_that_the_spec_says(metadrive: Callable[..., Any], model: str) -> None:
    """The wheels' angle is scale·x of this vehicle, also from the configuration alone; left is positive."""
    env = metadrive(vehicle_config={"vehicle_model": model})
    spec = metadrive_spec(env)

    assert spec == metadrive_spec(env.config)
    assert spec.rate_hz == pytest.approx(10.0)
    np.testing.assert_array_equal(spec.column("low"), env.action_space.low)
    np.testing.assert_array_equal(spec.column("high"), env.action_space.high)
    for _ in range(20):
        env.step(number(spec, "throttle_brake", 1.0))
    heading, fast = env.agent.heading_theta, env.agent.speed
    action = number(spec, "steering", 0.25)
    for _ in range(3):
        env.step(action)
    wheel = math.radians(env.agent.system.getSteeringValue(0))
    assert wheel == pytest.approx(meaning(spec, action)[0], rel=1e-6)
    assert env.agent.heading_theta > heading
    for _ in range(3):
        env.step(number(spec, "throttle_brake", -1.0))
    assert fast > 1.0
    assert env.agent.speed < fast


def test_one_metadrive_action_lasts_as_long_as_the_rate_says(metadrive: Callable[..., Any]) -> None:
    """Distance at constant speed over one action is speed over rate."""
    env = metadrive(decision_repeat=3)
    spec = metadrive_spec(env)
    for _ in range(30):
        env.step(number(spec, "throttle_brake", 0.5))
    before, speed = np.array(env.agent.position), env.agent.speed

    env.step(np.zeros(2))

    assert spec.rate_hz == pytest.approx(50 / 3)
    assert np.linalg.norm(env.agent.position - before) == pytest.approx(speed / spec.rate_hz, rel=0.05)


def test_metadrive_tokens_are_the_grid_that_the_environment_executes(metadrive: Callable[..., Any]) -> None:
    """Every token's numbers are those that the vehicle gets."""
    env = metadrive(discrete_action=True, discrete_steering_dim=3, discrete_throttle_dim=5)
    spec, pairs = metadrive_spec(env), metadrive_tokens(env)

    assert env.action_space.n == len(pairs) == spec.column("high")[0] + 1 == 15
    for token, pair in enumerate(pairs):
        env.step(token)
        assert (env.agent.steering, env.agent.throttle_brake) == pytest.approx(pair)


def test_metadrive_actions_of_two_tokens(metadrive: Callable[..., Any]) -> None:
    """A column for each, as long as the space is."""
    env = metadrive(discrete_action=True, use_multi_discrete=True, discrete_throttle_dim=7)
    spec = metadrive_spec(env)

    assert spec.joints == ("steering", "throttle_brake")
    np.testing.assert_array_equal(np.array(spec.column("high")) + 1, env.action_space.nvec)
