from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest

from safeguard import Observation, RobotModel, RobotState, Shield
from safeguard.core.enums import Authority, Cause, Mode, Reference
from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.types import NS_PER_S, ActionSpec, Decision
from safeguard.policies.groot import GrootPolicy, groot_policy
from safeguard.policies.msgpack_arrays import WireError
from safeguard.policies.waiting import WaitingPort
from tests.unit.groot_support import (
    CHUNK,
    Answer,
    Client,
    HalfServer,
    Server,
    echo,
    seen,
    serving,
    to_bytes,
)

ROBOT = RobotModel.load("panda")
SPEC = ActionSpec((*ROBOT.joints, "gripper"), "rad", Reference.ABSOLUTE, 20.0, CHUNK, others=("gripper",))
COLUMNS = {"single_arm": ROBOT.joints, "gripper": "gripper"}
PERIOD = 5_000_000  # ns
ARM, GRIPPER = np.zeros((1, CHUNK, 7), np.float32), np.zeros((1, CHUNK, 1), np.float32)


def at(q: Any = ROBOT.home, t: int = 0) -> Observation:
    """The arm, at rest."""
    return Observation(RobotState(q, np.zeros(7), t))


def encode(observation: Observation) -> dict[str, object]:
    """What GR00T sees of it."""
    return seen(observation.state.q)


def flat(observation: Observation) -> dict[str, object]:
    """What GR00T N1.5 sees of it."""
    return {"state.single_arm": observation.state.q[None]}


def never(_: dict[str, Any]) -> Any:
    """No answer."""
    return None


def broken(_: object) -> Any:
    """An encoder with a mistake."""
    raise ZeroDivisionError


def saying(answer: Any) -> Answer:
    """Always the same answer."""

    def say(_: dict[str, Any]) -> Any:
        return answer

    return say


def policy(port: int, **changes: Any) -> GrootPolicy:
    """A policy on loopback."""
    given: dict[str, Any] = {"spec": SPEC, "encode": encode, "columns": COLUMNS, "deadline_s": 2.0, **changes}
    return GrootPolicy("127.0.0.1", port, **given)


@pytest.fixture
def asking() -> Generator[Callable[..., Any]]:
    """What a policy makes of an answer."""
    opened: list[Any] = []

    def ask(answer: Answer, **changes: Any) -> Any:
        server = Server(answer)
        guest = policy(server.port, **changes)
        opened.extend((guest, server))
        return guest.infer(at())

    yield ask
    for one in opened:
        one.close()


def test_actions_are_bound_by_key_and_name() -> None:
    """Columns go where their names are in the spec, whatever the order of keys and of columns in a key."""
    names = (*reversed(ROBOT.joints),)
    columns = {"gripper": ["gripper"], "hand": names[:3], "arm": names[3:]}
    rows = np.arange(8, dtype=np.float32) + np.arange(CHUNK, dtype=np.float32)[None, :, None] * 10
    with serving(saying([{"arm": rows[:, :, 3:7], "hand": rows[:, :, :3], "gripper": rows[:, :, 7:]}, {}])) as server:
        guest = policy(server.port, columns=columns)
        proposal = guest.infer(at(t=5))
        guest.close()

    expected = np.concatenate([rows[0, :, 6::-1], rows[0, :, 7:]], axis=1)
    assert np.array_equal(proposal.actions, expected)
    assert (proposal.t_obs, proposal.seq, proposal.source) == (5, 0, f"tcp://127.0.0.1:{server.port}")


def test_requests_are_what_stock_servers_expect() -> None:
    """Reset once before the first inference of an episode, then get_action with observation, options and token."""
    with serving(echo) as server:
        guest = policy(server.port, api_token="secret")
        sequence = [guest.infer(at()).seq, guest.infer(at()).seq]
        guest.reset()
        sequence.append(guest.infer(at()).seq)
        guest.close()

    assert sequence == [0, 1, 0]
    assert [r["endpoint"] for r in server.requests] == ["reset", "get_action", "get_action", "reset", "get_action"]
    assert {r["api_token"] for r in server.requests} == {"secret"}
    assert server.requests[0]["data"] == {"options": None}
    data = server.requests[1]["data"]
    assert sorted(data) == ["observation", "options"]
    assert np.allclose(data["observation"]["state"]["single_arm"], ROBOT.home)


def test_n15_is_asked_and_read_in_its_own_form() -> None:
    """A flat observation, an action without info, sides of length 1 dropped, no reset."""
    answer = {"action.single_arm": ARM[0] + 0.25, "action.gripper": GRIPPER[0, :, 0] + 0.5}
    columns = {"action.single_arm": ROBOT.joints, "action.gripper": "gripper"}
    with serving(saying(answer)) as server:
        guest = policy(server.port, version="1.5", columns=columns, encode=flat)
        proposal = guest.infer(at())
        guest.close()

    assert [r["endpoint"] for r in server.requests] == ["get_action"]
    assert np.allclose(server.requests[0]["data"]["state.single_arm"], ROBOT.home[None])
    assert np.array_equal(proposal.actions, np.tile([*[0.25] * 7, 0.5], (CHUNK, 1)))


@pytest.mark.parametrize(
    ("action", "why"),
    [
        ({"single_arm": ARM}, "no key 'gripper'"),
        ({"single_arm": ARM[:, :, :6], "gripper": GRIPPER}, "'single_arm' has shape (1, 8, 6)"),
        ({"single_arm": ARM[:, :4], "gripper": GRIPPER}, "'single_arm' has shape (1, 4, 7)"),
        ({"single_arm": ARM[0], "gripper": GRIPPER}, "'single_arm' has shape (8, 7)"),
        ({"single_arm": np.tile(ARM, (2, 1, 1)), "gripper": GRIPPER}, "'single_arm' has shape (2, 8, 7)"),
        ({"single_arm": ARM.transpose(0, 2, 1), "gripper": GRIPPER}, "'single_arm' has shape (1, 7, 8)"),
        ({"single_arm": ARM.astype(np.int32), "gripper": GRIPPER}, "dtype int32, expected floats"),
        ({"single_arm": GRIPPER, "gripper": ARM}, "'single_arm' has shape (1, 8, 1)"),
    ],
)
def test_misfits_come_out_flat_and_say_why(asking: Callable[..., Any], action: dict[str, Any], why: str) -> None:
    """Missing keys, other widths, rows, batches and types: nothing is padded, cut or guessed; intake refuses it."""
    proposal = asking(saying([action, {}]))

    assert proposal.actions.ndim == 1
    assert why in proposal.source


ANSWERS: list[tuple[Any, str]] = [
    (b"\xc1 no msgpack", "no msgpack"),
    (b"", "no msgpack"),
    (b"ERROR", "expected"),
    (b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins", "expected"),
    (to_bytes([{"single_arm": ARM, "gripper": GRIPPER}, {}])[:200], "no msgpack"),
    ({"error": "out of memory"}, "out of memory"),
    ({"single_arm": ARM, "gripper": GRIPPER}, "expected [action, info], got dict"),
    ([{"single_arm": ARM, "gripper": GRIPPER}], "expected [action, info], got list"),
    ([[], {}], "expected a map of actions"),
    ([{"single_arm": np.array([None]), "gripper": GRIPPER}, {}], "dtype object"),
    ([{"single_arm": "text", "gripper": GRIPPER}, {}], "expected an array"),
    ([{"single_arm": [[[0.0] * 7] * CHUNK], "gripper": GRIPPER}, {}], "expected an array"),
]


@pytest.mark.parametrize(("answer", "why"), ANSWERS)
def test_what_is_no_answer_raises_and_says_what_came(asking: Callable[..., Any], answer: Any, why: str) -> None:
    """Garbage, pickles, cut messages, errors and other forms; nothing of it is used."""
    with pytest.raises(WireError) as caught:
        asking(saying(answer))
    assert why in str(caught.value)


def test_numbers_that_are_not_finite_go_out_as_they_are(asking: Callable[..., Any]) -> None:
    """Judging values is intake's business."""
    arm = ARM.copy()
    arm[0, 3, 2] = np.nan

    assert np.isnan(asking(saying([{"single_arm": arm, "gripper": GRIPPER}, {}])).actions[3, 2])


def test_a_server_that_never_answers_costs_the_deadline() -> None:
    """And not more than some milliseconds beyond."""
    with serving(never) as server:
        guest = policy(server.port, deadline_s=0.15)
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=r"0\.15 s"):
            guest.infer(at())
        took = time.monotonic() - started
        guest.close()

    assert 0.14 < took < 5.0


def test_nobody_listening_costs_the_deadline() -> None:
    """Connecting is part of it."""
    guest = policy(1, deadline_s=0.1)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        guest.infer(at())
    guest.close()

    assert time.monotonic() - started < 5.0


def test_a_late_answer_is_nobodys_and_the_next_question_is_answered() -> None:
    """A REQ socket that timed out would be stuck; the late rows must not come out as the next ones."""
    late = [True]

    def answer(request: dict[str, Any]) -> Any:
        if late:
            late.clear()
            time.sleep(0.3)
            return [{"single_arm": ARM + 9.0, "gripper": GRIPPER}, {}]
        return echo(request)

    with serving(answer) as server:
        guest = policy(server.port, deadline_s=0.15)
        with pytest.raises(TimeoutError):
            guest.infer(at())
        time.sleep(0.3)
        proposal = guest.infer(at())
        guest.close()

    assert np.allclose(proposal.actions[:, :7], ROBOT.home)


def test_a_server_that_hangs_up_half_way_costs_the_deadline() -> None:
    """Half a frame is no message."""
    server = HalfServer()
    guest = policy(server.port, deadline_s=0.3)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        guest.infer(at())
    took = time.monotonic() - started
    guest.close()
    server.close()

    assert server.taken
    assert took < 5.0


def test_an_answer_that_is_too_large_is_not_taken() -> None:
    """ZMQ refuses it before it is in memory; the deadline does the rest."""
    with serving(saying(bytes(2 << 20))) as server:
        guest = policy(server.port, deadline_s=0.3)
        with pytest.raises(TimeoutError):
            guest.infer(at())
        guest.close()


def test_a_server_that_comes_back_is_used_again() -> None:
    """After a crash and a restart at the same address."""
    first = Server(echo)
    guest = policy(first.port, deadline_s=1.0)
    guest.infer(at())
    first.close()
    with pytest.raises(TimeoutError):
        guest.infer(at())
    second = Server(echo, first.port)
    proposal = guest.infer(at())
    guest.close()
    second.close()

    assert np.allclose(proposal.actions[:, :7], ROBOT.home)


def test_an_encoder_that_fails_disturbs_nothing(asking: Callable[..., Any]) -> None:
    """Its error comes out, and so does that of an observation that cannot be sent."""
    with pytest.raises(ZeroDivisionError):
        asking(echo, encode=broken)
    with pytest.raises(WireError, match="cannot be sent"):
        asking(echo, encode=saying({"x": object()}))


@pytest.mark.parametrize("host", ["", "a b/c", "tcp://x", "ho;st", "höst"])
def test_wrong_hosts_are_refused_at_set_up(host: str) -> None:
    """With what to write instead."""
    with pytest.raises(ConfigError, match="host"):
        GrootPolicy(host, 5555, SPEC, encode, COLUMNS, deadline_s=1.0)


@pytest.mark.parametrize(
    ("changes", "kind", "why"),
    [
        ({"deadline_s": 0.0}, ConfigError, "deadline_s"),
        ({"deadline_s": float("inf")}, ConfigError, "deadline_s"),
        ({"deadline_s": float("nan")}, ConfigError, "deadline_s"),
        ({"deadline_s": 2e5}, ConfigError, "deadline_s"),
        ({"version": "2"}, ConfigError, "version"),
        ({"columns": {"single_arm": ROBOT.joints}}, SpecError, "gripper"),
        ({"columns": {**COLUMNS, "more": "other"}}, SpecError, "other"),
        ({"columns": {**COLUMNS, "more": "gripper"}}, SpecError, "once"),
        ({"columns": {**COLUMNS, "more": ()}}, SpecError, "more"),
    ],
)
def test_what_cannot_work_is_refused_at_set_up(changes: dict[str, Any], kind: type[Exception], why: str) -> None:
    """Deadlines, versions and columns; columns are the spec's, each once."""
    with pytest.raises(kind, match=why):
        policy(5555, **changes)


@pytest.mark.parametrize("port", [0, -1, 65536, 5555.0, True])
def test_wrong_ports_are_refused_at_set_up(port: Any) -> None:
    """A port is a whole number."""
    with pytest.raises(ConfigError, match="port"):
        policy(port)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pyzmq is optional."""
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(Exception, match=r"safeguard-runtime\[remote\]"):
        policy(5555)


def test_ipv6_loopback_is_an_address() -> None:
    """With brackets or without; where the machine has no IPv6, nobody answers."""
    for host in ("::1", "[::1]"):
        guest = GrootPolicy(host, 1, SPEC, encode, COLUMNS, deadline_s=0.05)
        with pytest.raises(TimeoutError, match=r"\[::1\]:1 "):
            guest.infer(at())
        guest.close()


def test_the_stock_client_and_server_of_these_tests_understand_each_other() -> None:
    """What the other tests lean on."""
    with serving(echo) as server, Client(server.port) as client:
        action, info = client.get_action(seen(ROBOT.home))

    assert np.allclose(action["single_arm"], ROBOT.home)
    assert info == {"took_ms": 3}


# -- in a shield ------------------------------------------------------------------------------------------


def ridden(server: Server, seconds: float, deadline_s: float = 0.3) -> list[Decision]:
    """Decisions of a shield that a GR00T policy drives for ``seconds``, in real time, the arm where it started."""
    port = groot_policy("127.0.0.1", server.port, SPEC, encode, COLUMNS, deadline_s=deadline_s)
    assert isinstance(port, WaitingPort)
    decisions: list[Decision] = []
    with Shield(ROBOT, port, period=PERIOD / NS_PER_S) as shield:
        shield.begin_episode("stay")
        shield.acknowledge(operator="test", reason="cell is clear", simulated=True)
        started = time.monotonic()
        for k in range(round(seconds * NS_PER_S / PERIOD)):
            decisions.append(shield.step(at(t=k * PERIOD), now=k * PERIOD))
            time.sleep(max(0.0, started + (k + 1) * PERIOD / NS_PER_S - time.monotonic()))
    port.close()
    return decisions


def test_a_shield_follows_a_gr00t_server() -> None:
    """NOMINAL, asked again and again, without a cause at the end."""
    with serving(echo) as server:
        decisions = ridden(server, 1.0)

    assert decisions[-1].mode is Mode.NOMINAL
    assert decisions[-1].causes == (Cause.UNCALIBRATED,)
    assert len(server.asked("get_action")) >= 3


GARBAGE = saying(b"\xc1\xc1")
PICKLE = saying([{"single_arm": np.array([{}]), "gripper": GRIPPER}, {}])
NOT_FINITE = saying([{"single_arm": ARM * np.nan, "gripper": GRIPPER}, {}])
NARROW = saying([{"single_arm": ARM[:, :, :6], "gripper": GRIPPER}, {}])


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (never, Cause.POLICY_LATE),
        (GARBAGE, Cause.POLICY_LATE),
        (PICKLE, Cause.POLICY_LATE),
        (NOT_FINITE, Cause.PROPOSAL_INVALID),
        (NARROW, Cause.PROPOSAL_INVALID),
    ],
    ids=["never", "garbage", "pickle", "not finite", "narrow"],
)
def test_a_server_that_fails_holds_the_arm_and_the_cause_is_said(fault: Answer, cause: Cause) -> None:
    """Good for three answers, then not any more: HOLD or worse with the cause, every tick in time."""
    good = iter(range(3))
    with serving(lambda request: fault(request) if next(good, None) is None else echo(request)) as server:
        decisions = ridden(server, 0.9, deadline_s=0.15)

    assert Authority.POLICY in {decision.authority for decision in decisions}
    assert decisions[-1].mode >= Mode.HOLD
    assert cause in {cause for decision in decisions for cause in decision.causes}
