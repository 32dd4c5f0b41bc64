"""What a mode table file may say: its schema, and the lint that a schema cannot express."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import ModeTableError

T = TypeVar("T")

WITHOUT_DEGRADED: Final = frozenset({"monolithic"})
"""Strategies with nothing to shed."""


class Guard(Enum):
    """What a recovery may ask for."""

    READY = "ready"
    ACK = "ack"
    STANDSTILL = "standstill"
    CLEAR = "clear"
    DRAINED = "drained"


def _mode(value: object) -> object:
    """Modes are written by name; the number is an internal order."""
    if isinstance(value, Mode):
        return value
    if isinstance(value, str) and value.upper() in Mode.__members__ and value == value.lower():
        return Mode[value.upper()]
    names = ", ".join(m.name.lower() for m in Mode)
    raise ValueError(f"unknown mode {value!r}; write one of {names}")


ModeName = Annotated[Mode, BeforeValidator(_mode)]
Ticks = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Row(_Model):
    """Anything with an id that records can quote."""

    id: str


class _Move(Row):
    source: ModeName = Field(alias="from")
    target: ModeName = Field(alias="to")


class BridgeSpec(_Model):
    """The leaky buckets of bridged causes."""

    fill: Ticks
    drain: Ticks
    rearm_share: Annotated[float, Field(ge=0.0, le=1.0)]


class LockoutSpec(Row):
    """How many e-stops of a marked cause one process survives."""

    beyond: Annotated[int, Field(ge=0)]


class ModeSpec(Row):
    """One mode: who may move the body, and the envelope on proposals."""

    mode: ModeName
    authority: Authority
    velocity_share: Share = 1.0
    acceleration_share: Share = 1.0


class CauseSpec(Row):
    """One cause: the least mode it asks for, and how long it may be bridged below that."""

    cause: Cause
    floor: ModeName
    clear: Literal["auto", "ack"]
    bridge_s: Seconds | None = None
    bridge_ticks: Ticks | None = None
    lockout: bool = False

    @property
    def bridged(self) -> bool:
        """The cause fills a bucket before its floor applies."""
        return self.bridge_s is not None or self.bridge_ticks is not None


class EscalationSpec(_Move):
    """One timer: a mode that has been moving for too long gives way to a worse one."""

    moving_s: Seconds | None = None
    moving_ticks: Ticks | None = None


class RecoverySpec(_Move):
    """One way back: every guard holds, and all but ``ack`` have held for the dwell."""

    guards: tuple[Guard, ...]
    dwell_s: Seconds | None = None
    dwell_ticks: Ticks | None = None


class TableSpec(_Model):
    """A whole table file."""

    schema_version: Literal[1] = Field(alias="schema")
    strategy: str
    bridge: BridgeSpec
    lockout: LockoutSpec
    modes: tuple[ModeSpec, ...]
    causes: tuple[CauseSpec, ...]
    escalations: tuple[EscalationSpec, ...]
    recoveries: tuple[RecoverySpec, ...]

    def ids(self) -> tuple[str, ...]:
        """Every row id in file order of the kinds: modes, causes, escalations, recoveries, lockout."""
        rows: tuple[Row, ...] = (*self.modes, *self.causes, *self.escalations, *self.recoveries)
        return (*(row.id for row in rows), self.lockout.id)


def read_spec(path: Path) -> TableSpec:
    """The checked content of a table file. Raises ModeTableError naming file, line, row and fix."""
    text = path.read_text(encoding="utf-8")
    try:
        spec = TableSpec.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ModeTableError(f"{path.name}: not TOML: {error}") from error
    except ValidationError as error:
        raise ModeTableError(_schema_message(path.name, text, error)) from error
    problems = [f"{path.name}:{_line(text, row)} row {row}: {what}" for row, what in lint(spec)]
    if problems:
        raise ModeTableError("\n".join(problems))
    return spec


def _line(text: str, row: str) -> int:
    """First line that quotes ``row``; 1 where none does."""
    return next((i for i, line in enumerate(text.splitlines(), 1) if f'"{row}"' in line), 1)


def _schema_message(name: str, text: str, error: ValidationError) -> str:
    """One line a problem, with the id of the row where the row has one."""
    raw = tomllib.loads(text)
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        where: object = raw
        for part in problem["loc"][:2]:
            where = _child(where, part)
        row = _child(where, "id")
        place = f"{name}:{_line(text, row)} row {row}" if isinstance(row, str) else name
        key = ".".join(str(part) for part in problem["loc"])
        lines.append(f"{place}: {key}: {problem['msg']} (got {problem['input']!r})")
    return "\n".join(lines)


def _child(node: object, part: object) -> object:
    """``node[part]`` where that exists, else None."""
    if isinstance(node, dict):
        return cast("dict[object, object]", node).get(part)
    if isinstance(node, list) and isinstance(part, int):
        return cast("list[object]", node)[part]
    return None


Problem = tuple[str, str]


def lint(spec: TableSpec) -> Iterator[Problem]:
    """(row id, what is wrong and how to fix it) of everything the schema lets through."""
    yield from _duplicates(spec)
    yield from _modes(spec)
    for cause in spec.causes:
        yield from _cause(spec, cause)
    for timer in spec.escalations:
        yield from _escalation(spec, timer)
    for back in spec.recoveries:
        yield from _recovery(spec, back)
    yield from _unreachable(spec)


def _twice(values: Iterable[T]) -> list[T]:
    return [value for value, count in Counter(values).items() if count > 1]


def _duplicates(spec: TableSpec) -> Iterator[Problem]:
    for row in _twice(spec.ids()):
        yield str(row), "this id is used twice; give one row a new id"
    for cause in _twice(c.cause for c in spec.causes):
        rows = [c.id for c in spec.causes if c.cause is cause]
        yield rows[1], f"a second row for cause {Cause(cause).value!r} (the first is {rows[0]}); remove one"
    kinds: tuple[tuple[_Move, ...], ...] = (spec.escalations, spec.recoveries)
    for moves in kinds:
        for source in _twice(row.source for row in moves):
            last = [row.id for row in moves if row.source is source][-1]
            yield last, "can never fire: an earlier row of its kind leaves the same mode; merge the two"


def _modes(spec: TableSpec) -> Iterator[Problem]:
    present = [m.mode for m in spec.modes]
    for mode in _twice(present):
        row = [m.id for m in spec.modes if m.mode is mode][-1]
        yield row, f"mode {mode.name.lower()!r} has two rows; remove one"
    for mode in Mode:
        if mode is Mode.DEGRADED and spec.strategy in WITHOUT_DEGRADED:
            if mode in present:
                row = next(m.id for m in spec.modes if m.mode is mode)
                yield row, f"strategy {spec.strategy!r} has no degraded mode; remove the row"
        elif mode not in present and mode is not Mode.DEGRADED:
            yield spec.strategy, f"no [[modes]] row for {mode.name.lower()!r}; add one"
    for cause in Cause:
        if cause not in [c.cause for c in spec.causes]:
            yield spec.strategy, f"no [[causes]] row for {cause.value!r}; add one (law 5: missing is alarm)"
    if not any(c.lockout for c in spec.causes):
        yield spec.lockout.id, "can never fire: no cause has lockout = true; mark one or remove [lockout]"


def _cause(spec: TableSpec, row: CauseSpec) -> Iterator[Problem]:
    yield from _known(spec, row.id, row.floor)
    if row.floor is Mode.BOOT:
        yield row.id, "floor 'boot' is not a severity; take 'estop'"
    if (row.clear == "ack") != (row.floor >= Mode.HOLD):
        right = "ack" if row.floor >= Mode.HOLD else "auto"
        yield row.id, f"floor {row.floor.name.lower()!r} clears by {right!r}; write clear = {right!r}"
    if row.bridge_s is not None and row.bridge_ticks is not None:
        yield row.id, "bridge_s and bridge_ticks exclude each other; remove one"
    if row.bridged and row.floor is Mode.NOMINAL:
        yield row.id, "its floor can never fire: a bridge to 'nominal' ends where it began; remove the bridge"
    if row.lockout and row.floor is not Mode.ESTOP:
        yield row.id, "lockout = true can never fire: only causes with floor 'estop' are counted; remove it"


def _escalation(spec: TableSpec, row: EscalationSpec) -> Iterator[Problem]:
    if (row.moving_s is None) == (row.moving_ticks is None):
        yield row.id, "needs exactly one of moving_s and moving_ticks"
    if not row.source < row.target < Mode.BOOT:
        yield row.id, "can never fire: 'to' is not worse than 'from'; swap them"
    yield from _known(spec, row.id, row.source, row.target)


def _recovery(spec: TableSpec, row: RecoverySpec) -> Iterator[Problem]:
    if row.dwell_s is not None and row.dwell_ticks is not None:
        yield row.id, "dwell_s and dwell_ticks exclude each other; remove one"
    if row.source is Mode.LOCKOUT:
        yield row.id, "can never fire: lockout is absorbing; remove the row"
    if row.target >= row.source:
        yield row.id, "can never fire: 'to' is not below 'from'; swap them"
    if row.source is Mode.BOOT and row.target is not Mode.HOLD:
        yield row.id, "boot is left only to 'hold'"
    yield from _known(spec, row.id, row.source, row.target)


def _known(spec: TableSpec, row: str, *modes: Mode) -> Iterator[Problem]:
    present = [m.mode for m in spec.modes]
    for mode in modes:
        if mode not in present:
            yield row, f"{mode.name.lower()!r} is no mode of strategy {spec.strategy!r}; take another"


def _unreachable(spec: TableSpec) -> Iterator[Problem]:
    """Rows that leave a mode which nothing enters."""
    entered = {Mode.BOOT, Mode.LOCKOUT, *(c.floor for c in spec.causes if c.floor > Mode.NOMINAL)}
    rows: tuple[_Move, ...] = (*spec.recoveries, *spec.escalations)
    moves = [(row.id, row.source, row.target) for row in rows]
    for _ in moves:
        entered |= {target for _, source, target in moves if source in entered}
    for row, source, _ in moves:
        if source not in entered:
            yield row, f"can never fire: nothing enters {source.name.lower()!r}; remove the row"
