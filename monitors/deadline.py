"""Lateness: of the policy, in injected time; of the tick itself, in measured time."""

from __future__ import annotations

from math import isfinite
from typing import Final

from safeguard.core.enums import Cause, Level
from safeguard.core.errors import ConfigError
from safeguard.core.types import NS_PER_S, Decision, Proposal, Verdict
from safeguard.monitors.verdicts import failed, passed

_ON_TIME: Final = passed("policy_deadline")
_STARTING: Final = passed("policy_deadline", "waiting for the first proposal of the episode")
_IN_PERIOD: Final = passed("tick_overrun")


def _nanoseconds(name: str, seconds: float, *, least: float = 0.0) -> int:
    if not isfinite(seconds) or seconds < least:
        raise ConfigError(f"{name} must be a finite number of seconds >= {least:g}, got {seconds!r}")
    return round(seconds * NS_PER_S)


class PolicyDeadline:
    """POLICY_LATE while the accepted proposal is missing or stems from too old an observation.

    Args:
        max_age_s: oldest observation that the followed proposal may stem from, s.
        startup_s: how long the first proposal of an episode may take, s, counted from the first check.
    """

    def __init__(self, max_age_s: float = 0.2, startup_s: float = 0.0) -> None:
        self._max_age = _nanoseconds("max_age_s", max_age_s, least=1e-3)
        self._startup = _nanoseconds("startup_s", startup_s)
        self._begin: int | None = None

    def reset(self) -> None:
        """Start a new episode."""
        self._begin = None

    def check(self, current: Proposal | None, now: int) -> Verdict:
        """The verdict at ``now`` ns on the accepted proposal that the controller follows."""
        if self._begin is None:
            self._begin = now
        limit = self._max_age / NS_PER_S
        if current is None:
            waited = now - self._begin
            if waited < self._startup:
                return _STARTING
            detail = f"no accepted proposal {waited / NS_PER_S:g} s into the episode"
            return failed("policy_deadline", Cause.POLICY_LATE, detail, waited / NS_PER_S, limit)
        age = now - current.t_obs
        if age <= self._max_age:
            return _ON_TIME
        detail = f"the proposal's observation is {age / NS_PER_S:g} s old, limit {limit:g} s"
        return failed("policy_deadline", Cause.POLICY_LATE, detail, age / NS_PER_S, limit)


class TickOverrun:
    """TICK_OVERRUN when the tick before took longer than its period, as measured.

    Measured durations cannot be replayed in simulated time, so the check is off unless asked for; then its
    verdict says so and is UNPROVEN, not OK.

    Args:
        period: control period, s.
        enabled: True where ticks run in real time and their timings are inputs of the record.
    """

    def __init__(self, period: float, enabled: bool = False) -> None:
        self._period = _nanoseconds("period", period, least=1e-6)
        self._enabled = enabled
        nan = float("nan")
        self._off = Verdict(
            "tick_overrun", Level.UNPROVEN, nan, nan, detail="off: simulated time has no measured overruns"
        )

    def check(self, previous: Decision | None) -> Verdict:
        """The verdict on the previous decision's ``timings.total``; the first tick has none."""
        if not self._enabled:
            return self._off
        if previous is None or previous.timings.total <= self._period:
            return _IN_PERIOD
        took, limit = previous.timings.total / NS_PER_S, self._period / NS_PER_S
        detail = f"tick {previous.tick} took {took:g} s of {limit:g} s"
        return failed("tick_overrun", Cause.TICK_OVERRUN, detail, took, limit)
