"""What a referee's account of an episode says, cell by cell, and what of it is a violation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from pydantic import JsonValue

Outcome: TypeAlias = Mapping[str, JsonValue]
"""Of ``episode_close``: numbers, words, yes or no, ``{"count", "worst", "unit"}``, or several of these by kind."""


def cells(outcome: Outcome) -> list[tuple[str, JsonValue]]:
    """An outcome as (column, value): mappings of several measures become one cell each."""
    found: list[tuple[str, JsonValue]] = []
    for key, value in outcome.items():
        if isinstance(value, dict) and "count" not in value:
            found += [(f"{key}: {kind}", cell) for kind, cell in value.items()]
        else:
            found.append((key, value))
    return found


def must_be_zero(column: str) -> bool:
    """Whether a column counts what must not happen."""
    return column.startswith("violation") or "contacts" in column


def amount(cell: JsonValue) -> float:
    """How many a cell counts."""
    if isinstance(cell, dict):
        return amount(cell.get("count"))
    return float(cell) if isinstance(cell, int | float) else 0.0


def violated(outcome: Outcome) -> bool:
    """Whether something happened that must not."""
    return any(must_be_zero(column) and amount(cell) for column, cell in cells(outcome))
