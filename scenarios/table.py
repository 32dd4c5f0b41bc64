"""Episode results as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from safeguard.core.enums import Enforcement
from safeguard.scenarios.episode import UNITS, EpisodeResult
from safeguard.scenarios.referee import MOTION


def results_table(results: Sequence[EpisodeResult]) -> Table:
    """Fault × shield: what was violated and by how much, how soon it was noticed, what it cost."""
    table = Table(title="Judged by MuJoCo's state, contacts and applied torques; 0 is the exact limit")
    table.add_column("scenario")
    table.add_column("shield")
    table.add_column("violations: worst (ticks)")
    for name in (
        "contact\npairs",
        "detected\nafter",
        "safe state\nafter",
        "task",
        "modified",
        "braked",
        "stuck",
    ):
        table.add_column(name, justify="right")
    last = ""
    for result in results:
        if last not in ("", result.scenario):
            table.add_section()
        table.add_row(*_row(result, result.scenario != last), style=_style(result))
        last = result.scenario
    return table


def _row(result: EpisodeResult, named: bool) -> list[str]:
    on = result.enforcement is Enforcement.FULL
    return [
        result.scenario if named else "",
        "on" if on else "off",
        _violations(result),
        str(result.judgement.contacts),
        _seconds(result.detect_s),
        _seconds(result.safe_s),
        "done" if result.success else "failed",
        *((_share(x) for x in (result.modified, result.braked, result.stuck)) if on else ("–", "–", "–")),
    ]


def _violations(result: EpisodeResult) -> str:
    lines: list[str] = []
    for kind, violation in result.judgement.violations.items():
        worst, unit = violation.worst, UNITS[kind]
        if unit == "m":
            worst, unit = 1e3 * worst, "mm"
        lines.append(f"{kind.value.replace('_', ' ')} {worst:.3g} {unit} ({violation.ticks})")
    return "\n".join(lines) or "none"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value * 1e3:.0f} ms" if value < 1.0 else f"{value:.2f} s"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _style(result: EpisodeResult) -> str:
    if not MOTION.isdisjoint(result.judgement.violations):
        return "red"
    return "" if result.enforcement is Enforcement.FULL else "yellow" if result.judgement.violations else ""
