from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import safeguard.modes.table as compiler_module
import safeguard.shield as shield_module
from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import ModeTableError
from safeguard.modes import STRATEGIES, load_spec, load_table
from safeguard.modes.lint import lint
from safeguard.modes.mutate import mutants, world
from safeguard.modes.read import read_spec
from safeguard.modes.spec import TableSpec
from safeguard.modes.table import TABLES, ModeTable, compile_table
from safeguard.modes.walk import abstraction, walk
from tests.laws.lab import PERIOD, Lab
from tests.unit.audit_edit import records

Patch = pytest.MonkeyPatch
FILE = TABLES / "monolithic.toml"
SPEC = read_spec(FILE)
MUTANTS = {mutant.name: mutant for strategy in STRATEGIES for mutant in mutants(load_spec(strategy))}
WORLD = (Cause.ESTOP, Cause.PROPOSAL_INVALID, Cause.TICK_OVERRUN)


def file_digest(file: Path) -> str:
    """SHA-256 of the content of a table file and of schema, compiler, state and engine, computed here."""
    names = ("spec.py", "read.py", "lint.py", "table.py", "state.py", "engine.py")
    sources = [(TABLES.parent / name).read_bytes() for name in names]
    compiler = hashlib.sha256(b"\0".join(sources)).hexdigest()
    content = json.dumps(read_spec(file).model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{compiler}\n{content}".encode()).hexdigest()


def check_law_8_executed(run: Path, file: Path = FILE) -> None:
    """What is executed is what the file says, and the run says which file that was."""
    lab = Lab(audit=run)
    lab.run(3)
    lab.shield.close()
    assert records(run)[0]["body"]["digests"]["table"] == file_digest(file), "the run names another table"
    assert lab.shield.table == compile_table(read_spec(file), PERIOD), "another table is executed"


def check_law_8_proved(spec: TableSpec, causes: tuple[Cause, ...]) -> None:
    """The table passes the lint and the exhaustive walk over every reachable state and input."""
    problems = list(lint(spec))
    assert not problems, problems
    try:
        found = walk(abstraction(spec, PERIOD, causes))
    except ModeTableError as error:
        raise AssertionError(str(error)) from error
    assert found.broken == "", "\n".join((found.broken, *found.story))
    assert found.edges > 500


def test_law_8_executed(tmp_path: Path) -> None:
    """The digest in the run is the file's, and so is every number of the executed table."""
    check_law_8_executed(tmp_path / "run")


@pytest.mark.parametrize("cause", [Cause.STATE_JUMP, Cause.POLICY_LATE, Cause.SYSTEM2_FAILED], ids=lambda c: c.value)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_law_8_proved(strategy: str, cause: Cause) -> None:
    """The tables on file pass the walk (tests/theory walks all causes)."""
    check_law_8_proved(load_spec(strategy), (cause, *WORLD))


# -- planted ------------------------------------------------------------------------------------------


def edited_in_memory(table: ModeTable) -> ModeTable:
    """HOLD hands the body to the policy; the digest stays."""
    authority = tuple(Authority.POLICY if mode is Mode.HOLD else table.authority[mode] for mode in Mode)
    return replace(table, authority=authority)


def other_period(table: ModeTable) -> ModeTable:
    """The times of another control period."""
    return compile_table(SPEC, 2 * PERIOD)


def other_digest(table: ModeTable) -> ModeTable:
    """A digest that belongs to something else."""
    return replace(table, digest="0" * 64)


def other_file(table: ModeTable) -> ModeTable:
    """A table that was edited before it was loaded."""
    return compile_table(MUTANTS["CORE-R03 guards = [standstill, clear, drained]"].spec, PERIOD)


@pytest.mark.parametrize(
    "plant",
    [edited_in_memory, other_period, other_digest, other_file],
    ids=lambda plant: plant.__name__,
)
def test_law_8_planted_table(plant: Callable[[ModeTable], ModeTable], tmp_path: Path, monkeypatch: Patch) -> None:
    """A table that is not the file's is seen."""

    def load(strategy: str, period: float) -> ModeTable:
        return plant(load_table(strategy, period))

    monkeypatch.setattr(shield_module, "load_table", load)
    with pytest.raises(AssertionError):
        check_law_8_executed(tmp_path / "run")


def test_law_8_planted_certificate(tmp_path: Path, monkeypatch: Patch) -> None:
    """A shield does not start on a table that differs from the one that was checked in one number."""
    for file in TABLES.glob("*.toml"):
        (tmp_path / file.name).write_text(file.read_text("utf-8").replace("beyond = 2", "beyond = 3"), "utf-8")
    monkeypatch.setattr(compiler_module, "TABLES", tmp_path)
    with pytest.raises(ModeTableError, match="changed since the check"):
        Lab()


def test_law_8_planted_file(tmp_path: Path) -> None:
    """An edit of the core that the file names changes its digest."""
    for name in ("monolithic", "core"):
        text = (TABLES / f"{name}.toml").read_text("utf-8")
        (tmp_path / f"{name}.toml").write_text(text.replace("bridge_s = 0.12", "bridge_s = 0.122", 1), "utf-8")
    with pytest.raises(AssertionError, match="another table"):
        check_law_8_executed(tmp_path / "run", tmp_path / "monolithic.toml")


@pytest.mark.parametrize(
    "name",
    [
        "CORE-C01 floor = stop, clear = ack",
        "CORE-C05 bridge_ticks = 3",
        "CORE-C08 bridge_s = 0.24",
        "CORE-C12 bridge_ticks = 4",
        "CORE-M04 authority = policy",
        "CORE-E01 dropped",
        "CORE-R03 guards = [standstill, clear, drained]",
        "CORE-R03 guards = [ack, clear, drained]",
        "CORE-R05 target = cautious",
        "CORE-L01 beyond = 3",
        "VLA-D01 stay_s = 0.4",
        "DUAL-K01 guards = []",
        "DUAL-D01 intolerable = [perception_warn]",
        "MOD-K01 dwell_s = 0.25",
        "MOD-C24 debounce_s = 0.24",
    ],
)
def test_law_8_planted_mutant(name: str) -> None:
    """A table with one slip does not pass."""
    with pytest.raises(AssertionError):
        check_law_8_proved(MUTANTS[name].spec, world(MUTANTS[name]))
