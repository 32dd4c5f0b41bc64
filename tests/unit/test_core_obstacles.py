"""Obstacles and walls: what may be said, and distances, names, bounds, record and twin of what comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import coal
import mujoco
import numpy as np
import pinocchio as pin
import pytest

from safeguard.core.errors import RobotError, UnknownNameError
from safeguard.core.geometry import distances
from safeguard.core.obstacles import Box, Capsule, HalfSpace, Obstacle, Sphere, parsed_obstacles, placed_shape
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector
from tests.unit.controllers_support import panda, random_q, tiny_arm

SCENE: tuple[Obstacle, ...] = (
    Sphere(name="ball", center_m=(0.45, 0.3, 0.35), radius_m=0.1),
    Capsule(name="pole", start_m=(-0.3, 0.6, 0.0), end_m=(-0.2, 0.5, 1.0), radius_m=0.05),
    Box(name="bin", center_m=(0.4, -0.5, 0.2), size_m=(0.3, 0.2, 0.4), rpy_rad=(0.1, -0.2, 0.7)),
    HalfSpace(name="table", normal=(0.0, 0.02, 2.0), offset_m=-0.2),
)


def rows(robot: RobotModel, obstacle: str) -> list[int]:
    """Pairs of one obstacle."""
    return [k for k, name in enumerate(robot.collision.names) if name.endswith(f"|{obstacle}")]


def test_every_piece_that_can_move_is_watched_and_the_base_is_not() -> None:
    """Twelve of the Panda's thirteen pieces, for each obstacle; the pairs that were there come first, unchanged."""
    robot = panda().with_obstacles(SCENE)
    old = len(panda().collision.names)
    assert robot.collision.names[:old] == panda().collision.names
    assert robot.collision.pairs[:old] == panda().collision.pairs
    moving = [o for o in panda().collision.geometry.geometryObjects if o.parentJoint > 0]
    for shape in SCENE:
        pairs = [robot.collision.names[k] for k in rows(robot, shape.name)]
        assert len(pairs) == len(moving)
        assert not any(name.startswith("panda_link0|") for name in pairs)
        assert f"panda_hand|{shape.name}" in pairs
    assert len(robot.collision.names) == old + 4 * len(moving)
    np.testing.assert_array_equal(robot.collision.reach[:old], panda().collision.reach)


def test_distances_to_a_half_space_are_the_formula() -> None:
    """The least over the piece of (normal·x − offset) / |normal|, to 1e-9 m, also in penetration."""
    wall = SCENE[3]
    assert isinstance(wall, HalfSpace)
    robot = panda().with_obstacles([wall])
    normal = np.array(wall.normal) / np.linalg.norm(wall.normal)
    level = wall.offset_m / float(np.linalg.norm(wall.normal))
    rng, data, below = np.random.default_rng(0), robot.pin_model.createData(), 0
    for _ in range(100):
        q = random_q(rng)
        found = distances(robot.pin_model, robot.collision, q)
        pin.forwardKinematics(robot.pin_model, data, q)
        for k in rows(robot, "table"):
            obj = robot.collision.geometry.geometryObjects[robot.collision.pairs[k][0]]
            place = data.oMi[obj.parentJoint] * obj.placement
            half = np.array([0.0, 0.0, obj.geometry.halfLength])
            lowest = min(float(normal @ place.act(end)) for end in (half, -half)) - obj.geometry.radius
            assert found[k] == pytest.approx(lowest - level, abs=1e-9)
            below += lowest < level
    assert below > 5


def extreme(shape: Any, direction: Vector) -> float:
    """Support function of a shape in its own frame, from its definition."""
    match shape:
        case coal.Sphere():
            return float(shape.radius)
        case coal.Capsule():
            return float(shape.radius + shape.halfLength * abs(direction[2]))
        case coal.Box():
            return float(np.abs(direction) @ np.asarray(shape.halfSide))
        case coal.Cylinder():
            return float(shape.radius * np.hypot(*direction[:2]) + shape.halfLength * abs(direction[2]))
        case _:
            return float((np.asarray(shape.points()) @ direction).max())


@pytest.mark.parametrize("kind", ["sphere", "capsule", "box", "cylinder", "convex"])
def test_the_library_measures_half_spaces_exactly(kind: str) -> None:
    """For every kind of piece at 200 random placements: distance and normal (out of the wall) as by hand, to 1e-9."""
    rng = np.random.default_rng(1)
    corners = coal.StdVec_Vec3s()
    for corner in rng.normal(scale=0.1, size=(30, 3)):
        corners.append(corner)
    piece = {
        "sphere": coal.Sphere(0.1), "capsule": coal.Capsule(0.05, 0.3), "box": coal.Box(0.1, 0.2, 0.3),
        "cylinder": coal.Cylinder(0.1, 0.3), "convex": coal.Convex.convexHull(corners, True, "Qt"),
    }[kind]  # fmt: skip
    for _ in range(200):
        normal, offset = rng.normal(size=3), float(rng.normal())
        wall, at = placed_shape(HalfSpace(name="w", normal=tuple(normal), offset_m=offset))
        turn = pin.SE3(pin.exp3(rng.normal(size=3)), rng.normal(size=3))
        result = coal.DistanceResult()
        poses = [coal.Transform3s(x.rotation, x.translation) for x in (turn, at)]
        coal.distance(piece, poses[0], wall, poses[1], coal.DistanceRequest(), result)
        unit = normal / np.linalg.norm(normal)
        away = float(unit @ turn.translation) - extreme(piece, -turn.rotation.T @ unit)
        assert result.min_distance == pytest.approx(away - offset / np.linalg.norm(normal), abs=1e-9)
        np.testing.assert_allclose(result.normal, -unit, atol=1e-9)


def test_distances_to_solids_are_those_of_their_definition() -> None:
    """Ball, pole and box against every link, measured from points on the link's axis in plain numpy."""
    robot, rng = panda().with_obstacles(SCENE), np.random.default_rng(2)
    data = robot.pin_model.createData()
    steps = np.linspace(0.0, 1.0, 2001)[:, None]
    for _ in range(10):
        q = random_q(rng)
        found = distances(robot.pin_model, robot.collision, q)
        pin.forwardKinematics(robot.pin_model, data, q)
        for shape in SCENE[:3]:
            for k in rows(robot, shape.name):
                obj = robot.collision.geometry.geometryObjects[robot.collision.pairs[k][0]]
                place = data.oMi[obj.parentJoint] * obj.placement
                half = np.array([0.0, 0.0, obj.geometry.halfLength])
                axis = place.act(-half) + steps * (place.act(half) - place.act(-half))
                gap = distance_to(shape, axis) - obj.geometry.radius
                if gap > 0.0:  # by sampling the link's axis: never too small, and at most a step too large
                    assert gap - 1e-3 <= found[k] <= gap + 1e-6


def distance_to(shape: Obstacle, points: Vector) -> float:
    """Least distance of points from a solid, in plain numpy."""
    match shape:
        case Sphere():
            return float(np.linalg.norm(points - shape.center_m, axis=1).min()) - shape.radius_m
        case Capsule():
            start, along = np.array(shape.start_m), np.array(shape.end_m) - np.array(shape.start_m)
            share = np.clip((points - start) @ along / (along @ along), 0.0, 1.0)
            return float(np.linalg.norm(points - start - share[:, None] * along, axis=1).min()) - shape.radius_m
        case Box():
            r, p, y = shape.rpy_rad
            turn = pin.exp3(np.array([0, 0, y])) @ pin.exp3(np.array([0, p, 0])) @ pin.exp3(np.array([r, 0, 0]))
            own = (points - shape.center_m) @ turn
            return float(np.linalg.norm(np.maximum(np.abs(own) - 0.5 * np.array(shape.size_m), 0.0), axis=1).min())
        case HalfSpace():
            return float((points @ shape.normal).min()) - shape.offset_m


def test_reach_and_between_hold_for_obstacles() -> None:
    """Every joint before a link counts as moving only it; no distance changes by more than reach allows."""
    robot, rng = panda().with_obstacles(SCENE), np.random.default_rng(3)
    old = len(panda().collision.names)
    for k, (i, _) in list(enumerate(robot.collision.pairs))[old:]:
        body = int(robot.collision.geometry.geometryObjects[i].parentJoint)
        np.testing.assert_array_equal(robot.collision.between[k], [-1.0] * body + [0.0] * (7 - body))
    assert np.isfinite(robot.collision.reach).all()
    for _ in range(200):
        q, step = random_q(rng), rng.normal(size=7) * 10.0 ** rng.uniform(-3, -0.5)
        change = distances(robot.pin_model, robot.collision, q + step) - distances(robot.pin_model, robot.collision, q)
        assert (np.abs(change) <= robot.collision.reach @ np.abs(step) + 1e-9).all()


def test_touching_at_home_is_an_error_that_names_the_pair() -> None:
    """The links that reach into a ball at the hand are in the message; the base may stand in a table."""
    hand = Sphere(name="ball", center_m=(0.31, 0.0, 0.5), radius_m=0.1)
    with pytest.raises(RobotError, match=r"panda_\w+\|ball touch at home, by [0-9.]+ mm"):
        panda().with_obstacles([hand])
    table = HalfSpace(name="table", normal=(0.0, 0.0, 1.0), offset_m=0.0)
    with pytest.raises(RobotError, match=r"panda_link1\|table touch at home.*'ignores'"):
        panda().with_obstacles([table])


def test_a_link_that_is_mounted_to_an_obstacle_can_be_left_out() -> None:
    """``ignores`` takes out the pairs of a link and no others; a link that does not exist is an error."""
    table = HalfSpace(name="table", normal=(0.0, 0.0, 1.0), offset_m=0.0, ignores=("panda_link1",))
    robot = panda().with_obstacles([table])
    names = {robot.collision.names[k] for k in rows(robot, "table")}
    assert "panda_link1|table" not in names
    assert {"panda_link2|table", "panda_hand|table", "panda_leftfinger|table"} <= names
    with pytest.raises(UnknownNameError, match=r"'panda_link_1'.*panda_link1"):
        panda().with_obstacles([table.model_copy(update={"ignores": ("panda_link_1",)})])


@pytest.mark.parametrize(
    ("obstacle", "message"),
    [
        ({"kind": "ball", "name": "x"}, "kind"),
        ({"kind": "sphere", "name": "x", "center_m": (0, 0, 1)}, "radius_m"),
        ({"kind": "sphere", "name": "x", "center_m": (0, 0, 1), "radius_m": 0.0}, "greater than 0"),
        ({"kind": "sphere", "name": "x", "center_m": (0, 0, np.nan), "radius_m": 1.0}, "finite"),
        ({"kind": "sphere", "name": "x", "center_m": (0, 0, 1), "radius": 1.0}, "radius"),
        ({"kind": "sphere", "name": "a|b", "center_m": (0, 0, 1), "radius_m": 1.0}, "name"),
        ({"kind": "capsule", "name": "x", "start_m": (0, 0, 1), "end_m": (0, 0, 1), "radius_m": 1.0}, "one point"),
        ({"kind": "half_space", "name": "x", "normal": (0, 0, 0), "offset_m": 1.0}, "normal is zero"),
        ({"kind": "box", "name": "x", "center_m": (0, 0, 1), "size_m": (1, 1)}, "size_m"),
        ("table", "obstacles"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(obstacle: Any, message: str) -> None:
    """Unknown kinds and keys, missing, non-finite, negative or degenerate values: the key is in the message."""
    with pytest.raises(RobotError, match=message):
        panda().with_obstacles([obstacle])


def test_a_taken_name_is_refused() -> None:
    """Twice in one list, twice in a row, or the name of a link: pairs must be told apart."""
    ball, far = SCENE[0], Sphere(name="panda_hand", center_m=(0.5, 0.4, 0.3), radius_m=0.1)
    for robot, obstacles in ((panda(), [ball, ball]), (panda().with_obstacles([ball]), [ball]), (panda(), [far])):
        with pytest.raises(RobotError, match="the name is taken"):
            robot.with_obstacles(obstacles)


def test_models_and_mappings_say_the_same() -> None:
    """Both forms parse to the same obstacles and survive JSON."""
    text = json.dumps([shape.model_dump(mode="json") for shape in SCENE])
    assert parsed_obstacles(json.loads(text)) == SCENE
    assert parsed_obstacles(SCENE) == SCENE


def test_the_digest_and_the_source_know_the_scene(tmp_path: Path) -> None:
    """Another place, size, kind, name or no obstacle is another robot; the source rebuilds this one."""
    arm = tiny_arm(tmp_path)
    ball: dict[str, Any] = {"kind": "sphere", "name": "ball", "center_m": [1.0, 0.0, 0.3], "radius_m": 0.1}
    wall: dict[str, Any] = {"kind": "half_space", "name": "ball", "normal": [0.0, 0.0, 1.0], "offset_m": -1.0}
    variants = [
        ball,
        {**ball, "center_m": [1.0, 0.0, 0.300001]},
        {**ball, "radius_m": 0.100001},
        {**ball, "name": "balloon"},
        wall,
        {**wall, "offset_m": -1.000001},
        {**wall, "normal": [0.0, 1e-6, 1.0]},
    ]
    robots = [arm.with_obstacles([shape]) for shape in variants]
    assert len({arm.digest, *(robot.digest for robot in robots)}) == len(robots) + 1
    scene = panda().with_payload(1.0, [0.0, 0.0, 0.1]).with_obstacles(SCENE[:2]).with_obstacles(SCENE[2:])
    again = RobotModel.from_source(json.loads(json.dumps(dict(scene.source))))
    assert again.digest == scene.digest
    assert again.collision.names == scene.collision.names


def test_the_twin_sees_the_same_scene() -> None:
    """At 300 configurations MuJoCo sees contact with an obstacle exactly when that obstacle's distance is negative."""
    robot = panda().with_obstacles(SCENE)
    model = robot.to_mujoco().compile()
    data: Any = mujoco.MjData(model)
    rng, seen = np.random.default_rng(4), dict.fromkeys([shape.name for shape in SCENE], 0)
    for _ in range(300):
        q = random_q(rng)
        found = distances(robot.pin_model, robot.collision, q)
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        touched = {model.geom(int(geom)).name for pair in data.contact.geom for geom in pair}
        for shape in SCENE:
            least = min(found[k] for k in rows(robot, shape.name))
            if abs(least) > 2e-3:  # the Panda's capsules are up to 1 mm larger than its primitives
                assert (shape.name in touched) == (least < 0.0), shape.name
                seen[shape.name] += least < 0.0
    assert min(seen.values()) > 5
