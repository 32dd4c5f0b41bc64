from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from safeguard.core.enums import Reference
from safeguard.core.errors import ConfigError
from safeguard.core.types import NS_PER_S, ActionSpec, Observation, Proposal, RobotState
from safeguard.policies.waiting import WaitingPort

SPEC = ActionSpec(("a", "b"), "rad", Reference.ABSOLUTE, rate_hz=20.0, chunk=2)
MS = 1_000_000


def observation(now: int = 0) -> Observation:
    """Two joints at rest."""
    return Observation(RobotState(np.zeros(2), np.zeros(2), now))


class Guest:
    """A policy whose calls end when the test says so, in what the test says."""

    name = "guest"
    spec = SPEC

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.inside, self.most_inside = 0, 0
        self.let = threading.Semaphore(0)
        self.result: Callable[[int], Any] = self.proposal
        self.seq = 0

    def proposal(self, stamp: int) -> Proposal:
        """Two rows of what number the call has."""
        self.seq += 1
        return Proposal(np.full((2, 2), float(self.seq)), stamp, stamp, self.name, self.seq)

    def infer(self, observation: Observation) -> Proposal:
        """Waits, then does what it was told."""
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.calls.append("infer")
        try:
            assert self.let.acquire(timeout=20.0)
            answer: Proposal = self.result(observation.state.t)
            return answer
        finally:
            self.inside -= 1

    def reset(self) -> None:
        """Is noted."""
        self.calls.append("reset")

    def close(self) -> None:
        """Is noted."""
        self.calls.append("close")


def eventually(holds: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Wait in real time for the thread."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.001)


def back(port: WaitingPort, now: int) -> Proposal:
    """What ``poll`` hands out at ``now`` as soon as the thread has brought it."""
    found: list[Proposal] = []

    def arrived() -> bool:
        found.extend(p for p in [port.poll(now)] if p is not None)
        return bool(found)

    eventually(arrived, "no proposal")
    return found[0]


def failed(port: WaitingPort, count: int, now: int = 1) -> None:
    """Wait until ``count`` failures have been noticed, in which time no proposal comes."""
    eventually(lambda: port.poll(now) is None and port.failures == count, "no failure")


def threads() -> set[threading.Thread]:
    """The threads of ports that are alive."""
    return {t for t in threading.enumerate() if t.name.startswith("safeguard-policy")}


@pytest.fixture
def guest() -> Guest:
    """A fresh guest."""
    return Guest()


@pytest.fixture
def port(guest: Guest) -> Iterator[WaitingPort]:
    """A port with a deadline of 200 ms and a period of 50 ms; afterwards no thread is left."""
    before = threads()
    port = WaitingPort(guest, deadline_s=0.2, period=0.05)
    yield port
    guest.let.release(100)
    port.close()
    eventually(lambda: threads() <= before, "a thread is left")


def test_an_answer_in_time_is_handed_out_once(port: WaitingPort, guest: Guest) -> None:
    """What comes back within the deadline is handed out once, stamped with when it arrived."""
    port.post(observation(5), 5)
    assert port.poll(5) is None
    guest.let.release()
    proposal = back(port, 30 * MS)

    assert (proposal.t_obs, proposal.t_inferred, proposal.source) == (5, 30 * MS, "guest")
    assert port.poll(31 * MS) is None
    assert (port.failures, port.last_error) == (0, "")


def test_posting_never_waits_for_the_policy(port: WaitingPort, guest: Guest) -> None:
    """A thousand ticks beside a call that hangs take no time to speak of, and start no second call."""
    started = time.monotonic()
    for tick in range(1000):
        port.post(observation(tick), tick * MS // 10)
        assert port.poll(tick * MS // 10) is None

    assert time.monotonic() - started < 5.0
    eventually(lambda: guest.calls, "the call did not start")
    assert guest.calls == ["infer"]


def test_one_call_for_every_period(port: WaitingPort, guest: Guest) -> None:
    """However often it is asked, the policy is called once for every period of the injected clock."""
    guest.let.release(100)
    for now in range(0, 500 * MS, 10 * MS):
        port.post(observation(now), now)
        if now % (50 * MS) == 0:
            back(port, now)

    assert guest.calls == ["infer"] * 10
    assert guest.most_inside == 1


@pytest.mark.parametrize(
    ("rate", "chunk", "period"), [(20.0, 1, 0.05), (50.0, 50, 0.1), (50.0, 4, 0.04), (5.0, 1, 0.2), (15.0, 10, 0.1)]
)
def test_usual_period(rate: float, chunk: int, period: float, guest: Guest) -> None:
    """Unless told, half a chunk, at most 0.1 s, and never less than a row."""
    guest.spec = SPEC.changed(rate_hz=rate, chunk=chunk)
    guest.let.release(100)
    port = WaitingPort(guest, deadline_s=1.0)
    port.post(observation(), 0)
    back(port, 0)
    port.post(observation(), round(period * NS_PER_S) - 1)
    assert port.poll(0) is None
    port.post(observation(), round(period * NS_PER_S))
    back(port, round(period * NS_PER_S))
    port.close()

    assert guest.calls == ["infer", "infer", "close"]


def test_a_late_answer_is_never_delivered(port: WaitingPort, guest: Guest) -> None:
    """After the deadline the call counts as failed, once, and what it returns then is dropped."""
    port.post(observation(), 0)
    for now in (200 * MS, 201 * MS, 300 * MS):
        assert port.poll(now) is None
    assert port.failures == 1
    assert port.last_error == "no answer in time: none within 0.2 s"
    guest.let.release()
    eventually(lambda: guest.inside == 0, "the call did not end")
    time.sleep(0.01)

    assert port.poll(310 * MS) is None
    guest.let.release()
    port.post(observation(), 320 * MS)
    assert back(port, 330 * MS).actions[0, 0] == 2.0
    assert port.failures == 1


def test_an_answer_that_is_back_but_polled_late_is_late(port: WaitingPort, guest: Guest) -> None:
    """The injected clock decides, not when the thread was done."""
    guest.let.release()
    port.post(observation(), 0)
    eventually(lambda: guest.seq == 1 and guest.inside == 0, "the call did not end")
    time.sleep(0.01)

    assert port.poll(201 * MS) is None
    assert (port.failures, port.last_error) == (1, "no answer in time: came after 0.2 s")


def test_a_hang_is_not_called_a_second_time(port: WaitingPort, guest: Guest) -> None:
    """As long as a call has not returned there is no other one, not even in the next episode."""
    port.post(observation(), 0)
    eventually(lambda: guest.calls, "the call did not start")
    port.reset()
    assert port.failures == 0
    for now in range(0, 1000 * MS, 50 * MS):
        port.post(observation(now), now)
    assert guest.calls == ["infer"]
    assert (port.failures, port.last_error) == (1, "no answer in time: none within 0.2 s")
    guest.let.release(2)
    eventually(lambda: guest.inside == 0, "the call did not end")
    time.sleep(0.01)
    port.post(observation(), 1000 * MS)

    assert back(port, 1000 * MS).actions[0, 0] == 2.0
    assert guest.calls == ["infer", "reset", "infer"]


def test_reset_forgets_what_is_under_way_and_on_the_shelf(port: WaitingPort, guest: Guest) -> None:
    """The next episode sees nothing of this one, and the policy is reset before its first call, in its thread."""
    guest.let.release()
    port.post(observation(), 0)
    eventually(lambda: guest.seq == 1 and guest.inside == 0, "the call did not end")
    port.reset()
    assert guest.calls == ["infer"]
    time.sleep(0.01)
    assert port.poll(1) is None
    guest.let.release()
    port.post(observation(), 2)

    assert back(port, 2).actions[0, 0] == 2.0
    assert guest.calls == ["infer", "reset", "infer"]


def test_a_reset_that_fails_is_tried_again(port: WaitingPort, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call without the reset that belongs before it."""
    tries: list[int] = []

    def reset() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("not now")

    monkeypatch.setattr(guest, "reset", reset)
    guest.let.release(10)
    port.reset()
    for failures in (1, 2):
        port.post(observation(), failures * 50 * MS)
        failed(port, failures)
    assert port.last_error == "OSError: not now"
    assert guest.calls == []
    port.post(observation(), 200 * MS)
    back(port, 200 * MS)

    assert (len(tries), guest.calls) == (3, ["infer"])


def divide(_: int) -> float:
    """Raises."""
    return 1 / 0


def nothing(_: int) -> None:
    """No proposal."""


def array(_: int) -> object:
    """An array is no proposal."""
    return np.zeros((2, 2))


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (divide, "ZeroDivisionError: division by zero"),
        (nothing, "infer returned NoneType, expected Proposal"),
        (array, "infer returned ndarray, expected Proposal"),
    ],
)
def test_a_policy_that_fails_proposes_nothing(
    port: WaitingPort, guest: Guest, result: Callable[[int], Any], said: str
) -> None:
    """An exception or no ``Proposal`` is a failure, and the next call is made all the same."""
    guest.let.release(2)
    guest.result = result
    port.post(observation(), 0)
    failed(port, 1)
    assert (port.failures, port.last_error) == (1, said)
    guest.result = guest.proposal
    port.post(observation(), 50 * MS)

    back(port, 50 * MS)


class MuteError(Exception):
    """An exception whose text raises, too."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_error_whose_text_fails_is_still_named(port: WaitingPort, guest: Guest) -> None:
    """A guest's exception may be as broken as it likes."""

    def fail(_: int) -> None:
        raise MuteError

    guest.let.release()
    guest.result = fail
    port.post(observation(), 0)
    failed(port, 1)

    assert port.last_error == "MuteError"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_thread_that_the_policy_ended_is_noticed_and_replaced_at_reset(
    port: WaitingPort, guest: Guest, kind: type[BaseException]
) -> None:
    """``SystemExit`` and its like end the thread, which is said at once; only ``reset`` starts another."""

    def end(_: int) -> None:
        raise kind("enough")

    guest.let.release(5)
    guest.result = end
    port.post(observation(), 0)
    failed(port, 1)
    assert port.last_error == f"the policy ended its thread: {kind.__name__}: enough"
    port.post(observation(), 100 * MS)
    assert port.poll(400 * MS) is None
    assert guest.calls == ["infer"]
    assert port.failures == 1
    guest.result = guest.proposal
    port.reset()
    port.post(observation(), 500 * MS)

    back(port, 500 * MS)
    assert guest.calls == ["infer", "reset", "infer"]


def test_closing_is_quick_while_a_call_hangs(port: WaitingPort, guest: Guest) -> None:
    """``close`` waits 0.1 s at most; the thread ends after the call, and the policy is closed in it."""
    port.post(observation(), 0)
    eventually(lambda: guest.calls, "the call did not start")
    started = time.monotonic()
    port.close()
    port.close()
    assert time.monotonic() - started < 5.0
    assert guest.calls == ["infer"]
    port.post(observation(), 100 * MS)
    guest.let.release()

    eventually(lambda: guest.calls == ["infer", "close"], "not closed")
    assert port.poll(110 * MS) is None


def test_closing_a_port_that_was_never_used_closes_its_policy(guest: Guest) -> None:
    """A connection that somebody opened before is closed, too."""
    WaitingPort(guest, deadline_s=1.0).close()

    eventually(lambda: guest.calls == ["close"], "not closed")
    eventually(lambda: not threads(), "a thread is left")


def test_the_thread_says_whose_it_is(port: WaitingPort) -> None:
    """A list of threads names the policy; the thread does not keep the interpreter alive."""
    port.post(observation(), 0)

    assert [(t.name, t.daemon) for t in threads()] == [("safeguard-policy-guest", True)]


def test_it_passes_on_what_identifies_the_policy(guest: Guest) -> None:
    """Name, spec and digest are the policy's own."""
    port = WaitingPort(guest, deadline_s=1.0)
    assert (port.name, port.spec, port.digest) == ("guest", SPEC, None)
    guest.digest = "abc"  # type: ignore[attr-defined]

    assert port.digest == "abc"


@pytest.mark.parametrize("deadline", [0.0, -1.0, float("nan"), float("inf"), 1.1e5])
def test_a_deadline_that_is_none_is_refused(guest: Guest, deadline: float) -> None:
    """A deadline is finite, above 0, and at most 1e5 s."""
    with pytest.raises(ConfigError, match=r"deadline_s must be above 0 and at most 1e5 s, got"):
        WaitingPort(guest, deadline_s=deadline)


@pytest.mark.parametrize("period", [0.0, -1.0, float("nan"), float("inf")])
def test_a_period_that_is_none_is_refused(guest: Guest, period: float) -> None:
    """A period is finite and above 0."""
    with pytest.raises(ConfigError, match=r"period must be positive and finite"):
        WaitingPort(guest, deadline_s=1.0, period=period)
