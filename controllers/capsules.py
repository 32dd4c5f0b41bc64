"""Kernels of clearance: distances of all pairs, at one posture or along a stop, and the rows of those that are near.

A frame is a row of 12 numbers, rotation by rows and then origin; rows of joints and pieces are those of
``shapes.Capsules``. Where a pair is its capsules, their distance is exact; elsewhere it is a lower bound, which corners
raise or settle (``gjk.gap``). The tests compare placements with pinocchio and distances with coal.
"""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from safeguard.controllers.gjk import gap
from safeguard.controllers.placing import change, move, on_stop, place
from safeguard.controllers.shapes import CAPSULES, SHAPES, Capsules
from safeguard.controllers.touch import touch
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
    leaf,
    types,
)
from safeguard.core.types import Vector

Flags = NDArray[np.bool_]

_NEARER = 1e-4  # m
_SWEEPS = 3  # over the rows, to find a retreat
_INSIDE = 1e-5  # rad/s², that a retreat keeps from the bounds: the program is relaxed to it
_RETREAT = 0.5  # share of the planned deceleration with which it leads away


@kernel(types.void, SHAPES, MATRIX, OUT_BLOCKS, OUT)
def measure(shapes: Capsules, q: Vector, frames: Vector, distances: Vector) -> None:
    """Distances of the capsules of all pairs at ``q``, given as one row, and the frames of all bodies."""
    pieces, pairs = shapes.pieces, shapes.pairs
    ends, out = np.empty((1, len(pieces), 6)), np.zeros((1, 6))
    place(shapes.joints, q, 0, frames, 0)
    move(pieces, frames, ends, 0)
    for k in range(len(pairs)):
        distances[k] = touch(pieces, ends, 0, pairs[k, 0], pairs[k, 1], out, 0)


@kernel(
    types.void, SHAPES, *[VECTOR] * 5, OUT_MATRIX, OUT_BLOCKS, OUT_BLOCKS, OUT_MATRIX, OUT, OUT_INTS
)  # fmt: skip
def sweep(
    shapes: Capsules,
    q: Vector,
    v: Vector,
    a_plan: Vector,
    shares: Vector,
    zone: Vector,
    path: Vector,
    frames: Vector,
    ends: Vector,
    distances: Vector,
    least: Vector,
    when: Integers,
) -> None:
    """Measure capsules at samples of the stop from (q, v): the first is q, the last the end.

    ``shares`` are the times of the samples as shares of the whole. Fills, for every sample m, path[m], frames[m],
    ends[m] and distances[m], and for every pair the least distance and the sample that has it; the end, unless
    another comes nearer by a tenth of a millimetre. Between now and the end, only pairs that may come closer than
    their ``zone`` are measured.
    """
    joints, pieces, pairs, moves = shapes.joints, shapes.pieces, shapes.pairs, shapes.moves
    out, moved, total, last = np.zeros((1, 6)), np.empty((1, len(q))), 0.0, len(shares) - 1
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
            distances[m, k] = inf
        first, end = touch(pieces, ends, 0, i, j, out, 0), touch(pieces, ends, last, i, j, out, 0)
        distances[0, k], distances[last, k] = first, end
        least[k], when[k] = end, last
        if first < end - _NEARER:
            least[k], when[k] = first, 0
        room = first + end - 2.0 * zone[k]
        if room >= 0.0 and change(pairs, moves, k, moved, 0) <= room:  # it stays out of its zone all along
            continue
        for m in range(1, last):
            distances[m, k] = d = touch(pieces, ends, m, i, j, out, 0)
            if d < least[k] - _NEARER:
                least[k], when[k] = d, m


@kernel(
    COUNT, SHAPES, *[VECTOR] * 5, NUMBER, VECTOR, BLOCKS, BLOCKS, OUT_MATRIX, OUT_FLAG_ROWS, OUT, INTS, OUT_MATRIX,
    OUT_MATRIX, OUT_INTS,
)  # fmt: skip
def nearby(
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


@kernel(COUNT, INTS, VECTOR, COUNT, NUMBER, OUT_INTS, OUT_INTS, OUT_INTS)
def seat(
    near: Integers, least: Vector, slots: int, advantage: float, seats: Integers, pairs: Integers, taken: Integers
) -> int:
    """Pick the nearest pairs, at most ``slots``; fill ``pairs`` (ascending) and their slots, and return how many.

    ``seats`` holds the slot of every pair, −1 without one. Who has one is taken to be nearer by ``advantage``, so that
    two pairs do not take turns, and keeps it as long as it is picked.
    """
    free, picked, count = np.ones(slots, dtype=np.bool_), np.zeros(len(near), dtype=np.bool_), min(len(near), slots)
    for _ in range(count):
        best, least_left = -1, inf
        for c in range(len(near)):
            left = least[near[c]] - (advantage if seats[near[c]] >= 0 else 0.0)
            if not picked[c] and (best < 0 or left < least_left):
                best, least_left = c, left
        picked[best] = True
    at = 0
    for c in range(len(near)):
        if picked[c]:
            pairs[at], taken[at] = near[c], seats[near[c]]
            if taken[at] >= 0:
                free[taken[at]] = False
            at += 1
    seats[:] = -1
    slot = 0
    for c in range(count):
        if taken[c] < 0:
            while not free[slot]:
                slot += 1
            taken[c], free[slot] = slot, False
        seats[pairs[c]] = taken[c]
    return count


@kernel(COUNT, SHAPES, BLOCKS, OUT, OUT_FLAGS, OUT_MATRIX)
def nearest(shapes: Capsules, frames: Vector, distances: Vector, known: Flags, memory: Vector) -> int:
    """The pair with the least distance; as −1 − pair if that is a lower bound which coal has to settle.

    Lower bounds are raised until none is below the least known distance.
    """
    pieces, points, pairs = shapes.pieces, shapes.points, shapes.pairs
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


@leaf
def _gradient(
    joints: Vector, k: int, m: int, frames: Vector, between: Vector, wrenches: Vector, G: Vector, c: int
) -> None:
    """Change of distance k with every joint: n · (u × (p − o)), or n · u for a sliding joint, into row c.

    With normal n, point p, axis u through o; signed by which of the two pieces the joint moves.
    """
    for j in range(len(joints)):
        G[c, j] = 0.0
        if between[k, j] == 0.0:
            continue
        x, y, z, b = joints[j, 12], joints[j, 13], joints[j, 14], j + 1
        ux = frames[m, b, 0] * x + frames[m, b, 1] * y + frames[m, b, 2] * z
        uy = frames[m, b, 3] * x + frames[m, b, 4] * y + frames[m, b, 5] * z
        uz = frames[m, b, 6] * x + frames[m, b, 7] * y + frames[m, b, 8] * z
        if joints[j, 15] == 0.0:
            x = wrenches[k, 3] - frames[m, b, 9]
            y = wrenches[k, 4] - frames[m, b, 10]
            z = wrenches[k, 5] - frames[m, b, 11]
            ux, uy, uz = uy * z - uz * y, uz * x - ux * z, ux * y - uy * x
        G[c, j] = between[k, j] * (wrenches[k, 0] * ux + wrenches[k, 1] * uy + wrenches[k, 2] * uz)


@leaf
def _lead_away(
    C: Vector,
    bound: Vector,
    slack: Vector,
    length: Vector,
    brake: Vector,
    a_plan: Vector,
    lower: Vector,
    upper: Vector,
    out: Vector,
) -> bool:
    """Fill ``out``: a point near ``brake`` that does more of what the rows wanted; whether there is one.

    Rows in turns, each met by the shortest way (S. Kaczmarz, 1937), every joint within a share of its planned
    deceleration. No row may lose what it needs by it.
    """
    n, rows = C.shape[1], C.shape[0]
    moved = False
    for j in range(n):
        out[j] = brake[j]
    for _ in range(_SWEEPS):
        for c in range(rows):
            short = bound[c] + slack[c]
            for j in range(n):
                short -= C[c, j] * out[j]
            if short > 0.0:
                step, moved = short / (length[c] * length[c]), True
                for j in range(n):
                    low = min(max(lower[j] + _INSIDE, brake[j] - _RETREAT * a_plan[j]), brake[j])
                    high = max(min(upper[j] - _INSIDE, brake[j] + _RETREAT * a_plan[j]), brake[j])
                    out[j] = min(max(out[j] + step * C[c, j], low), high)
    for c in range(rows):
        gain, short = 0.0, bound[c] + slack[c]
        for j in range(n):
            gain += C[c, j] * (out[j] - brake[j])
            short -= C[c, j] * out[j]
        if gain < 0.0 and short > 0.0:
            return False
    return moved


@kernel(
    types.boolean, SHAPES, INTS, *[VECTOR] * 7, INTS, BLOCKS, MATRIX, MATRIX, VECTOR, *[NUMBER] * 3, OUT_MATRIX,
    *[OUT] * 4,
)  # fmt: skip
def steer(
    shapes: Capsules,
    chosen: Integers,
    v: Vector,
    a_plan: Vector,
    brake: Vector,
    lower: Vector,
    upper: Vector,
    shares: Vector,
    least: Vector,
    when: Integers,
    frames: Vector,
    between: Vector,
    wrenches: Vector,
    row: Vector,
    decay: float,
    approach: float,
    dt: float,
    C: Vector,
    bound: Vector,
    slack: Vector,
    length: Vector,
    retreat: Vector,
) -> bool:
    """The rows of the chosen pairs as ``Clearance.rows`` defines them, their lengths; whether there is a retreat.

    ``decay`` is the share of what is missing that comes back in a period, ``approach`` that of an excess that may go.
    """
    joints, total = shapes.joints, 0.0
    for j in range(len(v)):
        total = max(total, abs(v[j]) / a_plan[j])
    for c in range(len(chosen)):
        k = chosen[c]
        _gradient(joints, int(k), int(when[k]), frames, between, wrenches, C, c)
        s, square, at_planned, at_brake = total * shares[when[k]], 0.0, 0.0, 0.0
        for j in range(len(v)):
            C[c, j] *= dt * (0.5 * dt + min(s, abs(v[j]) / a_plan[j]))
            square += C[c, j] * C[c, j]
            at_planned += C[c, j] * min(max(-v[j] / dt, -a_plan[j]), a_plan[j])
            at_brake += C[c, j] * brake[j]
        excess = least[k] - row[k]
        wanted = at_planned - (decay if excess < 0.0 else approach) * excess
        bound[c] = min(wanted, at_brake)
        slack[c] = wanted - bound[c]
        length[c] = max(sqrt(square), 1e-12)
    return _lead_away(C, bound, slack, length, brake, a_plan, lower, upper, retreat)
