"""Exhaustive breadth-first walk over a mode table: every reachable state, every input.

The walk runs on a declared abstraction (``Abstraction``): times scaled to a few ticks, causes of equal rows and equal
requirements represented by one of them, and of the causes that act at once at most two at a time, or one where
something can be shed (the worst floor wins, so a further one adds nothing). A table is walked in several ``worlds``,
each with some of the slow causes. A walk stops at the first broken property and tells how to get there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.modes.engine import NEXT, ROWS, advance
from safeguard.modes.explore import JUDGED, ROOM, SAID, explore, returns
from safeguard.modes.properties import BACKUP, JOGS, MOVES, NOBODY, Rules, broken, rules
from safeguard.modes.requirements import ABOUT_POLICY, LOCKOUT_CAUSES, Bounds, abstract
from safeguard.modes.spec import TableSpec
from safeguard.modes.state import ModeInputs, ModeState
from safeguard.modes.table import ACK, CAUSE_BIT, PERSON, READY, STANDSTILL, ModeTable, cause_mask, compile_table

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Abstraction:
    """What is walked instead of the real table, and what it stands for.

    Attributes:
        spec, table: with scaled times.
        limits: the requirements on the same scale.
        classes: representatives; only these causes occur in the walk.
        merged: every cause and the representative that stands for it.
    """

    spec: TableSpec
    table: ModeTable
    limits: Bounds
    classes: tuple[Cause, ...]
    merged: dict[Cause, Cause]

    @property
    def rules(self) -> Rules:
        """What the observer measures against."""
        return rules(self.spec, self.table, self.limits, self.classes)

    @property
    def masks(self) -> Ints:
        """Sets of causes that occur: any of those that take their time or shed something, and a few of the others."""
        slow, quick = self.split()
        most = 1 if self.limits.sheds else 2
        found = {0}
        for cause in slow:
            found |= {mask | CAUSE_BIT[cause] for mask in found}
        pairs = [cause_mask(some) for size in range(most + 1) for some in combinations(quick, size)]
        return np.array(sorted({mask | pair for mask in found for pair in pairs}), dtype=np.int64)

    def split(self) -> tuple[list[Cause], list[Cause]]:
        """(causes that take their time or shed something, causes that act at once)."""
        slow = [c for c in self.classes if c in self.limits.delay or c in self.limits.sheds or self._delayed(c)]
        return slow, [c for c in self.classes if c not in slow]

    def _delayed(self, cause: Cause) -> bool:
        return any(row.cause is cause and (row.delayed or row.sheds) for row in self.spec.causes)


@dataclass(frozen=True, slots=True)
class Walk:
    """What a walk found. ``broken`` is "" when every property holds; then ``story`` is empty too.

    Attributes:
        states, edges: how many; the observer's memory tells states apart too.
        modes: that were reached.
        rows: that were a reason.
        broken, story: the first broken property, and the shortest way to it from BOOT, one line a tick.
        graph: digest of the reachable transition relation: who moves the body and what comes next, not why.
        vectors: every reachable state of the engine, shape (k, table.size).
    """

    states: int
    edges: int
    modes: frozenset[Mode]
    rows: frozenset[str]
    broken: str
    story: tuple[str, ...]
    graph: str
    vectors: Ints


def abstraction(spec: TableSpec, period: float, only: tuple[Cause, ...] | None = None) -> Abstraction:
    """The walk's model of ``spec``: causes of equal rows merged, or exactly the causes in ``only``."""
    small, limits = abstract(spec, period)
    first: dict[object, Cause] = {}
    merged: dict[Cause, Cause] = {}
    for row in small.causes:
        weak = tuple(row.cause in one.intolerable for one in small.configurations)
        said = (row.floor, row.bridge_ticks, row.debounce_ticks, row.lockout, row.about, row.sheds, weak)
        owed = (
            limits.floors[row.cause], limits.delay.get(row.cause), row.cause in limits.debounced,
            row.cause in LOCKOUT_CAUSES, row.cause in ABOUT_POLICY, limits.sheds.get(row.cause),
            tuple(row.cause in some for some in limits.intolerable.values()),
        )  # fmt: skip
        merged[row.cause] = first.setdefault((said, owed), row.cause)
    return Abstraction(small, compile_table(small, period), limits, only or tuple(first.values()), merged)


def worlds(spec: TableSpec, period: float) -> tuple[Abstraction, ...]:
    """The walks that a table is checked by: all that sheds, all that is bridged, each of either kind with each other.

    Causes that act at once are in every world.
    """
    whole = abstraction(spec, period)
    (slow, quick), limits = whole.split(), whole.limits
    sheds = [cause for cause in slow if cause in limits.sheds]
    bridged = [cause for cause in slow if cause not in limits.sheds]
    one_each = {limits.sheds[cause]: cause for cause in reversed(sheds)}.values()
    chosen = [bridged, *([sheds] if sheds else []), *([b, s] for b in bridged for s in one_each)]
    return tuple(abstraction(spec, period, (*some, *quick)) for some in chosen)


def walk(model: Abstraction) -> Walk:
    """Visit every reachable state with every input; check every edge, then the graph as a whole."""
    return _Explorer(model).run()


class _Explorer:
    """The walk's data for the compiled loop, and its verdict in words."""

    def __init__(self, model: Abstraction) -> None:
        self.model, self.table = model, model.table
        self.rules, self.masks, self.graph = model.rules, model.masks, 0
        memory = self.rules.start()
        first = ModeState.initial(self.table).numbers
        self.size = len(first)
        self.nodes = np.zeros((ROOM, self.size + len(memory)), dtype=np.int16)
        self.nodes[0] = np.concatenate((first, memory))
        self.parents = np.zeros((ROOM, 5), dtype=np.int64)  # node, causes, flags, shadow, available

    def run(self) -> Walk:
        found, count, edges, rows, modes = self._explore()
        code, node, causes, flags, shadow, available, verdict = found
        said = SAID.get(code, "") if code != JUDGED else broken(verdict)[0]
        story = self._story(node, ModeInputs(causes), flags, shadow, available) if said else ()
        reached = frozenset(Mode(mode) for mode in range(len(Mode)) if modes >> mode & 1)
        fired = frozenset(self.table.ids(rows))
        vectors = np.unique(self.nodes[:count, : self.size], axis=0).astype(np.int64)
        if not said:
            said, story = self._whole(vectors)
        return Walk(count, edges, reached, fired, said, story, f"{self.graph & (1 << 64) - 1:016x}", vectors)

    def _explore(self) -> tuple[tuple[int, ...], int, int, int, int]:
        table, masks = self.table, self.masks
        flags = np.array(list(_flags()), dtype=np.int64)
        more, idle = self._pairs()
        movers = np.array([_MOVER[authority] for authority in table.authority], dtype=np.int64)
        room = np.full(4 * ROOM, -1, dtype=np.int32)
        found, told = np.zeros(7, dtype=np.int64), np.zeros(5, dtype=np.int64)
        explore(
            self.size, masks, flags, more, idle, movers, table.arrays, self.rules.arrays,
            self.nodes, self.parents, room, found, told,
        )  # fmt: skip
        count, edges, rows, modes, self.graph = told.tolist()
        return tuple(found.tolist()), count, edges, rows, modes

    def _pairs(self) -> tuple[Ints, Ints]:
        """(pairs of masks of which the second has one cause more, those where that cause asks for nothing)."""
        where = {mask: i for i, mask in enumerate(self.masks.tolist())}
        idle_bits = [CAUSE_BIT[c] for c in self.model.classes if self.model.limits.floors[c] is Mode.NOMINAL]
        more: list[tuple[int, int]] = []
        idle: list[tuple[int, int]] = []
        for cause in self.model.classes:
            bit = CAUSE_BIT[cause]
            pairs = [(i, where[mask | bit]) for mask, i in where.items() if not mask & bit and mask | bit in where]
            more += pairs
            idle += pairs if bit in idle_bits else []
        return _table(more, 2), _table(idle, 2)

    def _whole(self, vectors: Ints) -> tuple[str, tuple[str, ...]]:
        """P14: from everywhere but LOCKOUT, fair inputs lead to NOMINAL in time."""
        limits = self.model.limits
        full = max((limits.delay.get(c, 0) * limits.fill for c in self.model.classes), default=0)
        drain = -(-full // limits.drain)
        patience = 4 + drain + 2 * (limits.ack_dwell + 1) + limits.cautious_dwell + sum(limits.dwell.values())
        trapped = returns(vectors, patience, self.table.arrays)
        if trapped >= 0:
            state = _line(ModeState.of(vectors[trapped]), ModeInputs(standstill=True), "")
            return "P14 no trap: no timely way back to NOMINAL", (state,)
        return "", ()

    def _story(self, node: int, last: ModeInputs, flags: int, shadow: int, available: int) -> tuple[str, ...]:
        step = (node, last.causes, flags, shadow, available)
        lines: list[str] = []
        while True:
            index, causes, bits, agree, there = step
            state = ModeState.of(self.nodes[index, : self.size].astype(np.int64))
            inputs = _inputs(causes, bits, agree, there)
            lines.append(_line(state, inputs, "" if lines else self._outcome(state, inputs)))
            if index == 0:
                return tuple(reversed(lines))
            step = tuple(self.parents[index].tolist())

    def _outcome(self, state: ModeState, inputs: ModeInputs) -> str:
        after, report = np.empty(self.size, dtype=np.int64), np.empty(5, dtype=np.int64)
        advance(
            state.numbers,
            inputs.causes,
            inputs.flags,
            inputs.shadow,
            inputs.available,
            *self.table.arrays,
            after,
            report,
        )
        return f" → {Mode(int(report[NEXT])).name}, {self.table.ids(int(report[ROWS]))}"


_MOVER: Final = {Authority.NONE: NOBODY, Authority.BACKUP: BACKUP, Authority.POLICY: MOVES, Authority.OPERATOR: JOGS}


def _flags() -> Iterator[int]:
    for ack, still, person, ready in product((0, ACK), (0, STANDSTILL), (0, PERSON), (READY, 0)):
        yield ack | still | person | ready


def _inputs(causes: int, flags: int, shadow: int, available: int) -> ModeInputs:
    return ModeInputs(
        causes=causes,
        ack=bool(flags & ACK),
        standstill=bool(flags & STANDSTILL),
        ready=bool(flags & READY),
        person=bool(flags & PERSON),
        shadow=shadow,
        available=available,
    )


def _table(rows: list[tuple[int, int]], columns: int) -> Ints:
    return np.array(rows, dtype=np.int64).reshape(-1, columns)


def _line(state: ModeState, inputs: ModeInputs, then: str) -> str:
    causes = [cause.value for cause in Cause if inputs.causes & CAUSE_BIT[cause]]
    flags = [name for name in ("ack", "standstill", "ready", "person") if getattr(inputs, name)]
    return f"{state.mode.name}: {', '.join(causes) or 'no cause'}; {', '.join(flags) or 'no flag'}{then}"
