"""The safety filter: the closest allowed motion, checked, and committed only together with a verified stop.

    minimise ½ ‖a − a_nom‖²  subject to
        |M a + h| ≤ τ_max                                torque
        a_low ≤ a ≤ a_high                               position, speed, acceleration (viability.py)
        C a ≥ b                                          self-collision of the nearest pairs (clearance.py)

The braking point comes first: it is where every bound is relaxed to (so the program always has a solution)
and what is left if anything after it fails. The relaxation of a clearance row is reported as slack. Torque is
never soft: whatever the program does, the checker refuses a torque beyond τ_max.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from safeguard.controllers.brake import StopPlan
from safeguard.controllers.checker import Checker
from safeguard.controllers.clearance import Clearance, ClearanceRows, Distances
from safeguard.controllers.dynamics import Dynamics
from safeguard.controllers.figures import figures
from safeguard.controllers.motor import TorqueBounds
from safeguard.controllers.posing import Posing
from safeguard.controllers.prediction import InFlight
from safeguard.controllers.program import TIGHTEN, Problem, Program
from safeguard.controllers.proposal import numbers
from safeguard.controllers.speed import SpeedCaps
from safeguard.controllers.stop_torque import StopTorque
from safeguard.controllers.viability import begins_and_ends_well, least_margins, next_state, slower, stop_position
from safeguard.core.certificate import Certificate
from safeguard.core.compiled import private
from safeguard.core.config import FilterConfig, SpeedConfig
from safeguard.core.enums import FilterStatus, Frame, NominalKind, SolverStatus
from safeguard.core.errors import ConfigError
from safeguard.core.robot import RobotModel
from safeguard.core.types import (
    FULL_ENVELOPE,
    NS_PER_S,
    Envelope,
    FilterResult,
    Margins,
    Nominal,
    RobotState,
    Vector,
    everywhere,
    frozen_array,
    sealed,
)

_FEEDBACK = 1.0 - 1e-6  # share of the limits that feedback may fill; the rest is rounding
_WANTS = 0.05  # share of the acceleration limits; a proposal of less does not ask for motion
_KINDS = tuple(map(NominalKind, ("torque", "acceleration", "velocity", "position", "twist", "pose")))


@dataclass(slots=True)
class _Motion:
    """A candidate for commitment."""

    a: Vector
    tau: Vector
    plan: StopPlan


class SafetyFilter:
    """Filters joint motion of a fixed-base arm under stated assumptions (docs/concepts/assumptions.md).

    Args:
        robot: the model.
        dt: control period, s; a command is held for so long.
        config: margins, clearances, braking and solver settings.
        solver, certificate, delay_ticks: instead of those in ``config``.

    Call it once per period; it keeps the verified stop between calls.
    """

    def __init__(
        self,
        robot: RobotModel,
        dt: float = 0.002,
        config: FilterConfig | None = None,
        *,
        solver: Literal["osqp", "daqp"] | None = None,
        certificate: Certificate | None = None,
        delay_ticks: int | None = None,
    ) -> None:
        if not 0.0 < dt <= 0.02:
            raise ConfigError(f"dt = {dt} s: the control period must lie in (0, 0.02] s")
        self.config = config = _configured(config or FilterConfig(), solver, certificate, delay_ticks)
        self.robot, self.dt, self._dt_ns = robot, dt, round(dt * NS_PER_S)
        self.figures = made = figures(robot, dt, config)
        self.a_brake = made.a_brake
        self.dynamics = Dynamics(robot)
        self._in_flight = InFlight(self.dynamics, config.delay_ticks, dt)
        self._clearance = Clearance(robot, config.clearance, made.tube)
        self._speed = _speed_caps(robot, made.a_brake, dt, config.speed)
        self._program = Program(robot, config, dt, self._speed.names if self._speed else ())
        self._checker = Checker(robot.limits, robot.joints, made.a_brake, dt)
        self._feedback_torque = TorqueBounds(robot.limits, _FEEDBACK, dt)
        self._pose = Posing(robot, dt, config, made, self.dynamics, self._clearance, self._speed, self._checker)
        self._stop_share = made.tau_stop / robot.limits.tau_max
        fastest = TorqueBounds(robot.limits, 1.0, dt).along(np.full(robot.n, np.inf))
        self._stop_torque = StopTorque(robot, made.a_brake, np.minimum(made.tau_stop, self._stop_share * fastest))
        self._planned, limits = (private(made.q_min), private(made.q_max), private(made.v_most)), robot.limits
        self._limits = private(limits.q_min), private(limits.q_max), private(limits.v_max), private(limits.tau_max)
        self._end_tolerance = 0.5 * config.margins.position_rad  # the other half is for what the model leaves out
        self._tolerance = TIGHTEN * config.solver.eps_abs
        self._plan: StopPlan | None = None
        self._clock, self._standing = 0, 0
        self._before: tuple[StopPlan | None, int] | None = None  # plan and clock that the last commit replaced
        self._last_torque: Vector | None = None

    @property
    def plan(self) -> StopPlan | None:
        """The stored verified stop."""
        return self._plan

    def reset(self, state: RobotState | None = None) -> str:
        """Forget everything; with a state, the stored stop is the one from that state.

        Returns:
            Why that stop is not a verified one (its torques, where it ends, its clearance), or "".
        """
        self._plan, self._clock, self._standing, self._last_torque = None, 0, 0, None
        self._before = None
        self._program.reset()
        self._clearance.reset()
        self._in_flight.reset()
        if state is None:
            return ""
        state = self._in_flight.predicted(state)
        self._plan = StopPlan(state.q, state.v, self.a_brake, state.t)
        self._clock = state.t - 1  # the stop starts at this very state
        return self._start_refusal(state, self._plan)

    def _start_refusal(self, state: RobotState, plan: StopPlan) -> str:
        limits, end = self.robot.limits, plan.positions(plan.durations.max()[None, None])[0]
        outside = np.maximum(limits.q_min - state.q, state.q - limits.q_max)
        beyond = np.maximum(limits.q_min - end, end - limits.q_max) - np.maximum(outside, 0.0)
        if beyond.max() > 1e-9:
            j = int(beyond.argmax())
            return f"{self.robot.joints[j]} would stop {beyond[j]:.4f} rad outside its limits"
        corners = plan.corners()
        refusal = self._checker.torque_refusal(self.dynamics.torques_along(*corners), v=corners[1])
        now = self._clearance.measure(state.q)
        return refusal or self._clearance.stop_refusal(now, now, plan)

    def __call__(
        self,
        state: RobotState,
        *,
        torque: ArrayLike | None = None,
        acceleration: ArrayLike | None = None,
        velocity: ArrayLike | None = None,
        position: ArrayLike | None = None,
        twist: ArrayLike | None = None,
        pose: ArrayLike | None = None,
        frame: Frame = Frame.BASE,
        kp: ArrayLike | None = None,
        kd: ArrayLike | None = None,
        envelope: Envelope | None = None,
    ) -> FilterResult:
        """The closest allowed motion to exactly one of the proposals.

        Args:
            state: measured; ``q`` and ``v`` finite and of shape (n,).
            torque: N·m. acceleration: rad/s². velocity: rad/s. position: rad, with the gains ``kp``
                (N·m/rad) and ``kd`` (N·m·s/rad): the torque request kp (position − q) − kd v. Shape (n,).
            twist: of the tool frame's origin in the axes of ``frame``, linear then angular, m/s and rad/s, shape (6,).
            pose: of the tool frame in the base frame: position, m, and unit quaternion x y z w, shape (7,), or a
                homogeneous transform, shape (4, 4).
            envelope: restricts proposed motion, never braking.

        Returns:
            The result; a proposal that is not finite or of the wrong shape is answered by the backup.

        Raises:
            ConfigError: not exactly one kind of proposal, or a position without gains.
        """
        values = (torque, acceleration, velocity, position, twist, pose)  # as in _KINDS
        given = [(kind, value) for kind, value in zip(_KINDS, values, strict=True) if value is not None]
        if len(given) != 1:
            names, got = ", ".join(kind.value for kind in _KINDS), [kind.value for kind, _ in given]
            raise ConfigError(f"SafetyFilter takes exactly one of {names}; got {got or 'none'}")
        kind, value = given[0]
        if kind is NominalKind.POSITION and (kp is None or kd is None):
            raise ConfigError("SafetyFilter: position needs the gains kp and kd")
        stiffness, damping = None if kp is None else numbers(kp), None if kd is None else numbers(kd)
        return self.apply(state, Nominal(kind, numbers(value), stiffness, damping, frame), envelope or FULL_ENVELOPE)

    def apply(self, state: RobotState, nominal: Nominal, envelope: Envelope = FULL_ENVELOPE) -> FilterResult:
        """As calling the filter, with the proposal as a ``Nominal``."""
        if self._plan is None:
            self.reset(state)
        return self._given(self._decided(self._in_flight.predicted(state), nominal, envelope))

    def _given(self, result: FilterResult) -> FilterResult:
        self._in_flight.given(result.torque)
        self._last_torque = None if result.status is FilterStatus.REFUSED else result.torque
        return result

    def _decided(self, state: RobotState, nominal: Nominal, envelope: Envelope) -> FilterResult:
        """The result for the state in which the command will act."""
        self.dynamics.during(state.q, state.v, self.dt)
        problem = self._pose(state, nominal, envelope, self._last_torque)
        if problem is None:
            return self._run_backup(
                state, None, SolverStatus.REJECTED, 0, f"proposal is not {self.robot.n} finite numbers of sane size"
            )
        motion = self._admissible(problem, state.t)
        if motion is not None and not self._stop_refusal(problem, motion):
            return self._commit(state, problem, motion, FilterStatus.ADMISSIBLE, SolverStatus.SKIPPED, 0)
        a, status, iterations = self._solve(problem)
        if self._speed and status.answered:
            a = self._speed.within(problem.q, problem.v, a, problem.retreat, self._speed.configured)
        if not status.answered:
            return self._run_backup(state, problem.nominal, status, iterations, "solver did not finish", problem)
        motion = self._motion(problem, a, sealed(self.dynamics.torque(a)), state.t)
        refusal = self._motion_refusal(problem, motion, problem.retreat_rows) or self._stop_refusal(problem, motion)
        if refusal:
            return self._run_backup(state, problem.nominal, status, iterations, refusal, problem)
        return self._commit(state, problem, motion, FilterStatus.CORRECTED, status, iterations)

    def backup(self, state: RobotState | None) -> FilterResult:
        """The stored stop's tracking law at ``state``; feed-forward alone if there is no state to trust.

        Asked at the state for which a motion has just been committed, it takes that back: the motion does not go out
        (its record could not be placed, say), so the stop from before it is the one to follow.
        """
        if self._plan is None:
            if state is None:
                return self.refused("no stop is stored yet")
            self.reset(state)
        if state is None:
            self._in_flight.begin(None)
        else:
            state = self._in_flight.predicted(state)
            self.dynamics.during(state.q, state.v, self.dt)
            if self._before is not None and self._clock == state.t:
                self._plan, self._clock = self._before
        return self._given(self._run_backup(state, None, SolverStatus.SKIPPED, 0, ""))

    def refused(self, refusal: str, solver: SolverStatus = SolverStatus.SKIPPED, iterations: int = 0) -> FilterResult:
        """The result of a tick that ends in the terminal stop."""
        nothing, nan = frozen_array(np.zeros(self.robot.n)), float("nan")
        return FilterResult(
            torque=nothing,
            acceleration=nothing,
            status=FilterStatus.REFUSED,
            solver=solver,
            source="terminal_stop",
            slack=(),
            active=(),
            margins=Margins(nan, nan, nan, nan, ""),
            effort=0.0,
            iterations=iterations,
            provisional=self.figures.provisional,
            refusal=refusal,
        )

    # -- candidates -----------------------------------------------------------------------------------

    def _motion(self, problem: Problem, a: Vector, tau: Vector, now: int) -> _Motion:
        q_next, v_next = np.empty(len(a)), np.empty(len(a))
        next_state(problem.q, problem.v, a, *self._planned[:2], self.dt, q_next, v_next)
        return _Motion(a, tau, StopPlan(sealed(q_next), sealed(v_next), self.a_brake, now + self._dt_ns))

    def _admissible(self, problem: Problem, now: int) -> _Motion | None:
        """The proposal as it is, if it lies within the viable interval and the checker accepts it."""
        a = problem.nominal
        if not (everywhere(problem.lower <= a) and everywhere(a <= problem.upper)):
            return None
        tau = problem.torque if problem.torque is not None else sealed(self.dynamics.torque(a))
        if problem.smooth is not None and not everywhere((problem.smooth[0] <= tau) & (tau <= problem.smooth[1])):
            return None
        motion = self._motion(problem, a, tau, now)
        return None if self._motion_refusal(problem, motion, problem.rows) else motion

    def _solve(self, problem: Problem) -> tuple[Vector, SolverStatus, int]:
        return self._program.solve(problem, self.dynamics)

    # -- checks ---------------------------------------------------------------------------------------

    def _motion_refusal(self, problem: Problem, motion: _Motion, rows: ClearanceRows) -> str:
        """The checker's view of this tick: torque, limits, the dynamics themselves and the clearance rows."""
        refusal = self._checker.torque_refusal(motion.tau, v=self._checker.speeds(problem.v, motion.a))
        refusal = refusal or self._checker.motion_refusal(problem.q, problem.v, motion.a)
        if self._speed and not refusal:
            refusal = self._speed.refusal(problem.q, problem.v, motion.a, problem.retreat, self._speed.configured)
        if refusal:
            return refusal
        if problem.torque is not None:
            residual = float(np.abs(self.dynamics.torque(motion.a) - motion.tau).max())
            if not residual < 1e-6:
                return f"torque and acceleration differ by {residual:.2e} N·m"
        if len(rows.pairs) == 0:
            return ""
        short = rows.bound - rows.C.dot(motion.a)
        if everywhere(short <= self._tolerance * rows.length):
            return ""
        worst = int((short - self._tolerance * rows.length).argmax())
        return f"{self._clearance.names[int(rows.pairs[worst])]}: clearance row short by {short[worst]:.2e} m"

    def _stop_refusal(self, problem: Problem, motion: _Motion) -> str:
        """Why the stop from the next state is not a backup: its torques or its clearance."""
        plan, dynamics = motion.plan, self.dynamics
        if refusal := self._end_refusal(plan):
            return refusal
        joints = self._stop_torque.uncertain(dynamics.M.T, dynamics.gravity, dynamics.q, plan)
        if joints is not None:
            torques, speeds = self._stop_torque.along(plan, joints)
            refusal = self._checker.torque_refusal(torques, self._stop_share, speeds)
        return refusal or self._clearance.stop_refusal(problem.distances, self._clearance.end, plan)

    def _end_refusal(self, plan: StopPlan) -> str:
        """Whether the stop begins faster than is planned, or ends beyond the planned limits.

        Bounds are relaxed to full braking, but a stop that is planned anew from the measured state in every tick has no
        memory: an arm that brakes worse than its model would slide on. The stored stop has one, and is followed.
        """
        made, begin = self.figures, (plan.q0, plan.v0, plan.a_brake)
        if begins_and_ends_well(*begin, *self._planned, self._end_tolerance):
            return ""
        end = stop_position(*begin)
        beyond = np.maximum(made.q_min - end, end - made.q_max)
        fast = np.abs(plan.v0) - made.v_most
        j, k = int(beyond.argmax()), int(fast.argmax())
        if fast[k] > 0.0:
            return f"stop of {self.robot.joints[k]} begins {fast[k]:.2g} rad/s too fast"
        return f"stop of {self.robot.joints[j]} ends {beyond[j]:.2g} rad too far"

    # -- outcomes -------------------------------------------------------------------------------------

    def _commit(
        self,
        state: RobotState,
        problem: Problem,
        motion: _Motion,
        status: FilterStatus,
        solver: SolverStatus,
        iterations: int,
    ) -> FilterResult:
        """Store the verified stop and hand out the motion that leads to it (law 3)."""
        self._before = self._plan, self._clock
        self._plan, self._clock = motion.plan, state.t
        corrected = status is FilterStatus.CORRECTED
        return FilterResult(
            torque=frozen_array(motion.tau),
            acceleration=frozen_array(motion.a),
            status=status,
            solver=solver,
            source="qp" if corrected else "proposal",
            slack=problem.slack,
            active=self._program.active(problem, motion.a) if corrected else (),
            margins=self._margins(motion.plan.q0, motion.plan.v0, motion.tau, problem.distances),
            effort=self._effort(motion.a - problem.nominal) if corrected else 0.0,
            iterations=iterations,
            stuck=self._is_stuck(state, problem.nominal, status),
            provisional=self.figures.provisional,
        )

    def _run_backup(
        self,
        state: RobotState | None,
        nominal: Vector | None,
        solver: SolverStatus,
        iterations: int,
        refusal: str,
        problem: Problem | None = None,
    ) -> FilterResult:
        """One tick of the stored stop; the dynamics are already those of the period from ``state`` on."""
        plan, self._before = self._plan, None
        assert plan is not None
        self._clock = self._clock + self._dt_ns if state is None or state.t <= self._clock else state.t
        elapsed = plan.elapsed(self._clock)
        q_ref, v_ref = plan.at(elapsed)
        forward = plan.acceleration(elapsed, self.dt)
        if state is None:
            self.dynamics.during(q_ref, v_ref, self.dt)
        tau, a = self._tracking(state, q_ref, v_ref, forward)
        refused = self._checker.torque_refusal(tau, v=self._checker.speeds(v_ref if state is None else state.v, a))
        if refused:
            return self.refused(f"backup: {refused}", solver, iterations)
        q, v = (q_ref, v_ref) if state is None else (state.q, state.v)
        distances = self._clearance.measure(q)
        v_next = v + a * self.dt
        status = FilterStatus.BACKUP
        return FilterResult(
            torque=frozen_array(tau),
            acceleration=frozen_array(a),
            status=status,
            solver=solver,
            source="backup",
            slack=problem.slack if problem else (),
            active=(),
            margins=self._margins(q + 0.5 * (v + v_next) * self.dt, v_next, tau, distances),
            effort=0.0 if nominal is None else self._effort(a - nominal),
            iterations=iterations,
            stuck=state is not None and nominal is not None and self._is_stuck(state, nominal, status),
            provisional=self.figures.provisional,
            refusal=refusal,
        )

    def _tracking(
        self, state: RobotState | None, q_ref: Vector, v_ref: Vector, forward: Vector
    ) -> tuple[Vector, Vector]:
        """The tracking law; feedback shrinks, never feed-forward, where both do not fit the limits.

        Joint by joint for the acceleration limits, all of it for the torque limits.
        """
        tau = self.dynamics.torque(forward)
        if state is None:
            return tau, forward
        omega, (low, high) = self.figures.omega, self._feedback_torque(state.v)
        feedback = omega * omega * (q_ref - state.q) + 2.0 * omega * (v_ref - state.v)
        most = _FEEDBACK * self.robot.limits.a_max
        feedback = np.minimum(np.maximum(forward + feedback, -most), most) - forward
        push = self.dynamics.M @ feedback
        room = np.maximum(np.where(push > 0.0, high - tau, tau - low), 0.0)
        share = float(min(1.0, np.min(room / np.maximum(np.abs(push), 1e-12))))
        return tau + share * push, forward + share * feedback

    # -- reporting ------------------------------------------------------------------------------------

    def _effort(self, change: Vector) -> float:
        scaled = change / self.robot.limits.a_max
        return sqrt(scaled.dot(scaled))

    def _margins(self, q: Vector, v: Vector, tau: Vector, distances: Distances) -> Margins:
        nearest, clearance = self._clearance.nearest(distances)
        return Margins(*least_margins(q, v, tau, *self._limits), clearance, nearest)

    def _is_stuck(self, state: RobotState, nominal: Vector, status: FilterStatus) -> bool:
        """Standing for a while although the proposal wants to move."""
        held = (
            status is not FilterStatus.ADMISSIBLE
            and slower(state.v, self.config.standstill_radps)
            and self._effort(nominal) > _WANTS
        )
        self._standing = self._standing + 1 if held else 0
        return self._standing * self.dt >= self.config.stuck_s


def _configured(
    config: FilterConfig, solver: str | None, certificate: Certificate | None, delay_ticks: int | None
) -> FilterConfig:
    """``config`` with what was given beside it."""
    given = {"certificate": certificate, "delay_ticks": delay_ticks}
    update: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    if solver is not None:
        update["solver"] = config.solver.model_copy(update={"name": solver})
    return config.model_copy(update=update)


def _speed_caps(robot: RobotModel, a_brake: Vector, dt: float, config: SpeedConfig) -> SpeedCaps | None:
    if config.tool_mps is None and config.body_mps is None:
        return None
    caps = SpeedCaps(robot, a_brake, dt, deceleration=config.deceleration_mps2, slots=config.slots)
    caps.configured = caps.caps(config.tool_mps, config.body_mps)
    return caps
