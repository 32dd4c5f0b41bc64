"""Machines for ``benchmarks/modes.py``: the mode engine, and the monolithic table in libraries for state machines.

A library chooses the transition; what none of them has is ``Memory``, plain Python around the one event of a tick.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, Final, Protocol

from safeguard.core.enums import Authority, Mode
from safeguard.modes import ModeOutputs, ModeState, ModeTable, mode_inputs, step
from safeguard.modes.table import (
    ACK,
    BEYOND,
    CLEAR,
    DEBOUNCED,
    DELAYED,
    DRAIN,
    DRAINED,
    FILL,
    LOCKOUT,
    LOCKOUT_ROW,
    STANDSTILL,
)

MODES: Final = tuple(mode for mode in Mode if mode not in (Mode.BOOT, Mode.DEGRADED))  # of the monolithic table
Guard = Callable[[], bool]
Rule = tuple[Mode, Mode, Guard]
"""From, to, and when. The first that applies is taken."""


class Machine(Protocol):
    """Something that has a mode and takes a tick at a time."""

    name: str

    def reset(self) -> None:
        """Start anew in NOMINAL."""
        ...

    def tick(self, causes: int, ack: bool, standstill: bool) -> ModeOutputs:
        """One tick."""
        ...


class Ours:
    """The engine as the shield calls it, with the construction of its inputs."""

    def __init__(self, name: str, table: ModeTable) -> None:
        self.name, self._table = name, table
        self.reset()

    def reset(self) -> None:
        """Start anew in NOMINAL."""
        self._state = ModeState.initial(self._table, Mode.NOMINAL)

    def tick(self, causes: int, ack: bool, standstill: bool) -> ModeOutputs:
        """One tick."""
        self._state, outputs = step(self._table, self._state, mode_inputs(causes, ack, standstill))
        return outputs


class Memory:
    """What the guards of a peer look at, and what it remembers besides its mode.

    ``observe`` goes before the one event of a tick, ``conclude`` after it.
    """

    def __init__(self, table: ModeTable) -> None:
        self.table = table
        self.floors: list[int] = table.floors.tolist()
        self.escalations: list[list[int]] = table.escalations.tolist()
        self.recoveries: list[list[int]] = table.recoveries.tolist()
        self._buckets: list[list[int]] = table.buckets.tolist()
        numbers: list[int] = table.numbers.tolist()
        self._delayed, self._bridged = numbers[DELAYED], numbers[DELAYED] & ~numbers[DEBOUNCED]
        self._fill, self._drain = numbers[FILL], numbers[DRAIN]
        self.lockout, self.lockout_row, self.beyond = numbers[LOCKOUT], numbers[LOCKOUT_ROW], numbers[BEYOND]
        self._holding = [sum(self.floors[min(mode, Mode.ESTOP) : Mode.LOCKOUT]) for mode in Mode]
        self._said = lru_cache(maxsize=1024)(self._outputs)
        self.reset()

    def reset(self) -> None:
        """Start anew in NOMINAL."""
        self.mode, self.acked, self.calm, self.moving, self.estops, self._why = Mode.NOMINAL, True, 0, 0, 0, 0
        self._levels, self._wet = [0] * len(self._buckets), False

    def observe(self, causes: int, ack: bool, standstill: bool) -> None:
        """Buckets and timers of this tick: what is ``active``, and the mode that a timer asks for (``due``)."""
        self.causes, self.ack = causes, ack
        tripped, drained = self._buckets_of(causes) if self._wet or causes & self._delayed else (0, True)
        self.active, self.bridging = causes & ~self._delayed | tripped, causes & self._bridged & ~tripped != 0
        self.due, self.row, mode = self.mode, 0, self.mode
        target, ticks, row = self.escalations[mode]
        self.moving = 0 if target < 0 or standstill else self.moving + 1
        if self.moving and self.moving >= ticks:
            self.due, self.row = Mode(target), row
        target, guards, dwell, blocking, row = self.recoveries[mode]
        if target >= 0:
            met = (STANDSTILL if standstill else 0) | (DRAINED if drained else 0) | (0 if causes & blocking else CLEAR)
            self.calm = 0 if guards & ~met & ~ACK else min(self.calm + 1, dwell)
            if self.calm and self.calm >= dwell and (not guards & ACK or (ack and not self.acked)):
                self.due, self.row = Mode(target), row

    def _buckets_of(self, causes: int) -> tuple[int, bool]:
        tripped, drained, levels = 0, True, self._levels
        for b, (bit, full, low) in enumerate(self._buckets):
            if causes & bit:
                levels[b] = min(levels[b] + self._fill, full)
                tripped |= bit if levels[b] == full else 0
            else:
                levels[b] = max(levels[b] - self._drain, 0)
            drained = drained and levels[b] <= low
        self._wet = any(levels)
        return tripped, drained

    def conclude(self, mode: Mode) -> ModeOutputs:
        """Count, and say why ``mode`` holds from now on."""
        holding = self._holding[mode]
        if mode is self.mode:
            self._why |= self.active & holding
            rows = self.causes & holding | self._why
        else:
            row = self.row if mode is self.due else 0
            if mode is Mode.LOCKOUT:
                row = self.lockout_row
            elif mode is Mode.ESTOP and self.active & self.lockout:
                self.estops += 1
            self._why, rows = self.active & holding | row, self.causes & holding | row
            self.mode, self.calm, self.moving = mode, 0, 0
        self._why, self.acked = self._why if mode else 0, self.ack  # NOMINAL has no history
        return self._said(mode, rows, self.bridging)

    def _outputs(self, mode: Mode, rows: int, bridging: bool) -> ModeOutputs:
        authority = self.table.authority[mode]
        bridging = bridging and authority is Authority.POLICY
        return ModeOutputs(
            mode,
            Authority.BACKUP if bridging else authority,
            self.table.envelope[mode],
            self.table.ids(rows),
            bridging,
        )


class PlainPython:
    """The table without a library."""

    name = "plain Python"

    def __init__(self, table: ModeTable) -> None:
        self._memory = Memory(table)
        found = rules(self._memory)
        self._rules = [[(target, guard) for source, target, guard in found if source is mode] for mode in Mode]

    def reset(self) -> None:
        """Start anew in NOMINAL."""
        self._memory.reset()

    def tick(self, causes: int, ack: bool, standstill: bool) -> ModeOutputs:
        """One tick."""
        memory = self._memory
        memory.observe(causes, ack, standstill)
        for target, guard in self._rules[memory.mode]:
            if guard():
                return memory.conclude(target)
        return memory.conclude(memory.mode)


class Transitions:
    """The table with ``transitions``: one trigger a tick, guarded transitions in order."""

    def __init__(self, table: ModeTable, *, by_row: bool) -> None:
        self.name = f"transitions, by {'row' if by_row else 'floor'}"
        library = import_module("transitions")
        self._memory = Memory(table)
        self._model: Any = type("Model", (), {})()
        names = [mode.name for mode in MODES]
        self._machine: Any = library.Machine(
            self._model, states=names, initial="NOMINAL", auto_transitions=False, ignore_invalid_triggers=True
        )
        for source, target, guard in rules(self._memory, by_row=by_row):
            self._machine.add_transition("tick", source.name, target.name, conditions=guard)
        self._trigger: Callable[[], bool] = self._model.tick

    def reset(self) -> None:
        """Start anew in NOMINAL."""
        self._memory.reset()
        self._machine.set_state("NOMINAL")

    def tick(self, causes: int, ack: bool, standstill: bool) -> ModeOutputs:
        """One tick."""
        self._memory.observe(causes, ack, standstill)
        changed = self._trigger()
        return self._memory.conclude(Mode[self._model.state] if changed else self._memory.mode)


class PythonStatemachine:
    """The table with ``python-statemachine``: one event a tick, guarded transitions in order."""

    def __init__(self, table: ModeTable, *, by_row: bool) -> None:
        self.name = f"python-statemachine, by {'row' if by_row else 'floor'}"
        library = import_module("statemachine")
        self._memory = Memory(table)
        states: dict[Mode, Any] = {
            mode: library.State(initial=mode is Mode.NOMINAL, final=mode is Mode.LOCKOUT) for mode in MODES
        }
        event: Any = None
        for source, target, guard in rules(self._memory, by_row=by_row):
            found = states[source].to(states[target], cond=guard)
            event = found if event is None else event | found
        body = {mode.name: state for mode, state in states.items()}
        body |= {"tick": event, "allow_event_without_transition": True, "__module__": __name__}
        base: Any = library.StateMachine
        self._class: Any = type(base)("Modes", (base,), body)
        self.reset()

    def reset(self) -> None:
        """Start anew in NOMINAL."""
        self._memory.reset()
        self._machine = self._class()
        self._trigger: Callable[[], object] = self._machine.tick

    def tick(self, causes: int, ack: bool, standstill: bool) -> ModeOutputs:
        """One tick."""
        self._memory.observe(causes, ack, standstill)
        if self._memory.mode is not Mode.LOCKOUT:  # a final state takes no events
            self._trigger()
        return self._memory.conclude(Mode[str(self._machine.current_state_value)])


def rules(memory: Memory, *, by_row: bool = False) -> list[Rule]:
    """The rows of the table as guarded transitions, the worst first: LOCKOUT, floors and escalation, recovery."""
    found: list[Rule] = []
    for source in MODES[:-1]:
        if source is not Mode.ESTOP:
            bits = _bits(memory.lockout) if by_row else [memory.lockout]
            found += [(source, Mode.LOCKOUT, _once_too_often(memory, mask)) for mask in bits]
        for target in reversed(MODES[MODES.index(source) + 1 : -1]):
            timed = memory.escalations[source][0] == target
            if by_row:
                found += [(source, target, _asks(memory, bit)) for bit in _bits(memory.floors[target])]
                found += [(source, target, _due(memory, target))] if timed else []
            else:
                asks = _asks_or_due if timed else _asks
                found.append((source, target, asks(memory, memory.floors[target])))
        if memory.recoveries[source][0] >= 0:
            back = Mode(memory.recoveries[source][0])
            found.append((source, back, _due(memory, back)))
    return found


def _bits(mask: int) -> list[int]:
    return [1 << k for k in range(mask.bit_length()) if mask >> k & 1]


def _once_too_often(memory: Memory, mask: int) -> Guard:
    return lambda: memory.active & mask != 0 and memory.estops >= memory.beyond


def _asks(memory: Memory, mask: int) -> Guard:
    return lambda: memory.active & mask != 0


def _asks_or_due(memory: Memory, mask: int) -> Guard:
    return lambda: memory.active & mask != 0 or memory.due > memory.mode


def _due(memory: Memory, target: Mode) -> Guard:
    return lambda: memory.due is target
