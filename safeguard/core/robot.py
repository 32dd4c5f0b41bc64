"""The robot model: one description for the filter, the simulator and the record.

A model binds joint names, limits with provenance, dynamics (with armature and friction), enclosing
collision geometry and a digest of everything that affects a decision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pinocchio as pin
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from safeguard.core import urdf as urdf_file
from safeguard.core.errors import LimitError, RobotError, UnknownNameError
from safeguard.core.geometry import CollisionModel, enclose, freeze_pairs
from safeguard.core.limits import Limits, Sourced
from safeguard.core.types import Vector, frozen_array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_SHARE = ("cmeel.prefix", "share")
_DERIVED = "derived: half the torque left by gravity over the inertia"
_TANH_SPEED = 0.01  # rad/s; Coulomb friction is smoothed below this speed


class LimitFile(BaseModel):
    """Limits that the URDF cannot carry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    acceleration_radps2: Sourced | None = None
    torque_rate_nmps: Sourced | None = None


class DynamicsFile(BaseModel):
    """Dynamics that the URDF leaves out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    armature_kgm2: Sourced | None = None
    viscous_friction_nms: Sourced | None = None
    coulomb_friction_nm: Sourced | None = None


class RobotFile(BaseModel):
    """One YAML file of ``safeguard/core/robots``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    urdf: str
    srdf: str | None = None
    tool_frame: str | None = None
    home: str | None = None
    lock: Mapping[str, float] = {}
    limits: LimitFile = LimitFile()
    dynamics: DynamicsFile = DynamicsFile()


@dataclass(frozen=True, slots=True)
class RobotModel:
    """A fixed-base robot with one-degree-of-freedom joints.

    Attributes:
        name: of the robot.
        joints: names of the controlled joints, in order; ``n`` of them.
        limits: joint limits with provenance.
        viscous, coulomb: joint friction, shape (n,), N·m·s/rad and N·m.
        home: a configuration clear of contact, shape (n,), rad.
        tool_frame: name of the tool frame.
        collision: enclosing geometry and frozen pairs.
        pin_model: the pinocchio model, with armature; treat it as read-only.
        source: how to build this model again, JSON-able.
        urdf_text: the description with package paths resolved.
        digest: SHA-256 over everything above that affects a decision.
    """

    name: str
    joints: tuple[str, ...]
    limits: Limits
    viscous: Vector
    coulomb: Vector
    home: Vector
    tool_frame: str
    collision: CollisionModel
    pin_model: Any
    source: Mapping[str, Any]
    urdf_text: str
    digest: str

    @property
    def n(self) -> int:
        """Number of controlled joints."""
        return len(self.joints)

    @staticmethod
    def known() -> tuple[str, ...]:
        """Names that ``load`` accepts."""
        folder = resources.files("safeguard.core") / "robots"
        return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml")))

    @classmethod
    def load(cls, name: str) -> RobotModel:
        """A robot by name, from ``example-robot-data`` and its YAML file.

        Raises:
            UnknownNameError: no such robot; lists those that exist.
            RobotError: its files are missing or contradict each other.
        """
        if name not in cls.known():
            raise UnknownNameError("robot", name, cls.known())
        text = (resources.files("safeguard.core") / "robots" / f"{name}.yaml").read_text()
        file = RobotFile.model_validate(yaml.safe_load(text))
        share = _share_folder()
        return cls._build(
            share / file.urdf,
            share / file.srdf if file.srdf else None,
            [share],
            file,
            source={"kind": "named", "name": name},
        )

    @classmethod
    def from_urdf(
        cls,
        path: str | Path,
        srdf: str | Path | None = None,
        package_dirs: Sequence[str | Path] = (),
        lock: Mapping[str, float] | None = None,
        limits: Mapping[str, Any] | str | Path | None = None,
    ) -> RobotModel:
        """A robot from a URDF file.

        Args:
            path: URDF file.
            srdf: SRDF file with named configurations; its first group state becomes ``home``.
            package_dirs: folders in which ``package://`` paths are looked up.
            lock: joints to fix, name → position (rad or m).
            limits: mapping or YAML file with the keys ``limits``, ``dynamics``, ``tool_frame``, ``home`` of
                the robot files of this package.

        Raises:
            RobotError: a file is missing or wrong.
            UnknownNameError: a joint, frame or group state does not exist; lists those that do.
            LimitError: a limit is missing or contradictory.
        """
        extra = _yaml(Path(limits)) if isinstance(limits, str | Path) else dict(limits or {})
        try:
            file = RobotFile.model_validate({"urdf": str(path), "lock": dict(lock or {}), **extra})
        except ValidationError as error:
            raise RobotError(f"limits for {path}: {error}") from error
        source: dict[str, Any] = {
            "kind": "urdf",
            "path": str(path),
            "srdf": str(srdf) if srdf else None,
            "package_dirs": [str(p) for p in package_dirs],
            "lock": dict(lock or {}),
            "limits": file.model_dump(mode="json", exclude={"urdf", "srdf", "lock"}, exclude_none=True),
        }
        return cls._build(Path(path), Path(srdf) if srdf else None, [Path(p) for p in package_dirs], file, source)

    @classmethod
    def from_source(cls, source: Mapping[str, Any]) -> RobotModel:
        """Build the model again that has this ``source`` (as a journal records it)."""
        if source["kind"] == "named":
            robot = cls.load(source["name"])
        else:
            keys = ("path", "srdf", "package_dirs", "lock", "limits")
            robot = cls.from_urdf(**{key: source[key] for key in keys})
        for payload in source.get("payloads", ()):
            robot = robot.with_payload(payload["mass"], payload["com"], payload["inertia"])
        return robot

    def with_payload(self, mass: float, com: ArrayLike, inertia: ArrayLike | None = None) -> RobotModel:
        """The same robot carrying a rigid load at its tool frame.

        Args:
            mass: kg, not negative.
            com: centre of mass in the tool frame, shape (3,), m.
            inertia: about the centre of mass, in the tool frame's axes, shape (3, 3), kg·m²; zero if None.

        Raises:
            RobotError: a value is not finite, negative, or the inertia is not symmetric positive semi-definite.
        """
        try:
            centre = np.asarray(com, dtype=float)
            tensor = np.zeros((3, 3)) if inertia is None else np.asarray(inertia, dtype=float)
        except ValueError as error:
            raise RobotError(f"payload: com {com!r} and inertia {inertia!r} must be numbers: {error}") from error
        if not (np.isfinite(mass) and mass >= 0.0 and centre.shape == (3,) and np.isfinite(centre).all()):
            raise RobotError(f"payload: mass {mass} kg at {com!r} must be finite, mass not negative, com of shape (3,)")
        symmetric = tensor.shape == (3, 3) and np.allclose(tensor, tensor.T)
        if not symmetric or np.linalg.eigvalsh(tensor).min() < -1e-12:
            raise RobotError("payload: inertia must be a symmetric positive semi-definite 3x3 matrix, kg·m²")
        model = self.pin_model.copy()
        frame = model.frames[model.getFrameId(self.tool_frame)]
        model.appendBodyToJoint(frame.parentJoint, pin.Inertia(float(mass), centre, tensor), frame.placement)
        load = {"mass": float(mass), "com": centre.tolist(), "inertia": tensor.tolist()}
        source = {**self.source, "payloads": [*self.source.get("payloads", ()), load]}
        return replace(self, pin_model=model, source=source, digest="")._sealed()

    def to_mujoco(self) -> Any:
        """A ``mujoco.MjSpec`` of the same description, without joint stops and torque clamping.

        Joints carry this model's armature and friction; contacts exist for exactly the kept collision
        pairs; one motor per joint without control range. Needs the extra ``sim``.
        """
        from safeguard.core.mujoco_spec import build_spec

        return build_spec(self)

    def bias(self, v: Vector, nonlinear: Vector) -> Vector:
        """h(q, v) = nonlinear effects + viscous and (smoothed) Coulomb friction, shape (n,), N·m."""
        return nonlinear + self.viscous * v + self.coulomb * np.tanh(v / _TANH_SPEED)

    @classmethod
    def _build(
        cls,
        path: Path,
        srdf: Path | None,
        package_dirs: list[Path],
        file: RobotFile,
        source: Mapping[str, Any],
    ) -> RobotModel:
        text = urdf_file.read(_existing(path, "URDF"), package_dirs)
        full = urdf_file.parse(text, path)
        _check_names(full, file.lock, "joint to lock", path)
        locked = [full.getJointId(name) for name in file.lock]
        reference = pin.neutral(full)
        for name, value in file.lock.items():
            reference[full.joints[full.getJointId(name)].idx_q] = value
        geometry = urdf_file.collision_geometry(full, text, path)
        pieces, members = enclose(geometry)
        model, pieces = pin.buildReducedModel(full, pieces, locked, reference)
        _check_joints(model, path)
        joints = tuple(str(name) for name in list(model.names)[1:])
        limits = _limits(model, joints, file, path)
        dynamics = file.dynamics
        model.armature = _sized(dynamics.armature_kgm2, joints, np.asarray(model.armature), "armature")
        states = urdf_file.group_states(_existing(srdf, "SRDF"), list(full.names)[1:]) if srdf else {}
        tool = file.tool_frame or str(list(model.frames)[-1].name)
        if not model.existFrame(tool):
            raise UnknownNameError("frame", tool, [f.name for f in model.frames], str(path))
        damping = np.asarray(model.damping)
        return cls(
            name=str(model.name),
            joints=joints,
            limits=limits,
            viscous=_sized(dynamics.viscous_friction_nms, joints, damping, "viscous friction"),
            coulomb=_sized(dynamics.coulomb_friction_nm, joints, np.asarray(model.friction), "Coulomb friction"),
            home=_home(states, file.home, joints, limits, srdf or path),
            tool_frame=tool,
            collision=freeze_pairs(model, pieces, members),
            pin_model=model,
            source=source,
            urdf_text=text,
            digest="",
        )._sealed()

    def _sealed(self) -> RobotModel:
        """The same model with its digest filled in."""
        model, collision = self.pin_model, self.collision
        arrays = [
            self.limits.q_min, self.limits.q_max, self.limits.v_max, self.limits.a_max, self.limits.tau_max,
            self.limits.tau_rate_max, self.viscous, self.coulomb, np.asarray(model.armature), collision.reach,
            np.asarray(model.gravity.linear),
        ]  # fmt: skip
        tool = model.frames[model.getFrameId(self.tool_frame)]
        arrays.append(np.asarray(tool.placement.homogeneous))
        arrays += [np.asarray(inertia.toDynamicParameters()) for inertia in model.inertias]
        arrays += [np.asarray(placement.homogeneous) for placement in model.jointPlacements]
        # Types and axes of the joints, as the motion that each one makes.
        arrays.append(np.asarray(pin.computeJointJacobians(model, model.createData(), pin.neutral(model))))
        pieces = [_piece_text(obj) for obj in collision.geometry.geometryObjects]
        names = json.dumps([self.joints, self.tool_frame, pieces, collision.pairs, collision.members])
        digest = hashlib.sha256(names.encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
        return replace(self, digest=digest.hexdigest())


def _piece_text(obj: Any) -> str:
    """Name, place and size of a collision piece, exactly."""
    sizes = [getattr(obj.geometry, key, None) for key in ("radius", "halfLength", "halfSide")]
    numbers = [
        *np.asarray(obj.placement.homogeneous).ravel(),
        *(x for s in sizes if s is not None for x in np.ravel(s)),
    ]
    points = getattr(obj.geometry, "points", None)
    if callable(points):
        numbers += list(np.asarray(points()).ravel())
    return f"{obj.name} {obj.parentJoint} " + " ".join(float(x).hex() for x in numbers)


def _share_folder() -> Path:
    """Data folder of ``example-robot-data`` (found without importing it, which would need its compiled part)."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution("example-robot-data").locate_file(Path(*_SHARE))
    except PackageNotFoundError as error:
        raise RobotError(
            "robots by name need the package example-robot-data: pip install example-robot-data"
        ) from error
    return Path(str(found))


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        raise RobotError(f"{what} {path} does not exist")
    return path


def _yaml(path: Path) -> dict[str, Any]:
    try:
        data: object = yaml.safe_load(_existing(path, "limits file").read_text())
    except yaml.YAMLError as error:
        raise RobotError(f"limits file {path} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise RobotError(f"limits file {path}: expected keys such as 'limits:', got {type(data).__name__}")
    return cast("dict[str, Any]", data)


def _check_names(model: Any, wanted: Mapping[str, float], what: str, path: Path) -> None:
    for name in wanted:
        if not model.existJointName(name):
            raise UnknownNameError(what, name, list(model.names)[1:], str(path))


def _check_joints(model: Any, path: Path) -> None:
    if model.nv == 0:
        raise RobotError(f"{path}: no joint is left to control; lock fewer")
    for index in range(1, model.njoints):
        joint = model.joints[index]
        if joint.nq != 1 or joint.nv != 1:
            raise RobotError(
                f"joint {model.names[index]!r} of {path} is {joint.shortname()}: only bounded revolute and prismatic "
                "joints are supported; give it limits in the URDF or lock it"
            )


def _sized(sourced: Sourced | None, joints: Sequence[str], default: Vector, what: str) -> Vector:
    if sourced is None:
        return frozen_array(default)
    if len(sourced.values) != len(joints):
        raise LimitError(f"{what}: {len(sourced.values)} values for {len(joints)} joints ({', '.join(joints)})")
    if min(sourced.values) < 0.0:
        raise LimitError(f"{what}: values must not be negative, got {sourced.values}")
    return frozen_array(sourced.values)


def _limits(model: Any, joints: tuple[str, ...], file: RobotFile, path: Path) -> Limits:
    rate, acceleration = file.limits.torque_rate_nmps, file.limits.acceleration_radps2
    tau_max = frozen_array(model.effortLimit)
    given = Limits(
        q_min=frozen_array(model.lowerPositionLimit),
        q_max=frozen_array(model.upperPositionLimit),
        v_max=frozen_array(model.velocityLimit),
        a_max=_sized(acceleration, joints, np.ones(len(joints)), "acceleration limit"),
        tau_max=tau_max,
        tau_rate_max=_sized(rate, joints, tau_max / 0.01, "torque rate limit"),
        provenance={
            "q_min": f"URDF {path.name}",
            "q_max": f"URDF {path.name}",
            "v_max": f"URDF {path.name}",
            "tau_max": f"URDF {path.name}",
            "a_max": acceleration.source if acceleration else _DERIVED,
            "tau_rate_max": rate.source if rate else "derived: full torque in 10 ms",
        },
    )
    given.validate(joints, str(path))
    if acceleration is not None:
        return given
    limits = replace(given, a_max=frozen_array(_derived_acceleration(model)))
    limits.validate(joints, str(path))
    return limits


def _derived_acceleration(model: Any) -> Vector:
    """Half of (τ_max − |gravity|) / M_jj in the worst of a fixed, seeded set of configurations, rad/s²."""
    data = model.createData()
    rng = np.random.default_rng(0)
    worst = np.full(model.nv, np.inf)
    low: Vector = np.asarray(model.lowerPositionLimit)
    high: Vector = np.asarray(model.upperPositionLimit)
    for _ in range(256):
        q = rng.uniform(low, high)
        inertia = np.diag(pin.crba(model, data, q))
        gravity = np.abs(pin.computeGeneralizedGravity(model, data, q))
        worst = np.minimum(worst, 0.5 * (np.asarray(model.effortLimit) - gravity) / inertia)
    return worst


def _home(
    states: Mapping[str, Mapping[str, float]],
    wanted: str | None,
    joints: Sequence[str],
    limits: Limits,
    path: Path,
) -> Vector:
    if wanted is not None and wanted not in states:
        raise UnknownNameError("group state", wanted, states, str(path))
    middle = (limits.q_min + limits.q_max) / 2.0
    if not states:
        return frozen_array(middle)
    name = wanted if wanted is not None else next(iter(states))
    home = np.array([states[name].get(joint, middle[i]) for i, joint in enumerate(joints)])
    outside = (home < limits.q_min) | (home > limits.q_max)
    if outside.any():
        j = int(np.argmax(outside))
        raise RobotError(
            f"group state {name!r} of {path} has {joints[j]!r} at {home[j]} rad, outside its limits "
            f"[{limits.q_min[j]}, {limits.q_max[j]}]"
        )
    return frozen_array(home)
