"""Commands in flight: what was given and has not acted yet."""

from __future__ import annotations

import numpy as np
import pytest

from safeguard.controllers.dynamics import Dynamics
from safeguard.controllers.filter import SafetyFilter
from safeguard.controllers.prediction import InFlight
from safeguard.core.types import RobotState, Vector
from tests.unit.controllers_support import DT, DT_NS, QUICK, panda

HOME = panda().home


def state(k: int) -> RobotState:
    """At rest at home in tick ``k``."""
    return RobotState(HOME, np.zeros(7), k * DT_NS)


def pushes(scale: float) -> Vector:
    """Gravity and a push on the last joint, N·m."""
    dynamics = Dynamics(panda())
    dynamics.update(HOME, np.zeros(7))
    push: Vector = dynamics.h + np.array([0, 0, 0, 0, 0, 0, scale])
    return push


def test_a_command_acts_on_the_prediction_of_the_next_tick_not_on_its_own() -> None:
    """With one period of delay the state of tick 1 is predicted under the command of tick 0."""
    flight = InFlight(Dynamics(panda()), 1, DT)
    assert flight.predicted(state(0)).v[6] == 0.0
    flight.given(pushes(1.0))
    assert flight.predicted(state(0)).v[6] == 0.0
    later = flight.predicted(state(1))
    assert later.v[6] > 0.0
    assert later.t == 2 * DT_NS


def test_the_last_command_of_a_tick_is_the_one_that_was_sent() -> None:
    """A command that another replaces in the same tick, as when a record fails, never acts."""
    replaced, plain = (InFlight(Dynamics(panda()), 2, DT) for _ in range(2))
    for k in range(4):
        for flight in (replaced, plain):
            flight.predicted(state(k))
        replaced.given(pushes(-5.0))
        replaced.predicted(state(k))
        replaced.given(pushes(1.0 + k))
        plain.given(pushes(1.0 + k))
    a, b = replaced.predicted(state(4)), plain.predicted(state(4))
    assert a.v == pytest.approx(b.v, abs=0.0)
    assert a.q == pytest.approx(b.q, abs=0.0)


def test_ticks_without_a_state_are_ticks() -> None:
    """Two commands given without a measurement both act on what is predicted after them."""
    flight, known = (InFlight(Dynamics(panda()), 2, DT) for _ in range(2))
    for k in range(2):
        flight.begin(None)
        flight.given(pushes(1.0 + k))
        known.predicted(state(k))
        known.given(pushes(1.0 + k))
    assert flight.predicted(state(2)).v == pytest.approx(known.predicted(state(2)).v, abs=0.0)


def test_the_filter_tells_a_second_answer_in_a_tick_from_a_second_tick() -> None:
    """A command that another replaced in its tick leaves no trace in the prediction of the next."""
    twice, once = (SafetyFilter(panda(), DT, QUICK, delay_ticks=1) for _ in range(2))
    twice(state(0), acceleration=np.full(7, 2.0))
    ends: list[Vector] = []
    for filt in (twice, once):
        for k in range(2):
            filt(state(k), acceleration=np.zeros(7))
        assert filt.plan is not None
        ends.append(filt.plan.v0)
    assert ends[0] == pytest.approx(ends[1], abs=0.0)
