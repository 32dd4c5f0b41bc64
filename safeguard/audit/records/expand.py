"""What the record of a decision says, as JSON with names: the form of its schema, of exports and of replay.

``safeguard.audit.records.encode`` writes version 4; version 3 had names, and left out as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Final, cast

import numpy as np

from safeguard.audit.records.encode import FLOAT, Json, JsonObject, after, encode_decision, encode_number
from safeguard.core.types import Decision, Vector

NESTED_DIMENSIONS: Final = 3
"""Arrays of up to this many dimensions are nested lists, larger ones have their shape beside them."""

_BODY: Final = frozenset(("episode", "observation", "proposal", "decision", "timings"))
_PROPOSAL: Final = ("actions", "t_obs", "t_inferred", "source", "seq", "features", "samples", "parts")
_PARTS: Final = ("failed", "agreeing", "substitutes")
_DECISION: Final = (
    *("verdicts", "causes", "reasons", "mode", "configuration", "authority", "filter"),
    *("source", "command", "enforcement"),
)
_VERDICT: Final = ("monitor", "level", "score", "threshold", "p_value", "cause", "detail")
_FILTER: Final = (
    *("status", "solver", "source", "torque", "acceleration", "slack", "active", "margins", "effort", "iterations"),
    *("stuck", "provisional", "refusal", "position", "velocity"),
)
_MARGINS: Final = ("position", "velocity", "torque", "clearance", "nearest")
_COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "torque": ("tau", "t", "expires", "seq"),
    "position": ("q", "t", "expires", "seq"),
    "velocity": ("v", "t", "expires", "seq"),
    "pd": ("q", "v", "kp", "kd", "tau_ff", "t", "expires", "seq"),
    "terminal_stop": ("reason", "t", "seq"),
}
_TIMINGS: Final = ("intake", "policy", "controller", "monitors", "modes", "filter", "record", "total")
_TIMES: Final = ("t", "expires", "t_obs", "t_inferred")
_ARRAYS: Final = ("tau", "q", "v", "kp", "kd", "tau_ff")


def named_array(array: Vector) -> Json:
    """Nested lists of numbers; ``{"shape", "data"}`` where nesting is too deep or cannot tell the shape."""
    values = cast("list[float]", array.tolist())
    if array.ndim == 1 and values:
        # A sum is finite only if all its terms are; an overflowing one merely takes the slow path.
        return values if isfinite(sum(values)) else [encode_number(value) for value in values]
    if array.ndim == 0:
        return encode_number(float(array))
    if array.size == 0 or array.ndim > NESTED_DIMENSIONS:
        return {"shape": list(array.shape), "data": named_array(array.ravel()) if array.size else []}
    return values if np.isfinite(array).all() else [named_array(row) for row in array]


def expanded(body: Mapping[str, Any], tick: int | None, t: int | None) -> JsonObject:
    """The body of a decision record of version 4 with its names, and what the head of the record says.

    Raises ValueError, KeyError, TypeError or AttributeError where it is none.
    """
    _check_names(body)
    now = 0 if t is None else t
    proposal = body["proposal"]
    return {
        "episode": body["episode"],
        "tick": tick,
        "now": now,
        "observation": _observation(body["observation"], now),
        "proposal": None if proposal is None else _proposal(proposal, now),
        "decision": _decision(body["decision"], now),
        "timings": _timings(body["timings"]),
    }


def named_decision(decision: Decision) -> JsonObject:
    """The outcome of a tick as its record will say it; timings, tick and episode stand beside it."""
    return _decision(encode_decision(decision, 0), 0)


def _observation(values: Any, now: int) -> JsonObject:
    q, v, t, sensors, instruction, wrench, estop, drive_status = values
    return {
        "state": {"q": _array(q), "v": _array(v), "t": _at(t, now)},
        "sensors": {name: {"value": _array(value), "t": _at(stamp, now)} for name, (value, stamp) in sensors.items()},
        "instruction": instruction,
        "external_wrench": _array(wrench),
        "estop": estop,
        "drive_status": drive_status,
    }


def _proposal(values: Any, now: int) -> JsonObject:
    body = _moved(_named(_PROPOSAL, values), now)
    body |= {name: _array(body[name]) for name in ("actions", "features", "samples")}
    body["parts"] = None if body["parts"] is None else _named(_PARTS, body["parts"])
    return body


def _decision(values: Any, now: int) -> JsonObject:
    body = _named(_DECISION, values)
    kind, *rest = cast("list[Any]", body["command"])
    command = _moved(_named(_COMMANDS[kind], rest), now)
    result = _named(_FILTER, body["filter"])
    if kind == "torque" and command["tau"] is None:
        command["tau"] = result["torque"]
    command |= {name: _array(command[name]) for name in _ARRAYS if name in command}
    result |= {name: _array(result[name]) for name in ("torque", "acceleration", "position", "velocity")}
    result["slack"] = [[name, encode_number(amount)] for name, amount in cast("list[Any]", result["slack"])]
    result["margins"] = _numbers(_named(_MARGINS, result["margins"]), _MARGINS[:4])
    return body | {
        "verdicts": [_verdict(verdict) for verdict in cast("list[Any]", body["verdicts"])],
        "filter": _numbers(result, ("effort",)),
        "command": {"type": kind, **command},
    }


def _verdict(value: Any) -> Json:
    """A verdict; a name alone stays one, see ``bodies.full_verdict``."""
    if isinstance(value, str):
        return value
    body = _named(_VERDICT, value)
    return _numbers(body, ("score", "threshold") if body["p_value"] is None else ("score", "threshold", "p_value"))


def _timings(data: bytes) -> JsonObject:
    stages: list[int] = np.frombuffer(data, "<i8").tolist()
    names = _TIMINGS if len(stages) == len(_TIMINGS) else _TIMINGS[:-1]
    return {"total": sum(stages), **_named(names, stages)}


def _named(names: tuple[str, ...], values: Any) -> JsonObject:
    return dict(zip(names, values, strict=True))


def _numbers(body: JsonObject, names: tuple[str, ...]) -> JsonObject:
    return body | {name: encode_number(cast("float", body[name])) for name in names}


def _array(value: Any) -> Json:
    """Of ``encode.encode_array``, or None."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return named_array(np.frombuffer(value, FLOAT))
    shape, data = value
    if min(shape, default=0) < 0:
        raise ValueError(f"no array has the shape {shape}")
    return named_array(np.frombuffer(data, FLOAT).reshape(shape))


def _at(t: Any, now: int) -> Json:
    return after(t, -now) if isinstance(t, int) else t


def _moved(body: Mapping[str, Json], now: int) -> JsonObject:
    return {key: _at(value, now) if key in _TIMES else value for key, value in body.items()}


def _check_names(body: Mapping[str, object]) -> None:
    if body.keys() ^ _BODY:
        raise ValueError(f"a decision has {sorted(_BODY)}, not {sorted(body)}")


def expanded_3(body: Mapping[str, Json], tick: int | None, t: int | None) -> JsonObject:
    """The body of a decision record of version 3 with what is left out of it, because it stands elsewhere.

    Tick and time are in the head, and times count from there; a command without ``tau`` has the filter's; the total
    duration is the sum where none is given. Raises as :func:`expanded`.
    """
    _check_names(body)
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
