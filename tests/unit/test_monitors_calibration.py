from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from safeguard.core.enums import Cause, Level
from safeguard.core.errors import CalibrationError
from safeguard.core.types import Evidence, Score
from safeguard.monitors import CalibratedMonitor, Calibration, Origin, calibrate
from safeguard.monitors.calibration import rank
from tests.unit.monitors_support import evidence

ORIGIN = Origin(policy="p" * 64, robot="r" * 64, tools=(("numpy", "2"),), seeds=(1, 2))


class Scripted:
    """A monitor that plays back scores."""

    name = "scripted"

    def __init__(self, *values: float) -> None:
        self.values = values
        self.next = 0

    def reset(self) -> None:
        """Play from the start."""
        self.next = 0

    def score(self, evidence: Evidence) -> Score:
        """The next value."""
        self.next += 1
        return Score(self.values[self.next - 1])


def made(n: int = 19, alpha: float = 0.05, horizon: int = 100) -> Calibration:
    """Episodes with maxima 1 … n."""
    maxima = [float(n - i) for i in range(n)]
    return calibrate("scripted", maxima, alpha, horizon_ticks=horizon, origin=ORIGIN)


@pytest.mark.parametrize(
    ("n", "alpha", "k"),
    [
        (9, 0.1, 9),
        (19, 0.05, 19),
        (99, 0.01, 99),
        (199, 0.005, 199),
        (50, 0.1, 46),
        (100, 0.05, 96),
        (8, 0.1, 9),
    ],
)
def test_rank_is_exact(n: int, alpha: float, k: int) -> None:
    """The rank is that of exact decimals, where floats would round (n + 1)(1 − alpha) up."""
    assert rank(n, alpha) == k


@given(st.integers(1, 3000), st.integers(1, 999))
def test_rank_is_the_least_that_bounds_the_rate(n: int, per_mille: int) -> None:
    """The rank is the smallest one whose rate 1 − k/(n + 1) is at most alpha, in integers."""
    k = rank(n, per_mille / 1000)
    assert 1000 * (n + 1 - k) <= per_mille * (n + 1) < 1000 * (n + 2 - k)


def test_threshold_is_an_order_statistic() -> None:
    """The threshold is the k-th smallest maximum, the maxima are sorted, and nothing is interpolated."""
    found = made(50, 0.1)
    assert (found.n, found.k, found.threshold, found.ties) == (50, 46, 46.0, 0)
    assert found.maxima == tuple(float(i) for i in range(1, 51))
    assert found.rate_interval == pytest.approx((0.0402, 0.1738), abs=1e-4)


def test_too_few_episodes_have_no_threshold() -> None:
    """Below n = 1/alpha − 1 there is no threshold, also for no episodes at all."""
    for n in (0, 18):
        found = made(n)
        assert (found.threshold, found.calibrated, found.rate_interval) == (None, False, None)
    assert made(19).calibrated


def test_constant_maxima_are_recorded_as_ties() -> None:
    """Maxima that are all equal are allowed; n − 1 ties say what they are worth."""
    found = calibrate("effort", [0.0] * 30, 0.1, horizon_ticks=10)
    assert (found.threshold, found.ties) == (0.0, 29)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_maxima_are_refused(bad: float) -> None:
    """An episode with a non-finite score is not nominal; the message names it."""
    with pytest.raises(CalibrationError, match="episode 1 of effort"):
        calibrate("effort", [0.0, bad], 0.1, horizon_ticks=10)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_wrong_alpha_is_refused(alpha: float) -> None:
    """Alpha is a rate strictly between 0 and 1."""
    with pytest.raises(CalibrationError, match="alpha"):
        calibrate("effort", [0.0], alpha, horizon_ticks=10)


def test_artefact_survives_the_disk(tmp_path: Path) -> None:
    """Saved and loaded it is equal, to the last bit of every float."""
    found = calibrate("effort", [0.1 + 0.2, 1e-300, 1 / 3], 0.3, horizon_ticks=7, origin=ORIGIN)
    found.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json", {"monitor": "effort", "policy": "p" * 64}) == found


@pytest.mark.parametrize("expected", [{"monitor": "other"}, {"policy": "x"}, {"robot": "x"}, {"config": "x"}])
def test_foreign_artefact_is_refused(tmp_path: Path, expected: dict[str, str]) -> None:
    """An artefact of another monitor, policy, robot or configuration is refused by name."""
    made().save(tmp_path / "c.json")
    with pytest.raises(CalibrationError, match=f"made for {next(iter(expected))}"):
        Calibration.load(tmp_path / "c.json", expected)


def test_unknown_expectation_is_refused() -> None:
    """A misspelt digest name is an error, not a check that passes."""
    with pytest.raises(CalibrationError, match="nothing called 'polcy'"):
        made().check({"polcy": "x"})


def test_every_edited_value_is_found(tmp_path: Path) -> None:
    """Changing any field of the file makes it unloadable."""
    path = tmp_path / "c.json"
    made().save(path)
    content: dict[str, object] = json.loads(path.read_text())
    edits: dict[str, object] = {
        "version": 2,
        "monitor": "other",
        "n": 20,
        "alpha": 0.06,
        "k": 18,
        "threshold": 1e9,
        "maxima": [float(i) for i in range(2, 21)],
        "ties": 3,
        "horizon_ticks": 10**9,
        "rate_interval": [0.0, 0.0],
        "origin": {"policy": "x"},
        "digest": "0" * 64,
    }
    assert set(edits) == set(content)
    for name, value in edits.items():
        path.write_text(json.dumps(content | {name: value}))
        with pytest.raises(CalibrationError, match=re.escape(str(path))):
            Calibration.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"n": NaN}', '{"extra": 1}'])
def test_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    """A cut or foreign file is a CalibrationError that names the path."""
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(CalibrationError, match="damaged"):
        Calibration.load(tmp_path / "c.json")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """A path without a file is a CalibrationError that names the path."""
    with pytest.raises(CalibrationError, match=r"none\.json: cannot be read"):
        Calibration.load(tmp_path / "none.json")


def test_resealed_threshold_is_still_refused(tmp_path: Path) -> None:
    """A threshold that its own maxima do not give is refused even with a fitting digest."""
    forged = made().model_copy(update={"threshold": 1e9})
    forged.save(tmp_path / "c.json")
    with pytest.raises(CalibrationError, match=r"threshold is 1000000000\.0, its own data say 19\.0"):
        Calibration.load(tmp_path / "c.json")


def test_artefact_is_frozen() -> None:
    """Nobody can raise a threshold at run time."""
    with pytest.raises(ValidationError, match="frozen"):
        made().threshold = 1e9  # type: ignore[misc]  # the test is that this fails


def test_alarm_is_strict_and_follows_the_score() -> None:
    """At the threshold nothing happens, above it WARN; the p-value only falls."""
    monitor = CalibratedMonitor(Scripted(0.5, 19.0, 19.1, 1.0), made())
    found = [monitor.verdict(evidence()) for _ in range(4)]
    assert [v.level for v in found] == [Level.OK, Level.OK, Level.WARN, Level.OK]
    assert [v.cause for v in found] == [None, None, Cause.EFFORT_WARN, None]
    assert [v.p_value for v in found] == [1.0, 2 / 20, 1 / 20, 1 / 20]
    assert {v.threshold for v in found} == {19.0}


@pytest.mark.parametrize(
    ("calibration", "words"),
    [(None, "no calibration"), (made(18), "18 episodes, at least 19 are needed")],
    ids=["none", "too few"],
)
def test_without_a_threshold_nothing_is_ok(calibration: Calibration | None, words: str) -> None:
    """A monitor without a threshold is UNCALIBRATED and says why."""
    verdict = CalibratedMonitor(Scripted(0.0), calibration).verdict(evidence())
    assert (verdict.level, verdict.cause, verdict.p_value) == (Level.UNCALIBRATED, Cause.UNCALIBRATED, None)
    assert words in verdict.detail


def test_past_the_horizon_it_is_uncalibrated_until_reset() -> None:
    """The horizon-th tick is the first one past it; a new episode starts calibrated."""
    monitor = CalibratedMonitor(Scripted(20.0, 1.0, 1.0), made(horizon=2))
    for _ in range(2):
        levels = [monitor.verdict(evidence()).level for _ in range(3)]
        assert levels == [Level.WARN, Level.OK, Level.UNCALIBRATED]
        monitor.reset()


@pytest.mark.parametrize("calibration", [None, made(), made(horizon=1)], ids=["none", "inside", "past"])
def test_nan_is_an_alarm(calibration: Calibration | None) -> None:
    """A NaN score warns in every state of calibration."""
    monitor = CalibratedMonitor(Scripted(0.0, math.nan), calibration)
    monitor.verdict(evidence())
    verdict = monitor.verdict(evidence())
    assert (verdict.level, verdict.cause) == (Level.WARN, Cause.EFFORT_WARN)


def test_nan_does_not_hide_in_the_running_maximum() -> None:
    """The p-value after a NaN is that of the finite scores."""
    monitor = CalibratedMonitor(Scripted(math.nan, 19.0), made())
    monitor.verdict(evidence())
    assert monitor.verdict(evidence()).p_value == 2 / 20


def test_calibration_of_another_monitor_is_refused() -> None:
    """A monitor does not take somebody else's threshold."""
    other = calibrate("other", [1.0] * 20, 0.1, horizon_ticks=5)
    with pytest.raises(CalibrationError, match="made for monitor 'other'"):
        CalibratedMonitor(Scripted(), other)
