"""A websocket server that stays up: bounded clients, a thread each, deadlines on everything."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from safeguard.core.errors import ConfigError
from safeguard.policies.websocket import Channel, Refusal, accept

_LOG: Final = logging.getLogger("safeguard.websocket")
_HANDSHAKE_S: Final = 2.0
_LOOK_S: Final = 0.1  # how often the listener looks whether it shall end
_PAUSE_S: Final = 0.05  # after a connection could not be accepted, such as for want of file descriptors
_CLOSING_S: Final = 1.0
_BACKLOG: Final = 16


class Listener:
    """Accepts clients until it is closed, whatever they do.

    Args:
        serve: handles one client in a thread of its own; the channel is closed when it returns or raises.
        judge: from the path of a request to a plain HTTP answer, or None for a websocket.
        host, port: where to listen; port 0 takes a free one.
        most_bytes: of a message.
        most_clients: at a time, handshakes included; others are hung up on.
        public: listen on an address that other machines reach.
        name: of its threads.

    Attributes:
        failures: connections that could not be accepted or whose handler raised.

    Raises:
        ConfigError: the host is not this machine's own and ``public`` is not set, or nothing can listen there.
    """

    def __init__(
        self,
        serve: Callable[[Channel], None],
        judge: Callable[[str], Refusal | None],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        most_bytes: int,
        most_clients: int = 8,
        public: bool = False,
        name: str = "safeguard-listener",
    ) -> None:
        self._serve, self._judge, self._most_bytes = serve, judge, most_bytes
        self._socket = _listening(host, port, public=public)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        self._room = threading.Semaphore(most_clients)
        self._lock, self._channels = threading.Lock(), set[Channel]()
        self._closing = threading.Event()
        self._name, self.failures = name, 0
        self._threads = {threading.Thread(target=self._listen, name=name, daemon=True)}
        for thread in tuple(self._threads):
            thread.start()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"ws://[{self.host}]:{self.port}" if ":" in self.host else f"ws://{self.host}:{self.port}"

    @property
    def closing(self) -> bool:
        """Whether ``close`` was called."""
        return self._closing.is_set()

    def wait(self) -> None:
        """Wait until somebody calls ``close``."""
        self._closing.wait()

    def close(self) -> None:
        """Hang up on everybody and end the threads; waits at most a second for handlers. Again is nothing."""
        self._closing.set()
        self._socket.close()
        with self._lock:
            for channel in self._channels:
                channel.abort()
            threads = tuple(self._threads)
        until = time.monotonic() + _CLOSING_S
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def _listen(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._socket.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if not self._closing.is_set():
                    self._failed("a connection could not be accepted", error)
                    self._closing.wait(_PAUSE_S)
                continue
            self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        if not self._room.acquire(blocking=False):
            sock.close()
            return
        thread = threading.Thread(target=self._attend, args=(sock,), name=f"{self._name}-client", daemon=True)
        with self._lock:
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            self._gone(thread)
            sock.close()
            self._failed("no thread for a client", error)

    def _attend(self, sock: socket.socket) -> None:
        channel: Channel | None = None
        try:
            until = time.monotonic() + _HANDSHAKE_S
            channel = accept(sock, until, most_bytes=self._most_bytes, judge=self._judge)
            if channel is not None:
                with self._lock:
                    self._channels.add(channel)
                if not self._closing.is_set():
                    self._serve(channel)
        except OSError as error:
            _LOG.debug("a client is gone: %s", error)
        except Exception as error:  # noqa: BLE001  one client's trouble is not the next one's
            self._failed("serving a client failed", error)
        finally:
            if channel is not None:
                with self._lock:
                    self._channels.discard(channel)
                channel.close()
            self._gone(threading.current_thread())

    def _gone(self, thread: threading.Thread) -> None:
        with self._lock:
            self._threads.discard(thread)
        self._room.release()

    def _failed(self, what: str, error: Exception) -> None:
        self.failures += 1
        _LOG.warning("%s: %s: %s", what, type(error).__name__, error)


def _listening(host: str, port: int, *, public: bool) -> socket.socket:
    if not (public or _is_loopback(host)):
        raise ConfigError(
            f"host {host!r} can be reached from other machines, and the protocol knows no passwords: "
            "use 127.0.0.1, or say public=True"
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host!r} port {port}: {error}") from error
    sock.settimeout(_LOOK_S)
    return sock


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
