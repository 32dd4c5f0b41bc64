"""LeRobot: a robot with the shield inside, and the shield as a processor step.

Nothing here imports LeRobot, except ``register``, which makes its pipelines know the step.
"""

from __future__ import annotations

from safeguard.integrations.lerobot.calibration import arm_spec, read_calibration
from safeguard.integrations.lerobot.guard import ActionGuard, Sent
from safeguard.integrations.lerobot.robot import ShieldedRobot
from safeguard.integrations.lerobot.step import ShieldStep, register

__all__ = ["ActionGuard", "Sent", "ShieldStep", "ShieldedRobot", "arm_spec", "read_calibration", "register"]
