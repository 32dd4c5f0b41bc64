"""One simulated hour of a policy that is late now and then: how often the body stops for it, and how long.

Each source (a policy, a module, one of two systems) infers at its rate, one inference at a time. An output comes one
period late with one probability and is not usable with another. Causes arise as in the shield: lateness by the age of
the observation behind the newest good output (``PolicyDeadline``), bad output until the next one arrives (``Intake``),
and for what moves the body too many good outputs that came late or never (``Punctual`` itself). The real mode engine
gets them tick by tick. An operator acknowledges every stop. Beside it the same hour with a table without bridges,
debounces and degraded configurations.

python benchmarks/spurious.py --json benchmarks/spurious.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from a clone

from safeguard.core.compiled import (
    COUNT,
    INT_ROWS,
    INTS,
    OUT_INTS,
    kernel,
    part,
    types,
)
from safeguard.core.config import PunctualConfig
from safeguard.core.enums import Cause, Mode
from safeguard.core.types import NS_PER_S, Proposal
from safeguard.modes.engine import BRIDGING, NEXT, WHY, advance
from safeguard.modes.spec import TableSpec
from safeguard.modes.state import ModeState
from safeguard.modes.table import (
    ACK,
    CAUSE_BIT,
    READY,
    STANDSTILL,
    STRATEGIES,
    ModeTable,
    compile_table,
    load_spec,
)
from safeguard.monitors.punctual import Punctual

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

PERIOD: Final = 0.002  # s
LATE: Final = 0.01
INVALID: Final = 0.001
BURST: Final = 2.0  # mean length, outputs
BRAKING: Final = 0.3  # s from losing authority to standstill
REACTION: Final = 2.0  # s until the operator acknowledges, and again
TARGET: Final = 1.0  # spurious HOLDs an hour


@dataclass(frozen=True, slots=True)
class Source:
    """Something that infers once a period.

    Attributes:
        name: in tables.
        period: between the starts of inferences, s.
        latency: of an inference that is in time, s.
        max_age: of the observation behind the newest good output, s.
        late: cause while the newest good output is too old.
        invalid: cause while the newest output is not usable.
    """

    name: str
    period: float
    latency: float
    max_age: float
    late: Cause
    invalid: Cause

    def ticks(self, *, strict: bool) -> tuple[int, int, int]:
        """Period, latency and largest age; the strict one ends when the next output is due."""
        period, latency, age = (round(x / PERIOD) for x in (self.period, self.latency, self.max_age))
        return period, latency, period + latency if strict else age


SOURCES: Final[dict[str, tuple[Source, ...]]] = {
    "monolithic": (Source("policy", 0.1, 0.02, 0.2, Cause.POLICY_LATE, Cause.PROPOSAL_INVALID),),
    "modular": (
        Source("prediction", 0.1, 0.02, 0.2, Cause.PREDICTION_FAILED, Cause.PREDICTION_FAILED),
        Source("planner", 0.1, 0.02, 0.2, Cause.PLANNER_FAILED, Cause.PLANNER_FAILED),
    ),
    "vla": (Source("policy", 0.1, 0.08, 0.2, Cause.POLICY_LATE, Cause.PROPOSAL_INVALID),),
    "dual": (
        Source("System 1", 0.05, 0.02, 0.2, Cause.POLICY_LATE, Cause.PROPOSAL_INVALID),
        Source("System 2", 0.124, 0.1, 0.248, Cause.SYSTEM2_FAILED, Cause.SYSTEM2_FAILED),
    ),
}
"""What proposes, by strategy. The largest age is the shield's for what moves the body, else two periods; 124 ms is 8 Hz
in whole ticks."""


@dataclass(slots=True)
class Tally:
    """What one run, or several, came to.

    Attributes:
        ticks: of the run.
        holds: how often the mode became HOLD or worse.
        bridged: ticks in which the backup stood in for the policy.
        cautious, degraded, stopped: ticks in these modes (the last: HOLD and worse).
        moving: ticks in which the policy moved the body.
        acknowledged: acknowledgements given.
        rows: the rows that stopped the body, and how often.
    """

    ticks: int = 0
    holds: int = 0
    bridged: int = 0
    cautious: int = 0
    degraded: int = 0
    stopped: int = 0
    moving: int = 0
    acknowledged: int = 0
    rows: Counter[str] = field(default_factory=Counter[str])

    @property
    def availability(self) -> float:
        """Share of ticks in which the policy moved the body."""
        return self.moving / self.ticks

    def __add__(self, other: Tally) -> Tally:
        names = ("ticks", "holds", "bridged", "cautious", "degraded", "stopped", "moving", "acknowledged")
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Tally(**sums, rows=self.rows + other.rows)

    def as_json(self) -> dict[str, object]:
        """Plain figures; shares of the ticks."""
        shares = {name: getattr(self, name) / self.ticks for name in ("bridged", "cautious", "degraded", "stopped")}
        return {"holds": self.holds, "acknowledged": self.acknowledged, "availability": self.availability, **shares,
                "rows": dict(self.rows.most_common())}  # fmt: skip


# -- sources ----------------------------------------------------------------------------------------------

_STARTED, _ARRIVES, _COUNT, _GOOD, _BAD = range(5)  # of a source: ticks; outputs so far; of the good one; 0 or 1


@part
def _infer(now: int, k: int, made: Ints, times: Ints, late: Flags, invalid: Flags, bits: Ints, good: Ints) -> int:
    """One tick of source ``k``: what arrives, what starts, and the causes that are then active."""
    state, n = made[k], made[k, _COUNT] - 1
    if state[_ARRIVES] == now:
        if invalid[k, n]:
            state[_BAD] = 1
        else:
            state[_BAD], state[_GOOD] = 0, state[_STARTED]
            good[now] |= 1 << k
        state[_ARRIVES] = -1
    if state[_ARRIVES] < 0 and now - state[_STARTED] >= times[k, 0]:
        n += 1
        state[_STARTED], state[_COUNT] = now, n + 1
        state[_ARRIVES] = now + times[k, 1] + (times[k, 0] if late[k, n] else 0)
    causes = bits[k, 1] if state[_BAD] else 0
    return causes | (bits[k, 0] if now - state[_GOOD] > times[k, 2] else 0)


_FLAG_ROWS = types.Array(types.boolean, 2, "C", readonly=True)


@kernel(types.void, INT_ROWS, _FLAG_ROWS, _FLAG_ROWS, INT_ROWS, OUT_INTS, OUT_INTS)
def causes_of(times: Ints, late: Flags, invalid: Flags, bits: Ints, out: Ints, good: Ints) -> None:
    """The mask of active causes in every tick of ``out``; in ``good`` the sources whose usable output arrives in it."""
    made = np.zeros((len(times), 5), dtype=np.int64)
    for k in range(len(times)):
        made[k, _STARTED], made[k, _ARRIVES] = -times[k, 0], -1
    for now in range(len(out)):
        mask = 0
        for k in range(len(times)):
            mask |= _infer(now, k, made, times, late, invalid, bits, good)
        out[now] = mask


_OTHERS: Final = [Proposal(np.zeros((1, 1)), 0, 0, "scripted", k) for k in range(2)]


def unpunctual(arrives: Flags, deadline: float) -> Flags:
    """The ticks in which the shield's ``Punctual`` calls the policy late.

    Args:
        arrives: whether a usable output does, by tick.
        deadline: of the shield's configuration, s.
    """
    config, found = PunctualConfig(), np.zeros(len(arrives), dtype=np.bool_)
    check, period = Punctual(config, 0.5 * deadline), 0.5 * deadline
    spare = int(period * (1.0 + config.grace) / PERIOD)
    for k, (begin, end) in enumerate(pairwise([*np.flatnonzero(arrives).tolist(), len(arrives)])):
        # A verdict stands from the tick after an arrival until an output is overdue.
        for tick in range(begin, end if end - begin > spare else min(begin + 2, end)):
            found[tick:end] = check.check(_OTHERS[k % 2], round(tick * PERIOD * NS_PER_S)).cause is not None
    return found


def draw(rng: np.random.Generator, count: int, *, bursty: bool) -> tuple[Flags, Flags]:
    """Which of ``count`` outputs are late and which are not usable. Bursty lateness has the same share."""
    chance = rng.random(count)
    late = chance < LATE
    if bursty:
        stay, enter = 1.0 - 1.0 / BURST, LATE / (1.0 - LATE) / BURST
        for k in range(count):
            late[k] = chance[k] < (stay if k and late[k - 1] else enter)
    return late, rng.random(count) < INVALID


def arrays(
    sources: tuple[Source, ...], ticks: int, seed: int, *, bursty: bool = False, strict: bool = False
) -> tuple[Ints, Flags, Flags, Ints]:
    """What ``causes_of`` takes: times, late, invalid, cause bits."""
    times = np.array([source.ticks(strict=strict) for source in sources], dtype=np.int64)
    count = ticks // int(times[:, 0].min()) + 2
    drawn = [draw(np.random.default_rng((seed, k)), count, bursty=bursty) for k in range(len(sources))]
    late, invalid = (np.array([one[i] for one in drawn]) for i in (0, 1))
    bits = np.array([[CAUSE_BIT[source.late], CAUSE_BIT[source.invalid]] for source in sources], dtype=np.int64)
    return times, late, invalid, bits


# -- the run ----------------------------------------------------------------------------------------------

_CAUTIOUS, _DEGRADED, _HOLD = int(Mode.CAUTIOUS), int(Mode.DEGRADED), int(Mode.HOLD)
_HOLDS, _BRIDGED, _IN_CAUTIOUS, _IN_DEGRADED, _STOPPED, _MOVING, _ACKNOWLEDGED, _WHY = range(8)


@kernel(types.void, INTS, INTS, COUNT, COUNT, INTS, *[INT_ROWS] * 5, INTS, OUT_INTS)
def play(
    masks: Ints, first: Ints, braking: int, reaction: int, floors: Ints, buckets: Ints, escalations: Ints,
    recoveries: Ints, capabilities: Ints, configurations: Ints, numbers: Ints, told: Ints,
) -> None:  # fmt: skip
    """The engine over every tick of ``masks``; ``told`` counts what ``Tally`` says, from ``_WHY`` on stops by row."""
    s, after, report = first.copy(), first.copy(), np.zeros(5, dtype=np.int64)
    everything = (1 << len(capabilities)) - 1
    mode, idle, waited = np.int64(0), 0, 0
    for now in range(len(masks)):
        flags = READY | (STANDSTILL if idle >= braking else 0)
        if mode >= _HOLD and waited > 0 and waited % reaction == 0:
            flags |= ACK
            told[_ACKNOWLEDGED] += 1
        advance(
            s, masks[now], flags, everything, everything, floors, buckets, escalations, recoveries, capabilities,
            configurations, numbers, after, report,
        )  # fmt: skip
        if report[NEXT] >= _HOLD and mode < _HOLD:
            told[_HOLDS] += 1
            for row in range(62):
                told[_WHY + row] += report[WHY] >> row & 1
        mode = report[NEXT]
        waited = waited + 1 if mode >= _HOLD else 0
        moves = mode < _HOLD and not report[BRIDGING]
        idle = 0 if moves else idle + 1
        told[_MOVING] += moves
        told[_BRIDGED] += mode < _HOLD and report[BRIDGING]
        told[_IN_CAUTIOUS] += mode == _CAUTIOUS
        told[_IN_DEGRADED] += mode == _DEGRADED
        told[_STOPPED] += mode >= _HOLD
        s[:] = after


def run(table: ModeTable, masks: Ints) -> Tally:
    """One run from NOMINAL, a mask of causes a tick."""
    told = np.zeros(_WHY + 62, dtype=np.int64)
    first = ModeState.initial(table, Mode.NOMINAL).numbers
    play(masks, first, round(BRAKING / PERIOD), round(REACTION / PERIOD), *table.arrays, told)
    holds, bridged, cautious, degraded, stopped, moving, acknowledged, *rows = told.tolist()
    why = Counter({table.rows[k]: count for k, count in enumerate(rows) if count})
    return Tally(len(masks), holds, bridged, cautious, degraded, stopped, moving, acknowledged, why)


def bare(spec: TableSpec) -> TableSpec:
    """``spec`` without bridges, debounces and degraded configurations: what fails asks for HOLD at once."""
    core = {row.cause: row for row in load_spec("monolithic").causes}
    kept = [core[row.cause] if row.floor is Mode.DEGRADED else row for row in spec.causes]
    none: dict[str, None] = dict.fromkeys(("bridge_s", "bridge_ticks", "debounce_s", "debounce_ticks"))
    return spec.model_copy(
        update={
            "flapping": None,
            "capabilities": (),
            "configurations": (),
            "modes": tuple(row for row in spec.modes if row.mode is not Mode.DEGRADED),
            "causes": tuple(row.model_copy(update=none) for row in kept),
            "recoveries": tuple(row for row in spec.recoveries if row.source is not Mode.DEGRADED),
        }
    )


def measure(
    spec: TableSpec, sources: tuple[Source, ...], seed: int, ticks: int, *, bursty: bool = False, strict: bool = False
) -> tuple[Tally, Tally]:
    """The same run with the table and with what ``bare`` leaves of it."""
    times, late, invalid, bits = arrays(sources, ticks, seed, bursty=bursty, strict=strict)
    masks, good = np.zeros(ticks, dtype=np.int64), np.zeros(ticks, dtype=np.int64)
    causes_of(times, late, invalid, bits, masks, good)
    for k, source in enumerate(sources):
        if source.late is Cause.POLICY_LATE:
            masks[unpunctual((good >> k & 1).astype(np.bool_), source.max_age)] |= bits[k, 0]
    whole, without = compile_table(spec, PERIOD), compile_table(bare(spec), PERIOD)
    return run(whole, masks), run(without, masks)


# -- the command ------------------------------------------------------------------------------------------

CASES: Final = {
    "independent": (False, False),
    "bursts": (True, False),
    "independent, strict": (False, True),
    "bursts, strict": (True, True),
}
"""Name of a case: whether lateness comes in bursts, whether an output is late from the moment at which it is due."""


def movers(strategy: str, latency: float | None = None, max_age: float | None = None) -> tuple[Source, ...]:
    """The sources of ``strategy``, with another latency or deadline (s) of what moves the body."""
    found: list[Source] = []
    for one in SOURCES[strategy]:
        moves = one.late is Cause.POLICY_LATE
        found.append(replace(one, latency=latency or one.latency, max_age=max_age or one.max_age) if moves else one)
    return tuple(found)


def figures(told: list[Tally]) -> dict[str, object]:
    """Plain figures of several hours: HOLDs of each and in the mean, and shares of all ticks."""
    whole = sum(told[1:], told[0])
    mean = whole.holds / len(told)
    return {"holds_per_run": mean, "each": [one.holds for one in told], **whole.as_json()}


def main() -> int:
    """Simulate, print the table, write the figures; 3 if independent lateness stops a strategy too often."""
    arguments = _arguments()
    ticks = round(arguments.hours * 3600.0 / PERIOD)
    found: dict[str, dict[str, dict[str, object]]] = {}
    shown = Table("strategy", "lateness", "HOLDs an hour", "most in one", "un-bridged", "policy moves", "un-bridged",
                  "bridged", "degraded", "stopped by")  # fmt: skip
    missed = False
    jobs = [(strategy, case) for strategy in arguments.strategy or STRATEGIES for case in arguments.case or CASES]
    for strategy, case in track(jobs, "simulated hours", transient=True):
        bursty, strict = CASES[case]
        spec, sources = load_spec(strategy), movers(strategy, arguments.latency, arguments.max_age)
        runs = [measure(spec, sources, k, ticks, bursty=bursty, strict=strict) for k in range(arguments.seeds)]
        with_table, without = ([run[i] for run in runs] for i in (0, 1))
        found.setdefault(strategy, {})[case] = {"table": figures(with_table), "un-bridged": figures(without)}
        whole, core = (sum(told[1:], told[0]) for told in (with_table, without))
        hours = arguments.hours * arguments.seeds
        missed |= case == "independent" and whole.holds > TARGET * hours
        shown.add_row(
            strategy, case, f"{whole.holds / hours:.2f}", str(max(told.holds for told in with_table)),
            f"{core.holds / hours:.0f}", f"{whole.availability:.2%}", f"{core.availability:.2%}",
            f"{whole.bridged / whole.ticks:.2%}", f"{whole.degraded / whole.ticks:.2%}",
            ", ".join(f"{row} {count / hours:.2f}" for row, count in whole.rows.most_common(3)),
        )  # fmt: skip
    Console(width=max(Console().width, 150)).print(shown)
    if arguments.json:
        settings = {"hours": arguments.hours, "seeds": arguments.seeds, "late": LATE, "invalid": INVALID,
                    "burst_mean": BURST, "operator_s": REACTION, "braking_s": BRAKING,
                    "latency_s": arguments.latency, "max_age_s": arguments.max_age}  # fmt: skip
        arguments.json.write_text(json.dumps({**settings, "strategies": found}, indent=1) + "\n")
    return 3 if missed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="runs of each case")
    parser.add_argument("--hours", type=float, default=1.0, help="simulated, each run")
    parser.add_argument("--strategy", action="append", choices=STRATEGIES, help="only this one; may be repeated")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one; may be repeated")
    parser.add_argument("--latency", type=float, help="of a policy that moves the body, s")
    parser.add_argument("--max-age", type=float, help="its deadline, s: deadline_s of the shield's configuration")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
