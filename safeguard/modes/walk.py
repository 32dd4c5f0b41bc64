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

from safeguard.core.compiled import COUNT, INT_ROWS, INTS, OUT_INTS, kernel, part, types
from safeguard.core.enums import Authority, Cause, Mode
from safeguard.modes.engine import ACKED, BRIDGING, MODE, NEXT, ROWS, SHED, ModeInputs, ModeState, advance
from safeguard.modes.properties import BACKUP, MOVES, NOBODY, Rules, broken, judge, rules
from safeguard.modes.requirements import ABOUT_POLICY, LOCKOUT_CAUSES, Bounds, abstract
from safeguard.modes.spec import TableSpec
from safeguard.modes.table import (
    ACK,
    CAUSE_BIT,
    ESTOP_BIT,
    PERSON,
    READY,
    STANDSTILL,
    ModeTable,
    cause_mask,
    compile_table,
)

Ints = NDArray[np.int64]
Shorts = NDArray[np.int16]
Places = NDArray[np.int32]

_ROOM: Final = 1 << 21  # states
_UNKNOWN: Final = 1 << 61  # a cause that no version knows
_DEGRADED, _BOOT = int(Mode.DEGRADED), int(Mode.BOOT)
_NOMINAL, _LOCKOUT = int(Mode.NOMINAL), int(Mode.LOCKOUT)

# Findings of the walk itself, beside the bits of ``properties.NAMES``.
_FINE, _FULL, _JUDGED, _MONOTONE, _IDLE, _UNKNOWN_CAUSE, _IGNORED = range(7)
SAID: Final = {
    _FULL: f"the walk has no room for more than {_ROOM} states",
    _MONOTONE: "P10 monotone: a further cause made things better",
    _IDLE: "P11 non-interference: a cause that asks for nothing changed what happens",
    _UNKNOWN_CAUSE: "P12 fail closed: an unknown cause is not the same as an e-stop",
    _IGNORED: "P11 non-interference: shadow or substitutes matter although nothing is shed",
}
"""What the walk itself finds, in words."""


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
        self.nodes = np.zeros((_ROOM, self.size + len(memory)), dtype=np.int16)
        self.nodes[0] = np.concatenate((first, memory))
        self.parents = np.zeros((_ROOM, 5), dtype=np.int64)  # node, causes, flags, shadow, available

    def run(self) -> Walk:
        found, count, edges, rows, modes = self._explore()
        code, node, causes, flags, shadow, available, verdict = found
        said = SAID.get(code, "") if code != _JUDGED else broken(verdict)[0]
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
        room = np.full(4 * _ROOM, -1, dtype=np.int32)
        found, told = np.zeros(7, dtype=np.int64), np.zeros(5, dtype=np.int64)
        explore(
            self.nodes, self.parents, room, self.size, masks, flags, more, idle, movers, *table.arrays,
            *self.rules.arrays, found, told,
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
        trapped = returns(vectors, patience, *self.table.arrays)
        if trapped >= 0:
            state = _line(ModeState(vectors[trapped]), ModeInputs(standstill=True), "")
            return "P14 no trap: no timely way back to NOMINAL", (state,)
        return "", ()

    def _story(self, node: int, last: ModeInputs, flags: int, shadow: int, available: int) -> tuple[str, ...]:
        step = (node, last.causes, flags, shadow, available)
        lines: list[str] = []
        while True:
            index, causes, bits, agree, there = step
            state = ModeState(self.nodes[index, : self.size].astype(np.int64))
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


_MOVER: Final = {Authority.NONE: NOBODY, Authority.BACKUP: BACKUP, Authority.POLICY: MOVES}


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


@part
def _number(vector: Ints, nodes: Shorts, room: Places, count: int) -> int:
    """Number of a node, ``count`` if it is new; ``room`` is an open hash table."""
    key = np.uint64(14695981039346656037)
    for k in range(len(vector)):
        key = (key ^ np.uint64(vector[k] + 1)) * np.uint64(1099511628211)
    key ^= key >> np.uint64(29)
    place = np.int64(key % np.uint64(len(room)))
    while True:
        number = np.int64(room[place])
        if number < 0:
            if count < len(nodes):
                room[place] = count
            return count
        same = True
        for k in range(len(vector)):
            if nodes[number, k] != vector[k]:
                same = False
                break
        if same:
            return int(number)
        place = (place + 1) % len(room)


@part
def _mixed(a: int, b: int, c: int, d: int) -> np.uint64:
    """One number for an edge; sums of them tell transition relations apart."""
    key = np.uint64(a)
    for value in (b, c, d):
        key = (key ^ np.uint64(value)) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(31)
    return key


@part
def _note(found: Ints, code: int, here: int, causes: int, flag: int, shadow: int, available: int, verdict: int) -> None:
    found[0], found[1], found[2], found[3] = code, here, causes, flag
    found[4], found[5], found[6] = shadow, available, verdict


_NODES = types.Array(types.int16, 2, "C")
_EDGES = types.Array(types.int64, 2, "C")
_ROOMS = types.Array(types.int32, 1, "C")
_ARRAYS = (INTS, *[INT_ROWS] * 5, INTS)  # of a table


@kernel(
    types.void, _NODES, _EDGES, _ROOMS, COUNT, INTS, INTS, INT_ROWS, INT_ROWS, INTS, *_ARRAYS,
    INT_ROWS, INT_ROWS, INT_ROWS, INTS, INTS, OUT_INTS, OUT_INTS,
)  # fmt: skip
def explore(
    nodes: Shorts, parents: Ints, room: Places, size: int, masks: Ints, flags: Ints, more: Ints, idle: Ints,
    movers: Ints, floors: Ints, buckets: Ints, escalations: Ints, recoveries: Ints, capabilities: Ints,
    configurations: Ints, numbers: Ints, watched: Ints, fit: Ints, stays: Ints, limits: Ints, justifies: Ints,
    found: Ints, told: Ints,
) -> None:  # fmt: skip
    """Fill ``nodes`` and ``told`` (states, edges, rows that fired, modes, graph); ``found`` is what is wrong first."""
    s, after, other = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    report, spare = np.zeros(5, dtype=np.int64), np.zeros(5, dtype=np.int64)
    o, then = np.zeros(nodes.shape[1] - size, dtype=np.int64), np.zeros(nodes.shape[1] - size, dtype=np.int64)
    vector = np.zeros(nodes.shape[1], dtype=np.int64)
    sets = 1 << len(capabilities)
    modes_then, moves_then = np.zeros(len(masks), dtype=np.int64), np.zeros(len(masks), dtype=np.int64)
    number_then = np.zeros(len(masks), dtype=np.int64)
    vector[:] = nodes[0]
    _number(vector, nodes, room, 0)
    count, edges, rows, modes, here, graph = 1, 0, 0, 0, 0, np.uint64(0)
    found[:] = 0
    while here < count:
        s[:] = nodes[here, :size]
        o[:] = nodes[here, size:]
        before = s[MODE]
        modes |= 1 << before
        for flag in flags:
            if before != _BOOT and not flag & READY:
                continue
            alone = not flag & PERSON  # a person does without what the policy lacks
            for shadow in range(sets if alone and before == _DEGRADED else 1):
                for available in range(sets if alone and before <= _DEGRADED else 1):
                    for m in range(len(masks)):
                        causes = masks[m]
                        advance(
                            s, causes, flag, shadow, available, floors, buckets, escalations, recoveries,
                            capabilities, configurations, numbers, after, report,
                        )  # fmt: skip
                        mover = int(movers[report[NEXT]])
                        mover = BACKUP if report[BRIDGING] and mover == MOVES else mover
                        verdict = judge(
                            o, before, causes, flag, shadow, available, report[NEXT], mover, report[SHED],
                            report[ROWS], watched, fit, stays, limits, justifies, then,
                        )  # fmt: skip
                        edges += 1
                        rows |= report[ROWS]
                        code = _JUDGED if verdict else _FINE
                        if sets > 1 and available == 0 and not (alone and before == _DEGRADED):
                            there = 0 if alone and before < _DEGRADED else sets - 1
                            advance(
                                s, causes, flag, sets - 1, there, floors, buckets, escalations, recoveries,
                                capabilities, configurations, numbers, other, spare,
                            )  # fmt: skip
                            for k in range(size):
                                if other[k] != after[k]:
                                    code = _IGNORED
                        vector[:size] = after
                        vector[size:] = then
                        number = _number(vector, nodes, room, count)
                        if number == count and code == _FINE:
                            if count == len(nodes):
                                code = _FULL
                            else:
                                nodes[count] = vector
                                parents[count, 0], parents[count, 1], parents[count, 2] = here, causes, flag
                                parents[count, 3], parents[count, 4] = shadow, available
                                count += 1
                        if code != _FINE:
                            _note(found, code, here, causes, flag, shadow, available, verdict)
                            told[0], told[1], told[2], told[3] = count, edges, rows, modes
                            return
                        graph += _mixed(here, number, mover, m + 1000 * (flag + 100 * (shadow + 10 * available)))
                        modes_then[m], moves_then[m], number_then[m] = report[NEXT], mover, number
                    for p in range(len(more)):
                        a, b = more[p, 0], more[p, 1]
                        if modes_then[b] < modes_then[a] or (moves_then[b] == MOVES and moves_then[a] != MOVES):
                            _note(found, _MONOTONE, here, int(masks[b]), flag, shadow, available, 0)
                            told[0], told[1], told[2], told[3] = count, edges, rows, modes
                            return
                    for p in range(len(idle)):
                        if number_then[idle[p, 0]] != number_then[idle[p, 1]]:
                            _note(found, _IDLE, here, int(masks[idle[p, 1]]), flag, shadow, available, 0)
                            told[0], told[1], told[2], told[3] = count, edges, rows, modes
                            return
            advance(
                s, _UNKNOWN, flag, 0, 0, floors, buckets, escalations, recoveries, capabilities, configurations,
                numbers, after, report,
            )  # fmt: skip
            advance(
                s, numbers[ESTOP_BIT], flag, 0, 0, floors, buckets, escalations, recoveries, capabilities,
                configurations, numbers, other, report,
            )  # fmt: skip
            if (other != after).any():
                _note(found, _UNKNOWN_CAUSE, here, _UNKNOWN, flag, 0, 0, 0)
                told[0], told[1], told[2], told[3] = count, edges, rows, modes
                return
        here += 1
    told[0], told[1], told[2], told[3], told[4] = count, edges, rows, modes, np.int64(graph)


@kernel(COUNT, INT_ROWS, COUNT, *_ARRAYS)
def returns(
    vectors: Ints, patience: int, floors: Ints, buckets: Ints, escalations: Ints, recoveries: Ints,
    capabilities: Ints, configurations: Ints, numbers: Ints,
) -> int:  # fmt: skip
    """The first state but LOCKOUT from which calm, agreement and pulses of acknowledgement do not lead home, or −1."""
    everything = (1 << len(capabilities)) - 1
    s, after, report = vectors[0].copy(), vectors[0].copy(), np.zeros(5, dtype=np.int64)
    for k in range(len(vectors)):
        s[:] = vectors[k]
        if s[MODE] == _LOCKOUT:
            continue
        for _ in range(patience):
            if s[MODE] == _NOMINAL:
                break
            pulse = ACK if not s[ACKED] else 0
            advance(
                s, 0, STANDSTILL | READY | pulse, everything, everything, floors, buckets, escalations, recoveries,
                capabilities, configurations, numbers, after, report,
            )  # fmt: skip
            s[:] = after
        if s[MODE] != _NOMINAL:
            return k
    return -1
