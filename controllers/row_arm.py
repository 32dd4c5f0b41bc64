"""An arm whose host plays rows of joint positions itself: a tick is one offer of rows.

What is checked is not the next 2 ms but everything that is played until the host asks again, and the stop behind it.

    rows ─▶ check: as they are? ─▶ told unchanged
                │ no
                └─▶ the safety filter follows them in small steps, read off at the rows ─▶ check ─▶ told, with its stop
                                                                                             │ no
                                                     a stop from where the host is in what it was told ◀─┘
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Final, Literal

import numpy as np

from safeguard.controllers.arm import ArmPlatform
from safeguard.controllers.brake import StopPlan
from safeguard.controllers.rows import RowCheck, RowPath
from safeguard.controllers.rows_control import RowControl, RowRecipe, check_counts
from safeguard.controllers.rows_follow import Follow, Held, Tracking, rolled
from safeguard.core.config import DriveConfig, FilterConfig
from safeguard.core.enums import FilterStatus, NominalKind, SolverStatus
from safeguard.core.robot import RobotModel
from safeguard.core.types import (
    FULL_ENVELOPE,
    NS_PER_S,
    ActionSpec,
    BodyIdentity,
    Command,
    Envelope,
    FilterResult,
    Nominal,
    PositionCommand,
    RobotState,
    Vector,
    frozen_array,
    sealed,
)

_STEP_S: Final = 0.01  # the filter's own period, at most
_GENTLE: Final = 0.3  # share of the speed limits in the second try


class RowArm:
    """Braking platform of a host that plays rows of joint positions with position drives.

    A tick is an offer: the host gets ``chunk`` rows, plays ``plays`` of them, and asks again. Assumed of the host: it
    plays the rows it was told last, from the first, one every 1/``rate_hz`` s and linearly in between; after ``plays``
    of them it waits where it is, or (``plays_on``) goes on with the rest; its drives stay within
    ``drive.tracking_error_rad`` of that. Where they do not, the next answer is to stay at the measured posture.

    Args:
        robot: the model.
        rate_hz: rows a second.
        chunk: rows of an answer.
        plays: rows that are played before the next offer.
        plays_on: a host that asks late goes on playing; otherwise it waits at the last of the ``plays`` rows.
        config: of the safety filter; ``margins.position_rad`` must cover the tracking error.
        drive: ``tracking_error_rad`` counts; the interface is ``"position"``.

    Raises:
        ConfigError: numbers of rows that make no sense, or margins that do not cover the tracking error.

    Attributes:
        told: what the host was told last, or None.
    """

    guarantee = "braking"

    def __init__(
        self,
        robot: RobotModel,
        *,
        rate_hz: float,
        chunk: int,
        plays: int | None = None,
        plays_on: bool = False,
        config: FilterConfig | None = None,
        drive: DriveConfig | None = None,
    ) -> None:
        self.plays = plays = chunk if plays is None else plays
        check_counts(rate_hz, chunk, plays)
        self.recipe: RowRecipe = {"rate_hz": rate_hz, "chunk": chunk, "plays": plays, "plays_on": plays_on}
        self.chunk, self._row, self._row_ns = chunk, 1.0 / rate_hz, NS_PER_S / rate_hz
        self._last = chunk if plays_on else plays
        self._steps = ceil(self._row / _STEP_S - 1e-6)
        error = (drive or DriveConfig()).tracking_error_rad
        config = config or FilterConfig().model_copy(
            update={"margins": FilterConfig().margins.model_copy(update={"position_rad": error})}
        )
        servo = DriveConfig(interface="position", tracking_error_rad=error)
        self._arm = ArmPlatform(robot, self._row / self._steps, config, servo)
        self.robot, self.safety_filter, self._error = robot, self._arm.safety_filter, error
        self._check = RowCheck(self.safety_filter, self._row)
        self.told: RowPath | None = None
        self._before: RowPath | None = None  # what ``told`` replaced
        self._measured: RobotState | None = None  # the last that could be trusted
        self._made: tuple[FilterResult, RowPath] | None = None
        self._seen: int | None = None  # stamp of the state that the last command was made for
        self._asked: int | None = None  # of the one that this tick's is made for; None without a state

    # -- what a body says of itself -------------------------------------------------------------------

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the controlled joints, in order."""
        return self.robot.joints

    @property
    def v_max(self) -> Vector:
        """Speed limits, shape (n,), rad/s."""
        return self.robot.limits.v_max

    @property
    def a_max(self) -> Vector:
        """Acceleration limits, shape (n,), rad/s²."""
        return self.robot.limits.a_max

    @property
    def rest(self) -> RobotState:
        """The robot's home configuration at rest."""
        return self._arm.rest

    @property
    def period(self) -> float:
        """Time from offer to offer, if the host is on time, s."""
        return self.plays * self._row

    def identity(self) -> BodyIdentity:
        """The robot model with its limits and their provenance."""
        return self._arm.identity()

    def controller_for(self, spec: ActionSpec) -> RowControl:
        """The controller of chunks of rows; raises ``SpecError`` for anything else."""
        return RowControl(spec, self.joints, self.recipe)

    def plausible(self, state: RobotState) -> str | None:
        """Why ``state`` cannot be a measurement of this arm, or None.

        The shield asks once a tick, and only of what has passed intake: it is what a terminal stop may have to tell.
        """
        why = self.oddity(state)
        if why is None:
            self._measured = state
        return why

    def oddity(self, state: RobotState) -> str | None:
        """As ``plausible``, for anybody at any time."""
        return self._arm.plausible(state)

    def standstill(self, state: RobotState) -> bool:
        """The joints are measured to stand, and the drives are told to, and are where they are told to be."""
        at, why = self._where(state)
        return not why and not at.v.any() and self._arm.standstill(state)

    def planned(self, state: RobotState) -> RobotState:
        """Where the told rows say that the drives are now; the measured posture where they do not follow."""
        return self._where(state)[0]

    def _where(self, state: RobotState) -> tuple[RobotState, str]:
        """(the state that motion is planned from, which drive is not where it was told to be, or "")."""
        standing = RobotState(state.q, np.zeros(self.robot.n), state.t)
        if self.told is None:
            return standing, ""
        at = self.told.at(state.t)
        off = np.abs(state.q - at.q)
        if (off <= self._error).all():  # False for NaN
            return at, ""
        j = int(np.argmax(off))
        declared = f"{self._error:g} rad is declared"
        return standing, f"{self.joints[j]} is {off[j]:.3f} rad from what its drive was told, {declared}"

    # -- the answers ----------------------------------------------------------------------------------

    def filter(self, state: RobotState, nominal: Nominal, envelope: Envelope = FULL_ENVELOPE) -> FilterResult:
        """Rows as they are, corrected, or a stop; an acceleration or a velocity is held as long as rows are played.

        The ``refusal`` of what was corrected says why the rows could not be told as they are.
        """
        self._asked = state.t
        at, why = self._where(state)
        if why:
            return self._stopping(at, why)
        follow: Follow
        if nominal.kind is NominalKind.ROWS:
            rows = nominal.value
            if rows.shape != (self.chunk, self.robot.n) or not np.isfinite(rows).all():
                return self._stopping(at, f"rows are not {self.chunk} times {self.robot.n} finite numbers")
            points = np.vstack((at.q, rows))
            unfit, path = self._as_they_are(at, points, envelope)
            if path is not None:
                return self._result(path, FilterStatus.ADMISSIBLE, "proposal", rows)
            if (path := self._shortened(at, points, envelope)) is not None:
                return replace(self._result(path, FilterStatus.CORRECTED, "proposal"), refusal=unfit)
            follow = Tracking(points, self._row)
        elif nominal.kind in (NominalKind.ACCELERATION, NominalKind.VELOCITY):
            unfit, follow = "", Held(nominal)
        else:
            return self._stopping(at, f"a {nominal.kind.value} is no row of positions")
        return self._corrected(at, follow, envelope, unfit)

    def backup(self, state: RobotState | None) -> FilterResult:
        """Braking from where the host is in what it was told, and then standing.

        Asked at the state for which rows have just been told, it takes them back: they do not go out.
        """
        if state is None:
            self._asked = None
            if self.told is None:
                return self._arm.stopped("it is not known what the drives were told")
            return self._stopping(self.told.at(self.told.t0 + round(self.plays * self._row_ns)), "")
        if self._seen == state.t:
            self.told = self._before
        self._asked = state.t
        return self._stopping(*self._where(state))

    def stopped(self, reason: str) -> FilterResult:
        """The result of a tick that ends in the terminal stop."""
        return self._arm.stopped(reason)

    def bypass(self, state: RobotState, nominal: Nominal | None) -> FilterResult:
        """The rows as they are, or standing without any. Outside law 1."""
        self._asked = state.t
        at = self.planned(state)
        rows = np.tile(at.q, (self.chunk, 1))
        if nominal is not None and nominal.kind is NominalKind.ROWS and nominal.value.shape == rows.shape:
            rows = nominal.value
        if not np.isfinite(rows).all():
            return replace(self._arm.bypass(at, None), position=frozen_array(rows), velocity=None)
        path = self._followed(at, np.vstack((at.q, rows)), self._last)
        return self._result(path, FilterStatus.BYPASSED, "proposal", rows)

    def command(self, result: FilterResult, now: int, expires: int, seq: int) -> Command:
        """The rows, void after the last of them; remembered as told from here on.

        With a terminal stop the host is told ``told.q[1:]`` all the same: there is no brake that it could be relied on
        to engage. These rows brake and hold where the drives were told to be; at the measured posture, if that is
        elsewhere.
        """
        self._before, self._seen = self.told, self._asked
        made, self._made = self._made, None
        if result.status is FilterStatus.REFUSED or result.position is None:
            self.told = self._resting(now)
            return self.terminal_stop(result.refusal or "no rows", now, seq)
        rows, expires = result.position, now + round(self.chunk * self._row_ns)
        if made is None or made[0].position is not rows:
            return PositionCommand(rows, now, expires, seq)  # raw and not finite: nobody follows it
        path = made[1]
        if self._asked is None and self.told is not None:  # a stop without a state: the time is known only now
            path = self._stop_from(self.told.at(now), now)
            rows = sealed(path.q[1:].copy())
        self.told = replace(path, t0=now)
        return PositionCommand(rows, now, expires, seq)

    def terminal_stop(self, reason: str, now: int, seq: int) -> Command:
        """Safe torque off; the brakes engage."""
        return self._arm.terminal_stop(reason, now, seq)

    def reset(self, state: RobotState | None = None) -> str:
        """Forget the episode, but not what the drives were told: they may be moving.

        Returns:
            With a state: why the stop from there is not a verified one, or "".
        """
        self._made = self._asked = self._seen = None
        self._check.reset()
        self.safety_filter.reset()
        if state is None:
            return ""
        at, why = self._where(state)
        if why:
            self.told = None
        return self._check.stop_refusal(at.q, at.v)

    def carried(self) -> dict[str, object] | None:
        """What was told before this episode, as JSON: the part of the state that an episode does not forget."""
        return None if self.told is None else self.told.as_json()

    def resume(self, carried: Mapping[str, object]) -> None:
        """Go on from what ``carried`` said; raises ConfigError if it cannot be that."""
        shape, a_brake = (self.chunk + 1, self.robot.n), self.safety_filter.a_brake
        self.told = RowPath.from_json(carried, shape, self._last, a_brake, self._row_ns)

    # -- candidates -----------------------------------------------------------------------------------

    def _as_they_are(self, at: RobotState, points: Vector, envelope: Envelope) -> tuple[str, RowPath | None]:
        """The points themselves, if all of them and the stops behind the played ones and behind all keep the limits."""
        if refusal := self._check.plan_refusal(points, at.v, envelope):
            return refusal, None
        path = self._followed(at, points, self._last)
        ends = {self.plays, self._last}
        for end in sorted(ends):
            if refusal := self._check.stop_refusal(path.q[end], path.v[end]):
                return f"behind row {end - 1}: {refusal}", None
        return "", path

    def _followed(self, at: RobotState, points: Vector, stop_at: int) -> RowPath:
        """A path along ``points`` at their own speeds."""
        v = np.vstack((at.v, (points[1:] - points[:-1]) / self._row))
        plan = StopPlan(points[stop_at], v[stop_at], self.safety_filter.a_brake, 0)
        return RowPath(sealed(points), sealed(v), at.t, self._last, plan, stop_at, self._row_ns)

    def _shortened(self, at: RobotState, points: Vector, envelope: Envelope) -> RowPath | None:
        """The rows that are played as they are, and a stop instead of the rest, if that keeps the limits."""
        plays = self.plays
        if plays == self.chunk or self._check.plan_refusal(points[: plays + 1], at.v, envelope):
            return None
        path = self._followed(at, points.copy(), plays)
        q, v = path.stop.at(self._times(1, self.chunk - plays))
        path = replace(path, q=np.vstack((points[: plays + 1], q)), v=np.vstack((path.v[: plays + 1], v)))
        tail = self._check.stop_refusal(path.stop.q0, path.stop.v0)
        return None if tail or self._check.told_refusal(path.q[plays:], path.v[plays]) else path

    def _corrected(self, at: RobotState, follow: Follow, envelope: Envelope, unfit: str) -> FilterResult:
        """The filter's motion along what is asked; more slowly, if its rows do not stay clear; else a stop."""
        gentle = replace(envelope, velocity=min(envelope.velocity, _GENTLE))
        refusal, counts = "", {"steps": self._steps, "plays": self.plays, "chunk": self.chunk}
        for limits in (envelope, gentle):
            made = rolled(self.safety_filter, at, follow, limits, **counts)
            if isinstance(made, str):
                return self._stopping(at, made)
            refusal = self._check.told_refusal(made.q, at.v) or self._check.stop_refusal(made.stop.q0, made.stop.v0)
            if not refusal:
                path = RowPath(sealed(made.q), sealed(made.v), at.t, self._last, made.stop, self.plays, self._row_ns)
                result = self._result(path, made.status, "backup" if made.status is FilterStatus.BACKUP else "qp")
                result = made.told_by(result)
                return replace(result, refusal=result.refusal or unfit)
        return self._stopping(at, f"{refusal} (asked for: {unfit})" if unfit else refusal)

    # -- stops ----------------------------------------------------------------------------------------

    def _stopping(self, at: RobotState, refusal: str) -> FilterResult:
        """A stop from ``at``; where that is not a verified one, the verified rest of what was told."""
        path = self._stop_from(at, at.t)
        return replace(self._result(path, FilterStatus.BACKUP, "backup"), refusal=refusal)

    def _stop_from(self, at: RobotState, now: int) -> RowPath:
        plan = StopPlan(at.q, at.v, self.safety_filter.a_brake, 0)
        q, v = plan.at(self._times(0, self.chunk))
        path = RowPath(sealed(q), sealed(v), now, self._last, plan, 0, self._row_ns)
        if self.told is None or not at.v.any():
            return path
        unverified = self._check.stop_refusal(at.q, at.v) or self._check.told_refusal(q, at.v)
        if not unverified:
            return path
        rows = np.vstack((at.q, self.told.onward(now, self.chunk)))
        return self._followed(at, rows, self._last)

    def _times(self, first: int, last: int) -> Vector:
        """When points ``first`` to ``last`` are reached, shape (k, 1), s."""
        points: Vector = np.arange(first, last + 1, dtype=np.float64)[:, None]
        return points * self._row

    def _resting(self, now: int) -> RowPath | None:
        """What to tell a host that is to stay where it is: see ``command``; None if nothing is known of it."""
        told, measured = self.told, self._measured
        if told is None:
            return None if measured is None else self._stop_from(replace(measured, v=np.zeros(self.robot.n)), now)
        at = told.at(now)
        if measured is not None and abs(now - measured.t) <= self._row_ns:
            at = replace(self._where(replace(measured, t=now))[0], t=now)
        return self._stop_from(at, now)

    # -- results --------------------------------------------------------------------------------------

    def _result(
        self,
        path: RowPath,
        status: FilterStatus,
        source: Literal["proposal", "qp", "backup"],
        rows: Vector | None = None,
    ) -> FilterResult:
        """The result for a path; ``rows`` where they are told bit for bit."""
        with np.errstate(over="ignore", invalid="ignore"):  # raw rows may be of any size
            margins, tau = self._check.margins(path.q, path.v[0])
            a = (path.v[self.plays] - path.v[0]) / self.period
        result = FilterResult(
            torque=frozen_array(tau[0]),
            acceleration=frozen_array(a),
            status=status,
            solver=SolverStatus.SKIPPED,
            source=source,
            slack=(),
            active=(),
            margins=margins,
            effort=0.0,
            provisional=self.safety_filter.figures.provisional,
            position=frozen_array(path.q[1:] if rows is None else rows),
        )
        self._made = result, path
        return result
