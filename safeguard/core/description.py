"""What a robot description says, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Description:
    """A robot as its file describes it, with every joint still free.

    Attributes:
        format: ``"URDF"`` or ``"MJCF"``.
        path: of the file.
        text: URDF with package paths resolved; for an MJCF the fingerprint of what MuJoCo compiled from it.
        model: pinocchio model; limits that the file lacks are infinite.
        geometry: pinocchio geometry model of convex shapes, one for every collision geometry.
        meshes: key of the mesh behind a geometry, by geometry name.
        world: names of geometries that stand in the world and are no part of the robot.
        states: named configurations, name → joint → position.
        followers: joints that follow another one, name → the other.
        states_from: the file that has ``states``.
    """

    format: str
    path: Path
    text: str
    model: Any
    geometry: Any
    meshes: Mapping[str, str]
    world: frozenset[str]
    states: Mapping[str, Mapping[str, float]]
    followers: Mapping[str, str]
    states_from: Path
