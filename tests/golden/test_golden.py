from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from safeguard.audit import read_public, verify_run
from safeguard.audit.records.registry import Record, RunOpen
from safeguard.core.config import MarginConfig
from safeguard.core.protocols import PolicyPort
from safeguard.replay import recorded_config, recorded_shield, replay_run
from safeguard.shield import Shield
from scripts import golden
from tests.unit import audit_edit

HERE = Path(__file__).parent
LARGEST = 250_000  # with what the monitors have learned in run_open
RUNS = sorted(golden.RUNS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shortest golden run, in the place of all of them."""
    shutil.copytree(HERE / "monitor_only", tmp_path / "monitor_only")
    return tmp_path


def put(at_tick: int, field: str, value: Any) -> Any:
    """An edit of one field of the decision of one tick."""

    def change(seq: int, record: dict[str, Any]) -> None:
        if record["tick"] == at_tick:
            record["body"]["decision"][field] = value

    return change


@pytest.mark.parametrize("name", RUNS)
def test_a_golden_run_comes_out_again(name: str) -> None:
    """It is complete, signed by the key beside it, and every decision is the same: exactly where it was recorded."""
    assert verify_run(HERE / name, read_public(HERE / name / golden.KEY)).verdict == "complete"
    report = replay_run(HERE / name, strictness="machine")
    assert report.agrees, "\n".join(report.lines())
    assert report.strictness == ("tolerant" if report.machine else "exact")
    assert report.identical or report.machine


@pytest.mark.parametrize("name", RUNS)
def test_a_golden_run_is_small_and_holds_no_private_key(name: str) -> None:
    """One compressed segment and a public key, all in all little enough for a repository."""
    files = [file for file in (HERE / name).rglob("*") if file.is_file()]
    assert {file.name for file in files} == {golden.KEY, audit_edit.segments(HERE / name)[0].name}
    assert sum(file.stat().st_size for file in files) <= LARGEST
    assert (HERE / name / golden.KEY).read_text().startswith(f"golden-{name}+")


def test_every_folder_here_has_its_recipe() -> None:
    """No run lies here that cannot be recorded anew."""
    assert {place.name for place in HERE.iterdir() if (place / "journal").is_dir()} == set(RUNS)


def test_the_runs_show_what_they_are_for() -> None:
    """Together they hold what a change is most likely to break: solver, backup, tail, jog, raw commands, recovery."""

    def seen(name: str, *path: str) -> set[str]:
        found: list[Any] = [body["decision"] for body in golden.decisions_of(HERE / name)]
        for key in path:
            found = [value[key] for value in found]
        return {str(value) for value in found}

    assert "solved" in seen("joint_limits", "filter", "solver")
    assert "corrected" in seen("joint_limits", "filter", "status")
    assert "tail" in seen("vla_tail", "configuration")
    assert "operator" in seen("jog", "authority")
    assert "proposal" in seen("monitor_only", "source")
    assert "uncalibrated" not in " ".join(seen("clean_start", "causes"))
    modes = [line.split()[4] for line in golden.timeline(golden.decisions_of(HERE / "nan_burst"))]
    assert modes[0] == modes[-2] == "HOLD"
    assert modes[-1] == "CAUTIOUS"


def test_another_shield_does_not_pass() -> None:
    """A thousandth of a radian more that is kept from the limits is found, in either strictness."""

    def wider(run_open: Record, episode_open: Record, port: PolicyPort) -> Shield:
        assert isinstance(run_open.body, RunOpen)
        config = recorded_config(run_open.body)
        changed = config.filter.model_copy(update={"margins": MarginConfig(position_rad=0.003)})
        return recorded_shield(run_open, episode_open, port, config.model_copy(update={"filter": changed}))

    for strictness in ("exact", "tolerant"):
        assert not replay_run(HERE / "joint_limits", rebuild=wider, strictness=strictness).agrees


def test_an_edited_golden_run_is_bad(folder: Path) -> None:
    """Whoever edits a run and signs it with a key of their own fails the check, and the decision is named."""
    assert golden.check("monitor_only", folder)[0]
    audit_edit.resigned(folder / "monitor_only", put(120, "source", "qp"))
    ok, lines = golden.check("monitor_only", folder)
    assert not ok
    assert lines[0].startswith("altered")
    assert "tick 120" in lines[1]
    assert "command" in lines[1]


def test_a_missing_golden_run_is_bad(tmp_path: Path) -> None:
    """What is not there cannot come out again."""
    ok, lines = golden.check("jog", tmp_path)
    assert not ok
    assert "update jog" in lines[0]


def test_a_diff_says_what_changed_first(folder: Path) -> None:
    """How many decisions, the first one with both values, and modes before and after where they changed."""
    before = golden.decisions_of(folder / "monitor_only")
    audit_edit.resigned(folder / "monitor_only", put(120, "mode", 4))
    found = golden.diff(before, golden.decisions_of(folder / "monitor_only"))
    assert found.changed == 1
    text = "\n".join(found.lines)
    assert "1 of 300 decisions changed" in text
    assert "decision 120 (tick 120), stage modes, decision.mode" in text
    assert "before  CAUTIOUS" in text
    assert "after   STOP" in text
    assert "modes after\n" in text
    assert golden.diff(before, before) == golden.Diff(300, 0, ("0 of 300 decisions changed",))
    assert golden.diff(before, before[:-2]).changed == 2


def test_an_update_leaves_what_did_not_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no decision changed not a byte does; a changed run is written anew, under a new key, and then checks."""

    def digest() -> str:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    golden.update("monitor_only", folder, force=True)  # on this machine, which may not be the recording one
    committed = digest()
    assert golden.update("monitor_only", folder).changed == 0
    assert digest() == committed

    recipe = golden.RUNS["monitor_only"]

    def later(run: Path, key: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(golden, "near", golden.gentle)
            recipe(run, key)

    monkeypatch.setattr(golden, "RUNS", {"monitor_only": later})
    assert golden.update("monitor_only", folder).changed > 100
    assert digest() != committed
    assert golden.check("monitor_only", folder)[0]
