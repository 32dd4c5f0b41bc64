from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import ormsgpack
import pytest

from safeguard.core.enums import Reference
from safeguard.core.errors import ConfigError
from safeguard.core.types import ActionSpec, Observation, RobotState, Vector
from safeguard.policies.msgpack_arrays import WireError, as_array, packed, unpacked
from safeguard.policies.openpi import OpenPiLink, OpenPiPolicy, PolicyServerError, openpi_policy
from tests.conformance.remote_openpi import OpenPiServer, array_map, encode

SPEC = ActionSpec(("a", "b"), "rad", Reference.ABSOLUTE, rate_hz=20.0, chunk=3)
ANSWER = packed({"actions": np.zeros((3, 2))})
MS = 1_000_000


def seen(q: tuple[float, ...] = (0.1, 0.2), t: int = 0) -> Observation:
    """Two joints."""
    return Observation(RobotState(np.array(q), np.zeros(2), t))


def question(q: tuple[float, ...] = (0.1, 0.2)) -> bytes:
    """The same as the server is asked."""
    return packed(encode(seen(q)))


def rows(q: Vector) -> Vector:
    """Three rows where it is."""
    return np.tile(q, (3, 1))


@pytest.fixture
def server() -> Iterator[OpenPiServer]:
    """A server that answers well until told otherwise."""
    with OpenPiServer(rows) as server:
        yield server


def test_a_message_comes_back_as_it_went() -> None:
    """Maps, lists, texts, numbers, arrays and numpy scalars survive, with dtype, shape and byte order."""
    message: dict[str, Any] = {
        "image": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
        "state": np.array([1.5, -2.0], dtype=">f4"),
        "flags": np.array([True, False]),
        "nothing": np.zeros((0, 7), dtype=np.float16),
        "point": np.array(3, dtype=np.int64),
        "one": np.float32(2.5),
        "text": np.str_("pick"),
        "deep": [{"x": [1, 2.5, None, True, b"raw"]}],
    }
    back = unpacked(packed(message))

    for key in ("image", "state", "flags", "nothing", "point"):
        np.testing.assert_array_equal(back[key], message[key])
        assert (back[key].dtype, back[key].shape) == (message[key].dtype, message[key].shape)
    assert (back["one"], back["one"].dtype, back["text"]) == (2.5, np.float32, "pick")
    assert back["deep"] == message["deep"]


def test_the_bytes_are_those_of_openpi() -> None:
    """An array is the map with keys of bytes that openpi's client packs, byte for byte."""
    expected = (
        b"\x81\xa1a\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x08\x00\x00\x80?\x00\x00\x00@"
        b"\xc4\x05dtype\xa3<f4\xc4\x05shape\x91\x02"
    )

    assert packed({"a": np.array([1, 2], dtype=np.float32)}) == expected
    assert packed({"a": np.float16(1)}) == (
        b"\x81\xa1a\x83\xc4\x0d__npgeneric__\xc3\xc4\x04data\xcb?\xf0\0\0\0\0\0\0\xc4\x05dtype\xa3<f2"
    )


def test_text_of_numpy_comes_as_text() -> None:
    """A client sends ``numpy.str_`` as a scalar with a text dtype."""
    assert unpacked(packed({"prompt": {b"__npgeneric__": True, b"data": "pick", b"dtype": "<U4"}})) == {
        "prompt": "pick"
    }


def test_arrays_can_stay_as_they_came() -> None:
    """Without decoding, a message packs to the same bytes again."""
    data = packed({"a": np.arange(3), "b": {"c": np.float32(1)}})

    assert packed(unpacked(data, arrays=False)) == data


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (array_map(dtype="|O"), "dtype '|O' are not decoded"),
        (array_map(dtype="<M8[ns]"), "are not decoded"),
        (array_map(dtype="V8"), "are not decoded"),
        (array_map(dtype="<c8"), "are not decoded"),
        (array_map(dtype="<f4,<f4"), "are not decoded"),
        (array_map(dtype=["<f4"]), "are not decoded"),
        (array_map(dtype=None), "are not decoded"),
        (array_map(shape=[3, 2]), r"shape \[3, 2\] and dtype float64 came with 32 bytes"),
        (array_map(shape=[1 << 40, 1 << 40]), "came with 32 bytes"),
        (array_map(shape=[-2, -2]), "has the shape"),
        (array_map(shape=[True, 4]), "has the shape"),
        (array_map(shape=[4.0]), "has the shape"),
        (array_map(shape=[1] * 9 + [4]), "has the shape"),
        (array_map(data=b"", shape=[0, 1 << 62]), "without numbers has the shape"),
        (array_map(data=b"", shape=[0, 1 << 60]), "without numbers has the shape"),
        (array_map(data=b"", shape=[1 << 63, 0]), "without numbers has the shape"),
        (array_map(shape=4), "needs data"),
        (array_map(data="text"), "needs data"),
        ({b"__ndarray__": True}, "are not decoded"),
        ({b"__npgeneric__": True, b"data": [1], b"dtype": "<f4"}, "came as list"),
        ({b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}, "300 is no uint8"),
        ({b"__npgeneric__": True, b"data": 1, b"dtype": "|O"}, "are not decoded"),
    ],
)
def test_an_array_that_contradicts_itself_is_refused(entry: object, said: str) -> None:
    """Only numbers, only as many as there are bytes for; nothing is allocated for what is claimed."""
    with pytest.raises(WireError, match=said):
        unpacked(packed({"a": [entry]}))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x81\xa1a", b"\x92\x01\x02", b"\x07", b"\x81\xa1a" + b"\x91" * 100 + b"\x01", b"\xd6\xff0000"],
)
def test_what_is_no_map_is_refused(data: bytes) -> None:
    """No msgpack, no map, an extension type, or nesting without end."""
    with pytest.raises(WireError):
        unpacked(data)


@pytest.mark.parametrize("value", [np.array([object()]), np.zeros(2, complex), np.array(["a"]), {1, 2}, object()])
def test_what_is_no_data_is_not_sent(value: object) -> None:
    """Objects and texts in arrays are refused where they are packed."""
    with pytest.raises(WireError, match="only plain data and arrays of numbers"):
        packed({"a": value})


@pytest.mark.parametrize("value", ["text", ["a", "b"], None, [[1, 2], [3]], {"b": 1}, b"raw", [1 + 2j]])
def test_actions_are_an_array_of_numbers(value: object) -> None:
    """Lists of numbers will do, anything else is refused."""
    with pytest.raises(WireError):
        as_array(value)
    assert as_array([[1, 2], [3, 4]]).shape == (2, 2)


def test_the_server_is_asked_and_answers(server: OpenPiServer) -> None:
    """The proposal is what the server made of the observation, stamped with the observation's time."""
    policy = OpenPiPolicy(server.url, SPEC, encode, deadline_s=5.0)
    first, second = policy.infer(seen(t=7)), policy.infer(seen((0.5, 0.6), t=8))
    assert policy.metadata == {"name": "test"}
    policy.close()

    np.testing.assert_array_equal(second.actions, np.tile(np.array([0.5, 0.6], np.float32), (3, 1)))
    assert (first.t_obs, first.seq, second.seq, first.source) == (7, 0, 1, f"ws://{server.url}")
    assert not second.actions.flags.writeable
    assert (server.connections, server.questions) == (1, 2)


def test_a_late_answer_is_not_taken_for_the_next_one(server: OpenPiServer) -> None:
    """After a timeout the next question goes over a new connection."""
    link = OpenPiLink(server.url)
    server.fault = "late"
    with pytest.raises(TimeoutError, match=r"did not answer within 0\.1 s"):
        link.ask(question((1.0, 1.0)), 0.1)
    server.fault = ""
    answer = unpacked(link.ask(question((2.0, 2.0)), 5.0))  # the late one is still on its way
    link.close()

    np.testing.assert_array_equal(answer["actions"], np.full((3, 2), 2.0))
    assert server.connections == 2


@pytest.mark.parametrize("fault", ["silent", "pings", "drip", "fragments"])
def test_the_deadline_is_met(server: OpenPiServer, fault: str) -> None:
    """A server that says nothing, or much, or little by little, is waited for as long as told and not longer."""
    link = OpenPiLink(server.url)
    link.open(5.0)
    server.fault = fault
    started = time.monotonic()
    with pytest.raises((TimeoutError, ConnectionError)):
        link.ask(question(), 0.2)

    assert time.monotonic() - started < 5.0


def test_a_server_that_does_not_read_is_not_waited_for() -> None:
    """Sending has the deadline, too: a large observation to somebody who does not take it."""
    with OpenPiServer(rows) as server, socket.create_server(("127.0.0.1", 0)) as between:
        link = OpenPiLink(f"127.0.0.1:{between.getsockname()[1]}")
        helper = threading.Thread(target=_relay_the_opening, args=(between, server.port_number))
        helper.start()
        link.open(5.0)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            link.ask(bytes(50_000_000), 0.2)
        assert time.monotonic() - started < 5.0  # masking 50 MB takes its time
        helper.join()


def _relay_the_opening(listener: socket.socket, port: int) -> None:
    near, _ = listener.accept()
    with near, socket.create_connection(("127.0.0.1", port)) as far:
        far.sendall(near.recv(65536))
        near.sendall(far.recv(65536))
        time.sleep(0.02)
        near.sendall(far.recv(65536))
        time.sleep(0.8)


def test_a_port_where_nobody_answers_the_handshake() -> None:
    """Connected is not answered: the deadline holds for the handshake as well."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = OpenPiLink(f"127.0.0.1:{listener.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            link.ask(b"", 0.1)

        assert time.monotonic() - started < 5.0


def test_a_server_that_is_no_websocket() -> None:
    """Another protocol on the port is an error that says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = OpenPiLink(f"127.0.0.1:{listener.getsockname()[1]}")

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(b"220 mail.example.org ESMTP\r\n\r\n")

        helper = threading.Thread(target=answer)
        helper.start()
        with pytest.raises(OSError, match=r"websocket handshake|refused|closed"):
            link.ask(b"", 1.0)
        helper.join()


def test_an_answer_that_was_not_asked_for_is_not_the_next_one(server: OpenPiServer) -> None:
    """A server that answers twice does not get ahead of the questions."""
    link = OpenPiLink(server.url)
    server.fault = "twice"
    link.ask(question((1.0, 1.0)), 5.0)
    server.fault = ""
    time.sleep(0.05)
    answer = unpacked(link.ask(question((2.0, 2.0)), 5.0))
    link.close()

    np.testing.assert_array_equal(answer["actions"], np.full((3, 2), 2.0))
    assert server.connections == 2


def test_a_connection_that_ended_meanwhile_is_opened_again_at_once(server: OpenPiServer) -> None:
    """Between two episodes the server may have hung up; the next question does not fail for that."""
    link = OpenPiLink(server.url)
    server.fault = "hangs up"
    link.ask(question(), 5.0)
    time.sleep(0.05)
    link.ask(question(), 5.0)
    link.close()

    assert (server.connections, server.questions) == (2, 2)


def test_a_connection_that_breaks_fails_once(server: OpenPiServer) -> None:
    """The question under way is lost, the next one opens a new connection."""
    link = OpenPiLink(server.url)
    server.fault = "reset"
    with pytest.raises(OSError, match=r"closed the connection|reset"):
        link.ask(question(), 5.0)
    server.fault = ""
    link.ask(question(), 5.0)
    link.close()

    assert server.connections == 2


def test_the_servers_own_words_are_the_error(server: OpenPiServer) -> None:
    """A text is what went wrong there."""
    server.fault = "text"
    with pytest.raises(PolicyServerError, match="the model is out of memory"):
        OpenPiPolicy(server.url, SPEC, encode, deadline_s=5.0).infer(seen())


def test_an_answer_too_large_is_refused(server: OpenPiServer) -> None:
    """Nothing is read beyond what was allowed."""
    link = OpenPiLink(server.url, most_bytes=64)
    with pytest.raises(OSError, match=r"broken protocol: .*exceeds limit of 64"):
        link.ask(question(), 5.0)


def test_the_key_is_sent_as_openpi_does(server: OpenPiServer) -> None:
    """A server that wants a key finds it where openpi's client puts it."""
    link = OpenPiLink(server.url, api_key="secret")
    link.open(5.0)
    link.close()

    assert server.headers["Authorization"] == "Api-Key secret"


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_a_host_of_version_six() -> None:
    """IPv6 hosts stand in brackets."""
    with OpenPiServer(rows, host="::1") as server:
        assert server.url.startswith("[::1]:")
        policy = OpenPiPolicy(server.url, SPEC, encode, deadline_s=5.0)
        assert policy.infer(seen()).actions.shape == (3, 2)
        policy.close()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("http://localhost:1", "scheme isn't ws"),
        ("wss://localhost:1", "put a tunnel before it"),
        ("ws://", "hostname"),
        ("ws://ada:secret@localhost:8000", "use api_key"),
        ("localhost:many", "many"),
        ("localhost:99999", "range"),
        ("::1:8000", "expected host:port"),
    ],
)
def test_an_address_that_is_none(where: str, said: str) -> None:
    """A wrong address is said at set-up, with what would be right."""
    with pytest.raises(ConfigError, match=f"is no address of a policy server.*{said}"):
        openpi_policy(where, SPEC, encode, deadline_s=1.0)


@pytest.mark.parametrize("deadline", [0.0, float("inf"), float("nan"), 1e6])
def test_a_deadline_that_is_none(deadline: float) -> None:
    """Both the policy and its port want a real deadline."""
    with pytest.raises(ConfigError, match="deadline_s"):
        OpenPiPolicy("localhost:8000", SPEC, encode, deadline_s=deadline)


def test_as_a_port_it_never_blocks(server: OpenPiServer) -> None:
    """With a server that hangs, ten seconds of ticks pass in a moment and the failure is named."""
    server.fault = "silent"
    port = openpi_policy(server.url, SPEC, encode, deadline_s=0.1)
    started = time.monotonic()
    for now in range(0, 10_000 * MS, 10 * MS):
        port.post(seen(t=now), now)
        assert port.poll(now) is None
    assert time.monotonic() - started < 5.0
    assert port.last_error.startswith("no answer in time")
    port.close()


def test_a_proposal_through_the_port(server: OpenPiServer) -> None:
    """The answer arrives at some later poll."""
    port = openpi_policy(server.url, SPEC, encode, deadline_s=5.0, name="pi0")
    port.post(seen(t=3), 3)
    until, proposal = time.monotonic() + 5.0, None
    while proposal is None and time.monotonic() < until:
        proposal = port.poll(4)
    port.close()

    assert proposal is not None
    assert (proposal.t_obs, proposal.t_inferred, proposal.source, port.name) == (3, 4, "pi0", "pi0")


def test_wire_maps_have_keys_of_bytes() -> None:
    """A map with the same keys as text is plain data, as for openpi."""
    plain = {"__ndarray__": True, "data": b"", "dtype": "<f4", "shape": [0]}

    assert unpacked(ormsgpack.packb({"a": plain})) == {"a": plain}
