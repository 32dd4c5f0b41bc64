"""Rigid-body dynamics of a robot model in preallocated form: M(q) a + h(q, v) = τ."""

from __future__ import annotations

import numpy as np
import pinocchio as pin

from safeguard.controllers.newton_euler import InverseDynamics, side_by_side
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector


class Dynamics:
    """Mass matrix and bias forces of the last state given to ``update``.

    A command is held for a period, and what it does is asked at the period's end: ``during`` takes the configuration in
    its middle. The speeds stay those of its begin, as those of the middle depend on the command.

    Attributes:
        q: where they were evaluated, shape (n,), rad.
        M: mass matrix with armature, shape (n, n), kg·m².
        h: bias forces with friction, shape (n,), N·m.
        gravity: its part of h, shape (n,), N·m.
        data: the pinocchio data, placed at the last state.
    """

    def __init__(self, robot: RobotModel) -> None:
        self._robot = robot
        self._model = robot.pin_model
        self.data = self._model.createData()
        self._frictionless = not robot.coulomb.any()
        self._inverse = InverseDynamics(robot)
        self._wanted = np.ones(robot.n, dtype=bool)
        self.q, self.h = np.zeros(robot.n), np.zeros(robot.n)
        self.M: Vector = self.data.M  # these follow the data
        self.gravity: Vector = self.data.g
        self._nonlinear: Vector = self.data.nle

    def update(self, q: Vector, v: Vector) -> None:
        """Evaluate at (q, v), each of shape (n,)."""
        pin.computeAllTerms(self._model, self.data, q, v)
        self.q, self.h = q, self._bias(v, self._nonlinear)

    def during(self, q: Vector, v: Vector, dt: float) -> None:
        """Evaluate for a period of ``dt`` s that begins at (q, v)."""
        self.update(q + (0.5 * dt) * v, v)

    def torque(self, a: Vector) -> Vector:
        """τ = M a + h at the last state, shape (n,), N·m."""
        torque: Vector = self.M.dot(a) + self.h  # ``@`` takes three times as long where n is small
        return torque

    def acceleration(self, tau: Vector) -> Vector:
        """A = M⁻¹ (τ − h) at the last state, shape (n,), rad/s²."""
        return np.asarray(np.linalg.solve(self.M, tau - self.h), dtype=np.float64)

    def torques_along(self, q: Vector, v: Vector, a: Vector) -> Vector:
        """Inverse dynamics of ``k`` independent states: q, v, a and the result have shape (k, n)."""
        k, columns = len(q), np.full(self._robot.n, len(q))
        return self._inverse(side_by_side(q), side_by_side(v), side_by_side(a), columns, self._wanted)[:, :k].T

    def _bias(self, v: Vector, nonlinear: Vector) -> Vector:
        """``RobotModel.bias``, less the Coulomb term where there is none."""
        if self._frictionless:
            return nonlinear + self._robot.viscous * v
        return self._robot.bias(v, nonlinear)
