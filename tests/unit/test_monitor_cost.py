from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import monitor_cost
from benchmarks.monitor_cost import (
    CHECKS,
    SCORES,
    SETS,
    STAGE,
    TARGET_US,
    Long,
    met,
    parts,
    ratio,
    recorded,
    timed,
)
from safeguard.core.types import Evidence, Score
from safeguard.monitors.proof import standing

BEGIN, WINDOW = 64, 8  # the second chunk arrives in tick 60


def _quiet() -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def long() -> Long:
    """An episode that is not long at all."""
    return recorded(BEGIN, WINDOW, 1, _quiet)


def test_the_windows_are_the_first_ticks_and_the_late_ones(long: Long) -> None:
    """Evidence is a tick apart; the late window begins where it should, and the shield's own times are of the same."""
    ticks = [round(evidence.now / (long.setting.period * 1e9)) for evidence in (*long.first, *long.late)]
    start = ticks[0]
    assert [tick - start for tick in ticks] == [*range(WINDOW), *range(BEGIN, BEGIN + WINDOW)]
    assert {name: len(us) for name, us in long.loop.items()} == {"first": WINDOW, "late": WINDOW}


def test_aged_monitors_have_seen_the_episode(long: Long) -> None:
    """They compare the followed chunk with the one before; fresh ones have none to compare it with."""
    aged, fresh = long.aged[0], parts(long.setting, long.calibration)
    assert list(aged) == list(fresh)
    score = [own["overlap_error"](long.late[0]) for own in (aged, fresh)]
    assert [isinstance(each, Score) and each.value > 0.0 for each in score] == [True, False]


class Fake:
    """Parts that take down who saw what."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def part(self, own: str) -> dict[str, Callable[[Evidence], object]]:
        """The checks and scores of one set."""
        return dict.fromkeys((CHECKS, SCORES), lambda evidence: self.calls.append((own, evidence.now)))


def test_late_and_fresh_see_the_same_in_every_order(long: Long) -> None:
    """Of six ticks each order of the three sets comes once; the first window is seen by monitors of its own."""
    fake, fresh = Fake(), iter(("first", "fresh"))
    first, late = ([standing(1, now) for now in range(begin, begin + 6)] for begin in (0, 100))
    episode = Long(first, late, [fake.part("late")], long.setting, long.calibration, {})
    times = timed(episode, lambda: fake.part(next(fresh)), _quiet)
    ticks = [fake.calls[6 * tick : 6 * tick + 6 : 2] for tick in range(6)]
    assert len({tuple(own for own, _ in tick) for tick in ticks}) == 6
    for k, tick in enumerate(ticks):
        assert dict(tick) == {"first": k, "late": 100 + k, "fresh": 100 + k}
    for own in SETS:
        np.testing.assert_array_equal(times[STAGE][own], times[CHECKS][own] + times[SCORES][own])
        assert (times[STAGE][own] > 0.0).all()


def test_a_ratio_is_of_means_and_a_noisy_round_does_not_count() -> None:
    """Twice the time in every tick is 2 exactly, whichever ticks are drawn; one round of five may be anything."""
    under = np.tile(np.array([1.0, 1.0, 1.0, 30.0]), (5, 1))
    over = 2.0 * under
    over[3] = 1e6
    assert ratio(over, under) == (2.0, 2.0, 2.0)


def test_an_interval_covers_what_noise_can_do() -> None:
    """Two draws of one noise: 1 lies within, and the interval is not a point."""
    rng = np.random.default_rng(0)
    value, low, high = ratio(rng.exponential(size=(5, 1000)), rng.exponential(size=(5, 1000)))
    assert low < 1.0 < high
    assert low < value < high


@pytest.mark.parametrize(
    ("first", "late", "low", "good"),
    [(79.0, 79.0, 0.9, True), (81.0, 79.0, 0.9, False), (79.0, 81.0, 0.9, False), (20.0, 20.0, 1.2, False)],
)
def test_the_target_is_the_stage_in_either_window_and_no_growth(
    first: float, late: float, low: float, good: bool
) -> None:
    """Over 80 µs early or late, or late surely dearer than fresh, is missed."""
    assert TARGET_US == 80.0
    stage = {"first": {"p50": first}, "late": {"p50": late}, "late_over_fresh": (low + 0.1, low, low + 0.2)}
    assert met({"us": {STAGE: stage}}) is good


def test_the_command_prints_and_writes_every_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Monitors, checks, scores, stage and what the shield measured are in the table and in the JSON."""
    target = tmp_path / "cost.json"
    small = ["--begin", str(BEGIN), "--window", str(WINDOW), "--rounds", "1"]
    monkeypatch.setattr("sys.argv", ["monitor_cost.py", *small, "--json", str(target)])
    assert monitor_cost.main() in (0, 3)
    found = json.loads(target.read_text())
    shown = capsys.readouterr().out
    names = {CHECKS, SCORES, STAGE, "shield_effort", "overlap_error", "embedding_knn"}
    assert names < set(found["us"])
    assert all(name in shown for name in (*found["us"], "in the loop"))
    assert all(found["us"][name][own]["p99"] >= found["us"][name][own]["p50"] > 0.0 for name in names for own in SETS)
