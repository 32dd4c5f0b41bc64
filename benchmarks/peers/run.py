"""safeguard's filter beside its peers: the same robot, the same recorded inputs, the same machine, in turn.

python benchmarks/peers/run.py --robot panda --ticks 3000 --json benchmarks/peers.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script from a clone

from benchmarks.peers.contestants import CONTESTANTS, Child, start
from benchmarks.peers.describe import describe
from benchmarks.peers.drive import avoidable, closed_loop, interleaved, kinds, one_step_scores
from benchmarks.peers.environments import versions
from benchmarks.peers.figures import Entry, hard_ticks, ratio_table, ratios, safety_table, summary, time_table
from benchmarks.peers.inputs import BLOCK, Inputs, Kind, record
from benchmarks.peers.score import Judge
from benchmarks.peers.serve import Description
from safeguard.core.robot import RobotModel

_DT = 0.002


def main() -> None:
    """Prepare the environments, measure, print the tables, write the figures."""
    arguments = _arguments()
    console, folder = Console(width=max(Console().width, 180)), arguments.folder.resolve()
    os.environ.update(OMP_NUM_THREADS="1")
    robot = RobotModel.load(arguments.robot)
    description = describe(robot, _DT, folder / "robots")
    judge = Judge(robot, Description.read(description))
    inputs = _inputs(arguments, robot, judge, folder)
    chosen = [one for one in CONTESTANTS if not arguments.only or one.name.startswith(tuple(arguments.only))]
    children, missing = start(chosen, description, folder, arguments.core)
    for name, reason in missing.items():
        console.print(f"[yellow]{name} is left out:[/] {reason}", highlight=False)
    with ExitStack() as stack:
        for child in children:
            stack.enter_context(child)
        entries = _measure(children, inputs, robot, judge, console)
        packages = {child.contestant.environment or "safeguard": versions(child.python) for child in children}
    reference = next((name for name in entries if name == "safeguard osqp"), next(iter(entries)))
    calm = np.array([kind is Kind.CALM for kind in kinds(inputs)])
    hard = hard_ticks(entries[reference])
    hard = hard if hard.any() else ~calm
    found = ratios(entries)
    for table in (
        time_table(arguments.robot, entries, hard, calm),
        safety_table(arguments.robot, entries),
        ratio_table(found),
    ):
        console.print(table)
    if arguments.json:
        figures = {
            "robot": arguments.robot,
            "dt_s": _DT,
            "ticks": len(inputs.kind),
            "seed": arguments.seed,
            "inputs_sha256": inputs.digest(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "contestants": {name: summary(entry, hard, calm) for name, entry in entries.items()},
            "ratios": found,
            "left_out": missing,
            "packages": packages,
        }
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def _measure(
    children: list[Child], inputs: Inputs, robot: RobotModel, judge: Judge, console: Console
) -> dict[str, Entry]:
    """Times first, then scores, so that nothing else runs beside what is timed."""
    with Progress(console=console, transient=True) as progress:
        timing = progress.add_task("recorded ticks, in turn", total=-(-len(inputs.kind) // BLOCK))
        answers = interleaved(children, inputs, lambda: progress.advance(timing))
        scoring = progress.add_task("judging, closed loops", total=len(children))
        entries, clear = dict[str, Entry](), avoidable(judge, inputs)
        for child, answered in zip(children, answers, strict=True):
            errors = dict(child.errors)
            scores = one_step_scores(answered, child, inputs, judge, clear)
            loop = closed_loop(child, robot, judge, inputs)
            later = child.errors - Counter(errors)
            entries[child.contestant.name] = Entry(child.contestant, answered, errors, scores, loop, later)
            progress.advance(scoring)
    return entries


def _inputs(arguments: argparse.Namespace, robot: RobotModel, judge: Judge, folder: Path) -> Inputs:
    """The recorded inputs, from the file if it is there."""
    each = -(-arguments.ticks // len(Kind))
    path = arguments.inputs or folder / f"inputs-{arguments.robot}-{each}-{arguments.seed}.npz"
    if not path.is_file():
        record(robot, judge, each, arguments.seed, _DT).save(path)
    return Inputs.read(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robot", default="panda")
    parser.add_argument("--ticks", type=int, default=3000, help="recorded ticks, all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="names of filters, or their beginnings")
    parser.add_argument("--inputs", type=Path, help="recorded inputs; made in the folder if it is not there")
    parser.add_argument("--folder", type=Path, default=Path("build/peers"), help="environments and recorded inputs")
    parser.add_argument("--core", default="any", help="the core that every filter stays on, or any")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
