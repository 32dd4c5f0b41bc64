"""The loop's types as pydantic models: what a decision record is made of."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

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


class ShapedArray(Body):
    """An array whose shape nested lists cannot show: empty, or of more than three dimensions."""

    shape: list[Annotated[int, Field(ge=0)]]
    data: Row


Array: TypeAlias = Annotated[
    Row | Number | Matrix | Annotated[list[Matrix], Field(fail_fast=True)] | ShapedArray,
    Field(union_mode="left_to_right"),
]


class Spec(Body):
    """What the policy's numbers mean (``ActionSpec``)."""

    joints: list[str]
    unit: str
    reference: Reference
    rate_hz: float
    chunk: int
    frame: str | None


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
    tau: Array
    t: int
    expires: int
    seq: int


class PositionBody(Body):
    """``PositionCommand``."""

    type: Literal["position"]
    q: Array
    t: int
    expires: int
    seq: int


class VelocityBody(Body):
    """``VelocityCommand``."""

    type: Literal["velocity"]
    v: Array
    t: int
    expires: int
    seq: int


class PDBody(Body):
    """``PDCommand``."""

    type: Literal["pd"]
    q: Array
    v: Array
    kp: Array
    kd: Array
    tau_ff: Array
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

    position: Number
    velocity: Number
    torque: Number
    clearance: Number
    nearest: str


class FilterBody(Body):
    """``FilterResult``."""

    status: FilterStatus
    solver: SolverStatus
    source: str
    torque: Array
    acceleration: Array
    slack: list[tuple[str, Number]]
    active: list[str]
    margins: MarginsBody
    effort: Number
    iterations: int
    stuck: bool
    provisional: bool
    refusal: str
    position: Array | None = Field(description="reference that position drives are told; null for torque drives")
    velocity: Array | None


class VerdictBody(Body):
    """``Verdict``."""

    monitor: str
    level: Level
    score: Number
    threshold: Number
    p_value: Number | None
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
