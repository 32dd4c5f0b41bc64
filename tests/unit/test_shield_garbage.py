"""Nothing that comes in makes ``Shield.step`` raise, and nothing but finite, limited torques goes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from safeguard.audit import verify_run
from safeguard.core.enums import Authority, Cause, Enforcement, Mode
from safeguard.core.types import (
    Decision,
    Observation,
    Proposal,
    RobotState,
    Sensor,
    TerminalStop,
    TorqueCommand,
)
from safeguard.replay import replay_run
from tests.laws.lab import ROWS, TICK, Lab, near, panda, spec

NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, 1e300, -1e300, 1e-320, np.nan, np.inf])
)
VECTORS = st.one_of(
    arrays(np.float64, 7, elements=NUMBERS),
    arrays(np.float64, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=8), elements=NUMBERS),
    arrays(np.float64, 7, elements=st.floats(-3.0, 3.0)),
)
STAMPS = st.one_of(st.integers(-(10**10), 10**10), st.sampled_from([0, TICK, 10 * TICK, 2**62, -(2**62)]))
STATES = st.builds(RobotState, VECTORS, VECTORS, STAMPS)
SENSORS = st.dictionaries(st.text(max_size=4, alphabet="abc"), st.builds(Sensor, VECTORS, STAMPS), max_size=2)
OBSERVATIONS = st.builds(
    Observation,
    STATES,
    SENSORS,
    st.none() | st.just("push"),
    st.none() | arrays(np.float64, 6, elements=NUMBERS),
    st.booleans(),
    st.none() | st.just("fault 7"),
)
ACTIONS = st.one_of(
    arrays(np.float64, (ROWS, 7), elements=NUMBERS),
    arrays(np.float64, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9), elements=NUMBERS),
)
PROPOSALS = st.builds(
    Proposal,
    ACTIONS,
    STAMPS,
    STAMPS,
    st.just("guest"),
    st.integers(-5, 5),
    st.none() | arrays(np.float64, 3, elements=NUMBERS),
    st.none() | arrays(np.float64, (2, ROWS, 7), elements=NUMBERS),
)
TICKS = st.tuples(st.none() | OBSERVATIONS, st.none() | PROPOSALS, st.integers(-2 * TICK, 3 * TICK))


class Mailbox:
    """A port that hands out what the test put into it."""

    spec, name = spec(), "mailbox"

    def __init__(self) -> None:
        self.mail: Any = None

    def post(self, observation: Observation, now: int) -> None:
        """Nobody reads it."""

    def poll(self, now: int) -> Any:
        """What is there, once."""
        mail, self.mail = self.mail, None
        return mail

    def reset(self) -> None:
        """Empty it."""
        self.mail = None


def sane(decision: Decision) -> None:
    """What leaves the shield is finite and within the torque limits, or the terminal stop."""
    if isinstance(decision.command, TorqueCommand):
        assert decision.command.tau.shape == (7,)
        assert (np.abs(decision.command.tau) <= panda().limits.tau_max).all()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """One shield with a journal for all examples; every example is an episode of its own."""
    return Lab(Mailbox(), audit=tmp_path_factory.mktemp("garbage") / "run")


def drive(lab: Lab, ticks: list[tuple[Observation | None, Proposal | None, int]], moving: int) -> None:
    """A normal start, then ``ticks`` of garbage, then ten normal ticks."""
    shield, box = lab.shield, lab.shield.port
    assert isinstance(box, Mailbox)
    shield.begin_episode("garbage")
    lab.q, lab.v, lab.now = np.array(panda().home), np.zeros(7), 0
    shield.acknowledge(operator="lab", reason="test", simulated=True)
    for tick in range(moving):
        if tick % 25 == 0:
            box.mail = Proposal(near(lab.observe()), lab.now, lab.now, "guest", -100 + tick)
        lab.tick()
    for observation, proposal, step in [*ticks, *[(None, None, 0)] * 10]:
        box.mail = proposal
        lab.now += step
        decision = lab.tick(observation or lab.observe())
        if shield.enforcement is Enforcement.FULL:
            sane(decision)
    assert shield.journal is not None
    assert not shield.journal.failed


@settings(max_examples=60)
@given(ticks=st.lists(TICKS, min_size=1, max_size=4), moving=st.sampled_from([0, 0, 0, 110]))
def test_no_garbage_raises(lab: Lab, ticks: list[tuple[Observation | None, Proposal | None, int]], moving: int) -> None:
    """Any numbers in any shapes at any times, before and after the start: a decision, and a record of it."""
    with np.errstate(all="ignore"):
        drive(lab, ticks, moving)


@pytest.mark.parametrize("enforcement", [Enforcement.OFF, Enforcement.MONITOR_ONLY])
@settings(max_examples=25)
@given(ticks=st.lists(TICKS, min_size=1, max_size=3))
def test_no_garbage_raises_without_enforcement(
    enforcement: Enforcement,
    ticks: list[tuple[Observation | None, Proposal | None, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The same where raw proposals are sent."""
    lab = Lab(Mailbox(), audit=tmp_path_factory.mktemp("raw"), enforcement=enforcement)
    with np.errstate(all="ignore"):
        drive(lab, ticks, 110)
    lab.shield.close()


Change = Callable[[Any], Any]


def proposal(**parts: Any) -> Change:
    """A good proposal with some parts overwritten, past every check of its own."""

    def change(good: Proposal) -> Proposal:
        odd = replace(good)
        for name, value in parts.items():
            object.__setattr__(odd, name, value)
        return odd

    return change


GUESTS: dict[str, Change] = {
    "stamp is NaN": proposal(t_obs=float("nan")),
    "stamp is text": proposal(t_obs="now"),
    "sequence is nothing": proposal(seq=None),
    "sequence is true": proposal(seq=True),
    "features are a list": proposal(features=[1.0, 2.0]),
    "features are text": proposal(features="embedding"),
    "features are objects": proposal(features=np.array([object()])),
    "features are one number": proposal(features=1.0),
    "samples are a list": proposal(samples=[[0.0]]),
    "a text": lambda good: "proposal",
    "a dictionary": lambda good: {"actions": good.actions},
    "a bare array": lambda good: good.actions,
}


@pytest.mark.parametrize("enforcement", Enforcement)
@pytest.mark.parametrize("name", GUESTS)
def test_no_guest_raises(name: str, enforcement: Enforcement, tmp_path: Path) -> None:
    """What a guest hands over may be of any type: the tick goes on, the journal too."""
    box = Mailbox()
    lab = Lab(box, audit=tmp_path, enforcement=enforcement)
    drive(lab, [], 110)
    box.mail = GUESTS[name](Proposal(near(lab.observe()), lab.now, lab.now, "guest", 99))
    lab.tick()
    lab.run(3)
    assert lab.shield.journal is not None
    assert not lab.shield.journal.failed


@pytest.mark.parametrize(
    "parts",
    [{"seq": 2**70}, {"t_obs": -(2**70)}, {"source": b"x"}, {"source": "\ud800"}, {"t_inferred": object()}],
    ids=lambda parts: f"{next(iter(parts))} = {next(iter(parts.values()))!r}"[:24].replace("\ud800", "?"),
)
def test_no_guest_ends_the_journal(parts: dict[str, Any], tmp_path: Path) -> None:
    """No value in a proposal keeps the decision about it from being recorded."""
    box = Mailbox()
    lab = Lab(box, audit=tmp_path)
    drive(lab, [], 110)
    box.mail = proposal(**parts)(Proposal(near(lab.observe()), lab.now, lab.now, "guest", 99))
    lab.tick()
    assert lab.shield.journal is not None
    assert not lab.shield.journal.failed


NOTHING: dict[str, Any] = {
    "nothing": None,
    "text": "observation",
    "no state": replace(Observation(RobotState(np.zeros(7), np.zeros(7), 0)), state=None),  # type: ignore[arg-type]
    "stamp is text": Observation(RobotState(np.zeros(7), np.zeros(7), "now")),  # type: ignore[arg-type]
    "stamp of 70 bits": Observation(RobotState(np.zeros(7), np.zeros(7), 2**70)),
    "no sensors": replace(Observation(RobotState(np.zeros(7), np.zeros(7), 0)), sensors=None),  # type: ignore[arg-type]
    "a lone surrogate": Observation(RobotState(np.zeros(7), np.zeros(7), 0), instruction="\ud800"),
}


@pytest.mark.parametrize("enforcement", Enforcement)
@pytest.mark.parametrize("name", NOTHING)
def test_no_sensor_driver_raises(name: str, enforcement: Enforcement, tmp_path: Path) -> None:
    """What is not an observation is an invalid state: a stop, a record, a replay that agrees."""
    lab = Lab(near, audit=tmp_path, enforcement=enforcement).start(20)
    decision = lab.shield.step(NOTHING[name], now=lab.now)
    assert Cause.STATE_INVALID in decision.causes
    assert decision.mode >= Mode.STOP
    lab.shield.close()
    assert verify_run(tmp_path).sound
    assert replay_run(tmp_path).identical


@pytest.mark.parametrize("enforcement", Enforcement)
def test_a_person_stops_it_under_any_enforcement(enforcement: Enforcement) -> None:
    """The e-stop ends in the terminal stop, and what was raw stays stopped until the next episode."""
    lab = Lab(near, enforcement=enforcement).start(20)
    pressed = replace(lab.observe(), estop=True)
    assert isinstance(lab.tick(pressed).command, TerminalStop)
    assert {d.authority for d in lab.run(50)} <= {Authority.NONE, Authority.BACKUP}
    assert all(isinstance(d.command, TerminalStop) for d in lab.decisions[-50:])
