"""Episode results as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from safeguard.core.enums import Enforcement
from safeguard.scenarios.episode import UNITS, EpisodeResult
from safeguard.scenarios.referee import MOTION

_SHIELD = {Enforcement.FULL: "on", Enforcement.MONITOR_ONLY: "watch", Enforcement.OFF: "off"}


def results_table(results: Sequence[EpisodeResult]) -> Table:
    """Fault × shield: what was violated and by how much, how soon it was noticed, what it cost; 80 columns wide."""
    title = "Judged by MuJoCo's state, contacts and applied torques; 0 is the exact limit"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False)
    table.add_column("scenario", width=11)
    table.add_column("shield")
    table.add_column("violations:\nworst (ticks)", min_width=24)
    for name in ("seen\nafter", "safe\nafter", "task\ndone", "modi-\nfied", "brake", "stuck"):
        table.add_column(name, justify="right")
    last = ""
    for result in results:
        if last not in ("", result.scenario):
            table.add_section()
        table.add_row(*_row(result, result.scenario != last), style=_style(result))
        last = result.scenario
    return table


def _row(result: EpisodeResult, named: bool) -> list[str]:
    decided = result.enforcement is not Enforcement.OFF
    return [
        result.scenario.replace("_", " ") if named else "",
        _SHIELD[result.enforcement],
        _violations(result),
        _seconds(result.detect_s),
        _seconds(result.safe_s),
        "yes" if result.success else "no",
        *((_share(x) for x in (result.modified, result.braked, result.stuck)) if decided else ("–", "–", "–")),
    ]


def _violations(result: EpisodeResult) -> str:
    lines: list[str] = []
    for kind, violation in result.judgement.violations.items():
        worst, unit = violation.worst, UNITS[kind]
        if unit == "m":
            worst, unit = 1e3 * worst, "mm"
        size = f"{worst:.0f}" if worst >= 100.0 else f"{worst:.2g}"
        name = kind.value.replace("_", " ").removeprefix("self ")
        lines.append(f"{name} {size} {unit} ({violation.ticks})")
    if result.judgement.contacts:
        lines.append(f"{result.judgement.contacts} contact pairs")
    return "\n".join(lines) or "none, 0 contacts"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value * 1e3:.0f} ms" if value < 1.0 else f"{value:.2f} s"


def _share(value: float) -> str:
    return f"{value:.1%}" if 0.0 < value < 0.1 else f"{value:.0%}"


def _style(result: EpisodeResult) -> str:
    if not MOTION.isdisjoint(result.judgement.violations):
        return "red"
    return "" if result.enforcement is Enforcement.FULL else "yellow" if result.judgement.violations else ""
