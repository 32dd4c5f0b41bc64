"""Model residual: how far the body moves from what the filter's model says that it will."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

import numpy as np

from safeguard.core.enums import FilterStatus
from safeguard.core.errors import ConfigError
from safeguard.core.types import (
    NS_PER_S,
    Decision,
    Evidence,
    PositionCommand,
    RobotState,
    Score,
    TorqueCommand,
    Vector,
)
from safeguard.monitors.scores import LARGEST, NOTHING

_NOT_FINITE: Final = Score(math.nan, "measured speed or predicted acceleration is not one finite number per joint")
_STANDING: Final = Score(math.nan, "the stamp of the measured state does not advance")
_QUIET: Final = 1e-6
_OWN: Final = (FilterStatus.ADMISSIBLE, FilterStatus.CORRECTED, FilterStatus.BACKUP)

_Predicted = tuple[int, list[float]]
"""For how long the command is valid, ns, and what it does, rad/s²."""


class ModelResidual:
    """Score: the worst joint's acceleration beyond the model's, as a share of its limit.

        r = (v_now − v_before) / Δt − a_predicted,   s ← s + (1 − exp(−Δt/tau)) (r/a_max − s),   score = max_j |s_j|

    with Δt from the stamps of the two measured states and a_predicted the acceleration of the filter's result that the
    body was told in between (``FilterResult.acceleration``: what its torque does over the period).

    The largest component and not the Euclidean norm: every bound that the filter keeps is a joint's own, so what it is
    off by counts joint by joint; and the figure means the same for 7 joints and for 29. The vector is smoothed, not the
    score: an error of the speed measurement enters r twice with opposite signs and cancels, a wrong mass does not.

    Unevaluated, which is 0 and forgets the smoothing: where there is no command of the filter's own between two states
    (the first tick, the terminal stop, a raw proposal, a command that had run out). NaN: a broken measurement, or a
    stamp that does not advance.

    Args:
        joints: their names, for the score's detail.
        a_max: acceleration limits, shape (n,), rad/s².
        tau_s: smoothing; 0 for none.
        delay_ticks: periods from a decision to its effect.
    """

    def __init__(self, joints: Sequence[str], a_max: Vector, *, tau_s: float = 0.05, delay_ticks: int = 0) -> None:
        if a_max.shape != (len(joints),) or not (a_max > 0.0).all() or not np.isfinite(a_max).all():
            raise ConfigError(f"ModelResidual needs one positive acceleration limit per joint of {joints}, got {a_max}")
        if not 0.0 <= tau_s < math.inf or delay_ticks < 0:
            raise ConfigError(f"ModelResidual needs tau_s >= 0 and delay_ticks >= 0, got {tau_s!r} and {delay_ticks!r}")
        self._details = tuple(f"{joint} accelerates other than predicted" for joint in joints)
        self._shares: list[float] = (1.0 / a_max).tolist()
        self._rate = -1.0 / (tau_s * NS_PER_S) if tau_s else -math.inf
        self._predictions: deque[_Predicted | None] = deque(maxlen=delay_ticks + 1)
        self.reset()

    @property
    def name(self) -> str:
        """Stable name, written to records."""
        return "model_residual"

    def reset(self) -> None:
        """Start a new episode."""
        self._before: tuple[int, list[float]] | None = None
        self._level = [0.0] * len(self._shares)
        self._predictions.clear()

    def score(self, evidence: Evidence) -> Score:
        """The residual up to now, dimensionless; its detail names the joint."""
        predicted = self._acting(evidence.previous)
        before, self._before = self._before, self._measured(evidence.observation.state)
        if self._before is None:
            return self._forget(_NOT_FINITE)
        if before is None or predicted is None:
            return self._forget(NOTHING)
        passed = self._before[0] - before[0]
        if passed <= 0:
            return self._forget(_STANDING)
        if passed > predicted[0]:
            return self._forget(NOTHING)
        return self._smoothed(passed, before[1], self._before[1], predicted[1])

    def _smoothed(self, passed: int, before: list[float], now: list[float], predicted: list[float]) -> Score:
        """Plain floats: for so few numbers they are faster than arrays, and overflow is silent."""
        per_s, gain = NS_PER_S / passed, -math.expm1(passed * self._rate)
        misses = [((v - u) * per_s - a) * k for v, u, a, k in zip(now, before, predicted, self._shares, strict=True)]
        self._level = level = [s + gain * (miss - s) for s, miss in zip(self._level, misses, strict=True)]
        sizes = [abs(s) for s in level]
        if not math.isfinite(sum(sizes)):
            return self._forget(_NOT_FINITE)
        worst = max(sizes)
        return NOTHING if worst < _QUIET else Score(min(worst, LARGEST), self._details[sizes.index(worst)])

    def _acting(self, previous: Decision | None) -> _Predicted | None:
        """What acted since the tick before, where that was a command of the filter's own."""
        predictions = self._predictions
        predictions.append(None if previous is None else self._predicted(previous))
        return predictions[0] if len(predictions) == predictions.maxlen else None

    def _predicted(self, previous: Decision) -> _Predicted | None:
        result, command = previous.filter, previous.command
        match command:
            case TorqueCommand(tau=told):
                own: Vector | None = result.torque
            case PositionCommand(q=told):
                own = result.position
            case _:
                return None
        if result.status not in _OWN or own is None or not (told is own or np.array_equal(told, own)):
            return None
        fits = result.acceleration.shape == (len(self._shares),)
        predicted: list[float] = result.acceleration.tolist() if fits else [math.nan] * len(self._shares)
        return command.expires - command.t, predicted

    def _measured(self, state: RobotState) -> tuple[int, list[float]] | None:
        if state.v.shape != (len(self._shares),):
            return None
        speeds: list[float] = state.v.tolist()
        return (state.t, speeds) if math.isfinite(sum(speeds)) else None

    def _forget(self, score: Score) -> Score:
        self._level = [0.0] * len(self._shares)
        return score
