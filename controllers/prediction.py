"""Where the robot will be when a command takes effect: the commands in flight, applied to the nominal model."""

from __future__ import annotations

from collections import deque

from safeguard.controllers.dynamics import Dynamics
from safeguard.core.types import NS_PER_S, RobotState, Vector


class InFlight:
    """The last ``ticks`` commands, which were given in earlier ticks and have not acted yet.

    Args:
        dynamics: of the nominal model.
        ticks: periods from a decision to its effect.
        dt: control period, s.
    """

    def __init__(self, dynamics: Dynamics, ticks: int, dt: float) -> None:
        self._dynamics, self._ticks, self._dt = dynamics, ticks, dt
        self._dt_ns = round(dt * NS_PER_S)
        self._torques: deque[Vector | None] = deque(maxlen=ticks)
        self.reset()

    def reset(self) -> None:
        """Nothing is known of earlier commands: they are taken to hold the speed that is measured."""
        self._torques.extend([None] * self._ticks)
        self._latest: Vector | None = None  # command of this tick
        self._seen: int | None = None

    def begin(self, t: int | None) -> None:
        """A tick with a state measured at ``t`` ns, or with none; the same state again is the same tick."""
        if t is None or t != self._seen:
            if self._latest is not None:
                self._torques.append(self._latest)
            self._latest, self._seen = None, t

    def given(self, torque: Vector) -> None:
        """The command of this tick is ``torque``, N·m, shape (n,); it replaces one that was given before."""
        self._latest = torque

    def predicted(self, state: RobotState) -> RobotState:
        """The state after the commands in flight, stamped with the time at which that is."""
        if self._ticks == 0:
            return state
        self.begin(state.t)
        q, v, dt = state.q, state.v, self._dt
        for torque in self._torques:
            if torque is None:
                q = q + v * dt
                continue
            self._dynamics.during(q, v, dt)
            v_next = v + self._dynamics.acceleration(torque) * dt
            q, v = q + (v + v_next) * (0.5 * dt), v_next
        return RobotState(q, v, state.t + self._ticks * self._dt_ns)
