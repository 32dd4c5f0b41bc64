# pyright: reportPrivateUsage=false
# A disk fails where the code writes: inside.

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from safeguard.audit import AuditConfig, read_run, verify_run
from safeguard.audit.records.registry import DecisionRecord, Gap
from safeguard.cli_replay import commands
from safeguard.core.enums import Cause, Mode, RecordKind
from safeguard.lockout import LockoutFile
from safeguard.replay import replay_run
from tests.laws.lab import Lab, near
from tests.unit.audit_edit import resigned

Patch = pytest.MonkeyPatch


def full(*_: object) -> int:
    """A disk without space."""
    raise OSError(28, "No space left on device")


def lost_in_the_middle(run: Path, patch: Patch) -> Lab:
    """Two episodes; in the first the disk is full for 20 records."""
    lab = Lab(near, audit=run).start(40)
    with patch.context() as inner:
        inner.setattr("safeguard.audit.journal.segments.os.write", full)
        lab.run(20)
    lab.run(30)
    lab.shield.begin_episode("second")
    lab.start(40)
    lab.shield.close()
    return lab


def test_a_run_replays_around_what_was_lost(tmp_path: Path, monkeypatch: Patch) -> None:
    """Every decision before the gap and of the next episode comes out identical; the rest of the first is told."""
    lost_in_the_middle(tmp_path, monkeypatch)
    records = [record.body for record in read_run(tmp_path)]
    (gap,) = [body for body in records if isinstance(body, Gap)]
    at = records.index(gap)
    decisions = [(k, body) for k, body in enumerate(records) if isinstance(body, DecisionRecord)]
    before = [body for k, body in decisions if k < at]
    behind = [body for k, body in decisions if k > at and body.episode == 0]
    second = [body for _, body in decisions if body.episode == 1]
    assert (gap.count, len(behind)) == (20, 30)
    report = replay_run(tmp_path)
    assert report.divergence is None
    assert (report.decisions, report.episodes) == (len(before) + len(second), 2)
    (loss,) = report.losses
    assert (loss.episode, loss.first, loss.last, loss.decisions) == (0, gap.first, gap.last, 30)
    assert loss.tick == before[-1].tick + 1
    assert not report.agrees
    assert not report.identical
    told = "\n".join(report.lines())
    assert f"records {gap.first} to {gap.last} were lost" in told
    assert f"the rest of episode 0, from tick {loss.tick} on, cannot be recomputed: 30 more decisions" in told
    assert "No space left" in told


def test_the_command_says_so_with_its_exit_code(tmp_path: Path, monkeypatch: Patch) -> None:
    """5 where records were lost, as of verify; 0 for an episode that is whole; 3 where a decision differs as well."""
    lost_in_the_middle(tmp_path, monkeypatch)
    done = CliRunner().invoke(commands, [str(tmp_path)])
    assert done.exit_code == 5, done.output
    assert "cannot be recomputed" in done.output
    assert CliRunner().invoke(commands, [str(tmp_path), "--episode", "1"]).exit_code == 0

    def change(_: int, record: dict[str, Any]) -> None:
        if record["kind"] == "decision" and record["body"]["episode"] == 1 and record["tick"] == 7:
            record["body"]["timings"]["total"] = -1
            record["t"] += 1

    resigned(tmp_path, change)
    assert CliRunner().invoke(commands, [str(tmp_path)]).exit_code == 3


def test_what_if_says_so_too(tmp_path: Path, monkeypatch: Patch) -> None:
    """Text and JSON name the loss, exit code 5; 0 for an episode that is whole."""
    lost_in_the_middle(tmp_path, monkeypatch)
    (loss,) = replay_run(tmp_path).losses
    asked = [str(tmp_path), "--set", "filter.margins.velocity_share=0.05"]
    done = CliRunner().invoke(commands, asked)
    assert done.exit_code == 5, done.output
    assert str(loss) in done.output
    done = CliRunner().invoke(commands, [*asked, "--json"])
    assert done.exit_code == 5
    assert json.loads(done.stdout)["losses"] == [asdict(loss)]
    done = CliRunner().invoke(commands, [*asked, "--episode", "1", "--json"])
    assert (done.exit_code, json.loads(done.stdout)["losses"]) == (0, [])


def test_what_was_lost_with_its_episode_is_told(tmp_path: Path, monkeypatch: Patch) -> None:
    """Decisions of an episode whose beginning is lost are counted, not guessed at."""
    lab = Lab(near, audit=tmp_path).start(10)
    lab.shield.record(RecordKind.EPISODE_CLOSE, {"outcome": {}})
    with monkeypatch.context() as inner:
        inner.setattr("safeguard.audit.journal.segments.os.write", full)
        lab.shield.begin_episode("lost")
    lab.run(12)
    lab.shield.begin_episode("third")
    lab.start(10)
    lab.shield.close()
    report = replay_run(tmp_path)
    assert report.divergence is None
    assert report.episodes == 2
    (loss,) = report.losses
    assert (loss.episode, loss.decisions) == (None, 12)
    assert "an episode may have begun there, and 12 decisions of it cannot be recomputed" in str(loss)


def test_a_loss_between_episodes_is_told(tmp_path: Path) -> None:
    """A record that had no form costs no decision, but who knows: the report names it."""
    lab = Lab(near, audit=tmp_path).start(10)
    lab.shield.record(RecordKind.EPISODE_CLOSE, {"outcome": {}})
    lab.shield.record(RecordKind.EPISODE_CLOSE, {"outcome": {"x": 2**70}})
    lab.shield.begin_episode("second")
    lab.start(10)
    lab.shield.close()
    report = replay_run(tmp_path)
    assert (report.divergence, report.episodes, report.agrees) == (None, 2, False)
    assert [(loss.episode, loss.decisions) for loss in report.losses] == [(None, 0)]


def test_a_journal_that_fails_without_a_loss_replays(tmp_path: Path, monkeypatch: Patch) -> None:
    """A sync that the disk refuses is a cause that no replay could compute: it is fed back as it was recorded."""
    lab = Lab(near, audit=AuditConfig(run=tmp_path, writer="inline", durability="each")).start(20)
    with monkeypatch.context() as inner:
        inner.setattr("safeguard.audit.journal.segments.os.fdatasync", full)
        lab.run(10)
    assert Cause.AUDIT_FAILED in lab.decisions[-1].causes
    assert lab.decisions[-1].mode is Mode.HOLD
    lab.run(300)
    lab.start(20)
    lab.shield.close()
    assert verify_run(tmp_path).sound
    report = replay_run(tmp_path)
    assert report.identical, list(report.lines())


def test_a_lockout_file_that_cannot_be_saved_replays(tmp_path: Path, monkeypatch: Patch) -> None:
    """The same of a count of emergency stops that could not be kept."""
    lab = Lab(near, audit=tmp_path / "run").start(20)
    lab.shield._lockout = LockoutFile(tmp_path / "nowhere" / "lockout.json")
    lab.shield._unsaved = "the count could not be kept"
    lab.run(10)
    said = [v for v in lab.decisions[-1].verdicts if v.monitor == "lockout"]
    assert [v.cause for v in said] == [Cause.AUDIT_FAILED]
    lab.shield._unsaved = ""
    lab.run(10)
    lab.shield.close()
    assert replay_run(tmp_path / "run").identical


def test_only_what_could_not_be_kept_is_fed_back(tmp_path: Path) -> None:
    """A cause of the filter that somebody writes into the record is still found."""
    lab = Lab(near, audit=tmp_path).start(20)
    lab.shield.close()

    def change(_: int, record: dict[str, Any]) -> None:
        if record["kind"] == "decision" and record["tick"] == 7:
            verdict = {"monitor": "filter", "level": 3, "score": "NaN", "threshold": "NaN", "p_value": None}
            record["body"]["decision"]["verdicts"].append({**verdict, "cause": "audit_failed", "detail": "made up"})

    resigned(tmp_path, change)
    found = replay_run(tmp_path).divergence
    assert found is not None
    assert found.tick == 7


def test_a_guest_cannot_take_a_cause_back(tmp_path: Path, monkeypatch: Patch) -> None:
    """A policy's port that has the attribute of a replay's can only add to what the journal says, and never raises."""
    lab = Lab(near, audit=tmp_path).start(20)
    for value in ((), (1, "x"), None, 7):
        lab.shield.port.unkept = value  # type: ignore[attr-defined]
        with monkeypatch.context() as inner:
            inner.setattr("safeguard.audit.journal.segments.os.write", full)
            lab.tick()
            assert Cause.AUDIT_FAILED in lab.tick().causes
        lab.run(2)
    lab.shield.close()
    assert os.listdir(tmp_path)
