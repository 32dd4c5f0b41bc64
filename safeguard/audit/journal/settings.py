"""Where and how a run is recorded: nothing that can change a decision, so no part of the shield's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

Durability: TypeAlias = Literal["os", "group", "each"]


class EventsConfig(BaseModel):
    """When the shield places records of events. The margins are about half of what the default filter keeps."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    near_position_rad: float = Field(default=0.001, ge=0.0, description="a smaller margin is a near miss; rad or m")
    near_velocity_radps: float = Field(default=0.01, ge=0.0, description="likewise; rad/s or m/s")
    near_torque_nm: float = Field(default=0.05, ge=0.0, description="likewise; N·m or N")
    near_clearance_m: float = Field(default=0.002, ge=0.0, description="likewise, of self-collision")
    hysteresis: float = Field(default=0.5, ge=0.0, description="a near miss is over at a margin wider by this share")
    dwell_s: float = Field(default=0.1, gt=0.0, le=60.0, description="what comes back sooner had not ended")
    health_s: float = Field(default=1.0, gt=0.0, description="injected time between health records")
    effect_s: float = Field(default=1.0, gt=0.0, description="time of control that an effect record is about, at most")


class AuditConfig(BaseModel):
    """How a run is recorded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Path = Field(description="folder to create")
    key: Path | None = Field(default=None, description="private key that signs, of `safeguard audit keygen`")
    writer: Literal["process", "inline"] = Field(
        default="process",
        description="process: the loop only fills a ring in shared memory; inline: the loop itself writes the file",
    )
    durability: Durability = Field(
        default="group",
        description="os: survives the death of processes; group: survives a power cut but for the last group_s; "
        "each: synced before anything further is written",
    )
    group_s: float = Field(default=0.1, gt=0.0, le=1.0)
    checkpoint_s: float = Field(default=0.5, gt=0.0, le=1.0, description="longest time between signed checkpoints")
    ring_mib: int = Field(default=8, ge=1, le=1024)
    segment_mib: float = Field(default=16.0, gt=0.0, le=1024.0)
    anchor: Path | None = Field(default=None, description="file that gets a copy of every checkpoint, kept by others")
    anchor_command: tuple[str, ...] = Field(
        default=(), description="program that gets a checkpoint on its input, and the newest once it is done with one"
    )
    mirror: Literal["none", "console", "json"] = Field(
        default="none", description="tell people what changes, on standard error, through structlog"
    )
    runs: Path | None = Field(default=None, description="list of runs: each run names the one before it")
    events: EventsConfig = EventsConfig()

    @model_validator(mode="after")
    def _no_program_in_the_loop(self) -> Self:
        if self.anchor_command and self.writer == "inline":
            raise ValueError("anchor_command needs writer = 'process': the control loop does not wait for programs")
        return self

    @classmethod
    def of(cls, run: str | Path, *, real_time: bool, key: Path | None = None) -> AuditConfig:
        """What ``Shield(audit="runs/first")`` means: in simulated time neither a process nor syncs gain anything."""
        return (
            cls(run=Path(run), key=key) if real_time else cls(run=Path(run), key=key, writer="inline", durability="os")
        )
