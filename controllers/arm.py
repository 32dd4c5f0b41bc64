"""The arm platform: a fixed-base robot with torque-controlled joints."""

from __future__ import annotations

import numpy as np

from safeguard.controllers.filter import SafetyFilter
from safeguard.core.config import FilterConfig
from safeguard.core.enums import FilterStatus, NominalKind, SolverStatus
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
    """

    guarantee = "braking"

    def __init__(self, robot: RobotModel, dt: float = 0.002, config: FilterConfig | None = None) -> None:
        self.robot = robot
        self.safety_filter = SafetyFilter(robot, dt, config)
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
    def rest(self) -> RobotState:
        """The robot's home configuration at rest."""
        return RobotState(self.robot.home, np.zeros(self.robot.n), 0)

    def filter(self, state: RobotState, nominal: Nominal, envelope: Envelope = FULL_ENVELOPE) -> FilterResult:
        """See ``SafetyFilter.apply``."""
        return self.safety_filter.apply(state, nominal, envelope)

    def backup(self, state: RobotState | None) -> FilterResult:
        """See ``SafetyFilter.backup``."""
        return self.safety_filter.backup(state)

    def bypass(self, state: RobotState, nominal: Nominal | None) -> FilterResult:
        """The nominal as torque, whatever it is, or damping without one. Outside law 1."""
        standing = Nominal(NominalKind.ACCELERATION, -_STANDING_GAIN * state.v)
        tau = self._raw_torque(state, standing if nominal is None else nominal)
        return FilterResult(
            torque=frozen_array(tau),
            acceleration=frozen_array(np.full(self.robot.n, np.nan)),
            status=FilterStatus.BYPASSED,
            solver=SolverStatus.SKIPPED,
            source="proposal",
            slack=(),
            active=(),
            margins=self._margins,
            effort=0.0,
        )

    def stopped(self, reason: str) -> FilterResult:
        """The result of a tick that ends in the terminal stop."""
        return self.safety_filter.refused(reason)

    def command(self, result: FilterResult, now: int, expires: int, seq: int) -> Command:
        """The filter's torque, or the terminal stop if even the backup was refused."""
        if result.status is FilterStatus.REFUSED:
            return self.terminal_stop(result.refusal, now, seq)
        return TorqueCommand(result.torque, now, expires, seq)

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
        """See ``SafetyFilter.reset``."""
        return self.safety_filter.reset(state)

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

    def _raw_torque(self, state: RobotState, nominal: Nominal) -> Vector:
        dynamics = self.safety_filter.dynamics
        dynamics.update(state.q, state.v)
        match nominal.kind:
            case NominalKind.TORQUE:
                return nominal.value
            case NominalKind.ACCELERATION:
                return dynamics.torque(nominal.value)
            case NominalKind.VELOCITY:
                return dynamics.torque((nominal.value - state.v) / self.safety_filter.dt)
            case NominalKind.POSITION:
                kp = np.zeros(self.robot.n) if nominal.kp is None else nominal.kp
                kd = np.zeros(self.robot.n) if nominal.kd is None else nominal.kd
                return kp * (nominal.value - state.q) - kd * state.v
