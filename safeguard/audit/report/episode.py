"""One episode as a section of the report: modes with causes, curves against limits, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import accumulate
from typing import Final

import numpy as np

from safeguard.audit.records.decode import decode_number
from safeguard.audit.records.registry import JointLimits, Limits
from safeguard.audit.report.parts import count_text, figure_text, shield_badge, term_list
from safeguard.audit.report.summary import EpisodeSummary, RunSummary, Series, Span
from safeguard.audit.report.svg import Curve, Frame, Lane, Rule, coarse, lanes_chart, line_chart
from safeguard.core.enums import Level, Mode
from safeguard.core.types import Vector

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
    for at in sorted(range(len(run.episodes)), key=lambda at: _weight(run.episodes[at]), reverse=True):
        section = episode_section(run.episodes[at], run.limits) if left > 0 else ""
        left -= len(section.encode())
        if section and (left >= 0 or not made):
            made[at] = section
    return dict(sorted(made.items()))


def _weight(episode: EpisodeSummary) -> tuple[bool, int]:
    return bool(episode.opened.faults), len(episode.interventions)


def overview(run: RunSummary) -> str:
    """The modes of every episode, one under the other."""
    shown = [episode for episode in run.episodes if episode.t][:LANES]
    if not shown:
        return '<p class="note">No decision was recorded in an episode.</p>'
    longest = max(episode.duration for episode in shown)
    lanes = [Lane(_lane_name(episode), episode.mode_spans(), MODE_STYLES, labelled=True) for episode in shown]
    fits = max(1, sum(total <= SPANS for total in accumulate(len(coarse(lane.spans, longest)) for lane in lanes)))
    chart = lanes_chart(WIDE, 190.0, longest, lanes[:fits], "modes of every episode over time")
    more = sum(bool(episode.t) for episode in run.episodes) - fits
    note = f'<p class="note">{count_text(more, "episode")} more are not drawn here.</p>' if more else ""
    return f'<div class="scroll chart" tabindex="0" role="group" aria-label="modes over time">{chart}</div>{note}'


def _lane_name(episode: EpisodeSummary) -> str:
    shield = "on" if episode.shielded else "watching" if episode.watched else "off"
    title = episode.title if len(episode.title) <= 20 else episode.title[:19] + "…"
    return f"{episode.opened.episode} {title}, {shield}"


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
    return term_list({name: escape(text) for name, text in facts.items()})


def _figure(title: str, body: str, note: str = "") -> str:
    return f'<figure><figcaption>{title} <span class="note">{escape(note)}</span></figcaption>{body}</figure>'


def _modes(episode: EpisodeSummary) -> str:
    lanes = [Lane("mode", episode.mode_spans(), MODE_STYLES, labelled=True)]
    causes = episode.cause_spans()
    lanes += [Lane(name, causes[name], {}) for name in list(causes)[:LANES]]
    for kind in dict.fromkeys(event.kind for event in episode.events):
        marks = [Span(event.t, event.t, event.text) for event in episode.events if event.kind == kind]
        lanes.append(Lane(kind, marks, dict.fromkeys((mark.label for mark in marks), "mark")))
    chart = lanes_chart(WIDE, LEFT, episode.duration, lanes, "modes and causes over time")
    events = "".join(f"<li>{event.t:.3f} s: {escape(event.text)}</li>" for event in episode.events[:20])
    more = len(episode.events) - 20
    events += f"<li>{more:,} more in the journal</li>" if more > 0 else ""
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
    count = len(episode.interventions)
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
