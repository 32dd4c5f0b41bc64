"""Whatever comes in, as something that can be checked, recorded and replayed.

Guests and sensor drivers hand over anything, whatever the annotations say. What is not of the declared types
becomes an empty observation or proposal of those types: intake refuses it by its shape, the record holds it, and a
replay meets the same. Values, however odd, are left alone; judging them is intake's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from safeguard.core.enums import Cause
from safeguard.core.types import Observation, Parts, Proposal, RobotState, Sensor, frozen_array, sealed

_WORD = 1 << 63
_LONGEST = 200  # characters of a text that is kept
_MOST_PARTS = 32
_MOST_NUMBERS = 100_000  # in one observation or proposal; what is larger does not fit into a record
_EMPTY = frozen_array(np.zeros(0))


def as_observation(value: object) -> Observation:
    """``value`` itself if every part has its type, else one without a state; a pressed e-stop stays pressed."""
    if isinstance(value, Observation):
        if _is_whole(value):
            return value
        plain = _with_plain_numbers(value)
        if _is_whole(plain):
            return plain
    return Observation(RobotState(_EMPTY, _EMPTY, 0), estop=_is_pressed(getattr(value, "estop", False)))


def as_proposal(value: object, now: int) -> Proposal | None:
    """A copy of ``value`` if every part has its type, else an empty proposal that says what came; None for None."""
    if value is None:
        return None
    if isinstance(value, Proposal):
        stamps = _is_time(value.t_obs) and _is_time(value.t_inferred) and _is_time(value.seq)
        parts = (value.actions, value.features, value.samples)
        arrays = all(part is None or _is_array(part) for part in parts) and _is_array(value.actions)
        named = _is_a(str, value.source) and _is_text(value.source)
        sane = stamps and arrays and named and _are_parts(value.parts)
        if sane and sum(part.size for part in parts if part is not None) <= _MOST_NUMBERS:
            # The guest may hold views of its arrays: what was checked must not change.
            features, samples = (None if part is None else sealed(part.copy()) for part in parts[1:])
            return replace(value, actions=sealed(value.actions.copy()), features=features, samples=samples)
    return Proposal(_EMPTY, now, now, _what_came(value), -1)


def _what_came(value: object) -> str:
    """The type of what a guest handed over; of an error also its words."""
    name = f"unusable {type(value).__name__}"
    if isinstance(value, BaseException):
        try:
            name = f"{name}: {value}"
        except Exception:  # noqa: BLE001  a guest's error may fail to say what it is
            name = f"{name}: without words"
    return name[:_LONGEST].encode("utf-8", "replace").decode()


def _is_whole(value: Observation) -> bool:
    return (
        _is_a(RobotState, value.state)
        and _is_time(value.state.t)
        and _is_text(value.instruction)
        and _is_text(value.drive_status)
        and _is_a(bool, value.estop)
        and (value.external_wrench is None or _is_array(value.external_wrench))
        and _is_a(Mapping, value.sensors)
        and value.state.q.size + value.state.v.size <= _MOST_NUMBERS
        and (not value.sensors or _are_sensors(value.sensors))
    )


def _with_plain_numbers(value: Observation) -> Observation:
    """Time stamps and flags that numpy made, as Python's own."""
    state, estop = value.state, value.estop
    if _is_a(RobotState, state) and _is_a(np.integer, state.t):
        state = replace(state, t=int(state.t))
    return replace(value, state=state, estop=_is_pressed(estop) if _is_a(np.bool_, estop) else estop)


def _is_pressed(value: object) -> bool:
    """Anything but a plain "not pressed" counts as pressed (law 5)."""
    return not (value is False or (isinstance(value, np.bool_) and not value))


def _is_a(kind: type, value: object) -> bool:
    """``isinstance`` for a value that its annotation vouches for in vain."""
    return isinstance(value, kind)


def _is_time(value: object) -> bool:
    """An integer that fits into 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -_WORD <= value < _WORD


def _is_text(value: object) -> bool:
    """None, or text that can be written as UTF-8."""
    if value is None:
        return True
    if not isinstance(value, str):
        return False
    try:
        return len(value.encode()) <= _MOST_NUMBERS
    except UnicodeEncodeError:
        return False


def _is_array(value: object) -> bool:
    dtype: object = getattr(value, "dtype", None)
    return isinstance(value, np.ndarray) and dtype == np.float64


def _are_parts(parts: object) -> bool:
    """None, or what a strategy may say of its parts."""
    if parts is None:
        return True
    if not isinstance(parts, Parts):
        return False
    lists = (parts.failed, parts.agreeing, parts.substitutes)
    return (
        all(_is_a(tuple, some) and len(some) <= _MOST_PARTS for some in lists)
        and all(_is_a(Cause, cause) for cause in parts.failed)
        and all(_is_a(str, name) and _is_text(name) for name in (*parts.agreeing, *parts.substitutes))
    )


def _are_sensors(parts: Mapping[str, object]) -> bool:
    numbers = 0
    for name, part in parts.items():
        if not (isinstance(part, Sensor) and _is_a(str, name) and _is_text(name) and _is_time(part.t)):
            return False
        numbers += part.value.size
    return numbers <= _MOST_NUMBERS
