"""The filter alone, mode machine out of the way: safe targets that alternate with unsafe ones.

python benchmarks/usefulness.py --robot panda --seeds 3 --pairs 10 --json benchmarks/usefulness.json

Every run is made twice, with the filter and without, by the same tracking law. Aimed at: at least 95 % of the safe
targets that the arm reaches without the filter are reached with it in at most 1.3 times the time, at most 2 % of
their ticks are stuck, no violation. Exit code 3 where that is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from safeguard.controllers import SafetyFilter
from safeguard.core.robot import RobotModel
from safeguard.scenarios.usefulness import Comparison, Unsafe, alternating_targets, compare_usefulness

LEAST_IN_TIME, FACTOR, MOST_STUCK = 0.95, 1.3, 0.02
PERIOD = 0.002  # s


def _measure(job: tuple[str, str, int, int]) -> Comparison:
    name, kind, seed, pairs = job
    robot = RobotModel.load(name)
    targets = alternating_targets(robot, seed, Unsafe(kind), pairs)
    return compare_usefulness(robot, SafetyFilter(robot, PERIOD), targets, PERIOD)


def _row(kind: str, mine: Sequence[Comparison]) -> dict[str, float | int | str]:
    """Figures of one kind of unsafe targets over its seeds."""
    filtered, possible = [one.filtered for one in mine], sum(one.possible for one in mine)
    ratios = [ratio for one in mine for ratio in one.ratios]
    return {
        "kind": kind,
        "safe": sum(one.safe for one in filtered),
        "possible": possible,
        "reached": len(ratios),
        "in_time": sum(one.in_time(FACTOR) * one.possible for one in mine) / max(possible, 1),
        "time_ratio_median": statistics.median(ratios) if ratios else float("inf"),
        "time_ratio_worst": max(ratios, default=float("inf")),
        "stuck": statistics.fmean(one.stuck for one in filtered),
        "braked": statistics.fmean(one.braked for one in filtered),
        "modified": statistics.fmean(one.modified for one in filtered),
        "violations": sum(len(one.judgement.violations) for one in filtered),
        "violations_unfiltered": sum(len(one.unfiltered.judgement.violations) for one in mine),
    }


def _met(row: dict[str, float | int | str]) -> bool:
    return float(row["in_time"]) >= LEAST_IN_TIME and float(row["stuck"]) <= MOST_STUCK and row["violations"] == 0


def main() -> int:
    """Run all kinds and seeds, print the table, write the figures; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robot", default="panda")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    jobs = [(given.robot, kind.value, seed, given.pairs) for kind in Unsafe for seed in range(given.seeds)]
    with ProcessPoolExecutor(given.workers) as pool:
        results = list(zip(jobs, pool.map(_measure, jobs), strict=True))
    rows = [_row(kind.value, [result for job, result in results if job[1] == kind.value]) for kind in Unsafe]
    print(f"{'unsafe targets':<18}{'reached':<12}{'in time':<10}{'time':<14}{'stuck':<8}{'braked':<8}violations")
    for row in rows:
        reached, time = f"{row['reached']} of {row['possible']}", f"{row['time_ratio_median']:.2f}"
        time += f" ({row['time_ratio_worst']:.2f})"
        shares = f"{row['stuck']:<8.2%}{row['braked']:<8.2%}"
        verdict = "" if _met(row) else "  missed"
        print(f"{row['kind']:<18}{reached:<12}{row['in_time']:<10.1%}{time:<14}{shares}{row['violations']}{verdict}")
    print("reached, in time (at most 1.3 times) and time (median, worst) are relative to the arm without the filter")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(_met(row) for row in rows) else 3


if __name__ == "__main__":
    raise SystemExit(main())
