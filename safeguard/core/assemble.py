"""From a description and a robot file to the parts of a robot model: joints, limits, friction, home."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pinocchio as pin

from safeguard.core.curves import torque_curves, velocity_curves
from safeguard.core.description import Description
from safeguard.core.errors import LimitError, RobotError, UnknownNameError
from safeguard.core.limits import Limits, Sourced
from safeguard.core.robot_file import RobotFile
from safeguard.core.types import Vector, frozen_array

_DERIVED = "derived: half the torque left by gravity over the inertia"
_NOT_IN_MJCF = {
    "v_max": "an MJCF has no speed limits; give limits.velocity_radps",
    "tau_max": "no actuator bounds it; give limits.torque_nm",
}


def reduced(given: Description, file: RobotFile, pieces: Any) -> tuple[Any, Any]:
    """(model, pieces) with the joints of ``file.lock`` fixed where it says; what is left is checked.

    Raises:
        UnknownNameError: a joint to lock does not exist.
        RobotError: a joint has more than one degree of freedom, follows another one, or none is left.
    """
    full = given.model
    for name in file.lock:
        if not full.existJointName(name):
            raise UnknownNameError("joint to lock", name, list(full.names)[1:], str(given.path))
    reference = pin.neutral(full)
    for name, value in file.lock.items():
        reference[full.joints[full.getJointId(name)].idx_q] = value
    locked = [full.getJointId(name) for name in file.lock]
    model, placed = pin.buildReducedModel(full, pieces, locked, reference)
    _check_joints(model, given, file)
    return model, placed


def sized(sourced: Sourced | None, joints: Sequence[str], default: Vector, what: str) -> Vector:
    """The values of a robot file, or ``default``; raises ``LimitError`` if they don't fit the joints."""
    if sourced is None:
        return frozen_array(default)
    values = _of_length(sourced, joints, what)
    if values.min() < 0.0:
        raise LimitError(f"{what}: values must not be negative, got {sourced.values}")
    return values


def limits_of(model: Any, joints: tuple[str, ...], file: RobotFile, given: Description) -> Limits:
    """The joint limits of description and file together; those of the file win. Raises ``LimitError``."""
    extra, where = file.limits, f"{given.format} {given.path.name}"
    for attribute, sourced in (
        ("lowerPositionLimit", extra.position_min_rad),
        ("upperPositionLimit", extra.position_max_rad),
        ("velocityLimit", extra.velocity_radps),
        ("effortLimit", extra.torque_nm),
    ):
        if sourced is not None:
            setattr(model, attribute, np.array(_of_length(sourced, joints, attribute)))
    tau_max = frozen_array(model.effortLimit)
    limits = Limits(
        q_min=frozen_array(model.lowerPositionLimit),
        q_max=frozen_array(model.upperPositionLimit),
        v_max=frozen_array(model.velocityLimit),
        a_max=sized(extra.acceleration_radps2, joints, np.ones(len(joints)), "acceleration limit"),
        tau_max=tau_max,
        tau_rate_max=sized(extra.torque_rate_nmps, joints, tau_max / 0.01, "torque rate limit"),
        provenance={
            "q_min": _source(extra.position_min_rad, where),
            "q_max": _source(extra.position_max_rad, where),
            "v_max": _source(extra.velocity_radps, _missing("v_max", model.velocityLimit, given) or where),
            "tau_max": _source(extra.torque_nm, _missing("tau_max", model.effortLimit, given) or where),
            "a_max": _source(extra.acceleration_radps2, _DERIVED),
            "tau_rate_max": _source(extra.torque_rate_nmps, "derived: full torque in 10 ms"),
        },
        velocity_curves=velocity_curves(extra.velocity_curve, joints),
        torque_curves=torque_curves(extra.torque_curve, joints),
    )
    limits.validate(joints, str(given.path))
    if extra.acceleration_radps2 is None:
        limits = replace(limits, a_max=frozen_array(_derived_acceleration(model)))
        limits.validate(joints, str(given.path))
    return limits


def home_of(given: Description, file: RobotFile, joints: Sequence[str], limits: Limits) -> Vector:
    """The home configuration, shape (n,): what ``file.home`` says, else the first named one, else mid-range.

    A joint that a named configuration leaves out stands in the middle of its range.
    """
    states, wanted = given.states, file.home
    middle = (limits.q_min + limits.q_max) / 2.0
    if isinstance(wanted, str) and wanted not in states:
        raise UnknownNameError("group state", wanted, states, str(given.states_from))
    if isinstance(wanted, Mapping):
        name, values, place = "home", wanted, str(given.path)
    elif states:
        name = wanted if wanted is not None else next(iter(states))
        values, place = states[name], str(given.states_from)
    else:
        return frozen_array(middle)
    free = set(given.model.names)
    for joint in values:
        if joint not in free:
            raise UnknownNameError(f"joint of {name!r}", joint, joints, place)
    home = np.array([values.get(joint, middle[i]) for i, joint in enumerate(joints)])
    outside = ~((home >= limits.q_min) & (home <= limits.q_max))
    if outside.any():
        j = int(np.argmax(outside))
        raise RobotError(
            f"group state {name!r} of {place} has {joints[j]!r} at {home[j]} rad, outside its limits "
            f"[{limits.q_min[j]}, {limits.q_max[j]}]"
        )
    return frozen_array(home)


def tool_of(model: Any, file: RobotFile, given: Description) -> str:
    """Name of the tool frame: that of the file, else the last frame of the description that has a name of its own."""
    names = [str(frame.name) for frame in model.frames]
    tool = file.tool_frame or [name for name in names if names.count(name) == 1][-1]
    if tool not in names:
        raise UnknownNameError("frame", tool, names, str(given.path))
    if names.count(tool) > 1:
        raise RobotError(f"tool frame {tool!r} of {given.path}: a link and a joint have this name; take another frame")
    return tool


def _check_joints(model: Any, given: Description, file: RobotFile) -> None:
    if model.nv == 0:
        raise RobotError(f"{given.path}: no joint is left to control; lock fewer")
    for index in range(1, model.njoints):
        name, joint = str(model.names[index]), model.joints[index]
        if joint.nq != 1 or joint.nv != 1:
            raise RobotError(
                f"joint {name!r} of {given.path} is {joint.shortname()}: only bounded revolute and prismatic "
                "joints are supported; give it limits in the URDF or lock it"
            )
        leader = given.followers.get(name)
        if leader is not None and file.mimic == "refused":
            raise RobotError(
                f"joint {name!r} of {given.path} follows {leader!r}: lock it, or declare 'mimic: independent' if it "
                "has a motor of its own"
            )


def _of_length(sourced: Sourced, joints: Sequence[str], what: str) -> Vector:
    if len(sourced.values) != len(joints):
        raise LimitError(f"{what}: {len(sourced.values)} values for {len(joints)} joints ({', '.join(joints)})")
    return frozen_array(sourced.values)


def _source(sourced: Sourced | None, otherwise: str) -> str:
    return sourced.source if sourced is not None else otherwise


def _missing(limit: str, values: Vector, given: Description) -> str | None:
    """Why a limit of an MJCF is missing; None if it isn't, or the description is another."""
    return _NOT_IN_MJCF[limit] if given.format == "MJCF" and not np.isfinite(values).all() else None


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
