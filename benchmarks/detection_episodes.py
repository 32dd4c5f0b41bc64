"""Recorded episodes for ``detection.py``: nominal ones, the fault library, and a policy that is not what it was.

Every episode runs with the shield on and without a calibration: monitors score, and no score acts on anything. All
have the same length. An episode is one file in the cache; a file that exists is not simulated again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from safeguard.core.config import ShieldConfig
from safeguard.core.enums import Enforcement
from safeguard.core.protocols import Policy
from safeguard.core.robot import RobotModel
from safeguard.core.types import (
    NS_PER_S,
    ActionSpec,
    Decision,
    Observation,
    Proposal,
    Sensor,
    Vector,
)
from safeguard.scenarios import streams
from safeguard.scenarios.calibration import Trace
from safeguard.scenarios.episode import EpisodeResult
from safeguard.scenarios.referee import MOTION
from safeguard.scenarios.runner import load_policy, run_episode
from safeguard.scenarios.scenario import Scenario, load_scenario
from safeguard.shield import Shield

SEVERITIES: Final = (1, 3, 5)
ONSET_S: Final = 1.0

FAULTS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "torque_spikes": ("torque_spikes", ()),
    "drive_to_limits": ("joint_limits", ()),
    "drive_to_collision": ("self_collision", ()),
    "nan": ("nan_burst", ()),
    "hang": ("policy_hang", ()),
    "latency": ("clean", ("faults=[{kind: compute.latency, start_s: 1.0, duration_s: 2.0}]",)),
    "freeze": ("frozen_observation", ()),
    "torque_loss": ("clean", ("faults=[{kind: plant.torque_loss, start_s: 1.0, duration_s: 2.0}]",)),
}
"""Kind → scenario of the library, and what is changed in it. Onset is at 1.0 s in all of them."""

UNSCALED: Final = frozenset({"hang", "freeze"})
"""Severity changes nothing about these: one cell each, with the episodes of all three."""

SHIFTS: Final[Mapping[str, str]] = {
    "shift.camera": "puck and goal are seen 2 cm (× severity) beside where they are",
    "shift.noise": "their positions are read with noise of 5 mm (× severity)",
    "shift.weights": "every weight of the policy is off by a normal 3 % (× severity) of its layer's spread",
}
"""Kind → what is other than in training, from the first tick to the last."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of episode. ``kind`` is "nominal", a key of FAULTS or of SHIFTS."""

    kind: str
    severity: int = 0

    @property
    def label(self) -> str:
        """For files and reports."""
        return f"{self.kind}-{self.severity}"

    @property
    def scenario(self) -> Scenario:
        """What the runner is given; a shift is in the policy, not in the scenario."""
        name, changes = FAULTS.get(self.kind, ("clean", ()))
        found = load_scenario(name, [*changes, "calibration=null"])
        return found.model_copy(
            update={"faults": tuple(f.model_copy(update={"severity": self.severity}) for f in found.faults)}
        )


def cells() -> tuple[Cell, ...]:
    """Every kind of positive episode."""
    return tuple(
        Cell(kind, severity) for kind in (*FAULTS, *SHIFTS) for severity in ((3,) if kind in UNSCALED else SEVERITIES)
    )


@dataclass(frozen=True, slots=True)
class Episode:
    """What was recorded.

    Attributes:
        cell: which kind.
        number: of the episode, which names its random streams.
        trace: scores and followed proposals.
        checked: ticks in which a deterministic check raised a cause, shape (ticks,).
        stop_s: largest |speed| / acceleration limit over the joints in every tick, s: how long a stop takes.
        onset: tick of the fault's first effect by its own evidence; 0 for a shift; None where nothing acted.
        hazard: tick of the first limit of motion that the same episode without a shield exceeded, or None.
        success, bare_success: the task was done at the end, with and without a shield.
        period: s.
        ftti_s: of the scenario.
    """

    cell: Cell
    number: int
    trace: Trace
    checked: NDArray[np.bool_]
    stop_s: Vector
    onset: int | None
    hazard: int | None
    success: bool
    bare_success: bool
    period: float
    ftti_s: float

    @property
    def ticks(self) -> int:
        """Its length."""
        return len(self.checked)


class Shifted:
    """A policy whose world, or whose weights, are not what it was trained with."""

    def __init__(self, policy: Policy, cell: Cell, rng: np.random.Generator) -> None:
        self._policy, self._cell, self._rng = policy, cell, rng
        self.name = str(getattr(policy, "name", "policy"))
        aside = rng.uniform(-np.pi, np.pi)
        self._aside = 0.02 * cell.severity * np.array([np.cos(aside), np.sin(aside)])
        if cell.kind == "shift.weights":
            _disturb(policy, 0.03 * cell.severity, rng)

    @property
    def spec(self) -> ActionSpec:
        """The policy's."""
        return self._policy.spec

    def infer(self, observation: Observation) -> Proposal:
        """The policy's answer to what it sees."""
        sensors = {name: Sensor(self._seen(part.value), part.t) for name, part in observation.sensors.items()}
        return self._policy.infer(replace(observation, sensors=sensors))

    def reset(self) -> None:
        """Forget the episode."""
        self._policy.reset()

    def _seen(self, place: Vector) -> Vector:
        if self._cell.kind == "shift.camera":
            return place + self._aside
        if self._cell.kind == "shift.noise":
            return place + self._rng.normal(0.0, 0.005 * self._cell.severity, place.shape)
        return place


def _disturb(policy: Policy, share: float, rng: np.random.Generator) -> None:
    net: Any = cast("Any", policy)._net  # the policy has no public way to be damaged
    for parameter in net.parameters():
        values: NDArray[np.float32] = parameter.detach().numpy()
        values += rng.normal(0.0, share * float(values.std()), values.shape).astype(values.dtype)


class _Recording(Shield):
    """A shield that keeps what happens in its ticks."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.scores: dict[str, list[float]] = {name: [] for name in self.bank.names}
        self.checked: list[bool] = []
        self.stop_s: list[float] = []
        self.followed: list[tuple[int, Proposal]] = []

    def step(self, observation: Observation, now: int | None = None) -> Decision:
        """Decide one tick."""
        decision = super().step(observation, now)
        scored = {verdict.monitor: verdict.score for verdict in decision.verdicts if verdict.monitor in self.scores}
        for name, values in self.scores.items():
            values.append(scored[name])
        self.checked.append(
            any(
                v.cause is not None and not (v.monitor in scored or v.monitor.startswith("joint."))
                for v in decision.verdicts
            )
        )
        self.stop_s.append(float((np.abs(observation.state.v) / self.platform.a_max).max()))
        proposal = self.following
        if proposal is not None and (not self.followed or self.followed[-1][1] is not proposal):
            self.followed.append((decision.tick, proposal))
        return decision


def simulate(cell: Cell, number: int) -> Episode:
    """Run and record one episode, and where something is wrong in it, the same without a shield."""
    made: list[_Recording] = []

    def make(robot: RobotModel, port: Any, /, **settings: Any) -> Shield:
        made.append(_Recording(robot, port, **settings))
        return made[0]

    scenario = cell.scenario
    result = run_episode(
        scenario, episode=number, config=ShieldConfig(), policy=_shifted(cell, number), make_shield=make
    )
    bare = result
    if cell.kind != "nominal":
        bare = run_episode(scenario, episode=number, enforcement=Enforcement.OFF, policy=_shifted(cell, number))
    shield = made[0]
    scores = {name: np.array(values) for name, values in shield.scores.items()}
    return Episode(
        cell=cell,
        number=number,
        trace=Trace(result.outcome, scores, tuple(shield.followed), replace(shield.bank.setting, fit={})),
        checked=np.array(shield.checked),
        stop_s=np.array(shield.stop_s),
        onset=_onset(cell, result, scenario),
        hazard=_hazard(bare, scenario),
        success=result.success,
        bare_success=bare.success,
        period=scenario.period_s,
        ftti_s=scenario.ftti_s,
    )


def _shifted(cell: Cell, number: int) -> Shifted | None:
    """The policy of a shift; None leaves the scenario's own."""
    if cell.kind not in SHIFTS:
        return None
    scenario = cell.scenario
    policy = load_policy(scenario, RobotModel.load(scenario.robot))
    return Shifted(policy, cell, streams.stream(scenario.seed, number, cell.label))


def _onset(cell: Cell, result: EpisodeResult, scenario: Scenario) -> int | None:
    if cell.kind in SHIFTS:
        return 0
    firsts = [activity.first for activity in result.activities.values() if activity.first is not None]
    return _tick(min(firsts), scenario) if firsts else None


def _hazard(result: EpisodeResult, scenario: Scenario) -> int | None:
    firsts = [violation.first for kind, violation in result.judgement.violations.items() if kind in MOTION]
    return _tick(min(firsts), scenario) if firsts else None


def _tick(now: int, scenario: Scenario) -> int:
    return round(now / (scenario.period_s * NS_PER_S))
