from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from safeguard.controllers import ArmPlatform, SafetyFilter
from safeguard.core.enums import Authority, FilterStatus, Mode
from safeguard.core.types import FilterResult, Nominal, RobotState, TerminalStop
from safeguard.selftest import self_test
from tests.laws.lab import FAST, PERIOD, Lab, always, panda

Patch = pytest.MonkeyPatch


def platform() -> ArmPlatform:
    """A fresh body."""
    return ArmPlatform(panda(), PERIOD, FAST)


def test_the_real_parts_pass() -> None:
    """The arm as it is may move, and its filter is left as if it had never been asked."""
    body = platform()
    assert self_test(body) == ()
    assert body.safety_filter.plan is None


def believes_anything(patch: Patch) -> None:
    """Any state passes for a measurement."""
    patch.setattr(ArmPlatform, "plausible", always(None))


def answering(**parts: Any) -> Callable[[Patch], None]:
    """A filter whose results have some parts replaced."""

    def plant(patch: Patch) -> None:
        real = ArmPlatform.filter

        def filtered(self: ArmPlatform, state: RobotState, nominal: Nominal, *rest: Any) -> FilterResult:
            return replace(real(self, state, nominal, *rest), **parts)

        patch.setattr(ArmPlatform, "filter", filtered)

    return plant


def passes_through(patch: Patch) -> None:
    """Proposals come out as they went in."""

    def filtered(self: ArmPlatform, state: RobotState, nominal: Nominal, *_: Any) -> FilterResult:
        return self.bypass(state, nominal)

    patch.setattr(ArmPlatform, "filter", filtered)


FAULTS: dict[str, tuple[Callable[[Patch], None], str]] = {
    "believes any state": (believes_anything, "passes for a measurement"),
    "accepts any proposal": (answering(status=FilterStatus.ADMISSIBLE), "is answered by admissible"),
    "refuses everything": (answering(status=FilterStatus.REFUSED), "is answered by refused"),
    "computes NaN": (answering(torque=np.full(7, np.nan)), "torque that is not finite"),
    "passes NaN through": (passes_through, "torque that is not finite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_part_is_named(fault: str, monkeypatch: Patch) -> None:
    """Each check finds the fault that it is there for."""
    plant, words = FAULTS[fault]
    plant(monkeypatch)
    failures = self_test(platform())
    assert failures
    assert any(words in failure for failure in failures)


def test_no_self_test_no_motion(monkeypatch: Patch) -> None:
    """A shield whose self-test failed stays in BOOT with the brakes on, whatever anybody acknowledges."""
    believes_anything(monkeypatch)
    lab = Lab()
    assert lab.shield.self_test
    for _ in range(5):
        lab.acknowledge()
        lab.run(60)
    assert {(d.mode, d.authority) for d in lab.decisions} == {(Mode.BOOT, Authority.NONE)}
    assert {type(d.command) for d in lab.decisions} == {TerminalStop}


def test_a_bounded_platform_is_not_asked_to_brake(monkeypatch: Patch) -> None:
    """Only platforms that guarantee braking are tried with proposals."""
    monkeypatch.setattr(ArmPlatform, "guarantee", "bounded")

    def apply(*_: object) -> None:
        pytest.fail("a bounded platform was filtered")

    monkeypatch.setattr(SafetyFilter, "apply", apply)
    assert self_test(platform()) == ()
