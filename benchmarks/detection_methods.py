"""Every way to score an episode that ``detection.py`` compares: ours, and published ones written anew in numpy.

A method gives one number a tick, larger where it looks worse, from what is known up to that tick. What has to be
learned is learned on the same nominal episodes (role "learn"), and every threshold comes from the same others (role
"calibrate") by the same rule.

| baseline | after | here |
| --- | --- | --- |
| ``rnd`` | Burda et al. 2019 | how well a trained network imitates a random one on the features |
| ``pca_kmeans`` | Liu et al. 2024 | distance to the nearest of 64 centres in the space of 95 % of the variance |
| ``autoencoder`` | Hinton and Salakhutdinov 2006 | reconstruction error of the features, one hidden layer of 16 |
| ``stac_single`` | Agia et al. 2024, with one sample | squared disagreement of successive chunks, summed up |
| ``velocity_limit`` | what drives check | largest joint speed that a chunk asks for, as a share of the limit |

New joint scores are what tuning episodes suggest and no shield has yet. ``g_warn, features averaged``: the two monitors
that look at the same features are one witness, the mean of their z, and ``overlap_cusum`` only warns. ``g_act, sums
too``: ``overlap_cusum`` acts alone, as the other scores of chunks do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from benchmarks.detection_episodes import Episode
from benchmarks.detection_metrics import Floats
from safeguard.core.types import Vector
from safeguard.monitors import cusum
from safeguard.monitors.calibration import Member, role
from safeguard.monitors.embedding import learn
from safeguard.monitors.joint import Joint, Witness
from safeguard.monitors.motion import JointMotion
from safeguard.monitors.normal import RankScale
from safeguard.monitors.registry import monitors
from safeguard.scenarios.calibration import full_scores

Group = Literal["joint", "monitor", "baseline", "control", "new joint", "shield"]
"""Joint scores are compared with monitors and baselines; deterministic checks are not calibrated."""

Score = Callable[[Episode], Floats]
Part = tuple[Witness, Floats]


@dataclass(frozen=True, slots=True)
class Method:
    """One way to score an episode.

    Attributes:
        name, group: what it is.
        score: by tick, shape (ticks,).
        threshold: where it does not come from the calibration episodes.
    """

    name: str
    group: Group
    score: Score
    threshold: float | None = None


def methods(calibration: Sequence[Episode]) -> tuple[Method, ...]:
    """Every method, with what it learned from ``calibration``."""
    learned = [episode for k, episode in enumerate(calibration) if role(k) == "learn"]
    scaled = [episode for k, episode in enumerate(calibration) if role(k) == "scale"]
    features = np.concatenate([_features(episode) for episode in learned])
    ours = Ours(learned, scaled)
    joined = Joined(ours)
    scale = Standard(features)
    x = scale(features)
    return (
        *(Method(name, "joint", _column(joined, name)) for name in ("g_warn", "g_act")),
        *(Method(name, "monitor", _column(ours, name)) for name in ours.names),
        Method("rnd", "baseline", _held(Distilled(x), scale)),
        Method("pca_kmeans", "baseline", _held(Centres(x), scale)),
        Method("autoencoder", "baseline", _held(Autoencoder(x), scale)),
        Method("stac_single", "baseline", _stac),
        Method("velocity_limit", "baseline", _velocity),
        Method("clock", "control", lambda e: np.arange(e.ticks, dtype=np.float64)),
        Method("random", "control", _random),
        Method("always", "control", lambda e: np.ones(e.ticks), 0.0),
        Method("never", "control", lambda e: np.zeros(e.ticks), 0.0),
        *(Method(name, "new joint", _column(joined, name)) for name in (AVERAGED, SUMMED)),
        Method("checks", "shield", lambda e: np.where(e.checked, 1.0, 0.0), 0.0),
        Method("checks or g_warn", "shield", lambda e: np.where(e.checked, np.inf, joined(e)["g_warn"])),
    )


# -- ours -----------------------------------------------------------------------------------------------


class Ours:
    """Scores of every registered monitor, as a shield would have them.

    A monitor without a score (NaN) is an alarm by itself (law 5), so that counts as infinite.

    Args:
        learned, scaled: nominal episodes to learn from, and to scale the scores with.
    """

    def __init__(self, learned: Sequence[Episode], scaled: Sequence[Episode]) -> None:
        features = np.concatenate([_features(episode) for episode in learned])
        errors = np.concatenate([_errors(episode) for episode in learned])
        self._setting = replace(scaled[0].trace.setting, fit={**learn(features), **cusum.learn(errors)})
        self._kept: dict[tuple[str, int], Mapping[str, Floats]] = {}
        peaks = [{name: float(scores.max()) for name, scores in self(episode).items()} for episode in scaled]
        self.members = [
            Member(
                name=entry.name,
                witness=entry.witness,
                resolution=entry.resolution,
                maxima=tuple(sorted(peak[entry.name] for peak in peaks)),
            )
            for entry, _ in monitors(self._setting)
        ]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the monitors."""
        return tuple(member.name for member in self.members)

    @property
    def debounce(self) -> tuple[int, int]:
        """Of the joint scores: m and n."""
        return self._setting.config.debounce

    def __call__(self, episode: Episode) -> Mapping[str, Floats]:
        """Scores by tick under every monitor's name, each shape (ticks,)."""
        key = episode.cell.label, episode.number
        if key not in self._kept:
            raw = full_scores(episode.trace, self._setting)
            self._kept[key] = {name: np.where(np.isnan(scores), np.inf, scores) for name, scores in raw.items()}
        return self._kept[key]


_SUM: Final = "overlap_cusum"
AVERAGED: Final = "g_warn, features averaged"
SUMMED: Final = "g_act, sums too"


class Joined:
    """The joint scores of all monitors together, and new ones.

    Args:
        ours: scores and scales of the monitors.
    """

    def __init__(self, ours: Ours) -> None:
        self._ours = ours
        self._scales = {member.name: RankScale(member.maxima, member.resolution) for member in ours.members}
        self._kept: dict[tuple[str, int], Mapping[str, Floats]] = {}

    def __call__(self, episode: Episode) -> Mapping[str, Floats]:
        """Every joint score by tick under its name, each shape (ticks,)."""
        key = episode.cell.label, episode.number
        if key not in self._kept:
            scores = self._ours(episode)
            broken = np.isinf(list(scores.values())).any(axis=0)
            folded = self._folded({name: self._z(name, values) for name, values in scores.items()})
            self._kept[key] = {name: np.where(broken, np.inf, values) for name, values in folded.items()}
        return self._kept[key]

    def _z(self, name: str, scores: Floats) -> Floats:
        scale = self._scales[name]
        return np.array([scale(score) if math.isfinite(score) else 0.0 for score in scores.tolist()])

    def _folded(self, z: Mapping[str, Floats]) -> dict[str, Floats]:
        parts: dict[str, Part] = {member.name: (member.witness, z[member.name]) for member in self._ours.members}
        act, warn = self._fold(parts.values())
        acting: Part = "action", z[_SUM]
        summed, _ = self._fold({**parts, _SUM: acting}.values())
        novelty = np.mean([values for name, values in z.items() if name.startswith("embedding_")], axis=0)
        others = [part for part in parts.values() if part[0] != "novelty"]
        _, averaged = self._fold([*others, ("novelty", novelty)])
        return {"g_act": act, "g_warn": warn, AVERAGED: np.maximum(averaged, z[_SUM]), SUMMED: summed}

    def _fold(self, parts: Iterable[Part]) -> tuple[Floats, Floats]:
        witnesses, columns = zip(*parts, strict=True)
        joint = Joint(witnesses, self._ours.debounce)
        act, warn = np.array([joint.fold(row) for row in np.stack(columns, axis=1).tolist()]).T
        return act, warn


def _column(scores: Callable[[Episode], Mapping[str, Floats]], name: str) -> Score:
    return lambda episode: scores(episode)[name]


# -- baselines ------------------------------------------------------------------------------------------


def _features(episode: Episode) -> Floats:
    """A row for every followed proposal."""
    rows = [proposal.features for _, proposal in episode.trace.followed if proposal.features is not None]
    return np.stack(rows)


class Standard:
    """Features with mean 0 and spread 1 over what was learned; those that never vary count for nothing."""

    def __init__(self, features: Vector) -> None:
        spread = features.std(axis=0)
        self._mean = features.mean(axis=0)
        self._scale = np.where(spread > 1e-9, 1.0 / np.where(spread > 1e-9, spread, 1.0), 0.0)

    def __call__(self, features: Vector) -> Floats:
        """Rows made comparable."""
        return np.asarray((features - self._mean) * self._scale, dtype=np.float64)


def _held(distance: Callable[[Floats], Floats], scale: Standard) -> Score:
    """Score by tick: the distance of the proposal that is followed, 0 before the first."""
    return lambda episode: hold(episode, distance(scale(_features(episode))))


def hold(episode: Episode, values: Floats) -> Floats:
    """A value for every followed proposal, held until the next; shape (ticks,)."""
    scores = np.zeros(episode.ticks)
    for (tick, _), value in zip(episode.trace.followed, values, strict=True):
        scores[tick:] = value
    return scores


_STEPS: Final = 1500
_BATCH: Final = 128
_RATE: Final = 3e-3


class Network:
    """One hidden layer of tanh, trained on the mean squared error by Adam (Kingma and Ba 2015)."""

    def __init__(self, sizes: tuple[int, int, int], rng: np.random.Generator) -> None:
        inputs, hidden, outputs = sizes
        self._w = [
            rng.normal(0.0, inputs**-0.5, (inputs, hidden)),
            np.zeros(hidden),
            rng.normal(0.0, hidden**-0.5, (hidden, outputs)),
            np.zeros(outputs),
        ]
        self._rng = rng

    def __call__(self, x: Floats) -> Floats:
        """Outputs for rows of inputs."""
        a, b, c, d = self._w
        return np.asarray(np.tanh(x @ a + b) @ c + d, dtype=np.float64)

    def fit(self, x: Floats, y: Floats) -> None:
        """Train on rows of inputs and outputs."""
        first = [np.zeros_like(w) for w in self._w]
        second = [np.zeros_like(w) for w in self._w]
        for step in range(1, _STEPS + 1):
            rows = self._rng.integers(len(x), size=_BATCH)
            for k, gradient in enumerate(self._gradients(x[rows], y[rows])):
                first[k] += 0.1 * (gradient - first[k])
                second[k] += 0.001 * (gradient**2 - second[k])
                mean, square = first[k] / (1.0 - 0.9**step), second[k] / (1.0 - 0.999**step)
                self._w[k] -= _RATE * mean / (np.sqrt(square) + 1e-8)

    def _gradients(self, x: Floats, y: Floats) -> list[Floats]:
        a, b, c, _ = self._w
        hidden = np.tanh(x @ a + b)
        error = 2.0 * (hidden @ c + self._w[3] - y) / y.size
        back = (error @ c.T) * (1.0 - hidden**2)
        return [x.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]


class Distilled:
    """Random network distillation: mean squared error of the imitation."""

    def __init__(self, x: Floats) -> None:
        rng = np.random.default_rng(0)
        self._target = Network((x.shape[1], 128, 32), rng)
        self._student = Network((x.shape[1], 128, 32), rng)
        self._student.fit(x, self._target(x))

    def __call__(self, x: Floats) -> Floats:
        """Shape (rows,)."""
        return np.asarray(np.square(self._student(x) - self._target(x)).mean(axis=1))


class Autoencoder:
    """Mean squared error of the reconstruction through a narrow layer."""

    def __init__(self, x: Floats) -> None:
        self._net = Network((x.shape[1], 16, x.shape[1]), np.random.default_rng(0))
        self._net.fit(x, x)

    def __call__(self, x: Floats) -> Floats:
        """Shape (rows,)."""
        return np.asarray(np.square(self._net(x) - x).mean(axis=1))


class Centres:
    """Distance to the nearest of at most 64 centres (Lloyd 1982), in the leading components."""

    def __init__(self, x: Floats, count: int = 64) -> None:
        _, singular, vectors = np.linalg.svd(x, full_matrices=False)
        share = np.cumsum(singular**2) / float((singular**2).sum())
        self._basis = vectors[: int(np.searchsorted(share, 0.95)) + 1].T
        points = x @ self._basis
        rng = np.random.default_rng(0)
        self._centres = points[rng.choice(len(points), size=min(count, len(points)), replace=False)]
        for _ in range(50):
            nearest = self._squares(points).argmin(axis=1)
            for k in np.unique(nearest):
                self._centres[k] = points[nearest == k].mean(axis=0)

    def __call__(self, x: Floats) -> Floats:
        """Shape (rows,)."""
        return np.asarray(np.sqrt(self._squares(x @ self._basis).min(axis=1)))

    def _squares(self, points: Floats) -> Floats:
        return np.asarray(np.square(points[:, None, :] - self._centres[None]).sum(axis=2))


def _stac(episode: Episode) -> Floats:
    """The monitor's own distance between chunks, squared where a new one arrived, and summed up."""
    return hold(episode, np.cumsum(np.square(_errors(episode))))


def _errors(episode: Episode) -> Floats:
    """The monitor's distance of every followed chunk to the one before."""
    arrivals = [tick for tick, _ in episode.trace.followed]
    return np.asarray(episode.trace.scores["overlap_error"][arrivals])


def _velocity(episode: Episode) -> Floats:
    setting = episode.trace.setting
    motion = JointMotion.of(setting.spec, setting.joints, setting.v_max)
    asked: list[float] = []
    for _, proposal in episode.trace.followed:
        rows = motion.rows(proposal)
        asked.append(np.inf if rows is None else float(np.abs(motion.speeds(rows)).max()))
    return hold(episode, np.array(asked))


def _random(episode: Episode) -> Floats:
    return np.random.default_rng(episode.number).random(episode.ticks)
