"""An untrained network gets an arm: whatever it says, no limit is exceeded.

It prints:

    in HOLD before the acknowledgement: True
    ticks: 2500, outside a limit: 0
    the network moved the arm: True
"""

from __future__ import annotations

import numpy as np
import torch

from safeguard import Observation, RobotModel, RobotState, Shield
from safeguard.core.enums import Authority, Mode, Reference
from safeguard.core.types import ActionSpec
from safeguard.policies import as_policy

PERIOD, PERIOD_NS = 0.002, 2_000_000
ROWS, RATE_HZ = 8, 20.0


class Untrained(torch.nn.Module):
    """Joint positions and speeds in, a chunk of joint positions out: shape (2 n,) to (8, n)."""

    def __init__(self, joints: int) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(2 * joints, 64), torch.nn.Tanh(), torch.nn.Linear(64, ROWS * joints)
        )
        self.joints = joints

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Targets up to a few radians from where the arm is."""
        offsets: torch.Tensor = self.net(seen).reshape(ROWS, self.joints)
        return seen[: self.joints] + 5.0 * offsets


def encode(observation: Observation) -> torch.Tensor:
    """What the network sees of an observation."""
    state = observation.state
    return torch.from_numpy(np.concatenate((state.q, state.v))).float()


def main() -> None:
    """Five seconds under the shield; the body is the robot's own equation of motion."""
    torch.manual_seed(0)
    robot = RobotModel.load("panda")
    spec = ActionSpec(robot.joints, "rad", Reference.ABSOLUTE, RATE_HZ, ROWS)
    policy = as_policy(Untrained(robot.n), spec=spec, encode=encode)
    limits, q, v = robot.limits, robot.home, np.zeros(robot.n)
    modes: list[Mode] = []
    outside = moved = 0
    with Shield(robot, policy, period=PERIOD) as shield:
        shield.begin_episode("babble")
        for tick in range(2500):
            if tick == 100:
                shield.acknowledge(operator="you", reason="cell is clear")
            now = tick * PERIOD_NS
            decision = shield.step(Observation(RobotState(q, v, now)), now=now)
            a = decision.filter.acceleration
            q, v = q + v * PERIOD + a * PERIOD**2 / 2, v + a * PERIOD
            modes.append(decision.mode)
            moved += decision.authority is Authority.POLICY
            kept = (q >= limits.q_min) & (q <= limits.q_max) & (np.abs(v) <= limits.v_max)
            outside += not bool(kept.all()) or decision.margins.clearance < 0.0
    print("in HOLD before the acknowledgement:", set(modes[:100]) == {Mode.HOLD})
    print(f"ticks: {len(modes)}, outside a limit: {outside}")
    print("the network moved the arm:", moved > 0)


if __name__ == "__main__":
    main()
