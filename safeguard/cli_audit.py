"""``safeguard audit``: show, export."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.color import ColorSystem
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from safeguard.core.errors import ConfigError

if TYPE_CHECKING:
    from safeguard.audit.story import Row

CUT_SHORT = 3
_PLAIN: Any = {"markup": False, "highlight": False, "soft_wrap": True}  # a path is never broken over two lines

Run = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

commands = typer.Typer(help="For 'safeguard audit'.")
console = Console()
progress_console = Console(stderr=True)


@commands.command("show", epilog="Example: safeguard audit show runs/demo-1 --mode HOLD --episode 9")
def audit_show(
    run: Run,
    kind: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Only records of this kind; may be repeated.")
    ] = None,
    mode: Annotated[
        list[str] | None, typer.Option(metavar="MODE", help="Only while this mode is in force; may be repeated.")
    ] = None,
    cause: Annotated[
        list[str] | None, typer.Option(metavar="CAUSE", help="Only where it acts, comes or goes; may be repeated.")
    ] = None,
    start: Annotated[float | None, typer.Option("--from", metavar="S", help="From this second of an episode.")] = None,
    end: Annotated[float | None, typer.Option("--to", metavar="S", help="To this second of an episode.")] = None,
    joint: Annotated[
        str, typer.Option(metavar="NAME", help="Only where a limit of this joint bound.", show_default=False)
    ] = "",
    episode: Annotated[int | None, typer.Option(metavar="N", help="Only this episode.")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="At most so many rows.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every decision, not only what matters.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for machines.")] = False,
) -> None:
    """What happened in a run, as a timeline; exit code 3 where the journal is damaged."""
    from safeguard.audit.show import Choice, row_json, show_run, text_lines
    from safeguard.audit.timeline import CutShortError

    choice = Choice.named(kind or (), mode or (), cause or (), start, end, joint, episode)
    found = _Counted(show_run(run, choice, every=every, limit=limit))
    try:
        if as_json:
            for row in found:
                typer.echo(json.dumps(row_json(row), ensure_ascii=False))
        elif console.is_terminal:
            _page(text_lines(found, console.width, _colours()))
        else:
            for line in text_lines(found):
                typer.echo(line)
    except CutShortError as error:
        progress_console.print(f"damaged: {error}", **_PLAIN)
        raise typer.Exit(CUT_SHORT) from None
    if not found.count:
        progress_console.print("no row fits the filters", **_PLAIN)


class _Counted:
    """Counts what it passes on."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            self.count += 1
            yield row


def _colours() -> ColorSystem | None:
    """What the terminal shows; nothing if it or NO_COLOR says so."""
    known = {"standard": ColorSystem.STANDARD, "256": ColorSystem.EIGHT_BIT, "truecolor": ColorSystem.TRUECOLOR}
    return None if console.no_color else known.get(console.color_system or "")


def _page(lines: Iterable[str]) -> None:
    """Lines through the reader's pager as they come; without one, straight to the terminal."""
    words = shlex.split(os.environ.get("PAGER", "less"))
    if not words or shutil.which(words[0]) is None:
        for line in lines:
            typer.echo(line, color=True)
        return
    environment = {"LESS": "-RFX", **os.environ}
    pager = subprocess.Popen(words, stdin=subprocess.PIPE, env=environment, text=True, encoding="utf-8")
    assert pager.stdin is not None
    try:
        for line in lines:
            pager.stdin.write(f"{line}\n")
        pager.stdin.close()
    except BrokenPipeError:  # the reader has seen enough
        pass
    finally:
        _finish(pager)


def _finish(pager: subprocess.Popen[str]) -> None:
    """Let the reader read on; an interrupt belongs to the pager."""
    if pager.stdin is not None and not pager.stdin.closed:
        with suppress(BrokenPipeError):
            pager.stdin.close()
    while True:
        try:
            pager.wait()
            return
        except KeyboardInterrupt:
            continue


@commands.command("export", epilog="Example: safeguard audit export runs/demo-1 --format parquet")
def audit_export(
    run: Run,
    to: Annotated[
        str, typer.Option("--format", metavar="F", help="jsonl, parquet, mcap, rerun or otel.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="File or folder to create; in the run folder by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run in the format of another tool; exit code 3 if it is damaged, with all before the damage written."""
    from safeguard.audit.exports import default_out, export_run
    from safeguard.audit.timeline import CutShortError

    if not run.is_dir():
        raise ConfigError(f"{run}: there is no such run folder; 'safeguard run SCENARIO --out {run}' makes one")
    target, damage, done = out or default_out(run, to), "", 0
    with _bar(f"{run.name} to {to}") as tell:

        def count(records: int) -> None:
            nonlocal done
            done = records
            tell(records)

        try:
            export_run(run, to, target, count)
        except CutShortError as error:
            damage = str(error)
    if as_json:
        print_json({"out": str(target), "format": to, "records": done, "damage": damage or None})
    else:
        console.print(f"{target}: {done:,} records", **_PLAIN)
    if damage:
        progress_console.print(f"damaged: {damage}", **_PLAIN)
        raise typer.Exit(CUT_SHORT)


def print_json(data: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(data, indent=1) + "\n")


@contextmanager
def _bar(what: str) -> Generator[Callable[[int], None]]:
    """Progress on standard error: how many records so far; a journal says only at its end how many it has."""
    columns = (TextColumn("{task.description:<32}"), BarColumn(), TextColumn("{task.completed:,.0f} records"))
    with Progress(*columns, TimeElapsedColumn(), console=progress_console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda records: progress.update(task, completed=records)
