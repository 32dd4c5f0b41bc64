"""How far the backup's tracking law lets a disturbance push the arm from the stop that it follows.

A joint with acceleration error δ, |δ| ≤ W, under the law that is sampled every ``dt`` and acts ``delay`` ticks later,

    Δ(k+1) = A Δ(k) + B (u(k) + δ(k)),   u(k + delay) = −(ω² x̂ + 2ω ẋ̂)(k + delay | k),   A, B of the double integrator,

where the prediction x̂ knows the commands in flight and not δ. The sums of the absolute impulse responses bound every
bounded disturbance; for dt → 0 and no delay they are 1/ω² (position), 2/(eω) (speed) and 1 + 2e⁻² (feedback).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from safeguard.core.errors import ConfigError
from safeguard.core.types import Vector

_SETTLED = 1e-9


@dataclass(frozen=True, slots=True)
class Tube:
    """Gains from a bounded acceleration error W to what it causes, of one joint.

    Attributes:
        position: |q − q_ref| ≤ position · W, s².
        feedback: |ω² Δq + 2ω Δv| ≤ feedback · W.
        start: |q − q_ref| grows by at most this times W from what happened before the stop began, s².
        speeds: |v − v_ref| after 0, 1, 2, … periods is at most this times W, s.
    """

    position: float
    feedback: float
    start: float
    speeds: Vector

    def overspeed(self, error: Vector, deceleration: Vector, dt: float) -> Vector:
        """By how much a stop may exceed the speed that it starts with, shape (n,), rad/s.

        max over t of W speeds(t) − a t: nothing where the deceleration outweighs the error.
        """
        t = dt * np.arange(len(self.speeds))
        over = error[:, None] * self.speeds - deceleration[:, None] * t
        grown: Vector = np.maximum(over.max(axis=1), 0.0)
        return grown


def tube(omega: float, dt: float, delay_ticks: int) -> Tube:
    """The gains of the tracking law with natural frequency ``omega`` (rad/s), period ``dt`` (s) and delay.

    Raises:
        ConfigError: the sampled loop is not stable with this delay.
    """
    A, B = np.array([[1.0, dt], [0.0, 1.0]]), np.array([0.5 * dt * dt, dt])
    K = np.array([omega * omega, 2.0 * omega])
    count = int(np.ceil(60.0 / (omega * dt))) + 10 * delay_ticks
    impulse, feedback = _respond(A, B, K, delay_ticks, B, count)
    lost = dt * (1 + delay_ticks)
    drifted, _ = _respond(A, B, K, delay_ticks, np.array([0.5 * lost * lost, lost]), count)
    if not np.abs(impulse[-1]).max() < _SETTLED:
        raise ConfigError(
            f"the tracking law (omega = {omega} rad/s, dt = {dt} s, {delay_ticks} ticks of delay) does not settle: "
            "lower omega"
        )
    return Tube(
        position=float(np.abs(impulse[:, 0]).sum()),
        feedback=float(np.abs(feedback).sum()),
        start=float(np.abs(drifted[:, 0]).max()),
        speeds=np.concatenate((np.zeros(1), np.cumsum(np.abs(impulse[:, 1])))),
    )


def _respond(A: Vector, B: Vector, K: Vector, delay: int, x: Vector, count: int) -> tuple[Vector, Vector]:
    """(states, feedback) of ``count`` periods from ``x``, shapes (count, 2) and (count,)."""
    states, feedback = np.empty((count, 2)), np.empty(count)
    flight = [0.0] * delay
    for k in range(count):
        states[k] = x
        seen = x
        for u in flight:
            seen = A @ seen + B * u
        flight.append(-float(K @ seen))
        feedback[k] = flight.pop(0)
        x = A @ x + B * feedback[k]
    return states, feedback
