"""Shield effort: how much the safety filter has to change what the policy asks for."""

from __future__ import annotations

import math
from typing import Final

from safeguard.core.errors import ConfigError
from safeguard.core.types import Evidence, Score
from safeguard.monitors.scores import LARGEST

_NOT_FINITE: Final = Score(math.nan, "the filter's effort is not finite")
_QUIET: Final = 1e-6


class ShieldEffort:
    """Score: the filter's effort of the tick before, smoothed over ``tau_s`` by a leaky integrator.

    s_t = s_{t-1} + (1 − exp(−period/tau)) (x_t − s_{t-1}) with x_t = ‖(a − a_nominal) / a_max‖₂ of the
    previous decision (``FilterResult.effort``); 0 in the first tick of an episode, and 0 where it falls under
    1e-6, so that an alarm against a threshold of 0 can end. More than 1e12 counts as that. A non-finite effort scores
    NaN, which counts as an alarm, and is not integrated.
    """

    def __init__(self, period: float, tau_s: float = 0.05) -> None:
        if not (period > 0.0 and tau_s > 0.0 and math.isfinite(period / tau_s)):
            raise ConfigError(f"ShieldEffort needs period > 0 and tau_s > 0, got {period!r} and {tau_s!r}")
        self._gain = -math.expm1(-period / tau_s)
        self._level = 0.0

    @property
    def name(self) -> str:
        """Stable name, written to records."""
        return "shield_effort"

    def reset(self) -> None:
        """Start a new episode."""
        self._level = 0.0

    def score(self, evidence: Evidence) -> Score:
        """The smoothed effort up to the previous tick, dimensionless."""
        previous = evidence.previous
        effort = 0.0 if previous is None else previous.filter.effort
        if not math.isfinite(effort):
            return _NOT_FINITE
        self._level += self._gain * (min(effort, LARGEST) - self._level)
        if self._level < _QUIET:
            self._level = 0.0
        return Score(self._level)
