"""Actions of robosuite (1.5), part by part, from its controllers or from their configuration.

    type             columns                      reference, unit
    OSC_POSE         x y z rx ry rz of the tool   DELTA, m and rad; POSE if ``input_type`` is absolute
    OSC_POSITION     x y z of the tool            as above
    JOINT_POSITION   the part's joints            DELTA, rad (m); ABSOLUTE if ``input_type`` is absolute
    JOINT_VELOCITY   the part's joints            VELOCITY, rad/s (m/s)
    JOINT_TORQUE     the part's joints            TORQUE, N·m (N); with gravity compensation the columns are called
                                                  "….above_gravity": they are not the torques of the joints
    WHOLE_BODY_IK    pose of every tool           POSE, m and rad (or a unit quaternion); also WHOLE_BODY_MINK_IK

A controller clips numbers to its input range and scales them to its output range: that is the spec's range and scale.
Absolute targets it neither clips nor scales, whatever the action space says. A gripper's number (-1 opens, 1 closes), a
mobile base's (a share of its drives' range), gains (variable impedance) and parts that refer to something else than the
first part are ``others``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec
from safeguard.policies.specs.columns import Bounds, Column, described, is_mapping, linear, optional, setting, spread

_CARTESIAN: Final[Mapping[str, tuple[str, ...]]] = {
    "OSC_POSE": ("x", "y", "z", "rx", "ry", "rz"),
    "OSC_POSITION": ("x", "y", "z"),
}
_JOINT: Final[Mapping[str, tuple[Reference, str, str]]] = {  # with the units of hinges and of slides
    "JOINT_POSITION": (Reference.DELTA, "rad", "m"),
    "JOINT_VELOCITY": (Reference.VELOCITY, "rad/s", "m/s"),
    "JOINT_TORQUE": (Reference.TORQUE, "N.m", "N"),
}
_ROTATIONS: Final[Mapping[int, tuple[str, ...]]] = {3: ("rx", "ry", "rz"), 4: ("qw", "qx", "qy", "qz")}
_SLIDE: Final = 2  # MuJoCo's mjJNT_SLIDE
_GRIPPER: Final = "_gripper"


def robosuite_spec(
    source: Any,
    *,
    rate_hz: float | None = None,
    joints: Mapping[str, Sequence[str]] | None = None,
    parts: Sequence[str] | None = None,
    bounds: Bounds | None = None,
    rename: Mapping[str, str] | None = None,
) -> ActionSpec:
    """What an action of robosuite means, column by column in the order of its action vector.

    Args:
        source: an environment, a robot, a composite or a part controller; or a configuration of one of the latter two.
        rate_hz: actions per second; needed with a configuration, else it is the ``control_freq`` found.
        joints: with a configuration: names of the joints of every part that is controlled by joint, all of them hinges.
        parts: with a configuration: the robot's parts in the order of its action vector, such as
            ``("right", "right_gripper")``; a gripper has one column. Needed where more than one part is configured,
            since robosuite drops those that the robot has not.
        bounds: lowest and highest number of columns, for those that the simulator leaves open (absolute targets), or to
            narrow others.
        rename: column names of robosuite (``"robot0_joint1"``, ``"right.x"``) to those of the body.

    Returns:
        A spec with one row per action. Tool deltas count from where the tool is when the action is taken; rotations are
        rotation vectors in the axes of ``frame``.

    Raises:
        SpecError: a controller that is not described here, something missing in a configuration, a name that is no
            column.
    """
    if is_mapping(source):
        if rate_hz is None:
            raise SpecError("a robosuite configuration has no rate: say rate_hz=, the control_freq of the environment")
        columns = [column for part in _configured(source, joints or {}, parts) for column in part.columns()]
        return described(columns, rate_hz, bounds, rename or {})
    columns, found = _built(source)
    return described(columns, found if rate_hz is None else rate_hz, bounds, rename or {})


@dataclass(frozen=True, slots=True)
class _Part:
    """One controlled part of a robot.

    ``settings`` is a configuration or a controller; both call things the same. ``limits`` are position limits of the
    joints where they are known.
    """

    name: str
    kind: str
    settings: Any
    joints: tuple[str, ...] = ()
    slides: tuple[bool, ...] = ()
    limits: tuple[tuple[float, float] | None, ...] = ()

    def columns(self) -> list[Column]:
        if self.kind in _CARTESIAN:
            names = tuple(f"{self.name}.{axis}" for axis in _CARTESIAN[self.kind])
            units = ("m", "m", "m", "rad", "rad", "rad")[: len(names)]
            reference, frame = (Reference.POSE if self.absolute else Reference.DELTA), self._frame()
        elif self.kind in _JOINT:
            reference, hinge, slide = _JOINT[self.kind]
            names, frame = self.joints, None
            if self.kind == "JOINT_TORQUE" and optional(self.settings, "use_torque_compensation") is not False:
                names = tuple(f"{name}.above_gravity" for name in names)
            units = tuple(slide if slides else hinge for slides in self.slides)
            if self.absolute:
                reference = Reference.ABSOLUTE
        else:
            known = ", ".join((*_CARTESIAN, *_JOINT))
            raise SpecError(f"{self.name}: controller {self.kind!r} is not described here; known: {known}")
        if self.absolute:
            own = [
                Column(name, unit, reference, frame, low=limit and limit[0], high=limit and limit[1])
                for name, unit, limit in zip(names, units, self.limits or (None,) * len(names), strict=True)
            ]
        else:
            own = self._scaled(names, units, reference, frame)
        return [*self._gains(), *own]

    @property
    def absolute(self) -> bool:
        return (
            self.kind not in ("JOINT_VELOCITY", "JOINT_TORQUE") and optional(self.settings, "input_type") == "absolute"
        )

    def _frame(self) -> str:
        return str(optional(self.settings, "input_ref_frame") or "base")  # robosuite's own default

    def _scaled(
        self, names: tuple[str, ...], units: tuple[str, ...], reference: Reference, frame: str | None
    ) -> list[Column]:
        count = len(names)
        ranges = (
            spread(setting(self.settings, key, self.name), count, f"{self.name}: {key}")
            for key in ("input_min", "input_max", "output_min", "output_max")
        )
        columns: list[Column] = []
        for name, unit, low, high, low_out, high_out in zip(names, units, *ranges, strict=True):
            scale, offset = linear(low, high, low_out, high_out)
            columns.append(Column(name, unit, reference, frame, scale, offset, low, high))
        return columns

    def _gains(self) -> list[Column]:
        """Columns of the gains that a variable impedance puts before the motion."""
        mode = optional(self.settings, "impedance_mode") or "fixed"
        if mode == "fixed" or self.kind in ("JOINT_VELOCITY", "JOINT_TORQUE"):
            return []
        axes = self.joints or tuple(f"{self.name}.{axis}" for axis in _CARTESIAN["OSC_POSE"])
        wanted = {"variable": ("damping_ratio", "kp"), "variable_kp": ("kp",)}.get(str(mode))
        if wanted is None:
            raise SpecError(f"{self.name}: impedance_mode {mode!r} is not described here")
        columns: list[Column] = []
        for gain in wanted:
            lows, highs = (spread(bound, len(axes), f"{self.name}: {gain}") for bound in self._limits_of(gain))
            unit = "1" if gain == "damping_ratio" else "1/s^2"  # robosuite multiplies by the inertia
            columns += [
                Column(f"{axis}.{gain}", unit, None, low=low, high=high)
                for axis, low, high in zip(axes, lows, highs, strict=True)
            ]
        return columns

    def _limits_of(self, gain: str) -> tuple[Any, Any]:
        pair = optional(self.settings, f"{gain}_limits")
        if pair is not None:
            return pair[0], pair[1]
        low, high = (setting(self.settings, f"{gain}_{end}", self.name) for end in ("min", "max"))
        return low, high


def _shares(names: Sequence[str]) -> list[Column]:
    """Columns of numbers from -1 to 1 that are shares of something: a gripper's closing, a base's drive."""
    return [Column(name, "1", None, low=-1.0, high=1.0) for name in names]


# --- from a configuration ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Gripper:
    name: str

    def columns(self) -> list[Column]:
        return _shares((self.name,))


def _configured(
    config: Mapping[str, Any], joints: Mapping[str, Sequence[str]], parts: Sequence[str] | None
) -> Iterator[_Part | _Gripper]:
    bodies = _bodies(config)
    if parts is None and len(bodies) > 1:
        raise SpecError(
            f"robosuite drops parts that the robot has not: say parts=, some of {list(bodies)}, in its order"
        )
    for name in parts or tuple(bodies):
        if name.endswith(_GRIPPER):
            yield _Gripper(name)
            continue
        if name not in bodies:
            raise SpecError(f"the configuration has no part {name!r}, only {list(bodies)}")
        body = bodies[name]
        kind = str(setting(body, "type", name))
        if kind in _JOINT and name not in joints:
            raise SpecError(f"part {name!r} ({kind}): say joints={{{name!r}: (…)}}, its joints in robosuite's order")
        named = tuple(joints.get(name, ())) if kind in _JOINT else ()
        yield _Part(name, kind, body, named, (False,) * len(named))


def _bodies(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configurations of the parts, by name; those of arms stand one level deeper in files."""
    if "body_parts" not in config:
        return {"right": config}
    if config.get("type", "BASIC") != "BASIC":
        raise SpecError(f"a composite controller {config['type']!r} is described from the finished environment only")
    bodies = dict(config["body_parts"])
    return {**bodies.pop("arms", {}), **bodies}


# --- from finished controllers -------------------------------------------------------------------------


def _built(source: Any) -> tuple[list[Column], float]:
    """Columns of an environment, robot or controller, and its rate."""
    if hasattr(source, "robots"):
        robots = [_of_composite(robot.composite_controller) for robot in source.robots]
        several = len(robots) > 1
        columns = [_of_robot(column, k, several) for k, robot in enumerate(robots) for column in robot]
        return columns, float(source.control_freq)
    if hasattr(source, "composite_controller"):
        return _of_composite(source.composite_controller), float(source.control_freq)
    if hasattr(source, "part_controllers"):
        first = next(iter(source.part_controllers.values()))
        return _of_composite(source), float(first.control_freq)
    if hasattr(source, "input_min") and hasattr(source, "control_freq"):
        return _of_part(str(optional(source, "part_name") or "right"), source).columns(), float(source.control_freq)
    raise SpecError(
        f"{type(source).__name__} is no robosuite environment (robots), robot (composite_controller), controller "
        "(part_controllers, or input_min and control_freq) nor configuration"
    )


def _of_robot(column: Column, index: int, several: bool) -> Column:
    """With several robots parts have the robot's name; joints have it already."""
    if not several or column.name.startswith(f"robot{index}_"):
        return column
    return replace(column, name=f"robot{index}_{column.name}")


def _of_composite(composite: Any) -> list[Column]:
    solver = optional(composite, "joint_action_policy")
    solved: tuple[str, ...] = ()
    columns: list[Column] = []
    if solver is not None:
        own = setting(composite, "composite_controller_specific_config", "the composite controller")
        if not own.get("skip_wbc_action", False):
            solved = tuple(own["actuation_part_names"])
            columns += _of_solver(solver, own)
    for name, controller in composite.part_controllers.items():
        if name in composite.grippers:
            dof = int(composite.grippers[name].dof)
            columns += _shares([name] if dof == 1 else [f"{name}.{k}" for k in range(dof)])
        elif name == "base":
            columns += _shares([f"base.{joint}" for joint in controller.joint_names])
        elif name not in solved and controller.control_dim > 0:
            columns += _of_part(name, controller).columns()
    if optional(composite, "name") == "HYBRID_MOBILE_BASE":
        columns += _shares(["base_mode"])  # above 0 the arm's goal moves with the base
    return columns


def _of_part(name: str, controller: Any) -> _Part:
    kind = str(controller.name)
    if kind not in _JOINT:
        return _Part(name, kind, controller)
    model, indices = controller.sim.model, list(controller.joint_index)
    slides = tuple(int(model.jnt_type[k]) == _SLIDE for k in indices)
    limits = tuple(
        (float(model.jnt_range[k][0]), float(model.jnt_range[k][1])) if model.jnt_limited[k] else None for k in indices
    )
    return _Part(name, kind, controller, tuple(controller.joint_names), slides, limits)


def _of_solver(solver: Any, config: Any) -> list[Column]:
    """Columns of the tool poses that inverse kinematics of the whole body takes."""
    if (
        solver.input_action_repr != "absolute"
        or solver.rot_dim not in _ROTATIONS
        or config.get("use_joint_angle_action_input", False)
    ):
        raise SpecError(
            f"whole-body actions {solver.input_action_repr!r} with {solver.rot_dim} numbers a rotation, or of joint "
            "angles, are not described here; known: absolute poses with rotation vectors or quaternions"
        )
    frame = str(optional(solver, "input_ref_frame") or config.get("ik_input_ref_frame", "world"))  # its own default
    rotation = _ROTATIONS[solver.rot_dim]
    units = ("m", "m", "m", *(("rad",) * 3 if solver.rot_dim == 3 else ("1",) * 4))
    return [
        Column(f"{part}.{axis}", unit, Reference.POSE, frame)
        for part in solver.action_split_indexes()
        for axis, unit in zip(("x", "y", "z", *rotation), units, strict=True)
    ]
