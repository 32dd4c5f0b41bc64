"""Tables with one slip each: what the properties and the lint must be able to tell from the real one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from safeguard.core.enums import Authority, Mode
from safeguard.modes.spec import CauseSpec, ModeSpec, RecoverySpec, Row, TableSpec

Mutant: TypeAlias = tuple[str, TableSpec]


def mutants(spec: TableSpec) -> Iterator[Mutant]:
    """(what was changed, the changed table), one slip each. They have not been through the lint."""
    for mode in spec.modes:
        yield from _mode(spec, mode)
    for cause in spec.causes:
        yield from _cause(spec, cause)
    for timer in spec.escalations:
        yield f"{timer.id} dropped", _swap(spec, timer, None)
        for factor in (0.5, 2.0):
            moving = (timer.moving_s or 0.0) * factor
            yield f"{timer.id} moving_s = {moving}", _edit(spec, timer, moving_s=moving)
    for back in spec.recoveries:
        yield from _recovery(spec, back)
    for name, value in (("rearm_share", 1.0), ("rearm_share", 0.0), ("drain", 2), ("fill", 3)):
        bridge = spec.bridge.model_copy(update={name: value})
        yield f"[bridge] {name} = {value}", spec.model_copy(update={"bridge": bridge})
    for beyond in (spec.lockout.beyond - 1, spec.lockout.beyond + 1):
        lockout = spec.lockout.model_copy(update={"beyond": beyond})
        yield f"{spec.lockout.id} beyond = {beyond}", spec.model_copy(update={"lockout": lockout})


def _mode(spec: TableSpec, row: ModeSpec) -> Iterator[Mutant]:
    for authority in Authority:
        if authority is not row.authority:
            yield f"{row.id} authority = {authority.value}", _edit(spec, row, authority=authority)
    if row.velocity_share < 1.0:
        yield f"{row.id} at full speed", _edit(spec, row, velocity_share=1.0)


def _cause(spec: TableSpec, row: CauseSpec) -> Iterator[Mutant]:
    modes = sorted(mode.mode for mode in spec.modes if mode.mode < Mode.LOCKOUT)
    rank = modes.index(row.floor)
    if rank > 0:
        yield f"{row.id} floor -1", _refloor(spec, row, modes[rank - 1])
    if rank + 1 < len(modes):
        yield f"{row.id} floor +1", _refloor(spec, row, modes[rank + 1])
    if row.bridge_s is not None:
        yield f"{row.id} bridge x2", _edit(spec, row, bridge_s=2.0 * row.bridge_s)
    if row.bridge_ticks is not None:
        yield f"{row.id} bridge +1", _edit(spec, row, bridge_ticks=row.bridge_ticks + 1)
        yield f"{row.id} bridge x2", _edit(spec, row, bridge_ticks=2 * row.bridge_ticks)
    if row.bridged:
        yield f"{row.id} bridge dropped", _edit(spec, row, bridge_s=None, bridge_ticks=None)
    else:
        yield f"{row.id} bridge added", _edit(spec, row, bridge_ticks=3)
    yield f"{row.id} lockout flipped", _edit(spec, row, lockout=not row.lockout)


def _refloor(spec: TableSpec, row: CauseSpec, floor: Mode) -> TableSpec:
    """The floor moved, with the clear condition that the lint would ask for."""
    return _edit(spec, row, floor=floor, clear="ack" if floor >= Mode.HOLD else "auto")


def _recovery(spec: TableSpec, row: RecoverySpec) -> Iterator[Mutant]:
    yield f"{row.id} dropped", _swap(spec, row, None)
    for guard in row.guards:
        rest = tuple(other for other in row.guards if other is not guard)
        yield f"{row.id} without {guard.value}", _edit(spec, row, guards=rest)
    if row.dwell_s is not None:
        for dwell in (None, 0.5 * row.dwell_s, row.dwell_s - 0.002, row.dwell_s + 0.002, 2.0 * row.dwell_s):
            yield f"{row.id} dwell_s = {dwell}", _edit(spec, row, dwell_s=dwell)
    for mode in spec.modes:
        if mode.mode < row.source and mode.mode is not row.target:
            yield f"{row.id} to {mode.mode.name.lower()}", _edit(spec, row, target=mode.mode)


def _edit(spec: TableSpec, row: Row, **update: object) -> TableSpec:
    return _swap(spec, row, row.model_copy(update=update))


def _swap(spec: TableSpec, old: Row, new: Row | None) -> TableSpec:
    """``spec`` with ``new`` in the place of ``old``, or without it."""

    def swapped(rows: Iterable[Row]) -> tuple[Row, ...]:
        changed = (new if row is old else row for row in rows)
        return tuple(row for row in changed if row is not None)

    update = {
        "modes": swapped(spec.modes),
        "causes": swapped(spec.causes),
        "escalations": swapped(spec.escalations),
        "recoveries": swapped(spec.recoveries),
    }
    return spec.model_copy(update=update)
