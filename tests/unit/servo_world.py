"""A robot with position servos in MuJoCo: kp (target − q) − kd v, clamped to the drive's torque."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from safeguard.controllers import ArmPlatform
from safeguard.core.config import BrakeConfig, ClearanceConfig, DriveConfig, FilterConfig, MarginConfig
from safeguard.core.robot import RobotModel
from safeguard.core.types import Command, PositionCommand, RobotState, Vector, frozen_array
from safeguard.scenarios.referee import Judgement, Referee

DT = 0.002

# (kp, kd, declared tracking error). Panda: stiff, near critical damping. SO-101: its servos in MuJoCo Menagerie.
_PANDA_KP = np.array([12e3, 12e3, 8e3, 8e3, 2e3, 2e3, 1e3])
_PANDA_KD = 2.0 * np.sqrt(_PANDA_KP * np.array([1.5, 1.5, 1.0, 1.0, 0.3, 0.2, 0.1]))
SERVOS = {"panda": (_PANDA_KP, _PANDA_KD, 0.1), "so101": (np.full(6, 998.22), np.full(6, 2.731), 0.05)}
_KEPT = {"panda": (0.010, 0.015, 0.006), "so101": (0.002, 0.004, 0.003)}  # the jaw of SO-101 is 1 cm from its wrist


@cache
def load(name: str) -> RobotModel:
    """A robot of the library."""
    return RobotModel.load(name)


def platform(name: str) -> ArmPlatform:
    """Its platform with position drives, with margins that cover what the drives lag."""
    error, (hard, floor, buffer) = SERVOS[name][2], _KEPT[name]
    config = FilterConfig(
        brake=BrakeConfig(samples=100),
        margins=MarginConfig(position_rad=error, velocity_share=0.1),
        clearance=ClearanceConfig(hard_floor_m=hard, floor_m=floor, buffer_m=buffer),
    )
    return ArmPlatform(load(name), DT, config, DriveConfig(interface="position", tracking_error_rad=error))


class ServoWorld:
    """The robot at home, its servos told to stay there; physics at 1 ms.

    Attributes:
        lag: largest distance of a joint from its target at the end of a period, rad.
        judgement: what the referee saw.
    """

    def __init__(self, name: str) -> None:
        import mujoco

        self._mj, self.robot = mujoco, load(name)
        kp, kd, _ = SERVOS[name]
        spec: Any = self.robot.to_mujoco()
        for k, actuator in enumerate(spec.actuators):
            actuator.gaintype, actuator.biastype = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_AFFINE
            actuator.gainprm[0], actuator.biasprm[1], actuator.biasprm[2] = kp[k], -kp[k], -kd[k]
            actuator.forcelimited = True
            actuator.forcerange = [-self.robot.limits.tau_max[k], self.robot.limits.tau_max[k]]
        spec.option.timestep, spec.option.integrator = 0.001, mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        self.model: Any = spec.compile()
        self.data: Any = mujoco.MjData(self.model)
        joints = [self.model.joint(joint) for joint in self.robot.joints]
        self._q = np.array([int(joint.qposadr[0]) for joint in joints])
        self._v = np.array([int(joint.dofadr[0]) for joint in joints])
        self._u = np.array([int(self.model.actuator(joint).id) for joint in self.robot.joints])
        self.data.qpos[self._q] = self.data.ctrl[self._u] = self.robot.home
        mujoco.mj_forward(self.model, self.data)
        self.time_ns, self.lag = 0, 0.0
        self._applied = np.zeros(self.robot.n)
        self._referee = Referee(self.robot, self)

    @property
    def applied_torque(self) -> Vector:
        """Largest |torque| of each drive in the last period, N·m."""
        return self._applied

    @property
    def judgement(self) -> Judgement:
        """The referee's account so far."""
        return self._referee.judgement()

    def state(self) -> RobotState:
        """An exact measurement."""
        return RobotState(self.data.qpos[self._q], self.data.qvel[self._v], self.time_ns)

    def run(self, command: Command) -> None:
        """One period; a servo ignores a target that is no number."""
        if isinstance(command, PositionCommand) and np.isfinite(command.q).all():
            self.data.ctrl[self._u] = command.q
        applied = np.zeros(self.robot.n)
        for _ in range(round(DT / 0.001)):
            self._mj.mj_step(self.model, self.data)
            np.maximum(applied, np.abs(self.data.qfrc_actuator[self._v]), out=applied)
            self.time_ns += 1_000_000
            self._referee.sample()
        self._applied = frozen_array(applied)
        self._referee.observe()
        self.lag = max(self.lag, float(np.abs(self.data.ctrl[self._u] - self.data.qpos[self._q]).max()))


Wish = Callable[[int, RobotState], Vector]


def _random(robot: RobotModel) -> Wish:
    rng, kept = np.random.default_rng(1), dict[int, Vector]()

    def wish(k: int, at: RobotState) -> Vector:
        return kept.setdefault(k // 50, rng.uniform(-3.0, 3.0, robot.n) * robot.limits.a_max)

    return wish


def _bang(robot: RobotModel) -> Wish:
    rng, kept = np.random.default_rng(2), dict[int, Vector]()

    def wish(k: int, at: RobotState) -> Vector:
        return kept.setdefault(k // 200, 50.0 * np.sign(rng.uniform(-1.0, 1.0, robot.n)))

    return wish


def _beyond(robot: RobotModel) -> Wish:
    def wish(k: int, at: RobotState) -> Vector:
        side = np.where((np.arange(robot.n) + k // 300) % 2, 4.0, -4.0)
        return 225.0 * (robot.home + side - at.q) - 30.0 * at.v

    return wish


def _folded(robot: RobotModel) -> Wish:
    rng, kept, limits = np.random.default_rng(4), dict[int, Vector](), robot.limits

    def wish(k: int, at: RobotState) -> Vector:
        return 225.0 * (kept.setdefault(k // 300, rng.uniform(limits.q_min, limits.q_max)) - at.q) - 30.0 * at.v

    return wish


def _nan(robot: RobotModel) -> Wish:
    rng = np.random.default_rng(3)

    def wish(k: int, at: RobotState) -> Vector:
        return rng.uniform(-20.0, 20.0, robot.n) * (np.nan if k % 7 == 3 else 1.0)

    return wish


ADVERSARIES = {"random": _random, "bang-bang": _bang, "beyond the limits": _beyond, "folded": _folded, "NaN": _nan}
"""Accelerations that nobody should follow; ``folded`` heads for configurations that collide."""
