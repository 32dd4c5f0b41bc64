from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import ppo_through_shield as bench

pytest.importorskip("stable_baselines3")


def trained(**changes: Any) -> bench.Trained:
    """A run that bears out every claim."""
    given: dict[str, Any] = {
        "seed": 0,
        "shielded": True,
        "steps": 10,
        "minutes": 0.1,
        "returns": (-1.0, -1.2, -0.9, -1.1),
        "random_returns": (-9.0, -8.0, -8.5, -9.5),
        "violations": {},
        "worst": {},
        "periods": 250,
        "interventions": (0.4, 0.2),
    }
    return bench.Trained(**(given | changes))


@pytest.mark.slow
def test_an_agent_that_has_learned_little_breaks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PPO for 200 actions and its evaluation: MuJoCo sees 0 violations with the shield, and some without."""
    figures = tmp_path / "figures.json"
    bench.main(["--steps", "200", "--seeds", "0", "--episodes", "3", "--json", str(figures)])
    shielded, without = json.loads(figures.read_text("utf-8"))["runs"]

    assert (shielded["shielded"], shielded["steps"], shielded["violations"]) == (True, 200, {})
    assert without["violations"]["torque"] > 0
    assert sum(without["violations"].values()) > 100
    assert "holds  0 violations through the shield" in capsys.readouterr().out


def test_the_interval_is_of_the_difference_of_the_means() -> None:
    """For normal samples it is Welch's: 1 ± 1.96 · sqrt(2 / 100)."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(100) for _ in range(2))
    a, b = (a - a.mean()) / a.std() + 1.0, (b - b.mean()) / b.std()
    mean, low, high = bench.gain(a, b, seed=0)

    assert mean == pytest.approx(1.0)
    assert (low, high) == pytest.approx((1.0 - 1.96 * 0.02**0.5, 1.0 + 1.96 * 0.02**0.5), abs=0.02)


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"returns": (-9.0, -8.9, -8.0, -9.3)}, "learns"),
        ({"violations": {"speed": 1}}, "0 violations"),
        ({"shielded": False}, "violations without"),
    ],
)
def test_a_claim_that_does_not_hold_fails(changes: dict[str, Any], failed: str) -> None:
    """Each claim is refuted by the run that contradicts it, and by that alone."""
    assert all(bench.verdicts([trained(), trained(shielded=False, violations={"speed": 1})]).values())
    refuted = [claim for claim, holds in bench.verdicts([trained(**changes)]).items() if not holds]
    assert [claim.startswith(failed) for claim in refuted] == [True]
