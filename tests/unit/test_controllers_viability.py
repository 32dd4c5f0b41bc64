"""The formulas of viability at hand-computed points. The theorem is in tests/theory."""

from __future__ import annotations

import numpy as np
import pytest

from safeguard.controllers.viability import (
    Ceiling,
    JointBounds,
    braking_point,
    ceiling_speed,
    largest_acceleration,
    stop_position,
)
from safeguard.core.curves import VelocityCurves

ONE = np.ones(1)


@pytest.mark.parametrize(
    ("v", "expected"), [(1.0, -5.0), (-1.0, 5.0), (0.004, -2.0), (-0.004, 2.0), (0.0, 0.0), (0.01, -5.0)]
)
def test_the_braking_point_brakes_fully_but_never_reverses(v: float, expected: float) -> None:
    """−sgn(v) a_b, or −v/dt where that would turn the joint round within the period."""
    assert braking_point(v * ONE, 5.0 * ONE, 0.002)[0] == pytest.approx(expected)


@pytest.mark.parametrize(("v", "expected"), [(2.0, 1.4), (-2.0, 0.6), (0.0, 1.0)])
def test_a_stop_ends_after_v_squared_over_two_a(v: float, expected: float) -> None:
    """From q = 1 with a_b = 5: ±4/10."""
    assert stop_position(ONE, v * ONE, 5.0 * ONE)[0] == pytest.approx(expected)


def test_the_largest_acceleration_uses_the_room_exactly() -> None:
    """With it the tick and the stop after it end exactly at the edge, for slow, fast and inward motion."""
    a_brake, dt = 5.0, 0.002
    for room, v in ((0.1, 0.5), (0.1, 0.99), (0.5, -0.3), (1e-4, 0.0), (1e-6, 1e-3)):
        a = largest_acceleration(room, v, a_brake, dt)
        w = v + a * dt
        assert w >= 0.0
        assert (v + w) * dt / 2.0 + w * w / (2.0 * a_brake) == pytest.approx(room, rel=1e-9)


def test_too_little_room_turns_the_joint_round_inside_the_period() -> None:
    """With 1 µm left at 4 mm/s the vertex v²/(2|a|) is the room; with none left there is no such acceleration."""
    a = largest_acceleration(1e-6, 0.004, 5.0, 0.002)
    assert 0.004**2 / (2.0 * -a) == pytest.approx(1e-6)
    assert largest_acceleration(0.0, 0.004, 5.0, 0.002) == -np.inf
    inwards = largest_acceleration(-1e-3, -0.2, 5.0, 0.002)
    assert -0.2 * 0.002 + inwards * 0.002**2 / 2.0 == pytest.approx(-1e-3)


def test_shares_scale_the_caps_only() -> None:
    """Far from the limits the interval is ±share a_max, cut where the share of the speed would be passed."""
    bounds = JointBounds(-9.0 * ONE, 9.0 * ONE, 2.0 * ONE, 10.0 * ONE, 5.0 * ONE, 0.002)
    lower, upper = bounds(0.0 * ONE, 0.0 * ONE, 0.0 * ONE, 1.0, 0.3)
    assert (lower[0], upper[0]) == pytest.approx((-3.0, 3.0))
    lower, upper = bounds(0.0 * ONE, 0.999 * ONE, -5.0 * ONE, 0.5, 1.0)
    assert upper[0] == pytest.approx(0.5)
    assert lower[0] == pytest.approx(-10.0)
    lower, upper = bounds(0.0 * ONE, 1.5 * ONE, -5.0 * ONE, 0.5, 1.0)
    assert upper[0] == pytest.approx(-5.0)  # above its share of speed: at least full braking


@pytest.mark.parametrize("k", [34.0, 8.0])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_speed_under_the_ceiling_is_exact_where_the_period_ends(k: float, share: float) -> None:
    """W = share C(x − (v + w) dt/2) with C as in the module's text, from the edge to where v₀ counts."""
    v0, b, a, dt = 2.6, 0.3, 5.0, 0.002
    for x in (0.01, 0.03, 0.1, 0.3, 2.0):
        w = ceiling_speed(x, 0.2, v0, k, b, a, dt, share)
        end = x - 0.5 * (0.2 + w) * dt
        curve = max(0.0, np.sqrt(k * end) - b)
        if k > 2.0 * a and np.sqrt(k * end) * (k - 2.0 * a) > k * b:
            assert np.sqrt(2.0 * a * (end - b * b / (k - 2.0 * a))) <= curve
            curve = np.sqrt(2.0 * a * (end - b * b / (k - 2.0 * a)))
        assert w == pytest.approx(share * min(v0, curve), rel=1e-9)
    assert ceiling_speed(b * b / k, 0.0, v0, k, b, a, dt, share) == 0.0
    assert ceiling_speed(-1.0, 0.5, v0, k, b, a, dt, share) == 0.0


def test_without_curves_the_bounds_are_what_they_were_bit_for_bit() -> None:
    """No curves, no ceiling; a ceiling that is never near changes no bit either, and one that is near does."""
    n, rng = 50, np.random.default_rng(0)
    ones = np.ones(n)
    limits = (-2.0 * ones, 2.0 * ones, 2.0 * ones, 10.0 * ones, 5.0 * ones, 0.002)
    assert Ceiling.of(None, 5.0 * ones) is None
    high = VelocityCurves(9.0 * ones, 0.0 * ones, 1e3 * ones, -9.0 * ones, 9.0 * ones, "test")
    low = VelocityCurves(0.5 * ones, 0.1 * ones, 8.0 * ones, -1.0 * ones, 1.0 * ones, "test")
    q, v = rng.uniform(-1.9, 1.9, n), rng.uniform(-1.0, 1.0, n)
    brake = braking_point(v, 5.0 * ones, 0.002)
    plain = JointBounds(*limits)(q, v, brake)
    far = JointBounds(*limits, Ceiling.of(high, 5.0 * ones))(q, v, brake)
    near = JointBounds(*limits, Ceiling.of(low, 5.0 * ones, margin=0.002))
    assert all(np.array_equal(x, y) for x, y in zip(plain, far, strict=True))
    assert not np.array_equal(plain[1], near(q, v, brake)[1])
    assert near.q_max[0] == pytest.approx(1.0 - 0.002 - 0.01 / 8.0)
    assert near.q_min[0] == pytest.approx(-1.0 + 0.002 + 0.01 / 8.0)
