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
from benchmarks.detection_episodes import FAULTS, SHIFTS, Episode
from benchmarks.detection_methods import Method, methods
from benchmarks.detection_metrics import Comparison, Result, Summary, clopper_pearson, compare, summary
from safeguard.core.types import Vector
from safeguard.monitors.calibration import role
from safeguard.monitors.conformal import ascending, order_statistic, rank

ALPHA: Final = 0.10
KINDS: Final = (*FAULTS, *SHIFTS)
JOINT: Final = "g_warn"


@dataclass(frozen=True, slots=True)
class Judged:
    """One method at the operating point.

    Attributes:
        method: which.
        maxima: its largest score in every calibration episode, ascending.
        threshold: alarm above it.
        negative, positive: its results, in the order of the sets.
        kinds: of the positives.
        harmful: the positives that without a shield exceeded a limit of motion, or failed the task.
    """

    method: Method
    maxima: tuple[float, ...]
    threshold: float
    negative: tuple[Result, ...]
    positive: tuple[Result, ...]
    kinds: tuple[str, ...]
    harmful: tuple[bool, ...]

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

    def tpr(self, kind: str) -> float:
        """Share of the positives of ``kind`` with a hit."""
        hits = [result.hit for result, own in zip(self.positive, self.kinds, strict=True) if own == kind]
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
    maxima = ascending([float(method.score(episode).max()) for episode in rest])
    found = order_statistic(maxima, rank(len(maxima), ALPHA)) if method.threshold is None else method.threshold
    threshold = math.inf if found is None else found
    return Judged(
        method=method,
        maxima=maxima,
        threshold=threshold,
        negative=tuple(result(episode, method.score(episode), threshold) for episode in negative),
        positive=tuple(result(episode, method.score(episode), threshold) for episode in positive),
        kinds=tuple(episode.cell.kind for episode in positive),
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
    """The joint score against a best single method, which was picked on the same episodes, in its favour.

    Attributes:
        against: the single method.
        best_in: what it is the best in.
        checks: both stand beside the deterministic checks, as a shield's scores do.
        found: joint minus single.
    """

    against: str
    best_in: str
    checks: bool
    found: Comparison


def duels(judged: Sequence[Judged]) -> list[Duel]:
    """Against the single method with the best balanced accuracy, and the one with the shortest detection time."""
    by_name = {one.method.name: one for one in judged}
    rivals, joint, checks = singles(judged), by_name[JOINT], by_name["checks"]
    beside = [with_checks(one, checks) for one in rivals]
    return _duels(joint, rivals, False) + _duels(with_checks(joint, checks), beside, True)


def _duels(joint: Judged, rivals: Sequence[Judged], checks: bool) -> list[Duel]:
    best = {
        "balanced accuracy": max(rivals, key=lambda one: one.summary.balanced),
        "detection time": min(rivals, key=lambda one: one.summary.detection),
    }
    return [
        Duel(one.method.name, what, checks, compare((joint.positive, one.positive), (joint.negative, one.negative)))
        for what, one in best.items()
    ]


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
        "actionable (95 %)",
        "harmful",
        "harmless",
    )
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


def told(duel: Duel) -> str:
    """A duel in words."""
    b, d = duel.found.balanced, duel.found.detection
    return (
        f"{JOINT} − {duel.against}{', each with the checks' if duel.checks else ''} (best single in {duel.best_in}): "
        f"balanced accuracy {b.value:+.3f} [{b.low:+.3f}, {b.high:+.3f}], "
        f"detection time {d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
    )


def as_json(judged: Sequence[Judged], fought: Sequence[Duel], sets: Sets) -> dict[str, Any]:
    """Everything, for machines."""
    rows = []
    for one in judged:
        s = one.summary
        rows.append(
            {
                "method": one.method.name,
                "group": one.method.group,
                **asdict(s),
                "fpr": s.fpr,
                "balanced_accuracy": s.balanced,
                "allowed": [one.law.low, one.law.high] if one.method.threshold is None else None,
                "actionable_interval": clopper_pearson(s.actionable, s.deadlines),
                "tpr_by_kind": {kind: one.tpr(kind) for kind in KINDS if kind in one.kinds},
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
    console = Console(width=180)
    counts: Mapping[str, int] = {"calibration": given.calibration, "nominal": given.nominal}
    with Progress(console=console, transient=True) as shown:
        task = shown.add_task("episodes", total=None)
        sets = collect(counts, given.episodes, given.cache, given.workers, lambda: shown.advance(task))
    positive = acted(sets.positive)
    judged = [judge(method, sets.calibration, sets.nominal, positive) for method in methods(sets.calibration)]
    fought = duels(judged)
    console.print(overview(judged), by_kind(judged))
    console.print(f"{len(positive)} positives of {len(sets.positive)}; in the others the fault changed nothing")
    for duel in fought:
        console.print(told(duel))
    if given.json:
        given.json.write_text(json.dumps(as_json(judged, fought, sets), indent=1, ensure_ascii=False) + "\n")
    if given.plots:
        from benchmarks.detection_plots import draw

        given.plots.mkdir(parents=True, exist_ok=True)
        draw(judged, given.plots)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=12, help="of every kind and severity")
    parser.add_argument("--nominal", type=int, default=200, help="fresh nominal ones")
    parser.add_argument("--calibration", type=int, default=250, help="nominal ones to learn from and calibrate on")
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
