"""Self-collision: distances, the rows that steer along and away, and the proof that a stop stays clear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pinocchio as pin

from safeguard.controllers.brake import StopPlan
from safeguard.core.config import ClearanceConfig
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

_CANDIDATES = 2  # times the slots: pairs whose gradient is looked at before the rows are chosen
_UNIT = 0.5  # a normal shorter than this is undefined
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

    pairs: Vector
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
        # Elements of the vector in place: reading one costs 70 ns, going through the vector 300 ns.
        self._results = list(self._placed.distanceResults)
        self._normals = np.zeros((len(self._results), 3))
        self._a_max = robot.limits.a_max
        none = np.zeros((0, robot.n))
        self._no_rows = ClearanceRows(np.zeros(0, dtype=np.intp), none, np.zeros(0), np.zeros(0))
        self.names = robot.collision.names

    def measure(self, q: Vector) -> Vector:
        """Signed distances at ``q`` of all kept pairs, shape (pairs,), m; negative in penetration."""
        pin.computeDistances(self._model, self._data, self._geometry, self._placed, q)
        return np.array([result.min_distance for result in self._results])

    def rows(
        self, distances: Vector, J: Vector, v: Vector, a_brake: Vector, brake: Vector, dt: float
    ) -> ClearanceRows:
        """Rows at the last measured configuration.

        To first order a stop from velocity v leaves of a distance d with gradient G

            s(d, v) = d + Σ_j G_j v_j |v_j| / (2 a_b,j).

        After a period with acceleration a this is s + C a + (terms that braking cancels), with
        C_j = G_j (dt²/2 + |v_j| dt / a_b,j), and it must not fall faster than the excess over d_row decays:
        s' ≥ s − (dt/τ) (s − d_row). Full braking keeps s, so it satisfies the row whenever s ≥ d_row; otherwise the
        bound is relaxed to what full braking gives.

        With the spatial Jacobian J (6, n) in the world and the normal n from the first to the second piece at the
        witness point p, G = [n; p × n]ᵀ J, taken over the joints that move only one of the two.
        """
        config = self._config
        near = self._binding(distances, v, a_brake, dt)
        if len(near) == 0:
            return self._no_rows
        G = (self._wrenches(near) @ J) * self._collision.between[near]
        speed = np.abs(v) / a_brake
        left = distances[near] + 0.5 * (G @ (v * speed))
        if len(near) > config.slots:
            chosen = np.argsort(left, kind="stable")[: config.slots]
            near, G, left = near[chosen], G[chosen], left[chosen]
        C = G * (0.5 * dt * dt + speed * dt)
        excess = left - (config.floor_m + config.buffer_m)
        bound = left - (dt / config.decay_s) * np.maximum(excess, 0.0)
        bound = np.where(excess < 0.0, config.floor_m + config.buffer_m, bound) - left - dt * (G @ v)
        relaxed = np.minimum(bound, C @ brake)
        return ClearanceRows(near, C, relaxed, bound - relaxed)

    def _binding(self, distances: Vector, v: Vector, a_brake: Vector, dt: float) -> Vector:
        """The pairs that a stop after this period could bring into the zone of a row; the nearest if many."""
        config = self._config
        v_most = np.abs(v) + self._a_max * dt
        left = distances - self._collision.reach @ (v_most * (v_most / (2.0 * a_brake) + dt))
        near = np.flatnonzero(left < config.floor_m + config.buffer_m + config.zone_m)
        if len(near) > _CANDIDATES * config.slots:
            near = near[np.argsort(distances[near], kind="stable")[: _CANDIDATES * config.slots]]
        return near

    def _wrenches(self, pairs: Vector) -> Vector:
        """[n; p × n] of every pair, shape (k, 6)."""
        wrench = np.empty((len(pairs), 6))
        for k, pair in enumerate(pairs):
            n = self._normal(pair)
            p = self._results[pair].getNearestPoint1()
            wrench[k, :3] = n
            wrench[k, 3] = p[1] * n[2] - p[2] * n[1]
            wrench[k, 4] = p[2] * n[0] - p[0] * n[2]
            wrench[k, 5] = p[0] * n[1] - p[1] * n[0]
        return wrench

    def stop_refusal(self, distances: Vector, q: Vector, plan: StopPlan) -> str:
        """Why the way from ``q`` into ``plan`` and to its end may not stay clear; "" if it does.

        ``distances`` are those at ``q``. First a motion bound: no distance shrinks by more than Σ_j reach_j |Δq_j|.
        Where that fails the path is sampled: every sample must keep the floor, and between two samples a distance
        stays above (d₁ + d₂ − Σ_j reach_j |Δq_j|) / 2, which must keep the hard floor. A pair that is already below a
        floor must not come any closer.
        """
        reach, floor = self._collision.reach, self._config.floor_m
        travelled = np.abs(plan.q0 - q) + plan.distances
        suspects = np.flatnonzero(distances - reach @ travelled < floor)
        if len(suspects) == 0:
            return ""
        count = self._config.path_samples
        for _ in range(self._config.refinements + 1):
            refusal, finer_may_help = self._sampled_refusal(distances, q, plan, suspects, count)
            if not finer_may_help:
                return refusal
            count *= 2
        return refusal

    def _sampled_refusal(
        self, distances: Vector, q: Vector, plan: StopPlan, suspects: Vector, count: int
    ) -> tuple[str, bool]:
        path = np.vstack([q, plan.samples(count)[0]])
        measured = np.empty((len(path), len(suspects)))
        measured[0] = distances[suspects]
        for k in range(1, len(path)):
            measured[k] = self.measure(path[k])[suspects]
        floor = np.minimum(self._config.floor_m, measured[0] - _RECOVERY_TOLERANCE)
        lowest = measured.min(axis=0)
        worst = int(np.argmin(lowest - floor))
        if lowest[worst] < floor[worst]:
            return f"stop of {self.names[suspects[worst]]} ends in {lowest[worst] * 1e3:.2f} mm clearance", False
        steps = np.abs(np.diff(path, axis=0)) @ self._collision.reach[suspects].T
        between = (measured[:-1] + measured[1:] - steps) / 2.0
        hard = self._config.hard_floor_m
        unproven = (between.min(axis=0) < hard) & (measured[0] >= hard + _RECOVERY_TOLERANCE)
        if unproven.any():
            pair = int(np.flatnonzero(unproven)[0])
            return f"stop of {self.names[suspects[pair]]} not shown to stay clear", True
        return "", False

    def _normal(self, pair: int) -> Vector:
        """The library's normal, first to second piece; the last good one where the distance vanishes."""
        normal = self._results[pair].normal
        if normal @ normal > _UNIT:
            self._normals[pair] = normal
        return self._normals[pair]
