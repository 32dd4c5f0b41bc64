"""Tables with one slip each: what the lint and the properties must be able to tell from the real one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from pydantic import ValidationError

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import ModeTableError
from safeguard.modes.lint import lint
from safeguard.modes.spec import (
    CapabilitySpec,
    CauseSpec,
    ConfigurationSpec,
    EscalationSpec,
    FlappingSpec,
    Guard,
    JogSpec,
    ModeSpec,
    RecoverySpec,
    Row,
    TableSpec,
)
from safeguard.modes.table import compile_table, load_spec
from safeguard.modes.walk import Walk, abstraction, walk

_KINDS: Final = ("modes", "capabilities", "configurations", "causes", "escalations", "recoveries")
_FACTORS: Final = (0.5, 2.0)
_COMPANY: Final = (Cause.ESTOP, Cause.PROPOSAL_INVALID, Cause.TICK_OVERRUN)
"""An e-stop, something bridged and something weak: in every small world."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One slip.

    Attributes:
        row: id of the row that slipped.
        slip: what is different, in words.
        spec: the whole table with the slip; it has not been through the lint.
    """

    row: str
    slip: str
    spec: TableSpec

    @property
    def name(self) -> str:
        """Row and slip."""
        return f"{self.row} {self.slip}"


def mutants(spec: TableSpec) -> Iterator[Mutant]:
    """Every mutant of ``spec``, row by row. Times move by a factor and by the least that a tick of 2 ms shows."""
    for mode in spec.modes:
        yield from _mode(spec, mode)
    for capability in spec.capabilities:
        yield from _capability(spec, capability)
    for configuration in spec.configurations:
        yield from _configuration(spec, configuration)
    for cause in spec.causes:
        yield from _cause(spec, cause)
    for timer in spec.escalations:
        yield from _escalation(spec, timer)
    for back in spec.recoveries:
        yield from _recovery(spec, back)
    yield from _single(spec)


def refused(spec: TableSpec, period: float) -> str:
    """Why schema, lint or compiler refuse ``spec``, or ""."""
    try:
        TableSpec.model_validate(spec.model_dump(by_alias=True))
        problems = [f"{row}: {problem}" for row, problem in lint(spec)]
        if not problems:
            compile_table(spec, period)
    except (ValidationError, ModeTableError) as error:
        return str(error)
    return problems[0] if problems else ""


def small_walk(mutant: Mutant, period: float) -> Walk:
    """The walk of a mutant in the smallest world in which its row can act."""
    return walk(abstraction(mutant.spec, period, world(mutant)))


def same_steps(mutant: Mutant, period: float) -> bool:
    """Whether the engine takes the same steps as with the table on file, so that no walk can tell them apart."""
    ours, theirs = (compile_table(spec, period) for spec in (mutant.spec, load_spec(mutant.spec.strategy)))
    return all(map(np.array_equal, ours.arrays, theirs.arrays)) and ours.authority == theirs.authority


def world(mutant: Mutant) -> tuple[Cause, ...]:
    """A few causes: those of the row that slipped, what it is about, and some that are always there.

    What a strategy adds is walked with everything that it sheds and every warning that is not tolerated then; the core
    is walked without, which keeps it small.
    """
    spec, file = mutant.spec, load_spec(mutant.spec.strategy)
    own = [row.cause for row in file.causes if row.id == mutant.row]
    shedding = {row.sheds: row.cause for row in reversed(file.causes) if row.sheds}
    core = {row.id for row in load_spec("monolithic").rows()} | {"[bridge]"}
    if mutant.row in core and not any(row.sheds for row in spec.causes if row.cause in own):
        return tuple(dict.fromkeys((*own, *_COMPANY)))
    return tuple(dict.fromkeys((*own, *shedding.values(), *_warnings(mutant), Cause.ESTOP, Cause.TICK_OVERRUN)))


def _warnings(mutant: Mutant) -> tuple[Cause, ...]:
    """Warnings that the configuration in question does not tolerate, as the slip and as the file has it."""
    both = (*mutant.spec.configurations, *load_spec(mutant.spec.strategy).configurations)
    found = {cause for row in both for cause in row.intolerable if row.id == mutant.row}
    return tuple(sorted(found, key=lambda cause: cause.value))


def _mode(spec: TableSpec, row: ModeSpec) -> Iterator[Mutant]:
    yield Mutant(row.id, "dropped", _swap(spec, row, None))
    for authority in Authority:
        if authority is not row.authority:
            yield _edit(spec, row, authority=authority)
    if row.mode is Mode.CAUTIOUS:
        yield _edit(spec, row, velocity_share=1.0)
        yield _edit(spec, row, velocity_share=0.51)


def _capability(spec: TableSpec, row: CapabilitySpec) -> Iterator[Mutant]:
    yield Mutant(row.id, "dropped", _swap(spec, row, None))
    yield from _times(spec, row, "dwell_s")
    guards = () if Guard.SHADOW in row.guards else (Guard.SHADOW,)
    yield _edit(spec, row, guards=guards)


def _configuration(spec: TableSpec, row: ConfigurationSpec) -> Iterator[Mutant]:
    yield Mutant(row.id, "dropped", _swap(spec, row, None))
    yield from _times(spec, row, "stay_s")
    yield _edit(spec, row, decays=not row.decays)
    yield _edit(spec, row, velocity_share=min(1.0, 2.0 * row.velocity_share))
    yield _edit(spec, row, velocity_share=row.velocity_share + 0.01)
    for cause in row.intolerable:
        rest = tuple(other for other in row.intolerable if other is not cause)
        yield _edit(spec, row, intolerable=rest)
    weak = [one.cause for one in spec.causes if one.floor is Mode.CAUTIOUS and one.cause not in row.intolerable]
    for cause in weak:
        yield _edit(spec, row, intolerable=(*row.intolerable, cause))
    names = [one.name for one in spec.capabilities]
    for sheds in (some for size in range(len(names) + 1) for some in combinations(names, size)):
        if set(sheds) != set(row.sheds):
            yield _edit(spec, row, sheds=sheds)


def _cause(spec: TableSpec, row: CauseSpec) -> Iterator[Mutant]:
    yield Mutant(row.id, "dropped", _swap(spec, row, None))
    yield from _floors(spec, row)
    yield from _delays(spec, row)
    yield _edit(spec, row, about="policy" if row.about == "body" else "body")
    yield _edit(spec, row, clear="ack" if row.clear == "auto" else "auto")
    yield _edit(spec, row, lockout=not row.lockout)
    names = [one.name for one in spec.capabilities]
    for sheds in (some for size in range(len(names) + 1) for some in combinations(names, size)):
        if set(sheds) != set(row.sheds):
            extra = {} if not sheds else {"floor": Mode.DEGRADED, "clear": "auto"}
            yield _edit(spec, row, sheds=sheds, **extra)


def _floors(spec: TableSpec, row: CauseSpec) -> Iterator[Mutant]:
    """One mode better and one worse, and HOLD for what is shed, each with what the lint would ask for beside it."""
    modes = [Mode.NOMINAL, Mode.CAUTIOUS, Mode.HOLD, Mode.STOP, Mode.ESTOP]
    if row.sheds:
        core = next(one for one in load_spec("monolithic").causes if one.cause is row.cause)
        yield Mutant(row.id, "is the core's row", _swap(spec, row, core.model_copy(update={"id": row.id})))
        near = [Mode.CAUTIOUS, Mode.HOLD]
    else:
        rank = modes.index(row.floor)
        near = modes[max(rank - 1, 0) : rank] + modes[rank + 1 : rank + 2]
    for floor in near:
        clear = "ack" if floor >= Mode.HOLD else "auto"
        extra: dict[str, object] = {"sheds": (), "debounce_s": None} if row.sheds else {}
        yield _edit(spec, row, floor=floor, clear=clear, **extra)


def _delays(spec: TableSpec, row: CauseSpec) -> Iterator[Mutant]:
    for key in ("bridge_s", "debounce_s"):
        yield from _times(spec, row, key)
    if row.bridge_ticks is not None:
        for ticks in (row.bridge_ticks - 1, row.bridge_ticks + 1, 2 * row.bridge_ticks, None):
            yield _edit(spec, row, bridge_ticks=ticks)
    if not row.delayed:
        yield _edit(spec, row, bridge_ticks=3)
        yield _edit(spec, row, debounce_ticks=3)
    if row.bridge_s is not None:
        yield _edit(spec, row, bridge_s=None, debounce_s=row.bridge_s)
    if row.debounce_s is not None:
        yield _edit(spec, row, debounce_s=None, bridge_s=row.debounce_s)


def _escalation(spec: TableSpec, row: EscalationSpec) -> Iterator[Mutant]:
    yield Mutant(row.id, "dropped", _swap(spec, row, None))
    yield from _times(spec, row, "moving_s")
    for mode in (one.mode for one in spec.modes):
        if mode is not row.target:
            yield _edit(spec, row, target=mode)
        if mode is not row.source:
            yield _edit(spec, row, source=mode)


def _recovery(spec: TableSpec, row: RecoverySpec) -> Iterator[Mutant]:
    yield Mutant(row.id, "dropped", _swap(spec, row, None))
    yield from _times(spec, row, "dwell_s")
    if row.dwell_s is None:
        yield _edit(spec, row, dwell_ticks=1)
        yield _edit(spec, row, dwell_ticks=2)
    for guard in row.guards:
        yield _edit(spec, row, guards=tuple(other for other in row.guards if other is not guard))
    for guard in Guard:
        if guard not in row.guards:
            yield _edit(spec, row, guards=(*row.guards, guard))
    for mode in (one.mode for one in spec.modes):
        if mode is not row.target:
            yield _edit(spec, row, target=mode)
        if mode is not row.source:
            yield _edit(spec, row, source=mode)


def _single(spec: TableSpec) -> Iterator[Mutant]:
    """The rows that a table has once."""
    for key, value in (("rearm_share", 1.0), ("rearm_share", 0.0), ("drain", 2), ("fill", 3), ("fill", 5)):
        bridge = spec.bridge.model_copy(update={key: value})
        yield Mutant("[bridge]", f"{key} = {value}", spec.model_copy(update={"bridge": bridge}))
    for beyond in (spec.lockout.beyond - 1, spec.lockout.beyond + 1):
        lockout = spec.lockout.model_copy(update={"beyond": beyond})
        yield Mutant(lockout.id, f"beyond = {beyond}", spec.model_copy(update={"lockout": lockout}))
    for mode in Mode:
        if mode is not spec.takeover.floor:
            takeover = spec.takeover.model_copy(update={"floor": mode})
            yield Mutant(takeover.id, f"floor = {mode.name.lower()}", spec.model_copy(update={"takeover": takeover}))
    if spec.jog is not None:
        yield Mutant(spec.jog.id, "dropped", spec.model_copy(update={"jog": None}))
        yield from _jog(spec, spec.jog)
    if spec.flapping is not None:
        yield Mutant(spec.flapping.id, "dropped", spec.model_copy(update={"flapping": None}))
        yield from _flapping(spec, spec.flapping)


def _jog(spec: TableSpec, row: JogSpec) -> Iterator[Mutant]:
    """Shares a little larger, doubled, and all; a smaller one is only slower."""
    for key in ("velocity_share", "acceleration_share"):
        share = getattr(row, key)
        for value in (round(share + 0.01, 6), 2.0 * share, 1.0):
            yield Mutant(
                row.id, f"{key} = {value}", spec.model_copy(update={"jog": row.model_copy(update={key: value})})
            )


def _flapping(spec: TableSpec, row: FlappingSpec) -> Iterator[Mutant]:
    window = row.window_s or 0.0
    changes: list[tuple[str, object]] = [("recoveries", row.recoveries + by) for by in (-1, 1)]
    changes += [("window_s", factor * window) for factor in _FACTORS]
    changes += [("window_s", round(window + by, 6)) for by in (-_TICK, _TICK)]
    for key, value in changes:
        flapping = row.model_copy(update={key: value})
        yield Mutant(row.id, f"{key} = {value}", spec.model_copy(update={"flapping": flapping}))


_TICK: Final = 0.002


def _times(spec: TableSpec, row: Row, key: str) -> Iterator[Mutant]:
    """A time halved, doubled, shorter and longer by a tick, and dropped."""
    seconds = getattr(row, key)
    if isinstance(seconds, float):
        for other in (*(factor * seconds for factor in _FACTORS), seconds - _TICK, seconds + _TICK):
            yield _edit(spec, row, **{key: round(other, 6)})
        yield _edit(spec, row, **{key: None})


def _edit(spec: TableSpec, row: Row, **update: object) -> Mutant:
    """One row with other values, and their names and values as its slip."""
    slip = ", ".join(f"{key} = {_told(value)}" for key, value in update.items())
    return Mutant(row.id, slip, _swap(spec, row, row.model_copy(update=update)))


def _told(value: object) -> str:
    """As the file would write it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_told, value))}]"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, Mode):
        return value.name.lower()
    return str(value.value if isinstance(value, Guard | Cause | Authority) else value)


def _swap(spec: TableSpec, old: Row, new: Row | None) -> TableSpec:
    """``spec`` with ``new`` in the place of ``old``, or without it."""

    def swapped(rows: Iterable[Row]) -> tuple[Row, ...]:
        changed = (new if row is old else row for row in rows)
        return tuple(row for row in changed if row is not None)

    return spec.model_copy(update={kind: swapped(getattr(spec, kind)) for kind in _KINDS})
