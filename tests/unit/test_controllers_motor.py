"""Torque bounds that fall with speed: those of the coming period, and those of a whole stop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from safeguard.controllers.motor import TorqueBounds
from safeguard.core.curves import TorqueCurves
from safeguard.core.limits import Limits

DT = 0.002
PLAIN = Limits(
    np.array([-1.0, -2.0]), np.array([1.0, 2.0]), np.array([2.0, 3.0]), np.array([10.0, 20.0]),
    np.array([50.0, 5.0]), np.array([1e3, 1e3]), {},
)  # fmt: skip
CURVES = TorqueCurves(
    np.array([[0.0, 1.0, 2.0], [0.0, 4.0, 5.0]]), np.array([[60.0, 50.0, 10.0], [4.0, 1.0, 1.0]]), "test"
)
LIMITS = replace(PLAIN, torque_curves=CURVES)
speeds = st.floats(-6.0, 6.0)


@given(speeds, speeds, st.lists(st.floats(-1.0, 1.0), min_size=2, max_size=2))
def test_what_is_allowed_for_a_period_is_allowed_at_every_speed_in_it(a: float, b: float, part: list[float]) -> None:
    """The bounds lie within the curve's limits at every speed that ``a_max`` reaches in one period."""
    v = np.array([a, b])
    low, high = TorqueBounds(LIMITS, 0.99, DT)(v)
    lowest, highest = CURVES.limits(v + np.array(part) * LIMITS.a_max * DT, LIMITS.tau_max)
    assert (low >= 0.99 * lowest - 1e-9).all()
    assert (high <= 0.99 * highest + 1e-9).all()


@given(speeds, st.floats(0.0, 1.0))
def test_what_is_allowed_along_a_stop_is_allowed_at_every_speed_of_it(v: float, part: float) -> None:
    """Either sign, from the first speed down to rest; and it is the limit at the first speed, no less."""
    if v == 0.0:  # at rest ``tau_max`` alone counts, whatever the polygon's first torque is
        np.testing.assert_array_equal(TorqueBounds(LIMITS, 1.0, DT).along(np.zeros(2)), LIMITS.tau_max)
        return
    v0 = np.array([v, v])
    allowed = TorqueBounds(LIMITS, 1.0, DT).along(v0)
    for w in (part * v0, -part * v0):
        low, high = CURVES.limits(w, LIMITS.tau_max)
        assert (allowed <= np.minimum(-low, high) + 1e-9).all()
    np.testing.assert_allclose(allowed, np.minimum(CURVES.driving(np.abs(v0)), LIMITS.tau_max), rtol=1e-12)


def test_braking_keeps_the_whole_torque_and_no_curve_changes_nothing() -> None:
    """At 1.5 rad/s: 30 N·m less one period's worth forwards, 50 backwards; without curves ± the share, at any speed."""
    low, high = TorqueBounds(LIMITS, 1.0, DT)(np.array([1.5, -4.5]))
    np.testing.assert_allclose(high, [30.0 - 40.0 * 0.02, 5.0])
    np.testing.assert_allclose(low, [-50.0, -1.0])
    plain = TorqueBounds(PLAIN, 0.99, DT)
    for v in (np.zeros(2), np.array([2.0, -3.0])):
        low, high = plain(v)
        np.testing.assert_array_equal(high, 0.99 * PLAIN.tau_max)
        np.testing.assert_array_equal(low, -high)
        np.testing.assert_array_equal(plain.along(v), high)
