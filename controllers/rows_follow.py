"""What the safety filter makes of rows that cannot be told as they are: it follows them in steps of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from safeguard.controllers.brake import StopPlan
from safeguard.controllers.filter import SafetyFilter
from safeguard.core.enums import FilterStatus, NominalKind
from safeguard.core.types import NS_PER_S, Envelope, FilterResult, Nominal, RobotState, Vector

_OMEGA: Final = 15.0  # rad/s; how closely rows are followed

Follow = Callable[[float, RobotState], Nominal]
"""(seconds since the start, where the filter's motion is) to what is asked of it there."""


class Tracking:
    """A critically damped pull to where points are, one row of time apart, as ``ChunkTracking`` does it."""

    def __init__(self, points: Vector, row: float) -> None:
        self._q, self._row = points, row
        self._v = (points[1:] - points[:-1]) / row

    def __call__(self, s: float, at: RobotState) -> Nominal:
        """What is asked ``s`` seconds after the first point."""
        k = min(int(s / self._row + 1e-9), len(self._v) - 1)
        q = self._q[k] + (s - k * self._row) * self._v[k]
        a = _OMEGA * _OMEGA * (q - at.q) + 2.0 * _OMEGA * (self._v[k] - at.v)
        return Nominal(NominalKind.ACCELERATION, a)


@dataclass(frozen=True, slots=True)
class Held:
    """The same all the time."""

    nominal: Nominal

    def __call__(self, s: float, at: RobotState) -> Nominal:
        """What is asked, whenever and wherever."""
        return self.nominal


@dataclass(frozen=True, slots=True)
class Rolled:
    """What the filter made of what is asked.

    Attributes:
        q, v: points at the rows, the start first, then the stop up to the last row of the chunk, shape (k + 1, n).
        stop: behind the rows that are played.
        steps: what the filter said, step by step.
    """

    q: Vector
    v: Vector
    stop: StopPlan
    steps: tuple[FilterResult, ...]

    @property
    def status(self) -> FilterStatus:
        """``CORRECTED``, or ``BACKUP`` where the motion ends in the filter's own stop."""
        braking = self.steps[-1].status is FilterStatus.BACKUP
        return FilterStatus.BACKUP if braking else FilterStatus.CORRECTED

    def told_by(self, result: FilterResult) -> FilterResult:
        """``result`` with what the steps report."""
        steps, last = self.steps, self.steps[-1]
        return replace(
            result,
            solver=last.solver,
            slack=tuple({name: amount for one in steps for name, amount in one.slack}.items()),
            active=tuple(dict.fromkeys(name for one in steps for name in one.active)),
            effort=sum(one.effort for one in steps) / len(steps),
            iterations=sum(one.iterations for one in steps),
            stuck=last.stuck,
            refusal=last.refusal if self.status is FilterStatus.BACKUP else "",
        )


def rolled(
    filtered: SafetyFilter, at: RobotState, follow: Follow, envelope: Envelope, *, steps: int, plays: int, chunk: int
) -> Rolled | str:
    """The filter's motion from ``at`` for ``plays`` rows of ``steps`` periods each, and its stop up to ``chunk`` rows.

    Why not, if even the backup of the filter was refused on the way.
    """
    filtered.reset(at)
    dt, step_ns = filtered.dt, round(filtered.dt * NS_PER_S)
    now, seen = at, list[FilterResult]()
    q, v = np.tile(at.q, (chunk + 1, 1)), np.tile(at.v, (chunk + 1, 1))
    for row in range(1, plays + 1):
        for _ in range(steps):
            result = filtered.apply(now, follow(len(seen) * dt, now), envelope)
            plan, t = filtered.plan, now.t + step_ns
            if result.status is FilterStatus.REFUSED or plan is None:
                return result.refusal or "no stop"
            ahead = plan.at(plan.elapsed(t)) if result.status is FilterStatus.BACKUP else (plan.q0, plan.v0)
            now = RobotState(*ahead, t)
            seen.append(result)
        q[row], v[row] = now.q, now.v
    stop = StopPlan(now.q, now.v, filtered.a_brake, 0)
    after: Vector = np.arange(1, chunk - plays + 1, dtype=np.float64)[:, None]
    q[plays + 1 :], v[plays + 1 :] = stop.at(after * (steps * dt))
    return Rolled(q, v, stop, tuple(seen))
