"""Usefulness: targets are what they claim, a useful filter passes, a useless or unsafe one fails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from safeguard.controllers.dynamics import Dynamics
from safeguard.controllers.filter import SafetyFilter
from safeguard.core.enums import FilterStatus, SolverStatus
from safeguard.core.errors import ConfigError
from safeguard.core.robot import RobotModel
from safeguard.core.types import FilterResult, Margins, RobotState, Vector, frozen_array
from safeguard.scenarios.referee import Clearance
from safeguard.scenarios.usefulness import (
    Comparison,
    Target,
    Unfiltered,
    Unsafe,
    Usefulness,
    alternating_targets,
    compare_usefulness,
    measure_usefulness,
)

ROBOT = RobotModel.load("panda")
CLEARANCE = Clearance(ROBOT)


class Double:
    """A filter that answers every acceleration with a torque of its own."""

    def __init__(self, answer: Callable[[Dynamics, RobotState, Vector], Vector]) -> None:
        self._answer, self._dynamics = answer, Dynamics(ROBOT)

    def __call__(self, state: RobotState, *, acceleration: Vector) -> FilterResult:
        """The answer, as if it were admissible."""
        self._dynamics.update(state.q, state.v)
        tau = frozen_array(self._answer(self._dynamics, state, acceleration))
        margins, nothing = Margins(0.0, 0.0, 0.0, 0.0, ""), frozen_array(np.zeros(ROBOT.n))
        return FilterResult(
            tau, nothing, FilterStatus.ADMISSIBLE, SolverStatus.SKIPPED, "proposal", (), (), margins, 0.0
        )

    def reset(self, state: RobotState | None = None) -> None:
        """Nothing to forget."""


def raw(dynamics: Dynamics, state: RobotState, acceleration: Vector) -> Vector:
    """No filter at all."""
    return dynamics.torque(acceleration)


def zero(dynamics: Dynamics, state: RobotState, acceleration: Vector) -> Vector:
    """Zero output: carry the arm, damp it, do nothing else."""
    return dynamics.torque(-20.0 * state.v)


def inside(q: Vector, margin: float = 0.0) -> bool:
    """Every joint keeps ``margin`` from its limits."""
    return bool(((q >= ROBOT.limits.q_min + margin) & (q <= ROBOT.limits.q_max - margin)).all())


@pytest.mark.parametrize("kind", Unsafe)
def test_safe_targets_are_safe_and_unsafe_ones_are_not(kind: Unsafe) -> None:
    """They alternate; safe ones keep 2 cm and 0.15 rad, also on the way from the safe one before."""
    targets = alternating_targets(ROBOT, 3, kind, pairs=6)
    assert [target.safe for target in targets] == [False, True] * 6
    before = ROBOT.home
    for target in targets:
        assert 1.5 <= target.seconds <= 2.5
        if not target.safe:
            assert not inside(target.q) or CLEARANCE(target.q)[0] < 0.0
            continue
        assert inside(target.q, 0.15)
        way = [before + (target.q - before) * share for share in np.linspace(0.3, 1.0, 30)]
        assert min(CLEARANCE(q)[0] for q in way) > 0.019
        before = target.q


@pytest.mark.parametrize(
    ("kind", "unsafe"),
    [(Unsafe.JOINT_LIMITS, (False, None)), (Unsafe.SELF_COLLISION, (True, True))],
)
def test_each_kind_is_unsafe_in_its_own_way(kind: Unsafe, unsafe: tuple[bool, bool | None]) -> None:
    """Joint limits are exceeded, or the links overlap inside all limits."""
    for target in alternating_targets(ROBOT, 4, kind, pairs=5)[::2]:
        within, overlaps = unsafe
        assert inside(target.q) == within
        assert overlaps is None or (CLEARANCE(target.q)[0] < 0.0) == overlaps


def test_targets_are_a_function_of_seed_and_kind() -> None:
    """The same seed repeats them; another gives others."""
    first, again, other = (alternating_targets(ROBOT, seed, Unsafe.RANDOM, pairs=2) for seed in (1, 1, 2))
    assert all(np.array_equal(a.q, b.q) and a.seconds == b.seconds for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[1].q, other[1].q)


def test_the_arm_without_a_filter_reaches_every_safe_target_safely() -> None:
    """What a filter is measured against is possible, and harmless, for the same tracking law alone."""
    safe = [t for kind in Unsafe for t in alternating_targets(ROBOT, 5, kind, pairs=3) if t.safe]
    for start in range(0, len(safe), 3):  # each kind has its own chain of ways from home
        found = measure_usefulness(ROBOT, Double(raw), safe[start : start + 3])
        assert (found.reached, found.safe) == (3, 3)
        assert found.judgement.clean
        assert found.stuck == 0.0
        assert found.passes()


@pytest.mark.parametrize("kind", Unsafe)
def test_the_arm_without_a_filter_fails_on_unsafe_targets(kind: Unsafe) -> None:
    """Negative control: the unsafe targets are real, so reaching the safe ones is not enough."""
    found = measure_usefulness(ROBOT, Double(raw), alternating_targets(ROBOT, 5, kind, pairs=3))
    assert found.judgement.hazard
    assert not found.passes()


def test_a_filter_with_zero_output_fails() -> None:
    """It violates nothing, reaches nothing and stands: that is not useful."""
    found = measure_usefulness(ROBOT, Double(zero), alternating_targets(ROBOT, 5, Unsafe.RANDOM, pairs=3))
    assert found.judgement.clean
    assert found.reached == 0
    assert found.stuck > 0.5
    assert not found.passes()


def test_without_a_safe_target_there_is_nothing_to_measure() -> None:
    """A share of nothing is refused."""
    with pytest.raises(ConfigError, match="no safe target"):
        measure_usefulness(ROBOT, Double(zero), [Target(ROBOT.home, False, 1.5)])


def arm(seconds: tuple[float | None, ...]) -> Usefulness:
    """What was left of an arm, as far as times go."""
    judgement = measure_usefulness(ROBOT, Double(zero), [Target(ROBOT.home, True, 0.1)]).judgement
    return Usefulness(len(seconds), sum(s is not None for s in seconds), 0.0, 0.0, 0.0, judgement, seconds)


def test_times_count_only_where_both_arms_arrive() -> None:
    """Too late and never are both not in time; what the free arm cannot reach is not asked for."""
    found = Comparison(arm((1.0, 1.4, None, 2.0, None)), arm((1.0, 1.0, 1.0, None, None)))
    assert found.possible == 3
    assert found.ratios == (1.0, 1.4)
    assert found.in_time(1.3) == pytest.approx(1 / 3)
    assert found.in_time(1.5) == pytest.approx(2 / 3)


def test_the_time_to_a_target_is_when_the_arm_is_there_for_good() -> None:
    """Near the end of the moving part of its time; None for an arm that stays where it is."""
    targets = [t for t in alternating_targets(ROBOT, 5, Unsafe.RANDOM, pairs=2) if t.safe]
    found = compare_usefulness(ROBOT, Double(zero), targets)
    assert found.filtered.seconds == (None, None)
    for seconds, target in zip(found.unfiltered.seconds, targets, strict=True):
        assert seconds is not None
        assert 0.3 * target.seconds < seconds < 0.75 * target.seconds
    assert found.in_time() == 0.0
    assert compare_usefulness(ROBOT, Unfiltered(ROBOT), targets).ratios == (1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", Unsafe)
def test_the_safety_filter_alone_leaves_the_arm_useful(kind: Unsafe) -> None:
    """At least 90 % of the safe targets reached and in time, stuck at most 5 % of their ticks, no violation."""
    targets = alternating_targets(ROBOT, 11, kind, pairs=5)
    compared = compare_usefulness(ROBOT, SafetyFilter(ROBOT, dt=0.002), targets)
    found = compared.filtered
    assert compared.possible > 0
    assert compared.in_time(1.3) >= 0.9
    assert found.judgement.clean
    assert found.reached_share >= 0.9
    assert found.stuck <= 0.05
    assert found.modified > 0.1
