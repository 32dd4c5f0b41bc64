"""A GR00T server and client of their own, written from the documented format with msgpack and numpy.

They share no code with safeguard: what both sides agree on is the wire.
"""

from __future__ import annotations

import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import msgpack
import numpy as np
import zmq

Answer = Callable[[dict[str, Any]], Any]
"""A request to what is answered: anything that msgpack takes, bytes as they are, None for never."""

CHUNK = 8
IMAGE = np.zeros((1, 1, 224, 224, 3), np.uint8)


def npy(array: Any) -> dict[str, Any]:
    """An array as it travels; one of objects is pickled, as nobody should."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def to_bytes(message: object) -> bytes:
    """A message as stock GR00T writes it."""
    return msgpack.packb(message, default=npy)


def from_bytes(message: bytes) -> Any:
    """A message as stock GR00T reads it."""
    return msgpack.unpackb(message, object_hook=_decoded)


def _decoded(value: dict[str, Any]) -> Any:
    if "__ndarray_class__" in value:
        return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False)
    return value


class Server:
    """A GR00T server on loopback, in a thread.

    Args:
        answer: to ``get_action`` requests; the other endpoints answer as the stock server does.
        port: to listen at; any free one if None.

    Attributes:
        port: where it listens.
        requests: decoded, in order; those of ``ping`` included.
        messages: the same as they came.
    """

    def __init__(self, answer: Answer, port: int | None = None) -> None:
        self._answer, self.requests, self.messages = answer, list[dict[str, Any]](), list[bytes]()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)  # where REP could not leave a request unanswered
        self._socket.setsockopt(zmq.LINGER, 0)
        if port is None:
            self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        else:
            self._socket.bind(f"tcp://127.0.0.1:{port}")
            self.port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def asked(self, endpoint: str) -> list[dict[str, Any]]:
        """Its requests for ``endpoint``."""
        return [request for request in self.requests if request.get("endpoint") == endpoint]

    def close(self) -> None:
        """End the thread and the sockets."""
        self._over.set()
        self._thread.join(5.0)
        self._context.destroy(linger=0)

    def _run(self) -> None:
        while not self._over.is_set():
            if self._socket.poll(10):
                client, empty, message = self._socket.recv_multipart()
                request = from_bytes(message)
                self.messages.append(message)
                self.requests.append(request)
                answer = self._said(request)
                if answer is not None:
                    said = answer if isinstance(answer, bytes) else to_bytes(answer)
                    self._socket.send_multipart([client, empty, said])

    def _said(self, request: dict[str, Any]) -> Any:
        match request["endpoint"]:
            case "get_action":
                return self._answer(request)
            case "ping":
                return {"status": "ok", "message": "Server is running"}
            case "reset":
                return {"was": "reset"}
            case "get_modality_config":
                return {"action": {"__ModalityConfig_class__": True, "as_json": {"modality_keys": ["single_arm"]}}}
            case other:
                return {"error": f"Unknown endpoint: {other}"}


@contextmanager
def serving(answer: Answer) -> Generator[Server]:
    """A server until the end of the block."""
    server = Server(answer)
    try:
        yield server
    finally:
        server.close()


def echo(request: dict[str, Any], rows: int = CHUNK) -> Any:
    """Stay where the arm was seen: [action, info] of N1.6, the gripper half open."""
    arm = np.tile(request["data"]["observation"]["state"]["single_arm"][:, -1:], (1, rows, 1)).astype(np.float32)
    return [{"single_arm": arm, "gripper": np.full((1, rows, 1), 0.5, np.float32)}, {"took_ms": 3}]


def seen(q: Any, image: Any = IMAGE) -> dict[str, Any]:
    """What a GR00T N1.6 client observes."""
    state = np.asarray(q, np.float32)[None, None]
    return {"video": {"front": image}, "state": {"single_arm": state}, "language": {"task": [["pick the block"]]}}


class Client:
    """A GR00T client, as the stock one: one REQ socket, an error where the answer has one.

    Args:
        port: of the server, on loopback.
        patience_s: after which a call raises, s.
    """

    def __init__(self, port: int, patience_s: float = 5.0, api_token: str | None = None) -> None:
        self._token = api_token
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, round(patience_s * 1e3))
        self._socket.connect(f"tcp://127.0.0.1:{port}")

    def call(self, endpoint: str, data: object = None) -> Any:
        """What the server answers."""
        request: dict[str, Any] = {"endpoint": endpoint}
        if data is not None:
            request["data"] = data
        if self._token:
            request["api_token"] = self._token
        return self.raw(to_bytes(request))

    def raw(self, message: bytes) -> Any:
        """What the server answers to any bytes."""
        self._socket.send(message)
        answer: Any = from_bytes(self._socket.recv())
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"Server error: {answer['error']}")
        return cast("Any", answer)

    def get_action(self, observation: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """As of N1.6."""
        action, info = self.call("get_action", {"observation": observation, "options": None})
        return action, info

    def close(self) -> None:
        """Close the socket."""
        self._context.destroy(linger=0)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HalfServer:
    """Speaks ZMTP by hand: greets, takes a request, sends the first half of its answer and hangs up."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.05)
        self.port = int(self._socket.getsockname()[1])
        self.taken = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join(5.0)
        self._socket.close()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                peer, _ = self._socket.accept()
            except TimeoutError:
                continue
            with peer:
                peer.settimeout(1.0)
                try:
                    self._half(peer)
                except OSError:
                    continue

    def _half(self, peer: socket.socket) -> None:
        peer.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL".ljust(55, b"\x00"))
        _exactly(peer, 64)
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 3) + b"REP"
        peer.sendall(bytes([4, len(ready)]) + ready)
        peer.recv(1 << 16)
        time.sleep(0.02)
        peer.recv(1 << 20)
        self.taken += 1
        answer = to_bytes([{"single_arm": np.zeros((1, CHUNK, 7), np.float32)}, {}])
        peer.sendall(b"\x01\x00" + b"\x02" + struct.pack(">Q", len(answer)) + answer[: len(answer) // 2])


def _exactly(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := peer.recv(count - len(data))):
        data += more
    return data
