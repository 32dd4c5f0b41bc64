"""The robot of a run in three dimensions: the enclosing shapes that its filter kept apart, and where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

import numpy as np

from safeguard.audit.records.registry import RunOpen
from safeguard.core.errors import SafeguardError
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

RATE_HZ: Final = 50.0
"""Poses are derived from the positions in the records; so many a second are enough to look at."""

Form: TypeAlias = Literal["capsule", "cylinder", "box", "sphere", "mesh"]


@dataclass(frozen=True, slots=True)
class Shape:
    """One enclosing shape in its own frame.

    Attributes:
        name: unique within the robot.
        form: a capsule or cylinder lies along z, its centre in the origin.
        size: m; radius and length without caps of a capsule, radius and length of a cylinder, three edges of a box,
            radius of a sphere, nothing of a mesh.
        vertices, triangles: of a mesh, shapes (n, 3), m, and (k, 3); empty otherwise.
    """

    name: str
    form: Form
    size: tuple[float, ...]
    vertices: Vector
    triangles: np.ndarray[Any, np.dtype[np.int64]]


class Scene:
    """A robot's shapes, and their poses at a configuration."""

    def __init__(self, robot: RobotModel) -> None:
        self._robot = robot
        self._model, self._geometry = robot.pin_model, robot.collision.geometry
        self._data, self._placed = self._model.createData(), self._geometry.createData()
        shapes = [_shape(item) for item in self._geometry.geometryObjects]
        self._drawn = [at for at, shape in enumerate(shapes) if shape is not None]
        self.shapes = tuple(shape for shape in shapes if shape is not None)

    def poses(self, q: Vector) -> tuple[Vector, Vector] | None:
        """Origins, shape (shapes, 3), m, and orientations, shape (shapes, 4), unit quaternions x, y, z, w, in the base.

        None where ``q`` is not a finite configuration of this robot.
        """
        import pinocchio as pin

        if q.shape != (self._robot.n,) or not np.isfinite(q).all():
            return None
        pin.updateGeometryPlacements(self._model, self._data, self._geometry, self._placed, np.array(q))
        placed = [self._placed.oMg[at] for at in self._drawn]
        turns = [np.array(pin.Quaternion(place.rotation).coeffs(), dtype=np.float64) for place in placed]
        origins = [np.array(place.translation, dtype=np.float64) for place in placed]
        return np.array(origins).reshape(-1, 3), np.array(turns).reshape(-1, 4)


def scene_of(opened: RunOpen) -> tuple[Scene | None, str]:
    """The scene of the run's robot, and what there is to say about it: why there is none, or that it may differ."""
    source = opened.robot.source
    if not isinstance(source, dict):
        return None, "no picture of the robot: the run does not say how to build it"
    try:
        robot = RobotModel.from_source(cast("Mapping[str, Any]", source))
    except (SafeguardError, KeyError, TypeError, ValueError, OSError) as error:
        return None, f"no picture of the robot: it cannot be built here: {type(error).__name__}: {error}"
    if robot.digest != opened.robot.digest:
        return Scene(robot), "the robot drawn is not exactly the one of the run: its digest differs"
    return Scene(robot), ""


def _shape(item: Any) -> Shape | None:
    """What a geometry object looks like; a half-space has no end and is not drawn."""
    import coal

    shape, name = item.geometry, str(item.name)
    none = np.empty((0, 3)), np.empty((0, 3), dtype=np.int64)
    match shape:
        case coal.Capsule():
            return Shape(name, "capsule", (float(shape.radius), 2.0 * float(shape.halfLength)), *none)
        case coal.Cylinder():
            return Shape(name, "cylinder", (float(shape.radius), 2.0 * float(shape.halfLength)), *none)
        case coal.Box():
            x, y, z = (2.0 * float(half) for half in shape.halfSide)
            return Shape(name, "box", (x, y, z), *none)
        case coal.Sphere():
            return Shape(name, "sphere", (float(shape.radius),), *none)
        case coal.ConvexBase():
            vertices = np.array([shape.point(at) for at in range(shape.num_points)], dtype=np.float64)
            faces = (shape.polygons(at) for at in range(shape.num_polygons))
            triangles = np.array([[int(face[at]) for at in range(3)] for face in faces], dtype=np.int64)
            return Shape(name, "mesh", (), vertices.reshape(-1, 3), triangles.reshape(-1, 3))
        case _:
            return None
