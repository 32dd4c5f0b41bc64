"""The simulator's engine under node, and the same questions put to Python.

A question is a state and an input (causes, flags, shadow, available); an answer is the next state and the report.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from safeguard.modes.engine import advance
from safeguard.modes.simulate import table_json
from safeguard.modes.table import ModeTable

Ints = NDArray[np.int64]

HARNESS: Final = Path(__file__).with_suffix(".js")
CHUNK: Final = 200_000


def engine() -> str:
    """The source of the page's engine."""
    return resources.files("safeguard.modes").joinpath("simulator", "engine.js").read_text("utf-8")


def questions(states: Ints, inputs: Ints) -> Ints:
    """Each state (n, size) with the input beside it (n, 4), as rows (n, size + 4)."""
    return np.ascontiguousarray(np.hstack([states, inputs]), dtype=np.int64)


def disagreements(table: ModeTable, rows: Ints, source: str = "") -> Ints:
    """The rows that JavaScript and Python answer differently; ``source``: of another engine than the page's."""
    found = [rows[:0]]
    for first in range(0, len(rows), CHUNK):
        some = np.ascontiguousarray(rows[first : first + CHUNK])
        said = _node(table, "answers", [some], source).view(np.int64).reshape(len(some), -1)
        found.append(some[np.any(said != python(table, some), axis=1)])
    return np.vstack(found)


def disagreeing_states(table: ModeTable, states: Ints, inputs: Ints, source: str = "") -> Ints:
    """The states (n, size) that JavaScript and Python answer differently with any of the inputs (m, 4): all n × m.

    By one digest a state. To see which inputs: ``disagreements(table, questions(...))``.
    """
    said = _node(table, "digests", [states, inputs], source).view(np.uint32)
    ours = _digests(states, inputs, *table.arrays)
    return np.ascontiguousarray(states[said != ours])


def _node(table: ModeTable, what: str, arrays: list[Ints], source: str) -> NDArray[np.uint8]:
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed: the simulator's JavaScript is not compared with Python here")
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "engine.js").write_text(source or engine(), "utf-8")
        (folder / "table.json").write_text(json.dumps(table_json(table)), "utf-8")
        paths = [folder / f"given-{place}" for place in range(len(arrays))]
        for path, array in zip(paths, arrays, strict=True):
            np.ascontiguousarray(array, dtype=np.int64).tofile(path)
        command = [program, HARNESS, folder / "engine.js", folder / "table.json", what, *paths, folder / "out"]
        subprocess.run([str(part) for part in command], check=True)
        return np.fromfile(folder / "out", dtype=np.uint8)


def python(table: ModeTable, rows: Ints) -> Ints:
    """Next state and report of every row, by the engine."""
    found = np.empty((len(rows), table.size + 5), dtype=np.int64)
    states = np.ascontiguousarray(rows[:, : table.size])
    floors, buckets, escalations, recoveries, capabilities, configurations, numbers = table.arrays
    inputs = rows[:, table.size :].tolist()
    for state, (causes, flags, shadow, available), answer in zip(states, inputs, found, strict=True):
        after, report = answer[: table.size], answer[table.size :]
        advance(
            state, causes, flags, shadow, available, floors, buckets, escalations, recoveries, capabilities,
            configurations, numbers, after, report,
        )  # fmt: skip
    return found


def _digest_loop(
    states: Ints, inputs: Ints, floors: Ints, buckets: Ints, escalations: Ints, recoveries: Ints, capabilities: Ints,
    configurations: Ints, numbers: Ints,
) -> NDArray[np.uint32]:  # fmt: skip
    """What ``digests`` in modes_javascript.js computes."""
    found = np.empty(len(states), dtype=np.uint32)
    answer = np.empty(states.shape[1] + 5, dtype=np.int64)
    after, report = answer[: states.shape[1]], answer[states.shape[1] :]
    for i in range(len(states)):
        digest = 2166136261
        for j in range(len(inputs)):
            advance(
                states[i], inputs[j, 0], inputs[j, 1], inputs[j, 2], inputs[j, 3], floors, buckets, escalations,
                recoveries, capabilities, configurations, numbers, after, report,
            )  # fmt: skip
            for value in answer:
                digest = ((digest ^ (value & 0xFFFFFFFF)) * 16777619) & 0xFFFFFFFF
                digest = ((digest ^ (value >> 32)) * 16777619) & 0xFFFFFFFF
        found[i] = digest
    return found


_digests = cast("Any", numba.njit(_digest_loop))
