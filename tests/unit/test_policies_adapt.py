"""Adapters: anything that computes actions becomes a policy, and nothing is mended on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec, Observation, Proposal, RobotState, Vector
from safeguard.policies import Policy, as_policy

SPEC = ActionSpec(("a", "b"), "rad", Reference.ABSOLUTE, 20.0, chunk=3)


def observation(t: int = 5) -> Observation:
    """Two joints at ``t`` ns."""
    return Observation(RobotState(np.array([0.1, 0.2]), np.zeros(2), t))


class Fixed:
    """A policy of its own right."""

    spec = SPEC

    def infer(self, observation: Observation) -> Proposal:
        """Zeros."""
        return Proposal(np.zeros((3, 2)), observation.state.t, observation.state.t, "fixed", 0)

    def reset(self) -> None:
        """Nothing to forget."""


def repeat(observation: Observation) -> Vector:
    """Stay where you are."""
    return np.tile(observation.state.q, (3, 1))


def constant(out: Vector) -> Callable[[Observation], Vector]:
    """Always the same array object."""
    return lambda observation: out


def test_a_policy_stays_itself() -> None:
    """What has spec, infer and reset is returned as it is."""
    policy = Fixed()
    assert as_policy(policy) is policy
    assert as_policy(policy, spec=SPEC) is policy


def test_a_contradicting_spec_is_refused() -> None:
    """A policy's own spec is not overruled."""
    other = ActionSpec(("a", "b"), "rad", Reference.ABSOLUTE, 10.0, chunk=3)
    with pytest.raises(SpecError, match="own spec"):
        as_policy(Fixed(), spec=other)


def test_a_callable_becomes_a_policy() -> None:
    """A function gets stamps, its name and sequence numbers that start anew with each episode."""
    policy = as_policy(repeat, spec=SPEC)
    first, second = policy.infer(observation(5)), policy.infer(observation(6))
    assert isinstance(policy, Policy)
    assert policy.spec == SPEC
    assert (first.source, first.seq, first.t_obs, first.t_inferred) == ("repeat", 0, 5, 5)
    assert (second.seq, second.t_obs) == (1, 6)
    assert first.actions.tolist() == [[0.1, 0.2]] * 3
    policy.reset()
    assert policy.infer(observation()).seq == 0


def test_no_spec_no_policy() -> None:
    """A callable without a spec is refused with its name and what to give."""
    with pytest.raises(SpecError, match=r"'repeat' needs spec=ActionSpec"):
        as_policy(repeat)


@pytest.mark.parametrize("thing", [None, 3, np.zeros(3)])
def test_what_cannot_act_is_refused(thing: object) -> None:
    """Neither policy nor callable: refused by type."""
    with pytest.raises(SpecError, match=type(thing).__name__):
        as_policy(thing, spec=SPEC)


@pytest.mark.parametrize("shape", [(2, 2), (3, 1), (3, 3), (6,), (0, 2)])
def test_wrong_shapes_go_out_as_they_are(shape: tuple[int, ...]) -> None:
    """Nothing is reshaped, padded or cut: intake is to see it."""
    policy = as_policy(constant(np.zeros(shape)), spec=SPEC)
    assert policy.infer(observation()).actions.shape == shape


def test_nan_goes_out_as_it_is() -> None:
    """A NaN is not replaced."""
    policy = as_policy(constant(np.full((3, 2), np.nan)), spec=SPEC)
    assert np.isnan(policy.infer(observation()).actions).all()


def test_a_reused_buffer_cannot_change_a_proposal() -> None:
    """Actions are copies, of read-only views too."""
    buffer = np.zeros((3, 2))
    view = buffer.view()
    view.setflags(write=False)
    for out in (buffer, view):
        buffer[:] = 0.0
        proposal = as_policy(constant(out), spec=SPEC).infer(observation())
        buffer[:] = 9.0
        assert not proposal.actions.any()
        assert not proposal.actions.flags.writeable


def test_reset_reaches_the_owner() -> None:
    """A stateful callable is told when an episode ends."""

    class Counting:
        calls = 0

        def __call__(self, observation: Observation) -> Vector:
            self.calls += 1
            return np.full((3, 2), float(self.calls))

        def reset(self) -> None:
            self.calls = 0

    source = Counting()
    policy = as_policy(source, spec=SPEC, name="counting")
    policy.infer(observation())
    policy.reset()
    assert source.calls == 0
    assert policy.infer(observation()).source == "counting"


class Net(torch.nn.Module):
    """Two joints in, three rows out, with dropout that eval mode must silence."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = torch.nn.Linear(2, 6), torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (3, 2)."""
        out: torch.Tensor = self.dropout(self.linear(x)).reshape(3, 2)
        return out


def encode(observation: Observation) -> Any:
    """The joint positions."""
    return torch.tensor(observation.state.q, dtype=torch.float32)


def test_a_torch_module_becomes_a_policy() -> None:
    """A module runs in eval mode without gradients and gives the same chunk each time."""
    module = Net()
    policy = as_policy(module, spec=SPEC, encode=encode)
    first, second = policy.infer(observation()), policy.infer(observation())
    assert not module.training
    assert first.source == "Net"
    assert first.actions.shape == (3, 2)
    assert first.actions.any()
    assert first.actions.tobytes() == second.actions.tobytes()


def test_a_torch_module_needs_an_encoder() -> None:
    """Nobody guesses what a module wants to see."""
    with pytest.raises(SpecError, match="encode="):
        as_policy(Net(), spec=SPEC)
