"""Scores of a proposal: worked out when a new one is followed, and held until the next."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Final

from safeguard.core.types import Evidence, Proposal, Score

NOTHING: Final = Score(0.0)
_LARGEST: Final = 1e12


def scored(value: float, broken: str, detail: str = "") -> Score:
    """``value`` as a score, at most 1e12; NaN with the words of ``broken`` where it is not finite."""
    return Score(min(value, _LARGEST), detail) if math.isfinite(value) else Score(math.nan, broken)


class HeldScore(ABC):
    """A monitor that looks at the proposal being followed, once. 0 before the first of an episode."""

    name: str

    def __init__(self) -> None:
        self._seen: Proposal | None = None
        self._held = NOTHING

    def reset(self) -> None:
        """Start a new episode."""
        self._seen, self._held = None, NOTHING

    def score(self, evidence: Evidence) -> Score:
        """The score of the proposal being followed."""
        current = evidence.current
        if current is not self._seen:
            self._seen = current
            self._held = NOTHING if current is None else self._judge(current)
        return self._held

    @abstractmethod
    def _judge(self, proposal: Proposal) -> Score:
        """The score of a proposal that has just been taken up."""
