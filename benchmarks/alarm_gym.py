"""Episodes of Gymnasium's Reacher-v5 under a hand-written, noisy policy, scored with every registered monitor.

The policy solves for the joint angles of the target and proposes chunks of four joint speeds, of which two are
followed; its aim wanders (AR(1)), and the motors are noisy. An episode ends after three steps at the target, or after
50, so that lengths differ. Evidence is what the shield would hand over: the state, the chunk, and a decision with
the acceleration that the model predicts for the torque that was sent and an effort of what the torque limit cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, Final

import numpy as np

from benchmarks.alarm_laws import Floats, Maxima
from safeguard.core.config import MonitorsConfig
from safeguard.core.enums import Reference
from safeguard.core.errors import MissingExtraError
from safeguard.core.protocols import Monitor
from safeguard.core.types import NS_PER_S, ActionSpec, Decision, Evidence, Observation, Proposal, RobotState
from safeguard.monitors.embedding import learn
from safeguard.monitors.joint import Joint
from safeguard.monitors.normal import RankScale
from safeguard.monitors.proof import decision
from safeguard.monitors.registry import Entry, Setting, monitors

PERIOD: Final = 0.02
TICK: Final = round(PERIOD * NS_PER_S)
JOINTS: Final = ("joint0", "joint1")
LINKS: Final = (0.10, 0.11)
SPEED: Final = 6.0
GEAR: Final = 200.0
STEPS: Final = 50
SPEC: Final = ActionSpec(JOINTS, "rad/s", Reference.VELOCITY, 1.0 / PERIOD, chunk=4)


class Reacher:
    """The task with its policy.

    Args:
        noise: standard deviation of the motors' error, as a share of their torque.
    """

    def __init__(self, noise: float = 0.01) -> None:
        try:
            self._world: Any = import_module("gymnasium").make("Reacher-v5").unwrapped
        except ImportError as error:
            raise MissingExtraError("benchmarks/alarm_gym.py", "gym") from error
        self._noise = noise

    def episode(self, seed: int) -> Iterator[Evidence]:
        """Evidence of every tick of the episode of this seed."""
        rng = np.random.default_rng((seed, 1))  # the world draws from the stream of the seed itself
        seen, _ = self._world.reset(seed=seed)
        aim, near = np.zeros(2), 0
        previous: Decision | None = None
        current: Proposal | None = None
        for tick in range(STEPS):
            now, data = tick * TICK, self._world.data
            q, v = data.qpos[:2].copy(), data.qvel[:2].copy()
            arrived = None
            if tick % 2 == 0:
                aim = 0.8 * aim + 0.03 * rng.standard_normal(2)
                chunk = _speeds(q, _angles(data.qpos[2:], q) + aim)
                current = arrived = Proposal(chunk, now, now, "reacher", tick // 2, features=seen.astype(np.float64))
            yield Evidence(Observation(RobotState(q, v, now)), now, arrived, current, previous)
            asked = 0.1 * ((current.actions if current else np.zeros((4, 2)))[tick % 2] - v)
            sent = np.clip(asked, -1.0, 1.0)
            effort, predicted = float(np.linalg.norm(asked - sent)), GEAR * sent - v
            previous = decision(2, now, PERIOD, effort=effort, acceleration=predicted)
            seen, *_ = self._world.step(sent + self._noise * rng.standard_normal(2))
            near = near + 1 if float(np.linalg.norm(seen[8:10])) < 0.01 else 0
            if near == 3:
                return


def _angles(target: Floats, q: Floats) -> Floats:
    """Joint angles that put the tip on ``target``, elbow on the side where it is, next to ``q``."""
    x, y = target
    a, b = LINKS
    bend = math.acos(min(1.0, max(-1.0, (x * x + y * y - a * a - b * b) / (2 * a * b))))
    bend = math.copysign(bend, math.sin(q[1]))
    turn = math.atan2(y, x) - math.atan2(b * math.sin(bend), a + b * math.cos(bend))
    goal = np.array([turn, bend])
    nearest: Floats = goal - 2 * math.pi * np.round((goal - q) / (2 * math.pi))
    return nearest


def _speeds(q: Floats, goal: Floats) -> Floats:
    """Four joint speeds towards ``goal``, as they would follow from one another, rad/s."""
    rows = np.empty((4, 2))
    for row in rows:
        row[:] = np.clip(5.0 * (goal - q), -SPEED, SPEED)
        q = q + PERIOD * row
    return rows


class Scored:
    """All registered monitors that apply, their scales and the two joint scores, learned from fit episodes.

    Args:
        episodes: evidence of the fit episodes, complete.
    """

    def __init__(self, episodes: Sequence[Sequence[Evidence]]) -> None:
        proposals = [e.proposal for episode in episodes for e in episode if e.proposal is not None]
        features = np.array([p.features for p in proposals if p.features is not None])
        limits = np.full(2, SPEED), np.full(2, GEAR)
        self._setting = Setting(JOINTS, PERIOD, SPEC, *limits, MonitorsConfig(), fit=learn(features))
        self._pairs: tuple[tuple[Entry, Monitor], ...] = monitors(self._setting)
        rows = [self._peaks(episode) for episode in episodes]
        self._scales = [
            RankScale([row[i] for row in rows], entry.resolution) for i, (entry, _) in enumerate(self._pairs)
        ]
        self._joint = Joint([entry.witness for entry, _ in self._pairs], self._setting.config.debounce)

    @property
    def names(self) -> list[str]:
        """Of the monitors."""
        return [entry.name for entry, _ in self._pairs]

    def _peaks(self, episode: Sequence[Evidence]) -> list[float]:
        for _, monitor in self._pairs:
            monitor.reset()
        scores = [[monitor.score(evidence).value for _, monitor in self._pairs] for evidence in episode]
        return [max(column) for column in zip(*scores, strict=True)]

    def peak(self, episode: Iterator[Evidence]) -> tuple[float, float]:
        """D of one episode: the largest g_act and g_warn. A missing score counts as infinite."""
        for _, monitor in self._pairs:
            monitor.reset()
        self._joint.reset()
        act = warn = 0.0
        for evidence in episode:
            scores = [monitor.score(evidence).value for _, monitor in self._pairs]
            z = [scale(s) if s == s else math.inf for scale, s in zip(self._scales, scores, strict=True)]
            g_act, g_warn = self._joint.fold(z)
            act, warn = max(act, g_act), max(warn, g_warn)
        return act, warn


def gym_maxima(
    fit: int, counts: Sequence[int], seed: int, noises: Sequence[float], progress: Callable[[], None] = lambda: None
) -> tuple[list[Maxima], list[str]]:
    """D of several sets of fresh episodes, each with its motor noise, and the names of the monitors.

    Args:
        fit: number of fit episodes.
        counts: number of episodes of each set.
        seed: of the first episode; every episode has its own.
        noises: motor noise of each set.
        progress: called after every episode.
    """
    world = Reacher()
    scored = Scored([list(world.episode(seed + i)) for i in range(fit)])
    start, found = seed + fit, list[Maxima]()
    for count, noise in zip(counts, noises, strict=True):
        world, peaks = Reacher(noise), list[tuple[float, float]]()
        for i in range(count):
            peaks.append(scored.peak(world.episode(start + i)))
            progress()
        start += count
        act, warn = np.array(peaks).T
        found.append({"g_act": act, "g_warn": warn})
    return found, scored.names
