"""Proof that the checks of sensors, punctuality and plans are awake: a fault that must trip each, and its twin.

A check that was never tripped is unproven. Nothing here is random and nothing is measured; it takes a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from safeguard.core.config import PlanConfig, PunctualConfig, SensorConfig
from safeguard.core.enums import Reference
from safeguard.core.types import NS_PER_S, ActionSpec, Observation, Proposal, RobotState, Sensor, Verdict
from safeguard.monitors.plan import PlanSanity
from safeguard.monitors.punctual import Punctual
from safeguard.monitors.sensors import Sensors

_S = NS_PER_S
_SPEC = ActionSpec(("proof",), "rad", Reference.ABSOLUTE, 10.0, 8)
_REST = RobotState(np.zeros(1), np.zeros(1), 0)


def asleep() -> tuple[str, ...]:
    """Names of the checks that stay quiet on their fault, or speak without one; empty if all are awake."""
    return tuple(name for name, fault, twin in _proofs() if fault.cause is None or twin.cause is not None)


def _proofs() -> Iterator[tuple[str, Verdict, Verdict]]:
    """(check, its verdict on the fault, its verdict on the same without the fault)."""
    well = Sensor(np.ones(1), 2 * _S)
    faults = {
        "missing": None,
        "numbers": Sensor(np.full(1, np.nan), 2 * _S),
        "shape": Sensor(np.ones(2), 2 * _S),
        "future": Sensor(np.ones(1), 3 * _S),
        "order": Sensor(np.ones(1), _S - 1),
        "age": Sensor(np.ones(1), _S),
        "frozen": Sensor(np.zeros(1), 2 * _S),
    }
    for name, part in faults.items():
        yield f"sensor.{name}", _sensor(part), _sensor(well)
    yield "sensors", _others(faults["numbers"]), _others(well)
    yield "punctual.in_a_row", _punctual(1, 1, 1, 0, 0, 0), _punctual(1, 1, 1, 0, 0, 1)
    yield "punctual.m_of_k", _punctual(1, 0, 1, 0, 1, 0, 1, 0), _punctual(1, 0, 1, 0, 1, 0, 1, 1)
    yield "plan.jump", _plan([9.0] * 8)[0], _plan([0.0] * 8)[0]
    yield "plan.curvature", _plan([0.0] * 4 + [0.3] * 4)[1], _plan([0.0] * 8)[1]
    yield "plan.reversals", _plan([0.0, 0.1] * 4)[2], _plan([0.0, 0.1] * 2 + [0.2] * 4)[2]


def _sensor(second: Sensor | None) -> Verdict:
    """On a sensor that was 0 at 1 s and is ``second`` at 2 s."""
    sensors = Sensors({"proof": SensorConfig(max_age_s=0.2, frozen_s=0.5)})
    sensors.check(Observation(_REST, {"proof": Sensor(np.zeros(1), _S)}), _S)
    return sensors.check(Observation(_REST, {} if second is None else {"proof": second}), 2 * _S)[0]


def _others(part: Sensor | None) -> Verdict:
    return Sensors({}).check(Observation(_REST, {} if part is None else {"proof": part}), 2 * _S)[-1]


def _punctual(*arrives: int) -> Verdict:
    """On a policy with these outcomes, one a second, of which three in a row and four of 20 are too many."""
    check = Punctual(PunctualConfig(m=3, k=20, in_a_row=2, grace=0.0), 1.0)
    current = _chunk([0.0])
    verdict = check.check(current, 0)
    for second, arrived in enumerate(arrives, start=1):
        current = _chunk([0.0]) if arrived else current
        verdict = check.check(current, second * _S + (0 if arrived else 1))
    return verdict


def _plan(rows: ArrayLike) -> tuple[Verdict, ...]:
    """On a chunk of a joint that is at 0 rad and may do 1 rad/s and 1 rad/s²."""
    config = PlanConfig(jump_factor=4.0, curvature_factor=8.0, reversals=4)
    return PlanSanity(_SPEC, _SPEC.joints, [1.0], [1.0], config).check(_chunk(rows), _REST)


def _chunk(rows: ArrayLike) -> Proposal:
    return Proposal(np.array(rows, dtype=np.float64)[:, None], 0, 0, "proof", 0)
