"""The properties that one step of a mode machine can show, judged by an observer.

The observer sees inputs and outputs only and keeps its own counters from ``requirements``; it never looks
into the engine's state. P1 floor, P2 authority, P3 re-entry, P4 one way out, P5 stuck acknowledgement,
P7 progress, P8 no spurious change, P15 operator heard, P17 no degraded mode, PL lockout. P10, P13 and P14
need more than one step: see ``walk``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Final, NamedTuple

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.modes.engine import ModeInputs, ModeOutputs
from safeguard.modes.requirements import (
    CAUTIOUS_VELOCITY_SHARE,
    FLOORS,
    LOCKOUT_CAUSES,
    Bounds,
)
from safeguard.modes.table import CAUSE_BIT, ModeTable

_NOMINAL: Final = Mode.NOMINAL
_CAUTIOUS: Final = Mode.CAUTIOUS
_DEGRADED: Final = Mode.DEGRADED
_HOLD: Final = Mode.HOLD
_STOP: Final = Mode.STOP
_ESTOP: Final = Mode.ESTOP
_LOCKOUT: Final = Mode.LOCKOUT
_BOOT: Final = Mode.BOOT
_POLICY: Final = Authority.POLICY
_AUTHORITY: Final = {
    _NOMINAL: Authority.POLICY,
    _CAUTIOUS: Authority.POLICY,
    _DEGRADED: Authority.POLICY,
    _HOLD: Authority.BACKUP,
    _STOP: Authority.BACKUP,
    _ESTOP: Authority.NONE,
    _LOCKOUT: Authority.NONE,
    _BOOT: Authority.NONE,
}


class Watched(NamedTuple):
    """One cause as the requirements see it; ``full`` is 0 where it may not be bridged."""

    cause: Cause
    bit: int
    floor: Mode
    full: int
    rearm: int
    counts: bool


class Observer(NamedTuple):
    """What a bystander remembers: its own buckets and counters."""

    levels: tuple[int, ...]
    calm: int = 0
    moving: int = 0
    ack: bool = True
    estops: int = 0


class Edge(NamedTuple):
    """One step as the observer judges it. ``before`` is the mode that the step started in."""

    before: Mode
    inputs: ModeInputs
    outputs: ModeOutputs
    due: Mode  # worst floor that is due
    pending: bool  # an active cause whose bridge lasts
    edge: bool  # the acknowledgement is a rising edge
    calm: int
    moving: int
    estops: int  # e-stops including one that is due now


class Rules(NamedTuple):
    """What the properties are measured against."""

    bounds: Bounds
    watched: tuple[Watched, ...]
    justifies: dict[str, Mode]  # row id → the mode that this row brings about


def rules(table: ModeTable, limits: Bounds, causes: tuple[Cause, ...]) -> Rules:
    """The rules for a walk in which only ``causes`` occur."""
    watched: list[Watched] = []
    for cause in causes:
        full = limits.bridge.get(cause, 0) * limits.fill
        rearm = int(full * Fraction(limits.rearm))
        counts = cause in LOCKOUT_CAUSES
        watched.append(Watched(cause, CAUSE_BIT[cause], FLOORS[cause], full, rearm, counts))
    justifies = {table.ids(CAUSE_BIT[cause])[0]: FLOORS[cause] for cause in Cause}
    for move in (*table.escalations, *table.recoveries):
        if move is not None:
            justifies[table.ids(move.row)[0]] = move.target
    justifies[table.ids(table.lockout_row)[0]] = _LOCKOUT
    return Rules(limits, tuple(watched), justifies)


def observe(
    rule: Rules, seen: Observer, before: Mode, inputs: ModeInputs, outputs: ModeOutputs
) -> tuple[Observer, Edge]:
    """The observer after one step, and the step as it saw it."""
    limits = rule.bounds
    causes = inputs.causes
    due = _NOMINAL
    pending = counted = asks_hold = asks_cautious = False
    drained = True
    levels: list[int] = []
    for one, old in zip(rule.watched, seen.levels, strict=True):
        level = old
        if causes & one.bit:
            level = min(one.full, old + limits.fill)
            asks_hold |= one.floor >= _HOLD
            asks_cautious |= one.floor >= _CAUTIOUS
            if level >= one.full:
                due = max(due, one.floor)
                counted |= one.counts
            else:
                pending = True
        elif old:
            level = max(0, old - limits.drain)
        drained &= level <= one.rearm
        levels.append(level)
    if before == _CAUTIOUS:
        calm = 0 if asks_cautious else min(seen.calm + 1, limits.cautious_dwell)
    elif _HOLD <= before <= _ESTOP:
        calm = min(seen.calm + 1, limits.ack_dwell) if inputs.standstill and drained and not asks_hold else 0
    else:
        calm = 0
    moving = min(seen.moving + 1, limits.moving) if before in (_HOLD, _STOP) and not inputs.standstill else 0
    boots = before == _BOOT and not inputs.ready
    estops = seen.estops + (counted and not boots and before not in (_ESTOP, _LOCKOUT))
    edge = Edge(before, inputs, outputs, due, pending, inputs.ack and not seen.ack, calm, moving, estops)
    if outputs.mode != before:
        calm = moving = 0
    return Observer(tuple(levels), calm, moving, inputs.ack, min(estops, limits.estops + 1)), edge


def _p1(rule: Rules, e: Edge) -> str | None:
    """Floor: the mode is at least the worst floor that is due, in the same tick."""
    if e.outputs.mode < e.due and not (e.outputs.mode == _BOOT == e.before):
        return f"P1 floor: {e.due.name} is due, mode is {e.outputs.mode.name}"
    return None


def _p2(rule: Rules, e: Edge) -> str | None:
    """Authority: the policy moves the body only below HOLD and while nothing is bridged."""
    out = e.outputs
    expected = _AUTHORITY[out.mode]
    bridging = e.pending and expected is _POLICY
    if bridging:
        expected = Authority.BACKUP
    if out.authority is not expected or out.bridging != bridging:
        return f"P2 authority: {out.authority.value} in {out.mode.name}, expected {expected.value}"
    if out.mode == _CAUTIOUS and out.envelope.velocity > CAUTIOUS_VELOCITY_SHARE:
        return f"P2 authority: velocity share {out.envelope.velocity} in CAUTIOUS"
    return None


def _p3(rule: Rules, e: Edge) -> str | None:
    """Re-entry: down from HOLD or worse only on an ack edge after calm at rest; CAUTIOUS comes first."""
    after = e.outputs.mode
    if after >= e.before or e.before == _BOOT:
        return None
    if e.before == _CAUTIOUS:
        ripe = e.calm >= rule.bounds.cautious_dwell
    else:
        ripe = e.edge and e.calm >= rule.bounds.ack_dwell and after >= _CAUTIOUS
    return None if ripe else f"P3 re-entry: {e.before.name} to {after.name} without its conditions"


def _p4(rule: Rules, e: Edge) -> str | None:
    """One way out: STOP and ESTOP only to HOLD; LOCKOUT stays; BOOT only to HOLD or worse, when ready."""
    after = e.outputs.mode
    fell = after < e.before
    if e.before == _LOCKOUT and after != _LOCKOUT:
        return "P4 one way out: LOCKOUT was left"
    if e.before in (_STOP, _ESTOP) and fell and after != _HOLD:
        return f"P4 one way out: {e.before.name} to {after.name}"
    if e.before == _BOOT and fell and (not e.inputs.ready or after < _HOLD):
        return f"P4 one way out: BOOT to {after.name}"
    return None


def _p5(rule: Rules, e: Edge) -> str | None:
    """Stuck acknowledgement: an input that was already on in the tick before re-arms nothing."""
    if _HOLD <= e.before <= _ESTOP and e.outputs.mode < e.before and not e.edge:
        return f"P5 stuck ack: {e.before.name} to {e.outputs.mode.name} without a rising edge"
    return None


def _p7(rule: Rules, e: Edge) -> str | None:
    """Progress: a stop that keeps moving for its bound becomes the next worse one."""
    if e.moving >= rule.bounds.moving and e.outputs.mode <= e.before:
        return f"P7 progress: still {e.outputs.mode.name} after {e.moving} moving ticks"
    return None


def _p8(rule: Rules, e: Edge) -> str | None:
    """No spurious change: a rise is due, and every change names a row that leads there."""
    after = e.outputs.mode
    if after == e.before:
        return None
    if not any(rule.justifies[row] == after for row in e.outputs.reasons):
        return f"P8 reason: {e.before.name} to {after.name}, reasons {e.outputs.reasons}"
    timer = e.moving >= rule.bounds.moving and after == e.before + 1
    locked = after == _LOCKOUT and e.estops > rule.bounds.estops
    if after > e.before and after != e.due and not timer and not locked:
        return f"P8 reason: {after.name} is not due"
    return None


def _p15(rule: Rules, e: Edge) -> str | None:
    """Operator heard: a recovery whose conditions hold happens in the same tick."""
    if e.before == _CAUTIOUS:
        ripe = e.calm >= rule.bounds.cautious_dwell
    elif _HOLD <= e.before <= _ESTOP:
        ripe = e.edge and e.calm >= rule.bounds.ack_dwell
    else:
        ripe = e.before == _BOOT and e.inputs.ready
    if ripe and e.outputs.mode == e.before and e.due != e.before:
        return f"P15 operator heard: still {e.before.name} although everything for leaving it holds"
    return None


def _p17(rule: Rules, e: Edge) -> str | None:
    """No degraded mode in a strategy that has nothing to shed."""
    return "P17 degraded: reached" if e.outputs.mode == _DEGRADED else None


def _pl(rule: Rules, e: Edge) -> str | None:
    """Lockout: exactly when one e-stop more than allowed is due."""
    locked = e.outputs.mode == _LOCKOUT
    due = e.before == _LOCKOUT or e.estops > rule.bounds.estops
    return None if locked == due else f"PL lockout: {e.estops} e-stops, mode {e.outputs.mode.name}"


PROPERTIES: Final[tuple[Callable[[Rules, Edge], str | None], ...]] = (
    _p1,
    _p2,
    _p3,
    _p4,
    _p5,
    _p7,
    _p8,
    _p15,
    _p17,
    _pl,
)


def violations(rule: Rules, edge: Edge) -> Iterator[str]:
    """Every property that ``edge`` breaks, in words."""
    for check in PROPERTIES:
        broken = check(rule, edge)
        if broken is not None:
            yield broken
