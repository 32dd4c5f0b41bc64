from __future__ import annotations

import hashlib
import shutil
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import ormsgpack
import pytest

from safeguard.audit import keygen, prune, read_run, verify_offline, verify_run, write_report
from safeguard.audit.journal import frames
from safeguard.audit.journal.cut import CUT, SIGNATURE, Cut, boundary, climbed, read_cut, signed_text
from safeguard.audit.journal.keys import Signer
from safeguard.audit.journal.merkle import Tree
from safeguard.audit.journal.segments import blocks
from safeguard.audit.prune import DAY_NS, Plan, Pruned, Rule, first_episode, plan_cut
from safeguard.audit.records.cut import CutRange
from safeguard.audit.report.summary import summarize
from safeguard.audit.show import Choice, show_run
from safeguard.audit.story import told_cut
from safeguard.core.enums import Enforcement, RecordKind
from safeguard.core.errors import JournalError
from tests.unit.audit_runs import append_tick, decision, episode_open, observation, started

OPERATOR = {"operator": "records office", "reason": "a year is over"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Signer, int]:
    """A run of many segments with a person in the middle, its key, and the time of its last checkpoint."""
    folder = tmp_path_factory.mktemp("runs")
    signer = keygen(folder / "test.key", "test", "test")
    with started(folder / "run", key=folder / "test.key", segment_mib=0.02) as journal:
        for episode in range(4):
            journal.append(RecordKind.EPISODE_OPEN, episode_open(episode, Enforcement.FULL, "clean"))
            for tick in range(30):
                append_tick(journal, tick, observation(tick), decision(tick, episode=episode))
            journal.append(RecordKind.EPISODE_CLOSE, {"episode": episode, "outcome": {}})
            if episode == 2:
                acts: dict[str, Any] = {"operator": "Ada", "reason": "noise", "action": "stop", "simulated": False}
                journal.append(RecordKind.HUMAN, acts, t=0)
    late = plan_cut(folder / "run", Rule.parse("older-than=0d"), 1 << 62).place
    assert late is not None
    return folder / "run", signer, late.utc


@pytest.fixture
def run(made: tuple[Path, Signer, int], tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made[0], tmp_path / "run"))


@pytest.fixture
def signer(made: tuple[Path, Signer, int]) -> Signer:
    """The key that signed it."""
    return made[1]


@pytest.fixture
def year(made: tuple[Path, Signer, int]) -> int:
    """A time at which the whole run is just older than a year."""
    return made[2] + 365 * DAY_NS


def cut(run: Path, rule: str, signer: Signer, now: int, **named: Any) -> Pruned:
    """Cut, as the records office would."""
    return prune.prune(run, Rule.parse(rule), signer, now=now, **OPERATOR, **named)


def both(run: Path, signer: Signer | None) -> tuple[Any, ...]:
    """What the two verifiers agree on."""
    found = verify_run(run, None if signer is None else signer.public)
    other = verify_offline.verify(str(run), None if signer is None else str(signer.public))
    ours = (found.verdict, found.records, found.cut, found.counts, found.at_seq, found.unprotected)
    theirs = tuple(other[name] for name in ("verdict", "records", "cut", "counts", "at_seq", "unprotected"))
    if found.verdict != "self-signed":
        assert ours[4] == theirs[4]
    assert (*ours[:4], ours[5]) == (*theirs[:4], theirs[5])
    if found.records:
        assert (found.head, found.root) == (other["head"], other["root"])
    return ours


def test_the_rest_verifies_in_both_verifiers(run: Path, signer: Signer, year: int) -> None:
    """After a cut the run is complete with the same size, root and counts, and both reports count what is gone."""
    before = verify_run(run, signer.public)
    done = cut(run, "before-seq=60", signer, year)
    after = verify_run(run, signer.public)

    assert 40 < done.plan.last < 60 <= after.records
    assert both(run, signer)[:3] == ("complete", before.records, done.plan.last)
    assert both(run, None)[0] == "self-signed"
    assert (after.root, after.head, after.counts) == (before.root, before.head, before.counts)
    assert sum(done.plan.counts.values()) == done.plan.last == after.cut
    assert before.cut == 0
    assert done.freed > 10_000
    assert not (run / "journal" / "000000.sgz").exists()


def test_the_cut_says_who_why_and_what(run: Path, signer: Signer, year: int) -> None:
    """``retention_cut`` has rule, operator, reason, time, range and counts, of every cut in turn."""
    first, second = cut(run, "before-seq=40", signer, year), cut(run, "before-seq=90", signer, year + 5)
    body = read_cut(run / "journal" / CUT).body()

    assert [(one.rule, one.operator, one.reason, one.utc) for one in body.cuts] == [
        ("before-seq=40", *OPERATOR.values(), year), ("before-seq=90", *OPERATOR.values(), year + 5)
    ]  # fmt: skip
    assert [(one.first, one.last) for one in body.cuts] == [
        (1, first.plan.last), (first.plan.last + 1, second.plan.last)
    ]  # fmt: skip
    assert [one.counts for one in body.cuts] == [first.plan.counts, second.plan.counts]
    assert both(run, signer)[:3] == ("complete", verify_run(run).records, second.plan.last)


def test_a_backup_of_what_was_cut_is_recognised(made: tuple[Path, Signer, int], run: Path, year: int) -> None:
    """Each segment that is gone has its digest in the cut: SHA-256 of its frames."""
    cut(run, "before-seq=60", made[1], year)
    digests = read_cut(run / "journal" / CUT).body().digests
    for number, digest in enumerate(digests):
        backup = made[0] / "journal" / f"{number:06d}.sgz"
        assert hashlib.sha256(b"".join(blocks(backup))).hexdigest() == digest


def test_every_changed_byte_of_the_cut_is_found(run: Path, signer: Signer, year: int) -> None:
    """No byte of ``cut.sgc`` can be changed or taken away, and both verifiers say the same."""
    cut(run, "before-seq=60", signer, year)
    file = run / "journal" / CUT
    data = file.read_bytes()
    for at in range(0, len(data), 23):
        file.write_bytes(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])
        assert both(run, signer)[:3] in [("altered", 0, 0), ("truncated", 0, 0)], at
        file.write_bytes(data[:at])
        assert both(run, signer)[:3] in [("altered", 0, 0), ("truncated", 0, 0)], at
    for tail in (b"\0", frames.frame(b"\2x")):
        file.write_bytes(data + tail)
        assert both(run, signer)[0] != "complete"
    file.write_bytes(data)
    assert both(run, signer)[0] == "complete"


def resigned(run: Path, signer: Signer, change: dict[str, Any]) -> None:
    """Put another body into the cut and sign it with ``signer``: what the owner of the key could try."""
    file = run / "journal" / CUT
    old = read_cut(file)
    body = old.body().model_dump(mode="json") | change
    packed: bytes = ormsgpack.packb(body)
    statement = frames.record(11, 1, body["size"] - 1, None, None, packed)
    made = Cut(old.header, old.opened, old.checkpoint, statement, b"")
    run_id = run_id_of(run)
    note = bytes((SIGNATURE,)) + signer.signed(signed_text(run_id, made))
    parts = (old.header, old.opened, old.checkpoint, statement, note)
    file.write_bytes(b"".join(map(frames.frame, parts)))


def run_id_of(run: Path) -> str:
    """The id in ``run_open``."""
    return str(next(read_run(run, check=False)).data["run_id"])


def test_whoever_has_not_the_key_cannot_cut(run: Path, signer: Signer, year: int) -> None:
    """The same cut signed with another key is altered; with the run's own it is the negative control."""
    cut(run, "before-seq=60", signer, year)
    resigned(run, signer, {})
    assert both(run, signer)[0] == "complete"
    resigned(run, Signer.ephemeral(), {})
    assert both(run, signer)[:2] == ("altered", 0)
    assert both(run, None)[:2] == ("altered", 0)


@pytest.mark.parametrize("what", ["peaks", "path", "counts", "size", "first", "digests"])
def test_not_even_the_key_makes_a_cut_that_does_not_fit(run: Path, signer: Signer, year: int, what: str) -> None:
    """Peaks, path, counts and size are held against signed roots and the counts of ``run_close``."""
    cut(run, "before-seq=60", signer, year)
    body = read_cut(run / "journal" / CUT).body().model_dump(mode="json")
    moved = {**body["cuts"][0]}
    moved["counts"] = {**moved["counts"], "decision": moved["counts"]["decision"] - 1, "human": 1}
    changes: dict[str, dict[str, Any]] = {
        "peaks": {"peaks": ["00" * 32, *body["peaks"][1:]]},
        "path": {"path": body["path"][:-1]},
        "counts": {"cuts": [moved]},
        "size": {"size": body["size"] + 1},
        "first": {"cuts": [{**body["cuts"][0], "first": 0}]},
        "digests": {"digests": body["digests"][:-1]},
    }
    resigned(run, signer, changes[what])
    assert both_verdicts(run, signer) in [("altered", "altered"), ("truncated", "truncated")]


def both_verdicts(run: Path, signer: Signer) -> tuple[str, str]:
    """What either verifier says."""
    return verify_run(run, signer.public).verdict, verify_offline.verify(str(run), str(signer.public))["verdict"]


def test_a_missing_cut_or_segment_behind_it_is_found(run: Path, signer: Signer, year: int) -> None:
    """Without ``cut.sgc`` the first segments are missing; without the first one behind it, that one."""
    done = cut(run, "before-seq=60", signer, year)
    file = run / "journal" / CUT
    data = file.read_bytes()
    file.unlink()
    assert both_verdicts(run, signer) == ("truncated", "truncated")
    file.write_bytes(data)
    (run / "journal" / f"{done.plan.segments:06d}.sgz").unlink()
    assert both_verdicts(run, signer) == ("truncated", "truncated")


def test_a_kill_between_the_two_steps_harms_nothing(
    made: tuple[Path, Signer, int], run: Path, signer: Signer, year: int
) -> None:
    """Segments that are cut and still there must be the ones that were cut; the next prune removes them."""
    done = cut(run, "before-seq=60", signer, year)
    left = run / "journal" / "000001.sgz"
    shutil.copy(made[0] / "journal" / left.name, left)
    assert both(run, signer)[:3] == ("complete", done.report.records, done.plan.last)
    data = left.read_bytes()
    left.write_bytes((made[0] / "journal" / "000002.sgz").read_bytes())
    assert both(run, signer)[0] == "altered"
    left.write_bytes(data[:-3])
    assert both(run, signer)[0] == "altered"
    left.write_bytes(data)
    again = cut(run, "before-seq=60", signer, year)
    assert (again.plan.last, again.files, left.exists()) == (done.plan.last, 1, False)


def test_what_is_kept_longer_is_refused_with_its_number(run: Path, signer: Signer, year: int) -> None:
    """A person's act is kept for five years: a rule of one year stops there, unless the kind is named."""
    before = both(run, signer)
    with pytest.raises(JournalError, match=r"1 human \(5y\).*--yes KIND"):
        cut(run, "older-than=365d", signer, year)
    assert both(run, signer) == before
    done = cut(run, "older-than=365d", signer, year, named=["human"])
    assert done.plan.held == {"human": 1}
    assert both(run, signer)[:2] == ("complete", before[1])


def test_a_record_number_allows_what_the_age_allows(run: Path, signer: Signer, year: int) -> None:
    """``before-seq`` does not shorten a class: what is a minute old is kept, whatever its number."""
    with pytest.raises(JournalError, match=r"decision \(1y\)"):
        cut(run, "before-seq=60", signer, year - 360 * DAY_NS)
    assert cut(run, "before-seq=60", signer, year).plan.held == {}


def test_what_is_younger_stays(run: Path, signer: Signer, year: int) -> None:
    """A rule that nothing is old enough for cuts nothing and leaves no file."""
    assert cut(run, "older-than=367d", signer, year).plan.last == 0
    assert not (run / "journal" / CUT).exists()


def test_the_last_segment_stays(run: Path, signer: Signer, year: int) -> None:
    """However old the run is, ``run_open`` and the segment with ``run_close`` can be read."""
    cut(run, "older-than=1826d", signer, year + 5000 * DAY_NS)
    kinds = [record.kind for record in read_run(run, key=signer.public)]
    assert (kinds[0], kinds[-1]) == (RecordKind.RUN_OPEN, RecordKind.RUN_CLOSE)
    assert both(run, signer)[0] == "complete"


def test_only_a_complete_run_is_cut(run: Path, signer: Signer, year: int) -> None:
    """Damage, another key: nothing is cut, and the reason is said."""
    with pytest.raises(JournalError, match=r"altered.*only a run that is complete"):
        cut(run, "before-seq=60", Signer("test", bytes(32), "test"), year)
    last = sorted((run / "journal").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(JournalError, match="truncated"):
        cut(run, "before-seq=60", signer, year)
    assert not (run / "journal" / CUT).exists()


def test_readers_get_run_open_and_what_is_left(run: Path, signer: Signer, year: int) -> None:
    """``read_run`` yields record 0 and goes on behind the cut; the report shows the episodes that are left whole."""
    done = cut(run, "before-seq=60", signer, year)
    found = [record.seq for record in read_run(run, key=signer.public)]

    assert found == [0, *range(done.plan.last + 1, done.report.records)]
    assert [episode.opened.episode for episode in summarize(run, signer.public).episodes] == [2, 3]
    assert first_episode(run) == (65, 2)


def test_readers_are_told_of_the_cut(run: Path, signer: Signer, year: int) -> None:
    """The timeline and the report say what was cut, when, by whom, by which rule; where nothing was, nothing."""
    whole, text = list(show_run(run)), write_report(run, plots=False).read_text()
    assert not [row for row in whole if row.what == "cut"]
    assert "cut since</th><td>nothing" in text
    first, second = cut(run, "before-seq=40", signer, year), cut(run, "before-seq=90", signer, year)
    rows = list(show_run(run, Choice.named(kinds=["retention_cut"])))
    text = unescape(write_report(run, plots=False).read_text())

    assert [(row.seq, row.what, row.grade) for row in rows] == [
        (1, "cut", "warn"),
        (first.plan.last + 1, "cut", "warn"),
    ]
    when = datetime.fromtimestamp(year // 10**9, UTC).isoformat(timespec="seconds")
    for row, done, rule in zip(rows, (first, second), ("before-seq=40", "before-seq=90"), strict=True):
        assert f"to {done.plan.last} cut (" in row.detail
        assert row.detail.endswith(f"on {when} by {OPERATOR['operator']}, rule {rule}: {OPERATOR['reason']}")
        assert f"<li>{row.detail}</li>" in text
    assert f"{second.report.cut} of them cut since: see Integrity." in text
    assert list(show_run(run))[1:3] == rows


@pytest.mark.parametrize("utc", [1 << 70, -(1 << 70)])
def test_a_time_that_no_calendar_has_is_told_as_it_is(utc: int) -> None:
    """A cut made under a broken clock is still told."""
    counts = {"decision": 1}
    one = CutRange(first=1, last=1, counts=counts, rule="r", operator="o", reason="", utc=utc)
    assert told_cut(one) == f"records 1 to 1 cut (1 decision) on {utc} ns by o, rule r"


@pytest.mark.parametrize(
    "text", ["", "keep=human", "older-than=1y", "older-than=-1d", "before-seq=x", "older-than=1d "]
)
def test_a_rule_has_one_of_two_forms(text: str) -> None:
    """Anything else is refused with both forms in the message."""
    with pytest.raises(JournalError, match=r"older-than=DAYSd or before-seq=N"):
        Rule.parse(text)


@pytest.mark.parametrize("size", range(1, 40))
def test_the_path_proves_the_first_leaf_of_every_size(size: int) -> None:
    """Siblings collected on the way lead from the first leaf to the first peak, as many as it has levels."""
    walk = prune.Walk(prune.Begin(Tree(), frames.GENESIS, (), ()))
    leaves = [hashlib.sha256(bytes((number,))).digest() for number in range(size)]
    for leaf in leaves:
        walk.add(leaf, 3)
    path = [sibling.hex() for sibling in walk.path]

    assert len(path) == size.bit_length() - 1
    assert climbed(leaves[0], path) == walk.tree.peaks[0]


def test_a_plan_changes_nothing(run: Path, year: int) -> None:
    """``plan_cut`` needs no key and leaves the folder as it is."""
    before = sorted(run.rglob("*"))
    plan = plan_cut(run, Rule.parse("before-seq=60"), year)
    assert isinstance(plan, Plan)
    assert plan.last > 0
    assert sorted(run.rglob("*")) == before


def test_a_cut_without_a_key_is_read_but_proves_nothing(run: Path, signer: Signer, year: int) -> None:
    """``boundary`` without a key takes what stands there: for readers that do not check."""
    cut(run, "before-seq=60", signer, year)
    found = boundary(read_cut(run / "journal" / CUT), "", None)
    assert found.tree.size == found.body.size == sum(found.body.counts.values())
