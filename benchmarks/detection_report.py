"""The tables of ``detection.py``, and everything of them for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from benchmarks.detection_episodes import FAULTS, SHIFTS
from benchmarks.detection_metrics import Comparison, Difference, clopper_pearson

if TYPE_CHECKING:
    from benchmarks.detection import Draws, Duel, Judged, Step
    from benchmarks.detection_cache import Sets

_KINDS: Final = (*FAULTS, *SHIFTS)


def overview(judged: Sequence[Judged], drawn: Draws) -> Table:
    """One row a method."""
    shown = Table("method", "", "FPR", "law", "an hour", "TPR", "early", "bal. acc.", "AUC", "PR-AUC", "T-det")
    for title in ("redrawn: acc., T", "actionable (95 %)", "harmful", "harmless"):
        shown.add_column(title)
    for one in judged:
        s = one.summary
        shown.add_row(
            one.method.name,
            one.method.group,
            f"{s.false}/{s.nominal}",
            _law(one) if one.method.threshold is None else "–",
            f"{one.hourly:.0f}",
            *(f"{figure:.3f}" for figure in (s.tpr, s.early, s.balanced, s.auc, s.pr_auc, s.detection)),
            ", ".join(f"{figure.mean():.3f}" for figure in drawn.get(one.method.name, ())) or "–",
            _actionable(one),
            f"{one.tpr_where(True):.2f}",
            f"{one.tpr_where(False):.2f}",
        )
    return shown


def _law(one: Judged) -> str:
    return f"{'in' if one.law.passed else 'OUT'} {one.law.low}–{one.law.high}"


def _actionable(one: Judged) -> str:
    s = one.summary
    low, high = clopper_pearson(s.actionable, s.deadlines)
    return f"{s.actionable / max(s.deadlines, 1):.2f} ({low:.2f}–{high:.2f})"


def by_kind(judged: Sequence[Judged]) -> Table:
    """TPR of every method for every kind."""
    shown = Table("TPR", *(kind.replace("_", " ").replace(".", ": ") for kind in _KINDS))
    for one in judged:
        shown.add_row(one.method.name, *(f"{one.tpr(kind):.2f}" for kind in _KINDS))
    return shown


def rungs(steps: Sequence[Step]) -> Table:
    """One row a rung: false alarms of nominal episodes, and what it finds."""
    shown = Table("rung", "declared", "FPR (95 %)", "an hour (95 %)", "law", "TPR", "T-det", "harmful", "harmless")
    for step in steps:
        one, s = step.judged, step.judged.summary
        low, high = clopper_pearson(s.false, s.nominal)
        hourly = [rate * s.nominal / one.hours for rate in (low, high)]
        shown.add_row(
            step.name,
            f"{step.alpha:g}",
            f"{s.false}/{s.nominal} = {s.fpr:.3f} ({low:.3f}–{high:.3f})",
            f"{one.hourly:.1f} ({hourly[0]:.1f}–{hourly[1]:.1f})",
            _law(one) if step.alpha == one.alpha else "–",
            f"{s.tpr:.3f}",
            f"{s.detection:.3f}",
            f"{one.tpr_where(True):.2f}",
            f"{one.tpr_where(False):.2f}",
        )
    return shown


def fights(fought: Sequence[Duel]) -> Table:
    """One row a duel: joint minus single in balanced accuracy and detection time, with central 95 %."""
    shown = Table(
        "joint score", "against", "accuracy", "time", "redrawn: accuracy", "time", "with checks: time", "better"
    )
    for duel in fought:
        shown.add_row(
            duel.joint,
            duel.against,
            *_both(duel.resampled),
            *_both(duel.redrawn),
            _interval(duel.checked.detection),
            duel.better,
        )
    return shown


def _both(found: Comparison) -> tuple[str, str]:
    return _interval(found.balanced), _interval(found.detection)


def _interval(found: Difference) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def as_json(
    judged: Sequence[Judged], drawn: Draws, steps: Sequence[Step], fought: Sequence[Duel], sets: Sets
) -> dict[str, Any]:
    """Everything, for machines."""
    names = ("calibration", "nominal", "positive")
    return {
        "alpha": judged[0].alpha,
        "episodes": {name: len(getattr(sets, name)) for name in names},
        "methods": [_row(one, drawn) for one in judged],
        "rungs": [_step(step) for step in steps],
        "bootstrap": [asdict(duel) for duel in fought],
    }


def _row(one: Judged, drawn: Draws) -> dict[str, Any]:
    s = one.summary
    redrawn = [float(figure.mean()) for figure in drawn.get(one.method.name, ())]
    return {
        "method": one.method.name,
        "group": one.method.group,
        **asdict(s),
        "fpr": s.fpr,
        "false_an_hour": one.hourly,
        "balanced_accuracy": s.balanced,
        "redrawn": dict(zip(("balanced_accuracy", "detection"), redrawn, strict=True)) if redrawn else None,
        "allowed": [one.law.low, one.law.high] if one.method.threshold is None else None,
        "actionable_interval": clopper_pearson(s.actionable, s.deadlines),
        "tpr_by_cell": {cell.label: one.tpr(cell.kind, cell.severity) for cell in dict.fromkeys(one.cells)},
        "tpr_harmful": one.tpr_where(True),
        "tpr_harmless": one.tpr_where(False),
    }


def _step(step: Step) -> dict[str, Any]:
    one, s = step.judged, step.judged.summary
    return {
        "rung": step.name,
        "alpha": step.alpha,
        "false": s.false,
        "nominal": s.nominal,
        "fpr_interval": clopper_pearson(s.false, s.nominal),
        "false_an_hour": one.hourly,
        "tpr": s.tpr,
        "detection": s.detection,
        "tpr_harmful": one.tpr_where(True),
        "tpr_harmless": one.tpr_where(False),
    }
