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

New ones are what the tuning episodes suggest and no shield has yet. ``g_warn, effort 0.1``: efforts that differ by
less than 0.1 mean the same (registered: 0.001, and nominal efforts up to 0.02 use up a third of the rate).
``overlap_cusum``: the disagreement of successive chunks beyond its median in the learned episodes, summed, never below
0 (Page 1954). ``… + cusum``: that as another action monitor. ``effort, residual, cusum``: these three and no others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from benchmarks.detection_episodes import Episode
from benchmarks.detection_metrics import Floats
from safeguard.core.types import Vector
from safeguard.monitors.calibration import Member, role
from safeguard.monitors.embedding import learn
from safeguard.monitors.joint import Joint, Witness
from safeguard.monitors.motion import JointMotion
from safeguard.monitors.normal import RankScale
from safeguard.monitors.registry import monitors
from safeguard.scenarios.calibration import full_scores, with_arrays

Group = Literal["joint", "monitor", "baseline", "control", "new joint", "new monitor", "shield"]
"""Joint scores are compared with monitors, baselines and controls; deterministic checks are not calibrated."""

Score = Callable[[Episode], Floats]


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


def methods(calibration: Sequence[Episode], *, debounce: tuple[int, int] | None = None) -> tuple[Method, ...]:
    """Every method, with what it learned from ``calibration``."""
    learned = [episode for k, episode in enumerate(calibration) if role(k) == "learn"]
    scaled = [episode for k, episode in enumerate(calibration) if role(k) == "scale"]
    features = np.concatenate([_features(episode) for episode in learned])
    ours = Ours(features, scaled, debounce)
    cusum = Cusum(learned)
    coarse = Ours(features, scaled, debounce, coarse=True)
    wider = Ours(features, scaled, debounce, coarse=True, extra=cusum)
    small = Ours(features, scaled, debounce, coarse=True, extra=cusum, only=("shield_effort", "model_residual"))
    found = [
        Method("g_warn", "joint", lambda e: ours(e)["g_warn"]),
        Method("g_act", "joint", lambda e: ours(e)["g_act"]),
    ]
    found += [Method(name, "monitor", _column(ours, name)) for name in ours.names]
    scale = Standard(features)
    x = scale(features)
    found += [
        Method("rnd", "baseline", _held(Distilled(x), scale)),
        Method("pca_kmeans", "baseline", _held(Centres(x), scale)),
        Method("autoencoder", "baseline", _held(Autoencoder(x), scale)),
        Method("stac_single", "baseline", _stac),
        Method("velocity_limit", "baseline", _velocity),
        Method("clock", "control", lambda e: np.arange(e.ticks, dtype=np.float64)),
        Method("random", "control", _random),
        Method("always", "control", lambda e: np.ones(e.ticks), 0.0),
        Method("never", "control", lambda e: np.zeros(e.ticks), 0.0),
        Method("overlap_cusum", "new monitor", cusum),
        Method("g_warn, effort 0.1", "new joint", lambda e: coarse(e)["g_warn"]),
        Method("g_warn, effort 0.1 + cusum", "new joint", lambda e: wider(e)["g_warn"]),
        Method("effort, residual, cusum", "new joint", lambda e: small(e)["g_warn"]),
        Method("checks", "shield", lambda e: np.where(e.checked, 1.0, 0.0), 0.0),
        Method("checks or g_warn", "shield", lambda e: np.where(e.checked, np.inf, ours(e)["g_warn"])),
    ]
    return tuple(found)


# -- ours -----------------------------------------------------------------------------------------------


_COARSE: Final = 0.1


class Ours:
    """Scores of every registered monitor and the joint scores, as a shield would have them.

    A monitor without a score (NaN) is an alarm by itself (law 5), so that counts as infinite.

    Args:
        features: of the learned episodes, a row for every proposal.
        scaled: episodes that scale the scores.
        debounce: m and n of the joint score, if not the default.
        extra: one more action monitor.
        only: the registered monitors that take part, if not all.
        coarse: small efforts of the filter mean nothing.
    """

    def __init__(
        self,
        features: Vector,
        scaled: Sequence[Episode],
        debounce: tuple[int, int] | None = None,
        *,
        extra: Score | None = None,
        only: Sequence[str] | None = None,
        coarse: bool = False,
    ) -> None:
        self._extra = extra
        plain = scaled[0].trace.setting
        self._setting = with_arrays(plain, learn(features))
        self._debounce = debounce or plain.config.debounce
        entries = [entry for entry, _ in monitors(self._setting) if only is None or entry.name in only]
        coarser = {"shield_effort": _COARSE} if coarse else {}
        parts: list[tuple[str, Witness, float]] = [
            (entry.name, entry.witness, coarser.get(entry.name, entry.resolution)) for entry in entries
        ]
        if extra is not None:
            parts.append(("overlap_cusum", "action", 1e-2))
        scores = [self._raw(episode) for episode in scaled]
        self._members = [
            Member(
                name=name,
                witness=witness,
                resolution=resolution,
                maxima=tuple(sorted(float(trace[name].max()) for trace in scores)),
            )
            for name, witness, resolution in parts
        ]
        self._kept: dict[tuple[str, int], Mapping[str, Floats]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the monitors."""
        return tuple(member.name for member in self._members)

    def __call__(self, episode: Episode) -> Mapping[str, Floats]:
        """Scores by tick under every monitor's name, "g_act" and "g_warn"; each shape (ticks,)."""
        key = episode.cell.label, episode.number
        if key not in self._kept:
            self._kept[key] = self._scores(episode)
        return self._kept[key]

    def _raw(self, episode: Episode) -> dict[str, Vector]:
        raw = full_scores(episode.trace, self._setting)
        return raw if self._extra is None else {**raw, "overlap_cusum": self._extra(episode)}

    def _scores(self, episode: Episode) -> Mapping[str, Floats]:
        raw = self._raw(episode)
        columns = [self._z(member, raw[member.name]) for member in self._members]
        joint = Joint([member.witness for member in self._members], self._debounce)
        folded = np.array([joint.fold(row) for row in zip(*columns, strict=True)])
        broken = np.any([np.isnan(raw[name]) for name in self.names], axis=0)
        folded[broken] = np.inf
        own = {name: np.where(np.isnan(raw[name]), np.inf, raw[name]) for name in self.names}
        return {**own, "g_act": folded[:, 0], "g_warn": folded[:, 1]}

    def _z(self, member: Member, scores: Vector) -> list[float]:
        scale = RankScale(member.maxima, member.resolution)
        return [scale(score) if math.isfinite(score) else 0.0 for score in scores.tolist()]


def _column(ours: Ours, name: str) -> Score:
    return lambda episode: ours(episode)[name]


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


class Cusum:
    """How long and how far the disagreement of successive chunks has been above its median in learned episodes."""

    def __init__(self, learned: Sequence[Episode]) -> None:
        self._usual = float(np.median(np.concatenate([_errors(episode) for episode in learned])))

    def __call__(self, episode: Episode) -> Floats:
        """Shape (ticks,)."""
        level, levels = 0.0, list[float]()
        for error in _errors(episode).tolist():
            level = max(0.0, level + error - self._usual)
            levels.append(level)
        return hold(episode, np.array(levels))


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
