"""Integers in Python's ``bytes``, which nobody can change, and which cost a kernel a tenth of what an array does.

Numba hands a kernel an array in about 35 ns, and one that it returns in more than 100. Here a kernel takes the address
out of a ``bytes`` (type ``FROZEN``), looks at it with ``thaw``, writes the next one in its ``room``, and gives it back
with ``freeze``. Such a kernel is called through ``compiled.entry``. Interpreted, the same functions are numpy's.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, TypeVar, cast

import numpy as np
from numba import extending, types
from numba.core import cgutils
from numba.core.datamodel.models import StructModel
from numba.core.typing import templates
from numba.np import arrayobj
from numpy.typing import NDArray

_F = TypeVar("_F", bound=Callable[..., Any])
Ints = NDArray[np.int64]

ROOM: Final = 256  # integers

_IR: Any = import_module("llvmlite.ir")
_LIBRARY: Any = extending  # nothing of this has types
_TYPES: Any = types
_TOOLS: Any = cgutils
_ARRAYS: Any = arrayobj
_TEMPLATES: Any = templates

_POINTER: Any = _TYPES.CPointer(types.int64)
_VECTOR, _ROWS = (_TYPES.Array(types.int64, ndim, "C") for ndim in (1, 2))
_WORD: Any = _IR.IntType(64)
_SHIFT: Any = _IR.Constant(_WORD, 3)  # from integers to bytes


class _Frozen(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Frozen")


FROZEN: Any = _Frozen()


def thaw(frozen: bytes) -> Ints:
    """The integers, to read."""
    return np.frombuffer(frozen, dtype=np.int64)


def rows(integers: Ints, begin: int, end: int, columns: int) -> Ints:
    """A part as rows, for which numba's own ``reshape`` takes as long as a small kernel."""
    return integers[begin:end].reshape(-1, columns)


def room() -> Ints:
    """``ROOM`` integers to write on, the same memory in every call of a kernel: it holds the GIL until ``freeze``."""
    return np.empty(ROOM, dtype=np.int64)


def freeze(integers: Ints) -> bytes:
    """What a kernel returns of its ``room``; the copy is made on the way out."""
    return integers.tobytes()


# -- the same, compiled -----------------------------------------------------------------------------------


@_LIBRARY.register_model(_Frozen)
class _Model(StructModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        cast("Any", super()).__init__(manager, kind, [("data", _POINTER), ("count", types.intp)])


def _struct(c: Any, builder: Any, value: Any = None) -> Any:
    return _TOOLS.create_struct_proxy(FROZEN)(c, builder, value=value)


def _unboxed(kind: Any, given: Any, c: Any) -> Any:
    """TypeError for what is no ``bytes``, from Python itself."""
    data, size = _TOOLS.alloca_once(c.builder, c.pyapi.cstring), _TOOLS.alloca_once(c.builder, c.pyapi.py_ssize_t)
    fine = c.pyapi.bytes_as_string_and_size(given, data, size)
    made = _struct(c.context, c.builder)
    made.data = c.builder.bitcast(c.builder.load(data), made.data.type)
    made.count = c.builder.lshr(c.builder.load(size), _SHIFT)
    return _LIBRARY.NativeValue(made._getvalue(), is_error=c.builder.not_(fine))


def _boxed(kind: Any, value: Any, c: Any) -> Any:
    told = _struct(c.context, c.builder, value)
    data, size = c.builder.bitcast(told.data, c.pyapi.cstring), c.builder.shl(told.count, _SHIFT)
    return c.pyapi.bytes_from_string_and_size(data, size)


_LIBRARY.unbox(_Frozen)(_unboxed)
_LIBRARY.box(_Frozen)(_boxed)


def _compiled(function: Any, result: Any, *arguments: Any) -> Callable[[_F], _F]:
    """What makes a call of ``function`` in a kernel."""
    made = _TEMPLATES.make_concrete_template(function.__name__, function, [_TEMPLATES.signature(result, *arguments)])
    _TEMPLATES.infer_global(function, _TYPES.Function(made))
    return cast("Callable[[_F], _F]", _LIBRARY.lower_builtin(function, *arguments))


def _view(context: Any, builder: Any, kind: Any, data: Any, *shape: Any) -> Any:
    """An array that holds nothing: what it looks at outlives the kernel."""
    view, word = context.make_array(kind)(context, builder), _IR.Constant(_WORD, 8)
    strides = [builder.mul(shape[1], word), word] if len(shape) == 2 else [word]
    _ARRAYS.populate_array(view, data=data, shape=shape, strides=strides, itemsize=word, meminfo=None)
    return view._getvalue()


@_compiled(thaw, _VECTOR, FROZEN)
def _thaw(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    frozen = _struct(context, builder, values[0])
    return _view(context, builder, _VECTOR, frozen.data, frozen.count)


@_compiled(rows, _ROWS, _VECTOR, types.int64, types.int64, types.int64)
def _rows(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    integers, begin, end, columns = values
    data = context.make_array(signature.args[0])(context, builder, integers).data
    count = builder.sdiv(builder.sub(end, begin), columns)
    return _view(context, builder, _ROWS, builder.gep(data, [begin]), count, columns)


@_compiled(room, _VECTOR)
def _room(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    memory = _TOOLS.add_global_variable(builder.module, _IR.ArrayType(_WORD, ROOM), "room")
    memory.linkage, memory.initializer = "internal", _IR.Constant(memory.type.pointee, None)  # zeros
    data = builder.bitcast(memory, context.get_value_type(_POINTER))
    return _view(context, builder, _VECTOR, data, _IR.Constant(_WORD, ROOM))


@_compiled(freeze, FROZEN, _VECTOR)
def _freeze(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    integers = context.make_array(signature.args[0])(context, builder, values[0])
    frozen = _struct(context, builder)
    frozen.data, frozen.count = integers.data, integers.nitems
    return frozen._getvalue()
