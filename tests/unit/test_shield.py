# pyright: reportPrivateUsage=false
# A violation is planted where the code would make it: inside.

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from safeguard.core.enums import Authority, Cause, Mode
from safeguard.core.errors import ConfigError, JournalError, ModeTableError, SpecError
from safeguard.core.types import Observation, RobotState, Sensor, TerminalStop, TorqueCommand
from safeguard.policies import InlinePort, as_policy
from safeguard.shield import Shield
from tests.laws.lab import CONFIG, TICK, Lab, beyond, near, panda, spec

Patch = pytest.MonkeyPatch


def modes(lab: Lab) -> list[Mode]:
    """The modes that the lab went through, without repetitions."""
    seen = [d.mode for d in lab.decisions]
    return [mode for at, mode in enumerate(seen) if at == 0 or mode is not seen[at - 1]]


# -- starting -------------------------------------------------------------------------------------------


def test_nothing_moves_before_an_acknowledgement() -> None:
    """After the self-test the body holds where it stands, for ever, until a person lets it move."""
    lab = Lab(beyond)
    assert {(d.mode, d.authority) for d in lab.run(400)} == {(Mode.HOLD, Authority.BACKUP)}
    assert np.abs(lab.q - panda().home).max() < 1e-6


def test_early_acknowledgement_waits_for_standstill() -> None:
    """The acknowledgement that starts an episode may come first; it is taken as soon as the dwell is over."""
    lab = Lab()
    lab.acknowledge()
    lab.run(150)
    assert modes(lab) == [Mode.HOLD, Mode.CAUTIOUS]
    assert next(d.tick for d in lab.decisions if d.mode is Mode.CAUTIOUS) in (99, 100, 101)


def test_early_acknowledgement_becomes_void() -> None:
    """After ``start_ack_s`` an acknowledgement that was not taken counts for nothing."""
    config = CONFIG.model_copy(update={"start_ack_s": 0.1})
    lab = Lab(config=config)
    lab.acknowledge()
    lab.run(400)
    assert modes(lab) == [Mode.HOLD]


def test_caution_after_the_start() -> None:
    """Motion starts under the envelope of CAUTIOUS; after half a second of calm it is NOMINAL."""
    lab = Lab(near).start(300)
    assert modes(lab) == [Mode.HOLD, Mode.CAUTIOUS, Mode.NOMINAL]
    limits = panda().limits.v_max
    fast = Lab(beyond).start(220)
    assert {d.mode for d in fast.decisions[-200:]} == {Mode.CAUTIOUS}
    assert (np.abs(fast.v) <= 0.5 * limits + 1e-9).all()


def test_operator_must_have_a_name() -> None:
    """An anonymous acknowledgement or stop is refused."""
    lab = Lab()
    with pytest.raises(ConfigError, match=r"acknowledge: operator must name somebody"):
        lab.shield.acknowledge(operator="", reason="why not")
    with pytest.raises(ConfigError, match=r"stop: operator"):
        lab.shield.stop(operator="", reason="")


# -- trouble --------------------------------------------------------------------------------------------


def one_bad(count: int) -> Callable[[Observation], object]:
    """A policy whose inferences are NaN from the sixth on, ``count`` times."""
    calls = 0

    def infer(seen: Observation) -> object:
        nonlocal calls
        calls += 1
        return near(seen) * (np.nan if 6 <= calls < 6 + count else 1.0)

    return infer


def test_one_invalid_output_is_bridged() -> None:
    """One NaN chunk costs a short brake: the backup has the body while it stands, then the policy again."""
    lab = Lab(one_bad(1)).start(400)
    bad = [d for d in lab.decisions if Cause.PROPOSAL_INVALID in d.causes]
    assert bad
    assert {d.authority for d in bad} == {Authority.BACKUP}
    assert Mode.HOLD not in modes(lab)[1:]
    assert lab.decisions[-1].authority is Authority.POLICY


def test_two_invalid_outputs_are_a_hold() -> None:
    """Two NaN chunks in a row outlast the bridge: HOLD, at rest, until somebody acknowledges."""
    lab = Lab(one_bad(3)).start(600)
    assert modes(lab)[-1] is Mode.HOLD
    assert np.abs(lab.v).max() < 1e-3
    lab.acknowledge()
    assert lab.tick().mode is Mode.CAUTIOUS
    assert lab.run(20)[-1].authority is Authority.POLICY


def test_acknowledging_does_not_cure_a_cause() -> None:
    """While the cause lasts, no acknowledgement leads out of HOLD."""
    lab = Lab(one_bad(10**6)).start(500)
    for _ in range(10):
        lab.acknowledge()
        lab.run(30)
    assert lab.decisions[-1].mode is Mode.HOLD


def test_emergency_stop_input() -> None:
    """The emergency stop ends in the terminal stop in the same tick and stays until acknowledged twice."""
    lab = Lab(beyond).start(60)
    decision = lab.tick(replace(lab.observe(), estop=True))
    assert isinstance(decision.command, TerminalStop)
    assert decision.mode is Mode.ESTOP
    assert {type(d.command) for d in lab.run(150)} == {TerminalStop}
    lab.acknowledge()
    decision = lab.tick()
    assert (decision.mode, type(decision.command)) == (Mode.HOLD, TorqueCommand)
    before = lab.q.copy()
    lab.run(110)
    assert np.abs(lab.q - before).max() < 1e-4, "the backup held another place than the brakes"
    lab.acknowledge()
    assert lab.tick().authority is Authority.POLICY


def test_third_emergency_stop_is_a_lockout() -> None:
    """E-stops are counted over episodes; the third one locks the process, and a new episode does not help."""
    lab = Lab()
    for last in (False, False, True):
        lab.shield.begin_episode("again")
        lab.run(150)
        lab.acknowledge()
        lab.run(2)
        lab.tick(replace(lab.observe(), estop=True))
        assert lab.decisions[-1].mode is (Mode.LOCKOUT if last else Mode.ESTOP)
    assert lab.decisions[-1].mode is Mode.LOCKOUT
    lab.shield.begin_episode("please")
    lab.acknowledge()
    assert {d.mode for d in lab.run(300)} == {Mode.LOCKOUT}
    assert {type(d.command) for d in lab.decisions[-300:]} == {TerminalStop}


def broken_q(seen: Observation, now: int) -> Observation:
    """Positions that are NaN."""
    return replace(seen, state=replace(seen.state, q=seen.state.q * np.nan))


def far_outside(seen: Observation, now: int) -> Observation:
    """Positions far outside the limits."""
    return replace(seen, state=replace(seen.state, q=seen.state.q + 3.0))


def too_fast(seen: Observation, now: int) -> Observation:
    """Speeds that no joint reaches."""
    return replace(seen, state=replace(seen.state, v=np.full(7, 100.0)))


def stale(seen: Observation, now: int) -> Observation:
    """A state 50 ms old."""
    return replace(seen, state=replace(seen.state, t=now - 50_000_000))


def backwards(seen: Observation, now: int) -> Observation:
    """A state from the start of the episode."""
    return replace(seen, state=replace(seen.state, t=0))


def wrong_shape(seen: Observation, now: int) -> Observation:
    """A state with too few numbers."""
    return replace(seen, state=RobotState(seen.state.q[:3], seen.state.v[:2], now))


def from_the_future(seen: Observation, now: int) -> Observation:
    """A state one second ahead."""
    return replace(seen, state=replace(seen.state, t=now + 10**9))


BROKEN = (broken_q, far_outside, too_fast, stale, backwards, wrong_shape, from_the_future)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_state_that_cannot_be_trusted(broken: Callable[[Observation, int], Observation]) -> None:
    """Without a trusted state the backup runs on its feed-forward at once, and STOP follows within three ticks."""
    lab = Lab(beyond).start(60)
    plan = lab.filter.plan
    seen = [lab.tick(broken(lab.observe(), lab.now)) for _ in range(5)]
    assert seen[0].authority is Authority.BACKUP
    assert seen[0].filter.source == "backup"
    assert np.isfinite(seen[0].filter.torque).all()
    assert seen[-1].mode is Mode.STOP
    assert lab.filter.plan is plan
    lab.run(400)
    assert np.abs(lab.v).max() < 1e-3
    assert lab.decisions[-1].mode is Mode.STOP


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_first_state_that_cannot_be_trusted(broken: Callable[[Observation, int], Observation]) -> None:
    """Where there never was a state to stop from, the answer is the terminal stop."""
    lab = Lab()
    decision = lab.shield.step(broken(lab.observe(), lab.now), now=lab.now)
    if broken is backwards:  # nothing to compare the first stamp with
        assert decision.mode is Mode.HOLD
    else:
        assert isinstance(decision.command, TerminalStop)


def test_a_gap_in_time() -> None:
    """After a pause of the caller the stored stop is over, and nothing jumps."""
    lab = Lab(beyond).start(60)
    lab.v[:] = 0.0
    lab.now += 300 * TICK
    decision = lab.tick()
    assert Cause.POLICY_LATE in decision.causes
    assert decision.authority is Authority.BACKUP
    lab.run(100)
    assert np.isfinite(lab.q).all()


def test_a_clock_that_runs_backwards() -> None:
    """Time that does not advance is HOLD in that tick."""
    lab = Lab(near).start(60)
    decision = lab.shield.step(lab.observe(), now=lab.now - 5 * TICK)
    assert Cause.CLOCK_BACKWARDS in decision.causes
    assert decision.mode >= Mode.HOLD


@pytest.mark.parametrize("period", [0.001, 0.002, 0.005])
def test_control_periods(period: float) -> None:
    """Every supported control period starts, moves and stops inside the limits."""
    lab = Lab(beyond, period=period).start(round(0.5 / period))
    limits = panda().limits
    assert (lab.q >= limits.q_min).all()
    assert (lab.q <= limits.q_max).all()
    lab.shield.stop(operator="lab", reason="test")
    lab.run(round(1.0 / period))
    assert np.abs(lab.v).max() < 1e-3


def test_operator_stop() -> None:
    """An operator's stop is STOP in the next tick, with the reason in its verdict."""
    lab = Lab(beyond).start(60)
    lab.shield.stop(operator="Ada", reason="somebody came in")
    decision = lab.tick()
    assert decision.mode is Mode.STOP
    assert Cause.OPERATOR_STOP in decision.causes
    assert any(v.detail == "somebody came in" for v in decision.verdicts)
    assert Cause.OPERATOR_STOP not in lab.tick().causes


def test_a_policy_that_misses_a_sensor() -> None:
    """A policy that needs a sensor which is not there proposes nothing, and is late."""

    def looks(seen: Observation) -> object:
        return near(seen) + 0.0 * seen.sensors["camera"].value.sum()

    blind = Lab(looks)
    blind.acknowledge()
    blind.run(300)
    assert Cause.POLICY_LATE in blind.decisions[-1].causes
    assert Authority.POLICY not in {d.authority for d in blind.decisions if Cause.POLICY_LATE in d.causes}
    sighted = Lab(looks)
    sighted.acknowledge()
    for _ in range(300):
        seen = sighted.observe()
        sighted.tick(replace(seen, sensors={"camera": Sensor(np.ones((2, 2)), sighted.now)}))
    assert sighted.decisions[-1].authority is Authority.POLICY


def test_a_policy_that_raises_while_it_drives() -> None:
    """Exceptions and wrong shapes of a policy reach nobody but the deadline and the intake."""
    calls = iter(range(10**6))

    def moody(seen: Observation) -> object:
        kind = next(calls) % 4
        if kind == 1:
            raise RuntimeError("moody")
        return near(seen) if kind in (0, 2) else near(seen)[:3]

    lab = Lab(moody)
    lab.acknowledge()
    lab.run(600)
    assert Cause.PROPOSAL_INVALID in {cause for d in lab.decisions for cause in d.causes}
    assert np.isfinite(lab.q).all()


# -- wiring ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["joints", "unit"])
def test_a_spec_that_does_not_fit(wrong: str) -> None:
    """A policy for another robot, or in another unit, is refused before anything moves."""
    with pytest.raises(SpecError, match=r"elbow|N\.m"):
        Lab(action=spec(("elbow",)) if wrong == "joints" else replace(spec(), unit="N.m"))


def test_a_strategy_that_does_not_exist() -> None:
    """An unknown strategy is refused with those that exist."""
    policy = as_policy(near, spec=spec())
    with pytest.raises(ModeTableError, match=r"monolithic"):
        Shield(panda(), policy, strategy="heroic", config=CONFIG)


def test_a_run_folder_that_is_taken(tmp_path: Path) -> None:
    """A second run in the same folder is refused."""
    Lab(audit=tmp_path).shield.close()
    with pytest.raises(JournalError, match=r"already holds a journal"):
        Lab(audit=tmp_path)


def test_a_port_is_taken_as_it_is() -> None:
    """A port is not wrapped again, and the clock that was given is used where ``now`` is not."""
    port = InlinePort(as_policy(near, spec=spec()))
    shield = Shield(panda(), port, config=CONFIG, clock=lambda: 4 * TICK)
    assert shield.port is port
    decision = shield.step(Observation(RobotState(panda().home, np.zeros(7), 4 * TICK)))
    assert decision.command.t == 4 * TICK


def test_the_tick_fits_on_a_page() -> None:
    """``Shield.step`` is one page: at most 60 lines."""
    assert len(inspect.getsource(Shield.step).splitlines()) <= 60
