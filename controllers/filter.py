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
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from safeguard.controllers.brake import StopPlan, braking_deceleration
from safeguard.controllers.checker import Checker
from safeguard.controllers.clearance import Clearance, Distances
from safeguard.controllers.dynamics import Dynamics
from safeguard.controllers.program import TIGHTEN, Problem, Program
from safeguard.controllers.stop_torque import StopTorque
from safeguard.controllers.task import TaskSpace
from safeguard.controllers.viability import JointBounds, braking_point, least_margins
from safeguard.core.config import FilterConfig
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
    frozen_array,
    sealed,
)

_WANTS = 0.05  # share of the acceleration limits; a proposal of less does not ask for motion

_LARGEST = 1e9  # in any unit; what is beyond is not a proposal


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
        solver: instead of the one that ``config`` names.

    Call it once per period; it keeps the verified stop between calls.
    """

    def __init__(
        self,
        robot: RobotModel,
        dt: float = 0.002,
        config: FilterConfig | None = None,
        *,
        solver: Literal["osqp", "daqp"] | None = None,
    ) -> None:
        if not 0.0 < dt <= 0.02:
            raise ConfigError(f"dt = {dt} s: the control period must lie in (0, 0.02] s")
        config = config or FilterConfig()
        if solver is not None:
            config = config.model_copy(update={"solver": config.solver.model_copy(update={"name": solver})})
        self.config = config
        self.robot, self.dt = robot, dt
        self.a_brake = braking_deceleration(robot, self.config.brake)
        least = float(self.a_brake.max()) * dt * dt / 8.0
        if self.config.margins.position_rad < least:
            raise ConfigError(
                f"margins.position_rad = {self.config.margins.position_rad}: the last, partial period of a stop runs "
                f"on by up to {least:.2g} rad at dt = {dt} s; keep at least that"
            )
        self._a_plan = frozen_array(self.config.brake.plan_share * self.a_brake)
        self._dt_ns = round(dt * NS_PER_S)
        self.dynamics = Dynamics(robot)
        self._clearance = Clearance(robot, self.config.clearance)
        self._program = Program(robot, self.config)
        self._checker = Checker(robot.limits, robot.joints, self.a_brake, dt)
        limits, margins = robot.limits, self.config.margins
        self._low, self._high = limits.q_min + margins.position_rad, limits.q_max - margins.position_rad
        self._return_speed = (self.a_brake - self._a_plan) * dt
        self._bounds = JointBounds(
            self._low,
            self._high,
            (1.0 - margins.velocity_share) * limits.v_max,
            limits.a_max,
            self._a_plan,
            dt,
        )
        self._tight_tau = (1.0 - self.config.margins.torque_share) * robot.limits.tau_max
        self._stop_torque = StopTorque(robot, self.a_brake, self._tight_tau)
        self._task = TaskSpace(robot, dt, config.task)
        self._tolerance = TIGHTEN * self.config.solver.eps_abs
        self._plan: StopPlan | None = None
        self._clock = 0
        self._standing = 0

    @property
    def plan(self) -> StopPlan | None:
        """The stored verified stop."""
        return self._plan

    def reset(self, state: RobotState | None = None) -> str:
        """Forget everything; with a state, the stored stop is the one from that state.

        Returns:
            Why that stop is not a verified one (its torques, where it ends, its clearance), or "".
        """
        self._plan, self._clock, self._standing = None, 0, 0
        self._program.reset()
        self._clearance.reset()
        if state is None:
            return ""
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
        refusal = self._checker.torque_refusal(self.dynamics.torques_along(*plan.corners()))
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
        given = {"torque": torque, "acceleration": acceleration, "velocity": velocity, "position": position}
        given |= {"twist": twist, "pose": pose}
        kinds = [name for name, value in given.items() if value is not None]
        if len(kinds) != 1:
            raise ConfigError(f"SafetyFilter takes exactly one of {', '.join(given)}; got {kinds or 'none'}")
        if kinds[0] == "position" and (kp is None or kd is None):
            raise ConfigError("SafetyFilter: position needs the gains kp and kd")
        stiffness, damping = (None if gain is None else _numbers(gain) for gain in (kp, kd))
        value = _numbers(given[kinds[0]])
        return self.apply(
            state, Nominal(NominalKind(kinds[0]), value, stiffness, damping, frame), envelope or FULL_ENVELOPE
        )

    def apply(self, state: RobotState, nominal: Nominal, envelope: Envelope = FULL_ENVELOPE) -> FilterResult:
        """As calling the filter, with the proposal as a ``Nominal``."""
        if self._plan is None:
            self.reset(state)
        self.dynamics.update(state.q, state.v)
        problem = self._pose(state, nominal, envelope)
        if problem is None:
            return self._run_backup(
                state, None, SolverStatus.REJECTED, 0, f"proposal is not {self.robot.n} finite numbers of sane size"
            )
        motion = self._admissible(problem, state.t)
        if motion is not None and not self._stop_refusal(problem, motion):
            return self._commit(state, problem, motion, FilterStatus.ADMISSIBLE, SolverStatus.SKIPPED, 0)
        a, status, iterations = self._solve(problem)
        if not status.answered:
            return self._run_backup(state, problem.nominal, status, iterations, "solver did not finish", problem)
        motion = self._motion(problem, a, self.dynamics.torque(a), state.t)
        refusal = self._motion_refusal(problem, motion) or self._stop_refusal(problem, motion)
        if refusal:
            return self._run_backup(state, problem.nominal, status, iterations, refusal, problem)
        return self._commit(state, problem, motion, FilterStatus.CORRECTED, status, iterations)

    def backup(self, state: RobotState | None) -> FilterResult:
        """The stored stop's tracking law at ``state``; feed-forward alone if there is no state to trust."""
        if self._plan is None:
            if state is None:
                return self.refused("no stop is stored yet")
            self.reset(state)
        if state is not None:
            self.dynamics.update(state.q, state.v)
        return self._run_backup(state, None, SolverStatus.SKIPPED, 0, "")

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
            refusal=refusal,
        )

    # -- posing the problem ---------------------------------------------------------------------------

    def _pose(self, state: RobotState, nominal: Nominal, envelope: Envelope) -> Problem | None:
        """Everything the tick needs; None if the proposal is not usable."""
        torque, wanted = self._wanted(state, nominal)
        if wanted is None:
            return None
        q, v, dt = state.q, state.v, self.dt
        brake = braking_point(v - self._homing(q), self.a_brake, dt)
        lower, upper = self._bounds(q, v, brake, envelope.velocity, envelope.acceleration)
        rows = self._clearance.rows(q, v, self._a_plan, brake, lower, upper, dt)
        slack: tuple[tuple[str, float], ...] = ()
        if len(rows.pairs):
            relaxed = np.flatnonzero(rows.slack > self.config.slack_tolerance_m).tolist()
            slack = tuple((f"clearance:{self._clearance.names[rows.pairs[k]]}", float(rows.slack[k])) for k in relaxed)
        return Problem(q, v, wanted, torque, brake, lower, upper, rows, slack, self._clearance.now)

    def _homing(self, q: Vector) -> Vector:
        """Speed at which a joint that is beyond its tightened limits is led back, shape (n,), rad/s; else 0.

        Braking to rest alone lets a joint creep on under a constant push W: by W dt a period. Returning at the speed
        that a disturbance up to a_b − a_p builds up in a period does not (tests/theory/test_viability_proof.py).
        """
        beyond: Vector = np.subtract(q < self._low, q > self._high, dtype=np.float64)
        return self._return_speed * beyond

    def _wanted(self, state: RobotState, nominal: Nominal) -> tuple[Vector | None, Vector | None]:
        """(proposed torque or None, wanted acceleration or None if unusable)."""
        value, n = nominal.value, self.robot.n
        if nominal.kind in (NominalKind.TWIST, NominalKind.POSE):
            return None, self._task.wanted(state, nominal)[0]
        if not _is_vector(value, n):
            return None, None
        match nominal.kind:
            case NominalKind.ACCELERATION:
                return None, value
            case NominalKind.TORQUE:
                return value, self.dynamics.acceleration(value)
            case NominalKind.VELOCITY:
                return None, (value - state.v) / self.dt
            case NominalKind.POSITION:
                kp, kd = nominal.kp, nominal.kd
                if kp is None or kd is None or not (_is_vector(kp, n) and _is_vector(kd, n)):
                    return None, None
                tau = kp * (value - state.q) - kd * state.v
                return tau, self.dynamics.acceleration(tau)

    # -- candidates -----------------------------------------------------------------------------------

    def _motion(self, problem: Problem, a: Vector, tau: Vector, now: int) -> _Motion:
        v_next = problem.v + a * self.dt
        q_next = problem.q + (problem.v + v_next) * (0.5 * self.dt)
        return _Motion(a, tau, StopPlan(sealed(q_next), sealed(v_next), self.a_brake, now + self._dt_ns))

    def _admissible(self, problem: Problem, now: int) -> _Motion | None:
        """The proposal as it is, if it lies within the viable interval and the checker accepts it."""
        a = problem.nominal
        if not ((problem.lower <= a).all() and (a <= problem.upper).all()):
            return None
        tau = problem.torque if problem.torque is not None else self.dynamics.torque(a)
        motion = self._motion(problem, a, tau, now)
        return None if self._motion_refusal(problem, motion) else motion

    def _solve(self, problem: Problem) -> tuple[Vector, SolverStatus, int]:
        return self._program.solve(problem, self.dynamics)

    # -- checks ---------------------------------------------------------------------------------------

    def _motion_refusal(self, problem: Problem, motion: _Motion) -> str:
        """The checker's view of this tick: torque, limits, the dynamics themselves and the clearance rows."""
        refusal = self._checker.torque_refusal(motion.tau)
        refusal = refusal or self._checker.motion_refusal(problem.q, problem.v, motion.a)
        if refusal:
            return refusal
        if problem.torque is not None:
            residual = float(np.abs(self.dynamics.torque(motion.a) - motion.tau).max())
            if not residual < 1e-6:
                return f"torque and acceleration differ by {residual:.2e} N·m"
        rows = problem.rows
        if len(rows.pairs) == 0:
            return ""
        short = rows.bound - rows.C @ motion.a
        if (short <= self._tolerance * rows.length).all():
            return ""
        worst = int((short - self._tolerance * rows.length).argmax())
        return f"{self._clearance.names[int(rows.pairs[worst])]}: clearance row short by {short[worst]:.2e} m"

    def _stop_refusal(self, problem: Problem, motion: _Motion) -> str:
        """Why the stop from the next state is not a backup: its torques or its clearance."""
        plan, dynamics, refusal = motion.plan, self.dynamics, ""
        if not self._stop_torque.certain(dynamics.M.T, dynamics.gravity, problem.q, plan.q0, plan.v0, plan.a_brake):
            torques = dynamics.torques_along(*plan.corners())
            refusal = self._checker.torque_refusal(torques, 1.0 - self.config.margins.torque_share)
        return refusal or self._clearance.stop_refusal(problem.distances, self._clearance.end, plan)

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
        """One tick of the stored stop; the dynamics are already at ``state``."""
        plan = self._plan
        assert plan is not None
        self._clock = self._clock + self._dt_ns if state is None or state.t <= self._clock else state.t
        elapsed = plan.elapsed(self._clock)
        q_ref, v_ref = plan.at(elapsed)
        forward = plan.acceleration(elapsed, self.dt)
        if state is None:
            self.dynamics.update(q_ref, v_ref)
        tau, a = self._tracking(state, q_ref, v_ref, forward)
        refused = self._checker.torque_refusal(tau)
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
            refusal=refusal,
        )

    def _tracking(
        self, state: RobotState | None, q_ref: Vector, v_ref: Vector, forward: Vector
    ) -> tuple[Vector, Vector]:
        """The tracking law; feedback shrinks, never feed-forward, where both do not fit the torque limits."""
        tau = self.dynamics.torque(forward)
        if state is None:
            return tau, forward
        omega = self.config.brake.omega_radps
        feedback = omega * omega * (q_ref - state.q) + 2.0 * omega * (v_ref - state.v)
        push = self.dynamics.M @ feedback
        room = np.maximum(self._tight_tau - tau * np.sign(push), 0.0)
        share = float(min(1.0, np.min(room / np.maximum(np.abs(push), 1e-12))))
        return tau + share * push, forward + share * feedback

    # -- reporting ------------------------------------------------------------------------------------

    def _effort(self, change: Vector) -> float:
        scaled = change / self.robot.limits.a_max
        return float(np.sqrt(scaled @ scaled))

    def _margins(self, q: Vector, v: Vector, tau: Vector, distances: Distances) -> Margins:
        limits = self.robot.limits
        nearest, clearance = self._clearance.nearest(distances)
        kept = least_margins(q, v, tau, limits.q_min, limits.q_max, limits.v_max, limits.tau_max)
        return Margins(*kept, clearance, nearest)

    def _is_stuck(self, state: RobotState, nominal: Vector, status: FilterStatus) -> bool:
        """Standing for a while although the proposal wants to move."""
        held = (
            status is not FilterStatus.ADMISSIBLE
            and bool(np.abs(state.v).max() < self.config.standstill_radps)
            and self._effort(nominal) > _WANTS
        )
        self._standing = self._standing + 1 if held else 0
        return self._standing * self.dt >= self.config.stuck_s


def _numbers(given: Any) -> Vector:
    """What a caller gave, as numbers; none at all where it is something else."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError):  # ragged
        return np.empty(0)
    return np.ascontiguousarray(array, dtype=np.float64) if array.dtype.kind in "fiu" else np.empty(0)


def _is_vector(value: Vector, n: int) -> bool:
    """``n`` numbers, none of them so large that its square overflows a float."""
    return value.shape == (n,) and bool((np.abs(value) <= _LARGEST).all())  # False for NaN
