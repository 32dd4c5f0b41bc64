"""The agent's side of the shield in an environment: its actions as proposals, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from safeguard.controllers.proposal import numbers
from safeguard.core.enums import Cause, FilterStatus, Mode, Reference
from safeguard.core.types import ActionSpec, Command, Decision, Observation, Proposal, TerminalStop, Vector
from safeguard.policies.binding import Binding

_NOT_ITS_OWN: Final = (FilterStatus.BACKUP, FilterStatus.REFUSED)


class AgentPort:
    """Hands out every action that the agent gives, once.

    Args:
        spec: what its numbers mean.
        name: written to records.
    """

    def __init__(self, spec: ActionSpec, name: str) -> None:
        self.spec, self.name = spec, name
        self._ready: Proposal | None = None
        self._seq = 0

    def offer(self, actions: Vector, now: int) -> None:
        """An action for the observation of ``now`` ns, of whatever shape it came in."""
        self._ready = Proposal(actions, now, now, self.name, self._seq)
        self._seq += 1

    def post(self, observation: Observation, now: int) -> None:
        """The agent sees the environment's observations, not the shield's."""

    def poll(self, now: int) -> Proposal | None:
        """The action that was offered and not handed out yet."""
        del now
        ready, self._ready = self._ready, None
        return ready

    def reset(self) -> None:
        """Forget the episode."""
        self._ready, self._seq = None, 0


def as_numbers(action: Any) -> Vector:
    """``action`` as a new array of floats, empty where it is no such thing."""
    try:
        return np.array(numbers(action))
    except Exception:  # noqa: BLE001  an agent may hand over anything
        return np.zeros(0)


class Executed:
    """Which action of the agent's kind would have led to what was executed.

    Args:
        spec: of the agent.
        joints: names of the body's joints, in order.
        dt: control period, s.
        omega: natural frequency with which position targets are tracked, rad/s.
    """

    def __init__(self, spec: ActionSpec, joints: tuple[str, ...], dt: float, omega: float) -> None:
        self.binding = Binding(spec, joints)
        self._reference, self._dt, self._omega = self.binding.spec.reference, dt, omega
        if self._reference is Reference.PD_TARGET:
            self._kp, self._kd = (np.array(self.binding.spec.column(name)) for name in ("kp", "kd"))

    def row(self, decision: Decision, q: Vector, v: Vector) -> Vector:
        """The inverse of the controllers at the state (q, v) of the tick, shape (n,), in the body's SI units.

        Positions: q* = q + (a + 2 ω v) / ω². Velocities: v* = v + a dt. Torques: τ. PD targets:
        q* = q + (τ + kd v) / kp.
        Where the brakes hold the body: where it is, at rest.
        """
        result, braked = decision.filter, isinstance(decision.command, TerminalStop)
        a = np.zeros(len(q)) if braked else result.acceleration
        if result.position is not None and result.velocity is not None:  # the reference of position drives
            v = result.velocity - a * self._dt
            q = result.position - (v + 0.5 * a * self._dt) * self._dt
        if braked:
            v = np.zeros(len(q))
        match self._reference:
            case Reference.VELOCITY:
                return v + a * self._dt
            case Reference.TORQUE:
                return np.zeros(len(q)) if braked else result.torque
            case Reference.PD_TARGET:
                return q if braked else q + (result.torque + self._kd * v) / self._kp
            case _:
                return q + (a + 2.0 * self._omega * v) / self._omega**2


@dataclass(slots=True)
class Account:
    """What became of one action, tick by tick.

    Attributes:
        raw: the action as it was given, shape (columns,); NaN where it was no such array.
        refusal: why it cannot be meant, or "".
        anchor: where the joints were when it was given, shape (n,), rad.
        span: of the action's range, shape (columns,).
    """

    raw: Vector
    refusal: str
    anchor: Vector
    span: Vector
    executed: Executed
    _rows: list[Vector] = field(default_factory=list[Vector])
    _missed: list[float] = field(default_factory=list[float])
    _backup: int = 0
    _corrected: int = 0
    _modes: list[Mode] = field(default_factory=list[Mode])
    _causes: dict[Cause, None] = field(default_factory=dict[Cause, None])
    _command: Command | None = None

    def add(self, decision: Decision, q: Vector, v: Vector) -> None:
        """The decision of one tick, taken in the state (q, v)."""
        status = decision.filter.status
        self._command = decision.command
        self._modes.append(decision.mode)
        self._causes.update(dict.fromkeys(decision.causes))
        self._backup += status in _NOT_ITS_OWN
        self._corrected += status is FilterStatus.CORRECTED
        if status in (FilterStatus.ADMISSIBLE, FilterStatus.BYPASSED):
            mine = self.raw
        elif q.shape == v.shape == self.anchor.shape == (len(self.executed.binding.spec.joints),):
            mine = self._own_numbers(self.executed.row(decision, q, v))
        else:
            mine = np.full_like(self.raw, np.nan)
        self._rows.append(mine)
        self._missed.append(1.0 if status in _NOT_ITS_OWN else self._miss(mine))

    def _own_numbers(self, row: Vector) -> Vector:
        like = np.nan_to_num(self.raw)[None]
        own: Vector = self.executed.binding.unbound(row[None], self.anchor, like)[0]
        return own

    def _miss(self, mine: Vector) -> float:
        """Largest distance of any column from what was asked, as a share of its range, at most 1."""
        distance = float(np.max(np.abs(mine - self.raw) / self.span))
        return min(distance, 1.0) if np.isfinite(distance) else 1.0

    @property
    def intervened(self) -> bool:
        """Anything was executed that differs from the action."""
        return self._backup + self._corrected > 0

    @property
    def intervention(self) -> float:
        """Share of the action that was not executed: 0 as it is, 1 nothing of it; the mean over its ticks."""
        return float(np.mean(self._missed)) if self._missed else 0.0

    def info(self) -> dict[str, Any]:
        """What stands in ``info["safeguard"]``."""
        shielded = np.mean(self._rows, axis=0) if self.intervened else self.raw.copy()
        return {
            "raw": self.raw.copy(),
            "shielded": shielded,
            "command": _sent(self._command, len(self.executed.binding.spec.joints)),
            "intervention": self.intervention,
            "intervened": self.intervened,
            "refusal": self.refusal,
            "mode": max(self._modes, default=Mode.BOOT, key=_severity).name,
            "causes": tuple(cause.value for cause in self._causes),
            "ticks": len(self._rows),
            "corrected_ticks": self._corrected,
            "backup_ticks": self._backup,
        }


def _severity(mode: Mode) -> int:
    return int(mode)


def _sent(command: Command | None, n: int) -> Vector:
    """The numbers of a command, shape (n,); NaN for a terminal stop."""
    for name in ("tau", "q", "v"):
        values = getattr(command, name, None)
        if values is not None:
            return np.array(values)
    return np.full(n, np.nan)
