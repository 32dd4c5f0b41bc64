"""Small torch modules that remember, as test guests. No postponed annotations: the compiler reads them."""

import torch


class Hidden(torch.nn.Module):
    """An LSTM whose hidden state stays inside, in buffers, as legged-robot exporters write it."""

    hidden: torch.Tensor
    cell: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.lstm, self.head = torch.nn.LSTM(2, 4), torch.nn.Linear(4, 2)
        self.register_buffer("hidden", torch.zeros(1, 1, 4))
        self.register_buffer("cell", torch.zeros(1, 1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (1, 2) to (1, 2)."""
        out, (hidden, cell) = self.lstm(x.unsqueeze(0), (self.hidden, self.cell))
        self.hidden[:] = hidden
        self.cell[:] = cell
        result: torch.Tensor = self.head(out.squeeze(0))
        return result


class NoneFirst(torch.nn.Module):
    """A memory that is None until the first call."""

    last: torch.Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.last = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One more with every call."""
        last = self.last
        if last is None:
            last = torch.zeros_like(x)
        self.last = last + 1.0
        return x + last


class Plain(torch.nn.Module):
    """Numbers, tensors and lists as plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.sums = torch.zeros(2)
        self.seen = [torch.zeros(2)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Grows with every call, by each of them."""
        self.count += 1
        self.sums += 1.0
        self.seen.append(self.sums.clone())
        return x + self.sums + float(self.count) + 0.1 * float(len(self.seen))


class Tied(torch.nn.Module):
    """One tensor under two names, and two views of another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.zeros(2)
        self.second = self.first
        both = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        self.upper, self.lower = both[0], both[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What is written to one name is read from the other."""
        self.first += 1.0
        self.upper += 1.0
        return x + self.second + self.upper - self.lower


class Several(torch.nn.Module):
    """Memory in a part of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList([Plain(), NoneFirst()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All parts in turn."""
        for part in self.parts:
            x = part(x)
        return x


class Counting(torch.nn.Module):
    """A buffer that counts, in a form that can be exported."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        self.register_buffer("count", torch.zeros(1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One more with every call."""
        self.count.add_(1.0)
        result: torch.Tensor = self.linear(x) + self.count
        return result
