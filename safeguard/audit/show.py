"""The timeline of a run for a terminal: which rows, and how they look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from textwrap import wrap
from typing import Final

from rich.color import ColorSystem
from rich.style import Style

from safeguard.audit.event_words import ECHOES
from safeguard.audit.reader import retention_cut
from safeguard.audit.records.encode import JsonObject, encode_number
from safeguard.audit.records.registry import RunOpen
from safeguard.audit.story import Margin, Row, story, told_cut
from safeguard.audit.timeline import Moment, joint_names, moments
from safeguard.core.enums import Cause, Mode, RecordKind
from safeguard.core.errors import ConfigError

COLUMNS: Final = ("time, s", "ep", "tick", "what", "mode", "causes", "filter", "margin", "detail")
NUMBERS, MODE = 3, 4
WIDTHS: Final = {0: (8, 2, 5, 8, 8, 10, 10, 9), 100: (9, 2, 6, 8, 8, 15, 10, 12), 140: (9, 2, 6, 8, 8, 22, 10, 20)}
"""Columns of a terminal that is at least so wide, without the detail, which takes what is left."""
NARROWEST: Final = 12
RANGES: Final = 20
"""Most ranges of episodes that an error names."""

STYLES: Final = {
    Mode.NOMINAL: Style(color="green"),
    Mode.CAUTIOUS: Style(color="yellow"),
    Mode.DEGRADED: Style(color="yellow", bold=True),
    Mode.HOLD: Style(color="cyan", bold=True),
    Mode.STOP: Style(color="red", bold=True),
    Mode.ESTOP: Style(color="white", bgcolor="red", bold=True),
    Mode.LOCKOUT: Style(color="white", bgcolor="magenta", bold=True),
    Mode.BOOT: Style(dim=True),
}
PLAIN, HEAD, BAD = Style(), Style(bold=True), Style(color="red", bold=True)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows to show; what is left empty chooses nothing.

    Attributes:
        kinds: of records; those that repeat what decisions say (``event_words.ECHOES``) are shown if named here.
        modes: in force in the row.
        causes: in force, coming or going.
        start, end: s after the first tick of the episode.
        joint: a constraint row of this joint bound, or the text names it.
        episode: number.
    """

    kinds: tuple[RecordKind, ...] = ()
    modes: tuple[Mode, ...] = ()
    causes: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    joint: str = ""
    episode: int | None = None

    @classmethod
    def named(
        cls,
        kinds: Sequence[str] = (),
        modes: Sequence[str] = (),
        causes: Sequence[str] = (),
        start: float | None = None,
        end: float | None = None,
        joint: str = "",
        episode: int | None = None,
    ) -> Choice:
        """From names as they are typed; raises ConfigError for one that does not exist, with those that do."""
        if start is not None and end is not None and start > end:
            raise ConfigError(f"--from {start:g} lies after --to {end:g}: exchange them")
        return cls(
            tuple(RecordKind(_known("kind", name.lower(), [kind.value for kind in RecordKind])) for name in kinds),
            tuple(Mode[_known("mode", name.upper(), [mode.name for mode in Mode])] for name in modes),
            tuple(_known("cause", name.lower(), [cause.value for cause in Cause]) for name in causes),
            start,
            end,
            joint,
            episode,
        )

    def __contains__(self, row: Row) -> bool:
        return (
            (not self.kinds or row.kind in self.kinds)
            and (not self.modes or row.mode in self.modes)
            and (not self.causes or not {*row.causes, *row.changed}.isdisjoint(self.causes))
            and (self.episode is None or row.episode == self.episode)
            and self._in_time(row)
            and (not self.joint or _names(row, self.joint))
        )

    def _in_time(self, row: Row) -> bool:
        if self.start is None and self.end is None:
            return True
        if row.since is None or row.last is None:
            return False
        return (self.start is None or row.last >= self.start) and (self.end is None or row.since <= self.end)


def _known(what: str, name: str, names: list[str]) -> str:
    if name not in names:
        raise ConfigError(f"--{what} {name!r}: there is no such {what}; known: {', '.join(names)}")
    return name


def _names(row: Row, joint: str) -> bool:
    return any(joint in bound.replace("|", ":").split(":") for bound in row.rows) or joint in row.detail


def show_run(
    path: str | Path, choice: Choice | None = None, *, every: bool = False, limit: int | None = None
) -> Iterator[Row]:
    """The rows of the run in folder ``path`` that ``choice`` chooses, in order, at most ``limit``.

    Args:
        path: the run folder.
        choice: filters; None shows everything that matters.
        every: a row for every decision, instead of one for what its neighbours have in common.
        limit: upper bound of the number of rows; None for no bound.

    Raises:
        JournalError: there is no journal.
        ConfigError: the run has no such joint or episode.
        CutShortError: after the rows before a damage.
    """
    wanted = choice or Choice()
    echoes = not set(wanted.kinds).isdisjoint(ECHOES)
    found = _with_cuts(story(_checked(moments(path), wanted), every=every, echoes=echoes), path)
    return islice((row for row in found if row in wanted), limit)


def _with_cuts(rows: Iterable[Row], path: str | Path) -> Iterator[Row]:
    """The rows, with one for each cut behind that of ``run_open``, which has proved them."""
    for at, row in enumerate(rows):
        yield row
        for one in cut.cuts if at == 0 and (cut := retention_cut(path)) is not None else ():
            kind = RecordKind.RETENTION_CUT
            yield replace(row, seq=one.first, kind=kind, hash="", what="cut", detail=told_cut(one), grade="warn")


def _checked(found: Iterable[Moment], choice: Choice) -> Iterator[Moment]:
    """The moments, with an error where the run has not what is asked for."""
    episodes: list[range] = []
    for moment in found:
        body = moment.record.body
        if isinstance(body, RunOpen) and (names := joint_names(body)) and choice.joint not in ("", *names):
            raise ConfigError(f"--joint {choice.joint!r}: the run has no such joint; it has: {', '.join(names)}")
        if choice.episode is not None and moment.episode is not None:
            _count(episodes, moment.episode, choice.episode)
        yield moment
    if choice.episode is not None and not any(choice.episode in some for some in episodes):
        raise ConfigError(f"--episode {choice.episode}: the run has no such episode; it has: {_ranges(episodes)}")


def _count(episodes: list[range], number: int, wanted: int) -> None:
    """Join ``number`` to the last range or begin one; of very many ranges the first are kept, and the wanted number."""
    if episodes and number == episodes[-1][-1]:
        return
    if episodes and number == episodes[-1].stop:
        episodes[-1] = range(episodes[-1].start, number + 1)
    elif len(episodes) < RANGES or number == wanted:
        episodes.append(range(number, number + 1))


def _ranges(episodes: list[range]) -> str:
    """Numbers in words."""
    said = [f"{some[0]} to {some[-1]}" if len(some) > 1 else str(some[0]) for some in episodes]
    return ", ".join(said[:RANGES]) + (", …" if len(said) >= RANGES else "") if said else "none"


def row_json(row: Row) -> JsonObject:
    """A row for machines: everything of it, non-finite numbers by name, times in s."""
    smallest = row.smallest
    return {
        "seq": row.seq,
        "kind": row.kind.value,
        "hash": row.hash,
        "t_ns": row.at,
        "time_s": row.since,
        "until_s": row.last,
        "episode": row.episode,
        "tick": row.tick,
        "what": row.what,
        "grade": row.grade,
        "mode": None if row.mode is None else row.mode.name,
        "configuration": row.configuration,
        "causes": list(row.causes),
        "changed": list(row.changed),
        "status": None if row.status is None else row.status.value,
        "margins": {name: encode_number(value) for name, value in row.margins.items()},
        "smallest": None if smallest is None else smallest.name,
        "count": row.count,
        "rows": list(row.rows),
        "detail": row.detail,
    }


def text_lines(rows: Iterable[Row], width: int | None = None, colours: ColorSystem | None = None) -> Iterator[str]:
    """The rows as lines of text, under a heading if there are any.

    Args:
        rows: of :func:`show_run`.
        width: columns of the terminal, into which cells are wrapped; None for one line a row, however long.
        colours: what the terminal can show; None for no colours.
    """
    widths = _widths(width)
    for at, row in enumerate(rows):
        if at == 0:
            yield from _folded(COLUMNS, widths, [HEAD] * len(COLUMNS), colours)
        last = BAD if row.grade == "error" else PLAIN
        cells = _cells(row)
        if row.mode is None:
            rest = sum(widths[MODE:]) + len(widths) - MODE - 1 if width is not None else 0
            yield from _folded((*cells[:MODE], cells[-1]), [*widths[:MODE], rest], [PLAIN] * MODE + [last], colours)
        else:
            styles = [PLAIN] * MODE + [STYLES[row.mode]] + [PLAIN] * (len(COLUMNS) - MODE - 2) + [last]
            yield from _folded(cells, widths, styles, colours)


def _widths(width: int | None) -> list[int]:
    if width is None:
        return [*WIDTHS[max(WIDTHS)], 0]
    widths = WIDTHS[max(least for least in WIDTHS if least <= width)]
    return [*widths, max(NARROWEST, width - sum(widths) - len(widths))]


def _cells(row: Row) -> tuple[str, ...]:
    return (
        "" if row.since is None else f"{row.since:.3f}",
        "" if row.episode is None else str(row.episode),
        "" if row.tick is None else str(row.tick),
        row.what,
        "" if row.mode is None else row.mode.name + (f"[{row.configuration}]" if row.configuration else ""),
        ", ".join(row.causes),
        "" if row.status is None else row.status.value,
        _margin_text(row.smallest),
        row.detail,
    )


def _margin_text(margin: Margin | None) -> str:
    """Small angles and lengths in thousandths."""
    if margin is None:
        return ""
    value, unit = margin.value, margin.unit
    if unit in ("rad", "m") and abs(value) < 1.0:
        value, unit = 1e3 * value, f"m{unit}"
    return f"{margin.name} {value:.3g} {unit}"


def _folded(
    cells: Sequence[str], widths: Sequence[int], styles: Sequence[Style], colours: ColorSystem | None
) -> Iterator[str]:
    """One row as lines: cells wrapped into their widths; a width of 0 takes everything, and then nothing wraps."""
    if not widths[-1]:
        columns = [[cell] for cell in cells]
    else:
        columns = [wrap(cell, size) or [""] for cell, size in zip(cells, widths, strict=True)]
    for parts in zip_longest(*columns, fillvalue=""):
        padded = [
            part.rjust(size) if at < NUMBERS else part.ljust(size)
            for at, (part, size) in enumerate(zip(parts, widths, strict=True))
        ]
        yield " ".join(
            style.render(text, color_system=colours) if text.strip() else text
            for text, style in zip(padded, styles, strict=True)
        ).rstrip()
