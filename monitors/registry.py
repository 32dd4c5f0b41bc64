"""Every scored monitor: what it needs, what it costs, and what it must not stay quiet on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np

from safeguard.core.config import MonitorsConfig
from safeguard.core.protocols import Monitor
from safeguard.core.types import NS_PER_S, ActionSpec, Evidence, Vector
from safeguard.monitors.action import ChunkMagnitude, OverlapError, ReversalRate
from safeguard.monitors.cusum import MEDIAN, OverlapCusum
from safeguard.monitors.effort import ShieldEffort
from safeguard.monitors.embedding import CosineKnn, Mahalanobis
from safeguard.monitors.joint import Witness
from safeguard.monitors.motion import JointMotion, is_joint_motion
from safeguard.monitors.proof import decision, proposal, standing
from safeguard.monitors.residual import ModelResidual

_NOTHING: Final[Mapping[str, Vector]] = MappingProxyType({})
_FOREVER_S: Final = 1.0  # many time constants of every smoothing
_LARGE: Final = 10.0  # times the limits
_MAGNITUDE_ROWS: Final = 8  # rows that a score looks back over, in whole chunks
_REVERSAL_ROWS: Final = 32


@dataclass(frozen=True, slots=True)
class Setting:
    """What monitors are made for.

    Attributes:
        joints: names of the robot's joints, in order.
        period: control period, s.
        spec: what the policy's numbers mean.
        v_max, a_max: limits of the joints, shape (n,), rad/s and rad/s².
        config: of the monitors.
        fit: arrays learned from the fit episodes, by name.
        delay_ticks: periods from a decision to its effect.
    """

    joints: tuple[str, ...]
    period: float
    spec: ActionSpec
    v_max: Vector
    a_max: Vector
    config: MonitorsConfig
    fit: Mapping[str, Vector] = field(default_factory=lambda: _NOTHING)
    delay_ticks: int = 0


def _always(_: Setting) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Entry:
    """One scored monitor.

    Attributes:
        name: the monitor's.
        witness: what it bears witness to.
        budget_us: median cost of a tick, µs; most ticks bring no new proposal.
        resolution: smallest difference of its score that means anything.
        make: a fresh monitor. Raises ConfigError or CalibrationError.
        trip: evidence after which a fresh monitor's score is far beyond anything nominal.
        applies: whether it has anything to look at.
    """

    name: str
    witness: Witness
    budget_us: float
    resolution: float
    make: Callable[[Setting], Monitor]
    trip: Callable[[Setting], Sequence[Evidence]]
    applies: Callable[[Setting], bool] = _always


def monitors(setting: Setting) -> tuple[tuple[Entry, Monitor], ...]:
    """Every monitor that applies, fresh, with its entry."""
    return tuple((entry, entry.make(setting)) for entry in REGISTRY if entry.applies(setting))


def _moves(setting: Setting) -> bool:
    """Chunks are joint motion of this robot's joints."""
    return is_joint_motion(setting.spec) and set(setting.spec.joints) <= set(setting.joints)


def _overlaps(setting: Setting) -> bool:
    """A policy of single steps has no two rows between which something could lie."""
    return _moves(setting) and setting.spec.chunk > 1


def _sums(setting: Setting) -> bool:
    """The usual overlap was learned from the fit episodes."""
    return _overlaps(setting) and MEDIAN in setting.fit


def _embeds(setting: Setting) -> bool:
    """Features were learned from the fit episodes."""
    return "embedding.mean" in setting.fit


def _motion(setting: Setting) -> JointMotion:
    return JointMotion.of(setting.spec, setting.joints, setting.v_max)


def _chunks(setting: Setting, rows: int) -> int:
    """How many chunks hold ``rows`` rows."""
    return -(-rows // setting.spec.chunk)


# -- what a monitor must not stay quiet on --------------------------------------------------------------


def _times(setting: Setting) -> range:
    """The ticks of long enough, ns."""
    period = round(setting.period * NS_PER_S)
    return range(2 * period, 2 * period + round(_FOREVER_S * NS_PER_S), period)


def _corrected(setting: Setting) -> Sequence[Evidence]:
    """The filter takes away many times what the joints can do, tick after tick."""
    n, effort = len(setting.joints), _LARGE * len(setting.joints)
    return [standing(n, now, previous=decision(n, now, setting.period, effort=effort)) for now in _times(setting)]


def _disobeyed(setting: Setting) -> Sequence[Evidence]:
    """The body stands where it was told to accelerate."""
    n, a = len(setting.joints), _LARGE * setting.a_max
    return [standing(n, now, previous=decision(n, now, setting.period, acceleration=a)) for now in _times(setting)]


def _alternating(setting: Setting, by_row: int) -> Sequence[Evidence]:
    """Chunks, a row apart, that leap from side to side: from one to the next, and ``by_row`` inside too."""
    spec, unit = setting.spec, _motion(setting).unit
    row = round(NS_PER_S / spec.rate_hz)
    signs = [(-1.0) ** (k + by_row * np.arange(spec.chunk)) for k in range(_REVERSAL_ROWS + 2)]
    chunks = [proposal(k, k * row, _LARGE * sign[:, None] * unit) for k, sign in enumerate(signs)]
    return [standing(len(setting.joints), chunk.t_obs, chunk=chunk) for chunk in chunks]


def _leaping(setting: Setting) -> Sequence[Evidence]:
    return _alternating(setting, 0)


def _wavering(setting: Setting) -> Sequence[Evidence]:
    return _alternating(setting, 1)


def _featured(setting: Setting, features: Vector) -> Sequence[Evidence]:
    actions = np.zeros((setting.spec.chunk, len(setting.spec.joints)))
    return [standing(len(setting.joints), 0, chunk=proposal(0, 0, actions, features))]


def _far(setting: Setting) -> Sequence[Evidence]:
    """Features a thousand standard deviations away."""
    mean, scale = setting.fit["embedding.mean"], setting.fit["embedding.scale"]
    return _featured(setting, mean + 1e3 * _inverse(scale))


def _opposite(setting: Setting) -> Sequence[Evidence]:
    """Features that point away from the middle of those that were learned."""
    fit = setting.fit
    away = -fit["embedding.basis"] @ fit["embedding.index"].mean(axis=0)
    return _featured(setting, away * _inverse(fit["embedding.scale"]))


def _inverse(scale: Vector) -> Vector:
    return np.where(scale > 0.0, 1.0 / np.where(scale > 0.0, scale, 1.0), 0.0)


REGISTRY: Final[tuple[Entry, ...]] = (
    Entry(
        name="shield_effort",
        witness="effort",
        budget_us=3.0,
        resolution=0.1,
        make=lambda setting: ShieldEffort(setting.period, setting.config.effort_tau_s),
        trip=_corrected,
    ),
    Entry(
        name="model_residual",
        witness="residual",
        budget_us=15.0,
        resolution=1e-3,
        make=lambda setting: ModelResidual(setting.joints, setting.a_max, delay_ticks=setting.delay_ticks),
        trip=_disobeyed,
    ),
    Entry(
        name="overlap_error",
        witness="action",
        budget_us=1.0,
        resolution=1e-2,
        make=lambda setting: OverlapError(_motion(setting)),
        trip=_leaping,
        applies=_overlaps,
    ),
    Entry(
        name="reversal_rate",
        witness="action",
        budget_us=1.0,
        resolution=1e-2,
        make=lambda setting: ReversalRate(_motion(setting), _chunks(setting, _REVERSAL_ROWS)),
        trip=_wavering,
        applies=_moves,
    ),
    Entry(
        name="chunk_magnitude",
        witness="action",
        budget_us=1.0,
        resolution=1e-2,
        make=lambda setting: ChunkMagnitude(_motion(setting), _chunks(setting, _MAGNITUDE_ROWS)),
        trip=_wavering,
        applies=_moves,
    ),
    Entry(
        name="embedding_mahalanobis",
        witness="novelty",
        budget_us=1.0,
        resolution=1e-2,
        make=lambda setting: Mahalanobis(setting.fit),
        trip=_far,
        applies=_embeds,
    ),
    Entry(
        name="embedding_knn",
        witness="novelty",
        budget_us=1.0,
        resolution=1e-3,
        make=lambda setting: CosineKnn(setting.fit),
        trip=_opposite,
        applies=_embeds,
    ),
    Entry(
        name="overlap_cusum",
        witness="novelty",  # what it has summed up stays when the cause is gone: alone it may only warn
        budget_us=1.0,
        resolution=1e-2,
        make=lambda setting: OverlapCusum(_motion(setting), setting.fit[MEDIAN]),
        trip=_leaping,
        applies=_sums,
    ),
)
"""In the order in which they are asked and recorded."""
