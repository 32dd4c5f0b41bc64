"""Ville's bound over thousands of runs without drift, the delay with one, and uniform p-values underneath."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from safeguard.monitors.conformal import most_alarms
from safeguard.monitors.drift import KAPPAS, Drift, share

ALPHA = 0.01


def first_alarm(drift: Drift, episodes: NDArray[np.float64], rng: np.random.Generator) -> int | None:
    """After how many of ``episodes`` the test alarmed."""
    for i, (d, u) in enumerate(zip(episodes.tolist(), rng.random(episodes.size).tolist(), strict=True), 1):
        if drift.add(d, 1.0 - u).void:
            return i
    return None


def _forget(maxima: list[float], peak: float) -> None:
    """In place of insort: the set stays as it is."""


def alarms_without_drift(alpha: float, decimals: int = 17) -> int:
    """How many of 1,000 runs of 100 episodes, 10 calibrated, ever alarm."""
    rng, alarms = np.random.default_rng(round(1 / alpha)), 0
    for _ in range(1000):
        d = np.round(rng.standard_normal(110), decimals)
        alarms += first_alarm(Drift("", d[:10].tolist(), alpha), d[10:], rng) is not None
    return alarms


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("decimals", [17, 0])
def test_ville_bound_holds(alpha: float, decimals: int) -> None:
    """At most alpha of the runs without drift ever alarm, with half of all D tied, too."""
    assert alarms_without_drift(alpha, decimals) <= most_alarms(1000, alpha)


def test_a_set_that_does_not_grow_breaks_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the same bets against the calibration alone fail the same test, by far."""
    alarms = alarms_without_drift(0.05)
    monkeypatch.setattr("safeguard.monitors.drift.insort", _forget)
    assert alarms_without_drift(0.05) > 2 * most_alarms(1000, 0.05)
    assert 0 < alarms < most_alarms(1000, 0.05)


def test_p_values_are_uniform_and_independent() -> None:
    """Against a growing set p-values pass a test of uniformity, ties or not, and none follows from the one before."""
    stats = importlib.import_module("scipy.stats")
    rng = np.random.default_rng(1)
    for maxima in (rng.standard_normal(2000), rng.integers(0, 3, size=2000).astype(np.float64), np.zeros(2000)):
        drift = Drift("", maxima[:20].tolist(), 1e-9)
        p = np.array([drift.add(d, 1.0 - u).p for d, u in zip(maxima[20:].tolist(), rng.random(1980), strict=True)])
        assert stats.kstest(p, "uniform").pvalue > 0.001
        assert abs(np.corrcoef(p[1:], p[:-1])[0, 1]) < 4 / math.sqrt(p.size)


@pytest.mark.parametrize("before", [0, 1, 30, 800])
def test_evidence_is_a_martingale(before: int) -> None:
    """Whatever happened, the mean of M over the next uniform p-value is M; integrated, since its spread is infinite."""
    after = importlib.import_module("safeguard.monitors.drift")._after
    drift = Drift("", (), 1e-300)
    for u in np.random.default_rng(before).beta(0.8, 1.0, size=before).tolist():
        drift.add(0.0, max(u, 1e-6))  # all D tie, so that p = u
    weights = drift.state().log_weights

    def next_evidence(x: float) -> float:
        """M after p = exp(−x), relative to now, times the density of x."""
        return math.fsum(math.exp(w - drift.log_evidence - x) for w in after(weights, -x, before + 1))

    mean = importlib.import_module("scipy.integrate").quad(next_evidence, 0.0, 400.0, limit=400)[0]
    assert mean == pytest.approx(1.0, abs=1e-6)


def gain(p: NDArray[np.float64]) -> float:
    """Evidence per episode of the best bet on these p-values, max over κ of E[log κ + (κ − 1) log p]."""
    surprise = -float(np.mean(np.log(p)))
    return surprise - 1.0 - math.log(surprise)


@pytest.mark.parametrize("before", [0, 1000])
@pytest.mark.parametrize(("shift", "longest"), [(1.0, 60), (2.0, 15)])
def test_shift_is_found_with_the_expected_delay(before: int, shift: float, longest: int) -> None:
    """A shift of D is found after (log(1/alpha) + w)/gain episodes, w = log(K/J_i) + Σ J_i being the cost of waiting.

    Half of it without w, and twice with it, are allowed for, since the median of 15 delays stands for their mean.
    """
    rng = np.random.default_rng(3)
    tail = importlib.import_module("scipy.stats").norm.sf
    rate = gain(tail(rng.standard_normal(100_000) + shift))
    delays = list[float]()
    for _ in range(15):
        d = rng.standard_normal(1000 + before)
        drift = Drift("", d[:1000].tolist(), ALPHA)
        early = first_alarm(drift, d[1000:], rng)
        late = first_alarm(drift, rng.standard_normal(300) + shift, rng) if early is None else None
        delays.append(late or 300.0)
    median = float(np.median(delays))
    waited = math.fsum(share(i + 1) for i in range(before)) - math.log(share(before) / len(KAPPAS))
    expected, dearest = -math.log(ALPHA) / rate, (waited - math.log(ALPHA)) / rate
    assert 0.5 * expected <= median <= 2.0 * dearest
    assert median <= longest


def test_better_episodes_are_no_alarm() -> None:
    """Episodes with smaller D than before never alarm: fewer false alarms than declared break no promise."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        drift = Drift("", rng.standard_normal(200).tolist(), 0.05)
        assert first_alarm(drift, rng.standard_normal(300) - 2.0, rng) is None
