"""What the mode machine saw in a run, for the simulator: every tick's inputs, recomputed from the journal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safeguard.audit.records.registry import Record
from safeguard.core.enums import Cause
from safeguard.core.errors import JournalError
from safeguard.core.protocols import PolicyPort
from safeguard.core.types import Decision, Observation
from safeguard.modes.simulate import RecordedRun, RecordedTicks, merged
from safeguard.modes.table import CAUSE_BIT
from safeguard.replay import recorded_shield, replay_run
from safeguard.shield import Shield


class _Watched:
    """A shield under replay that notes what its mode machine is given."""

    def __init__(self, shield: Shield, ticks: list[RecordedTicks]) -> None:
        self.shield, self._ticks, self._start = shield, ticks, True

    def begin_episode(self, task: str) -> None:
        """See ``Shield``."""
        self.shield.begin_episode(task)
        self._start = True

    def step(self, observation: Observation, now: int | None = None) -> Decision:
        """See ``Shield``."""
        before = self.shield.mode
        decision = self.shield.step(observation, now)
        inputs, names = self.shield.mode_inputs, self.shield.table.names
        self._ticks.append(
            RecordedTicks(
                causes=tuple(cause for cause in Cause if inputs.causes & CAUSE_BIT[cause]),
                ack=inputs.ack,
                standstill=inputs.standstill,
                ready=inputs.ready,
                person=inputs.person,
                shadow=tuple(name for c, name in enumerate(names) if inputs.shadow >> c & 1),
                available=tuple(name for c, name in enumerate(names) if inputs.available >> c & 1),
                mode=decision.mode.name,
                start=before.name if self._start else None,
            )
        )
        self._start = False
        return decision

    def acknowledge(self, *, operator: str, reason: str, simulated: bool = False) -> None:
        """See ``Shield``."""
        self.shield.acknowledge(operator=operator, reason=reason, simulated=simulated)

    def stop(self, *, operator: str, reason: str, simulated: bool = False) -> None:
        """See ``Shield``."""
        self.shield.stop(operator=operator, reason=reason, simulated=simulated)

    def jog(self, velocity: Sequence[float], *, operator: str, reason: str, simulated: bool = False) -> None:
        """See ``Shield``."""
        self.shield.jog(velocity, operator=operator, reason=reason, simulated=simulated)

    def give(self, source: str, *, operator: str, reason: str, simulated: bool = False) -> None:
        """See ``Shield``."""
        self.shield.give(source, operator=operator, reason=reason, simulated=simulated)

    def reset(self) -> None:
        """See ``Shield``."""
        self.shield.reset()
        self._start = True

    def close(self) -> None:
        """See ``Shield``."""
        self.shield.close()


def recorded_run(path: Path) -> RecordedRun:
    """The causes, flags and modes of a run, tick by tick. Raises JournalError where it cannot be replayed."""
    ticks: list[RecordedTicks] = []
    shields: list[Shield] = []

    def watched(run: Record, episode: Record, port: PolicyPort) -> _Watched:
        shields.append(recorded_shield(run, episode, port))
        return _Watched(shields[-1], ticks)

    report = replay_run(path, rebuild=watched)
    if report.divergence is not None or not ticks:
        raise JournalError(f"{path}: its decisions do not come out again, so neither do its modes")
    first = shields[0]
    return RecordedRun(name=path.name, strategy=first.strategy, period_s=first.period, ticks=merged(ticks))
