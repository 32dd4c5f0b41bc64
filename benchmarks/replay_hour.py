"""Records a long run as the demo does, faults and interventions and all, and replays it: identical, and how fast?

python benchmarks/replay_hour.py --minutes 60 --period 0.005 --json benchmarks/replay_hour.json
python benchmarks/replay_hour.py --minutes 2 --out /tmp/two-minutes       keeps the run, to look into or replay again

Episodes are those of the demo, in turn, each with another seed, and the shield enforces. Simulated time; wall and CPU
seconds are of this machine. Exit code 0: the journal is sound and every decision came out again; 2: usage;
3: something did not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import JsonValue
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from safeguard.audit import AuditConfig, VerifyReport, open_run, verify_run
from safeguard.core.errors import SafeguardError
from safeguard.replay import ReplayReport, replay_run
from safeguard.scenarios.calibration import load_calibration
from safeguard.scenarios.demo import SCENARIOS, demo_run_open
from safeguard.scenarios.episode import EpisodeResult
from safeguard.scenarios.runner import run_episode
from safeguard.scenarios.scenario import Scenario, load_scenario

SEED = 9000  # seeds from here on are used neither in training nor in calibration
FITTED_S = 0.002  # period that the calibration of the demo's scenarios were made with


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of the wall clock and of this process's processors."""

    wall_s: float
    cpu_s: float


class Watch:
    """Times what happens after it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Spent:
        """Since then."""
        return Spent(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=float, default=60.0, help="simulated")
    add("--period", type=float, default=0.005, help="control period, s")
    add("--robot", default="panda", choices=("panda",), help="the arm of the demo's scene, policy and scenarios")
    add("--episode", type=float, default=30.0, help="length of an episode, s")
    add("--out", type=Path, help="run folder to create and keep; a temporary one by default")
    add("--json", type=Path)
    return parser.parse_args()


def _episodes(given: argparse.Namespace) -> Iterator[Scenario]:
    """Scenarios until the time is up, the last one cut; a fault that comes later than that is left out."""
    left = round(60.0 * given.minutes / given.period)
    changes = {"robot": given.robot, "period_s": given.period}
    known = [load_scenario(name) for name in SCENARIOS]
    for number in count():
        ticks = min(left, round(given.episode / given.period))
        if ticks <= 0:
            return
        scenario, duration = known[number % len(known)], ticks * given.period
        faults = [fault for fault in scenario.faults if fault.start_s < duration]
        data = scenario.model_dump(mode="json", exclude={"faults"})
        told = {**data, **changes, "duration_s": duration, "seed": SEED + number}
        told["faults"] = [fault.model_dump(mode="json") for fault in faults]
        if given.period != FITTED_S:
            told["calibration"] = None
        yield Scenario.model_validate(told)
        left -= ticks


def _recorded(episodes: list[Scenario], out: Path, bar: Progress) -> list[EpisodeResult]:
    task = bar.add_task("recording", total=sum(one.ticks for one in episodes))
    results: list[EpisodeResult] = []
    with open_run(AuditConfig.of(out, real_time=False), demo_run_open(episodes[0])) as journal:
        for number, scenario in enumerate(episodes):
            calibration = load_calibration(scenario)
            results.append(run_episode(scenario, episode=number, audit=journal, calibration=calibration))
            bar.advance(task, scenario.ticks)
    return results


def _replayed(out: Path, ticks: int, bar: Progress) -> ReplayReport:
    task = bar.add_task("replaying", total=ticks)
    return replay_run(out, progress=lambda done: bar.update(task, completed=done) if done % 1000 == 0 else None)


def _figures(
    given: argparse.Namespace,
    results: list[EpisodeResult],
    verified: VerifyReport,
    replayed: ReplayReport,
    recording: Spent,
    replay: Spent,
) -> dict[str, JsonValue]:
    simulated = given.period * replayed.decisions
    return {
        "robot": given.robot,
        "period_s": given.period,
        "episodes": len(results),
        "episodes_by_scenario": dict(Counter(result.scenario for result in results)),
        "decisions": verified.counts.get("decision", 0),
        "simulated_s": round(simulated, 3),
        "modified_share": round(sum(result.modified for result in results) / len(results), 4),
        "journal": verified.verdict,
        "identical": replayed.identical,
        "replayed": replayed.decisions,
        "divergence": str(replayed.divergence) if replayed.divergence is not None else None,
        "recording_wall_s": round(recording.wall_s, 1),
        "recording_cpu_s": round(recording.cpu_s, 1),
        "replay_wall_s": round(replay.wall_s, 1),
        "replay_cpu_s": round(replay.cpu_s, 1),
        "decisions_per_cpu_s": round(replayed.decisions / max(replay.cpu_s, 1e-9)),
        "times_real_time": round(simulated / max(replay.wall_s, 1e-9), 2),
        "times_real_time_cpu": round(simulated / max(replay.cpu_s, 1e-9), 2),
    }


def main() -> int:
    """Record, verify, replay, print; the exit code."""
    given = _arguments()
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        try:
            episodes = list(_episodes(given))
            if not episodes:
                raise SafeguardError(f"--minutes {given.minutes:g}: not one control period of {given.period:g} s")
            out = given.out or Path(stack.enter_context(TemporaryDirectory())) / "run"
            bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
            watch = Watch()
            results = _recorded(episodes, out, bar)
            recording = watch.read()
            verified = verify_run(out)
            watch = Watch()
            replayed = _replayed(out, sum(one.ticks for one in episodes), bar)
            replay = watch.read()
        except (SafeguardError, ValueError) as error:
            print(f"replay_hour: {error}", file=sys.stderr)
            return 2
    figures = _figures(given, results, verified, replayed, recording, replay)
    for key, value in figures.items():
        print(f"{key:<24}{value}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if replayed.identical and verified.sound else 3


if __name__ == "__main__":
    raise SystemExit(main())
