"""A difference planted in each stage of a real run is found where it is, with what stood around it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import typer
from typer.testing import CliRunner

from safeguard import cli_replay
from safeguard.core.errors import ConfigError
from safeguard.replay import replay_run
from safeguard.replay_compare import Divergence, Outline
from tests.conftest import ROOT
from tests.unit import audit_edit

TICK = 130
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the golden run in which the solver keeps the arm within its limits."""
    shutil.copytree(ROOT / "tests" / "golden" / "joint_limits", tmp_path / "run")
    return tmp_path / "run"


def put(path: str, change: Callable[[Any], Any]) -> Edit:
    """An edit of the value at a dotted path."""

    def edit(body: dict[str, Any]) -> None:
        node: Any = body
        *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
        for key in parents:
            node = node[key]
        node[last] = change(node[last])

    return edit


def plant(run: Path, edit: Edit) -> None:
    """Edit the decision of one tick and sign anew, as an insider would."""

    def change(seq: int, record: dict[str, Any]) -> None:
        if record["kind"] == "decision" and record["tick"] == TICK:
            edit(record["body"])

    audit_edit.resigned(run, change)


def found_in(run: Path, edit: Edit) -> Divergence:
    """The divergence that an edit makes."""
    plant(run, edit)
    found = replay_run(run, strictness="machine").divergence
    assert found is not None
    return found


PLANTED: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("monitors", "decision.verdicts.9", lambda _: "another monitor"),
    ("modes", "decision.causes", lambda causes: [*causes, "estop"]),
    ("modes", "decision.reasons", lambda _: ["CORE-R99"]),
    ("modes", "decision.mode", lambda _: 4),
    ("modes", "decision.configuration", lambda _: "tail"),
    ("modes", "decision.authority", lambda _: "backup"),
    ("filter", "decision.filter.status", lambda _: "refused"),
    ("filter", "decision.filter.torque.2", lambda torque: torque + 0.01),
    ("filter", "decision.filter.acceleration.1", lambda a: a + 0.01),
    ("filter", "decision.filter.active", lambda rows: rows[:-1]),
    ("filter", "decision.filter.margins.velocity", lambda margin: margin + 0.001),
    ("command", "decision.source", lambda _: "proposal"),
    ("command", "decision.command.seq", lambda seq: seq + 1),
    ("command", "decision.command.expires", lambda expires: expires + 1),
    ("shield", "decision.enforcement", lambda _: "off"),
]


@pytest.mark.parametrize(("stage", "path", "change"), PLANTED, ids=[path for _, path, _ in PLANTED])
def test_what_is_planted_in_a_stage_is_found_there(
    run: Path, stage: str, path: str, change: Callable[[Any], Any]
) -> None:
    """Tick, stage and field are named, and nothing before it is."""
    found = found_in(run, put(path, change))
    assert (found.episode, found.tick, found.now, found.stage) == (0, TICK, TICK * 2_000_000, stage)
    assert found.path.replace("[", ".").replace("]", "").startswith(path)
    assert found.expected != found.got


def test_an_edited_input_shows_in_what_followed_from_it(run: Path) -> None:
    """Inputs are fed back, so a changed one is found at the first thing that it changes."""
    found = found_in(run, put("observation.state.v.1", lambda v: v + 0.05))
    assert found.tick == TICK
    assert found.stage in ("monitors", "modes", "filter")


def test_a_divergence_tells_what_stood_around_it(run: Path) -> None:
    """Both decisions and the one before in outline, and how far the numbers are apart."""
    found = found_in(run, put("decision.filter.torque.2", lambda torque: torque + 0.01))
    assert found.delta is not None
    assert found.delta.absolute == pytest.approx(0.01, abs=1e-4)
    assert found.delta.ulps > 1e6
    outline = Outline("CAUTIOUS", ("monitor_warn", "uncalibrated"), "corrected", "qp")
    assert (found.recorded, found.recomputed, found.previous) == (outline, outline, outline)
    lines = list(found.lines())
    assert lines[0] == f"episode 0, tick {TICK}, 0.260 s (record {found.seq}) differs in the stage filter"
    assert any(line.endswith(" ULP") for line in lines)
    assert lines[-3:] == [f"  {name:<12}{outline}" for name in ("before it", "recorded", "recomputed")]


def test_the_first_decision_has_none_before_it(run: Path) -> None:
    """At the start of an episode there is nothing to show."""

    def change(seq: int, record: dict[str, Any]) -> None:
        if record["tick"] == 0:
            record["body"]["decision"]["mode"] = 4

    audit_edit.resigned(run, change)
    found = replay_run(run, strictness="machine").divergence
    assert found is not None
    assert found.previous is None
    assert not any("before it" in line for line in found.lines())


def test_tolerant_lets_the_solver_end_elsewhere(run: Path) -> None:
    """Iterations and what the solver's accuracy leaves open pass and are reported; in exact mode they do not pass."""
    plant(run, put("decision.filter.iterations", lambda count: count + 10))
    report = replay_run(run, strictness="tolerant")
    assert report.agrees
    assert not report.identical
    assert "decision.filter.iterations" in {passed.path for passed in report.deviations}
    assert any("in 1 decisions, by up to 10" in line for line in report.lines()) or report.machine
    exact = replay_run(run)
    assert exact.divergence is not None
    assert exact.divergence.path == "decision.filter.iterations" or exact.machine


def test_the_machine_decides_how_strictly(run: Path) -> None:
    """A run that another library made is compared within tolerances, and the report names the library."""
    assert replay_run(run, strictness="machine").strictness in ("exact", "tolerant")

    def other(seq: int, record: dict[str, Any]) -> None:
        if seq == 0:
            record["body"]["libraries"]["scipy"] = "0.1"

    audit_edit.resigned(run, other)
    report = replay_run(run, strictness="machine")
    assert report.agrees
    assert report.strictness == "tolerant"
    assert any("scipy is" in difference and "was 0.1" in difference for difference in report.machine)
    assert any("within the tolerances of the schema" in line and "scipy" in line for line in report.lines())
    assert replay_run(run).strictness == "exact"


app = typer.Typer()
app.registered_commands += cli_replay.commands.registered_commands


@app.callback()
def audit() -> None:
    """So that commands keep their names."""


def call(*arguments: object) -> tuple[int, str, Any]:
    """Exit code, output and error of a command."""
    done = CliRunner().invoke(app, [str(word) for word in arguments])
    return done.exit_code, done.stdout, done.exception


def data(text: str) -> dict[str, Any]:
    """JSON that a command printed."""
    return cast("dict[str, Any]", json.loads(text))


def test_the_command_says_that_a_run_comes_out_again(run: Path) -> None:
    """Exit code 0, how many, and how they were compared."""
    code, out, _ = call("replay", run)
    assert code == 0
    assert "350 decisions of 1 episodes came out" in out
    assert "compared" in out
    code, out, _ = call("replay", run, "--tolerant", "--json")
    assert code == 0
    assert data(out)["agrees"] is True
    assert data(out)["strictness"] == "tolerant"


def test_the_command_says_what_diverged(run: Path) -> None:
    """Exit code 3 and the divergence, for people and for machines; only the episode that is asked for counts."""
    plant(run, put("decision.source", lambda _: "proposal"))
    code, out, _ = call("replay", run)
    assert code == 3
    assert f"tick {TICK}" in out
    assert "decision.source" in out
    code, out, _ = call("replay", run, "--json")
    assert code == 3
    assert data(out)["divergence"]["recomputed"]["source"] == "qp"
    code, out, _ = call("replay", run, "--episode", 7)
    assert code == 3
    assert "the run holds no decision" in out


def test_the_command_answers_what_if(run: Path, tmp_path: Path) -> None:
    """Exit code 0, open loop is said, the changed keys and counts are shown."""
    file = tmp_path / "wider.yaml"
    file.write_text("filter:\n  margins:\n    velocity_share: 0.05\n")
    code, out, _ = call("replay", run, "--what-if", file)
    assert code == 0
    assert "filter.margins.velocity_share: 0.01 → 0.05" in out
    assert "Open loop" in out
    assert "of 350 decisions would change" in out
    assert "largest change of a torque" in out
    code, out, _ = call("replay", run, "--set", "filter.margins.velocity_share=0.05", "--json")
    assert code == 0
    assert data(out)["open_loop"] is True
    assert data(out)["changed"] > 0
    assert data(out)["settings"] == {"filter.margins.velocity_share": [0.01, 0.05]}


def test_what_if_is_never_tolerant(run: Path) -> None:
    """The two options contradict each other, and the error says so."""
    _, _, error = call("replay", run, "--tolerant", "--set", "real_time=true")
    assert isinstance(error, ConfigError)
    assert "--tolerant" in str(error)
