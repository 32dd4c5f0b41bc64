"""A shield, a scripted guest and a body that is the model itself: what every law is tried on.

The body executes commands, not predictions: torques through the equations of motion, held for one period,
and a terminal stop by brakes that hold at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from safeguard.audit import AuditConfig
from safeguard.audit.records.expand import named_decision
from safeguard.controllers import ArmPlatform, SafetyFilter
from safeguard.controllers.dynamics import Dynamics
from safeguard.core.config import BrakeConfig, FilterConfig, PolicyConfig, ShieldConfig
from safeguard.core.enums import Authority, Enforcement, Reference
from safeguard.core.protocols import Policy, PolicyPort
from safeguard.core.robot import RobotModel
from safeguard.core.types import (
    ActionSpec,
    Command,
    Decision,
    FilterResult,
    Observation,
    RobotState,
    TorqueCommand,
    Vector,
)
from safeguard.monitors import Calibration, calibrate
from safeguard.monitors.joint import Witness
from safeguard.monitors.registry import monitors
from safeguard.policies import as_policy
from safeguard.shield import Shield

PERIOD = 0.002
TICK = 2_000_000
ROWS = 8
FAST = FilterConfig(brake=BrakeConfig(samples=200))
"""The default filter with fewer samples at start-up, so that a shield is made in milliseconds."""

CONFIG = ShieldConfig(filter=FAST, policy=PolicyConfig(ramp_s=0.0))  # laws are tried at full force
Guest = Callable[[Observation], object]


@cache
def panda() -> RobotModel:
    """The arm of every test."""
    return RobotModel.load("panda")


def spec(joints: Sequence[str] | None = None) -> ActionSpec:
    """Chunks of absolute joint positions."""
    return ActionSpec(tuple(joints or panda().joints), "rad", Reference.ABSOLUTE, rate_hz=20.0, chunk=ROWS)


def near(seen: Observation) -> Vector:
    """A proposal that stays within every limit."""
    phase = seen.state.t * 1e-9 * np.pi
    return np.tile(panda().home + 0.1 * np.sin(phase + np.arange(panda().n)), (ROWS, 1))


def beyond(seen: Observation) -> Vector:
    """A proposal far outside the limits, on alternating sides."""
    side = np.where(np.arange(panda().n) % 2 == int(seen.state.t * 2e-9) % 2, 4.0, -4.0)
    return np.tile(panda().home + side + 1e-9 * seen.state.t, (ROWS, 1))


def folded(seen: Observation) -> Vector:
    """A proposal inside the joint limits that folds the hand onto the upper arm."""
    target = np.array([0.0, -0.79, 0.0, -2.97, 0.0, 0.35, 0.79])
    return np.tile(target + 1e-3 * np.sin(seen.state.t * 1e-9), (ROWS, 1))


class Lab:
    """One shield at work.

    Args:
        guest: a callable from observation to actions, a policy or a port.
        config: of the shield.
    """

    def __init__(
        self,
        guest: Guest | Policy | PolicyPort = near,
        *,
        config: ShieldConfig = CONFIG,
        audit: Path | AuditConfig | None = None,
        enforcement: Enforcement = Enforcement.FULL,
        calibration: Calibration | None = None,
        period: float = PERIOD,
        action: ActionSpec | None = None,
    ) -> None:
        robot = panda()
        whole = hasattr(guest, "infer") or hasattr(guest, "post")
        policy: Any = guest if whole else as_policy(guest, spec=action or spec(), name="guest")
        self.shield = Shield(
            robot,
            policy,
            period=period,
            config=config,
            audit=audit,
            enforcement=enforcement,
            calibration=calibration,
        )
        self.period = period
        self.q, self.v, self.now = np.array(robot.home), np.zeros(robot.n), 0
        self.decisions: list[Decision] = []
        self._dynamics = Dynamics(robot)
        self.shield.begin_episode("try a law")

    @property
    def platform(self) -> ArmPlatform:
        """The shield's body."""
        platform = self.shield.platform
        assert isinstance(platform, ArmPlatform)
        return platform

    @property
    def filter(self) -> SafetyFilter:
        """The shield's safety filter."""
        return self.platform.safety_filter

    def observe(self) -> Observation:
        """An exact measurement, stamped now."""
        return Observation(RobotState(self.q, self.v, self.now))

    def tick(self, observation: Observation | None = None) -> Decision:
        """One decision, executed for one period."""
        decision = self.shield.step(self.observe() if observation is None else observation, now=self.now)
        self.decisions.append(decision)
        self.execute(decision.command)
        return decision

    def execute(self, command: Command) -> None:
        """One period of the body under ``command``."""
        dt = self.period
        if isinstance(command, TorqueCommand):
            self._dynamics.update(self.q, self.v)
            a = self._dynamics.acceleration(command.tau)
            self.q, self.v = self.q + self.v * dt + 0.5 * a * dt * dt, self.v + a * dt
        else:
            self.v = np.zeros_like(self.v)
        self.now += round(dt * 1e9)

    def run(self, ticks: int) -> list[Decision]:
        """``ticks`` decisions."""
        return [self.tick() for _ in range(ticks)]

    def acknowledge(self) -> None:
        """A scripted person lets the body move."""
        self.shield.acknowledge(operator="lab", reason="test", simulated=True)

    def start(self, moving: int = 0) -> Lab:
        """Acknowledge, wait for the policy's authority, then let it move for ``moving`` ticks."""
        self.acknowledge()
        for _ in range(round(1.0 / self.period)):
            if self.tick().authority is Authority.POLICY:
                break
        assert self.decisions[-1].authority is Authority.POLICY
        self.run(moving)
        return self


@dataclass(frozen=True, slots=True)
class Produced:
    """What the filter, the backup or nobody produced, and its torque at that moment."""

    by: str
    state: RobotState | None
    result: FilterResult
    torque: bytes


@contextmanager
def watched(lab: Lab) -> Generator[list[Produced]]:
    """Everything that the platform produces while the lab runs."""
    log: list[Produced] = []
    platform: Any = lab.platform
    for name in ("filter", "backup", "stopped", "bypass"):
        setattr(platform, name, _logging(name, getattr(platform, name), log))
    try:
        yield log
    finally:
        for name in ("filter", "backup", "stopped", "bypass"):
            delattr(platform, name)


def _logging(name: str, call: Callable[..., FilterResult], log: list[Produced]) -> Callable[..., FilterResult]:
    def logged(first: Any, *rest: Any) -> FilterResult:
        result = call(first, *rest)
        state = first if isinstance(first, RobotState) else None
        log.append(Produced(name, state, result, result.torque.tobytes()))
        return result

    return logged


def always(answer: object) -> Callable[..., Any]:
    """A function that gives ``answer`` whatever it is asked."""

    def call(*_: object, **__: object) -> object:
        return answer

    return call


def outcome(decision: Decision) -> bytes:
    """Everything of a decision but its measured timings, as the journal would write it."""
    return orjson.dumps(named_decision(decision), option=orjson.OPT_SERIALIZE_NUMPY)


def artefact(count: int, horizon: int = 10**6, size: float = 1.0) -> Calibration:
    """A calibration of the laboratory's monitors: ``count`` episodes with shield efforts from ``size`` on."""
    members: list[tuple[str, Witness, float]] = [
        (entry.name, entry.witness, entry.resolution) for entry, _ in monitors(Lab().shield.bank.setting)
    ]
    order = np.random.default_rng(1).permutation(count + -(-count // 4))  # rising sizes would be a drift
    sizes = {"shield_effort": size, "reversal_rate": 0.5}  # a rate is at most 1, whatever happens
    traces = [{name: np.full(5, sizes.get(name, 5.0) * (1.0 + 1e-3 * i)) for name, _, _ in members} for i in order]
    made = calibrate(traces, members)
    return made.model_copy(update={"horizon_ticks": horizon}).sealed()
