"""Nominal controllers, the safety filter and the backup."""

from safeguard.controllers.arm import ArmPlatform
from safeguard.controllers.direct import DirectControl
from safeguard.controllers.filter import SafetyFilter
from safeguard.controllers.tracking import ChunkTracking
from safeguard.core.enums import Reference
from safeguard.core.protocols import Controller
from safeguard.core.types import ActionSpec

__all__ = ["ArmPlatform", "ChunkTracking", "DirectControl", "SafetyFilter", "controller_for"]


def controller_for(spec: ActionSpec, joints: tuple[str, ...], omega: float = 15.0) -> Controller:
    """The controller that understands ``spec``; raises ``SpecError`` if there is none."""
    if spec.reference is Reference.ABSOLUTE:
        return ChunkTracking(spec, joints, omega)
    return DirectControl(spec, joints)
