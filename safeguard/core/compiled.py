"""Kernels: the loops over joints, pairs and samples, compiled by numba.

A kernel has a fixed signature, so it is compiled (or read from numba's cache on disk) when its module is imported
and never inside a tick. It is plain Python: with ``NUMBA_DISABLE_JIT=1`` the same lines run interpreted, and the
tests compare both. No fast-math: the order of operations is as written.

A kernel calls parts, of its own file or imported by name. Numba's cache notices a change of the kernel's file alone;
the key of ours also holds what the files of all its parts say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba import types as types
from numba.core.caching import FunctionCache
from numpy.typing import NDArray

_F = TypeVar("_F", bound=Callable[..., Any])
_A = TypeVar("_A", bound=NDArray[Any])

Integers = NDArray[np.int64]

VECTOR = types.Array(types.float64, 1, "C", readonly=True)
MATRIX = types.Array(types.float64, 2, "C", readonly=True)
INTS = types.Array(types.int64, 1, "C", readonly=True)
INT_ROWS = types.Array(types.int64, 2, "C", readonly=True)
BLOCKS = types.Array(types.float64, 3, "C", readonly=True)
FLAGS = types.Array(types.boolean, 1, "C", readonly=True)
OUT = types.Array(types.float64, 1, "C")
OUT_MATRIX = types.Array(types.float64, 2, "C")
OUT_BLOCKS = types.Array(types.float64, 3, "C")
OUT_COLUMNS = types.Array(types.float64, 2, "F")
OUT_FLAGS = types.Array(types.boolean, 1, "C")
OUT_FLAG_ROWS = types.Array(types.boolean, 2, "C")
OUT_INTS = types.Array(types.int64, 1, "C")
NUMBER = types.float64
THREE_NUMBERS: Any = cast("Any", types).UniTuple(NUMBER, 3)
COUNT = types.int64
FLAG = types.boolean


def private(values: _A) -> _A:
    """A writable copy, for kernels alone: numba takes 0.1 µs longer to see what a read-only array is."""
    return values.copy()


class _Cache(FunctionCache):
    """Numba's cache, with the sources of all parts in its key."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*cast("Any", super())._index_key(sig, codegen), sources(self._py_func))


def kernel(result: Any, *arguments: Any) -> Callable[[_F], _F]:
    """Compile a function for these types of result and arguments."""

    def compiled(function: _F) -> _F:
        made: Any = numba.njit(error_model="numpy")(function)
        if made is not function:  # else the compiler is switched off
            made._cache = cast("Any", _Cache)(function)
            made.compile(result(*arguments))
            made.disable_compile()
        return cast("_F", made)

    return compiled


def entry(kernel: _F) -> _F:
    """A kernel without the search for a signature that fits, for arguments that certainly do."""
    overloads: Any = getattr(kernel, "overloads", None)
    return kernel if overloads is None else next(iter(overloads.values())).entry_point


def part(function: _F) -> _F:
    """Compile a function that kernels call."""
    return cast("_F", numba.njit(error_model="numpy", forceinline=True)(function))


def leaf(function: _F) -> _F:
    """As ``part``, for a function that makes no arrays.

    It does not count who holds those that it is given, which costs more than a small function itself.
    """
    return cast("_F", cast("Any", numba).njit(error_model="numpy", forceinline=True, _nrt=False)(function))


def sources(kernel: Any) -> str:
    """Digest of the files that hold the parts of a kernel, directly or not."""
    files = sorted({function.__code__.co_filename for function in _called(kernel, set())})
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


def _called(function: FunctionType, seen: set[FunctionType]) -> Iterator[FunctionType]:
    for name in function.__code__.co_names:
        found = function.__globals__.get(name)
        found = getattr(found, "py_func", found)
        if isinstance(found, FunctionType) and found not in seen:
            seen.add(found)
            yield found
            yield from _called(found, seen)
