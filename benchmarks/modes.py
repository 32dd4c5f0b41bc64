"""The mode engine beside two libraries for state machines: the same inputs, in turn, in one process.

Ours runs the four whole tables: bridges, timers, shedding, envelope, authority and the rows that are the reason. The
others get a smaller machine: NOMINAL, CAUTIOUS, HOLD, STOP, ESTOP, the floors of all causes, and the ways back by
acknowledgement at standstill. Left out there: bridges, debounces, dwells, escalations, DEGRADED, LOCKOUT, BOOT, the
edge of an acknowledgement. Two forms of it: ``by floor`` asks one guard for each worse mode, the shortest that gives
the same modes; ``by row`` has one transition for each cause, so that the machine knows which one fired, as ours does.
``plain Python`` is the first form as a chain of ifs. Before anything is timed, the others must give the modes that our
engine gives for a table that is reduced in the same way.

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
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final, Protocol

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from a clone

from benchmarks.peers.environments import REQUIREMENTS, prepare, versions
from benchmarks.spurious import PERIOD, bare
from safeguard.core.enums import Cause, Mode
from safeguard.modes import ModeInputs, ModeState, ModeTable, cause_mask, compile_table, load_spec, step
from safeguard.modes.spec import TableSpec
from safeguard.modes.table import CAUSE_BIT, STRATEGIES

BLOCK: Final = 200  # ticks
STEP_US: Final = 5.0
RATIO: Final = 20.0
MODES: Final = (Mode.NOMINAL, Mode.CAUTIOUS, Mode.HOLD, Mode.STOP, Mode.ESTOP)  # of the smaller machine

ENVIRONMENT: Final = "machines"
REQUIREMENTS.setdefault(ENVIRONMENT, ("transitions==0.9.3", "python-statemachine==3.2.2"))

Tick = tuple[int, bool, bool]
"""Mask of the active causes, acknowledgement, standstill."""


@dataclass(slots=True)
class Now:
    """What the guards of a peer look at."""

    causes: int = 0
    ack: bool = False
    standstill: bool = False


Guard = Callable[[], bool]
Rule = tuple[Mode, Mode, Guard]
"""From, to, and when. The first that applies is taken."""


class Machine(Protocol):
    """Something that has a mode and takes a tick at a time."""

    name: str

    def reset(self) -> None:
        """Start anew in NOMINAL."""
        ...

    def tick(self, causes: int, ack: bool, standstill: bool) -> object:
        """One tick; what it returns is not looked at."""
        ...

    def mode(self) -> Mode:
        """The mode after the last tick."""
        ...


# -- machines ---------------------------------------------------------------------------------------------


class Ours:
    """The engine as the shield calls it, with the construction of its inputs."""

    def __init__(self, name: str, table: ModeTable) -> None:
        self.name, self._table = name, table
        self.reset()

    def reset(self) -> None:
        """Start anew in NOMINAL."""
        self._state = ModeState.initial(self._table, Mode.NOMINAL)

    def tick(self, causes: int, ack: bool, standstill: bool) -> object:
        """One tick."""
        self._state, outputs = step(self._table, self._state, ModeInputs(causes, ack, standstill))
        return outputs

    def mode(self) -> Mode:
        """The mode after the last tick."""
        return self._state.mode


class PlainPython:
    """The smaller machine without a library."""

    name = "plain Python"

    def __init__(self, spec: TableSpec) -> None:
        self._now = Now()
        self._rules = [
            [(target, guard) for source, target, guard in rules(spec, self._now) if source is mode] for mode in Mode
        ]
        self.reset()

    def reset(self) -> None:
        """Start anew in NOMINAL."""
        self._mode = Mode.NOMINAL

    def tick(self, causes: int, ack: bool, standstill: bool) -> object:
        """One tick."""
        now = self._now
        now.causes, now.ack, now.standstill = causes, ack, standstill
        for target, guard in self._rules[self._mode]:
            if guard():
                self._mode = target
                break
        return self._mode

    def mode(self) -> Mode:
        """The mode after the last tick."""
        return self._mode


class Transitions:
    """The smaller machine with ``transitions``: one trigger a tick, guarded transitions in order."""

    def __init__(self, spec: TableSpec, *, by_row: bool) -> None:
        self.name = f"transitions, by {'row' if by_row else 'floor'}"
        library = import_module("transitions")
        self._now = Now()
        self._model: Any = type("Model", (), {})()
        names = [mode.name for mode in MODES]
        self._machine: Any = library.Machine(self._model, states=names, initial="NOMINAL", auto_transitions=False)
        for source, target, guard in rules(spec, self._now, by_row=by_row):
            self._machine.add_transition("tick", source.name, target.name, conditions=guard)
        self._trigger: Callable[[], bool] = self._model.tick

    def reset(self) -> None:
        """Start anew in NOMINAL."""
        self._machine.set_state("NOMINAL")

    def tick(self, causes: int, ack: bool, standstill: bool) -> object:
        """One tick."""
        now = self._now
        now.causes, now.ack, now.standstill = causes, ack, standstill
        return self._trigger()

    def mode(self) -> Mode:
        """The mode after the last tick."""
        return Mode[self._model.state]


class PythonStatemachine:
    """The smaller machine with ``python-statemachine``: one event a tick, guarded transitions in order."""

    def __init__(self, spec: TableSpec, *, by_row: bool) -> None:
        self.name = f"python-statemachine, by {'row' if by_row else 'floor'}"
        library = import_module("statemachine")
        self._now = Now()
        states = {mode: library.State(initial=mode is Mode.NOMINAL) for mode in MODES}
        event: Any = None
        for source, target, guard in rules(spec, self._now, by_row=by_row):
            found = states[source].to(states[target], cond=guard)
            event = found if event is None else event | found
        body = {mode.name: state for mode, state in states.items()}
        body |= {"tick": event, "allow_event_without_transition": True, "__module__": __name__}
        base: Any = library.StateMachine
        self._class: Any = type(base)("Modes", (base,), body)
        self.reset()

    def reset(self) -> None:
        """Start anew in NOMINAL."""
        self._machine = self._class()
        self._trigger: Callable[[], object] = self._machine.tick

    def tick(self, causes: int, ack: bool, standstill: bool) -> object:
        """One tick."""
        now = self._now
        now.causes, now.ack, now.standstill = causes, ack, standstill
        return self._trigger()

    def mode(self) -> Mode:
        """The mode after the last tick."""
        return Mode[str(self._machine.current_state_value)]


def rules(spec: TableSpec, now: Now, *, by_row: bool = False) -> list[Rule]:
    """The smaller machine of a reduced table as guarded transitions, the worst first."""
    found: list[Rule] = []
    for source in MODES:
        for target in reversed(MODES[MODES.index(source) + 1 :]):
            bits = [CAUSE_BIT[row.cause] for row in spec.causes if row.floor is target]
            masks = bits if by_row else [sum(bits)]
            found += [(source, target, _asks(now, mask)) for mask in masks]
        for row in spec.recoveries:
            if row.source is source:
                blocking = cause_mask(c.cause for c in spec.causes if c.floor >= min(source, Mode.DEGRADED))
                found.append((source, row.target, _back(now, blocking, alone=source < Mode.HOLD)))
    return found


def _asks(now: Now, mask: int) -> Guard:
    return lambda: now.causes & mask != 0


def _back(now: Now, blocking: int, *, alone: bool) -> Guard:
    """Nothing asks for the mode; unless it clears ``alone``, a person acknowledged at standstill."""
    if alone:
        return lambda: not now.causes & blocking
    return lambda: now.ack and now.standstill and not now.causes & blocking


def reduced(spec: TableSpec) -> TableSpec:
    """``spec`` without everything that the smaller machine leaves out."""
    core = bare(spec)
    return core.model_copy(
        update={
            "lockout": core.lockout.model_copy(update={"beyond": 10**6}),
            "escalations": tuple(row.model_copy(update={"moving_s": 1e6}) for row in core.escalations),
            "recoveries": tuple(row.model_copy(update={"dwell_s": None}) for row in core.recoveries),
        }
    )


# -- inputs -----------------------------------------------------------------------------------------------


def streams(ticks: int, seed: int = 0) -> dict[str, list[Tick]]:
    """Three streams of ``ticks``: no cause, one that stays active (CAUTIOUS), and all of them now and then."""
    one = CAUSE_BIT[Cause.EFFORT_WARN]
    return {
        "quiet": [(0, False, True)] * ticks,
        "one cause": [(one, False, True)] * ticks,
        "mixed": _mixed(ticks, np.random.default_rng(seed)),
    }


def _mixed(ticks: int, rng: np.random.Generator) -> list[Tick]:
    """Up to three causes at a time for a few ticks, then a quiet spell; an acknowledgement every tenth tick."""
    found: list[Tick] = []
    while len(found) < ticks:
        chosen = rng.choice(len(Cause), rng.integers(1, 4), replace=False)
        causes = sum(1 << int(bit) for bit in chosen)
        spell = [causes] * int(rng.geometric(0.2)) + [0] * int(rng.geometric(0.04))
        found += [(mask, k % 10 == 9, bool(rng.random() < 0.8)) for k, mask in enumerate(spell, len(found))]
    return found[:ticks]


def disagreement(ours: Machine, other: Machine, stream: Sequence[Tick]) -> str:
    """The first tick in which two machines have different modes, in words, or ""."""
    ours.reset()
    other.reset()
    for k, (causes, ack, standstill) in enumerate(stream):
        ours.tick(causes, ack, standstill)
        other.tick(causes, ack, standstill)
        if ours.mode() is not other.mode():
            return f"tick {k}: {ours.name} is in {ours.mode().name}, {other.name} in {other.mode().name}"
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
    spec = reduced(load_spec("monolithic"))
    kinds: tuple[type[Transitions] | type[PythonStatemachine], ...] = (Transitions, PythonStatemachine)
    return [kind(spec, by_row=by_row) for kind in kinds for by_row in (False, True)], versions(python)


def main() -> int:
    """Check that modes agree, measure, print, write; 3 if a target is missed."""
    arguments = _arguments()
    console, spec = Console(width=max(Console().width, 120)), reduced(load_spec("monolithic"))
    others, packages = peers(arguments.folder.resolve())
    others.insert(0, PlainPython(spec))
    chosen = streams(arguments.ticks, arguments.seed)
    small = Ours("ours, reduced", compile_table(spec, PERIOD))
    wrong = [found for other in others for stream in chosen.values() if (found := disagreement(small, other, stream))]
    if wrong:
        console.print(*wrong, sep="\n")
        return 3
    ours = [Ours(strategy, compile_table(load_spec(strategy), PERIOD)) for strategy in STRATEGIES]
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
    parser.add_argument("--ticks", type=int, default=4000, help="of every stream")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("build/peers"), help="where the environment is")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
