"""mink: joint velocity, collision avoidance of all pairs with its broadphase, position and velocity limits.

Its own defaults (gains 0.95 and 0.85) except for the distance that is asked of everybody. It has neither
acceleration limits nor a joint velocity task: the posture that the velocity leads to stands for it.
Variants: the QP solver's name.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.peers.serve import Description, NoSolutionError, serve
from benchmarks.peers.shapes import add_mujoco_geoms
from benchmarks.peers.wire import Array

_DETECTION = 0.05  # m, beyond the distance that is kept

_mujoco: Any = import_module("mujoco")
_mink: Any = import_module("mink")


class Mink:
    """``mink.solve_ik`` as a filter of joint velocities."""

    solved = True

    def __init__(self, robot: Description, solver: str) -> None:
        self._model = _model(robot)
        names = tuple(self._model.joint(i).name for i in range(self._model.njnt))
        if names != robot.joints:
            raise ValueError(f"joints {names} are not {robot.joints}")
        self._solver, self._dt = solver, robot.dt
        self._configuration = _mink.Configuration(self._model)
        self._task = _mink.PostureTask(self._model, cost=1.0)
        pieces = robot.pieces
        self._limits = [
            _mink.ConfigurationLimit(self._model),
            _mink.VelocityLimit(self._model, dict(zip(robot.joints, robot.v_max.tolist(), strict=True))),
            _mink.CollisionAvoidanceLimit(
                self._model,
                [([pieces[i].name], [pieces[j].name]) for i, j in robot.pairs],
                minimum_distance_from_collisions=robot.clearance,
                collision_detection_distance=robot.clearance + _DETECTION,
            ),
        ]

    def reset(self, q: Array, v: Array) -> None:
        """Nothing is kept."""

    def __call__(self, q: Array, v: Array, action: Array) -> Array:
        """Joint velocity, rad/s."""
        self._configuration.update(q)
        self._task.set_target(q + action * self._dt)
        try:
            answer = _mink.solve_ik(
                self._configuration, [self._task], self._dt, solver=self._solver, limits=self._limits
            )
        except _mink.NoSolutionFound as error:
            raise NoSolutionError from error
        return np.asarray(answer, dtype=np.float64)


def _model(robot: Description) -> Any:
    """The URDF with the collision pieces as geometries."""
    spec = _mujoco.MjSpec.from_file(robot.urdf)
    spec.compiler.fusestatic = False
    spec.compiler.balanceinertia = True
    add_mujoco_geoms(spec, robot.pieces)
    return spec.compile()


if __name__ == "__main__":
    serve(Mink)
