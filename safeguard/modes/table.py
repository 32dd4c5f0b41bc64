"""From a table file to integers: what the engine executes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import ModeTableError
from safeguard.core.types import FULL_ENVELOPE, NS_PER_S, Envelope
from safeguard.modes.read import read_spec
from safeguard.modes.spec import CauseSpec, ConfigurationSpec, Guard, TableSpec

Ints = NDArray[np.int64]

TABLES: Final = Path(__file__).parent / "tables"
STRATEGIES: Final = ("monolithic", "modular", "vla", "dual")

CAUSE_BIT: Final[dict[Cause, int]] = {cause: 1 << i for i, cause in enumerate(Cause)}
ALL_CAUSES: Final = (1 << len(Cause)) - 1
GUARD_BIT: Final[dict[Guard, int]] = {guard: 1 << i for i, guard in enumerate(Guard)}
READY, ACK, STANDSTILL, CLEAR, DRAINED, PERSON, SHADOW = (GUARD_BIT[guard] for guard in Guard)

COMPILER: Final = ("spec", "read", "lint", "table", "state", "engine")
"""Modules that turn a table's file into decisions."""

HEAD: Final = 6
"""Numbers of a state before those of its buckets."""

# Places in ``ModeTable.numbers``; ``_Compiler.numbers`` fills them in this order.
(
    KNOWN, ESTOP_BIT, DELAYED, DEBOUNCED, FILL, DRAIN, LOCKOUT, BEYOND, LOCKOUT_ROW, WAIVED, TAKEOVER_FLOOR,
    TAKEOVER_ROW, COST, WINDOW, FLAPPING_ROW, JOG_ROW,
) = range(16)  # fmt: skip

_NEVER: Final = -1


def cause_mask(causes: Iterable[Cause]) -> int:
    """The bit mask of ``causes``, as ``ModeInputs.causes`` wants it."""
    mask = 0
    for cause in causes:
        mask |= CAUSE_BIT[cause]
    return mask


@dataclass(frozen=True, slots=True, eq=False)
class ModeTable:
    """A compiled table. Masks have one bit a cause, then one for every other row that can be a reason.

    The arrays are what ``engine.advance`` takes, in its order; columns of a row:

    Attributes:
        strategy: which strategy it is for.
        period_ns: the tick that times were converted with.
        digest: SHA-256 of the table's content and of the compiler and engine.
        rows: row id of every bit.
        names: of the capabilities, in the order of their bits.
        authority, envelope: by mode.
        jog: limits on what a person who holds the command may ask for in HOLD; None where nobody may.
        degraded: by mask of what is shed: name of the configuration and its envelopes by age, from 1 tick on.
        floors: by mode, the causes that ask for exactly it.
        buckets: of delayed causes: bit, full, re-arm level.
        escalations: by mode: target or −1, ticks, row.
        recoveries: by mode: target or −1, guards, dwell, causes that keep it from being clear, row.
        capabilities: causes that shed it, 1 if it comes back only after agreeing in shadow, dwell, row, largest age.
        configurations: by mask of what is shed: longest stay (0: not allowed), intolerable causes, row.
        numbers: see ``KNOWN`` and what follows it.
        block: the arrays in one piece, after the places where each of them begins.
        said: what the engine has said lately, by what it was told. No part of the table; it only saves time.
    """

    strategy: str
    period_ns: int
    digest: str
    rows: tuple[str, ...]
    names: tuple[str, ...]
    authority: tuple[Authority, ...]
    envelope: tuple[Envelope, ...]
    jog: Envelope | None
    degraded: tuple[tuple[str, tuple[Envelope, ...]], ...]
    floors: Ints
    buckets: Ints
    escalations: Ints
    recoveries: Ints
    capabilities: Ints
    configurations: Ints
    numbers: Ints
    block: bytes = field(init=False, repr=False)
    said: dict[tuple[int, ...], Any] = field(
        default_factory=dict[tuple[int, ...], Any], init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        begin = np.cumsum([len(self.arrays), *(array.size for array in self.arrays[:-1])])
        block = np.concatenate([begin, *map(np.ravel, self.arrays)]).astype(np.int64)
        object.__setattr__(self, "block", block.tobytes())

    @property
    def arrays(self) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints, Ints]:
        """The arrays in the order of ``engine.advance``."""
        return (
            self.floors, self.buckets, self.escalations, self.recoveries, self.capabilities, self.configurations,
            self.numbers,
        )  # fmt: skip

    @property
    def ages(self) -> int:
        """Where in a state the ages of shed capabilities begin."""
        return HEAD + len(self.buckets)

    @property
    def most_estops(self) -> int:
        """E-stops that are survived; one more is LOCKOUT."""
        return int(self.numbers[BEYOND])

    @property
    def size(self) -> int:
        """Length of a state."""
        return self.ages + 2 * len(self.capabilities)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModeTable):
            return NotImplemented
        keys = [key.name for key in fields(self) if key.compare and key.type != "Ints"]
        told = all(getattr(self, name) == getattr(other, name) for name in keys)
        return told and all(map(np.array_equal, self.arrays, other.arrays))

    def __hash__(self) -> int:
        return hash((self.digest, self.period_ns))

    def mask(self, names: Iterable[str]) -> int:
        """One bit for each capability that is named; names of none are ignored."""
        return sum(1 << self.names.index(name) for name in set(names) if name in self.names)

    def ids(self, mask: int) -> tuple[str, ...]:
        """The row ids of ``mask``, causes first."""
        found: list[str] = []
        while mask:
            low = mask & -mask
            found.append(self.rows[low.bit_length() - 1])
            mask ^= low
        return tuple(found)


def load_spec(strategy: str) -> TableSpec:
    """The content of the built-in table of ``strategy``. Raises ModeTableError."""
    if strategy not in STRATEGIES:
        raise ModeTableError(f"no mode table for strategy {strategy!r}; there are: {', '.join(sorted(STRATEGIES))}")
    return read_spec(TABLES / f"{strategy}.toml")


@cache
def compiler_digest() -> str:
    """SHA-256 of the source of what turns a table into decisions: schema, reader, lint, compiler, state, engine."""
    return source_digest(COMPILER)


def source_digest(names: Iterable[str]) -> str:
    """SHA-256 of modules of this package."""
    folder = resources.files("safeguard.modes")
    sources = [(folder / f"{name}.py").read_text("utf-8") for name in names]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def table_digest(spec: TableSpec) -> str:
    """SHA-256 over the canonical content of a table and the compiler's own digest."""
    content = json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{compiler_digest()}\n{content}".encode()).hexdigest()


class _Compiler:
    """Row numbers and ticks of one table."""

    def __init__(self, spec: TableSpec, period: float) -> None:
        if not (math.isfinite(period) and period >= 1e-6):
            raise ModeTableError(f"period must be at least 1e-6 s, got {period!r}")
        self.spec, self.period_ns = spec, round(period * NS_PER_S)
        self.causes = {row.cause: row for row in spec.causes}
        for cause in Cause:
            if cause not in self.causes:
                raise ModeTableError(f"{spec.strategy}.toml: no [[causes]] row for {cause.value!r}; add one")
        others = [
            *spec.escalations, *spec.recoveries, *spec.capabilities, *spec.configurations,
            *((spec.flapping,) if spec.flapping else ()), spec.takeover, spec.lockout,
            *((spec.jog,) if spec.jog else ()),
        ]  # fmt: skip
        self.rows = (*(self.causes[cause].id for cause in Cause), *(row.id for row in others))
        if len(self.rows) > 62:
            raise ModeTableError(f"{spec.strategy}.toml: {len(self.rows)} rows that can be reasons; 62 fit in a mask")
        self.bit = {row: 1 << i for i, row in enumerate(self.rows)}

    def ticks(self, row: str, key: str, seconds: float | None, count: int | None, *, up: bool = False) -> int:
        """Ticks in a time: a limit is rounded down and must not vanish, a dwell up.

        From the decimal that the file wrote, so that 0.3 s is three times 0.1 s.
        """
        if count is not None:
            return count
        exact = Fraction(repr(seconds or 0.0)) * NS_PER_S / self.period_ns
        found = math.ceil(exact) if up else math.floor(exact)
        if found < 1 and not up:
            raise ModeTableError(
                f"{self.spec.place(row)}: {key}_s = {seconds} is shorter than one tick of"
                f" {self.period_ns} ns; lengthen it or remove it"
            )
        return found

    def at_least(self, mode: Mode) -> int:
        """Causes that ask for ``mode`` or worse."""
        return cause_mask(row.cause for row in self.spec.causes if row.floor >= mode)

    def floors(self) -> Ints:
        return _ints([cause_mask(row.cause for row in self.spec.causes if row.floor is mode) for mode in Mode])

    def buckets(self) -> Ints:
        delayed = [row for row in self.causes.values() if row.delayed]
        return _table([self._bucket(row) for row in sorted(delayed, key=lambda row: CAUSE_BIT[row.cause])], 3)

    def _bucket(self, row: CauseSpec) -> list[int]:
        bridge = self.spec.bridge
        key, seconds, count = (
            ("debounce", row.debounce_s, row.debounce_ticks)
            if row.debounced
            else ("bridge", row.bridge_s, row.bridge_ticks)
        )
        full = bridge.fill * self.ticks(row.id, key, seconds, count)
        return [CAUSE_BIT[row.cause], full, math.floor(full * Fraction(repr(bridge.rearm_share)))]

    def escalations(self) -> Ints:
        rows = {row.source: row for row in self.spec.escalations}
        found: list[list[int]] = []
        for mode in Mode:
            row = rows.get(mode)
            found.append(
                [_NEVER, 0, 0]
                if row is None
                else [
                    row.target,
                    self.ticks(row.id, "moving", row.moving_s, row.moving_ticks),
                    self.bit[row.id],
                ]
            )
        return _table(found, 3)

    def recoveries(self) -> Ints:
        """From HOLD up, "clear" means that nothing asks for more than CAUTIOUS; below, nothing for the mode itself."""
        rows = {row.source: row for row in self.spec.recoveries}
        found: list[list[int]] = []
        for mode in Mode:
            row = rows.get(mode)
            if row is None:
                found.append([_NEVER, 0, 0, 0, 0])
                continue
            dwell = self.ticks(row.id, "dwell", row.dwell_s, row.dwell_ticks, up=True)
            blocking = self.at_least(Mode(min(row.source, Mode.DEGRADED)))
            found.append([row.target, _guards(row.guards), dwell, blocking, self.bit[row.id]])
        return _table(found, 5)

    def capabilities(self) -> Ints:
        longest = max((self._stay(row) for row in self.spec.configurations), default=0)
        return _table(
            [
                [
                    cause_mask(cause.cause for cause in self.spec.causes if row.name in cause.sheds),
                    int(Guard.SHADOW in row.guards),
                    self.ticks(row.id, "dwell", row.dwell_s, row.dwell_ticks, up=True),
                    self.bit[row.id],
                    longest + 1,
                ]
                for row in self.spec.capabilities
            ],
            5,
        )

    def _stay(self, row: ConfigurationSpec) -> int:
        return self.ticks(row.id, "stay", row.stay_s, row.stay_ticks)

    def configurations(self) -> Ints:
        found = [[0, 0, 0] for _ in range(1 << len(self.spec.capabilities))]
        for row in self.spec.configurations:
            found[self.spec.mask(row.sheds)] = [self._stay(row), cause_mask(row.intolerable), self.bit[row.id]]
        return _table(found, 3)

    def degraded(self) -> tuple[tuple[str, tuple[Envelope, ...]], ...]:
        """A configuration that decays slows down to a standstill over its stay, tick by tick."""
        found: list[tuple[str, tuple[Envelope, ...]]] = [("", ()) for _ in range(1 << len(self.spec.capabilities))]
        for row in self.spec.configurations:
            stay = self._stay(row) if row.decays else 1
            shares = [row.velocity_share * (stay - age) / stay for age in range(stay)]
            found[self.spec.mask(row.sheds)] = (
                row.name,
                tuple(Envelope(share, row.acceleration_share) for share in shares),
            )
        return tuple(found)

    def numbers(self) -> Ints:
        """In the order of ``KNOWN`` and what follows it."""
        spec, causes = self.spec, self.spec.causes
        cost, window, flapping = 0, 0, 0
        if spec.flapping is not None:
            # A bucket that holds one window and drains in one: 2 × window / cost recoveries fit in any window.
            window = self.ticks(spec.flapping.id, "window", spec.flapping.window_s, spec.flapping.window_ticks)
            cost, flapping = math.ceil(Fraction(2 * window, spec.flapping.recoveries)), self.bit[spec.flapping.id]
        return _ints(
            [
                ALL_CAUSES,
                CAUSE_BIT[Cause.ESTOP],
                cause_mask(row.cause for row in causes if row.delayed),
                cause_mask(row.cause for row in causes if row.debounced),
                spec.bridge.fill,
                spec.bridge.drain,
                cause_mask(row.cause for row in causes if row.lockout),
                spec.lockout.beyond,
                self.bit[spec.lockout.id],
                cause_mask(row.cause for row in causes if row.about == "policy"),
                spec.takeover.floor,
                self.bit[spec.takeover.id],
                cost,
                window,
                flapping,
                self.bit[spec.jog.id] if spec.jog else 0,
            ]
        )


def compile_table(spec: TableSpec, period: float) -> ModeTable:
    """``spec`` as integers for a tick of ``period`` s: limits rounded down to ticks, dwells up."""
    made = _Compiler(spec, period)
    return ModeTable(
        strategy=spec.strategy,
        period_ns=made.period_ns,
        digest=table_digest(spec),
        rows=made.rows,
        names=tuple(row.name for row in spec.capabilities),
        authority=_authorities(spec),
        envelope=_envelopes(spec),
        jog=None if spec.jog is None else Envelope(spec.jog.velocity_share, spec.jog.acceleration_share, away=True),
        degraded=made.degraded(),
        floors=made.floors(),
        buckets=made.buckets(),
        escalations=made.escalations(),
        recoveries=made.recoveries(),
        capabilities=made.capabilities(),
        configurations=made.configurations(),
        numbers=made.numbers(),
    )


def _ints(values: list[int]) -> Ints:
    made = np.array(values, dtype=np.int64)
    made.setflags(write=False)
    return made


def _table(rows: list[list[int]], columns: int) -> Ints:
    made = np.array(rows, dtype=np.int64).reshape(-1, columns)
    made.setflags(write=False)
    return made


def _guards(guards: Iterable[Guard]) -> int:
    mask = 0
    for guard in guards:
        mask |= GUARD_BIT[guard]
    return mask


def _authorities(spec: TableSpec) -> tuple[Authority, ...]:
    rows = {row.mode: row.authority for row in spec.modes}
    return tuple(rows.get(mode, Authority.NONE) for mode in Mode)


def _envelopes(spec: TableSpec) -> tuple[Envelope, ...]:
    rows = {row.mode: Envelope(row.velocity_share, row.acceleration_share) for row in spec.modes}
    return tuple(rows.get(mode, FULL_ENVELOPE) for mode in Mode)
