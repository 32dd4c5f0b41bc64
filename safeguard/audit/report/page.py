"""A run as one self-contained web page: what happened, what it was held against, what is not shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Protocol

from safeguard.audit.journal.keys import PublicKey
from safeguard.audit.report.episode import episode_sections, overview
from safeguard.audit.report.facts import calibrations, certificate, identity, limits, mode_table, monitors
from safeguard.audit.report.interventions import interventions_section
from safeguard.audit.report.outcomes import outcomes_section
from safeguard.audit.report.parts import command, count_text
from safeguard.audit.report.plots import require_matplotlib, write_plots
from safeguard.audit.report.summary import RunSummary, Total, summarize
from safeguard.audit.report.trust import assumptions, integrity, not_covered
from safeguard.core.enums import Enforcement, Mode


class ReplayVerdict(Protocol):
    """What the page says about a replay."""

    @property
    def identical(self) -> bool:
        """Every decision came out the same."""
        ...

    @property
    def decisions(self) -> int:
        """How many were recomputed and found to agree."""
        ...

    @property
    def divergence(self) -> object | None:
        """The first that differs."""
        ...

    @property
    def losses(self) -> Sequence[object]:
        """Where decisions could not be recomputed; each is told by ``str``."""
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
        outcomes=outcomes_section(run, {run.episodes[at].opened.episode for at in sections}),
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
    total = run.total
    return f"{opened.created_utc} · {count_text(total.episodes, 'episode')} {where} · {total.ticks:,} decisions"


def _verdicts(run: RunSummary, replay: ReplayVerdict | None) -> Iterable[str]:
    found = run.integrity
    gone = f"{found.cut:,} of them cut since: see Integrity. " if found.cut else ""
    proved = f"{found.records:,} records proved. {gone}{found.problem}"
    yield _card("Journal", found.verdict, "good" if found.ok else "idle" if found.sound else "bad", proved)
    yield _replay_card(replay)
    yield _acted_card(run.totals[Enforcement.FULL])
    yield _violation_card("Shield on", run.totals[Enforcement.FULL])
    yield _violation_card("Shield off", run.totals[Enforcement.OFF])
    if (watched := run.totals[Enforcement.MONITOR_ONLY]).episodes:
        yield _watched_card(watched)


def _replay_card(replay: ReplayVerdict | None) -> str:
    if replay is None:
        return _card("Replay", "not done", "idle", "safeguard audit replay recomputes every decision.")
    same = f"{count_text(replay.decisions, 'decision')} came out the same"
    if replay.divergence is not None:
        return _card("Replay", "diverged", "bad", f"{same}, the next one did not; safeguard audit replay says where.")
    if replay.losses:
        more = f"; and {len(replay.losses) - 1:,} more losses" if replay.losses[1:] else ""
        return _card("Replay", "incomplete", "bad", f"{same}; {replay.losses[0]}{more}.")
    if replay.identical:
        return _card("Replay", "identical", "good", f"{same}, bit for bit.")
    return _card("Replay", "within tolerance" if replay.decisions else "nothing to replay", "idle", f"{same}.")


def _card(name: str, verdict: str, style: str, text: str) -> str:
    return (
        f'<div class="card {style}"><h2>{escape(name)}</h2><p class="verdict">{escape(verdict)}</p>'
        f"<p>{escape(text)}</p></div>"
    )


def _acted_card(shielded: Total) -> str:
    """How often the shield stepped in, and how far that went."""
    worst = Mode.NOMINAL if shielded.worst is Mode.BOOT else shielded.worst
    text = f"The stop stood in {count_text(shielded.stops, 'time')}; worst mode {worst.name}."
    return _card("Interventions", f"{shielded.acted:,}", "idle", f"{text} Only where the shield enforced.")


def _violation_card(name: str, found: Total) -> str:
    if not found.judged:
        return _card(name, "no episodes", "idle", "No episode of this kind was closed with an outcome.")
    verdict = f"{found.violated:,} of {found.judged:,} violated" if found.violated else "no violations"
    kinds = f"{found.faulted:,} of {found.judged:,} episodes had an injected fault."
    return _card(name, verdict, "bad" if found.violated else "good", kinds)


def _watched_card(watched: Total) -> str:
    """What a shield that enforced nothing would have done: no claim about what happened."""
    text = "Proposals went out as they were; what is shown is what would have been done. Nothing was guaranteed."
    return _card("Monitor only", f"would have acted in {watched.asked:,} of {watched.episodes:,}", "idle", text)


def _more_episodes(run: RunSummary, shown: int) -> str:
    missing = run.total.episodes - shown
    if not missing:
        return ""
    where = command(run, "show", "--episode N")
    return f'<p class="note">{count_text(missing, "episode")} more in the journal: {where}.</p>'
