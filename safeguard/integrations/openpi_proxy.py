"""The shield between an unchanged openpi client and its policy server.

    robot's openpi client ─▶ proxy ─▶ policy server        observations go on as they came
                         ◀─ gate  ◀─                       actions come back through the shield

The client sees its server, with other ``actions`` where the shield changed them and one more entry, ``safeguard``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from numpy.typing import ArrayLike

from safeguard.core.enums import Mode
from safeguard.core.errors import MissingExtraError
from safeguard.core.types import Vector
from safeguard.integrations.gate import ChunkGate, GateAnswer
from safeguard.policies.msgpack_arrays import Array, Map, WireError, packed, unpacked
from safeguard.policies.openpi import MOST_BYTES, OpenPiLink, PolicyServerError, actions_of, checked_deadline

if TYPE_CHECKING:
    from safeguard.policies.websocket import Channel, Refusal

_LOG: Final = logging.getLogger("safeguard.openpi")
_HANDOVER_S: Final = 0.5  # that a new client waits for the last one to be gone
_SEND_S: Final = 5.0  # in which a client must take its answer
_LONGEST: Final = 500  # characters of an error
_TRY_LATER: Final = 1013
_GOING_AWAY: Final = 1001

Measured = Callable[[Map], ArrayLike]
"""A client's observation to what was measured."""


class OpenPiProxy:
    """A server for one unchanged openpi client at a time, in threads of its own.

    The policy server is asked with a hard deadline. Where it fails, the rows of the answer brake and hold, and the
    record says why. A client that connects again meets the same episode in the same mode: what a stop needs is a
    person's ``acknowledge``, never a new connection. Errors in a client's message are answered with a text, which
    openpi's client raises as ``RuntimeError``. ``GET /healthz`` is answered with ``OK``.

    Args:
        gate: a ``ChunkGate``; nobody else may offer it anything meanwhile, and the caller closes it.
        upstream: the policy server: ``host:port`` or ``ws://host:port/path``.
        encode: from the client's observation to the measured joint positions, shape (n,), rad, in the robot's order.
        deadline_s: for the policy server's answer, connecting included, s.
        host, port: where clients connect; port 0 takes a free one.
        task: name of the first episode.
        others: from the client's observation to where the columns of ``spec.others`` are measured, in the policy's
            numbers; see ``ChunkGate.offer``.
        start_by: who supervises the start, or "". In their name, the first episode is acknowledged when the first
            actions arrive before anything went wrong; nothing else ever is.
        idle_s: a client that says nothing for so long is hung up on, so that another can have the robot.
        most_bytes: of an observation. An answer of the policy server has at most 4 MiB.
        api_key: sent to the policy server as openpi's client does, or None.
        public: listen on a host that other machines reach; the protocol knows no passwords.

    Attributes:
        failures: questions that the policy server did not answer as it should.
        last_error: what went wrong the last time, or "".

    Raises:
        ConfigError: an address, port or deadline that cannot work.
        MissingExtraError: the extra ``remote`` is not installed.
    """

    def __init__(
        self,
        gate: ChunkGate,
        upstream: str,
        encode: Measured,
        *,
        deadline_s: float,
        host: str = "127.0.0.1",
        port: int = 8001,
        task: str = "openpi",
        others: Measured | None = None,
        start_by: str = "",
        idle_s: float = 300.0,
        most_bytes: int = MOST_BYTES,
        api_key: str | None = None,
        public: bool = False,
    ) -> None:
        try:
            from safeguard.integrations.websocket import Listener
        except ModuleNotFoundError as error:
            raise MissingExtraError("a proxy for openpi", "remote") from error
        self._gate, self._encode, self._others = gate, encode, others
        self._deadline_s = checked_deadline("OpenPiProxy", deadline_s)
        self._idle_s = checked_deadline("OpenPiProxy (idle_s)", idle_s)
        self._task, self._start_by, self._begun = task, start_by, False
        self._lease, self._lock = threading.Lock(), threading.Lock()
        self._dtype = np.dtype(np.float32)
        self.failures, self.last_error = 0, ""
        self._link = OpenPiLink(upstream, api_key=api_key)
        self._listener = Listener(
            self._serve,
            self._judge,
            host=host,
            port=port,
            most_bytes=most_bytes,
            public=public,
            name="safeguard-openpi",
        )

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self._listener.url

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        return self._listener.port

    # -- people ---------------------------------------------------------------------------------------

    def begin_episode(self, task: str) -> None:
        """Start a new episode; the rows stand still until somebody acknowledges."""
        with self._lock:
            self._begin(task)

    def acknowledge(self, *, operator: str, reason: str) -> None:
        """Allow motion; from HOLD and worse it counts only at standstill with every cause clear.

        Args:
            operator: who. reason: why.
        """
        with self._lock:
            if not self._begun:
                self._begin(self._task)
            self._gate.acknowledge(operator=operator, reason=reason)

    def stop(self, *, operator: str, reason: str) -> None:
        """Ask for a stop; the next answer brakes.

        Args:
            operator: who. reason: why.
        """
        with self._lock:
            if not self._begun:
                self._begin(self._task)
            self._gate.stop(operator=operator, reason=reason)

    def _begin(self, task: str) -> None:
        if self._begun:
            self._start_by = ""
        self._gate.begin_episode(task)
        self._begun = True

    # -- life -----------------------------------------------------------------------------------------

    def serve_forever(self) -> None:
        """Wait until somebody closes the proxy; it serves in its own threads, also without this."""
        self._listener.wait()

    def close(self) -> None:
        """Hang up on everybody. Again is nothing. The gate stays open."""
        self._link.abort()  # whoever waits for the policy server need not wait longer
        self._listener.close()
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- clients --------------------------------------------------------------------------------------

    def _judge(self, path: str) -> Refusal | None:
        """What to answer a request instead of a websocket."""
        if path == "/healthz":
            return 200, "OK\n"
        if not self._lease.acquire(timeout=_HANDOVER_S):
            return 503, "Another client has the robot.\n"
        self._lease.release()
        return None

    def _serve(self, channel: Channel) -> None:
        """One client, until it goes."""
        if not self._lease.acquire(timeout=_HANDOVER_S):
            channel.close(_TRY_LATER, "another client has the robot")
            return
        try:
            if self._introduced(channel):
                self._converse(channel)
        finally:
            self._lease.release()

    def _introduced(self, channel: Channel) -> bool:
        """Whether the client was given the policy server's metadata."""
        if not self._link.metadata:
            try:
                self._link.open(self._deadline_s)
            except (OSError, PolicyServerError, WireError) as error:
                self._failed(error)
                channel.close(_TRY_LATER, f"no policy server: {error}")
                return False
        channel.send(self._link.metadata, time.monotonic() + _SEND_S)
        return True

    def _converse(self, channel: Channel) -> None:
        while not self._listener.closing:
            try:
                message = channel.receive(time.monotonic() + self._idle_s)
            except TimeoutError:
                channel.close(_GOING_AWAY, f"nothing to do for {self._idle_s:g} s")
                return
            channel.send(self._reply(message), time.monotonic() + _SEND_S)

    def _reply(self, message: bytes | str) -> bytes | str:
        """The answer to one message: a map, or a text that says what is wrong."""
        if isinstance(message, str):
            return "expected an observation as msgpack, got a text"
        try:
            seen = unpacked(message)
            q = np.array(self._encode(seen), dtype=np.float64)
            others = None if self._others is None else np.array(self._others(seen), dtype=np.float64)
        except Exception as error:  # noqa: BLE001  the caller's encoder may raise anything for a client's observation
            return f"the observation cannot be used: {_said(error)}"
        answer, actions = self._asked(message)
        prompt = seen.get("prompt")
        try:
            let = self._offered(q, actions, others, prompt if isinstance(prompt, str) else None)
            if let.blind:
                return "nobody knows where the robot is, do not move: its joint positions cannot be used"
            return self._written(answer, actions, let)
        except Exception as error:  # noqa: BLE001  no rows at all are better than rows that nobody checked
            _LOG.exception("the gate failed")
            return f"the shield failed, do not move: {_said(error)}"

    def _asked(self, message: bytes) -> tuple[Map, Array | None]:
        """The policy server's answer and its actions; nothing and None where it failed."""
        try:
            answer = unpacked(self._link.ask(message, self._deadline_s), arrays=False)
            return answer, actions_of(answer)
        except Exception as error:  # noqa: BLE001  whatever the server says, the gate must hear of it
            self._failed(error)
            return {}, None

    def _offered(self, q: Vector, actions: Array | None, others: Vector | None, prompt: str | None) -> GateAnswer:
        wanted = None if actions is None else actions.astype(np.float64)
        with self._lock:
            if not self._begun:
                self._begin(self._task)
            self._start(actions)
            why = self.last_error if actions is None else ""
            return self._gate.offer(q, wanted, instruction=prompt, others=others, reason=why)

    def _written(self, answer: Map, actions: Array | None, let: GateAnswer) -> bytes:
        """The policy server's answer with what the gate lets through; what it did not change stays as it came."""
        if actions is not None and actions.dtype.char in "fd":  # other types cannot hold what the gate says
            self._dtype = actions.dtype
        if let.changed:
            answer["actions"] = let.actions.astype(self._dtype)
        answer["safeguard"] = {
            "mode": let.decision.mode.name,
            "causes": [cause.value for cause in let.decision.causes],
            "changed": let.changed,
            "error": self.last_error if actions is None else "",
        }
        return packed(answer)

    def _start(self, actions: Array | None) -> None:
        """The supervised start: once, with actions there, and only if nothing happened before."""
        if not self._start_by or actions is None:
            return
        operator, self._start_by = self._start_by, ""
        if self._gate.shield.mode is Mode.BOOT:
            self._gate.acknowledge(operator=operator, reason="supervised start")

    def _failed(self, error: Exception) -> None:
        self.failures, self.last_error = self.failures + 1, _said(error)
        _LOG.warning("the policy server failed: %s", self.last_error)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_LONGEST]
