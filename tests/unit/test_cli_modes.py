"""``safeguard modes``: what it prints, writes and returns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safeguard.core.enums import Mode
from safeguard.lockout import LockoutFile
from safeguard.modes import table as tables
from safeguard.modes.certificate import TableCertificate, certificate_path
from safeguard.modes.render import pages
from safeguard.modes.spec import Guard, TableSpec
from tests.laws.lab import Lab
from tests.unit.cli_support import Call
from tests.unit.cli_support import safeguard as safeguard

Patch = pytest.MonkeyPatch


def test_check_prints_states_and_says_that_everything_holds(safeguard: Call) -> None:
    """The walks with their sizes, the abstraction, and exit code 0."""
    done = safeguard("modes", "check", "vla", "--workers", "2")
    assert done.code == 0
    for word in ("policy_late", "states", "edges", "abstraction", "VLA-D01 3", "properties hold", "1 tables in"):
        assert word in done.out


def test_check_prints_the_certificate_that_is_kept(safeguard: Call) -> None:
    """What is checked now is, digest by digest, what lies beside the table."""
    done = safeguard("modes", "check", "vla", "--workers", "2", "--json")
    assert [TableCertificate.model_validate(one) for one in json.loads(done.out)] == [
        TableCertificate.read(certificate_path("vla"))
    ]


def test_a_table_with_a_slip_is_told_as_a_story(safeguard: Call, monkeypatch: Patch) -> None:
    """A HOLD that can be left without standstill: exit code 3, the property, and the way there."""

    def slipped(strategy: str) -> TableSpec:
        spec = load(strategy)
        recoveries: list[Any] = []
        for row in spec.recoveries:
            rest = tuple(guard for guard in row.guards if guard is not Guard.STANDSTILL)
            recoveries.append(row.model_copy(update={"guards": rest}) if row.source is Mode.HOLD else row)
        return spec.model_copy(update={"recoveries": tuple(recoveries)})

    load = tables.load_spec
    monkeypatch.setattr(tables, "load_spec", slipped)
    done = safeguard("modes", "check", "monolithic", "--workers", "1")
    assert done.code == 3
    story = done.out[done.out.index("does not hold: P") :]
    assert "BOOT: no cause; ready" in story
    assert "HOLD: no cause" in story


@pytest.mark.parametrize("command", ["check", "render", "simulate"])
def test_help_has_an_example(safeguard: Call, command: str) -> None:
    """Every command shows how it is called."""
    assert "Example: safeguard modes" in safeguard("modes", command, "--help").out


def test_an_unknown_strategy_is_a_usage_error(safeguard: Call) -> None:
    """The choices are named, exit code 2."""
    done = safeguard("modes", "check", "vlla")
    assert done.code == 2
    assert "monolithic, modular, vla, dual" in done.err


def test_render_writes_pages_and_finds_those_that_are_out_of_date(safeguard: Call, tmp_path: Path) -> None:
    """A page and a picture a strategy; one edited letter is exit code 3 with its name."""
    assert safeguard("modes", "render", "--out", tmp_path / "pages").code == 0
    assert {path.name for path in (tmp_path / "pages").iterdir()} == set(pages())
    assert safeguard("modes", "render", "--out", tmp_path / "pages", "--check").code == 0
    page = tmp_path / "pages" / "vla.md"
    page.write_text(page.read_text("utf-8").replace("DEGRADED", "DEGRADES", 1), "utf-8")
    done = safeguard("modes", "render", "--out", tmp_path / "pages", "--check")
    assert done.code == 3
    assert "vla.md" in done.out
    assert "dual.md" not in done.out


def test_simulate_embeds_a_recorded_run(safeguard: Call, tmp_path: Path) -> None:
    """The causes and modes of a run are on the page, recomputed from its journal."""
    lab = Lab(audit=tmp_path / "run")
    lab.start(moving=200)
    lab.shield.stop(operator="lab", reason="enough")
    lab.run(20)
    lab.shield.close()
    done = safeguard("modes", "simulate", "--run", tmp_path / "run", "--out", tmp_path / "modes.html")
    assert done.code == 0
    page = (tmp_path / "modes.html").read_text("utf-8")
    assert '"operator_stop"' in page
    assert '"name":"run"' in page.replace(": ", ":")
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_simulate_refuses_what_is_no_run(safeguard: Call, tmp_path: Path) -> None:
    """An empty folder is a usage error, and no page is written."""
    (tmp_path / "empty").mkdir()
    done = safeguard("modes", "simulate", "--run", tmp_path / "empty", "--out", tmp_path / "modes.html")
    assert done.code == 2
    assert not (tmp_path / "modes.html").exists()


def test_unlock_clears_the_count_with_a_name_and_a_reason(safeguard: Call, tmp_path: Path) -> None:
    """The count is zero and says who did that; a file that is not there is a usage error."""
    file = tmp_path / "arm.lockout"
    assert safeguard("modes", "unlock", file, "--operator", "A", "--reason", "b").code == 2
    LockoutFile(file).count(3)
    done = safeguard("modes", "unlock", file, "--operator", "A", "--reason", "new cable")
    assert done.code == 0
    assert "3 emergency stops cleared by A: new cable" in done.out
    assert LockoutFile(file).estops == 0
    assert LockoutFile(file).maintenance[0].reason == "new cable"
