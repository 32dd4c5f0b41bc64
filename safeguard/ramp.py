"""The first motion after a start, a reset or a change of hands: what proposes gathers force gradually.

The share of every joint's acceleration limit that a proposal may ask for grows linearly. As an envelope it restricts
proposals and never the brake (law 4): a joint may always be slowed down, it only gains speed more gently.
"""

from __future__ import annotations

from dataclasses import replace

from safeguard.core.types import NS_PER_S, Envelope


class Ramp:
    """Shares of the acceleration limits from the moment at which somebody got the body.

    Args:
        seconds: until the whole limit is allowed; 0 turns the ramp off.
        first: share that is allowed at once, in (0, 1].
    """

    def __init__(self, seconds: float, first: float) -> None:
        self._length, self._first = seconds * NS_PER_S, first
        self._since: int | None = None

    def begin(self) -> None:
        """Somebody else moves the body from the next motion on."""
        self._since = None

    def within(self, envelope: Envelope, now: int) -> Envelope:
        """``envelope``, and no more acceleration than the ramp allows at ``now`` ns."""
        if self._length == 0.0:
            return envelope
        if self._since is None:
            self._since = now
        share = self._first + (1.0 - self._first) * max(now - self._since, 0) / self._length
        return envelope if share >= envelope.acceleration else replace(envelope, acceleration=share)
