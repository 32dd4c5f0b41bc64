from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from safeguard.audit import Journal
from safeguard.audit.records.encode import JsonObject, decision_body
from safeguard.audit.records.registry import EpisodeOpen, Record
from safeguard.core.enums import Cause, Enforcement, FilterStatus, Mode, RecordKind
from safeguard.core.errors import JournalError
from safeguard.core.protocols import PolicyPort
from safeguard.core.types import Decision, Observation, Proposal, Timings
from safeguard.replay import RecordedPort, ReplayReport, replay_run
from tests.unit import audit_edit
from tests.unit.audit_runs import PERIOD, SPEC, decision, episode_open, observation, proposal, started

TICKS = 30


class FakeShield:
    """A small deterministic shield whose decisions depend on everything that a replay must feed back."""

    def __init__(self, port: PolicyPort, gain: float = 1.0) -> None:
        self.port, self.gain, self.closed = port, gain, False
        self.arrived: Proposal | None = None
        self.mode, self.count, self.energy = Mode.BOOT, 0, 0.0
        self.measured = Timings()

    def begin_episode(self, task: str) -> None:
        """Forget everything but the gain."""
        self.port.reset()
        self.reset()

    def step(self, observation: Observation, now: int | None = None) -> Decision:
        """A decision from the observation, the time, the proposal, the mode and the last tick's duration."""
        assert now is not None
        self.port.post(observation, now)
        self.arrived = self.port.poll(now)
        if isinstance(self.port, RecordedPort):
            self.measured = self.port.measured
        late = self.measured.total > 300_000
        self.energy += float(np.nansum(observation.state.q)) * self.gain + 1e-9 * now
        seq = -1 if self.arrived is None else self.arrived.seq
        tick, self.count = self.count, self.count + 1
        outcome = decision(
            tick,
            mode=self.mode,
            causes=(Cause.TICK_OVERRUN,) if late else (),
            status=FilterStatus.CORRECTED if seq > 0 else FilterStatus.ADMISSIBLE,
            effort=self.energy,
        )
        return replace(outcome, timings=replace(outcome.timings, total=500_000 if tick % 7 == 3 else tick))

    def acknowledge(self, *, operator: str, reason: str, simulated: bool = False) -> None:
        """Leave BOOT or HOLD."""
        self.mode = Mode.NOMINAL

    def stop(self, *, operator: str, reason: str, simulated: bool = False) -> None:
        """Go to STOP."""
        self.mode = Mode.STOP

    def jog(self, velocity: Sequence[float], *, operator: str, reason: str, simulated: bool = False) -> None:
        """Nothing moves here."""

    def give(self, source: str, *, operator: str, reason: str, simulated: bool = False) -> None:
        """There is one source."""

    def reset(self) -> None:
        """Back to the start."""
        self.mode, self.count, self.energy = Mode.BOOT, 0, 0.0

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


class LivePort:
    """A policy port that answers every fifth tick."""

    spec = SPEC

    def __init__(self) -> None:
        self.tick = 0

    def post(self, observation: Observation, now: int) -> None:
        """Count the ticks."""
        self.tick += 1

    def poll(self, now: int) -> Proposal | None:
        """A proposal every fifth tick."""
        return proposal(self.tick) if self.tick % 5 == 0 else None

    def reset(self) -> None:
        """Start again."""
        self.tick = 0


HUMANS = {2: "acknowledge", 15: "stop", 20: "reset", 22: "acknowledge"}


def record_episode(journal: Journal, episode: int, gain: float) -> None:
    """Run a shield with ``gain`` for an episode and record it."""
    shield = FakeShield(LivePort(), gain)
    journal.append(RecordKind.EPISODE_OPEN, episode_open(episode, Enforcement.FULL, f"gain {gain}"))
    shield.begin_episode("push")
    for tick in range(TICKS):
        if action := HUMANS.get(tick):
            body: JsonObject = {"operator": "o", "reason": "r", "action": action, "simulated": True}
            journal.append(RecordKind.HUMAN, body)
            if action == "reset":
                shield.reset()
            else:
                getattr(shield, action)(operator="o", reason="r", simulated=True)
        seen = observation(tick, np.full(7, np.nan) if tick == 9 else None)
        outcome = shield.step(seen, now=tick * PERIOD)
        shield.measured = outcome.timings
        body = decision_body(tick * PERIOD, seen, shield.arrived, replace(outcome, episode=episode))
        journal.append(RecordKind.DECISION, body, tick=outcome.tick, t=tick * PERIOD)
    journal.append(RecordKind.EPISODE_CLOSE, {"episode": episode, "outcome": {}})


def gain_of(opened: Record) -> float:
    """The gain that an episode was recorded with."""
    assert isinstance(opened.body, EpisodeOpen)
    return float((opened.body.scenario or "").removeprefix("gain "))


def rebuild(run_open: Record, episode_open: Record, port: PolicyPort) -> FakeShield:
    """The shield that made the episode."""
    return FakeShield(port, gain_of(episode_open))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A recorded run of three episodes with different shields."""
    with started(tmp_path) as journal:
        for episode, gain in enumerate([1.0, 0.5, 2.0]):
            record_episode(journal, episode, gain)
    return tmp_path


def test_a_run_replays_identically(run: Path) -> None:
    """Recorded inputs through the same shield give every decision again, bit for bit."""
    seen: list[int] = []
    report = replay_run(run, rebuild=rebuild, progress=seen.append)
    assert report == ReplayReport(decisions=3 * TICKS, episodes=3, divergence=None)
    assert report.identical
    assert seen == list(range(1, 3 * TICKS + 1))


def test_chosen_episodes_replay_alone(run: Path) -> None:
    """Episodes that were not asked for are not entered, nor are their people's actions."""
    report = replay_run(run, rebuild=rebuild, episodes=[2])
    assert (report.decisions, report.episodes, report.identical) == (TICKS, 1, True)


def test_an_empty_run_is_not_identical(tmp_path: Path) -> None:
    """Nothing recomputed proves nothing."""
    started(tmp_path).close()
    report = replay_run(tmp_path, rebuild=rebuild)
    assert (report.decisions, report.divergence, report.identical) == (0, None, False)


def edit(run: Path, at_tick: int, change: Callable[[JsonObject], None], *, head: bool = False) -> int:
    """Change the body, or the head, of episode 1's decision at a tick and sign anew; returns its record's number."""
    changed: list[int] = []

    def at(seq: int, record: dict[str, Any]) -> None:
        if record["kind"] == "decision" and record["body"]["episode"] == 1 and record["t"] == at_tick * PERIOD:
            change(record if head else record["body"])
            changed.append(seq)

    audit_edit.resigned(run, at)
    (seq,) = changed
    return seq


def put(path: str, value: object) -> Callable[[JsonObject], None]:
    """An edit that sets the value at a dotted path."""

    def change(body: object) -> None:
        *parents, last = path.split(".")
        for key in parents:
            is_list = isinstance(body, list)
            body = cast("list[object]", body)[int(key)] if is_list else cast("dict[str, object]", body)[key]
        if isinstance(body, list):
            cast("list[object]", body)[int(last)] = value
        else:
            cast("dict[str, object]", body)[last] = value

    return change


EDITS: Sequence[tuple[str, object, str, str]] = [
    ("decision.command.tau.3", 1.0, "command", "decision.command.tau[3]"),
    ("decision.filter.status", "refused", "filter", "decision.filter.status"),
    ("decision.filter.margins.clearance", 0.3, "filter", "decision.filter.margins.clearance"),
    ("decision.mode", 4, "modes", "decision.mode"),
    ("decision.causes", ["estop", "tick_overrun"], "modes", "decision.causes"),
    ("decision.verdicts.3.level", 3, "monitors", "decision.verdicts[3].level"),
    ("observation.state.q.2", 0.25, "monitors", "decision.verdicts[3].score"),
    ("t", 11 * PERIOD + 1, "monitors", "decision.verdicts[3].score"),
    ("tick", 5, "shield", "tick"),
]


@pytest.mark.parametrize(("path", "value", "stage", "field"), EDITS)
def test_an_edit_diverges_at_its_tick(run: Path, path: str, value: object, stage: str, field: str) -> None:
    """A changed input or decision is found at its tick even where somebody signed it anew, with stage and field."""
    seq = edit(run, 11, put(path, value), head=path in ("t", "tick"))
    found = replay_run(run, rebuild=rebuild).divergence
    assert found is not None
    assert (found.episode, found.seq, found.stage, found.path) == (1, seq, stage, field)
    assert found.expected != found.got


def test_a_removed_proposal_diverges(run: Path) -> None:
    """The decision that followed from a proposal does not come out without it."""
    edit(run, 9, put("proposal", None))
    found = replay_run(run, rebuild=rebuild).divergence
    assert found is not None
    assert (found.tick, found.stage, found.path) == (9, "filter", "decision.filter.status")


def test_the_sign_of_zero_counts(run: Path) -> None:
    """Bit for bit: -0.0 is not 0.0."""
    edit(run, 0, put("decision.command.tau.0", -0.0))
    found = replay_run(run, rebuild=rebuild).divergence
    assert found is not None
    assert (found.path, found.expected, found.got) == ("decision.command.tau[0]", "-0.0", "0.0")


def test_timings_are_inputs_not_results(run: Path) -> None:
    """A replay's own durations are not compared; the recorded ones decide the next tick again."""
    edit(run, 11, put("timings.filter", 1))
    assert replay_run(run, rebuild=rebuild).identical
    edit(run, 11, put("timings.total", 999_999))
    found = replay_run(run, rebuild=rebuild).divergence
    assert found is not None
    assert (found.tick, found.path) == (12, "decision.causes")


def test_another_configuration_diverges(run: Path) -> None:
    """A shield with another gain is found out in the first tick that shows it."""
    report = replay_run(run, rebuild=lambda _, opened, port: FakeShield(port, gain_of(opened) * 1.0000001))
    assert report.divergence is not None
    assert (report.divergence.episode, report.divergence.tick, report.decisions) == (0, 0, 0)


class Deaf(FakeShield):
    """A shield that never asks for proposals."""

    def step(self, observation: Observation, now: int | None = None) -> Decision:
        """As if no policy were there."""
        port, self.port = self.port, RecordedPort(SPEC)
        try:
            return super().step(observation, now)
        finally:
            self.port = port


def test_a_shield_that_ignores_its_policy_diverges(run: Path) -> None:
    """A proposal that the replayed shield did not take is a difference of the policy stage."""
    found = replay_run(run, rebuild=lambda _, opened, port: Deaf(port, gain_of(opened))).divergence
    assert found is not None
    assert (found.stage, found.path, found.got) == ("policy", "proposal", "null")


def test_every_shield_is_closed_once_it_is_done(run: Path) -> None:
    """Shields are closed when the next one takes over, at the end, and after a divergence."""
    made: list[FakeShield] = []

    def remember(run_open: Record, opened: Record, port: PolicyPort) -> FakeShield:
        assert all(shield.closed for shield in made[:-1])
        made.append(rebuild(run_open, opened, port))
        return made[-1]

    replay_run(run, rebuild=remember)
    assert len(made) == 3
    assert all(shield.closed for shield in made)


def test_one_shield_may_serve_all_episodes(run: Path) -> None:
    """A shield that carries state over episodes is kept, not closed in between."""
    shield = FakeShield(RecordedPort(None))

    def same(run_open: Record, opened: Record, port: PolicyPort) -> FakeShield:
        assert not shield.closed
        shield.port, shield.gain = port, gain_of(opened)
        return shield

    assert replay_run(run, rebuild=same).identical
    assert shield.closed


def test_a_recorded_port_is_a_policy_port() -> None:
    """It hands out what was loaded once, knows its spec, and forgets on reset."""
    port: PolicyPort = (recorded := RecordedPort(SPEC))
    recorded.load(proposal(3))
    assert port.poll(0) is not None
    assert port.poll(0) is None
    recorded.load(proposal(3))
    port.reset()
    assert port.poll(0) is None
    assert port.spec is SPEC
    with pytest.raises(JournalError, match="no action spec"):
        _ = RecordedPort(None).spec


def test_a_decision_outside_its_episode_is_refused(run: Path) -> None:
    """A decision of an episode that is not open is an error that names the record."""
    seq = edit(run, 11, put("episode", 7))
    with pytest.raises(JournalError, match=f"record {seq}: decision of episode 7, which is not open"):
        replay_run(run, rebuild=rebuild)


def test_a_torn_run_is_refused(run: Path) -> None:
    """A journal that ends inside a frame cannot be replayed to its end."""
    audit_edit.put(run, audit_edit.raw(run)[:-10])
    with pytest.raises(JournalError, match="ends inside a frame"):
        replay_run(run, rebuild=rebuild)
