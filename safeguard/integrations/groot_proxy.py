"""The shield between unchanged GR00T clients and their server.

    robot's GR00T client ─▶ proxy ─▶ GR00T server        observations go on as they came
                         ◀─ gate  ◀─                     actions come back through the shield

One thread serves everybody: nothing in it waits for the server, so that a question of one client takes nothing from the
deadline of another's.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from safeguard.core.errors import ConfigError
from safeguard.integrations.gate import ChunkGate
from safeguard.integrations.groot_gate import GrootGate, Joints, Seen
from safeguard.policies.groot import address, dialled, new_context, whole
from safeguard.policies.groot_wire import Keys, is_map, packed, request, unpacked
from safeguard.policies.msgpack_arrays import WireError
from safeguard.policies.openpi import checked_deadline

if TYPE_CHECKING:
    import zmq

    Socket: TypeAlias = zmq.Socket[bytes]

_LOG: Final = logging.getLogger("safeguard.groot")
_LOOPBACK: Final = ("127.0.0.1", "::1")
_FORWARDED: Final = ("ping", "reset", "get_modality_config")
_MOST_REQUESTED: Final = 64 << 20  # bytes: an observation has images
_MOST_WAITING: Final = 8  # questions that the server is asked at a time, beside those that move the arm
_QUEUED: Final = 4  # messages of one client that ZMQ keeps
_LOOK_S: Final = 0.05  # between two looks whether somebody closed
_CLOSING_S: Final = 2.0  # that close waits; longer where the caller's encode or the gate hangs, it goes on without
_LONGEST: Final = 500  # characters of an error


@dataclass(slots=True, eq=False)
class _Question:
    """What a client waits for: ``socket`` is where the server's answer comes in, until ``until`` (monotonic, s)."""

    client: bytes
    endpoint: str
    until: float
    socket: Socket
    seen: Seen | None = None


class GrootProxy:
    """A server for unchanged GR00T clients, in a thread of its own.

    The GR00T server is asked with a hard deadline. Where it fails, the rows of the answer brake and hold, and the
    record says why. One client at a time has the arm: the first that asks for actions, until it has said nothing for
    ``idle_s``; what others ask is refused, except ``ping`` and ``get_modality_config``. ``kill`` is refused to
    everybody. ``reset`` begins an episode, unless the mode is HOLD or worse: what a stop needs is a person's
    ``acknowledge``. Refusals are ``{"error": …}``, which GR00T's client raises as ``RuntimeError``.

    Args:
        gate: a ``ChunkGate``; nobody else may offer it anything meanwhile, and the caller closes it.
        upstream: the GR00T server, ``host:port``; an IPv6 host in brackets.
        encode: from the client's observation to the measured joint positions. Arrays in it are read-only.
        columns: key of the action to the names of its columns. Other keys pass unseen, and are left out of the rows
            that stand in for the server's.
        deadline_s: for the server's answer, s.
        others: from the client's observation to where the spec's ``others`` columns, such as a gripper, are measured,
            in the policy's numbers; without it they begin at 0, or at the end of their range that is nearer.
        version: ``"1.6"``, which N1.7 speaks too, or ``"1.5"``.
        host, port: where clients connect, a loopback address; port 0 takes a free one.
        task: name of the episodes.
        start_by: who supervises the start, or "". In their name, the first episode is acknowledged when the first
            actions arrive before anything went wrong; nothing else ever is.
        idle_s: see above.

    Attributes:
        port: that clients connect to.

    Raises:
        SpecError: ``columns`` are not those of the gate's spec, each once.
        ConfigError: an address, a port, a deadline or a version that cannot work.
        MissingExtraError: the extra ``remote`` is not installed.
    """

    def __init__(
        self,
        gate: ChunkGate,
        upstream: str,
        encode: Joints,
        columns: Keys,
        *,
        deadline_s: float,
        others: Joints | None = None,
        version: str = "1.6",
        host: str = "127.0.0.1",
        port: int = 5556,
        task: str = "GR00T",
        start_by: str = "",
        idle_s: float = 5.0,
    ) -> None:
        self._gate = GrootGate(gate, encode, others, columns, version, task, start_by)
        self._deadline_s = checked_deadline("GrootProxy", deadline_s)
        self._idle_s = checked_deadline("GrootProxy (idle_s)", idle_s)
        self._upstream = _where(upstream)
        self._closing = threading.Event()
        self._holder, self._held_until = b"", -math.inf
        self._questions: list[_Question] = []
        self._spare: list[Socket] = []
        self._context = new_context()
        try:
            dialled(self._context, self._upstream).close(0)  # an address that ZMQ cannot read is found here
            self._front, self.port = _listening(self._context, host, port)
            self._poller = _polling(self._front)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._thread = threading.Thread(target=self._run, name="safeguard-groot", daemon=True)
        self._thread.start()

    @property
    def failures(self) -> int:
        """Questions that the server did not answer as it should."""
        return self._gate.failures

    @property
    def last_error(self) -> str:
        """What went wrong the last time, or ""."""
        return self._gate.last_error

    # -- people ---------------------------------------------------------------------------------------

    def begin_episode(self, task: str) -> None:
        """Start a new episode; the rows stand still until somebody acknowledges."""
        self._gate.begin_episode(task)

    def acknowledge(self, *, operator: str, reason: str) -> None:
        """Allow motion; from HOLD and worse it counts only at standstill with every cause clear.

        Args:
            operator: who. reason: why.
        """
        self._gate.acknowledge(operator, reason)

    def stop(self, *, operator: str, reason: str) -> None:
        """Ask for a stop; the next answer brakes.

        Args:
            operator: who. reason: why.
        """
        self._gate.stop(operator, reason)

    # -- life -----------------------------------------------------------------------------------------

    def serve_forever(self) -> None:
        """Wait until somebody closes the proxy; it serves in its own thread, also without this."""
        self._closing.wait()

    def close(self) -> None:
        """Stop serving. Again is nothing. The gate stays open."""
        self._closing.set()
        if self._thread is not threading.current_thread():
            self._thread.join(_CLOSING_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                try:
                    self._turn()
                except Exception:  # noqa: BLE001  whatever it was, the next client is served
                    _LOG.exception("a message could not be handled")
            for question in self._questions:
                self._send(question.client, _error("the proxy was closed"))
        finally:
            self._context.destroy(linger=100)

    def _turn(self) -> None:
        """Wait for something to happen, and do what is to do."""
        now = time.monotonic()
        patience = min([_LOOK_S, *(question.until - now for question in self._questions)])
        ready = dict(self._poller.poll(math.ceil(max(patience, 0.0) * 1e3)))
        for question in tuple(self._questions):
            if question.socket in ready:
                self._land(question)
            elif time.monotonic() >= question.until:
                self._give_up(question)
        if self._front in ready:
            self._take()

    def _take(self) -> None:
        """One message of a client."""
        import zmq

        frames = self._front.recv_multipart(zmq.NOBLOCK)
        if len(frames) != 3 or frames[1]:
            return  # not from a REQ socket: there is nobody to answer
        try:
            refusal = self._asked(frames[0], frames[2], time.monotonic() + self._deadline_s)
        except WireError as error:
            refusal = str(error)
        except Exception as error:  # noqa: BLE001  a client may send anything, and the caller's encode may do anything
            refusal = _said(error)
        if refusal:
            self._send(frames[0], _error(refusal))

    def _asked(self, client: bytes, message: bytes, until: float) -> str:
        """Ask the server for ``client``, or why not."""
        asked = unpacked(message)
        if not is_map(asked):
            return f"expected a map, got {type(asked).__name__}"
        endpoint = asked.get("endpoint", "get_action")
        if endpoint == "kill":
            return "kill is refused: the shield's proxy does not end the server"
        if endpoint != "get_action" and endpoint not in _FORWARDED:
            return f"unknown endpoint {endpoint!r}"
        if any(question.client == client for question in self._questions):
            return "one question at a time"
        moves = endpoint in ("get_action", "reset")
        if moves and self._is_taken(client):
            return f"another client has the arm, until it has said nothing for {self._idle_s:g} s"
        if not moves and len(self._questions) >= _MOST_WAITING:
            return "too many questions at once"
        seen = self._gate.read(asked.get("data")) if endpoint == "get_action" else None
        forward = packed(request(endpoint, asked.get("data"), asked.get("api_token")))
        if moves:
            self._holder = client
        self._questions.append(_Question(client, endpoint, until, self._dispatched(forward), seen))
        return ""

    def _is_taken(self, client: bytes) -> bool:
        """Whether another client has the arm."""
        busy = any(question.client == self._holder for question in self._questions)
        return client != self._holder and (busy or time.monotonic() < self._held_until)

    # -- the server -----------------------------------------------------------------------------------

    def _dispatched(self, message: bytes) -> Socket:
        """Where the answer to ``message`` will come in."""
        import zmq

        line = self._spare.pop() if self._spare else dialled(self._context, self._upstream)
        try:
            line.send(message, zmq.NOBLOCK)
        except BaseException:
            line.close(0)
            raise
        self._poller.register(line, zmq.POLLIN)
        return line

    def _land(self, question: _Question) -> None:
        """The server has answered."""
        import zmq

        self._forget(question)
        try:
            message = whole(question.socket)
        except (WireError, zmq.ZMQError) as error:
            question.socket.close(0)
            self._finish(question, None, str(error))
        else:
            self._spare.append(question.socket)
            self._finish(question, message, "")

    def _give_up(self, question: _Question) -> None:
        """The server is too late; the socket is closed, so that nobody gets what may still come."""
        self._forget(question)
        question.socket.close(0)
        self._finish(question, None, f"{self._upstream} did not answer within {self._deadline_s:g} s")

    def _forget(self, question: _Question) -> None:
        self._questions.remove(question)
        self._poller.unregister(question.socket)

    def _finish(self, question: _Question, message: bytes | None, why: str) -> None:
        """Answer the client: ``message`` is what the server said, None where it failed and ``why`` says how."""
        try:
            if question.seen is not None:
                reply = packed(self._gate.shielded(question.seen, message, why))
            else:
                reply = packed(self._gate.passed(question.endpoint, message, why))
        except Exception as error:  # noqa: BLE001  the client must hear of it, whatever it is
            _LOG.exception("the gate failed")
            reply = _error(f"the shield failed, do not move: {_said(error)}")
        if question.client == self._holder:
            self._held_until = time.monotonic() + self._idle_s
        self._send(question.client, reply)

    def _send(self, client: bytes, reply: bytes) -> None:
        """Answer ``client``; one that is gone has let go of the arm, one that does not read gets nothing."""
        import zmq

        try:
            self._front.send_multipart([client, b"", reply], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH and client == self._holder:
                self._held_until = -math.inf


def _where(upstream: str) -> str:
    host, _, port = str(upstream).rpartition(":")
    if not port.isdecimal():
        raise ConfigError(f"GrootProxy: upstream must be host:port, got {upstream!r}")
    return address(host, int(port))


def _listening(context: zmq.Context[Socket], host: str, port: int) -> tuple[Socket, int]:
    """A socket for clients, and its port."""
    import zmq

    if host not in _LOOPBACK or type(port) is not int or not 0 <= port < 1 << 16:
        raise ConfigError(
            f"GrootProxy: listens at {' or '.join(_LOOPBACK)} and a port from 0 to 65535, got {host!r} and {port!r}; "
            "the protocol has no passwords worth the name, run the proxy where the client runs"
        )
    socket = context.socket(zmq.ROUTER)
    options: Any = (zmq.RCVHWM, _QUEUED), (zmq.SNDHWM, _QUEUED), (zmq.MAXMSGSIZE, _MOST_REQUESTED)
    for option, value in (*options, (zmq.ROUTER_MANDATORY, 1), (zmq.IPV6, int(":" in host))):
        socket.setsockopt(option, value)
    where = f"tcp://[{host}]" if ":" in host else f"tcp://{host}"
    try:
        socket.bind(f"{where}:{port or '*'}")
    except zmq.ZMQError as error:
        raise ConfigError(f"GrootProxy: cannot listen at {where}:{port}: {error}") from error
    return socket, int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])


def _polling(front: Socket) -> zmq.Poller:
    import zmq

    poller = zmq.Poller()
    poller.register(front, zmq.POLLIN)
    return poller


def _error(why: str) -> bytes:
    """An answer that GR00T's client raises."""
    return packed({"error": why[:_LONGEST].encode("utf-8", "replace").decode()})


def _said(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  its text is the caller's, too
        return type(error).__name__
