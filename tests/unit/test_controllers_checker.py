"""The final checker: every limit, both sides, NaN, and states that are outside already."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.controllers.checker import Checker
from safeguard.controllers.viability import braking_point
from safeguard.core.curves import TorqueCurves, VelocityCurves
from safeguard.core.limits import Limits
from safeguard.core.types import Vector

DT = 0.002
LIMITS = Limits(
    np.array([-1.0, -2.0]), np.array([1.0, 2.0]), np.array([2.0, 3.0]), np.array([10.0, 20.0]),
    np.array([50.0, 5.0]), np.array([1e3, 1e3]), {},
)  # fmt: skip
A_BRAKE = np.array([5.0, 8.0])
CHECKER = Checker(LIMITS, ("a", "b"), A_BRAKE, DT)


def refusal(
    q: tuple[float, float] = (0.0, 0.0), v: tuple[float, float] = (0.0, 0.0), a: tuple[float, float] = (0.0, 0.0)
) -> str:
    """The checker's view."""
    return CHECKER.motion_refusal(np.array(q), np.array(v), np.array(a))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("q", "v", "a", "within", "what"),
    [
        (0.0, 0.0, 20.0 + 1e-6, 20.0, "b: acceleration 20, limit 20"),
        (0.0, 3.0 - 0.01, 5.0 + 1e-6, 5.0, "b: speed 3, limit 3"),
        (2.0 - 0.09 / 16 - 1e-5, 0.3, 1.0, -8.0, "stop"),
        (1.9999999, 0.0, 1.0, 0.0, "stop"),
    ],
)
def test_each_limit_is_checked_on_both_sides(
    sign: float, q: float, v: float, a: float, within: float, what: str
) -> None:
    """Just inside passes, just outside is refused with joint, quantity, value and limit."""
    assert refusal((0.0, sign * q), (0.0, sign * v), (0.0, sign * within)) == ""
    reason = refusal((0.0, sign * q), (0.0, sign * v), (0.0, sign * a))
    assert reason.startswith("b: ")
    assert what in reason
    if "stop" in what:
        assert ("upper" if sign > 0 else "lower") in reason


@pytest.mark.parametrize("where", [0, 1, 2])
def test_nan_anywhere_is_refused(where: int) -> None:
    """A NaN position, speed or acceleration never compares as within."""
    parts = [(0.0, 0.0), (0.0, 0.0), (0.0, 0.0)]
    parts[where] = (0.0, float("nan"))
    assert refusal(*parts) != ""


@given(q=st.floats(-1.5, 1.5), v=st.floats(-4.0, 4.0), excess=st.floats(1e-4, 100.0))
def test_full_braking_is_never_refused_and_worse_than_it_outside_always(q: float, v: float, excess: float) -> None:
    """Outside a limit the checker's bound is what full braking gives: no more, no less (law 4)."""
    q_, v_ = np.array([q, 0.0]), np.array([v, 0.0])
    brake = braking_point(v_, A_BRAKE, DT)
    assert CHECKER.motion_refusal(q_, v_, brake) == ""
    worse = brake + np.array([np.sign(v) * excess, 0.0])
    stop = abs(q + np.sign(q * v) * v * v / 10.0) if q * v > 0 else 0.0
    if q * v > 0 and (stop > 1.0 + 1e-3 or abs(q) > 1.0 + 1e-9) and abs(v) > 0.02:
        assert CHECKER.motion_refusal(q_, v_, worse) != ""


def test_torques_are_checked_one_by_one_and_along_a_path() -> None:
    """The limit itself passes; beyond it, NaN and infinity are refused with joint, value and limit."""
    assert CHECKER.torque_refusal(np.array([50.0, -5.0])) == ""
    assert CHECKER.torque_refusal(np.array([50.0, -5.001])) == "b: torque 5.001 N·m, limit 5"
    for bad in (np.nan, np.inf, -np.inf):
        assert CHECKER.torque_refusal(np.array([bad, 0.0])).startswith("a: torque")
    path = np.zeros((4, 2))
    assert CHECKER.torque_refusal(path) == ""
    path[2, 0] = -51.0
    assert CHECKER.torque_refusal(path) == "a: torque 51 N·m, limit 50"


def test_a_share_of_the_torque_can_be_asked_for() -> None:
    """Stops are checked with the share that leaves room for feedback."""
    tau: Vector = np.array([49.8, 0.0])
    assert CHECKER.torque_refusal(tau) == ""
    assert CHECKER.torque_refusal(tau, 0.99) == "a: torque 49.8 N·m, limit 49.5"


CURVES = VelocityCurves(
    np.array([1.5, 1.5]), np.array([0.3, 0.2]), np.array([30.0, 8.0]), np.array([-1.0, -2.0]), np.array([1.0, 2.0]), "t"
)
CURVED = Checker(replace(LIMITS, velocity_curves=CURVES), ("a", "b"), A_BRAKE, DT)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("joint", "room", "speed"),
    [
        (1, 0.005, 0.0),  # at b²/k: no speed at all
        (1, 0.05, np.sqrt(8.0 * 0.05) - 0.2),  # k ≤ 2 a_b: the curve itself
        (0, 0.0036, np.sqrt(30.0 * 0.0036) - 0.3),  # k > 2 a_b, before the tangent touches
        (0, 0.05, np.sqrt(10.0 * (0.05 - 0.09 / 20.0))),  # beyond: the tangent, below the curve's 0.92
        (0, 0.9, 1.5),
    ],
)
def test_a_velocity_curve_is_checked_on_both_sides_and_along_the_stop(
    sign: float, joint: int, room: float, speed: float
) -> None:
    """Speeds worked out by hand pass by 1e-6 below and are refused by 1e-6 above, at ``room`` from either edge."""
    edge = CURVES.upper_edge[joint]
    for off, passes in ((-1e-6, True), (1e-6, False)):
        q, v = np.zeros(2), np.zeros(2)
        v[joint] = sign * max(speed + off, 0.0)
        q[joint] = sign * (edge - room) - DT * v[joint]
        refused = CURVED.motion_refusal(q, v, np.zeros(2))
        assert (refused == "") == passes, refused
        if not passes:
            assert refused.startswith(f"{'ab'[joint]}: {'upper' if sign > 0 else 'lower'} velocity curve passed by ")
            assert CHECKER.motion_refusal(q, v, np.zeros(2)) == ""
            assert CURVED.motion_refusal(q, v, braking_point(v, A_BRAKE, DT)) == ""


MOTOR = TorqueCurves(np.array([[0.0, 1.0, 2.0], [0.0, 4.0, 5.0]]), np.array([[60.0, 50.0, 10.0], [4.0, 1.0, 1.0]]), "t")
MOTORS = Checker(replace(LIMITS, torque_curves=MOTOR), ("a", "b"), A_BRAKE, DT)


@pytest.mark.parametrize(
    ("tau", "v", "limit"),
    [
        ((30.0, 0.0), (1.5, 0.0), ""),
        ((30.1, 0.0), (1.5, 0.0), "a: torque 30.1 N·m at 1.5 rad/s, limit 30"),
        ((-30.1, 0.0), (-1.5, 0.0), "a: torque 30.1 N·m at -1.5 rad/s, limit 30"),
        ((-50.0, 5.0), (1.5, -4.0), ""),  # braking: tau_max
        ((-50.1, 0.0), (1.5, 0.0), "a: torque 50.1 N·m at 1.5 rad/s, limit 50"),
        ((0.0, 1.1), (0.0, 9.0), "b: torque 1.1 N·m at 9 rad/s, limit 1"),
        ((0.0, 1.0), (0.0, np.nan), "b: torque 1 N·m at nan rad/s, limit 5"),
    ],
)
def test_driving_torque_is_checked_against_the_speed(
    tau: tuple[float, float], v: tuple[float, float], limit: str
) -> None:
    """With the motion the polygon counts, against it the torque limit; a NaN speed is refused."""
    assert MOTORS.torque_refusal(np.array(tau), v=np.array(v)) == limit


def test_torque_without_a_speed_is_checked_as_at_the_highest() -> None:
    """Missing speeds cost torque, never safety; a share scales curve and limit; rows of speeds go with one torque."""
    assert MOTORS.torque_refusal(np.array([10.0, -1.0])) == ""
    assert MOTORS.torque_refusal(np.array([-10.1, 0.0])).startswith("a: torque 10.1 N·m at inf")
    assert MOTORS.torque_refusal(np.array([15.1, 0.0]), 0.5, np.array([1.5, 0.0])) != ""
    assert MOTORS.torque_refusal(np.array([14.9, 0.0]), 0.5, np.array([1.5, 0.0])) == ""
    both = np.array([[1.0, 0.0], [1.5, 0.0]])
    assert MOTORS.torque_refusal(np.array([40.0, 0.0]), v=both[:1]) == ""
    assert MOTORS.torque_refusal(np.array([40.0, 0.0]), v=both).startswith("a: torque 40 N·m at 1.5")
    assert MOTORS.torque_refusal(np.array([np.nan, 0.0]), v=both) != ""
