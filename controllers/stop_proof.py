"""The kernel that proves that a stop stays clear.

No distance changes by more than reach · |Δq|: on a way of length T between configurations with distances (or lower
bounds) d₀ and d₁ none is below d₀ − T, d₁ − T, or (d₀ + d₁ − T) / 2. What a pair needs is asked where it says most: at
the end of the stop, then where the stop begins, then in the middle of what is not proved yet.

A fact is a row of 6 numbers of a pair: how far the ways to q0 and from there to the end can change its distance; what
every sample must have; twice what every point must have; lower bounds at q0 and at the end.
"""

from __future__ import annotations

from math import inf, nan, sqrt

import numpy as np
from numpy.typing import NDArray

from safeguard.controllers.gjk import gap
from safeguard.controllers.placing import change, on_stop, place_asked
from safeguard.controllers.shapes import BOUND, CAPSULES, SHAPES, Capsules
from safeguard.controllers.touch import apart
from safeguard.core.compiled import (
    COUNT,
    INTS,
    MATRIX,
    OUT,
    OUT_FLAGS,
    OUT_INTS,
    OUT_MATRIX,
    VECTOR,
    Integers,
    kernel,
    leaf,
    part,
)
from safeguard.core.types import Vector

Flags = NDArray[np.bool_]

PROVED, REFUSED = 0, -1
ROUNDING = 1e-5  # m; of a distance between samples
_SLIP = 1e-6  # m, that a pair below its floor may lose of the most that it has had, once
GAIN, LEAST_GAIN = 0.01, 1e-9  # of the way, and m; of a pair that has lost more
_CLEAR, _KEEP, _DOUBT, _REFUSE = 0, 1, 2, 3
_LEAD, _WAY, _SAMPLE, _TWICE, _BEGIN, _END = 0, 1, 2, 3, 4, 5
_START, _ENTRY, _LAST = 0, 1, 2  # samples: q, q0, the end of the stop
_DEPTH = 24  # of halving


@part
def _suspects(
    shapes: Capsules,
    furthest: Vector,
    floors: Vector,
    path: Vector,
    now: Vector,
    q_end: Vector,
    end: Vector,
    among: Integers,
    keep: Vector,
    who: Integers,
    facts: Vector,
) -> int:
    """Pairs that the way may bring below their floor, with how far it can change them; how many.

    Raises ``keep`` for all of them: from here on a pair must keep what it certainly has.
    """
    pairs, moves = shapes.pairs, shapes.moves
    moved, most, count = np.empty((4, path.shape[1])), 0.0, 0
    for j in range(path.shape[1]):
        moved[0, j] = abs(path[_ENTRY, j] - path[_START, j])
        moved[1, j] = abs(path[_LAST, j] - path[_ENTRY, j])
        moved[2, j] = abs(path[_LAST, j] - q_end[j])
        moved[3, j] = moved[0, j] + moved[1, j]
        most += furthest[j] * moved[3, j]
    for c in range(len(among)):
        k = among[c]
        keep[k] = min(floors[0, k], max(keep[k], now[k] - _SLIP))
        if now[k] - most >= floors[0, k] or now[k] - change(pairs, moves, k, moved, 3) >= floors[0, k]:
            continue
        lead, way = change(pairs, moves, k, moved, 0), change(pairs, moves, k, moved, 1)
        first, last = now[k] - lead - way, end[k] - change(pairs, moves, k, moved, 2) - lead - way
        if not max(first, last, 0.5 * (first + last + lead + way)) >= floors[0, k]:
            who[count], facts[count, _LEAD], facts[count, _WAY] = k, lead, way
            count += 1
    return count


@leaf
def _questions(
    stage: int, floors: Vector, now: Vector, known: Flags, who: Integers, facts: Vector, m: int, asked: Vector
) -> bool:
    """Fill the distances that pairs need at a sample, −∞ where none is needed; whether any is."""
    some = False
    for c in range(m):
        k, lead, way, sample, twice = who[c], facts[c, _LEAD], facts[c, _WAY], facts[c, _SAMPLE], facts[c, _TWICE]
        if stage == _START:
            sample = floors[0, k] + ROUNDING
            asked[0, c] = -inf if known[k] or now[k] >= sample else sample + lead + way
        elif stage == _LAST:
            asked[0, c] = max(sample, twice + way - facts[c, _BEGIN])
        else:
            asked[0, c] = max(sample, twice + way - facts[c, _END], twice + lead - now[k])
        asked[1, c] = sample
        some = some or asked[0, c] > -inf
    return some


@leaf
def _visit(
    shapes: Capsules,
    path: Vector,
    at: int,
    frames: Vector,
    ends: Vector,
    who: Integers,
    m: int,
    asked: Vector,
    memory: Vector,
    scratch: Vector,
    asked_of: Flags,
    d: Vector,
    sure: Flags,
) -> None:
    """Distances at row ``at`` of ``path``, or lower bounds of them that are what was asked, and which are which."""
    pieces, points, pairs = shapes.pieces, shapes.points, shapes.pairs
    first = len(pairs) * (3 if path.shape[0] == 1 else at)  # every sample has a memory of its own
    place_asked(shapes, path, at, frames, ends, who, m, asked, asked_of)
    for c in range(m):
        if asked[0, c] > -inf:
            k = who[c]
            d[c] = apart(pieces, ends, 0, pairs[k, 0], pairs[k, 1])
            sure[c] = pairs[k, 2] == CAPSULES
            if not (sure[c] or d[c] >= asked[0, c]):
                enough, least = asked[0, c], asked[1, c]
                bound, sure[c] = gap(
                    pieces, points, pairs, frames, 0, k, least, enough, memory, first + k, scratch, scratch, 7
                )
                d[c] = max(d[c], bound)


@leaf
def _answer(
    stage: int,
    floors: Vector,
    now: Vector,
    known: Flags,
    keep: Vector,
    k: int,
    facts: Vector,
    c: int,
    asked: Vector,
    d: Vector,
    sure: Flags,
) -> int:
    """What the distance at a sample says about a pair."""
    lead, way = facts[c, _LEAD], facts[c, _WAY]
    if stage == _START:
        if asked[0, c] > -inf:
            now[k], known[k] = max(now[k], d[c]), sure[c]
            if d[c] >= asked[0, c]:
                return _CLEAR
            if not sure[c] and now[k] < floors[0, k] + ROUNDING:
                return _DOUBT
        keep[k] = min(floors[0, k], max(keep[k], now[k] - _SLIP))
        gained = now[k] + max(GAIN * lead, LEAST_GAIN)
        facts[c, _SAMPLE], facts[c, _BEGIN] = keep[k] if now[k] >= keep[k] else min(keep[k], gained), now[k] - lead
        facts[c, _TWICE] = 2.0 * floors[1, k] if now[k] > floors[1, k] + ROUNDING else -inf
        return _KEEP
    if stage == _ENTRY:
        d[c] = max(d[c], facts[c, _BEGIN])
    if not d[c] >= facts[c, _SAMPLE]:
        return _REFUSE if sure[c] else _DOUBT
    facts[c, _BEGIN if stage == _ENTRY else _END] = d[c]
    if stage == _ENTRY and max(now[k] + d[c] - lead, 2.0 * (d[c] - lead)) < facts[c, _TWICE]:
        d[c] = nan
        return _REFUSE if known[k] else _DOUBT
    if facts[c, _BEGIN] < facts[c, _SAMPLE] or facts[c, _BEGIN] + facts[c, _END] - way < facts[c, _TWICE]:
        return _KEEP
    return _CLEAR


@leaf
def _ask_middle(
    shapes: Capsules,
    spans: Vector,
    cells: Vector,
    counts: Integers,
    top: int,
    middle: Vector,
    pairs: Integers,
    facts: Vector,
    who: Integers,
    asked: Vector,
    moved: Vector,
    ways: Vector,
) -> None:
    """What the pairs of the topmost interval need in its middle, and how far the ways to its ends can change them."""
    n, pairs_of, moves = middle.shape[1], shapes.pairs, shapes.moves
    for j in range(n):
        moved[0, j], moved[1, j] = abs(middle[0, j] - spans[top, 0, j]), abs(spans[top, 1, j] - middle[0, j])
    for c in range(counts[top]):
        p = int(cells[top, 0, c])
        k, twice, who[c], asked[0, c], asked[1, c] = pairs[p], facts[p, _TWICE], pairs[p], -inf, facts[p, _SAMPLE]
        if k >= 0:
            ways[0, c], ways[1, c] = change(pairs_of, moves, k, moved, 0), change(pairs_of, moves, k, moved, 1)
            asked[0, c] = max(asked[1, c], twice + ways[0, c] - cells[top, 1, c], twice + ways[1, c] - cells[top, 2, c])


@leaf
def _settle(
    shapes: Capsules, pairs: Integers, p: int, sure: bool, d: float, vague: Integers, doubts: int, found: Vector
) -> int:
    """A pair that fails: ``REFUSED``, or the number of doubts if coal may find better."""
    k = pairs[p]
    if sure and shapes.pairs[k, 2] < BOUND:
        found[0], found[1] = k, d
        return REFUSED
    vague[doubts], pairs[p] = k, -1
    return doubts + 1


@leaf
def _divide(
    shapes: Capsules,
    spans: Vector,
    cells: Vector,
    counts: Integers,
    top: int,
    middle: Vector,
    left: float,
    pairs: Integers,
    facts: Vector,
    ways: Vector,
    d: Vector,
    sure: Flags,
    vague: Integers,
    doubts: int,
    found: Vector,
) -> int:
    """Divide the topmost interval in two, each with the pairs that it does not prove; as ``_settle``."""
    n, lower, upper = middle.shape[1], 0, 0
    for c in range(counts[top]):
        p, first, last = int(cells[top, 0, c]), cells[top, 1, c], cells[top, 2, c]
        if pairs[p] < 0:
            continue
        if not d[c] >= facts[p, _SAMPLE]:
            doubts = _settle(shapes, pairs, p, sure[c], d[c], vague, doubts, found)
            if doubts == REFUSED:
                return REFUSED
            continue
        if first + d[c] - ways[0, c] < facts[p, _TWICE]:
            cells[top + 1, 0, lower], cells[top + 1, 1, lower], cells[top + 1, 2, lower] = p, first, d[c]
            lower += 1
        if d[c] + last - ways[1, c] < facts[p, _TWICE]:
            cells[top, 0, upper], cells[top, 1, upper], cells[top, 2, upper] = p, d[c], last
            upper += 1
    for j in range(n):
        spans[top + 1, 0, j], spans[top + 1, 1, j], spans[top, 0, j] = spans[top, 0, j], middle[0, j], middle[0, j]
    spans[top + 1, 0, n], spans[top + 1, 1, n], spans[top, 0, n] = spans[top, 0, n], left, left
    counts[top], counts[top + 1] = upper, lower
    return doubts


@part
def _halve(
    shapes: Capsules,
    path: Vector,
    q0: Vector,
    v0: Vector,
    a_brake: Vector,
    pairs: Integers,
    facts: Vector,
    m: int,
    most: int,
    memory: Vector,
    frames: Vector,
    ends: Vector,
    scratch: Vector,
    asked_of: Flags,
    vague: Integers,
    doubts: int,
    found: Vector,
) -> int:
    """As ``prove``, for the pairs that the ends of a stop have not settled.

    Row r of ``spans`` is an interval of the stop: the configurations where it begins and ends, each with the square of
    the share of the time that is left there, which halves the way of a joint that brakes all along. Row r of ``cells``
    has the places of its pairs in ``facts`` and their distances at both ends. A pair that is settled becomes −1.
    """
    n, total, top = len(q0), 0.0, 0
    spans, cells, counts = np.empty((_DEPTH, 2, n + 1)), np.empty((_DEPTH, 3, m)), np.zeros(_DEPTH, dtype=np.int64)
    who, asked, d, sure = np.empty(m, dtype=np.int64), np.empty((2, m)), np.empty(m), np.empty(m, dtype=np.bool_)
    middle, moved, ways = np.empty((1, n)), np.empty((2, n)), np.empty((2, m))
    for j in range(n):
        total = max(total, abs(v0[j]) / a_brake[j])
        spans[0, 0, j], spans[0, 1, j] = path[_ENTRY, j], path[_LAST, j]
    spans[0, 0, n], spans[0, 1, n], counts[0] = 1.0, 0.0, m
    for c in range(m):
        cells[0, 0, c], cells[0, 1, c], cells[0, 2, c] = c, facts[c, _BEGIN], facts[c, _END]
    for _ in range(most):
        while top >= 0 and counts[top] == 0:
            top -= 1
        if top < 0 or top == _DEPTH - 1:
            break
        left = 0.5 * (spans[top, 0, n] + spans[top, 1, n])
        on_stop(q0, v0, a_brake, total * (1.0 - sqrt(left)), middle, 0)
        _ask_middle(shapes, spans, cells, counts, top, middle, pairs, facts, who, asked, moved, ways)
        _visit(shapes, middle, 0, frames, ends, who, counts[top], asked, memory, scratch, asked_of, d, sure)
        doubts = _divide(
            shapes, spans, cells, counts, top, middle, left, pairs, facts, ways, d, sure, vague, doubts, found
        )
        if doubts == REFUSED:
            return REFUSED
        top += 1
    for r in range(top + 1):
        for c in range(counts[r]):
            p = int(cells[r, 0, c])
            if pairs[p] >= 0:
                doubts = _settle(shapes, pairs, p, True, nan, vague, doubts, found)
                if doubts == REFUSED:
                    return REFUSED
    return doubts


@kernel(
    COUNT, *SHAPES, VECTOR, MATRIX, VECTOR, OUT, OUT_FLAGS, OUT, *[VECTOR] * 5, INTS, COUNT, OUT_MATRIX, OUT_INTS, OUT
)  # fmt: skip
def prove(
    joints: Vector,
    pieces: Vector,
    points: Vector,
    pairs: Integers,
    moves: Vector,
    furthest: Vector,
    floors: Vector,
    q: Vector,
    now: Vector,
    known: Flags,
    keep: Vector,
    q_end: Vector,
    end: Vector,
    q0: Vector,
    v0: Vector,
    a_brake: Vector,
    among: Integers,
    most: int,
    memory: Vector,
    vague: Integers,
    found: Vector,
) -> int:
    """``PROVED``, ``REFUSED``, or how many pairs of ``among`` coal must settle (put into ``vague``), the rest proved.

    ``now`` are distances at ``q``, from where the way leads to q0 and along the stop, ``known`` which of them are not
    just lower bounds (both are improved); ``end`` are lower bounds at ``q_end``, which is near the end. Every sample
    keeps the floor (row 0 of ``floors``), every point between two samples the hard floor (row 1). A pair that is below
    its floor already must keep the most that it has had (``keep``, which is improved), or come away. A refusal puts
    the pair and its distance into ``found``, NaN if ``most`` samples did not prove the stop.
    """
    shapes, n, m, doubts = Capsules(joints, pieces, points, pairs, moves), len(q), len(among), 0
    path, who, facts, asked = np.empty((3, n)), np.empty(m, dtype=np.int64), np.empty((m, 6)), np.empty((2, m))
    for j in range(n):
        path[_START, j], path[_ENTRY, j] = q[j], q0[j]
        path[_LAST, j] = q0[j] + v0[j] * abs(v0[j]) / (2.0 * a_brake[j])
    m = _suspects(shapes, furthest, floors, path, now, q_end, end, among, keep, who, facts)
    if m == 0:
        return PROVED
    d, sure, asked_of = np.empty(m), np.empty(m, dtype=np.bool_), np.empty(n + len(pieces), dtype=np.bool_)
    frames, ends, scratch = np.empty((1, n + 1, 12)), np.empty((1, len(pieces), 6)), np.zeros((8, 12))
    for stage in (_START, _LAST, _ENTRY):
        if _questions(stage, floors, now, known, who, facts, m, asked):
            _visit(shapes, path, stage, frames, ends, who, m, asked, memory, scratch, asked_of, d, sure)
        kept = 0
        for c in range(m):
            k = who[c]
            answer = _answer(stage, floors, now, known, keep, k, facts, c, asked, d, sure)
            if answer == _REFUSE and pairs[k, 2] < BOUND:
                found[0], found[1] = k, d[c]
                return REFUSED
            if answer == _KEEP:
                who[kept] = k
                for r in range(6):
                    facts[kept, r] = facts[c, r]
                kept += 1
            elif answer != _CLEAR:
                vague[doubts] = k
                doubts += 1
        m = kept
    if m == 0:
        return doubts
    return _halve(
        shapes, path, q0, v0, a_brake, who, facts, m, most, memory, frames, ends, scratch, asked_of, vague, doubts,
        found,
    )  # fmt: skip
