from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.enums import Cause, Level
from safeguard.core.errors import ConfigError
from safeguard.core.types import Proposal
from safeguard.monitors import PolicyDeadline, TickOverrun
from tests.unit.monitors_support import decision

MS = 1_000_000


def chunk(t_obs: int) -> Proposal:
    """A proposal of which only the observation time matters here."""
    return Proposal(np.zeros((1, 1)), t_obs, t_obs, "test", 0)


def test_fresh_proposal_is_on_time() -> None:
    """Up to and at the age limit the policy is on time, with one constant verdict."""
    deadline = PolicyDeadline(0.2)
    first, second = deadline.check(chunk(0), 0), deadline.check(chunk(0), 200 * MS)
    assert first is second
    assert (first.level, first.cause) == (Level.OK, None)


def test_old_proposal_is_late() -> None:
    """One nanosecond past the limit is POLICY_LATE with age and limit in seconds."""
    verdict = PolicyDeadline(0.2).check(chunk(0), 200 * MS + 1)
    assert (verdict.cause, verdict.threshold) == (Cause.POLICY_LATE, 0.2)
    assert verdict.score == pytest.approx(0.2)


def test_startup_grace_ends() -> None:
    """Without any proposal the policy is late once the grace is over, and again in the next episode."""
    deadline = PolicyDeadline(0.2, startup_s=0.5)
    for _ in range(2):
        assert deadline.check(None, 1000 * MS).cause is None
        assert deadline.check(None, 1499 * MS).cause is None
        assert deadline.check(None, 1500 * MS).cause is Cause.POLICY_LATE
        deadline.reset()


def test_no_grace_by_default() -> None:
    """A missing proposal is late in the first tick: missing is alarm."""
    assert PolicyDeadline().check(None, 0).cause is Cause.POLICY_LATE


@given(st.lists(st.tuples(st.none() | st.integers(0, 10**9), st.integers(0, 10**9)), max_size=20))
def test_deadline_is_deterministic(calls: list[tuple[int | None, int]]) -> None:
    """The verdicts follow from the sequence of proposals and times alone."""
    one, two = PolicyDeadline(0.1, 0.2), PolicyDeadline(0.1, 0.2)
    for t_obs, now in calls:
        current = None if t_obs is None else chunk(t_obs)
        assert repr(one.check(current, now)) == repr(two.check(current, now))


@pytest.mark.parametrize(("age", "startup"), [(0.0, 0.0), (nan, 0.0), (inf, 0.0), (0.2, -1.0), (0.2, nan)])
def test_wrong_times_are_refused(age: float, startup: float) -> None:
    """Times that are not finite or too small are configuration errors."""
    with pytest.raises(ConfigError, match="finite number of seconds"):
        PolicyDeadline(age, startup)


def test_overrun_compares_the_previous_tick() -> None:
    """A tick that took longer than its period is an overrun of the tick after; exactly the period is not."""
    check = TickOverrun(0.002, enabled=True)
    assert check.check(None).cause is None
    assert check.check(decision(total=2 * MS)).cause is None
    verdict = check.check(decision(total=2 * MS + 1))
    assert verdict.cause is Cause.TICK_OVERRUN
    assert "of 0.002 s" in verdict.detail


def test_overrun_is_off_in_simulated_time_and_says_so() -> None:
    """By default measured time is not looked at; the verdict is UNPROVEN and says why."""
    verdict = TickOverrun(0.002).check(decision(total=10**9))
    assert (verdict.level, verdict.cause) == (Level.UNPROVEN, None)
    assert "simulated time" in verdict.detail
