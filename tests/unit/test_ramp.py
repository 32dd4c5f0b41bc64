"""The first motion after a start, a reset or a change of hands gathers force gradually, and braking is left alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.config import PolicyConfig, ShieldConfig
from safeguard.core.enums import Authority, NominalKind, Reference
from safeguard.core.types import ActionSpec, Envelope, Nominal, Observation, RobotState, Vector
from safeguard.ramp import Ramp
from tests.laws.lab import Lab, panda

SECOND = 1_000_000_000


def gained(before: Vector, after: Vector, dt: float) -> Vector:
    """By how much each joint's speed grew, rad/s²; a joint that slows down has a negative one."""
    return np.asarray((np.abs(after) - np.abs(before)) / dt)


@given(
    seconds=st.floats(0.01, 5.0), first=st.floats(0.01, 1.0), times=st.lists(st.integers(0, 10 * SECOND), min_size=2)
)
def test_the_share_grows_from_the_first_to_all(seconds: float, first: float, times: list[int]) -> None:
    """At once the first share, after the ramp the envelope itself, and never less than before."""
    ramp, times = Ramp(seconds, first), sorted(times)
    shares = [ramp.within(Envelope(), t).acceleration for t in times]
    assert shares[0] == pytest.approx(first)
    assert all(a <= b <= 1.0 for a, b in pairwise(shares))
    assert ramp.within(Envelope(), times[0] + round(seconds * SECOND) + 1).acceleration == 1.0


def test_the_mode_s_envelope_stays_where_it_is_tighter() -> None:
    """The ramp only takes: speed and what the mode allows stay as they are."""
    ramp, mode = Ramp(1.0, 0.5), Envelope(0.3, 0.2, away=True)
    assert ramp.within(mode, 0) is mode


def test_no_ramp() -> None:
    """Zero seconds change nothing."""
    envelope = Envelope()
    assert Ramp(0.0, 0.1).within(envelope, 0) is envelope


def eager(seen: Observation) -> Vector:
    """A velocity policy that wants a tenth of every speed limit at once, up or down."""
    speeds = (0.1 + 1e-12 * seen.state.t) * panda().limits.v_max
    speeds[1] *= -1.0
    return np.asarray([speeds])


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_a_start_is_no_jolt(seconds: float) -> None:
    """With the ramp no joint gains speed faster than the share for that time; without it the same policy does."""
    config = ShieldConfig(policy=PolicyConfig(ramp_s=seconds, ramp_from=0.1))
    lab = Lab(eager, config=config, action=ActionSpec(panda().joints, "rad/s", Reference.VELOCITY, 10.0)).start()
    a_max, since = panda().limits.a_max, lab.now
    worst = 0.0
    for _ in range(100):
        before, t = lab.v.copy(), lab.now
        decision = lab.tick()
        assert decision.authority is Authority.POLICY
        share = min(1.0, 0.1 + 0.9 * (t - since + 2 * lab.period * SECOND) / (0.3 * SECOND))
        worst = max(worst, float((gained(before, lab.v, lab.period) / (share * a_max)).max()))
    assert (worst <= 1.01) == (seconds > 0.0)
    assert (lab.v / eager(lab.observe())[0]).min() > 0.5, "it moves all the same"


def test_braking_is_left_alone() -> None:
    """A moving joint that is asked to stop at the start of a ramp is braked as hard as without one."""
    slowed: list[Vector] = []
    for envelope in (Envelope(), Envelope(acceleration=0.1)):
        filt, q, v = Lab().filter, panda().home, 0.3 * panda().limits.v_max
        filt.reset(RobotState(q, v, 0))
        result = filt.apply(RobotState(q, v, 0), Nominal(NominalKind.VELOCITY, np.zeros(panda().n)), envelope)
        slowed.append(result.acceleration)
    hard = full_brake()
    assert (slowed[1] <= np.maximum(slowed[0], -hard) + 1e-6).all()


def full_brake() -> Vector:
    """What the stop of the same state brakes with, rad/s²."""
    filt, q, v = Lab().filter, panda().home, 0.3 * panda().limits.v_max
    filt.reset(RobotState(q, v, 0))
    return -np.asarray(filt.backup(RobotState(q, v, 0)).acceleration)
