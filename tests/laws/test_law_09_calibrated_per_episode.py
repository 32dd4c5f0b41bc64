from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safeguard.core.enums import Cause, Level
from safeguard.core.types import Verdict
from safeguard.monitors import Bank, Calibration
from safeguard.monitors.calibration import role
from safeguard.monitors.rung import Rung, conformal
from safeguard.scenarios.calibration import FIRST_EPISODE
from tests.laws.lab import Lab, always, artefact, beyond, near

Patch = pytest.MonkeyPatch
JOINT = "joint.warn"
Maker = Callable[..., Rung]


def episodes(count: int, ticks: int = 200) -> list[list[float]]:
    """Scores of nominal episodes, tick by tick: slow wandering, so that ticks are anything but exchangeable."""
    rng = np.random.default_rng(5)
    return [np.abs(np.cumsum(rng.normal(0.0, 0.01, ticks))).tolist() for _ in range(count)]


def check_law_9_rank(make: Maker, count: int, alpha: float) -> None:
    """One number an episode, an integer rank, and a threshold that is one of these numbers."""
    maxima = sorted(max(scores) for scores in episodes(count))
    made = make("warn", "g_warn", maxima, alpha)
    k = -((-(count + 1) * (1 - Fraction(repr(alpha)))) // 1)
    assert made.n == count, "a tick is no episode"
    assert made.alpha == alpha
    assert made.k == k
    assert made.threshold == (maxima[int(k) - 1] if k <= count else None)


def warnings(lab: Lab, ticks: int) -> list[Verdict]:
    """What the lowest rung of a running shield says."""
    return [next(v for v in d.verdicts if v.monitor == JOINT) for d in lab.start(ticks).decisions]


def check_law_9_uncalibrated(calibration: Calibration | None, horizon: int) -> None:
    """Without enough episodes, and past the horizon of enough, the rung is UNCALIBRATED, which is not OK."""
    verdicts = warnings(Lab(near, calibration=calibration), 100)
    assert len(verdicts) > horizon + 50
    for tick, verdict in enumerate(verdicts):
        if tick >= horizon:
            assert verdict.level is Level.UNCALIBRATED, f"tick {tick}: {verdict.level.name}"
            assert verdict.cause is Cause.UNCALIBRATED
            assert verdict.detail
        else:
            assert verdict.level is Level.OK
            assert verdict.p_value is not None


def check_law_9_disjoint(made: Calibration, used: range) -> None:
    """The episodes that made a threshold are not the ones that it is used on."""
    seeds = made.origin.seeds
    nominal = len(seeds) - len(made.origin.excluded)
    assert len(set(seeds)) == len(seeds), "one seed an episode"
    assert made.n == sum(role(index) == "calibrate" for index in range(nominal)), "every episode has one role"
    assert {len(m.maxima) for m in made.members} == {sum(role(index) == "scale" for index in range(nominal))}
    assert set(seeds).isdisjoint(used), "calibrated on the episodes that it judges"


@pytest.mark.parametrize("count", [0, 1, 8, 9, 10, 60])
@pytest.mark.parametrize("alpha", [0.1, 0.05, 0.3])
def test_law_9_rank(count: int, alpha: float) -> None:
    """Calibration counts episodes, in integers, at the declared rate."""
    check_law_9_rank(conformal, count, alpha)


@pytest.mark.parametrize(
    ("count", "horizon"),
    [(None, 0), (8, 0), (60, 120)],
    ids=["none", "one episode too few", "past the horizon"],
)
def test_law_9_uncalibrated(count: int | None, horizon: int) -> None:
    """Too few episodes is the state UNCALIBRATED, and so is too long an episode."""
    check_law_9_uncalibrated(None if count is None else artefact(count, horizon or 10**6), horizon)


def test_law_9_alarm() -> None:
    """The calibrated monitors of a running shield alarm above their threshold, and the alarm is a cause."""
    lab = Lab(beyond, calibration=artefact(60, size=0.2))
    verdicts = warnings(lab, 100)
    assert {v.level for v in verdicts} == {Level.OK, Level.WARN}
    assert any(Cause.MONITOR_WARN in d.causes for d in lab.decisions)
    raised = (Cause.MONITOR_WARN, Cause.MONITOR_DEGRADE)
    said = [v.detail for d in lab.decisions for v in d.verdicts if v.cause in raised]
    assert any("shield_effort" in detail for detail in said), "an alarm names who raised it"


def test_law_9_disjoint(root: Path) -> None:
    """The artefacts beside the library's scenarios come from episodes of their own."""
    used = range(FIRST_EPISODE)
    for file in sorted((root / "scenarios" / "library").glob("*.json")):
        check_law_9_disjoint(Calibration.load(file), used)


# -- planted ------------------------------------------------------------------------------------------


def by_tick(name: Any, score: Any, maxima: Any, alpha: float) -> Rung:
    """Every tick counts as an episode."""
    flat = [score for scores in episodes(len(maxima)) for score in scores]
    return conformal(name, score, flat, alpha)


def interpolated(name: Any, score: Any, maxima: Any, alpha: float) -> Rung:
    """A quantile between two episodes."""
    made = conformal(name, score, maxima, alpha)
    return made.model_copy(update={"threshold": float(np.quantile(maxima, 1.0 - alpha))})


def floored(name: Any, score: Any, maxima: Any, alpha: float) -> Rung:
    """A rank by rounding down."""
    made = conformal(name, score, maxima, alpha)
    k = int(len(maxima) * (1.0 - alpha))
    return made.model_copy(update={"k": k, "threshold": sorted(maxima)[k - 1]})


def other_rate(name: Any, score: Any, maxima: Any, alpha: float) -> Rung:
    """Another false-alarm rate than the declared one."""
    return conformal(name, score, maxima, alpha / 2)


@pytest.mark.parametrize("make", [by_tick, interpolated, floored, other_rate], ids=lambda make: make.__name__)
def test_law_9_planted_rank(make: Maker) -> None:
    """Ticks for episodes, interpolation, rounding and another rate are seen."""
    with pytest.raises(AssertionError):
        check_law_9_rank(make, 60, 0.1)


def test_law_9_planted_generous() -> None:
    """Taking the largest maximum where there are too few episodes is seen."""

    def generous(name: Any, score: Any, maxima: Any, alpha: float) -> Rung:
        made = conformal(name, score, maxima, alpha)
        return made if made.calibrated else made.model_copy(update={"threshold": max(maxima)})

    with pytest.raises(AssertionError):
        check_law_9_rank(generous, 8, 0.1)


@pytest.mark.parametrize(("count", "horizon"), [(8, 10**6), (60, 120)], ids=["too few", "horizon"])
def test_law_9_planted_uncalibrated(count: int, horizon: int, monkeypatch: Patch) -> None:
    """Monitors that call themselves OK without a threshold are seen."""
    made = artefact(count, horizon)
    monkeypatch.setattr(Bank, "verdicts", always((Verdict(JOINT, Level.OK, 0.0, 1.0, 1.0),)))
    with pytest.raises(AssertionError):
        check_law_9_uncalibrated(made, 0 if count == 8 else horizon)


@pytest.mark.parametrize(
    "seeds",
    [(7, *range(1000, 1009)), (1000, 1000, *range(1001, 1009)), tuple(range(1000, 1009))],
    ids=["shared", "twice", "missing"],
)
def test_law_9_planted_disjoint(seeds: tuple[int, ...]) -> None:
    """Episodes that are shared, counted twice or not stated are seen."""
    made = artefact(8)
    origin = made.origin.model_copy(update={"seeds": seeds})
    with pytest.raises(AssertionError):
        check_law_9_disjoint(made.model_copy(update={"origin": origin}), range(FIRST_EPISODE))
