"""The demo keeps what it says: every scenario of the library, without and with the shield, once."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from safeguard.audit import verify_run
from safeguard.audit.journal.segments import RAW, blocks
from safeguard.core.config import ShieldConfig
from safeguard.core.enums import Enforcement
from safeguard.scenarios.demo import SCENARIOS, DemoResult, run_demo
from safeguard.scenarios.referee import MOTION, ViolationKind
from safeguard.scenarios.scenario import library, load_scenario
from safeguard.scenarios.table import results_table
from tests.unit.audit_edit import segments

pytestmark = pytest.mark.xdist_group("demo")  # one worker, so that the demo runs once

MOTION_FAULTS = {
    "joint_limits": ViolationKind.POSITION,
    "self_collision": ViolationKind.SELF_COLLISION,
    "torque_spikes": ViolationKind.TORQUE,
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    """The whole demo, less its pictures."""
    return run_demo(tmp_path_factory.mktemp("demo") / "run", plots=False)


def test_the_demo_plays_the_library() -> None:
    """Every scenario that comes with safeguard is in the demo."""
    assert set(SCENARIOS) == set(library())


@pytest.mark.slow
def test_nothing_came_out_otherwise_than_promised(demo: DemoResult) -> None:
    """The demo's own list of problems is empty, and the table names every scenario."""
    assert demo.problems == []
    assert results_table(demo.results).row_count == 2 * len(SCENARIOS)


@pytest.mark.slow
def test_with_the_shield_nothing_is_violated(demo: DemoResult) -> None:
    """No limit and no self-collision in any shielded run, and every fault was really active."""
    for result in demo.results:
        if result.enforcement is Enforcement.FULL:
            assert MOTION.isdisjoint(result.judgement.violations), result.scenario
            assert result.judgement.contacts == 0
            assert all(activity.count > 0 for activity in result.activities.values())


@pytest.mark.slow
def test_without_the_shield_the_referee_sees_it(demo: DemoResult) -> None:
    """Negative control: the unshielded twins show what each scenario declares."""
    off = {r.scenario: set(r.judgement.violations) for r in demo.results if r.enforcement is Enforcement.OFF}
    for scenario, kind in MOTION_FAULTS.items():
        assert kind in off[scenario]
    for scenario, kinds in off.items():
        assert set(load_scenario(scenario).expectation.unshielded) <= kinds
    assert not off["clean"]


@pytest.mark.slow
def test_the_shield_leaves_the_policy_useful(demo: DemoResult) -> None:
    """The clean task is done, with nothing modified beyond the ramp of the start, and the arm never stuck."""
    clean = next(r for r in demo.results if r.scenario == "clean" and r.enforcement is Enforcement.FULL)
    assert clean.success
    ramp = ShieldConfig().policy.ramp_s / load_scenario("clean").duration_s
    assert clean.modified < ramp < 0.1
    assert clean.stuck == 0.0


@pytest.mark.slow
def test_the_run_folder_is_whole(demo: DemoResult) -> None:
    """A complete journal, a replay of every decision, and one self-contained page."""
    assert verify_run(demo.run).sound
    assert demo.replayed.identical
    assert demo.replayed.decisions == sum(result.ticks for result in demo.results)
    page = demo.report.read_text()
    assert page.count("<details") >= len(demo.results)
    linked = re.findall(r"(?:src|href)=.(?!#|data:)[^ >]{0,60}", page)  # a diff of the whole page would take forever
    assert not linked


@pytest.mark.slow
def test_one_changed_byte_is_found(demo: DemoResult, tmp_path: Path) -> None:
    """A byte changed in the middle of a real journal is named by record."""
    shutil.copytree(demo.run / "journal", tmp_path / "journal")
    files = segments(tmp_path)
    packed = files[len(files) // 2]
    data = bytearray(b"".join(blocks(packed)))
    data[len(data) // 2] ^= 1
    packed.with_suffix(RAW).write_bytes(bytes(data))
    packed.unlink()
    report = verify_run(tmp_path)
    assert report.verdict == "altered"
    assert report.at_seq is not None
