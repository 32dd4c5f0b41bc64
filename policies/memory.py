"""What a torch module remembers between calls, kept as it was and put back.

Recurrent policies keep their hidden state inside: in buffers, in buffers that are None until the first call, in plain
attributes, in lists of tensors, some of them tied to one another. All of it is put back in place: a tensor gets its
values again and stays the same tensor, so that whatever was tied to it still is.

Not put back: objects of other classes than those that ``_Keeper`` knows, modules that are no parts of the module, and
the random numbers of the whole process.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np

from safeguard.core.errors import SpecError

_PLAIN: Final = (type(None), bool, int, float, complex, str, bytes)
_MAPPINGS: Final = (dict, OrderedDict, defaultdict)
_OF_TORCH: Final = frozenset({"_parameters", "_buffers", "_modules", "training"})
_Restore: TypeAlias = Callable[[], Any]


class Memory:
    """The state of a torch module as it was before the first call since the last ``restore``.

    It is kept no sooner, so that what is loaded into the module or done to all of it (``load_state_dict``, ``double``,
    ``to``) between ``restore`` and the next call counts. What is done later, ``restore`` undoes in the buffers, as
    everything else, but not in the weights.

    Args:
        module: a ``torch.nn.Module``, compiled (TorchScript) or not.
        label: its name, for errors.

    Raises:
        SpecError: compiled code keeps state in an object that cannot be copied.
    """

    def __init__(self, torch: Any, module: Any, label: str) -> None:
        self._torch, self._module, self._label = torch, module, label
        self._compiled = isinstance(module, torch.jit.ScriptModule)
        self._put_back: list[_Restore] | None = None
        self._variables = list(_variables(module.modules())) if self._compiled else []
        self._kept()  # what cannot be kept is known now

    def keep(self) -> None:
        """Before each call: remember the state, if this is the first one since ``restore``."""
        if self._put_back is None:
            self._put_back = self._kept()

    def restore(self) -> None:
        """Put everything back. Before the first call there is nothing to put back."""
        if self._put_back is None:
            return
        with self._torch.inference_mode():
            for put_back in self._put_back:
                put_back()
        self._put_back = None

    def _kept(self) -> list[_Restore]:
        with self._torch.inference_mode():
            weights = {weight.data_ptr() for weight in self._module.parameters()}
            keep = _Keeper(self._torch, weights, whole=self._compiled)
            if self._compiled:
                return list(_compiled(keep, self._variables, self._label))
            return list(_plain(keep, list(self._module.modules())))


class _Keeper:
    """Copies values so that they can be made again.

    Tensors, arrays, numbers and texts, generators of random numbers; and of these lists, tuples (named ones, too),
    dictionaries, deques and dataclasses. Something else inside them is left as it is, or with ``whole`` keeps them from
    being copied.
    """

    def __init__(self, torch: Any, weights: set[int], *, whole: bool) -> None:
        self._torch, self._weights, self._whole = torch, weights, whole
        self._known: set[int] = set()  # what is put back in place, which may be found again or contain itself

    def __call__(self, value: Any) -> _Restore | None:
        """What makes ``value`` again, or None for things of another kind."""
        if isinstance(value, _PLAIN):
            return lambda: value
        if isinstance(value, self._torch.Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray):
            return _array(cast("np.ndarray[Any, np.dtype[Any]]", value))
        if isinstance(value, self._torch.Generator | np.random.Generator):
            return _generator(value)
        if isinstance(value, tuple):
            return self._tuple(cast("tuple[object, ...]", value))
        if id(value) in self._known:
            return lambda: value
        if type(value) in _MAPPINGS:
            return self._in_place(value, value, value.update)
        if type(value) in (list, deque):
            items = dict(enumerate(cast("list[object]", value)))
            return self._in_place(value, items, lambda made: value.extend(made.values()))
        if is_dataclass(value) and not isinstance(value, type | self._torch.nn.Module):
            return self._object(value)
        return None

    def _tensor(self, tensor: Any) -> _Restore:
        if tensor.data_ptr() in self._weights:
            return lambda: tensor  # a weight under another name
        shape, place = tensor.shape, self._narrow(tensor.detach())
        copy = place.clone()

        def restore() -> Any:
            if tensor.shape != shape:  # it was resized in place
                return copy.expand(shape).clone()
            place.copy_(copy)
            return tensor

        return restore

    def _narrow(self, tensor: Any) -> Any:
        """One of those elements that an expanded tensor has in one place; nobody can write to them together."""
        if tensor.layout is self._torch.strided:
            for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
                if size > 1 and stride == 0:
                    tensor = tensor.narrow(axis, 0, 1)
        return tensor

    def _all(self, values: Mapping[Any, Any]) -> Callable[[], dict[Any, Any]] | None:
        kept: dict[Any, _Restore] = {}
        for key, value in values.items():
            restore = self(value)
            if restore is None and self._whole:
                return None
            kept[key] = restore or _same(value)
        return lambda: {key: restore() for key, restore in kept.items()}

    def _tuple(self, value: tuple[object, ...]) -> _Restore | None:
        build: Any = tuple if type(value) is tuple else getattr(type(value), "_make", None)
        make = self._all(dict(enumerate(value)))
        return None if make is None or build is None else lambda: build(make().values())

    def _in_place(self, value: Any, items: Mapping[Any, Any], fill: Callable[[Any], object]) -> _Restore | None:
        """Puts ``items`` back into the container ``value``."""
        self._known.add(id(value))
        make = self._all(items)
        if make is None:
            return None

        def restore() -> Any:
            made = make()
            value.clear()
            fill(made)
            return value

        return restore

    def _object(self, value: Any) -> _Restore | None:
        """A dataclass; its own ``__init__`` and ``__setattr__`` are not asked."""
        self._known.add(id(value))
        slots = [item.name for item in fields(value) if item.name not in getattr(value, "__dict__", {})]
        slots = [name for name in slots if hasattr(value, name)]
        make_slots = self._all({name: getattr(value, name) for name in slots})
        contents: dict[str, Any] = getattr(value, "__dict__", {})
        make_rest = self._in_place(contents, contents, contents.update)
        if make_slots is None or make_rest is None:
            return None

        def restore() -> Any:
            make_rest()
            for name, made in make_slots().items():
                object.__setattr__(value, name, made)
            return value

        return restore


def _same(value: object) -> _Restore:
    return lambda: value


def _generator(generator: Any) -> _Restore:
    """Of torch or of numpy: goes on from the number at which it is."""
    ours = isinstance(generator, np.random.Generator)
    state = generator.bit_generator.state if ours else generator.get_state()

    def restore() -> Any:
        if ours:
            generator.bit_generator.state = state
        else:
            generator.set_state(state)
        return generator

    return restore


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


def _variables(modules: Iterable[Any]) -> Iterator[tuple[Any, str]]:
    """Attributes that compiled code reads and may change; it can have no others that matter."""
    parts = [part._c for part in modules]
    names = sorted({name for part in parts for name in _read(part)})
    for part in parts:
        for name in names:
            if part.hasattr(name):
                value = part.getattr(name)
                if "ScriptModule" not in type(value).__name__ and _is_variable(part, name, value):
                    yield part, name


def _compiled(keep: _Keeper, variables: list[tuple[Any, str]], label: str) -> Iterator[_Restore]:
    for part, name in variables:
        value = part.getattr(name)
        make = keep(value)
        if make is None:
            raise SpecError(
                f"TorchScript module {label!r} keeps {type(value).__name__} in {name!r}, which cannot be put back "
                "at the start of an episode: keep state in tensors, numbers, and lists or dictionaries of them"
            )
        yield _assign(part, name, make)


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
