"""Inverse dynamics of many states at once, against pinocchio one state at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pinocchio as pin
import pytest
from numpy.typing import NDArray

from safeguard.controllers.newton_euler import LANES, InverseDynamics, side_by_side
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

Flags = NDArray[np.bool_]

ROBOTS = ("panda", "panda_fingers", "ur10", "so101", "g1")
LIMIT = '<limit lower="-3" upper="3" velocity="2" effort="50"/>'


def numbers(x: Vector) -> str:
    """As a URDF writes them."""
    return " ".join(f"{float(number):.17g}" for number in x)


def random_tree(folder: Path, seed: int, n: int = 8) -> RobotModel:
    """Bodies of any inertia, on joints that turn or slide about any axis and hang on any earlier body or the base."""
    rng = np.random.default_rng(seed)
    parts = ['<robot name="tree"><link name="link0"/>']
    for j in range(1, n + 1):
        points, axis = rng.normal(size=(3, 3)), rng.normal(size=3)
        second = points @ points.T
        inertia = (np.trace(second) * np.eye(3) - second)[np.triu_indices(3)]
        names = ("ixx", "ixy", "ixz", "iyy", "iyz", "izz")
        written = " ".join(f'{name}="{value:.17g}"' for name, value in zip(names, inertia, strict=True))
        kind = rng.choice(["revolute", "revolute", "prismatic"])
        origin = f'<origin xyz="{numbers(rng.normal(size=3))}" rpy="{numbers(rng.uniform(-3.0, 3.0, 3))}"/>'
        parts.append(
            f'<link name="link{j}"><inertial>{origin}<mass value="{rng.uniform(0.1, 5.0)}"/>'
            f"<inertia {written}/></inertial></link>"
            f'<joint name="joint{j}" type="{kind}">'
            f'<parent link="link{rng.integers(max(0, j - 3), j)}"/><child link="link{j}"/>'
            f'<origin xyz="{numbers(rng.normal(size=3))}" rpy="{numbers(rng.uniform(-3.0, 3.0, 3))}"/>'
            f'<axis xyz="{numbers(axis / np.linalg.norm(axis))}"/>{LIMIT}</joint>'
        )
    path = folder / f"tree{seed}.urdf"
    path.write_text("".join((*parts, "</robot>")))
    sized: dict[str, Any] = {
        "limits": {"acceleration_radps2": {"values": [5.0] * n, "source": "test"}},
        "dynamics": {
            "armature_kgm2": {"values": rng.uniform(0.0, 1.0, n).tolist(), "source": "test"},
            "viscous_friction_nms": {"values": rng.uniform(0.0, 1.0, n).tolist(), "source": "test"},
            "coulomb_friction_nm": {"values": ((seed % 3 == 0) * rng.uniform(0.0, 1.0, n)).tolist(), "source": "test"},
        },
    }
    return RobotModel.from_urdf(path, limits=sized)


def states(robot: RobotModel, count: int, seed: int = 0) -> tuple[Vector, Vector, Vector]:
    """Random (q, v, a), each of shape (count, n); angles of several turns."""
    rng = np.random.default_rng(seed)
    shape = (count, robot.n)
    return rng.uniform(-10.0, 10.0, shape), 3.0 * rng.normal(size=shape), 5.0 * rng.normal(size=shape)


def one_by_one(robot: RobotModel, q: Vector, v: Vector, a: Vector) -> Vector:
    """What pinocchio says, with friction, shape (count, n)."""
    data = robot.pin_model.createData()
    rows = [pin.rnea(robot.pin_model, data, *state) for state in zip(q, v, a, strict=True)]
    return np.array([robot.bias(speed, row) for speed, row in zip(v, rows, strict=True)])


def at_once(robot: RobotModel, q: Vector, v: Vector, a: Vector, columns: NDArray[np.int64], wanted: Flags) -> Vector:
    """What the kernel says, shape (count, n)."""
    found = InverseDynamics(robot)(side_by_side(q), side_by_side(v), side_by_side(a), columns, wanted)
    return found[:, : len(q)].T


def check(robot: RobotModel, count: int) -> None:
    """All torques of ``count`` states are pinocchio's."""
    q, v, a = states(robot, count)
    found = at_once(robot, q, v, a, np.full(robot.n, count), np.ones(robot.n, dtype=bool))
    expected = one_by_one(robot, q, v, a)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-12 * (1.0 + float(np.abs(expected).max())))


@pytest.mark.parametrize("name", ROBOTS)
def test_torques_of_the_robots_are_those_of_pinocchio(name: str) -> None:
    """To rounding, for one state, for as many as go together, and for more."""
    for count in (1, LANES, 2 * LANES + 3):
        check(RobotModel.load(name), count)


@pytest.mark.parametrize("seed", range(6))
def test_torques_of_any_tree_are_those_of_pinocchio(tmp_path: Path, seed: int) -> None:
    """Branches, slides, slanted axes, armature, viscous and Coulomb friction."""
    check(random_tree(tmp_path, seed), 20)


def related(robot: RobotModel, wanted: Flags) -> Flags:
    """Joints that carry one of those wanted, or that it carries, or that are one, shape (n,)."""
    supports = [set(robot.pin_model.supports[j + 1]) for j in range(robot.n)]
    pairs = [[i + 1 in supports[j] or j + 1 in supports[i] for i in range(robot.n)] for j in range(robot.n)]
    return np.array([any(np.array(row)[wanted]) for row in pairs])


@pytest.mark.parametrize("seed", range(8))
def test_torques_that_are_wanted_need_no_other_limb(seed: int) -> None:
    """Of the G1, any joints alone, with numbers in the rest of the body that would show up; the others are zero."""
    robot, rng = RobotModel.load("g1"), np.random.default_rng(seed)
    q, v, a = states(robot, LANES, seed)
    wanted = rng.random(robot.n) < 0.1
    wanted[rng.integers(15, robot.n)] = True
    wanted[6:15] = False
    needed = related(robot, wanted)
    assert not needed[6:12].any()  # the right leg; the waist carries the arms
    assert needed[12:15].all()
    expected = np.where(wanted, one_by_one(robot, q, v, a), 0.0)
    q[:, ~needed], v[:, ~needed], a[:, ~needed] = np.nan, np.inf, -np.inf
    found = at_once(robot, q, v, a, np.where(needed, LANES, 0), wanted)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-9)


def test_columns_that_do_not_count_are_left_out() -> None:
    """With fewer columns for the left leg than for the right, its further torques stay zero."""
    robot = RobotModel.load("g1")
    q, v, a = states(robot, 2 * LANES)
    columns = np.full(robot.n, 2 * LANES)
    columns[:6] = LANES - 3
    found = at_once(robot, q, v, a, columns, np.ones(robot.n, dtype=bool))
    expected = one_by_one(robot, q, v, a)
    np.testing.assert_allclose(found[:LANES], expected[:LANES], rtol=0.0, atol=1e-9)
    np.testing.assert_array_equal(found[LANES:, :6], 0.0)
    np.testing.assert_allclose(found[LANES:, 6:], expected[LANES:, 6:], rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_stays_visible(value: float) -> None:
    """A state with such a position gives torques that are not numbers, its neighbours' are untouched (law 5)."""
    robot = RobotModel.load("ur10")
    q, v, a = states(robot, 4)
    broken = q.copy()
    broken[2, 1] = value
    everything = np.full(robot.n, 4), np.ones(robot.n, dtype=bool)
    found, whole = at_once(robot, broken, v, a, *everything), at_once(robot, q, v, a, *everything)
    assert np.isnan(found[2, :2]).all()
    np.testing.assert_array_equal(np.delete(found, 2, axis=0), np.delete(whole, 2, axis=0))


def test_shapes_that_the_kernel_cannot_take_are_refused() -> None:
    """It checks no index, so its wrapper checks the shapes."""
    robot = RobotModel.load("ur10")
    good, short, odd = np.zeros((6, LANES)), np.zeros((5, LANES)), np.zeros((6, LANES + 1))
    every = np.full(6, LANES), np.ones(6, dtype=bool)
    for q, v in ((odd, odd), (good, short), (good, np.zeros((6, 2 * LANES)))):
        with pytest.raises(ValueError, match="shapes"):
            InverseDynamics(robot)(q, v, q, *every)
