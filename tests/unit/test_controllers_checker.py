"""The final checker: every limit, both sides, NaN, and states that are outside already."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.controllers.checker import Checker
from safeguard.controllers.viability import braking_point
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
