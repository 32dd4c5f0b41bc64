"""Loop types to bodies of records, built without validation because the control thread pays for it.

What comes once in a while is JSON-able. A decision is written in every tick, with as few objects and bytes as can be:
a list of values in a fixed order for every type, an array as its bytes, times after the time in the head of the record
(docs/reference/journal-format.md). ``safeguard.audit.records.expand`` makes JSON with names of that, and
``safeguard.audit.records.decode`` loop types again.

Numbers survive exactly. JSON has finite float64 values in their shortest form that reads back to the same bits, and
non-finite ones as the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"`` (it has no numbers for them, and null
would say that nothing was measured). Enums are written by value, times as integer nanoseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from math import isfinite
from pathlib import PurePath
from typing import Final, TypeAlias, cast

import numpy as np

from safeguard.core.enums import Level
from safeguard.core.types import (
    ActionSpec,
    Command,
    Decision,
    Observation,
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

Written: TypeAlias = "bool | int | float | str | bytes | Sequence[Written] | Mapping[str, Written] | None"
"""What a decision is written as: MessagePack's values."""

CAUSES: Final = 1
MODE: Final = 3
"""Where :func:`encode_decision` has them."""

FLOAT: Final = np.dtype("<f8")
DURATIONS: Final = struct.Struct("<7q")
DURATIONS_AND_TOTAL: Final = struct.Struct("<8q")

_OK: Final = Level.OK  # looking up a member of an enum takes longer than to compare with it
_HALF: Final = 1 << 63


def encode_number(value: float) -> float | str:
    """``value`` itself, or its name where it is not finite."""
    if isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def encode_array(array: Vector) -> Written:
    """The float64 values, little-endian, as bytes; ``[shape, bytes]`` unless there is one dimension."""
    if array.ndim == 1 and array.dtype == FLOAT:
        return array.tobytes()
    return [list(array.shape), np.asarray(array, FLOAT).tobytes()]


def after(t: int, now: int) -> int:
    """``t`` − ``now`` in 64 bits; a stamp so far off that this wraps comes back as it was."""
    difference = t - now
    return difference if -_HALF <= difference < _HALF else (difference + _HALF) % (2 * _HALF) - _HALF


def encode_proposal(proposal: Proposal, now: int) -> Written:
    """A chunk as it arrived, bad numbers included; times in ns after ``now``."""
    parts = proposal.parts
    return [
        encode_array(proposal.actions),
        after(proposal.t_obs, now),
        after(proposal.t_inferred, now),
        proposal.source,
        proposal.seq,
        None if proposal.features is None else encode_array(proposal.features),
        None if proposal.samples is None else encode_array(proposal.samples),
        None if parts is None else [[cause._value_ for cause in parts.failed], parts.agreeing, parts.substitutes],
    ]


def encode_spec(spec: ActionSpec) -> JsonObject:
    """What a source's numbers mean; replay needs it to stand in for the source. Without what is at its default."""
    known = ("joints", "unit", "reference", "rate_hz", "chunk", "frame")
    return {
        item.name: jsonable(getattr(spec, item.name))
        for item in fields(spec)
        if item.name in known or getattr(spec, item.name) != item.default
    }


def encode_command(command: Command, now: int, torque: Written) -> Written:
    """A command, its type first; nil for a torque that is ``torque``; times in ns after ``now``."""
    match command:
        case TorqueCommand():
            tau = encode_array(command.tau)
            return ["torque", None if tau == torque else tau, command.t - now, command.expires - now, command.seq]
        case PositionCommand():
            values = ["position", encode_array(command.q)]
        case VelocityCommand():
            values = ["velocity", encode_array(command.v)]
        case PDCommand():
            arrays = command.q, command.v, command.kp, command.kd, command.tau_ff
            values = ["pd", *map(encode_array, arrays)]
        case TerminalStop():
            return ["terminal_stop", command.reason, command.t - now, command.seq]
    return [*values, command.t - now, command.expires - now, command.seq]


def _encode_verdict(verdict: Verdict) -> Written:
    cause = verdict.cause
    return [
        verdict.monitor,
        verdict.level._value_,
        verdict.score,
        verdict.threshold,
        verdict.p_value,
        None if cause is None else cause._value_,
        verdict.detail,
    ]


def encode_decision(decision: Decision, now: int) -> Written:
    """The outcome of a tick in the order in which it came about, so that a first difference names a stage.

    A verdict is its monitor's name alone where a yes-or-no check found nothing, which is most of them. Timings, tick
    and episode stand beside it in the record, see :func:`decision_body`. Times are in ns after ``now``.
    """
    result = decision.filter
    margins, torque = result.margins, encode_array(result.torque)
    return [
        [
            verdict.monitor
            if verdict.level is _OK
            and verdict.score != verdict.score
            and verdict.threshold != verdict.threshold
            and verdict.cause is None
            and verdict.p_value is None
            and not verdict.detail
            else _encode_verdict(verdict)
            for verdict in decision.verdicts
        ],
        [cause._value_ for cause in decision.causes],
        decision.reasons,
        decision.mode._value_,
        decision.configuration,
        decision.authority._value_,
        [
            result.status._value_,
            result.solver._value_,
            result.source,
            torque,
            encode_array(result.acceleration),
            result.slack,
            result.active,
            [margins.position, margins.velocity, margins.torque, margins.clearance, margins.nearest],
            result.effort,
            result.iterations,
            result.stuck,
            result.provisional,
            result.refusal,
            None if result.position is None else encode_array(result.position),
            None if result.velocity is None else encode_array(result.velocity),
        ],
        decision.source,
        encode_command(decision.command, now, torque),
        decision.enforcement._value_,
    ]


def encode_timings(timings: Timings) -> bytes:
    """Measured durations, ns; without the total where it is their sum."""
    stages = (
        timings.intake,
        timings.policy,
        timings.controller,
        timings.monitors,
        timings.modes,
        timings.filter,
        timings.record,
    )
    total = timings.total
    return DURATIONS.pack(*stages) if total == sum(stages) else DURATIONS_AND_TOTAL.pack(*stages, total)


def decision_body(
    now: int, observation: Observation, proposal: Proposal | None, decision: Decision
) -> dict[str, Written]:
    """The body of one decision record: inputs of the tick at ``now`` ns, then its outcome, then its timings.

    ``proposal`` is the one that arrived in this tick, or None. Tick and ``now`` stand in the head of the record, and
    times count from ``now``: so they hardly cost anything.
    """
    state, wrench = observation.state, observation.external_wrench
    return {
        "episode": decision.episode,
        "observation": [
            encode_array(state.q),
            encode_array(state.v),
            after(state.t, now),
            {name: [encode_array(part.value), after(part.t, now)] for name, part in observation.sensors.items()},
            observation.instruction,
            None if wrench is None else encode_array(wrench),
            observation.estop,
            observation.drive_status,
        ],
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
