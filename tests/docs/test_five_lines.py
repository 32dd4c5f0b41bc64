"""Pages called "Wrap … in five lines" keep their word.

What is counted: the lines of the block that is marked ``python wrap``, from the spec to the running shield, without
imports, blank lines and comments. A statement over three lines counts three times.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.test_docs import FENCE, name, runnable

MOST = 5
TITLE = re.compile(r"\A# Wrap .* in five lines$", re.MULTILINE)
PAGES = [page for page in sorted((ROOT / "docs" / "howto").glob("*.md")) if TITLE.search(page.read_text("utf-8"))]
STACKS = {"callable", "torch", "onnx", "simulators"}
"""Pages that have to be among them."""


def wraps(text: str) -> list[str]:
    """The marked blocks of a page."""
    return [block["code"] for block in FENCE.finditer(text) if "wrap" in block["flags"].split()]


def lines(code: str) -> int:
    """Lines of code without imports, blank lines and comments."""
    importing = {
        number
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and number not in importing
        for number, line in enumerate(code.splitlines(), 1)
    )


def test_there_is_a_page_for_every_stack() -> None:
    """None was renamed out of sight of these tests."""
    assert {page.stem for page in PAGES} >= STACKS


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_wrap_takes_five_lines_and_is_run(page: Path) -> None:
    """One marked block at least, none over five lines, each part of the program that the tests of the docs run."""
    blocks = wraps(page.read_text("utf-8"))

    assert blocks
    assert [lines(block) for block in blocks if lines(block) > MOST] == []
    assert all(block in runnable(page) for block in blocks)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_page_says_what_is_guaranteed_and_what_is_not(page: Path) -> None:
    """At its command interface, under a heading of that name."""
    text = page.read_text("utf-8")
    heading = re.search(r"^## What is guaranteed", text, re.MULTILINE)

    assert heading
    assert "not guaranteed" in text[heading.start() :].lower()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_page_is_named_in_the_index(page: Path) -> None:
    """Among the how-tos, so that whoever looks for a stack finds it."""
    assert f"(howto/{page.name})" in (ROOT / "docs" / "index.md").read_text("utf-8")


def test_what_counts_as_a_line() -> None:
    """Imports, comments and blank lines don't; every line of a long statement does."""
    imports = "import a\nfrom b import (\n    c,\n    d,\n)\n\n# why\n"
    code = "x = a(\n    c,  # what\n)\nif x:\n    import e\n    y = e\n"

    assert lines(imports) == 0
    assert lines(imports + code) == 5


def test_a_block_that_is_not_run_is_no_wrap(tmp_path: Path) -> None:
    """A page cannot hide its wrap from the tests."""
    page = tmp_path / "page.md"
    page.write_text("# Wrap it in five lines\n\n```python no-run\nx = 1\n```\n\n```python wrap\ny = 2\n```\n", "utf-8")

    assert wraps(page.read_text("utf-8")) == ["y = 2\n"]
    assert "y = 2" in runnable(page)
    assert "x = 1" not in runnable(page)
