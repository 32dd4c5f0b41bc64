"""The policy port for one process: the inference runs inline, its duration is injected.

The result of an inference that was started at ``now`` can be polled at ``now + latency``. No clock is read,
so latency, jitter and hangs are exactly repeatable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from safeguard.core.errors import ConfigError
from safeguard.core.protocols import Policy
from safeguard.core.types import NS_PER_S, ActionSpec, Observation, Proposal

Latency = Callable[[int, int], float]
"""(number of the inference in the episode, its start in ns) to its duration in s; infinite is a hang."""


@dataclass(frozen=True, slots=True)
class _Flight:
    """An inference under way: when it arrives (ns, None: never) and with what (None: it failed)."""

    arrives: int | None
    proposal: Proposal | None


class InlinePort:
    """Starts at most one inference per policy period, and none while one is in flight.

    A policy that raises proposes nothing; it does not disturb the caller. A hang lasts until ``reset``.

    Args:
        policy: who proposes.
        period: between starts, s.
        latency: of every inference in s, or a callable that says it for each.

    Attributes:
        failures: inferences of this episode that raised or returned no ``Proposal``.
        last_error: what the last of them said, or "".

    Raises:
        ConfigError: period not positive, or latency negative.
    """

    def __init__(self, policy: Policy, period: float = 0.1, latency: float | Latency = 0.02) -> None:
        if not (math.isfinite(period) and period > 0.0):
            raise ConfigError(f"InlinePort: period must be positive and finite, got {period} s")
        if not callable(latency) and not latency >= 0.0:
            raise ConfigError(f"InlinePort: latency must not be negative, got {latency} s")
        self._policy, self._latency = policy, latency
        self._period_ns = round(period * NS_PER_S)
        self._flight: _Flight | None = None
        self._ready: Proposal | None = None
        self._started: int | None = None
        self._count, self.failures, self.last_error = 0, 0, ""

    @property
    def spec(self) -> ActionSpec:
        """What the policy's numbers mean."""
        return self._policy.spec

    @property
    def name(self) -> str:
        """The policy's name, for records."""
        return str(getattr(self._policy, "name", type(self._policy).__name__))

    @property
    def digest(self) -> str | None:
        """What identifies the policy's weights, for records; None if it says nothing."""
        return getattr(self._policy, "digest", None)

    def post(self, observation: Observation, now: int) -> None:
        """Offer an observation at ``now`` ns."""
        self._land(now)
        if self._flight is not None or (self._started is not None and now - self._started < self._period_ns):
            return
        duration = self._latency(self._count, now) if callable(self._latency) else self._latency
        if math.isfinite(duration):
            arrives = now + round(max(duration, 0.0) * NS_PER_S)
            self._flight = _Flight(arrives, self._infer(observation))
        else:
            self._flight = _Flight(None, None)  # what a hang would compute nobody sees
        self._started, self._count = now, self._count + 1

    def poll(self, now: int) -> Proposal | None:
        """The newest proposal that has arrived by ``now`` ns and was not handed out before, or None."""
        self._land(now)
        ready, self._ready = self._ready, None
        return ready

    def reset(self) -> None:
        """Forget the episode and everything in flight."""
        self._flight = self._ready = self._started = None
        self._count, self.failures, self.last_error = 0, 0, ""
        self._policy.reset()

    def _land(self, now: int) -> None:
        """Move what has arrived from the air to the shelf."""
        flight = self._flight
        if flight is None or flight.arrives is None or flight.arrives > now:
            return
        self._flight = None
        if flight.proposal is not None:
            self._ready = replace(flight.proposal, t_inferred=flight.arrives)

    def _infer(self, observation: Observation) -> Proposal | None:
        try:
            proposal: Any = self._policy.infer(observation)  # whatever its annotation says
        except Exception as error:  # noqa: BLE001  a guest may raise anything
            self._failed(f"{type(error).__name__}: {error}")
            return None
        if not isinstance(proposal, Proposal):
            self._failed(f"infer returned {type(proposal).__name__}, expected Proposal")
            return None
        return proposal

    def _failed(self, error: str) -> None:
        self.failures, self.last_error = self.failures + 1, error


def port_for(policy: Policy) -> InlinePort:
    """A port around ``policy``; one that proposes single actions is asked as often as its spec says."""
    if policy.spec.chunk == 1:
        return InlinePort(policy, period=1.0 / policy.spec.rate_hz)
    return InlinePort(policy)
