# pyright: reportPrivateUsage=false
# A violation is planted where the code would make it: inside.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import safeguard.shield as shield_module
from safeguard.audit.identity import run_open_body
from safeguard.audit.records.encode import decision_body
from safeguard.controllers import ArmPlatform
from safeguard.controllers.checker import Checker
from safeguard.core.enums import Enforcement, FilterStatus, Mode, RecordKind
from safeguard.core.types import Decision, TerminalStop, TorqueCommand
from safeguard.shield import Shield
from tests.laws.lab import CONFIG, Lab, beyond, panda, watched
from tests.unit.audit_edit import records

Patch = pytest.MonkeyPatch


def check_law_1(lab: Lab, ticks: int = 150) -> None:
    """Every command is what the filter or the backup produced in that tick, and nothing edits it."""
    with watched(lab) as produced:
        for _ in range(ticks):
            before = len(produced)
            decision = lab.tick()
            assert len(produced) == before + 1, "one tick, one gate"
            made, command = produced[-1], decision.command
            assert made.by in ("filter", "backup", "stopped"), f"{made.by} is not the gate"
            assert decision.filter is made.result
            assert decision.source == made.result.source
            assert decision.enforcement is Enforcement.FULL
            assert command.t == lab.now - round(lab.period * 1e9), "a command of another tick"
            if made.result.status is FilterStatus.REFUSED:
                assert isinstance(command, TerminalStop), "refused twice, and still a torque"
            else:
                assert isinstance(command, TorqueCommand)
                assert command.tau.tobytes() == made.torque, "the command was edited"
                assert not command.tau.flags.writeable
                assert (np.abs(command.tau) <= panda().limits.tau_max).all(), "the checker never saw it"


def check_law_1_marks(run: Path, enforcement: Enforcement) -> None:
    """Runs outside this law say so at the start of the run, of every episode and in every decision."""
    with_marks = [r for r in records(run) if r["kind"] in ("run_open", "episode_open", "decision")]
    said = [
        r["body"]["decision"]["enforcement"] if r["kind"] == "decision" else r["body"]["enforcement"]
        for r in with_marks
    ]
    assert len(said) > 12
    assert set(said) == {enforcement.value}


def refused(self: Checker, tau: object, share: float = 1.0, v: object = None) -> str:
    """A checker that accepts no torque at all."""
    return "nothing is good enough"


def test_law_1() -> None:
    """Through start, policy, operator stop and emergency stop every command is the gate's."""
    lab = Lab(beyond).start(20)
    check_law_1(lab)
    lab.shield.stop(operator="lab", reason="test")
    check_law_1(lab, 40)
    assert {d.filter.status for d in lab.decisions} >= {FilterStatus.CORRECTED, FilterStatus.BACKUP}
    lab.tick(replace(lab.observe(), estop=True))
    check_law_1(lab, 5)
    assert lab.decisions[-1].mode is Mode.ESTOP


def test_law_1_backup_refused(monkeypatch: Patch) -> None:
    """If the checker refuses the backup too, the command is the terminal stop, and the floor follows."""
    lab = Lab(beyond).start(20)
    monkeypatch.setattr(Checker, "torque_refusal", refused)
    check_law_1(lab, 3)
    assert [type(d.command) for d in lab.decisions[-3:]] == [TerminalStop] * 3
    assert lab.decisions[-1].mode is Mode.ESTOP


@pytest.mark.parametrize("enforcement", Enforcement)
def test_law_1_marks(tmp_path: Path, enforcement: Enforcement) -> None:
    """Whatever is enforced stands in every record."""
    lab = Lab(audit=tmp_path / "run", enforcement=enforcement)
    lab.run(12)
    lab.shield.close()
    check_law_1_marks(tmp_path / "run", enforcement)


# -- planted ------------------------------------------------------------------------------------------


def scaled(lab: Lab, patch: Patch) -> None:
    """Torques are scaled by almost one."""
    real = ArmPlatform.command

    def command(self: ArmPlatform, result: Any, now: int, expires: int, seq: int) -> Any:
        made = real(self, result, now, expires, seq)
        return replace(made, tau=made.tau * (1 - 1e-15)) if isinstance(made, TorqueCommand) else made

    patch.setattr(ArmPlatform, "command", command)


def raw_proposal(lab: Lab, patch: Patch) -> None:
    """The command is the proposal's raw torque."""
    real = Shield._move

    def move(self: Shield, state: Any, nominal: Any, *rest: Any) -> Any:
        result, made, source = real(self, state, nominal, *rest)
        bypass = ArmPlatform.bypass(lab.platform, state, nominal)
        return result, TorqueCommand(bypass.torque, made.t, made.t + 1, made.seq), source

    patch.setattr(Shield, "_move", move)


def earlier(lab: Lab, patch: Patch) -> None:
    """The command of the tick before is sent."""
    real = ArmPlatform.command
    kept: list[Any] = []

    def command(self: ArmPlatform, result: Any, now: int, expires: int, seq: int) -> Any:
        kept.append(real(self, result, now, expires, seq))
        return kept[max(len(kept) - 2, 0)]

    patch.setattr(ArmPlatform, "command", command)


def edited_later(lab: Lab, patch: Patch) -> None:
    """The torque is edited after its record was written."""
    real = Shield._recorded

    def record(self: Shield, now: int, observation: Any, arrived: Any, decision: Decision) -> bool:
        written = real(self, now, observation, arrived, decision)
        if isinstance(decision.command, TorqueCommand):
            decision.command.tau.setflags(write=True)
            decision.command.tau[0] *= 1.0 + 1e-15
            decision.command.tau.setflags(write=False)
        return written

    patch.setattr(Shield, "_recorded", record)


def two_answers(lab: Lab, patch: Patch) -> None:
    """The platform is asked twice in one tick."""
    real = Shield._enforced

    def enforced(self: Shield, *args: Any) -> Any:
        lab.platform.backup(args[0])
        return real(self, *args)

    patch.setattr(Shield, "_enforced", enforced)


def gate_off(lab: Lab, patch: Patch) -> None:
    """Enforcement is switched off in the middle of a run."""
    patch.setattr(lab.shield, "enforcement", Enforcement.OFF)


def watching_only(lab: Lab, patch: Patch) -> None:
    """The shield only watches from the middle of a run on."""
    patch.setattr(lab.shield, "enforcement", Enforcement.MONITOR_ONLY)


def torque_after_refusal(lab: Lab, patch: Patch) -> None:
    """A refused backup is sent all the same."""

    def command(self: ArmPlatform, result: Any, now: int, expires: int, seq: int) -> Any:
        return TorqueCommand(result.torque, now, expires, seq)

    patch.setattr(Checker, "torque_refusal", refused)
    patch.setattr(ArmPlatform, "command", command)


def unchecked(lab: Lab, patch: Patch) -> None:
    """Torques are raised after the check."""

    def result(*args: Any, **named: Any) -> Any:
        made = real(*args, **named)
        tau = made.torque * 50.0
        tau.setflags(write=False)
        return replace(made, torque=tau)

    real = lab.filter.apply
    patch.setattr(lab.filter, "apply", result)


@pytest.mark.parametrize(
    "plant",
    [
        scaled,
        raw_proposal,
        earlier,
        edited_later,
        two_answers,
        gate_off,
        watching_only,
        torque_after_refusal,
        unchecked,
    ],
    ids=lambda plant: plant.__name__,
)
def test_law_1_planted(plant: Callable[[Lab, Patch], None], monkeypatch: Patch) -> None:
    """Whoever gets past the gate is seen."""
    lab = Lab(beyond).start(20)
    plant(lab, monkeypatch)
    with pytest.raises(AssertionError):
        check_law_1(lab)


def unmarked_decision(patch: Patch) -> None:
    """Decision records claim full enforcement."""
    real = decision_body

    def body(now: int, observation: Any, arrived: Any, decision: Decision) -> Any:
        return real(now, observation, arrived, replace(decision, enforcement=Enforcement.FULL))

    patch.setattr(shield_module, "decision_body", body)


def unmarked_episode(patch: Patch) -> None:
    """The episode claims full enforcement."""
    real = Shield.record

    def record(self: Shield, kind: RecordKind, body: Any) -> None:
        full = {"enforcement": "full"} if kind is RecordKind.EPISODE_OPEN else {}
        real(self, kind, {**body, **full})

    patch.setattr(Shield, "record", record)


def unmarked_run(patch: Patch) -> None:
    """The run claims full enforcement."""
    real = run_open_body

    def body(**named: Any) -> Any:
        named["enforcement"] = Enforcement.FULL
        return real(**named)

    patch.setattr(shield_module, "run_open_body", body)


@pytest.mark.parametrize("enforcement", [Enforcement.OFF, Enforcement.MONITOR_ONLY])
@pytest.mark.parametrize("plant", [unmarked_decision, unmarked_episode, unmarked_run], ids=lambda plant: plant.__name__)
def test_law_1_planted_marks(
    plant: Callable[[Patch], None], enforcement: Enforcement, tmp_path: Path, monkeypatch: Patch
) -> None:
    """A record that hides what was enforced is seen."""
    plant(monkeypatch)
    lab = Lab(audit=tmp_path / "run", enforcement=enforcement, config=CONFIG)
    lab.run(12)
    lab.shield.close()
    with pytest.raises(AssertionError):
        check_law_1_marks(tmp_path / "run", enforcement)
