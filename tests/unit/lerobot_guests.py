"""Objects with the interface of LeRobot's policies, as test guests: a queue, a configuration, normalised actions."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch


class Mode(Enum):
    """How features are normalised."""

    IDENTITY = "IDENTITY"
    MEAN_STD = "MEAN_STD"


@dataclass
class Feature:
    """Shape of a feature."""

    shape: tuple[int, ...]


@dataclass
class Config:
    """What an action-chunking policy says about itself."""

    chunk_size: int | None = 4
    n_action_steps: int = 4
    n_obs_steps: int = 1
    temporal_ensemble_coeff: float | None = None
    columns: int = 2
    mode: Mode = Mode.IDENTITY
    output_features: dict[str, Feature] = field(default_factory=dict[str, Feature])
    normalization_mapping: dict[str, Mode] = field(default_factory=dict[str, Mode])

    def __post_init__(self) -> None:
        self.output_features = {"action": Feature((self.columns,))}
        self.normalization_mapping = {"ACTION": self.mode, "STATE": Mode.MEAN_STD}


class Chunking:
    """Row k of a chunk is the observation plus k; ``select_action`` plays a chunk before it asks for another."""

    name = "act"

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.calls = list[str]()
        self.training = True
        self.reset()

    def reset(self) -> None:
        """Forget what is queued."""
        self.queue = deque[Any]()
        self.calls.append("reset")

    def eval(self) -> None:
        """No dropout."""
        self.training = False

    def predict_action_chunk(self, batch: dict[str, Any]) -> Any:
        """Shape (1, chunk_size, columns)."""
        assert not torch.is_grad_enabled()
        self.calls.append("chunk")
        count = self.config.chunk_size or self.config.n_action_steps
        return batch["observation.state"][:, None] + torch.arange(float(count))[None, :, None]

    def select_action(self, batch: dict[str, Any]) -> Any:
        """Shape (1, columns)."""
        self.calls.append("select")
        if not self.queue:
            self.queue.extend(self.predict_action_chunk(batch)[0, : self.config.n_action_steps, None])
        return self.queue.popleft()
