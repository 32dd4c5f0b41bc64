"""An openpi server that answers well until it is told to fail, in one of many ways.

The server side is the ``websockets`` library's asyncio server, as in openpi itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle  # noqa: TID251  what must never be loaded
import struct
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from safeguard.core.types import ActionSpec, Observation, Vector
from safeguard.policies.msgpack_arrays import packed, unpacked
from safeguard.policies.openpi import openpi_policy
from safeguard.policies.waiting import WaitingPort

Rows = Callable[[Vector], Vector]
"""Joint positions to a chunk."""

EXPLODED: list[str] = []
"""What a pickle that was loaded would write to."""


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return EXPLODED.append, ("loaded",)


def encode(observation: Observation) -> dict[str, object]:
    """What the server below expects."""
    return {"observation/joint_position": observation.state.q.astype(np.float32), "prompt": "wave"}


def array_map(**changed: object) -> dict[Any, Any]:
    """The wire form of an array of 2 x 2 zeros, with some entries changed."""
    whole = {b"__ndarray__": True, b"data": bytes(32), b"dtype": "<f8", b"shape": [2, 2]}
    return {**whole, **{key.encode(): value for key, value in changed.items()}}


def frame(payload: bytes, opcode: int = 2, claimed: int | None = None) -> bytes:
    """An unmasked frame as bytes; ``claimed`` is the length that its header says."""
    return struct.pack("!BBQ", 0x80 | opcode, 127, len(payload) if claimed is None else claimed) + payload


class OpenPiServer:
    """One openpi server in a thread.

    Args:
        rows: what it answers, from the joint positions.
        metadata: its first frame.
        host: where it listens.

    Attributes:
        fault: name of what goes wrong from the next question on, or ""; besides ``faults``, "twice" gives every answer
            twice, and "hangs up" closes the connection after it.
        questions: how many came.
        connections: how many were opened.
        headers: of the last connection.
    """

    faults = (
        "silent",
        "late",
        "text",
        "no msgpack",
        "empty frame",
        "cut short",
        "no map",
        "no actions",
        "objects",
        "pickle",
        "pickled array",
        "lying shape",
        "endless side",
        "nested",
        "deep",
        "many values",
        "five MiB",
        "half a frame",
        "reset",
        "gone",
        "pings",
        "drip",
        "huge",
        "fragments",
        "broken protocol",
        "not finite",
        "wrong shape",
        "no metadata",
    )

    def __init__(self, rows: Rows, metadata: object = None, host: str = "127.0.0.1") -> None:
        self._rows, self._host = rows, host
        self._metadata = packed({"name": "test"} if metadata is None else metadata)
        self.fault, self.questions, self.connections, self.headers = "", 0, 0, dict[str, str]()
        self.port_number = 0
        self._loop = asyncio.new_event_loop()
        self._ready, self._over = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10.0)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"[{self._host}]:{self.port_number}" if ":" in self._host else f"{self._host}:{self.port_number}"

    def port(self, spec: ActionSpec, deadline_s: float, period: float) -> WaitingPort:
        """A policy port that asks this server."""
        return openpi_policy(self.url, spec, encode, deadline_s=deadline_s, period=period)

    def close(self) -> None:
        """Hang up and end the thread."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10.0)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _run(self) -> None:
        async with serve(
            self._attend, self._host, self.port_number, compression=None, max_size=None, close_timeout=0.1
        ) as server:
            self.port_number = next(iter(server.sockets)).getsockname()[1]
            self._ready.set()
            await self._over.wait()
            for connection in server.connections:
                connection.transport.abort()

    async def _attend(self, client: ServerConnection) -> None:
        self.connections += 1
        assert client.request is not None
        self.headers = dict(client.request.headers.raw_items())
        if self.fault == "no metadata":
            await client.send(packed([1]))
            return
        if self.fault == "gone":
            client.transport.abort()
            return
        with contextlib.suppress(ConnectionClosed):
            await client.send(self._metadata)
            async for question in client:
                self.questions += 1
                assert isinstance(question, bytes)
                await self._answer(client, question)

    async def _answer(self, client: ServerConnection, question: bytes) -> None:
        q = np.asarray(unpacked(question)["observation/joint_position"], dtype=np.float64)
        rows = self._rows(q).astype(np.float32)
        good: dict[str, object] = {"actions": rows, "server_timing": {"infer_ms": 1.0}}
        match self.fault:
            case "":
                await client.send(packed(good))
            case "twice":
                await client.send(packed(good))
                await client.send(packed({**good, "actions": np.full_like(rows, 9.0)}))
            case "hangs up":
                await client.send(packed(good))
                await client.close()
            case "silent":
                pass
            case "late":
                await asyncio.sleep(0.4)
                await client.send(packed(good))
            case "text":
                await client.send("Traceback: the model is out of memory")
            case "not finite":
                await client.send(packed({"actions": np.full_like(rows, np.nan)}))
            case "wrong shape":
                await client.send(packed({"actions": rows[:, :-1]}))
            case fault if fault in TROUBLE:
                await TROUBLE[fault](client, packed(good))
            case fault:
                await client.send(_garbage(fault)) if fault not in RAW else client.transport.write(RAW[fault])


def _garbage(fault: str) -> bytes:
    payload = {"actions": np.zeros((8, 7), np.float32)}
    return {
        "no msgpack": b"\xc1" * 100,
        "empty frame": b"",
        "cut short": packed(payload)[:-10],
        "no map": packed([1, 2, 3]),
        "no actions": packed({"action": np.zeros((8, 7))}),
        "objects": packed({"actions": array_map(dtype="|O")}),
        "pickle": pickle.dumps(Bomb()),
        "pickled array": packed({"actions": array_map(dtype="|O", data=pickle.dumps([Bomb()]), shape=[1])}),
        "lying shape": packed({"actions": array_map(shape=[1 << 30, 1 << 30])}),
        "endless side": packed({"actions": array_map(data=b"", shape=[0, 1 << 62])}),
        "nested": b"\x81\xa7actions" + b"\x91" * 5000 + b"\x00",
        "deep": b"\x82" + packed(payload)[1:] + b"\xa4more" + b"\x91" * 500 + b"\x00",
        "five MiB": packed({**payload, "more": bytes(5 << 20)}),
        "many values": b"\x82"
        + packed(payload)[1:]
        + b"\xa4more\xdd"
        + struct.pack(">I", 1 << 20)
        + b"\x90" * (1 << 20),
    }[fault]


RAW = {
    "huge": frame(b"", claimed=1 << 40),
    "broken protocol": bytes([0xF3, 0x85]) + bytes(50),
}


async def _drip(client: ServerConnection, answer: bytes) -> None:
    for byte in frame(answer):
        client.transport.write(bytes([byte]))
        await asyncio.sleep(0.01)
        if client.transport.is_closing():
            return


async def _pings(client: ServerConnection, answer: bytes) -> None:
    for _ in range(200):
        client.transport.write(frame(b"", 9) * 500)
        await asyncio.sleep(0.002)
        if client.transport.is_closing():
            return


async def _fragments(client: ServerConnection, answer: bytes) -> None:
    client.transport.write(bytes([0x02, 0]))  # a binary message begins, and never ends
    for _ in range(200):
        client.transport.write(bytes([0x00, 0]) * 1000)
        await asyncio.sleep(0.002)
        if client.transport.is_closing():
            return


async def _half(client: ServerConnection, answer: bytes) -> None:
    client.transport.write(frame(answer)[: len(answer) // 2])
    client.transport.write_eof()
    await asyncio.sleep(0.5)


async def _reset(client: ServerConnection, answer: bytes) -> None:
    client.transport.abort()


TROUBLE: dict[str, Callable[[ServerConnection, bytes], Awaitable[None]]] = {
    "drip": _drip,
    "pings": _pings,
    "fragments": _fragments,
    "half a frame": _half,
    "reset": _reset,
    "gone": _reset,
    "no metadata": _reset,
}
