"""GR00T's messages: msgpack with arrays as ``.npy`` bytes, and which key of an action holds which columns.

A request is the map ``{"endpoint": "get_action", "data": {...}, "api_token": …}``. From N1.6 on its data is
``{"observation": …, "options": …}`` and the answer ``[action, info]``; N1.5 sends the flat observation and is answered
with the action. An action has one array for every part of the body, in N1.6 of shape (1, chunk, width). Arrays travel
as the bytes of a ``.npy`` file in ``{"__ndarray_class__": True, "as_npy": bytes}``. Nothing that comes in is unpickled.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias, TypeGuard, cast

import numpy as np
import ormsgpack
from numpy.typing import NDArray

from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.types import ActionSpec, Vector
from safeguard.policies.msgpack_arrays import WireError, checked_sides, looked_over

Array: TypeAlias = NDArray[Any]
Map: TypeAlias = dict[Any, Any]
Keys: TypeAlias = Mapping[str, str | Sequence[str]]
"""Key of an action to the names of its columns."""

VERSIONS: Final = ("1.5", "1.6")
_ARRAY: Final = "__ndarray_class__"
_MAGIC: Final = b"\x93NUMPY"
_LONGEST_HEADER: Final = 512  # bytes; numpy writes 118
_DIMENSIONS: Final = 8
_DEEPEST: Final = 32  # levels of nesting; observations have three
_LONGEST_TEXT: Final = 200  # characters of what a server says about an error
_ANY_KEYS: Final = ormsgpack.OPT_NON_STR_KEYS


def packed(message: object) -> bytes:
    """``message`` (maps, lists, texts, numbers, bytes, arrays, numpy scalars) as msgpack.

    Raises:
        WireError: something in it is none of these, or an array is neither of numbers nor of texts.
    """
    try:
        return ormsgpack.packb(message, default=_as_plain, option=_ANY_KEYS)
    except TypeError as error:
        raise WireError(f"this cannot be sent: {error.__cause__ or error}") from error


def unpacked(data: bytes) -> object:
    """The message that ``data`` is; arrays stay the maps that they came as.

    Raises:
        WireError: no msgpack, too deeply nested, or too many values.
    """
    looked_over(data)
    try:
        return ormsgpack.unpackb(data, option=_ANY_KEYS)
    except (ValueError, TypeError) as error:
        raise WireError(f"{len(data)} bytes that are no msgpack ({error}): {data[:16]!r}") from error


def with_arrays(message: object, depth: int = 0) -> Any:
    """``message`` with its arrays decoded, each a read-only view of the message; texts may be arrays too.

    Raises:
        WireError: nested too deeply, or an array that is neither of numbers nor of texts or contradicts itself.
    """
    if depth > _DEEPEST:
        raise WireError(f"nested deeper than {_DEEPEST} levels")
    if is_map(message):
        if _ARRAY in message:
            return as_array(message, kinds="biufU")
        return {key: with_arrays(entry, depth + 1) for key, entry in message.items()}
    if is_list(message):
        return [with_arrays(entry, depth + 1) for entry in message]
    return message


def as_array(value: object, kinds: str = "biuf") -> Array:
    """The array that ``value`` is on the wire: no pickle, and a size that its bytes have.

    Raises:
        WireError: no array, or one of other ``kinds`` (of numpy's dtypes).
    """
    data: object = value.get("as_npy") if is_map(value) and _ARRAY in value else None
    if not isinstance(data, bytes):
        raise WireError(f"expected an array as .npy bytes, got {_kind(value)}")
    layout = "<H"
    if data[:8] == _MAGIC + b"\x02\x00":
        layout = "<I"
    elif data[:8] != _MAGIC + b"\x01\x00":
        raise WireError(f"an array is no .npy of version 1 or 2: {data[:16]!r}")
    start = 8 + struct.calcsize(layout)
    length = struct.unpack_from(layout, data, 8)[0] if len(data) >= start else 0
    if not 0 < length <= _LONGEST_HEADER or len(data) < start + length:
        raise WireError(f"the header of an array says it has {length} bytes of {len(data) - start}")
    shape, fortran, dtype = _header(data[: start + length])
    if dtype.kind not in kinds or (dtype.kind != "U" and dtype.itemsize > 8) or dtype.itemsize == 0:
        raise WireError(f"arrays of dtype {dtype} are not decoded here, only those of plain numbers")
    size = len(data) - start - length
    checked_sides(shape, dtype, size)
    flat: Array = np.frombuffer(data, dtype, size // dtype.itemsize, start + length)
    return flat.reshape(shape, order="F" if fortran else "C")


@lru_cache(maxsize=256)
def _header(start: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """What the first bytes of an array say: shape, order, dtype. A stream says the same again and again."""
    read = np.lib.format.read_array_header_1_0 if start[6] == 1 else np.lib.format.read_array_header_2_0
    file = io.BytesIO(start)
    file.seek(8)
    try:
        shape, fortran, dtype = cast("tuple[Any, bool, np.dtype[Any]]", read(file, max_header_size=_LONGEST_HEADER))
    except Exception as error:  # numpy reads it as a literal, which fails in many ways
        raise WireError(f"an array with the header {start[:64]!r}") from error
    if len(shape) > _DIMENSIONS or not all(type(side) is int and side >= 0 for side in shape):
        raise WireError(f"an array has the shape {shape!r}"[:_LONGEST_TEXT])
    return tuple(shape), bool(fortran), dtype


def _as_plain(value: object) -> object:
    kind = str(getattr(value, "dtype", _kind(value)))
    if is_array(value) and value.dtype.kind in "biufU":
        file = io.BytesIO()
        np.lib.format.write_array(file, value, allow_pickle=False)
        return {_ARRAY: True, "as_npy": file.getvalue()}
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return cast("float", value.item())
    raise TypeError(f"{kind} is neither plain data nor an array of numbers")


def request(endpoint: str, data: object = None, api_token: object = None) -> Map:
    """A request; ``data`` and ``api_token`` are left out where there are none."""
    asked: Map = {"endpoint": endpoint}
    if data is not None:
        asked["data"] = data
    if api_token is not None:
        asked["api_token"] = api_token
    return asked


def agreed(answer: object) -> object:
    """``answer``.

    Raises:
        WireError: it says that the server failed.
    """
    if is_map(answer) and "error" in answer:
        raise WireError(f"the server says: {answer['error']}"[:_LONGEST_TEXT])
    return answer


def opened(answer: object, version: str) -> tuple[Map, object]:
    """The action and the info of an answer to ``get_action``; in N1.5 there is no info.

    Raises:
        WireError: the server said that it failed, or the answer has another form.
    """
    action, info = agreed(answer), None
    if version != "1.5":
        if not is_list(answer) or len(answer) != 2:
            raise WireError(f"expected [action, info], got {_kind(answer)}")
        action, info = answer
    if not is_map(action):
        raise WireError(f"expected a map of actions, got {_kind(action)}")
    return action, info


def is_map(value: object) -> TypeGuard[Map]:
    """Whether a decoded message, or a part of it, is a map."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[object]]:
    """Whether it is a list."""
    return isinstance(value, list)


def is_array(value: object) -> TypeGuard[Array]:
    """Whether it is an array."""
    return isinstance(value, np.ndarray)


def _kind(value: object) -> str:
    return type(value).__name__


class Columns:
    """Which key of an action holds which columns of a spec.

    Args:
        keys: key to the names of its columns, in their order there; one name may stand for a list of one.
        spec: whose columns they are.
        version: of the protocol.

    Attributes:
        keys: the keys.

    Raises:
        SpecError: the names are not exactly the spec's columns, each once, or a key has none.
    """

    def __init__(self, keys: Keys, spec: ActionSpec, version: str) -> None:
        if version not in VERSIONS:
            raise ConfigError(f"GR00T: version must be one of {', '.join(VERSIONS)}, got {version!r}")
        named = {key: (names,) if isinstance(names, str) else tuple(names) for key, names in keys.items()}
        listed = [name for names in named.values() for name in names]
        if sorted(listed) != sorted(spec.joints) or not all(named.values()):
            raise SpecError(
                f"GR00T: columns must name every column of the spec once, {spec.joints}; got {named}. "
                "Nothing is padded; columns that are no joints go into the spec's others"
            )
        self._spec, self.version = spec, version
        self._indices = {key: [spec.joints.index(name) for name in names] for key, names in named.items()}
        self.keys = tuple(named)

    def joined(self, arrays: Mapping[str, Array]) -> Vector:
        """The spec's columns from the arrays of an action, shape (chunk, columns).

        Raises:
            WireError: a key is missing, or an array has another shape or no numbers for joints.
        """
        rows = np.empty(self._spec.shape)
        for key, indices in self._indices.items():
            if key not in arrays:
                raise WireError(f"the action has no key {key!r}, only {', '.join(map(str, arrays))}"[:_LONGEST_TEXT])
            array, shapes = arrays[key], self._shapes(len(indices))
            if array.shape not in shapes:
                raise WireError(f"{key!r} has shape {array.shape}, expected {' or '.join(map(str, shapes))}")
            if array.dtype.kind != "f" and not all(self._spec.joints[k] in self._spec.others for k in indices):
                raise WireError(f"{key!r} has dtype {array.dtype}, expected floats for joints")
            rows[:, indices] = array.reshape(self._spec.chunk, len(indices))
        return rows

    def split(self, rows: Vector, like: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """The arrays of an action from ``rows``: the inverse of ``joined``, in the shapes of ``like``.

        They have its dtypes where these are float32 or float64, else float32: a coarser type would round the rows to
        others than those that were checked.
        """
        arrays: dict[str, Array] = {}
        for key, indices in self._indices.items():
            shape, dtype = self._shapes(len(indices))[0], np.dtype(np.float32)
            if like is not None:
                shape = like[key].shape
                dtype = like[key].dtype if like[key].dtype.char in "fd" else dtype
            arrays[key] = rows[:, indices].astype(dtype).reshape(shape)
        return arrays

    def _shapes(self, width: int) -> tuple[tuple[int, ...], ...]:
        """What an array of ``width`` columns may look like; N1.5 drops the sides of length 1."""
        full = 1, self._spec.chunk, width
        if self.version != "1.5":
            return (full,)
        return full[1:], full, tuple(side for side in full if side != 1)
