"""The benchmark of false alarms, in small: what it draws, how it judges, what it prints."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import false_alarms
from benchmarks.alarm_laws import Maxima, ar1_maxima, judge
from benchmarks.false_alarms import Line, main, of_ar1, table


def same(a: Maxima, b: Maxima) -> bool:
    """Both scores are equal to the last bit."""
    return all(np.array_equal(a[name], b[name]) for name in ("g_act", "g_warn"))


def test_episodes_of_a_seed_are_always_the_same() -> None:
    """AR(1) maxima follow from the generator alone; g_warn is never below g_act."""
    found = ar1_maxima(50, np.random.default_rng(1))
    assert same(found, ar1_maxima(50, np.random.default_rng(1)))
    assert not same(found, ar1_maxima(50, np.random.default_rng(2)))
    assert np.all(found["g_warn"] >= found["g_act"])


def test_rows_name_rung_and_rate() -> None:
    """Three rungs at 0.10, 0.02, 0.005 and their union at 0.12, stop inside degrade."""
    rng = np.random.default_rng(3)
    rows = judge(ar1_maxima(300, rng), ar1_maxima(400, rng))
    assert [(row.name, round(row.alpha, 3)) for row in rows] == [
        ("warn", 0.1),
        ("degrade", 0.02),
        ("stop", 0.005),
        ("any rung", 0.12),
    ]
    assert rows[2].alarms <= rows[1].alarms
    assert rows[0].alarms <= rows[3].alarms <= rows[0].alarms + rows[1].alarms


def test_a_test_that_said_the_wrong_thing_is_marked() -> None:
    """Where a right method fails or a wrong one passes the table says UNEXPECTED, elsewhere it does not."""
    row = judge(ar1_maxima(100, np.random.default_rng(4)), ar1_maxima(100, np.random.default_rng(5)))[0]
    for passed, passes in ((True, True), (False, False), (True, False), (False, True)):
        shown = io.StringIO()
        judged = replace(row, alarms=row.high if passed else row.high + 1)
        Console(file=shown, width=200).print(table([Line("p", judged, passes)]))
        assert ("UNEXPECTED" in shown.getvalue()) == (passed != passes)


def test_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command gives its table, a JSON file with every row, and 1 where a control passes for want of power."""
    monkeypatch.setattr(
        sys, "argv", ["x", "--process", "ar1", "--ar1", "3000", "3000", "--json", str(tmp_path / "f.json")]
    )
    right = all(line.right for line in of_ar1(3000, 3000, 1))
    assert main() == (0 if right else 1)
    found = json.loads((tmp_path / "f.json").read_text())
    assert len(found) == 8
    assert found[0]["name"] == "warn"
    assert "power at 1.5×" in capsys.readouterr().out

    def unexpected(n: int, m: int, seed: int) -> list[Line]:
        """The same rows, expected to be the other way."""
        return [replace(line, passes=not line.row.passed) for line in of_ar1(300, 300, seed)]

    monkeypatch.setattr(false_alarms, "of_ar1", unexpected)
    assert main() == 1


def test_gym_episodes_reach_every_monitor() -> None:
    """Reacher-v5 with all seven monitors: D of a seed is always the same, and worn motors are found by degrade."""
    pytest.importorskip("gymnasium", reason="extra gym")
    pytest.importorskip("imageio", reason="extra gym")
    from benchmarks.alarm_gym import gym_maxima

    (nominal, worn), names = gym_maxima(8, (15, 10), 0, (0.01, 0.03))
    (again,), _ = gym_maxima(8, (15,), 0, (0.01,))
    assert same(nominal, again)
    assert len(names) == 7
    assert np.all(np.isfinite(nominal["g_warn"]))
    assert np.count_nonzero(worn["g_act"] > nominal["g_act"].max()) > 5
