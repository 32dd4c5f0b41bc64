"""The filter against seeded adversaries in MuJoCo, judged by the independent referee. 0 is the exact limit.

python benchmarks/soak.py --robot panda --ticks 100000 --seed 0 --adversary all --json soak.json
python benchmarks/soak.py --mass-error 0.10 --friction-nm 0.5 --delay-ticks 1
python benchmarks/soak.py --ticks 20000 --no-filter          the negative control: everything must be seen
python benchmarks/soak.py --ticks 100000 --block 37          one block of that run again

Exit code 0: nothing that is claimed was violated and no tick raised; 2: usage; 3: something was.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from safeguard.core.errors import SafeguardError
from safeguard.scenarios.adversary import ADVERSARIES
from safeguard.scenarios.arena import SoakPlan
from safeguard.scenarios.ledger import BlockResult
from safeguard.scenarios.soak import run_soak


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--robot", default="panda")
    add("--ticks", type=int, default=100_000)
    add("--seed", type=int, default=0)
    add("--dt", type=float, default=0.002, help="control period, s")
    add("--physics-dt", type=float, default=0.001, help="MuJoCo's step, s, 1 ms or finer")
    add("--adversary", default="all", help=f"all, or names separated by commas: {', '.join(ADVERSARIES)}")
    add("--block-ticks", type=int, default=2000, help="ticks between resets")
    add("--block", type=int, action="append", help="only this block; may be repeated")
    add("--mass-error", type=float, default=0.0, help="the plant's links weigh up to this share more or less")
    add("--friction-nm", type=float, default=0.0, help="dry friction of every joint that only the plant has")
    add("--delay-ticks", type=int, default=0, help="periods by which the plant gets every command late")
    add("--filter-delay-ticks", type=int, default=0, help="delay that the filter is told of")
    add("--payload", type=float, default=0.0, help="kg at the tool, known to filter and plant")
    add("--solver", help="osqp or daqp; the filter's default if left out")
    add("--certificate", help="file, handed to the filter")
    add("--claim-rate", action="store_true", help="the torque rate counts as a violation too")
    add("--no-filter", action="store_true", help="negative control: proposals go to the drives as they are")
    add("--workers", type=int, default=1)
    add("--json", type=Path)
    return parser.parse_args()


def _plan(given: argparse.Namespace) -> SoakPlan:
    names = tuple(ADVERSARIES) if given.adversary == "all" else tuple(given.adversary.split(","))
    return SoakPlan(
        robot=given.robot,
        ticks=given.ticks,
        seed=given.seed,
        dt=given.dt,
        physics_dt=given.physics_dt,
        adversaries=names,
        block_ticks=given.block_ticks,
        mass_error=given.mass_error,
        friction_nm=given.friction_nm,
        delay_ticks=given.delay_ticks,
        filter_delay_ticks=given.filter_delay_ticks,
        payload_kg=given.payload,
        filtered=not given.no_filter,
        solver=given.solver,
        certificate=given.certificate,
        claim_rate=given.claim_rate,
    )


def main() -> int:
    """Run, print, write; the exit code."""
    given = _arguments()
    console = Console()
    try:
        plan = _plan(given)
        blocks = given.block
        total = plan.ticks if blocks is None else sum(plan.length(block) for block in blocks)
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("soak", total=total)

            def advance(result: BlockResult) -> None:
                progress.advance(task, result.ticks)

            verdict = run_soak(plan, given.workers, blocks, advance)
    except SafeguardError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    for table in verdict.tables():
        console.print(table)
    for exception in verdict.distinct_exceptions:
        console.print(exception, markup=False)
    if given.json:
        given.json.write_text(json.dumps(verdict.as_json(), indent=1) + "\n")
    return 0 if verdict.passed else 3


if __name__ == "__main__":
    raise SystemExit(main())
