"""Does a safety filter leave the arm useful? Safe targets alternate with unsafe ones, the filter works alone.

The same tracking law heads for every target: along the straight joint-space line from where the arm is, with
a smooth time law, so that the arm without a filter reaches every safe target. How many of them the filtered
arm still reaches, and how long it stands instead, is the price of safety. A filter that does nothing fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from safeguard.controllers.dynamics import Dynamics
from safeguard.core.enums import FilterStatus, SolverStatus
from safeguard.core.errors import ConfigError
from safeguard.core.robot import RobotModel
from safeguard.core.types import (
    NS_PER_S,
    Command,
    FilterResult,
    Margins,
    RobotState,
    TerminalStop,
    TorqueCommand,
    Vector,
    frozen_array,
)
from safeguard.scenarios import streams
from safeguard.scenarios.referee import Clearance, Judgement, Referee
from safeguard.scenarios.world import World

_CLEAR = 0.02  # m, that safe targets and the ways to them keep between links
_OF_HOME = 0.7  # share of the distance at home that they keep where that is less: some links are always near
_STOPS_AT = 0.6  # share of that, where a filter is expected to stop an arm that is sent into itself
_INSIDE = 0.15  # rad, that safe targets keep from joint limits
_FAR = 1.2  # rad, furthest way of a joint to a safe target
_AWAY = 1.8  # rad, furthest way of a joint to an unsafe target
_STEP = 0.03  # rad, between points of a way that are checked
_LEAVING = 0.25  # share of a way on which the clearance need only not shrink
_SHRINK = 1e-3  # m, that counts as not shrinking
_TRIES = 20_000
_MOVING_SHARE = 0.7  # of a target's time; the rest is for settling
_OMEGA = 15.0  # rad/s, natural frequency of the tracking law
_REACHED = 0.05  # rad
_STANDS, _STANDS_FOR = 0.02, 0.2  # rad/s and s: away from the target, this is being stuck


class Unsafe(Enum):
    """Where unsafe targets lead, near enough that the arm can get there in its time."""

    JOINT_LIMITS = "joint_limits"  # up to three joints beyond their nearer limits
    SELF_COLLISION = "self_collision"  # inside all limits, links overlap
    RANDOM = "random"  # anywhere in a box larger than the limits, where something is violated


@dataclass(frozen=True, slots=True)
class Target:
    """A joint-space target, shape (n,), rad, pursued for ``seconds``."""

    q: Vector
    safe: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Usefulness:
    """What was left of an arm behind a filter.

    Attributes:
        safe, reached: number of safe targets, and of those reached within 0.05 rad at the end of their time.
        stuck: share of the ticks with a safe target in which the filter said stuck, or the arm stood away
            from the target for more than 0.2 s.
        modified, braked: shares of all ticks in which the filter corrected, and in which the backup ran.
        judgement: the referee's.
        seconds: for every safe target, the time after which the arm was within 0.05 rad for good, or None.
    """

    safe: int
    reached: int
    stuck: float
    modified: float
    braked: float
    judgement: Judgement
    seconds: tuple[float | None, ...] = ()

    @property
    def reached_share(self) -> float:
        """Share of the safe targets that were reached."""
        return self.reached / self.safe

    def passes(self, least_reached: float = 0.9, most_stuck: float = 0.05) -> bool:
        """Useful and safe: enough targets, little standing, no violation."""
        return self.reached_share >= least_reached and self.stuck <= most_stuck and self.judgement.clean


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same targets and tracking law with a filter and without one.

    Attributes:
        filtered, unfiltered: what was left of the arm each time.
    """

    filtered: Usefulness
    unfiltered: Usefulness

    @property
    def possible(self) -> int:
        """Safe targets that the arm without a filter reaches."""
        return sum(seconds is not None for seconds in self.unfiltered.seconds)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Time with the filter over time without, of every target that both reach."""
        both = zip(self.filtered.seconds, self.unfiltered.seconds, strict=True)
        return tuple(mine / free for mine, free in both if mine is not None and free is not None)

    def in_time(self, factor: float = 1.3) -> float:
        """Share of the possible targets that the filtered arm reaches in at most ``factor`` times the time."""
        return sum(ratio <= factor for ratio in self.ratios) / max(self.possible, 1)


class Unfiltered:
    """No filter at all: every acceleration becomes the torque that makes it, marked as bypassed."""

    def __init__(self, robot: RobotModel) -> None:
        self._dynamics = Dynamics(robot)

    def __call__(self, state: RobotState, *, acceleration: Vector) -> FilterResult:
        """The torque of ``acceleration``, shape (n,), rad/s²."""
        self._dynamics.update(state.q, state.v)
        nan = float("nan")
        return FilterResult(
            torque=frozen_array(self._dynamics.torque(acceleration)),
            acceleration=frozen_array(acceleration),
            status=FilterStatus.BYPASSED,
            solver=SolverStatus.SKIPPED,
            source="proposal",
            slack=(),
            active=(),
            margins=Margins(nan, nan, nan, nan, ""),
            effort=0.0,
        )

    def reset(self, state: RobotState | None = None) -> None:
        """Nothing to forget."""


class Filter(Protocol):
    """A safety filter, or a double of one."""

    def __call__(self, state: RobotState, *, acceleration: Vector) -> FilterResult:
        """The closest allowed motion to an acceleration, shape (n,), rad/s²."""
        ...

    def reset(self, state: RobotState | None = None) -> object:
        """Start anew at ``state``."""
        ...


def alternating_targets(
    robot: RobotModel, seed: int, kind: Unsafe, pairs: int = 10, seconds: tuple[float, float] = (1.5, 2.5)
) -> tuple[Target, ...]:
    """``pairs`` of an unsafe target and a safe one after it, starting from the robot's home.

    A safe target keeps 2 cm between links and 0.15 rad from limits, and so does the straight way to it from
    the safe target before, and from where the arm is stopped on its way to the unsafe target between them.

    Raises:
        ConfigError: no such target was found.
    """
    rng = streams.stream(seed, 0, f"usefulness:{kind.value}")
    space = _Space(robot)
    here, targets = robot.home, list[Target]()
    for _ in range(pairs):
        unsafe, after = _pair(space, here, kind, rng)
        targets.append(Target(frozen_array(unsafe), False, float(rng.uniform(*seconds))))
        targets.append(Target(frozen_array(after), True, float(rng.uniform(*seconds))))
        here = after
    return tuple(targets)


def measure_usefulness(
    robot: RobotModel, safety_filter: Filter, targets: Sequence[Target], period: float = 0.002
) -> Usefulness:
    """Pursue ``targets`` one after the other through ``safety_filter`` alone, from the robot's home.

    Raises:
        ConfigError: there is no safe target.
    """
    if not any(target.safe for target in targets):
        raise ConfigError("measure_usefulness: there is no safe target among the targets")
    world = World(robot, period=period)
    safety_filter.reset(world.observe().state)
    drive = _Drive(world, Referee(robot, world), safety_filter, period)
    for target in targets:
        drive.pursue(target)
    ticks = max(sum(drive.statuses.values()), 1)
    return Usefulness(
        safe=sum(target.safe for target in targets),
        reached=drive.reached,
        stuck=drive.stuck / max(drive.safe_ticks, 1),
        modified=drive.statuses[FilterStatus.CORRECTED] / ticks,
        braked=(drive.statuses[FilterStatus.BACKUP] + drive.statuses[FilterStatus.REFUSED]) / ticks,
        judgement=drive.referee.judgement(),
        seconds=tuple(drive.seconds),
    )


def compare_usefulness(
    robot: RobotModel, safety_filter: Filter, targets: Sequence[Target], period: float = 0.002
) -> Comparison:
    """Pursue ``targets`` through ``safety_filter``, then again through nothing."""
    return Comparison(
        measure_usefulness(robot, safety_filter, targets, period),
        measure_usefulness(robot, Unfiltered(robot), targets, period),
    )


class _Drive:
    """Tracks targets through a filter in a world."""

    def __init__(self, world: World, referee: Referee, safety_filter: Filter, period: float) -> None:
        self._world, self.referee, self._filter, self._period = world, referee, safety_filter, period
        self.statuses = dict.fromkeys(FilterStatus, 0)
        self.reached = self.stuck = self.safe_ticks = 0
        self.seconds: list[float | None] = []

    def pursue(self, target: Target) -> None:
        state = self._world.observe().state
        start, standing, since = state.q, 0, None
        duration = _MOVING_SHARE * target.seconds
        for k in range(round(target.seconds / self._period)):
            reference = _reference(start, target.q, k * self._period, duration)
            result = self._tick(state, _tracking(state, *reference))
            state = self._world.observe().state
            away = bool(np.abs(state.q - target.q).max() > _REACHED)
            since = None if away else k * self._period if since is None else since
            begun = k * self._period > _STANDS_FOR  # the time law starts from rest
            standing = standing + 1 if begun and away and np.abs(state.v).max() < _STANDS else 0
            if target.safe:
                self.safe_ticks += 1
                self.stuck += result.stuck or standing * self._period > _STANDS_FOR
        if target.safe:
            self.reached += since is not None
            self.seconds.append(None if since is None else since + self._period)

    def _tick(self, state: RobotState, acceleration: Vector) -> FilterResult:
        result = self._filter(state, acceleration=acceleration)
        self.statuses[result.status] += 1
        now, seq = self._world.time_ns, sum(self.statuses.values())
        command: Command
        if result.status is FilterStatus.REFUSED:
            command = TerminalStop(result.refusal, now, seq)
        else:
            command = TorqueCommand(result.torque, now, now + round(2 * self._period * NS_PER_S), seq)
        self.referee.command(command, now)
        self._world.apply(command)
        self._world.advance()
        self.referee.observe()
        return result


def _reference(start: Vector, goal: Vector, t: float, duration: float) -> tuple[Vector, Vector, Vector]:
    """Position, velocity and acceleration on the straight way after ``t`` s: s(x) = 10x³ − 15x⁴ + 6x⁵."""
    x = min(t / duration, 1.0)
    s = x**3 * (10.0 - 15.0 * x + 6.0 * x * x)
    ds = 30.0 * x * x * (1.0 - x) ** 2 / duration
    dds = 60.0 * x * (1.0 - x) * (1.0 - 2.0 * x) / duration**2
    way = goal - start
    return start + s * way, ds * way, dds * way


def _tracking(state: RobotState, q: Vector, v: Vector, a: Vector) -> Vector:
    """A + ω² (q_ref − q) + 2 ω (v_ref − v), rad/s²."""
    return a + _OMEGA * _OMEGA * (q - state.q) + 2.0 * _OMEGA * (v - state.v)


class _Space:
    """Limits and clearance of configurations."""

    def __init__(self, robot: RobotModel) -> None:
        self._clearance = Clearance(robot)
        self._clear = min(_CLEAR, _OF_HOME * self.clearance(robot.home))
        self.low, self.high = robot.limits.q_min, robot.limits.q_max

    def inside(self, q: Vector, margin: float = 0.0) -> bool:
        """Every joint keeps ``margin`` rad from its limits."""
        return bool(((q >= self.low + margin) & (q <= self.high - margin)).all())

    def clearance(self, q: Vector) -> float:
        """Smallest distance between two links, m."""
        return self._clearance(q)[0]

    def clear_way(self, start: Vector, goal: Vector) -> bool:
        """The straight way leaves ``start`` without coming closer, then keeps its distance."""
        first = self.clearance(start) - _SHRINK
        for share, q in _points(start, goal):
            needed = min(first, self._clear) if share < _LEAVING else self._clear
            if self.clearance(q) < needed:
                return False
        return True

    def last_allowed(self, start: Vector, goal: Vector) -> Vector:
        """Where an arm on the straight way to an unsafe ``goal`` is expected to be stopped."""
        last = start
        for _, q in _points(start, goal):
            if not self.inside(q) or self.clearance(q) < _STOPS_AT * self._clear:
                break
            last = q
        return last


def _points(start: Vector, goal: Vector) -> Iterator[tuple[float, Vector]]:
    count = max(int(np.abs(goal - start).max() / _STEP), 1)
    for k in range(1, count + 1):
        yield k / count, start + (goal - start) * (k / count)


def _pair(space: _Space, here: Vector, kind: Unsafe, rng: np.random.Generator) -> tuple[Vector, Vector]:
    """An unsafe target, and a safe one that is free to reach from where the arm stops on its way there."""
    for _ in range(_TRIES):
        unsafe = _unsafe(space, here, kind, rng)
        if unsafe is None:
            continue
        stop = space.last_allowed(here, unsafe)
        for _ in range(50):
            after = here + rng.uniform(-_FAR, _FAR, len(here))
            near = space.inside(after, _INSIDE) and np.abs(after - stop).max() <= _FAR
            if near and space.clear_way(here, after) and space.clear_way(stop, after):
                return unsafe, after
    raise ConfigError(f"no safe target was found near {np.round(here, 2).tolist()} in {_TRIES} tries")


def _unsafe(space: _Space, here: Vector, kind: Unsafe, rng: np.random.Generator) -> Vector | None:
    """One draw of an unsafe target, or None."""
    match kind:
        case Unsafe.JOINT_LIMITS:
            q = here.copy()
            joints = rng.choice(len(q), size=int(rng.integers(1, 4)), replace=False)
            far = rng.uniform(0.1, 0.5, len(joints))
            upper = (space.high - here)[joints] < (here - space.low)[joints]
            q[joints] = np.where(upper, space.high[joints] + far, space.low[joints] - far)
            return q
        case Unsafe.SELF_COLLISION:
            q = here + rng.uniform(-_AWAY, _AWAY, len(here))
            return q if space.inside(q) and space.clearance(q) < 0.0 else None
        case Unsafe.RANDOM:
            spread = 0.2 * (space.high - space.low)
            q = np.clip(rng.uniform(space.low - spread, space.high + spread), here - _AWAY, here + _AWAY)
            return None if space.inside(q) and space.clearance(q) >= 0.0 else q
