"""Streams of evidence that should break a formula: a requirement is shown them at start-up, before it may say OK.

A stream is a few phases, each of which holds every signal at one value for as long as the formula looks back. To find
them every temporal operator is taken to look at the phase that it stands in, or at the one before. Signals then get
values one after the other, beyond and between what they are compared with, for as long as the formula can still be
broken by those that have none yet (bounds of the robustness, by interval arithmetic).

Only the requirement's own answer to a stream proves something. A formula that cannot be broken has no such stream;
the search is bounded, so there are others whose stream it does not find. Nothing here is random or measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise, product, repeat
from math import inf
from typing import Final, TypeAlias

from safeguard.core.types import Evidence
from safeguard.monitors.stl.signals import plant, plausible
from safeguard.monitors.stl.tree import (
    Absolute,
    Comparison,
    Every,
    Formula,
    Historically,
    Linear,
    Not,
    Once,
    Previously,
    Signal,
    Since,
    Some,
    inside,
    parts,
)

TICKS: Final = 4_000
"""Most ticks of all streams together, about 3 µs each; what takes longer to break is not found out."""

_STREAMS: Final = 8
_LOOKS: Final = 2_000  # comparisons that the search may bound, about 1 µs each
_CHOICES: Final = 64  # of what the operators look at
_EACH: Final = 2  # streams for one choice

_Bounds: TypeAlias = tuple[float, float]
_Place: TypeAlias = tuple[int, str]  # phase, 0 the last, and signal


def streams(formula: Formula, joints: Sequence[str]) -> Iterator[Iterator[Evidence]]:
    """Evidence tick by tick, one episode after the other; most often the first breaks ``formula``."""
    left, hold = TICKS, 1 + _look_back(formula)
    for phases in islice(_plans(formula), _STREAMS):
        shown = [repeat(plant(phase, joints), hold) for phase in phases]
        yield islice(chain.from_iterable(shown), left)
        left -= hold * len(phases)
        if left <= 0:
            return


def _look_back(formula: Formula) -> int:
    """Over how many ticks; of the whole episode one is enough."""
    longest = max(map(_look_back, inside(formula)), default=0)
    match formula:
        case Previously():
            return longest + 1
        case Once(interval=interval) | Historically(interval=interval) | Since(interval=interval) if interval:
            return longest + interval.upper
        case _:
            return longest


def _plans(formula: Formula) -> Iterator[list[dict[str, float]]]:
    """Values of the signals that should break ``formula``, phase by phase, the oldest first."""
    every = list(parts(formula))
    comparisons = [part.margin for part in every if isinstance(part, Comparison)]
    operators = sum(isinstance(part, Once | Historically | Previously | Since) for part in every)
    values, looks = _values(comparisons), iter(range(_LOOKS // len(comparisons)))
    for before in islice(product((0, 1), repeat=operators), _CHOICES):
        for known in islice(_broken(formula, before, values, looks, {}), _EACH):
            yield _phases(known, list(values))


def _phases(known: Mapping[_Place, float], names: Sequence[str]) -> list[dict[str, float]]:
    oldest = max((phase for phase, _ in known), default=0)
    columns = [_kept([known.get((phase, name)) for phase in range(oldest, -1, -1)]) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _kept(values: list[float | None]) -> list[float]:
    """A signal keeps its value while it has no other, and had its first from the start."""
    value = next((value for value in values if value is not None), 0.0)
    return [value := value if other is None else other for other in values]


# -- the search -------------------------------------------------------------------------------------------


def _broken(
    formula: Formula,
    before: Sequence[int],
    values: Mapping[str, Sequence[float]],
    looks: Iterator[int],
    known: Mapping[_Place, float],
) -> Iterator[Mapping[_Place, float]]:
    """What to add to ``known`` so that the formula does not hold; backtracks over ``values`` until ``looks`` end."""
    if next(looks, None) is None:
        return
    look = _Look(before, known)
    low, high = look.bounds(formula)
    if high < 0.0:
        yield known
    elif low < 0.0:
        place = look.unknown[0]
        for value in values[place[1]]:
            yield from _broken(formula, before, values, looks, {**known, place: value})


class _Look:
    """One look at a formula some of whose signals are ``known``, while all of them stand still.

    ``before`` says of each temporal operator whether it looks at the phase before the one that it stands in.

    Attributes:
        unknown: signals without a value that it came by.
    """

    def __init__(self, before: Sequence[int], known: Mapping[_Place, float]) -> None:
        self._before, self._known = iter(before), known
        self.unknown: list[_Place] = []

    def bounds(self, formula: Formula, phase: int = 0) -> _Bounds:
        """The least and the largest robustness that there can be."""
        match formula:
            case Comparison(margin):
                return self._sum(margin, phase)
            case Not(of):
                low, high = self.bounds(of, phase)
                return -high, -low
            case Every(of):
                return _each(min, [self.bounds(part, phase) for part in of])
            case Some(of):
                return _each(max, [self.bounds(part, phase) for part in of])
            case Once(of) | Historically(of) | Previously(of):
                return self.bounds(of, phase + next(self._before))
            case Since(left, right):
                earlier = next(self._before)
                held, reached = self.bounds(left, phase), self.bounds(right, phase + earlier)
                return _each(min, [held, reached]) if earlier else reached

    def _sum(self, of: Linear, phase: int) -> _Bounds:
        low = high = of.constant
        for term in of.terms:
            ends = [term.coefficient * end for end in self._term(term.of, phase)]
            low, high = low + min(ends), high + max(ends)
        return low, high

    def _term(self, of: Signal | Absolute, phase: int) -> _Bounds:
        if isinstance(of, Absolute):
            low, high = self._sum(of.of, phase)
            return max(low, -high, 0.0), max(-low, high)
        place = phase, of.name
        if place in self._known:
            return self._known[place], self._known[place]
        self.unknown.append(place)
        return -inf, inf


def _each(pick: Callable[[Iterable[float]], float], bounds: Sequence[_Bounds]) -> _Bounds:
    return pick(low for low, _ in bounds), pick(high for _, high in bounds)


def _values(sums: Sequence[Linear]) -> dict[str, list[float]]:
    """What every signal is tried at, by name."""
    edges: dict[str, set[float]] = {}
    for one in sums:
        for name, edge in _edges(one, 0.0):
            edges.setdefault(name, set()).add(edge)
    return {name: _around(name, sorted(found)) for name, found in edges.items()}


def _edges(of: Linear, level: float) -> Iterator[tuple[str, float]]:
    """Every signal with the values at which the sum is ``level`` while the other signals are 0."""
    for term in of.terms:
        edge = (level - of.constant) / term.coefficient
        if isinstance(term.of, Signal):
            yield term.of.name, edge
        else:
            yield from _edges(term.of.of, edge)
            yield from _edges(term.of.of, -edge)


def _around(name: str, edges: Sequence[float]) -> list[float]:
    """0, beyond and between ``edges``, the smallest first; at last the edges, where comparisons barely hold."""
    far = 1.0 + 2.0 * max(map(abs, edges))
    between = [(a + b) / 2.0 for a, b in pairwise(edges)]
    return plausible(name, [0.0, *sorted([edges[0] - far, edges[-1] + far, *between], key=abs), *edges])
