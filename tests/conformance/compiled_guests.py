"""Guests of the adapter suite that torch compiles. No postponed annotations: the compiler reads them."""

import torch


class Affine(torch.nn.Module):
    """gain · phase + bias, and another gain and bias once the flag is up; rows alike, shape (chunk, 7)."""

    good_bias: torch.Tensor
    bad_bias: torch.Tensor

    def __init__(
        self, good_gain: float, good_bias: list[float], bad_gain: float, bad_bias: list[float], chunk: int
    ) -> None:
        super().__init__()
        self.good_gain, self.bad_gain, self.chunk = good_gain, bad_gain, chunk
        self.register_buffer("good_bias", torch.tensor(good_bias))
        self.register_buffer("bad_bias", torch.tensor(bad_bias))

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Shape (1, 8) to (chunk, 7)."""
        phase, flag = seen[:, :-1], seen[:, -1:]
        good = self.good_gain * phase + self.good_bias
        bad = self.bad_gain * phase + self.bad_bias
        return torch.where(flag > 0.5, bad, good).repeat(self.chunk, 1)


class Short(torch.nn.Module):
    """One column too few once the flag is up."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Shape (chunk, 6 or 7)."""
        rows: torch.Tensor = self.inner(seen)
        if bool(seen[0, -1] > 0.5):
            return rows[:, :-1]
        return rows


class Buffered(torch.nn.Module):
    """Gives the same tensor every time, and writes over it."""

    out: torch.Tensor

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("out", torch.zeros(8, 7))

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Shape (8, 7)."""
        self.out[:] = self.inner(seen)
        return self.out
