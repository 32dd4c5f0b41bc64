"""Chunks of positions, velocities and torques, row by row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from safeguard.controllers import ChunkTracking, DirectControl, controller_for
from safeguard.core.enums import NominalKind, Reference
from safeguard.core.errors import SpecError
from safeguard.core.types import ActionSpec, Proposal, RobotState, Vector

MS = 1_000_000
JOINTS = ("a", "b")
ROWS = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
T_OBS = 7 * MS


def spec(reference: Reference = Reference.ABSOLUTE, unit: str = "rad", joints: tuple[str, ...] = JOINTS) -> ActionSpec:
    """Ten rows a second: one each 100 ms."""
    return ActionSpec(joints, unit, reference, 10.0, 3)


def proposal(rows: Vector = ROWS) -> Proposal:
    """A chunk observed at T_OBS."""
    return Proposal(rows, T_OBS, T_OBS, "test", 0)


STATE = RobotState(np.array([0.5, -0.5]), np.array([0.1, -0.2]), 0)


@pytest.mark.parametrize(
    ("after_ms", "q", "v"),
    [
        (100, [1.0, 10.0], [10.0, 100.0]),
        (150, [1.5, 15.0], [10.0, 100.0]),
        (200, [2.0, 20.0], [20.0, 200.0]),
        (275, [3.5, 35.0], [20.0, 200.0]),
        (50, [0.5, 5.0], [10.0, 100.0]),
        (0, [0.0, 0.0], [10.0, 100.0]),
        (300, [4.0, 40.0], [0.0, 0.0]),
        (9999, [4.0, 40.0], [0.0, 0.0]),
    ],
)
def test_the_reference_is_linear_between_rows_and_rests_at_the_last(
    after_ms: int, q: list[float], v: list[float]
) -> None:
    """Row k is meant for t_obs + (k + 1) periods; before the first row its slope is extended backwards."""
    found = ChunkTracking(spec(), JOINTS).reference(proposal(), T_OBS + after_ms * MS)
    np.testing.assert_allclose(found[0], q, atol=1e-9)
    np.testing.assert_allclose(found[1], v, atol=1e-9)


def test_a_chunk_of_one_row_is_a_resting_target() -> None:
    """Before and after its time."""
    tracking = ChunkTracking(spec(), JOINTS)
    for after in (0, 50, 100, 500):
        q, v = tracking.reference(proposal(ROWS[:1]), T_OBS + after * MS)
        np.testing.assert_array_equal(q, [1.0, 10.0])
        np.testing.assert_array_equal(v, 0.0)


def test_the_nominal_is_critically_damped() -> None:
    """ω² (q_ref − q) + 2 ω (v_ref − v), as an acceleration."""
    nominal = ChunkTracking(spec(), JOINTS, omega=3.0).nominal(proposal(), STATE, T_OBS + 100 * MS)
    assert nominal.kind is NominalKind.ACCELERATION
    expected = 9.0 * (np.array([1.0, 10.0]) - STATE.q) + 6.0 * (np.array([10.0, 100.0]) - STATE.v)
    np.testing.assert_allclose(nominal.value, expected)


@pytest.mark.parametrize("control", [ChunkTracking, DirectControl])
def test_columns_are_bound_by_name(control: type[ChunkTracking] | type[DirectControl]) -> None:
    """A policy that lists its joints in another order moves the same joints."""
    reference, unit = (Reference.ABSOLUTE, "rad") if control is ChunkTracking else (Reference.TORQUE, "N.m")
    swapped = control(spec(reference, unit, ("b", "a")), JOINTS).nominal(proposal(ROWS[:, ::-1]), STATE, T_OBS)
    straight = control(spec(reference, unit), JOINTS).nominal(proposal(), STATE, T_OBS)
    np.testing.assert_array_equal(swapped.value, straight.value)


@pytest.mark.parametrize("joints", [("a",), ("a", "c"), ("a", "b", "c")])
@pytest.mark.parametrize(("reference", "unit"), [(Reference.ABSOLUTE, "rad"), (Reference.TORQUE, "N.m")])
def test_nothing_is_padded(joints: tuple[str, ...], reference: Reference, unit: str) -> None:
    """Missing, extra and misspelt joints are refused by name."""
    with pytest.raises(SpecError, match=r"differ: .*(b|c)"):
        controller_for(spec(reference, unit, joints), JOINTS)


@pytest.mark.parametrize(
    ("reference", "unit"),
    [
        (Reference.ABSOLUTE, "deg"), (Reference.DELTA, "rad"), (Reference.VELOCITY, "deg/s"),
        (Reference.TORQUE, "mN.m"), (Reference.POSE, "m"), (Reference.TOKENS, ""),
    ],
)  # fmt: skip
def test_a_spec_that_no_controller_understands_is_refused(reference: Reference, unit: str) -> None:
    """Degrees are not radians: the error says what was given and what is taken."""
    with pytest.raises(SpecError, match=f"(?i)(no controller for|got) .*{reference.value}.*{unit!r}"):
        controller_for(spec(reference, unit), JOINTS)


@pytest.mark.parametrize(
    ("reference", "unit", "kind"),
    [(Reference.VELOCITY, "rad/s", NominalKind.VELOCITY), (Reference.TORQUE, "N.m", NominalKind.TORQUE)],
)
def test_direct_control_hands_out_the_row_for_now(reference: Reference, unit: str, kind: NominalKind) -> None:
    """Row k from k to k + 1 periods after the observation; the first one before; bits unchanged."""
    control = controller_for(spec(reference, unit), JOINTS)
    assert isinstance(control, DirectControl)
    for after, row in ((-50, 0), (0, 0), (99, 0), (100, 1), (150, 1), (299, 2)):
        nominal = control.nominal(proposal(), STATE, T_OBS + after * MS)
        assert nominal.kind is kind
        np.testing.assert_array_equal(nominal.value, ROWS[row])


def test_after_its_last_row_direct_control_brings_the_joints_to_rest() -> None:
    """A chunk that has run out is no licence to repeat it (law 6): damping, as an acceleration."""
    control = controller_for(spec(Reference.TORQUE, "N.m"), JOINTS)
    nominal = control.nominal(proposal(), STATE, T_OBS + 300 * MS)
    assert nominal.kind is NominalKind.ACCELERATION
    np.testing.assert_allclose(nominal.value, -20.0 * STATE.v)


def test_controllers_keep_nothing_between_calls() -> None:
    """The same proposal, state and time give the same bits before and after other calls and a reset."""
    for control in (controller_for(spec(), JOINTS), controller_for(spec(Reference.VELOCITY, "rad/s"), JOINTS)):
        first = control.nominal(proposal(), STATE, T_OBS + 120 * MS)
        control.nominal(proposal(-ROWS), STATE, T_OBS)
        control.reset()
        again = control.nominal(proposal(), STATE, T_OBS + 120 * MS)
        assert first.value.tobytes() == again.value.tobytes()


def test_a_single_action_bridges_the_time_in_which_the_next_one_is_computed() -> None:
    """It goes on for one row more, and then expires like every other."""
    control = controller_for(replace(spec(Reference.VELOCITY, "rad/s"), chunk=1), JOINTS)
    said = replace(proposal(), actions=ROWS[:1])
    row = round(1e9 / spec().rate_hz)
    assert control.nominal(said, STATE, T_OBS + 2 * row - MS).kind is NominalKind.VELOCITY
    assert control.nominal(said, STATE, T_OBS + 2 * row + MS).kind is NominalKind.ACCELERATION
