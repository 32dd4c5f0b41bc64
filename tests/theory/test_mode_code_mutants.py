"""A fixed sample of the slips in the mode engine that ``benchmarks/mutation.py`` tries all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

KILLED = (
    "_fill: if → if not: level > buckets[b, 2]",
    "_floor: active & floors[mode] → active | floors[mode]",
    "_lost: ripe |= 1 << c if fit >= capabilities[c, 2] else 0 → ripe |= 1 << c if fit > capabilities[c, 2] else 0",
    "_endured: configurations[shed, 0] == 0 → configurations[shed, 0] != 0",
    "_returning: if → if not: ripe >> c & 1",
    "_timers: moving >= escalations[mode, 1] → moving > escalations[mode, 1]",
    "_timers: if → if not: flags & ACK and (not s[ACKED])",
    "_decide: if → if not: causes & ~numbers[KNOWN]",
    "_decide: estops > numbers[BEYOND] → estops >= numbers[BEYOND]",
    "_tell: if → if not: mode == s[MODE]",
)
SAME = ("_timers: escalations[mode, 0] >= 0 and (not flags & STANDSTILL) → escalations[mode, 0] > 0 and",)


def tried(out: Path, names: tuple[str, ...]) -> dict[str, object]:
    """What the harness says of the engine's mutants whose names begin like one of these."""
    command = [sys.executable, str(ROOT / "benchmarks" / "mutation.py"), "--only", "engine.py", "--json", str(out)]
    chosen = [word for name in names for word in ("--name", name)]
    subprocess.run([*command, *chosen], cwd=ROOT, check=False, capture_output=True, timeout=600)
    found: dict[str, object] = json.loads(out.read_text("utf-8"))
    return found


@pytest.mark.slow
def test_slips_in_the_engine_are_noticed(tmp_path: Path) -> None:
    """Each of these is killed by the unit tests; the one that changes nothing survives, so survivors are seen."""
    found = tried(tmp_path / "found.json", (*KILLED, *SAME))
    survivors = found["survivors"]
    assert isinstance(survivors, list)
    names = [str(one["mutant"]) for one in survivors]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    assert len(names) == len(SAME)
    assert names[0].startswith(SAME)
    assert found["mutants"] == found["killed"] + len(SAME)  # type: ignore[operator]
    assert found["killed"] >= len(KILLED)  # type: ignore[operator]
