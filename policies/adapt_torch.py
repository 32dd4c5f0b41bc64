"""Torch modules, TorchScript and exported programs as policies. Torch is never imported here: who has a module has."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from safeguard.core.errors import SpecError
from safeguard.core.protocols import Policy
from safeguard.core.types import ActionSpec
from safeguard.policies.memory import Memory
from safeguard.policies.reading import Unusable
from safeguard.policies.wrapped import Call, Decoder, Encoder, Options, Wrapped, method, of_columns


def is_torch(source: object) -> bool:
    """A module, compiled or not, or a compiled function."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.nn.Module | torch.jit.ScriptFunction)


def is_program(source: object) -> bool:
    """What ``torch.export.export`` gives."""
    export: Any = sys.modules.get("torch.export")
    return export is not None and isinstance(source, export.ExportedProgram)


def torch_policy(module: Any, spec: ActionSpec, label: str, options: Options) -> Policy:
    """A module in eval mode without autograd; what it remembers is put back when an episode starts.

    Put back is what ``Memory`` keeps before the first call of an episode: not objects of classes of one's own.
    A module that has a method ``reset`` forgets by that; compiled ones by both.
    """
    torch: Any = sys.modules["torch"]
    options.only(f"torch module {label!r}", "encode", "decode")
    encode = options.encoder(label, "torch module", "its input, a tensor or a tuple of several")
    if not isinstance(module, torch.nn.Module):
        return Wrapped(_call(torch, module, encode, options.decode), spec, label)
    module.eval()
    own = method(module, "reset", label)
    memory = None
    if own is None or isinstance(module, torch.jit.ScriptModule):
        memory = Memory(torch, module, label)
    call = _call(torch, module, encode, options.decode, memory)

    def forget() -> None:
        if memory is not None:
            memory.restore()
        if own is not None:
            own()

    return Wrapped(call, spec, label, forget=forget, digest=lambda: weights_digest(module))


def program_policy(program: Any, spec: ActionSpec, label: str, options: Options) -> Policy:
    """An exported program; its declared output is compared with the spec.

    Raises:
        SpecError: as ``as_policy``; or the declared output is not (chunk, columns).
    """
    torch: Any = sys.modules["torch"]
    options.only(f"exported program {label!r}", "encode", "decode")
    encode = options.encoder(label, "exported program", "its input, a tensor or a tuple of several")
    if options.decode is None:
        _compare(program, spec, label)
    module = program.module()
    memory = Memory(torch, module, label)
    call = _call(torch, module, encode, options.decode, memory)
    return Wrapped(call, spec, label, forget=memory.restore, digest=lambda: weights_digest(module))


def _call(torch: Any, module: Any, encode: Encoder, decode: Decoder | None, memory: Memory | None = None) -> Call:
    mode: Callable[[], Any] = torch.inference_mode

    def call(observation: Any) -> Any:
        if memory is not None:
            memory.keep()
        with mode():
            given: Any = encode(observation)
            output = module(*given) if type(given) is tuple else module(given)
            if decode is not None:
                return decode(output)
        if not isinstance(output, torch.Tensor | Mapping):  # one part of a tuple may be a hidden state
            raise Unusable(f"a {type(cast('object', output)).__name__}, of which decode= must make a tensor")
        return output

    return call


def _compare(program: Any, spec: ActionSpec, label: str) -> None:
    """Refuse a declared output that cannot be what ``spec`` describes. A mapping is bound by name later."""
    form: Any = program.call_spec.out_spec
    if form.type is dict:
        if odd := set(form.context) ^ set(spec.joints):
            raise SpecError(
                f"exported program {label!r} gives {form.context}, the spec has {spec.joints}: {odd} differ"
            )
        return
    node: Any = next(node for node in program.graph.nodes if node.op == "output")
    kinds = [item.kind.name for item in program.graph_signature.output_specs]
    values = [value for value, kind in zip(node.args[0], kinds, strict=True) if kind == "USER_OUTPUT"]
    if form.type is not None or len(values) != 1:
        raise SpecError(f"exported program {label!r} gives {form}: decode= must say which of it are the actions")
    declared: Any = values[0].meta["val"].shape
    shape = tuple(size if isinstance(size, int) else None for size in declared)
    if not of_columns(shape, spec):
        raise SpecError(
            f"exported program {label!r} gives {tuple(declared)}, the spec says {spec.shape} for {spec.joints}"
        )


def weights_digest(module: Any) -> str | None:
    """SHA-256 of the names and values of a module's parameters, or None without any."""
    digest, some = hashlib.sha256(), False
    for name, weight in sorted(module.named_parameters()):
        some = True
        raw = weight.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(memoryview(raw.view(sys.modules["torch"].uint8).numpy()))
    return digest.hexdigest() if some else None
