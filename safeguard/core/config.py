"""Configuration at the edge: pydantic models with the unit in the key, frozen, converted once.

Values that a safety engineer would want to change are here and nowhere else.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from safeguard.core.certificate import Certificate

Positive = Annotated[float, Field(gt=0.0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BrakeConfig(_Section):
    """The backup: how hard it brakes and how stiffly it follows its reference."""

    share_of_authority: float = Field(default=0.9, gt=0.0, le=1.0, description="of the sampled braking authority")
    max_share: float = Field(default=0.45, gt=0.0, le=1.0, description="of the acceleration limits, at most")
    plan_share: float = Field(
        default=0.85, gt=0.0, lt=1.0, description="of the deceleration; the rest absorbs model error"
    )
    samples: int = Field(default=4000, ge=100, description="states in which the braking authority is sampled")
    omega_radps: float = Field(default=30.0, gt=0.0, description="natural frequency of the tracking law")


class ClearanceConfig(_Section):
    """Self-collision: what is kept, and how early rows start to steer."""

    hard_floor_m: float = Field(default=0.001, gt=0.0, description="proved for every point of a stop")
    floor_m: float = Field(default=0.004, gt=0.0, description="measured at every sample of a stop")
    buffer_m: float = Field(default=0.006, ge=0.0, description="rows steer this much before the floor")
    decay_s: float = Field(default=0.05, gt=0.0, description="time constant of the approach to the buffer")
    zone_m: float = Field(
        default=0.005, gt=0.0, description="stops that end further than this from the buffer get no row"
    )
    slots: int = Field(default=8, ge=1, description="number of rows in the QP")
    hysteresis_m: float = Field(default=0.002, ge=0.0, description="advantage of a pair that has a row already")
    path_samples: int = Field(default=200, ge=2, description="points of a stop whose distances are measured, at most")


class MarginConfig(_Section):
    """What is kept between the filter's own bounds and the limits, for model and rounding errors."""

    position_rad: float = Field(default=0.002, ge=0.0)
    near_rad: float = Field(default=0.1, gt=0.0, description="a jogged joint comes no nearer to a limit than this")
    velocity_share: float = Field(default=0.01, ge=0.0, lt=1.0)
    torque_share: float = Field(default=0.01, ge=0.0, lt=1.0, description="kept for the backup's feedback")


class SolverConfig(_Section):
    """The QP solver, and the OSQP settings that decide accuracy and bounded work."""

    name: Literal["osqp", "daqp"] = Field(default="osqp", description="osqp has daqp behind it for what it leaves")

    settle: bool = Field(default=True, description="answer without a solver what a few exact steps settle")
    eps_abs: float = Field(default=1e-6, gt=0.0, description="in rad/s², the unit of every row")
    max_iter: int = Field(default=100, ge=10, description="then daqp answers")
    check_every: int = Field(default=10, ge=1)
    rho: float = Field(default=0.5, gt=0.0)


class TaskConfig(_Section):
    """How twists and poses of the tool become joint accelerations."""

    twist_rate_per_s: float = Field(default=50.0, gt=0.0, description="how fast a deviation from the twist decays")
    pose_omega_radps: float = Field(default=8.0, gt=0.0, description="natural frequency of the approach to a pose")
    pull_m: float = Field(default=0.1, gt=0.0, description="weighted distance beyond which a pose pulls no harder")
    posture_omega_radps: float = Field(
        default=1.0, gt=0.0, description="natural frequency of the pull to the middle of the ranges, in the null space"
    )
    singular: float = Field(
        default=0.04, gt=0.0, description="singular value of the weighted Jacobian (m) below which motion is damped"
    )
    length_m: float = Field(default=0.3, gt=0.0, description="1 rad of the tool weighs as much as this distance")
    unit_tolerance: float = Field(
        default=1e-3, ge=0.0, lt=0.5, description="how far a quaternion or rotation may be from one"
    )


class SpeedConfig(_Section):
    """Caps on how fast points of the body may be, in m/s; none by default."""

    tool_mps: Positive | None = Field(default=None, description="of the tool frame's origin")
    body_mps: Positive | None = Field(default=None, description="of every point of the enclosing geometry")
    deceleration_mps2: Positive = Field(default=2.0, description="at which a speed above its cap falls")
    slots: int = Field(default=6, ge=1, description="number of rows in the QP")


class FilterConfig(_Section):
    """The safety filter."""

    brake: BrakeConfig = BrakeConfig()
    clearance: ClearanceConfig = ClearanceConfig()
    margins: MarginConfig = MarginConfig()
    solver: SolverConfig = SolverConfig()
    task: TaskConfig = TaskConfig()
    speed: SpeedConfig = SpeedConfig()
    certificate: Certificate | None = Field(default=None, description="of 'safeguard robot certify'; else provisional")
    delay_ticks: int = Field(
        default=0, ge=0, le=10, description="periods from a decision to its effect, predicted over"
    )
    torque_rate: Literal["recorded", "comfort"] = Field(
        default="recorded",
        description="comfort: corrected motion keeps to limits.tau_rate_max where braking does; never the brake itself",
    )
    standstill_radps: float = Field(default=0.02, gt=0.0, description="speed under which a joint stands")
    stuck_s: float = Field(default=0.2, gt=0.0, description="standing this long against a moving proposal is stuck")
    slack_tolerance_m: float = Field(default=1e-5, ge=0.0, description="relaxation below this is rounding")


class DriveConfig(_Section):
    """What the drives take, and how well position drives follow. ``docs/concepts/command-interfaces.md``."""

    interface: Literal["torque", "position"] = Field(default="torque", description="what a command holds")
    tracking_error_rad: Positive = Field(
        default=0.05,
        description="how far a position drive may be from what it was told; margins.position_rad covers it",
    )


class IntakeConfig(_Section):
    """Limits of the intake checks."""

    max_age_s: Positive = Field(default=0.003, description="oldest state that may be acted on")
    future_s: float = Field(default=0.001, ge=0.0, description="how far ahead of now a stamp may be")
    jump_factor: float = Field(
        default=1.5, ge=1.0, description="allowed multiple of the speed limit between two states"
    )
    jump_tolerance: float = Field(default=0.005, ge=0.0, description="added to that, rad or m (encoder noise)")
    proposal_max_age_s: Positive = Field(default=0.2, description="oldest observation of a proposal on arrival")
    repeat_tolerance: float = Field(
        default=0.01, gt=0.0, description="rad or m a joint may move under bit-identical chunks"
    )


class PolicyConfig(_Section):
    """What is expected of the policy. Latency and period belong to its port."""

    deadline_s: Positive = Field(
        default=0.2,
        description="oldest observation of the proposal that is being followed; two policy periods and a latency "
        "leave room for one late output",
    )
    startup_s: float = Field(default=0.1, ge=0.0, description="time to the first proposal of an episode")
    tracking_omega_radps: Positive = Field(default=15.0, description="natural frequency of the chunk tracking")
    ramp_s: float = Field(
        default=0.3,
        ge=0.0,
        description="from the first motion after a start, reset or change of hands to all the acceleration; 0: none",
    )
    ramp_from: float = Field(
        default=0.1, gt=0.0, le=1.0, description="share of the acceleration limits that is allowed at once"
    )


class SensorConfig(_Section):
    """What is asked of one sensor, by its name in ``Observation.sensors``."""

    max_age_s: Positive = Field(default=0.2, description="oldest value that the policy may be shown")
    frozen_s: Positive | None = Field(
        default=None,
        description="bit-identical for longer than this, although its stamps advance, is frozen; null for what may "
        "rightly stand still",
    )


class PlanConfig(_Section):
    """Sanity of a chunk of joint motion; far beyond what a working policy does, so no calibration is needed."""

    jump_factor: float = Field(default=4.0, ge=1.0, description="times the speed limit, between rows and to the first")
    curvature_factor: float = Field(default=8.0, ge=1.0, description="times the acceleration limit, between rows")
    reversals: int = Field(default=4, ge=1, description="changes of direction of one joint in a chunk, at most")
    dead_band: float = Field(default=0.02, ge=0.0, description="share of the speed limit below which a joint stands")


class PunctualConfig(_Section):
    """At most ``m`` late chunks among any ``k`` in a row, and at most ``in_a_row`` (Bernat et al. 2001)."""

    m: int = Field(default=4, ge=0)
    k: int = Field(default=20, ge=1, le=64)
    in_a_row: int = Field(default=2, ge=0)
    period_s: Positive | None = Field(
        default=None,
        description="one chunk is due in each; null for half of policy.deadline_s, which leaves room for two",
    )
    grace: float = Field(default=0.5, ge=0.0, description="periods by which a chunk may be later than one period")


class FormulaConfig(_Section):
    """A requirement in past-time signal temporal logic; ``docs/concepts/monitors.md`` has the grammar and signals."""

    name: str = Field(min_length=1)
    formula: str = Field(min_length=1, description="true where all is well; its robustness is the margin")
    rung: Literal["warn", "degrade", "stop"] = "warn"


class RungsConfig(_Section):
    """Declared false-alarm rates of an episode, by rung of the joint score."""

    warn: float = Field(default=0.10, gt=0.0, lt=1.0, description="of g_warn; needs 9 episodes")
    degrade: float = Field(default=0.02, gt=0.0, lt=1.0, description="of g_act; needs 49 episodes")
    stop: float = Field(default=0.005, gt=0.0, lt=1.0, description="of g_act; needs 199 episodes")


class MonitorsConfig(_Section):
    """What watches the policy. ``docs/concepts/monitors.md``."""

    sensors: dict[str, SensorConfig] = Field(default_factory=dict[str, SensorConfig])
    plan: PlanConfig = PlanConfig()
    punctual: PunctualConfig = PunctualConfig()
    formulas: tuple[FormulaConfig, ...] = ()
    effort_tau_s: Positive = Field(default=0.05, description="smoothing of the shield-effort score")
    rungs: RungsConfig = RungsConfig()
    debounce: tuple[int, int] = Field(
        default=(3, 5), description="m and n: what acts alone counts once m of the last n ticks agree"
    )
    past_horizon: Literal["uncalibrated", "new_block"] = Field(
        default="uncalibrated", description="after as many ticks as the longest calibrated episode had"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [one.name for one in self.formulas]
        if len(set(names)) != len(names):
            raise ValueError(f"formulas must have different names, got {names}")
        if not 1 <= self.debounce[0] <= self.debounce[1]:
            raise ValueError(f"debounce needs 1 <= m <= n, got {self.debounce}")
        return self


class ShieldConfig(_Section):
    """Everything about a shield that is not the robot, the policy or the mode table."""

    filter: FilterConfig = FilterConfig()
    drive: DriveConfig = DriveConfig()
    intake: IntakeConfig = IntakeConfig()
    policy: PolicyConfig = PolicyConfig()
    monitors: MonitorsConfig = MonitorsConfig()
    command_periods: int = Field(default=3, ge=1, description="control periods after which a command is void")
    start_ack_s: float = Field(
        default=1.0, gt=0.0, description="how long the acknowledgement that starts an episode waits"
    )
    jog_s: Positive = Field(default=0.1, description="how long a jog goes on without being asked for again")
    real_time: bool = Field(default=False, description="measured tick overruns are a cause; off in simulated time")
