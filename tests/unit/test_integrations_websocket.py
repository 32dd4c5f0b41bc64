from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect
from websockets.typing import Origin

from safeguard.core.errors import ConfigError
from safeguard.integrations.gate import ChunkGate
from safeguard.integrations.openpi_proxy import OpenPiProxy
from safeguard.policies.msgpack_arrays import packed
from tests.conformance.remote_openpi import OpenPiServer
from tests.unit import openpi_support
from tests.unit.openpi_support import Client, joints

server = pytest.fixture(openpi_support.server)
gate = pytest.fixture(openpi_support.gate)
proxy = pytest.fixture(openpi_support.proxy)


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
        with contextlib.suppress(OSError):  # the client may have noticed already that it was hung up on
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

    assert time.monotonic() - started < 5.0
    proxy.serve_forever()
    client.close()
