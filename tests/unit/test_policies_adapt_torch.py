"""Torch modules, TorchScript and exported programs as policies: eval mode, no autograd, memory that is put back."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch

from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec, Observation, Proposal, RobotState
from safeguard.policies import Policy, as_policy
from tests.unit.torch_guests import Counting, Hidden, NoneFirst, Plain, Several, Tied

SPEC = ActionSpec(("a", "b"), "rad", Reference.ABSOLUTE, 20.0)
NOW = Observation(RobotState(np.array([0.1, 0.2]), np.zeros(2), 5))

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def encode(observation: Observation) -> Any:
    """The joint positions as a batch of one, shape (1, 2)."""
    return torch.tensor(observation.state.q, dtype=torch.float32)[None]


def rows(policy: Policy, count: int = 3) -> list[list[float]]:
    """The single rows of so many calls."""
    proposals = [policy.infer(NOW) for _ in range(count)]
    assert all(proposal.actions.shape == (1, 2) for proposal in proposals), proposals[0].source
    return [proposal.actions[0].tolist() for proposal in proposals]


def remembers(policy: Policy) -> None:
    """The policy counts in its actions, and from the start again with every episode."""
    policy.reset()
    first = rows(policy)
    assert first[0] != first[1] != first[2]
    policy.reset()
    assert rows(policy) == first
    policy.infer(NOW)
    policy.reset()
    assert rows(policy) == first


STATEFUL = [Hidden, NoneFirst, Plain, Tied, Several]


@pytest.mark.parametrize("module", STATEFUL, ids=lambda one: one.__name__)
@pytest.mark.parametrize("compiled", [True, False], ids=["script", "eager"])
def test_memory_is_put_back(module: type[torch.nn.Module], *, compiled: bool) -> None:
    """Whatever a module remembers and wherever: an episode starts as the first one did."""
    source: Any = torch.jit.script(module()) if compiled else module()
    remembers(as_policy(source, SPEC, encode=encode))


@pytest.mark.parametrize("module", STATEFUL, ids=lambda one: one.__name__)
def test_memory_of_a_loaded_file_is_put_back(module: type[torch.nn.Module], tmp_path: Any) -> None:
    """The same for what was saved and loaded, whose attributes only the compiled code names."""
    jit: Any = torch.jit
    jit.save(jit.script(module()), str(tmp_path / "policy.pt"))
    remembers(as_policy(jit.load(str(tmp_path / "policy.pt")), SPEC, encode=encode))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_and_a_frozen_module_remember_too() -> None:
    """Traced and frozen modules keep their buffers, and are put back."""
    jit: Any = torch.jit
    remembers(as_policy(jit.trace(Hidden(), torch.zeros(1, 2), check_trace=False), SPEC, encode=encode))
    remembers(as_policy(jit.freeze(jit.script(Hidden()).eval()), SPEC, encode=encode))


def test_ties_stay_ties() -> None:
    """After a reset what is written to one name still is read from the other: the rows keep growing by 2."""
    policy = as_policy(torch.jit.script(Tied()), SPEC, encode=encode)
    policy.reset()
    first, second, _ = rows(policy)
    assert np.allclose(np.subtract(second, first), 2.0)


def test_state_from_before_wrapping_is_what_is_put_back() -> None:
    """The state at wrap time is the start: wrapping calls nothing."""
    module = torch.jit.script(Plain())
    as_policy(module, SPEC, encode=encode)
    assert module.count == 0


@pytest.mark.parametrize("compiled", [True, False], ids=["script", "eager"])
def test_weights_are_no_memory(*, compiled: bool) -> None:
    """Who trains on between episodes keeps what was learned, under whatever name the module refers to its weights."""
    module: Any = torch.jit.script(Hidden()) if compiled else Hidden()
    policy = as_policy(module, SPEC, encode=encode)
    policy.reset()
    before = rows(policy, 1)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.5)
    policy.reset()
    learned = rows(policy, 1)
    policy.reset()
    assert rows(policy, 1) == learned != before


def test_what_a_call_adds_is_taken_away() -> None:
    """Attributes and queues that an eager module makes on its first call are gone in the next episode."""

    class Lazy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recent = deque([0.0], maxlen=3)
            self.total = np.zeros(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            self.recent.append(float(self.calls))
            self.total += 1.0
            return x + sum(self.recent) + float(self.total[0])

    remembers(as_policy(Lazy(), SPEC, encode=encode))


def test_a_module_with_a_reset_forgets_by_it() -> None:
    """An eager module's own reset is all that is called."""

    class Own(torch.nn.Module):
        episodes = 0
        count = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return x + self.count

        def reset(self) -> None:
            self.count, self.episodes = 0, self.episodes + 1

    module = Own()
    remembers(as_policy(module, SPEC, encode=encode))
    assert module.episodes == 3


def test_a_reset_that_needs_arguments_is_refused() -> None:
    """Nobody knows what to give it: refused at start."""

    class Odd(Hidden):
        def reset(self, dones: torch.Tensor) -> None:
            """Needs to be told who is done."""

    with pytest.raises(SpecError, match=r"reset\(\) is called without arguments"):
        as_policy(Odd(), SPEC, encode=encode)


def test_an_exported_program_is_put_back_and_checked() -> None:
    """A program runs, forgets between episodes, and its declared output is compared with the spec."""
    program = torch.export.export(Counting(), (torch.zeros(1, 2),))
    remembers(as_policy(program, SPEC, encode=encode))
    with pytest.raises(SpecError, match=r"gives \(1, 2\), the spec says \(3, 2\)"):
        as_policy(program, SPEC.changed(chunk=3), encode=encode)
    with pytest.raises(SpecError, match=r"the spec says \(1, 3\)"):
        as_policy(program, SPEC.changed(joints=("a", "b", "c")), encode=encode)


def test_an_exported_program_of_several_outputs_needs_a_decoder() -> None:
    """Which of them are the actions, nobody guesses; names must be the columns."""

    class Both(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x + 1.0

    class Named(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"b": x[0, 1:], "a": x[0, :1]}

    program = torch.export.export(Both(), (torch.zeros(1, 2),))
    with pytest.raises(SpecError, match="decode="):
        as_policy(program, SPEC, encode=encode)
    policy = as_policy(program, SPEC, encode=encode, decode=lambda both: both[1])
    assert np.allclose(rows(policy, 1), [[1.1, 1.2]])
    named = torch.export.export(Named(), (torch.zeros(1, 2),))
    assert np.allclose(rows(as_policy(named, SPEC, encode=encode), 1), [[0.1, 0.2]])
    with pytest.raises(SpecError, match="differ"):
        as_policy(named, SPEC.changed(joints=("a", "c")), encode=encode)


def test_a_length_that_a_program_leaves_open_may_be_anything() -> None:
    """A dynamic batch dimension fits."""
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(2, 2),), dynamic_shapes=({0: batch},))
    assert len(rows(as_policy(program, SPEC, encode=encode), 1)) == 1


def test_no_autograd_and_eval_mode() -> None:
    """The module runs in inference mode, its encoder too, and dropout is silent."""
    modes: list[bool] = []

    class Watching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.dropout = torch.nn.Linear(2, 2), torch.nn.Dropout(0.9)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            modes.append(torch.is_inference_mode_enabled())
            out: torch.Tensor = self.dropout(self.linear(x))
            return out

    policy = as_policy(Watching().train(), SPEC, encode=encode)
    assert np.array(rows(policy, 1)).all()
    assert modes == [True]
    assert not torch.is_inference_mode_enabled()


def test_several_arguments_and_decoders() -> None:
    """A tuple from encode is several arguments; decode takes the actions out of what comes."""

    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"deep": x + y}

    policy = as_policy(Two(), SPEC, encode=lambda seen: (encode(seen), encode(seen)), decode=lambda out: out["deep"])
    assert np.allclose(rows(policy, 1), [[0.2, 0.4]])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64, torch.int32])
def test_every_kind_of_number_is_read(kind: torch.dtype) -> None:
    """Half precision, which numpy lacks in part, and integers too."""

    class Ones(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones(1, 2, dtype=kind)

    assert rows(as_policy(Ones(), SPEC, encode=encode), 1) == [[1.0, 1.0]]


@pytest.mark.parametrize(
    "out",
    [
        torch.ones(1, 2, dtype=torch.complex64),
        torch.ones(1, 2, dtype=torch.bool),
        torch.ones(1, 2).to_sparse(),
        torch.ones(1, 2, device="meta"),
        (torch.ones(2), torch.ones(2)),
        None,
    ],
    ids=["complex", "bool", "sparse", "meta", "tuple", "none"],
)
def test_what_is_no_row_of_numbers_is_an_unusable_proposal(out: object) -> None:
    """Complex, sparse, without data, or a tuple that may hold anything: no exception, no action."""

    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return out

    proposal = as_policy(Fixed(), SPEC, name="fixed", encode=encode).infer(NOW)
    assert proposal.actions.shape == (0,)
    assert proposal.source.startswith("fixed: returned ")


def test_the_output_is_a_copy() -> None:
    """A module that writes into its last output cannot change a proposal."""

    class Reusing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = torch.zeros(1, 2, dtype=torch.float64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.out += 1.0
            return self.out

    policy = as_policy(Reusing(), SPEC, encode=encode)
    first: Proposal = policy.infer(NOW)
    policy.infer(NOW)
    assert first.actions.tolist() == [[1.0, 1.0]]


def test_the_digest_is_that_of_the_weights() -> None:
    """Equal weights, equal digest; it is stable while the memory changes; without weights there is none."""
    policy: Any = as_policy(Hidden(), SPEC, encode=encode)
    before = policy.digest
    policy.infer(NOW)
    again: Any = as_policy(Hidden(), SPEC, encode=encode)
    assert before == again.digest == policy.digest
    assert len(before) == 64
    other = Hidden()
    with torch.no_grad():
        other.head.bias.add_(1e-7)
    changed: Any = as_policy(other, SPEC, encode=encode)
    assert changed.digest != before
    weightless: Any = as_policy(Plain(), SPEC, encode=encode)
    assert weightless.digest is None


def test_a_compiled_function_is_a_policy() -> None:
    """A scripted function needs an encoder like a module."""

    def twice(x: torch.Tensor) -> torch.Tensor:
        return 2.0 * x

    jit: Any = torch.jit
    function = jit.script(twice)
    with pytest.raises(SpecError, match="encode="):
        as_policy(function, SPEC)
    assert np.allclose(rows(as_policy(function, SPEC, encode=encode), 1), [[0.2, 0.4]])


@pytest.mark.parametrize("option", ["preprocess", "postprocess", "output", "recurrent"])
def test_what_would_be_ignored_is_refused(option: str) -> None:
    """Options of other kinds do not vanish."""
    given: dict[str, Any] = {option: {"a": "b"} if option == "recurrent" else "x"}
    with pytest.raises(SpecError, match=f"takes no {option}="):
        as_policy(Hidden(), SPEC, encode=encode, **given)
