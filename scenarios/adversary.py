"""What tries to break a safety filter: seeded streams of proposals that no sane policy makes.

An adversary is a generator over a ``Stage``; the loop puts the measured state there and asks for the next
``Attempt``. It knows limits and MuJoCo's own distances, and nothing of the filter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from safeguard.core.enums import NominalKind
from safeguard.core.errors import MissingExtraError
from safeguard.core.robot import RobotModel
from safeguard.core.types import FULL_ENVELOPE, Envelope, RobotState, Vector

_HORIZON = 0.1  # m; distances beyond it are not measured
_LEAST_SLOPE = 0.02  # m/rad
_DRAWS = 300  # configurations that are tried for a collision
_DEEP = -0.02  # m; a collision deep enough to aim at


@dataclass(frozen=True, slots=True)
class Attempt:
    """One proposal: a kind, numbers that may be anything, and the envelope it is given."""

    kind: NominalKind
    value: Any
    kp: ArrayLike | None = None
    kd: ArrayLike | None = None
    envelope: Envelope = FULL_ENVELOPE

    def arguments(self) -> dict[str, Any]:
        """As keywords of a ``SafetyFilter``."""
        gains = {"kp": self.kp, "kd": self.kd} if self.kind is NominalKind.POSITION else {}
        return {self.kind.value: self.value, "envelope": self.envelope, **gains}


class Nearness:
    """Smallest distance between links and the way to shrink it, from a MuJoCo twin in which nothing moves."""

    def __init__(self, robot: RobotModel) -> None:
        try:
            import mujoco
        except ImportError as error:
            raise MissingExtraError("Nearness", "sim") from error
        spec = robot.to_mujoco()
        for pair in spec.pairs:
            pair.margin = pair.gap = _HORIZON
        self._mj: Any = mujoco
        self._model: Any = spec.compile()
        self._data: Any = mujoco.MjData(self._model)
        self._q = np.array([int(self._model.joint(name).qposadr[0]) for name in robot.joints])
        self._v = np.array([int(self._model.joint(name).dofadr[0]) for name in robot.joints])

    def distance(self, q: Vector) -> float:
        """Smallest signed distance at ``q``, shape (n,), m; 0.1 if nothing is nearer."""
        self._data.qpos[self._q] = q
        self._mj.mj_kinematics(self._model, self._data)
        self._mj.mj_collision(self._model, self._data)
        return float(self._data.contact.dist.min()) if self._data.ncon else _HORIZON

    def gradient(self, q: Vector) -> Vector:
        """Gradient of the distance of the nearest pair that can still be changed, shape (n,), m/rad.

        Some links are always near each other: pairs with slopes below 0.02 m/rad are passed over. Zero if nothing
        else is near.
        """
        if self.distance(q) >= _HORIZON:
            return np.zeros(len(q))
        self._mj.mj_comPos(self._model, self._data)
        for k in np.argsort(self._data.contact.dist):
            slope = self._slope(self._data.contact[int(k)])
            if np.abs(slope).max() > _LEAST_SLOPE:
                return slope
        return np.zeros(len(q))

    def _slope(self, contact: Any) -> Vector:
        """n·(J₂ − J₁) of a contact, with the Jacobians of its two points."""
        normal, half = contact.frame[:3], 0.5 * contact.dist * contact.frame[:3]
        rows: list[Vector] = []
        for geom, point in ((contact.geom1, contact.pos - half), (contact.geom2, contact.pos + half)):
            jacobian = np.zeros((3, self._model.nv))
            body = int(self._model.geom_bodyid[geom])
            self._mj.mj_jac(self._model, self._data, jacobian, None, point, body)
            rows.append(normal @ jacobian)
        slope: Vector = (rows[1] - rows[0])[self._v]
        return slope


@dataclass(slots=True)
class Stage:
    """What an adversary sees.

    Attributes:
        robot: its limits are known to everybody.
        nearness: MuJoCo's distances.
        rng: the only source of chance.
        state: measured now; the loop sets it before every attempt.
    """

    robot: RobotModel
    nearness: Nearness
    rng: np.random.Generator
    state: RobotState

    def anywhere(self, beyond: float = 0.0) -> Vector:
        """A configuration in the box of the limits, widened by ``beyond`` of its size on every side."""
        low, high = self.robot.limits.q_min, self.robot.limits.q_max
        return self.rng.uniform(low - beyond * (high - low), high + beyond * (high - low))

    def signs(self) -> Vector:
        """−1 or 1 for every joint."""
        return self.rng.choice(np.array([-1.0, 1.0]), self.robot.n)

    def colliding(self) -> Vector:
        """The first of 300 random configurations in deep self-collision, or the nearest to one."""
        draws = (self.anywhere() for _ in range(_DRAWS))
        best, least = self.robot.home, np.inf
        for q in draws:
            distance = self.nearness.distance(q)
            if distance < least:
                best, least = q, distance
            if distance < _DEEP:
                break
        return best

    def spring(self, goal: Vector, omega: float) -> Vector:
        """Acceleration of a critically damped spring to ``goal``, shape (n,), rad/s²."""
        return omega * omega * (goal - self.state.q) - 2.0 * omega * self.state.v


Adversary = Callable[[Stage], Iterator[Attempt]]


def random_torque(stage: Stage) -> Iterator[Attempt]:
    """Gaussian torques of one to five times the limits, each held for 1 to 20 ticks."""
    while True:
        scale = stage.rng.uniform(1.0, 5.0) * stage.robot.limits.tau_max
        tau = scale * stage.rng.normal(size=stage.robot.n)
        for _ in range(stage.rng.integers(1, 21)):
            yield Attempt(NominalKind.TORQUE, tau)


def bang_bang(stage: Stage) -> Iterator[Attempt]:
    """Three times the torque limits; signs drawn anew after 1 to 200 ticks, or reversed every tick."""
    while True:
        tau = 3.0 * stage.robot.limits.tau_max * stage.signs()
        flips, length = stage.rng.random() < 0.15, int(stage.rng.integers(1, 201))
        for k in range(length):
            yield Attempt(NominalKind.TORQUE, -tau if flips and k % 2 else tau)


def to_limits(stage: Stage) -> Iterator[Attempt]:
    """Stiff springs to beyond the position limits, some joints free; another corner after 150 to 1500 ticks."""
    limits = stage.robot.limits
    while True:
        corner = np.where(stage.signs() > 0.0, limits.q_max + 1.0, limits.q_min - 1.0)
        goal = np.where(stage.rng.random(stage.robot.n) < 0.75, corner, stage.anywhere())
        strength = stage.rng.uniform(0.5, 4.0) * limits.tau_max
        for _ in range(int(150 * 10.0 ** stage.rng.random())):
            push = strength * (goal - stage.state.q) - 0.1 * strength * stage.state.v
            yield Attempt(NominalKind.TORQUE, push)


def lean(stage: Stage) -> Iterator[Attempt]:
    """One to three joints press on a limit for good, the others stay; a constant push finds what creeps."""
    start, limits, chosen = stage.state.q, stage.robot.limits, np.zeros(stage.robot.n, dtype=bool)
    chosen[stage.rng.integers(stage.robot.n, size=3)] = True
    push = stage.rng.uniform(0.1, 1.0) * limits.a_max * stage.signs()
    while True:
        yield Attempt(NominalKind.ACCELERATION, np.where(chosen, push, stage.spring(start, 10.0)))


def into_itself(stage: Stage) -> Iterator[Attempt]:
    """Springs to configurations in deep self-collision, then straight down the gradient of the distance."""
    while True:
        goal, omega = stage.colliding(), float(stage.rng.uniform(8.0, 25.0))
        for _ in range(stage.rng.integers(100, 301)):
            yield Attempt(NominalKind.ACCELERATION, stage.spring(goal, omega))
        for _ in range(stage.rng.integers(50, 151)):
            slope = stage.nearness.gradient(stage.state.q)
            steepest = float(np.abs(slope).max())
            if steepest == 0.0:
                break
            yield Attempt(NominalKind.ACCELERATION, -3.0 * stage.robot.limits.a_max * slope / steepest)


def jumps(stage: Stage) -> Iterator[Attempt]:
    """PD targets inside the limits that jump across the whole range, every 1 to 250 ticks."""
    tau = stage.robot.limits.tau_max
    while True:
        goal, kp = stage.anywhere(), stage.rng.uniform(1.0, 20.0) * tau
        for _ in range(stage.rng.integers(1, 251)):
            yield Attempt(NominalKind.POSITION, goal, kp, 0.1 * kp)


def out_of_range(stage: Stage) -> Iterator[Attempt]:
    """PD targets of up to a thousand ranges outside, with gains from soft to absurd, also without damping."""
    tau = stage.robot.limits.tau_max
    while True:
        goal = stage.anywhere(10.0 ** stage.rng.uniform(-1.0, 3.0))
        kp = 10.0 ** stage.rng.uniform(-1.0, 4.0) * tau
        kd = kp * stage.rng.choice(np.array([0.0, 0.01, 0.1]))
        for _ in range(stage.rng.integers(20, 301)):
            yield Attempt(NominalKind.POSITION, goal, kp, kd)


def accelerations(stage: Stage) -> Iterator[Attempt]:
    """Accelerations from half the limits to a million times them, held for 1 to 100 ticks."""
    while True:
        scale = 10.0 ** (stage.rng.uniform(-0.3, 1.0) if stage.rng.random() < 0.8 else stage.rng.uniform(1.0, 6.0))
        a = scale * stage.robot.limits.a_max * stage.rng.uniform(-1.0, 1.0, stage.robot.n)
        for _ in range(stage.rng.integers(1, 101)):
            yield Attempt(NominalKind.ACCELERATION, a)


def velocities(stage: Stage) -> Iterator[Attempt]:
    """Velocities of up to three times the limits, most of them at full stretch, held for 1 to 300 ticks."""
    while True:
        v = stage.rng.uniform(0.5, 3.0) * stage.robot.limits.v_max * stage.signs()
        v *= stage.rng.random(stage.robot.n) < 0.8
        for _ in range(stage.rng.integers(1, 301)):
            yield Attempt(NominalKind.VELOCITY, v)


def tool_motion(stage: Stage) -> Iterator[Attempt]:
    """Twists of up to 10 m/s and rad/s and poses up to 2 m away, upright or on the head, held for 1 to 300 ticks."""
    while True:
        turns = stage.rng.random() < 0.5
        twist = 10.0 ** stage.rng.uniform(-1.0, 1.0) * stage.rng.uniform(-1.0, 1.0, 6)
        turn = stage.rng.normal(size=4)
        pose = np.concatenate((stage.rng.uniform(-2.0, 2.0, 3), turn / np.linalg.norm(turn)))
        for _ in range(stage.rng.integers(1, 301)):
            yield Attempt(NominalKind.TWIST, twist) if turns else Attempt(NominalKind.POSE, pose)


def mixed(stage: Stage) -> Iterator[Attempt]:
    """Another kind of input from another adversary after every 1 to 15 ticks."""
    streams = [make(stage) for make in (bang_bang, jumps, accelerations, velocities, to_limits, into_itself)]
    while True:
        stream = streams[int(stage.rng.integers(len(streams)))]
        for _ in range(stage.rng.integers(1, 16)):
            yield next(stream)


def envelopes(stage: Stage) -> Iterator[Attempt]:
    """Full stretch under envelopes that change between everything and nearly nothing every 1 to 60 ticks."""
    stream = mixed(stage)
    while True:
        velocity, acceleration = 10.0 ** stage.rng.uniform(-2.0, 0.0, 2)
        narrow = Envelope(float(velocity), float(acceleration))
        envelope = narrow if stage.rng.random() < 0.5 else FULL_ENVELOPE
        for _ in range(stage.rng.integers(1, 61)):
            attempt = next(stream)
            yield Attempt(attempt.kind, attempt.value, attempt.kp, attempt.kd, envelope)


def garbage(stage: Stage) -> Iterator[Attempt]:
    """Full stretch with 1 to 30 ticks of input that is no proposal at all in between."""
    stream = mixed(stage)
    while True:
        for _ in range(stage.rng.integers(5, 101)):
            yield next(stream)
        spoil = _SPOILS[int(stage.rng.integers(len(_SPOILS)))]
        for _ in range(stage.rng.integers(1, 31)):
            yield spoil(next(stream), stage)


ADVERSARIES: Mapping[str, Adversary] = {
    make.__name__: make
    for make in (
        random_torque, bang_bang, to_limits, lean, into_itself, jumps,
        out_of_range, accelerations, velocities, tool_motion, mixed, envelopes, garbage,
    )
}  # fmt: skip
"""Every adversary by name, in the order in which a soak takes them."""


def _one_bad_number(number: float) -> Callable[[Attempt, Stage], Attempt]:
    def spoil(attempt: Attempt, stage: Stage) -> Attempt:
        value = np.array(attempt.value, dtype=float)
        value[int(stage.rng.integers(len(value)))] = number
        return Attempt(attempt.kind, value, attempt.kp, attempt.kd)

    return spoil


def _replaced(make: Callable[[Vector], Any]) -> Callable[[Attempt, Stage], Attempt]:
    def spoil(attempt: Attempt, stage: Stage) -> Attempt:
        return Attempt(attempt.kind, make(np.asarray(attempt.value, dtype=float)), attempt.kp, attempt.kd)

    return spoil


def _bad_gains(attempt: Attempt, stage: Stage) -> Attempt:
    n = stage.robot.n
    bad = (np.full(n, np.nan), np.full(n, np.inf), np.ones(n - 1), np.ones((1, n)))
    return Attempt(NominalKind.POSITION, stage.anywhere(), bad[int(stage.rng.integers(len(bad)))], np.ones(n))


_SPOILS: tuple[Callable[[Attempt, Stage], Attempt], ...] = (
    _one_bad_number(np.nan),
    _one_bad_number(np.inf),
    _one_bad_number(-np.inf),
    _one_bad_number(1e300),
    _bad_gains,
    _replaced(lambda value: value * np.nan),
    _replaced(lambda value: value[:-1]),
    _replaced(lambda value: np.append(value, 0.0)),
    _replaced(lambda value: value[None]),
    _replaced(lambda value: np.zeros(0)),
    _replaced(lambda value: 0.0),
    _replaced(lambda value: np.repeat(value, 2)[::2]),  # not contiguous, and fine
    _replaced(lambda value: np.clip(value, -1e30, 1e30).astype(np.float32)),
    _replaced(lambda value: value > 0.0),
    _replaced(lambda value: value + 1j),
    _replaced(lambda value: ["left", *value[1:].tolist()]),
    _replaced(lambda value: [None, *value[1:].tolist()]),
    _replaced(lambda value: [value.tolist(), 1.0]),
)
"""Ways to spoil a proposal: no numbers, numbers that are none, wrong shapes, other types."""
