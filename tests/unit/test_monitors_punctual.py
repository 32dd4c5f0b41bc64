from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.config import PunctualConfig
from safeguard.core.enums import Cause, Level, Reference
from safeguard.core.errors import ConfigError
from safeguard.core.types import ActionSpec, Observation, Proposal, RobotState, Verdict
from safeguard.monitors.punctual import Punctual, WeaklyHard
from safeguard.policies.port import InlinePort, Latency

MS = 1_000_000
SPEC = ActionSpec(("a",), "rad", Reference.ABSOLUTE, 20.0, 2)
counts = st.integers(1, 64).flatmap(lambda k: st.tuples(st.integers(0, k - 1), st.just(k), st.integers(0, 8)))


def chunk(now: int) -> Proposal:
    """A new proposal of which only its identity matters here."""
    return Proposal(np.zeros((2, 1)), now, now, "test", now)


def naive(outcomes: list[bool], m: int, k: int, in_a_row: int) -> bool:
    """The constraint as it is written: count the last k, and the misses at the end."""
    run = 0
    for missed in reversed(outcomes):
        if not missed:
            break
        run += 1
    return sum(outcomes[-k:]) > m or run > in_a_row


# -- the constraint ----------------------------------------------------------------------------------------


@given(counts, st.lists(st.booleans(), max_size=200))
def test_every_outcome_is_judged_as_by_counting(numbers: tuple[int, int, int], outcomes: list[bool]) -> None:
    """After every single outcome the bit mask says what counting all of them says: nothing is detected later."""
    count = WeaklyHard(*numbers)
    for end, missed in enumerate(outcomes, start=1):
        assert count.miss(missed) == naive(outcomes[:end], *numbers) == count.broken
        assert count.misses == sum(outcomes[max(end - numbers[1], 0) : end])


def test_k_outcomes_later_a_miss_is_forgotten() -> None:
    """Two misses of ten are one too many until the first of them is ten outcomes old."""
    count = WeaklyHard(1, 10, 5)
    assert not count.miss(True)
    assert count.miss(True)
    assert [count.miss(False) for _ in range(9)] == [True] * 8 + [False]


@pytest.mark.parametrize(("m", "k", "in_a_row"), [(3, 3, 1), (-1, 3, 1), (0, 65, 1), (0, 0, 1), (1, 3, -1)])
def test_numbers_that_constrain_nothing_are_refused(m: int, k: int, in_a_row: int) -> None:
    """A constraint that can never be broken, or has no meaning, is a configuration error."""
    with pytest.raises(ConfigError, match="0 <= m < k <= 64"):
        WeaklyHard(m, k, in_a_row)


# -- the policy's chunks -----------------------------------------------------------------------------------


def play(arrivals: list[int], until: int, config: PunctualConfig | None = None, tick: int = 2) -> list[Verdict]:
    """The verdict of every tick (ms) up to ``until``, for chunks that are followed from these ticks on."""
    check, current = Punctual(config or PunctualConfig(), 0.1), None
    verdicts = list[Verdict]()
    for now in range(0, until, tick):
        if now in arrivals:
            current = chunk(now * MS)
        verdicts.append(check.check(current, now * MS))
    return verdicts


def alarms(verdicts: list[Verdict], tick: int = 2) -> list[int]:
    """When the verdict had a cause, ms."""
    return [k * tick for k, verdict in enumerate(verdicts) if verdict.cause is not None]


def test_a_punctual_policy_gets_one_constant_verdict() -> None:
    """A chunk every 100 ms: the same object in every tick; before the first chunk another says what it waits for."""
    verdicts = play(list(range(20, 3000, 100)), 3000)
    assert verdicts[0].level is Level.OK
    assert "first chunk" in verdicts[0].detail
    assert len({id(verdict) for verdict in verdicts[10:]}) == 1


def test_a_silence_is_late_in_the_tick_after_the_third_due_time() -> None:
    """After the chunk at 20 ms the due times are 170, 270 and 370 ms: late from 372 ms, and not before."""
    verdicts = play([20], 600)
    assert alarms(verdicts) == list(range(372, 600, 2))
    assert verdicts[-1].cause is Cause.POLICY_LATE
    assert (verdicts[-1].score, verdicts[-1].threshold) == (5.0, 2.0)
    assert "5 chunks in a row are late or missing, at most 2 may be; one is due every 0.1 s" in verdicts[-1].detail


def test_a_silence_that_ends_in_time_is_no_alarm() -> None:
    """The no-op twin: the same silence, ended at 370 ms."""
    assert alarms(play([20, 370], 450)) == []


def test_a_silence_is_over_with_the_chunk_that_ends_it() -> None:
    """Its misses do not count against what comes after; a second silence is late by itself."""
    verdicts = play([20, 1000, 1100], 1500)
    assert alarms(verdicts) == [*range(372, 1000, 2), *range(1452, 1500, 2)]


def test_every_third_chunk_missing_is_late_at_the_fifth_miss() -> None:
    """Although there is never more than one miss in a row; with every eighth missing there is no alarm."""
    third = [20 + 100 * k for k in range(60) if k % 3 != 2]
    found = play(third, 6000)
    first = alarms(found)[0]
    assert first == 20 + 100 * 13 + 152
    assert found[first // 2].detail.startswith("5 of the last 20 chunks were late or missing, at most 4 may be")
    eighth = [20 + 100 * k for k in range(60) if k % 8 != 7]
    assert alarms(play(eighth, 6000)) == []


def test_a_chunk_may_be_late_by_the_grace() -> None:
    """Chunks 150 ms apart are in time with half a period of grace, and miss every due time without."""
    arrivals = list(range(20, 3000, 150))
    assert alarms(play(arrivals, 3000)) == []
    assert alarms(play(arrivals, 3000, PunctualConfig(grace=0.0)))
    assert alarms(play(arrivals, 3000, PunctualConfig(grace=0.0, period_s=0.15))) == []


outcomes_of_ticks = st.lists(st.tuples(st.integers(1, 400), st.booleans()), min_size=1, max_size=150)


@given(outcomes_of_ticks, st.integers(0, 5), st.integers(0, 3), st.integers(0, 150))
def test_lateness_is_detected_in_the_very_tick(
    ticks: list[tuple[int, bool]], m: int, in_a_row: int, grace: int
) -> None:
    """Ticks of any length: a tick has a cause if and only if the outcomes counted by hand up to it break the bound."""
    config = PunctualConfig(m=m, k=6, in_a_row=in_a_row, grace=grace / 100)
    check, outcomes, current, now, due = Punctual(config, 0.1), list[bool](), None, 0, 0
    for length, arrives in ticks:
        now += length
        broke = False
        while current is not None and due < now:
            outcomes.append(True)
            broke |= naive(outcomes, m, 6, in_a_row)
            due += 100
        if arrives:
            over = naive(outcomes, 6, 6, in_a_row)
            outcomes = [] if current is None or over else [*outcomes, False]
            current, due = chunk(now * MS), now + 100 + grace
        late = broke or naive(outcomes, m, 6, in_a_row)
        assert (check.check(current, now * MS).cause is Cause.POLICY_LATE) == late


def test_a_clock_that_goes_back_does_not_silence_the_check() -> None:
    """A jump of an hour ahead and back: a policy that then says nothing is late within three periods and the grace."""
    check, current = Punctual(PunctualConfig(), 0.1), chunk(0)
    check.check(current, 0)
    check.check(current, 3600 * 1000 * MS)
    current = chunk(1)
    check.check(current, 3600 * 1000 * MS + 1)
    assert check.check(current, 100 * MS).cause is None
    late = [check.check(current, now * MS).cause is not None for now in range(100, 600, 10)]
    assert late == [False] * 36 + [True] * 14


def test_what_was_followed_and_is_gone_counts_as_silence() -> None:
    """No proposal after one is not a new start."""
    check = Punctual(PunctualConfig(), 0.1)
    check.check(chunk(0), 0)
    assert check.check(None, 350 * MS).cause is None
    assert check.check(None, 350 * MS + 1).cause is Cause.POLICY_LATE


def test_an_episode_begins_without_a_past() -> None:
    """Reset forgets the silence and waits for a chunk."""
    check, current = Punctual(PunctualConfig(), 0.1), chunk(0)
    check.check(current, 0)
    assert check.check(current, 10_000 * MS).cause is not None
    check.reset()
    assert check.check(None, 20_000 * MS).cause is None
    assert check.check(current, 30_000 * MS).cause is None


@pytest.mark.parametrize("period", [0.0, -0.1, nan, inf])
def test_a_period_is_a_positive_time(period: float) -> None:
    """Anything else is a configuration error."""
    with pytest.raises(ConfigError, match="positive and finite"):
        Punctual(PunctualConfig(), period)


# -- behind the real port ----------------------------------------------------------------------------------


class Counting:
    """A policy that fails on the inferences it is told to."""

    def __init__(self, fails: int = 0) -> None:
        self.spec, self.name, self.fails, self.count = SPEC, "counting", fails, 0

    def infer(self, observation: Observation) -> Proposal:
        """A new chunk, or an error in every ``fails``-th inference."""
        self.count += 1
        if self.fails and self.count % self.fails == 0:
            raise ValueError("no camera")
        return chunk(observation.state.t)

    def reset(self) -> None:
        """Nothing to forget."""


def behind_port(policy: Counting, latency: float | Latency, tick: int = 2) -> list[int]:
    """Alarms of five seconds with the port's own period and this latency."""
    port, check, current = InlinePort(policy, latency=latency), Punctual(PunctualConfig(), 0.1), None
    found = list[int]()
    for now in range(0, 5000, tick):
        port.post(Observation(RobotState(np.zeros(1), np.zeros(1), now * MS)), now * MS)
        current = port.poll(now * MS) or current
        if check.check(current, now * MS).cause is not None:
            found.append(now)
    return found


@pytest.mark.parametrize("tick", [1, 2, 3, 7])
@pytest.mark.parametrize("latency", [0.0, 0.02, 0.09])
def test_the_port_is_punctual(tick: int, latency: float) -> None:
    """The port starts an inference every 100 ms, or in the first tick after: no alarm, whatever the tick's length."""
    assert behind_port(Counting(), latency, tick) == []


def test_jitter_below_the_grace_is_punctual_and_above_is_not() -> None:
    """Every other inference takes 40 ms longer: in time. 120 ms longer: half of all due times are missed."""
    assert behind_port(Counting(), lambda seq, now: 0.02 + 0.04 * (seq % 2)) == []
    assert behind_port(Counting(), lambda seq, now: 0.02 + 0.12 * (seq % 2)) != []


def test_a_policy_that_fails_in_every_third_inference_is_late() -> None:
    """The port hands nothing out for an inference that raised; the one that never raises is the twin."""
    assert behind_port(Counting(fails=3), 0.02) != []
    assert behind_port(Counting(fails=0), 0.02) == []
