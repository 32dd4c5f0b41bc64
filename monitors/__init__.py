"""Evidence to verdicts: intake checks, deadlines, scores, and their calibration per episode."""

from safeguard.core.protocols import Monitor
from safeguard.monitors.bank import Bank
from safeguard.monitors.calibration import Calibration, Origin, calibrate
from safeguard.monitors.checks import Checks
from safeguard.monitors.deadline import PolicyDeadline, TickOverrun
from safeguard.monitors.drift import Drift
from safeguard.monitors.effort import ShieldEffort
from safeguard.monitors.intake import Intake
from safeguard.monitors.registry import REGISTRY, Entry, Setting

__all__ = [
    "REGISTRY",
    "Bank",
    "Calibration",
    "Checks",
    "Drift",
    "Entry",
    "Intake",
    "Monitor",
    "Origin",
    "PolicyDeadline",
    "Setting",
    "ShieldEffort",
    "TickOverrun",
    "calibrate",
]
