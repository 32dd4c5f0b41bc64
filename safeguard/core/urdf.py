"""Reading URDF and SRDF files, with errors that name what is wrong."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pinocchio as pin

from safeguard.core.description import Description
from safeguard.core.errors import LimitError, RobotError, UnknownNameError
from safeguard.core.meshes import enclose_file
from safeguard.core.robot_file import existing
from safeguard.core.types import Vector


def describe(path: Path, srdf: Path | None, package_dirs: Sequence[Path]) -> Description:
    """The robot of a URDF file; ``srdf`` is read for named configurations only.

    Raises:
        RobotError: a file is missing or wrong; names the file and what is wrong with it.
    """
    text = read(existing(path, "URDF"), package_dirs)
    model = parse(text, path)
    geometry, meshes = collision_geometry(model, text, path)
    root = ET.fromstring(text)
    leaders = [(joint.get("name", ""), joint.find("mimic")) for joint in root.findall("joint")]
    return Description(
        format="URDF",
        path=path,
        text=text,
        model=model,
        geometry=geometry,
        meshes=meshes,
        world=frozenset(),
        states=group_states(existing(srdf, "SRDF"), list(model.names)[1:]) if srdf else {},
        followers={name: mimic.get("joint", "") for name, mimic in leaders if mimic is not None},
        states_from=srdf or path,
    )


def read(path: Path, package_dirs: Sequence[Path]) -> str:
    """The URDF's text without visuals, with ``package://`` paths resolved.

    Raises:
        RobotError: not a URDF, or a collision mesh is in none of ``package_dirs``.
    """
    try:
        root = ET.fromstring(path.read_text())
    except ET.ParseError as error:
        raise RobotError(f"URDF {path} is not well-formed XML: {error}") from error
    if root.tag != "robot":
        raise RobotError(f"URDF {path}: the root element is <{root.tag}>, expected <robot>")
    for link in root.iter("link"):
        for visual in link.findall("visual"):
            link.remove(visual)
    for mesh in root.iter("mesh"):
        mesh.set("filename", _resolve(mesh.get("filename", ""), path, package_dirs))
    _require_limits(root, path)
    return ET.tostring(root, encoding="unicode")


def parse(text: str, path: Path) -> Any:
    """The pinocchio model of a URDF text."""
    try:
        return pin.buildModelFromXML(text)
    except (ValueError, RuntimeError) as error:
        raise RobotError(f"URDF {path}: {error}") from error


def collision_geometry(model: Any, text: str, path: Path) -> tuple[Any, dict[str, str]]:
    """(pinocchio collision geometry of convex shapes, key of the mesh by geometry name) of a URDF text.

    pinocchio places the geometries; it sees a small box instead of every mesh, so that no mesh is read that is in
    the cache.
    """
    root = ET.fromstring(text)
    found: dict[str, tuple[Path, Vector]] = {}
    for link in root.findall("link"):
        for k, collision in enumerate(link.findall("collision")):
            shape = collision.find("geometry")
            mesh = None if shape is None else shape.find("mesh")
            if shape is None or mesh is None:
                continue
            name = f"{link.get('name')}_{k}"
            found[name] = (Path(mesh.get("filename", "")), _scale(mesh, name, path))
            shape.remove(mesh)
            ET.SubElement(shape, "box", size="1 1 1")
    try:
        geometry = pin.buildGeomFromUrdfString(model, ET.tostring(root, encoding="unicode"), pin.GeometryType.COLLISION)
    except (ValueError, RuntimeError) as error:
        raise RobotError(f"collision geometry of {path}: {error}") from error
    keys: dict[str, str] = {}
    for name, (file, scale) in found.items():
        enclosure = enclose_file(file, scale, name)
        geometry.geometryObjects[geometry.getGeometryId(name)].geometry = enclosure.shape
        keys[name] = enclosure.key
    return geometry, keys


def _scale(mesh: ET.Element, name: str, path: Path) -> Vector:
    text = mesh.get("scale", "1 1 1")
    try:
        scale = np.array([float(part) for part in text.split()])
    except ValueError:
        scale = np.zeros(0)
    if scale.shape != (3,) or not np.isfinite(scale).all() or (scale == 0.0).any():
        raise RobotError(f"URDF {path}: mesh of {name!r} has scale={text!r}, expected three numbers, none of them 0")
    return scale


def group_states(path: Path, joints: Sequence[str]) -> dict[str, dict[str, float]]:
    """Named configurations of an SRDF file: state name → joint name → position.

    Raises:
        RobotError: not an SRDF, or a position is not a finite number.
        UnknownNameError: a state names a joint that is not among ``joints``.
    """
    try:
        root = ET.fromstring(path.read_text())
    except ET.ParseError as error:
        raise RobotError(f"SRDF {path} is not well-formed XML: {error}") from error
    return {
        state.get("name", ""): {
            _known(joint.get("name", ""), joints, path): _position(joint, state, path) for joint in state.iter("joint")
        }
        for state in root.iter("group_state")
    }


def _known(name: str, joints: Sequence[str], path: Path) -> str:
    if name not in joints:
        raise UnknownNameError("joint", name, joints, str(path))
    return name


def _position(joint: ET.Element, state: ET.Element, path: Path) -> float:
    text = joint.get("value", "")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RobotError(
            f"SRDF {path}: group state {state.get('name')!r} has {joint.get('name')!r} at {text!r}, expected a number"
        )
    return value


def _resolve(name: str, path: Path, package_dirs: Sequence[Path]) -> str:
    if name.startswith("package://"):
        tried = [folder / name.removeprefix("package://") for folder in package_dirs]
    else:
        tried = [path.parent / name.removeprefix("file://")]
    for candidate in tried:
        if candidate.is_file():
            return str(candidate)
    places = ", ".join(str(folder) for folder in package_dirs) or "none given"
    raise RobotError(f"URDF {path}: mesh {name!r} not found (package_dirs: {places})")


def _require_limits(root: ET.Element, path: Path) -> None:
    """Position, velocity and torque limits are mandatory for moving joints."""
    for joint in root.findall("joint"):
        if joint.get("type") not in ("revolute", "prismatic"):
            continue
        limit = joint.find("limit")
        missing = [key for key in ("lower", "upper", "velocity", "effort") if limit is None or limit.get(key) is None]
        if missing:
            raise LimitError(
                f"joint {joint.get('name')!r} of {path}: <limit> lacks {', '.join(missing)}; "
                "position, velocity and torque limits are mandatory"
            )
        for key in ("velocity", "effort"):
            text = "" if limit is None else limit.get(key, "")
            if not _is_positive(text):
                raise LimitError(f"joint {joint.get('name')!r} of {path}: {key}={text!r} must be a positive number")


def _is_positive(text: str) -> bool:
    try:
        return float(text) > 0.0
    except ValueError:
        return False
