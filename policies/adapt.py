"""Anything that computes actions, as a ``Policy``.

Shapes and values go out as they are: a wrong one is for intake to refuse, not for an adapter to hide. What can be
known before the first call is refused here. Nothing is called to find out: a call may change what a policy remembers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from safeguard.core.action import spec_differences
from safeguard.core.errors import SpecError
from safeguard.core.protocols import Policy
from safeguard.core.types import ActionSpec, Observation
from safeguard.policies.adapt_lerobot import is_lerobot, lerobot_policy
from safeguard.policies.adapt_onnx import is_onnx, onnx_policy
from safeguard.policies.adapt_sb3 import is_agent, sb3_policy
from safeguard.policies.adapt_torch import is_program, is_torch, program_policy, torch_policy
from safeguard.policies.reading import Unusable
from safeguard.policies.wrapped import Decoder, Encoder, Options, Wrapped, chained, method, takes

_NEEDS: Final = "needs spec=ActionSpec(...): joints, unit, reference, rate and chunk"


def as_policy(
    source: Callable[[Observation], Any] | object,
    spec: ActionSpec | None = None,
    name: str | None = None,
    encode: Encoder | None = None,
    decode: Decoder | None = None,
    *,
    preprocess: Callable[[Any], Any] | None = None,
    postprocess: Callable[[Any], Any] | None = None,
    output: str | None = None,
    recurrent: Mapping[str, str] | None = None,
) -> Policy:
    """``source`` as a policy.

    Outputs are arrays of shape (chunk, columns), with a batch dimension of 1 in front or not; where ``spec.chunk``
    is 1 also (columns,). A mapping from column to array is bound by name. Anything else goes out as it is.

    Args:
        source: one of

            - a policy (``spec``, ``infer``, ``reset``), returned as it is;
            - a callable from ``Observation`` to actions;
            - a ``torch.nn.Module``, TorchScript module or function, or ``torch.export`` program. It runs in eval mode
              without autograd; what it remembers is put back when an episode starts. A tuple from ``encode`` is
              several arguments;
            - an ONNX file or ``InferenceSession``: ``encode`` gives its input, or a mapping from input to array;
            - a Stable-Baselines3 agent, asked deterministically, its recurrent state kept. ``spec`` gets the bounds of
              its action space as range where it has none;
            - a LeRobot policy: ``select_action`` where ``spec.chunk`` is 1, else ``predict_action_chunk``;
            - an object whose ``infer`` takes a mapping and gives one with ``"actions"``, as openpi's policies do.
        spec: what the numbers mean; needed unless ``source`` is a policy. For an ONNX file see ``onnx_spec``.
        name: written to records; the source's own name if None.
        encode: from observation to what ``source`` takes; needed for all but callables and policies.
        decode: from what ``source`` gives to actions, where those are part of something else.
        preprocess, postprocess: of a LeRobot policy, around the call; its actions are normalised before.
        output: name of the ONNX output with the actions, where it is not clear.
        recurrent: ONNX inputs to the outputs that are fed back to them, from zeros at the start of an episode; by
            default those named alike (``h_in``, ``h_out``).

    Raises:
        SpecError: no spec, or it contradicts what ``source`` declares; no encoder; something that would be ignored;
            or ``source`` is nothing that can be called.
    """
    if name == "":
        raise SpecError("name= is empty: leave it out for the source's own")
    if isinstance(source, type):
        raise SpecError(f"{source.__name__!r} is a class: hand over an object of it")
    options = Options(encode, decode, preprocess, postprocess, output, recurrent)
    if isinstance(source, Policy):
        return _itself(source, spec, name, options)
    label = name or _name(source)
    adapter = _adapter(source, label)
    if spec is None:
        hint = ", or spec=onnx_spec(path, rate_hz) where the file says what it controls" if is_onnx(source) else ""
        raise SpecError(f"policy {label!r} {_NEEDS}{hint}")
    return adapter(source, spec, label, options)


_Adapter = Callable[[Any, ActionSpec, str, Options], Policy]


def _adapter(source: object, label: str) -> _Adapter:
    kinds: tuple[tuple[Callable[[object], bool], _Adapter], ...] = (
        (is_onnx, onnx_policy),
        (is_lerobot, lerobot_policy),
        (is_agent, sb3_policy),
        (is_program, program_policy),
        (is_torch, torch_policy),
        (_is_remote, _remote),
        (callable, _called),
    )
    for fits, adapter in kinds:
        if fits(source):
            return adapter
    raise SpecError(
        f"{label!r} is no policy (spec, infer, reset), no callable, and nothing of torch, ONNX, Stable-Baselines3, "
        "LeRobot or openpi"
    )


def _itself(policy: Policy, spec: ActionSpec | None, name: str | None, options: Options) -> Policy:
    own = _name(policy)
    options.only(f"policy {own!r}, which speaks for itself,")
    if spec is not None and spec != policy.spec:
        raise SpecError(
            f"policy {own!r} has its own spec {policy.spec}, the given one differs in "
            f"{', '.join(spec_differences(policy.spec, spec))}: {spec}"
        )
    if name is not None and name != own:
        raise SpecError(f"policy {own!r} has a name already, name={name!r} would be ignored: name it where it is made")
    return policy


def _called(source: Callable[[Any], Any], spec: ActionSpec, label: str, options: Options) -> Policy:
    """A callable; with ``encode``, of what that gives."""
    options.only(f"callable {label!r}", "encode", "decode")
    if inspect.iscoroutinefunction(source) or inspect.iscoroutinefunction(getattr(source, "__call__", None)):  # noqa: B004
        raise SpecError(f"callable {label!r} is asynchronous: it gives no actions, but a promise of some")
    if not takes(source, 1):
        raise SpecError(f"callable {label!r} is called with one argument, the observation; it cannot be")
    call = source
    if options.encode is not None or options.decode is not None:
        call = chained(options.encode or _unchanged, source, options.decode)
    return Wrapped(call, spec, label, forget=method(source, "reset", label), close=method(source, "close", label))


def _remote(source: Any, spec: ActionSpec, label: str, options: Options) -> Policy:
    """An object that answers mappings with mappings."""
    options.only(f"policy {label!r}", "encode", "decode")
    encode = options.encoder(label, "policy", "the mapping that its infer takes")
    call = chained(encode, source.infer, options.decode or _actions)
    return Wrapped(call, spec, label, forget=method(source, "reset", label), close=method(source, "close", label))


def _actions(answer: Any) -> Any:
    if not (isinstance(answer, Mapping) and "actions" in answer):
        raise Unusable(f"a {type(cast('object', answer)).__name__}, expected a mapping with 'actions'")
    return cast("Mapping[str, object]", answer)["actions"]


def _unchanged(observation: Observation) -> Observation:
    return observation


def _is_remote(source: object) -> bool:
    return callable(getattr(source, "infer", None)) and not hasattr(source, "spec")


def _name(source: object) -> str:
    if isinstance(source, str | Path):
        return Path(source).stem
    for attribute in ("name", "__name__"):
        found = getattr(source, attribute, None)
        if isinstance(found, str) and found:
            return found
    return type(source).__name__
