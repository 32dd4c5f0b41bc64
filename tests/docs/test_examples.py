from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def promised(example: Path) -> str:
    """What the docstring says that the script prints: the indented text behind "It prints:"."""
    docstring = ast.get_docstring(ast.parse(example.read_text("utf-8"))) or ""
    return dedent(docstring.partition("It prints:\n\n")[2]).strip()


def test_there_are_examples() -> None:
    """An empty folder would pass the test below."""
    assert EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_prints_what_its_docstring_says(example: Path, tmp_path: Path) -> None:
    """The script runs by itself in an empty folder, without a warning, and prints exactly what it promises."""
    command = [sys.executable, "-W", "error", str(example)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert promised(example)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, promised(example), "")
