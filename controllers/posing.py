"""What a tick of the filter knows before it decides: the proposal as an acceleration, bounds, rows and the retreat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from safeguard.controllers.checker import Checker
from safeguard.controllers.clearance import Clearance, ClearanceRows
from safeguard.controllers.dynamics import Dynamics
from safeguard.controllers.figures import Figures
from safeguard.controllers.program import Problem
from safeguard.controllers.proposal import wanted
from safeguard.controllers.speed import SpeedCaps
from safeguard.controllers.task import TaskSpace
from safeguard.controllers.viability import JointBounds, led_back
from safeguard.core.compiled import private
from safeguard.core.config import FilterConfig
from safeguard.core.robot import RobotModel
from safeguard.core.types import Envelope, Nominal, RobotState, Vector


class Posing:
    """Poses the problem of every tick.

    Args:
        robot: the model.
        dt: control period, s.
        config: of the filter.
        figures: what was made of it.
        dynamics: of the period that the tick decides.
        clearance, speed, checker: the filter's own.
    """

    def __init__(
        self,
        robot: RobotModel,
        dt: float,
        config: FilterConfig,
        figures: Figures,
        dynamics: Dynamics,
        clearance: Clearance,
        speed: SpeedCaps | None,
        checker: Checker,
    ) -> None:
        self._config, self._dynamics = config, dynamics
        self._clearance, self._speed, self._checker, self._dt = clearance, speed, checker, dt
        self._limits, self._task = robot.limits, TaskSpace(robot, dt, config.task)
        self._a_plan, self._range = private(figures.a_plan), (private(figures.q_min), private(figures.q_max))
        self._a_brake, self._omega = private(figures.a_brake), figures.omega
        self._most = (1.0 - 1e-6) * robot.limits.a_max
        self._bounds = JointBounds(
            figures.q_min, figures.q_max, figures.v_max, robot.limits.a_max, figures.a_plan, dt, figures.ceiling
        )

    def __call__(
        self, state: RobotState, nominal: Nominal, envelope: Envelope, last_torque: Vector | None
    ) -> Problem | None:
        """The problem at a state, whose period ``dynamics`` are for; None if the proposal is not usable.

        ``last_torque`` is what went out in the tick before, shape (n,), N·m, where a comfortable rate counts from.
        """
        torque, a = wanted(nominal, state, self._dynamics, self._task, self._dt)
        if a is None:
            return None
        q, v, brake = private(state.q), private(state.v), np.empty(len(state.q))
        led_back(q, v, *self._range, self._a_brake, self._most, self._omega, self._dt, brake)
        near = self._config.margins.near_rad if envelope.away else None
        lower, upper = self._bounds(q, v, brake, envelope.velocity, envelope.acceleration, near)
        rows, retreat = self._clearance.rows(q, v, self._a_plan, brake, lower, upper, self._dt, envelope.away)
        retreat_rows, speed = rows, None
        if retreat is not brake:
            retreat = self._allowed(q, v, retreat, brake)
            retreat_rows = rows.relaxed(retreat)
        if self._speed:
            speed = self._speed.rows(q, v, a, retreat, lower, upper, self._speed.configured)
        return Problem(
            q, v, a, torque, self._smooth(retreat, last_torque), lower, upper, rows, retreat, retreat_rows, speed,
            self._slack(rows, speed), self._clearance.now,
        )  # fmt: skip

    def _allowed(self, q: Vector, v: Vector, retreat: Vector, brake: Vector) -> Vector:
        """``retreat`` if it keeps torque limits and speed caps, else a point between it and ``brake`` that does."""
        if self._checker.torque_refusal(self._dynamics.torque(retreat), v=self._checker.speeds(v, retreat)):
            return brake
        return self._speed.within(q, v, retreat, brake, self._speed.configured) if self._speed else retreat

    def _smooth(self, retreat: Vector, last: Vector | None) -> tuple[Vector, Vector] | None:
        """Torques within a comfortable change of the last one, widened to that of the retreat."""
        if last is None or self._config.torque_rate == "recorded":
            return None
        change, known = self._limits.tau_rate_max * self._dt, self._dynamics.torque(retreat)
        return np.minimum(last - change, known), np.maximum(last + change, known)

    def _slack(self, rows: ClearanceRows, speed: ClearanceRows | None) -> tuple[tuple[str, float], ...]:
        """(name, amount) of every row that gives way to full braking, m or m/s."""
        found = self._relaxed("clearance:", self._clearance.names, rows)
        if speed is not None and self._speed:
            found += self._relaxed("", self._speed.names, speed)
        return tuple(found)

    def _relaxed(self, kind: str, names: Sequence[str], rows: ClearanceRows) -> list[tuple[str, float]]:
        least, pairs = self._config.slack_tolerance_m, rows.pairs
        slack: list[float] = rows.slack.tolist()
        return [(f"{kind}{names[pairs[k]]}", amount) for k, amount in enumerate(slack) if amount > least]
