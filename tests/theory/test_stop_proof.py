"""The proof of stops of robots whose pieces have corners, against coal at dense samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from safeguard.controllers.brake import StopPlan
from safeguard.controllers.clearance import Clearance
from safeguard.core.config import ClearanceConfig
from safeguard.core.geometry import distances
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

CONFIG = ClearanceConfig()
OBSTACLES: list[dict[str, Any]] = [
    {"kind": "box", "name": "post", "center_m": [0.6, 0.4, 0.5], "size_m": [0.1, 0.1, 1.0]},
    {"kind": "half_space", "name": "floor", "normal": [0.0, 0.0, 1.0], "offset_m": -0.2},
]


def robot_of(name: str) -> RobotModel:
    """A robot of meshes; the UR10 with a post and a floor."""
    robot = RobotModel.load(name)
    return robot.with_obstacles(OBSTACLES) if name == "ur10" else robot


def stops(robot: RobotModel, rng: np.random.Generator, spread: float) -> tuple[Vector, StopPlan]:
    """(where the robot is, a stop that begins a small step on); the robot touches nothing."""
    limits, a_brake = robot.limits, 0.4 * robot.limits.a_max
    while True:
        q = np.clip(robot.home + spread * rng.normal(size=robot.n), limits.q_min, limits.q_max)
        if distances(robot.pin_model, robot.collision, q).min() < 2.0 * CONFIG.floor_m:
            continue
        away = np.clip(q + spread * rng.normal(size=robot.n), limits.q_min, limits.q_max) - q
        return q, StopPlan(q + 1e-3 * away, np.sign(away) * np.sqrt(2.0 * a_brake * np.abs(away)), a_brake, 0)


@pytest.mark.parametrize(("name", "spread"), [("ur10", 0.8), ("so101", 0.6), ("g1", 0.3)])
def test_an_accepted_stop_keeps_the_hard_floor_of_every_pair(name: str, spread: float) -> None:
    """By coal at 40 points of every accepted stop; many stops are refused, some because they collide."""
    robot = robot_of(name)
    clearance, rng = Clearance(robot, CONFIG), np.random.default_rng(0)
    hard = np.minimum(clearance.floors[1], CONFIG.hard_floor_m)
    accepted = colliding = near = 0
    for _ in range(120):
        q, plan = stops(robot, rng, spread)
        now = clearance.measure(q)
        refusal = clearance.stop_refusal(now, now, plan)
        path = plan.positions(float(plan.durations.max()) * np.linspace(0.0, 1.0, 40)[:, None])
        least: Vector = np.min([distances(robot.pin_model, robot.collision, x) for x in path], axis=0)
        if refusal:
            colliding += least.min() < 0.0
            continue
        accepted += 1
        near += least.min() < 0.03
        assert (least >= hard - 2e-6).all()
    assert accepted >= 10
    assert near >= 3
    assert colliding >= 3


@pytest.mark.parametrize(("name", "spread"), [("so101", 1.2), ("g1", 0.3)])
def test_what_was_asked_before_does_not_change_an_answer(name: str, spread: float) -> None:
    """A proof that begins from the memory of other postures says what one without a memory says."""
    robot = robot_of(name)
    clearance, rng, refused = Clearance(robot, CONFIG), np.random.default_rng(1), 0
    fresh = Clearance(robot, CONFIG)
    for _ in range(120):
        q, plan = stops(robot, rng, spread)
        fresh.reset()
        now, again = clearance.measure(q), fresh.measure(q)
        refusal = clearance.stop_refusal(now, now, plan)
        assert (refusal == "") == (fresh.stop_refusal(again, again, plan) == "")
        refused += refusal != ""
        pair, least = clearance.nearest(now)
        assert least == pytest.approx(float(distances(robot.pin_model, robot.collision, q).min()), abs=2e-6)
        assert pair in clearance.names
    assert 5 <= refused <= 110


@pytest.mark.parametrize(("name", "spread"), [("panda", 0.8), ("ur10", 0.8), ("so101", 0.6), ("g1", 0.3)])
def test_a_pair_below_its_floor_does_not_creep_closer(name: str, spread: float) -> None:
    """A thousand small steps against the gradient, each from where the last accepted one led: 2 µm at most in all.

    From any place that a push has led it to, the pair may come away, and standing there is not enough.
    """
    robot = robot_of(name)
    clearance, rng = Clearance(robot, CONFIG), np.random.default_rng(2)

    def refusal(q: Vector, to: Vector) -> str:
        now = clearance.measure(q)
        return clearance.stop_refusal(now, now, StopPlan(to, np.zeros(robot.n), robot.limits.a_max, 0))

    for _ in range(3):
        q, pair, slope = below_floor(robot, clearance, rng, spread)
        clearance.reset()
        begun = distances(robot.pin_model, robot.collision, q)[pair]
        accepted, at = 0, q
        for _ in range(1000):
            step = at - rng.uniform(0.0, 2e-6) * slope
            if refusal(at, step) == "":
                accepted, at = accepted + 1, step
        assert begun - distances(robot.pin_model, robot.collision, at)[pair] < 2e-6
        assert accepted < 500
        pushed = q - 2e-4 * slope
        assert refusal(pushed, pushed) != ""
        assert refusal(pushed, pushed + 1e-5 * slope) == ""


def below_floor(robot: RobotModel, clearance: Clearance, rng: np.random.Generator, spread: float) -> Any:
    """(q, pair, direction in which its distance grows): links that are clear, one pair below its floor."""
    while True:
        q = np.clip(robot.home + spread * rng.normal(size=robot.n), robot.limits.q_min, robot.limits.q_max)
        d = distances(robot.pin_model, robot.collision, q)
        if (d < clearance.floors[0]).sum() != 1 or (d < 5e-4).any():
            continue
        pair = int((d - clearance.floors[0]).argmin())
        moved = [distances(robot.pin_model, robot.collision, q + 1e-5 * e)[pair] for e in np.eye(robot.n)]
        slope = np.array(moved) - d[pair]
        if np.abs(slope).max() > 1e-7:
            return q, pair, slope / np.linalg.norm(slope)
