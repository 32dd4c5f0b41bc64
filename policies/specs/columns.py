"""Columns of a simulator's action, and the ``ActionSpec`` that they make together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec

Bounds = Mapping[str, tuple[float, float]]
"""Lowest and highest number of columns, by name."""


@dataclass(frozen=True, slots=True)
class Column:
    """One number of an action: ``offset + scale·x`` in ``unit``.

    Attributes:
        name: of the column.
        unit: of its value.
        reference: what it refers to; None if that is nothing that a reference says, such as a gripper's closing.
        frame: axes and origin of a Cartesian value, else None.
        scale, offset: from the number to the unit.
        low, high: range of the number; None where the simulator declares none.
    """

    name: str
    unit: str
    reference: Reference | None
    frame: str | None = None
    scale: float = 1.0
    offset: float = 0.0
    low: float | None = None
    high: float | None = None


def described(
    columns: Sequence[Column], rate_hz: float, bounds: Bounds | None, rename: Mapping[str, str]
) -> ActionSpec:
    """The spec of ``columns``: what refers to something else than the first column that refers is in ``others``.

    A range is declared where every column has one: a spec has no range for some of its columns.

    Raises:
        SpecError: no columns, or ``bounds`` or ``rename`` name one that does not exist.
    """
    known = [column.name for column in columns]
    for given, where in ((bounds or {}, "bounds"), (rename, "rename")):
        if odd := [name for name in given if name not in known]:
            raise SpecError(f"{where} names {odd}, which are no columns; there are {known}")
    columns = [_bounded(column, bounds or {}) for column in columns]
    main = next((column for column in columns if column.reference is not None), None)
    if main is None or main.reference is None:
        raise SpecError(f"no column of {known} is described by a reference: nothing to bind")
    lows = [column.low for column in columns if column.low is not None]
    highs = [column.high for column in columns if column.high is not None]
    whole = len(lows) == len(highs) == len(columns)
    others = [column.name for column in columns if (column.reference, column.frame) != (main.reference, main.frame)]
    return ActionSpec(
        tuple(rename.get(name, name) for name in known),
        tuple(column.unit for column in columns),
        main.reference,
        rate_hz,
        frame=main.frame,
        scale=tuple(column.scale for column in columns),
        offset=tuple(column.offset for column in columns),
        low=tuple(lows) if whole else None,
        high=tuple(highs) if whole else None,
        others=tuple(rename.get(name, name) for name in others),
    )


def _bounded(column: Column, bounds: Bounds) -> Column:
    if column.name not in bounds:
        return column
    low, high = bounds[column.name]
    return replace(column, low=float(low), high=float(high))


def spread(value: Any, count: int, what: str) -> tuple[float, ...]:
    """One number for each of ``count`` columns, from one number or as many.

    Raises:
        SpecError: something else, naming ``what``.
    """
    try:
        array = np.asarray(value, dtype=np.float64)
        return tuple(float(number) for number in np.broadcast_to(array, (count,)))
    except (TypeError, ValueError):
        raise SpecError(f"{what} must be a number or {count} numbers, got {value!r}") from None


def linear(low_in: float, high_in: float, low_out: float, high_out: float) -> tuple[float, float]:
    """(scale, offset) of the straight line that leads the range in to the range out."""
    scale = (high_out - low_out) / (high_in - low_in) if high_in != low_in else math.nan
    return scale, (high_out + low_out) / 2.0 - scale * (high_in + low_in) / 2.0


def tokens(names: Iterable[str], counts: Iterable[int]) -> list[Column]:
    """Columns of indices 0 … count - 1."""
    pairs = zip(names, counts, strict=True)
    return [Column(name, "token", Reference.TOKENS, low=0.0, high=count - 1.0) for name, count in pairs]


def is_mapping(source: Any) -> bool:
    """Whether this is a configuration; some simulators' own are no ``Mapping``."""
    return hasattr(source, "keys")


def setting(owner: Any, name: str, where: str) -> Any:
    """``owner[name]`` of a mapping or ``owner.name`` of an object.

    Raises:
        SpecError: there is none, naming ``where``.
    """
    value = optional(owner, name)
    if value is None:
        raise SpecError(f"{where} has no {name!r}, which says what its actions mean: describe the finished environment")
    return value


def optional(owner: Any, name: str) -> Any:
    """``owner[name]`` of a mapping or ``owner.name`` of an object; None if there is none."""
    if is_mapping(owner):
        return owner.get(name)
    return getattr(owner, name, None)
