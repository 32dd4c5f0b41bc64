"""The filter alone, mode machine out of the way: safe targets that alternate with unsafe ones.

python benchmarks/usefulness.py --seeds 3 --pairs 10 --json benchmarks/usefulness.json
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from safeguard.controllers import SafetyFilter
from safeguard.core.robot import RobotModel
from safeguard.scenarios.usefulness import Unsafe, Usefulness, alternating_targets, measure_usefulness


def _measure(job: tuple[str, int, int]) -> Usefulness:
    kind, seed, pairs = job
    robot = RobotModel.load("panda")
    targets = alternating_targets(robot, seed, Unsafe(kind), pairs)
    return measure_usefulness(robot, SafetyFilter(robot, 0.002), targets)


def main() -> None:
    """Run all kinds and seeds, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    jobs = [(kind.value, seed, arguments.pairs) for kind in Unsafe for seed in range(arguments.seeds)]
    with ProcessPoolExecutor(max_workers=2) as pool:
        results = list(zip(jobs, pool.map(_measure, jobs), strict=True))
    print(f"{'unsafe targets':<18}{'safe reached':<14}{'stuck':<8}{'braked':<8}{'modified':<10}violations")
    rows: list[dict[str, float | int | str]] = []
    for kind in Unsafe:
        mine = [result for job, result in results if job[0] == kind.value]
        row: dict[str, float | int | str] = {
            "kind": kind.value,
            "safe": sum(r.safe for r in mine),
            "reached": sum(r.reached for r in mine),
            "stuck": sum(r.stuck for r in mine) / len(mine),
            "braked": sum(r.braked for r in mine) / len(mine),
            "modified": sum(r.modified for r in mine) / len(mine),
            "violations": sum(len(r.judgement.violations) for r in mine),
        }
        rows.append(row)
        reached = f"{row['reached']} of {row['safe']}"
        shares = "".join(f"{row[key]:<{width}.2%}" for key, width in (("stuck", 8), ("braked", 8), ("modified", 10)))
        print(f"{kind.value:<18}{reached:<14}{shares}{row['violations']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
