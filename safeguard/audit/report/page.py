"""A run as one self-contained web page: what happened, what it was held against, what is not shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final, Protocol

from pydantic import JsonValue

from safeguard.audit.journal.keys import PublicKey
from safeguard.audit.report.episode import episode_sections, overview
from safeguard.audit.report.facts import calibrations, certificate, identity, limits, mode_table, monitors
from safeguard.audit.report.interventions import interventions_section
from safeguard.audit.report.parts import command, count_text, figure_text, shield_badge
from safeguard.audit.report.plots import require_matplotlib, write_plots
from safeguard.audit.report.summary import EpisodeSummary, RunSummary, summarize
from safeguard.audit.report.trust import assumptions, integrity, not_covered
from safeguard.core.enums import Mode

OUTCOMES: Final = 400
"""Most episodes in the table of outcomes."""


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


def write_report(
    run_path: str | Path,
    *,
    replay: ReplayVerdict | None = None,
    plots: bool = True,
    key: PublicKey | None = None,
) -> Path:
    """Write ``report.html`` into the run folder, and a picture of each episode into ``plots/``.

    The page needs nothing but itself. The outcome table shows what ``episode_close`` records hold: numbers,
    words, yes or no, and mappings ``{"count", "worst", "unit"}``, alone or by kind. Keys that end in ``_s``
    are seconds, keys that start with ``share_`` are fractions; what starts with ``violation`` or counts
    contacts must be 0.

    Args:
        run_path: the run folder.
        replay: what a replay found, if there was one.
        plots: draw the pictures too.
        key: public key that must have signed the run.

    Raises:
        JournalError: there is no journal, or not even its first record can be trusted.
        MissingExtraError: ``plots`` without matplotlib.
    """
    if plots:
        require_matplotlib()
    run = summarize(run_path, key)
    page = run.path / "report.html"
    page.write_text(_page(run, replay), encoding="utf-8")
    if plots:
        write_plots(run, run.path / "plots")
    return page


def _page(run: RunSummary, replay: ReplayVerdict | None) -> str:
    template = resources.files("safeguard.audit.report").joinpath("report.html").read_text(encoding="utf-8")
    sections = episode_sections(run)
    return Template(template).substitute(
        title=escape(f"{run.opened.robot.name}, run {run.opened.run_id[:8]}"),
        lead=escape(_lead(run)),
        verdicts="".join(_verdicts(run, replay)),
        overview=overview(run),
        outcomes=_outcomes(run, {run.episodes[at].opened.episode for at in sections}),
        interventions=interventions_section(run),
        episodes=_more_episodes(run, len(sections)) + "".join(sections.values()),
        monitors=monitors(run),
        integrity=integrity(run),
        assumptions=assumptions(run),
        identity=identity(run),
        certificate=certificate(run),
        calibrations=calibrations(run),
        mode_table=mode_table(run),
        limits=limits(run),
        not_covered=not_covered(run),
    )


def _lead(run: RunSummary) -> str:
    opened = run.opened
    where = "in simulation" if opened.simulated else "on hardware"
    ticks = sum(episode.ticks for episode in run.episodes)
    return f"{opened.created_utc} · {len(run.episodes)} episodes {where} · {ticks:,} decisions"


def _verdicts(run: RunSummary, replay: ReplayVerdict | None) -> Iterable[str]:
    found = run.integrity
    gone = f"{found.cut:,} of them cut since: see Integrity. " if found.cut else ""
    proved = f"{found.records:,} records proved. {gone}{found.problem}"
    yield _card("Journal", found.verdict, "good" if found.ok else "idle" if found.sound else "bad", proved)
    if replay is None:
        yield _card("Replay", "not done", "idle", "safeguard audit replay recomputes every decision.")
    elif replay.identical:
        yield _card("Replay", "identical", "good", f"{replay.decisions:,} decisions came out the same, bit for bit.")
    else:
        yield _card("Replay", "diverged", "bad", f"after {replay.decisions:,} identical decisions.")
    yield _acted_card(run.episodes)
    yield _violation_card("Shield on", [one for one in run.episodes if one.shielded])
    yield _violation_card("Shield off", [one for one in run.episodes if not one.shielded and not one.watched])
    if watched := [one for one in run.episodes if one.watched]:
        yield _watched_card(watched)


def _card(name: str, verdict: str, style: str, text: str) -> str:
    return (
        f'<div class="card {style}"><h2>{escape(name)}</h2><p class="verdict">{escape(verdict)}</p>'
        f"<p>{escape(text)}</p></div>"
    )


def _acted_card(episodes: Sequence[EpisodeSummary]) -> str:
    """How often the shield stepped in, and how far that went."""
    shielded = [one for one in episodes if one.shielded]
    rows, stops = sum(one.acted for one in shielded), sum(one.stops for one in shielded)
    worst = max((one.worst for one in shielded if one.worst is not Mode.BOOT), default=Mode.NOMINAL)
    text = f"The stop stood in {count_text(stops, 'time')}; worst mode {worst.name}. Only where the shield enforced."
    return _card("Interventions", f"{rows:,}", "idle", text)


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
    asked = sum(bool(one.acted) for one in episodes)
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


def _more_episodes(run: RunSummary, shown: int) -> str:
    missing = len(run.episodes) - shown
    if not missing:
        return ""
    where = command(run, "show", "--episode N")
    return f'<p class="note">{count_text(missing, "episode")} more in the journal: {where}.</p>'


def _outcomes(run: RunSummary, drawn: Set[int]) -> str:
    episodes = run.episodes[:OUTCOMES]
    columns = dict.fromkeys(key for episode in episodes for key, _ in _cells(episode))
    if not columns:
        return '<p class="note">No episode was closed with an outcome.</p>'
    head = "".join(f'<th scope="col">{_heading(key)}</th>' for key in columns)
    groups: dict[str, list[EpisodeSummary]] = {}
    for episode in episodes:
        groups.setdefault(episode.title, []).append(episode)
    body = "".join(_group(title, group, list(columns), drawn) for title, group in groups.items())
    left_out = len(run.episodes) - len(episodes)
    text = f"{count_text(left_out, 'episode')} more in the journal: {command(run, 'show', '--kind episode_close')}."
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="outcomes"><table class="outcomes"><thead><tr>'
        f'<th scope="col">scenario</th><th scope="col">shield</th>{head}</tr></thead>{body}</table></div>'
        + (f'<p class="note">{text}</p>' if left_out else "")
    )


def _heading(key: str) -> str:
    kind, _, what = key.removesuffix("_s").removeprefix("share_").replace("_", " ").partition(": ")
    return f"<small>{escape(kind)}</small><br>{escape(what)}" if what else escape(kind)


def _group(title: str, episodes: Sequence[EpisodeSummary], columns: Sequence[str], drawn: Set[int]) -> str:
    rows: list[str] = []
    for at, episode in enumerate(episodes):
        name = f'<th scope="rowgroup" rowspan="{len(episodes)}">{escape(title)}</th>' if at == 0 else ""
        cells = dict(_cells(episode))
        values = "".join(_cell(key, cells.get(key)) for key in columns)
        badge, number = shield_badge(episode), episode.opened.episode
        link = f'<a href="#episode-{number}">{badge}</a>' if number in drawn else badge
        rows.append(f"<tr>{name}<td>{link}</td>{values}</tr>")
    return f"<tbody>{''.join(rows)}</tbody>"


def _cell(key: str, value: JsonValue) -> str:
    bad = _must_be_zero(key) and _amount(value) > 0
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
