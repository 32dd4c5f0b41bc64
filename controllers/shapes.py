"""A robot's joints and collision pieces as the arrays that kernels take.

Every collision piece has a capsule that contains it (a sphere is one of length zero); where the piece is a capsule or
a sphere, that is the piece itself. Most pieces also have corners: points whose convex hull, grown by a radius,
contains the piece, and mostly is the piece. A half-space is its plane.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import coal
import numpy as np
import pinocchio as pin

from safeguard.core.compiled import INT_ROWS, MATRIX, Integers
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

CAPSULES, CORNERS, BOUND = 0, 1, 2  # what says how far apart a pair is
_POINT = 1e-6  # m; a cylinder that is shorter has no axis


class Capsules(NamedTuple):
    """The arrays of a robot that kernels take, and read alone; writable, as ``compiled.private`` says.

    Attributes:
        joints: row (n, 17) of every joint: rotation by rows and origin of its place in its parent's frame; direction
            of its axis; 1 if it slides; its parent, 0 for the world.
        pieces: row (P, 13) of every piece: ends of its capsule's axis in its body's frame (or normal and offset in
            the world); its radius; 1 for a half-space; its body; its first corner and the one after its last; the
            radius around the hull of the corners; the radius of the discs around them (a cylinder has two corners).
        points: corners of all pieces in the frames of their bodies, shape (V, 3).
        pairs: row (K, 5) of every kept pair: its two pieces; ``CAPSULES``, ``CORNERS`` or ``BOUND``, as its capsules or
            its corners are the pieces, or its corners contain them; its first row of ``moves`` and the one after its
            last.
        moves: row (M, 2) of every joint that moves a pair: the joint, and its reach, m/rad.
    """

    joints: Vector
    pieces: Vector
    points: Vector
    pairs: Integers
    moves: Vector

    @property
    def bodies(self) -> Integers:
        """Body of every piece, shape (P,)."""
        return self.pieces[:, 8].astype(np.int64)

    @classmethod
    def of(cls, robot: RobotModel) -> Capsules:
        """Those of ``robot``."""
        model, collision = robot.pin_model, robot.collision
        objects = list(collision.geometry.geometryObjects)
        capsules = [_capsule(obj) for obj in objects]
        corners = [_corners(obj, row) for obj, (row, _) in zip(objects, capsules, strict=True)]
        ends = np.cumsum([0, *(len(corner[0]) for corner in corners)])
        pieces = [
            [*row, float(obj.parentJoint), ends[k], ends[k + 1], thick, disc]
            for k, (obj, (row, _), (_, thick, disc, _)) in enumerate(zip(objects, capsules, corners, strict=True))
        ]
        kinds = [
            CAPSULES if capsules[i][1] and capsules[j][1] else max(corners[i][3], corners[j][3])
            for i, j in collision.pairs
        ]
        pairs, joints = np.nonzero(collision.reach)
        first = np.searchsorted(pairs, np.arange(len(collision.pairs) + 1))
        return cls(
            joints=np.array([_joint(model, j) for j in range(1, model.njoints)]),
            pieces=np.array(pieces, dtype=np.float64).reshape(-1, 13),
            points=np.ascontiguousarray(np.vstack([np.zeros((0, 3)), *(points for points, *_ in corners)])),
            pairs=_integers(np.column_stack((np.array(collision.pairs).reshape(-1, 2), kinds, first[:-1], first[1:]))),
            moves=np.column_stack((joints.astype(np.float64), collision.reach[pairs, joints])),
        )


SHAPES: Any = [MATRIX, MATRIX, MATRIX, INT_ROWS, MATRIX]
"""Types of the arrays, which a kernel takes one by one: a tuple of them takes it 0.5 µs longer."""


def _integers(rows: Any) -> Integers:
    return np.ascontiguousarray(rows, dtype=np.int64)


def _joint(model: Any, joint: int) -> Vector:
    place = model.jointPlacements[joint]
    return np.concatenate(
        (np.ravel(place.rotation), place.translation, _axis(model, joint), [float(model.parents[joint])])
    )


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


def _corners(obj: Any, row: list[float]) -> tuple[Vector, float, float, int]:
    """(points in the body's frame, radius around their hull, radius of discs, what they are to the piece)."""
    shape, place = obj.geometry, obj.placement
    if isinstance(shape, coal.Halfspace):
        return np.zeros((0, 3)), 0.0, 0.0, CORNERS
    if isinstance(shape, coal.Cylinder) and shape.halfLength > _POINT:
        return np.array(row[:6]).reshape(2, 3), 0.0, row[6], CORNERS
    if isinstance(shape, coal.Sphere | coal.Capsule | coal.Cylinder):
        return np.array(row[:6]).reshape(2, 3), row[6], 0.0, BOUND if isinstance(shape, coal.Cylinder) else CORNERS
    whole = isinstance(shape, coal.ConvexBase | coal.Box)
    return _points(shape) @ place.rotation.T + place.translation, 0.0, 0.0, CORNERS if whole else BOUND


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
