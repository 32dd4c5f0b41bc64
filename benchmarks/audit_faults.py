"""Journals under attack: processes killed at random points, and closed runs edited in every way that we know.

python benchmarks/audit_faults.py --kills 1000
python benchmarks/audit_faults.py --mutations 10000 --clean 1000

Kills: the control loop, the writer, or both die by SIGKILL while records go out. Every record whose ``append`` has
returned must be readable afterwards, the verdict must be right, and the next run must start. Mutations: each must be
found with the key, by both verifiers, with the same verdict; clean runs must be complete. Exit code 0: all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from a clone

from safeguard.audit import AuditConfig, PublicKey, Signer, keygen, open_run, read_run, verify_run
from safeguard.audit.journal.recover import recover
from safeguard.audit.journal.segments import FOLDER, RING
from safeguard.core.enums import Enforcement, RecordKind
from safeguard.core.errors import JournalError
from tests.unit.audit_edit import contents, put, put_contents, raw, resigned
from tests.unit.audit_runs import append_tick, decision, episode_open, observation, run_open

_NUMBER: Final = struct.Struct("<q")
VICTIMS: Final = ("loop", "writer", "both")


def main() -> None:
    """Attack, print, exit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--mutations", type=int, default=0)
    parser.add_argument("--clean", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    console, rng = Console(), random.Random(given.seed)
    found: dict[str, Any] = {"seed": given.seed}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        keygen(root / "key", "attack", "test")
        if given.kills:
            found["kills"] = killed(root, given.kills, rng)
        if given.clean:
            found["clean"] = clean(root, given.clean, rng)
        if given.mutations:
            found["mutations"] = mutated(root, given.mutations, rng)
    console.print_json(json.dumps(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(3 if any(found[part]["wrong"] for part in found.keys() - {"seed"}) else 0)


# -- kills --------------------------------------------------------------------------------------------------


def killed(root: Path, count: int, rng: random.Random) -> dict[str, Any]:
    """What ``count`` kills did."""
    tally: Counter[str] = Counter()
    wrong: list[str] = []
    records = from_ring = 0
    for k in track(range(count), "kills", transient=True):
        victim = VICTIMS[k % len(VICTIMS)]
        run = root / f"kill-{k}"
        problem, seen, left = one_kill(run, root / "key", victim, rng.uniform(0.0, 0.05))
        records, from_ring = records + seen, from_ring + left
        tally[victim] += 1
        if problem:
            wrong.append(f"{k} ({victim}): {problem}")
        shutil.rmtree(run, ignore_errors=True)
    return {"by_victim": dict(tally), "records": records, "from_ring": from_ring, "wrong": wrong}


def one_kill(run: Path, key: Path, victim: str, after: float) -> tuple[str, int, int]:
    """(what is wrong, records that had been placed, records that only the ring had)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:  # the loop
        os.close(reading)
        try:
            _loop(run, key, writing)
        finally:
            os._exit(0)
    os.close(writing)
    placed = _follow(reading, run, pid, victim, after)
    os.close(reading)
    os.waitpid(pid, 0)
    return _judged(run, key, victim, placed)


def _loop(run: Path, key: Path, told: int) -> None:
    """Append, and tell every number once it is given."""
    journal = open_run(AuditConfig(run=run, key=key, ring_mib=4, checkpoint_s=0.02, group_s=0.02), run_open())
    child: Any = getattr(journal, "_sink")  # noqa: B009  # whom the test kills is nobody else's business
    os.write(told, _NUMBER.pack(child._child.pid))
    journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.FULL, "kill"))
    for tick in range(400):
        append_tick(journal, tick, observation(tick), decision(tick))
        os.write(told, _NUMBER.pack(tick + 2))
        time.sleep(0.0002)
    journal.close()
    os.write(told, _NUMBER.pack(-1))


def _follow(reading: int, run: Path, loop: int, victim: str, after: float) -> int:
    """Kill at its time; the last number that the loop was given."""
    (writer,) = _NUMBER.unpack(os.read(reading, 8))
    begin, last, done = time.monotonic(), 0, False
    while True:
        wait = max(0.0, begin + after - time.monotonic()) if not done else None
        ready, _, _ = select.select([reading], [], [], wait)
        if not ready and not done:
            for pid in {"loop": [loop], "writer": [writer], "both": [writer, loop]}[victim]:
                os.kill(pid, signal.SIGKILL)
            done = True
        if ready:
            data = os.read(reading, 8)
            if len(data) < 8:
                return last
            (number,) = _NUMBER.unpack(data)
            last = max(last, number)


def _judged(run: Path, key: Path, victim: str, placed: int) -> tuple[str, int, int]:
    _settled(run, victim)
    public = PublicKey.parse(key.with_name("key.pub").read_text())
    report = verify_run(run, public)
    seen = [record.seq for record in read_run(run)]
    if seen != list(range(len(seen))) or len(seen) <= placed:
        return f"{placed + 1} records were placed, {len(seen)} are there", placed, 0
    expected = {"loop": ("open",), "both": ("open",), "writer": ("complete",)}[victim]
    if report.verdict not in (*expected, "complete"):
        return f"verdict {report.verdict}: {report.problem}", placed, 0
    left = 0
    if report.verdict == "open":
        left = _recovered(run, key)
        if (after := verify_run(run, public)).verdict != "complete":
            return f"after recovery {after.verdict}: {after.problem}", placed, left
    with open_run(AuditConfig(run=run / "next", key=key, writer="inline", durability="os"), run_open()) as journal:
        append_tick(journal, 0, observation(0), decision(0))
    return ("" if verify_run(run / "next", public).ok else "the next run is not complete"), placed, left


def _recovered(run: Path, key: Path) -> int:
    """Recover as soon as the writer, which outlives the loop for a moment, has let go."""
    until = time.monotonic() + 20.0
    while True:
        try:
            return recover(run, _signer(key), "killed").from_ring
        except JournalError as error:
            if "still at work" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)


def _settled(run: Path, victim: str) -> None:
    """Wait until a writer whose loop is dead has done what it does then."""
    before = None
    while victim == "loop" and before != (now := sorted(os.listdir(run / FOLDER)), _sizes(run)):
        before = now, _sizes(run)
        time.sleep(0.1)


def _sizes(run: Path) -> int:
    total = 0
    for file in (run / FOLDER).iterdir():
        with suppress(FileNotFoundError):  # it is just being packed
            total += file.stat().st_size if file.name != RING else 0
    return total


def _signer(key: Path) -> Signer:
    from safeguard.audit.journal.keys import read_signer

    return read_signer(key)


# -- edits --------------------------------------------------------------------------------------------------


def make(run: Path, key: Path | None, rng: random.Random, **settings: Any) -> Path:
    """A small closed run with records of every size."""
    config = AuditConfig(run=run, key=key, writer="inline", durability="os", checkpoint_s=0.001, **settings)
    with open_run(config, run_open(run_id=f"{rng.getrandbits(64):016x}")) as journal:
        journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.FULL, "edit"))
        for tick in range(rng.randrange(2, 12)):
            append_tick(journal, tick, observation(tick), decision(tick))
            if rng.random() < 0.3:
                time.sleep(0.001)
    return run


def clean(root: Path, count: int, rng: random.Random) -> dict[str, Any]:
    """Runs that nobody touched."""
    public = PublicKey.parse((root / "key.pub").read_text())
    wrong: list[str] = []
    for k in track(range(count), "clean", transient=True):
        run = make(root / f"clean-{k}", root / "key", rng, segment_mib=rng.choice((0.002, 0.01, 1.0)))
        ours, theirs = verify_run(run, public).verdict, offline(run, public)
        if (ours, theirs) != ("complete", "complete"):
            wrong.append(f"{k}: {ours}, {theirs}")
        shutil.rmtree(run)
    return {"runs": count, "wrong": wrong}


def flip(run: Path, other: Path, rng: random.Random) -> None:
    """One byte of a file as it lies there."""
    file = rng.choice(sorted((run / FOLDER).iterdir()))
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def flip_raw(run: Path, other: Path, rng: random.Random) -> None:
    """One byte of what was compressed."""
    data = bytearray(raw(run))
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    put(run, bytes(data))


def flip_mended(run: Path, other: Path, rng: random.Random) -> None:
    """One byte of a content, with the right checksum."""
    found = contents(run)
    at = rng.randrange(len(found))
    content = bytearray(found[at])
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    found[at] = bytes(content)
    put_contents(run, found)


def swap(run: Path, other: Path, rng: random.Random) -> None:
    """Two frames exchanged."""
    found = contents(run)
    a, b = rng.sample(range(len(found)), 2)
    found[a], found[b] = found[b], found[a]
    put_contents(run, found)


def delete(run: Path, other: Path, rng: random.Random) -> None:
    """A frame taken out."""
    found = contents(run)
    del found[rng.randrange(len(found))]
    put_contents(run, found)


def duplicate(run: Path, other: Path, rng: random.Random) -> None:
    """A frame twice."""
    found = contents(run)
    at = rng.randrange(len(found))
    found.insert(at, found[at])
    put_contents(run, found)


def cut(run: Path, other: Path, rng: random.Random) -> None:
    """The tail gone, at any byte."""
    data = raw(run)
    put(run, data[: rng.randrange(len(data))])


def cut_frames(run: Path, other: Path, rng: random.Random) -> None:
    """The tail gone, between two frames."""
    found = contents(run)
    put_contents(run, found[: rng.randrange(len(found))])


def rechained(run: Path, other: Path, rng: random.Random) -> None:
    """A decision changed and everything after it signed anew, with a key of one's own."""
    tick = rng.randrange(2)

    def change(_: int, record: dict[str, Any]) -> None:
        if record["kind"] == "decision" and record["tick"] == tick:
            record["body"]["decision"]["mode"] = 2

    resigned(run, change)


def forged(run: Path, other: Path, rng: random.Random) -> None:
    """As it was, signed anew with another key of the same name."""
    resigned(run, lambda _seq, _record: None, Signer("attack", os.urandom(32), "test"))


def foreign(run: Path, other: Path, rng: random.Random) -> None:
    """A segment of another run of the same machine, or some of its frames."""
    ours, theirs = contents(run), contents(other)
    at = rng.randrange(1, min(len(ours), len(theirs)))
    put_contents(run, rng.choice((ours[:at] + theirs[at:], theirs[:at] + ours[at:], [*ours, *theirs])))


EDITS: Final[tuple[Callable[[Path, Path, random.Random], None], ...]] = (
    flip, flip_raw, flip_mended, swap, delete, duplicate, cut, cut_frames, rechained, forged, foreign,
)  # fmt: skip


def mutated(root: Path, count: int, rng: random.Random) -> dict[str, Any]:
    """What ``count`` edits did."""
    public = PublicKey.parse((root / "key.pub").read_text())
    tally: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    wrong: list[str] = []
    base, other = root / "base" / "a", root / "base" / "b"
    for k in track(range(count), "edits", transient=True):
        if k % 100 == 0:
            shutil.rmtree(root / "base", ignore_errors=True)
            for run in (base, other):
                make(run, root / "key", rng)
        run, edit = root / "edit", EDITS[k % len(EDITS)]
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(base, run)
        before = raw(run)
        edit(run, other, rng)
        if edit is not flip and edit is not cut and raw(run) == before:
            continue  # two equal frames exchanged, say
        ours, theirs = verify_run(run, public).verdict, offline(run, public)
        tally[edit.__name__] += 1
        verdicts[ours] += 1
        if ours == "complete" or ours != theirs:
            wrong.append(f"{k} ({edit.__name__}): {ours}, offline {theirs}")
    return {"edits": tally.total(), "by_kind": dict(tally), "verdicts": dict(verdicts), "wrong": wrong}


def offline(run: Path, key: PublicKey) -> str:
    """The verdict of the verifier that needs nothing of ours."""
    from safeguard.audit import verify_offline

    return str(verify_offline.verify(str(run), str(key))["verdict"])


if __name__ == "__main__":
    main()
