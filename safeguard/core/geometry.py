"""Collision geometry: enclosing convex pieces, the frozen list of pairs, and how far a joint can move them.

A cylinder whose two ends carry spheres of its radius is one capsule: the same set of points, one
distance query instead of nine. Every other primitive stays as it is; meshes come as polytopes around them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import coal
import numpy as np
import pinocchio as pin

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
        members: original geometry names (link and index) that each piece encloses.
        meshes: key of the mesh that a piece encloses; "" for a piece made of primitives.
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
    meshes: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    reach: Vector
    between: Vector


@dataclass(frozen=True, slots=True)
class Piece:
    """One convex piece before its pairs are chosen.

    Attributes:
        object: pinocchio geometry object, placed in its joint's frame.
        link: name of the link, obstacle or tool.
        members: original geometry names.
        mesh: key of the mesh it encloses, or "".
    """

    object: Any
    link: str
    members: tuple[str, ...]
    mesh: str = ""


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
            pieces.append((_like(obj, obj.geometry), [obj.name]))
    out = pin.GeometryModel()
    for piece, _ in pieces:
        out.addGeometryObject(piece)
    return out, tuple(tuple(sorted(names)) for _, names in pieces)


def freeze_pairs(
    model: Any,
    geometry: Any,
    members: tuple[tuple[str, ...], ...],
    meshes: Mapping[str, str],
    world: Collection[str] = (),
) -> CollisionModel:
    """Keep every pair of pieces except those of one body, of adjacent bodies, and always-touching ones.

    "Never colliding" from sampling is no proof, so such pairs stay. A pair counts as always touching
    when it touches in all of a fixed, seeded set of configurations. ``meshes`` has the keys of mesh pieces by name,
    ``world`` the names of pieces that stand in the world: they are nobody's neighbours.
    """
    pieces = [
        Piece(obj, str(obj.name).rsplit("_", 1)[0], names, meshes.get(obj.name, ""))
        for obj, names in zip(geometry.geometryObjects, members, strict=True)
    ]
    outside = {k for k, piece in enumerate(pieces) if piece.object.name in world}
    parents = _parents(model)

    def candidate(i: int, j: int) -> bool:
        a, b = (int(pieces[k].object.parentJoint) for k in (i, j))
        return a != b and (i in outside or j in outside or not (parents[a] == b or parents[b] == a))

    empty = CollisionModel(pin.GeometryModel(), (), (), (), (), (), frozen_array([]), frozen_array([]))
    return with_pieces(model, empty, pieces, candidate)


def with_pieces(
    model: Any,
    collision: CollisionModel,
    pieces: Collection[Piece],
    candidate: Callable[[int, int], bool],
    keep: Collection[int] = (),
) -> CollisionModel:
    """``collision`` with further pieces; their pairs with every piece come after the pairs that are there.

    ``candidate(i, j)`` says of two pieces by their index, i < j, whether they are watched. Pairs that always touch
    are left out, but not those of the pieces in ``keep``.
    """
    geometry = collision.geometry.clone()
    first = len(collision.links)
    for piece in pieces:
        geometry.addGeometryObject(piece.object)
    objects = list(geometry.geometryObjects)
    possible = [(i, j) for i in range(len(objects)) for j in range(max(i + 1, first), len(objects)) if candidate(i, j)]
    kept = frozenset(keep)
    loose = [(i, j) for i, j in possible if i not in kept and j not in kept]
    dropped = _always_touching(model, geometry, loose)
    pairs = [*collision.pairs, *(pair for pair in possible if pair not in dropped)]
    geometry.removeAllCollisionPairs()
    for i, j in pairs:
        geometry.addCollisionPair(pin.CollisionPair(i, j))
    links = (*collision.links, *(piece.link for piece in pieces))
    between, reach = _reach(model, objects, pairs)
    return CollisionModel(
        geometry=geometry,
        links=links,
        members=(*collision.members, *(piece.members for piece in pieces)),
        meshes=(*collision.meshes, *(piece.mesh for piece in pieces)),
        pairs=tuple(pairs),
        names=tuple(f"{links[i]}|{links[j]}" for i, j in pairs),
        reach=reach,
        between=between,
    )


def distances(model: Any, collision: CollisionModel, q: Vector) -> Vector:
    """Signed distances of all kept pairs at ``q``, shape (pairs,), m; negative in penetration."""
    placed = collision.geometry.createData()
    pin.computeDistances(model, model.createData(), collision.geometry, placed, q)
    return np.array([result.min_distance for result in placed.distanceResults])


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


def _parents(model: Any) -> list[int]:
    """The next body with a link above each body: the joints between two links of an MJCF may be several."""
    linked = {0, *(int(frame.parentJoint) for frame in model.frames if frame.type == pin.FrameType.BODY)}
    parents = [0]
    for body in range(1, model.njoints):
        up = int(model.parents[body])
        parents.append(up if up in linked else parents[up])
    return parents


def _always_touching(model: Any, geometry: Any, pairs: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """The pairs that touch in all of the sampled configurations."""
    data, rng = model.createData(), np.random.default_rng(_TOUCH_SEED)
    low: Vector = np.asarray(model.lowerPositionLimit)
    high: Vector = np.asarray(model.upperPositionLimit)
    touching = pairs
    for _ in range(_TOUCH_SAMPLES):
        q = rng.uniform(low, high)
        if not touching:
            break
        geometry.removeAllCollisionPairs()
        for i, j in touching:
            geometry.addCollisionPair(pin.CollisionPair(i, j))
        placed = geometry.createData()
        pin.computeDistances(model, data, geometry, placed, q)
        found = zip(touching, placed.distanceResults, strict=True)
        touching = [pair for pair, result in found if not result.min_distance > 0.0]
    return set(touching)


def _reach(model: Any, objects: list[Any], pairs: list[tuple[int, int]]) -> tuple[Vector, Vector]:
    """Signs and bounds of the relative motion of each pair, by the triangle inequality along the chain.

    For joint ``j`` and a piece on body ``b`` behind it, no point of the piece is further from the axis
    than the lengths of the placements from ``j`` to ``b`` plus the piece's own extent.
    """
    n = model.nv
    moved = np.zeros((len(objects), n))
    for k, obj in enumerate(objects):
        body = int(obj.parentJoint)
        length = _extent(obj) if body > 0 else 0.0
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
    shape = obj.geometry
    if isinstance(shape, coal.Capsule):
        return float(max(np.linalg.norm(end) for end in _ends(obj)) + shape.radius)
    if isinstance(shape, coal.Box | coal.ConvexBase):
        corners = _box_corners(shape) if isinstance(shape, coal.Box) else np.asarray(shape.points())
        return float(max(np.linalg.norm(obj.placement.act(corner)) for corner in corners))
    shape.computeLocalAABB()
    centre = obj.placement.act(np.asarray(shape.aabb_center))
    return float(np.linalg.norm(centre) + shape.aabb_radius)


def _box_corners(box: Any) -> Vector:
    return np.array(list(itertools.product(*((-half, half) for half in box.halfSide))))


def _stroke(model: Any, body: int) -> float:
    index = model.joints[body].idx_q
    return float(max(abs(model.lowerPositionLimit[index]), abs(model.upperPositionLimit[index])))
