"""LeRobot's dicts of ``"motor.pos"`` to rows of numbers. Whatever comes, nothing here raises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import numpy as np

from safeguard.core.types import Vector

SUFFIX: Final = ".pos"
_LONGEST: Final = 1000  # entries of a dict that are looked at


def number(value: object) -> float:
    """``value`` as a float; NaN for what is not one number: text, flags, None, arrays of several.

    Numpy scalars and tensors of one element count as their element.
    """
    if isinstance(value, bool):
        return math.nan
    try:
        if isinstance(value, int | float):
            return float(value)
        item: Any = getattr(value, "item", None)
        element: object = item() if callable(item) else None
    except Exception:  # noqa: BLE001  a guest's object may raise anything, and an integer may be too large
        return math.nan
    return number(element) if type(element) in (int, float) else math.nan


def action_row(action: object, keys: Sequence[str]) -> tuple[Vector, str]:
    """The numbers of ``action`` in the order of ``keys``, and why it is no action of these keys, or "".

    Returns:
        An array of shape (1, len(keys)), NaN where a value is no number. Where the keys are not exactly these: the
        numbers that came, shape (count,), which no spec describes, so that intake refuses them.
    """
    values = plain(action)
    if values is None:
        return np.zeros(0), f"expected a dict with {', '.join(keys)}, got {type(action).__name__}"
    if odd := _differences(values, keys):
        return np.array([number(value) for value in values.values()]), odd
    row = np.array([[number(values[key]) for key in keys]])
    bad = [key for key, value in zip(keys, row[0], strict=True) if not math.isfinite(value)]
    return row, f"{', '.join(f'{key} is {_shown(values[key])}' for key in bad)}: not a finite number" if bad else ""


def positions(observation: object, keys: Sequence[str]) -> Vector:
    """The numbers of ``keys`` in an observation, shape (len(keys),); NaN for each that is missing or none."""
    if not isinstance(observation, Mapping):
        return np.full(len(keys), np.nan)
    given = cast("Mapping[object, object]", observation)
    return np.array([_read(given, key) for key in keys])


def _read(values: Mapping[object, object], key: str) -> float:
    try:
        return number(values.get(key))
    except Exception:  # noqa: BLE001  a mapping of the host may raise anything
        return math.nan


def plain(action: object) -> dict[object, object] | None:
    """A copy, in which nothing can change or raise any more; None for what is no mapping of a sane size."""
    try:
        if isinstance(action, Mapping) and len(cast("Mapping[object, object]", action)) <= _LONGEST:
            return dict(cast("Mapping[object, object]", action))
    except Exception:  # noqa: BLE001  as above
        return None
    return None


def _differences(values: Mapping[object, object], keys: Sequence[str]) -> str:
    missing = [key for key in keys if key not in values]
    unknown = [_shown(key) for key in values if key not in keys]
    parts = (f"missing {', '.join(missing)}" if missing else "", f"unknown {', '.join(unknown)}" if unknown else "")
    return "; ".join(part for part in parts if part)


def _shown(value: object) -> str:
    try:
        return repr(value)[:40]
    except Exception:  # noqa: BLE001  as above
        return type(value).__name__
