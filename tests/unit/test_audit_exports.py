from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard.audit import exports, open_run, timeline
from safeguard.audit.exports import EXPORTS, default_out, export_run
from safeguard.audit.reader import read_run
from safeguard.audit.records.encode import JsonObject
from safeguard.audit.records.registry import SCHEMAS, Record, json_schemas
from safeguard.audit.timeline import CutShortError, Moment, envelope, moments
from safeguard.core.enums import Enforcement, RecordKind
from safeguard.core.errors import ConfigError, JournalError, MissingExtraError
from safeguard.core.types import NS_PER_S
from tests.unit.audit_runs import (
    PERIOD,
    append_tick,
    decision,
    episode_open,
    observation,
    run_open,
)
from tests.unit.export_support import EPISODES, NEEDS, TICKS, decisions, exported, mcap_counts, modes, needed
from tests.unit.export_support import demo as demo
from tests.unit.export_support import odd as odd
from tests.unit.export_support import small as small

# --- one time axis ---------------------------------------------------------------------------------------


def test_episodes_follow_each_other_on_the_axis(demo: Path) -> None:
    """Time never runs backwards, and within an episode it runs as recorded."""
    found = list(moments(demo))
    times = [moment.at for moment in found]
    ticks = [moment for moment in found if moment.record.kind is RecordKind.DECISION]

    assert times == sorted(times)
    assert [moment.since for moment in ticks] == [at * PERIOD / NS_PER_S for at in range(TICKS)] * EPISODES
    assert [moment.episode for moment in ticks] == [at for at in range(EPISODES) for _ in range(TICKS)]
    assert ticks[-1].at == (EPISODES - 1) * (TICKS - 1) * PERIOD + (TICKS - 1) * PERIOD


def moved(run: Path, shift: int) -> Iterator[Record]:
    """The run with all its times moved by ``shift`` ns."""
    for record in read_run(run):
        yield replace(record, t=None if record.t is None else record.t + shift)


@pytest.mark.parametrize(("shift", "first"), [(0, 0), (10**15, 10**15), (-(10**9), 0)])
def test_the_axis_starts_at_the_first_recorded_time(
    small: Path, monkeypatch: pytest.MonkeyPatch, shift: int, first: int
) -> None:
    """Records without a time stand at the first time there is; times below 0, which no format holds, start at 0."""
    monkeypatch.setattr(timeline, "read_run", partial(moved, shift=shift))
    found = list(moments(small))

    assert {moment.start for moment in found} == {first}
    assert found[0].at == first
    assert max(moment.at for moment in found) - first == 29 * PERIOD


def test_a_run_without_any_time_can_be_read(tmp_path: Path) -> None:
    """A run that ended before its first tick has all its records at 0."""
    with open_run(tmp_path / "run", run_open()):
        pass

    assert [(moment.at, moment.since) for moment in moments(tmp_path / "run")] == [(0, None), (0, None)]


# --- every format ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", EXPORTS)
def test_progress_counts_every_record(small: Path, tmp_path: Path, to: str) -> None:
    """The last number that a progress bar is told is the number of records, and only the result is left behind."""
    needed(to)
    told: list[int] = []
    out = export_run(small, to, tmp_path / "deep" / "out", told.append)

    assert told[-1] == sum(1 for _ in read_run(small))
    assert [item.name for item in out.parent.iterdir()] == ["out"]


def missing(name: str) -> None:
    """What ``find_spec`` says of a package that is not installed."""


@pytest.mark.parametrize("to", EXPORTS)
def test_a_missing_library_is_named_with_its_fix(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """Without its package a format says what to install and writes nothing; JSONL needs none."""
    monkeypatch.setattr(exports, "find_spec", missing)
    if not NEEDS[to]:
        export_run(small, to, tmp_path / "out")
        return
    with pytest.raises(MissingExtraError, match=r"pip install 'safeguard-runtime\[export\]'"):
        export_run(small, to, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_importing_the_registry_loads_no_optional_library() -> None:
    """The formats are looked up without their libraries."""
    code = "import sys, safeguard.audit.exports; print([n for n in sys.argv[1:] if n in sys.modules])"
    names = sorted({name for needs in NEEDS.values() for name in needs})
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def cut(run: Path, after: int) -> Iterator[Record]:
    """The run with a damage after ``after`` records."""
    yield from islice(read_run(run), after)
    raise JournalError(f"{run}: damaged")


@pytest.mark.parametrize("to", EXPORTS)
def test_a_damaged_run_is_exported_up_to_the_damage(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """What stands before the damage is there, finished and readable, and the error says how much that is."""
    needed(to)
    monkeypatch.setattr(timeline, "read_run", partial(cut, after=10))
    out = tmp_path / f"out{EXPORTS[to].suffix}"

    with pytest.raises(CutShortError, match="damaged; the 10 records before it were read") as caught:
        export_run(small, to, out)
    assert caught.value.records == 10
    if to == "jsonl":
        assert len(out.read_bytes().splitlines()) == 10
    if to == "parquet":
        assert sum(1 for _ in out.iterdir()) == len(SCHEMAS)
    if to == "mcap":
        assert sum(mcap_counts(out)[f"/records/{kind.value}"] for kind in SCHEMAS) == 10


def test_a_run_whose_first_record_is_damaged_is_no_run(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any record nothing is left behind."""
    monkeypatch.setattr(timeline, "read_run", partial(cut, after=0))

    with pytest.raises(JournalError, match=r"damaged$"):
        export_run(small, "jsonl", tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(small: Path, tmp_path: Path) -> None:
    """A file that is there already stays as it is."""
    out = tmp_path / "out.jsonl"
    out.write_text("mine")

    with pytest.raises(ConfigError, match=r"out\.jsonl exists"):
        export_run(small, "jsonl", out)
    assert out.read_text() == "mine"


def test_an_unknown_format_names_the_known_ones(small: Path, tmp_path: Path) -> None:
    """The error lists every format."""
    with pytest.raises(ConfigError, match=r"'csv'.*jsonl, parquet, mcap, rerun, otel"):
        export_run(small, "csv", tmp_path / "out")


def test_a_place_that_cannot_be_written_is_named(small: Path, tmp_path: Path) -> None:
    """A folder that is a file is an error with its name."""
    (tmp_path / "file").write_text("")

    with pytest.raises(JournalError, match=r"cannot write .*file/out\.jsonl"):
        export_run(small, "jsonl", tmp_path / "file" / "out.jsonl")


FULL = """
import resource, sys
from safeguard.audit import exports
from safeguard.core.errors import JournalError

run, to, out, size = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
try:
    exports.export_run(run, to, out)
except JournalError as error:
    print(error)
"""


@pytest.mark.parametrize(("to", "size"), [*((to, 8_000) for to in EXPORTS), ("rerun", 0), ("rerun", 70_000)])
def test_a_full_disk_leaves_nothing_behind(demo: Path, tmp_path: Path, to: str, size: int) -> None:
    """Where no file may have more than ``size`` bytes, the export is an error that names it, and no half stays."""
    needed(to)
    command = [sys.executable, "-c", FULL, str(demo), to, str(tmp_path / "out"), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)

    assert done.stdout.startswith("cannot write ")
    assert "out" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_there_leaves_nothing_behind(tmp_path: Path) -> None:
    """Not even the folder of the run."""
    with pytest.raises(JournalError, match="nothing"):
        export_run(tmp_path / "nothing", "jsonl", default_out(tmp_path / "nothing", "jsonl"))
    assert list(tmp_path.iterdir()) == []


def test_every_format_has_a_place(tmp_path: Path) -> None:
    """By default exports of all formats stand beside each other in the run folder."""
    places = [default_out(tmp_path, to) for to in EXPORTS]

    assert len(set(places)) == len(EXPORTS)
    assert {place.parent for place in places} == {tmp_path}


def long(run: Path, ticks: int) -> Iterator[Record]:
    """A run of ``ticks`` decisions, made of one."""
    records = list(islice(read_run(run), 10))
    tick = next(record for record in records if record.kind is RecordKind.DECISION)
    yield from records[:2]
    for at in range(ticks):
        yield replace(tick, seq=at + 2, tick=at, t=at * PERIOD)


def grows(run: Path, to: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the export of four times the decisions takes more than a quarter more memory."""

    def peak(ticks: int, attempt: int = 0) -> int:
        monkeypatch.setattr(timeline, "read_run", partial(long, ticks=ticks))
        tracemalloc.start()
        export_run(run, to, folder / f"{ticks}-{attempt}")
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10)  # what a library builds once
    # Other threads of the process may allocate meanwhile, once; what grows does so every time.
    return all(peak(4800, attempt) > 1.25 * peak(1200, attempt) + 100_000 for attempt in range(3))


@pytest.mark.parametrize("to", EXPORTS)
def test_memory_does_not_grow_with_the_run(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """A run four times as long takes no more memory."""
    needed(to)

    assert not grows(small, to, tmp_path, monkeypatch)


def test_memory_that_grows_is_noticed(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that keeps what it is given is seen to grow."""
    kept: list[JsonObject] = []

    def hoard(_: object, moment: Moment) -> None:
        kept.append(envelope(moment.record))

    monkeypatch.setattr("safeguard.audit.exports.jsonl.Lines.add", hoard)

    assert grows(small, "jsonl", tmp_path, monkeypatch)


# --- JSONL -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_jsonl_has_every_record_whole(odd: Path, tmp_path: Path, name: str) -> None:
    """A line is envelope, body and hash of a record, in order; compressed or not."""
    out = export_run(odd, "jsonl", tmp_path / name)
    data = out.read_bytes()
    lines = (gzip.decompress(data) if name.endswith(".gz") else data).splitlines()

    assert [orjson.loads(line) for line in lines] == [{**envelope(r), "hash": r.hash} for r in read_run(odd)]
    assert b'"torque":"NaN"' in lines[2]
    assert b'"velocity":"Infinity"' in lines[2]


def test_jsonl_fits_the_json_schemas(small: Path, tmp_path: Path) -> None:
    """The keys of a line are those of the published schema of its kind, plus the hash."""
    lines = [json.loads(line) for line in export_run(small, "jsonl", tmp_path / "out").read_text().splitlines()]
    schemas: Any = json_schemas()

    assert {line["kind"] for line in lines} >= {"run_open", "decision", "run_close"}
    for line in lines:
        assert set(line) - {"hash"} == set(schemas[line["kind"]]["properties"])


# --- Parquet ---------------------------------------------------------------------------------------------


def test_parquet_reads_back_with_pyarrow(small: Path, tmp_path: Path) -> None:
    """Every kind has its file, with as many rows as there are records; decisions have their numbers as columns."""
    out = exported(small, "parquet", tmp_path)
    parquet: Any = import_module("pyarrow.parquet")
    rows = {kind: parquet.read_table(out / f"{kind.value}.parquet").to_pylist() for kind in SCHEMAS}
    counts = Counter(record.kind for record in read_run(small))
    first, row = decisions(small)[0], rows[RecordKind.DECISION][0]
    body: Any = first.data

    assert {kind: len(found) for kind, found in rows.items()} == {kind: counts[kind] for kind in SCHEMAS}
    assert (row["seq"], row["tick"], row["now"], row["hash"]) == (first.seq, 0, 0, first.hash)
    assert (row["mode"], row["causes"], row["filter_status"]) == ("NOMINAL", [], "admissible")
    assert row["q"] == body["observation"]["state"]["q"]
    assert row["v"] == body["observation"]["state"]["v"]
    assert row["command_tau"] == row["torque"] == body["decision"]["filter"]["torque"]
    assert row["margins_clearance"] == body["decision"]["filter"]["margins"]["clearance"]
    assert row["timings_total"] == body["timings"]["total"]
    assert json.loads(row["proposal"]) == body["proposal"]
    assert [verdict["monitor"] for verdict in row["verdicts"]][:2] == ["intake.state", "intake.proposal"]
    assert rows[RecordKind.HUMAN][0]["operator"] == "script"
    assert rows[RecordKind.EPISODE_OPEN][0]["mode"] == "BOOT"
    assert json.loads(rows[RecordKind.FAULT_INJECTED][0]["evidence"]) == "torque"


def test_parquet_columns_are_stable(small: Path, tmp_path: Path) -> None:
    """Names and types that queries rely on."""
    out = exported(small, "parquet", tmp_path)
    parquet: Any = import_module("pyarrow.parquet")
    types = {field.name: str(field.type) for field in parquet.read_schema(out / "decision.parquet")}

    assert [name for name in types if name.startswith("margins_")] == [
        "margins_position",
        "margins_velocity",
        "margins_torque",
        "margins_clearance",
        "margins_nearest",
    ]
    expected = {"tick": "int64", "now": "int64", "mode": "string", "causes": "list<element: string>"}
    expected |= {"authority": "string", "filter_status": "string", "solver": "string", "effort": "double"}
    expected |= dict.fromkeys(("q", "v", "torque", "acceleration", "command_tau"), "list<element: double>")
    expected |= {"margins_clearance": "double", "timings_total": "int64", "sensors": "extension<arrow.json>"}
    assert {name: types[name].replace("item:", "element:") for name in expected} == expected


def test_parquet_reads_with_duckdb(demo: Path, tmp_path: Path) -> None:
    """DuckDB counts the same modes as the journal, looks into lists, and joins kinds."""
    duckdb: Any = pytest.importorskip("duckdb", reason="needs DuckDB, the reader")
    out = exported(demo, "parquet", tmp_path)
    query = f"SELECT mode, count(*) FROM '{out}/decision.parquet' GROUP BY mode"
    expected = Counter(modes(demo))
    joined = f"""
        SELECT o.scenario, min(d.margins_clearance), max(d.q[2])
        FROM '{out}/decision.parquet' d JOIN '{out}/episode_open.parquet' o USING (episode)
        WHERE list_contains(d.causes, 'monitor_warn') GROUP BY o.scenario ORDER BY 1
    """

    assert dict(duckdb.sql(query).fetchall()) == expected
    assert [row[0] for row in duckdb.sql(joined).fetchall()] == sorted(
        ("joint limits", "self-collision", "torque spikes", "NaN burst", "policy hang", "frozen view")
    )


def test_parquet_keeps_what_is_no_number(odd: Path, tmp_path: Path) -> None:
    """NaN and infinities stay what they are, and an array of another shape is kept beside its empty column."""
    out = exported(odd, "parquet", tmp_path)
    parquet: Any = import_module("pyarrow.parquet")
    rows = parquet.read_table(out / "decision.parquet").to_pylist()

    assert rows[0]["margins_velocity"] == float("inf")
    assert np.isnan(rows[0]["margins_torque"])
    assert rows[0]["effort"] == float("-inf")
    assert [np.isnan(row["q"]).tolist().count(True) for row in rows[:2]] == [0, 1]
    assert rows[0]["misshapen"] is None
    assert rows[2]["q"] is None
    assert json.loads(rows[2]["misshapen"]) == {"q": {"shape": [0, 2], "data": []}}


NUMBERS = st.lists(st.floats(width=64), min_size=1, max_size=7)


@settings(max_examples=25)
@given(values=NUMBERS, effort=st.floats(width=64))
def test_parquet_numbers_keep_their_bits(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], effort: float
) -> None:
    """Any float64 that a sensor can say comes back with the same bits, a NaN as a NaN."""
    needed("parquet")
    parquet: Any = import_module("safeguard.audit.exports.parquet")
    pq: Any = import_module("pyarrow.parquet")
    folder = tmp_path_factory.mktemp("bits")
    seen = observation(0, np.array(values))
    with open_run(folder / "run", run_open()) as journal:
        journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.FULL, "bits"))
        append_tick(journal, 0, seen, decision(0, effort=effort))
    row = pq.read_table(export_run(folder / "run", "parquet", folder / "out") / "decision.parquet").to_pylist()[0]

    assert parquet.ROWS > 0
    for got, expected in zip([*row["q"], row["effort"]], [*values, effort], strict=True):
        assert np.isnan(got) if np.isnan(expected) else np.float64(got).tobytes() == np.float64(expected).tobytes()
