"""pink: joint velocity, self-collision barrier over the nearest pairs, position, velocity and acceleration limits.

Settings as in its own self-collision examples (gain 20), except that the barrier's damping of all motion
(``safe_displacement_gain``) is off: a filter must not slow down what is safe. The velocity is asked for as the
posture that it leads to: ``JointVelocityTask`` of 4.4.0 answers with the opposite sign. Variants: the QP solver's
name, for OSQP also ``osqp:TOLERANCE``. ``@default`` leaves out the acceleration limit, as pink does unless asked;
``@srdf`` takes the collision geometry as its users load it, the URDF's own primitives and the SRDF's pairs, instead
of the pieces that everybody gets.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.serve import Description, NoSolutionError, Piece, serve
from benchmarks.peers.shapes import coal_shape
from benchmarks.peers.wire import Array

PAIRS = 16
_GAIN = 20.0
_FILES = {"panda": ("panda_description/urdf/panda_collision.urdf", "panda_description/srdf/panda.srdf")}

_pin: Any = import_module("pinocchio")
_pink: Any = import_module("pink")
_parts: Any = {name: import_module(f"pink.{name}") for name in ("barriers", "limits", "tasks", "exceptions")}


class Pink:
    """``pink.solve_ik`` as a filter of joint velocities."""

    solved = True

    def __init__(self, robot: Description, solver: str) -> None:
        self._model = _pin.buildModelFromUrdf(robot.urdf)
        if tuple(self._model.names)[1:] != robot.joints:
            raise ValueError(f"joints {tuple(self._model.names)[1:]} are not {robot.joints}")
        solver, _, source = solver.partition("@")
        geometry = _loaded_geometry(robot) if source == "srdf" else _given_geometry(self._model, robot)
        self._dt = robot.dt
        self._solver, _, tolerance = solver.partition(":")
        self._settings = {"eps_abs": float(tolerance), "eps_rel": 0.0} if tolerance else {}
        self._configuration = _pink.Configuration(
            self._model,
            self._model.createData(),
            robot.home,
            copy_data=False,
            collision_model=geometry,
            collision_data=_pin.GeometryData(geometry),
        )
        self._task = _parts["tasks"].PostureTask(cost=1.0)
        limits = _parts["limits"]
        self._acceleration = limits.AccelerationLimit(self._model, robot.a_max)
        self._limits = [limits.ConfigurationLimit(self._model), limits.VelocityLimit(self._model)]
        self._limits += [] if source == "default" else [self._acceleration]
        self._barrier = _parts["barriers"].SelfCollisionBarrier(
            min(PAIRS, len(geometry.collisionPairs)), gain=_GAIN, safe_displacement_gain=0.0, d_min=robot.clearance
        )
        self._no_solution = _parts["exceptions"].NoSolutionFound

    def reset(self, q: Array, v: Array) -> None:
        """Nothing is kept but the last velocity, which every call sets."""

    def __call__(self, q: Array, v: Array, action: Array) -> Array:
        """Joint velocity, rad/s."""
        self._configuration.update(q)
        self._task.set_target(q + action * self._dt)
        self._acceleration.set_last_integration(v, self._dt)
        try:
            answer = _pink.solve_ik(
                self._configuration,
                [self._task],
                self._dt,
                solver=self._solver,
                limits=self._limits,
                barriers=[self._barrier],
                **self._settings,
            )
        except self._no_solution as error:
            raise NoSolutionError from error
        return np.asarray(answer, dtype=np.float64)


def _given_geometry(model: Any, robot: Description) -> Any:
    geometry = _pin.GeometryModel()
    for piece in robot.pieces:
        geometry.addGeometryObject(_object(model, piece))
    for i, j in robot.pairs:
        geometry.addCollisionPair(_pin.CollisionPair(i, j))
    return geometry


def _loaded_geometry(robot: Description) -> Any:
    if robot.name not in _FILES:
        raise ValueError(f"{robot.name} has no SRDF to load")
    share = Path(str(distribution("example-robot-data").locate_file("cmeel.prefix/share")))
    urdf, srdf = (str(share / "example-robot-data" / "robots" / path) for path in _FILES[robot.name])
    model = _pin.buildModelFromUrdf(urdf)
    geometry = _pin.buildGeomFromUrdf(model, urdf, _pin.GeometryType.COLLISION, package_dirs=str(share))
    geometry.addAllCollisionPairs()
    _pin.removeCollisionPairs(model, geometry, srdf)
    locked = [model.getJointId(name) for name in list(model.names)[1:] if name not in robot.joints]
    _, reduced = _pin.buildReducedModel(model, geometry, locked, _pin.neutral(model))
    return reduced


def _object(model: Any, piece: Piece) -> Any:
    frame = model.getFrameId(piece.body)
    return _pin.GeometryObject(
        piece.name, piece.joint, frame, _pin.SE3(piece.rotation, piece.translation), coal_shape(piece)
    )


if __name__ == "__main__":
    serve(Pink)
