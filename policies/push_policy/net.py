"""The network of the push policy. Imports torch; nothing outside this folder imports it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class ChunkNet(nn.Module):
    """Fully connected, SiLU, with the normalisation of inputs and outputs as buffers."""

    x_mean: Tensor
    x_std: Tensor
    y_mean: Tensor
    y_std: Tensor

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        layers = [nn.Sequential(nn.Linear(a, b), nn.SiLU()) for a, b in pairwise(sizes)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(sizes[-1], outputs)
        for letter, size in (("x", inputs), ("y", outputs)):
            self.register_buffer(f"{letter}_mean", torch.zeros(size))
            self.register_buffer(f"{letter}_std", torch.ones(size))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised offsets and the last hidden layer."""
        hidden: Tensor = self.body((x - self.x_mean) / self.x_std)
        return self.head(hidden), hidden

    def offsets(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Joint offsets, rad, and the last hidden layer."""
        y, hidden = self(x)
        return self.y_mean + self.y_std * y, hidden

    def fit_scales(self, x: Tensor, y: Tensor) -> None:
        """Set the normalisation to the data's mean and spread."""
        self.x_mean.copy_(x.mean(0))
        self.x_std.copy_(x.std(0) + 1e-4)
        self.y_mean.copy_(y.mean(0))
        self.y_std.copy_(y.std(0) + 1e-4)
