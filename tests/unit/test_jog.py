"""A person moves the body in HOLD: slowly, only away from what is near, and only while the button is held."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from safeguard.controllers import SafetyFilter
from safeguard.core.enums import Authority, Cause, Enforcement, FilterStatus, Mode, SolverStatus
from safeguard.core.errors import ConfigError
from safeguard.core.types import Decision, FilterResult, Observation, RobotState, Vector
from safeguard.replay import replay_run
from tests.laws.lab import Lab, near, panda

LIMITS = panda().limits
SLOW = 0.1 * LIMITS.v_max


def held(**given: object) -> Lab:
    """A shield in HOLD that nobody has acknowledged."""
    lab = Lab(**given)  # type: ignore[arg-type]
    lab.run(5)
    assert lab.decisions[-1].mode is Mode.HOLD
    return lab


def jogged(lab: Lab, velocity: Vector, ticks: int) -> list[Decision]:
    """``ticks`` decisions while a person holds the button, which asks again in every tenth tick."""
    found: list[Decision] = []
    for k in range(ticks):
        if k % 10 == 0:
            lab.shield.jog(velocity, operator="lab", reason="test", simulated=True)
        found.append(lab.tick())
    return found


def joint(j: int, speed: float) -> Vector:
    """One joint at ``speed``, rad/s."""
    velocity = np.zeros(panda().n)
    velocity[j] = speed
    return velocity


def dying(seen: Observation) -> Vector:
    """A policy that answers for 0.3 s and then no more."""
    if seen.state.t > 300_000_000:
        raise RuntimeError("gone")
    return near(seen)


def unsolved(self: SafetyFilter, state: RobotState, *_: object) -> FilterResult:
    """A filter whose solver never finishes."""
    return self._run_backup(state, None, SolverStatus.UNSOLVED, 0, "solver did not finish")


def test_a_jog_moves_the_body_and_the_mode_stays() -> None:
    """0.1 rad/s for half a second are 50 mrad; the row of the jog is the reason, and the operator has the body."""
    lab = held()
    before = lab.q[0]
    decisions = jogged(lab, joint(0, 0.1), 250)
    assert {(d.mode, d.authority) for d in decisions} == {(Mode.HOLD, Authority.OPERATOR)}
    assert all("CORE-J01" in d.reasons for d in decisions)
    assert lab.q[0] - before == pytest.approx(0.05, abs=0.005)


def test_a_jog_is_slow() -> None:
    """However much is asked for, no joint becomes faster than the row's share of its limit."""
    lab = held()
    for _ in range(30):
        jogged(lab, np.full(panda().n, -2.0), 10)
        assert (np.abs(lab.v) <= SLOW + 1e-6).all()
    assert np.abs(lab.v).max() > 0.9 * SLOW.min()


def test_hold_to_run() -> None:
    """A tenth of a second after the last request the backup has the body again, and stops it."""
    lab = held()
    jogged(lab, joint(0, 0.2), 50)
    after = lab.run(150)
    assert [d.authority for d in after[:40]] == [Authority.OPERATOR] * 40
    assert {d.authority for d in after[60:]} == {Authority.BACKUP}
    assert np.abs(lab.v).max() < 1e-5


def test_a_long_jog_does_not_escalate() -> None:
    """Three seconds of motion in HOLD, twice as long as a body may need to come to rest."""
    lab = held()
    for side in (1.0, -1.0, 1.0, -1.0, 1.0, -1.0):
        jogged(lab, joint(0, 0.15 * side), 250)
    assert lab.decisions[-1].mode is Mode.HOLD


def test_only_away_from_a_limit_that_is_near() -> None:
    """20 mrad before its limit a joint is moved back as asked, and not towards it."""
    lab = held()
    lab.shield.begin_episode("near a limit")
    lab.q[0] = LIMITS.q_max[0] - 0.02
    lab.run(5)
    jogged(lab, joint(0, 0.1), 200)
    assert lab.q[0] <= LIMITS.q_max[0] - 0.02 + 1e-6
    jogged(lab, joint(0, -0.1), 250)
    assert lab.q[0] < LIMITS.q_max[0] - 0.06


def test_a_jog_is_nothing_in_other_modes_and_under_a_cause() -> None:
    """Not while the policy has the body, not in STOP, and not while what asks for HOLD is still there."""
    lab = Lab().start(20)
    assert {d.authority for d in jogged(lab, joint(0, 0.1), 30)} == {Authority.POLICY}
    lab.shield.stop(operator="lab", reason="test")
    assert {d.authority for d in jogged(lab, joint(0, 0.1), 30)} == {Authority.BACKUP}
    assert lab.decisions[-1].mode is Mode.STOP
    lab = held()
    jogged(lab, joint(0, 0.1), 20)
    lab.now -= 4_000_000
    assert lab.tick().authority is Authority.BACKUP
    assert Cause.CLOCK_BACKWARDS in lab.decisions[-1].causes


def test_a_stop_and_an_acknowledgement_end_a_jog() -> None:
    """The hand that stops or acknowledges is not the one that jogs."""
    lab = held()
    jogged(lab, joint(0, 0.1), 20)
    lab.shield.stop(operator="lab", reason="test")
    assert {d.authority for d in lab.run(20)} == {Authority.BACKUP}
    lab = held()
    jogged(lab, joint(0, 0.1), 20)
    lab.acknowledge()
    assert lab.tick().authority is Authority.BACKUP


def test_a_jog_asked_for_in_another_mode_never_moves_the_body_later() -> None:
    """A button that is held while HOLD comes has to be asked for again: nobody may be at it any more."""
    lab = Lab(dying).start(20)
    lab.shield.jog(joint(0, 0.2), operator="lab", reason="test")
    decisions = lab.run(600)
    assert decisions[-1].mode is Mode.HOLD
    assert Authority.OPERATOR not in {d.authority for d in decisions}


def test_a_filter_that_fails_during_a_jog_is_a_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backup in that tick; the cause in the next, and the jog is over while it is there."""
    lab = held()
    jogged(lab, joint(0, 0.1), 20)
    monkeypatch.setattr(SafetyFilter, "_decided", unsolved)
    decisions = jogged(lab, joint(0, 0.1), 10)
    assert decisions[0].source == "backup"
    assert Cause.FILTER_FAILED in decisions[1].causes
    assert decisions[1].authority is Authority.BACKUP


def test_monitor_only_begins_anew_from_where_the_raw_command_leads() -> None:
    """A jog does not go out without enforcement, so the stop that was stored for it is not relied on."""
    lab = Lab(dying, enforcement=Enforcement.MONITOR_ONLY).start(20)
    lab.run(600)
    assert lab.decisions[-1].mode is Mode.HOLD
    lab.shield.jog(lab.v + joint(0, 1e-4), operator="lab", reason="test")
    decision = lab.tick()
    assert (decision.authority, decision.source) == (Authority.OPERATOR, "proposal")
    assert decision.filter.status is FilterStatus.ADMISSIBLE
    assert lab.shield._fresh


@pytest.mark.parametrize(
    "velocity",
    [np.zeros(6), np.full(7, np.nan), "fast", [[0.0] * 7], None, ["1"] * 7, [True] * 7, [10**400] * 7, [1j] * 7],
    ids=["six", "nan", "word", "row", "none", "words", "booleans", "huge", "complex"],
)
def test_a_bad_jog_is_refused_with_the_joints_named(velocity: object) -> None:
    """What, how many, and in which unit; nothing moves and nothing is recorded."""
    lab = held()
    with pytest.raises(ConfigError, match=r"7 finite numbers in rad/s, one each for panda_joint1"):
        lab.shield.jog(velocity, operator="lab", reason="test")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"3 rad/s for panda_joint1 is beyond its limit of 2.175 rad/s"):
        lab.shield.jog(joint(0, 3.0), operator="lab", reason="test")
    with pytest.raises(ConfigError, match="operator must name somebody"):
        lab.shield.jog(np.zeros(7), operator="", reason="test")
    assert lab.tick().authority is Authority.BACKUP


def test_a_jog_is_recorded_and_replays(tmp_path: Path) -> None:
    """Every request stands in the journal with its velocities, and the run replays bit for bit."""
    lab = held(audit=tmp_path / "run")
    jogged(lab, joint(0, 0.1), 60)
    lab.run(80)
    lab.shield.close()
    report = replay_run(tmp_path / "run")
    assert report.identical, report.divergence
    assert report.decisions == len(lab.decisions)
