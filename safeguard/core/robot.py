"""The robot model: one description for the filter, the simulator and the record.

A model binds joint names, limits with provenance, dynamics (with armature and friction), enclosing
collision geometry and a digest of everything that affects a decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safeguard.core import assemble, changes, mjcf, robot_file, urdf
from safeguard.core.description import Description
from safeguard.core.digest import digest_of
from safeguard.core.errors import RobotError, UnknownNameError
from safeguard.core.geometry import CollisionModel, enclose, freeze_pairs
from safeguard.core.limits import Limits
from safeguard.core.obstacles import parsed_obstacles, with_obstacles
from safeguard.core.robot_file import RobotFile
from safeguard.core.types import Vector

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from safeguard.core.obstacles import Obstacle, Solid

_SHARE = ("cmeel.prefix", "share")
_TANH_SPEED = 0.01  # rad/s; Coulomb friction is smoothed below this speed


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
        description: URDF with package paths resolved; for an MJCF the fingerprint of what MuJoCo compiled from it.
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
    description: str
    digest: str

    @property
    def n(self) -> int:
        """Number of controlled joints."""
        return len(self.joints)

    @property
    def urdf_text(self) -> str:
        """The URDF that the robot comes from; raises ``RobotError`` if it comes from an MJCF."""
        if self.source["kind"] == "mjcf":
            raise RobotError(f"robot {self.name!r} comes from an MJCF and has no URDF")
        return self.description

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
        file = robot_file.named((resources.files("safeguard.core") / "robots" / f"{name}.yaml").read_text())
        share = _share_folder()
        given = urdf.describe(share / file.urdf, share / file.srdf if file.srdf else None, [share])
        return cls._build(given, file, {"kind": "named", "name": name})

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
            limits: mapping or YAML file with the keys ``limits``, ``dynamics``, ``tool_frame``, ``home``, ``mimic``
                of the robot files of this package.

        Raises:
            RobotError: a file is missing or wrong.
            UnknownNameError: a joint, frame or group state does not exist; lists those that do.
            LimitError: a limit is missing or contradictory.
        """
        file = robot_file.given(limits, lock, Path(path))
        source: dict[str, Any] = {
            "kind": "urdf",
            "path": str(path),
            "srdf": str(srdf) if srdf else None,
            "package_dirs": [str(p) for p in package_dirs],
            "lock": dict(lock or {}),
            "limits": robot_file.recorded(file),
        }
        given = urdf.describe(Path(path), Path(srdf) if srdf else None, [Path(p) for p in package_dirs])
        return cls._build(given, file, source)

    @classmethod
    def from_mjcf(
        cls,
        path: str | Path,
        lock: Mapping[str, float] | None = None,
        limits: Mapping[str, Any] | str | Path | None = None,
    ) -> RobotModel:
        """A fixed-base robot of hinge and slide joints from an MJCF file, as MuJoCo compiles it.

        Needs the extra ``sim``. Position limits are the joints' ranges, torque limits those of the actuators; an MJCF
        has no speed limits, so ``limits`` must give ``velocity_radps``. Keyframes are named configurations; the first
        one becomes ``home``.

        Args:
            path: MJCF file.
            lock: joints to fix, name → position (rad or m).
            limits: as for ``from_urdf``.

        Raises:
            RobotError: the file is missing or wrong, or has what a robot model cannot carry.
            UnknownNameError: a joint, frame or keyframe does not exist; lists those that do.
            LimitError: a limit is missing or contradictory.
        """
        file = robot_file.given(limits, lock, Path(path))
        source: dict[str, Any] = {
            "kind": "mjcf",
            "path": str(path),
            "lock": dict(lock or {}),
            "limits": robot_file.recorded(file),
        }
        return cls._build(mjcf.describe(Path(path)), file, source)

    @classmethod
    def from_source(cls, source: Mapping[str, Any]) -> RobotModel:
        """Build the model again that has this ``source`` (as a journal records it)."""
        match source["kind"]:
            case "named":
                robot = cls.load(source["name"])
            case "urdf":
                keys = ("path", "srdf", "package_dirs", "lock", "limits")
                robot = cls.from_urdf(**{key: source[key] for key in keys})
            case _:
                robot = cls.from_mjcf(source["path"], source["lock"], source["limits"])
        for change in source.get("changes", ()):
            match change["kind"]:
                case "payload":
                    robot = robot.with_payload(change["mass"], change["com"], change["inertia"])
                case "tool":
                    given = ("mass", "com", "inertia", "shapes", "tip", "name")
                    robot = robot.with_tool(**{key: change[key] for key in given})
                case _:
                    robot = robot.with_obstacles(change["obstacles"])
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
        load = changes.load("payload", mass, com, inertia)
        model = changes.loaded(self.pin_model, self.tool_frame, load)
        return self._changed({"kind": "payload", "frame": self.tool_frame, **load}, pin_model=model)

    def with_tool(
        self,
        mass: float,
        com: ArrayLike,
        inertia: ArrayLike | None = None,
        shapes: Sequence[Solid | Mapping[str, Any]] = (),
        tip: ArrayLike | None = None,
        name: str = "tool",
    ) -> RobotModel:
        """The same robot with a rigid tool bolted to its tool frame.

        Its shapes are watched against everything but the body they are bolted to, unless they always touch.

        Args:
            mass, com, inertia: as for ``with_payload``.
            shapes: spheres, capsules and boxes (models or mappings with a ``kind``), placed in the tool frame.
            tip: where the new tool frame ``{name}_tip`` is, seen from the old one: a translation of shape (3,), m, or
                a homogeneous transform of shape (4, 4). None leaves the tool frame where it is.
            name: of the tool; the pairs of its shapes have it.

        Raises:
            RobotError: a value makes no sense, the name is taken, or a shape touches a link at home.
        """
        tool = changes.tool(mass, com, inertia, shapes, tip, name)
        mount = (self.pin_model, self.tool_frame)
        model, collision = changes.tooled(mount, self.collision, self._obstacles(), self.home, tool)
        frame = self.tool_frame if tip is None else f"{name}_tip"
        change = {"kind": "tool", "frame": self.tool_frame, **tool}
        return self._changed(change, pin_model=model, collision=collision, tool_frame=frame)

    def with_obstacles(self, obstacles: Sequence[Obstacle | Mapping[str, Any]]) -> RobotModel:
        """The same robot among static obstacles in its base frame, each watched against everything that can move.

        Args:
            obstacles: spheres, capsules, boxes and half-spaces (models or mappings with a ``kind``).

        Raises:
            RobotError: a value makes no sense, a name is taken, or something touches an obstacle at home.
        """
        parsed = parsed_obstacles(obstacles)
        collision = with_obstacles(self.pin_model, self.collision, parsed, self.home)
        change = {"kind": "obstacles", "obstacles": [shape.model_dump(mode="json") for shape in parsed]}
        return self._changed(change, collision=collision)

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
    def _build(cls, given: Description, file: RobotFile, source: Mapping[str, Any]) -> RobotModel:
        pieces, members = enclose(given.geometry)
        model, pieces = assemble.reduced(given, file, pieces)
        joints = tuple(str(name) for name in list(model.names)[1:])
        dynamics = file.dynamics
        model.armature = assemble.sized(dynamics.armature_kgm2, joints, np.asarray(model.armature), "armature")
        limits = assemble.limits_of(model, joints, file, given)
        damping, friction = np.asarray(model.damping), np.asarray(model.friction)
        return cls(
            name=str(model.name),
            joints=joints,
            limits=limits,
            viscous=assemble.sized(dynamics.viscous_friction_nms, joints, damping, "viscous friction"),
            coulomb=assemble.sized(dynamics.coulomb_friction_nm, joints, friction, "Coulomb friction"),
            home=assemble.home_of(given, file, joints, limits),
            tool_frame=assemble.tool_of(model, file, given),
            collision=freeze_pairs(model, pieces, members, given.meshes, given.world),
            pin_model=model,
            source=source,
            description=given.text,
            digest="",
        )._sealed()

    def _obstacles(self) -> set[str]:
        """Names of the obstacles in the world."""
        done: Sequence[Mapping[str, Any]] = self.source.get("changes", ())
        return {shape["name"] for change in done for shape in change.get("obstacles", ())}

    def _changed(self, change: Mapping[str, Any], **fields: Any) -> RobotModel:
        """The same model with some fields replaced, and the change in its source."""
        source = {**self.source, "changes": [*self.source.get("changes", ()), change]}
        return replace(self, source=source, **fields)._sealed()

    def _sealed(self) -> RobotModel:
        """The same model with its digest filled in."""
        friction = (self.viscous, self.coulomb)
        digest = digest_of(self.joints, self.tool_frame, self.limits, friction, self.pin_model, self.collision)
        return replace(self, digest=digest)


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
