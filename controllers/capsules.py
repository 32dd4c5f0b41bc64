"""Kernels of clearance: distances of all pairs, at one posture or along a stop, and which of them are near.

A frame is a row of 12 numbers, rotation by rows and then origin; rows of joints and pieces are those of
``shapes.Capsules``. Where a pair is its capsules, their distance is exact; elsewhere it is a lower bound, which corners
raise or settle (``gjk.gap``). The tests compare placements with pinocchio and distances with coal.
"""

from __future__ import annotations

from math import inf

import numpy as np
from numpy.typing import NDArray

from safeguard.controllers.gjk import gap
from safeguard.controllers.placing import change, move, on_stop, place
from safeguard.controllers.shapes import CAPSULES, SHAPES, Capsules
from safeguard.controllers.touch import apart, touch
from safeguard.core.compiled import (
    BLOCKS,
    COUNT,
    INTS,
    MATRIX,
    NUMBER,
    OUT,
    OUT_BLOCKS,
    OUT_FLAG_ROWS,
    OUT_FLAGS,
    OUT_INTS,
    OUT_MATRIX,
    VECTOR,
    Integers,
    kernel,
    part,
    types,
)
from safeguard.core.types import Vector

Flags = NDArray[np.bool_]

_NEARER = 1e-4  # m


@kernel(types.void, *SHAPES, MATRIX, OUT_BLOCKS, OUT)
def measure(
    joints: Vector,
    pieces: Vector,
    points: Vector,
    pairs: Integers,
    moves: Vector,
    q: Vector,
    frames: Vector,
    distances: Vector,
) -> None:
    """Distances of the capsules of all pairs at ``q``, given as one row, and the frames of all bodies."""
    ends = np.empty((1, len(pieces), 6))
    place(joints, q, 0, frames, 0)
    move(pieces, frames, ends, 0)
    for k in range(len(pairs)):
        distances[k] = apart(pieces, ends, 0, pairs[k, 0], pairs[k, 1])


@part
def _nearby(
    shapes: Capsules,
    v: Vector,
    a_plan: Vector,
    lower: Vector,
    upper: Vector,
    furthest: Vector,
    dt: float,
    zone: Vector,
    frames: Vector,
    ends: Vector,
    distances: Vector,
    known: Flags,
    least: Vector,
    when: Integers,
    memory: Vector,
    wrenches: Vector,
    out: Integers,
) -> int:
    """Pairs that some acceleration between the bounds could bring closer than its ``zone`` on its stop; their number.

    An acceleration a for one period moves no point of the stop by more than |a − a_0| times
    dt²/2 + dt max|w| / a_p, with the planned braking a_0 and the speeds w that lie between. ``furthest`` is the largest
    reach of every joint, which settles most pairs. Where the capsules do not settle it the corners are asked, each
    at its sample of the sweep; what they say is kept in ``distances``, ``known`` and ``least``, and the normal and the
    point of a pair with a known distance in its row of ``wrenches``.
    """
    pieces, points, pairs, moves = shapes.pieces, shapes.points, shapes.pairs, shapes.moves
    moved, most, count, last = np.empty((1, len(v))), 0.0, 0, len(frames) - 1
    simplex = np.empty((7, 12))
    for j in range(len(v)):
        planned = min(max(-v[j] / dt, -a_plan[j]), a_plan[j])
        off = max(upper[j] - planned, planned - lower[j])
        speed = abs(v[j]) + (abs(planned) + off) * dt
        moved[0, j] = off * (0.5 * dt * dt + speed * dt / a_plan[j])
        most += furthest[j] * moved[0, j]
    for k in range(len(least)):
        if least[k] - most >= zone[k]:
            continue
        far, m = zone[k] + change(pairs, moves, k, moved, 0), when[k]
        if least[k] >= far:
            continue
        if pairs[k, 2] == CAPSULES:
            touch(pieces, ends, m, pairs[k, 0], pairs[k, 1], wrenches, k)
        elif not known[m, k]:
            slot = k + len(pairs) * (0 if m == 0 else 2 if m == last else 3)
            d, known[m, k] = gap(pieces, points, pairs, frames, m, k, inf, far, memory, slot, simplex, wrenches, k)
            distances[m, k] = least[k] = max(least[k], d)
            if least[k] >= far:
                continue
        out[count] = k
        count += 1
    return count


@kernel(
    COUNT, *SHAPES, *[VECTOR] * 5, NUMBER, *[VECTOR] * 3, OUT_MATRIX, OUT_BLOCKS, OUT_BLOCKS, OUT_MATRIX, OUT_FLAG_ROWS,
    OUT, OUT_INTS, OUT_MATRIX, OUT_MATRIX, OUT_INTS,
)  # fmt: skip
def sweep(
    joints: Vector,
    pieces: Vector,
    points: Vector,
    pairs: Integers,
    moves: Vector,
    q: Vector,
    v: Vector,
    a_plan: Vector,
    lower: Vector,
    upper: Vector,
    dt: float,
    shares: Vector,
    zone: Vector,
    furthest: Vector,
    path: Vector,
    frames: Vector,
    ends: Vector,
    distances: Vector,
    known: Flags,
    least: Vector,
    when: Integers,
    memory: Vector,
    wrenches: Vector,
    out: Integers,
) -> int:
    """Measure capsules at samples of the stop from (q, v): the first is q, the last the end.

    ``shares`` are the times of the samples as shares of the whole. Fills, for every sample m, path[m], frames[m],
    ends[m], distances[m] and known[m], and for every pair the least distance and the sample that has it; the end,
    unless another comes nearer by a tenth of a millimetre. Between now and the end, only pairs that may come closer
    than their ``zone`` are measured. Ends with ``nearby``.
    """
    moved, total, last = np.empty((1, len(q))), 0.0, len(shares) - 1
    for j in range(len(q)):
        total = max(total, abs(v[j]) / a_plan[j])
    for m in range(len(shares)):
        on_stop(q, v, a_plan, total * shares[m], path, m)
        place(joints, path, m, frames, m)
        move(pieces, frames, ends, m)
    for j in range(len(q)):
        moved[0, j] = abs(path[last, j] - path[0, j])
    for k in range(len(pairs)):
        i, j = pairs[k, 0], pairs[k, 1]
        for m in range(len(shares)):
            distances[m, k], known[m, k] = inf, pairs[k, 2] == CAPSULES
        first, end = apart(pieces, ends, 0, i, j), apart(pieces, ends, last, i, j)
        distances[0, k], distances[last, k] = first, end
        least[k], when[k] = end, last
        if first < end - _NEARER:
            least[k], when[k] = first, 0
        room = first + end - 2.0 * zone[k]
        if room >= 0.0 and change(pairs, moves, k, moved, 0) <= room:  # it stays out of its zone all along
            continue
        for m in range(1, last):
            distances[m, k] = d = apart(pieces, ends, m, i, j)
            if d < least[k] - _NEARER:
                least[k], when[k] = d, m
    return _nearby(
        Capsules(joints, pieces, points, pairs, moves), v, a_plan, lower, upper, furthest, dt, zone, frames, ends,
        distances, known, least, when, memory, wrenches, out,
    )  # fmt: skip


@kernel(
    COUNT, *SHAPES, *[VECTOR] * 5, NUMBER, VECTOR, BLOCKS, BLOCKS, OUT_MATRIX, OUT_FLAG_ROWS, OUT, INTS, OUT_MATRIX,
    OUT_MATRIX, OUT_INTS,
)  # fmt: skip
def nearby(
    joints: Vector,
    pieces: Vector,
    points: Vector,
    pairs: Integers,
    moves: Vector,
    v: Vector,
    a_plan: Vector,
    lower: Vector,
    upper: Vector,
    furthest: Vector,
    dt: float,
    zone: Vector,
    frames: Vector,
    ends: Vector,
    distances: Vector,
    known: Flags,
    least: Vector,
    when: Integers,
    memory: Vector,
    wrenches: Vector,
    out: Integers,
) -> int:
    """Pairs that some acceleration could bring near, once more, with what is known better since ``sweep``."""
    return _nearby(
        Capsules(joints, pieces, points, pairs, moves), v, a_plan, lower, upper, furthest, dt, zone, frames, ends,
        distances, known, least, when, memory, wrenches, out,
    )  # fmt: skip


@kernel(COUNT, VECTOR)
def smallest(distances: Vector) -> int:
    """The first pair with the least distance."""
    pair = 0
    for k in range(len(distances)):
        if distances[k] < distances[pair]:
            pair = k
    return pair


@kernel(COUNT, *SHAPES, BLOCKS, OUT, OUT_FLAGS, OUT_MATRIX)
def nearest(
    joints: Vector,
    pieces: Vector,
    points: Vector,
    pairs: Integers,
    moves: Vector,
    frames: Vector,
    distances: Vector,
    known: Flags,
    memory: Vector,
) -> int:
    """The pair with the least distance; as −1 − pair if that is a lower bound which coal has to settle.

    Lower bounds are raised until none is below the least known distance.
    """
    simplex, out, least, pair = np.empty((7, 12)), np.zeros((1, 6)), inf, 0
    for k in range(len(distances)):
        if distances[k] < distances[pair]:
            pair = k
        if known[k] and distances[k] < least:
            least = distances[k]
    for c in range(-1, len(distances)):  # the most promising one first
        k = pair if c < 0 else c
        if known[k] or distances[k] >= least:
            continue
        d, known[k] = gap(pieces, points, pairs, frames, 0, k, inf, least, memory, k, simplex, out, 0)
        distances[k] = max(distances[k], d)
        if known[k] and distances[k] < least:
            least = distances[k]
    pair = 0
    for k in range(len(distances)):
        if distances[k] < distances[pair] or (distances[k] == distances[pair] and known[k] and not known[pair]):
            pair = k
    return pair if known[pair] else -1 - pair
