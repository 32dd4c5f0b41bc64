"""Synthetic runs and their exports, for the tests of ``safeguard.audit.exports``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safeguard.audit import open_run
from safeguard.audit.exports import EXPORTS, export_run
from safeguard.audit.reader import read_run
from safeguard.audit.records.registry import DecisionRecord, Record
from safeguard.core.enums import Enforcement, RecordKind
from safeguard.core.robot import RobotModel
from tests.unit.audit_runs import (
    HOME,
    MARGINS,
    append_tick,
    decision,
    demo_run,
    episode_open,
    observation,
    run_open,
    small_run,
)

NEEDS = {name: export.needs for name, export in EXPORTS.items()}
TICKS, EPISODES = 40, 14


def needed(to: str) -> None:
    """Skip where the package of a format is missing, and say so."""
    for name in NEEDS[to]:
        pytest.importorskip(name, reason=f"the export to {to} needs the package {name}")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a record of every kind."""
    return small_run(tmp_path_factory.mktemp("small") / "run", ticks=30)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of several episodes, each of which starts its clock at 0."""
    return demo_run(tmp_path_factory.mktemp("demo") / "run", ticks=TICKS)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the real arm with numbers that are not finite, and a measurement that has no joints."""
    panda = RobotModel.load("panda")
    source: Any = {"kind": "named", "name": "panda"}
    path = tmp_path_factory.mktemp("odd") / "run"
    with open_run(path, run_open(robot={"name": "panda", "digest": panda.digest, "source": source})) as journal:
        journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.FULL, "odd"))
        margins = replace(MARGINS, velocity=float("inf"), torque=float("nan"))
        broken = HOME.copy()
        broken[3] = np.nan
        for tick, q in enumerate((HOME, broken, np.empty((0, 2)))):
            append_tick(journal, tick, observation(tick, q), decision(tick, margins=margins, effort=float("-inf")))
    return path


def exported(run: Path, to: str, folder: Path) -> Path:
    """The run in another format."""
    needed(to)
    return export_run(run, to, folder / f"out{EXPORTS[to].suffix}")


def decisions(run: Path) -> list[Record]:
    """The decision records of a run."""
    return [record for record in read_run(run) if record.kind is RecordKind.DECISION]


def modes(run: Path) -> Iterator[str]:
    """Name of the mode of every decision."""
    bodies = (record.body for record in decisions(run))
    return (body.decision.mode.name for body in bodies if isinstance(body, DecisionRecord))


def mcap_messages(path: Path) -> dict[str, list[tuple[int, Any]]]:
    """Every message by topic: its time and what it says."""
    reader: Any = import_module("mcap.reader")
    found: dict[str, list[tuple[int, Any]]] = {}
    with path.open("rb") as file:
        for _, channel, message in reader.make_reader(file, validate_crcs=True).iter_messages():
            found.setdefault(channel.topic, []).append((message.log_time, json.loads(message.data)))
    return found


def mcap_counts(path: Path) -> Counter[str]:
    """How many messages each topic has."""
    return Counter({topic: len(messages) for topic, messages in mcap_messages(path).items()})
