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


ONE = SPEC.changed(chunk=1)


@pytest.mark.parametrize(
    ("spec", "out"),
    [
        (SPEC, np.ones((1, 3, 2))),
        (SPEC, torch.ones(1, 3, 2)),
        (SPEC, [[1, 1], [1.0, 1], np.ones(2)]),
        (SPEC, np.ones((3, 2), dtype=np.float16)),
        (SPEC, np.ones((3, 2), dtype=np.uint8)),
        (SPEC, {"b": np.ones(3), "a": [1, 1, 1]}),
        (SPEC, {"a": np.ones((1, 3)), "b": torch.ones(3)}),
        (ONE, np.ones(2)),
        (ONE, (1.0, 1)),
        (ONE, np.ones((1, 1, 2))),
        (ONE, {"a": 1.0, "b": np.float32(1)}),
    ],
)
def test_what_is_taken_for_actions(spec: ActionSpec, out: Any) -> None:
    """Arrays, tensors, lists and columns by name; a batch dimension of 1, and a row for a chunk of one, are taken."""
    policy = as_policy(lambda _: out, spec=spec)
    assert np.array_equal(policy.infer(observation()).actions, np.ones(spec.shape))


def test_columns_bind_by_name() -> None:
    """The order of a mapping means nothing."""
    policy = as_policy(lambda _: {"b": [4, 5, 6], "a": [1, 2, 3]}, spec=SPEC)
    assert policy.infer(observation()).actions.tolist() == [[1, 4], [2, 5], [3, 6]]


class Hostile:
    """Cannot be read."""

    def __dlpack__(self) -> None:
        """Nothing."""

    def __array__(self, *_: object, **__: object) -> Vector:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (None, "NoneType"),
        ("0.1", "str"),
        (np.ones((3, 2), dtype=complex), "complex128"),
        (np.ones((3, 2), dtype=bool), "bool"),
        (np.full((3, 2), "1"), "<U1"),
        (np.full((3, 2), None), "object"),
        (np.ma.masked_invalid(np.ones((3, 2))), "MaskedArray"),
        ([np.ma.masked_invalid(np.ones(2))] * 3, "MaskedArray"),
        ([[1.0, 2.0], [3.0], [4.0, 5.0]], "cannot be read"),
        ([[1.0, "2"], [3.0, 4.0], [4.0, 5.0]], "str"),
        ({"a": [1, 2, 3]}, "missing: ['b']"),
        ({"a": [1, 2, 3], "b": [1, 2, 3], "c": [1, 2, 3]}, "unknown: ['c']"),
        ({"a": [1, 2, 3], "b": [1, 2]}, "column 'b' has shape (2,)"),
        ({"a": [1, 2, 3], "b": None}, "NoneType"),
        (np.broadcast_to(0.0, (3, 10**9)), "3000000000 numbers"),
        (Hostile(), "RuntimeError: no"),
        (object(), "object"),
        (lambda: 0, "function"),
        (range(6), "range"),
    ],
)
def test_what_is_no_array_of_numbers_is_an_unusable_proposal(out: object, said: str) -> None:
    """No exception and no action: an empty proposal says what came, and counts as an answer."""
    policy = as_policy(lambda _: out, spec=SPEC, name="guest")
    proposal = policy.infer(observation())
    assert proposal.actions.shape == (0,)
    assert proposal.source.startswith("guest: returned ")
    assert said in proposal.source
    assert len(proposal.source) <= 200
    assert policy.infer(observation()).seq == 1


def test_what_raises_goes_through_to_the_port() -> None:
    """An adapter hides no exception of the guest."""

    def broken(observation: Observation) -> Vector:
        raise OSError("no camera")

    with pytest.raises(OSError, match="no camera"):
        as_policy(broken, spec=SPEC).infer(observation())


def explained(q: Vector) -> tuple[Vector, str]:
    """Positions, and a reason."""
    return q, "why"


def test_a_callable_may_have_an_encoder_and_a_decoder() -> None:
    """Encode before, decode after."""
    policy = as_policy(explained, spec=ONE, encode=lambda seen: seen.state.q, decode=lambda out: 2 * out[0])
    assert policy.infer(observation()).actions.tolist() == [[0.2, 0.4]]


async def later(observation: Observation) -> Vector:
    """Not now."""
    return np.zeros((3, 2))


def two(observation: Observation, goal: Vector) -> Vector:
    """Needs a goal too."""
    return goal


class Later:
    """Not now either."""

    async def __call__(self, observation: Observation) -> Vector:
        """Later."""
        return np.zeros((3, 2))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (later, "asynchronous"),
        (Later(), "asynchronous"),
        (lambda: np.zeros((3, 2)), "one argument"),
        (two, "one argument"),
        (Fixed, "is a class"),
    ],
)
def test_a_callable_that_cannot_work_is_refused(source: object, said: str) -> None:
    """Known at start: promises, the wrong number of arguments, a class for an object."""
    with pytest.raises(SpecError, match=said):
        as_policy(source, spec=SPEC)


def test_a_name_is_kept_or_refused() -> None:
    """A name for something that has one is not ignored."""

    class Named(Fixed):
        name = "mine"

    assert as_policy(Named(), name="mine").infer(observation()).source == "fixed"
    with pytest.raises(SpecError, match="'mine' has a name already, name='other'"):
        as_policy(Named(), name="other")
    with pytest.raises(SpecError, match="name= is empty"):
        as_policy(repeat, spec=SPEC, name="")
    with pytest.raises(SpecError, match="takes no encode="):
        as_policy(Named(), encode=lambda seen: seen)


class Remote:
    """What openpi's policies look like, with a buffer that it uses again."""

    def __init__(self) -> None:
        self.out = np.zeros((3, 2), dtype=np.float32)
        self.answers: Any = {"actions": self.out, "server_timing": {"infer_ms": 1.0}}
        self.closed = 0

    def infer(self, request: dict[str, Any]) -> Any:
        """Three rows of the state."""
        self.out[:] = request["observation/state"]
        return self.answers

    def reset(self) -> None:
        """Forget."""
        self.out[:] = -1.0

    def close(self) -> None:
        """Hang up."""
        self.closed += 1


def test_an_openpi_policy_is_a_policy() -> None:
    """``infer`` of a mapping, ``actions`` of the answer, copied; reset and close reach it."""
    source = Remote()
    policy: Any = as_policy(source, spec=SPEC, encode=lambda seen: {"observation/state": seen.state.q, "prompt": "go"})
    proposal = policy.infer(observation())
    assert np.allclose(proposal.actions, [[0.1, 0.2]] * 3)
    policy.reset()
    assert np.allclose(proposal.actions, [[0.1, 0.2]] * 3)
    assert (source.out == -1.0).all()
    policy.close()
    policy.close()
    assert source.closed == 1
    assert policy.digest is None


@pytest.mark.parametrize("answer", [None, np.zeros((3, 2)), {"action": np.zeros((3, 2))}, ["actions"]])
def test_an_answer_without_actions_is_unusable(answer: object) -> None:
    """Nothing else of an answer is taken for actions."""
    source = Remote()
    source.answers = answer
    policy = as_policy(source, spec=SPEC, encode=lambda seen: {"observation/state": seen.state.q})
    assert "expected a mapping with 'actions'" in policy.infer(observation()).source
    with pytest.raises(SpecError, match="needs encode="):
        as_policy(source, spec=SPEC)


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
