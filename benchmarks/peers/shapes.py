"""Collision pieces as objects of coal (pink, PlaCo) and of MuJoCo (mink, the judge). Imports neither by itself."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.peers.serve import Piece


def coal_shape(piece: Piece) -> Any:
    """The piece as a coal geometry."""
    coal: Any = import_module("coal")
    match piece.kind:
        case "sphere":
            return coal.Sphere(*piece.size)
        case "capsule":
            return coal.Capsule(piece.size[0], 2.0 * piece.size[1])
        case "cylinder":
            return coal.Cylinder(piece.size[0], 2.0 * piece.size[1])
        case "box":
            return coal.Box(*(2.0 * half for half in piece.size))
        case _:
            points = coal.StdVec_Vec3s()
            for point in piece.points:
                points.append(point)
            return coal.Convex.convexHull(points, True, "Qt")


def add_mujoco_geoms(spec: Any, pieces: Iterable[Piece]) -> None:
    """Replace the geometries of an ``MjSpec`` by the pieces, under their names."""
    mujoco: Any = import_module("mujoco")
    kinds = {"sphere": "SPHERE", "capsule": "CAPSULE", "cylinder": "CYLINDER", "box": "BOX", "hull": "MESH"}
    for geom in [geom for body in spec.bodies for geom in body.geoms]:
        spec.delete(geom)
    for piece in pieces:
        geom = (spec.body(piece.body) or spec.worldbody).add_geom(name=piece.name, pos=piece.translation)
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, piece.rotation.ravel())
        geom.quat, geom.type = quaternion, getattr(mujoco.mjtGeom, f"mjGEOM_{kinds[piece.kind]}")
        if piece.kind == "hull":
            mesh = spec.add_mesh(name=piece.name)
            mesh.uservert = piece.points.ravel()
            geom.meshname = piece.name
        else:
            geom.size = [*piece.size, 0.0, 0.0][:3]
