"""A little too much contradiction for too long: the overlap error, summed up beyond what is usual."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from safeguard.core.errors import CalibrationError
from safeguard.core.types import Proposal, Score, Vector, frozen_array
from safeguard.monitors.action import OverlapError
from safeguard.monitors.motion import JointMotion
from safeguard.monitors.scores import LARGEST

MEDIAN: Final = "overlap.median"


def learn(errors: Vector) -> dict[str, Vector]:
    """What ``OverlapCusum`` needs, from the overlap errors of fit episodes: their median, shape (1,), as ``MEDIAN``.

    Args:
        errors: shape (N,), one for every chunk that was followed; N ≥ 1.

    Raises:
        CalibrationError: none, or one that is not finite.
    """
    if not len(errors) or not np.isfinite(errors).all():
        raise CalibrationError(f"overlap errors of {len(errors)} chunks: one or more finite numbers are needed")
    return {MEDIAN: frozen_array(np.array([np.median(errors)]))}


class OverlapCusum(OverlapError):  # noqa: N818  an overlap error is a distance, and no exception
    """Score: S, after every chunk max(0, S + overlap error − median of the learned ones); Page (1954).

    A policy that is a little off contradicts itself by a little more in every chunk, which no single chunk shows. What
    has been summed up goes down by the median a chunk at most: it hardly forgets within an episode.

    Args:
        motion: how to read the chunks.
        median: shape (1,), of what ``learn`` gives.

    Raises:
        CalibrationError: the median is not one number of at least 0.
    """

    name = "overlap_cusum"

    def __init__(self, motion: JointMotion, median: Vector) -> None:
        super().__init__(motion)
        if median.shape != (1,) or not 0.0 <= median[0] < math.inf:
            raise CalibrationError(f"{MEDIAN} is {median!r}, expected one number of at least 0")
        self._median = float(median[0])
        self._sum = 0.0

    def reset(self) -> None:
        """Start a new episode."""
        super().reset()
        self._sum = 0.0

    def _judge(self, proposal: Proposal) -> Score:
        error = super()._judge(proposal)
        if math.isnan(error.value):
            return error
        self._sum = min(max(0.0, self._sum + error.value - self._median), LARGEST)
        return Score(self._sum)
