"""Stable-Baselines3 agents as policies."""

from __future__ import annotations

from typing import Any

import numpy as np

from safeguard.core.errors import SpecError
from safeguard.core.protocols import Policy
from safeguard.core.types import ActionSpec, Observation
from safeguard.policies.adapt_torch import weights_digest
from safeguard.policies.wrapped import Options, Wrapped, of_columns


def is_agent(source: object) -> bool:
    """An agent, or the policy network of one."""
    return callable(getattr(source, "predict", None)) and hasattr(source, "action_space")


def sb3_policy(agent: Any, spec: ActionSpec, label: str, options: Options) -> Policy:
    """An agent, asked deterministically; what a recurrent one remembers is kept until the episode ends.

    ``encode`` gives what ``predict`` takes, normalised as in training: an environment's ``VecNormalize`` is not part
    of the agent.

    Raises:
        SpecError: as ``as_policy``; or its actions are no numbers, or not as many as the spec has columns.
    """
    options.only(f"agent {label!r}", "encode", "decode")
    encode = options.encoder(label, "agent", "what its predict takes")
    if options.decode is None:
        spec = _ranged(agent.action_space, spec, label)
    predict, decode = agent.predict, options.decode
    first, later = np.array([True]), np.array([False])
    state: Any = None
    starts = first

    def call(observation: Observation) -> Any:
        nonlocal state, starts
        actions, state = predict(encode(observation), state, starts, True)
        starts = later
        return actions if decode is None else decode(actions)

    def forget() -> None:
        nonlocal state, starts
        state, starts = None, first

    network = getattr(agent, "policy", agent)
    known = hasattr(network, "named_parameters")
    return Wrapped(call, spec, label, forget=forget, digest=(lambda: weights_digest(network)) if known else None)


def _ranged(space: Any, spec: ActionSpec, label: str) -> ActionSpec:
    """``spec`` with the bounds of the agent's action space, where it has none of its own."""
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None:
        raise SpecError(f"agent {label!r} acts in {space}, which has no columns: decode= must make actions of that")
    if not of_columns(tuple(space.shape), spec):
        raise SpecError(f"agent {label!r} acts in {space}, the spec says {spec.shape} for {spec.joints}")
    rows = np.reshape(low, (-1, len(spec.joints))), np.reshape(high, (-1, len(spec.joints)))
    bounds = {"low": rows[0].min(axis=0), "high": rows[1].max(axis=0)}
    missing = {
        name: bound for name, bound in bounds.items() if getattr(spec, name) is None and np.isfinite(bound).all()
    }
    return spec.changed(**missing) if missing else spec
