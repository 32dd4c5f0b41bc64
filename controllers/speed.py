"""Caps on the speed of the tool frame's origin and of every point of the body, in m/s.

The body is the capsules that enclose its pieces. Over a capsule the speed is largest at one of the two end spheres; on
a sphere of radius R around c, which moves with u and turns with ω, at c + R (u × ω)/‖u × ω‖, with

    s² = u² + R² ω² + 2 R ‖ω × u‖.

S is the largest speed of a point on the stop from the state after the period: at its start, wherever a joint comes to
rest, and once per 0.1 rad of travel (10 times at most) in between. What is claimed: for every motion that the QP or the
proposal decides, S keeps the cap; or, if S was above it already, S falls by D dt a period with the declared
deceleration D; or, if braking cannot do that, S is no more than full braking gives. So a stop under a cap stays under
it, and a cap that is lowered is approached along D and never stepped. Not claimed: the speed between two of these
moments of a stop, between the two ends of a period, and that of the real arm, which follows the model as well as it
does. What is attached to the world does not move.

The rows are cuts: at the proposal, clipped to the joint bounds, the point that exceeds its cap by most gives

    C a ≥ b,   C = −∂s/∂a,   b = C a_k + s(a_k) − cap,

a_k moves onto the cut, and the next one is taken there: at another link or, in a better direction, at the same one.
s is nearly convex in a; its gradient is that of n·J(q_t) v_t for n = u/s with everything that a changes, J included,
which is the J̇ v. A bound is relaxed to its value at the braking point; that is the slack.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import pinocchio as pin

from safeguard.controllers import fastest as kernels
from safeguard.controllers.clearance import ClearanceRows
from safeguard.controllers.fastest import BETWEEN, STEP
from safeguard.controllers.shapes import Capsules
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector, frozen_array

_ROUNDING = 2e-9  # m/s; the kernel's is half of it
_FALL = 1.1  # rows let a speed fall this much faster than declared, so that rounding is not a refusal
_BEYOND = 0.2  # m; a sliding joint may be measured so far outside its range


class SpeedCaps:
    """Caps on the speed of the tool and of the links of a robot.

    Args:
        robot: the model.
        a_brake: deceleration of stops, shape (n,), rad/s².
        dt: control period, s.
        deceleration: D, at which speeds above a cap fall, m/s².
        share: of the caps, kept between rows and checker, for the curvature of the cap around a row.
        slots: number of rows.

    Attributes:
        names: of the capped things, as rows are called: "speed:tool" and "speed:<link>".
        configured: caps that a filter was told to keep, shape (names,), m/s.
    """

    def __init__(
        self,
        robot: RobotModel,
        a_brake: Vector,
        dt: float,
        *,
        deceleration: float = 2.0,
        share: float = 0.01,
        slots: int = 6,
    ) -> None:
        self._model, self._data = robot.pin_model, robot.pin_model.createData()
        velocities = self._data.v
        self._velocities = [velocities[j] for j in range(robot.pin_model.njoints)]  # into the data: they follow it
        self._a_brake, self._dt, self._fall, self.slots = a_brake, dt, deceleration * dt, slots
        self._numbers = frozen_array([1.0 - share, _FALL * self._fall, dt])
        spheres = _spheres(robot)
        links = list(dict.fromkeys(link for link, _, _ in spheres))
        self.names = tuple(f"speed:{link}" for link in links)
        self.configured = self.caps()
        groups = [links.index(link) for link, _, _ in spheres]
        self._bodies = np.array([body for _, body, _ in spheres], dtype=np.int64)
        self._points = frozen_array([point for _, _, point in spheres])
        self._radii = np.ascontiguousarray(self._points[:, 3])
        self._first = np.flatnonzero(np.diff(groups, prepend=-1))
        self._reach = np.maximum.reduceat(np.array([_levers(robot, body, p) for _, body, p in spheres]), self._first)
        owners = np.column_stack((self._bodies, np.array(groups, dtype=np.int64)))
        self._body = (Capsules.of(robot).joints, owners, self._points, self._reach)
        # Velocity of a centre from its body's twist (linear, angular): I and −[p]×.
        self._at = np.array([np.hstack((np.eye(3), -pin.skew(np.array(p[:3])))) for _, _, p in spheres])
        self._out, none = np.zeros((slots, robot.n + 4)), np.zeros(0)
        self._none = ClearanceRows(none.astype(np.intp), none.astype(np.intp), np.zeros((0, robot.n)), none, none, none)

    def caps(self, tool: float | None = None, body: float | None = None) -> Vector:
        """Caps as the methods take them, shape (names,), m/s; None is no cap."""
        values = [tool if name == "speed:tool" else body for name in self.names]
        return frozen_array([inf if value is None else value for value in values])

    def rows(
        self, q: Vector, v: Vector, nominal: Vector, brake: Vector, lower: Vector, upper: Vector, caps: Vector
    ) -> ClearanceRows:
        """Rows ``C a ≥ bound`` for the accelerations between ``lower`` and ``upper``; ``pairs`` index ``names``.

        C in m/s per rad/s², bound and slack in m/s. Several rows may be of one name.
        """
        out, n = self._out, len(q)
        k = kernels.cuts(q, v, nominal, brake, lower, upper, self._a_brake, *self._body, caps, self._numbers, out)
        if k == 0:
            return self._none
        found = out[:k].copy()
        C, (bound, slack, length) = np.ascontiguousarray(found[:, :n]), np.ascontiguousarray(found[:, n : n + 3].T)
        return ClearanceRows(found[:, n + 3].astype(np.intp), np.arange(k), C, bound, slack, length)

    def within(self, q: Vector, v: Vector, a: Vector, brake: Vector, caps: Vector) -> Vector:
        """``a`` itself if it keeps the caps, else a point on the way from there to ``brake`` that does.

        Rows are cuts, and a program may have more of them than slots. Whatever convex rows a and ``brake`` satisfy,
        the points between them satisfy too.
        """
        x = kernels.share_within(q, v, a, brake, self._a_brake, *self._body, caps, self._numbers)
        return a if x == 1.0 else brake + x * (a - brake)

    def refusal(self, q: Vector, v: Vector, a: Vector, brake: Vector, caps: Vector) -> str:
        """Why acceleration ``a`` held for one period from (q, v) makes something too fast, now or on the stop, or "".

        The speed after the period in plain numpy from pinocchio's velocities, the stop by the kernel of ``within``. A
        bound that holds in every configuration comes first.
        """
        w = v + a * self._dt
        if (self._reach @ np.abs(w) <= caps).all():  # False for NaN
            return ""
        found = self.speeds((q + (0.5 * self._dt) * (v + w))[None], w[None])[0]
        if not (found <= caps + _ROUNDING).all():
            most = self._most(q, v, brake, caps)
            within = found <= most
            if not within.all():
                g = int(np.argmin(within))
                return f"{self.names[g]} {found[g]:.5g} m/s, limit {most[g]:.5g}"
        return "" if self.within(q, v, a, brake, caps) is a else "speed: the stop does not keep the caps"

    def _most(self, q: Vector, v: Vector, brake: Vector, caps: Vector) -> Vector:
        """The caps, or what comes down to them as declared, or what full braking gives, m/s."""
        stopped = v + brake * self._dt
        braked = self.stop_speeds(q + (0.5 * self._dt) * (v + stopped), stopped)
        most: Vector = np.maximum(np.maximum(caps, self.stop_speeds(q, v) - self._fall), braked) + _ROUNDING
        return most

    def stop_speeds(self, q: Vector, v: Vector) -> Vector:
        """Largest speed of everything in ``names`` on the stop from (q, v), shape (names,), m/s.

        At its start, where joints come to rest and, on a long way, at moments in between.
        """
        rest = np.abs(v) / self._a_brake
        travel = float((0.5 * rest * np.abs(v)).sum())
        more = int(travel / STEP) if travel < STEP * BETWEEN else BETWEEN
        corners = np.sort(rest)
        t = np.concatenate(([0.0], corners[:-1], corners[-1] * np.arange(1, more + 1) / (more + 1)))
        braked = np.minimum(t[:, None], rest)
        w = v - np.sign(v) * self._a_brake * braked
        found: Vector = self.speeds(q + 0.5 * (v + w) * braked, w).max(axis=0)
        return found

    def speeds(self, q: Vector, v: Vector) -> Vector:
        """Speed of the fastest point of everything in ``names`` at states of shape (k, n), shape (k, names), m/s."""
        twists = np.empty((len(q), len(self._bodies), 6))
        for m in range(len(q)):
            pin.forwardKinematics(self._model, self._data, q[m], v[m])
            twists[m] = np.array([velocity.vector for velocity in self._velocities])[self._bodies]
        u, omega = np.matmul(self._at, twists[..., None])[..., 0], twists[..., 3:]
        uu, ww, uw = (u * u).sum(axis=-1), (omega * omega).sum(axis=-1), (u * omega).sum(axis=-1)
        across = np.sqrt(np.maximum(uu * ww - uw * uw, 0.0))  # ‖ω × u‖
        squares = uu + self._radii * (self._radii * ww + 2.0 * across)
        found: Vector = np.sqrt(np.maximum.reduceat(squares, self._first, axis=-1))
        return found


def joined(first: ClearanceRows, second: ClearanceRows, names: int, slots: int) -> ClearanceRows:
    """Both sets of rows in one; the second comes after ``names`` names and ``slots`` slots of the first."""
    if len(second.pairs) == 0:
        return first
    return ClearanceRows(
        np.append(first.pairs, second.pairs + names),
        np.append(first.slots, second.slots + slots),
        np.vstack((first.C, second.C)),
        np.append(first.bound, second.bound),
        np.append(first.slack, second.slack),
        np.append(first.length, second.length),
    )


def _spheres(robot: RobotModel) -> list[tuple[str, int, list[float]]]:
    """(link, body, centre and radius in its frame) of the tool and of both ends of every moving capsule, by link."""
    shapes, model, found = Capsules.of(robot), robot.pin_model, dict[str, list[tuple[str, int, list[float]]]]()
    tool: Any = model.frames[model.getFrameId(robot.tool_frame)]
    if tool.parentJoint > 0:
        found["tool"] = [("tool", int(tool.parentJoint), [*tool.placement.translation, 0.0])]
    for link, body, piece in zip(robot.collision.links, shapes.bodies.tolist(), shapes.pieces, strict=True):
        if body == 0:
            continue
        ends = [piece[:3]] if np.array_equal(piece[:3], piece[3:6]) else [piece[:3], piece[3:6]]
        found.setdefault(link, []).extend((link, body, [*end, piece[6]]) for end in ends)
    return [sphere for spheres in found.values() for sphere in spheres]


def _levers(robot: RobotModel, body: int, point: list[float]) -> Vector:
    """How far 1 rad (or 1 m) of every joint moves a point of the sphere in any configuration, at most, shape (n,)."""
    model, levers = robot.pin_model, np.zeros(robot.n)
    length, joint = float(np.linalg.norm(point[:3])) + point[3], body
    while joint > 0:
        index = model.joints[joint].idx_v
        slides = model.joints[joint].shortname().startswith("JointModelP")
        levers[index] = 1.0 if slides else length
        low, high = robot.limits.q_min[index], robot.limits.q_max[index]
        stroke = max(abs(low), abs(high)) + _BEYOND if slides else 0.0
        length += float(np.linalg.norm(model.jointPlacements[joint].translation)) + stroke
        joint = int(model.parents[joint])
    return levers
