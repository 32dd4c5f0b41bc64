"""What exporters write into an ONNX file about the joints that its actions mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np

from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "joints": ("joint_names", "dof_names"),
    "kp": ("joint_stiffness", "kp"),
    "kd": ("joint_damping", "kd"),
    "scale": ("action_scale",),
    "offset": ("default_joint_pos", "default_dof_angles", "default_joint_angles"),
}
"""Field of a spec to the names under which exporters write it, as JSON or as numbers between commas."""

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
    offset: object = found.get("offset")
    if isinstance(offset, dict):
        found["offset"] = _by_name(cast("dict[str, Any]", offset), found.get("joints", ()))
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
    except (TypeError, ValueError):
        raise SpecError(f"ONNX metadata {name!r} must be numbers, got {text[:80]!r}") from None
    array = array.squeeze()  # some exporters write a batch dimension
    return float(array) if array.ndim == 0 else tuple(float(number) for number in array.flat)


def _by_name(values: dict[str, Any], joints: tuple[str, ...]) -> tuple[float, ...]:
    if missing := [name for name in joints if name not in values]:
        raise SpecError(f"ONNX metadata give no default position of {missing}")
    return tuple(float(values[name]) for name in joints)


def contradiction(found: Mapping[str, Any], spec: ActionSpec) -> str:
    """What of the metadata ``spec`` contradicts, in words, or "".

    Gains are the drives' business: a spec may have others than the file.
    """
    joints = found.get("joints")
    if joints is not None and tuple(joints) != spec.joints:
        return f"its columns are {tuple(joints)}, the spec says {spec.joints}"
    positions = spec.reference in (Reference.PD_TARGET, Reference.ABSOLUTE) and set(spec.units) == {"rad"}
    for field in ("scale", "offset") if positions else ():
        if field not in found:
            continue
        value, said = np.array(found[field]), np.array(spec.column(field))
        if value.ndim and value.shape != said.shape:
            return f"its {field} has {len(value)} entries for {len(said)} columns"
        if not np.allclose(value, said, rtol=_WRITTEN, atol=_WRITTEN):
            return f"its {field} is {found[field]}, the spec says {getattr(spec, field)}"
    return ""
