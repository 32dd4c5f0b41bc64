"""Stable-Baselines3 agents as policies: deterministic, with their memory, within their action space."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO, SAC

from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec, Observation, RobotState
from safeguard.policies import Policy, as_policy

SPEC = ActionSpec(("a", "b"), "rad", Reference.ABSOLUTE, 50.0)
NOW = Observation(RobotState(np.array([0.1, 0.2]), np.zeros(2), 5))
BOX = gymnasium.spaces.Box(np.array([-1.0, -2.0], np.float32), np.array([1.0, 2.0], np.float32))


class Room(gymnasium.Env[Any, Any]):
    """Two numbers in, two out; nothing happens."""

    def __init__(self, actions: gymnasium.Space[Any] = BOX) -> None:
        self.observation_space = gymnasium.spaces.Box(-9.0, 9.0, (2,), np.float32)
        self.action_space = actions

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Zeros."""
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        """Zeros."""
        return np.zeros(2, np.float32), 0.0, False, False, {}


def agent(kind: Any = PPO, actions: gymnasium.Space[Any] = BOX) -> Any:
    """An untrained agent that does something in every state."""
    policy = "MlpLstmPolicy" if kind is RecurrentPPO else "MlpPolicy"
    made: Any = kind(policy, Room(actions), seed=1, device="cpu")
    if kind is not SAC:
        head: Any = made.policy.action_net
        head.weight.data.mul_(50.0)  # untrained ones hardly move
    return made


def encode(observation: Observation) -> Any:
    """The joint positions, shape (2,)."""
    return observation.state.q.astype(np.float32)


def row(policy: Policy) -> list[float]:
    """The row of one call."""
    proposal = policy.infer(NOW)
    assert proposal.actions.shape == (1, 2), proposal.source
    return [float(number) for number in proposal.actions[0]]


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_an_agent_acts_as_it_predicts(kind: Any) -> None:
    """The row is the agent's own deterministic action, every time the same; the spec gets its bounds."""
    source = agent(kind)
    policy: Any = as_policy(source, SPEC, encode=encode)
    expected = source.predict(encode(NOW), deterministic=True)[0]
    assert np.array_equal(row(policy), expected)
    assert row(policy) == row(policy)
    assert (policy.spec.low, policy.spec.high) == ((-1.0, -2.0), (1.0, 2.0))
    assert policy.name == kind.__name__
    assert len(policy.digest) == 64


def test_the_network_alone_is_an_agent_too() -> None:
    """``agent.policy`` predicts like the agent, and is not taken for a bare torch module."""
    source = agent()
    assert row(as_policy(source.policy, SPEC, encode=encode)) == row(as_policy(source, SPEC, encode=encode))


def test_bounds_of_the_spec_win() -> None:
    """A range that was given stays."""
    policy = as_policy(agent(), SPEC.changed(low=-0.5), encode=encode)
    assert (policy.spec.low, policy.spec.high) == (-0.5, (1.0, 2.0))


def test_a_recurrent_agent_remembers_until_the_episode_ends() -> None:
    """The state is fed back between calls, and forgotten at a reset."""
    source = agent(RecurrentPPO)
    policy = as_policy(source, SPEC, encode=encode)
    policy.reset()
    rows = [row(policy) for _ in range(3)]
    state, starts, expected = None, np.array([True]), list[list[float]]()
    for _ in range(3):
        action, state = source.predict(encode(NOW), state, starts, deterministic=True)
        expected.append([float(number) for number in action])
        starts = np.array([False])
    assert rows == expected
    assert rows[0] != rows[1] != rows[2]
    policy.reset()
    assert row(policy) == rows[0]


def test_an_agent_sees_that_an_episode_starts() -> None:
    """The first call of an episode, and only that, is marked as its start."""
    marks: list[bool] = []

    class Watching:
        action_space = BOX

        def predict(self, observation: Any, state: Any, episode_start: Any, deterministic: bool) -> Any:
            marks.append(bool(episode_start[0]))
            assert deterministic
            return np.zeros(2), state

    policy = as_policy(Watching(), SPEC, encode=encode)
    for _ in range(2):
        policy.reset()
        row(policy)
        row(policy)
    assert marks == [True, False, True, False]


def test_an_action_space_of_another_size_is_refused() -> None:
    """Known at start: the number of columns, and that a choice among five is no joint motion."""
    with pytest.raises(SpecError, match=r"the spec says \(1, 3\)"):
        as_policy(agent(), SPEC.changed(joints=("a", "b", "c")), encode=encode)
    with pytest.raises(SpecError, match=r"the spec says \(4, 2\)"):
        as_policy(agent(), SPEC.changed(chunk=4), encode=encode)
    choices = agent(actions=gymnasium.spaces.Discrete(5))
    with pytest.raises(SpecError, match=r"Discrete\(5\), which has no columns"):
        as_policy(choices, SPEC, encode=encode)
    decoded = as_policy(choices, SPEC, encode=encode, decode=lambda choice: [0.1 * choice, 0.0])
    assert row(decoded)[1] == 0.0
    with pytest.raises(SpecError, match="needs encode="):
        as_policy(agent(), SPEC)


def test_chunks_of_actions_get_their_bounds_by_column() -> None:
    """An action space of whole chunks bounds each column by the widest of its rows."""
    space = gymnasium.spaces.Box(
        np.array([[-1.0, -2.0], [-3.0, 0.0]], np.float32), np.array([[1.0, 2.0], [0.5, 4.0]], np.float32)
    )
    spec = as_policy(agent(actions=space), SPEC.changed(chunk=2), encode=encode).spec
    assert (spec.low, spec.high) == ((-3.0, -2.0), (1.0, 4.0))


def test_a_space_without_ends_gives_no_bounds() -> None:
    """Infinite ends are none."""

    class Unbounded:
        action_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

        def predict(self, *_: object) -> Any:
            return np.zeros(2), None

    assert as_policy(Unbounded(), SPEC, encode=encode).spec == SPEC
