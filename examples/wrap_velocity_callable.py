"""A function that always asks for 3 rad/s, beyond the speed limit, until the joint's end: slowed, then stopped.

It prints:

    0.5 s: CAUTIOUS, corrected, 1.08 rad/s
    1.5 s: NOMINAL, corrected, 2.15 rad/s
    3.0 s: NOMINAL, corrected, 0.00 rad/s
    kept from the limit: 2 mrad
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from safeguard import Observation, RobotModel, RobotState, Shield
from safeguard.core.enums import Reference
from safeguard.core.types import ActionSpec
from safeguard.policies import as_policy

PERIOD, PERIOD_NS = 0.002, 2_000_000
JOINTS = 7


def spin(observation: Observation) -> NDArray[np.float64]:
    """One row of joint velocities, rad/s, shape (1, 7); the tiny term tells this answer from the last one."""
    row = np.zeros((1, JOINTS))
    row[0, 0] = 3.0 + 1e-9 * observation.state.t * 1e-9
    return row


def main() -> None:
    """Three seconds under the shield; the body is the robot's own equation of motion."""
    robot = RobotModel.load("panda")
    spec = ActionSpec(robot.joints, "rad/s", Reference.VELOCITY, rate_hz=10.0)
    q, v = robot.home, np.zeros(robot.n)
    with Shield(robot, as_policy(spin, spec=spec), period=PERIOD) as shield:
        shield.begin_episode("spin")
        shield.acknowledge(operator="you", reason="cell is clear")
        for tick in range(1501):
            now = tick * PERIOD_NS
            decision = shield.step(Observation(RobotState(q, v, now)), now=now)
            a = decision.filter.acceleration
            q, v = q + v * PERIOD + a * PERIOD**2 / 2, v + a * PERIOD
            if tick in (250, 750, 1500):
                how = f"{decision.mode.name}, {decision.filter.status.value}"
                print(f"{now * 1e-9:.1f} s: {how}, {abs(v[0]):.2f} rad/s")
    print(f"kept from the limit: {1e3 * (robot.limits.q_max[0] - q[0]):.0f} mrad")


if __name__ == "__main__":
    main()
