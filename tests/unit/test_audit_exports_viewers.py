from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safeguard.audit.exports import export_run
from safeguard.audit.reader import read_run
from safeguard.audit.records.registry import json_schemas
from safeguard.audit.timeline import Moment, envelope, moments
from safeguard.core.enums import FilterStatus, Mode, RecordKind
from safeguard.core.errors import JournalError
from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S
from tests.unit.audit_runs import (
    HOME,
    JOINTS,
    LOWER,
    MARGINS,
    PERIOD,
    UPPER,
)
from tests.unit.export_support import decisions, exported, mcap_messages, modes, needed
from tests.unit.export_support import demo as demo
from tests.unit.export_support import odd as odd
from tests.unit.export_support import small as small

# --- MCAP ------------------------------------------------------------------------------------------------


def mcap_schemas(path: Path) -> dict[str, Any]:
    """Schema of every topic."""
    reader: Any = import_module("mcap.reader")
    with path.open("rb") as file:
        summary = reader.make_reader(file).get_summary()
    return {c.topic: json.loads(summary.schemas[c.schema_id].data) for c in summary.channels.values()}


def refused(schema: Any, name: str = "") -> list[str]:
    """What Foxglove would refuse in a schema: it reads objects of scalars, lists and objects, nothing else."""
    if schema.get("type") != "object" or not isinstance(schema.get("properties"), dict):
        return [f"{name}: no object with properties"]
    found: list[str] = []
    for key, part in schema["properties"].items():
        inner = part.get("items", {}) if part.get("type") == "array" else part
        if inner.get("type") == "object":
            found += refused(inner, f"{name}.{key}")
        elif inner.get("type") not in ("boolean", "string", "number", "integer"):
            found.append(f"{name}.{key}: {inner.get('type')}")
    return found


def test_mcap_has_every_record_whole(odd: Path, tmp_path: Path) -> None:
    """The record channels hold every record in order, at its time, non-finite numbers by name."""
    found = mcap_messages(exported(odd, "mcap", tmp_path))
    records = [m for topic, messages in found.items() if topic.startswith("/records/") for m in messages]

    assert sorted((m[1] for m in records), key=lambda r: r["seq"]) == [envelope(r) for r in read_run(odd)]
    assert [at for at, _ in found["/records/decision"]] == [0, PERIOD, 2 * PERIOD]
    assert found["/decision"][0][1]["margins"]["torque"] == "NaN"
    assert found["/decision"][0][1]["effort"] == "-Infinity"


def test_mcap_plots_joints_against_their_limits(small: Path, tmp_path: Path) -> None:
    """The plot channel has a number of the mode, margins, and each joint by name with its limits."""
    found = mcap_messages(exported(small, "mcap", tmp_path))
    numbers = found["/decision"][0][1]
    joint = numbers["joints"][1]

    assert (numbers["mode"], numbers["mode_name"], numbers["modified"]) == (0, "NOMINAL", False)
    assert [j["name"] for j in numbers["joints"]] == list(JOINTS)
    assert (joint["position"], joint["lower"], joint["upper"]) == (HOME[1], LOWER[1], UPPER[1])
    assert numbers["timings_us"]["total"] == 210.0
    assert found["/joint_states"][0][1]["joints"][0].keys() == {"name", "position", "velocity", "effort"}


def test_mcap_leaves_out_joint_states_that_are_no_numbers(odd: Path, tmp_path: Path) -> None:
    """Foxglove's joint states have no word for NaN, so such a position is absent there."""
    states = mcap_messages(exported(odd, "mcap", tmp_path))["/joint_states"]

    assert ["position" in joint for joint in states[1][1]["joints"]] == [True] * 3 + [False] + [True] * 3
    assert not any("position" in joint for joint in states[2][1]["joints"])


def test_mcap_schemas_are_those_that_foxglove_reads(small: Path, odd: Path, tmp_path: Path) -> None:
    """No channel has a schema that Foxglove refuses; the full ones, which it does refuse, come as an attachment."""
    out = exported(odd, "mcap", tmp_path)
    schemas = mcap_schemas(out) | mcap_schemas(export_run(small, "mcap", tmp_path / "small.mcap"))
    reader: Any = import_module("mcap.reader")
    with out.open("rb") as file:
        full = [json.loads(item.data) for item in reader.make_reader(file).iter_attachments()]

    assert {"/records/decision", "/decision", "/joint_states", "/log", "/tf", "/robot"} < schemas.keys()
    assert {topic: refused(schema) for topic, schema in schemas.items() if refused(schema)} == {}
    assert full == [json_schemas()]
    assert refused(full[0]["decision"])
    body = schemas["/records/decision"]["properties"]["body"]["properties"]
    assert body["observation"]["properties"]["state"]["properties"]["q"]["items"] == {"type": "number"}
    assert "margins" in body["decision"]["properties"]["filter"]["properties"]


def test_mcap_moves_the_robot(odd: Path, tmp_path: Path) -> None:
    """Each shape of the robot is drawn once and has a frame at every pose; a broken measurement has none."""
    found = mcap_messages(exported(odd, "mcap", tmp_path))
    entities = found["/robot"][0][1]["entities"]
    frames = found["/tf"][0][1]["transforms"]

    assert [entity["frame_id"] for entity in entities] == [frame["child_frame_id"] for frame in frames]
    assert len(entities) == len(RobotModel.load("panda").collision.links)
    assert len(found["/tf"]) == 1  # the second position is not a number, the third has no joints
    assert all(np.linalg.norm([frame["rotation"][axis] for axis in "xyzw"]) == pytest.approx(1.0) for frame in frames)


def test_mcap_tells_the_story(small: Path, tmp_path: Path) -> None:
    """People and faults are lines of the log, and so is why there is no robot to see."""
    messages = [m["message"] for _, m in mcap_messages(exported(small, "mcap", tmp_path))["/log"]]

    assert any(message.startswith("person: acknowledge by script (simulated): start") for message in messages)
    assert any(message.startswith("fault: spike acts") for message in messages)
    assert any(message.startswith("no picture of the robot: it cannot be built here") for message in messages)


# --- Rerun -----------------------------------------------------------------------------------------------


def rerun_rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Every row by entity, in order of the records."""
    chunks: Any = import_module("rerun.chunk")
    found: dict[str, list[dict[str, Any]]] = {}
    for chunk in chunks.RrdReader(path).stream():
        found.setdefault(chunk.entity_path, []).extend(chunk.to_record_batch().to_pylist())
    return {entity: sorted(rows, key=lambda row: row.get("record", -1)) for entity, rows in found.items()}


def test_rerun_has_margins_and_joints_over_time(small: Path, tmp_path: Path) -> None:
    """Every decision has its margins and, for each joint, position and limits, at its time and record number."""
    rows = rerun_rows(exported(small, "rerun", tmp_path))
    records = decisions(small)
    joint = rows[f"/joints/{JOINTS[1]}"]

    assert [row["record"] for row in joint] == [record.seq for record in records]
    assert [row["time"].value for row in joint] == [record.t for record in records]
    assert joint[0]["Scalars:scalars"] == [HOME[1], LOWER[1], UPPER[1]]
    clearance = [row["Scalars:scalars"] for row in rows["/margins/clearance"] if row.get("Scalars:scalars")]
    assert clearance == [[MARGINS.clearance]] * len(records)


def test_rerun_has_modes_as_lanes(demo: Path, tmp_path: Path) -> None:
    """A mode is sent when it changes, under its name."""
    rows = [row for row in rerun_rows(exported(demo, "rerun", tmp_path))["/mode"] if row.get("StateChange:state")]
    changes = [mode for mode, _ in groupby(modes(demo))]

    assert [row["StateChange:state"] for row in rows] == [[mode] for mode in changes]
    assert "HOLD" in changes


def test_rerun_shows_the_robot_and_the_story(odd: Path, tmp_path: Path) -> None:
    """Shapes have a pose where there is one, NaN stays NaN, and the story is a text log."""
    rows = rerun_rows(exported(odd, "rerun", tmp_path))
    hand = [row for row in rows["/robot/panda_hand_0"] if row.get("Transform3D:translation")]

    assert [row["record"] for row in hand] == [2]
    assert np.linalg.norm(hand[0]["Transform3D:quaternion"][0]) == pytest.approx(1.0, abs=1e-6)
    assert np.isnan(rows["/margins/torque"][-1]["Scalars:scalars"][0])
    assert np.isnan(rows[f"/joints/{JOINTS[3]}"][1]["Scalars:scalars"][0])
    assert rows["/story"][0]["TextLog:text"][0].startswith("run: ")


def test_rerun_recording_is_the_run(small: Path, tmp_path: Path) -> None:
    """The recording has the id of the run, a layout, and the facts of the run as text."""
    out = exported(small, "rerun", tmp_path)
    chunks: Any = import_module("rerun.chunk")
    reader = chunks.RrdReader(out)

    assert [entry.recording_id for entry in reader.recordings()] == ["0123456789abcdef"]
    assert len(reader.blueprints()) == 1
    assert "0123456789abcdef" in rerun_rows(out)["/run"][0]["TextDocument:text"][0]


# --- OpenTelemetry ---------------------------------------------------------------------------------------


def otel_events(run: Path) -> list[Any]:
    """The run's events, as the SDK's in-memory exporter gets them."""
    needed("otel")
    otel: Any = import_module("safeguard.audit.exports.otel")
    sdk: Any = import_module("opentelemetry.sdk._logs.export")
    memory = sdk.InMemoryLogRecordExporter()
    events = otel.Events(memory)
    for moment in moments(run):
        events.add(moment)
    events.close()
    return [item.log_record for item in memory.get_finished_logs()]


def test_otel_events_have_names_times_and_attributes(demo: Path) -> None:
    """Modes, causes and interventions are events with a severity, at Unix times after the run's creation."""
    events = otel_events(demo)
    modes = [event for event in events if event.event_name == "safeguard.mode"]
    held = next(event for event in modes if event.attributes["safeguard.mode"] == "HOLD")

    assert {"safeguard.run", "safeguard.episode", "safeguard.fault", "safeguard.filter"} < {
        e.event_name for e in events
    }
    assert [event.timestamp for event in events] == sorted(event.timestamp for event in events)
    assert events[0].timestamp == 1_767_225_600 * NS_PER_S
    assert held.severity_text == "WARN"
    assert held.attributes["safeguard.causes"] in (["proposal_invalid"], ["policy_late"])
    assert held.attributes["safeguard.margin.clearance"] > 0.0
    assert sum(event.attributes["safeguard.count"] for event in events) > len(events)


def test_otel_file_is_what_the_protocol_says(odd: Path, tmp_path: Path) -> None:
    """Every line is a LogsData message of the protocol's own definition, with the same events as in memory."""
    protocol: Any = pytest.importorskip(
        "opentelemetry.proto.logs.v1.logs_pb2", reason="needs opentelemetry-proto, the reader"
    )
    json_format: Any = import_module("google.protobuf.json_format")
    out = exported(odd, "otel", tmp_path)
    data = [json_format.Parse(line, protocol.LogsData()) for line in out.read_text().splitlines()]
    records = [r for d in data for group in d.resource_logs for scope in group.scope_logs for r in scope.log_records]
    expected = otel_events(odd)
    resource = {pair.key: pair.value for pair in data[0].resource_logs[0].resource.attributes}

    assert [(r.event_name, r.time_unix_nano, r.body.string_value) for r in records] == [
        (e.event_name, e.timestamp, e.body) for e in expected
    ]
    assert resource["safeguard.run.id"].string_value == "0123456789abcdef"
    assert resource["safeguard.simulated"].bool_value is True
    told = [{p.key: p.value for p in r.attributes} for r in records]
    margins = next(pairs for pairs in told if "safeguard.margin.torque" in pairs)
    assert np.isnan(margins["safeguard.margin.torque"].double_value)
    assert margins["safeguard.margin.velocity"].double_value == float("inf")
    assert [v.string_value for v in margins["safeguard.causes"].array_value.values] == []


def test_otel_exporter_that_refuses_is_an_error(small: Path) -> None:
    """Events that an exporter does not take are not lost in silence."""
    needed("otel")
    otel: Any = import_module("safeguard.audit.exports.otel")
    sdk: Any = import_module("opentelemetry.sdk._logs.export")
    memory = sdk.InMemoryLogRecordExporter()
    memory.shutdown()
    events = otel.Events(memory)
    events.add(next(moments(small)))

    with pytest.raises(JournalError, match="InMemoryLogRecordExporter did not take 1 events"):
        events.close()


def test_otel_hands_over_in_batches(small: Path) -> None:
    """A long story goes out a batch at a time."""
    needed("otel")
    otel: Any = import_module("safeguard.audit.exports.otel")
    sizes: list[int] = []
    sdk: Any = import_module("opentelemetry.sdk._logs.export")

    class Sizes:
        def export(self, batch: Sequence[object]) -> object:
            sizes.append(len(batch))
            return sdk.LogRecordExportResult.SUCCESS

        def shutdown(self) -> None:
            """Nothing to finish."""

    events = otel.Events(Sizes())
    person = next(moment for moment in moments(small) if moment.record.kind is RecordKind.HUMAN)
    for moment in islice(repeated(person), otel.BATCH + 1):
        events.add(moment)
    events.close()

    assert sizes == [otel.BATCH, 1]


def repeated(moment: Moment) -> Iterator[Moment]:
    """The same moment again and again, with new record numbers."""
    for seq in count():
        yield replace(moment, record=replace(moment.record, seq=seq))


def test_statuses_have_a_colour() -> None:
    """Every mode and filter status has a lane colour of its own."""
    needed("rerun")
    rerun: Any = import_module("safeguard.audit.exports.rerun")

    assert set(rerun.MODE_COLOURS) == set(Mode)
    assert set(rerun.STATUS_COLOURS) == set(FilterStatus)
