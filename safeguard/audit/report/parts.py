"""Small pieces of the report's HTML. Whatever comes from a journal is escaped here or where it is put in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isfinite
from shlex import quote
from typing import Final

from safeguard.audit.report.summary import EpisodeSummary, RunSummary
from safeguard.core.enums import Level, Mode

NO_NUMBER: Final = "–"


def figure_text(value: float, unit: str = "") -> str:
    """``value`` in three significant digits with its unit, or a dash where there is none."""
    return f"{value:.3g}{f' {unit}' if unit else ''}" if isfinite(value) else NO_NUMBER


def duration_text(seconds: float) -> str:
    """A short time in the unit that suits it."""
    if not isfinite(seconds):
        return NO_NUMBER
    size = abs(seconds)
    if size >= 1.0 or size == 0.0:
        return f"{seconds:.3g} s"
    return f"{1e3 * seconds:.3g} ms" if size >= 1e-3 else f"{1e6 * seconds:.3g} µs"


def shield_badge(episode: EpisodeSummary) -> str:
    """Whether the shield enforced, as a coloured word."""
    if episode.shielded:
        return '<span class="badge on">shield on</span>'
    text = escape(episode.opened.enforcement.value.replace("_", " "))
    return f'<span class="badge off">{"shield off" if text == "off" else text}</span>'


def mode_badge(mode: Mode) -> str:
    """The mode as a word on its colour."""
    return f'<span class="mode m-{mode.name}">{mode.name}</span>'


def level_badge(level: Level) -> str:
    """What a monitor said, as a word on its colour."""
    return f'<span class="mode v-{level.name}">{level.name}</span>'


def facts_table(facts: Mapping[str, str]) -> str:
    """Names on the left, plain text on the right."""
    rows = (f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in facts.items())
    return f'<table class="facts"><tbody>{"".join(rows)}</tbody></table>'


def term_list(facts: Mapping[str, str]) -> str:
    """Short facts in a row; the values are HTML."""
    items = (f"<div><dt>{escape(key)}</dt><dd>{text}</dd></div>" for key, text in facts.items())
    return f"<dl>{''.join(items)}</dl>"


def table(head: Sequence[str], rows: Iterable[str], label: str, style: str = "") -> str:
    """A table that scrolls by itself where the page is narrow; ``head`` and ``rows`` are HTML.

    A heading that starts with ``#`` stands over numbers.
    """
    cells = "".join(
        f'<th scope="col" class="n">{cell[1:]}</th>' if cell.startswith("#") else f'<th scope="col">{cell}</th>'
        for cell in head
    )
    kind = f' class="{style}"' if style else ""
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(label)}"><table{kind}><thead><tr>{cells}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def cell(text: str, *, numeric: bool = False, bad: bool = False) -> str:
    """A table cell; ``text`` is HTML."""
    style = " ".join(name for name, wanted in (("n", numeric), ("bad", bad)) if wanted)
    return f'<td class="{style}">{text}</td>' if style else f"<td>{text}</td>"


def numbers(values: Iterable[str], bad: bool = False) -> str:
    """Cells of a row of numbers, as text."""
    return "".join(cell(text, numeric=True, bad=bad) for text in values)


def command(run: RunSummary, verb: str, *options: str) -> str:
    """A command line about this run, as HTML."""
    line = " ".join(["safeguard audit", verb, quote(run.path.resolve().name), *options])
    return f"<code>{escape(line)}</code>"


def count_text(count: int, one: str, many: str = "") -> str:
    """``3 episodes``, ``1 episode``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
