"""The inline port: latency, hangs, exceptions and pacing in injected time."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.enums import Reference
from safeguard.core.errors import ConfigError
from safeguard.core.types import ActionSpec, Observation, Proposal, RobotState, Sensor, Vector
from safeguard.policies import InlinePort, WaitingPort, port_for

MS = 1_000_000
SPEC = ActionSpec(("a",), "rad", Reference.ABSOLUTE, 20.0, chunk=2)


def observation(t: int) -> Observation:
    """A resting joint at ``t`` ns."""
    return Observation(RobotState(np.zeros(1), np.zeros(1), t))


def arrays(observation: Observation) -> list[Vector]:
    """Every array of an observation."""
    wrench = observation.external_wrench
    some = [observation.state.q, observation.state.v, *(sensor.value for sensor in observation.sensors.values())]
    return some if wrench is None else [*some, wrench]


class Counting:
    """Counts its calls and does what the script of an episode says: a proposal, an exception, or nonsense."""

    spec = SPEC

    def __init__(self, script: dict[int, object] | None = None) -> None:
        self.stamps: list[int] = []
        self.resets = 0
        self._script = script or {}

    def infer(self, observation: Observation) -> Proposal:
        """What the script says for this call."""
        call = len(self.stamps)
        self.stamps.append(observation.state.t)
        answer = self._script.get(call)
        if isinstance(answer, BaseException):
            raise answer
        if answer is not None:
            return answer  # type: ignore[return-value]  # a guest may return anything
        return Proposal(np.zeros((2, 1)), observation.state.t, observation.state.t, "counting", call)

    def reset(self) -> None:
        """Start the script anew."""
        self.stamps.clear()
        self.resets += 1


def drive(port: InlinePort, ticks: int, step: int = 2 * MS) -> list[tuple[int, Proposal]]:
    """Post and poll each tick; returns (now, proposal) of each arrival."""
    out: list[tuple[int, Proposal]] = []
    for now in range(0, ticks * step, step):
        port.post(observation(now), now)
        proposal = port.poll(now)
        if proposal is not None:
            out.append((now, proposal))
    return out


def test_a_proposal_arrives_after_the_latency() -> None:
    """Each arrives exactly at start plus latency, stamped so, once."""
    arrivals = drive(InlinePort(Counting(), period=0.1, latency=0.02), 110)
    assert [now for now, _ in arrivals] == [20 * MS, 120 * MS]
    assert [p.t_obs for _, p in arrivals] == [0, 100 * MS]
    assert [p.t_inferred for _, p in arrivals] == [20 * MS, 120 * MS]


def test_without_latency_it_arrives_at_once() -> None:
    """Latency 0 gives the proposal in the tick of its observation."""
    arrivals = drive(InlinePort(Counting(), latency=0.0), 60)
    assert [(now, p.t_obs) for now, p in arrivals] == [(0, 0), (100 * MS, 100 * MS)]


@given(
    period=st.integers(1, 50),
    latency=st.lists(st.integers(0, 200), min_size=1, max_size=8),
    step=st.integers(1, 7),
)
def test_at_most_one_start_per_period_and_one_in_flight(period: int, latency: list[int], step: int) -> None:
    """For any period, latencies and tick: starts are a period apart, each after the last one landed."""
    policy = Counting()
    port = InlinePort(policy, period / 1000, lambda seq, now: latency[seq % len(latency)] / 1000)
    arrivals = drive(port, 300, step * MS)
    starts = policy.stamps
    gaps = np.diff(starts)
    assert (gaps >= period * MS).all()
    flights = [latency[k % len(latency)] * MS for k in range(len(starts))]
    assert (gaps >= flights[:-1]).all()
    assert all(now >= p.t_inferred >= p.t_obs for now, p in arrivals)
    assert (np.diff([p.seq for _, p in arrivals]) > 0).all()


def test_posting_twice_in_a_tick_starts_once() -> None:
    """A second post within the period is not another call."""
    policy = Counting()
    port = InlinePort(policy, latency=0.0)
    for _ in range(5):
        port.post(observation(0), 0)
    assert policy.stamps == [0]


def test_a_hang_lasts_until_reset() -> None:
    """Infinite latency: nothing arrives, nothing else is started; reset ends it and tells the policy."""
    policy = Counting()
    port = InlinePort(policy, latency=lambda seq, now: math.inf if seq == 1 else 0.02)
    arrivals = drive(port, 1000)
    assert [p.seq for _, p in arrivals] == [0]
    port.reset()
    assert policy.resets == 1
    assert [now for now, _ in drive(port, 20)] == [20 * MS]


def test_reset_drops_what_is_in_flight() -> None:
    """No proposal of the last episode arrives in the next."""
    port = InlinePort(Counting(), latency=0.02)
    port.post(observation(0), 0)
    port.reset()
    assert port.poll(1000 * MS) is None


def test_an_exception_is_no_proposal() -> None:
    """A policy that raises proposes nothing, is counted with its words, and is asked again a period later."""
    port = InlinePort(Counting({0: ValueError("no camera")}), latency=0.02)
    arrivals = drive(port, 70)
    assert [now for now, _ in arrivals] == [120 * MS]
    assert port.failures == 1
    assert port.last_error == "ValueError: no camera"
    port.reset()
    assert (port.failures, port.last_error) == (0, "")


class Mute(Exception):  # noqa: N818
    """Cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Odd(BaseException):
    """Of a kind of its own."""


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), Odd("x"), Mute(), RecursionError("deep")])
def test_whatever_a_guest_raises_is_a_failure(error: BaseException) -> None:
    """A guest that exits, or raises what is no Exception, fails like any other."""
    port = InlinePort(Counting({0: error}), latency=0.02)
    assert [now for now, _ in drive(port, 70)] == [120 * MS]
    assert port.failures == 1
    assert port.last_error.startswith(type(error).__name__)


def test_a_persons_interrupt_goes_through() -> None:
    """Ctrl-C ends the program; afterwards the port goes on."""
    port = InlinePort(Counting({0: KeyboardInterrupt()}), latency=0.0)
    with pytest.raises(KeyboardInterrupt):
        port.post(observation(0), 0)
    port.post(observation(1), 1)
    assert port.poll(1) is not None


def test_a_policy_that_cannot_forget_proposes_nothing() -> None:
    """A reset that raises is tried again at the policy's turns; until it succeeds nothing is proposed."""

    class Stubborn(Counting):
        refusals = 2

        def reset(self) -> None:
            if self.refusals:
                self.refusals -= 1
                raise ValueError("busy")
            super().reset()

    policy = Stubborn()
    port = InlinePort(policy, latency=0.0)
    port.reset()
    assert (port.failures, port.last_error) == (1, "ValueError: busy")
    arrivals = drive(port, 101)
    assert [now for now, _ in arrivals] == [100 * MS, 200 * MS]
    assert port.failures == 2


@pytest.mark.parametrize("thread", [False, True])
def test_a_policy_cannot_write_into_the_shields_state(*, thread: bool) -> None:
    """Whoever shares the memory of what it is shown shares a copy, also in a thread of its own."""
    written = threading.Event()

    class Writing(Counting):
        def infer(self, observation: Observation) -> Proposal:
            for array in arrays(observation):
                array.setflags(write=True)
                array[:] = 9.0
            written.set()
            return super().infer(observation)

    policy = Writing()
    port = WaitingPort(policy, deadline_s=1.0) if thread else InlinePort(policy)
    state = observation(0).state
    seen = Observation(state, {"scan": Sensor(np.zeros((2, 3)), 4)}, "go", external_wrench=np.zeros(6))
    port.post(seen, 0)
    assert written.wait(20.0)
    port.close()
    assert port.failures == 0
    assert not any(array.any() for array in arrays(seen))


def test_a_policy_sees_what_the_shield_saw() -> None:
    """Copies of all parts, and nothing made up where there is none."""
    shown: list[Observation] = []

    class Looking(Counting):
        def infer(self, observation: Observation) -> Proposal:
            shown.append(observation)
            return super().infer(observation)

    bare = observation(7)
    state, scan = RobotState(np.ones(1), np.ones(1), 7), Sensor(np.full((2, 3), 5.0), 4)
    full = Observation(state, {"scan": scan}, "go", np.arange(6.0), estop=True, drive_status="ok")
    for seen in (bare, full):
        InlinePort(Looking()).post(seen, 0)
        own = shown.pop()
        assert own.state.t == 7
        assert (own.instruction, own.estop, own.drive_status) == (seen.instruction, seen.estop, seen.drive_status)
        assert [array.tolist() for array in arrays(own)] == [array.tolist() for array in arrays(seen)]
        assert {name: sensor.t for name, sensor in own.sensors.items()} == {n: s.t for n, s in seen.sensors.items()}
        assert not any(array.flags.writeable for array in arrays(own))


def test_closing_reaches_the_policy() -> None:
    """A policy that holds something is told to let go; one that has nothing to close, or raises, is no trouble."""
    closed: list[str] = []

    class Holding(Counting):
        def close(self) -> None:
            closed.append("yes")
            raise OSError("gone")

    port = InlinePort(Holding())
    port.close()
    assert closed == ["yes"]
    assert port.last_error == "OSError: gone"
    InlinePort(Counting()).close()


@pytest.mark.parametrize(
    ("rate", "chunk", "period_ms", "latency_ms"),
    [
        (50.0, 1, 20, 10),
        (5.0, 1, 200, 20),
        (20.0, 8, 100, 20),
        (50.0, 4, 40, 20),
        (1000.0, 1, 1, 0.5),
        (4.0, 2, 250, 20),
    ],
)
def test_the_usual_port_asks_as_the_spec_says(rate: float, chunk: int, period_ms: int, latency_ms: float) -> None:
    """Single actions at their rate, chunks every 0.1 s or half chunk, never before a row is over."""
    policy = Counting()
    policy.spec = SPEC.changed(rate_hz=rate, chunk=chunk)
    port = port_for(policy)
    arrived: list[tuple[int, int]] = []
    for now in range(0, 600 * MS, MS // 2):
        port.post(observation(now), now)
        if (proposal := port.poll(now)) is not None:
            arrived.append((proposal.t_obs, now))
    assert set(np.diff(policy.stamps)) <= {period_ms * MS}
    assert len(policy.stamps) == -(-600 // period_ms)
    assert {now - t_obs for t_obs, now in arrived} == {round(latency_ms * MS)}


def test_a_port_stays_itself() -> None:
    """What is a port already is handed back; another latency can be said for a policy."""
    port = InlinePort(Counting())
    assert port_for(port) is port
    fast = port_for(Counting(), latency=0.0)
    fast.post(observation(0), 0)
    assert fast.poll(0) is not None


def test_nonsense_is_no_proposal() -> None:
    """An answer of another type counts as a failure and names its type."""
    port = InlinePort(Counting({0: [1.0, 2.0]}), latency=0.0)
    assert drive(port, 10) == []
    assert port.last_error == "infer returned list, expected Proposal"


def test_a_late_poll_gets_the_newest() -> None:
    """Who polls late gets the newest arrival, once."""
    port = InlinePort(Counting(), latency=0.02)
    for now in (0, 100 * MS, 200 * MS):
        port.post(observation(now), now)
    newest = port.poll(220 * MS)
    assert newest is not None
    assert newest.seq == 2
    assert port.poll(221 * MS) is None


def test_the_spec_is_the_policys() -> None:
    """The port says what the policy's numbers mean."""
    assert InlinePort(Counting()).spec is SPEC


@pytest.mark.parametrize(
    ("period", "latency"), [(0.0, 0.0), (-1.0, 0.0), (math.nan, 0.0), (0.1, -0.1), (0.1, math.nan)]
)
def test_impossible_times_are_refused(period: float, latency: float) -> None:
    """Periods must be positive, latencies not negative."""
    with pytest.raises(ConfigError, match="InlinePort"):
        InlinePort(Counting(), period, latency)
