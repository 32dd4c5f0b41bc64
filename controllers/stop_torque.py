"""A bound on the torques of a whole stop from the dynamics where it begins: cheap, and certain for every moment.

Along a stop τ(s) = M(q) a(s) + g(q) + c(q, v) + friction. Between q_0 and any q on the way, with Δ the path of every
joint, no entry changes by more than

    |M_ij(q) − M_ij(q_0)| ≤ Σ_k D_ijk Δ_k      |g_i(q) − g_i(q_0)| ≤ Σ_k G_ik Δ_k      |c_i| ≤ Σ_jk Γ_ijk |v_j| |v_k|

with Γ_ijk = (D_ijk + D_ikj + D_jki) / 2, as in Christoffel's symbols. D and G follow from the tree alone: the centre
of mass of body b is never further from joint i than the lengths of the links between them, R_ib, so a column of its
Jacobian is at most R_ib long, and turning joint k changes it by at most the shorter lever (``_lever_changes``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from safeguard.controllers.brake import StopPlan, room_for_corners, stop_corners
from safeguard.controllers.newton_euler import InverseDynamics
from safeguard.core.compiled import COUNT, INTS, MATRIX, OUT_FLAGS, VECTOR, kernel, private
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

_ROUNDING = 1e-6  # of the limit


@kernel(COUNT, MATRIX, *[VECTOR] * 6, MATRIX, INTS, INTS, MATRIX, VECTOR, OUT_FLAGS)
def uncertain(
    M: Vector,
    gravity: Vector,
    q: Vector,
    q0: Vector,
    v0: Vector,
    a_brake: Vector,
    viscous: Vector,
    drift: Vector,
    first: Indices,
    second: Indices,
    gamma: Vector,
    limit: Vector,
    out: Flags,
) -> int:
    """Joints that the stop from (q0, v0) may need torque beyond ``limit`` from, and their number.

    M and gravity are those at ``q``. Row k of drift is for joint k, row p of gamma for joints first[p] and second[p].
    """
    n = len(q)
    rest, torque, spread = np.empty(n), gravity.copy(), viscous * np.abs(v0)
    for j in range(n):
        rest[j] = abs(v0[j]) / a_brake[j]
        way = abs(q0[j] - q[j]) + 0.5 * abs(v0[j]) * rest[j]
        push = -a_brake[j] if v0[j] > 0.0 else a_brake[j] if v0[j] < 0.0 else 0.0
        for i in range(n):
            torque[i] += M[j, i] * push
            spread[i] += drift[j, i] * way
    for p in range(len(first)):
        speeds = abs(v0[first[p]] * v0[second[p]])
        for i in range(n):
            spread[i] += gamma[p, i] * speeds
    most = np.abs(torque)
    for j in np.argsort(rest):  # one joint after the other comes to rest
        push = -a_brake[j] if v0[j] > 0.0 else a_brake[j] if v0[j] < 0.0 else 0.0
        for i in range(n):
            torque[i] -= M[j, i] * push
            most[i] = most[i] if abs(torque[i]) <= most[i] else abs(torque[i])  # NaN stays
    count = 0
    for i in range(n):
        out[i] = not most[i] + spread[i] <= limit[i]
        count += out[i]
    return count


class StopTorque:
    """The bound for stops of a robot that brake with ``a_brake``.

    Args:
        robot: the model.
        a_brake: deceleration, shape (n,), rad/s².
        limit: torque that a stop may need, shape (n,), N·m.
    """

    def __init__(self, robot: RobotModel, a_brake: Vector, limit: Vector) -> None:
        D, G = changes(robot)
        gamma = 0.5 * (D + D.transpose(0, 2, 1) + D.transpose(2, 0, 1))  # D_ijk + D_ikj + D_jki
        self._first, self._second, self._gamma = _pairs(gamma)
        self._drift = np.ascontiguousarray((np.einsum("ijk,j->ik", D, a_brake) + G).T)
        self._couples = np.array([[_carries(robot, i, j) for j in range(robot.n)] for i in range(robot.n)])
        self._groups = _groups(robot)
        self._inverse = InverseDynamics(robot)
        self._states, self._columns = room_for_corners(robot.n)
        self._open = np.zeros(robot.n, dtype=bool)
        self._viscous, self._limit = private(robot.viscous), (1.0 - _ROUNDING) * limit - robot.coulomb

    def uncertain(self, M: Vector, gravity: Vector, q: Vector, plan: StopPlan) -> Flags | None:
        """Joints for which a stop that begins near ``q`` may go beyond the limit, shape (n,); None if there are none.

        Args:
            M: mass matrix at q with armature, shape (n, n), kg·m². gravity: its torque at q, shape (n,), N·m.
            q: where they were evaluated, shape (n,), rad.
            plan: the stop; it brakes with at most the deceleration of the constructor.
        """
        found = uncertain(
            M, gravity, q, plan.q0, plan.v0, plan.a_brake,
            self._viscous, self._drift, self._first, self._second, self._gamma, self._limit, self._open,
        )  # fmt: skip
        return self._open if found else None

    def along(self, plan: StopPlan, joints: Flags) -> tuple[Vector, Vector]:
        """Torque of ``joints`` along a stop, 0 for others, and speed of all, shape (k, n), N·m and rad/s.

        For each of them wherever its torque can be largest, as ``StopPlan.corners`` says, the joints counting that it
        carries or that carry it. Limbs that hang on the base apart from each other have moments of their own. The next
        call replaces the speeds.
        """
        (q, v, a), columns = self._states, self._columns
        resting = self.coupled(joints)
        k = stop_corners(plan.q0, plan.v0, plan.a_brake, resting, self._groups, q, v, a, columns)
        return self._inverse(q, v, a, columns, joints)[:, :k].T, v[:, :k].T

    def coupled(self, joints: Flags) -> Flags:
        """Joints whose coming to rest changes the torque of some of ``joints``, shape (n,)."""
        coupled: Flags = self._couples.dot(joints)
        return coupled


def changes(robot: RobotModel) -> tuple[Vector, Vector]:
    """(D, G) of the module's text, shapes (n, n, n) and (n, n), in N·m per rad."""
    model, n = robot.pin_model, robot.n
    D, G = np.zeros((n, n, n)), np.zeros((n, n))
    weight = float(np.linalg.norm(model.gravity.linear))
    above = np.array([[k + 1 in model.supports[i + 1] for k in range(n)] for i in range(n)])  # k carries i, or is i
    turning = np.array([not model.joints[i + 1].shortname().startswith("JointModelP") for i in range(n)])
    for b in range(n):
        inertia = model.inertias[b + 1]
        L = _levers(model, b, turning)
        S = _lever_changes(L, above, above[b], turning)
        spin = 2.0 * float(np.linalg.norm(np.asarray(inertia.inertia), 2)) * np.outer(*[turning & above[b]] * 2)
        part = inertia.mass * (S[:, None, :] * L[None, :, None] + L[:, None, None] * S[None, :, :])
        D += part + spin[:, :, None] * (turning & above[b])[None, None, :]
        G += inertia.mass * weight * S
    # A joint that carries both i and j, or is one of them, turns both columns alike: M_ij does not change.
    D[above[:, None, :] & above[None, :, :]] = 0.0
    return D, G


def _pairs(gamma: Vector) -> tuple[Indices, Indices, Vector]:
    """(j, k, coefficients) of the products |v_j| |v_k|, j ≤ k, that some torque has; shapes (p,), (p,) and (p, n)."""
    both = gamma + gamma.transpose(0, 2, 1)
    first, second = (np.ascontiguousarray(k) for k in np.nonzero(np.triu((both > 0.0).any(axis=0))))
    return first, second, np.ascontiguousarray(both[:, first, second].T * np.where(first == second, 0.5, 1.0)[:, None])


def _groups(robot: RobotModel) -> Indices:
    """Numbers of the limbs that hang on the base apart from each other, of every joint, shape (n,)."""
    roots = [int(robot.pin_model.supports[j + 1].tolist()[1]) for j in range(robot.n)]
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def _carries(robot: RobotModel, i: int, j: int) -> bool:
    """One of the two joints carries the other."""
    supports = robot.pin_model.supports
    return i + 1 in supports[j + 1] or j + 1 in supports[i + 1]


def _levers(model: Any, b: int, turning: Vector) -> Vector:
    """Length of every joint's column for the centre of mass of body b, at most, shape (n,), m or 1; 0 without one."""
    L, joint = np.zeros(len(turning)), b + 1
    length = float(np.linalg.norm(model.inertias[joint].lever))
    while joint > 0:
        L[joint - 1] = length if turning[joint - 1] else 1.0
        slide = 0.0 if turning[joint - 1] else _stroke(model, joint)
        length += float(np.linalg.norm(model.jointPlacements[joint].translation)) + slide
        joint = int(model.parents[joint])
    return L


def _stroke(model: Any, joint: int) -> float:
    index = model.joints[joint].idx_q
    return float(max(abs(model.lowerPositionLimit[index]), abs(model.upperPositionLimit[index])))


def _lever_changes(L: Vector, above: Vector, carries: Vector, turning: Vector) -> Vector:
    """By how much a unit of joint k changes joint i's column, at most, shape (n, n).

    A joint that carries i (or is i) turns the column with everything else; one further out moves the centre of mass,
    which matters if i turns.
    """
    n = len(L)
    S = np.zeros((n, n))
    for i in range(n):
        for k in range(n):
            if not (carries[i] and carries[k]):
                continue
            if above[i, k]:  # k carries i, or is i
                S[i, k] = L[i] if turning[k] else 0.0
            elif turning[i]:
                S[i, k] = L[k]
    return S
