from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from safeguard.audit import read_run, write_report
from safeguard.audit.records.bodies import VerdictBody
from safeguard.audit.records.encode import JsonObject
from safeguard.audit.records.registry import AnyBody, DecisionRecord, EpisodeClose, EpisodeOpen, Gap, Human, Record
from safeguard.audit.report import account, facts, summary
from safeguard.audit.report.account import LOSSES, NAMES, Account
from safeguard.audit.report.curves import Span, Stretches, Trace, coarse
from safeguard.audit.report.summary import summarize
from safeguard.audit.report.svg import Frame, ticks
from safeguard.audit.timeline import Moment
from safeguard.core.enums import Cause, Enforcement, FilterStatus, Level, Mode, RecordKind
from safeguard.core.errors import JournalError, MissingExtraError
from safeguard.core.types import Vector, Verdict
from safeguard.replay import Loss, ReplayReport
from safeguard.replay_compare import Deviation
from tests.unit import audit_edit
from tests.unit.audit_runs import (
    PERIOD,
    append_tick,
    decision,
    demo_run,
    episode_open,
    observation,
    run_open,
    small_run,
    started,
)

VOID = {"meta", "br", "path", "rect", "input"}


class Outline(HTMLParser):
    """Checks that every element is closed in order, and collects attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember the element."""
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID or tag == "rect":
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that closes itself."""
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        """The innermost open element is the one that closes."""
        if tag != "path":
            assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.text.append(data)


def outline(page: Path) -> Outline:
    """The parsed page, which must be well-formed."""
    parsed = Outline()
    parsed.feed(page.read_text(encoding="utf-8"))
    assert parsed.stack == []
    return parsed


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run like the demo's with its report."""
    run = demo_run(tmp_path_factory.mktemp("demo"), ticks=120)
    write_report(run, plots=False)
    return run


def test_the_page_is_whole_and_needs_nothing_else(demo: Path) -> None:
    """The page is well-formed and refers to nothing outside itself."""
    parsed = outline(demo / "report.html")
    links = [value for _, name, value in parsed.attributes if name in ("href", "src", "action")]
    ids = {value for _, name, value in parsed.attributes if name == "id"}
    assert links
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert not re.search(r"https?:|url\(|@import", (demo / "report.html").read_text())


def test_the_same_run_gives_the_same_page(demo: Path) -> None:
    """A report holds nothing but what the journal says."""
    before = (demo / "report.html").read_bytes()
    write_report(demo, plots=False)
    assert (demo / "report.html").read_bytes() == before


def test_the_page_says_what_was_violated(demo: Path) -> None:
    """Header cards count the episodes with violations, apart for shield on and off."""
    text = (demo / "report.html").read_text()
    assert '<h2>Shield on</h2><p class="verdict">no violations</p>' in text
    assert '<h2>Shield off</h2><p class="verdict">3 of 7 violated</p>' in text
    assert '<td class="n bad">412<br><small>0.31 rad</small></td>' in text


def test_faulted_shielded_episodes_are_open(demo: Path) -> None:
    """The sections that a reader looks for first are unfolded, the others are not."""
    opened = re.findall(r'<details id="episode-(\d+)" open>', (demo / "report.html").read_text())
    assert opened == ["3", "5", "7", "9", "11", "13"]


def test_a_joint_beyond_its_limit_is_called_out(demo: Path) -> None:
    """The unshielded run into the limit is marked at that joint, the shielded one is not."""
    sections = (demo / "report.html").read_text().split("<details id=")
    marked = [at for at, section in enumerate(sections[1:]) if "beyond its limit" in section]
    assert marked == [2]
    assert "panda_joint2 <b" in sections[3]


LOSS = Loss(7, 9, "no room", 0, 5, 12)
DEVIATION = Deviation("decision.filter.torque", 3, 1e-9, 2, 0.1)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({}, "identical</p><p>4 decisions came out the same, bit for bit."),
        ({"decisions": 0}, "nothing to replay</p><p>0 decisions came out the same."),
        ({"divergence": 1}, "diverged</p><p>4 decisions came out the same, the next one did not; safeguard audit"),
        ({"losses": (LOSS,)}, f"incomplete</p><p>4 decisions came out the same; {LOSS}."),
        ({"losses": (LOSS,) * 3}, f"incomplete</p><p>4 decisions came out the same; {LOSS}; and 2 more losses."),
        ({"deviations": (DEVIATION,)}, "within tolerance</p><p>4 decisions came out the same."),
    ],
)
def test_the_replay_verdict_is_shown(tmp_path: Path, found: dict[str, Any], says: str) -> None:
    """What a replay found stands in the header; what could not be recomputed is neither identical nor diverged."""
    report = replace(ReplayReport(4, 1, None), **found)
    page = write_report(small_run(tmp_path), replay=report, plots=False)
    assert f'<h2>Replay</h2><p class="verdict">{says}' in page.read_text()


def test_a_damaged_journal_is_reported_as_such(tmp_path: Path) -> None:
    """A report of an altered run says so first, and shows only the records that are proved."""
    contents = audit_edit.contents(small_run(tmp_path))
    audit_edit.put_contents(tmp_path, [*contents[:7], *contents[8:]])  # 6 records and a header before it
    text = write_report(tmp_path, plots=False).read_text()
    assert '<p class="verdict">altered</p><p>6 records proved.' in text
    assert "2 ticks" in text


def test_nothing_to_trust_is_an_error(tmp_path: Path) -> None:
    """A journal whose first record is damaged has no report."""
    audit_edit.put(tmp_path, b"x" + audit_edit.raw(small_run(tmp_path)))
    with pytest.raises(JournalError, match="no record can be trusted"):
        write_report(tmp_path, plots=False)
    assert not (tmp_path / "report.html").exists()


def test_what_the_run_calls_itself_is_escaped(tmp_path: Path) -> None:
    """Text from a journal is text on the page, never markup."""
    evil = '<script>alert("x")</script>'
    with started(tmp_path, run_open(config={"assumptions": [evil]}, run_id=evil)) as journal:
        fault: JsonObject = {"id": evil, "kind": evil}
        opened = {**episode_open(0, Enforcement.FULL, evil, [fault]), "task": evil, "policy": evil}
        journal.append(RecordKind.EPISODE_OPEN, opened)
        human: JsonObject = {"operator": evil, "reason": evil, "action": "stop", "simulated": False}
        journal.append(RecordKind.HUMAN, human)
        append_tick(journal, 0, observation(0), decision(0, mode=Mode.HOLD))
        outcome: JsonObject = {evil: evil, "list": [evil], "counted": {"count": 1, "worst": 1, "unit": evil}}
        journal.append(RecordKind.EPISODE_CLOSE, {"episode": 0, "outcome": outcome})
    page = write_report(tmp_path, plots=False)
    outline(page)
    assert page.read_text().count("<script") == 1


def test_a_run_without_limits_or_outcomes_has_a_page(tmp_path: Path) -> None:
    """What a run did not record is said to be missing."""
    with started(tmp_path, run_open(limits=None, config=None)) as journal:
        journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.MONITOR_ONLY, "bare"))
        append_tick(journal, 0, observation(0, np.zeros((2, 2))), decision(0))
    text = write_report(tmp_path, plots=False).read_text()
    assert "The run recorded no limits." in text
    assert "No episode was closed with an outcome." in text
    assert "monitor only" in text


def test_a_run_that_only_watched_says_so(tmp_path: Path) -> None:
    """A card, a badge and the heading of the table say that nothing of it reached the drives."""
    with started(tmp_path) as journal:
        for episode, enforcement in enumerate((Enforcement.MONITOR_ONLY, Enforcement.OFF)):
            journal.append(RecordKind.EPISODE_OPEN, episode_open(episode, enforcement, "s"))
            for tick, status in enumerate((FilterStatus.ADMISSIBLE, FilterStatus.CORRECTED)):
                append_tick(journal, tick, observation(tick), decision(tick, episode=episode, status=status))
            journal.append(RecordKind.EPISODE_CLOSE, {"episode": episode, "outcome": {"contact pairs": 0}})
    text = write_report(tmp_path, plots=False).read_text()
    assert '<h2>Monitor only</h2><p class="verdict">would have acted in 1 of 2</p>' not in text
    assert '<h2>Monitor only</h2><p class="verdict">would have acted in 1 of 1</p>' in text
    assert '<h2>Shield off</h2><p class="verdict">no violations</p><p>0 of 1 episodes' in text
    watched, bare = text.split("<details id=")[1:3]
    assert "1 would-be intervention" in watched
    assert "none of it reached the drives" in watched
    assert "reached the drives" not in bare


def test_a_run_in_which_the_shield_enforced_has_no_such_card(demo: Path) -> None:
    """Only a run that watched speaks of what would have been done."""
    assert "Monitor only" not in (demo / "report.html").read_text()


def test_interventions_are_grouped(tmp_path: Path) -> None:
    """Consecutive ticks with the same status, mode and causes are one row with the worst margins."""
    with started(tmp_path) as journal:
        journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.FULL, "s"))
        late = (Cause.POLICY_LATE,)
        story = [
            decision(0),
            decision(1, status=FilterStatus.CORRECTED),
            decision(2, status=FilterStatus.CORRECTED),
            decision(3, status=FilterStatus.BACKUP, causes=late),
            decision(4),
            decision(5, status=FilterStatus.BACKUP, causes=late, mode=Mode.HOLD),
        ]
        for tick, outcome in enumerate(story):
            append_tick(journal, tick, observation(tick), outcome)
    rows = [row for _, row in summarize(tmp_path).interventions]
    assert [(row.start, row.end, row.ticks, row.status.value) for row in rows] == [
        (0.002, 0.004, 2, "corrected"),
        (0.006, 0.006, 1, "backup"),
        (0.01, 0.01, 1, "backup"),
    ]
    assert list(rows[0].active) == ["position_upper:panda_joint2", "clearance:panda_link3|panda_link7"]
    assert rows[0].margins == {"position": 0.4, "velocity": 1.1, "torque": 30.0, "clearance": 0.12}
    assert rows[1].reason == "deadline: no chunk for 60 ms; rows row.policy_late"


def test_curves_have_a_row_per_tick(tmp_path: Path) -> None:
    """Positions keep their place in time where a measurement is missing or misshapen."""
    with started(tmp_path) as journal:
        journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.FULL, "s"))
        for tick, q in enumerate([np.zeros(7), np.zeros(3), np.full(7, np.nan), np.ones(7)]):
            append_tick(journal, tick, observation(tick, q), decision(tick))
    ((_, curves),) = summarize(tmp_path).drawn
    for trace in curves.joints:
        t, y = trace.points()
        assert t.tolist() == [0.0, PERIOD / 1e9, 2 * PERIOD / 1e9, 3 * PERIOD / 1e9]
        assert np.isfinite(y).tolist() == [True, False, False, True]
    assert len(curves.joints) == 7
    assert curves.mode_spans() == [Span(0.0, 0.006, "NOMINAL")]


CURVES = hnp.arrays(np.float64, st.integers(1, 3000), elements=st.floats(-1e6, 1e6) | st.just(float("nan")))


@given(CURVES, st.integers(1, 120))
def test_a_trace_keeps_peaks_and_gaps(y: Vector, half: int) -> None:
    """However many ticks: a bounded number of true points, in order, with the same extremes, and gaps."""
    trace = Trace(2 * half)
    for tick, value in enumerate(y.tolist()):
        trace.add(float(tick), value)
    t, kept = trace.points()
    assert len(t) == len(kept) <= len(trace) <= 6 * half
    assert (np.diff(t) > 0).all()
    assert np.array_equal(kept, y[t.astype(int)], equal_nan=True)
    assert np.isnan(kept).any() == np.isnan(y).any()
    if not np.isnan(y).all():
        assert (np.nanmin(kept), np.nanmax(kept)) == (np.nanmin(y), np.nanmax(y))
    if len(y) <= 2 * half:
        assert np.array_equal(kept, y, equal_nan=True)


@pytest.mark.parametrize("blocks", [0, 3])
def test_a_trace_has_an_even_number_of_blocks(blocks: int) -> None:
    """Two become one when it is full."""
    with pytest.raises(ValueError, match="an even number"):
        Trace(blocks)


@given(st.lists(st.tuples(st.sampled_from(["", "HOLD", "STOP"]), st.integers(1, 20)), max_size=30))
def test_stretches_are_those_of_the_ticks(lengths: list[tuple[str, int]]) -> None:
    """Each lasts until the next begins, the last to the last tick; ticks without a label are in none."""
    labels = [label for label, length in lengths for _ in range(length)]
    heard = Stretches()
    for tick, label in enumerate(labels):
        heard.add(float(tick), label)
    spans = heard.spans()
    for tick, label in enumerate(labels):
        around = [span.label for span in spans if span.start <= tick < max(span.end, span.start + 0.5)]
        assert around == ([label] if label and tick < len(labels) - 1 else around)
    assert [span.start for span in spans] == [
        at for at, label in enumerate(labels) if label and (at == 0 or labels[at - 1] != label)
    ]


def test_flapping_stretches_are_bounded() -> None:
    """Of very many stretches those stay that an eye could tell apart, and a single one of another label does."""
    heard = Stretches()
    for tick in range(100_000):
        heard.add(tick * 0.005, "ESTOP" if tick == 5000 else ("HOLD", "NOMINAL")[tick % 2])
    spans = heard.spans()
    assert len(spans) <= 4000
    assert Span(25.0, 25.005, "ESTOP") in spans
    assert {span.label for span in coarse(spans, 500.0)} == {"HOLD", "NOMINAL", "ESTOP"}


def test_the_size_of_a_summary_does_not_grow_with_the_run(tmp_path: Path) -> None:
    """Ten times as many flapping decisions keep no more points, spans, interventions or drawn episodes."""
    sizes = []
    for name, length in (("short", 900), ("long", 9000)):
        with started(tmp_path / name) as journal:
            journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.FULL, "s"))
            for tick in range(length):
                mode = (Mode.NOMINAL, Mode.HOLD)[tick // 2 % 2]
                append_tick(journal, tick, observation(tick), decision(tick, mode=mode, effort=0.1 * (tick % 7)))
        run = summarize(tmp_path / name)
        ((episode, curves),) = run.drawn
        traces = [*curves.joints, curves.clearance, *(one.score for one in curves.monitors.values())]
        sizes.append((sum(map(len, traces)), len(curves.mode_spans()) <= 4000, len(run.interventions) <= 600))
        assert (episode.ticks, episode.acted) == (length, length // 4)
    assert sizes[1][0] <= 2 * sizes[0][0]
    assert sizes[1][1:] == (True, True)


def test_many_episodes_draw_those_with_most_to_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes with a fault or interventions are drawn before others, of equal ones the first."""
    monkeypatch.setattr(summary, "DRAWN", 3)
    with started(tmp_path) as journal:
        for number in range(8):
            fault: JsonObject = {"id": "f", "kind": "spike"}
            opened = episode_open(number, Enforcement.FULL, "s", [fault] if number == 5 else [])
            journal.append(RecordKind.EPISODE_OPEN, opened)
            mode = Mode.HOLD if number == 4 else Mode.NOMINAL
            append_tick(journal, 0, observation(0), decision(0, episode=number, mode=mode))
            journal.append(RecordKind.EPISODE_CLOSE, {"episode": number, "outcome": {}})
    run = summarize(tmp_path)
    assert [episode.opened.episode for episode, _ in run.drawn] == [0, 4, 5]
    assert len(run.episodes) == 8
    text = write_report(tmp_path, plots=False).read_text()
    assert "5 episodes more are not drawn here." in text


def placed(episode: int, body: AnyBody, kind: RecordKind, seq: int) -> Moment:
    """A record of the first tick of an episode."""
    return Moment(Record(kind, body.version, seq, 0, 0, body, {}, ""), 0, 0, 0.0, episode)


def test_thousands_of_episodes_are_summed_up_in_bounded_memory(tmp_path: Path) -> None:
    """Every one counts; those with most to see are kept: a violation under the shield, a fault, interventions."""
    records = [record.body for record in read_run(small_run(tmp_path, 1))]
    (opened,) = [body for body in records if isinstance(body, EpisodeOpen)]
    (tick,) = [body for body in records if isinstance(body, DecisionRecord)]
    clean = opened.model_copy(update={"faults": []})
    stop = tick.decision.filter.model_copy(update={"status": FilterStatus.BACKUP})
    hold = tick.model_copy(update={"decision": tick.decision.model_copy(update={"mode": Mode.HOLD, "filter": stop})})
    bad: dict[str, Any] = {"violations": {"torque": {"count": 1}}}
    found, many = summary._Collector(), 6_000  # pyright: ignore[reportPrivateUsage]
    for number in range(many):
        own = {"episode": number}
        outcome = bad if number == many - 10 else {}
        fault, acts = number == many // 2, number % 10 == 9
        body = (opened if fault else clean).model_copy(update=own)
        found.add(placed(number, body, RecordKind.EPISODE_OPEN, 3 * number))
        found.add(placed(number, hold if acts else tick, RecordKind.DECISION, 3 * number + 1))
        closed = EpisodeClose(episode=number, outcome=outcome)
        found.add(placed(number, closed, RecordKind.EPISODE_CLOSE, 3 * number + 2))
        assert len(found.episodes) <= 2 * summary.EPISODES
        assert sum(one.curves is not None for one in found.episodes) <= summary.DRAWN + 1
    found.finish()
    numbers = [one.opened.episode for one in found.episodes]
    assert numbers == sorted([*(10 * k + 9 for k in range(summary.EPISODES - 2)), many // 2, many - 10])
    drawn = [one.opened.episode for one in found.episodes if one.curves is not None]
    assert drawn == [*numbers[: summary.DRAWN - 2], many // 2, many - 10]
    total = found.totals[Enforcement.FULL]
    assert total == found.total
    assert (total.episodes, total.ticks, total.ticked) == (many, many, many)
    assert (total.acted, total.asked, total.stops) == (many // 10, many // 10, many // 10)
    assert (total.judged, total.violated, total.faulted, total.worst) == (many, 1, 1, Mode.HOLD)
    assert len(found.interventions) == min(many // 10, summary.KEPT)


def test_names_without_end_are_counted(tmp_path: Path) -> None:
    """Of people, strategies, rows, monitors and gaps a bounded number is kept, and how often the others came."""
    records = [record.body for record in read_run(small_run(tmp_path, 1))]
    found, many = Account(), 10 * NAMES

    def renamed(body: AnyBody, number: int) -> AnyBody:
        match body:
            case EpisodeOpen():
                return body.model_copy(update={"strategy": f"n{number}"})
            case Human():
                return body.model_copy(update={"operator": f"n{number}"})
            case DecisionRecord():
                own = body.decision.verdicts[-1]
                assert isinstance(own, VerdictBody)
                verdicts = [own.model_copy(update={"monitor": f"m{number}"}), "quiet"]
                outcome = body.decision.model_copy(update={"verdicts": verdicts, "reasons": [f"r{number}"]})
                return body.model_copy(update={"decision": outcome})
            case _:
                return Gap(first=number, last=number, count=1, cause="no room")

    kept = [body for body in records if isinstance(body, EpisodeOpen | Human | DecisionRecord | EpisodeClose)]
    for number in range(many):
        for body in kept:
            found.add(placed(0, renamed(body, number), RecordKind.GAP, number).record)
    for known in (found.monitors, found.people, found.strategies, found.reasons):
        assert len(known) == NAMES
    left = many - NAMES
    assert found.unnamed == Counter(monitors=left + 1, people=left, strategies=left, reasons=left)
    assert found.monitors["quiet"].ticks == many
    assert (len(found.gaps), found.more_losses) == (LOSSES, many - LOSSES)


def test_the_page_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes, losses, monitors, rows and people that are not kept are counted where they are missing."""
    monkeypatch.setattr(summary, "EPISODES", 3)
    monkeypatch.setattr(account, "NAMES", 5)
    monkeypatch.setattr(facts, "NAMES", 5)
    monkeypatch.setattr(account, "LOSSES", 1)
    with started(tmp_path) as journal:
        for number in range(20):
            journal.append(RecordKind.EPISODE_OPEN, episode_open(number, Enforcement.FULL, "s"))
            act: JsonObject = {"operator": f"n{number}", "reason": "", "action": "stop", "simulated": False}
            journal.append(RecordKind.HUMAN, act)
            one = decision(0, episode=number)
            one = replace(one, reasons=(f"r{number}",), verdicts=(Verdict(f"m{number}", Level.WARN, 1.0, 0.0),))
            append_tick(journal, 0, observation(0), one)
            if number < 2:
                journal.append(RecordKind.HUMAN, {"x": 2**70})  # has no form: a gap
            journal.append(RecordKind.EPISODE_CLOSE, {"episode": number, "outcome": {"task_success": True}})
    text = write_report(tmp_path, plots=False).read_text()
    assert "· 20 episodes in simulation · 20 decisions" in text
    assert "no violations</p><p>0 of 20 episodes had" in text
    assert text.count("17 episodes more in the journal") == 2  # the table of outcomes, the sections
    assert "17 episodes more are not drawn here" in text
    assert "5 rows are told apart; others came 15 times." in text
    assert "5 monitors are told apart; others came 15 times." in text
    assert "stop by n4: 1; 15 more" in text
    assert "<li>1 more in the journal: <code>safeguard audit show" in text


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_inside(low: float, span: float) -> None:
    """Axis ticks lie inside the range, evenly, and there are two to eleven of them."""
    marks = ticks(low, low + span)
    tolerance = 1e-6 * max(abs(low), span)
    assert 2 <= len(marks) <= 11
    assert low - tolerance <= marks[0]
    assert marks[-1] <= low + span + tolerance


def test_time_maps_to_the_data_area() -> None:
    """The first tick lies at the left edge of the chart, the last one at the right edge."""
    frame = Frame(320.0, 100.0, left=40.0, duration=5.0, right=10.0)
    assert (frame.x(0.0), frame.x(5.0)) == (40.0, 310.0)


def test_pictures_are_drawn(tmp_path: Path) -> None:
    """Each episode with ticks gets a PNG that is named after it."""
    pytest.importorskip("matplotlib")
    write_report(small_run(tmp_path))
    picture = tmp_path / "plots" / "00-torque-spikes-shield.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "plots").iterdir()] == [picture.name]


def test_without_matplotlib_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures need an optional dependency; the error says how to install it, before any work."""

    def find(name: str) -> None:
        assert name == "matplotlib"

    monkeypatch.setattr("safeguard.audit.report.plots.find_spec", find)
    with pytest.raises(MissingExtraError, match=r"safeguard-runtime\[report\]"):
        write_report(small_run(tmp_path))
    assert not (tmp_path / "report.html").exists()
    assert write_report(tmp_path, plots=False).exists()
