"""Formulas as trees. Intervals are in ticks; a comparison is a linear expression that should not be negative."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Absolute:
    """The magnitude of a sum."""

    of: Linear


@dataclass(frozen=True, slots=True)
class Term:
    """``coefficient`` times a signal or a magnitude."""

    coefficient: float
    of: Signal | Absolute


@dataclass(frozen=True, slots=True)
class Linear:
    """``constant`` plus the sum of ``terms``."""

    terms: tuple[Term, ...]
    constant: float = 0.0

    def scaled(self, factor: float) -> Linear:
        """Times ``factor``."""
        return Linear(tuple(Term(factor * t.coefficient, t.of) for t in self.terms), factor * self.constant)

    def plus(self, other: Linear, sign: float = 1.0) -> Linear:
        """Plus ``sign`` times ``other``."""
        more = other.scaled(sign)
        return Linear(self.terms + more.terms, self.constant + more.constant)


@dataclass(frozen=True, slots=True)
class Comparison:
    """``margin`` ≥ 0; its value is its robustness. ``text`` is how the formula says it."""

    margin: Linear
    text: str


@dataclass(frozen=True, slots=True)
class Not:
    """Where ``of`` does not hold."""

    of: Formula


@dataclass(frozen=True, slots=True)
class Every:
    """All of at least two."""

    of: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """One of at least two."""

    of: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Interval:
    """From ``lower`` to ``upper`` ticks ago, both included."""

    lower: int
    upper: int


@dataclass(frozen=True, slots=True)
class Once:
    """Held at some tick of the interval; of the whole episode without one."""

    of: Formula
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Historically:
    """Held at every tick of the interval; of the whole episode without one."""

    of: Formula
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Since:
    """``right`` held at some tick of the interval, and ``left`` at every tick after that one until now."""

    left: Formula
    right: Formula
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Previously:
    """Held one tick ago; does not hold in the first tick of an episode."""

    of: Formula


Formula: TypeAlias = Comparison | Not | Every | Some | Once | Historically | Since | Previously


def inside(formula: Formula) -> tuple[Formula, ...]:
    """The formulas that it is made of."""
    match formula:
        case Comparison():
            return ()
        case Every(of) | Some(of):
            return of
        case Since(left, right):
            return left, right
        case Not(of) | Once(of) | Historically(of) | Previously(of):
            return (of,)


def parts(formula: Formula) -> Iterator[Formula]:
    """Itself and every formula in it."""
    yield formula
    for part in inside(formula):
        yield from parts(part)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A formula, and the signals that it names, each with the place of its first mention (characters before it)."""

    formula: Formula
    signals: Mapping[str, int]
