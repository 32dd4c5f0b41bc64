"""How what was shed comes back, how often, and what a person does."""

from __future__ import annotations

import pytest

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.types import Envelope
from safeguard.modes import ModeInputs, ModeState, ModeTable, cause_mask, step
from safeguard.modes.state import CREDIT
from tests.unit.modes_support import (
    ACK,
    AGREE,
    ALL,
    BOTH,
    DUAL,
    LATE,
    MODULAR,
    PLANNER,
    PREDICTION,
    QUIET,
    REST,
    SYSTEM2,
    VLA,
    both,
    compiled,
    degraded,
    drive,
    modes,
    nominal,
    seen,
)

# -- and back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "inputs", "ticks", "dwell", "row"),
    [
        (VLA, LATE, 1, 10, "VLA-K01"),
        (DUAL, SYSTEM2, 125, 250, "DUAL-K01"),
        (MODULAR, PREDICTION, 60, 250, "MOD-K01"),
        (MODULAR, PLANNER, 60, 250, "MOD-K02"),
    ],
)
def test_what_works_again_comes_back_after_its_dwell(
    table: ModeTable, inputs: ModeInputs, ticks: int, dwell: int, row: str
) -> None:
    """Agreement for the whole dwell leads to CAUTIOUS in the last tick of it; half a second later to NOMINAL."""
    state, outputs = drive(table, degraded(table, inputs, ticks), [AGREE] * (dwell - 1))
    assert outputs.mode is Mode.DEGRADED
    state, outputs = step(table, state, AGREE)
    assert (outputs.mode, outputs.reasons, outputs.configuration) == (Mode.CAUTIOUS, (row,), "")
    assert modes(table, state, [AGREE] * 250) == [Mode.CAUTIOUS] * 249 + [Mode.NOMINAL]


def test_without_agreement_nothing_comes_back() -> None:
    """System 2 that does not agree with its last goal stays shed until the stay is over."""
    alone = ModeInputs(available=1)
    found = modes(DUAL, degraded(DUAL, SYSTEM2, 125), [alone] * 1500)
    assert found == [Mode.DEGRADED] * 1499 + [Mode.HOLD]


@pytest.mark.parametrize("broken", [ModeInputs(available=1), SYSTEM2, SYSTEM2._replace(shadow=1)])
def test_one_tick_of_disagreement_starts_the_dwell_anew(broken: ModeInputs) -> None:
    """Agreement has to last without a gap, and the failure itself is a gap even while it is debounced."""
    state, _ = drive(DUAL, degraded(DUAL, SYSTEM2, 125), [AGREE] * 249)
    state, outputs = drive(DUAL, state, [broken] + [AGREE] * 249)
    assert outputs.mode is Mode.DEGRADED
    assert step(DUAL, state, AGREE)[1].mode is Mode.CAUTIOUS


def test_a_fresh_chunk_needs_no_agreement() -> None:
    """Only what asks for agreement in shadow waits for it."""
    found = modes(VLA, degraded(VLA, LATE, 1), [ModeInputs(available=1)] * 10)
    assert found == [Mode.DEGRADED] * 9 + [Mode.CAUTIOUS]


def test_agreement_of_one_says_nothing_about_the_other() -> None:
    """Only the capability that agrees comes back."""
    state, outputs = drive(MODULAR, both(), [ModeInputs(shadow=0b10, available=0b11)] * 250)
    assert (outputs.configuration, outputs.reasons) == ("no_prediction", ("MOD-C24", "MOD-C25", "MOD-K02"))
    _, outputs = drive(MODULAR, state, [ModeInputs(shadow=0b10, available=0b11)] * 2000)
    assert outputs.configuration == "no_prediction"


def test_capabilities_come_back_one_at_a_time() -> None:
    """Two that agreed all the time come back one by one; the second proves itself anew after the first."""
    state, outputs = drive(MODULAR, both(), [AGREE] * 250)
    assert (outputs.mode, outputs.configuration) == (Mode.DEGRADED, "no_planner")
    assert state.numbers[MODULAR.ages :].tolist() == [0, 251, 0, 0]
    state, outputs = drive(MODULAR, state, [AGREE] * 249)
    assert outputs.configuration == "no_planner"
    _, outputs = step(MODULAR, state, AGREE)
    assert (outputs.mode, outputs.reasons) == (Mode.CAUTIOUS, ("MOD-K02",))


def test_a_return_that_leaves_the_unbearable_is_refused() -> None:
    """While the planner's substitute is away, prediction does not come back and leave the planner alone missing."""
    state, _ = drive(MODULAR, both(), [AGREE] * 249)
    _, outputs = step(MODULAR, state, AGREE._replace(available=0b01))
    assert (outputs.mode, outputs.configuration) == (Mode.DEGRADED, "no_prediction")
    _, outputs = step(MODULAR, state, AGREE._replace(available=0b10))
    assert (outputs.mode, outputs.configuration) == (Mode.DEGRADED, "no_planner")
    _, outputs = step(MODULAR, state, AGREE._replace(available=0))
    assert outputs.mode is Mode.HOLD


def test_one_returns_in_the_tick_in_which_another_fails() -> None:
    """A return and a new loss meet in one tick: what is back is back, what failed is shed."""
    state = degraded(MODULAR, PREDICTION, 60)
    state, _ = drive(MODULAR, state, [AGREE] * 190)
    late = AGREE._replace(causes=cause_mask([Cause.PLANNER_FAILED]))
    state, outputs = drive(MODULAR, state, [late] * 60)
    assert (outputs.mode, outputs.configuration) == (Mode.DEGRADED, "no_planner")
    assert outputs.reasons[-1] == "MOD-K01"


def test_a_return_into_a_warning_is_cautious() -> None:
    """A warning that is there when the last capability returns keeps CAUTIOUS."""
    warned = seen(Cause.TICK_OVERRUN, shadow=1)
    state, outputs = drive(DUAL, degraded(DUAL, SYSTEM2, 125), [warned] * 250)
    assert outputs.mode is Mode.CAUTIOUS
    assert drive(DUAL, state, [warned] * 500)[1].mode is Mode.CAUTIOUS


# -- flapping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "inputs", "ticks", "dwell", "at_once"),
    [(VLA, LATE, 1, 10, 15), (DUAL, SYSTEM2, 125, 250, 3), (MODULAR, PREDICTION, 60, 250, 2)],
)
def test_recoveries_are_a_budget(table: ModeTable, inputs: ModeInputs, ticks: int, dwell: int, at_once: int) -> None:
    """After half of a window's recoveries in a row the next loss is HOLD by the flapping row."""
    state = nominal(table)
    for _ in range(at_once):
        state, outputs = drive(table, state, [inputs] * ticks + [AGREE] * dwell)
        assert outputs.mode is Mode.CAUTIOUS
    found, outputs = drive(table, state, [inputs] * ticks)
    assert (outputs.mode, outputs.reasons[-1][-3:]) == (Mode.HOLD, "F01")
    assert found.numbers[CREDIT] <= 15_000


SPENT = ([SYSTEM2] * 125 + [AGREE] * 250) * 3


def test_time_pays_the_budget_back() -> None:
    """A recovery of System 2 costs 5,000 of 15,000 ticks, each tick pays one back, and a loss reserves the next."""
    assert drive(DUAL, nominal(DUAL), SPENT[:375])[0].numbers[CREDIT] == 5_000
    state, outputs = drive(DUAL, nominal(DUAL), SPENT)
    assert outputs.mode is Mode.CAUTIOUS
    credit = int(state.numbers[CREDIT])
    assert credit == 15_000 - 2 * 375
    early, _ = drive(DUAL, state, [AGREE] * (credit - 10_000 - 125 - 1))
    assert drive(DUAL, early, [SYSTEM2] * 125)[1].mode is Mode.HOLD
    ripe, _ = step(DUAL, early, AGREE)
    assert drive(DUAL, ripe, [SYSTEM2] * 125)[1].mode is Mode.DEGRADED


def test_a_budget_is_kept_for_all_that_is_shed() -> None:
    """With one recovery left, two losses at once are HOLD and a single one is not."""
    state, _ = drive(MODULAR, nominal(MODULAR), [PREDICTION] * 60 + [AGREE] * 500)
    assert drive(MODULAR, state, [PLANNER] * 60)[1].mode is Mode.DEGRADED
    _, outputs = drive(MODULAR, state, [BOTH] * 60)
    assert (outputs.mode, outputs.reasons) == (Mode.HOLD, ("MOD-F01",))


def test_what_is_there_reserves_nothing() -> None:
    """With two recoveries spent a third loss is HOLD until 7,500 of 15,000 are paid back, to the tick."""
    state, _ = drive(MODULAR, nominal(MODULAR), ([PREDICTION] * 60 + [AGREE] * 250) * 2)
    early, _ = drive(MODULAR, state, [AGREE] * (int(state.numbers[CREDIT]) - 7_500 - 60 - 1))
    assert drive(MODULAR, early, [PREDICTION] * 60)[1].mode is Mode.HOLD
    ripe, _ = step(MODULAR, early, AGREE)
    assert drive(MODULAR, ripe, [PREDICTION] * 60)[1].mode is Mode.DEGRADED


def test_the_budget_survives_hold() -> None:
    """HOLD and an acknowledgement do not refill it."""
    state, _ = drive(DUAL, nominal(DUAL), [*SPENT, seen(Cause.CLOCK_BACKWARDS)])
    state, outputs = drive(DUAL, state, [REST] * 400 + [ACK])
    assert outputs.mode is Mode.CAUTIOUS
    assert drive(DUAL, state, [SYSTEM2] * 125)[1].mode is Mode.HOLD


# -- a person ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "inputs", "ticks"),
    [(VLA, LATE, 1), (DUAL, SYSTEM2, 125), (MODULAR, PREDICTION, 60), (MODULAR, PLANNER, 60), (MODULAR, BOTH, 60)],
)
def test_a_person_ends_every_configuration_at_once(table: ModeTable, inputs: ModeInputs, ticks: int) -> None:
    """Taking over leads from every configuration to CAUTIOUS in one tick, and costs no recovery."""
    state, outputs = step(table, degraded(table, inputs, ticks), inputs._replace(person=True))
    assert (outputs.mode, outputs.authority, outputs.configuration) == (Mode.CAUTIOUS, Authority.POLICY, "")
    assert outputs.reasons[-1].endswith("R06")
    assert state.numbers[CREDIT] == 0


@pytest.mark.parametrize("table", [compiled(name) for name in ALL], ids=lambda t: t.strategy)
def test_causes_about_the_policy_do_not_count_for_a_person(table: ModeTable) -> None:
    """While a person commands, the policy's faults neither stop, shed nor bridge; the body's faults do."""
    waived = [
        Cause.PROPOSAL_INVALID, Cause.PROPOSAL_REPEATED, Cause.PROPOSAL_ORDER, Cause.POLICY_LATE,
        Cause.UNCALIBRATED, Cause.MONITOR_WARN, Cause.MONITOR_DEGRADE, Cause.MONITOR_STOP, Cause.PERCEPTION_WARN,
        Cause.PERCEPTION_LOST, Cause.PREDICTION_FAILED, Cause.PLANNER_FAILED, Cause.SYSTEM2_FAILED,
    ]  # fmt: skip
    state, outputs = drive(table, nominal(table), [seen(*waived, person=True)] * 200)
    assert (outputs.mode, outputs.authority, outputs.bridging) == (Mode.CAUTIOUS, Authority.POLICY, False)
    assert (outputs.reasons, outputs.envelope) == (("CORE-T01",), Envelope(0.5, 1.0))
    assert set(state.levels(table)) == {0}
    for cause in set(Cause) - set(waived):
        _, outputs = drive(table, state, [seen(cause, person=True)] * 3)
        owed = step(table, nominal(table), seen(cause))[1].mode
        assert outputs.mode >= owed, cause
        if cause not in (Cause.TICK_OVERRUN, Cause.FILTER_SLACK):
            assert outputs.mode > Mode.CAUTIOUS, cause


@pytest.mark.parametrize("table", [compiled(name) for name in ALL], ids=lambda t: t.strategy)
def test_a_person_is_at_least_cautious(table: ModeTable) -> None:
    """CAUTIOUS lasts as long as the person stays and ends half a second later; a body's bridge still bridges."""
    present = ModeInputs(person=True)
    state, outputs = step(table, nominal(table), present)
    assert (outputs.mode, outputs.reasons) == (Mode.CAUTIOUS, ("CORE-T01",))
    assert set(modes(table, state, [present] * 600)) == {Mode.CAUTIOUS}
    _, outputs = step(table, state, seen(Cause.FILTER_FAILED, person=True))
    assert (outputs.authority, outputs.bridging) == (Authority.BACKUP, True)
    state, _ = drive(table, state, [present] * 100)
    assert Mode.NOMINAL not in modes(table, state, [QUIET] * 149)
    assert modes(table, state, [QUIET] * 250)[-1] is Mode.NOMINAL


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.STOP, Mode.ESTOP, Mode.LOCKOUT])
@pytest.mark.parametrize("table", [compiled(name) for name in ALL], ids=lambda t: t.strategy)
def test_a_person_does_not_release_a_stop(table: ModeTable, mode: Mode) -> None:
    """From HOLD up it takes an acknowledgement, whoever commands."""
    found = modes(table, ModeState.initial(table, mode), [ModeInputs(person=True, standstill=True)] * 400)
    assert set(found) == {mode}
