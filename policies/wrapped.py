"""What every adapter ends in: a call from observation to output, as a policy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec, Observation, Proposal, Vector, frozen_array
from safeguard.policies.reading import Forget, Reader, Unusable, words

Call: TypeAlias = Callable[[Observation], Any]
Encoder: TypeAlias = Callable[[Observation], Any]
"""Observation to what the wrapped thing takes."""
Decoder: TypeAlias = Callable[[Any], Any]
"""What the wrapped thing gives to an array, a tensor or a mapping from column to array."""

_NOTHING: Final[Vector] = frozen_array(np.zeros(0))
_LONGEST: Final = 200  # characters of a source


@dataclass(frozen=True, slots=True)
class Options:
    """What ``as_policy`` was told about a source; each kind says which of it applies."""

    encode: Encoder | None = None
    decode: Decoder | None = None
    preprocess: Callable[[Any], Any] | None = None
    postprocess: Callable[[Any], Any] | None = None
    output: str | None = None
    recurrent: Mapping[str, str] | None = None

    def only(self, kind: str, *allowed: str) -> None:
        """Refuse what does not apply to ``kind``: it would be ignored.

        Raises:
            SpecError: something else than ``allowed`` was given.
        """
        given = [name for name in self.__slots__ if getattr(self, name) is not None]
        if odd := [name for name in given if name not in allowed]:
            raise SpecError(f"{kind} takes no {', '.join(f'{name}=' for name in odd)}: leave it out")

    def encoder(self, label: str, kind: str, to: str) -> Encoder:
        """The encoder.

        Raises:
            SpecError: none was given.
        """
        if self.encode is None:
            raise SpecError(f"{kind} {label!r} needs encode=: from Observation to {to}")
        return self.encode


class Wrapped:
    """A call as a policy: stamps, sequence numbers and copies are filled in.

    An output that is no array of numbers becomes an empty proposal whose ``source`` says what came; intake refuses it.
    What the call raises goes through, to the port.

    Args:
        call: from observation to output.
        spec: what the numbers mean.
        name: for records.
        forget: what to call when an episode starts.
        digest: computes what identifies the weights, when it is first asked for.
        close: releases what the call holds.
    """

    def __init__(
        self,
        call: Call,
        spec: ActionSpec,
        name: str,
        *,
        forget: Forget | None = None,
        digest: Callable[[], str | None] | None = None,
        close: Callable[[], object] | None = None,
    ) -> None:
        self.spec, self.name = spec, name
        self._call, self._read, self._seq = call, Reader(spec), 0
        self._forget, self._digests, self._close = forget, digest, close
        self._digest: str | None = None

    def infer(self, observation: Observation) -> Proposal:
        """One call."""
        source = self.name
        try:
            actions = self._actions(self._call(observation))
        except Unusable as odd:
            actions, source = _NOTHING, f"{source}: returned {odd}"[:_LONGEST]
        stamp, seq = observation.state.t, self._seq
        self._seq = seq + 1
        return Proposal(actions, stamp, stamp, source, seq)

    def _actions(self, output: Any) -> Vector:
        try:
            return self._read(output)
        except Unusable:
            raise
        except Exception as error:  # objects of a guest may raise anything when they are read
            raise Unusable(f"a {type(output).__name__} that cannot be read: {words(error)}") from error

    def reset(self) -> None:
        """Forget the episode."""
        self._seq = 0
        if self._forget is not None:
            self._forget()

    @property
    def digest(self) -> str | None:
        """SHA-256 of the weights, or None where nobody can say."""
        if self._digests is not None:
            self._digest, self._digests = self._digests(), None
        return self._digest

    def close(self) -> None:
        """Release what the wrapped thing holds; once."""
        close, self._close = self._close, None
        if close is not None:
            close()


def method(source: object, name: str, label: str) -> Callable[[], object] | None:
    """The method of that name, if there is one.

    Raises:
        SpecError: it cannot be called without arguments.
    """
    found: object = getattr(source, name, None)
    if not callable(found):
        return None
    if not takes(found, 0):
        raise SpecError(f"{label!r}: {name}() is called without arguments, but it needs some: wrap an object without")
    return found


def takes(function: Callable[..., object], count: int) -> bool:
    """Whether ``function`` can be called with that many arguments, as far as its signature says."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built-in, or compiled
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def chained(encode: Encoder, call: Callable[[Any], Any], decode: Decoder | None) -> Call:
    """decode(call(encode(observation)))."""
    if decode is None:
        return lambda observation: call(encode(observation))
    return lambda observation: decode(call(encode(observation)))


def of_columns(shape: tuple[int | None, ...], spec: ActionSpec) -> bool:
    """Whether an output of ``shape`` (None: any length) can be a chunk of ``spec``; see ``Reader``."""
    rows, columns = spec.shape
    accepted: list[tuple[int, ...]] = [(rows, columns), (1, rows, columns)]
    if rows == 1:
        accepted.append((columns,))
    return any(
        len(shape) == len(one) and all(a is None or a == b for a, b in zip(shape, one, strict=True)) for one in accepted
    )
