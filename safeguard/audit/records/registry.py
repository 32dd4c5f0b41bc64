"""What a journal holds: one pydantic model per record kind, with its schema version.

The writer builds plain dicts (``safeguard.audit.records.encode``), because the control thread has no time to validate
them; readers validate every record. A change of meaning or of fields is a new version, and an upgrader reads the old
one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar, Generic, Literal, Self, TypeAlias, TypeVar, cast

import orjson
from pydantic import Field, JsonValue, model_validator

from safeguard.audit.records.bodies import (
    Body,
    GivenSpec,
    Number,
    ObservationBody,
    OutcomeBody,
    ProposalBody,
    Spec,
    TimingsBody,
)
from safeguard.audit.records.cut import CODE, RetentionCut
from safeguard.audit.records.encode import JsonObject
from safeguard.audit.records.events import (
    ConfigIntervention,
    Effect,
    Fallback,
    FaultDetected,
    Health,
    ModeChange,
    NearMiss,
    SoftwareChange,
    Violation,
)
from safeguard.audit.records.expand import expanded, expanded_3
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


class PreviousRun(Body):
    """The run before this one in the list of runs, as far as it was signed."""

    run: str
    size: int
    root: str = Field(description="Merkle root, hex")


class RunOpen(Body):
    """First record: everything that must be known to judge or repeat the run."""

    version: ClassVar[int] = 2  # 2: key, key_purpose, previous

    run_id: str = Field(pattern=r"^[^\x00-\x1f\x7f]{1,256}$", description="without control characters")
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
    key: str = Field(default="", description="public key that signs the run, name+id+base64")
    key_purpose: Literal["field", "test", "ephemeral", ""] = Field(
        default="", description="ephemeral: nobody has kept it, so nobody vouches for the run"
    )
    previous: PreviousRun | None = None


class FaultSpec(Body):
    """A fault that the episode was asked to inject."""

    id: str
    kind: str
    parameters: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])


class EpisodeOpen(Body):
    """An episode begins."""

    version: ClassVar[int] = 3  # 2: void. 3: sources, given

    episode: int
    task: str
    scenario: str | None = None
    seed: int | None = None
    enforcement: Enforcement
    strategy: str
    policy: str | None = None
    spec: Spec | None = None
    sources: dict[str, Spec] = Field(
        default_factory=dict[str, Spec], description="what may hold the command beside the policy"
    )
    given: dict[str, GivenSpec] = Field(
        default_factory=dict[str, GivenSpec], description="what the sources' own numbers mean, where that differs"
    )
    mode: Mode = Field(default=Mode.BOOT, description="mode that the episode begins in")
    estops: int = Field(default=0, description="emergency stops of the process before this episode")
    commands: int = Field(default=0, description="commands issued before this episode; their numbers go on")
    void: str = Field(default="", description="why the calibration of the monitors no longer holds")
    told: dict[str, JsonValue] | None = Field(
        default=None, description="rows that the drives had been told before, where the host plays rows itself"
    )
    faults: list[FaultSpec] = Field(default_factory=list[FaultSpec])


class DecisionRecord(Body):
    """One tick: what came in at ``now``, what was decided, how long each stage took."""

    version: ClassVar[int] = 4  # 2: source; references of position drives. 3, 4: written as ``expand`` says

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
    """Somebody acted on the shield, or a script did in somebody's place (``simulated``).

    A jog has joint velocities; who gives the command says to which source.
    """

    version: ClassVar[int] = 2  # 2: give, to

    operator: str
    reason: str
    action: Literal["acknowledge", "stop", "reset", "jog", "give"]
    simulated: bool
    episode: int | None = None
    velocity: tuple[float, ...] | None = None
    to: str | None = None

    @model_validator(mode="after")
    def _each_has_its_own(self) -> Self:
        if (self.action == "jog") != (self.velocity is not None):
            raise ValueError("a jog has velocities, and nothing else has")
        if (self.action == "give") != (self.to is not None):
            raise ValueError("who gives the command says to whom, and nobody else does")
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


class Gap(Body):
    """Records that could not be placed: their numbers, how many, and why."""

    first: int
    last: int
    count: int
    cause: str

    @model_validator(mode="after")
    def _they_are_counted(self) -> Self:
        if self.count != self.last - self.first + 1 or self.count < 1:
            raise ValueError(f"{self.count} records do not go from {self.first} to {self.last}")
        return self


class Recovery(Body):
    """A journal that was left open was taken up again: what was found at its end."""

    cut_bytes: int = Field(description="bytes of an unfinished frame that were cut off")
    from_ring: int = Field(description="records that the ring still held")
    reason: str


AnyBody: TypeAlias = (
    RunOpen
    | EpisodeOpen
    | DecisionRecord
    | Human
    | FaultInjected
    | FaultCleared
    | EpisodeClose
    | RunClose
    | Gap
    | Recovery
    | RetentionCut
    | ModeChange
    | Fallback
    | NearMiss
    | Violation
    | FaultDetected
    | Health
    | SoftwareChange
    | ConfigIntervention
    | Effect
)

Retention: TypeAlias = Literal["5y", "1y", "6m"]
"""How long a kind should be kept by default: EU Machinery Regulation 2023/1230, Annex III, 1.1.9 and 1.2.1 (5 and 1
years), EU AI Act, Article 19 (6 months). The user decides."""

Privacy: TypeAlias = Literal["none", "person", "sensors"]
"""Whether a kind can hold what identifies a person: by name, or in what sensors saw."""


@dataclass(frozen=True, slots=True)
class KindInfo:
    """What the registry says of a record kind beside its schema.

    Attributes:
        code: in the head of a record; never given to another kind.
        retention, privacy: classes.
    """

    code: int
    retention: Retention
    privacy: Privacy


SCHEMAS: Mapping[RecordKind, type[AnyBody]] = {
    RecordKind.RUN_OPEN: RunOpen,
    RecordKind.EPISODE_OPEN: EpisodeOpen,
    RecordKind.DECISION: DecisionRecord,
    RecordKind.HUMAN: Human,
    RecordKind.FAULT_INJECTED: FaultInjected,
    RecordKind.FAULT_CLEARED: FaultCleared,
    RecordKind.EPISODE_CLOSE: EpisodeClose,
    RecordKind.RUN_CLOSE: RunClose,
    RecordKind.GAP: Gap,
    RecordKind.RECOVERY: Recovery,
    RecordKind.RETENTION_CUT: RetentionCut,
    RecordKind.MODE_CHANGE: ModeChange,
    RecordKind.FALLBACK: Fallback,
    RecordKind.NEAR_MISS: NearMiss,
    RecordKind.VIOLATION: Violation,
    RecordKind.FAULT_DETECTED: FaultDetected,
    RecordKind.HEALTH: Health,
    RecordKind.SOFTWARE_CHANGE: SoftwareChange,
    RecordKind.CONFIG_INTERVENTION: ConfigIntervention,
    RecordKind.EFFECT: Effect,
}
"""The registry: every record kind and its current schema."""

KINDS: Mapping[RecordKind, KindInfo] = {
    RecordKind.RUN_OPEN: KindInfo(1, "5y", "none"),
    RecordKind.EPISODE_OPEN: KindInfo(2, "1y", "none"),
    RecordKind.DECISION: KindInfo(3, "1y", "sensors"),
    RecordKind.HUMAN: KindInfo(4, "5y", "person"),
    RecordKind.FAULT_INJECTED: KindInfo(5, "6m", "none"),
    RecordKind.FAULT_CLEARED: KindInfo(6, "6m", "none"),
    RecordKind.EPISODE_CLOSE: KindInfo(7, "1y", "none"),
    RecordKind.RUN_CLOSE: KindInfo(8, "5y", "none"),
    RecordKind.GAP: KindInfo(9, "5y", "none"),
    RecordKind.RECOVERY: KindInfo(10, "5y", "none"),
    RecordKind.RETENTION_CUT: KindInfo(CODE, "5y", "person"),
    RecordKind.MODE_CHANGE: KindInfo(12, "1y", "none"),
    RecordKind.FALLBACK: KindInfo(13, "1y", "none"),
    RecordKind.NEAR_MISS: KindInfo(14, "1y", "none"),
    RecordKind.VIOLATION: KindInfo(15, "1y", "none"),
    RecordKind.FAULT_DETECTED: KindInfo(16, "1y", "person"),  # an operator's reason for a stop is a detail
    RecordKind.HEALTH: KindInfo(17, "6m", "none"),
    RecordKind.SOFTWARE_CHANGE: KindInfo(18, "5y", "none"),
    RecordKind.CONFIG_INTERVENTION: KindInfo(19, "5y", "none"),
    RecordKind.EFFECT: KindInfo(20, "1y", "none"),
}

BY_CODE: Mapping[int, RecordKind] = {info.code: kind for kind, info in KINDS.items()}

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
        kind, v, seq, tick, t: the envelope; ``v`` is the version that was written.
        body: the validated body, upgraded to the current version; its class follows from ``kind``.
        data: the body in the version that was written, as plain JSON-able data; non-finite numbers are named.
        hash: the record's leaf in the Merkle tree, hex.
    """

    kind: RecordKind
    v: int
    seq: int
    tick: int | None
    t: int | None
    body: AnyBody
    data: JsonObject
    hash: str


def plain_body(kind: RecordKind, version: int, data: JsonObject, tick: int | None, t: int | None) -> JsonObject:
    """The body as its schema says, of what was written and the head; raises ValueError."""
    if kind is not RecordKind.DECISION or version < 3:
        return data
    try:
        return expanded_3(data, tick, t) if version == 3 else expanded(data, tick, t)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a decision: {type(error).__name__}: {error}") from None


def parse_body(kind: RecordKind, version: int, data: JsonObject) -> AnyBody:
    """The plain body in ``data``, upgraded and validated; raises pydantic.ValidationError or ValueError."""
    known = SCHEMAS[kind].version
    if not 1 <= version <= known:
        raise ValueError(f"schema version {version}, this safeguard reads 1 to {known}; use the one that wrote it")
    for step in range(version, known):
        data = UPGRADES[kind, step](data)
    return SCHEMAS[kind].model_validate_json(orjson.dumps(data))


def _unchanged(data: JsonObject) -> JsonObject:
    """Only fields with defaults came."""
    return data


def _decision_source(data: JsonObject) -> JsonObject:
    """Version 1 had no ``source``: the filter's was meant. References of position drives did not exist."""
    decision = dict(cast("JsonObject", data["decision"]))
    result = dict(cast("JsonObject", decision["filter"]))
    decision.setdefault("source", result["source"])
    decision["filter"] = {"position": None, "velocity": None, **result}
    return {**data, "decision": decision}


UPGRADES: Mapping[tuple[RecordKind, int], Callable[[JsonObject], JsonObject]] = {
    (RecordKind.RUN_OPEN, 1): _unchanged,
    (RecordKind.EPISODE_OPEN, 1): _unchanged,
    (RecordKind.EPISODE_OPEN, 2): _unchanged,
    (RecordKind.HUMAN, 1): _unchanged,
    (RecordKind.DECISION, 1): _decision_source,
    (RecordKind.DECISION, 2): _unchanged,
    (RecordKind.DECISION, 3): _unchanged,  # named alike, see ``plain_body``
}
"""(kind, n): what makes version n + 1 of version n."""


def json_schemas() -> dict[str, JsonValue]:
    """JSON Schema of every record kind, envelope included, by kind."""
    return {kind.value: _ENVELOPES[kind].model_json_schema() for kind in SCHEMAS}


@cache
def schemas_digest() -> str:
    """SHA-256 of :func:`json_schemas`; ``run_open`` carries it."""
    return hashlib.sha256(orjson.dumps(json_schemas(), option=orjson.OPT_SORT_KEYS)).hexdigest()
