"""Inverse dynamics of many states of a tree at once: the recursive Newton-Euler algorithm, states side by side.

R. Featherstone, Rigid Body Dynamics Algorithms, 2008, table 5.1, in body frames whose z axis is the joint's. Of a body,
with angular velocity ω, angular acceleration α and acceleration a of its origin, a point r moves with a + B r, where

    B = [α]× + [ω]×[ω]×,   so that   F = m a + B h,   N_x = (B J)_zy − (B J)_yz + (h × a)_x   and so on

with mass m, h = ∫ r dm and J = ∫ r rᵀ dm about the origin (C. A. Balafoutis, R. V. Patel, Dynamic Analysis of Robot
Manipulators, 1991, section 4.2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pinocchio as pin
from numpy.typing import NDArray

from safeguard.core.compiled import FLAGS, INTS, MATRIX, OUT_MATRIX, VECTOR, kernel, part, private, types
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

LANES = 16  # states that go through the tree together

# Where the quantities of a body begin in its row of the work array, each with a place for every lane.
_OMEGA, _ALPHA, _B, _A, _SIN, _COS, _FORCE, _MOMENT = (16 * k for k in (0, 3, 6, 15, 18, 19, 20, 23))
_SLIDE, _TURN_V, _TURN_A, _SLIDE_V, _SLIDE_A, _ROW = (16 * k for k in (26, 27, 28, 29, 30, 31))
_BODY = 26  # constants of a body: rotation, translation, m, h, J, armature, friction, turns, slides

_ROUND = 6755399441055744.0  # 1.5 · 2⁵²: adding and taking it away rounds to the nearest integer


@part
def turned(k: Vector, q: Vector, v: Vector, a: Vector, w: Vector) -> None:
    """What the joint itself does: sine and cosine (S. L. Moshier, Cephes, sin.c), slide, speeds, accelerations."""
    turns, slides = k[24], k[25]
    for i in range(16):
        x = turns * q[i]
        z = (x * 0.6366197723675814 + _ROUND) - _ROUND  # quarters of a turn
        y = ((x - z * 1.5707963109016418) - z * 1.5893254712295857e-08) - z * 6.123233995736766e-17
        yy = y * y
        sin = 2.75573136213857245213e-6 + yy * (-2.50507477628578072866e-8 + yy * 1.58962301576546568060e-10)
        sin = 8.33333333332211858878e-3 + yy * (-1.98412698295895385996e-4 + yy * sin)
        sin = y + y * yy * (-1.66666666666666307295e-1 + yy * sin)
        cos = -2.75573141792967388112e-7 + yy * (2.08757008419747316778e-9 - yy * 1.13585365213876817300e-11)
        cos = -1.38888888888730564116e-3 + yy * (2.48015872888517045348e-5 + yy * cos)
        cos = 1.0 - 0.5 * yy + yy * yy * (4.16666666666665929218e-2 + yy * cos)
        z *= 0.25
        turn = z - ((z + _ROUND) - _ROUND)  # 0, ±1/4 or ±1/2
        odd, half = turn * turn == 0.0625, turn * turn == 0.25
        s, c = cos if odd else sin, sin if odd else cos
        w[_SIN + i] = -s if turn == -0.25 or half else s
        w[_COS + i] = -c if turn == 0.25 or half else c
        w[_SLIDE + i] = slides * q[i]
        w[_TURN_V + i], w[_TURN_A + i] = turns * v[i], turns * a[i]
        w[_SLIDE_V + i], w[_SLIDE_A + i] = slides * v[i], slides * a[i]


@part
def spun(k: Vector, p: Vector, w: Vector) -> None:
    """ω, α and B of a body from those of the one that carries it."""
    k0, k1, k2, k3, k4, k5, k6, k7, k8 = k[0], k[1], k[2], k[3], k[4], k[5], k[6], k[7], k[8]
    for i in range(16):
        s, c, turn = w[_SIN + i], w[_COS + i], w[_TURN_V + i]
        x, y, z = p[_OMEGA + i], p[_OMEGA + 16 + i], p[_OMEGA + 32 + i]
        tx, ty = k0 * x + k3 * y + k6 * z, k1 * x + k4 * y + k7 * z
        wx, wy = c * tx + s * ty, c * ty - s * tx
        w[_OMEGA + i], w[_OMEGA + 16 + i] = wx, wy
        w[_OMEGA + 32 + i] = k2 * x + k5 * y + k8 * z + turn
        x, y, z = p[_ALPHA + i], p[_ALPHA + 16 + i], p[_ALPHA + 32 + i]
        tx, ty = k0 * x + k3 * y + k6 * z, k1 * x + k4 * y + k7 * z
        w[_ALPHA + i], w[_ALPHA + 16 + i] = c * tx + s * ty + wy * turn, c * ty - s * tx - wx * turn
        w[_ALPHA + 32 + i] = k2 * x + k5 * y + k8 * z + w[_TURN_A + i]
    for i in range(16):
        x, y, z = w[_OMEGA + i], w[_OMEGA + 16 + i], w[_OMEGA + 32 + i]
        ax, ay, az = w[_ALPHA + i], w[_ALPHA + 16 + i], w[_ALPHA + 32 + i]
        w[_B + i], w[_B + 16 + i], w[_B + 32 + i] = -(y * y + z * z), x * y - az, x * z + ay
        w[_B + 48 + i], w[_B + 64 + i], w[_B + 80 + i] = x * y + az, -(x * x + z * z), y * z - ax
        w[_B + 96 + i], w[_B + 112 + i], w[_B + 128 + i] = x * z - ay, y * z + ax, -(x * x + y * y)


@part
def moved(k: Vector, p: Vector, w: Vector) -> None:
    """Acceleration of a body's origin, less that of gravity, from that of the one that carries it."""
    k0, k1, k2, k3, k4, k5, k6, k7, k8 = k[0], k[1], k[2], k[3], k[4], k[5], k[6], k[7], k[8]
    k9, k10, k11 = k[9], k[10], k[11]
    for i in range(16):
        s, c, d, slide = w[_SIN + i], w[_COS + i], w[_SLIDE + i], 2.0 * w[_SLIDE_V + i]
        x, y, z = k9 + k2 * d, k10 + k5 * d, k11 + k8 * d
        ax = p[_A + i] + p[_B + i] * x + p[_B + 16 + i] * y + p[_B + 32 + i] * z
        ay = p[_A + 16 + i] + p[_B + 48 + i] * x + p[_B + 64 + i] * y + p[_B + 80 + i] * z
        az = p[_A + 32 + i] + p[_B + 96 + i] * x + p[_B + 112 + i] * y + p[_B + 128 + i] * z
        tx, ty = k0 * ax + k3 * ay + k6 * az, k1 * ax + k4 * ay + k7 * az
        w[_A + i] = c * tx + s * ty + w[_OMEGA + 16 + i] * slide
        w[_A + 16 + i] = c * ty - s * tx - w[_OMEGA + i] * slide
        w[_A + 32 + i] = k2 * ax + k5 * ay + k8 * az + w[_SLIDE_A + i]


@part
def pushed(k: Vector, w: Vector) -> None:
    """F and N that a body needs for its own motion."""
    m, h0, h1, h2, j0, j1, j2 = k[12], k[13], k[14], k[15], k[16], k[17], k[18]
    j4, j5, j8 = k[19], k[20], k[21]
    for i in range(16):
        b0, b1, b2 = w[_B + i], w[_B + 16 + i], w[_B + 32 + i]
        b3, b4, b5 = w[_B + 48 + i], w[_B + 64 + i], w[_B + 80 + i]
        b6, b7, b8 = w[_B + 96 + i], w[_B + 112 + i], w[_B + 128 + i]
        x, y, z = w[_A + i], w[_A + 16 + i], w[_A + 32 + i]
        w[_FORCE + i] = m * x + b0 * h0 + b1 * h1 + b2 * h2
        w[_FORCE + 16 + i] = m * y + b3 * h0 + b4 * h1 + b5 * h2
        w[_FORCE + 32 + i] = m * z + b6 * h0 + b7 * h1 + b8 * h2
        nx = (b6 * j1 + b7 * j4 + b8 * j5) - (b3 * j2 + b4 * j5 + b5 * j8)
        ny = (b0 * j2 + b1 * j5 + b2 * j8) - (b6 * j0 + b7 * j1 + b8 * j2)
        nz = (b3 * j0 + b4 * j1 + b5 * j2) - (b0 * j1 + b1 * j4 + b2 * j5)
        w[_MOMENT + i] = nx + h1 * z - h2 * y
        w[_MOMENT + 16 + i] = ny + h2 * x - h0 * z
        w[_MOMENT + 32 + i] = nz + h0 * y - h1 * x


@part
def carried(k: Vector, w: Vector, p: Vector) -> None:
    """Add a body's F and N to those of the one that carries it."""
    k0, k1, k2, k3, k4, k5, k6, k7, k8 = k[0], k[1], k[2], k[3], k[4], k[5], k[6], k[7], k[8]
    k9, k10, k11 = k[9], k[10], k[11]
    for i in range(16):
        s, c, d = w[_SIN + i], w[_COS + i], w[_SLIDE + i]
        x, y, z = w[_FORCE + i], w[_FORCE + 16 + i], w[_FORCE + 32 + i]
        tx, ty = c * x - s * y, s * x + c * y
        fx, fy, fz = k0 * tx + k1 * ty + k2 * z, k3 * tx + k4 * ty + k5 * z, k6 * tx + k7 * ty + k8 * z
        x, y, z = w[_MOMENT + i], w[_MOMENT + 16 + i], w[_MOMENT + 32 + i]
        tx, ty = c * x - s * y, s * x + c * y
        nx, ny, nz = k0 * tx + k1 * ty + k2 * z, k3 * tx + k4 * ty + k5 * z, k6 * tx + k7 * ty + k8 * z
        x, y, z = k9 + k2 * d, k10 + k5 * d, k11 + k8 * d
        p[_FORCE + i] += fx
        p[_FORCE + 16 + i] += fy
        p[_FORCE + 32 + i] += fz
        p[_MOMENT + i] += nx + y * fz - z * fy
        p[_MOMENT + 16 + i] += ny + z * fx - x * fz
        p[_MOMENT + 32 + i] += nz + x * fy - y * fx


@part
def needed(k: Vector, w: Vector, v: Vector, a: Vector, out: Vector) -> None:
    """The joint's share of F and N, with armature and friction."""
    armature, friction, turns, slides = k[22], k[23], k[24], k[25]
    for i in range(16):
        along = turns * w[_MOMENT + 32 + i] + slides * w[_FORCE + 32 + i]
        out[i] = along + armature * a[i] + friction * v[i]


@kernel(types.void, INTS, MATRIX, VECTOR, INTS, FLAGS, MATRIX, MATRIX, MATRIX, OUT_MATRIX, OUT_MATRIX)
def inverse_dynamics(
    parents: Indices,
    bodies: Vector,
    gravity: Vector,
    columns: Indices,
    wanted: Flags,
    q: Vector,
    v: Vector,
    a: Vector,
    work: Vector,
    out: Vector,
) -> None:
    """Fill the rows of ``out`` that are wanted, as ``InverseDynamics`` says.

    The loops over lanes are many, and each touches few enough places that the compiler can show that none is read
    after it was written: only then does it compute several lanes at a time.
    """
    n, ground = len(parents), work[0]
    for i in range(16):
        for k in range(15):
            ground[16 * k + i] = 0.0
        ground[_A + i], ground[_A + 16 + i], ground[_A + 32 + i] = -gravity[0], -gravity[1], -gravity[2]
    for start in range(0, q.shape[1], 16):
        end = start + 16
        for b in range(n):
            if columns[b] > start:
                body, carrier, own = bodies[b], work[parents[b] + 1], work[b + 1]
                turned(body, q[b, start:end], v[b, start:end], a[b, start:end], own)
                spun(body, carrier, own)
                moved(body, carrier, own)
                pushed(body, own)
        for b in range(n - 1, -1, -1):
            if columns[b] > start:
                body, own = bodies[b], work[b + 1]
                if wanted[b]:
                    needed(body, own, v[b, start:end], a[b, start:end], out[b, start:end])
                if parents[b] >= 0:
                    carried(body, own, work[parents[b] + 1])


def side_by_side(x: Vector) -> Vector:
    """States in rows, shape (k, n) with k > 0, as columns; the last is repeated up to a multiple of ``LANES``."""
    k, n = x.shape
    out = np.empty((n, k + -k % LANES))
    out[:, :k], out[:, k:] = x.T, x[-1][:, None]
    return out


class InverseDynamics:
    """τ = M(q) a + c(q, v) + g(q) + friction of a robot, many states at once.

    Coulomb friction costs a tanh a joint and state, and nothing where there is none.
    """

    def __init__(self, robot: RobotModel) -> None:
        self._robot, self._coulomb = robot, bool(robot.coulomb.any())
        viscous = np.zeros(robot.n) if self._coulomb else robot.viscous
        self._parents, self._bodies = _tree(robot.pin_model, viscous)
        self._gravity = private(robot.pin_model.gravity.linear)
        self._work = np.zeros((robot.n + 1, _ROW))

    def __call__(self, q: Vector, v: Vector, a: Vector, columns: Indices, wanted: Flags) -> Vector:
        """Torques of the joints that are wanted, zero for others, shape (n, k), N·m.

        Args:
            q, v, a: shape (n, k) with k a multiple of ``LANES``, C-contiguous.
            columns: of every joint, how many of its columns count, shape (n,); joints that move together, or carry
                one another, have the same number. 0: none of these is wanted.
            wanted: shape (n,).

        Raises:
            ValueError: shapes that differ, or k is not a multiple of ``LANES``: the kernel checks no index.
        """
        if q.shape[1] % LANES or not q.shape == v.shape == a.shape:
            raise ValueError(f"q, v, a of shapes {q.shape}, {v.shape}, {a.shape}: the same is needed, k {LANES}·m")
        out = np.zeros(q.shape)
        inverse_dynamics(self._parents, self._bodies, self._gravity, columns, wanted, q, v, a, self._work, out)
        if self._coulomb:
            speed = np.zeros(v.shape)  # columns that do not count hold anything
            for joint in np.flatnonzero(wanted).tolist():
                speed[joint, : columns[joint]] = v[joint, : columns[joint]]
            out += self._robot.bias(speed.T, np.zeros(self._robot.n)).T
        return out


def _tree(model: Any, viscous: Vector) -> tuple[Indices, Vector]:
    """(parent of every joint, −1 for the base; constants of every body) in frames whose z axis is the joint's."""
    n = int(model.nv)
    parents = np.array([int(model.parents[b + 1]) - 1 for b in range(n)])
    bodies = np.zeros((n, _BODY))
    turned: list[Vector] = [np.eye(3)]
    for b in range(n):
        turns, axis = _axis(model, b)
        A, place, inertia = _onto_z(axis), model.jointPlacements[b + 1], model.inertias[b + 1]
        before: Vector = turned[int(parents[b]) + 1].T
        centre = A.T @ np.asarray(inertia.lever)
        spread = A.T @ np.asarray(inertia.inertia) @ A  # about the centre of mass
        second = 0.5 * np.trace(spread) * np.eye(3) - spread + inertia.mass * np.outer(centre, centre)
        bodies[b, :9] = (before @ np.asarray(place.rotation) @ A).ravel()
        bodies[b, 9:12] = before @ np.asarray(place.translation)
        bodies[b, 12:16] = inertia.mass, *(inertia.mass * centre)
        bodies[b, 16:22] = second[np.triu_indices(3)]
        bodies[b, 22:] = model.armature[b], viscous[b], turns, not turns
        turned.append(A)
    return parents, bodies


def _axis(model: Any, b: int) -> tuple[bool, Vector]:
    """Whether joint b turns, and its axis in its own frame, shape (3,)."""
    data = model.createData()
    pin.computeJointJacobians(model, data, np.zeros(model.nq))
    column = pin.getJointJacobian(model, data, b + 1, pin.ReferenceFrame.LOCAL)[:, b]
    turns = not model.joints[b + 1].shortname().startswith("JointModelP")
    return turns, column[3:] if turns else column[:3]


def _onto_z(axis: Vector) -> Vector:
    """A rotation whose third column is ``axis``, shape (3, 3)."""
    x = np.cross(np.eye(3)[int(np.argmin(np.abs(axis)))], axis)
    x = x / np.linalg.norm(x)
    return np.column_stack((x, np.cross(axis, x), axis))
