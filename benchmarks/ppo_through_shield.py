"""An agent that learns on a robot that it cannot break: PPO through ``ShieldedEnv``, judged by MuJoCo.

The Panda reaches for points in the air (``safeguard.scenarios.panda_reach``); an action is seven joint velocities, 20
times a second, and the shield decides every 2 ms. The agent explores as it likes. A referee that shares no model with
the shield counts control periods beyond a limit of position, speed or torque, and those in which links overlap.

    python benchmarks/ppo_through_shield.py                       # two seeds, with and without the shield
    python benchmarks/ppo_through_shield.py --steps 400 --seeds 0 # a quick look

Claims, each with its exit code (3 if one fails):
  * learns: mean return of the learned agent less that of a random one, lower end of the 95 % confidence interval > 0
  * breaks nothing: 0 violations while exploring, learning and being evaluated
  * the control: the same training without the shield breaks something
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from safeguard.core.enums import Enforcement
from safeguard.integrations.gym import ShieldedEnv
from safeguard.scenarios.panda_reach import PandaReach

CONFIDENCE = 0.95
RESAMPLES = 10_000
Act = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Trained:
    """One training and what came of it.

    Attributes:
        seed: of the agent, the environment and the random agent.
        shielded: with the shield.
        steps, minutes: of training.
        returns, random_returns: of the evaluation episodes of the learned and of a random agent, same targets.
        violations: control periods with each kind, in training and evaluation.
        worst: the largest of each kind, in rad, rad/s, N·m or m.
        periods: control periods judged.
        interventions: mean of ``info["safeguard"]["intervention"]`` in the first and the last tenth of the training.
    """

    seed: int
    shielded: bool
    steps: int
    minutes: float
    returns: tuple[float, ...]
    random_returns: tuple[float, ...]
    violations: dict[str, int]
    worst: dict[str, float]
    periods: int
    interventions: tuple[float, float]

    @property
    def gain(self) -> tuple[float, float, float]:
        """Mean return above the random agent's, and the ends of its 95 % interval (bootstrap over episodes)."""
        return gain(np.array(self.returns), np.array(self.random_returns), self.seed)


def gain(learned: Any, random: Any, seed: int) -> tuple[float, float, float]:
    """Difference of the means with its bootstrap interval: both samples are drawn anew, percentiles."""
    rng = np.random.default_rng(seed)
    a, b = (x[rng.integers(len(x), size=(RESAMPLES, len(x)))].mean(axis=1) for x in (learned, random))
    low, high = np.quantile(a - b, [(1.0 - CONFIDENCE) / 2.0, (1.0 + CONFIDENCE) / 2.0])
    return float(learned.mean() - random.mean()), float(low), float(high)


def make(shielded: bool) -> tuple[ShieldedEnv, PandaReach]:
    """The environment, with or without the shield; the drives and everything else are the same."""
    reach = PandaReach()
    enforcement = Enforcement.FULL if shielded else Enforcement.OFF
    env = ShieldedEnv(
        reach,
        reach.robot,
        reach.spec_of_velocities,
        state=PandaReach.state,
        command=reach.command,
        enforcement=enforcement,
        task="reach",
    )
    return env, reach


def episodes(env: ShieldedEnv, act: Act, count: int, seed: int) -> list[float]:
    """Returns of ``count`` episodes; the same seed gives the same starts and targets."""
    returns: list[float] = []
    for episode in range(count):
        observation, _ = env.reset(seed=seed + episode)
        total, done = 0.0, False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(act(observation))
            total, done = total + reward, terminated or truncated
        returns.append(total)
    return returns


def train(seed: int, *, shielded: bool, steps: int, evaluated: int) -> Trained:
    """Train PPO for ``steps`` actions and evaluate it."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback

    class Watch(BaseCallback):
        """Keeps the interventions."""

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[float] = []

        def _on_step(self) -> bool:
            self.seen.append(float(self.locals["infos"][0]["safeguard"]["intervention"]))
            return True

    torch.set_num_threads(1)
    env, reach = make(shielded)
    watch, begun = Watch(), time.monotonic()
    agent = PPO(
        "MlpPolicy",
        env,
        seed=seed,
        n_steps=min(1000, steps),
        batch_size=min(100, steps),
        n_epochs=10,
        learning_rate=1e-3,
        gamma=0.9,
        gae_lambda=0.9,
        policy_kwargs={"log_std_init": -0.5},
        device="cpu",
    )
    agent.learn(steps, callback=watch)
    minutes = (time.monotonic() - begun) / 60.0
    judged = 1_000_000 * (seed + 1)  # episodes that no training has seen
    returns = episodes(env, lambda seen: agent.predict(seen, deterministic=True)[0], evaluated, judged)
    random = np.random.default_rng(seed)
    random_returns = episodes(env, lambda _: random.uniform(-1.0, 1.0, 7), evaluated, judged)
    env.close()
    tenth = max(len(watch.seen) // 10, 1)
    return Trained(
        seed=seed,
        shielded=shielded,
        steps=len(watch.seen),
        minutes=minutes,
        returns=tuple(returns),
        random_returns=tuple(random_returns),
        violations=reach.violations,
        worst=reach.worst,
        periods=reach.ticks,
        interventions=(float(np.mean(watch.seen[:tenth])), float(np.mean(watch.seen[-tenth:]))),
    )


def line(run: Trained) -> str:
    """One run in one line."""
    mean, low, high = run.gain
    counted = (f"{kind} {count} (worst {run.worst[kind]:.2g})" for kind, count in run.violations.items())
    broken = ", ".join(counted) or "0 violations"
    return (
        f"seed {run.seed} {'shielded' if run.shielded else 'without '}  {run.steps} steps in {run.minutes:.1f} min  "
        f"return {np.mean(run.returns):6.2f}, random {np.mean(run.random_returns):6.2f}, "
        f"above it {mean:5.2f} [{low:.2f}, {high:.2f}]  {broken} in {run.periods} periods  "
        f"intervention {run.interventions[0]:.3f} -> {run.interventions[1]:.3f}"
    )


def verdicts(runs: list[Trained]) -> dict[str, bool]:
    """Every claim that the runs can bear out or refute, and whether it holds."""
    with_shield = [run for run in runs if run.shielded]
    without = [run for run in runs if not run.shielded]
    claims: dict[str, bool] = {}
    if with_shield:
        learns = "learns (lower end of the 95 % interval above 0, every seed)"
        claims[learns] = all(run.gain[1] > 0.0 for run in with_shield)
        claims["0 violations through the shield"] = not any(sum(run.violations.values()) for run in with_shield)
    if without:
        claims["violations without it"] = all(sum(run.violations.values()) > 0 for run in without)
    return claims


def main(arguments: list[str] | None = None) -> int:
    """Train, print, write the figures; 3 if a claim fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000, help="actions of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--episodes", type=int, default=50, help="evaluation episodes of each agent")
    parser.add_argument("--only", choices=("shielded", "without"), help="one half of the comparison")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    given = parser.parse_args(arguments)
    halves = {"shielded": [True], "without": [False], None: [True, False]}[given.only]
    runs: list[Trained] = []
    for seed in given.seeds:
        for shielded in halves:
            runs.append(train(seed, shielded=shielded, steps=given.steps, evaluated=given.episodes))
            print(line(runs[-1]), flush=True)
    claims = verdicts(runs)
    for claim, holds in claims.items():
        print(f"{'holds ' if holds else 'FAILS '} {claim}")
    if given.json:
        report = {"runs": [asdict(run) | {"gain": run.gain} for run in runs], "claims": claims}
        given.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return 0 if all(claims.values()) else 3


if __name__ == "__main__":
    sys.exit(main())
