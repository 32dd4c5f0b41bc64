"""GR00T servers as policies: their ZMQ protocol with a deadline, their actions bound by key and name.

Every wait has an end, and a socket on which anything failed is never used again: a REQ socket that waits for an answer
cannot ask anew.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from safeguard.core.errors import ConfigError, MissingExtraError
from safeguard.core.types import ActionSpec, Observation, Proposal, Vector, frozen_array
from safeguard.policies.groot_wire import Columns, Keys, agreed, as_array, opened, packed, request, unpacked
from safeguard.policies.msgpack_arrays import WireError

if TYPE_CHECKING:
    import zmq

PORT: Final = 5555
MOST_ANSWERED: Final = 1 << 20  # bytes of an answer: a chunk of 40 rows for 64 joints has 10 kB
LONGEST_DEADLINE: Final = 1e5  # s; a poll takes its milliseconds in 32 bits


def address(host: str, port: int) -> str:
    """Where a server is, as ZMQ names it; IPv6 hosts with or without brackets.

    Raises:
        ConfigError: no host, or no port.
    """
    if not isinstance(cast("object", host), str) or not host or not host.strip("[]").isascii() or set(host) & set("/;"):
        raise ConfigError(f"GR00T: host must be a name or an address, got {host!r}")
    if type(port) is not int or not 0 < port < 1 << 16:
        raise ConfigError(f"GR00T: port must be between 1 and 65535, got {port!r}")
    bare = host.strip("[]")
    return f"tcp://[{bare}]:{port}" if ":" in bare else f"tcp://{bare}:{port}"


def checked_deadline(deadline_s: float) -> float:
    """``deadline_s``.

    Raises:
        ConfigError: not a number between 0 and 100,000.
    """
    if not isinstance(cast("object", deadline_s), int | float) or not 0.0 < deadline_s <= LONGEST_DEADLINE:
        raise ConfigError(f"GR00T: deadline_s must be positive and at most {LONGEST_DEADLINE:g} s, got {deadline_s!r}")
    return float(deadline_s)


def dialled(context: zmq.Context[zmq.Socket[bytes]], where: str) -> zmq.Socket[bytes]:
    """A new REQ socket to ``where`` (see ``address``), which forgets at once what it could not deliver.

    Raises:
        ConfigError: ZMQ cannot read ``where``.
    """
    import zmq

    socket = context.socket(zmq.REQ)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, int("[" in where))
    socket.setsockopt(zmq.MAXMSGSIZE, MOST_ANSWERED)
    try:
        socket.connect(where)
    except zmq.ZMQError as error:
        socket.close(0)
        raise ConfigError(f"GR00T: cannot connect to {where}: {error}") from error
    return socket


def zmq_context() -> zmq.Context[zmq.Socket[bytes]]:
    """A context of its own.

    Raises:
        MissingExtraError: pyzmq is not installed.
    """
    try:
        import zmq
    except ImportError as error:
        raise MissingExtraError("GR00T's protocol", "remote") from error
    return zmq.Context()


Encode: TypeAlias = Callable[[Observation], Mapping[str, Any]]
"""From an observation to GR00T's, with batch and time: ``{"video": …, "state": …, "language": …}``."""


def groot_policy(
    host: str,
    port: int,
    spec: ActionSpec,
    encode: Encode,
    columns: Keys,
    *,
    deadline_s: float,
    api_token: str | None = None,
    version: str = "1.6",
) -> GrootPolicy:
    """A GR00T server as a policy. ``infer`` blocks up to ``deadline_s``: give a shield ``WaitingPort(policy, …)``.

    Args:
        host, port: of the server.
        spec: what the numbers mean.
        encode: from an observation to GR00T's.
        columns: key of the action to the names of its columns: ``{"single_arm": (…), "gripper": "gripper"}``.
        deadline_s: for a whole inference with ``encode``, s.
        api_token: sent with every request, or None.
        version: ``"1.6"`` (and N1.7) or ``"1.5"``.

    Raises:
        SpecError: ``columns`` are not the spec's.
        ConfigError: an address, deadline or version that cannot be.
        MissingExtraError: pyzmq is not installed.
    """
    where = address(host, port)
    return GrootPolicy(where, encode, Columns(columns, spec, version), spec, checked_deadline(deadline_s), api_token)


class GrootPolicy:
    """What ``groot_policy`` makes.

    Attributes:
        spec: what the numbers mean.
        name: for records, with the address.
    """

    def __init__(
        self, where: str, encode: Encode, columns: Columns, spec: ActionSpec, deadline_s: float, api_token: str | None
    ) -> None:
        self.spec, self.name = spec, f"GR00T at {where}"
        self._where, self._encode, self._columns = where, encode, columns
        self._deadline, self._token, self._version = deadline_s, api_token, columns.version
        self._context = zmq_context()
        dialled(self._context, where).close(0)  # says at once if the address cannot be read
        self._lock = threading.Lock()
        self._socket: zmq.Socket[bytes] | None = None
        self._seq, self._begins, self._closed = 0, True, False

    def infer(self, observation: Observation) -> Proposal:
        """One inference, within the deadline.

        Raises:
            TimeoutError: no answer in time.
            WireError: the answer is not what it should be; the text says what was found.
        """
        until = time.monotonic() + self._deadline
        try:
            with self._lock:
                actions = self._actions(observation, until)
        finally:
            if self._closed:
                self.close()
        self._seq += 1
        return Proposal(frozen_array(actions), observation.state.t, observation.state.t, self.name, self._seq - 1)

    def reset(self) -> None:
        """Forget the episode; the server is told before the next inference, within that one's deadline."""
        self._seq, self._begins = 0, True

    def close(self) -> None:
        """Close the connection; an inference under way does so at its end."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._hang_up()
                self._context.term()
            finally:
                self._lock.release()

    def _actions(self, observation: Observation, until: float) -> Vector:
        if self._closed:
            raise ConfigError(f"{self.name} was closed")
        try:
            return self._answered(observation, until)
        except BaseException:
            self._hang_up()
            raise

    def _answered(self, observation: Observation, until: float) -> Vector:
        seen = dict(self._encode(observation))
        data = seen if self._version == "1.5" else {"observation": seen, "options": None}
        if self._begins and self._version != "1.5":  # N1.5 knows no reset
            agreed(self._asked("reset", {"options": None}, until))
        self._begins = False
        action, _ = opened(self._asked("get_action", data, until), self._version)
        return self._columns.joined({key: as_array(action[key]) for key in self._columns.keys if key in action})

    def _asked(self, endpoint: str, data: object, until: float) -> object:
        """What the server answers by ``until``, on the clock of ``time.monotonic``."""
        import zmq

        if self._socket is None:
            self._socket = dialled(self._context, self._where)
        message = packed(request(endpoint, data, self._token))
        self._wait(self._socket, zmq.POLLOUT, until)
        self._socket.send(message, zmq.NOBLOCK)
        self._wait(self._socket, zmq.POLLIN, until)
        return unpacked(whole(self._socket))

    def _wait(self, socket: zmq.Socket[bytes], event: int, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0.0 or not socket.poll(math.ceil(left * 1e3), event):
            raise TimeoutError(f"{self.name} did not answer within {self._deadline:g} s")

    def _hang_up(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close(0)


def whole(socket: zmq.Socket[bytes]) -> bytes:
    """The message that has arrived at ``socket``.

    Raises:
        WireError: it has several parts.
    """
    import zmq

    parts = socket.recv_multipart(zmq.NOBLOCK)
    if len(parts) != 1:
        raise WireError(f"a message of {len(parts)} parts, expected one")
    return parts[0]
