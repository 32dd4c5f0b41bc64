"""What a journal says of the records that were cut from its beginning (docs/decisions/0020-prune.md)."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Final, Self

from pydantic import Field, model_validator

from safeguard.audit.records.bodies import Body

CODE: Final = 11


class CutRange(Body):
    """Records that were cut at once: which, by which rule, who did it, when and why."""

    first: int
    last: int
    counts: dict[str, int] = Field(description="records by kind")
    rule: str
    operator: str
    reason: str
    utc: int = Field(description="wall clock when they were cut, ns")

    @model_validator(mode="after")
    def _they_are_counted(self) -> Self:
        known = self.counts.values()
        if self.last < self.first or sum(known) != self.last - self.first + 1 or min(known) < 1:
            raise ValueError(f"{dict(self.counts)} are not the records {self.first} to {self.last}")
        return self


class RetentionCut(Body):
    """What was cut from the beginning of a run, and what the rest is proved with; no record of the chain itself."""

    version: ClassVar[int] = 1

    size: int = Field(description="records before the first one that is left, run_open among them")
    digests: list[str] = Field(description="SHA-256 of the frames of each segment that was cut, hex")
    peaks: list[str] = Field(description="roots of the complete subtrees over these records, hex")
    path: list[str] = Field(description="that run_open is the first leaf: its siblings, from below, hex")
    cuts: list[CutRange] = Field(description="oldest first; run_open, which is kept, is in none")

    @property
    def counts(self) -> dict[str, int]:
        """Records before the first one that is left, by kind."""
        found = Counter({"run_open": 1})
        for cut in self.cuts:
            found.update(cut.counts)
        return dict(found)

    @model_validator(mode="after")
    def _they_follow_each_other(self) -> Self:
        ends = [1, *(cut.last + 1 for cut in self.cuts)]
        if [cut.first for cut in self.cuts] != ends[:-1] or ends[-1] != self.size or self.size < 2 or not self.digests:
            raise ValueError(f"the cuts do not go from record 1 to {self.size - 1}")
        return self
