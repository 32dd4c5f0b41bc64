"""Sensors: there, in form, fresh and alive.

Deterministic in the sequence of calls; memory is one value for every sensor that is configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Final, TypeAlias

import numpy as np

from safeguard.core.config import SensorConfig
from safeguard.core.enums import Cause
from safeguard.core.errors import ConfigError
from safeguard.core.types import NS_PER_S, Observation, Sensor, Vector, Verdict, everywhere
from safeguard.monitors.verdicts import failed, passed, unproven, warned

_OTHERS: Final = passed("sensors", "sensors that are not configured: only numbers and future stamps are checked")

Fault: TypeAlias = tuple[str, float, float] | None
"""What is wrong with a sensor, its score and its limit (s; NaN where there is none)."""

_NAN: Final = float("nan")
_FEW: Final = 12


class Sensors:
    """PERCEPTION_LOST while a configured sensor is missing, malformed, stamped wrongly, too old or frozen.

    Sensors that are not configured are looked at for numbers that are not finite and stamps from the future; that is
    PERCEPTION_WARN, because nobody said that the policy needs them.

    Args:
        limits: what is asked of each sensor, by its name in ``Observation.sensors``.
        future_s: how far ahead of now a stamp may be, s; ``IntakeConfig.future_s``.

    Raises:
        ConfigError: ``future_s`` is no time.
    """

    def __init__(self, limits: Mapping[str, SensorConfig], future_s: float = 0.001) -> None:
        if not (isfinite(future_s) and future_s >= 0.0):
            raise ConfigError(f"Sensors: future_s must be a finite number of seconds >= 0, got {future_s!r}")
        self._future = round(future_s * NS_PER_S)
        self._watched = tuple(_Watched(name, limit, self._future) for name, limit in limits.items())
        self._names = frozenset(limits)

    def reset(self) -> None:
        """Start a new episode; shapes are kept, they belong to the process."""
        for sensor in self._watched:
            sensor.reset()

    def check(self, observation: Observation, now: int, *, state_lost: bool = False) -> tuple[Verdict, ...]:
        """A verdict for each configured sensor, in their order, and one for all others, at ``now`` ns.

        Args:
            observation: this tick's.
            now: the tick's time, ns.
            state_lost: intake found the state of this observation stale or unusable. A sensor that goes missing or
                old with it is a consequence: its verdict is UNPROVEN, says so, and has no cause of its own.
        """
        parts = observation.sensors
        seen = [sensor.check(parts.get(sensor.name), now, state_lost) for sensor in self._watched]
        return (*seen, _OTHERS if self._names.issuperset(parts) else self._others(parts, now))

    def _others(self, parts: Mapping[str, Sensor], now: int) -> Verdict:
        latest = now + self._future
        for name, part in parts.items():
            if name in self._names:
                continue
            if part.t > latest:
                ahead = (part.t - now) / NS_PER_S
                return _odd(f"{name} is stamped {ahead:g} s in the future", ahead, self._future / NS_PER_S)
            if not _finite(part.value):
                return _odd(f"{name} {_broken(part.value)}")
        return _OTHERS


class _Watched:
    """One configured sensor: its limits, its newest plausible stamp, and since when its value is what it is."""

    def __init__(self, name: str, limit: SensorConfig, future: int) -> None:
        self.name, self._limit, self._future = name, limit, future
        self.good = passed(f"sensor.{name}")
        self._max_age = round(limit.max_age_s * NS_PER_S)
        self._longest = 0 if limit.frozen_s is None else round(limit.frozen_s * NS_PER_S)
        self._shape: tuple[int, ...] | None = None
        self.reset()

    def reset(self) -> None:
        self._newest: int | None = None
        self._since = 0  # ns, stamp under which the present value came first
        self._bits: bytes | None = None
        self._failing = False

    def check(self, part: Sensor | None, now: int, state_lost: bool) -> Verdict:
        wrong = None if part is None else self._wrong(part, now)
        late = self._late(part, now) if wrong is None else None
        if wrong is None and late is None:
            self._failing = False
            return self.good
        if late is not None and state_lost and not self._failing:
            return unproven(self.good.monitor, f"{late[0]}; so is the state, which intake reports")
        self._failing = True
        return failed(self.good.monitor, Cause.PERCEPTION_LOST, *(wrong or late or ("", _NAN, _NAN)))

    def _late(self, part: Sensor | None, now: int) -> Fault:
        """What a lost state explains: nothing came, or it is too old."""
        limit = self._limit.max_age_s
        if part is None:
            return f"{self.name} is missing", _NAN, limit
        if now - part.t <= self._max_age:
            return None
        age = (now - part.t) / NS_PER_S
        return f"{self.name} is {age:g} s old, limit {limit:g} s", age, limit

    def _wrong(self, part: Sensor, now: int) -> Fault:
        """Form, then stamp, then life; a value or stamp that is not plausible is not remembered."""
        value, t = part.value, part.t
        if value.shape != self._shape and self._shape is not None:
            return f"{self.name} has shape {value.shape}, its first value had {self._shape}", _NAN, _NAN
        bits = value.tobytes()
        same = bits == self._bits
        if not same and not _finite(value):
            return f"{self.name} {_broken(value)}", _NAN, _NAN
        self._shape = value.shape
        if t > now + self._future:
            ahead, limit = (t - now) / NS_PER_S, self._future / NS_PER_S
            return f"{self.name} is stamped {ahead:g} s in the future, limit {limit:g} s", ahead, limit
        if self._newest is not None and t < self._newest:
            behind = (self._newest - t) / NS_PER_S
            return f"{self.name} is stamped {t} ns, before {self._newest} ns", behind, 0.0
        self._newest = t
        if not same:
            self._bits, self._since = bits, t
            return None
        return self._frozen(t)

    def _frozen(self, t: int) -> Fault:
        limit = self._limit.frozen_s
        if limit is None or t - self._since <= self._longest:
            return None
        still = (t - self._since) / NS_PER_S
        return f"{self.name} has not changed by a bit for {still:g} s, limit {limit:g} s", still, limit


def _finite(value: Vector) -> bool:
    """Whether every number is; a few are looked at faster one by one."""
    if value.size <= _FEW:
        return all(map(isfinite, value.ravel().tolist()))
    return everywhere(np.isfinite(value))


def _broken(value: Vector) -> str:
    return f"has {int(value.size - np.isfinite(value).sum())} of {value.size} numbers that are not finite"


def _odd(detail: str, score: float = _NAN, threshold: float = _NAN) -> Verdict:
    return warned("sensors", Cause.PERCEPTION_WARN, detail, score, threshold)
