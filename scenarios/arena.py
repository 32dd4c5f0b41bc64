"""The arena of a soak: a filter, its body in MuJoCo, an adversary and the independent referee, block by block.

The filter drives the body directly, without a shield. A block is a start state, an adversary and a stream of
chance, all named by (seed, block), so that any block can be repeated alone. Position, speed, torque and
contact are judged from MuJoCo; acceleration and torque rate from the command stream. 0 is the exact limit.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from safeguard.controllers import SafetyFilter
from safeguard.controllers.proposal import numbers
from safeguard.controllers.task import TaskSpace
from safeguard.core.certificate import Certificate
from safeguard.core.enums import FilterStatus, NominalKind
from safeguard.core.errors import ConfigError, UnknownNameError
from safeguard.core.robot import RobotModel
from safeguard.core.types import (
    NS_PER_S,
    Command,
    Nominal,
    RobotState,
    TerminalStop,
    TorqueCommand,
    Vector,
    frozen_array,
)
from safeguard.scenarios import streams
from safeguard.scenarios.adversary import ADVERSARIES, Adversary, Attempt, Nearness, Stage
from safeguard.scenarios.ledger import KINDS, TORQUE_RATE, BlockResult, Ledger
from safeguard.scenarios.referee import Referee
from safeguard.scenarios.world import World

_CLEAR = 0.02  # m, that start states keep between links; half the distance at home where that is less
_INSIDE = 0.02  # share of the range of every joint, that start states keep from its limits
_AT_EDGE = 0.2  # share of the joints that start as near to a limit as that allows
_TOWARDS_HOME = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
_SPEEDS = (0.9, 0.5, 0.2, 0.0)  # shares of the speed limits that start states are tried with
_RUNAWAY = 5.0  # times the speed limits: without a filter the body is put back to its start


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """One soak, completely.

    Attributes:
        robot: name, as ``RobotModel.load`` takes it.
        ticks: control periods in all.
        seed: of every stream of chance.
        dt, physics_dt: control period and MuJoCo's step, s; physics at 1 ms or finer.
        adversaries: names, taken in turns.
        block_ticks: control periods of a block.
        mass_error: every link of the plant weighs up to this share more or less than in the filter's model.
        friction_nm: dry friction of every joint that only the plant has, N·m.
        delay_ticks: periods by which the plant gets every command late.
        filter_delay_ticks: delay that the filter is told of.
        payload_kg: load at the tool, known to both.
        filtered: False is the negative control: the proposals go to the drives as they are.
        solver, certificate: handed to the filter where they are not None.
        claim_rate: the torque rate makes the run fail like every other kind; the filter does not claim it.
    """

    robot: str = "panda"
    ticks: int = 100_000
    seed: int = 0
    dt: float = 0.002
    physics_dt: float = 0.001
    adversaries: tuple[str, ...] = tuple(ADVERSARIES)
    block_ticks: int = 2000
    mass_error: float = 0.0
    friction_nm: float = 0.0
    delay_ticks: int = 0
    filter_delay_ticks: int = 0
    payload_kg: float = 0.0
    filtered: bool = True
    solver: Literal["osqp", "daqp"] | None = None
    certificate: str | None = None
    claim_rate: bool = False

    def __post_init__(self) -> None:
        for name in self.adversaries:
            if name not in ADVERSARIES:
                raise UnknownNameError("adversary", name, ADVERSARIES)
        if not self.adversaries or self.ticks < 1 or self.block_ticks < 1:
            raise ConfigError("a soak needs at least one adversary, one tick and one tick a block")
        if self.physics_dt > 0.001:
            raise ConfigError(f"physics_dt = {self.physics_dt} s: the referee needs 1 ms or finer")
        if not 0.0 <= self.mass_error < 1.0 or self.friction_nm < 0.0 or self.payload_kg < 0.0:
            raise ConfigError("mass_error must lie in [0, 1), friction_nm and payload_kg must not be negative")
        if self.delay_ticks < 0 or self.filter_delay_ticks < 0:
            raise ConfigError("delays must not be negative")

    @property
    def claimed(self) -> tuple[str, ...]:
        """Kinds that make the run fail."""
        return tuple(kind for kind in KINDS if self.claim_rate or kind != TORQUE_RATE)

    @property
    def blocks(self) -> int:
        """Number of blocks; the last one may be shorter."""
        return -(-self.ticks // self.block_ticks)

    def adversary(self, block: int) -> str:
        """Name of the adversary of ``block``."""
        return self.adversaries[block % len(self.adversaries)]

    def length(self, block: int) -> int:
        """Control periods of ``block``."""
        return min(self.block_ticks, self.ticks - block * self.block_ticks)


class Arena:
    """Filter, plant and referee of a plan, to run any of its blocks."""

    def __init__(self, plan: SoakPlan) -> None:
        self.plan = plan
        robot = RobotModel.load(plan.robot)
        if plan.payload_kg > 0.0:
            robot = robot.with_payload(plan.payload_kg, (0.0, 0.0, 0.05))
        self.robot = robot
        self.filter = build_filter(robot, plan)
        plant = replace(robot, coulomb=frozen_array(robot.coulomb + plan.friction_nm))
        self.world = World(plant, period=plan.dt, physics_dt=plan.physics_dt)
        self.referee = Referee(robot, self.world)
        self.world.on_physics_step = self.referee.sample
        self.nearness = Nearness(robot)
        self._clear = min(_CLEAR, 0.5 * self.nearness.distance(robot.home))
        self._raw = _RawDrive(robot, self.world)
        self._masses = self.world.model.body_mass.copy(), self.world.model.body_inertia.copy()

    def run(self, block: int) -> BlockResult:
        """Run one block from its own start."""
        name = self.plan.adversary(block)
        rng = streams.stream(self.plan.seed, block, f"soak:{name}")
        self._perturb(rng)
        start = self.start(rng)
        self._place(start)
        self.filter.reset(start)
        ledger = Ledger(name, block)
        self._drive(ADVERSARIES[name], Stage(self.robot, self.nearness, rng, start), ledger)
        ledger.close(self.referee, self.world)
        return ledger.result()

    def _drive(self, adversary: Adversary, stage: Stage, ledger: Ledger) -> None:
        """Every tick of the block that begins at the stage's state."""
        start, world = stage.state, self.world
        attempts = adversary(stage)
        late = deque[Command](self._holding() for _ in range(self.plan.delay_ticks))
        for _ in range(self.plan.length(ledger.block)):
            begun = time.perf_counter_ns()
            stage.state = world.observe().state
            attempt = next(attempts)
            thought = time.perf_counter_ns()
            command = self._answer(stage.state, attempt, ledger)
            answered = time.perf_counter_ns()
            self.referee.command(command, world.time_ns)
            late.append(command)
            world.apply(late.popleft())
            world.advance()
            moved = time.perf_counter_ns()
            self.referee.observe()
            if not self.plan.filtered:
                ledger.acceleration(self._raw.acceleration(), self.robot)
                self._catch(start)
            ledger.tick(thought - begun, answered - thought, moved - answered, time.perf_counter_ns() - moved)

    def _answer(self, state: RobotState, attempt: Attempt, ledger: Ledger) -> Command:
        """The command of this tick; brakes if an exception came out instead."""
        now, seq = self.world.time_ns, ledger.ticks
        expires = now + (2 + self.plan.delay_ticks) * self.world.period_ns
        if not self.plan.filtered:
            tau = self._raw.torque(attempt, state, self.plan.dt)
            ledger.torque(tau, self.robot, self.plan.dt)
            ledger.statuses[FilterStatus.BYPASSED.value] += 1
            return TorqueCommand(frozen_array(tau), now, expires, seq)
        try:
            result = self.filter(state, **attempt.arguments())
        except Exception as error:  # noqa: BLE001 an exception out of a tick is what a soak looks for
            ledger.exceptions.append(f"tick {seq}: {type(error).__name__}: {error}")
            return TerminalStop("exception", now, seq)
        ledger.outcome(result)
        if result.status is FilterStatus.REFUSED:
            return TerminalStop(result.refusal, now, seq)
        ledger.acceleration(result.acceleration, self.robot)
        ledger.torque(result.torque, self.robot, self.plan.dt)
        return TorqueCommand(result.torque, now, expires, seq)

    def _holding(self) -> TorqueCommand:
        """What is in flight when a delayed body starts: the torque that carries it."""
        return TorqueCommand(frozen_array(self._raw.hold()), 0, (2 + self.plan.delay_ticks) * self.world.period_ns, -1)

    def _catch(self, start: RobotState) -> None:
        """Without a filter: put a body that runs away back to its start."""
        state, limits = self.world.observe().state, self.robot.limits
        far = np.abs(state.q - start.q).max() > 2.0 * np.pi
        if far or not (np.abs(state.v) <= _RUNAWAY * limits.v_max).all():
            self._raw.place(start)

    def _perturb(self, rng: np.random.Generator) -> None:
        """Weigh the plant's links anew: each on its own, or all at one end of the error."""
        error, model = self.plan.mass_error, self.world.model
        if error == 0.0:
            return
        factors: Vector = 1.0 + error * rng.uniform(-1.0, 1.0, int(model.nbody))
        if rng.random() < 0.5:
            factors[:] = 1.0 + error * rng.choice(np.array([-1.0, 1.0]))
        mass, inertia = self._masses
        model.body_mass[:], model.body_inertia[:] = mass * factors, inertia * factors[:, None]
        self._raw.refresh()

    def start(self, rng: np.random.Generator) -> RobotState:
        """A random state inside all limits from which the filter has a verified stop."""
        limits, home = self.robot.limits, self.robot.home
        inner = _INSIDE * (limits.q_max - limits.q_min)
        wanted = rng.uniform(limits.q_min + inner, limits.q_max - inner)
        edge = np.where(rng.random(self.robot.n) < 0.5, limits.q_min + inner, limits.q_max - inner)
        wanted = np.where(rng.random(self.robot.n) < _AT_EDGE, edge, wanted)
        direction = rng.uniform(-1.0, 1.0, self.robot.n) * limits.v_max
        speeds = _SPEEDS if self.plan.delay_ticks == 0 else (0.0,)  # what is in flight at first only holds
        for towards in _TOWARDS_HOME:
            q = home + towards * (wanted - home)
            if self.nearness.distance(q) < self._clear:
                continue
            for share in speeds:
                state = RobotState(q, share * direction, 0)
                if not self.filter.reset(state):
                    return state
        raise ConfigError(f"robot {self.robot.name!r} has no verified stop at its home: is it clear of itself there?")

    def _place(self, start: RobotState) -> None:
        self.world.reset(0)
        self._raw.place(start)
        self.referee.reset()


def build_filter(robot: RobotModel, plan: SoakPlan) -> SafetyFilter:
    """The filter of a plan; raises ``CertificateError`` if its certificate is of something else."""
    certificate = None if plan.certificate is None else Certificate.load(Path(plan.certificate))
    return SafetyFilter(
        robot, plan.dt, solver=plan.solver, certificate=certificate, delay_ticks=plan.filter_delay_ticks
    )


class _RawDrive:
    """What MuJoCo itself says about the body: state, and torque and acceleration of each other."""

    def __init__(self, robot: RobotModel, world: World) -> None:
        import mujoco

        self._mj: Any = mujoco
        self._robot, self._model, self._data = robot, world.model, world.data
        joints = [world.model.joint(name) for name in robot.joints]
        self._q = np.array([int(joint.qposadr[0]) for joint in joints])
        self._v = np.array([int(joint.dofadr[0]) for joint in joints])
        self._task = TaskSpace(robot, world.period_ns / NS_PER_S)

    def place(self, state: RobotState) -> None:
        """Put the body into ``state``."""
        self._data.qpos[self._q], self._data.qvel[self._v] = state.q, state.v
        self._data.qacc_warmstart[:] = 0.0
        self._mj.mj_forward(self._model, self._data)

    def refresh(self) -> None:
        """Derive what MuJoCo derives from changed masses."""
        self._mj.mj_setConst(self._model, self._data)

    def hold(self) -> Vector:
        """Torque that carries the body where it stands, shape (n,), N·m."""
        bias: Vector = self._data.qfrc_bias[self._v]
        return bias.copy()

    def torque(self, attempt: Attempt, state: RobotState, dt: float) -> Vector:
        """What a naive drive would do with an attempt, shape (n,), N·m; NaN if it is no proposal."""
        n = self._robot.n
        value, kp, kd = (_reals(x, n) for x in (attempt.value, attempt.kp, attempt.kd))
        match attempt.kind:
            case NominalKind.TORQUE:
                return value
            case NominalKind.POSITION:
                return kp * (value - state.q) - kd * state.v
            case NominalKind.VELOCITY:
                return self._inverse((value - state.v) / dt)
            case NominalKind.ACCELERATION:
                return self._inverse(value)
            case NominalKind.TWIST | NominalKind.POSE | NominalKind.ROWS:
                a, _ = self._task.wanted(state, Nominal(attempt.kind, np.asarray(attempt.value, dtype=float)))
                return self._inverse(np.full(n, np.nan) if a is None else a)

    def _inverse(self, a: Vector) -> Vector:
        full, out = np.zeros(self._model.nv), np.zeros(self._model.nv)
        full[self._v] = a
        self._mj.mj_mulM(self._model, self._data, out, full)
        tau: Vector = (out + self._data.qfrc_bias - self._data.qfrc_passive)[self._v]
        return tau

    def acceleration(self) -> Vector:
        """Of the last physics step, shape (n,), rad/s²."""
        a: Vector = self._data.qacc[self._v]
        return a


def _reals(given: object, n: int) -> Vector:
    """``given`` if it is ``n`` real numbers, else NaN, shape (n,)."""
    array = numbers(given)
    return array if array.shape == (n,) else np.full(n, np.nan)
