"""The digest of a robot: a SHA-256 over everything that affects a decision."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pinocchio as pin

from safeguard.core.geometry import CollisionModel
from safeguard.core.limits import Limits
from safeguard.core.types import Vector

_SAME_NUMBERS = ("Cylinder", "Ellipsoid", "Cone", "Halfspace")  # told apart from others by their type only


def digest_of(
    joints: Sequence[str],
    tool_frame: str,
    limits: Limits,
    friction: Sequence[Vector],
    model: Any,
    collision: CollisionModel,
) -> str:
    """Digest of the parts of a robot model, as 64 hexadecimal digits.

    A piece that encloses a mesh counts by the mesh and the recipe, not by its corners, and then the bounds that
    follow from the corners don't count either: rounding differs between machines, the robot does not.
    """
    arrays = [limits.q_min, limits.q_max, limits.v_max, limits.a_max, limits.tau_max, limits.tau_rate_max]
    arrays += [*friction, np.asarray(model.armature)]
    if not any(collision.meshes):
        arrays.append(collision.reach)
    arrays.append(np.asarray(model.gravity.linear))
    arrays.append(np.asarray(model.frames[model.getFrameId(tool_frame)].placement.homogeneous))
    arrays += [np.asarray(inertia.toDynamicParameters()) for inertia in model.inertias]
    arrays += [np.asarray(placement.homogeneous) for placement in model.jointPlacements]
    # Types and axes of the joints, as the motion that each one makes.
    arrays.append(np.asarray(pin.computeJointJacobians(model, model.createData(), pin.neutral(model))))
    for curves in (limits.velocity_curves, limits.torque_curves):
        if curves is not None:
            arrays += curves.arrays()
    objects = collision.geometry.geometryObjects
    pieces = [_piece(obj, key) for obj, key in zip(objects, collision.meshes, strict=True)]
    names = json.dumps([list(joints), tool_frame, pieces, collision.pairs, collision.members])
    digest = hashlib.sha256(names.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
    return digest.hexdigest()


def _piece(obj: Any, mesh: str) -> str:
    """Name, place and size of a collision piece, exactly."""
    sizes = [getattr(obj.geometry, key, None) for key in ("radius", "halfLength", "halfSide", "radii")]
    numbers = [
        *np.asarray(obj.placement.homogeneous).ravel(),
        *(x for s in sizes if s is not None for x in np.ravel(s)),
    ]
    kind = type(obj.geometry).__name__
    told = f"{mesh} " if mesh else f"{kind} " if kind in _SAME_NUMBERS else ""
    return f"{obj.name} {obj.parentJoint} {told}" + " ".join(float(x).hex() for x in numbers)
