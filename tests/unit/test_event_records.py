"""Records of events in journals, and for those who read them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from safeguard.audit import AuditConfig, open_run, read_run, verify_run
from safeguard.audit.event_words import ECHOES, EVENTS
from safeguard.audit.journal.journal import Journal
from safeguard.audit.journal.mirror import Narrator
from safeguard.audit.journal.settings import EventsConfig
from safeguard.audit.records.encode import JsonObject
from safeguard.audit.records.events import ModeChange
from safeguard.audit.records.registry import DecisionRecord, EpisodeOpen, Record, json_schemas
from safeguard.audit.show import Choice, show_run, text_lines
from safeguard.core.enums import Cause, Mode, RecordKind
from safeguard.core.types import Decision, Observation
from safeguard.events import Events
from safeguard.replay import replay_run
from safeguard.shield import Shield
from safeguard.spans import Event
from tests.laws.lab import Lab, beyond, near, panda
from tests.unit.audit_runs import (
    PERIOD,
    append_tick,
    decision,
    observation,
    started,
)
from tests.unit.audit_runs import run_open as run_open_body
from tests.unit.events_support import (
    NARROW,
    STOP,
    Recorder,
    at,
    held,
    made,
)
from tests.unit.export_support import exported, mcap_counts

# -- in a journal ---------------------------------------------------------------------------------------


def check_follow(run: Path) -> Counter[RecordKind]:
    """Events stand behind their decision, and those of modes are what the decisions of the journal say."""
    found, mode, decided = Counter[RecordKind](), (Mode.BOOT, ""), None
    owed: list[tuple[Any, Any]] = []
    for record in read_run(run):
        body = record.body
        found[record.kind] += 1
        if isinstance(body, EpisodeOpen):
            mode = body.mode, ""
        if isinstance(body, DecisionRecord):
            assert not owed, "a change of mode without its record"
            decided, now = record, (body.decision.mode, body.decision.configuration)
            owed, mode = [(mode, now)] if now != mode else [], now
        elif record.kind in EVENTS:
            assert decided is not None
            assert (record.tick, record.t) == (decided.tick, decided.t), "an event without its decision"
            assert record.seq > decided.seq
        if isinstance(body, ModeChange):
            told = (body.before, body.configuration_before), (body.after, body.configuration_after)
            assert owed == [told], "a record of a change that the decisions do not make"
            owed = []
    assert not owed, "a change of mode without its record"
    return found


def eventful(run: Path | AuditConfig) -> None:
    """A start, a stop by a person and a second episode of a real shield."""
    lab = Lab(beyond, audit=run).start(200)
    lab.shield.stop(operator="Ada", reason="test")
    lab.run(200)
    lab.shield.begin_episode("second")
    lab.run(3)
    lab.shield.close()


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of an eventful shield."""
    run = tmp_path_factory.mktemp("events") / "run"
    eventful(AuditConfig(run=run, writer="inline", durability="os", events=EventsConfig(health_s=0.3)))
    return run


def test_a_shield_places_events_behind_their_decisions(lived: Path) -> None:
    """Modes, causes, the stop with its standstill and health are told; verifier and replay take them as they are."""
    found = check_follow(lived)
    assert found[RecordKind.MODE_CHANGE] == 3
    assert found[RecordKind.FALLBACK] == 3
    assert found[RecordKind.HEALTH] == 3
    assert verify_run(lived).sound
    assert replay_run(lived).identical


@pytest.mark.parametrize("name", ["tell", "after"])
def test_a_shield_that_tells_nothing_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the call in the tick, or with events that never come, the check above fails."""

    def nothing(self: Events, one: Decision, seen: Observation, now: int) -> tuple[Event, ...]:
        return ()

    monkeypatch.setattr(Events, name, nothing)
    eventful(tmp_path / "run")
    with pytest.raises(AssertionError, match="without its record"):
        check_follow(tmp_path / "run")


def test_the_end_of_an_episode_is_told_before_it_is_closed(tmp_path: Path) -> None:
    """What is open ends before ``episode_close``, once."""
    lab = Lab(near, audit=tmp_path).start(20)
    lab.shield.record(RecordKind.EPISODE_CLOSE, {"outcome": {}})
    lab.shield.close()
    kinds = [record.kind for record in read_run(tmp_path)]
    assert kinds[-3:] == [RecordKind.FAULT_DETECTED, RecordKind.EPISODE_CLOSE, RecordKind.RUN_CLOSE]
    assert kinds.count(RecordKind.FAULT_DETECTED) == 2


def test_ticks_behind_a_closed_episode_change_no_mode(tmp_path: Path) -> None:
    """Who goes on after ``episode_close`` is in the mode of before: no change is made up."""
    lab = Lab(near, audit=tmp_path).start(20)
    lab.shield.record(RecordKind.EPISODE_CLOSE, {"outcome": {}})
    lab.run(3)
    lab.shield.close()
    assert check_follow(tmp_path)[RecordKind.MODE_CHANGE] == 2


def test_a_lost_event_is_a_gap_and_a_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that cannot be placed is counted as missing, and the next tick has AUDIT_FAILED."""
    lab = Lab(near, audit=tmp_path).start(200)
    real, refused = Journal._place, [RecordKind.FAULT_DETECTED]  # pyright: ignore[reportPrivateUsage]

    def place(self: Journal, kind: RecordKind, *rest: Any) -> str:
        if kind in refused:
            refused.clear()
            return "no room"
        return real(self, kind, *rest)

    monkeypatch.setattr(Journal, "_place", place)
    lab.shield.stop(operator="Ada", reason="test")
    assert Cause.AUDIT_FAILED not in lab.tick().causes
    assert Cause.AUDIT_FAILED in lab.tick().causes
    lab.shield.close()
    report = verify_run(tmp_path)
    assert (report.verdict, report.lost) == ("gap", 1)


def test_without_a_journal_nothing_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shield that records nothing makes no events."""
    monkeypatch.setattr("safeguard.shield.Events", None)
    assert Lab(near).start(5).decisions[-1].mode is Mode.CAUTIOUS


def test_a_borrowed_journal_brings_its_thresholds(tmp_path: Path) -> None:
    """Settings of the run count also where the journal was opened first."""
    config = AuditConfig(run=tmp_path / "run", writer="inline", durability="os", events=EventsConfig(health_s=0.01))
    with open_run(config, run_open_body()) as journal:
        assert journal.events.health_s == 0.01
        assert journal.health()["placed"] == 1
    with open_run(AuditConfig(run=tmp_path / "far"), run_open_body()) as journal:
        state = journal.health()
        assert (state["ring_bytes"], state["problem"]) == (8 << 20, "")
        assert isinstance(state["writer_beats"], int)


# -- for readers ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an event of every kind."""
    run = tmp_path_factory.mktemp("every") / "run"
    recorder = Recorder()
    steps = [*held(2), *held(3, 2, mode=Mode.HOLD, causes=(Cause.POLICY_LATE,), source=STOP, v=0.0, margins=NARROW)]
    steps += [at(5, q=3.0), *held(40, 6)]
    tell = made(recorder)
    with started(run) as journal:
        opened: JsonObject = {"episode": 0, "task": "t", "enforcement": "full", "strategy": "monolithic"}
        journal.append(RecordKind.EPISODE_OPEN, opened)
        for one, seen in steps:
            append_tick(journal, one.tick, seen, one)
            tell.tell(one, seen, one.tick * PERIOD)
            for (kind, body), tick, t in recorder.placed:
                journal.append(kind, body, tick=tick, t=t)
            recorder.placed.clear()
        changes: list[Any] = [{"name": "safeguard", "old": "0.1", "new": None}]
        for kind in (RecordKind.SOFTWARE_CHANGE, RecordKind.CONFIG_INTERVENTION):
            journal.append(kind, {"previous": "run-0", "changes": changes})
    return run


CHANGES = (RecordKind.SOFTWARE_CHANGE, RecordKind.CONFIG_INTERVENTION)


def test_every_kind_is_in_the_run_and_reads_back(every: Path) -> None:
    """The run that readers are tried on has all kinds of events, and is sound."""
    kinds = Counter(record.kind for record in read_run(every))
    assert all(kinds[kind] for kind in (*EVENTS, *CHANGES))
    assert verify_run(every).sound


def test_the_timeline_has_a_line_for_each(every: Path) -> None:
    """Each event that adds to the decisions has a row in its place; those that repeat them are there when asked for."""
    rows = list(show_run(every))
    shown = {row.kind for row in rows}
    assert shown >= {*CHANGES, RecordKind.FALLBACK, RecordKind.NEAR_MISS, RecordKind.VIOLATION}
    assert shown.isdisjoint(ECHOES)
    assert [row.seq for row in rows] == sorted(row.seq for row in rows)
    counts = Counter(record.kind for record in read_run(every))
    for kind in (*EVENTS, *CHANGES):
        asked = list(show_run(every, Choice(kinds=(kind,))))
        assert len(asked) == counts[kind]
        assert len(list(text_lines(asked))) == counts[kind] + 1
        assert all(row.detail for row in asked)


def test_the_timeline_filters_events_by_cause(every: Path) -> None:
    """``--cause`` finds the fault, the change of mode and the fallback that go with it."""
    wanted = (RecordKind.FAULT_DETECTED, RecordKind.MODE_CHANGE, RecordKind.FALLBACK)
    found = show_run(every, Choice(kinds=wanted, causes=("policy_late",)))
    assert {row.kind for row in found} == set(wanted)


def test_words_of_events(every: Path) -> None:
    """What a person reads says what, how much and for how long."""
    told = [row.detail for row in show_run(every, Choice(kinds=(*EVENTS, *CHANGES)))]
    for words in (
        "NOMINAL → HOLD by row.policy_late",
        "begin: policy_late by deadline: no chunk for 60 ms",
        "end: policy_late, for 0.006 s, at worst HOLD",
        "begin: hold in HOLD with policy_late",
        "hold: standstill after 0.000 s",
        "end: hold for 0.006 s, standstill after 0.000 s, the policy moves",
        "near miss begin: position margin 0.0005 of 0.001 rad at panda_joint4",
        "violation end: position 3 rad, 0.1027 beyond 2.897 at panda_joint1, for 0.002 s",
        "software since run run-0: safeguard 0.1 → none",
        "configuration since run run-0: safeguard 0.1 → none",
    ):
        assert words in told, words
    assert any(words.endswith("0 of 26 ticks late") for words in told)


@pytest.mark.parametrize("to", ["jsonl", "mcap", "otel", "parquet", "rerun"])
def test_every_export_takes_events(to: str, every: Path, tmp_path: Path) -> None:
    """No format stumbles over a kind, and those that hold whole records hold these."""
    out = exported(every, to, tmp_path)
    counts = Counter(record.kind for record in read_run(every))
    match to:
        case "jsonl":
            told = out.read_text()
            assert all(told.count(f'"kind":"{kind.value}"') == counts[kind] for kind in (*EVENTS, *CHANGES))
        case "mcap":
            topics = mcap_counts(out)
            assert all(topics[f"/records/{kind.value}"] == counts[kind] for kind in (*EVENTS, *CHANGES))
        case "parquet":
            import pyarrow.parquet as pq

            tables = {kind: cast("Any", pq).read_table(out / f"{kind.value}.parquet") for kind in (*EVENTS, *CHANGES)}
            assert all(table.num_rows == counts[kind] for kind, table in tables.items())
            change = tables[RecordKind.MODE_CHANGE].to_pylist()[1]
            assert (change["before"], change["after"]) == ("NOMINAL", "HOLD")
            miss = tables[RecordKind.NEAR_MISS].to_pylist()[0]
            assert (miss["value"], miss["ticks"], miss["phase"]) == (0.0005, None, "begin")
        case "otel":
            assert '"safeguard.fallback"' in out.read_text()
        case _:
            assert out.stat().st_size > 1000


def test_people_are_not_told_what_repeats() -> None:
    """A mirror hears of a fallback; that all is well, and what decisions have told it, it does not hear again."""
    said: list[str] = []

    class Listener:
        def info(self, event: str, **_: object) -> None:
            said.append(event)

        def error(self, event: str, **_: object) -> None:
            said.append(event)

    teller = Narrator(Listener())
    for kind in (*ECHOES, RecordKind.FALLBACK):
        teller.tell(kind, {"type": "hold"}, 3)
    teller.close()
    assert said == ["fallback"]


def test_schemas_are_exported() -> None:
    """``safeguard audit schemas`` has the new kinds, each with its description."""
    found = cast("dict[str, Any]", json_schemas())
    for kind in (*EVENTS, *CHANGES):
        bodies = found[kind.value]["$defs"]
        assert any("description" in body for body in bodies.values())
        assert found[kind.value]["properties"]["body"]


# -- what differs from the run before -------------------------------------------------------------------


def opened(run: Path, runs: Path, **changes: Any) -> list[Record]:
    """The records of a closed run in a list of runs."""
    config = AuditConfig(run=run, writer="inline", durability="os", runs=runs)
    with open_run(config, run_open_body(**changes)) as journal:
        append_tick(journal, 0, observation(0), decision(0))
    assert not journal.failed
    return list(read_run(run))


def test_a_run_says_what_is_not_as_in_the_run_before(tmp_path: Path) -> None:
    """Versions and digests are a software change, settings an intervention; both stand right behind ``run_open``."""
    runs = tmp_path / "list"
    first = opened(tmp_path / "0", runs, run_id="run-0")
    same = opened(tmp_path / "1", runs, run_id="run-1")
    assert [record.kind for record in first[:2]] == [record.kind for record in same[:2]]
    robot = {"name": "panda", "digest": "00" * 32, "source": None}
    config = {"period": 0.001, "shield": {"new": "x" * 300}}
    other = opened(tmp_path / "2", runs, run_id="run-2", safeguard="9.9", robot=robot, config=config)
    assert [record.kind for record in other[1:3]] == list(CHANGES)
    software, settings_ = (cast("Any", record.body) for record in other[1:3])
    assert software.previous == settings_.previous == "run-1"
    assert [(one.name, one.new) for one in software.changes] == [("robot", "00" * 32), ("safeguard", "9.9")]
    told = {one.name: (one.old, one.new) for one in settings_.changes}
    assert told["period"] == ("0.002", "0.001")
    assert told["assumptions.delay"] == ('"1 tick"', None)
    assert told["shield.new"][0] is None
    assert str(told["shield.new"][1]).startswith("sha256:")
    assert all(verify_run(tmp_path / str(k), runs=runs).sound for k in range(3))


def test_a_calibration_is_compared_by_its_digest(tmp_path: Path) -> None:
    """Another calibration is a software change with two digests; its thousand numbers are no settings."""
    runs = tmp_path / "list"

    def calibrated(name: str, digest: str, largest: float) -> list[Record]:
        config: JsonObject = {"period_s": 0.002, "calibration": {"rungs": [{"maxima": [0.1, largest]}]}}
        digests = {"table": "cd" * 32, "policy": None, "calibration": digest}
        return opened(tmp_path / name, runs, run_id=name, config=config, digests=digests)

    calibrated("run-0", "aa" * 32, 0.5)
    records = calibrated("run-1", "bb" * 32, 0.6)
    assert [record.kind for record in records[1:-2]] == [RecordKind.SOFTWARE_CHANGE]
    (change,) = cast("Any", records[1].body).changes
    assert (change.name, change.old, change.new) == ("calibration", "aa" * 32, "bb" * 32)


def test_an_old_list_says_nothing(tmp_path: Path) -> None:
    """A line of a version that held no identities is read, and nothing is claimed about that run."""
    runs = tmp_path / "list"
    runs.write_text('{"run":"run-0","size":1,"root":"' + "00" * 32 + '"}\n')
    found = opened(tmp_path / "1", runs, run_id="run-1", safeguard="9.9")
    assert found[1].kind is RecordKind.DECISION
    assert cast("Any", found[0].body).previous.run == "run-0"


def test_a_shield_names_the_setting_that_changed(tmp_path: Path) -> None:
    """Between two runs of a real shield, one changed value is one change."""
    runs = tmp_path / "list"
    for k, seconds in enumerate((1.0, 2.0)):
        lab = Lab(near)
        config = lab.shield.config.model_copy(update={"start_ack_s": seconds})
        audit = AuditConfig(run=tmp_path / str(k), writer="inline", durability="os", runs=runs)
        Shield(panda(), lab.shield.port, config=config, audit=audit).close()
    records = list(read_run(tmp_path / "1"))
    assert [record.kind for record in records[1:-1]] == [RecordKind.CONFIG_INTERVENTION]
    (change,) = cast("Any", records[1].body).changes
    assert (change.name, change.old, change.new) == ("shield.start_ack_s", "1.0", "2.0")
