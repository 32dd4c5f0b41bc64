"""Runs spin on the Promela model of a mode table: verdicts, reached modes, and the whole transition relation."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safeguard.core.enums import Cause, Mode
from safeguard.core.errors import ModeTableError
from safeguard.modes.promela import promela
from safeguard.modes.promela_watch import PROPERTIES
from safeguard.modes.requirements import Bounds
from safeguard.modes.spec import TableSpec

MEMORY_MIB: Final = 2000
DEPTH: Final = 1_000_000
TIMEOUT_S: Final = 600


@dataclass(frozen=True, slots=True)
class SpinResult:
    """What spin found out about a model.

    Attributes:
        verdicts: property → whether no reachable tick breaks it.
        modes: those that some path reaches.
        states, transitions: of the model with its observers.
        seconds: of the search.
    """

    verdicts: Mapping[str, bool]
    modes: frozenset[Mode]
    states: int
    transitions: int
    seconds: float

    @property
    def broken(self) -> tuple[str, ...]:
        """The properties that do not hold."""
        return tuple(name for name, holds in self.verdicts.items() if not holds)


@dataclass(frozen=True, slots=True)
class Census:
    """The reachable part of a model without observers.

    Attributes:
        states: all of them, as the values of ``promela_machine.Machine.memory``.
        transitions: one for each state and input.
        checksum: sum of a 64-bit hash of (state, input, who moves the body, next state), modulo 2⁶⁴.
    """

    states: frozenset[tuple[int, ...]]
    transitions: int
    checksum: int


def missing_tools() -> str:
    """What to install before spin can run; empty where it can."""
    absent = " and ".join(name for name in ("spin", "gcc") if shutil.which(name) is None)
    return f"{absent} not found; the second engine needs both (Debian: apt install spin gcc)" if absent else ""


def spin_check(spec: TableSpec, causes: tuple[Cause, ...], owed: Bounds, folder: Path) -> SpinResult | None:
    """Spin's verdict on every property that ``spec`` owes when ``causes`` come and go; None without the tools.

    ``spec`` and ``owed`` are on one small scale: ``requirements.abstract``. ``folder`` gets the model, the verifier and
    its output. Raises ModeTableError where the search did not finish.
    """
    if missing_tools():
        return None
    out = _search(promela(spec, causes, owed), folder)
    broken = {name for name in PROPERTIES if re.search(rf"assertion violated {name}\b", out)}
    return SpinResult(
        verdicts={name: name not in broken for name in PROPERTIES},
        modes=frozenset(Mode(int(number)) for number in re.findall(r"^mode (\d)$", out, re.M)),
        states=int(_one(r"(\d+) states, stored", out)),
        transitions=int(_one(r"(\d+) transitions", out)),
        seconds=float(_one(r"elapsed time (\S+) seconds", out)),
    )


def spin_census(spec: TableSpec, causes: tuple[Cause, ...], folder: Path) -> Census | None:
    """Every reachable state and a checksum over all transitions, as spin finds them; None without the tools."""
    if missing_tools():
        return None
    out = _search(promela(spec, causes, census=True), folder)
    states = frozenset(tuple(map(int, line.split())) for line in re.findall(r"^state (.+)$", out, re.M))
    edges, checksum = _one(r"^census (\d+ \d+)$", out).split()
    return Census(states, int(edges), int(checksum))


def _search(model: str, folder: Path) -> str:
    """The verifier's output on a model, after a complete search."""
    (folder / "model.pml").write_text(model, encoding="utf-8")
    options = ["-O0", "-w", "-DSAFETY", "-DNOREDUCE", f"-DMEMLIM={MEMORY_MIB}"]
    _run(["spin", "-a", "model.pml"], folder)
    _run(["gcc", *options, "-o", "pan", "pan.c"], folder)
    out = _run(["./pan", f"-m{DEPTH}", "-w20", "-c0", "-n"], folder)
    if "Search not completed" in out or "max search depth too small" in out or "out of memory" in out:
        raise ModeTableError(f"spin did not finish: give it fewer causes or shorter times\n{out[-2000:]}")
    return out


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-2000:]
        raise ModeTableError(f"{' '.join(command)}: exit status {done.returncode}\n{said}")
    (folder / f"{Path(command[0]).name}.out").write_text(done.stdout, encoding="utf-8")
    return done.stdout


def _one(pattern: str, out: str) -> str:
    found = re.search(pattern, out, re.M)
    if found is None:
        raise ModeTableError(f"spin's output has no {pattern!r}\n{out[-2000:]}")
    return found.group(1)
