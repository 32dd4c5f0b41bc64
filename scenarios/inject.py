"""Where faults meet a run: wrappers around the policy, its latency and the drives, and the trigger that always clears.

The wrappers keep the evidence: they compare what went in with what came out of every fault that acts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from safeguard.core.protocols import Policy
from safeguard.core.types import ActionSpec, Command, Observation, Proposal, TorqueCommand, Vector
from safeguard.scenarios.fault_params import FaultParams
from safeguard.scenarios.faults import Activity, Fault


class FaultyPolicy:
    """A policy whose inputs and outputs pass through faults; itself a ``Policy``."""

    def __init__(self, policy: Policy, faults: Sequence[Fault[FaultParams]]) -> None:
        self._policy, self._faults = policy, faults
        self._known: dict[int, int] = {}

    @property
    def spec(self) -> ActionSpec:
        """What its numbers mean."""
        return self._policy.spec

    def infer(self, observation: Observation) -> Proposal:
        """One inference through every fault that acts."""
        seen, known = observation, observation.state.t
        acting = [fault for fault in self._faults if fault.acts]
        for fault in acting:
            before, seen = seen, fault.see(seen)
            _count(fault, _gap(before, seen), observation.state.t)
            known = min(known, fault.known(observation))
        proposal = self._policy.infer(seen)
        for fault in acting:
            true, proposal = proposal, fault.emit(proposal, observation)
            _count(fault, _difference(true.actions, proposal.actions), observation.state.t)
        self._known[proposal.seq] = known
        return proposal

    def known(self, proposal: Proposal) -> int:
        """Time of the newest information that ``proposal`` rests on, ns; stamps may claim otherwise."""
        return self._known[proposal.seq]

    def reset(self) -> None:
        """Forget the episode."""
        self._policy.reset()
        self._known.clear()


class FaultyLatency:
    """Latency of inferences, s, by sequence number and time: ``base_s`` plus what faults add."""

    def __init__(self, base_s: float, faults: Sequence[Fault[FaultParams]]) -> None:
        self._base, self._faults = base_s, faults

    def __call__(self, seq: int, now: int) -> float:
        """Latency of the inference that starts at ``now`` ns; infinite for one that never returns."""
        total = self._base
        for fault in self._faults:
            if fault.acts:
                extra = fault.delay(now)
                _count(fault, extra, now)
                total += extra
        return total


class FaultyDrives:
    """The way of a command to the drives, through every fault that acts there."""

    def __init__(self, faults: Sequence[Fault[FaultParams]]) -> None:
        self._faults = faults

    def __call__(self, command: Command, now: int) -> Command:
        """What the drives carry out at ``now`` ns in place of ``command``."""
        for fault in self._faults:
            if fault.acts:
                told, command = command, fault.deliver(command)
                _count(fault, _change(told, command), now)
        return command


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """A fault took effect (``injected``) or ended; ``activity`` is the evidence so far."""

    injected: bool
    params: FaultParams
    activity: Activity
    t: int


class Injector:
    """Activates and clears faults by time; as a context manager it clears them on every way out.

    Args:
        faults: to be triggered.
        report: called when a fault is first seen to act, and when one ends.
    """

    def __init__(self, faults: Sequence[Fault[FaultParams]], report: Callable[[FaultEvent], None]) -> None:
        self._faults, self._report = faults, report
        self._told: set[int] = set()
        self._now = 0

    def __enter__(self) -> Injector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def tick(self, now: int) -> None:
        """Bring every fault to the state that its trigger asks for at ``now`` ns of the episode."""
        self._now = now
        self._tell()
        for fault in self._faults:
            due = fault.start <= now < fault.end
            if due and not fault.active:
                fault.activate(now)
            elif fault.active and not due:
                self._end(fault)

    def clear(self) -> None:
        """End every fault that is active."""
        self._tell()
        for fault in self._faults:
            if fault.active:
                self._end(fault)

    def _tell(self) -> None:
        for k, fault in enumerate(self._faults):
            if fault.activity.count and k not in self._told:
                self._told.add(k)
                self._report(FaultEvent(True, fault.params, fault.activity, self._now))

    def _end(self, fault: Fault[FaultParams]) -> None:
        fault.clear()
        self._report(FaultEvent(False, fault.params, fault.activity, self._now))


def _count(fault: Fault[FaultParams], size: float, now: int) -> None:
    if size > 0.0:
        fault.activity = fault.activity.plus(size, now)


def _difference(true: Vector, emitted: Vector) -> float:
    """Largest difference of two arrays; infinite where one is NaN and the other not."""
    if true.shape != emitted.shape:
        return math.inf
    if np.array_equal(true, emitted, equal_nan=True):
        return 0.0
    gap = np.abs(true - emitted)
    return float(np.where(np.isnan(gap), np.inf, gap).max())


def _change(told: Command, done: Command) -> float:
    """Largest difference of two commands, N·m; infinite where they are of different kinds."""
    if told is done:
        return 0.0
    if isinstance(told, TorqueCommand) and isinstance(done, TorqueCommand):
        return _difference(told.tau, done.tau)
    return math.inf


def _gap(true: Observation, seen: Observation) -> float:
    """Largest difference of any number of two observations, time stamps aside."""
    if true is seen:
        return 0.0
    gaps = [_difference(true.state.q, seen.state.q), _difference(true.state.v, seen.state.v)]
    if true.sensors.keys() != seen.sensors.keys():
        return math.inf
    gaps += [_difference(true.sensors[name].value, part.value) for name, part in seen.sensors.items()]
    return max(gaps)
