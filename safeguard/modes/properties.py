"""The properties that one step of a mode machine can show, judged by an observer.

The observer sees inputs and outputs only and keeps its own counters from ``requirements``; it never looks into the
engine's state. What needs more than one step (P10 to P14) is in ``walk``; what a table shows as it stands (envelopes,
P21) in ``check``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from safeguard.core.compiled import part
from safeguard.core.enums import Cause, Mode
from safeguard.modes.requirements import ABOUT_POLICY, LOCKOUT_CAUSES, Bounds
from safeguard.modes.spec import TableSpec
from safeguard.modes.table import ACK, CAUSE_BIT, PERSON, READY, STANDSTILL, ModeTable

Ints = NDArray[np.int64]

NAMES: Final = (
    "P1 floor: the mode is below the worst floor that is due",
    "P2 authority: somebody else moves the body than the mode says",
    "P3 re-entry: a mode was left downwards without its conditions",
    "P4 one way out: a stop was left for another mode than it may be",
    "P5 stuck acknowledgement: an input that was already on re-armed",
    "P6 bounded degradation: a degraded stay is longer than its bound, or has no cause",
    "P7 progress: a stop that keeps moving did not become the next worse one",
    "P8 no spurious change: a rise is not due, or no reason leads there",
    "P9 chatter: more recoveries in a window than allowed",
    "P15 operator heard: the conditions for leaving hold, and nothing happened",
    "P16 running stop: it was left while the body moved",
    "P17 no degraded mode: a strategy with nothing to shed was degraded",
    "P18 own cause only: degraded by something that sheds nothing",
    "P19 substitute: degraded without a substitute, or in spite of a second weak signal",
    "P20 capabilities: what counts as shed is not what failed",
    "PL lockout: not exactly at one e-stop more than allowed",
    "PJ jogging: a person moves the body when nobody may, or nobody when a person may",
)
"""What each bit of a verdict says."""

(P1, P2, P3, P4, P5, P6, P7, P8, P9, P15, P16, P17, P18, P19, P20, PL, PJ) = (1 << bit for bit in range(len(NAMES)))

CALM, MOVING, ACKED, ESTOPS, CREDIT, LEVELS = range(6)
"""Places in what the observer remembers; after the levels come, for every capability, the ticks since it was lost and
those for which it has been fit, and then the ticks since each of the last recoveries."""

# Columns of Rules.watched, and places in Rules.numbers.
BIT, FLOOR, FULL, REARM, COUNTS, SHEDS, POLICY, DEBOUNCED = range(8)
MOVING_BOUND, ACK_DWELL, CAUTIOUS_DWELL, ESTOP_BOUND, FILL, DRAIN, RECOVERIES, WINDOW, COST = range(9)

NOBODY, BACKUP, MOVES, JOGS = range(4)
"""Who moves the body: nobody, the backup, the policy, a person."""

_NOMINAL, _CAUTIOUS, _DEGRADED, _HOLD = (int(m) for m in (Mode.NOMINAL, Mode.CAUTIOUS, Mode.DEGRADED, Mode.HOLD))
_STOP, _ESTOP, _LOCKOUT, _BOOT = (int(m) for m in (Mode.STOP, Mode.ESTOP, Mode.LOCKOUT, Mode.BOOT))


@dataclass(frozen=True, slots=True)
class Rules:
    """What the properties are measured against, as ``judge`` takes it.

    Attributes:
        watched: a row a cause class, columns ``BIT`` … ``DEBOUNCED``; ``FULL`` is 0 where it acts at once.
        capabilities: dwell, and 1 where it comes back only after agreeing in shadow.
        stays: by mask of what is lost: longest stay (0: HOLD), causes that are not tolerated then.
        numbers: ``MOVING_BOUND`` …
        justifies: by mode, the rows that may bring it about.
    """

    watched: Ints
    capabilities: Ints
    stays: Ints
    numbers: Ints
    justifies: Ints

    @property
    def arrays(self) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        """In the order of ``judge``."""
        return self.watched, self.capabilities, self.stays, self.numbers, self.justifies

    def start(self) -> Ints:
        """What the observer remembers in BOOT."""
        recent = [int(self.numbers[WINDOW])] * int(self.numbers[RECOVERIES])
        memory = [0] * LEVELS + [0] * (len(self.watched) + 2 * len(self.capabilities)) + recent
        memory[ACKED] = 1
        return np.array(memory, dtype=np.int64)


def rules(spec: TableSpec, table: ModeTable, limits: Bounds, causes: tuple[Cause, ...]) -> Rules:
    """The rules for a walk in which only ``causes`` occur."""
    names = [row.name for row in spec.capabilities]
    watched: list[list[int]] = []
    for cause in causes:
        full = limits.delay.get(cause, 0) * limits.fill
        shed = limits.sheds.get(cause)
        watched.append(
            [
                CAUSE_BIT[cause],
                limits.floors[cause],
                full,
                int(full * limits.rearm),
                cause in LOCKOUT_CAUSES,
                1 << names.index(shed) if shed in names else 0,
                cause in ABOUT_POLICY,
                cause in limits.debounced,
            ]
        )
    cost = -(-2 * limits.window // limits.recoveries)
    numbers = [limits.moving, limits.ack_dwell, limits.cautious_dwell, limits.estops, limits.fill, limits.drain]
    return Rules(
        watched=_table(watched, 8),
        capabilities=_table([[limits.dwell.get(name, 0), name in limits.shadow] for name in names], 2),
        stays=_table(list(_stays(names, limits)), 2),
        numbers=np.array([*numbers, limits.recoveries, limits.window, cost], dtype=np.int64),
        justifies=_justifies(spec, table, limits),
    )


def _table(rows: list[list[int]], columns: int) -> Ints:
    return np.array(rows, dtype=np.int64).reshape(-1, columns)


def _stays(names: list[str], limits: Bounds) -> Iterator[list[int]]:
    for mask in range(1 << len(names)):
        lost = frozenset(name for c, name in enumerate(names) if mask >> c & 1)
        weak = sum(CAUSE_BIT[cause] for cause in limits.intolerable.get(lost, ()))
        yield [limits.stay.get(lost, 0), weak]


def _justifies(spec: TableSpec, table: ModeTable, limits: Bounds) -> Ints:
    """By mode, the rows that may bring it about: causes by what is owed to them, the others by what they say."""
    masks, bit = [0] * len(Mode), {row: 1 << i for i, row in enumerate(table.rows)}
    for row in spec.causes:
        masks[limits.floors[row.cause]] |= bit[row.id]
        if row.cause in limits.sheds:
            masks[Mode.HOLD] |= bit[row.id]  # what is lost together may be too much
    for move in (*spec.escalations, *spec.recoveries):
        masks[move.target] |= bit[move.id]
    for capability in spec.capabilities:
        masks[Mode.CAUTIOUS] |= bit[capability.id]
        masks[Mode.DEGRADED] |= bit[capability.id]
    limiting = [*spec.configurations, *((spec.flapping,) if spec.flapping else ())]
    for row in limiting:
        masks[Mode.HOLD] |= bit[row.id]
    masks[Mode.CAUTIOUS] |= bit[spec.takeover.id]
    masks[Mode.LOCKOUT] |= bit[spec.lockout.id]
    return np.array(masks, dtype=np.int64)


@part
def _lasts(
    lost: int, available: int, tripped: int, credit: int, capabilities: Ints, stays: Ints, numbers: Ints, ages: Ints
) -> int:
    """0 if the body may go on without ``lost``; else the property that going on would break."""
    if stays[lost, 0] == 0:
        return P20
    if lost & ~available or tripped & stays[lost, 1]:
        return P19
    for less in range(1, lost + 1):
        if less & ~lost or stays[less, 0] == 0:
            continue
        youngest = stays[less, 0] + 1
        for c in range(len(capabilities)):
            if less >> c & 1:
                youngest = min(youngest, ages[c])
        if youngest > stays[less, 0]:
            return P6
    for c in range(len(capabilities)):
        credit += numbers[COST] if lost >> c & 1 else 0
    return P9 if credit > numbers[WINDOW] else 0


@part
def _causes(
    o: Ints, causes: int, person: bool, watched: Ints, numbers: Ints, then: Ints
) -> tuple[int, int, int, int, bool, bool, bool, bool, bool]:
    """What the active causes ask for, by buckets of the observer's own.

    (worst floor that is due, what is shed by causes whose delay is over, what any cause sheds, causes whose delay is
    over, whether one waits on its bridge, whether one counts towards LOCKOUT, whether any asks for DEGRADED or worse,
    for CAUTIOUS or worse, whether every bucket is low enough to re-arm)
    """
    due, asked, present, tripped = _CAUTIOUS if person else _NOMINAL, 0, 0, 0
    pending, counted, high, low, drained = False, False, False, False, True
    for i in range(len(watched)):
        on = causes & watched[i, BIT] != 0 and not (person and watched[i, POLICY] != 0)
        level, acts = o[LEVELS + i], on
        if watched[i, FULL] > 0:
            level = min(level + numbers[FILL], watched[i, FULL]) if on else max(level - numbers[DRAIN], 0)
            acts = on and level >= watched[i, FULL]
            drained = drained and level <= watched[i, REARM]
        then[LEVELS + i] = level
        if on:
            present |= watched[i, SHEDS]
            high = high or watched[i, FLOOR] >= _DEGRADED
            low = low or watched[i, FLOOR] >= _CAUTIOUS
        if acts:
            tripped |= watched[i, BIT]
            asked |= watched[i, SHEDS]
            due = max(due, watched[i, FLOOR] if watched[i, SHEDS] == 0 else _NOMINAL)
            counted = counted or watched[i, COUNTS] != 0
        elif on and watched[i, DEBOUNCED] == 0:
            pending = True
    return due, asked, present, tripped, pending, counted, high, low, drained


@part
def _fit(o: Ints, present: int, shadow: int, capabilities: Ints, ages: int, then: Ints) -> tuple[int, int]:
    """(what was missing, what of it is fit to come back); the dwells of this tick go into ``then``."""
    was, fit, fits = 0, 0, ages + len(capabilities)
    for c in range(len(capabilities)):
        then[ages + c] = then[fits + c] = 0
        if o[ages + c] == 0:
            continue
        was |= 1 << c
        if not present >> c & 1 and (capabilities[c, 1] == 0 or shadow >> c & 1):
            then[fits + c] = min(o[fits + c] + 1, capabilities[c, 0])
            fit |= (1 << c) if then[fits + c] >= capabilities[c, 0] else 0
    return was, fit


@part
def _calm(o: Ints, before: int, standstill: bool, high: bool, low: bool, drained: bool, numbers: Ints) -> int:
    """Ticks in a row in which everything but the acknowledgement held that leaving ``before`` takes."""
    if before == _CAUTIOUS:
        return 0 if low else min(o[CALM] + 1, numbers[CAUTIOUS_DWELL])
    if _HOLD <= before <= _ESTOP:
        return min(o[CALM] + 1, numbers[ACK_DWELL]) if standstill and drained and not high else 0
    return 0


@part
def _ripe(before: int, calm: int, edge: bool, ready: bool, numbers: Ints) -> bool:
    """Everything holds that leaving ``before`` downwards takes."""
    if before == _CAUTIOUS:
        return bool(calm >= numbers[CAUTIOUS_DWELL])
    if _HOLD <= before <= _ESTOP:
        return bool(edge and calm >= numbers[ACK_DWELL])
    return bool(before == _BOOT and ready)


@part
def _down(before: int, after: int, ripe: bool, edge: bool, standstill: bool, ready: bool, let_go: bool) -> int:
    """P3, P4, P5, P16: what is wrong with a way down; ``let_go``: something came back, or a person took over."""
    found = 0
    if before == _LOCKOUT and after != _LOCKOUT:
        found |= P4
    if after >= before:
        return found
    if before == _BOOT:
        return found | (P4 if not ready or after < _HOLD else 0)
    if before == _DEGRADED:
        return found | (P3 if after < _CAUTIOUS or not let_go else 0)
    if not ripe or (before != _CAUTIOUS and after < _CAUTIOUS):
        found |= P3
    if before in (_STOP, _ESTOP) and after != _HOLD:
        found |= P4
    if _HOLD <= before <= _ESTOP:
        found |= (P5 if not edge else 0) | (P16 if not standstill else 0)
    return found


@part
def _up(before: int, after: int, due: int, moving: int, estops: int, reasoned: bool, numbers: Ints) -> int:
    """P1, P7, P8, lockout: what is wrong with the mode that was reached."""
    found, locked = 0, before == _LOCKOUT or estops > numbers[ESTOP_BOUND]
    timed_out = moving >= numbers[MOVING_BOUND]
    if after < due and not (after == _BOOT and before == _BOOT):
        found |= P1
    if timed_out and after <= before:
        found |= P7
    if after != before and not reasoned:
        found |= P8
    owed = after == due or (timed_out and after == before + 1) or (after == _LOCKOUT and locked)
    if after > before and not owed:
        found |= P8
    return found | (PL if (after == _LOCKOUT) != locked else 0)


@part
def _moved(mover: int, after: int, jogs: bool, pending: bool) -> int:
    """P2, jogging: what is wrong with who moves the body."""
    if jogs or mover == JOGS:
        return 0 if jogs and mover == JOGS else PJ
    expected = MOVES if after <= _DEGRADED else BACKUP if after <= _STOP else NOBODY
    return P2 if mover != (BACKUP if pending and expected == MOVES else expected) else 0


@part
def _degraded(before: int, asked: int, lost: int, shed: int, breaks: int, capabilities: Ints) -> int:
    """P6, P17 to P20: what is wrong with being in DEGRADED."""
    found = breaks | (P17 if len(capabilities) == 0 else 0)
    if before != _DEGRADED and asked == 0:
        found |= P18
    return found | (P6 if lost == 0 else 0) | (P20 if shed != lost else 0)


@part
def _recovered(o: Ints, back: int, recent: int, numbers: Ints, then: Ints) -> int:
    """P9; ticks since each of the last recoveries, the latest first, go into ``then``."""
    count, found = numbers[RECOVERIES], 0
    for k in range(count):
        then[recent + k] = min(o[recent + k] + 1, numbers[WINDOW])
    if back and count:
        found = P9 if then[recent + count - 1] < numbers[WINDOW] else 0
        for k in range(count - 1, 0, -1):
            then[recent + k] = then[recent + k - 1]
        then[recent] = 0
    return found


@part
def judge(
    o: Ints, before: int, causes: int, flags: int, shadow: int, available: int,
    after: int, mover: int, shed: int, rows: int,
    watched: Ints, capabilities: Ints, stays: Ints, numbers: Ints, justifies: Ints, then: Ints,
) -> int:  # fmt: skip
    """Verdict on one step as bits of ``NAMES``; ``then`` becomes what the observer remembers after it."""
    person, standstill, ready = flags & PERSON != 0, flags & STANDSTILL != 0, flags & READY != 0
    due, asked, present, tripped, pending, counted, high, low, drained = _causes(
        o, causes, person, watched, numbers, then
    )
    ages = LEVELS + len(watched)
    fits, recent = ages + len(capabilities), ages + 2 * len(capabilities)
    was, fit = _fit(o, present, shadow, capabilities, ages, then)
    back = was & ~shed if before == _DEGRADED and after <= _DEGRADED and not person else 0
    found = P3 if back & ~fit or back & (back - 1) else 0  # one at a time, and only what is fit
    lost = 0 if person else was & ~back | asked
    credit = max(o[CREDIT] - 1, 0) + (numbers[COST] if back else 0)
    for c in range(len(capabilities)):
        then[ages + c] = o[ages + c] + 1 if lost >> c & 1 else 0
    breaks = 0
    if lost and before <= _DEGRADED:
        breaks = _lasts(lost, available, tripped, credit, capabilities, stays, numbers, then[ages:fits])
        due = max(due, _HOLD if breaks else _DEGRADED)

    calm = _calm(o, before, standstill, high, low, drained, numbers)
    moving = min(o[MOVING] + 1, numbers[MOVING_BOUND]) if before in (_HOLD, _STOP) and not standstill else 0
    edge = flags & ACK != 0 and o[ACKED] == 0
    first = counted and before not in (_ESTOP, _LOCKOUT) and not (before == _BOOT and not ready)
    estops = o[ESTOPS] + (1 if first else 0)
    ripe = _ripe(before, calm, edge, ready, numbers)

    found |= _down(before, after, ripe, edge, standstill, ready, person or back != 0)
    found |= _up(before, after, due, moving, estops, rows & justifies[after] != 0, numbers)
    jogs = after == _HOLD and person and not high
    found |= _moved(mover, after, jogs, pending)
    if ripe and after == before and due != before:
        found |= P15
    if after == _DEGRADED:
        found |= _degraded(before, asked, lost, shed, breaks, capabilities)
        if before == _DEGRADED and ((fit & ~asked and not back) or (person and due < _DEGRADED)):
            found |= P15
    found |= _recovered(o, back, recent, numbers, then)

    for c in range(len(capabilities)):
        if after != _DEGRADED:
            then[ages + c] = 0
        if then[ages + c] == 0 or back or asked >> c & 1:
            then[fits + c] = 0
    calm = calm if after == before else 0
    moving = moving if after == before and not jogs else 0
    then[CALM], then[MOVING], then[ACKED] = calm, moving, flags & ACK != 0
    then[ESTOPS], then[CREDIT] = min(estops, numbers[ESTOP_BOUND] + 1), credit
    return found


def broken(verdict: int) -> tuple[str, ...]:
    """The properties of a verdict, in words; P1 and P8, which the others imply as a rule, come last."""
    found = [1 << bit for bit in range(len(NAMES)) if verdict >> bit & 1]
    return tuple(NAMES[bit.bit_length() - 1] for bit in sorted(found, key=lambda bit: (bit & (P1 | P8), bit)))
