"""Parts of kernels: where the pieces of a robot are, and how far a motion can move them.

A frame is a row of 12 numbers, rotation by rows and then origin; frame 0 is the world, frame j + 1 the body behind
joint j. Rows of joints, pieces, pairs and moves are those of ``shapes.Capsules``.
"""

from __future__ import annotations

from math import cos, inf, sin

from safeguard.controllers.shapes import Capsules
from safeguard.core.compiled import Integers, leaf
from safeguard.core.types import Flags, Vector


@leaf
def place(joints: Vector, path: Vector, at: int, frames: Vector, m: int) -> None:
    """Frames of all bodies at row ``at`` of ``path``."""
    place_world(frames, m)
    for j in range(len(joints)):
        place_body(joints, j, path, at, frames, m)


@leaf
def place_world(frames: Vector, m: int) -> None:
    """The frame that all others hang on."""
    for k in range(12):
        frames[m, 0, k] = 1.0 if k in (0, 4, 8) else 0.0


@leaf
def place_body(joints: Vector, j: int, path: Vector, at: int, frames: Vector, m: int) -> None:
    """Frame of the body behind joint j: parent · place of the joint · its motion.

    A rotation about u is Rodrigues' I + sin θ [u] + (1 − cos θ) [u]².
    """
    up, x, y, z = int(joints[j, 16]), joints[j, 12], joints[j, 13], joints[j, 14]
    turns = joints[j, 15] == 0.0
    s, c, slide = (sin(path[at, j]), cos(path[at, j]), 0.0) if turns else (0.0, 1.0, path[at, j])
    d = 1.0 - c
    for r in range(3):
        u0, u1, u2 = frames[m, up, 3 * r], frames[m, up, 3 * r + 1], frames[m, up, 3 * r + 2]
        p0 = u0 * joints[j, 0] + u1 * joints[j, 3] + u2 * joints[j, 6]
        p1 = u0 * joints[j, 1] + u1 * joints[j, 4] + u2 * joints[j, 7]
        p2 = u0 * joints[j, 2] + u1 * joints[j, 5] + u2 * joints[j, 8]
        origin = frames[m, up, 9 + r] + u0 * joints[j, 9] + u1 * joints[j, 10] + u2 * joints[j, 11]
        frames[m, j + 1, 3 * r] = p0 * (c + d * x * x) + p1 * (d * x * y + s * z) + p2 * (d * x * z - s * y)
        frames[m, j + 1, 3 * r + 1] = p0 * (d * x * y - s * z) + p1 * (c + d * y * y) + p2 * (d * y * z + s * x)
        frames[m, j + 1, 3 * r + 2] = p0 * (d * x * z + s * y) + p1 * (d * y * z - s * x) + p2 * (c + d * z * z)
        frames[m, j + 1, 9 + r] = origin + slide * (p0 * x + p1 * y + p2 * z)


@leaf
def move(pieces: Vector, frames: Vector, ends: Vector, m: int) -> None:
    """Ends of the axes of all capsules in the world."""
    for i in range(len(pieces)):
        move_piece(pieces, i, frames, ends, m)


@leaf
def move_piece(pieces: Vector, i: int, frames: Vector, ends: Vector, m: int) -> None:
    """Ends of the axis of one capsule in the world; a half-space stays as it is."""
    b = int(pieces[i, 8])
    for e in (0, 3):
        x, y, z = pieces[i, e], pieces[i, e + 1], pieces[i, e + 2]
        for r in range(3):
            turned = (
                frames[m, b, 3 * r] * x
                + frames[m, b, 3 * r + 1] * y
                + frames[m, b, 3 * r + 2] * z
                + frames[m, b, 9 + r]
            )
            ends[m, i, e + r] = turned if pieces[i, 7] == 0.0 else pieces[i, e + r]


@leaf
def place_asked(
    shapes: Capsules,
    path: Vector,
    at: int,
    frames: Vector,
    ends: Vector,
    who: Integers,
    m: int,
    asked: Vector,
    asked_of: Flags,
) -> None:
    """Frames of the bodies, and ends of the pieces, whose distances are asked; mostly these are few.

    ``asked_of`` is room for a flag of every body and piece.
    """
    joints, pieces, pairs, n = shapes.joints, shapes.pieces, shapes.pairs, len(shapes.joints)
    for k in range(len(asked_of)):
        asked_of[k] = False
    for c in range(m):
        if asked[0, c] > -inf:
            for side in range(2):
                i = pairs[who[c], side]
                asked_of[n + i], b = True, int(pieces[i, 8])
                while b > 0 and not asked_of[b - 1]:
                    asked_of[b - 1], b = True, int(joints[b - 1, 16])
    place_world(frames, 0)
    for j in range(n):
        if asked_of[j]:
            place_body(joints, j, path, at, frames, 0)
    for i in range(len(pieces)):
        if asked_of[n + i]:
            move_piece(pieces, i, frames, ends, 0)


@leaf
def on_stop(q0: Vector, v0: Vector, a_brake: Vector, s: float, out: Vector, row: int) -> None:
    """Position ``s`` seconds into a stop, into a row of ``out``."""
    for j in range(len(q0)):
        braked = min(s, abs(v0[j]) / a_brake[j])
        slope = a_brake[j] if v0[j] > 0.0 else -a_brake[j]
        out[row, j] = q0[j] + (v0[j] - 0.5 * slope * braked) * braked


@leaf
def change(pairs: Integers, moves: Vector, k: int, moved: Vector, row: int) -> float:
    """By how much distance k can change while the joints move by row ``row`` of ``moved``, none of it negative."""
    total = 0.0
    for c in range(pairs[k, 3], pairs[k, 4]):
        total += moves[c, 1] * moved[row, int(moves[c, 0])]
    return total
