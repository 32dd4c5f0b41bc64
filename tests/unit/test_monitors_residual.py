from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.enums import FilterStatus
from safeguard.core.errors import ConfigError
from safeguard.core.types import (
    NS_PER_S,
    Decision,
    Evidence,
    PositionCommand,
    TerminalStop,
    TorqueCommand,
    VelocityCommand,
    frozen_array,
)
from safeguard.monitors import proof
from safeguard.monitors.residual import ModelResidual

A_MAX = np.array([10.0, 5.0])
PERIOD = 0.002
STEP = round(PERIOD * NS_PER_S)


def monitor(tau_s: float = 0.0, delay_ticks: int = 0) -> ModelResidual:
    """For two joints, unsmoothed."""
    return ModelResidual(("hip", "knee"), A_MAX, tau_s=tau_s, delay_ticks=delay_ticks)


def told(a: tuple[float, float], now: int = 0) -> Decision:
    """A decision that predicts ``a``."""
    return proof.decision(2, now, PERIOD, acceleration=np.array(a))


def seen(v: tuple[float, float], now: int, previous: Decision | None) -> Evidence:
    """Two joints at speeds ``v``."""
    return proof.standing(2, now, v=np.array(v), previous=previous)


def pair(residual: ModelResidual, previous: Decision | None, v: tuple[float, float] = (0.02, 0.0)) -> float:
    """The score after two ticks, from rest to ``v``."""
    residual.score(seen((0.0, 0.0), 0, previous))
    return residual.score(seen(v, STEP, previous)).value


def test_it_is_the_share_of_the_limit_that_the_model_missed() -> None:
    """From rest to 0.02 rad/s in 2 ms is 10 rad/s²; with 8 predicted and a limit of 10 that is 0.2."""
    residual = monitor()
    assert pair(residual, told((8.0, 0.0))) == pytest.approx(0.2)
    score = residual.score(seen((0.02, 0.01), 2 * STEP, told((0.0, 2.0))))
    assert score.value == pytest.approx(0.6)
    assert "knee" in score.detail


@given(st.lists(st.floats(-10.0, 10.0), min_size=2, max_size=20))
def test_a_body_that_obeys_scores_nothing(accelerations: list[float]) -> None:
    """Whatever is predicted, if it happens the score stays 0."""
    residual, v, previous = monitor(), 0.0, None
    for k, a in enumerate(accelerations):
        assert residual.score(seen((v, 0.0), k * STEP, previous)).value == 0.0
        previous, v = told((a, 0.0), k * STEP), v + a * PERIOD


@pytest.mark.parametrize("period", [0.001, 0.002, 0.005])
def test_a_lasting_error_reaches_63_percent_after_tau(period: float) -> None:
    """An error of half the limit scores 0.5 (1 − 1/e) after tau, whatever the period."""
    step, residual = round(period * NS_PER_S), monitor(tau_s=0.05)
    previous = proof.decision(2, 0, period)
    found = [residual.score(seen((5.0 * k * period, 0.0), k * step, previous)) for k in range(1 + round(0.05 / period))]
    assert found[-1].value == pytest.approx(0.5 * (1.0 - math.exp(-1.0)), rel=1e-9)


def test_errors_of_the_speed_measurement_cancel() -> None:
    """±0.01 rad/s from tick to tick is an acceleration of 10 rad/s² up and down; smoothed little of it is left."""
    scores: dict[float, float] = {}
    for tau in (0.0, 0.05):
        residual = monitor(tau)
        found = [residual.score(seen((0.01 * (-1) ** k, 0.0), k * STEP, told((0.0, 0.0)))) for k in range(200)]
        scores[tau] = max(score.value for score in found)
    assert scores[0.0] == pytest.approx(1.0)
    assert scores[0.05] < 0.05


def test_the_first_tick_is_not_evaluated() -> None:
    """Neither without a decision nor without an earlier measurement."""
    assert monitor().score(seen((9.0, 9.0), 0, told((1.0, 1.0)))).value == 0.0
    assert pair(monitor(), None) == 0.0


def unlike(kind: str) -> Decision:
    """A decision whose command did something else than its filter predicts, or nothing known."""
    decision = told((8.0, 0.0))
    other = frozen_array(np.ones(2))
    match kind:
        case "terminal stop":
            return replace(decision, command=TerminalStop("", 0, 0))
        case "raw proposal":
            return replace(decision, filter=replace(decision.filter, status=FilterStatus.BYPASSED))
        case "monitor only":
            return replace(decision, command=TorqueCommand(other, 0, NS_PER_S, 0))
        case "velocity drives":
            return replace(decision, command=VelocityCommand(other, 0, NS_PER_S, 0))
        case "no reference":
            return replace(decision, command=PositionCommand(other, 0, NS_PER_S, 0))
        case _:
            return replace(decision, command=TorqueCommand(decision.filter.torque, 0, STEP - 1, 0))


UNLIKE = ("terminal stop", "raw proposal", "monitor only", "velocity drives", "no reference", "ran out")


@pytest.mark.parametrize("kind", UNLIKE)
def test_what_was_not_predicted_is_not_evaluated_and_forgets(kind: str) -> None:
    """After such a tick the score is 0, and the error from before it is gone."""
    residual = monitor(tau_s=0.05)
    assert pair(residual, told((8.0, 0.0))) > 0.0
    assert residual.score(seen((0.02, 0.0), 2 * STEP, unlike(kind))).value == 0.0
    assert residual.score(seen((0.036, 0.0), 3 * STEP, told((8.0, 0.0)))).value == 0.0


@pytest.mark.parametrize("drive", ["torque", "position"])
def test_a_command_with_the_filters_numbers_is_the_filters(drive: str) -> None:
    """A copy of the torque, or of the reference of position drives, counts as what was predicted."""
    decision = told((8.0, 0.0))
    copy = frozen_array(np.zeros(2))
    if drive == "torque":
        decision = replace(decision, command=TorqueCommand(copy, 0, NS_PER_S, 0))
    else:
        result = replace(decision.filter, position=frozen_array(np.zeros(2)))
        decision = replace(decision, filter=result, command=PositionCommand(copy, 0, NS_PER_S, 0))
    assert pair(monitor(), decision) == pytest.approx(0.2)


def test_a_delayed_command_is_compared_when_it_acts() -> None:
    """With two ticks of delay the speed answers the command from two ticks before the last."""
    residual = monitor(delay_ticks=2)
    commands = [8.0, -4.0, 6.0, 0.0, 0.0, 0.0]
    v, previous = 0.0, None
    for k, a in enumerate(commands):
        assert residual.score(seen((v, 0.0), k * STEP, previous)).value == 0.0
        previous = told((a, 0.0), k * STEP)
        v += (commands[k - 2] if k >= 2 else 0.0) * PERIOD
    assert residual.score(seen((v + 1.0, 0.0), len(commands) * STEP, previous)).value > 1.0


@pytest.mark.parametrize("v", [np.array([np.nan, 0.0]), np.array([0.0, np.inf]), np.zeros(3), np.zeros((1, 2))])
def test_a_broken_measurement_is_an_alarm(v: np.ndarray) -> None:
    """Speeds that are not one finite number per joint score NaN, and the next tick has nothing to compare with."""
    residual, previous = monitor(), told((8.0, 0.0))
    pair(residual, previous)
    assert math.isnan(residual.score(proof.standing(2, 2 * STEP, v=v, previous=previous)).value)
    assert residual.score(seen((0.02, 0.0), 3 * STEP, previous)).value == 0.0
    assert residual.score(seen((0.04, 0.0), 4 * STEP, previous)).value == pytest.approx(0.2)


def test_a_stamp_that_stands_is_an_alarm() -> None:
    """The same state again is a missing measurement."""
    residual = monitor()
    residual.score(seen((0.0, 0.0), STEP, told((0.0, 0.0))))
    score = residual.score(seen((0.0, 0.0), STEP, told((0.0, 0.0))))
    assert math.isnan(score.value)
    assert "stamp" in score.detail


def test_a_prediction_that_is_broken_is_an_alarm() -> None:
    """A predicted acceleration that is not finite, or of another robot."""
    assert math.isnan(pair(monitor(), told((math.nan, 0.0))))
    odd = told((0.0, 0.0))
    odd = replace(odd, filter=replace(odd.filter, acceleration=np.zeros(3)))
    assert math.isnan(pair(monitor(), odd))


@pytest.mark.parametrize("a_max", [np.zeros(2), np.array([1.0, np.inf]), np.array([1.0, np.nan]), np.ones(3)])
def test_wrong_limits_are_refused(a_max: np.ndarray) -> None:
    """One positive finite limit for every joint."""
    with pytest.raises(ConfigError, match="one positive acceleration limit"):
        ModelResidual(("hip", "knee"), a_max)


@pytest.mark.parametrize(("tau", "delay"), [(-0.1, 0), (math.nan, 0), (math.inf, 0), (0.05, -1)])
def test_wrong_times_are_refused(tau: float, delay: int) -> None:
    """Neither negative nor endless."""
    with pytest.raises(ConfigError, match="tau_s >= 0 and delay_ticks >= 0"):
        monitor(tau, delay)
