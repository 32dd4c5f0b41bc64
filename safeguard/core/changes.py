"""What is done to a robot after it was loaded: payloads and tools."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pinocchio as pin

from safeguard.core.errors import RobotError
from safeguard.core.geometry import CollisionModel, Piece, with_pieces
from safeguard.core.obstacles import check_home, check_ignored, check_names, parsed_solids, placed_shape
from safeguard.core.types import Vector

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def load(what: str, mass: float, com: ArrayLike, inertia: ArrayLike | None) -> dict[str, Any]:
    """Checked mass, centre of mass and inertia, JSON-able. Raises ``RobotError``."""
    try:
        centre = np.asarray(com, dtype=float)
        tensor = np.zeros((3, 3)) if inertia is None else np.asarray(inertia, dtype=float)
    except ValueError as error:
        raise RobotError(f"{what}: com {com!r} and inertia {inertia!r} must be numbers: {error}") from error
    if not (np.isfinite(mass) and mass >= 0.0 and centre.shape == (3,) and np.isfinite(centre).all()):
        raise RobotError(f"{what}: mass {mass} kg at {com!r} must be finite, mass not negative, com of shape (3,)")
    symmetric = tensor.shape == (3, 3) and np.allclose(tensor, tensor.T)
    if not symmetric or np.linalg.eigvalsh(tensor).min() < -1e-12:
        raise RobotError(f"{what}: inertia must be a symmetric positive semi-definite 3x3 matrix, kg·m²")
    return {"mass": float(mass), "com": centre.tolist(), "inertia": tensor.tolist()}


def loaded(pin_model: Any, frame: str, change: Mapping[str, Any]) -> Any:
    """A copy of the pinocchio model with a load rigidly at a frame."""
    model = pin_model.copy()
    place = model.frames[model.getFrameId(frame)]
    inertia = pin.Inertia(change["mass"], np.array(change["com"]), np.array(change["inertia"]))
    model.appendBodyToJoint(place.parentJoint, inertia, place.placement)
    return model


def tool(
    mass: float,
    com: ArrayLike,
    inertia: ArrayLike | None,
    shapes: Sequence[Any],
    tip: ArrayLike | None,
    name: str,
) -> dict[str, Any]:
    """A checked tool, JSON-able. Raises ``RobotError``."""
    parsed = parsed_solids(shapes)
    check_names([shape.name for shape in parsed], (), f"shape of tool {name!r}")
    if not name or any(c in name for c in "|/ "):
        raise RobotError(f"tool {name!r}: the name must not be empty nor hold a space, | or /")
    return {
        "name": name,
        **load(f"tool {name!r}", mass, com, inertia),
        "shapes": [shape.model_dump(mode="json") for shape in parsed],
        "tip": None if tip is None else _transform(tip, name).homogeneous.tolist(),
    }


def tooled(
    mounted: tuple[Any, str],
    old: CollisionModel,
    obstacles: Collection[str],
    home: Vector,
    change: Mapping[str, Any],
) -> tuple[Any, CollisionModel]:
    """(pinocchio model, collision model) with a tool at its frame; ``mounted`` is (pinocchio model, frame).

    Pairs with ``obstacles`` stay even if they always touch. Raises ``RobotError``.
    """
    name, (bare, frame) = change["name"], mounted
    frames = {str(known.name) for known in bare.frames}
    check_names([name, f"{name}_tip"], {*frames, *old.links}, "tool")
    model = loaded(bare, frame, change)
    mount_id = model.getFrameId(frame)
    mount = model.frames[mount_id]
    body, place = int(mount.parentJoint), pin.SE3(mount.placement)  # a copy: addFrame moves the frames in memory
    if change["tip"] is not None:
        tip = place * pin.SE3(np.array(change["tip"]))
        model.addFrame(pin.Frame(f"{name}_tip", body, mount_id, tip, pin.FrameType.OP_FRAME))
    pieces: list[Piece] = []
    shapes, links, first = parsed_solids(change["shapes"]), old.links, len(old.links)
    check_ignored(shapes, old)
    for shape in shapes:
        geometry, at = placed_shape(shape)
        full = f"{name}/{shape.name}"
        pieces.append(Piece(pin.GeometryObject(full, body, mount_id, place * at, geometry), name, (full,)))
    bodies = [*(int(obj.parentJoint) for obj in old.geometry.geometryObjects), *(body for _ in pieces)]

    def candidate(i: int, j: int) -> bool:
        return bodies[i] != bodies[j] and links[i] not in shapes[j - first].ignores

    found = with_pieces(model, old, pieces, candidate, keep=[k for k, link in enumerate(links) if link in obstacles])
    check_home(model, found, home, len(old.pairs))
    return model, found


def _transform(tip: ArrayLike, name: str) -> Any:
    """The placement that a translation or a homogeneous matrix stands for."""
    try:
        given = np.asarray(tip, dtype=float)
    except ValueError as error:
        raise RobotError(f"tool {name!r}: tip {tip!r} must be numbers: {error}") from error
    if given.shape == (3,) and np.isfinite(given).all():
        return pin.SE3(np.eye(3), given)
    if given.shape != (4, 4) or not np.isfinite(given).all():
        raise RobotError(f"tool {name!r}: tip must be a translation (3,) or a transform (4, 4), got {given.shape}")
    rotation = given[:3, :3]
    rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6) and np.linalg.det(rotation) > 0.0
    if not rigid or not np.allclose(given[3], [0.0, 0.0, 0.0, 1.0]):
        raise RobotError(f"tool {name!r}: tip is no rigid transform")
    return pin.SE3(rotation, given[:3, 3])
