"""From a policy's own numbers to joint motion in the body's names, order and SI units, once, where they come in.

Everything behind the port sees one kind of action: a column for every joint of the body, in its order, in rad, rad/s or
N·m. So does the record, and a replay needs no conversion.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from safeguard.core.action import JOINT_UNITS
from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec, Indices, Proposal, Vector, sealed

_RELATIVE: Final = (Reference.DELTA, Reference.CHUNK_RELATIVE)
_SI: Final = {Reference.VELOCITY: "rad/s", Reference.TORQUE: "N.m"}
_LONGEST: Final = 200  # characters of a source


class Binding:
    """Binds the columns of a policy to the joints of a body, by name.

    Args:
        spec: of the policy.
        joints: names of the body's joints, in order.

    Attributes:
        spec: the same actions as ``bound`` gives them: the body's joints in its order, in SI units. Deltas and
            chunk-relative positions have become absolute ones, gains of PD targets are in the body's order.
        others: names of the columns that are no joints of the body.

    Raises:
        SpecError: there is a frame, the columns without ``others`` are not exactly the body's joints, or actions of
            this reference are no joint motion.
    """

    def __init__(self, spec: ActionSpec, joints: tuple[str, ...]) -> None:
        self._columns: Indices = _columns(spec, joints)
        known = JOINT_UNITS.get(spec.reference)
        if known is None:
            raise SpecError(
                f"no controller for {spec.reference.value} actions; there are some for positions, velocities and "
                "torques of joints"
            )
        if spec.frame is not None:
            raise SpecError(f"columns of joints have no frame, got {spec.frame!r}: leave it out")
        self._given, self.others = spec, spec.others
        factors = np.array([known[spec.units[k]] for k in self._columns])
        self._scale = np.array(spec.column("scale"))[self._columns] * factors
        self._offset = np.array(spec.column("offset"))[self._columns] * factors
        self._others: Indices = np.array([spec.joints.index(name) for name in spec.others], dtype=np.intp)
        self._ranged = spec.low is not None or spec.high is not None
        self.spec = self._canonical(joints)
        self._same = self.spec == spec

    def _canonical(self, joints: tuple[str, ...]) -> ActionSpec:
        spec = self._given
        order: list[int] = self._columns.tolist()
        kp = None if spec.kp is None else tuple(spec.column("kp")[k] for k in order)
        kd = None if spec.kd is None else tuple(spec.column("kd")[k] for k in order)
        reference = Reference.ABSOLUTE if spec.reference in _RELATIVE else spec.reference
        unit = _SI.get(reference, "rad")
        return ActionSpec(joints, unit, reference, spec.rate_hz, spec.chunk, spec.frame, kp=kp, kd=kd)

    @property
    def needs_anchor(self) -> bool:
        """Whether the numbers count from where the joints were."""
        return self._given.reference in _RELATIVE

    def bound(self, proposal: Proposal, anchor: Vector | None = None) -> Proposal:
        """``proposal`` in the numbers that ``spec`` describes.

        What misfits the policy's own spec comes back as a flat array that no spec describes, and its source says why,
        so that intake refuses it, the record holds it and a replay meets the same.

        Args:
            proposal: as the policy gave it, actions of shape (chunk, columns).
            anchor: where the joints were at ``t_obs``, shape (n,), rad; deltas and chunk-relative positions count from
                there.
        """
        if self._same:
            return proposal
        actions = proposal.actions
        if why := self._misfit(actions):
            return _refused(proposal, why)
        if self.needs_anchor and anchor is None:
            return _refused(proposal, "it is not known where the joints were when it was computed")
        samples = proposal.samples
        if samples is not None and samples.shape[1:] == actions.shape:
            samples = sealed(self._converted(samples, anchor))
        return replace(proposal, actions=sealed(self._converted(actions, anchor)), samples=samples)

    def unbound(self, rows: Vector, anchor: Vector | None, like: Vector) -> Vector:
        """``rows`` in the policy's own numbers: the inverse of ``bound``.

        Args:
            rows: of the body's joints, shape (k, n), in SI units.
            anchor: as in ``bound``.
            like: what the columns of ``others`` are taken from, shape (k, columns).

        Returns:
            A new array of shape (k, columns).

        Raises:
            SpecError: relative numbers without an anchor.
        """
        values = rows
        if self.needs_anchor:
            if anchor is None:
                raise SpecError(f"{self._given.reference.value} actions count from an anchor, got none")
            values = rows - anchor
            if self._given.reference is Reference.DELTA:
                values = np.diff(values, axis=0, prepend=np.zeros((1, len(anchor))))
        result = like.copy()
        result[:, self._columns] = (values - self._offset) / self._scale
        return result

    def _misfit(self, actions: Vector) -> str:
        """As ``ActionSpec.misfit``, but a joint that is not finite stays visible as such to intake."""
        spec = self._given
        if actions.shape != spec.shape:
            return spec.misfit(actions)
        if self._others.size and not np.isfinite(actions[:, self._others]).all():
            return spec.misfit(actions)
        if self._ranged and np.isfinite(actions).all():
            return spec.misfit(actions)
        return ""

    def _converted(self, actions: Vector, anchor: Vector | None) -> Vector:
        """Actions of shape (…, chunk, columns) to (…, chunk, n); what overflows is infinite, for intake to refuse."""
        with np.errstate(over="ignore", invalid="ignore"):
            values: Vector = actions[..., self._columns] * self._scale + self._offset
            if anchor is not None and self.needs_anchor:
                if self._given.reference is Reference.DELTA:
                    values = np.cumsum(values, axis=-2)
                values = values + anchor
        return values


def _refused(proposal: Proposal, why: str) -> Proposal:
    source = f"{proposal.source}: {why}"[:_LONGEST]
    return replace(proposal, actions=sealed(proposal.actions.flatten()), source=source, samples=None)


def _columns(spec: ActionSpec, joints: tuple[str, ...]) -> Indices:
    """Column of ``spec`` for every joint, by name; raises ``SpecError`` unless the names are the same."""
    named = tuple(name for name in spec.joints if name not in spec.others)
    if set(named) != set(joints):
        raise SpecError(_differences(named, joints))
    return np.array([spec.joints.index(joint) for joint in joints], dtype=np.intp)


def _differences(named: tuple[str, ...], joints: tuple[str, ...]) -> str:
    missing, unknown = sorted(set(joints) - set(named)), sorted(set(named) - set(joints))
    parts = [
        f"missing {', '.join(missing)}" if missing else "",
        f"unknown {', '.join(unknown)} (name what is no joint of the body in others=)" if unknown else "",
    ]
    found = "; ".join(part for part in parts if part)
    return f"policy and robot joints differ: {found}. Name every joint, nothing is padded"
