"""msgpack with arrays of numbers, as openpi's clients and servers write it.

An array is the map ``{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [rows, columns]}``, a numpy
scalar ``{b"__npgeneric__": True, b"data": value, b"dtype": "<f4"}``. Only flags, integers and floats of up to eight
bytes become arrays: nothing that comes in can name a type that runs code. A message is looked over before it is decoded
(``looked_over``), so that a small one cannot take much memory or time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
_MOST_VALUES: Final = 100_000  # in a message; an array is a dozen of them, an observation some tens
_DIMENSIONS: Final = 8
_LARGEST: Final = 1 << 40  # bytes, an array's empty sides taken as 1: numpy cannot make one of 2**63
_LONGEST: Final = 200  # characters of what an array says of itself


def _form(first: int) -> tuple[int, int, int]:
    """What a value that begins with the byte ``first`` is.

    Returns:
        How many bytes to jump over, 0 for what is no value or an extension; how many of them, the last ones, say a
        length; how many values it holds, for each unit of that length where there is one.
    """
    sizes = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
    lengths = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
    if first in lengths:
        width = lengths[first]
        return 1 + width, width, max(0, (first - 0xDA) // 2)  # 1 for lists (0xdc, 0xdd), 2 for maps (0xde, 0xdf)
    if 0x80 <= first < 0xA0:
        return 1, 0, (first & 15) * (1 if first & 16 else 2)
    if 0xA0 <= first < 0xC0:
        return 1 + (first & 31), 0, 0
    if first in (0xC0, 0xC2, 0xC3) or first < 0x80 or first >= 0xE0:
        return 1, 0, 0
    return (1 + sizes[first] if first in sizes else 0), 0, 0


_FORMS: Final = tuple(map(_form, range(256)))


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
        WireError: no msgpack, no map, too deeply nested, too many values, or an array that its own figures contradict.
    """
    looked_over(data)
    try:
        message: object = ormsgpack.unpackb(data, option=_BYTES_KEYS)
    except ValueError as error:
        raise WireError(f"{len(data)} bytes that are no msgpack ({error}): {data[:16]!r}") from error
    decoded = _decoded(message) if arrays else message
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


def looked_over(data: bytes) -> None:
    """Refuse what would take much to decode, without decoding it; what is cut short is left to the decoder.

    Payloads are jumped over: it takes 0.3 µs for each value, however large.

    Raises:
        WireError: nested deeper than 32 levels, more than 100,000 values (keys included), or no msgpack.
    """
    at, end, left, count = 0, len(data), 1, 1
    around: list[int] = []  # values that are left in the maps and lists around
    while left or around:
        if not left:
            left = around.pop()
            continue
        if at >= end:
            return
        jump, width, held = _FORMS[data[at]]
        if not jump:
            raise WireError(f"{end} bytes that are no msgpack (no value begins with {data[at]:#x}): {data[:16]!r}")
        if width:
            length = int.from_bytes(data[at + 1 : at + jump], "big")
            if held:
                held *= length
            else:
                at += length
        at, left = at + jump, left - 1
        if held:
            around.append(left)
            count, left = count + held, held
            if count > _MOST_VALUES:
                raise WireError(f"more than {_MOST_VALUES} values in a message of {end} bytes")
            if len(around) > _DEEPEST:
                raise WireError(f"nested deeper than {_DEEPEST} levels")


def checked_sides(sides: Sequence[int], dtype: np.dtype[Any], size: int) -> None:
    """Refuse an array of ``sides`` that does not have the ``size`` bytes that came, or that numpy cannot make.

    Raises:
        WireError: see above.
    """
    if math.prod(sides) * dtype.itemsize != size:
        raise WireError(f"an array of shape {list(sides)} and dtype {dtype} came with {size} bytes"[:_LONGEST])
    if math.prod(side or 1 for side in sides) * max(dtype.itemsize, 8) > _LARGEST:
        raise WireError(f"an array without numbers has the shape {list(sides)}"[:_LONGEST])


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


def _decoded(value: object) -> object:
    if _is_map(value):
        if b"__ndarray__" in value:
            return _array(value)
        if b"__npgeneric__" in value:
            return _scalar(value)
        return {key: _decoded(entry) for key, entry in value.items()}
    if _is_list(value):
        return [_decoded(entry) for entry in value]
    return value


def _array(mapping: Map) -> Array:
    """The array that ``mapping`` says it is; its size is checked against its bytes before anything is made of it."""
    data, dtype, shape = mapping.get(b"data"), _dtype(mapping.get(b"dtype")), mapping.get(b"shape")
    if not isinstance(data, bytes) or not _is_list(shape):
        raise WireError("an array needs data (bytes) and shape (a list)")
    if len(shape) > _DIMENSIONS or not all(type(length) is int and length >= 0 for length in shape):
        raise WireError(f"an array has the shape {shape!r}"[:_LONGEST])
    sides = cast("list[int]", shape)
    checked_sides(sides, dtype, len(data))
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
        raise WireError(f"arrays of dtype {name!r} are not decoded, only flags, integers and floats"[:_LONGEST])
    return np.dtype(name)
