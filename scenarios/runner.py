"""Runs one episode of a scenario: world, faults, policy, shield, referee and a scripted operator.

Time is the world's (law 11); every random stream comes from (seed, episode, component). On every way out
faults are cleared and the episode is closed in the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import numpy as np
from pydantic import JsonValue

from safeguard.core.enums import Cause, Enforcement, FilterStatus, Mode, RecordKind
from safeguard.core.errors import ConfigError
from safeguard.core.protocols import Policy, PolicyPort
from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S, ActionSpec, Decision, Observation, Proposal
from safeguard.policies.port import InlinePort
from safeguard.scenarios import faults as library
from safeguard.scenarios import streams
from safeguard.scenarios.episode import (
    EpisodeResult,
    Stillness,
    TickLog,
    activity_json,
    classify,
    follows_proposal,
)
from safeguard.scenarios.fault_params import FaultParams
from safeguard.scenarios.faults import Activity, Fault
from safeguard.scenarios.inject import FaultEvent, FaultyDrives, FaultyLatency, FaultyPolicy, Injector
from safeguard.scenarios.push import PushExpert, ReachPush
from safeguard.scenarios.referee import Referee
from safeguard.scenarios.scenario import OperatorScript, Scenario
from safeguard.scenarios.world import Task, World

if TYPE_CHECKING:
    from safeguard.audit.journal.journal import Journal
    from safeguard.audit.journal.settings import AuditConfig
    from safeguard.core.config import ShieldConfig
    from safeguard.monitors import Calibration


class ShieldLike(Protocol):
    """What the runner needs of a shield."""

    def begin_episode(self, task: str, **info: JsonValue) -> None:
        """Start an episode."""
        ...

    def step(self, observation: Observation, now: int | None = None) -> Decision:
        """Decide one tick."""
        ...

    def acknowledge(self, *, operator: str, reason: str, simulated: bool = False) -> None:
        """A person, or a script in a person's place, allows motion."""
        ...

    def record(self, kind: RecordKind, body: Mapping[str, JsonValue]) -> None:
        """Place a record in the journal."""
        ...

    def close(self) -> None:
        """Close the run."""
        ...


class ShieldMaker(Protocol):
    """``Shield`` itself, or a double of it."""

    def __call__(
        self,
        robot: RobotModel,
        policy: PolicyPort,
        /,
        *,
        strategy: str,
        period: float,
        config: ShieldConfig | None,
        audit: str | Path | AuditConfig | Journal | None,
        enforcement: Enforcement,
        calibration: Calibration | None = None,
    ) -> ShieldLike:
        """A shield for one robot and one policy."""
        ...


T = TypeVar("T")

TASKS: Mapping[str, Callable[[], Task | None]] = {"reach_push": ReachPush, "none": lambda: None}
"""Tasks that a scenario can name."""


def _learned(robot: RobotModel) -> Policy:
    from safeguard.policies.push_policy import PushPolicy

    return PushPolicy.load(robot)


POLICIES: Mapping[str, Callable[[RobotModel], Policy]] = {"push_policy": _learned, "push_expert": PushExpert}
"""Policies that a scenario can name."""


def load_policy(scenario: Scenario, robot: RobotModel) -> Policy:
    """The policy that ``scenario`` names; raises ConfigError where there is none of that name."""
    return _lookup(POLICIES, scenario.policy, "policy")(robot)


def run_episode(
    scenario: Scenario,
    *,
    seed: int | None = None,
    episode: int = 0,
    enforcement: Enforcement = Enforcement.FULL,
    audit: str | Path | AuditConfig | Journal | None = None,
    config: ShieldConfig | None = None,
    calibration: Calibration | None = None,
    policy: Policy | None = None,
    twin: EpisodeResult | None = None,
    make_shield: ShieldMaker | None = None,
    progress: Callable[[Decision], None] | None = None,
) -> EpisodeResult:
    """Run one episode.

    Args:
        scenario: what happens.
        seed: replaces the scenario's.
        episode: number in the campaign; with the seed it names every random stream.
        enforcement: ``OFF`` sends the raw proposals to the drives; ``MONITOR_ONLY`` too, and records what it
            would have done.
        audit: run folder, settings or open journal for the records.
        config: of the shield.
        calibration: of its monitors.
        policy: replaces the scenario's.
        twin: the same episode with ``scenario.twin()``; without it no episode is classed as masked.
        make_shield: builds the shield; ``safeguard.shield.Shield`` if None.
        progress: called with every decision.

    Raises:
        ConfigError: a name in the scenario is unknown, or a fault cannot act on the policy.
    """
    seed = scenario.seed if seed is None else seed
    robot = RobotModel.load(scenario.robot)
    guest = load_policy(scenario, robot) if policy is None else policy
    task = _lookup(TASKS, scenario.task, "task")()
    world = World(robot, task, period=scenario.period_s, physics_dt=scenario.physics_dt_s)
    world.reset(streams.seed(seed, episode, "world"))
    faults = [library.build(p, robot, guest.spec, campaign=seed, episode=episode) for p in scenario.faults]
    port = _TrackedPort(guest, scenario.latency_s, faults, enforcement)
    shield = (make_shield or _shield())(
        robot,
        port,
        strategy=scenario.strategy,
        period=scenario.period_s,
        config=config,
        audit=audit,
        enforcement=enforcement,
        calibration=calibration,
    )
    run = _Run(scenario, seed, episode, enforcement, world, port, faults, shield, twin)
    try:
        return run(progress)
    finally:
        shield.close()


_CARE: Final = frozenset({Cause.MONITOR_WARN, Cause.PERCEPTION_WARN, Cause.TICK_OVERRUN, Cause.UNCALIBRATED})
"""Causes whose floor in every table is CAUTIOUS at most."""


@dataclass(slots=True)
class Operator:
    """A scripted operator (law 7): acknowledges the start at once, a hold after a dwell of calm.

    Calm is standstill with no cause beyond those that were there at the start, and those that only ask for care: an arm
    that was held half way stands where its policy never stood, and a warning that this is new should not end the work.
    While a hold lasts, the script tries again after every dwell; what it is limited in is how often the body was let
    go.

    Attributes:
        acknowledgements: given so far, taken or not.
        releases: times that a hold ended, the start included.
    """

    script: OperatorScript
    acknowledgements: int = 0
    releases: int = 0
    _accepted: frozenset[Cause] = frozenset()
    _calm_since: int | None = None
    _held: bool = False

    def reason(self, decision: Decision, still: bool, now: int) -> str | None:
        """Why to acknowledge at ``now`` ns, or None. ``still``: the body is at standstill."""
        held, self._held = self._held, decision.mode is Mode.HOLD
        self.releases += held and not self._held
        first = self.acknowledgements == 0
        calm = self._held and still and (first or self._accepted.issuperset(set(decision.causes) - _CARE))
        if not calm or self.releases > self.script.recoveries:
            self._calm_since = None
            return None
        if first:
            self._accepted = frozenset(decision.causes)
        elif not self._waited(now):
            return None
        self.acknowledgements += 1
        self._calm_since = now
        return "scripted start" if first else "scripted recovery after standstill"

    def _waited(self, now: int) -> bool:
        self._calm_since = now if self._calm_since is None else self._calm_since
        return now - self._calm_since >= round(self.script.dwell_s * NS_PER_S)


class _TrackedPort:
    """The policy behind its faults and its latency, with the age of what the shield follows."""

    def __init__(
        self, policy: Policy, latency_s: float, faults: list[Fault[FaultParams]], enforcement: Enforcement
    ) -> None:
        self.name = str(getattr(policy, "name", type(policy).__name__))
        self.digest = getattr(policy, "digest", None)
        self._policy = FaultyPolicy(policy, faults)
        self._port = InlinePort(self._policy, latency=FaultyLatency(latency_s, faults))
        self._refuses = enforcement is Enforcement.FULL
        self._current: Proposal | None = None

    @property
    def spec(self) -> ActionSpec:
        return self._port.spec

    def post(self, observation: Observation, now: int) -> None:
        self._port.post(observation, now)

    def poll(self, now: int) -> Proposal | None:
        proposal = self._port.poll(now)
        if proposal is not None and not (self._refuses and not np.isfinite(proposal.actions).all()):
            self._current = proposal
        return proposal

    def reset(self) -> None:
        self._port.reset()
        self._current = None

    def informed(self) -> int | None:
        """Time of the newest information in the newest proposal that can be followed, ns."""
        return None if self._current is None else self._policy.known(self._current)


@dataclass
class _Run:
    """One episode under way."""

    scenario: Scenario
    seed: int
    episode: int
    enforcement: Enforcement
    world: World
    port: _TrackedPort
    faults: list[Fault[FaultParams]]
    shield: ShieldLike
    twin: EpisodeResult | None
    drives: FaultyDrives = field(init=False)
    referee: Referee = field(init=False)
    log: TickLog = field(init=False)
    stillness: Stillness = field(init=False)
    operator: Operator = field(init=False)

    def __post_init__(self) -> None:
        self.drives = FaultyDrives(self.faults)
        self.referee = Referee(self.world.robot, self.world, max_age_s=self.scenario.ftti_s)
        self.world.on_physics_step = self.referee.sample
        self.log = TickLog(self.scenario.standstill)
        self.stillness = Stillness(self.scenario.standstill)
        self.operator = Operator(self.scenario.operator)

    def __call__(self, progress: Callable[[Decision], None] | None) -> EpisodeResult:
        self._begin()
        with ExitStack() as stack:
            stack.callback(self.close)
            injector = stack.enter_context(Injector(self.faults, self._tell))
            for _ in range(self.scenario.ticks):
                injector.tick(self.world.time_ns)
                decision = self._tick()
                if progress is not None:
                    progress(decision)
        return self.result()

    def _begin(self) -> None:
        scenario = self.scenario
        faults: list[JsonValue] = [
            {"id": p.label, "kind": p.kind, "parameters": _parameters(p)} for p in scenario.faults
        ]
        self.shield.begin_episode(scenario.task, scenario=scenario.name, seed=self.seed, faults=faults)

    def _tick(self) -> Decision:
        world, referee, now = self.world, self.referee, self.world.time_ns
        observation = world.observe()
        decision = self.shield.step(observation, now=now)
        referee.command(decision.command, now, self.port.informed() if follows_proposal(decision) else None)
        world.apply(self.drives(decision.command, now))
        world.advance()
        referee.observe()
        self.log.add(decision, now, self._activities())
        still_s = self.stillness.observe(world.observe().state.v, world.time_ns)
        self.log.settle(still_s, referee.within, world.time_ns)
        reason = self.operator.reason(decision, still_s >= 0.0, world.time_ns)
        if reason is not None:
            self.shield.acknowledge(operator=self.scenario.operator.name, reason=reason, simulated=True)
        return decision

    def _tell(self, event: FaultEvent) -> None:
        kind = RecordKind.FAULT_INJECTED if event.injected else RecordKind.FAULT_CLEARED
        body: dict[str, JsonValue] = {
            "episode": self.episode,
            "id": event.params.label,
            "kind": event.params.kind,
            "parameters": _parameters(event.params),
            "evidence": activity_json(event.activity),
        }
        self.shield.record(kind, body)

    def _activities(self) -> list[Activity]:
        return [fault.activity for fault in self.faults]

    def close(self) -> None:
        """Leave the result in the journal."""
        body: dict[str, JsonValue] = {"episode": self.episode, "outcome": self.result().as_record()}
        self.shield.record(RecordKind.EPISODE_CLOSE, body)

    def result(self) -> EpisodeResult:
        """What was measured so far."""
        judgement, log, commands = self.referee.judgement(), self.log, self.log.commands()
        detect_s = None if self.enforcement is Enforcement.OFF else log.detect_s
        return EpisodeResult(
            scenario=self.scenario.name,
            seed=self.seed,
            episode=self.episode,
            enforcement=self.enforcement,
            outcome=classify(
                judgement=judgement,
                activities=self._activities(),
                enforcement=self.enforcement,
                detect_s=detect_s,
                ftti_s=self.scenario.ftti_s,
                same_as_twin=self.twin is not None and self.twin.commands == commands,
            ),
            judgement=judgement,
            activities={fault.params.label: fault.activity for fault in self.faults},
            ticks=log.ticks,
            detect_s=detect_s,
            safe_s=log.safe_s if self.enforcement is Enforcement.FULL else None,
            success=self.world.succeeded,
            modified=log.share(FilterStatus.CORRECTED),
            braked=log.braked,
            stuck=log.stuck,
            acknowledgements=self.operator.acknowledgements,
            final_mode=log.final_mode,
            commands=commands,
        )


def _parameters(params: FaultParams) -> dict[str, JsonValue]:
    dumped: dict[str, JsonValue] = params.model_dump(mode="json", exclude={"kind", "name"})
    return dumped


def _lookup(table: Mapping[str, T], name: str, what: str) -> T:
    if name not in table:
        raise ConfigError(f"unknown {what} {name!r} in the scenario; known: {', '.join(table)}")
    return table[name]


def _shield() -> ShieldMaker:
    from safeguard.shield import Shield

    return Shield
