"""Several sources propose, one is followed, and a person says which: no jolt, no gap, no leak of the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safeguard.audit.reader import read_run
from safeguard.audit.records.registry import DecisionRecord, EpisodeOpen, Human
from safeguard.audit.report.page import write_report
from safeguard.core.config import PolicyConfig
from safeguard.core.enums import Authority, Cause, Enforcement, Mode, Reference
from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.types import ActionSpec, Observation, Proposal, TorqueCommand, Vector
from safeguard.policies import as_policy
from safeguard.replay import replay_run
from safeguard.shield import Shield
from tests.laws.lab import CONFIG, PERIOD, ROWS, Lab, near, panda, spec

SECOND = 1_000_000_000
N = panda().n
SIDES: Vector = np.array([1.0 if k % 2 == 0 else -1.0 for k in range(N)])
RAMPED = CONFIG.model_copy(update={"policy": PolicyConfig()})


class Hand:
    """A person's velocity commands, 50 a second, in degrees a second and in an order of their own."""

    def __init__(self, speed: float = 0.05) -> None:
        joints = tuple(reversed(panda().joints))
        self.spec = ActionSpec(joints, "deg/s", Reference.VELOCITY, 50.0)
        self.speed, self.silent, self.broken, self.resets = float(speed), False, False, 0
        self.error: Exception | None = None
        self._ready: Proposal | None = None
        self._seq, self._next = 0, 0

    def post(self, observation: Observation, now: int) -> None:
        """What the hand does now."""
        if self.error is not None:
            raise self.error
        if now < self._next or self.silent:
            return
        value = np.degrees(self.speed * (1.0 + 1e-9 * self._seq)) * (np.nan if self.broken else 1.0)
        row = float(value) * SIDES
        self._ready = Proposal(row[None, :], now, now, "gamepad", self._seq)
        self._seq, self._next = self._seq + 1, now + SECOND // 50

    def poll(self, now: int) -> Proposal | None:
        """The newest command, once."""
        ready, self._ready = self._ready, None
        return ready

    def reset(self) -> None:
        """A new episode."""
        self._ready, self._seq, self._next, self.resets = None, 0, 0, self.resets + 1


def desk(hand: Any = None, guest: Any = near, audit: Path | None = None, **more: Any) -> tuple[Lab, Any]:
    """A lab whose shield has a second source called teleop."""
    lab, hand = Lab(guest, config=RAMPED), hand or Hand()
    lab.shield.close()
    policy = guest if hasattr(guest, "post") else as_policy(guest, spec=spec(), name="guest")
    lab.shield = Shield(panda(), policy, period=PERIOD, config=RAMPED, sources={"teleop": hand}, audit=audit, **more)
    lab.shield.begin_episode("lease")
    return lab, hand


def give(lab: Lab, to: str) -> None:
    """A person hands the command over."""
    lab.shield.give(to, operator="ada", reason="test")


def test_a_change_of_hands_is_seamless() -> None:
    """Nobody's authority lapses, the mode stays, and no joint gains speed faster than the ramp's first share."""
    lab, _ = desk()
    lab.start(200)
    speed = np.abs(lab.v)
    give(lab, "teleop")
    a_max = panda().limits.a_max
    for k in range(50):
        decision = lab.tick()
        assert decision.authority is Authority.POLICY
        assert not {Cause.FILTER_FAILED, Cause.POLICY_LATE, Cause.PROPOSAL_INVALID} & set(decision.causes)
        share = 0.1 + 0.9 * (k + 1) * PERIOD / 0.3
        assert (np.abs(lab.v) - speed <= 1.01 * share * a_max * PERIOD + 1e-9).all()
        speed = np.abs(lab.v)
    assert lab.shield.holder == "teleop"


def test_the_hand_moves_the_body_by_name_and_unit() -> None:
    """Degrees in reverse order arrive as radians at the right joints."""
    lab, hand = desk()
    lab.start(20)
    give(lab, "teleop")
    lab.run(300)
    wanted = hand.speed * SIDES[::-1]
    assert lab.v == pytest.approx(wanted, abs=0.005)


def test_only_the_holder_counts() -> None:
    """What the others say, however broken, is no cause; the moment they hold it is one."""
    lab, hand = desk()
    hand.broken = True
    seen = lab.start(200).decisions
    assert all(Cause.PROPOSAL_INVALID not in d.causes for d in seen)
    give(lab, "teleop")
    assert Cause.PROPOSAL_INVALID in lab.tick().causes
    lab.run(2)
    assert lab.decisions[-1].authority is not Authority.POLICY


@pytest.mark.parametrize("error", [ValueError("cable"), KeyError("axis")])
def test_a_source_that_raises_while_it_waits_costs_nothing(error: Exception) -> None:
    """A guest's exception stays with it, and its words are in the verdict when it gets the command."""
    lab, hand = desk()
    hand.error = error
    lab.start(100)
    assert lab.decisions[-1].authority is Authority.POLICY
    give(lab, "teleop")
    details = [v.detail for v in lab.tick().verdicts if v.cause is Cause.PROPOSAL_INVALID]
    assert details
    assert str(error) in details[0]


def test_a_person_takes_over_from_a_hold_that_the_policy_caused() -> None:
    """A policy that fails stops the body; the hand gets the command, is acknowledged at rest, and moves it."""
    broken: list[bool] = []

    def guest(seen: Observation) -> Vector:
        return near(seen) * (np.nan if broken else 1.0)

    lab, _ = desk(guest=guest)
    lab.start(100)
    broken.append(True)
    lab.run(400)
    assert lab.decisions[-1].mode is Mode.HOLD
    lab.acknowledge()
    lab.run(100)
    assert lab.decisions[-1].mode is Mode.HOLD, "the policy is still broken"
    give(lab, "teleop")
    lab.run(400)
    assert lab.decisions[-1].mode is Mode.HOLD, "giving the command is no acknowledgement"
    lab.acknowledge()
    lab.run(600)
    assert lab.decisions[-1].authority is Authority.POLICY
    assert np.abs(lab.v).max() > 0.04


@pytest.mark.parametrize("strategy", ["modular", "monolithic", "vla", "dual"])
def test_a_person_takes_over_from_every_degraded_mode(strategy: str) -> None:
    """Late chunks degrade the policy; with the hand's commands the body goes on in every strategy."""
    lab, _ = desk(strategy=strategy)
    lab.start(300)
    lab.shield.port.post = lambda observation, now: None  # type: ignore[method-assign]  # no chunk from here on
    while lab.decisions[-1].mode is Mode.NOMINAL:
        lab.tick()
    assert Cause.POLICY_LATE in lab.decisions[-1].causes
    give(lab, "teleop")
    lab.run(5)
    assert Cause.POLICY_LATE not in lab.decisions[-1].causes
    lab.run(600)
    if lab.decisions[-1].mode >= Mode.HOLD:
        lab.acknowledge()
        lab.run(600)
    assert lab.decisions[-1].authority is Authority.POLICY
    assert np.abs(lab.v).max() > 0.04


def test_a_hold_of_the_command_expires() -> None:
    """A hand that lets go stops the body; the command does not go back to the policy by itself."""
    lab, hand = desk()
    lab.start(100)
    give(lab, "teleop")
    lab.run(200)
    hand.silent = True
    lab.run(400)
    assert Cause.POLICY_LATE in lab.decisions[-1].causes
    assert lab.decisions[-1].mode >= Mode.HOLD
    assert np.abs(lab.v).max() < 0.02
    assert lab.shield.holder == "teleop"


def test_back_to_the_policy() -> None:
    """The policy went on being shown observations, so it can go on at once."""
    lab, _ = desk()
    lab.start(100)
    for holder in ("teleop", "policy", "teleop", "policy"):
        give(lab, holder)
        seen = lab.run(100)
        assert all(d.authority is Authority.POLICY for d in seen), [c for d in seen for c in d.causes]


def test_giving_to_the_holder_changes_nothing() -> None:
    """Not even a ramp begins."""
    one, other = desk()[0], desk()[0]
    for lab in (one, other):
        lab.start(100)
    give(one, "policy")
    assert [d.command for d in one.run(50)][-1].seq == [d.command for d in other.run(50)][-1].seq
    assert np.array_equal(one.q, other.q)


def test_an_episode_begins_with_the_policy() -> None:
    """After begin_episode or reset the policy holds, and every source was reset."""
    lab, hand = desk()
    lab.start(20)
    give(lab, "teleop")
    lab.run(5)
    before = hand.resets
    lab.shield.reset()
    assert (lab.shield.holder, hand.resets) == ("policy", before + 1)


def test_the_scored_monitors_rest_while_a_person_holds() -> None:
    """They were calibrated for the policy; the record says who holds instead."""
    lab, _ = desk()
    lab.start(100)
    joint = {v.monitor for v in lab.decisions[-1].verdicts}
    give(lab, "teleop")
    decision = lab.tick()
    assert [v.detail for v in decision.verdicts if v.monitor == "lease"] == [
        "teleop holds the command; the policy's monitors rest"
    ]
    assert "lease" not in joint


def test_names_of_sources() -> None:
    """Empty names, the policy's name, one object twice and strangers are refused."""
    policy, hand = as_policy(near, spec=spec(), name="guest"), Hand()
    for sources, words in (({"": hand}, "empty"), ({"policy": hand}, "policy"), ({"a": hand, "b": hand}, "one object")):
        with pytest.raises(ConfigError, match=words):
            Shield(panda(), policy, sources=sources)
    with pytest.raises(SpecError, match="elbow"):
        Shield(panda(), policy, sources={"a": as_policy(near, spec=spec(("elbow",)), name="x")})
    lab, _ = desk()
    with pytest.raises(ConfigError, match="no source is called 'pilot', there are policy, teleop"):
        give(lab, "pilot")
    with pytest.raises(ConfigError, match="operator"):
        lab.shield.give("teleop", operator="", reason="x")


def test_the_record_says_who_held_and_a_replay_gives_the_same(tmp_path: Path) -> None:
    """Changes of hands, both specs and the holder's proposals are recorded, raw and sent; replay is identical."""
    lab, hand = desk(audit=tmp_path / "run")
    lab.start(100)
    for holder in ("teleop", "policy", "teleop"):
        give(lab, holder)
        lab.run(80)
    hand.broken = True
    lab.run(40)
    lab.shield.close()
    bodies = [record.body for record in read_run(tmp_path / "run")]
    opened = next(body for body in bodies if isinstance(body, EpisodeOpen))
    assert opened.sources["teleop"].unit == "rad/s"
    assert opened.given["teleop"].unit == "deg/s"
    assert [b.to for b in bodies if isinstance(b, Human) and b.action == "give"] == ["teleop", "policy", "teleop"]
    decisions = [body for body in bodies if isinstance(body, DecisionRecord)]
    assert {d.proposal.source for d in decisions if d.proposal is not None} == {"guest", "teleop"}
    assert all(d.decision.command.type == "torque" for d in decisions)
    report = replay_run(tmp_path / "run")
    assert report.divergence is None
    assert report.decisions == len(decisions)


def test_a_replay_sees_a_proposal_that_was_taken_from_the_wrong_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the record of the change of hands the same inputs give something else."""
    lab, _ = desk(audit=tmp_path / "run")
    lab.start(60)
    give(lab, "teleop")
    lab.run(60)
    lab.shield.close()

    class Deaf(Shield):
        def give(self, source: str, *, operator: str, reason: str, simulated: bool = False) -> None:
            """Nobody hears it."""

    monkeypatch.setattr("safeguard.recorded_shield.Shield", Deaf)
    assert replay_run(tmp_path / "run").divergence is not None


def test_relative_numbers_count_from_where_the_joints_were() -> None:
    """A chunk of deltas in degrees moves the body as the same absolute chunk does."""
    absolute = replace(spec(), chunk=4)
    relative = replace(absolute, unit="deg", reference=Reference.DELTA)

    def going(seen: Observation) -> Vector:
        return seen.state.q + 0.002 * (np.arange(1, 5)[:, None]) * np.ones(N)

    def stepping(seen: Observation) -> Vector:
        return np.degrees(0.002 * np.ones((4, N)) + 0.0 * seen.state.q)

    ends: list[Vector] = []
    for guest, action in ((going, absolute), (stepping, relative)):
        lab = Lab(guest, action=action).start(400)
        assert isinstance(lab.decisions[-1].command, TorqueCommand)
        ends.append(lab.q)
    assert ends[0] == pytest.approx(ends[1], abs=1e-9)
    assert (ends[0] - panda().home).min() > 0.005


def test_a_policy_that_cannot_be_on_time_is_refused_at_start() -> None:
    """Asked once a row of 0.2 s it would always be late for a deadline of 0.2 s; the error says what to set."""
    slow = as_policy(lambda seen: np.zeros((1, N)), spec=ActionSpec(panda().joints, "rad/s", Reference.VELOCITY, 5.0))
    with pytest.raises(ConfigError, match=r"deadline_s=0\.5"):
        Shield(panda(), slow)
    Shield(panda(), slow, config=CONFIG.model_copy(update={"policy": PolicyConfig(deadline_s=0.5)})).close()


def test_a_stick_that_is_let_go_stops_the_body_and_is_no_frozen_policy() -> None:
    """The same zeros again and again, while the body slows down: no cause, no HOLD, and the policy can go on."""
    lab, hand = desk(Hand(speed=0.3))
    lab.start(300)
    give(lab, "teleop")
    lab.run(400)
    hand.speed = 0.0
    seen = lab.run(400)
    assert {cause for d in seen for cause in d.causes} <= {Cause.UNCALIBRATED}
    assert np.abs(lab.v).max() < 1e-3
    give(lab, "policy")
    assert all(d.authority is Authority.POLICY for d in lab.run(200))


def test_a_policy_at_a_fixed_target_may_go_on_after_somebody_moved_the_body() -> None:
    """Its chunk is the same as before; that the joints moved was not its doing."""
    home = panda().home

    def at_home(seen: Observation) -> Vector:
        return np.tile(home, (ROWS, 1))

    lab, _ = desk(Hand(speed=0.2), guest=at_home)
    lab.start(300)
    give(lab, "teleop")
    lab.run(200)
    assert np.abs(lab.q - home).max() > 0.02
    give(lab, "policy")
    lab.tick()
    assert all(Cause.PROPOSAL_REPEATED not in d.causes for d in lab.decisions[-1:])


@pytest.mark.parametrize("rate_hz", [10.0, 30.0, 50.0, 100.0])
def test_single_velocities_follow_on_one_another(rate_hz: float) -> None:
    """Through the port that a shield makes, a constant speed is a constant speed, with nothing in between."""
    action = ActionSpec(panda().joints, "rad/s", Reference.VELOCITY, rate_hz)
    lab = Lab(lambda seen: np.full((1, N), 0.1), action=action).start(300)
    speeds: list[Vector] = []
    for _ in range(300):
        lab.tick()
        speeds.append(lab.v.copy())
    assert np.ptp(speeds, axis=0).max() < 1e-3
    assert np.mean(speeds) == pytest.approx(0.1, abs=1e-3)


class Broken(Hand):
    """A hand whose reset fails for a while."""

    failing = True

    def reset(self) -> None:
        """Raises, until it is mended."""
        if self.failing:
            raise SystemExit("serial line gone")
        super().reset()


def test_a_source_whose_reset_fails_costs_the_others_nothing() -> None:
    """It is asked again before it is listened to; until then it says nothing usable, in its own words."""
    hand = Broken()
    lab, _ = desk(hand)
    lab.start(100)
    assert lab.decisions[-1].authority is Authority.POLICY
    give(lab, "teleop")
    assert any("serial line gone" in v.detail for v in lab.tick().verdicts)
    give(lab, "policy")
    hand.failing = False
    lab.run(100)
    give(lab, "teleop")
    assert not {Cause.PROPOSAL_INVALID} & set(lab.tick().causes)


@pytest.mark.parametrize("enforcement", [Enforcement.OFF, Enforcement.MONITOR_ONLY])
def test_what_was_said_long_ago_is_not_carried_out_unfiltered(enforcement: Enforcement) -> None:
    """Without enforcement the raw proposal goes out; on a second hand-over there is none before a new one came."""
    lab, hand = desk(Hand(speed=0.3), enforcement=enforcement)
    lab.start(100)
    give(lab, "teleop")
    lab.run(50)
    hand.silent = True
    give(lab, "policy")
    lab.run(500)
    give(lab, "teleop")
    before = lab.q.copy()
    lab.run(200)
    assert np.abs(lab.q - before).max() < 0.05


def test_a_source_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    """What a binding says of its proposals is replayed in the same words."""
    hand = Hand()
    lab = Lab(near)
    lab.shield = Shield(
        panda(), as_policy(near, spec=spec(), name="guest"), period=PERIOD, config=RAMPED, sources={"arm: left": hand},
        audit=tmp_path / "run",
    )  # fmt: skip
    lab.shield.begin_episode("colon")
    lab.start(60)
    give(lab, "arm: left")
    lab.run(30)
    hand.spec = replace(hand.spec, others=())
    hand.speed = float("inf")
    lab.run(30)
    lab.shield.close()
    assert replay_run(tmp_path / "run").divergence is None


def test_a_source_is_not_called_what_the_policy_calls_itself() -> None:
    """Records could not tell them apart."""
    with pytest.raises(ConfigError, match="calls itself"):
        Shield(panda(), as_policy(near, spec=spec(), name="guest"), sources={"guest": Hand()})


def test_the_report_reads_the_holder_s_numbers_in_the_holder_s_units(tmp_path: Path) -> None:
    """What a person asked for is a speed, though the policy's numbers are positions."""
    lab, _ = desk(Hand(speed=30.0), audit=tmp_path / "run")
    lab.start(100)
    give(lab, "teleop")
    lab.run(100)
    lab.shield.close()
    page = write_report(tmp_path / "run").read_text("utf-8")
    assert "rad/s, velocity" in page
