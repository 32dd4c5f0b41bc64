"""What a mode table file may say: its schema, and the lint that a schema cannot express."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import ModeTableError

T = TypeVar("T")


class Guard(Enum):
    """What a recovery may ask for."""

    READY = "ready"
    ACK = "ack"
    STANDSTILL = "standstill"
    CLEAR = "clear"
    DRAINED = "drained"
    PERSON = "person"
    SHADOW = "shadow"


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


class TakeoverSpec(Row):
    """What holds while a person is in command: causes about the policy do not count."""

    floor: ModeName


class FlappingSpec(Row):
    """How many automatic recoveries from a degraded configuration any window may have."""

    recoveries: Annotated[int, Field(ge=2)]
    window_s: Seconds | None = None
    window_ticks: Ticks | None = None


class ModeSpec(Row):
    """One mode: who may move the body, and the envelope on proposals."""

    mode: ModeName
    authority: Authority
    velocity_share: Share = 1.0
    acceleration_share: Share = 1.0


class CapabilitySpec(Row):
    """What a strategy can do without for a while, and what it takes to get it back: ``guards`` for the dwell."""

    name: str
    guards: tuple[Guard, ...] = ()
    dwell_s: Seconds | None = None
    dwell_ticks: Ticks | None = None


class ConfigurationSpec(Row):
    """What is left when ``sheds`` are gone: its envelope, its longest stay, and the warnings it does not survive."""

    name: str
    sheds: tuple[str, ...]
    velocity_share: Share
    acceleration_share: Share
    decays: bool = False
    stay_s: Seconds | None = None
    stay_ticks: Ticks | None = None
    intolerable: tuple[Cause, ...] = ()


class CauseSpec(Row):
    """One cause: the least mode it asks for, and for how long not yet.

    While a ``bridge`` lasts the backup stands in for the policy; while a ``debounce`` lasts nothing changes.
    """

    cause: Cause
    floor: ModeName
    clear: Literal["auto", "ack"]
    about: Literal["body", "policy"] = "body"
    sheds: tuple[str, ...] = ()
    bridge_s: Seconds | None = None
    bridge_ticks: Ticks | None = None
    debounce_s: Seconds | None = None
    debounce_ticks: Ticks | None = None
    lockout: bool = False

    @property
    def debounced(self) -> bool:
        """The cause may be active for a while before anything changes."""
        return self.debounce_s is not None or self.debounce_ticks is not None

    @property
    def delayed(self) -> bool:
        """The cause fills a bucket before its floor applies."""
        return self.bridge_s is not None or self.bridge_ticks is not None or self.debounced


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
    """A whole table: the core with a strategy's rows put in."""

    strategy: str
    bridge: BridgeSpec
    lockout: LockoutSpec
    takeover: TakeoverSpec
    flapping: FlappingSpec | None = None
    modes: tuple[ModeSpec, ...]
    capabilities: tuple[CapabilitySpec, ...] = ()
    configurations: tuple[ConfigurationSpec, ...] = ()
    causes: tuple[CauseSpec, ...]
    escalations: tuple[EscalationSpec, ...]
    recoveries: tuple[RecoverySpec, ...]

    def rows(self) -> tuple[Row, ...]:
        """Every row in file order of the kinds."""
        single = (self.lockout, self.takeover, *((self.flapping,) if self.flapping else ()))
        return (
            *self.modes, *self.capabilities, *self.configurations, *self.causes, *self.escalations,
            *self.recoveries, *single,
        )  # fmt: skip

    def ids(self) -> tuple[str, ...]:
        """The ids of ``rows``."""
        return tuple(row.id for row in self.rows())

    def mask(self, sheds: Iterable[str]) -> int:
        """One bit for each of the capabilities in ``sheds``, in the order of their rows; −1 if one is unknown."""
        names = [row.name for row in self.capabilities]
        wanted = list(sheds)
        return sum(1 << names.index(name) for name in dict.fromkeys(wanted)) if set(wanted) <= set(names) else -1


_CORE_ONLY: Final = ("bridge", "lockout", "takeover", "escalations")
_SCHEMA: Final = 2


def read_spec(path: Path) -> TableSpec:
    """The checked content of a strategy's file and its core. Raises ModeTableError naming file, line, row and fix."""
    own = _toml(path)
    core_name = own.pop("core", None)
    if not isinstance(core_name, str) or not isinstance(own.get("strategy"), str):
        raise ModeTableError(f'{path.name}: needs strategy = "…" and core = "core.toml"')
    core_path = path.parent / core_name
    core = _toml(core_path)
    texts = {file.name: file.read_text(encoding="utf-8") for file in (path, core_path)}
    merged = _merged(own, core, path.name, core_path.name)
    try:
        spec = TableSpec.model_validate(merged)
    except ValidationError as error:
        raise ModeTableError(_schema_message(texts, merged, error)) from error
    problems = [f"{_place(texts, row)}: {what}" for row, what in lint(spec)]
    if problems:
        raise ModeTableError("\n".join(problems))
    return spec


def _toml(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ModeTableError(f"{path.name}: not TOML: {error}") from error
    except OSError as error:
        raise ModeTableError(f"{path.name}: cannot be read: {error}") from error
    if content.pop("schema", None) != _SCHEMA:
        raise ModeTableError(f"{path.name}: schema must be {_SCHEMA}")
    return content


def _merged(own: dict[str, Any], core: dict[str, Any], name: str, core_name: str) -> dict[str, Any]:
    """The core with a strategy's rows added; a cause of the strategy replaces the core's row for it."""
    clash = sorted(set(own) & set(_CORE_ONLY))
    if clash or "strategy" in core:
        what = f"{name}: [{clash[0]}] belongs" if clash else f"{core_name}: strategy does not belong"
        raise ModeTableError(f"{what} to {core_name}; move it" if clash else f"{what} in a core; remove it")
    merged = {**core, **{key: value for key, value in own.items() if not isinstance(value, list)}}
    replaced = {row.get("cause") for row in _rows(own, "causes")}
    kept = [row for row in _rows(core, "causes") if row.get("cause") not in replaced]
    for key in sorted({key for part in (own, core) for key, value in part.items() if isinstance(value, list)}):
        merged[key] = [*(kept if key == "causes" else _rows(core, key)), *_rows(own, key)]
    return merged


def _rows(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = content.get(key, [])
    if not isinstance(rows, list):
        return []
    return [cast("dict[str, Any]", row) for row in cast("list[object]", rows) if isinstance(row, dict)]


def _place(texts: Mapping[str, str], row: str) -> str:
    """``file:line row id`` of the first line that quotes ``row``; the strategy's file where none does."""
    for name, text in texts.items():
        for i, line in enumerate(text.splitlines(), 1):
            if f'"{row}"' in line:
                return f"{name}:{i} row {row}"
    return f"{next(iter(texts))}:1 row {row}"


def _schema_message(texts: Mapping[str, str], raw: dict[str, Any], error: ValidationError) -> str:
    """One line a problem, with the id of the row where the row has one."""
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        where: object = raw
        for part in problem["loc"][:2]:
            found = _child(where, part)
            where = cast("object", found) if isinstance(found, dict | list) else where
        row = _child(where, "id")
        place = _place(texts, row) if isinstance(row, str) else next(iter(texts))
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
    yield from _degraded(spec)
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
        if mode not in present and mode is not Mode.DEGRADED:
            yield spec.strategy, f"no [[modes]] row for {mode.name.lower()!r}; add one"
    for cause in Cause:
        if cause not in [c.cause for c in spec.causes]:
            yield spec.strategy, f"no [[causes]] row for {cause.value!r}; add one (law 5: missing is alarm)"
    if not any(c.lockout for c in spec.causes):
        yield spec.lockout.id, "can never fire: no cause has lockout = true; mark one or remove [lockout]"


def _degraded(spec: TableSpec) -> Iterator[Problem]:
    """What can be shed, what is left then, and who asks for it."""
    row = next((m.id for m in spec.modes if m.mode is Mode.DEGRADED), None)
    if not spec.configurations:
        for extra in (*((row,) if row else ()), *(c.id for c in spec.capabilities), *_flapping_id(spec)):
            yield extra, "there is no [[configurations]] row, so nothing can be degraded; remove this or add one"
        return
    if row is None:
        yield spec.configurations[0].id, "a configuration needs a [[modes]] row for 'degraded'; add one"
    if spec.flapping is None:
        yield spec.configurations[0].id, "a configuration needs [flapping]: recoveries and window_s; add it"
    elif (spec.flapping.window_s is None) == (spec.flapping.window_ticks is None):
        yield spec.flapping.id, "needs exactly one of window_s and window_ticks"
    for name in _twice(c.name for c in spec.capabilities):
        yield [c.id for c in spec.capabilities if c.name == name][-1], f"capability {name!r} has two rows; remove one"
    for mask in _twice(spec.mask(c.sheds) for c in spec.configurations):
        last = [c.id for c in spec.configurations if spec.mask(c.sheds) == mask][-1]
        yield last, "sheds what another configuration sheds; merge the two"
    for capability in spec.capabilities:
        yield from _capability(spec, capability)
    for configuration in spec.configurations:
        yield from _configuration(spec, configuration)


def _flapping_id(spec: TableSpec) -> tuple[str, ...]:
    return () if spec.flapping is None else (spec.flapping.id,)


def _capability(spec: TableSpec, row: CapabilitySpec) -> Iterator[Problem]:
    if not any(row.name in cause.sheds for cause in spec.causes):
        yield row.id, f"no cause sheds {row.name!r}; remove the row"
    if (row.dwell_s is None) == (row.dwell_ticks is None):
        yield row.id, "needs exactly one of dwell_s and dwell_ticks"
    for guard in row.guards:
        if guard is not Guard.SHADOW:
            yield row.id, f"guard {guard.value!r} does not apply to a capability; the only one is 'shadow'"


def _configuration(spec: TableSpec, row: ConfigurationSpec) -> Iterator[Problem]:
    mask = spec.mask(row.sheds)
    if mask <= 0:
        known = ", ".join(repr(c.name) for c in spec.capabilities)
        yield row.id, f"sheds {list(row.sheds)} must name capabilities of this table: {known or 'there are none'}"
        return
    if (row.stay_s is None) == (row.stay_ticks is None):
        yield row.id, "needs exactly one of stay_s and stay_ticks: a degraded stay is bounded"
    for other in spec.configurations:
        less = spec.mask(other.sheds)
        if 0 < less != mask and less & mask == less and not set(other.intolerable) <= set(row.intolerable):
            yield row.id, f"tolerates what {other.id}, which sheds less, does not; add it to intolerable"
    for one in range(len(spec.capabilities)):
        if mask >> one & 1 and mask != 1 << one and all(spec.mask(c.sheds) != 1 << one for c in spec.configurations):
            yield row.id, f"sheds {spec.capabilities[one].name!r}, which has no configuration of its own; add one"


def _cause(spec: TableSpec, row: CauseSpec) -> Iterator[Problem]:
    yield from _known(spec, row.id, row.floor)
    if row.floor is Mode.BOOT:
        yield row.id, "floor 'boot' is not a severity; take 'estop'"
    if (row.clear == "ack") != (row.floor >= Mode.HOLD):
        right = "ack" if row.floor >= Mode.HOLD else "auto"
        yield row.id, f"floor {row.floor.name.lower()!r} clears by {right!r}; write clear = {right!r}"
    if sum(x is not None for x in (row.bridge_s, row.bridge_ticks, row.debounce_s, row.debounce_ticks)) > 1:
        yield row.id, "bridge_s, bridge_ticks, debounce_s and debounce_ticks exclude each other; keep one"
    if row.delayed and row.floor is Mode.NOMINAL:
        yield row.id, "its floor can never fire: a bridge to 'nominal' ends where it began; remove the bridge"
    if row.debounced and row.floor is not Mode.DEGRADED:
        yield row.id, "only what is shed may be debounced: elsewhere the backup has to stand in; write a bridge"
    if row.lockout and row.floor is not Mode.ESTOP:
        yield row.id, "lockout = true can never fire: only causes with floor 'estop' are counted; remove it"
    if (row.floor is Mode.DEGRADED) != (spec.mask(row.sheds) > 0):
        yield row.id, "floor 'degraded' and sheds = [known capabilities] belong together"
    if row.floor is Mode.DEGRADED and row.about != "policy":
        yield row.id, "only causes about the policy can be shed; write about = 'policy'"


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
    if row.source is Mode.DEGRADED and row.guards != (Guard.PERSON,):
        yield row.id, "'degraded' is left by getting back what was shed, or by guards = ['person']"
    if Guard.SHADOW in row.guards:
        yield row.id, "guard 'shadow' belongs to a capability; remove it"
    yield from _known(spec, row.id, row.source, row.target)


def _known(spec: TableSpec, row: str, *modes: Mode) -> Iterator[Problem]:
    present = [m.mode for m in spec.modes]
    for mode in modes:
        if mode not in present:
            yield row, f"{mode.name.lower()!r} is no mode of strategy {spec.strategy!r}; take another"


def _unreachable(spec: TableSpec) -> Iterator[Problem]:
    """Rows that leave a mode which nothing enters."""
    entered = {Mode.BOOT, Mode.LOCKOUT, Mode.CAUTIOUS, *(c.floor for c in spec.causes if c.floor > Mode.NOMINAL)}
    rows: tuple[_Move, ...] = (*spec.recoveries, *spec.escalations)
    moves = [(row.id, row.source, row.target) for row in rows]
    for _ in moves:
        entered |= {target for _, source, target in moves if source in entered}
    for row, source, _ in moves:
        if source not in entered:
            yield row, f"can never fire: nothing enters {source.name.lower()!r}; remove the row"
