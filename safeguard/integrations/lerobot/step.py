"""The shield as a step of a LeRobot processor pipeline, which is saved and loaded with a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeVar

from safeguard.audit import AuditConfig
from safeguard.audit.journal.journal import Journal
from safeguard.audit.records.encode import Json, JsonObject, encode_spec, jsonable
from safeguard.core.action import ActionSpec
from safeguard.core.config import ShieldConfig
from safeguard.core.enums import Reference
from safeguard.core.errors import ConfigError, SafeguardError, SpecError
from safeguard.core.robot import RobotModel
from safeguard.integrations.lerobot.guard import ActionGuard, Sent
from safeguard.integrations.lerobot.robot import ShieldedRobot

NAME: Final = "safeguard_shield"
_ACTION, _OBSERVATION = "action", "observation"  # keys of a transition
_T = TypeVar("_T")


class ShieldStep:
    """A LeRobot ``RobotActionProcessorStep``: what comes out of it may be sent. It belongs last in the pipeline.

    The observation of every transition is taken for the state of the arm now. Where a policy runs between the two for
    longer than a period, ``ShieldedRobot`` is better placed, which reads the arm again.

    Args:
        robot: model of the arm, its name, or its source as ``get_config`` gives it.
        spec: what the numbers mean, or the fields of it.
        keys, ranges, max_age_s, strategy, audit, clock: as for ``ActionGuard``.
        config: of the shield, or the fields of it.

    Attributes:
        guard: what decides.
        last: what became of the last action, None before the first.

    Raises:
        SpecError: the spec is wrong or does not fit the arm.
        RobotError: there is no such model.
        ConfigError: the configuration is wrong.
    """

    def __init__(
        self,
        robot: RobotModel | str | Mapping[str, Any],
        spec: ActionSpec | Mapping[str, Any],
        *,
        keys: Sequence[str] | None = None,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        max_age_s: float | None = None,
        strategy: str = "vla",
        config: ShieldConfig | Mapping[str, Any] | None = None,
        audit: str | Path | AuditConfig | Journal | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        model = _model(robot)
        shield = config if isinstance(config, ShieldConfig) else _built("config", ShieldConfig.model_validate, config)
        self.guard = ActionGuard(
            model,
            spec if isinstance(spec, ActionSpec) else _built("spec", _spec, spec),
            keys=keys,
            ranges=None if ranges is None else {name: (pair[0], pair[1]) for name, pair in ranges.items()},
            max_age_s=max_age_s,
            strategy=strategy,
            config=shield,
            audit=audit,
            clock=clock,
        )
        self._config: JsonObject = {
            "robot": jsonable(model.source),
            "spec": encode_spec(self.guard.spec),
            "keys": list(self.guard.keys),
            "ranges": None if ranges is None else {name: list(pair) for name, pair in ranges.items()},
            "max_age_s": max_age_s,
            "strategy": strategy,
            "config": shield.model_dump(mode="json", exclude_unset=True),
        }
        self._transition: Mapping[str, Any] | None = None
        self.last: Sent | None = None

    @property
    def transition(self) -> Mapping[str, Any]:
        """The last one that was processed.

        Raises:
            ValueError: there was none.
        """
        if self._transition is None:
            raise ValueError("the step was not called with a transition yet")
        return self._transition

    def __call__(self, transition: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of ``transition`` with the action that may be sent."""
        result = dict(transition)
        self._transition = result
        result[_ACTION] = self.action(result.get(_ACTION), result.get(_OBSERVATION))
        return result

    def action(self, action: object, observation: object = None) -> dict[str, float]:
        """What may be sent instead of ``action``; without an observation the shield stops."""
        self.guard.see(observation)
        decided = self.guard.decide(action)
        self.last = self.guard.sent(decided, decided.sent)
        return dict(self.last.sent)

    def get_config(self) -> dict[str, Json]:
        """What the step is built from, JSON-able; ``audit`` and ``clock`` are given anew when it is loaded."""
        return dict(self._config)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a shield that was loaded holds until it is acknowledged."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load.

        Raises:
            ConfigError: there is something, which belongs to another step.
        """
        if state:
            raise ConfigError(f"{NAME} has no state, got {', '.join(state)}")

    def reset(self) -> None:
        """A new episode, which holds until it is acknowledged."""
        self.guard.begin_episode("reset")

    def transform_features(self, features: _T) -> _T:
        """The same: actions keep their names and shapes."""
        return features


def register() -> None:
    """Make LeRobot know ``ShieldStep`` by name, and take it and ``ShieldedRobot`` for its own kinds.

    Pipelines accept the step then, save it, and load it; ``isinstance(robot, Robot)`` holds. Call it once or often.

    Raises:
        ConfigError: LeRobot is not installed, or another step has the name.
    """
    try:
        processor, robots = import_module("lerobot.processor"), import_module("lerobot.robots")
    except ImportError as error:
        raise ConfigError(
            f"LeRobot cannot be imported: {error}. Install it beside safeguard: pip install lerobot"
        ) from error
    registry: Any = processor.ProcessorStepRegistry
    if NAME not in registry.list():
        registry.register(NAME)(ShieldStep)
    elif registry.get(NAME) is not ShieldStep:
        raise ConfigError(f"LeRobot has another processor step {NAME!r}: {registry.get(NAME)!r}")
    processor.RobotActionProcessorStep.register(ShieldStep)  # virtual subclasses, as of any ABC
    robots.Robot.register(ShieldedRobot)


def _model(robot: RobotModel | str | Mapping[str, Any]) -> RobotModel:
    if isinstance(robot, RobotModel):
        return robot
    return RobotModel.load(robot) if isinstance(robot, str) else _built("robot", RobotModel.from_source, robot)


def _spec(fields: Mapping[str, Any]) -> ActionSpec:
    given: dict[str, Any] = {**fields, "reference": Reference(fields.get("reference"))}
    return ActionSpec(**given)


def _built(what: str, build: Callable[[Any], _T], fields: object) -> _T:
    """``build(fields)``; what a damaged file makes of them is one error that says which part."""
    try:
        return build({} if fields is None else fields)
    except SafeguardError:
        raise
    except (TypeError, ValueError, KeyError) as error:  # pydantic's are ValueErrors
        kind = SpecError if what == "spec" else ConfigError
        raise kind(f"{NAME}: {what} {fields!r} is wrong: {error}") from error
