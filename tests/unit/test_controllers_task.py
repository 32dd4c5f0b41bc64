# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pinocchio as pin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from safeguard.controllers.task import TaskSpace, Wanted
from safeguard.core.config import TaskConfig
from safeguard.core.enums import Frame, NominalKind
from safeguard.core.robot import RobotModel
from safeguard.core.types import Nominal, RobotState, Vector

DT = 0.002
TASK = TaskConfig()


@cache
def load(name: str) -> RobotModel:
    """A robot of the library."""
    return RobotModel.load(name)


@cache
def task(name: str = "panda") -> TaskSpace:
    """Its tool."""
    return TaskSpace(load(name), DT)


def start(name: str) -> Vector:
    """A configuration with room around it."""
    return load(name).home + (np.array([0.0, -0.3, 0.5, 0.3, 0.0, 0.0]) if name == "so101" else 0.0)


def state(q: Vector, v: Vector | None = None) -> RobotState:
    """A measurement; at rest unless said otherwise."""
    return RobotState(q, np.zeros_like(q) if v is None else v, 0)


def drive(q: Vector, ask: Callable[[RobotState], Wanted], seconds: float) -> tuple[list[Vector], list[Vector], float]:
    """Plain integration of the wanted acceleration: positions, velocities, largest acceleration."""
    v = np.zeros_like(q)
    qs, vs, most = [q], [v], 0.0
    for _ in range(round(seconds / DT)):
        a, why = ask(state(q, v))
        assert a is not None, why
        q, v = q + v * DT + 0.5 * a * DT * DT, v + a * DT
        qs.append(q)
        vs.append(v)
        most = max(most, float(np.abs(a).max()))
    return qs, vs, most


def turned(before: Vector, after: Vector) -> Vector:
    """Rotation vector from one pose to another, in base axes."""
    return np.asarray(pin.log3(after[:3, :3] @ before[:3, :3].T))


# -- twists -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["panda", "ur10"])
def test_a_twist_draws_a_straight_line(name: str) -> None:
    """0.05 m/s along y for 1 s: within 1 µm of the line, 1 µrad of the orientation, short by the rise of 20 ms."""
    twist = np.array([0.0, 0.05, 0.0, 0.0, 0.0, 0.0])
    qs, _, _ = drive(start(name), lambda s: task(name).from_twist(s, twist), 1.0)
    poses = [task(name).pose(q) for q in qs]
    off = [np.delete(pose[:3, 3] - poses[0][:3, 3], 1) for pose in poses]
    assert np.abs(off).max() < 1e-6
    assert np.abs(turned(poses[0], poses[-1])).max() < 1e-6
    assert poses[-1][1, 3] - poses[0][1, 3] == pytest.approx(0.05 * (1.0 - 1.0 / TASK.twist_rate_per_s), rel=0.05)


@pytest.mark.parametrize("name", ["panda", "ur10"])
def test_a_twist_turns_about_the_origin_of_the_tool(name: str) -> None:
    """0.3 rad/s about the tool's z for 1 s: the origin stays within 1 µm, the axis within 0.1 mrad."""
    twist = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.3])
    qs, _, _ = drive(start(name), lambda s: task(name).from_twist(s, twist, Frame.TOOL), 1.0)
    poses = [task(name).pose(q) for q in qs]
    assert max(np.abs(pose[:3, 3] - poses[0][:3, 3]).max() for pose in poses) < 1e-6
    axis = turned(poses[0], poses[-1])
    assert np.linalg.norm(axis) == pytest.approx(0.3 * (1.0 - 1.0 / TASK.twist_rate_per_s), rel=0.01)
    np.testing.assert_allclose(axis / np.linalg.norm(axis), poses[0][:3, 2], atol=1e-4)


def test_a_twist_in_tool_axes_draws_a_circle() -> None:
    """Forward at 0.05 m/s while turning at 0.5 rad/s is a circle of 0.1 m: within 0.1 mm once at speed."""
    twist = np.array([0.05, 0.0, 0.0, 0.0, 0.0, 0.5])
    qs, _, _ = drive(start("panda"), lambda s: task().from_twist(s, twist, Frame.TOOL), 1.5)
    poses = [task().pose(q) for q in qs[250:]]
    centre = np.mean([pose[:3, 3] + 0.1 * pose[:3, 1] for pose in poses], axis=0)
    radii = [float(np.linalg.norm(pose[:3, 3] - centre)) for pose in poses]
    assert max(abs(radius - 0.1) for radius in radii) < 1e-4


def test_the_axes_of_a_twist_matter() -> None:
    """A linear twist in tool axes is the rotated one in base axes, and another than the same numbers in base axes."""
    s, twist = state(start("panda"), np.full(7, 0.1)), np.array([0.1, 0.02, -0.05, 0.0, 0.0, 0.0])
    R = task().pose(s.q)[:3, :3]
    rotated, _ = task().from_twist(s, np.concatenate((R @ twist[:3], np.zeros(3))))
    tool, _ = task().from_twist(s, twist, Frame.TOOL)
    base, _ = task().from_twist(s, twist)
    assert tool is not None
    assert rotated is not None
    assert base is not None
    np.testing.assert_allclose(tool, rotated, atol=1e-9)
    assert np.abs(tool - base).max() > 0.1


@pytest.mark.parametrize("name", ["panda", "ur10"])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=30)
def test_the_acceleration_of_the_tool_is_the_wanted_one(name: str, seed: int) -> None:
    """By finite differences of the pose along the motion, J̇ v included: ẍ = k (V − ẋ) where nothing is singular."""
    rng = np.random.default_rng(seed)
    q, v = start(name) + rng.uniform(-0.3, 0.3, load(name).n), rng.uniform(-1.0, 1.0, load(name).n)
    twist = rng.uniform(-0.5, 0.5, 6)
    J, _, _ = task(name)._place(state(q, v))
    if np.linalg.svd(task(name)._weight[:, None] * J)[1].min() < TASK.singular:
        return
    a, _ = task(name).from_twist(state(q, v), twist)
    assert a is not None
    h = 1e-4
    before, now, after = (task(name).pose(q + v * s + 0.5 * a * s * s) for s in (-h, 0.0, h))
    speed = np.concatenate(((after - before)[:3, 3], turned(before, after))) / (2.0 * h)
    bend = np.concatenate(((after - 2.0 * now + before)[:3, 3], turned(now, after) - turned(before, now))) / h**2
    wanted = TASK.twist_rate_per_s * (twist - speed)
    np.testing.assert_allclose(bend, wanted, atol=1e-3 * (1.0 + np.abs(wanted).max() + float(v @ v)))


def test_drift_is_not_left_out() -> None:
    """The finite-difference test would notice: J̇ v of a moving arm is hundreds of times its tolerance."""
    _, drift, _ = task()._place(state(start("panda"), np.full(7, 1.0)))
    assert np.abs(drift).max() > 0.5


# -- poses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["panda", "ur10"])
def test_a_pose_is_approached_without_overshoot(name: str) -> None:
    """77 mm and 0.3 rad away: the distance falls all the way, and is under 10 µm and 50 µrad after 1.5 s."""
    goal = task(name).pose(start(name))
    goal[:3, 3] += (-0.05, 0.05, 0.03)
    goal[:3, :3] = goal[:3, :3] @ pin.exp3(np.array([0.0, 0.0, 0.3]))
    qs, _, _ = drive(start(name), lambda s: task(name).from_pose(s, goal), 1.5)
    poses = [task(name).pose(q) for q in qs]
    far = np.array([np.linalg.norm(goal[:3, 3] - pose[:3, 3]) for pose in poses])
    assert np.diff(far).max() < 1e-6
    assert far[-1] < 1e-5
    assert np.linalg.norm(turned(poses[-1], goal)) < 5e-5


def test_a_pose_may_be_a_quaternion_of_either_sign_or_a_transform() -> None:
    """Both quaternions and the matrix of one rotation ask for the same; what is nearly unit is made unit."""
    s, goal = state(start("panda"), np.full(7, 0.2)), task().pose(start("panda") + 0.1)
    xyzw = pin.Quaternion(goal[:3, :3]).coeffs()
    asked = [goal, *(np.concatenate((goal[:3, 3], scale * xyzw)) for scale in (1.0, -1.0, 1.0005))]
    found = [task().from_pose(s, pose)[0] for pose in asked]
    for other in found[1:]:
        np.testing.assert_allclose(np.asarray(other), np.asarray(found[0]), atol=1e-9)


def test_five_joints_come_as_near_as_they_can() -> None:
    """SO-101: a pose that its arm can have is reached; for one that it cannot have it rests at least squares."""
    reachable = task("so101").pose(start("so101") + np.array([0.2, 0.1, -0.1, 0.1, 0.1, 0.0]))
    qs, _, _ = drive(start("so101"), lambda s: task("so101").from_pose(s, reachable), 4.0)
    end = task("so101").pose(qs[-1])
    assert np.linalg.norm(end[:3, 3] - reachable[:3, 3]) < 2e-3
    tilted = reachable.copy()
    tilted[:3, :3] = pin.exp3(np.array([0.0, 0.0, 0.3])) @ tilted[:3, :3]
    qs, vs, _ = drive(start("so101"), lambda s: task("so101").from_pose(s, tilted), 4.0)
    assert 2e-3 < np.linalg.norm(task("so101").pose(qs[-1])[:3, 3] - tilted[:3, 3]) < 0.05
    assert np.abs(vs[-1]).max() < 0.01


# -- singularities, null space ------------------------------------------------------------------------

STRETCHED = np.array([0.0, 0.0, 0.0, -0.08, 0.0, np.pi / 2.0, 0.0])


@pytest.mark.parametrize("twist", [(0.2, 0, 0, 0, 0, 0), (0, 0, 0.3, 0, 0, 0), (0, 0, 0, 1.0, 0, 0)])
def test_a_stretched_arm_stays_bounded(twist: tuple[float, ...]) -> None:
    """A twist out of reach for 5 s: speeds stay under 10 rad/s, and the arm comes to rest or goes on smoothly."""
    J, _, _ = task()._place(state(STRETCHED))
    assert np.linalg.svd(task()._weight[:, None] * J)[1].min() < TASK.singular, "not a singularity"
    _, vs, most = drive(STRETCHED, lambda s: task().from_twist(s, np.array(twist, dtype=float)), 5.0)
    assert np.abs(vs).max() < 10.0
    assert most < 300.0
    assert np.abs(vs[-1]).max() < 2.0


def test_without_damping_it_would_not_stay_bounded() -> None:
    """UR10 with a straight elbow, pulled outwards: without damping it asks for a hundred times the acceleration."""
    bare = TaskSpace(load("ur10"), DT, TASK.model_copy(update={"singular": 1e-6}))
    straight = np.array([0.0, -0.8, 1e-3, -0.8, -1.5, 0.0])
    out = task("ur10").pose(straight)[:3, 3] - np.array([0.0, 0.0, 0.13])
    twist = np.concatenate((0.3 * out / np.linalg.norm(out), np.zeros(3)))
    wild, tame = (np.abs(np.asarray(one.from_twist(state(straight), twist)[0])).max() for one in (bare, task("ur10")))
    assert wild > 100.0 * tame


def test_a_pose_out_of_reach_is_approached_and_held() -> None:
    """A pose 1 m above a stretched arm: it comes to rest instead of thrashing."""
    goal = task().pose(STRETCHED)
    goal[2, 3] += 1.0
    _, vs, _ = drive(STRETCHED, lambda s: task().from_pose(s, goal), 10.0)
    assert np.abs(vs[-1]).max() < 0.05


@given(
    q=arrays.arrays(float, 7, elements=st.floats(-2.8, 2.8)),
    v=arrays.arrays(float, 7, elements=st.floats(-2.0, 2.0)),
    twist=arrays.arrays(float, 6, elements=st.floats(-2.0, 2.0)),
)
@settings(max_examples=100)
def test_the_gain_is_bounded_everywhere(q: Vector, v: Vector, twist: Vector) -> None:
    """‖a‖ ≤ ‖W (ẍ − J̇ v)‖ / ε + ‖a₀‖, singular or not."""
    a, _ = task().from_twist(state(q, v), twist)
    J, drift, _ = task()._place(state(q, v))
    asked = task()._weight * (TASK.twist_rate_per_s * (twist - J @ v) - drift)
    omega = TASK.posture_omega_radps
    rest = omega * omega * (task()._middle - q) - 2.0 * omega * v
    assert a is not None
    assert np.linalg.norm(a) <= np.linalg.norm(asked) / TASK.singular + np.linalg.norm(rest) + 1e-9


def test_the_null_space_goes_to_the_middle_of_the_ranges() -> None:
    """While the tool holds its pose, the elbow moves towards the middle and then rests."""
    q0 = start("panda")
    goal = task().pose(q0)
    qs, vs, _ = drive(q0, lambda s: task().from_pose(s, goal), 8.0)
    middle = 0.5 * (load("panda").limits.q_min + load("panda").limits.q_max)
    assert np.linalg.norm(qs[-1] - middle) < np.linalg.norm(q0 - middle) - 1e-3
    assert np.abs(task().pose(qs[-1]) - goal).max() < 1e-6
    assert np.abs(vs[-1]).max() < 0.01


def test_joints_that_do_not_move_the_tool_only_come_to_rest() -> None:
    """The fingers of a Panda are not pulled open or shut by a motion of its hand."""
    fingers = TaskSpace(load("panda_fingers"), DT)
    a, _ = fingers.from_twist(state(load("panda_fingers").home), np.array([0.1, 0.0, 0.0, 0.0, 0.0, 0.0]))
    np.testing.assert_array_equal(np.asarray(a)[7:], 0.0)


# -- what is no proposal ------------------------------------------------------------------------------

HOME = start("panda")
POSE = np.array([0.4, 0.0, 0.4, 0.0, 0.0, 0.0, 1.0])
REFUSED: dict[str, tuple[NominalKind, Any, str]] = {
    "a twist with NaN": (NominalKind.TWIST, np.array([0, 0, np.nan, 0, 0, 0]), "twist is not finite"),
    "a twist of five": (NominalKind.TWIST, np.zeros(5), "twist has shape (5,), expected (6,)"),
    "a huge twist": (NominalKind.TWIST, np.full(6, 1e300), "twist is not finite, or larger than 1e+06"),
    "a pose with inf": (NominalKind.POSE, POSE * np.array([np.inf, 1, 1, 1, 1, 1, 1]), "pose is not finite"),
    "a pose of six": (NominalKind.POSE, np.zeros(6), "pose has shape (6,), expected (7,), or (4, 4)"),
    "a long quaternion": (NominalKind.POSE, POSE * 1.1, "the quaternion has length 1.1, not 1"),
    "no quaternion": (NominalKind.POSE, POSE * 0.0, "the quaternion has length 0, not 1"),
    "a stretched matrix": (NominalKind.POSE, np.diag([1.1, 1.0, 1.0, 1.0]), "no rotation"),
    "a mirror": (NominalKind.POSE, np.diag([-1.0, 1.0, 1.0, 1.0]), "no rotation"),
    "a projective matrix": (NominalKind.POSE, np.eye(4) + np.eye(4)[::-1] * [0.1, 0, 0, 0], "last row"),
    "a matrix with NaN": (NominalKind.POSE, np.full((4, 4), np.nan), "pose is not finite"),
    "a torque": (NominalKind.TORQUE, np.zeros(7), "a torque is no motion of the tool"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_proposal_is_refused_with_its_reason(name: str) -> None:
    """None, and what is wrong with which value; never an exception."""
    kind, value, reason = REFUSED[name]
    a, why = task().wanted(state(HOME), Nominal(kind, value))
    assert a is None
    assert reason in why


@given(
    value=arrays.arrays(
        float, st.sampled_from([(6,), (7,), (4, 4), (), (0,), (3, 3)]), elements=st.floats(width=64, allow_nan=True)
    ),
    q=arrays.arrays(float, st.sampled_from([7, 7, 7, 6]), elements=st.floats(-1e3, 1e3) | st.just(np.nan)),
    kind=st.sampled_from([NominalKind.TWIST, NominalKind.POSE]),
    frame=st.sampled_from(Frame),
)
@settings(max_examples=200)
def test_no_numbers_raise(value: Vector, q: Vector, kind: NominalKind, frame: Frame) -> None:
    """Any numbers in any shape: a finite acceleration of the right shape, or a reason."""
    with np.errstate(all="ignore"):
        a, why = task().wanted(RobotState(q, np.zeros(7), 0), Nominal(kind, value, frame=frame))
    assert (a is None) is bool(why)
    assert a is None or (a.shape == (7,) and np.isfinite(a).all())


def test_nothing_is_remembered() -> None:
    """The same question gives the same bits, whatever was asked in between."""
    s, twist = state(HOME, np.full(7, 0.3)), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    first, _ = task().from_twist(s, twist)
    task().from_pose(state(STRETCHED), POSE)
    task().from_twist(s, np.full(6, np.nan))
    again, _ = task().from_twist(s, twist)
    assert np.asarray(first).tobytes() == np.asarray(again).tobytes()
