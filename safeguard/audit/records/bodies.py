"""The loop's types as pydantic models: what a decision record is made of."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from safeguard.core.enums import (
    Authority,
    Cause,
    Enforcement,
    FilterStatus,
    Level,
    Mode,
    Reference,
    SolverStatus,
)

Number: TypeAlias = Annotated[float | Literal["NaN", "Infinity", "-Infinity"], Field(union_mode="left_to_right")]
"""A float64, or the name of a non-finite one."""

Row: TypeAlias = Annotated[list[Number], Field(fail_fast=True)]
Matrix: TypeAlias = Annotated[list[Row], Field(fail_fast=True)]


class Body(BaseModel):
    """Base of everything in a record: closed, immutable, no coercion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: ClassVar[int] = 1
    """Schema version; it changes with any change of meaning or of fields."""


def within(absolute: float, relative: float = 0.0) -> Any:
    """Declares how far a replay on another machine may be from what was recorded; fields without it are exact.

    A number may differ by ``absolute``, in the field's unit, plus ``relative`` times the largest magnitude in the
    field: the error of one joint's torque is a share of the sums that all of them come from. How they were chosen is in
    docs/concepts/audit.md, Replay.
    """
    return Field(json_schema_extra={"replay_tolerance": {"absolute": absolute, "relative": relative}})


def noted() -> Any:
    """Declares a field whose differences a replay on another machine reports and allows."""
    return Field(json_schema_extra={"replay_tolerance": "noted"})


class ShapedArray(Body):
    """An array whose shape nested lists cannot show: empty, or of more than three dimensions."""

    shape: list[Annotated[int, Field(ge=0)]]
    data: Row


Array: TypeAlias = Annotated[
    Row | Number | Matrix | Annotated[list[Matrix], Field(fail_fast=True)] | ShapedArray,
    Field(union_mode="left_to_right"),
]


Torque: TypeAlias = Annotated[Array, within(1e-6, 1e-6)]
"""N·m or N."""

Acceleration: TypeAlias = Annotated[Array, within(1e-6, 1e-6)]
"""rad/s² or m/s²."""

Motion: TypeAlias = Annotated[Array, within(1e-9, 1e-9)]
"""Where a drive is told to be and how fast: rad, m, rad/s, m/s."""

Distance: TypeAlias = Annotated[Number, within(1e-9, 1e-9)]
"""From a limit of position, or between bodies: rad, m."""

Score: TypeAlias = Annotated[Number, within(1e-6, 1e-6)]
"""What a monitor measured."""


class Spec(Body):
    """What a source's numbers mean as they are recorded: joint motion of the body (``ActionSpec``)."""

    joints: list[str]
    unit: str
    reference: Reference
    rate_hz: float
    chunk: int
    frame: str | None
    kp: list[float] | None = Field(default=None, description="gains of PD targets, N·m/rad")
    kd: list[float] | None = Field(default=None, description="N·m·s/rad")


class GivenSpec(Body):
    """What a source's own numbers mean, before they are bound to the body: every field of ``ActionSpec``."""

    joints: list[str]
    unit: str | list[str]
    reference: Reference
    rate_hz: float
    chunk: int
    frame: str | None = None
    scale: float | list[float] = 1.0
    offset: float | list[float] = 0.0
    low: float | list[float] | None = None
    high: float | list[float] | None = None
    kp: float | list[float] | None = None
    kd: float | list[float] | None = None
    others: list[str] = Field(default_factory=list[str])


class StateBody(Body):
    """``RobotState``."""

    q: Array
    v: Array
    t: int


class SensorBody(Body):
    """``Sensor``."""

    value: Array
    t: int


class ObservationBody(Body):
    """``Observation``."""

    state: StateBody
    sensors: dict[str, SensorBody]
    instruction: str | None
    external_wrench: Array | None
    estop: bool
    drive_status: str | None


class PartsBody(Body):
    """``Parts``."""

    failed: list[Cause]
    agreeing: list[str]
    substitutes: list[str]


class ProposalBody(Body):
    """``Proposal``."""

    actions: Array
    t_obs: int
    t_inferred: int
    source: str
    seq: int
    features: Array | None
    samples: Array | None
    parts: PartsBody | None = None


class TorqueBody(Body):
    """``TorqueCommand``."""

    type: Literal["torque"]
    tau: Torque
    t: int
    expires: int
    seq: int


class PositionBody(Body):
    """``PositionCommand``."""

    type: Literal["position"]
    q: Motion
    t: int
    expires: int
    seq: int


class VelocityBody(Body):
    """``VelocityCommand``."""

    type: Literal["velocity"]
    v: Motion
    t: int
    expires: int
    seq: int


class PDBody(Body):
    """``PDCommand``."""

    type: Literal["pd"]
    q: Motion
    v: Motion
    kp: Array
    kd: Array
    tau_ff: Torque
    t: int
    expires: int
    seq: int


class TerminalStopBody(Body):
    """``TerminalStop``."""

    type: Literal["terminal_stop"]
    reason: str
    t: int
    seq: int


CommandBody: TypeAlias = Annotated[
    TorqueBody | PositionBody | VelocityBody | PDBody | TerminalStopBody, Field(discriminator="type")
]


class MarginsBody(Body):
    """``Margins``."""

    position: Distance
    velocity: Annotated[Number, within(1e-7, 1e-7)]
    torque: Annotated[Number, within(1e-6, 1e-6)]
    clearance: Distance
    nearest: str


UNITS: Final = {"position": "rad", "velocity": "rad/s", "torque": "N·m", "clearance": "m"}
"""Margins of a decision and their units."""


class FilterBody(Body):
    """``FilterResult``."""

    status: FilterStatus
    solver: SolverStatus
    source: str
    torque: Torque
    acceleration: Acceleration
    slack: Annotated[list[tuple[str, Number]], within(1e-9, 1e-6)]
    active: list[str]
    margins: MarginsBody
    effort: Score
    iterations: Annotated[int, noted()]
    stuck: bool
    provisional: bool
    refusal: str
    position: Motion | None = Field(description="reference that position drives are told; null for torque drives")
    velocity: Motion | None


class VerdictBody(Body):
    """``Verdict``."""

    monitor: str
    level: Level
    score: Score
    threshold: Number
    p_value: Score | None
    cause: Cause | None
    detail: str


def full_verdict(verdict: VerdictBody | str) -> VerdictBody:
    """The verdict that a bare name stands for."""
    if isinstance(verdict, VerdictBody):
        return verdict
    return VerdictBody(
        monitor=verdict, level=Level.OK, score="NaN", threshold="NaN", p_value=None, cause=None, detail=""
    )


class OutcomeBody(Body):
    """``Decision`` without its counters and timings, in the order in which it comes about."""

    verdicts: list[VerdictBody | str] = Field(
        description="a name alone stands for a yes-or-no check of that monitor that found nothing"
    )
    causes: list[Cause]
    reasons: list[str]
    mode: Mode
    configuration: str = Field(default="", description="which degraded configuration, in DEGRADED")
    authority: Authority
    filter: FilterBody
    source: str = Field(description="who made the command; under monitor_only not who made the filter result")
    command: CommandBody
    enforcement: Enforcement


class TimingsBody(Body):
    """``Timings``, ns."""

    intake: int
    policy: int
    controller: int
    monitors: int
    modes: int
    filter: int
    record: int
    total: int
