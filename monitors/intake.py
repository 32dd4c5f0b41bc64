"""What comes in from outside, checked before anything else touches it (law 5: missing is alarm).

Deterministic in the sequence of calls. Every check yields one verdict, every tick; the verdicts on a proposal
stand until the next proposal arrives, so that a bad output stays active for as long as it is the newest one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from safeguard.core.config import IntakeConfig
from safeguard.core.enums import Cause, Reference
from safeguard.core.errors import ConfigError
from safeguard.core.types import (
    NS_PER_S,
    ActionSpec,
    JointLimits,
    Observation,
    Proposal,
    RobotState,
    Vector,
    Verdict,
    frozen_array,
)
from safeguard.monitors.verdicts import failed, passed

Verdicts: TypeAlias = tuple[Verdict, ...]

CLOCK: Final = passed("intake.clock")
ESTOP: Final = passed("intake.estop")
STATE: Final = passed("intake.state")
AGE: Final = passed("intake.age")
ORDER: Final = passed("intake.order")
JUMP: Final = passed("intake.jump")
PROPOSAL: Final = passed("intake.proposal")
PROPOSAL_AGE: Final = passed("intake.proposal_age")
PROPOSAL_ORDER: Final = passed("intake.proposal_order")
REPETITION: Final = passed("intake.repetition")

_BEYOND_ANY_UNIT: Final = 1e9  # no joint, pose or torque is so large; squares of it still fit a float
_HELD: Final = (Reference.VELOCITY, Reference.TORQUE)  # a stick that is held, or let go, says the same thing again
_RANGES_BEYOND: Final = 2.0  # joint ranges by which a target may miss it and still be the filter's to correct
_TIMES_BEYOND: Final = 10.0  # the limit of speed or torque, likewise

_OBSERVED: Final[Verdicts] = (CLOCK, ESTOP, STATE, AGE, ORDER, JUMP)
_RECEIVED: Final[Verdicts] = (PROPOSAL, PROPOSAL_AGE, PROPOSAL_ORDER, REPETITION)


@dataclass(slots=True)
class _Stream:
    """What the newest proposal of a source is compared with."""

    seq: int | None = None
    t_obs: int | None = None
    actions: Vector | None = None
    at: Vector | None = None  # joint positions that the newest chunk was computed from
    standing: Verdicts = ()


class Intake:
    """Checks observations and proposals. Bounded memory: a ring of recent joint positions.

    Args:
        joints: names of the controlled joints, in the order of ``q`` and ``v``.
        period: control period, s.
        config: limits of the checks.
        velocity: velocity limit of every joint, shape (n,), rad/s or m/s.
        limits: of every joint; with them proposals far beyond a joint's limits are refused, in which a unit or a
            normalisation must be wrong.
    """

    def __init__(
        self,
        joints: Sequence[str],
        period: float,
        config: IntakeConfig | None = None,
        *,
        velocity: ArrayLike,
        limits: Sequence[JointLimits] = (),
    ) -> None:
        self._reach = _reaches(limits)
        checks = config or IntakeConfig()
        self._joints = tuple(joints)
        self._shape = (len(self._joints),)
        self._velocity = frozen_array(velocity)
        if self._velocity.shape != self._shape or not (self._velocity > 0.0).all():
            raise ConfigError(f"Intake needs one positive velocity limit for each of {self._joints}, got {velocity!r}")
        if not period > 0.0:
            raise ConfigError(f"Intake needs a period > 0 s, got {period!r}")
        self._config = checks
        self._max_age = round(checks.max_age_s * NS_PER_S)
        self._future = round(checks.future_s * NS_PER_S)
        self._proposal_max_age = round(checks.proposal_max_age_s * NS_PER_S)
        self._speed = frozen_array(self._velocity * (checks.jump_factor / NS_PER_S))
        ring = math.ceil(checks.proposal_max_age_s / period) + 2
        self._history: deque[tuple[int, Vector]] = deque(maxlen=ring)
        self.reset()

    def reset(self) -> None:
        """Forget the episode."""
        self._now: int | None = None
        self._last: RobotState | None = None
        self._newest = -1  # newest plausible stamp
        self._history.clear()
        self._streams: dict[str, _Stream] = {}

    def handed(self, source: str) -> None:
        """``source`` gets the command: others have moved the joints meanwhile, so its chunks are compared anew."""
        stream = self._streams.get(source)
        if stream is not None:
            stream.actions = stream.at = None

    def observe(self, observation: Observation | None, now: int) -> Verdicts:
        """Verdicts on this tick's observation at ``now`` ns; None is a missing one. Call it once a tick."""
        clock = self._clock(now)
        if observation is None:
            missing = failed("intake.age", Cause.STATE_STALE, "no observation in this tick")
            return (clock, ESTOP, STATE, missing, ORDER, JUMP)
        estop = ESTOP
        if observation.estop:
            estop = failed("intake.estop", Cause.ESTOP, "the emergency stop input is pressed")
        state = observation.state
        form = self._form(state)
        if form is not STATE:
            return (clock, estop, form, AGE, ORDER, JUMP)
        age = self._age(state.t, now)
        order = self._order(state.t)
        jump = JUMP
        if order is ORDER and state.t <= now + self._future and state.t != self._newest:
            jump = self._jump(state)
            self._newest = state.t
            self._last = state
            self._history.append((state.t, state.q))
        if age is AGE and clock is CLOCK and estop is ESTOP and order is ORDER and jump is JUMP:
            return _OBSERVED
        return (clock, estop, STATE, age, order, jump)

    def receive(
        self, proposal: object, spec: ActionSpec, now: int, observation: Observation | None, source: str = ""
    ) -> Verdicts:
        """Verdicts on the newest proposal at ``now`` ns. Call it every tick, after ``observe``.

        None means that nothing arrived: the verdicts on the last one stand. Before the first there are none.
        A proposal may be used when none of its verdicts has a cause. Proposals of different sources are not compared.
        """
        stream = self._streams.get(source)
        if stream is None:
            stream = self._streams[source] = _Stream()
        if proposal is None:
            return stream.standing
        form = _proposal_form(proposal, spec, self._reach.get(spec.reference))
        if form is not PROPOSAL or not isinstance(proposal, Proposal):
            stream.standing = (form, PROPOSAL_AGE, PROPOSAL_ORDER, REPETITION)
            return stream.standing
        age = self._proposal_age(proposal.t_obs, now)
        order = self._proposal_order(stream, proposal, now)
        held = spec.chunk == 1 and spec.reference in _HELD
        repetition = REPETITION if held else self._repetition(stream, proposal, observation)
        stream.standing = (PROPOSAL, age, order, repetition)
        return stream.standing

    def _clock(self, now: int) -> Verdict:
        last = self._now
        self._now = now if last is None else max(last, now)
        if last is None or now > last:
            return CLOCK
        behind = (last - now) / NS_PER_S
        detail = f"the tick's time {now} ns is not after {last} ns; it must advance"
        return failed("intake.clock", Cause.CLOCK_BACKWARDS, detail, behind, 0.0)

    def _form(self, state: RobotState) -> Verdict:
        """Shape first, because a finite check of the wrong numbers says nothing; then every number."""
        for name, values in (("q", state.q), ("v", state.v)):
            if values.shape != self._shape:
                detail = f"{name} has shape {values.shape}, expected {self._shape}"
                return failed("intake.state", Cause.STATE_INVALID, detail)
            if not np.isfinite(values).all():
                index = int(np.argmin(np.isfinite(values)))
                detail = f"{name} of {self._joints[index]} is {values[index]}, expected a finite number"
                return failed("intake.state", Cause.STATE_INVALID, detail)
        return STATE

    def _age(self, t: int, now: int) -> Verdict:
        """Too old, from the future, or the same stamp twice."""
        age = now - t
        if age > self._max_age:
            detail = f"state is {age / NS_PER_S:g} s old, limit {self._config.max_age_s:g} s"
        elif -age > self._future:
            detail = f"state is {-age / NS_PER_S:g} s in the future, limit {self._config.future_s:g} s"
        elif t == self._newest:
            detail = f"state with the stamp {t} ns came twice"
        else:
            return AGE
        return failed("intake.age", Cause.STATE_STALE, detail, age / NS_PER_S, self._max_age / NS_PER_S)

    def _order(self, t: int) -> Verdict:
        if t >= self._newest:
            return ORDER
        detail = f"state stamp {t} ns is before {self._newest} ns"
        return failed("intake.order", Cause.STATE_ORDER, detail, (self._newest - t) / NS_PER_S, 0.0)

    def _jump(self, state: RobotState) -> Verdict:
        """|Δq| ≤ v_max·Δt·factor + tolerance, joint by joint."""
        last = self._last
        if last is None:
            return JUMP
        with np.errstate(over="ignore"):
            moved = np.abs(state.q - last.q)
        allowed = self._speed * (state.t - last.t) + self._config.jump_tolerance
        over = moved > allowed
        if not over.any():
            return JUMP
        worst = int(np.argmax(moved - allowed))
        detail = (
            f"{self._joints[worst]} moved {moved[worst]:g} in {(state.t - last.t) / NS_PER_S:g} s,"
            f" limit {allowed[worst]:g}"
        )
        return failed("intake.jump", Cause.STATE_JUMP, detail, float(moved[worst]), float(allowed[worst]))

    def _proposal_age(self, t_obs: int, now: int) -> Verdict:
        age = now - t_obs
        if age > self._proposal_max_age:
            limit = self._config.proposal_max_age_s
            detail = f"computed from an observation {age / NS_PER_S:g} s old, limit {limit:g} s"
            return failed("intake.proposal_age", Cause.POLICY_LATE, detail, age / NS_PER_S, limit)
        if -age > self._future:
            detail = f"computed from an observation {-age / NS_PER_S:g} s in the future"
            limit = self._config.future_s
            return failed("intake.proposal_age", Cause.PROPOSAL_INVALID, detail, -age / NS_PER_S, limit)
        return PROPOSAL_AGE

    def _proposal_order(self, stream: _Stream, proposal: Proposal, now: int) -> Verdict:
        """Sequence number and observation time increase; stamps from the future are not remembered."""
        seq, t_obs = stream.seq, stream.t_obs
        if proposal.t_obs <= now + self._future:
            stream.seq = proposal.seq if seq is None else max(seq, proposal.seq)
            stream.t_obs = proposal.t_obs if t_obs is None else max(t_obs, proposal.t_obs)
        if seq is not None and proposal.seq <= seq:
            detail = f"sequence number {proposal.seq} is not after {seq}"
            return failed("intake.proposal_order", Cause.PROPOSAL_ORDER, detail, proposal.seq, seq)
        if t_obs is not None and proposal.t_obs <= t_obs:
            detail = f"observation time {proposal.t_obs} ns is not after {t_obs} ns"
            return failed("intake.proposal_order", Cause.PROPOSAL_ORDER, detail)
        return PROPOSAL_ORDER

    def _repetition(self, stream: _Stream, proposal: Proposal, observation: Observation | None) -> Verdict:
        """Bit-identical to the chunk before, accepted or not, although the joints moved in between."""
        before, at_before = stream.actions, stream.at
        at = self._position_at(proposal.t_obs, observation)
        same = before is not None and before.tobytes() == proposal.actions.tobytes()
        stream.actions = proposal.actions
        if not same or at_before is None:
            stream.at = at  # a run of equal chunks is compared with where it began, so creeping counts
            return REPETITION
        if at is None:
            return REPETITION
        with np.errstate(over="ignore"):
            moved = float(np.abs(at - at_before).max())
        limit = self._config.repeat_tolerance
        if moved <= limit:
            return REPETITION
        detail = f"chunk {proposal.seq} repeats the one before although a joint moved {moved:g}, limit {limit:g}"
        return failed("intake.repetition", Cause.PROPOSAL_REPEATED, detail, moved, limit)

    def _position_at(self, t: int, observation: Observation | None) -> Vector | None:
        """Joint positions of the newest good state not after ``t``; the oldest one where all are later."""
        for stamp, q in reversed(self._history):
            if stamp <= t:
                return q
        if self._history:
            return self._history[0][1]
        if observation is not None and self._form(observation.state) is STATE:
            return observation.state.q
        return None


def _reaches(limits: Sequence[JointLimits]) -> dict[Reference, tuple[Vector, Vector]]:
    """Between what a proposal of each kind may ask for, shape (n,): a clear excess is no wish but a mistake."""
    if not limits:
        return {}
    low, high, speed, torque = (
        np.array([getattr(joint, name) for joint in limits]) for name in ("lower", "upper", "velocity", "torque")
    )
    beyond = _RANGES_BEYOND * (high - low)
    places = frozen_array(low - beyond), frozen_array(high + beyond)
    fast, strong = (frozen_array(_TIMES_BEYOND * most) for most in (speed, torque))
    return {
        Reference.ABSOLUTE: places,
        Reference.PD_TARGET: places,
        Reference.VELOCITY: (frozen_array(-fast), fast),
        Reference.TORQUE: (frozen_array(-strong), strong),
    }


def _proposal_form(proposal: object, spec: ActionSpec, reach: tuple[Vector, Vector] | None) -> Verdict:
    """Type, shape, finiteness and reach, before any number of it is used."""
    if not isinstance(proposal, Proposal):
        return _invalid(f"got {type(proposal).__name__}, expected a Proposal")
    expected = (spec.chunk, len(spec.joints))
    if proposal.actions.shape != expected:
        return _invalid(f"actions have shape {proposal.actions.shape}, expected {expected}, from {proposal.source!r}")
    parts = (("actions", proposal.actions), ("features", proposal.features), ("samples", proposal.samples))
    for name, values in parts:
        if values is not None and not np.isfinite(values).all():
            bad = int(values.size - np.isfinite(values).sum())
            return _invalid(f"{bad} of {values.size} numbers in {name} are not finite")
    largest = float(np.abs(proposal.actions).max(initial=0.0))
    if largest > _BEYOND_ANY_UNIT:
        return _invalid(f"an action of {largest:g} is beyond any unit, limit {_BEYOND_ANY_UNIT:g}")
    for name, stamp in (("t_obs", proposal.t_obs), ("seq", proposal.seq)):
        if not _is_integer(stamp):
            return _invalid(f"{name} is {stamp!r}, expected an integer")
    return PROPOSAL if reach is None else _within_reach(proposal.actions, spec, *reach)


def _within_reach(actions: Vector, spec: ActionSpec, low: Vector, high: Vector) -> Verdict:
    if low.shape != actions.shape[1:] or ((actions >= low) & (actions <= high)).all():
        return PROPOSAL
    row, column = np.argwhere((actions < low) | (actions > high))[0]
    return _invalid(
        f"{spec.joints[column]} is to be at {actions[row, column]:g} {spec.units[column]} in row {row}, far outside"
        f" {low[column]:g} to {high[column]:g}: is the unit or the normalisation wrong?"
    )


def _is_integer(value: object) -> bool:
    """Guests may hand over anything, whatever the annotation says."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _invalid(detail: str) -> Verdict:
    return failed("intake.proposal", Cause.PROPOSAL_INVALID, detail)
