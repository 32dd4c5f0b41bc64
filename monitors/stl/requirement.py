"""Requirements in past-time signal temporal logic, checked every tick, with their margin."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from math import isnan, nan

from safeguard.core.config import FormulaConfig
from safeguard.core.enums import Level
from safeguard.core.types import Evidence, Verdict
from safeguard.monitors.rung import ANSWERS
from safeguard.monitors.scores import LARGEST
from safeguard.monitors.stl.grammar import complaint, parse
from safeguard.monitors.stl.online import build
from safeguard.monitors.stl.planted import TICKS, streams
from safeguard.monitors.stl.signals import Signals, UnknownSignalError
from safeguard.monitors.stl.tree import Comparison


class Requirement:
    """A formula that has to hold; its negated robustness is the score, and any score above 0 is an alarm.

    An alarm has the level and the cause of the formula's rung. It is outside the budget of calibrated false alarms:
    it says that the requirement is broken, not that something is unusual. A robustness of NaN (a signal is or was
    missing in what the formula looks back on) is an alarm too (law 5).

    Time is counted in ticks of ``period``, not in stamps. ``grammar`` beside this module has the grammar,
    ``signals.Signals`` the signals and ``online`` the semantics. Memory is bounded by the intervals.

    Args:
        config: name, formula and rung.
        joints: names of the robot's joints, in order.
        period: control period, s.
        sensors: names of the sensors there are; None where they are not known yet. Then a wrong name shows as missing.

    Raises:
        ConfigError: the formula cannot be read, or names what does not exist; with the column.

    Attributes:
        unproven: why it is UNPROVEN and not OK while nothing is wrong, or "" (law 9); ``prove`` finds out.
    """

    def __init__(
        self,
        config: FormulaConfig,
        joints: Sequence[str],
        period: float,
        sensors: Collection[str] | None = None,
    ) -> None:
        self.name = f"requirement.{config.name}"
        self.formula = " ".join(config.formula.split())
        self._level, self._cause = ANSWERS[config.rung]
        self._comparisons: list[Comparison] = []
        where = f"requirement {config.name!r}"
        parsed = parse(config.formula, period, where)
        try:
            self._signals = Signals(parsed.signals, joints, sensors)
        except UnknownSignalError as error:
            raise complaint(where, config.formula, parsed.signals[error.name], str(error)) from None
        self._node = build(parsed.formula, self._signals.names, self._comparisons)
        self._formula, self._joints = parsed.formula, tuple(joints)
        self.unproven = ""

    def prove(self) -> None:
        """Show it streams that should break it; if it calls none of them broken it is ``unproven`` from then on."""
        tripped = any(0.0 < score < LARGEST for score in self._planted())
        self.unproven = "" if tripped else f"unproven: nothing planted broke it within {TICKS} ticks"
        self.reset()

    def _planted(self) -> Iterator[float]:
        """Its scores on what is planted. An infinite one comes from an interval in which nothing has happened yet."""
        for stream in streams(self._formula, self._joints):
            self.reset()
            for evidence in stream:
                yield self.check(evidence).score

    def reset(self) -> None:
        """Start a new episode."""
        self._signals.reset()
        self._node.reset()

    def check(self, evidence: Evidence) -> Verdict:
        """This tick's verdict: score −robustness (±10¹² where it is infinite), threshold 0. Call it once a tick."""
        values = self._signals.read(evidence)
        robustness, decisive = self._node.step(values)
        if robustness >= 0.0:
            level = Level.UNPROVEN if self.unproven else Level.OK
            return Verdict(self.name, level, max(0.0 - robustness, -LARGEST), 0.0, detail=self.unproven)
        if isnan(robustness):
            return Verdict(self.name, self._level, nan, 0.0, cause=self._cause, detail=self._missing(values))
        score, detail = min(-robustness, LARGEST), self._broken(robustness, decisive)
        return Verdict(self.name, self._level, score, 0.0, cause=self._cause, detail=detail)

    def _broken(self, robustness: float, decisive: int) -> str:
        why = "nothing happened yet" if decisive < 0 else f"decided by {self._comparisons[decisive].text}"
        return f"{self.formula}: margin {robustness:.4g}, {why}"

    def _missing(self, values: Sequence[float]) -> str:
        names = [name for name, value in zip(self._signals.names, values, strict=True) if isnan(value)]
        if not names:
            return f"{self.formula}: unknown, a value that it looks back on was missing"
        return f"{self.formula}: unknown, {', '.join(names)} missing or not finite"
