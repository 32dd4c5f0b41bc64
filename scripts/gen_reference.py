"""Writes docs/reference/enums.md from safeguard/core/enums.py; with ``--check`` it only compares.

It reads the source text, because the comment behind a member is its documentation.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "safeguard" / "core" / "enums.py"
PAGE = ROOT / "docs" / "reference" / "enums.md"

INTRODUCTION = """\
# Enums

The closed sets that records, mode tables and code share, in `safeguard.core.enums`.
Values are stable: they are written to journals.
This page is generated from the code: `make reference`.
"""


def render(source: str) -> str:
    """The page for the source text of a module of enums."""
    lines = source.splitlines()
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    return "\n".join([INTRODUCTION, *(_section(node, lines) for node in classes)])


def _section(node: ast.ClassDef, lines: list[str]) -> str:
    rows = [f"| `{name}` | `{value}` | {meaning} |" for name, value, meaning in _members(node, lines)]
    table = ["| member | value | meaning |", "| --- | --- | --- |", *rows]
    return "\n".join([f"## {node.name}", "", ast.get_docstring(node) or "", "", *table, ""])


def _members(node: ast.ClassDef, lines: list[str]) -> Iterator[tuple[str, str, str]]:
    for item in node.body:
        match item:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                line = lines[item.lineno - 1].encode()[item.end_col_offset or 0 :].decode()
                yield name, str(value), line.strip().removeprefix("#").strip().replace("|", "\\|")
            case _:
                pass


def main(arguments: list[str]) -> int:
    """Writes the page, or says with exit code 1 that it is out of date."""
    page = render(SOURCE.read_text("utf-8"))
    if arguments == ["--check"]:
        if PAGE.exists() and PAGE.read_text("utf-8") == page:
            return 0
        print(f"{PAGE.relative_to(ROOT)} is not what the code says: run `make reference`", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
