"""Rerun recording (.rrd): modes, margins and joints on a time axis, the story as a text log, the robot in 3-D.

==========================  =====================================================================================
entity                      what
==========================  =====================================================================================
mode, filter/status         state lanes: the mode in force, how the motion came about
margins/NAME                position, velocity, torque, clearance
filter/effort               the shield's effort
joints/NAME                 three lines: measured position, lower and upper limit
timings/total               µs
story                       text log: modes, causes, people, faults, interventions
robot/SHAPE                 the enclosing shapes, where the robot can be built
run                         what the run was
==========================  =====================================================================================

Timelines: ``time`` (recorded time since the first tick, moved forward where an episode starts its clock anew) and
``record`` (sequence number in the journal).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any, Final

import numpy as np
import rerun as rr
import rerun.blueprint as rrb
from rerun_bindings import check_for_rrd_footer

from safeguard.audit.exports.scene import RATE_HZ, Scene, Shape, scene_of
from safeguard.audit.records.bodies import UNITS
from safeguard.audit.records.decode import decode_array, decode_number
from safeguard.audit.records.registry import DecisionRecord, Limits, RunOpen
from safeguard.audit.story import Row, Teller
from safeguard.audit.timeline import Moment, joint_names, named
from safeguard.core.enums import FilterStatus, Mode
from safeguard.core.errors import JournalError
from safeguard.core.types import NS_PER_S, Vector

APPLICATION: Final = "safeguard"
ROWS: Final = 1000
"""Decisions that are sent at a time; as many are held in memory."""

MODE_COLOURS: Final = {
    Mode.NOMINAL: 0x2E7D32FF,
    Mode.CAUTIOUS: 0xF0E442FF,
    Mode.DEGRADED: 0xE69F00FF,
    Mode.HOLD: 0x56B4E9FF,
    Mode.STOP: 0xD55E00FF,
    Mode.ESTOP: 0xCC79A7FF,
    Mode.LOCKOUT: 0x8A8A8AFF,
    Mode.BOOT: 0xDCCFB8FF,
}
STATUS_COLOURS: Final = {
    FilterStatus.ADMISSIBLE: 0x2E7D32FF,
    FilterStatus.CORRECTED: 0xE69F00FF,
    FilterStatus.BACKUP: 0x56B4E9FF,
    FilterStatus.REFUSED: 0xD55E00FF,
    FilterStatus.BYPASSED: 0x8A8A8AFF,
}
BLOCK: Final = 1 << 20
ROBOT: Final = "/robot/"
SHAPE_COLOUR: Final = 0x59738CFF
LEVELS: Final = {"info": rr.TextLogLevel.INFO, "warn": rr.TextLogLevel.WARN, "error": rr.TextLogLevel.ERROR}


def sink(path: Path) -> Recording:
    """An .rrd file."""
    return Recording(path)


class Pump(Thread):
    """Copies what Rerun writes to a pipe into a file, and throws it away once the file takes no more.

    Rerun's own thread waits for ever where a disk is full; a pipe never is.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(name="rerun-export", daemon=True)
        self.pipe = path.with_name(f"{path.name}.pipe")
        self._path = path
        self._refused: OSError | None = None
        os.mkfifo(self.pipe)
        self.start()

    def run(self) -> None:
        """Until the writer closes the pipe."""
        with self.pipe.open("rb", buffering=0) as source:
            try:
                with self._path.open("wb") as file:
                    shutil.copyfileobj(source, file, BLOCK)
            except OSError as error:
                self._refused = error
            while source.read(BLOCK):
                pass

    def check(self) -> None:
        """Raise the OSError with which the file refused, if it has."""
        if self._refused is not None:
            raise self._refused

    def finish(self) -> None:
        """Wait for the end, and take the pipe away."""
        self.join()
        self.pipe.unlink()


class Recording:
    """Writes a recording; numbers go out as columns of many decisions."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pump: Pump | None = None
        self._start = 0
        self._stream: rr.RecordingStream | None = None
        self._teller = Teller()
        self._scene: Scene | None = None
        self._limits: Limits | None = None
        self._names: tuple[str, ...] = ()
        self._columns: dict[str, _Column] = {}
        self._waiting = 0
        self._posed: int | None = None
        self._states: dict[str, str] = {}

    def add(self, moment: Moment) -> None:
        """The record, and what follows from it."""
        body = moment.record.body
        if isinstance(body, RunOpen):
            self._open(body, moment)
        for row in self._teller.hear(moment):
            self._tell(row, moment.start)
        if isinstance(body, DecisionRecord):
            self._decision(body, moment)

    def close(self) -> None:
        """Finish the file; raises OSError where it could not be written."""
        if self._stream is None or self._pump is None:
            return
        try:
            for row in self._teller.fold():
                self._tell(row, self._start)
            self._send()
        finally:
            self._stream.disconnect()
            self._pump.finish()
        self._pump.check()
        if not check_for_rrd_footer(self._path):  # without its end no viewer finds its way in it
            raise JournalError(f"cannot write {self._path.name}: its end is missing")

    def _open(self, body: RunOpen, moment: Moment) -> None:
        stream = self._stream = rr.RecordingStream(APPLICATION, recording_id=body.run_id, send_properties=False)
        stream.set_log_time_enabled(False)
        stream.set_log_tick_enabled(False)
        self._pump = Pump(self._path)
        stream.save(self._pump.pipe, default_blueprint=_blueprint())
        self._start = moment.start
        self._limits, self._names = body.limits, joint_names(body)
        about = json.dumps(body.model_dump(mode="json"), indent=1)
        self._lasting("run", rr.TextDocument(f"```json\n{about}\n```", media_type=rr.MediaType.MARKDOWN))
        self._lasting("mode", _lanes({mode.name: colour for mode, colour in MODE_COLOURS.items()}))
        self._lasting("filter/status", _lanes({status.value: colour for status, colour in STATUS_COLOURS.items()}))
        for name, unit in UNITS.items():
            self._lasting(f"margins/{name}", rr.SeriesLines(names=f"{name}, {unit}"))
        self._scene, remark = scene_of(body)
        for shape in self._scene.shapes if self._scene is not None else ():
            self._lasting(_path("robot", shape.name), _drawn(shape))
        if remark:
            self._at(0, 0, "story", rr.TextLog(remark, level=LEVELS["warn"]))

    def _lasting(self, entity: str, what: rr.AsComponents) -> None:
        """Something that holds for the whole run."""
        assert self._stream is not None
        self._stream.log(entity, what, static=True, strict=True)

    def _at(self, since: int, seq: int, entity: str, what: rr.AsComponents) -> None:
        """Something that happened ``since`` ns after the first tick."""
        assert self._stream is not None
        self._stream.set_time("time", duration=np.timedelta64(since, "ns"))
        self._stream.set_time("record", sequence=seq)
        self._stream.log(entity, what, strict=True)

    def _tell(self, row: Row, start: int) -> None:
        mode = f"{row.mode.name}: " if row.mode is not None and row.what != "mode" else ""
        text = rr.TextLog(f"{row.what}: {mode}{row.detail}", level=LEVELS[row.grade])
        self._at(row.at - start, row.seq, "story", text)

    def _decision(self, body: DecisionRecord, moment: Moment) -> None:
        decision, result = body.decision, body.decision.filter
        since, seq = moment.at - moment.start, moment.record.seq
        for entity, state in (("mode", decision.mode.name), ("filter/status", result.status.value)):
            if self._states.get(entity) != state:
                self._states[entity] = state
                self._at(since, seq, entity, rr.StateChange(state=state))
        for name in UNITS:
            self._count(f"margins/{name}", since, seq, [decode_number(getattr(result.margins, name))])
        self._count("filter/effort", since, seq, [decode_number(result.effort)])
        self._count("timings/total", since, seq, [body.timings.total / 1e3])
        q = decode_array(body.observation.state.q)
        for name, lines in self._joints(q).items():
            self._count(_path("joints", name), since, seq, lines)
        self._pose(q, moment.at, since, seq)
        self._waiting += 1
        if self._waiting == ROWS:
            self._flush()

    def _joints(self, q: Vector) -> dict[str, list[float]]:
        """Measured position, lower and upper limit of each joint; nothing where the measurement is misshapen."""
        values = [float(value) for value in q] if q.ndim == 1 else []
        names = named(self._names, len(values))
        if self._limits is None or len(self._limits.joints) != len(values):
            return {name: [value] for name, value in zip(names, values, strict=True)}
        return {
            name: [value, decode_number(joint.lower), decode_number(joint.upper)]
            for name, value, joint in zip(names, values, self._limits.joints, strict=True)
        }

    def _pose(self, q: Vector, at: int, since: int, seq: int) -> None:
        due = self._posed is None or not 0 <= at - self._posed < NS_PER_S / RATE_HZ
        if self._scene is None or not due or (poses := self._scene.poses(q)) is None:
            return
        self._posed = at
        for shape, origin, turn in zip(self._scene.shapes, *poses, strict=True):
            self._count(_path("robot", shape.name), since, seq, [*map(float, origin), *map(float, turn)])

    def _count(self, entity: str, since: int, seq: int, values: list[float]) -> None:
        self._columns.setdefault(entity, _Column()).add(since, seq, values)

    def _flush(self) -> None:
        """Send what waits; raises OSError once the file takes no more."""
        self._send()
        assert self._pump is not None
        self._pump.check()

    def _send(self) -> None:
        assert self._stream is not None
        for entity, column in self._columns.items():
            column.send(self._stream, entity)
        self._columns.clear()
        self._waiting = 0


class _Column:
    """Numbers of one entity that wait to be sent: a few a tick, or the seven of a pose."""

    def __init__(self) -> None:
        self._times: list[int] = []
        self._seqs: list[int] = []
        self._values: list[list[float]] = []

    def add(self, since: int, seq: int, values: list[float]) -> None:
        self._times.append(since)
        self._seqs.append(seq)
        self._values.append(values)

    def send(self, stream: rr.RecordingStream, entity: str) -> None:
        times = np.array(self._times, dtype="timedelta64[ns]")
        indexes = [rr.TimeColumn("time", duration=times), rr.TimeColumn("record", sequence=self._seqs)]
        if entity.startswith(ROBOT):
            poses = np.array(self._values)
            columns = rr.Transform3D.columns(translation=poses[:, :3], quaternion=poses[:, 3:])
        else:
            flat = [value for values in self._values for value in values]
            columns = rr.Scalars.columns(scalars=flat).partition([len(values) for values in self._values])
        stream.send_columns(entity, indexes, columns, strict=True)


def _path(*parts: str) -> str:
    """An entity's path; names may hold any character."""
    return rr.new_entity_path(list(parts))


def _lanes(colours: Mapping[str, int]) -> rr.StateConfiguration:
    return rr.StateConfiguration(values=list(colours), colors=list(colours.values()))


def _drawn(shape: Shape) -> rr.AsComponents:
    """The shape in its own frame."""
    match shape.form:
        case "capsule" | "cylinder":
            radius, length = shape.size
            if shape.form == "cylinder":
                return rr.Cylinders3D(lengths=[length], radii=[radius], colors=[SHAPE_COLOUR], fill_mode="solid")
            middle = [[0.0, 0.0, -0.5 * length]]  # a capsule of Rerun begins at the origin
            solid: dict[str, Any] = {"translations": middle, "colors": [SHAPE_COLOUR], "fill_mode": "solid"}
            return rr.Capsules3D(lengths=[length], radii=[radius], **solid)
        case "box":
            return rr.Boxes3D(sizes=[shape.size], colors=[SHAPE_COLOUR], fill_mode="solid")
        case "sphere":
            return rr.Ellipsoids3D(radii=[shape.size[0]], colors=[SHAPE_COLOUR], fill_mode="solid")
        case "mesh":
            return rr.Mesh3D(
                vertex_positions=shape.vertices, triangle_indices=shape.triangles, albedo_factor=SHAPE_COLOUR
            )


def _blueprint() -> rrb.Blueprint:
    """What a viewer shows first."""
    plots = rrb.Tabs(
        rrb.TimeSeriesView(origin="/margins", name="margins"),
        rrb.TimeSeriesView(origin="/joints", name="joints and their limits"),
        rrb.TimeSeriesView(origin="/filter/effort", name="effort"),
        rrb.TimeSeriesView(origin="/timings", name="µs a tick"),
    )
    lanes = rrb.StateTimelineView(origin="/", contents=["/mode", "/filter/status"], name="mode and filter")
    log = rrb.Tabs(rrb.TextLogView(origin="/story", name="story"), rrb.TextDocumentView(origin="/run", name="run"))
    scene = rrb.Spatial3DView(origin="/robot", name="robot")
    return rrb.Blueprint(
        rrb.Horizontal(rrb.Vertical(scene, log, row_shares=[3, 2]), rrb.Vertical(lanes, plots, row_shares=[1, 3])),
        collapse_panels=True,
    )
