"""The kernel of clearance rows: which near pairs get one, the rows themselves, and a retreat from them.

Frames and rows of joints are those of ``capsules.py``; what the rows are, ``Clearance.rows`` says.
"""

from __future__ import annotations

from math import inf, sqrt

import numpy as np

from safeguard.core.compiled import (
    BLOCKS,
    COUNT,
    INTS,
    MATRIX,
    NUMBER,
    OUT,
    OUT_INTS,
    OUT_MATRIX,
    VECTOR,
    Integers,
    kernel,
    leaf,
    part,
    types,
)
from safeguard.core.types import Vector

_SWEEPS = 3  # over the rows, to find a retreat
_INSIDE = 1e-5  # rad/s², that a retreat keeps from the bounds: the program is relaxed to it
_RETREAT = 0.5  # share of the planned deceleration with which it leads away


@part
def _seat(
    near: Integers, least: Vector, slots: int, advantage: float, seats: Integers, pairs: Integers, taken: Integers
) -> None:
    """Pick the nearest pairs, at most ``slots``; fill ``pairs`` (ascending) and their slots.

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
    types.boolean, MATRIX, INTS, COUNT, NUMBER, *[VECTOR] * 7, INTS, BLOCKS, MATRIX, MATRIX, VECTOR, *[NUMBER] * 3,
    *[OUT_INTS] * 3, OUT_MATRIX, *[OUT] * 4,
)  # fmt: skip
def steer(
    joints: Vector,
    near: Integers,
    slots: int,
    advantage: float,
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
    seats: Integers,
    pairs: Integers,
    taken: Integers,
    C: Vector,
    bound: Vector,
    slack: Vector,
    length: Vector,
    retreat: Vector,
) -> bool:
    """Seat near pairs and fill their rows as ``Clearance.rows`` defines them; whether there is a retreat.

    ``decay`` is the share of what is missing that comes back in a period, ``approach`` that of an excess that may go.
    """
    _seat(near, least, slots, advantage, seats, pairs, taken)
    total = 0.0
    for j in range(len(v)):
        total = max(total, abs(v[j]) / a_plan[j])
    for c in range(len(pairs)):
        k = pairs[c]
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
