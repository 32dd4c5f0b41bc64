"""Evidence that a monitor must not stay quiet on: decisions, states and chunks made from nothing.

A monitor that never tripped is unproven. At start-up every monitor is shown evidence made of these pieces
(``registry.Entry.trip``); nothing here is random and nothing is measured.
"""

from __future__ import annotations

import numpy as np

from safeguard.core.enums import Authority, FilterStatus, Mode, SolverStatus
from safeguard.core.types import (
    NS_PER_S,
    Decision,
    Evidence,
    FilterResult,
    Margins,
    Observation,
    Proposal,
    RobotState,
    Timings,
    TorqueCommand,
    Vector,
    frozen_array,
)

_FAR = Margins(1.0, 1.0, 1.0, 1.0, "")


def decision(n: int, now: int, period: float, *, effort: float = 0.0, acceleration: Vector | None = None) -> Decision:
    """A decision at ``now`` ns of an arm of ``n`` joints whose policy was followed.

    Args:
        n: number of joints.
        now: ns.
        period: control period, s; the command is valid for three.
        effort: of the filter.
        acceleration: predicted, shape (n,), rad/s²; zero if None.
    """
    zero = frozen_array(np.zeros(n))
    result = FilterResult(
        torque=zero,
        acceleration=zero if acceleration is None else frozen_array(acceleration),
        status=FilterStatus.CORRECTED if effort else FilterStatus.ADMISSIBLE,
        solver=SolverStatus.SKIPPED,
        source="qp" if effort else "proposal",
        slack=(),
        active=(),
        margins=_FAR,
        effort=effort,
    )
    return Decision(
        command=TorqueCommand(zero, now, now + 3 * round(period * NS_PER_S), 0),
        mode=Mode.NOMINAL,
        causes=(),
        reasons=(),
        authority=Authority.POLICY,
        verdicts=(),
        filter=result,
        source=result.source,
        timings=Timings(),
        tick=0,
        episode=0,
    )


def standing(
    n: int, now: int, *, v: Vector | None = None, previous: Decision | None = None, chunk: Proposal | None = None
) -> Evidence:
    """Evidence at ``now`` ns: ``n`` joints at 0 rad with speeds ``v`` (rad/s), and the chunk that has just arrived."""
    state = RobotState(np.zeros(n), np.zeros(n) if v is None else v, now)
    return Evidence(Observation(state), now, chunk, chunk, previous)


def proposal(seq: int, now: int, actions: Vector, features: Vector | None = None) -> Proposal:
    """A proposal computed at ``now`` ns from the observation of ``now``."""
    return Proposal(actions, now, now, "proof", seq, features)
