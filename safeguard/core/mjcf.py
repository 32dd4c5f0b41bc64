"""Reading MJCF files: MuJoCo compiles them, and the compiled numbers become a pinocchio model.

MuJoCo's own compiler knows defaults, includes, frames, inertia from geometry and every unit, so that nothing is
interpreted twice; what this model cannot carry is refused by name. Needs the extra ``sim``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coal
import numpy as np
import pinocchio as pin

from safeguard.core.description import Description
from safeguard.core.errors import MissingExtraError, RobotError
from safeguard.core.meshes import enclose_points
from safeguard.core.robot_file import existing
from safeguard.core.types import Vector

_NUMBERS = (
    "body_parentid", "body_pos", "body_quat", "body_mass", "body_ipos", "body_iquat", "body_inertia", "jnt_type",
    "jnt_bodyid", "jnt_pos", "jnt_axis", "jnt_range", "jnt_limited", "qpos0", "dof_armature", "dof_damping",
    "dof_frictionloss", "geom_type", "geom_bodyid", "geom_size", "geom_pos", "geom_quat", "geom_dataid", "mesh_vert",
)  # fmt: skip


def describe(path: Path) -> Description:
    """The robot of an MJCF file.

    Raises:
        MissingExtraError: MuJoCo is not installed.
        RobotError: not an MJCF, or it has what the model cannot carry: free and ball joints, springs, tendons,
            equality constraints, a fluid, gravity compensation, height fields.
    """
    spec, compiled = compile_spec(path)
    _refuse(compiled, path)
    model, frames = _model(compiled)
    geometry, meshes, world = _geometry(compiled, model, frames, path)
    keys = {key.name or f"key{k}": np.array(key.qpos) for k, key in enumerate(spec.keys)}
    joints = [str(name) for name in list(model.names)[1:]]
    return Description(
        format="MJCF",
        path=path,
        text=fingerprint(compiled),
        model=model,
        geometry=geometry,
        meshes=meshes,
        world=world,
        states={name: dict(zip(joints, q.tolist(), strict=True)) for name, q in keys.items() if len(q) == len(joints)},
        followers={},
        states_from=path,
    )


def compile_spec(path: Path) -> tuple[Any, Any]:
    """(MjSpec, MjModel) of an MJCF file, with a name for every body and joint."""
    try:
        import mujoco
    except ImportError as error:
        raise MissingExtraError("RobotModel.from_mjcf", "sim") from error
    existing(path, "MJCF")
    try:
        spec: Any = mujoco.MjSpec.from_file(str(path))
        for k, body in enumerate(spec.bodies):
            body.name = body.name or f"body{k}"
        for k, joint in enumerate(spec.joints):
            joint.name = joint.name or f"joint{k}"
        spec.meshdir = str((path.parent / spec.meshdir).resolve())
        spec.texturedir = str((path.parent / spec.texturedir).resolve())
        return spec, spec.compile()
    except ValueError as error:
        raise RobotError(f"MJCF {path}: {error}") from error


def fingerprint(compiled: Any) -> str:
    """SHA-256 of the numbers that a model is made from, to notice a file that has changed."""
    digest = hashlib.sha256(bytes(compiled.names))
    digest.update(np.asarray(compiled.opt.gravity).tobytes())
    for name in _NUMBERS:
        digest.update(np.ascontiguousarray(getattr(compiled, name)).tobytes())
    return digest.hexdigest()


def _refuse(compiled: Any, path: Path) -> None:
    """Raise ``RobotError`` for the first thing that the robot model cannot carry."""
    import mujoco

    for k in range(compiled.njnt):
        kind, name = mujoco.mjtJoint(compiled.jnt_type[k]), compiled.joint(k).name
        if kind in (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_BALL):
            raise RobotError(f"MJCF {path}: joint {name!r} is {kind.name}; only hinge and slide joints are supported")
        if compiled.jnt_stiffness[k] != 0.0:
            raise RobotError(f"MJCF {path}: joint {name!r} has a spring; set its stiffness to 0")
    curved = np.any(compiled.dof_dampingpoly) or np.any(compiled.actuator_dampingpoly)
    options, disabled = compiled.opt, mujoco.mjtDisableBit.mjDSBL_GRAVITY
    for present, what in (
        (compiled.nv == 0, "no joint"),
        (np.any(compiled.eq_active0), "an equality constraint"),
        (compiled.ntendon > 0, "a tendon"),
        (compiled.nflex > 0, "a flexible body"),
        (options.density != 0.0 or options.viscosity != 0.0, "a fluid (density, viscosity)"),
        (np.any(compiled.body_gravcomp), "gravity compensation"),
        (curved or np.any(compiled.actuator_damping), "damping that is not viscous joint friction"),
        (bool(options.disableflags & disabled), "gravity switched off"),
        (np.any(compiled.body_mocapid >= 0), "a mocap body"),
    ):
        if present:
            raise RobotError(f"MJCF {path}: it has {what}, which a robot model cannot carry; remove it")


def _model(compiled: Any) -> tuple[Any, list[tuple[int, Any]]]:
    """(pinocchio model, (joint, placement in it) of every body).

    A hinge at p about a turns its body by T(p) R(a, q − q₀) T(−p) in the frame that the body and the joints before
    it make, so the pinocchio joint stands at T(p) R(a, −q₀) and the body at T(−p) behind it.
    """
    import mujoco

    model, frames = pin.Model(), [(0, pin.SE3.Identity())]
    model.name = "".join(chr(c) for c in compiled.names[: list(compiled.names).index(0)]) or "mjcf"
    limits = _joint_limits(compiled)
    parents: list[int] = [0]
    for body in range(1, compiled.nbody):
        up = int(compiled.body_parentid[body])
        joint, place = frames[up][0], frames[up][1] * place_at(compiled.body_pos[body], compiled.body_quat[body])
        parent = parents[up]
        first = int(compiled.body_jntadr[body])
        for k in range(first, first + int(compiled.body_jntnum[body])):
            axis, anchor = np.array(compiled.jnt_axis[k]), np.array(compiled.jnt_pos[k])
            turns = compiled.jnt_type[k] == mujoco.mjtJoint.mjJNT_HINGE
            kind = (pin.JointModelRevoluteUnaligned if turns else pin.JointModelPrismaticUnaligned)(axis)
            place = place * pin.SE3(np.eye(3), anchor) * motion(axis, -float(compiled.qpos0[k]), turns)
            low, high, torque = ([row[k]] for row in limits)
            speed = [np.inf]
            joint = model.addJoint(
                joint, kind, place, compiled.joint(k).name, *(np.array(x) for x in (torque, speed, low, high))
            )
            parent = int(model.addJointFrame(joint, parent))
            place = pin.SE3(np.eye(3), -anchor)
        turn = place_at(compiled.body_ipos[body], compiled.body_iquat[body])
        inertia = pin.Inertia(
            float(compiled.body_mass[body]),
            turn.translation,
            turn.rotation @ np.diag(compiled.body_inertia[body]) @ turn.rotation.T,
        )
        model.appendBodyToJoint(joint, inertia, place)
        parents.append(int(model.addBodyFrame(compiled.body(body).name, joint, place, parent)))
        frames.append((joint, place))
    model.armature = np.array(compiled.dof_armature)
    model.damping = np.array(compiled.dof_damping)
    model.friction = np.array(compiled.dof_frictionloss)
    model.gravity = pin.Motion(np.array(compiled.opt.gravity), np.zeros(3))
    return model, frames


def _joint_limits(compiled: Any) -> tuple[Vector, Vector, Vector]:
    """(lowest position, highest position, torque) of every joint; infinite where the file has none."""
    limited = np.array(compiled.jnt_limited, dtype=bool)
    low = np.where(limited, compiled.jnt_range[:, 0], -np.inf)
    high = np.where(limited, compiled.jnt_range[:, 1], np.inf)
    driven: list[list[float]] = [[] for _ in range(compiled.njnt)]
    import mujoco

    for k in range(compiled.nu):
        if compiled.actuator_trntype[k] == mujoco.mjtTrn.mjTRN_JOINT:
            driven[int(compiled.actuator_trnid[k, 0])].append(_actuator_torque(compiled, k))
    torque = np.array([sum(forces) if forces else np.inf for forces in driven])
    clamped = np.array(compiled.jnt_actfrclimited, dtype=bool)
    return low, high, np.where(clamped, np.minimum(torque, np.abs(compiled.jnt_actfrcrange).min(axis=1)), torque)


def _actuator_torque(compiled: Any, k: int) -> float:
    """Torque that actuator ``k`` can give in both directions, N·m: from its force range, or a motor's control range."""
    gear = abs(float(compiled.actuator_gear[k, 0]))
    if compiled.actuator_forcelimited[k]:
        return gear * float(np.abs(compiled.actuator_forcerange[k]).min())
    plain = not np.any(compiled.actuator_biasprm[k]) and not np.any(compiled.actuator_gainprm[k, 1:])
    if compiled.actuator_ctrllimited[k] and plain:
        return gear * abs(float(compiled.actuator_gainprm[k, 0])) * float(np.abs(compiled.actuator_ctrlrange[k]).min())
    return np.inf


def _geometry(
    compiled: Any, model: Any, frames: Sequence[tuple[int, Any]], path: Path
) -> tuple[Any, dict[str, str], frozenset[str]]:
    """(geometry model, mesh keys, geometries of the world) of everything that can collide."""
    geometry, meshes, world = pin.GeometryModel(), dict[str, str](), set[str]()
    for k in range(compiled.ngeom):
        if compiled.geom_contype[k] == 0 and compiled.geom_conaffinity[k] == 0:
            continue
        body = int(compiled.geom_bodyid[k])
        owner = compiled.body(body).name
        name = f"{owner}_{k - int(compiled.body_geomadr[body])}"
        shape, key = _shape(compiled, k, name, path)
        joint, place = frames[body]
        placed = place * place_at(compiled.geom_pos[k], compiled.geom_quat[k])
        frame = model.getFrameId(owner, pin.FrameType.BODY) if body else 0
        geometry.addGeometryObject(pin.GeometryObject(name, joint, frame, placed, shape))
        if key:
            meshes[name] = key
        if body == 0:
            world.add(name)
    return geometry, meshes, frozenset(world)


def _shape(compiled: Any, k: int, name: str, path: Path) -> tuple[Any, str]:
    """(``coal`` shape of a geometry, key of its mesh or "")."""
    import mujoco

    kinds = mujoco.mjtGeom
    kind, (a, b, c) = kinds(compiled.geom_type[k]), (float(x) for x in compiled.geom_size[k])
    match kind:
        case kinds.mjGEOM_SPHERE:
            return coal.Sphere(a), ""
        case kinds.mjGEOM_CAPSULE:
            return coal.Capsule(a, 2.0 * b), ""
        case kinds.mjGEOM_CYLINDER:
            return coal.Cylinder(a, 2.0 * b), ""
        case kinds.mjGEOM_ELLIPSOID:
            return coal.Ellipsoid(a, b, c), ""
        case kinds.mjGEOM_BOX:
            return coal.Box(2.0 * a, 2.0 * b, 2.0 * c), ""
        case kinds.mjGEOM_PLANE if compiled.geom_bodyid[k] == 0:
            return coal.Halfspace(np.array([0.0, 0.0, 1.0]), 0.0), ""
        case kinds.mjGEOM_MESH:
            mesh = int(compiled.geom_dataid[k])
            first = int(compiled.mesh_vertadr[mesh])
            found = enclose_points(compiled.mesh_vert[first : first + int(compiled.mesh_vertnum[mesh])], name)
            return found.shape, found.key
        case _:
            raise RobotError(f"MJCF {path}: collision geometry {name!r} is {kind.name}, which is not supported")


def place_at(position: Vector, quaternion: Vector) -> Any:
    """Placement from MuJoCo's position and (w, x, y, z)."""
    w, x, y, z = (float(part) for part in quaternion)
    return pin.SE3(pin.Quaternion(w, x, y, z).normalized().toRotationMatrix(), np.array(position, dtype=np.float64))


def motion(axis: Vector, by: float, turns: bool) -> Any:
    """What a joint does to its body."""
    if turns:
        return pin.SE3(pin.AngleAxis(by, axis).toRotationMatrix(), np.zeros(3))
    return pin.SE3(np.eye(3), by * axis)
