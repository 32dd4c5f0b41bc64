from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.core
import typer.main

from safeguard import cli
from safeguard.audit import verify_run
from safeguard.audit.journal import frames
from safeguard.core.enums import Enforcement, RecordKind
from safeguard.monitors import Calibration, calibrate
from safeguard.replay import replay_run
from safeguard.scenarios import runner
from safeguard.scenarios.scenario import library, load_scenario
from tests.laws.lab import Lab, beyond, panda
from tests.unit.audit_edit import contents, put, put_contents, raw, records, resigned
from tests.unit.audit_runs import started
from tests.unit.cli_support import Call
from tests.unit.cli_support import safeguard as safeguard

Patch = pytest.MonkeyPatch

Command = typer.core.TyperCommand
Group = typer.core.TyperGroup


def commands() -> dict[str, Command]:
    """Every command that can be typed, by its words."""

    def walk(words: tuple[str, ...], group: Group) -> Iterator[tuple[str, Command]]:
        for name, inner in group.commands.items():
            if isinstance(inner, Group):
                yield from walk((*words, name), inner)
            else:
                assert isinstance(inner, Command)
                yield " ".join((*words, name)), inner

    top = typer.main.get_command(cli.app)
    assert isinstance(top, Group)
    return dict(walk((), top))


@pytest.fixture(scope="module")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short closed run of the arm."""
    run = tmp_path_factory.mktemp("runs") / "good"
    lab = Lab(beyond, audit=run).start(60)
    lab.shield.stop(operator="lab", reason="test")
    lab.run(10)
    lab.shield.close()
    return run


@pytest.fixture
def own_run(good_run: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return put(tmp_path / "run", raw(good_run))


# -- help ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", commands())
def test_help_has_an_example(words: str, safeguard: Call) -> None:
    """``--help`` of every command ends with an example of that command, and the example can be parsed."""
    done = safeguard(*words.split(), "--help")
    assert done.code == 0
    example = re.search(r"Example: safeguard (.+)", done.said)
    assert example is not None
    typed = shlex.split(example.group(1))
    assert typed[: len(words.split())] == words.split()
    command = commands()[words]
    command.make_context(words, typed[len(words.split()) :])


@pytest.mark.parametrize("group", ["", "robot", "audit", "policies"])
def test_help_lists_what_there_is(group: str, safeguard: Call) -> None:
    """Help of a group names each of its commands."""
    done = safeguard(*group.split(), "--help")
    assert done.code == 0
    inner = [words.split() for words in commands() if words.startswith(group)]
    assert inner
    for words in inner:
        assert words[len(group.split())] in done.out


@pytest.mark.parametrize(
    "line",
    ["frobnicate", "run", "run clean --nonsense", "robot show", "audit verify", "run clean --seed x"],
)
def test_wrong_usage_is_2(line: str, safeguard: Call) -> None:
    """An unknown command, a missing argument or an unknown option is exit code 2, told on standard error."""
    done = safeguard(*line.split())
    assert done.code == cli.USAGE
    assert done.out == ""
    assert "Error" in done.err


def test_interrupted_is_130(safeguard: Call, monkeypatch: Patch) -> None:
    """Ctrl-C is exit code 130, as shells have it, without a traceback."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    done = safeguard("run", "clean")
    assert (done.code, done.said) == (130, "")


# -- robots, policies ---------------------------------------------------------------------------------------


def test_robot_list(safeguard: Call) -> None:
    """The robots that can be loaded, one a line or as JSON."""
    assert "panda" in safeguard("robot", "list").out.splitlines()
    assert "panda" in safeguard("robot", "list", "--json").data


def test_robot_show(safeguard: Call) -> None:
    """Limits with provenance, and the digest that records carry."""
    done = safeguard("robot", "show", "panda")
    assert done.code == 0
    assert panda().digest in done.said
    assert all(joint in done.out for joint in panda().joints)
    data = safeguard("robot", "show", "panda", "--json").data
    assert data["limits"]["tau_max"] == panda().limits.tau_max.tolist()
    assert set(data["provenance"]) == set(panda().limits.provenance)
    assert len(data["pairs"]) == len(panda().collision.names)
    assert data["digest"] == panda().digest


def test_unknown_robot(safeguard: Call) -> None:
    """The error lists the robots that exist."""
    done = safeguard("robot", "show", "pandaa")
    assert done.code == cli.USAGE
    assert "'pandaa'" in done.said
    assert "known: g1, panda" in done.said
    assert "Traceback" not in done.said


def test_policies_list(safeguard: Call) -> None:
    """The policies that a scenario can name."""
    assert safeguard("policies", "list", "--json").data == list(runner.POLICIES)
    assert safeguard("policies", "list").out.split() == list(runner.POLICIES)


# -- run ----------------------------------------------------------------------------------------------------


def short(scenario: str, seconds: float = 0.3) -> list[str]:
    """The scenario cut to a fraction of a second, with its fault near the start."""
    changes = [f"duration_s={seconds}", "calibration=null", "policy=push_expert"]
    if load_scenario(scenario).faults:
        changes.append("faults.0.start_s=0.1")
    return [scenario, *(word for change in changes for word in ("--set", change))]


@pytest.mark.parametrize("scenario", library())
def test_run(scenario: str, safeguard: Call, tmp_path: Path) -> None:
    """Every scenario of the library runs, safely, and leaves a complete journal."""
    done = safeguard("run", *short(scenario), "--json")
    assert done.code == cli.OK, done.said
    assert done.data["scenario"] == scenario
    assert done.data["enforcement"] == "full"
    assert Path(done.data["run"]) == Path("runs") / f"{scenario}-1"
    assert verify_run(tmp_path / done.data["run"]).sound
    assert sum(r["kind"] == "decision" for r in records(tmp_path / done.data["run"])) == 150


def test_run_for_people(safeguard: Call, tmp_path: Path) -> None:
    """Without ``--json`` a table and the run folder; each run gets a folder of its own."""
    first, second = safeguard("run", *short("clean", 0.02)), safeguard("run", *short("clean", 0.02))
    assert "run folder: runs/clean-1" in first.said
    assert "run folder: runs/clean-2" in second.said
    assert (tmp_path / "runs" / "clean-2" / "journal").is_dir()


def test_run_without_the_shield(safeguard: Call, tmp_path: Path) -> None:
    """``--no-shield`` is marked in the result and in every record, and is no failure of the shield."""
    done = safeguard("run", *short("joint_limits"), "--no-shield", "--seed", "3", "--out", "raw", "--json")
    assert done.code == cli.OK
    assert (done.data["enforcement"], done.data["seed"]) == ("off", 3)
    bodies = [r["body"] for r in records(tmp_path / "raw") if r["kind"] == "decision"]
    assert {body["decision"]["enforcement"] for body in bodies} == {"off"}


def test_run_that_only_watches(safeguard: Call, tmp_path: Path) -> None:
    """``--monitor-only`` sends what ``--no-shield`` sends, is marked, and says what it would have done."""
    line = [*short("joint_limits"), "--seed", "3", "--json", "--out"]
    watching, bare = safeguard("run", *line, "watch", "--monitor-only"), safeguard("run", *line, "raw", "--no-shield")
    assert watching.code == cli.OK
    assert watching.data["enforcement"] == "monitor_only"
    assert watching.data["commands"] == bare.data["commands"]
    bodies = [r["body"]["decision"] for r in records(tmp_path / "watch") if r["kind"] == "decision"]
    assert {body["enforcement"] for body in bodies} == {"monitor_only"}
    assert "corrected" in {body["filter"]["status"] for body in bodies}
    assert "bypassed" not in {body["filter"]["status"] for body in bodies}
    assert replay_run(tmp_path / "watch").identical
    assert "watch" in safeguard("run", *short("clean", 0.02), "--monitor-only").said


def test_run_from_a_file(safeguard: Call, tmp_path: Path) -> None:
    """A scenario may be a file of one's own."""
    own = tmp_path / "own.yaml"
    own.write_text("name: own\npolicy: push_expert\nduration_s: 0.02\n")
    done = safeguard("run", own, "--json")
    assert (done.code, done.data["scenario"]) == (cli.OK, "own")


@pytest.mark.parametrize("enforcement", [Enforcement.FULL, Enforcement.OFF])
def test_a_violation_is_3(enforcement: Enforcement, safeguard: Call, monkeypatch: Patch) -> None:
    """A violation of motion limits under the shield is exit code 3; without the shield it is what was asked for."""
    real: Callable[..., Any] = runner.run_episode

    def hurt(scenario: Any, **named: Any) -> Any:
        result = real(scenario, **{**named, "enforcement": Enforcement.OFF})
        assert result.judgement.violations
        return replace(result, enforcement=enforcement)

    monkeypatch.setattr(runner, "run_episode", hurt)
    flag = ["--no-shield"] if enforcement is Enforcement.OFF else []
    line = [*short("torque_spikes", 1.5), "--set", "faults.0.share=1.0", "--set", "faults.0.jump_rad=2.0"]
    done = safeguard("run", *line, "--set", "faults.0.start_s=0.3", *flag, "--json")
    assert done.data["violations"]
    assert done.code == (cli.FAILED if enforcement is Enforcement.FULL else cli.OK)


WRONG = {
    "no such scenario": (["run", "claen"], ["'claen'", "known: clean,"]),
    "two ways to enforce nothing": (["run", "clean", "--no-shield", "--monitor-only"], ["--monitor-only", "leave one"]),
    "no equals sign": (["run", "clean", "--set", "seed"], ["KEY=VALUE", "'seed'"]),
    "no such key": (["run", "clean", "--set", "duration=1"], ["clean.yaml", "duration", "duration_s"]),
    "no such fault": (["run", "nan_burst", "--set", "faults.4.start_s=1"], ["faults.4.start_s", "list of 1"]),
    "not a number": (["run", "clean", "--set", "seed=many"], ["clean.yaml", "seed", "'many'"]),
    "below zero": (["run", "clean", "--set", "duration_s=-1"], ["duration_s", "greater than 0"]),
    "no such policy": (["run", "clean", "--set", "policy=gpt", "--set", "calibration=null"], ["'gpt'", "push_policy"]),
    "no such robot": (["run", "clean", "--set", "robot=r2d2"], ["robot", "'r2d2'", "known: g1, panda"]),
    "no journal": (["audit", "verify", "nowhere"], ["nowhere", "give the folder of a run"]),
    "nothing to replay": (["audit", "replay", "nowhere"], ["nowhere"]),
    "nothing to report": (["audit", "report", "nowhere"], ["nowhere"]),
    "faults in a calibration": (["calibrate", "nan_burst"], ["nan_burst", "calibrate on one without"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_name_the_fix(name: str, safeguard: Call) -> None:
    """A mistake is exit code 2 with the place, the value and what would be right, and no traceback."""
    arguments, words = WRONG[name]
    done = safeguard(*arguments)
    assert done.code == cli.USAGE
    assert done.out == ""
    missing = [word for word in words if word not in done.said]
    assert not missing, done.said
    assert "Traceback" not in done.said


# -- audit --------------------------------------------------------------------------------------------------


def test_audit_verify(good_run: Path, safeguard: Call) -> None:
    """Without a key a run as it was written is self-signed, exit code 7."""
    done = safeguard("audit", "verify", good_run)
    assert done.code == 7
    assert "self-signed" in done.said
    data = safeguard("audit", "verify", good_run, "--json").data
    assert (data["verdict"], data["records"]) == ("self-signed", len(records(good_run)))


@pytest.mark.parametrize("seq", [0, 1, 57, 150])
def test_audit_verify_changed_byte(seq: int, own_run: Path, safeguard: Call) -> None:
    """One changed byte is exit code 3, and the record that holds it is named."""
    found = [content for content in contents(own_run) if content[0] == frames.RECORD]
    good = raw(own_run)
    at = good.index(found[seq]) + 100
    put(own_run, good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :])
    done = safeguard("audit", "verify", own_run, "--json")
    assert done.code == 3
    assert (done.data["verdict"], done.data["at_seq"]) == ("altered", seq)
    assert safeguard("audit", "verify", own_run).code == 3


def test_audit_verify_cut_run(own_run: Path, safeguard: Call) -> None:
    """A run that ends inside a frame is exit code 4."""
    put(own_run, raw(own_run)[:-5])
    done = safeguard("audit", "verify", own_run)
    assert done.code == 4
    assert "truncated" in done.said


def test_audit_verify_gap(tmp_path: Path, safeguard: Call) -> None:
    """A run that lost records is exit code 5, and how many is said."""
    with started(tmp_path / "run") as journal:
        journal.append(RecordKind.HUMAN, {"operator": 2**70})
    done = safeguard("audit", "verify", tmp_path / "run")
    assert done.code == 5
    assert "gap" in done.said
    assert "1 records were lost" in done.said


def test_audit_verify_open_run(own_run: Path, safeguard: Call) -> None:
    """A run without its end is exit code 6, and what is unprotected is said."""
    put_contents(own_run, contents(own_run)[:-2])
    done = safeguard("audit", "verify", own_run)
    assert done.code == 6
    assert "open" in done.said
    assert "unprotected" in done.said


def test_audit_replay(good_run: Path, safeguard: Call) -> None:
    """A run replays identically."""
    done = safeguard("audit", "replay", good_run)
    assert done.code == cli.OK
    assert "came out identical" in done.said
    data = safeguard("audit", "replay", good_run, "--json").data
    assert data["identical"]
    assert data["decisions"] == sum(r["kind"] == "decision" for r in records(good_run))


@pytest.mark.parametrize(
    ("stage", "path"),
    [("command", ("command", "tau")), ("filter", ("filter", "torque")), ("modes", ("mode",))],
    ids=["command", "filter", "modes"],
)
def test_audit_replay_edited_decision(stage: str, path: tuple[str, ...], own_run: Path, safeguard: Call) -> None:
    """An edited decision, signed anew, is self-signed and is found by ``replay`` at that tick: exit code 3."""
    tick = 140

    def edit(seq: int, record: dict[str, Any]) -> None:
        if record["kind"] == "decision" and record["tick"] == tick:
            place = record["body"]["decision"]
            for step in path[:-1]:
                place = place[step]
            value = place[path[-1]]
            place[path[-1]] = [value[0] + 1e-12, *value[1:]] if isinstance(value, list) else value + 1

    resigned(own_run, edit)
    assert safeguard("audit", "verify", own_run).code == 7
    done = safeguard("audit", "replay", own_run, "--json")
    assert done.code == cli.FAILED
    assert not done.data["identical"]
    found = done.data["divergence"]
    assert (found["episode"], found["tick"], found["stage"]) == (0, tick, stage)
    told = safeguard("audit", "replay", own_run)
    assert told.code == cli.FAILED
    assert f"tick {tick}" in told.said
    assert ".".join(path) in told.said


def test_audit_report(own_run: Path, safeguard: Call) -> None:
    """The report is one page beside the journal."""
    done = safeguard("audit", "report", own_run)
    assert done.code == cli.OK
    assert str(own_run / "report.html") in done.said
    assert "<html" in (own_run / "report.html").read_text("utf-8")
    assert verify_run(own_run).sound


# -- calibrate, bench ---------------------------------------------------------------------------------------


def test_calibrate_too_few_episodes(safeguard: Call, tmp_path: Path) -> None:
    """Too few episodes leave rungs without a threshold; the artefact says so, and that is not success."""
    (tmp_path / "own.yaml").write_text("name: own\npolicy: push_expert\nduration_s: 0.1\n")
    done = safeguard("calibrate", "own.yaml", "--episodes", "6", "--out", "own.json", "--json")
    assert done.code == cli.FAILED
    assert [(rung["n"], rung["threshold"]) for rung in done.data["rungs"]] == [(4, None)] * 3
    assert Calibration.load(tmp_path / "own.json").digest == done.data["digest"]


@pytest.mark.parametrize(("episodes", "code"), [(75, cli.FAILED), (250, cli.OK)])
def test_calibrate_tells_its_rungs(safeguard: Call, monkeypatch: Patch, episodes: int, code: int) -> None:
    """A table of the rungs; the stop rung is missing with 60 calibration episodes and there with 200."""
    rng = np.random.default_rng(3)
    traces = [{"tremor": np.abs(np.cumsum(rng.normal(size=50)))} for _ in range(episodes)]

    def made(*_: object, **__: object) -> Calibration:
        return calibrate(traces, [("tremor", "action", 1e-3)])

    monkeypatch.setattr("safeguard.scenarios.calibration.calibrate_scenario", made)
    done = safeguard("calibrate", "clean", "--out", "own.json")
    assert done.code == code
    assert all(name in done.said for name in ("warn", "degrade", "stop", "g_act", "true rate"))
    assert ("stop is uncalibrated: 60 episodes, at least 199" in done.said) is (code == cli.FAILED)


def test_bench(safeguard: Call, tmp_path: Path, monkeypatch: Patch) -> None:
    """The figures, for people and in a file."""
    monkeypatch.setattr("safeguard.scenarios.bench.import_time", lambda: 0.1)
    done = safeguard("bench", "--ticks", "100", "--json", "bench.json")
    assert done.code == cli.OK
    assert "p99" in done.said
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert figures["robot"] == "panda"
    assert {"admissible", "corrected"} <= set(figures)
