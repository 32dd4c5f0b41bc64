from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from pydantic import ValidationError
from typer.testing import CliRunner

from safeguard import Observation, RobotModel, RobotState, Shield
from safeguard.audit import AuditConfig, PublicKey, keygen
from safeguard.audit.evidence import Dossier, Finding, Outside, assemble, gather, write_dossier
from safeguard.audit.evidence.checks import CHECKS
from safeguard.audit.evidence.dossier import Judged
from safeguard.audit.evidence.facts import present
from safeguard.audit.evidence.model import Node, argument, clauses, text_of, worst
from safeguard.audit.records.encode import JsonObject
from safeguard.audit.records.registry import SCHEMAS
from safeguard.cli_evidence import commands
from safeguard.core.enums import Enforcement, RecordKind, Reference
from safeguard.core.errors import JournalError
from safeguard.core.types import ActionSpec, Vector
from safeguard.policies import as_policy
from safeguard.replay import replay_run
from tests.unit.audit_edit import contents, put, put_contents, raw
from tests.unit.audit_runs import (
    append_tick,
    decision,
    episode_open,
    observation,
    run_open,
    small_run,
    started,
)
from tests.unit.browser import browser

ALL_GOOD = Outside(
    lambda run: Finding("supported", "identical"),
    lambda strategy, digest, period: Finding("supported", "checked"),
)
PROVENANCE = {"made_utc": "2026-01-01T00:00:00+00:00"}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PublicKey]:
    """A private key's file, and the public key."""
    file = tmp_path_factory.mktemp("keys") / "test.key"
    return file, keygen(file, "test", "test").public


@pytest.fixture
def run(tmp_path: Path, key: tuple[Path, PublicKey], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small signed run, in the folder where the test stands."""
    monkeypatch.chdir(tmp_path)
    return small_run(Path("run"), key=key[0])


def dossier(runs: Sequence[Path], key: PublicKey | None, outside: Outside = ALL_GOOD) -> Dossier:
    """The dossier of these runs."""
    return assemble([gather(run, key) for run in runs], outside, "test.key.pub")


def leaf(found: Dossier, check: str, name: str = "") -> Judged:
    """The leaf with this check."""
    return next(
        one
        for one in found.root.leaves()
        if one.node.check == check and (not name or name == one.node.parameters.get("name"))
    )


def changed(run: Path, key: Path, body: dict[str, Any], *outcomes: dict[str, Any], simulated: bool = True) -> Path:
    """A run whose ``run_open`` is changed by ``body``, with an episode for each outcome."""
    with started(run, run_open(**body), key=key) as journal:
        for number, outcome in enumerate(outcomes):
            enforcement = outcome.pop("enforcement")
            journal.append(RecordKind.EPISODE_OPEN, episode_open(number, enforcement, "s", [{"id": "f", "kind": "f"}]))
            acts: JsonObject = {"operator": "Ada", "reason": "go", "action": "acknowledge", "simulated": simulated}
            journal.append(RecordKind.HUMAN, acts, t=0)
            append_tick(journal, 0, observation(0), decision(0, episode=number, enforcement=enforcement))
            journal.append(RecordKind.EPISODE_CLOSE, {"episode": number, "outcome": outcome})
    return run


def test_every_leaf_has_a_check_that_exists_and_every_check_a_leaf() -> None:
    """The argument names no check that is not there, and none is there for nothing."""
    named = [node.check for node in argument().walk() if node.kind == "solution"]
    assert set(named) == set(CHECKS)
    assert len(named) >= 15


def test_clauses_name_kinds_and_fields_that_schemas_have() -> None:
    """Each clause has a source, a basis and a date, and its fields exist in the schema of their kind."""
    assert {"ISO/PAS 8800:2024", "UN Regulation No. 157", "ISO 10218-1/-2:2025"} < {one.source for one in clauses()}
    for clause in clauses():
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", clause.checked)
        for need in clause.needs:
            fields = SCHEMAS[RecordKind(need.kind)].model_fields
            assert [name for name in need.fields if name.partition(".")[0] not in {*fields, "config"}] == []


def test_commands_of_the_leaves_name_commands_and_options_that_exist() -> None:
    """A reviewer can run each: the command line has the command and its options."""
    from safeguard.cli import app

    group: Any = typer.main.get_command(app)
    for node in argument().walk():
        words = shlex.split(node.command)
        if not words or words[0] != "safeguard":
            continue
        found = group.commands[words[1]]
        if words[1] in ("audit", "modes"):
            found = found.commands[words[2]]
        known = {option for parameter in found.params for option in parameter.opts}
        assert [word for word in words if word.startswith("--") and word not in known] == [], node.command


def test_a_leaf_is_supported_missing_or_contradicted_by_what_the_run_says(
    run: Path, key: tuple[Path, PublicKey]
) -> None:
    """On a small simulated run: what holds is supported, what it does not have is missing, nothing is contradicted."""
    found = dossier([run], key[1])
    states = {one.node.check: one.status for one in found.root.leaves() if one.node.check != "digest"}

    assert {check for check, status in states.items() if status == "supported"} == {
        "journal", "second_verifier", "no_gap", "nothing_cut", "replay", "enforced", "faults",
        "limit_sources",
    }  # fmt: skip
    assert "contradicted" not in states.values()
    assert leaf(found, "digest", "policy").status == "supported"
    assert leaf(found, "people").findings[0][1].text.startswith("0 by people, 1 simulated")
    assert leaf(found, "calibration").findings[0][1].text.startswith("uncalibrated")
    assert found.root.status == "missing"


def test_a_damaged_journal_contradicts_and_is_evidence_for_nothing_else(run: Path, key: tuple[Path, PublicKey]) -> None:
    """One changed byte: the leaf about the journal is contradicted, and what the run says supports nothing."""
    data = bytearray(raw(run))
    data[len(data) // 2] ^= 1
    found = dossier([put(run, bytes(data))], key[1])

    assert leaf(found, "journal").status == "contradicted"
    others = [one.status for one in found.root.leaves() if one.node.check not in ("journal", "second_verifier")]
    assert set(others) == {"missing"}
    assert found.root.status == "contradicted"
    assert all(not count.records for clause in found.clauses for count in clause.fields)


def test_without_a_key_nobody_vouches(run: Path) -> None:
    """A run that is only signed by itself is missing the evidence of its journal, not contradicted."""
    assert leaf(dossier([run], None), "journal").status == "missing"


def test_what_the_caller_cannot_check_is_missing(run: Path, key: tuple[Path, PublicKey]) -> None:
    """Replay and mode table need more than a journal: without them they are missing, and with a bad answer worse."""
    assert leaf(dossier([run], key[1], Outside()), "replay").status == "missing"
    bad = Outside(lambda _: Finding("contradicted", "record 5 differs"))
    assert leaf(dossier([run], key[1], bad), "replay").status == "contradicted"


def test_violations_contradict_only_where_the_shield_enforced(tmp_path: Path, key: tuple[Path, PublicKey]) -> None:
    """The same violation is the negative control of the referee without the shield, and a contradiction with it."""

    def outcome(enforcement: Enforcement, count: int) -> dict[str, Any]:
        return {"enforcement": enforcement, "violations": {"position": {"count": count, "worst": 0.1, "unit": "rad"}}}

    good = changed(tmp_path / "good", key[0], {}, outcome(Enforcement.FULL, 0), outcome(Enforcement.OFF, 3))
    bad = changed(tmp_path / "bad", key[0], {}, outcome(Enforcement.FULL, 1), outcome(Enforcement.OFF, 0))

    assert [leaf(dossier([good], key[1]), name).status for name in ("no_violation", "violation_without")] == [
        "supported", "supported"
    ]  # fmt: skip
    assert [leaf(dossier([bad], key[1]), name).status for name in ("no_violation", "violation_without")] == [
        "contradicted", "missing"
    ]  # fmt: skip
    assert leaf(dossier([good, bad], key[1]), "no_violation").status == "contradicted"
    assert leaf(dossier([good, bad], key[1]), "violation_without").status == "supported"


def test_hardware_people_certificate_calibration_and_limits_count_when_they_are_there(
    tmp_path: Path, key: tuple[Path, PublicKey]
) -> None:
    """What is missing in the small run is supported where a run records it."""
    body = run_open()
    limits: Any = body["limits"]
    for joint in limits["joints"]:
        joint["provenance"] = dict.fromkeys(("lower", "upper", "velocity", "torque"), "datasheet")
    certificate: JsonObject = {"kind": "certified", "digest": "ab", "statement": {"epsilon": 0.01}}
    config: JsonObject = {
        "shield": {"filter": {"certificate": certificate}},
        "calibration": {"rungs": [{"name": "warn"}]},
    }
    outcome: dict[str, Any] = {"enforcement": Enforcement.FULL, "violations": {}, "detected_after_s": 0.1}
    body |= {"simulated": False, "config": config, "limits": limits}
    run = changed(tmp_path / "run", key[0], body, outcome, simulated=False)
    found = dossier([run], key[1])

    for check in ("hardware", "people", "braking_certificate", "calibration", "limit_sources", "reacted"):
        assert leaf(found, check).status == "supported", check


def two_episodes(run: Path, key: Path, *, lost: int = 0, unseen: bool = False, violations: int = 0) -> Path:
    """Two enforced episodes that show what episodes can; before the second one ``lost`` records have no form.

    ``unseen``: neither has its begin. The referee saw so many violations in the second one.
    """
    config: JsonObject = {"calibration": {"rungs": [{"name": "warn"}]}}
    formless: JsonObject = {"x": 2**70}
    with started(run, run_open(config=config), key=key) as journal:
        for number in (0, 1):
            for _ in range(lost * number):
                journal.append(RecordKind.HUMAN, formless)
            opened = episode_open(number, Enforcement.FULL, "s", [{"id": "f", "kind": "f"}])
            journal.append(RecordKind.EPISODE_OPEN, formless if unseen and number else opened)
            acts: JsonObject = {"operator": "Ada", "reason": "go", "action": "acknowledge", "simulated": False}
            journal.append(RecordKind.HUMAN, acts)
            append_tick(journal, 0, observation(0), decision(0, episode=number))
            outcome: JsonObject = {"violations": {"torque": {"count": violations * number}}, "detected_after_s": 0.1}
            journal.append(RecordKind.EPISODE_CLOSE, {"episode": number, "outcome": outcome})
    return run


def statuses(found: Dossier) -> dict[str, str | None]:
    """Of every leaf, by its check; there are two about digests, which are alike."""
    return {one.node.check: one.status for one in found.root.leaves()}


OF_ALL = {"calibration", "reacted", "people", "replay", "no_violation"}


def test_what_is_said_of_all_records_is_not_said_where_some_were_lost(
    tmp_path: Path, key: tuple[Path, PublicKey]
) -> None:
    """A gap contradicts what the journal promises; leaves about all decisions or episodes are missing, and say why."""
    whole = dossier([two_episodes(tmp_path / "whole", key[0])], key[1])
    holed = dossier([two_episodes(tmp_path / "holed", key[0], lost=3)], key[1])
    before, after = statuses(whole), statuses(holed)
    assert {check for check in OF_ALL if before[check] != "supported"} == set()
    assert {check: status for check, status in after.items() if status != before[check]} == {
        "journal": "contradicted",
        "no_gap": "contradicted",
        "second_verifier": "missing",
        **dict.fromkeys(OF_ALL, "missing"),
    }
    for check in OF_ALL:
        assert leaf(holed, check).findings[0][1].text.endswith("; but not all records are there: 3 lost")
    assert leaf(holed, "second_verifier").findings[0][1].text.startswith("gap")


def test_an_unclosed_run_shows_nothing_of_its_end(tmp_path: Path, key: tuple[Path, PublicKey]) -> None:
    """Who knows what the last records were: the same leaves are missing."""
    run = two_episodes(tmp_path / "run", key[0])
    put_contents(run, contents(run)[:-2])
    found = dossier([run], key[1])
    assert {statuses(found)[check] for check in OF_ALL} == {"missing"}
    assert leaf(found, "people").findings[0][1].text.endswith("not all records are there: not closed")


def test_a_violation_is_not_that_of_the_episode_before(tmp_path: Path, key: tuple[Path, PublicKey]) -> None:
    """The close of an episode whose begin was lost says nothing about the one before it."""
    seen = dossier([two_episodes(tmp_path / "seen", key[0], violations=1)], key[1])
    assert leaf(seen, "no_violation").findings[0][1].text == "violations in 1 of 2 episodes: 1"
    found = dossier([two_episodes(tmp_path / "unseen", key[0], unseen=True, violations=1)], key[1])
    text = leaf(found, "no_violation").findings[0][1].text
    assert text == "none; enforced episodes that were judged: 1; but not all records are there: 1 lost"
    assert leaf(found, "enforced").findings[0][1].text == "2 of 2 decisions were enforced"


def test_a_replay_that_met_a_loss_is_no_evidence_and_says_where(
    tmp_path: Path, key: tuple[Path, PublicKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command replays around the gap: what came out again is told, and that the rest is missing."""
    monkeypatch.chdir(tmp_path)
    run = real_run(Path("run"), key[0], lose_at=70)
    done = CliRunner().invoke(commands, ["evidence", "run", "--key", f"{key[0]}.pub"])
    assert done.exit_code == 3
    assert "missing: Sn6 Every decision comes out again from its recorded inputs." in done.stdout
    page = Path("evidence/evidence.html").read_text()
    (loss,) = replay_run(run).losses
    assert (loss.episode, loss.tick) == (1, 11)
    assert f"131 decisions came out identical; but {loss}" in page


def test_a_clause_lists_its_records_and_what_is_missing(run: Path, key: tuple[Path, PublicKey]) -> None:
    """Fields that records fill are counted with the first record; the others, and what has no record, are missing."""
    found = {(one.clause.source, one.clause.clause): one for one in dossier([run], key[1]).clauses}
    limits = found["ISO 10218-1/-2:2025", "limits and validation of safety functions"]
    recorder = found["UN Regulation No. 157", "8.6"]

    assert {one.field: (one.records, one.first) for one in limits.fields}["limits.clearance"] == (1, "run: record 0")
    assert limits.missing == ("run_open: config.shield.filter.speed.tool_mps", "decision: decision.filter.active")
    assert recorder.missing[0] == "health: placed"  # too short for one
    assert recorder.missing[-1] == "not recorded: free space and health of the disk"
    assert not any(text.startswith("gap") for text in recorder.missing), "a run without a gap lacks nothing"


def test_the_page_never_says_more_than_evidence(run: Path, key: tuple[Path, PublicKey]) -> None:
    """No word that claims a rule is met, in page, JSON or data files; "evidence for" is what it says."""
    page, data = write_dossier(dossier([run], key[1]), Path("out"), PROVENANCE)
    for text in (page.read_text(), data.read_text(), text_of("argument.yaml"), text_of("clauses.yaml")):
        assert re.search(r"complian|complies|comply|certified by|conform|fulfil", text, re.IGNORECASE) is None
    assert "evidence for it" in page.read_text()


def test_the_same_runs_give_the_same_page(run: Path, key: tuple[Path, PublicKey]) -> None:
    """Page and JSON are the same bytes but for the provenance, which has digests of content and data files."""
    first = write_dossier(dossier([run], key[1]), Path("one"), PROVENANCE)
    second = write_dossier(dossier([run], key[1]), Path("two"), {"made_utc": "later"})
    told = [json.loads(data.read_text()) for _, data in (first, second)]

    assert first[0].read_bytes() == second[0].read_bytes()
    assert [one.pop("provenance")["made_utc"] for one in told] == [PROVENANCE["made_utc"], "later"]
    assert told[0] == told[1]
    assert PROVENANCE["made_utc"][:10] not in first[0].read_text().replace("2026-01-01T00:00:00+00:00", "")
    assert len(told[0]["missing"]) == dossier([run], key[1]).counts["missing"]


def test_what_runs_say_is_text_on_the_page(tmp_path: Path, key: tuple[Path, PublicKey]) -> None:
    """Names from records cannot become markup."""
    hostile = changed(tmp_path / "<i>run", key[0], {"robot": {"name": "<script>x", "digest": "d", "source": None}})
    page, _ = write_dossier(dossier([hostile], key[1]), tmp_path / "out", PROVENANCE)
    assert "<script" not in page.read_text()
    assert "<i>run" not in page.read_text()
    assert "&lt;script&gt;x" in page.read_text()


def test_the_page_works_by_keyboard_and_in_print(run: Path, key: tuple[Path, PublicKey]) -> None:
    """In a browser: no error, nothing loaded from elsewhere, goals fold with a key, links lead to their leaves."""
    page_file, _ = write_dossier(dossier([run], key[1]), Path("out"), PROVENANCE)
    assert re.search(r"https?://|src=|@import", page_file.read_text()) is None
    with browser() as page:
        page.look(800, 600, dark=True)
        page.open(page_file)
        assert page.errors == []
        assert page.evaluate(
            "[...document.querySelectorAll('a[href^=\"#\"]')].every(a => document.querySelector(a.hash))"
        )
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.evaluate("document.querySelector('#G2 summary').focus()")
        page.key(" ", "Space", 32)
        assert page.evaluate("document.querySelector('#G2 details').open") is False
        page.key(" ", "Space", 32)
        assert page.evaluate("document.querySelector('#G2 details').open") is True
        assert "missing" in page.text("#Sn19")


def test_the_command_writes_both_files_and_its_code_says_what_it_found(run: Path, key: tuple[Path, PublicKey]) -> None:
    """Exit code 0 with evidence missing, 3 where a journal is damaged; a run that cannot be replayed is no evidence."""
    call = CliRunner()
    done = call.invoke(commands, ["evidence", "run", "--key", f"{key[0]}.pub", "--json"])
    told = json.loads(done.stdout)
    assert (done.exit_code, told["leaves"]["contradicted"]) == (0, 0)
    data = json.loads(Path(told["data"]).read_text())
    assert data["provenance"]["safeguard"]
    assert "cannot be replayed" in Path(told["page"]).read_text()

    shutil.copytree("run", "bad")
    put(Path("bad"), raw(run)[:-9])
    assert call.invoke(commands, ["evidence", "run", "bad", "--key", f"{key[0]}.pub", "--no-replay"]).exit_code == 3


def real_run(run: Path, key: Path, lose_at: int | None = None) -> Path:
    """Three short episodes of a Panda that stands; behind tick ``lose_at`` a record without a form."""
    robot = RobotModel.load("panda")
    spec = ActionSpec(robot.joints, "rad", Reference.ABSOLUTE, rate_hz=50.0)

    def stay(seen: Observation) -> list[Vector]:
        return [seen.state.q]

    policy = as_policy(stay, spec=spec, name="stay")
    config = AuditConfig(run=run, key=key, writer="inline", durability="os", segment_mib=0.05)
    with Shield(robot, policy, audit=config) as shield:
        for tick in range(180):
            if tick % 60 == 0:
                shield.begin_episode("stand")
            now = tick * 2_000_000
            shield.step(Observation(RobotState(robot.home, np.zeros(robot.n), now)), now=now)
            if tick == lose_at:
                shield.record(RecordKind.FAULT_CLEARED, {"x": 2**70})
    return run


def test_replay_and_mode_table_are_really_checked(
    tmp_path: Path, key: tuple[Path, PublicKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command recomputes a real run and looks up its table; after a cut the run replays from a whole episode on."""
    monkeypatch.chdir(tmp_path)
    run, call = real_run(Path("run"), key[0]), CliRunner()
    whole = ["evidence", "run", "--key", f"{key[0]}.pub", "--json"]
    assert call.invoke(commands, whole).exit_code == 0
    page = Path("evidence/evidence.html").read_text()
    assert "180 decisions came out identical" in page
    assert "of monolithic, checked exhaustively" in page

    cut = ["prune", "run", "--rule", "before-seq=125", "--key", str(key[0]), "--operator", "Ada"]
    kinds = ("decision", "episode_open", "mode_change", "fault_detected", "effect")
    done = call.invoke(commands, [*cut, *(word for kind in kinds for word in ("--yes", kind))])
    assert "to be replayed with --episode: 2 and later, from record 131" in done.stdout
    with pytest.raises(JournalError, match="decision of episode 1"):
        replay_run(run)
    left = replay_run(run, episodes=[2])
    assert (left.identical, left.decisions) == (True, 60)


def test_prune_by_command(tmp_path: Path, key: tuple[Path, PublicKey]) -> None:
    """Without key and name it refuses, with --dry-run it only looks, and with both it cuts what is named."""
    run = small_run(tmp_path / "run", 80, key=key[0], segment_mib=0.02)
    rule = ["prune", str(run), "--rule", "before-seq=50"]
    call, files = CliRunner(), sorted(run.rglob("*"))

    assert "--operator" in str(call.invoke(commands, rule).exception)
    looked = call.invoke(commands, [*rule, "--dry-run"])
    assert (looked.exit_code, looked.stdout.startswith("would cut records 1 to ")) == (0, True)
    assert "to be kept longer" in looked.stdout
    signed = [*rule, "--key", str(key[0]), "--operator", "Ada"]
    assert "1 human (5y)" in str(call.invoke(commands, signed).exception)
    assert sorted(run.rglob("*")) == files
    kinds = ["human", "decision", "episode_open", "fault_injected"]
    done = call.invoke(commands, [*signed, *(word for kind in kinds for word in ("--yes", kind))])
    assert done.exit_code == 0
    assert "journal: complete" in done.stdout
    assert "no whole episode is left to replay" in done.stdout
    assert leaf(dossier([run], key[1]), "nothing_cut").status == "missing"


@pytest.mark.parametrize(
    "change",
    [{"check": ""}, {"children": [{"id": "A", "kind": "context", "text": "t"}]}, {"kind": "goal"}, {"more": 1}],
)
def test_an_argument_that_is_none_is_refused(change: dict[str, Any]) -> None:
    """A solution has a check and a command and no children; unknown keys are no argument either."""
    good = {"id": "Sn", "kind": "solution", "text": "t", "check": "journal", "command": "c"}
    Node.model_validate(good)
    with pytest.raises(ValidationError):
        Node.model_validate(good | change)


def test_small_parts() -> None:
    """The worst verdict counts, nothing is missing evidence, and an empty field is no evidence."""
    assert worst(["supported", "missing"]) == "missing"
    assert worst(["contradicted", "missing"]) == "contradicted"
    assert worst([]) == "missing"
    assert present({"a": [{"b": ""}, {"b": 0}]}, ("a", "b"))
    assert not present({"a": [{"b": ""}, {"b": None}]}, ("a", "b"))
