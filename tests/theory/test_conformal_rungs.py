"""False alarms of an episode at every rung, of the union, and of wrong methods through the very same tests."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.alarm_controls import CONTROLS
from benchmarks.alarm_laws import RUNGS, Maxima, ar1_maxima, judge, one_sided, two_sided
from safeguard.monitors.conformal import interval_power, rank


def drawn(count: int, seed: int, steps: tuple[int, int] = (20, 200)) -> Maxima:
    """Joint maxima of ``count`` AR(1) episodes of variable length."""
    return ar1_maxima(count, np.random.default_rng(seed), steps)


@pytest.mark.parametrize(("n", "m"), [(1000, 1000), (1500, 8000), (12_000, 12_000)])
def test_every_rung_keeps_its_rate(n: int, m: int) -> None:
    """Warn 0.10, degrade 0.02, stop 0.005 and the union of them alarm as often as their laws allow; lengths vary."""
    for row in judge(drawn(n, seed=n), drawn(m, seed=n + m)):
        assert row.passed, row


def test_too_few_episodes_never_alarm() -> None:
    """With 100 episodes the stop rung has no threshold: no alarms, where a clipped rank would give about 1 %."""
    rows = {row.name: row for row in judge(drawn(100, seed=1), drawn(5000, seed=2))}
    assert (rows["stop"].alarms, rows["stop"].high, rows["stop"].expected) == (0, 0, 0.0)
    assert rows["warn"].alarms > 0
    assert rows["degrade"].alarms > 0


def test_episodes_of_another_kind_fail_every_test() -> None:
    """Negative control: calibrated on episodes half as long, all three rungs and the union are found out."""
    for row in judge(drawn(12_000, seed=3, steps=(10, 100)), drawn(12_000, seed=4)):
        assert row.alarms > row.high, row


def test_ties_only_lower_the_rate() -> None:
    """D in coarse steps: fewer alarms than declared, more with those that equal the threshold, and every row passes."""

    def coarse(count: int, seed: int) -> Maxima:
        """Maxima rounded to whole numbers."""
        return {name: np.round(d) for name, d in drawn(count, seed).items()}

    for row in judge(coarse(12_000, seed=7), coarse(12_000, seed=8))[:3]:
        assert row.passed, row
        assert row.alarms < row.expected < row.alarms + row.tied, row
        assert not two_sided("", row.alpha, row.n, row.m, row.high + 1, row.tied).passed


def test_rungs_of_another_score_fail_the_union() -> None:
    """Negative control: with warn calibrated on g_act and judged on g_warn, warn and the union are found out."""
    calibration = drawn(4000, seed=5)
    rows = {row.name: row for row in judge({**calibration, "g_warn": calibration["g_act"]}, drawn(4000, seed=6))}
    assert not rows["warn"].passed
    assert not rows["any rung"].passed
    assert rows["degrade"].passed


@pytest.mark.parametrize("name", CONTROLS)
def test_wrong_methods_fail(name: str) -> None:
    """Negative control: the wrong method alarms as often as is known and fails the test that the right one passes."""
    compare, known = CONTROLS[name]
    wrong, right = compare(1)
    assert not wrong.passed, wrong
    assert right.passed, right
    assert wrong.rate == pytest.approx(known, rel=0.15)


def test_no_right_method_is_blamed_more_often_than_stated() -> None:
    """2,000 calibrations at each rung are rejected by the 99.8 % interval about four times, not more than twelve."""
    rng = np.random.default_rng(8)
    for _, _, alpha in RUNGS:
        n, m = 1000, 1000
        k = rank(n, alpha)
        rates = rng.beta(n + 1 - k, k, size=2000)
        alarms = rng.binomial(m, rates)
        low, high = (row := two_sided("", alpha, n, m, 0)).low, row.high
        assert np.count_nonzero((alarms < low) | (alarms > high)) <= 12


def test_power_is_what_simulation_finds() -> None:
    """The stated power is the share of rejections at that true rate; it grows with m, and is small where a test is."""
    k = rank(4000, 0.1)
    row = two_sided("", 0.1, 4000, 1000, 0)
    alarms = np.random.default_rng(9).binomial(1000, 0.15, size=20_000)
    assert row.power == pytest.approx(np.mean((alarms < row.low) | (alarms > row.high)), abs=0.02)
    assert interval_power(200, 4000, k, 0.15) < row.power < interval_power(8000, 4000, k, 0.15)
    assert two_sided("", 0.005, 1000, 1000, 0).power < 0.01  # why the benchmark draws more
    assert one_sided("", 0.1, 0, 4000, 0).power > 0.99
