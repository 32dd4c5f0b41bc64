"""Enclosing polytopes of meshes: few corners, every vertex inside, made once and kept by content.

A distance query costs more the more corners a shape has, and the hulls of CAD meshes have thousands. A polytope
around the hull is cut out of its bounding box: the corner that sticks out furthest is cut off by the plane that
touches the hull where the corner is nearest to it, until nothing sticks out or the corners are many enough.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coal
import numpy as np
from scipy.spatial import ConvexHull, HalfspaceIntersection, QhullError

from safeguard.core.errors import RobotError
from safeguard.core.types import Vector

MAX_CORNERS = 96
TOLERANCE = 1e-3  # m; a polytope that sticks out less is good enough
_COVER = 1e-6  # m; a vertex further outside is not covered
_MERGE = 9  # digits; corners of the same point come out in several versions
_PROBE = 1e-6  # m; radius of the sphere that stands for a point in a distance query
_RECIPE = f"enclosing polytope 1: {MAX_CORNERS} corners, {TOLERANCE} m"


@dataclass(frozen=True, slots=True)
class Enclosure:
    """A convex shape that holds a mesh.

    Attributes:
        shape: ``coal`` polytope.
        key: SHA-256 of the mesh, its scale and how the shape is made from them; part of a robot's digest.
    """

    shape: Any
    key: str


def enclose_file(path: Path, scale: Vector, name: str) -> Enclosure:
    """The enclosure of a mesh file; ``scale`` of shape (3,). Read from the cache if it is there.

    Raises:
        RobotError: the file is no mesh, or its vertices are not finite or span no volume.
    """
    key = _key(path.read_bytes(), np.asarray(scale, dtype=np.float64).tobytes())
    return _cached(key, lambda: _vertices(path, scale, name), name)


def enclose_points(points: Vector, name: str) -> Enclosure:
    """The enclosure of vertices, shape (k, 3), m. Read from the cache if it is there."""
    found: Vector = np.ascontiguousarray(points, dtype=np.float64)
    return _cached(_key(found.tobytes()), lambda: found, name)


def polytope(points: Vector, name: str) -> Vector:
    """Corners of a convex polytope that holds ``points``, shape (≤ MAX_CORNERS, 3), m.

    Raises:
        RobotError: the points are not finite or span no volume, or one is outside by more than 1e-6 m.
    """
    hull = points[_hull(points, name).vertices]
    corners = hull if len(hull) <= MAX_CORNERS else _cut(hull)
    outside = _outside(points, corners, name)
    if outside > _COVER:
        raise RobotError(f"collision mesh {name!r}: a vertex is {outside} m outside of its enclosing polytope")
    return corners


def convex(corners: Vector) -> Any:
    """The ``coal`` polytope of these corners."""
    listed = coal.StdVec_Vec3s()
    for corner in corners:
        listed.append(corner)
    return coal.Convex.convexHull(listed, True, "Qt")


def sticks_out(corners: Vector, points: Vector) -> float:
    """Largest distance of a corner from the convex hull of ``points``, m."""
    return float(_gaps(convex(points), corners)[0].max())


def _cut(hull: Vector) -> Vector:
    exact = convex(hull)
    normals = _box(hull)
    corners = _corners(normals, hull)
    while True:
        gaps, feet = _gaps(exact, corners)
        worst = int(np.argmax(gaps))
        if gaps[worst] < TOLERANCE:
            return corners
        away = corners[worst] - feet[worst]
        normals = np.vstack([normals, away / np.linalg.norm(away)])
        cut = _corners(normals, hull)
        if len(cut) > MAX_CORNERS:
            return corners
        corners = cut


def _box(hull: Vector) -> Vector:
    """Normals of the smaller of two boxes around the hull: along the axes, and along its principal axes."""
    _, _, principal = np.linalg.svd(hull - hull.mean(axis=0), full_matrices=False)
    axes = min((np.eye(3), principal), key=lambda frame: float(np.ptp(hull @ frame.T, axis=0).prod()))
    return np.vstack([axes, -axes])


def _corners(normals: Vector, hull: Vector) -> Vector:
    """Corners of the polytope whose faces have these normals and touch the hull."""
    offsets = (normals @ hull.T).max(axis=1) + 10.0**-_MERGE
    found: Vector = HalfspaceIntersection(np.column_stack([normals, -offsets]), hull.mean(axis=0)).intersections
    corners: Vector = np.unique(np.round(found, _MERGE), axis=0)
    return corners


def _gaps(exact: Any, corners: Vector) -> tuple[Vector, Vector]:
    """Distance of every corner from a convex shape, and the nearest point of the shape."""
    probe, origin, request = coal.Sphere(_PROBE), coal.Transform3s(), coal.DistanceRequest()
    gaps, feet = np.zeros(len(corners)), np.zeros((len(corners), 3))
    for k, corner in enumerate(corners):
        result = coal.DistanceResult()
        coal.distance(exact, origin, probe, coal.Transform3s(np.eye(3), corner), request, result)
        gaps[k], feet[k] = result.min_distance + _PROBE, result.getNearestPoint1()
    return gaps, feet


def _outside(points: Vector, corners: Vector, name: str) -> float:
    """How far the furthest point is outside of the hull of ``corners``, m; negative if all are inside."""
    faces = _hull(corners, name).equations
    return float((points @ faces[:, :3].T + faces[:, 3]).max())


def _hull(points: Vector, name: str) -> Any:
    if points.ndim != 2 or len(points) < 4 or not np.isfinite(points).all():
        raise RobotError(f"collision mesh {name!r}: needs at least 4 finite vertices, got shape {points.shape}")
    try:
        return ConvexHull(points)
    except QhullError as error:
        reason = str(error).strip().splitlines()[0]
        raise RobotError(f"collision mesh {name!r}: its vertices span no volume ({reason})") from error


def _vertices(path: Path, scale: Vector, name: str) -> Vector:
    try:
        mesh: Any = coal.MeshLoader().load(str(path), scale)
    except (ValueError, RuntimeError) as error:
        raise RobotError(f"collision mesh {name!r}: {path} cannot be read: {error}") from error
    return np.array(mesh.vertices(), dtype=np.float64)


# -- the cache: one small file a mesh, written whole or not at all -----------------------------------------


def cache_folder() -> Path:
    """Where the polytopes are kept: ``$XDG_CACHE_HOME/safeguard/polytopes``, usually below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "safeguard" / "polytopes"


def _key(*parts: bytes) -> str:
    digest = hashlib.sha256(_RECIPE.encode())
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _cached(key: str, points: Any, name: str) -> Enclosure:
    file = cache_folder() / f"{key}.polytope"
    corners = _read(file, key)
    if corners is None:
        corners = polytope(points(), name)
        _write(file, key, corners)
    return Enclosure(convex(corners), key)


def _read(file: Path, key: str) -> Vector | None:
    """The corners in a cache file; None if there is none or it is damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    check, body = content[:32], content[32:]
    if check != _checksum(key, body) or len(body) % 24 != 0:
        return None
    return np.frombuffer(body, dtype="<f8").reshape(-1, 3).astype(np.float64)


def _write(file: Path, key: str, corners: Vector) -> None:
    """Write beside and rename, so that another process sees all of it or nothing; without a cache all still works."""
    body = corners.astype("<f8").tobytes()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
        with os.fdopen(handle, "wb") as part:
            part.write(_checksum(key, body) + body)
        Path(name).replace(file)
    except OSError:
        return


def _checksum(key: str, body: bytes) -> bytes:
    return hashlib.sha256(key.encode() + body).digest()
