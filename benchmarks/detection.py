"""Who notices what: our monitors and joint scores beside published baselines, on the fault library and policy shifts.

One operating point, fixed before anything was looked at: a declared rate of 0.10 false alarms an episode, for every
method by the same rule on the same nominal episodes (its largest score of each, order statistic k of n, alarm above
it). What is learned is learned on other nominal episodes, the same for every method.

Positive: an episode in which the fault acted, by its own evidence, or in which the policy was not what it was
calibrated with. Negative: a fresh nominal episode. Every episode is equally long, runs with the shield on, and no
score acts on anything; the deterministic checks do. Only the first alarm counts. Before the onset it is a false alarm
and not a hit; otherwise its detection time is the share of the time from onset to end that had gone by, and 1.0 for a
miss. Actionable: the alarm came early enough for a stop (at the speeds and acceleration limits of its tick) to end
before the hazard that the same episode without a shield ran into, or where there was none, before the scenario's FTTI.
False alarms an hour are nominal episodes with an alarm, over their length.

A threshold is one draw, and its rate is 0.10 only in the mean. "redrawn" is the mean over 1000 ways to deal the nominal
episodes out to calibration and test.

Fixed before the episodes of the report (numbers 50,000 on and 200,000 on) were simulated, on others (``--tuning
--episodes 10 --nominal 250``), with accuracy and time redrawn:

- The set: the eight registered monitors. ``overlap_cusum`` alone only warns: at the rates of degrade and stop it would
  act in 97 % of the episodes that come to no harm instead of 37 %, and what it has summed up outlasts its cause.
- The rules: thresholds by rank at 0.10. A joint score is better than a single method where both intervals of the paired
  bootstrap over test episodes say so, in balanced accuracy and in detection time. Every single method is a rival,
  ``overlap_cusum`` too; better than each of them needs no correction for their number.
- What was expected: g_warn (0.922, 0.185) is better than every single method but ``overlap_cusum`` (0.930, 0.205), and
  as good as that one. "features averaged" (0.933, 0.168) is earlier than that one too, and no more accurate: whatever
  misses nothing has about 0.945, because some false alarms fall before an onset.

Looked at once: the first expectation held, the second did not (README.md, Monitors).

python benchmarks/detection.py --json benchmarks/detection.json --plots benchmarks
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from a clone

from benchmarks.alarm_laws import RUNGS, Row, two_sided
from benchmarks.detection_cache import Sets, collect
from benchmarks.detection_episodes import Cell, Episode
from benchmarks.detection_methods import AVERAGED, SUMMED, Method, methods
from benchmarks.detection_metrics import (
    Comparison,
    Course,
    Floats,
    Result,
    Summary,
    against,
    compare,
    redrawn,
    summary,
)
from safeguard.core.types import Vector
from safeguard.monitors.calibration import role
from safeguard.monitors.conformal import ascending, order_statistic, rank

ALPHA: Final = 0.10
CONTENDERS: Final = ("g_warn", AVERAGED)
"""Joint scores that are compared with every single method."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One method at one operating point.

    Attributes:
        method: which.
        alpha: declared rate.
        calibration: its largest score in every calibration episode, in the order of recording.
        threshold: alarm above it.
        negative, positive: its results, in the order of the sets.
        cells: of the positives.
        courses: the positives at any threshold.
        harmful: the positives that without a shield exceeded a limit of motion, or failed the task.
        hours: length of all negatives.
    """

    method: Method
    alpha: float
    calibration: tuple[float, ...]
    threshold: float
    negative: tuple[Result, ...]
    positive: tuple[Result, ...]
    cells: tuple[Cell, ...]
    courses: tuple[Course, ...]
    harmful: tuple[bool, ...]
    hours: float

    @property
    def maxima(self) -> tuple[float, ...]:
        """``calibration``, ascending."""
        return ascending(self.calibration)

    @property
    def peaks(self) -> Floats:
        """Its largest scores in all nominal episodes: those of the calibration, then the fresh ones."""
        return np.array([*self.calibration, *(result.peak for result in self.negative)])

    @property
    def summary(self) -> Summary:
        """Over all episodes."""
        return summary(self.positive, self.negative)

    @property
    def hourly(self) -> float:
        """Nominal episodes with an alarm, an hour."""
        return sum(result.false for result in self.negative) / self.hours

    @property
    def law(self) -> Row:
        """Its false alarms against what the declared rate allows."""
        peaks = [result.peak for result in self.negative]
        tied = sum(peak == self.threshold for peak in peaks)
        alarms = sum(result.false for result in self.negative)
        return two_sided(self.method.name, self.alpha, len(self.maxima), len(peaks), alarms, tied)

    def tpr(self, kind: str, severity: int | None = None) -> float:
        """Share of the positives of ``kind`` with a hit, of one severity or of all."""
        return self._share(own.kind == kind and severity in (None, own.severity) for own in self.cells)

    def tpr_where(self, harmful: bool) -> float:
        """The same over the positives that did harm without a shield, or those that did none."""
        return self._share(own is harmful for own in self.harmful)

    def _share(self, counts: Iterable[bool]) -> float:
        hits = [result.hit for result, counted in zip(self.positive, counts, strict=True) if counted]
        return float(np.mean(hits)) if hits else math.nan


def judge(method: Method, sets: Sets, alpha: float = ALPHA) -> Judged:
    """Threshold from the calibration episodes with that role, then every test episode in which something acted."""
    positive = acted(sets.positive)
    rest = [episode for k, episode in enumerate(sets.calibration) if role(k) == "calibrate"]
    maxima = tuple(float(method.score(episode).max()) for episode in rest)
    found = method.threshold
    if found is None:
        found = order_statistic(ascending(maxima), rank(len(maxima), alpha))
    threshold = math.inf if found is None else found
    pairs = [(episode, method.score(episode)) for episode in positive]
    return Judged(
        method=method,
        alpha=alpha,
        calibration=maxima,
        threshold=threshold,
        negative=tuple(result(episode, method.score(episode), threshold) for episode in sets.nominal),
        positive=tuple(result(episode, own, threshold) for episode, own in pairs),
        cells=tuple(episode.cell for episode in positive),
        courses=tuple(Course.of(own, episode.onset or 0) for episode, own in pairs),
        harmful=tuple(episode.hazard is not None or not episode.bare_success for episode in positive),
        hours=sum(episode.ticks * episode.period for episode in sets.nominal) / 3600.0,
    )


def acted(episodes: Sequence[Episode]) -> tuple[Episode, ...]:
    """Those with something to detect."""
    return tuple(episode for episode in episodes if episode.onset is not None)


def result(episode: Episode, scores: Vector, threshold: float) -> Result:
    """What one method made of one episode."""
    above = np.flatnonzero(scores > threshold)
    first = int(above[0]) if above.size else None
    deadline = episode.hazard
    if deadline is None and episode.onset is not None:
        deadline = episode.onset + round(episode.ftti_s / episode.period)
    stop = 0.0 if first is None else 1.0 + float(episode.stop_s[first]) / episode.period
    return Result(float(scores.max()), first, episode.onset, episode.ticks, deadline, stop)


def singles(judged: Sequence[Judged]) -> list[Judged]:
    """Every method that a joint score has to beat."""
    return [one for one in judged if one.method.group in ("monitor", "baseline")]


def either(one: Judged, other: Judged) -> Judged:
    """``one`` beside ``other``: whichever alarms first."""
    return replace(
        one,
        negative=tuple(_sooner(*pair) for pair in zip(one.negative, other.negative, strict=True)),
        positive=tuple(_sooner(*pair) for pair in zip(one.positive, other.positive, strict=True)),
    )


def _sooner(one: Result, other: Result) -> Result:
    if other.first is None:
        return one
    first = one if one.first is not None and one.first <= other.first else other
    return replace(first, peak=math.inf)


@dataclass(frozen=True, slots=True)
class Step:
    """A rung of the ladder, or all of them together: a name, its declared rate, and what it found."""

    name: str
    alpha: float
    judged: Judged


def ladder(found: Sequence[Method], sets: Sets) -> list[Step]:
    """The rungs as the shield has them, any of them, and those that act if sums did."""
    by_name = {method.name: method for method in found}
    steps = [Step(f"{name}: {score}", alpha, judge(by_name[score], sets, alpha)) for name, score, alpha in RUNGS]
    warn, degrade, _ = steps  # stop lies within degrade
    steps.append(Step("any rung", warn.alpha + degrade.alpha, either(warn.judged, degrade.judged)))
    acting = [(name, alpha) for name, score, alpha in RUNGS if score == "g_act"]
    return steps + [Step(f"{name}: {SUMMED}", alpha, judge(by_name[SUMMED], sets, alpha)) for name, alpha in acting]


@dataclass(frozen=True, slots=True)
class Duel:
    """A joint score against a single method, on the same episodes: joint minus single.

    Attributes:
        joint, against: names.
        resampled: over other test episodes, with the thresholds as they are.
        redrawn: over other calibrations as well.
        checked: as ``resampled``, each beside the deterministic checks.
    """

    joint: str
    against: str
    resampled: Comparison
    redrawn: Comparison
    checked: Comparison

    @property
    def better(self) -> str:
        """Where the interval over other test episodes is on the joint score's side."""
        sides = [self.resampled.balanced.low > 0.0, self.resampled.detection.high < 0.0]
        return {(True, True): "both", (True, False): "accuracy", (False, True): "time"}.get((sides[0], sides[1]), "–")


Draws = Mapping[str, tuple[Floats, Floats]]
"""Balanced accuracy and detection time of every calibrated method, over calibrations redrawn."""


def draws(judged: Sequence[Judged]) -> Draws:
    """The same draws for all of them."""
    some = [one for one in judged if one.method.threshold is None]
    n = len(some[0].maxima)
    found = redrawn([one.courses for one in some], [one.peaks for one in some], n, rank(n, ALPHA))
    return dict(zip([one.method.name for one in some], found, strict=True))


def duels(judged: Sequence[Judged], drawn: Draws) -> list[Duel]:
    """Joint scores against every single method."""
    by_name = {one.method.name: one for one in judged}
    return [
        _duel(by_name[joint], single, drawn, by_name["checks"]) for joint in CONTENDERS for single in singles(judged)
    ]


def _duel(joint: Judged, single: Judged, drawn: Draws, checks: Judged) -> Duel:
    names = joint.method.name, single.method.name
    return Duel(
        *names,
        resampled=_compared(joint, single),
        redrawn=against(*(drawn[name] for name in names)),
        checked=_compared(either(joint, checks), either(single, checks)),
    )


def _compared(one: Judged, other: Judged) -> Comparison:
    return compare((one.positive, other.positive), (one.negative, other.negative))


def main() -> int:
    """Record what is missing, judge, print, and write what was asked for."""
    from benchmarks.detection_report import as_json, by_kind, fights, overview, rungs

    given = _arguments()
    console = Console(width=200)
    counts: Mapping[str, int] = {"calibration": given.calibration, "nominal": given.nominal}
    with Progress(console=console, transient=True) as shown:
        task = shown.add_task("episodes", total=None)
        sets = collect(
            counts, given.episodes, given.cache, given.workers, lambda: shown.advance(task), tuning=given.tuning
        )
    found = methods(sets.calibration)
    judged = [judge(method, sets) for method in found]
    drawn, steps = draws(judged), ladder(found, sets)
    fought = duels(judged, drawn)
    console.print(overview(judged, drawn), by_kind(judged), rungs(steps), fights(fought))
    positive = len(acted(sets.positive))
    console.print(f"{positive} positives of {len(sets.positive)}; in the others the fault changed nothing")
    if given.json:
        report = as_json(judged, drawn, steps, fought, sets)
        given.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if given.plots:
        from benchmarks.detection_plots import draw

        given.plots.mkdir(parents=True, exist_ok=True)
        draw(judged, given.plots)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=20, help="of every kind and severity")
    parser.add_argument("--nominal", type=int, default=500, help="fresh nominal ones")
    parser.add_argument("--calibration", type=int, default=350, help="nominal ones to learn from and calibrate on")
    parser.add_argument("--tuning", action="store_true", help="judge the episodes that designs may be chosen on")
    parser.add_argument("--cache", type=Path, default=Path("build/detection"), help="empty it after changing code")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plots", type=Path, metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="few episodes: shows that it runs, and no more than that")
    given = parser.parse_args()
    if given.quick:
        given.episodes, given.nominal, given.calibration = 1, 4, 20
    return given


if __name__ == "__main__":
    raise SystemExit(main())
