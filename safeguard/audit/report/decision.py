"""One decision in full: what was proposed, what was released, how far from the limits, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite

import numpy as np

from safeguard.audit.fold import Arrival, Intervention
from safeguard.audit.records.bodies import (
    UNITS,
    CommandBody,
    FilterBody,
    PDBody,
    PositionBody,
    Spec,
    TerminalStopBody,
    TorqueBody,
    VelocityBody,
    VerdictBody,
    full_verdict,
)
from safeguard.audit.records.decode import decode_array, decode_number
from safeguard.audit.records.registry import DecisionRecord
from safeguard.audit.report.parts import (
    NO_NUMBER,
    cell,
    command,
    count_text,
    duration_text,
    figure_text,
    level_badge,
    mode_badge,
    numbers,
    shield_badge,
    table,
    term_list,
)
from safeguard.audit.report.summary import EpisodeSummary, RunSummary
from safeguard.core.action import JOINT_UNITS
from safeguard.core.enums import Enforcement, FilterStatus, Level
from safeguard.core.types import NS_PER_S, Vector

AXIS_NAMES = "the tool frame or several parts"


@dataclass(frozen=True, slots=True)
class Target:
    """The row of the proposal that the tick was heading for: its values by joint, their unit, which row of how many.

    ``values`` is empty where the proposal does not speak of joints.
    """

    values: Mapping[str, float]
    unit: str
    row: int
    rows: int


def before_text(row: Intervention) -> str:
    """What was asked for, in a line of plain text."""
    if row.arrival is None:
        return "no proposal yet in this episode"
    proposal, now = row.arrival.proposal, row.body.now
    age = duration_text((now - proposal.t_obs) / NS_PER_S)
    refused = ", refused on arrival" if row.arrival.refused else ""
    return f"proposal {proposal.seq} of {proposal.source}, {age} old{refused}"


def after_text(body: DecisionRecord) -> str:
    """What was released, in a line of plain text."""
    decision, result = body.decision, body.decision.filter
    if isinstance(decision.command, TerminalStopBody):
        return f"terminal stop: {decision.command.reason}"
    would = {
        FilterStatus.ADMISSIBLE: "the proposal, unchanged",
        FilterStatus.CORRECTED: f"corrected by {result.source}, effort {figure_text(decode_number(result.effort))}",
        FilterStatus.BACKUP: "the stored stop",
        FilterStatus.REFUSED: "terminal stop",
        FilterStatus.BYPASSED: "the proposal, unchecked",
    }[result.status]
    if decision.enforcement is Enforcement.FULL or result.status is FilterStatus.BYPASSED:
        return would
    if decision.source == result.source:
        return would
    return f"the proposal, unchecked; the shield would have released {would}"


def target_of(arrival: Arrival, now: int, spec: Spec | None) -> Target | None:
    """The row that ``now`` heads for: row k is meant for the time up to k + 1 rows after the observation."""
    actions = decode_array(arrival.proposal.actions)
    if spec is None or actions.ndim != 2 or not actions.size:
        return None
    row = min(max(int((now - arrival.proposal.t_obs) * spec.rate_hz / NS_PER_S), 0), len(actions) - 1)
    by_joint = spec.reference in JOINT_UNITS
    values: dict[str, float] = {}
    if by_joint and actions.shape[1] == len(spec.joints):
        values = dict(zip(spec.joints, actions[row].tolist(), strict=True))
    return Target(values, f"{spec.unit}, {spec.reference.value.replace('_', ' ')}", row, len(actions))


def released(body: CommandBody) -> tuple[Vector, str]:
    """The numbers that went to the drives, and what they are."""
    match body:
        case TorqueBody():
            return decode_array(body.tau), "torque, N·m"
        case PositionBody():
            return decode_array(body.q), "position, rad"
        case VelocityBody():
            return decode_array(body.v), "speed, rad/s"
        case PDBody():
            return decode_array(body.q), "position of the PD law, rad"
        case TerminalStopBody():
            return np.empty(0), "none: terminal stop"


def decision_article(run: RunSummary, episode: EpisodeSummary, row: Intervention, anchor: str) -> str:
    """The decision that began an intervention, as an article that a link with its fragment opens."""
    body, number = row.body, episode.opened.episode
    title = f"Episode {number}, tick {body.tick}, {row.start:.3f} s"
    second = f"{row.start:.6f}"
    whole = command(run, "show", f"--episode {number} --from {second} --to {second} --all --json")
    parts = (
        f'<div class="bar"><h3 id="h-{anchor}">{title} {mode_badge(row.mode)}</h3>'
        f'<a class="close" href="#i-{anchor}">close <kbd>Esc</kbd></a></div>',
        f'<p class="gist">{escape(episode.title)} {shield_badge(episode)}</p>',
        _story(row),
        _joints(run, episode, row),
        _margins(row, body.decision.filter),
        _verdicts(body.decision.verdicts),
        _facts(row),
        f'<p class="note">The whole record: {whole}</p>',
    )
    names = f'id="d-{anchor}" tabindex="-1" aria-labelledby="h-{anchor}"'
    return f'<article class="decision" {names}>{"".join(parts)}</article>'


def _story(row: Intervention) -> str:
    causes = ", ".join(row.causes) or "none beyond the filter's own limits"
    lines = {
        "before": escape(before_text(row)),
        "after": escape(after_text(row.body)),
        "causes": escape(causes),
        "reason": escape(row.reason or "limits would have been exceeded: see active rows"),
    }
    items = "".join(f"<dt>{key}</dt><dd>{text}</dd>" for key, text in lines.items())
    return f'<dl class="story">{items}</dl>'


def _facts(row: Intervention) -> str:
    body, result = row.body, row.body.decision.filter
    slack = ", ".join(f"{name} by {figure_text(decode_number(amount))}" for name, amount in result.slack)
    facts = {
        "record": str(row.first.record.seq),
        "authority": body.decision.authority.value,
        "source": body.decision.source,
        "enforcement": body.decision.enforcement.value.replace("_", " "),
        "filter": result.status.value,
        "solver": f"{result.solver.value}, {result.iterations} iterations"
        if result.iterations
        else result.solver.value,
        "effort": figure_text(decode_number(result.effort)),
        "rows of the mode table": ", ".join(body.decision.reasons) or "none",
        "relaxed": slack or "nothing",
        "braking figures": "provisional" if result.provisional else "certified",
        "refusal": result.refusal or "none",
        "lasted": f"{row.ticks:,} ticks, to {row.end:.3f} s",
    }
    times = body.timings.model_dump()
    spent = ", ".join(f"{name} {duration_text(ns / NS_PER_S)}" for name, ns in times.items() if name != "total")
    timings = f'<p class="note">Measured: {spent}; together {duration_text(body.timings.total / NS_PER_S)}.</p>'
    return term_list({name: escape(text) for name, text in facts.items()}) + timings


def _spec_of(episode: EpisodeSummary, arrival: Arrival) -> Spec | None:
    """What the numbers of the source mean that this proposal came from."""
    source, opened = arrival.proposal.source, episode.opened
    return next(
        (spec for name, spec in opened.sources.items() if source == name or source.startswith(f"{name}: ")), opened.spec
    )


def _joints(run: RunSummary, episode: EpisodeSummary, row: Intervention) -> str:
    body, decision = row.body, row.body.decision
    q, v = decode_array(body.observation.state.q), decode_array(body.observation.state.v)
    target = None if row.arrival is None else target_of(row.arrival, body.now, _spec_of(episode, row.arrival))
    sent, what = released(decision.command)
    names = _names(run, max(sent.size, q.size))
    lower, upper, torque = _bounds(run, len(names))
    full = np.full(len(names), np.inf)
    columns = {
        "measured<br><small>rad</small>": _column(q, lower, upper),
        "speed<br><small>rad/s</small>": _column(v, -full, full),
    }
    if target is not None and target.values:
        asked = np.array([target.values.get(name, np.nan) for name in names])
        columns[f"before: asked<br><small>{escape(target.unit)}</small>"] = _column(asked, -full, full)
    most = torque if isinstance(decision.command, TorqueBody) else full
    columns[f"after: released<br><small>{what}</small>"] = _column(sent, -most, most)
    would_be = decision.enforcement is not Enforcement.FULL and decision.source != decision.filter.source
    if would_be and decision.filter.status is not FilterStatus.BYPASSED:
        instead = _column(decode_array(decision.filter.torque), -torque, torque)
        columns["the shield's<br><small>torque, N·m</small>"] = instead
    predicted = decode_array(decision.filter.acceleration)
    if np.isfinite(predicted).any():
        columns["then predicted<br><small>rad/s²</small>"] = _column(predicted, -full, full)
    rows = [
        f'<tr><th scope="row">{escape(name)}</th>{"".join(column[at] for column in columns.values())}</tr>'
        for at, name in enumerate(names)
    ]
    made = table(["joint", *(f"#{head}" for head in columns)], rows, "before and after by joint")
    return f"<h4>Before and after; red: outside the joint's limit</h4>{made}{_proposal_note(row, target)}"


def _bounds(run: RunSummary, count: int) -> tuple[Vector, Vector, Vector]:
    """Position limits and torque limit of each joint, infinite where none are recorded; shape (count,)."""
    known = run.limits.joints if run.limits is not None else []
    if len(known) != count:
        return np.full(count, -np.inf), np.full(count, np.inf), np.full(count, np.inf)
    rows = [[decode_number(one.lower), decode_number(one.upper), decode_number(one.torque)] for one in known]
    lower, upper, torque = np.array(rows).reshape(count, 3).T
    return lower, upper, torque


def _proposal_note(row: Intervention, target: Target | None) -> str:
    nominal = (
        "What the controller made of the proposal is what was released."
        if row.body.decision.source == "proposal"
        else "What the controller made of the proposal (the nominal) is not in the journal; effort measures how far "
        "the released motion is from it."
    )
    if row.arrival is None:
        return '<p class="note">Before: nothing had been proposed in this episode.</p>'
    if target is None:
        return f'<p class="note">Before: the form of the proposal is not recorded. {nominal}</p>'
    place = f"row {target.row + 1} of {target.rows} of the last proposal to arrive"
    if not target.values:
        return f'<p class="note">Before: {place}; it speaks of {AXIS_NAMES}, {escape(target.unit)}. {nominal}</p>'
    refused = f", refused on arrival: {escape(row.arrival.refused)}" if row.arrival.refused else ""
    return f'<p class="note">Asked: {place}{refused}. {nominal}</p>'


def _names(run: RunSummary, count: int) -> list[str]:
    known = [joint.joint for joint in run.limits.joints] if run.limits is not None else []
    return known if len(known) == count else [f"joint {at + 1}" for at in range(count)]


def _column(values: Vector, lower: Vector, upper: Vector) -> list[str]:
    """Cells of ``values``, as many as there are bounds; those outside stand out, and so does what is no number."""
    if values.ndim != 1:
        return [cell("misshapen", bad=True)] * len(lower)
    padded = values.tolist()[: len(lower)]
    cells = [
        cell(figure_text(value) if value == value else "NaN", numeric=True, bad=not low <= value <= high)
        for value, low, high in zip(padded, lower.tolist(), upper.tolist(), strict=False)
    ]
    return cells + [cell(NO_NUMBER, numeric=True)] * (len(lower) - len(cells))


def _margins(row: Intervention, result: FilterBody) -> str:
    rows: list[str] = []
    for name, unit in UNITS.items():
        now, least = decode_number(getattr(result.margins, name)), row.margins[name]
        where = f" <small>{escape(result.margins.nearest)}</small>" if name == "clearance" else ""
        rows.append(
            f'<tr><th scope="row">{name}{where}</th>{cell(figure_text(now, unit), numeric=True, bad=now < 0)}'
            f"{cell(figure_text(least, unit), numeric=True, bad=least < 0)}</tr>"
        )
    head = ("margin to the limit", "#in this decision", f"#least of {count_text(row.ticks, 'tick')}")
    active = ", ".join(escape(name) for name in result.active) or "none"
    if not any(isfinite(value) for value in row.margins.values()):
        return '<h4>Margins</h4><p class="note">Not computed: nothing was filtered.</p>'
    return f'<h4>Margins</h4>{table(head, rows, "margins")}<p class="note">Active rows: {active}.</p>'


def _verdicts(listed: Sequence[VerdictBody | str]) -> str:
    verdicts = [full_verdict(verdict) for verdict in listed]
    loud = [v for v in verdicts if v.level is not Level.OK or decode_number(v.score) == decode_number(v.score)]
    quiet = ", ".join(escape(v.monitor) for v in verdicts if v not in loud)
    rows = [
        f'<tr><th scope="row">{escape(v.monitor)}</th><td>{level_badge(v.level)}</td>'
        f"{numbers((figure_text(decode_number(v.score)), figure_text(decode_number(v.threshold))))}"
        f"<td>{escape(v.detail or (v.cause.value if v.cause else ''))}</td></tr>"
        for v in loud
    ]
    made = table(("monitor", "says", "#score", "#threshold", "detail"), rows, "verdicts") if rows else ""
    return f'<h4>Verdicts</h4>{made}<p class="note">Quiet: {quiet or "none"}.</p>'
