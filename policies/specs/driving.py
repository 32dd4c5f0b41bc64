"""Actions of highway-env (1.12) and MetaDrive (0.4.3), from environments or configurations.

    highway-env   ContinuousAction     acceleration (m/s²) and steering (rad), as configured
                  DiscreteAction       one token: a point of the grid over both
                  DiscreteMetaAction   one token: lane change or target speed
                  MultiAgentAction     the same for every controlled vehicle, vehicle by vehicle
    MetaDrive     [steering, throttle_brake]: steering angle (rad, left is positive) and a share of the pedal (above 0
                  of the engine's largest force, below 0 of the brake's); or tokens for both

Both simulators clip what is out of range without a word; a spec refuses it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec
from safeguard.policies.specs.columns import Column, described, is_mapping, linear, optional, setting, tokens

_ACCELERATION: Final = (-5.0, 5.0)  # m/s², highway-env's default
_STEERING: Final = (-math.pi / 4, math.pi / 4)  # rad, highway-env's default
_META: Final[Mapping[tuple[bool, bool], tuple[str, ...]]] = MappingProxyType(
    {  # by longitudinal, lateral
        (True, True): ("LANE_LEFT", "IDLE", "LANE_RIGHT", "FASTER", "SLOWER"),
        (True, False): ("SLOWER", "IDLE", "FASTER"),
        (False, True): ("LANE_LEFT", "IDLE", "LANE_RIGHT"),
    }
)
_MAX_STEERING_DEG: Final[Mapping[str, float]] = MappingProxyType(  # by MetaDrive's vehicle_model
    {"default": 40.0, "static_default": 40.0, "s": 50.0, "m": 45.0, "l": 40.0, "xl": 35.0}
)
_METADRIVE_POLICY: Final = "EnvInputPolicy"  # the only one that executes the action as it is


def highway_env_spec(source: Any, *, rate_hz: float | None = None) -> ActionSpec:
    """What an action of highway-env means.

    Args:
        source: an environment, its ``action_type``, its configuration, or the ``"action"`` part of that.
        rate_hz: actions per second; needed with an action configuration alone, else the ``policy_frequency`` found.

    Returns:
        A spec with one row per action: ``CONTROL`` with the columns ``acceleration`` and ``steering``, or ``TOKENS``
        with the column ``action``. With several vehicles every vehicle has its columns, ``vehicle0.acceleration``, ….

    Raises:
        SpecError: an action type that is not described here, or no rate.
    """
    action, found, vehicles = _highway(source)
    rate = found if rate_hz is None else rate_hz
    if rate is None:
        raise SpecError("this has no policy_frequency: say rate_hz=, actions per second")
    if _kind(action) != "MultiAgentAction":
        return described(_highway_columns(action), rate, None, {})
    agents = optional(action, "agents_action_types")
    each = list(agents) if agents is not None else [setting(action, "action_config", "MultiAgentAction")] * vehicles
    columns = [
        Column(f"vehicle{k}.{c.name}", c.unit, c.reference, c.frame, c.scale, c.offset, c.low, c.high)
        for k, agent in enumerate(each)
        for c in _highway_columns(agent)
    ]
    return described(columns, rate, None, {})


def highway_env_tokens(source: Any) -> tuple[str, ...]:
    """What every token of a discrete action means, in words or as ``"acceleration 5 m/s^2, steering 0 rad"``.

    Raises:
        SpecError: the action is not discrete.
    """
    action, _, _ = _highway(source)
    kind = _kind(action)
    if kind == "DiscreteMetaAction":
        return _meta(action)
    if kind != "DiscreteAction":
        raise SpecError(f"{kind} has no tokens")
    columns = _continuous(action)
    axes = [np.linspace(-1.0, 1.0, _per_axis(action)) * c.scale + c.offset for c in columns]
    points = itertools.product(*axes)
    return tuple(
        ", ".join(f"{c.name} {value:g} {c.unit}" for c, value in zip(columns, point, strict=True)) for point in points
    )


def _highway(source: Any) -> tuple[Any, float | None, int]:
    """Action type or its configuration, rate, number of vehicles."""
    if is_mapping(source):
        if "action" not in source:
            return source, None, 1
        rate = source.get("policy_frequency")
        return source["action"], None if rate is None else float(rate), int(source.get("controlled_vehicles", 1))
    bare = getattr(source, "unwrapped", source)
    action = getattr(bare, "action_type", source)
    config = optional(optional(action, "env"), "config")
    rate = optional(config, "policy_frequency")
    return action, None if rate is None else float(rate), 1


def _kind(action: Any) -> str:
    return str(setting(action, "type", "action")) if is_mapping(action) else type(action).__name__


def _highway_columns(action: Any) -> list[Column]:
    match _kind(action):
        case "ContinuousAction":
            return _continuous(action)
        case "DiscreteAction":
            return tokens(("action",), (_per_axis(action) ** len(_continuous(action)),))
        case "DiscreteMetaAction":
            return tokens(("action",), (len(_meta(action)),))
        case other:
            known = "ContinuousAction, DiscreteAction, DiscreteMetaAction, MultiAgentAction"
            raise SpecError(f"highway-env action {other!r} is not described here; known: {known}")


def _controlled(action: Any) -> tuple[bool, bool]:
    """Whether the action has a longitudinal and a lateral part; both by default."""
    longitudinal, lateral = (optional(action, name) is not False for name in ("longitudinal", "lateral"))
    if not longitudinal and not lateral:
        raise SpecError("a highway-env action is longitudinal, lateral or both")
    return longitudinal, lateral


def _continuous(action: Any) -> list[Column]:
    parts = (
        ("acceleration", "m/s^2", optional(action, "acceleration_range") or _ACCELERATION),
        ("steering", "rad", optional(action, "steering_range") or _STEERING),
    )
    columns: list[Column] = []
    for (name, unit, ends), there in zip(parts, _controlled(action), strict=True):
        if there:
            scale, offset = linear(-1.0, 1.0, float(ends[0]), float(ends[1]))
            columns.append(Column(name, unit, Reference.CONTROL, None, scale, offset, -1.0, 1.0))
    return columns


def _per_axis(action: Any) -> int:
    return int(optional(action, "actions_per_axis") or 3)


def _meta(action: Any) -> tuple[str, ...]:
    return _META[_controlled(action)]


def metadrive_spec(source: Any, *, max_steering_rad: float | None = None) -> ActionSpec:
    """What the action of one MetaDrive agent means.

    Args:
        source: an environment, or its complete configuration (``env.config``).
        max_steering_rad: steering angle at 1, rad; only needed where the configuration does not settle it.

    Returns:
        A spec with one row per action: ``CONTROL`` with the columns ``steering`` and ``throttle_brake``, or ``TOKENS``.

    Raises:
        SpecError: the environment does not execute the action as it is (another ``agent_policy``), or the steering
            angle is not known.
    """
    config = source if is_mapping(source) else optional(source, "config")
    if config is None:
        raise SpecError(f"{type(source).__name__} is neither a MetaDrive environment nor its configuration")
    policy = setting(config, "agent_policy", "the configuration")
    if (name := getattr(policy, "__name__", str(policy))) != _METADRIVE_POLICY or optional(config, "manual_control"):
        raise SpecError(f"agent_policy {name!r} does not take the action as it is; {_METADRIVE_POLICY} does")
    step_s, repeat = (
        float(setting(config, key, "the configuration")) for key in ("physics_world_step_size", "decision_repeat")
    )
    return described(_metadrive_columns(source, config, max_steering_rad), 1.0 / (step_s * repeat), None, {})


def metadrive_tokens(source: Any) -> tuple[tuple[float, float], ...]:
    """The numbers (steering, throttle_brake) from -1 to 1 behind every token of a single discrete action.

    Raises:
        SpecError: the action is not one token.
    """
    config = source if is_mapping(source) else optional(source, "config")
    if not optional(config, "discrete_action") or optional(config, "use_multi_discrete"):
        raise SpecError("the action is not one token: discrete_action without use_multi_discrete makes one")
    steering, throttle = (np.linspace(-1.0, 1.0, count) for count in _grid(config))
    return tuple((float(x), float(y)) for y in throttle for x in steering)


def _metadrive_columns(source: Any, config: Any, max_steering_rad: float | None) -> list[Column]:
    if not optional(config, "discrete_action"):
        steering = _steering(source, config) if max_steering_rad is None else max_steering_rad
        return [
            Column("steering", "rad", Reference.CONTROL, None, steering, 0.0, -1.0, 1.0),
            Column("throttle_brake", "1", Reference.CONTROL, None, 1.0, 0.0, -1.0, 1.0),
        ]
    counts = _grid(config)
    if optional(config, "use_multi_discrete"):
        return tokens(("steering", "throttle_brake"), counts)
    return tokens(("action",), (counts[0] * counts[1],))


def _grid(config: Any) -> tuple[int, int]:
    keys = "discrete_steering_dim", "discrete_throttle_dim"
    steering, throttle = (int(setting(config, key, "the configuration")) for key in keys)
    return steering, throttle


def _steering(source: Any, config: Any) -> float:
    """The largest steering angle, rad: the running vehicle's own, or its model's."""
    found = None if is_mapping(source) else optional(optional(source, "agent"), "max_steering")
    if found is None and not optional(config, "random_agent_model"):
        vehicle = setting(config, "vehicle_config", "the configuration")
        model = str(optional(vehicle, "vehicle_model"))
        found = optional(vehicle, "max_steering") or _MAX_STEERING_DEG.get(model)
    if found is None:
        raise SpecError("the steering angle at 1 is not settled by the configuration: say max_steering_rad=")
    return math.radians(float(found))
