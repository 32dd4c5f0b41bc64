"""Anything that computes actions, as a ``Policy``.

Shapes and values go out as they are: a wrong one is for intake to refuse, not for an adapter to hide.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from safeguard.core.errors import SpecError
from safeguard.core.protocols import Policy
from safeguard.core.types import ActionSpec, Observation, Proposal, frozen_array

Encoder = Callable[[Observation], Any]
"""Observation to what a torch module takes: one tensor, batched or not as the module wants it."""
_Call = Callable[..., Any]


def as_policy(
    source: object, spec: ActionSpec | None = None, name: str | None = None, encode: Encoder | None = None
) -> Policy:
    """``source`` as a policy.

    Args:
        source: a policy (returned as it is), a callable from ``Observation`` to an array of shape
            (chunk, joints), or a ``torch.nn.Module`` whose output is such an array. A module
            is put into eval mode.
        spec: what the numbers mean; needed unless ``source`` is a policy.
        name: written to records; the callable's own name if None.
        encode: what to feed a torch module with; needed for one.

    Raises:
        SpecError: the spec or the encoder is missing, the spec contradicts the policy's own, or ``source``
            is nothing that can be called.
    """
    label = name or _name(source)
    if isinstance(source, Policy):
        if spec is not None and spec != source.spec:
            raise SpecError(f"policy {label!r} has its own spec {source.spec}, the given one differs: {spec}")
        return source
    if not callable(source):
        raise SpecError(f"{label!r} is neither a policy (spec, infer, reset), a callable nor a torch module")
    if spec is None:
        raise SpecError(f"policy {label!r} needs spec=ActionSpec(...): joints, unit, reference, rate and chunk")
    if _is_torch_module(source):
        if encode is None:
            raise SpecError(f"torch module {label!r} needs encode=: from Observation to its input tensor")
        return _Called(_module_call(source, encode), spec, label, source)
    return _Called(source, spec, label, source)


class _Called:
    """A callable from observation to array, with stamps and sequence numbers filled in."""

    def __init__(self, call: _Call, spec: ActionSpec, name: str, owner: object) -> None:
        self.spec, self.name = spec, name
        self._call, self._owner, self._seq = call, owner, 0

    def infer(self, observation: Observation) -> Proposal:
        actions = np.array(self._call(observation), dtype=np.float64)  # a copy: the guest may reuse its own
        actions.setflags(write=False)
        stamp, self._seq = observation.state.t, self._seq + 1
        return Proposal(frozen_array(actions), stamp, stamp, self.name, self._seq - 1)

    def reset(self) -> None:
        self._seq = 0
        forget = getattr(self._owner, "reset", None)
        if callable(forget):
            forget()


def _module_call(module: Any, encode: Encoder) -> _Call:
    torch = sys.modules["torch"]
    module.eval()

    def call(observation: Observation) -> Any:
        with torch.inference_mode():
            return module(encode(observation)).double().cpu().numpy()

    return call


def _is_torch_module(source: object) -> bool:
    """Without importing torch: who has a module has imported it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.nn.Module)


def _name(source: object) -> str:
    return str(getattr(source, "name", None) or getattr(source, "__name__", None) or type(source).__name__)
