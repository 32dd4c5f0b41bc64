"""ONNX files and sessions as policies, and the specs that their metadata give."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np

from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError
from safeguard.core.protocols import Policy
from safeguard.core.types import ActionSpec
from safeguard.policies.onnx_metadata import contradiction, declared, in_si, says
from safeguard.policies.wrapped import Encoder, Options, Wrapped, chained, of_columns

_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"}
    | {f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
_ACTIONS: Final = ("actions", "action", "continuous_actions")  # what exporters call them


def is_onnx(source: object) -> bool:
    """A path, or an ``onnxruntime.InferenceSession``."""
    if isinstance(source, str | Path):
        return True
    return all(callable(getattr(source, name, None)) for name in ("get_inputs", "get_outputs", "get_modelmeta", "run"))


def onnx_policy(source: Any, spec: ActionSpec, label: str, options: Options) -> Policy:
    """An ONNX model; its declared shapes and metadata are compared with the spec.

    A file runs on one thread of the CPU; hand over a session for anything else. Inputs are converted to the declared
    type if nothing but precision is lost, and get a batch dimension in front where just that is missing.

    Raises:
        SpecError: as ``as_policy``; or the file cannot be loaded, it contradicts the spec, or ``output`` or
            ``recurrent`` name what it does not have.
    """
    options.only(f"ONNX model {label!r}", "encode", "decode", "output", "recurrent")
    encode = options.encoder(label, "ONNX model", "its input, or a mapping from input to array")
    session = _session(source, label)
    if odd := contradiction(declared(session), spec):
        raise SpecError(f"ONNX model {label!r}: {odd}")
    model = _Model(session, label, options)
    if options.decode is None:
        model.compare(spec)
    digest = _file_digest(source) if isinstance(source, str | Path) else None
    call = chained(model.fed(encode), model.run, options.decode)
    return Wrapped(call, spec, label, forget=model.forget, digest=digest)


def onnx_spec(source: object, rate_hz: float, **given: Any) -> ActionSpec:
    """The spec that an ONNX file's metadata declare: joints, gains, scale and default positions of a PD target.

    Numbers of a file are in SI units. Its default positions are those of PD targets and of absolute positions, and say
    nothing of other references.

    Args:
        source: the file's path, or its session.
        rate_hz: how often the policy is to be asked.
        given: further fields of the spec, or those that the file leaves out: ``joints``, ``kp``, ``kd``, ``scale``,
            ``offset``, ``reference``, …

    Raises:
        SpecError: the file cannot be loaded, a field is in neither, the two contradict one another, or the spec is in
            another unit than the file's numbers that it would take.
    """
    label = Path(source).stem if isinstance(source, str | Path) else type(source).__name__
    if not is_onnx(source):
        raise SpecError(f"onnx_spec needs an ONNX file or a session, got {label}")
    found = declared(_session(source, label))
    fields: dict[str, Any] = {"unit": "rad", "reference": Reference.PD_TARGET, **found, **given}
    fields = {name: value for name, value in fields.items() if name in given or _meant(name, fields["reference"])}
    if missing := [name for name in _needed(fields["reference"]) if name not in fields]:
        raise SpecError(f"ONNX model {label!r} does not say {', '.join(missing)}: give them to onnx_spec by name")
    spec = ActionSpec(rate_hz=rate_hz, **fields)
    taken = [name for name in ("scale", "offset") if name in fields and name not in given]
    if taken and np.any(np.abs(in_si(spec) - 1.0) > 0.0):  # not where a column is no joint: NaN
        raise SpecError(
            f"ONNX model {label!r} gives {' and '.join(taken)} in SI units, the spec is in {spec.unit!r}: leave the "
            "unit out, or give them to onnx_spec in it"
        )
    if odd := contradiction(found, spec):
        raise SpecError(f"ONNX model {label!r}: {odd}")
    return spec


def _meant(field: str, reference: Reference) -> bool:
    """Whether what the file says of ``field`` is about actions of this reference."""
    return reference is Reference.PD_TARGET if field in ("kp", "kd") else says(field, reference)


def _needed(reference: Reference) -> tuple[str, ...]:
    return ("joints", "kp", "kd", "scale", "offset") if reference is Reference.PD_TARGET else ("joints",)


def _session(source: Any, label: str) -> Any:
    if not isinstance(source, str | Path):
        return source
    path = Path(source)
    if path.suffix != ".onnx" or not path.is_file():
        raise SpecError(f"{str(path)!r} is no ONNX file; other files: load them and hand over what they hold")
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ImportError:
        raise SpecError(f"{label!r} is an ONNX file: pip install 'safeguard-runtime[onnx]'") from None
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises a type of its own for every fault
        raise SpecError(f"{str(path)!r} cannot be loaded: {error}") from error


def _file_digest(source: str | Path) -> Callable[[], str]:
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()  # of what was loaded, not of what is there later
    return lambda: digest


class _Model:
    """A session with its inputs, the output that holds the actions, and what is fed back."""

    def __init__(self, session: Any, label: str, options: Options) -> None:
        self._session, self._label = session, label
        self._inputs: dict[str, Any] = {item.name: item for item in session.get_inputs()}
        self._outputs: dict[str, Any] = {item.name: item for item in session.get_outputs()}
        self._fed_back = self._pairs(options.recurrent)
        self._free = [name for name in self._inputs if name not in self._fed_back]
        self._chosen = self._actions(options.output)
        self._wanted = [self._chosen, *self._fed_back.values()]
        self._types = {name: self._type(item) for name, item in self._inputs.items()}
        self._ranks = {name: len(item.shape) for name, item in self._inputs.items()}
        self._state: dict[str, Any] = {}
        self._start = {name: self._zeros(self._inputs[name]) for name in self._fed_back}
        self.forget()

    def forget(self) -> None:
        """Back to zeros."""
        self._state = dict(self._start)

    def compare(self, spec: ActionSpec) -> None:
        """Refuse a declared output that cannot be what ``spec`` describes."""
        item = self._outputs[self._chosen]
        if not item.type.startswith("tensor(") or item.type[7:-1] not in _TYPES:
            raise SpecError(f"ONNX model {self._label!r}: {self._chosen!r} is {item.type}, expected numbers")
        shape = _known(item.shape)
        if shape and not of_columns(shape, spec):
            raise SpecError(
                f"ONNX model {self._label!r}: {self._chosen!r} has shape {item.shape}, the spec says {spec.shape} "
                f"for {spec.joints}"
            )

    def fed(self, encode: Encoder) -> Encoder:
        """From observation to the inputs that are not fed back."""
        return lambda observation: self._feed(encode(observation))

    def run(self, feed: dict[str, Any]) -> Any:
        """The actions; what is remembered changes only when the run succeeds."""
        if not self._fed_back:
            return self._session.run(self._wanted, feed)[0]
        actions, *states = self._session.run(self._wanted, feed | self._state)
        self._state = dict(zip(self._fed_back, states, strict=True))
        return actions

    def _feed(self, given: Any) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            if len(self._free) != 1:
                raise SpecError(
                    f"ONNX model {self._label!r} has the inputs {self._free}: encode= must give a mapping, got "
                    f"{type(given).__name__}"
                )
            return {self._free[0]: self._input(self._free[0], given)}
        inputs = cast("Mapping[object, object]", given)
        unknown = [str(name) for name in inputs if name not in self._free]
        if unknown or len(inputs) != len(self._free):
            missing = [name for name in self._free if name not in inputs]
            raise SpecError(f"ONNX model {self._label!r}: encode= gave unknown inputs {unknown}, left out {missing}")
        return {name: self._input(name, inputs[name]) for name in self._free}

    def _input(self, name: str, value: Any) -> Any:
        array = np.asarray(value)
        if array.dtype != self._types[name]:
            array = array.astype(self._types[name], casting="same_kind")
        return array[np.newaxis] if array.ndim == self._ranks[name] - 1 else array

    def _pairs(self, given: Mapping[str, str] | None) -> dict[str, str]:
        if given is None:
            pairs = {name: _partner(name) for name in self._inputs}
            return {name: other for name, other in pairs.items() if other in self._outputs}
        odd = [name for name in given if name not in self._inputs]
        odd += [name for name in given.values() if name not in self._outputs]
        if odd:
            raise SpecError(
                f"ONNX model {self._label!r} has no {odd}; inputs {list(self._inputs)}, outputs {list(self._outputs)}"
            )
        return dict(given)

    def _actions(self, given: str | None) -> str:
        left = [name for name in self._outputs if name not in self._fed_back.values()]
        if given is not None:
            left = [name for name in left if name == given]
        elif len(left) > 1:
            left = [name for name in left if name in _ACTIONS]
        if len(left) != 1:
            raise SpecError(
                f"ONNX model {self._label!r}: output= must name the actions among {list(self._outputs)}, got {given!r}"
            )
        return left[0]

    def _type(self, item: Any) -> Any:
        found = _TYPES.get(item.type[7:-1]) if item.type.startswith("tensor(") else None
        if found is None:
            raise SpecError(f"ONNX model {self._label!r}: input {item.name!r} is {item.type}, expected numbers")
        return np.dtype(found)

    def _zeros(self, item: Any) -> Any:
        """The start of what is fed back; a length that the model leaves open is a batch of 1."""
        shape, other = _known(item.shape), _known(self._outputs[self._fed_back[item.name]].shape)
        if len(shape) != len(other) or any(
            a != b for a, b in zip(shape, other, strict=True) if a is not None and b is not None
        ):
            raise SpecError(
                f"ONNX model {self._label!r}: {self._fed_back[item.name]!r} cannot be fed back to {item.name!r}: "
                f"shapes {other} and {shape}"
            )
        return np.zeros([1 if size is None else size for size in shape], self._type(item))


def _known(shape: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in shape)


def _partner(name: str) -> str:
    """The output that an input of this name would be fed from: h_in from h_out, h0 from hn."""
    other = re.sub(r"(^|[_.])in(?=$|[_.\d])", r"\1out", name)
    return other if other != name else re.sub(r"^([hc])_?0$", r"\1n", name)
