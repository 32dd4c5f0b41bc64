from __future__ import annotations

import socket
import time

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from safeguard.core.enums import Cause, Mode
from safeguard.core.types import Vector
from safeguard.integrations.gate import ChunkGate
from safeguard.integrations.openpi_proxy import OpenPiProxy
from safeguard.policies.msgpack_arrays import packed, unpacked
from tests.conformance.remote_openpi import EXPLODED, OpenPiServer
from tests.unit import openpi_support
from tests.unit.openpi_support import DEADLINE, ROBOT, SPEC, Client, goes, joints, moving, rows

server = pytest.fixture(openpi_support.server)
gate = pytest.fixture(openpi_support.gate)
proxy = pytest.fixture(openpi_support.proxy)


def test_what_keeps_every_limit_comes_back_as_it_is(proxy: OpenPiProxy, server: OpenPiServer) -> None:
    """The client gets the server's metadata, its actions bit for bit, and all else that it answered."""
    with Client(proxy.url) as client:
        assert client.metadata == {"name": "test"}
        moving(client, proxy)
        q = client.q
        answer = client.infer()

    np.testing.assert_array_equal(answer["actions"], rows(q).astype(np.float32))
    assert answer["actions"].dtype == np.float32
    assert answer["server_timing"] == {"infer_ms": 1.0}
    assert answer["safeguard"] == {"mode": "CAUTIOUS", "causes": ["uncalibrated"], "changed": False, "error": ""}


def test_the_arm_stands_until_somebody_acknowledges(proxy: OpenPiProxy) -> None:
    """Rows of a policy that nobody let go stay where the arm is."""
    with Client(proxy.url) as client:
        for _ in range(3):
            answer = client.infer()
            np.testing.assert_allclose(answer["actions"], np.tile(ROBOT.home, (8, 1)), atol=1e-4)
            assert (answer["safeguard"]["mode"], answer["safeguard"]["changed"]) == ("HOLD", True)


@pytest.mark.parametrize("fault", OpenPiServer.faults)
def test_a_server_that_fails_gives_rows_that_hold(proxy: OpenPiProxy, server: OpenPiServer, fault: str) -> None:
    """Whatever the policy server does, the client has finite rows in time that stop the arm, and the cause."""
    EXPLODED.clear()
    with Client(proxy.url) as client:
        moving(client, proxy)
        server.fault = fault
        started = time.monotonic()
        first = client.infer()
        assert time.monotonic() - started < DEADLINE + 5.0
        answers = [client.infer() for _ in range(2)]

    assert EXPLODED == []
    assert proxy.last_error or fault in ("not finite", "wrong shape")
    for answer in (first, *answers):
        assert answer["actions"].shape == SPEC.shape
        assert answer["actions"].dtype == np.float32
        assert np.isfinite(answer["actions"]).all()
    assert set(first["safeguard"]["causes"]) & {"proposal_invalid", "policy_late"}
    assert answers[-1]["safeguard"]["mode"] == "HOLD"
    np.testing.assert_allclose(np.diff(answers[-1]["actions"], axis=0), 0.0, atol=1e-6)


def test_a_new_connection_does_not_clear_a_hold(proxy: OpenPiProxy, server: OpenPiServer, gate: ChunkGate) -> None:
    """A client that connects again meets the same episode on hold; a person lets the arm go again."""
    with Client(proxy.url) as client:
        moving(client, proxy)
        server.fault = "text"
        client.infer()
        client.infer()
        q = client.q
    server.fault = ""
    with Client(proxy.url) as client:
        client.q = q
        assert not goes(client)
        assert gate.shield.episode == 0
        proxy.acknowledge(operator="ada", reason="server is back")
        assert goes(client)


def test_a_person_stops_it(proxy: OpenPiProxy) -> None:
    """``stop`` brakes with the next answer, and stays until somebody acknowledges."""
    with Client(proxy.url) as client:
        moving(client, proxy)
        proxy.stop(operator="ada", reason="a hand in the cell")
        assert "operator_stop" in client.infer()["safeguard"]["causes"]
        assert Mode[client.infer()["safeguard"]["mode"]] >= Mode.HOLD


def test_supervised_start(gate: ChunkGate, server: OpenPiServer) -> None:
    """With a name for it the first episode starts by itself, and no other one does."""
    proxy = OpenPiProxy(gate, server.url, joints, deadline_s=DEADLINE, port=0, start_by="ada")
    with proxy, Client(proxy.url) as client:
        assert goes(client)
        proxy.begin_episode("the next one")
        assert not goes(client)


def test_supervised_start_is_for_the_first_episode_only(gate: ChunkGate, server: OpenPiServer) -> None:
    """If the first episode was given up before the arm moved, the next one waits for a person."""
    proxy = OpenPiProxy(gate, server.url, joints, deadline_s=DEADLINE, port=0, start_by="ada")
    proxy.begin_episode("one")
    proxy.begin_episode("another")
    with proxy, Client(proxy.url) as client:
        assert not goes(client)


def test_no_supervised_start_after_a_failure(gate: ChunkGate, server: OpenPiServer) -> None:
    """What went wrong before the start is for a person to see."""
    proxy = OpenPiProxy(gate, server.url, joints, deadline_s=DEADLINE, port=0, start_by="ada")
    with proxy, Client(proxy.url) as client:
        server.fault = "text"
        client.infer()
        server.fault = ""
        assert not goes(client)


def test_one_client_at_a_time(proxy: OpenPiProxy) -> None:
    """A second client is told so; when the first one is gone, it gets in."""
    with Client(proxy.url) as first:
        first.infer()
        with pytest.raises(InvalidStatus) as refused:
            Client(proxy.url)
        assert refused.value.response.status_code == 503
        assert refused.value.response.body == b"Another client has the robot.\n"
        first.infer()
    with Client(proxy.url) as second:
        second.infer()


def test_an_idle_client_loses_the_robot(gate: ChunkGate, server: OpenPiServer) -> None:
    """Pings are not work: whoever asks nothing is hung up on."""
    with OpenPiProxy(gate, server.url, joints, deadline_s=DEADLINE, port=0, idle_s=0.3) as proxy:
        idle = Client(proxy.url)
        for _ in range(6):
            time.sleep(0.1)
            try:
                idle.socket.ping()
            except ConnectionClosed:
                break
        with pytest.raises(ConnectionClosed, match=r"nothing to do for 0\.3 s"):
            idle.socket.recv(timeout=5.0)
        idle.close()
        with Client(proxy.url) as client:
            client.infer()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("hello", "expected an observation as msgpack, got a text"),
        (b"\xc1\xc1", "no msgpack"),
        (b"", "no msgpack"),
        (packed([1]), "expected a map, got list"),
        (packed({"prompt": "wave"}), "KeyError: 'observation/joint_position'"),
        (packed({"observation/joint_position": "home"}), "ValueError"),
        (packed({"observation/joint_position": {b"__ndarray__": True}}), "are not decoded"),
    ],
)
def test_an_observation_that_is_none_is_answered_with_an_error(
    proxy: OpenPiProxy, server: OpenPiServer, message: bytes | str, said: str
) -> None:
    """The client hears what is wrong, the policy server nothing, and the connection goes on."""
    with Client(proxy.url) as client:
        answer = client.say(message)
        assert isinstance(answer, str)
        assert said in answer
        assert server.questions == 0
        client.infer()


@pytest.mark.parametrize("q", [np.full(7, np.nan), np.zeros(6), np.full(7, 100.0), np.zeros((0,))])
def test_no_rows_while_nobody_knows_where_the_robot_is(proxy: OpenPiProxy, q: Vector) -> None:
    """Positions that cannot be used, before any that could, are answered with an error instead of rows."""
    with Client(proxy.url) as client:
        answer = client.say(packed({"observation/joint_position": q}))

    assert isinstance(answer, str)
    assert "do not move" in answer


def test_positions_that_are_lost_on_the_way_stop_the_arm(proxy: OpenPiProxy) -> None:
    """Once the arm's place is known, losing it gives rows that hold, and the cause."""
    with Client(proxy.url) as client:
        moving(client, proxy)
        last = client.q
        answer = client.say(packed({"observation/joint_position": np.full(7, np.nan)}))
        assert isinstance(answer, bytes)
        rows = unpacked(answer)

    assert Cause.STATE_INVALID.value in rows["safeguard"]["causes"]
    assert np.abs(rows["actions"] - last).max() < 0.2


def test_a_gate_that_breaks_lets_nothing_through(
    proxy: OpenPiProxy, gate: ChunkGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the shield itself fails there are no rows at all, and the next question is answered again."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of order")

    with Client(proxy.url) as client:
        client.infer()
        with monkeypatch.context() as patched:
            patched.setattr(gate, "offer", broken)
            answer = client.say(packed({"observation/joint_position": client.q}))
        assert answer == "the shield failed, do not move: RuntimeError: out of order"
        client.infer()


def test_whatever_reading_an_answer_raises_the_gate_hears_of_it(
    proxy: OpenPiProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the decoding is a server that failed: rows that stop the arm, and the cause."""

    def broken(_: object) -> None:
        raise RuntimeError("not thought of")

    with Client(proxy.url) as client:
        moving(client, proxy)
        monkeypatch.setattr("safeguard.integrations.openpi_proxy.actions_of", broken)
        said = client.infer()["safeguard"]

    assert said["error"] == "RuntimeError: not thought of"
    assert "proposal_invalid" in said["causes"]


def test_an_observation_may_be_larger_than_an_answer(proxy: OpenPiProxy, server: OpenPiServer) -> None:
    """5 MiB of image go on to the policy server; 5 MiB of answer are refused, and the client has rows all the same."""
    with Client(proxy.url) as client:
        client.infer(image=np.zeros(5 << 20, np.uint8))
        assert server.questions == 1
        assert proxy.last_error == ""
        server.fault = "five MiB"
        said = client.infer()["safeguard"]

    assert "exceeds limit of 4194304" in said["error"]


def test_metadata_that_cannot_be_had(gate: ChunkGate) -> None:
    """Without a policy server there is nothing to introduce: the client is told why and may try later."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        where = f"127.0.0.1:{nobody.getsockname()[1]}"
    with OpenPiProxy(gate, where, joints, deadline_s=DEADLINE, port=0) as proxy:
        with pytest.raises(ConnectionClosed, match="no policy server"):
            Client(proxy.url)
        assert "cannot be reached" in proxy.last_error
