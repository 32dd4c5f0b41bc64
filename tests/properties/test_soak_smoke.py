"""A short soak of the filter against every adversary, and its negative control."""

from __future__ import annotations

from pathlib import Path

from safeguard.controllers.certify import quick_design
from safeguard.core.certificate import Uncertainty
from safeguard.core.robot import RobotModel
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


def test_a_constant_push_does_not_creep_through_a_floor() -> None:
    """Four seconds in which the nearest points of a wrist jump between corners: no contact, and nobody freezes.

    With stops that may lose 10 µm below a floor, links overlap from tick 1792 on (docs/decisions/0018-retreat.md).
    """
    verdict = run_soak(SoakPlan(robot="g1", ticks=1_000_000, seed=41), blocks=[211])
    assert verdict.results[0].adversary == "lean"
    assert verdict.passed, verdict.findings
    assert verdict.shares()["corrected"] > 0.95
    assert verdict.shares()["stuck"] < 0.05


def test_without_the_filter_every_kind_is_seen() -> None:
    """Negative control: the same starts and proposals on the same plant break everything that is judged."""
    verdict = run_soak(SoakPlan(ticks=200 * len(ADVERSARIES), block_ticks=200, seed=3, filtered=False))
    assert verdict.findings.keys() == set(KINDS)
    assert not verdict.passed
    for adversary in ("bang_bang", "to_limits", "jumps", "out_of_range", "accelerations", "velocities"):
        mine = [result.findings for result in verdict.results if result.adversary == adversary]
        assert all({"speed", "torque"} <= findings.keys() for findings in mine), adversary


def perturbed(certificate: str | None, delay: int) -> SoakPlan:
    """Masses 10 % off, dry friction, one tick of delay, towards limits and with full torque."""
    return SoakPlan(
        ticks=6000, block_ticks=1500, adversaries=("to_limits", "bang_bang"), mass_error=0.10, friction_nm=0.1,
        delay_ticks=1, filter_delay_ticks=delay, certificate=certificate,
    )  # fmt: skip


def test_a_certificate_covers_what_it_declares(tmp_path: Path) -> None:
    """With the figures of a certificate for this uncertainty and delay nothing is violated, and most ticks move.

    Control: the same plant breaks the same filter without the certificate.
    """
    robot, path = RobotModel.load("panda"), tmp_path / "panda.json"
    quick_design(robot, 0.002, Uncertainty.of(robot), delay_ticks=1).save(path)
    verdict = run_soak(perturbed(str(path), 1))
    assert verdict.exceptions == ()
    assert not verdict.findings.keys() & set(verdict.plan.claimed), verdict.findings
    assert verdict.shares()["corrected"] > 0.5
    assert run_soak(perturbed(None, 0)).findings.keys() & {"position", "speed"}
