"""The check of a mode table: every property of docs/concepts/modes.md that a table can have by itself.

P1 to P12, P14 to P20, lockout and jogging are walked exhaustively on a declared abstraction (``walk``), P13 is about
all walks together, P21 is a comparison of compiled tables. What scaled times cannot show is read off the real table:
envelopes (P2, P6, jogging) and the price of a recovery (P9). What must hold for all timer constants is proved with z3,
and a second engine agrees (tests/theory). P22 to P28 are about the runtime, not the table: docs/concepts/modes.md says
which tests carry them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from itertools import pairwise
from typing import Final

import numpy as np

from safeguard.core.enums import Cause, Mode
from safeguard.modes.certificate import HOLDS, TableCertificate, World, abstraction_digest
from safeguard.modes.explore import SAID
from safeguard.modes.properties import NAMES
from safeguard.modes.requirements import JOG, VELOCITY_SHARE, Bounds, bounds
from safeguard.modes.spec import TableSpec
from safeguard.modes.table import (
    COST,
    WINDOW,
    ModeTable,
    compile_table,
    compiler_digest,
    load_spec,
    source_digest,
    table_digest,
)
from safeguard.modes.walk import Abstraction, Walk, abstraction, walk, worlds

P13: Final = "P13 complete: every mode of the table is reached and every row is a reason somewhere"
P14: Final = "P14 no trap: no timely way back to NOMINAL"
P2_SLOW: Final = "P2 authority: proposals are faster in CAUTIOUS or DEGRADED than they may be"
PJ_SLOW: Final = "PJ jogging: it is faster than it may be, or not only away from what is near"
P6_ENDS: Final = "P6 bounded degradation: what ends anywhere does not come to rest, or what goes on is slowed down"
P9_REAL: Final = "P9 chatter: with the real times a window has more recoveries than allowed, or fewer than owed"
P21: Final = "P21 refinement: without what it sheds, the strategy is not the monolithic one"

CHECKER: Final = ("requirements", "properties", "explore", "walk", "check")
"""Modules that judge a table."""

Progress = Callable[[str, Walk], None]


def check(
    spec: TableSpec, period: float = 0.002, pool: Executor | None = None, told: Progress | None = None
) -> TableCertificate:
    """Check one table.

    Args:
        spec: the table.
        period: control period, s; the certificate also covers every other one that scales to the same abstraction.
        pool: processes to walk in; this one if None.
        told: called with each world's name and walk as it is done.
    """
    model = abstraction(spec, period)
    models = worlds(spec, period)
    found: list[Walk] = []
    for one, done in zip(models, _walks(models, pool), strict=True):
        found.append(done)
        if told is not None:
            told(", ".join(cause.value for cause in one.split()[0]) or "no slow cause", done)
    verdicts = dict.fromkeys((*NAMES, *SAID.values(), P13, P14, P2_SLOW, PJ_SLOW, P6_ENDS, P9_REAL, P21), HOLDS)
    for done in found:
        if done.broken:
            verdicts[done.broken] = "; then ".join(done.story) or "in the graph as a whole"
    if not any(done.broken for done in found):
        verdicts[P13] = _complete(spec, model.table, found, set(model.merged.values())) or HOLDS
    table, limits = compile_table(spec, period), bounds(spec.strategy, period)
    verdicts[P2_SLOW] = "; ".join(_fast(table)) or HOLDS
    verdicts[PJ_SLOW] = "; ".join(hasty(table)) or HOLDS
    verdicts[P6_ENDS] = "; ".join(endless(table, limits)) or HOLDS
    verdicts[P9_REAL] = "; ".join(_budget(table, limits)) or HOLDS
    verdicts[P21] = _refines(spec, period) or HOLDS
    return TableCertificate(
        strategy=spec.strategy,
        table=table_digest(spec),
        compiler=compiler_digest(),
        checker=checker_digest(),
        abstraction=abstraction_digest(spec, period),
        scaled=_scaled(model.spec),
        merged={cause.value: other.value for cause, other in model.merged.items()},
        worlds=tuple(
            World(
                slow=tuple(cause.value for cause in one.split()[0]),
                states=done.states,
                edges=done.edges,
                graph=done.graph,
            )
            for one, done in zip(models, found, strict=True)
        ),
        modes=tuple(mode.name.lower() for mode in sorted(set[Mode]().union(*(done.modes for done in found)))),
        properties=verdicts,
    )


def checker_digest() -> str:
    """SHA-256 of the source of what judges a table."""
    return source_digest(CHECKER)


def _walks(models: tuple[Abstraction, ...], pool: Executor | None) -> Iterator[Walk]:
    return map(walk, models) if pool is None else pool.map(walk, models)


def _complete(spec: TableSpec, table: ModeTable, found: list[Walk], stand_ins: set[Cause]) -> str:
    """Rows and modes that no walk reached, in words; a cause that another stands for need not be seen itself."""
    fired = frozenset[str]().union(*(done.rows for done in found))
    merged = {row.id for row in spec.causes if row.cause not in stand_ins}
    silent = [row for row in table.rows if row not in fired and row not in merged]
    reached = set[Mode]().union(*(done.modes for done in found))
    missing = [row.mode.name for row in spec.modes if row.mode not in reached]
    return "; ".join(f"{what}: {', '.join(some)}" for what, some in (("silent", silent), ("never", missing)) if some)


def _fast(table: ModeTable) -> Iterator[str]:
    """Envelopes that allow more than the share that is owed, or more than where less is wrong."""
    allowed = {0: ("cautious", table.envelope[Mode.CAUTIOUS])}  # by what is missing
    allowed |= {
        mask: (name, max(envelopes, key=lambda one: one.velocity))
        for mask, (name, envelopes) in enumerate(table.degraded)
        if envelopes
    }
    for mask, (name, envelope) in allowed.items():
        if envelope.velocity > VELOCITY_SHARE ** max(mask.bit_count(), 1):
            yield f"{name} allows {envelope.velocity:g} of the speed limits"
        above = [("nominal", table.envelope[Mode.NOMINAL])]
        above += [better for less, better in allowed.items() if less != mask and less & mask == less]
        for other, better in above:
            if envelope.velocity > better.velocity or envelope.acceleration > better.acceleration:
                yield f"{name} allows more than {other}, where less is wrong"


def hasty(table: ModeTable) -> Iterator[str]:
    """What a person may ask for in HOLD beyond what is owed, or beyond what the policy may in CAUTIOUS."""
    jog = table.jog
    if jog is None:
        yield "nobody may jog"
        return
    if not jog.away:
        yield "it may lead nearer"
    for name, most in (("what is owed", JOG), ("cautious", table.envelope[Mode.CAUTIOUS])):
        if jog.velocity > most.velocity or jog.acceleration > most.acceleration:
            yield f"it allows more than {name}"


def endless(table: ModeTable, limits: Bounds) -> Iterator[str]:
    """Configurations whose speed does not go to rest over their stay although it has to, or falls although not."""
    for mask, (name, envelopes) in enumerate(table.degraded):
        shed = frozenset(one for c, one in enumerate(table.names) if mask >> c & 1)
        speeds = [envelope.velocity for envelope in envelopes]
        falls = len(speeds) >= limits.stay.get(shed, 0) and all(b < a for a, b in pairwise(speeds))
        if shed in limits.decays and not (falls and speeds[-1] * len(speeds) <= speeds[0] * (1 + _ROUNDED)):
            yield f"{name} does not come to rest"
        if shed not in limits.decays and any(speed != speeds[0] for speed in speeds):
            yield f"{name} slows down"


_ROUNDED: Final = 1e-9


def _budget(table: ModeTable, limits: Bounds) -> Iterator[str]:
    """What is wrong with the price of a recovery, in real ticks: the scaled ones say little about it.

    A window pays for what the budget holds when it begins and for what time adds. Tests of z3 prove that no more can
    be spent (tests/theory/test_modes_counters.py); here it is shown that no more is needed for one too many. After a
    quiet window half of the recoveries that are allowed may come at once.
    """
    cost, window = int(table.numbers[COST]), int(table.numbers[WINDOW])
    if not limits.stay:
        return
    if cost * (limits.recoveries + 1) <= window + limits.window:
        yield f"{(window + limits.window) // cost} recoveries fit in a window, not {limits.recoveries}"
    if limits.recoveries // 2 * (cost - 1) >= window:  # the cost is rounded up to a tick
        yield f"{window // cost} recoveries can come at once, not {limits.recoveries // 2}"
    if window > limits.window:
        yield f"the budget is full again after {window} ticks, not {limits.window}"


def _refines(spec: TableSpec, period: float) -> str:
    """What differs from the monolithic strategy once everything that sheds is taken out again, in words."""
    core = load_spec("monolithic")
    kept = {row.cause: row for row in core.causes}
    causes = tuple(row if row.floor is not Mode.DEGRADED else kept[row.cause] for row in spec.causes)
    bare = spec.model_copy(
        update={
            "strategy": core.strategy,
            "flapping": None,
            "capabilities": (),
            "configurations": (),
            "modes": tuple(row for row in spec.modes if row.mode is not Mode.DEGRADED),
            "causes": causes,
            "recoveries": tuple(row for row in spec.recoveries if row.source is not Mode.DEGRADED),
        }
    )
    ours, theirs = compile_table(bare, period), compile_table(core, period)
    pairs = zip(("floors", "buckets", "escalations", "recoveries", "capabilities", "configurations", "numbers"),
                ours.arrays, theirs.arrays, strict=True)  # fmt: skip
    differ = [name for name, a, b in pairs if not np.array_equal(a, b)]
    differ += [name for name in ("authority", "envelope", "jog") if getattr(ours, name) != getattr(theirs, name)]
    return f"these differ: {', '.join(differ)}" if differ else ""


def _scaled(small: TableSpec) -> dict[str, int]:
    """Ticks in the abstraction, by row."""
    rows = small.rows()
    keys = ("bridge_ticks", "debounce_ticks", "moving_ticks", "dwell_ticks", "stay_ticks", "window_ticks")
    return {row.id: ticks for row in rows for key in keys if isinstance(ticks := getattr(row, key, None), int)}
