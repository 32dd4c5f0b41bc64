"""What each fault does, beyond what the conformance suite asks of all of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from safeguard.core.enums import Reference
from safeguard.core.errors import ConfigError, UnknownNameError
from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S, ActionSpec, Observation, Proposal, RobotState, Sensor
from safeguard.scenarios import streams
from safeguard.scenarios.fault_params import FaultParams
from safeguard.scenarios.faults import Fault, build, parse
from safeguard.scenarios.inject import FaultyPolicy

ROBOT = RobotModel.load("panda")
SPEC = ActionSpec(ROBOT.joints, "rad", Reference.ABSOLUTE, 20.0, 8)
HOME = np.array(ROBOT.home)


def fault(kind: str, **told: object) -> Fault[FaultParams]:
    """An active fault."""
    built = build(parse({"kind": kind, "start_s": 1.0, **told}), ROBOT, SPEC, campaign=1, episode=0)
    built.activate(NS_PER_S)
    return built


def observation(t: int = NS_PER_S, shift: float = 0.0) -> Observation:
    """The arm near home at ``t``."""
    return Observation(RobotState(HOME + shift, np.zeros(7), t), {"puck": Sensor(np.full(2, shift), t)})


def proposal(t: int = NS_PER_S, seq: int = 0) -> Proposal:
    """Stay at home."""
    return Proposal(np.tile(HOME, (8, 1)), t, t, "test", seq)


def test_driving_to_a_limit_ramps_from_where_the_arm_is() -> None:
    """The chosen joint leaves at the given speed, arrives beyond its limit, and the others are left alone."""
    drive = fault(
        "policy.drive_to_limits", joints={"panda_joint2": "upper"}, ramp_radps=2.0, beyond_rad=0.3, severity=3
    )
    rows = drive.emit(proposal(), observation()).actions
    assert np.allclose(rows[:, 1], HOME[1] + 2.0 * np.arange(1, 9) / 20.0)
    assert np.array_equal(np.delete(rows, 1, axis=1), np.delete(proposal().actions, 1, axis=1))

    late = drive.emit(proposal(4 * NS_PER_S), observation(4 * NS_PER_S)).actions
    assert np.allclose(late[:, 1], ROBOT.limits.q_max[1] + 0.3)


def test_severity_scales_how_far_beyond_a_limit() -> None:
    """Severity 5 goes five times as far as severity 1."""
    ends: list[float] = []
    for severity in (1, 5):
        drive = fault("policy.drive_to_limits", joints={"panda_joint4": "lower"}, severity=severity)
        drive.emit(proposal(), observation())
        ends.append(float(drive.emit(proposal(9 * NS_PER_S), observation(9 * NS_PER_S)).actions[-1, 3]))
    beyond = ROBOT.limits.q_min[3] - np.array(ends)
    assert beyond[1] == pytest.approx(5.0 * beyond[0])


def test_driving_into_collision_is_a_straight_line() -> None:
    """All joints arrive together; the one with the longest way sets the pace."""
    goal = {"panda_joint4": -2.97, "panda_joint6": 0.35}
    drive = fault("policy.drive_to_collision", q_rad=goal, ramp_radps=1.0)
    rows = drive.emit(proposal(), observation()).actions
    assert np.allclose(rows[:, 5], HOME[5] - np.arange(1, 9) / 20.0)
    shares = (rows[:, [3, 5]] - HOME[[3, 5]]) / (np.array(list(goal.values())) - HOME[[3, 5]])
    assert np.allclose(shares[:, 0], shares[:, 1])


def test_a_collision_outside_the_joint_limits_is_refused() -> None:
    """The self-collision fault tests self-collision only."""
    with pytest.raises(ConfigError, match=r"q_rad of panda_joint4 is 1\.0, outside .* use policy.drive_to_limits"):
        fault("policy.drive_to_collision", q_rad={"panda_joint4": 1.0})


@pytest.mark.parametrize("kind", ["policy.drive_to_limits", "policy.drive_to_collision"])
def test_a_joint_that_does_not_exist_is_named(kind: str) -> None:
    """The error lists the joints that exist."""
    told = {"joints": {"elbow": "upper"}} if kind.endswith("limits") else {"q_rad": {"elbow": 0.0}}
    with pytest.raises(UnknownNameError, match=r"unknown joint 'elbow'.*known: panda_joint1"):
        fault(kind, **told)


def test_replacing_targets_of_another_meaning_is_refused() -> None:
    """A fault that writes joint positions does not write them into velocities."""
    speeds = ActionSpec(ROBOT.joints, "rad/s", Reference.VELOCITY, 20.0, 8)
    params = parse({"kind": "policy.drive_to_limits", "joints": {"panda_joint1": "upper"}})
    with pytest.raises(ConfigError, match="absolute joint positions in rad, the policy proposes velocity"):
        build(params, ROBOT, speeds, campaign=1, episode=0)


def test_spikes_jump_whole_rows_by_the_given_amount() -> None:
    """A row is either untouched or off by the jump in every joint; about the given share is."""
    spikes = fault("policy.torque_spikes", jump_rad=0.4, share=0.25)
    gaps = np.concatenate([np.abs(spikes.emit(proposal(), observation()).actions - HOME) for _ in range(200)])
    hit = gaps.max(axis=1) > 0.0
    assert np.allclose(gaps[hit], 0.4)
    assert 0.2 < hit.mean() < 0.3


@pytest.mark.parametrize(("severity", "expected"), [(1, 9), (3, 28), (5, 47)])
def test_nan_takes_its_share(severity: int, expected: int) -> None:
    """The number of NaN is the share of the chunk, scaled by severity."""
    burst = fault("policy.nan", share=0.5, severity=severity)
    rows = burst.emit(proposal(), observation()).actions
    assert int(np.isnan(rows).sum()) == expected


def test_a_hang_lasts_until_it_clears() -> None:
    """For ever without a duration, else for the rest of it."""
    assert fault("compute.hang").delay(NS_PER_S) == math.inf
    assert fault("compute.hang", duration_s=2.0).delay(round(1.5 * NS_PER_S)) == pytest.approx(1.5)


def test_latency_grows_with_severity() -> None:
    """The additional latency is scaled."""
    assert fault("compute.latency", extra_s=0.3, severity=1).delay(0) == pytest.approx(0.1)


def test_a_frozen_observation_cannot_be_found_by_its_age() -> None:
    """Values stand still, stamps advance; what the policy really knew is remembered."""
    frozen = fault("sensor.freeze")
    first, later = observation(NS_PER_S), observation(2 * NS_PER_S, shift=0.3)
    frozen.see(first)
    seen = frozen.see(later)

    assert np.array_equal(seen.state.q, first.state.q)
    assert np.array_equal(seen.sensors["puck"].value, first.sensors["puck"].value)
    assert seen.state.t == seen.sensors["puck"].t == 2 * NS_PER_S
    assert frozen.known(later) == NS_PER_S


def test_each_onset_freezes_anew() -> None:
    """A second activation does not bring back the first one's observation."""
    frozen = fault("sensor.freeze")
    frozen.see(observation(NS_PER_S))
    frozen.clear()
    frozen.activate(3 * NS_PER_S)
    assert frozen.see(observation(3 * NS_PER_S, shift=0.2)).state.q[0] == pytest.approx(0.2)


class _Counting:
    spec = SPEC

    def __init__(self) -> None:
        self.seq = 0

    def infer(self, observation: Observation) -> Proposal:
        self.seq += 1
        return replace(proposal(observation.state.t, self.seq), actions=np.tile(observation.state.q, (8, 1)))

    def reset(self) -> None:
        self.seq = 0


def test_a_wrapped_policy_knows_how_old_its_information_is() -> None:
    """The age of a proposal is that of the observation behind it, whatever its stamps say."""
    frozen = fault("sensor.freeze")
    policy = FaultyPolicy(_Counting(), [frozen])
    fresh = policy.infer(observation(NS_PER_S))
    stale = policy.infer(observation(2 * NS_PER_S, shift=0.1))

    assert (policy.known(fresh), policy.known(stale)) == (NS_PER_S, NS_PER_S)
    assert stale.t_obs == 2 * NS_PER_S
    assert frozen.activity.count == 1
    assert frozen.activity.largest == pytest.approx(0.1)
    assert frozen.activity.first == 2 * NS_PER_S


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"kind": "policy.nam"}, "unknown fault 'policy.nam' under 'kind'; known: policy.drive_to_limits"),
        ({"severity": 2}, "unknown fault None under 'kind'"),
        ("policy.nan", "a mapping with the key 'kind'"),
        ({"kind": "policy.nan", "severity": 6}, "severity = 6: .*less than or equal to 5"),
        ({"kind": "policy.drive_to_limits"}, "joints: Field required"),
    ],
)
def test_wrong_parameters_are_explained(told: object, message: str) -> None:
    """The error names key, value and what would be right."""
    with pytest.raises(ValueError, match=message):
        parse(told)


def test_streams_depend_on_campaign_episode_and_component_only() -> None:
    """Every part of the identity changes the stream, and the same identity repeats it."""
    identities = [(1, 0, "world"), (2, 0, "world"), (1, 1, "world"), (1, 0, "fault:policy.nan")]
    draws = [streams.stream(*identity).random(4).tolist() for identity in identities]
    assert draws == [streams.stream(*identity).random(4).tolist() for identity in identities]
    assert len({tuple(draw) for draw in draws}) == len(identities)
    assert len({streams.seed(*identity) for identity in identities}) == len(identities)
