"""The robot model as a MuJoCo specification, for worlds and referees. Needs the extra ``sim``."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from safeguard.core.errors import MissingExtraError, RobotError

if TYPE_CHECKING:
    from safeguard.core.robot import RobotModel

_POINT_INERTIA = 1e-9  # kg·m²; MuJoCo refuses a point mass


def build_spec(robot: RobotModel) -> Any:
    """A ``mujoco.MjSpec`` whose dynamics and contact pairs are those of ``robot``.

    MuJoCo's URDF import limits every joint and clamps its torque, which would hide violations from a
    referee: both are taken off. Geometry keeps the URDF's own primitives, named ``link_index``.
    """
    try:
        import mujoco
    except ImportError as error:
        raise MissingExtraError("RobotModel.to_mujoco", "sim") from error

    spec = mujoco.MjSpec.from_string(robot.urdf_text)
    spec.compiler.fusestatic = False
    spec.compiler.balanceinertia = False
    _joints(robot, spec, mujoco)
    _payloads(robot, spec)
    _name_geoms(spec)
    _contact_pairs(robot, spec)
    return spec


def _joints(robot: RobotModel, spec: Any, mujoco: Any) -> None:
    index = {name: i for i, name in enumerate(robot.joints)}
    for equality in list(spec.equalities):  # URDF <mimic>
        if equality.name1 not in index or equality.name2 not in index:
            spec.delete(equality)
    for joint in list(spec.joints):
        i = index.get(joint.name)
        if i is None:
            _lock(joint, robot, spec)
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


def _lock(joint: Any, robot: RobotModel, spec: Any) -> None:
    """Fix a joint that the model locks, at its locked position."""
    body, value = joint.parent, _locked_position(robot, joint.name)
    if value != 0.0:
        raise RobotError(f"joint {joint.name!r}: to_mujoco supports locking at 0 only, got {value}")
    spec.delete(joint)
    if body is None:
        raise RobotError(f"joint {joint.name!r} belongs to no body")


def _locked_position(robot: RobotModel, joint: str) -> float:
    return float(robot.source.get("lock", {}).get(joint, 0.0))


def _payloads(robot: RobotModel, spec: Any) -> None:
    loads = robot.source.get("payloads", ())
    if not loads:
        return
    frame = robot.pin_model.frames[robot.pin_model.getFrameId(robot.tool_frame)]
    body = spec.body(robot.tool_frame) or spec.body(robot.pin_model.frames[frame.parentFrame].name)
    for k, load in enumerate(loads):
        inertia = np.asarray(load["inertia"], dtype=float) + _POINT_INERTIA * np.eye(3)
        tensor = [inertia[0, 0], inertia[1, 1], inertia[2, 2], inertia[0, 1], inertia[0, 2], inertia[1, 2]]
        child = body.add_body(name=f"payload_{k}")
        child.mass, child.ipos, child.fullinertia = load["mass"], load["com"], tensor
        child.explicitinertial = True


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
