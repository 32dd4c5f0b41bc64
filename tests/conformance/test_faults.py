"""Every fault of the library: it acts, it proves that it acts, it ends, and its twin does nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from safeguard.core.enums import Reference
from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S, ActionSpec, Observation, Proposal, RobotState, Sensor, TorqueCommand
from safeguard.policies.port import InlinePort
from safeguard.scenarios.fault_params import FaultParams
from safeguard.scenarios.faults import FAULTS, Fault, build, parse
from safeguard.scenarios.inject import FaultEvent, FaultyDrives, FaultyLatency, FaultyPolicy, Injector

ROBOT = RobotModel.load("panda")
PERIOD, TICKS = NS_PER_S // 100, 200
START, DURATION = 0.5, 0.5
EXAMPLES: dict[str, dict[str, object]] = {
    "policy.drive_to_limits": {"joints": {"panda_joint1": "upper"}},
    "policy.drive_to_collision": {"q_rad": {"panda_joint4": -2.97, "panda_joint6": 0.35}},
    "policy.torque_spikes": {},
    "policy.nan": {},
    "compute.hang": {},
    "compute.latency": {},
    "sensor.freeze": {},
    "plant.torque_loss": {},
}

Trace = list[tuple[int, Proposal | TorqueCommand]]


class Mirror:
    """A policy that proposes to stay where it sees the arm and the ball."""

    name = "mirror"
    spec = ActionSpec(ROBOT.joints, "rad", Reference.ABSOLUTE, 20.0, 4)

    def __init__(self) -> None:
        self.seq = 0

    def infer(self, observation: Observation) -> Proposal:
        """Four equal rows."""
        self.seq += 1
        rows = np.tile(observation.state.q + observation.sensors["ball"].value, (4, 1))
        return Proposal(rows, observation.state.t, observation.state.t, self.name, self.seq - 1)

    def reset(self) -> None:
        """Start counting anew."""
        self.seq = 0


def observations() -> Iterator[Observation]:
    """An arm and a ball that move all the time."""
    for k in range(TICKS):
        now = k * PERIOD
        q = ROBOT.home + 0.1 * math.sin(0.02 * k)
        yield Observation(RobotState(q, np.zeros(7), now), {"ball": Sensor(np.full(7, 1e-3 * k), now)})


def example(kind: str, severity: int = 3) -> FaultParams:
    """The fault with the least that it needs to be told."""
    timing = {"start_s": START, "duration_s": DURATION, "severity": severity}
    return parse({"kind": kind, **timing, **EXAMPLES[kind]})


def play(params: FaultParams | None, episode: int = 0) -> tuple[Trace, list[FaultEvent], Fault[FaultParams] | None]:
    """What arrives from the policy and at the drives behind a fault, when, and what was reported."""
    events: list[FaultEvent] = []
    policy = Mirror()
    faults = [build(params, ROBOT, policy.spec, campaign=7, episode=episode)] if params is not None else []
    port = InlinePort(FaultyPolicy(policy, faults), period=0.05, latency=FaultyLatency(0.02, faults))
    drives, trace = FaultyDrives(faults), Trace()
    with Injector(faults, events.append) as injector:
        for observation in observations():
            now = observation.state.t
            injector.tick(now)
            port.post(observation, now)
            arrived = port.poll(now)
            if arrived is not None:
                trace.append((now, arrived))
            done = drives(TorqueCommand(np.ones(7), now, now + PERIOD, 0), now)
            assert isinstance(done, TorqueCommand)
            trace.append((now, done))
    return trace, events, faults[0] if faults else None


def text(trace: Trace) -> list[tuple[int, int, int, bytes]]:
    """A trace as something that compares exactly, NaN included."""
    return [
        (now, p.t_obs, p.t_inferred, p.actions.tobytes())
        if isinstance(p, Proposal)
        else (now, p.t, p.expires, p.tau.tobytes())
        for now, p in trace
    ]


def test_every_fault_of_the_library_is_covered_here() -> None:
    """A fault that is added to the library must be added to this suite."""
    assert set(EXAMPLES) == set(FAULTS)


@pytest.mark.parametrize("kind", FAULTS)
def test_it_acts_and_proves_it(kind: str) -> None:
    """While active the fault changes what arrives, and its evidence says how often and since when."""
    clean, _, _ = play(None)
    faulty, events, fault = play(example(kind))

    assert fault is not None
    assert text(faulty) != text(clean)
    assert fault.activity.count > 0
    assert fault.activity.largest > 0.0
    assert fault.activity.first is not None
    assert START * NS_PER_S <= fault.activity.first < (START + DURATION) * NS_PER_S
    assert [event.injected for event in events] == [True, False]
    assert events[0].activity.count > 0


@pytest.mark.parametrize("kind", FAULTS)
def test_before_its_onset_nothing_differs(kind: str) -> None:
    """What arrives before the trigger is the clean run's."""
    clean, _, _ = play(None)
    faulty, _, _ = play(example(kind))

    early = [entry for entry in text(clean) if entry[0] < START * NS_PER_S]
    assert len(early) > 5
    assert text(faulty)[: len(early)] == early


@pytest.mark.parametrize("kind", FAULTS)
def test_it_clears(kind: str) -> None:
    """After its end the policy's output is again what its observation calls for."""
    faulty, events, fault = play(example(kind))
    late = [p for _, p in faulty if isinstance(p, Proposal) and p.t_obs >= (START + DURATION) * NS_PER_S]
    told = [p.tau for now, p in faulty if isinstance(p, TorqueCommand) and now >= (START + DURATION) * NS_PER_S]

    assert fault is not None
    assert not fault.active
    assert events[-1].t == (START + DURATION) * NS_PER_S
    assert len(late) > 5
    assert len(told) > 50
    assert all((tau == 1.0).all() for tau in told)
    seen = {observation.state.t: observation for observation in observations()}
    for proposal in late:
        true = seen[proposal.t_obs]
        assert np.array_equal(proposal.actions[0], true.state.q + true.sensors["ball"].value)
        assert proposal.t_inferred - proposal.t_obs == 0.02 * NS_PER_S


@pytest.mark.parametrize("kind", FAULTS)
def test_it_is_deterministic_in_its_episode(kind: str) -> None:
    """The same campaign and episode give the same disturbance, bit for bit."""
    assert text(play(example(kind))[0]) == text(play(example(kind))[0])


@pytest.mark.parametrize("kind", FAULTS)
def test_its_twin_changes_nothing(kind: str) -> None:
    """Severity 0 leaves the run as it is and leaves no evidence."""
    clean, _, _ = play(None)
    twin, events, fault = play(example(kind).twin())

    assert fault is not None
    assert text(twin) == text(clean)
    assert fault.activity.count == 0
    assert not any(event.injected for event in events)


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("severity", [1, 2, 4, 5])
def test_every_severity_acts(kind: str, severity: int) -> None:
    """No severity above 0 is silently nothing."""
    fault = play(example(kind, severity))[2]
    assert fault is not None
    assert fault.activity.count > 0


@pytest.mark.parametrize("kind", FAULTS)
def test_it_is_cleared_when_the_run_breaks(kind: str) -> None:
    """An exception in the loop clears the fault and reports its end."""
    events: list[FaultEvent] = []
    fault = build(example(kind), ROBOT, Mirror.spec, campaign=1, episode=0)

    def broken() -> None:
        with Injector([fault], events.append) as injector:
            injector.tick(round(0.6 * NS_PER_S))
            assert fault.active
            raise RuntimeError("the simulator broke")

    with pytest.raises(RuntimeError, match="the simulator broke"):
        broken()
    assert not fault.active
    assert [event.injected for event in events] == [False]


@pytest.mark.parametrize("kind", FAULTS)
def test_it_says_what_it_is(kind: str) -> None:
    """Every fault has words for a report and refuses keys that it does not know."""
    assert FAULTS[kind].effect
    with pytest.raises(ValueError, match=r"unknown key 'colour'; known: .*severity"):
        parse({"kind": kind, "colour": "red", **EXAMPLES[kind]})
