"""The robots that come by name: what they are, that home is clear, and that MuJoCo agrees about them."""

from __future__ import annotations

from functools import cache
from typing import Any

import coal
import mujoco
import numpy as np
import pinocchio as pin
import pytest

from safeguard.core.geometry import distances
from safeguard.core.meshes import MAX_CORNERS
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

NAMES = ("panda", "panda_fingers", "so101", "so101_arm", "ur10", "g1")
PANDA_DIGEST = "17b266d7c4c76dedeb0868afa47ec46b9fd50f5df2c522a9ca3b7a5ea8a8bb9e"


@cache
def robot(name: str) -> RobotModel:
    """By name, once."""
    return RobotModel.load(name)


@cache
def twin(name: str) -> Any:
    """Its compiled MuJoCo model."""
    return robot(name).to_mujoco().compile()


def anywhere(name: str, rng: np.random.Generator) -> Vector:
    """A configuration within the limits."""
    return rng.uniform(robot(name).limits.q_min, robot(name).limits.q_max)


def test_these_are_all() -> None:
    """Every name that ``load`` accepts is tested here."""
    assert set(RobotModel.known()) == set(NAMES)


def test_the_digest_of_the_panda_is_that_of_the_recorded_calibration() -> None:
    """Recorded artefacts are bound to it: whatever changes it makes them void."""
    assert robot("panda").digest == PANDA_DIGEST


@pytest.mark.parametrize(
    ("name", "n", "pieces", "pairs"),
    [
        ("panda", 7, 13, 53),
        ("panda_fingers", 9, 13, 56),
        ("so101", 6, 17, 85),
        ("so101_arm", 5, 17, 83),
        ("ur10", 6, 8, 20),
        ("g1", 29, 36, 579),
    ],
)
def test_size(name: str, n: int, pieces: int, pairs: int) -> None:
    """Joints, pieces and pairs; the G1 stands on a fixed base with all of its 29 joints."""
    collision = robot(name).collision
    assert (robot(name).n, len(collision.links), len(collision.pairs)) == (n, pieces, pairs)


@pytest.mark.parametrize("name", NAMES)
def test_every_limit_has_a_source_and_home_is_clear(name: str) -> None:
    """Limits are finite and say where they come from, home is inside of them, and no pair is nearer than 5 mm there."""
    limits = robot(name).limits
    limits.validate(robot(name).joints, name)
    assert all(limits.provenance.values())
    assert ((robot(name).home >= limits.q_min) & (robot(name).home <= limits.q_max)).all()
    assert distances(robot(name).pin_model, robot(name).collision, robot(name).home).min() > 0.005
    assert (np.asarray(robot(name).pin_model.armature) > 0.0).all()


@pytest.mark.parametrize("name", NAMES)
def test_mujoco_has_the_same_dynamics(name: str) -> None:
    """Mass matrix and bias at 20 random states to 1e-12 of their largest entry."""
    model, rng = twin(name), np.random.default_rng(0)
    data: Any = mujoco.MjData(model)
    own = robot(name).pin_model.createData()
    for _ in range(20):
        q, v = anywhere(name, rng), rng.normal(size=robot(name).n)
        data.qpos[:], data.qvel[:] = q, v
        mujoco.mj_forward(model, data)
        M = np.zeros((model.nv, model.nv))
        mujoco.mj_fullM(model, data, M)
        mine = np.triu(pin.crba(robot(name).pin_model, own, q))
        mine = mine + np.triu(mine, 1).T
        bias = np.array(pin.nonLinearEffects(robot(name).pin_model, own, q, v))
        np.testing.assert_allclose(M, mine, atol=1e-12 * np.abs(M).max())
        np.testing.assert_allclose(data.qfrc_bias, bias, atol=1e-12 * np.abs(bias).max())


@pytest.mark.parametrize("name", NAMES)
def test_mujoco_sees_no_contact_that_the_pieces_miss(name: str) -> None:
    """At 100 random configurations every contact of the exact shapes is a negative distance of its pieces.

    Control: MuJoCo does see contacts, and of the pairs with a negative distance it sees nine in ten.
    """
    model, rng, collision = twin(name), np.random.default_rng(1), robot(name).collision
    data: Any = mujoco.MjData(model)
    piece = {member: k for k, members in enumerate(collision.members) for member in members}
    pair = {pieces: k for k, pieces in enumerate(collision.pairs)}
    touching = negative = 0
    for _ in range(100):
        q = anywhere(name, rng)
        found = distances(robot(name).pin_model, collision, q)
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        seen = set[int]()
        for geoms, depth in zip(data.contact.geom, data.contact.dist, strict=True):
            a, b = sorted(piece[model.geom(int(geom)).name] for geom in geoms)
            assert found[pair[a, b]] < max(0.0, depth + 1e-4)
            seen.add(pair[a, b])
        touching += len(seen)
        negative += int((found < 0.0).sum())
    assert touching > 10
    assert touching > 0.9 * negative


@pytest.mark.parametrize("name", NAMES)
def test_no_distance_changes_by_more_than_reach_allows(name: str) -> None:
    """At 60 random steps, small and large; the bound is not idle: a step takes up a third of it."""
    rng, collision, largest = np.random.default_rng(2), robot(name).collision, 0.0
    for _ in range(60):
        q, step = anywhere(name, rng), rng.normal(size=robot(name).n) * 10.0 ** rng.uniform(-3, -0.5)
        step[rng.random(len(step)) < 0.5] = 0.0
        both = [distances(robot(name).pin_model, collision, x) for x in (q, q + step)]
        apart = (both[0] > 0.0) & (both[1] > 0.0)  # the depth of a penetration is no distance
        change, travel = np.abs(both[1] - both[0])[apart], (collision.reach @ np.abs(step))[apart]
        assert (change <= travel + 1e-6).all()
        largest = max(largest, float((change[travel > 1e-3] / travel[travel > 1e-3]).max(initial=0.0)))
    assert largest > 0.33


@pytest.mark.parametrize("name", ["so101", "so101_arm", "ur10", "g1"])
def test_meshes_are_held_by_small_plain_polytopes(name: str) -> None:
    """Every mesh piece is a convex shape with readable corners, at most MAX_CORNERS of them."""
    pieces = zip(robot(name).collision.geometry.geometryObjects, robot(name).collision.meshes, strict=True)
    shapes = [obj.geometry for obj, mesh in pieces if mesh]
    assert len(shapes) >= 7
    for shape in shapes:
        assert isinstance(shape, coal.ConvexBase)
        assert 4 <= len(np.asarray(shape.points())) <= MAX_CORNERS


@pytest.mark.parametrize("name", ["so101", "so101_arm", "ur10", "g1"])
def test_polytopes_cost_no_pair(name: str) -> None:
    """No pair that the exact hulls can part is dropped as always touching: only neighbours are missing."""
    collision, parents = robot(name).collision, list(robot(name).pin_model.parents)
    bodies = [int(obj.parentJoint) for obj in collision.geometry.geometryObjects]
    apart = {
        (i, j)
        for i in range(len(bodies))
        for j in range(i + 1, len(bodies))
        if bodies[i] != bodies[j] and parents[bodies[i]] != bodies[j] and parents[bodies[j]] != bodies[i]
    }
    assert set(collision.pairs) == apart


def test_fingers_are_joints_of_their_own() -> None:
    """Two sliding joints in metres; the arm is the Panda's, and the fingers have a pair with each other."""
    fingers = robot("panda_fingers")
    assert fingers.joints[7:] == ("panda_finger_joint1", "panda_finger_joint2")
    np.testing.assert_allclose(fingers.home, [*robot("panda").home, 0.02, 0.02])
    assert "panda_leftfinger|panda_rightfinger" in fingers.collision.names
    model: Any = twin("panda_fingers")
    assert model.neq == 0
