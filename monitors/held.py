"""Scores of a proposal: worked out when a new one is followed, and held until the next."""

from __future__ import annotations

from abc import ABC, abstractmethod

from safeguard.core.types import Evidence, Proposal, Score
from safeguard.monitors.scores import NOTHING


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
