"""Reading URDF and SRDF files, with errors that name what is wrong."""

from __future__ import annotations

import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pinocchio as pin

from safeguard.core.errors import LimitError, RobotError, UnknownNameError

_PACKAGE = re.compile(r'filename="package://([^"]+)"')


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


def collision_geometry(model: Any, text: str, path: Path) -> Any:
    """The pinocchio collision geometry of a URDF text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pin.buildGeomFromUrdfString(model, text, pin.GeometryType.COLLISION)
    except (ValueError, RuntimeError) as error:
        raise RobotError(f"collision geometry of {path}: {error}") from error


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
