from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv

from safeguard import RobotModel
from safeguard.core.config import DriveConfig, MarginConfig, ShieldConfig
from safeguard.core.enums import Reference
from safeguard.core.errors import ConfigError, RobotError
from safeguard.core.types import ActionSpec, PositionCommand, TerminalStop, TorqueCommand, Vector
from safeguard.integrations.gym import MujocoPorts, ShieldedEnv, mujoco_ports
from safeguard.scenarios.push import READY
from tests.unit.gym_support import CONFIG, STILL, act

SERVO = (3000.0, 200.0)  # N·m/rad and N·m·s/rad


class Arm(MujocoEnv):
    """The Panda with motors or servos, as people write such environments: 20 frames of 1 ms with one control."""

    def __init__(self, path: Path) -> None:
        space = spaces.Box(-np.inf, np.inf, (14,), np.float64)
        self.metadata = {"render_modes": [], "render_fps": 50}
        super().__init__(str(path), 20, space)
        self.frames: list[tuple[Vector, Vector, Vector]] = []
        self.cost = 0.0

    def step(self, action: Any) -> Any:
        """Control, and a cost of it."""
        self.do_simulation(action, self.frame_skip)
        self.cost = float(np.square(action).sum())
        return self._state(), -self.cost, False, False, {}

    def reset_model(self) -> Any:
        """Ready."""
        self.set_state(np.array(READY), np.zeros(7))  # type: ignore[no-untyped-call]
        return self._state()

    def _step_mujoco_simulation(self, ctrl: Any, n_frames: int) -> None:
        for _ in range(n_frames):
            super()._step_mujoco_simulation(ctrl, 1)  # type: ignore[no-untyped-call]
            self.frames.append((self.data.ctrl.copy(), self.data.qpos.copy(), self.data.qvel.copy()))

    def _state(self) -> Any:
        return np.concatenate([self.data.qpos, self.data.qvel])


class Stubborn(Arm):
    """Advances its physics by itself."""

    def step(self, action: Any) -> Any:
        """Not by way of ``do_simulation``."""
        self._step_mujoco_simulation(action, self.frame_skip)
        return self._state(), 0.0, False, False, {}


@pytest.fixture(scope="module")
def robot() -> RobotModel:
    """The arm whose twin moves in these environments."""
    return RobotModel.load("panda")


def written(robot: RobotModel, path: Path, *, servos: bool = False) -> Path:
    """The twin as an MJCF file, with motors, or with position servos."""
    spec = robot.to_mujoco()
    spec.option.timestep = 0.001
    for actuator, tau in zip(spec.actuators, robot.limits.tau_max, strict=True):
        actuator.ctrllimited, actuator.ctrlrange = True, [-tau, tau]
        if servos:
            actuator.set_to_position(kp=SERVO[0], kv=SERVO[1])
            actuator.ctrllimited, actuator.ctrlrange = True, [-7.0, 7.0]
            actuator.forcelimited = False
    spec.compile()
    path.write_text(spec.to_xml(), "utf-8")
    return path


@pytest.fixture(scope="module")
def motors(robot: RobotModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with motors."""
    return written(robot, tmp_path_factory.mktemp("motors") / "panda.xml")


def velocities(robot: RobotModel) -> ActionSpec:
    """Shares of the speed limits, 50 times a second."""
    return ActionSpec(
        robot.joints, "rad/s", Reference.VELOCITY, 50.0, scale=tuple(robot.limits.v_max), low=-1.0, high=1.0
    )


@pytest.fixture
def env(robot: RobotModel, motors: Path) -> Iterator[ShieldedEnv]:
    """A shield that decides every 2 ms of a step of 20 ms."""
    arm = Arm(motors)
    made = ShieldedEnv(arm, robot, velocities(robot), ports=mujoco_ports(arm, robot, period=0.002), config=CONFIG)
    yield made
    made.close()


def arm(env: ShieldedEnv) -> Arm:
    """The environment inside."""
    found = env.unwrapped
    assert isinstance(found, Arm)
    return found


def test_the_shield_decides_at_every_control_period_of_a_step(env: ShieldedEnv) -> None:
    """Ten decisions for twenty frames, and each frame ran with the torque of the decision before it."""
    sent: list[Vector] = []
    decide = env.shield.step

    def watched(observation: Any, now: int | None = None) -> Any:
        decision = decide(observation, now)
        assert isinstance(decision.command, TorqueCommand)
        sent.append(decision.command.tau)
        return decision

    env.reset()
    env.shield.step = watched  # type: ignore[method-assign]
    said = act(env, 0.3 * np.ones(7))

    assert (said["ticks"], len(sent), len(arm(env).frames)) == (10, 10, 20)
    assert np.array([control for control, _, _ in arm(env).frames]) == pytest.approx(np.repeat(sent, 2, axis=0))


def test_random_actions_keep_the_limits_in_every_frame(env: ShieldedEnv, robot: RobotModel) -> None:
    """MuJoCo's own speeds, positions and contacts, frame by frame, over two seconds of random actions."""
    env.action_space.seed(1)
    env.reset()
    arm(env).frames.clear()
    for _ in range(100):
        env.step(env.action_space.sample())
    controls, q, v = (np.array(part) for part in zip(*arm(env).frames, strict=True))

    assert len(q) == 2000
    assert (np.abs(v) <= robot.limits.v_max).all()
    assert np.abs(v).max() > 0.5
    assert ((q >= robot.limits.q_min) & (q <= robot.limits.q_max)).all()
    assert (np.abs(controls) <= robot.limits.tau_max).all()


def test_the_environment_sees_the_agents_action_only_where_it_is_one_of_its_own(env: ShieldedEnv) -> None:
    """The cost of control is the action's; for one that is refused the environment is told to do nothing."""
    env.reset()
    _, reward, *_ = env.step(np.full(7, 0.5))
    _, refused, _, _, info = env.step(np.full(7, np.nan))

    assert reward == pytest.approx(-7 * 0.25)
    assert (refused, info["safeguard"]["intervention"]) == (0.0, 1.0)


def test_an_action_outside_the_environments_own_range_is_not_told(env: ShieldedEnv) -> None:
    """The agent's range is the spec's; where the environment's is smaller, it is told what is next to zero in it."""
    arm(env).action_space = spaces.Box(0.1, 0.3, (7,), np.float32)
    env.reset()
    _, inside, *_ = env.step(np.full(7, 0.2))
    _, outside, *_ = env.step(np.full(7, 0.5))

    assert (inside, outside) == pytest.approx((-7 * 0.04, -7 * 0.01))


def test_the_environment_is_itself_again_after_a_step(env: ShieldedEnv) -> None:
    """``do_simulation`` is replaced while a step lasts, and no longer."""
    env.reset()
    act(env, STILL)
    before = len(arm(env).frames)
    arm(env).do_simulation(STILL, 3)

    assert len(arm(env).frames) == before + 3


def test_a_terminal_stop_engages_brakes(robot: RobotModel, motors: Path) -> None:
    """Without any torque the arm stays where it is within 5 mrad for half a second; after a reset it is free."""
    bare = Arm(motors)
    ports = MujocoPorts(bare, robot, period=0.002)
    bare.reset()
    start = bare.data.qpos.copy()
    ports.play(STILL, 10, lambda: TerminalStop("test", 0, 0))
    for _ in range(24):
        ports.play(STILL, 10, lambda: TerminalStop("test", 0, 0))
    assert np.abs(bare.data.qpos - start).max() < 5e-3

    ports.reset()
    ports.play(STILL, 10, lambda: TorqueCommand(STILL, 0, 1, 0))
    assert np.abs(bare.data.qvel).max() > 0.1


def test_position_servos_get_the_reference(robot: RobotModel, tmp_path: Path) -> None:
    """With ``drive.interface`` position the controls are joint positions, and the arm follows within its margin."""
    servo = Arm(written(robot, tmp_path / "servo.xml", servos=True))
    filters = CONFIG.filter.model_copy(update={"margins": MarginConfig(position_rad=0.05)})
    config = ShieldConfig(filter=filters, drive=DriveConfig(interface="position", tracking_error_rad=0.05))
    env = ShieldedEnv(servo, robot, velocities(robot), ports=mujoco_ports(servo, robot, period=0.002), config=config)
    env.reset()
    said = act(env, 0.2 * np.ones(7), 40)

    control, q, v = servo.frames[-1]
    assert np.abs(control - q).max() < 0.05
    assert said["shielded"] == pytest.approx(0.2 * np.ones(7), abs=0.02)
    assert v / robot.limits.v_max == pytest.approx(0.2 * np.ones(7), abs=0.05)


def test_a_command_of_the_other_kind_is_a_mistake(robot: RobotModel, motors: Path) -> None:
    """Motors that are sent positions: the error names the joint and the setting."""
    bare = Arm(motors)
    ports = MujocoPorts(bare, robot)
    bare.reset()
    with pytest.raises(ConfigError, match=r"panda_joint1.*torque drive.*position command.*drive\.interface"):
        ports.play(STILL, 20, lambda: PositionCommand(STILL, 0, 1, 0))


def test_an_environment_that_does_not_simulate_through_the_hook_is_refused(robot: RobotModel, motors: Path) -> None:
    """It would move the robot unshielded."""
    env = Stubborn(motors)
    made = ShieldedEnv(env, robot, velocities(robot), ports=mujoco_ports(env, robot, period=0.002), config=CONFIG)
    made.reset()
    with pytest.raises(ConfigError, match="simulated 0 control periods through do_simulation, expected 10"):
        made.step(STILL)


@pytest.mark.parametrize("period", [0.0015, 0.003, 0.03, 0.0001])
def test_a_period_that_the_physics_does_not_divide_is_refused(robot: RobotModel, motors: Path, period: float) -> None:
    """And the message has the physics step and the number of frames."""
    with pytest.raises(ConfigError, match=r"physics step of 0\.001 s that divides the environment's step of 20 frames"):
        mujoco_ports(Arm(motors), robot, period=period)


def test_a_model_without_the_robots_joints_is_refused(robot: RobotModel, motors: Path, tmp_path: Path) -> None:
    """By name; so is a joint without a drive of its own."""
    text = motors.read_text("utf-8")
    other = tmp_path / "other.xml"
    other.write_text(text.replace('"panda_joint3"', '"elbow"'), "utf-8")
    with pytest.raises(RobotError, match="no joint panda_joint3"):
        mujoco_ports(Arm(other), robot)

    spec = mujoco.MjSpec.from_file(str(motors))
    spec.delete(spec.actuators[2])
    spec.compile()
    other.write_text(spec.to_xml(), "utf-8")
    with pytest.raises(RobotError, match="'panda_joint3' has 0 actuators"):
        mujoco_ports(Arm(other), robot)


def test_what_is_no_mujoco_environment_is_refused(robot: RobotModel) -> None:
    """With the two other ways in."""
    from tests.unit.gym_support import Slab

    with pytest.raises(ConfigError, match="no MujocoEnv"):
        mujoco_ports(Slab([READY]), robot)
