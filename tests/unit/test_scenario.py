"""Scenario files: the library, overrides, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.errors import ConfigError
from safeguard.scenarios.referee import MOTION, ViolationKind
from safeguard.scenarios.runner import POLICIES, TASKS
from safeguard.scenarios.scenario import Assumptions, Scenario, assign, library, load_scenario


def written(folder: Path, text: str) -> Path:
    """A scenario file with this text."""
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_the_library_has_the_scenarios_of_the_demo() -> None:
    """One clean scenario, three motion faults, three of the information that commands rest on."""
    assert set(library()) == {
        "clean",
        "joint_limits",
        "self_collision",
        "torque_spikes",
        "nan_burst",
        "policy_hang",
        "frozen_observation",
    }


@pytest.mark.parametrize("name", library())
def test_every_scenario_of_the_library_is_complete(name: str) -> None:
    """It loads under its own name, its parts exist, and it says what its unshielded twin must show."""
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.summary
    assert scenario.policy in POLICIES
    assert scenario.task in TASKS
    assert scenario.expectation.assumptions is Assumptions.INSIDE
    assert bool(scenario.expectation.unshielded) == bool(scenario.faults) == (name != "clean")


def test_the_motion_faults_must_show_motion_violations() -> None:
    """Three scenarios are hazards without a shield, each of another kind."""
    shown = [
        set(load_scenario(name).expectation.unshielded) for name in ("joint_limits", "self_collision", "torque_spikes")
    ]
    assert shown == [{ViolationKind.POSITION}, {ViolationKind.SELF_COLLISION}, {ViolationKind.TORQUE}]
    assert all(kinds <= MOTION for kinds in shown)


def test_a_twin_differs_in_severity_only() -> None:
    """The matched clean twin has the same wiring and the same random streams."""
    scenario = load_scenario("torque_spikes")
    twin = scenario.twin()
    assert [fault.severity for fault in twin.faults] == [0]
    assert [fault.label for fault in twin.faults] == [fault.label for fault in scenario.faults]
    assert twin.model_copy(update={"faults": scenario.faults}) == scenario


def test_a_scenario_survives_being_written_down(tmp_path: Path) -> None:
    """What a scenario dumps loads as the same scenario, parameters of its faults included."""
    scenario = load_scenario("joint_limits")
    path = tmp_path / "copy.yaml"
    path.write_text(scenario.model_dump_json())
    assert load_scenario(path) == scenario


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nduration_s: -1\n", r"mine.yaml: duration_s = -1: Input should be greater than 0"),
        ("name: x\nduration_s: .nan\n", r"mine.yaml: duration_s = nan: Input should be a finite number"),
        (
            "name: x\nduration: 2\n",
            r"mine.yaml: duration = 2: unknown key; known beside it: calibration, duration_s, ",
        ),
        ("name: x\noperator: {pause_s: 1}\n", r"operator.pause_s = 1: unknown key; .*: dwell_s, name, recov"),
        ("name: x\nrobot: pandora\n", r"robot = 'pandora': unknown robot; known: g1, panda"),
        ("summary: x\n", r"mine.yaml: name: Field required"),
        ("name: x\nfaults: [{kind: nan}]\n", r"faults.0 = .*unknown fault 'nan' under 'kind'; known: policy"),
        (
            "name: x\nfaults: [{kind: policy.nan, share: 2}]\n",
            r"faults.0 = .*share = 2: Input should be less",
        ),
        (
            "name: x\nfaults: [{kind: policy.nan, start_s: 9}]\n",
            r"starts at 9.0 s, the episode ends at 5.0 s",
        ),
        (
            "name: x\nfaults: [{kind: policy.nan}, {kind: policy.nan}]\n",
            r"different names.*give each a 'name'",
        ),
        ("- name\n", r"mine.yaml: a scenario is a mapping of keys, got list"),
        ("name: [\n", r"mine.yaml: not YAML"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    """The error names the file, the key, the value and what would be right."""
    with pytest.raises(ConfigError, match=message):
        load_scenario(written(tmp_path, text))


def test_every_mistake_of_a_file_is_listed(tmp_path: Path) -> None:
    """One line each, so that a file is mended in one go."""
    with pytest.raises(ConfigError) as caught:
        load_scenario(written(tmp_path, "name: x\nseed: -1\nftti_s: 0\ncolour: red\n"))
    assert len(str(caught.value).splitlines()) == 3


def test_a_missing_scenario_lists_the_library() -> None:
    """Neither a name nor a file: the names that exist are listed."""
    with pytest.raises(ConfigError, match="'cleen' is neither a file nor a name of the library; known: clean"):
        load_scenario("cleen")


def test_assignments_reach_into_the_file() -> None:
    """Dotted keys with list positions; values are read as YAML; later ones win."""
    scenario = load_scenario(
        "nan_burst", ["duration_s=2", "faults.0.severity=5", "operator.recoveries=0", "duration_s=3.5"]
    )
    assert (scenario.duration_s, scenario.faults[0].severity, scenario.operator.recoveries) == (3.5, 5, 0)
    assert load_scenario("nan_burst").faults[0].severity == 3


def test_an_assignment_can_replace_a_whole_part() -> None:
    """A list or mapping is written as in the file."""
    scenario = load_scenario("clean", ["faults=[{kind: compute.hang, start_s: 2.0}]"])
    assert [fault.kind for fault in scenario.faults] == ["compute.hang"]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("duration_s", "'duration_s' must read KEY=VALUE"),
        ("=3", "'=3' must read KEY=VALUE"),
        ("faults.1.severity=2", "'faults.1.severity': there is no '1' in a list of 1, counted from 0"),
        ("name.first=2", "'name.first': there is no 'first' in 'nan_burst'"),
        ("sead=2", "nan_burst.yaml: sead = 2: unknown key"),
        ("seed=[", "'seed=\\[': the value is not YAML"),
    ],
)
def test_a_wrong_assignment_is_explained(assignment: str, message: str) -> None:
    """The error names the assignment and what is there instead."""
    with pytest.raises(ConfigError, match=message):
        load_scenario("nan_burst", [assignment])


@given(st.integers(0, 2**31), st.floats(0.1, 100.0))
def test_an_assigned_number_arrives_as_it_is(seed: int, duration: float) -> None:
    """Assigning is the same as writing the number into the file."""
    tree = {"name": "x"}
    assign(tree, f"seed={seed}")  # type: ignore[arg-type]  # a mapping of strings is a tree of YAML
    assign(tree, f"duration_s={duration!r}")  # type: ignore[arg-type]
    assert Scenario.model_validate(tree) == Scenario(name="x", seed=seed, duration_s=duration)
