"""Decisions that tests of events are made of, and a body and a journal that cost nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import numpy as np

from safeguard.audit.journal.journal import Journal
from safeguard.audit.journal.settings import EventsConfig
from safeguard.audit.records.encode import JsonObject
from safeguard.audit.records.registry import parse_body
from safeguard.core.enums import Authority, Cause, Enforcement, FilterStatus, Mode, RecordKind
from safeguard.core.protocols import Platform
from safeguard.core.types import BodyIdentity, Decision, JointLimits, Margins, Observation, RobotState
from safeguard.events import Events
from safeguard.modes import load_table
from safeguard.spans import Event
from tests.unit.audit_runs import (
    HOME,
    JOINTS,
    LOWER,
    MARGINS,
    PERIOD,
    UPPER,
    decision,
)

TABLE = load_table("monolithic", 0.002)
DWELL = 5
SETTINGS = EventsConfig(dwell_s=DWELL * 0.002, health_s=0.05, effect_s=0.05)
STOP, GO = "backup", "proposal"
FAST = 2.175


class StillBody:
    """As much of a platform as events ask of one: joints with limits, at rest below 0.02 rad/s."""

    joints = JOINTS
    v_max = np.full(len(JOINTS), FAST)

    def standstill(self, state: RobotState) -> bool:
        """No joint moves."""
        return bool(np.abs(state.v).max() < 0.02)

    def identity(self) -> BodyIdentity:
        """The Panda's limits."""
        found = [JointLimits(n, lo, up, FAST, 87.0, 15.0, {}) for n, lo, up in zip(JOINTS, LOWER, UPPER, strict=True)]
        return BodyIdentity("panda", "ab" * 32, None, tuple(found))


class Recorder:
    """A journal that keeps what is placed."""

    events = SETTINGS

    def __init__(self) -> None:
        self.placed: list[tuple[Event, int | None, int | None]] = []

    def append(self, kind: RecordKind, body: JsonObject, *, tick: int | None = None, t: int | None = None) -> int:
        """Keep it."""
        self.placed.append(((kind, body), tick, t))
        return len(self.placed) - 1

    def health(self) -> JsonObject:
        """All is well."""
        state: JsonObject = {"waiting_bytes": 0, "ring_bytes": 0, "safe": True, "writer_beats": None, "problem": ""}
        return {"placed": len(self.placed), "lost": 0, **state}


def made(recorder: Recorder | None = None) -> Events:
    """Events of a shield without a shield."""
    return Events(cast("Platform", StillBody()), TABLE, 0.002, cast("Journal", recorder or Recorder()), "cc" * 32)


def at(
    tick: int,
    mode: Mode = Mode.NOMINAL,
    causes: tuple[Cause, ...] = (),
    source: str = GO,
    *,
    authority: Authority = Authority.POLICY,
    margins: Margins = MARGINS,
    q: float = 0.0,
    v: float = 0.1,
    enforcement: Enforcement = Enforcement.FULL,
) -> tuple[Decision, Observation]:
    """A decision and what it saw: joint 0 at ``q``, rad, joint 1 at ``v``, rad/s."""
    made = decision(tick, mode=mode, causes=causes, margins=margins, enforcement=enforcement)
    status = FilterStatus.ADMISSIBLE if source == GO else FilterStatus.BACKUP
    result = replace(made.filter, source=source, status=status)
    place, speed = HOME.copy(), np.zeros(7)
    place[0], speed[1] = q, v
    seen = Observation(RobotState(place, speed, tick * PERIOD))
    return replace(made, filter=result, source=source, authority=authority), seen


NARROW = replace(MARGINS, position=0.0005, clearance=-0.001)
"""Margins that are a near miss and a violation."""

Step = tuple[Decision, Observation]


def heard(events: Events, steps: Iterable[Step], *, slow: bool = False) -> list[list[Event]]:
    """What follows from each step, and at last from the end of the episode; ``slow`` never takes the quick way."""
    found: list[list[Event]] = []
    for one, seen in steps:
        if slow:
            events._wake = 0  # pyright: ignore[reportPrivateUsage]
        found.append(list(events.after(one, seen, one.tick * PERIOD)))
    return [*found, list(events.end())]


def parsed(kind: RecordKind, body: JsonObject) -> Any:
    """The body as its model has it."""
    return parse_body(kind, 1, body)


def held(steps: int, start: int = 0, **what: Any) -> list[Step]:
    """The same for a while."""
    return [at(start + k, **what) for k in range(steps)]
