"""Static obstacles, workspace walls and tool shapes: what a configuration says, and the pieces that come of it.

Positions are in the base frame of the robot (for a tool's shapes, in its tool frame), SI units, fixed-axis roll, pitch
and yaw. An obstacle is a piece of the world and is watched against every piece that can move.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal, Self

import coal
import numpy as np
import pinocchio as pin
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from safeguard.core.errors import RobotError, UnknownNameError
from safeguard.core.geometry import CollisionModel, Piece, distances, with_pieces
from safeguard.core.types import Vector

Point = tuple[float, float, float]
Length = Annotated[float, Field(gt=0.0)]
Name = Annotated[str, Field(pattern=r"^[^|/\s]+$", description="no spaces, no | and no /")]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Name
    ignores: tuple[str, ...] = Field(
        default=(), description="links that it is not watched against: those it is mounted to, or that always touch it"
    )


class Sphere(_Shape):
    """A ball."""

    kind: Literal["sphere"] = "sphere"
    center_m: Point
    radius_m: Length


class Capsule(_Shape):
    """Everything within ``radius_m`` of a segment."""

    kind: Literal["capsule"] = "capsule"
    start_m: Point
    end_m: Point
    radius_m: Length

    @model_validator(mode="after")
    def _long(self) -> Self:
        if math.dist(self.start_m, self.end_m) < 1e-9:
            raise ValueError(f"capsule {self.name!r}: start and end are one point; use a sphere")
        return self


class Box(_Shape):
    """A cuboid with edges of ``size_m``, turned by ``rpy_rad`` about its centre."""

    kind: Literal["box"] = "box"
    center_m: Point
    size_m: tuple[Length, Length, Length]
    rpy_rad: Point = (0.0, 0.0, 0.0)


class HalfSpace(_Shape):
    """Everything on one side of a plane: all points x with normal·x ≤ offset. The normal points to the free side."""

    kind: Literal["half_space"] = "half_space"
    normal: Point
    offset_m: float

    @model_validator(mode="after")
    def _directed(self) -> Self:
        if math.hypot(*self.normal) < 1e-9:
            raise ValueError(f"half-space {self.name!r}: the normal is zero")
        return self


Solid = Annotated[Sphere | Capsule | Box, Field(discriminator="kind")]
Obstacle = Annotated[Sphere | Capsule | Box | HalfSpace, Field(discriminator="kind")]
_OBSTACLES: TypeAdapter[tuple[Obstacle, ...]] = TypeAdapter(tuple[Obstacle, ...])
_SOLIDS: TypeAdapter[tuple[Solid, ...]] = TypeAdapter(tuple[Solid, ...])


def parsed_obstacles(values: Sequence[Any]) -> tuple[Obstacle, ...]:
    """Obstacles from models or mappings with a ``kind``; raises ``RobotError`` with the key and the value."""
    found: tuple[Obstacle, ...] = _parsed(_OBSTACLES, values, "obstacles")
    return found


def parsed_solids(values: Sequence[Any]) -> tuple[Solid, ...]:
    """Shapes of a tool: obstacles that are no half-space."""
    found: tuple[Solid, ...] = _parsed(_SOLIDS, values, "tool shapes")
    return found


def placed_shape(shape: Obstacle) -> tuple[Any, Any]:
    """(``coal`` shape, pinocchio placement) of an obstacle."""
    match shape:
        case Sphere():
            return coal.Sphere(shape.radius_m), pin.SE3(np.eye(3), np.array(shape.center_m))
        case Capsule():
            start, end = np.array(shape.start_m), np.array(shape.end_m)
            length = float(np.linalg.norm(end - start))
            return coal.Capsule(shape.radius_m, length), pin.SE3(_turned_z(end - start), 0.5 * (start + end))
        case Box():
            return coal.Box(*shape.size_m), pin.SE3(pin.rpy.rpyToMatrix(*shape.rpy_rad), np.array(shape.center_m))
        case HalfSpace():
            normal = np.array(shape.normal) / np.linalg.norm(shape.normal)
            place = pin.SE3(_turned_z(normal), shape.offset_m / np.linalg.norm(shape.normal) * normal)
            return coal.Halfspace(np.array([0.0, 0.0, 1.0]), 0.0), place


def with_obstacles(
    model: Any, collision: CollisionModel, obstacles: Sequence[Obstacle], home: Vector
) -> CollisionModel:
    """``collision`` with obstacles in the world, each watched against every piece that can move.

    Args:
        model: pinocchio model.
        collision: of that model.
        obstacles: with names of their own.
        home: configuration that must be clear of them, shape (n,).

    Raises:
        RobotError: a name is taken, or a piece touches an obstacle at ``home``.
    """
    taken = {*collision.links, *(name for names in collision.members for name in names)}
    pieces = [Piece(_world_object(shape), shape.name, (shape.name,)) for shape in obstacles]
    check_names([shape.name for shape in obstacles], taken, "obstacle")
    check_ignored(obstacles, collision)
    first, links = len(collision.links), collision.links
    moves = [int(obj.parentJoint) > 0 for obj in collision.geometry.geometryObjects]

    def candidate(i: int, j: int) -> bool:
        return i < first <= j and moves[i] and links[i] not in obstacles[j - first].ignores

    found = with_pieces(model, collision, pieces, candidate, keep=range(first, first + len(pieces)))
    check_home(model, found, home, len(collision.pairs))
    return found


def check_names(names: Sequence[str], taken: Collection[str], what: str) -> None:
    """Raise ``RobotError`` if a name comes twice or is taken."""
    for k, name in enumerate(names):
        if name in taken or name in names[:k]:
            raise RobotError(f"{what} {name!r}: the name is taken; give it another one")


def check_ignored(shapes: Sequence[Obstacle], collision: CollisionModel) -> None:
    """Raise ``UnknownNameError`` if a shape ignores a link that does not exist."""
    for shape in shapes:
        for link in shape.ignores:
            if link not in collision.links:
                raise UnknownNameError(f"link ignored by {shape.name!r}:", link, dict.fromkeys(collision.links))


def check_home(model: Any, collision: CollisionModel, home: Vector, first: int) -> None:
    """Raise ``RobotError`` if one of the pairs from index ``first`` on touches at ``home``."""
    found = distances(model, collision, home)[first:]
    if len(found) and not found.min() > 0.0:
        k = int(np.argmin(found))
        raise RobotError(
            f"{collision.names[first + k]} touch at home, by {-found[k] * 1e3:.1f} mm: move the obstacle or the tool's "
            "shape, choose another home, or name a link that may touch it in its 'ignores'"
        )


def _world_object(shape: Obstacle) -> Any:
    geometry, place = placed_shape(shape)
    return pin.GeometryObject(shape.name, 0, 0, place, geometry)


def _turned_z(direction: Vector) -> Vector:
    """A rotation whose z axis is ``direction``."""
    z = direction / np.linalg.norm(direction)
    x = np.cross(np.eye(3)[int(np.argmin(np.abs(z)))], z)
    x /= np.linalg.norm(x)
    rotation: Vector = np.column_stack([x, np.cross(z, x), z])
    return rotation


def _parsed(adapter: TypeAdapter[Any], values: Sequence[Any], what: str) -> Any:
    try:
        return adapter.validate_python(tuple(values))
    except (ValidationError, TypeError) as error:
        raise RobotError(f"{what}: {error}") from error
