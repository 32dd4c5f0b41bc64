"""Policies behind an openpi websocket server, asked with a hard deadline.

The wire: the server's first frame is a map of metadata; then for every observation, a map with arrays of numbers, it
answers a map with ``actions``, or a text that says what went wrong. Arrays: ``safeguard.policies.msgpack_arrays``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from safeguard.core.errors import ConfigError, MissingExtraError
from safeguard.core.types import ActionSpec, Observation, Proposal, frozen_array
from safeguard.policies.msgpack_arrays import Array, Map, WireError, as_array, packed, unpacked
from safeguard.policies.waiting import LONGEST_DEADLINE_S, WaitingPort

if TYPE_CHECKING:
    from safeguard.policies.websocket import Channel

MOST_BYTES: Final = 64 << 20
"""Of an observation, unless told otherwise."""
MOST_ANSWERED: Final = 4 << 20
"""Bytes of an answer, unless told otherwise: a chunk of 50 rows for 32 columns has 13 kB."""
_LONGEST: Final = 500  # characters of a server's own words

Encode = Callable[[Observation], Mapping[str, object]]
"""Observation to the map that the server's policy takes."""


class PolicyServerError(RuntimeError):
    """The server answered that it failed; the text has its last words."""


class OpenPiLink:
    """One connection to an openpi server; after any failure the next question opens a new one.

    For one thread at a time, except ``abort``.

    Args:
        where: ``host:port`` or ``ws://host:port/path``; an IPv6 host in brackets.
        most_bytes: of an answer.
        api_key: sent to the server as openpi's client does, or None.

    Attributes:
        metadata: what the server said first, undecoded; empty while there was no connection yet.

    Raises:
        ConfigError: no such address, or nobody knows the host.
        MissingExtraError: the extra ``remote`` is not installed.
    """

    def __init__(self, where: str, *, most_bytes: int = MOST_ANSWERED, api_key: str | None = None) -> None:
        try:
            from safeguard.policies.websocket import Address
        except ModuleNotFoundError as error:
            raise MissingExtraError("talking to an openpi server", "remote") from error
        self._address, self._most_bytes = Address(where), most_bytes
        self._headers = {} if api_key is None else {"Authorization": f"Api-Key {api_key}"}
        self._channel: Channel | None = None
        self.metadata: bytes = b""

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._address.url

    def open(self, deadline_s: float) -> None:
        """Connect and read the metadata, unless connected.

        Raises:
            TimeoutError: not done within ``deadline_s``.
            OSError: the server cannot be reached or closed the connection.
            WireError: the first frame is no metadata.
        """
        self._opened(time.monotonic() + deadline_s)

    def ask(self, question: bytes, deadline_s: float) -> bytes:
        """The server's answer to ``question``, connecting first where needed. What comes late nobody gets.

        Raises:
            TimeoutError: no answer within ``deadline_s``, connecting included.
            OSError: the server cannot be reached or closed the connection.
            PolicyServerError: it answered with a text.
            WireError: its metadata are none.
        """
        until = time.monotonic() + deadline_s
        channel = self._opened(until)
        try:
            channel.send(question, until)
            answer = channel.receive(until)
        except TimeoutError as error:
            self.close()  # a late answer must not be taken for that to the next question
            raise TimeoutError(f"{self.url} did not answer within {deadline_s:g} s") from error
        except BaseException:
            self.close()
            raise
        if isinstance(answer, str):
            self.close()  # so does the server
            raise PolicyServerError(f"{self.url} failed: {answer[-_LONGEST:]}")
        return answer

    def abort(self) -> None:
        """End what is under way in another thread."""
        channel = self._channel
        if channel is not None:
            channel.abort()

    def close(self) -> None:
        """Close the connection; the next question opens a new one."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _opened(self, until: float) -> Channel:
        from safeguard.policies.websocket import connect

        if self._channel is not None:
            if self._channel.quiet(until):
                return self._channel
            self.close()  # the server went away meanwhile, or says more than it was asked
        channel = connect(self._address, until, most_bytes=self._most_bytes, headers=self._headers)
        try:
            metadata = channel.receive(until)
            if isinstance(metadata, str):
                raise PolicyServerError(f"{self.url} failed: {metadata[-_LONGEST:]}")
            unpacked(metadata, arrays=False)
        except BaseException:
            channel.close()
            raise
        self.metadata, self._channel = metadata, channel
        return channel


class OpenPiPolicy:
    """A policy behind an openpi server. ``infer`` blocks, never longer than the deadline, and raises where it fails.

    In the loop use ``openpi_policy``, which does not block.

    Args:
        where: see ``OpenPiLink``.
        spec: what the numbers in ``actions`` mean.
        encode: observation to the map that the server's policy takes.
        deadline_s: for one answer, connecting included, s.
        name: for records; the address if None.
        most_bytes, api_key: see ``OpenPiLink``.

    Raises:
        ConfigError: see ``OpenPiLink``; or a deadline that is not above 0 and at most 1e5 s.
        MissingExtraError: the extra ``remote`` is not installed.
    """

    def __init__(
        self,
        where: str,
        spec: ActionSpec,
        encode: Encode,
        *,
        deadline_s: float,
        name: str | None = None,
        most_bytes: int = MOST_ANSWERED,
        api_key: str | None = None,
    ) -> None:
        self._link = OpenPiLink(where, most_bytes=most_bytes, api_key=api_key)
        self.spec, self.name = spec, name or self._link.url
        self._encode, self._deadline_s = encode, checked_deadline("OpenPiPolicy", deadline_s)
        self._seq = 0

    @property
    def metadata(self) -> Map:
        """What the server said of itself when last connected; empty before."""
        return unpacked(self._link.metadata) if self._link.metadata else {}

    def infer(self, observation: Observation) -> Proposal:
        """The server's actions as they came, whatever their shape.

        Raises:
            TimeoutError, OSError, PolicyServerError: see ``OpenPiLink.ask``.
            WireError: the answer is no map with an array ``actions``, or the observation cannot be sent.
        """
        answer = self._link.ask(packed(self._encode(observation)), self._deadline_s)
        actions = frozen_array(actions_of(unpacked(answer, arrays=False)))
        stamp, self._seq = observation.state.t, self._seq + 1
        return Proposal(actions, stamp, stamp, self.name, self._seq - 1)

    def reset(self) -> None:
        """Count from 0 again; the server knows no episodes."""
        self._seq = 0

    def close(self) -> None:
        """Close the connection."""
        self._link.close()


def openpi_policy(
    where: str,
    spec: ActionSpec,
    encode: Encode,
    *,
    deadline_s: float,
    period: float | None = None,
    name: str | None = None,
    most_bytes: int = MOST_ANSWERED,
    api_key: str | None = None,
) -> WaitingPort:
    """A policy behind an openpi server, as a port for ``Shield(robot, port)``. Nothing connects before the first use.

    Args:
        where: ``host:port`` or ``ws://host:port/path``; an IPv6 host in brackets.
        spec: what the numbers in ``actions`` mean.
        encode: observation to the map that the server's policy takes.
        deadline_s: for one answer, s; what comes later is dropped and counted in ``failures``.
        period: between questions, s; see ``WaitingPort``.
        name: for records; the address if None.
        most_bytes: of an answer.
        api_key: sent as openpi's own client does, or None.

    Raises:
        ConfigError: an address, deadline or period that cannot work.
        MissingExtraError: the extra ``remote`` is not installed.
    """
    policy = OpenPiPolicy(where, spec, encode, deadline_s=deadline_s, name=name, most_bytes=most_bytes, api_key=api_key)
    return WaitingPort(policy, deadline_s=deadline_s, period=period)


def actions_of(answer: Map) -> Array:
    """``actions`` of an answer, decoded.

    Raises:
        WireError: there are none, or they are no array of numbers.
    """
    if "actions" not in answer:
        raise WireError(f"the answer has no actions, only {', '.join(map(repr, answer)) or 'nothing'}"[:_LONGEST])
    return as_array(answer["actions"])


def checked_deadline(what: str, deadline_s: float) -> float:
    """``deadline_s``, above 0 and at most 1e5 s."""
    if not (math.isfinite(deadline_s) and 0.0 < deadline_s <= LONGEST_DEADLINE_S):
        raise ConfigError(f"{what}: deadline_s must be above 0 and at most 1e5 s, got {deadline_s}")
    return deadline_s
