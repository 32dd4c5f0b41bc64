"""The mode engine beside two libraries for state machines: the same table, inputs and outputs, in turn, in one process.

Ours runs the four tables. The others run the whole monolithic one from NOMINAL on (without BOOT and takeover, whose
inputs do not occur here), and must give the outputs of our engine in every tick of every stream before anything is
timed: mode, authority, envelope, reasons, bridging. A library chooses the transition, which is what it is for: guarded
transitions of one event, the worst target first. What none of them has (buckets, timers, the rows that hold a mode)
is ``Memory`` of ``machines.py``, plain Python around the one event of a tick, the same for all of them.

Two forms of the table in each library: ``by row``, every row of the table is a transition with its own condition, so
that the machine knows which row fired; ``by floor``, one transition for each worse mode with one mask for a condition,
the fewest that give the same modes. ``plain Python`` is the second form as a loop over ifs.

The libraries as they are quickest: conditions are functions (no look-up by name), no callbacks, no queue, no automatic
transitions, no ``send_event``; outputs that were given before are taken from a cache. Theirs and our ticks are timed
from three bare inputs to the outputs.

Streams: no cause; one that stays active; a bridge that fills and drains, so that no state comes twice in a row; and
spells of up to three causes with rest, motion and acknowledgements between them.

python benchmarks/modes.py --json benchmarks/modes.json
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from a clone

from benchmarks.machines import Machine, Ours, PlainPython, PythonStatemachine, Transitions
from benchmarks.peers.environments import REQUIREMENTS, prepare, versions
from benchmarks.spurious import PERIOD
from safeguard.core.enums import Cause
from safeguard.modes import compile_table, load_spec
from safeguard.modes.table import CAUSE_BIT, STRATEGIES

BLOCK: Final = 1000  # ticks
STEP_US: Final = 5.0
RATIO: Final = 20.0

ENVIRONMENT: Final = "machines"
REQUIREMENTS.setdefault(ENVIRONMENT, ("transitions==0.9.3", "python-statemachine==3.2.2"))

Tick = tuple[int, bool, bool]
"""Mask of the active causes, acknowledgement, standstill."""

# -- inputs -----------------------------------------------------------------------------------------------


def streams(ticks: int, seed: int = 0) -> dict[str, list[Tick]]:
    """Streams of ``ticks``: no cause; one that stays active; a bridge that fills and drains; a mix of all."""
    one, bridged = CAUSE_BIT[Cause.MONITOR_WARN], CAUSE_BIT[Cause.PROPOSAL_INVALID]
    return {
        "quiet": [(0, False, True)] * ticks,
        "one cause": [(one, False, True)] * ticks,
        "bridge": [(0 if k % 5 else bridged, False, True) for k in range(ticks)],
        "mixed": _mixed(ticks, np.random.default_rng(seed)),
    }


def _mixed(ticks: int, rng: np.random.Generator) -> list[Tick]:
    """Up to three causes at a time for a while, then a quiet spell; rest and motion; a pulse of acknowledgement."""
    causes, standstill = list[int](), list[bool]()
    while len(causes) < ticks:
        chosen = rng.choice(len(Cause), rng.integers(1, 4), replace=False)
        causes += [sum(1 << int(bit) for bit in chosen)] * int(rng.geometric(0.1)) + [0] * int(rng.geometric(0.005))
    while len(standstill) < ticks:
        standstill += [True] * int(rng.geometric(0.002)) + [False] * int(rng.geometric(0.005))
    return [(causes[k], k % 20 == 19, standstill[k]) for k in range(ticks)]


def story() -> list[Tick]:
    """What the mixed stream hardly leads to: both escalations, and LOCKOUT by the third e-stop; a block each."""
    moving = [[CAUSE_BIT[cause]] + [0] * (BLOCK - 1) for cause in (Cause.CLOCK_BACKWARDS, Cause.OPERATOR_STOP)]
    found = [(causes, False, False) for block in moving for causes in block]
    for _ in range(3):
        found += [(CAUSE_BIT[Cause.ESTOP], False, True), *[(0, False, True)] * 150, (0, True, True)]
    return found


def disagreement(ours: Machine, other: Machine, stream: Sequence[Tick]) -> str:
    """The first tick in which two machines say different things, in words, or ""; both start anew as when timed."""
    for k, tick in enumerate(stream):
        if k % BLOCK == 0:
            ours.reset()
            other.reset()
        if (said := ours.tick(*tick)) != (also := other.tick(*tick)):
            return f"tick {k}: {ours.name} says {said}, {other.name} {also}"
    return ""


# -- time -------------------------------------------------------------------------------------------------


def interleaved(
    machines: Sequence[Machine], streams: Mapping[str, Sequence[Tick]], told: Callable[[], None]
) -> dict[str, dict[str, list[int]]]:
    """Time of every tick, ns, by stream and machine: blocks of all in turn, each time another one first."""
    found = {name: {machine.name: list[int]() for machine in machines} for name in streams}
    for machine in machines:  # warm-up
        for stream in streams.values():
            _block(machine, stream[:BLOCK])
    count = max(map(len, streams.values()))
    for turn, begin in enumerate(range(0, count, BLOCK)):
        for name, stream in streams.items():
            for k in range(len(machines)):
                machine = machines[(turn + k) % len(machines)]
                found[name][machine.name] += _block(machine, stream[begin : begin + BLOCK])
        told()
    return found


def _block(machine: Machine, stream: Sequence[Tick]) -> list[int]:
    machine.reset()
    tick, times = machine.tick, list[int]()
    gc.collect()
    gc.disable()
    for causes, ack, standstill in stream:
        begin = perf_counter_ns()
        tick(causes, ack, standstill)
        times.append(perf_counter_ns() - begin)
    gc.enable()
    return times


def percentiles(ns: Sequence[int]) -> dict[str, float]:
    """p50, p90, p99 and the largest, µs."""
    told = np.asarray(ns, dtype=np.float64) / 1e3
    p50, p90, p99 = np.percentile(told, (50, 90, 99)).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "max": float(told.max())}


def ratios(times: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """By stream: the median of every other machine over that of our slowest table."""
    found: dict[str, dict[str, float]] = {}
    for stream, by_name in times.items():
        slowest = max(by_name[name]["p50"] for name in STRATEGIES)
        found[stream] = {name: told["p50"] / slowest for name, told in by_name.items() if name not in STRATEGIES}
    return found


def show(times: Mapping[str, Mapping[str, Mapping[str, float]]], console: Console) -> None:
    """The table of all figures."""
    table, found = Table("stream", "machine", "p50 µs", "p90", "p99", "max", "times our slowest table"), ratios(times)
    for stream, by_name in times.items():
        for name, told in by_name.items():
            ratio = found[stream].get(name)
            figures = [f"{told[key]:.2f}" for key in ("p50", "p90", "p99", "max")]
            table.add_row(stream, name, *figures, "" if ratio is None else f"{ratio:.1f}")
    console.print(table)


# -- the command ------------------------------------------------------------------------------------------


def peers(folder: Path) -> tuple[list[Machine], dict[str, str]]:
    """The machines of both libraries, and the versions of what is installed for them. Raises OSError."""
    python = prepare(ENVIRONMENT, folder)
    sys.path += [str(path) for path in python.parents[1].glob("lib/python*/site-packages")]
    table = compile_table(load_spec("monolithic"), PERIOD)
    kinds: tuple[type[Transitions] | type[PythonStatemachine], ...] = (Transitions, PythonStatemachine)
    return [kind(table, by_row=by_row) for kind in kinds for by_row in (False, True)], versions(python)


def main() -> int:
    """Check that outputs agree, measure, print, write; 3 if a target is missed."""
    arguments = _arguments()
    console = Console(width=max(Console().width, 120))
    others, packages = peers(arguments.folder.resolve())
    ours = [Ours(strategy, compile_table(load_spec(strategy), PERIOD)) for strategy in STRATEGIES]
    others.insert(0, PlainPython(compile_table(load_spec("monolithic"), PERIOD)))
    chosen, whole = streams(arguments.ticks, arguments.seed), ours[STRATEGIES.index("monolithic")]
    checked = [story(), *chosen.values()]
    wrong = [found for other in others for stream in checked if (found := disagreement(whole, other, stream))]
    if wrong:
        console.print(*wrong, sep="\n")
        return 3
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("blocks in turn", total=-(-arguments.ticks // BLOCK))
        raw = interleaved([*ours, *others], chosen, lambda: progress.advance(task))
    times = {stream: {name: percentiles(ns) for name, ns in told.items()} for stream, told in raw.items()}
    show(times, console)
    if arguments.json:
        figures = {
            "ticks": arguments.ticks,
            "seed": arguments.seed,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "packages": packages,
            "us": times,
            "ratios": ratios(times),
        }
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if met(times) else 3


def met(times: Mapping[str, Mapping[str, Mapping[str, float]]]) -> bool:
    """Every table is quick enough, and so much quicker than what does the same by row."""
    quick = all(told[name]["p50"] <= STEP_US for told in times.values() for name in STRATEGIES)
    by_row = [ratio for told in ratios(times).values() for name, ratio in told.items() if name.endswith("by row")]
    return quick and min(by_row, default=0.0) >= RATIO


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=8000, help="of every stream")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("build/peers"), help="where the environment is")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
