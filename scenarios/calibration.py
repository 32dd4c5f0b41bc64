"""Calibration of the shield's monitors on nominal episodes of a scenario, with the shield on.

Every episode runs in shadow mode: the monitors score, but without a calibration their verdicts act on nothing.
An episode counts only if it was nominal for the referee, which the monitors cannot see.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib import resources
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from safeguard.audit.identity import versions
from safeguard.core.config import MonitorsConfig, ShieldConfig
from safeguard.core.errors import CalibrationError
from safeguard.core.protocols import Monitor, PolicyPort
from safeguard.core.robot import RobotModel
from safeguard.core.types import Decision, Evidence, Observation, Proposal, RobotState, Vector
from safeguard.monitors import Calibration, Entry, Origin, Setting, calibrate, cusum
from safeguard.monitors.calibration import role
from safeguard.monitors.embedding import LEAST, learn
from safeguard.monitors.joint import Witness
from safeguard.monitors.registry import monitors
from safeguard.scenarios.episode import Outcome
from safeguard.scenarios.runner import load_policy, run_episode
from safeguard.scenarios.scenario import Scenario
from safeguard.shield import Shield

FIRST_EPISODE = 1000
"""Calibration episodes are numbered from here, so that they share no random stream with those of a demo."""

_MOST_EXCLUDED = 0.1  # share of episodes that may be other than nominal; beyond it the policy needs work first


@dataclass(frozen=True, slots=True)
class Trace:
    """What the monitors saw and scored in one episode.

    Attributes:
        outcome: the referee's class of the episode.
        scores: monitor name → its score in every tick, shape (ticks,).
        followed: (tick, proposal) from when on which proposal was followed.
        setting: what the monitors were built for.
    """

    outcome: Outcome
    scores: Mapping[str, Vector]
    followed: tuple[tuple[int, Proposal], ...]
    setting: Setting


def calibrate_scenario(
    scenario: Scenario,
    *,
    episodes: int,
    first: int = FIRST_EPISODE,
    config: ShieldConfig | None = None,
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Calibrate the monitors on fresh nominal episodes of ``scenario``.

    Args:
        scenario: without faults.
        episodes: how many; one in ten to learn from, one in ten to scale scores, the others for the thresholds. A
            rung of rate α needs 1/α − 1 of those.
        first: number of the first; other numbers are other random streams.
        config: of the shield; the rungs and their rates are in ``config.monitors``.
        workers: processes.
        progress: called with the number of finished episodes.

    Raises:
        CalibrationError: the scenario has faults, or more than a tenth of its episodes were not nominal for the
            referee.
    """
    if scenario.faults:
        raise CalibrationError(f"scenario {scenario.name!r} injects faults; calibrate on one without")
    shield_config = config or ShieldConfig()
    numbers = range(first, first + episodes)
    traces: list[Trace] = []
    # Fresh processes: one that was forked while a library had threads may hang.
    with ProcessPoolExecutor(max_workers=workers, mp_context=get_context("spawn")) as pool:
        for trace in pool.map(record_trace, [(scenario, shield_config, number) for number in numbers]):
            traces.append(trace)
            if progress is not None:
                progress(len(traces))
    excluded = tuple(n for n, trace in zip(numbers, traces, strict=True) if trace.outcome is not Outcome.CLEAN)
    if len(excluded) > _MOST_EXCLUDED * episodes:
        outcome = traces[excluded[0] - first].outcome.value
        raise CalibrationError(
            f"{len(excluded)} of {episodes} episodes of {scenario.name!r} are not clean (episode {excluded[0]} is "
            f"{outcome}): nothing nominal to calibrate on"
        )
    nominal = [trace for trace in traces if trace.outcome is Outcome.CLEAN]
    return calibrated(nominal, shield_config.monitors, origin(scenario, shield_config, tuple(numbers), excluded))


def calibrated(nominal: Sequence[Trace], config: MonitorsConfig, made_of: Origin | None = None) -> Calibration:
    """The calibration from traces of nominal episodes; raises CalibrationError."""
    if not nominal:
        raise CalibrationError("no nominal episode to calibrate on")
    learned = _learned([trace for index, trace in enumerate(nominal) if role(index) == "learn"])
    setting = replace(nominal[0].setting, fit=learned)
    entries = [entry for entry, _ in monitors(setting)]
    scores = [full_scores(trace, setting) for trace in nominal]
    members: list[tuple[str, Witness, float]] = [(entry.name, entry.witness, entry.resolution) for entry in entries]
    return calibrate(scores, members, config=config, learned=learned, origin=made_of)


def record_trace(job: tuple[Scenario, ShieldConfig, int]) -> Trace:
    """One episode in shadow mode; the job is (scenario, configuration, episode)."""
    scenario, config, episode = job
    made: list[Shield] = []
    scores: dict[str, list[float]] = {}
    followed: list[tuple[int, Proposal]] = []

    def make(robot: RobotModel, port: PolicyPort, /, **settings: Any) -> Shield:
        made.append(Shield(robot, port, **settings))
        return made[0]

    def watch(decision: Decision) -> None:
        shield = made[0]
        for verdict in decision.verdicts:
            if verdict.monitor in shield.bank.names:
                scores.setdefault(verdict.monitor, []).append(verdict.score)
        proposal = shield.following
        if proposal is not None and (not followed or followed[-1][1] is not proposal):
            followed.append((decision.tick, proposal))

    result = run_episode(scenario, episode=episode, config=config, make_shield=make, progress=watch)
    arrays = {name: np.array(values) for name, values in scores.items()}
    setting = replace(made[0].bank.setting, fit={})  # what it had before is no dict, which alone can be pickled
    return Trace(result.outcome, arrays, tuple(followed), setting)


def full_scores(trace: Trace, setting: Setting) -> dict[str, Vector]:
    """The recorded scores, and those of monitors that could only score once they had learned."""
    return {
        entry.name: trace.scores[entry.name] if entry.name in trace.scores else _rescored(trace, entry, monitor)
        for entry, monitor in monitors(setting)
    }


def _rescored(trace: Trace, entry: Entry, monitor: Monitor) -> Vector:
    """Score by tick of a monitor that looks at nothing but the proposal that is followed."""
    ticks = len(next(iter(trace.scores.values())))
    nobody = Observation(RobotState(np.zeros(len(trace.setting.joints)), np.zeros(len(trace.setting.joints)), 0))
    scores = np.full(ticks, monitor.score(Evidence(nobody, 0)).value)
    for tick, proposal in trace.followed:
        scores[tick:] = monitor.score(Evidence(nobody, tick, proposal, proposal)).value
    if not np.isfinite(scores).all():
        raise CalibrationError(f"{entry.name} has no score in tick {int(np.flatnonzero(~np.isfinite(scores))[0])}")
    return scores


def _learned(traces: Sequence[Trace]) -> dict[str, Vector]:
    """What monitors learn of these episodes."""
    return {**_novelty(traces), **_overlap(traces)}


def _overlap(traces: Sequence[Trace]) -> dict[str, Vector]:
    """How far chunks usually contradict one another; nothing where they have single rows."""
    known = [trace.scores.get("overlap_error") for trace in traces]
    pairs = zip(known, traces, strict=True)
    errors = [scores[[tick for tick, _ in trace.followed]] for scores, trace in pairs if scores is not None]
    return cusum.learn(np.concatenate(errors)) if errors else {}


def _novelty(traces: Sequence[Trace]) -> dict[str, Vector]:
    """What the embedding monitors learn; nothing where the policy exposes no features."""
    rows = [proposal.features for trace in traces for _, proposal in trace.followed]
    known = [row for row in rows if row is not None]
    if len(known) < len(rows) or len(known) < LEAST:
        return {}
    return learn(np.stack(known))


def origin(
    scenario: Scenario, config: ShieldConfig, seeds: tuple[int, ...] = (), excluded: tuple[int, ...] = ()
) -> Origin:
    """What a calibration on ``scenario`` is bound to."""
    robot = RobotModel.load(scenario.robot)
    world = {"robot", "task", "policy", "strategy", "period_s", "physics_dt_s", "latency_s"}
    own = scenario.model_dump_json(include=world)
    return Origin(
        policy=str(getattr(load_policy(scenario, robot), "digest", "")),
        robot=robot.digest,
        config=_sha256(config.model_dump_json()),
        scenario=_sha256(own),
        tools=tuple(sorted(versions(("numpy", "osqp", "pin", "mujoco", "torch")).items())),
        seeds=seeds,
        excluded=excluded,
    )


def load_calibration(scenario: Scenario, config: ShieldConfig | None = None) -> Calibration | None:
    """The calibration that ``scenario`` names, checked against its policy, robot, configuration and world.

    Raises:
        CalibrationError: the file is missing, damaged, or was made for something else.
    """
    if scenario.calibration is None:
        return None
    path = Path(scenario.calibration)
    if not path.is_file():
        path = Path(str(resources.files("safeguard.scenarios") / "library" / scenario.calibration))
    expected = origin(scenario, config or ShieldConfig())
    return Calibration.load(
        path, {key: str(getattr(expected, key)) for key in ("policy", "robot", "config", "scenario")}
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()
