"""Tools: mass, shapes and a new tip at the tool frame, in the dynamics, the pairs, the record and the twin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pinocchio as pin
import pytest

from safeguard.core.errors import RobotError, UnknownNameError
from safeguard.core.geometry import distances
from safeguard.core.obstacles import Box, Capsule, HalfSpace, Sphere
from safeguard.core.robot import RobotModel
from tests.unit.controllers_support import panda, random_q, tiny_arm
from tests.unit.test_core_mujoco_spec import worst_disagreement

INERTIA = np.array([[0.004, 0.0002, 0.0], [0.0002, 0.005, -0.0001], [0.0, -0.0001, 0.003]])
SHAPES = (
    Capsule(name="shaft", start_m=(0.0, 0.0, 0.02), end_m=(0.0, 0.0, 0.25), radius_m=0.02),
    Box(name="cross", center_m=(0.0, 0.0, 0.27), size_m=(0.2, 0.02, 0.02), rpy_rad=(0.1, 0.2, 0.3)),
    Sphere(name="ball", center_m=(0.05, 0.0, 0.3), radius_m=0.03),
)
TIP = np.array([[0.0, 0.0, 1.0, 0.05], [0.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.33], [0.0, 0.0, 0.0, 1.0]])


def welder(robot: RobotModel) -> RobotModel:
    """The robot with the tool of this page."""
    return robot.with_tool(1.2, [0.01, -0.02, 0.1], INERTIA, SHAPES, TIP, "welder")


def tip_of(robot: RobotModel, q: Any) -> Any:
    """Placement of the tool frame in the world."""
    data = robot.pin_model.createData()
    pin.framesForwardKinematics(robot.pin_model, data, q)
    return data.oMf[robot.pin_model.getFrameId(robot.tool_frame)]


def test_the_mass_is_that_of_a_payload() -> None:
    """Mass matrix and gravity are those of the same load given to ``with_payload``; the robot itself is unchanged."""
    before, q = panda().digest, random_q(np.random.default_rng(0))
    models = [r.pin_model for r in (welder(panda()), panda().with_payload(1.2, [0.01, -0.02, 0.1], INERTIA))]
    data = [model.createData() for model in models]
    inertia = [pin.crba(model, place, q) for model, place in zip(models, data, strict=True)]
    np.testing.assert_allclose(inertia[0], inertia[1], atol=1e-12)
    assert panda().digest == before


def test_the_tip_is_seen_from_the_old_tool_frame() -> None:
    """The new tool frame is the old one times the transform; a translation will do, and None leaves it."""
    rng = np.random.default_rng(1)
    for tip in (TIP, TIP[:3, 3]):
        robot = panda().with_tool(0.5, [0, 0, 0], tip=tip)
        assert robot.tool_frame == "tool_tip"
        q = random_q(rng)
        expected = tip_of(panda(), q).homogeneous @ (TIP if tip is TIP else np.vstack([np.c_[np.eye(3), tip], TIP[3]]))
        np.testing.assert_allclose(tip_of(robot, q).homogeneous, expected, atol=1e-12)
    assert panda().with_tool(0.5, [0, 0, 0]).tool_frame == panda().tool_frame


def test_a_payload_after_a_tool_hangs_at_its_tip() -> None:
    """The load's point mass is where the new tool frame puts it."""
    loaded, bare = welder(panda()).with_payload(2.0, [0.0, 0.0, 0.0]), welder(panda())
    q = random_q(np.random.default_rng(2))
    pull = [pin.computeGeneralizedGravity(r.pin_model, r.pin_model.createData(), q) for r in (loaded, bare)]
    data = bare.pin_model.createData()
    frame = bare.pin_model.getFrameId(bare.tool_frame)
    J = pin.computeFrameJacobian(bare.pin_model, data, q, frame, pin.ReferenceFrame.LOCAL_WORLD_ALIGNED)
    np.testing.assert_allclose(pull[0] - pull[1], J[2] * 2.0 * 9.81, atol=1e-9)


def test_its_shapes_are_watched_against_all_but_what_they_are_bolted_to() -> None:
    """Every piece but those of the last body, link 6 too, has a pair with each shape; none with each other."""
    robot = welder(panda())
    old = panda().collision
    assert robot.collision.names[: len(old.names)] == old.names
    others = [k for k, o in enumerate(old.geometry.geometryObjects) if o.parentJoint < 7]
    assert {old.links[k] for k in others} >= {"panda_link0", "panda_link5", "panda_link6"}
    new = robot.collision.pairs[len(old.pairs) :]
    assert sorted(new) == sorted((k, len(old.links) + s) for k in others for s in range(3))
    assert robot.collision.names[-1].endswith("|welder")
    q, data = random_q(np.random.default_rng(3)), robot.pin_model.createData()
    pin.forwardKinematics(robot.pin_model, data, q)
    ball = robot.collision.geometry.geometryObjects[len(old.links) + 2]
    here = (data.oMi[ball.parentJoint] * ball.placement).translation
    np.testing.assert_allclose(here, tip_of(panda(), q).act(np.array([0.05, 0.0, 0.3])), atol=1e-12)


def test_always_touching_and_ignored_links_are_left_out() -> None:
    """A shape that swallows the wrist in every posture has no pair with it; an ignored link has none either."""
    sleeve = Sphere(name="sleeve", center_m=(0.0, 0.0, -0.2), radius_m=0.15)
    names = {name for name in panda().with_tool(0.1, [0, 0, 0], shapes=[sleeve]).collision.names if "|tool" in name}
    assert "panda_link6|tool" not in names
    assert "panda_link3|tool" in names
    spared = SHAPES[0].model_copy(update={"ignores": ("panda_link5",)})
    names = set(panda().with_tool(0.1, [0, 0, 0], shapes=[spared]).collision.names)
    assert "panda_link5|tool" not in names
    assert "panda_link4|tool" in names
    with pytest.raises(UnknownNameError, match="'panda_link9'"):
        panda().with_tool(0.1, [0, 0, 0], shapes=[spared.model_copy(update={"ignores": ("panda_link9",)})])


def test_a_tool_among_obstacles_is_watched_against_them() -> None:
    """Pairs with what is already there; touching it at home is an error even if it always touches."""
    wall = HalfSpace(name="wall", normal=(-1.0, 0.0, 0.0), offset_m=-0.9)
    robot = welder(panda().with_obstacles([wall]))
    assert robot.collision.names.count("wall|welder") == 3
    everywhere = Sphere(name="cloud", center_m=(0.0, 0.0, 0.0), radius_m=5.0)
    with pytest.raises(RobotError, match=r"\|giant touch at home"):
        panda().with_obstacles([wall]).with_tool(1.0, [0, 0, 0], shapes=[everywhere], name="giant")


def test_the_twin_has_the_tool() -> None:
    """Dynamics to rounding, the tip as a site, and contacts exactly when a distance of the tool is negative."""
    robot = welder(panda()).with_payload(0.5, [0.0, 0.02, 0.0])
    model = robot.to_mujoco().compile()
    assert max(worst_disagreement(robot, model)) < 1e-7
    data: Any = mujoco.MjData(model)
    rng, touching = np.random.default_rng(5), 0
    mine = [k for k, name in enumerate(robot.collision.names) if name.endswith("|welder")]
    for _ in range(400):
        q = random_q(rng)
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        np.testing.assert_allclose(data.site("welder_tip").xpos, tip_of(robot, q).translation, atol=1e-9)
        np.testing.assert_allclose(data.site("welder_tip").xmat.reshape(3, 3), tip_of(robot, q).rotation, atol=1e-9)
        least = distances(robot.pin_model, robot.collision, q)[mine].min()
        seen = any("welder/" in model.geom(int(geom)).name for pair in data.contact.geom for geom in pair)
        if abs(least) > 2e-3:  # the Panda's capsules are up to 1 mm larger than its primitives
            assert seen == (least < 0.0)
            touching += least < 0.0
    assert touching > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mass": -1.0}, "tool 'x': mass -1.0 kg"),
        ({"inertia": -np.eye(3)}, "positive semi-definite"),
        ({"tip": [0.0, 1.0]}, r"tip must be a translation \(3,\) or a transform \(4, 4\)"),
        ({"tip": 2.0 * np.eye(4)}, "no rigid transform"),
        ({"tip": np.diag([1.0, 1.0, -1.0, 1.0])}, "no rigid transform"),
        ({"tip": [0.0, np.nan, 0.0]}, "tip must be"),
        ({"tip": ["a", "b", "c"]}, "must be numbers"),
        ({"name": "panda_hand"}, "'panda_hand': the name is taken"),
        ({"name": "a|b"}, "must not be empty"),
        ({"shapes": [SHAPES[0], SHAPES[0]]}, "'shaft': the name is taken"),
        ({"shapes": [{"kind": "half_space", "name": "w", "normal": [0, 0, 1], "offset_m": 0}]}, "half_space"),
        ({"shapes": [{"kind": "sphere", "name": "big", "center_m": [0, 0, 0], "radius_m": 0.4}]}, "touch at home"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    """The tool, the value and what is expected are in the message."""
    given: dict[str, Any] = {"mass": 1.0, "com": [0.0, 0.0, 0.0], "name": "x", **change}
    with pytest.raises(RobotError, match=message):
        panda().with_tool(**given)


def test_the_second_tool_needs_another_name() -> None:
    """Two tools may follow each other, the second at the first one's tip."""
    with pytest.raises(RobotError, match="'welder': the name is taken"):
        welder(welder(panda()))
    both = welder(panda()).with_tool(0.1, [0, 0, 0], tip=[0, 0, 0.1], name="torch")
    q = random_q(np.random.default_rng(6))
    np.testing.assert_allclose(
        tip_of(both, q).translation, tip_of(welder(panda()), q).act(np.array([0, 0, 0.1])), atol=1e-12
    )
    assert max(worst_disagreement(both, both.to_mujoco().compile())) < 1e-7


def test_digest_and_source_know_the_tool(tmp_path: Path) -> None:
    """Mass, shape and tip each change the digest; the source rebuilds tools, loads and obstacles in their order."""
    arm = tiny_arm(tmp_path)
    ball: dict[str, Any] = {"kind": "sphere", "name": "ball", "center_m": [0.0, 0.0, 0.1], "radius_m": 0.02}
    robots = [
        arm,
        arm.with_tool(1.0, [0, 0, 0], name="x"),
        arm.with_tool(1.000001, [0, 0, 0], name="x"),
        arm.with_tool(1.0, [0, 0, 0], shapes=[ball], name="x"),
        arm.with_tool(1.0, [0, 0, 0], shapes=[{**ball, "radius_m": 0.020001}], name="x"),
        arm.with_tool(1.0, [0, 0, 0], tip=[0, 0, 0.1], name="x"),
        arm.with_tool(1.0, [0, 0, 0], tip=[0, 0, 0.100001], name="x"),
    ]
    assert len({robot.digest for robot in robots}) == len(robots)
    far = Sphere(name="far", center_m=(1.0, 0.0, 0.9), radius_m=0.1)
    mixed = welder(panda().with_payload(0.3, [0, 0, 0])).with_obstacles([far]).with_payload(0.2, [0, 0.01, 0])
    again = RobotModel.from_source(json.loads(json.dumps(dict(mixed.source))))
    assert again.digest == mixed.digest
    assert again.collision.names == mixed.collision.names
    assert again.tool_frame == "welder_tip"
