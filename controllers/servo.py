"""The reference motion of position drives.

A position drive pulls its joint to what it was told, and lags behind it: by gravity over stiffness at rest, by its time
constant in motion. Whoever plans the next target from the measured position tells the drive to stay where it hangs, and
the arm sinks. So motion is planned from the reference itself: the filter's state is what the drives were told last, the
verified next state is what they are told next, and the measurement only says whether they follow.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from safeguard.controllers.brake import StopPlan
from safeguard.core.enums import FilterStatus
from safeguard.core.types import NS_PER_S, FilterResult, RobotState, Vector, frozen_array

_Point = tuple[Vector, Vector]


class ServoReference:
    """What the position drives were told, in a time of its own: one period for every tick.

    Args:
        joints: names, for the reasons.
        dt: control period, s.
        tracking_error: how far a drive may be from what it was told, rad.
    """

    def __init__(self, joints: tuple[str, ...], dt: float, tracking_error: float) -> None:
        self._joints, self._dt, self._tracking_error = joints, dt, tracking_error
        self._dt_ns = round(dt * NS_PER_S)
        self.forget()

    def forget(self) -> None:
        """The drives are off, or it is not known what they were told."""
        self._told: _Point | None = None  # by the last command
        self._start: _Point | None = None  # of this tick
        self._seen: int | None = None
        self._t = 0

    def told(self, result: FilterResult) -> None:
        """The drives were sent ``result``; they stay with the last target that was made of numbers."""
        q, v = result.position, result.velocity
        if q is None or v is None:
            self.forget()
        elif np.isfinite(q).all() and np.isfinite(v).all():
            self._told = (q, v)

    def planned(self, state: RobotState) -> RobotState:
        """What the drives were told last; the measured state where they were told nothing."""
        return RobotState(*(self._told or (state.q, state.v)), state.t)

    def anchor(self, state: RobotState) -> RobotState:
        """Where a stop begins that is stored now."""
        planned = self.planned(state)
        self._t, self._seen, self._start = state.t - self._dt_ns, None, (planned.q, planned.v)
        self._told = self._start
        return replace(planned, t=state.t)

    def begin(self, state: RobotState | None) -> RobotState | None:
        """The reference at the start of this tick, one period after that of the tick before; None before an anchor.

        A second call for the same measurement is the same tick.
        """
        if self._told is None:
            return None
        if state is None or state.t != self._seen:
            self._t, self._start = self._t + self._dt_ns, self._told
        self._seen = None if state is None else state.t
        return RobotState(*(self._start or self._told), self._t)

    def astray(self, state: RobotState, at: RobotState) -> str:
        """Which drive is not where it was told to be by now, ``at``, or ""."""
        off = np.abs(state.q - at.q)
        if (off <= self._tracking_error).all():  # False for NaN
            return ""
        j = int(np.argmax(off))
        declared = f"{self._tracking_error:g} rad is declared"
        return f"{self._joints[j]} is {off[j]:.3f} rad from what its drive was told, {declared}"

    def targeted(self, result: FilterResult, plan: StopPlan | None) -> FilterResult:
        """``result`` with the verified reference at the end of the period: the committed one, or the stop's."""
        if plan is None or result.status is FilterStatus.REFUSED:
            return result
        q, v = plan.at(plan.elapsed(self._t + self._dt_ns))
        return replace(result, position=frozen_array(q), velocity=frozen_array(v))

    def moved(self, result: FilterResult, at: RobotState, a: Vector) -> FilterResult:
        """``result`` with the reference that ``a`` (rad/s²) leads to from ``at`` in one period, whatever it is."""
        v_next = at.v + a * self._dt
        q_next = at.q + (at.v + v_next) * (0.5 * self._dt)
        return replace(result, position=frozen_array(q_next), velocity=frozen_array(v_next))
