"""Synthetic journals for the tests of the audit part: no robot, no solver, but the shape of real runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from safeguard.audit.identity import run_open_body
from safeguard.audit.journal.journal import Journal, open_run
from safeguard.audit.journal.settings import AuditConfig
from safeguard.audit.records.encode import Json, JsonObject, decision_body, encode_spec
from safeguard.core.enums import (
    Authority,
    Cause,
    Enforcement,
    FilterStatus,
    Level,
    Mode,
    RecordKind,
    Reference,
    SolverStatus,
)
from safeguard.core.types import (
    ActionSpec,
    Decision,
    FilterResult,
    Margins,
    Observation,
    Proposal,
    RobotState,
    Sensor,
    Timings,
    TorqueCommand,
    Verdict,
)

PERIOD = 2_000_000
JOINTS = tuple(f"panda_joint{at}" for at in range(1, 8))
SPEC = ActionSpec(JOINTS, "rad", Reference.ABSOLUTE, 50.0, chunk=4)
LOWER = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)
UPPER = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)
HOME = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785])
MARGINS = Margins(0.4, 1.1, 30.0, 0.12, "panda_link3|panda_link7")


def run_open(**changes: Json) -> JsonObject:
    """A ``run_open`` body that is the same on every call."""
    limits: JsonObject = {
        "joints": [
            {
                "joint": name,
                "lower": lower,
                "upper": upper,
                "velocity": 2.175,
                "torque": 87.0,
                "acceleration": 15.0,
                "provenance": {"lower": "URDF", "upper": "URDF", "velocity": "URDF", "torque": "datasheet"},
            }
            for name, lower, upper in zip(JOINTS, LOWER, UPPER, strict=True)
        ],
        "clearance": 0.02,
    }
    body = run_open_body(
        robot={"name": "panda", "digest": "ab" * 32, "source": {"load": "panda"}},
        config={"period": 0.002, "assumptions": {"state error": "1 mrad", "delay": "1 tick"}},
        enforcement=Enforcement.FULL,
        simulated=True,
        digests={"table": "cd" * 32, "policy": "ef" * 32, "calibration": None},
        limits=limits,
        run_id="0123456789abcdef",
        created_utc="2026-01-01T00:00:00+00:00",
    )
    return {**body, **changes}


def episode_open(
    episode: int, enforcement: Enforcement, scenario: str, faults: Sequence[JsonObject] = ()
) -> JsonObject:
    """An ``episode_open`` body."""
    return {
        "episode": episode,
        "task": "push the block to the mark",
        "scenario": scenario,
        "seed": 7,
        "enforcement": enforcement.value,
        "strategy": "monolithic",
        "policy": "reach-and-push",
        "spec": encode_spec(SPEC),
        "faults": list(faults),
    }


def decision(
    tick: int = 0,
    *,
    episode: int = 0,
    mode: Mode = Mode.NOMINAL,
    causes: tuple[Cause, ...] = (),
    status: FilterStatus = FilterStatus.ADMISSIBLE,
    effort: float = 0.0,
    margins: Margins = MARGINS,
    enforcement: Enforcement = Enforcement.FULL,
) -> Decision:
    """A decision with plausible numbers that depend on ``tick``."""
    torque = 10.0 * np.sin(0.01 * tick + np.arange(7.0))
    solved = status is FilterStatus.CORRECTED
    result = FilterResult(
        torque=torque,
        acceleration=0.1 * torque,
        status=status,
        solver=SolverStatus.SOLVED if solved else SolverStatus.SKIPPED,
        source="qp" if solved else "proposal",
        slack=(),
        active=("position_upper:panda_joint2", "clearance:panda_link3|panda_link7") if solved else (),
        margins=margins,
        effort=effort,
        iterations=25 if solved else 0,
    )
    late = Cause.POLICY_LATE in causes
    verdicts = (
        Verdict("intake.state", Level.OK, float("nan"), float("nan")),
        Verdict("intake.proposal", Level.OK, float("nan"), float("nan")),
        Verdict(
            "deadline",
            Level.DEGRADE if late else Level.OK,
            float("nan"),
            float("nan"),
            cause=Cause.POLICY_LATE if late else None,
            detail="no chunk for 60 ms" if late else "",
        ),
        Verdict("effort", Level.WARN if effort > 0.8 else Level.OK, effort, 0.8, 0.4),
    )
    command = TorqueCommand(torque, tick * PERIOD, (tick + 2) * PERIOD, tick)
    reasons = tuple(f"row.{cause.value}" for cause in causes)
    timings = Timings(8_000, 2_000, 5_000, 20_000, 3_000, 140_000, 30_000, 210_000 + tick % 7)
    return Decision(
        command,
        mode,
        causes,
        reasons,
        Authority.POLICY,
        verdicts,
        result,
        result.source,
        timings,
        tick,
        episode,
        enforcement,
    )


def observation(tick: int, q: np.ndarray | None = None) -> Observation:
    """An observation with two small sensors."""
    state = RobotState(HOME + 0.1 * np.sin(0.01 * tick) if q is None else q, np.full(7, 0.1), tick * PERIOD)
    sensors = {
        "target": Sensor(np.array([0.5, 0.1, 0.02]), tick * PERIOD),
        "block": Sensor(np.array([0.45, 0.0, 0.02]), tick * PERIOD),
    }
    return Observation(state, sensors, "push")


def proposal(tick: int) -> Proposal:
    """A chunk that arrived at ``tick``."""
    return Proposal(np.tile(HOME, (4, 1)), tick * PERIOD, tick * PERIOD + 1_000, "reach-and-push", tick // 10)


def append_tick(journal: Journal, tick: int, seen: Observation, outcome: Decision) -> None:
    """One decision record; a proposal arrives every tenth tick."""
    arrived = proposal(tick) if tick % 10 == 0 else None
    body = decision_body(tick * PERIOD, seen, arrived, outcome)
    journal.append(RecordKind.DECISION, body, tick=tick, t=tick * PERIOD)


def started(path: Path, body: JsonObject | None = None, **settings: Any) -> Journal:
    """The journal of an open run, written inline unless ``settings`` (of ``AuditConfig``) say otherwise."""
    chosen: dict[str, Any] = {"writer": "inline", "durability": "os", **settings}
    return open_run(AuditConfig(run=path, **chosen), run_open() if body is None else body)


def small_run(path: Path, ticks: int = 4, **settings: Any) -> Path:
    """A closed run with a record of every kind that a run without trouble has; returns ``path``."""
    with started(path, **settings) as journal:
        fault: JsonObject = {"id": "spike", "kind": "torque_spike", "parameters": {"size": 20.0}}
        journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.FULL, "torque spikes", [fault]))
        human: JsonObject = {
            "operator": "script",
            "reason": "start",
            "action": "acknowledge",
            "simulated": True,
            "episode": 0,
        }
        journal.append(RecordKind.HUMAN, human, t=0)
        journal.append(RecordKind.FAULT_INJECTED, {"episode": 0, **fault, "evidence": "torque"}, t=PERIOD)
        for tick in range(ticks):
            append_tick(journal, tick, observation(tick), decision(tick))
        journal.append(RecordKind.FAULT_CLEARED, {"episode": 0, **fault, "evidence": None}, t=2 * PERIOD)
        journal.append(RecordKind.EPISODE_CLOSE, {"episode": 0, "outcome": {"task_success": True}})
    return path


FAULTS = ("", "joint limits", "self-collision", "torque spikes", "NaN burst", "policy hang", "frozen view")


def demo_run(path: Path, ticks: int = 200) -> Path:
    """A closed run like the demo's: seven scenarios, each without and with the shield."""
    with started(path) as journal:
        for at, fault in enumerate(FAULTS):
            _demo_episode(journal, 2 * at, fault, Enforcement.OFF, ticks)
            _demo_episode(journal, 2 * at + 1, fault, Enforcement.FULL, ticks)
    return path


def _demo_episode(journal: Journal, episode: int, fault: str, enforcement: Enforcement, ticks: int) -> None:
    faults: list[JsonObject] = [{"id": fault, "kind": fault.replace(" ", "_")}] if fault else []
    journal.append(RecordKind.EPISODE_OPEN, episode_open(episode, enforcement, fault or "clean", faults))
    begin, end = int(0.3 * ticks), int(0.7 * ticks)
    for tick, outcome in enumerate(_story(episode, fault, enforcement, ticks)):
        if faults and tick in (begin, end):
            kind = RecordKind.FAULT_INJECTED if tick == begin else RecordKind.FAULT_CLEARED
            journal.append(kind, {"episode": episode, **faults[0], "evidence": None}, t=tick * PERIOD)
        phase = tick / ticks
        q = HOME + np.sin(6.0 * phase + np.arange(7)) * 0.5
        if fault == "joint limits" and phase > 0.3:
            reach = 2.9 if enforcement is Enforcement.OFF else 2.35
            q[1] = HOME[1] + reach * min(1.0, (phase - 0.3) * 4)
        if fault == "NaN burst" and 0.4 < phase < 0.42:
            q[3] = np.nan
        append_tick(journal, tick, observation(tick, q), outcome)
    journal.append(RecordKind.EPISODE_CLOSE, {"episode": episode, "outcome": _outcome(fault, enforcement)})


def _story(episode: int, fault: str, enforcement: Enforcement, ticks: int) -> Iterator[Decision]:
    shielded = enforcement is Enforcement.FULL
    for tick in range(ticks):
        phase = tick / ticks
        active = bool(fault) and 0.3 < phase < 0.7
        clearance = 0.12 + 0.06 * np.sin(9.0 * phase)
        if fault == "self-collision" and active:
            clearance = 0.02 if shielded else 0.02 - 0.2 * (phase - 0.3)
        effort = 0.3 + 0.2 * np.sin(30 * phase) + (0.9 if active else 0.0)
        status = FilterStatus.CORRECTED if active else FilterStatus.ADMISSIBLE
        mode, causes = (Mode.CAUTIOUS, (Cause.MONITOR_WARN,)) if active else (Mode.NOMINAL, ())
        if active and phase > 0.45 and fault in ("policy hang", "NaN burst", "frozen view"):
            cause = Cause.PROPOSAL_INVALID if fault == "NaN burst" else Cause.POLICY_LATE
            mode, causes, status = Mode.HOLD, (cause,), FilterStatus.BACKUP
        if not shielded:
            mode, causes, status = Mode.NOMINAL, (), FilterStatus.BYPASSED
        margins = replace(MARGINS, clearance=float(clearance))
        yield decision(
            tick,
            episode=episode,
            mode=mode,
            causes=causes,
            status=status,
            effort=float(effort),
            margins=margins,
            enforcement=enforcement,
        )


def _outcome(fault: str, enforcement: Enforcement) -> JsonObject:
    bare = enforcement is Enforcement.OFF
    position = 412 if bare and fault == "joint limits" else 0
    torque = 35 if bare and fault == "torque spikes" else 0
    return {
        "violations": {
            "position": {"count": position, "worst": 0.31 if position else 0.0, "unit": "rad"},
            "velocity": {"count": 0, "worst": 0.0, "unit": "rad/s"},
            "torque": {"count": torque, "worst": 41.0 if torque else 0.0, "unit": "N·m"},
        },
        "self_collision_contacts": 3 if bare and fault == "self-collision" else 0,
        "time_to_detect_s": None if bare or not fault else 0.012,
        "time_to_safe_state_s": None if bare or not fault else 0.31,
        "task_success": not fault,
        "share_modified": 0.0 if bare else 0.04,
        "share_braked": 0.0 if bare else 0.011,
        "share_stuck": 0.0,
    }
