"""What a journal holds: one pydantic model per record kind, with its schema version.

The writer builds plain dicts (``safeguard.audit.encode``), because the control thread has no time to validate
them; readers and the verifier validate every record. A change of meaning or of fields is a new version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar, Generic, Literal, Self, TypeAlias, TypeVar, cast

import orjson
from pydantic import Field, JsonValue, model_validator

from safeguard.audit.bodies import (
    Body,
    Number,
    ObservationBody,
    OutcomeBody,
    ProposalBody,
    Spec,
    TimingsBody,
)
from safeguard.core.enums import Enforcement, Mode, RecordKind


class RobotIdentity(Body):
    """Which robot model decided: digest of everything that affects a decision, and how to load it again."""

    name: str
    digest: str
    source: JsonValue = Field(description="what rebuilds the model: description, package, locks, payload")


class JointLimits(Body):
    """Limits of one joint, and where each figure came from (datasheet, URDF, derived, …)."""

    joint: str
    lower: Number = Field(description="rad or m")
    upper: Number = Field(description="rad or m")
    velocity: Number = Field(description="rad/s or m/s")
    torque: Number = Field(description="N·m or N")
    acceleration: Number | None = Field(default=None, description="rad/s² or m/s²")
    provenance: dict[str, str] = Field(default_factory=dict[str, str], description="limit name → source")


class Limits(Body):
    """What the run was held to."""

    joints: list[JointLimits]
    clearance: Number | None = Field(default=None, description="smallest allowed self-collision distance, m")


class Machine(Body):
    """Where the run happened, as far as it can change a floating-point result."""

    system: str
    architecture: str
    cpu: str
    cpu_flags: str = Field(description="SHA-256 of the sorted CPU feature flags, or empty where unknown")
    threads: dict[str, str] = Field(
        default_factory=dict[str, str], description="thread settings of numerical libraries"
    )


class Digests(Body):
    """SHA-256 of what decides beside the robot; null for what the run does not have."""

    table: str | None = None
    policy: str | None = None
    calibration: str | None = None
    schemas: str | None = None


class RunOpen(Body):
    """First record: everything that must be known to judge or repeat the run."""

    run_id: str
    created_utc: str = Field(description="ISO 8601, wall clock, for people only")
    safeguard: str
    python: str
    machine: Machine
    libraries: dict[str, str]
    robot: RobotIdentity
    config: JsonValue = Field(description="the shield's full configuration")
    digests: Digests
    enforcement: Enforcement
    simulated: bool = Field(description="true unless real hardware moved")
    limits: Limits | None = None


class FaultSpec(Body):
    """A fault that the episode was asked to inject."""

    id: str
    kind: str
    parameters: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])


class EpisodeOpen(Body):
    """An episode begins."""

    episode: int
    task: str
    scenario: str | None = None
    seed: int | None = None
    enforcement: Enforcement
    strategy: str
    policy: str | None = None
    spec: Spec | None = None
    mode: Mode = Field(default=Mode.BOOT, description="mode that the episode begins in")
    estops: int = Field(default=0, description="emergency stops of the process before this episode")
    commands: int = Field(default=0, description="commands issued before this episode; their numbers go on")
    faults: list[FaultSpec] = Field(default_factory=list[FaultSpec])


class DecisionRecord(Body):
    """One tick: what came in at ``now``, what was decided, how long each stage took."""

    version: ClassVar[int] = 2  # 2: source; references of position drives

    not_replayed: ClassVar[tuple[str, ...]] = ("episode", "timings")
    """Fields that a replay does not compare: a label of the run, and what it measures anew."""

    episode: int
    tick: int
    now: int
    observation: ObservationBody
    proposal: ProposalBody | None = Field(description="the proposal that arrived in this tick")
    decision: OutcomeBody
    timings: TimingsBody


class Human(Body):
    """Somebody acted on the shield, or a script did in somebody's place (``simulated``); a jog has joint velocities."""

    operator: str
    reason: str
    action: Literal["acknowledge", "stop", "reset", "jog"]
    simulated: bool
    episode: int | None = None
    velocity: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _a_jog_has_velocities(self) -> Self:
        if (self.action == "jog") != (self.velocity is not None):
            raise ValueError("a jog has velocities, and nothing else has")
        return self


class FaultInjected(Body):
    """A scripted fault took effect; ``evidence`` says how that was seen."""

    episode: int
    id: str
    kind: str
    parameters: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    evidence: JsonValue = None


class FaultCleared(FaultInjected):
    """A scripted fault ended."""


class EpisodeClose(Body):
    """An episode is over; ``outcome`` holds the referee's metrics."""

    episode: int
    outcome: dict[str, JsonValue]


class RunClose(Body):
    """Last record of a closed run: how many records of each kind stand before it."""

    counts: dict[str, int]
    reason: str


AnyBody: TypeAlias = (
    RunOpen | EpisodeOpen | DecisionRecord | Human | FaultInjected | FaultCleared | EpisodeClose | RunClose
)

SCHEMAS: Mapping[RecordKind, type[AnyBody]] = {
    RecordKind.RUN_OPEN: RunOpen,
    RecordKind.EPISODE_OPEN: EpisodeOpen,
    RecordKind.DECISION: DecisionRecord,
    RecordKind.HUMAN: Human,
    RecordKind.FAULT_INJECTED: FaultInjected,
    RecordKind.FAULT_CLEARED: FaultCleared,
    RecordKind.EPISODE_CLOSE: EpisodeClose,
    RecordKind.RUN_CLOSE: RunClose,
}
"""The registry: every record kind and its current schema."""

BodyT = TypeVar("BodyT", bound=Body)


class Envelope(Body, Generic[BodyT]):
    """What every record carries around its body."""

    v: int = Field(description="schema version of the body")
    kind: RecordKind
    seq: Annotated[int, Field(ge=0)] = Field(description="gap-free from 0 over the run")
    tick: int | None
    t: int | None = Field(description="injected monotonic time, ns")
    body: BodyT


_ENVELOPES: Mapping[RecordKind, type[Envelope[Body]]] = {
    kind: cast("type[Envelope[Body]]", Envelope[model])  # type: ignore[valid-type]  # a class made at run time
    for kind, model in SCHEMAS.items()
}


@dataclass(frozen=True, slots=True)
class Record:
    """One validated record of a journal.

    Attributes:
        kind, v, seq, tick, t: the envelope.
        body: the validated body; its class follows from ``kind``.
        raw: the exact bytes of the record in the journal.
        hash: chain hash of the record, hex.
    """

    kind: RecordKind
    v: int
    seq: int
    tick: int | None
    t: int | None
    body: AnyBody
    raw: bytes
    hash: str


def parse_record(kind: RecordKind, raw: bytes, link: str = "") -> Record:
    """The record in ``raw``, validated as ``kind``, with hash ``link``; raises pydantic.ValidationError."""
    line = _ENVELOPES[kind].model_validate_json(raw)
    return Record(kind, line.v, line.seq, line.tick, line.t, cast("AnyBody", line.body), raw, link)


def json_schemas() -> dict[str, JsonValue]:
    """JSON Schema of every record kind, envelope included, by kind."""
    return {kind.value: _ENVELOPES[kind].model_json_schema() for kind in SCHEMAS}


@cache
def schemas_digest() -> str:
    """SHA-256 of :func:`json_schemas`; ``run_open`` carries it."""
    return hashlib.sha256(orjson.dumps(json_schemas(), option=orjson.OPT_SORT_KEYS)).hexdigest()
