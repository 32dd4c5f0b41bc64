"""What users bring: one verb each."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from safeguard.core.types import (
    ActionSpec,
    BodyIdentity,
    Command,
    Envelope,
    Evidence,
    FilterResult,
    Nominal,
    Observation,
    Proposal,
    RobotState,
    Score,
    Vector,
)


@runtime_checkable
class Policy(Protocol):
    """Something that proposes actions. It is a guest (law 12)."""

    @property
    def spec(self) -> ActionSpec:
        """What its numbers mean."""
        ...

    def infer(self, observation: Observation) -> Proposal:
        """One inference. May be wrong, late or non-finite; the shield copes."""
        ...

    def reset(self) -> None:
        """Forget the episode."""
        ...


class PolicyPort(Protocol):
    """How the shield talks to a policy without waiting for it."""

    @property
    def spec(self) -> ActionSpec:
        """What the policy's numbers mean."""
        ...

    def post(self, observation: Observation, now: int) -> None:
        """Offer an observation at ``now`` ns; starts at most one inference per policy period."""
        ...

    def poll(self, now: int) -> Proposal | None:
        """The proposal that has arrived by ``now`` ns and was not handed out before, or None."""
        ...

    def reset(self) -> None:
        """Forget the episode and everything in flight."""
        ...


class Controller(Protocol):
    """Translates a proposal into joint motion."""

    def nominal(self, proposal: Proposal, state: RobotState, now: int) -> Nominal:
        """The motion that ``proposal`` asks for at ``now`` ns from ``state``."""
        ...

    def reset(self) -> None:
        """Forget the episode."""
        ...


class Monitor(Protocol):
    """Evidence to score. Calibration turns scores into verdicts."""

    @property
    def name(self) -> str:
        """Stable name, written to records."""
        ...

    def score(self, evidence: Evidence) -> Score:
        """A number that is larger the worse it looks; deterministic in the episode's evidence."""
        ...

    def reset(self) -> None:
        """Start a new episode."""
        ...


class Platform(Protocol):
    """A kind of body. The tick is generic over it."""

    @property
    def guarantee(self) -> str:
        """``"braking"`` or ``"bounded"``."""
        ...

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the controlled joints, in order."""
        ...

    @property
    def v_max(self) -> Vector:
        """Speed limits, shape (n,), rad/s."""
        ...

    @property
    def a_max(self) -> Vector:
        """Acceleration limits, shape (n,), rad/s²."""
        ...

    @property
    def rest(self) -> RobotState:
        """A state at rest from which the body may move; start-up checks use it."""
        ...

    def planned(self, state: RobotState) -> RobotState:
        """The state that motion is planned from: the measured one, or what position drives were told last."""
        ...

    def filter(self, state: RobotState, nominal: Nominal, envelope: Envelope) -> FilterResult:
        """The closest allowed motion; commits it together with a verified backup (law 3)."""
        ...

    def backup(self, state: RobotState | None) -> FilterResult:
        """The stored backup's tracking law at the measured state, checked; feed-forward without a state."""
        ...

    def stopped(self, reason: str) -> FilterResult:
        """The result of a tick in which nobody has authority: the terminal stop."""
        ...

    def bypass(self, state: RobotState, nominal: Nominal | None) -> FilterResult:
        """The nominal unfiltered, or standing still without one; for runs without enforcement, outside law 1."""
        ...

    def command(self, result: FilterResult, now: int, expires: int, seq: int) -> Command:
        """What the actuators get for ``result``."""
        ...

    def terminal_stop(self, reason: str, now: int, seq: int) -> Command:
        """The last resort. Mandatory, no default."""
        ...

    def plausible(self, state: RobotState) -> str | None:
        """Why ``state`` cannot be a measurement of this body (shape, non-finite, far outside), or None."""
        ...

    def standstill(self, state: RobotState) -> bool:
        """Every joint speed is under its standstill threshold."""
        ...

    def reset(self, state: RobotState | None = None) -> str:
        """Forget the episode; with a state, the backup is the stop from there. Why that is not verified, or ""."""
        ...

    def identity(self) -> BodyIdentity:
        """What records say about the body."""
        ...
