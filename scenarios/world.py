"""The simulated world: a robot with torque drives and brakes, and a task around it, in MuJoCo.

The drives are naive on purpose. They execute any finite torque, however large, so that a referee sees
what a command stream really does; they judge nothing but a command's age.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from safeguard.core.errors import ConfigError, MissingExtraError
from safeguard.core.types import (
    NS_PER_S,
    Command,
    Observation,
    RobotState,
    Sensor,
    TerminalStop,
    TorqueCommand,
    Vector,
    frozen_array,
)

if TYPE_CHECKING:
    from safeguard.core.robot import RobotModel

_BRAKE_OVER_DRIVE = 2.0  # a brake holds twice what the drive can give
_BRAKE_SOLREF, _BRAKE_SOLIMP = (
    (0.004, 1.0),
    (0.9999, 0.9999, 0.001, 0.5, 2.0),
)  # MuJoCo's hardest: no visible creep
_LARGEST_CONTROL = 1e10  # MuJoCo's mjMAXVAL: it refuses controls beyond it, and NaN


class Task(Protocol):
    """What stands around the robot and what it is for."""

    def build(self, robot: RobotModel, spec: Any) -> None:
        """Add bodies and contact pairs to the ``mujoco.MjSpec``."""
        ...

    def bind(self, robot: RobotModel, model: Any) -> None:
        """Look up addresses in the compiled model."""
        ...

    def reset(self, data: Any, rng: np.random.Generator) -> Vector:
        """Place the bodies; returns where the arm starts, shape (n,), rad."""
        ...

    def sensors(self, data: Any, t: int) -> Mapping[str, Sensor]:
        """What is seen of the task at ``t`` ns."""
        ...

    def succeeded(self, data: Any) -> bool:
        """The task is done and at rest in this state."""
        ...


class World:
    """A robot and a task, advanced one control period at a time.

    Args:
        robot: whose twin moves here; compiled without joint stops and torque clamps.
        task: what stands around it; nothing if None.
        period: control period, s.
        physics_dt: time step of MuJoCo, s; a whole fraction of ``period``.

    Attributes:
        model, data: the compiled ``mujoco.MjModel`` and its ``MjData``.
        on_physics_step: called after every step of the physics, for a referee.
        rejected_commands: torque commands that MuJoCo refuses (NaN, or beyond 1e10), since the reset.

    Raises:
        ConfigError: the periods do not fit each other.
        MissingExtraError: MuJoCo is not installed.
    """

    def __init__(
        self, robot: RobotModel, task: Task | None = None, *, period: float = 0.002, physics_dt: float = 0.001
    ) -> None:
        self.robot, self.task = robot, task
        self._period_ns, self._step_ns = round(period * NS_PER_S), round(physics_dt * NS_PER_S)
        if self._step_ns <= 0 or self._period_ns < self._step_ns or self._period_ns % self._step_ns:
            raise ConfigError(f"period={period} s must be a positive multiple of physics_dt={physics_dt} s")
        self.on_physics_step: Callable[[], None] | None = None
        self.model, self._mj = _compile(robot, task, physics_dt)
        self.data: Any = self._mj.MjData(self.model)
        joints = [self.model.joint(name) for name in robot.joints]
        self._q = np.array([int(joint.qposadr[0]) for joint in joints])
        self._v = np.array([int(joint.dofadr[0]) for joint in joints])
        self._u = np.array([int(self.model.actuator(name).id) for name in robot.joints])
        self._friction: Vector = self.model.dof_frictionloss[self._v].copy()
        self.model.dof_solref[self._v], self.model.dof_solimp[self._v] = _BRAKE_SOLREF, _BRAKE_SOLIMP
        self.reset(0)

    @property
    def period_ns(self) -> int:
        """Control period, ns."""
        return self._period_ns

    @property
    def time_ns(self) -> int:
        """Simulated time since the reset, ns."""
        return self._time

    @property
    def braked(self) -> bool:
        """The brakes are engaged: no command yet, the last one ran out, or it was a terminal stop."""
        return self._braked

    @property
    def applied_torque(self) -> Vector:
        """Largest |drive torque| of each joint over the last period, shape (n,), N·m; 0 while braked."""
        return self._applied

    @property
    def succeeded(self) -> bool:
        """The task is done and at rest now; False without a task."""
        return self.task is not None and self.task.succeeded(self.data)

    def reset(self, seed: int) -> None:
        """Start an episode: brakes on, time 0, the task's initial state for ``seed``."""
        self._mj.mj_resetData(self.model, self.data)
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        q = self.robot.home if self.task is None else self.task.reset(self.data, rng)
        self.data.qpos[self._q] = q
        self._time, self._expires = 0, -1
        self.rejected_commands = 0
        self._applied = frozen_array(np.zeros(self.robot.n))
        self._set_brakes(on=True)
        self._mj.mj_forward(self.model, self.data)

    def observe(self) -> Observation:
        """Exact measurement of the present state, stamped now."""
        state = RobotState(self.data.qpos[self._q], self.data.qvel[self._v], self._time)
        return Observation(state, {} if self.task is None else self.task.sensors(self.data, self._time))

    def apply(self, command: Command) -> None:
        """Hand a command to the drives; it holds until the next one or until it expires.

        A torque reaches the joints bit for bit. One that MuJoCo refuses is counted and has the effect it has
        there: MuJoCo then runs with every control at zero.

        Raises:
            ConfigError: these drives take torques, one for each joint, and terminal stops.
        """
        match command:
            case TerminalStop():
                self._expires = -1
                self._set_brakes(on=True)
            case TorqueCommand(tau=tau, expires=expires):
                if tau.shape != (self.robot.n,):
                    raise ConfigError(f"torque command of shape {tau.shape} for {self.robot.n} joints")
                accepted = bool((np.abs(tau) <= _LARGEST_CONTROL).all())
                self.rejected_commands += not accepted
                self._expires = expires
                self._set_brakes(on=False)
                self.data.ctrl[self._u] = tau if accepted else 0.0
            case _:
                kind = type(command).__name__
                raise ConfigError(f"the world's drives take TorqueCommand or TerminalStop, got {kind}")

    def advance(self) -> None:
        """Let one control period pass."""
        applied = np.zeros(self.robot.n)
        for _ in range(self._period_ns // self._step_ns):
            if self._time > self._expires:
                self._set_brakes(on=True)
            self._mj.mj_step(self.model, self.data)
            np.maximum(applied, np.abs(self.data.qfrc_actuator[self._v]), out=applied)
            self._time += self._step_ns
            if self.on_physics_step is not None:
                self.on_physics_step()
        self._applied = frozen_array(applied)

    def _set_brakes(self, *, on: bool) -> None:
        """Engage or release: a brake is dry friction, and the drive behind it is off."""
        self._braked = on
        grip = _BRAKE_OVER_DRIVE * self.robot.limits.tau_max if on else 0.0
        self.model.dof_frictionloss[self._v] = self._friction + grip
        if on:
            self.data.ctrl[self._u] = 0.0


def _compile(robot: RobotModel, task: Task | None, physics_dt: float) -> tuple[Any, Any]:
    try:
        import mujoco
    except ImportError as error:
        raise MissingExtraError("World", "sim") from error
    spec = robot.to_mujoco()
    if task is not None:
        task.build(robot, spec)
    # Explicit Euler at 1 ms. Largest |v − (v₀ + a·2 ms)| of 300 random states up to 80 % speed and full
    # acceleration: 3.5e-4 rad/s; with implicit damping or implicitfast 5.5e-4; with RK4 7.0e-4 (what the
    # prediction itself is off) at three times the cost. The arm's damping (1 N·m·s/rad) is not stiff.
    spec.option.timestep = physics_dt
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_EULER
    spec.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_EULERDAMP)
    model = spec.compile()
    if task is not None:
        task.bind(robot, model)
    return model, mujoco
