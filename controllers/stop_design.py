"""Looking for an envelope and a deceleration that sampled stops allow (docs/concepts/certificate.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from safeguard.controllers.scenario_program import Mask, Rows
from safeguard.controllers.stop_samples import Stops, StopSampler
from safeguard.controllers.tube import tube
from safeguard.core.certificate import CertificateError, NotCertifiableError, Uncertainty
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

SPEED_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)
"""Of the speed limits; the common envelopes that are tried."""

MOST_SHARE = 0.9
"""Of the acceleration limit, at most; the rest is left to the feedback."""

SLOWEST_S = 3.0
"""A stop from the envelope that takes longer is no use."""

BRISKEST_S = 0.1
"""Nor is stopping from full speed in less; where rotors are not modelled, acceleration limits can be absurd."""

_ROUNDS = 6  # in which the hardest samples are left out
_HOPELESS = 4  # times as many broken samples as may be left out: no use in leaving out any
_BISECTIONS = 7
_RETREAT = 0.9  # of the decelerations, after a validation that failed
_ROUNDING = 1e-6  # N·m and rad/s², added to what the samples show


@dataclass(frozen=True, slots=True)
class Design:
    """A candidate: an envelope, a deceleration, and what the samples showed; all of shape (n,).

    Attributes:
        speed: envelope, rad/s.
        deceleration: rad/s².
        torque: largest torque of a nominal stop, N·m.
        reserve: torque that the feedback needs at most, R, N·m.
        error: acceleration error without feedback at most, W, rad/s².
        push: the part of it along the motion, W₊, rad/s².
    """

    speed: Vector
    deceleration: Vector
    torque: Vector
    reserve: Vector
    error: Vector
    push: Vector


class Search:
    """Looks for designs of one robot under one uncertainty, on one set of samples.

    Args:
        robot, dt, uncertainty, delay_ticks, omega, seed: as ``certify``.
        count: number of sampled stops.
        budget: how many of the hardest of them a design may leave out.
        room: share of the torque limits that a design plans with; the rest is for samples that it has not seen.
        spread: factor on the largest disturbance among the samples, for the same reason.
    """

    def __init__(
        self,
        robot: RobotModel,
        dt: float,
        uncertainty: Uncertainty,
        *,
        delay_ticks: int,
        omega: float,
        seed: int,
        count: int,
        budget: int,
        room: float,
        spread: float,
    ) -> None:
        if len(uncertainty.friction_nm) != robot.n or len(uncertainty.external_torque_nm) != robot.n:
            raise CertificateError(
                f"uncertainty: friction_nm and external_torque_nm must have {robot.n} values, one a joint of "
                f"{robot.name!r}; use Uncertainty.of(robot)"
            )
        self.robot, self.dt, self.uncertainty, self.delay_ticks = robot, dt, uncertainty, delay_ticks
        self.omega, self.seed, self.count = omega, seed, count
        self.tube = tube(omega, dt, delay_ticks)
        self.budget, self._room, self._spread = budget, room, spread
        self._v_max, self._tau_max = robot.limits.v_max, robot.limits.tau_max
        self._unit = np.minimum(robot.limits.a_max, self._v_max / BRISKEST_S)
        self._times = self._v_max / self._unit
        self._sampler = self.fresh(0)

    def fresh(self, stream: int) -> StopSampler:
        """An independent set of samples; the designs are made with stream 0."""
        rng = np.random.default_rng([self.seed, stream])
        return StopSampler(self.robot, self.uncertainty, self.count, rng, self.omega)

    def broken(self, design: Design, stops: Stops) -> Mask:
        """Which stops break one of the design's numbers, shape (k,), bool."""
        a = design.deceleration
        error, push = stops.acceleration_error(a)
        needed = self.tube.feedback * stops.disturbance(a)
        pairs = (
            (stops.torque(a), self._tau_max - design.reserve),
            (needed, design.reserve),
            (error, design.error),
            (push, design.push),
        )
        over: Mask = np.any([(size > most).any(axis=1) for size, most in pairs], axis=0)
        return over

    def margins(self, design: Design) -> tuple[Vector, Vector, Vector]:
        """(path, rad; position, rad; velocity, rad/s): what the filter keeps from the limits, each of shape (n,).

        path: e_q + (g_q + g_0) W; position: the same with W₊; velocity: e_v + W₊ (1 + d) dt + overspeed of a stop.
        """
        gain, push, e = self.tube.position + self.tube.start, design.push, self.uncertainty
        velocity = e.velocity_error_radps + push * (1 + self.delay_ticks) * self.dt
        velocity = velocity + self.tube.overspeed(push, design.deceleration, self.dt)
        return e.position_error_rad + gain * design.error, e.position_error_rad + gain * push, velocity

    def usefulness(self, design: Design) -> float:
        """Mean speed share left by the margins over the mean stopping time; 0 where a margin leaves nothing."""
        limits = self.robot.limits
        _, position, velocity = self.margins(design)
        left = (design.speed - velocity) / self._v_max
        if left.min() <= 0.0 or (2.0 * position >= limits.q_max - limits.q_min).any():
            return 0.0
        return float(left.mean() * self._times.sum() / (self._v_max / design.deceleration).sum())

    # -- designs --------------------------------------------------------------------------------------

    def best(
        self,
        shares: tuple[float, ...],
        design: Callable[[float], Design | None],
        tell: Callable[[float, int], None] | None = None,
    ) -> tuple[Design, tuple[float, ...]]:
        """(the most useful design over the speed ``shares``, those that were tried)."""
        found, tried, usefulness = None, list[float](), 0.0
        for step, share in enumerate(shares):
            if share * MOST_SHARE <= usefulness:
                break  # no deceleration could make up for so slow an envelope
            if tell:
                tell(share, step)
            tried.append(share)
            candidate = design(share)
            if candidate is not None and (useful := self.usefulness(candidate)) > usefulness:
                found, usefulness = candidate, useful
        if found is None:
            raise self.refusal()
        return found, tuple(tried)

    def program(self, share: float) -> Design | None:
        """The answer of the scenario program at ``share`` of the speed limits, None if there is none."""
        speed = share * self._v_max
        least = self._least(speed)
        stops = self._sampler.at(speed)
        rows = Rows(stops, self._tau_max, self._unit, self._spread * self.tube.feedback)
        keep, budget = np.ones(self.count, dtype=bool), self.budget
        answer = rows.solve(keep, least, MOST_SHARE, self._times, self._room)
        for part in np.diff(np.linspace(0, budget, _ROUNDS + 1).astype(int)):
            if answer is None:
                return None
            hard = np.where(keep, rows.excess(answer, self._room), -np.inf)
            if not answer.feasible and (hard > 0.0).sum() > _HOPELESS * budget:
                return None
            keep[np.argsort(-hard)[:part]] = False
            answer = rows.solve(keep, least, MOST_SHARE, self._times, self._room)
        if answer is None or not answer.feasible:
            return None
        return self._design(speed, answer.shares * self._unit, stops, keep)

    def common(self, share: float) -> Design | None:
        """One share of the acceleration limits for all joints, as large as possible; then more for single joints."""
        speed = share * self._v_max
        stops, least = self._sampler.at(speed), self._least(speed)

        def hard(s: float) -> Mask:
            a = np.maximum(least, s) * self._unit
            return self._hard(stops.tau0 + stops.tau1 @ a, stops.wrong0 + stops.wrong1 @ a, stops.external)

        if hard(0.0).sum() > self.budget:
            return None
        s = _largest_with(lambda s: bool(hard(s).sum() <= self.budget), 0.0, MOST_SHARE)
        a = self._raised(stops, np.maximum(least, s) * self._unit)
        keep = ~self._hard(stops.tau0 + stops.tau1 @ a, stops.wrong0 + stops.wrong1 @ a, stops.external)
        return self._design(speed, np.maximum(least * self._unit, a), stops, keep)

    def _raised(self, stops: Stops, a: Vector) -> Vector:
        """``a`` with every joint raised in turn, from the last to the first, as far as the others' torques allow."""
        a = a.copy()
        tau, wrong = stops.tau0 + stops.tau1 @ a, stops.wrong0 + stops.wrong1 @ a

        def fits(j: int, more: float) -> bool:
            asks, errs = tau + more * stops.tau1[:, :, j], wrong + more * stops.wrong1[:, :, j]
            return bool(self._hard(asks, errs, stops.external).sum() <= self.budget)

        for j in reversed(range(self.robot.n)):
            most = max(MOST_SHARE * self._unit[j] - a[j], 0.0)
            more = _largest_with(lambda x, j=j: fits(j, x), 0.0, most)  # type: ignore[misc]
            a[j] += more
            tau += more * stops.tau1[:, :, j]
            wrong += more * stops.wrong1[:, :, j]
        return a

    def _hard(self, tau: Vector, wrong: Vector, external: Vector) -> Mask:
        """Stops whose torque does not fit beside the largest disturbance, shape (k,), bool."""
        reserve = self._spread * self.tube.feedback * (np.abs(wrong).max(axis=0) + external)
        over: Mask = (np.abs(tau) > self._room * self._tau_max - reserve).any(axis=1)
        return over

    def widened(self, design: Design, tell: Callable[[str, int], None]) -> Design:
        """The same deceleration, with the full speed for every joint for which that costs nothing."""
        for step, j in enumerate(reversed(range(self.robot.n))):
            tell(self.robot.joints[j], step)
            speed = design.speed.copy()
            speed[j] = self._v_max[j]
            if speed[j] <= design.speed[j] or (self._least(speed) * self._unit > design.deceleration).any():
                continue
            stops = self._sampler.at(speed)
            over = stops.torque(design.deceleration) - (self._room * self._tau_max - design.reserve)
            wrong = self.tube.feedback * stops.disturbance(design.deceleration) - design.reserve
            hard: Mask = np.maximum(over, wrong).max(axis=1) > 0.0
            wider = self._design(speed, design.deceleration, stops, ~hard) if hard.sum() <= self.budget else None
            if wider is not None and self.usefulness(wider) > self.usefulness(design):
                design = wider
        return design

    def retreated(self, design: Design, stops: Stops) -> Design | None:
        """A gentler design that also covers all that ``stops`` showed; None if there is none."""
        gentler = self._design(design.speed, _RETREAT * design.deceleration, stops, np.ones(self.count, dtype=bool))
        if gentler is None or self.usefulness(gentler) <= 0.0:
            return None
        largest = {
            name: np.maximum(getattr(gentler, name), getattr(design, name)) for name in ("reserve", "error", "push")
        }
        return replace(gentler, **largest)

    def _least(self, speed: Vector) -> Vector:
        """The smallest shares that stop from ``speed`` in time."""
        return np.minimum(speed / (SLOWEST_S * self._unit), MOST_SHARE)

    def _design(self, speed: Vector, a: Vector, stops: Stops, keep: Mask) -> Design | None:
        """The numbers that the kept samples show; None if they leave no authority."""
        if not keep.any():
            return None
        torque = stops.torque(a)[keep].max(axis=0)
        reserve = self._spread * self.tube.feedback * stops.disturbance(a)[keep].max(axis=0) + _ROUNDING
        error, push = (self._spread * size[keep].max(axis=0) + _ROUNDING for size in stops.acceleration_error(a))
        design = Design(speed, a, torque, reserve, error, push)
        return design if (self._tau_max - torque - reserve > 0.0).all() else None

    def tightest(self, design: Design) -> str:
        """The joint with the least torque left."""
        left = (self._tau_max - design.torque - design.reserve) / self._tau_max
        return self.robot.joints[int(left.argmin())]

    def refusal(self) -> NotCertifiableError:
        """Which joint fails even in the slowest envelope with the least deceleration, and what would help."""
        share = SPEED_SHARES[-1]
        speed = share * self._v_max
        stops, a = self._sampler.at(speed), self._least(speed) * self._unit
        torque = stops.torque(a).max(axis=0)
        wrong = self._spread * self.tube.feedback * stops.disturbance(a).max(axis=0)
        left = (self._tau_max - torque - wrong) / self._tau_max
        if left.min() <= 1.0 - self._room:
            return self._no_authority(int(left.argmin()), share, torque, wrong)
        error, push = (self._spread * size.max(axis=0) for size in stops.acceleration_error(a))
        _, position, velocity = self.margins(Design(speed, a, torque, wrong, error, push))
        span = self.robot.limits.q_max - self.robot.limits.q_min
        narrow = 2.0 * position / span
        j = int((narrow if narrow.max() >= 1.0 else velocity / speed).argmax())
        return NotCertifiableError(
            self.robot.joints[j],
            f"joint {self.robot.joints[j]!r} of {self.robot.name!r}: an acceleration error of {push[j]:.3g} rad/s² "
            f"takes margins of {velocity[j]:.3g} rad/s and {position[j]:.3g} rad, which leave nothing of its speed or "
            "range; what would help: a smaller uncertainty, less delay, or the armature of its rotor in the model",
        )

    def _no_authority(self, j: int, share: float, torque: Vector, wrong: Vector) -> NotCertifiableError:
        name, most = self.robot.joints[j], self._tau_max[j]
        if torque[j] > self._room * most:
            hint = "its own load is too much, whatever the uncertainty: carry less, or narrow the position limits"
        else:
            hint = "a smaller mass_error_share, payload_error_kg or friction_nm, less payload, narrower position limits"
        return NotCertifiableError(
            name,
            f"joint {name!r} of {self.robot.name!r} has no authority left: a stop from {share:.0%} of the speed limits "
            f"within {SLOWEST_S:g} s takes up to {torque[j]:.3g} N·m and the disturbance {wrong[j]:.3g} N·m of "
            f"{most:.3g} N·m; what would help: {hint}",
        )


def _largest_with(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest number for which ``holds``, which is true at ``low`` and up to some number, by bisection."""
    if holds(high):
        return high
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
