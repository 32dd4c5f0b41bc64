"""A short soak of the filter against every adversary, and its negative control."""

from __future__ import annotations

from safeguard.scenarios.adversary import ADVERSARIES
from safeguard.scenarios.arena import SoakPlan
from safeguard.scenarios.ledger import KINDS
from safeguard.scenarios.soak import run_soak

PLAN = SoakPlan(ticks=400 * len(ADVERSARIES), block_ticks=400, seed=3)


def test_no_adversary_gets_through() -> None:
    """Position, speed, torque, self-collision and acceleration keep their exact limits, no tick raises.

    The filter answers itself: next to no tick is refused, and most of the backups answer garbage.
    """
    verdict = run_soak(PLAN)
    assert verdict.ticks == PLAN.ticks
    assert verdict.exceptions == ()
    assert not verdict.findings.keys() & set(PLAN.claimed), verdict.findings
    assert verdict.passed
    shares = verdict.shares()
    assert shares.get("refused", 0.0) == 0.0
    assert shares["corrected"] > 0.5
    assert verdict.shares("garbage")["backup"] > 0.05


def test_without_the_filter_every_kind_is_seen() -> None:
    """Negative control: the same starts and proposals on the same plant break everything that is judged."""
    verdict = run_soak(SoakPlan(ticks=200 * len(ADVERSARIES), block_ticks=200, seed=3, filtered=False))
    assert verdict.findings.keys() == set(KINDS)
    assert not verdict.passed
    for adversary in ("bang_bang", "to_limits", "jumps", "out_of_range", "accelerations", "velocities"):
        mine = [result.findings for result in verdict.results if result.adversary == adversary]
        assert all({"speed", "torque"} <= findings.keys() for findings in mine), adversary
