"""The compiled loops of the walk: every input in every state, breadth first, until something is wrong.

A node is a state of the engine followed by what the observer remembers; nodes are numbered in the order in which they
are met. ``table`` and ``rules`` are ``ModeTable.arrays`` and ``Rules.arrays``.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from safeguard.core.compiled import COUNT, INT_ROWS, INTS, OUT_INTS, kernel, leaf, part, types
from safeguard.core.enums import Mode
from safeguard.modes.engine import BRIDGING, NEXT, ROWS, SHED, advance
from safeguard.modes.properties import BACKUP, JOGS, MOVES, judge
from safeguard.modes.state import ACKED, MODE, MOVING
from safeguard.modes.table import ACK, ESTOP_BIT, JOG_ROW, PERSON, READY, STANDSTILL

Ints = NDArray[np.int64]
Shorts = NDArray[np.int16]
Places = NDArray[np.int32]
TableArrays: TypeAlias = tuple[Ints, Ints, Ints, Ints, Ints, Ints, Ints]
RuleArrays: TypeAlias = tuple[Ints, Ints, Ints, Ints, Ints]

ROOM: Final = 1 << 21  # states
UNKNOWN: Final = 1 << 61  # a cause that no version knows

# What a walk can find. After it ``found`` has: node, causes, flags, agreement, substitutes, the observer's verdict.
FINE, FULL, JUDGED, MONOTONE, IDLE, UNKNOWN_CAUSE, IGNORED, STEERED = range(8)
SAID: Final = {
    FULL: f"the walk has no room for more than {ROOM} states",
    MONOTONE: "P10 monotone: a further cause made things better",
    IDLE: "P11 non-interference: a cause that asks for nothing changed what happens",
    UNKNOWN_CAUSE: "P12 fail closed: an unknown cause is not the same as an e-stop",
    IGNORED: "P11 non-interference: shadow or substitutes matter although nothing is shed",
    STEERED: "PJ jogging: what comes next is not what would come without it",
}
"""What the walk itself finds, in words, beside the bits of ``properties.NAMES``."""

STATES, EDGES, FIRED, REACHED, GRAPH = range(5)
"""Places in what ``explore`` tells: how many states and edges, rows that were a reason, modes, and the digest of all
edges (0 where something is wrong)."""

_DEGRADED, _BOOT = int(Mode.DEGRADED), int(Mode.BOOT)
_NOMINAL, _LOCKOUT = int(Mode.NOMINAL), int(Mode.LOCKOUT)


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
def _wrong(
    code: int, here: int, causes: int, flag: int, shadow: int, available: int, verdict: int, found: Ints, told: Ints
) -> bool:
    """Note what is wrong, and where."""
    found[0], found[1], found[2], found[3] = code, here, causes, flag
    found[4], found[5], found[6] = shadow, available, verdict
    told[GRAPH] = 0
    return True


@leaf
def _ignores(
    s: Ints, causes: int, flag: int, there: int, table: TableArrays, after: Ints, other: Ints, spare: Ints
) -> bool:
    """Whether full agreement and the substitutes ``there`` lead where none of either led."""
    everything = (1 << len(table[4])) - 1
    advance(s, causes, flag, everything, there, *table, other, spare)
    differ = 0
    for k in range(len(s)):
        differ |= other[k] ^ after[k]
    return differ == 0


@part
def _unjogged(table: TableArrays) -> TableArrays:
    """The table as it is where nobody may jog."""
    floors, buckets, escalations, recoveries, capabilities, configurations, numbers = table
    plain = numbers.copy()
    plain[JOG_ROW] = 0
    return floors, buckets, escalations, recoveries, capabilities, configurations, plain


@leaf
def steered(
    s: Ints, causes: int, flag: int, shadow: int, available: int, unjogged: TableArrays, after: Ints, other: Ints,
    spare: Ints,
) -> bool:  # fmt: skip
    """Whether jogging led to ``after`` and the table without leads elsewhere: only MOVING may differ."""
    advance(s, causes, flag, shadow, available, *unjogged, other, spare)
    differ = 0
    for k in range(len(s)):
        differ |= 0 if k == MOVING else other[k] ^ after[k]
    return differ != 0


@part
def _closed(s: Ints, flag: int, table: TableArrays) -> bool:
    """Whether a cause that nobody knows leads where an e-stop does."""
    numbers = table[6]
    unknown, known = np.zeros(len(s), dtype=np.int64), np.zeros(len(s), dtype=np.int64)
    report = np.zeros(5, dtype=np.int64)
    advance(s, UNKNOWN, flag, 0, 0, *table, unknown, report)
    advance(s, numbers[ESTOP_BIT], flag, 0, 0, *table, known, report)
    return not (unknown != known).any()


@leaf
def _step(
    s: Ints, o: Ints, causes: int, flag: int, shadow: int, available: int, movers: Ints, table: TableArrays,
    rules: RuleArrays, after: Ints, then: Ints, report: Ints,
) -> tuple[int, int]:  # fmt: skip
    """One step of the engine, and what the observer says of it: (who moves the body, verdict)."""
    advance(s, causes, flag, shadow, available, *table, after, report)
    mover = int(movers[report[NEXT]])
    mover = BACKUP if report[BRIDGING] and mover == MOVES else mover
    mover = JOGS if report[ROWS] & table[6][JOG_ROW] else mover
    return mover, judge(
        o, s[MODE], causes, flag, shadow, available, report[NEXT], mover, report[SHED], report[ROWS], *rules, then
    )


@part
def _steps(
    here: int, s: Ints, o: Ints, flag: int, shadow: int, available: int, masks: Ints, movers: Ints,
    table: TableArrays, rules: RuleArrays, nodes: Shorts, parents: Ints, room: Places, ends: Ints,
    found: Ints, told: Ints,
) -> bool:  # fmt: skip
    """Every set of causes from one node: next mode, mover and node go into ``ends``. True if something is wrong."""
    size, report = len(s), np.zeros(5, dtype=np.int64)
    vector = np.zeros(nodes.shape[1], dtype=np.int64)
    after, then = vector[:size], vector[size:]
    other, spare = np.zeros(size, dtype=np.int64), np.zeros(5, dtype=np.int64)
    sets, alone = 1 << len(table[4]), not flag & PERSON
    unheard = sets > 1 and available == 0 and not (alone and s[MODE] == _DEGRADED)
    there = 0 if alone and s[MODE] < _DEGRADED else sets - 1
    unjogged = _unjogged(table)
    for m in range(len(masks)):
        causes = masks[m]
        mover, verdict = _step(s, o, causes, flag, shadow, available, movers, table, rules, after, then, report)
        told[EDGES] += 1
        told[FIRED] |= report[ROWS]
        if unheard and not _ignores(s, causes, flag, there, table, after, other, spare):
            return _wrong(IGNORED, here, causes, flag, shadow, available, 0, found, told)
        if mover == JOGS and steered(s, causes, flag, shadow, available, unjogged, after, other, spare):
            return _wrong(STEERED, here, causes, flag, shadow, available, 0, found, told)
        if verdict:
            return _wrong(JUDGED, here, causes, flag, shadow, available, verdict, found, told)
        number = _number(vector, nodes, room, told[STATES])
        if number == len(nodes):
            return _wrong(FULL, here, causes, flag, shadow, available, 0, found, told)
        if number == told[STATES]:
            nodes[number] = vector
            parents[number, 0], parents[number, 1], parents[number, 2] = here, causes, flag
            parents[number, 3], parents[number, 4] = shadow, available
            told[STATES] += 1
        edge = _mixed(here, number, mover, m + 1000 * (flag + 100 * (shadow + 10 * available)))
        told[GRAPH] = np.int64(np.uint64(told[GRAPH]) + edge)
        ends[0, m], ends[1, m], ends[2, m] = report[NEXT], mover, number
    return False


@part
def _compared(
    here: int, flag: int, shadow: int, available: int, masks: Ints, more: Ints, idle: Ints, ends: Ints,
    found: Ints, told: Ints,
) -> bool:  # fmt: skip
    """P10 and P11 on what ``_steps`` found from one node. True if something is wrong."""
    for p in range(len(more)):
        a, b = more[p, 0], more[p, 1]
        if ends[0, b] < ends[0, a] or (ends[1, b] >= MOVES and ends[1, b] != ends[1, a]):
            return _wrong(MONOTONE, here, int(masks[b]), flag, shadow, available, 0, found, told)
    for p in range(len(idle)):
        a, b = idle[p, 0], idle[p, 1]
        if ends[2, a] != ends[2, b]:
            return _wrong(IDLE, here, int(masks[b]), flag, shadow, available, 0, found, told)
    return False


_NODES = types.Array(types.int16, 2, "C")
_EDGES = types.Array(types.int64, 2, "C")
_ROOMS = types.Array(types.int32, 1, "C")
_TUPLE: Any = cast("Any", types).Tuple
_TABLE: Final = _TUPLE((INTS, *[INT_ROWS] * 5, INTS))
_RULES: Final = _TUPLE((INT_ROWS, INT_ROWS, INT_ROWS, INTS, INTS))


@kernel(
    types.void, COUNT, INTS, INTS, INT_ROWS, INT_ROWS, INTS, _TABLE, _RULES, _NODES, _EDGES, _ROOMS, OUT_INTS, OUT_INTS
)
def explore(
    size: int, masks: Ints, flags: Ints, more: Ints, idle: Ints, movers: Ints, table: TableArrays, rules: RuleArrays,
    nodes: Shorts, parents: Ints, room: Places, found: Ints, told: Ints,
) -> None:  # fmt: skip
    """Visit every state from the node that ``nodes`` begins with; fill ``told``, and ``found`` if something is wrong.

    Args:
        size: of a state of the engine.
        masks, flags: sets of causes and of flags that occur.
        more, idle: pairs of ``masks`` of which the second has one cause more; those where it asks for nothing.
        movers: by mode, who moves the body.
        table, rules: see above.
        nodes, parents, room: room for nodes, for where each was met first, and for a hash table of them.
        found, told: see ``FINE`` and ``STATES``.
    """
    s, o = np.zeros(size, dtype=np.int64), np.zeros(nodes.shape[1] - size, dtype=np.int64)
    ends = np.zeros((3, len(masks)), dtype=np.int64)
    sets = 1 << len(table[4])
    found[:] = told[:] = 0
    told[STATES] = 1 + _number(nodes[0].astype(np.int64), nodes, room, 0)
    here = 0
    while here < told[STATES]:
        s[:], o[:] = nodes[here, :size], nodes[here, size:]
        before = s[MODE]
        told[REACHED] |= 1 << before
        for flag in flags:
            if before != _BOOT and not flag & READY:
                continue
            alone = not flag & PERSON  # a person does without what the policy lacks
            for shadow in range(sets if alone and before == _DEGRADED else 1):
                for available in range(sets if alone and before <= _DEGRADED else 1):
                    if _steps(
                        here, s, o, flag, shadow, available, masks, movers, table, rules, nodes, parents, room, ends,
                        found, told,
                    ) or _compared(here, flag, shadow, available, masks, more, idle, ends, found, told):  # fmt: skip
                        return
            if not _closed(s, flag, table):
                _wrong(UNKNOWN_CAUSE, here, UNKNOWN, flag, 0, 0, 0, found, told)
                return
        here += 1


@kernel(COUNT, INT_ROWS, COUNT, _TABLE)
def returns(vectors: Ints, patience: int, table: TableArrays) -> int:
    """The first state but LOCKOUT from which calm, agreement and pulses of acknowledgement do not lead home, or −1."""
    everything = (1 << len(table[4])) - 1
    s, after, report = vectors[0].copy(), vectors[0].copy(), np.zeros(5, dtype=np.int64)
    for k in range(len(vectors)):
        s[:] = vectors[k]
        if s[MODE] == _LOCKOUT:
            continue
        for _ in range(patience):
            if s[MODE] == _NOMINAL:
                break
            pulse = ACK if not s[ACKED] else 0
            advance(s, 0, STANDSTILL | READY | pulse, everything, everything, *table, after, report)
            s[:] = after
        if s[MODE] != _NOMINAL:
            return k
    return -1
