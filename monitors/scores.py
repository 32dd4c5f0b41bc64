"""What every score has in common: none at all is 0, none is beyond 1e12, and one that is no number says why."""

from __future__ import annotations

import math
from typing import Final

from safeguard.core.types import Score

NOTHING: Final = Score(0.0)
LARGEST: Final = 1e12
"""The largest score there is, so that what is recorded stays finite."""


def scored(value: float, broken: str, detail: str = "") -> Score:
    """``value`` as a score, at most 1e12; NaN with the words of ``broken`` where it is not finite."""
    return Score(min(value, LARGEST), detail) if math.isfinite(value) else Score(math.nan, broken)
