"""A mode table as a picture: an SVG of its own, on a light ground, without help from outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Final

from safeguard.core.enums import Authority, Mode
from safeguard.modes import words
from safeguard.modes.spec import Guard, TableSpec

COLOURS: Final[dict[Mode, str]] = {
    Mode.NOMINAL: "#6cc5a1",
    Mode.CAUTIOUS: "#f0e442",
    Mode.DEGRADED: "#eda81c",
    Mode.HOLD: "#6fbfec",
    Mode.STOP: "#e5732c",
    Mode.ESTOP: "#d989b4",
    Mode.LOCKOUT: "#4b4f55",
    Mode.BOOT: "#dccfb8",
}
"""As on the simulator's page; apart for every kind of colour vision (after Okabe and Ito)."""

SHORT: Final[dict[Guard, str]] = {
    Guard.READY: "self-test passed",
    Guard.ACK: "acknowledged",
    Guard.STANDSTILL: "at rest",
    Guard.CLEAR: "clear",
    Guard.DRAINED: "buckets low",
    Guard.PERSON: "a person takes command",
    Guard.SHADOW: "agrees in shadow",
}

_WHO: Final = {
    Authority.POLICY: "policy, filtered",
    Authority.BACKUP: "backup",
    Authority.NONE: "terminal stop",
    Authority.OPERATOR: "a person, filtered",
}

_BOX_X, _BOX_W, _BOX_H, _TOP, _GAP = 250, 300, 62, 96, 66
_CARD_H, _CARD_STEP = 42, 48
_ENTRY_H: Final = 30  # room for the arrow from BOOT between those that leave and those that arrive
_LANE_X, _LANE_STEP = 40, 270
_LINE: Final = 16  # px between lines of text
_STYLE: Final = """
text { font: 13px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: #22262b; }
.title { font-size: 22px; font-weight: 600; } .soft { fill: #5f666e; } .name { font-size: 18px; font-weight: 650; }
.id { font-size: 12px; font-weight: 600; } .small { font-size: 12px; } .end { text-anchor: end; }
.light { fill: #ffffff; } path { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.back { stroke: #17703f; } .worse { stroke: #b3261e; } .cause { stroke: #868d95; stroke-dasharray: 4 3; }
"""


@dataclass(frozen=True, slots=True)
class _Arc:
    """A way back, drawn in a lane to the right of the boxes."""

    source: Mode
    target: Mode
    lines: tuple[str, ...]


def compact(ids: Iterable[str]) -> str:
    """``CORE-C06, C08–C12, MOD-C20``: a prefix is written once, neighbours as a range."""
    found: list[str] = []
    for prefix, group in groupby(sorted(ids), key=lambda row: row.rpartition("-")[0]):
        ends = [row.rpartition("-")[2] for row in group]
        runs: list[list[str]] = []
        for end in ends:
            if runs and end[1:].isdigit() and _follows(runs[-1][-1], end):
                runs[-1].append(end)
            else:
                runs.append([end])
        parts = [run[0] if len(run) == 1 else f"{run[0]}{'–' if len(run) > 2 else ', '}{run[-1]}" for run in runs]
        found.append(f"{prefix}-{', '.join(parts)}")
    return ", ".join(found)


def _follows(one: str, other: str) -> bool:
    return one[0] == other[0] and one[1:].isdigit() and int(one[1:]) + 1 == int(other[1:])


def svg(spec: TableSpec) -> str:
    """The state diagram of a table as an SVG document."""
    return _Drawing(spec).document()


class _Drawing:
    """Where everything stands, and the elements so far."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self.rows = {row.mode: row for row in spec.modes}
        self.chain = [mode for mode in sorted(self.rows) if mode is not Mode.BOOT]
        self.entry = next((row.target for row in spec.recoveries if row.source is Mode.BOOT), None)
        self.tops: dict[Mode, int] = {}
        y = _TOP
        for mode in self.chain:
            self.tops[mode] = y
            y += self.height(mode) + _GAP
        self.bottom = y - _GAP
        self.parts: list[str] = []

    def height(self, mode: Mode) -> int:
        cards = len(list(_cards(self.spec, mode)))
        entry = _ENTRY_H if mode is self.entry and not cards else 0  # a card makes room enough
        return _BOX_H + cards * _CARD_STEP + (8 if cards else 0) + entry

    def document(self) -> str:
        arcs = _arcs(self.spec)
        lanes = _lanes(arcs)
        right = _BOX_X + _BOX_W
        width = right + _LANE_X + (max(lanes, default=0) + 1) * _LANE_STEP
        height = self.bottom + 64
        self.text(24, 42, f"Modes of the strategy “{self.spec.strategy}”", "title")
        self.text(24, 68, "Causes ask for a mode at least; the worst that is asked for wins, in the same tick.", "soft")
        for mode in self.chain:
            self.causes(mode)
            self.box(mode, _BOX_X, self.tops[mode], _BOX_W)
            self.cards(mode)
        self.worse()
        self.arcs(arcs, lanes)
        self.boot(width)
        self.legend(height - 22)
        return _document(width, height, f"Modes of the strategy {self.spec.strategy}", self.parts)

    def text(self, x: float, y: float, words_: str, kind: str = "") -> None:
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words_, quote=False)}</text>')

    def lines(self, x: float, middle: float, lines: Sequence[str], kind: str = "small") -> None:
        """Lines of text around a height; the first, which names rows, stands out."""
        first = middle - (len(lines) - 1) * _LINE / 2 + 4
        for place, line in enumerate(lines):
            self.text(x, first + place * _LINE, line, f"id {kind}" if place == 0 else f"{kind} soft")

    def path(self, kind: str, path: str) -> None:
        self.parts.append(f'<path class="{kind}" marker-end="url(#{kind})" d="{path}"/>')

    def box(self, mode: Mode, x: float, y: float, width: float) -> None:
        row, light = self.rows[mode], " light" if mode is Mode.LOCKOUT else ""
        self.parts.append(
            f'<g id="{mode.name}"><title>{escape(words.MODES[mode])}</title>'
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{self.height(mode)}" rx="10" fill="{COLOURS[mode]}"/>'
        )
        self.text(x + 18, y + 28, mode.name, f"name{light}")
        moves = row.authority is Authority.POLICY and mode is not Mode.DEGRADED
        speed = f" · {words.percent(row.velocity_share)} of speed" if moves else ""
        self.text(x + 18, y + 49, f"{row.id} · {_WHO[row.authority]}{speed}", f"small{light}")
        self.parts.append("</g>")

    def cards(self, mode: Mode) -> None:
        """What a mode can be, inside its box."""
        for place, (title, line) in enumerate(_cards(self.spec, mode)):
            x, y = _BOX_X + 10, self.tops[mode] + _BOX_H + place * _CARD_STEP
            self.parts.append(f'<rect x="{x}" y="{y}" width="{_BOX_W - 20}" height="{_CARD_H}" rx="6" fill="#fff8e8"/>')
            self.text(x + 10, y + 17, title, "id")
            self.text(x + 10, y + 33, line, "small")

    def causes(self, mode: Mode) -> None:
        """Rows that ask for a mode, with an arrow into its box."""
        ids = [row.id for row in self.spec.causes if row.floor is mode]
        if mode is self.spec.takeover.floor:
            ids.append(self.spec.takeover.id)
        if not ids or mode is Mode.NOMINAL:
            return
        middle = self.tops[mode] + self.height(mode) / 2
        lines = _wrapped(compact(ids), 27)
        self.path("cause", f"M {_BOX_X - 34} {middle:g} H {_BOX_X - 5}")
        first = middle - (len(lines) - 1) * _LINE / 2 + 4
        for place, line in enumerate(lines):
            self.text(_BOX_X - 42, first + place * _LINE, line, "small end")

    def worse(self) -> None:
        """What gets worse with time or number: straight down."""
        for source, target, lines in _worsening(self.spec):
            start, end = self.tops[source] + self.height(source), self.tops[target]
            x = _BOX_X + 40
            self.path("worse", f"M {x} {start + 2} V {end - 5}")
            self.lines(x + 14, (start + end) / 2, lines)

    def arcs(self, arcs: Sequence[_Arc], lanes: Sequence[int]) -> None:
        """Ways back, up on the right. Inner lanes leave above outer ones and arrive below them: nothing crosses."""
        right = _BOX_X + _BOX_W
        placed = list(zip(arcs, lanes, strict=True))
        for arc, lane in placed:
            out = sum(other.source is arc.source and inner < lane for other, inner in placed)
            into = sum(other.target is arc.target and inner < lane for other, inner in placed)
            start = self.tops[arc.source] + 14 + 10 * out
            end = self.tops[arc.target] + self.height(arc.target) - 14 - 12 * into
            x = right + _LANE_X + lane * _LANE_STEP
            self.path("back", f"M {right + 2} {start} H {x - 8} q 8 0 8 -8 V {end + 8} q 0 -8 -8 -8 H {right + 5}")
            self.lines(x + 12, (start + end) / 2, arc.lines)

    def boot(self, width: int) -> None:
        """Where everything begins: level with the mode that it leads to, far right."""
        row = next((row for row in self.spec.recoveries if row.source is Mode.BOOT), None)
        if row is None:
            return
        box = 210
        x, y = width - box - 24, self.tops[row.target] + _ENTRY_H / 2
        middle, right = y + _BOX_H / 2, _BOX_X + _BOX_W
        self.path("back", f"M {x - 2} {middle:g} H {right + 5}")
        self.lines(right + _LANE_X + 12, middle - 15, [f"{row.id}: {', '.join(SHORT[g] for g in row.guards)}"])
        self.box(Mode.BOOT, x, y, box)

    def legend(self, y: float) -> None:
        x = 24.0
        for kind, label in (("cause", "asked for by causes"), ("worse", "worse with time"), ("back", "recovery")):
            self.path(kind, f"M {x:g} {y - 4:g} H {x + 34:g}")
            self.text(x + 46, y, label, "small soft")
            x += 60 + 7 * len(label)


def _document(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    heads = "".join(
        f'<marker id="{kind}" viewBox="0 0 10 10" refX="7" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M 1 1 L 8 5 L 1 9" style="stroke: {colour}; stroke-width: 1.8"/></marker>'
        for kind, colour in (("back", "#17703f"), ("worse", "#b3261e"), ("cause", "#868d95"))
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' role="img">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n<defs>{heads}</defs>\n'
        f'<rect width="100%" height="100%" rx="14" fill="#fbfaf8"/>\n{body}\n</svg>\n'
    )


def _wrapped(line: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters, broken after commas."""
    found = [""]
    for piece in line.split(", "):
        if found[-1] and len(found[-1]) + len(piece) + 2 > width:
            found[-1] += ","
            found.append(piece)
        else:
            found[-1] += f"{', ' if found[-1] else ''}{piece}"
    return found


def _cards(spec: TableSpec, mode: Mode) -> Iterator[tuple[str, str]]:
    """(title, line) of the degraded configurations in DEGRADED, and of jogging in HOLD."""
    if mode is Mode.DEGRADED:
        for row in spec.configurations:
            speed, stay = words.percent(row.velocity_share), words.span(row.stay_s, row.stay_ticks)
            ends = f"slowing to a stop in {stay}" if row.decays else f"for {stay} at most"
            yield f"{row.id} {row.name.replace('_', ' ')}", f"{speed} of speed, {ends}"
    if mode is Mode.HOLD and spec.jog is not None:
        speed = words.percent(spec.jog.velocity_share)
        yield f"{spec.jog.id} jogging, by a person", f"{speed} of speed, away from what is near"


def _arcs(spec: TableSpec) -> list[_Arc]:
    """Every way back but BOOT's, mildest first; the two out of DEGRADED share one arc."""
    found: list[_Arc] = []
    for row in sorted(spec.recoveries, key=lambda row: row.source):
        guards = ", ".join(SHORT[guard] for guard in row.guards)
        dwell = words.span(row.dwell_s, row.dwell_ticks)
        lines = (row.id, *_wrapped(guards, 36), *((f"for {dwell}",) if dwell != "–" else ()))
        if row.source is Mode.DEGRADED:
            ids = compact([*(one.id for one in spec.capabilities), row.id])
            lines = (ids, "all is back, one at a time;", f"or {guards}")
        if row.source is not Mode.BOOT:
            found.append(_Arc(row.source, row.target, lines))
    return found


def _lanes(arcs: Sequence[_Arc]) -> list[int]:
    """The innermost lane of each arc in which it overlaps none that is shorter."""
    lanes: dict[int, int] = {}
    for place in sorted(range(len(arcs)), key=lambda i: arcs[i].source - arcs[i].target):
        arc = arcs[place]
        taken = {
            lane for other, lane in lanes.items() if arcs[other].target < arc.source and arc.target < arcs[other].source
        }
        lanes[place] = next(lane for lane in range(len(arcs)) if lane not in taken)
    return [lanes[place] for place in range(len(arcs))]


def _worsening(spec: TableSpec) -> list[tuple[Mode, Mode, tuple[str, ...]]]:
    """(from, to, words) of timers, of the end of a degraded stay, and of the lockout."""
    found: list[tuple[Mode, Mode, tuple[str, ...]]] = [
        (row.source, row.target, (row.id, f"still moving after {words.span(row.moving_s, row.moving_ticks)}"))
        for row in spec.escalations
    ]
    if spec.configurations and spec.flapping is not None:
        ids = compact([*(row.id for row in spec.configurations), spec.flapping.id])
        lines = (ids, "stay over, no substitute, a further warning,", "or too many recoveries")
        found.append((Mode.DEGRADED, Mode.HOLD, lines))
    number = spec.lockout.beyond + 1
    found.append((Mode.ESTOP, Mode.LOCKOUT, (spec.lockout.id, f"emergency stop number {number}")))
    return found
