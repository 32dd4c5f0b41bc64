"""Kinematics and distances of capsules: the cheap and certain part of collision checking.

Every collision piece has a capsule that contains it (a sphere is one of length zero). Where the piece is a capsule
or a sphere, that is the piece itself and the distance is exact; elsewhere it is a lower bound. A half-space is its
plane. The tests compare placements with pinocchio and distances with coal.

Arrays of this module: a frame is a row of 12 numbers, rotation by rows and then origin; a piece is a row of 8, the
ends of its axis in its body's frame (or normal and offset in the world), its radius, and 1 for a half-space.
"""

from __future__ import annotations

from math import cos, inf, sin, sqrt

import numpy as np
from numpy.typing import NDArray

from safeguard.controllers.compiled import (
    BLOCKS,
    COUNT,
    FLAGS,
    INT_ROWS,
    INTS,
    MATRIX,
    NUMBER,
    OUT,
    OUT_BLOCKS,
    OUT_INTS,
    OUT_MATRIX,
    VECTOR,
    kernel,
    part,
    types,
)
from safeguard.core.types import Vector

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

_TINY = 1e-12
_MEETING = 1e-9  # m
_NEARER = 1e-4  # m
_GILBERT_STEPS = 20
_SHARP = 1e-5  # m
PROVED = -1  # answer of ``march``
RECOVERY = 1e-5  # m; rounding of a distance that must not shrink


@part
def _place(path: Vector, at: int, parents: Integers, places: Vector, axes: Vector, frames: Vector, m: int) -> None:
    """Frames of all bodies at row ``at`` of ``path``: parent · place of the joint · its motion; body 0 is the world.

    A rotation about u is Rodrigues' I + sin θ [u] + (1 − cos θ) [u]².
    """
    for k in range(12):
        frames[m, 0, k] = 1.0 if k in (0, 4, 8) else 0.0
    for j in range(len(parents)):
        up, x, y, z = parents[j], axes[j, 0], axes[j, 1], axes[j, 2]
        turns = axes[j, 3] == 0.0
        s, c, slide = (sin(path[at, j]), cos(path[at, j]), 0.0) if turns else (0.0, 1.0, path[at, j])
        d = 1.0 - c
        for r in range(3):
            u0, u1, u2 = frames[m, up, 3 * r], frames[m, up, 3 * r + 1], frames[m, up, 3 * r + 2]
            p0 = u0 * places[j, 0] + u1 * places[j, 3] + u2 * places[j, 6]
            p1 = u0 * places[j, 1] + u1 * places[j, 4] + u2 * places[j, 7]
            p2 = u0 * places[j, 2] + u1 * places[j, 5] + u2 * places[j, 8]
            origin = frames[m, up, 9 + r] + u0 * places[j, 9] + u1 * places[j, 10] + u2 * places[j, 11]
            frames[m, j + 1, 3 * r] = p0 * (c + d * x * x) + p1 * (d * x * y + s * z) + p2 * (d * x * z - s * y)
            frames[m, j + 1, 3 * r + 1] = p0 * (d * x * y - s * z) + p1 * (c + d * y * y) + p2 * (d * y * z + s * x)
            frames[m, j + 1, 3 * r + 2] = p0 * (d * x * z + s * y) + p1 * (d * y * z - s * x) + p2 * (c + d * z * z)
            frames[m, j + 1, 9 + r] = origin + slide * (p0 * x + p1 * y + p2 * z)


@part
def _move(frames: Vector, bodies: Integers, pieces: Vector, ends: Vector, m: int) -> None:
    """Ends of all axes in the world; a half-space stays as it is."""
    for i in range(len(bodies)):
        b = bodies[i]
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


@part
def _touch(ends: Vector, m: int, pieces: Vector, i: int, j: int, out: Vector, row: int) -> float:
    """Signed distance of two pieces; row ``row`` of ``out`` gets the normal from i to j and a point on i.

    Nearest points of two segments as in C. Ericson, Real-Time Collision Detection, 5.1.9. The normal stays as it was
    where the axes meet: any direction is as good, and the last one is the best guess.
    """
    if pieces[i, 7] != 0.0:
        return _touch_plane(ends, m, pieces, i, j, 1.0, out, row)
    if pieces[j, 7] != 0.0:
        return _touch_plane(ends, m, pieces, j, i, -1.0, out, row)
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
    nx, ny, nz = ends[m, j, 0] + t * wx - px, ends[m, j, 1] + t * wy - py, ends[m, j, 2] + t * wz - pz
    gap = sqrt(nx * nx + ny * ny + nz * nz)
    if gap > _MEETING:
        out[row, 0], out[row, 1], out[row, 2] = nx / gap, ny / gap, nz / gap
    radius = pieces[i, 6]
    out[row, 3], out[row, 4], out[row, 5] = (
        px + radius * out[row, 0],
        py + radius * out[row, 1],
        pz + radius * out[row, 2],
    )
    return float(gap - radius - pieces[j, 6])


@part
def _touch_plane(ends: Vector, m: int, pieces: Vector, plane: int, i: int, sign: float, out: Vector, row: int) -> float:
    """As ``_touch`` for a half-space {x: n·x ≤ offset}; ``sign`` is −1 where it is the second of the pair."""
    least, e = inf, 0
    for k in (0, 3):
        height = (
            ends[m, plane, 0] * ends[m, i, k]
            + ends[m, plane, 1] * ends[m, i, k + 1]
            + ends[m, plane, 2] * ends[m, i, k + 2]
        )
        if height < least:
            least, e = height, k
    for r in range(3):
        out[row, r] = sign * ends[m, plane, r]
        out[row, 3 + r] = ends[m, i, e + r] - pieces[i, 6] * ends[m, plane, r]
    return least - float(ends[m, plane, 3]) - float(pieces[i, 6])


@part
def _furthest(frames: Vector, b: int, points: Vector, first: int, end: int, x: float, y: float, z: float) -> int:
    """Which of the points of a piece on body b lies furthest along (x, y, z)."""
    u = frames[0, b, 0] * x + frames[0, b, 3] * y + frames[0, b, 6] * z
    v = frames[0, b, 1] * x + frames[0, b, 4] * y + frames[0, b, 7] * z
    w = frames[0, b, 2] * x + frames[0, b, 5] * y + frames[0, b, 8] * z
    best, which = -inf, first
    for k in range(first, end):
        d = points[k, 0] * u + points[k, 1] * v + points[k, 2] * w
        if d > best:
            best, which = d, k
    return which


@part
def _gap(
    frames: Vector,
    bodies: Integers,
    points: Vector,
    spans: Integers,
    thick: Vector,
    i: int,
    j: int,
    start: Vector,
    least: float,
    enough: float,
) -> float:
    """A lower bound of the distance of two convex pieces, improved until it is ``enough``, or cannot be ``least``.

    For any unit n no two points are closer than min n·b − max n·a: what the planes across n leave between the pieces.
    Gilbert's algorithm finds a good n: w is a difference of points of the pieces, nearer to the origin in every step
    (E. G. Gilbert, SIAM J. Control 1966); ``start`` holds the first n.
    """
    x, y, z = start[0, 0], start[0, 1], start[0, 2]
    wx, wy, wz, best, radius = 0.0, 0.0, 0.0, -inf, thick[i] + thick[j]
    for step in range(_GILBERT_STEPS):
        a = _furthest(frames, bodies[i], points, spans[i], spans[i + 1], x, y, z)
        b = _furthest(frames, bodies[j], points, spans[j], spans[j + 1], -x, -y, -z)
        f, g = bodies[i], bodies[j]
        sx = frames[0, g, 9] - frames[0, f, 9]
        sy = frames[0, g, 10] - frames[0, f, 10]
        sz = frames[0, g, 11] - frames[0, f, 11]
        for r in range(3):
            sx += frames[0, g, r] * points[b, r] - frames[0, f, r] * points[a, r]
            sy += frames[0, g, 3 + r] * points[b, r] - frames[0, f, 3 + r] * points[a, r]
            sz += frames[0, g, 6 + r] * points[b, r] - frames[0, f, 6 + r] * points[a, r]
        best = max(best, sx * x + sy * y + sz * z - radius)
        if step == 0:
            wx, wy, wz = sx, sy, sz
        else:
            ex, ey, ez = sx - wx, sy - wy, sz - wz
            length = ex * ex + ey * ey + ez * ez
            share = min(max(-(wx * ex + wy * ey + wz * ez) / length, 0.0), 1.0) if length > _TINY * _TINY else 0.0
            wx, wy, wz = wx + share * ex, wy + share * ey, wz + share * ez
        norm = sqrt(wx * wx + wy * wy + wz * wz)
        if best >= enough or norm - radius < max(least, best + _SHARP) or norm < _MEETING:
            break
        x, y, z = wx / norm, wy / norm, wz / norm
    return best


@kernel(types.void, MATRIX, INTS, MATRIX, MATRIX, INTS, MATRIX, INT_ROWS, OUT)
def measure(
    q: Vector,
    parents: Integers,
    places: Vector,
    axes: Vector,
    bodies: Integers,
    pieces: Vector,
    pairs: Integers,
    distances: Vector,
) -> None:
    """Distances of all pairs at ``q``, given as one row."""
    frames, ends, touch = np.empty((1, len(parents) + 1, 12)), np.empty((1, len(pieces), 6)), np.zeros((1, 6))
    _place(q, 0, parents, places, axes, frames, 0)
    _move(frames, bodies, pieces, ends, 0)
    for k in range(len(pairs)):
        distances[k] = _touch(ends, 0, pieces, pairs[k, 0], pairs[k, 1], touch, 0)


@part
def _on_stop(q0: Vector, v0: Vector, a_brake: Vector, s: float, out: Vector, row: int) -> None:
    """Position ``s`` seconds into a stop."""
    for j in range(len(q0)):
        braked = min(s, abs(v0[j]) / a_brake[j])
        slope = a_brake[j] if v0[j] > 0.0 else -a_brake[j]
        out[row, j] = q0[j] + (v0[j] - 0.5 * slope * braked) * braked


@kernel(
    types.void, *[VECTOR] * 3, INTS, MATRIX, MATRIX, INTS, MATRIX, INT_ROWS, VECTOR, MATRIX, VECTOR, OUT_MATRIX,
    OUT_BLOCKS, OUT_BLOCKS, OUT_MATRIX, OUT, OUT_INTS,
)  # fmt: skip
def sweep(
    q: Vector,
    v: Vector,
    a_plan: Vector,
    parents: Integers,
    places: Vector,
    axes: Vector,
    bodies: Integers,
    pieces: Vector,
    pairs: Integers,
    shares: Vector,
    reach: Vector,
    zone: Vector,
    path: Vector,
    frames: Vector,
    ends: Vector,
    distances: Vector,
    least: Vector,
    when: Integers,
) -> None:
    """Measure at samples of the stop from (q, v): the first is q, the last the end.

    ``shares`` are the times of the samples as shares of the whole. Fills, for every sample m, path[m], frames[m],
    ends[m] and distances[m], and for every pair the least distance and the sample that has it; the end, unless
    another comes nearer by a tenth of a millimetre. Between now and the end, only pairs that may come closer than
    their ``zone`` are measured.
    """
    touch, total, last = np.zeros((1, 6)), 0.0, len(shares) - 1
    for j in range(len(q)):
        total = max(total, abs(v[j]) / a_plan[j])
    for m in range(len(shares)):
        _on_stop(q, v, a_plan, total * shares[m], path, m)
        _place(path, m, parents, places, axes, frames, m)
        _move(frames, bodies, pieces, ends, m)
    for k in range(len(pairs)):
        i, j = pairs[k, 0], pairs[k, 1]
        first, end = _touch(ends, 0, pieces, i, j, touch, 0), _touch(ends, last, pieces, i, j, touch, 0)
        distances[0, k], distances[last, k] = first, end
        least[k], when[k] = end, last
        if first < end - _NEARER:
            least[k], when[k] = first, 0
        way = first + end - 2.0 * zone[k]
        for r in range(len(q)):
            way -= reach[k, r] * abs(path[last, r] - path[0, r])
        for m in range(1, last):
            distances[m, k] = inf
            if way < 0.0:  # else it stays out of its zone all along
                distances[m, k] = d = _touch(ends, m, pieces, i, j, touch, 0)
                if d < least[k] - _NEARER:
                    least[k], when[k] = d, m


@kernel(COUNT, *[VECTOR] * 5, MATRIX, VECTOR, VECTOR, NUMBER, OUT_INTS)
def nearby(
    v: Vector,
    a_plan: Vector,
    lower: Vector,
    upper: Vector,
    least: Vector,
    reach: Vector,
    furthest: Vector,
    zone: Vector,
    dt: float,
    out: Integers,
) -> int:
    """Pairs that some acceleration between the bounds could bring closer than its ``zone`` on its stop; their number.

    An acceleration a for one period moves no point of the stop by more than |a − a_0| times
    dt²/2 + dt max|w| / a_p, with the planned braking a_0 and the speeds w that lie between. ``furthest`` is the largest
    reach of every joint, which settles most pairs.
    """
    moved, count = np.empty(len(v)), 0
    for j in range(len(v)):
        planned = min(max(-v[j] / dt, -a_plan[j]), a_plan[j])
        change = max(upper[j] - planned, planned - lower[j])
        speed = abs(v[j]) + (abs(planned) + change) * dt
        moved[j] = change * (0.5 * dt * dt + speed * dt / a_plan[j])
    most = 0.0
    for j in range(len(v)):
        most += furthest[j] * moved[j]
    for k in range(len(least)):
        d = least[k]
        if d - most >= zone[k]:
            continue
        for j in range(len(v)):
            d -= reach[k, j] * moved[j]
        if not d >= zone[k]:
            out[count] = k
            count += 1
    return count


@kernel(types.void, INTS, INTS, INT_ROWS, MATRIX, BLOCKS, OUT_MATRIX)
def touches(chosen: Integers, when: Integers, pairs: Integers, pieces: Vector, ends: Vector, wrenches: Vector) -> None:
    """Normal and point of the chosen pairs, each at its sample of a sweep, into their rows of ``wrenches``."""
    for c in range(len(chosen)):
        k = chosen[c]
        _touch(ends, int(when[k]), pieces, pairs[k, 0], pairs[k, 1], wrenches, k)


@part
def _gradient(
    k: int, m: int, frames: Vector, axes: Vector, between: Vector, wrenches: Vector, G: Vector, c: int
) -> None:
    """Change of distance k with every joint: n · (u × (p − o)), or n · u for a sliding joint, into row c.

    With normal n, point p, axis u through o; signed by which of the two pieces the joint moves.
    """
    for j in range(between.shape[1]):
        G[c, j] = 0.0
        if between[k, j] == 0.0:
            continue
        x, y, z, b = axes[j, 0], axes[j, 1], axes[j, 2], j + 1
        ux = frames[m, b, 0] * x + frames[m, b, 1] * y + frames[m, b, 2] * z
        uy = frames[m, b, 3] * x + frames[m, b, 4] * y + frames[m, b, 5] * z
        uz = frames[m, b, 6] * x + frames[m, b, 7] * y + frames[m, b, 8] * z
        if axes[j, 3] == 0.0:
            x = wrenches[k, 3] - frames[m, b, 9]
            y = wrenches[k, 4] - frames[m, b, 10]
            z = wrenches[k, 5] - frames[m, b, 11]
            ux, uy, uz = uy * z - uz * y, uz * x - ux * z, ux * y - uy * x
        G[c, j] = between[k, j] * (wrenches[k, 0] * ux + wrenches[k, 1] * uy + wrenches[k, 2] * uz)


@kernel(
    types.void, INTS, *[VECTOR] * 5, INTS, BLOCKS, MATRIX, MATRIX, MATRIX, VECTOR, *[NUMBER] * 2, OUT_MATRIX,
    OUT, OUT, OUT,
)  # fmt: skip
def steer(
    chosen: Integers,
    v: Vector,
    a_plan: Vector,
    brake: Vector,
    shares: Vector,
    least: Vector,
    when: Integers,
    frames: Vector,
    axes: Vector,
    between: Vector,
    wrenches: Vector,
    row: Vector,
    decay: float,
    dt: float,
    C: Vector,
    bound: Vector,
    slack: Vector,
    length: Vector,
) -> None:
    """The rows of the chosen pairs as ``Clearance.rows`` defines them, and their lengths."""
    total = 0.0
    for j in range(len(v)):
        total = max(total, abs(v[j]) / a_plan[j])
    for c in range(len(chosen)):
        k = chosen[c]
        _gradient(int(k), int(when[k]), frames, axes, between, wrenches, C, c)
        s, square, at_planned, at_brake = total * shares[when[k]], 0.0, 0.0, 0.0
        for j in range(len(v)):
            C[c, j] *= dt * (0.5 * dt + min(s, abs(v[j]) / a_plan[j]))
            square += C[c, j] * C[c, j]
            at_planned += C[c, j] * min(max(-v[j] / dt, -a_plan[j]), a_plan[j])
            at_brake += C[c, j] * brake[j]
        excess = least[k] - row[k]
        wanted = at_planned - (excess if excess < 0.0 else decay * excess)
        bound[c] = min(wanted, at_brake)
        slack[c] = wanted - bound[c]
        length[c] = max(sqrt(square), 1e-12)


@kernel(
    types.void, MATRIX, INTS, MATRIX, MATRIX, INTS, MATRIX, INT_ROWS, MATRIX, INTS, VECTOR, INTS, NUMBER, OUT
)  # fmt: skip
def gaps(
    q: Vector,
    parents: Integers,
    places: Vector,
    axes: Vector,
    bodies: Integers,
    pieces: Vector,
    pairs: Integers,
    points: Vector,
    spans: Integers,
    thick: Vector,
    chosen: Integers,
    enough: float,
    distances: Vector,
) -> None:
    """Raise the lower bounds of the chosen pairs at ``q``, given as one row, to what planes between them show."""
    frames, ends, touch = np.empty((1, len(parents) + 1, 12)), np.empty((1, len(pieces), 6)), np.zeros((1, 6))
    _place(q, 0, parents, places, axes, frames, 0)
    _move(frames, bodies, pieces, ends, 0)
    for c in range(len(chosen)):
        k = chosen[c]
        i, j = pairs[k, 0], pairs[k, 1]
        _touch(ends, 0, pieces, i, j, touch, 0)
        distances[k] = max(distances[k], _gap(frames, bodies, points, spans, thick, i, j, touch, -inf, enough))


@kernel(COUNT, *[VECTOR] * 6, MATRIX, VECTOR, VECTOR, OUT_INTS)
def suspects(
    now: Vector,
    end: Vector,
    q: Vector,
    q_end: Vector,
    q0: Vector,
    stop: Vector,
    reach: Vector,
    furthest: Vector,
    floor: Vector,
    out: Integers,
) -> int:
    """Pairs that a way q → q0 → stop may bring below their ``floor``; how many.

    No distance changes by more than reach · |Δq|, so on a way of length T between configurations with distances d₀
    and d₁ none is below d₀ − reach · T, d₁ − reach · T, or the mean of both. ``end`` are distances at ``q_end``, which
    is near ``stop``.
    """
    count, most = 0, 0.0
    for j in range(len(q)):
        most += furthest[j] * (abs(q0[j] - q[j]) + abs(stop[j] - q0[j]))
    for k in range(len(now)):
        if now[k] - most >= floor[k]:
            continue
        way, off = 0.0, 0.0
        for j in range(len(q)):
            way += reach[k, j] * (abs(q0[j] - q[j]) + abs(stop[j] - q0[j]))
            off += reach[k, j] * abs(stop[j] - q_end[j])
        first, last = now[k] - way, end[k] - off - way
        if not max(first, last, 0.5 * (first + last + way)) >= floor[k]:
            out[count] = k
            count += 1
    return count


@kernel(
    COUNT, *[VECTOR] * 5, INTS, *[VECTOR] * 2, MATRIX, INTS, MATRIX, MATRIX, INTS, MATRIX, INT_ROWS,
    MATRIX, INTS, VECTOR, FLAGS, COUNT, OUT,
)  # fmt: skip
def march(
    now: Vector,
    q: Vector,
    q0: Vector,
    v0: Vector,
    a_brake: Vector,
    chosen: Integers,
    floor: Vector,
    hard: Vector,
    reach: Vector,
    parents: Integers,
    places: Vector,
    axes: Vector,
    bodies: Integers,
    pieces: Vector,
    pairs: Integers,
    points: Vector,
    spans: Integers,
    thick: Vector,
    hulls: Flags,
    most: int,
    found: Vector,
) -> int:
    """Walk a stop in steps that prove themselves; ``PROVED``, or the position in ``chosen`` of a pair that fails.

    ``now`` are all distances at ``q``, from where the way leads to q0 and along the stop. Every sample keeps
    ``floor``, and between two samples with distances d₀, d₁ a pair stays above (d₀ + d₁ − reach · |Δq|) / 2, which
    must keep ``hard``; otherwise the step is halved. A pair that is below a floor already must not come closer.
    ``found[0]`` is the distance that was too small, or NaN if ``most`` samples did not prove the stop.
    """
    n, m = len(q), len(chosen)
    frames, ends, touch = np.empty((1, n + 1, 12)), np.empty((1, len(pieces), 6)), np.zeros((1, 6))
    path, d_here, d_there = np.empty((2, n)), now[chosen], np.empty(m)
    path[0], path[1] = q, q0  # where the walk is, and the next sample
    total, unproved = 0.0, -1
    for j in range(n):
        total = max(total, abs(v0[j]) / a_brake[j])
    t, step, entered = 0.0, 0.0, False  # the first step leads from q to q0, at t = 0
    for _ in range(most):
        if entered:
            _on_stop(q0, v0, a_brake, min(t + step, total), path, 1)
        _place(path, 1, parents, places, axes, frames, 0)
        _move(frames, bodies, pieces, ends, 0)
        unproved = -1
        for c in range(m):
            p = chosen[c]
            i, j, way, least = pairs[p, 0], pairs[p, 1], 0.0, hard[p]
            for k in range(n):
                way += reach[p, k] * abs(path[1, k] - path[0, k])
            sample = min(floor[p], now[p] - RECOVERY)
            need = max(sample, 2.0 * least + way - d_here[c]) if now[p] > least + RECOVERY else sample
            d_there[c] = _touch(ends, 0, pieces, i, j, touch, 0)
            if d_there[c] < need and hulls[p]:
                gap = _gap(frames, bodies, points, spans, thick, i, j, touch, float(need), 2.0 * float(need))
                d_there[c] = max(d_there[c], gap)
            if not d_there[c] >= sample:
                found[0] = d_there[c]
                return c
            if not d_there[c] >= need:
                unproved = c
        if unproved >= 0:
            if not entered:
                break
            step *= 0.5
            continue
        if entered and t + step >= total:
            return PROVED
        t, step, entered = t + step, (2.0 * step if entered else total), True
        path[0] = path[1]
        d_here[:] = d_there
        if total == 0.0:
            return PROVED
    found[0] = np.nan
    return unproved if unproved >= 0 else 0
