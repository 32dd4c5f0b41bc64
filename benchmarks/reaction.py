"""From a cause to its floor in the running shield: every cause that the shield itself raises, injected in NOMINAL.

Counted are the ticks from the one that sees the cause to the one whose mode is at least the cause's floor. A cause
without a bridge must take 0; one with a bridge is due when its bucket is full, which is counted here once more from the
causes of the decisions.

python benchmarks/reaction.py --json benchmarks/reaction.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from a clone

from safeguard.audit import AuditConfig
from safeguard.core.enums import Cause, FilterStatus, Mode
from safeguard.core.types import NS_PER_S, FilterResult, Observation, Proposal, Timings
from safeguard.modes import STRATEGIES, load_spec
from safeguard.policies import InlinePort
from safeguard.shield import Shield
from tests.laws.lab import CONFIG, PERIOD, TICK, Lab, artefact, near, panda, spec

NOMINAL_TICKS: Final = 1000  # more than it takes from an acknowledgement to NOMINAL
LIMIT: Final = 600  # ticks in which a cause must be seen and its floor reached
HORIZON: Final = 700  # ticks after which the monitor's calibration no longer counts


class Guest:
    """A policy that behaves until it is told otherwise."""

    name, spec = "guest", spec()

    def __init__(self) -> None:
        self.fault, self.seq, self._last = "", 0, np.zeros(0)

    def infer(self, observation: Observation) -> Proposal:
        """A gentle motion, or what the fault makes of it."""
        if self.fault != "repeated":
            self._last = near(observation)
        self.seq += self.fault != "order"
        actions = np.full_like(self._last, np.nan) if self.fault == "invalid" else self._last
        return Proposal(actions, observation.state.t, observation.state.t, self.name, self.seq)

    def latency(self, _count: int, _now: int) -> float:
        """20 ms, or for ever."""
        return math.inf if self.fault == "late" else 0.02

    def reset(self) -> None:
        """Nothing is kept."""


class Bench(Lab):
    """The laws' laboratory with a strategy's table, a journal in a folder and a calibrated monitor."""

    def __init__(self, strategy: str, folder: Path) -> None:
        self.guest, self.onset = Guest(), 0
        port = InlinePort(self.guest, latency=self.guest.latency)
        super().__init__(port)
        made = artefact(300, HORIZON, size=2.0)
        config, audit = CONFIG.model_copy(update={"real_time": True}), AuditConfig.of(folder, real_time=False)
        self.shield = Shield(
            panda(), port, strategy=strategy, period=PERIOD, config=config, audit=audit, calibration=made
        )
        self.measured(0)
        self.shield.begin_episode("see a cause")

    def measured(self, total: int) -> None:
        """What the previous tick is said to have taken, ns."""
        port: Any = self.shield.port
        port.measured = Timings(total=total)

    def nominal(self) -> None:
        """Drive to NOMINAL as an operator would. Raises RuntimeError if it does not get there."""
        self.start()
        for _ in range(NOMINAL_TICKS):
            if self.tick().mode is Mode.NOMINAL:
                return
        raise RuntimeError(f"not NOMINAL after {NOMINAL_TICKS} ticks: {self.decisions[-1].reasons}")

    def answers(self, change: Callable[[FilterResult], FilterResult]) -> None:
        """From now on ``change`` is applied to what the filter says."""
        platform: Any = self.platform
        real: Callable[..., FilterResult] = type(self.platform).filter

        def changed(*arguments: Any) -> FilterResult:
            return change(real(platform, *arguments))

        platform.filter = changed


Fault = Callable[[Bench], Observation | None]
"""Called before every tick; what the sensors say, None for the truth."""


def _sensed(**change: Callable[[Bench], Any]) -> Fault:
    """A measured state with other content."""

    def told(lab: Bench) -> Observation:
        seen = lab.observe()
        return replace(seen, state=replace(seen.state, **{key: make(lab) for key, make in change.items()}))

    return told


def _backwards(lab: Bench) -> None:
    lab.now = lab.onset - TICK


def _guest(fault: str) -> Fault:
    def told(lab: Bench) -> None:
        lab.guest.fault = fault

    return told


def _filter(**change: Any) -> Fault:
    def told(lab: Bench) -> None:
        lab.answers(lambda result: replace(result, **change))

    return told


def _closed(lab: Bench) -> None:
    if lab.shield.journal is not None:
        lab.shield.journal.close()


FAULTS: Final[dict[Cause, Fault]] = {
    Cause.ESTOP: lambda lab: replace(lab.observe(), estop=True),
    Cause.STATE_INVALID: _sensed(q=lambda lab: np.full_like(lab.q, np.nan)),
    Cause.STATE_STALE: _sensed(t=lambda lab: lab.onset - TICK),
    Cause.STATE_ORDER: _sensed(t=lambda lab: lab.onset - TICK - 1000),
    Cause.STATE_JUMP: _sensed(q=lambda lab: lab.q + 0.1),
    Cause.CLOCK_BACKWARDS: _backwards,
    Cause.TICK_OVERRUN: lambda lab: lab.measured(NS_PER_S),
    Cause.PROPOSAL_INVALID: _guest("invalid"),
    Cause.PROPOSAL_REPEATED: _guest("repeated"),
    Cause.PROPOSAL_ORDER: _guest("order"),
    Cause.POLICY_LATE: _guest("late"),
    Cause.FILTER_FAILED: _filter(status=FilterStatus.BACKUP, source="backup", refusal="planted"),
    Cause.FILTER_SLACK: _filter(slack=(("planted", 0.01),)),
    Cause.BACKUP_REFUSED: _filter(status=FilterStatus.REFUSED, refusal="planted"),
    Cause.MONITOR_WARN: _filter(effort=1e3),
    Cause.MONITOR_DEGRADE: _filter(effort=1e3),
    Cause.MONITOR_STOP: _filter(effort=1e3),
    Cause.UNCALIBRATED: lambda lab: None,  # its horizon passes
    Cause.AUDIT_FAILED: _closed,
    Cause.OPERATOR_STOP: lambda lab: lab.shield.stop(operator="bench", reason="planted", simulated=True),
}
"""What makes the shield raise a cause. The others are raised by monitors that it does not have yet."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a cause did.

    Attributes:
        cause, floor: which, and the least mode that the table owes it.
        bridge: ticks after the first that the table allows a cause that stays active.
        due: tick in which its bucket was full, from the one that saw it; −1 if the floor came first.
        ticks: the same for the floor; −1 if that was not reached.
        mode: the mode then.
        reasons: the rows that were named.
    """

    cause: Cause
    floor: Mode
    bridge: int
    due: int
    ticks: int
    mode: Mode
    reasons: tuple[str, ...]

    @property
    def met(self) -> bool:
        """The floor holds in the tick in which it is due; what is wrong besides may bring it about earlier."""
        return self.ticks >= 0 and self.due in (-1, self.ticks)


class Bucket:
    """How much of its bridge a cause has used up, as the table says it and without the engine."""

    def __init__(self, strategy: str, cause: Cause) -> None:
        content = load_spec(strategy)
        row = next(row for row in content.causes if row.cause is cause)
        self.floor, self._rule, self._level = row.floor, content.bridge, 0
        ticks = row.bridge_ticks or row.debounce_ticks or int((row.bridge_s or row.debounce_s or 0.0) / PERIOD + 1e-6)
        self.bridge = max(ticks - 1, 0)
        self._full = self._rule.fill * ticks

    def add(self, *, active: bool) -> bool:
        """Whether the floor is due in this tick."""
        self._level = max(self._level + (self._rule.fill if active else -self._rule.drain), 0)
        return active and self._level >= self._full


def react(strategy: str, cause: Cause, folder: Path) -> Reaction:
    """Inject ``cause`` in NOMINAL and wait for its floor."""
    bucket, lab = Bucket(strategy, cause), Bench(strategy, folder)
    lab.nominal()
    lab.onset, seen, due = lab.now, -1, -1
    for k in range(LIMIT):
        decision = lab.tick(FAULTS[cause](lab))
        active = cause in decision.causes
        seen = k if seen < 0 and active else seen
        if bucket.add(active=active) and due < 0:
            due = k - seen
        if seen >= 0 and decision.mode >= bucket.floor:
            return Reaction(cause, bucket.floor, bucket.bridge, due, k - seen, decision.mode, decision.reasons)
    return Reaction(cause, bucket.floor, bucket.bridge, due, -1, lab.decisions[-1].mode, lab.decisions[-1].reasons)


def main() -> int:
    """Inject every cause, print the table, write the figures; 3 if a floor is late."""
    arguments = _arguments()
    shown = Table("strategy", "cause", "floor", "bridge, ticks", "due", "took", "mode then", "rows")
    found: dict[str, dict[str, object]] = {}
    late = False
    jobs = [(strategy, cause) for strategy in arguments.strategy or STRATEGIES for cause in FAULTS]
    for strategy, cause in track(jobs, "causes", transient=True):
        with TemporaryDirectory() as folder:
            one = react(strategy, cause, Path(folder) / "run")
        late |= not one.met
        shown.add_row(strategy, cause.value, one.floor.name, str(one.bridge), "–" if one.due < 0 else str(one.due),
                      str(one.ticks), one.mode.name, ", ".join(one.reasons))  # fmt: skip
        found.setdefault(strategy, {})[cause.value] = {
            "floor": one.floor.name, "bridge": one.bridge, "due": one.due, "ticks": one.ticks, "mode": one.mode.name,
            "rows": one.reasons,
        }  # fmt: skip
    Console(width=max(Console().width, 120)).print(shown)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 3 if late else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", action="append", choices=STRATEGIES, help="only this one; may be repeated")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
