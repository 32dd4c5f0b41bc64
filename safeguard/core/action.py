"""What a policy's numbers mean, and whether some numbers can be meant.

A spec describes the columns of an action by name. Those of the body's joints are bound by name; others (a gripper
that is no joint of the model, a flag that ends the episode) are declared in ``others`` and checked like them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError

POSITION_UNITS: Final[Mapping[str, float]] = MappingProxyType(
    {"rad": 1.0, "deg": math.pi / 180.0, "m": 1.0, "mm": 1e-3, "rev": 2.0 * math.pi}
)
VELOCITY_UNITS: Final[Mapping[str, float]] = MappingProxyType(
    {"rad/s": 1.0, "deg/s": math.pi / 180.0, "m/s": 1.0, "mm/s": 1e-3, "rpm": math.pi / 30.0}
)
TORQUE_UNITS: Final[Mapping[str, float]] = MappingProxyType({"N.m": 1.0, "N": 1.0, "mN.m": 1e-3})

JOINT_UNITS: Final[Mapping[Reference, Mapping[str, float]]] = MappingProxyType(
    {
        Reference.ABSOLUTE: POSITION_UNITS,
        Reference.DELTA: POSITION_UNITS,
        Reference.CHUNK_RELATIVE: POSITION_UNITS,
        Reference.PD_TARGET: POSITION_UNITS,
        Reference.VELOCITY: VELOCITY_UNITS,
        Reference.TORQUE: TORQUE_UNITS,
    }
)
"""SI values of the units that columns of joints may have, by reference."""

Columns = float | tuple[float, ...]
"""One number for every column, or one for each."""

_ROUNDING: Final = 1e-6  # share of the declared range by which float32 policies may miss its ends


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """What a policy's numbers mean. No spec, no start.

    A number x of a column means ``offset + scale·x`` in the column's unit. Arrays and lists are taken for tuples.

    Attributes:
        joints: names that bind the columns of an action; nothing is padded.
        unit: of every column, or one for each: ``"rad"``, ``"deg"``, ``"m"``, ``"rad/s"``, ``"N.m"``, …
        reference: what the numbers refer to.
        rate_hz: actions per second inside a chunk.
        chunk: number of actions of one inference, at least 1.
        frame: reference frame for Cartesian actions, else None.
        scale, offset: from the policy's numbers to the unit, one for all columns or one for each.
        low, high: the policy's own range of numbers, before ``scale``; what lies outside is refused. For policies
            that cannot leave it, such as tanh outputs: then it shows a missing normalisation.
        kp, kd: gains of a ``PD_TARGET``, N·m/rad and N·m·s/rad, one for all columns or one for each.
        others: those of ``joints`` that are no joints of the body, such as a gripper. The shield checks that their
            numbers are finite and in range, and leaves them to the caller.

    Raises:
        SpecError: a name twice or none, a rate or length that is not positive, a number that is not finite, a
            length that differs from the number of columns, a scale of zero, an empty range, ``others`` that are not
            columns, a unit that the reference cannot have, gains without a PD target or the reverse.
    """

    joints: tuple[str, ...]
    unit: str | tuple[str, ...]
    reference: Reference
    rate_hz: float
    chunk: int = 1
    frame: str | None = None
    scale: Columns = 1.0
    offset: Columns = 0.0
    low: Columns | None = None
    high: Columns | None = None
    kp: Columns | None = None
    kd: Columns | None = None
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("joints", "others"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        if not self.joints or len(set(self.joints)) != len(self.joints):
            raise SpecError(f"ActionSpec.joints must be distinct names, got {self.joints!r}")
        object.__setattr__(self, "rate_hz", _positive("rate_hz", self.rate_hz))
        chunk = _positive("chunk", self.chunk)
        if chunk != int(chunk):
            raise SpecError(f"ActionSpec.chunk must be a whole number of rows, got {self.chunk!r}")
        object.__setattr__(self, "chunk", int(chunk))
        if not isinstance(self.unit, str):
            object.__setattr__(self, "unit", _names("unit", self.unit))
            self._one_each("unit", len(self.unit))
        for name in ("scale", "offset", "low", "high", "kp", "kd"):
            object.__setattr__(self, name, self._numbers(name, getattr(self, name)))
        self._check_meaning()

    def _check_meaning(self) -> None:
        if odd := [name for name in self.others if name not in self.joints] or len(self.others) == len(self.joints):
            raise SpecError(f"ActionSpec.others must name some columns of {self.joints}, not all; got {odd!r}")
        if 0.0 in self.column("scale"):
            raise SpecError("ActionSpec.scale must not be 0: the column would mean nothing")
        low, high = (None if bound is None else self.column(name) for name, bound in self._range())
        if low is not None and high is not None and not all(a < b for a, b in zip(low, high, strict=True)):
            raise SpecError(f"ActionSpec.low must be below high in every column, got {self.low!r} and {self.high!r}")
        if any(gain < 0.0 for name in ("kp", "kd") if getattr(self, name) is not None for gain in self.column(name)):
            raise SpecError(f"gains of a PD target must not be negative, got kp={self.kp!r}, kd={self.kd!r}")
        gains = self.kp is not None, self.kd is not None
        if gains != (self.reference is Reference.PD_TARGET,) * 2:
            raise SpecError(f"kp and kd go with PD_TARGET and only with it; the reference is {self.reference.value}")
        known = JOINT_UNITS.get(self.reference)
        if known is None:
            return
        for name, unit in zip(self.joints, self.units, strict=True):
            if name not in self.others and unit not in known:
                raise SpecError(
                    f"column {name!r}: {self.reference.value} actions cannot be in {unit!r}, only in {', '.join(known)}"
                )

    def _range(self) -> tuple[tuple[str, Columns | None], ...]:
        return ("low", self.low), ("high", self.high)

    def _numbers(self, name: str, given: Any) -> Columns | None:
        """One finite float, or as many as columns."""
        if given is None:
            return None
        try:
            array = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError):
            array = np.array(math.nan)
        if array.ndim > 1 or not np.isfinite(array).all() or isinstance(given, str | bool):
            raise SpecError(f"ActionSpec.{name} must be a finite number or one for each column, got {given!r}")
        if array.ndim == 0:
            return float(array)
        self._one_each(name, len(array))
        return tuple(float(value) for value in array)

    def _one_each(self, name: str, count: int) -> None:
        if count != len(self.joints):
            raise SpecError(
                f"ActionSpec.{name} has {count} entries for {len(self.joints)} columns {self.joints}; nothing is padded"
            )

    @property
    def units(self) -> tuple[str, ...]:
        """The unit of every column."""
        return (self.unit,) * len(self.joints) if isinstance(self.unit, str) else self.unit

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of one inference."""
        return self.chunk, len(self.joints)

    def column(self, name: str) -> tuple[float, ...]:
        """``scale``, ``offset``, ``low``, ``high``, ``kp`` or ``kd`` (not None), one for every column."""
        value: Columns = getattr(self, name)
        return value if isinstance(value, tuple) else (value,) * len(self.joints)

    def changed(self, **fields: Any) -> ActionSpec:
        """A copy with other values."""
        return replace(self, **fields)

    def misfit(self, actions: NDArray[np.float64]) -> str:
        """Why ``actions`` cannot be what this spec describes (shape, not finite, out of range), or ``""``.

        Args:
            actions: the policy's own numbers, shape (chunk, columns).
        """
        if actions.shape != self.shape:
            return f"actions have shape {actions.shape}, expected {self.shape} for the columns {self.joints}"
        if not np.isfinite(actions).all():
            row, column = np.argwhere(~np.isfinite(actions))[0]
            return f"{self.joints[column]} is {actions[row, column]} in row {row}, expected a finite number"
        if self.reference is Reference.TOKENS and (why := self._no_token(actions)):
            return why
        low = None if self.low is None else np.array(self.column("low"))
        high = None if self.high is None else np.array(self.column("high"))
        span = 1.0 if low is None or high is None else high - low
        for bound, sign, word in ((low, -1.0, "below"), (high, 1.0, "above")):
            if bound is None:
                continue
            over = sign * (actions - bound) > _ROUNDING * np.maximum(span, np.abs(bound))
            if over.any():
                row, column = np.argwhere(over)[0]
                return (
                    f"{self.joints[column]} is {actions[row, column]:g} in row {row}, {word} the declared "
                    f"{bound[column]:g}: is it normalised as the spec says?"
                )
        return ""

    def _no_token(self, actions: NDArray[np.float64]) -> str:
        """Which number is no index of a token, or ``""``."""
        tokens = np.array([name not in self.others for name in self.joints])
        odd = tokens & (actions != np.rint(actions))
        if not odd.any():
            return ""
        row, column = np.argwhere(odd)[0]
        return f"{self.joints[column]} is {actions[row, column]:g} in row {row}, not an integer: tokens are indices"


def spec_differences(one: ActionSpec, other: ActionSpec) -> tuple[str, ...]:
    """Names of the fields in which two specs differ."""
    return tuple(item.name for item in fields(one) if getattr(one, item.name) != getattr(other, item.name))


def _positive(field: str, given: Any) -> float:
    """A plain number above 0."""
    if isinstance(given, int | float | np.integer | np.floating) and not isinstance(given, bool):
        number = float(cast("float", given))
        if 0.0 < number < math.inf:
            return number
    raise SpecError(f"ActionSpec needs rate_hz > 0 and chunk >= 1, got {field}={given!r}")


def _names(field: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        raise SpecError(f"ActionSpec.{field} must be a list of names, got {given!r}")
    names = list(cast("Sequence[Any]", given))
    if not all(isinstance(name, str) and name for name in names):
        raise SpecError(f"ActionSpec.{field} must be a list of names, got {given!r}")
    return tuple(str(name) for name in names)
