"""JSON Schemas as Foxglove reads them, and messages of the kinds that it draws.

Foxglove refuses a channel whose schema has a reference, a union, a null or a list of lists. What it cannot express is
left out of the schema here; the messages have it all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from safeguard.audit.exports.scene import Scene, Shape
from safeguard.audit.records.encode import Json, JsonObject
from safeguard.core.types import NS_PER_S, Vector

BASE: Final = "base"
"""Frame of the robot's base."""

COLOUR: Final = {"r": 0.35, "g": 0.45, "b": 0.55, "a": 0.6}

Schema = dict[str, Any]

_PREFERRED: Final = ("array", "object", "number", "integer", "string", "boolean")


def reduced(schema: Mapping[str, Any]) -> Schema:
    """The schema of an object without what Foxglove cannot read."""
    return _reduced(schema, schema.get("$defs", {}), 0) or {"type": "object", "properties": {}}


def _reduced(schema: Mapping[str, Any], known: Mapping[str, Any], depth: int) -> Schema | None:
    """None for what cannot be expressed."""
    if depth > 20:  # a schema that contains itself
        return None
    if "$ref" in schema:
        return _reduced(known[str(schema["$ref"]).rpartition("/")[2]], known, depth + 1)
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return _one_of([_reduced(option, known, depth + 1) for option in options])
    match schema.get("type"):
        case "object":
            inside = {name: _reduced(part, known, depth + 1) for name, part in schema.get("properties", {}).items()}
            return {"type": "object", "properties": {name: part for name, part in inside.items() if part is not None}}
        case "array":
            items = _reduced(schema.get("items", {}), known, depth + 1)
            return None if items is None or items["type"] == "array" else {"type": "array", "items": items}
        case "number" | "integer" | "string" | "boolean" as kind:
            return {"type": kind}
        case "null":
            return {"type": "null"}
        case _:
            return None


def _one_of(options: Iterable[Schema | None]) -> Schema | None:
    """One schema for a union: the first that says most; objects together, unless a reader would miss what is inside."""
    found = [option for option in options if option is not None]
    for kind in _PREFERRED:
        same = [option for option in found if option["type"] == kind]
        if not same:
            continue
        if kind == "array":  # the flattest: numbers before lists of objects
            return min(same, key=lambda option: _PREFERRED[::-1].index(option["items"]["type"]))
        if kind != "object":
            return same[0]
        merged = {name: part for option in same for name, part in option["properties"].items()}
        nested = any(part["type"] == "object" for part in merged.values())
        return None if nested and len(same) < len(found) else {"type": "object", "properties": merged}
    return None


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_NUMBER: Final[Schema] = {"type": "number"}
_STRING: Final[Schema] = {"type": "string"}
_BOOLEAN: Final[Schema] = {"type": "boolean"}
_TIME: Final[Schema] = {**_object(sec={"type": "integer"}, nsec={"type": "integer"}), "title": "time"}
_DURATION: Final[Schema] = {**_object(sec={"type": "integer"}, nsec={"type": "integer"}), "title": "duration"}
_VECTOR: Final = _object(x=_NUMBER, y=_NUMBER, z=_NUMBER)
_TURN: Final = _object(x=_NUMBER, y=_NUMBER, z=_NUMBER, w=_NUMBER)
_POSE: Final = _object(position=_VECTOR, orientation=_TURN)
_COLOUR: Final = _object(r=_NUMBER, g=_NUMBER, b=_NUMBER, a=_NUMBER)
_SIZED: Final = {"pose": _POSE, "size": _VECTOR, "color": _COLOUR}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "foxglove.JointStates": _object(
        timestamp=_TIME,
        joints=_list(_object(name=_STRING, position=_NUMBER, velocity=_NUMBER, effort=_NUMBER)),
    ),
    "foxglove.FrameTransforms": _object(
        transforms=_list(
            _object(
                timestamp=_TIME,
                parent_frame_id=_STRING,
                child_frame_id=_STRING,
                translation=_VECTOR,
                rotation=_TURN,
            )
        )
    ),
    "foxglove.SceneUpdate": _object(
        deletions=_list(_object(timestamp=_TIME, type=_NUMBER, id=_STRING)),
        entities=_list(
            _object(
                timestamp=_TIME,
                frame_id=_STRING,
                id=_STRING,
                lifetime=_DURATION,
                frame_locked=_BOOLEAN,
                metadata=_list(_object(key=_STRING, value=_STRING)),
                cubes=_list(_object(**_SIZED)),
                spheres=_list(_object(**_SIZED)),
                cylinders=_list(_object(**_SIZED, bottom_scale=_NUMBER, top_scale=_NUMBER)),
                triangles=_list(
                    _object(pose=_POSE, points=_list(_VECTOR), color=_COLOUR, indices=_list({"type": "integer"}))
                ),
            )
        ),
    ),
    "foxglove.Log": _object(
        timestamp=_TIME,
        level=_NUMBER,
        message=_STRING,
        name=_STRING,
        file=_STRING,
        line={"type": "integer"},
    ),
    "safeguard.Decision": _object(
        episode={"type": "integer"},
        tick={"type": "integer"},
        mode={"type": "integer"},
        mode_name=_STRING,
        causes=_list(_STRING),
        cause_count={"type": "integer"},
        filter_status=_STRING,
        modified=_BOOLEAN,
        effort=_NUMBER,
        iterations={"type": "integer"},
        margins=_object(position=_NUMBER, velocity=_NUMBER, torque=_NUMBER, clearance=_NUMBER),
        joints=_list(
            _object(name=_STRING, position=_NUMBER, velocity=_NUMBER, torque=_NUMBER, lower=_NUMBER, upper=_NUMBER)
        ),
        timings_us=_object(
            **dict.fromkeys(
                ("intake", "policy", "controller", "monitors", "modes", "filter", "record", "total"), _NUMBER
            )
        ),
    ),
}
"""Schemas of the messages that Foxglove draws, by the names that it knows, and one of numbers to plot."""


def stamp(at: int) -> JsonObject:
    """``at`` ns as Foxglove's time."""
    return {"sec": at // NS_PER_S, "nsec": at % NS_PER_S}


def transforms(scene: Scene, at: int, origins: Vector, turns: Vector) -> JsonObject:
    """``foxglove.FrameTransforms``: where the shapes are, each the frame of its name."""
    return {
        "transforms": [
            {
                "timestamp": stamp(at),
                "parent_frame_id": BASE,
                "child_frame_id": shape.name,
                "translation": _xyz(origin),
                "rotation": _xyzw(turn),
            }
            for shape, origin, turn in zip(scene.shapes, origins, turns, strict=True)
        ]
    }


def scene_update(scene: Scene, at: int) -> JsonObject:
    """``foxglove.SceneUpdate``: the shapes, which then follow their frames."""
    return {"deletions": [], "entities": [_entity(shape, at) for shape in scene.shapes]}


def _entity(shape: Shape, at: int) -> JsonObject:
    lists: dict[str, Json] = {name: [] for name in ("metadata", "cubes", "spheres", "cylinders", "triangles")}
    match shape.form:
        case "capsule" | "cylinder":
            radius, length = shape.size
            width = 2.0 * radius
            tube = {**_sized(0.0, (width, width, length)), "bottom_scale": 1.0, "top_scale": 1.0}
            lists["cylinders"] = [cast("Json", tube)]
            if shape.form == "capsule":
                lists["spheres"] = [_sized(end, (width, width, width)) for end in (-0.5 * length, 0.5 * length)]
        case "sphere":
            lists["spheres"] = [_sized(0.0, (2.0 * shape.size[0],) * 3)]
        case "box":
            lists["cubes"] = [_sized(0.0, shape.size)]
        case "mesh":
            points = [_xyz(vertex) for vertex in shape.vertices]
            mesh: JsonObject = {"pose": _pose(0.0), "points": points, "color": COLOUR}
            lists["triangles"] = [{**mesh, "indices": cast("list[Json]", shape.triangles.ravel().tolist())}]
    return {
        "timestamp": stamp(at),
        "frame_id": shape.name,
        "id": shape.name,
        "lifetime": {"sec": 0, "nsec": 0},
        "frame_locked": True,
        **lists,
    }


def _sized(z: float, size: tuple[float, ...]) -> JsonObject:
    x, y, height = size
    return {"pose": _pose(z), "size": {"x": x, "y": y, "z": height}, "color": COLOUR}


def _pose(z: float) -> JsonObject:
    return {"position": {"x": 0.0, "y": 0.0, "z": z}, "orientation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}}


def _xyz(values: Vector) -> JsonObject:
    return dict(zip("xyz", map(float, values), strict=True))


def _xyzw(values: Vector) -> JsonObject:
    return dict(zip("xyzw", map(float, values), strict=True))
