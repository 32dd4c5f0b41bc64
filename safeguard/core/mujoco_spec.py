"""The robot model as a MuJoCo specification, for worlds and referees. Needs the extra ``sim``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import coal
import numpy as np
import pinocchio as pin

from safeguard.core import mjcf
from safeguard.core.errors import MissingExtraError, RobotError

if TYPE_CHECKING:
    from safeguard.core.robot import RobotModel

_POINT_INERTIA = 1e-9  # kg·m²; MuJoCo refuses a point mass


def build_spec(robot: RobotModel) -> Any:
    """A ``mujoco.MjSpec`` whose dynamics and contact pairs are those of ``robot``.

    MuJoCo's URDF import limits every joint and clamps its torque, which would hide violations from a
    referee: both are taken off. Geometry keeps the description's own primitives and meshes, named ``link_index``;
    obstacles are geometries of the world, tools are bodies.
    """
    try:
        import mujoco
    except ImportError as error:
        raise MissingExtraError("RobotModel.to_mujoco", "sim") from error

    spec = _from_mjcf(robot) if robot.source["kind"] == "mjcf" else _from_urdf(robot, mujoco)
    _joints(robot, spec, mujoco)
    _name_geoms(spec)
    changes: tuple[Mapping[str, Any], ...] = tuple(robot.source.get("changes", ()))
    for k, change in enumerate(changes):
        match change["kind"]:
            case "payload":
                _add_load(robot, spec, change, f"payload_{k}")
            case "tool":
                _add_tool(robot, spec, change)
            case _:
                for obstacle in change["obstacles"]:
                    _add_piece(robot, spec.worldbody, obstacle["name"], pin.SE3.Identity(), mujoco)
    _contact_pairs(robot, spec)
    return spec


def _from_urdf(robot: RobotModel, mujoco: Any) -> Any:
    spec = mujoco.MjSpec.from_string(robot.urdf_text)
    spec.compiler.fusestatic = False
    spec.compiler.balanceinertia = False
    for equality in list(spec.equalities):  # <mimic>: the robot model drives or locks every joint by itself
        spec.delete(equality)
    return spec


def _from_mjcf(robot: RobotModel) -> Any:
    """The file again, which must say what it said, without what acts, measures or collides."""
    path = Path(robot.source["path"])
    spec, compiled = mjcf.compile_spec(path)
    if mjcf.fingerprint(compiled) != robot.description:
        raise RobotError(f"MJCF {path} has changed since the robot was loaded from it")
    for group in (spec.actuators, spec.sensors, spec.keys, spec.pairs, spec.excludes, spec.equalities):
        for element in list(group):
            spec.delete(element)
    return spec


def _joints(robot: RobotModel, spec: Any, mujoco: Any) -> None:
    index = {name: i for i, name in enumerate(robot.joints)}
    for joint in list(spec.joints):
        i = index.get(joint.name)
        if i is None:
            _lock(joint, robot, spec, mujoco)
            continue
        joint.limited = mujoco.mjtLimited.mjLIMITED_FALSE
        joint.actfrclimited = mujoco.mjtLimited.mjLIMITED_FALSE
        joint.armature = float(robot.pin_model.armature[i])
        joint.damping = [float(robot.viscous[i]), 0.0, 0.0]
        joint.frictionloss = float(robot.coulomb[i])
        motor = spec.add_actuator(name=joint.name, target=joint.name)
        motor.trntype = mujoco.mjtTrn.mjTRN_JOINT
        motor.ctrllimited = mujoco.mjtLimited.mjLIMITED_FALSE
        motor.forcelimited = mujoco.mjtLimited.mjLIMITED_FALSE


def _lock(joint: Any, robot: RobotModel, spec: Any, mujoco: Any) -> None:
    """Take away a joint that the model locks; a body that loses its last joint stands where the model has it."""
    body, name = joint.parent, joint.name
    by = float(robot.source.get("lock", {}).get(name, 0.0)) - float(joint.ref)
    spec.delete(joint)
    if not body.joints:
        model, kind = robot.pin_model, pin.FrameType.BODY
        here = model.frames[model.getFrameId(body.name, kind)].placement
        up = body.parent.name
        placed = here if up == "world" else model.frames[model.getFrameId(up, kind)].placement.actInv(here)
        body.pos, body.quat = placed.translation, _wxyz(placed.rotation)
        body.alt.type = mujoco.mjtOrientation.mjORIENTATION_QUAT
    elif by != 0.0:
        raise RobotError(f"joint {name!r}: to_mujoco locks one of several joints of a body at its reference only")


def _add_load(robot: RobotModel, spec: Any, load: Mapping[str, Any], name: str) -> Any:
    """A massive child body at the frame that the load was given in."""
    parent, place = _owner(robot, spec, load["frame"])
    child = parent.add_body(name=name, pos=place.translation, quat=_wxyz(place.rotation))
    inertia = np.asarray(load["inertia"], dtype=float) + _POINT_INERTIA * np.eye(3)
    tensor = [inertia[0, 0], inertia[1, 1], inertia[2, 2], inertia[0, 1], inertia[0, 2], inertia[1, 2]]
    child.mass, child.ipos, child.fullinertia = load["mass"], load["com"], tensor
    child.explicitinertial = True
    return child


def _add_tool(robot: RobotModel, spec: Any, tool: Mapping[str, Any]) -> None:
    import mujoco

    child = _add_load(robot, spec, tool, tool["name"])
    model = robot.pin_model
    frame = model.frames[model.getFrameId(tool["frame"])].placement
    for shape in tool["shapes"]:
        _add_piece(robot, child, f"{tool['name']}/{shape['name']}", frame, mujoco)
    if tool["tip"] is not None:
        tip = frame.actInv(model.frames[model.getFrameId(f"{tool['name']}_tip")].placement)
        child.add_site(name=f"{tool['name']}_tip", pos=tip.translation, quat=_wxyz(tip.rotation))


def _owner(robot: RobotModel, spec: Any, frame: str) -> tuple[Any, Any]:
    """(body, placement in it) of a frame of the robot model: that of a link on the same joint."""
    model = robot.pin_model
    wanted = model.frames[model.getFrameId(frame)]
    for link in model.frames:
        if link.type == pin.FrameType.BODY and link.parentJoint == wanted.parentJoint:
            body = spec.body(link.name)
            if body is not None:
                return body, link.placement.actInv(wanted.placement)
    return spec.worldbody, wanted.placement


def _add_piece(robot: RobotModel, body: Any, name: str, frame: Any, mujoco: Any) -> None:
    """The geometry of a collision piece that is no part of the description; ``frame`` is that of ``body``."""
    geometry = robot.collision.geometry
    obj = geometry.geometryObjects[geometry.getGeometryId(name)]
    shape, place = obj.geometry, frame.actInv(obj.placement)
    kinds = mujoco.mjtGeom
    if isinstance(shape, coal.Sphere):
        kind, size = kinds.mjGEOM_SPHERE, [shape.radius, 0.0, 0.0]
    elif isinstance(shape, coal.Capsule):
        kind, size = kinds.mjGEOM_CAPSULE, [shape.radius, shape.halfLength, 0.0]
    elif isinstance(shape, coal.Box):
        kind, size = kinds.mjGEOM_BOX, [float(half) for half in shape.halfSide]
    else:
        kind, size = kinds.mjGEOM_PLANE, [1.0, 1.0, 1.0]  # how it is drawn; a plane has no end
    body.add_geom(
        name=name, type=kind, size=size, pos=place.translation, quat=_wxyz(place.rotation),
        contype=0, conaffinity=0, mass=0.0,
    )  # fmt: skip


def _wxyz(rotation: Any) -> list[float]:
    x, y, z, w = (float(part) for part in pin.Quaternion(rotation).coeffs())
    return [w, x, y, z]


def _name_geoms(spec: Any) -> None:
    for body in spec.bodies:
        for k, geom in enumerate(body.geoms):
            geom.name = f"{body.name}_{k}"
            geom.contype = geom.conaffinity = 0


def _contact_pairs(robot: RobotModel, spec: Any) -> None:
    collision = robot.collision
    for i, j in collision.pairs:
        for a, b in itertools.product(collision.members[i], collision.members[j]):
            spec.add_pair(name=f"{a}|{b}", geomname1=a, geomname2=b)
