"""Every intervention of a run in one table that can be sorted and filtered, and the decisions behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from safeguard.audit.fold import PAUSE_S, Intervention
from safeguard.audit.report.decision import after_text, before_text, decision_article
from safeguard.audit.report.parts import NO_NUMBER, command, figure_text, mode_badge, shield_badge
from safeguard.audit.report.summary import EpisodeSummary, RunSummary
from safeguard.audit.story import scales_of, smallest_of
from safeguard.core.enums import Mode

ROWS: Final = 600
"""Most rows of the table."""

WHOLE_BYTES: Final = 900_000
"""Most bytes of decisions in full."""

COLUMNS: Final = (
    ("episode", "episode", ""),
    ("at, s", "at", "n"),
    ("ticks", "ticks", "n"),
    ("mode", "mode", ""),
    ("filter", "status", ""),
    ("causes and reason", "causes", ""),
    ("before", "before", ""),
    ("after", "after", ""),
    ("least margin", "margin", "n"),
)
"""Heading, name, class."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An intervention with its episode and the name that its row and its decision go by."""

    episode: EpisodeSummary
    row: Intervention
    anchor: str


def interventions_section(run: RunSummary) -> str:
    """The table with its filters, and a line about what it leaves out."""
    count = run.total.acted
    if not count:
        return '<p class="note">No interventions: every tick was clean.</p>'
    shown = _named(_gravest(run.interventions, ROWS))
    whole = _whole(run, shown)
    scales = scales_of(run.limits)
    rows = "".join(_row(run, one, scales, bool(whole.get(one.anchor))) for one in shown)
    head = "".join(f'<th scope="col" class="{style}" data-sort="{name}">{text}</th>' for text, name, style in COLUMNS)
    return (
        f"{_controls(shown)}{_left_out(run, count, len(shown), sum(map(bool, whole.values())))}"
        '<div class="scroll" tabindex="0" role="group" aria-label="interventions">'
        f'<table id="table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'<div id="decisions">{"".join(whole.values())}</div>'
    )


def _gravest(
    every: Sequence[tuple[EpisodeSummary, Intervention]], limit: int
) -> list[tuple[EpisodeSummary, Intervention]]:
    """At most ``limit`` of them, in the order in which they happened."""
    order = sorted(range(len(every)), key=lambda at: every[at][1].weight, reverse=True)[:limit]
    return [every[at] for at in sorted(order)]


def _named(chosen: Iterable[tuple[EpisodeSummary, Intervention]]) -> list[Shown]:
    """With names that are unique also where a journal numbers two episodes alike."""
    shown: list[Shown] = []
    taken: dict[str, int] = {}
    for episode, row in chosen:
        name = f"{episode.opened.episode}-{row.body.tick}"
        again = taken[name] = taken.get(name, 0) + 1
        shown.append(Shown(episode, row, name if again == 1 else f"{name}-{again}"))
    return shown


def _whole(run: RunSummary, shown: Sequence[Shown]) -> dict[str, str]:
    """The decisions in full, the gravest first, until the bytes are used up; "" for the others."""
    made: dict[str, str] = {}
    left = WHOLE_BYTES
    for one in sorted(shown, key=lambda one: one.row.weight, reverse=True):
        article = decision_article(run, one.episode, one.row, one.anchor) if left > 0 else ""
        left -= len(article.encode())
        made[one.anchor] = article if left >= 0 else ""
    return {one.anchor: made[one.anchor] for one in shown}


def _left_out(run: RunSummary, count: int, rows: int, whole: int) -> str:
    text = "The first decision of each opens by its time."
    if rows < count:
        text = f"The {rows:,} gravest of {count:,}; {count - rows:,} more in the journal: {command(run, 'show')}."
    if whole < rows:
        text += (
            f" The first decision of {whole:,} of them opens by its time; {rows - whole:,} more in the journal: "
            f"{command(run, 'show', '--episode N --from S --to S --all --json')}."
        )
    return (
        f'<p class="note">{text} An intervention is a run of ticks with the same mode, causes and filter status, '
        f"corrections at most {PAUSE_S:g} s apart; where the filter says admissible or bypassed, the proposal went out "
        "as it was.</p>"
    )


def _controls(shown: Sequence[Shown]) -> str:
    """The filters; the script uncovers them, for without it they do nothing."""
    choices = {
        "mode": [mode.name for mode in Mode if any(one.row.mode is mode for one in shown)],
        "cause": list(dict.fromkeys(cause for one in shown for cause in one.row.causes)),
        "status": list(dict.fromkeys(one.row.status.value for one in shown)),
        "episode": list(dict.fromkeys(str(one.episode.opened.episode) for one in shown)),
    }
    picks = "".join(_pick(name, values) for name, values in choices.items())
    return (
        '<form class="filters" id="filters" hidden><label>text <input type="search" name="text" '
        'placeholder="words in a row"></label>'
        f'{picks}<button type="reset">clear</button><output id="count" aria-live="polite"></output></form>'
    )


def _pick(name: str, values: Sequence[str]) -> str:
    items = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)
    return f'<label>{name} <select name="{name}"><option value="">any</option>{items}</select></label>'


def _row(run: RunSummary, one: Shown, scales: dict[str, float], opens: bool) -> str:
    row, episode, number = one.row, one.episode, one.episode.opened.episode
    least = smallest_of({name: value for name, value in row.margins.items() if value == value}, scales)
    ratio, margin = "", NO_NUMBER
    if least is not None and abs(least.value) < float("inf"):
        ratio = f"{least.value / scales[least.name]:.6g}"
        margin = f"{figure_text(least.value, least.unit)}<br><small>{least.name}</small>"
    before, after = before_text(row), after_text(row.body)
    at = f"{row.start:.3f}"
    link = f'<a class="open" href="#d-{one.anchor}" title="open this decision">{at}</a>' if opens else at
    why = "<br>".join(escape(cause) for cause in row.causes)
    why += f"{'<br>' if why else ''}<small>{escape(row.reason)}</small>" if row.reason else ""
    bound = f"{'<br>' if why else ''}<small>bound: {_few(row.active)}</small>" if row.active else ""
    style = "n bad" if least is not None and least.value < 0 else "n"
    return (
        f'<tr id="i-{one.anchor}" data-mode="{row.mode.name}" data-status="{row.status.value}" '
        f'data-cause="{escape(" ".join(row.causes))}" data-episode="{number}">'
        f'<td data-v="{number}">{number} {escape(episode.title)}<br>{shield_badge(episode)}</td>'
        f'<td class="n">{link}</td><td class="n">{row.ticks:,}</td>'
        f'<td data-v="{row.mode.value}">{mode_badge(row.mode)}</td><td>{row.status.value}</td>'
        f"<td>{(why + bound) or NO_NUMBER}</td><td>{escape(before)}</td><td>{escape(after)}</td>"
        f'<td class="{style}" data-v="{ratio}">{margin}</td></tr>'
    )


def _few(names: Iterable[str], limit: int = 3) -> str:
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(escape(name) for name in listed[:limit]) + more
