"""Actions in anybody's names, order and units become joint motion of the body, and come back as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.enums import Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec, Proposal, Vector
from safeguard.policies import Binding

BODY = ("shoulder", "elbow", "wrist")
CHUNK = 4


def action(**more: Any) -> ActionSpec:
    """Absolute positions of the body's joints, four rows at 10 Hz."""
    fields: dict[str, Any] = {"joints": BODY, "unit": "rad", "reference": Reference.ABSOLUTE}
    fields |= {"rate_hz": 10.0, "chunk": CHUNK, **more}
    return ActionSpec(**fields)


def said(actions: Any, source: str = "guest") -> Proposal:
    """What a guest hands over."""
    return Proposal(np.asarray(actions, dtype=float), 0, 0, source, 0)


def rows(columns: int = 3) -> Vector:
    """Numbers that are all different."""
    return np.arange(CHUNK * columns, dtype=float).reshape(CHUNK, columns) / 7.0


def test_what_is_bound_already_passes_as_it_is() -> None:
    """The body's own spec needs no copy."""
    proposal = said(rows())
    assert Binding(action(), BODY).bound(proposal) is proposal


def test_columns_are_bound_by_name() -> None:
    """Another order is the same motion."""
    order = ("wrist", "shoulder", "elbow")
    binding = Binding(action(joints=order), BODY)
    assert binding.bound(said(rows())).actions == pytest.approx(rows()[:, [1, 2, 0]])
    assert binding.spec == action()


def test_units_scale_and_offset_of_each_column() -> None:
    """Meaning: offset + scale·x in the column's unit, then SI."""
    spec = action(unit=("deg", "rad", "rev"), scale=(2.0, 1.0, 0.5), offset=(90.0, -1.0, 0.0))
    found = Binding(spec, BODY).bound(said(np.ones((CHUNK, 3)))).actions
    assert found == pytest.approx(np.tile([np.radians(92.0), 0.0, np.pi], (CHUNK, 1)))


@pytest.mark.parametrize(
    ("reference", "unit", "canonical", "factor"),
    [
        (Reference.VELOCITY, "deg/s", "rad/s", np.pi / 180.0),
        (Reference.VELOCITY, "rpm", "rad/s", np.pi / 30.0),
        (Reference.TORQUE, "mN.m", "N.m", 1e-3),
    ],
)
def test_velocities_and_torques(reference: Reference, unit: str, canonical: str, factor: float) -> None:
    """They become rad/s and N·m."""
    binding = Binding(action(reference=reference, unit=unit), BODY)
    assert (binding.spec.unit, binding.spec.reference) == (canonical, reference)
    assert binding.bound(said(rows())).actions == pytest.approx(factor * rows())


def test_gains_of_pd_targets_follow_their_joints() -> None:
    """Gains are in the body's order; they count radians whatever the unit of the column."""
    spec = action(
        joints=("wrist", "elbow", "shoulder"), reference=Reference.PD_TARGET, kp=(1.0, 2.0, 3.0), kd=0.5, unit="deg"
    )
    assert Binding(spec, BODY).spec == action(reference=Reference.PD_TARGET, kp=(3.0, 2.0, 1.0), kd=(0.5, 0.5, 0.5))


def test_deltas_add_up_and_chunk_relative_positions_do_not() -> None:
    """Both count from where the joints were."""
    at, steps = np.array([1.0, 2.0, 3.0]), np.ones((CHUNK, 3))
    delta = Binding(action(reference=Reference.DELTA), BODY)
    relative = Binding(action(reference=Reference.CHUNK_RELATIVE), BODY)
    assert delta.needs_anchor
    assert delta.spec == relative.spec == action()
    assert delta.bound(said(steps), at).actions == pytest.approx(at + np.arange(1, CHUNK + 1)[:, None])
    assert relative.bound(said(steps), at).actions == pytest.approx(at + steps)
    refused = delta.bound(said(steps), None)
    assert (refused.actions.ndim, "where the joints were" in refused.source) == (1, True)


@pytest.mark.parametrize(
    "shape", [(CHUNK, 3), (CHUNK, 5), (CHUNK + 1, 4), (CHUNK - 1, 4), (4 * CHUNK,), (0,), (1, CHUNK, 4)]
)
def test_what_has_another_shape_fits_no_spec(shape: tuple[int, ...]) -> None:
    """With a gripper among the columns, seven numbers for eight columns must not look like the body's seven."""
    spec = action(joints=(*BODY, "gripper"), others=("gripper",))
    found = Binding(spec, BODY).bound(said(np.ones(shape)))
    assert found.actions.ndim == 1
    assert found.actions.size == np.ones(shape).size, "the record holds every number"
    assert found.source.startswith("guest: actions have shape")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_others_must_be_finite(bad: float) -> None:
    """A gripper that is not a number makes the whole proposal unusable; a joint's stays for intake to name."""
    spec = action(joints=("gripper", *BODY), others=("gripper",))
    for column, dimensions in ((0, 1), (2, 2)):
        actions = rows(4)
        actions[1, column] = bad
        found = Binding(spec, BODY).bound(said(actions))
        assert found.actions.ndim == dimensions
        assert not np.isfinite(found.actions).all()


@pytest.mark.parametrize(
    ("number", "fits"), [(1.0, True), (1.0 + 1e-7, True), (1.001, False), (-1.0, True), (-1.2, False)]
)
def test_numbers_outside_the_declared_range_are_refused(number: float, fits: bool) -> None:
    """A tanh policy that says 1.2 was not normalised as its spec says."""
    binding = Binding(action(low=-1.0, high=1.0, scale=2.0), BODY)
    found = binding.bound(said(np.full((CHUNK, 3), number)))
    assert (found.actions.ndim == 2) is fits
    if fits:
        assert found.actions == pytest.approx(2.0 * number)
    else:
        assert "normalised" in found.source


@pytest.mark.parametrize(
    ("joints", "words"),
    [
        (("shoulder", "elbow"), "missing wrist"),
        (("shoulder", "elbow", "hand"), "missing wrist; unknown hand"),
        ((*BODY, "gripper"), r"unknown gripper \(name what is no joint of the body in others=\)"),
    ],
)
def test_names_that_differ(joints: tuple[str, ...], words: str) -> None:
    """The error says which, and what to do about a gripper."""
    with pytest.raises(SpecError, match=words):
        Binding(action(joints=joints), BODY)


def test_what_is_no_joint_motion() -> None:
    """Poses and tokens can be described; nothing follows them."""
    with pytest.raises(SpecError, match="no controller for pose"):
        Binding(action(reference=Reference.POSE, unit="m"), BODY)


finite = st.floats(-3.0, 3.0)


@given(
    order=st.permutations([*BODY, "gripper"]),
    scale=st.floats(0.05, 20.0),
    offset=finite,
    reference=st.sampled_from([Reference.ABSOLUTE, Reference.DELTA, Reference.CHUNK_RELATIVE]),
    unit=st.sampled_from(["rad", "deg", "mm"]),
    numbers=st.lists(st.lists(finite, min_size=4, max_size=4), min_size=CHUNK, max_size=CHUNK),
    anchor=st.lists(finite, min_size=3, max_size=3),
)
def test_there_and_back(
    order: list[str], scale: float, offset: float, reference: Reference, unit: str, numbers: Any, anchor: list[float]
) -> None:
    """``unbound`` undoes ``bound``, and columns that are no joints come from ``like``."""
    spec = action(joints=tuple(order), others=("gripper",), scale=scale, offset=offset, reference=reference, unit=unit)
    binding, given, at = Binding(spec, BODY), np.array(numbers), np.array(anchor)
    bound = binding.bound(said(given), at).actions
    assert bound.shape == (CHUNK, 3)
    assert binding.unbound(bound, at, given) == pytest.approx(given, abs=1e-9)


def test_samples_are_bound_like_actions() -> None:
    """What monitors compare is in the same numbers."""
    proposal = Proposal(rows(), 0, 0, "guest", 0, samples=np.stack([rows(), 2.0 * rows()]))
    found = Binding(action(unit="deg"), BODY).bound(proposal)
    assert found.samples == pytest.approx(np.radians([rows(), 2.0 * rows()]))


def test_what_overflows_is_left_to_intake() -> None:
    """No warning, and not finite."""
    found = Binding(action(scale=1e10), BODY).bound(said(np.full((CHUNK, 3), 1e300)))
    assert np.isinf(found.actions).all()
