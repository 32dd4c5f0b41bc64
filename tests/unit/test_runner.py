"""The episode runner: who gets what in which order, what is measured, and that every way out is clean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson
import pytest
from pydantic import JsonValue

from safeguard.audit.records.registry import SCHEMAS
from safeguard.controllers.dynamics import Dynamics
from safeguard.controllers.tracking import ChunkTracking
from safeguard.core.enums import Authority, Cause, Enforcement, FilterStatus, Mode, RecordKind, SolverStatus
from safeguard.core.errors import ConfigError
from safeguard.core.protocols import PolicyPort
from safeguard.core.robot import RobotModel
from safeguard.core.types import (
    NS_PER_S,
    Decision,
    FilterResult,
    Margins,
    Observation,
    Proposal,
    TerminalStop,
    Timings,
    TorqueCommand,
    frozen_array,
)
from safeguard.modes.table import STRATEGIES, load_spec
from safeguard.scenarios.episode import EpisodeResult, Outcome, Stillness, TickLog, classify
from safeguard.scenarios.faults import Activity
from safeguard.scenarios.referee import Judgement, Violation, ViolationKind
from safeguard.scenarios.runner import Operator, run_episode
from safeguard.scenarios.scenario import OperatorScript, Scenario, Standstill, library, load_scenario

MARGINS = Margins(np.nan, np.nan, np.nan, np.nan, "")
FAULTED = [name for name in library() if name != "clean"]


@dataclass
class PassThrough:
    """A double of the shield: it holds until acknowledged, then sends every proposal on as it is."""

    robot: RobotModel
    port: PolicyPort
    period: float
    enforcement: Enforcement
    breaks_at: int | None = None
    records: list[tuple[RecordKind, Mapping[str, JsonValue]]] = field(
        default_factory=list[tuple[RecordKind, Mapping[str, JsonValue]]]
    )
    reasons: list[str] = field(default_factory=list[str])
    closed: bool = False

    def __post_init__(self) -> None:
        self.dynamics = Dynamics(self.robot)
        self.controller = ChunkTracking(self.port.spec, self.robot.joints)
        self.current: Proposal | None = None
        self.tick = 0

    def begin_episode(self, task: str, **info: JsonValue) -> None:
        """Forget the last one."""
        self.port.reset()
        self.records.append((RecordKind.EPISODE_OPEN, {"task": task, **info}))

    def step(self, observation: Observation, now: int | None = None) -> Decision:
        """The raw proposal, or gravity compensation before there is one."""
        assert now is not None
        assert now == observation.state.t
        if self.tick == self.breaks_at:
            raise RuntimeError("the double breaks")
        self.port.post(observation, now)
        self.current = self.port.poll(now) or self.current
        state, moving = observation.state, bool(self.reasons) and self.current is not None
        self.dynamics.update(state.q, state.v)
        wanted = -20.0 * state.v
        if moving and self.current is not None:
            wanted = self.controller.nominal(self.current, state, now).value
        self.tick += 1
        tau = self.dynamics.torque(wanted)
        status = FilterStatus.BYPASSED if moving else FilterStatus.BACKUP
        mode = Mode.NOMINAL if self.reasons else Mode.HOLD
        return decided(self.tick, mode=mode, status=status, now=now, tau=tau)

    def acknowledge(self, *, operator: str, reason: str, simulated: bool = False) -> None:
        """Note who asked."""
        assert simulated
        self.reasons.append(reason)

    def record(self, kind: RecordKind, body: Mapping[str, JsonValue]) -> None:
        """Keep it."""
        self.records.append((kind, body))

    def close(self) -> None:
        """Note it."""
        self.closed = True


def decided(
    tick: int,
    *,
    mode: Mode = Mode.NOMINAL,
    status: FilterStatus = FilterStatus.ADMISSIBLE,
    causes: tuple[Cause, ...] = (),
    now: int = 0,
    tau: Any = None,
) -> Decision:
    """A decision with what matters here."""
    torque = frozen_array(np.zeros(7) if tau is None else tau)
    by = {FilterStatus.CORRECTED: "qp", FilterStatus.BACKUP: "backup", FilterStatus.REFUSED: "terminal_stop"}
    source = by.get(status, "proposal")
    result = FilterResult(torque, frozen_array(np.zeros(7)), status, SolverStatus.SKIPPED, source, (), (), MARGINS, 0.0)
    command = TorqueCommand(torque, now, now + 4_000_000, tick)
    return Decision(command, mode, causes, (), Authority.POLICY, (), result, result.source, Timings(), tick, 0)


class Maker:
    """Builds pass-through shields and remembers the last one."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.breaks_at = breaks_at
        self.made: PassThrough | None = None

    def __call__(
        self,
        robot: RobotModel,
        policy: PolicyPort,
        /,
        *,
        strategy: str,
        period: float,
        config: object,
        audit: object,
        enforcement: Enforcement,
        calibration: object = None,
    ) -> PassThrough:
        """A fresh double."""
        self.made = PassThrough(robot, policy, period, enforcement, self.breaks_at)
        return self.made

    @property
    def shield(self) -> PassThrough:
        """The last one made."""
        assert self.made is not None
        return self.made


def run(scenario: Scenario, maker: Maker | None = None, **options: Any) -> EpisodeResult:
    """One episode of the scripted expert behind the double."""
    expert = scenario.model_copy(update={"policy": "push_expert"})
    enforcement = options.pop("enforcement", Enforcement.OFF)
    return run_episode(expert, enforcement=enforcement, make_shield=maker or Maker(), **options)


def short(name: str, *assignments: str) -> Scenario:
    """A scenario of the library, cut to 0.8 s with its fault from 0.3 s on."""
    cut = ["duration_s=0.8", *(["faults.0.start_s=0.3"] if name != "clean" else [])]
    return load_scenario(name, [*cut, *assignments])


@pytest.mark.parametrize("name", FAULTED)
def test_raw_proposals_show_the_violations_that_the_scenario_declares(name: str) -> None:
    """Negative control: without a filter each faulted scenario shows its kinds, from an active fault on."""
    scenario = load_scenario(name)
    result = run(scenario)

    kinds = set(result.judgement.violations)
    assert kinds >= set(scenario.expectation.unshielded)
    assert all(activity.count > 0 for activity in result.activities.values())
    onset = min(activity.first or 0 for activity in result.activities.values())
    assert all(violation.first > onset for violation in result.judgement.violations.values())
    assert result.outcome in {Outcome.HAZARD, Outcome.UNDETECTED_SAFE}


def test_a_clean_episode_of_the_expert_succeeds_without_a_violation() -> None:
    """The scenario itself is no hazard: the task is done and the referee saw nothing."""
    result = run(load_scenario("clean"))
    assert (result.outcome, result.success, result.ticks) == (Outcome.CLEAN, True, 2500)
    assert result.judgement.clean
    assert result.judgement.ticks == 2500
    assert result.judgement.clearance > 0.01


def test_an_episode_is_a_function_of_its_identity() -> None:
    """Same seed and episode: the same commands bit for bit; another episode: others."""
    scenario = short("torque_spikes")
    first, again, other = run(scenario), run(scenario), run(scenario, episode=1)
    assert first == again
    assert other.commands != first.commands
    assert run(scenario, seed=2).commands != first.commands


def test_the_twin_does_what_a_run_without_faults_does() -> None:
    """A severity of 0 changes no command, and the twin's fault counts as not activated."""
    scenario = short("torque_spikes")
    twin, clean = run(scenario.twin()), run(short("clean"))
    assert twin.commands == clean.commands
    assert twin.outcome is Outcome.NOT_ACTIVATED


def test_a_fault_that_changes_no_command_is_masked() -> None:
    """Active, but the commands are those of the clean twin: the chunk in flight outlasts the episode."""
    scenario = short("policy_hang", "duration_s=0.71", "faults.0.start_s=0.69")
    result = run(scenario, twin=run(scenario.twin()))
    assert result.activities["compute.hang"].count == 1
    assert result.outcome is Outcome.MASKED


def test_the_journal_gets_the_episode_and_its_faults_in_order() -> None:
    """Open, injected with evidence, cleared, close with the result; every body fits its schema."""
    maker = Maker()
    result = run(short("nan_burst", "faults.0.duration_s=0.2"), maker)

    records = maker.shield.records
    assert [kind for kind, _ in records] == [
        RecordKind.EPISODE_OPEN,
        RecordKind.FAULT_INJECTED,
        RecordKind.FAULT_CLEARED,
        RecordKind.EPISODE_CLOSE,
    ]
    for kind, body in records[1:]:
        SCHEMAS[kind].model_validate_json(orjson.dumps(body))
    assert records[1][1]["evidence"] == {"count": 1, "largest": "Infinity", "first": 300_000_000}
    assert records[3][1]["outcome"] == result.as_record()
    assert maker.shield.closed


def test_what_breaks_in_an_episode_leaves_it_closed() -> None:
    """An exception clears the faults, closes the episode in the journal and the shield, and goes on up."""
    maker = Maker(breaks_at=200)
    with pytest.raises(RuntimeError, match="the double breaks"):
        run(short("frozen_observation"), maker)

    kinds = [kind for kind, _ in maker.shield.records]
    assert kinds[-2:] == [RecordKind.FAULT_CLEARED, RecordKind.EPISODE_CLOSE]
    assert maker.shield.closed


@pytest.mark.parametrize(("key", "known"), [("policy", "push_policy, push_expert"), ("task", "reach_push, none")])
def test_an_unknown_part_is_named(key: str, known: str) -> None:
    """The error lists what exists."""
    scenario = load_scenario("clean", [f"{key}=nothing"])
    with pytest.raises(ConfigError, match=f"unknown {key} 'nothing' in the scenario; known: {known}"):
        run_episode(scenario, make_shield=Maker())


def test_the_operator_starts_at_once() -> None:
    """The first hold at standstill is acknowledged, whatever causes it shows."""
    operator = Operator(OperatorScript())
    hold = decided(0, mode=Mode.HOLD, causes=(Cause.UNCALIBRATED,))
    assert operator.reason(hold, still=False, now=0) is None
    assert operator.reason(decided(0, mode=Mode.STOP), still=True, now=0) is None
    assert operator.reason(hold, still=True, now=0) == "scripted start"


def test_the_operator_waits_for_calm_before_a_recovery() -> None:
    """Moving, or a cause that was not there at the start, begins the dwell anew."""
    operator = Operator(OperatorScript(dwell_s=0.1))
    hold = decided(0, mode=Mode.HOLD, causes=(Cause.UNCALIBRATED,))
    late = replace(hold, causes=(Cause.UNCALIBRATED, Cause.POLICY_LATE))
    operator.reason(hold, still=True, now=0)
    tenth = NS_PER_S // 10
    script = [(late, True, 1), (hold, True, 2), (hold, False, 3), (hold, True, 4), (hold, True, 5)]
    said = [operator.reason(decision, still, k * tenth) for decision, still, k in script]
    assert said == [None] * 4 + ["scripted recovery after standstill"]


def test_the_operator_gives_up() -> None:
    """Having let the body out of as many holds as allowed, the script acknowledges no more."""
    operator = Operator(OperatorScript(dwell_s=0.0, recoveries=2))
    hold, free = decided(0, mode=Mode.HOLD), decided(0)
    said = [operator.reason(decision, still=True, now=k) for k, decision in enumerate([hold, free] * 5)]
    assert [reason is not None for reason in said] == [True, False] * 3 + [False] * 4


def test_the_operator_tries_again_while_a_hold_lasts() -> None:
    """An acknowledgement that was not taken costs nothing but another dwell."""
    operator = Operator(OperatorScript(dwell_s=0.1, recoveries=1))
    hold = decided(0, mode=Mode.HOLD)
    said = [operator.reason(hold, still=True, now=k * NS_PER_S // 20) for k in range(9)]
    assert [reason is not None for reason in said] == [True, False] * 4 + [True]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_operator_lets_go_only_beside_what_asks_for_care(strategy: str) -> None:
    """Whatever stands beside a recovery without ending the calm has the floor CAUTIOUS or less in every table."""
    floors = {row.cause: row.floor for row in load_spec(strategy).causes}
    accepted = list[Cause]()
    for cause in Cause:
        operator, hold = Operator(OperatorScript(dwell_s=0.0)), decided(0, mode=Mode.HOLD)
        operator.reason(hold, still=True, now=0)
        if operator.reason(replace(hold, causes=(cause,)), still=True, now=1) is not None:
            accepted.append(cause)
    assert Cause.MONITOR_WARN in accepted
    assert [cause for cause in accepted if floors[cause] > Mode.CAUTIOUS] == []


def test_detection_counts_from_the_first_effect_and_ignores_what_was_there_before() -> None:
    """A standing cause is no detection; a new one is, with the time since the fault first acted."""
    log, idle, acting = TickLog(Standstill()), [Activity()], [Activity(1, 1.0, 10_000_000)]
    standing = decided(0, causes=(Cause.UNCALIBRATED,))
    log.add(standing, 8_000_000, idle)
    log.add(standing, 10_000_000, acting)
    assert log.detect_s is None
    log.add(replace(standing, causes=(Cause.UNCALIBRATED, Cause.POLICY_LATE)), 14_000_000, acting)
    assert log.detect_s == pytest.approx(0.004)


@pytest.mark.parametrize(
    "answer",
    [
        decided(1, mode=Mode.CAUTIOUS),
        decided(1, status=FilterStatus.CORRECTED),
        decided(1, status=FilterStatus.BACKUP),
        decided(1, causes=(Cause.MONITOR_WARN,)),
    ],
)
def test_each_kind_of_answer_is_a_detection(answer: Decision) -> None:
    """A worse mode, an intervention of the filter, or a new cause."""
    log = TickLog(Standstill())
    log.add(decided(0), 0, [Activity()])
    log.add(answer, 2_000_000, [Activity(1, 1.0, 2_000_000)])
    assert log.detect_s == 0.0


def test_a_safe_state_needs_hold_standstill_and_limits() -> None:
    """All three at once, or a terminal stop at standstill."""
    acting = [Activity(1, 1.0, 0)]
    log = TickLog(Standstill(dwell_s=0.1))
    log.add(decided(0, mode=Mode.CAUTIOUS), 0, acting)
    log.settle(1.0, within=True, now=NS_PER_S)
    log.add(decided(1, mode=Mode.HOLD), NS_PER_S, acting)
    log.settle(0.05, within=True, now=NS_PER_S)
    log.settle(1.0, within=False, now=NS_PER_S)
    assert log.safe_s is None
    log.settle(0.1, within=True, now=2 * NS_PER_S)
    assert log.safe_s == 2.0

    stopped = TickLog(Standstill(dwell_s=0.1))
    stopped.add(replace(decided(0, mode=Mode.CAUTIOUS), command=TerminalStop("x", 0, 0)), 0, acting)
    stopped.settle(0.2, within=True, now=NS_PER_S)
    assert stopped.safe_s == 1.0


def test_shares_are_of_all_ticks() -> None:
    """Corrected, braked and stuck ticks over all ticks."""
    log = TickLog(Standstill())
    statuses = [FilterStatus.CORRECTED, FilterStatus.BACKUP, FilterStatus.REFUSED, FilterStatus.ADMISSIBLE]
    for k, status in enumerate(statuses):
        decision = decided(k, status=status)
        log.add(replace(decision, filter=replace(decision.filter, stuck=k == 0)), k, [])
    assert (log.share(FilterStatus.CORRECTED), log.braked, log.stuck) == (0.25, 0.5, 0.25)


def test_standstill_is_measured_from_the_last_motion() -> None:
    """Every joint under the threshold; one fast joint, or NaN, starts it anew."""
    stillness = Stillness(Standstill(speed_radps=0.02))
    assert stillness.observe(np.zeros(7), 0) == 0.0
    assert stillness.observe(np.full(7, 0.019), NS_PER_S) == 1.0
    assert stillness.observe(np.array([0, 0, 0.02, 0, 0, 0, 0]), 2 * NS_PER_S) < 0.0
    assert stillness.observe(np.full(7, np.nan), 3 * NS_PER_S) < 0.0
    assert stillness.observe(np.zeros(7), 4 * NS_PER_S) == 0.0


def judged(*kinds: ViolationKind, unstable: bool = False) -> Judgement:
    """An account with one violation of each kind."""
    return Judgement({kind: Violation(kind, 1, 1.0, "", 0) for kind in kinds}, 0, 0.1, "", 1, unstable)


ACTIVE, IDLE = Activity(1, 1.0, 0), Activity()
POSITION, STALE = ViolationKind.POSITION, ViolationKind.STALE


@pytest.mark.parametrize(
    ("judgement", "activities", "enforcement", "detect_s", "same", "outcome"),
    [
        (judged(unstable=True), [ACTIVE], Enforcement.FULL, 0.1, False, Outcome.INVALID),
        (judged(POSITION, unstable=True), [ACTIVE], Enforcement.FULL, 0.1, False, Outcome.HAZARD),
        (judged(POSITION), [ACTIVE, IDLE], Enforcement.FULL, 0.1, False, Outcome.NOT_ACTIVATED),
        (judged(POSITION), [ACTIVE], Enforcement.FULL, 0.1, True, Outcome.HAZARD),
        (judged(POSITION), [], Enforcement.FULL, None, False, Outcome.HAZARD),
        (judged(), [ACTIVE], Enforcement.FULL, None, True, Outcome.MASKED),
        (judged(), [], Enforcement.FULL, None, False, Outcome.CLEAN),
        (judged(), [ACTIVE], Enforcement.FULL, 0.5, False, Outcome.HANDLED_IN_TIME),
        (judged(), [ACTIVE], Enforcement.FULL, 0.51, False, Outcome.HANDLED_LATE),
        (judged(STALE), [ACTIVE], Enforcement.FULL, 0.1, False, Outcome.HANDLED_LATE),
        (judged(), [ACTIVE], Enforcement.FULL, None, False, Outcome.UNDETECTED_SAFE),
        (judged(), [ACTIVE], Enforcement.OFF, 0.1, False, Outcome.UNDETECTED_SAFE),
        (judged(STALE), [ACTIVE], Enforcement.MONITOR_ONLY, 0.1, False, Outcome.UNDETECTED_SAFE),
    ],
)
def test_every_episode_has_one_outcome(
    judgement: Judgement,
    activities: list[Activity],
    enforcement: Enforcement,
    detect_s: float | None,
    same: bool,
    outcome: Outcome,
) -> None:
    """The classes in their order; only a shield that enforces handles a fault."""
    found = classify(
        judgement=judgement,
        activities=activities,
        enforcement=enforcement,
        detect_s=detect_s,
        ftti_s=0.5,
        same_as_twin=same,
    )
    assert found is outcome
