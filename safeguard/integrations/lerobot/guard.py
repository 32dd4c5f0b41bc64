"""One row of a LeRobot action through the shield: what the robot wrapper and the processor step share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from safeguard.audit import AuditConfig
from safeguard.audit.journal.journal import Journal
from safeguard.core.action import POSITION_UNITS, ActionSpec
from safeguard.core.config import ShieldConfig
from safeguard.core.enums import Authority, Cause
from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S, Decision, Vector
from safeguard.integrations.gate import ChunkGate, GateAnswer
from safeguard.integrations.lerobot.numbers import SUFFIX, action_row, number, plain, positions

_REFUSED: Final = frozenset({Cause.PROPOSAL_INVALID, Cause.PROPOSAL_REPEATED, Cause.PROPOSAL_ORDER})
_LEEWAY: Final = 0.05  # share of its range by which a gripper's number may miss the ends, which it then is
_TRACKING_ERROR: Final = 0.1  # rad; sag and lag of hobby servos with the gains that LeRobot sets
_ROW_SHARE: Final = 0.6  # of it that a row may take up
_NEVER: Final = 1e6  # rad; no joint moves so far
_DEFAULT_RANGE: Final = (0.0, 100.0)

Action = dict[str, float]


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one action.

    Attributes:
        raw: what was asked for, as it came; a copy if it was a mapping that can be read.
        sent: what the motors were told, by key; empty where nothing was sent, because neither a measurement nor
            anything told before says where to hold.
        decision: of the shield.
        refusal: why the action could not be used as it came, or "".
    """

    raw: object
    sent: Mapping[str, float]
    decision: Decision
    refusal: str = ""

    @property
    def changed(self) -> bool:
        """Something else was sent than was asked for."""
        raw = plain(self.raw)
        if raw is None or set(raw) != set(self.sent):
            return True
        return any(number(raw[key]) != value for key, value in self.sent.items())


class ActionGuard:
    """Turns actions into what may be sent, one at a time.

    Args:
        model: of the arm.
        spec: what the numbers mean: absolute positions, one row.
        keys: of the columns, in order; ``"<column>.pos"`` if None.
        ranges: of the columns that are no joints, by column: what may be passed on; 0..100 for every other.
        max_age_s: oldest observation that an action may have been computed from; the shield's
            ``intake.proposal_max_age_s`` if None.
        strategy, audit, clock: of the shield.
        config: of the shield. What it leaves at its default suits a loop that sends one target a frame: a tracking
            error of 0.1 rad, speeds that need 60 % of it in a frame, and targets that may stay the same.

    Raises:
        SpecError: the spec does not fit the arm, is no single row of absolute positions, or a key or range is odd.
        ConfigError: the shield cannot be configured so.
    """

    def __init__(
        self,
        model: RobotModel,
        spec: ActionSpec,
        *,
        keys: Sequence[str] | None = None,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        max_age_s: float | None = None,
        strategy: str = "vla",
        config: ShieldConfig | None = None,
        audit: str | Path | AuditConfig | Journal | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.keys = tuple(f"{name}{SUFFIX}" for name in spec.joints) if keys is None else tuple(keys)
        _check(spec, self.keys, ranges or {})
        config = _for_rows(config, float(model.limits.v_max.max()), spec.rate_hz)
        age = config.intake.proposal_max_age_s if max_age_s is None else max_age_s
        if not 0.0 < age < math.inf:
            raise ConfigError(f"max_age_s must be positive and finite, got {age}")
        self.spec, self._clock = spec, clock or time.monotonic_ns
        self._oldest, self._period = round(age * NS_PER_S), round(NS_PER_S / spec.rate_hz)
        self._ranges = {name: (ranges or {}).get(name, _DEFAULT_RANGE) for name in spec.others}
        self._free = [k for k, name in enumerate(spec.joints) if name in spec.others]
        self._joints = [k for k, name in enumerate(spec.joints) if name not in spec.others]
        factor = np.array([POSITION_UNITS.get(unit, 1.0) for unit in spec.units])
        self._scale, self._offset = factor * spec.column("scale"), factor * spec.column("offset")
        self.gate = ChunkGate(model, spec, plays=1, strategy=strategy, config=config, audit=audit, clock=self._clock)
        self._order = [spec.joints.index(joint) for joint in model.joints]  # the gate has checked that they are there
        self.forget()

    def forget(self) -> None:
        """Nothing has been seen or sent: the arm was connected anew."""
        self._seen: Vector | None = None  # by column
        self._seen_at = 0
        self._asked_at: int | None = None
        self._others: Action = {}

    def begin_episode(self, task: str, *, operator: str | None = None, reason: str = "episode starts") -> None:
        """Start an episode. With an ``operator`` it is acknowledged at once, else the arm holds until it is."""
        self.gate.begin_episode(task)
        if operator is not None:
            self.gate.acknowledge(operator=operator, reason=reason)

    def see(self, observation: object, *, asked: bool = True) -> None:
        """An observation of the arm; its positions are copied, so the host may go on writing into the same dict.

        Args:
            observation: as the arm returned it.
            asked: the host asked for it, and its next actions follow from it. A host that never asks plays something
                back, and its actions have no age.
        """
        self._seen, self._seen_at = positions(observation, self.keys), self._clock()
        if asked:
            self._asked_at = self._seen_at

    @property
    def is_due(self) -> bool:
        """The positions are older than a period: the arm may be elsewhere by now, and is to be read."""
        return self._seen is None or self._clock() - self._seen_at > self._period

    def decide(self, action: object) -> Sent:
        """What may be sent instead of ``action``: the same where nothing speaks against it, else the stop.

        Never raises for what the action or the observation is.
        """
        now = self._clock()
        row, refusal = action_row(action, self.keys)
        late = "" if refusal else self._late(now)
        others = None if self._seen is None else self._seen[self._free]
        answer = self.gate.offer(self._measured(), None if late else row, others=others, now=now)
        return Sent(_kept(action), self._sent(answer, row, refusal or late), answer.decision, refusal or late)

    def sent(self, decided: Sent, answered: object) -> Sent:
        """What the robot answers to ``decided.sent``: with what it really told its motors.

        An answer that has not the same keys with numbers is none, and then what it was given counts. Columns that are
        no joints stay there when an action is refused.
        """
        told: Mapping[str, float] = decided.sent
        row, odd = action_row(answered, tuple(told))
        if not odd:
            told = MappingProxyType(dict(zip(told, row[0].tolist(), strict=True)))
        self._others.update({self.keys[k]: told[self.keys[k]] for k in self._free if self.keys[k] in told})
        return replace(decided, sent=told)

    def _late(self, now: int) -> str:
        age = 0 if self._asked_at is None else now - self._asked_at
        if age <= self._oldest:
            return ""
        return f"follows from an observation of {age / NS_PER_S:.3f} s ago, {self._oldest / NS_PER_S:g} s are allowed"

    def _measured(self) -> Vector:
        """Joint positions in the model's order, rad; NaN where nothing was seen, which the shield refuses."""
        seen = np.full(len(self.keys), np.nan) if self._seen is None else self._seen
        measured: Vector = (self._scale * seen + self._offset)[self._order]
        return measured

    def _sent(self, answer: GateAnswer, row: Vector, refusal: str) -> Mapping[str, float]:
        """What goes out; nothing if the answer is a guess."""
        if answer.blind:
            return MappingProxyType({})
        found = {self.keys[k]: float(answer.actions[0, k]) for k in self._joints}
        found |= self._other_values(row, passed=not refusal and _follows(answer.decision))
        return MappingProxyType({key: found[key] for key in self.keys if key in found})

    def _other_values(self, row: Vector, *, passed: bool) -> Action:
        """A gripper goes where an accepted action sends it within its range, else it stays where it was sent last."""
        found = Action()
        for name, (low, high) in self._ranges.items():
            k = self.spec.joints.index(name)
            leeway = _LEEWAY * (high - low)
            if passed and low - leeway <= row[0, k] <= high + leeway:
                found[self.keys[k]] = min(max(float(row[0, k]), low), high)
            elif self.keys[k] in self._others:
                found[self.keys[k]] = self._others[self.keys[k]]
            elif self._seen is not None and math.isfinite(self._seen[k]):
                found[self.keys[k]] = min(max(float(self._seen[k]), low), high)
        return found


def _kept(action: object) -> object:
    copied = plain(action)
    return action if copied is None else copied


def _for_rows(config: ShieldConfig | None, v_max: float, rate_hz: float) -> ShieldConfig:
    """``config`` for a loop that sends one target a frame; what was set explicitly stays.

    Motion is verified as linear between targets, but a servo takes each target at once: it may be a whole row ahead.
    So the tracking error is declared wide enough for slow servos, and rows are kept within a part of it by a speed
    limit. A target that stays the same while the arm is on its way is no frozen policy.
    """
    given = config or ShieldConfig()
    drive, intake, margins = given.drive, given.intake, given.filter.margins
    if "tracking_error_rad" not in drive.model_fields_set:
        drive = drive.model_copy(update={"tracking_error_rad": _TRACKING_ERROR})
    if "velocity_share" not in margins.model_fields_set:
        allowed = _ROW_SHARE * drive.tracking_error_rad * rate_hz / v_max
        margins = margins.model_copy(update={"velocity_share": max(margins.velocity_share, 1.0 - allowed)})
    if "repeat_tolerance" not in intake.model_fields_set:
        intake = intake.model_copy(update={"repeat_tolerance": _NEVER})
    limits = given.filter.model_copy(update={"margins": margins})
    return given.model_copy(update={"drive": drive, "filter": limits, "intake": intake})


def _follows(decision: Decision) -> bool:
    return decision.authority is Authority.POLICY and _REFUSED.isdisjoint(decision.causes)


def _check(spec: ActionSpec, keys: Sequence[str], ranges: Mapping[str, tuple[float, float]]) -> None:
    if spec.chunk != 1 or spec.reference.value != "absolute":
        raise SpecError(
            f"LeRobot arms are sent one row of absolute positions, the spec says {spec.chunk} of {spec.reference.value}"
        )
    if len(keys) != len(spec.joints) or len(set(keys)) != len(keys):
        raise SpecError(f"{len(spec.joints)} columns {spec.joints} need as many different keys, got {keys}")
    for name, (low, high) in ranges.items():
        if name not in spec.others or not -math.inf < low < high < math.inf:
            raise SpecError(f"ranges: {name!r} needs (low, high) of a column of {spec.others}, got {(low, high)}")
