"""What a LeRobot arm's numbers mean: from its motors, its units and, where they need it, its calibration file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from safeguard.core.action import ActionSpec
from safeguard.core.enums import Reference
from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.robot import RobotModel
from safeguard.integrations.lerobot.numbers import SUFFIX

ArmUnit = Literal["deg", "range"]
"""What LeRobot normalises joints to: degrees, or −100..100 of the calibrated range. Grippers are always 0..100."""

_TICKS: Final = 4096  # of one turn of the servos of SO-100, SO-101 and Koch arms
_ALLOWED: Final[Mapping[str, tuple[float, float]]] = {"deg": (-360.0, 360.0), "range": (-150.0, 150.0)}
_PERCENT: Final = (-50.0, 150.0)
# Numbers beyond these are not in this unit: ticks, or an output that is not normalised yet.


@dataclass(frozen=True, slots=True)
class MotorRange:
    """One motor of a calibration file: its range of motion in ticks, and whether its numbers count backwards."""

    low: int
    high: int
    inverted: bool


def motors_of(features: object) -> tuple[str, ...]:
    """Names of the motors in LeRobot's ``action_features``, in order.

    Raises:
        SpecError: there are none, or some action is no joint position.
    """
    keys: list[object] = list(cast("Mapping[object, object]", features)) if isinstance(features, Mapping) else []
    odd = [key for key in keys if not (isinstance(key, str) and key.endswith(SUFFIX) and len(key) > len(SUFFIX))]
    if odd or not keys:
        raise SpecError(
            f"action_features must be joint positions named '<motor>{SUFFIX}', got {odd or features!r}: "
            "other actions cannot be shielded here"
        )
    return tuple(str(key).removesuffix(SUFFIX) for key in keys)


def arm_spec(
    model: RobotModel,
    motors: Sequence[str],
    *,
    fps: float = 30.0,
    unit: ArmUnit = "deg",
    joints: Mapping[str, str] | None = None,
    percent: Sequence[str] = ("gripper",),
    zero: Mapping[str, float] | None = None,
    calibration: str | Path | None = None,
) -> ActionSpec:
    """What the numbers of a LeRobot arm mean.

    A joint in degrees is ``zero + number`` degrees. One in −100..100 lies in the calibrated range, with 0 in the
    middle, which is ``zero`` degrees. One in 0..100 runs over its calibrated range from the model's lower limit on,
    over the model's whole range where there is no calibration.

    Args:
        model: of the arm.
        motors: names in the arm's ``action_features``, without ``.pos``, in order.
        fps: actions per second.
        unit: of the joints, as the arm's LeRobot configuration says (``use_degrees``).
        joints: the model's joint of each motor whose name differs.
        percent: motors in 0..100. One that is no joint of the model is left to the caller (``ActionSpec.others``).
        zero: by motor, the model's angle in degrees at LeRobot's zero; 0 for every other motor.
        calibration: LeRobot's calibration file of this arm, needed for ``unit="range"``.

    Raises:
        SpecError: a motor is no joint of the model, a name is unknown, or ranges are needed and there is no file.
        ConfigError: the calibration file cannot be read or is wrong.
    """
    named = {motor: (joints or {}).get(motor, motor) for motor in motors}
    _check(model, named, unit, percent, joints or {}, zero or {})
    ranges = None if calibration is None else read_calibration(calibration, motors)
    if unit == "range" and ranges is None:
        raise SpecError("numbers of -100..100 mean nothing without the arm's ranges: calibration=<LeRobot's JSON file>")
    others = tuple(joint for motor, joint in named.items() if motor in percent and joint not in model.joints)
    columns = [
        _percent(model, joint, None if ranges is None else ranges[motor])
        if motor in percent
        else _column(unit, (zero or {}).get(motor, 0.0), None if ranges is None else ranges[motor])
        for motor, joint in named.items()
    ]
    units, scale, offset = zip(*columns, strict=True)
    low, high = zip(*(_PERCENT if motor in percent else _ALLOWED[unit] for motor in motors), strict=True)
    return ActionSpec(
        tuple(named.values()),
        units,
        Reference.ABSOLUTE,
        rate_hz=fps,
        scale=scale,
        offset=offset,
        low=low,
        high=high,
        others=others,
    )


def read_calibration(path: str | Path, motors: Sequence[str]) -> dict[str, MotorRange]:
    """The ranges of ``motors`` in a calibration file of LeRobot.

    Raises:
        ConfigError: the file is missing, is not JSON, or lacks a motor or a sensible range for one.
    """
    path = Path(path)
    try:
        data: object = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"calibration file {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"calibration file {path} is not UTF-8 text: byte {error.start} is not") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"calibration file {path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"calibration file {path}: expected an object of motors, got {type(data).__name__}")
    entries = cast("dict[str, Any]", data)
    if missing := [motor for motor in motors if motor not in entries]:
        raise ConfigError(
            f"calibration file {path} lacks {', '.join(missing)}; it has {', '.join(entries) or 'no motors'}"
        )
    return {motor: _range(path, motor, entries[motor]) for motor in motors}


def _range(path: Path, motor: str, entry: object) -> MotorRange:
    fields = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
    low, high, mode = (fields.get(name) for name in ("range_min", "range_max", "drive_mode"))
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (low, high, mode))
    if not whole or not 0 < cast("int", high) - cast("int", low) < _TICKS or mode not in (0, 1):
        raise ConfigError(
            f"calibration file {path}: {motor} needs whole numbers range_min < range_max, less than one turn "
            f"({_TICKS}) apart, and drive_mode 0 or 1, "
            f"got range_min={low!r}, range_max={high!r}, drive_mode={mode!r}"
        )
    return MotorRange(cast("int", low), cast("int", high), mode == 1)


def _check(
    model: RobotModel,
    named: Mapping[str, str],
    unit: str,
    percent: Sequence[str],
    joints: Mapping[str, str],
    zero: Mapping[str, float],
) -> None:
    if unit not in _ALLOWED:
        raise SpecError(f"unit must be 'deg' or 'range', got {unit!r}")
    for what, given in (("joints", joints), ("zero", zero)):
        if odd := [motor for motor in given if motor not in named]:
            raise SpecError(f"{what} names {', '.join(odd)}, the arm has {', '.join(named)}")
    if bad := [motor for motor, value in zero.items() if not math.isfinite(value)]:
        raise SpecError(f"zero of {', '.join(bad)} must be a finite angle in degrees")
    for motor, joint in named.items():
        if joint not in model.joints and motor not in percent:
            raise SpecError(
                f"motor {motor!r} is no joint of {model.name!r}, which has {', '.join(model.joints)}: "
                f"say which with joints={{{motor!r}: …}}"
            )


def _column(unit: ArmUnit, zero: float, span: MotorRange | None) -> tuple[str, float, float]:
    """Unit, scale and offset of a joint."""
    if unit == "deg" or span is None:
        return "deg", 1.0, zero
    scale = math.degrees(_angle(span)) / 200.0
    return "deg", -scale if span.inverted else scale, zero


def _percent(model: RobotModel, joint: str, span: MotorRange | None) -> tuple[str, float, float]:
    """Unit, scale and offset of a gripper; its own numbers where it is no joint of the model."""
    if joint not in model.joints:
        return "%", 1.0, 0.0
    k = model.joints.index(joint)
    low, high = float(model.limits.q_min[k]), float(model.limits.q_max[k])
    width = high - low if span is None else _angle(span)
    if span is not None and span.inverted:
        return "rad", -width / 100.0, low + width
    return "rad", width / 100.0, low


def _angle(span: MotorRange) -> float:
    """The calibrated range in rad; LeRobot counts ``_TICKS − 1`` for a turn."""
    return (span.high - span.low) * 2.0 * math.pi / (_TICKS - 1)
