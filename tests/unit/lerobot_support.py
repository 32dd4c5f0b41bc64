"""An SO-101 as LeRobot sees one, without LeRobot: drives that are where they were told to be at once."""

from __future__ import annotations

from typing import Any

import pytest

from safeguard.core.enums import Authority
from safeguard.core.robot import RobotModel
from safeguard.integrations.lerobot import ShieldedRobot

ARM = RobotModel.load("so101_arm")
MOTORS = (*ARM.joints, "gripper")
KEYS = tuple(f"{motor}.pos" for motor in MOTORS)
REST: dict[str, float] = dict.fromkeys(KEYS, 0.0) | {"gripper.pos": 50.0}
FRAME = 33_333_333  # ns


class Clock:
    """Time that stands still unless it is told."""

    def __init__(self) -> None:
        self.now = 5_000_000_000

    def __call__(self) -> int:
        """Ns."""
        return self.now


class Arm:
    """Follows LeRobot's ``Robot`` by duck typing.

    Attributes:
        at: where the motors are; the very dict that ``get_observation`` returns if ``in_place``.
        sent: every action that came.
        reads: how often it was asked for an observation.
        broken: what to raise when asked.
        answer: what ``send_action`` returns instead of what it did.
    """

    name, id, robot_type = "so101_follower", "mine", "so101_follower"

    def __init__(self, *, in_place: bool = False) -> None:
        self.at: dict[str, Any] = dict(REST)
        self.sent: list[dict[str, float]] = []
        self.calls: list[str] = []
        self.reads, self.in_place, self.is_connected, self.is_calibrated = 0, in_place, False, True
        self.broken: Exception | None = None
        self.answer: object = None
        self.camera = object()

    @property
    def action_features(self) -> dict[str, type]:
        """As LeRobot's followers have them."""
        return dict.fromkeys(KEYS, float)

    @property
    def observation_features(self) -> dict[str, Any]:
        """Positions and a picture."""
        return {**self.action_features, "front": (4, 4, 3)}

    def connect(self, calibrate: bool = True) -> None:
        """On."""
        self.is_connected = True
        self.calls.append(f"connect {calibrate}")

    def disconnect(self) -> None:
        """Off."""
        self.is_connected = False
        self.calls.append("disconnect")

    def calibrate(self) -> None:
        """Nothing to do."""
        self.calls.append("calibrate")

    def configure(self) -> None:
        """Nothing to do."""
        self.calls.append("configure")

    def get_observation(self) -> dict[str, Any]:
        """Where the motors are."""
        self.reads += 1
        if self.broken is not None:
            raise self.broken
        return self.at if self.in_place else dict(self.at)

    def send_action(self, action: dict[str, float]) -> object:
        """The motors go there."""
        if self.broken is not None:
            raise self.broken
        self.sent.append(action)
        self.at.update(action)
        return dict(action) if self.answer is None else self.answer


class Cell:
    """A shielded arm, and the loop that a host runs."""

    def __init__(self, *, in_place: bool = False, start: bool = True, **options: Any) -> None:
        self.clock, self.arm = Clock(), Arm(in_place=in_place)
        self.robot = ShieldedRobot(self.arm, ARM, clock=self.clock, **options)
        self.robot.connect()
        if start:
            self.robot.begin_episode("test", operator="tester")
            while self.authority is not Authority.POLICY:
                self.frame(dict(REST))
            assert self.arm.at == pytest.approx(REST)

    @property
    def authority(self) -> Authority | None:
        """Who moved the arm last."""
        return None if self.robot.last is None else self.robot.last.decision.authority

    def frame(self, action: object) -> dict[str, float]:
        """Observe, send, wait."""
        self.robot.get_observation()
        sent: dict[str, float] = self.robot.send_action(action)
        self.clock.now += FRAME
        return sent

    def move(self, **to: float) -> dict[str, float]:
        """A frame that asks for these motors to go there, and for the others to rest."""
        return self.frame(REST | {f"{motor}.pos": value for motor, value in to.items()})
