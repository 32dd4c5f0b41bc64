"""What a description leaves out, from a YAML file or a mapping: limits, friction, tool frame, home."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from safeguard.core.curves import TorqueCurveFile, VelocityCurveFile
from safeguard.core.errors import RobotError
from safeguard.core.limits import Sourced


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LimitFile(_Section):
    """Limits that the description lacks, or that replace its own; units are metres for a sliding joint."""

    position_min_rad: Sourced | None = None
    position_max_rad: Sourced | None = None
    velocity_radps: Sourced | None = None
    torque_nm: Sourced | None = None
    acceleration_radps2: Sourced | None = None
    torque_rate_nmps: Sourced | None = None
    velocity_curve: VelocityCurveFile | None = None
    torque_curve: TorqueCurveFile | None = None


class DynamicsFile(_Section):
    """Dynamics that the description leaves out, or that replace its own."""

    armature_kgm2: Sourced | None = None
    viscous_friction_nms: Sourced | None = None
    coulomb_friction_nm: Sourced | None = None


class RobotFile(_Section):
    """One YAML file of ``safeguard/core/robots``.

    Attributes:
        urdf: path of the description.
        srdf: path of named configurations.
        tool_frame: a frame; the last one of the description if None.
        home: a named configuration, or joint → position; without it the first named one, else mid-range.
        lock: joints to fix, name → position.
        mimic: what becomes of joints that follow others: refused, or controlled like every other joint.
    """

    urdf: str = ""
    srdf: str | None = None
    tool_frame: str | None = None
    home: str | Mapping[str, float] | None = None
    lock: Mapping[str, float] = {}
    mimic: Literal["refused", "independent"] = "refused"
    limits: LimitFile = LimitFile()
    dynamics: DynamicsFile = DynamicsFile()


def named(text: str) -> RobotFile:
    """The robot file of this package in ``text``."""
    return RobotFile.model_validate(yaml.safe_load(text))


def given(limits: Mapping[str, Any] | str | Path | None, lock: Mapping[str, float] | None, path: Path) -> RobotFile:
    """What a user gives beside the description at ``path``: a mapping or a YAML file, and joints to fix.

    Raises:
        RobotError: the file is missing or not YAML, or a key or value is wrong.
    """
    extra = _yaml(Path(limits)) if isinstance(limits, str | Path) else dict(limits or {})
    try:
        return RobotFile.model_validate({"lock": dict(lock or {}), **extra})
    except ValidationError as error:
        raise RobotError(f"limits for {path}: {error}") from error


def recorded(file: RobotFile) -> dict[str, Any]:
    """The part of ``file`` that a source keeps as ``limits``, JSON-able."""
    keep = file.model_dump(mode="json", exclude={"urdf", "srdf", "lock"}, exclude_none=True)
    if file.mimic == "refused":
        del keep["mimic"]
    return keep


def existing(path: Path, what: str) -> Path:
    """``path`` if it is a file; raises ``RobotError`` if not."""
    if not path.is_file():
        raise RobotError(f"{what} {path} does not exist")
    return path


def _yaml(path: Path) -> dict[str, Any]:
    try:
        data: object = yaml.safe_load(existing(path, "limits file").read_text())
    except yaml.YAMLError as error:
        raise RobotError(f"limits file {path} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise RobotError(f"limits file {path}: expected keys such as 'limits:', got {type(data).__name__}")
    return cast("dict[str, Any]", data)
