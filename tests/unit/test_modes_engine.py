from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.types import Envelope
from safeguard.modes import ModeInputs, ModeOutputs, ModeState, ModeTable, cause_mask, load_table, step

TABLE = load_table("monolithic", 0.002)
REST = ModeInputs(standstill=True)
ACK = ModeInputs(ack=True, standstill=True)
LATE = ModeInputs.of([Cause.POLICY_LATE])


def drive(state: ModeState, inputs: Iterable[ModeInputs], table: ModeTable = TABLE) -> tuple[ModeState, ModeOutputs]:
    """Several ticks; the last outputs."""
    outputs: ModeOutputs | None = None
    for one in inputs:
        state, outputs = step(table, state, one)
    assert outputs is not None
    return state, outputs


def nominal() -> ModeState:
    """NOMINAL by the operator's way: self-test, rest, acknowledgement, half a second of quiet."""
    start = ModeState.initial(TABLE)
    state, outputs = drive(start, [REST] * 101 + [ACK] + [ModeInputs()] * 250)
    assert outputs.mode is Mode.NOMINAL
    return state


def test_boot_waits_for_the_self_test_then_holds() -> None:
    """BOOT has nobody in charge and is left for HOLD in the tick in which the self-test has passed."""
    state, outputs = drive(ModeState.initial(TABLE), [ModeInputs(ready=False)] * 5)
    assert (outputs.mode, outputs.authority, outputs.reasons) == (Mode.BOOT, Authority.NONE, ())
    _, outputs = step(TABLE, state, ModeInputs())
    assert (outputs.mode, outputs.authority, outputs.reasons) == (Mode.HOLD, Authority.BACKUP, ("MON-R01",))


def test_nominal_is_quiet() -> None:
    """NOMINAL without causes gives no reasons, the policy's authority and the full envelope."""
    state, outputs = step(TABLE, nominal(), ModeInputs())
    assert outputs == ModeOutputs(Mode.NOMINAL, Authority.POLICY, Envelope(1.0, 1.0), ())
    assert step(TABLE, state, ModeInputs())[0] == state


@pytest.mark.parametrize(
    ("cause", "row", "mode"),
    [
        (Cause.ESTOP, "MON-C01", Mode.ESTOP),
        (Cause.STATE_INVALID, "MON-C02", Mode.STOP),
        (Cause.STATE_JUMP, "MON-C05", Mode.STOP),
        (Cause.CLOCK_BACKWARDS, "MON-C06", Mode.HOLD),
        (Cause.TICK_OVERRUN, "MON-C07", Mode.CAUTIOUS),
        (Cause.FILTER_SLACK, "MON-C13", Mode.CAUTIOUS),
        (Cause.BACKUP_REFUSED, "MON-C14", Mode.ESTOP),
        (Cause.EFFORT_WARN, "MON-C15", Mode.CAUTIOUS),
        (Cause.UNCALIBRATED, "MON-C16", Mode.NOMINAL),
        (Cause.OPERATOR_STOP, "MON-C17", Mode.STOP),
        (Cause.AUDIT_FAILED, "MON-C18", Mode.HOLD),
    ],
)
def test_immediate_causes_act_in_their_tick(cause: Cause, row: str, mode: Mode) -> None:
    """A cause without a bridge brings its floor about in the same tick and is named as the reason."""
    _, outputs = step(TABLE, nominal(), ModeInputs.of([cause]))
    assert (outputs.mode, outputs.reasons, outputs.bridging) == (mode, (row,), False)


@pytest.mark.parametrize(
    ("cause", "row", "ticks", "mode"),
    [
        (Cause.STATE_STALE, "MON-C03", 3, Mode.STOP),
        (Cause.STATE_ORDER, "MON-C04", 3, Mode.STOP),
        (Cause.PROPOSAL_INVALID, "MON-C08", 60, Mode.HOLD),
        (Cause.PROPOSAL_REPEATED, "MON-C09", 60, Mode.HOLD),
        (Cause.PROPOSAL_ORDER, "MON-C10", 60, Mode.HOLD),
        (Cause.POLICY_LATE, "MON-C11", 60, Mode.HOLD),
        (Cause.FILTER_FAILED, "MON-C12", 3, Mode.HOLD),
    ],
)
def test_bridged_causes_ride_on_the_backup(cause: Cause, row: str, ticks: int, mode: Mode) -> None:
    """Until its bridge runs out the mode stays and the backup has the body; in tick N the floor applies."""
    state = nominal()
    for _ in range(ticks - 1):
        state, outputs = step(TABLE, state, ModeInputs.of([cause]))
        assert (outputs.mode, outputs.authority) == (Mode.NOMINAL, Authority.BACKUP)
        assert (outputs.bridging, outputs.reasons) == (True, (row,))
    resumed, outputs = step(TABLE, state, ModeInputs())
    assert (outputs.authority, outputs.bridging, outputs.reasons) == (Authority.POLICY, False, ())
    assert resumed.mode is Mode.NOMINAL
    _, outputs = step(TABLE, state, ModeInputs.of([cause]))
    assert (outputs.mode, outputs.reasons, outputs.bridging) == (mode, (row,), False)


def test_one_missed_policy_period_is_survived_two_are_not() -> None:
    """At 2 ms a missed 100 ms period stays below HOLD; a second one right after it does not."""
    state, outputs = drive(nominal(), [LATE] * 50)
    assert outputs.mode is Mode.NOMINAL
    _, outputs = drive(state, [ModeInputs()] + [LATE] * 50)
    assert outputs.mode is Mode.HOLD


def test_flapping_trips_and_rare_faults_drain() -> None:
    """One bad tick in three trips the bridge; one in five drains away for ever."""
    _, outputs = drive(nominal(), ([LATE] + [ModeInputs()] * 2) * 200)
    assert outputs.mode is Mode.HOLD
    state, outputs = drive(nominal(), ([LATE] + [ModeInputs()] * 4) * 2000)
    assert outputs.mode is Mode.NOMINAL
    assert state.buckets == TABLE.empty


def test_worst_floor_wins() -> None:
    """Of several causes the worst floor decides, and only the rows that ask for it are reasons."""
    inputs = ModeInputs.of([Cause.EFFORT_WARN, Cause.CLOCK_BACKWARDS, Cause.OPERATOR_STOP])
    _, outputs = step(TABLE, nominal(), inputs)
    assert (outputs.mode, outputs.reasons) == (Mode.STOP, ("MON-C17",))


@pytest.mark.parametrize(
    ("cause", "mode", "reasons"),
    [
        (Cause.OPERATOR_STOP, Mode.STOP, ("MON-C17", "MON-E01")),
        (Cause.ESTOP, Mode.ESTOP, ("MON-C01",)),
        (Cause.EFFORT_WARN, Mode.STOP, ("MON-E01",)),
    ],
)
def test_timer_and_cause_in_one_tick(cause: Cause, mode: Mode, reasons: tuple[str, ...]) -> None:
    """When a timer and a cause act together the worse decides; equals are both named, the lesser is not."""
    state, _ = step(TABLE, nominal(), ModeInputs.of([Cause.CLOCK_BACKWARDS]))
    state, _ = drive(state, [ModeInputs()] * 749)
    _, outputs = step(TABLE, state, ModeInputs.of([cause]))
    assert (outputs.mode, outputs.reasons) == (mode, reasons)


def test_cautious_slows_down_and_clears_by_itself() -> None:
    """CAUTIOUS halves the speed and ends 0.5 s after the last cause that asks for it."""
    state, outputs = step(TABLE, nominal(), ModeInputs.of([Cause.EFFORT_WARN]))
    assert outputs.envelope == Envelope(0.5, 1.0)
    state, outputs = drive(state, [ModeInputs()] * 249)
    assert (outputs.mode, outputs.reasons) == (Mode.CAUTIOUS, ("MON-C15",))
    state, outputs = step(TABLE, state, ModeInputs())
    assert (outputs.mode, outputs.reasons) == (Mode.NOMINAL, ("MON-R02",))
    assert step(TABLE, state, ModeInputs())[1].reasons == ()


def test_stop_that_keeps_moving_escalates() -> None:
    """HOLD becomes STOP, STOP becomes ESTOP after 1.5 s without standstill; a tick of rest restarts it."""
    moving = ModeInputs()
    state, _ = step(TABLE, nominal(), ModeInputs.of([Cause.CLOCK_BACKWARDS]))
    state, outputs = drive(state, [moving] * 749 + [REST] + [moving] * 749)
    assert outputs.mode is Mode.HOLD
    state, outputs = step(TABLE, state, moving)
    assert (outputs.mode, outputs.reasons) == (Mode.STOP, ("MON-E01",))
    state, outputs = drive(state, [moving] * 750)
    assert (outputs.mode, outputs.reasons, outputs.authority) == (Mode.ESTOP, ("MON-E02",), Authority.NONE)


def test_acknowledgement_during_a_stop_is_not_remembered() -> None:
    """An ack while the body moves does nothing, then or later; a fresh one at rest returns to CAUTIOUS."""
    state, _ = step(TABLE, nominal(), ModeInputs.of([Cause.CLOCK_BACKWARDS]))
    state, outputs = drive(state, [ModeInputs(ack=True)] + [REST] * 300)
    assert (outputs.mode, outputs.reasons) == (Mode.HOLD, ("MON-C06",))
    _, outputs = step(TABLE, state, ACK)
    assert (outputs.mode, outputs.reasons) == (Mode.CAUTIOUS, ("MON-R03",))


def test_held_acknowledgement_never_rearms() -> None:
    """A button that is stuck since boot, or pressed too early and kept, is no edge."""
    _, outputs = drive(ModeState.initial(TABLE), [ACK] * 2000)
    assert outputs.mode is Mode.HOLD
    state, _ = step(TABLE, nominal(), ModeInputs.of([Cause.CLOCK_BACKWARDS]))
    _, outputs = drive(state, [ACK] * 2000)
    assert outputs.mode is Mode.HOLD


@pytest.mark.parametrize(
    "blocked",
    [
        ModeInputs(ack=True),
        ModeInputs.of([Cause.POLICY_LATE], ack=True, standstill=True),
        ModeInputs.of([Cause.CLOCK_BACKWARDS], ack=True, standstill=True),
    ],
    ids=["moving", "bridged cause", "cause"],
)
def test_hold_is_not_left_while_something_is_wrong(blocked: ModeInputs) -> None:
    """Motion or any cause that may ask for HOLD, bridged or not, keeps HOLD in spite of an ack."""
    state, _ = drive(ModeState.initial(TABLE), [REST] * 200)
    assert step(TABLE, state, blocked)[1].mode is Mode.HOLD


def test_buckets_drain_before_an_acknowledgement_counts() -> None:
    """An ack counts once the bucket is half empty and 0.2 s have passed since: 120 + 99 ticks."""
    state, outputs = drive(nominal(), [LATE] * 60)
    assert outputs.mode is Mode.HOLD
    early, _ = drive(state, [REST] * 217)
    assert step(TABLE, early, ACK)[1].mode is Mode.HOLD
    ripe, _ = drive(state, [REST] * 218)
    assert step(TABLE, ripe, ACK)[1].mode is Mode.CAUTIOUS


@pytest.mark.parametrize("cause", [Cause.OPERATOR_STOP, Cause.ESTOP])
def test_worse_than_hold_leads_back_through_hold(cause: Cause) -> None:
    """STOP and ESTOP need one ack to HOLD and another one to CAUTIOUS."""
    state, _ = step(TABLE, nominal(), ModeInputs.of([cause]))
    state, outputs = drive(state, [REST] * 100 + [ACK])
    assert outputs.mode is Mode.HOLD
    _, outputs = drive(state, [REST] * 100 + [ACK])
    assert outputs.mode is Mode.CAUTIOUS


def test_third_estop_locks_out() -> None:
    """Two e-stops are forgiven; the third one is LOCKOUT, which nothing leaves."""
    state = nominal()
    for _ in range(2):
        state, outputs = step(TABLE, state, ModeInputs.of([Cause.ESTOP]))
        assert outputs.mode is Mode.ESTOP
        state, outputs = drive(state, [REST] * 100 + [ACK])
        assert outputs.mode is Mode.HOLD
    state, outputs = step(TABLE, state, ModeInputs.of([Cause.BACKUP_REFUSED]))
    assert (outputs.mode, outputs.reasons) == (Mode.LOCKOUT, ("MON-C14", "MON-L01"))
    _, outputs = drive(state, ([REST] * 100 + [ACK]) * 20)
    assert (outputs.mode, outputs.authority) == (Mode.LOCKOUT, Authority.NONE)
    assert outputs.reasons == ("MON-C14", "MON-L01")


def test_reasons_keep_the_root_cause() -> None:
    """While HOLD waits for an ack its reasons still name what brought it about, and what joined since."""
    state, _ = drive(nominal(), [LATE] * 60)
    state, outputs = step(TABLE, state, REST)
    assert outputs.reasons == ("MON-C11",)
    state, _ = step(TABLE, state, ModeInputs.of([Cause.CLOCK_BACKWARDS]))
    assert step(TABLE, state, REST)[1].reasons == ("MON-C06", "MON-C11")


def test_unknown_bits_are_an_emergency_stop() -> None:
    """A mask with bits that no cause has fails closed."""
    assert step(TABLE, nominal(), ModeInputs(1 << 40))[1].mode is Mode.ESTOP


def test_longer_ticks_keep_the_bounds() -> None:
    """At 5 ms the bridge is 24 ticks, at 7 ms 17, never longer than 0.12 s; dwells are never shorter."""
    for period, ticks in ((0.001, 120), (0.005, 24), (0.007, 17)):
        table = load_table("monolithic", period)
        full = {bit: full for bit, full, _ in table.buckets}
        assert full[cause_mask([Cause.POLICY_LATE])] == 4 * ticks
        back = table.recoveries[Mode.CAUTIOUS]
        assert back is not None
        assert 0.5 <= back.dwell * period < 0.5 + period


masks = st.integers(min_value=0, max_value=(1 << len(Cause)) - 1)
inputs = st.builds(ModeInputs, masks | st.just(0), st.booleans(), st.booleans(), st.booleans())


@given(st.lists(inputs, max_size=60))
def test_step_is_pure_and_ignores_why(sequence: list[ModeInputs]) -> None:
    """The same inputs give the same states; `why` never decides; `ready` matters in BOOT only."""
    state = ModeState.initial(TABLE)
    for one in sequence:
        after, outputs = step(TABLE, state, one)
        assert step(TABLE, state, one) == (after, outputs)
        bare, bare_outputs = step(TABLE, replace(state, why=0), one)
        assert replace(bare, why=0) == replace(after, why=0)
        assert replace(bare_outputs, reasons=()) == replace(outputs, reasons=())
        if state.mode is not Mode.BOOT:
            assert step(TABLE, state, replace(one, ready=not one.ready)) == (after, outputs)
        state = after


@given(st.lists(inputs, max_size=60), st.sampled_from(list(Cause)))
def test_another_cause_never_helps(sequence: list[ModeInputs], cause: Cause) -> None:
    """On the real table too: one cause more never lowers the next mode (P10)."""
    state = ModeState.initial(TABLE)
    for one in sequence:
        worse = replace(one, causes=one.causes | cause_mask([cause]))
        after, outputs = step(TABLE, state, one)
        assert step(TABLE, state, worse)[1].mode >= outputs.mode
        state = after
