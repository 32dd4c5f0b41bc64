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

from safeguard.controllers.compiled import BLOCKS, FLAG, MATRIX, VECTOR, kernel
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

_ROUNDING = 1e-6  # of the limit


@kernel(FLAG, MATRIX, *[VECTOR] * 6, MATRIX, BLOCKS, VECTOR)
def within(
    M: Vector,
    gravity: Vector,
    q: Vector,
    q0: Vector,
    v0: Vector,
    a_brake: Vector,
    viscous: Vector,
    drift: Vector,
    gamma: Vector,
    limit: Vector,
) -> bool:
    """Whether the stop from (q0, v0) certainly needs no torque beyond ``limit``; M and gravity are those at ``q``."""
    n = len(q)
    rest, way, torque = np.empty(n), np.empty(n), gravity.copy()
    for j in range(n):
        rest[j] = abs(v0[j]) / a_brake[j]
        way[j] = abs(q0[j] - q[j]) + 0.5 * abs(v0[j]) * rest[j]
        push = -a_brake[j] if v0[j] > 0.0 else a_brake[j] if v0[j] < 0.0 else 0.0
        for i in range(n):
            torque[i] += M[j, i] * push
    room = np.empty(n)
    for i in range(n):
        spread = viscous[i] * abs(v0[i])
        for k in range(n):
            inner = 0.0
            for j in range(n):
                inner += gamma[i, k, j] * abs(v0[j])
            spread += drift[i, k] * way[k] + inner * abs(v0[k])
        room[i] = limit[i] - spread
        if not abs(torque[i]) <= room[i]:
            return False
    order = np.argsort(rest)
    for r in range(n):  # one joint after the other comes to rest
        j = order[r]
        push = -a_brake[j] if v0[j] > 0.0 else a_brake[j] if v0[j] < 0.0 else 0.0
        for i in range(n):
            torque[i] -= M[j, i] * push
            if not abs(torque[i]) <= room[i]:
                return False
    return True


class StopTorque:
    """The bound for stops of a robot that brake with ``a_brake``.

    Args:
        robot: the model.
        a_brake: deceleration, shape (n,), rad/s².
        limit: torque that a stop may need, shape (n,), N·m.
    """

    def __init__(self, robot: RobotModel, a_brake: Vector, limit: Vector) -> None:
        D, G = changes(robot)
        self._gamma = np.ascontiguousarray(
            0.5 * (D + D.transpose(0, 2, 1) + D.transpose(2, 0, 1))
        )  # D_ijk + D_ikj + D_jki
        self._drift = np.einsum("ijk,j->ik", D, a_brake) + G
        self._viscous, self._limit = robot.viscous, (1.0 - _ROUNDING) * limit - robot.coulomb

    def certain(self, M: Vector, gravity: Vector, q: Vector, q0: Vector, v0: Vector, a_brake: Vector) -> bool:
        """Whether the stop from (q0, v0), which begins near ``q``, certainly stays within the limit.

        Args:
            M: mass matrix at q with armature, shape (n, n), kg·m². gravity: its torque at q, shape (n,), N·m.
            q: where they were evaluated. q0, v0: start of the stop. All of shape (n,), rad and rad/s.
            a_brake: deceleration of the stop, at most the one of the constructor.
        """
        return within(M, gravity, q, q0, v0, a_brake, self._viscous, self._drift, self._gamma, self._limit)


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
