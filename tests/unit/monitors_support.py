"""Decisions and evidence for the tests of monitors."""

from __future__ import annotations

import numpy as np

from safeguard.core.enums import Authority, FilterStatus, Mode, SolverStatus
from safeguard.core.types import (
    Decision,
    Evidence,
    FilterResult,
    Margins,
    Observation,
    RobotState,
    Timings,
    TorqueCommand,
)


def decision(effort: float = 0.0, total: int = 0) -> Decision:
    """A quiet decision of a one-joint robot with this shield effort and total time (ns)."""
    zero = np.zeros(1)
    result = FilterResult(
        torque=zero,
        acceleration=zero,
        status=FilterStatus.CORRECTED,
        solver=SolverStatus.SOLVED,
        source="qp",
        slack=(),
        active=(),
        margins=Margins(1.0, 1.0, 1.0, 1.0, "a|b"),
        effort=effort,
    )
    return Decision(
        command=TorqueCommand(zero, 0, 1, 0),
        mode=Mode.NOMINAL,
        causes=(),
        reasons=(),
        authority=Authority.POLICY,
        verdicts=(),
        filter=result,
        source=result.source,
        timings=Timings(total=total),
        tick=0,
        episode=0,
    )


def evidence(effort: float | None = None) -> Evidence:
    """Evidence with a previous decision of this effort; None is the first tick of an episode."""
    observation = Observation(RobotState(np.zeros(1), np.zeros(1), 0))
    return Evidence(observation, 0, previous=None if effort is None else decision(effort))
