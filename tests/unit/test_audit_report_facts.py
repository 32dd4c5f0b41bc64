from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from safeguard.audit import keygen, read_public, write_report
from safeguard.audit.records.encode import Json, JsonObject, decision_body
from safeguard.audit.records.registry import Limits
from safeguard.audit.report import episode as report_episode
from safeguard.audit.report import interventions as report_interventions
from safeguard.audit.report import summary
from safeguard.audit.report.curves import Span, coarse
from safeguard.audit.report.parts import duration_text
from safeguard.audit.report.summary import summarize
from safeguard.core.enums import Cause, Enforcement, FilterStatus, Level, Mode, RecordKind
from safeguard.core.types import Decision, Observation, TorqueCommand, Verdict
from tests.unit.audit_runs import (
    PERIOD,
    append_tick,
    decision,
    episode_open,
    observation,
    proposal,
    run_open,
    small_run,
    started,
)

ROBOT, POLICY = "ab" * 32, "ef" * 32


def plain(path: Path) -> str:
    """The report of the run in ``path`` as words with single spaces."""
    text = write_report(path, plots=False).read_text(encoding="utf-8")
    return words(text)


def words(page: str) -> str:
    """Text of a page without its tags."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def told(path: Path, story: list[tuple[Observation, Decision]], **changes: object) -> str:
    """The report of one episode of ``story``; ``changes`` are of ``run_open``."""
    with started(path, run_open(**changes)) as journal:  # type: ignore[arg-type]
        journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.FULL, "s"))
        for tick, (seen, outcome) in enumerate(story):
            append_tick(journal, tick, seen, outcome)
    return plain(path)


def clean(ticks: int = 3) -> list[tuple[Observation, Decision]]:
    """Ticks without any trouble."""
    return [(observation(tick), decision(tick)) for tick in range(ticks)]


def config(**shield: JsonObject) -> JsonObject:
    """A recorded configuration with these sections of the shield's."""
    return {"period_s": 0.002, "strategy": "monolithic", "shield": {**shield}}


def certificate(robot: str = ROBOT) -> JsonObject:
    """A recorded certificate, as far as the page speaks of it."""
    return {
        "kind": "certified",
        "robot": "panda",
        "robot_digest": robot,
        "dt_s": 0.002,
        "delay_ticks": 1,
        "digest": "12" * 32,
        "statement": {
            "epsilon": 0.01,
            "beta": 0.001,
            "bound": 0.0093,
            "validation_samples": 4000,
            "violations": 21,
            "distribution": "loads up to 2 kg",
        },
    }


def test_the_journal_speaks_for_itself(tmp_path: Path) -> None:
    """Verdict in words, who signed and for what, what is not covered, roots: as ``verify`` found them."""
    run = small_run(tmp_path / "run")
    text, found = plain(run), summarize(run).integrity
    assert "self-signed. Nothing is wrong in itself, but no key was given to check against" in text
    assert f"Merkle root {found.root}" in text
    assert f"chain value of the last proved record {found.head}" in text
    assert "a key that nobody kept" in text
    assert "not covered by a signature 0 records lost 0 records closed done" in text
    assert "safeguard audit verify run --key PUB" in text
    assert "The journal's verdict is “self-signed”, not “complete”" in text


def test_a_key_that_vouches_is_named_with_its_purpose(tmp_path: Path) -> None:
    """With the right key the verdict is complete; what a test key is worth is said."""
    signer = keygen(tmp_path / "cell-3.key", "cell-3", "test")
    run = small_run(tmp_path / "run", key=str(tmp_path / "cell-3.key"))
    text = words(write_report(run, plots=False, key=read_public(tmp_path / "cell-3.key.pub")).read_text())
    assert "complete. Every record is as it was written, none is missing" in text
    assert f"signed by {signer.public}" in text
    assert "a key for test runs: this is no evidence of a machine at work" in text
    assert "not “complete”" not in text


def test_an_open_run_counts_what_no_signature_covers(tmp_path: Path) -> None:
    """A run that was never closed is called so, with its unprotected tail."""
    journal = started(tmp_path)
    journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.FULL, "s"))
    append_tick(journal, 0, observation(0), decision(0))
    text, found = plain(tmp_path), summarize(tmp_path).integrity
    journal.close()
    assert "open. The records are as written, but the run was never closed." in text
    assert found.unprotected > 0
    assert f"not covered by a signature {found.unprotected} record" in text
    assert "closed no" in text


def test_without_a_certificate_the_braking_figures_are_provisional(tmp_path: Path) -> None:
    """The page says so twice, with the number of decisions."""
    text = told(tmp_path, clean())
    assert "None: the braking figures are provisional." in text
    assert "a certificate backs the braking figures not held provisional in 3 of 3 filtered decisions" in text


@pytest.mark.parametrize(("robot", "says"), [(ROBOT, "the robot of this run"), ("00" * 32, "the model it was made of")])
def test_a_certificate_is_quoted(tmp_path: Path, robot: str, says: str) -> None:
    """Confidence, probability, samples, digest, and whether it is of this robot."""
    story = [(seen, replace(one, filter=replace(one.filter, provisional=False))) for seen, one in clean()]
    text = told(tmp_path, story, config=config(filter={"certificate": certificate(robot)}))
    assert "With 99.9 % confidence a fresh stop of the declared distribution breaks its numbers" in text
    assert f"panda, {robot} ({says})" in text
    assert "checked with 4000 stops, 21 broke it" in text
    assert "12" * 32 in text
    assert "a certificate backs the braking figures held" in text


def test_calibrations_are_listed(tmp_path: Path) -> None:
    """n, α, threshold, horizon, rate, and whether robot and policy are those of the run."""
    made: JsonObject = {
        "rungs": [{
            "name": "warn", "score": "g_warn", "n": 60, "alpha": 0.1, "threshold": 0.8, "rate_interval": [0.044, 0.167]
        }],
        "members": [{"name": "effort"}, {"name": "tremor"}], "horizon_ticks": 2500, "order": {"p_value": 0.41},
        "origin": {"robot": ROBOT, "policy": "00" * 32}, "digest": "34" * 32,
    }  # fmt: skip
    text = told(tmp_path / "with", clean(), config={**config(), "calibration": made})
    assert "warn g_warn 60 0.1 0.8 0.044 to 0.167" in text
    assert "monitors effort, tremor made with this robot, another policy horizon 2500 ticks" in text
    assert f"order of the episodes p = 0.41 that it says nothing digest {'34' * 32}" in text
    assert "no monitor of this run has a calibrated threshold" not in text
    assert "no monitor of this run has a calibrated threshold" in told(tmp_path / "without", clean())


def test_the_mode_table_has_its_digest_and_the_rows_that_acted(tmp_path: Path) -> None:
    """A reviewer can look the rows up in the table of that digest."""
    story = [*clean(2), (observation(2), decision(2, mode=Mode.HOLD, causes=(Cause.POLICY_LATE,)))]
    text = told(tmp_path, story)
    assert f"strategy monolithic digest {'cd' * 32} row that changed or kept a mode decisions row.policy_late 1" in text


def test_ages_are_held_against_their_limits(tmp_path: Path) -> None:
    """The oldest state and proposal, and how many were too old; without a limit nothing is claimed."""
    fresh, late = observation(1), observation(1)
    late = replace(late, state=replace(late.state, t=late.state.t - 5_000_000))
    intake: JsonObject = {"max_age_s": 0.003, "proposal_max_age_s": 0.2}
    story = [(observation(0), decision(0)), (late, decision(1)), (observation(2), decision(2))]
    text = told(tmp_path / "late", story, config=config(intake=intake))
    assert "states are fresh not held oldest 5 ms, limit 3 ms; 1 of 3 were older" in text
    assert "proposals are fresh on arrival held oldest 0 s, limit 200 ms" in text
    story[1] = (fresh, decision(1))
    assert "states are fresh held" in told(tmp_path / "fresh", story, config=config(intake=intake))
    assert "states are fresh not checked" in told(tmp_path / "unknown", story, config=config())


def test_monitors_stand_against_their_thresholds(tmp_path: Path) -> None:
    """Worst score, threshold, alarms by level, smallest p; one that could not judge is no proof of anything."""
    story = clean()
    unsure = Verdict("overrun", Level.UNPROVEN, float("nan"), float("nan"), detail="off")
    story[1] = (observation(1), decision(1, effort=0.93))
    story = [(seen, replace(one, verdicts=(*one.verdicts, unsure))) for seen, one in story]
    text = told(tmp_path, story)
    assert "effort 3 warn 1 0.93 0.8 0.4 (episode 0, tick 1)" in text
    assert "overrun 3 unproven 3 – – – off (episode 0, tick 0)" in text
    assert "Quiet throughout: intake.state, intake.proposal, deadline." in text
    assert "every check could judge not held could not: overrun in 3 ticks" in text
    assert "monitors with thresholds are calibrated held" in text


def test_limits_say_where_they_come_from(tmp_path: Path) -> None:
    """Once where all joints agree, joint by joint where they do not; the clearance too."""
    body = run_open()
    text = told(tmp_path / "alike", clean())
    assert "panda_joint1 -2.8973 2.8973 2.175 87 15 panda_joint2" in text
    assert "for every joint: lower, upper, velocity: URDF; torque: datasheet." in text
    assert "Smallest distance of kept link pairs: 0.02 m." in text
    limits = Limits.model_validate(body["limits"])
    first, *rest = limits.joints
    other = [first.model_copy(update={"provenance": {"lower": "measured"}}), *rest]
    changed = limits.model_copy(update={"joints": other}).model_dump(mode="json")
    text = told(tmp_path / "apart", clean(), limits=changed)
    assert "87 15 lower: measured panda_joint2" in text
    assert "for every joint" not in text


def test_a_run_says_what_it_was(tmp_path: Path) -> None:
    """Simulated or not, people or scripts, assumptions that the configuration states."""
    text = plain(small_run(tmp_path / "simulated"))
    assert "the world is the real one not held simulated" in text
    assert "Nothing real moved" in text
    assert "people are real not held acknowledge by script (a script): 1" in text
    assert "stated: state error not checked 1 mrad" in text
    text = told(tmp_path / "hardware", clean(), simulated=False)
    assert "the world is the real one not checked hardware moved" in text
    assert "Nothing real moved" not in text


def effect(agreement: str, first: int = 0, judged: int = 3, largest: float = 0.002) -> JsonObject:
    """The body of an effect record about three ticks."""
    figures: list[Json] = [largest, 0.0] if judged else []
    return {
        "episode": 0, "enforcement": "full", "first": first, "last": first + 2, "judged": judged,
        "no_command": 3 - judged, "no_state": 0, "gap": 0, "largest": figures, "rms": figures,
        "worst": first if judged else None, "worst_joint": "panda_joint1" if judged else "", "residual": None,
        "threshold": 0.5, "rule": "warn_rung", "agreement": agreement,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("effects", "says"),
    [
        ([], "not checked no effect record has judged a tick"),
        ([effect("not_judged", judged=0)], "not checked no effect record has judged a tick"),
        (
            [effect("agrees"), effect("not_judged", 3, 0)],
            "held 3 of 6 ticks judged; effect records: agrees 1, not judged",
        ),
        ([effect("agrees"), effect("not_judged", 3)], "not checked 6 of 6 ticks judged"),
        (
            [effect("agrees"), effect("differs", 3, 2, 0.03)],
            "not held 5 of 6 ticks judged; effect records: agrees 1, differs 1; a joint's speed was up to 0.03 rad/s "
            "off what the model said (episode 0, ticks 3 to 5)",
        ),
    ],
)
def test_whether_the_body_obeys_is_told_once(tmp_path: Path, effects: list[JsonObject], says: str) -> None:
    """Held only where everything that was judged agrees; one that differs is an event of its episode as well."""
    with started(tmp_path) as journal:
        journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.FULL, "s"))
        for tick in range(6):
            append_tick(journal, tick, observation(tick), decision(tick))
        for body in effects:
            journal.append(RecordKind.EFFECT, body, tick=5, t=5 * PERIOD)
    assert f"the body does what it is told {says}" in plain(tmp_path)
    events = summarize(tmp_path).episodes[0].events
    assert [one.kind for one in events] == ["effect"] * sum(body["agreement"] == "differs" for body in effects)


def test_episodes_without_the_shield_are_counted(tmp_path: Path) -> None:
    """Enforcement is counted by decision, whatever the run set out with."""
    off = [(seen, replace(one, enforcement=Enforcement.OFF)) for seen, one in clean()]
    mixed = told(tmp_path / "mixed", [*clean(2), *off[2:]])
    assert "the shield enforces not held enforced in 2 decisions, off in 1 decisions" in mixed
    assert "the shield enforces held enforced in 3 decisions" in told(tmp_path / "on", clean())


def test_what_the_shield_would_have_done_stands_beside_what_was_released(tmp_path: Path) -> None:
    """A run that only watched released the proposal; the shield's own torque has a column of its own."""
    watched = decision(1, status=FilterStatus.CORRECTED, enforcement=Enforcement.MONITOR_ONLY)
    watched = replace(watched, source="proposal", command=TorqueCommand(np.full(7, 77.7), PERIOD, 3 * PERIOD, 1))
    with started(tmp_path) as journal:
        journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.MONITOR_ONLY, "s"))
        append_tick(journal, 0, observation(0), decision(0, enforcement=Enforcement.MONITOR_ONLY))
        append_tick(journal, 1, observation(1), watched)
    page = write_report(tmp_path, plots=False).read_text()
    text = words(page)
    assert "the proposal, unchecked; the shield would have released corrected by qp" in text
    assert "the shield's torque, N·m" in text
    assert "What the controller made of the proposal is what was released." in text
    assert page.count("77.7</td>") == 7


def test_a_corrected_decision_says_that_the_nominal_is_not_recorded(tmp_path: Path) -> None:
    """Nothing on the page pretends to be the controller's output."""
    text = told(tmp_path, [*clean(1), (observation(1), decision(1, status=FilterStatus.CORRECTED, effort=0.5))])
    assert "(the nominal) is not in the journal; effort measures how far the released motion is from it." in text
    assert "is what was released" not in text


def test_a_refused_proposal_is_said_to_be_refused(tmp_path: Path) -> None:
    """Before an intervention stands the last proposal to arrive, and why the intake did not take it."""
    refusal = Verdict("intake.proposal", Level.STOP, float("nan"), float("nan"), detail="2 numbers are not finite")
    with started(tmp_path) as journal:
        journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.FULL, "s"))
        for tick in range(2):
            outcome = decision(tick, mode=Mode.HOLD, status=FilterStatus.BACKUP)
            outcome = replace(outcome, verdicts=(refusal,)) if tick == 1 else decision(tick)
            outcome = replace(outcome, mode=Mode.HOLD) if tick else outcome
            arrived = proposal(tick) if tick else None
            body = decision_body(tick * PERIOD, observation(tick), arrived, outcome)
            journal.append(RecordKind.DECISION, body, tick=tick, t=tick * PERIOD)
    text = plain(tmp_path)
    assert "proposal 0 of reach-and-push, 0 s old, refused on arrival" in text
    assert "row 1 of 4 of the last proposal to arrive, refused on arrival: 2 numbers are not finite" in text


def test_a_damaged_configuration_is_no_obstacle(tmp_path: Path) -> None:
    """Whatever stands where a section is expected, the page is written and claims nothing."""
    odd: JsonObject = {
        "shield": {"filter": {"certificate": {"statement": 3}}},
        "calibration": {"rungs": [1, {"n": 2}], "members": 3, "origin": 2},
    }
    text = told(tmp_path, clean(), config=odd)
    assert "without a statement" in text

    assert "another robot, another policy" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (1.5, "1.5 s"), (0.0032, "3.2 ms"), (8e-6, "8 µs"), (-0.002, "-2 ms"), (float("inf"), "–")],
)
def test_times_have_a_unit_that_suits_them(seconds: float, text: str) -> None:
    """Seconds, milliseconds, microseconds, or a dash."""
    assert duration_text(seconds) == text


def flapping(path: Path, count: int) -> Path:
    """A run with ``count`` interventions, the last of which is the gravest."""
    with started(path) as journal:
        journal.append(RecordKind.EPISODE_OPEN, episode_open(0, Enforcement.FULL, "flapping"))
        for at in range(count):
            append_tick(journal, 2 * at, observation(2 * at), decision(2 * at, mode=Mode.CAUTIOUS))
            status, mode = (
                (FilterStatus.BACKUP, Mode.HOLD) if at == count - 1 else (FilterStatus.CORRECTED, Mode.NOMINAL)
            )
            append_tick(journal, 2 * at + 1, observation(2 * at + 1), decision(2 * at + 1, status=status, mode=mode))
    return path


def test_a_long_run_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and decisions have caps; the gravest are kept, the rest is counted, and a command shows it."""
    monkeypatch.setattr(report_interventions, "ROWS", 12)
    monkeypatch.setattr(report_interventions, "WHOLE_BYTES", 30_000)
    run = flapping(tmp_path / "long run", 40)
    text = write_report(run, plots=False).read_text()
    assert text.count('<tr id="i-') == 12
    assert (
        "The 12 gravest of 80; 68 more in the journal: <code>safeguard audit show &#x27;long run&#x27;</code>." in text
    )
    articles = text.count("<article")
    assert 0 < articles < 12
    assert sum(map(len, re.findall(r"<article.*?</article>", text, re.DOTALL))) <= 30_000
    assert f"of {articles} of them opens by its time; {12 - articles} more in the journal" in text
    assert '<article class="decision" id="d-0-79"' in text
    assert text.count('class="open"') == articles


def test_only_the_gravest_decisions_are_kept_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: of many interventions only some are kept, the gravest among them."""
    monkeypatch.setattr(summary, "KEPT", 5)
    run = summarize(flapping(tmp_path, 40))
    assert run.episodes[0].acted == 80
    assert len(run.interventions) == 5
    assert 79 in [row.body.tick for _, row in run.interventions]


def test_flapping_modes_are_drawn_coarsely() -> None:
    """Of spans too short to be told apart each label stays once where it was; long ones are all kept."""
    spans = [Span(0.01 * at, 0.01 * (at + 1), ("HOLD", "STOP")[at % 2]) for at in range(1000)]
    spans.append(Span(10.0, 20.0, "NOMINAL"))
    kept = coarse(spans, 20.0, parts=20)
    assert [(span.label, int(span.start)) for span in kept[:4]] == [("HOLD", 0), ("STOP", 0), ("HOLD", 1), ("STOP", 1)]
    assert len(kept) == 21
    assert kept[-1] == spans[-1]
    assert coarse(spans, 20.0, parts=10_000) == spans


def test_the_overview_has_a_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes that are not drawn are counted."""
    monkeypatch.setattr(report_episode, "SPANS", 30)
    with started(tmp_path) as journal:
        for episode in range(4):
            journal.append(RecordKind.EPISODE_OPEN, episode_open(episode, Enforcement.FULL, f"scene {episode}"))
            for tick in range(14):
                mode = (Mode.NOMINAL, Mode.HOLD)[tick % 2]
                append_tick(journal, tick, observation(tick), decision(tick, episode=episode, mode=mode))
    assert "2 episodes more are not drawn here." in plain(tmp_path)


def test_episodes_in_full_have_a_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes that do not fit are counted and named with the command that shows them; no link leads nowhere."""
    monkeypatch.setattr(report_episode, "SECTION_BYTES", 20_000)
    with started(tmp_path) as journal:
        for episode in range(8):
            journal.append(RecordKind.EPISODE_OPEN, episode_open(episode, Enforcement.FULL, f"scene {episode}"))
            for tick in range(20):
                append_tick(journal, tick, observation(tick), decision(tick, episode=episode))
            journal.append(RecordKind.EPISODE_CLOSE, {"episode": episode, "outcome": {"done": True}})
    text = write_report(tmp_path, plots=False).read_text()
    drawn = text.count("<details")
    assert 1 <= drawn < 8
    assert f"{8 - drawn} episodes more in the journal: <code>safeguard audit show" in text
    assert text.count('href="#episode-') == drawn
