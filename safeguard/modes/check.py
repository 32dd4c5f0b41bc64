"""The check of a mode table: every property of docs/concepts/modes.md that a table can have by itself.

P1 to P12, P14 to P20 and lockout are walked exhaustively on a declared abstraction (``walk``), P13 is about all walks
together, P21 is a comparison of compiled tables. What must hold for all timer constants is proved with z3, and a second
engine agrees (tests/theory). P22 to P28 are about the runtime, not the table: docs/concepts/modes.md says which tests
carry them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from importlib import resources
from typing import Final

import numpy as np

from safeguard.core.enums import Cause, Mode
from safeguard.modes.certificate import HOLDS, TableCertificate, World, abstraction_digest
from safeguard.modes.properties import NAMES
from safeguard.modes.requirements import VELOCITY_SHARE
from safeguard.modes.spec import TableSpec
from safeguard.modes.table import ModeTable, compile_table, compiler_digest, load_spec, table_digest
from safeguard.modes.walk import SAID, Abstraction, Walk, abstraction, walk, worlds

P13: Final = "P13 complete: every mode of the table is reached and every row is a reason somewhere"
P14: Final = "P14 no trap: no timely way back to NOMINAL"
P2_SLOW: Final = "P2 authority: proposals are faster in CAUTIOUS or DEGRADED than they may be"
P21: Final = "P21 refinement: without what it sheds, the strategy is not the monolithic one"

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
    verdicts = dict.fromkeys((*NAMES, *SAID.values(), P13, P14, P2_SLOW, P21), HOLDS)
    for done in found:
        if done.broken:
            verdicts[done.broken] = "; then ".join(done.story) or "in the graph as a whole"
    if not any(done.broken for done in found):
        verdicts[P13] = _complete(spec, model.table, found, set(model.merged.values())) or HOLDS
    verdicts[P2_SLOW] = _slow(model.table) or HOLDS
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
    source = resources.files("safeguard.modes")
    parts = [(source / name).read_text("utf-8") for name in ("requirements.py", "properties.py", "walk.py", "check.py")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


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


def _slow(table: ModeTable) -> str:
    """Envelopes of CAUTIOUS and DEGRADED that allow more than the share that is owed."""
    shares = [("cautious", table.envelope[Mode.CAUTIOUS].velocity)]
    shares += [(name, envelope.velocity) for name, envelopes in table.degraded for envelope in envelopes]
    return "; ".join(f"{name} allows {share:g} of the speed limits" for name, share in shares if share > VELOCITY_SHARE)


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
    differ += [name for name in ("authority", "envelope") if getattr(ours, name) != getattr(theirs, name)]
    return f"these differ: {', '.join(differ)}" if differ else ""


def _scaled(small: TableSpec) -> dict[str, int]:
    """Ticks in the abstraction, by row."""
    rows = small.rows()
    keys = ("bridge_ticks", "debounce_ticks", "moving_ticks", "dwell_ticks", "stay_ticks", "window_ticks")
    return {row.id: ticks for row in rows for key in keys if isinstance(ticks := getattr(row, key, None), int)}
