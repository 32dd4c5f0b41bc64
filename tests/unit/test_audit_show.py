from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.color import ColorSystem
from rich.console import Console
from typer.testing import CliRunner

from safeguard import cli_audit
from safeguard.audit import open_run, show, timeline
from safeguard.audit.fold import UNTOUCHED, Folder, Intervention
from safeguard.audit.reader import read_run
from safeguard.audit.records.bodies import VerdictBody
from safeguard.audit.records.encode import JsonObject
from safeguard.audit.records.events import NearMiss
from safeguard.audit.records.registry import DecisionRecord, Record
from safeguard.audit.report.summary import summarize
from safeguard.audit.show import Choice, row_json, show_run, text_lines
from safeguard.audit.story import Row, Teller, smallest_of, story
from safeguard.audit.timeline import CutShortError, Moment, moments
from safeguard.core.enums import Cause, Enforcement, FilterStatus, Level, Mode, RecordKind
from safeguard.core.errors import ConfigError, JournalError
from safeguard.core.types import NS_PER_S
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

TICKS = 100
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 14 episodes; the odd ones are shielded."""
    return demo_run(tmp_path_factory.mktemp("demo") / "run", ticks=TICKS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a record of every kind."""
    return small_run(tmp_path_factory.mktemp("small") / "run", ticks=5)


def shown(run: Path, **choice: Any) -> list[Row]:
    """The rows that fit."""
    return list(show_run(run, Choice.named(**choice)))


# --- what is told ----------------------------------------------------------------------------------------


def test_story_of_an_episode(demo: Path) -> None:
    """Faults, modes, causes and interventions in order, each with what matters of it."""
    rows = shown(demo, episode=11)
    told = [(row.what, row.tick, row.detail) for row in rows]

    assert told[0] == ("episode", None, "policy hang, strategy monolithic, policy reach-and-push, seed 7")
    assert ("mode", 0, "BOOT → NOMINAL") in told
    assert ("fault", None, "policy hang acts: policy_hang") in told
    assert ("mode", 31, "NOMINAL → CAUTIOUS by row.monitor_warn; +monitor_warn") in told
    assert ("filter", 31, told[4][2]) == told[4]
    assert told[4][2].startswith("15 ticks to 0.090 s; position_upper:panda_joint2, clearance:panda_link3|panda_link7")
    assert told[5][0] == "mode"
    assert told[5][2].startswith("CAUTIOUS → HOLD by row.policy_late; +policy_late (no chunk for 60 ms); −monitor_warn")
    assert told[-1][0] == "episode"
    assert told[-1][2].startswith("closed: ")


def test_interventions_have_their_count_and_smallest_margin(demo: Path) -> None:
    """The ticks of an intervention are one row, with the smallest clearance of them."""
    (row,) = [row for row in shown(demo, episode=5) if row.what == "filter"]
    inside = [body for body in bodies(demo, 5) if body.decision.filter.status is FilterStatus.CORRECTED]

    assert row.count == len(inside) == 39
    assert row.margins["clearance"] == min(body.decision.filter.margins.clearance for body in inside)
    assert (row.since, row.last) == (0.062, 0.138)
    assert row.smallest is not None
    assert row.smallest.name == "clearance"


def bodies(run: Path, episode: int) -> list[DecisionRecord]:
    """The decisions of one episode."""
    found = (record.body for record in read_run(run))
    return [body for body in found if isinstance(body, DecisionRecord) and body.episode == episode]


def test_people_and_faults_are_told(small: Path) -> None:
    """Who did what, whether a script stood in, and what a fault was."""
    told = {row.what: row.detail for row in shown(small)}

    assert told["person"] == "acknowledge by script (simulated): start"
    assert [row.detail for row in shown(small, kinds=["fault_injected", "fault_cleared"])] == [
        "spike acts: size 20",
        "spike cleared",
    ]
    assert told["run"].startswith("closed: ")


def test_an_episode_without_the_shield_stands_out(demo: Path) -> None:
    """Its first row says so and is a warning."""
    first = shown(demo, episode=0)[0]

    assert first.detail.endswith("enforcement off")
    assert first.grade == "warn"


def test_all_shows_every_decision(demo: Path) -> None:
    """A row for each decision, none folded."""
    rows = list(show_run(demo, Choice.named(kinds=["decision"]), every=True))

    assert len(rows) == 14 * TICKS
    assert {row.count for row in rows} == {1}
    assert [row.tick for row in rows[:TICKS]] == list(range(TICKS))


def test_a_margin_that_is_no_number_comes_first() -> None:
    """NaN is the worst that a margin can be; otherwise the one that is smallest against its scale."""
    scales = {"position": 1.0, "velocity": 2.0, "torque": 10.0, "clearance": 0.1}
    good = {"position": 0.5, "velocity": 0.5, "torque": 4.0, "clearance": 0.04}
    smallest = smallest_of(good, scales)
    broken = smallest_of({**good, "torque": float("nan")}, scales)

    assert smallest is not None
    assert (smallest.name, smallest.value, smallest.unit) == ("velocity", 0.5, "rad/s")
    assert broken is not None
    assert broken.name == "torque"


def test_what_a_monitor_saw_is_told_once(small: Path) -> None:
    """A warning that is no cause stands with the intervention; one that is a cause stands with the cause."""
    seen = VerdictBody(
        monitor="drift", level=Level.WARN, score=1.0, threshold=0.5, p_value=None, cause=None, detail="0.3 off"
    )
    late = VerdictBody(
        monitor="deadline",
        level=Level.DEGRADE,
        score=1.0,
        threshold=0.5,
        p_value=None,
        cause=Cause.POLICY_LATE,
        detail="60 ms",
    )
    rows = list(story(invented(small, [(Mode.NOMINAL, (Cause.POLICY_LATE,), FilterStatus.REFUSED)], [seen, late])))

    assert [(row.what, row.grade) for row in rows] == [("mode", "error"), ("filter", "error")]
    assert rows[0].detail == "BOOT → NOMINAL; +policy_late (60 ms)"
    assert rows[1].detail == "drift: 0.3 off"


def invented(
    run: Path, ticks: list[tuple[Mode, tuple[Cause, ...], FilterStatus]], verdicts: list[VerdictBody] | None = None
) -> Iterator[Moment]:
    """Moments of an episode with these modes, causes and statuses, made of one decision of a run."""
    moment = next(moment for moment in moments(run) if moment.record.kind is RecordKind.DECISION)
    body = moment.record.body
    assert isinstance(body, DecisionRecord)
    for tick, (mode, causes, status) in enumerate(ticks):
        result = body.decision.filter.model_copy(update={"status": status, "active": []})
        told = {"mode": mode, "causes": list(causes), "filter": result, "verdicts": verdicts or [], "reasons": []}
        new = body.model_copy(update={"tick": tick, "decision": body.decision.model_copy(update=told)})
        record = replace(moment.record, seq=tick, tick=tick, body=new)
        yield Moment(record, tick * PERIOD, 0, tick * PERIOD / NS_PER_S, 0)


def test_ranges_of_episodes_are_bounded() -> None:
    """Of episodes with a hole behind each the first are kept, and the one that is asked for."""
    kept: list[range] = []
    for number in range(0, 1000, 2):
        show._count(kept, number, 900)  # pyright: ignore[reportPrivateUsage]
    assert kept == [*(range(k, k + 1) for k in range(0, 40, 2)), range(900, 901)]


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ([], "none"),
        ([4], "4"),
        ([0, 1, 2, 3], "0 to 3"),
        ([0, 1, 5, 7, 8], "0 to 1, 5, 7 to 8"),
        (range(0, 2000, 2), ", ".join(map(str, range(0, 40, 2))) + ", …"),
    ],
)
def test_an_episode_that_is_not_there_is_an_error_with_those_that_are(
    tmp_path: Path, numbers: list[int], says: str
) -> None:
    """The message is short however many there are; the last of very many is found."""
    with started(tmp_path) as journal:
        for number in numbers:
            journal.append(RecordKind.EPISODE_OPEN, episode_open(number, Enforcement.FULL, "s"))
    with pytest.raises(ConfigError, match=f"no such episode; it has: {says}$"):
        list(show_run(tmp_path, Choice(episode=10_001)))
    if numbers:
        assert {row.episode for row in show_run(tmp_path, Choice(episode=numbers[-1]))} == {numbers[-1]}


def test_an_episode_whose_begin_was_lost_is_not_the_one_before(tmp_path: Path) -> None:
    """Its decisions say which one they are of: rows have that number and its own time, the report leaves them out."""
    with started(tmp_path) as journal:
        journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.FULL, "s"))
        append_tick(journal, 0, observation(0), decision(0))
        journal.append(RecordKind.EPISODE_OPEN, {"x": 2**70})  # has no form
        for tick in (50, 51):
            append_tick(journal, tick, observation(tick), decision(tick, episode=1, mode=Mode.HOLD))
        journal.append(RecordKind.EPISODE_CLOSE, {"episode": 1, "outcome": {"violations": 1}})
    (row,) = shown(tmp_path, episode=1, modes=["HOLD"], kinds=["decision"])
    assert (row.tick, row.since) == (50, 0.0)
    assert {row.tick for row in shown(tmp_path, episode=0) if row.kind is RecordKind.DECISION} == {0}
    run = summarize(tmp_path)
    ((episode, outcome),) = [(one, one.outcome) for one in run.episodes]
    assert (episode.ticks, episode.acted, outcome) == (1, 0, None)
    assert (run.total.ticks, run.account.outside, run.account.decisions) == (1, 2, 3)


def test_events_of_an_endless_intervention_do_not_pile_up(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An intervention with very many events in it is told in parts: nothing is left out, all stands in order."""
    monkeypatch.setattr("safeguard.audit.story.HELD", 30)
    figures: dict[str, Any] = {"limit": "position", "at": "j", "value": 0.1, "least": 0.2, "unit": "rad"}
    near = NearMiss(episode=0, enforcement=Enforcement.FULL, phase="begin", **figures)
    teller, rows, many = Teller(), list[Row](), 200
    for moment in invented(small, [(Mode.HOLD, (Cause.POLICY_LATE,), FilterStatus.BACKUP)] * many):
        record = replace(moment.record, seq=2 * moment.record.seq)
        rows += teller.hear(replace(moment, record=record))
        event = replace(record, seq=record.seq + 1, kind=RecordKind.NEAR_MISS, body=near)
        rows += teller.hear(replace(moment, record=event))
        assert len(teller._held) < 30  # pyright: ignore[reportPrivateUsage]
    rows += teller.fold()
    parts = [row for row in rows if row.what == "filter"]
    assert [row.count for row in parts] == [30] * 6 + [20]
    assert [row.seq for row in rows if row.kind is RecordKind.NEAR_MISS] == [2 * k + 1 for k in range(many)]
    assert [row.seq for row in rows] == sorted(row.seq for row in rows)


def test_a_correction_that_pauses_is_one_intervention(small: Path) -> None:
    """Up to 0.1 s apart it is one; longer apart it is two, and what lies between is a third."""
    corrected = (Mode.CAUTIOUS, (Cause.MONITOR_WARN,), FilterStatus.CORRECTED)
    between = (Mode.CAUTIOUS, (Cause.MONITOR_WARN,), FilterStatus.ADMISSIBLE)

    def folded(pause: int) -> list[tuple[str, int, float, float]]:
        folder, over = Folder(), list[Intervention]()
        for moment in invented(small, [corrected, corrected, *[between] * pause, corrected]):
            assert isinstance(moment.record.body, DecisionRecord)
            over += folder.hear(moment, moment.record.body)
        over += folder.end()
        return [(one.status.value, one.ticks, one.start, one.end) for one in over]

    assert folded(49) == [("corrected", 3, 0.0, 0.102)]
    assert folded(60) == [
        ("corrected", 2, 0.0, 0.002),
        ("admissible", 60, 0.004, 0.122),
        ("corrected", 1, 0.124, 0.124),
    ]


SOME = st.tuples(
    st.sampled_from([Mode.NOMINAL, Mode.CAUTIOUS, Mode.HOLD]),
    st.lists(st.sampled_from([Cause.POLICY_LATE, Cause.MONITOR_WARN, Cause.STATE_STALE]), unique=True).map(tuple),
    st.sampled_from(list(FilterStatus)),
)
STRETCHES = st.lists(st.tuples(SOME, st.integers(1, 60)), max_size=8)


@given(stretches=STRETCHES)
def test_story_loses_nothing(small: Path, stretches: list[tuple[Any, int]]) -> None:
    """Modes and causes of every tick, and the number of ticks that were not as proposed, follow from the rows."""
    ticks = [tick for tick, length in stretches for _ in range(length)]
    rows = list(story(invented(small, ticks)))
    changes = {row.tick: row for row in rows if row.what in ("mode", "cause")}
    mode, causes = Mode.BOOT, set[str]()
    for at, (now, active, _) in enumerate(ticks):
        row = changes.get(at)
        if row is not None:
            assert row.mode is not None
            mode, causes = row.mode, causes ^ set(row.changed)
        assert mode is now
        assert causes == {cause.value for cause in active}
    folded = sum(row.count for row in rows if row.what == "filter")
    kept = {tick for row in rows if row.what == "filter" for tick in [row.tick]}
    single = sum(1 for tick, row in changes.items() if row.status not in UNTOUCHED and tick not in kept)

    assert [row.at for row in rows] == sorted(row.at for row in rows)
    assert folded <= sum(1 for *_, status in ticks if status not in UNTOUCHED) <= folded + single


# --- filters ---------------------------------------------------------------------------------------------


def test_filters_choose_rows(demo: Path) -> None:
    """Each filter keeps exactly the rows that it names."""
    everything = shown(demo)

    assert shown(demo, modes=["hold"]) == [row for row in everything if row.mode is Mode.HOLD]
    assert shown(demo, modes=["hold", "CAUTIOUS"]) == [
        row for row in everything if row.mode in (Mode.HOLD, Mode.CAUTIOUS)
    ]
    assert shown(demo, kinds=["human"]) == []
    assert {row.kind for row in shown(demo, kinds=["fault_injected"])} == {RecordKind.FAULT_INJECTED}
    assert {row.episode for row in shown(demo, episode=3)} == {3}
    late = shown(demo, causes=["policy_late"])
    assert late == [row for row in everything if "policy_late" in (*row.causes, *row.changed)]
    assert any("policy_late" not in row.causes for row in late)  # where it goes


def test_time_chooses_what_overlaps(demo: Path) -> None:
    """An intervention that lasts into the stretch is part of it; rows outside episodes are not."""
    rows = shown(demo, start=0.1, end=0.12, episode=5)

    assert [row.what for row in rows] == ["filter"]
    assert rows[0].since == 0.062
    assert shown(demo, start=100.0) == []


def test_joint_chooses_the_rows_of_its_limits(demo: Path) -> None:
    """Rows where a limit of the joint bound; another joint has none."""
    assert {row.what for row in shown(demo, joint="panda_joint2")} == {"filter", "mode"}
    assert {row.status for row in shown(demo, joint="panda_joint2")} == {FilterStatus.CORRECTED}
    assert shown(demo, joint="panda_joint3") == []


def test_limit_ends_the_reading(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more rows than asked for, and no more records are read than they need."""
    read: list[Record] = []

    def counted(path: Path) -> Iterator[Record]:
        for record in read_run(path):
            read.append(record)
            yield record

    monkeypatch.setattr(timeline, "read_run", counted)

    assert len(list(show_run(demo, limit=3))) == 3
    assert len(read) < TICKS


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        ({"modes": ["HLD"]}, "--mode 'HLD'.*NOMINAL, CAUTIOUS"),
        ({"kinds": ["decisions"]}, "--kind 'decisions'.*run_open"),
        ({"causes": ["late"]}, "--cause 'late'.*policy_late"),
        ({"joint": "elbow"}, "--joint 'elbow'.*panda_joint1"),
        ({"episode": 14}, "--episode 14.*0 to 13"),
        ({"start": 2.0, "end": 1.0}, "--from 2 lies after --to 1"),
    ],
)
def test_a_filter_that_cannot_fit_is_an_error(demo: Path, choice: dict[str, Any], problem: str) -> None:
    """What does not exist is named, with what does."""
    with pytest.raises(ConfigError, match=problem):
        shown(demo, **choice)


# --- how it looks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100, 160, 300])
def test_lines_fit_the_terminal(demo: Path, width: int) -> None:
    """No line is wider than the terminal, and no word of a detail is lost."""
    rows = shown(demo, episode=11)
    lines = list(text_lines(rows, width, ColorSystem.TRUECOLOR))
    plain = [ANSI.sub("", line) for line in lines]

    assert max(map(len, plain)) <= width
    assert plain[0].split() == ["time,", "s", "ep", "tick", "what", "mode", "causes", "filter", "margin", "detail"]
    words = "".join("".join(plain).split())
    assert all(row.what in words for row in rows)
    assert "\x1b[1;36mHOLD" in "".join(lines)


def test_text_without_a_terminal_is_one_line_a_row(demo: Path) -> None:
    """For pipes: no colours, a heading and one whole line for every row."""
    rows = shown(demo, episode=11)
    lines = list(text_lines(rows))

    assert len(lines) == len(rows) + 1
    assert not any("\x1b" in line for line in lines)
    assert all(line.endswith(row.detail) for line, row in zip(lines[1:], rows, strict=True))
    assert list(text_lines([])) == []


def test_row_for_machines_has_everything(demo: Path) -> None:
    """JSON with names instead of numbers for modes, and for numbers that JSON lacks."""
    row = next(row for row in shown(demo) if row.what == "filter")
    data = row_json(replace(row, margins={"torque": float("nan")}))

    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["margins"] == {"torque": "NaN"}
    assert (data["what"], data["mode"], data["count"]) == ("filter", "CAUTIOUS", row.count)


# --- the commands ----------------------------------------------------------------------------------------


def call(*arguments: object) -> Any:
    """What ``safeguard audit`` would do with these arguments."""
    return CliRunner().invoke(cli_audit.commands, [str(argument) for argument in arguments])


def test_show_prints_the_timeline(demo: Path) -> None:
    """The command prints the rows that fit; nothing that fits is said, too."""
    done = call("show", demo, "--episode", 11, "--mode", "HOLD", "--limit", 1)
    nothing = call("show", demo, "--mode", "ESTOP")

    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 2
    assert "CAUTIOUS → HOLD" in done.stdout
    assert (nothing.exit_code, nothing.stdout, nothing.stderr.strip()) == (0, "", "no row fits the filters")


def test_show_prints_json_lines(demo: Path) -> None:
    """One object a line."""
    done = call("show", demo, "--json", "--kind", "episode_open")

    assert [json.loads(line)["episode"] for line in done.stdout.splitlines()] == list(range(14))


@pytest.mark.parametrize("pager", ["cat", "head -n 1", "no-such-pager", ""])
def test_show_pages_on_a_terminal(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], pager: str
) -> None:
    """A terminal gets colours through its pager; one that ends early or is missing does no harm."""
    monkeypatch.setenv("PAGER", pager)
    monkeypatch.setattr(cli_audit, "console", Console(force_terminal=True, width=120, color_system="truecolor"))
    cli_audit.audit_show(demo, every=True)
    out = capfd.readouterr().out

    assert "time, s" in out
    assert "\x1b[1m" in out
    assert (len(out.splitlines()) == 1) is (pager == "head -n 1")


def damaged(path: Path) -> Iterator[Record]:
    """A run with a damage after its third record."""
    yield from islice(read_run(path), 3)
    raise JournalError("record 3 was changed")


def test_a_damaged_run_is_shown_up_to_the_damage(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows before the damage, then the damage and exit code 3, from both commands."""
    monkeypatch.setattr(timeline, "read_run", damaged)
    show, export = call("show", small), call("export", small, "--format", "jsonl", "--out", tmp_path / "out", "--json")

    assert (show.exit_code, export.exit_code) == (3, 3)
    assert len(show.stdout.splitlines()) == 4
    assert "damaged: record 3 was changed; the 3 records before it were read" in show.stderr
    assert json.loads(export.stdout)["damage"].startswith("record 3 was changed")
    assert len((tmp_path / "out").read_bytes().splitlines()) == 3


def test_export_says_what_it_wrote(small: Path, tmp_path: Path) -> None:
    """Where, in which format, how many records."""
    records = sum(1 for _ in read_run(small))
    done = call("export", small, "--format", "jsonl", "--out", tmp_path / "a.jsonl", "--json")
    said = call("export", small, "--format", "jsonl", "--out", tmp_path / "b.jsonl")

    assert done.exit_code == said.exit_code == 0
    assert json.loads(done.stdout) == {
        "out": str(tmp_path / "a.jsonl"),
        "format": "jsonl",
        "records": records,
        "damage": None,
    }
    assert said.stdout == f"{tmp_path / 'b.jsonl'}: {records} records\n"


@pytest.mark.parametrize("command", [["show"], ["export", "--format", "jsonl"]])
def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path, command: list[str]) -> None:
    """The commands name what they were given; ``main`` turns this into exit code 2."""
    done = call(*command, tmp_path / "nothing")

    assert isinstance(done.exception, ConfigError | JournalError)
    assert "nothing" in str(done.exception)
    assert not (tmp_path / "nothing").exists()


def test_a_run_that_goes_on_is_shown(tmp_path: Path) -> None:
    """A journal that is still written, or was never closed, is told as far as it is there."""
    with open_run(tmp_path / "run", run_open()) as journal:
        opened: JsonObject = episode_open(0, Enforcement.FULL, "open")
        journal.append(RecordKind.EPISODE_OPEN, opened)
        append_tick(journal, 0, observation(0), decision(0))

    assert [row.what for row in shown(tmp_path / "run")] == ["run", "episode", "mode", "run"]


def test_cut_short_says_how_much(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the number of records before the damage."""
    monkeypatch.setattr(timeline, "read_run", damaged)
    with pytest.raises(CutShortError) as caught:
        list(show_run(small))
    assert caught.value.records == 3
