"""What the body did, held against what the commands were to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from safeguard.audit import AuditConfig, read_run
from safeguard.audit.event_words import told_event
from safeguard.audit.journal.settings import EventsConfig
from safeguard.audit.records.decode import decode_array
from safeguard.audit.records.events import Effect
from safeguard.audit.records.registry import DecisionRecord
from safeguard.core.enums import Cause, Enforcement, FilterStatus, Level, Mode, RecordKind
from safeguard.core.types import (
    Command,
    Decision,
    Observation,
    PositionCommand,
    RobotState,
    TerminalStop,
    TorqueCommand,
    VelocityCommand,
    Verdict,
)
from safeguard.events import Effects, residual_limit
from safeguard.monitors import Calibration, calibrate
from safeguard.monitors.bank import Bank
from safeguard.monitors.joint import Witness
from safeguard.monitors.normal import RankScale
from safeguard.monitors.registry import monitors
from safeguard.spans import Event
from tests.laws.lab import Lab, near
from tests.unit.audit_runs import JOINTS, PERIOD, decision
from tests.unit.events_support import Recorder, made

SECONDS = PERIOD * 1e-9
LIMIT = 0.5
Step = tuple[Decision, RobotState | None]


def fresh(most: int = 100, delay: int = 0, limit: float | None = LIMIT) -> Effects:
    """For the Panda, whose joints are all as fast but the last, which is ten times as slow."""
    return Effects(JOINTS, np.array([2.0] * 6 + [0.2]), most, delay, limit)


def verdicts(score: float = 0.1, warns: Level = Level.OK, said: Level = Level.OK) -> tuple[Verdict, ...]:
    """As much as the bank says: a score, then the rungs."""
    scored = [Verdict(name, said, score, float("nan")) for name in ("shield_effort", "model_residual")]
    rungs = [Verdict(f"joint.{name}", warns, score, 1.0) for name in ("warn", "degrade", "stop")]
    return (Verdict("intake.state", Level.OK, float("nan"), float("nan")), *scored, *rungs)


def step(tick: int, v: Iterable[float] = (0.0,) * 7, a: float = 0.0, **changes: Any) -> Step:
    """A decision that predicts ``a`` of every joint, and the speeds that it sees."""
    one = decision(tick)
    one = replace(one, filter=replace(one.filter, acceleration=np.full(7, a)), verdicts=verdicts())
    return replace(one, **changes), RobotState(np.zeros(7), np.array(list(v)), tick * PERIOD)


def heard(effects: Effects, steps: Iterable[Step]) -> list[Effect]:
    """Every effect of the steps, the last one included."""
    told, last = list[Event](), step(0)[0]
    for last, state in steps:
        told += effects.hear(last, state)
    found = [*told, *effects.end(last)]
    assert {kind for kind, _ in found} <= {RecordKind.EFFECT}
    return [Effect.model_validate(body, strict=False) for _, body in found]


def one_of(steps: Iterable[Step], effects: Effects | None = None) -> Effect:
    """The only effect of the steps."""
    (found,) = heard(effects or fresh(), steps)
    return found


def commanded(one: Step, command: Command) -> Step:
    """The same with another command."""
    return replace(one[0], command=command), one[1]


# -- figures --------------------------------------------------------------------------------------------


def test_a_deviation_is_what_the_speed_missed() -> None:
    """Told 10 rad/s² for 2 ms: a joint that gains 0.02 rad/s obeys, one that gains 0.05 is 0.03 off, in both signs."""
    speeds = [0.02] * 7
    speeds[3], speeds[5] = 0.05, 0.0
    found = one_of([step(0, a=10.0), step(1, speeds, a=0.0), step(2, speeds)])
    assert found.largest == pytest.approx([0, 0, 0, 0.03, 0, 0.02, 0])
    assert found.rms == pytest.approx([0, 0, 0, 0.03 / 2**0.5, 0, 0.02 / 2**0.5, 0])
    assert (found.first, found.last, found.judged, found.no_command) == (0, 2, 2, 1)
    assert (found.worst, found.worst_joint) == (1, JOINTS[3])


def test_the_worst_is_the_largest_share_of_a_limit() -> None:
    """0.02 rad/s of a slow joint are worse than 0.05 of a fast one; ``worst`` is the decision that saw it."""
    fast, slow = [0.05] + [0.0] * 6, [0.05] + [0.0] * 5 + [0.02]
    found = one_of([step(0), step(1, fast), step(2, slow)])
    assert (found.worst, found.worst_joint) == (2, JOINTS[6])


def test_time_between_stamps_counts_and_not_the_period() -> None:
    """A measurement of 1 ms later saw half of the command's effect."""
    one, state = step(1, [0.01] * 7)
    assert state is not None
    found = one_of([step(0, a=10.0), (one, replace(state, t=PERIOD // 2))])
    assert found.largest == pytest.approx([0.0] * 7, abs=1e-15)


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_command_that_acts_later_is_held_against_what_it_did(delay: int) -> None:
    """With the configured delay a body that lags so long obeys; with another delay it does not."""
    wanted = [5.0, -3.0, 8.0, 0.0, 1.0, 4.0, -6.0, 2.0, 7.0, -1.0]
    late = [0.0] * (delay + 1) + wanted
    v = np.cumsum(late[: len(wanted)]) * SECONDS
    steps = [step(k, [float(v[k])] * 7, a=a) for k, a in enumerate(wanted)]
    found = one_of(steps, fresh(delay=delay))
    assert (found.judged, found.no_command) == (9 - delay, 1 + delay)
    assert found.largest == pytest.approx([0.0] * 7, abs=1e-15)
    assert max(map(float, one_of(steps, fresh(delay=delay + 1)).largest)) > 1e-3


def test_position_drives_are_judged_by_their_reference() -> None:
    """A reference that the filter made has its acceleration; one that it did not make has none."""
    one = step(0, a=10.0)
    result = replace(one[0].filter, position=np.ones(7))
    own = commanded((replace(one[0], filter=result), one[1]), PositionCommand(np.ones(7), 0, 2 * PERIOD, 0))
    other = commanded(own, PositionCommand(np.zeros(7), 0, 2 * PERIOD, 0))
    assert one_of([own, step(1, [0.02] * 7)]).largest == pytest.approx([0.0] * 7, abs=1e-15)
    assert one_of([other, step(1)]).no_command == 2


# -- what is not judged ---------------------------------------------------------------------------------

COMMANDS: dict[str, Step] = {
    "a terminal stop": commanded(step(1), TerminalStop("", PERIOD, 1)),
    "a speed": commanded(step(1), VelocityCommand(np.zeros(7), PERIOD, 3 * PERIOD, 1)),
    "a torque of somebody else's": commanded(step(1), TorqueCommand(np.zeros(7), PERIOD, 3 * PERIOD, 1)),
    "a raw proposal": (
        replace(step(1)[0], filter=replace(step(1)[0].filter, status=FilterStatus.BYPASSED)),
        step(1)[1],
    ),
    "one that had run out": commanded(
        step(1), TorqueCommand(step(1)[0].filter.torque, PERIOD, PERIOD + PERIOD // 2, 1)
    ),
}
STATES: dict[str, Step] = {
    "no joints": (step(2)[0], None),
    "no number": step(2, [float("nan")] * 7),
    "beyond numbers": step(2, [1e308] * 7),
    "in doubt": step(2, causes=(Cause.POLICY_LATE, Cause.STATE_JUMP)),
    "the same stamp": (step(2)[0], step(1)[1]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_command_of_the_filters_own_nothing_is_judged(name: str) -> None:
    """What comes after such a command is not judged, and what comes after the next one is."""
    found = one_of([step(0), COMMANDS[name], step(2), step(3)])
    assert (found.judged, found.no_command, found.no_state, found.gap) == (2, 2, 0, 0)


@pytest.mark.parametrize("name", STATES)
def test_without_a_measurement_to_trust_nothing_is_judged(name: str) -> None:
    """A broken measurement costs its own tick, and the next one where that has no measurement before it."""
    found = one_of([step(0), step(1), STATES[name], step(3), step(4)])
    alone = name == "the same stamp"
    assert (found.judged, found.no_command, found.no_state) == ((3, 1, 1) if alone else (2, 1, 2))


def test_a_cause_that_doubts_no_measurement_changes_nothing() -> None:
    """A late policy says nothing about the sensors."""
    assert one_of([step(0), step(1, causes=(Cause.POLICY_LATE,))]).judged == 1


def test_ticks_that_were_not_recorded_are_a_gap() -> None:
    """Two lost ticks, and those behind them whose command nobody knows, are counted as such."""
    steps = [step(k) for k in (0, 1, 4, 5, 6, 7)]
    assert (one_of(steps).judged, one_of(steps).gap) == (4, 3)
    found = one_of(steps, fresh(delay=1))
    assert (found.judged, found.no_command, found.gap) == (2, 2, 4)


def test_an_episode_without_a_judged_tick_has_no_figures() -> None:
    """One tick: nothing had acted before it."""
    found = one_of([step(0)])
    assert (found.largest, found.rms, found.worst, found.worst_joint, found.agreement) == (
        [],
        [],
        None,
        "",
        "not_judged",
    )
    assert fresh().end(step(0)[0]) == ()


CASES = st.sampled_from(["good", *COMMANDS, *STATES])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(CASES, st.integers(0, 2)), max_size=30), st.integers(0, 2), st.integers(1, 12))
def test_every_tick_is_in_one_record_once(told: list[tuple[str, int]], delay: int, most: int) -> None:
    """Whatever happens, records follow each other without a hole, none is longer than asked for but by a gap."""
    steps, tick = list[Step](), 0
    for name, lost in told:
        tick += lost if steps else 0
        one, state = {**COMMANDS, **STATES, "good": step(0)}[name]
        steps.append((replace(one, tick=tick), state))
        tick += 1
    found = heard(fresh(most, delay), steps)
    assert [effect.first for effect in found] == [0, *(effect.last + 1 for effect in found)][: len(found)]
    assert sum(effect.last - effect.first + 1 for effect in found) == tick
    assert all(effect.last - effect.first + 1 - effect.gap <= most for effect in found)


# -- agreement ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "limit", "agreement"),
    [
        (verdicts(0.6, Level.WARN), LIMIT, "differs"),
        (verdicts(0.6, Level.OK), LIMIT, "agrees"),  # not for long enough: the warning is debounced
        (verdicts(0.4, Level.WARN), LIMIT, "agrees"),  # another monitor raised it
        (verdicts(0.6, Level.UNCALIBRATED), LIMIT, "not_judged"),  # past the horizon, void
        (verdicts(0.6, Level.WARN, Level.UNPROVEN), LIMIT, "not_judged"),
        (verdicts(0.6, Level.WARN), None, "not_judged"),
        ((), LIMIT, "not_judged"),
    ],
)
def test_the_body_differs_where_the_warning_is_about_the_residual(
    second: tuple[Verdict, ...], limit: float | None, agreement: str
) -> None:
    """One tick decides: the rung alarms and the residual is above what alone would reach it."""
    found = one_of([step(0), step(1), step(2, verdicts=second), step(3)], fresh(limit=limit))
    assert found.agreement == agreement
    assert (found.rule, found.threshold) == (("none", None) if limit is None else ("warn_rung", limit))
    assert found.residual == max(0.1, *(v.score for v in second if v.monitor == "model_residual"), 0.1)


def test_a_tick_that_is_not_judged_decides_nothing() -> None:
    """The warning of a tick whose measurement is in doubt is not held against the body."""
    doubtful = step(1, verdicts=verdicts(0.6, Level.WARN), causes=(Cause.STATE_STALE,))
    assert one_of([step(0), doubtful, step(2), step(3)]).agreement == "agrees"


def test_each_record_is_judged_by_its_own_ticks() -> None:
    """What differed in one second does not stain the next."""
    steps = [step(k, verdicts=verdicts(0.6, Level.WARN) if k == 3 else verdicts()) for k in range(12)]
    assert [effect.agreement for effect in heard(fresh(most=5), steps)] == ["differs", "agrees", "agrees"]


def test_a_body_that_contradicts_itself_is_refused() -> None:
    """The schema takes no record whose figures do not fit together."""
    good = one_of([step(0), step(1)]).model_dump()
    wrongs: list[dict[str, Any]] = [{"judged": 2}, {"largest": []}, {"rms": [0.0]}, {"worst": None}, {"rule": "none"}]
    for wrong in wrongs:
        with pytest.raises(ValidationError):
            Effect.model_validate({**good, **wrong})


def test_words_say_how_it_stands() -> None:
    """For people: the agreement, how many ticks, the largest deviation and where, the residual."""
    found = one_of([step(0), step(1, [0.02] + [0.0] * 6), step(2, verdicts=verdicts(0.6, Level.WARN))])
    assert told_event(found) == (
        "effect",
        f"differs: ticks 0 to 2, 2 judged, 1 without a command; up to 0.02 rad/s off, worst at {JOINTS[0]} in tick 1; "
        "residual up to 0.6, 0.5 would be too much",
        "warn",
    )


# -- in a shield ----------------------------------------------------------------------------------------


def calibration(residual: float) -> Calibration:
    """A calibration of the laboratory's monitors in which only the residual can be unusual, about ``residual``."""
    bank: Bank = Lab().shield.bank
    members: list[tuple[str, Witness, float]] = [(e.name, e.witness, e.resolution) for e, _ in monitors(bank.setting)]
    sizes = {name: residual if name == "model_residual" else 1e6 for name, _, _ in members}
    order = np.random.default_rng(1).permutation(400)  # rising sizes would be a drift
    traces = [{name: np.full(5, size * (1.0 + 1e-3 * i)) for name, size in sizes.items()} for i in order]
    found = calibrate(traces, members)
    return found.model_copy(update={"horizon_ticks": 10**6}).sealed()


class Tiring(Lab):
    """A body whose drives give a share of the torque."""

    share = 1.0

    def execute(self, command: Command) -> None:
        """One period under less than was asked for."""
        super().execute(
            replace(command, tau=self.share * command.tau) if isinstance(command, TorqueCommand) else command
        )


def lived(run: Path, share: float, residual: float | None = 0.02) -> list[Effect]:
    """The effect records, a fifth of a second each, of a shield whose body soon gives that share of the torque."""
    audit = AuditConfig(run=run, writer="inline", durability="os", events=EventsConfig(effect_s=0.2))
    lab = Tiring(near, audit=audit, calibration=None if residual is None else calibration(residual))
    lab.start(50)
    lab.share = share
    lab.run(250)
    lab.shield.begin_episode("second")
    lab.run(20)
    lab.shield.close()
    return [record.body for record in read_run(run) if isinstance(record.body, Effect)]


def test_a_drive_that_gives_less_is_found_and_one_that_obeys_is_not(tmp_path: Path) -> None:
    """Calibrated: a body that obeys agrees, a weak one differs; uncalibrated nobody says so, and figures are there."""
    obeys, weak, unsaid = lived(tmp_path / "a", 1.0), lived(tmp_path / "b", 0.9), lived(tmp_path / "c", 0.9, None)
    assert {one.agreement for one in obeys} == {"agrees"}
    assert max(float(x) for one in obeys for x in one.largest) < 1e-4
    assert "differs" in {one.agreement for one in weak}
    assert max(float(x) for one in unsaid for x in one.largest) > 1e-3
    assert {one.agreement for one in unsaid} == {"not_judged"}


def test_the_limit_is_where_the_warning_begins() -> None:
    """A residual just below it, for ever, raises no warning of a real bank; one just above does."""
    found = calibration(0.02)
    limit = residual_limit(found)
    assert limit is not None
    assert residual_limit(None) is None

    def warns(score: float) -> Level:
        bank = Bank(Lab().shield.bank.setting, found)
        scales: tuple[RankScale, ...] = bank._scales  # pyright: ignore[reportPrivateUsage]
        z = [
            scale(score if one.name == "model_residual" else 0.0)
            for one, scale in zip(found.members, scales, strict=True)
        ]
        said = [bank._judge(z) for _ in range(20)]  # pyright: ignore[reportPrivateUsage]
        return said[-1][0].level

    assert (warns(limit * (1 - 1e-9)), warns(limit * (1 + 1e-9))) == (Level.OK, Level.WARN)


def test_effects_are_what_the_decisions_of_the_journal_say(tmp_path: Path) -> None:
    """Somebody who only has the decision records comes to the same figures."""
    run = tmp_path / "run"
    lived(run, 0.9)
    seen: dict[tuple[int, int], DecisionRecord] = {}
    checked = 0
    for record in read_run(run):
        body = record.body
        if isinstance(body, DecisionRecord):
            seen[body.episode, body.tick] = body
        if isinstance(body, Effect):
            assert record.tick == body.last
            figures = [
                np.abs(v_now - v_before - decode_array(before.decision.filter.acceleration) * SECONDS)
                for tick in range(body.first, body.last + 1)
                if (before := seen.get((body.episode, tick - 1))) is not None
                and before.decision.command.type == "torque"
                for v_now in [decode_array(seen[body.episode, tick].observation.state.v)]
                for v_before in [decode_array(before.observation.state.v)]
            ]
            assert len(figures) == body.judged
            np.testing.assert_allclose(np.max(figures, axis=0), np.array(body.largest, dtype=float), atol=1e-12)
            rms = np.sqrt(np.mean(np.square(figures), axis=0))
            np.testing.assert_allclose(rms, np.array(body.rms, dtype=float), atol=1e-12)
            checked += 1
    assert checked > 3


def test_one_record_each_while_of_control_and_one_at_the_end() -> None:
    """60 ticks of 2 ms at 50 ms a record: 25, 25 and 10. A new episode begins anew, and so do ticks behind a close."""
    recorder, steps = Recorder(), [step(k) for k in range(60)]
    events = made(recorder)
    for one, state in steps:
        assert state is not None
        events.tell(one, Observation(state), one.tick * PERIOD)
    events.restart(Mode.HOLD)
    one, state = step(0)
    assert state is not None
    events.tell(one, Observation(state), 0)
    events.restart()  # the episode is closed
    one, state = step(7)
    assert state is not None
    events.tell(one, Observation(state), 0)
    events.restart()
    told = [(cast("int", body["first"]), body["last"], tick) for (kind, body), tick, _ in recorder.placed
            if kind is RecordKind.EFFECT]  # fmt: skip
    assert told == [(0, 24, 24), (25, 49, 49), (50, 59, 59), (0, 0, 0), (7, 7, 7)]


def test_without_enforcement_it_says_so() -> None:
    """What goes out raw is not the filter's, so nothing is judged, and the record is marked."""
    bare = Enforcement.MONITOR_ONLY
    raw = TorqueCommand(np.zeros(7), 0, 10 * PERIOD, 0)
    found = one_of([commanded(step(k, enforcement=bare), raw) for k in range(3)])
    assert (found.enforcement, found.judged, found.no_command) == (bare, 0, 3)
