"""The vocabulary inside the loop: frozen, slotted, with read-only arrays.

SI units, radians, nanoseconds for time stamps (monotonic, injected; see law 11).
``n`` is the number of joints that the robot model controls, in the model's order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from safeguard.core.action import ActionSpec as ActionSpec
from safeguard.core.enums import (
    Authority,
    Cause,
    Enforcement,
    FilterStatus,
    Frame,
    Level,
    Mode,
    NominalKind,
    SolverStatus,
)

Vector = NDArray[np.float64]
Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]

NS_PER_S = 1_000_000_000
_FLOAT = np.dtype(np.float64)


def frozen_array(values: ArrayLike) -> Vector:
    """A read-only float64 copy of ``values``; a read-only array that owns its data is returned as it is."""
    if type(values) is np.ndarray and values.dtype == _FLOAT:
        if not values.flags.writeable and values.base is None:
            return values
        array: Vector = values.copy()
    else:
        array = np.array(values, dtype=np.float64, order="C")
    array.setflags(write=False)
    return array


def sealed(own: Vector) -> Vector:
    """``own`` itself made read-only; for arrays that nobody else holds, where ``frozen_array`` would copy."""
    own.setflags(write=False)
    return own


def everywhere(flags: Flags) -> bool:
    """Whether all of ``flags`` hold; as ``flags.all()``, which takes four times as long where they are few."""
    return bool(np.count_nonzero(flags) == flags.size)


@dataclass(frozen=True, slots=True)
class RobotState:
    """Measured joint state.

    Attributes:
        q: configuration, shape (nq,), rad or m (unit quaternions for free joints).
        v: velocity in the tangent space, shape (n,), rad/s or m/s.
        t: time stamp of the measurement, ns, monotonic.
    """

    q: Vector
    v: Vector
    t: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "q", frozen_array(self.q))
        object.__setattr__(self, "v", frozen_array(self.v))


@dataclass(frozen=True, slots=True)
class Sensor:
    """One sensor part of an observation: ``value`` of any shape, stamped at ``t`` ns."""

    value: Vector
    t: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", frozen_array(self.value))


_NO_SENSORS: Mapping[str, Sensor] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Observation:
    """What sensors said, each part with its own time stamp.

    Attributes:
        state: measured joint state.
        sensors: further parts by name.
        instruction: what the robot was told, if anything.
        external_wrench: measured wrench at the tool, shape (6,), N and N·m, or None.
        estop: the emergency stop input is pressed.
        drive_status: free text of the drives, or None.
    """

    state: RobotState
    sensors: Mapping[str, Sensor] = field(default_factory=lambda: _NO_SENSORS)
    instruction: str | None = None
    external_wrench: Vector | None = None
    estop: bool = False
    drive_status: str | None = None

    def __post_init__(self) -> None:
        if self.external_wrench is not None:
            object.__setattr__(self, "external_wrench", frozen_array(self.external_wrench))


@dataclass(frozen=True, slots=True)
class Parts:
    """What a strategy of several parts says of them with a proposal; it holds until the next one.

    Attributes:
        failed: causes about its own parts, such as ``PLANNER_FAILED``; they can only make the mode worse.
        agreeing: capabilities of the mode table whose output agrees with their substitute's in shadow.
        substitutes: capabilities whose substitute is there.
    """

    failed: tuple[Cause, ...] = ()
    agreeing: tuple[str, ...] = ()
    substitutes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """One inference of a policy with its provenance: a chunk of future actions.

    Attributes:
        actions: shape (chunk, len(spec.joints)), in the unit of the policy's ``ActionSpec``.
            Row ``k`` is meant for ``t_obs + (k + 1) / rate_hz``.
        t_obs: time stamp of the observation it was computed from, ns.
        t_inferred: when the inference was done, ns.
        source: name of the policy.
        seq: increases by one with every inference of an episode.
        features: embedding for novelty monitors, or None.
        samples: further sampled chunks, shape (n_samples, chunk, joints), or None.
        parts: of a strategy that has several, or None.
    """

    actions: Vector
    t_obs: int
    t_inferred: int
    source: str
    seq: int
    features: Vector | None = None
    samples: Vector | None = None
    parts: Parts | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "actions", frozen_array(self.actions))
        if self.features is not None:
            object.__setattr__(self, "features", frozen_array(self.features))
        if self.samples is not None:
            object.__setattr__(self, "samples", frozen_array(self.samples))


@dataclass(frozen=True, slots=True)
class Nominal:
    """The joint motion that a proposal amounts to, after a controller translated it.

    Attributes:
        kind: how ``value`` is to be read.
        value: shape (n,), rad/s², N·m, rad/s or rad. For ``TWIST`` shape (6,): linear then angular velocity of the
            tool frame's origin, m/s and rad/s. For ``POSE`` the tool frame in the base frame: shape (7,), position
            (m) and unit quaternion x y z w, or a homogeneous transform of shape (4, 4). For ``ROWS`` joint positions
            to come, shape (k, n), rad.
        kp, kd: gains for ``POSITION``, shape (n,), N·m/rad and N·m·s/rad.
        frame: axes of a ``TWIST``.
    """

    kind: NominalKind
    value: Vector
    kp: Vector | None = None
    kd: Vector | None = None
    frame: Frame = Frame.BASE


@dataclass(frozen=True, slots=True)
class Envelope:
    """Limits that a mode puts on proposed motion, never on braking (law 4).

    Attributes:
        velocity: share of every joint's velocity limit, in (0, 1].
        acceleration: share of every joint's acceleration limit, in (0, 1].
        away: no joint that is near a limit may come nearer, and no links that are near one another, to first order.
    """

    velocity: float = 1.0
    acceleration: float = 1.0
    away: bool = False


FULL_ENVELOPE = Envelope()


@dataclass(frozen=True, slots=True)
class TorqueCommand:
    """Joint torques, shape (n,), N·m; void after ``expires`` (ns)."""

    tau: Vector
    t: int
    expires: int
    seq: int


@dataclass(frozen=True, slots=True)
class PositionCommand:
    """Joint position targets for servos, shape (n,), or rows of them, (k, n), rad; void after ``expires`` (ns)."""

    q: Vector
    t: int
    expires: int
    seq: int


@dataclass(frozen=True, slots=True)
class VelocityCommand:
    """Joint velocity targets, shape (n,), rad/s; void after ``expires`` (ns)."""

    v: Vector
    t: int
    expires: int
    seq: int


@dataclass(frozen=True, slots=True)
class PDCommand:
    """τ = kp (q − q_measured) + kd (v − v_measured) + tau_ff in the drive; void after ``expires`` (ns)."""

    q: Vector
    v: Vector
    kp: Vector
    kd: Vector
    tau_ff: Vector
    t: int
    expires: int
    seq: int


@dataclass(frozen=True, slots=True)
class TerminalStop:
    """The platform's last resort: for arms safe torque off with the brakes engaged. Never expires."""

    reason: str
    t: int
    seq: int


@dataclass(frozen=True, slots=True)
class JointLimits:
    """Limits of one joint as records show them; ``provenance`` says where each figure comes from."""

    joint: str
    lower: float
    upper: float
    velocity: float
    torque: float
    acceleration: float
    provenance: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BodyIdentity:
    """What a record says about a body.

    Attributes:
        name: of the robot or vehicle.
        digest: SHA-256 of everything of its model that affects a decision.
        source: how to build the model again, JSON-able; None if that is not possible.
        limits: of every joint.
        clearance: smallest self-collision distance that stops keep, m, or None.
    """

    name: str
    digest: str
    source: Mapping[str, object] | None
    limits: tuple[JointLimits, ...]
    clearance: float | None = None


Command = TorqueCommand | PositionCommand | VelocityCommand | PDCommand | TerminalStop


@dataclass(frozen=True, slots=True)
class Margins:
    """Distance to each kind of limit for the command of this tick; negative is a violation.

    Attributes:
        position: smallest distance of a joint to its position limit after the tick, rad.
        velocity: smallest distance of a joint speed to its limit after the tick, rad/s.
        torque: smallest distance of a joint torque to its limit, N·m.
        clearance: smallest signed distance over all kept collision pairs now, m.
        nearest: the pair with that clearance, ``"link_a|link_b"``.
    """

    position: float
    velocity: float
    torque: float
    clearance: float
    nearest: str


@dataclass(frozen=True, slots=True)
class FilterResult:
    """What the safety filter made of a nominal.

    Attributes:
        torque: shape (n,), N·m.
        acceleration: shape (n,), rad/s², the predicted joint acceleration.
        status: how it came about.
        solver: what the QP solver reported.
        source: ``"proposal"``, ``"qp"``, ``"backup"`` or ``"terminal_stop"``.
        slack: (row name, amount) of every relaxed row; the amount in the row's unit.
        active: names of the rows that bind.
        margins: distances to the limits.
        effort: ‖(a − a_nominal) / a_max‖₂, dimensionless; 0 for an unchanged proposal.
        iterations: of the QP solver.
        stuck: a moving proposal is being answered with standstill.
        provisional: no certificate backs the braking figures; they are verified tick by tick only.
        refusal: why the checker refused, or "".
        position, velocity: the reference at the end of the period, shape (n,), rad and rad/s: what position drives
            are told. None where torques are. Where rows are told, ``position`` has shape (k, n).
    """

    torque: Vector
    acceleration: Vector
    status: FilterStatus
    solver: SolverStatus
    source: str
    slack: tuple[tuple[str, float], ...]
    active: tuple[str, ...]
    margins: Margins
    effort: float
    iterations: int = 0
    stuck: bool = False
    provisional: bool = True
    refusal: str = ""
    position: Vector | None = None
    velocity: Vector | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """A monitor's evidence boiled down to one number; larger is worse. ``detail`` says what dominates."""

    value: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One monitor's statement about one tick.

    Attributes:
        monitor: its stable name.
        level: what it says.
        score, threshold: alarm when ``score > threshold``; NaN where a check is yes or no.
        p_value: running conformal p-value of the episode, or None.
        cause: the cause that this verdict activates, or None.
        detail: what was seen, in words.
    """

    monitor: str
    level: Level
    score: float
    threshold: float
    p_value: float | None = None
    cause: Cause | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Timings:
    """Measured durations of the stages of one tick, ns. Evidence for the next tick, never for this one."""

    intake: int = 0
    policy: int = 0
    controller: int = 0
    monitors: int = 0
    modes: int = 0
    filter: int = 0
    record: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """One tick's outcome.

    Attributes:
        command: what the actuators get.
        mode: mode after this tick's causes.
        causes: every active cause.
        reasons: ids of the mode-table rows that fired.
        authority: who moved the body.
        verdicts: what every monitor said.
        filter: what the safety filter did; under ``MONITOR_ONLY`` what it would have done.
        source: who made the command: ``filter.source`` where the shield enforces, ``"proposal"`` where it does not.
        timings: measured durations.
        tick, episode: counters from 0.
        enforcement: whether the shield enforced.
        configuration: which degraded configuration of the strategy, "" in every other mode.
    """

    command: Command
    mode: Mode
    causes: tuple[Cause, ...]
    reasons: tuple[str, ...]
    authority: Authority
    verdicts: tuple[Verdict, ...]
    filter: FilterResult
    source: str
    timings: Timings
    tick: int
    episode: int
    enforcement: Enforcement = Enforcement.FULL
    configuration: str = ""

    @property
    def margins(self) -> Margins:
        """Distances to the limits, from the filter result."""
        return self.filter.margins


@dataclass(frozen=True, slots=True)
class Evidence:
    """What monitors may look at in one tick.

    Attributes:
        observation: this tick's observation.
        now: the tick's time, ns.
        proposal: the proposal that arrived this tick, or None.
        current: the accepted proposal that the controller follows, or None.
        previous: the previous decision of the episode, or None.
        residual: measured minus predicted joint velocity of the previous tick, shape (n,), or None.
    """

    observation: Observation
    now: int
    proposal: Proposal | None = None
    current: Proposal | None = None
    previous: Decision | None = None
    residual: Vector | None = None
