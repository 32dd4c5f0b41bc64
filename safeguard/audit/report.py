"""A run as one self-contained web page: what happened, what it was held against, what is not shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Protocol

from pydantic import JsonValue

from safeguard.audit.decode import decode_number
from safeguard.audit.plots import require_matplotlib, write_plots
from safeguard.audit.records import JointLimits
from safeguard.audit.report_episode import episode_section, figure_text, shield_badge
from safeguard.audit.summary import EpisodeSummary, RunSummary, summarize

NOT_COVERED = (
    "Inside its stated assumptions (state error, model error, delay, external torque, enclosed geometry, "
    "static obstacles, drives that obey) the shield claims that no limit is exceeded. Outside them it claims "
    "detection and a stop, not zero violations. Each scenario states on which side it lies.",
    "The journal is a hash chain without a signature: it shows any change by somebody who did not hash the "
    "rest anew. It cannot show a complete forgery. The hash of the last record, noted elsewhere when the run "
    "ended, closes that gap.",
    "Monitors report what they were built to see. Quiet monitors are no proof that nothing was wrong.",
    "This is not a safety-rated function. It relies on the robot's own drive limits and a hardware e-stop.",
)


class ReplayVerdict(Protocol):
    """What the page says about a replay."""

    @property
    def identical(self) -> bool:
        """Every decision came out the same."""
        ...

    @property
    def decisions(self) -> int:
        """How many were recomputed and found identical."""
        ...


def write_report(run_path: str | Path, *, replay: ReplayVerdict | None = None, plots: bool = True) -> Path:
    """Write ``report.html`` into the run folder, and a picture of each episode into ``plots/``.

    The page needs nothing but itself. The outcome table shows what ``episode_close`` records hold: numbers,
    words, yes or no, and mappings ``{"count", "worst", "unit"}``, alone or by kind. Keys that end in ``_s``
    are seconds, keys that start with ``share_`` are fractions; what starts with ``violation`` or counts
    contacts must be 0.

    Args:
        run_path: the run folder.
        replay: what a replay found, if there was one.
        plots: draw the pictures too.

    Raises:
        JournalError: there is no journal, or not even its first record can be trusted.
        MissingExtraError: ``plots`` without matplotlib.
    """
    if plots:
        require_matplotlib()
    run = summarize(run_path)
    page = run.path / "report.html"
    page.write_text(_page(run, replay), encoding="utf-8")
    if plots:
        write_plots(run, run.path / "plots")
    return page


def _page(run: RunSummary, replay: ReplayVerdict | None) -> str:
    template = resources.files("safeguard.audit").joinpath("report.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(f"{run.opened.robot.name}, run {run.opened.run_id[:8]}"),
        lead=escape(_lead(run)),
        verdicts="".join(_verdicts(run, replay)),
        outcomes=_outcomes(run.episodes),
        episodes="".join(episode_section(episode, run.limits) for episode in run.episodes),
        identity=_identity(run),
        limits=_limits(run.limits.joints if run.limits is not None else ()),
        not_covered="".join(f"<li>{escape(text)}</li>" for text in _not_covered(run)),
    )


def _lead(run: RunSummary) -> str:
    opened = run.opened
    where = "in simulation" if opened.simulated else "on hardware"
    ticks = sum(len(episode.t) for episode in run.episodes)
    return f"{opened.created_utc} · {len(run.episodes)} episodes {where} · {ticks:,} decisions"


def _verdicts(run: RunSummary, replay: ReplayVerdict | None) -> Iterable[str]:
    found = run.integrity
    proved = f"{found.records:,} records proved. {found.problem}"
    yield _card("Journal", found.verdict, "good" if found.ok else "bad", proved)
    if replay is None:
        yield _card("Replay", "not done", "idle", "safeguard audit replay recomputes every decision.")
    elif replay.identical:
        yield _card("Replay", "identical", "good", f"{replay.decisions:,} decisions came out the same, bit for bit.")
    else:
        yield _card("Replay", "diverged", "bad", f"after {replay.decisions:,} identical decisions.")
    yield _violation_card("Shield on", [one for one in run.episodes if one.shielded])
    yield _violation_card("Shield off", [one for one in run.episodes if not one.shielded and not one.watched])
    if watched := [one for one in run.episodes if one.watched]:
        yield _watched_card(watched)


def _card(name: str, verdict: str, style: str, text: str) -> str:
    return (
        f'<div class="card {style}"><h2>{escape(name)}</h2><p class="verdict">{escape(verdict)}</p>'
        f"<p>{escape(text)}</p></div>"
    )


def _violation_card(name: str, episodes: Sequence[EpisodeSummary]) -> str:
    judged = [episode for episode in episodes if episode.outcome is not None]
    if not judged:
        return _card(name, "no episodes", "idle", "No episode of this kind was closed with an outcome.")
    bad = sum(any(_must_be_zero(key) and _amount(cell) for key, cell in _cells(one)) for one in judged)
    verdict = f"{bad} of {len(judged)} violated" if bad else "no violations"
    kinds = f"{sum(bool(one.opened.faults) for one in judged)} of {len(judged)} episodes had an injected fault."
    return _card(name, verdict, "bad" if bad else "good", kinds)


def _watched_card(episodes: Sequence[EpisodeSummary]) -> str:
    """What a shield that enforced nothing would have done: no claim about what happened."""
    asked = sum(bool(one.interventions) for one in episodes)
    text = "Proposals went out as they were; what is shown is what would have been done. Nothing was guaranteed."
    return _card("Monitor only", f"would have acted in {asked} of {len(episodes)}", "idle", text)


def _cells(episode: EpisodeSummary) -> list[tuple[str, JsonValue]]:
    """The outcome as table cells: mappings of several measures become one cell each."""
    cells: list[tuple[str, JsonValue]] = []
    for key, value in (episode.outcome or {}).items():
        if isinstance(value, dict) and "count" not in value:
            cells += [(f"{key}: {kind}", cell) for kind, cell in value.items()]
        else:
            cells.append((key, value))
    return cells


def _must_be_zero(key: str) -> bool:
    return key.startswith("violation") or "contacts" in key


def _amount(cell: JsonValue) -> float:
    if isinstance(cell, dict):
        return _amount(cell.get("count"))
    return float(cell) if isinstance(cell, int | float) else 0.0


def _outcomes(episodes: Sequence[EpisodeSummary]) -> str:
    columns = dict.fromkeys(key for episode in episodes for key, _ in _cells(episode))
    if not columns:
        return '<p class="note">No episode was closed with an outcome.</p>'
    head = "".join(f"<th>{_heading(key)}</th>" for key in columns)
    groups: dict[str, list[EpisodeSummary]] = {}
    for episode in episodes:
        groups.setdefault(episode.title, []).append(episode)
    body = "".join(_group(title, group, list(columns)) for title, group in groups.items())
    return (
        '<div class="scroll"><table class="outcomes"><thead><tr><th>scenario</th><th>shield</th>'
        f"{head}</tr></thead>{body}</table></div>"
    )


def _heading(key: str) -> str:
    kind, _, what = key.removesuffix("_s").removeprefix("share_").replace("_", " ").partition(": ")
    return f"<small>{escape(kind)}</small><br>{escape(what)}" if what else escape(kind)


def _group(title: str, episodes: Sequence[EpisodeSummary], columns: Sequence[str]) -> str:
    rows: list[str] = []
    for at, episode in enumerate(episodes):
        name = f'<th scope="rowgroup" rowspan="{len(episodes)}">{escape(title)}</th>' if at == 0 else ""
        cells = dict(_cells(episode))
        values = "".join(_cell(key, cells.get(key)) for key in columns)
        link = f'<a href="#episode-{episode.opened.episode}">{shield_badge(episode)}</a>'
        rows.append(f"<tr>{name}<td>{link}</td>{values}</tr>")
    return f"<tbody>{''.join(rows)}</tbody>"


def _cell(key: str, value: JsonValue) -> str:
    bad = _must_be_zero(key) and _amount(value) > 0
    return f'<td class="n{" bad" if bad else ""}">{_cell_text(key, value)}</td>'


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


def _identity(run: RunSummary) -> str:
    opened = run.opened
    facts: dict[str, str | None] = {
        "run": opened.run_id,
        "hash of the last proved record": run.integrity.head,
        "robot": f"{opened.robot.name}, {opened.robot.digest}",
        "mode table": opened.digests.table,
        "policy": opened.digests.policy,
        "calibration": opened.digests.calibration,
        "record schemas": opened.digests.schemas,
        "enforcement": opened.enforcement.value.replace("_", " "),
        "safeguard": opened.safeguard,
        "python": opened.python,
        "libraries": ", ".join(f"{name} {version}" for name, version in opened.libraries.items()),
        "machine": f"{opened.machine.cpu}, {opened.machine.architecture}, {opened.machine.system}",
    }
    rows = (f"<tr><th>{key}</th><td>{escape(value or 'none')}</td></tr>" for key, value in facts.items())
    return f'<table class="facts"><tbody>{"".join(rows)}</tbody></table>'


def _limits(joints: Sequence[JointLimits]) -> str:
    if not joints:
        return '<p class="note">The run recorded no limits.</p>'
    names = ("lower, rad", "upper, rad", "speed, rad/s", "torque, N·m", "acceleration, rad/s²")
    head = "".join(f'<th class="n">{name.replace(", ", "<br><small>")}</small></th>' for name in names)
    rows = "".join(_limit_row(joint) for joint in joints)
    return (
        f'<div class="scroll"><table><thead><tr><th>joint</th>{head}<th>where from</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _limit_row(joint: JointLimits) -> str:
    values = (joint.lower, joint.upper, joint.velocity, joint.torque, joint.acceleration)
    texts = ("–" if value is None else f"{decode_number(value):.6g}" for value in values)
    cells = "".join(f'<td class="n">{text}</td>' for text in texts)
    sources: dict[str, list[str]] = {}
    for name, source in joint.provenance.items():
        sources.setdefault(source, []).append(name)
    text = "; ".join(f"{', '.join(names)}: {source}" for source, names in sources.items()) or "not recorded"
    return f"<tr><td>{escape(joint.joint)}</td>{cells}<td>{escape(text)}</td></tr>"


def _not_covered(run: RunSummary) -> list[str]:
    """The assumptions that the configuration states, if it does, and what no run of this version can show."""
    config = run.opened.config
    stated = config.get("assumptions") if isinstance(config, dict) else None
    if isinstance(stated, dict):
        return [f"Assumed: {key}: {value}" for key, value in stated.items()] + list(NOT_COVERED)
    if isinstance(stated, list):
        return [f"Assumed: {item}" for item in stated] + list(NOT_COVERED)
    return ([f"Assumed: {stated}"] if stated else []) + list(NOT_COVERED)
