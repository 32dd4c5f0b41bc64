"""The readers of journals, fed with damaged and invented files for a while: no crash, no hang, no memory that grows.

python benchmarks/audit_fuzz.py --seconds 600 --seed 0

Both verifiers and the reader see every case; what is allowed is a verdict or a JournalError. Cases are runs with bytes
changed, frames with right checksums and wrong contents, invented MessagePack, packed blocks and rings. Exit code 3 if a
case did anything else, took longer than 5 s, or the process came to need 400 MiB more than at the begin.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import struct
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import ormsgpack
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from a clone

from benchmarks.audit_faults import EDITS, make
from safeguard.audit import read_run, verify_offline, verify_run
from safeguard.audit.journal import frames, packing
from safeguard.audit.journal.ring import Ring
from safeguard.audit.journal.segments import FOLDER, RING
from safeguard.core.errors import JournalError
from tests.unit.audit_edit import contents, put, put_contents, raw

SLOW_S: Final = 5.0
GROWN_KIB: Final = 400 * 1024


def main() -> None:
    """Feed, print, exit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        found = fuzz(Path(folder), given.seconds, random.Random(given.seed))
    Console().print_json(json.dumps(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(3 if found["wrong"] else 0)


def fuzz(root: Path, seconds: float, rng: random.Random) -> dict[str, Any]:
    """What came of as many cases as fit."""
    base, other = make(root / "a", None, rng), make(root / "b", None, rng)
    wrong: list[str] = []
    seen: Counter[str] = Counter()
    kinds = list(CASES)
    run, begin, first, slowest = root / "case", time.monotonic(), 0, 0.0
    while time.monotonic() - begin < seconds:
        name = kinds[seen.total() % len(kinds)]
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(base, run)
        CASES[name](run, other, rng)
        at = time.monotonic()
        verdict = judged(run)
        slowest = max(slowest, time.monotonic() - at)
        seen[name] += 1
        first = first or _memory()
        if verdict is not None:
            wrong.append(f"{seen.total()} ({name}): {verdict}")
    grown = _memory() - first
    if slowest > SLOW_S:
        wrong.append(f"a case took {slowest:.1f} s")
    if grown > GROWN_KIB:
        wrong.append(f"memory grew by {grown >> 10} MiB")
    return {
        "cases": seen.total(),
        "by_kind": dict(seen),
        "slowest_s": round(slowest, 3),
        "grown_kib": grown,
        "wrong": wrong,
    }


def judged(run: Path) -> str | None:
    """What a reader did that none may do, or None."""
    try:
        ours = verify_run(run).verdict
        theirs = verify_offline.verify(str(run))["verdict"]
        for _ in read_run(run):
            pass
    except JournalError:
        return None
    except Exception:  # noqa: BLE001  # this is what is looked for
        return traceback.format_exc(limit=-3)
    return None if (ours == "altered") == (theirs == "altered") else f"{ours}, offline {theirs}"


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# -- cases --------------------------------------------------------------------------------------------------


def noise(run: Path, other: Path, rng: random.Random) -> None:
    """A stretch of the bytes replaced by others."""
    data = bytearray(raw(run))
    at, size = rng.randrange(len(data)), rng.choice((1, 4, 8, 64, 4096))
    data[at : at + size] = rng.randbytes(rng.choice((0, size, 2 * size)))
    put(run, bytes(data))


def lengths(run: Path, other: Path, rng: random.Random) -> None:
    """A frame that claims to be huge, or empty."""
    found = contents(run)
    at = rng.randrange(len(found))
    rows = [frames.frame(content) for content in found]
    rows[at] = struct.pack("<I", rng.choice((0, 1, 2**23, 2**23 + 1, 2**31, 2**32 - 1))) + rows[at][4:]
    put(run, b"".join(rows))


def invented(run: Path, other: Path, rng: random.Random) -> None:
    """Contents of every type with anything in them."""
    found = contents(run)
    for _ in range(rng.randrange(1, 4)):
        content = bytes([rng.choice((0, 1, 2, 3, 4, 255))]) + rng.randbytes(rng.choice((0, 1, 25, 26, 27, 60, 2000)))
        found[rng.randrange(len(found))] = content
    put_contents(run, found)


def bodies(run: Path, other: Path, rng: random.Random) -> None:
    """Records whose bodies are other MessagePack, or nearly some."""
    found = contents(run)
    for at, content in enumerate(found):
        if content[0] == frames.RECORD and rng.random() < 0.3:
            body = ormsgpack.packb(_anything(rng, 4)) if rng.random() < 0.6 else _broken(rng)
            found[at] = content[: frames.HEAD.size] + body
    put_contents(run, found)


def _anything(rng: random.Random, depth: int) -> Any:
    leaf: list[Any] = [None, True, 2**63, -(2**63), 1e308, float("nan"), "", "x" * 300, "run_open", 0]
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(leaf)
    if rng.random() < 0.5:
        return [_anything(rng, depth - 1) for _ in range(rng.randrange(4))]
    keys = ("run_id", "key", "key_purpose", "previous", "counts", "first", "last", "count", "decision", "observation")
    return {rng.choice(keys): _anything(rng, depth - 1) for _ in range(rng.randrange(6))}


def _broken(rng: random.Random) -> bytes:
    heads = (
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\x81\xa0" * 3000,
    )
    return rng.choice(heads) + rng.randbytes(rng.randrange(40))


def blocks(run: Path, other: Path, rng: random.Random) -> None:
    """Packed segments with wrong counts, lengths and streams."""
    data = b"".join(packing.packed(contents(run)))
    head = list(struct.unpack_from("<IIII", data, 8))
    rest = bytearray(data[24:])
    field = rng.randrange(4)
    if field < 3:
        head[field] = rng.choice((0, 1, head[field] + 1, 4096, 2**24, 2**32 - 1))
    else:
        rest[rng.randrange(len(rest))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.7:
        head[3] = zlib.crc32(rest[: head[1] + head[2]])
    put(run, b"")
    (run / FOLDER / "000000.sgj").unlink()
    (run / FOLDER / "000000.sgz").write_bytes(data[:8] + struct.pack("<IIII", *head) + rest)


def rings(run: Path, other: Path, rng: random.Random) -> None:
    """An open run with a ring whose header or entries are odd."""
    found = contents(run)
    put_contents(run, found[:-3])
    ring = Ring.create(run / FOLDER / RING, 1 << 14)
    for content in found[-3:]:
        ring.put(content)
    ring.release()
    data = bytearray((run / FOLDER / RING).read_bytes())
    for _ in range(rng.randrange(3)):
        at = rng.choice((8, 64, 128, 4096, 4100, 4104, rng.randrange(len(data))))
        data[at : at + 8] = rng.choice((rng.randbytes(8), bytes(8), b"\xff" * 8, struct.pack("<Q", 1 << 14)))
    (run / FOLDER / RING).write_bytes(data[: rng.choice((len(data), len(data), len(data) // 2, 10))])


CASES: Final[dict[str, Callable[[Path, Path, random.Random], None]]] = {
    case.__name__: case for case in (noise, lengths, invented, bodies, blocks, rings, *EDITS)
}


if __name__ == "__main__":
    main()
