"""safeguard's filter. Variants: ``velocity:osqp``, ``velocity:daqp``, ``torque:osqp``; the answer is a torque."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.serve import Description, serve
from benchmarks.peers.wire import Array
from safeguard.controllers import SafetyFilter
from safeguard.core.enums import FilterStatus, SolverStatus
from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S, FilterResult, RobotState


class Ours:
    """``SafetyFilter`` as it is called by users, the state's construction included."""

    def __init__(self, description: Description, variant: str) -> None:
        self._kind, solver = variant.split(":")
        make: Callable[..., SafetyFilter] = SafetyFilter
        options: dict[str, Any] = {} if solver == "osqp" else {"solver": solver}  # osqp is the default
        self._filter = make(RobotModel.load(description.name), description.dt, **options)
        self._period, self._now, self.solved = round(description.dt * NS_PER_S), 0, False

    def reset(self, q: Array, v: Array) -> None:
        """Start anew, with the stop from this state."""
        self._now = 0
        self._filter.reset(RobotState(q, v, 0))

    def __call__(self, q: Array, v: Array, action: Array) -> Array:
        """Joint torque, N·m."""
        proposal: dict[str, Any] = {self._kind: action}
        result: FilterResult = self._filter(RobotState(q, v, self._now), **proposal)
        self._now += self._period
        self.solved = result.solver is not SolverStatus.SKIPPED
        if result.status is FilterStatus.REFUSED:
            raise RuntimeError(result.refusal)
        return np.asarray(result.torque, dtype=np.float64)


if __name__ == "__main__":
    serve(Ours)
