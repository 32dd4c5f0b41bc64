"""What a mode table owes, stated without looking at any table: the oracle of the exhaustive walk.

A table may say the same thing only because somebody checked it here too: two statements, two hands to slip.
``abstract`` shrinks the times of both together, so that the walk stays small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from safeguard.core.enums import Cause, Mode
from safeguard.core.types import NS_PER_S, Envelope
from safeguard.modes.spec import (
    CapabilitySpec,
    CauseSpec,
    ConfigurationSpec,
    EscalationSpec,
    FlappingSpec,
    RecoverySpec,
    TableSpec,
)

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
        Cause.UNCALIBRATED: Mode.NOMINAL,
        Cause.OPERATOR_STOP: Mode.STOP,
        Cause.AUDIT_FAILED: Mode.HOLD,
        Cause.MONITOR_WARN: Mode.CAUTIOUS,
        Cause.MONITOR_DEGRADE: Mode.HOLD,
        Cause.MONITOR_STOP: Mode.STOP,
        Cause.PERCEPTION_WARN: Mode.CAUTIOUS,
        Cause.PERCEPTION_LOST: Mode.HOLD,
        Cause.PREDICTION_FAILED: Mode.HOLD,
        Cause.PLANNER_FAILED: Mode.HOLD,
        Cause.SYSTEM2_FAILED: Mode.HOLD,
        Cause.LEASE_LOST: Mode.HOLD,
    }
)
"""The least mode of every cause that nothing can be shed for, once its bridge has run out."""

ABOUT_POLICY: Final = frozenset(
    {
        Cause.PROPOSAL_INVALID, Cause.PROPOSAL_REPEATED, Cause.PROPOSAL_ORDER, Cause.POLICY_LATE, Cause.UNCALIBRATED,
        Cause.MONITOR_WARN, Cause.MONITOR_DEGRADE, Cause.MONITOR_STOP, Cause.PERCEPTION_WARN, Cause.PERCEPTION_LOST,
        Cause.PREDICTION_FAILED, Cause.PLANNER_FAILED, Cause.SYSTEM2_FAILED,
    }
)  # fmt: skip
"""Causes that do not count while a person is in command."""

LOCKOUT_CAUSES: Final = frozenset({Cause.ESTOP, Cause.BACKUP_REFUSED})
VELOCITY_SHARE: Final = 0.5
"""The most of the speed limits in CAUTIOUS, and in DEGRADED for every part that is missing: each halves it again."""

JOG: Final = Envelope(velocity=0.1, acceleration=0.2, away=True)
"""The most that a person may ask for in HOLD, where nothing asks for HOLD: slow, and only away from what is near."""

_POLICY_BRIDGE_S: Final = Fraction("0.12")
_BRIDGE_TICKS: Final = 3
_BRIDGED_S: Final = (
    Cause.PROPOSAL_INVALID,
    Cause.PROPOSAL_REPEATED,
    Cause.PROPOSAL_ORDER,
    Cause.POLICY_LATE,
    Cause.PERCEPTION_LOST,
)
_BRIDGED_TICKS: Final = (Cause.STATE_STALE, Cause.STATE_ORDER, Cause.FILTER_FAILED)
_WEAK: Final = frozenset({Cause.MONITOR_WARN, Cause.PERCEPTION_WARN})


@dataclass(frozen=True, slots=True)
class Shedding:
    """What a strategy may do without.

    Attributes:
        sheds: cause → the capability that it takes away.
        debounce_s: causes that may be ignored for so long; others act at once.
        stay_s: what is shed → the longest stay with all of it missing. What is not listed is HOLD.
        intolerable: what is shed → causes that ask for HOLD then.
        dwell_s: capability → how long it must be fit before it comes back.
        shadow: capabilities that come back only after they agreed with their substitute.
        decays: what is shed → what goes on ends anywhere, so it has to come to rest over its stay. A path that was
            verified ends at rest, and whoever still answers needs no end.
        recoveries, window_s: most recoveries in any window.
    """

    sheds: Mapping[Cause, str] = field(default_factory=dict[Cause, str])
    debounce_s: Mapping[Cause, Fraction] = field(default_factory=dict[Cause, Fraction])
    stay_s: Mapping[frozenset[str], Fraction] = field(default_factory=dict[frozenset[str], Fraction])
    intolerable: Mapping[frozenset[str], frozenset[Cause]] = field(
        default_factory=dict[frozenset[str], frozenset[Cause]]
    )
    dwell_s: Mapping[str, Fraction] = field(default_factory=dict[str, Fraction])
    shadow: frozenset[str] = frozenset()
    decays: frozenset[frozenset[str]] = frozenset()
    recoveries: int = 2
    window_s: Fraction = Fraction(30)


_TAIL: Final = frozenset({"fresh_chunks"})
_SYSTEM2: Final = frozenset({"system2"})
_R, _L = frozenset({"prediction"}), frozenset({"planner"})

SHEDDING: Final[Mapping[str, Shedding]] = MappingProxyType(
    {
        "monolithic": Shedding(),
        "vla": Shedding(
            sheds={Cause.POLICY_LATE: "fresh_chunks"},
            stay_s={_TAIL: Fraction("0.2")},
            intolerable={_TAIL: frozenset({Cause.MONITOR_WARN, Cause.FILTER_SLACK})},
            dwell_s={"fresh_chunks": Fraction("0.02")},
            decays=frozenset({_TAIL}),
            recoveries=30,
        ),
        "dual": Shedding(
            sheds={Cause.SYSTEM2_FAILED: "system2"},
            debounce_s={Cause.SYSTEM2_FAILED: Fraction("0.25")},
            stay_s={_SYSTEM2: Fraction(3)},
            intolerable={_SYSTEM2: _WEAK},
            dwell_s={"system2": Fraction("0.5")},
            shadow=_SYSTEM2,
            recoveries=6,
        ),
        "modular": Shedding(
            sheds={
                Cause.PREDICTION_FAILED: "prediction",
                Cause.PLANNER_FAILED: "planner",
                Cause.MONITOR_DEGRADE: "planner",
            },
            debounce_s={Cause.PREDICTION_FAILED: Fraction("0.12"), Cause.PLANNER_FAILED: Fraction("0.12")},
            stay_s={_R: Fraction(60), _L: Fraction(10), _R | _L: Fraction(2)},
            intolerable={_R | _L: _WEAK},
            dwell_s={"prediction": Fraction("0.5"), "planner": Fraction("0.5")},
            shadow=_R | _L,
            recoveries=4,
        ),
    }
)
"""What each strategy may do without, and for how long."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Requirements of one strategy for one tick period; times in ticks.

    Attributes:
        floors: of every cause; DEGRADED where something is shed instead.
        delay: most ticks that a cause may be bridged or debounced; causes that are not in it act at once.
        debounced: causes during whose delay the policy goes on.
        moving: most ticks without standstill in HOLD and STOP.
        ack_dwell, cautious_dwell: least ticks of calm before a recovery; also the most, given an ack.
        estops: e-stops that are survived.
        fill, drain, rearm: the leaky bucket; an ack needs all at most ``rearm`` full.
        sheds, stay, intolerable, dwell, shadow, decays, recoveries, window: as in ``Shedding``.
    """

    floors: Mapping[Cause, Mode]
    delay: Mapping[Cause, int]
    debounced: frozenset[Cause]
    moving: int
    ack_dwell: int
    cautious_dwell: int
    sheds: Mapping[Cause, str]
    stay: Mapping[frozenset[str], int]
    intolerable: Mapping[frozenset[str], frozenset[Cause]]
    dwell: Mapping[str, int]
    shadow: frozenset[str]
    decays: frozenset[frozenset[str]]
    recoveries: int
    window: int
    estops: int = 2
    fill: int = 4
    drain: int = 1
    rearm: Fraction = Fraction(1, 2)


def bounds(strategy: str, period: float) -> Bounds:
    """The requirements of a strategy for a tick of ``period`` s."""
    own, tick = SHEDDING[strategy], _tick(period)
    delay: dict[Cause, int] = dict.fromkeys(_BRIDGED_S, math.floor(_POLICY_BRIDGE_S / tick))
    delay |= dict.fromkeys(_BRIDGED_TICKS, _BRIDGE_TICKS)
    for cause in own.sheds:
        delay.pop(cause, None)
    delay |= {cause: math.floor(seconds / tick) for cause, seconds in own.debounce_s.items()}
    return Bounds(
        floors={**FLOORS, **dict.fromkeys(own.sheds, Mode.DEGRADED)},
        delay=delay,
        debounced=frozenset(own.debounce_s),
        moving=math.floor(Fraction("1.5") / tick),
        ack_dwell=math.ceil(Fraction("0.2") / tick),
        cautious_dwell=math.ceil(Fraction("0.5") / tick),
        sheds=own.sheds,
        stay={shed: math.floor(seconds / tick) for shed, seconds in own.stay_s.items()},
        intolerable=own.intolerable,
        dwell={name: math.ceil(seconds / tick) for name, seconds in own.dwell_s.items()},
        shadow=own.shadow,
        decays=own.decays,
        recoveries=own.recoveries,
        window=math.floor(own.window_s / tick),
    )


def _tick(period: float) -> Fraction:
    return Fraction(round(period * NS_PER_S), NS_PER_S)


SMALL: Final = 2
"""What every bound but stays and windows becomes in the abstraction: the least that tells "at once" from "later"."""

_SMALL_FILL: Final = 2
_SMALL_WINDOW: Final = 10
"""Where one thing can be shed: a shorter one cannot show a recovery too many."""
_LEAST_WINDOW: Final = 4
"""Where two can: with 10 the walk takes five minutes, and finds nothing either."""


def _small_stay(shed: frozenset[str], most: int) -> int:
    """Long enough for everything that is shed to come back one by one."""
    return SMALL + 1 if len(shed) == most else SMALL * most + 1


def small(real: Bounds) -> Bounds:
    """The requirements on the scale of the abstraction."""
    most = max((len(shed) for shed in real.stay), default=1)
    return replace(
        real,
        delay=dict.fromkeys(real.delay, SMALL),
        moving=SMALL,
        ack_dwell=SMALL,
        cautious_dwell=SMALL,
        stay={shed: _small_stay(shed, most) for shed in real.stay},
        dwell=dict.fromkeys(real.dwell, SMALL),
        recoveries=2 * most,
        window=_SMALL_WINDOW if most == 1 else _LEAST_WINDOW,
        estops=1,
        fill=_SMALL_FILL,
    )


def abstract(spec: TableSpec, period: float) -> tuple[TableSpec, Bounds]:
    """``spec`` with its times scaled to a few ticks, and the requirements on the same scale.

    A time that misses its bound by one tick misses it after scaling too.
    """
    real = bounds(spec.strategy, period)
    tiny = small(real)
    scale = _Scale(real, tiny, _tick(period), spec)
    return (
        spec.model_copy(
            update={
                "causes": tuple(map(scale.cause, spec.causes)),
                "escalations": tuple(map(scale.escalation, spec.escalations)),
                "recoveries": tuple(map(scale.recovery, spec.recoveries)),
                "capabilities": tuple(map(scale.capability, spec.capabilities)),
                "configurations": tuple(map(scale.configuration, spec.configurations)),
                "flapping": None if spec.flapping is None else scale.flapping(spec.flapping),
                "lockout": spec.lockout.model_copy(
                    update={"beyond": max(0, spec.lockout.beyond - real.estops + tiny.estops)}
                ),
                "bridge": spec.bridge.model_copy(update={"fill": max(1, spec.bridge.fill - real.fill + tiny.fill)}),
            }
        ),
        tiny,
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """Times of rows on the scale on which a real bound is the small one."""

    real: Bounds
    tiny: Bounds
    tick: Fraction
    spec: TableSpec

    def _limit(self, seconds: float | None, count: int | None, real: int, tiny: int) -> int:
        """A time that must not be longer than its bound; never less than a tick."""
        ticks = count if count is not None else math.floor(Fraction(repr(seconds or 0.0)) / self.tick)
        return max(1, _shrink(ticks, real, tiny))

    def _dwell(self, seconds: float | None, count: int | None, real: int, tiny: int) -> int:
        ticks = count if count is not None else math.ceil(Fraction(repr(seconds or 0.0)) / self.tick)
        return _shrink(ticks, real, tiny)

    def cause(self, row: CauseSpec) -> CauseSpec:
        if not row.delayed:
            return row
        real, tiny = self.real.delay.get(row.cause, 1), self.tiny.delay.get(row.cause, 1)
        if row.debounced:
            ticks = self._limit(row.debounce_s, row.debounce_ticks, real, tiny)
            return row.model_copy(update={"debounce_s": None, "debounce_ticks": ticks})
        ticks = self._limit(row.bridge_s, row.bridge_ticks, real, tiny)
        return row.model_copy(update={"bridge_s": None, "bridge_ticks": ticks})

    def escalation(self, row: EscalationSpec) -> EscalationSpec:
        ticks = self._limit(row.moving_s, row.moving_ticks, self.real.moving, self.tiny.moving)
        return row.model_copy(update={"moving_s": None, "moving_ticks": ticks})

    def recovery(self, row: RecoverySpec) -> RecoverySpec:
        if row.source in (Mode.BOOT, Mode.DEGRADED):
            return row
        real = self.real.cautious_dwell if row.source is Mode.CAUTIOUS else self.real.ack_dwell
        tiny = self.tiny.cautious_dwell if row.source is Mode.CAUTIOUS else self.tiny.ack_dwell
        ticks = self._dwell(row.dwell_s, row.dwell_ticks, real, tiny)
        return row.model_copy(update={"dwell_s": None, "dwell_ticks": ticks})

    def capability(self, row: CapabilitySpec) -> CapabilitySpec:
        real, tiny = self.real.dwell.get(row.name, 1), self.tiny.dwell.get(row.name, 1)
        return row.model_copy(
            update={"dwell_s": None, "dwell_ticks": self._dwell(row.dwell_s, row.dwell_ticks, real, tiny)}
        )

    def configuration(self, row: ConfigurationSpec) -> ConfigurationSpec:
        shed = frozenset(row.sheds)
        real, tiny = self.real.stay.get(shed, 1), self.tiny.stay.get(shed, 1)
        return row.model_copy(
            update={"stay_s": None, "stay_ticks": self._limit(row.stay_s, row.stay_ticks, real, tiny)}
        )

    def flapping(self, row: FlappingSpec) -> FlappingSpec:
        window = self._limit(row.window_s, row.window_ticks, self.real.window, self.tiny.window)
        recoveries = max(2, row.recoveries - self.real.recoveries + self.tiny.recoveries)
        return row.model_copy(update={"window_s": None, "window_ticks": window, "recoveries": recoveries})


def _shrink(ticks: int, real: int, tiny: int) -> int:
    """``ticks`` on the scale where ``real`` is ``tiny``; away from it on the side where ``ticks`` lies."""
    scaled = Fraction(tiny * ticks, real)
    return math.ceil(scaled) if ticks >= real else math.floor(scaled)
