"""Gymnasium environments with the shield between the agent and the robot: ``ShieldedEnv``, ``ShieldedVectorEnv``.

    env = ShieldedEnv(env, robot, spec, state=where, command=to_action, period=0.002)
    observation, reward, terminated, truncated, info = env.step(action)     # never raises for a bad action
    info["safeguard"]["intervention"]                                       # 0: the action was executed as it is

Needs the extra ``gym``.
"""

from __future__ import annotations

from importlib.util import find_spec

from safeguard.core.errors import MissingExtraError

if find_spec("gymnasium") is None:
    raise MissingExtraError("safeguard.integrations.gym", "gym")

from safeguard.integrations.gym.env import ShieldedEnv
from safeguard.integrations.gym.mujoco import MujocoPorts, mujoco_ports
from safeguard.integrations.gym.ports import Ports, StepPorts
from safeguard.integrations.gym.vector import ShieldedVectorEnv

__all__ = ["MujocoPorts", "Ports", "ShieldedEnv", "ShieldedVectorEnv", "StepPorts", "mujoco_ports"]
