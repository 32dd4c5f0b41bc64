"""Curves and stretches over time in bounded memory, however long they go on."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Final

import numpy as np

from safeguard.core.types import Vector

NONE: Final = float("nan")
SPANS: Final = 2000
"""Stretches after which those are left out that no eye could tell apart."""


@dataclass(frozen=True, slots=True)
class Span:
    """Something that lasted from ``start`` to ``end``, s after the first tick of the episode."""

    start: float
    end: float
    label: str


def coarse(spans: Iterable[Span], duration: float, parts: int = 300) -> list[Span]:
    """Spans without repetitions that no eye could tell apart; whatever label there is stays visible where it is.

    Of spans shorter than one of ``parts`` of ``duration``, each part keeps the first of every label.
    """
    size = max(duration, 1e-9) / parts
    seen: set[tuple[int, str]] = set()
    kept: list[Span] = []
    for span in spans:
        place = int(span.start / size), span.label
        short = span.end - span.start < size
        if short and place in seen:
            continue
        seen.add(place)
        kept.append(span)
    return kept


class Trace:
    """A curve that keeps every peak and gap: of equal numbers of ticks the smallest, the largest and a gap.

    Every tick is kept until there are as many as ``blocks``; each time that it is full, two become one.
    """

    __slots__ = ("_blocks", "_high", "_inside", "_low", "_stride", "_t_gap", "_t_high", "_t_low")

    def __init__(self, blocks: int) -> None:
        if blocks < 2 or blocks % 2:
            raise ValueError(f"blocks {blocks}: an even number, 2 or more")
        self._blocks, self._stride, self._inside = blocks, 1, 0
        self._t_low, self._low = array("d"), array("d")
        self._t_high, self._high = array("d"), array("d")
        self._t_gap = array("d")

    def __len__(self) -> int:
        """Upper bound of the number of points."""
        return 3 * len(self._low)

    def add(self, t: float, y: float) -> None:
        """The value at ``t``, s; what is not finite is a gap."""
        if self._inside == self._stride or not self._low:
            self._begin(t)
        self._inside += 1
        if not isfinite(y):
            self._t_gap[-1] = t
            return
        if not y >= self._low[-1]:
            self._t_low[-1], self._low[-1] = t, y
        if not y <= self._high[-1]:
            self._t_high[-1], self._high[-1] = t, y

    def _begin(self, t: float) -> None:
        if len(self._low) == self._blocks:
            self._halve()
        self._inside = 0
        for column in (self._t_low, self._t_high):
            column.append(t)
        for column in (self._low, self._high, self._t_gap):
            column.append(NONE)

    def _halve(self) -> None:
        low, high = np.array(self._low).reshape(-1, 2), np.array(self._high).reshape(-1, 2)
        rows = np.arange(len(low))
        least = np.where(np.isnan(low), np.inf, low).argmin(axis=1)
        most = np.where(np.isnan(high), -np.inf, high).argmax(axis=1)
        gap = np.array(self._t_gap).reshape(-1, 2)
        self._t_low, self._t_high = (
            array("d", np.array(times).reshape(-1, 2)[rows, pick])
            for times, pick in ((self._t_low, least), (self._t_high, most))
        )
        self._low, self._high = array("d", low[rows, least]), array("d", high[rows, most])
        self._t_gap = array("d", np.fmax(gap[:, 0], gap[:, 1]))
        self._stride *= 2

    def points(self) -> tuple[Vector, Vector]:
        """Times and values in order; NaN is a gap."""
        t = np.column_stack((self._t_low, self._t_high, self._t_gap)) if self._low else np.empty((0, 3))
        y = np.column_stack((self._low, self._high, np.full(len(t), NONE))) if self._low else np.empty((0, 3))
        there = np.column_stack((~np.isnan(y[:, 0]), ~np.isnan(y[:, 1]) & (t[:, 0] != t[:, 1]), ~np.isnan(t[:, 2])))
        order = np.argsort(np.where(there, t, np.inf), axis=1, kind="stable")
        rows = np.arange(len(t))[:, None]
        there = there[rows, order]
        return t[rows, order][there], y[rows, order][there]


class Stretches:
    """Consecutive ticks with one label; each stretch lasts until the next begins, "" is none."""

    __slots__ = ("_done", "_label", "_limit", "_start", "_until")

    def __init__(self) -> None:
        self._done: list[Span] = []
        self._label, self._start, self._until, self._limit = "", 0.0, 0.0, SPANS

    def add(self, t: float, label: str) -> None:
        """What holds at ``t``, s."""
        self._until = t
        if label == self._label:
            return
        if self._label:
            self._done.append(Span(self._start, t, self._label))
        self._start, self._label = t, label
        if len(self._done) > self._limit:
            self._done = coarse(self._done, t)
            self._limit = max(SPANS, 2 * len(self._done))

    def spans(self) -> list[Span]:
        """All of them in order; of very many that are short, each label where it is."""
        return [*self._done, Span(self._start, self._until, self._label)] if self._label else [*self._done]
