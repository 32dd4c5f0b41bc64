"""What is wrong with a mode table that fits the schema: rows that contradict each other, say nothing or never fire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.modes.spec import (
    CapabilitySpec,
    CauseSpec,
    ConfigurationSpec,
    EscalationSpec,
    Guard,
    MoveSpec,
    RecoverySpec,
    TableSpec,
)

T = TypeVar("T")
Problem = tuple[str, str]

_STOPPED: Final = frozenset({Guard.ACK, Guard.STANDSTILL, Guard.CLEAR, Guard.DRAINED})
_GUARDS: Final = {
    Mode.BOOT: frozenset({Guard.READY}),  # what is ready stays ready: later it says nothing
    Mode.CAUTIOUS: frozenset({Guard.CLEAR}),  # nothing has stopped, so nobody has to ask; buckets drain in the dwell
    Mode.DEGRADED: frozenset({Guard.PERSON}),  # capabilities come back by themselves
    Mode.HOLD: _STOPPED,
    Mode.STOP: _STOPPED,
    Mode.ESTOP: _STOPPED,
}
"""What may be asked for to leave a mode; whether all of it is, is the walk's to say."""


def lint(spec: TableSpec) -> Iterator[Problem]:
    """(row id, what is wrong and how to fix it) of everything the schema lets through."""
    yield from _duplicates(spec)
    yield from _modes(spec)
    yield from _degraded(spec)
    yield from _jog(spec)
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
        yield row, "this id is used twice; give one row a new id"
    for cause in _twice(c.cause for c in spec.causes):
        rows = [c.id for c in spec.causes if c.cause is cause]
        yield rows[1], f"a second row for cause {Cause(cause).value!r} (the first is {rows[0]}); remove one"
    kinds: tuple[tuple[MoveSpec, ...], ...] = (spec.escalations, spec.recoveries)
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


def _jog(spec: TableSpec) -> Iterator[Problem]:
    """Jogging is no wider than what the policy may do in CAUTIOUS; nobody but [jog] gives a person the body."""
    for row in spec.modes:
        if row.authority is Authority.OPERATOR:
            yield row.id, "authority 'operator' belongs to no mode: a person moves the body by [jog] only; take another"
        if spec.jog is None or row.mode is not Mode.CAUTIOUS:
            continue
        for key in ("velocity_share", "acceleration_share"):
            mine, most = getattr(spec.jog, key), getattr(row, key)
            if mine > most:
                yield spec.jog.id, f"{key} = {mine:g} is more than the {most:g} of 'cautious' ({row.id}); lower it"


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
    if not any(row.name in configuration.sheds for configuration in spec.configurations):
        yield row.id, f"can never be shed: no configuration is without {row.name!r}; add one or remove the row"
    if (row.dwell_s is None) == (row.dwell_ticks is None):
        yield row.id, "needs exactly one of dwell_s and dwell_ticks"
    for guard in row.guards:
        if guard is not Guard.SHADOW:
            yield row.id, f"guard {guard.value!r} does not apply to a capability; the only one is 'shadow'"


def _sheds(spec: TableSpec, row: str, sheds: tuple[str, ...]) -> Iterator[Problem]:
    """Names of nothing, or twice the same."""
    names = [capability.name for capability in spec.capabilities]
    known = ", ".join(map(repr, names)) or "there are none"
    for name in sheds:
        if name not in names:
            yield row, f"sheds {name!r} must name a capability of this table: {known}"
    for name in _twice(sheds):
        yield row, f"sheds {name!r} twice; remove one"


def _configuration(spec: TableSpec, row: ConfigurationSpec) -> Iterator[Problem]:
    mask = spec.mask(row.sheds)
    if not row.sheds:
        yield row.id, "sheds = [] is the whole strategy: name what is missing, or remove the row"
    yield from _sheds(spec, row.id, row.sheds)
    if mask <= 0:
        return
    if (row.stay_s is None) == (row.stay_ticks is None):
        yield row.id, "needs exactly one of stay_s and stay_ticks: a degraded stay is bounded"
    strong = {cause.cause: cause.floor for cause in spec.causes if cause.floor >= Mode.HOLD}
    for cause in row.intolerable:
        if cause in strong:
            yield row.id, f"intolerable {cause.value!r} says nothing: it asks for {strong[cause].name.lower()!r} anyway"
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
    if (row.floor is Mode.DEGRADED) != bool(row.sheds):
        yield row.id, "floor 'degraded' and sheds = [known capabilities] belong together"
    yield from _sheds(spec, row.id, row.sheds)
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
    yield from _guards(row)
    yield from _known(spec, row.id, row.source, row.target)


def _guards(row: RecoverySpec) -> Iterator[Problem]:
    """Guards that say nothing where they stand."""
    allowed = _GUARDS.get(row.source, frozenset(Guard))
    for guard in row.guards:
        if guard is Guard.SHADOW:
            yield row.id, "guard 'shadow' belongs to a capability; remove it"
        elif guard not in allowed:
            known = ", ".join(repr(one.value) for one in Guard if one in allowed)
            yield (
                row.id,
                f"guard {guard.value!r} says nothing in {row.source.name.lower()!r}; take one of: {known}",
            )
    for guard in _twice(row.guards):
        yield row.id, f"guard {guard.value!r} is there twice; remove one"


def _known(spec: TableSpec, row: str, *modes: Mode) -> Iterator[Problem]:
    present = [m.mode for m in spec.modes]
    for mode in modes:
        if mode not in present:
            yield row, f"{mode.name.lower()!r} is no mode of strategy {spec.strategy!r}; take another"


def _unreachable(spec: TableSpec) -> Iterator[Problem]:
    """Rows that leave a mode which nothing enters."""
    entered = {Mode.BOOT, Mode.LOCKOUT, Mode.CAUTIOUS, *(c.floor for c in spec.causes if c.floor > Mode.NOMINAL)}
    rows: tuple[MoveSpec, ...] = (*spec.recoveries, *spec.escalations)
    moves = [(row.id, row.source, row.target) for row in rows]
    for _ in moves:
        entered |= {target for _, source, target in moves if source in entered}
    for row, source, _ in moves:
        if source not in entered:
            yield row, f"can never fire: nothing enters {source.name.lower()!r}; remove the row"
