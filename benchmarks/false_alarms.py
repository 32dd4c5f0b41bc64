"""False alarms of an episode against the law of their calibration, rung by rung, and wrong methods beside right ones.

Two processes: AR(1) scores of episodes of 20 to 200 steps, and a Gymnasium task under a noisy policy with every
registered monitor. Thresholds come from n nominal episodes by rank, alarms are counted in m others and judged: every
rung by the central 99.8 % of BetaBinomial(m, n + 1 − k, k), their union and bounds by a one-sided exact test at 0.2 %.
The power is the probability that the same test rejects a true rate 1.5 times as large. A D equal to its threshold is no
alarm; such ties are named, and make the true rate smaller than the declared one. Negative controls go through
the same tests and must fail them.

python benchmarks/false_alarms.py --json benchmarks/false_alarms.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from a clone

from benchmarks.alarm_controls import ALPHA, CONTROLS
from benchmarks.alarm_gym import gym_maxima
from benchmarks.alarm_laws import Row, ar1_maxima, judge

FIT = 200
NOISE, WORN = 0.01, 0.03


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table.

    Attributes:
        process: where the episodes came from.
        row: the count and its test.
        passes: whether it should pass.
    """

    process: str
    row: Row
    passes: bool

    @property
    def right(self) -> bool:
        """The test said what it should."""
        return self.row.passed == self.passes


def of_ar1(n: int, m: int, seed: int) -> list[Line]:
    """AR(1), and calibrated on episodes half as long."""
    rng = np.random.default_rng(seed)
    fresh = ar1_maxima(m, rng)
    lines = [Line("ar1", row, True) for row in judge(ar1_maxima(n, rng), fresh)]
    short = judge(ar1_maxima(n, rng, steps=(10, 100)), fresh)
    return lines + [Line("ar1, calibrated on shorter episodes", row, False) for row in short]


def of_gym(n: int, m: int, seed: int, console: Console) -> list[Line]:
    """Reacher-v5, and the same with worn motors."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Reacher-v5", total=n + m + m // 4)
        sets, names = gym_maxima(
            FIT, (n, m, m // 4), seed, (NOISE, NOISE, WORN), progress=lambda: progress.advance(task)
        )
    console.print(f"Reacher-v5: {', '.join(names)}")
    calibration, fresh, worn = sets
    lines = [Line("gym Reacher-v5", row, True) for row in judge(calibration, fresh)]
    rows = judge(calibration, worn)
    return lines + [Line("gym, motors three times as noisy", row, False) for row in rows]


def of_controls(seed: int) -> list[Line]:
    """Wrong methods at a nominal 5 %, and the right ones on the same numbers."""
    pairs = {name: compare(seed) for name, (compare, _) in CONTROLS.items()}
    lines = [Line(f"control: {name}", row, False) for name, (row, _) in pairs.items()]
    return lines + [Line(f"beside it: {name}", row, True) for name, (_, row) in pairs.items()]


def table(lines: Sequence[Line]) -> Table:
    """All of it, for a reader."""
    shown = Table("process", "rung", "alpha", "n", "m", "expected", "observed", "accepted", "verdict", "power at 1.5×")
    for line in lines:
        row = line.row
        verdict = ("inside" if row.passed else "outside") + ("" if line.right else "  UNEXPECTED")
        observed = f"{row.alarms} ({row.rate:.2%})" + (f" + {row.tied} tied" if row.tied else "")
        numbers = (f"{row.alpha:g}", str(row.n), str(row.m), f"{row.expected:.0f}", observed)
        shown.add_row(line.process, row.name, *numbers, f"{row.low} – {row.high}", verdict, f"{row.power:.3f}")
    return shown


def main() -> int:
    """Count, judge, print; 1 where a test did not say what it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--process", choices=("ar1", "gym", "controls"), nargs="+", default=["ar1", "gym", "controls"])
    parser.add_argument("--ar1", type=int, nargs=2, default=(40_000, 40_000), metavar=("N", "M"))
    parser.add_argument("--gym", type=int, nargs=2, default=(4000, 8000), metavar=("N", "M"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    console, lines = Console(width=170), list[Line]()
    if "ar1" in given.process:
        lines += of_ar1(given.ar1[0], given.ar1[1], given.seed)
    if "gym" in given.process:
        lines += of_gym(given.gym[0], given.gym[1], given.seed, console)
    if "controls" in given.process:
        lines += of_controls(given.seed)
    console.print(table(lines))
    console.print(f"controls at a nominal {ALPHA:.0%}; a rate is alarms of an episode, or of a run of episodes")
    if given.json:
        found = [{"process": line.process, "passed": line.row.passed, **asdict(line.row)} for line in lines]
        given.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return 0 if all(line.right for line in lines) else 1


if __name__ == "__main__":
    raise SystemExit(main())
