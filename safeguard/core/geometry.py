"""Collision geometry: enclosing convex pieces, the frozen list of pairs, and how far a joint can move them.

A cylinder whose two ends carry spheres of its radius is one capsule: the same set of points, one
distance query instead of nine. Every other primitive stays as it is; meshes become their convex hull.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import coal
import numpy as np
import pinocchio as pin

from safeguard.core.errors import RobotError
from safeguard.core.types import Vector, frozen_array

_TOUCH_SAMPLES = 512
_TOUCH_SEED = 20260101
_CAP_TOLERANCE = 1e-3  # m; the capsule grows by what the caps are off


@dataclass(frozen=True, slots=True)
class CollisionModel:
    """Frozen collision pairs of a robot.

    Attributes:
        geometry: pinocchio geometry model with one convex piece per object and the kept pairs.
        links: link name of every piece.
        members: original geometry names (URDF link and index) that each piece encloses.
        pairs: (piece, piece) of every kept pair.
        names: ``"link_a|link_b"`` of every kept pair.
        reach: upper bound on how far 1 rad (or 1 m) of joint ``j`` moves the two pieces of a pair
            relative to each other, shape (pairs, n), m/rad.
        between: +1 where a joint moves only the second piece, −1 only the first, 0 both or none,
            shape (pairs, n).
    """

    geometry: Any
    links: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]
    pairs: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    reach: Vector
    between: Vector


def enclose(geometry: Any) -> tuple[Any, tuple[tuple[str, ...], ...]]:
    """A geometry model of convex pieces that covers ``geometry``, with the names each piece stands for."""
    objects = list(geometry.geometryObjects)
    capsules: list[tuple[Any, list[str]]] = []
    rest: list[Any] = []
    for obj in objects:
        gap = _cap_gap(obj, objects) if isinstance(obj.geometry, coal.Cylinder) else None
        if gap is not None:
            shape = coal.Capsule(obj.geometry.radius + gap, 2.0 * obj.geometry.halfLength)
            capsules.append((_like(obj, shape), [obj.name]))
        else:
            rest.append(obj)
    pieces = list(capsules)
    for obj in rest:
        home = next((names for piece, names in capsules if _inside(obj, piece)), None)
        if home is not None:
            home.append(obj.name)
        else:
            pieces.append((_like(obj, _convex(obj)), [obj.name]))
    out = pin.GeometryModel()
    for piece, _ in pieces:
        out.addGeometryObject(piece)
    return out, tuple(tuple(sorted(names)) for _, names in pieces)


def freeze_pairs(model: Any, geometry: Any, members: tuple[tuple[str, ...], ...]) -> CollisionModel:
    """Keep every pair of pieces except those of one body, of adjacent bodies, and always-touching ones.

    "Never colliding" from sampling is no proof, so such pairs stay. A pair counts as always touching
    when it touches in all of a fixed, seeded set of configurations.
    """
    objects = list(geometry.geometryObjects)
    bodies = [int(obj.parentJoint) for obj in objects]
    candidates = [
        (i, j)
        for i in range(len(objects))
        for j in range(i + 1, len(objects))
        if bodies[i] != bodies[j] and not _adjacent(model, bodies[i], bodies[j])
    ]
    kept = _drop_always_touching(model, geometry, candidates)
    geometry.removeAllCollisionPairs()
    for i, j in kept:
        geometry.addCollisionPair(pin.CollisionPair(i, j))
    links = tuple(str(obj.name).rsplit("_", 1)[0] for obj in objects)
    between, reach = _reach(model, objects, kept)
    return CollisionModel(
        geometry=geometry,
        links=links,
        members=members,
        pairs=tuple(kept),
        names=tuple(f"{links[i]}|{links[j]}" for i, j in kept),
        reach=reach,
        between=between,
    )


def _like(obj: Any, shape: Any) -> Any:
    return pin.GeometryObject(obj.name, obj.parentJoint, obj.parentFrame, obj.placement, shape)


def _ends(obj: Any) -> tuple[Vector, Vector]:
    """End points of the axis of a cylinder or capsule in its joint's frame."""
    half = np.array([0.0, 0.0, obj.geometry.halfLength])
    return obj.placement.act(-half), obj.placement.act(half)


def _cap_gap(cylinder: Any, objects: list[Any]) -> float | None:
    """Largest distance between an end of the cylinder and the sphere that caps it, m; None if uncapped."""
    spheres = [
        o.placement.translation
        for o in objects
        if isinstance(o.geometry, coal.Sphere)
        and o.parentFrame == cylinder.parentFrame
        and abs(o.geometry.radius - cylinder.geometry.radius) < 1e-9
    ]
    if not spheres:
        return None
    gap = max(min(float(np.linalg.norm(s - end)) for s in spheres) for end in _ends(cylinder))
    return gap if gap < _CAP_TOLERANCE else None


def _inside(obj: Any, capsule: Any) -> bool:
    """A sphere lies wholly inside a capsule of the same link."""
    if not isinstance(obj.geometry, coal.Sphere) or obj.parentFrame != capsule.parentFrame:
        return False
    a, b = _ends(capsule)
    centre = obj.placement.translation
    s = float(np.clip(np.dot(centre - a, b - a) / max(np.dot(b - a, b - a), 1e-12), 0.0, 1.0))
    gap = float(np.linalg.norm(centre - (a + s * (b - a))))
    return bool(gap + obj.geometry.radius <= capsule.geometry.radius + 1e-6)


def _convex(obj: Any) -> Any:
    shape = obj.geometry
    if not isinstance(shape, coal.BVHModelBase):
        return shape
    shape.buildConvexHull(True, "Qt")  # answers whether the mesh itself is convex
    if shape.convex is None:
        raise RobotError(f"collision mesh {obj.name!r}: its convex hull could not be built")
    return shape.convex


def _adjacent(model: Any, a: int, b: int) -> bool:
    return bool(model.parents[a] == b or model.parents[b] == a)


def _drop_always_touching(model: Any, geometry: Any, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    for i, j in pairs:
        geometry.addCollisionPair(pin.CollisionPair(i, j))
    data, gdata = model.createData(), geometry.createData()
    results = list(gdata.distanceResults)
    rng = np.random.default_rng(_TOUCH_SEED)
    widest = np.full(len(pairs), -np.inf)
    low: Vector = np.asarray(model.lowerPositionLimit)
    high: Vector = np.asarray(model.upperPositionLimit)
    for _ in range(_TOUCH_SAMPLES):
        q = rng.uniform(low, high)
        pin.computeDistances(model, data, geometry, gdata, q)
        np.maximum(widest, [r.min_distance for r in results], out=widest)
    return [pair for pair, most in zip(pairs, widest, strict=True) if most > 0.0]


def _reach(model: Any, objects: list[Any], pairs: list[tuple[int, int]]) -> tuple[Vector, Vector]:
    """Signs and bounds of the relative motion of each pair, by the triangle inequality along the chain.

    For joint ``j`` and a piece on body ``b`` behind it, no point of the piece is further from the axis
    than the lengths of the placements from ``j`` to ``b`` plus the piece's own extent.
    """
    n = model.nv
    moved = np.zeros((len(objects), n))
    for k, obj in enumerate(objects):
        length = _extent(obj)
        body = int(obj.parentJoint)
        while body > 0:
            column = model.joints[body].idx_v
            revolute = not model.joints[body].shortname().startswith("JointModelP")
            moved[k, column] = length if revolute else 1.0
            travel = 0.0 if revolute else _stroke(model, body)
            length += float(np.linalg.norm(model.jointPlacements[body].translation)) + travel
            body = int(model.parents[body])
    between, reach = np.zeros((len(pairs), n)), np.zeros((len(pairs), n))
    for row, (i, j) in enumerate(pairs):
        only_first = (moved[i] > 0.0) & (moved[j] == 0.0)
        only_second = (moved[j] > 0.0) & (moved[i] == 0.0)
        between[row] = only_second.astype(float) - only_first.astype(float)
        reach[row] = np.where(only_second, moved[j], 0.0) + np.where(only_first, moved[i], 0.0)
    return frozen_array(between), frozen_array(reach)


def _extent(obj: Any) -> float:
    """Largest distance of a point of the piece from its joint's origin, m."""
    if isinstance(obj.geometry, coal.Capsule):
        return float(max(np.linalg.norm(end) for end in _ends(obj)) + obj.geometry.radius)
    obj.geometry.computeLocalAABB()
    centre = obj.placement.act(np.asarray(obj.geometry.aabb_center))
    return float(np.linalg.norm(centre) + obj.geometry.aabb_radius)


def _stroke(model: Any, body: int) -> float:
    index = model.joints[body].idx_q
    return float(max(abs(model.lowerPositionLimit[index]), abs(model.upperPositionLimit[index])))
