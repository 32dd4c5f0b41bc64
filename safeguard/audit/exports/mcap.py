"""MCAP with JSON channels: every record, and what Foxglove plots and draws.

=================  ========================  ====================================================================
topic              schema                    what
=================  ========================  ====================================================================
/records/KIND      safeguard.KIND            every record of that kind, whole
/decision          safeguard.Decision        the numbers of every decision, to plot
/joint_states      foxglove.JointStates      measured positions and speeds, commanded torques
/log               foxglove.Log              the run's story: modes, causes, people, faults, interventions
/tf, /robot        foxglove.FrameTransforms  the robot's enclosing shapes and where they are, where it can be built
                   foxglove.SceneUpdate
=================  ========================  ====================================================================

``log_time`` is the recorded time, moved forward where an episode starts its clock anew. The attachment ``schemas.json``
has the JSON Schemas of the records in full; those of the channels are what Foxglove can read of them.
"""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from mcap.writer import Writer

from safeguard.audit.exports.foxglove import SCHEMAS, reduced, scene_update, stamp, transforms
from safeguard.audit.exports.scene import RATE_HZ, Scene, scene_of
from safeguard.audit.fold import UNTOUCHED
from safeguard.audit.records.bodies import UNITS
from safeguard.audit.records.decode import decode_array, decode_number
from safeguard.audit.records.encode import Json, JsonObject, encode_number
from safeguard.audit.records.registry import DecisionRecord, Limits, RunOpen, json_schemas
from safeguard.audit.story import Row, Teller
from safeguard.audit.timeline import Moment, envelope, joint_names, named
from safeguard.core.types import NS_PER_S, Vector
from safeguard.core.version import __version__

LEVELS: Final = {"info": 2, "warn": 3, "error": 4}
STAGES: Final = ("intake", "policy", "controller", "monitors", "modes", "filter", "record", "total")


def sink(path: Path) -> Topics:
    """An MCAP file."""
    return Topics(path)


class Topics:
    """Writes the channels, each from its first message on."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._writer = Writer(self._file)
        self._writer.start(profile="", library=f"safeguard {__version__}")
        self._channels: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._full: dict[str, Any] = json_schemas()
        self._teller = Teller()
        self._limits: Limits | None = None
        self._names: tuple[str, ...] = ()
        self._scene: Scene | None = None
        self._posed: int | None = None

    def add(self, moment: Moment) -> None:
        """The record, and what follows from it."""
        kind = moment.record.kind.value
        self._send(f"/records/{kind}", f"safeguard.{kind}", moment.at, envelope(moment.record))
        body = moment.record.body
        if isinstance(body, RunOpen):
            self._open(body, moment)
        for row in self._teller.hear(moment):
            self._log(row)
        if isinstance(body, DecisionRecord):
            self._decision(body, moment.at)

    def close(self) -> None:
        """Finish the file, with its index and the schemas in full."""
        for row in self._teller.fold():
            self._log(row)
        data = orjson.dumps(self._full, option=orjson.OPT_SORT_KEYS)
        self._writer.add_attachment(0, 0, "schemas.json", "application/json", data)
        self._writer.finish()  # type: ignore[no-untyped-call]  # the library left this one out
        self._file.close()

    def _open(self, body: RunOpen, moment: Moment) -> None:
        self._limits, self._names = body.limits, joint_names(body)
        about = {"run_id": body.run_id, "robot": body.robot.name, "created_utc": body.created_utc}
        self._writer.add_metadata("safeguard", {**about, "safeguard": body.safeguard})
        self._scene, remark = scene_of(body)
        if self._scene is not None:
            self._send("/robot", "foxglove.SceneUpdate", moment.at, scene_update(self._scene, moment.at))
        if remark:
            self._say(moment.at, "warn", remark, 0)

    def _send(self, topic: str, schema: str, at: int, message: JsonObject) -> None:
        if topic not in self._channels:
            text = SCHEMAS[schema] if schema in SCHEMAS else reduced(self._full[schema.removeprefix("safeguard.")])
            schema_id = self._writer.register_schema(schema, "jsonschema", orjson.dumps(text))
            self._channels[topic] = self._writer.register_channel(topic, "json", schema_id)
        count = self._counts[topic] = self._counts.get(topic, 0) + 1
        self._writer.add_message(self._channels[topic], at, orjson.dumps(message), at, count)

    def _log(self, row: Row) -> None:
        mode = f"{row.mode.name}: " if row.mode is not None and row.what != "mode" else ""
        self._say(row.at, row.grade, f"{row.what}: {mode}{row.detail}", row.seq)

    def _say(self, at: int, grade: str, text: str, seq: int) -> None:
        level = LEVELS[grade]
        message: JsonObject = {"timestamp": stamp(at), "level": level, "message": text, "name": "safeguard"}
        self._send("/log", "foxglove.Log", at, {**message, "file": "record", "line": seq})

    def _decision(self, body: DecisionRecord, at: int) -> None:
        state = body.observation.state
        q, v = decode_array(state.q), decode_array(state.v)
        joints = self._joints(q, v, decode_array(body.decision.filter.torque))
        self._send("/decision", "safeguard.Decision", at, self._numbers(body, joints))
        measured: list[Json] = [_finite(joint) for joint in joints]
        self._send("/joint_states", "foxglove.JointStates", at, {"timestamp": stamp(at), "joints": measured})
        due = self._posed is None or not 0 <= at - self._posed < NS_PER_S / RATE_HZ
        if self._scene is not None and due and (poses := self._scene.poses(q)) is not None:
            self._posed = at
            self._send("/tf", "foxglove.FrameTransforms", at, transforms(self._scene, at, *poses))

    def _joints(self, q: Vector, v: Vector, torque: Vector) -> list[dict[str, str | float]]:
        """Name, position, speed and torque of each joint; NaN for what was misshapen."""
        count = max((array.size for array in (q, v, torque) if array.ndim == 1), default=0)
        columns = [array if array.shape == (count,) else np.full(count, np.nan) for array in (q, v, torque)]
        return [
            {"name": name, "position": float(x), "velocity": float(speed), "torque": float(tau)}
            for name, x, speed, tau in zip(named(self._names, count), *columns, strict=True)
        ]

    def _numbers(self, body: DecisionRecord, joints: list[dict[str, str | float]]) -> JsonObject:
        """What is plotted; non-finite numbers by name."""
        decision, result = body.decision, body.decision.filter
        limits = self._limits.joints if self._limits is not None and len(self._limits.joints) == len(joints) else None
        rows: list[Json] = []
        for at, joint in enumerate(joints):
            ends = {} if limits is None else {"lower": limits[at].lower, "upper": limits[at].upper}
            rows.append({key: encode_number(x) if isinstance(x, float) else x for key, x in (joint | ends).items()})
        return {
            "episode": body.episode,
            "tick": body.tick,
            "mode": decision.mode.value,
            "mode_name": decision.mode.name,
            "causes": [cause.value for cause in decision.causes],
            "cause_count": len(decision.causes),
            "filter_status": result.status.value,
            "modified": result.status not in UNTOUCHED,
            "effort": encode_number(decode_number(result.effort)),
            "iterations": result.iterations,
            "margins": {name: encode_number(decode_number(getattr(result.margins, name))) for name in UNITS},
            "joints": rows,
            "timings_us": {stage: getattr(body.timings, stage) / 1e3 for stage in STAGES},
        }


def _finite(joint: dict[str, str | float]) -> JsonObject:
    """A joint for ``foxglove.JointStates``, which leaves out what is not known."""
    states = {("effort" if name == "torque" else name): value for name, value in joint.items()}
    return {name: value for name, value in states.items() if isinstance(value, str) or isfinite(value)}
