from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.robot import RobotModel
from safeguard.core.types import Proposal
from safeguard.integrations.lerobot import arm_spec, read_calibration
from safeguard.integrations.lerobot.calibration import motors_of
from safeguard.integrations.lerobot.numbers import action_row, number, positions
from safeguard.policies.binding import Binding

MOTORS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
KEYS = ("a.pos", "b.pos")
WHOLE, ARM = RobotModel.load("so101"), RobotModel.load("so101_arm")


class Hostile:
    """An object whose every use raises."""

    def item(self) -> float:
        """Not a number."""
        raise RuntimeError("no")

    def __float__(self) -> float:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Mine(Mapping[str, float]):
    """A mapping that lies about its length."""

    def __getitem__(self, key: str) -> float:
        raise RuntimeError("no")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no")

    def __len__(self) -> int:
        return 2


# -- numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, 1.5),
        (3, 3.0),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7.0),
        (np.array([2.5]), 2.5),
        (np.array(2.5), 2.5),
        (torch.tensor(0.25), 0.25),
        (torch.tensor([0.25], requires_grad=True), 0.25),
        (torch.tensor(4), 4.0),
        (math.inf, math.inf),
    ],
)
def test_numbers_of_every_library_are_numbers(value: object, expected: float) -> None:
    """Python's, numpy's and torch's numbers of one element are taken as they are."""
    assert number(value) == expected


@pytest.mark.parametrize(
    "value",
    ["1.5", None, True, np.bool_(True), [1.0], np.array([1.0, 2.0]), torch.zeros(2), 1j, 10**400, Hostile(), float, {}],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_number_is_nan(value: object) -> None:
    """Text, flags, None, several numbers, too large integers and objects that raise are not taken for a number."""
    assert math.isnan(number(value))


def test_keys_bind_whatever_their_order() -> None:
    """The row is in the order of the keys, not of the dict."""
    row, odd = action_row({"b.pos": 2, "a.pos": 1}, KEYS)
    assert (row.tolist(), odd) == ([[1.0, 2.0]], "")


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ({"a.pos": 1.0}, "missing b.pos"),
        ({"a.pos": 1.0, "b.pos": 2.0, "c.pos": 3.0}, "unknown 'c.pos'"),
        ({"a.pos": 1.0, "c.pos": 3.0}, "missing b.pos; unknown 'c.pos'"),
        ({"a.pos": 1.0, 7: 3.0}, "missing b.pos; unknown 7"),
        ({}, "missing a.pos, b.pos"),
        (None, "got NoneType"),
        ([1.0, 2.0], "got list"),
        (torch.zeros(2), "got Tensor"),
        (Mine(), "got Mine"),
        (dict.fromkeys(map(str, range(2000)), 1.0), "got dict"),
    ],
)
def test_other_keys_are_no_action(action: object, reason: str) -> None:
    """Missing and unknown keys, and what is no dict, come back in a shape that no spec describes, with the reason."""
    row, odd = action_row(action, KEYS)
    assert row.ndim == 1
    assert reason in odd


@pytest.mark.parametrize("value", ["2", None, math.nan, math.inf, Hostile(), torch.zeros(3)])
def test_a_value_that_is_no_number_is_named(value: object) -> None:
    """The row has its shape and the reason says which key it was."""
    row, odd = action_row({"a.pos": 1.0, "b.pos": value}, KEYS)
    assert row.shape == (1, 2)
    assert not np.isfinite(row[0, 1])
    assert odd.startswith("b.pos is ")


@pytest.mark.parametrize("observation", [None, 3, {"b.pos": 2.0}, {"a.pos": "x", "b.pos": 2.0}, Mine()])
def test_positions_that_are_missing_are_nan(observation: object) -> None:
    """What an observation does not say is not taken for zero."""
    seen = positions(observation, KEYS)
    assert math.isnan(seen[0])


# -- what the numbers mean ------------------------------------------------------------------------------


def to_rad(spec: Any, model: RobotModel, row: list[float]) -> list[float]:
    """A row in rad, in the model's order, as the shield takes it in."""
    proposal = Proposal(np.array([row]), 0, 0, "test", 0)
    found: list[float] = Binding(spec, model.joints).bound(proposal).actions[0].tolist()
    return found


def calibration(folder: Path, **changes: object) -> Path:
    """A file as LeRobot writes it: 1024 to 3071 ticks for every motor but the gripper."""
    motors: dict[str, Any] = {
        name: {"id": k + 1, "drive_mode": 0, "homing_offset": 5, "range_min": 1024, "range_max": 3071}
        for k, name in enumerate(MOTORS)
    }
    motors["gripper"] |= {"range_min": 2000, "range_max": 2819}
    path = folder / "arm.json"
    path.write_text(json.dumps({**motors, **changes}))
    return path


def test_degrees() -> None:
    """Joints in degrees from the model's zero, a gripper of the model in percent of its range."""
    spec = arm_spec(WHOLE, MOTORS, zero={"elbow_flex": 10.0})
    found = to_rad(spec, WHOLE, [90.0, -45.0, 0.0, 1.0, 0.0, 50.0])
    middle = 0.5 * (WHOLE.limits.q_min[5] + WHOLE.limits.q_max[5])
    expected = [math.pi / 2, -math.pi / 4, math.radians(10), math.radians(1), 0.0, middle]
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_gripper_that_the_model_has_not_is_left_to_the_caller() -> None:
    """It is one of the columns, and no joint."""
    spec = arm_spec(ARM, MOTORS)
    assert spec.others == ("gripper",)
    assert len(to_rad(spec, ARM, [0.0] * 6)) == 5


def test_ranges_come_from_the_calibration(tmp_path: Path) -> None:
    """100 is half of the calibrated range from its middle: 2047 ticks of 4095 a turn are π·2047/4095 to each side."""
    spec = arm_spec(WHOLE, MOTORS, unit="range", calibration=calibration(tmp_path), zero={"wrist_roll": 3.0})
    found = to_rad(spec, WHOLE, [100.0, -100.0, 50.0, 0.0, 0.0, 100.0])
    half = math.pi * 2047 / 4095
    jaw = WHOLE.limits.q_min[5] + 2 * math.pi * 819 / 4095
    assert found == pytest.approx([half, -half, half / 2, 0.0, math.radians(3), jaw], abs=1e-12)


def test_a_motor_that_counts_backwards(tmp_path: Path) -> None:
    """``drive_mode`` 1 turns −100..100 and 0..100 round, as LeRobot does."""
    backwards = {"id": 1, "drive_mode": 1, "homing_offset": 0, "range_min": 1024, "range_max": 3071}
    path = calibration(tmp_path, shoulder_pan=backwards, gripper=backwards)
    spec = arm_spec(WHOLE, MOTORS, unit="range", calibration=path)
    plain = arm_spec(
        WHOLE, MOTORS, unit="range", calibration=calibration(tmp_path, gripper={**backwards, "drive_mode": 0})
    )
    found, expected = to_rad(spec, WHOLE, [80.0, 0, 0, 0, 0, 30.0]), to_rad(plain, WHOLE, [-80.0, 0, 0, 0, 0, 70.0])
    assert found == pytest.approx(expected, abs=1e-12)


def test_names_may_differ() -> None:
    """A motor is bound to the joint that it is said to be."""
    motors = ("m1", *MOTORS[1:])
    assert arm_spec(ARM, motors, joints={"m1": "shoulder_pan"}).joints == MOTORS


def test_numbers_of_another_unit_are_refused() -> None:
    """Encoder ticks are beyond what degrees can be; the spec says so."""
    spec = arm_spec(ARM, MOTORS)
    assert spec.misfit(np.array([[0.0, 10.0, -20.0, 30.0, 170.0, 99.0]])) == ""
    assert "normalised" in spec.misfit(np.array([[2048.0, 0.0, 0.0, 0.0, 0.0, 50.0]]))


@pytest.mark.parametrize(
    ("motors", "options", "words"),
    [
        (MOTORS, {"unit": "range"}, "calibration="),
        (MOTORS, {"unit": "rad"}, "'deg' or 'range'"),
        (("m1", *MOTORS[1:]), {}, "'m1' is no joint"),
        (MOTORS, {"joints": {"elbow": "elbow_flex"}}, "joints names elbow"),
        (MOTORS, {"zero": {"elbow": 3.0}}, "zero names elbow"),
        (MOTORS, {"zero": {"elbow_flex": math.nan}}, "elbow_flex must be a finite angle"),
        ((*MOTORS[:-1], "hand"), {"percent": ()}, "'hand' is no joint"),
    ],
)
def test_wrong_descriptions_are_refused(motors: tuple[str, ...], options: dict[str, Any], words: str) -> None:
    """Before anything moves, with what is wrong and what to say instead."""
    with pytest.raises(SpecError, match=words):
        arm_spec(ARM, motors, **options)


@pytest.mark.parametrize(
    "features", [{}, None, {"x.vel": float}, {"a.pos": float, ".pos": float}, {3: float}, ["a.pos"]]
)
def test_only_joint_positions_can_be_shielded(features: object) -> None:
    """Base velocities and end-effector actions are not taken for joints."""
    with pytest.raises(SpecError, match="joint positions"):
        motors_of(features)


# -- calibration files ----------------------------------------------------------------------------------


def test_ranges_of_a_file(tmp_path: Path) -> None:
    """What is read is what stands there."""
    found = read_calibration(calibration(tmp_path), MOTORS)
    assert (found["gripper"].low, found["gripper"].high, found["gripper"].inverted) == (2000, 2819, False)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The error says which file."""
    with pytest.raises(ConfigError, match=r"none\.json cannot be read: No such file"):
        read_calibration(tmp_path / "none.json", MOTORS)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """Neither is what cannot be opened."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_calibration(tmp_path, MOTORS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe{}", "not UTF-8 text: byte 0"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected an object of motors, got list"),
        (b"{}", "lacks shoulder_pan, .*no motors"),
        (b'{"shoulder_pan": 3}', "lacks shoulder_lift"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, words: str) -> None:
    """Each kind of damage is one clear error with the name of the file."""
    path = tmp_path / "arm.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"arm.json.*{words}"):
        read_calibration(path, MOTORS)


@pytest.mark.parametrize(
    "entry",
    [
        3,
        {},
        {"range_min": 10, "range_max": 10, "drive_mode": 0},
        {"range_min": 0, "range_max": 4096, "drive_mode": 0},
        {"range_min": 30, "range_max": 20, "drive_mode": 0},
        {"range_min": 10.5, "range_max": 20, "drive_mode": 0},
        {"range_min": 10, "range_max": 20, "drive_mode": 2},
        {"range_min": True, "range_max": 20, "drive_mode": 0},
    ],
)
def test_ranges_that_mean_nothing(tmp_path: Path, entry: object) -> None:
    """An empty, backward, fractional or too wide range is refused with the motor's name."""
    with pytest.raises(ConfigError, match="elbow_flex needs whole numbers"):
        read_calibration(calibration(tmp_path, elbow_flex=entry), MOTORS)
