"""What a strategy sheds, and for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.types import Envelope
from safeguard.modes import ModeInputs, ModeTable, cause_mask, compile_table, load_spec, step
from tests.unit.modes_support import (
    ACK,
    BOTH,
    DEGRADING,
    DUAL,
    LATE,
    MODULAR,
    PERIOD,
    PLANNER,
    PREDICTION,
    QUIET,
    REST,
    SYSTEM2,
    VLA,
    compiled,
    degraded,
    drive,
    modes,
    nominal,
    seen,
)

# -- into a configuration ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "inputs", "ticks", "name", "row", "share"),
    [
        (VLA, LATE, 1, "tail", "VLA-C11", 0.5),
        (DUAL, SYSTEM2, 125, "system1_only", "DUAL-C26", 0.5),
        (MODULAR, PREDICTION, 60, "no_prediction", "MOD-C24", 0.5),
        (MODULAR, PLANNER, 60, "no_planner", "MOD-C25", 0.5),
        (MODULAR, seen(Cause.MONITOR_DEGRADE), 1, "no_planner", "MOD-C20", 0.5),
    ],
)
def test_what_fails_is_shed(
    table: ModeTable, inputs: ModeInputs, ticks: int, name: str, row: str, share: float
) -> None:
    """After its debounce a failure sheds what failed: the policy goes on, slower, and the records name it."""
    before = nominal(table)
    if ticks > 1:
        before, outputs = drive(table, before, [inputs] * (ticks - 1))
        assert (outputs.mode, outputs.authority, outputs.envelope) == (Mode.NOMINAL, Authority.POLICY, Envelope())
        assert (outputs.bridging, outputs.reasons, outputs.configuration) == (False, (row,), "")
    _, outputs = step(table, before, inputs)
    assert (outputs.mode, outputs.authority, outputs.bridging) == (Mode.DEGRADED, Authority.POLICY, False)
    assert (outputs.configuration, outputs.reasons, outputs.envelope) == (name, (row,), Envelope(share, 1.0))


def test_two_failures_shed_both() -> None:
    """Prediction and planner together are a configuration of their own, slower than either."""
    _, outputs = drive(MODULAR, nominal(MODULAR), [BOTH] * 60)
    assert (outputs.configuration, outputs.envelope) == ("no_prediction_no_planner", Envelope(0.25, 1.0))
    assert outputs.reasons == ("MOD-C24", "MOD-C25")


def test_a_second_failure_joins_the_first() -> None:
    """What fails while something else is shed is shed too, in the tick in which its debounce is over."""
    first = degraded(MODULAR, PREDICTION, 60)
    state, outputs = drive(MODULAR, first, [PREDICTION] * 500 + [BOTH] * 59)
    assert outputs.configuration == "no_prediction"
    state, outputs = step(MODULAR, state, BOTH)
    assert outputs.configuration == "no_prediction_no_planner"
    _, outputs = drive(MODULAR, state, [BOTH] * 999)
    assert outputs.mode is Mode.DEGRADED, "the stay of both is counted from the younger one"
    assert drive(MODULAR, state, [BOTH] * 1000)[1].mode is Mode.HOLD


def test_a_strategy_sheds_nothing_else() -> None:
    """In every strategy what another one sheds is HOLD, as in the monolithic one."""
    for table in map(compiled, DEGRADING):
        own = int(table.capabilities[:, 0].max())
        for row in table.capabilities.tolist():
            own |= row[0]
        for cause in (Cause.MONITOR_DEGRADE, Cause.PREDICTION_FAILED, Cause.PLANNER_FAILED, Cause.SYSTEM2_FAILED):
            if not cause_mask([cause]) & own:
                assert step(table, nominal(table), seen(cause))[1].mode is Mode.HOLD
    late = seen(Cause.POLICY_LATE)
    assert drive(DUAL, nominal(DUAL), [late] * 60)[1].mode is Mode.HOLD
    assert drive(MODULAR, nominal(MODULAR), [late] * 60)[1].mode is Mode.HOLD


def test_cautious_is_degraded_too_and_hold_is_not() -> None:
    """A failure sheds from CAUTIOUS as from NOMINAL; in HOLD and STOP nothing is shed any more."""
    cautious, _ = step(VLA, nominal(VLA), seen(Cause.TICK_OVERRUN))
    assert step(VLA, cautious, LATE)[1].configuration == "tail"
    hold, _ = step(VLA, nominal(VLA), seen(Cause.CLOCK_BACKWARDS))
    state, outputs = drive(VLA, hold, [LATE] * 5)
    assert (outputs.mode, outputs.configuration, outputs.authority) == (Mode.HOLD, "", Authority.BACKUP)
    assert set(state.numbers[VLA.ages :].tolist()) == {0}
    _, outputs = step(VLA, nominal(VLA), seen(Cause.POLICY_LATE, Cause.OPERATOR_STOP))
    assert (outputs.mode, outputs.configuration, outputs.reasons) == (Mode.STOP, "", ("CORE-C17",))


def test_hold_is_left_with_everything_there() -> None:
    """What was shed before HOLD is there again after it, and HOLD is not left before it works."""
    state, _ = step(DUAL, degraded(DUAL, SYSTEM2, 125), seen(Cause.CLOCK_BACKWARDS))
    failing = ModeInputs.of([Cause.SYSTEM2_FAILED], standstill=True, available=1)
    assert drive(DUAL, state, [failing] * 300 + [failing._replace(ack=True)])[1].mode is Mode.HOLD
    state, outputs = drive(DUAL, state, [REST] * 400 + [ACK])
    assert (outputs.mode, outputs.configuration) == (Mode.CAUTIOUS, "")


# -- not, or no longer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "inputs", "ticks", "row"),
    [
        (VLA, seen(Cause.POLICY_LATE, available=0), 1, "VLA-D01"),
        (DUAL, seen(Cause.SYSTEM2_FAILED, available=0), 125, "DUAL-D01"),
        (MODULAR, seen(Cause.PREDICTION_FAILED, available=0b10), 60, "MOD-D01"),
        (MODULAR, seen(Cause.PLANNER_FAILED, available=0b01), 60, "MOD-D02"),
    ],
)
def test_without_a_substitute_nothing_is_shed(table: ModeTable, inputs: ModeInputs, ticks: int, row: str) -> None:
    """Where the substitute is missing the failure is HOLD, and the configuration's row says so."""
    found = modes(table, nominal(table), [inputs] * ticks)
    assert found == [Mode.NOMINAL] * (ticks - 1) + [Mode.HOLD]
    _, outputs = drive(table, nominal(table), [inputs] * ticks)
    assert outputs.reasons == (row,)


def test_a_substitute_that_goes_away_ends_the_stay() -> None:
    """The stay ends in the tick in which the substitute is gone."""
    _, outputs = step(DUAL, degraded(DUAL, SYSTEM2, 125), seen(Cause.SYSTEM2_FAILED, available=0))
    assert (outputs.mode, outputs.reasons) == (Mode.HOLD, ("DUAL-D01",))


@pytest.mark.parametrize(
    ("table", "inputs", "ticks", "row", "weak"),
    [
        (VLA, LATE, 1, "VLA-D01", (Cause.MONITOR_WARN, Cause.FILTER_SLACK)),
        (DUAL, SYSTEM2, 125, "DUAL-D01", (Cause.MONITOR_WARN, Cause.PERCEPTION_WARN)),
        (MODULAR, BOTH, 60, "MOD-D03", (Cause.MONITOR_WARN, Cause.PERCEPTION_WARN)),
    ],
)
def test_two_weak_signals_are_a_strong_one(
    table: ModeTable, inputs: ModeInputs, ticks: int, row: str, weak: tuple[Cause, ...]
) -> None:
    """A warning that the configuration does not tolerate is HOLD in its tick, also when it was there first."""
    state = degraded(table, inputs, ticks)
    for cause in weak:
        warned = inputs._replace(causes=inputs.causes | cause_mask([cause]))
        _, outputs = step(table, state, warned)
        assert (outputs.mode, outputs.reasons[-1]) == (Mode.HOLD, row)
        assert len(outputs.reasons) == 2, "the warning is named too"
        assert modes(table, nominal(table), [warned] * ticks)[-1] is Mode.HOLD


def test_a_warning_that_is_tolerated_is_no_reason_to_hold() -> None:
    """Without its planner alone the modular strategy goes on in spite of a warning."""
    _, outputs = step(MODULAR, degraded(MODULAR, PLANNER, 60), seen(Cause.PLANNER_FAILED, Cause.MONITOR_WARN))
    assert (outputs.mode, outputs.configuration) == (Mode.DEGRADED, "no_planner")


@pytest.mark.parametrize(
    ("table", "inputs", "ticks", "stay", "row"),
    [
        (VLA, LATE, 1, 100, "VLA-D01"),
        (DUAL, SYSTEM2, 125, 1500, "DUAL-D01"),
        (MODULAR, PLANNER, 60, 5000, "MOD-D02"),
        (MODULAR, BOTH, 60, 1000, "MOD-D03"),
    ],
)
def test_a_degraded_stay_is_bounded(table: ModeTable, inputs: ModeInputs, ticks: int, stay: int, row: str) -> None:
    """The policy moves for exactly the stay; the tick after it is HOLD, whether the failure lasts or not."""
    last, outputs = drive(table, degraded(table, inputs, ticks), [inputs] * (stay - 1))
    assert outputs.mode is Mode.DEGRADED
    for then in (inputs, QUIET._replace(available=0b11)):
        _, outputs = step(table, last, then)
        assert (outputs.mode, outputs.reasons) == (Mode.HOLD, (row,))


def test_the_longest_stay_has_its_own_bound() -> None:
    """Sixty seconds without prediction at 2 ms are 30,000 ticks, not one more."""
    state = degraded(MODULAR, PREDICTION, 60)
    state, outputs = drive(MODULAR, state, [PREDICTION] * 29_999)
    assert outputs.mode is Mode.DEGRADED
    _, outputs = step(MODULAR, state, PREDICTION)
    assert (outputs.mode, outputs.reasons) == (Mode.HOLD, ("MOD-D01",))


def test_a_stay_is_not_prolonged_by_another_failure() -> None:
    """When the planner's time is up that is HOLD, also if prediction was lost in between."""
    state, _ = drive(MODULAR, degraded(MODULAR, PLANNER, 60), [PLANNER] * 4_500)
    _, outputs = drive(MODULAR, state, [BOTH] * 499)
    assert outputs.configuration == "no_prediction_no_planner"
    _, outputs = drive(MODULAR, state, [BOTH] * 500)
    assert (outputs.mode, outputs.reasons) == (Mode.HOLD, ("MOD-D02",))


def test_a_tail_decays_to_a_standstill() -> None:
    """The envelope of the tail shrinks in every tick by the same step, from half speed to nothing left to give."""
    shares: list[float] = []
    state = nominal(VLA)
    for _ in range(100):
        state, outputs = step(VLA, state, LATE)
        shares.append(outputs.envelope.velocity)
        assert outputs.envelope.acceleration == 1.0
    assert shares == pytest.approx([0.5 * (100 - age) / 100 for age in range(100)])


def test_what_does_not_decay_keeps_its_envelope() -> None:
    """Half speed in the first and in the last tick of System 1 alone."""
    _, outputs = drive(DUAL, degraded(DUAL, SYSTEM2, 125), [SYSTEM2] * 1499)
    assert outputs.envelope == Envelope(0.5, 1.0)


def test_a_decay_counts_from_the_younger_loss() -> None:
    """Where two are shed and the envelope decays, it starts in full when the second one is lost."""
    spec = load_spec("modular")
    decaying = tuple(row.model_copy(update={"decays": row.id == "MOD-D03"}) for row in spec.configurations)
    table = compile_table(spec.model_copy(update={"configurations": decaying}), PERIOD)
    state, outputs = drive(table, degraded(table, PREDICTION, 60), [PREDICTION] * 700 + [BOTH] * 60)
    assert outputs.envelope == Envelope(0.25, 1.0)
    _, outputs = drive(table, state, [BOTH] * 500)
    assert outputs.envelope == Envelope(0.125, 1.0)


def test_a_decay_is_of_what_is_shed() -> None:
    """What is there does not count for the age of a decaying envelope."""
    spec = load_spec("modular")
    decaying = spec.configurations[0].model_copy(update={"decays": True, "stay_s": None, "stay_ticks": 100})
    table = compile_table(spec.model_copy(update={"configurations": (decaying, *spec.configurations[1:])}), PERIOD)
    _, outputs = drive(table, degraded(table, PREDICTION, 60), [PREDICTION] * 50)
    assert outputs.envelope == Envelope(0.25, 1.0)


def test_a_combination_without_a_configuration_is_hold() -> None:
    """What no configuration is for is HOLD by the rows of the causes."""
    configurations = MODULAR.configurations.copy()
    configurations[0b11] = 0
    table = replace(MODULAR, configurations=configurations)
    _, outputs = drive(table, degraded(table, PREDICTION, 60), [BOTH] * 60)
    assert (outputs.mode, outputs.reasons) == (Mode.HOLD, ("MOD-C24", "MOD-C25"))


def three(stays: dict[tuple[str, ...], int]) -> ModeTable:
    """The modular strategy with a third thing to shed, and configurations of so many ticks."""
    spec = load_spec("modular")
    third = spec.capabilities[0].model_copy(update={"id": "MOD-K03", "name": "tail"})
    late = next(row for row in spec.causes if row.cause is Cause.POLICY_LATE)
    shed = {"floor": Mode.DEGRADED, "sheds": ("tail",), "bridge_s": None, "clear": "auto"}
    some = spec.configurations[0].model_copy(update={"stay_s": None})
    table = spec.model_copy(
        update={
            "flapping": spec.flapping and spec.flapping.model_copy(update={"recoveries": 6}),
            "capabilities": (*spec.capabilities, third),
            "causes": tuple(row if row is not late else late.model_copy(update=shed) for row in spec.causes),
            "configurations": tuple(
                some.model_copy(update={"id": f"MOD-D{i}", "sheds": sheds, "stay_ticks": stay})
                for i, (sheds, stay) in enumerate(stays.items())
            ),
        }
    )
    return compile_table(table, PERIOD)


ALONE: dict[tuple[str, ...], int] = {("prediction",): 90, ("planner",): 80, ("tail",): 70}
EVERYTHING = BOTH._replace(causes=BOTH.causes | LATE.causes, available=0b111)


def test_a_pair_without_a_configuration_does_not_end_a_stay_of_three() -> None:
    """All three may be missing where no two may: what counts are the stays that the table has."""
    all_three = {**ALONE, ("prediction", "planner", "tail"): 50}
    table = three(all_three)
    both_first = seen(Cause.PREDICTION_FAILED, Cause.PLANNER_FAILED, available=0b111)
    assert modes(table, nominal(table), [both_first] * 60)[-1] is Mode.HOLD
    found = modes(table, nominal(table), [both_first] * 59 + [EVERYTHING] * 51)
    assert found[58:] == [Mode.NOMINAL] + [Mode.DEGRADED] * 50 + [Mode.HOLD]


@pytest.mark.parametrize("stay", [1, 2])
def test_the_shortest_stay_of_what_is_shed_ends_it(stay: int) -> None:
    """A stay of one tick ends that of all three after one tick, one of two after two."""
    table = three({**ALONE, ("tail",): stay, ("prediction", "planner", "tail"): 50})
    both_first = seen(Cause.PREDICTION_FAILED, Cause.PLANNER_FAILED, available=0b111)
    found = modes(table, nominal(table), [both_first] * 59 + [EVERYTHING] * (stay + 1))
    assert found[59:] == [Mode.DEGRADED] * stay + [Mode.HOLD]
