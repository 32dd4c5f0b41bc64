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
def test_a_pair_below_its_floor_may_come_away_but_lose_nothing(name: str, spread: float) -> None:
    """Of small steps along and against the gradient of one such pair's distance none is accepted that loses any."""
    robot = robot_of(name)
    clearance, rng = Clearance(robot, CONFIG), np.random.default_rng(2)
    gained = refused = 0
    while gained < 12:
        q = np.clip(robot.home + spread * rng.normal(size=robot.n), robot.limits.q_min, robot.limits.q_max)
        before = distances(robot.pin_model, robot.collision, q)
        if (before < clearance.floors[0]).sum() != 1 or (before < 2e-4).any():
            continue
        pair = int((before - clearance.floors[0]).argmin())
        slope = np.array([
            distances(robot.pin_model, robot.collision, q + 1e-5 * e)[pair] - before[pair] for e in np.eye(robot.n)
        ])  # fmt: skip
        if not np.abs(slope).max() > 1e-7:
            continue
        for size in (-1e-4, -2e-5, 1e-3):
            step = size * slope / np.linalg.norm(slope)
            now = clearance.measure(q)
            refusal = clearance.stop_refusal(now, now, StopPlan(q + step, np.zeros(robot.n), robot.limits.a_max, 0))
            after = distances(robot.pin_model, robot.collision, q + step)
            assert refusal or after[pair] > before[pair] - 2e-6
            gained += refusal == ""
            refused += refusal != ""
    assert refused >= 12
