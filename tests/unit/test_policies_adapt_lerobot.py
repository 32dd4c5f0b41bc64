"""LeRobot policies by duck typing: which call, what configuration contradicts a spec, processors, memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec, Observation, RobotState
from safeguard.policies import as_policy
from tests.unit.lerobot_guests import Chunking, Config, Mode

ONE = ActionSpec(("a", "b"), "deg", Reference.ABSOLUTE, 30.0)
FOUR = ONE.changed(chunk=4)
NOW = Observation(RobotState(np.array([1.0, 2.0]), np.zeros(2), 5))


def encode(observation: Observation) -> dict[str, Any]:
    """A batch of one."""
    return {"observation.state": torch.tensor(observation.state.q, dtype=torch.float32)[None], "task": "push"}


def test_single_actions_are_selected() -> None:
    """With chunk 1 the policy's own queue plays: one chunk for four rows, and reset empties it."""
    source = Chunking()
    policy = as_policy(source, ONE, encode=encode)
    rows = [policy.infer(NOW).actions.tolist() for _ in range(3)]
    assert rows == [[[1.0, 2.0]], [[2.0, 3.0]], [[3.0, 4.0]]]
    assert source.calls == ["reset", "select", "chunk", "select", "select"]
    assert not source.training
    policy.reset()
    assert policy.infer(NOW).actions.tolist() == [[1.0, 2.0]]
    assert policy.infer(NOW).source == "act"


def test_chunks_are_predicted() -> None:
    """With more rows the whole chunk is asked for, once a call."""
    source = Chunking()
    proposal = as_policy(source, FOUR, encode=encode).infer(NOW)
    assert proposal.actions.tolist() == [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0], [4.0, 5.0]]
    assert source.calls == ["reset", "chunk"]


def test_of_a_longer_chunk_the_steps_that_the_policy_plays_are_taken() -> None:
    """With n_action_steps rows in the spec the first of the chunk are taken, as the policy's queue does."""
    policy = as_policy(Chunking(Config(chunk_size=9, n_action_steps=4)), FOUR, encode=encode)
    assert policy.infer(NOW).actions[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0]
    whole = as_policy(Chunking(Config(chunk_size=9, n_action_steps=4)), ONE.changed(chunk=9), encode=encode)
    assert whole.infer(NOW).actions.shape == (9, 2)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Config(chunk_size=100, n_action_steps=100), "chunk_size=100, n_action_steps=100, the spec says chunk=4"),
        (Config(chunk_size=3, n_action_steps=3), "chunk_size=3"),
        (Config(temporal_ensemble_coeff=0.01, n_action_steps=1), "ensembles its chunks"),
        (Config(n_obs_steps=2), "looks at 2 observations"),
        (Config(columns=3), r"actions of shape \(3,\)"),
        (Config(mode=Mode.MEAN_STD), "normalised by MEAN_STD: give postprocess="),
    ],
)
def test_a_configuration_that_contradicts_the_spec_is_refused(config: Config, said: str) -> None:
    """Chunk length, ensembling, memory of observations, columns and normalisation are known at start."""
    with pytest.raises(SpecError, match=said):
        as_policy(Chunking(config), FOUR, encode=encode)


def test_a_horizon_counts_where_nothing_else_is_said() -> None:
    """A policy that only says its horizon is compared by that."""

    class Horizon(Chunking):
        def __init__(self) -> None:
            super().__init__()
            self.config: Any = type("Config", (), {"horizon": 16})()

    with pytest.raises(SpecError, match="horizon=16, the spec says chunk=4"):
        as_policy(Horizon(), FOUR, encode=encode)


def test_ensembling_and_memory_stay_with_single_actions() -> None:
    """What chunks would bypass is fine for select_action."""
    for config in (Config(temporal_ensemble_coeff=0.01, n_action_steps=1), Config(n_obs_steps=2)):
        assert as_policy(Chunking(config), ONE, encode=encode).infer(NOW).actions.shape == (1, 2)


def test_a_policy_that_cannot_predict_chunks_is_refused_for_them() -> None:
    """select_action alone is enough for single actions only."""

    class Single:
        def select_action(self, batch: dict[str, Any]) -> Any:
            return batch["observation.state"]

    with pytest.raises(SpecError, match="cannot predict chunks"):
        as_policy(Single(), FOUR, encode=encode)
    assert as_policy(Single(), ONE, encode=encode).infer(NOW).actions.tolist() == [[1.0, 2.0]]


def test_processors_go_around_the_call_and_are_reset() -> None:
    """Preprocessor, policy, postprocessor, decoder, in this order, without autograd; an episode resets them all."""
    seen: list[str] = []

    class Processor:
        def __init__(self, name: str, factor: float) -> None:
            self.name, self.factor = name, factor

        def __call__(self, value: Any) -> Any:
            seen.append(self.name)
            assert not torch.is_grad_enabled()
            if self.name == "pre":
                return {"observation.state": value["observation.state"] * self.factor}
            return value * self.factor

        def reset(self) -> None:
            seen.append(f"reset {self.name}")

    config = Config(mode=Mode.MEAN_STD)
    policy = as_policy(
        Chunking(config),
        FOUR,
        encode=encode,
        preprocess=Processor("pre", 0.1),
        postprocess=Processor("post", 10.0),
        decode=lambda rows: rows + 1.0,
    )
    assert np.allclose(policy.infer(NOW).actions, [[2.0, 3.0], [12.0, 13.0], [22.0, 23.0], [32.0, 33.0]])
    policy.reset()
    assert seen == ["pre", "post", "reset pre", "reset post"]


def test_autograd_can_be_switched_on_inside() -> None:
    """Real-time chunking differentiates through the denoiser; an inference mode around it would forbid that."""

    class Guided(Chunking):
        def predict_action_chunk(self, batch: dict[str, Any]) -> Any:
            with torch.enable_grad():
                x = batch["observation.state"].clone().requires_grad_()
                grad: Any = torch.autograd.grad
                slope = grad((x**2).sum(), x)[0]
            return slope[:, None].expand(1, 4, 2)

    assert as_policy(Guided(), FOUR, encode=encode).infer(NOW).actions.tolist() == [[2.0, 4.0]] * 4


def test_a_policy_that_is_a_module_says_its_weights() -> None:
    """Real policies are torch modules: they are not taken for bare ones, and have a digest."""

    class Real(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)
            self.config = Config(chunk_size=None, n_action_steps=1)

        def select_action(self, batch: dict[str, Any]) -> Any:
            return self.linear(batch["observation.state"])

    source = Real()
    policy: Any = as_policy(source, ONE, encode=encode)
    assert policy.infer(NOW).actions.shape == (1, 2)
    assert not source.training
    assert len(policy.digest) == 64


def test_the_batch_is_the_users_to_build() -> None:
    """Nobody guesses the names of cameras."""
    with pytest.raises(SpecError, match="needs encode="):
        as_policy(Chunking(), ONE)
