from __future__ import annotations

from collections.abc import Callable

import pytest

from safeguard.core.enums import Cause
from safeguard.core.types import Verdict
from safeguard.monitors.deterministic import asleep
from safeguard.monitors.plan import PlanSanity
from safeguard.monitors.punctual import Punctual
from safeguard.monitors.sensors import Sensors
from safeguard.monitors.verdicts import failed, passed

SENSORS = {f"sensor.{name}" for name in ("missing", "numbers", "shape", "future", "order", "age", "frozen")}
QUIET, LOUD = passed("x"), failed("x", Cause.MONITOR_WARN, "always")


def one(verdict: Verdict) -> Callable[..., Verdict]:
    """A check that always says this."""
    return lambda *given, **more: verdict


def many(verdict: Verdict) -> Callable[..., tuple[Verdict, ...]]:
    """A check that always says this, three times."""
    return lambda *given, **more: (verdict,) * 3


def test_every_check_is_awake() -> None:
    """Each trips on its fault and on nothing else."""
    assert asleep() == ()


@pytest.mark.parametrize("verdict", [QUIET, LOUD])
def test_a_check_that_sleeps_is_named(monkeypatch: pytest.MonkeyPatch, verdict: Verdict) -> None:
    """One that never speaks, and one that always does: all of its proofs fail, and nobody else's."""
    with monkeypatch.context() as patch:
        patch.setattr(Sensors, "check", many(verdict))
        assert set(asleep()) == {*SENSORS, "sensors"}
    with monkeypatch.context() as patch:
        patch.setattr(PlanSanity, "check", many(verdict))
        assert set(asleep()) == {"plan.jump", "plan.curvature", "plan.reversals"}
    with monkeypatch.context() as patch:
        patch.setattr(Punctual, "check", one(verdict))
        assert set(asleep()) == {"punctual.in_a_row", "punctual.m_of_k"}
