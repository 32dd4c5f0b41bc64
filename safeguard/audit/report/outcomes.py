"""What referees said of episodes, as a table: one row an episode, grouped by scenario."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from html import escape

from pydantic import JsonValue

from safeguard.audit.report.judged import amount, cells, must_be_zero
from safeguard.audit.report.parts import command, count_text, figure_text, shield_badge
from safeguard.audit.report.summary import EpisodeSummary, RunSummary


def outcomes_section(run: RunSummary, drawn: Set[int]) -> str:
    """The table of the episodes that are kept; those whose numbers are in ``drawn`` have a section to go to."""
    columns = dict.fromkeys(key for episode in run.episodes for key, _ in cells(episode.outcome or {}))
    if not columns:
        return '<p class="note">No episode was closed with an outcome.</p>'
    head = "".join(f'<th scope="col">{_heading(key)}</th>' for key in columns)
    groups: dict[str, list[EpisodeSummary]] = {}
    for episode in run.episodes:
        groups.setdefault(episode.title, []).append(episode)
    body = "".join(_group(title, group, list(columns), drawn) for title, group in groups.items())
    left_out = run.total.episodes - len(run.episodes)
    text = f"{count_text(left_out, 'episode')} more in the journal: {command(run, 'show', '--kind episode_close')}."
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="outcomes"><table class="outcomes"><thead><tr>'
        f'<th scope="col">scenario</th><th scope="col">shield</th>{head}</tr></thead>{body}</table></div>'
        + (f'<p class="note">{text}</p>' if left_out else "")
    )


def _heading(key: str) -> str:
    kind, _, what = key.removesuffix("_s").removeprefix("share_").replace("_", " ").partition(": ")
    return f"<small>{escape(kind)}</small><br>{escape(what)}" if what else escape(kind)


def _group(title: str, episodes: Sequence[EpisodeSummary], columns: Iterable[str], drawn: Set[int]) -> str:
    rows: list[str] = []
    for at, episode in enumerate(episodes):
        name = f'<th scope="rowgroup" rowspan="{len(episodes)}">{escape(title)}</th>' if at == 0 else ""
        found = dict(cells(episode.outcome or {}))
        values = "".join(_cell(key, found.get(key)) for key in columns)
        badge, number = shield_badge(episode), episode.opened.episode
        link = f'<a href="#episode-{number}">{badge}</a>' if number in drawn else badge
        rows.append(f"<tr>{name}<td>{link}</td>{values}</tr>")
    return f"<tbody>{''.join(rows)}</tbody>"


def _cell(key: str, value: JsonValue) -> str:
    bad = must_be_zero(key) and amount(value) > 0
    style = "t" if isinstance(value, str) else "n bad" if bad else "n"
    return f'<td class="{style}">{_cell_text(key, value)}</td>'


def _cell_text(key: str, value: JsonValue) -> str:
    match value:
        case None:
            return '<span class="none">–</span>'
        case bool():
            return '<span class="yes">yes</span>' if value else '<span class="no">no</span>'
        case int() | float() if key.startswith("share_"):
            return f"{100 * value:.1f} %"
        case int() | float():
            return figure_text(float(value), "s" if key.endswith("_s") else "")
        case dict():
            return _count_text(value)
        case list():
            return escape(", ".join(str(item) for item in value))
        case str():
            return escape(value)


def _count_text(value: Mapping[str, JsonValue]) -> str:
    count, worst, unit = value.get("count"), value.get("worst"), value.get("unit")
    if not count:
        return "0"
    size = figure_text(float(worst), str(unit or "")) if isinstance(worst, int | float) else str(worst or "")
    return f"{escape(str(count))}<br><small>{escape(size)}</small>"
