"""The simulated world: deterministic, faithful to torques, and quick to brake."""

from __future__ import annotations

import sys

import numpy as np
import pinocchio as pin
import pytest

from safeguard.core.errors import ConfigError, MissingExtraError
from safeguard.core.robot import RobotModel
from safeguard.core.types import PositionCommand, TerminalStop, TorqueCommand, Vector
from safeguard.scenarios.push import ReachPush
from safeguard.scenarios.world import World

SWING = np.array([1.0, 0.5, -1.0, 0.5, 1.5, -1.5, 2.0])  # rad/s


@pytest.fixture(scope="module")
def robot() -> RobotModel:
    """The Panda."""
    return RobotModel.load("panda")


@pytest.fixture
def world(robot: RobotModel) -> World:
    """The Panda alone."""
    return World(robot)


def command(world: World, tau: Vector, ticks: int = 1) -> TorqueCommand:
    """A torque for the next ``ticks`` periods."""
    return TorqueCommand(tau, world.time_ns, world.time_ns + ticks * world.period_ns, 0)


def gravity(world: World) -> Vector:
    """The torque that carries the arm where it is."""
    model, q = world.robot.pin_model, world.observe().state.q
    tau: Vector = pin.computeGeneralizedGravity(model, model.createData(), q)
    return tau


def swing(world: World) -> None:
    """Released, and moving."""
    world.reset(0)
    world.data.qvel[:7] = SWING


def prediction_error(robot: RobotModel, world: World, rng: np.random.Generator) -> float:
    """Largest |v − (v₀ + a Δt)| after one period of τ = M a + h from a random state, rad/s."""
    limits, model, data = robot.limits, robot.pin_model, robot.pin_model.createData()
    q = rng.uniform(limits.q_min, limits.q_max)
    v, a = rng.uniform(-0.8, 0.8, 7) * limits.v_max, rng.uniform(-1.0, 1.0, 7) * limits.a_max
    inertia = np.triu(pin.crba(model, data, q))
    inertia += np.triu(inertia, 1).T
    tau = inertia @ a + robot.bias(v, pin.nonLinearEffects(model, data, q, v))
    world.reset(0)
    world.data.qpos[:7], world.data.qvel[:7] = q, v
    world.apply(command(world, tau))
    world.advance()
    touching = world.data.ncon > 0
    return 0.0 if touching else float(np.abs(world.observe().state.v - (v + 0.002 * a)).max())


def test_dynamics_are_those_of_the_robot_model(robot: RobotModel, world: World) -> None:
    """After 2 ms of constant torque the joint speeds are pinocchio's prediction within 5e-4 rad/s."""
    rng = np.random.default_rng(1)
    errors = [prediction_error(robot, world, rng) for _ in range(100)]
    assert np.count_nonzero(errors) > 50
    assert max(errors) < 5e-4


def test_a_prediction_with_the_wrong_friction_would_be_noticed(robot: RobotModel, world: World) -> None:
    """The agreement is no accident: without viscous friction the prediction fails the tolerance."""
    world.model.dof_damping[:7] = 0.0
    rng = np.random.default_rng(1)
    assert max(prediction_error(robot, world, rng) for _ in range(100)) > 1e-3


def test_torque_arrives_bit_for_bit(world: World) -> None:
    """What is commanded is what the joints get, far above the drives' limits too."""
    tau = gravity(world) + np.array([1e3, -0.1, 1 / 3, 500.0, 1e-17, -12.7, 300.0])
    world.apply(command(world, tau))
    world.advance()
    assert world.data.qfrc_actuator[:7].tobytes() == tau.tobytes()
    assert world.applied_torque.tobytes() == np.abs(tau).tobytes()
    assert not world.braked


def test_same_commands_same_trajectory(robot: RobotModel) -> None:
    """Two worlds with the same seed and commands agree in every bit; a reset erases the past."""

    def drive(world: World) -> bytes:
        world.reset(7)
        for tick in range(200):
            world.apply(command(world, gravity(world) + 5.0 * np.sin(0.05 * tick + np.arange(7))))
            world.advance()
        return bytes(world.data.qpos.tobytes() + world.data.qvel.tobytes())

    first, second = World(robot, ReachPush()), World(robot, ReachPush())
    once = drive(first)
    assert drive(second) == once
    assert drive(first) == once


def test_terminal_stop_stops_and_holds(world: World) -> None:
    """Brakes bring a swinging arm to rest within 50 ms, and it stays there for 5 s without torque."""
    swing(world)
    for _ in range(25):
        world.apply(TerminalStop("test", world.time_ns, 0))
        world.advance()
    stopped = world.observe().state
    assert np.abs(stopped.v).max() < 1e-3
    for _ in range(2500):
        world.advance()
    assert np.abs(world.observe().state.q - stopped.q).max() < 1e-3
    assert not world.applied_torque.any()


def test_without_brakes_the_arm_would_move(world: World) -> None:
    """Zero torque alone does not stop it: the brakes do."""
    swing(world)
    for _ in range(25):
        world.apply(command(world, np.zeros(7)))
        world.advance()
    assert np.abs(world.observe().state.v).max() > 0.5


def test_a_command_does_not_outlive_its_expiry(world: World) -> None:
    """A command works up to its expiry; then the brakes engage although nobody said so."""
    world.apply(command(world, gravity(world), ticks=3))
    for _ in range(3):
        world.advance()
        assert not world.braked
    world.advance()  # the step that starts exactly at the expiry is the last one driven
    world.advance()
    assert world.braked
    assert not world.applied_torque.any()


def test_a_new_command_releases_the_brakes(world: World) -> None:
    """Brakes after an expiry or a terminal stop last until the next command."""
    world.apply(TerminalStop("test", 0, 0))
    world.advance()
    assert world.braked
    world.apply(command(world, gravity(world)))
    world.advance()
    assert not world.braked
    assert world.applied_torque.any()


def test_an_episode_starts_braked(world: World) -> None:
    """Before the first command the arm does not fall."""
    world.reset(0)
    world.advance()
    assert world.braked
    assert np.abs(world.observe().state.v).max() < 1e-3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e11])
def test_refused_torque_is_counted(world: World, bad: float) -> None:
    """NaN, infinite and absurd torques count as rejected and leave every joint without torque."""
    world.apply(command(world, gravity(world)))
    world.advance()
    tau = gravity(world)
    tau[3] = bad
    world.apply(command(world, tau))
    world.advance()
    assert world.rejected_commands == 1
    assert not world.applied_torque.any()
    assert not world.braked
    assert np.isfinite(world.data.qpos).all()
    world.reset(0)
    assert world.rejected_commands == 0


def test_time_counts_in_nanoseconds(robot: RobotModel) -> None:
    """Stamps are whole multiples of the period, however long the episode."""
    world = World(robot, period=0.001, physics_dt=0.0005)
    for _ in range(1000):
        world.advance()
    assert world.time_ns == 1_000_000_000
    assert world.observe().state.t == 1_000_000_000


def test_observations_keep_their_values(world: World) -> None:
    """An observation is a copy: it does not change when the world moves on."""
    swing(world)
    seen = world.observe().state
    before = seen.q.tobytes()
    world.apply(command(world, np.zeros(7)))
    world.advance()
    assert seen.q.tobytes() == before
    assert world.observe().state.q.tobytes() != before


@pytest.mark.parametrize(("period", "dt"), [(0.002, 0.0015), (0.001, 0.002), (0.002, 0.0), (-0.002, 0.001)])
def test_periods_must_fit(robot: RobotModel, period: float, dt: float) -> None:
    """A period that is no multiple of the physics step is refused with both numbers."""
    with pytest.raises(ConfigError, match=f"period={period}"):
        World(robot, period=period, physics_dt=dt)


def test_wrong_commands_are_wiring_errors(world: World) -> None:
    """A position command or a torque of the wrong length names itself."""
    with pytest.raises(ConfigError, match="PositionCommand"):
        world.apply(PositionCommand(np.zeros(7), 0, 1, 0))
    with pytest.raises(ConfigError, match=r"\(6,\) for 7 joints"):
        world.apply(TorqueCommand(np.zeros(6), 0, 1, 0))


def test_without_mujoco_it_names_the_extra(robot: RobotModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A world without MuJoCo says which extra to install."""
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingExtraError, match=r"World .*safeguard-runtime\[sim\]"):
        World(robot)


def test_a_world_without_a_task_succeeds_at_nothing(world: World) -> None:
    """Success needs a task; sensors too."""
    assert not world.succeeded
    assert not world.observe().sensors
