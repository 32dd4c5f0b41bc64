# pyright: reportUnknownMemberType=false
# Most of matplotlib's methods take untyped keyword arguments.
"""One picture per episode for documents and terminals that cannot show the page; needs matplotlib."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safeguard.audit.records.decode import decode_number
from safeguard.audit.records.registry import Limits
from safeguard.audit.report.curves import Span, Trace
from safeguard.audit.report.summary import Curves, EpisodeSummary, RunSummary, Series
from safeguard.core.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODE_COLOURS: Final = {
    "NOMINAL": "#d5dbe0",
    "CAUTIOUS": "#f0e442",
    "DEGRADED": "#e69f00",
    "HOLD": "#56b4e9",
    "STOP": "#d55e00",
    "ESTOP": "#cc79a7",
    "LOCKOUT": "#8a8a8a",
    "BOOT": "#dccfb8",
}
"""From the Okabe-Ito palette, which colour-blind readers can tell apart; the page uses the same."""

CURVE, LIMIT, MARGIN = "#1f5fa8", "#b3261e", "#8a6d00"
COLUMNS: Final = 4
DPI: Final = 90


def require_matplotlib() -> None:
    """Raise MissingExtraError where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError("drawing the pictures of a report", "report")


def write_plots(run: RunSummary, folder: Path) -> list[Path]:
    """A PNG of each drawn episode in ``folder`` (made if missing): joints against limits, modes, clearance, scores."""
    require_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(episode, curves, run.limits, folder) for episode, curves in run.drawn]


def _write(episode: EpisodeSummary, curves: Curves, limits: Limits | None, folder: Path) -> Path:
    shield = "shield" if episode.shielded else episode.opened.enforcement.value.replace("_", "-")
    name = re.sub(r"[^A-Za-z0-9]+", "-", episode.title).strip("-").lower()
    path = folder / f"{episode.opened.episode:02d}-{name}-{shield}.png"
    _draw(episode, curves, limits).savefig(path, dpi=DPI)
    return path


def _draw(episode: EpisodeSummary, curves: Curves, limits: Limits | None) -> Figure:
    from matplotlib.figure import Figure

    joints, scored, spans = curves.joints, curves.scored(), curves.mode_spans()
    rows = -(-max(len(joints), 1) // COLUMNS)
    heights = [1.8] * rows + [0.5, 1.4] + [1.4] * len(scored)
    height = sum(heights) + 0.45 * len(heights) + 0.6
    figure = Figure(figsize=(12, height))
    shield = "on" if episode.shielded else episode.opened.enforcement.value.replace("_", " ")
    figure.suptitle(f"{episode.title}, shield {shield}", x=0.04, y=1 - 0.15 / height, ha="left", va="top")
    edges = {"left": 0.04, "right": 0.99, "top": 1 - 0.75 / height, "bottom": 0.25 / height}
    grid = figure.add_gridspec(len(heights), COLUMNS, height_ratios=heights, hspace=0.45, **edges)
    for at, trace in enumerate(joints):
        axes = figure.add_subplot(grid[at // COLUMNS, at % COLUMNS])
        _joint(axes, at, trace, limits)
        _shade(axes, spans)
    _modes(figure.add_subplot(grid[rows, :]), spans, episode.duration)
    _clearance(figure.add_subplot(grid[rows + 1, :]), curves.clearance, spans, limits)
    for at, (name, series) in enumerate(scored.items()):
        _monitor(figure.add_subplot(grid[rows + 2 + at, :]), name, series, spans)
    return figure


def _calm(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=9, color="#444444")
    axes.tick_params(labelsize=7, colors="#666666")
    axes.margins(x=0)
    axes.locator_params(nbins=5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _shade(axes: Axes, spans: list[Span]) -> None:
    for span in spans:
        if span.label != "NOMINAL":
            axes.axvspan(span.start, span.end, color=MODE_COLOURS[span.label], alpha=0.25, linewidth=0)


def _curve(axes: Axes, trace: Trace, colour: str = CURVE, style: str = "-") -> None:
    axes.plot(*trace.points(), color=colour, linewidth=1.1, linestyle=style)


def _joint(axes: Axes, at: int, trace: Trace, limits: Limits | None) -> None:
    known = limits.joints[at] if limits is not None and at < len(limits.joints) else None
    _calm(axes, f"joint {at + 1}, rad" if known is None else f"{known.joint}, rad")
    _curve(axes, trace)
    for value in () if known is None else (known.lower, known.upper):
        axes.axhline(decode_number(value), color=LIMIT, linewidth=1, linestyle="--")


def _modes(axes: Axes, spans: list[Span], duration: float) -> None:
    _calm(axes, "mode")
    axes.set_yticks([])
    axes.set_xlim(0, max(duration, 1e-9))
    for span in spans:
        width = span.end - span.start
        axes.broken_barh([(span.start, width)], (0, 1), color=MODE_COLOURS[span.label])
        if width > 0.06 * duration:
            axes.text(span.start + 0.01 * duration, 0.5, span.label, va="center", fontsize=8)


def _clearance(axes: Axes, trace: Trace, spans: list[Span], limits: Limits | None) -> None:
    _calm(axes, "clearance, m")
    _curve(axes, trace)
    axes.axhline(0.0, color=LIMIT, linewidth=1, linestyle="--")
    if limits is not None and limits.clearance is not None:
        axes.axhline(decode_number(limits.clearance), color=MARGIN, linewidth=1, linestyle=":")
    _shade(axes, spans)


def _monitor(axes: Axes, name: str, series: Series, spans: list[Span]) -> None:
    _calm(axes, f"{name}: score and threshold")
    _curve(axes, series.score)
    _curve(axes, series.threshold, LIMIT, "--")
    _shade(axes, spans)
