"""Ports into environments that are built on Gymnasium's ``MujocoEnv``: the shield at every control period of a step.

Such an environment advances its physics in ``do_simulation(control, frames)``, with one control for many frames. While
the shield is at work that method is replaced: the shield decides before every control period, the frames of that period
follow, and the control that the environment wanted to send is dropped.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from safeguard.core.errors import ConfigError, RobotError
from safeguard.core.robot import RobotModel
from safeguard.core.types import Command, PositionCommand, TerminalStop, TorqueCommand, Vector
from safeguard.integrations.gym.ports import AnyEnv, State, Stepped, Tick, both, plain

_BRAKE_OVER_DRIVE = 2.0  # a brake holds twice what the drive can give
_BRAKE_SOLREF, _BRAKE_SOLIMP = (0.004, 1.0), (0.9999, 0.9999, 0.001, 0.5, 2.0)  # as hard as MuJoCo can: no creep


def mujoco_ports(
    env: AnyEnv, robot: RobotModel, *, period: float | None = None, state: State | None = None
) -> MujocoPorts:
    """Ports into ``env`` for ``robot``, whose joints are found by their names.

    Args:
        env: a ``gymnasium.envs.mujoco.MujocoEnv``, wrapped or not.
        robot: whose joints carry the names of the model's.
        period: control period, s, a whole multiple of the physics step; the physics step if None.
        state: where the robot is; read from the model if None.

    Raises:
        ConfigError: not such an environment, or a period that its physics does not divide.
        RobotError: a joint that the model lacks, or one without a drive of its own.
    """
    return MujocoPorts(env, robot, period=period, state=state)


class MujocoPorts:
    """See ``mujoco_ports``."""

    def __init__(
        self, env: AnyEnv, robot: RobotModel, *, period: float | None = None, state: State | None = None
    ) -> None:
        base: Any = env.unwrapped
        if not all(hasattr(base, name) for name in ("do_simulation", "model", "data", "frame_skip")):
            raise ConfigError(
                f"{type(base).__name__} is no MujocoEnv: it has no do_simulation, model, data or frame_skip. Give "
                "ShieldedEnv state= and command=, or ports= of your own"
            )
        self._env, self._base, self._state = env, base, state
        step = float(base.model.opt.timestep)
        self._frames = max(round((period or step) / step), 1)
        self._period = self._frames * step
        if abs(self._period - (period or step)) > 1e-9 or base.frame_skip % self._frames:
            raise ConfigError(
                f"period={period} s must be a multiple of the physics step of {step:g} s that divides the "
                f"environment's step of {base.frame_skip} frames"
            )
        self._q, self._v = _addresses(base.model, robot)
        self._drives = [_drive(base.model, name) for name in robot.joints]
        model = base.model
        self._free = tuple(
            part[self._v].copy() for part in (model.dof_frictionloss, model.dof_solref, model.dof_solimp)
        )
        self._grip = _BRAKE_OVER_DRIVE * robot.limits.tau_max

    @property
    def period(self) -> float:
        """Control period, s."""
        return self._period

    @property
    def ticks(self) -> int:
        """Control periods in one step of the environment."""
        return int(self._base.frame_skip) // self._frames

    def measure(self) -> tuple[Vector, Vector]:
        """The robot's state now."""
        if self._state is not None:
            return both(self._state(self._env))
        data = self._base.data
        return data.qpos[self._q].copy(), data.qvel[self._v].copy()

    def reset(self) -> None:
        """Release the brakes."""
        self._brake(on=False)

    def play(self, action: Vector | None, ticks: int, tick: Tick) -> Stepped:
        """One step of the environment, with a command before every ``period`` of it.

        The environment's ``step`` gets the agent's action if it is one of its own, for costs of control and the like,
        and otherwise zero, or what is next to it in its range.

        Raises:
            ConfigError: the environment's ``step`` did not simulate through ``do_simulation``, or for another time:
                then the robot moved unshielded, or the action did not last as long as its spec says.
        """
        asked = 0

        def simulate(control: Any, frames: int) -> None:
            nonlocal asked
            del control  # nothing but the shield's command reaches the robot
            for _ in range(frames // self._frames):
                asked += 1
                self._execute(tick())
                self._base._step_mujoco_simulation(self._base.data.ctrl.copy(), self._frames)

        self._base.do_simulation = simulate
        try:
            stepped = self._env.step(self._own(action))
        finally:
            del self._base.do_simulation
        if asked != ticks:
            raise ConfigError(
                f"{type(self._base).__name__}.step simulated {asked} control periods through do_simulation, expected "
                f"{ticks}: is rate_hz of the spec one over the environment's step?"
            )
        return plain(stepped)

    def _own(self, action: Vector | None) -> Any:
        space: Any = self._env.action_space
        if action is not None and action.shape == space.shape:
            own = action.astype(space.dtype)
            if space.contains(own):
                return own
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)

    def _execute(self, command: Command) -> None:
        self._brake(on=isinstance(command, TerminalStop))
        match command:
            case TorqueCommand(tau=values):
                kind = "torque"
            case PositionCommand(q=values):
                kind = "position"
            case TerminalStop():
                kind, values = "", self._grip
            case _:
                raise ConfigError(f"drives of MuJoCo take torques or positions, got {type(command).__name__}")
        for drive, value in zip(self._drives, values, strict=True):
            drive.send(self._base.data, kind, float(value))

    def _brake(self, *, on: bool) -> None:
        """A brake is dry friction, and the drive behind it is off."""
        model, (friction, solref, solimp) = self._base.model, self._free
        model.dof_frictionloss[self._v] = friction + (self._grip if on else 0.0)
        model.dof_solref[self._v] = _BRAKE_SOLREF if on else solref
        model.dof_solimp[self._v] = _BRAKE_SOLIMP if on else solimp


class _Drive:
    """One actuator of the model: a motor, or a position servo."""

    def __init__(self, index: int, joint: str, kind: str, gain: float) -> None:
        self.index, self.joint, self.kind, self.gain = index, joint, kind, gain

    def send(self, data: Any, kind: str, value: float) -> None:
        """A torque or position; "" switches a motor off, and a servo holds what it was told last."""
        if kind not in ("", self.kind):
            raise ConfigError(
                f"joint {self.joint!r} has a {self.kind} drive and got a {kind} command: set config.drive.interface"
            )
        if self.kind == "torque":
            data.ctrl[self.index] = value / self.gain if kind else 0.0
        elif kind:
            data.ctrl[self.index] = value


def _addresses(model: Any, robot: RobotModel) -> tuple[Any, Any]:
    known = {model.joint(k).name for k in range(model.njnt)}
    if missing := [name for name in robot.joints if name not in known]:
        raise RobotError(
            f"the environment's model has no joint {', '.join(missing)}; it has {', '.join(sorted(known))}"
        )
    joints = [model.joint(name) for name in robot.joints]
    return np.array([int(j.qposadr[0]) for j in joints]), np.array([int(j.dofadr[0]) for j in joints])


def _drive(model: Any, joint: str) -> _Drive:
    """The one actuator of ``joint``: a motor (torque = gear · gain · control) or a position servo with gear 1."""
    import mujoco

    number = int(model.joint(joint).id)
    on_joint = int(mujoco.mjtTrn.mjTRN_JOINT)
    found = [
        k for k in range(model.nu) if model.actuator_trntype[k] == on_joint and model.actuator_trnid[k, 0] == number
    ]
    if len(found) != 1:
        raise RobotError(f"joint {joint!r} has {len(found)} actuators in the environment's model, expected one")
    k = found[0]
    gear, gain = float(model.actuator_gear[k, 0]), float(model.actuator_gainprm[k, 0])
    fixed = model.actuator_gaintype[k] == int(mujoco.mjtGain.mjGAIN_FIXED) and not model.actuator_dyntype[k]
    if fixed and model.actuator_biastype[k] == int(mujoco.mjtBias.mjBIAS_NONE) and gear * gain != 0.0:
        return _Drive(k, joint, "torque", gear * gain)
    if fixed and model.actuator_biastype[k] == int(mujoco.mjtBias.mjBIAS_AFFINE) and gear == 1.0 and gain > 0.0:
        return _Drive(k, joint, "position", 1.0)
    raise RobotError(f"the actuator of joint {joint!r} is neither a motor nor a position servo with gear 1")
