"""OpenTelemetry: the run's story as events (log records with an event name), to a file of OTLP JSON or any exporter.

An event is a row of ``safeguard.audit.story``: modes, causes, people, faults, and interventions folded into one, not
every decision. Its name is ``safeguard.WHAT``; attributes are ``safeguard.*``, times Unix time: the run's
``created_utc`` plus the recorded time since the first tick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from safeguard.audit.records.encode import encode_number
from safeguard.audit.records.registry import RunOpen
from safeguard.audit.story import Row, Teller
from safeguard.audit.timeline import Moment
from safeguard.core.errors import JournalError
from safeguard.core.version import __version__

BATCH: Final = 200
"""Events that are handed over at a time; a line of the file has as many."""

SEVERITY: Final = {
    "info": (SeverityNumber.INFO, "INFO"),
    "warn": (SeverityNumber.WARN, "WARN"),
    "error": (SeverityNumber.ERROR, "ERROR"),
}

Attributes = dict[str, bool | int | float | str | Sequence[str]]


def sink(path: Path) -> Events:
    """A file of OTLP JSON lines."""
    return Events(OtlpFile(path))


class Events:
    """Turns records into events and hands them to ``exporter``, which it shuts down when closed.

    Raises:
        JournalError: from ``add`` and ``close``, where the exporter failed.
    """

    def __init__(self, exporter: LogRecordExporter) -> None:
        self._exporter = exporter
        self._teller = Teller()
        self._scope = InstrumentationScope("safeguard.audit", __version__)
        self._resource = Resource({"service.name": "safeguard"})
        self._created = self._start = 0
        self._waiting: list[ReadableLogRecord] = []

    def add(self, moment: Moment) -> None:
        """The events that are complete now."""
        body = moment.record.body
        if isinstance(body, RunOpen):
            self._start, self._created = moment.start, _nanoseconds(body.created_utc)
            self._resource = Resource(_resource(body))
        for row in self._teller.hear(moment):
            self._emit(row)

    def close(self) -> None:
        """Hand over what is left."""
        for row in self._teller.fold():
            self._emit(row)
        try:
            self._flush()
        finally:
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the library left this one out

    def _emit(self, row: Row) -> None:
        number, text = SEVERITY[row.grade]
        at = self._created + row.at - self._start
        record = LogRecord(
            timestamp=at,
            observed_timestamp=at,
            severity_number=number,
            severity_text=text,
            body=row.detail,
            attributes=attributes_of(row),
            event_name=f"safeguard.{row.what}",
        )
        self._waiting.append(ReadableLogRecord(record, self._resource, self._scope))
        if len(self._waiting) == BATCH:
            self._flush()

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        if batch and self._exporter.export(batch) is not LogRecordExportResult.SUCCESS:
            raise JournalError(f"{type(self._exporter).__name__} did not take {len(batch)} events")


def attributes_of(row: Row) -> Attributes:
    """Attributes of an event; what the row does not say is left out."""
    found: Attributes = {
        "safeguard.record.seq": row.seq,
        "safeguard.record.kind": row.kind.value,
        "safeguard.record.hash": row.hash,
        "safeguard.count": row.count,
        "safeguard.duration_ns": row.until - row.at,
    }
    found |= {} if row.episode is None else {"safeguard.episode": row.episode}
    found |= {} if row.tick is None else {"safeguard.tick": row.tick}
    if row.mode is not None:
        found |= {"safeguard.mode": row.mode.name, "safeguard.causes": list(row.causes)}
    found |= {"safeguard.mode.configuration": row.configuration} if row.configuration else {}
    found |= {"safeguard.causes.changed": list(row.changed)} if row.changed else {}
    found |= {} if row.status is None else {"safeguard.filter.status": row.status.value}
    found |= {"safeguard.filter.rows": list(row.rows)} if row.rows else {}
    return found | {f"safeguard.margin.{name}": value for name, value in row.margins.items()}


def _resource(body: RunOpen) -> dict[str, bool | str]:
    return {
        "service.name": "safeguard",
        "service.version": body.safeguard,
        "service.instance.id": body.run_id,
        "safeguard.run.id": body.run_id,
        "safeguard.robot.name": body.robot.name,
        "safeguard.robot.digest": body.robot.digest,
        "safeguard.enforcement": body.enforcement.value,
        "safeguard.simulated": body.simulated,
    }


def _nanoseconds(utc: str) -> int:
    """Unix time of an ISO 8601 time, which is only kept for people: the epoch where it cannot be read."""
    try:
        told = datetime.fromisoformat(utc)
    except ValueError:
        return 0
    seconds = (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    return max(0, round(seconds * 1e6)) * 1000


class OtlpFile(LogRecordExporter):
    """A file in the OTLP JSON encoding: a ``LogsData`` message in each line, one line a batch."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Write one line; a full disk is an OSError."""
        if batch:
            self._file.write(orjson.dumps(logs_data(batch), option=orjson.OPT_APPEND_NEWLINE))
        return LogRecordExportResult.SUCCESS

    def shutdown(self) -> None:
        """Finish the file."""
        self._file.close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Give everything to the system."""
        self._file.flush()
        return True


def logs_data(batch: Sequence[ReadableLogRecord]) -> dict[str, Any]:
    """``LogsData`` of a batch that shares resource and scope; 64-bit integers are strings, as in every proto3 JSON."""
    first = batch[0]
    scope = first.instrumentation_scope
    named = {} if scope is None else {"scope": {"name": scope.name, "version": scope.version or ""}}
    logs = {**named, "logRecords": [_log_record(item.log_record) for item in batch]}
    return {"resourceLogs": [{"resource": {"attributes": _pairs(first.resource.attributes)}, "scopeLogs": [logs]}]}


def _log_record(record: LogRecord) -> dict[str, Any]:
    return {
        "timeUnixNano": str(record.timestamp or 0),
        "observedTimeUnixNano": str(record.observed_timestamp or 0),
        "severityNumber": 0 if record.severity_number is None else record.severity_number.value,
        "severityText": record.severity_text or "",
        "body": _value(record.body),
        "attributes": _pairs(record.attributes or {}),
        "eventName": record.event_name or "",
    }


def _pairs(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:
    """``AnyValue``: the type is the key."""
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": encode_number(value)}
        case str():
            return {"stringValue": value}
        case None:
            return {}
        case _:
            return {"arrayValue": {"values": [_value(item) for item in value]}}
