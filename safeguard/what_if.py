"""Recorded inputs under another configuration: which decisions would change.

Open loop. The body, the policy and the people go on as recorded, whatever the other configuration would have made of
them: the answer is about each decision given what came before it, not about how the run would have ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml
from pydantic import JsonValue, ValidationError

from safeguard.audit.records.decode import decode_array
from safeguard.audit.records.encode import Json
from safeguard.audit.records.registry import Record, RunOpen
from safeguard.core.config import ShieldConfig
from safeguard.core.errors import ConfigError
from safeguard.core.mistakes import mistakes
from safeguard.core.protocols import PolicyPort
from safeguard.core.types import Vector
from safeguard.replay import Loss, Replay, Replayed, recorded_config, recorded_shield
from safeguard.replay_compare import Comparison, Divergence, Outline
from safeguard.shield import Shield

FIRST = 20
"""How many changed decisions a report shows by default."""


class Changes:
    """Keys of a ``ShieldConfig`` that are to be different, each with the place that says so."""

    def __init__(self) -> None:
        self._told: list[tuple[str, dict[str, JsonValue]]] = []

    def __bool__(self) -> bool:
        return bool(self._told)

    @classmethod
    def of(cls, file: str | Path | None = None, assignments: Sequence[str] = ()) -> Changes:
        """What a YAML file and then ``"key=value"`` with dotted keys say; raises ConfigError."""
        changes = cls()
        if file is not None:
            changes._told.append((str(file), _read(Path(file))))
        for assignment in assignments:
            changes._told.append((f"--set {assignment}", _assigned(assignment)))
        return changes

    def applied(self, config: ShieldConfig) -> ShieldConfig:
        """``config`` with these changes; raises ConfigError that names place, key and value."""
        for where, told in self._told:
            try:
                config = ShieldConfig.model_validate(_merged(config.model_dump(mode="json"), told))
            except ValidationError as error:
                raise ConfigError("\n".join(mistakes(error, ShieldConfig, where, "(all of it)"))) from error
        return config


def _read(file: Path) -> dict[str, JsonValue]:
    try:
        told = cast("JsonValue", yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {error}") from error
    if not isinstance(told, dict):
        raise ConfigError(f"{file}: holds the keys of a configuration that change, got {type(told).__name__}")
    return told


def _assigned(assignment: str) -> dict[str, JsonValue]:
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {assignment}: must read KEY=VALUE, e.g. filter.margins.position_rad=0.01")
    try:
        value = cast("JsonValue", yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment}: the value is not YAML: {error}") from error
    for step in reversed(key.strip().split(".")):
        value = {step: value}
    return cast("dict[str, JsonValue]", value)


def _merged(tree: Mapping[str, JsonValue], told: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    merged = dict(tree)
    for key, value in told.items():
        had = merged.get(key)
        merged[key] = _merged(had, value) if isinstance(had, dict) and isinstance(value, dict) else value
    return merged


@dataclass(frozen=True, slots=True)
class TorqueChange:
    """The largest difference of a joint's torque, N·m or N, and where it is."""

    amount: float
    joint: str
    episode: int
    tick: int


@dataclass(frozen=True, slots=True)
class WhatIfReport:
    """What :func:`what_if` found. Open loop: inputs stay as recorded.

    Attributes:
        decisions: how many were recomputed.
        episodes: how many episodes were entered.
        changed: how many of the decisions come out differently, numbers within their replay tolerances aside.
        visible: of those, how many have another mode, status or source, or other causes.
        stages: of those, how many differ in which stage; one decision can differ in several.
        first: the first of them, as they were recorded and would be.
        torque: the largest difference in the filter's torque, or None where there is none.
        modes: ticks in each mode: as recorded, and as it would be.
        settings: keys of the configuration that differ: recorded and given value.
        losses: where decisions could not be recomputed.
    """

    decisions: int
    episodes: int
    changed: int
    visible: int
    stages: Mapping[str, int]
    first: tuple[Divergence, ...]
    torque: TorqueChange | None
    modes: Mapping[str, tuple[int, int]]
    settings: Mapping[str, tuple[JsonValue, JsonValue]]
    losses: tuple[Loss, ...]


def what_if(
    path: str | Path,
    changes: Changes,
    *,
    episodes: Collection[int] | None = None,
    first: int = FIRST,
    progress: Callable[[int], None] | None = None,
) -> WhatIfReport:
    """Recompute every decision of a run from its recorded inputs under a changed configuration.

    Args:
        path: the run folder.
        changes: of the recorded configuration.
        episodes: only these.
        first: how many changed decisions to keep.
        progress: called with the number of decisions recomputed so far.

    Raises:
        ConfigError: the changed configuration is none.
        JournalError: as ``replay_run``.
    """
    settings: dict[str, tuple[JsonValue, JsonValue]] = {}

    def rebuild(run_open: Record, episode_open: Record, port: PolicyPort) -> Shield:
        assert isinstance(run_open.body, RunOpen)
        before = recorded_config(run_open.body)
        after = changes.applied(before)
        settings.update(_settings("", before.model_dump(mode="json"), after.model_dump(mode="json")))
        shield = recorded_shield(run_open, episode_open, port, after)
        count.joints = tuple(shield.platform.joints)
        return shield

    replay, count = Replay(path, rebuild=rebuild, episodes=episodes), _Count(first)
    with closing(iter(replay)) as replayed:
        for made in replayed:
            count.add(made)
            if progress is not None:
                progress(count.decisions)
    return WhatIfReport(
        decisions=count.decisions,
        episodes=replay.episodes,
        changed=count.changed,
        visible=count.visible,
        stages=dict(count.stages),
        first=tuple(count.first),
        torque=count.torque,
        modes={mode: (count.before[mode], count.after[mode]) for mode in {**count.before, **count.after}},
        settings=settings,
        losses=tuple(replay.losses),
    )


def _settings(path: str, old: JsonValue, new: JsonValue) -> dict[str, tuple[JsonValue, JsonValue]]:
    """The leaves at which two configurations differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[JsonValue, JsonValue]] = {}
        for key in {**old, **new}:
            found |= _settings(f"{path}.{key}" if path else key, old.get(key), new.get(key))
        return found
    return {} if old == new else {path: (old, new)}


class _Count:
    """What a what-if adds up."""

    def __init__(self, keep: int) -> None:
        self.decisions = self.changed = self.visible = 0
        self.joints: tuple[str, ...] = ()
        self.stages: Counter[str] = Counter()
        self.before: Counter[str] = Counter()
        self.after: Counter[str] = Counter()
        self.first: list[Divergence] = []
        self.torque: TorqueChange | None = None
        self._keep, self._comparison = keep, Comparison("tolerant")
        self._previous: Replayed | None = None

    def add(self, made: Replayed) -> None:
        """One decision more."""
        self.decisions += 1
        before, after = Outline.of(made.recorded), Outline.of(made.recomputed)
        self.before[before.mode] += 1
        self.after[after.mode] += 1
        self._weigh(made)
        if differences := list(self._comparison.differences(made.recorded, made.recomputed)):
            self.changed += 1
            self.visible += before != after
            self.stages.update({found.stage for found in differences})
            if len(self.first) < self._keep:
                self.first.append(made.divergence(differences[0], None if made.first else self._previous))
        self._previous = made

    def _weigh(self, made: Replayed) -> None:
        old, new = _torque(made.recorded), _torque(made.recomputed)
        if old.shape != new.shape or not old.size:
            return
        apart = np.nan_to_num(np.abs(new - old))
        joint = int(np.argmax(apart))
        if apart[joint] > (0.0 if self.torque is None else self.torque.amount):
            body = cast("Mapping[str, Any]", made.recorded)
            where = int(body["episode"]), int(body["tick"])
            self.torque = TorqueChange(float(apart[joint]), self.joints[joint], *where)


def _torque(body: Mapping[str, Json]) -> Vector:
    return decode_array(cast("Any", body)["decision"]["filter"]["torque"])
