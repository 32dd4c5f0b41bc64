"""What a call of the filter costs as the number of watched pairs grows, and how the cost compares with the number.

    python benchmarks/pairs.py --json pairs.json --plot pairs.png

The Panda with 4 to 160 obstacles around it: 100 to 2,000 pairs, all of them watched. The filters take turns in blocks
of ticks. Every arm makes the same admissible motion, so only the broad phase and the bookkeeping grow.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from safeguard.controllers import SafetyFilter
from safeguard.core.enums import FilterStatus
from safeguard.core.robot import RobotModel
from safeguard.core.types import RobotState

COUNTS = (4, 12, 40, 80, 160)
DT, BLOCK, WARM_UP = 0.002, 50, 300


class Cell:
    """The Panda among ``count`` spheres on a shell of 1.3 m to 2.5 m, with a filter and a body of its own."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(count)
        directions = rng.normal(size=(count, 3))
        centres = directions / np.linalg.norm(directions, axis=1, keepdims=True) * rng.uniform(1.3, 2.5, (count, 1))
        obstacles = [
            {"kind": "sphere", "name": f"ball{k}", "center_m": centre.tolist(), "radius_m": 0.1}
            for k, centre in enumerate(centres)
        ]
        robot = RobotModel.load("panda").with_obstacles(obstacles)
        self.pairs, self.spent = len(robot.collision.pairs), list[float]()
        self._filter, self._home = SafetyFilter(robot, DT), np.array(robot.home)
        self._q, self._v, self._now = np.array(robot.home), np.zeros(robot.n), 0

    def tick(self, counted: bool) -> None:
        """One call, in µs."""
        target = self._home + 0.1 * np.sin(self._now * 1e-9 * np.pi + np.arange(7))
        state, wanted = RobotState(self._q, self._v, self._now), 225.0 * (target - self._q) - 30.0 * self._v
        begun = time.perf_counter_ns()
        result = self._filter(state, acceleration=wanted)
        if counted and result.status is FilterStatus.ADMISSIBLE:
            self.spent.append((time.perf_counter_ns() - begun) / 1e3)
        a = result.acceleration
        self._q, self._v = self._q + self._v * DT + 0.5 * a * DT * DT, self._v + a * DT
        self._now += round(DT * 1e9)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=1500)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    cells = [Cell(count) for count in COUNTS]
    for start in range(0, WARM_UP + given.ticks, BLOCK):
        for cell in cells:
            for number in range(start, start + BLOCK):
                cell.tick(number >= WARM_UP)
    rows = [
        {"pairs": cell.pairs, **{f"p{p}": float(np.percentile(cell.spent, p)) for p in (50, 90, 99)}} for cell in cells
    ]
    for row in rows:
        print(f"{row['pairs']:5.0f} pairs   p50 {row['p50']:6.1f} µs   p90 {row['p90']:6.1f}   p99 {row['p99']:6.1f}")
    first, last = rows[0], rows[-1]
    print(f"{last['pairs'] / first['pairs']:.1f} times the pairs, {last['p50'] / first['p50']:.2f} times the time")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    if given.plot:
        plot(rows, given.plot)


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Time against pairs, with the line that cost in proportion would follow."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    pairs, median = [row["pairs"] for row in rows], [row["p50"] for row in rows]
    figure, axes = plt.subplots(figsize=(6.0, 3.6), layout="constrained")
    axes.plot(pairs, median, "o-", label="median")
    axes.plot(pairs, [row["p90"] for row in rows], "o--", label="90 %")
    axes.plot(pairs, [median[0] * p / pairs[0] for p in pairs], ":", color="grey", label="in proportion to the pairs")
    axes.set(xlabel="watched pairs", ylabel="one call of the filter, µs", xscale="log", yscale="log")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    main()
