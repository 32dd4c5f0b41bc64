"""What torch modules remember: kept before an episode's first call, whatever holds it, and put back after its last."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from safeguard.core.enums import Reference
from safeguard.core.types import ActionSpec, Observation, RobotState
from safeguard.policies import Policy, as_policy

SPEC = ActionSpec(("a", "b"), "rad", Reference.ABSOLUTE, 20.0)
NOW = Observation(RobotState(np.zeros(2), np.zeros(2), 5))


def zeros(*size: int) -> torch.Tensor:
    """Float32 zeros, of shape (1, 2) if no other is given."""
    return torch.zeros(*(size or (1, 2)))


class Pair(NamedTuple):
    """Of hidden states."""

    hidden: Any
    cell: Any


@dataclass
class Held:
    """A hidden state as an object."""

    hidden: Any


@dataclass(frozen=True, slots=True)
class Slotted:
    """One without a dictionary."""

    hidden: Any


class Foreign:
    """Of a class that nobody knows."""

    hidden = 0.0


class Guest(torch.nn.Module):
    """Remembers in ``state``, as ``step`` does it; its actions are what that returns."""

    made: Any

    def __init__(self, state: Any, step: Callable[[Guest], Any]) -> None:
        super().__init__()
        self.state, self.step = state, step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (1, 2) to (1, 2)."""
        out: torch.Tensor = x + self.step(self)
        return out


def wrapped(module: torch.nn.Module) -> Policy:
    """The module as a policy that sees zeros."""
    return as_policy(module, SPEC, encode=lambda seen: zeros())


def row(policy: Policy) -> list[float]:
    """The row of one call."""
    proposal = policy.infer(NOW)
    assert proposal.actions.shape == (1, 2), proposal.source
    return list(proposal.actions[0])


def named(guest: Guest) -> Any:
    """A new named tuple with every call."""
    guest.state = Pair(guest.state.hidden + 1.0, guest.state.cell)
    return guest.state.hidden


def held(guest: Guest) -> Any:
    """A new value in the same object."""
    guest.state.hidden = guest.state.hidden + 1.0
    return guest.state.hidden


def renewed(guest: Guest) -> Any:
    """A new object with every call."""
    guest.state = type(guest.state)(guest.state.hidden + 1.0)
    return guest.state.hidden


def late(guest: Guest) -> Any:
    """An object that the first call makes."""
    if not hasattr(guest, "made"):
        guest.made = Held(zeros())
    guest.made.hidden = guest.made.hidden + 1.0
    return guest.made.hidden


def by_key(guest: Guest) -> Any:
    """A new value under the same key."""
    guest.state["h"] = guest.state["h"] + 1.0
    return guest.state["h"]


def counted(guest: Guest) -> Any:
    """A key that the first call makes."""
    guest.state["calls"] += 1
    return float(guest.state["calls"])


def queued(guest: Guest) -> Any:
    """One more in a queue that holds something foreign, too."""
    guest.state.append(1.0)
    return float(len(guest.state))


def drawn(guest: Guest) -> Any:
    """The next random numbers."""
    if isinstance(guest.state, torch.Generator):
        return torch.randn(1, 2, generator=guest.state)
    return torch.tensor(guest.state.normal(size=(1, 2)))


CASES: dict[str, tuple[Callable[[], Any], Callable[[Guest], Any]]] = {
    "named tuple": (lambda: Pair(zeros(), zeros()), named),
    "dataclass": (lambda: Held(zeros()), held),
    "new dataclass": (lambda: Held(zeros()), renewed),
    "slotted dataclass": (lambda: Slotted(zeros()), renewed),
    "made late": (lambda: None, late),
    "ordered": (lambda: OrderedDict[str, Any](h=zeros()), by_key),
    "default": (lambda: defaultdict[str, int](int), counted),
    "one foreign value": (lambda: {"h": zeros(), "config": Foreign()}, by_key),
    "one foreign item": (lambda: deque([Foreign()], maxlen=9), queued),
    "torch generator": (lambda: torch.Generator().manual_seed(0), drawn),
    "numpy generator": (lambda: np.random.default_rng(0), drawn),
}


@pytest.mark.parametrize("case", CASES)
def test_whatever_holds_it_is_put_back(case: str) -> None:
    """Every episode starts as the first one did, and goes on from there."""
    make, step = CASES[case]
    policy = wrapped(Guest(make(), step))
    policy.reset()
    first = [row(policy) for _ in range(3)]
    assert first[0] != first[1] != first[2]
    for _ in range(2):
        policy.reset()
        assert [row(policy) for _ in range(3)] == first


def test_containers_stay_the_same_objects() -> None:
    """Who else holds a dictionary, a list or an object of the module still does after a reset, also in a circle."""
    inner: list[Any] = [zeros()]
    whole: dict[str, Any] = {"inner": inner, "held": Held(1.0)}
    inner.append(whole)

    def step(guest: Guest) -> Any:
        inner[0] = inner[0] + 1.0
        guest.state["held"].hidden += 1.0
        return inner[0]

    module = Guest(whole, step)
    policy = wrapped(module)
    assert [row(policy), row(policy)] == [[1.0, 1.0], [2.0, 2.0]]
    policy.reset()
    assert module.state is whole
    assert whole["inner"] is inner
    assert inner[1] is whole
    assert module.state["held"].hidden == 1.0
    assert row(policy) == [1.0, 1.0]


def test_an_expanded_buffer_is_put_back() -> None:
    """Many elements in one place in memory: they get their value again, and so does who shares it."""
    base = zeros(1, 2)

    def step(_: Guest) -> Any:
        base.add_(1.0)
        return base

    module = Guest(None, step)
    module.register_buffer("mask", base.expand(4, 2))
    policy = wrapped(module)
    assert [row(policy), row(policy)] == [[1.0, 1.0], [2.0, 2.0]]
    policy.reset()
    assert module.get_buffer("mask").tolist() == [[0.0, 0.0]] * 4
    assert row(policy) == [1.0, 1.0]


def test_a_buffer_that_was_resized_gets_its_shape_again() -> None:
    """What grew in place has its old length in the next episode."""

    def step(guest: Guest) -> Any:
        guest.state.resize_(len(guest.state) + 1)
        return float(len(guest.state))

    policy = wrapped(Guest(zeros(3), step))
    assert [row(policy), row(policy)] == [[4.0, 4.0], [5.0, 5.0]]
    policy.reset()
    assert row(policy) == [4.0, 4.0]


def normalising() -> torch.nn.Module:
    """A module whose actions are the mean that it holds in a buffer."""
    module = Guest(None, lambda guest: guest.get_buffer("mean"))
    module.register_buffer("mean", zeros(2))
    return module


@pytest.mark.parametrize("earlier", [False, True], ids=["never asked", "asked before"])
def test_what_is_loaded_before_an_episodes_first_call_counts(*, earlier: bool) -> None:
    """Weights that are loaded after wrapping, or between two episodes, bring their buffers along, for good."""
    module = normalising()
    policy = wrapped(module)
    if earlier:
        row(policy)
        policy.reset()
    module.load_state_dict({"mean": torch.ones(2)})
    policy.reset()
    assert row(policy) == [1.0, 1.0]
    policy.reset()
    assert row(policy) == [1.0, 1.0]


def test_another_precision_before_the_first_call_counts() -> None:
    """``double`` after wrapping is not undone in the buffers."""
    module = normalising()
    policy = wrapped(module)
    module.double()
    for _ in range(2):
        policy.reset()
        row(policy)
        assert module.get_buffer("mean").dtype is torch.float64
