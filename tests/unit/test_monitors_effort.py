from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.errors import ConfigError
from safeguard.core.protocols import Monitor
from safeguard.monitors import ShieldEffort
from tests.unit.monitors_support import evidence


def test_first_tick_scores_zero() -> None:
    """Without a previous decision there is no effort."""
    monitor: Monitor = ShieldEffort(0.002)
    assert monitor.score(evidence()).value == 0.0


def test_step_response_reaches_63_percent_after_tau() -> None:
    """After a step of effort 1 the score after tau is 1 − 1/e, whatever the period."""
    for period in (0.001, 0.002, 0.005):
        monitor = ShieldEffort(period, tau_s=0.05)
        scores = [monitor.score(evidence(1.0)).value for _ in range(round(0.05 / period))]
        assert scores[-1] == pytest.approx(1.0 - math.exp(-1.0), rel=1e-9)


@pytest.mark.parametrize("effort", [math.nan, math.inf, -math.inf])
def test_non_finite_effort_scores_nan_once(effort: float) -> None:
    """A non-finite effort is NaN in its tick and does not poison the ones after."""
    monitor = ShieldEffort(0.002)
    assert math.isnan(monitor.score(evidence(effort)).value)
    assert monitor.score(evidence(0.0)).value == 0.0


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=30))
def test_score_stays_within_what_was_seen(efforts: list[float]) -> None:
    """The score is a weighted mean of zero and the efforts so far, and a reset forgets them."""
    monitor = ShieldEffort(0.002)
    for index, effort in enumerate(efforts):
        assert 0.0 <= monitor.score(evidence(effort)).value <= max(efforts[: index + 1]) + 1e-12
    monitor.reset()
    assert monitor.score(evidence(0.0)).value == 0.0


@pytest.mark.parametrize(("period", "tau"), [(0.0, 0.05), (0.002, 0.0), (math.nan, 0.05), (0.002, math.nan)])
def test_wrong_times_are_refused(period: float, tau: float) -> None:
    """Period and time constant must be positive."""
    with pytest.raises(ConfigError, match="period > 0 and tau_s > 0"):
        ShieldEffort(period, tau)
