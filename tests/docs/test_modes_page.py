from __future__ import annotations

import re

import pytest

from safeguard.core.enums import Mode
from safeguard.modes.spec import CauseSpec, EscalationSpec, RecoverySpec, TableSpec, read_spec
from safeguard.modes.table import TABLES
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "concepts" / "modes.md").read_text("utf-8")
SPEC = read_spec(TABLES / "monolithic.toml")


def cause_line(row: CauseSpec) -> str:
    """The row of the page's table for one cause."""
    bridge = f"{row.bridge_s} s" if row.bridge_s else f"{row.bridge_ticks} ticks" if row.bridge_ticks else "–"
    return f"| {row.id} | `{row.cause.value}` | {row.floor.name} | {bridge} |"


def escalation_line(row: EscalationSpec) -> str:
    """The row of the page's table for one timer."""
    return f"| {row.id} | {row.source.name} | {row.target.name} | moving for {row.moving_s} s |"


def recovery_line(row: RecoverySpec) -> str:
    """The row of the page's table for one way back."""
    dwell = f", for {row.dwell_s} s" if row.dwell_s else ""
    return f"| {row.id} | {row.source.name} | {row.target.name} | {', '.join(g.value for g in row.guards)}{dwell} |"


def lines(spec: TableSpec) -> set[str]:
    """Every row of a mode table as the page writes it."""
    return {
        *map(cause_line, spec.causes),
        *map(escalation_line, spec.escalations),
        *map(recovery_line, spec.recoveries),
    }


def test_page_is_the_table_that_is_executed() -> None:
    """The page lists every row of the monolithic table, and no other."""
    told = {line for line in PAGE.splitlines() if re.match(r"\| MON-[CER]\d", line)}

    assert told == lines(SPEC)


@pytest.mark.parametrize("row", SPEC.causes, ids=lambda row: row.id)
def test_another_floor_would_be_noticed(row: CauseSpec) -> None:
    """A row that differs from the page's in one word is not on the page."""
    floor = Mode.NOMINAL if row.floor is not Mode.NOMINAL else Mode.HOLD

    assert cause_line(row.model_copy(update={"floor": floor})) not in PAGE.splitlines()


def test_numbers_of_the_bridge_are_told() -> None:
    """Fill, drain and rearm share on the page are those of the table."""
    bridge = SPEC.bridge

    assert f"`fill = {bridge.fill}`, `drain = {bridge.drain}`, `rearm_share = {bridge.rearm_share}`" in PAGE
