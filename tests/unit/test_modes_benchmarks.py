"""The benchmarks of modes, in small: agreement before time, causes as the shield raises them, floors in the shield."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks.machines import MODES, Memory, Ours, PlainPython, rules
from benchmarks.modes import (
    BLOCK,
    disagreement,
    interleaved,
    met,
    percentiles,
    ratios,
    story,
    streams,
)
from benchmarks.reaction import FAULTS, Bench, Reaction, react
from benchmarks.spurious import (
    CASES,
    PERIOD,
    SOURCES,
    Flags,
    Ints,
    Source,
    Tally,
    arrays,
    bare,
    causes_of,
    draw,
    figures,
    movers,
    run,
    unpunctual,
)
from safeguard.core.config import IntakeConfig, PolicyConfig, PunctualConfig
from safeguard.core.enums import Cause, Mode, Reference
from safeguard.core.types import NS_PER_S, ActionSpec, Observation, Proposal, RobotState
from safeguard.modes import STRATEGIES, ModeTable, cause_mask, compile_table, load_spec, step
from safeguard.modes.state import ModeInputs, ModeOutputs, ModeState
from safeguard.monitors import Intake, PolicyDeadline
from safeguard.monitors.punctual import Punctual
from safeguard.policies import InlinePort

TICK = 2_000_000
WHOLE = compile_table(load_spec("monolithic"), PERIOD)
QUIET = step(WHOLE, ModeState.initial(WHOLE, Mode.NOMINAL), ModeInputs())[1]
LATE, INVALID = cause_mask([Cause.POLICY_LATE]), cause_mask([Cause.PROPOSAL_INVALID])


# -- time -------------------------------------------------------------------------------------------------


def test_the_table_without_a_library_says_what_the_engine_says() -> None:
    """On every stream and in the story, tick by tick, with reasons; they lead through all modes and back."""
    ours, plain, seen = Ours("ours", WHOLE), PlainPython(WHOLE), set[Mode]()
    for ticks in (*streams(40_000).values(), story()):
        assert disagreement(ours, plain, ticks) == ""
        for k, tick in enumerate(ticks):
            if k % BLOCK == 0:
                plain.reset()
            seen.add(plain.tick(*tick).mode)
    assert seen == set(MODES)


@pytest.mark.parametrize("name", ["bridge", "dwell", "escalation", "lockout", "why"])
def test_a_machine_that_differs_is_seen(name: str) -> None:
    """Without bridges, dwells, escalations or LOCKOUT, or with other reasons, it does not pass for the table."""
    spec = load_spec("monolithic")
    spec = {
        "bridge": bare(spec),
        "dwell": spec.model_copy(
            update={"recoveries": tuple(row.model_copy(update={"dwell_s": None}) for row in spec.recoveries)}
        ),
        "escalation": spec.model_copy(
            update={"escalations": tuple(row.model_copy(update={"moving_s": 1e6}) for row in spec.escalations)}
        ),
        "lockout": spec.model_copy(update={"lockout": spec.lockout.model_copy(update={"beyond": 10**6})}),
        "why": spec.model_copy(
            update={"causes": tuple(row.model_copy(update={"id": f"X{row.id}"}) for row in spec.causes)}
        ),
    }[name]
    other = PlainPython(compile_table(spec, PERIOD))
    ticks = story() + [(0, False, True)] * (-len(story()) % BLOCK) + streams(8000)["mixed"]
    assert disagreement(Ours("ours", WHOLE), other, ticks).startswith("tick ")


def test_by_row_and_by_floor_are_the_same_machine() -> None:
    """In every mode, whatever one cause is active, the first rule that applies leads to the same mode."""
    memory = Memory(WHOLE)
    forms = [rules(memory, by_row=by_row) for by_row in (False, True)]
    assert len(forms[0]) < len(forms[1])
    actives = (0, *(cause_mask([cause]) for cause in Cause))
    for mode, active, estops in product(MODES, actives, (0, memory.beyond)):
        timers = (mode, memory.escalations[mode][0], memory.recoveries[mode][0])
        for due in {Mode(target) for target in timers if target >= 0}:
            memory.mode, memory.active, memory.estops, memory.due = mode, active, estops, due
            first, second = (
                next((target for source, target, guard in form if source is mode and guard()), mode) for form in forms
            )
            assert first is second


def test_machines_are_timed_block_by_block_in_changing_order() -> None:
    """Every tick of every stream has a time for every machine; each turn another one is first."""
    log: list[str] = []

    class Double:
        def __init__(self, name: str) -> None:
            self.name = name

        def reset(self) -> None:
            log.append(self.name)

        def tick(self, causes: int, ack: bool, standstill: bool) -> ModeOutputs:
            return QUIET

    found = interleaved([Double("a"), Double("b")], {"quiet": [(0, False, True)] * (BLOCK + 3)}, lambda: None)
    assert log == ["a", "b", "a", "b", "b", "a"]
    assert {name: len(times) for name, times in found["quiet"].items()} == {"a": BLOCK + 3, "b": BLOCK + 3}


def test_the_verdict_on_times() -> None:
    """Our slowest table against every other machine; a slow step or a quick peer by row fails."""
    assert percentiles([1000, 2000, 3000])["p50"] == 2.0
    good = {"quiet": {name: {"p50": 2.0} for name in STRATEGIES} | {"x, by row": {"p50": 40.0}}}
    assert ratios(good) == {"quiet": {"x, by row": 20.0}}
    assert met(good)
    assert not met({"quiet": good["quiet"] | {"x, by row": {"p50": 39.0}}})
    assert not met({"quiet": good["quiet"] | {"vla": {"p50": 5.1}, "x, by row": {"p50": 999.0}}})
    assert not met({"quiet": {name: {"p50": 2.0} for name in STRATEGIES}})


# -- spurious HOLDs ---------------------------------------------------------------------------------------


def _as_the_shield(late: Flags, invalid: Flags, ticks: int) -> list[int]:
    """Masks of the real port, intake, deadline and punctuality check of a policy with these outputs."""
    spec = ActionSpec(("a",), "rad", Reference.ABSOLUTE, 10.0, 1)

    class Policy:
        def __init__(self) -> None:
            self.name, self.spec, self.count = "scripted", spec, -1

        def infer(self, observation: Observation) -> Proposal:
            self.count += 1
            value = np.nan if invalid[self.count] else 0.001 * self.count
            return Proposal(np.full((1, 1), value), observation.state.t, observation.state.t, "scripted", self.count)

        def reset(self) -> None:
            pass

    port = InlinePort(Policy(), period=0.1, latency=lambda k, _: 0.12 if late[k] else 0.02)
    intake, deadline = Intake(("a",), PERIOD, velocity=np.ones(1)), PolicyDeadline(0.2, startup_s=0.2)
    punctual = Punctual(PunctualConfig(), 0.1)
    masks, current = list[int](), None
    for k in range(ticks):
        now = k * TICK
        seen = Observation(RobotState(np.zeros(1), np.zeros(1), now))
        intake.observe(seen, now)
        port.post(seen, now)
        arrived = port.poll(now)
        verdicts = intake.receive(arrived, spec, now, seen)
        if arrived is not None and all(verdict.cause is None for verdict in verdicts):
            current = arrived
        causes = [verdict.cause for verdict in (*verdicts, deadline.check(current, now), punctual.check(current, now))]
        masks.append(cause_mask(cause for cause in causes if cause is not None))
    return masks


def _masks_of(times: Ints, late: Flags, invalid: Flags, bits: Ints, ticks: int) -> tuple[Ints, Flags]:
    """The causes of a source by age and content, and in which ticks its usable outputs arrive."""
    masks, good = np.zeros(ticks, dtype=np.int64), np.zeros(ticks, dtype=np.int64)
    causes_of(times, late, invalid, bits, masks, good)
    return masks, good == 1


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_causes_are_those_of_the_shield(share: float) -> None:
    """Port, intake, deadline and punctuality say the same in every tick, with many outputs late, invalid or both."""
    times, late, invalid, bits = arrays(SOURCES["monolithic"], 6000, 3)
    rng = np.random.default_rng(0)
    late, invalid = rng.random(late.shape) < share, rng.random(late.shape) < share / 1.5
    masks, good = _masks_of(times, late, invalid, bits, 6000)
    rare = unpunctual(good, 0.2)
    assert np.where(rare, masks | LATE, masks).tolist() == _as_the_shield(late[0], invalid[0], 6000)
    assert {0, LATE, INVALID, LATE | INVALID} == set(masks.tolist())
    assert (rare & (masks & LATE == 0)).any(), "it says something that the deadline does not"


def test_punctuality_needs_asking_only_around_arrivals() -> None:
    """Asked in every tick the check says the same, also where a chunk comes in the very tick in which it is missed."""
    rng, arrives, check = np.random.default_rng(2), np.zeros(40_000, dtype=np.bool_), Punctual(PunctualConfig(), 0.1)
    arrives[np.cumsum(rng.choice([1, 20, 74, 75, 76, 77, 176, 400], 340))] = True
    chunks, said = np.cumsum(arrives), list[bool]()
    made = [Proposal(np.zeros((1, 1)), 0, 0, "scripted", k) for k in range(int(chunks[-1]) + 1)]
    for tick, count in enumerate(chunks.tolist()):
        said.append(check.check(made[int(count)] if count else None, tick * TICK).cause is not None)
    assert unpunctual(arrives, 0.2).tolist() == said
    assert 0.1 < np.mean(said) < 0.9


def test_strict_lateness_begins_when_an_output_is_due() -> None:
    """One late output of a policy is a cause for 49 ticks and 9 of its successor; for 9 with the shield's deadline."""
    found = list[int]()
    for strict in (False, True):
        times, late, invalid, bits = arrays(SOURCES["monolithic"], 1000, 0, strict=strict)
        late, invalid = np.zeros_like(late), np.zeros_like(invalid)
        late[0, 3] = True
        masks, good = _masks_of(times, late, invalid, bits, 1000)
        assert not unpunctual(good, 0.2).any()
        found.append(int(np.count_nonzero(masks == LATE)))
    assert found == [9, 58]


@pytest.mark.parametrize("bursty", [False, True])
def test_outputs_are_late_as_often_as_said(bursty: bool) -> None:
    """1 % late and 0.1 % invalid; in bursts of 2 in the mean if asked for, else hardly ever in a row."""
    late, invalid = draw(np.random.default_rng(1), 400_000, bursty=bursty)
    assert late.mean() == pytest.approx(0.01, rel=0.1)
    assert invalid.mean() == pytest.approx(0.001, rel=0.2)
    starts = np.count_nonzero(late[1:] & ~late[:-1]) + late[0]
    assert late.sum() / starts == pytest.approx(2.0 if bursty else 1.01, rel=0.1)


def _masks(ticks: int, *spells: tuple[int, int, int]) -> Ints:
    masks = np.zeros(ticks, dtype=np.int64)
    for begin, end, mask in spells:
        masks[begin:end] = mask
    return masks


def _stepped(table: ModeTable, masks: Ints) -> Tally:
    """``run`` with ``step`` itself, for runs without a HOLD."""
    everything, state, told = (1 << len(table.capabilities)) - 1, ModeState.initial(table, Mode.NOMINAL), Tally()
    idle = 0
    for mask in masks.tolist():
        inputs = ModeInputs(mask, standstill=idle >= 150, shadow=everything, available=everything)
        state, outputs = step(table, state, inputs)
        moves = outputs.authority.value == "policy"
        idle = 0 if moves else idle + 1
        told = told + Tally(1, 0, outputs.bridging, outputs.mode is Mode.CAUTIOUS, outputs.mode is Mode.DEGRADED,
                            outputs.mode >= Mode.HOLD, moves)  # fmt: skip
    return told


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_counts_what_the_engine_says(strategy: str) -> None:
    """Short lapses of every source: the compiled run and one with ``step`` count the same."""
    table = compile_table(load_spec(strategy), PERIOD)
    masks = _masks(1200, *((200 * k, 200 * k + 30, cause_mask([one.late])) for k, one in enumerate(SOURCES[strategy])))
    masks[800:820] |= cause_mask([SOURCES[strategy][0].invalid])
    assert run(table, masks) == _stepped(table, masks)


def test_a_stop_is_counted_acknowledged_and_left() -> None:
    """An outage of a second is one HOLD by the row of its cause; the operator ends it, and the policy moves again."""
    told = run(compile_table(load_spec("monolithic"), PERIOD), _masks(4000, (100, 600, LATE)))
    assert (told.holds, told.acknowledged, told.bridged) == (1, 1, 59)
    assert told.rows == {"CORE-C11": 1}
    assert told.stopped == 1000
    assert told.moving == 4000 - 59 - 1000
    assert told.cautious == 250


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_bridges_one_late_output_is_a_stop(strategy: str) -> None:
    """The control: the same lapse costs nothing with the table and a HOLD with what ``bare`` leaves of it."""
    spec, masks = load_spec(strategy), _masks(400, (100, 110, cause_mask([SOURCES[strategy][-1].late])))
    assert run(compile_table(spec, PERIOD), masks).holds == 0
    assert run(compile_table(bare(spec), PERIOD), masks).holds == 1


def test_figures_are_means_over_runs() -> None:
    """HOLDs of each run, their mean, and shares of all ticks."""
    told = figures([Tally(10, 1, bridged=2, moving=8), Tally(10, 2, moving=10)])
    assert (told["holds_per_run"], told["each"], told["bridged"], told["availability"]) == (1.5, [1, 2], 0.1, 0.9)
    assert set(CASES) >= {"independent", "bursts"}


def test_a_source_says_its_times_in_ticks() -> None:
    """Period, latency, largest age."""
    source = Source("x", 0.1, 0.02, 0.2, Cause.POLICY_LATE, Cause.POLICY_LATE)
    assert source.ticks(strict=False) == (50, 10, 100)
    assert source.ticks(strict=True) == (50, 10, 60)


def test_what_moves_the_body_is_judged_by_the_shields_own_limits() -> None:
    """Its deadline is the shield's, and the intake still takes an output that is a period late."""
    judged = [one for sources in SOURCES.values() for one in sources if one.late is Cause.POLICY_LATE]
    assert len(judged) == 3
    for one in judged:
        assert one.max_age == PolicyConfig().deadline_s
        assert one.period + one.latency <= IntakeConfig().proposal_max_age_s
    slower = movers("dual", latency=0.04, max_age=0.14)
    assert [one.ticks(strict=False) for one in slower] == [(25, 20, 70), (62, 50, 124)]
    assert movers("dual") == SOURCES["dual"]


# -- reaction ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "cause", "ticks"),
    [
        ("monolithic", Cause.STATE_JUMP, 0),
        ("monolithic", Cause.STATE_STALE, 2),
        ("modular", Cause.OPERATOR_STOP, 0),
        ("vla", Cause.POLICY_LATE, 0),
        ("dual", Cause.FILTER_FAILED, 6),
    ],
)
def test_a_cause_reaches_its_floor_in_the_shield(strategy: str, cause: Cause, ticks: int, tmp_path: Path) -> None:
    """In the tick that sees it, or when its bucket is full: a failing filter is asked every other tick only."""
    found = react(strategy, cause, tmp_path / "run")
    assert (found.ticks, found.met) == (ticks, True)
    assert found.mode >= found.floor


def test_a_late_floor_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a shield whose engine acts in the next tick does not meet it."""

    def next_tick(table: ModeTable, state: ModeState, inputs: ModeInputs) -> object:
        after, outputs = step(table, state, inputs)
        if state.mode is not Mode.NOMINAL:
            return after, outputs
        return after, replace(outputs, mode=state.mode, authority=table.authority[state.mode])

    monkeypatch.setattr("safeguard.shield.step", next_tick)
    found = react("monolithic", Cause.STATE_JUMP, tmp_path / "run")
    assert (found.due, found.ticks, found.met) == (0, 1, False)
    assert not Reaction(Cause.ESTOP, Mode.ESTOP, 0, 0, -1, Mode.HOLD, ()).met


def test_what_is_injected_is_what_the_shield_can_raise(tmp_path: Path) -> None:
    """Every cause about body, policy output, filter, record and people; a bench without a fault stays NOMINAL."""
    assert {Cause.ESTOP, Cause.POLICY_LATE, Cause.BACKUP_REFUSED, Cause.AUDIT_FAILED} <= set(FAULTS)
    lab = Bench("monolithic", tmp_path / "run")
    lab.nominal()
    assert {decision.mode for decision in lab.run(100)} == {Mode.NOMINAL}
    assert {cause for decision in lab.decisions[-100:] for cause in decision.causes} == set()
    assert lab.now > NS_PER_S // 10
