"""The rows of a mode table as a Promela machine: what spin runs instead of the engine.

Written from the rows, not from what the compiler made of them, and in another form than ``engine.advance``: the next
mode is the worst of where timers and recoveries lead, of the floors of all causes, and of what the missing
capabilities leave. Times must be small and in ticks; ``requirements.abstract`` makes them so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Final

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import ModeTableError
from safeguard.modes.spec import CauseSpec, ConfigurationSpec, Guard, RecoverySpec, TableSpec

WHO: Final = {
    Authority.POLICY: "POLICY",
    Authority.BACKUP: "BACKUP",
    Authority.NONE: "NOBODY",
    Authority.OPERATOR: "OPERATOR",
}
"""Who moves the body, as the model calls them."""


def identifier(text: str) -> str:
    """``text`` as a name in the model."""
    return re.sub(r"\W", "_", text)


def any_of(terms: Iterable[str]) -> str:
    """At least one of ``terms``."""
    return " || ".join(terms) or "false"


def all_of(terms: Iterable[str]) -> str:
    """All of ``terms``."""
    return " && ".join(terms) or "true"


def counter(limit: int) -> str:
    """The smallest type that counts up to ``limit``."""
    return "byte" if limit <= 255 else "short" if limit < 1 << 15 else "int"


def up(name: str, limit: int, by: int = 1) -> str:
    """``name`` plus ``by``, at most ``limit``."""
    return f"({name} + {by} < {limit} -> {name} + {by} : {limit})"


def down(name: str, by: int = 1) -> str:
    """``name`` minus ``by``, at least 0."""
    return f"({name} > {by} -> {name} - {by} : 0)"


class Machine:
    """The rows of a table as Promela."""

    def __init__(self, spec: TableSpec, causes: tuple[Cause, ...]) -> None:
        rows = {row.cause: row for row in spec.causes}
        self.spec, self.causes = spec, [rows[cause] for cause in causes]
        self.delayed = [row for row in self.causes if row.delayed]
        self.names = [identifier(row.name) for row in spec.capabilities]
        self.configurations = list(spec.configurations)

    # -- numbers of rows ------------------------------------------------------------------------------------

    def _ticks(self, row: str, *counts: int | None, unset: bool) -> int:
        """The one count that is given; 0 where a row has no time at all."""
        for count in counts:
            if count is not None:
                return count
        if unset:
            return 0
        raise ModeTableError(f"{self.spec.strategy}.toml row {row}: a model needs ticks, not seconds; scale the table")

    def _full(self, row: CauseSpec) -> int:
        """Level at which the floor of a delayed cause applies."""
        return self.spec.bridge.fill * self._ticks(row.id, row.bridge_ticks, row.debounce_ticks, unset=False)

    def _rearm(self, row: CauseSpec) -> int:
        """Level from which an acknowledgement counts again."""
        return math.floor(self._full(row) * Fraction(repr(self.spec.bridge.rearm_share)))

    def _dwell(self, row: RecoverySpec) -> int:
        return self._ticks(row.id, row.dwell_ticks, unset=row.dwell_s is None)

    def _stay(self, row: ConfigurationSpec) -> int:
        return self._ticks(row.id, row.stay_ticks, unset=False)

    @property
    def _window(self) -> int:
        row = self.spec.flapping
        return 0 if row is None else self._ticks(row.id, row.window_ticks, unset=False)

    @property
    def _cost(self) -> int:
        """A budget of one window that is paid back tick by tick has room for 2 window/cost recoveries."""
        row = self.spec.flapping
        return 0 if row is None else -(-2 * self._window // row.recoveries)

    def _members(self, row: ConfigurationSpec) -> list[str]:
        return [identifier(name) for name in row.sheds]

    # -- variables --------------------------------------------------------------------------------------------

    def inputs(self) -> list[str]:
        """What the environment chooses in every tick."""
        parts = [f"{kind}_{name}" for kind in ("shadow", "available") for name in self.names]
        return [*(row.cause.value for row in self.causes), "ack", "standstill", "ready", "person", *parts]

    def memory(self) -> list[tuple[str, int, int]]:
        """(name, largest value, first value) of what lasts from tick to tick."""
        stays = [(identifier(row.id), self._stay(row)) for row in self.configurations]
        dwells = [self._ticks(row.id, row.dwell_ticks, unset=False) for row in self.spec.capabilities]
        return [
            ("mode", Mode.BOOT, Mode.BOOT),
            ("held", 1, 1),
            ("calm", max((self._dwell(row) for row in self.spec.recoveries), default=0), 0),
            ("moving", max((row.moving_ticks or 0 for row in self.spec.escalations), default=0), 0),
            ("estops", self.spec.lockout.beyond + 1, 0),
            ("credit", self._window + (len(self.names) + 1) * self._cost, 0),
            *((f"level_{row.cause.value}", self._full(row), 0) for row in self.delayed),
            *((f"since_{row}", stay + 1, 0) for row, stay in stays),
            *((f"gone_{name}", 1, 0) for name in self.names),
            *((f"fit_{name}", dwell, 0) for name, dwell in zip(self.names, dwells, strict=True)),
        ]

    def variables(self) -> list[str]:
        """Declarations: what lasts is part of the state, everything else is worked out anew in every tick."""
        worked_out = [
            *(f"{kind}_{row.cause.value}" for row in self.causes for kind in ("on", "due")),
            *(f"{kind}_{name}" for name in self.names for kind in ("was", "well", "ripe")),
            *(f"bears_{identifier(row.id)}" for row in self.configurations),
            "edge", "drained", "expired", "shut", "lost", "endured", "handed_over",
        ]  # fmt: skip
        return [
            *(f"{counter(most)} {name} = {first};" for name, most, first in self.memory()),
            *(f"hidden byte {name};" for name in (*self.inputs(), *worked_out)),
            *(f"hidden byte {name};" for name in ("before", "rest", "asks", "next", "who")),
        ]

    # -- one tick ---------------------------------------------------------------------------------------------

    def tick(self) -> list[str]:
        """Statements in the order in which a table is read."""
        return [
            "before = mode; edge = ack && !held; held = ack; rest = mode;",
            *(line for row in self.causes for line in self._cause(row)),
            f"drained = {all_of(f'level_{row.cause.value} <= {self._rearm(row)}' for row in self.delayed)};",
            *self._escalations(),
            *self._recoveries(),
            *self._floor(),
            *self._missing(),
            *self._configurations(),
            *self._returns(),
            *self._next(),
            *self._authority(),
        ]

    def _cause(self, row: CauseSpec) -> list[str]:
        name, bridge = row.cause.value, self.spec.bridge
        here = f"on_{name} = {name}{' && !person' if row.about == 'policy' else ''};"
        if not row.delayed:
            return [f"{here} due_{name} = on_{name}; /* {row.id} */"]
        level, full = f"level_{name}", self._full(row)
        return [
            f"{here} /* {row.id} */",
            f"{level} = (on_{name} -> {up(level, full, bridge.fill)} : {down(level, bridge.drain)});",
            f"due_{name} = on_{name} && {level} == {full};",
        ]

    def _escalations(self) -> list[str]:
        rows = [
            f":: mode == {row.source.name} && !standstill -> moving = moving + 1;"
            f" expired = moving >= {self._ticks(row.id, row.moving_ticks, unset=False)};"
            f" rest = (expired -> {row.target.name} : rest) /* {row.id} */"
            for row in self.spec.escalations
        ]
        return ["expired = false;", "if", *rows, ":: else -> moving = 0", "fi;"]

    def _recoveries(self) -> list[str]:
        found = ["if"]
        for row in self.spec.recoveries:
            dwell = self._dwell(row)
            guards = all_of(self._guard(row, guard) for guard in row.guards if guard is not Guard.ACK)
            calm = f"calm = {up('calm', dwell)};" if dwell else "calm = 0;"
            when = f"calm >= {dwell}{' && edge' if Guard.ACK in row.guards else ''}"
            found += [
                f":: mode == {row.source.name} && !expired && {guards} -> {calm}"
                f" rest = ({when} -> {row.target.name} : rest) /* {row.id} */"
            ]
        return [*found, ":: else -> calm = 0", "fi;"]

    def _guard(self, row: RecoverySpec, guard: Guard) -> str:
        """From hold up "clear" means that nothing asks for more than cautious; below, nothing for the mode itself."""
        if guard is not Guard.CLEAR:
            return str(guard.value)
        least = Mode.DEGRADED if row.source >= Mode.HOLD else row.source
        return f"!({any_of(f'on_{one.cause.value}' for one in self.causes if one.floor >= least)})"

    def _floor(self) -> list[str]:
        floor = self.spec.takeover.floor.name
        return [
            f"asks = (person -> {floor} : NOMINAL); /* {self.spec.takeover.id} */",
            *(
                f"asks = (due_{row.cause.value} && asks < {row.floor.name} -> {row.floor.name} : asks);"
                for row in self.causes
            ),
        ]

    def _missing(self) -> list[str]:
        """What is asked for is gone, unless a person has taken over; what has been well for its dwell is fit."""
        found = ["handed_over = mode == DEGRADED && rest != DEGRADED;"] if self.names else []
        for name, row in zip(self.names, self.spec.capabilities, strict=True):
            shedding = [one.cause.value for one in self.causes if row.name in one.sheds]
            asked, ailing = (any_of(f"{kind}_{cause}" for cause in shedding) for kind in ("due", "on"))
            dwell = self._ticks(row.id, row.dwell_ticks, unset=False)
            agrees = f" && shadow_{name}" if Guard.SHADOW in row.guards else ""
            found += [
                f"was_{name} = gone_{name}; gone_{name} = ({asked} || was_{name}) && !handed_over; /* {row.id} */",
                f"well_{name} = was_{name} && !({ailing}){agrees};",
                f"fit_{name} = (well_{name} -> {up(f'fit_{name}', dwell)} : 0);",
                f"ripe_{name} = well_{name} && fit_{name} >= {dwell};",
            ]
        return found

    def _configurations(self) -> list[str]:
        """A configuration lasts while all it sheds is gone, and bounds whatever sheds as much or more."""
        found: list[str] = []
        for row in self.configurations:
            since, members = f"since_{identifier(row.id)}", self._members(row)
            found.append(f"{since} = ({all_of(f'gone_{name}' for name in members)} -> {since} + 1 : 0);")
        for row in self.configurations:
            members = self._members(row)
            within = [one for one in self.configurations if set(one.sheds) <= set(row.sheds)]
            warned = any_of(f"due_{one.cause.value}" for one in self.causes if one.cause in row.intolerable)
            bears = [f"since_{identifier(one.id)} <= {self._stay(one)}" for one in within]
            bears += [f"available_{name}" for name in members] + [f"!({warned})"]
            found.append(f"bears_{identifier(row.id)} = {all_of(bears)}; /* {row.id} */")
        return found

    def _going_on(self, paid: int, besides: str = "") -> str:
        """What is missing but for ``besides`` is exactly a configuration, it bears, and its return can be paid for."""
        found: list[str] = []
        for row in self.configurations:
            members = self._members(row)
            if besides not in members:
                others = [f"!gone_{name}" for name in self.names if name not in members and name != besides]
                price = f"credit + {self._cost * (paid + len(members))} <= {self._window}"
                gone = [f"gone_{name}" for name in members]
                found.append(f"({all_of([f'bears_{identifier(row.id)}', *gone, *others, price])})")
        return any_of(found)

    def _returns(self) -> list[str]:
        """The first that is fit comes back, if the body can go on without the rest; every other one begins anew."""
        if not self.names:
            return []
        found = [f"credit = {down('credit')}; shut = rest > DEGRADED || asks > DEGRADED;"]
        for name in self.names:
            alone = all_of(f"!gone_{other}" for other in self.names if other != name)
            found.append(f"ripe_{name} = ripe_{name} && gone_{name} && (({alone}) || {self._going_on(1, name)});")
        return [
            *found,
            *(f"if :: ripe_{name} && !shut -> gone_{name} = false; shut = true; {self._paid()} :: else fi;"
              for name in self.names),
            f"lost = {any_of(f'gone_{name}' for name in self.names)};",
            f"endured = {self._going_on(0)};",
        ]  # fmt: skip

    def _paid(self) -> str:
        """A return costs, and whatever is still missing has to prove itself from the start."""
        anew = [f"fit_{name} = 0;" for name in self.names]
        shorter = [
            f"since_{identifier(row.id)} = ({all_of(f'gone_{name}' for name in self._members(row))}"
            f" -> since_{identifier(row.id)} : 0);"
            for row in self.configurations
        ]
        return " ".join([f"credit = credit + {self._cost};", *anew, *shorter]).rstrip(";")

    def _next(self) -> list[str]:
        """The worst of all that is asked for."""
        forget = [f"since_{identifier(row.id)} = 0;" for row in self.configurations]
        forget += [f"gone_{name} = false; fit_{name} = 0;" for name in self.names]
        counted = any_of(f"due_{row.cause.value}" for row in self.causes if row.lockout)
        degraded = [
            "rest = (mode == DEGRADED && rest == DEGRADED && !lost -> CAUTIOUS : rest);",
            "asks = (lost && !endured && asks < HOLD -> HOLD : (lost && asks < DEGRADED -> DEGRADED : asks));",
        ]
        return [
            *(degraded if self.names else ()),
            "next = (rest > asks -> rest : asks);",
            "if",
            f":: next == ESTOP && mode != ESTOP && ({counted}) ->",
            f"     estops = {up('estops', self.spec.lockout.beyond + 1)};",
            f"     next = (estops > {self.spec.lockout.beyond} -> LOCKOUT : ESTOP) /* {self.spec.lockout.id} */",
            ":: else",
            "fi;",
            "if :: next != mode -> calm = 0; moving = 0 :: else fi;",
            f"if :: next != DEGRADED -> {' '.join(forget)} skip :: else fi;",
            "mode = next;",
        ]

    def _authority(self) -> list[str]:
        rows = [f":: mode == {row.mode.name} -> who = {WHO[row.authority]}" for row in self.spec.modes]
        bridged = [row.cause.value for row in self.delayed if not row.debounced]
        bridging = any_of(f"(on_{cause} && !due_{cause})" for cause in bridged)
        return ["if", *rows, "fi;", f"who = (who == POLICY && ({bridging}) -> BACKUP : who);", *self._jog(bridging)]

    def _jog(self, bridging: str) -> list[str]:
        """In hold a person may move the body where nothing asks for hold or worse; then it is no stop that moves."""
        row = self.spec.jog
        if row is None:
            return []
        stopping = any_of(f"due_{one.cause.value}" for one in self.causes if one.floor >= Mode.HOLD)
        return [
            f"if :: mode == HOLD && person && !({stopping}) && !({bridging}) ->",
            f"     who = OPERATOR; moving = 0 /* {row.id} */",
            ":: else",
            "fi;",
        ]
