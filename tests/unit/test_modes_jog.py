"""Jogging: in HOLD, with nothing that asks for it, a person who has the command moves the body."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import ModeTableError
from safeguard.core.types import Envelope
from safeguard.modes import ModeInputs, ModeOutputs, ModeState, ModeTable, compile_table, load_spec, step
from safeguard.modes.read import read_spec
from safeguard.modes.requirements import ABOUT_POLICY, FLOORS
from safeguard.modes.state import MOVING
from tests.unit.modes_support import ACK, ALL, PERIOD, TEXT, compiled, drive, folder, modes, seen

PERSON = ModeInputs(person=True)
BACKUP, OPERATOR = Authority.BACKUP, Authority.OPERATOR
STOPPING = [cause for cause in Cause if FLOORS[cause] >= Mode.HOLD and cause not in ABOUT_POLICY]
WEAK = [cause for cause in Cause if FLOORS[cause] < Mode.HOLD or cause in ABOUT_POLICY]


@pytest.fixture(params=ALL)
def table(request: pytest.FixtureRequest) -> ModeTable:
    """The table of every strategy."""
    return compiled(request.param)


def held(table: ModeTable) -> ModeState:
    """HOLD, quiet and moving."""
    state, outputs = drive(table, ModeState.initial(table, Mode.HOLD), [ModeInputs()] * 3)
    assert (outputs.mode, outputs.authority) == (Mode.HOLD, BACKUP)
    return state


def unjogged(table: ModeTable) -> ModeTable:
    """The same table without [jog]."""
    return compile_table(load_spec(table.strategy).model_copy(update={"jog": None}), PERIOD)


def test_a_person_moves_the_body_in_hold(table: ModeTable) -> None:
    """At once, slowly and only away from what is near; the mode stays HOLD, and the backup has it back at once."""
    state, outputs = step(table, held(table), PERSON)
    assert outputs == ModeOutputs(Mode.HOLD, OPERATOR, Envelope(0.1, 0.2, away=True), ("CORE-J01",))
    state, outputs = drive(table, state, [PERSON] * 5000)
    assert (outputs.mode, outputs.authority) == (Mode.HOLD, OPERATOR)
    _, outputs = step(table, state, ModeInputs())
    assert (outputs.mode, outputs.authority, outputs.envelope.away) == (Mode.HOLD, BACKUP, False)
    assert "CORE-J01" not in outputs.reasons


@pytest.mark.parametrize("mode", [mode for mode in Mode if mode not in (Mode.HOLD, Mode.DEGRADED)])
@pytest.mark.parametrize("person", [False, True])
def test_nobody_jogs_elsewhere(table: ModeTable, mode: Mode, person: bool) -> None:
    """In no other mode, and nowhere without a person."""
    one = ModeInputs(person=person, ready=False)
    _, outputs = drive(table, ModeState.initial(table, mode), [one] * 3)
    assert outputs.mode in (mode, Mode.CAUTIOUS)
    assert outputs.authority is table.authority[outputs.mode]
    assert outputs.envelope == table.envelope[outputs.mode]
    _, outputs = step(table, held(table), one._replace(person=False))
    assert outputs.authority is BACKUP


@pytest.mark.parametrize("cause", STOPPING, ids=lambda cause: cause.value)
def test_what_asks_for_hold_ends_it(table: ModeTable, cause: Cause) -> None:
    """A cause of the body that asks for HOLD or worse ends jogging in its tick, also while it waits on its bridge."""
    state, outputs = step(table, held(table), PERSON)
    assert outputs.authority is OPERATOR
    for _ in range(4):
        state, outputs = step(table, state, seen(cause, person=True))
        assert outputs.authority is table.authority[outputs.mode]
        assert outputs.mode >= Mode.HOLD
        assert "CORE-J01" not in outputs.reasons


@pytest.mark.parametrize("cause", WEAK, ids=lambda cause: cause.value)
def test_what_is_waived_or_weak_does_not(table: ModeTable, cause: Cause) -> None:
    """A cause about the policy does not count for a person, nor does one that asks for less than HOLD."""
    _, outputs = drive(table, held(table), [seen(cause, person=True)] * 200)
    assert (outputs.mode, outputs.authority) == (Mode.HOLD, OPERATOR)


def test_a_jogged_body_may_move(table: ModeTable) -> None:
    """HOLD becomes STOP after 1.5 s in motion; ticks in which a person jogs do not count, and it begins anew."""
    state, _ = drive(table, held(table), [ModeInputs()] * 740)
    assert state.numbers[MOVING] == 743
    state, _ = step(table, state, PERSON)
    assert state.numbers[MOVING] == 0
    state, _ = drive(table, state, [PERSON] * 2000)
    found = modes(table, state, [ModeInputs()] * 750)
    assert found == [Mode.HOLD] * 749 + [Mode.STOP]


def test_a_limit_that_is_full_is_not_jogged_away(table: ModeTable) -> None:
    """A person who comes in the very tick in which the stop has moved for too long comes too late."""
    state, _ = drive(table, held(table), [ModeInputs()] * 746)
    assert state.numbers[MOVING] == 749
    _, outputs = step(table, state, PERSON)
    assert (outputs.mode, outputs.authority) == (Mode.STOP, BACKUP)


def test_jogging_is_no_way_out(table: ModeTable) -> None:
    """HOLD is left as without it: acknowledged at rest; then the policy has the body, cautiously."""
    rest = PERSON._replace(standstill=True)
    state, outputs = drive(table, held(table), [PERSON] * 500 + [rest] * 99 + [PERSON._replace(ack=True)])
    assert (outputs.mode, outputs.authority) == (Mode.HOLD, OPERATOR)
    state, outputs = drive(table, state, [rest] * 100 + [ACK._replace(person=True)])
    assert (outputs.mode, outputs.authority, outputs.envelope.away) == (Mode.CAUTIOUS, Authority.POLICY, False)


def test_without_the_row_nobody_jogs(table: ModeTable) -> None:
    """A table without [jog] has no row for it, and a person changes nothing in HOLD."""
    bare = unjogged(table)
    assert "CORE-J01" not in bare.rows
    _, outputs = step(bare, held(bare), PERSON)
    assert (outputs.authority, outputs.envelope, outputs.reasons) == (BACKUP, Envelope(), ())
    assert modes(bare, held(bare), [PERSON] * 747)[-2:] == [Mode.HOLD, Mode.STOP]


def test_a_strategy_has_it_from_the_core(tmp_path: Path) -> None:
    """[jog] in a strategy's file is refused, with file and line."""
    text = TEXT["vla"] + '\n[jog]\nid = "VLA-J01"\nvelocity_share = 0.1\nacceleration_share = 0.2\n'
    line = text.splitlines().index("[jog]") + 2
    with pytest.raises(ModeTableError, match=rf"vla.toml:{line}: \[jog\] belongs to core.toml; move it"):
        read_spec(folder(tmp_path, vla=text) / "vla.toml")


def test_nothing_else_changes(table: ModeTable) -> None:
    """From any state on any input: next state, reasons and everything told as without [jog], but for who jogs."""
    bare, rng = unjogged(table), np.random.default_rng(7)
    state, jogged = ModeState.initial(table), 0
    bits = [1 << place for place in range(len(Cause))]
    for _ in range(4000):
        causes = sum(int(bit) for bit in rng.choice(bits, size=int(rng.choice([0, 0, 0, 0, 1, 2])), replace=False))
        ack, still, person = (bool(x) for x in rng.random(3) < (0.3, 0.7, 0.7))
        inputs = ModeInputs(causes, ack, still, True, person, int(rng.integers(4)), 0b11)
        theirs, plain = step(bare, state, inputs)
        after, outputs = step(table, state, inputs)
        if outputs.authority is OPERATOR:
            jogged += 1
            assert plain.authority is BACKUP
            assert outputs.reasons == (*plain.reasons, "CORE-J01")
            assert after.numbers[MOVING] == 0
            assert np.array_equal(np.delete(after.numbers, MOVING), np.delete(theirs.numbers, MOVING))
        else:
            assert (after, outputs) == (theirs, plain)
        state = after if after.mode not in (Mode.ESTOP, Mode.LOCKOUT) else ModeState.initial(table, Mode.HOLD)
    assert jogged > 100
