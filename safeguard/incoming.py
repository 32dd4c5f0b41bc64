"""Whatever comes in, as something that can be checked, recorded and replayed.

Guests and sensor drivers hand over anything, whatever the annotations say. What is not of the declared types
becomes an empty observation or proposal of those types: intake refuses it by its shape, the record holds it, and a
replay meets the same. Values, however odd, are left alone; judging them is intake's business.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from safeguard.core.types import Observation, Proposal, RobotState, Sensor, frozen_array

_WORD = 1 << 63
_LONGEST = 200  # characters of a text that is kept
_EMPTY = frozen_array(np.zeros(0))


def as_observation(value: object) -> Observation:
    """``value`` itself if every part has its type, else one without a state; a pressed e-stop stays pressed."""
    if (
        isinstance(value, Observation)
        and _is_a(RobotState, value.state)
        and _is_time(value.state.t)
        and _is_text(value.instruction)
        and _is_text(value.drive_status)
        and _is_a(bool, value.estop)
        and (value.external_wrench is None or _is_array(value.external_wrench))
        and _is_a(Mapping, value.sensors)
        and all(_is_sensor(name, part) for name, part in value.sensors.items())
    ):
        return value
    return Observation(RobotState(_EMPTY, _EMPTY, 0), estop=bool(getattr(value, "estop", False)))


def as_proposal(value: object, now: int) -> Proposal | None:
    """``value`` itself if it is None or every part has its type, else an empty proposal that says what came."""
    if value is None:
        return None
    if isinstance(value, Proposal):
        stamps = _is_time(value.t_obs) and _is_time(value.t_inferred) and _is_time(value.seq)
        parts = (value.features, value.samples)
        arrays = _is_array(value.actions) and all(part is None or _is_array(part) for part in parts)
        if stamps and arrays and _is_a(str, value.source) and _is_text(value.source):
            return value
    return Proposal(_EMPTY, now, now, f"unusable {type(value).__name__}"[:_LONGEST], -1)


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
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_array(value: object) -> bool:
    dtype: object = getattr(value, "dtype", None)
    return isinstance(value, np.ndarray) and dtype == np.float64


def _is_sensor(name: object, part: object) -> bool:
    return isinstance(name, str) and _is_text(name) and isinstance(part, Sensor) and _is_time(part.t)
