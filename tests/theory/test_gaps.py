"""What planes between two pieces prove of their distance, against coal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pinocchio as pin
import pytest

from safeguard.controllers import capsules
from safeguard.controllers.shapes import Capsules
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

OBSTACLES: list[dict[str, Any]] = [
    {"kind": "box", "name": "post", "center_m": [0.9, 0.4, 0.5], "size_m": [0.1, 0.1, 1.0]},
    {"kind": "half_space", "name": "floor", "normal": [0.0, 0.0, 1.0], "offset_m": -0.6},
]


def raised(robot: RobotModel, shapes: Capsules, q: Vector) -> tuple[Vector, Vector]:
    """(lower bounds from capsules, the same raised by planes) at ``q``."""
    d, row = np.empty(len(shapes.pairs)), q.reshape(1, -1)
    capsules.measure(row, *shapes.tree, shapes.bodies, shapes.pieces, shapes.pairs, d)
    better, hulls = d.copy(), np.flatnonzero(shapes.hulls)
    capsules.gaps(
        row, *shapes.tree, shapes.bodies, shapes.pieces, shapes.pairs, *shapes.corners, hulls, 1.0, better
    )  # fmt: skip
    return d, better


@pytest.mark.parametrize("name", ["ur10", "so101", "g1"])
def test_planes_never_promise_more_than_there_is(name: str) -> None:
    """For every pair at random postures the bound is at most coal's distance; for most near ones within 3 mm."""
    robot = RobotModel.load(name)
    if name == "ur10":
        robot = robot.with_obstacles(OBSTACLES)
    shapes, rng = Capsules.of(robot), np.random.default_rng(4)
    model, geometry = robot.pin_model, robot.collision.geometry
    data, placed = model.createData(), geometry.createData()
    close, tight = 0, 0
    for _ in range(25):
        q = rng.uniform(robot.limits.q_min, robot.limits.q_max)
        pin.computeDistances(model, data, geometry, placed, q)
        truth = np.array([result.min_distance for result in placed.distanceResults])
        rough, better = raised(robot, shapes, q)
        assert (rough <= truth + 1e-6 + 1e-6 * np.abs(truth)).all()
        apart = truth > 0.0
        assert (better <= truth + 1e-6 + 1e-6 * np.abs(truth))[apart].all()
        assert (better[~apart] <= 1e-9).all()
        near = apart & shapes.hulls & (truth < 0.05)
        close += int(near.sum())
        tight += int((truth - better < 3e-3)[near].sum())
    assert close > 15
    assert tight > 0.8 * close
