"""A guest's output as the actions of a proposal, or why it is none.

Nothing is mended: no padding, no cutting, no guessing. A wrong shape goes out as it is, for intake to refuse. What is
no array of plain numbers at all (masked or complex numbers, text, objects, ragged lists, arrays with units) cannot go
out as it is; it is refused here, in words.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, cast

import numpy as np

from safeguard.core.types import ActionSpec, Vector

Forget: TypeAlias = Callable[[], object]

_NUMBERS: Final = frozenset("fiu")
_PLAIN_ARRAYS: Final = (np.ndarray, np.memmap)  # other subclasses carry a mask or a unit that would be lost
_MOST: Final = 100_000  # numbers in one output; more than any record takes
_WORDS: Final = 200  # characters of a reason


class Unusable(Exception):  # noqa: N818  it is raised and caught within the adapters only
    """An output that cannot be read as numbers; the text says what came instead."""


class Reader:
    """Reads outputs as chunks of the columns of ``spec``.

    Taken as (chunk, columns): an array of that shape; one with a batch dimension of 1 in front; where ``chunk`` is 1,
    a row of shape (columns,); a mapping with one array for every column, of shape (chunk,), (1, chunk), or () where
    ``chunk`` is 1. A mapping binds by name: none may miss and none may be unknown.
    """

    def __init__(self, spec: ActionSpec) -> None:
        self._names, self._shape = spec.joints, spec.shape
        self._row = (len(spec.joints),) if spec.chunk == 1 else None

    def __call__(self, output: Any) -> Vector:
        """A read-only copy of ``output``, as (chunk, columns) or in its own wrong shape.

        Raises:
            Unusable: ``output`` is no array of numbers, or its names are not those of the columns.
        """
        if isinstance(output, Mapping):
            output = self._columns(cast("Mapping[Any, object]", output))
        array = numbers(output)
        if array.shape != self._shape:
            if array.ndim == 3 and array.shape[0] == 1:
                array = array[0]
            elif array.shape == self._row:
                array = array[np.newaxis]
        actions: Vector = np.array(array, dtype=np.float64, order="C")  # a copy: the guest may reuse its own
        actions.setflags(write=False)
        return actions

    def _columns(self, output: Mapping[Any, object]) -> Vector:
        missing = [name for name in self._names if name not in output]
        unknown = [str(name) for name in output if name not in self._names]
        if missing or unknown:
            raise Unusable(f"columns missing: {missing}, unknown: {unknown}")
        chunk = self._shape[0]
        rows = [self._column(name, numbers(output[name]), chunk) for name in self._names]
        return np.stack(rows, axis=1)

    @staticmethod
    def _column(name: str, column: Any, chunk: int) -> Any:
        if column.shape == (1, chunk):
            return column[0]
        if column.shape == () and chunk == 1:
            return column[np.newaxis]
        if column.shape == (chunk,):
            return column
        raise Unusable(f"column {name!r} has shape {column.shape}, expected ({chunk},)")


def numbers(value: Any) -> Any:
    """``value`` as an array of real numbers, perhaps a view of it.

    Raises:
        Unusable: it is something else.
    """
    array = value if type(value) is np.ndarray else _array(value)
    if array.dtype.kind not in _NUMBERS:
        raise Unusable(f"an array of {array.dtype}, expected numbers")
    if array.size > _MOST:
        raise Unusable(f"{array.size} numbers, at most {_MOST} are taken")
    return array


def _array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, np.dtype[Any]]", value)
        if type(array) not in _PLAIN_ARRAYS:
            raise Unusable(f"a {type(array).__name__}, which is more than its numbers")
        return np.asarray(array)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return of_tensor(torch, value)
    if isinstance(value, list | tuple):
        parts = [part if type(part) is float else numbers(part) for part in cast("list[Any]", value)]
        return np.array(parts, dtype=np.float64)
    if isinstance(value, np.generic | int | float) or hasattr(cast("type[object]", type(value)), "__dlpack__"):
        return np.asarray(value)
    raise Unusable(f"a {type(value).__name__}, expected an array")


def of_tensor(torch: Any, tensor: Any) -> Any:
    """A tensor as an array that may share its memory; types that numpy lacks, such as bfloat16, as float64."""
    tensor = tensor.detach()
    if tensor.dtype is not torch.float32 and tensor.is_floating_point():
        tensor = tensor.double()
    return tensor.numpy() if tensor.device.type == "cpu" else tensor.cpu().numpy()


def words(error: BaseException) -> str:
    """What an exception of a guest says, whatever its ``__str__`` does."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  a guest's exception may have any __str__
        text = "its text cannot be had"
    return f"{type(error).__name__}: {text}"[:_WORDS]
