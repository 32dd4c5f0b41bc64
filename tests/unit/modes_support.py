"""Mode tables and drives that the tests of the mode machine share."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from safeguard.core.enums import Cause, Mode
from safeguard.modes import STRATEGIES, ModeInputs, ModeOutputs, ModeState, ModeTable, compile_table, load_spec, step
from safeguard.modes.table import TABLES

PERIOD = 0.002
REST = ModeInputs(standstill=True)
ACK = ModeInputs(ack=True, standstill=True)
QUIET = ModeInputs()
ALL = tuple(sorted(STRATEGIES))
DEGRADING = tuple(name for name in ALL if name != "monolithic")
TEXT = {name: (TABLES / f"{name}.toml").read_text(encoding="utf-8") for name in ("core", *ALL)}


@cache
def compiled(strategy: str) -> ModeTable:
    """The table on file at 2 ms, whether it is certified or not."""
    return compile_table(load_spec(strategy), PERIOD)


def drive(table: ModeTable, state: ModeState, inputs: Iterable[ModeInputs]) -> tuple[ModeState, ModeOutputs]:
    """Several ticks; the last outputs."""
    outputs: ModeOutputs | None = None
    for one in inputs:
        state, outputs = step(table, state, one)
    assert outputs is not None
    return state, outputs


def modes(table: ModeTable, state: ModeState, inputs: Iterable[ModeInputs]) -> list[Mode]:
    """The mode after each of several ticks."""
    found: list[Mode] = []
    for one in inputs:
        state, outputs = step(table, state, one)
        found.append(outputs.mode)
    return found


@cache
def nominal(table: ModeTable) -> ModeState:
    """NOMINAL by the operator's way: self-test, rest, acknowledgement, half a second of quiet."""
    state, outputs = drive(table, ModeState.initial(table), [REST] * 101 + [ACK] + [QUIET] * 250)
    assert outputs.mode is Mode.NOMINAL
    return state


def seen(*causes: Cause, shadow: int = 0, available: int = 0b11, person: bool = False) -> ModeInputs:
    """Causes in a moving body; substitutes are there unless told otherwise."""
    return ModeInputs.of(causes, shadow=shadow, available=available, person=person)


def folder(tmp_path: Path, **texts: str) -> Path:
    """All table files, some of them with another text."""
    for name, text in {**TEXT, **texts}.items():
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    return tmp_path


VLA, DUAL, MODULAR = compiled("vla"), compiled("dual"), compiled("modular")
LATE = seen(Cause.POLICY_LATE)
SYSTEM2 = seen(Cause.SYSTEM2_FAILED)
PREDICTION, PLANNER = seen(Cause.PREDICTION_FAILED), seen(Cause.PLANNER_FAILED)
BOTH = seen(Cause.PREDICTION_FAILED, Cause.PLANNER_FAILED)
AGREE = ModeInputs(shadow=0b11, available=0b11)


def degraded(table: ModeTable, inputs: ModeInputs, ticks: int) -> ModeState:
    """The state in the tick in which ``inputs`` have brought DEGRADED about."""
    found = modes(table, nominal(table), [inputs] * ticks)
    assert found == [Mode.NOMINAL] * (ticks - 1) + [Mode.DEGRADED]
    return drive(table, nominal(table), [inputs] * ticks)[0]


def both(ticks: int = 60) -> ModeState:
    """The modular strategy without prediction and planner, both shed in the same tick."""
    return degraded(MODULAR, BOTH, ticks)
