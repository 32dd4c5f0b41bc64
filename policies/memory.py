"""What a torch module remembers between calls, kept as it was and put back.

Recurrent policies keep their hidden state inside: in buffers, in buffers that are None until the first call, in plain
attributes, in lists of tensors, some of them tied to one another. All of it is put back in place: a tensor gets its
values again and stays the same tensor, so that whatever was tied to it still is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias, cast

import numpy as np

from safeguard.core.errors import SpecError

_PLAIN: Final = (type(None), bool, int, float, complex, str, bytes)
_OF_TORCH: Final = frozenset({"_parameters", "_buffers", "_modules", "training"})
_Restore: TypeAlias = Callable[[], Any]


class Memory:
    """The state of a torch module as it was when this was made.

    Args:
        module: a ``torch.nn.Module``, compiled (TorchScript) or not.
        label: its name, for errors.

    Raises:
        SpecError: compiled code keeps state in an object that cannot be copied.
    """

    def __init__(self, torch: Any, module: Any, label: str) -> None:
        self._torch = torch
        with torch.inference_mode():
            compiled = isinstance(module, torch.jit.ScriptModule)
            keep = _Keeper(torch, {weight.data_ptr() for weight in module.parameters()})
            parts = list(module.modules())
            self._put_back = list(_compiled(keep, parts, label) if compiled else _plain(keep, parts))

    def restore(self) -> None:
        """Put everything back."""
        with self._torch.inference_mode():
            for put_back in self._put_back:
                put_back()


class _Keeper:
    """Copies values so that they can be made again."""

    def __init__(self, torch: Any, weights: set[int]) -> None:
        self._torch, self._weights = torch, weights

    def __call__(self, value: Any) -> _Restore | None:
        """What makes ``value`` again, or None for things of another kind."""
        if isinstance(value, _PLAIN):
            return lambda: value
        if isinstance(value, self._torch.Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray):
            return _array(cast("np.ndarray[Any, np.dtype[Any]]", value))
        if type(value) is dict:
            return self._all(cast("dict[object, object]", value), lambda made: dict(made))
        if type(value) is list:
            return self._all(dict(enumerate(cast("list[object]", value))), lambda made: list(made.values()))
        if type(value) is tuple:
            return self._all(dict(enumerate(cast("tuple[object, ...]", value))), lambda made: tuple(made.values()))
        if type(value) is deque:
            longest = cast("deque[object]", value).maxlen
            return self._all(dict(enumerate(cast("deque[object]", value))), lambda made: deque(made.values(), longest))
        return None

    def _tensor(self, tensor: Any) -> _Restore:
        if tensor.data_ptr() in self._weights:
            return lambda: tensor  # a weight under another name
        copy = tensor.detach().clone()

        def restore() -> Any:
            if tensor.shape != copy.shape:  # it was resized in place
                return copy.clone()
            tensor.copy_(copy)
            return tensor

        return restore

    def _all(self, values: dict[Any, Any], build: Callable[[dict[Any, Any]], Any]) -> _Restore | None:
        kept: dict[Any, _Restore] = {}
        for key, value in values.items():
            restore = self(value)
            if restore is None:
                return None
            kept[key] = restore
        return lambda: build({key: restore() for key, restore in kept.items()})


def _array(array: np.ndarray[Any, np.dtype[Any]]) -> _Restore:
    copy = array.copy()

    def restore() -> Any:
        if array.flags.writeable:
            array[...] = copy
        return array

    return restore


def _plain(keep: _Keeper, parts: list[Any]) -> Iterator[_Restore]:
    """Buffers and plain attributes; attributes that a call adds are taken away again."""
    for part in parts:
        yield _kept_items(keep, part._buffers, frozenset(), whole=True)
        if not type(part).__module__.startswith("torch.fx"):  # an exported program has no attributes of its own
            yield _kept_items(keep, part.__dict__, _OF_TORCH, whole=False)


def _kept_items(keep: _Keeper, items: dict[str, Any], leave: frozenset[str], *, whole: bool) -> _Restore:
    """Puts the items of a dictionary back that can be; ``whole``: no others may stay."""
    kept = {name: keep(value) for name, value in items.items() if name not in leave and not _is_hook(name)}
    known = set(items)

    def restore() -> None:
        for name in set(items) - known:
            if whole or keep(items[name]) is not None:
                del items[name]
        for name, make in kept.items():
            if make is not None:
                items[name] = make()

    return restore


def _is_hook(name: str) -> bool:
    return "hook" in name or name.startswith("_is_full") or name == "_non_persistent_buffers_set"


def _compiled(keep: _Keeper, parts: list[Any], label: str) -> Iterator[_Restore]:
    """Attributes that compiled code reads; it can have no others that matter."""
    names = {name for part in parts for name in _read(part._c)}
    for part in parts:
        inner = part._c
        for name in sorted(names):
            if not inner.hasattr(name):
                continue
            value = inner.getattr(name)
            if "ScriptModule" in type(value).__name__ or not _is_variable(inner, name, value):
                continue
            make = keep(value)
            if make is None:
                raise SpecError(
                    f"TorchScript module {label!r} keeps {type(value).__name__} in {name!r}, which cannot be put back "
                    "at the start of an episode: keep state in tensors, numbers, and lists or dictionaries of them"
                )
            yield _assign(inner, name, make)


def _is_variable(inner: Any, name: str, value: Any) -> bool:
    """Whether compiled code may change it; constants look like attributes until one tries."""
    try:
        inner.setattr(name, value)
    except RuntimeError:
        return False
    return name != "training"


def _assign(inner: Any, name: str, make: _Restore) -> _Restore:
    return lambda: inner.setattr(name, make())


def _read(inner: Any) -> Iterator[str]:
    for name in inner._method_names():
        for node in inner._get_method(name).graph.findAllNodes("prim::GetAttr"):
            yield node.s("name")
