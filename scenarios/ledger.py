"""What is counted in one block of a soak."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from safeguard.core.enums import FilterStatus
from safeguard.core.robot import RobotModel
from safeguard.core.types import FilterResult, Vector
from safeguard.scenarios.referee import Referee, ViolationKind
from safeguard.scenarios.world import World

ACCELERATION, TORQUE_RATE = "acceleration", "torque_rate"
KINDS = ("position", "speed", "torque", "self_collision", "non_finite", ACCELERATION, TORQUE_RATE)
"""What is judged: rad, rad/s, N·m, m, numbers that are none, rad/s², N·m/s beyond the limit."""
STAGES = ("adversary", "filter", "physics", "referee")

_FIGURES = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?")  # in a reason


@dataclass(frozen=True, slots=True)
class Finding:
    """Everything of one kind: ticks in which it was seen, and the worst of it, with the way back to it.

    Attributes:
        ticks: control periods in which it was seen.
        worst: largest size, in the kind's unit.
        where: joint or pair of links of the worst.
        adversary, block: whose the worst is.
        first: tick of that block in which the kind was first seen.
    """

    ticks: int
    worst: float
    where: str
    adversary: str
    block: int
    first: int

    def __or__(self, other: Finding) -> Finding:
        worse = other if other.worst > self.worst else self
        return replace(worse, ticks=self.ticks + other.ticks)


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What happened in one block.

    Attributes:
        block, adversary, ticks: which one; ticks that were run.
        findings: by kind, only kinds that were seen.
        statuses: ticks by ``FilterStatus`` value.
        refusals: ticks by reason of the backup, without its figures.
        stuck: ticks that the filter called stuck.
        exceptions: what came out of ticks.
        clearance: smallest distance between links, m, at most 0.1.
        fingerprint: of every torque that the drives got and of the final state.
        filter_ns: time of every tick's filter, ns.
        spent_ns: time of each stage, ns.
    """

    block: int
    adversary: str
    ticks: int
    findings: dict[str, Finding]
    statuses: Counter[str]
    refusals: Counter[str]
    stuck: int
    exceptions: tuple[str, ...]
    clearance: float
    fingerprint: str
    filter_ns: tuple[int, ...]
    spent_ns: Counter[str]


class Ledger:
    """What is counted in one block."""

    def __init__(self, adversary: str, block: int) -> None:
        self.adversary, self.block, self.ticks, self.stuck = adversary, block, 0, 0
        self.exceptions: list[str] = []
        self.statuses, self.refusals, self.spent = Counter[str](), Counter[str](), Counter[str]()
        self.findings: dict[str, Finding] = {}
        self.filter_ns: list[int] = []
        self._torque: Vector | None = None
        self._hash = hashlib.sha256()
        self._clearance = np.inf

    def outcome(self, result: FilterResult) -> None:
        """Count what the filter said."""
        self.statuses[result.status.value] += 1
        self.stuck += result.stuck
        if result.refusal:
            self.refusals[_FIGURES.sub("#", result.refusal)] += 1
        if result.status is FilterStatus.REFUSED:
            self._torque = None

    def acceleration(self, a: Vector, robot: RobotModel) -> None:
        """Judge the acceleration of a command."""
        self._judge(ACCELERATION, np.abs(a) - robot.limits.a_max, robot)

    def torque(self, tau: Vector, robot: RobotModel, dt: float) -> None:
        """Judge the change from the torque before; refused ticks have none."""
        if self._torque is not None:
            self._judge(TORQUE_RATE, np.abs(tau - self._torque) / dt - robot.limits.tau_rate_max, robot)
        self._torque = tau
        self._hash.update(tau.tobytes())

    def tick(self, *spent: int) -> None:
        """Close a tick: ns of each stage."""
        self.spent.update(dict(zip(STAGES, spent, strict=True)))
        self.filter_ns.append(spent[1])
        self.ticks += 1

    def close(self, referee: Referee, world: World) -> None:
        """Take over the referee's account, and where the body ended."""
        judgement = referee.judgement()
        for kind, seen in judgement.violations.items():
            first = max(seen.first - 1, 0) // world.period_ns
            self._add(kind.value, Finding(seen.ticks, seen.worst, seen.where, self.adversary, self.block, first))
        if judgement.clearance < 0.0 and ViolationKind.SELF_COLLISION not in judgement.violations:
            # MuJoCo lists the contacts of a step's start: the last state of a block is only measured.
            self._note(ViolationKind.SELF_COLLISION.value, -judgement.clearance, judgement.nearest)
        self._clearance = judgement.clearance
        self._hash.update(world.data.qpos.tobytes() + world.data.qvel.tobytes())

    def result(self) -> BlockResult:
        """The account."""
        return BlockResult(
            block=self.block,
            adversary=self.adversary,
            ticks=self.ticks,
            findings=self.findings,
            statuses=self.statuses,
            refusals=self.refusals,
            stuck=self.stuck,
            exceptions=tuple(self.exceptions),
            clearance=self._clearance,
            fingerprint=self._hash.hexdigest(),
            filter_ns=tuple(self.filter_ns),
            spent_ns=self.spent,
        )

    def _judge(self, kind: str, excess: Vector, robot: RobotModel) -> None:
        sizes = np.where(np.isnan(excess), np.inf, excess)
        j = int(sizes.argmax())
        if sizes[j] > 0.0:
            self._note(kind, float(sizes[j]), robot.joints[j])

    def _note(self, kind: str, size: float, where: str) -> None:
        self._add(kind, Finding(1, size, where, self.adversary, self.block, self.ticks))

    def _add(self, kind: str, finding: Finding) -> None:
        seen = self.findings.get(kind)
        self.findings[kind] = finding if seen is None else seen | finding
