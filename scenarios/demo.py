"""The main job: every scenario of the demo without and with the shield, audited, verified, replayed, reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from safeguard.audit import AuditConfig, VerifyReport, open_run, read_public, verify_run, write_report
from safeguard.audit.records.encode import Json
from safeguard.core.config import ShieldConfig
from safeguard.core.enums import Enforcement
from safeguard.core.robot import RobotModel
from safeguard.replay import ReplayReport, replay_run
from safeguard.scenarios.calibration import load_calibration
from safeguard.scenarios.episode import EpisodeResult
from safeguard.scenarios.referee import MOTION
from safeguard.scenarios.runner import load_policy, run_episode
from safeguard.scenarios.scenario import Scenario, load_scenario
from safeguard.shield import Shield

SCENARIOS = (
    "clean",
    "joint_limits",
    "self_collision",
    "torque_spikes",
    "nan_burst",
    "policy_hang",
    "frozen_observation",
)
ENFORCEMENTS = (Enforcement.OFF, Enforcement.FULL)

Progress = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)"""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo found.

    Attributes:
        run: its folder.
        results: one per scenario and enforcement, in the order of the table.
        verified: the journal's verdict.
        replayed: whether every decision came out again.
        report: the page.
    """

    run: Path
    results: tuple[EpisodeResult, ...]
    verified: VerifyReport
    replayed: ReplayReport
    report: Path

    @property
    def problems(self) -> list[str]:
        """What did not come out as promised; empty if all is well."""
        found: list[str] = []
        for result in self.results:
            kinds = set(result.judgement.violations)
            promised = load_scenario(result.scenario).expectation
            if result.enforcement is Enforcement.FULL:
                broken = sorted(kind.value for kind in kinds & MOTION)
                if broken:
                    found.append(f"{result.scenario} with the shield: {', '.join(broken)} violated")
                if promised.success and not result.success:
                    found.append(f"{result.scenario} with the shield: the task failed")
            else:
                missing = sorted(kind.value for kind in set(promised.unshielded) - kinds)
                if missing:
                    found.append(f"{result.scenario} without the shield does not show {', '.join(missing)}")
        if not self.verified.sound:
            found.append(f"journal: {self.verified.verdict}: {self.verified.problem}")
        if not self.replayed.identical:
            found.append(f"replay: {self.replayed.divergence or 'nothing was replayed'}")
        return found

    def as_json(self) -> dict[str, JsonValue]:
        """For machines."""
        return {
            "run": str(self.run),
            "results": [result.as_json() for result in self.results],
            "journal": self.verified.verdict,
            "records": self.verified.records,
            "replayed": self.replayed.decisions,
            "identical": self.replayed.identical,
            "report": str(self.report),
            "problems": list[JsonValue](self.problems),
        }


def run_demo(out: Path, progress: Progress | None = None, *, plots: bool = True, key: Path | None = None) -> DemoResult:
    """Run the demo into the new run folder ``out``, signed with the private key in ``key``.

    Raises:
        JournalError: ``out`` already holds a journal, or cannot be written.
    """
    tell: Progress = progress or (lambda what, done, total: None)
    scenarios = [load_scenario(name) for name in SCENARIOS]
    total = sum(scenario.ticks for scenario in scenarios) * len(ENFORCEMENTS)
    results: list[EpisodeResult] = []
    done = 0
    with open_run(AuditConfig.of(out, real_time=False, key=key), demo_run_open(scenarios[0])) as journal:
        for scenario in scenarios:
            calibration = load_calibration(scenario)
            for enforcement in ENFORCEMENTS:
                label = f"{scenario.name}, shield {'on' if enforcement is Enforcement.FULL else 'off'}"

                def ticked(decision: object, label: str = label) -> None:
                    nonlocal done
                    done += 1
                    if done % 100 == 0:
                        tell(label, done, total)

                results.append(
                    run_episode(
                        scenario,
                        enforcement=enforcement,
                        audit=journal,
                        calibration=calibration,
                        progress=ticked,
                    )
                )
    tell("verifying the journal", 0, 1)
    public = None if key is None else read_public(key.with_name(key.name + ".pub"))
    verified = verify_run(out, public)
    replayed = replay_run(out, progress=lambda n: tell("replaying", n, total) if n % 100 == 0 else None)
    tell("writing the report", 0, 1)
    report = write_report(out, replay=replayed, plots=plots, key=public)
    tell("done", 1, 1)
    return DemoResult(out, tuple(results), verified, replayed, report)


def demo_run_open(scenario: Scenario) -> dict[str, Json]:
    """The first record of a run that plays ``scenario`` and others with the same robot and policy."""
    robot = RobotModel.load(scenario.robot)
    calibration = load_calibration(scenario)
    policy = load_policy(scenario, robot)
    shield = Shield(robot, policy, period=scenario.period_s, config=ShieldConfig(), calibration=calibration)
    return shield.run_open(simulated=True)
