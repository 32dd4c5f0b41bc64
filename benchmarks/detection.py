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

A threshold is one draw, and its rate is 0.10 only in the mean. "redrawn" is the mean over 1000 ways to deal the nominal
episodes out to calibration and test. Designs were chosen on other episodes (``Sets.tuning_*``), never on these.

python benchmarks/detection.py --json benchmarks/detection.json --plots benchmarks
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from a clone

from benchmarks.alarm_laws import Row, two_sided
from benchmarks.detection_cache import Sets, collect
from benchmarks.detection_episodes import FAULTS, SHIFTS, Cell, Episode
from benchmarks.detection_methods import Method, methods
from benchmarks.detection_metrics import (
    Comparison,
    Course,
    Floats,
    Result,
    Summary,
    against,
    clopper_pearson,
    compare,
    redrawn,
    summary,
)
from safeguard.core.types import Vector
from safeguard.monitors.calibration import role
from safeguard.monitors.conformal import ascending, order_statistic, rank

ALPHA: Final = 0.10
KINDS: Final = (*FAULTS, *SHIFTS)
JOINT: Final = "g_warn"
NEW: Final = "overlap_cusum"


@dataclass(frozen=True, slots=True)
class Judged:
    """One method at the operating point.

    Attributes:
        method: which.
        calibration: its largest score in every calibration episode, in the order of recording.
        threshold: alarm above it.
        negative, positive: its results, in the order of the sets.
        cells: of the positives.
        courses: the positives at any threshold.
        harmful: the positives that without a shield exceeded a limit of motion, or failed the task.
    """

    method: Method
    calibration: tuple[float, ...]
    threshold: float
    negative: tuple[Result, ...]
    positive: tuple[Result, ...]
    cells: tuple[Cell, ...]
    courses: tuple[Course, ...]
    harmful: tuple[bool, ...]

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
    def law(self) -> Row:
        """Its false alarms against what the declared rate allows."""
        peaks = [result.peak for result in self.negative]
        tied = sum(peak == self.threshold for peak in peaks)
        return two_sided(self.method.name, ALPHA, len(self.maxima), len(peaks), self.summary.false, tied)

    def tpr(self, kind: str, severity: int | None = None) -> float:
        """Share of the positives of ``kind`` with a hit, of one severity or of all."""
        pairs = zip(self.positive, self.cells, strict=True)
        hits = [result.hit for result, own in pairs if own.kind == kind and severity in (None, own.severity)]
        return float(np.mean(hits)) if hits else math.nan

    def tpr_where(self, harmful: bool) -> float:
        """The same over the positives that did harm without a shield, or those that did none."""
        hits = [result.hit for result, own in zip(self.positive, self.harmful, strict=True) if own is harmful]
        return float(np.mean(hits)) if hits else math.nan


def judge(
    method: Method, calibration: Sequence[Episode], negative: Sequence[Episode], positive: Sequence[Episode]
) -> Judged:
    """Threshold from the calibration episodes with that role, then every test episode."""
    rest = [episode for k, episode in enumerate(calibration) if role(k) == "calibrate"]
    maxima = tuple(float(method.score(episode).max()) for episode in rest)
    found = method.threshold
    if found is None:
        found = order_statistic(ascending(maxima), rank(len(maxima), ALPHA))
    threshold = math.inf if found is None else found
    scores = [method.score(episode) for episode in positive]
    pairs = list(zip(positive, scores, strict=True))
    return Judged(
        method=method,
        calibration=maxima,
        threshold=threshold,
        negative=tuple(result(episode, method.score(episode), threshold) for episode in negative),
        positive=tuple(result(episode, own, threshold) for episode, own in pairs),
        cells=tuple(episode.cell for episode in positive),
        courses=tuple(Course.of(own, episode.onset or 0) for episode, own in pairs),
        harmful=tuple(episode.hazard is not None or not episode.bare_success for episode in positive),
    )


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
    return [one for one in judged if one.method.group in ("monitor", "baseline", "control")]


def with_checks(one: Judged, checks: Judged) -> Judged:
    """``one`` beside the deterministic checks: whichever alarms first."""
    return replace(
        one,
        negative=tuple(_sooner(*pair) for pair in zip(one.negative, checks.negative, strict=True)),
        positive=tuple(_sooner(*pair) for pair in zip(one.positive, checks.positive, strict=True)),
    )


def _sooner(one: Result, other: Result) -> Result:
    if other.first is None:
        return one
    first = one if one.first is not None and one.first <= other.first else other
    return replace(first, peak=math.inf)


@dataclass(frozen=True, slots=True)
class Duel:
    """A joint score against a best single method, which was picked on the same episodes, in its favour.

    Attributes:
        joint: which joint score.
        against: the single method.
        best_in: what it is the best in.
        how: which intervals, and whether both stand beside the deterministic checks.
        found: joint minus single.
    """

    joint: str
    against: str
    best_in: str
    how: str
    found: Comparison


def duels(judged: Sequence[Judged]) -> list[Duel]:
    """Joint scores against the single methods that are best in accuracy and in time, and new ones against the new."""
    by_name = {one.method.name: one for one in judged}
    rivals, checks, new = singles(judged), by_name["checks"], by_name[NEW]
    beside = [with_checks(one, checks) for one in rivals]
    whats = list(_best(rivals))
    best = [by_name[name] for name in _best(rivals).values()]
    found: list[Duel] = []
    for joint in [by_name[JOINT], *(one for one in judged if one.method.group == "new joint")]:
        found += _duels(joint, rivals, "episodes resampled")
        found += _redrawn(joint, best, whats)
        if joint.method.name == JOINT:
            found += _duels(with_checks(joint, checks), beside, "episodes resampled, each with the checks")
        else:
            found.append(_duel(joint, new, "new monitors", "episodes resampled"))
            found += _redrawn(joint, [new], ["new monitors"])
    return found


def _best(rivals: Sequence[Judged]) -> dict[str, str]:
    """What → name of the single method that is the best in it."""
    return {
        "accuracy": max(rivals, key=lambda one: one.summary.balanced).method.name,
        "time": min(rivals, key=lambda one: one.summary.detection).method.name,
    }


def _duels(joint: Judged, rivals: Sequence[Judged], how: str) -> list[Duel]:
    by_name = {one.method.name: one for one in rivals}
    return [_duel(joint, by_name[name], what, how) for what, name in _best(rivals).items()]


def _duel(joint: Judged, rival: Judged, what: str, how: str) -> Duel:
    found = compare((joint.positive, rival.positive), (joint.negative, rival.negative))
    return Duel(joint.method.name, rival.method.name, what, how, found)


def _redrawn(joint: Judged, rivals: Sequence[Judged], whats: Sequence[str]) -> list[Duel]:
    both = [joint, *rivals]
    n = len(joint.maxima)
    own, *others = redrawn([one.courses for one in both], [one.peaks for one in both], n, rank(n, ALPHA))
    return [
        Duel(joint.method.name, one.method.name, what, "calibration redrawn", against(own, other))
        for one, other, what in zip(rivals, others, whats, strict=True)
    ]


def expected(judged: Sequence[Judged]) -> dict[str, tuple[float, float]]:
    """Mean balanced accuracy and detection time of every calibrated method over calibrations redrawn."""
    some = [one for one in judged if one.method.threshold is None]
    n = len(some[0].maxima)
    found = redrawn([one.courses for one in some], [one.peaks for one in some], n, rank(n, ALPHA))
    return {
        one.method.name: (float(balanced.mean()), float(late.mean()))
        for one, (balanced, late) in zip(some, found, strict=True)
    }


# -- for readers ----------------------------------------------------------------------------------------


def overview(judged: Sequence[Judged]) -> Table:
    """One row a method."""
    shown = Table(
        "method",
        "",
        "FPR",
        "law",
        "TPR",
        "early",
        "bal. acc.",
        "AUC",
        "T-det",
        "redrawn: acc., T",
        "actionable (95 %)",
        "harmful",
        "harmless",
    )
    usual = expected(judged)
    for one in judged:
        s, law = one.summary, one.law
        low, high = clopper_pearson(s.actionable, s.deadlines)
        allowed = f"{'in' if law.passed else 'OUT'} {law.low}–{law.high}" if one.method.threshold is None else "–"
        shown.add_row(
            one.method.name,
            one.method.group,
            f"{s.false}/{s.nominal}",
            allowed,
            f"{s.tpr:.3f}",
            f"{s.early:.3f}",
            f"{s.balanced:.3f}",
            f"{s.auc:.3f}",
            f"{s.detection:.3f}",
            ", ".join(f"{figure:.3f}" for figure in usual.get(one.method.name, ())) or "–",
            f"{s.actionable}/{s.deadlines} = {s.actionable / max(s.deadlines, 1):.2f} ({low:.2f}–{high:.2f})",
            f"{one.tpr_where(True):.2f}",
            f"{one.tpr_where(False):.2f}",
        )
    return shown


def by_kind(judged: Sequence[Judged]) -> Table:
    """TPR of every method for every kind."""
    shown = Table("TPR", *(kind.replace("_", " ").replace(".", ": ") for kind in KINDS))
    for one in judged:
        shown.add_row(one.method.name, *(f"{one.tpr(kind):.2f}" for kind in KINDS))
    return shown


def fights(fought: Sequence[Duel]) -> Table:
    """One row a duel."""
    shown = Table("joint score", "against", "the best single in", "intervals", "balanced accuracy", "detection time")
    for duel in fought:
        b, d = duel.found.balanced, duel.found.detection
        shown.add_row(
            duel.joint,
            duel.against,
            duel.best_in,
            duel.how,
            f"{b.value:+.3f} [{b.low:+.3f}, {b.high:+.3f}]",
            f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]",
        )
    return shown


def as_json(judged: Sequence[Judged], fought: Sequence[Duel], sets: Sets) -> dict[str, Any]:
    """Everything, for machines."""
    usual = expected(judged)
    rows = []
    for one in judged:
        s = one.summary
        redraw = usual.get(one.method.name)
        rows.append(
            {
                "redrawn": None if redraw is None else {"balanced_accuracy": redraw[0], "detection": redraw[1]},
                "method": one.method.name,
                "group": one.method.group,
                **asdict(s),
                "fpr": s.fpr,
                "balanced_accuracy": s.balanced,
                "allowed": [one.law.low, one.law.high] if one.method.threshold is None else None,
                "actionable_interval": clopper_pearson(s.actionable, s.deadlines),
                "tpr_by_cell": {cell.label: one.tpr(cell.kind, cell.severity) for cell in dict.fromkeys(one.cells)},
                "tpr_harmful": one.tpr_where(True),
                "tpr_harmless": one.tpr_where(False),
            }
        )
    counts = {name: len(getattr(sets, name)) for name in ("calibration", "nominal", "positive")}
    return {"alpha": ALPHA, "episodes": counts, "methods": rows, "bootstrap": [asdict(duel) for duel in fought]}


def acted(episodes: Sequence[Episode]) -> tuple[Episode, ...]:
    """Those with something to detect."""
    return tuple(episode for episode in episodes if episode.onset is not None)


def main() -> int:
    """Record what is missing, judge, print, and write what was asked for."""
    given = _arguments()
    console = Console(width=200)
    counts: Mapping[str, int] = {"calibration": given.calibration, "nominal": given.nominal}
    with Progress(console=console, transient=True) as shown:
        task = shown.add_task("episodes", total=None)
        sets = collect(counts, given.episodes, given.cache, given.workers, lambda: shown.advance(task))
    positive = acted(sets.positive)
    judged = [judge(method, sets.calibration, sets.nominal, positive) for method in methods(sets.calibration)]
    fought = duels(judged)
    console.print(overview(judged), by_kind(judged), fights(fought))
    console.print(f"{len(positive)} positives of {len(sets.positive)}; in the others the fault changed nothing")
    if given.json:
        given.json.write_text(json.dumps(as_json(judged, fought, sets), indent=1, ensure_ascii=False) + "\n")
    if given.plots:
        from benchmarks.detection_plots import draw

        given.plots.mkdir(parents=True, exist_ok=True)
        draw(judged, given.plots)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10, help="of every kind and severity")
    parser.add_argument("--nominal", type=int, default=250, help="fresh nominal ones")
    parser.add_argument("--calibration", type=int, default=350, help="nominal ones to learn from and calibrate on")
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
