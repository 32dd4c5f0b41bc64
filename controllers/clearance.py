"""Clearance: distances, the rows that steer along and away, and the proof that a stop stays clear."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
import pinocchio as pin

from safeguard.controllers import capsules as kernels
from safeguard.controllers.brake import StopPlan
from safeguard.controllers.shapes import CAPSULES, Capsules
from safeguard.controllers.steering import steer
from safeguard.controllers.stop_proof import GAIN, LEAST_GAIN, PROVED, ROUNDING, prove
from safeguard.core.compiled import private
from safeguard.core.config import ClearanceConfig
from safeguard.core.robot import RobotModel
from safeguard.core.types import Flags, Indices, Vector

_SHARES = 1.0 - np.sqrt(1.0 - np.linspace(0.0, 1.0, 5))  # moments of a stop: equal steps of a braking joint
_ANY_NORMAL = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
_GUESS, _HINT = np.array([1.0, 0.0, 0.0]), np.zeros(2, dtype=np.int32)
_SEED, _SAMPLES = 11, 64  # configurations in which pairs are seen at their widest
_UNIT = 0.25  # the square of a normal that is shorter is undefined


@dataclass(slots=True)
class Distances:
    """Signed distances of all kept pairs at one configuration.

    Attributes:
        q: the configuration, shape (n,), rad.
        d: distances, or lower bounds of those that nothing near needs, shape (pairs,), m; negative in penetration.
        exact: which of them are distances, shape (pairs,).
        frames: of all bodies, shape (1, n + 1, 12), rows of ``capsules.py``.
    """

    q: Vector
    d: Vector
    exact: Flags
    frames: Vector


@dataclass(slots=True)
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

    def relaxed(self, point: Vector) -> ClearanceRows:
        """The same rows, each relaxed as far as ``point`` needs, shape (n,), rad/s², and no further."""
        wanted = self.bound + self.slack
        bound = np.minimum(wanted, self.C.dot(point))
        return ClearanceRows(self.pairs, self.slots, self.C, bound, wanted - bound, self.length)


class Clearance:
    """Signed distances of the kept pairs of a robot.

    Args:
        robot: the model.
        config: floors and buffers.
        tube: how far the robot may be from the stop that it follows, shape (n,), rad; the floors grow by what that
            can take from a distance.

    Attributes:
        names: of the pairs.
        floors: what every sample and what every point of a stop must keep, shape (2, pairs), m.
        now, end: distances at the state that ``rows`` saw last, and where the planned stop from there ends; the next
            call replaces what they hold.
    """

    def __init__(self, robot: RobotModel, config: ClearanceConfig, tube: Vector | None = None) -> None:
        self.names = robot.collision.names
        self._config, self._robot = config, robot
        self._shapes = Capsules.of(robot)
        self._capsules = self._shapes.pairs[:, 2] == CAPSULES
        self._all_capsules = bool(self._capsules.all())
        n, pieces, pairs, samples = robot.n, len(self._shapes.pieces), len(self.names), len(_SHARES)
        self._path, self._ends = np.zeros((samples, n)), np.zeros((samples, pieces, 6))
        self._frames = np.zeros((samples, n + 1, 12))
        self._distances, self._known = np.zeros((samples, pairs)), np.zeros((samples, pairs), dtype=bool)
        self.now, self.end = (
            Distances(self._path[m], self._distances[m], self._known[m], self._frames[m : m + 1])
            for m in (0, samples - 1)
        )
        self._least, self._when = np.zeros(pairs), np.zeros(pairs, dtype=np.int64)
        self._wrenches, self._memory = np.tile(_ANY_NORMAL, (pairs, 1)), np.zeros((4 * pairs, 19))
        off = np.zeros(pairs) if tube is None else robot.collision.reach @ tube
        row = config.floor_m + config.buffer_m + off
        scale = np.minimum(0.5 * _widest(robot) / row, 1.0)
        self.floors = np.array(((config.floor_m + off) * scale, (config.hard_floor_m + off) * scale))
        self._row = row * scale
        self._zone = self._row + config.zone_m
        self._every, self._some, self._found = np.arange(pairs), np.zeros(pairs, dtype=np.int64), np.zeros(2)
        self._seats, self._keep = np.full(pairs, -1), np.full(pairs, -inf)
        self._reach, self._between = robot.collision.reach, private(robot.collision.between)
        self._furthest = self._reach.max(axis=0, initial=0.0)
        self._data = robot.pin_model.createData()
        self._placed = robot.collision.geometry.createData()
        self._results = list(self._placed.distanceResults)
        self._requests = list(self._placed.distanceRequests)
        self._no_rows = _empty_rows(0, n)

    def reset(self) -> None:
        """Forget which pair had which row, the last good normals, how far links were, where searches ended."""
        self._seats[:], self._wrenches[:], self._memory[:], self._keep[:] = -1, _ANY_NORMAL, 0.0, -inf

    def measure(self, q: Vector) -> Distances:
        """Distances at ``q``."""
        d, frames = np.empty(len(self.names)), np.empty((1, self._robot.n + 1, 12))
        kernels.measure(*self._shapes, q.reshape(1, -1), frames, d)
        return Distances(q, d, self._capsules.copy(), frames)

    def nearest(self, distances: Distances) -> tuple[str, float]:
        """Name and distance of the nearest pair, m; ("", ∞) without pairs."""
        if len(self.names) == 0:
            return "", inf
        if self._all_capsules:
            pair = kernels.smallest(distances.d)
            return self.names[pair], float(distances.d[pair])
        while True:
            pair = kernels.nearest(*self._shapes, distances.frames, distances.d, distances.exact, self._memory)
            if pair >= 0:
                return self.names[pair], float(distances.d[pair])
            self._refine(distances, np.array([-1 - pair]))

    def _refine(self, distances: Distances, pairs: Indices, keep: bool = False) -> None:
        """Replace lower bounds of some pairs by their distances."""
        vague = pairs[~distances.exact[pairs]]
        if len(vague):
            distances.d[vague] = self._exact(distances.q, vague, keep)
            distances.exact[vague] = True

    # -- rows -----------------------------------------------------------------------------------------

    def rows(
        self,
        q: Vector,
        v: Vector,
        a_plan: Vector,
        brake: Vector,
        lower: Vector,
        upper: Vector,
        dt: float,
        away: bool = False,
    ) -> tuple[ClearanceRows, Vector]:
        """(rows at a state for accelerations between ``lower`` and ``upper``, the retreat).

        The stop from (q, v) with the planned deceleration a_p is measured at a few moments s; for each pair the row
        is taken where it comes nearest: distance d, gradient G there. Taken there, it contains what the motion does
        to the gradient (the J̇v of a row taken at q). An acceleration a for one period moves that point by
        D (a − a_0) to first order, with D_j = dt²/2 + dt min(s, |v_j| / a_p,j), and not at all for the planned
        braking a_0. The distance left on the stop is d + C (a − a_0), C = G D, and must not fall faster than its
        excess over d_row decays, nor grow more slowly than what is missing does:

            C (a − a_0) ≥ −(dt/τ) (d − d_row),

        relaxed to what full braking gives. The relaxation is the slack. The retreat is an acceleration that gives
        more: it brakes, and leads away from what is too near, with at most half the planned deceleration; where there
        is none it is ``brake`` itself. With ``away`` no distance with a row may fall at all: there is no excess.
        """
        count = kernels.sweep(
            *self._shapes, q, v, a_plan, lower, upper, dt, _SHARES, self._zone, self._furthest, self._path,
            self._frames, self._ends, self._distances, self._known, self._least, self._when, self._memory,
            self._wrenches, self._some,
        )  # fmt: skip
        if not self._all_capsules and self._sharpen(self._some[:count]):
            count = kernels.nearby(
                *self._shapes, v, a_plan, lower, upper, self._furthest, dt, self._zone, self._frames, self._ends,
                self._distances, self._known, self._least, self._when, self._memory, self._wrenches, self._some,
            )  # fmt: skip
        self.now.q = q
        if count == 0:
            self._seats[:] = -1
            return self._no_rows, brake
        config, k = self._config, min(count, self._config.slots)
        rows, retreat, decay = _empty_rows(k, len(q)), np.empty(len(q)), dt / config.decay_s
        leads = steer(
            self._shapes.joints, self._some[:count], config.slots, config.hysteresis_m, v, a_plan, brake, lower, upper,
            _SHARES, self._least, self._when, self._frames, self._between, self._wrenches, self._row, decay,
            0.0 if away else decay, dt, self._seats, rows.pairs, rows.slots, rows.C, rows.bound, rows.slack,
            rows.length, retreat,
        )  # fmt: skip
        return rows, retreat if leads else brake

    def _sharpen(self, near: Indices) -> bool:
        """Ask coal about near pairs that need it, at the sample where their capsules come nearest; whether any did."""
        vague = near[~self._known[self._when[near], near]]
        for m in np.unique(self._when[vague]).tolist():
            pairs = vague[self._when[vague] == m]
            at = Distances(self._path[m], self._distances[m], self._known[m], self._frames[m : m + 1])
            self._refine(at, pairs, keep=True)
            self._least[pairs] = self._distances[m, pairs]
        return len(vague) > 0

    # -- the proof ------------------------------------------------------------------------------------

    def stop_refusal(self, now: Distances, end: Distances, plan: StopPlan) -> str:
        """Why the way from a measured configuration into ``plan`` and to its end may not stay clear, or "".

        ``now`` are the distances there, ``end`` those at any other configuration; the nearer to the end of the
        plan, the better the motion bound with which the proof begins (``stop_proof.prove``). Every sample keeps the
        floor, every point between two samples the hard floor. A pair that is already below its floor must keep the
        most that it has had, or come away. Where neither capsules nor corners settle a pair, coal's distances do.
        """
        count = self._prove(now, end, plan, self._every)
        if count > 0:
            self._refine(now, self._some[:count].copy())
            count = self._prove(now, end, plan, self._some[:count].copy())
        if count > 0:
            return self._bisected_refusal(now, plan, self._some[:count].copy())
        return "" if count == PROVED else self._reason(int(self._found[0]), float(self._found[1]))

    def _prove(self, now: Distances, end: Distances, plan: StopPlan, among: Indices) -> int:
        return prove(
            *self._shapes, self._furthest, self.floors, now.q, now.d, now.exact, self._keep, end.q, end.d,
            plan.q0, plan.v0, plan.a_brake, among, self._config.path_samples, self._memory, self._some, self._found,
        )  # fmt: skip

    def _bisected_refusal(self, now: Distances, plan: StopPlan, pairs: Indices) -> str:
        """As ``stop_proof.prove``, with the distances of the pieces themselves: all intervals are halved at once."""
        first, keep, hard = now.d[pairs], self._keep[pairs], self.floors[1, pairs]
        gained = first + np.maximum(GAIN * (self._reach[pairs] @ np.abs(plan.q0 - now.q)), LEAST_GAIN)
        floor = np.where(first >= keep, keep, np.minimum(keep, gained))
        hard = np.where(first > hard + ROUNDING, hard, -np.inf)
        t = float(plan.durations.max()) * np.array([0.0, 0.5, 1.0])
        path = np.vstack((now.q, plan.positions(t[:, None])))
        t = np.concatenate(([-1.0], t))  # the measured configuration is at no time of the plan
        found = np.vstack((now.d[pairs], [self._exact(q, pairs) for q in path[1:]]))
        while True:
            if (found[1:] < floor).any():
                k, worst = np.unravel_index(int(np.argmin(found[1:] - floor)), found[1:].shape)
                return self._reason(int(pairs[worst]), float(found[1 + k, worst]))
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


def _empty_rows(k: int, n: int) -> ClearanceRows:
    whole, empty = np.intp, np.empty
    return ClearanceRows(empty(k, whole), empty(k, whole), empty((k, n)), empty(k), empty(k), empty(k))


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
