from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from safeguard.core.enums import Mode
from safeguard.modes.diagram import compact, svg
from safeguard.modes.render import drift, mermaid, render_markdown, write_pages
from safeguard.modes.spec import TableSpec
from safeguard.modes.table import STRATEGIES, load_spec

SPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(params=STRATEGIES)
def spec(request: pytest.FixtureRequest) -> TableSpec:
    """Every built-in table."""
    return load_spec(request.param)


def rows(page: str, heading: str) -> list[list[str]]:
    """Cells of the lines under a heading that begin with a row's id."""
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [cells for line in lines if re.fullmatch(r"[A-Z]+-[A-Z]\d\d", (cells := line.strip("| ").split(" | "))[0])]


def test_page_has_every_row_once_where_it_belongs(spec: TableSpec) -> None:
    """Each row of each kind is the first cell of exactly one line of its table; nothing else is."""
    page = render_markdown(spec)

    expected = {
        "Modes": [row.id for row in spec.modes],
        "Causes": [row.id for row in spec.causes],
        "What can be left out": [row.id for row in (*spec.capabilities, *spec.configurations)],
        "Worse with time": [*(row.id for row in spec.escalations), spec.lockout.id],
        "Recovery": [row.id for row in spec.recoveries],
    }
    for heading, ids in expected.items():
        assert sorted(cells[0] for cells in rows(page, heading)) == sorted(ids)
    for single in (spec.takeover, spec.jog, spec.flapping):
        assert single is None or f"{single.id}:" in page
    assert "away from what is near, with 10 % of the speed and 20 % of the acceleration. The mode stays HOLD." in page


def test_causes_say_what_the_table_says(spec: TableSpec) -> None:
    """Cause, about, floor, sheds, delay and clear condition of every line, from the table's own figures."""
    lines = {cells[0]: cells for cells in rows(render_markdown(spec), "Causes")}
    for row in spec.causes:
        cause, _, about, floor, sheds, delay, clears = lines[row.id][1:]
        seconds, ticks = row.bridge_s or row.debounce_s, row.bridge_ticks or row.debounce_ticks
        time = f"{seconds} s" if seconds else f"{ticks} ticks"
        kind = "debounce" if row.debounced else "bridge"
        assert (cause, about, floor) == (f"`{row.cause.value}`", row.about, row.floor.name)
        assert sheds == (", ".join(row.sheds) or "–")
        assert delay == (f"{kind} {time}" if row.delayed else "–")
        assert clears == {"auto": "by itself", "ack": "acknowledged"}[row.clear]


def test_figures_of_moves_are_the_tables(spec: TableSpec) -> None:
    """Timers, dwells, stays and envelopes stand in the page as the table has them."""
    page = render_markdown(spec)
    for row in spec.escalations:
        assert f"| {row.id} | {row.source.name} | {row.target.name} | still moving after {row.moving_s} s |" in page
    for back in spec.recoveries:
        dwell = f"{back.dwell_s} s" if back.dwell_s else "–"
        line = next(line for line in page.splitlines() if line.startswith(f"| {back.id} |"))
        assert line.startswith(f"| {back.id} | {back.source.name} | {back.target.name} | ")
        assert line.endswith(f"| {dwell} |")
    for one in spec.configurations:
        line = next(line for line in page.splitlines() if line.startswith(f"| {one.id} |"))
        assert f" {one.stay_s:g} s |" in line
        assert f"| {100 * one.velocity_share:g} %, " in line
        assert all(f"`{cause.value}`" in line for cause in one.intolerable)


def test_diagram_shows_every_mode_move_and_configuration(spec: TableSpec) -> None:
    """The SVG is well-formed, has a box for each mode, and quotes every escalation, recovery and configuration."""
    root = ET.fromstring(svg(spec))
    boxes = {group.get("id") for group in root.iter(f"{SPACE}g")}
    told = ids_in([text.text or "" for text in root.iter(f"{SPACE}text")])

    assert boxes == {row.mode.name for row in spec.modes}
    moves = (*spec.escalations, *spec.recoveries, *spec.configurations, *spec.capabilities, spec.lockout, spec.takeover)
    asking = [row for row in spec.causes if row.floor is not Mode.NOMINAL]
    assert spec.jog is not None
    assert {row.id for row in (*moves, *asking, *spec.modes, spec.jog)} <= told
    assert "jogging" not in svg(spec.model_copy(update={"jog": None}))


def ids_in(texts: list[str]) -> set[str]:
    """Row ids in texts; ``CORE-C06, C08–C10`` is taken apart, also where it goes on in the next line."""
    found: set[str] = set()
    prefix = ""
    for text in texts:
        for given, first, last in re.findall(r"(?:([A-Z]+)-)?\b([A-Z]\d\d)\b(?:–([A-Z]\d\d))?", text):
            prefix = given or prefix
            end = last or first
            found |= {f"{prefix}-{first[0]}{number:02d}" for number in range(int(first[1:]), int(end[1:]) + 1)}
    return found


def test_nothing_in_the_diagram_sticks_out_or_overlaps(spec: TableSpec) -> None:
    """Texts stay inside the picture and inside the box that they begin in; boxes do not touch, nor do texts."""
    root = ET.fromstring(svg(spec))
    width, height = (float(root.get(key, "0")) for key in ("width", "height"))
    texts = [extent(text) for text in root.iter(f"{SPACE}text")]
    boxes = [area(group.find(f"{SPACE}rect")) for group in root.iter(f"{SPACE}g")]

    for left, top, right, bottom in (*texts, *boxes):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    for one in texts:
        for box in (*boxes, *map(area, cards(root))):
            inside = box[0] <= one[0] <= box[2] and box[1] <= one[1] <= box[3]
            assert not inside or (one[2] <= box[2] and one[3] <= box[3])
    for kind in (texts, boxes):
        for place, one in enumerate(kind):
            assert [other for other in kind[:place] if overlap(one, other)] == []


def cards(root: ET.Element) -> list[ET.Element]:
    """The rectangles of degraded configurations."""
    return [card for card in root.findall(f"{SPACE}rect") if card.get("width") != "100%"]


Extent = tuple[float, float, float, float]


def extent(text: ET.Element) -> Extent:
    """(left, top, right, bottom) of a text, with a generous width for each letter."""
    x, y, kind = float(text.get("x", "0")), float(text.get("y", "0")), text.get("class", "")
    size = 22 if "title" in kind else 18 if "name" in kind else 13 if kind in ("", "soft") else 12
    bold = {"id", "name", "title"} & set(kind.split())
    width = len(text.text or "") * size * (0.62 if bold else 0.53)
    left = x - width if "end" in kind else x
    return left, y - 0.8 * size, left + width, y + 0.2 * size


def area(rectangle: ET.Element | None) -> Extent:
    """(left, top, right, bottom) of a rectangle."""
    assert rectangle is not None
    x, y, width, height = (float(rectangle.get(key, "0")) for key in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def overlap(one: Extent, other: Extent) -> bool:
    """Whether two extents share an area."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_mermaid_has_every_move(spec: TableSpec) -> None:
    """Each escalation and recovery is an arrow between its modes with its id; brackets are balanced."""
    text = mermaid(spec)

    assert text.startswith("stateDiagram-v2\n    [*] --> BOOT\n")
    for row in (*spec.escalations, *spec.recoveries):
        assert f"    {row.source.name} --> {row.target.name} : {row.id} " in text
    assert text.count("{") == text.count("}") == (1 if spec.configurations else 0)
    labels = [line.split(" : ", 1)[1] for line in text.splitlines() if " : " in line]
    assert [label for label in labels if re.search(r"[:;#\"]", label)] == []


@pytest.mark.parametrize(
    ("ids", "short"),
    [
        ([], ""),
        (["CORE-C01"], "CORE-C01"),
        (["CORE-C02", "CORE-C01"], "CORE-C01, C02"),
        (["CORE-C08", "CORE-C09", "CORE-C10", "CORE-C12", "MOD-C20"], "CORE-C08–C10, C12, MOD-C20"),
        (["CORE-C27", "CORE-T28"], "CORE-C27, T28"),
    ],
)
def test_ids_are_written_compactly(ids: list[str], short: str) -> None:
    """A prefix once, three or more neighbours as a range, letters apart."""
    assert compact(ids) == short


def test_written_pages_do_not_drift_and_changed_ones_do(tmp_path: Path) -> None:
    """What was just written is equal; an edited and a missing file are named; stray files are nobody's business."""
    written = write_pages(tmp_path / "modes")
    assert sorted(path.name for path in written) == sorted(f"{s}.{kind}" for s in STRATEGIES for kind in ("md", "svg"))
    assert drift(tmp_path / "modes") == []

    page = tmp_path / "modes" / "vla.md"
    page.write_text(page.read_text("utf-8").replace("0.2 s", "0.3 s", 1), "utf-8")
    (tmp_path / "modes" / "dual.svg").unlink()
    (tmp_path / "modes" / "notes.md").write_text("mine")
    assert drift(tmp_path / "modes") == ["vla.md", "dual.svg"]
