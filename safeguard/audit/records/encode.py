"""Loop types to JSON-able bodies, built without validation because the control thread pays for it.

Numbers survive exactly: finite float64 values are written in their shortest form that reads back to the
same bits, non-finite ones as the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"`` (JSON has no numbers
for them, and null would say that nothing was measured). The payload bits of a NaN are not kept. Enums are
written by value, times as integer nanoseconds. ``safeguard.audit.records.decode`` is the way back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from math import isfinite
from pathlib import PurePath
from typing import TypeAlias, cast

import numpy as np

from safeguard.core.enums import Level
from safeguard.core.types import (
    ActionSpec,
    Command,
    Decision,
    FilterResult,
    Margins,
    Observation,
    Parts,
    PDCommand,
    PositionCommand,
    Proposal,
    TerminalStop,
    Timings,
    TorqueCommand,
    Vector,
    VelocityCommand,
    Verdict,
)

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]

NESTED_DIMENSIONS = 3
"""Arrays of up to this many dimensions are written as nested lists, larger ones with their shape."""


def encode_number(value: float) -> float | str:
    """``value`` itself, or its name where it is not finite."""
    if isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def encode_array(array: Vector) -> Json:
    """Nested lists of numbers; ``{"shape", "data"}`` where nesting is too deep or cannot tell the shape."""
    values = cast("list[float]", array.tolist())
    if array.ndim == 1:
        # A sum is finite only if all its terms are; an overflowing one merely takes the slow path.
        return values if isfinite(sum(values)) else [encode_number(value) for value in values]
    if array.ndim == 0:
        return encode_number(float(array))
    if array.size == 0 or array.ndim > NESTED_DIMENSIONS:
        return {"shape": list(array.shape), "data": encode_array(array.ravel())}
    return values if np.isfinite(array).all() else [encode_array(row) for row in array]


def _after(t: int, now: int) -> int:
    """``t`` − ``now`` in 64 bits; a stamp so far off that this wraps comes back as it was."""
    difference = t - now
    return difference if -_HALF <= difference < _HALF else (difference + _HALF) % (2 * _HALF) - _HALF


_HALF = 1 << 63


def _optional(array: Vector | None) -> Json:
    return None if array is None else encode_array(array)


def encode_observation(observation: Observation, now: int = 0) -> JsonObject:
    """Everything that the sensors said, each part with its own time stamp, ns after ``now``."""
    state = observation.state
    return {
        "state": {"q": encode_array(state.q), "v": encode_array(state.v), "t": _after(state.t, now)},
        "sensors": {
            name: {"value": encode_array(part.value), "t": _after(part.t, now)}
            for name, part in observation.sensors.items()
        },
        "instruction": observation.instruction,
        "external_wrench": _optional(observation.external_wrench),
        "estop": observation.estop,
        "drive_status": observation.drive_status,
    }


def encode_proposal(proposal: Proposal, now: int = 0) -> JsonObject:
    """A chunk as it arrived, bad numbers included; times in ns after ``now``."""
    return {
        "actions": encode_array(proposal.actions),
        "t_obs": _after(proposal.t_obs, now),
        "t_inferred": _after(proposal.t_inferred, now),
        "source": proposal.source,
        "seq": proposal.seq,
        "features": _optional(proposal.features),
        "samples": _optional(proposal.samples),
        "parts": None if proposal.parts is None else encode_parts(proposal.parts),
    }


def encode_parts(parts: Parts) -> JsonObject:
    """What a strategy said of its parts."""
    return {
        "failed": [cause.value for cause in parts.failed],
        "agreeing": list(parts.agreeing),
        "substitutes": list(parts.substitutes),
    }


def encode_spec(spec: ActionSpec) -> JsonObject:
    """What the policy's numbers mean; replay needs it to stand in for the policy."""
    return {
        "joints": list(spec.joints),
        "unit": spec.unit,
        "reference": spec.reference.value,
        "rate_hz": spec.rate_hz,
        "chunk": spec.chunk,
        "frame": spec.frame,
    }


def encode_command(command: Command, now: int = 0) -> JsonObject:
    """A command, tagged with its type; times in ns after ``now``."""
    match command:
        case TorqueCommand():
            body: JsonObject = {"type": "torque", "tau": encode_array(command.tau)}
        case PositionCommand():
            body = {"type": "position", "q": encode_array(command.q)}
        case VelocityCommand():
            body = {"type": "velocity", "v": encode_array(command.v)}
        case PDCommand():
            body = {
                "type": "pd",
                "q": encode_array(command.q),
                "v": encode_array(command.v),
                "kp": encode_array(command.kp),
                "kd": encode_array(command.kd),
                "tau_ff": encode_array(command.tau_ff),
            }
        case TerminalStop():
            return {
                "type": "terminal_stop",
                "reason": command.reason,
                "t": command.t - now,
                "seq": command.seq,
            }
    body["t"], body["expires"], body["seq"] = command.t - now, command.expires - now, command.seq
    return body


def _encode_verdict(verdict: Verdict) -> Json:
    """A verdict; only the monitor's name where a yes-or-no check found nothing, which is most of them."""
    said = verdict.detail or verdict.cause is not None or verdict.p_value is not None
    if (
        verdict.level is Level.OK
        and verdict.score != verdict.score
        and verdict.threshold != verdict.threshold
        and not said
    ):
        return verdict.monitor
    return {
        "monitor": verdict.monitor,
        "level": verdict.level.value,
        "score": encode_number(verdict.score),
        "threshold": encode_number(verdict.threshold),
        "p_value": None if verdict.p_value is None else encode_number(verdict.p_value),
        "cause": None if verdict.cause is None else verdict.cause.value,
        "detail": verdict.detail,
    }


def _encode_margins(margins: Margins) -> JsonObject:
    return {
        "position": encode_number(margins.position),
        "velocity": encode_number(margins.velocity),
        "torque": encode_number(margins.torque),
        "clearance": encode_number(margins.clearance),
        "nearest": margins.nearest,
    }


def _encode_filter(result: FilterResult) -> JsonObject:
    return {
        "status": result.status.value,
        "solver": result.solver.value,
        "source": result.source,
        "torque": encode_array(result.torque),
        "acceleration": encode_array(result.acceleration),
        "slack": [[name, encode_number(amount)] for name, amount in result.slack],
        "active": result.active,
        "margins": _encode_margins(result.margins),
        "effort": encode_number(result.effort),
        "iterations": result.iterations,
        "stuck": result.stuck,
        "provisional": result.provisional,
        "refusal": result.refusal,
        "position": _optional(result.position),
        "velocity": _optional(result.velocity),
    }


def encode_decision(decision: Decision, now: int = 0) -> JsonObject:
    """The outcome of a tick in the order in which it came about, so that a first difference names a stage.

    Timings, tick and episode stand beside it in the record, see :func:`decision_body`. Times are in ns after ``now``.
    """
    result, command = decision.filter, encode_command(decision.command, now)
    if isinstance(decision.command, TorqueCommand) and decision.command.tau.tobytes() == result.torque.tobytes():
        command["tau"] = None
    return {
        "verdicts": [_encode_verdict(verdict) for verdict in decision.verdicts],
        "causes": [cause.value for cause in decision.causes],
        "reasons": decision.reasons,
        "mode": decision.mode.value,
        "configuration": decision.configuration,
        "authority": decision.authority.value,
        "filter": _encode_filter(result),
        "source": decision.source,
        "command": command,
        "enforcement": decision.enforcement.value,
    }


def encode_timings(timings: Timings) -> JsonObject:
    """Measured durations, ns; without ``total`` where it is their sum."""
    stages: JsonObject = {
        "intake": timings.intake,
        "policy": timings.policy,
        "controller": timings.controller,
        "monitors": timings.monitors,
        "modes": timings.modes,
        "filter": timings.filter,
        "record": timings.record,
    }
    if timings.total != sum(cast("Mapping[str, int]", stages).values()):
        stages["total"] = timings.total
    return stages


def expanded(body: Mapping[str, Json], tick: int | None, t: int | None) -> JsonObject:
    """The body of a decision record with what is left out of it, because it stands elsewhere.

    ``tick`` and ``now`` are in the head, and times count from ``now``; a command without ``tau`` has the filter's; the
    total duration is the sum where none is given.
    """
    if body.keys() ^ _BODY:
        raise ValueError(f"a decision has {sorted(_BODY)}, not {sorted(body)}")
    now = 0 if t is None else t
    observation = dict(cast("Mapping[str, Json]", body["observation"]))
    sensors = cast("Mapping[str, Mapping[str, Json]]", observation["sensors"])
    observation["state"] = _moved(cast("Mapping[str, Json]", observation["state"]), now)
    observation["sensors"] = {name: _moved(part, now) for name, part in sensors.items()}
    proposal, decision = body["proposal"], dict(cast("Mapping[str, Json]", body["decision"]))
    command = _moved(cast("Mapping[str, Json]", decision["command"]), now)
    if "tau" in command and command["tau"] is None:
        command["tau"] = cast("Mapping[str, Json]", decision["filter"])["torque"]
    decision["command"] = command
    timings = cast("Mapping[str, int]", body["timings"])
    return {
        "episode": body["episode"],
        "tick": tick,
        "now": now,
        "observation": observation,
        "proposal": _moved(proposal, now) if isinstance(proposal, Mapping) else None,
        "decision": decision,
        "timings": {"total": sum(timings.values()), **timings},
    }


_BODY: frozenset[str] = frozenset(("episode", "observation", "proposal", "decision", "timings"))
_TIMES = ("t", "expires", "t_obs", "t_inferred")


def _moved(body: Mapping[str, Json], now: int) -> JsonObject:
    return {
        key: _after(value, -now) if key in _TIMES and isinstance(value, int) else value for key, value in body.items()
    }


def decision_body(now: int, observation: Observation, proposal: Proposal | None, decision: Decision) -> JsonObject:
    """The body of one decision record: inputs of the tick at ``now`` ns, then its outcome, then its timings.

    ``proposal`` is the one that arrived in this tick, or None. Tick and ``now`` stand in the head of the record, and
    times count from ``now``: so they hardly cost anything. :func:`expanded` is the way back.
    """
    return {
        "episode": decision.episode,
        "observation": encode_observation(observation, now),
        "proposal": None if proposal is None else encode_proposal(proposal, now),
        "decision": encode_decision(decision, now),
        "timings": encode_timings(decision.timings),
    }


def jsonable(value: object) -> Json:
    """A configuration, outcome or description as JSON, by the rules of this module.

    Takes what configuration is made of: mappings, sequences, sets, dataclasses, enums, arrays, numpy scalars,
    paths, and pydantic models by their ``model_dump``. Raises TypeError for anything else.
    """
    match value:
        case Enum():
            return jsonable(cast("object", value.value))
        case None | bool() | str() | int():
            return value
        case float():
            return encode_number(float(value))
        case PurePath():
            return str(value)
        case np.generic():
            return jsonable(cast("object", value.item()))
        case Mapping():
            items = cast("Mapping[object, object]", value).items()
            return {str(jsonable(key)): jsonable(item) for key, item in items}
        case set() | frozenset():
            return sorted(str(jsonable(item)) for item in cast("frozenset[object]", value))
        case list() | tuple():
            return [jsonable(item) for item in cast("Sequence[object]", value)]
        case _:
            return _object_to_json(value)


def _object_to_json(value: object) -> Json:
    if isinstance(value, np.ndarray):
        return jsonable(cast("Vector", value).tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: jsonable(getattr(value, item.name)) for item in fields(value)}
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return jsonable(dump())
    raise TypeError(f"a journal cannot hold a {type(value).__name__}: {value!r}")
