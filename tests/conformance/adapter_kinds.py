"""Guests of every kind that ``as_policy`` takes, with faults that begin on time. Written in each kind's own way.

A guest is shown seven phases and a flag, shape (8,): its numbers are ``gain · phase + bias`` column by column, and what
the fault makes of them once the flag is up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from onnx import helper
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO

from safeguard.core.enums import Reference
from safeguard.core.types import ActionSpec, Observation, Vector
from safeguard.policies import Policy, as_policy
from tests.conformance.compiled_guests import Affine, Buffered, Short
from tests.laws.lab import panda
from tests.unit.lerobot_guests import Chunking, Config
from tests.unit.onnx_guests import saved

N = panda().n
ONSET = 350_000_000  # ns
CHUNK = 8
Spoil = Callable[[Any], object]

SPEC = ActionSpec(
    panda().joints, "rad", Reference.ABSOLUTE, 20.0, CHUNK, scale=0.2, offset=tuple(panda().home), low=-1.0, high=1.0
)
"""Normalised numbers: 1 is 0.2 rad from home."""

RADIANS = ActionSpec(panda().joints, "rad", Reference.ABSOLUTE, 20.0, CHUNK)


@dataclass(frozen=True)
class Numbers:
    """gain · phase + bias."""

    gain: float = 0.6
    bias: Vector = field(default_factory=lambda: np.zeros(N))


@dataclass(frozen=True)
class Guest:
    """What a guest does before and after the onset.

    Attributes:
        spec: what it says that its numbers mean, for a chunk.
        good, bad: its numbers before and after; ``bad`` None: the same.
        spoil: what is made of its rows after the onset, or throughout where ``always``.
    """

    spec: ActionSpec = SPEC
    good: Numbers = Numbers()
    bad: Numbers | None = None
    spoil: Spoil | None = None
    always: bool = False


def phases(observation: Observation) -> Vector:
    """Seven slow phases and the flag, shape (8,)."""
    t = observation.state.t
    return np.append(np.sin(np.pi * t * 1e-9 + np.arange(N)), float(t >= ONSET))


class Hand:
    """What the guests written in Python have in common: rows from an input, spoilt on time."""

    def __init__(self, guest: Guest, rows: int) -> None:
        self.guest, self.rows = guest, rows

    def spoilt(self, seen: Any, rows: Any) -> Any:
        """Rows as they go out for the input ``seen``."""
        guest, flag = self.guest, bool(np.asarray(seen).reshape(-1)[-1])
        if flag and guest.bad is not None:
            rows = np.zeros_like(rows) + self._numbers(guest.bad, seen)
        return guest.spoil(rows) if guest.spoil is not None and (flag or guest.always) else rows

    def __call__(self, seen: Any) -> Any:
        """Shape (rows, 7)."""
        return self.spoilt(seen, np.tile(self._numbers(self.guest.good, seen), (self.rows, 1)))

    @staticmethod
    def _numbers(numbers: Numbers, seen: Any) -> Vector:
        return numbers.gain * np.asarray(seen, dtype=np.float64).reshape(-1)[:N] + numbers.bias


def a_callable(guest: Guest, folder: Path) -> tuple[object, dict[str, Any]]:
    """A function of the observation."""
    hand = Hand(guest, CHUNK)

    def propose(observation: Observation) -> object:
        return hand(phases(observation))

    return propose, {}


def a_module(guest: Guest, folder: Path) -> tuple[object, dict[str, Any]]:
    """A torch module; what is no plain array of numbers it returns as it is."""
    hand = Hand(guest, CHUNK)

    class Net(torch.nn.Module):
        def forward(self, seen: torch.Tensor) -> object:
            out = hand(seen)
            plain = type(out) is np.ndarray and out.dtype.kind == "f"
            return torch.tensor(out) if plain else out

    return Net(), {"encode": tensor}


def a_script(guest: Guest, folder: Path) -> tuple[object, dict[str, Any]]:
    """TorchScript."""
    return torch.jit.script(affine(guest)), {"encode": batch}


def a_program(guest: Guest, folder: Path) -> tuple[object, dict[str, Any]]:
    """An exported program."""
    return torch.export.export(affine(guest), (torch.zeros(1, N + 1),)), {"encode": batch}


def affine(guest: Guest) -> torch.nn.Module:
    """The numbers of a guest as a module that can be compiled."""
    good, bad = guest.good, guest.bad or guest.good
    made = Affine(good.gain, good.bias.tolist(), bad.gain, bad.bias.tolist(), CHUNK)
    if guest.spoil is None:
        return made
    return Short(made) if guest.spoil is short else Buffered(made)


def an_onnx(guest: Guest, folder: Path) -> tuple[object, dict[str, Any]]:
    """An ONNX file."""
    good, bad = guest.good, guest.bad or guest.good
    constants: dict[str, Any] = {"half": 0.5}
    nodes = [
        helper.make_node("Constant", [], ["parts"], value_ints=[N, 1]),
        helper.make_node("Constant", [], ["shape"], value_ints=[CHUNK, N]),
        helper.make_node("Split", ["obs", "parts"], ["phase", "flag"], axis=1),
    ]
    for name, numbers in (("good", good), ("bad", bad)):
        constants |= {f"{name}_gain": numbers.gain, f"{name}_bias": numbers.bias[None]}
        nodes.append(helper.make_node("Mul", ["phase", f"{name}_gain"], [f"{name}_scaled"]))
        nodes.append(helper.make_node("Add", [f"{name}_scaled", f"{name}_bias"], [name]))
    nodes += [
        helper.make_node("Greater", ["flag", "half"], ["now"]),
        helper.make_node("Where", ["now", "bad", "good"], ["row"]),
        helper.make_node("Expand", ["row", "shape"], ["actions"]),
    ]
    shapes: dict[str, Any] = {"inputs": {"obs": (1, N + 1)}, "outputs": {"actions": (CHUNK, N)}}
    return saved(folder / "guest.onnx", nodes, **shapes, constants=constants), {"encode": single}


def an_agent(guest: Guest, folder: Path, kind: Any = PPO) -> tuple[object, dict[str, Any]]:
    """A Stable-Baselines3 agent whose network gives the numbers, or, with memory, wanders."""
    hand = Hand(guest, 1)

    class Agent(kind):  # type: ignore[misc]  # of whichever kind
        def predict(self, observation: Any, *rest: Any, **more: Any) -> Any:
            above: Any = super()
            given = above.predict(observation, *rest, **more)
            return hand.spoilt(observation, given[0]), given[1]

    recurrent = kind is RecurrentPPO
    torch.manual_seed(1)
    made: Any = Agent("MlpLstmPolicy" if recurrent else "MlpPolicy", Room(), policy_kwargs={"net_arch": []})
    head = made.policy.action_net
    with torch.no_grad():
        if recurrent:
            head.weight.mul_(200.0)
        else:
            head.weight.copy_(guest.good.gain * torch.eye(N, N + 1))
            head.bias.copy_(torch.tensor(guest.good.bias))
    return made, {"encode": single}


def a_recurrent_agent(guest: Guest, folder: Path) -> tuple[object, dict[str, Any]]:
    """An agent with memory."""
    return an_agent(guest, folder, RecurrentPPO)


class Room(gymnasium.Env[Any, Any]):
    """Only the spaces matter."""

    observation_space = gymnasium.spaces.Box(-9.0, 9.0, (N + 1,), np.float32)
    action_space = gymnasium.spaces.Box(-1e6, 1e6, (N,), np.float32)


class Robot(Chunking):
    """LeRobot's interface around a hand."""

    def __init__(self, hand: Hand) -> None:
        self.hand = hand
        super().__init__(Config(chunk_size=hand.rows, n_action_steps=1, columns=N))

    def predict_action_chunk(self, batch: dict[str, Any]) -> Any:
        """Shape (1, rows, 7)."""
        out = self.hand(batch["observation.state"])
        plain = type(out) is np.ndarray and out.dtype.kind == "f"
        return torch.tensor(out)[None] if plain else out

    def select_action(self, batch: dict[str, Any]) -> Any:
        """Shape (1, 7): the first row of a chunk."""
        out = self.predict_action_chunk(batch)
        return out[:, 0] if isinstance(out, torch.Tensor) else out


def a_lerobot(guest: Guest, folder: Path) -> tuple[object, dict[str, Any]]:
    """A LeRobot policy that is asked for chunks."""
    return Robot(Hand(guest, CHUNK)), {"encode": named}


def a_selecting_lerobot(guest: Guest, folder: Path) -> tuple[object, dict[str, Any]]:
    """A LeRobot policy that is asked for single actions."""
    return Robot(Hand(guest, 1)), {"encode": named}


def an_openpi(guest: Guest, folder: Path) -> tuple[object, dict[str, Any]]:
    """An object with openpi's ``infer``."""
    hand = Hand(guest, CHUNK)

    class Client:
        def infer(self, request: dict[str, Any]) -> dict[str, Any]:
            return {"actions": hand(request["observation/state"]), "server_timing": {}}

    return Client(), {"encode": request}


def single(observation: Observation) -> Any:
    """For networks: shape (8,), float32."""
    return phases(observation).astype(np.float32)


def tensor(observation: Observation) -> Any:
    """For modules: shape (8,)."""
    return torch.tensor(phases(observation))


def batch(observation: Observation) -> Any:
    """For compiled modules: shape (1, 8), float32."""
    return torch.tensor(single(observation))[None]


def request(observation: Observation) -> Any:
    """For openpi."""
    return {"observation/state": phases(observation), "prompt": "go"}


def named(observation: Observation) -> Any:
    """For LeRobot."""
    return {"observation.state": torch.tensor(phases(observation))[None]}


Maker = Callable[[Guest, Path], tuple[object, dict[str, Any]]]
WRITTEN: Mapping[str, Maker] = {
    "callable": a_callable,
    "module": a_module,
    "agent": an_agent,
    "recurrent agent": a_recurrent_agent,
    "lerobot": a_lerobot,
    "lerobot single": a_selecting_lerobot,
    "openpi": an_openpi,
}
"""Kinds whose guests are Python, which can do anything."""
COMPILED: Mapping[str, Maker] = {"script": a_script, "program": a_program, "onnx": an_onnx}
"""Kinds that compute numbers and nothing else."""
KINDS: Mapping[str, Maker] = {**WRITTEN, **COMPILED}
SINGLE = ("agent", "recurrent agent", "lerobot single")
DECLARING = ("agent", "recurrent agent", "lerobot", "lerobot single", "program", "onnx")
"""Kinds that say how many columns they have before they are asked."""


def wrapped(kind: str, guest: Guest, folder: Path, spec: ActionSpec | None = None, **more: Any) -> Policy:
    """The guest as a policy; single actions come at 50 Hz."""
    spec = spec or guest.spec
    if kind in SINGLE:
        spec = spec.changed(chunk=1, rate_hz=50.0)
    source, options = KINDS[kind](guest, folder)
    return as_policy(source, spec, name=f"a {kind}", **{**options, **more})


# -- what guests do wrong ---------------------------------------------------------------------------------


def short(rows: Any) -> object:
    """One column too few."""
    return rows[..., :-1]


def long(rows: Any) -> object:
    """One column too many."""
    return np.concatenate([rows, rows[..., :1]], axis=-1)


def reused(rows: Any) -> object:
    """The same array every time, written over later."""
    buffer = _BUFFERS.setdefault(np.shape(rows), np.zeros_like(rows))
    buffer[:] = rows
    return buffer


_BUFFERS: dict[tuple[int, ...], Vector] = {}


def read_only(rows: Any) -> object:
    """An array that nobody may write to."""
    rows.setflags(write=False)
    return rows


def nothing(rows: Any) -> object:
    """None."""
    return None


def masked(rows: Any) -> object:
    """Numbers that are marked as missing."""
    return np.ma.masked_array(rows, mask=True)


def raises(rows: Any) -> object:
    """An exception."""
    raise OSError("no camera")


def exits(rows: Any) -> object:
    """The end of the program, if the guest could have its way."""
    raise SystemExit(3)
