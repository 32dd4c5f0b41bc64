"""An SO-101 in MuJoCo behind LeRobot's methods: its servos jump from target to target, 30 times a second."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from safeguard.core.types import PositionCommand, Vector
from safeguard.integrations.lerobot import ShieldedRobot
from safeguard.scenarios.referee import Judgement
from tests.unit.lerobot_support import ARM, KEYS
from tests.unit.servo_world import ServoWorld, load

FPS = 30
_LIMITS = load("so101").limits
_JAW = float(_LIMITS.q_min[5]), float(_LIMITS.q_max[5])


class SimulatedArm:
    """Numbers in degrees, the gripper in percent, at half its torque as LeRobot configures it."""

    name, id, is_connected, is_calibrated = "so101_follower", "simulated", True, True
    action_features = observation_features = dict.fromkeys(KEYS, float)

    def __init__(self) -> None:
        self.world = ServoWorld("so101")
        self._target = load("so101").home.copy()
        jaw = self.world.model.actuator("gripper").id
        self.world.model.actuator_forcerange[jaw] *= 0.5

    def connect(self, calibrate: bool = True) -> None:
        """Nothing to do."""

    def disconnect(self) -> None:
        """Nothing to do."""

    def get_observation(self) -> dict[str, float]:
        """Where the joints are."""
        q = self.world.state().q
        jaw = 100.0 * (q[5] - _JAW[0]) / (_JAW[1] - _JAW[0])
        return dict(zip(KEYS, [*np.degrees(q[:5]).tolist(), float(jaw)], strict=True))

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """The servos' targets from now on; a servo ignores what is no number."""
        for k, key in enumerate(KEYS):
            if math.isfinite(action.get(key, math.nan)):
                jaw = _JAW[0] + 0.01 * action[key] * (_JAW[1] - _JAW[0])
                self._target[k] = jaw if k == 5 else math.radians(action[key])
        return dict(action)

    def wait(self, frame: int) -> None:
        """Physics until ``frame`` is over."""
        while self.world.time_ns * FPS < (frame + 1) * 1_000_000_000:
            now = self.world.time_ns
            self.world.run(PositionCommand(self._target.copy(), now, now + 1_000_000_000, 0))


Wishes = Iterator[dict[str, float]]


def adversary(seed: int) -> Wishes:
    """Far, new targets twice a second, some beyond the limits; noise of 30 degrees, NaN, missing names in between.

    The gripper keeps off the ends of its range, which its servo overshoots: nobody shields it.
    """
    rng = np.random.default_rng(seed)
    low, high = np.degrees(ARM.limits.q_min), np.degrees(ARM.limits.q_max)
    while True:
        goal = np.append(0.5 * (low + high) + (high - low) * rng.uniform(-0.7, 0.7, 5), rng.uniform(10.0, 90.0))
        kind = rng.integers(5)
        for k in range(15):
            noise = np.append(rng.normal(0.0, 30.0, 5), 0.0) if kind == 1 else 0.0
            action = dict(zip(KEYS, (goal + noise).tolist(), strict=True))
            if k == 7 and kind == 2:
                action["elbow_flex.pos"] = math.nan
            if k == 7 and kind == 3:
                del action["wrist_flex.pos"]
            yield action


def waving(seed: int) -> Wishes:
    """What a sound policy does: sines of 20 degrees about home, with a period of 4 s, and a gripper that works."""
    for k in range(1_000_000):
        t = max(0.0, k / FPS - 1.0)
        angles = 20.0 * np.sin(0.5 * np.pi * t) * np.array([1.0, -1.0, 1.0, 1.0, -1.0])
        yield dict(zip(KEYS, [*angles.tolist(), 50.0 + 40.0 * math.sin(t)], strict=True))


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        judgement: of the referee.
        unchanged: share of the frames under the policy's authority in which the action went out as it was.
        authority: share of the frames in which the policy had the arm.
        off: mean distance of the joints from what was asked for, degrees, in those frames.
        travelled: by all joints, rad.
    """

    judgement: Judgement
    unchanged: float
    authority: float
    off: float
    travelled: float


def drive(wishes: Callable[[int], Wishes], seed: int, frames: int, *, shield: bool = True, **options: Any) -> Outcome:
    """A run of LeRobot's loop; an operator acknowledges every stop as soon as the shield takes it."""
    arm = SimulatedArm()
    robot: Any = arm
    if shield:
        robot = ShieldedRobot(arm, ARM, clock=lambda: 1_000_000_000 + arm.world.time_ns, **options)
        robot.begin_episode("drive", operator="script")
    counts, off, travelled, policy = Counter[str](), list[Vector](), 0.0, True
    for frame, action in zip(range(frames), wishes(seed), strict=False):
        before = arm.world.state().q[:5]
        robot.get_observation()
        robot.send_action(action)
        if shield:
            policy = robot.last.decision.authority.value == "policy"
            counts["policy"] += policy
            counts["unchanged"] += policy and not robot.last.changed
            if not policy and frame % 2:
                robot.acknowledge(operator="script", reason="every cause is clear")
        arm.wait(frame)
        after = arm.world.state().q[:5]
        travelled += float(np.abs(after - before).sum())
        if policy:
            off.append(np.abs(np.degrees(after) - np.array([action.get(key, math.nan) for key in KEYS[:5]])))
    return Outcome(
        arm.world.judgement,
        counts["unchanged"] / max(counts["policy"], 1),
        counts["policy"] / frames,
        float(np.nanmean(off)),
        travelled,
    )
