"""One episode as a section of the report: curves against limits, modes, verdicts, interventions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import isfinite
from typing import Final

import numpy as np

from safeguard.audit.decode import decode_number
from safeguard.audit.records import JointLimits, Limits
from safeguard.audit.summary import MARGINS, EpisodeSummary, Intervention, Series, Span
from safeguard.audit.svg import Curve, Frame, Lane, Rule, lanes_chart, line_chart
from safeguard.core.enums import FilterStatus, Level, Mode
from safeguard.core.types import Vector

WIDE: Final = 1000.0
LEFT: Final = 150.0
SMALL: Final = (264.0, 124.0)
ROWS: Final = 40
"""Most rows of an episode's table of interventions."""

MODE_STYLES: Final = {mode.name: f"m-{mode.name}" for mode in Mode}
LEVEL_STYLES: Final = {level.name: f"l-{level.name}" for level in Level}


def figure_text(value: float, unit: str = "") -> str:
    """``value`` in three significant digits with its unit, or a dash where there is none."""
    return f"{value:.3g}{f' {unit}' if unit else ''}" if isfinite(value) else "–"


def episode_section(episode: EpisodeSummary, limits: Limits | None) -> str:
    """The collapsible section of one episode; faulted shielded ones are open."""
    faulted = bool(episode.opened.faults)
    is_open = " open" if episode.shielded and faulted else ""
    name = f"episode-{episode.opened.episode}"
    return (
        f'<details id="{name}"{is_open}><summary><span class="no">{episode.opened.episode}</span> '
        f"{escape(episode.title)} {shield_badge(episode)}"
        f'<span class="gist">{escape(_gist(episode))}</span></summary>'
        f"{_facts(episode)}{_modes(episode)}{_joints(episode, limits)}{_clearance(episode, limits)}"
        f"{_verdicts(episode)}{_interventions(episode)}</details>"
    )


def shield_badge(episode: EpisodeSummary) -> str:
    """Whether the shield enforced, as a coloured word."""
    if episode.shielded:
        return '<span class="badge on">shield on</span>'
    text = escape(episode.opened.enforcement.value.replace("_", " "))
    return f'<span class="badge off">{"shield off" if text == "off" else text}</span>'


def _gist(episode: EpisodeSummary) -> str:
    worst = max(episode.modes, key=lambda mode: -1 if mode is Mode.BOOT else mode.value, default=Mode.BOOT)
    rows = len(episode.interventions)
    did = "would-be intervention" if episode.watched else "intervention"
    return f"{len(episode.t):,} ticks, worst mode {worst.name}, {rows} {did}{'' if rows == 1 else 's'}"


def _facts(episode: EpisodeSummary) -> str:
    opened = episode.opened
    faults = ", ".join(f"{fault.id} ({fault.kind})" for fault in opened.faults) or "none"
    facts = {
        "task": opened.task,
        "faults": faults,
        "policy": opened.policy or "none",
        "strategy": opened.strategy,
        "seed": "none" if opened.seed is None else str(opened.seed),
    }
    items = (f"<div><dt>{key}</dt><dd>{escape(text)}</dd></div>" for key, text in facts.items())
    return f"<dl>{''.join(items)}</dl>"


def _figure(title: str, body: str, note: str = "") -> str:
    return f'<figure><figcaption>{title} <span class="note">{escape(note)}</span></figcaption>{body}</figure>'


def _modes(episode: EpisodeSummary) -> str:
    lanes = [Lane("mode", episode.mode_spans(), MODE_STYLES, labelled=True)]
    lanes += [Lane(name, spans, {}) for name, spans in episode.cause_spans().items()]
    for kind in dict.fromkeys(event.kind for event in episode.events):
        marks = [Span(event.t, event.t, event.text) for event in episode.events if event.kind == kind]
        lanes.append(Lane(kind, marks, dict.fromkeys((mark.label for mark in marks), "mark")))
    chart = lanes_chart(WIDE, LEFT, episode.duration, lanes, "modes and causes over time")
    events = "".join(f"<li>{event.t:.3f} s: {escape(event.text)}</li>" for event in episode.events[:20])
    return _figure("Modes and causes", chart) + (f'<ul class="events">{events}</ul>' if events else "")


def _joints(episode: EpisodeSummary, limits: Limits | None) -> str:
    positions, t = episode.positions(), np.array(episode.t)
    known: list[JointLimits | None] = list(limits.joints) if limits is not None else []
    known += [None] * (positions.shape[1] - len(known))
    spans = episode.mode_spans()
    charts = [
        _joint_chart(at, t, positions[:, at], known[at], spans, episode.duration) for at in range(positions.shape[1])
    ]
    note = "measured, rad; dashed: limits; shading: mode"
    return _figure("Joint positions", f'<div class="multiples">{"".join(charts)}</div>', note)


def _joint_chart(
    at: int,
    t: Vector,
    y: Vector,
    limit: JointLimits | None,
    spans: Sequence[Span],
    duration: float,
) -> str:
    name = f"joint {at + 1}" if limit is None else limit.joint
    rules: list[Rule] = []
    outside = False
    if limit is not None:
        lower, upper = decode_number(limit.lower), decode_number(limit.upper)
        rules = [Rule(lower, "lower limit"), Rule(upper, "upper limit")]
        outside = bool(np.any((y < lower) | (y > upper)))
    frame = Frame(*SMALL, left=34.0, duration=duration)
    chart = line_chart(frame, [Curve(t, y)], rules, spans, f"position of {name}", points=300)
    beyond = ' <b class="bad">beyond its limit</b>' if outside else ""
    return f'<div class="multiple"><h4>{escape(name)}{beyond}</h4>{chart}</div>'


def _clearance(episode: EpisodeSummary, limits: Limits | None) -> str:
    y = np.array(episode.clearance)
    if not np.isfinite(y).any():
        return ""
    margin = None if limits is None or limits.clearance is None else decode_number(limits.clearance)
    rules = [Rule(0.0, "contact")] + ([Rule(margin, "margin", "margin")] if margin is not None else [])
    frame = Frame(WIDE, 150.0, LEFT, episode.duration)
    chart = line_chart(frame, [Curve(np.array(episode.t), y)], rules, episode.mode_spans(), "clearance")
    smallest = figure_text(float(np.nanmin(np.where(np.isfinite(y), y, np.nan))), "m")
    note = f"smallest distance between kept link pairs, m; least {smallest}; dashed: contact; dotted: margin"
    return _figure("Clearance", chart, note)


def _verdicts(episode: EpisodeSummary) -> str:
    scored = episode.scored()
    rest = {name: s for name, s in episode.monitors.items() if name not in scored}
    loud = {name: s for name, s in rest.items() if any(level is not Level.OK for level in s.level)}
    quiet = [name for name in rest if name not in loud]
    parts = [_scored(episode, name, series) for name, series in scored.items()]
    if loud:
        lanes = [Lane(name, _level_spans(episode, s), LEVEL_STYLES) for name, s in loud.items()]
        parts.append(lanes_chart(WIDE, LEFT, episode.duration, lanes, "alarms of monitors over time"))
    if quiet:
        parts.append(f'<p class="note">quiet throughout: {escape(", ".join(quiet))}</p>')
    note = "score against its threshold (dashed); bars: alarms of yes-or-no checks"
    return _figure("Monitors", "".join(parts), note) if parts else ""


def _scored(episode: EpisodeSummary, name: str, series: Series) -> str:
    t = np.array(episode.t[: len(series.score)])
    score, threshold = np.array(series.score), np.array(series.threshold)
    frame = Frame(WIDE, 130.0, LEFT, episode.duration)
    curves = [Curve(t, score), Curve(t, threshold, "limit")]
    chart = line_chart(frame, curves, [], episode.mode_spans(), f"score of {name}")
    return f'<h4 class="wide">{escape(name)}</h4>{chart}'


def _level_spans(episode: EpisodeSummary, series: Series) -> list[Span]:
    spans: list[Span] = []
    for t, level in zip(episode.t, series.level, strict=False):
        if spans and spans[-1].label == level.name:
            spans[-1] = Span(spans[-1].start, t, level.name)
        else:
            spans.append(Span(t, t, level.name))
    return [span for span in spans if span.label != Level.OK.name]


def _interventions(episode: EpisodeSummary) -> str:
    rows = episode.interventions
    if not rows:
        return '<p class="note">No interventions: every tick was clean.</p>'
    title = "Interventions"
    if episode.watched:
        title = "What the shield would have done; none of it reached the drives"
    chosen = sorted(sorted(rows, key=_weight, reverse=True)[:ROWS], key=lambda row: row.start)
    left_out = len(rows) - len(chosen)
    note = f"the {ROWS} gravest of {len(rows)}; the journal has all" if left_out else "all"
    head = "".join(f'<th class="n">{name}<br><small>{unit}</small></th>' for name, unit in MARGINS.items())
    times = "".join(f'<th class="n">{name}</th>' for name in ("from", "to", "ticks"))
    words = "".join(f"<th>{name}</th>" for name in ("mode", "status", "causes and reason", "active rows"))
    table = (
        f'<div class="scroll"><table><thead><tr>{times}{words}{head}</tr></thead>'
        f"<tbody>{''.join(_row(row) for row in chosen)}</tbody></table></div>"
    )
    return _figure(title, table, f"{note}; margins are the smallest of the rows' ticks")


def _weight(row: Intervention) -> tuple[bool, int, int]:
    grave = row.status in (FilterStatus.BACKUP, FilterStatus.REFUSED)
    return grave, -1 if row.mode is Mode.BOOT else row.mode.value, row.ticks


def _row(row: Intervention) -> str:
    figures = (f"{row.start:.3f}", f"{row.end:.3f}", str(row.ticks))
    times = "".join(f'<td class="n">{text}</td>' for text in figures)
    cells = ((" bad" if value < 0 else "", figure_text(value)) for value in row.margins.values())
    margins = "".join(f'<td class="n{style}">{text}</td>' for style, text in cells)
    why = f"{_words(row.causes)}<br><small>{escape(row.reason)}</small>" if row.reason else _words(row.causes)
    return (
        f'<tr>{times}<td><span class="mode m-{row.mode.name}">{row.mode.name}</span></td>'
        f"<td>{row.status.value}</td><td>{why}</td><td>{_words(row.active, 4)}</td>{margins}</tr>"
    )


def _words(names: Iterable[str], limit: int = 8) -> str:
    listed = list(names)
    more = f" <small>+{len(listed) - limit}</small>" if len(listed) > limit else ""
    return "<br>".join(escape(name) for name in listed[:limit]) + more if listed else "–"
