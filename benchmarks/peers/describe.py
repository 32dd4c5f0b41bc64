"""The robot in files that every peer can read: a URDF without collision geometry and a JSON file beside it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import coal
import numpy as np
import pinocchio as pin

from safeguard.core.robot import RobotModel

CLEARANCE = 0.01  # m, distance that every peer is asked to keep between links (ours: floor plus buffer) …
_OF_HOME = 0.5  # … but no more than this share of the clearance at home, where some could not even start
BRAKE_SHARE = 0.45  # of the acceleration limits, the deceleration that peers with such a setting may count on


def describe(robot: RobotModel, dt: float, folder: Path) -> Path:
    """Write the description of ``robot`` to ``folder``; the path of its JSON file."""
    name = str(robot.source.get("name", robot.name))
    folder.mkdir(parents=True, exist_ok=True)
    tree = ET.fromstring(robot.urdf_text)
    bodies = _carriers(robot, tree)
    urdf = folder / f"{name}.urdf"
    urdf.write_text(_plain_urdf(robot, tree))
    limits, collision = robot.limits, robot.collision
    vectors = {
        "home": robot.home,
        "q_min": limits.q_min,
        "q_max": limits.q_max,
        "v_max": limits.v_max,
        "a_max": limits.a_max,
        "tau_max": limits.tau_max,
        "armature": np.asarray(robot.pin_model.armature),
        "viscous": robot.viscous,
        "coulomb": robot.coulomb,
    }
    text = json.dumps(
        {
            "name": name,
            "urdf": str(urdf),
            "dt": dt,
            "joints": robot.joints,
            **{name: np.asarray(vector).tolist() for name, vector in vectors.items()},
            "clearance": min(CLEARANCE, _OF_HOME * _home_clearance(robot)),
            "brake_share": BRAKE_SHARE,
            "pieces": [_piece(obj, bodies) for obj in collision.geometry.geometryObjects],
            "pairs": collision.pairs,
        }
    )
    path = folder / f"{name}.json"
    path.write_text(text)
    return path


def _home_clearance(robot: RobotModel) -> float:
    """Smallest distance of the kept pairs at home, m."""
    model, geometry = robot.pin_model, robot.collision.geometry
    data, results = model.createData(), geometry.createData()
    pin.computeDistances(model, data, geometry, results, robot.home)
    return min(float(result.min_distance) for result in results.distanceResults)


def _plain_urdf(robot: RobotModel, tree: ET.Element) -> str:
    """The description with the model's limits, locked joints fixed and without collision geometry."""
    for link in tree.iter("link"):
        for collision in link.findall("collision"):
            link.remove(collision)
    for joint in tree.findall("joint"):
        if joint.get("type") != "fixed" and joint.get("name") not in robot.joints:
            joint.set("type", "fixed")
            for tag in ("axis", "limit", "mimic", "dynamics", "safety_controller"):
                for element in joint.findall(tag):
                    joint.remove(element)
        elif (limit := joint.find("limit")) is not None and joint.get("type") != "fixed":
            k, limits = robot.joints.index(str(joint.get("name"))), robot.limits
            bounds = {"lower": limits.q_min, "upper": limits.q_max, "velocity": limits.v_max, "effort": limits.tau_max}
            for key, values in bounds.items():
                limit.set(key, repr(float(values[k])))
    return ET.tostring(tree, encoding="unicode")


def _carriers(robot: RobotModel, tree: ET.Element) -> list[str]:
    """Name of the link whose frame is that of each pinocchio joint; the base link for joint 0."""
    child = {str(j.get("name")): _link(j, "child") for j in tree.findall("joint")}
    children = set(child.values())
    base = next(str(link.get("name")) for link in tree.findall("link") if link.get("name") not in children)
    return [base, *(child[name] for name in robot.joints)]


def _link(joint: ET.Element, end: str) -> str:
    element = joint.find(end)
    return "" if element is None else str(element.get("link"))


def _piece(obj: Any, bodies: list[str]) -> dict[str, object]:
    shape, points = obj.geometry, np.zeros((0, 3))
    match shape:
        case coal.Sphere():
            kind, size = "sphere", [shape.radius]
        case coal.Capsule():
            kind, size = "capsule", [shape.radius, shape.halfLength]
        case coal.Cylinder():
            kind, size = "cylinder", [shape.radius, shape.halfLength]
        case coal.Box():
            kind, size = "box", [float(side) for side in shape.halfSide]
        case _:
            kind, size, points = "hull", [], np.asarray(shape.points())
    return {
        "name": obj.name,
        "joint": int(obj.parentJoint),
        "body": bodies[int(obj.parentJoint)],
        "rotation": np.asarray(obj.placement.rotation).tolist(),
        "translation": np.asarray(obj.placement.translation).tolist(),
        "kind": kind,
        "size": size,
        "points": points.tolist(),
    }
