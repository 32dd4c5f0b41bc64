"""A wrap takes five lines, on the page of every stack.

What is counted: the lines of each block that is marked ``python wrap``, and of the statement that makes the ``spec``
which it uses, without imports, blank lines and comments. A statement over three lines counts three times. The policy
itself, and the user's own function from observation to its input, are not counted.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.test_docs import FENCE, name, runnable

MOST = 5
STACKS = ("callable", "torch", "onnx", "simulators", "openpi", "gr00t", "lerobot", "gymnasium", "stable-baselines3")
FOLDER = ROOT / "docs" / "howto"
PAGES = [
    page
    for page in sorted(FOLDER.glob("*.md"))
    if page.stem in STACKS or "in five lines" in page.read_text("utf-8").split("\n")[0]
]


def wraps(text: str) -> list[str]:
    """The marked blocks of a page, each with the statement before it that makes its spec, if it has not made one."""
    found: list[str] = []
    spec = ""
    for block in FENCE.finditer(text):
        if block["flags"].strip() == "no-run":
            continue
        made = specs(block["code"])
        if "wrap" in block["flags"].split():
            own = made or not re.search(r"\bspec\b", block["code"])
            found.append(block["code"] if own else spec + block["code"])
        spec = made[-1] if made else spec
    return found


def specs(code: str) -> list[str]:
    """The statements of ``code`` that assign to ``spec``."""
    return [
        "\n".join(code.splitlines()[node.lineno - 1 : node.end_lineno]) + "\n"
        for node in ast.parse(code).body
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "spec" for to in node.targets)
    ]


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


def test_the_pages_are_there() -> None:
    """None was renamed out of sight of these tests."""
    assert {page.stem for page in PAGES} >= set(STACKS)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_wrap_takes_five_lines_and_is_run(page: Path) -> None:
    """One marked block at least, none over five lines, each part of the program that the tests of the docs run."""
    text = page.read_text("utf-8")
    blocks, marked = wraps(text), re.findall(r"^```python [^\n]*wrap[^\n]*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)

    assert blocks
    assert [block for block in blocks if lines(block) > MOST] == []
    assert len(marked) == len(blocks)
    assert all(block in runnable(page) for block in marked)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_page_says_what_is_guaranteed(page: Path) -> None:
    """At its command interface, under a heading of that name."""
    assert re.search(r"^## What is guaranteed( at the command interface)?$", page.read_text("utf-8"), re.MULTILINE)


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


def test_a_spec_made_elsewhere_counts() -> None:
    """A wrap cannot be made shorter by making its spec in another block; the latest before it is the one."""
    page = "```python\nspec = old\nspec = a(\n    b\n)\n```\n\n```python wrap\nx = f(spec)\n```\n"

    assert wraps(page) == ["spec = a(\n    b\n)\nx = f(spec)\n"]
    assert wraps(page.replace("f(spec)", "f()")) == ["x = f()\n"]
    assert wraps(page.replace("x = f(spec)", "spec = g()\ny = spec")) == ["spec = g()\ny = spec\n"]


def test_a_block_that_is_not_run_is_no_wrap(tmp_path: Path) -> None:
    """A page cannot hide its wrap from the tests."""
    page = tmp_path / "page.md"
    page.write_text("# Wrap it in five lines\n\n```python no-run\nx = 1\n```\n\n```python wrap\ny = 2\n```\n", "utf-8")

    assert wraps(page.read_text("utf-8")) == ["y = 2\n"]
    assert "y = 2" in runnable(page)
    assert "x = 1" not in runnable(page)
