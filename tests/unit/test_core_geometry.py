"""Pieces, frozen pairs and the bound on how far a joint moves them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pinocchio as pin
import pytest

from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector
from tests.unit.controllers_support import (
    ARM_URDF,
    capsule_ends,
    panda,
    random_q,
    replaced,
    segment_distances,
    tiny_arm,
)

CORNERS = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1], [0.02, 0.02, 0.02]])


def bodies_of(robot: RobotModel, name: str) -> tuple[int, int]:
    """Joint indices of the two links of a pair."""
    a, b = name.split("|")
    frames = [robot.pin_model.frames[robot.pin_model.getBodyId(link)].parentJoint for link in (a, b)]
    return frames[0], frames[1]


def pair_distances(robot: RobotModel, q: Vector) -> Vector:
    """Distances of the kept pairs by pinocchio."""
    data, placed = robot.pin_model.createData(), robot.collision.geometry.createData()
    pin.computeDistances(robot.pin_model, data, robot.collision.geometry, placed, q)
    return np.array([result.min_distance for result in placed.distanceResults])


def all_distances(robot: RobotModel, q: Vector) -> Vector:
    """Distances of all pairs of pieces in plain numpy, shape (pieces, pieces)."""
    starts, ends, radii = capsule_ends(robot, q)
    count = len(radii)
    i, j = np.repeat(np.arange(count), count), np.tile(np.arange(count), count)
    gap = segment_distances(starts[i], ends[i], starts[j], ends[j]) - radii[i] - radii[j]
    return gap.reshape(count, count)


def test_a_cylinder_with_its_caps_is_one_capsule_and_the_rest_stays(tmp_path: Path) -> None:
    """Three primitives of the forearm become one piece; box and sphere are themselves; nothing is lost."""
    collision = tiny_arm(tmp_path).collision
    assert set(collision.members) == {("fore_0", "fore_1", "fore_2"), ("upper_0",), ("base_0",)}
    kinds = {
        link: type(o.geometry).__name__
        for link, o in zip(collision.links, collision.geometry.geometryObjects, strict=True)
    }
    assert kinds == {"fore": "Capsule", "upper": "Box", "base": "Sphere"}


def test_a_cylinder_without_caps_stays_a_cylinder(tmp_path: Path) -> None:
    """One cap missing, or of another radius: no capsule would enclose the rim and be the same set."""
    text = replaced(
        ARM_URDF,
        '<origin xyz="0 0 0.25"/><geometry><sphere radius="0.03"/>',
        '<origin xyz="0 0 0.25"/><geometry><sphere radius="0.01"/>',
    )
    collision = tiny_arm(tmp_path, text).collision
    kinds = sorted(type(o.geometry).__name__ for o in collision.geometry.geometryObjects)
    assert kinds == ["Box", "Cylinder", "Sphere", "Sphere", "Sphere"]


def test_a_capsule_grows_by_what_its_caps_are_off(tmp_path: Path) -> None:
    """A cap 0.5 mm beside the end of its cylinder: the radius grows by that, and everything stays enclosed."""
    text = replaced(ARM_URDF, '<origin xyz="0 0 0.25"/>', '<origin xyz="0 0 0.2505"/>')
    pieces = tiny_arm(tmp_path, text).collision.geometry.geometryObjects
    radii = [o.geometry.radius for o in pieces if type(o.geometry).__name__ == "Capsule"]
    assert radii == [pytest.approx(0.0305, abs=1e-9)]


def test_adjacent_and_always_touching_bodies_are_no_pair_and_all_others_are() -> None:
    """Left out are pairs of one body, of two joined by a joint, and those that touch in 300 fresh configurations."""
    robot, rng = panda(), np.random.default_rng(99)
    kept, parents = set(robot.collision.pairs), list(robot.pin_model.parents)
    pieces = list(robot.collision.geometry.geometryObjects)
    everything = [(i, j) for i in range(len(pieces)) for j in range(i + 1, len(pieces))]
    distances = [all_distances(robot, random_q(rng)) for _ in range(300)]
    touching = 0
    for i, j in everything:
        a, b = pieces[i].parentJoint, pieces[j].parentJoint
        joined = a == b or parents[a] == b or parents[b] == a
        always = all(found[i, j] <= 0.0 for found in distances)
        assert ((i, j) in kept) == (not joined and not always), (pieces[i].name, pieces[j].name)
        touching += always and not joined
    assert touching > 0


def test_pairs_that_sampling_calls_never_colliding_are_kept() -> None:
    """The SRDF disables 22 pairs as "Never" by sampling, which proves nothing; the non-adjacent ones are kept."""
    kept = {frozenset(name.split("|")) for name in panda().collision.names}
    never = [
        ("panda_hand", "panda_link3"), ("panda_hand", "panda_link4"), ("panda_leftfinger", "panda_link3"),
        ("panda_link0", "panda_link2"), ("panda_link0", "panda_link3"), ("panda_link0", "panda_link4"),
        ("panda_link1", "panda_link4"), ("panda_link2", "panda_link4"), ("panda_link3", "panda_link5"),
        ("panda_link3", "panda_link6"), ("panda_link3", "panda_link7"), ("panda_link4", "panda_link6"),
        ("panda_link4", "panda_link7"), ("panda_link4", "panda_rightfinger"),
    ]  # fmt: skip
    assert {frozenset(pair) for pair in never} <= kept


def test_an_always_touching_pair_is_dropped(tmp_path: Path) -> None:
    """A base that swallows the forearm in every configuration could only ever alarm."""
    assert tiny_arm(tmp_path).collision.names in {("fore|base",), ("base|fore",)}
    swallowed = replaced(ARM_URDF, '<sphere radius="0.05"/>', '<sphere radius="2.0"/>')
    assert tiny_arm(tmp_path, swallowed).collision.names == ()


def test_between_says_which_piece_a_joint_moves() -> None:
    """+1 where only the second piece moves, −1 only the first, 0 both or none; reach is zero exactly there."""
    collision = panda().collision
    for row, name in enumerate(collision.names):
        a, b = bodies_of(panda(), name)
        expected = [float(j < b) - float(j < a) for j in range(7)]  # a chain: joint j moves the bodies after it
        np.testing.assert_array_equal(collision.between[row], expected)
        np.testing.assert_array_equal(collision.reach[row] > 0.0, np.array(expected) != 0.0)


def test_reach_bounds_sliding_joints_too(tmp_path: Path) -> None:
    """A prismatic joint moves its link by as much as itself, and lengthens the lever of the joint before it."""
    text = replaced(ARM_URDF, '"elbow" type="revolute"', '"elbow" type="prismatic"')
    robot, rng = tiny_arm(tmp_path, text), np.random.default_rng(0)
    assert robot.collision.reach[0, 1] == 1.0
    largest = 0.0
    for _ in range(300):
        q = rng.uniform(robot.limits.q_min, robot.limits.q_max)
        step = rng.normal(size=2) * 10.0 ** rng.uniform(-3, -0.5)
        change = np.abs(pair_distances(robot, q + step) - pair_distances(robot, q))
        travel = robot.collision.reach @ np.abs(step)
        assert (change <= travel + 1e-9).all()
        largest = max(largest, float((change / travel).max()))
    assert largest > 0.3


def write_stl(path: Path, corners: Vector) -> None:
    """A binary STL of all triangles of the corners."""
    n = len(corners)
    faces = [(i, j, k) for i in range(n) for j in range(i + 1, n) for k in range(j + 1, n)]
    body = b"".join(struct.pack("<12fH", 0, 0, 0, *corners[[i, j, k]].ravel(), 0) for i, j, k in faces)
    path.write_bytes(bytes(80) + struct.pack("<I", len(faces)) + body)


def test_a_mesh_becomes_its_convex_hull(tmp_path: Path) -> None:
    """Found through package_dirs; the hull holds every corner of the mesh, and distances are those of the hull."""
    (tmp_path / "parts").mkdir()
    write_stl(tmp_path / "parts" / "tip.stl", CORNERS)
    text = replaced(ARM_URDF, '<sphere radius="0.05"/>', '<mesh filename="package://parts/tip.stl"/>')
    robot = tiny_arm(tmp_path, text, package_dirs=[tmp_path])
    hull = next(o for o in robot.collision.geometry.geometryObjects if o.name == "base_0").geometry
    points = np.asarray(hull.points())
    assert {tuple(p) for p in np.round(points, 6)} >= {tuple(c) for c in CORNERS[:4]}
    q = np.zeros(2)
    apart = 0.1 + 0.4 + 0.05 - 0.03 - (0.02 + 0.1)  # from the tip of the mesh to the forearm's lower cap
    assert pair_distances(robot, q)[0] == pytest.approx(apart, abs=1e-6)


def test_the_digest_covers_the_corners_of_a_mesh(tmp_path: Path) -> None:
    """The same file name with another shape is another robot."""
    text = replaced(ARM_URDF, '<sphere radius="0.05"/>', '<mesh filename="tip.stl"/>')
    digests = set[str]()
    for scale in (1.0, 1.001):
        write_stl(tmp_path / "tip.stl", scale * CORNERS)
        digests.add(tiny_arm(tmp_path, text).digest)
    assert len(digests) == 2
