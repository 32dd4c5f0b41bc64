"""The engine for any state in range and any inputs, on the real tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import FunctionType
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from safeguard.core.compiled import entry
from safeguard.core.enums import Cause, Mode
from safeguard.modes import ModeInputs, ModeState, ModeTable, cause_mask, step
from safeguard.modes.engine import advance, tick
from safeguard.modes.state import ACKED, BUCKETS, CALM, CREDIT, ESTOPS, MODE, MOVING
from safeguard.modes.table import BEYOND, COST, WINDOW
from tests.unit.modes_support import ALL, compiled

Ints = NDArray[np.int64]

tables = st.sampled_from([compiled(name) for name in ALL])
# A mask with every bit in half of its places would be an e-stop nearly always.
some_causes = st.sets(st.sampled_from(list(Cause)), max_size=3).map(cause_mask)
masks = some_causes | st.just(0) | st.integers(-(1 << 63), (1 << 63) - 1)
sets = st.integers(0, 3)
inputs = st.builds(
    ModeInputs, masks, st.booleans(), st.booleans(), st.booleans() | st.just(True), st.booleans() | st.just(False),
    sets, sets,
)  # fmt: skip


def edge(most: int) -> st.SearchStrategy[int]:
    """0 to ``most``, its ends as often as all between."""
    return st.sampled_from(sorted({0, min(1, most), max(0, most - 1), most})) | st.integers(0, most)


@st.composite
def states(draw: st.DrawFn, table: ModeTable) -> ModeState:
    """Any state in range, reachable or not: DEGRADED is where something is shed, everything else is free."""
    mode = draw(st.sampled_from([m for m in range(8) if m != Mode.DEGRADED or len(table.capabilities)]))
    calm = int(table.recoveries[mode, 2]) if table.recoveries[mode, 0] >= 0 else 0
    moving = int(table.escalations[mode, 1]) - 1 if table.escalations[mode, 0] >= 0 else 0
    levels = [draw(edge(full)) for full in table.buckets[:, 1].tolist()]
    ages, fits = [0] * len(table.capabilities), [0] * len(table.capabilities)
    if mode == Mode.DEGRADED:
        for c, row in enumerate(table.capabilities.tolist()):
            ages[c] = draw(edge(row[4]))
            fits[c] = draw(edge(row[2])) if ages[c] else 0
        ages[0] = ages[0] if any(ages) else 1
    paid = int(table.numbers[WINDOW] - table.numbers[COST] * np.count_nonzero(ages))
    head = [mode, draw(st.integers(0, 1)), draw(edge(calm)), draw(edge(moving))]
    head += [draw(edge(int(table.numbers[BEYOND]) + 1)), draw(edge(max(paid, 0)))]
    return ModeState.of(np.array([*head, *levels, *ages, *fits], dtype=np.int64))


def in_range(table: ModeTable, state: ModeState) -> bool:
    """Every number of a state lies where it may."""
    s, mode = state.numbers, int(state.numbers[MODE])
    count, known = len(table.capabilities), mode < len(Mode)
    recovery, escalation = table.recoveries[mode], table.escalations[mode]
    ages, fits = s[table.ages : table.ages + count], s[table.ages + count :]
    return bool(
        known
        and s[ACKED] in (0, 1)
        and 0 <= s[CALM] <= max(recovery[2], 0)
        and 0 <= s[MOVING] <= max(escalation[1] - 1, 0)
        and 0 <= s[ESTOPS] <= table.numbers[BEYOND] + 1
        and 0 <= s[CREDIT] <= table.numbers[WINDOW] - table.numbers[COST] * np.count_nonzero(ages)
        and all((s[BUCKETS : table.ages] >= 0) & (s[BUCKETS : table.ages] <= table.buckets[:, 1]))
        and all((ages >= 0) & (ages <= table.capabilities[:, 4]))
        and all((fits >= 0) & (fits <= np.where(ages > 0, table.capabilities[:, 2], 0)))
        and (mode == Mode.DEGRADED) == bool(ages.any())
    )


def interpreted(function: Any) -> Callable[..., Any]:
    """A kernel and all its parts as plain Python."""
    raw = getattr(function, "py_func", function)
    scope = dict(raw.__globals__)
    for name in raw.__code__.co_names:
        if hasattr(scope.get(name), "py_func"):
            scope[name] = interpreted(scope[name])
    return FunctionType(raw.__code__, scope, raw.__name__, raw.__defaults__)


PLAIN = interpreted(advance)


@settings(max_examples=400)
@given(st.data())
def test_advance_is_total_and_keeps_its_ranges(data: st.DataObject) -> None:
    """Any state in range and any inputs give a state in range, one of the modes, and only what a table has."""
    table = data.draw(tables)
    after, outputs = step(table, data.draw(states(table)), data.draw(inputs))
    assert in_range(table, after)
    assert outputs.mode is after.mode
    assert set(outputs.reasons) <= set(table.rows)
    assert bool(outputs.configuration) == (outputs.mode is Mode.DEGRADED)


@settings(max_examples=400)
@given(st.data())
def test_compiled_and_interpreted_agree(data: st.DataObject) -> None:
    """The compiled kernel and the lines of its source give the same state and report, and leave the inputs alone."""
    table = data.draw(tables)
    state, one = data.draw(states(table)), data.draw(inputs)
    before = state.numbers.copy()
    found: list[tuple[list[int], list[int]]] = []
    for function in (advance, PLAIN, advance):
        after, report = np.full(table.size, -7, dtype=np.int64), np.full(5, -7, dtype=np.int64)
        function(state.numbers, one.causes, one.flags, one.shadow, one.available, *table.arrays, after, report)
        found.append((after.tolist(), report.tolist()))
    assert found[0] == found[1] == found[2]
    assert np.array_equal(state.numbers, before)


@settings(max_examples=300)
@given(st.data())
def test_a_tick_is_what_advance_says(data: st.DataObject) -> None:
    """The kernel behind ``step``, compiled or not, has the state and report of ``advance``, and sees what changed."""
    table = data.draw(tables)
    state, one, why = data.draw(states(table)), data.draw(inputs), data.draw(st.sampled_from([0, 1, 1 << 40]))
    wanted, report = np.empty_like(state.numbers), np.empty(5, dtype=np.int64)
    advance(state.numbers, one.causes, one.flags, one.shadow, one.available, *table.arrays, wanted, report)
    mode, reason, rows, bridging, shed = report.tolist()
    reason |= why if mode == state.mode else 0
    rows |= reason if mode == state.mode else 0
    ages = wanted[table.ages : table.ages + len(table.capabilities)].tolist()
    age = min((ages[c] for c in range(len(ages)) if shed >> c & 1), default=0)
    for function in (entry(tick), interpreted(tick)):
        before = ModeState.of(state.numbers, why)
        after, told = function(before.frozen, one, table.block)
        said = ModeState.of(wanted, reason if mode else 0)
        assert after == (b"" if said == before else said.frozen)
        assert told == (age << 32 | shed << 4 | bridging << 3 | mode, rows)


@given(tables, st.lists(inputs, max_size=60))
def test_step_is_pure_and_ignores_why(table: ModeTable, sequence: list[ModeInputs]) -> None:
    """The same inputs give the same, remembered or not; `why` never decides; `ready` matters in BOOT only."""
    state = ModeState.initial(table)
    for one in sequence:
        after, outputs = step(table, state, one)
        assert step(table, state, one) == (after, outputs)
        assert step(replace(table), ModeState.of(state.numbers, state.why), one) == (after, outputs)
        bare, bare_outputs = step(table, ModeState.of(state.numbers), one)
        assert np.array_equal(bare.numbers, after.numbers)
        assert replace(bare_outputs, reasons=()) == replace(outputs, reasons=())
        if state.mode is not Mode.BOOT:
            assert step(table, state, one._replace(ready=not one.ready)) == (after, outputs)
        state = after


@settings(max_examples=300)
@given(st.data())
def test_another_cause_never_helps(data: st.DataObject) -> None:
    """In any state in range, with real times: one cause more never lowers the next mode (P10)."""
    table = data.draw(tables)
    state, one = data.draw(states(table)), data.draw(inputs)
    worse = one._replace(causes=one.causes | cause_mask([data.draw(st.sampled_from(list(Cause)))]))
    assert step(table, state, worse)[1].mode >= step(table, state, one)[1].mode


@given(st.data())
def test_every_cause_is_obeyed_at_once(data: st.DataObject) -> None:
    """In any state but BOOT, a cause that acts at once gives at least its floor in that tick (law 7)."""
    table = data.draw(tables)
    state, one = data.draw(states(table)), data.draw(inputs)._replace(person=False)
    cause = data.draw(st.sampled_from([c for c in Cause if not cause_mask([c]) & table.buckets[:, 0].sum()]))
    floor = next(mode for mode in Mode if table.floors[mode] & cause_mask([cause]))
    found = step(table, state, one._replace(causes=one.causes | cause_mask([cause])))[1].mode
    assert found >= floor
