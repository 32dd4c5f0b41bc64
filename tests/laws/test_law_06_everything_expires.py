# pyright: reportPrivateUsage=false
# A violation is planted where the code would make it: inside.

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from safeguard.controllers import ArmPlatform
from safeguard.core.enums import Authority, Cause
from safeguard.core.types import NS_PER_S, TorqueCommand
from safeguard.monitors import Intake, PolicyDeadline
from safeguard.monitors import intake as checks
from safeguard.policies import InlinePort, as_policy
from safeguard.scenarios.world import World
from tests.laws.lab import CONFIG, PERIOD, TICK, Lab, always, near, panda, spec

Patch = pytest.MonkeyPatch


@cache
def world() -> World:
    """A simulated arm without a task."""
    return World(panda(), None, period=PERIOD)


def check_law_6_commands(lab: Lab) -> None:
    """Every command is void after the configured number of periods, and drives act on that."""
    life = CONFIG.command_periods * TICK
    for _ in range(20):
        now = lab.now
        command = lab.tick().command
        assert isinstance(command, TorqueCommand)
        assert command.expires == now + life
    body = world()
    body.reset(0)
    body.apply(TorqueCommand(lab.decisions[-1].filter.torque, body.time_ns, body.time_ns + life, 0))
    for _ in range(CONFIG.command_periods):
        body.advance()
        assert not body.braked
    body.advance()
    assert body.braked, "a void command still moves the arm"


def check_law_6_chunks(hangs_at: int) -> None:
    """A chunk is followed no longer than the deadline after the observation that it was computed from."""
    port = InlinePort(
        as_policy(near, spec=spec(), name="hangs"),
        latency=lambda count, now: float("inf") if now >= hangs_at else 0.02,
    )
    lab = Lab(port).start()
    last = max(p for p in range(0, hangs_at, round(0.1 * NS_PER_S)))
    deadline = round(CONFIG.policy.deadline_s * NS_PER_S)
    late = None
    while lab.now < hangs_at + 2 * deadline:
        now = lab.now
        decision = lab.tick()
        if Cause.POLICY_LATE in decision.causes:
            late = late or now
            assert decision.authority is not Authority.POLICY
    assert late is not None, "an old chunk was followed for ever"
    assert late == last + deadline + TICK


def check_law_6_observations(stale_for: int) -> None:
    """A measurement moves the body once; after its age limit nothing that rests on it does."""
    lab = Lab().start(20)
    seen = lab.observe()
    lab.tick(seen)
    for _ in range(stale_for):
        decision = lab.tick(seen)
        assert Cause.STATE_STALE in decision.causes
        assert decision.authority is not Authority.POLICY


def test_law_6_commands() -> None:
    """Commands expire, and the brakes of the simulated arm engage when one has."""
    check_law_6_commands(Lab().start())


def test_law_6_chunks() -> None:
    """Chunks expire in the very tick after the deadline."""
    check_law_6_chunks(900_000_000)


def test_law_6_observations() -> None:
    """Observations expire: the same one twice moves nothing."""
    check_law_6_observations(10)


# -- planted ------------------------------------------------------------------------------------------


def immortal(patch: Patch) -> None:
    """Commands live for ever."""
    real = ArmPlatform.command

    def command(self: ArmPlatform, result: Any, now: int, expires: int, seq: int) -> Any:
        return real(self, result, now, 2**62, seq)

    patch.setattr(ArmPlatform, "command", command)


def longer(patch: Patch) -> None:
    """Commands live one nanosecond too long."""
    real = ArmPlatform.command

    def command(self: ArmPlatform, result: Any, now: int, expires: int, seq: int) -> Any:
        return real(self, result, now, expires + 1, seq)

    patch.setattr(ArmPlatform, "command", command)


def patient_drives(patch: Patch) -> None:
    """Drives do not look at the expiry."""
    real = World.apply

    def apply(self: World, command: Any) -> None:
        real(self, command)
        self._expires = 2**62

    patch.setattr(World, "apply", apply)


@pytest.mark.parametrize("plant", [immortal, longer, patient_drives], ids=lambda plant: plant.__name__)
def test_law_6_planted_commands(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    """A command that lives too long is seen."""
    lab = Lab().start()
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_law_6_commands(lab)


def no_deadline(patch: Patch) -> None:
    """There is no deadline."""
    patch.setattr(PolicyDeadline, "check", always(checks.PROPOSAL))


def late_deadline(patch: Patch) -> None:
    """The deadline is one tick late."""
    real = PolicyDeadline.check

    def check(self: PolicyDeadline, current: Any, now: int) -> Any:
        return real(self, current, now - TICK)

    patch.setattr(PolicyDeadline, "check", check)


@pytest.mark.parametrize("plant", [no_deadline, late_deadline], ids=lambda plant: plant.__name__)
def test_law_6_planted_chunks(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    """A chunk that is followed too long is seen, even by one tick."""
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_law_6_chunks(900_000_000)


def test_law_6_planted_observations(monkeypatch: Patch) -> None:
    """An intake that takes a measurement twice is seen."""
    monkeypatch.setattr(Intake, "_age", always(checks.AGE))
    with pytest.raises(AssertionError):
        check_law_6_observations(10)


def test_lab_is_alive() -> None:
    """The body of these tests moves, so that what they say about motion is not vacuous."""
    assert np.abs(Lab().start(100).v).max() > 0.01
