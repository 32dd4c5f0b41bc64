"""Weakly hard deadlines: some chunks may be late, but not many of the last, and not many in a row.

A real-time constraint "at most m misses among any k in a row" (Bernat, Burns and Llamosí 2001) says what a
single deadline cannot: one late chunk is nothing, every third one is a policy that cannot keep up.
"""

from __future__ import annotations

from math import isfinite
from typing import Final

from safeguard.core.config import PunctualConfig
from safeguard.core.enums import Cause
from safeguard.core.errors import ConfigError
from safeguard.core.types import NS_PER_S, Proposal, Verdict
from safeguard.monitors.verdicts import failed, passed

_PUNCTUAL: Final = passed("punctual")
_WAITING: Final = passed("punctual", "the first chunk of the episode starts the count")


class WeaklyHard:
    """Counts misses: at most ``m`` among the last ``k`` outcomes, and at most ``in_a_row`` one after the other.

    A bit for every outcome, so a miss is counted in the call that reports it and forgotten k calls later.

    Args:
        m: misses allowed among any k outcomes in a row; fewer than k, or nothing could ever be wrong.
        k: outcomes that are remembered, 1 to 64.
        in_a_row: misses allowed one after the other.

    Raises:
        ConfigError: the numbers make no constraint.

    Attributes:
        run: misses since the last outcome that was none.
    """

    def __init__(self, m: int, k: int, in_a_row: int) -> None:
        if not 0 <= m < k <= 64 or in_a_row < 0:
            raise ConfigError(f"WeaklyHard needs 0 <= m < k <= 64 and in_a_row >= 0, got {m=}, {k=}, {in_a_row=}")
        self.m, self.k, self.in_a_row = m, k, in_a_row
        self._window = (1 << k) - 1
        self.reset()

    def reset(self) -> None:
        """Forget every outcome."""
        self._past, self.run = 0, 0

    def miss(self, missed: bool) -> bool:
        """Take one outcome; True if the constraint is broken with it."""
        self._past = (self._past << 1 | missed) & self._window
        self.run = self.run + 1 if missed else 0
        return self.broken

    @property
    def misses(self) -> int:
        """Among the last k outcomes."""
        return self._past.bit_count()

    @property
    def broken(self) -> bool:
        """Too many misses among the last k outcomes, or in a row."""
        return self.run > self.in_a_row or self.misses > self.m


class Punctual:
    """POLICY_LATE while too many of the policy's last chunks came late, were refused, or never came.

    Counted from the first chunk of an episode that is followed; until then ``PolicyDeadline`` decides. A chunk is
    due one period and the grace after the one before arrived. In time it is a hit. A due time that passes is a miss,
    counted in the first tick after it, and the next one is a period later; the chunk that comes late after all is the
    hit of its own period. A silence (more than ``in_a_row`` misses) is over with the chunk that ends it, and counting
    starts anew there: what was wrong has been said, and what comes now is judged by itself.

    Args:
        config: m, k, in_a_row, the period and the grace.
        period: where ``config.period_s`` is None, s.

    Raises:
        ConfigError: the numbers make no constraint, or the period is no positive time.
    """

    def __init__(self, config: PunctualConfig, period: float) -> None:
        period = period if config.period_s is None else config.period_s
        if not (isfinite(period) and period * NS_PER_S >= 1.0):
            raise ConfigError(f"Punctual: the period must be positive and finite, got {period!r} s")
        self._period = round(period * NS_PER_S)
        self._span = self._period + round(config.grace * self._period)
        self._count = WeaklyHard(config.m, config.k, config.in_a_row)
        self._most = max(config.k, config.in_a_row + 1)  # further misses in one tick change nothing
        self.reset()

    def reset(self) -> None:
        """Start a new episode."""
        self._count.reset()
        self._followed: Proposal | None = None
        self._standing = _PUNCTUAL
        self._seen, self._due = 0, -1  # ns, the tick before and when the next chunk is due

    def check(self, current: Proposal | None, now: int) -> Verdict:
        """The verdict at ``now`` ns; ``current`` is the accepted proposal that the controller follows."""
        if current is self._followed and self._seen <= now <= self._due:
            return self._standing
        if current is None and self._followed is None:
            return _WAITING
        late = self._overdue(now)
        if current is not None and current is not self._followed:
            self._arrived(current, now)
        self._seen = now
        self._standing = self._late() if self._count.broken else _PUNCTUAL
        return late or self._standing

    def _overdue(self, now: int) -> Verdict | None:
        """Count every due time before ``now``; what they broke. A clock that went back leaves one due time ahead."""
        if self._followed is None:
            return None
        self._due = min(self._due, now + self._span)
        if now <= self._due:
            return None
        missed = (now - self._due - 1) // self._period + 1
        self._due += missed * self._period
        for _ in range(min(missed, self._most)):
            self._count.miss(True)
        return self._late() if self._count.broken else None

    def _arrived(self, chunk: Proposal, now: int) -> None:
        """Count a hit; the first chunk, and the one that ends a silence, start anew."""
        if self._followed is None or self._count.run > self._count.in_a_row:
            self._count.reset()
        else:
            self._count.miss(False)
        self._followed, self._due = chunk, now + self._span

    def _late(self) -> Verdict:
        count, due = self._count, f"one is due every {self._period / NS_PER_S:g} s"
        if count.run > count.in_a_row:
            detail = f"{count.run} chunks in a row are late or missing, at most {count.in_a_row} may be; {due}"
            return failed("punctual", Cause.POLICY_LATE, detail, float(count.run), float(count.in_a_row))
        detail = f"{count.misses} of the last {count.k} chunks were late or missing, at most {count.m} may be; {due}"
        return failed("punctual", Cause.POLICY_LATE, detail, float(count.misses), float(count.m))
