"""What the monitors cost a tick on the Panda's task, one by one and together, and whether a long episode costs more.

One episode of the demo's clean scenario, with its calibration, runs for 51,000 ticks. Three sets of monitors are timed
in turn, tick by tick, in another order each tick and round:

- ``first``: fresh ones, on the first 1,000 ticks;
- ``late``: those that have seen the whole episode, on its ticks from 50,000 on;
- ``fresh``: fresh ones, on the same ticks as ``late``: the same evidence and machine, so that late over fresh is what
  an episode's length costs, and nothing else.

A ratio is one of means over the ticks of the window, of each the median of all rounds; its interval is the central 95 %
of a bootstrap over ticks. ``stage`` is checks and scores with rungs, as a shield asks them. Times in the turn of a
benchmark are those of warm caches; "in the loop" is what the shield itself measured for the stage in the same episode,
with a simulation before every tick.

python benchmarks/monitor_cost.py --json benchmarks/monitor_cost.json
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from a clone

from safeguard.core.config import ShieldConfig
from safeguard.core.types import Decision, Evidence, Observation, RobotState, Verdict
from safeguard.monitors import Bank, Calibration, Checks, Setting
from safeguard.monitors.registry import monitors
from safeguard.scenarios.calibration import load_calibration
from safeguard.scenarios.runner import run_episode
from safeguard.scenarios.scenario import load_scenario
from safeguard.shield import Shield

TARGET_US: Final = 80.0
GROWTH: Final = 1.05  # late over fresh that a noisy machine may show where nothing grows
SCENARIO: Final = "clean"
SETS: Final = ("first", "late", "fresh")
CHECKS, SCORES, STAGE = "checks", "scores and rungs", "stage"
_ORDERS: Final = tuple(permutations(SETS))  # who comes second finds evidence in the caches
_RESAMPLES: Final = 2000

Floats: TypeAlias = NDArray[np.float64]
Part: TypeAlias = Callable[[Evidence], object]
Times: TypeAlias = dict[str, dict[str, Floats]]
"""Part → set → time of every tick of every round, µs, shape (rounds, ticks)."""


@dataclass(frozen=True, slots=True)
class Long:
    """What is kept of one long episode.

    Attributes:
        first, late: evidence of the two windows.
        aged: sets of monitors that have seen everything before the late window, one a round.
        setting, calibration: what monitors are built for.
        loop: what the shield measured for the stage in both windows, µs.
    """

    first: list[Evidence]
    late: list[Evidence]
    aged: list[dict[str, Part]]
    setting: Setting
    calibration: Calibration
    loop: dict[str, Floats]


def parts(setting: Setting, calibration: Calibration) -> dict[str, Part]:
    """Everything that is timed, fresh, by name: every monitor, the deterministic checks, and the bank of all scores."""
    config = ShieldConfig()
    checks, bank = Checks(setting, config), Bank(setting, calibration)
    bank.begin()

    def checked(evidence: Evidence) -> tuple[Verdict, ...]:
        return checks.verdicts(evidence, evidence.observation.state, evidence.previous)

    scored = monitors(replace(setting, fit=calibration.arrays))
    return {**{entry.name: monitor.score for entry, monitor in scored}, CHECKS: checked, SCORES: bank.verdicts}


def recorded(begin: int, window: int, rounds: int, told: Callable[[], None]) -> Long:
    """One episode of ``begin + window`` ticks, with sets of monitors that live through its first ``begin``."""
    scenario = load_scenario(SCENARIO)
    scenario = scenario.model_copy(update={"duration_s": (begin + window) * scenario.period_s})
    calibration = load_calibration(scenario)
    if calibration is None:
        raise ValueError(f"scenario {SCENARIO!r} names no calibration")
    seen, loop, made = list[Evidence](), list[float](), list[Shield]()
    first, aged = list[Evidence](), list[dict[str, Part]]()

    class Recording(Shield):
        def _watch(self, evidence: Evidence, state: RobotState | None) -> tuple[Verdict, ...]:
            seen.append(evidence)
            return super()._watch(evidence, state)

        def step(self, observation: Observation, now: int | None = None) -> Decision:
            decision = super().step(observation, now)
            loop.append(decision.timings.monitors / 1e3)
            if decision.tick < begin:
                if decision.tick < window:
                    first.append(seen[0])
                _see(aged, seen.pop())
            told()
            return decision

    def make(*given: Any, **settings: Any) -> Shield:
        made.append(Recording(*given, **settings))
        aged.extend(parts(made[0].bank.setting, calibration) for _ in range(rounds))
        return made[0]

    run_episode(scenario, calibration=calibration, make_shield=make)
    windows = {"first": np.array(loop[:window]), "late": np.array(loop[begin:])}
    return Long(first, seen, aged, made[0].bank.setting, calibration, windows)


def _see(sets: Sequence[Mapping[str, Part]], evidence: Evidence) -> None:
    for each in sets:
        for part in each.values():
            part(evidence)


def timed(long: Long, fresh: Callable[[], dict[str, Part]], told: Callable[[], None]) -> Times:
    """Time of every part of every set: tick by tick in turn, each tick another set first."""
    rounds, ticks = len(long.aged), len(long.late)
    names = tuple(long.aged[0])
    times = {name: {each: np.empty((rounds, ticks)) for each in SETS} for name in names}
    for turn, aged in enumerate(long.aged):
        sets = dict(zip(SETS, (fresh(), aged, fresh()), strict=True))
        gc.collect()
        gc.disable()
        for tick in range(ticks):
            evidence = {"first": long.first[tick], "late": long.late[tick], "fresh": long.late[tick]}
            for own in _ORDERS[(tick + turn) % len(_ORDERS)]:
                for name, part in sets[own].items():
                    begin = perf_counter_ns()
                    part(evidence[own])
                    times[name][own][turn, tick] = (perf_counter_ns() - begin) / 1e3
        gc.enable()
        told()
    times[STAGE] = {own: times[CHECKS][own] + times[SCORES][own] for own in SETS}
    return times


# -- figures ----------------------------------------------------------------------------------------------


def percentiles(us: Floats) -> dict[str, float]:
    """p50 and p99 of all ticks of all rounds, µs."""
    p50, p99 = np.percentile(us, (50, 99)).tolist()
    return {"p50": p50, "p99": p99}


def ratio(over: Floats, under: Floats, seed: int = 0) -> tuple[float, float, float]:
    """Mean of ``over`` by that of ``under``, both shape (rounds, ticks), and its central 95 %, the ticks resampled."""
    one, other = np.median(over, axis=0), np.median(under, axis=0)
    drawn = np.random.default_rng(seed).integers(len(one), size=(_RESAMPLES, len(one)))
    low, high = np.quantile(one[drawn].mean(axis=1) / other[drawn].mean(axis=1), (0.025, 0.975)).tolist()
    return float(one.mean() / other.mean()), low, high


def figures(times: Times, loop: Mapping[str, Floats]) -> dict[str, Any]:
    """Every figure by part."""
    found: dict[str, Any] = {
        name: {
            **{own: percentiles(us) for own, us in by_set.items()},
            "late_over_fresh": ratio(by_set["late"], by_set["fresh"]),
            "late_over_first": ratio(by_set["late"], by_set["first"]),
        }
        for name, by_set in times.items()
    }
    return {"us": found, "in_the_loop": {own: percentiles(us) for own, us in loop.items()}}


def met(found: Mapping[str, Any]) -> bool:
    """The stage is quick enough in either window, and costs the same late as fresh."""
    stage = found["us"][STAGE]
    quick = all(stage[own]["p50"] <= TARGET_US for own in ("first", "late"))
    return quick and stage["late_over_fresh"][1] <= GROWTH


def show(found: Mapping[str, Any]) -> Table:
    """One row a part."""
    table = Table("µs a tick", *(f"{own}: p50, p99" for own in SETS), "late / fresh (95 %)", "late / first (95 %)")
    for name, own in found["us"].items():
        pairs = [f"{own[each]['p50']:.2f}, {own[each]['p99']:.1f}" for each in SETS]
        ratios = [_interval(own[key]) for key in ("late_over_fresh", "late_over_first")]
        table.add_row(name, *pairs, *ratios, end_section=name == CHECKS)
    loop = found["in_the_loop"]
    pairs = [f"{loop[own]['p50']:.2f}, {loop[own]['p99']:.1f}" for own in ("first", "late")]
    table.add_row("stage, in the loop", *pairs, "", "", "")
    return table


def _interval(found: Sequence[float]) -> str:
    value, low, high = found
    return f"{value:.3f} ({low:.3f}–{high:.3f})"


def main() -> int:
    """Record, time, print, write; 3 if the target is missed."""
    given = _arguments()
    console = Console(width=max(Console().width, 150))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("one long episode", total=given.begin + given.window)
        long = recorded(given.begin, given.window, given.rounds, lambda: progress.advance(task))
        task = progress.add_task("rounds in turn", total=given.rounds)
        times = timed(long, lambda: parts(long.setting, long.calibration), lambda: progress.advance(task))
    found = figures(times, long.loop)
    console.print(show(found))
    if given.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        settings = {"begin": given.begin, "window": given.window, "rounds": given.rounds, "machine": machine}
        given.json.write_text(json.dumps({**settings, **found}, indent=1, ensure_ascii=False) + "\n")
    return 0 if met(found) else 3


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--begin", type=int, default=50_000, help="first tick of the late window")
    parser.add_argument("--window", type=int, default=1000, help="ticks")
    parser.add_argument("--rounds", type=int, default=12, help="a multiple of 6 gives every tick every order")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
