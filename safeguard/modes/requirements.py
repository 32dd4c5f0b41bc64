"""What a mode table owes, stated without looking at any table: the oracle of the exhaustive walk.

A table may say the same thing only because somebody checked it here too: two statements, two hands to slip.
All bounds are in ticks. ``abstract`` shrinks them together with a table, so that the walk stays small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from safeguard.core.enums import Cause, Mode
from safeguard.core.types import NS_PER_S
from safeguard.modes.spec import CauseSpec, TableSpec

FLOORS: Final[Mapping[Cause, Mode]] = MappingProxyType(
    {
        Cause.ESTOP: Mode.ESTOP,
        Cause.STATE_INVALID: Mode.STOP,
        Cause.STATE_STALE: Mode.STOP,
        Cause.STATE_ORDER: Mode.STOP,
        Cause.STATE_JUMP: Mode.STOP,
        Cause.CLOCK_BACKWARDS: Mode.HOLD,
        Cause.TICK_OVERRUN: Mode.CAUTIOUS,
        Cause.PROPOSAL_INVALID: Mode.HOLD,
        Cause.PROPOSAL_REPEATED: Mode.HOLD,
        Cause.PROPOSAL_ORDER: Mode.HOLD,
        Cause.POLICY_LATE: Mode.HOLD,
        Cause.FILTER_FAILED: Mode.HOLD,
        Cause.FILTER_SLACK: Mode.CAUTIOUS,
        Cause.BACKUP_REFUSED: Mode.ESTOP,
        Cause.EFFORT_WARN: Mode.CAUTIOUS,
        Cause.UNCALIBRATED: Mode.NOMINAL,
        Cause.OPERATOR_STOP: Mode.STOP,
        Cause.AUDIT_FAILED: Mode.HOLD,
    }
)
"""The least mode of every cause, once its bridge has run out."""

_BRIDGE_S: Final = Fraction("0.12")
_MOVING_S: Final = Fraction("1.5")
_ACK_DWELL_S: Final = Fraction("0.2")
_CAUTIOUS_DWELL_S: Final = Fraction("0.5")
_BRIDGE_TICKS: Final = 3
_BRIDGED_S: Final[tuple[Cause, ...]] = (
    Cause.PROPOSAL_INVALID,
    Cause.PROPOSAL_REPEATED,
    Cause.PROPOSAL_ORDER,
    Cause.POLICY_LATE,
)
_BRIDGED_TICKS: Final[tuple[Cause, ...]] = (Cause.STATE_STALE, Cause.STATE_ORDER, Cause.FILTER_FAILED)
LOCKOUT_CAUSES: Final = frozenset({Cause.ESTOP, Cause.BACKUP_REFUSED})
CAUTIOUS_VELOCITY_SHARE: Final = 0.5
SMALL: Final = 2
"""What every bound becomes in the abstraction: the least that tells "at once" from "after a while"."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Requirements for one tick period.

    Attributes:
        bridge: most ticks that a cause may be bridged; causes that are not in it may not be.
        moving: most ticks without standstill in HOLD and STOP.
        ack_dwell, cautious_dwell: least ticks of calm before a recovery; also the most, given an ack.
        estops: e-stops that one process survives.
        fill, drain, rearm: the leaky bucket; an ack needs all at most ``rearm`` full.
    """

    bridge: Mapping[Cause, int]
    moving: int
    ack_dwell: int
    cautious_dwell: int
    estops: int = 2
    fill: int = 4
    drain: int = 1
    rearm: Fraction = Fraction(1, 2)


def bounds(period: float) -> Bounds:
    """The requirements for a tick of ``period`` s."""
    tick = Fraction(round(period * NS_PER_S), NS_PER_S)
    bridge: dict[Cause, int] = dict.fromkeys(_BRIDGED_S, math.floor(_BRIDGE_S / tick))
    bridge |= dict.fromkeys(_BRIDGED_TICKS, _BRIDGE_TICKS)
    return Bounds(
        bridge=bridge,
        moving=math.floor(_MOVING_S / tick),
        ack_dwell=math.ceil(_ACK_DWELL_S / tick),
        cautious_dwell=math.ceil(_CAUTIOUS_DWELL_S / tick),
    )


def _shrink(ticks: int, bound: int) -> int:
    """``ticks`` on the scale where ``bound`` is SMALL; away from SMALL on the side where ``ticks`` lies."""
    scaled = Fraction(SMALL * ticks, bound)
    return math.ceil(scaled) if ticks >= bound else math.floor(scaled)


def abstract(spec: TableSpec, period: float) -> tuple[TableSpec, Bounds]:
    """``spec`` with its times scaled to about SMALL ticks, and the requirements on the same scale.

    A time that misses its bound by one tick misses it after scaling too.
    """
    real = bounds(period)
    tick = Fraction(round(period * NS_PER_S), NS_PER_S)

    def ticks(seconds: float | None, count: int | None, rounding: Callable[[Fraction], int]) -> int:
        return count or rounding(Fraction(repr(seconds or 0.0)) / tick)

    def cause(row: CauseSpec) -> CauseSpec:
        if not row.bridged:
            return row
        bound = real.bridge.get(row.cause, 1)
        shrunk = _shrink(ticks(row.bridge_s, row.bridge_ticks, math.floor), bound)
        return row.model_copy(update={"bridge_s": None, "bridge_ticks": max(1, shrunk)})

    def dwell(source: Mode) -> int:
        return real.cautious_dwell if source is Mode.CAUTIOUS else real.ack_dwell

    escalations = tuple(
        row.model_copy(
            update={
                "moving_s": None,
                "moving_ticks": max(1, _shrink(ticks(row.moving_s, row.moving_ticks, math.floor), real.moving)),
            }
        )
        for row in spec.escalations
    )
    recoveries = tuple(
        row.model_copy(
            update={
                "dwell_s": None,
                "dwell_ticks": _shrink(ticks(row.dwell_s, row.dwell_ticks, math.ceil), dwell(row.source)),
            }
        )
        for row in spec.recoveries
    )
    lockout = spec.lockout.model_copy(update={"beyond": max(0, spec.lockout.beyond - real.estops + 1)})
    small = spec.model_copy(
        update={
            "causes": tuple(cause(row) for row in spec.causes),
            "escalations": escalations,
            "recoveries": recoveries,
            "lockout": lockout,
        }
    )
    scaled = replace(
        real,
        bridge=dict.fromkeys(real.bridge, SMALL),
        moving=SMALL,
        ack_dwell=SMALL,
        cautious_dwell=SMALL,
        estops=1,
    )
    return small, scaled
