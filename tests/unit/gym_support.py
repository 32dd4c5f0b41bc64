"""Environments for the tests of the Gymnasium integration."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Env, spaces

from safeguard.core.config import BrakeConfig, FilterConfig, ShieldConfig
from safeguard.core.enums import Enforcement, Reference
from safeguard.core.types import ActionSpec, Command, TorqueCommand, Vector
from safeguard.integrations.gym import ShieldedEnv
from safeguard.scenarios.panda_reach import PandaReach, ReachSetup

CONFIG = ShieldConfig(filter=FilterConfig(brake=BrakeConfig(samples=200)))
STILL = np.zeros(7)
FULL = np.ones(7)


def shielded(reach: PandaReach | None = None, spec: ActionSpec | None = None, **more: Any) -> ShieldedEnv:
    """The Panda that reaches, in shares of its speed limits unless ``spec`` says otherwise."""
    reach = reach or PandaReach()
    return ShieldedEnv(
        reach,
        reach.robot,
        spec or reach.spec_of_velocities,
        state=more.pop("state", PandaReach.state),
        command=more.pop("command", reach.command),
        config=more.pop("config", CONFIG),
        **more,
    )


def short(duration_s: float = 0.1) -> ShieldedEnv:
    """Episodes of two actions."""
    return shielded(PandaReach(ReachSetup(duration_s=duration_s)))


def unshielded() -> ShieldedEnv:
    """The same without a shield."""
    return shielded(enforcement=Enforcement.OFF)


def act(env: ShieldedEnv, action: Any, times: int = 1) -> dict[str, Any]:
    """What ``info["safeguard"]`` says of the last of ``times`` equal actions."""
    said: dict[str, Any] = {}
    for _ in range(times):
        said = env.step(action)[4]["safeguard"]
    return said


class Slab(Env[Any, Any]):
    """No physics: the Panda stands where it is put, and the environment says what it was told.

    One array of observations and one of states is used again and again.
    """

    def __init__(self, starts: list[Vector], ends_after: int = 10_000) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (7,), np.float64)
        self.action_space = spaces.Box(-100.0, 100.0, (7,), np.float64)
        self.starts, self.ends_after = starts, ends_after
        self.resets = self.steps = 0
        self.q, self.v, self.seen = np.zeros(7), np.zeros(7), np.zeros(7)
        self.got: list[Vector] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The next start; the last one again and again."""
        super().reset(seed=seed, options=options)
        self.q[:] = self.starts[min(self.resets, len(self.starts) - 1)]
        self.resets, self.steps = self.resets + 1, 0
        return self.seen, {"resets": self.resets}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """A reward of 1."""
        self.got.append(np.array(action))
        self.steps += 1
        self.seen[:] = self.q
        return self.seen, 1.0, self.steps >= self.ends_after, False, {"steps": self.steps}


def slab(starts: list[Vector], ends_after: int = 10_000, **more: Any) -> ShieldedEnv:
    """A shielded slab that is stepped every 2 ms; an action takes 10 ms."""
    reach_joints = tuple(f"panda_joint{k}" for k in range(1, 8))
    spec = ActionSpec(reach_joints, "rad/s", Reference.VELOCITY, 100.0, low=-1.0, high=1.0)
    from safeguard import RobotModel

    def torque(command: Command) -> Vector:
        return command.tau if isinstance(command, TorqueCommand) else np.full(7, 99.0)

    def state(env: Any) -> Any:
        return env.q, env.v

    given: dict[str, Any] = {"state": state, "command": torque, "period": 0.002, "config": CONFIG} | more
    return ShieldedEnv(Slab(starts, ends_after), RobotModel.load("panda"), spec, **given)
