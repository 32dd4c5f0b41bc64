"""Parts of kernels: how far apart two capsules are, or a capsule and a half-space.

Where a piece is its capsule the distance is exact; elsewhere it is a lower bound. The tests compare with coal.
"""

from __future__ import annotations

from math import inf, sqrt

from safeguard.core.compiled import leaf
from safeguard.core.types import Vector

_TINY = 1e-12
_MEETING = 1e-9  # m


@leaf
def touch(pieces: Vector, ends: Vector, m: int, i: int, j: int, out: Vector, row: int) -> float:
    """Signed distance of two pieces; row ``row`` of ``out`` gets the normal from i to j and a point on i.

    The normal stays as it was where the axes meet: any direction is as good, and the last one is the best guess.
    """
    if pieces[i, 7] != 0.0:
        return _touch_plane(ends, m, pieces, i, j, 1.0, out, row)
    if pieces[j, 7] != 0.0:
        return _touch_plane(ends, m, pieces, j, i, -1.0, out, row)
    px, py, pz, nx, ny, nz = _between(ends, m, i, j)
    gap, radius = sqrt(nx * nx + ny * ny + nz * nz), pieces[i, 6]
    if gap > _MEETING:
        x, y, z = nx / gap, ny / gap, nz / gap
    else:
        x, y, z = out[row, 0], out[row, 1], out[row, 2]
    out[row, 0], out[row, 1], out[row, 2] = x, y, z
    out[row, 3], out[row, 4], out[row, 5] = px + radius * x, py + radius * y, pz + radius * z
    return float(gap - radius - pieces[j, 6])


@leaf
def apart(pieces: Vector, ends: Vector, m: int, i: int, j: int) -> float:
    """The distance of ``touch`` alone."""
    if pieces[i, 7] != 0.0:
        return float(_above(ends, m, i, j)[0] - ends[m, i, 3] - pieces[j, 6])
    if pieces[j, 7] != 0.0:
        return float(_above(ends, m, j, i)[0] - ends[m, j, 3] - pieces[i, 6])
    _, _, _, nx, ny, nz = _between(ends, m, i, j)
    return float(sqrt(nx * nx + ny * ny + nz * nz) - pieces[i, 6] - pieces[j, 6])


@leaf
def _between(ends: Vector, m: int, i: int, j: int) -> tuple[float, float, float, float, float, float]:
    """Nearest point of axis i, and the way from there to that of axis j.

    C. Ericson, Real-Time Collision Detection, 5.1.9.
    """
    ux, uy, uz = ends[m, i, 3] - ends[m, i, 0], ends[m, i, 4] - ends[m, i, 1], ends[m, i, 5] - ends[m, i, 2]
    wx, wy, wz = ends[m, j, 3] - ends[m, j, 0], ends[m, j, 4] - ends[m, j, 1], ends[m, j, 5] - ends[m, j, 2]
    rx, ry, rz = ends[m, i, 0] - ends[m, j, 0], ends[m, i, 1] - ends[m, j, 1], ends[m, i, 2] - ends[m, j, 2]
    uu, ww, uw = ux * ux + uy * uy + uz * uz, wx * wx + wy * wy + wz * wz, ux * wx + uy * wy + uz * wz
    ur, wr = ux * rx + uy * ry + uz * rz, wx * rx + wy * ry + wz * rz
    s, t = 0.0, 0.0
    if ww <= _TINY:
        s = -ur / uu if uu > _TINY else 0.0
    elif uu <= _TINY:
        t = wr / ww
    else:
        parallel = uu * ww - uw * uw
        s = min(max((uw * wr - ur * ww) / parallel, 0.0), 1.0) if parallel > _TINY * uu * ww else 0.0
        t = (uw * s + wr) / ww
        if t < 0.0:
            s = -ur / uu
        elif t > 1.0:
            s = (uw - ur) / uu
    s, t = min(max(s, 0.0), 1.0), min(max(t, 0.0), 1.0)
    px, py, pz = ends[m, i, 0] + s * ux, ends[m, i, 1] + s * uy, ends[m, i, 2] + s * uz
    return px, py, pz, ends[m, j, 0] + t * wx - px, ends[m, j, 1] + t * wy - py, ends[m, j, 2] + t * wz - pz


@leaf
def _touch_plane(ends: Vector, m: int, pieces: Vector, plane: int, i: int, sign: float, out: Vector, row: int) -> float:
    """As ``touch`` for a half-space {x: n·x ≤ offset}; ``sign`` is −1 where it is the second of the pair."""
    least, e = _above(ends, m, plane, i)
    for r in range(3):
        out[row, r] = sign * ends[m, plane, r]
        out[row, 3 + r] = ends[m, i, e + r] - pieces[i, 6] * ends[m, plane, r]
    return least - float(ends[m, plane, 3]) - float(pieces[i, 6])


@leaf
def _above(ends: Vector, m: int, plane: int, i: int) -> tuple[float, int]:
    """Height of the lower end of axis i along the normal of a half-space, and which end that is."""
    least, e = inf, 0
    for k in (0, 3):
        height = (
            ends[m, plane, 0] * ends[m, i, k]
            + ends[m, plane, 1] * ends[m, i, k + 1]
            + ends[m, plane, 2] * ends[m, i, k + 2]
        )
        if height < least:
            least, e = height, k
    return least, e
