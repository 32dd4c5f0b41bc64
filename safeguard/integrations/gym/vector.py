"""``ShieldedVectorEnv``: several shielded environments at a time, each with a shield of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from safeguard.core.errors import ConfigError
from safeguard.core.types import Vector
from safeguard.integrations.gym.agent import as_numbers
from safeguard.integrations.gym.env import ShieldedEnv


class ShieldedVectorEnv(SyncVectorEnv):
    """Gymnasium's vector environment over ``ShieldedEnv``, in every autoreset mode.

    Each row has its own shield and its own record. A row that is being reset takes no action: what the batch holds for
    it is not seen by anything, and the shield of that row begins an episode. ``info["safeguard"]`` holds arrays with a
    mask (``_safeguard``, and one for every key), as Gymnasium has it; where an episode ended in ``SAME_STEP``, its last
    step is in ``final_info``.

    A batch that is no array of one action for each row is refused as a whole: the backup acts in every row.

    Args:
        makers: one for each row, without arguments; returns a ``ShieldedEnv``, or one inside other wrappers.
        autoreset_mode: what happens to rows that ended.

    Raises:
        ConfigError: an environment without a shield.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], Any]],
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
    ) -> None:
        super().__init__(list(makers), copy=copy, autoreset_mode=autoreset_mode)
        self.shielded = tuple(_shielded(env) for env in self.envs)

    def step(self, actions: Any) -> tuple[Any, Vector, Any, Any, dict[str, Any]]:
        """One step of every row.

        Args:
            actions: shape (rows, columns).
        """
        batch = as_numbers(actions)
        if batch.shape[:1] != (self.num_envs,):
            batch = np.full((self.num_envs, 0), np.nan)
        return super().step(batch)


def _shielded(env: Any) -> ShieldedEnv:
    """The ``ShieldedEnv`` among an environment's wrappers."""
    inner = env
    while not isinstance(inner, ShieldedEnv):
        if not hasattr(inner, "env"):
            raise ConfigError(f"{env} holds no ShieldedEnv: wrap what each maker returns")
        inner = inner.env
    return inner
