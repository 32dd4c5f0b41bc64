"""The filter in a loop with MuJoCo as independent physics, refereed on the true state at the end of every period."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest

from safeguard.core.enums import FilterStatus
from safeguard.core.types import FilterResult, RobotState, TorqueCommand, Vector
from safeguard.scenarios.world import World
from tests.unit.controllers_support import DT, capsule_distances, panda, quick_filter, random_q

TICKS = 1500
LIMITS = panda().limits

Attack = Callable[[RobotState, int, np.random.Generator], Vector]


def bang_bang(state: RobotState, k: int, rng: np.random.Generator) -> Vector:
    """Three times the torque limits, each joint's sign drawn anew every 100 ms."""
    signs = np.random.default_rng(k // 50).choice([-1.0, 1.0], 7)
    tau: Vector = 3.0 * LIMITS.tau_max * signs
    return tau


def noise(state: RobotState, k: int, rng: np.random.Generator) -> Vector:
    """Random torques around the limits, every tick."""
    tau: Vector = 1.5 * LIMITS.tau_max * rng.normal(size=7)
    return tau


def to_limits(state: RobotState, k: int, rng: np.random.Generator) -> Vector:
    """A stiff spring to 0.5 rad beyond one end of every joint, the other end after 1.5 s."""
    far = LIMITS.q_max + 0.5 if k < TICKS // 2 else LIMITS.q_min - 0.5
    return 4.0 * LIMITS.tau_max * (far - state.q) - 0.2 * LIMITS.tau_max * state.v


@cache
def penetrating(seed: int) -> Vector:
    """A configuration in deep self-collision."""
    rng = np.random.default_rng(seed)
    while True:
        q = random_q(rng, 0.95)
        if capsule_distances(panda(), q).min() < -0.06:
            return q


def into_itself(state: RobotState, k: int, rng: np.random.Generator) -> Vector:
    """Springs to configurations in deep self-collision, another one every second."""
    return 2.0 * LIMITS.tau_max * (penetrating(k // 500) - state.q) - 0.3 * LIMITS.tau_max * state.v


@dataclass
class Record:
    """What the referee saw."""

    position: float = -np.inf
    speed: float = -np.inf
    torque: float = -np.inf
    contacts: int = 0
    statuses: Counter[FilterStatus] = field(default_factory=Counter[FilterStatus])
    nearest: float = np.inf
    travelled: float = 0.0


def judge(world: World, record: Record) -> None:
    """Compare MuJoCo's state with the exact limits."""
    state = world.observe().state
    record.position = max(record.position, float(np.maximum(state.q - LIMITS.q_max, LIMITS.q_min - state.q).max()))
    record.speed = max(record.speed, float((np.abs(state.v) - LIMITS.v_max).max()))
    record.torque = max(record.torque, float((world.applied_torque - LIMITS.tau_max).max()))
    record.contacts += int(world.data.ncon)


def run(attack: Attack, shielded: bool, ticks: int = TICKS) -> Record:
    """One run from home."""
    filt, world, record = quick_filter(), World(panda(), None, period=DT), Record()
    world.reset(0)
    rng = np.random.default_rng(42)
    filt.reset(world.observe().state)
    for k in range(ticks):
        state = world.observe().state
        tau = attack(state, k, rng)
        if shielded:
            result: FilterResult = filt(state, torque=tau)
            assert result.status is not FilterStatus.REFUSED, result.refusal
            record.statuses[result.status] += 1
            record.nearest = min(record.nearest, result.margins.clearance)
            tau = result.torque
        world.apply(TorqueCommand(tau, world.time_ns, world.time_ns + 2 * world.period_ns, k))
        world.advance()
        judge(world, record)
        record.travelled += float(np.abs(world.observe().state.q - state.q).sum())
    return record


@pytest.mark.parametrize("attack", [noise, bang_bang, to_limits, into_itself])
def test_no_attack_gets_through(attack: Attack) -> None:
    """3 s of each attack: no position, speed or torque beyond its exact limit, no contact, and the arm moves."""
    record = run(attack, shielded=True)
    assert record.position <= 0.0
    assert record.speed <= 0.0
    assert record.torque <= 0.0
    assert record.contacts == 0
    assert record.nearest > 0.0
    assert record.travelled > 1.0
    assert record.statuses[FilterStatus.CORRECTED] > TICKS // 4


def test_the_attacks_reach_what_they_aim_at() -> None:
    """The shielded arm is brought to within 10 mrad of a limit and to within 15 mm of itself: nothing is avoided."""
    assert run(to_limits, shielded=True).position > -0.01
    assert run(into_itself, shielded=True).nearest < 0.015


@pytest.mark.parametrize(
    ("attack", "kinds"),
    [
        (noise, {"torque"}),
        (bang_bang, {"position", "speed", "torque"}),
        (to_limits, {"position", "speed", "torque"}),
        (into_itself, {"contacts", "torque", "speed"}),
    ],
)
def test_the_same_loop_without_the_filter_shows_every_kind(attack: Attack, kinds: set[str]) -> None:
    """Negative control: the raw proposals break what the filter keeps, and this referee sees it."""
    record = run(attack, shielded=False, ticks=700)
    seen = {kind for kind in ("position", "speed", "torque", "contacts") if getattr(record, kind) > 0}
    assert kinds <= seen


def test_a_proposal_that_turns_nan_leads_to_standstill_in_physics() -> None:
    """In full swing the proposals become NaN for good: the arm rests within half a second, inside every limit."""
    filt, world, record = quick_filter(), World(panda(), None, period=DT), Record()
    world.reset(0)
    filt.reset(world.observe().state)
    rng = np.random.default_rng(0)
    speeds: list[float] = []
    for k in range(500):
        state = world.observe().state
        tau = bang_bang(state, k, rng) if k < 150 else np.full(7, np.nan)
        result = filt(state, torque=tau)
        world.apply(TorqueCommand(result.torque, world.time_ns, world.time_ns + 2 * world.period_ns, k))
        world.advance()
        judge(world, record)
        speeds.append(float(np.abs(world.observe().state.v).max()))
    assert max(speeds[:150]) > 0.5
    assert max(speeds[400:]) < 1e-3
    assert max(record.position, record.speed, record.torque) <= 0.0
    assert record.contacts == 0
