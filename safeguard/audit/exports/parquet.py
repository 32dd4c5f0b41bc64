"""Parquet: a folder with one file for each record kind; decisions flattened into columns of stable names and types."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from safeguard.audit.records.bodies import Number
from safeguard.audit.records.encode import Json, JsonObject
from safeguard.audit.records.registry import SCHEMAS
from safeguard.audit.timeline import Moment, current_body
from safeguard.core.enums import Level, Mode, RecordKind

ROWS: Final = 1000
"""Rows of a row group; as many are held in memory."""

_INT, _FLOAT, _TEXT, _BOOL, _JSON = pa.int64(), pa.float64(), pa.string(), pa.bool_(), pa.json_(pa.string())
_NAMED: Final = {"mode": Mode, "before": Mode, "after": Mode, "worst_mode": Mode, "level": Level}
_FLOATS, _TEXTS = pa.list_(_FLOAT), pa.list_(_TEXT)
_VERDICT = pa.struct(
    {
        "monitor": _TEXT,
        "level": _INT,
        "score": _FLOAT,
        "threshold": _FLOAT,
        "p_value": _FLOAT,
        "cause": _TEXT,
        "detail": _TEXT,
    }.items()
)

HEAD: Final = {"seq": _INT, "schema_version": _INT, "tick": _INT, "t": _INT, "hash": _TEXT}
"""Columns of every file: the envelope, and the record's hash in the journal."""

DECISION: Final = {
    **HEAD,
    "episode": _INT,
    "now": _INT,
    "mode": _TEXT,
    "configuration": _TEXT,
    "causes": _TEXTS,
    "reasons": _TEXTS,
    "authority": _TEXT,
    "enforcement": _TEXT,
    "source": _TEXT,
    "filter_status": _TEXT,
    "filter_source": _TEXT,
    "solver": _TEXT,
    "effort": _FLOAT,
    "iterations": _INT,
    "stuck": _BOOL,
    "provisional": _BOOL,
    "refusal": _TEXT,
    "active": _TEXTS,
    "slack": pa.list_(pa.struct([("row", _TEXT), ("amount", _FLOAT)])),
    "margins_position": _FLOAT,
    "margins_velocity": _FLOAT,
    "margins_torque": _FLOAT,
    "margins_clearance": _FLOAT,
    "margins_nearest": _TEXT,
    "q": _FLOATS,
    "v": _FLOATS,
    "state_t": _INT,
    "torque": _FLOATS,
    "acceleration": _FLOATS,
    "position": _FLOATS,
    "velocity": _FLOATS,
    "command_type": _TEXT,
    "command_t": _INT,
    "command_expires": _INT,
    "command_seq": _INT,
    "command_reason": _TEXT,
    "command_q": _FLOATS,
    "command_v": _FLOATS,
    "command_tau": _FLOATS,
    "command_tau_ff": _FLOATS,
    "command_kp": _FLOATS,
    "command_kd": _FLOATS,
    "estop": _BOOL,
    "drive_status": _TEXT,
    "instruction": _TEXT,
    "external_wrench": _FLOATS,
    "sensors": _JSON,
    "proposal": _JSON,
    "verdicts": pa.list_(_VERDICT),
    **{
        f"timings_{stage}": _INT
        for stage in ("intake", "policy", "controller", "monitors", "modes", "filter", "record", "total")
    },
    "misshapen": _JSON,
}
"""Columns of ``decision.parquet``: SI units, times in ns; ``sensors``, ``proposal`` and ``misshapen`` are JSON."""


def sink(path: Path) -> Folder:
    """A folder of Parquet files."""
    return Folder(path)


class Folder:
    """Writes one file for each kind, also for kinds that the run has no record of."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self._files = {kind: _File(path / f"{kind.value}.parquet", columns_of(kind)) for kind in SCHEMAS}

    def add(self, moment: Moment) -> None:
        """One row."""
        record = moment.record
        body = current_body(record)
        head: JsonObject = {"seq": record.seq, "schema_version": record.v, "tick": record.tick, "t": record.t}
        head["hash"] = record.hash
        file = self._files[record.kind]
        if record.kind is RecordKind.DECISION:
            file.add(decision_row(head, body))
        else:  # fields that the writer left out have their defaults
            file.add(_row(head, {**record.body.model_dump(mode="json"), **body}, file.columns))

    def close(self) -> None:
        """Finish the files."""
        for file in self._files.values():
            file.close()


class _File:
    """One Parquet file, written a row group at a time."""

    def __init__(self, path: Path, columns: Mapping[str, Any]) -> None:
        self.columns = columns
        self._schema = pa.schema(list(columns.items()))
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == ROWS:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()


def columns_of(kind: RecordKind) -> Mapping[str, Any]:
    """Columns of a kind's file, name → Arrow type: scalars as they are, everything else as JSON."""
    if kind is RecordKind.DECISION:
        return DECISION
    fields = SCHEMAS[kind].model_fields
    return {**HEAD, **{_column(name): _arrow_type(field.annotation) for name, field in fields.items()}}


def _column(field: str) -> str:
    """Column of a field of the body; one that the envelope has too gets another name."""
    return f"body_{field}" if field in HEAD else field


def _arrow_type(annotation: object) -> Any:
    """Optional scalars are scalars, numbers with names too; an enum is its value, a mode or level its name."""
    if get_origin(annotation) is Annotated:
        return _arrow_type(get_args(annotation)[0])
    if annotation == get_args(Number)[0]:
        return _FLOAT
    inner = [part for part in get_args(annotation) if part is not NoneType]
    if get_origin(annotation) in (UnionType, Union) and len(inner) == 1:
        return _arrow_type(inner[0])
    if isinstance(annotation, type) and issubclass(annotation, Enum | str):
        return _TEXT
    if get_origin(annotation) is Literal and all(isinstance(value, str) for value in get_args(annotation)):
        return _TEXT
    return {int: _INT, float: _FLOAT, bool: _BOOL}.get(cast("type[Any]", annotation), _JSON)


def _row(head: JsonObject, body: JsonObject, columns: Mapping[str, Any]) -> dict[str, Any]:
    """One record that is no decision."""
    row: dict[str, Any] = {**dict.fromkeys(columns), **head}
    for field, value in body.items():
        name = _column(field)
        if isinstance(value, int) and field in _NAMED:
            row[name] = _NAMED[field](value).name
        elif columns[name] == _FLOAT and isinstance(value, str | int):
            row[name] = float(value)
        else:
            row[name] = _json(value) if columns[name] == _JSON else value
    return row


def _json(value: Json) -> str | None:
    """Nothing as nothing, everything else as JSON."""
    return None if value is None else orjson.dumps(value).decode()


def decision_row(head: JsonObject, body: JsonObject) -> dict[str, Any]:
    """One decision as columns. An array that is no list of numbers is null there and goes to ``misshapen``."""
    data: Any = body
    seen, decided = data["observation"], data["decision"]
    result, command = decided["filter"], decided["command"]
    odd: dict[str, Any] = {}
    row: dict[str, Any] = {**dict.fromkeys(DECISION), **head}
    row.update(episode=data["episode"], now=data["now"], mode=Mode(decided["mode"]).name)
    for name in ("configuration", "causes", "reasons", "authority", "enforcement", "source"):
        row[name] = decided[name]
    row.update(filter_status=result["status"], filter_source=result["source"], effort=float(result["effort"]))
    for name in ("solver", "iterations", "stuck", "provisional", "refusal", "active"):
        row[name] = result[name]
    row["slack"] = [{"row": name, "amount": float(amount)} for name, amount in result["slack"]]
    margins = result["margins"]
    row.update({f"margins_{name}": float(margins[name]) for name in ("position", "velocity", "torque", "clearance")})
    row["margins_nearest"] = margins["nearest"]
    arrays = {"q": seen["state"]["q"], "v": seen["state"]["v"], "external_wrench": seen["external_wrench"]}
    arrays |= {name: result[name] for name in ("torque", "acceleration", "position", "velocity")}
    arrays |= {f"command_{name}": command.get(name) for name in ("q", "v", "tau", "tau_ff", "kp", "kd")}
    row.update({name: _numbers(name, value, odd) for name, value in arrays.items()})
    row.update({f"command_{name}": command.get(name) for name in ("type", "t", "expires", "seq", "reason")})
    row.update(state_t=seen["state"]["t"], estop=seen["estop"], drive_status=seen["drive_status"])
    row.update(instruction=seen["instruction"], sensors=_json(seen["sensors"]), proposal=_json(data["proposal"]))
    row["verdicts"] = [_verdict(verdict) for verdict in decided["verdicts"]]
    row.update({f"timings_{stage}": value for stage, value in data["timings"].items()})
    row["misshapen"] = _json(odd or None)
    return row


def _numbers(name: str, value: Any, odd: dict[str, Any]) -> list[float] | None:
    """A list of numbers, names of non-finite ones read; anything else goes to ``odd`` under ``name``."""
    if value is None:
        return None
    try:
        return [float(item) for item in value]
    except (TypeError, ValueError):  # a number alone, a matrix, an array with its shape
        odd[name] = value
        return None


def _verdict(verdict: Any) -> dict[str, Any]:
    """A verdict in full; a bare name stands for a yes-or-no check that found nothing."""
    if isinstance(verdict, str):
        nan = float("nan")
        return {"monitor": verdict, "level": 0, "score": nan, "threshold": nan, "detail": ""}
    full: dict[str, Any] = {**verdict, "score": float(verdict["score"]), "threshold": float(verdict["threshold"])}
    full["p_value"] = None if verdict["p_value"] is None else float(verdict["p_value"])
    return full
