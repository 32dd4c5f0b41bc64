"""msgpack with arrays of numbers, as openpi's clients and servers write it.

An array is the map ``{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [rows, columns]}``, a numpy
scalar ``{b"__npgeneric__": True, b"data": value, b"dtype": "<f4"}``. Only flags, integers and floats of up to eight
bytes become arrays: nothing that comes in can name a type that runs code.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeGuard, cast

import numpy as np
import ormsgpack
from numpy.typing import NDArray

Array = NDArray[Any]
Map = dict[Any, Any]
"""A decoded message; its keys are text or bytes."""

_BYTES_KEYS: Final = ormsgpack.OPT_NON_STR_KEYS
_KINDS: Final = (("b", (1,)), ("i", (1, 2, 4, 8)), ("u", (1, 2, 4, 8)), ("f", (2, 4, 8)))
_DTYPES: Final = frozenset(
    f"{order}{kind}{size}" for order in ("<", ">", "|", "=", "") for kind, sizes in _KINDS for size in sizes
)
_DEEPEST: Final = 32  # levels of nesting; observations have two or three
_DIMENSIONS: Final = 8


class WireError(ValueError):
    """A message that is not what the protocol says; the text says what was found."""


def packed(message: object) -> bytes:
    """``message`` (maps, lists, texts, numbers, bytes, arrays, numpy scalars) as msgpack.

    Raises:
        WireError: something in it is none of these, or an array is not of numbers.
    """
    try:
        return ormsgpack.packb(message, default=_as_map, option=_BYTES_KEYS)
    except TypeError as error:
        raise WireError(f"only plain data and arrays of numbers can be sent: {error}") from error


def unpacked(data: bytes, *, arrays: bool = True) -> Map:
    """The map that ``data`` is.

    Args:
        data: one message.
        arrays: decode arrays and numpy scalars; without, they stay the maps that they came as.

    Raises:
        WireError: no msgpack, no map, nested too deeply, or an array that its own figures contradict.
    """
    try:
        message: object = ormsgpack.unpackb(data, option=_BYTES_KEYS)
    except ValueError as error:
        raise WireError(f"{len(data)} bytes that are no msgpack ({error}): {data[:16]!r}") from error
    decoded = _decoded(message, 0) if arrays else message
    if not _is_map(decoded):
        raise WireError(f"expected a map, got {type(decoded).__name__}")
    return decoded


def as_array(value: object) -> Array:
    """What came in as ``value``, as an array; one that came as a map is a read-only view of the message.

    Raises:
        WireError: no array of numbers.
    """
    if _is_map(value):
        value = _array(value)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise WireError(f"expected an array of numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise WireError(f"expected an array of numbers, got {type(value).__name__} of dtype {array.dtype}")
    return array


def _is_map(value: object) -> TypeGuard[Map]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _is_numpy(value: object) -> TypeGuard[Array | np.generic[Any]]:
    return isinstance(value, np.ndarray | np.generic)


def _as_map(value: object) -> Map:
    if not _is_numpy(value):
        raise TypeError(f"{type(value).__name__} is neither plain data nor an array of numbers")
    array: Array = np.asarray(value)
    dtype: str = array.dtype.str
    if dtype not in _DTYPES:
        raise TypeError(f"an array of dtype {array.dtype} is not one of numbers")
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": dtype}
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": dtype, b"shape": array.shape}


def _decoded(value: object, depth: int) -> object:
    if depth > _DEEPEST:
        raise WireError(f"nested deeper than {_DEEPEST} levels")
    if _is_map(value):
        if b"__ndarray__" in value:
            return _array(value)
        if b"__npgeneric__" in value:
            return _scalar(value)
        return {key: _decoded(entry, depth + 1) for key, entry in value.items()}
    if _is_list(value):
        return [_decoded(entry, depth + 1) for entry in value]
    return value


def _array(mapping: Map) -> Array:
    """The array that ``mapping`` says it is; its size is checked against its bytes before anything is made of it."""
    data, dtype, shape = mapping.get(b"data"), _dtype(mapping.get(b"dtype")), mapping.get(b"shape")
    if not isinstance(data, bytes) or not _is_list(shape):
        raise WireError("an array needs data (bytes) and shape (a list)")
    if len(shape) > _DIMENSIONS or not all(type(length) is int and length >= 0 for length in shape):
        raise WireError(f"an array has the shape {shape!r}"[:200])
    sides = cast("list[int]", shape)
    if math.prod(sides) * dtype.itemsize != len(data):
        raise WireError(f"an array of shape {sides} and dtype {dtype} came with {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(sides)


def _scalar(mapping: Map) -> object:
    """A numpy number, or the plain text of a numpy string."""
    value, named = mapping.get(b"data"), mapping.get(b"dtype")
    if isinstance(value, str) and isinstance(named, str) and named[1:2] == "U":
        return value
    dtype = _dtype(named)
    if not isinstance(value, bool | int | float):
        raise WireError(f"a number of dtype {dtype} came as {type(value).__name__}")
    try:
        return dtype.type(value)
    except (OverflowError, ValueError) as error:
        raise WireError(f"{value!r} is no {dtype}") from error


def _dtype(name: object) -> np.dtype[Any]:
    if not isinstance(name, str) or name not in _DTYPES:
        raise WireError(f"arrays of dtype {name!r} are not decoded, only flags, integers and floats"[:200])
    return np.dtype(name)
