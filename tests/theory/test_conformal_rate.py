"""The conformal theorem on correlated episodes, a control that breaks it, and MAPIE as oracle."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from safeguard.core.errors import CalibrationError
from safeguard.core.types import Evidence, Score
from safeguard.monitors import CalibratedMonitor, Calibration, calibrate
from safeguard.monitors import calibration as module
from safeguard.monitors.calibration import mapie_threshold
from tests.unit.monitors_support import evidence

STEPS = 100
ALPHA = 0.05
FRESH = 1000


def episodes(count: int, seed: int) -> NDArray[np.float64]:
    """AR(1) scores, shape (count, STEPS), correlation 0.9, stationary."""
    noise = np.random.default_rng(seed).standard_normal((count, STEPS))
    scores = np.empty_like(noise)
    scores[:, 0] = noise[:, 0]
    for t in range(1, STEPS):
        scores[:, t] = 0.9 * scores[:, t - 1] + np.sqrt(1.0 - 0.81) * noise[:, t]
    return scores


def inside(alarms: int, found: Calibration) -> bool:
    """``alarms`` of FRESH episodes lie in the central 99.8 % of BetaBinomial(FRESH, n + 1 − k, k)."""
    law = importlib.import_module("scipy.stats").betabinom(FRESH, found.n + 1 - found.k, found.k)
    return bool(law.ppf(0.001) <= alarms <= law.ppf(0.999))


class Played:
    """Plays one episode's scores."""

    name = "played"

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.tick = 0

    def reset(self) -> None:
        """From the start."""
        self.tick = 0

    def score(self, evidence: Evidence) -> Score:
        """The next score."""
        self.tick += 1
        return Score(self.scores[self.tick - 1])


def alarms_of(found: Calibration, fresh: NDArray[np.float64]) -> int:
    """Episodes in which the run-time monitor warned at least once."""
    played = Played()
    monitor = CalibratedMonitor(played, found)
    quiet = evidence()
    count = 0
    for scores in fresh:
        played.scores = scores.tolist()
        monitor.reset()
        count += any(monitor.verdict(quiet).cause is not None for _ in range(STEPS))
    return count


@pytest.mark.parametrize("n", [19, 50, 200])
def test_episode_calibration_keeps_its_rate(n: int) -> None:
    """Fresh correlated episodes alarm as often as the BetaBinomial law of n and k says."""
    calibration = episodes(n, seed=n)
    found = calibrate("played", calibration.max(axis=1).tolist(), ALPHA, horizon_ticks=STEPS)
    assert inside(alarms_of(found, episodes(FRESH, seed=10_000 + n)), found)


def test_pooled_steps_break_the_rate() -> None:
    """Negative control: a threshold from all steps pooled alarms in most episodes and fails the same test."""
    calibration = episodes(200, seed=1)
    found = calibrate("played", calibration.max(axis=1).tolist(), ALPHA, horizon_ticks=STEPS)
    pooled = calibrate("played", calibration.ravel().tolist(), ALPHA, horizon_ticks=STEPS)
    alarms = alarms_of(pooled, episodes(FRESH, seed=2))
    assert alarms > 0.5 * FRESH
    assert not inside(alarms, found)


def test_running_p_value_is_valid_at_any_time() -> None:
    """The share of fresh episodes whose p-value ever reaches a is about a at most, for every a at once."""
    n = 199
    found = calibrate("played", episodes(n, seed=3).max(axis=1).tolist(), ALPHA, horizon_ticks=STEPS)
    peaks = episodes(FRESH, seed=4).max(axis=1)
    smallest = np.array([(1 + sum(d >= peak for d in found.maxima)) / (n + 1) for peak in peaks])
    law = importlib.import_module("scipy.stats").betabinom
    for a in (0.01, 0.05, 0.1, 0.3):
        j = round(a * (n + 1))
        assert np.count_nonzero(smallest <= a) <= law(FRESH, j, n + 1 - j).ppf(0.999)


@pytest.mark.parametrize(
    ("n", "alpha"),  # MAPIE refuses n < 1/alpha
    [(20, 0.05), (20, 0.1), (50, 0.05), (50, 0.1), (101, 0.01), (101, 0.2), (333, 0.01), (333, 0.05)],
)
@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_threshold_equals_mapie(n: int, alpha: float, shift: float) -> None:
    """The order statistic is MAPIE's split conformal bound to 1e-12, also for negative scores."""
    maxima = (episodes(n, seed=n).max(axis=1) + shift).tolist()
    found = calibrate("played", maxima, alpha, horizon_ticks=STEPS, oracle="mapie")
    assert found.threshold == pytest.approx(mapie_threshold(maxima, alpha), abs=1e-12)


def test_disagreement_with_the_oracle_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If MAPIE said anything else, calibration would fail rather than choose."""

    def other(maxima: Sequence[float], alpha: float) -> float:
        return 1.5

    monkeypatch.setattr(module, "mapie_threshold", other)
    with pytest.raises(CalibrationError, match=r"by rank, 1.5 by MAPIE"):
        calibrate("played", [float(i) for i in range(30)], 0.1, horizon_ticks=1, oracle="mapie")
