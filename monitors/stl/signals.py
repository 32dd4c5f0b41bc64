"""Signals that formulas may name, resolved once, read from the evidence of every tick."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from math import inf, isfinite, nan
from typing import Final, TypeAlias

import numpy as np

from safeguard.core.enums import Mode
from safeguard.core.types import NS_PER_S, Evidence, Margins, Observation, RobotState, Sensor, Vector
from safeguard.monitors.proof import decision, proposal
from safeguard.monitors.scores import LARGEST

Reader: TypeAlias = Callable[[Evidence], float]

_OF_MARGINS: Final[dict[str, Callable[[Margins], float]]] = {
    "margin.position": lambda margins: margins.position,
    "margin.velocity": lambda margins: margins.velocity,
    "margin.torque": lambda margins: margins.torque,
    "margin.clearance": lambda margins: margins.clearance,
}
_AT_FIRST: Final[dict[str, float]] = {**dict.fromkeys(_OF_MARGINS, inf), "effort": 0.0, "mode": 0.0}
_PLAIN: Final = (*_AT_FIRST, "speed", "age.state", "age.proposal")
_SENSOR: Final = re.compile(r"sensor\.(?P<name>[^\[\]]+)(?:\[(?P<index>\d+)\])?")


class UnknownSignalError(Exception):
    """A name that is no signal; says which names come near.

    Attributes:
        name: what was asked for.
    """

    def __init__(self, name: str, advice: str) -> None:
        self.name = name
        super().__init__(f"unknown signal {name!r}; {advice}")


class Signals:
    """Reads named signals from evidence; never raises for what it finds there.

    ==========================  =====================================================================
    ``q.JOINT``, ``v.JOINT``    measured position and velocity, rad and rad/s (m and m/s)
    ``speed``                   largest magnitude among all ``v``
    ``margin.position``         of the previous decision, as the next three: ``Margins``, rad
    ``margin.velocity``         rad/s
    ``margin.torque``           N·m
    ``margin.clearance``        m; +∞ where no pair is kept apart
    ``effort``                  of the previous decision's filter, dimensionless
    ``mode``                    of the previous decision: 0 NOMINAL … 3 HOLD, 4 STOP (``Mode``)
    ``age.state``               of the measured state, s
    ``age.proposal``            of the observation behind the followed chunk, s; while none is followed,
                                seconds since the episode's first tick
    ``sensor.NAME[i]``          element i of the flattened value; without [i] a sensor of one number
    ==========================  =====================================================================

    What is missing, misshapen or not finite reads NaN. In the first tick of an episode there is no previous decision
    yet: margins are +∞, effort and mode 0.

    Args:
        names: the signals to read, in this order.
        joints: names of the robot's joints, in the order of ``q`` and ``v``.
        sensors: the sensors there are, or None where that is not known before they report.

    Raises:
        UnknownSignalError: a name is no signal.
    """

    def __init__(self, names: Iterable[str], joints: Sequence[str], sensors: Collection[str] | None = None) -> None:
        self.names = tuple(names)
        self._joints = tuple(joints)
        self._sensors = sensors
        self._readers = [self._reader(name) for name in self.names]
        self._neutral = [(k, _AT_FIRST[name]) for k, name in enumerate(self.names) if name in _AT_FIRST]
        self._begin: int | None = None

    def reset(self) -> None:
        """Start a new episode."""
        self._begin = None

    def read(self, evidence: Evidence) -> list[float]:
        """Every signal now; NaN where it is missing."""
        values = [reader(evidence) for reader in self._readers]
        if self._begin is None:
            self._begin = evidence.now
            if evidence.previous is None:
                for index, neutral in self._neutral:
                    values[index] = neutral
        return values

    def _reader(self, name: str) -> Reader:
        if name in _OF_MARGINS:
            return _margin(_OF_MARGINS[name])
        plain: dict[str, Reader] = {
            "effort": _effort,
            "mode": _mode,
            "speed": _fastest(len(self._joints)),
            "age.state": _age_of_state,
            "age.proposal": self._age_of_proposal,
        }
        if name in plain:
            return plain[name]
        kind, _, joint = name.partition(".")
        if kind in ("q", "v") and joint in self._joints:
            return _joint(kind, self._joints.index(joint), len(self._joints))
        match = _SENSOR.fullmatch(name)
        if match and (self._sensors is None or match["name"] in self._sensors):
            return _sensor(match["name"], None if match["index"] is None else int(match["index"]))
        raise UnknownSignalError(name, self._advice(name))

    def _advice(self, name: str) -> str:
        known = [f"{kind}.{joint}" for kind in "qv" for joint in self._joints]
        known += [*_PLAIN, *(f"sensor.{sensor}" for sensor in self._sensors or ())]
        near = get_close_matches(name.partition("[")[0], known, n=4, cutoff=0.5)
        if near:
            return f"near it: {', '.join(near)}"
        return f"known: q.JOINT, v.JOINT, sensor.NAME[i], {', '.join(_PLAIN)}"

    def _age_of_proposal(self, evidence: Evidence) -> float:
        if evidence.current is not None:
            since = evidence.current.t_obs
        else:
            since = evidence.now if self._begin is None else self._begin
        return (evidence.now - since) / NS_PER_S


# -- the other way round ----------------------------------------------------------------------------------


def plausible(name: str, values: Iterable[float]) -> list[float]:
    """Those of ``values`` that the signal can have; for the mode all there are."""
    if name == "mode":
        return [float(mode) for mode in Mode]
    least = 0.0 if name in ("speed", "effort", "age.proposal") else -LARGEST
    return list(dict.fromkeys(max(value, least) for value in values if abs(value) <= LARGEST))


def plant(values: Mapping[str, float], joints: Sequence[str]) -> Evidence:
    """Evidence of a tick in which the named signals have these ``values``, as far as they go together.

    ``speed`` is that of a joint whose own is not named. Joints, chunk and decision are made from nothing.
    """
    q = np.array([values.get(f"q.{joint}", 0.0) for joint in joints])
    v = np.array([values.get(f"v.{joint}", 0.0) for joint in joints])
    free = next((k for k, joint in enumerate(joints) if f"v.{joint}" not in values), None)
    if free is not None:
        v[free] = values.get("speed", 0.0)
    state = RobotState(q, v, -round(NS_PER_S * values.get("age.state", 0.0)))
    chunk = proposal(0, -round(NS_PER_S * values.get("age.proposal", 0.0)), np.zeros((1, len(joints))))
    made = decision(len(joints), 0, 1.0, effort=values.get("effort", 0.0))
    position, velocity, torque, clearance = (values.get(name, 1.0) for name in _OF_MARGINS)
    margins = Margins(position, velocity, torque, clearance, "")
    previous = replace(made, mode=Mode(int(values.get("mode", 0.0))), filter=replace(made.filter, margins=margins))
    return Evidence(Observation(state, _sensors(values)), 0, chunk, chunk, previous)


def _sensors(values: Mapping[str, float]) -> dict[str, Sensor]:
    """Sensors with these elements, the others 0."""
    found: dict[str, Vector] = {}
    for name, value in values.items():
        if match := _SENSOR.fullmatch(name):
            index = int(match["index"] or 0)
            known = found.get(match["name"], np.zeros(0))
            found[match["name"]] = np.pad(known, (0, max(0, index + 1 - known.size)))
            found[match["name"]][index] = value
    return {name: Sensor(value, 0) for name, value in found.items()}


# -- reading ----------------------------------------------------------------------------------------------


def _joint(kind: str, index: int, n: int) -> Reader:
    shape = (n,)

    def position(evidence: Evidence) -> float:
        q = evidence.observation.state.q
        return _finite(q.item(index)) if q.shape == shape else nan

    def velocity(evidence: Evidence) -> float:
        v = evidence.observation.state.v
        return _finite(v.item(index)) if v.shape == shape else nan

    return position if kind == "q" else velocity


def _fastest(n: int) -> Reader:
    shape = (n,)

    def fastest(evidence: Evidence) -> float:
        v = evidence.observation.state.v
        if v.shape != shape:
            return nan
        speeds: list[float] = [abs(speed) for speed in v.tolist()]
        return max(speeds) if isfinite(sum(speeds)) else nan

    return fastest


def _sensor(name: str, index: int | None) -> Reader:
    def element(evidence: Evidence) -> float:
        sensor = evidence.observation.sensors.get(name)
        if sensor is None:
            return nan
        size = sensor.value.size
        if index is None:
            return _finite(sensor.value.item()) if size == 1 else nan
        return _finite(sensor.value.item(index)) if index < size else nan

    return element


def _margin(pick: Callable[[Margins], float]) -> Reader:
    def margin(evidence: Evidence) -> float:
        return nan if evidence.previous is None else pick(evidence.previous.filter.margins)

    return margin


def _effort(evidence: Evidence) -> float:
    return nan if evidence.previous is None else _finite(evidence.previous.filter.effort)


def _mode(evidence: Evidence) -> float:
    return nan if evidence.previous is None else float(evidence.previous.mode)


def _age_of_state(evidence: Evidence) -> float:
    return (evidence.now - evidence.observation.state.t) / NS_PER_S


def _finite(value: float) -> float:
    return value if isfinite(value) else nan
