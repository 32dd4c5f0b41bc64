"""Things of a run that begin and end: causes, near misses and violations of limits, fallbacks.

Each class here hears ticks in order and says which records begin and end in them (``safeguard.events``;
``safeguard.audit.records.events`` has what the bodies mean). Memory is bounded by the number of causes and limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from safeguard.audit.journal.settings import EventsConfig
from safeguard.audit.records.bodies import UNITS
from safeguard.audit.records.encode import Json, JsonObject, encode_number
from safeguard.core.enums import STATE_CAUSES, Authority, Cause, Mode, RecordKind
from safeguard.core.protocols import Platform
from safeguard.core.types import Decision, RobotState, Vector

Event: TypeAlias = tuple[RecordKind, JsonObject]

NEVER: Final = 1 << 63
"""No tick."""
STOPS: Final = ("backup", "terminal_stop")
"""Sources of a filter result that is a stop."""

_TYPES: Final = ("bridge", "hold", "brake", "terminal_stop")
_UNITS: Final = {**UNITS, "self_collision": UNITS["clearance"]}


class Tick(NamedTuple):
    """A decision with what it was made of.

    Attributes:
        decision: the decision.
        state: as measured, whether it can be trusted or not; None where it does not have the joints' shape.
        now: ns.
    """

    decision: Decision
    state: RobotState | None
    now: int

    @property
    def where(self) -> JsonObject:
        """What every body says."""
        return {"episode": self.decision.episode, "enforcement": self.decision.enforcement.value}

    @property
    def doubts(self) -> list[Json]:
        """Active causes that say that the measurement is not to be trusted."""
        return [cause.value for cause in self.decision.causes if cause in STATE_CAUSES]


@dataclass(slots=True)
class Span:
    """Something that has begun.

    Attributes:
        tick, now: of its begin.
        body: what its records have in common.
        kept: figures that its end will tell.
        gone, gone_ns: the first tick without it since it was last there; −1 while it is there.
    """

    tick: int
    now: int
    body: JsonObject
    kept: JsonObject = field(default_factory=dict[str, Json])
    gone: int = -1
    gone_ns: int = 0

    def seen(self, there: bool, tick: int, now: int) -> None:
        """It is there in this tick, or not."""
        if there:
            self.gone = -1
        elif self.gone < 0:
            self.gone, self.gone_ns = tick, now

    def over(self, tick: int, dwell: int) -> bool:
        """It has not been there for ``dwell`` ticks."""
        return self.gone >= 0 and tick - self.gone >= dwell

    def end(self, tick: int, now: int, clear: str = "clear") -> JsonObject:
        """The body of its end: ``clear`` is how it ended, unless it is still there at the end of the episode."""
        there = self.gone < 0
        over, at = (tick, now) if there else (self.gone, self.gone_ns)
        figures: JsonObject = {
            "ticks": max(0, over - self.tick),
            "duration_ns": max(0, at - self.now),
            "ended": "episode" if there else clear,
        }
        return {**self.body, **self.kept, **figures, "phase": "end"}


class Faults:
    """Causes: when they became active, and when they had been clear for ``dwell`` ticks."""

    def __init__(self, dwell: int) -> None:
        self._dwell, self._open = dwell, dict[Cause, Span]()

    @property
    def wake(self) -> int:
        """The first tick at which something ends although no cause comes or goes."""
        return min((one.gone for one in self._open.values() if one.gone >= 0), default=NEVER) + self._dwell

    def hear(self, at: Tick, changed: bool) -> Iterator[Event]:
        """What begins and ends in this tick; ``changed``: its mode or causes are not those of the tick before."""
        decision, tick = at.decision, at.decision.tick
        for cause, one in self._open.items() if changed else ():
            there = cause in decision.causes
            one.kept["times"] = cast("int", one.kept["times"]) + (there and one.gone >= 0)
            one.kept["worst_mode"] = _graver(cast("int", one.kept["worst_mode"]), decision.mode)
            one.seen(there, tick, at.now)
        for cause in [cause for cause, one in self._open.items() if one.over(tick, self._dwell)]:
            yield self._ended(cause, decision.mode, tick, at.now)
        for cause in decision.causes if changed else ():
            if cause not in self._open:
                yield self._begun(cause, at)

    def end(self, mode: Mode, tick: int, now: int) -> Iterator[Event]:
        """The ends of all, because the episode is over."""
        for cause in list(self._open):
            yield self._ended(cause, mode, tick, now)

    def _begun(self, cause: Cause, at: Tick) -> Event:
        decision = at.decision
        said = next((verdict for verdict in decision.verdicts if verdict.cause is cause), None)
        body: JsonObject = {
            **at.where,
            "component": "" if said is None else said.monitor,
            "cause": cause.value,
            "level": 0 if said is None else said.level.value,
            "detail": "" if said is None else said.detail,
            "mode": decision.mode.value,
        }
        kept: JsonObject = {"times": 1, "worst_mode": decision.mode.value}
        self._open[cause] = Span(decision.tick, at.now, body, kept)
        return RecordKind.FAULT_DETECTED, {**body, "phase": "begin"}

    def _ended(self, cause: Cause, mode: Mode, tick: int, now: int) -> Event:
        return RecordKind.FAULT_DETECTED, {**self._open.pop(cause).end(tick, now), "mode": mode.value}


class Limits:
    """Near misses by the decisions' margins, and violations by the measured state."""

    def __init__(self, platform: Platform, settings: EventsConfig, dwell: int) -> None:
        self._dwell, self._joints = dwell, platform.joints
        self.rows, self._torque = _limits(platform)
        self.least = (
            settings.near_position_rad,
            settings.near_velocity_radps,
            settings.near_torque_nm,
            settings.near_clearance_m,
        )
        self._wider = 1.0 + settings.hysteresis
        self._open: dict[tuple[RecordKind, str], Span] = {}

    @property
    def quiet(self) -> bool:
        """Nothing is open."""
        return not self._open

    def hear(self, at: Tick) -> Iterator[Event]:
        """What begins and ends in this tick."""
        margins = at.decision.filter.margins
        found = (margins.position, margins.velocity, margins.torque, margins.clearance)
        for limit, margin, least in zip(UNITS, found, self.least, strict=True):
            yield from self._near_miss(at, limit, margin, least)
        for limit in ("position", "velocity", "self_collision"):
            yield from self._violation(at, limit)

    def end(self, tick: int, now: int) -> Iterator[Event]:
        """The ends of all, because the episode is over."""
        for name in list(self._open):
            yield name[0], self._open.pop(name).end(tick, now)

    def _ended(self, name: tuple[RecordKind, str], at: Tick) -> Iterator[Event]:
        tick = at.decision.tick
        if self._open[name].over(tick, self._dwell):
            yield name[0], self._open.pop(name).end(tick, at.now)

    def _near_miss(self, at: Tick, limit: str, margin: float, least: float) -> Iterator[Event]:
        name, tick = (RecordKind.NEAR_MISS, limit), at.decision.tick
        one = self._open.get(name)
        if one is None:
            if margin < least:
                body: JsonObject = {**at.where, "limit": limit, "least": least, "unit": UNITS[limit]}
                kept: JsonObject = {"at": self._nearest(limit, at), "value": encode_number(margin)}
                self._open[name] = Span(tick, at.now, body, kept)
                yield name[0], {**body, **kept, "phase": "begin"}
            return
        one.seen(not margin >= least * self._wider or margin < least, tick, at.now)
        if margin < float(cast("float | str", one.kept["value"])):
            one.kept |= {"at": self._nearest(limit, at), "value": encode_number(margin)}
        yield from self._ended(name, at)

    def _nearest(self, limit: str, at: Tick) -> str:
        """The joint that is nearest to a limit of this kind, or the pair; "" where the measurement has no joints."""
        low, high, fast = self.rows
        if limit == "clearance":
            return at.decision.filter.margins.nearest
        if limit == "torque" and at.decision.filter.torque.shape == self._torque.shape:
            left = self._torque - np.abs(at.decision.filter.torque)
        elif at.state is None or limit == "torque":
            return ""
        else:
            q, v = at.state.q, at.state.v
            left = np.minimum(q - low, high - q) if limit == "position" else fast - np.abs(v)
        return self._joints[int(np.argmin(np.where(np.isnan(left), np.inf, left)))]

    def _violation(self, at: Tick, limit: str) -> Iterator[Event]:
        name, tick = (RecordKind.VIOLATION, limit), at.decision.tick
        one, (beyond, figures) = self._open.get(name), self._worst(at, limit)
        if one is None:
            if beyond > 0.0:
                body: JsonObject = {**at.where, "limit": limit, "unit": _UNITS[limit], "doubted": at.doubts}
                self._open[name] = Span(tick, at.now, body, figures)
                yield name[0], {**body, **figures, "phase": "begin"}
            return
        one.seen(beyond > 0.0, tick, at.now)
        if beyond > float(cast("float | str", one.kept["beyond"])):
            one.kept = figures
        yield from self._ended(name, at)

    def _worst(self, at: Tick, limit: str) -> tuple[float, JsonObject]:
        """By how much what is furthest beyond its limit of this kind is beyond it, and the figures; 0 if nothing is."""
        low, high, fast = self.rows
        if limit == "self_collision":
            margins = at.decision.filter.margins
            return max(0.0, -margins.clearance), _figures(margins.nearest, margins.clearance, 0.0, -margins.clearance)
        if at.state is None:
            return 0.0, {}
        value = at.state.q if limit == "position" else at.state.v
        beyond = np.maximum(low - value, value - high) if limit == "position" else np.abs(value) - fast
        j = int(np.where(np.isnan(beyond), -np.inf, beyond).argmax())
        ends = (low[j], high[j]) if limit == "position" else (-fast[j], fast[j])
        bound = ends[0] if value[j] < ends[0] else ends[1]
        return float(beyond[j]), _figures(self._joints[j], float(value[j]), float(bound), float(beyond[j]))


class Fallbacks:
    """The stop that has the body after something has moved it; ``known`` is what every body says of the stop."""

    def __init__(self, platform: Platform, known: JsonObject, dwell: int) -> None:
        self._standstill, self._known, self._dwell = platform.standstill, known, dwell
        self._moved = False
        self._open: Span | None = None

    @property
    def wake(self) -> int:
        """The first tick at which something can happen although nothing changes."""
        one = self._open
        if one is None:
            return NEVER
        if one.gone >= 0:
            return one.gone + self._dwell
        return NEVER if "standstill_ns" in one.kept else 0

    def hear(self, at: Tick) -> Iterator[Event]:
        """What begins, stands still and ends in this tick."""
        decision, one = at.decision, self._open
        stopped = decision.filter.source in STOPS
        if not stopped:
            self._moved = True
            if one is not None:
                yield from self._moves(one, at)
            return
        if one is None:
            if not self._moved:
                return
            one = self._open = Span(decision.tick, at.now, self._body(at), {"ended": "policy", "type": "bridge"})
            yield RecordKind.FALLBACK, {**one.body, "phase": "begin"}
        one.seen(True, decision.tick, at.now)
        one.kept["type"] = max(_type(decision), str(one.kept["type"]), key=_TYPES.index)
        if "standstill_ns" not in one.kept and at.state is not None and not at.doubts and self._standstill(at.state):
            stood: JsonObject = {
                "standstill_ticks": decision.tick - one.tick,
                "standstill_ns": max(0, at.now - one.now),
            }
            one.kept |= stood
            yield RecordKind.FALLBACK, {**self._body(at), **stood, "phase": "standstill"}

    def end(self, tick: int, now: int) -> Iterator[Event]:
        """The end, because the episode is over."""
        one, self._open = self._open, None
        if one is not None:
            yield RecordKind.FALLBACK, one.end(tick, now, str(one.kept["ended"]))

    def _moves(self, one: Span, at: Tick) -> Iterator[Event]:
        """A tick in which no stop has the body."""
        tick = at.decision.tick
        if one.gone < 0:
            operator = at.decision.authority is Authority.OPERATOR
            one.kept["ended"] = (Authority.OPERATOR if operator else Authority.POLICY).value
        one.seen(False, tick, at.now)
        if one.over(tick, self._dwell):
            yield from self.end(tick, at.now)

    def _body(self, at: Tick) -> JsonObject:
        decision = at.decision
        return {
            **at.where,
            **self._known,
            "type": _type(decision),
            "mode": decision.mode.value,
            "causes": [cause.value for cause in decision.causes],
            "reasons": list(decision.reasons),
            "refusal": decision.filter.refusal,
            "sent": decision.source in STOPS,
        }


def _limits(platform: Platform) -> tuple[NDArray[np.float64], Vector]:
    """Rows of lower, upper and speed limits, shape (3, n), and torque limits; infinite where the body states none."""
    found, n = platform.identity().limits, len(platform.joints)
    if len(found) != n:
        nothing = np.full(n, np.inf)
        return np.array([-nothing, nothing, nothing]), nothing
    rows = [[limit.lower, limit.upper, limit.velocity] for limit in found]
    return np.array(rows, dtype=np.float64).reshape(n, 3).T.copy(), np.array([limit.torque for limit in found])


def _figures(at: str, value: float, bound: float, beyond: float) -> JsonObject:
    return {
        "at": at,
        "value": encode_number(value),
        "bound": encode_number(bound),
        "beyond": encode_number(beyond),
    }


def _graver(worst: int, mode: Mode) -> int:
    """The graver one of two modes; BOOT, in which nothing was decided yet, is none of them."""
    return mode.value if worst == Mode.BOOT or (mode is not Mode.BOOT and mode > worst) else worst


def _type(decision: Decision) -> str:
    """What kind of stop has the body: the result's source says whether it is the last one, the mode which other."""
    if decision.filter.source == "terminal_stop":
        return "terminal_stop"
    return "bridge" if decision.mode < Mode.HOLD else "hold" if decision.mode is Mode.HOLD else "brake"
