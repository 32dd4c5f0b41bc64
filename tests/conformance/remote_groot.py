"""A GR00T server that answers well until it is told to fail, in one of many ways.

Its socket speaks ZMTP by hand, so that it can also break that; its messages are written with msgpack and numpy, as
stock GR00T's are.
"""

from __future__ import annotations

import contextlib
import pickle  # noqa: TID251  what must never be loaded
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np

from safeguard.core.types import ActionSpec, Observation, Vector
from safeguard.policies.groot import groot_policy
from safeguard.policies.waiting import WaitingPort
from tests.conformance.remote_openpi import Bomb
from tests.unit.groot_support import from_bytes, npy, to_bytes

Rows = Callable[[Vector], Vector]
"""Joint positions to a chunk."""

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(52, b"\x00")
_READY = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 3) + b"REP"
_MORE, _LONG, _COMMAND = 1, 2, 4  # flags of a frame


def encode(observation: Observation) -> dict[str, object]:
    """What the server below expects."""
    return {"state": {"arm": observation.state.q.astype(np.float32)[None, None]}, "language": {"task": [["turn"]]}}


def frame(payload: bytes, flags: int = 0, claimed: int | None = None) -> bytes:
    """A long ZMTP frame; ``claimed`` is the length that its header says."""
    return struct.pack(">BQ", flags | _LONG, len(payload) if claimed is None else claimed) + payload


def reply(payload: bytes) -> bytes:
    """What a REQ socket takes for an answer."""
    return frame(b"", _MORE) + frame(payload)


class GrootServer:
    """One GR00T server in a thread, for any number of connections.

    Args:
        rows: what it answers, from the joint positions.

    Attributes:
        fault: name of what goes wrong from the next question on, or "".
    """

    faults = (
        "silent",
        "late",
        "error",
        "no msgpack",
        "empty",
        "cut short",
        "no list",
        "no arm",
        "pickle",
        "pickled array",
        "huge header",
        "lying shape",
        "endless side",
        "nested",
        "deep",
        "many values",
        "half a frame",
        "reset",
        "gone",
        "drip",
        "huge",
        "parts",
        "broken protocol",
        "not finite",
        "wrong width",
        "two arms",
    )

    def __init__(self, rows: Rows) -> None:
        self._rows, self.fault = rows, ""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.02)
        self._over, self._threads = threading.Event(), list[threading.Thread]()
        self._start(self._run)

    def port(self, spec: ActionSpec, deadline_s: float, period: float) -> WaitingPort:
        """A policy port that asks this server."""
        number = int(self._socket.getsockname()[1])
        return groot_policy(
            "127.0.0.1", number, spec, encode, {"arm": spec.joints}, deadline_s=deadline_s, period=period
        )

    def close(self) -> None:
        """Hang up and end the threads."""
        self._over.set()
        for thread in self._threads:
            thread.join(10.0)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                self._start(self._attend, self._socket.accept()[0])

    def _attend(self, peer: socket.socket) -> None:
        """One connection, until it or the server ends."""
        with peer, contextlib.suppress(OSError):
            if self.fault == "gone":
                return
            peer.settimeout(5.0)
            peer.sendall(_GREETING + struct.pack(">BB", _COMMAND, len(_READY)) + _READY)
            self._read(peer, len(_GREETING))
            while not self._over.is_set():
                flags, payload = self._frame(peer)
                if not flags & _COMMAND and payload:
                    self._answer(peer, from_bytes(payload))

    def _read(self, peer: socket.socket, count: int) -> bytes:
        data = b""
        peer.settimeout(0.05)
        while len(data) < count:
            with contextlib.suppress(TimeoutError):
                more = peer.recv(count - len(data))
                if not more:
                    raise ConnectionResetError
                data += more
            if self._over.is_set():
                raise ConnectionAbortedError
        peer.settimeout(5.0)
        return data

    def _frame(self, peer: socket.socket) -> tuple[int, bytes]:
        flags = self._read(peer, 1)[0]
        size = self._read(peer, 8 if flags & _LONG else 1)
        return flags, self._read(peer, int.from_bytes(size, "big"))

    def _answer(self, peer: socket.socket, request: dict[str, Any]) -> None:
        if request["endpoint"] != "get_action":
            peer.sendall(reply(to_bytes({})))
            return
        q = request["data"]["observation"]["state"]["arm"][0, -1].astype(np.float64)
        arm = self._rows(q)[None].astype(np.float32)
        good = reply(to_bytes([{"arm": arm}, {}]))
        match self.fault:
            case "":
                peer.sendall(good)
            case "silent":
                pass
            case "late":
                time.sleep(0.4)
                peer.sendall(good)
            case "half a frame":
                peer.sendall(good[: len(good) // 2])
                peer.shutdown(socket.SHUT_RDWR)
            case "reset" | "gone":
                peer.shutdown(socket.SHUT_RDWR)
            case "drip":
                for byte in good:
                    peer.sendall(bytes([byte]))
                    time.sleep(0.005)
            case "huge":
                peer.sendall(frame(b"", _MORE) + frame(b"", claimed=1 << 40))
            case "parts":
                peer.sendall(frame(b"", _MORE) + frame(b"x", _MORE) + frame(to_bytes([{"arm": arm}, {}])))
            case "broken protocol":
                peer.sendall(b"\xf3\x85" + bytes(50))
            case fault:
                peer.sendall(reply(_content(fault, arm)))


def endless(like: Any) -> bytes:
    """The bytes of an array of shape (0, 2**62), which nobody can make."""
    header = f"{{'descr': '{like.dtype.str}', 'fortran_order': False, 'shape': (0, {1 << 62}), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def _content(fault: str, arm: Any) -> bytes:
    good = to_bytes([{"arm": arm}, {}])
    whole = npy(arm)["as_npy"]
    changed: dict[str, Any] = {
        "pickled array": npy(np.array([Bomb()], dtype=object)),
        "huge header": {"__ndarray_class__": True, "as_npy": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + whole[10:]},
        "lying shape": {"__ndarray_class__": True, "as_npy": whole.replace(b"(1, 8, 7)", b"(9, 9, 9)")},
        "endless side": {"__ndarray_class__": True, "as_npy": endless(arm)},
        "not finite": arm * np.nan,
        "wrong width": arm[:, :, :-1],
        "two arms": np.concatenate([arm, arm]),
    }
    if fault in changed:
        return to_bytes([{"arm": changed[fault]}, {}])
    return {
        "error": to_bytes({"error": "out of memory"}),
        "no msgpack": b"\xc1" * 100,
        "empty": b"",
        "cut short": good[:-10],
        "no list": to_bytes({"arm": arm}),
        "no arm": to_bytes([{"leg": arm}, {}]),
        "pickle": pickle.dumps(Bomb()),
        "nested": b"\x92\x81\xa3arm" + b"\x91" * 5000 + b"\x00\x80",
        "deep": b"\x92" + good[1:-1] + b"\x81\xa4more" + b"\x91" * 500 + b"\x00",
        "many values": b"\x92" + good[1:-1] + b"\x81\xa4more\xdd" + struct.pack(">I", 1 << 19) + b"\x90" * (1 << 19),
    }[fault]
