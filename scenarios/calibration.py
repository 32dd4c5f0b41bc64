"""Calibration of the shield's monitors on nominal episodes of a scenario, with the shield on.

Every episode runs in shadow mode: the monitor scores, but without a calibration its verdict acts on nothing.
An episode counts only if it was nominal for the referee, which the monitor cannot see.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import resources
from multiprocessing import get_context
from pathlib import Path

from safeguard.audit.identity import versions
from safeguard.core.config import ShieldConfig
from safeguard.core.errors import CalibrationError
from safeguard.core.robot import RobotModel
from safeguard.core.types import Decision
from safeguard.monitors import Calibration, Origin, ShieldEffort, calibrate
from safeguard.scenarios.episode import Outcome
from safeguard.scenarios.runner import load_policy, run_episode
from safeguard.scenarios.scenario import Scenario

FIRST_EPISODE = 1000
"""Calibration episodes are numbered from here, so that they share no random stream with those of a demo."""

_MONITOR = ShieldEffort(period=1.0).name


def calibrate_scenario(
    scenario: Scenario,
    *,
    episodes: int,
    alpha: float = 0.10,
    config: ShieldConfig | None = None,
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Calibrate the shield-effort monitor on fresh nominal episodes of ``scenario``.

    Args:
        scenario: without faults.
        episodes: how many; fewer than 1/alpha − 1 leave the monitor uncalibrated.
        alpha: declared false-alarm rate of an episode.
        config: of the shield.
        workers: processes.
        progress: called with the number of finished episodes.

    Raises:
        CalibrationError: the scenario has faults, or an episode was not nominal for the referee.
    """
    if scenario.faults:
        raise CalibrationError(f"scenario {scenario.name!r} injects faults; calibrate on one without")
    shield_config = config or ShieldConfig()
    jobs = [(scenario, shield_config, FIRST_EPISODE + k) for k in range(episodes)]
    maxima: list[float] = []
    # Fresh processes: one that was forked while a library had threads may hang.
    with ProcessPoolExecutor(max_workers=workers, mp_context=get_context("spawn")) as pool:
        for largest in pool.map(_largest_score, jobs):
            maxima.append(largest)
            if progress is not None:
                progress(len(maxima))
    return calibrate(
        _MONITOR,
        maxima,
        alpha,
        horizon_ticks=scenario.ticks,
        origin=origin(scenario, shield_config, tuple(job[2] for job in jobs)),
    )


def origin(scenario: Scenario, config: ShieldConfig, seeds: tuple[int, ...] = ()) -> Origin:
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
    )


def load_calibrations(scenario: Scenario, config: ShieldConfig | None = None) -> tuple[Calibration, ...]:
    """The calibrations that ``scenario`` names, checked against its policy, robot, configuration and world.

    Raises:
        CalibrationError: the file is missing, damaged, or was made for something else.
    """
    if scenario.calibration is None:
        return ()
    path = Path(scenario.calibration)
    if not path.is_file():
        path = Path(str(resources.files("safeguard.scenarios") / "library" / scenario.calibration))
    expected = origin(scenario, config or ShieldConfig())
    keys: Sequence[str] = ("policy", "robot", "config", "scenario")
    return (Calibration.load(path, {key: str(getattr(expected, key)) for key in keys}),)


def _largest_score(job: tuple[Scenario, ShieldConfig, int]) -> float:
    """D of one episode: the largest score of the monitor."""
    scenario, config, episode = job
    largest = 0.0

    def watch(decision: Decision) -> None:
        nonlocal largest
        for verdict in decision.verdicts:
            if verdict.monitor == _MONITOR:
                largest = max(largest, verdict.score)

    result = run_episode(scenario, episode=episode, config=config, progress=watch)
    if result.outcome is not Outcome.CLEAN:
        raise CalibrationError(f"episode {episode} of {scenario.name!r} is {result.outcome.value}, not clean")
    return largest


def _sha256(text: str) -> str:
    return hashlib.sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()
