from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from safeguard.scenarios.scenario import library

ASSUMPTIONS = (
    "state error ≤ e",
    "model error ≤ W",
    "delay ≤ d",
    "external torque ≤ w",
    "geometry enclosed",
    "obstacles static or of declared speed",
    "kernel scheduled",
    "drives obey",
)

GOOD = {"good": "name: good\nexpectation: {assumptions: outside}\n"}


def texts() -> dict[str, str]:
    """Every scenario of the library as it is on file."""
    folder = resources.files("safeguard.scenarios") / "library"
    return {name: (folder / f"{name}.yaml").read_text("utf-8") for name in library()}


def stated(text: str) -> object:
    """What a scenario file itself says; a default of the schema is not a statement."""
    scenario = cast("dict[str, Any]", yaml.safe_load(text))
    expectation = cast("dict[str, Any]", scenario.get("expectation") or {})
    return expectation.get("assumptions")


def check_law_0(scenarios: dict[str, str], page: str) -> None:
    """Guarantees name their assumptions: each scenario says inside or outside, the page lists all of them."""
    assert scenarios
    silent = [name for name, text in scenarios.items() if stated(text) not in ("inside", "outside")]
    assert not silent, f"write expectation.assumptions: inside or outside in {silent}"
    rows = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")}
    missing = [name for name in ASSUMPTIONS if name not in rows]
    assert not missing, f"docs/concepts/assumptions.md says nothing about {missing}"


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    """The page that readers are sent to."""
    return (root / "docs" / "concepts" / "assumptions.md").read_text("utf-8")


def test_law_0(page: str) -> None:
    """The page lists every assumption."""
    check_law_0(GOOD, page)


@pytest.mark.parametrize("name", library())
def test_law_0_library(page: str, name: str) -> None:
    """Every scenario of the library states its side."""
    check_law_0({name: texts()[name]}, page)


@pytest.mark.parametrize("gone", ASSUMPTIONS, ids=lambda name: f"page without '{name}'")
def test_law_0_planted_page(page: str, gone: str) -> None:
    """A page that forgets one assumption is found."""
    shorter = "\n".join(line for line in page.splitlines() if not line.startswith(f"| {gone} |"))
    with pytest.raises(AssertionError, match="says nothing about"):
        check_law_0(GOOD, shorter)


@pytest.mark.parametrize(
    "expectation",
    ["", "expectation: {success: true}", "expectation: {assumptions: mostly}"],
    ids=["no expectation", "expectation without assumptions", "an unknown side"],
)
def test_law_0_planted_scenario(page: str, expectation: str) -> None:
    """A scenario that does not say on which side it is is found."""
    with pytest.raises(AssertionError, match="planted"):
        check_law_0({**GOOD, "planted": f"name: planted\n{expectation}\n"}, page)
