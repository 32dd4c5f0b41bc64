"""What people are told while a run is recorded, through structlog; evidence never depends on it.

A thread of its own writes: the control loop puts a line into a bounded queue and never waits for a terminal or a pipe.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Final, Literal, Protocol, cast

from safeguard.audit.event_words import ECHOES
from safeguard.audit.records.encode import CAUSES, MODE, Json, Written
from safeguard.core.enums import Mode, RecordKind

_LINES: Final = 1000  # that wait for a reader; what comes behind them is dropped, and counted
_CLOSE_S: Final = 1.0  # for the lines that wait when the run is closed


class Mirror(Protocol):
    """What the journal needs of a structlog logger to tell people; evidence never depends on it."""

    def info(self, event: str, **fields: object) -> object:
        """Something changed."""
        ...

    def error(self, event: str, **fields: object) -> object:
        """The journal cannot be written, or lines were dropped."""
        ...


@dataclass(frozen=True, slots=True)
class _Line:
    """A line, and how many before it found no room."""

    level: Literal["info", "error"]
    event: str
    fields: Mapping[str, Json]
    dropped: int


class Narrator:
    """Tells people what changes, in order; a mirror that raises is dropped, never the evidence.

    The thread calls the mirror. Lines that wait behind ``limit`` others are dropped; the next one that finds room
    stands behind ``mirror_dropped`` with their number.
    """

    def __init__(self, mirror: Mirror, limit: int = _LINES) -> None:
        self._mirror: Mirror | None = mirror
        self._mode: Json = None
        self._limit, self._dropped = limit, 0
        self._lines: SimpleQueue[_Line | int] = SimpleQueue()  # the last is how many were dropped behind all lines
        self._thread = Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def tell(self, kind: RecordKind, body: Mapping[str, Written], tick: int | None) -> None:
        """Every record but decisions and what repeats them; of decisions the ones that change the mode."""
        if kind in ECHOES:
            return
        if kind is not RecordKind.DECISION:
            self._say("info", kind.value, _scalars(body))
            return
        decision = cast("Sequence[Json]", body["decision"])
        if decision[MODE] != self._mode:
            before, self._mode = self._mode, decision[MODE]
            names: dict[str, Json] = {"was": _mode_name(before), "to": _mode_name(self._mode)}
            self._say("info", "mode", {"tick": tick, **names, "causes": decision[CAUSES]})

    def failed(self, reason: str) -> None:
        """Records are lost."""
        self._say("error", "journal_failed", {"reason": reason})

    def close(self, wait: float = _CLOSE_S) -> None:
        """Nothing more will be told; wait at most ``wait`` s for the lines that are left."""
        self._lines.put(self._dropped)
        self._thread.join(wait)

    def _say(self, level: Literal["info", "error"], event: str, fields: Mapping[str, Json]) -> None:
        if self._mirror is None:
            return
        if self._lines.qsize() >= self._limit:
            self._dropped += 1
            return
        self._lines.put(_Line(level, event, fields, self._dropped))
        self._dropped = 0

    def _run(self) -> None:
        """The thread: line after line to the mirror."""
        while isinstance(line := self._lines.get(), _Line):
            self._drops(line.dropped)
            self._call(line.level, line.event, line.fields)
        self._drops(line)

    def _drops(self, count: int) -> None:
        if count:
            self._call("error", "mirror_dropped", {"lines": count, "reason": f"{count} lines dropped: nobody reads"})

    def _call(self, level: Literal["info", "error"], event: str, fields: Mapping[str, Json]) -> None:
        if self._mirror is None:
            return
        try:
            (self._mirror.info if level == "info" else self._mirror.error)(event, **fields)
        except Exception:  # noqa: BLE001  # a user's log processor may raise anything
            self._mirror = None


def _mode_name(mode: Json) -> str | None:
    return Mode(mode).name if isinstance(mode, int) else None


def _scalars(body: Mapping[str, Written]) -> dict[str, Json]:
    return {key: value for key, value in body.items() if isinstance(value, str | int | float)}


def logger(style: Literal["none", "console", "json"]) -> Mirror | None:
    """A structlog logger that writes to standard error: lines for people, or JSON; None for none."""
    if style == "none":
        return None
    import structlog

    last = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    made: Mirror = structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        processors=[structlog.processors.add_log_level, stamp, last],
    )
    return made
