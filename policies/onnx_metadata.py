"""What exporters write into an ONNX file about the joints that its actions mean."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np

from safeguard.core.action import JOINT_UNITS, POSITION_UNITS
from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec, Vector

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "joints": ("joint_names", "dof_names"),
    "kp": ("joint_stiffness", "kp"),
    "kd": ("joint_damping", "kd"),
    "scale": ("action_scale",),
    "offset": ("default_joint_pos", "default_dof_angles", "default_joint_angles"),
}
"""Field of a spec to the names under which exporters write it, as JSON or as numbers between commas."""

_WORDS: Final = {"scale": "scale of the actions", "offset": "default position"}
_WRITTEN: Final = 2e-3  # exporters write three decimals


def declared(session: Any) -> dict[str, Any]:
    """Fields of an ``ActionSpec`` that the metadata of a session give: joints, kp, kd, scale, offset.

    Raises:
        SpecError: what is there cannot be read.
    """
    written: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    found: dict[str, Any] = {}
    for field, names in _KEYS.items():
        for name in names:
            if written.get(name, "").strip():
                found.setdefault(field, _read(field, name, written[name]))
    for field in ("scale", "offset"):
        if isinstance(found.get(field), dict):
            found[field] = _by_name(field, found[field], found.get("joints", ()))
    return found


def _read(field: str, name: str, text: str) -> Any:
    try:
        value: Any = json.loads(text)
    except ValueError:
        value = [part.strip() for part in text.split(",") if part.strip()]
    if field == "joints":
        return tuple(map(str, cast("list[object]", value))) if isinstance(value, list) else (str(value),)
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise SpecError(f"ONNX metadata {name!r} must be numbers, got {text[:80]!r}") from None
    array = array.squeeze()  # some exporters write a batch dimension
    return float(array) if array.ndim == 0 else tuple(float(number) for number in array.flat)


def _by_name(field: str, values: dict[str, Any], joints: tuple[str, ...]) -> tuple[float, ...]:
    missing = [name for name in joints if name not in values]
    if missing or not joints:
        raise SpecError(
            f"ONNX metadata give no {_WORDS[field]} of {missing or 'any joint, whose names they leave out'}"
        )
    try:
        return tuple(float(values[name]) for name in joints)
    except (TypeError, ValueError, OverflowError):
        raise SpecError(f"ONNX metadata must give numbers for the {_WORDS[field]}, got {str(values)[:80]}") from None


def says(field: str, reference: Reference) -> bool:
    """Whether a ``scale`` or ``offset`` of the file is about actions of this reference.

    Default positions are where position targets count from; speeds, torques and steps count from 0.
    """
    return field != "offset" or reference in (Reference.PD_TARGET, Reference.ABSOLUTE)


def in_si(spec: ActionSpec) -> Vector:
    """SI values of the units of the columns, as those of the file are; NaN where a column is no joint."""
    known = JOINT_UNITS.get(spec.reference, {})
    units = zip(spec.joints, spec.units, strict=True)
    return np.array([math.nan if name in spec.others else known.get(unit, 1.0) for name, unit in units])


def contradiction(found: Mapping[str, Any], spec: ActionSpec) -> str:
    """What of the metadata ``spec`` contradicts, in words, or "".

    Gains are the drives' business: a spec may have others than the file. Scales of speeds and torques are not compared.
    """
    joints = found.get("joints")
    if joints is not None and tuple(joints) != spec.joints:
        return f"its columns are {tuple(joints)}, the spec says {spec.joints}"
    positions = JOINT_UNITS.get(spec.reference) is POSITION_UNITS
    for field in ("scale", "offset") if positions else ():
        if field not in found or not says(field, spec.reference):
            continue
        value, said = np.array(found[field]), np.array(spec.column(field)) * in_si(spec)
        if value.ndim and value.shape != said.shape:
            return f"its {field} has {len(value)} entries for {len(said)} columns"
        if not (np.isnan(said) | np.isclose(value, said, rtol=_WRITTEN, atol=_WRITTEN)).all():
            return f"its {field} is {found[field]} in rad, the spec says {getattr(spec, field)} in {spec.unit}"
    return ""
