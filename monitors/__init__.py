"""Evidence to verdicts: intake checks, deadlines, scores, and their calibration per episode."""

from safeguard.core.protocols import Monitor
from safeguard.monitors.alarm import CalibratedMonitor
from safeguard.monitors.calibration import Calibration, Origin, calibrate
from safeguard.monitors.deadline import PolicyDeadline, TickOverrun
from safeguard.monitors.effort import ShieldEffort
from safeguard.monitors.intake import Intake

__all__ = [
    "CalibratedMonitor",
    "Calibration",
    "Intake",
    "Monitor",
    "Origin",
    "PolicyDeadline",
    "ShieldEffort",
    "TickOverrun",
    "calibrate",
]
