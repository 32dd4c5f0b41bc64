"""The simulator: one page on which a person plays with a mode table, driven by the compiled table itself.

The page needs no network and no server. Its engine is ``simulator/engine.js``, ``engine.py`` function for function.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from safeguard.core.enums import Cause, Mode
from safeguard.core.errors import ModeTableError
from safeguard.core.types import NS_PER_S, Envelope
from safeguard.modes import words
from safeguard.modes.spec import CauseSpec, TableSpec
from safeguard.modes.table import STRATEGIES, ModeTable, compile_table, load_spec

PERIOD_S: Final = 0.002
_ROWS: Final = 53  # bits that a number of JavaScript holds exactly
_CAUSES: Final = 31  # bits that its & and | take
_PROGRAM: Final = ("player.js", "session.js", "draw.js", "page.js")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RecordedTicks(_Model):
    """What the machine saw in one tick, or in ``count`` equal ones, and the mode that was recorded then.

    Attributes:
        causes: active causes, by name.
        ack, standstill, ready, person: as in ``ModeInputs``.
        shadow, available: names of capabilities, as in ``ModeInputs``.
        mode: the recorded mode after the tick, by name in capitals.
        count: for how many ticks all this held.
        start: the machine began anew in this mode just before (a new episode: BOOT); null: it went on.
    """

    causes: tuple[Cause, ...] = ()
    ack: bool = False
    standstill: bool = False
    ready: bool = True
    person: bool = False
    shadow: tuple[str, ...] = ()
    available: tuple[str, ...] = ()
    mode: Literal["NOMINAL", "CAUTIOUS", "DEGRADED", "HOLD", "STOP", "ESTOP", "LOCKOUT", "BOOT"]
    count: Annotated[int, Field(ge=1)] = 1
    start: Literal["NOMINAL", "CAUTIOUS", "DEGRADED", "HOLD", "STOP", "ESTOP", "LOCKOUT", "BOOT"] | None = None


class RecordedRun(_Model):
    """A run's inputs to its modes, to be played on the page; the same JSON can be dropped onto it.

    Attributes:
        name: what the page calls it.
        strategy: whose table it ran with.
        period_s: its tick, s.
        estops: e-stops that counted towards LOCKOUT before it began.
        ticks: what happened, in order. It begins in BOOT unless the first ``start`` says otherwise.
    """

    name: str
    strategy: str
    period_s: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    estops: Annotated[int, Field(ge=0)] = 0
    ticks: tuple[RecordedTicks, ...] = Field(min_length=1)


def merged(ticks: Iterable[RecordedTicks]) -> tuple[RecordedTicks, ...]:
    """The same ticks with equal neighbours written once; a ``start`` always begins an entry."""
    found: list[RecordedTicks] = []
    for one in ticks:
        last = found[-1] if found else None
        if (
            last is not None
            and one.start is None
            and one == last.model_copy(update={"count": one.count, "start": None})
        ):
            found[-1] = last.model_copy(update={"count": last.count + one.count})
        else:
            found.append(one)
    return tuple(found)


def page(strategies: Iterable[str] = STRATEGIES, period: float = PERIOD_S, runs: Sequence[RecordedRun] = ()) -> str:
    """The simulator as one HTML file, for ticks of ``period`` s. Raises ModeTableError."""
    specs = {strategy: load_spec(strategy) for strategy in strategies}
    for run in runs:
        _check(run, specs, period)
    data = {
        "modes": {mode.name: words.MODES[mode] for mode in Mode},
        "authorities": {authority.value: text for authority, text in words.AUTHORITIES.items()},
        "moves": {authority.value: text for authority, text in words.MOVES.items()},
        "guards": {guard.name: text for guard, text in words.GUARDS.items()},
        "tables": [described(spec, period) for spec in specs.values()],
        "runs": [run.model_dump(mode="json", exclude_defaults=True) for run in runs],
    }
    return _filled(
        _file("page.html"),
        style=_file("page.css"),
        data=_script_json(data),
        engine=_file("engine.js"),
        program="".join(_file(name) for name in _PROGRAM),
    )


def _check(run: RecordedRun, specs: Mapping[str, TableSpec], period: float) -> None:
    """Refuse a run that the page cannot play. Raises ModeTableError."""
    spec = specs.get(run.strategy)
    if spec is None:
        raise ModeTableError(f"run {run.name!r}: strategy {run.strategy!r} is not on the page; add it to strategies")
    if round(run.period_s * NS_PER_S) != round(period * NS_PER_S):
        raise ModeTableError(f"run {run.name!r}: its tick is {run.period_s} s; make the page with that period")
    known = {row.name for row in spec.capabilities}
    for place, ticks in enumerate(run.ticks):
        if unknown := sorted({*ticks.shadow, *ticks.available} - known):
            raise ModeTableError(f"run {run.name!r}, entry {place}: {unknown[0]!r} is no capability of {run.strategy}")


def described(spec: TableSpec, period: float) -> dict[str, Any]:
    """A compiled table with the words that the page shows beside it."""
    return {
        **table_json(compile_table(spec, period)),
        "about": words.STRATEGIES.get(spec.strategy, ""),
        "words": words.rows(spec),
        "causes": [_cause(row) for row in sorted(spec.causes, key=lambda row: list(Cause).index(row.cause))],
        "names": [row.name for row in spec.capabilities],
        "rearm": spec.bridge.rearm_share,
    }


def table_json(table: ModeTable) -> dict[str, Any]:
    """What ``engine.js`` needs of a compiled table. Raises ModeTableError if a mask is too wide for it."""
    if len(table.rows) > _ROWS or len(Cause) > _CAUSES:
        raise ModeTableError(
            f"table {table.strategy!r} has {len(table.rows)} rows and {len(Cause)} causes; the simulator's masks hold"
            f" {_ROWS} and {_CAUSES}"
        )
    arrays = ("floors", "buckets", "escalations", "recoveries", "capabilities", "configurations", "numbers")
    return {
        "strategy": table.strategy,
        "period_ns": table.period_ns,
        "digest": table.digest,
        "rows": list(table.rows),
        "authority": [authority.value for authority in table.authority],
        "envelope": [_envelope(one) for one in table.envelope],
        "jog": None if table.jog is None else _envelope(table.jog),
        "degraded": [[name, [_envelope(one) for one in envelopes]] for name, envelopes in table.degraded],
        "ages": table.ages,
        "size": table.size,
        **{name: getattr(table, name).tolist() for name in arrays},
    }


def _envelope(envelope: Envelope) -> list[float]:
    return [envelope.velocity, envelope.acceleration]


def _cause(row: CauseSpec) -> dict[str, Any]:
    return {
        "name": row.cause.value,
        "row": row.id,
        "floor": row.floor.name,
        "about": row.about,
        "sheds": list(row.sheds),
        "delay": "" if not row.delayed else "debounce" if row.debounced else "bridge",
    }


def _file(name: str) -> str:
    return resources.files("safeguard.modes").joinpath("simulator", name).read_text("utf-8")


def _script_json(data: object) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _filled(template: str, **parts: str) -> str:
    """``template`` with every ``/*name*/`` replaced once; the parts themselves are not looked into."""
    pieces = [template]
    for name, text in parts.items():
        before, after = pieces[-1].split(f"/*{name}*/")
        pieces[-1:] = [before, text, after]
    return "".join(pieces)
