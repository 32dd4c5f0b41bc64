"""The mode machine: tables as data, one pure step, and the exhaustive walk that proves them."""

from safeguard.modes.engine import ModeInputs, ModeOutputs, ModeState, step
from safeguard.modes.table import ModeTable, cause_mask, compile_table, load_table

__all__ = [
    "ModeInputs",
    "ModeOutputs",
    "ModeState",
    "ModeTable",
    "cause_mask",
    "compile_table",
    "load_table",
    "step",
]
