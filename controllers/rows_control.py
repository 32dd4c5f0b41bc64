"""Chunks of joint positions as rows that a host plays itself."""

from __future__ import annotations

from math import isfinite
from typing import TypedDict

import numpy as np

from safeguard.controllers.direct import columns
from safeguard.core.enums import NominalKind, Reference
from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.types import NS_PER_S, ActionSpec, Nominal, Proposal, RobotState, Vector


class RowRecipe(TypedDict):
    """How rows are played, as a run records it."""

    rate_hz: float
    chunk: int
    plays: int
    plays_on: bool


class RowControl:
    """Hands out the rows of a chunk that are still to come.

    Args:
        spec: of the policy: absolute joint positions in rad.
        joints: names of the body's joints, in order; columns are bound by name.
        recipe: how rows are played.

    Raises:
        SpecError: the spec means something else, or has another rate or length than what is played.
    """

    def __init__(self, spec: ActionSpec, joints: tuple[str, ...], recipe: RowRecipe) -> None:
        if spec.reference is not Reference.ABSOLUTE or spec.unit != "rad":
            raise SpecError(f"rows are joint positions, got {spec.reference.value} actions in {spec.unit!r}")
        if (spec.rate_hz, spec.chunk) != (recipe["rate_hz"], recipe["chunk"]):
            raise SpecError(
                f"the policy has chunks of {spec.chunk} rows at {spec.rate_hz:g} Hz, the host plays "
                f"{recipe['chunk']} at {recipe['rate_hz']:g} Hz; they must be the same"
            )
        self._columns = columns(spec, joints)
        self._row_ns = NS_PER_S / spec.rate_hz

    def nominal(self, proposal: Proposal, state: RobotState, now: int) -> Nominal:
        """The rows for (now + 1 row, now + 2 rows, …): linear between those of the chunk, and its last row after it."""
        rows: Vector = np.ascontiguousarray(proposal.actions[:, self._columns])
        past = max(now - proposal.t_obs, 0) / self._row_ns
        if past > 0.0:
            x = np.minimum(np.arange(len(rows)) + past, len(rows) - 1.0)
            k = np.minimum(x.astype(np.intp), max(len(rows) - 2, 0))
            after = np.minimum(k + 1, len(rows) - 1)
            rows = rows[k] + (x - k)[:, None] * (rows[after] - rows[k])
        return Nominal(NominalKind.ROWS, rows)

    def reset(self) -> None:
        """Nothing to forget."""


def check_counts(rate_hz: object, chunk: object, plays: object) -> None:
    """Raises ConfigError."""
    if isinstance(rate_hz, bool) or not isinstance(rate_hz, int | float) or not (isfinite(rate_hz) and rate_hz >= 1.0):
        raise ConfigError(f"rows need a rate of at least 1 Hz, got rate_hz={rate_hz!r}")
    for name, count in (("chunk", chunk), ("plays", plays)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"{name} is a whole number of rows, at least 1, got {count!r}")
    assert isinstance(chunk, int)
    assert isinstance(plays, int)
    if plays > chunk:
        raise ConfigError(f"plays = {plays}: a host cannot play more than the {chunk} rows of a chunk")
