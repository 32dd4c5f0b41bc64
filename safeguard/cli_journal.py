"""``safeguard audit keygen``, ``verify`` and ``recover``: who signs a run, and whether it is as it was written."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from safeguard.core.errors import JournalError

Run = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
TEST_KEY = "test.key"

commands = typer.Typer()
console = Console()


def test_key(folder: Path) -> Path:
    """The key that signs simulated runs in ``folder``; made at first use. Raises JournalError."""
    from safeguard.audit import keygen

    key = folder / TEST_KEY
    if not key.exists():
        try:
            keygen(key, "test", "test")
        except JournalError:
            if not key.exists():  # somebody else was faster
                raise
    return key


@commands.command("keygen", epilog="Example: safeguard audit keygen keys/robot-7.key --purpose field")
def audit_keygen(
    out: Annotated[Path, typer.Argument(help="File for the private key; the public one gets .pub after it.")],
    name: Annotated[str | None, typer.Option(help="Name of the key.", show_default="that of the file")] = None,
    purpose: Annotated[str, typer.Option(help="field: a machine at work; test: tests and simulations.")] = "field",
) -> None:
    """Make the key pair that signs runs. Keep the private key from whoever is judged by the journal."""
    from safeguard.audit import keygen

    made = keygen(out, name or out.stem, _purpose(purpose))
    console.print(f"private: {out}\npublic:  {out}.pub", markup=False, highlight=False, soft_wrap=True)
    console.print(str(made.public), markup=False, highlight=False, soft_wrap=True)


def _purpose(given: str) -> Literal["field", "test"]:
    match given:
        case "field" | "test":
            return given
        case _:
            raise JournalError(f"--purpose {given!r}: field or test")


@commands.command("verify", epilog="Example: safeguard audit verify runs/demo-1 --key runs/test.key.pub")
def audit_verify(
    run: Run,
    key: Annotated[str | None, typer.Option(help="Public key that must have signed: its file, or its text.")] = None,
    runs: Annotated[Path | None, typer.Option(help="List of runs: this one must be in it, where it says.")] = None,
    as_json: Json = False,
) -> None:
    """Check every byte of a run's journal.

    Exit code 0 complete, 3 altered, 4 truncated, 5 gap, 6 open, 7 self-signed (nothing is wrong, but no key was given).
    """
    from safeguard.audit import read_public, verify_run
    from safeguard.audit.verify import EXIT_CODES

    report = verify_run(run, None if key is None else read_public(key), runs=runs)
    if as_json:
        print(json.dumps(asdict(report), indent=1))
    else:
        cut = f", {report.cut:,} of them cut and proved without being there" if report.cut else ""
        console.print(f"{report.verdict}: {report.records:,} records{cut}", highlight=False)
        if report.problem:
            at = "" if report.at_seq is None else f"record {report.at_seq}: "
            console.print(f"{at}{report.problem}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_CODES[report.verdict])


@commands.command("schemas", epilog="Example: safeguard audit schemas")
def audit_schemas() -> None:
    """Print the JSON Schemas of all record kinds."""
    from safeguard.audit.records.registry import json_schemas

    print(json.dumps(json_schemas(), indent=1, sort_keys=True))


@commands.command("recover", epilog="Example: safeguard audit recover runs/night-3 --key keys/robot-7.key")
def audit_recover(
    run: Run,
    key: Annotated[Path, typer.Option(help="The private key that signed the run.", show_default=False)],
    reason: Annotated[str, typer.Option(help="For the record.")] = "left open",
    anchor: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File that gets a copy of the checkpoint, as while recording.")
    ] = None,
    anchor_command: Annotated[
        str, typer.Option(metavar="COMMAND", help="Program that gets it on its input, with its arguments.")
    ] = "",
) -> None:
    """Close a run whose writer died: cut an unfinished frame, empty the ring, say so in a record, sign.

    Exit code 1 where the run is closed but its checkpoint could not be anchored.
    """
    from safeguard.audit.journal.keys import read_signer
    from safeguard.audit.journal.recover import recover
    from safeguard.audit.journal.witness import anchors

    done = recover(run, read_signer(key), reason, anchors(anchor, _words(anchor_command)))
    console.print(
        f"closed: {done.records:,} records, {done.from_ring:,} of them from the ring, {done.cut_bytes:,} bytes cut",
        highlight=False,
    )
    if done.unanchored:
        console.print(f"not anchored: {done.unanchored}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise JournalError(f"--anchor-command {command!r}: {error}") from error
