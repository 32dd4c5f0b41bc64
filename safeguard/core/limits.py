"""Joint limits, each with its provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from safeguard.core.curves import TorqueCurves, VelocityCurves
from safeguard.core.errors import LimitError
from safeguard.core.types import Vector


class Sourced(BaseModel):
    """Numbers in joint order with the place that they come from."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    values: tuple[float, ...]
    source: str = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of ``n`` joints; all arrays have shape (n,) and are read-only.

    Attributes:
        q_min, q_max: position, rad.
        v_max: speed, rad/s.
        a_max: acceleration of proposed motion, rad/s².
        tau_max: torque, N·m.
        tau_rate_max: torque rate, N·m/s; for comfort only, see ``FilterConfig.torque_rate``.
        provenance: where each of them comes from, by attribute name.
        velocity_curves: speed limits by position, on top of ``v_max``; None if there are none.
        torque_curves: torque limits by speed, on top of ``tau_max``; None if there are none.
    """

    q_min: Vector
    q_max: Vector
    v_max: Vector
    a_max: Vector
    tau_max: Vector
    tau_rate_max: Vector
    provenance: Mapping[str, str]
    velocity_curves: VelocityCurves | None = None
    torque_curves: TorqueCurves | None = None

    def validate(self, joints: Sequence[str], where: str) -> None:
        """Raise ``LimitError`` with the joint and value of the first missing or contradictory limit."""
        for i, joint in enumerate(joints):
            if not np.isfinite([self.q_min[i], self.q_max[i]]).all() or self.q_min[i] >= self.q_max[i]:
                raise LimitError(
                    f"joint {joint!r} of {where}: position limits [{self.q_min[i]}, {self.q_max[i]}] must be "
                    "finite and increasing; add <limit lower=… upper=…> to the URDF, range=… to the MJCF, or "
                    "limits.position_min_rad and position_max_rad"
                )
            for name in ("v_max", "a_max", "tau_max", "tau_rate_max"):
                value = float(getattr(self, name)[i])
                if not (np.isfinite(value) and value > 0.0):
                    raise LimitError(
                        f"joint {joint!r} of {where}: {name} is {value}, must be finite and positive "
                        f"(from {self.provenance.get(name, 'nowhere')})"
                    )
