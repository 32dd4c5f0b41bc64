"""The cache of kernels notices every file that a kernel is made of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

KERNEL = """
from safeguard.core.compiled import NUMBER, kernel
from {helper} import doubled

@kernel(NUMBER, NUMBER)
def quadrupled(x):
    return doubled(doubled(x))
"""
MIDDLE = """
from safeguard.core.compiled import part
from deep import FACTOR, times

@part
def doubled(x):
    return times(x)
"""
DEEP = """
from safeguard.core.compiled import leaf

FACTOR = {factor}

@leaf
def times(x):
    return FACTOR * x
"""


def answer(folder: Path) -> tuple[float, int]:
    """(what the kernel says of 1, how many times it was read from the cache), in a fresh interpreter."""
    code = "import outer; s = outer.quadrupled.stats; print(outer.quadrupled(1.0), sum(s.cache_hits.values()))"
    paths = os.pathsep.join((str(folder), *(path for path in sys.path if path)))
    env = os.environ | {"PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    said = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout
    value, hits = said.split()
    return float(value), int(hits)


def test_a_change_of_any_part_makes_the_kernel_anew(tmp_path: Path) -> None:
    """Read from the cache while nothing changes; compiled again when a part two files away does."""
    (tmp_path / "outer.py").write_text(KERNEL.format(helper="middle"))
    (tmp_path / "middle.py").write_text(MIDDLE)
    (tmp_path / "deep.py").write_text(DEEP.format(factor=2.0))
    assert answer(tmp_path) == (4.0, 0)
    assert answer(tmp_path) == (4.0, 1)
    (tmp_path / "deep.py").write_text(DEEP.format(factor=3.0))
    assert answer(tmp_path) == (9.0, 0)
    assert answer(tmp_path) == (9.0, 1)
