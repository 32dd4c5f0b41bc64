from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import typer.core
import typer.main

from safeguard.cli import app
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "cli.md").read_text("utf-8")


def commands(group: typer.core.TyperGroup, name: str = "safeguard") -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """Every command that does something, with its whole name."""
    for word, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, f"{name} {word}")
        elif isinstance(command, typer.core.TyperCommand):
            yield f"{name} {word}", command


ROOT_COMMAND = typer.main.get_command(app)
assert isinstance(ROOT_COMMAND, typer.core.TyperGroup)
COMMANDS = dict(commands(ROOT_COMMAND))


def missing(page: str) -> list[str]:
    """What the command line has and the page has not, and the other way round."""
    sections = {part.partition("\n")[0]: part for part in page.split("\n## ")[1:]}
    found = [f"{name} does not exist" for name in sections if name.startswith("safeguard ") and name not in COMMANDS]
    for name, command in COMMANDS.items():
        text = sections.get(name, "")
        example = (command.epilog or "").removeprefix("Example: ")
        wanted = {example, *(word for option in command.params for word in option.opts if word.startswith("--"))}
        rows = [line for line in text.splitlines() if line.startswith("|")]
        told = {option for row in rows for option in re.findall(r"(?<!\w)--[a-z][a-z-]*", row)}
        found += [f"{name}: {word}" for word in sorted(wanted) if word not in text]
        found += [f"{name}: no option {word}" for word in sorted(told - wanted)]
    return found


def test_page_is_what_help_says() -> None:
    """Every command has a section with its example and all of its options, and no section invents any."""
    assert COMMANDS
    assert missing(PAGE) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("## safeguard demo", "## safeguard dance", "safeguard dance does not exist"),
        ("`--no-shield`", "`--no-helmet`", "safeguard run: --no-shield"),
        ("`--no-shield`", "`--no-helmet`", "safeguard run: no option --no-helmet"),
        ("safeguard robot show panda", "safeguard robot show", "safeguard robot show: safeguard robot show panda"),
    ],
)
def test_a_wrong_page_is_noticed(old: str, new: str, expected: str) -> None:
    """A command, an option or an example that is not the one of ``--help`` is named."""
    assert old in PAGE
    assert expected in missing(PAGE.replace(old, new))
