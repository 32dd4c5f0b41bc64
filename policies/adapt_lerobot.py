"""LeRobot policies, by what they can do: ``select_action``, ``predict_action_chunk``, ``config``, ``reset``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Final, cast

from safeguard.core.errors import SpecError
from safeguard.core.protocols import Policy
from safeguard.core.types import ActionSpec, Observation
from safeguard.policies.adapt_torch import weights_digest
from safeguard.policies.reading import Forget
from safeguard.policies.wrapped import Call, Options, Wrapped, method

_LENGTHS: Final = ("chunk_size", "n_action_steps", "horizon")


def is_lerobot(source: object) -> bool:
    """Something that selects actions."""
    return callable(getattr(source, "select_action", None))


def lerobot_policy(policy: Any, spec: ActionSpec, label: str, options: Options) -> Policy:
    """A LeRobot policy with its processors.

    For a spec with ``chunk`` 1 it is asked by ``select_action`` every period, so that its queue, its memory of
    observations and its temporal ensembling work as they are. For longer chunks ``predict_action_chunk`` is asked;
    the spec's chunk is the policy's own length, or its ``n_action_steps``, of which the first rows are taken as the
    policy itself does.

    Raises:
        SpecError: as ``as_policy``; or the policy's configuration contradicts the spec; or its actions are normalised
            and there is no ``postprocess``.
    """
    options.only(f"LeRobot policy {label!r}", "encode", "decode", "preprocess", "postprocess")
    encode = options.encoder(label, "LeRobot policy", "its batch, a mapping of tensors with a batch dimension")
    config: Any = getattr(policy, "config", None)
    _check_columns(config, spec, label)
    _check_normalised(policy, config, label, options)
    if spec.chunk > 1:
        _check_chunk(policy, config, spec, label)
    if callable(getattr(policy, "eval", None)):
        policy.eval()
    stages = [encode, options.preprocess, _asked(policy, config, spec), options.postprocess, options.decode]
    owners = (policy, options.preprocess, options.postprocess)
    forgets = [found for owner in owners if owner is not None and (found := method(owner, "reset", label)) is not None]
    known = hasattr(policy, "named_parameters")
    return Wrapped(
        _in_order([stage for stage in stages if stage is not None]),
        spec,
        label,
        forget=_all_of(forgets),
        digest=(lambda: weights_digest(policy)) if known else None,
    )


def _in_order(stages: list[Callable[[Any], Any]]) -> Call:
    """All stages without autograd: not in inference mode, whose tensors real-time chunking could not differentiate."""

    def call(observation: Observation) -> Any:
        torch: Any = sys.modules.get("torch")
        with nullcontext() if torch is None else torch.no_grad():
            value: Any = observation
            for stage in stages:
                value = stage(value)
            return value

    return call


def _asked(policy: Any, config: Any, spec: ActionSpec) -> Callable[[Any], Any]:
    if spec.chunk == 1:
        return cast("Callable[[Any], Any]", policy.select_action)
    predict = policy.predict_action_chunk
    longer, taken = _number(config, "chunk_size"), _number(config, "n_action_steps")
    if longer is None or longer == spec.chunk or taken != spec.chunk:
        return cast("Callable[[Any], Any]", predict)

    def first(batch: Any) -> Any:
        rows = predict(batch)
        whole = getattr(rows, "ndim", 0) == 3 and rows.shape[1] == longer
        return rows[:, :taken] if whole else rows

    return first


def _check_chunk(policy: Any, config: Any, spec: ActionSpec, label: str) -> None:
    if not callable(getattr(policy, "predict_action_chunk", None)):
        raise SpecError(f"LeRobot policy {label!r} cannot predict chunks: give a spec with chunk=1")
    if getattr(config, "temporal_ensemble_coeff", None) is not None:
        raise SpecError(
            f"LeRobot policy {label!r} ensembles its chunks over time, which whole chunks bypass: "
            "give a spec with chunk=1"
        )
    if (_number(config, "n_obs_steps") or 1) > 1:
        raise SpecError(
            f"LeRobot policy {label!r} looks at {config.n_obs_steps} observations one step apart, which it does not "
            "see when whole chunks are asked for: give a spec with chunk=1"
        )
    said = {name: length for name in _LENGTHS if (length := _number(config, name)) is not None}
    known = {length for name, length in said.items() if name != "horizon"} or set(said.values())
    if known and spec.chunk not in known:
        lengths = ", ".join(f"{name}={length}" for name, length in said.items())
        raise SpecError(f"LeRobot policy {label!r} has {lengths}, the spec says chunk={spec.chunk}")


def _check_columns(config: Any, spec: ActionSpec, label: str) -> None:
    features: Any = getattr(config, "output_features", None)
    feature: Any = cast("Mapping[str, Any]", features).get("action") if isinstance(features, Mapping) else None
    shape: Any = getattr(feature, "shape", None)
    if shape is not None and tuple(shape) != (len(spec.joints),):
        raise SpecError(f"LeRobot policy {label!r} has actions of shape {tuple(shape)}, the spec has {spec.joints}")


def _check_normalised(policy: Any, config: Any, label: str, options: Options) -> None:
    """Its actions leave it normalised, unless it is of the old kind that holds the statistics itself."""
    if options.postprocess is not None or hasattr(policy, "unnormalize_outputs"):
        return
    modes: Any = getattr(config, "normalization_mapping", None)
    mode: Any = cast("Mapping[str, Any]", modes).get("ACTION") if isinstance(modes, Mapping) else None
    if mode is not None and getattr(mode, "name", str(mode)) != "IDENTITY":
        raise SpecError(
            f"LeRobot policy {label!r} gives actions normalised by {getattr(mode, 'name', mode)}: give postprocess=, "
            "the postprocessor that make_pre_post_processors returns"
        )


def _number(config: Any, name: str) -> int | None:
    value: Any = getattr(config, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _all_of(calls: list[Forget]) -> Forget:
    def call() -> None:
        for each in calls:
            each()

    return call
