"""What a mode table owes, as assertions in its Promela model: observers that look at inputs and modes from outside.

Numbers come from ``requirements``, never from the table. Of the machine's own variables the observers read the mode,
who moves the body, and what is gone; buckets, calm, timers and stays they keep for themselves.
"""

from __future__ import annotations

import math
from typing import Final

from safeguard.core.enums import Cause, Mode
from safeguard.core.errors import ModeTableError
from safeguard.modes.promela_machine import Machine, all_of, any_of, counter, down, identifier, up
from safeguard.modes.requirements import ABOUT_POLICY, LOCKOUT_CAUSES, Bounds

PROPERTIES: Final = (
    "P1_floor",
    "P2_authority",
    "P3_reentry",
    "P4_one_way_out",
    "P5_boot",
    "P6_stay",
    "P7_progress",
    "P8_justified",
    "P9_flapping",
    "P15_heard",
    "P16_no_cancel",
    "P19_tolerance",
    "P20_shedding",
    "PL_lockout",
    "PJ_jogging",
)
"""What one tick can show to an observer that remembers."""

_WINDOW: Final = 30  # bits of an int
_STOPPED: Final = "before >= HOLD && before <= ESTOP"


class Watch:
    """Observers and assertions for a machine."""

    def __init__(self, machine: Machine, owed: Bounds) -> None:
        if machine.names and owed.window > _WINDOW:
            raise ModeTableError(f"a window of {owed.window} ticks: the observer remembers {_WINDOW}; scale the bounds")
        self.owed = owed
        self.causes = [row.cause for row in machine.causes]
        self.delayed = [cause for cause in self.causes if cause in owed.delay]
        self.names = machine.names
        self.stays = {tuple(identifier(n) for n in sorted(shed)): stay for shed, stay in owed.stay.items()}
        self.intolerable = {tuple(identifier(n) for n in sorted(s)): owed.intolerable.get(s, ()) for s in owed.stay}

    def _full(self, cause: Cause) -> int:
        return self.owed.fill * self.owed.delay[cause]

    def _memory(self) -> list[tuple[str, int]]:
        """(name, largest value) of what observers remember; everything starts at 0."""
        owed = self.owed
        return [
            *((f"w_level_{cause.value}", self._full(cause)) for cause in self.delayed),
            ("w_calm", max(owed.ack_dwell, owed.cautious_dwell)),
            ("w_moving", owed.moving),
            ("w_trips", owed.estops + 1),
            *((f"w_since_{'_'.join(shed)}", stay + 1) for shed, stay in self.stays.items()),
            *((f"w_fit_{name}", owed.dwell[name]) for name in self.names),
            *((("w_returns", (1 << owed.window) - 1),) if self.names else ()),
        ]

    def variables(self) -> list[str]:
        """Declarations: what observers remember is part of the state."""
        flags = ("quiet", "steady", "rearmed", "trip", "w_back", *PROPERTIES)
        heard = [f"{kind}_{cause.value}" for cause in self.causes for kind in ("heard", "acts")]
        return [
            *(f"{counter(most)} {name};" for name, most in self._memory()),
            *(f"hidden byte {name};" for name in (*flags, *heard)),
            "hidden byte w_count; hidden byte worst;",
        ]

    # -- what is observed ---------------------------------------------------------------------------------------

    def judge(self) -> list[str]:
        """Statements after the machine's own: look, assert, remember."""
        claims = dict(zip(PROPERTIES, self._claims(), strict=True))
        return [
            *(line for cause in self.causes for line in self._hear(cause)),
            *self._look(),
            *(line for name in self.names for line in self._fitness(name)),
            *self._returns(),
            *(f"{name} = {claim}; assert({name});" for name, claim in claims.items()),
            "w_calm = (mode == before -> w_calm : 0);",
            f"w_moving = (mode == before && !({self._jogs()}) -> w_moving : 0);",
            *(f"w_fit_{name} = (w_back -> 0 : w_fit_{name});" for name in self.names),
        ]

    def _hear(self, cause: Cause) -> list[str]:
        """A cause is heard unless a person's command waives it; it acts when its delay is over."""
        name, owed = cause.value, self.owed
        heard = f"heard_{name} = {name}{' && !person' if cause in ABOUT_POLICY else ''};"
        if cause not in owed.delay:
            return [f"{heard} acts_{name} = heard_{name};"]
        level, full = f"w_level_{name}", self._full(cause)
        return [
            heard,
            f"{level} = (heard_{name} -> {up(level, full, owed.fill)} : {down(level, owed.drain)});",
            f"acts_{name} = heard_{name} && {level} == {full};",
        ]

    def _heard(self, least: Mode) -> str:
        """A cause that asks for ``least`` or worse is there, in force or not."""
        return any_of(f"heard_{cause.value}" for cause in self.causes if self.owed.floors[cause] >= least)

    def _look(self) -> list[str]:
        owed = self.owed
        dwell = f"(before == CAUTIOUS -> {owed.cautious_dwell} : {owed.ack_dwell})"
        rearmed = all_of(f"w_level_{c.value} <= {math.floor(self._full(c) * owed.rearm)}" for c in self.delayed)
        trips = any_of(f"acts_{cause.value}" for cause in self.causes if cause in LOCKOUT_CAUSES)
        worst = [f"worst = (acts_{c.value} && worst < {owed.floors[c].name} -> {owed.floors[c].name} : worst);"
                 for c in self.causes]  # fmt: skip
        return [
            f"rearmed = {rearmed}; worst = NOMINAL;",
            *worst,
            "steady = before == HOLD || before == STOP;",
            f"w_moving = (steady && !standstill -> {up('w_moving', owed.moving)} : 0);",
            f"quiet = ({_STOPPED} -> standstill && rearmed && !({self._heard(Mode.DEGRADED)})"
            f" : before == CAUTIOUS && !({self._heard(Mode.CAUTIOUS)}));",
            f"w_calm = (quiet -> (w_calm + 1 < {dwell} -> w_calm + 1 : {dwell}) : 0);",
            f"trip = ({trips}) && (mode == ESTOP || mode == LOCKOUT) && before != ESTOP && before != LOCKOUT;",
            f"w_trips = (trip -> {up('w_trips', owed.estops + 1)} : w_trips);",
            *(f"w_since_{'_'.join(shed)} = ({self._gone(shed)} -> {up('w_since_' + '_'.join(shed), stay + 1)} : 0);"
              for shed, stay in self.stays.items()),
        ]  # fmt: skip

    def _gone(self, shed: tuple[str, ...]) -> str:
        return all_of(f"gone_{name}" if name in self.names else "false" for name in shed)

    def _sheds(self, kind: str, name: str) -> str:
        return any_of(f"{kind}_{c.value}" for c in self.causes if identifier(self.owed.sheds.get(c, "")) == name)

    def _fitness(self, name: str) -> list[str]:
        """Ticks in a row in which a missing capability could have come back: nothing wrong, and in agreement."""
        agrees = f" && shadow_{name}" if name in {identifier(n) for n in self.owed.shadow} else ""
        fit = f"w_fit_{name}"
        well = f"was_{name} && !({self._sheds('heard', name)}){agrees}"
        return [f"{fit} = ({well} -> {up(fit, self.owed.dwell[name])} : 0);"]

    def _returns(self) -> list[str]:
        """One bit for each of the last ``window`` ticks: whether a capability came back by itself in it."""
        if not self.names:
            return []
        came = any_of(f"(was_{name} && !gone_{name})" for name in self.names)
        window = self.owed.window
        return [
            f"w_back = before == DEGRADED && mode <= DEGRADED && !person && ({came});",
            f"w_returns = ((w_returns << 1) & {(1 << window) - 1}) | w_back;",
            f"w_count = {' + '.join(f'((w_returns >> {i}) & 1)' for i in range(window))};",
        ]

    # -- what is owed -------------------------------------------------------------------------------------------

    def _claims(self) -> tuple[str, ...]:
        """In the order of PROPERTIES."""
        owed, stop = self.owed, any_of(["heard_operator_stop"] if Cause.OPERATOR_STOP in self.causes else [])
        due = f"(before == CAUTIOUS -> {owed.cautious_dwell} : {owed.ack_dwell})"
        pending = any_of(f"(heard_{c.value} && !acts_{c.value})" for c in self.delayed if c not in owed.debounced)
        calm = f"quiet && w_calm >= {due}"
        return (
            "mode >= worst",
            f"(who != POLICY || (mode <= DEGRADED && !({pending}))) && (mode <= STOP || who == NOBODY)",
            f"(!(({_STOPPED}) && mode < before) || (edge && {calm} && (mode == CAUTIOUS || before > HOLD)))"
            f" && (before != CAUTIOUS || mode != NOMINAL || ({calm} && !person))",
            "(before != STOP || mode >= HOLD) && (before != ESTOP || mode == HOLD || mode >= ESTOP)",
            "before != BOOT || mode == BOOT || (ready && (mode == HOLD || mode == worst || mode == LOCKOUT))",
            all_of(f"w_since_{'_'.join(shed)} <= {stay}" for shed, stay in self.stays.items()),
            f"!(steady && w_moving >= {owed.moving}) || mode > before",
            self._justified(),
            f"w_count <= {owed.recoveries}" if self.names else "true",
            f"(!({stop}) || mode >= STOP) && (before != DEGRADED || !person || mode != DEGRADED)"
            f" && (!(({_STOPPED}) && edge && {calm}) || mode < before)",
            f"!(({_STOPPED}) && !standstill) || mode >= before",
            self._tolerated(),
            self._shed(),
            f"(mode == LOCKOUT) == (before == LOCKOUT || w_trips > {owed.estops})",
            f"(who == OPERATOR) == ({self._jogs()})",
        )

    def _jogs(self) -> str:
        """A person may move the body: in HOLD, with the command, and nothing asks for HOLD, in force or not."""
        return f"mode == HOLD && person && !({self._heard(Mode.DEGRADED)})"

    def _justified(self) -> str:
        """Worse only for a cause, a timer, a person, too many e-stops, or something missing that cannot be endured."""
        missing = any_of(f"was_{name} || {self._sheds('acts', name)}" for name in self.names)
        return (
            "mode <= before || mode == worst || (mode == CAUTIOUS && person)"
            f" || (steady && w_moving >= {self.owed.moving} && mode == before + 1)"
            f" || (mode == LOCKOUT && w_trips > {self.owed.estops}) || (mode == HOLD && ({missing}))"
        )

    def _tolerated(self) -> str:
        """A degraded mode has its substitutes, and none of the warnings that it does not survive."""
        found = [f"(mode != DEGRADED || !gone_{name} || available_{name})" for name in self.names]
        for shed, causes in self.intolerable.items():
            warned = any_of(f"acts_{cause.value}" for cause in self.causes if cause in causes)
            found.append(f"!(mode == DEGRADED && {self._gone(shed)} && ({warned}))")
        return all_of(found)

    def _shed(self) -> str:
        """Only what its own causes took away is missing; it comes back alone and fit; DEGRADED is what misses it."""
        gone, left = any_of(f"gone_{n}" for n in self.names), " + ".join(f"(was_{n} && !gone_{n})" for n in self.names)
        found = [f"(mode == DEGRADED) == ({gone})"]
        for name in self.names:
            asked, fit = self._sheds("acts", name), f"w_fit_{name} >= {self.owed.dwell[name]}"
            found += [f"(!({asked}) || mode > DEGRADED || gone_{name})", f"(!gone_{name} || was_{name} || {asked})"]
            found.append(f"(!was_{name} || gone_{name} || mode > DEGRADED || person || ({fit}))")
        return all_of([*found, f"({left} <= 1 || mode > DEGRADED || person)"] if self.names else found)
