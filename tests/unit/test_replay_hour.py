"""The benchmark of replay, in small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import replay_hour
from safeguard.audit import verify_run
from tests.unit import audit_edit


def ran(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["replay_hour.py", *map(str, arguments)])
    return replay_hour.main()


def test_a_run_with_faults_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many decisions as the minutes have periods, in several episodes, with interventions, all identical."""
    told = ("--out", tmp_path / "run", "--json", tmp_path / "figures.json")
    code = ran(monkeypatch, "--minutes", 0.075, "--episode", 1.5, *told)
    figures = json.loads((tmp_path / "figures.json").read_text())

    assert code == 0
    assert (figures["decisions"], figures["replayed"], figures["episodes"]) == (900, 900, 3)
    assert figures["identical"] is True
    assert figures["modified_share"] > 0.0
    assert figures["simulated_s"] == pytest.approx(4.5)
    assert verify_run(tmp_path / "run").counts["fault_injected"] >= 1


def test_a_journal_that_does_not_come_out_again_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: one changed byte, and the exit code is 3 or the reading stops with 2."""

    def damaged(run: Path) -> object:
        data = bytearray(audit_edit.raw(run))
        data[len(data) // 2] ^= 1
        audit_edit.put(run, bytes(data))
        return verify_run(run)

    monkeypatch.setattr("benchmarks.replay_hour.verify_run", damaged)
    assert ran(monkeypatch, "--minutes", 0.01, "--out", tmp_path / "run") in (2, 3)


@pytest.mark.parametrize("wrong", [("--minutes", 0), ("--period", -1)])
def test_a_wrong_argument_is_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: tuple[str, object]
) -> None:
    """Exit code 2 and a line on standard error."""
    assert ran(monkeypatch, "--minutes", 0.01, "--out", tmp_path / "run", *wrong) == 2
    assert capsys.readouterr().err.startswith("replay_hour: ")
