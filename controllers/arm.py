"""The arm platform: a fixed-base robot with drives that take torques or positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from safeguard.controllers.filter import SafetyFilter
from safeguard.controllers.servo import ServoReference
from safeguard.controllers.task import TaskSpace
from safeguard.core.config import DriveConfig, FilterConfig
from safeguard.core.enums import FilterStatus, NominalKind, SolverStatus
from safeguard.core.errors import ConfigError
from safeguard.core.robot import RobotModel
from safeguard.core.types import (
    FULL_ENVELOPE,
    BodyIdentity,
    Command,
    Envelope,
    FilterResult,
    JointLimits,
    Margins,
    Nominal,
    PositionCommand,
    RobotState,
    TerminalStop,
    TorqueCommand,
    Vector,
    frozen_array,
)

_FAR_OUTSIDE_RAD = 0.2  # a measured position this far beyond a limit is a sensor fault
_STANDING_GAIN = 20.0  # 1/s; damping where an unshielded run has no proposal yet
_FAR_OUTSIDE_SPEED = 2.0  # likewise this many times the speed limit


class ArmPlatform:
    """Braking platform: every command is committed together with a verified stop.

    Its terminal stop is safe torque off with the brakes engaged.

    Args:
        robot: the model.
        dt: control period, s.
        config: of the safety filter.
        drive: torque drives by default. Position drives get the verified reference of the filter, and the filter
            works on that reference; the measured state says whether they follow (``controllers/servo.py``).

    Raises:
        ConfigError: position drives may be further from their reference than the filter keeps from the limits.
    """

    guarantee = "braking"

    def __init__(
        self,
        robot: RobotModel,
        dt: float = 0.002,
        config: FilterConfig | None = None,
        drive: DriveConfig | None = None,
    ) -> None:
        self.robot, self.drive = robot, drive or DriveConfig()
        self.safety_filter = SafetyFilter(robot, dt, config)
        self._task = TaskSpace(robot, dt, self.safety_filter.config.task)
        self._servo: ServoReference | None = None
        if self.drive.interface == "position":
            self._servo = _servo(robot, dt, self.drive, self.safety_filter.config)
        limits = robot.limits
        low, high = limits.q_min - _FAR_OUTSIDE_RAD, limits.q_max + _FAR_OUTSIDE_RAD
        self._far = (low, high, _FAR_OUTSIDE_SPEED * limits.v_max)
        self._margins = Margins(float("nan"), float("nan"), float("nan"), float("nan"), "")

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the controlled joints, in order."""
        return self.robot.joints

    @property
    def v_max(self) -> Vector:
        """Speed limits, shape (n,), rad/s."""
        return self.robot.limits.v_max

    @property
    def a_max(self) -> Vector:
        """Acceleration limits, shape (n,), rad/s²."""
        return self.robot.limits.a_max

    @property
    def rest(self) -> RobotState:
        """The robot's home configuration at rest."""
        return RobotState(self.robot.home, np.zeros(self.robot.n), 0)

    def planned(self, state: RobotState) -> RobotState:
        """The measured state; what position drives were told last."""
        return state if self._servo is None else self._servo.planned(state)

    def filter(self, state: RobotState, nominal: Nominal, envelope: Envelope = FULL_ENVELOPE) -> FilterResult:
        """See ``SafetyFilter.apply``. Position drives that do not follow are answered by the backup."""
        servo = self._servo
        if servo is None:
            return self.safety_filter.apply(state, nominal, envelope)
        at = self._begin(servo, state)
        if why := servo.astray(state, at):
            return servo.targeted(replace(self.safety_filter.backup(at), refusal=why), self.safety_filter.plan)
        return servo.targeted(self.safety_filter.apply(at, nominal, envelope), self.safety_filter.plan)

    def backup(self, state: RobotState | None) -> FilterResult:
        """See ``SafetyFilter.backup``. The reference of position drives is known without a measurement."""
        servo = self._servo
        if servo is None:
            return self.safety_filter.backup(state)
        at = servo.begin(None) if state is None else self._begin(servo, state)
        if at is None:
            return self.safety_filter.refused("it is not known what the position drives were told")
        return servo.targeted(self.safety_filter.backup(at), self.safety_filter.plan)

    def _begin(self, servo: ServoReference, state: RobotState) -> RobotState:
        """The reference at the start of this tick; where there is none, the measured state becomes it."""
        at = servo.begin(state)
        if at is None:
            self.reset(state)
            at = servo.begin(state)
            assert at is not None
        return at

    def bypass(self, state: RobotState, nominal: Nominal | None) -> FilterResult:
        """The nominal as torque or position, whatever it is, or damping without one. Outside law 1."""
        at = self.planned(state)
        standing = Nominal(NominalKind.ACCELERATION, -_STANDING_GAIN * at.v)
        nominal = standing if nominal is None else nominal
        a, n = self._raw_acceleration(at, nominal), self.robot.n
        result = FilterResult(
            torque=frozen_array(self._raw_torque(at, nominal, a)),
            acceleration=frozen_array(np.full(n, np.nan)),
            status=FilterStatus.BYPASSED,
            solver=SolverStatus.SKIPPED,
            source="proposal",
            slack=(),
            active=(),
            margins=self._margins,
            effort=0.0,
        )
        if self._servo is None:
            return result
        if nominal.kind is NominalKind.POSITION:
            return replace(result, position=frozen_array(nominal.value), velocity=frozen_array(np.zeros(n)))
        return self._servo.moved(
            result, at, self.safety_filter.dynamics.acceleration(result.torque) if a is None else a
        )

    def stopped(self, reason: str) -> FilterResult:
        """The result of a tick that ends in the terminal stop."""
        return self.safety_filter.refused(reason)

    def command(self, result: FilterResult, now: int, expires: int, seq: int) -> Command:
        """The filter's torque or reference, or the terminal stop if even the backup was refused."""
        if self._servo is not None:
            self._servo.told(result)
        if result.status is FilterStatus.REFUSED:
            return self.terminal_stop(result.refusal, now, seq)
        if self._servo is None:
            return TorqueCommand(result.torque, now, expires, seq)
        if result.position is None:
            return self.terminal_stop("no reference for the position drives", now, seq)
        return PositionCommand(result.position, now, expires, seq)

    def terminal_stop(self, reason: str, now: int, seq: int) -> Command:
        """Safe torque off; the brakes engage."""
        return TerminalStop(reason, now, seq)

    def plausible(self, state: RobotState) -> str | None:
        """Why ``state`` cannot be a measurement of this arm, or None."""
        n, limits = self.robot.n, self.robot.limits
        q, v = state.q, state.v
        if q.shape == v.shape == (n,):
            low, high, fast = self._far
            if ((q >= low) & (q <= high) & (np.abs(v) <= fast)).all():  # False for NaN
                return None
        if state.q.shape != (n,) or state.v.shape != (n,):
            return f"state has shapes {state.q.shape} and {state.v.shape}, expected ({n},)"
        if not (np.isfinite(state.q).all() and np.isfinite(state.v).all()):
            return "state is not finite"
        outside = np.maximum(limits.q_min - state.q, state.q - limits.q_max)
        if outside.max() > _FAR_OUTSIDE_RAD:
            j = int(outside.argmax())
            return f"{self.joints[j]} at {state.q[j]:.3f} rad is {outside[j]:.3f} rad outside its limits"
        fast = np.abs(state.v) / limits.v_max
        if fast.max() > _FAR_OUTSIDE_SPEED:
            j = int(fast.argmax())
            return f"{self.joints[j]} at {state.v[j]:.3f} rad/s is {fast[j]:.1f} times its limit"
        return None

    def standstill(self, state: RobotState) -> bool:
        """Every joint is slower than the configured standstill speed."""
        return bool(np.abs(state.v).max() < self.safety_filter.config.standstill_radps)

    def reset(self, state: RobotState | None = None) -> str:
        """See ``SafetyFilter.reset``. The stop of position drives starts from what they were told last, if anything."""
        if self._servo is None:
            return self.safety_filter.reset(state)
        if state is None:
            self._servo.forget()
            return self.safety_filter.reset()
        return self.safety_filter.reset(self._servo.anchor(state))

    def identity(self) -> BodyIdentity:
        """The robot model with its limits and their provenance."""
        robot, limits = self.robot, self.robot.limits
        fields = {"lower": "q_min", "upper": "q_max", "velocity": "v_max", "torque": "tau_max", "acceleration": "a_max"}
        provenance = {name: limits.provenance[field] for name, field in fields.items()}
        joints = tuple(
            JointLimits(
                joint=joint,
                lower=float(limits.q_min[i]),
                upper=float(limits.q_max[i]),
                velocity=float(limits.v_max[i]),
                torque=float(limits.tau_max[i]),
                acceleration=float(limits.a_max[i]),
                provenance=provenance,
            )
            for i, joint in enumerate(robot.joints)
        )
        clearance = self.safety_filter.config.clearance.floor_m
        return BodyIdentity(robot.name, robot.digest, robot.source, joints, clearance)

    def _raw_acceleration(self, state: RobotState, nominal: Nominal) -> Vector | None:
        """What ``nominal`` asks for, rad/s²; None if it asks for a torque."""
        match nominal.kind:
            case NominalKind.ACCELERATION:
                return nominal.value
            case NominalKind.VELOCITY:
                return (nominal.value - state.v) / self.safety_filter.dt
            case NominalKind.TWIST | NominalKind.POSE:
                a, _ = self._task.wanted(state, nominal)
                return np.full(self.robot.n, np.nan) if a is None else a
            case NominalKind.TORQUE | NominalKind.POSITION:
                return None
            case NominalKind.ROWS:
                return np.full(self.robot.n, np.nan)

    def _raw_torque(self, state: RobotState, nominal: Nominal, a: Vector | None) -> Vector:
        dynamics = self.safety_filter.dynamics
        dynamics.during(state.q, state.v, self.safety_filter.dt)
        if a is not None:
            return dynamics.torque(a)
        if nominal.kind is NominalKind.TORQUE:
            return nominal.value
        kp = np.zeros(self.robot.n) if nominal.kp is None else nominal.kp
        kd = np.zeros(self.robot.n) if nominal.kd is None else nominal.kd
        return kp * (nominal.value - state.q) - kd * state.v


def _servo(robot: RobotModel, dt: float, drive: DriveConfig, config: FilterConfig) -> ServoReference:
    kept, error = config.margins.position_rad, drive.tracking_error_rad
    if config.delay_ticks:
        raise ConfigError(
            f"delay_ticks = {config.delay_ticks}: the reference of position drives has no delay; leave it at 0 "
            "there and let drive.tracking_error_rad cover what the drives lag behind"
        )
    if kept < error:
        raise ConfigError(
            f"margins.position_rad = {kept}: position drives may be drive.tracking_error_rad = {error} from what they "
            "were told; keep at least that from the limits, or declare drives that follow more closely"
        )
    return ServoReference(robot.joints, dt, error)
