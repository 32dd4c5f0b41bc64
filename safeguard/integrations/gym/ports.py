"""How a shield reaches a robot inside an environment: one command in every control period, none in between.

An agent acts every few control periods of the robot. Who asks the shield only once for each of its actions leaves the
body alone in between, and what was verified for one period is then executed for many. So there are two ways in: an
environment that is stepped once a period (``StepPorts``), and one that takes a command before every few steps of its
physics (``MujocoPorts``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, SupportsFloat, TypeAlias

import numpy as np
from gymnasium import Env

from safeguard.core.types import Command, RobotState, Vector

AnyEnv: TypeAlias = Env[Any, Any]
Stepped: TypeAlias = tuple[Any, float, bool, bool, dict[str, Any]]
"""Observation, reward, terminated, truncated, info."""
Tick: TypeAlias = Callable[[], Command]
"""Asks the shield for the command of the next control period."""
State: TypeAlias = Callable[[Any], Any]
"""Of the environment: its robot as a ``RobotState`` or as (q, v), in the robot model's order, rad and rad/s."""


class Ports(Protocol):
    """Where the shield is connected to a robot inside an environment."""

    @property
    def period(self) -> float:
        """Control period: time between two commands, s."""
        ...

    def measure(self) -> tuple[Vector, Vector]:
        """The robot's state now: q and v, each of shape (n,), rad and rad/s."""
        ...

    def reset(self) -> None:
        """An episode begins: nothing of what was commanded before is in force."""
        ...

    def play(self, action: Vector | None, ticks: int, tick: Tick) -> Stepped:
        """Let one action's time pass.

        Args:
            action: what the agent asked for, in its own numbers; None where that cannot be used. For rewards only: the
                robot gets nothing but what ``tick`` says.
            ticks: control periods that the action is meant for.
            tick: to be called before every control period; its command is to be executed in that period.
        """
        ...


class StepPorts:
    """An environment that is stepped once in every control period.

    Args:
        env: whose ``step`` lets one control period pass.
        state: where its robot is.
        command: the environment's action for a command. It has to have an answer to ``TerminalStop`` (brakes on).
        period: control period, s.
    """

    def __init__(self, env: AnyEnv, state: State, command: Callable[[Command], Any], period: float) -> None:
        self._env, self._state, self._command = env, state, command
        self._period = period

    @property
    def period(self) -> float:
        """Control period, s."""
        return self._period

    def measure(self) -> tuple[Vector, Vector]:
        """What ``state`` says of the environment now."""
        return both(self._state(self._env))

    def reset(self) -> None:
        """Nothing of an environment that is only stepped."""

    def play(self, action: Vector | None, ticks: int, tick: Tick) -> Stepped:
        """``ticks`` steps of the environment, fewer if it ends; rewards are added up, the rest is the last step's."""
        del action
        observation, total, terminated, truncated, info = plain(self._env.step(self._command(tick())))
        for _ in range(ticks - 1):
            if terminated or truncated:
                break
            observation, reward, terminated, truncated, info = plain(self._env.step(self._command(tick())))
            total += reward
        return observation, total, terminated, truncated, info


def both(found: Any) -> tuple[Vector, Vector]:
    """The q and v of what a user's function returned, as new arrays."""
    q, v = (found.q, found.v) if isinstance(found, RobotState) else found
    return np.array(q, dtype=np.float64), np.array(v, dtype=np.float64)


def plain(stepped: tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]) -> Stepped:
    """What an environment's ``step`` returned, with Python's own float and flags."""
    observation, reward, terminated, truncated, info = stepped
    return observation, float(reward), bool(terminated), bool(truncated), info
