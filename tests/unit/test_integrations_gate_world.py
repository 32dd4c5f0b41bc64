"""MuJoCo plays what the gate answers, and its referee judges."""

from __future__ import annotations

import numpy as np
import pytest

from safeguard.core.enums import Cause
from safeguard.core.types import NS_PER_S
from tests.unit.gate_world import ADVERSARIES, CONFIG, ServoHost, gate

pytest.importorskip("mujoco")

OFFERS = 14


def _run(adversary: str, *, late: bool = False, rate: float = 15.0, plays: int = 10) -> ServoHost:
    """A host that was acknowledged, after hostile chunks; a person acknowledges whatever stops it."""
    host = ServoHost(gate(rate=rate, config=CONFIG, plays=plays))
    host.start()
    for k in range(OFFERS):
        if k % 6 == 5:  # a button that is held all the time acknowledges nothing
            host.gate.acknowledge(operator="somebody", reason="go on")
        rows = ADVERSARIES[adversary](k, host.q, host.robot)
        host.offer(host.chunk(rows), late=float(k % 3) if late else 0.0)
    return host


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_played_answers_keep_every_limit(adversary: str) -> None:
    """Hostile chunks through the gate: no limit of position, speed or torque is passed, and no link touches another."""
    host = _run(adversary)
    assert host.world.judgement.violations == {}
    assert host.world.lag < CONFIG.drive.tracking_error_rad


@pytest.mark.parametrize("adversary", ["folded", "jumps"])
def test_late_offers_keep_every_limit(adversary: str) -> None:
    """So do they where the host asks up to two rows late and waits at the last row that it played."""
    assert _run(adversary, late=True).world.judgement.violations == {}


def test_fast_rows_keep_every_limit() -> None:
    """So do they at 50 rows a second."""
    assert _run("folded", rate=50.0, plays=15).world.judgement.violations == {}


@pytest.mark.parametrize(("adversary", "kinds"), [("far", {"position", "speed"}), ("folded", {"self_collision"})])
def test_without_the_gate_the_same_chunks_break_them(adversary: str, kinds: set[str]) -> None:
    """The negative control: the same host and the same chunks, unshielded."""
    host = ServoHost(gate(config=CONFIG, plays=10))
    for k in range(OFFERS):
        host.play(ADVERSARIES[adversary](k, host.q, host.robot)[:10])
    assert kinds <= {kind.value for kind in host.world.judgement.violations}


def test_a_reachable_target_is_reached() -> None:
    """Asked at once for a posture 0.5 rad away, the arm is there in at most three times the least time it takes."""
    host = ServoHost(gate(config=CONFIG, plays=10))
    host.start()
    goal = host.robot.home + 0.5 * np.array([1, -1, 1, 1, 1, 1, 1])
    begun, least = host.now, float(np.max(2.0 * np.sqrt(0.5 / host.robot.limits.a_max)))
    for _ in range(12):
        host.offer(host.chunk(np.tile(goal, (15, 1))))
        if np.abs(host.q - goal).max() < 0.02:
            break
    assert np.abs(host.q - goal).max() < 0.02
    assert (NS_PER_S + host.world.time_ns - begun) / NS_PER_S < 3.0 * least + 2 * 10 / 15


def test_an_arm_that_is_held_is_not_pulled() -> None:
    """An arm found elsewhere than it was told to be is told to stay where it is measured, and the record says why."""
    host = ServoHost(gate(config=CONFIG, plays=10))
    host.start()
    held = host.q + np.array([0.3, 0, 0, 0, 0, 0, 0])
    answer = host.gate.offer(held, host.chunk(np.tile(host.q, (15, 1))), now=host.now + NS_PER_S)
    assert np.array_equal(answer.actions[:, :7], np.tile(held, (15, 1)))
    assert "from what its drive was told" in answer.decision.filter.refusal
    answer = host.gate.offer(held, host.chunk(np.tile(host.q, (15, 1))), now=host.now + 2 * NS_PER_S)
    assert Cause.FILTER_FAILED in answer.decision.causes
