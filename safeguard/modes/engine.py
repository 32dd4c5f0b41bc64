"""The mode machine: one pure, total function over integers. No clock, no I/O, no randomness.

One tick: fill or drain the bridge buckets, look whether a timer or a recovery fires, take the worse of
that and the worst floor (law 7), and name the rows that did it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.types import Envelope
from safeguard.modes.spec import Guard
from safeguard.modes.table import ALL_CAUSES, CAUSE_BIT, GUARD_BIT, ModeTable, Recovery, cause_mask

_NOMINAL: Final = Mode.NOMINAL
_ESTOP: Final = Mode.ESTOP
_LOCKOUT: Final = Mode.LOCKOUT
_POLICY: Final = Authority.POLICY
_BACKUP: Final = Authority.BACKUP
_ESTOP_BIT: Final = CAUSE_BIT[Cause.ESTOP]
_READY: Final = GUARD_BIT[Guard.READY]
_ACK: Final = GUARD_BIT[Guard.ACK]
_STANDSTILL: Final = GUARD_BIT[Guard.STANDSTILL]
_CLEAR: Final = GUARD_BIT[Guard.CLEAR]
_DRAINED: Final = GUARD_BIT[Guard.DRAINED]


@dataclass(frozen=True, slots=True)
class ModeState:
    """Everything the machine remembers.

    Attributes:
        mode: the mode after the last tick.
        buckets: level of each bridged cause, in the table's order.
        calm: ticks in a row in which the guards of this mode's recovery (all but ``ack``) held; saturates.
        moving: ticks in a row without standstill, where the mode has an escalation.
        ack: the last tick's acknowledgement input; starts True, so a button held at boot is no edge.
        estops: e-stops so far that count towards LOCKOUT.
        why: rows that brought the mode about. Reported, never decided on.
    """

    mode: Mode
    buckets: tuple[int, ...]
    calm: int = 0
    moving: int = 0
    ack: bool = True
    estops: int = 0
    why: int = 0

    @classmethod
    def initial(cls, table: ModeTable) -> Self:
        """BOOT with empty buckets."""
        return cls(Mode.BOOT, table.empty)


@dataclass(frozen=True, slots=True)
class ModeInputs:
    """What the machine sees in one tick.

    Attributes:
        causes: mask of the active causes, see ``cause_mask``. Unknown bits count as an e-stop.
        ack: an acknowledgement arrived in this tick.
        standstill: the body is measured at rest.
        ready: the self-test has passed.
    """

    causes: int = 0
    ack: bool = False
    standstill: bool = False
    ready: bool = True

    @classmethod
    def of(cls, causes: Iterable[Cause], ack: bool = False, standstill: bool = False, ready: bool = True) -> Self:
        """The same from named causes."""
        return cls(cause_mask(causes), ack, standstill, ready)


@dataclass(frozen=True, slots=True)
class ModeOutputs:
    """What the machine says in one tick.

    Attributes:
        mode: the mode that holds from this tick on.
        authority: who moves the body in this tick.
        envelope: limits on proposed motion.
        reasons: ids of the rows that fired in this tick or hold the mode, causes first.
        bridging: the backup stands in for the policy although the mode would let the policy move.
    """

    mode: Mode
    authority: Authority
    envelope: Envelope
    reasons: tuple[str, ...]
    bridging: bool = False


def step(table: ModeTable, state: ModeState, inputs: ModeInputs) -> tuple[ModeState, ModeOutputs]:
    """The next state and this tick's outputs. Pure and total; the worst floor wins in this very tick."""
    causes = inputs.causes
    if causes & ~ALL_CAUSES:
        causes = causes & ALL_CAUSES | _ESTOP_BIT
    buckets, tripped = table.empty, 0
    if causes & table.bridged or state.buckets != buckets:
        buckets, tripped = _buckets(table, state.buckets, causes)
    active = causes & ~table.bridged | tripped
    target, row, calm, moving = _timers(table, state, inputs, causes, buckets)
    for floor, mask in table.floors:
        if floor <= target:
            break
        if active & mask:
            target, row = floor, 0
            break
    estops = state.estops
    if target == _ESTOP and active & table.lockout and state.mode != _ESTOP:
        estops += 1
        if estops > table.lockout_beyond:
            target, row = _LOCKOUT, table.lockout_row
    holding = table.at_least[target]
    why = active & holding | row
    if target == state.mode:
        why |= state.why
    else:
        calm = moving = 0  # counters belong to a mode
    if target == _NOMINAL:
        after = ModeState(target, buckets, calm, moving, inputs.ack, estops)
    else:
        after = ModeState(target, buckets, calm, moving, inputs.ack, estops, why)
    return after, _outputs(table, target, causes & holding | why, causes & table.bridged & ~tripped)


def _outputs(table: ModeTable, mode: Mode, rows: int, pending: int) -> ModeOutputs:
    """``pending``: active causes whose bridge has not run out."""
    authority = table.authority[mode]
    reasons = table.ids(rows) if rows else ()
    if pending and authority is _POLICY:
        return ModeOutputs(mode, _BACKUP, table.envelope[mode], reasons, True)
    return ModeOutputs(mode, authority, table.envelope[mode], reasons)


def _buckets(table: ModeTable, levels: tuple[int, ...], causes: int) -> tuple[tuple[int, ...], int]:
    """New levels, and the mask of the causes whose bucket is full: only an active cause has one."""
    fill, drain = table.fill, table.drain
    after: list[int] = []
    tripped = 0
    for (bit, full, _), level in zip(table.buckets, levels, strict=True):
        if causes & bit:
            level += fill
            if level >= full:
                level = full
                tripped |= bit
        elif level:
            level = level - drain if level > drain else 0
        after.append(level)
    return tuple(after), tripped


def _timers(
    table: ModeTable, state: ModeState, inputs: ModeInputs, causes: int, buckets: tuple[int, ...]
) -> tuple[Mode, int, int, int]:
    """(mode that timers alone ask for, row that fired, calm, moving). An escalation beats a recovery."""
    calm = moving = 0
    escalation = table.escalations[state.mode]
    if escalation is not None and not inputs.standstill:
        moving = state.moving + 1
        if moving >= escalation.ticks:
            return escalation.target, escalation.row, 0, 0
    recovery = table.recoveries[state.mode]
    if recovery is not None:
        missing = recovery.guards & ~_met(table, recovery, state, inputs, causes, buckets)
        if not missing & ~_ACK:
            calm = min(state.calm + 1, recovery.dwell)
            if not missing and calm >= recovery.dwell:
                return recovery.target, recovery.row, 0, 0
    return state.mode, 0, calm, moving


def _met(
    table: ModeTable,
    recovery: Recovery,
    state: ModeState,
    inputs: ModeInputs,
    causes: int,
    buckets: tuple[int, ...],
) -> int:
    """Mask of the guards that hold now. ``ack`` is an edge: the input was off in the tick before."""
    met = _READY if inputs.ready else 0
    if inputs.ack and not state.ack:
        met |= _ACK
    if inputs.standstill:
        met |= _STANDSTILL
    if not causes & recovery.blocking:
        met |= _CLEAR
    if buckets == table.empty or all(
        level <= rearm for level, (_, _, rearm) in zip(buckets, table.buckets, strict=True)
    ):
        met |= _DRAINED
    return met
