"""Whether a decision came out again: bit for bit, or within the tolerances that the schema declares.

Decisions are compared as JSON, in the order in which they come about, so that the first difference names a stage.
"""

from __future__ import annotations

import math
import platform
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, TypeAlias, cast

import orjson

from safeguard.audit.identity import machine, versions
from safeguard.audit.records.encode import Json
from safeguard.audit.records.registry import DecisionRecord, RunOpen
from safeguard.core.enums import Mode

Strictness: TypeAlias = Literal["exact", "tolerant"]

_STAGES: Final = {
    "now": "intake",
    "observation": "intake",
    "proposal": "policy",
    "decision.verdicts": "monitors",
    "decision.causes": "modes",
    "decision.reasons": "modes",
    "decision.mode": "modes",
    "decision.configuration": "modes",
    "decision.authority": "modes",
    "decision.filter": "filter",
    "decision.source": "command",
    "decision.command": "command",
}
_OUTSIDE: Final = frozenset({"torch", "mujoco"})  # what proposed and what moved: a replay runs neither
_INDEX: Final = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a number of a field may be off: ``absolute`` plus ``relative`` times the field's largest magnitude."""

    absolute: float
    relative: float

    def share(self, difference: float, magnitude: float) -> float:
        """``difference`` as a share of what is allowed; above 1 is too far."""
        allowed = self.absolute + self.relative * magnitude
        return difference / allowed if allowed > 0.0 else math.inf if difference > 0.0 else 0.0


NOTED: Final = Tolerance(math.inf, 0.0)
"""Of a field whose differences are only reported."""


@cache
def tolerances() -> Mapping[str, Tolerance]:
    """The tolerance of every field of a decision record that has one, by its path without indices, from the schema."""
    schema = DecisionRecord.model_json_schema()
    return dict(_declared("", schema, schema["$defs"]))


def _declared(path: str, node: Mapping[str, Any], parts: Mapping[str, Any]) -> Iterator[tuple[str, Tolerance]]:
    match node.get("replay_tolerance"):
        case "noted":
            yield path, NOTED
        case {"absolute": absolute, "relative": relative}:
            yield path, Tolerance(absolute, relative)
        case _:
            pass
    if "$ref" in node:
        yield from _declared(path, parts[node["$ref"].rpartition("/")[2]], parts)
    for word in ("anyOf", "oneOf", "prefixItems"):
        for option in node.get(word, ()):
            yield from _declared(path, option, parts)
    if isinstance(node.get("items"), Mapping):
        yield from _declared(path, node["items"], parts)
    for name, below in node.get("properties", {}).items():
        yield from _declared(f"{path}.{name}" if path else name, below, parts)


@dataclass(frozen=True, slots=True)
class Delta:
    """How far two numbers are apart.

    Attributes:
        absolute: the difference, in the field's unit.
        ulps: how many float64 numbers lie between them, the second one included.
    """

    absolute: float
    ulps: int

    @classmethod
    def of(cls, old: Json, new: Json) -> Delta | None:
        """The distance of two finite floats; None for anything else."""
        if not (isinstance(old, float) and isinstance(new, float) and math.isfinite(old) and math.isfinite(new)):
            return None
        return cls(abs(new - old), abs(_rank(new) - _rank(old)))


def _rank(value: float) -> int:
    """The place of a float64 among all of them, counted from zero; both zeros have the same."""
    bits = int.from_bytes(struct.pack("<d", value), "little", signed=True)
    return bits if bits >= 0 else -(bits & 0x7FFF_FFFF_FFFF_FFFF)


@dataclass(frozen=True, slots=True)
class Difference:
    """The first field of a decision that came out differently.

    Attributes:
        path: the field.
        expected, got: recorded and recomputed, as JSON.
        delta: how far they are apart, where both are finite floats.
    """

    path: str
    expected: str
    got: str
    delta: Delta | None = None

    @property
    def stage(self) -> str:
        """Which part of the tick: intake, policy, monitors, modes, filter, command or shield."""
        return next((name for prefix, name in _STAGES.items() if self.path.startswith(prefix)), "shield")


@dataclass(frozen=True, slots=True)
class Deviation:
    """What was allowed to differ in one field over a run.

    Attributes:
        path: the field, without indices.
        decisions: in how many it differed.
        absolute: the largest difference, in the field's unit.
        ulps: the largest distance in float64 numbers.
        share: the largest difference as a share of its tolerance; 0 for a field that is only reported.
    """

    path: str
    decisions: int
    absolute: float
    ulps: int
    share: float

    def __str__(self) -> str:
        far = f"{self.absolute:.3g}, {self.ulps:,} ULP, {self.share:.2g} of its tolerance"
        return f"  {self.path}: in {self.decisions:,} decisions, by up to {far if self.ulps else f'{self.absolute:g}'}"

    def joined(self, absolute: float, ulps: int, share: float) -> Deviation:
        """With one decision more."""
        worst = max(self.absolute, absolute), max(self.ulps, ulps), max(self.share, share)
        return Deviation(self.path, self.decisions + 1, *worst)


@dataclass(frozen=True, slots=True)
class Outline:
    """What a person asks first of a decision."""

    mode: str
    causes: tuple[str, ...]
    status: str
    source: str

    @classmethod
    def of(cls, data: Mapping[str, Json]) -> Outline:
        """Of the body of a decision record."""
        decision = cast("Mapping[str, Any]", data["decision"])
        causes = tuple(str(cause) for cause in decision["causes"])
        return cls(Mode(decision["mode"]).name, causes, str(decision["filter"]["status"]), str(decision["source"]))

    def __str__(self) -> str:
        return f"{self.mode} · {', '.join(self.causes) or 'no cause'} · {self.status} · by {self.source}"


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first decision that came out differently.

    Attributes:
        episode, tick: where.
        seq: the record.
        stage: which part of the tick: intake, policy, monitors, modes, filter, command or shield.
        path: the first differing field, in the order in which a decision comes about.
        expected: what the journal holds there, as JSON.
        got: what the replay computed, as JSON.
        now: time of the tick, ns.
        delta: how far the two are apart, where both are finite floats.
        recorded, recomputed: the decision, in outline.
        previous: the decision before it, as recorded; None at the start of an episode.
    """

    episode: int
    tick: int
    seq: int
    stage: str
    path: str
    expected: str
    got: str
    now: int = 0
    delta: Delta | None = None
    recorded: Outline | None = None
    recomputed: Outline | None = None
    previous: Outline | None = None

    def lines(self) -> Iterator[str]:
        """For people: where, what, and what stood around it."""
        at = f"episode {self.episode}, tick {self.tick}, {self.now / 1e9:.3f} s (record {self.seq})"
        yield f"{at} differs in the stage {self.stage}"
        for name, value in (("field", self.path), ("recorded", self.expected), ("recomputed", self.got)):
            yield f"  {name:<12}{shortened(value)}"
        if self.delta is not None:
            yield f"  {'apart':<12}{self.delta.absolute:.3g}, {self.delta.ulps:,} ULP"
        around = ("before it", self.previous), ("recorded", self.recorded), ("recomputed", self.recomputed)
        yield from (f"  {name:<12}{outline}" for name, outline in around if outline is not None)


class Comparison:
    """Compares decisions one by one, and keeps what it let pass."""

    def __init__(self, strictness: Strictness) -> None:
        self.strictness: Strictness = strictness
        self._allowed: Mapping[str, Tolerance] = tolerances() if strictness == "tolerant" else {}
        self._passed: dict[str, Deviation] = {}

    @property
    def deviations(self) -> tuple[Deviation, ...]:
        """What was let pass, field by field, the worst first."""
        return tuple(sorted(self._passed.values(), key=lambda found: (-found.share, found.path)))

    def first(self, recorded: Mapping[str, Json], made: Mapping[str, Json]) -> Difference | None:
        """The first field of two bodies that differs, fields of ``not_replayed`` aside; None where they agree."""
        return next(self.differences(recorded, made), None)

    def differences(self, recorded: Mapping[str, Json], made: Mapping[str, Json]) -> Iterator[Difference]:
        """The fields of two bodies that differ, in the order in which a decision comes about."""
        before = {key: recorded[key] for key in recorded if key not in DecisionRecord.not_replayed}
        after = {key: made[key] for key in before}
        if as_bytes(before) == as_bytes(after):
            return
        passed: dict[str, tuple[float, int, float]] = {}
        yield from self._differences("", cast("Json", before), cast("Json", orjson.loads(as_bytes(after))), passed)
        for path, worst in passed.items():
            self._passed[path] = self._passed.get(path, Deviation(path, 0, 0.0, 0, 0.0)).joined(*worst)

    def _differences(
        self, path: str, old: Json, new: Json, passed: dict[str, tuple[float, int, float]]
    ) -> Iterator[Difference]:
        """The leaves and lengths at which two JSON values differ."""
        tolerance = self._allowed.get(_INDEX.sub("", path))
        if tolerance is not None and (worst := _apart(old, new, tolerance)) is not None:
            if worst[2] > 1.0:
                yield _furthest(path, old, new)
            elif as_bytes(old) != as_bytes(new):
                _keep(passed, _INDEX.sub("", path), worst)
        elif isinstance(old, Mapping) and isinstance(new, Mapping) and old.keys() == new.keys():
            for key in old:
                yield from self._differences(f"{path}.{key}" if path else key, old[key], new[key], passed)
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            for at, pair in enumerate(zip(old, new, strict=True)):
                yield from self._differences(f"{path}[{at}]", *pair, passed)
        elif as_bytes(old) != as_bytes(new):
            yield Difference(path, as_bytes(old).decode(), as_bytes(new).decode(), Delta.of(old, new))


def _keep(passed: dict[str, tuple[float, int, float]], path: str, worst: tuple[float, int, float]) -> None:
    had = passed.get(path, worst)
    passed[path] = max(had[0], worst[0]), max(had[1], worst[1]), max(had[2], worst[2])


def _apart(old: Json, new: Json, tolerance: Tolerance) -> tuple[float, int, float] | None:
    """(largest difference, ULP, share of the tolerance) of two values that differ in numbers only; else None."""
    pairs = list(_leaves("", old, new))
    absolute, ulps, numbers = 0.0, 0, list[float]()
    for _, a, b in pairs:
        delta = Delta.of(a, b) if tolerance is not NOTED else _counted(a, b)
        if delta is None:
            if as_bytes(a) != as_bytes(b):
                return None
            continue
        numbers += [abs(cast("float", a)), abs(cast("float", b))]
        absolute, ulps = max(absolute, delta.absolute), max(ulps, delta.ulps)
    return absolute, ulps, tolerance.share(absolute, max(numbers, default=0.0))


def _counted(old: Json, new: Json) -> Delta | None:
    return Delta(abs(new - old), 0) if isinstance(old, int) and isinstance(new, int) else Delta.of(old, new)


def _leaves(path: str, old: Json, new: Json) -> Iterator[tuple[str, Json, Json]]:
    """Leaves of two values, pair by pair; where their forms differ, what differs is a leaf."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.keys() == new.keys():
        for key in old:
            yield from _leaves(f"{path}.{key}", old[key], new[key])
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for at, pair in enumerate(zip(old, new, strict=True)):
            yield from _leaves(f"{path}[{at}]", *pair)
    else:
        yield path, old, new


def _furthest(path: str, old: Json, new: Json) -> Difference:
    """The number of a field that is furthest off."""

    def distance(leaf: tuple[str, Json, Json]) -> float:
        delta = Delta.of(leaf[1], leaf[2])
        return -1.0 if delta is None else delta.absolute

    below, a, b = max(_leaves("", old, new), key=distance)
    return Difference(path + below, as_bytes(a).decode(), as_bytes(b).decode(), Delta.of(a, b))


def shortened(value: str, longest: int = 160) -> str:
    """A value for one line of a terminal."""
    return value if len(value) <= longest else f"{value[:longest]} …"


def as_bytes(value: Json | Mapping[str, Json]) -> bytes:
    """Canonical JSON: equal bytes are equal bits."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_SORT_KEYS)


def machine_differences(run: RunOpen) -> tuple[str, ...]:
    """What of this machine can change a floating-point result and is not as ``run_open`` says; empty: the same."""
    here = cast("Mapping[str, Any]", machine())
    then: dict[str, str] = {"python": run.python, "architecture": run.machine.architecture}
    now = {"python": platform.python_version(), "architecture": str(here["architecture"])}
    flags = "CPU flags" if run.machine.cpu_flags and here["cpu_flags"] else "CPU"
    then[flags] = _short(run.machine.cpu_flags) if flags == "CPU flags" else run.machine.cpu
    now[flags] = _short(str(here["cpu_flags"])) if flags == "CPU flags" else str(here["cpu"])
    for old, new in ((run.libraries, versions(tuple(run.libraries))), (run.machine.threads, here["threads"])):
        for name in sorted({*old, *new} - _OUTSIDE):
            then[name], now[name] = old.get(name, "not there"), new.get(name, "not there")
    return tuple(f"{name} is {now[name]} here and was {then[name]}" for name in then if then[name] != now[name])


def _short(digest: str) -> str:
    return digest[:12]


def strictness_text(strictness: Strictness, differences: Sequence[str]) -> str:
    """How strictly a replay compared, and why, in a sentence."""
    if strictness == "exact" and not differences:
        return "compared bit for bit: this machine is as the recording one"
    if strictness == "exact":
        return f"compared bit for bit, although {'; '.join(differences)}"
    return f"compared within the tolerances of the schema: {'; '.join(differences) or 'asked for'}"
