"""What the core of every strategy does, tick by tick; what can be shed is in test_modes_degraded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.types import Envelope
from safeguard.modes import ModeInputs, ModeOutputs, ModeState, ModeTable, cause_mask, compile_table, load_spec, step
from safeguard.modes.state import ACKED, CALM, ESTOPS, MODE
from tests.unit.modes_support import ACK, ALL, QUIET, REST, compiled, drive, modes, nominal, seen

INVALID = seen(Cause.PROPOSAL_INVALID)
CLOCK = seen(Cause.CLOCK_BACKWARDS)


@pytest.fixture(params=ALL)
def table(request: pytest.FixtureRequest) -> ModeTable:
    """The table of every strategy."""
    return compiled(request.param)


def test_boot_waits_for_the_self_test_then_holds(table: ModeTable) -> None:
    """BOOT has nobody in charge and is left for HOLD in the tick in which the self-test has passed."""
    state, outputs = drive(table, ModeState.initial(table), [ModeInputs(ready=False)] * 5)
    assert (outputs.mode, outputs.authority, outputs.reasons) == (Mode.BOOT, Authority.NONE, ())
    _, outputs = step(table, state, QUIET)
    assert (outputs.mode, outputs.authority, outputs.reasons) == (Mode.HOLD, Authority.BACKUP, ("CORE-R01",))


def test_boot_outlasts_every_cause(table: ModeTable) -> None:
    """Without a self-test not even an e-stop leaves BOOT, no cause is a reason there, and none is counted."""
    state, outputs = drive(table, ModeState.initial(table), [ModeInputs.of(Cause, ready=False)] * 9)
    assert (outputs.mode, outputs.authority, outputs.reasons, state.estops) == (Mode.BOOT, Authority.NONE, (), 0)


def test_boot_with_a_cause(table: ModeTable) -> None:
    """A cause that is there when the self-test passes is obeyed in that tick."""
    _, outputs = step(table, ModeState.initial(table), seen(Cause.ESTOP))
    assert (outputs.mode, outputs.reasons) == (Mode.ESTOP, ("CORE-C01",))
    _, outputs = step(table, ModeState.initial(table), CLOCK)
    assert (outputs.mode, outputs.reasons) == (Mode.HOLD, ("CORE-C06", "CORE-R01"))


def test_nominal_is_quiet(table: ModeTable) -> None:
    """NOMINAL without causes gives no reasons, the policy's authority and the full envelope, and stays as it is."""
    state, outputs = step(table, nominal(table), QUIET)
    assert outputs == ModeOutputs(Mode.NOMINAL, Authority.POLICY, Envelope(1.0, 1.0), ())
    assert step(table, state, QUIET)[0] == state


@pytest.mark.parametrize(
    ("cause", "row", "mode"),
    [
        (Cause.ESTOP, "CORE-C01", Mode.ESTOP),
        (Cause.STATE_INVALID, "CORE-C02", Mode.STOP),
        (Cause.STATE_JUMP, "CORE-C05", Mode.STOP),
        (Cause.CLOCK_BACKWARDS, "CORE-C06", Mode.HOLD),
        (Cause.TICK_OVERRUN, "CORE-C07", Mode.CAUTIOUS),
        (Cause.FILTER_SLACK, "CORE-C13", Mode.CAUTIOUS),
        (Cause.BACKUP_REFUSED, "CORE-C14", Mode.ESTOP),
        (Cause.UNCALIBRATED, "CORE-C16", Mode.NOMINAL),
        (Cause.OPERATOR_STOP, "CORE-C17", Mode.STOP),
        (Cause.AUDIT_FAILED, "CORE-C18", Mode.HOLD),
        (Cause.MONITOR_WARN, "CORE-C19", Mode.CAUTIOUS),
        (Cause.MONITOR_STOP, "CORE-C21", Mode.STOP),
        (Cause.PERCEPTION_WARN, "CORE-C22", Mode.CAUTIOUS),
        (Cause.LEASE_LOST, "CORE-C27", Mode.HOLD),
    ],
)
def test_immediate_causes_act_in_their_tick(table: ModeTable, cause: Cause, row: str, mode: Mode) -> None:
    """A cause that nothing delays brings its floor about in the same tick and is named as the reason."""
    _, outputs = step(table, nominal(table), seen(cause))
    assert (outputs.mode, outputs.reasons, outputs.bridging) == (mode, (row,), False)
    assert outputs.authority is table.authority[mode]


@pytest.mark.parametrize(
    "cause",
    [Cause.POLICY_LATE, Cause.MONITOR_DEGRADE, Cause.PREDICTION_FAILED, Cause.PLANNER_FAILED, Cause.SYSTEM2_FAILED],
)
def test_what_cannot_be_shed_is_hold(cause: Cause) -> None:
    """The monolithic strategy holds for everything that another one might do without."""
    table = compiled("monolithic")
    late = 60 if cause is Cause.POLICY_LATE else 1
    _, outputs = drive(table, nominal(table), [seen(cause)] * late)
    assert (outputs.mode, outputs.authority) == (Mode.HOLD, Authority.BACKUP)


@pytest.mark.parametrize(
    ("cause", "row", "ticks", "mode"),
    [
        (Cause.STATE_STALE, "CORE-C03", 3, Mode.STOP),
        (Cause.STATE_ORDER, "CORE-C04", 3, Mode.STOP),
        (Cause.PROPOSAL_INVALID, "CORE-C08", 60, Mode.HOLD),
        (Cause.PROPOSAL_REPEATED, "CORE-C09", 60, Mode.HOLD),
        (Cause.PROPOSAL_ORDER, "CORE-C10", 60, Mode.HOLD),
        (Cause.FILTER_FAILED, "CORE-C12", 3, Mode.HOLD),
        (Cause.PERCEPTION_LOST, "CORE-C23", 60, Mode.HOLD),
    ],
)
def test_bridged_causes_ride_on_the_backup(table: ModeTable, cause: Cause, row: str, ticks: int, mode: Mode) -> None:
    """Until its bridge runs out the mode stays and the backup has the body; in tick N the floor applies."""
    state = nominal(table)
    for _ in range(ticks - 1):
        state, outputs = step(table, state, seen(cause))
        assert (outputs.mode, outputs.authority) == (Mode.NOMINAL, Authority.BACKUP)
        assert (outputs.bridging, outputs.reasons) == (True, (row,))
    resumed, outputs = step(table, state, QUIET)
    assert (outputs.authority, outputs.bridging, outputs.reasons) == (Authority.POLICY, False, ())
    assert resumed.mode is Mode.NOMINAL
    _, outputs = step(table, state, seen(cause))
    assert (outputs.mode, outputs.reasons, outputs.bridging) == (mode, (row,), False)


def test_bridging_is_told_only_where_the_policy_would_move(table: ModeTable) -> None:
    """In HOLD the backup has the body anyway, so a filling bridge is a reason and no bridge."""
    state, _ = step(table, nominal(table), CLOCK)
    _, outputs = step(table, state, INVALID)
    assert (outputs.mode, outputs.bridging, outputs.authority) == (Mode.HOLD, False, Authority.BACKUP)
    assert outputs.reasons == ("CORE-C06", "CORE-C08")


def test_one_missed_policy_period_is_survived_two_are_not(table: ModeTable) -> None:
    """At 2 ms a missed 100 ms period stays below HOLD; a second one right after it does not."""
    state, outputs = drive(table, nominal(table), [INVALID] * 50)
    assert outputs.mode is Mode.NOMINAL
    _, outputs = drive(table, state, [QUIET] + [INVALID] * 50)
    assert outputs.mode is Mode.HOLD


def test_flapping_trips_and_rare_faults_drain(table: ModeTable) -> None:
    """One bad tick in three trips the bridge; one in five drains away for ever."""
    _, outputs = drive(table, nominal(table), ([INVALID] + [QUIET] * 2) * 200)
    assert outputs.mode is Mode.HOLD
    state, outputs = drive(table, nominal(table), ([INVALID] + [QUIET] * 4) * 300)
    assert outputs.mode is Mode.NOMINAL
    assert set(state.levels(table)) == {0}


def test_levels_are_the_buckets(table: ModeTable) -> None:
    """A tick fills the bucket of its cause by 4, another tick drains it by 1; the others stay empty."""
    at = [row[0] for row in table.buckets.tolist()].index(cause_mask([Cause.PROPOSAL_INVALID]))
    state, _ = drive(table, nominal(table), [INVALID] * 2 + [QUIET])
    assert state.levels(table) == tuple(7 if b == at else 0 for b in range(len(table.buckets)))


def test_worst_floor_wins(table: ModeTable) -> None:
    """Of several causes the worst floor decides, and only the rows that ask for it are reasons."""
    _, outputs = step(table, nominal(table), seen(Cause.MONITOR_WARN, Cause.CLOCK_BACKWARDS, Cause.OPERATOR_STOP))
    assert (outputs.mode, outputs.reasons) == (Mode.STOP, ("CORE-C17",))


@pytest.mark.parametrize(
    ("cause", "mode", "reasons"),
    [
        (Cause.OPERATOR_STOP, Mode.STOP, ("CORE-C17", "CORE-E01")),
        (Cause.ESTOP, Mode.ESTOP, ("CORE-C01",)),
        (Cause.MONITOR_WARN, Mode.STOP, ("CORE-E01",)),
    ],
)
def test_timer_and_cause_in_one_tick(table: ModeTable, cause: Cause, mode: Mode, reasons: tuple[str, ...]) -> None:
    """When a timer and a cause act together the worse decides; equals are both named, the lesser is not."""
    state, _ = step(table, nominal(table), CLOCK)
    state, _ = drive(table, state, [QUIET] * 749)
    _, outputs = step(table, state, seen(cause))
    assert (outputs.mode, outputs.reasons) == (mode, reasons)


def test_cautious_slows_down_and_clears_by_itself(table: ModeTable) -> None:
    """CAUTIOUS halves the speed and ends 0.5 s after the last cause that asks for it."""
    state, outputs = step(table, nominal(table), seen(Cause.MONITOR_WARN))
    assert outputs.envelope == Envelope(0.5, 1.0)
    state, outputs = drive(table, state, [QUIET] * 200 + [seen(Cause.TICK_OVERRUN)] + [QUIET] * 249)
    assert (outputs.mode, outputs.reasons) == (Mode.CAUTIOUS, ("CORE-C07", "CORE-C19"))
    state, outputs = step(table, state, QUIET)
    assert (outputs.mode, outputs.reasons) == (Mode.NOMINAL, ("CORE-R02",))
    assert step(table, state, QUIET)[1].reasons == ()


def test_a_cause_that_asks_for_nothing_changes_nothing(table: ModeTable) -> None:
    """UNCALIBRATED is a reason in NOMINAL and does not keep CAUTIOUS from ending."""
    young = seen(Cause.UNCALIBRATED)
    assert step(table, nominal(table), young)[1].reasons == ("CORE-C16",)
    state, _ = step(table, nominal(table), seen(Cause.MONITOR_WARN))
    _, outputs = drive(table, state, [young] * 250)
    assert (outputs.mode, outputs.reasons) == (Mode.NOMINAL, ("CORE-C16", "CORE-R02"))


def test_stop_that_keeps_moving_escalates(table: ModeTable) -> None:
    """HOLD becomes STOP, STOP becomes ESTOP after 1.5 s without standstill; a tick of rest restarts it."""
    state, _ = step(table, nominal(table), CLOCK)
    state, outputs = drive(table, state, [QUIET] * 749 + [REST] + [QUIET] * 749)
    assert outputs.mode is Mode.HOLD
    state, outputs = step(table, state, QUIET)
    assert (outputs.mode, outputs.reasons) == (Mode.STOP, ("CORE-E01",))
    state, outputs = drive(table, state, [QUIET] * 749)
    assert outputs.mode is Mode.STOP
    state, outputs = step(table, state, QUIET)
    assert (outputs.mode, outputs.reasons, outputs.authority) == (Mode.ESTOP, ("CORE-E02",), Authority.NONE)
    assert state.estops == 0, "an escalation is no e-stop that anybody asked for"


def test_acknowledgement_during_a_stop_is_not_remembered(table: ModeTable) -> None:
    """An ack while the body moves does nothing, then or later; a fresh one at rest returns to CAUTIOUS."""
    state, _ = step(table, nominal(table), CLOCK)
    state, outputs = drive(table, state, [ModeInputs(ack=True)] + [REST] * 300)
    assert (outputs.mode, outputs.reasons) == (Mode.HOLD, ("CORE-C06",))
    _, outputs = step(table, state, ACK)
    assert (outputs.mode, outputs.reasons, outputs.authority) == (Mode.CAUTIOUS, ("CORE-R03",), Authority.POLICY)


def test_acknowledgement_counts_from_the_hundredth_tick_of_rest(table: ModeTable) -> None:
    """0.2 s of rest at 2 ms: the ack of tick 99 is too early, that of tick 100 counts."""
    state, _ = step(table, nominal(table), CLOCK)
    early, _ = drive(table, state, [REST] * 98)
    assert early.numbers[CALM] == 98
    assert step(table, early, ACK)[1].mode is Mode.HOLD
    ripe, _ = step(table, early, REST)
    assert step(table, ripe, ACK)[1].mode is Mode.CAUTIOUS
    assert drive(table, ripe, [REST] * 300)[0].numbers[CALM] == 100, "counted no further than needed"


def test_held_acknowledgement_never_rearms(table: ModeTable) -> None:
    """A button that is stuck since boot, or pressed too early and kept, is no edge."""
    assert set(modes(table, ModeState.initial(table), [ACK] * 500)) == {Mode.HOLD}
    state, _ = step(table, nominal(table), CLOCK)
    stuck, outputs = drive(table, state, [ACK] * 500)
    assert outputs.mode is Mode.HOLD
    _, outputs = drive(table, stuck, [REST, ACK])
    assert outputs.mode is Mode.CAUTIOUS, "released and pressed again it counts"


@pytest.mark.parametrize(
    "blocked",
    [
        ModeInputs(ack=True),
        ModeInputs.of([Cause.PROPOSAL_INVALID], ack=True, standstill=True),
        ModeInputs.of([Cause.CLOCK_BACKWARDS], ack=True, standstill=True),
    ],
    ids=["moving", "bridged cause", "cause"],
)
def test_hold_is_not_left_while_something_is_wrong(table: ModeTable, blocked: ModeInputs) -> None:
    """Motion or any cause that may ask for HOLD, bridged or not, keeps HOLD and starts the dwell anew."""
    state, _ = drive(table, ModeState.initial(table), [REST] * 200)
    state, outputs = step(table, state, blocked)
    assert outputs.mode is Mode.HOLD
    assert step(table, drive(table, state, [REST] * 90)[0], ACK)[1].mode is Mode.HOLD


def test_a_weak_cause_does_not_keep_hold(table: ModeTable) -> None:
    """What asks for CAUTIOUS only lets an acknowledgement count."""
    state, _ = step(table, nominal(table), CLOCK)
    weak = ModeInputs.of([Cause.TICK_OVERRUN], standstill=True)
    _, outputs = drive(table, state, [weak] * 100 + [weak._replace(ack=True)])
    assert outputs.mode is Mode.CAUTIOUS


def test_buckets_drain_before_an_acknowledgement_counts(table: ModeTable) -> None:
    """An ack counts once the bucket is half empty and 0.2 s have passed since: 120 + 99 ticks."""
    state, outputs = drive(table, nominal(table), [INVALID] * 60)
    assert outputs.mode is Mode.HOLD
    early, _ = drive(table, state, [REST] * 217)
    assert step(table, early, ACK)[1].mode is Mode.HOLD
    ripe, _ = drive(table, state, [REST] * 218)
    assert step(table, ripe, ACK)[1].mode is Mode.CAUTIOUS


@pytest.mark.parametrize(("cause", "row"), [(Cause.OPERATOR_STOP, "CORE-R04"), (Cause.ESTOP, "CORE-R05")])
def test_worse_than_hold_leads_back_through_hold(table: ModeTable, cause: Cause, row: str) -> None:
    """STOP and ESTOP need one ack to HOLD and another one to CAUTIOUS."""
    state, _ = step(table, nominal(table), seen(cause))
    state, outputs = drive(table, state, [REST] * 100 + [ACK])
    assert (outputs.mode, outputs.reasons) == (Mode.HOLD, (row,))
    _, outputs = drive(table, state, [REST] * 100 + [ACK])
    assert outputs.mode is Mode.CAUTIOUS


def test_third_estop_locks_out(table: ModeTable) -> None:
    """Two e-stops are forgiven; the third one is LOCKOUT, which nothing leaves."""
    state = nominal(table)
    for count in (1, 2):
        state, outputs = drive(table, state, [seen(Cause.ESTOP)] * 5)
        assert (outputs.mode, state.estops) == (Mode.ESTOP, count), "five ticks of one e-stop are one e-stop"
        state, outputs = drive(table, state, [REST] * 100 + [ACK])
        assert outputs.mode is Mode.HOLD
    state, outputs = step(table, state, seen(Cause.BACKUP_REFUSED))
    assert (outputs.mode, outputs.reasons) == (Mode.LOCKOUT, ("CORE-C14", "CORE-L01"))
    state, outputs = drive(table, state, ([REST] * 100 + [ACK]) * 5 + [seen(Cause.ESTOP)] + [QUIET] * 800)
    assert (outputs.mode, outputs.authority) == (Mode.LOCKOUT, Authority.NONE)
    assert "CORE-L01" in outputs.reasons


def test_lockout_count_survives_a_restart_and_saturates(table: ModeTable) -> None:
    """A restart may hand the count over; the count never grows beyond the one that locks out."""
    state = ModeState.initial(table, Mode.HOLD, estops=2)
    assert (state.mode, state.estops) == (Mode.HOLD, 2)
    state, outputs = step(table, state, seen(Cause.ESTOP))
    assert (outputs.mode, state.estops) == (Mode.LOCKOUT, 3)
    for many in (3, 10**15):
        state, outputs = step(table, ModeState.initial(table, Mode.HOLD, estops=many), seen(Cause.ESTOP))
        assert (outputs.mode, state.estops) == (Mode.LOCKOUT, 3)
    locked = ModeState.initial(table, Mode.LOCKOUT, estops=3)
    assert drive(table, locked, [seen(Cause.ESTOP)] * 9)[0].estops == 3


def test_reasons_keep_the_root_cause(table: ModeTable) -> None:
    """While HOLD waits for an ack its reasons still name what brought it about, and what joined since."""
    state, _ = drive(table, nominal(table), [INVALID] * 60)
    state, outputs = step(table, state, REST)
    assert outputs.reasons == ("CORE-C08",)
    state, _ = step(table, state, CLOCK)
    assert step(table, state, REST)[1].reasons == ("CORE-C06", "CORE-C08")


@pytest.mark.parametrize("mask", [1 << len(Cause), 1 << 40, 1 << 62, -1, -(1 << 63)])
def test_unknown_bits_are_an_emergency_stop(table: ModeTable, mask: int) -> None:
    """A mask with a bit that no cause has fails closed, whatever else it says, and the row is named."""
    state, outputs = step(table, nominal(table), ModeInputs(mask))
    assert (outputs.mode, outputs.reasons[0], state.estops) == (Mode.ESTOP, "CORE-C01", 1)


def test_known_causes_beside_an_unknown_bit_still_count(table: ModeTable) -> None:
    """The other causes of such a mask fill their buckets as always."""
    strange = ModeInputs(1 << 40 | cause_mask([Cause.PROPOSAL_INVALID]))
    state, outputs = step(table, nominal(table), strange)
    assert 4 in state.levels(table)
    assert outputs.reasons == ("CORE-C01",)


def test_longer_ticks_keep_the_bounds(table: ModeTable) -> None:
    """At 5 ms the bridge is 24 ticks, at 7 ms 17, never longer than 0.12 s; dwells are never shorter."""
    spec = load_spec(table.strategy)
    for period, ticks in ((0.001, 120), (0.005, 24), (0.007, 17)):
        other = compile_table(spec, period)
        full = {bit: full for bit, full, _ in other.buckets.tolist()}
        assert full[cause_mask([Cause.PROPOSAL_INVALID])] == 4 * ticks
        dwell = int(other.recoveries[Mode.CAUTIOUS, 2])
        assert 0.5 <= dwell * period < 0.5 + period
        assert 1.5 - period < int(other.escalations[Mode.HOLD, 1]) * period <= 1.5


def test_states_compare_by_value(table: ModeTable) -> None:
    """Two states with the same numbers and reasons are one; the numbers are read-only."""
    first, second = ModeState.initial(table), ModeState.initial(table)
    assert first == second
    assert hash(first) == hash(second)
    assert first != ModeState.of(first.numbers, why=1)
    assert first != ModeState.initial(table, estops=1)
    assert first != object()
    with pytest.raises(ValueError, match="read-only"):
        first.numbers[MODE] = 0
    with pytest.raises(ValueError, match="read-only"):
        step(table, first, QUIET)[0].numbers[ESTOPS] = 0
    assert first.numbers[ACKED] == 1
    assert np.count_nonzero(first.numbers) == 2, "BOOT and an acknowledgement that is no edge"


def test_where_nothing_changes_the_answer_is_kept(table: ModeTable) -> None:
    """The state at rest and the outputs are the same objects again; for other inputs or another table they are not."""
    state, _ = step(table, nominal(table), QUIET)
    first = step(table, state, QUIET)
    again = step(table, state, ModeInputs())
    assert first[0] is again[0] is state
    assert first[1] is again[1]
    assert step(table, state, CLOCK)[1].mode is Mode.HOLD
    assert step(table, state, seen(Cause.UNCALIBRATED))[1].reasons == ("CORE-C16",)
    assert step(table, state, QUIET) == first
    slow = replace(table, envelope=(Envelope(0.1, 0.1), *table.envelope[1:]))
    assert step(slow, state, QUIET)[1].envelope == Envelope(0.1, 0.1)
    assert step(table, state, QUIET) == first


def test_what_is_remembered_is_bounded(table: ModeTable) -> None:
    """However many different outputs there were, about a thousand are kept, and they stay right."""
    fresh = replace(table)
    start, causes = nominal(table), [mask << 6 for mask in range(1, 3000)]
    for mask in causes:
        assert step(table, start, ModeInputs(mask))[1] == step(replace(table), start, ModeInputs(mask))[1]
        step(fresh, start, ModeInputs(mask))
    assert 0 < len(fresh.said) <= 1024
