"""Joint velocities, torques and PD targets as a policy proposes them, row by row."""

from __future__ import annotations

import numpy as np

from safeguard.core.enums import NominalKind, Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import NS_PER_S, ActionSpec, Nominal, Proposal, RobotState, frozen_array

_KINDS = {
    (Reference.VELOCITY, "rad/s"): NominalKind.VELOCITY,
    (Reference.TORQUE, "N.m"): NominalKind.TORQUE,
    (Reference.PD_TARGET, "rad"): NominalKind.POSITION,
}
_REST_GAIN = 20.0  # 1/s; damping after the last row


class DirectControl:
    """Hands out the row of the chunk that is meant for now; after the last one the joints come to rest.

    A single action goes on for the time of one more: meanwhile the next one is computed. The torque of a PD target is
    kp (q* − q) − kd v; its last row stands.

    Args:
        spec: of the policy; joint velocities in rad/s, torques in N.m, or PD targets in rad with their gains.
        joints: names of the robot's joints, in order. Columns are bound by name.

    Raises:
        SpecError: the spec means something else, or its joints are not exactly the robot's.
    """

    def __init__(self, spec: ActionSpec, joints: tuple[str, ...]) -> None:
        kind = _KINDS.get((spec.reference, spec.unit)) if isinstance(spec.unit, str) else None
        if kind is None:
            raise SpecError(
                f"no controller for {spec.reference.value} actions in {spec.unit!r}; there are some for absolute "
                "positions and PD targets in rad, velocities in rad/s and torques in N.m"
            )
        self._kind, self._columns = kind, columns(spec, joints)
        self._kp, self._kd = (
            None if getattr(spec, name) is None else frozen_array(np.array(spec.column(name))[self._columns])
            for name in ("kp", "kd")
        )
        self._row_ns = NS_PER_S / spec.rate_hz
        self._spare = 1 if spec.chunk == 1 else 0

    def nominal(self, proposal: Proposal, state: RobotState, now: int) -> Nominal:
        """The row for ``now``: row k is meant for [t_obs + k rows, t_obs + (k + 1) rows)."""
        k = int((now - proposal.t_obs) / self._row_ns)
        last = len(proposal.actions) - 1
        if k > last + self._spare and self._kind is not NominalKind.POSITION:
            return Nominal(NominalKind.ACCELERATION, -_REST_GAIN * state.v)
        row = proposal.actions[min(max(k, 0), last)][self._columns]
        return Nominal(self._kind, row, self._kp, self._kd)

    def reset(self) -> None:
        """Nothing to forget."""


def columns(spec: ActionSpec, joints: tuple[str, ...]) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Column of ``spec`` for every joint, by name; raises ``SpecError`` unless the names are the same."""
    if set(spec.joints) != set(joints):
        odd = sorted(set(spec.joints) ^ set(joints))
        raise SpecError(f"policy and robot joints differ: {', '.join(odd)}; name every joint, nothing is padded")
    return np.array([spec.joints.index(joint) for joint in joints], dtype=np.intp)
