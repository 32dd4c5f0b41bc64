"""Limits that depend on the state, as data and its evaluation: speed by position, torque by speed.

Near the end of its range a joint of the Franka Research 3 may only be so fast that it can still brake:

    v(q) = min(v₀, max(0, −b + √max(0, k (q_edge − q))))        toward the upper edge; mirrored toward the lower one

(libfranka, ``rate_limiting.h``). A motor has less torque the faster it turns in the torque's direction, and at least
its standstill torque against it: the limit is a polygon over speed for driving, constant for braking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from safeguard.core.errors import LimitError
from safeguard.core.types import Vector, frozen_array


class VelocityCurveFile(BaseModel):
    """Coefficients of v(q) in joint order, as in a robot file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    speed_radps: tuple[float, ...] = Field(description="v₀, far from the edges")
    offset_radps: tuple[float, ...] = Field(description="b, what is kept for reaction time")
    slope_radps2: tuple[float, ...] = Field(description="k, twice the deceleration at the edge")
    lower_edge_rad: tuple[float, ...]
    upper_edge_rad: tuple[float, ...]
    source: str = Field(min_length=1)


class TorqueCurveFile(BaseModel):
    """Polygons of (speed, torque), one a joint in joint order, as in a robot file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    points_radps_nm: tuple[tuple[tuple[float, float], ...], ...] = Field(
        description="(speed, torque) from (0, standstill torque) on; speed increasing, torque not"
    )
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _falling(self) -> Self:
        for joint, points in enumerate(self.points_radps_nm):
            speeds, torques = [p[0] for p in points], [p[1] for p in points]
            rising = len(points) >= 2 and speeds[0] == 0.0 and all(np.diff(speeds) > 0.0)
            if not (rising and all(np.diff(torques) <= 0.0) and torques[-1] >= 0.0 and torques[0] > 0.0):
                raise ValueError(
                    f"curve {joint}: needs two or more points with speeds from 0 up and torques not growing nor "
                    f"negative, got {points}"
                )
        return self


@dataclass(frozen=True, slots=True)
class VelocityCurves:
    """Speed limits by position; all arrays have shape (n,) and are read-only.

    Attributes:
        speed: v₀, rad/s.
        offset: b, rad/s.
        slope: k, rad/s².
        lower_edge, upper_edge: positions beyond which no outward speed is allowed, rad.
        source: where the coefficients come from.
    """

    speed: Vector
    offset: Vector
    slope: Vector
    lower_edge: Vector
    upper_edge: Vector
    source: str

    def upper(self, q: Vector) -> Vector:
        """Largest speed at ``q``, shape (…, n), rad/s; not negative."""
        return self._limit(self.upper_edge - q)

    def lower(self, q: Vector) -> Vector:
        """Smallest (most negative) speed at ``q``, shape (…, n), rad/s; not positive."""
        return -self._limit(q - self.lower_edge)

    def arrays(self) -> tuple[Vector, ...]:
        """Everything numeric, for a digest."""
        return (self.speed, self.offset, self.slope, self.lower_edge, self.upper_edge)

    def _limit(self, room: Vector) -> Vector:
        fall: Vector = np.sqrt(np.maximum(0.0, self.slope * room)) - self.offset
        return np.minimum(self.speed, np.maximum(0.0, fall))


@dataclass(frozen=True, slots=True)
class TorqueCurves:
    """Torque limits by speed.

    Attributes:
        speeds: corner speeds, shape (n, k), rad/s, increasing from 0; short polygons repeat their last torque.
        torques: torque limits there in the direction of motion, shape (n, k), N·m.
        source: where they come from.
    """

    speeds: Vector
    torques: Vector
    source: str

    def limits(self, v: Vector, tau_max: Vector) -> tuple[Vector, Vector]:
        """(smallest, largest) torque at velocities ``v``, each of shape (n,), N·m.

        Torque against the motion, and at standstill, is limited by ``tau_max``, shape (n,), alone.
        """
        driving = np.minimum(tau_max, self.driving(np.abs(v)))
        return np.where(v < 0.0, -driving, -tau_max), np.where(v > 0.0, driving, tau_max)

    def driving(self, speed: Vector) -> Vector:
        """Largest torque in the direction of motion at ``speed`` ≥ 0, shape (n,), N·m; constant after the end."""
        rows = np.arange(len(self.speeds))
        after = np.clip((self.speeds <= speed[:, None]).sum(axis=1), 1, self.speeds.shape[1] - 1)
        x0, x1 = self.speeds[rows, after - 1], self.speeds[rows, after]
        y0, y1 = self.torques[rows, after - 1], self.torques[rows, after]
        share: Vector = np.clip((speed - x0) / (x1 - x0), 0.0, 1.0)
        found: Vector = y0 + share * (y1 - y0)
        return found

    def arrays(self) -> tuple[Vector, ...]:
        """Everything numeric, for a digest."""
        return (self.speeds, self.torques)


def velocity_curves(file: VelocityCurveFile | None, joints: Sequence[str]) -> VelocityCurves | None:
    """The curves of a robot file; ``LimitError`` if they do not fit the joints or make no sense."""
    if file is None:
        return None
    keys = ("speed_radps", "offset_radps", "slope_radps2", "lower_edge_rad", "upper_edge_rad")
    columns = [_fitting(getattr(file, key), joints, f"velocity_curve.{key}") for key in keys]
    speed, offset, slope, low, high = columns
    for j, joint in enumerate(joints):
        if not (speed[j] > 0.0 and offset[j] >= 0.0 and slope[j] > 0.0 and low[j] < high[j]):
            raise LimitError(
                f"velocity_curve of joint {joint!r}: speed {speed[j]} and slope {slope[j]} must be positive, offset "
                f"{offset[j]} not negative, and the edges [{low[j]}, {high[j]}] increasing"
            )
    return VelocityCurves(speed, offset, slope, low, high, file.source)


def torque_curves(file: TorqueCurveFile | None, joints: Sequence[str]) -> TorqueCurves | None:
    """The curves of a robot file; ``LimitError`` if there is not one for every joint."""
    if file is None:
        return None
    given = file.points_radps_nm
    if len(given) != len(joints):
        raise LimitError(f"torque_curve: {len(given)} curves for {len(joints)} joints ({', '.join(joints)})")
    longest = max(len(points) for points in given)
    padded = [[*points, *_flat(points, longest - len(points))] for points in given]
    both = np.array(padded, dtype=np.float64)
    return TorqueCurves(frozen_array(both[:, :, 0]), frozen_array(both[:, :, 1]), file.source)


def _flat(points: Sequence[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """``count`` further points after the last one, at its torque."""
    speed, torque = points[-1]
    return [(speed + 1.0 + k, torque) for k in range(count)]


def _fitting(values: tuple[float, ...], joints: Sequence[str], what: str) -> Vector:
    if len(values) != len(joints):
        raise LimitError(f"{what}: {len(values)} values for {len(joints)} joints ({', '.join(joints)})")
    return frozen_array(values)
