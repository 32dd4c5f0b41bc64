"""The mode machine: one pure, total function over integers. No clock, no I/O, no randomness.

One tick: fill or drain the buckets of delayed causes, look whether a timer or a recovery fires, shed and take back
what a strategy can do without, take the worst of all floors (law 7), and name the rows that did it.

``_decide`` is that function; it is compiled, and the same lines run interpreted. ``advance`` is how kernels call it,
``step`` how everybody else does. ``state`` says what a state is.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from safeguard.core.compiled import COUNT, FLAG, INT_ROWS, INTS, OUT_INTS, entry, kernel, leaf, types
from safeguard.core.enums import Authority, Mode
from safeguard.core.frozen import FROZEN, freeze, room, rows, thaw
from safeguard.modes.state import (
    ACKED,
    BUCKETS,
    CALM,
    CREDIT,
    ESTOPS,
    MODE,
    MOVING,
    ModeInputs,
    ModeOutputs,
    ModeState,
)
from safeguard.modes.table import (
    ACK,
    BEYOND,
    CLEAR,
    COST,
    DEBOUNCED,
    DELAYED,
    DRAIN,
    DRAINED,
    ESTOP_BIT,
    FILL,
    FLAPPING_ROW,
    JOG_ROW,
    KNOWN,
    LOCKOUT,
    LOCKOUT_ROW,
    PERSON,
    READY,
    STANDSTILL,
    TAKEOVER_FLOOR,
    TAKEOVER_ROW,
    WAIVED,
    WINDOW,
    ModeTable,
)

Ints = NDArray[np.int64]

_TYPES: Any = types
_TOLD: Any = _TYPES.Tuple((FROZEN, _TYPES.UniTuple(COUNT, 2)))
_INPUTS: Any = _TYPES.NamedTuple((COUNT, FLAG, FLAG, FLAG, FLAG, COUNT, COUNT), ModeInputs)
_BRIDGING, _SHED, _AGE, _MASK = 3, 4, 32, (1 << 28) - 1
"""Places in what is said: the mode, whether the backup stands in, what is shed, the age of what was shed last."""

NEXT, WHY, ROWS, BRIDGING, SHED = range(5)
"""Places in what ``advance`` reports: the next mode, rows that brought it about, rows that fired or hold it, whether
the backup stands in for the policy, and what is shed."""

_NOMINAL, _CAUTIOUS, _DEGRADED, _HOLD = (int(m) for m in (Mode.NOMINAL, Mode.CAUTIOUS, Mode.DEGRADED, Mode.HOLD))
_ESTOP, _LOCKOUT, _BOOT = int(Mode.ESTOP), int(Mode.LOCKOUT), int(Mode.BOOT)
_POLICY: Final = Authority.POLICY
_BACKUP: Final = Authority.BACKUP
_OPERATOR: Final = Authority.OPERATOR
_MODES: Final = tuple(Mode)
_REMEMBERED: Final = 1024  # outputs


@leaf
def _fill(s: Ints, causes: int, buckets: Ints, numbers: Ints, after: Ints) -> tuple[int, bool]:
    """New levels; (causes whose bucket is full: only an active one is, whether all are low enough to re-arm)."""
    tripped, drained = 0, True
    for b in range(len(buckets)):
        level = s[BUCKETS + b]
        if causes & buckets[b, 0]:
            level = min(level + numbers[FILL], buckets[b, 1])
            if level == buckets[b, 1]:
                tripped |= buckets[b, 0]
        else:
            level = max(level - numbers[DRAIN], 0)
        after[BUCKETS + b] = level
        if level > buckets[b, 2]:
            drained = False
    return tripped, drained


@leaf
def _floor(active: int, floors: Ints, least: int) -> int:
    """The worst floor that an active cause asks for, ``least`` if none is worse."""
    for mode in range(_ESTOP, least, -1):
        if active & floors[mode]:
            return mode
    return least


@leaf
def _lost(
    s: Ints, causes: int, active: int, shadow: int, capabilities: Ints, start: int, after: Ints
) -> tuple[int, int]:
    """(what is missing, what of it is fit to come back), with the ages and dwells of this tick."""
    count, lost, ripe = len(capabilities), 0, 0
    for c in range(count):
        age, fit = s[start + c], 0
        if active & capabilities[c, 0]:
            lost |= 1 << c
        elif age > 0:
            lost |= 1 << c
            if not causes & capabilities[c, 0] and (not capabilities[c, 1] or shadow >> c & 1):
                fit = min(s[start + count + c] + 1, capabilities[c, 2])
                ripe |= (1 << c) if fit >= capabilities[c, 2] else 0
        after[start + c] = min(age + 1, capabilities[c, 4]) if lost >> c & 1 else 0
        after[start + count + c] = fit
    return lost, ripe


@leaf
def _endured(
    shed: int, active: int, available: int, paid: int, floors: Ints, capabilities: Ints, configurations: Ints,
    numbers: Ints, start: int, after: Ints,
) -> tuple[bool, int]:  # fmt: skip
    """Whether the body may go on with ``shed`` missing, and if not the rows that say so."""
    if configurations[shed, 0] == 0:
        return False, active & floors[_DEGRADED]
    if shed & ~available or active & configurations[shed, 1]:
        return False, configurations[shed, 2] | active & configurations[shed, 1]
    for less in range(1, shed + 1):
        if less & ~shed or configurations[less, 0] == 0:
            continue
        least = configurations[less, 0] + 1
        for c in range(len(capabilities)):
            if less >> c & 1:
                least = min(least, after[start + c])
        if least > configurations[less, 0]:
            return False, configurations[less, 2]
    reserved = paid  # whatever is shed must be able to come back
    for c in range(len(capabilities)):
        reserved += numbers[COST] if shed >> c & 1 else 0
    return reserved <= numbers[WINDOW], numbers[FLAPPING_ROW]


@leaf
def _returning(
    lost: int, ripe: int, active: int, available: int, paid: int, floors: Ints, capabilities: Ints,
    configurations: Ints, numbers: Ints, start: int, after: Ints,
) -> int:  # fmt: skip
    """Which capability comes back: the first without which the body could not do better, or −1.

    One in a tick, and only such a one that what is left can be endured; so fewer causes never make things worse.
    """
    for c in range(len(capabilities)):
        less = lost & ~(1 << c)
        if ripe >> c & 1 and (
            less == 0
            or _endured(
                less,
                active,
                available,
                paid + numbers[COST],
                floors,
                capabilities,
                configurations,
                numbers,
                start,
                after,
            )[0]
        ):
            return c
    return -1


@leaf
def _timers(
    s: Ints, causes: int, flags: int, drained: bool, escalations: Ints, recoveries: Ints
) -> tuple[int, int, int, int]:
    """(mode that timers alone ask for, row that fired, calm, moving). An escalation beats a recovery."""
    mode, calm, moving = s[MODE], 0, 0
    if escalations[mode, 0] >= 0 and not flags & STANDSTILL:
        moving = s[MOVING] + 1
        if moving >= escalations[mode, 1]:
            return escalations[mode, 0], escalations[mode, 2], calm, moving
    if recoveries[mode, 0] >= 0:
        met = flags & (READY | STANDSTILL | PERSON)
        if flags & ACK and not s[ACKED]:
            met |= ACK
        if not causes & recoveries[mode, 3]:
            met |= CLEAR
        if drained:
            met |= DRAINED
        missing = recoveries[mode, 1] & ~met
        if not missing & ~ACK:
            calm = min(s[CALM] + 1, recoveries[mode, 2])
            if not missing and calm >= recoveries[mode, 2]:
                return recoveries[mode, 0], recoveries[mode, 4], calm, moving
    return mode, 0, calm, moving


@leaf
def _holding(mode: int, floors: Ints) -> int:
    """The causes that ask for ``mode`` or worse; in BOOT none counts."""
    found = 0
    if mode != _BOOT:
        for worse in range(min(mode, _ESTOP), _ESTOP + 1):
            found |= floors[worse]
    return found


@leaf
def _decide(
    s: Ints, causes: int, flags: int, shadow: int, available: int, floors: Ints, buckets: Ints, escalations: Ints,
    recoveries: Ints, capabilities: Ints, configurations: Ints, numbers: Ints, after: Ints,
) -> tuple[int, int, int, bool, int]:  # fmt: skip
    """One tick: fill ``after``, the next state, and report. ``s`` and ``after`` are different arrays."""
    mode, person, start = s[MODE], flags & PERSON != 0, BUCKETS + len(buckets)
    if causes & ~numbers[KNOWN]:
        causes = causes & numbers[KNOWN] | numbers[ESTOP_BIT]
    if person:
        causes &= ~numbers[WAIVED]
    tripped, drained = _fill(s, causes, buckets, numbers, after)
    active = causes & ~numbers[DELAYED] | tripped
    target, row, calm, moving = _timers(s, causes, flags, drained, escalations, recoveries)
    floor = _floor(active, floors, numbers[TAKEOVER_FLOOR] if person else _NOMINAL)
    lost, ripe = _lost(s, causes, active, shadow, capabilities, start, after)
    credit = max(s[CREDIT] - 1, 0)
    if mode == _DEGRADED and target < _DEGRADED:
        lost = 0  # a person has taken over
    if lost and target <= _DEGRADED and floor <= _DEGRADED:
        target, row = _CAUTIOUS, 0
        back = _returning(
            lost, ripe, active, available, credit, floors, capabilities, configurations, numbers, start, after
        )
        if back >= 0:
            lost, row, credit = lost & ~(1 << back), capabilities[back, 3], credit + numbers[COST]
            after[start + back] = 0
            after[start + len(capabilities) :] = 0  # every other one begins to prove itself anew
        if lost:
            fine, why = _endured(
                lost, active, available, credit, floors, capabilities, configurations, numbers, start, after
            )
            target, row = (_DEGRADED, row) if fine else (_HOLD, why)
    if floor > target:
        target, row = floor, 0 if active & floors[floor] else numbers[TAKEOVER_ROW]
    estops = s[ESTOPS]
    if target == _ESTOP and active & numbers[LOCKOUT] and mode != _ESTOP:
        estops = min(estops + 1, numbers[BEYOND] + 1)
        if estops > numbers[BEYOND]:
            target, row = _LOCKOUT, numbers[LOCKOUT_ROW]
    if target != _DEGRADED:
        lost = 0
        after[start:] = 0
    holding = _holding(target, floors)
    bridging = causes & numbers[DELAYED] & ~numbers[DEBOUNCED] & ~tripped != 0
    jog = numbers[JOG_ROW] if person and target == _HOLD and not active & holding and not bridging else 0
    if target != mode:
        calm = 0
    if target != mode or jog:  # who jogs is meant to move
        moving = 0
    after[MODE], after[ACKED], after[CALM], after[MOVING] = target, flags & ACK != 0, calm, moving
    after[ESTOPS], after[CREDIT] = estops, credit
    return target, active & holding | row, causes & holding | row | jog, bridging, lost


@kernel(types.void, INTS, *[COUNT] * 4, INTS, *[INT_ROWS] * 5, INTS, OUT_INTS, OUT_INTS)
def advance(
    s: Ints, causes: int, flags: int, shadow: int, available: int, floors: Ints, buckets: Ints, escalations: Ints,
    recoveries: Ints, capabilities: Ints, configurations: Ints, numbers: Ints, after: Ints, report: Ints,
) -> None:  # fmt: skip
    """One tick: fill ``after`` and ``report``."""
    report[NEXT], report[WHY], report[ROWS], report[BRIDGING], report[SHED] = _decide(
        s, causes, flags, shadow, available, floors, buckets, escalations, recoveries, capabilities, configurations,
        numbers, after,
    )  # fmt: skip


@leaf
def _arrays(block: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints, Ints]:
    """``ModeTable.arrays`` out of ``ModeTable.block``.

    For another leaf only: a kernel would give up arrays that it never took.
    """
    return (
        block[block[0] : block[1]],
        rows(block, block[1], block[2], 3),
        rows(block, block[2], block[3], 3),
        rows(block, block[3], block[4], 5),
        rows(block, block[4], block[5], 5),
        rows(block, block[5], block[6], 3),
        block[block[6] :],
    )


@leaf
def _tell(s: Ints, inputs: ModeInputs, block: Ints, after: Ints) -> tuple[int, int, bool]:
    """Fill ``after`` and return (what is said, the rows that say so, whether nothing changed)."""
    flags = ACK * inputs.ack | STANDSTILL * inputs.standstill | READY * inputs.ready | PERSON * inputs.person
    arrays, why = _arrays(block), len(s) - 1
    mode, now, found, bridging, shed = _decide(
        s[:why], inputs.causes, flags, inputs.shadow, inputs.available, *arrays, after[:why]
    )
    if mode == s[MODE]:
        now |= s[why]
        found |= now
    after[why] = now if mode != _NOMINAL else 0
    age, start = 0, BUCKETS + len(arrays[1])
    for c in range(len(arrays[4])):
        if shed >> c & 1:
            age = after[start + c] if age == 0 else min(age, after[start + c])
    same = True
    for k in range(len(s)):
        if after[k] != s[k]:
            same = False
    return age << _AGE | shed << _SHED | bridging << _BRIDGING | mode, found, same


@kernel(_TOLD, FROZEN, _INPUTS, FROZEN)
def tick(state: bytes, inputs: ModeInputs, block: bytes) -> tuple[bytes, tuple[int, int]]:
    """One tick as ``step`` needs it: the next state, empty where it is the same; (what is said, rows).

    As ``bytes``, for an array costs more to hand over than this whole file to run.
    """
    s, after = thaw(state), room()
    what, why, same = _tell(s, inputs, thaw(block), after)
    return freeze(after[: 0 if same else len(s)]), (what, why)


_tick: Final = entry(tick)


def step(table: ModeTable, state: ModeState, inputs: ModeInputs) -> tuple[ModeState, ModeOutputs]:
    """The next state and this tick's outputs. Pure and total; the worst floor wins in this very tick.

    Where nothing changes, which is nearly always, the next state is ``state`` itself, and remembers its answer.
    """
    rest = state.rest
    if rest is not None and rest[1] == inputs and rest[0] is table:
        return state, rest[2]
    after, told = _tick(state.frozen, inputs, table.block)
    outputs = table.said.get(told) or _outputs(table, told)
    if after:
        following = ModeState()
        following.frozen, following.rest = after, None
        return following, outputs
    state.rest = table, inputs, outputs
    return state, outputs


def _outputs(table: ModeTable, told: tuple[int, int]) -> ModeOutputs:
    """What was told, in words; the same object for the same."""
    what, rows = map(int, told)  # interpreted they are numpy's
    age, shed = what >> _AGE, what >> _SHED & _MASK
    if age:
        what -= age - min(age, len(table.degraded[shed][1])) << _AGE
    found: ModeOutputs | None = table.said.get((what, rows))
    if found is None:
        if len(table.said) >= _REMEMBERED:
            table.said.clear()
        found = table.said[what, rows] = _worded(table, what, rows)
    return found


def _worded(table: ModeTable, what: int, rows: int) -> ModeOutputs:
    mode, shed, name = what & 7, what >> _SHED & _MASK, ""
    authority, envelope = table.authority[mode], table.envelope[mode]
    if shed:
        name, envelopes = table.degraded[shed]
        envelope = envelopes[(what >> _AGE) - 1]
    standing_in = what >> _BRIDGING & 1 != 0 and authority is _POLICY
    if table.jog is not None and rows & int(table.numbers[JOG_ROW]):
        authority, envelope = _OPERATOR, table.jog
    mover = _BACKUP if standing_in else authority
    return ModeOutputs(_MODES[mode], mover, envelope, table.ids(rows), standing_in, name)
