"""The fault library: timed disturbances of a policy or a body, each with proof that it was really active.

A fault overrides one of four hooks: ``see`` (what the policy gets), ``emit`` (what it answers), ``delay`` (when) or
``deliver`` (what the drives make of a command). The wrappers in ``inject`` count how often a hook changed something: a
requested fault is not yet an active one. Severity 0 is the no-op twin: same wiring, same random stream, no effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Generic, TypeVar, cast

import numpy as np
from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from pydantic_core import ErrorDetails

from safeguard.core.enums import Reference
from safeguard.core.errors import ConfigError, UnknownNameError
from safeguard.core.robot import RobotModel
from safeguard.core.types import (
    NS_PER_S,
    ActionSpec,
    Command,
    Observation,
    Proposal,
    RobotState,
    Sensor,
    TorqueCommand,
    Vector,
)
from safeguard.scenarios import streams
from safeguard.scenarios.fault_params import (
    DriveToCollisionParams,
    DriveToLimitsParams,
    FaultParams,
    FreezeParams,
    HangParams,
    LatencyParams,
    NanParams,
    TorqueLossParams,
    TorqueSpikesParams,
)

P = TypeVar("P", bound=FaultParams)


@dataclass(frozen=True, slots=True)
class Activity:
    """Evidence that a fault was really active.

    Attributes:
        count: how often what came out differed from what went in.
        largest: largest difference, in the unit of what was changed; NaN counts as infinite.
        first: when it was first seen, ns, or None.
    """

    count: int = 0
    largest: float = 0.0
    first: int | None = None

    def plus(self, size: float, now: int) -> Activity:
        """With one more difference of ``size`` at ``now``."""
        return Activity(self.count + 1, max(self.largest, size), now if self.first is None else self.first)


class Fault(Generic[P]):
    """A disturbance with a trigger and evidence. Subclasses override one hook.

    Args:
        params: what it was told.
        robot: whose limits it may aim at.
        spec: what the policy's numbers mean.
        rng: its own random stream.
    """

    effect: ClassVar[str] = ""
    """In words, for reports."""

    def __init__(self, params: P, robot: RobotModel, spec: ActionSpec, rng: np.random.Generator) -> None:
        self.params, self.robot, self.spec, self.rng = params, robot, spec, rng
        self.active = False
        self.since = 0
        self.activity = Activity()

    @property
    def acts(self) -> bool:
        """Active and not the no-op twin."""
        return self.active and self.params.severity > 0

    @property
    def end(self) -> float:
        """When it clears, ns; infinite if never."""
        return math.inf if self.params.duration_s is None else self.start + self.params.duration_s * NS_PER_S

    @property
    def start(self) -> int:
        """Its onset, ns after the episode's start."""
        return round(self.params.start_s * NS_PER_S)

    def activate(self, now: int) -> None:
        """Take effect from ``now`` on."""
        self.active, self.since = True, now

    def clear(self) -> None:
        """End every effect. Allowed at any time, any number of times."""
        self.active = False

    def see(self, observation: Observation) -> Observation:
        """What the policy gets in place of ``observation``."""
        return observation

    def emit(self, proposal: Proposal, observation: Observation) -> Proposal:
        """What leaves the policy in place of ``proposal``; ``observation`` is the true one."""
        return proposal

    def delay(self, now: int) -> float:
        """Additional latency of an inference started at ``now``, s."""
        return 0.0

    def deliver(self, command: Command) -> Command:
        """What the drives carry out in place of ``command``."""
        return command

    def known(self, observation: Observation) -> int:
        """Time of the newest information in what the policy gets for ``observation``, ns."""
        return observation.state.t


class _Ramp(Fault[P]):
    """Targets leave the arm's place at the onset in a straight line towards a goal."""

    def activate(self, now: int) -> None:
        """Start the ramp where the next observation finds the arm."""
        super().activate(now)
        self._origin: Vector | None = None

    def ramp(self, proposal: Proposal, observation: Observation, goal: Mapping[str, float], speed: float) -> Proposal:
        """``proposal`` with the joints of ``goal`` (rad) on the ramp, the fastest at ``speed`` rad/s."""
        columns = np.array([self.spec.joints.index(joint) for joint in goal])
        if self._origin is None:
            order = [self.robot.joints.index(joint) for joint in goal]
            self._origin, self._left = observation.state.q[order], observation.state.t
        away = np.array(list(goal.values())) - self._origin
        rows = np.array(proposal.actions)
        times = (proposal.t_obs - self._left) / NS_PER_S + np.arange(1, len(rows) + 1) / self.spec.rate_hz
        share = np.clip(times * speed / max(float(np.abs(away).max()), 1e-9), 0.0, 1.0)
        rows[:, columns] = self._origin + share[:, None] * away
        return replace(proposal, actions=rows)


class DriveToLimits(_Ramp[DriveToLimitsParams]):
    """Policy output driven into joint limits."""

    effect = "policy output driven into joint limits"

    def __init__(
        self, params: DriveToLimitsParams, robot: RobotModel, spec: ActionSpec, rng: np.random.Generator
    ) -> None:
        super().__init__(params, robot, spec, rng)
        _needs_positions(params, spec, robot, params.joints)
        far, limits = params.beyond_rad * params.scale, robot.limits
        self._goal = {
            joint: float(limits.q_max[i] + far if side == "upper" else limits.q_min[i] - far)
            for joint, side in params.joints.items()
            for i in [robot.joints.index(joint)]
        }

    def emit(self, proposal: Proposal, observation: Observation) -> Proposal:
        """The chunk with the chosen joints on their way past the limit."""
        return self.ramp(proposal, observation, self._goal, self.params.ramp_radps)


class DriveToCollision(_Ramp[DriveToCollisionParams]):
    """Policy output driven into self-collision."""

    effect = "policy output driven into self-collision"

    def __init__(
        self, params: DriveToCollisionParams, robot: RobotModel, spec: ActionSpec, rng: np.random.Generator
    ) -> None:
        super().__init__(params, robot, spec, rng)
        _needs_positions(params, spec, robot, params.q_rad)
        for joint, q in params.q_rad.items():
            i = robot.joints.index(joint)
            low, high = float(robot.limits.q_min[i]), float(robot.limits.q_max[i])
            if not low <= q <= high:
                raise ConfigError(
                    f"fault {params.label!r}: q_rad of {joint} is {q}, outside its limits [{low}, {high}]; "
                    "use policy.drive_to_limits for that"
                )

    def emit(self, proposal: Proposal, observation: Observation) -> Proposal:
        """The chunk on its way to the colliding configuration."""
        return self.ramp(proposal, observation, self.params.q_rad, self.params.ramp_radps * self.params.scale)


class TorqueSpikes(Fault[TorqueSpikesParams]):
    """Single rows of a chunk jump; tracking turns them into torque spikes."""

    effect = "torque spikes from jumping targets"

    def emit(self, proposal: Proposal, observation: Observation) -> Proposal:
        """The chunk with some rows off by the jump."""
        shape = proposal.actions.shape
        hit = self.rng.random((shape[0], 1)) < self.params.share
        sign = self.rng.choice([-1.0, 1.0], size=shape)
        jump = self.params.jump_rad * self.params.scale
        return replace(proposal, actions=proposal.actions + hit * sign * jump)


class Nan(Fault[NanParams]):
    """Numbers of a chunk are NaN."""

    effect = "NaN in the policy output"

    def emit(self, proposal: Proposal, observation: Observation) -> Proposal:
        """The chunk with some of its numbers gone."""
        rows = np.array(proposal.actions)
        count = min(max(round(self.params.share * self.params.scale * rows.size), 1), rows.size)
        rows.flat[self.rng.choice(rows.size, size=count, replace=False)] = np.nan
        return replace(proposal, actions=rows)


class Hang(Fault[HangParams]):
    """The policy does not answer."""

    effect = "policy hangs"

    def delay(self, now: int) -> float:
        """Until the fault clears."""
        return max(self.end - now, 0.0) / NS_PER_S


class Latency(Fault[LatencyParams]):
    """The policy answers late."""

    effect = "policy answers late"

    def delay(self, now: int) -> float:
        """The additional latency."""
        return self.params.extra_s * self.params.scale


class Freeze(Fault[FreezeParams]):
    """The policy's input stands still while its time stamps go on."""

    effect = "policy observation frozen"

    def activate(self, now: int) -> None:
        """Hold the next observation."""
        super().activate(now)
        self._held: Observation | None = None

    def see(self, observation: Observation) -> Observation:
        """The observation of the onset, stamped as the present one."""
        held = self._held = self._held or observation
        stamps = observation.sensors
        return replace(
            held,
            state=RobotState(held.state.q, held.state.v, observation.state.t),
            sensors={
                name: Sensor(part.value, stamps[name].t if name in stamps else part.t)
                for name, part in held.sensors.items()
            },
        )

    def known(self, observation: Observation) -> int:
        """The time of the onset."""
        return observation.state.t if self._held is None else self._held.state.t


class TorqueLoss(Fault[TorqueLossParams]):
    """The body is weaker than its model: outside the assumptions of the guarantees."""

    effect = "drives deliver less torque"

    def deliver(self, command: Command) -> Command:
        """The command with its torque scaled down."""
        if not isinstance(command, TorqueCommand):
            return command
        return replace(command, tau=(1.0 - self.params.loss * self.params.scale) * command.tau)


@dataclass(frozen=True, slots=True)
class Entry:
    """A fault of the library: what it is told, and how it is built."""

    params: type[FaultParams]
    build: Callable[..., Fault[FaultParams]]
    effect: str


def _entry(params: type[P], fault: type[Fault[P]]) -> Entry:
    return Entry(params, fault, fault.effect)  # type: ignore[arg-type]  # params are checked against `params`


FAULTS: Mapping[str, Entry] = {
    "policy.drive_to_limits": _entry(DriveToLimitsParams, DriveToLimits),
    "policy.drive_to_collision": _entry(DriveToCollisionParams, DriveToCollision),
    "policy.torque_spikes": _entry(TorqueSpikesParams, TorqueSpikes),
    "policy.nan": _entry(NanParams, Nan),
    "compute.hang": _entry(HangParams, Hang),
    "compute.latency": _entry(LatencyParams, Latency),
    "sensor.freeze": _entry(FreezeParams, Freeze),
    "plant.torque_loss": _entry(TorqueLossParams, TorqueLoss),
}
"""The library: every kind that a scenario can name."""


def parse(value: object) -> FaultParams:
    """Parameters of the kind that ``value`` names; ``ValueError`` lists the kinds that exist."""
    if isinstance(value, FaultParams):
        return value
    known = ", ".join(FAULTS)
    if not isinstance(value, Mapping):
        raise ValueError(f"a fault is a mapping with the key 'kind'; known: {known}")
    entry = {str(key): item for key, item in cast("Mapping[object, object]", value).items()}
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in FAULTS:
        raise ValueError(f"unknown fault {kind!r} under 'kind'; known: {known}")
    model = FAULTS[kind].params
    try:
        return model.model_validate(entry)
    except ValidationError as error:
        raise ValueError("; ".join(_explain(item, model) for item in error.errors())) from error


def _explain(item: ErrorDetails, model: type[FaultParams]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown key {key!r}; known: {', '.join(sorted(model.model_fields))}"
    shown = "" if item["type"] == "missing" else f" = {item['input']!r}"
    return f"{key}{shown}: {item['msg']}"


FaultEntry = Annotated[SerializeAsAny[FaultParams], BeforeValidator(parse)]
"""A fault in a configuration, of any kind of the library."""


def build(
    params: FaultParams, robot: RobotModel, spec: ActionSpec, *, campaign: int, episode: int
) -> Fault[FaultParams]:
    """The fault for ``params``, with the random stream of its name in this episode.

    Raises:
        ConfigError: it cannot act on a policy of this specification.
        UnknownNameError: it names a joint that the policy does not move.
    """
    rng = streams.stream(campaign, episode, f"fault:{params.label}")
    return FAULTS[params.kind].build(params, robot, spec, rng)


def _needs_positions(params: FaultParams, spec: ActionSpec, robot: RobotModel, joints: Mapping[str, object]) -> None:
    if spec.reference is not Reference.ABSOLUTE or spec.unit != "rad":
        raise ConfigError(
            f"fault {params.label!r} replaces absolute joint positions in rad, the policy proposes "
            f"{spec.reference.value} in {spec.unit!r}; choose another fault or policy"
        )
    for joint in joints:
        if joint not in spec.joints or joint not in robot.joints:
            raise UnknownNameError("joint", joint, spec.joints, f"fault {params.label!r}")
