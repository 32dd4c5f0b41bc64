"""Trains the push policy: ``python -m safeguard.policies.push_policy.train --seed 0``.

Behaviour cloning with DAgger (Ross, Gordon and Bagnell 2011): in the first round the expert acts, in later
rounds the policy of the round before; actions are disturbed, arms halted and starts scattered; the expert
labels every state that was visited and some beside it. One thread and fixed seeds: the same build gives the
same weights, bit for bit. Beside the policy, outside the layers: it uses a world and a controller.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch as typed_torch
from rich.console import Console
from rich.progress import track

from safeguard.core.protocols import Policy
from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S, Observation, Proposal, RobotState, TorqueCommand, Vector
from safeguard.policies.port import InlinePort
from safeguard.policies.push_policy.evaluate import Follower, Pause, evaluate, summary
from safeguard.policies.push_policy.policy import RATE_HZ, ROWS, WEIGHTS, Encoder, PushPolicy, network
from safeguard.scenarios.push import PushExpert, ReachPush
from safeguard.scenarios.world import World

GENERATOR = 1  # version of everything that decides which samples come out
FIRST_SEED = 1_000_000  # of the worlds of training; evaluation stays below
_SECONDS = 3.6  # of a training episode; the expert needs 2.5 s
_BESIDE = 2  # labels at disturbed copies of each visited state
_BATCH = 512
_CONSOLE = Console(stderr=True)
torch: Any = typed_torch  # its annotations are partial


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to train: episodes and gradient steps of each round."""

    episodes: tuple[int, ...] = (200, 120, 120, 120, 120)
    steps: tuple[int, ...] = (1500, 1500, 1500, 1500, 9000)


@dataclass
class Samples:
    """Network inputs (m, 21) and expert offsets (m, 56) collected so far."""

    x: list[Vector] = field(default_factory=list[Vector])
    y: list[Vector] = field(default_factory=list[Vector])

    def tensors(self) -> tuple[Any, Any]:
        """Both as float32."""
        x, y = np.asarray(self.x, dtype=np.float32), np.asarray(self.y, dtype=np.float32)
        return torch.from_numpy(x), torch.from_numpy(y)


class Student:
    """Lets ``actor`` drive, disturbs what it does, and has the expert label what it sees."""

    def __init__(
        self,
        actor: Policy,
        expert: PushExpert,
        robot: RobotModel,
        samples: Samples,
        rng: np.random.Generator,
    ) -> None:
        self.spec = actor.spec
        self._actor, self._expert, self._encode = actor, expert, Encoder(robot)
        self._samples, self._rng = samples, rng

    def infer(self, observation: Observation) -> Proposal:
        """The actor's chunk plus, half of the time, a drift of random direction."""
        self._label(observation)
        proposal = self._actor.infer(observation)
        if self._rng.random() < 0.5:
            return proposal
        drift = self._rng.normal(0.0, 0.12, len(self.spec.joints))  # rad/s
        times = np.arange(1, ROWS + 1)[:, None] / RATE_HZ
        return replace(proposal, actions=proposal.actions + times * drift)

    def reset(self) -> None:
        """Pass it on."""
        self._actor.reset()

    def _label(self, observation: Observation) -> None:
        state = observation.state
        puck, goal = observation.sensors["puck"].value, observation.sensors["goal"].value
        self._add(state.q, state.v, puck, goal)
        for _ in range(_BESIDE):
            q, v = state.q + self._rng.normal(0.0, 0.015, 7), state.v + self._rng.normal(0.0, 0.06, 7)
            shift = self._rng.normal(0.0, 0.006, 2)
            self._add(q, v, puck + shift, goal + self._rng.normal(0.0, 0.01, 2))

    def _add(self, q: Vector, v: Vector, puck: Vector, goal: Vector) -> None:
        offsets = self._expert.plan(q, v, puck, goal) - q
        self._samples.x.append(self._encode(RobotState(q, v, 0), puck, goal))
        self._samples.y.append(offsets.ravel())


def collect(world: World, student: Student, follower: Follower, seed: int, rng: np.random.Generator) -> None:
    """One disturbed episode; its labels go to the student's samples."""
    port = InlinePort(student, latency=float(rng.uniform(0.0, 0.04)))
    pause = Pause(float(rng.uniform(0.2, 2.5)), float(rng.uniform(0.2, 1.0))) if rng.random() < 0.4 else None
    world.reset(seed)
    world.data.qpos[:7] += rng.normal(0.0, 0.03, 7)
    proposal: Proposal | None = None
    while world.time_ns < _SECONDS * NS_PER_S:
        observation, now = world.observe(), world.time_ns
        port.post(observation, now)
        proposal = port.poll(now) or proposal
        followed = None if pause is not None and pause.holds(now) else proposal
        a = follower.acceleration(followed, observation.state, now)
        tau = follower.torque(observation.state, a)
        world.apply(TorqueCommand(tau, now, now + world.period_ns, 0))
        world.advance()


def fit(net: Any, samples: Samples, steps: int, generator: Any) -> float:
    """Adam with a cosine schedule on the mean squared normalised error; returns the loss at the end."""
    x, y = samples.tensors()
    net.fit_scales(x, y)
    target = (y - net.y_mean) / net.y_std
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    net.train()
    losses: list[float] = []
    for _ in track(range(steps), "  fitting", console=_CONSOLE, transient=True):
        rows = torch.randint(len(x), (_BATCH,), generator=generator)
        loss = torch.nn.functional.mse_loss(net(x[rows])[0], target[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    net.eval()
    return float(np.mean(losses[-200:]))


def train(seed: int, plan: Plan) -> tuple[Any, dict[str, float]]:
    """Weights and figures of a training from scratch."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(np.random.SeedSequence([GENERATOR, seed]))
    robot = RobotModel.load("panda")
    world, expert, samples = World(robot, ReachPush()), PushExpert(robot), Samples()
    net, loss, world_seed = network(robot.n), float("nan"), FIRST_SEED * (seed + 1)
    actor: Policy = expert
    for number, (episodes, steps) in enumerate(zip(plan.episodes, plan.steps, strict=True)):
        student = Student(actor, expert, robot, samples, rng)
        follower = Follower(robot, student)
        for _ in track(range(episodes), f"round {number}: acting", console=_CONSOLE, transient=True):
            collect(world, student, follower, world_seed, rng)
            world_seed += 1
        loss = fit(net, samples, steps, generator)
        actor = PushPolicy(robot, net)
        _CONSOLE.print(f"round {number}: {len(samples.x)} samples, loss {loss:.5f}")
    return net, {"samples": len(samples.x), "loss": loss}


def write(net: Any, figures: dict[str, float], seed: int, plan: Plan, path: Path, seeds: int) -> None:
    """Weights to ``path``, and their card, with the success over ``seeds`` episodes, beside it."""
    import_module("safetensors.torch").save_file(net.state_dict(), path)
    path.chmod(0o644)  # safetensors keeps its files private
    policy = PushPolicy.load(weights=path)
    card = {
        "name": PushPolicy.name,
        "command": f"python -m safeguard.policies.push_policy.train --seed {seed}",
        "seed": seed,
        "generator_version": GENERATOR,
        "episodes": plan.episodes,
        "steps": plan.steps,
        **figures,
        "evaluation_command": f"python -m safeguard.policies.push_policy.evaluate --seeds {seeds}",
        "evaluation": summary(evaluate(policy, range(seeds))),
        "built_with": {name: version(name) for name in ("torch", "mujoco", "pin", "numpy")},
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    path.with_name("card.json").write_text(json.dumps(card, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser("python -m safeguard.policies.push_policy.train", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="weights file; the card goes beside it")
    parser.add_argument("--seeds", type=int, default=50, help="episodes of the final evaluation")
    parser.add_argument("--quick", action="store_true", help="a tiny plan, to see that everything works")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    plan = Plan((2, 1), (20, 20)) if options.quick else Plan()
    net, figures = train(options.seed, plan)
    write(net, figures, options.seed, plan, options.out, options.seeds)
    _CONSOLE.print(f"wrote {options.out} and card.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
