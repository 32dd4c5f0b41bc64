"""What each fault of the library can be told: units are in the keys, unknown keys are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_NOMINAL_SEVERITY = 3  # the severity at which parameters mean what they say


class FaultParams(BaseModel):
    """What every fault can be told.

    Attributes:
        kind: which fault of the library.
        name: of this instance; names its random stream. Defaults to the kind.
        start_s: onset after the episode's start.
        duration_s: until it clears; None means until the episode ends.
        severity: 1 to 5 scales the parameters, 3 takes them as they are; 0 is the no-op twin.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: str
    name: str = ""
    start_s: float = Field(default=1.5, ge=0.0)
    duration_s: float | None = Field(default=None, gt=0.0)
    severity: int = Field(default=_NOMINAL_SEVERITY, ge=0, le=5)

    @property
    def label(self) -> str:
        """The instance's name, or its kind."""
        return self.name or self.kind

    @property
    def scale(self) -> float:
        """Severity as a factor on parameters."""
        return self.severity / _NOMINAL_SEVERITY

    def twin(self) -> FaultParams:
        """The same fault without effect."""
        return self.model_copy(update={"severity": 0})


class DriveToLimitsParams(FaultParams):
    """Targets of ``joints`` ramp at ``ramp_radps`` to ``beyond_rad`` (scaled) past their limit."""

    kind: str = "policy.drive_to_limits"
    joints: Mapping[str, Literal["lower", "upper"]] = Field(min_length=1)
    beyond_rad: float = Field(default=0.3, gt=0.0)
    ramp_radps: float = Field(default=1.0, gt=0.0)


class DriveToCollisionParams(FaultParams):
    """Targets ramp straight to the configuration ``q_rad``, the fastest joint at ``ramp_radps`` (scaled)."""

    kind: str = "policy.drive_to_collision"
    q_rad: Mapping[str, float] = Field(min_length=1)
    ramp_radps: float = Field(default=1.0, gt=0.0)


class TorqueSpikesParams(FaultParams):
    """Each row of a chunk jumps, with probability ``share``, by ±``jump_rad`` (scaled) in every joint."""

    kind: str = "policy.torque_spikes"
    jump_rad: float = Field(default=0.5, gt=0.0)
    share: float = Field(default=0.25, gt=0.0, le=1.0)


class NanParams(FaultParams):
    """A share of the numbers of every chunk (scaled, at least one) is NaN."""

    kind: str = "policy.nan"
    share: float = Field(default=0.5, gt=0.0, le=1.0)


class HangParams(FaultParams):
    """Inferences do not return before the fault clears."""

    kind: str = "compute.hang"


class LatencyParams(FaultParams):
    """Inferences take ``extra_s`` (scaled) longer."""

    kind: str = "compute.latency"
    extra_s: float = Field(default=0.3, gt=0.0)


class FreezeParams(FaultParams):
    """The policy sees the observation of the onset again and again, under advancing time stamps."""

    kind: str = "sensor.freeze"


class TorqueLossParams(FaultParams):
    """The drives deliver only 1 − ``loss`` (scaled) of the torque that they are told."""

    kind: str = "plant.torque_loss"
    loss: float = Field(default=0.2, gt=0.0, le=0.6)
