"""Kernels of the speed caps: the motion of a body on a stop, its fastest points and the cuts that they give.

Formulas and claims are in ``speed.py``. A body is the joints of ``shapes.Capsules``, the (body, group) and (centre,
radius) of its spheres, and the caps of the groups.
"""

from __future__ import annotations

from math import inf, sqrt

import numpy as np

from safeguard.controllers.placing import place
from safeguard.core.compiled import (
    COUNT,
    INT_ROWS,
    MATRIX,
    NUMBER,
    OUT_MATRIX,
    VECTOR,
    Integers,
    kernel,
    part,
)
from safeguard.core.types import Vector

Body = tuple[Vector, Integers, Vector, Vector]  # joints, owners, points, caps
Work = tuple[Vector, Vector, Vector, Vector, Vector]  # q as one row, w, frames, axes in the world, where
Best = tuple[Vector, Integers, Integers]  # largest speeds, their spheres and moments

STEP, BETWEEN = 0.1, 10  # between corners a stop is looked at once per so many rad of travel, so often at most
_ROUNDING = 1e-9  # m/s
_HALVINGS = 8


@part
def _carry(path: Vector, w: Vector, joints: Vector, placed: Vector, world: Vector) -> None:
    """Frames and twists of all bodies at (q, w), and the joints' axes in the world; ``path`` is q as one row.

    A frame is that of ``place`` and then the velocity of its origin and the angular velocity: 18 numbers.
    """
    place(joints, path, 0, placed, 0)
    frames = placed[0]
    for k in range(12, 18):
        frames[0, k] = 0.0
    for j in range(len(joints)):
        up, b, slides = int(joints[j, 16]), j + 1, joints[j, 15] != 0.0
        for r in range(3):
            world[j, r] = (
                frames[b, 3 * r] * joints[j, 12]
                + frames[b, 3 * r + 1] * joints[j, 13]
                + frames[b, 3 * r + 2] * joints[j, 14]
            )
            frames[b, 15 + r] = frames[up, 15 + r] + (0.0 if slides else world[j, r] * w[j])
        for r in range(3):
            e, f = (r + 1) % 3, (r + 2) % 3
            arm_e, arm_f = frames[b, 9 + e] - frames[up, 9 + e], frames[b, 9 + f] - frames[up, 9 + f]
            frames[b, 12 + r] = frames[up, 12 + r] + frames[up, 15 + e] * arm_f - frames[up, 15 + f] * arm_e
            frames[b, 12 + r] += world[j, r] * w[j] if slides else 0.0


@part
def _room(n: int, groups: int) -> tuple[Work, Best]:
    """Arrays for a robot of n joints, and for the fastest spheres of its groups."""
    work = (np.empty((1, n)), np.empty(n), np.empty((1, n + 1, 18)), np.empty((n, 3)), np.empty(9))
    return work, (np.empty(groups), np.zeros(groups, dtype=np.int64), np.zeros(groups, dtype=np.int64))


@part
def _fastest(frames: Vector, b: int, point: Vector, where: Vector) -> float:
    """Speed of the fastest point of a sphere on body b, m/s; its direction and the point in ``where``."""
    for r in range(3):
        where[6 + r] = (
            frames[b, 3 * r] * point[0] + frames[b, 3 * r + 1] * point[1] + frames[b, 3 * r + 2] * point[2]
        )  # from the body's origin to the centre
    wx, wy, wz = frames[b, 15], frames[b, 16], frames[b, 17]
    x, y, z = where[6], where[7], where[8]
    ux, uy, uz = frames[b, 12] + wy * z - wz * y, frames[b, 13] + wz * x - wx * z, frames[b, 14] + wx * y - wy * x
    R = point[3]
    if R > 0.0:
        rx, ry, rz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
        length = sqrt(rx * rx + ry * ry + rz * rz)
        if length < 1e-12:  # it only turns, or glides along its axis: any point of the equator
            rx, ry, rz = (0.0, wz, -wy) if abs(wx) < max(abs(wy), abs(wz)) else (-wz, 0.0, wx)
            length = max(sqrt(rx * rx + ry * ry + rz * rz), 1e-12)
        rx, ry, rz = R * rx / length, R * ry / length, R * rz / length
        x, y, z = x + rx, y + ry, z + rz
        ux, uy, uz = ux + wy * rz - wz * ry, uy + wz * rx - wx * rz, uz + wx * ry - wy * rx
    s = sqrt(ux * ux + uy * uy + uz * uz)
    scale = 1.0 / max(s, 1e-12)
    where[0], where[1], where[2] = ux * scale, uy * scale, uz * scale
    where[3], where[4], where[5] = x + frames[b, 9], y + frames[b, 10], z + frames[b, 11]
    return s


@part
def _after(q: Vector, v: Vector, a: Vector, dt: float, a_brake: Vector, start: Vector, times: Vector) -> int:
    """State after a period of ``a`` into the rows of ``start``, and the moments of its stop to look at; how many."""
    n, travel = len(q), 0.0
    rest = np.empty(n)
    for j in range(n):
        start[1, j] = v[j] + a[j] * dt
        start[0, j] = q[j] + 0.5 * dt * (v[j] + start[1, j])
        rest[j] = abs(start[1, j]) / a_brake[j]
        travel += 0.5 * rest[j] * abs(start[1, j])
    rest.sort()
    times[0] = 0.0
    times[1:n] = rest[: n - 1]
    more = int(travel / STEP) if travel < STEP * BETWEEN else BETWEEN  # NaN: there is no such integer
    for m in range(more):
        times[n + m] = rest[n - 1] * (m + 1) / (more + 1)
    return n + more


@part
def _stopping(start: Vector, a_brake: Vector, t: float, q: Vector, w: Vector) -> None:
    """State ``t`` seconds into the stop from ``start``."""
    for j in range(len(q)):
        w0 = start[1, j]
        braked = min(t, abs(w0) / a_brake[j])
        w[j] = w0 - braked * (a_brake[j] if w0 > 0.0 else -a_brake[j])
        q[j] = start[0, j] + 0.5 * (w0 + w[j]) * braked


@part
def _largest(start: Vector, times: Vector, count: int, a_brake: Vector, body: Body, work: Work, best: Best) -> None:
    """Largest speed of every capped group on a stop, with its sphere and moment, into ``best``."""
    joints, owners, points, caps = body
    path, w, placed, world, where = work
    found, spheres, moments = best
    found[:] = 0.0
    for m in range(count):
        _stopping(start, a_brake, times[m], path[0], w)
        _carry(path, w, joints, placed, world)
        for e in range(len(points)):
            g = owners[e, 1]
            if caps[g] < inf:
                s = _fastest(placed[0], owners[e, 0], points[e], where)
                if s > found[g]:
                    found[g], spheres[g], moments[g] = s, e, m


@part
def _allow(
    q: Vector, v: Vector, brake: Vector, fall: float, dt: float, a_brake: Vector, body: Body, work: Work, best: Best,
    allowed: Vector,
) -> None:  # fmt: skip
    """Raise ``allowed`` to what comes down as declared, and to what full braking gives."""
    start, times = np.empty((2, len(q))), np.empty(len(q) + BETWEEN)
    for braked in range(2):
        seen = _after(q, v, brake, dt if braked else 0.0, a_brake, start, times)
        _largest(start, times, seen, a_brake, body, work, best)
        for g in range(len(allowed)):
            allowed[g] = max(allowed[g], best[0][g] - (0.0 if braked else fall))


@part
def _too_fast(found: Vector, allowed: Vector) -> int:
    """The group that exceeds what it is allowed by most, or −1."""
    g, worst = -1, _ROUNDING
    for k in range(len(found)):
        if not found[k] - allowed[k] <= worst:
            g, worst = k, found[k] - allowed[k]
    return g


@part
def _gradient(
    n_: Vector, b: int, t: float, dt: float, start: Vector, a_brake: Vector, joints: Vector, frames: Vector,
    world: Vector, out: Vector, row: int,
) -> None:  # fmt: skip
    """Less speed of the point in ``n_`` at moment t of the stop per acceleration of the period, into a row of ``out``.

    A joint adds z × (p − o) as long as it moves, and by turning what it carries z × (u − u') + ω' × (z × (p − o)),
    with u' and ω' those of the body that it is on; for a sliding joint z and ω' × z.
    """
    nx, ny, nz, px, py, pz = n_[0], n_[1], n_[2], n_[3], n_[4], n_[5]
    x, y, z = px - frames[b, 9], py - frames[b, 10], pz - frames[b, 11]
    ux = frames[b, 12] + frames[b, 16] * z - frames[b, 17] * y
    uy = frames[b, 13] + frames[b, 17] * x - frames[b, 15] * z
    uz = frames[b, 14] + frames[b, 15] * y - frames[b, 16] * x
    while b > 0:
        j, up = b - 1, int(joints[b - 1, 16])
        zx, zy, zz = world[j, 0], world[j, 1], world[j, 2]
        ox, oy, oz = frames[up, 15], frames[up, 16], frames[up, 17]
        jx, jy, jz, tx, ty, tz = zx, zy, zz, 0.0, 0.0, 0.0
        if joints[j, 15] == 0.0:
            x, y, z = px - frames[b, 9], py - frames[b, 10], pz - frames[b, 11]
            jx, jy, jz = zy * z - zz * y, zz * x - zx * z, zx * y - zy * x
            x, y, z = px - frames[up, 9], py - frames[up, 10], pz - frames[up, 11]
            x, y, z = (
                ux - frames[up, 12] - oy * z + oz * y,
                uy - frames[up, 13] - oz * x + ox * z,
                uz - frames[up, 14] - ox * y + oy * x,
            )
            tx, ty, tz = zy * z - zz * y, zz * x - zx * z, zx * y - zy * x
        tx, ty, tz = tx + oy * jz - oz * jy, ty + oz * jx - ox * jz, tz + ox * jy - oy * jx
        rest = abs(start[1, j]) / a_brake[j]
        moving = nx * jx + ny * jy + nz * jz if rest >= t else 0.0
        out[row, j] = -dt * (moving + (0.5 * dt + min(t, rest)) * (nx * tx + ny * ty + nz * tz))
        b = up


@part
def _near(w: Vector, reach: Vector, caps: Vector) -> bool:
    """Whether something may exceed its cap at speeds up to w in some configuration."""
    for g in range(len(caps)):
        bound = 0.0
        for j in range(len(w)):
            bound += reach[g, j] * abs(w[j])
        if not bound <= caps[g]:
            return True
    return False


@kernel(
    COUNT, *[VECTOR] * 7, MATRIX, INT_ROWS, MATRIX, MATRIX, *[VECTOR] * 2, OUT_MATRIX
)  # fmt: skip
def cuts(
    q: Vector,
    v: Vector,
    nominal: Vector,
    brake: Vector,
    lower: Vector,
    upper: Vector,
    a_brake: Vector,
    joints: Vector,
    owners: Integers,
    points: Vector,
    reach: Vector,
    caps: Vector,
    numbers: Vector,
    out: Vector,
) -> int:
    """Fill rows of C, bound, slack, length and group; how many. The module's text has the formulas.

    ``owners`` are (body, group) of every sphere of ``points`` (centre and radius), ``caps`` and ``reach`` those of the
    groups, ``numbers`` the share of a cap that is used, the fall of speeds above it in a period, and the period.
    """
    share, fall, dt = numbers[0], numbers[1], numbers[2]
    n, groups = len(q), len(caps)
    a, start, times, allowed = np.empty(n), np.empty((2, n)), np.empty(n + BETWEEN), share * caps
    for j in range(n):
        a[j] = min(max(nominal[j], lower[j]), upper[j])
    seen = _after(q, v, a, dt, a_brake, start, times)
    if not _near(start[1], reach, allowed):
        return 0
    body, (work, best) = (joints, owners, points, caps), _room(n, groups)
    (path, w_t, placed, world, where), (found, spheres, moments) = work, best
    _largest(start, times, seen, a_brake, body, work, best)
    if _too_fast(found, allowed) < 0:
        return 0
    _allow(q, v, brake, fall, dt, a_brake, body, work, best, allowed)
    for count in range(len(out)):
        _largest(start, times, seen, a_brake, body, work, best)
        g = _too_fast(found, allowed)
        if g < 0:
            return count
        e, t = spheres[g], float(times[moments[g]])
        _stopping(start, a_brake, t, path[0], w_t)
        _carry(path, w_t, joints, placed, world)
        speed = _fastest(placed[0], owners[e, 0], points[e], where)
        out[count, :n] = 0.0
        _gradient(where, owners[e, 0], t, dt, start, a_brake, joints, placed[0], world, out, count)
        at_a, at_brake, square = 0.0, 0.0, 0.0
        for j in range(n):
            c = out[count, j]
            at_a, at_brake, square = at_a + c * a[j], at_brake + c * brake[j], square + c * c
        wanted = at_a + speed - allowed[g]
        bound = min(wanted, at_brake)
        out[count, n], out[count, n + 1], out[count, n + 2] = bound, wanted - bound, max(sqrt(square), 1e-12)
        out[count, n + 3] = g
        allowed[g] += wanted - bound
        step = (bound - at_a) / max(square, 1e-24)
        for j in range(n):
            a[j] = min(max(a[j] + step * out[count, j], lower[j]), upper[j])
        seen = _after(q, v, a, dt, a_brake, start, times)
    return len(out)


@kernel(
    NUMBER, *[VECTOR] * 5, MATRIX, INT_ROWS, MATRIX, MATRIX, *[VECTOR] * 2
)  # fmt: skip
def share_within(
    q: Vector,
    v: Vector,
    a: Vector,
    brake: Vector,
    a_brake: Vector,
    joints: Vector,
    owners: Integers,
    points: Vector,
    reach: Vector,
    caps: Vector,
    numbers: Vector,
) -> float:
    """The largest x that bisection finds with brake + x (a − brake) within the caps; 1 if a is, 0 always is."""
    fall, dt, n, groups = numbers[1], numbers[2], len(q), len(caps)
    start, times, mixed, allowed = np.empty((2, n)), np.empty(n + BETWEEN), np.empty(n), caps.copy()
    seen = _after(q, v, a, dt, a_brake, start, times)
    if not _near(start[1], reach, caps):
        return 1.0
    body, (work, best) = (joints, owners, points, caps), _room(n, groups)
    found = best[0]
    _largest(start, times, seen, a_brake, body, work, best)
    if _too_fast(found, allowed) < 0:
        return 1.0
    _allow(q, v, brake, fall, dt, a_brake, body, work, best, allowed)
    low, high, x = 0.0, 1.0, 1.0
    for _ in range(_HALVINGS):
        for j in range(n):
            mixed[j] = brake[j] + x * (a[j] - brake[j])
        seen = _after(q, v, mixed, dt, a_brake, start, times)
        _largest(start, times, seen, a_brake, body, work, best)
        if _too_fast(found, allowed) < 0:
            low = x
            if x == 1.0:
                return 1.0
        else:
            high = x
        x = 0.5 * (low + high)
    return low
