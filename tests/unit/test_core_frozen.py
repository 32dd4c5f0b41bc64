"""Kernels read ``bytes`` and give new ones back, as the same lines do interpreted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from safeguard.core.compiled import COUNT, entry, kernel
from safeguard.core.frozen import FROZEN, freeze, room, rows, thaw


@kernel(FROZEN, FROZEN, COUNT)
def sums(table: bytes, columns: int) -> bytes:
    """The sum of each row, of all integers but the first."""
    numbers, found = thaw(table), room()
    table_rows = rows(numbers, 1, len(numbers), columns)
    for k in range(len(table_rows)):
        found[k] = table_rows[k].sum()
    return freeze(found[: len(table_rows)])


PLAIN: Callable[[bytes, int], bytes] = getattr(sums, "py_func", sums)
ALL = pytest.mark.parametrize("function", [entry(sums), PLAIN])


def packed(*numbers: int) -> bytes:
    """The integers as a table of the kernel."""
    return np.array(numbers, dtype=np.int64).tobytes()


@ALL
def test_bytes_go_in_and_come_out(function: Callable[[bytes, int], bytes]) -> None:
    """Rows are read from where they begin; what came out stays as it is in later calls; nothing is nothing."""
    first = function(packed(9, 1, 2, 3, -4, 5, 1 << 40), 3)
    assert function(packed(7, 1, 1, 1, 1), 2) == packed(2, 2)
    assert first == packed(6, (1 << 40) + 1)
    assert function(packed(9), 3) == b""


@pytest.mark.parametrize("wrong", [[1, 2], np.zeros(3, dtype=np.int64), "abc", None])
def test_without_the_search_for_a_signature_types_still_count(wrong: Any) -> None:
    """What is no ``bytes`` is refused by name."""
    if entry(sums) is PLAIN:
        pytest.skip("interpreted")
    with pytest.raises(TypeError, match="expected bytes"):
        entry(sums)(wrong, 1)
