"""What a gate makes of a GR00T server's answers: messages in, messages out, no sockets.

The proxy's part that knows the shield; ``groot_proxy`` has the sockets.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from safeguard.core.enums import Mode
from safeguard.core.errors import ConfigError
from safeguard.core.types import Vector
from safeguard.integrations.gate import ChunkGate, GateAnswer
from safeguard.policies.groot_wire import (
    Array,
    Columns,
    Keys,
    Map,
    as_array,
    is_array,
    is_list,
    is_map,
    opened,
    unpacked,
    with_arrays,
)
from safeguard.policies.msgpack_arrays import WireError

_LOG: Final = logging.getLogger("safeguard.groot")
_LONGEST: Final = 500  # characters of an error
_LEVELS: Final = 4  # of lists and maps around an instruction

Joints = Callable[[Map], ArrayLike]
"""A client's observation to the measured joint positions, shape (n,), rad, in the robot's order."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the shield takes from an observation: joint positions, other columns where measured, the instruction."""

    q: Vector
    others: Vector | None
    instruction: str | None


@dataclass(slots=True)
class _Said:
    """A server's answer to ``get_action``: ``rows`` is flat where it misfits and None where there are no numbers."""

    action: Map = field(default_factory=dict[Any, Any])
    info: object = field(default_factory=dict[Any, Any])
    arrays: dict[str, Array] = field(default_factory=dict[str, Array])
    rows: Vector | None = None
    fits: bool = False


class GrootGate:
    """A gate for GR00T's messages. People and the proxy's thread may call it at the same time.

    Args:
        gate: decides; nobody else may offer it anything meanwhile.
        encode: from a client's observation to the measured joint positions.
        others: from the same to where the spec's ``others`` columns are measured, or None.
        columns: key of the action to the names of its columns.
        version: of the protocol.
        task: name of the episodes that clients begin.
        start_by: who supervises the start, or "".

    Attributes:
        version: of the protocol.
        failures: answers that could not be used, missing ones included.
        last_error: what went wrong the last time, or "".

    Raises:
        SpecError: ``columns`` are not those of the gate's spec, each once.
        ConfigError: no such version.
    """

    def __init__(
        self,
        gate: ChunkGate,
        encode: Joints,
        others: Joints | None,
        columns: Keys,
        version: str,
        task: str,
        start_by: str,
    ) -> None:
        self._gate, self._encode, self._others, self.version = gate, encode, others, version
        self._columns = Columns(columns, gate.spec, version)
        self._task, self._start_by = task, start_by
        self._begun = False
        self._like: dict[str, Array] | None = None
        self._lock = threading.Lock()
        self.failures, self.last_error = 0, ""

    # -- people ---------------------------------------------------------------------------------------

    def begin_episode(self, task: str) -> None:
        """Start a new episode; the rows stand still until somebody acknowledges."""
        with self._lock:
            self._begin(task)

    def acknowledge(self, operator: str, reason: str) -> None:
        """Allow motion."""
        with self._lock:
            self._ensure_episode()
            self._gate.acknowledge(operator=operator, reason=reason)

    def stop(self, operator: str, reason: str) -> None:
        """Ask for a stop; the next rows brake."""
        with self._lock:
            self._ensure_episode()
            self._gate.stop(operator=operator, reason=reason)

    def _begin(self, task: str) -> None:
        if self._begun:
            self._start_by = ""  # the supervised start was that of the first episode
        self._gate.begin_episode(task)
        self._begun = True

    def _ensure_episode(self) -> None:
        if not self._begun:
            self._begin(self._task)

    # -- messages -------------------------------------------------------------------------------------

    def read(self, data: object) -> Seen:
        """What the shield takes from a request's data.

        Raises:
            Exception: ``WireError`` for the form, anything else from ``encode``.
        """
        seen = data if self.version == "1.5" else data.get("observation") if is_map(data) else None
        if not is_map(seen):
            raise WireError(f"expected an observation of N{self.version} in data, got {type(seen).__name__}")
        observation: Map = with_arrays(seen)
        q = _numbers("encode", self._encode(observation))
        others = None if self._others is None else _numbers("others", self._others(observation))
        return Seen(q, others, _instruction(observation))

    def shielded(self, seen: Seen, message: bytes | None, why: str) -> object:
        """The answer to ``get_action``: the server's where the gate lets it through, else with the gate's rows.

        Args:
            seen: in the observation.
            message: the server's answer, None where there is none.
            why: there is none.
        """
        said = self._opened(message, why)
        let = self._offer(seen, said)
        if let.blind:
            return {"error": "nobody knows where the arm is, do not move: the measured positions cannot be used"}
        if said.fits:
            self._like = said.arrays
        if not said.fits or let.changed:
            said.action.update(self._columns.split(self._checked(let), self._like))
        if self.version == "1.5":
            return said.action
        if is_map(said.info):
            said.info["safeguard"] = {
                "mode": let.decision.mode.name,
                "causes": [cause.value for cause in let.decision.causes],
                "changed": let.changed,
                "error": "" if said.fits else self.last_error,
            }
        return [said.action, said.info]

    def passed(self, endpoint: str, message: bytes | None, why: str) -> object:
        """The answer to a question that the shield has no say in; a reset that succeeded begins an episode."""
        try:
            reply = None if message is None else unpacked(message)
        except WireError as error:
            message, reply, why = None, None, str(error)
        if message is None:
            self._failed(why)
            return {"error": why}
        if endpoint == "reset" and not (is_map(reply) and "error" in reply):
            self._reset()
        return reply

    def _reset(self) -> None:
        """Begin an episode, unless this one has not begun to move (BOOT is above HOLD) or ended in a stop."""
        with self._lock:
            self._ensure_episode()
            if self._gate.shield.mode < Mode.HOLD:
                self._begin(self._task)

    def _opened(self, message: bytes | None, why: str) -> _Said:
        """The server's answer; where it cannot be used, nothing of it but numbers for the record."""
        said = _Said()
        if message is not None:
            try:
                action, info = opened(unpacked(message), self.version)
                arrays = {key: as_array(action[key]) for key in self._columns.keys if key in action}
                said.rows = np.concatenate([np.zeros(0), *(array.ravel() for array in arrays.values())])
                return _Said(action, info, arrays, self._columns.joined(arrays), fits=True)
            except WireError as error:
                why = str(error)
            except Exception as error:  # noqa: BLE001  whatever the server says, the gate must hear of it
                why = f"{type(error).__name__}: {error}"
        self._failed(why)
        return said

    def _offer(self, seen: Seen, said: _Said) -> GateAnswer:
        with self._lock:
            self._ensure_episode()
            if self._start_by and said.fits:
                operator, self._start_by = self._start_by, ""
                if self._gate.shield.mode is Mode.BOOT:
                    self._gate.acknowledge(operator=operator, reason="supervised start")
            why = "" if said.fits else self.last_error
            return self._gate.offer(seen.q, said.rows, instruction=seen.instruction, others=seen.others, reason=why)

    def _checked(self, let: GateAnswer) -> Vector:
        rows = np.asarray(let.actions, dtype=np.float64)
        if rows.shape != self._gate.spec.shape or not np.isfinite(rows).all():
            raise ConfigError(f"the gate answered rows of shape {rows.shape} that cannot be executed")
        return rows

    def _failed(self, why: str) -> None:
        self.failures, self.last_error = self.failures + 1, why[:_LONGEST]
        _LOG.warning("the GR00T server failed: %s", self.last_error)


def _numbers(what: str, given: ArrayLike) -> Vector:
    """What the caller's function gave; raises where it is no list of numbers."""
    values = np.array(given, dtype=np.float64)
    if values.ndim != 1:
        raise WireError(f"the proxy's {what} gave numbers of shape {values.shape}, expected one for each joint")
    return values


def _instruction(seen: Map) -> str | None:
    """The first text of N1.6's language or N1.5's annotations."""
    found: object = seen.get("language", {key: seen[key] for key in seen if str(key).startswith("annotation")})
    for _ in range(_LEVELS):
        if isinstance(found, str):
            return found
        found = _first(found)
    return None


def _first(several: object) -> object:
    if is_map(several):
        return next(iter(several.values()), None)
    if is_array(several):
        several = several.ravel()[:1].tolist()
    return several[0] if is_list(several) and several else None
