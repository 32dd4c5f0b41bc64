"""``safeguard audit prune`` and ``evidence``: what of a run may go, and what runs are evidence for."""

from __future__ import annotations

import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from safeguard.core.errors import JournalError, SafeguardError

if TYPE_CHECKING:
    from safeguard.audit.evidence import Finding
    from safeguard.audit.prune import Plan

Run = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
_PLAIN: Any = {"markup": False, "highlight": False, "soft_wrap": True}  # a path is never broken over two lines
CONTRADICTED = 3

commands = typer.Typer()
console = Console()


@commands.command("prune", epilog="Example: safeguard audit prune runs/night-3 --rule older-than=365d --dry-run")
def audit_prune(
    run: Run,
    rule: Annotated[str, typer.Option(metavar="RULE", help="older-than=DAYSd or before-seq=N.", show_default=False)],
    key: Annotated[Path | None, typer.Option(help="The private key that signed the run.", show_default=False)] = None,
    operator: Annotated[str, typer.Option(help="Who cuts; for the record.", show_default=False)] = "",
    reason: Annotated[str, typer.Option(help="For the record.")] = "retention",
    yes: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Cut this kind although it is to be kept longer; may be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be cut.")] = False,
) -> None:
    """Cut whole segments from the beginning of a run; the rest still verifies, and says what is missing."""
    from safeguard.audit.journal.keys import read_signer
    from safeguard.audit.prune import Rule, first_episode, plan_cut, prune

    wanted, now = Rule.parse(rule), time.time_ns()
    if dry_run:
        _tell(plan_cut(run, wanted, now), "would cut")
        return
    if key is None or not operator:
        raise JournalError("prune signs what it does: give --key PRIVATE and --operator NAME, or --dry-run to look")
    done = prune(run, wanted, read_signer(key), operator=operator, reason=reason, now=now, named=yes or ())
    _tell(done.plan, "cut")
    if done.files:
        console.print(f"{done.files} files removed, {done.freed:,} bytes; journal: {done.report.verdict}", **_PLAIN)
        start = first_episode(run)
        told = "no whole episode is left to replay"
        if start is not None:
            told = f"left whole, and to be replayed with --episode: {start[1]} and later, from record {start[0]}"
        console.print(told, **_PLAIN)


def _tell(plan: Plan, verb: str) -> None:
    if plan.place is None:
        console.print(f"{verb} nothing", **_PLAIN)
        return
    what = ", ".join(f"{count:,} {kind}" for kind, count in sorted(plan.counts.items()))
    console.print(f"{verb} records {plan.first} to {plan.last}: {what}", **_PLAIN)
    if plan.held:
        held = ", ".join(f"{count:,} {kind}" for kind, count in sorted(plan.held.items()))
        console.print(f"to be kept longer than the rule says: {held}", **_PLAIN)


@commands.command(
    "evidence", epilog="Example: safeguard audit evidence runs/demo-1 --key runs/test.key.pub --out dossier"
)
def audit_evidence(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", show_default=False)],
    key: Annotated[str | None, typer.Option(help="Public key that must have signed: its file, or its text.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for evidence.html and evidence.json.")] = Path("evidence"),
    no_replay: Annotated[bool, typer.Option("--no-replay", help="Leave out the replay, which takes longest.")] = False,
    as_json: Json = False,
) -> None:
    """Hold runs against a safety argument and the clauses of rules: what they are evidence for, and what is missing.

    Exit code 3 where a check contradicts the argument.
    """
    from safeguard.audit import read_public
    from safeguard.audit.evidence import Outside, assemble, gather, write_dossier

    public = None if key is None else read_public(key)
    outside = Outside(None if no_replay else _replayed, _table_checked)
    dossier = assemble([gather(run, public) for run in runs], outside, key)
    try:
        page, data = write_dossier(dossier, out, _provenance())
    except OSError as error:
        raise JournalError(f"cannot write {error.filename}: {error.strerror}") from error
    if as_json:
        print(json.dumps({"page": str(page), "data": str(data), "leaves": dossier.counts}, indent=1))
    else:
        for status, count in dossier.counts.items():
            console.print(f"{status:<13}{count}", **_PLAIN)
        for leaf in dossier.root.leaves():
            if leaf.status != "supported":
                console.print(f"  {leaf.status}: {leaf.node.id} {leaf.node.text}", **_PLAIN)
        console.print(str(page), **_PLAIN)
    raise typer.Exit(CONTRADICTED if dossier.counts["contradicted"] else 0)


def _replayed(run: Path) -> Finding:
    """What a replay finds; a run that cannot be replayed is no contradiction, but no evidence either."""
    from safeguard.audit.evidence import Finding
    from safeguard.replay import replay_run

    try:
        report = replay_run(run, strictness="machine")
    except SafeguardError as error:
        return Finding("missing", f"cannot be replayed: {error}")
    if report.divergence is not None:
        at = report.divergence
        return Finding("contradicted", f"episode {at.episode}, tick {at.tick} (record {at.seq}) differs: {at.path}")
    if not report.decisions and not report.losses:
        return Finding("missing", "no decision to replay")
    how = "the same within the tolerances of the schema" if report.deviations else "identical"
    came = f"{report.decisions:,} decisions came out {how}"
    if report.losses:
        more = f"; and {len(report.losses) - 1:,} more losses" if report.losses[1:] else ""
        return Finding("missing", f"{came}; but {report.losses[0]}{more}")
    return Finding("supported", came)


def _table_checked(strategy: str, digest: str, period: float) -> Finding:
    """Whether the built-in table of the strategy has a passing certificate, and is the one that ruled."""
    from safeguard.audit.evidence import Finding
    from safeguard.modes.certificate import load_table

    try:
        table = load_table(strategy, period)
    except SafeguardError as error:
        return Finding("missing", str(error))
    if table.digest != digest:
        return Finding("missing", f"the run has the table {digest[:12]}, this safeguard checked {table.digest[:12]}")
    return Finding("supported", f"table {digest[:12]} of {strategy}, checked exhaustively")


def _provenance() -> dict[str, Any]:
    """What differs from call to call: never part of the page."""
    from safeguard.core.version import __version__

    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"made_utc": now, "safeguard": __version__, "python": platform.python_version()}
