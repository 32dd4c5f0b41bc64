"""``safeguard modes``: check, render, simulate, unlock."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from safeguard.core.errors import ConfigError

if TYPE_CHECKING:
    from safeguard.modes.certificate import TableCertificate
    from safeguard.modes.simulate import RecordedRun

modes = typer.Typer(help="Mode tables: check, draw and play them.", no_args_is_help=True)
console = Console()

_FAILED = 3
_PLAIN: Any = {"markup": False, "highlight": False, "soft_wrap": True}  # a path is never broken over two lines

Strategy = Annotated[str | None, typer.Argument(help="modular, monolithic, vla or dual; all of them by default.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def _strategies(strategy: str | None) -> tuple[str, ...]:
    from safeguard.modes.table import STRATEGIES

    if strategy is not None and strategy not in STRATEGIES:
        raise ConfigError(f"no strategy {strategy!r}; there are: {', '.join(STRATEGIES)}")
    return STRATEGIES if strategy is None else (strategy,)


@modes.command("check", epilog="Example: safeguard modes check vla")
def check_tables(
    strategy: Strategy = None,
    write: Annotated[bool, typer.Option("--write", help="Keep the certificates beside the tables.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes.", show_default="the cores")] = os.cpu_count() or 1,
    as_json: Json = False,
) -> None:
    """Walk every reachable state of a table with every input and check every property; exit 3 if one does not hold."""
    from safeguard.modes.certificate import certificate_path
    from safeguard.modes.check import check
    from safeguard.modes.table import load_spec

    names, begun = _strategies(strategy), time.perf_counter()
    with ProcessPoolExecutor(workers) as pool, ThreadPoolExecutor(len(names)) as threads:

        def checked(name: str) -> TableCertificate:
            return check(load_spec(name), pool=pool)

        found = list(threads.map(checked, names))
    if write:
        for certificate in found:
            certificate.write(certificate_path(certificate.strategy))
    if as_json:
        print(json.dumps([certificate.model_dump(mode="json") for certificate in found], indent=1))
    else:
        for certificate in found:
            _tell(certificate)
        console.print(f"{len(found)} tables in {time.perf_counter() - begun:.0f} s", style="dim")
    raise typer.Exit(0 if all(certificate.passed for certificate in found) else _FAILED)


def _tell(certificate: TableCertificate) -> None:
    """One table's verdict: the walks, then what does not hold with its story, or that everything does."""
    from safeguard.modes.certificate import HOLDS

    table = Table(title=f"{certificate.strategy}: modes {', '.join(certificate.modes)}", title_justify="left")
    table.add_column("causes that take their time or shed something")
    for column in ("states", "edges"):
        table.add_column(column, justify="right")
    for world in certificate.worlds:
        table.add_row(", ".join(world.slow) or "none", f"{world.states:,}", f"{world.edges:,}")
    console.print(table)
    times = ", ".join(f"{row} {ticks}" for row, ticks in certificate.scaled.items())
    console.print(f"abstraction: times in ticks are {times}", style="dim", highlight=False)
    broken = {name: story for name, story in certificate.properties.items() if story != HOLDS}
    for name, story in broken.items():
        console.print(f"does not hold: {name}", style="bold red", markup=False)
        for line in story.split("; then "):
            console.print(f"  {line}", markup=False, highlight=False)
    if not broken:
        console.print(f"{len(certificate.properties)} properties hold\n", style="green")


@modes.command("render", epilog="Example: safeguard modes render --out docs/reference/modes")
def render_tables(
    out: Annotated[Path, typer.Option(help="Folder of the pages and pictures.")] = Path("docs/reference/modes"),
    compare: Annotated[bool, typer.Option("--check", help="Write nothing; exit 3 if a page is out of date.")] = False,
) -> None:
    """Draw the mode tables: a page with diagram and tables, and a picture, for every strategy."""
    from safeguard.modes.render import drift, write_pages

    if compare:
        stale = drift(out)
        for name in stale:
            console.print(f"{out / name} is not what the tables say; run: safeguard modes render", **_PLAIN)
        raise typer.Exit(_FAILED if stale else 0)
    for path in write_pages(out):
        console.print(str(path), **_PLAIN)


@modes.command("simulate", epilog="Example: safeguard modes simulate --run runs/demo-1 --out modes.html")
def simulate_tables(
    out: Annotated[Path, typer.Option(help="The page to write; open it in a browser.")] = Path("modes.html"),
    run: Annotated[Path | None, typer.Option(help="A run folder whose causes can be played.")] = None,
    period: Annotated[float, typer.Option(help="Control period, s.")] = 0.002,
) -> None:
    """One page to play with: toggle causes, see the mode, the reason and the timers."""
    from safeguard.modes.simulate import page

    runs: tuple[RecordedRun, ...] = ()
    if run is not None:
        from safeguard.recorded_modes import recorded_run

        runs = (recorded_run(run),)
        period = runs[0].period_s
    out.write_text(page(period=period, runs=runs), "utf-8")
    console.print(f"open {out} in a browser", **_PLAIN)


@modes.command("unlock", epilog="Example: safeguard modes unlock arm.lockout --operator A.Smith --reason 'new cable'")
def unlock(
    file: Annotated[Path, typer.Argument(help="The count of emergency stops that a shield keeps.", show_default=False)],
    operator: Annotated[str, typer.Option(help="Who looked after the body.")],
    reason: Annotated[str, typer.Option(help="What was done.")],
) -> None:
    """Set the count of emergency stops back after maintenance; who and why stay in the file."""
    from safeguard.lockout import LockoutFile

    if not file.exists():
        raise ConfigError(f"{file}: no such file")
    kept = LockoutFile(file)
    before = kept.estops
    kept.clear(operator=operator, reason=reason)
    console.print(f"{before} emergency stops cleared by {operator}: {reason}", markup=False, highlight=False)
