"""Robustness of past-time formulas, online: one step a tick, bounded memory, a time that no interval changes.

Space robustness ρ of Donzé and Maler (FORMATS 2010), mirrored into the past and over ticks t of an episode that
begins with tick 0:

    ρ(μ ≥ 0, t) = μ(t)          ρ(¬φ) = −ρ(φ)          ρ(φ ∧ ψ) = min(ρ(φ), ρ(ψ))          ρ(φ ∨ ψ) = max
    ρ(once[a:b] φ, t)         = max over t' in [t−b, t−a], t' ≥ 0, of ρ(φ, t')       of nothing: −∞
    ρ(historically[a:b] φ, t) = min over the same                                    of nothing: +∞
    ρ(φ since[a:b] ψ, t)      = max over the same of min(ρ(ψ, t'), min over (t', t] of ρ(φ))
    ρ(previously φ, t)        = ρ(φ, t−1)                                            at t = 0: −∞

ρ > 0 says that the formula holds, ρ < 0 that it does not; at 0 either may be. An operator is NaN
as long as a NaN lies in what its interval covers: nobody can say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf, isnan
from typing import Final, Protocol, TypeAlias

from safeguard.monitors.stl.tree import (
    Comparison,
    Every,
    Formula,
    Historically,
    Interval,
    Linear,
    Not,
    Once,
    Previously,
    Signal,
    Since,
    Some,
)

Margin: TypeAlias = tuple[float, int]
"""Robustness, and the number of the comparison that decides it (−1: none does yet)."""

_NEVER: Final[Margin] = (-inf, -1)


class Node(Protocol):
    """An operator with its memory."""

    def step(self, values: Sequence[float]) -> Margin:
        """Robustness at this tick, for the signals' ``values``. Call it once a tick."""
        ...

    def reset(self) -> None:
        """Start a new episode."""
        ...


def build(formula: Formula, names: Sequence[str], comparisons: list[Comparison]) -> Node:
    """The evaluator of ``formula`` for signals in the order of ``names``; appends its comparisons as numbered."""
    match formula:
        case Comparison():
            comparisons.append(formula)
            return _Atom(_Sum(formula.margin, names), len(comparisons) - 1)
        case Not(of):
            return _Negation(build(of, names, comparisons))
        case Every(of):
            return _Least([build(part, names, comparisons) for part in of])
        case Some(of):
            return _Greatest([build(part, names, comparisons) for part in of])
        case Once(of, interval):
            return _Window(build(of, names, comparisons), interval)
        case Historically(of, interval):
            negated = _Negation(build(of, names, comparisons))
            return _Negation(_Window(negated, interval))
        case Since(left, right, interval):
            return _Since(build(left, names, comparisons), build(right, names, comparisons), interval)
        case Previously(of):
            return _Window(build(of, names, comparisons), Interval(1, 1))


class _Sum:
    """The value of a linear expression."""

    __slots__ = ("_constant", "_magnitudes", "_plain")

    def __init__(self, of: Linear, names: Sequence[str]) -> None:
        self._constant = of.constant
        self._plain = [(t.coefficient, names.index(t.of.name)) for t in of.terms if isinstance(t.of, Signal)]
        self._magnitudes = [(t.coefficient, _Sum(t.of.of, names)) for t in of.terms if not isinstance(t.of, Signal)]

    def value(self, values: Sequence[float]) -> float:
        total = self._constant
        for coefficient, index in self._plain:
            total += coefficient * values[index]
        for coefficient, inner in self._magnitudes:
            total += coefficient * abs(inner.value(values))
        return total


class _Atom:
    __slots__ = ("_number", "_sum")

    def __init__(self, of: _Sum, number: int) -> None:
        self._sum, self._number = of, number

    def step(self, values: Sequence[float]) -> Margin:
        return self._sum.value(values), self._number

    def reset(self) -> None:
        pass


class _Negation:
    __slots__ = ("_of",)

    def __init__(self, of: Node) -> None:
        self._of = of

    def step(self, values: Sequence[float]) -> Margin:
        value, number = self._of.step(values)
        return -value, number

    def reset(self) -> None:
        self._of.reset()


def _lesser(a: Margin, b: Margin) -> Margin:
    """The first of the smaller ones; NaN if either is."""
    return a if a[0] <= b[0] or isnan(a[0]) else b


class _Least:
    __slots__ = ("_of",)

    def __init__(self, of: Sequence[Node]) -> None:
        self._of = tuple(of)

    def step(self, values: Sequence[float]) -> Margin:
        least = (inf, -1)
        for node in self._of:
            margin = node.step(values)
            if not (least[0] <= margin[0] or isnan(least[0])):
                least = margin
        return least

    def reset(self) -> None:
        for node in self._of:
            node.reset()


class _Greatest:
    __slots__ = ("_of",)

    def __init__(self, of: Sequence[Node]) -> None:
        self._of = tuple(of)

    def step(self, values: Sequence[float]) -> Margin:
        greatest = _NEVER
        for node in self._of:
            margin = node.step(values)
            if not (greatest[0] >= margin[0] or isnan(greatest[0])):
                greatest = margin
        return greatest

    def reset(self) -> None:
        for node in self._of:
            node.reset()


class Peak:
    """The largest of the last ``span`` + 1 margins: the monotone wedge of Lemire (2006).

    A margin stays in the wedge until a later one is as large or the window has left it. Which ones a new margin
    displaces is found by galloping from the end, so a push costs O(1) amortised and at worst O(log span). NaN for as
    long as the window holds a NaN.
    """

    __slots__ = ("_entries", "_head", "_mask", "_missing", "_missing_until", "_span", "_tail", "_tick")

    def __init__(self, span: int) -> None:
        self._span = span
        self._mask = (1 << span.bit_length()) - 1  # a power of two above span: the wedge never overlaps itself
        self._entries: list[tuple[float, int, Margin]] = [(-inf, 0, _NEVER)] * (self._mask + 1)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._tick = self._head = self._tail = 0
        self._missing_until = -1
        self._missing = _NEVER

    def push(self, margin: Margin) -> Margin:
        """Take this tick's margin; the largest in the window."""
        tick, value = self._tick, margin[0]
        self._tick = tick + 1
        if isnan(value):
            self._missing, self._missing_until = margin, tick + self._span
            margin, value = _NEVER, -inf
        entries, mask = self._entries, self._mask
        if self._head < self._tail:
            if entries[self._head & mask][1] < tick - self._span:
                self._head += 1
            if self._head < self._tail and entries[(self._tail - 1) & mask][0] <= value:
                self._tail = self._kept(value)
        entries[self._tail & mask] = (value, tick, margin)
        self._tail += 1
        return self._missing if tick <= self._missing_until else entries[self._head & mask][2]

    def _kept(self, value: float) -> int:
        """The end of what in the wedge is above ``value``; the last entry is not."""
        entries, mask, head, high, step = self._entries, self._mask, self._head, self._tail - 1, 1
        while high - step >= head and entries[(high - step) & mask][0] <= value:
            high -= step
            step *= 2
        low = max(head, high - step)  # everything before low is above value, nothing from high on is
        while low < high:
            middle = (low + high) // 2
            if entries[middle & mask][0] <= value:
                high = middle
            else:
                low = middle + 1
        return high


class _Delay:
    """What was pushed ``ticks`` ticks ago; ``_NEVER`` before."""

    __slots__ = ("_held", "_ticks")

    def __init__(self, ticks: int) -> None:
        self._ticks = ticks
        self._held: deque[Margin] = deque()
        self.reset()

    def reset(self) -> None:
        self._held.clear()
        self._held.extend([_NEVER] * self._ticks)

    def push(self, margin: Margin) -> Margin:
        self._held.append(margin)
        return self._held.popleft()


class _Window:
    """once[a:b]: the peak over b − a ticks of what was a ticks ago; a running peak without an interval."""

    __slots__ = ("_delay", "_of", "_peak")

    def __init__(self, of: Node, interval: Interval | None) -> None:
        self._of = of
        self._delay = _Delay(interval.lower) if interval and interval.lower else None
        self._peak = Peak(interval.upper - interval.lower) if interval else _Running()

    def step(self, values: Sequence[float]) -> Margin:
        margin = self._of.step(values)
        if self._delay is not None:
            margin = self._delay.push(margin)
        return self._peak.push(margin)

    def reset(self) -> None:
        self._of.reset()
        self._peak.reset()
        if self._delay is not None:
            self._delay.reset()


class _Running:
    """The largest margin so far; NaN for good after a NaN."""

    __slots__ = ("_best",)

    def __init__(self) -> None:
        self._best = _NEVER

    def reset(self) -> None:
        self._best = _NEVER

    def push(self, margin: Margin) -> Margin:
        if not (self._best[0] >= margin[0] or isnan(self._best[0])):
            self._best = margin
        return self._best


class _Since:
    """φ since[a:b] ψ = historically[0:a−1] φ ∧ once[a:a](once[0:b−a] ψ ∧ φ since ψ), every part O(1).

    The last conjunction is that of Donzé, Ferrère and Maler (CAV 2013) in the past. Without an interval:
    s_t = max(ψ_t, min(φ_t, s_{t−1})), s_{−1} = −∞.
    """

    __slots__ = (
        "_delay",
        "_held",
        "_left",
        "_missing",
        "_missing_until",
        "_peak",
        "_right",
        "_since",
        "_tick",
        "_upper",
    )

    def __init__(self, left: Node, right: Node, interval: Interval | None) -> None:
        self._left, self._right = left, right
        lower = interval.lower if interval else 0
        self._upper = interval.upper if interval else inf
        self._peak = Peak(interval.upper - lower) if interval else _Running()
        self._delay = _Delay(lower) if lower else None
        self._held = Peak(lower - 1) if lower else None
        self._forget()

    def _forget(self) -> None:
        self._tick = 0
        self._since, self._missing = _NEVER, _NEVER
        self._missing_until: float = -1

    def reset(self) -> None:
        for part in (self._left, self._right, self._peak, self._delay, self._held):
            if part is not None:
                part.reset()
        self._forget()

    def step(self, values: Sequence[float]) -> Margin:
        left, right = self._left.step(values), self._right.step(values)
        tick = self._tick
        self._tick = tick + 1
        recent = self._peak.push(right)
        if isnan(left[0]):
            self._missing, self._missing_until = left, tick + self._upper - 1
            left = _NEVER
        through = _lesser(left, self._since)
        self._since = right if right[0] >= through[0] else through  # a NaN is not: recent says it as long as it counts
        margin = _lesser(recent, self._since)
        if self._delay is not None and self._held is not None:
            value, number = self._held.push((-left[0], left[1]))
            margin = _lesser(self._delay.push(margin), (-value, number))
        return self._missing if tick <= self._missing_until else margin
