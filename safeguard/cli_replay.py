"""``safeguard audit replay``: the decisions of a run once more, as they were or under another configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from safeguard.core.errors import ConfigError

if TYPE_CHECKING:
    from safeguard.what_if import WhatIfReport

DIVERGED, INCOMPLETE = 3, 5
_EVERY = 50  # decisions between two looks at the progress bar
_PLAIN: Any = {"markup": False, "highlight": False, "soft_wrap": True}  # a path is never broken over two lines

Run = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

commands = typer.Typer()
console = Console()
progress_console = Console(stderr=True)


@commands.command("replay", epilog="Example: safeguard audit replay runs/demo-1")
def audit_replay(
    run: Run,
    episode: Annotated[list[int] | None, typer.Option(metavar="N", help="Only this episode; may be repeated.")] = None,
    tolerant: Annotated[
        bool, typer.Option("--tolerant", help="Within the tolerances of the schema, also on the recording machine.")
    ] = False,
    what_if: Annotated[
        Path | None,
        typer.Option("--what-if", metavar="FILE", help="YAML with keys of the configuration that are different."),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One such key; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute every decision of a run; exit code 3 at the first that differs, 5 where records were lost.

    Bit for bit on the machine that recorded it, elsewhere within tolerances. With --what-if or --set: the recorded
    inputs under another configuration, and which decisions would change (no exit code 3).
    """
    if what_if is not None or assignments:
        if tolerant:
            raise ConfigError("--tolerant says how strictly a replay compares: leave it out with --what-if and --set")
        _what_if(run, episode, what_if, assignments or [], as_json=as_json)
    else:
        _replay(run, episode, tolerant=tolerant, as_json=as_json)


def _replay(run: Path, episodes: list[int] | None, *, tolerant: bool, as_json: bool) -> None:
    from safeguard.replay import replay_run

    with _bar(f"replaying {run.name}") as tell:
        report = replay_run(
            run, episodes=episodes or None, strictness="tolerant" if tolerant else "machine", progress=tell
        )
    if as_json:
        print(json.dumps({**asdict(report), "identical": report.identical, "agrees": report.agrees}, indent=1))
    else:
        for line in report.lines():
            console.print(line, **_PLAIN)
    incomplete = report.losses and report.divergence is None
    raise typer.Exit(0 if report.agrees else INCOMPLETE if incomplete else DIVERGED)


def _what_if(run: Path, episodes: list[int] | None, file: Path | None, sets: list[str], *, as_json: bool) -> None:
    from safeguard.what_if import Changes, what_if

    with _bar(f"what if, {run.name}") as tell:
        report = what_if(run, Changes.of(file, sets), episodes=episodes or None, progress=tell)
    if as_json:
        print(json.dumps({**asdict(report), "open_loop": True}, indent=1))
    else:
        for line in _told(report):
            console.print(line, **_PLAIN)
    raise typer.Exit(INCOMPLETE if report.losses else 0)


def _told(report: WhatIfReport) -> Iterator[str]:
    """A what-if for people."""
    from safeguard.replay_compare import shortened

    for key, (old, new) in report.settings.items():
        yield f"{key}: {json.dumps(old)} → {json.dumps(new)}"
    if not report.settings:
        yield "the configuration is the recorded one"
    yield (
        f"{report.changed:,} of {report.decisions:,} decisions would change. Open loop: body, policy and people go on "
        "as recorded, so each answer is about that decision, not about how the run would have ended"
    )
    if report.stages:
        yield f"{report.visible:,} of them have another mode, status or source, or other causes"
        yield "decisions that differ in: " + ", ".join(f"{stage} {count:,}" for stage, count in report.stages.items())
    yield f"{'mode':<12}{'recorded':>12}{'what if':>12}"
    for mode, (before, after) in report.modes.items():
        yield f"{mode:<12}{before:>12,}{after:>12,}"
    if report.torque is not None:
        torque = report.torque
        where = f"{torque.joint}, episode {torque.episode}, tick {torque.tick}"
        yield f"largest change of a torque: {torque.amount:.3g} ({where})"
    for change in report.first:
        values = f"{shortened(change.expected)} → {shortened(change.got)}"
        yield f"episode {change.episode}, tick {change.tick}: {change.path}: {values}"
        yield f"  {change.recorded} → {change.recomputed}"
    if report.changed > len(report.first) > 0:
        yield f"and {report.changed - len(report.first):,} more"
    yield from map(str, report.losses)


@contextmanager
def _bar(what: str) -> Generator[Callable[[int], None]]:
    """Progress on standard error: how many decisions so far; a journal says only at its end how many it has."""
    columns = (TextColumn("{task.description:<32}"), BarColumn(), TextColumn("{task.completed:,.0f} decisions"))
    with Progress(*columns, TimeElapsedColumn(), console=progress_console, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def tell(done: int) -> None:
            if done % _EVERY == 0:
                progress.update(task, completed=done)

        yield tell
