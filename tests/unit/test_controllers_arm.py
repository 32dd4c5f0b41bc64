"""The arm platform: what it says about states, and what actuators get."""

from __future__ import annotations

import re

import numpy as np
import pytest

from safeguard.controllers.arm import ArmPlatform
from safeguard.controllers.task import TaskSpace
from safeguard.core.enums import FilterStatus, Frame, NominalKind, SolverStatus
from safeguard.core.protocols import Platform
from safeguard.core.types import Nominal, RobotState, TerminalStop, TorqueCommand, Vector
from tests.unit.controllers_support import QUICK, panda, state_at

HOME, LIMITS = panda().home, panda().limits


@pytest.fixture(scope="module")
def arm() -> ArmPlatform:
    """The Panda."""
    return ArmPlatform(panda(), 0.002, QUICK)


def test_it_is_a_braking_platform(arm: ArmPlatform) -> None:
    """It satisfies the protocol, promises braking, and rests at home."""
    platform: Platform = arm
    assert platform.guarantee == "braking"
    assert platform.joints == panda().joints
    np.testing.assert_array_equal(platform.v_max, LIMITS.v_max)
    assert arm.plausible(platform.rest) is None
    assert arm.standstill(platform.rest)


def joint(k: int, value: float, other: Vector) -> Vector:
    """``other`` with one value changed."""
    out = other.copy()
    out[k] = value
    return out


@pytest.mark.parametrize(
    ("q", "v", "reason"),
    [
        (HOME, np.zeros(7), None),
        (LIMITS.q_max + 0.19, np.zeros(7), None),
        (LIMITS.q_min - 0.19, 1.9 * LIMITS.v_max, None),
        (joint(2, LIMITS.q_max[2] + 0.21, HOME), np.zeros(7), "panda_joint3 at 3.107 rad is 0.210 rad outside"),
        (joint(2, LIMITS.q_min[2] - 0.21, HOME), np.zeros(7), "panda_joint3 at -3.107 rad"),
        (HOME, joint(6, -2.1 * LIMITS.v_max[6], np.zeros(7)), "panda_joint7 .* 2.1 times its limit"),
        (joint(1, np.nan, HOME), np.zeros(7), "not finite"),
        (HOME, joint(1, np.inf, np.zeros(7)), "not finite"),
        (HOME[:6], np.zeros(7), "shapes"),
        (HOME, np.zeros(8), "shapes"),
        (HOME[None], np.zeros(7), "shapes"),
        (np.zeros(0), np.zeros(0), "shapes"),
    ],
)
def test_impossible_measurements_are_named(arm: ArmPlatform, q: Vector, v: Vector, reason: str | None) -> None:
    """Shape, NaN, far outside a limit, twice too fast: with joint and figure; slightly outside is plausible."""
    found = arm.plausible(RobotState(q, v, 0))
    assert (found is None) if reason is None else re.search(reason, found or "")


def test_standstill_looks_at_the_fastest_joint(arm: ArmPlatform) -> None:
    """0.02 rad/s by default, either direction."""
    assert arm.standstill(state_at(HOME, joint(3, -0.0199, np.zeros(7))))
    assert not arm.standstill(state_at(HOME, joint(3, -0.0201, np.zeros(7))))


def test_the_command_is_the_filters_torque_bit_for_bit(arm: ArmPlatform) -> None:
    """The same read-only array, stamped and numbered (law 1)."""
    arm.reset(state_at(HOME))
    result = arm.filter(state_at(HOME), Nominal(NominalKind.ACCELERATION, np.full(7, 99.0)))
    command = arm.command(result, 5, 11, 3)
    assert isinstance(command, TorqueCommand)
    assert command.tau is result.torque
    assert (command.t, command.expires, command.seq) == (5, 11, 3)


def test_a_refused_result_becomes_the_terminal_stop(arm: ArmPlatform) -> None:
    """Never a torque of zeros: safe torque off, with the reason."""
    arm.reset()
    command = arm.command(arm.backup(None), 5, 11, 3)
    assert isinstance(command, TerminalStop)
    assert "no stop is stored" in command.reason
    stopped = arm.stopped("e-stop")
    assert stopped.status is FilterStatus.REFUSED
    assert stopped.refusal == "e-stop"
    assert arm.command(stopped, 0, 0, 0) == arm.terminal_stop("e-stop", 0, 0)


def test_the_backup_holds_after_a_reset_with_a_state(arm: ArmPlatform) -> None:
    """From rest the stored stop is the hold: gravity compensation."""
    arm.reset(state_at(HOME))
    result = arm.backup(state_at(HOME))
    assert result.status is FilterStatus.BACKUP
    np.testing.assert_allclose(result.acceleration, 0.0, atol=1e-9)


OTHERS = (NominalKind.TWIST, NominalKind.POSE, NominalKind.ROWS)


@pytest.mark.parametrize("kind", [kind for kind in NominalKind if kind not in OTHERS])
def test_bypass_is_the_nominal_as_torque_whatever_it_is(arm: ArmPlatform, kind: NominalKind) -> None:
    """Unlimited, unchecked, and labelled so; torques come out bit for bit."""
    state, value = state_at(HOME, np.full(7, 0.1)), np.full(7, 321.0)
    gains = (np.full(7, 10.0), np.full(7, 1.0)) if kind is NominalKind.POSITION else (None, None)
    result = arm.bypass(state, Nominal(kind, value, *gains))
    assert result.status is FilterStatus.BYPASSED
    assert result.solver is SolverStatus.SKIPPED
    dynamics = arm.safety_filter.dynamics
    expected = {
        NominalKind.TORQUE: value,
        NominalKind.ACCELERATION: dynamics.torque(value),
        NominalKind.VELOCITY: dynamics.torque((value - 0.1) / 0.002),
        NominalKind.POSITION: 10.0 * (value - HOME) - 0.1,
    }[kind]
    np.testing.assert_array_equal(result.torque, expected)


def test_bypass_moves_the_tool_as_asked(arm: ArmPlatform) -> None:
    """A twist becomes the torque of its acceleration; one that is no number becomes no number."""
    state, twist = state_at(HOME, np.full(7, 0.1)), np.array([5.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    a, _ = TaskSpace(panda(), 0.002).from_twist(state, twist, Frame.TOOL)
    result = arm.bypass(state, Nominal(NominalKind.TWIST, twist, frame=Frame.TOOL))
    assert a is not None
    np.testing.assert_array_equal(result.torque, arm.safety_filter.dynamics.torque(a))
    assert np.isnan(arm.bypass(state, Nominal(NominalKind.POSE, np.zeros(7))).torque).all()


def test_bypass_without_a_nominal_damps(arm: ArmPlatform) -> None:
    """Before the first proposal an unshielded arm comes to rest instead of falling."""
    result = arm.bypass(state_at(HOME, np.full(7, 0.5)), None)
    np.testing.assert_allclose(arm.safety_filter.dynamics.acceleration(result.torque), -10.0, atol=1e-9)


def test_its_identity_is_the_robots(arm: ArmPlatform) -> None:
    """Records get the model's name, digest and source, every limit with provenance, and the proved clearance."""
    identity = arm.identity()
    assert (identity.name, identity.digest) == ("panda", panda().digest)
    assert identity.source == panda().source
    assert identity.clearance == QUICK.clearance.floor_m
    assert tuple(limits.joint for limits in identity.limits) == panda().joints
    np.testing.assert_array_equal([limits.torque for limits in identity.limits], LIMITS.tau_max)
    np.testing.assert_array_equal([limits.lower for limits in identity.limits], LIMITS.q_min)
    np.testing.assert_array_equal([limits.acceleration for limits in identity.limits], LIMITS.a_max)
    for limits in identity.limits:
        assert limits.provenance["upper"] == LIMITS.provenance["q_max"]
        assert limits.provenance["velocity"] == LIMITS.provenance["v_max"]
    loaded = ArmPlatform(panda().with_payload(1.0, [0.0, 0.0, 0.0]), 0.002, QUICK)
    assert loaded.identity().digest != identity.digest
