from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from safeguard.core.config import BrakeConfig, FilterConfig, ShieldConfig
from safeguard.core.enums import Cause, Mode, Reference
from safeguard.core.errors import ConfigError
from safeguard.core.robot import RobotModel
from safeguard.core.types import ActionSpec, Vector
from safeguard.integrations.gate import ChunkGate
from safeguard.integrations.openpi_proxy import OpenPiProxy
from safeguard.policies.msgpack_arrays import Map, packed, unpacked
from tests.conformance.remote_openpi import EXPLODED, OpenPiServer

ROBOT = RobotModel.load("panda")
SPEC = ActionSpec(ROBOT.joints, "rad", Reference.ABSOLUTE, rate_hz=15.0, chunk=8)
CONFIG = ShieldConfig(filter=FilterConfig(brake=BrakeConfig(samples=200)))
DEADLINE = 0.3
GOING = ("NOMINAL", "CAUTIOUS")  # nothing is calibrated here
TURN = np.zeros(7)
TURN[6] = 0.01


def rows(q: Vector) -> Vector:
    """A slow turn of the wrist from where it is."""
    return np.asarray(q) + np.arange(1, 9)[:, None] * TURN


def joints(observation: Map) -> Vector:
    """Where the client says the arm is."""
    return np.asarray(observation["observation/joint_position"], dtype=np.float64)


class Client:
    """openpi's client in short: blocking, one map for another."""

    def __init__(self, url: str) -> None:
        self._stack = contextlib.ExitStack()
        self.socket: ClientConnection = self._stack.enter_context(connect(url, compression=None, max_size=None))
        try:
            self.metadata = unpacked(self._binary())
        except BaseException:
            self._stack.close()
            raise
        self.q = np.array(ROBOT.home)

    def infer(self, **more: object) -> Map:
        """An answer to where the arm is, which then plays all its rows."""
        self.socket.send(packed({"observation/joint_position": self.q, "prompt": "wave", **more}))
        answer = unpacked(self._binary())
        self.q = np.asarray(answer["actions"][-1], dtype=np.float64)
        return answer

    def say(self, message: bytes | str) -> bytes | str:
        """Whatever comes back."""
        self.socket.send(message)
        return self.socket.recv(timeout=10.0)

    def _binary(self) -> bytes:
        message = self.socket.recv(timeout=10.0)
        assert isinstance(message, bytes), message
        return message

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._stack.close()


@pytest.fixture
def server() -> Iterator[OpenPiServer]:
    """The policy server."""
    with OpenPiServer(rows) as server:
        yield server


class Clock:
    """Time goes on by a chunk with every look: the client plays its rows in no time."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        """Now, ns."""
        self.now += round(8 / 15 * 1e9)
        return self.now


@pytest.fixture
def gate() -> Iterator[ChunkGate]:
    """The shield."""
    with ChunkGate(ROBOT, SPEC, config=CONFIG, clock=Clock()) as gate:
        yield gate


@pytest.fixture
def proxy(gate: ChunkGate, server: OpenPiServer) -> Iterator[OpenPiProxy]:
    """Between the two; afterwards no thread is left."""
    before = set(threading.enumerate())
    with OpenPiProxy(gate, server.url, joints, deadline_s=DEADLINE, port=0) as proxy:
        yield proxy
    until = time.monotonic() + 5.0
    while mine := {t for t in set(threading.enumerate()) - before if "safeguard" in t.name}:
        assert time.monotonic() < until, mine


def moving(client: Client, proxy: OpenPiProxy) -> None:
    """Somebody lets the arm go."""
    client.infer()
    proxy.acknowledge(operator="ada", reason="test")
    assert goes(client)


def goes(client: Client) -> bool:
    """Whether the policy moves the arm within eight answers, without a change at the end."""
    for _ in range(8):
        said = client.infer()["safeguard"]
        if said["mode"] in GOING and not said["changed"]:
            return True
    return False


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
        assert time.monotonic() - started < DEADLINE + 2.0
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


def test_metadata_that_cannot_be_had(gate: ChunkGate) -> None:
    """Without a policy server there is nothing to introduce: the client is told why and may try later."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        where = f"127.0.0.1:{nobody.getsockname()[1]}"
    with OpenPiProxy(gate, where, joints, deadline_s=DEADLINE, port=0) as proxy:
        with pytest.raises(ConnectionClosed, match="no policy server"):
            Client(proxy.url)
        assert "cannot be reached" in proxy.last_error


def test_health(proxy: OpenPiProxy) -> None:
    """``GET /healthz`` says OK, with or without a client."""
    for _ in range(2):
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5.0)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"OK\n")
        connection.close()


def test_a_web_page_gets_no_robot(proxy: OpenPiProxy) -> None:
    """Browsers let any page open a websocket to this machine; they name it, and it is refused."""
    with pytest.raises(InvalidStatus) as refused, connect(proxy.url, origin=Origin("https://example.org")):
        pass

    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_are_shut_out_unless_asked_for(gate: ChunkGate, host: str) -> None:
    """The protocol knows no passwords."""
    with pytest.raises(ConfigError, match="can be reached from other machines"):
        OpenPiProxy(gate, "127.0.0.1:1", joints, deadline_s=1.0, host=host, port=0)


def test_public_on_purpose(gate: ChunkGate, server: OpenPiServer) -> None:
    """Who asks for it gets it."""
    proxy = OpenPiProxy(gate, server.url, joints, deadline_s=1.0, host="0.0.0.0", port=0, public=True)
    with proxy, Client(f"ws://127.0.0.1:{proxy.port}") as client:
        client.infer()


def test_a_port_that_is_taken(proxy: OpenPiProxy, gate: ChunkGate) -> None:
    """Said at set-up."""
    with pytest.raises(ConfigError, match="cannot listen on"):
        OpenPiProxy(gate, "127.0.0.1:1", joints, deadline_s=1.0, port=proxy.port)


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x",
        b"\x00" * 70000,
        b"A" * 9000,
    ],
)
def test_noise_does_not_end_the_listener(proxy: OpenPiProxy, noise: bytes) -> None:
    """Whatever knocks, the next client gets in."""
    with socket.create_connection(("127.0.0.1", proxy.port)) as knocking:
        with contextlib.suppress(OSError):
            knocking.sendall(noise)
        with Client(proxy.url) as client:
            client.infer()


def test_many_that_only_connect(proxy: OpenPiProxy) -> None:
    """Half-open clients are bounded, and let go when their time for the handshake is over."""
    silent = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(20)]
    time.sleep(0.3)
    assert sum("safeguard-openpi-client" in t.name for t in threading.enumerate()) <= 8
    until = time.monotonic() + 10.0
    while True:
        try:
            with Client(proxy.url) as client:
                client.infer()
            break
        except (OSError, EOFError, WebSocketException):
            assert time.monotonic() < until
            time.sleep(0.1)
    for sock in silent:
        sock.close()


def test_the_listener_survives_a_lack_of_files(proxy: OpenPiProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """``EMFILE`` is waited out."""
    accept = socket.socket.accept
    refused: list[int] = []

    def failing(self: socket.socket) -> tuple[socket.socket, Any]:
        if self.getsockname()[1] == proxy.port and len(refused) < 3:
            refused.append(1)
            raise OSError(24, "Too many open files")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", failing)
    time.sleep(0.2)  # the call under way is still the old one
    with Client(proxy.url) as client:
        client.infer()

    assert len(refused) == 3


@pytest.mark.parametrize(
    "trouble",
    [b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"mask", b"\xf3\x85", b"\x82\x05hello", b"\x8a\x80mask" * 5000],
)
def test_frames_that_are_none(proxy: OpenPiProxy, trouble: bytes) -> None:
    """Too large, against the protocol, unmasked, or by the thousand: that client is gone, the next one gets in."""
    with Client(proxy.url) as client:
        client.infer()
        client.socket.socket.sendall(trouble)
        client.socket.socket.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionClosed):
            client.socket.recv(timeout=5.0)
    with Client(proxy.url) as client:
        client.infer()


def test_closing_does_not_wait_for_the_policy_server(gate: ChunkGate, server: OpenPiServer) -> None:
    """``close`` is quick while a client waits for a server that hangs."""
    proxy = OpenPiProxy(gate, server.url, joints, deadline_s=60.0, port=0)
    client = Client(proxy.url)
    server.fault = "silent"
    client.socket.send(packed({"observation/joint_position": client.q}))
    time.sleep(0.1)
    started = time.monotonic()
    proxy.close()
    proxy.close()

    assert time.monotonic() - started < 2.0
    proxy.serve_forever()
    client.close()
