"""The referee: judges a run from MuJoCo's state, contacts and applied torques, and from the command stream.

It shares no model with the shield that it judges. 0 means the exact limit: there is no tolerance, and a value
that equals its limit is inside. A state that is not a number is a violation of unbounded size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np

from safeguard.core.errors import MissingExtraError
from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S, Command, TerminalStop, Vector

_HORIZON = 0.10  # m; clearances beyond it are reported as this much


class ViolationKind(Enum):
    """What a referee can see go wrong. Values are stable: they are written to journals."""

    POSITION = "position"  # rad or m beyond the limit
    SPEED = "speed"  # rad/s or m/s beyond the limit
    TORQUE = "torque"  # N·m or N beyond the limit
    SELF_COLLISION = "self_collision"  # m of penetration
    NON_FINITE = "non_finite"  # numbers in a command that are none
    EXPIRED = "expired"  # s since the command ran out
    ORDER = "order"  # how far a sequence number is from increasing
    MISSING = "missing"  # a tick without a command
    STALE = "stale"  # s of age of the information that still moved the body


MOTION = frozenset({ViolationKind.POSITION, ViolationKind.SPEED, ViolationKind.TORQUE, ViolationKind.SELF_COLLISION})
"""Kinds that make a hazard; the others judge the command stream."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Everything seen of one kind.

    Attributes:
        kind: what was violated.
        ticks: control periods in which it was seen.
        worst: largest size, in the kind's unit.
        where: joint or ``"link_a|link_b"`` of the largest, or "".
        first: time of the first, ns.
    """

    kind: ViolationKind
    ticks: int
    worst: float
    where: str
    first: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """A referee's account of a run.

    Attributes:
        violations: by kind, only kinds that were seen.
        contacts: how often two links of the robot began to touch.
        clearance: smallest distance between two links at the end of a period, m, at most 0.1.
        nearest: the pair with that clearance.
        ticks: control periods judged.
        unstable: MuJoCo warned of a diverging simulation.
    """

    violations: Mapping[ViolationKind, Violation]
    contacts: int
    clearance: float
    nearest: str
    ticks: int
    unstable: bool

    @property
    def hazard(self) -> bool:
        """A position, speed, torque or collision limit was exceeded."""
        return any(kind in MOTION for kind in self.violations)

    @property
    def clean(self) -> bool:
        """Nothing at all was seen."""
        return not self.violations

    def ticks_of(self, kind: ViolationKind) -> int:
        """Control periods with a violation of ``kind``."""
        return self.violations[kind].ticks if kind in self.violations else 0


class Physics(Protocol):
    """What a referee needs of a world."""

    @property
    def model(self) -> Any:
        """The compiled ``mujoco.MjModel``."""
        ...

    @property
    def data(self) -> Any:
        """Its ``mujoco.MjData``."""
        ...

    @property
    def time_ns(self) -> int:
        """Simulated time, ns."""
        ...

    @property
    def applied_torque(self) -> Vector:
        """Largest |drive torque| of each joint over the last period, shape (n,), N·m."""
        ...


class Referee:
    """Watches one robot in one world.

    Args:
        robot: whose limits and links are judged.
        world: where it moves; bound by joint and geometry names.
        max_age_s: commands that follow from older information are stale; None switches that off.

    Call :meth:`command` with every command, :meth:`sample` after every physics step if the world has a hook,
    and :meth:`observe` after every control period.

    Attributes:
        within: the last control period kept every limit.
    """

    def __init__(self, robot: RobotModel, world: Physics, *, max_age_s: float | None = None) -> None:
        self._robot, self._world = robot, world
        self._max_age = None if max_age_s is None else round(max_age_s * NS_PER_S)
        joints = [world.model.joint(name) for name in robot.joints]
        self._q = np.array([int(joint.qposadr[0]) for joint in joints])
        self._v = np.array([int(joint.dofadr[0]) for joint in joints])
        self._links = _links_by_geom(robot, world.model)
        self._clearance = Clearance(robot)
        self.reset()

    def reset(self) -> None:
        """Forget everything; a new episode begins."""
        self._found: dict[ViolationKind, Violation] = {}
        self._counted: set[ViolationKind] = set()
        self._touching: frozenset[str] = frozenset()
        self._contacts = self._ticks = 0
        self._least, self._nearest = _HORIZON, ""
        self._last_seq: int | None = None
        self.within = True
        self._warned = _divergences(self._world.data)

    def command(self, command: Command | None, now: int, informed: int | None = None) -> None:
        """Judge what the actuators got at ``now`` ns.

        ``informed`` is the time (ns) of the newest observation that the policy knew when it proposed what
        this command follows; None where the command follows no proposal.
        """
        if command is None:
            self._note(ViolationKind.MISSING, 1.0, "", now)
            return
        bad = sum(int((~np.isfinite(numbers)).sum()) for numbers in _numbers(command))
        self._note(ViolationKind.NON_FINITE, float(bad), "", now)
        if not isinstance(command, TerminalStop):
            self._note(ViolationKind.EXPIRED, (now - command.expires) / NS_PER_S, "", now)
        if self._last_seq is not None:
            self._note(ViolationKind.ORDER, float(self._last_seq + 1 - command.seq), "", now)
        self._last_seq = command.seq
        if self._max_age is not None and informed is not None and now - informed > self._max_age:
            self._note(ViolationKind.STALE, (now - informed) / NS_PER_S, "", now)

    def sample(self) -> None:
        """Judge position, speed and contacts as they are now."""
        data, limits, now = self._world.data, self._robot.limits, self._world.time_ns
        q, v = data.qpos[self._q], data.qvel[self._v]
        self._worst_joint(ViolationKind.POSITION, np.maximum(q - limits.q_max, limits.q_min - q), now)
        self._worst_joint(ViolationKind.SPEED, np.abs(v) - limits.v_max, now)
        self._judge_contacts(now)

    def observe(self) -> None:
        """Judge the control period that just ended; closes its tick."""
        self.sample()
        now = self._world.time_ns
        self._worst_joint(ViolationKind.TORQUE, self._world.applied_torque - self._robot.limits.tau_max, now)
        clearance, pair = self._clearance(self._world.data.qpos[self._q])
        if clearance < self._least:
            self._least, self._nearest = clearance, pair
        self.within = MOTION.isdisjoint(self._counted)
        self._counted.clear()
        self._ticks += 1

    def judgement(self) -> Judgement:
        """Everything seen since the reset."""
        return Judgement(
            violations=dict(self._found),
            contacts=self._contacts,
            clearance=self._least,
            nearest=self._nearest,
            ticks=self._ticks,
            unstable=_divergences(self._world.data) > self._warned,
        )

    def _worst_joint(self, kind: ViolationKind, excess: Vector, now: int) -> None:
        excess = np.where(np.isnan(excess), np.inf, excess)
        j = int(np.argmax(excess))
        self._note(kind, float(excess[j]), self._robot.joints[j], now)

    def _judge_contacts(self, now: int) -> None:
        """Contacts of two links that overlap. MuJoCo holds those at the start of its last step."""
        data = self._world.data
        touching: dict[str, float] = {}
        for k in range(int(data.ncon)):
            contact = data.contact[k]
            pair = self._pair(int(contact.geom1), int(contact.geom2))
            if pair is not None and contact.dist < 0.0:
                touching[pair] = max(touching.get(pair, 0.0), -float(contact.dist))
        for pair, depth in touching.items():
            self._note(ViolationKind.SELF_COLLISION, depth, pair, now)
        self._contacts += len(touching.keys() - self._touching)
        self._touching = frozenset(touching)

    def _pair(self, a: int, b: int) -> str | None:
        """``"link_a|link_b"`` if both are the robot's."""
        if a not in self._links or b not in self._links:
            return None
        return "|".join(name for _, name in sorted((self._links[a], self._links[b])))

    def _note(self, kind: ViolationKind, size: float, where: str, now: int) -> None:
        if not size > 0.0:
            return
        seen = self._found.get(kind)
        fresh = kind not in self._counted
        self._counted.add(kind)
        if seen is None:
            self._found[kind] = Violation(kind, 1, size, where, now)
            return
        if size > seen.worst:
            self._found[kind] = Violation(kind, seen.ticks + fresh, size, where, seen.first)
        elif fresh:
            self._found[kind] = Violation(kind, seen.ticks + 1, seen.worst, seen.where, seen.first)


class Clearance:
    """Smallest distance between two links of kept pairs, measured by MuJoCo in a twin without a task.

    The twin's contacts have a margin of 0.1 m, so that distances below it are listed; nothing moves in it.
    """

    def __init__(self, robot: RobotModel) -> None:
        spec = robot.to_mujoco()
        for pair in spec.pairs:
            pair.margin = pair.gap = _HORIZON
        self._mj = _mujoco()
        self._model: Any = spec.compile()
        self._data: Any = self._mj.MjData(self._model)
        self._q = np.array([int(self._model.joint(name).qposadr[0]) for name in robot.joints])
        self._links = _links_by_geom(robot, self._model)

    def __call__(self, q: Vector) -> tuple[float, str]:
        """(distance in m, negative for penetration, at most 0.1; the pair) at ``q``, shape (n,), rad."""
        if not np.isfinite(q).all():
            return -np.inf, ""
        self._data.qpos[self._q] = q
        self._mj.mj_kinematics(self._model, self._data)
        self._mj.mj_collision(self._model, self._data)
        if self._data.ncon == 0:
            return _HORIZON, ""
        k = int(np.argmin(self._data.contact.dist))
        a, b = (self._links[int(geom)] for geom in self._data.contact.geom[k])
        return float(self._data.contact.dist[k]), "|".join(name for _, name in sorted((a, b)))


def _links_by_geom(robot: RobotModel, model: Any) -> dict[int, tuple[int, str]]:
    """(place in the chain, link) of every geometry of the robot, by geometry id."""
    links = dict.fromkeys(robot.collision.links)
    order = {link: k for k, link in enumerate(links)}
    named = {
        name: link for names, link in zip(robot.collision.members, robot.collision.links, strict=True) for name in names
    }
    return {int(model.geom(name).id): (order[link], link) for name, link in named.items()}


def _numbers(command: Command) -> Iterable[Vector]:
    """Every array of a command."""
    names = ("tau", "q", "v", "kp", "kd", "tau_ff")
    return [np.asarray(value) for name in names if (value := getattr(command, name, None)) is not None]


def _divergences(data: Any) -> int:
    """How often MuJoCo found a position, velocity or acceleration that is no number or huge."""
    kinds = _mujoco().mjtWarning
    bad = (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC)
    return sum(int(data.warning[int(k)].number) for k in bad)


def _mujoco() -> Any:
    try:
        import mujoco
    except ImportError as error:
        raise MissingExtraError("Referee", "sim") from error
    return mujoco
