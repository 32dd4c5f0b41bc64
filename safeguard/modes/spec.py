"""What a mode table may say: the schema of its rows. ``read`` has the files, ``lint`` what a schema cannot express."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from safeguard.core.enums import Authority, Cause, Mode


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


class MoveSpec(Row):
    """Anything that leads from one mode to another."""

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


class JogSpec(Row):
    """How fast a person who holds the command may move the body in HOLD, away from what is near."""

    velocity_share: Share
    acceleration_share: Share


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


class EscalationSpec(MoveSpec):
    """One timer: a mode that has been moving for too long gives way to a worse one."""

    moving_s: Seconds | None = None
    moving_ticks: Ticks | None = None


class RecoverySpec(MoveSpec):
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
    jog: JogSpec | None = None
    flapping: FlappingSpec | None = None
    modes: tuple[ModeSpec, ...]
    capabilities: tuple[CapabilitySpec, ...] = ()
    configurations: tuple[ConfigurationSpec, ...] = ()
    causes: tuple[CauseSpec, ...]
    escalations: tuple[EscalationSpec, ...]
    recoveries: tuple[RecoverySpec, ...]
    _places: Mapping[str, str] = PrivateAttr(default_factory=dict[str, str])

    def placed(self, places: Mapping[str, str]) -> Self:
        """The same table, with ``file:line`` of its rows by id."""
        made = self.model_copy()
        made._places = places
        return made

    def place(self, row: str) -> str:
        """Where a row is, for messages: ``file:line row id``, without a line if the table comes from no file."""
        return f"{self._places.get(row, f'{self.strategy}.toml')} row {row}"

    def rows(self) -> tuple[Row, ...]:
        """Every row in file order of the kinds."""
        single = (row for row in (self.lockout, self.takeover, self.jog, self.flapping) if row is not None)
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
