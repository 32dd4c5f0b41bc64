from __future__ import annotations

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from safeguard.core.types import TerminalStop, TorqueCommand
from safeguard.scenarios.panda_reach import PandaReach, ReachSetup


@pytest.fixture(scope="module")
def reach() -> PandaReach:
    """Episodes of 20 ms."""
    return PandaReach(ReachSetup(duration_s=0.02))


def test_gymnasium_finds_nothing_to_say(reach: PandaReach) -> None:
    """Spaces, seeds, types; but that torques are no numbers from -1 to 1. Warnings are errors here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*symmetric and normalized")
        check_env(reach, skip_render_check=True)


def test_a_seed_is_an_episode(reach: PandaReach) -> None:
    """The same seed: the same arm and target; another one: another."""
    one, other, again = (reach.reset(seed=seed)[0] for seed in (1, 2, 1))

    assert (one == again).all()
    assert (one != other).sum() == 10  # seven positions and the target; at rest


def test_the_reward_is_the_distance(reach: PandaReach) -> None:
    """An arm on its brakes pays its distance for every second, times the rate; ten periods end the episode."""
    observation, info = reach.reset(seed=3)
    brakes = reach.command(TerminalStop("test", 0, 0))
    steps = [reach.step(brakes) for _ in range(10)]

    assert info["distance"] == pytest.approx(np.linalg.norm(observation[-3:]), rel=1e-6)
    assert [reward for _, reward, *_ in steps] == pytest.approx([-20.0 * info["distance"] * 0.002] * 10, rel=1e-3)
    assert [truncated for _, _, _, truncated, _ in steps] == [False] * 9 + [True]


def test_the_observation_points_from_the_tool_to_the_target(reach: PandaReach) -> None:
    """Tool and vector add up to a point in the box that targets are drawn from."""
    for seed in range(20):
        observation, _ = reach.reset(seed=seed)
        tool = reach.world.data.body("panda_hand_tcp").xpos
        target = tool + observation[-3:]
        assert (np.array(reach.setup.low) - 1e-6 <= target).all()
        assert (target <= np.array(reach.setup.high) + 1e-6).all()


def test_violations_are_counted_over_episodes() -> None:
    """Twice the torque that a joint can bear, in two episodes of five periods: ten periods, and the excess."""
    reach = PandaReach()
    tau = np.zeros(7)
    tau[6] = 2.0 * reach.robot.limits.tau_max[6]
    for seed in range(2):
        reach.reset(seed=seed)
        for _ in range(5):
            reach.step(reach.command(TorqueCommand(tau, 0, 0, 0)))

    assert reach.violations["torque"] == 10
    assert reach.worst["torque"] == pytest.approx(reach.robot.limits.tau_max[6])
    assert reach.ticks == 10


def test_an_arm_that_runs_away_ends_the_episode() -> None:
    """Torques that no arm survives: terminated, and the observation stays in its space."""
    reach = PandaReach()
    reach.reset(seed=0)
    terminated = truncated = False
    for _ in range(200):
        observation, reward, terminated, truncated, _ = reach.step(np.append(np.full(7, 5e3), 0.0))
        assert reach.observation_space.contains(observation)
        assert np.isfinite(reward)
        if terminated:
            break

    assert (terminated, truncated) == (True, False)
