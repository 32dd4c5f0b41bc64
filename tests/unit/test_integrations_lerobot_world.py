"""The referee's judgement on an SO-101 with position servos, told once a frame through LeRobot's methods."""

from __future__ import annotations

import pytest

from safeguard.core.config import DriveConfig, FilterConfig, MarginConfig, ShieldConfig
from safeguard.scenarios.referee import ViolationKind
from tests.unit.lerobot_world import adversary, drive, waving


def test_an_adversary_violates_nothing() -> None:
    """8 s of far, noisy, missing and NaN targets: no limit is passed, nothing touches, and the arm keeps moving."""
    outcome = drive(adversary, 0, 240)
    assert outcome.judgement.violations == {}
    assert outcome.authority > 0.8
    assert outcome.travelled > 30.0


def test_without_the_shield_it_violates_everything() -> None:
    """The negative control: the same actions, sent as they are."""
    seen = drive(adversary, 0, 120, shield=False).judgement.violations
    assert set(seen) == {ViolationKind.POSITION, ViolationKind.SPEED, ViolationKind.SELF_COLLISION}


def test_a_sound_policy_is_left_alone() -> None:
    """Sines of 20 degrees come out as they went in, and the arm follows as without a shield."""
    with_shield, without = drive(waving, 0, 240), drive(waving, 0, 240, shield=False)
    assert with_shield.judgement.violations == {}
    assert with_shield.unchanged == 1.0
    assert with_shield.authority > 0.95
    assert with_shield.off == pytest.approx(without.off, abs=0.05)


def test_the_defaults_for_one_target_a_frame_are_needed() -> None:
    """With the speed limit and tracking error of drives that are told 500 times a second, servos run too fast."""
    config = ShieldConfig(
        filter=FilterConfig(margins=MarginConfig(position_rad=0.05, velocity_share=0.01)),
        drive=DriveConfig(interface="position", tracking_error_rad=0.05),
    )
    seen = drive(adversary, 0, 240, config=config).judgement.violations
    assert ViolationKind.SPEED in seen
