"""Distances of pieces with corners: the certain bound and the distance itself, against coal and by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import coal
import numpy as np
import pinocchio as pin
import pytest

from safeguard.controllers import capsules
from safeguard.controllers.gjk import gap
from safeguard.controllers.shapes import CAPSULES, CORNERS, SHAPES, Capsules
from safeguard.core.compiled import BLOCKS, INTS, NUMBER, OUT, OUT_FLAGS, OUT_MATRIX, Integers, kernel, types
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

OBSTACLES: list[dict[str, Any]] = [
    {"kind": "box", "name": "post", "center_m": [0.9, 0.4, 0.5], "size_m": [0.1, 0.1, 1.0]},
    {"kind": "half_space", "name": "floor", "normal": [0.0, 0.0, 1.0], "offset_m": -0.6},
]


@kernel(types.void, *SHAPES, BLOCKS, INTS, NUMBER, OUT_MATRIX, OUT_MATRIX, OUT, OUT_FLAGS)
def gaps(
    joints: Vector,
    pieces: Vector,
    points: Vector,
    pairs: Integers,
    moves: Vector,
    frames: Vector,
    chosen: Integers,
    enough: float,
    memory: Vector,
    wrenches: Vector,
    d: Vector,
    known: Any,
) -> None:
    """``gap`` of the chosen pairs."""
    scratch = np.empty((7, 12))
    for c in range(len(chosen)):
        k = chosen[c]
        d[c], known[c] = gap(pieces, points, pairs, frames, 0, k, np.inf, enough, memory, k, scratch, wrenches, k)


@dataclass(frozen=True)
class Shape:
    """A convex piece: points, the radius around their hull or of the discs around them, and the same for coal."""

    points: Vector
    thick: float
    disc: float
    coal: Any


def hull(points: Vector) -> Shape:
    """The convex hull of points."""
    corners = coal.StdVec_Vec3s()
    for point in points:
        corners.append(point)
    return Shape(points, 0.0, 0.0, coal.ConvexBase.convexHull(corners, False, "Qt"))


def box(*size: float) -> Shape:
    """A box about the origin."""
    corners = np.array(np.meshgrid(*([-0.5 * s, 0.5 * s] for s in size))).reshape(3, -1).T
    return Shape(corners, 0.0, 0.0, coal.Box(*size))


def rod(radius: float, length: float, round_ends: bool) -> Shape:
    """A capsule or a cylinder along z."""
    ends = np.array([[0.0, 0.0, -0.5 * length], [0.0, 0.0, 0.5 * length]])
    if round_ends:
        return Shape(ends, radius, 0.0, coal.Capsule(radius, length))
    return Shape(ends, 0.0, radius, coal.Cylinder(radius, length))


def random_shape(rng: np.random.Generator) -> Shape:
    """A hull, a box, a sphere, a capsule or a cylinder, 2 to 30 cm large."""
    size = rng.uniform(0.02, 0.3)
    match int(rng.integers(5)):
        case 0:
            return hull(size * rng.uniform(-1.0, 1.0, (int(rng.integers(4, 60)), 3)))
        case 1:
            return box(*(size * rng.uniform(0.1, 1.0, 3)))
        case 2:
            return Shape(np.zeros((2, 3)), size, 0.0, coal.Sphere(size))
        case kind:
            return rod(size * rng.uniform(0.1, 1.0), size, kind == 3)


def placement(rng: np.random.Generator, spread: float) -> Any:
    """A random rotation and origin."""
    turned = pin.Quaternion(*(rng.normal(size=4))).normalized()
    return pin.SE3(turned.matrix(), rng.uniform(-spread, spread, 3))


class Two:
    """Two shapes and the memory of their last search."""

    def __init__(self, first: Shape, second: Shape) -> None:
        self.both, count = (first, second), len(first.points)
        rows = [
            [*np.zeros(8), 1.0, 0.0, count, first.thick, first.disc],
            [*np.zeros(8), 2.0, count, count + len(second.points), second.thick, second.disc],
        ]
        self._shapes = Capsules(
            np.zeros((2, 17)), np.array(rows), np.ascontiguousarray(np.vstack((first.points, second.points))),
            np.array([[0, 1, CORNERS, 0, 0]]), np.zeros((0, 2)),
        )  # fmt: skip
        for array in self._shapes:
            array.setflags(write=False)
        self._memory = np.zeros((1, 19))

    def found(self, places: tuple[Any, Any], enough: float = np.inf) -> tuple[float, bool, Vector]:
        """(distance or lower bound, whether it is the distance, normal and point)."""
        frames, d, known, wrench = np.zeros((1, 3, 12)), np.empty(1), np.empty(1, dtype=bool), np.zeros((1, 6))
        for row, place in enumerate(places, start=1):
            frames[0, row] = np.append(place.rotation, place.translation)
        gaps(*self._shapes, frames, np.zeros(1, dtype=np.int64), enough, self._memory, wrench, d, known)
        return float(d[0]), bool(known[0]), wrench[0]

    def between(self, places: tuple[Any, Any], n: Vector) -> float:
        """What the planes across ``n`` leave between the shapes, from their points."""
        heights = [place.rotation @ shape.points.T for shape, place in zip(self.both, places, strict=True)]
        low, high = (n @ (h + place.translation[:, None]) for h, place in zip(heights, places, strict=True))
        rims = 0.0
        for shape, place in zip(self.both, places, strict=True):
            rims += shape.thick + shape.disc * float(np.linalg.norm(np.cross(place.rotation[:, 2], n)))
        return float(high.min() - low.max() - rims)

    def coal(self, places: tuple[Any, Any]) -> float:
        """The distance by coal."""
        request, result = coal.DistanceRequest(), coal.DistanceResult()
        first, second = (coal.Transform3s(place.rotation, place.translation) for place in places)
        return float(coal.distance(self.both[0].coal, first, self.both[1].coal, second, request, result))


POINT = Shape(np.zeros((1, 3)), 0.0, 0.0, coal.Sphere(1e-9))


def test_distances_are_those_of_coal() -> None:
    """3,000 random pairs: apart, the distance to 2 µm, with a normal whose planes and a point that prove it."""
    rng, apart, overlapping = np.random.default_rng(0), 0, 0
    for _ in range(3000):
        two = Two(random_shape(rng), random_shape(rng))
        places = placement(rng, 0.2), placement(rng, 0.2)
        truth = two.coal(places)
        d, known, wrench = two.found(places)
        assert d <= truth + 2e-6
        if not known:
            assert truth < 1e-5  # coal's to settle
            overlapping += 1
            continue
        apart += 1
        assert abs(d - truth) < 2e-6
        assert two.between(places, wrench[:3]) == pytest.approx(d, abs=1e-6)
        assert abs(np.linalg.norm(wrench[:3]) - 1.0) < 1e-9
        if d > 0.0:
            there = pin.SE3(np.eye(3), wrench[3:])
            assert abs(Two(POINT, two.both[1]).coal((there, places[1])) - d) < 5e-6
    assert apart > 1500
    assert overlapping > 300


def test_a_search_goes_on_where_the_last_one_ended() -> None:
    """Along motions the distance found from the memory is that found without it, to 1 µm."""
    rng, compared = np.random.default_rng(1), 0
    for _ in range(60):
        two = Two(random_shape(rng), random_shape(rng))
        first, second = placement(rng, 0.25), placement(rng, 0.25)
        for _ in range(20):
            step = pin.exp6(pin.Motion(0.02 * rng.normal(size=6)))
            first = first * step
            d, known, _ = two.found((first, second))
            fresh, also, _ = Two(*two.both).found((first, second))
            assert (known and also) or two.coal((first, second)) < 1e-5
            if known and also:
                assert abs(d - fresh) < 1e-6
                compared += 1
    assert compared > 600


def test_enough_is_enough() -> None:
    """A bound that was asked for is reached where it is true, and never exceeds the distance."""
    rng, reached = np.random.default_rng(2), 0
    for _ in range(600):
        two = Two(random_shape(rng), random_shape(rng))
        places = placement(rng, 0.4), placement(rng, 0.4)
        truth = two.coal(places)
        for share in (0.3, 0.9, 1.5):
            d, known, _ = two.found(places, enough=share * truth)
            assert d <= truth + 2e-6
            if truth > 1e-4:
                assert known or d >= share * truth
                reached += not known
    assert reached > 300


CUBE, LINE = box(0.2, 0.2, 0.2), np.linspace([-0.1, 0.0, 0.0], [0.1, 0.0, 0.0], 5)
SHEET = np.array([[-0.1, -0.1, 0.0], [0.1, -0.1, 0.0], [0.1, 0.1, 0.0], [-0.1, 0.1, 0.0], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("first", "second", "way", "distance"),
    [
        pytest.param(CUBE.points, CUBE.points, (0.5, 0.0, 0.0), 0.3, id="faces"),
        pytest.param(CUBE.points, CUBE.points, (0.5, 0.05, -0.05), 0.3, id="faces that are shifted"),
        pytest.param(CUBE.points, CUBE.points, (0.5, 0.5, 0.0), 0.3 * 2**0.5, id="edges"),
        pytest.param(CUBE.points, CUBE.points, (0.5, 0.5, 0.5), 0.3 * 3**0.5, id="corners"),
        pytest.param(CUBE.points, CUBE.points, (0.20001, 0.2, 0.2), 1e-5, id="corners that are 10 µm apart"),
        pytest.param(CUBE.points, CUBE.points, (0.21, 0.0, 0.0), 0.01, id="faces that are near"),
        pytest.param(np.zeros((1, 3)), np.zeros((3, 3)), (0.3, 0.4, 0.0), 0.5, id="points"),
        pytest.param(LINE, LINE, (0.0, 0.0, 0.1), 0.1, id="parallel lines"),
        pytest.param(LINE, LINE, (0.3, 0.0, 0.0), 0.1, id="one line after the other"),
        pytest.param(SHEET, SHEET, (0.05, 0.05, 0.2), 0.2, id="parallel sheets"),
        pytest.param(SHEET, SHEET, (0.3, 0.0, 0.0), 0.1, id="sheets in one plane"),
        pytest.param(np.repeat(CUBE.points, 3, axis=0), LINE, (0.0, 0.0, 0.3), 0.2, id="points that are there thrice"),
    ],
)
def test_flat_and_parallel_pieces(first: Vector, second: Vector, way: tuple[float, ...], distance: float) -> None:
    """Distances that are known by hand, in any frame."""
    rng = np.random.default_rng(3)
    nothing = coal.Sphere(1.0)
    two = Two(Shape(first, 0.0, 0.0, nothing), Shape(second, 0.0, 0.0, nothing))
    for _ in range(20):
        place = placement(rng, 1.0)
        places = place, place * pin.SE3(np.eye(3), np.array(way))
        d, known, wrench = two.found(places)
        assert abs(d - distance) < 1e-6
        assert known
        assert two.between(places, wrench[:3]) == pytest.approx(distance, abs=1e-6)


@pytest.mark.parametrize(
    "way", [(0.0, 0.0, 0.0), (0.2, 0.0, 0.0), (0.2, 0.2, 0.0), (0.2, 0.2, 0.2), (0.1, 0.05, 0.0), (0.199999, 0.0, 0.0)]
)
def test_pieces_that_touch_or_overlap_are_not_settled(way: tuple[float, ...]) -> None:
    """Of two cubes at no distance none is promised."""
    rng, two = np.random.default_rng(4), Two(CUBE, CUBE)
    for _ in range(20):
        place = placement(rng, 1.0)
        d, known, _ = two.found((place, place * pin.SE3(np.eye(3), np.array(way))))
        assert not known
        assert d < 1e-9


def test_thick_pieces_may_overlap_as_long_as_their_cores_do_not() -> None:
    """A capsule 10 mm deep in another: −10 mm."""
    two = Two(rod(0.05, 0.2, True), rod(0.03, 0.3, True))
    d, known, wrench = two.found((pin.SE3.Identity(), pin.SE3(np.eye(3), np.array([0.07, 0.0, 0.02]))))
    assert known
    assert abs(d + 0.01) < 1e-6
    np.testing.assert_allclose(wrench[:3], [1.0, 0.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("name", ["ur10", "so101", "g1"])
def test_robots(name: str) -> None:
    """Every pair at random postures: capsules are a lower bound, corners the distance unless the pieces overlap."""
    robot = RobotModel.load(name)
    if name == "ur10":
        robot = robot.with_obstacles(OBSTACLES)
    shapes, rng = Capsules.of(robot), np.random.default_rng(4)
    model, geometry = robot.pin_model, robot.collision.geometry
    data, placed = model.createData(), geometry.createData()
    count, kinds = len(shapes.pairs), shapes.pairs[:, 2]
    chosen = np.flatnonzero(kinds != CAPSULES)
    rough, frames, memory = np.empty(count), np.empty((1, robot.n + 1, 12)), np.zeros((count, 19))
    d, known, close = np.empty(len(chosen)), np.empty(len(chosen), dtype=bool), 0
    for _ in range(25):
        q = rng.uniform(robot.limits.q_min, robot.limits.q_max)
        pin.computeDistances(model, data, geometry, placed, q)
        truth = np.array([result.min_distance for result in placed.distanceResults])
        capsules.measure(*shapes, q.reshape(1, -1), frames, rough)
        assert (rough <= truth + 1e-6 + 1e-6 * np.abs(truth)).all()
        gaps(*shapes, frames, chosen, np.inf, memory, np.zeros((count, 6)), d, known)
        rounding = 1e-6 + 2e-6 * np.abs(truth[chosen])
        assert (d <= truth[chosen] + rounding).all()
        assert (np.abs(d - truth[chosen]) <= rounding)[known].all()
        assert known[(truth[chosen] > 1e-5) & (kinds[chosen] == CORNERS)].all()
        close += int((known & (truth[chosen] < 0.05)).sum())
    assert close > 15


def test_the_smallest_is_the_first_of_equals() -> None:
    """As ``argmin`` says."""
    for distances in ([3.0, 1.0, 2.0, 1.0], [0.0], [-1.0, -2.0, np.inf]):
        assert capsules.smallest(np.array(distances)) == np.argmin(distances)
