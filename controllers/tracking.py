"""Joint-space tracking of a chunk of joint positions.

The reference is linear between the rows of the chunk; the nominal acceleration is a PD law on it,

    a = ω² (q_ref − q) + 2 ω (v_ref − v),

the response of a critically damped oscillator of natural frequency ω (rad/s).
"""

from __future__ import annotations

import numpy as np

from safeguard.controllers.direct import columns
from safeguard.core.enums import NominalKind, Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import NS_PER_S, ActionSpec, Nominal, Proposal, RobotState, Vector


class ChunkTracking:
    """Follows chunks of absolute joint positions (rad).

    Args:
        spec: of the policy; absolute joint positions in rad.
        joints: names of the robot's joints, in order. Columns are bound by name.
        omega: natural frequency, rad/s.

    Raises:
        SpecError: the spec means something else, or its joints are not exactly the robot's.
    """

    def __init__(self, spec: ActionSpec, joints: tuple[str, ...], omega: float = 15.0) -> None:
        if spec.reference is not Reference.ABSOLUTE or spec.unit != "rad":
            raise SpecError(
                f"ChunkTracking follows absolute joint positions in rad, got {spec.reference} in {spec.unit!r}"
            )
        self._columns = columns(spec, joints)
        self._row_ns = NS_PER_S / spec.rate_hz
        self._kp, self._kd = omega * omega, 2.0 * omega

    def nominal(self, proposal: Proposal, state: RobotState, now: int) -> Nominal:
        """The acceleration that tracks ``proposal`` at ``now`` from ``state``, rad/s²."""
        q_ref, v_ref = self.reference(proposal, now)
        a = self._kp * (q_ref - state.q) + self._kd * (v_ref - state.v)
        return Nominal(NominalKind.ACCELERATION, a)

    def reference(self, proposal: Proposal, now: int) -> tuple[Vector, Vector]:
        """Reference position (rad) and velocity (rad/s) at ``now``, each of shape (n,).

        Before the first row the reference heads for it with the slope between the first two rows; after
        the last row it rests there, and a chunk of one row is that row.
        """
        rows = proposal.actions
        x = (now - proposal.t_obs) / self._row_ns - 1.0
        last = len(rows) - 1
        if x >= last or last == 0:
            return rows[last][self._columns], np.zeros(len(self._columns))
        k = max(int(x), 0)
        step = rows[k + 1] - rows[k]
        q_ref = rows[k] + (x - k) * step
        return q_ref[self._columns], step[self._columns] * (NS_PER_S / self._row_ns)

    def reset(self) -> None:
        """Nothing to forget."""
