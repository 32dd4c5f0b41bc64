"""Nominal controllers, the safety filter and the backup."""

from safeguard.controllers.arm import ArmPlatform
from safeguard.controllers.filter import SafetyFilter
from safeguard.controllers.tracking import ChunkTracking

__all__ = ["ArmPlatform", "ChunkTracking", "SafetyFilter"]
