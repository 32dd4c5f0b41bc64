from __future__ import annotations

import re
from pathlib import Path

import pytest

from safeguard.core.errors import ModeTableError
from safeguard.modes import compile_table, load_table
from safeguard.modes.spec import read_spec
from safeguard.modes.table import TABLES

TEXT = (TABLES / "monolithic.toml").read_text(encoding="utf-8")


def refused(tmp_path: Path, old: str, new: str) -> str:
    """The message for the real table with one passage replaced."""
    assert old in TEXT
    path = tmp_path / "monolithic.toml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ModeTableError) as caught:
        compile_table(read_spec(path), 0.002)
    return str(caught.value)


def row(name: str) -> str:
    """The text of one table row."""
    return next(f"[[{part}" for part in TEXT.split("[[") if f'"{name}"' in part)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('floor = "hold"', 'floor = "hodl"', "row MON-C06: causes.5.floor: .* unknown mode 'hodl'"),
        ('cause = "estop"', 'cause = "estopp"', "row MON-C01: causes.0.cause"),
        ('id = "MON-C02"', 'id = "MON-C01"', "row MON-C01: this id is used twice"),
        (row("MON-C05"), "", "no .* row for 'state_jump'; add one"),
        ('cause = "state_jump"', 'cause = "state_invalid"', "row MON-C05: a second row for cause"),
        ("bridge_s = 0.12", 'bridge_s = "0.12 s"', "row MON-C08: causes.7.bridge_s"),
        ("bridge_s = 0.12", "bridge = 0.12", "row MON-C08: causes.7.bridge: Extra inputs"),
        ("bridge_s = 0.12", "bridge_s = 0.001", "row MON-C08: .* shorter than one tick"),
        ("bridge_s = 0.12", "bridge_s = 0.12\nbridge_ticks = 3", "row MON-C08: .* exclude each other"),
        ('floor = "cautious"', 'floor = "degraded"', "row MON-C07: 'degraded' is no mode of strategy"),
        ('floor = "hold"', 'floor = "boot"', "row MON-C06: floor 'boot' is not a severity"),
        ('clear = "auto"', 'clear = "ack"', "row MON-C07: .* write clear = 'auto'"),
        ('floor = "nominal"', 'floor = "nominal"\nbridge_ticks = 3', "row MON-C16: .* never fire"),
        ('floor = "nominal"', 'floor = "nominal"\nlockout = true', "row MON-C16: .* never fire"),
        (row("MON-M05"), "", "no .*modes.* row for 'stop'"),
        (row("MON-M02"), row("MON-M02") + row("MON-M02").replace("M02", "M22"), "row MON-M22: .* two rows"),
        (row("MON-M02"), row("MON-M02").replace("cautious", "degraded"), "row MON-M02: .* no degraded mode"),
        ("moving_s = 1.5", "", "row MON-E01: needs exactly one of"),
        ("moving_s = 1.5", "moving_s = 0.0001", "row MON-E01: .* shorter than one tick"),
        ('to = "stop"', 'to = "cautious"', "row MON-E01: can never fire"),
        ('to = "nominal"', 'to = "stop"', "row MON-R02: can never fire"),
        ('from = "estop"', 'from = "lockout"', "row MON-R05: .*absorbing"),
        ('from = "estop"', 'from = "stop"', "row MON-R05: can never fire: an earlier row"),
        ('to = "cautious"', 'to = "degraded"', "row MON-R03: 'degraded' is no mode"),
        ('guards = ["ready"]', 'guards = ["redy"]', "row MON-R01: recoveries.0.guards"),
        ('to = "hold"', 'to = "stop"', "row MON-R01: boot is left only to 'hold'"),
        ("dwell_s = 0.5", "dwell_s = 0.5\ndwell_ticks = 3", "row MON-R02: .* exclude each other"),
        ("schema = 1", "schema = 2", "monolithic.toml: schema"),
        ("schema = 1", "schema = ", "monolithic.toml: not TOML"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    """Every slip in a table file is refused with the file, the row and what to do."""
    message = refused(tmp_path, old, new)
    assert "monolithic.toml" in message
    assert re.search(words, message), message


def test_lockout_without_a_cause_is_refused(tmp_path: Path) -> None:
    """A lockout that no cause counts towards can never fire."""
    path = tmp_path / "monolithic.toml"
    path.write_text(TEXT.replace("lockout = true", "lockout = false"), encoding="utf-8")
    with pytest.raises(ModeTableError, match="row MON-L01: can never fire"):
        read_spec(path)


def test_row_that_nothing_enters_is_refused(tmp_path: Path) -> None:
    """A recovery from a mode that no cause and no timer brings about can never fire."""
    cut = TEXT.replace('floor = "stop"', 'floor = "hold"').replace(row("MON-E01"), "")
    path = tmp_path / "monolithic.toml"
    path.write_text(cut, encoding="utf-8")
    with pytest.raises(ModeTableError, match="row MON-R04: can never fire: nothing enters 'stop'"):
        read_spec(path)


def test_messages_point_at_the_line(tmp_path: Path) -> None:
    """A refused row is named with the line of its id."""
    message = refused(tmp_path, 'floor = "hold"', 'floor = "boot"')
    line = next(i for i, text in enumerate(TEXT.splitlines(), 1) if '"MON-C06"' in text)
    assert f"monolithic.toml:{line} row MON-C06" in message


def test_unknown_strategy_lists_the_known_ones() -> None:
    """A strategy without a table is refused with the names that exist."""
    with pytest.raises(ModeTableError, match=r"no mode table for strategy 'modul'; there are: .*monolithic"):
        load_table("modul")


@pytest.mark.parametrize("period", [0.0, -0.002, float("nan"), float("inf")])
def test_period_must_be_positive(period: float) -> None:
    """A period that is no positive time is refused."""
    with pytest.raises(ModeTableError, match="period"):
        load_table("monolithic", period)


def test_digest_names_the_content(tmp_path: Path) -> None:
    """Comments and the period leave the digest alone; any value changes it."""
    path = tmp_path / "monolithic.toml"
    path.write_text("# another comment\n" + TEXT, encoding="utf-8")
    digest = load_table("monolithic").digest
    assert compile_table(read_spec(path), 0.005).digest == digest
    path.write_text(TEXT.replace("beyond = 2", "beyond = 3"), encoding="utf-8")
    assert compile_table(read_spec(path), 0.002).digest != digest
