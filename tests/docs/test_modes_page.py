"""The pages about modes are what the tables say."""

from __future__ import annotations

import re

import pytest

from safeguard.modes.render import drift
from safeguard.modes.requirements import SHEDDING
from safeguard.modes.spec import ConfigurationSpec
from safeguard.modes.table import STRATEGIES, load_spec
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "concepts" / "modes.md").read_text("utf-8")
CONFIGURATIONS = [(name, row) for name in STRATEGIES for row in load_spec(name).configurations]


def told(strategy: str, row: ConfigurationSpec) -> bool:
    """The page lists this configuration of this strategy with its longest stay."""
    line = rf"^\| {strategy} \| `{row.name}` \|.*\| {row.stay_s:g} s \|$"
    return re.search(line, PAGE, flags=re.MULTILINE) is not None


def test_the_reference_pages_are_what_the_tables_say() -> None:
    """Diagrams and tables in docs/reference/modes are those of the tables (``safeguard modes render``)."""
    assert drift(ROOT / "docs" / "reference" / "modes") == []


@pytest.mark.parametrize(("strategy", "row"), CONFIGURATIONS, ids=lambda value: getattr(value, "name", value))
def test_every_configuration_is_told_with_its_stay(strategy: str, row: ConfigurationSpec) -> None:
    """What a strategy sheds and for how long is on the page, and another time would be noticed."""
    assert told(strategy, row)
    assert not told(strategy, row.model_copy(update={"stay_s": (row.stay_s or 0.0) + 1.0}))


def test_the_page_knows_no_other_configuration() -> None:
    """Every configuration on the page is one of a table."""
    on_page = set(re.findall(r"^\| (\w+) \| `(\w+)` \|", PAGE, flags=re.MULTILINE))
    assert on_page == {(strategy, row.name) for strategy, row in CONFIGURATIONS}


def test_numbers_of_the_bridge_are_told() -> None:
    """Fill, drain and rearm share on the page are those of the core."""
    bridge = load_spec("monolithic").bridge
    assert f"`fill = {bridge.fill}`, `drain = {bridge.drain}`, `rearm_share = {bridge.rearm_share}`" in PAGE


def test_every_strategy_of_the_requirements_has_a_table() -> None:
    """The oracle speaks of the same strategies."""
    assert set(SHEDDING) == set(STRATEGIES)
