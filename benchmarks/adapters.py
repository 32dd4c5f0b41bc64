"""What an adapter adds to a call of the policy that it wraps, kind by kind.

For each kind the same policy is asked in two ways, in turn, in another order every time: as its own library has it
called (input made by the same encoder, in the same mode), and through ``as_policy(...).infer``, which adds stamps, a
read-only copy in float64, the shape, and a proposal. What is reported is the difference: of the medians over all calls,
and the median and 95th percentile of the differences of neighbouring calls. Policies are tiny and chunks have seven
columns (eight rows, one for agents), so that what is added does not drown; the cost of a copy grows with the chunk, the
rest does not.

python benchmarks/adapters.py --json benchmarks/adapters.json
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from a clone

import torch

from safeguard.core.types import Observation, RobotState
from tests.conformance import adapter_kinds as kinds
from tests.conformance.adapter_kinds import KINDS, SINGLE, Guest, wrapped
from tests.laws.lab import panda

TARGET_US: Final = 20.0
WARM: Final = 200  # calls before the first that counts; compiled modules optimise themselves in theirs
SEEN: Final = Observation(RobotState(panda().home, np.zeros(7), 1))

Call = Callable[[Observation], object]


@dataclass(frozen=True, slots=True)
class Pair:
    """A policy asked in its library's own way, and through the adapter."""

    raw: Call
    adapted: Call


def pair(kind: str, folder: Path) -> Pair:
    """Both ways of asking the guest of a kind."""
    guest = Guest()
    source: Any
    source, options = KINDS[kind](guest, folder)
    policy = wrapped(kind, guest, folder)
    policy.reset()
    encode: Any = options.get("encode")
    return Pair(_RAW[kind](source, encode), policy.infer)


def _function(source: Any, encode: Any) -> Call:
    call: Call = source
    return call


def _torch(source: Any, encode: Any) -> Call:
    module = source.module() if hasattr(source, "module") else source.eval()

    def call(seen: Observation) -> object:
        with torch.inference_mode():
            return module(encode(seen))

    return call


def _onnx(source: Any, encode: Any) -> Call:
    import importlib

    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return lambda seen: session.run(["actions"], {"obs": encode(seen)[None]})[0]


def _agent(source: Any, encode: Any) -> Call:
    state: Any = None
    start = np.array([False])

    def call(seen: Observation) -> object:
        nonlocal state
        actions, state = source.predict(encode(seen), state, start, deterministic=True)
        return actions

    return call


def _lerobot(method: str) -> Callable[[Any, Any], Call]:
    def made(source: Any, encode: Any) -> Call:
        ask: Any = getattr(source, method)

        def call(seen: Observation) -> object:
            with torch.no_grad():
                return ask(encode(seen))

        return call

    return made


def _openpi(source: Any, encode: Any) -> Call:
    return lambda seen: source.infer(encode(seen))["actions"]


_RAW: Final[dict[str, Callable[[Any, Any], Call]]] = {
    "callable": _function,
    "module": _torch,
    "script": _torch,
    "program": _torch,
    "onnx": _onnx,
    "agent": _agent,
    "recurrent agent": _agent,
    "lerobot": _lerobot("predict_action_chunk"),
    "lerobot single": _lerobot("select_action"),
    "openpi": _openpi,
}


def measured(ways: Pair, calls: int) -> dict[str, float]:
    """Times of a pair, µs."""
    times = np.empty((calls, 2))
    order = np.random.default_rng(1).permuted(np.tile([0, 1], (calls + WARM, 1)), axis=1)
    both = ways.raw, ways.adapted
    gc.collect()
    gc.disable()
    try:
        for k in range(-WARM, calls):
            for which in order[k]:
                start = perf_counter_ns()
                both[which](SEEN)
                if k >= 0:
                    times[k, which] = (perf_counter_ns() - start) / 1000.0
    finally:
        gc.enable()
    raw, adapted = np.median(times, axis=0)
    more = times[:, 1] - times[:, 0]
    return {
        "raw_p50_us": round(float(raw), 2),
        "adapted_p50_us": round(float(adapted), 2),
        "added_us": round(float(adapted - raw), 2),
        "added_p50_us": round(float(np.median(more)), 2),
        "added_p95_us": round(float(np.percentile(more, 95)), 2),
    }


def main() -> int:
    """Measure, print, and say whether every kind is within the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=4000, help="of every way of every kind")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            found[kind] = measured(pair(kind, Path(folder)), given.calls)
    table = Table("kind", "rows", "raw p50 µs", "adapted p50 µs", "added µs", "of pairs: p50", "p95")
    for kind, times in found.items():
        rows = "1" if kind in SINGLE else str(kinds.CHUNK)
        table.add_row(kind, rows, *(f"{number:.1f}" for number in times.values()))
    worst = max(times["added_us"] for times in found.values())
    console = Console(width=110)
    console.print(table)
    console.print(f"worst {worst:.1f} µs, target {TARGET_US:g} µs; load {os.getloadavg()[0]:.1f}")
    if given.json is not None:
        machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()}
        body = {"target_us": TARGET_US, "calls": given.calls, "kinds": found, "machine": machine}
        given.json.write_text(json.dumps(body, indent=2) + "\n")
    return 0 if worst <= TARGET_US else 3


if __name__ == "__main__":
    sys.exit(main())
