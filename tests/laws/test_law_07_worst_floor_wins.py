from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import safeguard.shield as shield_module
from safeguard.core.enums import Authority, Cause, Mode, RecordKind
from safeguard.modes import STRATEGIES, ModeInputs, ModeState, ModeTable, compile_table, load_spec, step
from safeguard.modes.requirements import FLOORS
from safeguard.modes.state import ACKED, CALM, MODE
from safeguard.shield import Shield
from tests.laws.lab import PERIOD, Lab, beyond, near
from tests.unit.audit_edit import records

Patch = pytest.MonkeyPatch


def with_numbers(state: Any, **numbers: int) -> Any:
    """A state with some of its numbers replaced."""
    places = {"mode": MODE, "calm": CALM}
    changed = state.numbers.copy()
    for name, value in numbers.items():
        changed[places[name]] = value
    return ModeState.of(changed, state.why)


def check_law_7_floor(lab: Lab) -> None:
    """Any two causes at once: the worse floor is the mode of that very tick; a bridged one costs the policy.

    The same for every strategy: without a substitute nothing can be shed.
    """
    for strategy in STRATEGIES:
        table, rows = compile_table(load_spec(strategy), PERIOD), load_spec(strategy).causes
        assert strategy != lab.shield.table.strategy or table == lab.shield.table
        delayed = {row.cause for row in rows if row.delayed}
        check_pairs(table, delayed, {row.cause for row in rows if row.debounced})


def check_pairs(table: ModeTable, delayed: set[Cause], debounced: set[Cause]) -> None:
    """Law 7 for any two causes in NOMINAL."""
    for pair in combinations(Cause, 2):
        state, outputs = vars(shield_module)["step"](  # what the shield calls
            table, ModeState.initial(table, Mode.NOMINAL), ModeInputs.of(pair, standstill=True)
        )
        owed = max((FLOORS[cause] for cause in pair if cause not in delayed), default=Mode.NOMINAL)
        assert outputs.mode == owed, f"{pair}: {outputs.mode.name}"
        assert state.mode == owed
        if not (delayed - debounced).isdisjoint(pair):
            assert outputs.authority is not Authority.POLICY, f"{pair}: the policy keeps the body"


def check_law_7_same_tick(lab: Lab) -> None:
    """A tick that sees an emergency stop and a broken state is an ESTOP tick with a terminal stop."""
    seen = lab.observe()
    broken = replace(seen.state, q=np.full_like(seen.state.q, np.nan))
    decision = lab.tick(replace(seen, estop=True, state=broken))
    assert {Cause.ESTOP, Cause.STATE_INVALID} <= set(decision.causes)
    assert decision.mode is Mode.ESTOP
    assert decision.authority is Authority.NONE


def check_law_7_acknowledgement(lab: Lab) -> None:
    """From STOP up no time helps, an acknowledgement in motion does not count, one at standstill gives one step."""
    lab.shield.stop(operator="lab", reason="test")
    assert lab.tick().mode is Mode.STOP
    assert np.abs(lab.v).max() > lab.filter.config.standstill_radps, "the test wants a moving arm"
    lab.acknowledge()
    while np.abs(lab.v).max() >= lab.filter.config.standstill_radps:
        assert lab.tick().mode is Mode.STOP, "acknowledged in motion"
    assert {d.mode for d in lab.run(300)} == {Mode.STOP}, "it left STOP by itself"
    lab.acknowledge()
    assert lab.tick().mode is Mode.HOLD
    assert {d.mode for d in lab.run(200)} == {Mode.HOLD}, "one acknowledgement, two steps"
    lab.acknowledge()
    decision = lab.tick()
    assert (decision.mode, decision.authority) == (Mode.CAUTIOUS, Authority.POLICY)


def check_law_7_records(run: Path) -> None:
    """A scripted operator is recorded as simulated, a person as a person."""
    lab = Lab(audit=run).start()
    lab.shield.acknowledge(operator="Ada", reason="I looked")
    lab.shield.stop(operator="Ada", reason="enough")
    lab.shield.close()
    people = [r["body"] for r in records(run) if r["kind"] == "human"]
    said = [(p["operator"], p["action"], p["simulated"]) for p in people]
    assert said == [
        ("lab", "acknowledge", True),
        ("Ada", "acknowledge", False),
        ("Ada", "stop", False),
    ]


def test_law_7_floor() -> None:
    """The worst of any two causes wins in the same tick."""
    check_law_7_floor(Lab())


def test_law_7_same_tick() -> None:
    """In the running shield too."""
    check_law_7_same_tick(Lab(beyond).start(60))


def test_law_7_acknowledgement() -> None:
    """The way back takes a fresh acknowledgement at standstill, step by step."""
    check_law_7_acknowledgement(Lab(beyond).start(60))


def test_law_7_records(tmp_path: Path) -> None:
    """The journal tells scripts from people."""
    check_law_7_records(tmp_path / "run")


# -- planted ------------------------------------------------------------------------------------------

REAL = step


def mildest(table: Any, state: Any, inputs: Any) -> Any:
    """The mildest of several floors wins."""
    active = [cause for cause in Cause if inputs.causes & ModeInputs.of([cause]).causes]
    if len(active) < 2:
        return REAL(table, state, inputs)
    keep = min(active, key=lambda cause: FLOORS[cause])
    return REAL(table, state, inputs._replace(causes=ModeInputs.of([keep]).causes))


def next_tick(table: Any, state: Any, inputs: Any) -> Any:
    """The new mode holds from the next tick on."""
    after, outputs = REAL(table, state, inputs)
    return after, replace(outputs, mode=state.mode, authority=table.authority[state.mode])


def by_itself(table: Any, state: Any, inputs: Any) -> Any:
    """Every other tick counts as acknowledged."""
    return REAL(table, state, inputs._replace(ack=not state.numbers[ACKED]))


def in_motion(table: Any, state: Any, inputs: Any) -> Any:
    """Standstill is not asked for."""
    if not inputs.standstill and inputs.ack and state.mode in (Mode.HOLD, Mode.STOP):
        return REAL(table, with_numbers(state, calm=10**6), inputs._replace(standstill=True))
    return REAL(table, state, inputs)


def straight_home(table: Any, state: Any, inputs: Any) -> Any:
    """STOP is left to CAUTIOUS."""
    after, outputs = REAL(table, state, inputs)
    if state.mode is Mode.STOP and after.mode is Mode.HOLD:
        after, outputs = with_numbers(after, mode=Mode.CAUTIOUS), replace(outputs, mode=Mode.CAUTIOUS)
    return after, outputs


def bridge_to_policy(table: Any, state: Any, inputs: Any) -> Any:
    """While a bridge lasts the policy keeps the body."""
    after, outputs = REAL(table, state, inputs)
    return after, replace(outputs, authority=table.authority[after.mode])


@pytest.mark.parametrize(
    ("engine", "check"),
    [
        (mildest, check_law_7_floor),
        (next_tick, check_law_7_floor),
        (bridge_to_policy, check_law_7_floor),
        (mildest, check_law_7_same_tick),
        (next_tick, check_law_7_same_tick),
        (by_itself, check_law_7_acknowledgement),
        (in_motion, check_law_7_acknowledgement),
        (straight_home, check_law_7_acknowledgement),
    ],
    ids=lambda value: value.__name__,
)
def test_law_7_planted(engine: Callable[..., Any], check: Callable[[Lab], None], monkeypatch: Patch) -> None:
    """An engine that is mild, slow or forgetful is seen."""
    lab = Lab(beyond).start(60)
    monkeypatch.setattr(shield_module, "step", engine)
    with pytest.raises(AssertionError):
        check(lab)


def test_law_7_planted_records(tmp_path: Path, monkeypatch: Patch) -> None:
    """A script that passes for a person is seen."""
    real = Shield.record

    def record(self: Shield, kind: RecordKind, body: Any) -> None:
        real(self, kind, {**body, "simulated": False} if kind is RecordKind.HUMAN else body)

    monkeypatch.setattr(Shield, "record", record)
    with pytest.raises(AssertionError):
        check_law_7_records(tmp_path / "run")


# -- an acknowledgement is for what the person saw -------------------------------------------------------


def stopped_by_operator(lab: Lab) -> None:
    """An operator stops what was acknowledged ten ticks before."""
    lab.shield.stop(operator="law", reason="no", simulated=True)
    lab.run(1)


def stopped_by_switch(lab: Lab) -> None:
    """The e-stop is pressed for ten ticks."""
    for _ in range(10):
        lab.tick(replace(lab.observe(), estop=True))


@pytest.mark.parametrize("stopped", [stopped_by_operator, stopped_by_switch])
def test_law_7_an_early_acknowledgement_dies_with_a_stop(stopped: Callable[[Lab], None]) -> None:
    """The waiting acknowledgement of the start lets nothing go that was stopped after it."""
    lab = Lab(near)
    lab.run(20)
    lab.acknowledge()
    lab.run(10)
    stopped(lab)
    assert {decision.authority for decision in lab.run(800)} <= {Authority.BACKUP, Authority.NONE}


@pytest.mark.parametrize("stopped", [stopped_by_operator, stopped_by_switch])
def test_law_7_a_new_episode_lets_nothing_go(stopped: Callable[[Lab], None]) -> None:
    """After ``begin_episode`` or ``reset`` the stop still holds; two acknowledgements lead back."""
    lab = Lab(near)
    lab.run(20)
    stopped(lab)
    latched = lab.decisions[-1].mode
    lab.shield.begin_episode("again")
    assert {decision.mode for decision in lab.run(200)} == {latched}
    lab.acknowledge()
    assert lab.run(5)[-1].mode is Mode.HOLD


def test_law_7_a_stop_before_the_first_tick_counts() -> None:
    """Nobody's stop is lost because nothing had been decided yet."""
    lab = Lab(near)
    lab.shield.stop(operator="law", reason="early", simulated=True)
    decision = lab.run(1)[0]
    assert Cause.OPERATOR_STOP in decision.causes
    assert decision.mode is Mode.STOP
