"""The recorded inputs under another configuration: which decisions would change."""

from __future__ import annotations

from pathlib import Path

import pytest

from safeguard.core.config import ShieldConfig
from safeguard.core.errors import ConfigError
from safeguard.what_if import Changes, what_if
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden"
RUN = GOLDEN / "joint_limits"


def test_the_recorded_configuration_changes_nothing() -> None:
    """The same configuration gives the same decisions: what differs elsewhere is the configuration's doing."""
    report = what_if(RUN, Changes.of())
    assert (report.decisions, report.episodes, report.changed) == (350, 1, 0)
    assert (report.stages, report.first, report.settings) == ({}, (), {})
    assert all(before == after for before, after in report.modes.values())


def test_a_wider_margin_changes_decisions_of_the_filter() -> None:
    """Counts, the first of them in outline, the largest torque and the changed key."""
    seen: list[int] = []
    changes = Changes.of(assignments=["filter.margins.velocity_share=0.05"])
    report = what_if(RUN, changes, first=3, progress=seen.append)
    assert 0 < report.changed <= report.decisions == len(seen)
    assert max(report.stages.values()) <= report.changed <= sum(report.stages.values())
    assert report.stages["filter"] > 100
    assert 0 <= report.visible <= report.changed
    assert len(report.first) == 3
    assert report.first[0].tick < report.first[1].tick < report.first[2].tick
    assert report.first[0].recorded is not None
    assert report.torque is not None
    assert report.torque.amount > 0.1
    assert report.torque.joint.startswith("panda_joint")
    assert report.settings == {"filter.margins.velocity_share": (0.01, 0.05)}


def test_modes_are_counted_before_and_after() -> None:
    """A policy that must answer sooner is late: ticks move from one mode to others, and their sum stays."""
    report = what_if(GOLDEN / "vla_tail", Changes.of(assignments=["policy.deadline_s=0.1"]))
    assert report.stages["monitors"] > 0
    assert sum(before for before, _ in report.modes.values()) == report.decisions
    assert sum(after for _, after in report.modes.values()) == report.decisions
    assert any(before != after for before, after in report.modes.values())
    assert report.visible > 0


def test_the_inputs_stay_as_recorded() -> None:
    """Open loop: under a filter that brakes harder the observations are those of the journal, so no input differs."""
    report = what_if(RUN, Changes.of(assignments=["filter.margins.velocity_share=0.05"]), first=10_000)
    assert not [change for change in report.first if change.path.startswith(("observation", "proposal", "now"))]


def test_an_episode_that_is_not_asked_for_is_not_entered() -> None:
    """Only the named episodes are recomputed."""
    assert what_if(RUN, Changes.of(), episodes=[4]).decisions == 0


def test_changes_are_merged_into_what_was_recorded(tmp_path: Path) -> None:
    """Keys that are not named stay; assignments come after the file."""
    file = tmp_path / "c.yaml"
    file.write_text("filter:\n  margins: {position_rad: 0.01, near_rad: 0.2}\nmonitors: {effort_tau_s: 0.7}\n")
    before = ShieldConfig()
    after = Changes.of(file, ["filter.margins.near_rad=0.3", "filter.certificate=null"]).applied(before)
    assert (after.filter.margins.position_rad, after.filter.margins.near_rad) == (0.01, 0.3)
    assert after.monitors.effort_tau_s == 0.7
    assert after.filter.margins.velocity_share == before.filter.margins.velocity_share
    assert after.filter.brake == before.filter.brake


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filter:\n  brakes: {}\n", r"c\.yaml: filter\.brakes = .*unknown key; known beside it: .*brake, "),
        ("fliter: {}\n", r"c\.yaml: fliter = .*unknown key; known beside it: .*filter"),
        ("filter: {margins: {position_rad: -1}}\n", r"c\.yaml: filter\.margins\.position_rad = -1: .*greater"),
        ("filter: 3\n", r"c\.yaml: filter = 3: "),
        ("- 1\n", r"c\.yaml: holds the keys of a configuration that change, got list"),
        ("{", r"c\.yaml: not YAML"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, text: str, message: str) -> None:
    """File, key, value and what would be right."""
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Changes.of(file).applied(ShieldConfig())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filter.brakes.samples=3", r"--set filter\.brakes\.samples=3: filter\.brakes = .*unknown key"),
        ("filter", r"must read KEY=VALUE"),
        ("=3", r"must read KEY=VALUE"),
        ("monitors.effort_tau_s={", r"the value is not YAML"),
        ("monitors.effort_tau_s=long", r"--set monitors.effort_tau_s=long: monitors.effort_tau_s = 'long': "),
    ],
)
def test_a_wrong_assignment_is_named(text: str, message: str) -> None:
    """The assignment, the key and what is wrong with it."""
    with pytest.raises(ConfigError, match=message):
        Changes.of(assignments=[text]).applied(ShieldConfig())


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file is an error that names it."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        Changes.of(tmp_path / "nowhere.yaml")
