"""What the tests of the robot model and the controllers share: robots, states, and an oracle for distances."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pinocchio as pin

from safeguard.controllers.filter import SafetyFilter
from safeguard.core.config import BrakeConfig, FilterConfig
from safeguard.core.robot import RobotModel
from safeguard.core.types import RobotState, Vector

DT = 0.002  # s
DT_NS = 2_000_000
# The Panda's braking deceleration is capped by its share, not by the samples: 100 of them say the same as 4000.
QUICK = FilterConfig(brake=BrakeConfig(samples=100))

ARM_URDF = """<?xml version="1.0"?>
<robot name="tiny">
  <link name="base">
    <collision><origin xyz="0 0 0.02"/><geometry><sphere radius="0.05"/></geometry></collision>
  </link>
  <link name="upper">
    <inertial><origin xyz="0 0 0.2"/><mass value="2.0"/>
      <inertia ixx="0.03" ixy="0" ixz="0" iyy="0.03" iyz="0" izz="0.002"/></inertial>
    <collision><origin xyz="0 0 0.2"/><geometry><box size="0.06 0.06 0.3"/></geometry></collision>
  </link>
  <link name="fore">
    <inertial><origin xyz="0 0 0.15"/><mass value="1.0"/>
      <inertia ixx="0.01" ixy="0" ixz="0" iyy="0.01" iyz="0" izz="0.001"/></inertial>
    <collision><origin xyz="0 0 0.15"/><geometry><cylinder radius="0.03" length="0.2"/></geometry></collision>
    <collision><origin xyz="0 0 0.05"/><geometry><sphere radius="0.03"/></geometry></collision>
    <collision><origin xyz="0 0 0.25"/><geometry><sphere radius="0.03"/></geometry></collision>
  </link>
  <link name="tool"/>
  <joint name="shoulder" type="revolute">
    <parent link="base"/><child link="upper"/><origin xyz="0 0 0.1"/><axis xyz="0 1 0"/>
    <limit lower="-2.0" upper="2.0" velocity="2.0" effort="60"/>
  </joint>
  <joint name="elbow" type="revolute">
    <parent link="upper"/><child link="fore"/><origin xyz="0 0 0.4"/><axis xyz="0 1 0"/>
    <limit lower="-3.0" upper="3.0" velocity="3.0" effort="30"/>
  </joint>
  <joint name="flange" type="fixed"><parent link="fore"/><child link="tool"/><origin xyz="0 0 0.3"/></joint>
</robot>
"""
ARM_LIMITS: dict[str, dict[str, Any]] = {
    "limits": {
        "acceleration_radps2": {"values": [10.0, 12.0], "source": "test"},
        "torque_rate_nmps": {"values": [500.0, 400.0], "source": "test"},
    },
    "dynamics": {
        "armature_kgm2": {"values": [0.05, 0.04], "source": "test"},
        "viscous_friction_nms": {"values": [0.3, 0.2], "source": "test"},
        "coulomb_friction_nm": {"values": [0.1, 0.1], "source": "test"},
    },
}


@cache
def panda() -> RobotModel:
    """The Panda."""
    return RobotModel.load("panda")


def quick_filter() -> SafetyFilter:
    """A fresh filter of the Panda."""
    return SafetyFilter(panda(), DT, QUICK)


def write_arm(folder: Path, text: str = ARM_URDF) -> Path:
    """The two-joint arm, or what ``text`` makes of it, as a file."""
    path = folder / "tiny.urdf"
    path.write_text(text)
    return path


def tiny_arm(folder: Path, text: str = ARM_URDF, **options: Any) -> RobotModel:
    """The two-joint arm with all of its limits."""
    given: dict[str, Any] = {"limits": ARM_LIMITS, **options}
    return RobotModel.from_urdf(write_arm(folder, text), **given)


def replaced(text: str, old: str, new: str) -> str:
    """``text`` with one change; fails if there is nothing to change."""
    assert text.count(old) == 1, (old, text.count(old))
    return text.replace(old, new)


def random_q(rng: np.random.Generator, share: float = 1.0) -> Vector:
    """A configuration of the Panda within its limits, shape (7,), rad."""
    limits = panda().limits
    middle, half = (limits.q_max + limits.q_min) / 2.0, (limits.q_max - limits.q_min) / 2.0
    return middle + share * rng.uniform(-1.0, 1.0, 7) * half


def clear_q(rng: np.random.Generator, least: float = 0.02) -> Vector:
    """A configuration of the Panda in which every kept pair is at least ``least`` m apart."""
    while True:
        q = random_q(rng, 0.95)
        if capsule_distances(panda(), q).min() > least:
            return q


def state_at(q: Vector, v: Vector | None = None, t: int = 0) -> RobotState:
    """A state; at rest unless told."""
    return RobotState(q, np.zeros(len(q)) if v is None else v, t)


def segment_distances(p0: Vector, p1: Vector, q0: Vector, q1: Vector) -> Vector:
    """Distances of k pairs of segments, each end of shape (k, 3); m.

    The squared distance is convex in the two parameters, so its minimum is the interior stationary
    point if that lies in the square, else on an edge: four point-to-segment distances.
    """
    d1, d2, r = p1 - p0, q1 - q0, p0 - q0
    a, b, e = (d1 * d1).sum(1), (d1 * d2).sum(1), (d2 * d2).sum(1)
    c, f = (d1 * r).sum(1), (d2 * r).sum(1)
    den = a * e - b * b
    safe = np.where(den > 1e-12, den, 1.0)
    s, t = (b * f - c * e) / safe, (a * f - b * c) / safe
    inside = (den > 1e-12) & (s >= 0.0) & (s <= 1.0) & (t >= 0.0) & (t <= 1.0)
    gap: Vector = np.linalg.norm(r + s[:, None] * d1 - t[:, None] * d2, axis=1)
    ends = (
        point_distances(p0, q0, q1), point_distances(p1, q0, q1),
        point_distances(q0, p0, p1), point_distances(q1, p0, p1),
    )  # fmt: skip
    on_edge: Vector = np.min(ends, axis=0)
    return np.where(inside, gap, on_edge)


def point_distances(x: Vector, a: Vector, b: Vector) -> Vector:
    """Distances of k points to k segments, m."""
    d = b - a
    s = np.clip(((x - a) * d).sum(1) / np.maximum((d * d).sum(1), 1e-18), 0.0, 1.0)
    gap: Vector = np.linalg.norm(x - a - s[:, None] * d, axis=1)
    return gap


def capsule_ends(robot: RobotModel, q: Vector) -> tuple[Vector, Vector, Vector]:
    """(start, end, radius) of every piece in the world at ``q``; all pieces must be capsules."""
    data = robot.pin_model.createData()
    pin.forwardKinematics(robot.pin_model, data, q)
    starts: list[Vector] = []
    ends: list[Vector] = []
    radii: list[float] = []
    for obj in robot.collision.geometry.geometryObjects:
        place = data.oMi[obj.parentJoint] * obj.placement
        half = np.array([0.0, 0.0, obj.geometry.halfLength])
        starts.append(place.act(-half))
        ends.append(place.act(half))
        radii.append(float(obj.geometry.radius))
    return np.array(starts), np.array(ends), np.array(radii)


def capsule_distances(robot: RobotModel, q: Vector) -> Vector:
    """Signed distances of all kept pairs at ``q`` in plain numpy, shape (pairs,), m."""
    starts, ends, radii = capsule_ends(robot, q)
    i, j = np.array(robot.collision.pairs).T
    distances: Vector = segment_distances(starts[i], ends[i], starts[j], ends[j]) - radii[i] - radii[j]
    return distances


def toward_contact() -> Vector:
    """A configuration 9 mm before two links touch, inside the buffer, on the way of joint 4 bending."""
    q = panda().home.copy()
    while capsule_distances(panda(), q).min() > 0.009:
        q[3] -= 1e-3
    return q


def closing(q: Vector) -> Vector:
    """An acceleration within the limits that closes the nearest pair."""
    step = np.zeros(7)
    step[3] = 1e-5
    nearer = capsule_distances(panda(), q + step).min() < capsule_distances(panda(), q).min()
    a = np.zeros(7)
    a[3] = 6.0 if nearer else -6.0
    return a
