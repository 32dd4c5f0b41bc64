"""Kernels: the loops over joints, pairs and samples, compiled by numba.

A kernel has a fixed signature, so it is compiled (or read from numba's cache on disk) when its module is imported
and never inside a tick. It is plain Python: with ``NUMBA_DISABLE_JIT=1`` the same lines run interpreted, and the
tests compare both. No fast-math: the order of operations is as written.

A kernel may only call functions of its own file, because numba's cache notices a change of that file alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba import types as types

_F = TypeVar("_F", bound=Callable[..., Any])

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
OUT_INTS = types.Array(types.int64, 1, "C")
NUMBER = types.float64
THREE_NUMBERS: Any = cast("Any", types).UniTuple(NUMBER, 3)
COUNT = types.int64
FLAG = types.boolean


def kernel(result: Any, *arguments: Any) -> Callable[[_F], _F]:
    """Compile a function for these types of result and arguments."""
    return cast("Callable[[_F], _F]", numba.njit(result(*arguments), cache=True, error_model="numpy"))


def part(function: _F) -> _F:
    """Compile a function that kernels of the same file call."""
    return cast("_F", numba.njit(error_model="numpy", forceinline=True)(function))
