"""From a table file to integers: what the engine executes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import ModeTableError
from safeguard.core.types import FULL_ENVELOPE, NS_PER_S, Envelope
from safeguard.modes.spec import CauseSpec, EscalationSpec, Guard, RecoverySpec, TableSpec, read_spec

COMPILER_VERSION: Final = 1
"""Part of every table digest: a compiler that reads a table differently gets another number."""

TABLES: Final = Path(__file__).parent / "tables"

CAUSE_BIT: Final[dict[Cause, int]] = {cause: 1 << i for i, cause in enumerate(Cause)}
ALL_CAUSES: Final = (1 << len(Cause)) - 1
GUARD_BIT: Final[dict[Guard, int]] = {guard: 1 << i for i, guard in enumerate(Guard)}


def cause_mask(causes: Iterable[Cause]) -> int:
    """The bit mask of ``causes``, as ``ModeInputs.causes`` wants it."""
    mask = 0
    for cause in causes:
        mask |= CAUSE_BIT[cause]
    return mask


@dataclass(frozen=True, slots=True)
class Escalation:
    """Compiled timer: after ``ticks`` moving ticks in a row, ``target``."""

    target: Mode
    ticks: int
    row: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """Compiled way back. ``blocking``: causes that keep it from being clear."""

    target: Mode
    guards: int
    dwell: int
    blocking: int
    row: int


@dataclass(frozen=True, slots=True)
class ModeTable:
    """A compiled table: tuples indexed by ``Mode``; masks with one bit a cause, then one a transition.

    Attributes:
        strategy: which strategy it is for.
        period_ns: the tick that times were converted with.
        digest: SHA-256 of the table's content and the compiler version.
        rows: row id of every bit.
        floors: (mode, its causes), worst first, down to CAUTIOUS.
        at_least: causes whose floor is this mode or worse; for LOCKOUT those of ESTOP, for BOOT none.
        bridged: causes with a bucket; ``buckets`` lists their (bit, full, rearm).
    """

    strategy: str
    period_ns: int
    digest: str
    rows: tuple[str, ...]
    authority: tuple[Authority, ...]
    envelope: tuple[Envelope, ...]
    floors: tuple[tuple[Mode, int], ...]
    at_least: tuple[int, ...]
    bridged: int
    buckets: tuple[tuple[int, int, int], ...]
    fill: int
    drain: int
    escalations: tuple[Escalation | None, ...]
    recoveries: tuple[Recovery | None, ...]
    lockout: int
    lockout_beyond: int
    lockout_row: int
    empty: tuple[int, ...]

    def ids(self, mask: int) -> tuple[str, ...]:
        """The row ids of ``mask``, causes first."""
        found: list[str] = []
        while mask:
            low = mask & -mask
            found.append(self.rows[low.bit_length() - 1])
            mask ^= low
        return tuple(found)


def load_table(strategy: str, period: float = 0.002) -> ModeTable:
    """The built-in table of ``strategy`` for a tick of ``period`` s. Raises ModeTableError."""
    path = TABLES / f"{strategy}.toml"
    known = sorted(p.stem for p in TABLES.glob("*.toml"))
    if strategy not in known:
        raise ModeTableError(f"no mode table for strategy {strategy!r}; there are: {', '.join(known)}")
    return compile_table(read_spec(path), period)


def table_digest(spec: TableSpec) -> str:
    """SHA-256 over the canonical content of a table and the compiler version."""
    content = json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{COMPILER_VERSION}\n{content}".encode()).hexdigest()


def compile_table(spec: TableSpec, period: float) -> ModeTable:
    """``spec`` as integers for a tick of ``period`` s: limits rounded down to ticks, dwells up."""
    if not (math.isfinite(period) and period >= 1e-6):
        raise ModeTableError(f"period must be at least 1e-6 s, got {period!r}")
    period_ns = round(period * NS_PER_S)
    causes = sorted(spec.causes, key=lambda row: CAUSE_BIT[row.cause])
    transitions = [row.id for row in spec.escalations] + [row.id for row in spec.recoveries]
    bit = {row: 1 << (len(causes) + i) for i, row in enumerate(transitions)}
    lockout_row = 1 << (len(causes) + len(transitions))
    at_least = (*(_mask(causes, min(m, Mode.ESTOP)) for m in Mode if m is not Mode.BOOT), 0)
    bridged = [row for row in causes if row.bridged]
    return ModeTable(
        strategy=spec.strategy,
        period_ns=period_ns,
        digest=table_digest(spec),
        rows=(*(row.id for row in causes), *transitions, spec.lockout.id),
        authority=_authorities(spec),
        envelope=_envelopes(spec),
        floors=_floors(causes),
        at_least=at_least,
        bridged=cause_mask(row.cause for row in bridged),
        buckets=tuple(_bucket(spec, row, period_ns) for row in bridged),
        fill=spec.bridge.fill,
        drain=spec.bridge.drain,
        escalations=_escalations(spec, bit, period_ns),
        recoveries=_recoveries(spec, bit, period_ns, at_least),
        lockout=cause_mask(row.cause for row in causes if row.lockout),
        lockout_beyond=spec.lockout.beyond,
        lockout_row=lockout_row,
        empty=(0,) * len(bridged),
    )


def _mask(causes: Iterable[CauseSpec], least: Mode) -> int:
    return cause_mask(row.cause for row in causes if row.floor >= least)


def _floors(causes: list[CauseSpec]) -> tuple[tuple[Mode, int], ...]:
    worst_first = sorted({row.floor for row in causes} - {Mode.NOMINAL}, reverse=True)
    return tuple((m, cause_mask(row.cause for row in causes if row.floor is m)) for m in worst_first)


def _authorities(spec: TableSpec) -> tuple[Authority, ...]:
    rows = {row.mode: row.authority for row in spec.modes}
    return tuple(rows.get(mode, Authority.NONE) for mode in Mode)


def _envelopes(spec: TableSpec) -> tuple[Envelope, ...]:
    rows = {row.mode: Envelope(row.velocity_share, row.acceleration_share) for row in spec.modes}
    return tuple(rows.get(mode, FULL_ENVELOPE) for mode in Mode)


def _exact_ticks(seconds: float, period_ns: int) -> Fraction:
    """Ticks in ``seconds``, from the decimal that the file wrote, so that 0.3 s is three times 0.1 s."""
    return Fraction(repr(seconds)) * NS_PER_S / period_ns


def _bucket(spec: TableSpec, row: CauseSpec, period_ns: int) -> tuple[int, int, int]:
    ticks = row.bridge_ticks or math.floor(_exact_ticks(row.bridge_s or 0.0, period_ns))
    if ticks < 1:
        raise ModeTableError(
            f"{spec.strategy}.toml row {row.id}: bridge_s = {row.bridge_s} is shorter than one tick of"
            f" {period_ns} ns; remove the bridge or lengthen it"
        )
    full = spec.bridge.fill * ticks
    return CAUSE_BIT[row.cause], full, math.floor(full * Fraction(repr(spec.bridge.rearm_share)))


def _escalations(spec: TableSpec, bit: dict[str, int], period_ns: int) -> tuple[Escalation | None, ...]:
    rows = {row.source: _escalation(spec, row, bit[row.id], period_ns) for row in spec.escalations}
    return tuple(rows.get(mode) for mode in Mode)


def _escalation(spec: TableSpec, row: EscalationSpec, bit: int, period_ns: int) -> Escalation:
    ticks = row.moving_ticks or math.floor(_exact_ticks(row.moving_s or 0.0, period_ns))
    if ticks < 1:
        raise ModeTableError(
            f"{spec.strategy}.toml row {row.id}: moving_s = {row.moving_s} is shorter than one tick of"
            f" {period_ns} ns; lengthen it"
        )
    return Escalation(row.target, ticks, bit)


def _recoveries(
    spec: TableSpec, bit: dict[str, int], period_ns: int, at_least: tuple[int, ...]
) -> tuple[Recovery | None, ...]:
    rows = {row.source: _recovery(row, bit[row.id], period_ns, at_least) for row in spec.recoveries}
    return tuple(rows.get(mode) for mode in Mode)


def _recovery(row: RecoverySpec, bit: int, period_ns: int, at_least: tuple[int, ...]) -> Recovery:
    """From HOLD up, "clear" means that nothing asks for HOLD; below, nothing for the mode itself."""
    dwell = row.dwell_ticks or math.ceil(_exact_ticks(row.dwell_s or 0.0, period_ns))
    guards = 0
    for guard in row.guards:
        guards |= GUARD_BIT[guard]
    return Recovery(row.target, guards, dwell, at_least[min(row.source, Mode.HOLD)], bit)
