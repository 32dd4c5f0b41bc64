# pyright: reportPrivateUsage=false
"""The report in a browser, as a reviewer uses it: sorted, filtered, drilled down into, by mouse and by keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from safeguard.audit import write_report
from safeguard.audit.records.encode import JsonObject, decision_body
from safeguard.core.enums import Cause, Enforcement, FilterStatus, Level, Mode, RecordKind
from safeguard.core.types import Decision, Margins, Verdict
from tests.unit.audit_runs import PERIOD, decision, episode_open, observation, proposal, run_open, small_run, started
from tests.unit.browser import Page, browser

EVIL = '</script><img src=x onerror="window.hacked=1"><b>\'&amp;'
ENTER, SPACE, ESCAPE, TAB = ("\r", "Enter", 13), (" ", "Space", 32), ("Escape", "Escape", 27), ("Tab", "Tab", 9)
CORRECTED, BACKUP = FilterStatus.CORRECTED, FilterStatus.BACKUP


def stretch(tick: int, ticks: int, clearance: float, **said: Any) -> list[Decision]:
    """Equal decisions from ``tick`` on, then a clean one."""
    margins = Margins(1.4, 2.0, 80.0, clearance, "panda_link3|panda_link7")
    return [*(decision(tick + at, margins=margins, **said) for at in range(ticks)), decision(tick + ticks)]


def hostile(outcome: Decision) -> Decision:
    """The same, with hostile words wherever a decision has words."""
    nan = float("nan")
    verdicts = (Verdict(EVIL, Level.WARN, nan, nan, detail=EVIL), Verdict(f"quiet {EVIL}", Level.OK, nan, nan))
    margins = replace(outcome.filter.margins, nearest=EVIL)
    result = replace(outcome.filter, source=EVIL, active=(EVIL,), slack=((EVIL, 0.1),), refusal=EVIL, margins=margins)
    return replace(outcome, verdicts=verdicts, filter=result, source=EVIL, reasons=(EVIL,))


def written(path: Path) -> Path:
    """The report of two episodes with five interventions, whose texts are hostile where a person chooses them."""
    late, warn = (Cause.POLICY_LATE,), (Cause.MONITOR_WARN,)
    with started(path, run_open(run_id=EVIL, config={"assumptions": {EVIL: EVIL}})) as journal:
        for episode, name in enumerate(("reach", EVIL)):
            fault: JsonObject = {"id": EVIL, "kind": EVIL, "parameters": {EVIL: EVIL}}
            opened = {**episode_open(episode, Enforcement.FULL, name, [fault]), "policy": EVIL, "strategy": EVIL}
            journal.append(RecordKind.EPISODE_OPEN, opened)
            human: JsonObject = {"operator": EVIL, "reason": EVIL, "action": "stop", "simulated": True}
            journal.append(RecordKind.HUMAN, human)
            told = [decision(0, episode=episode)]
            if episode == 0:
                told += stretch(1, 2, 0.05, mode=Mode.HOLD, causes=late, status=BACKUP)
                told += stretch(4, 10, 0.03, mode=Mode.CAUTIOUS, causes=warn, status=CORRECTED, effort=0.9)
                told += stretch(15, 1, 0.01, status=CORRECTED)
            else:
                told += stretch(1, 3, -0.02, mode=Mode.STOP, causes=late, status=BACKUP, episode=1)
                told += stretch(5, 1, 0.04, mode=Mode.CAUTIOUS, causes=(*late, *warn), status=CORRECTED, episode=1)
            for tick, outcome in enumerate(told):
                arrived = replace(proposal(tick), source=EVIL) if tick % 10 == 0 else None
                body = decision_body(
                    tick * PERIOD, observation(tick), arrived, hostile(outcome) if episode else outcome
                )
                journal.append(RecordKind.DECISION, body, tick=tick, t=tick * PERIOD)
            outcome_of: JsonObject = {EVIL: EVIL, "violations": {"torque": {"count": 0, "worst": 0.0, "unit": "N·m"}}}
            journal.append(RecordKind.EPISODE_CLOSE, {"episode": episode, "outcome": outcome_of})
    return write_report(path, plots=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page."""
    return written(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def window() -> Iterator[Page]:
    """One browser for all tests here."""
    with browser() as found:
        yield found


@pytest.fixture
def tab(window: Page, path: Path) -> Iterator[Page]:
    """The page, opened anew; afterwards nothing may have gone wrong, been asked of a network or been injected."""
    window.look(1280, 900)
    window.open(path)
    yield window
    assert window.errors == []
    assert window.evaluate("performance.getEntriesByType('resource').length") == 0
    assert window.evaluate("typeof window.hacked") == "undefined"


def column(tab: Page, number: int) -> list[str]:
    """The visible cells of a column of the table, from the top."""
    rows = "[...document.querySelectorAll('#table tbody tr')].filter(row => row.offsetParent !== null)"
    return list(tab.evaluate(f"{rows}.map(row => row.cells[{number}].innerText)"))


def sorted_by(tab: Page) -> dict[str, str]:
    """What every heading says about its order, as far as it says any."""
    heads = "[...document.querySelectorAll('#table th')].filter(one => one.getAttribute('aria-sort') !== 'none')"
    return dict(
        tab.evaluate(f"Object.fromEntries({heads}.map(one => [one.dataset.sort, one.getAttribute('aria-sort')]))")
    )


def focus(tab: Page, selector: str) -> None:
    """Move the keyboard there."""
    tab.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")


def type_text(tab: Page, text: str) -> None:
    """Key by key."""
    for letter in text:
        tab.key(letter, f"Key{letter.upper()}", ord(letter.upper()))


def without_timers(tab: Page, expression: str) -> None:
    """Until it is true, in a page whose script is off, and with it the timers that ``Page.wait`` needs."""
    for _ in range(3000):
        if tab.evaluate(expression):
            return
        sleep(0.01)
    raise RuntimeError(f"never true: {expression}")


def shown(tab: Page) -> list[str]:
    """Names of the decisions that can be seen."""
    every = "[...document.querySelectorAll('.decision')].filter(one => one.offsetHeight > 0)"
    return list(tab.evaluate(f"{every}.map(one => one.id)"))


def test_the_table_holds_every_intervention(tab: Page) -> None:
    """In the order in which they happened, none hidden, with what was before and after each."""
    assert column(tab, 2) == ["2", "10", "1", "3", "1"]
    assert column(tab, 3) == ["HOLD", "CAUTIOUS", "NOMINAL", "STOP", "CAUTIOUS"]
    assert column(tab, 6) == [
        f"proposal 0 of {EVIL}, 2 ms old",
        f"proposal 0 of {EVIL}, 8 ms old",
        f"proposal 1 of {EVIL}, 10 ms old",
        f"proposal 0 of {EVIL}, 2 ms old",
        f"proposal 0 of {EVIL}, 10 ms old",
    ]
    assert column(tab, 7)[:2] == ["the stored stop", "corrected by qp, effort 0.9"]
    assert tab.text("#count") == "5 of 5"


def test_a_click_on_a_heading_sorts(tab: Page) -> None:
    """By number where there are numbers, the other way round at the second click; only one heading says so."""
    tab.click("th[data-sort=ticks] button")
    assert column(tab, 2) == ["1", "1", "2", "3", "10"]
    assert sorted_by(tab) == {"ticks": "ascending"}
    tab.click("th[data-sort=ticks] button")
    assert column(tab, 2) == ["10", "3", "2", "1", "1"]
    assert sorted_by(tab) == {"ticks": "descending"}
    tab.click("th[data-sort=status] button")
    assert column(tab, 4) == ["backup", "backup", "corrected", "corrected", "corrected"]
    assert sorted_by(tab) == {"status": "ascending"}


def test_modes_and_margins_sort_by_how_grave_they_are(tab: Page) -> None:
    """Modes by severity, not by name; margins by their size against the limit, the violated one first."""
    tab.click("th[data-sort=mode] button")
    assert column(tab, 3) == ["NOMINAL", "CAUTIOUS", "CAUTIOUS", "HOLD", "STOP"]
    tab.click("th[data-sort=margin] button")
    assert [text.split()[0] for text in column(tab, 8)] == ["-0.02", "0.01", "0.03", "0.04", "0.05"]


@pytest.mark.parametrize("key", [ENTER, SPACE], ids=["Enter", "Space"])
def test_headings_sort_by_keyboard(tab: Page, key: tuple[str, str, int]) -> None:
    """A heading takes the focus and sorts by Enter and by Space; Tab goes on to the next one."""
    focus(tab, "th[data-sort=at] button")
    tab.key(*TAB)
    tab.key(*key)
    assert sorted_by(tab) == {"ticks": "ascending"}
    assert column(tab, 2) == ["1", "1", "2", "3", "10"]


def test_words_filter_the_rows(tab: Page) -> None:
    """Typed words must all be in a row; the count is said; the button brings all rows back."""
    tab.click("#filters input")
    type_text(tab, "proposal")
    assert tab.text("#count") == "5 of 5"
    tab.key(*SPACE)
    type_text(tab, "hold")
    assert column(tab, 3) == ["HOLD"]
    assert tab.text("#count") == "1 of 5"
    tab.click("#filters button")
    tab.wait("document.querySelector('#count').value === '5 of 5'")
    assert len(column(tab, 3)) == 5


@pytest.mark.parametrize(
    ("name", "downs", "modes"),
    [
        ("mode", 3, ["HOLD"]),
        ("cause", 2, ["CAUTIOUS", "CAUTIOUS"]),
        ("status", 1, ["HOLD", "STOP"]),
        ("episode", 2, ["STOP", "CAUTIOUS"]),
    ],
)
def test_lists_filter_the_rows(tab: Page, name: str, downs: int, modes: list[str]) -> None:
    """By mode, by one of the causes, by status, by episode, chosen with the arrow keys."""
    focus(tab, f"#filters select[name={name}]")
    for _ in range(downs):
        tab.key("ArrowDown", "ArrowDown", 40)
    assert column(tab, 3) == modes


def test_filters_work_together_and_survive_sorting(tab: Page) -> None:
    """What is hidden stays hidden when the rest is sorted."""
    tab.click("#filters input")
    type_text(tab, "corrected")
    tab.click("th[data-sort=margin] button")
    assert column(tab, 3) == ["NOMINAL", "CAUTIOUS", "CAUTIOUS"]
    focus(tab, "#filters select[name=episode]")
    tab.key("ArrowDown", "ArrowDown", 40)
    assert column(tab, 3) == ["NOMINAL", "CAUTIOUS"]


def test_a_click_on_a_row_opens_its_decision(tab: Page) -> None:
    """With the proposal, what was released, margins, rows, causes and verdicts; Escape closes it again."""
    assert shown(tab) == []
    tab.click("#i-0-4 td:nth-child(6)")
    tab.wait("location.hash === '#d-0-4'")
    assert shown(tab) == ["d-0-4"]
    text = tab.text("#d-0-4")
    for wanted in (
        "Episode 0, tick 4, 0.008 s",
        "corrected by qp, effort 0.9",
        "monitor_warn",
        "row.monitor_warn",
        "row 1 of 4 of the last proposal to arrive",
        "position_upper:panda_joint2, clearance:panda_link3|panda_link7",
        "least of 10 ticks",
        "0.03 m",
        "Measured: intake 8 µs",
        "--episode 0 --from 0.008000 --to 0.008000 --all --json",
    ):
        assert wanted in text
    row = tab.evaluate(
        "[...document.querySelectorAll('#d-0-4 table')[0].tBodies[0].rows[1].cells].map(c => c.innerText)"
    )
    assert row[:4] == ["panda_joint2", "-0.781", "0.1", "-0.785"]
    tab.key(*ESCAPE)
    tab.wait("location.hash === '#i-0-4'")
    assert shown(tab) == []
    tab.wait("document.activeElement.hash === '#d-0-4'")


def test_decisions_open_and_close_by_keyboard(tab: Page) -> None:
    """Enter on a row's time opens it and takes the focus there; the close link leads back to the row."""
    focus(tab, "#i-1-1 a.open")
    tab.key(*ENTER)
    tab.wait("location.hash === '#d-1-1'")
    tab.wait("document.activeElement.id === 'd-1-1'")
    assert shown(tab) == ["d-1-1"]
    for _ in range(5):  # on a machine that stalls the browser may still be on its way to the fragment, and Tab is lost
        tab.key(*TAB)
        if tab.evaluate("document.activeElement.className === 'close'"):
            break
        focus(tab, "#d-1-1")
    tab.wait("document.activeElement.className === 'close'")
    tab.key(*ENTER)
    tab.wait("location.hash === '#i-1-1'")
    assert shown(tab) == []


def test_a_link_with_a_fragment_leads_to_a_decision(tab: Page, path: Path) -> None:
    """A reviewer can send one decision; one that does not exist opens nothing."""
    tab._call("Page.navigate", url=f"{path.as_uri()}#d-0-15")
    tab.wait("document.readyState === 'complete' && location.hash === '#d-0-15'")
    assert shown(tab) == ["d-0-15"]
    tab._call("Page.navigate", url=f"{path.as_uri()}#d-9-9")
    tab.wait("location.hash === '#d-9-9'")
    assert shown(tab) == []


def test_an_episode_leads_to_its_interventions(tab: Page) -> None:
    """The link in an episode's section filters the table to that episode."""
    tab.click("#episode-1 [data-show]")
    assert tab.text("#count") == "2 of 5"
    assert column(tab, 3) == ["STOP", "CAUTIOUS"]


def test_without_script_everything_can_be_read(tab: Page, path: Path) -> None:
    """Rows, sections and decisions by their links; what needs the script is not shown."""
    tab._call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab._call("Page.navigate", url=f"{path.as_uri()}?plain#d-0-4")
        without_timers(tab, "document.readyState === 'complete' && location.search === '?plain'")
        assert tab.evaluate("document.documentElement.className") == ""
        assert shown(tab) == ["d-0-4"]
        assert len(column(tab, 2)) == 5
        assert tab.evaluate("document.querySelector('#filters').offsetHeight") == 0
        tab.click("#d-0-4 .close")
        without_timers(tab, "location.hash === '#i-0-4'")
        assert shown(tab) == []
    finally:
        tab._call("Emulation.setScriptExecutionDisabled", value=False)


def test_paper_has_the_rows_and_none_of_the_controls(tab: Page) -> None:
    """Printed: light, headings and all rows, every episode open; no filters, no navigation, no sort marks."""
    tab.look(1280, 900, dark=True)
    tab.click("#all")
    tab._call("Emulation.setEmulatedMedia", media="print")
    try:
        height = "document.querySelector('{}').offsetHeight"
        assert [tab.evaluate(height.format(name)) for name in ("nav", "#filters", "#all")] == [0, 0, 0]
        assert tab.text("#table thead").split("\t")[0] == "episode"
        assert tab.evaluate("document.querySelector('#table th').offsetHeight") > 0
        # A button is not painted in the heading that is repeated on each page; its text is.
        assert tab.evaluate("getComputedStyle(document.querySelector('#table th button')).display") == "contents"
        assert len(column(tab, 2)) == 5
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert tab.evaluate("[...document.querySelectorAll('details')].every(one => one.open)")
    finally:
        tab._call("Emulation.setEmulatedMedia", media="")


def test_it_becomes_a_pdf(tab: Page) -> None:
    """Chromium prints it."""
    made = tab._call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
    assert str(made["data"]).startswith("JVBERi0")


@pytest.mark.parametrize("width", [480, 1280])
def test_nothing_sticks_out(tab: Page, width: int) -> None:
    """Only tables and charts scroll sideways, and only within themselves; an open decision fits too."""
    tab.look(width, 900)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.evaluate("location.hash = 'd-0-4'")
    tab.wait("document.querySelector('#d-0-4').offsetHeight > 0")
    assert tab.evaluate("document.querySelector('#d-0-4').scrollWidth") <= width


def test_light_and_dark(tab: Page) -> None:
    """The page follows the system's preference, and text stands out from its ground in both."""
    pairs: list[tuple[int, int]] = []
    for dark in (False, True):
        tab.look(1280, 900, dark=dark)
        style = "getComputedStyle(document.body)"
        colours = f"[{style}.color, {style}.backgroundColor].map(c => c.match(/\\d+/g).slice(0, 3))"
        ink, paper = tab.evaluate(f"{colours}.map(c => c.reduce((a, b) => a + +b, 0))")
        pairs.append((ink, paper))
    assert pairs[0][1] - pairs[0][0] > 450
    assert pairs[1][0] - pairs[1][1] > 450


def test_a_hostile_name_is_only_text(tab: Page) -> None:
    """It is read as it was written; no element, handler or script came of it."""
    assert EVIL in tab.text("#i-1-1")
    tab.evaluate("location.hash = 'd-1-1'")
    tab.wait("document.querySelector('#d-1-1').offsetHeight > 0")
    assert tab.text("#d-1-1").count(EVIL) > 10
    assert EVIL in tab.text("#assumptions + .scroll")
    assert tab.evaluate("document.images.length") == 0
    assert tab.evaluate("document.scripts.length") == 1
    assert tab.evaluate(
        "[...document.querySelectorAll('*')].every(e => ![...e.attributes].some(a => /^on/.test(a.name)))"
    )


def test_a_page_without_interventions_has_no_errors(window: Page, tmp_path: Path) -> None:
    """Nothing to sort, nothing to open."""
    window.open(write_report(small_run(tmp_path), plots=False))
    assert "every tick was clean" in window.text("main")
    window.key(*ESCAPE)
    assert window.errors == []
