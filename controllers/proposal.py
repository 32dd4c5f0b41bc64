"""From a proposal of any kind to the joint acceleration that it asks for."""

from __future__ import annotations

from typing import Any

import numpy as np

from safeguard.controllers.dynamics import Dynamics
from safeguard.controllers.task import TaskSpace
from safeguard.core.enums import NominalKind
from safeguard.core.types import Nominal, RobotState, Vector, everywhere

_LARGEST = 1e9  # in any unit; what is beyond is not a proposal


def numbers(given: Any) -> Vector:
    """What a caller gave, as numbers; none at all where it is something else."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError):  # ragged
        return np.empty(0)
    return np.ascontiguousarray(array, dtype=np.float64) if array.dtype.kind in "fiu" else np.empty(0)


def wanted(nominal: Nominal, state: RobotState, dynamics: Dynamics, task: TaskSpace, dt: float) -> Wanted:
    """(proposed torque or None, wanted acceleration or None if the proposal is unusable).

    A velocity is to be reached within the period; a position is the torque kp (q* − q) − kd v.
    """
    value, n = nominal.value, len(state.q)
    kind = nominal.kind
    if kind is NominalKind.TWIST or kind is NominalKind.POSE:
        return None, task.wanted(state, nominal)[0]
    if not _is_vector(value, n):
        return None, None
    match kind:
        case NominalKind.ACCELERATION:
            return None, value
        case NominalKind.VELOCITY:
            return None, (value - state.v) / dt
        case NominalKind.TORQUE:
            return value, dynamics.acceleration(value)
        case NominalKind.POSITION:
            kp, kd = nominal.kp, nominal.kd
            if kp is None or kd is None or not (_is_vector(kp, n) and _is_vector(kd, n)):
                return None, None
            tau = kp * (value - state.q) - kd * state.v
            return tau, dynamics.acceleration(tau)
        case NominalKind.ROWS:
            return None, None


Wanted = tuple[Vector | None, Vector | None]


def _is_vector(value: Vector, n: int) -> bool:
    """``n`` numbers, none of them so large that its square overflows a float."""
    return value.shape == (n,) and everywhere(np.abs(value) <= _LARGEST)  # False for NaN
