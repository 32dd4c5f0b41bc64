"""GR00T servers as policies: their ZMQ protocol with a deadline, their actions bound by key and name.

Every wait has an end, and a socket on which anything failed is never used again: a REQ socket that waits for an answer
cannot ask anew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import numpy as np

from safeguard.core.errors import ConfigError, MissingExtraError
from safeguard.core.types import ActionSpec, Observation, Proposal, Vector, frozen_array
from safeguard.policies.groot_wire import Columns, Keys, agreed, as_array, opened, packed, request, unpacked
from safeguard.policies.msgpack_arrays import WireError
from safeguard.policies.openpi import checked_deadline
from safeguard.policies.waiting import WaitingPort

if TYPE_CHECKING:
    import zmq

PORT: Final = 5555
MOST_ANSWERED: Final = 1 << 20  # bytes of an answer: a chunk of 40 rows for 64 joints has 10 kB
_LONGEST: Final = 200  # characters of a proposal's source


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


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """A ZMQ context, whose sockets are its maker's.

    Raises:
        MissingExtraError: the extra ``remote`` is not installed.
    """
    try:
        import zmq
    except ImportError as error:
        raise MissingExtraError("talking to a GR00T server", "remote") from error
    return zmq.Context()


Encode: TypeAlias = Callable[[Observation], Mapping[str, object]]
"""Observation to GR00T's: from N1.6 on ``{"video": …, "state": …, "language": …}``, with axes for batch and time."""


class GrootPolicy:
    """A GR00T server's policy. ``infer`` blocks, never longer than the deadline, and raises where it fails.

    For one thread at a time. In the loop use ``groot_policy``, which does not block.

    Args:
        host, port: of the server; IPv6 hosts with or without brackets.
        spec: what the numbers mean.
        encode: observation to GR00T's.
        columns: key of the action to the names of its columns: ``{"single_arm": (…), "gripper": "gripper"}``.
        deadline_s: for an inference with everything that belongs to it, s.
        api_token: sent with every request, or None.
        version: ``"1.6"``, which N1.7 speaks too, or ``"1.5"``.
        name: for records; the address if None.

    Raises:
        SpecError: ``columns`` are not the spec's, each once.
        ConfigError: an address, a deadline or a version that cannot be.
        MissingExtraError: the extra ``remote`` is not installed.
    """

    def __init__(
        self,
        host: str,
        port: int,
        spec: ActionSpec,
        encode: Encode,
        columns: Keys,
        *,
        deadline_s: float,
        api_token: str | None = None,
        version: str = "1.6",
        name: str | None = None,
    ) -> None:
        self._where = address(host, port)
        self.spec, self.name = spec, name or self._where
        self._columns, self._encode = Columns(columns, spec, version), encode
        self._deadline_s, self._token = checked_deadline("GrootPolicy", deadline_s), api_token
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._seq, self._begins = 0, True
        context = new_context()
        try:
            dialled(context, self._where).close(0)  # an address that ZMQ cannot read is found here
        finally:
            context.term()

    def infer(self, observation: Observation) -> Proposal:
        """One inference. Actions of other keys, widths or types come out flat, and their source says why.

        Raises:
            TimeoutError: no answer within the deadline.
            WireError: the answer is no action or says that the server failed, or the observation cannot be sent.
        """
        until, stamp = time.monotonic() + self._deadline_s, observation.state.t
        try:
            actions, source = self._actions(observation, until)
        except BaseException:
            self._hang_up()  # a late answer must not be taken for that to the next question
            raise
        self._seq += 1
        return Proposal(frozen_array(actions), stamp, stamp, source, self._seq - 1)

    def reset(self) -> None:
        """Forget the episode. The server is told before the next inference, within that one's deadline."""
        self._seq, self._begins = 0, True

    def close(self) -> None:
        """Close the connection; the next inference opens a new one."""
        self._hang_up()
        context, self._context = self._context, None
        if context is not None:
            context.term()

    def _actions(self, observation: Observation, until: float) -> tuple[Vector, str]:
        """The numbers, and who says them."""
        version, seen = self._columns.version, dict(self._encode(observation))
        if self._begins and version != "1.5":  # N1.5 knows no reset
            agreed(self._asked("reset", {"options": None}, until))
        self._begins = False
        data = seen if version == "1.5" else {"observation": seen, "options": None}
        action, _ = opened(self._asked("get_action", data, until), version)
        arrays = {key: as_array(action[key]) for key in self._columns.keys if key in action}
        try:
            return self._columns.joined(arrays), self.name
        except WireError as error:
            flat: Vector = np.concatenate([np.zeros(0), *(array.ravel() for array in arrays.values())])
            return flat, f"{self.name}: {error}"[:_LONGEST]

    def _asked(self, endpoint: str, data: object, until: float) -> object:
        """What the server answers by ``until``, on the clock of ``time.monotonic``."""
        import zmq

        message = packed(request(endpoint, data, self._token))
        if self._socket is None:
            self._context = self._context or new_context()
            self._socket = dialled(self._context, self._where)
        self._wait(self._socket, zmq.POLLOUT, until)
        self._socket.send(message, zmq.NOBLOCK)
        self._wait(self._socket, zmq.POLLIN, until)
        return unpacked(whole(self._socket))

    def _wait(self, socket: zmq.Socket[bytes], event: int, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0.0 or not socket.poll(math.ceil(left * 1e3), event):
            raise TimeoutError(f"{self._where} did not answer within {self._deadline_s:g} s")

    def _hang_up(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close(0)


def groot_policy(
    host: str,
    port: int,
    spec: ActionSpec,
    encode: Encode,
    columns: Keys,
    *,
    deadline_s: float,
    period: float | None = None,
    api_token: str | None = None,
    version: str = "1.6",
    name: str | None = None,
) -> WaitingPort:
    """A GR00T server's policy as a port for ``Shield(robot, port)``. Nothing connects before the first use.

    Args:
        host, port, spec, encode, columns, api_token, version, name: see ``GrootPolicy``.
        deadline_s: for one answer, s; what comes later is dropped and counted in ``failures``.
        period: between questions, s; see ``WaitingPort``.

    Raises:
        SpecError, ConfigError, MissingExtraError: see ``GrootPolicy`` and ``WaitingPort``.
    """
    policy = GrootPolicy(
        host, port, spec, encode, columns, deadline_s=deadline_s, api_token=api_token, version=version, name=name
    )
    return WaitingPort(policy, deadline_s=deadline_s, period=period)


def whole(socket: zmq.Socket[bytes]) -> bytes:
    """The message that has arrived at ``socket``.

    Raises:
        WireError: it has several parts. They are left where they are: close ``socket``.
    """
    import zmq

    message = socket.recv(zmq.NOBLOCK)
    if socket.getsockopt(zmq.RCVMORE):
        raise WireError("a message of several parts, expected one")
    return message
