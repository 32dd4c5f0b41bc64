"""Spin agrees: the same tables, written a second time as Promela, keep their promises and move exactly like the engine.

Two claims. Verdicts: the properties hold in the model in every reachable tick, planted slips are refused, and the walk
of the engine says the same. Moves: on the scaled tables the model's transition relation is the engine's; the reachable
states (mode and every counter) are the same set, and so are the checksums over all (state, input, who moves the body,
next state).
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from safeguard.core.compiled import part
from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import ModeTableError
from safeguard.modes import spin
from safeguard.modes.engine import BRIDGING, NEXT, ROWS, advance
from safeguard.modes.lint import lint
from safeguard.modes.promela import promela
from safeguard.modes.promela_machine import WHO, Machine
from safeguard.modes.promela_watch import PROPERTIES
from safeguard.modes.requirements import Bounds, abstract
from safeguard.modes.spec import Guard, TableSpec
from safeguard.modes.spin import Census, SpinResult, missing_tools, spin_census, spin_check
from safeguard.modes.state import BUCKETS, ModeState
from safeguard.modes.table import (
    ACK,
    HEAD,
    JOG_ROW,
    PERSON,
    READY,
    STANDSTILL,
    STRATEGIES,
    ModeTable,
    cause_mask,
    compile_table,
    load_spec,
)
from safeguard.modes.walk import Abstraction, Walk, walk

PERIOD = 0.002
needs_spin = pytest.mark.skipif(missing_tools() != "", reason=missing_tools() or "-")

CAUSES = {
    "monolithic": (
        Cause.ESTOP, Cause.OPERATOR_STOP, Cause.STATE_STALE, Cause.POLICY_LATE, Cause.TICK_OVERRUN, Cause.MONITOR_WARN,
    ),
    "vla": (Cause.ESTOP, Cause.OPERATOR_STOP, Cause.POLICY_LATE, Cause.PROPOSAL_INVALID, Cause.MONITOR_WARN),
    "dual": (Cause.ESTOP, Cause.OPERATOR_STOP, Cause.SYSTEM2_FAILED, Cause.POLICY_LATE, Cause.MONITOR_WARN),
    "modular": (
        Cause.ESTOP, Cause.OPERATOR_STOP, Cause.PREDICTION_FAILED, Cause.MONITOR_DEGRADE, Cause.MONITOR_WARN,
    ),
}  # fmt: skip
"""One cause of every kind that a strategy has: counted, of body or policy, bridged, debounced, shed, intolerable."""

POLICY, BACKUP, OPERATOR = (list(WHO).index(who) for who in (Authority.POLICY, Authority.BACKUP, Authority.OPERATOR))
DEGRADES = [name for name in STRATEGIES if name != "monolithic"]


# -- the engine's own census --------------------------------------------------------------------------------------


@part
def _expand(s: Any, inputs: Any, table: Any, usual: Any, after: Any, report: Any, movers: Any) -> None:
    """Every next state, and who moves the body then: ``usual`` of its mode, the backup on a bridge, a person."""
    floors, buckets, escalations, recoveries, capabilities, configurations, numbers = table
    for i in range(len(inputs)):
        causes, flags, shadow, available = inputs[i]
        advance(
            s, causes, flags, shadow, available, floors, buckets, escalations, recoveries, capabilities,
            configurations, numbers, after[i], report,
        )  # fmt: skip
        movers[i] = usual[report[NEXT]]
        if report[BRIDGING] and movers[i] == POLICY:
            movers[i] = BACKUP
        if report[ROWS] & numbers[JOG_ROW]:
            movers[i] = OPERATOR


@part
def _view(s: Any, places: Any, view: Any) -> None:
    """A state of the engine as the model's variables: a configuration lasts as long as its youngest absence."""
    levels, masks, ages, count = places
    view[:HEAD] = s[:HEAD]
    at = HEAD
    for place in levels:
        view[at] = s[place]
        at += 1
    for mask in masks:
        least = 1 << 40
        for c in range(count):
            if mask >> c & 1:
                least = min(least, s[ages + c])
        view[at] = least
        at += 1
    for c in range(count):
        view[at + c] = s[ages + c] > 0
        view[at + count + c] = s[ages + count + c]


@part
def _hash(numbers: Any) -> Any:
    found = np.uint64(0xCBF29CE484222325)
    for value in numbers:
        found = (found ^ np.uint64(value)) * np.uint64(0x100000001B3)
    return found


@part
def _edges(s: Any, afters: Any, movers: Any, places: Any, view: Any, whole: Any) -> Any:
    """Checksum over the transitions out of ``s``; ``whole`` gets the hash of each next state."""
    _view(s, places, view)
    start, total = _hash(view), np.uint64(0)
    for i in range(len(afters)):
        _view(afters[i], places, view)
        whole[i] = _hash(afters[i])
        edge = (
            start * np.uint64(0x9E3779B97F4A7C15)
            + np.uint64(i) * np.uint64(0xC2B2AE3D27D4EB4F)
            + _hash(view) * np.uint64(0x165667B19E3779F9)
            + np.uint64(movers[i])
        )
        edge = (edge ^ (edge >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
        total += edge ^ (edge >> np.uint64(29))
    return total


def _inputs(causes: tuple[Cause, ...], capabilities: int) -> Any:
    """Every input, in the order of the model's: row i has the bits of i."""
    n = len(causes)
    i = np.arange(1 << (n + 4 + 2 * capabilities), dtype=np.int64)
    found = np.zeros((len(i), 4), dtype=np.int64)
    for k, cause in enumerate(causes):
        found[:, 0] |= (i >> k & 1) * cause_mask([cause])
    for k, flag in enumerate((ACK, STANDSTILL, READY, PERSON)):
        found[:, 1] |= (i >> (n + k) & 1) * flag
    ones = (1 << capabilities) - 1
    found[:, 2], found[:, 3] = i >> (n + 4) & ones, i >> (n + 4 + capabilities) & ones
    return found


def _places(spec: TableSpec, table: ModeTable, machine: Machine) -> tuple[Any, ...]:
    """What ``_view`` needs to know: places of levels, masks of configurations, first age, number of capabilities."""
    places = {bit: BUCKETS + b for b, bit in enumerate(table.buckets[:, 0].tolist())}
    levels = np.array([places[cause_mask([row.cause])] for row in machine.delayed], dtype=np.int64)
    masks = np.array([spec.mask(row.sheds) for row in spec.configurations], dtype=np.int64)
    return levels, masks, table.ages, len(table.capabilities)


def engine_census(spec: TableSpec, causes: tuple[Cause, ...]) -> Census:
    """What ``spin_census`` finds out, found out by stepping the engine breadth first."""
    table, machine = compile_table(spec, PERIOD), Machine(spec, causes)
    where = _places(spec, table, machine)
    inputs = _inputs(causes, len(table.capabilities))
    afters, report = np.empty((len(inputs), table.size), dtype=np.int64), np.empty(5, dtype=np.int64)
    movers = np.empty(len(inputs), dtype=np.int64)
    usual = np.array([list(WHO).index(authority) for authority in table.authority], dtype=np.int64)
    view, whole = np.empty(len(machine.memory()), dtype=np.int64), np.empty(len(inputs), dtype=np.uint64)
    first = ModeState.initial(table).numbers
    seen, todo = {int(_hash(first))}, [first]
    states: list[tuple[int, ...]] = []
    total = 0
    while todo:
        assert len(states) < 20_000, "the engine counts without end"
        s = todo.pop()
        _view(s, where, view)
        states.append(tuple(view.tolist()))
        _expand(s, inputs, table.arrays, usual, afters, report, movers)
        total += int(_edges(s, afters, movers, where, view, whole))
        for key, i in zip(*(found.tolist() for found in np.unique(whole, return_index=True)), strict=True):
            if key not in seen:
                seen.add(key)
                todo.append(afters[i].copy())
    assert len(set(states)) == len(states), "two states of the engine are one of the model"
    return Census(frozenset(states), len(states) * len(inputs), total % 2**64)


def walked(spec: TableSpec, causes: tuple[Cause, ...], owed: Bounds) -> Walk:
    """The verdict of the engine's own walk. It tries fewer sets of causes at once than spin."""
    return walk(Abstraction(spec, compile_table(spec, PERIOD), owed, causes, {}))


def viewed(vectors: Any, spec: TableSpec, causes: tuple[Cause, ...]) -> set[tuple[int, ...]]:
    """States of the engine as states of the model."""
    table, machine = compile_table(spec, PERIOD), Machine(spec, causes)
    where = _places(spec, table, machine)
    view, found = np.empty(len(machine.memory()), dtype=np.int64), set[tuple[int, ...]]()
    for vector in vectors:
        _view(vector, where, view)
        found.add(tuple(view.tolist()))
    return found


def scaled(strategy: str, window: int = 0) -> tuple[TableSpec, Bounds]:
    """A built-in table with its requirements on the scale of the abstraction.

    With ``window``: two recoveries in so many ticks; the abstraction's own window is too short for a third.
    """
    spec, owed = abstract(load_spec(strategy), PERIOD)
    if not window:
        return spec, owed
    assert spec.flapping is not None
    flapping = spec.flapping.model_copy(update={"window_ticks": window, "recoveries": 2})
    return spec.model_copy(update={"flapping": flapping}), replace(owed, window=window, recoveries=2)


def checked(spec: TableSpec, causes: tuple[Cause, ...], owed: Bounds) -> SpinResult:
    """Spin's verdict; the tools are there."""
    with TemporaryDirectory() as folder:
        result = spin_check(spec, causes, owed, Path(folder))
    assert result is not None
    return result


@cache
def broken_unslipped(strategy: str, causes: tuple[Cause, ...], window: int) -> tuple[tuple[str, ...], str]:
    """What the table without a slip breaks, says spin and says the walk."""
    spec, owed = scaled(strategy, window)
    return checked(spec, causes, owed).broken, walked(spec, causes, owed).broken


# -- the tables hold, and spin and the engine move alike -----------------------------------------------------------


@needs_spin
@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_spin_finds_no_broken_property(strategy: str) -> None:
    """Every property holds in every reachable tick, and all modes are reached, but DEGRADED only with parts to shed.

    So says the walk too.
    """
    spec, owed = scaled(strategy)
    result, mine = checked(spec, CAUSES[strategy], owed), walked(spec, CAUSES[strategy], owed)
    assert (result.broken, mine.broken) == ((), "")
    assert result.modes == mine.modes == set(Mode) - (set() if strategy in DEGRADES else {Mode.DEGRADED})


@needs_spin
@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_model_moves_exactly_like_the_engine(strategy: str, tmp_path: Path) -> None:
    """Same reachable states, same number of transitions, same checksum over all of them.

    The walk, which never lets all causes act at once, misses no state.
    """
    spec, owed = scaled(strategy)
    causes = CAUSES[strategy]
    mine, theirs = engine_census(spec, causes), spin_census(spec, causes, tmp_path)
    assert theirs is not None
    assert sorted(mine.states ^ theirs.states)[:5] == []
    assert mine == theirs
    assert viewed(walked(spec, causes, owed).vectors, spec, causes) == theirs.states


def drawn(seed: int) -> tuple[TableSpec, tuple[Cause, ...]]:
    """A table with random small numbers and a random choice of causes, that the lint accepts."""
    dice = random.Random(seed)
    strategy = STRATEGIES[seed % len(STRATEGIES)]
    spec, _ = scaled(strategy)

    def vary(rows: Any, *keys: str, least: int = 1) -> tuple[Any, ...]:
        return tuple(
            row.model_copy(update={k: dice.randint(least, 3) for k in keys if getattr(row, k) is not None})
            for row in rows
        )

    spec = spec.model_copy(
        update={
            "causes": vary(spec.causes, "bridge_ticks", "debounce_ticks"),
            "escalations": vary(spec.escalations, "moving_ticks"),
            "recoveries": vary(spec.recoveries, "dwell_ticks", least=0),
            "capabilities": vary(spec.capabilities, "dwell_ticks"),
            "configurations": vary(spec.configurations, "stay_ticks"),
            "flapping": spec.flapping and vary([spec.flapping], "window_ticks")[0],
            "bridge": spec.bridge.model_copy(
                update={"fill": dice.randint(1, 4), "drain": dice.randint(1, 3), "rearm_share": dice.random()}
            ),
            "lockout": vary([spec.lockout], "beyond", least=0)[0],
        }
    )
    assert list(lint(spec)) == []
    shedding = [row.cause for row in spec.causes if row.sheds]
    rest = [row.cause for row in spec.causes if not row.sheds]
    return spec, (*dice.sample(shedding, min(2, len(shedding))), *dice.sample(rest, 2))


@needs_spin
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_tables_with_other_numbers_move_alike_too(seed: int, tmp_path: Path) -> None:
    """Random dwells, delays, stays, windows, buckets and causes: engine and model agree on every transition."""
    spec, causes = drawn(seed)
    mine, theirs = engine_census(spec, causes), spin_census(spec, causes, tmp_path)
    assert theirs is not None
    assert sorted(mine.states ^ theirs.states)[:5] == []
    assert mine == theirs


# -- negative controls ----------------------------------------------------------------------------------------------


def _with(rows: Any, row: str, **update: Any) -> tuple[Any, ...]:
    assert any(one.id == row for one in rows)
    return tuple(one.model_copy(update=update) if one.id == row else one for one in rows)


def _change(spec: TableSpec, kind: str, row: str, **update: Any) -> TableSpec:
    return spec.model_copy(update={kind: _with(getattr(spec, kind), row, **update)})


def _guards(*names: str) -> tuple[Guard, ...]:
    return tuple(Guard(name) for name in names)


LATE, STOP, SECOND = Cause.POLICY_LATE, Cause.OPERATOR_STOP, Cause.SYSTEM2_FAILED
HALT = (STOP, Cause.LEASE_LOST)

Slip = tuple[str, str, str, dict[str, Any], tuple[Cause, ...], set[str]]

SLIPS: dict[str, Slip] = {
    "floor too low": ("monolithic", "causes", "CORE-C17", {"floor": Mode.HOLD}, (STOP,), {"P1_floor", "P15_heard"}),
    "floor too high": (
        "monolithic", "causes", "CORE-C13", {"floor": Mode.HOLD}, (Cause.FILTER_SLACK,), {"P8_justified"},
    ),
    "waived for a person": (
        "monolithic", "causes", "CORE-C17", {"about": "policy"}, (STOP,), {"P1_floor", "P15_heard"},
    ),
    "bridge too long": ("monolithic", "causes", "CORE-C11", {"bridge_ticks": 3}, (LATE,), {"P1_floor"}),
    "the policy moves in HOLD": (
        "monolithic", "modes", "CORE-M04", {"authority": Authority.POLICY}, HALT, {"P2_authority"},
    ),
    "a debounce for a bridge": (
        "monolithic", "causes", "CORE-C11", {"bridge_ticks": None, "debounce_ticks": 2}, (LATE,), {"P2_authority"},
    ),
    "recovery without standstill": (
        "monolithic", "recoveries", "CORE-R03", {"guards": _guards("ack", "clear", "drained")}, HALT,
        {"P3_reentry", "P16_no_cancel"},
    ),
    "recovery without ack": (
        "monolithic", "recoveries", "CORE-R05", {"guards": _guards("standstill", "clear", "drained")}, (Cause.ESTOP,),
        {"P3_reentry"},
    ),
    "recovery with a cause": (
        "monolithic", "recoveries", "CORE-R04", {"guards": _guards("ack", "standstill", "drained")}, HALT,
        {"P3_reentry"},
    ),
    "recovery with a full bucket": (
        "monolithic", "recoveries", "CORE-R03", {"guards": _guards("ack", "standstill", "clear")}, (LATE,),
        {"P3_reentry"},
    ),
    "dwell too short": ("monolithic", "recoveries", "CORE-R03", {"dwell_ticks": 1}, HALT, {"P3_reentry"}),
    "dwell too long": ("monolithic", "recoveries", "CORE-R03", {"dwell_ticks": 3}, HALT, {"P15_heard"}),
    "from STOP to CAUTIOUS": (
        "monolithic", "recoveries", "CORE-R04", {"target": Mode.CAUTIOUS}, HALT, {"P4_one_way_out"},
    ),
    "boot without self-test": ("monolithic", "recoveries", "CORE-R01", {"guards": ()}, HALT, {"P5_boot"}),
    "stay bound dropped": ("vla", "configurations", "VLA-D01", {"stay_ticks": 200}, (LATE,), {"P6_stay"}),
    "stay one too long": ("modular", "configurations", "MOD-D03", {"stay_ticks": 4},
                          (Cause.PREDICTION_FAILED, Cause.MONITOR_DEGRADE), {"P6_stay"}),
    "timer too long": ("monolithic", "escalations", "CORE-E02", {"moving_ticks": 3}, HALT, {"P7_progress"}),
    "timer too short": ("monolithic", "escalations", "CORE-E01", {"moving_ticks": 1}, HALT, {"P8_justified"}),
    "too many recoveries": ("vla", "flapping", "VLA-F01", {"recoveries": 9}, (LATE,), {"P9_flapping"}),
    "window too short": ("vla", "flapping", "VLA-F01", {"window_ticks": 2}, (LATE,), {"P9_flapping"}),
    "a warning is tolerated": (
        "dual", "configurations", "DUAL-D01", {"intolerable": ()}, (SECOND, Cause.MONITOR_WARN), {"P19_tolerance"},
    ),
    "back without agreement": ("dual", "capabilities", "DUAL-K01", {"guards": ()}, (SECOND,), {"P20_shedding"}),
    "back too soon": ("dual", "capabilities", "DUAL-K01", {"dwell_ticks": 1}, (SECOND,), {"P20_shedding"}),
    "one e-stop too many": ("monolithic", "lockout", "CORE-L01", {"beyond": 2}, (Cause.ESTOP,), {"PL_lockout"}),
    "an e-stop that does not count": (
        "monolithic", "causes", "CORE-C14", {"lockout": False}, (Cause.BACKUP_REFUSED,), {"PL_lockout"},
    ),
    "nobody may jog": ("monolithic", "jog", "CORE-J01", {}, HALT, {"PJ_jogging"}),
    "a person jogs without a lease": (
        "monolithic", "causes", "CORE-C27", {"about": "policy"}, HALT, {"P1_floor", "PJ_jogging"},
    ),
}  # fmt: skip


WINDOW = 10


def slipped(name: str) -> tuple[TableSpec, Bounds]:
    """The table with the slip, and what it owes all the same."""
    strategy, kind, row, update, _, _ = SLIPS[name]
    spec, owed = scaled(strategy, WINDOW * (kind == "flapping"))
    if kind == "jog":
        return spec.model_copy(update={kind: None}), owed
    if kind in ("lockout", "flapping"):
        return spec.model_copy(update={kind: getattr(spec, kind).model_copy(update=update)}), owed
    return _change(spec, kind, row, **update), owed


@needs_spin
@pytest.mark.slow
@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_in_the_table_is_refused(name: str) -> None:
    """Spin names the property that the slip breaks, and the walk refuses it too; without the slip neither does."""
    strategy, kind, _, _, causes, caught = SLIPS[name]
    spec, owed = slipped(name)
    assert caught <= set(checked(spec, causes, owed).broken)
    assert walked(spec, causes, owed).broken
    assert broken_unslipped(strategy, causes, WINDOW * (kind == "flapping")) == ((), "")


def test_every_property_has_a_slip_that_breaks_it() -> None:
    """None of the assertions is vacuous."""
    assert {name for *_, caught in SLIPS.values() for name in caught} == set(PROPERTIES)


@needs_spin
@pytest.mark.parametrize("name", ["dwell too short", "one e-stop too many"])
def test_the_census_sees_a_slip(name: str, tmp_path: Path) -> None:
    """The engine with a slipped table does not agree with the model of the right one."""
    (spec, _), causes = slipped(name), SLIPS[name][4]
    theirs = spin_census(scaled(spec.strategy)[0], causes, tmp_path)
    assert theirs is not None
    mine = engine_census(spec, causes)
    assert mine.checksum != theirs.checksum
    assert engine_census(scaled(spec.strategy)[0], causes) == theirs


# -- the runner ------------------------------------------------------------------------------------------------------


def test_seconds_are_refused() -> None:
    """A model of an unscaled table is refused, naming a row."""
    with pytest.raises(ModeTableError, match="row CORE-R02: a model needs ticks"):
        promela(load_spec("monolithic"), (Cause.POLICY_LATE,))


def test_without_tools_there_is_no_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a verdict nor an error, and a sentence that says what to install."""

    def which(name: str) -> str | None:
        return None if name == "spin" else f"/bin/{name}"

    monkeypatch.setattr("shutil.which", which)
    spec, owed = scaled("monolithic")
    assert missing_tools().startswith("spin not found; the second engine needs both")
    assert spin_check(spec, (Cause.ESTOP,), owed, tmp_path) is None
    assert spin_census(spec, (Cause.ESTOP,), tmp_path) is None


@needs_spin
def test_an_unfinished_search_is_no_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Too little depth raises instead of reporting what was found so far."""
    monkeypatch.setattr(spin, "DEPTH", 50)
    spec, owed = scaled("monolithic")
    with pytest.raises(ModeTableError, match="spin did not finish"):
        spin_check(spec, (Cause.ESTOP,), owed, tmp_path)
