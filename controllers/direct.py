"""Joint velocities and torques as a policy proposes them, row by row."""

from __future__ import annotations

import numpy as np

from safeguard.core.enums import NominalKind, Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import NS_PER_S, ActionSpec, Nominal, Proposal, RobotState

_KINDS = {
    (Reference.VELOCITY, "rad/s"): NominalKind.VELOCITY,
    (Reference.TORQUE, "N.m"): NominalKind.TORQUE,
}
_REST_GAIN = 20.0  # 1/s; damping after the last row


class DirectControl:
    """Hands out the row of the chunk that is meant for now; after the last one the joints come to rest.

    Args:
        spec: of the policy; joint velocities in rad/s or torques in N.m.
        joints: names of the robot's joints, in order. Columns are bound by name.

    Raises:
        SpecError: the spec means something else, or its joints are not exactly the robot's.
    """

    def __init__(self, spec: ActionSpec, joints: tuple[str, ...]) -> None:
        kind = _KINDS.get((spec.reference, spec.unit))
        if kind is None:
            raise SpecError(
                f"no controller for {spec.reference.value} actions in {spec.unit!r}; there are some for absolute "
                "positions in rad, velocities in rad/s and torques in N.m"
            )
        self._kind, self._columns = kind, columns(spec, joints)
        self._row_ns = NS_PER_S / spec.rate_hz

    def nominal(self, proposal: Proposal, state: RobotState, now: int) -> Nominal:
        """The row for ``now``: row k is meant for (t_obs + k rows, t_obs + (k + 1) rows]."""
        k = int((now - proposal.t_obs) / self._row_ns)
        if k >= len(proposal.actions):
            return Nominal(NominalKind.ACCELERATION, -_REST_GAIN * state.v)
        return Nominal(self._kind, proposal.actions[max(k, 0)][self._columns])

    def reset(self) -> None:
        """Nothing to forget."""


def columns(spec: ActionSpec, joints: tuple[str, ...]) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Column of ``spec`` for every joint, by name; raises ``SpecError`` unless the names are the same."""
    if set(spec.joints) != set(joints):
        odd = sorted(set(spec.joints) ^ set(joints))
        raise SpecError(f"policy and robot joints differ: {', '.join(odd)}; name every joint, nothing is padded")
    return np.array([spec.joints.index(joint) for joint in joints], dtype=np.intp)
