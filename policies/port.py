"""The policy port for one process: the inference runs inline, its duration is injected.

The result of an inference that was started at ``now`` can be polled at ``now + latency``. No clock is read,
so latency, jitter and hangs are exactly repeatable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeGuard, cast

from safeguard.core.errors import ConfigError
from safeguard.core.protocols import Policy, PolicyPort
from safeguard.core.types import NS_PER_S, ActionSpec, Observation, Proposal, RobotState, Sensor, Vector, sealed
from safeguard.policies.reading import words

_PERIOD_S: Final = 0.1
_LATENCY_S: Final = 0.02

Latency = Callable[[int, int], float]
"""(number of the inference in the episode, its start in ns) to its duration in s; infinite is a hang."""


@dataclass(frozen=True, slots=True)
class _Flight:
    """An inference under way: when it arrives (ns, None: never) and with what (None: it failed)."""

    arrives: int | None
    proposal: Proposal | None


class PortOf:
    """What every port says of the policy that it is around.

    Args:
        policy: who proposes.
        period: between the starts of two inferences, s.

    Raises:
        ConfigError: the period is not positive and finite.
    """

    def __init__(self, policy: Policy, period: float) -> None:
        if not (math.isfinite(period) and period > 0.0):
            raise ConfigError(f"{type(self).__name__}: period must be positive and finite, got {period} s")
        self._policy, self._period_ns = policy, round(period * NS_PER_S)

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


class InlinePort(PortOf):
    """Starts at most one inference per policy period, and none while one is in flight.

    A policy that raises proposes nothing; it does not disturb the caller. A hang lasts until ``reset``. The policy gets
    arrays of its own: whoever shares their memory, as ``torch.from_numpy`` does, cannot write into the shield's.

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

    def __init__(self, policy: Policy, period: float = _PERIOD_S, latency: float | Latency = _LATENCY_S) -> None:
        super().__init__(policy, period)
        if not callable(latency) and not latency >= 0.0:
            raise ConfigError(f"InlinePort: latency must not be negative, got {latency} s")
        self._latency = latency
        self._flight: _Flight | None = None
        self._ready: Proposal | None = None
        self._started: int | None = None
        self._count, self.failures, self.last_error = 0, 0, ""
        self._remembers = False

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
        """Forget the episode and everything in flight.

        A policy that cannot forget fails like one that cannot infer: it is told again at its turns, and proposes
        nothing until it has forgotten.
        """
        self._flight = self._ready = self._started = None
        self._count, self.failures, self.last_error = 0, 0, ""
        self._remembers = True
        self._guarded(self._forget)

    def close(self) -> None:
        """Release what the policy holds, if it has a method for that. Never raises for what that does."""
        self._guarded(getattr(self._policy, "close", _nothing))

    def _land(self, now: int) -> None:
        """Move what has arrived from the air to the shelf."""
        flight = self._flight
        if flight is None or flight.arrives is None or flight.arrives > now:
            return
        self._flight = None
        if flight.proposal is not None:
            self._ready = replace(flight.proposal, t_inferred=flight.arrives)

    def _infer(self, observation: Observation) -> Proposal | None:
        def infer() -> object:
            if self._remembers:
                self._forget()
            return self._policy.infer(_own(observation))

        failures = self.failures
        proposal = self._guarded(infer)
        if isinstance(proposal, Proposal):
            return proposal
        if self.failures == failures:
            self._failed(f"infer returned {type(proposal).__name__}, expected Proposal")
        return None

    def _forget(self) -> None:
        self._policy.reset()
        self._remembers = False

    def _guarded(self, call: Callable[[], object]) -> object:
        """What ``call`` returns; what it raises is a failure of the guest, and gives None."""
        try:
            return call()
        except KeyboardInterrupt:  # a person's, as far as anybody can tell
            raise
        except BaseException as error:  # noqa: BLE001  a guest may raise anything, SystemExit too
            self._failed(words(error))
            return None

    def _failed(self, error: str) -> None:
        self.failures, self.last_error = self.failures + 1, error


def own(observation: Observation) -> Observation:
    """The observation with copies of its arrays: whoever writes into them writes into nothing of the caller's."""
    state, wrench = observation.state, observation.external_wrench
    sensors: Mapping[str, Sensor] = observation.sensors
    if sensors:
        sensors = {name: Sensor(_copy(sensor.value), sensor.t) for name, sensor in sensors.items()}
    return replace(
        observation,
        state=RobotState(_copy(state.q), _copy(state.v), state.t),
        sensors=sensors,
        external_wrench=None if wrench is None else _copy(wrench),
    )


_own = own


def _copy(array: Vector) -> Vector:
    return sealed(array.copy())


def _nothing() -> None:
    """What a policy without ``close`` does."""


def port_for(policy: Policy | PolicyPort, latency: float | Latency | None = None) -> PolicyPort:
    """``policy`` itself if it is a port already, else an ``InlinePort`` around it that asks as its spec says.

    One call a policy period: single actions are asked for at ``rate_hz``, chunks every 0.1 s, or every half chunk where
    that is shorter.

    Args:
        policy: a policy or a port.
        latency: as of ``InlinePort``; None: 20 ms, or half a period where that is shorter.
    """
    if is_port(policy):
        return policy
    asked = cast("Policy", policy)
    period = usual_period(asked.spec)
    return InlinePort(asked, period, min(_LATENCY_S, 0.5 * period) if latency is None else latency)


def usual_period(spec: ActionSpec) -> float:
    """How often to ask who says nothing of it, s: every 0.1 s or half chunk, but never more often than once a row."""
    row = 1.0 / spec.rate_hz
    return max(row, min(_PERIOD_S, 0.5 * spec.chunk * row))


def is_port(policy: Policy | PolicyPort) -> TypeGuard[PolicyPort]:
    """Whether it is a port, not a policy."""
    return hasattr(policy, "post") and hasattr(policy, "poll")
