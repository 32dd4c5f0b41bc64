"""Chunks as joint motion without units: speeds in shares of the limit, positions in what the limit covers in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from safeguard.core.enums import Reference
from safeguard.core.errors import ConfigError
from safeguard.core.types import NS_PER_S, ActionSpec, Indices, Proposal, Vector, frozen_array

_UNITS: Final[Mapping[Reference, tuple[str, ...]]] = {
    Reference.ABSOLUTE: ("rad", "m"),
    Reference.PD_TARGET: ("rad", "m"),
    Reference.CHUNK_RELATIVE: ("rad", "m"),
    Reference.DELTA: ("rad", "m"),
    Reference.VELOCITY: ("rad/s", "m/s"),
}
_PLACES: Final = (Reference.ABSOLUTE, Reference.PD_TARGET)


def is_joint_motion(spec: ActionSpec) -> bool:
    """Whether the rows say how joints are to move; poses, torques and tokens do not."""
    return spec.unit in _UNITS.get(spec.reference, ())


@dataclass(frozen=True, slots=True)
class JointMotion:
    """How to read the chunks of a policy that proposes joint motion.

    Attributes:
        shape: of the actions.
        reference: what they refer to.
        row_ns: from one row to the next, ns.
        unit: by which a row is divided, shape (columns,).
        order: columns in the order of the robot's joints, so that sums over them do not depend on the policy's order.
    """

    shape: tuple[int, int]
    reference: Reference
    row_ns: float
    unit: Vector
    order: Indices

    @classmethod
    def of(cls, spec: ActionSpec, joints: Sequence[str], v_max: Vector) -> JointMotion:
        """For chunks of ``spec``, its columns bound to ``joints`` by name; ``v_max`` in the order of ``joints``, rad/s.

        Raises:
            ConfigError: the spec is not joint motion, or names a joint that is not there.
        """
        unknown = sorted(set(spec.joints) - set(joints))
        if unknown:
            raise ConfigError(f"the policy moves {unknown}, the robot has {tuple(joints)}")
        if not is_joint_motion(spec):
            raise ConfigError(f"{spec.reference.value} actions in {spec.unit!r} are not joint motion")
        limit = v_max[[joints.index(joint) for joint in spec.joints]]
        unit = frozen_array(limit if spec.reference is Reference.VELOCITY else limit / spec.rate_hz)
        order = np.argsort([joints.index(joint) for joint in spec.joints])
        return cls((spec.chunk, len(spec.joints)), spec.reference, NS_PER_S / spec.rate_hz, unit, order)

    @property
    def places(self) -> bool:
        """Rows are joint positions, the same ones for every chunk."""
        return self.reference in _PLACES

    def rows(self, proposal: Proposal) -> Vector | None:
        """Its actions in these units, shape (chunk, columns); None for another shape."""
        return (proposal.actions / self.unit)[:, self.order] if proposal.actions.shape == self.shape else None

    def speeds(self, rows: Vector) -> Vector:
        """Speeds that ``rows`` ask for, in shares of the limit; of positions they are one fewer than rows."""
        if self.places:
            return rows[1:] - rows[:-1]
        return np.diff(rows, axis=0, prepend=0.0) if self.reference is Reference.CHUNK_RELATIVE else rows
