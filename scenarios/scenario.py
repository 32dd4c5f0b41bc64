"""Scenario files: one world, policy, strategy and the faults that hit them, as data."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import cast

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from safeguard.core.errors import ConfigError
from safeguard.core.mistakes import mistakes
from safeguard.core.robot import RobotModel
from safeguard.scenarios.faults import FaultEntry
from safeguard.scenarios.referee import ViolationKind


class Assumptions(Enum):
    """Whether a scenario stays inside the assumptions of the guarantees (law 0)."""

    INSIDE = "inside"  # zero violations are promised
    OUTSIDE = "outside"  # detection and a stop are promised


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OperatorScript(_Part):
    """A scripted operator: acknowledges at the start, and again after a hold. Recorded as simulated.

    Attributes:
        name: written to the journal.
        dwell_s: of calm standstill before a hold is acknowledged.
        recoveries: holds after the start that it lets the body out of, at most.
    """

    name: str = Field(default="scripted operator", min_length=1)
    dwell_s: float = Field(default=0.5, ge=0.0)
    recoveries: int = Field(default=2, ge=0)


class Standstill(_Part):
    """What the referee counts as standing still: every joint under ``speed_radps`` for ``dwell_s``."""

    speed_radps: float = Field(default=0.02, gt=0.0)
    dwell_s: float = Field(default=0.1, ge=0.0)


class Expectation(_Part):
    """What a run of the scenario has to show.

    Attributes:
        assumptions: inside or outside those of law 0.
        unshielded: kinds of violations that the twin without a shield must show.
        success: the shielded run still finishes its task.
    """

    assumptions: Assumptions = Assumptions.INSIDE
    unshielded: tuple[ViolationKind, ...] = ()
    success: bool = False


class Scenario(_Part):
    """One scenario.

    Attributes:
        name, summary: for people.
        robot, task, policy, strategy: by name.
        duration_s, period_s, physics_dt_s: of the episode, the control loop and the physics.
        latency_s: of every inference, in virtual time.
        seed: of the campaign; every random stream comes from (seed, episode, component).
        ftti_s: time from fault to hazard that the design must beat; information older than it is stale.
        calibration: artefact of the monitors, a path or a file beside the library's scenarios.
        faults: what is injected.
        operator, standstill, expectation: see there.
    """

    name: str = Field(min_length=1)
    summary: str = ""
    robot: str = "panda"
    task: str = "reach_push"
    policy: str = "push_policy"
    strategy: str = "monolithic"
    duration_s: float = Field(default=5.0, gt=0.0)
    period_s: float = Field(default=0.002, gt=0.0)
    physics_dt_s: float = Field(default=0.001, gt=0.0)
    latency_s: float = Field(default=0.02, ge=0.0)
    seed: int = Field(default=1, ge=0)
    ftti_s: float = Field(default=0.5, gt=0.0)
    calibration: str | None = None
    faults: tuple[FaultEntry, ...] = ()
    operator: OperatorScript = OperatorScript()
    standstill: Standstill = Standstill()
    expectation: Expectation = Expectation()

    @field_validator("robot")
    @classmethod
    def _known_robot(cls, name: str) -> str:
        if name not in RobotModel.known():
            raise ValueError(f"unknown robot; known: {', '.join(RobotModel.known())}")
        return name

    @model_validator(mode="after")
    def _fits(self) -> Scenario:
        labels = [fault.label for fault in self.faults]
        if len(set(labels)) != len(labels):
            raise ValueError(f"faults must have different names, got {labels}; give each a 'name'")
        for fault in self.faults:
            if fault.start_s >= self.duration_s:
                raise ValueError(
                    f"fault {fault.label!r} starts at {fault.start_s} s, the episode ends at "
                    f"{self.duration_s} s; set an earlier start_s"
                )
        return self

    @property
    def ticks(self) -> int:
        """Control periods of an episode."""
        return round(self.duration_s / self.period_s)

    def twin(self) -> Scenario:
        """The matched clean twin: every fault without effect, everything else the same."""
        return self.model_copy(update={"faults": tuple(fault.twin() for fault in self.faults)})


def library() -> tuple[str, ...]:
    """Names of the scenarios that come with safeguard."""
    folder = resources.files("safeguard.scenarios") / "library"
    return tuple(sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".yaml")))


def load_scenario(name_or_path: str | Path, assignments: Sequence[str] = ()) -> Scenario:
    """The scenario of the library with that name, or in that file.

    Args:
        name_or_path: a name of :func:`library`, or a path to a YAML file.
        assignments: ``"key=value"`` with a dotted key, e.g. ``"faults.0.severity=5"``; applied in order.

    Raises:
        ConfigError: names the file, the key, the value and what would be right.
    """
    text, where = _text(name_or_path)
    try:
        loaded = cast("JsonValue", yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{where}: a scenario is a mapping of keys, got {type(loaded).__name__}; start with 'name:'")
    for assignment in assignments:
        assign(loaded, assignment, where)
    try:
        return Scenario.model_validate(loaded)
    except ValidationError as error:
        raise ConfigError("\n".join(mistakes(error, Scenario, where, "(whole file)"))) from error


def assign(tree: dict[str, JsonValue], assignment: str, where: str = "scenario") -> None:
    """Set one ``"key=value"`` in a tree of YAML data; the value is read as YAML.

    Raises:
        ConfigError: there is no ``=``, or a step of the dotted key leads nowhere.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{where}: {assignment!r} must read KEY=VALUE, e.g. faults.0.severity=5")
    *path, last = key.strip().split(".")
    node: JsonValue = tree
    for step in path:
        if isinstance(node, dict) and step not in node:
            node[step] = {}
        node = _child(node, step, key, where)
    try:
        value = cast("JsonValue", yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {assignment!r}: the value is not YAML: {error}") from error
    if isinstance(node, dict):
        node[last] = value
    else:
        _child(node, last, key, where)
        cast("list[JsonValue]", node)[int(last)] = value


def _child(node: JsonValue, step: str, key: str, where: str) -> JsonValue:
    if isinstance(node, dict):
        return node[step]
    if isinstance(node, list) and step.isdigit() and int(step) < len(node):
        return node[int(step)]
    has = f"a list of {len(node)}, counted from 0" if isinstance(node, list) else repr(node)
    raise ConfigError(f"{where}: key {key!r}: there is no {step!r} in {has}")


def _text(name_or_path: str | Path) -> tuple[str, str]:
    name = str(name_or_path)
    if name in library():
        return (resources.files("safeguard.scenarios") / "library" / f"{name}.yaml").read_text(), f"{name}.yaml"
    path = Path(name_or_path)
    if not path.is_file():
        known = ", ".join(library())
        raise ConfigError(f"scenario {name!r} is neither a file nor a name of the library; known: {known}")
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
