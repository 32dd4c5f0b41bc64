"""One websocket connection with a deadline on everything, for either side.

The protocol is the ``websockets`` library's; the socket is handled here, because that library's own connections send
without a time limit and need threads. Import this module where it is used: it needs the extra ``remote``.
"""

from __future__ import annotations

import contextlib
import http
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN, Protocol
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from safeguard.core.errors import ConfigError

_CHUNK: Final = 1 << 14  # bytes between two looks at the clock; as empty frames they take some 20 ms
_MOST_FRAGMENTS: Final = 4096  # of one message
_LONGEST_REASON: Final = 120  # bytes; a close frame has room for 123
_GOODBYE_S: Final = 0.02
_LOG: Final = logging.getLogger("safeguard.websocket")

_Opening = TypeVar("_Opening", Request, Response)

Refusal = tuple[int, str]
"""An HTTP status and its text."""


class ChannelError(ConnectionError):
    """The other side closed, broke the protocol, refused or cannot be reached."""


class Channel:
    """Whole messages over one websocket.

    ``until`` is on the clock of ``time.monotonic``, s. ``TimeoutError`` and ``OSError`` (``ChannelError`` among them)
    end the connection: after either only ``close`` may be called.

    Args:
        sock: connected; it belongs to the channel from now on.
        protocol: of the library, either side.
    """

    def __init__(self, sock: socket.socket, protocol: Protocol) -> None:
        self._sock, self._protocol = sock, protocol
        self._buffer = bytearray(_CHUNK)
        self._frames: deque[Frame] = deque()
        self._parts: list[bytes | bytearray | memoryview] = []
        self._text = False
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self, until: float) -> bytes | str:
        """The next message; text is text.

        Raises:
            TimeoutError: it was not complete in time.
            OSError: there will be none.
        """
        while True:
            while self._frames:
                message = self._assembled(self._frames.popleft())
                if message is not None:
                    return message
            if self._protocol.parser_exc is not None:
                raise ChannelError(f"broken protocol: {self._protocol.parser_exc}")
            self._frames.extend(event for event in self._events(until) if isinstance(event, Frame))

    def quiet(self, until: float) -> bool:
        """Whether it is open and nothing came unasked but pings, which are answered; if not, it is finished."""
        try:
            while self._readable():
                events = self._events(until)
                if any(isinstance(event, Frame) and event.opcode not in (Opcode.PING, Opcode.PONG) for event in events):
                    return False
        except OSError:
            return False
        return not self._frames and self._protocol.state is OPEN

    def send(self, message: bytes | str, until: float) -> None:
        """Send ``message``: text as text, bytes as they are.

        Raises:
            TimeoutError: the other side did not take it in time.
            OSError: the connection is gone.
        """
        try:
            if isinstance(message, str):
                self._protocol.send_text(message.encode("utf-8", "replace"))
            else:
                self._protocol.send_binary(message)
        except WebSocketException as error:
            raise ChannelError(f"the connection is closed: {error}") from error
        self.flush(until)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye if the other side takes it at once, and close the socket. Never raises."""
        until = time.monotonic() + _GOODBYE_S
        with contextlib.suppress(OSError, WebSocketException):
            if self._protocol.state is OPEN:
                self._protocol.send_close(code, reason.encode()[:_LONGEST_REASON].decode("utf-8", "ignore"))
            self.flush(until)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # also wakes whoever waits in another thread
        self._sock.close()

    def abort(self) -> None:
        """Wake whoever waits in another thread; the connection is over."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def request(self, until: float) -> Request:
        """The opening request of a client."""
        return self._opening(Request, until)

    def response(self, until: float) -> Response:
        """The answer of a server to the opening request."""
        return self._opening(Response, until)

    def _opening(self, kind: type[_Opening], until: float) -> _Opening:
        while True:
            events = self._events(until)
            for event in events:
                if isinstance(event, kind):
                    self._frames.extend(later for later in events if isinstance(later, Frame))
                    return event
            if self._protocol.parser_exc is not None:
                raise ChannelError(f"no websocket handshake: {self._protocol.parser_exc}")

    def _events(self, until: float) -> list[Any]:
        """Read once and answer pings; what came in."""
        self._sock.settimeout(_left(until))
        count = self._sock.recv_into(self._buffer)
        if not count:
            said = self._protocol.close_rcvd
            raise ChannelError("the other side closed the connection" + (f" ({said})" if said else ""))
        self._protocol.receive_data(self._buffer[:count])
        events: list[Any] = self._protocol.events_received()
        self.flush(until)
        return events

    def _readable(self) -> bool:
        """Whether something came in, the end included."""
        self._sock.setblocking(False)
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        return True

    def flush(self, until: float) -> None:
        """Send what the protocol wants to say."""
        for data in self._protocol.data_to_send():
            if not data:  # that was all
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_WR)
            view = memoryview(data)
            while view:
                self._sock.settimeout(_left(until))
                view = view[self._sock.send(view) :]

    def _assembled(self, frame: Frame) -> bytes | str | None:
        """The message that ``frame`` completes, or None."""
        if frame.opcode is Opcode.CLOSE:
            raise ChannelError(f"the other side closed the connection ({self._protocol.close_rcvd})")
        if frame.opcode not in DATA_OPCODES:
            return None
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
        self._parts.append(frame.data)
        if len(self._parts) > _MOST_FRAGMENTS:
            raise ChannelError(f"a message of more than {_MOST_FRAGMENTS} fragments")
        if not frame.fin:
            return None
        whole, self._parts = b"".join(self._parts), []
        return whole.decode("utf-8", "replace") if self._text else whole


class Address:
    """Where a server is: ``host:port`` or ``ws://host:port/path``; an IPv6 host in brackets.

    The name is looked up once, here, because a look-up has no deadline.

    Raises:
        ConfigError: it is no such address, or nobody knows the host.
    """

    def __init__(self, where: str) -> None:
        self.url = where if "://" in where else f"ws://{where}"
        try:
            self.uri = parse_uri(self.url)
        except (WebSocketException, ValueError) as error:
            raise ConfigError(_address_help(where, str(error))) from error
        if self.uri.secure:
            raise ConfigError(_address_help(where, "wss:// is not supported, put a tunnel before it"))
        if self.uri.user_info is not None:
            raise ConfigError(_address_help("…@…", "a password in an address ends up in records; use api_key"))
        try:
            self._targets = socket.getaddrinfo(self.uri.host, self.uri.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ConfigError(_address_help(where, str(error))) from error

    def connect(self, until: float) -> socket.socket:
        """A socket connected to the first of its addresses that answers.

        Raises:
            TimeoutError: none did in time.
            ChannelError: none takes connections.
        """
        refused = "no address"
        for family, kind, protocol, _, target in self._targets:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(_left(until))
                sock.connect(target)
            except TimeoutError as error:
                sock.close()
                raise TimeoutError(f"{self.url} does not take connections in time") from error
            except OSError as error:
                sock.close()
                refused = str(error)
            else:
                return sock
        raise ChannelError(f"{self.url} cannot be reached: {refused}")


def connect(address: Address, until: float, *, most_bytes: int, headers: Mapping[str, str] | None = None) -> Channel:
    """An open channel to a server.

    Raises:
        TimeoutError: it did not open in time.
        OSError: the server cannot be reached, refused, or speaks no websocket.
    """
    protocol = ClientProtocol(address.uri, max_size=most_bytes, logger=_LOG)
    channel = Channel(address.connect(until), protocol)
    try:
        request = protocol.connect()
        request.headers.update(headers or {})
        protocol.send_request(request)
        channel.flush(until)
        channel.response(until)
        if protocol.handshake_exc is not None:
            raise ChannelError(f"{address.url} refused: {protocol.handshake_exc}")
    except BaseException:
        channel.close()
        raise
    return channel


def accept(
    sock: socket.socket, until: float, *, most_bytes: int, judge: Callable[[str], Refusal | None]
) -> Channel | None:
    """An open channel to the client behind ``sock``, or None where it was answered with a plain HTTP response.

    Web pages are refused: a browser lets any page open a websocket to this machine, and names the page as the origin.

    Args:
        sock: just accepted; it is closed unless it becomes a channel.
        until: when the handshake must be done.
        most_bytes: of a message.
        judge: from the path that the client asks for to what to answer instead of a websocket, or None.

    Raises:
        TimeoutError: the client did not say what it wants in time.
        OSError: it went away, or speaks no HTTP.
    """
    protocol = ServerProtocol(origins=[None], max_size=most_bytes, logger=_LOG)
    channel = Channel(sock, protocol)
    try:
        request = channel.request(until)
        refusal = judge(request.path)
        response = (
            protocol.accept(request) if refusal is None else protocol.reject(http.HTTPStatus(refusal[0]), refusal[1])
        )
        protocol.send_response(response)
        channel.flush(until)
    except BaseException:
        channel.close()
        raise
    if protocol.state is OPEN:
        return channel
    channel.close()
    return None


def _left(until: float) -> float:
    """Seconds left, more than none."""
    left = until - time.monotonic()
    if left <= 0.0:
        raise TimeoutError("no time left")
    return left


def _address_help(where: str, why: str) -> str:
    return f"{where!r} is no address of a policy server ({why}): expected host:port or ws://host:port/path"
