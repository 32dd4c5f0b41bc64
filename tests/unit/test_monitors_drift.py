from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.errors import CalibrationError
from safeguard.monitors.drift import KAPPAS, Drift, share

PEAKS = st.floats(-10, 10) | st.integers(0, 3).map(float)


def shifted(count: int = 40) -> Drift:
    """A test that has seen ``count`` episodes far worse than the calibrated."""
    found = Drift("c" * 64, [i / 50 for i in range(50)])
    for i in range(count):
        found.add(5.0 + i, 0.5)
    return found


@given(st.lists(PEAKS, max_size=20), st.lists(PEAKS, min_size=1, max_size=20), st.floats(0.001, 1.0))
def test_p_value_counts_itself_and_all_before(maxima: list[float], peaks: list[float], u: float) -> None:
    """It is (#{D_j > D_i} + U (1 + #{D_j = D_i}))/(N + 1) over calibration and earlier episodes."""
    found = Drift("", maxima, 1e-300)
    seen = list(maxima)
    for peak in peaks:
        greater, equal = sum(d > peak for d in seen), sum(d == peak for d in seen)
        assert found.add(peak, u).p == pytest.approx((greater + u * (1 + equal)) / (len(seen) + 1))
        seen.append(peak)


def test_evidence_is_the_mixture() -> None:
    """After one episode M is the mean of κ p^(κ − 1); a bet's weights in log space match plain arithmetic."""
    found = Drift("", [], 1e-9)
    weights = [1 / len(KAPPAS)] * len(KAPPAS)
    for i, u in enumerate((0.5, 0.01, 0.9, 1e-6), 1):
        p, j = found.add(0.0, u).p, share(i)
        dealt = j / len(KAPPAS) * sum(weights)
        weights = [((1 - j) * w + dealt) * kappa * p ** (kappa - 1) for w, kappa in zip(weights, KAPPAS, strict=True)]
        assert found.log_evidence == pytest.approx(math.log(sum(weights)), abs=1e-12)


def test_alarm_latches_and_nothing_changes_after() -> None:
    """Once M reached 1/alpha the calibration stays void, the best of episodes notwithstanding, and memory stays."""
    found = shifted()
    assert found.void
    state = found.state()
    assert state.episodes < 40
    for _ in range(100):
        score = found.add(-5.0, 0.5)
        assert score.void
        assert math.isnan(score.p)
    assert found.state() == state
    assert found.log_evidence >= math.log(100)


def test_there_is_no_way_to_a_threshold() -> None:
    """All that can be done with a drift test: add an episode, ask, store."""
    assert {name for name in dir(Drift) if not name.startswith("_")} == {
        "add",
        "calibration",
        "episodes",
        "from_json",
        "kept",
        "load",
        "log_evidence",
        "save",
        "state",
        "to_json",
        "void",
    }


def test_state_survives_the_disk() -> None:
    """Stored and resumed in the middle, the rest of the run gives the same numbers to the last bit."""
    rng = random.Random(1)
    stream = [(rng.gauss(0.5, 1.0), 1.0 - rng.random()) for _ in range(60)] + [(math.nan, 0.5), (math.inf, 0.25)]
    whole, parts = Drift("d", [0.1, 0.2, 0.3], 0.001), Drift("d", [0.1, 0.2, 0.3], 0.001)
    for peak, u in stream:
        parts = Drift.from_json(parts.to_json(), "d")
        assert whole.add(peak, u) == parts.add(peak, u)
    assert whole.state() == parts.state()
    assert whole.episodes == len(stream)
    assert not whole.void


def test_void_survives_the_disk() -> None:
    """A resumed test is still void."""
    assert Drift.from_json(shifted().to_json(), "c" * 64).void


def test_missing_score_is_worse_than_any_number() -> None:
    """An episode whose score was NaN gets the smallest p-value there is, and ties with another such."""
    found = Drift("", [1.0, 1e300], 1e-9)
    assert found.add(math.nan, 1.0).p == pytest.approx(1 / 3)
    assert found.add(math.nan, 1.0).p == pytest.approx(2 / 4)


@pytest.mark.parametrize("u", [0.0, -0.1, 1.1, math.nan])
def test_wrong_u_is_refused(u: float) -> None:
    """U outside (0, 1] would be evidence from nothing."""
    with pytest.raises(CalibrationError, match="u of the drift test"):
        Drift("", [1.0]).add(0.0, u)


@pytest.mark.parametrize("alpha", [0.0, 1.0, math.nan])
def test_wrong_alpha_is_refused(alpha: float) -> None:
    """Alpha is a probability strictly between 0 and 1."""
    with pytest.raises(CalibrationError, match="alpha"):
        Drift("", [], alpha)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_calibration_is_refused(bad: float) -> None:
    """A calibration episode without a finite maximum is not nominal."""
    with pytest.raises(CalibrationError, match="episode 1"):
        Drift("", [0.0, bad])


def edited(**changes: object) -> str:
    """The stored state of a short run with ``changes``."""
    return json.dumps(json.loads(shifted(2).to_json()) | changes)


@pytest.mark.parametrize(
    "text",
    [
        shifted(2).to_json()[:-20],
        "",
        edited(episodes=1),
        edited(void=True),
        edited(version=2),
        edited(alpha=0.5),
        edited(alpha=1.5),
        edited(log_weights=[0.0]),
        edited(log_weights=["Infinity"] * 6),
        edited(maxima=list(range(52, 0, -1))),
        edited(maxima=[float("nan")] * 52),
        edited(more=1),
        edited(digest="0" * 64),
        edited(maxima=[float(i) for i in range(52)]),
    ],
)
def test_damaged_state_is_refused(text: str) -> None:
    """A state that is cut, edited, of another version or against its own data is refused, not repaired."""
    with pytest.raises(CalibrationError, match="state of the drift test"):
        Drift.from_json(text, "c" * 64)


def test_foreign_state_is_refused() -> None:
    """A state goes on only for the calibration that it began with."""
    with pytest.raises(CalibrationError, match="made for calibration 'cccccccccccc', not 'dddddddddddd'"):
        Drift.from_json(shifted(2).to_json(), "d" * 64)
