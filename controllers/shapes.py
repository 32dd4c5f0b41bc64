"""A robot's joints and collision pieces as the arrays that the kernels of ``capsules.py`` take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import coal
import numpy as np
import pinocchio as pin
from numpy.typing import NDArray

from safeguard.controllers.capsules import Integers
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector


@dataclass(frozen=True, slots=True)
class Capsules:
    """The arrays of a robot that the kernels of this module take.

    Attributes:
        tree: parents (n,), places (n, 12) and axes (n, 4: direction, 1 if sliding) of the joints.
        bodies, pieces: body (P,) and capsule (P, 8) of every piece.
        pairs: kept pairs, shape (K, 2).
        exact: whether the capsules of a pair are the pieces themselves, shape (K,).
        corners: of all pieces: points (V, 3) in the frames of their bodies whose convex hull, grown by thick (P,),
            contains piece p; those from spans[p] to spans[p + 1]. A half-space has none.
        hulls: pairs for which the corners say more than the capsules, shape (K,).
    """

    tree: tuple[Integers, Vector, Vector]
    bodies: Integers
    pieces: Vector
    pairs: Integers
    exact: NDArray[np.bool_]
    corners: tuple[Vector, Integers, Vector]
    hulls: NDArray[np.bool_]

    @classmethod
    def of(cls, robot: RobotModel) -> Capsules:
        """Those of ``robot``."""
        model = robot.pin_model
        objects = list(robot.collision.geometry.geometryObjects)
        rows = [_capsule(obj) for obj in objects]
        same = [exact for _, exact in rows]
        pairs = np.array(robot.collision.pairs, dtype=np.int64).reshape(-1, 2)
        corners = [_corners(obj, row) for obj, (row, _) in zip(objects, rows, strict=True)]
        solid = [len(points) > 0 for points, _ in corners]
        exact = np.array([same[i] and same[j] for i, j in robot.collision.pairs], dtype=bool)
        return cls(
            tree=(
                np.array([model.parents[j] for j in range(1, model.njoints)], dtype=np.int64),
                np.array([_frame_row(model.jointPlacements[j]) for j in range(1, model.njoints)]),
                np.array([_axis(model, j) for j in range(1, model.njoints)]),
            ),
            bodies=np.array([obj.parentJoint for obj in objects], dtype=np.int64),
            pieces=np.array([row for row, _ in rows], dtype=np.float64).reshape(-1, 8),
            pairs=pairs,
            exact=exact,
            corners=(
                np.vstack([np.zeros((0, 3)), *(points for points, _ in corners)]),
                np.cumsum([0, *(len(points) for points, _ in corners)], dtype=np.int64),
                np.array([radius for _, radius in corners], dtype=np.float64),
            ),
            hulls=~exact & np.array([solid[i] and solid[j] for i, j in robot.collision.pairs], dtype=bool),
        )


def _frame_row(placement: Any) -> Vector:
    return np.append(np.asarray(placement.rotation), np.asarray(placement.translation))


def _axis(model: Any, joint: int) -> Vector:
    """Direction in the joint's frame, and whether it slides, from the joint's own motion subspace."""
    data = model.createData()
    J = pin.computeJointJacobian(model, data, pin.neutral(model), joint)[:, model.joints[joint].idx_v]
    sliding = float(np.linalg.norm(J[3:]) < 0.5)
    return np.append(J[:3] if sliding else J[3:], sliding)


def _capsule(obj: Any) -> tuple[list[float], bool]:
    """(row of a capsule that contains the piece, whether it is the piece)."""
    shape, place = obj.geometry, obj.placement
    if isinstance(shape, coal.Halfspace):
        normal = place.rotation @ np.asarray(shape.n)
        return [*normal, shape.d + float(normal @ place.translation), 0.0, 0.0, 0.0, 1.0], True
    if isinstance(shape, coal.Sphere):
        centre = place.translation
        return [*centre, *centre, shape.radius, 0.0], True
    if isinstance(shape, coal.Capsule | coal.Cylinder):
        half = np.array([0.0, 0.0, shape.halfLength])
        return [*place.act(-half), *place.act(half), shape.radius, 0.0], isinstance(shape, coal.Capsule)
    a, b, radius = _enclosing(_points(shape))
    return [*place.act(a), *place.act(b), radius, 0.0], False


def _corners(obj: Any, row: list[float]) -> tuple[Vector, float]:
    """(points in the body's frame, radius): the piece lies within the radius of their convex hull."""
    shape, place = obj.geometry, obj.placement
    if isinstance(shape, coal.Halfspace):
        return np.zeros((0, 3)), 0.0
    if isinstance(shape, coal.Sphere | coal.Capsule | coal.Cylinder):
        return np.array(row[:6]).reshape(2, 3), row[6]
    return _points(shape) @ place.rotation.T + place.translation, 0.0


def _points(shape: Any) -> Vector:
    """Points whose convex hull contains the shape, shape (k, 3), m."""
    if isinstance(shape, coal.ConvexBase):
        return np.array(shape.points())
    if isinstance(shape, coal.Box):
        half = np.asarray(shape.halfSide)
    else:
        shape.computeLocalAABB()
        box = shape.aabb_local
        return np.array(np.meshgrid(*zip(box.min_, box.max_, strict=True))).reshape(3, -1).T
    return np.array(np.meshgrid(*zip(-half, half, strict=True))).reshape(3, -1).T


def _enclosing(points: Vector) -> tuple[Vector, Vector, float]:
    """Ends and radius of a capsule that contains all points: along each principal axis, the one of least volume."""
    centre = 0.5 * (points.min(axis=0) + points.max(axis=0))
    best: tuple[float, Vector, Vector, float] | None = None
    for axis in (*np.eye(3), *np.linalg.svd(points - points.mean(axis=0))[2]):
        along = (points - centre) @ axis
        across = np.linalg.norm(points - centre - np.outer(along, axis), axis=1)
        radius = float(across.max()) * (1.0 + 1e-9)
        depth = np.sqrt(np.maximum(radius**2 - across**2, 0.0))  # how far a cap reaches over this point
        low, high = float((along + depth).min()), float((along - depth).max())
        low, high = min(low, high), max(low, high)
        volume = radius**2 * (high - low) + 4.0 / 3.0 * radius**3
        if best is None or volume < best[0]:
            best = (volume, centre + low * axis, centre + high * axis, radius)
    assert best is not None
    return best[1], best[2], best[3]
