from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from safeguard.core.certificate import Certificate, CertificateError, Uncertainty
from safeguard.core.robot import RobotModel
from tests.unit.certificate_support import certificate
from tests.unit.controllers_support import panda, tiny_arm


def test_json_round_trip(tmp_path: Path) -> None:
    """What is saved is what is loaded, digest included, and every key of a number names its unit."""
    file = tmp_path / "panda.json"
    certificate().save(file)
    assert Certificate.load(file) == certificate()
    joint = json.loads(file.read_text())["joints"][0]
    assert {key.rsplit("_", 1)[-1] for key in joint if key != "joint"} == {"radps", "share", "radps2", "nm", "rad"}


def test_columns_are_the_joints() -> None:
    """The arrays that the filter takes are read-only and in joint order."""
    made = certificate()
    for array, name in (
        (made.speed, "speed_radps"),
        (made.deceleration, "deceleration_radps2"),
        (made.torque_reserve, "disturbance_nm"),
        (made.position_margin, "position_margin_rad"),
        (made.path_margin, "path_margin_rad"),
        (made.velocity_margin, "velocity_margin_radps"),
        (made.acceleration_error, "disturbance_radps2"),
    ):
        assert array.tolist() == [getattr(joint, name) for joint in made.joints]
        assert not array.flags.writeable
    assert tuple(joint.joint for joint in made.joints) == panda().joints


@pytest.mark.parametrize(("old", "new"), [('"delay_ticks": 1', '"delay_ticks": 0'), ('"dt_s": 0.002', '"dt_s": 0.001')])
def test_an_edited_file_is_refused(old: str, new: str, tmp_path: Path) -> None:
    """A changed value no longer fits the digest."""
    file = tmp_path / "panda.json"
    certificate().save(file)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(CertificateError, match="does not fit its content"):
        Certificate.load(file)


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"version": 2}'])
def test_a_damaged_file_is_refused(content: str, tmp_path: Path) -> None:
    """A file that is no certificate is named, with what to do."""
    file = tmp_path / "panda.json"
    file.write_text(content)
    with pytest.raises(CertificateError, match=r"panda\.json: damaged(.|\n)*robot certify"):
        Certificate.load(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(CertificateError, match="nowhere"):
        Certificate.load(tmp_path / "nowhere.json")


def test_its_own_robot_period_and_delay_are_accepted() -> None:
    """The robot itself, and the robot with a known load within the declared range."""
    certificate().check(panda(), 0.002, 1)
    certificate().check(panda().with_payload(0.1, [0.0, 0.0, 0.0]), 0.002, 1)
    certificate().check(panda().with_payload(0.1, [0, 0, 0]).with_payload(0.1, [0.01, 0, 0]), 0.002, 1)


def test_obstacles_do_not_matter() -> None:
    """What the robot knows of its surroundings changes nothing about its braking; a tool does."""
    wall = {"kind": "half_space", "name": "floor", "normal": [0, 0, 1], "offset_m": -0.5}
    certificate().check(panda().with_obstacles([wall]), 0.002, 1)
    with pytest.raises(CertificateError, match="without it, not for a tool"):
        certificate().check(panda().with_tool(0.1, [0.0, 0.0, 0.0]), 0.002, 1)


def heavier(mass: float, x: float = 0.0) -> RobotModel:
    """The Panda with a load."""
    return panda().with_payload(mass, [x, 0.0, 0.0])


@pytest.mark.parametrize(
    ("robot", "dt", "delay", "words"),
    [
        (lambda: heavier(0.3), 0.002, 1, "payload_kg = 0 to 0.2, not for 0.3 kg"),
        (lambda: heavier(0.1, 0.05), 0.002, 1, "payload_com_m = 0.02, not for a load at"),
        (lambda: panda().with_payload(0.1, [0, 0, 0], [[1e-3, 0, 0], [0, 1e-3, 0], [0, 0, 1e-3]]), 0.002, 1, "inertia"),
        (panda, 0.001, 1, "dt_s = 0.002, not for 0.001"),
        (panda, 0.002, 0, "delay_ticks = 1, not for 0"),
    ],
)
def test_a_foreign_one_is_refused(robot: Callable[[], RobotModel], dt: float, delay: int, words: str) -> None:
    """Another load, period or delay than it was made for: an error with both values."""
    with pytest.raises(CertificateError, match=words):
        certificate().check(robot(), dt, delay)


def test_another_robot_is_refused(tmp_path: Path) -> None:
    """Another arm, with or without a load, is told by its digest."""
    other = tiny_arm(tmp_path)
    for robot in (other, other.with_payload(0.1, [0.0, 0.0, 0.0])):
        with pytest.raises(CertificateError, match="made for robot 'panda'"):
            certificate().check(robot, 0.002, 1)


def test_numbers_that_contradict_each_other_are_refused() -> None:
    """Authority minus disturbance is what is left; a bound above epsilon is no certificate."""
    data = json.loads(certificate().model_dump_json())
    data["joints"][0]["remaining_nm"] += 1.0
    with pytest.raises(ValidationError, match="remaining_nm is not authority_nm minus disturbance_nm"):
        Certificate.model_validate(data)
    data = json.loads(certificate().model_dump_json())
    data["statement"]["bound"] = 0.5
    with pytest.raises(ValidationError, match=r"bound 0\.5 is above epsilon"):
        Certificate.model_validate(data)
    data = json.loads(certificate().model_dump_json())
    data["joints"][2]["velocity_margin_radps"] = 99.0
    with pytest.raises(ValidationError, match="leaves nothing of the speed envelope"):
        Certificate.model_validate(data)


def test_uncertainty_of_a_robot() -> None:
    """One number serves all joints; without any, friction is 1 % of the torque limits and nothing pushes."""
    default = Uncertainty.of(panda())
    assert default.friction_nm == pytest.approx(0.01 * panda().limits.tau_max)
    assert default.external_torque_nm == (0.0,) * 7
    assert Uncertainty.of(panda(), friction_nm=0.5, mass_error_share=None).friction_nm == (0.5,) * 7


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"friction_nm": [0.1, 0.2]}, "friction_nm: 2 values for 7 joints"),
        ({"friction_nm": -1.0}, "friction_nm"),
        ({"mass_error_share": 1.5}, r"mass_error_share = 1\.5"),
        ({"payload_kg": (2.0, 1.0)}, "the first must not exceed the second"),
        ({"payload_kg": (0.0, float("nan"))}, "payload_kg"),
        ({"mass": 1.0}, "mass = 1.0: Extra inputs"),
    ],
)
def test_uncertainty_that_makes_no_sense(declared: dict[str, object], words: str) -> None:
    """The error names the key and the value."""
    with pytest.raises(CertificateError, match=words):
        Uncertainty.of(panda(), **declared)
