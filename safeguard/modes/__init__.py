"""The mode machine: tables as data, one pure step, and the exhaustive walk that proves them."""

from safeguard.modes.certificate import TableCertificate, load_table
from safeguard.modes.engine import step
from safeguard.modes.state import ModeInputs, ModeOutputs, ModeState, mode_inputs
from safeguard.modes.table import STRATEGIES, ModeTable, cause_mask, compile_table, load_spec

__all__ = [
    "STRATEGIES",
    "ModeInputs",
    "ModeOutputs",
    "ModeState",
    "ModeTable",
    "TableCertificate",
    "cause_mask",
    "compile_table",
    "load_spec",
    "load_table",
    "mode_inputs",
    "step",
]
