"""Self-collision: distances, the rows that steer along and away, and the proof that a stop stays clear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pinocchio as pin

from safeguard.controllers.brake import StopPlan
from safeguard.core.config import ClearanceConfig
from safeguard.core.robot import RobotModel
from safeguard.core.types import Indices, Vector

_SPARE = 4  # pairs beyond the slots whose gradient is looked at before the rows are chosen
_UNIT = 0.25  # a normal of a smaller square is undefined
_EVEN_SAMPLES = 1.0 - np.sqrt(1.0 - np.linspace(0.0, 1.0, 16)[:, None])
_FIRST_SAMPLES = 1.0 - np.sqrt(1.0 - np.linspace(0.0, 1.0, 5))  # equal steps of a braking joint
_RECOVERY_TOLERANCE = 1e-5  # m; rounding of a distance that must not shrink


@dataclass(frozen=True, slots=True)
class ClearanceRows:
    """Rows ``C a ≥ bound`` for the nearest pairs: what a motion leaves of each distance after its stop.

    Attributes:
        pairs: indices of the pairs, at most ``slots`` of them: those whose stop would leave least.
        C: change of the clearance left after the stop, per acceleration, shape (k, n), m/(rad/s²).
        bound: relaxed bound, shape (k,), m.
        slack: by how much the bound was relaxed to the braking point, shape (k,), m.
    """

    pairs: Indices
    C: Vector
    bound: Vector
    slack: Vector


class Clearance:
    """Signed distances of the kept pairs of a robot.

    Attributes:
        names: of the pairs.
    """

    def __init__(self, robot: RobotModel, config: ClearanceConfig) -> None:
        self._config = config
        self._model = robot.pin_model
        self._data = robot.pin_model.createData()
        self._collision = robot.collision
        self._geometry = robot.collision.geometry
        self._placed = self._geometry.createData()
        self._pool = pin.GeometryPool(self._model, self._geometry, 1)
        self._requests = list(self._pool.getGeometryData(0).collisionRequests)
        # Elements of the vector in place: reading one costs 70 ns, going through the vector 300 ns.
        self._results = list(self._placed.distanceResults)
        self._normals: list[tuple[float, float, float]] = [(0.0, 0.0, 1.0)] * len(self._results)
        self._a_max = robot.limits.a_max
        none = np.zeros((0, robot.n))
        self._no_rows = ClearanceRows(np.zeros(0, dtype=np.intp), none, np.zeros(0), np.zeros(0))
        self.names = robot.collision.names

    def measure(self, q: Vector) -> Vector:
        """Signed distances at ``q`` of all kept pairs, shape (pairs,), m; negative in penetration."""
        pin.computeDistances(self._model, self._data, self._geometry, self._placed, q)
        return np.array([result.min_distance for result in self._results])

    def rows(self, distances: Vector, J: Vector, v: Vector, a_plan: Vector, brake: Vector, dt: float) -> ClearanceRows:
        """Rows at the last measured configuration.

        To first order a stop from velocity v with the planned deceleration a_p leaves of a distance d with gradient G

            s(d, v) = d + Σ_j G_j v_j |v_j| / (2 a_p,j).

        After a period with acceleration a this is s + C a + (terms that braking cancels), with
        C_j = G_j (dt²/2 + |v_j| dt / a_p,j), and it must not fall faster than the excess over d_row decays:
        s' ≥ s − (dt/τ) (s − d_row). Full braking keeps s, so it satisfies the row whenever s ≥ d_row; otherwise the
        bound is relaxed to what full braking gives.

        With the spatial Jacobian J (6, n) in the world and the normal n from the first to the second piece at the
        witness point p, G = [n; p × n]ᵀ J, taken over the joints that move only one of the two.
        """
        config = self._config
        near = self._binding(distances, v, a_plan, dt)
        if len(near) == 0:
            return self._no_rows
        G = (self._wrenches(near) @ J) * self._collision.between[near]
        speed = np.abs(v) / a_plan
        left = distances[near] + 0.5 * (G @ (v * speed))
        if len(near) > config.slots:
            chosen = np.sort(np.argsort(left, kind="stable")[: config.slots])  # pairs keep their order of rows
            near, G, left = near[chosen], G[chosen], left[chosen]
        C = G * (0.5 * dt * dt + speed * dt)
        excess = left - (config.floor_m + config.buffer_m)
        # What may be lost of the clearance left, beyond the terms that braking cancels.
        bound = np.maximum(excess, 0.0) * (1.0 - dt / config.decay_s) - excess - dt * (G @ v)
        relaxed = np.minimum(bound, C @ brake)
        return ClearanceRows(near, C, relaxed, bound - relaxed)

    def _binding(self, distances: Vector, v: Vector, a_plan: Vector, dt: float) -> Indices:
        """The pairs that a stop after this period could bring into the zone of a row; the nearest if many."""
        config = self._config
        v_most = np.abs(v) + self._a_max * dt
        left = distances - self._collision.reach @ (v_most * (v_most / (2.0 * a_plan) + dt))
        near = np.flatnonzero(left < config.floor_m + config.buffer_m + config.zone_m)
        if len(near) > config.slots + _SPARE:
            near = np.sort(near[np.argsort(distances[near], kind="stable")[: config.slots + _SPARE]])
        return near

    def _wrenches(self, pairs: Indices) -> Vector:
        """[n; p × n] of every pair, shape (k, 6); scalars are cheaper than arrays for so few."""
        rows: list[tuple[float, ...]] = []
        chosen: list[int] = pairs.tolist()
        for pair in chosen:
            result = self._results[pair]
            normal: list[float] = result.normal.tolist()
            x, y, z = normal
            if x * x + y * y + z * z > _UNIT:
                self._normals[pair] = (x, y, z)
            else:  # touching: the last good normal, never a row of zeros
                x, y, z = self._normals[pair]
            point: list[float] = result.getNearestPoint1().tolist()
            px, py, pz = point
            rows.append((x, y, z, py * z - pz * y, pz * x - px * z, px * y - py * x))
        return np.array(rows)

    def stop_refusal(self, distances: Vector, q: Vector, plan: StopPlan) -> str:
        """Why the way from ``q`` into ``plan`` and to its end may not stay clear; "" if it does.

        ``distances`` are those at ``q``. First a motion bound: no distance shrinks by more than Σ_j reach_j |Δq_j|.
        Where that fails the path is sampled by bisection. Every sample must keep the floor, and between two samples
        a distance stays above (d₁ + d₂ − Σ_j reach_j |Δq_j|) / 2, which must keep the hard floor; intervals are
        halved until it does. A pair that is already below a floor must not come any closer.
        """
        travelled = np.abs(plan.q0 - q) + plan.distances
        left = distances - self._collision.reach @ travelled
        suspects = np.flatnonzero(left < self._config.floor_m)
        if len(suspects) == 0 or self._proved_at_once(distances, q, plan, suspects):
            return ""
        return self._bisected_refusal(distances[suspects], q, plan, suspects)

    def _proved_at_once(self, distances: Vector, q: Vector, plan: StopPlan, suspects: Indices) -> bool:
        """Whether evenly spread samples, each pair further apart than half a step can take away, prove the stop.

        One call into the library for all samples; pairs that are not suspects may not touch, which is known.
        """
        config = self._config
        path = plan.positions(float(plan.durations.max()) * _EVEN_SAMPLES)
        reach = self._collision.reach[suspects].T
        half = 0.5 * (np.abs(path[1:] - path[:-1]) @ reach).max(axis=0)
        first = 0.5 * (np.abs(path[0] - q) @ reach)
        if (distances[suspects] < config.hard_floor_m + first).any():
            return False
        margins = np.zeros(len(distances))
        margins[suspects] = np.maximum(config.floor_m, config.hard_floor_m + np.maximum(half, first))
        for request, margin in zip(self._requests, margins.tolist(), strict=True):
            request.security_margin = margin
        return not pin.computeCollisionsInParallel(1, self._pool, path.T, True, True).any()

    def _bisected_refusal(self, now: Vector, q: Vector, plan: StopPlan, pairs: Indices) -> str:
        config = self._config
        floor = np.minimum(config.floor_m, now - _RECOVERY_TOLERANCE)
        hard = np.where(now > config.hard_floor_m + _RECOVERY_TOLERANCE, config.hard_floor_m, -np.inf)
        t = float(plan.durations.max()) * _FIRST_SAMPLES
        path = plan.positions(t[:, None])
        found = self._distances_along(path, pairs)
        # The measured configuration comes first; it lies one period before the stop, at no time of the plan.
        ta, tb = np.concatenate((t[:1], t[:-1])), t
        qa, qb = np.concatenate((q[None], path[:-1])), path
        da, db = np.concatenate((now[None], found[:-1])), found
        samples = len(t)
        while True:
            if (found < floor).any():
                return self._too_close(found, floor, pairs)
            unproven = da + db - np.abs(qb - qa) @ self._collision.reach[pairs].T < 2.0 * hard
            open_ = np.flatnonzero(unproven.any(axis=1))
            if len(open_) == 0:
                return ""
            columns = np.flatnonzero(unproven.any(axis=0))  # what is proved needs no further sample
            pairs, floor, hard = pairs[columns], floor[columns], hard[columns]
            samples += len(open_)
            if samples > config.path_samples:
                return f"stop of {self.names[pairs[0]]} not shown to stay clear"
            tm = 0.5 * (ta[open_] + tb[open_])
            qm = plan.positions(tm[:, None])
            found = self._distances_along(qm, pairs)
            kept = np.ix_(open_, columns)
            ta, tb = np.concatenate((ta[open_], tm)), np.concatenate((tm, tb[open_]))
            qa, qb = np.concatenate((qa[open_], qm)), np.concatenate((qm, qb[open_]))
            da, db = np.concatenate((da[kept], found)), np.concatenate((found, db[kept]))

    def _too_close(self, found: Vector, floor: Vector, pairs: Indices) -> str:
        k, worst = np.unravel_index(int(np.argmin(found - floor)), found.shape)
        return f"stop of {self.names[pairs[worst]]} comes within {found[k, worst] * 1e3:.2f} mm"

    def _distances_along(self, path: Vector, pairs: Indices) -> Vector:
        """Distances of some pairs at every configuration of ``path``, shape (k, len(pairs))."""
        results = [self._results[pair] for pair in pairs.tolist()]
        rows: list[list[float]] = []
        for q in path:
            pin.computeDistances(self._model, self._data, self._geometry, self._placed, q)
            rows.append([result.min_distance for result in results])
        return np.array(rows)
