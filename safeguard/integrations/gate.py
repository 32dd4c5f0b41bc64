"""The shield for hosts that play rows of joint positions themselves: clients of policy servers, robots of LeRobot.

    q, actions ─▶ one tick of the shield ─▶ rows that may be played, in the policy's own numbers

The host says where its joints are and what the policy wants, gets rows back, plays some of them with its position
drives, and asks again. Rows that keep every limit, with a stop behind those that are played, come back as they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, isfinite
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from safeguard.audit.journal.journal import Journal
from safeguard.audit.journal.settings import AuditConfig
from safeguard.audit.records.encode import jsonable
from safeguard.controllers.row_arm import RowArm
from safeguard.core.config import ShieldConfig
from safeguard.core.enums import Authority, FilterStatus, Reference
from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.robot import RobotModel
from safeguard.core.types import ActionSpec, Decision, Observation, Proposal, Vector
from safeguard.integrations.gate_numbers import OtherColumns, Speedometer, plain_numbers
from safeguard.policies import Binding
from safeguard.shield import Shield

_MOST: Final = 100_000  # numbers that are looked at; more cannot be a chunk or a posture
_LONGEST: Final = 200  # characters of a reason
_WORD: Final = 1 << 63
_MADE: Final = (FilterStatus.ADMISSIBLE, FilterStatus.CORRECTED)


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """What the host may play.

    Attributes:
        actions: rows in the policy's own numbers, shape (chunk, columns): a fresh array, finite, the caller's to keep.
        changed: they are not what the policy wanted.
        decision: of the shield. Its command is a ``TerminalStop`` where the drives should be off; the rows then are
            what does least harm if they are not: they brake, and hold where the drives were told to be.
        blind: neither a measurement that can be trusted nor anything told is known: the rows are the robot's home
            posture for want of anything better, and should not be played.
    """

    actions: Vector
    changed: bool
    decision: Decision
    blind: bool = False


class ChunkGate:
    """A shield between a policy and a host that plays rows of joint positions itself.

    An offer is a tick of an ordinary ``Shield`` on a ``RowArm``: the same modes, checks, monitors and records. An
    episode begins in HOLD, and it takes a person's ``acknowledge`` before anything moves.

    Args:
        robot: the model.
        spec: what the policy's numbers mean: joint positions, absolute or relative to where the joints are measured
            at the offer.
        plays: rows that are played before the next offer; all of a chunk if neither this nor ``every_s`` is given.
        every_s: instead of ``plays``: time between offers, s; what is played of a row counts as the whole of it.
        plays_on: a host that asks late goes on with the rest of the rows. Otherwise it waits at the last of ``plays``.
        strategy: which mode table.
        config: of the shield. What it leaves at its default is adapted: drives are position drives, margins cover
            their tracking error, deadlines suit the pace of the offers.
        audit: as for ``Shield``.
        clock: monotonic time in ns, used where ``offer`` is not given ``now``.

    Raises:
        SpecError: the spec is not of joint positions, or not of this robot.
        ConfigError: rows or a configuration that make no sense.

    Attributes:
        spec: of the policy.
        shield: what decides.
        plays: rows that are played before the next offer.
    """

    def __init__(
        self,
        robot: RobotModel,
        spec: ActionSpec,
        *,
        plays: int | None = None,
        every_s: float | None = None,
        plays_on: bool = False,
        strategy: str = "vla",
        config: ShieldConfig | None = None,
        audit: str | Path | AuditConfig | Journal | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.spec, self._binding = spec, Binding(spec, robot.joints)
        if self._binding.spec.reference is not Reference.ABSOLUTE:
            raise SpecError(f"ChunkGate tells rows of joint positions, got {spec.reference.value} actions")
        self.plays = _plays(spec, plays, every_s)
        config = rows_config(config, self.plays / spec.rate_hz)
        self._arm = RowArm(
            robot,
            rate_hz=float(spec.rate_hz),
            chunk=spec.chunk,
            plays=self.plays,
            plays_on=plays_on,
            config=config.filter,
            drive=config.drive,
        )
        self._port, self._clock = _OfferPort(self._binding.spec), clock or time.monotonic_ns
        self.shield = Shield(
            self._arm,
            self._port,
            strategy=strategy,
            period=self._arm.period,
            config=config,
            audit=audit,
            clock=self._clock,
        )
        self._columns = [spec.joints.index(name) for name in spec.others]
        self._others = OtherColumns(_start(spec)[self._columns], spec.chunk if plays_on else self.plays)
        self._speed, self._anchor, self._seq = Speedometer(), robot.home, 0
        self._lock = threading.RLock()  # what an episode begins with is what was told by then

    # -- people ---------------------------------------------------------------------------------------

    def begin_episode(self, task: str) -> None:
        """Start an episode. What the drives were told stays known, and a stop stays until it is acknowledged."""
        with self._lock:
            self.shield.begin_episode(task, told=jsonable(self._arm.carried()))

    def acknowledge(self, *, operator: str, reason: str) -> None:
        """Allow motion; from HOLD and worse only at standstill with every cause clear. A person's act."""
        self.shield.acknowledge(operator=operator, reason=reason)

    def stop(self, *, operator: str, reason: str) -> None:
        """Ask for a stop; the next answer brakes."""
        self.shield.stop(operator=operator, reason=reason)

    def close(self) -> None:
        """End the episode and the record."""
        self.shield.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the offer ------------------------------------------------------------------------------------

    def offer(
        self,
        q: ArrayLike,
        actions: ArrayLike | None,
        *,
        instruction: str | None = None,
        estop: bool = False,
        others: ArrayLike | None = None,
        reason: str = "",
        now: int | None = None,
    ) -> GateAnswer:
        """What the host may play from here on. Never raises for what a policy or a sensor does.

        Args:
            q: measured joint positions in the robot's order, shape (n,), rad.
            actions: the policy's numbers, shape (chunk, columns); None if it failed.
            instruction: what the robot was told, for the record.
            estop: the emergency stop input is pressed.
            others: where the ``others`` columns are measured, in the policy's numbers; counts until something is told.
                Without it they begin at 0, or at the end of their range that is nearer.
            reason: why there are no actions, or none that can be used, for the record.
            now: time of the measurement and of the answer, ns; the clock's if None.
        """
        with self._lock:
            return self._offered(q, actions, instruction, estop, others, reason, now)

    def _offered(
        self,
        q: ArrayLike,
        actions: ArrayLike | None,
        instruction: str | None,
        estop: bool,
        others: ArrayLike | None,
        reason: str,
        now: int | None,
    ) -> GateAnswer:
        if self.shield.episode < 0:
            self.begin_episode("unnamed")
        now = now if _is_time(now) else self._clock()
        measured, wanted = plain_numbers(q, _MOST), plain_numbers(actions, _MOST) if actions is not None else None
        if others is not None and self._columns:
            values = plain_numbers(others, _MOST)
            if values.shape == (len(self._columns),) and np.isfinite(values).all():
                self._others.begin(values)
        state = self._speed.state(measured, now)
        if self._arm.oddity(state) is None:
            self._anchor = state.q
        elif self._arm.told is not None:  # the host counts from where its drives are, not from where they were
            self._anchor = self._arm.told.at(now).q
        played = self._others.played(self._arm.told, now)
        self._seq += 1
        self._port.load(self._proposal(wanted, now, reason))
        decision = self.shield.step(Observation(state, instruction=instruction, estop=estop), now)
        return self._answer(wanted, played, decision)

    def _proposal(self, wanted: Vector | None, now: int, reason: str) -> Proposal:
        """What arrives at the shield: joint positions, or what intake refuses and the reason."""
        name = "policy" if wanted is not None else "the policy failed"
        source = (f"{name}: {reason}" if reason else name)[:_LONGEST].encode("utf-8", "replace").decode()
        if wanted is None:
            return Proposal(np.zeros(0), now, now, source, self._seq)
        return self._binding.bound(Proposal(wanted, now, now, source, self._seq), self._anchor)

    def _answer(self, wanted: Vector | None, played: Vector, decision: Decision) -> GateAnswer:
        following, told = self.shield.following, self._arm.told
        accepted = (
            wanted is not None
            and following is not None
            and following.seq == self._seq
            and decision.authority is Authority.POLICY
            and decision.filter.status in _MADE
        )
        like = np.zeros(self.spec.shape)
        like[:, self._columns] = played
        if accepted and wanted is not None:
            like = wanted.copy()
        if not (accepted and decision.filter.status is FilterStatus.ADMISSIBLE):
            rows = np.tile(self._arm.robot.home, (self.spec.chunk, 1)) if told is None else told.q[1:]
            like = self._binding.unbound(rows, self._anchor, like)
        self._others.told(like[:, self._columns].copy(), played)
        changed = wanted is None or not np.array_equal(wanted, like)
        return GateAnswer(like, changed, decision, blind=told is None)


class _OfferPort:
    """A ``PolicyPort`` that hands out what the host brought with its offer.

    Args:
        spec: of what it hands out.
    """

    name = "offered"

    def __init__(self, spec: ActionSpec) -> None:
        self.spec = spec
        self._offered: Proposal | None = None

    def load(self, proposal: Proposal) -> None:
        """What arrives in the coming tick."""
        self._offered = proposal

    def post(self, observation: Observation, now: int) -> None:
        """Nothing: the host has asked its policy already."""

    def poll(self, now: int) -> Proposal | None:
        """This tick's offer, once."""
        offered, self._offered = self._offered, None
        return offered

    def reset(self) -> None:
        """Nothing in flight."""
        self._offered = None


def rows_config(config: ShieldConfig | None, period: float) -> ShieldConfig:
    """``config`` for a host that plays rows and asks every ``period`` s, or later; what was set explicitly stays.

    Position drives, margins that cover their tracking error, a deadline of four periods and at least 2 s (a host waits
    for its policy, and its arm waits with it), and an acknowledgement that waits for ten offers.
    """
    given = config or ShieldConfig()
    margins, policy = given.filter.margins, given.policy
    drive = given.drive.model_copy(update={"interface": "position"})
    if "position_rad" not in margins.model_fields_set:
        margins = margins.model_copy(update={"position_rad": max(margins.position_rad, drive.tracking_error_rad)})
    if "deadline_s" not in policy.model_fields_set:
        policy = policy.model_copy(update={"deadline_s": max(4.0 * period, 2.0)})
    changed: dict[str, Any] = {
        "drive": drive,
        "filter": given.filter.model_copy(update={"margins": margins}),
        "policy": policy,
    }
    if "start_ack_s" not in given.model_fields_set:
        changed["start_ack_s"] = max(given.start_ack_s, 10.0 * period)
    return given.model_copy(update=changed)


def _plays(spec: ActionSpec, plays: object, every_s: object) -> int:
    """Rows that are played; raises ConfigError."""
    if every_s is not None:
        seconds = float(every_s) if isinstance(every_s, int | float) and not isinstance(every_s, bool) else -1.0
        if plays is not None or not (isfinite(seconds) and seconds > 0.0):
            raise ConfigError(f"ChunkGate takes plays or every_s > 0 s, got plays={plays!r}, every_s={every_s!r}")
        plays = ceil(seconds * spec.rate_hz - 1e-6)
    if plays is None:
        return spec.chunk
    if isinstance(plays, bool) or not isinstance(plays, int) or not 1 <= plays <= spec.chunk:
        raise ConfigError(f"plays is a whole number of rows from 1 to the chunk's {spec.chunk}, got {plays!r}")
    return plays


def _start(spec: ActionSpec) -> Vector:
    """0, or what is nearest to it in the range of a column, shape (columns,)."""
    low = np.full(len(spec.joints), -np.inf) if spec.low is None else np.array(spec.column("low"))
    high = np.full(len(spec.joints), np.inf) if spec.high is None else np.array(spec.column("high"))
    return np.clip(np.zeros(len(spec.joints)), low, high)


def _is_time(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and -_WORD <= value < _WORD
