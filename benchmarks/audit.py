"""What recording costs, and what it finds: hand-over in the control thread, sustained rate, verification, size, peers.

python benchmarks/audit.py --json benchmarks/audit.json

Peers get the same records in the same run, in turns. A peer that is not installed is left out by name
(`pip install mcap pymerkle`).
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import ormsgpack
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from a clone

from safeguard.audit import AuditConfig, Journal, Signer, open_run, verify_run
from safeguard.audit.journal import frames
from safeguard.audit.journal.scan import unpacked
from safeguard.audit.journal.segments import FOLDER, SegmentWriter, Style
from safeguard.core.enums import RecordKind
from safeguard.scenarios.runner import run_episode
from safeguard.scenarios.scenario import load_scenario
from safeguard.shield import Shield
from tests.unit.audit_edit import contents, put, raw
from tests.unit.audit_runs import run_open

DECISION: Final = 3
OFFLINE: Final = Path(__file__).resolve().parents[1] / "safeguard" / "audit" / "verify_offline.py"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000, help="of every measurement but the hand-over")
    parser.add_argument("--ticks", type=int, default=5_000, help="of the hand-over, in real time at 500 Hz")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    console = Console(width=max(Console().width, 130))
    with TemporaryDirectory() as folder:
        found = figures(Path(folder), given.records, given.ticks)
    table = Table("figure", "target", "measured", title="audit log, Panda decisions")
    for name, (target, value) in found["rows"].items():
        table.add_row(name, target, value)
    console.print(table)
    peers = Table("journal", "µs a record, p50", "p99", "survives", "finds an edit", "finds a cut tail")
    for row in found["peers"]:
        peers.add_row(*(str(value) for value in row.values()))
    console.print(peers)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def figures(folder: Path, records: int, ticks: int) -> dict[str, Any]:
    """Every figure, by name, with its target."""
    run = folder / "clean"
    run_episode(load_scenario("clean"), audit=AuditConfig.of(run, real_time=False))
    bodies = [
        content for content in contents(run) if content[0] == frames.RECORD and frames.head(content).kind == DECISION
    ]
    size = sum(file.stat().st_size for file in (run / FOLDER).iterdir()) / len(bodies)
    many = [bodies[k % len(bodies)] for k in range(records)]
    rows: dict[str, tuple[str, str]] = {}
    for paced, how in ((False, "back to back"), (True, "at 500 Hz, asleep in between")):
        for what, (p50, p999) in handover(folder / f"handover-{paced}", ticks, paced).items():
            rows[f"a record {what}, {how}: p50; p99.9"] = ("≤ 15; 200 µs", f"{p50:.1f}; {p999:.0f} µs")
    rows |= {
        "sustained, chain and checkpoints, one core": ("≥ 30,000 records/s", f"{sustained(folder / 's', many):,.0f}"),
        "bytes a decision in a closed run": ("≤ 300", f"{size:.0f}"),
    }
    for name, rate in verification(folder / "v", many).items():
        rows[f"verify, {name}"] = ("≥ 100,000 records/s", f"{rate:,.0f}")
    return {"rows": rows, "peers": [vars(peer) for peer in compared(folder / "p", many[:4000])]}


def handover(run: Path, ticks: int, paced: bool) -> dict[str, tuple[float, float]]:
    """(p50, p99.9) of placing a record, and of building and placing it, µs: a shield, and a writer process beside it.

    Back to back, or at 500 Hz: then the thread sleeps between ticks, and finds its caches cold.
    """
    spent: dict[str, list[int]] = {"placed": [], "built and placed": []}
    scenario, due = load_scenario("clean"), [time.monotonic()]

    def pace(_: object) -> None:
        due[0] += 0.002
        time.sleep(max(0.0, due[0] - time.monotonic()))

    with timed(Journal, "append", spent["placed"]), timed(Shield, "_recorded", spent["built and placed"]):
        for k in range(-(-ticks // scenario.ticks)):
            due[0] = time.monotonic()
            run_episode(scenario, audit=AuditConfig(run=run / str(k)), progress=pace if paced else None)
    found: dict[str, tuple[float, float]] = {}
    for name, values in spent.items():
        p50, p999 = np.percentile(np.array(values[100:]) * 1e-3, (50, 99.9))
        found[name] = float(p50), float(p999)
    return found


@contextmanager
def timed(owner: type, name: str, spent: list[int]) -> Generator[None]:
    """Every call of a method, ns."""
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter_ns()
        done = real(*args, **kwargs)
        spent.append(time.perf_counter_ns() - begin)
        return done

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, real)


@contextmanager
def one_core() -> Generator[None]:
    """Everything on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def sustained(folder: Path, many: list[bytes]) -> float:
    """Records a second that one core chains, signs every half second, and writes with group commits."""
    folder.mkdir()
    style = Style("bench", "", {DECISION: "decision"}, 1 << 40, 0.5, 0.1, "group")
    with one_core():
        writer = SegmentWriter(folder, style, Signer.ephemeral())
        begin = time.perf_counter()
        for at in range(0, len(many), 64):
            writer.write(many[at : at + 64])
            writer.tend()
        spent = time.perf_counter() - begin
    return len(many) / spent


def verification(run: Path, many: list[bytes]) -> dict[str, float]:
    """Records a second: raw segments (an open run, or one that was just written), and closed ones; best of three."""
    with open_run(AuditConfig(run=run, writer="inline", durability="os"), run_open()) as journal:
        for k, content in enumerate(many):
            journal.append(RecordKind.DECISION, unpacked(content), tick=k, t=k)
    found = {"closed run": _best(lambda: verify_run(run).records)}
    found["closed run, verify_offline.py"] = _best(lambda: _offline(run))
    put(run, raw(run))
    found["before compression"] = _best(lambda: verify_run(run).records)
    found["before compression, verify_offline.py"] = _best(lambda: _offline(run))
    return found


def _offline(run: Path) -> int:
    done = subprocess.run([sys.executable, str(OFFLINE), str(run), "--json"], check=False, capture_output=True)
    return int(json.loads(done.stdout)["records"])


def _best(check: Callable[[], int]) -> float:
    found = 0.0
    for _ in range(3):
        begin = time.perf_counter()
        records = check()
        found = max(found, records / (time.perf_counter() - begin))
    return found


# -- peers --------------------------------------------------------------------------------------------------


@dataclass
class Peer:
    """A row of the table of peers."""

    name: str
    p50_us: str
    p99_us: str
    survives: str
    edit: str
    tail: str


def compared(folder: Path, many: list[bytes]) -> list[Peer]:
    """The same bodies in every journal, in turns of 500, so that all see the same machine."""
    folder.mkdir()
    bodies = [unpacked(content) for content in many]
    rows: list[Peer] = []
    made = [
        maker(folder)
        for maker in (
            _ours_inline,
            _ours_process,
            _ours_each,
            _jsonl,
            _ledger,
            _sqlite_normal,
            _sqlite_full,
            _mcap,
            _pymerkle,
        )
    ]
    for name, append, close, facts in (one for one in made if one is not None):
        spent = np.zeros(len(bodies))
        gc.disable()
        count = len(bodies) if "FULL" not in name and "each" not in name and "merkle" not in name else 400
        for k, body in enumerate(bodies[:count]):
            begin = time.perf_counter_ns()
            append(k, body)
            spent[k] = time.perf_counter_ns() - begin
        gc.enable()
        close()
        p50, p99 = np.percentile(spent[:count] * 1e-3, (50, 99))
        rows.append(Peer(name, f"{p50:.1f}", f"{p99:.0f}", *facts))
    return rows


Made = tuple[str, Callable[[int, Any], object], Callable[[], object], tuple[str, str, str]]


def _ours(folder: Path, name: str, facts: tuple[str, str, str], **settings: Any) -> Made:
    journal = open_run(AuditConfig(run=folder / name, **settings), run_open())

    def append(k: int, body: Any) -> None:
        journal.append(RecordKind.DECISION, body, tick=k, t=k)

    return f"safeguard, {name}", append, journal.close, facts


def _ours_inline(folder: Path) -> Made:
    return _ours(folder, "inline os", ("process", "yes", "yes"), writer="inline", durability="os")


def _ours_process(folder: Path) -> Made:
    return _ours(folder, "process group", ("process; power but 0.1 s", "yes", "yes"), ring_mib=64)


def _ours_each(folder: Path) -> Made:
    return _ours(folder, "inline each", ("power", "yes", "yes"), writer="inline", durability="each")


def _json(body: Any, *, sort_keys: bool = False) -> str:
    """As JSON, arrays in hexadecimal digits."""
    return json.dumps(body, sort_keys=sort_keys, default=bytes.hex)


def _jsonl(folder: Path) -> Made:
    file = (folder / "plain.jsonl").open("w")

    def append(_: int, body: Any) -> None:
        file.write(_json(body) + "\n")
        file.flush()

    return "plain JSON lines, flushed", append, file.close, ("process", "no", "no")


def _ledger(folder: Path) -> Made:
    file, chain = (folder / "ledger.jsonl").open("w"), [""]

    def append(k: int, body: Any) -> None:
        text = _json({"seq": k, "prev": chain[0], "body": body}, sort_keys=True)
        chain[0] = hashlib.sha256(text.encode()).hexdigest()
        file.write(text + "\n")
        file.flush()

    return "hash-chained JSON lines", append, file.close, ("process", "unless re-chained", "no")


def _sqlite(folder: Path, mode: str, facts: tuple[str, str, str]) -> Made:
    base = sqlite3.connect(folder / f"{mode}.db", isolation_level=None)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute(f"PRAGMA synchronous={mode}")
    base.execute("CREATE TABLE log (seq INTEGER PRIMARY KEY, body BLOB)")

    def append(k: int, body: Any) -> None:
        base.execute("INSERT INTO log VALUES (?, ?)", (k, ormsgpack.packb(body)))

    return f"SQLite WAL {mode}", append, base.close, facts


def _sqlite_normal(folder: Path) -> Made:
    return _sqlite(folder, "NORMAL", ("process", "no", "no"))


def _sqlite_full(folder: Path) -> Made:
    return _sqlite(folder, "FULL", ("power", "no", "no"))


def _mcap(folder: Path) -> Made | None:
    try:
        from mcap.writer import Writer
    except ImportError:
        return None
    file = (folder / "log.mcap").open("wb")
    writer: Any = Writer(file)
    writer.start()
    channel = writer.register_channel("decision", "json", writer.register_schema("decision", "jsonschema", b"{}"))

    def append(k: int, body: Any) -> None:
        writer.add_message(channel, k, _json(body).encode(), k, k)

    def close() -> None:
        writer.finish()
        file.close()

    return (
        "MCAP writer (chunks of 1 MiB)",
        append,
        close,
        ("nothing before a chunk is full", "by accident (CRC)", "by accident"),
    )


def _pymerkle(folder: Path) -> Made | None:
    try:
        pymerkle: Any = import_module("pymerkle")
    except ImportError:
        return None
    tree: Any = pymerkle.SqliteTree(str(folder / "merkle.db"))

    def append(_: int, body: Any) -> None:
        tree.append_entry(ormsgpack.packb(body))

    return "pymerkle in SQLite", append, lambda: None, ("process", "with a kept root", "with a kept root")


if __name__ == "__main__":
    main()
