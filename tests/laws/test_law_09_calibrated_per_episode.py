from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safeguard.core.enums import Cause, Level
from safeguard.core.types import Verdict
from safeguard.monitors import CalibratedMonitor, Calibration, calibrate
from safeguard.scenarios.calibration import FIRST_EPISODE
from tests.laws.lab import Lab, always, beyond, near

Patch = pytest.MonkeyPatch
MONITOR = "shield_effort"
Maker = Callable[..., Calibration]


def episodes(count: int, ticks: int = 200) -> list[list[float]]:
    """Scores of nominal episodes, tick by tick: slow wandering, so that ticks are anything but exchangeable."""
    rng = np.random.default_rng(5)
    return [np.abs(np.cumsum(rng.normal(0.0, 0.01, ticks))).tolist() for _ in range(count)]


def check_law_9_rank(make: Maker, count: int, alpha: float) -> None:
    """One number an episode, an integer rank, and a threshold that is one of these numbers."""
    maxima = sorted(max(scores) for scores in episodes(count))
    made = make(MONITOR, maxima, alpha, horizon_ticks=200)
    k = -((-(count + 1) * (1 - Fraction(repr(alpha)))) // 1)
    assert made.n == count, "a tick is no episode"
    assert made.alpha == alpha
    assert made.k == k
    assert made.threshold == (maxima[int(k) - 1] if k <= count else None)


def efforts(lab: Lab, ticks: int) -> list[Verdict]:
    """What the calibrated monitor of a running shield says."""
    return [next(v for v in d.verdicts if v.monitor == MONITOR) for d in lab.start(ticks).decisions]


def check_law_9_uncalibrated(calibrations: tuple[Calibration, ...], horizon: int) -> None:
    """Without enough episodes, and past the horizon of enough, the monitor is UNCALIBRATED, which is not OK."""
    verdicts = efforts(Lab(near, calibrations=calibrations), 100)
    assert len(verdicts) > horizon + 50
    for tick, verdict in enumerate(verdicts):
        if tick >= horizon:
            assert verdict.level is Level.UNCALIBRATED, f"tick {tick}: {verdict.level.name}"
            assert verdict.cause is Cause.UNCALIBRATED
            assert verdict.detail
        else:
            assert verdict.level is Level.OK
            assert verdict.p_value is not None


def check_law_9_disjoint(artefact: Calibration, used: range) -> None:
    """The episodes that made a threshold are not the ones that it is used on."""
    seeds = artefact.origin.seeds
    assert len(set(seeds)) == len(seeds) == artefact.n, "one seed an episode"
    assert set(seeds).isdisjoint(used), "calibrated on the episodes that it judges"


def artefact(count: int, horizon: int = 10**6, size: float = 1.0) -> Calibration:
    """A calibration from ``count`` episodes with maxima around ``size``."""
    return calibrate(MONITOR, [size + 1e-3 * i for i in range(count)], 0.1, horizon_ticks=horizon)


@pytest.mark.parametrize("count", [0, 1, 8, 9, 10, 60])
@pytest.mark.parametrize("alpha", [0.1, 0.05, 0.3])
def test_law_9_rank(count: int, alpha: float) -> None:
    """Calibration counts episodes, in integers, at the declared rate."""
    check_law_9_rank(calibrate, count, alpha)


@pytest.mark.parametrize(
    ("calibrations", "horizon"),
    [((), 0), ((artefact(0),), 0), ((artefact(8),), 0), ((artefact(60, 120),), 120)],
    ids=["none", "no episode", "one episode too few", "past the horizon"],
)
def test_law_9_uncalibrated(calibrations: tuple[Calibration, ...], horizon: int) -> None:
    """Too few episodes is the state UNCALIBRATED, and so is too long an episode."""
    check_law_9_uncalibrated(calibrations, horizon)


def test_law_9_alarm() -> None:
    """A calibrated monitor of a running shield alarms above its threshold, and the alarm is a cause."""
    lab = Lab(beyond, calibrations=(artefact(60, size=0.2),))
    verdicts = efforts(lab, 100)
    assert {v.level for v in verdicts} == {Level.OK, Level.WARN}
    assert any(Cause.EFFORT_WARN in d.causes for d in lab.decisions)


def test_law_9_disjoint(root: Path) -> None:
    """The artefacts beside the library's scenarios come from episodes of their own."""
    used = range(FIRST_EPISODE)
    for file in sorted((root / "scenarios" / "library").glob("*.json")):
        check_law_9_disjoint(Calibration.load(file), used)


# -- planted ------------------------------------------------------------------------------------------


def by_tick(name: str, maxima: Any, alpha: float, *, horizon_ticks: int) -> Calibration:
    """Every tick counts as an episode."""
    flat = [score for scores in episodes(len(maxima)) for score in scores]
    return calibrate(name, flat, alpha, horizon_ticks=horizon_ticks)


def interpolated(name: str, maxima: Any, alpha: float, *, horizon_ticks: int) -> Calibration:
    """A quantile between two episodes."""
    made = calibrate(name, maxima, alpha, horizon_ticks=horizon_ticks)
    return made.model_copy(update={"threshold": float(np.quantile(maxima, 1.0 - alpha))})


def floored(name: str, maxima: Any, alpha: float, *, horizon_ticks: int) -> Calibration:
    """A rank by rounding down."""
    made = calibrate(name, maxima, alpha, horizon_ticks=horizon_ticks)
    k = int(len(maxima) * (1.0 - alpha))
    return made.model_copy(update={"k": k, "threshold": sorted(maxima)[k - 1]})


def other_rate(name: str, maxima: Any, alpha: float, *, horizon_ticks: int) -> Calibration:
    """Another false-alarm rate than the declared one."""
    return calibrate(name, maxima, alpha / 2, horizon_ticks=horizon_ticks)


@pytest.mark.parametrize("make", [by_tick, interpolated, floored, other_rate], ids=lambda make: make.__name__)
def test_law_9_planted_rank(make: Maker) -> None:
    """Ticks for episodes, interpolation, rounding and another rate are seen."""
    with pytest.raises(AssertionError):
        check_law_9_rank(make, 60, 0.1)


def test_law_9_planted_generous() -> None:
    """Taking the largest maximum where there are too few episodes is seen."""

    def generous(name: str, maxima: Any, alpha: float, *, horizon_ticks: int) -> Calibration:
        made = calibrate(name, maxima, alpha, horizon_ticks=horizon_ticks)
        return made if made.calibrated else made.model_copy(update={"threshold": max(maxima)})

    with pytest.raises(AssertionError):
        check_law_9_rank(generous, 8, 0.1)


@pytest.mark.parametrize(
    ("calibrations", "horizon"), [((artefact(8),), 0), ((artefact(60, 120),), 120)], ids=["too few", "horizon"]
)
def test_law_9_planted_uncalibrated(calibrations: tuple[Calibration, ...], horizon: int, monkeypatch: Patch) -> None:
    """A monitor that calls itself OK without a threshold is seen."""
    monkeypatch.setattr(CalibratedMonitor, "verdict", always(Verdict(MONITOR, Level.OK, 0.0, 1.0, 1.0)))
    with pytest.raises(AssertionError):
        check_law_9_uncalibrated(calibrations, horizon)


@pytest.mark.parametrize("seeds", [(7, 1000), (1000, 1000), (1000,)], ids=["shared", "twice", "missing"])
def test_law_9_planted_disjoint(seeds: tuple[int, ...]) -> None:
    """Episodes that are shared, counted twice or not stated are seen."""
    made = artefact(2)
    origin = made.origin.model_copy(update={"seeds": seeds})
    with pytest.raises(AssertionError):
        check_law_9_disjoint(made.model_copy(update={"origin": origin}), range(FIRST_EPISODE))
