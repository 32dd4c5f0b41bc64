"""What people are told while a run is recorded, through structlog; evidence never depends on it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Literal, Protocol

from safeguard.audit.records.encode import Json
from safeguard.core.enums import Mode, RecordKind


class Mirror(Protocol):
    """What the journal needs of a structlog logger to tell people; evidence never depends on it."""

    def info(self, event: str, **fields: object) -> object:
        """Something changed."""
        ...

    def error(self, event: str, **fields: object) -> object:
        """The journal cannot be written."""
        ...


class Narrator:
    """Tells people what changes; a mirror that raises is dropped, never the evidence."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror: Mirror | None = mirror
        self._mode: Json = None

    def tell(self, kind: RecordKind, body: Mapping[str, Json], tick: int | None) -> None:
        """Every record but decisions; of those the ones that change the mode."""
        if kind is not RecordKind.DECISION:
            self._say("info", kind.value, _scalars(body))
            return
        decision = body["decision"]
        if isinstance(decision, Mapping) and decision["mode"] != self._mode:
            before, self._mode = self._mode, decision["mode"]
            names: dict[str, Json] = {"was": _mode_name(before), "to": _mode_name(self._mode)}
            self._say("info", "mode", {"tick": tick, **names, "causes": decision["causes"]})

    def failed(self, reason: str) -> None:
        """Records are lost."""
        self._say("error", "journal_failed", {"reason": reason})

    def _say(self, level: Literal["info", "error"], event: str, fields: Mapping[str, Json]) -> None:
        if self._mirror is None:
            return
        try:
            (self._mirror.info if level == "info" else self._mirror.error)(event, **fields)
        except Exception:  # noqa: BLE001  # a user's log processor may raise anything; the loop must not
            self._mirror = None


def _mode_name(mode: Json) -> str | None:
    return Mode(mode).name if isinstance(mode, int) else None


def _scalars(body: Mapping[str, Json]) -> dict[str, Json]:
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
        structlog.PrintLogger(sys.stderr), processors=[structlog.processors.add_log_level, stamp, last]
    )
    return made
