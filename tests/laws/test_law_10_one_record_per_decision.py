# pyright: reportPrivateUsage=false
# A violation is planted where the code would make it: inside.

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from safeguard.audit import reader, verify, verify_run
from safeguard.audit.encode import encode_command
from safeguard.controllers import ArmPlatform
from safeguard.core.types import Decision
from safeguard.replay import replay_run
from safeguard.shield import Shield
from tests.laws.lab import Lab, always, beyond, journal_file, rechain, records

Patch = pytest.MonkeyPatch
TICKS = 40


def check_law_10_written(run: Path) -> None:
    """When ``step`` returns, the record of its decision is the last line on file, complete, with its command."""
    lab = Lab(beyond, audit=run)
    lab.acknowledge()
    before = len(records(run))
    for tick in range(TICKS):
        decision = lab.tick()
        lines = journal_file(run).read_bytes().splitlines(keepends=True)
        assert len(lines) == before + tick + 1, "not one record a decision"
        assert lines[-1].endswith(b"\n")
        record = orjson.loads(lines[-1])["r"]
        assert (record["kind"], record["tick"]) == ("decision", tick)
        command = orjson.dumps(encode_command(decision.command), option=orjson.OPT_SERIALIZE_NUMPY)
        assert orjson.dumps(record["body"]["decision"]["command"]) == command, "another command was released"
    lab.shield.close()


def closed_run(run: Path, ticks: int = TICKS) -> Path:
    """A closed run with people, modes and motion in it."""
    lab = Lab(beyond, audit=run).start(ticks)
    lab.shield.stop(operator="lab", reason="test")
    lab.run(10)
    lab.shield.close()
    return run


def check_law_10_bytes(run: Path, places: int = 60) -> None:
    """Any changed byte of a closed run is found, and the record that holds it is named."""
    assert verify_run(run).verdict == "complete"
    file = journal_file(run)
    good = file.read_bytes()
    rng = np.random.default_rng(10)
    for at in [0, len(good) - 1, *rng.integers(0, len(good), places).tolist()]:
        bad = bytearray(good)
        bad[at] = ord("7") if bad[at] != ord("7") else ord("3")
        file.write_bytes(bytes(bad))
        found = verify_run(run)
        assert not found.ok, f"byte {at} may be changed"
        assert found.at_seq == good[:at].count(b"\n"), f"byte {at}: {found.problem}"
    file.write_bytes(good)


def check_law_10_cuts(run: Path) -> None:
    """A record that is missing, repeated or moved is found; so is an end that was cut off."""
    file = journal_file(run)
    lines = file.read_bytes().splitlines(keepends=True)
    edits = {
        "missing": lines[:20] + lines[21:],
        "repeated": lines[:20] + lines[19:],
        "swapped": [*lines[:20], lines[21], lines[20], *lines[22:]],
        "cut": lines[:-1],
        "cut inside": [*lines[:-1], lines[-1][:-9]],
    }
    for name, edited in edits.items():
        file.write_bytes(b"".join(edited))
        assert not verify_run(run).ok, f"{name}: not found"
    file.write_bytes(b"".join(lines))


def check_law_10_replay(run: Path) -> None:
    """Replaying the run gives the same decisions, bit for bit."""
    report = replay_run(run)
    assert report.identical, report.divergence
    assert report.decisions == sum(r["kind"] == "decision" for r in records(run))


def test_law_10_written(tmp_path: Path) -> None:
    """A command is released only after its record has been handed to the operating system."""
    check_law_10_written(tmp_path / "run")


def test_law_10_bytes(tmp_path: Path) -> None:
    """Changed bytes are found and named."""
    check_law_10_bytes(closed_run(tmp_path / "run"))


def test_law_10_cuts(tmp_path: Path) -> None:
    """Gaps, repetitions, swaps and cuts are found."""
    check_law_10_cuts(closed_run(tmp_path / "run"))


def test_law_10_replay(tmp_path: Path) -> None:
    """The same inputs give the same decisions."""
    check_law_10_replay(closed_run(tmp_path / "run"))


# -- planted ------------------------------------------------------------------------------------------


def skipped(patch: Patch) -> None:
    """Every seventh decision has no record."""
    real = Shield._recorded

    def record(self: Shield, *args: Any) -> bool:
        return args[-1].tick % 7 == 0 or real(self, *args)

    patch.setattr(Shield, "_recorded", record)


def buffered(patch: Patch) -> None:
    """Records are written one tick late."""
    real = Shield._recorded
    waiting: list[Any] = []

    def record(self: Shield, *args: Any) -> bool:
        waiting.append(args)
        return len(waiting) < 2 or real(self, *waiting.pop(0))

    patch.setattr(Shield, "_recorded", record)


def twice(patch: Patch) -> None:
    """Every decision is recorded twice."""
    real = Shield._recorded

    def record(self: Shield, *args: Any) -> bool:
        return real(self, *args) and real(self, *args)

    patch.setattr(Shield, "_recorded", record)


def another_command(patch: Patch) -> None:
    """Another command is released than the recorded one."""
    real = Shield._recorded

    def record(self: Shield, now: int, observation: Any, arrived: Any, decision: Decision) -> bool:
        written = real(self, now, observation, arrived, decision)
        object.__setattr__(decision, "command", self.platform.terminal_stop("late", now, 0))
        return written

    patch.setattr(Shield, "_recorded", record)


@pytest.mark.parametrize("plant", [skipped, buffered, twice, another_command], ids=lambda plant: plant.__name__)
def test_law_10_planted_written(plant: Callable[[Patch], None], tmp_path: Path, monkeypatch: Patch) -> None:
    """A record that is missing, late, double or not of the released command is seen."""
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_law_10_written(tmp_path / "run")


def no_chain(patch: Patch) -> None:
    """The hash chain is not compared."""
    real = reader._check_frame

    def check_frame(line: bytes, raw: bytes, previous: bytes, chain: bool) -> str:
        return real(line, raw, previous, False)

    patch.setattr(reader, "_check_frame", check_frame)


def no_end(patch: Patch) -> None:
    """The end of the run is not looked at."""
    patch.setattr(verify, "_ending", always(verify.VerifyReport("complete", 1)))


@pytest.mark.parametrize(
    ("plant", "check"),
    [(no_chain, check_law_10_bytes), (no_end, check_law_10_cuts)],
    ids=lambda value: value.__name__,
)
def test_law_10_planted_verifier(
    plant: Callable[[Patch], None], check: Callable[[Path], None], tmp_path: Path, monkeypatch: Patch
) -> None:
    """A verifier that does not look at the chain, or at how a run ends, is seen."""
    run = closed_run(tmp_path / "run")
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check(run)


def test_law_10_planted_noise(tmp_path: Path, monkeypatch: Patch) -> None:
    """A decision that depends on more than its record does not replay."""
    run = closed_run(tmp_path / "run")
    real, calls = ArmPlatform.filter, iter(range(10**6))

    def noisy(self: ArmPlatform, state: Any, *rest: Any) -> Any:
        return real(self, type(state)(state.q + 1e-15 * next(calls), state.v, state.t), *rest)

    monkeypatch.setattr(ArmPlatform, "filter", noisy)
    with pytest.raises(AssertionError):
        check_law_10_replay(run)


@pytest.mark.parametrize("what", ["torque", "mode", "observation"])
def test_law_10_planted_edit(what: str, tmp_path: Path) -> None:
    """An insider who edits a decision or an input and hashes the journal anew is caught by the replay."""
    run = closed_run(tmp_path / "run")
    at = [r["seq"] for r in records(run) if r["kind"] == "decision"][130]

    def edit(seq: int, record: dict[str, Any]) -> None:
        if seq != at:
            return
        body = record["body"]
        if what == "torque":
            body["decision"]["command"]["tau"][0] += 1e-9
        elif what == "mode":
            body["decision"]["mode"] = 0
        else:
            body["observation"]["state"]["q"][0] += 1e-9

    rechain(run, edit)
    assert verify_run(run).verdict == "complete"
    report = replay_run(run)
    assert report.divergence is not None
    assert report.divergence.seq == at
    with pytest.raises(AssertionError):
        check_law_10_replay(run)
