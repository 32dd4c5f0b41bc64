from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from safeguard.core.errors import ConfigError, SpecError
from safeguard.integrations.lerobot import ShieldedRobot, arm_spec
from tests.unit.lerobot_support import ARM, KEYS, MOTORS, Arm, Clock


def other_features(*motors: str) -> Arm:
    """An arm with these motors."""
    arm = Arm()
    features = {f"{motor}.pos": float for motor in motors}
    return SimpleNamespace(action_features=features, get_observation=arm.get_observation)  # type: ignore[return-value]


def test_a_clamp_behind_the_shield_is_refused() -> None:
    """LeRobot's ``max_relative_target`` would change what the shield verified."""
    arm: Any = Arm()
    arm.config = SimpleNamespace(max_relative_target=5.0)
    with pytest.raises(ConfigError, match="max_relative_target"):
        ShieldedRobot(arm, ARM)


def test_motors_must_be_the_models_joints() -> None:
    """A robot that has other motors, or fewer, is refused by name."""
    with pytest.raises(SpecError, match="'elbow' is no joint"):
        ShieldedRobot(other_features("elbow", *MOTORS), ARM)
    with pytest.raises(SpecError, match="missing shoulder_pan"):
        ShieldedRobot(other_features(*MOTORS[1:]), ARM)


def test_a_spec_of_ones_own() -> None:
    """Columns in any order, bound by name; another set of names is refused."""
    spec = arm_spec(ARM, tuple(reversed(MOTORS)))
    robot = ShieldedRobot(Arm(), ARM, spec, clock=Clock())
    assert robot.guard.keys == tuple(reversed(KEYS))
    with pytest.raises(SpecError, match="the robot's motors are"):
        ShieldedRobot(other_features(*MOTORS[:-1]), ARM, spec)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_age_s": 0.0}, ConfigError, "max_age_s"),
        ({"max_age_s": math.nan}, ConfigError, "max_age_s"),
        ({"ranges": {"hand": (0.0, 1.0)}}, SpecError, "'hand' needs"),
        ({"ranges": {"gripper": (1.0, 1.0)}}, SpecError, "'gripper' needs"),
        ({"spec": arm_spec(ARM, MOTORS).changed(chunk=2)}, SpecError, "one row of absolute positions"),
        ({"joints": {"shoulder": "shoulder_pan"}}, SpecError, "joints names shoulder"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    """Before anything is connected, with what is wrong."""
    with pytest.raises(error, match=words):
        ShieldedRobot(Arm(), ARM, **options)
