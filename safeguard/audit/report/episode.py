"""One episode as a section of the report: modes with causes, curves against limits, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import accumulate
from typing import Final

import numpy as np

from safeguard.audit.records.decode import decode_number
from safeguard.audit.records.registry import JointLimits, Limits
from safeguard.audit.report.curves import Span, Trace, coarse
from safeguard.audit.report.parts import count_text, figure_text, shield_badge, term_list
from safeguard.audit.report.summary import Curves, EpisodeSummary, RunSummary, Series
from safeguard.audit.report.svg import Curve, Frame, Lane, Rule, lanes_chart, line_chart
from safeguard.core.enums import Level, Mode

WIDE: Final = 1000.0
LEFT: Final = 150.0
SMALL: Final = (264.0, 124.0)
SECTION_BYTES: Final = 1_000_000
"""Most bytes of episodes in full."""
SPANS: Final = 2500
"""Most spans in the overview."""
LANES: Final = 60
"""Most episodes in the overview, and most causes in an episode's timeline."""

MODE_STYLES: Final = {mode.name: f"m-{mode.name}" for mode in Mode}
LEVEL_STYLES: Final = {level.name: f"l-{level.name}" for level in Level}


def episode_sections(run: RunSummary) -> dict[int, str]:
    """Section of each episode, by its place in the run; only the gravest where all are too many bytes."""
    made: dict[int, str] = {}
    left = SECTION_BYTES
    for at in sorted(range(len(run.episodes)), key=lambda at: run.episodes[at].weight, reverse=True):
        episode = run.episodes[at]
        section = (
            episode_section(episode, episode.curves, run.limits) if left > 0 and episode.curves is not None else ""
        )
        left -= len(section.encode())
        if section and (left >= 0 or not made):
            made[at] = section
    return dict(sorted(made.items()))


def overview(run: RunSummary) -> str:
    """The modes of every episode, one under the other."""
    shown = run.drawn[:LANES]
    if not shown:
        return '<p class="note">No decision was recorded in an episode.</p>'
    longest = max(episode.duration for episode, _ in shown)
    lanes = [Lane(_lane_name(episode), curves.mode_spans(), MODE_STYLES, labelled=True) for episode, curves in shown]
    fits = max(1, sum(total <= SPANS for total in accumulate(len(coarse(lane.spans, longest)) for lane in lanes)))
    chart = lanes_chart(WIDE, 190.0, longest, lanes[:fits], "modes of every episode over time")
    more = run.total.ticked - fits
    note = f'<p class="note">{count_text(more, "episode")} more are not drawn here.</p>' if more else ""
    return f'<div class="scroll chart" tabindex="0" role="group" aria-label="modes over time">{chart}</div>{note}'


def _lane_name(episode: EpisodeSummary) -> str:
    shield = "on" if episode.shielded else "watching" if episode.watched else "off"
    title = episode.title if len(episode.title) <= 20 else episode.title[:19] + "…"
    return f"{episode.opened.episode} {title}, {shield}"


def episode_section(episode: EpisodeSummary, curves: Curves, limits: Limits | None) -> str:
    """The collapsible section of one episode; faulted shielded ones are open."""
    faulted = bool(episode.opened.faults)
    is_open = " open" if episode.shielded and faulted else ""
    name = f"episode-{episode.opened.episode}"
    return (
        f'<details id="{name}"{is_open}><summary><span class="no">{episode.opened.episode}</span> '
        f"{escape(episode.title)} {shield_badge(episode)}"
        f'<span class="gist">{escape(_gist(episode))}</span></summary>'
        f"{_facts(episode)}{_modes(episode, curves)}{_joints(episode, curves, limits)}"
        f"{_clearance(episode, curves, limits)}{_verdicts(episode, curves)}{_interventions(episode)}</details>"
    )


def _gist(episode: EpisodeSummary) -> str:
    did = "would-be intervention" if episode.watched else "intervention"
    return f"{episode.ticks:,} ticks, worst mode {episode.worst.name}, {count_text(episode.acted, did)}"


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
    return term_list({name: escape(text) for name, text in facts.items()})


def _figure(title: str, body: str, note: str = "") -> str:
    return f'<figure><figcaption>{title} <span class="note">{escape(note)}</span></figcaption>{body}</figure>'


def _modes(episode: EpisodeSummary, curves: Curves) -> str:
    lanes = [Lane("mode", curves.mode_spans(), MODE_STYLES, labelled=True)]
    causes = curves.cause_spans()
    lanes += [Lane(name, causes[name], {}) for name in list(causes)[:LANES]]
    for kind in dict.fromkeys(event.kind for event in episode.events):
        marks = [Span(event.t, event.t, event.text) for event in episode.events if event.kind == kind]
        lanes.append(Lane(kind, marks, dict.fromkeys((mark.label for mark in marks), "mark")))
    chart = lanes_chart(WIDE, LEFT, episode.duration, lanes, "modes and causes over time")
    events = "".join(f"<li>{event.t:.3f} s: {escape(event.text)}</li>" for event in episode.events[:20])
    more = len(episode.events[20:]) + episode.more_events
    events += f"<li>{more:,} more in the journal</li>" if more else ""
    return _figure("Modes and causes", chart) + (f'<ul class="events">{events}</ul>' if events else "")


def _joints(episode: EpisodeSummary, curves: Curves, limits: Limits | None) -> str:
    known: list[JointLimits | None] = list(limits.joints) if limits is not None else []
    known += [None] * (len(curves.joints) - len(known))
    spans = curves.mode_spans()
    charts = [
        _joint_chart(at, trace, limit, spans, episode.duration)
        for at, (trace, limit) in enumerate(zip(curves.joints, known, strict=False))
    ]
    note = "measured, rad; dashed: limits; shading: mode"
    return _figure("Joint positions", f'<div class="multiples">{"".join(charts)}</div>', note)


def _joint_chart(at: int, trace: Trace, limit: JointLimits | None, spans: Sequence[Span], duration: float) -> str:
    t, y = trace.points()
    name = f"joint {at + 1}" if limit is None else limit.joint
    rules: list[Rule] = []
    outside = False
    if limit is not None:
        lower, upper = decode_number(limit.lower), decode_number(limit.upper)
        rules = [Rule(lower, "lower limit"), Rule(upper, "upper limit")]
        outside = bool(np.any((y < lower) | (y > upper)))
    frame = Frame(*SMALL, left=34.0, duration=duration)
    chart = line_chart(frame, [Curve(t, y)], rules, spans, f"position of {name}")
    beyond = ' <b class="bad">beyond its limit</b>' if outside else ""
    return f'<div class="multiple"><h4>{escape(name)}{beyond}</h4>{chart}</div>'


def _clearance(episode: EpisodeSummary, curves: Curves, limits: Limits | None) -> str:
    t, y = curves.clearance.points()
    if not np.isfinite(y).any():
        return ""
    margin = None if limits is None or limits.clearance is None else decode_number(limits.clearance)
    rules = [Rule(0.0, "contact")] + ([Rule(margin, "margin", "margin")] if margin is not None else [])
    frame = Frame(WIDE, 150.0, LEFT, episode.duration)
    chart = line_chart(frame, [Curve(t, y)], rules, curves.mode_spans(), "clearance")
    smallest = figure_text(float(np.nanmin(y)), "m")
    note = f"smallest distance between kept link pairs, m; least {smallest}; dashed: contact; dotted: margin"
    return _figure("Clearance", chart, note)


def _verdicts(episode: EpisodeSummary, curves: Curves) -> str:
    scored = curves.scored()
    rest = {name: series.levels.spans() for name, series in curves.monitors.items() if name not in scored}
    loud = [Lane(name, spans, LEVEL_STYLES) for name, spans in rest.items() if spans]
    quiet = [name for name, spans in rest.items() if not spans]
    parts = [_scored(episode, curves, name, series) for name, series in scored.items()]
    if loud:
        parts.append(lanes_chart(WIDE, LEFT, episode.duration, loud, "alarms of monitors over time"))
    if quiet:
        parts.append(f'<p class="note">quiet throughout: {escape(", ".join(quiet))}</p>')
    note = "score against its threshold (dashed); bars: alarms of yes-or-no checks"
    return _figure("Monitors", "".join(parts), note) if parts else ""


def _scored(episode: EpisodeSummary, curves: Curves, name: str, series: Series) -> str:
    frame = Frame(WIDE, 130.0, LEFT, episode.duration)
    lines = [Curve(*series.score.points()), Curve(*series.threshold.points(), "limit")]
    chart = line_chart(frame, lines, [], curves.mode_spans(), f"score of {name}")
    return f'<h4 class="wide">{escape(name)}</h4>{chart}'


def _interventions(episode: EpisodeSummary) -> str:
    count = episode.acted
    if not count:
        return '<p class="note">No interventions: every tick was clean.</p>'
    if episode.watched:
        text = f"{count_text(count, 'time')} the shield would have acted; none of it reached the drives"
    else:
        text = count_text(count, "intervention")
    number = episode.opened.episode
    return (
        f'<p class="note">{text}: <a href="#interventions" data-show="{number}">in the table of interventions</a>.</p>'
    )
