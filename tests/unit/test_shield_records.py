# pyright: reportPrivateUsage=false
# A violation is planted where the code would make it: inside.

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from safeguard.audit import open_run, verify_run
from safeguard.core.config import ShieldConfig
from safeguard.core.enums import Authority, Cause, Enforcement, FilterStatus, Mode, RecordKind
from safeguard.core.types import NS_PER_S, Observation, RobotState, TorqueCommand
from safeguard.policies import as_policy
from safeguard.replay import replay_run
from safeguard.shield import Shield
from tests.laws.lab import CONFIG, Lab, artefact, beyond, near, panda, spec
from tests.unit.audit_edit import records

Patch = pytest.MonkeyPatch


def full(*_: object) -> int:
    """A disk without space."""
    raise OSError(28, "No space left on device")


# -- enforcement ----------------------------------------------------------------------------------------


def test_off_passes_everything_through() -> None:
    """Without enforcement the start is acknowledged too; then every decision is BYPASSED and the limits are left."""
    lab = Lab(beyond, enforcement=Enforcement.OFF)
    assert {d.filter.status for d in lab.run(50)} == {FilterStatus.BACKUP}
    lab.start(300)
    assert {d.filter.status for d in lab.decisions[-300:]} == {FilterStatus.BYPASSED}
    limits = panda().limits
    assert (np.abs(lab.v) > limits.v_max).any() or (lab.q > limits.q_max).any() or (lab.q < limits.q_min).any()


# -- episodes, people, records --------------------------------------------------------------------------


def test_episodes_are_numbered_and_independent(tmp_path: Path) -> None:
    """A second episode starts in HOLD at tick 0, under the next number, with nothing of the first."""
    lab = Lab(near, audit=tmp_path).start(50)
    lab.shield.begin_episode("second", scenario="s", seed=3)
    decision = lab.tick()
    assert (decision.tick, decision.episode, decision.mode) == (0, 1, Mode.HOLD)
    assert {d.authority for d in lab.run(300)} == {Authority.BACKUP}
    lab.shield.close()
    opened = [r["body"] for r in records(tmp_path) if r["kind"] == "episode_open"]
    said = [(o["episode"], o["task"], o.get("seed")) for o in opened]
    assert said == [(0, "try a law", None), (1, "second", 3)]
    assert verify_run(tmp_path).sound


def test_several_episodes_of_one_shield_replay(tmp_path: Path) -> None:
    """A run in which one shield drove several episodes replays."""
    lab = Lab(near, audit=tmp_path).start(10)
    lab.shield.begin_episode("second")
    lab.start(10)
    lab.shield.close()
    assert replay_run(tmp_path).identical


def test_reset_holds_until_acknowledged(tmp_path: Path) -> None:
    """``reset`` stops the policy, is recorded, and asks for a new acknowledgement."""
    lab = Lab(near, audit=tmp_path).start(30)
    lab.shield.reset()
    assert {d.authority for d in lab.run(200)} == {Authority.BACKUP}
    assert lab.decisions[-1].tick == 199
    lab.start(10)
    lab.shield.close()
    assert [r["body"]["action"] for r in records(tmp_path) if r["kind"] == "human"] == [
        "acknowledge",
        "reset",
        "acknowledge",
    ]
    assert replay_run(tmp_path).identical


def test_close_writes_the_end(tmp_path: Path) -> None:
    """Closing twice is as good as once; a shield is a context manager."""
    with Lab(audit=tmp_path).shield as shield:
        shield.step(Observation(RobotState(panda().home, np.zeros(7), 0)), now=0)
    shield.close()
    assert [r["kind"] for r in records(tmp_path)][-1] == "run_close"


def test_a_borrowed_journal_is_left_open(tmp_path: Path) -> None:
    """A journal that was handed in is its owner's to close."""
    policy = as_policy(near, spec=spec())
    opened = Shield(panda(), policy, config=CONFIG).run_open()
    journal = open_run(tmp_path, opened)
    for episode in range(2):
        with Shield(panda(), policy, config=CONFIG, audit=journal) as shield:
            shield.begin_episode("one of several")
            assert shield.episode == episode
    assert journal.append(RecordKind.EPISODE_CLOSE, {"episode": 1, "outcome": {}}) == 3
    journal.close()
    assert verify_run(tmp_path).sound


def test_a_full_disk_is_a_hold(tmp_path: Path, monkeypatch: Patch) -> None:
    """When records can no longer be written, the next tick is HOLD; an acknowledgement helps once they can again."""
    lab = Lab(beyond, audit=tmp_path).start(60)
    monkeypatch.setattr("safeguard.audit.journal.segments.os.write", full)
    lab.tick()
    decision = lab.tick()
    assert Cause.AUDIT_FAILED in decision.causes
    assert (decision.mode, decision.authority) == (Mode.HOLD, Authority.BACKUP)
    assert any("No space left" in v.detail for v in decision.verdicts)
    lab.run(300)
    lab.acknowledge()
    assert lab.run(3)[-1].mode is Mode.HOLD
    monkeypatch.undo()
    assert {d.mode for d in lab.run(300)} == {Mode.HOLD}
    lab.start(10)
    lab.shield.close()
    report = verify_run(tmp_path)
    assert (report.verdict, report.lost) == ("gap", 2 + 300 + 1 + 3)
    (gap,) = [r["body"] for r in records(tmp_path) if r["kind"] == "gap"]
    assert gap["count"] == report.lost
    assert "No space left" in gap["cause"]


def test_what_people_do_does_not_hide_a_lost_decision(tmp_path: Path, monkeypatch: Patch) -> None:
    """A record that is placed between two ticks takes nothing back: the tick after a lost decision is HOLD."""
    lab = Lab(near, audit=tmp_path).start(10)
    with monkeypatch.context() as patch:
        patch.setattr("safeguard.audit.journal.segments.os.write", full)
        lab.tick()
    lab.acknowledge()
    decision = lab.tick()
    assert Cause.AUDIT_FAILED in decision.causes
    assert decision.mode is Mode.HOLD
    lab.shield.close()


def test_a_short_write_is_a_hold(tmp_path: Path, monkeypatch: Patch) -> None:
    """Half a record is no record."""
    lab = Lab(near, audit=tmp_path).start(10)

    def short(fd: int, line: bytes) -> int:
        return len(line) - 1

    monkeypatch.setattr("safeguard.audit.journal.segments.os.write", short)
    lab.tick()
    assert Cause.AUDIT_FAILED in lab.tick().causes


def test_run_open_says_what_decided(tmp_path: Path) -> None:
    """The first record names robot, configuration, table, calibration and limits."""
    made = artefact(60)
    lab = Lab(audit=tmp_path, calibration=made)
    lab.shield.close()
    body = records(tmp_path)[0]["body"]
    assert body["robot"]["digest"] == panda().digest
    assert body["digests"]["table"] == lab.shield.table.digest
    assert body["digests"]["calibration"] == made.digest
    assert ShieldConfig.model_validate(body["config"]["shield"]) == CONFIG
    assert [joint["joint"] for joint in body["limits"]["joints"]] == list(panda().joints)


def test_real_time_overruns_are_a_cause() -> None:
    """With ``real_time`` a tick that took longer than its period makes the next one cautious."""
    lab = Lab(near, config=CONFIG.model_copy(update={"real_time": True})).start(300)
    lab.shield._previous = replace(lab.decisions[-1], timings=replace(lab.decisions[-1].timings, total=NS_PER_S))
    assert Cause.TICK_OVERRUN in lab.tick().causes
    assert lab.decisions[-1].mode >= Mode.CAUTIOUS


def test_what_is_not_recorded_is_not_released(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The very tick whose record fails sends the stored stop, not the policy's motion (law 10)."""
    lab = Lab(near, audit=tmp_path).start(20)
    assert lab.tick().authority is Authority.POLICY
    monkeypatch.setattr("safeguard.audit.journal.segments.os.write", full)
    decision = lab.tick()
    assert decision.authority is Authority.BACKUP
    assert decision.filter.status is FilterStatus.BACKUP
    assert isinstance(decision.command, TorqueCommand)
    assert decision.command.tau.tobytes() == decision.filter.torque.tobytes()
    monkeypatch.undo()
