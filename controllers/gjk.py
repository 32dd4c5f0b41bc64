"""Parts of kernels: how far apart two convex pieces with corners are.

For any unit n no two points of the pieces are closer than min n·b − max n·a: what the planes across n leave between
them. That is the lower bound which ``gap`` returns, so it is certain whatever the search for a good n does. The search
is that of E. G. Gilbert, D. W. Johnson, S. S. Keerthi, IEEE J. Robotics and Automation 4 (1988): differences b − a of
points of the pieces span a simplex whose point w nearest to the origin is an upper bound |w|, and whose direction is
the next n. Where both bounds meet, the distance is known. Pieces that overlap are left to coal.

The simplex has rows of 9: the difference and the point of the first piece in the frame of its body, the point of the
second piece in the frame of its own. It is the first four rows of a scratch array, (7, 12); below are the second body's
frame in that of the first (row 4), the shares of the rows in w (row 5), and the best shares so far, then w (row 6). A
row of ``memory``, (19), keeps the points of a pair's last simplex, from which its next search begins: most often that
is all it takes.
"""

from __future__ import annotations

from math import inf, sqrt

from safeguard.controllers.shapes import CORNERS
from safeguard.core.compiled import Integers, leaf
from safeguard.core.types import Vector

_STEPS = 24
_KNOWN = 2e-7  # m; bounds that are so close have met
_CLOSE = 1e-3  # m
_MEETING = 1e-6  # m; the normal of pieces that are closer is not to be trusted
_ACROSS = 1e-8  # a direction that is less off an axis is along it, as far as rounding can tell
_FACES = ((0, 1, 2, 3), (0, 1, 3, 2), (0, 2, 3, 1), (1, 2, 3, 0))  # of a tetrahedron, and the corner across


@leaf
def _relate(frames: Vector, m: int, f: int, g: int, simplex: Vector) -> None:
    """Rotation and origin of body g in the frame of body f, into the last row of ``simplex``."""
    for r in range(3):
        simplex[4, 9 + r] = 0.0
        for c in range(3):
            simplex[4, 3 * r + c] = 0.0
    for s in range(3):
        way = frames[m, g, 9 + s] - frames[m, f, 9 + s]
        for r in range(3):
            simplex[4, 9 + r] += frames[m, f, 3 * s + r] * way
            for c in range(3):
                simplex[4, 3 * r + c] += frames[m, f, 3 * s + r] * frames[m, g, 3 * s + c]


@leaf
def _furthest(
    pieces: Vector, points: Vector, p: int, x: float, y: float, z: float, simplex: Vector, c: int, at: int
) -> None:
    """Put the point of piece p, less its thickness, furthest along (x, y, z) in its body's frame into row c."""
    first, best = int(pieces[p, 9]), -inf
    which = first
    for k in range(first, int(pieces[p, 10])):
        d = points[k, 0] * x + points[k, 1] * y + points[k, 2] * z
        if d > best:
            best, which = d, k
    simplex[c, at], simplex[c, at + 1], simplex[c, at + 2] = points[which, 0], points[which, 1], points[which, 2]
    disc = pieces[p, 12]
    if disc > 0.0:  # around the axis from its first corner to its second
        u, v = points[first + 1, 0] - points[first, 0], points[first + 1, 1] - points[first, 1]
        w = points[first + 1, 2] - points[first, 2]
        along = (u * x + v * y + w * z) / (u * u + v * v + w * w)
        x, y, z = x - along * u, y - along * v, z - along * w
        across = sqrt(x * x + y * y + z * z)
        if across > _ACROSS:
            simplex[c, at] += disc / across * x
            simplex[c, at + 1] += disc / across * y
            simplex[c, at + 2] += disc / across * z


@leaf
def _differ(simplex: Vector, c: int) -> None:
    """Fill the difference of a row from its points."""
    x, y, z = simplex[c, 6], simplex[c, 7], simplex[c, 8]
    for r in range(3):
        turned = simplex[4, 3 * r] * x + simplex[4, 3 * r + 1] * y + simplex[4, 3 * r + 2] * z
        simplex[c, r] = turned + simplex[4, 9 + r] - simplex[c, 3 + r]


@leaf
def _on_triangle(simplex: Vector, a: int, b: int, c: int) -> None:
    """Shares of three rows in the point of their triangle nearest to the origin.

    After C. Ericson, Real-Time Collision Detection, 5.1.5.
    """
    ba, ca, bb, cb, bc, cc = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0  # edges to b and c times the way from a, b, c to the origin
    for r in range(3):
        p, q, s = simplex[a, r], simplex[b, r], simplex[c, r]
        ba, ca = ba - (q - p) * p, ca - (s - p) * p
        bb, cb = bb - (q - p) * q, cb - (s - p) * q
        bc, cc = bc - (q - p) * s, cc - (s - p) * s
    v, w = 0.0, 0.0
    at_a, at_b, at_c = bb * cc - bc * cb, bc * ca - ba * cc, ba * cb - bb * ca  # areas across from a, b, c
    if ba <= 0.0 and ca <= 0.0:
        pass
    elif bb >= 0.0 and cb <= bb:
        v = 1.0
    elif at_c <= 0.0 and ba >= 0.0 and bb <= 0.0:
        v = ba / (ba - bb)
    elif cc >= 0.0 and bc <= cc:
        w = 1.0
    elif at_b <= 0.0 and ca >= 0.0 and cc <= 0.0:
        w = ca / (ca - cc)
    elif at_a <= 0.0 and cb - bb >= 0.0 and bc - cc >= 0.0:
        w = (cb - bb) / ((cb - bb) + (bc - cc))
        v = 1.0 - w
    else:
        v, w = at_b / (at_a + at_b + at_c), at_c / (at_a + at_b + at_c)
    simplex[5, a], simplex[5, b], simplex[5, c] = 1.0 - v - w, v, w


@leaf
def _normal(simplex: Vector, a: int, b: int, c: int) -> tuple[float, float, float]:
    """Normal of the plane through three rows, of any length."""
    ux, uy, uz = simplex[b, 0] - simplex[a, 0], simplex[b, 1] - simplex[a, 1], simplex[b, 2] - simplex[a, 2]
    wx, wy, wz = simplex[c, 0] - simplex[a, 0], simplex[c, 1] - simplex[a, 1], simplex[c, 2] - simplex[a, 2]
    return uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx


@leaf
def _on_tetrahedron(simplex: Vector) -> bool:
    """Shares of four rows in the point of their tetrahedron nearest to the origin, or that the origin is inside.

    It is on one of the faces that have the origin outside, or in their plane.
    """
    least = inf
    for a, b, c, d in _FACES:
        x, y, z = _normal(simplex, a, b, c)
        height = x * simplex[a, 0] + y * simplex[a, 1] + z * simplex[a, 2]
        across = x * simplex[d, 0] + y * simplex[d, 1] + z * simplex[d, 2] - height
        if -height * across > 0.0:
            continue
        simplex[5, d] = 0.0
        _on_triangle(simplex, a, b, c)
        square = 0.0
        for r in range(3):
            w = simplex[5, a] * simplex[a, r] + simplex[5, b] * simplex[b, r] + simplex[5, c] * simplex[c, r]
            square += w * w
        if square < least:
            least = square
            for k in range(4):
                simplex[6, k] = simplex[5, k]
    for k in range(4):
        simplex[5, k] = simplex[6, k]
    return least == inf


@leaf
def _nearest(simplex: Vector, count: int) -> int:
    """Keep the rows that span the point w nearest to the origin, with their shares; 4 of them if it is inside."""
    for c in range(4):
        simplex[5, c] = 0.0
    if count == 1:
        simplex[5, 0] = 1.0
    elif count == 2:
        square, ahead = 0.0, 0.0
        for r in range(3):
            step = simplex[1, r] - simplex[0, r]
            square, ahead = square + step * step, ahead - simplex[0, r] * step
        simplex[5, 1] = min(max(ahead / square, 0.0), 1.0) if square > 0.0 else 0.0
        simplex[5, 0] = 1.0 - simplex[5, 1]
    elif count == 3:
        _on_triangle(simplex, 0, 1, 2)
    elif _on_tetrahedron(simplex):
        return 4
    kept = 0
    simplex[6, 4], simplex[6, 5], simplex[6, 6] = 0.0, 0.0, 0.0
    for c in range(count):
        share = simplex[5, c]
        if share > 0.0:
            simplex[5, kept] = share
            for r in range(9):
                simplex[kept, r] = simplex[c, r]
            for r in range(3):
                simplex[6, 4 + r] += share * simplex[kept, r]
            kept += 1
    return kept


@leaf
def _outermost(
    pieces: Vector, points: Vector, i: int, j: int, x: float, y: float, z: float, simplex: Vector, c: int
) -> float:
    """Fill row c with the points whose difference is least along (x, y, z); how much that is."""
    _furthest(pieces, points, i, x, y, z, simplex, c, 3)
    u = -(simplex[4, 0] * x + simplex[4, 3] * y + simplex[4, 6] * z)
    v = -(simplex[4, 1] * x + simplex[4, 4] * y + simplex[4, 7] * z)
    w = -(simplex[4, 2] * x + simplex[4, 5] * y + simplex[4, 8] * z)
    _furthest(pieces, points, j, u, v, w, simplex, c, 6)
    _differ(simplex, c)
    return float(simplex[c, 0] * x + simplex[c, 1] * y + simplex[c, 2] * z)


@leaf
def _recall(memory: Vector, slot: int, simplex: Vector) -> int:
    """Rows of the last simplex, now; how many."""
    count = int(memory[slot, 0])
    for c in range(count):
        for r in range(6):
            simplex[c, 3 + r] = memory[slot, 1 + 6 * c + r]
        _differ(simplex, c)
    return count


@leaf
def _remember(memory: Vector, slot: int, simplex: Vector, count: int) -> None:
    memory[slot, 0] = count
    for c in range(count):
        for r in range(6):
            memory[slot, 1 + 6 * c + r] = simplex[c, 3 + r]


@leaf
def _answer(
    frames: Vector,
    m: int,
    f: int,
    simplex: Vector,
    count: int,
    x: float,
    y: float,
    z: float,
    thick: float,
    out: Vector,
    row: int,
) -> None:
    """The normal (x, y, z) and the nearest point on the first piece, from the frame of body f to the world."""
    px, py, pz = thick * x, thick * y, thick * z
    for c in range(count):
        px += simplex[5, c] * simplex[c, 3]
        py += simplex[5, c] * simplex[c, 4]
        pz += simplex[5, c] * simplex[c, 5]
    for r in range(3):
        u, v, w = frames[m, f, 3 * r], frames[m, f, 3 * r + 1], frames[m, f, 3 * r + 2]
        out[row, r] = u * x + v * y + w * z
        out[row, 3 + r] = u * px + v * py + w * pz + frames[m, f, 9 + r]


@leaf
def _gap_plane(
    pieces: Vector,
    points: Vector,
    frames: Vector,
    m: int,
    plane: int,
    i: int,
    sign: float,
    simplex: Vector,
    out: Vector,
    row: int,
) -> float:
    """As ``gap`` for a half-space {x: n·x ≤ offset}; ``sign`` is −1 where it is the second of the pair."""
    b = int(pieces[i, 8])
    x, y, z = -pieces[plane, 0], -pieces[plane, 1], -pieces[plane, 2]
    u = frames[m, b, 0] * x + frames[m, b, 3] * y + frames[m, b, 6] * z
    v = frames[m, b, 1] * x + frames[m, b, 4] * y + frames[m, b, 7] * z
    w = frames[m, b, 2] * x + frames[m, b, 5] * y + frames[m, b, 8] * z
    _furthest(pieces, points, i, u, v, w, simplex, 0, 3)
    height = -pieces[plane, 3] - pieces[i, 11]
    for r in range(3):
        at = frames[m, b, 9 + r]
        for c in range(3):
            at += frames[m, b, 3 * r + c] * simplex[0, 3 + c]
        height += at * pieces[plane, r]
        out[row, r], out[row, 3 + r] = sign * pieces[plane, r], at - pieces[i, 11] * pieces[plane, r]
    return float(height)


@leaf
def gap(
    pieces: Vector,
    points: Vector,
    pairs: Integers,
    frames: Vector,
    m: int,
    k: int,
    least: float,
    enough: float,
    memory: Vector,
    slot: int,
    simplex: Vector,
    out: Vector,
    row: int,
) -> tuple[float, bool]:
    """(lower bound of distance k at frames m, whether it is the distance), improved until known or ``enough``.

    Where ``enough`` is out of reach, a bound that is ``least`` and off by less than a millimetre will do. The search
    begins where row ``slot`` of the memory ended. A known distance leaves its normal from the first piece to the
    second and a point on the first in row ``row`` of ``out``.
    """
    i, j = pairs[k, 0], pairs[k, 1]
    if pieces[i, 7] != 0.0:
        return _gap_plane(pieces, points, frames, m, i, j, 1.0, simplex, out, row), pairs[k, 2] == CORNERS
    if pieces[j, 7] != 0.0:
        return _gap_plane(pieces, points, frames, m, j, i, -1.0, simplex, out, row), pairs[k, 2] == CORNERS
    f, radius, best, known = int(pieces[i, 8]), pieces[i, 11] + pieces[j, 11], -inf, False
    _relate(frames, m, f, int(pieces[j, 8]), simplex)
    x, y, z = simplex[4, 9], simplex[4, 10], simplex[4, 11]  # where to look first, of any length
    norm, count = inf, _recall(memory, slot, simplex)
    for _ in range(_STEPS):
        if count > 0:
            count = _nearest(simplex, count)
            x, y, z = simplex[6, 4], simplex[6, 5], simplex[6, 6]
            norm = sqrt(x * x + y * y + z * z)
            if count == 4 or norm < _MEETING:
                count = 0
                break
            x, y, z = x / norm, y / norm, z / norm
        height = _outermost(pieces, points, i, j, x, y, z, simplex, count)
        if count > 0:
            best, known = max(best, height - radius), norm - height <= _KNOWN
        if known or best >= enough or (best >= least and norm - radius < enough and norm - height < _CLOSE):
            break
        count += 1
    count = min(count, 3)
    _remember(memory, slot, simplex, count)
    if known:
        _answer(frames, m, f, simplex, count, x, y, z, pieces[i, 11], out, row)
    return best, known and pairs[k, 2] == CORNERS
