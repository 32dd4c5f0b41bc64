"""OSQP as a newcomer would use it, and the wrapper, for the tests of its pitfalls."""

from __future__ import annotations

from typing import Any

import numpy as np
import osqp
from scipy import sparse

from tests.unit.solver_support import N


def raw(low: float = -1.0, high: float = 1.0, nominal: float = 5.0, **options: Any) -> Any:
    """OSQP as a newcomer would use it: min ½‖x − nominal‖², low ≤ x ≤ high."""
    bounds = np.full(N, low), np.full(N, high)
    instance = osqp.OSQP(algebra="builtin")
    eye = sparse.eye(N, format="csc")
    instance.setup(eye, np.full(N, -nominal), eye, *bounds, verbose=False, **options)
    return instance


def settings(inner: Any) -> Any:
    """What the library's inner object runs with."""
    return inner.get_settings()
