from __future__ import annotations

from pathlib import Path

import pytest

from safeguard.core.errors import ModeTableError
from safeguard.modes import STRATEGIES, compile_table, load_spec
from safeguard.modes.read import read_spec
from tests.unit.modes_support import PERIOD, TEXT, folder


def refused(tmp_path: Path, strategy: str, **texts: str) -> list[str]:
    """The problems of a strategy in a folder in which some files have another text."""
    with pytest.raises(ModeTableError) as caught:
        compile_table(read_spec(folder(tmp_path, **texts) / f"{strategy}.toml"), PERIOD)
    return str(caught.value).splitlines()


def line_of(text: str, passage: str, nth: int = 1) -> int:
    """The line of a passage, the first or a later one."""
    return [i for i, line in enumerate(text.splitlines(), 1) if passage in line][nth - 1]


@pytest.mark.parametrize(
    ("key", "wrong"),
    [("fill", "0"), ("drain", "-1"), ("rearm_share", "1.5"), ("rearm_share", '"half"'), ("fill", "inf")],
)
def test_errors_of_the_bridge_have_file_and_line(tmp_path: Path, key: str, wrong: str) -> None:
    """A row without an id is named by file, line and key, though it is not in the strategy's own file."""
    at = line_of(TEXT["core"], f"{key} = ")
    lines = TEXT["core"].splitlines()
    lines[at - 1] = f"{key} = {wrong}"
    (problem,) = refused(tmp_path, "vla", core="\n".join(lines))
    assert problem.startswith(f"core.toml:{at}: bridge.{key}: ")


def test_a_missing_key_is_at_its_row(tmp_path: Path) -> None:
    """Where a key is missing the row's id is told, and its header where that is missing too."""
    core = TEXT["core"]
    (problem,) = refused(tmp_path, "vla", core=core.replace('cause = "state_jump"\n', ""))
    assert problem.startswith(f"core.toml:{line_of(core, 'CORE-C05')} row CORE-C05: causes.4.cause: Field required")
    (problem,) = refused(tmp_path, "dual", core=core.replace('id = "CORE-E02"\n', ""))
    assert problem.startswith(f"core.toml:{line_of(core, 'CORE-E02') - 1}: escalations.1.id: Field required")
    (problem,) = refused(tmp_path, "dual", core=core.replace("drain = 1\n", ""))
    assert problem.startswith(f"core.toml:{line_of(core, '[bridge]')}: bridge.drain: Field required")


def test_a_missing_or_unknown_table_has_file_and_line(tmp_path: Path) -> None:
    """A table that is not there is told with the file it belongs to, one that nobody knows with its header."""
    core = TEXT["core"].replace("[bridge]", "[bridges]")
    problems = refused(tmp_path, "vla", core=core)
    assert [problem.split(" (")[0] for problem in problems] == [
        "core.toml:1: bridge: Field required",
        f"core.toml:{line_of(core, '[bridges]')}: bridges: Extra inputs are not permitted",
    ]
    own = TEXT["vla"].replace("schema = 2", "schema = 2\nmode = 3")
    (problem,) = refused(tmp_path, "vla", vla=own)
    assert problem.startswith(f"vla.toml:{line_of(own, 'mode = 3')}: mode: Extra inputs")


def test_rows_of_the_strategy_keep_their_own_line(tmp_path: Path) -> None:
    """A schema problem points at the wrong key itself, in the file of the strategy, behind all rows of the core."""
    own = TEXT["dual"].replace("debounce_s = 0.25", "debounce_s = -0.25")
    (problem,) = refused(tmp_path, "dual", dual=own)
    assert problem.startswith(f"dual.toml:{line_of(own, 'debounce_s')} row DUAL-C26: causes.25.debounce_s: ")


@pytest.mark.parametrize(
    ("file", "old", "new", "row", "key"),
    [
        ("core", "moving_s = 1.5", "moving_s = 0.001", "CORE-E01", "moving_s = 0.001"),
        ("core", "bridge_s = 0.12", "bridge_s = 0.0019", "CORE-C08", "bridge_s = 0.0019"),
        ("vla", "stay_s = 0.2", "stay_s = 0.001", "VLA-D01", "stay_s = 0.001"),
        ("vla", "window_s = 30.0", "window_s = 0.001", "VLA-F01", "window_s = 0.001"),
    ],
)
def test_times_shorter_than_a_tick_have_file_and_line(
    tmp_path: Path, file: str, old: str, new: str, row: str, key: str
) -> None:
    """A limit that no tick fits in is refused by the compiler where the file has its row."""
    text = TEXT[file].replace(old, new, 1)
    (problem,) = refused(tmp_path, "vla", **{file: text})
    at = line_of(text, f'"{row}"')
    assert problem.startswith(f"{file}.toml:{at} row {row}: {key} is shorter than one tick of 2000000 ns")


def test_duplicate_ids_have_both_lines(tmp_path: Path) -> None:
    """An id that is used twice is told with both places, in one file or in two."""
    core = TEXT["core"].replace('"CORE-C02"', '"CORE-C01"')
    first, second = (line_of(core, 'id = "CORE-C01"', nth) for nth in (1, 2))
    (problem,) = refused(tmp_path, "monolithic", core=core)
    said = "row CORE-C01: this id is used twice; give one row a new id"
    assert problem == f"core.toml:{first} and core.toml:{second} {said}"
    own = TEXT["vla"].replace('"VLA-M03"', '"CORE-M02"')
    (problem,) = refused(tmp_path, "vla", vla=own)
    assert problem.startswith(
        f"core.toml:{line_of(TEXT['core'], 'CORE-M02')} and vla.toml:{line_of(own, 'CORE-M02')} row"
    )


def test_a_missing_row_is_told_at_the_strategy(tmp_path: Path) -> None:
    """What is missing has no line of its own: the line that names the strategy stands for the table."""
    core = TEXT["core"].replace('cause = "state_jump"', 'cause = "state_invalid"')
    problems = refused(tmp_path, "modular", core=core)
    at = line_of(TEXT["modular"], "strategy = ")
    assert any(one.startswith(f"modular.toml:{at} row modular: no [[causes]] row for 'state_jump'") for one in problems)


def test_rows_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    """A list of words in the place of rows is refused at its key, not passed over."""
    own = TEXT["monolithic"] + 'recoveries = ["all"]\n'
    (problem,) = refused(tmp_path, "monolithic", monolithic=own)
    assert problem.startswith(f"monolithic.toml:{line_of(own, 'recoveries')}: recoveries.5: Input should be")
    own = TEXT["monolithic"] + "causes = 3\n"
    assert refused(tmp_path, "monolithic", monolithic=own)[0].startswith(
        f"monolithic.toml:{line_of(own, 'causes')}: causes"
    )


def test_rows_may_be_written_in_one_line(tmp_path: Path) -> None:
    """TOML has two forms of a list of tables; both are read, and both have their line in messages."""
    row = 'escalations = [{ id = "E", from = "hold", to = "stop", moving_s = 1.5 }]\n'
    core = TEXT["core"].replace("schema = 2\n", f"schema = 2\n{row}", 1)
    core = "[[".join(part for part in core.split("[[") if not part.startswith("escalations"))
    spec = read_spec(folder(tmp_path, core=core) / "monolithic.toml")
    assert [(one.id, one.moving_s) for one in spec.escalations] == [("E", 1.5)]
    (problem,) = refused(tmp_path, "monolithic", core=core.replace('to = "stop"', 'to = "cautious"', 1))
    assert problem.startswith(f"core.toml:{line_of(core, 'escalations')} row E: can never fire")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A file that is not UTF-8 is refused by name."""
    path = folder(tmp_path) / "dual.toml"
    path.write_bytes(b"\xff\xfe" + path.read_bytes())
    with pytest.raises(ModeTableError, match=r"dual\.toml: cannot be read: 'utf-8'"):
        read_spec(path)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_file_is_read_once(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked and what is told about are the same bytes: the strategy's file and its core, once each."""
    read: list[str] = []
    real = Path.read_text

    def counted(path: Path, encoding: str | None = None) -> str:
        read.append(path.name)
        return real(path, encoding)

    monkeypatch.setattr(Path, "read_text", counted)
    load_spec(strategy)
    assert read == [f"{strategy}.toml", "core.toml"]


def test_places_are_no_content() -> None:
    """Where rows are does not change what a table says: the same dump with and without."""
    spec = load_spec("vla")
    assert spec.place("VLA-D01").startswith("vla.toml:")
    bare = spec.placed({})
    assert bare.place("VLA-D01") == "vla.toml row VLA-D01"
    assert bare.model_dump(mode="json") == spec.model_dump(mode="json")
