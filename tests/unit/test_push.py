"""Reach and push: starts, contacts, success, and the scripted expert."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from safeguard.core.errors import RobotError
from safeguard.core.robot import RobotModel
from safeguard.policies.port import InlinePort
from safeguard.policies.push_policy.evaluate import Follower, Pause, run_episode
from safeguard.scenarios.push import READY, PushExpert, PushSetup, ReachPush
from safeguard.scenarios.world import World


@pytest.fixture(scope="module")
def robot() -> RobotModel:
    """The Panda."""
    return RobotModel.load("panda")


@pytest.fixture(scope="module")
def world(robot: RobotModel) -> World:
    """The task's world."""
    return World(robot, ReachPush())


def test_starts_lie_in_their_ranges(world: World) -> None:
    """Puck, goal and arm start where the setup says, touch nothing, and differ between seeds."""
    setup, starts = PushSetup(), set[tuple[float, ...]]()
    for seed in range(50):
        world.reset(seed)
        seen = world.observe()
        puck, goal = seen.sensors["puck"].value, seen.sensors["goal"].value
        way = goal - puck
        assert setup.start_x[0] <= puck[0] <= setup.start_x[1]
        assert setup.start_y[0] <= puck[1] <= setup.start_y[1]
        assert setup.distance[0] <= np.linalg.norm(way) <= setup.distance[1]
        assert abs(np.arctan2(way[1], way[0])) <= setup.bearing[1]
        assert goal[0] <= setup.goal_x
        assert abs(goal[1]) <= setup.goal_y
        assert np.abs(seen.state.q - READY).max() <= setup.spread
        assert world.data.ncon == 0
        assert not world.succeeded
        starts.add((*puck, *goal, *seen.state.q))
    assert len(starts) == 50


def test_a_seed_is_a_start(robot: RobotModel, world: World) -> None:
    """The same seed gives the same start in another world, in every bit."""
    other = World(robot, ReachPush())
    world.reset(11)
    other.reset(11)
    assert world.data.qpos.tobytes() == other.data.qpos.tobytes()
    assert world.observe().sensors["goal"].value.tobytes() == other.observe().sensors["goal"].value.tobytes()


def place(world: World, offset: tuple[float, float], speed: float = 0.0) -> None:
    """Put the puck at the goal plus ``offset``, moving along x at ``speed``."""
    world.reset(0)
    goal = world.observe().sensors["goal"].value
    for axis, name in enumerate(("puck_x", "puck_y")):
        world.data.joint(name).qpos = goal[axis] + offset[axis]
    world.data.joint("puck_x").qvel = speed


@pytest.mark.parametrize(
    ("offset", "speed", "expected"),
    [
        ((0.0, 0.0), 0.0, True),
        ((0.02, 0.02), 0.01, True),
        ((0.025, 0.025), 0.0, False),
        ((-0.031, 0.0), 0.0, False),
        ((0.0, 0.0), 0.03, False),
    ],
)
def test_success_is_near_and_at_rest(
    world: World, offset: tuple[float, float], speed: float, *, expected: bool
) -> None:
    """Success: within 3 cm of the goal and slower than 2 cm/s."""
    place(world, offset, speed)
    assert world.succeeded is expected


def test_the_puck_stops_by_itself(world: World) -> None:
    """A puck at pushing speed coasts less than 5 mm and keeps its height."""
    place(world, (0.0, 0.0), speed=0.14)
    task = world.task
    assert isinstance(task, ReachPush)
    for _ in range(250):
        world.advance()
    assert 0.0005 < task.error(world.data) < 0.005
    assert world.data.body("puck").xpos[2] == pytest.approx(PushSetup().height)
    assert world.succeeded


def test_the_puck_meets_the_hand_only(world: World) -> None:
    """Each contact pair of the puck is with a geometry of the hand or a finger, and none is missing."""
    model, names = world.model, set[str]()
    for k in range(model.npair):
        pair = {model.geom(int(model.pair_geom1[k])).name, model.geom(int(model.pair_geom2[k])).name}
        if "puck" in pair:
            names |= pair - {"puck"}
    links = {name.rsplit("_", 1)[0] for name in names}
    assert links == {"panda_hand", "panda_leftfinger", "panda_rightfinger"}
    assert len(names) == 9


def test_another_robot_is_refused(tmp_path: Path) -> None:
    """A robot without the Panda's hand gets an error that names it."""
    urdf = tmp_path / "stick.urdf"
    urdf.write_text(
        '<robot name="stick"><link name="base"/><link name="arm"><inertial><mass value="1"/>'
        '<inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial></link>'
        '<joint name="hinge" type="revolute"><parent link="base"/><child link="arm"/><axis xyz="0 0 1"/>'
        '<limit lower="-1" upper="1" velocity="1" effort="10"/></joint></robot>'
    )
    with pytest.raises(RobotError, match="'stick' with 1 joints"):
        World(RobotModel.from_urdf(urdf), ReachPush())


def test_the_expert_starts_with_the_observed_motion(robot: RobotModel) -> None:
    """The first row of a plan continues the observed velocity up to the acceleration limit of the expert."""
    rng = np.random.default_rng(3)
    puck, goal = np.array([0.6, 0.0]), np.array([0.72, 0.03])
    for _ in range(20):
        q, v = READY + rng.uniform(-0.1, 0.1, 7), rng.uniform(-0.3, 0.3, 7)
        first = PushExpert(robot).plan(q, v, puck, goal)[0] - q
        assert np.abs(first - 0.05 * v).max() < 4.0 * 0.05**2


def test_the_expert_rests_when_the_puck_is_home(robot: RobotModel) -> None:
    """With the puck on the goal and the palm against it, a resting arm is asked to stay."""
    expert, setup = PushExpert(robot), PushSetup()
    q, v, goal = READY.copy(), np.zeros(7), np.array([0.62, 0.0])
    start = goal.copy()
    for _ in range(60):
        q = expert.plan(q, v, start, goal)[-1]
    moved = np.abs(expert.plan(q, v, goal, goal) - q).max()
    assert setup.reach == pytest.approx(0.1)
    assert moved < 0.01


@pytest.mark.parametrize("seed", [0, 1])
def test_the_expert_does_the_task(robot: RobotModel, world: World, seed: int) -> None:
    """The expert succeeds well within every limit, and with a pause of 1 s in the push too."""
    expert = PushExpert(robot)
    port, follower = InlinePort(expert), Follower(robot, expert)
    episode = run_episode(world, port, follower, seed)
    assert episode.success
    assert episode.error < 0.01
    assert episode.clearance > 0.03
    assert max(episode.speed, episode.acceleration, episode.torque) < 0.7
    assert run_episode(world, port, follower, seed, pause=Pause(1.5, 1.0)).success
