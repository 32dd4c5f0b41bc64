"""Limits that depend on the state: the published formula, and torque against speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from safeguard.core.curves import TorqueCurveFile, VelocityCurveFile, torque_curves, velocity_curves
from safeguard.core.errors import LimitError
from tests.unit.controllers_support import ARM_LIMITS, tiny_arm

# Franka Research 3, joints 1 and 4: libfranka, include/franka/rate_limiting.h.
FR3: dict[str, Any] = {
    "speed_radps": [2.62, 2.62],
    "offset_radps": [0.30, 0.30],
    "slope_radps2": [12.0, 8.0],
    "lower_edge_rad": [-2.7501, -3.0481],
    "upper_edge_rad": [2.7501, -0.1458],
    "source": "libfranka, include/franka/rate_limiting.h",
}
MOTOR: dict[str, Any] = {
    "points_radps_nm": [[[0.0, 60.0], [1.0, 60.0], [2.0, 10.0]], [[0.0, 30.0], [4.0, 0.0]]],
    "source": "data sheet",
}
JOINTS = ("shoulder", "elbow")


@pytest.mark.parametrize(
    ("q", "upper", "lower"),
    [
        ([0.0, -1.5], [2.62, 2.62], [-2.62, -2.62]),
        ([2.5, -0.3], [np.sqrt(12.0 * 0.2501) - 0.3, np.sqrt(8.0 * 0.1542) - 0.3], [-2.62, -2.62]),
        ([-2.7, -3.0], [2.62, 2.62], [0.3 - np.sqrt(12.0 * 0.0501), 0.3 - np.sqrt(8.0 * 0.0481)]),
        ([2.745, -0.14], [0.0, 0.0], [-2.62, -2.62]),
        ([9.0, 9.0], [0.0, 0.0], [-2.62, -2.62]),
    ],
    ids=["middle", "near the top", "near the bottom", "within the offset", "outside"],
)
def test_speeds_are_those_of_the_published_formula(q: list[float], upper: list[float], lower: list[float]) -> None:
    """Both bounds at five configurations of the Franka Research 3, worked out by hand from the formula."""
    curves = velocity_curves(VelocityCurveFile.model_validate(FR3), JOINTS)
    assert curves is not None
    np.testing.assert_allclose(curves.upper(np.array(q)), upper, atol=1e-12)
    np.testing.assert_allclose(curves.lower(np.array(q)), lower, atol=1e-12)
    path = np.array([q, [0.0, -1.5]])
    np.testing.assert_array_equal(curves.upper(path)[0], curves.upper(np.array(q)))


@given(st.lists(st.floats(-4.0, 4.0), min_size=2, max_size=2))
def test_braking_at_half_the_slope_follows_the_curve(q: list[float]) -> None:
    """From any speed on the curve plus the offset, a deceleration of k/2 stops at the edge: v² / k ≤ room."""
    curves = velocity_curves(VelocityCurveFile.model_validate(FR3), JOINTS)
    assert curves is not None
    room = curves.upper_edge - np.array(q)
    top = curves.upper(np.array(q))
    assert (((top > 0.0) <= (room > 0.0)) & (top <= curves.speed)).all()
    fast = np.where(top > 0.0, top + curves.offset, 0.0)
    assert (np.where(top < curves.speed, fast**2 / curves.slope, 0.0) <= np.maximum(room, 0.0) + 1e-9).all()


def test_torque_falls_with_speed_in_its_direction_only() -> None:
    """Interpolated between the points, constant after the last; against the motion and at rest the full limit."""
    curves = torque_curves(TorqueCurveFile.model_validate(MOTOR), JOINTS)
    assert curves is not None
    tau_max = np.array([50.0, 40.0])
    for v, low, high in (
        ([0.0, 0.0], [-50.0, -40.0], [50.0, 40.0]),
        ([1.5, 1.0], [-50.0, -40.0], [35.0, 22.5]),
        ([-1.5, -1.0], [-35.0, -22.5], [50.0, 40.0]),
        ([0.5, -4.0], [-50.0, 0.0], [50.0, 40.0]),
        ([7.0, 9.0], [-50.0, -40.0], [10.0, 0.0]),
    ):
        found = curves.limits(np.array(v), tau_max)
        np.testing.assert_allclose(found[0], low)
        np.testing.assert_allclose(found[1], high)


@given(st.lists(st.floats(-20.0, 20.0), min_size=2, max_size=2))
def test_braking_torque_is_never_less(v: list[float]) -> None:
    """At any speed the torque against the motion is the full limit, and zero torque is always allowed."""
    curves = torque_curves(TorqueCurveFile.model_validate(MOTOR), JOINTS)
    assert curves is not None
    low, high = curves.limits(np.array(v), np.array([50.0, 40.0]))
    assert (low <= 0.0).all()
    assert (high >= 0.0).all()
    against = np.where(np.array(v) > 0.0, -low, high)
    np.testing.assert_array_equal(against, [50.0, 40.0])


@pytest.mark.parametrize(
    "points",
    [
        [[[0.0, 1.0]]],
        [[[0.1, 1.0], [1.0, 0.5]]],
        [[[0.0, 1.0], [0.0, 0.5]]],
        [[[0.0, 1.0], [1.0, 1.5]]],
        [[[0.0, 1.0], [1.0, -0.5]]],
        [[[0.0, 0.0], [1.0, 0.0]]],
        [[[0.0, 1.0], [1.0, np.nan]]],
    ],
    ids=["one point", "not from rest", "same speed", "growing", "negative", "no torque", "nan"],
)
def test_a_torque_curve_that_makes_no_sense_is_refused(points: Any) -> None:
    """The points are in the message."""
    with pytest.raises(ValidationError):
        TorqueCurveFile.model_validate({"points_radps_nm": points, "source": "x"})


@pytest.mark.parametrize("key", ["speed_radps", "offset_radps", "slope_radps2", "lower_edge_rad"])
def test_a_velocity_curve_that_makes_no_sense_names_the_joint(key: str) -> None:
    """Negative speeds, offsets and slopes, and edges in the wrong order."""
    wrong = 9.0 if key == "lower_edge_rad" else -1.0
    with pytest.raises(LimitError, match="'elbow'"):
        velocity_curves(VelocityCurveFile.model_validate({**FR3, key: [FR3[key][0], wrong]}), JOINTS)
    with pytest.raises(LimitError, match=f"velocity_curve.{key}: 1 values for 2 joints"):
        velocity_curves(VelocityCurveFile.model_validate({**FR3, key: [1.0]}), JOINTS)
    with pytest.raises(LimitError, match="2 curves for 1 joints"):
        torque_curves(TorqueCurveFile.model_validate(MOTOR), ("shoulder",))


def test_a_robot_file_carries_them_and_the_digest_knows(tmp_path: Path) -> None:
    """Absent they are None and change nothing; present they have their source, and another number is another robot."""
    plain = tiny_arm(tmp_path)
    assert plain.limits.velocity_curves is None
    assert plain.limits.torque_curves is None
    limits = {**ARM_LIMITS["limits"], "velocity_curve": FR3, "torque_curve": MOTOR}
    robot = tiny_arm(tmp_path, limits={**ARM_LIMITS, "limits": limits})
    assert robot.limits.velocity_curves is not None
    assert robot.limits.velocity_curves.source.startswith("libfranka")
    assert robot.limits.torque_curves is not None
    other = {**limits, "velocity_curve": {**FR3, "slope_radps2": [12.0, 8.000001]}}
    digests = {plain.digest, robot.digest, tiny_arm(tmp_path, limits={**ARM_LIMITS, "limits": other}).digest}
    assert len(digests) == 3
    assert type(robot).from_source(robot.source).digest == robot.digest
