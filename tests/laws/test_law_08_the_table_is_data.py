from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import safeguard.shield as shield_module
from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import ModeTableError
from safeguard.modes.mutate import mutants
from safeguard.modes.spec import TableSpec, lint, read_spec
from safeguard.modes.table import COMPILER_VERSION, TABLES, ModeTable, compile_table, load_table
from safeguard.modes.walk import abstraction, walk
from tests.laws.lab import PERIOD, Lab, records

Patch = pytest.MonkeyPatch
FILE = TABLES / "monolithic.toml"
SPEC = read_spec(FILE)
MUTANTS = dict(mutants(SPEC))


def file_digest(file: Path) -> str:
    """SHA-256 of the content of a table file and the compiler's version, computed here."""
    content = json.dumps(read_spec(file).model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{COMPILER_VERSION}\n{content}".encode()).hexdigest()


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


def causes_of(name: str) -> tuple[Cause, ...]:
    """The cause of the row that a mutant changed, beside three that are always in the walk."""
    own = [row.cause for row in SPEC.causes if row.id == name.split()[0]]
    return tuple(dict.fromkeys((*own, Cause.ESTOP, Cause.POLICY_LATE, Cause.TICK_OVERRUN)))


def test_law_8_executed(tmp_path: Path) -> None:
    """The digest in the run is the file's, and so is every number of the executed table."""
    check_law_8_executed(tmp_path / "run")


@pytest.mark.parametrize("cause", [Cause.STATE_JUMP, Cause.AUDIT_FAILED], ids=lambda cause: cause.value)
def test_law_8_proved(cause: Cause) -> None:
    """The table on file passes the walk (tests/theory walks all causes)."""
    check_law_8_proved(SPEC, (cause, Cause.ESTOP, Cause.POLICY_LATE, Cause.TICK_OVERRUN))


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
    return compile_table(MUTANTS["MON-R03 without ack"], PERIOD)


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


def test_law_8_planted_file(tmp_path: Path) -> None:
    """An edit of the file itself changes its digest."""
    copy = tmp_path / "monolithic.toml"
    text = FILE.read_text("utf-8")
    assert text.count("bridge_s = 0.12") > 1
    copy.write_text(text.replace("bridge_s = 0.12", "bridge_s = 0.122", 1), "utf-8")
    with pytest.raises(AssertionError, match="another table"):
        check_law_8_executed(tmp_path / "run", copy)


@pytest.mark.parametrize(
    "name",
    [
        "MON-C01 floor -1",
        "MON-C05 bridge added",
        "MON-C08 bridge x2",
        "MON-C12 bridge +1",
        "MON-M04 authority = policy",
        "MON-M02 at full speed",
        "MON-E01 dropped",
        "MON-R03 without ack",
        "MON-R03 without standstill",
        "MON-R05 to cautious",
        "MON-L01 beyond = 3",
    ],
)
def test_law_8_planted_mutant(name: str) -> None:
    """A table with one slip does not pass."""
    with pytest.raises(AssertionError):
        check_law_8_proved(MUTANTS[name], causes_of(name))
