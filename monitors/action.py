"""What chunks say about the policy that made them: do they agree, do they waver, how fast do they want to be?

The cheapest signals, and among the strongest: see docs/concepts/monitors.md for the sources and the figures.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from typing import Final

import numpy as np

from safeguard.core.types import Proposal, Score, Vector
from safeguard.monitors.held import HeldScore
from safeguard.monitors.motion import JointMotion
from safeguard.monitors.scores import NOTHING, scored

_BROKEN: Final = "the chunk is not a finite number for every row and joint"
_CALM: Final = 0.02


class OverlapError(HeldScore):
    """Score: how far a chunk is from the one before where both speak of the same time.

    The root mean square over joints and rows of the newer chunk that lie within the older one, which is linear between
    its rows. Positions are compared in units of what the speed limit covers in a row; where a chunk does not say where
    it starts from, speeds, in shares of the limit. 0 where the two share no time.
    """

    name = "overlap_error"

    def __init__(self, motion: JointMotion) -> None:
        super().__init__()
        self._motion = motion
        self._before: tuple[int, Vector] | None = None

    def reset(self) -> None:
        """Start a new episode."""
        super().reset()
        self._before = None

    def _judge(self, proposal: Proposal) -> Score:
        before, self._before = self._before, None
        with np.errstate(all="ignore"):
            rows = self._motion.rows(proposal)
            if rows is None or not np.isfinite(rows).all():
                return Score(np.nan, _BROKEN)
            rows = rows if self._motion.places else self._motion.speeds(rows)
            self._before = proposal.t_obs, rows
            if before is None:
                return NOTHING
            return scored(self._distance(rows, before[1], (proposal.t_obs - before[0]) / self._motion.row_ns), _BROKEN)

    def _distance(self, rows: Vector, before: Vector, later: float) -> float:
        """Root mean square over what overlaps; ``later`` in rows."""
        last = len(before) - 1
        at = later + np.arange(len(rows))
        shared = (at >= 0.0) & (at <= last)
        if last < 1 or not shared.any():
            return 0.0
        at = at[shared]
        k = np.minimum(at.astype(np.intp), last - 1)
        there = before[k] + (at - k)[:, None] * (before[k + 1] - before[k])
        return _rms(rows[shared] - there)


class _Speeds(HeldScore):
    """What is common to scores of the speeds that chunks ask for, over the last ``window`` of them."""

    def __init__(self, motion: JointMotion, window: int) -> None:
        super().__init__()
        self._motion = motion
        self._recent: deque[tuple[float, int]] = deque(maxlen=window)
        self._row: tuple[int, Vector] | None = None

    def reset(self) -> None:
        """Start a new episode."""
        super().reset()
        self._recent.clear()
        self._row = None

    def _judge(self, proposal: Proposal) -> Score:
        with np.errstate(all="ignore"):
            rows = self._motion.rows(proposal)
            speeds = None if rows is None else self._asked(rows, proposal.t_obs)
            if speeds is None or not np.isfinite(speeds).all():
                self._recent.clear()
                return Score(np.nan, _BROKEN)
            self._recent.append(self._weigh(speeds))
            return scored(self._pooled(), _BROKEN)

    def _asked(self, rows: Vector, t_obs: int) -> Vector:
        """Speeds of a chunk; a policy of single positions moves from one of its proposals to the next."""
        if len(rows) > 1 or not self._motion.places:
            return self._motion.speeds(rows)
        before, self._row = self._row, (t_obs, rows[0])
        if before is None or t_obs <= before[0]:
            return rows[:0]
        return (rows - before[1]) / ((t_obs - before[0]) / self._motion.row_ns)

    @abstractmethod
    def _weigh(self, speeds: Vector) -> tuple[float, int]:
        """A sum and how many numbers it is of."""

    def _pooled(self) -> float:
        count = sum(n for _, n in self._recent)
        return sum(total for total, _ in self._recent) / count if count else 0.0


class ReversalRate(_Speeds):
    """Score: share of the steps from row to row, over all joints, at which the direction turns round.

    Counted within chunks and from the first row of one to the first row of the next. A joint slower than 2 % of its
    limit keeps the direction that it had: standing still is no direction.
    """

    name = "reversal_rate"

    def __init__(self, motion: JointMotion, window: int) -> None:
        super().__init__(motion, window)
        self._first: Vector | None = None

    def reset(self) -> None:
        """Start a new episode."""
        super().reset()
        self._first = None

    def _weigh(self, speeds: Vector) -> tuple[float, int]:
        if len(speeds) == 0:
            return 0.0, 0
        signs = np.where(np.abs(speeds) < _CALM, 0.0, np.sign(speeds))
        if self._first is not None:
            signs = np.vstack((self._first, signs))
        moving = np.where(signs != 0.0, np.arange(len(signs))[:, None], 0)
        signs = np.take_along_axis(signs, np.maximum.accumulate(moving, axis=0), axis=0)
        self._first = signs[-len(speeds)].copy()
        turns = signs[1:] * signs[:-1] < 0.0
        return float(np.count_nonzero(turns)), turns.size


class ChunkMagnitude(_Speeds):
    """Score: root mean square of the joint speeds asked for, in shares of their limits."""

    name = "chunk_magnitude"

    def _weigh(self, speeds: Vector) -> tuple[float, int]:
        return float(np.square(speeds).sum()), speeds.size

    def _pooled(self) -> float:
        return float(np.sqrt(super()._pooled()))


def _rms(values: Vector) -> float:
    return float(np.sqrt(np.square(values).mean()))
