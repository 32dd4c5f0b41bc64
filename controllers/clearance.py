"""Clearance: distances, the rows that steer along and away, and the proof that a stop stays clear."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
import pinocchio as pin
from numpy.typing import NDArray

from safeguard.controllers import capsules as kernels
from safeguard.controllers.brake import StopPlan
from safeguard.controllers.shapes import Capsules
from safeguard.controllers.viability import stop_position
from safeguard.core.config import ClearanceConfig
from safeguard.core.robot import RobotModel
from safeguard.core.types import Indices, Vector

Flags = NDArray[np.bool_]

_SHARES = 1.0 - np.sqrt(1.0 - np.linspace(0.0, 1.0, 5))  # moments of a stop: equal steps of a braking joint
_ANY_NORMAL = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
_GUESS, _HINT = np.array([1.0, 0.0, 0.0]), np.zeros(2, dtype=np.int32)
_SEED, _SAMPLES = 11, 64  # configurations in which pairs are seen at their widest
_ENOUGH_M = 0.03  # a lower bound that is worth no further step
_UNIT = 0.25  # the square of a normal that is shorter is undefined


@dataclass(frozen=True, slots=True)
class Distances:
    """Signed distances of all kept pairs at one configuration.

    Attributes:
        q: the configuration, shape (n,), rad.
        d: distances, or lower bounds of those that nothing near needs, shape (pairs,), m; negative in penetration.
        exact: which of them are distances, shape (pairs,).
    """

    q: Vector
    d: Vector
    exact: Flags


@dataclass(frozen=True, slots=True)
class ClearanceRows:
    """Rows ``C a ≥ bound`` for the pairs that the planned stop brings nearest.

    Attributes:
        pairs: indices of the pairs, at most ``slots`` of them.
        slots: the row of the program that each of them keeps as long as it stays near, shape (k,).
        C: change of the least distance on the stop, per acceleration, shape (k, n), m/(rad/s²).
        bound: relaxed bound, shape (k,), m.
        slack: by how much the bound was relaxed to the braking point, shape (k,), m.
        length: of the rows of C, never zero, shape (k,).
    """

    pairs: Indices
    slots: Indices
    C: Vector
    bound: Vector
    slack: Vector
    length: Vector


class Clearance:
    """Signed distances of the kept pairs of a robot.

    Args:
        robot: the model.
        config: floors and buffers.
        tube: how far the robot may be from the stop that it follows, shape (n,), rad; the floors grow by what that
            can take from a distance.

    Attributes:
        names: of the pairs.
        now, end: distances at the state that ``rows`` saw last, and where the planned stop from there ends.
    """

    now: Distances
    end: Distances

    def __init__(self, robot: RobotModel, config: ClearanceConfig, tube: Vector | None = None) -> None:
        self.names = robot.collision.names
        self._config, self._robot = config, robot
        self._shapes = Capsules.of(robot)
        self._all_exact = bool(self._shapes.exact.all())
        n, pieces, pairs, samples = robot.n, len(self._shapes.pieces), len(self.names), len(_SHARES)
        self._path, self._frames = np.zeros((samples, n)), np.zeros((samples, n + 1, 12))
        self._ends = np.zeros((samples, pieces, 6))
        self._least, self._when = np.zeros(pairs), np.zeros(pairs, dtype=np.int64)
        self._wrenches = np.tile(_ANY_NORMAL, (pairs, 1))
        off = np.zeros(pairs) if tube is None else robot.collision.reach @ tube
        row = config.floor_m + config.buffer_m + off
        scale = np.minimum(0.5 * _widest(robot) / row, 1.0)
        self._floor, self._hard = (config.floor_m + off) * scale, (config.hard_floor_m + off) * scale
        self._row = row * scale
        self._zone = self._row + config.zone_m
        self._found, self._number = np.zeros(pairs, dtype=np.int64), np.zeros(1)
        self._reach, self._between = robot.collision.reach, robot.collision.between
        self._furthest = self._reach.max(axis=0, initial=0.0)
        self._data = robot.pin_model.createData()
        self._placed = robot.collision.geometry.createData()
        self._results = list(self._placed.distanceResults)
        self._requests = list(self._placed.distanceRequests)
        none, nothing = np.zeros(0, dtype=np.intp), np.zeros(0)
        self._no_rows = ClearanceRows(none, none, np.zeros((0, n)), nothing, nothing, nothing)
        self._slot_of: dict[int, int] = {}

    def reset(self) -> None:
        """Forget which pair had which row and the last good normals."""
        self._slot_of.clear()
        self._wrenches[:] = _ANY_NORMAL

    def measure(self, q: Vector) -> Distances:
        """Distances at ``q``."""
        shapes, d = self._shapes, np.empty(len(self.names))
        kernels.measure(q.reshape(1, -1), *shapes.tree, shapes.bodies, shapes.pieces, shapes.pairs, d)
        return Distances(q, d, shapes.exact.copy())

    def nearest(self, distances: Distances) -> tuple[str, float]:
        """Name and distance of the nearest pair, m; ("", ∞) without pairs."""
        if len(self.names) == 0:
            return "", inf
        while not distances.exact[pair := int(distances.d.argmin())]:  # a lower bound may hide a nearer pair
            self._refine(distances, np.array([pair]))
            self._refine(distances, np.flatnonzero(distances.d < distances.d[pair]))
        return self.names[pair], float(distances.d[pair])

    def _refine(self, distances: Distances, pairs: Indices, keep: bool = False) -> None:
        """Replace lower bounds of some pairs by their distances."""
        vague = pairs[~distances.exact[pairs]]
        if len(vague):
            distances.d[vague] = self._exact(distances.q, vague, keep)
            distances.exact[vague] = True

    def _raise(self, distances: Distances, pairs: Indices) -> None:
        """Raise lower bounds of some pairs to what planes between their pieces show."""
        shapes, vague = self._shapes, pairs[~distances.exact[pairs] & self._shapes.hulls[pairs]]
        if len(vague):
            kernels.gaps(
                distances.q.reshape(1, -1), *shapes.tree, shapes.bodies, shapes.pieces, shapes.pairs,
                *shapes.corners, vague, _ENOUGH_M, distances.d,
            )  # fmt: skip

    # -- rows -----------------------------------------------------------------------------------------

    def rows(
        self, q: Vector, v: Vector, a_plan: Vector, brake: Vector, lower: Vector, upper: Vector, dt: float
    ) -> ClearanceRows:
        """Rows at a state, for accelerations between ``lower`` and ``upper``.

        The stop from (q, v) with the planned deceleration a_p is measured at a few moments s; for each pair the row
        is taken where it comes nearest: distance d, gradient G there. Taken there, it contains what the motion does
        to the gradient (the J̇v of a row taken at q). An acceleration a for one period moves that point by
        D (a − a_0) to first order, with D_j = dt²/2 + dt min(s, |v_j| / a_p,j), and not at all for the planned
        braking a_0. The distance left on the stop is d + C (a − a_0), C = G D, and must not fall faster than its
        excess over d_row decays:

            C (a − a_0) ≥ −(dt/τ) max(d − d_row, 0) − min(d − d_row, 0),

        relaxed to what full braking gives. The relaxation is the slack.
        """
        shapes = self._shapes
        distances = np.empty((len(_SHARES), len(self.names)))
        kernels.sweep(
            q, v, a_plan, *shapes.tree, shapes.bodies, shapes.pieces, shapes.pairs, _SHARES,
            self._reach, self._zone, self._path, self._frames, self._ends, distances, self._least, self._when,
        )  # fmt: skip
        known = np.empty(distances.shape, dtype=bool)
        known[:] = shapes.exact
        self.now = Distances(q, distances[0], known[0])
        self.end = Distances(self._path[-1].copy(), distances[-1], known[-1])
        near = self._near(v, a_plan, lower, upper, dt)
        if len(near) and not self._all_exact:
            self._sharpen(distances, known, near)
            near = self._near(v, a_plan, lower, upper, dt)
        if len(near) == 0:
            self._slot_of.clear()
            return self._no_rows
        near, slots = self._seat(near)
        exact = near if self._all_exact else near[shapes.exact[near]]
        kernels.touches(exact, self._when, shapes.pairs, shapes.pieces, self._ends, self._wrenches)
        k = len(near)
        C, bound, slack, length = np.empty((k, len(q))), np.empty(k), np.empty(k), np.empty(k)
        kernels.steer(
            near, v, a_plan, brake, _SHARES, self._least, self._when, self._frames, shapes.tree[2], self._between,
            self._wrenches, self._row, dt / self._config.decay_s, dt, C, bound, slack, length,
        )  # fmt: skip
        return ClearanceRows(near, slots, C, bound, slack, length)

    def _near(self, v: Vector, a_plan: Vector, lower: Vector, upper: Vector, dt: float) -> Indices:
        count = kernels.nearby(
            v, a_plan, lower, upper, self._least, self._reach, self._furthest, self._zone, dt, self._found
        )
        return self._found[:count].copy()

    def _sharpen(self, distances: Vector, known: Flags, near: Indices) -> None:
        """Exact distances, normals and points of near pairs at the sample where their capsules come nearest."""
        for m in np.unique(self._when[near]).tolist():
            pairs = near[self._when[near] == m]
            self._refine(Distances(self._path[m], distances[m], known[m]), pairs, keep=True)
            self._least[pairs] = distances[m, pairs]

    def _seat(self, near: Indices) -> tuple[Indices, Indices]:
        """(pairs, their slots): the nearest ones; a pair keeps its slot as long as it is among them.

        Who sits has an advantage of ``hysteresis_m``, so that two pairs do not take turns.
        """
        seats, config = self._slot_of, self._config
        chosen: list[int] = near.tolist()
        if len(chosen) > config.slots:
            left = self._least[near]
            left[[pair in seats for pair in chosen]] -= config.hysteresis_m
            near = np.sort(near[np.argsort(left, kind="stable")[: config.slots]])
            chosen = near.tolist()
        if chosen != list(seats):
            kept = {pair: seats[pair] for pair in chosen if pair in seats}
            free = iter(sorted(set(range(config.slots)) - set(kept.values())))
            self._slot_of = seats = {pair: kept[pair] if pair in kept else next(free) for pair in chosen}
        return near, np.array(list(seats.values()), dtype=np.intp)

    # -- the proof ------------------------------------------------------------------------------------

    def stop_refusal(self, now: Distances, end: Distances, plan: StopPlan) -> str:
        """Why the way from a measured configuration into ``plan`` and to its end may not stay clear, or "".

        ``now`` are the distances there, ``end`` those at any other configuration; the nearer to the end of the
        plan, the better the motion bound with which it begins (``capsules.suspects``). What that does not settle is
        walked in steps that prove themselves (``capsules.march``): every sample keeps the floor, every point
        between two samples the hard floor. A pair that is already below a floor must not come any closer.
        """
        pairs = self._suspects(now, end, plan)
        if len(pairs) and not self._all_exact:
            self._raise(now, pairs)
            self._refine(now, pairs[now.d[pairs] < self._floor[pairs]])
            pairs = self._suspects(now, end, plan)
        return self._path_refusal(now, plan, pairs) if len(pairs) else ""

    def _suspects(self, now: Distances, end: Distances, plan: StopPlan) -> Indices:
        stop, floor = stop_position(plan.q0, plan.v0, plan.a_brake), self._floor
        count = kernels.suspects(
            now.d, end.d, now.q, end.q, plan.q0, stop, self._reach, self._furthest, floor, self._found
        )
        return self._found[:count].copy()

    def _path_refusal(self, now: Distances, plan: StopPlan, pairs: Indices) -> str:
        vague: list[int] = []
        while len(pairs):
            k = self._march(now, plan, pairs)
            if k == kernels.PROVED:
                break
            if self._shapes.exact[pairs[k]]:
                return self._reason(int(pairs[k]), float(self._number[0]))
            vague.append(int(pairs[k]))  # its capsules don't prove it; its pieces may
            pairs = np.delete(pairs, k)
        return self._bisected_refusal(now, plan, np.array(vague, dtype=np.intp)) if vague else ""

    def _march(self, now: Distances, plan: StopPlan, pairs: Indices) -> int:
        shapes = self._shapes
        return kernels.march(
            now.d, now.q, plan.q0, plan.v0, plan.a_brake, pairs, self._floor, self._hard, self._reach,
            *shapes.tree, shapes.bodies, shapes.pieces, shapes.pairs, *shapes.corners, shapes.hulls,
            self._config.path_samples, self._number,
        )  # fmt: skip

    def _bisected_refusal(self, now: Distances, plan: StopPlan, pairs: Indices) -> str:
        """As ``capsules.march``, with the distances of the pieces themselves: all intervals are halved at once."""
        first, hard = now.d[pairs], self._hard[pairs]
        floor = np.minimum(self._floor[pairs], first - kernels.RECOVERY)
        hard = np.where(first > hard + kernels.RECOVERY, hard, -np.inf)
        t = float(plan.durations.max()) * np.array([0.0, 0.5, 1.0])
        path = np.vstack((now.q, plan.positions(t[:, None])))
        t = np.concatenate(([-1.0], t))  # the measured configuration is at no time of the plan
        found = np.vstack((now.d[pairs], [self._exact(q, pairs) for q in path[1:]]))
        while True:
            if (found < floor).any():
                k, worst = np.unravel_index(int(np.argmin(found - floor)), found.shape)
                return self._reason(int(pairs[worst]), float(found[k, worst]))
            way = np.abs(path[1:] - path[:-1]) @ self._reach[pairs].T
            open_ = np.flatnonzero((found[1:] + found[:-1] - way < 2.0 * hard).any(axis=1))
            if len(open_) == 0:
                return ""
            if open_[0] == 0 or len(path) + len(open_) > self._config.path_samples:
                return self._reason(int(pairs[0]), float("nan"))
            between = 0.5 * (t[open_] + t[open_ + 1])
            added = plan.positions(between[:, None])
            t, path = np.insert(t, open_ + 1, between), np.insert(path, open_ + 1, added, axis=0)
            found = np.insert(found, open_ + 1, [self._exact(q, pairs) for q in added], axis=0)

    def _reason(self, pair: int, found: float) -> str:
        name = self.names[pair]
        return (
            f"stop of {name} not shown to stay clear"
            if np.isnan(found)
            else f"stop of {name} comes within {found * 1e3:.2f} mm"
        )

    def _exact(self, q: Vector, pairs: Indices, keep: bool = False) -> Vector:
        """Distances of some pairs at ``q`` by coal, shape (k,), m; with ``keep`` their normals and points too."""
        model, geometry, placed = self._robot.pin_model, self._robot.collision.geometry, self._placed
        pin.updateGeometryPlacements(model, self._data, geometry, placed, q)
        found: list[float] = []
        chosen: list[int] = pairs.tolist()
        for pair in chosen:
            # coal begins where the last query ended and its answer depends on it, unless told where to begin.
            request, result = self._requests[pair], self._results[pair]
            request.cached_gjk_guess, request.cached_support_func_guess = _GUESS, _HINT
            pin.computeDistance(geometry, placed, pair)
            found.append(result.min_distance)
            if keep:
                wrench = self._wrenches[pair]
                x, y, z = result.normal.tolist()
                if x * x + y * y + z * z > _UNIT:  # touching: the last good normal, never a row of zeros
                    wrench[:3] = x, y, z
                wrench[3:] = result.getNearestPoint1()
        return np.array(found)


def _widest(robot: RobotModel) -> Vector:
    """Largest distance of every pair over seeded configurations, shape (pairs,), m.

    Floors and buffers of pairs that never get far apart shrink with it; else such pairs would ask for room that
    there is none of.
    """
    model, geometry, rng = robot.pin_model, robot.collision.geometry, np.random.default_rng(_SEED)
    data, placed, widest = model.createData(), geometry.createData(), np.zeros(len(robot.collision.pairs))
    results = list(placed.distanceResults)
    for q in (robot.home, *rng.uniform(robot.limits.q_min, robot.limits.q_max, (_SAMPLES, robot.n))):
        pin.computeDistances(model, data, geometry, placed, q)
        np.maximum(widest, [result.min_distance for result in results], out=widest)
    return widest
