"""Records of events in words, for timelines and exports."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from safeguard.audit.records.bodies import UNITS, Body, Number
from safeguard.audit.records.decode import decode_number
from safeguard.audit.records.events import (
    Changed,
    ConfigIntervention,
    Effect,
    Fallback,
    FaultDetected,
    Health,
    ModeChange,
    NearMiss,
    SoftwareChange,
    SpanBody,
    Violation,
)
from safeguard.core.enums import Enforcement, Mode, RecordKind
from safeguard.core.types import NS_PER_S

ECHOES: Final = (RecordKind.MODE_CHANGE, RecordKind.FAULT_DETECTED, RecordKind.HEALTH, RecordKind.EFFECT)
"""Kinds that repeat what rows of decisions say, or mostly say that all is well: shown where they are asked for."""

EVENTS: Final = (*ECHOES, RecordKind.FALLBACK, RecordKind.NEAR_MISS, RecordKind.VIOLATION)
"""Kinds that stand between decisions and interrupt nothing."""

SHOWN_CHANGES: Final = 4

Grade: TypeAlias = Literal["info", "warn", "error"]


def told_event(body: Body) -> tuple[str, str, Grade] | None:
    """(about what, words, how bad it is) of the body of an event; None for any other."""
    match body:
        case ModeChange():
            asked = f" ({', '.join(cause.value for cause in body.trigger)})" if body.trigger else ""
            by = f" by {', '.join(body.reasons)}{asked}" if body.reasons else ""
            before, after = _mode(body.before, body.configuration_before), _mode(body.after, body.configuration_after)
            return "mode", f"{before} → {after}{by}", "warn"
        case Fallback():
            return "fallback", _fallback(body), "info" if body.phase == "end" else "warn"
        case NearMiss():
            what = f"{body.limit} margin {_figure(body.value)} of {_figure(body.least)} {body.unit}"
            return "limit", f"{_phase(body, 'near miss ')}{what}{_at(body.at)}{_lasted(body)}", "warn"
        case Violation():
            what = (
                f"{body.limit} {_figure(body.value)} {body.unit}, {_figure(body.beyond)} beyond {_figure(body.bound)}"
            )
            doubted = f"; in doubt: {', '.join(cause.value for cause in body.doubted)}" if body.doubted else ""
            return "limit", f"{_phase(body, 'violation ')}{what}{_at(body.at)}{_lasted(body)}{doubted}", "error"
        case FaultDetected():
            said = f" by {body.component}: {body.detail}" if body.phase == "begin" and body.component else ""
            worst = "" if body.worst_mode is None else f", at worst {body.worst_mode.name}"
            return "cause", f"{_phase(body)}{body.cause.value}{said}{_lasted(body)}{worst}", "warn"
        case Health():
            safe = "safe" if body.safe else f"{body.waiting_bytes:,} bytes wait"
            figures = (
                f"{body.placed:,} placed, {body.lost:,} lost, {safe}, longest {body.longest_record_ns / 1e3:.0f} µs"
            )
            problem = f"; {body.problem}" if body.problem else ""
            grade: Grade = "error" if problem else "info"
            return "health", f"{figures}, {body.overruns:,} of {body.ticks:,} ticks late{problem}", grade
        case Effect():
            return "effect", _effect(body), "warn" if body.agreement == "differs" else "info"
        case SoftwareChange():
            told = "; ".join(map(_change, body.changes[:SHOWN_CHANGES]))
            more = f"; and {len(body.changes) - SHOWN_CHANGES} more" if len(body.changes) > SHOWN_CHANGES else ""
            name = "configuration" if isinstance(body, ConfigIntervention) else "software"
            return "change", f"{name} since run {body.previous}: {told}{more}", "warn"
        case _:
            return None


def _fallback(body: Fallback) -> str:
    name = body.type.replace("_", " ")
    sent = "" if body.sent else ", not sent"
    if body.phase == "begin":
        causes = ", ".join(cause.value for cause in body.causes)
        return f"begin: {name}{sent} in {body.mode.name}{f' with {causes}' if causes else ''}"
    stood = "no standstill" if body.standstill_ns is None else f"standstill after {_seconds(body.standstill_ns)}"
    if body.phase == "standstill":
        return f"{name}{sent}: {stood}"
    by = "cut off by the end of the episode" if body.ended == "episode" else f"the {body.ended} moves"
    return f"end: {name}{sent} for {_seconds(body.duration_ns)}, {stood}, {by}"


def _effect(body: Effect) -> str:
    counts = {"judged": body.judged, "without a command": body.no_command, "without a state": body.no_state}
    told = ", ".join(f"{count:,} {name}" for name, count in {**counts, "in a gap": body.gap}.items() if count)
    said = [f"{body.agreement.replace('_', ' ')}: ticks {body.first} to {body.last}, {told}"]
    if body.worst is not None:
        most = _figure(max(body.largest, key=decode_number))
        said.append(f"up to {most} {UNITS['velocity']} off, worst{_at(body.worst_joint)} in tick {body.worst}")
    if body.residual is not None:
        least = "" if body.threshold is None else f", {_figure(body.threshold)} would be too much"
        said.append(f"residual up to {_figure(body.residual)}{least}")
    return "; ".join(said)


def _phase(body: SpanBody, name: str = "") -> str:
    unlike = "" if body.enforcement is Enforcement.FULL else f" ({body.enforcement.value})"
    return f"{name}{body.phase}{unlike}: "


def _lasted(body: SpanBody) -> str:
    if body.duration_ns is None:
        return ""
    return f", for {_seconds(body.duration_ns)}{', to the end of the episode' if body.ended == 'episode' else ''}"


def _mode(mode: Mode, configuration: str) -> str:
    return f"{mode.name}[{configuration}]" if configuration else mode.name


def _at(place: str) -> str:
    return f" at {place}" if place else ""


def _seconds(ns: int | None) -> str:
    return f"{(ns or 0) / NS_PER_S:.3f} s"


def _figure(value: Number) -> str:
    return f"{decode_number(value):.4g}"


def _change(change: Changed) -> str:
    return f"{change.name} {_short(change.old)} → {_short(change.new)}"


def _short(value: str | None) -> str:
    if value is None:
        return "none"
    return f"{value[:16]}…" if len(value) > 24 else value
