"""Distances, their gradients, the motion bound and the proof of stops, against plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pinocchio as pin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard.controllers.brake import StopPlan
from safeguard.controllers.clearance import Clearance
from safeguard.core.config import ClearanceConfig
from safeguard.core.types import Indices, Vector
from tests.unit.controllers_support import (
    DT,
    capsule_distances,
    capsule_ends,
    clear_q,
    panda,
    point_distances,
    random_q,
    segment_distances,
)

CONFIG = ClearanceConfig()
A_MAX = panda().limits.a_max
A_BRAKE = 0.45 * A_MAX
SEEDS = st.integers(0, 2**32 - 1)


def all_rows(q: Vector) -> tuple[Indices, Vector]:
    """(pairs, gradient of their distances) of every pair at ``q``."""
    everything = ClearanceConfig(zone_m=100.0, slots=len(panda().collision.pairs))
    clearance, still = Clearance(panda(), everything), np.zeros(7)
    rows, _ = clearance.rows(q, still, A_BRAKE, still, -A_MAX, A_MAX, DT)
    return rows.pairs, rows.C / (0.5 * DT * DT)


def difference_quotient(q: Vector, step: float = 1e-6) -> Vector:
    """Central differences of the numpy distances, shape (pairs, n), m/rad."""
    columns = [
        (capsule_distances(panda(), q + step * e) - capsule_distances(panda(), q - step * e)) / (2.0 * step)
        for e in np.eye(7)
    ]
    return np.array(columns).T


def test_the_oracle_finds_no_two_points_closer_than_it_says() -> None:
    """Segment distance of the oracle equals the least over a fine grid of point pairs, within the grid's width."""
    rng = np.random.default_rng(0)
    p0, p1, q0, q1 = rng.uniform(-1.0, 1.0, (4, 60, 3))
    p1[:10], q1[10:20] = p0[:10], q0[10:20]  # points
    q1[20:30] = q0[20:30] + (p1 - p0)[20:30]  # parallels
    s = np.linspace(0.0, 1.0, 201)
    a = p0[:, None] + s[None, :, None] * (p1 - p0)[:, None]
    b = q0[:, None] + s[None, :, None] * (q1 - q0)[:, None]
    grid = np.linalg.norm(a[:, :, None] - b[:, None], axis=3).min(axis=(1, 2))
    found = segment_distances(p0, p1, q0, q1)
    assert (found <= grid + 1e-12).all()
    assert (grid - found).max() < 0.02


def test_every_piece_of_the_panda_is_a_capsule() -> None:
    """So that the oracle covers all of them."""
    kinds = {type(obj.geometry).__name__ for obj in panda().collision.geometry.geometryObjects}
    assert kinds == {"Capsule"}


def test_measured_distances_are_the_distances_of_the_capsules() -> None:
    """The distances of all kept pairs equal plain numpy's to 1e-9 m at random configurations."""
    clearance, rng = Clearance(panda(), CONFIG), np.random.default_rng(1)
    penetrating = 0
    for _ in range(150):
        q = random_q(rng)
        oracle = capsule_distances(panda(), q)
        assert np.abs(clearance.measure(q).d - oracle).max() < 1e-9
        penetrating += int((oracle < 0.0).sum())
    assert penetrating > 100


def test_rows_carry_the_gradient_of_the_distance() -> None:
    """At rest C = G dt²/2, and G equals the difference quotient of every pair, in penetration too."""
    rng = np.random.default_rng(2)
    compared = penetrating = 0
    for _ in range(15):
        q = random_q(rng)
        pairs, G = all_rows(q)
        assert len(pairs) == len(panda().collision.pairs)
        quotient = difference_quotient(q)[pairs]
        coarse = difference_quotient(q, 1e-4)[pairs]
        smooth = np.abs(quotient - coarse).max(axis=1) < 1e-3  # parallels and axes that cross have kinks
        assert np.abs(G - quotient)[smooth].max() < 1e-5
        compared += int(smooth.sum())
        penetrating += int((capsule_distances(panda(), q)[pairs][smooth] < 0.0).sum())
    assert compared > 700
    assert penetrating > 10


@settings(max_examples=80)
@given(seed=SEEDS, size=st.floats(-4.0, 0.5), one_joint=st.booleans())
def test_no_distance_changes_by_more_than_the_reach_allows(seed: int, size: float, one_joint: bool) -> None:
    """|d(q + Δ) − d(q)| ≤ Σ reach |Δ| for every pair and any Δ, small or large."""
    rng = np.random.default_rng(seed)
    q, step = random_q(rng), rng.normal(size=7) * 10.0**size
    if one_joint:
        step *= np.arange(7) == rng.integers(7)
    change = np.abs(capsule_distances(panda(), q + step) - capsule_distances(panda(), q))
    assert (change <= panda().collision.reach @ np.abs(step) + 1e-12).all()


def test_the_reach_is_not_wasteful() -> None:
    """The largest gradient seen is at least half of the bound for some joint of most pairs."""
    rng = np.random.default_rng(3)
    largest = np.max([np.abs(difference_quotient(random_q(rng), 1e-4)) for _ in range(60)], axis=0)
    reach = panda().collision.reach
    share = (largest / np.where(reach > 0.0, reach, np.inf)).max(axis=1)
    assert np.median(share) > 0.5
    assert (reach[largest > 1e-6] > 0.0).all()


# -- stops ----------------------------------------------------------------------------------------------


def stop(q: Vector, v: Vector) -> StopPlan:
    """Braking from (q, v)."""
    return StopPlan(q, v, A_BRAKE, 0)


def away_from(q: Vector, v: Vector) -> StopPlan:
    """The stop after one period at ``v`` from ``q``."""
    return stop(q + v * DT, v)


def refusal_of(clearance: Clearance, q: Vector, plan: StopPlan) -> str:
    """What the check of a stop says that begins at ``q``, of a robot that has not been anywhere else."""
    clearance.reset()
    now = clearance.measure(q)
    return clearance.stop_refusal(now, now, plan)


def close_q(rng: np.random.Generator) -> Vector:
    """A configuration whose nearest pair is 3 to 20 mm apart."""
    while True:
        q = clear_q(rng, 0.003)
        if capsule_distances(panda(), q).min() < 0.02:
            return q


def least_on(plan: StopPlan, start: Vector, samples: int = 200) -> Vector:
    """Smallest numpy distance of every pair on the way from ``start`` into the stop and along it."""
    t = np.linspace(0.0, float(plan.durations.max()), samples)
    path = [start, *plan.at(t[:, None])[0]]
    least: Vector = np.min([capsule_distances(panda(), q) for q in path], axis=0)
    return least


def test_an_accepted_stop_keeps_the_hard_floor_at_every_one_of_200_points() -> None:
    """Dense sampling finds no pair below the hard floor on any stop that was let through; refusals exist too."""
    clearance, rng = Clearance(panda(), CONFIG), np.random.default_rng(4)
    accepted = near = refused = 0
    while accepted < 40:
        q = close_q(rng)
        plan = stop(q, rng.uniform(-1.0, 1.0, 7) * panda().limits.v_max)
        if refusal_of(clearance, q, plan):
            refused += 1
            continue
        accepted += 1
        least = least_on(plan, q)
        assert least.min() >= CONFIG.hard_floor_m
        near += least.min() < 0.03
    assert near >= 20
    assert refused >= 5


def test_a_stop_that_ends_in_collision_is_refused() -> None:
    """Each of 30 stops whose end penetrates is refused, and the reason names a pair of the robot."""
    clearance, rng = Clearance(panda(), CONFIG), np.random.default_rng(5)
    seen = 0
    while seen < 30:
        q = close_q(rng)
        plan = stop(q, rng.uniform(-1.0, 1.0, 7) * panda().limits.v_max)
        end = plan.at(10.0)[0]
        if capsule_distances(panda(), end).min() >= 0.0:
            continue
        seen += 1
        refusal = refusal_of(clearance, q, plan)
        assert any(name in refusal for name in panda().collision.names), refusal


def test_a_stop_that_only_passes_through_a_collision_is_refused() -> None:
    """Stops that are clear at both ends but not on the way are refused as well."""
    clearance, rng = Clearance(panda(), CONFIG), np.random.default_rng(6)
    seen = 0
    for _ in range(400):
        q, end = clear_q(rng, 0.01), clear_q(rng, 0.01)
        away = end - q  # a stop of any length, to have something in its way
        plan = StopPlan(q, np.sign(away) * np.sqrt(2.0 * A_BRAKE * np.abs(away)), A_BRAKE, 0)
        if least_on(plan, q, 15).min() >= 0.0:
            continue
        seen += 1
        assert refusal_of(clearance, q, plan) != ""
        if seen == 8:
            return
    pytest.fail(f"only {seen} such stops found")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (
            [0.4644, -0.6767, -2.6877, -2.1036, -2.7043, 1.5564, -1.806],
            [-0.0996, -0.4394, 2.2053, -1.9783, 0.6303, 0.8582, 2.032],
        ),
        (
            [1.8712, -0.062, -1.3937, -2.1114, -1.6856, 1.1565, -0.8589],
            [1.9272, 1.4893, 1.7089, -2.2601, 1.958, 1.3491, 2.4778],
        ),
    ],
)
def test_a_pass_between_two_samples_is_not_missed(start: list[float], end: list[float]) -> None:
    """Even samples all keep the floor here, and the arm comes closer between them: refused all the same (30 mm)."""
    floor = 0.03
    clearance = Clearance(panda(), ClearanceConfig(hard_floor_m=floor, floor_m=floor))
    q, away = np.array(start), np.array(end) - np.array(start)
    plan = StopPlan(q, np.sign(away) * np.sqrt(2.0 * A_BRAKE * np.abs(away)), A_BRAKE, 0)
    even = 1.0 - np.sqrt(1.0 - np.linspace(0.0, 1.0, 16))
    path = plan.at(float(plan.durations.max()) * even[:, None])[0]
    assert min(capsule_distances(panda(), x).min() for x in path) > floor
    assert least_on(plan, q, 400).min() < floor - 5e-4
    assert refusal_of(clearance, q, plan) != ""


def test_a_stop_that_stands_still_is_always_accepted() -> None:
    """No motion: the stop from rest is accepted even at a configuration that is already too close."""
    clearance, rng = Clearance(panda(), CONFIG), np.random.default_rng(7)
    close = 0
    for _ in range(200):
        q = random_q(rng)
        distances = clearance.measure(q).d
        close += distances.min() < 0.0
        assert refusal_of(clearance, q, stop(q, np.zeros(7))) == ""
    assert close > 5


def test_a_pair_below_its_floor_may_separate_but_not_approach() -> None:
    """From a configuration below the floor, moving along the gradient is accepted and against it refused."""
    clearance, rng = Clearance(panda(), CONFIG), np.random.default_rng(8)
    seen = 0
    for _ in range(400):
        q = random_q(rng)
        distances = clearance.measure(q).d
        if not (-0.02 < distances.min() < 0.0 and (distances < 0.015).sum() == 1):
            continue
        seen += 1
        pairs, G = all_rows(q)
        away = G[list(pairs).index(int(distances.argmin()))]
        v = 0.1 * away / np.abs(away).max()
        assert refusal_of(clearance, q, away_from(q, v)) == ""
        assert refusal_of(clearance, q, away_from(q, -v)) != ""
    assert seen >= 10


# -- enclosure ------------------------------------------------------------------------------------------


def original_geometry() -> Any:
    """The collision geometry of the URDF as it is written, on the locked model's joints."""
    full = pin.buildModelFromXML(panda().urdf_text)
    geometry = pin.buildGeomFromUrdfString(full, panda().urdf_text, pin.GeometryType.COLLISION)
    locked = [full.getJointId(name) for name in ("panda_finger_joint1", "panda_finger_joint2")]
    return pin.buildReducedModel(full, geometry, locked, pin.neutral(full))[1]


def surface_points(obj: Any, rng: np.random.Generator, count: int) -> Vector:
    """Random points on a sphere's or a cylinder's surface, rims included, in its joint's frame, (count, 3)."""
    radius = float(obj.geometry.radius)
    if not hasattr(obj.geometry, "halfLength"):
        points = rng.normal(size=(count, 3))
        points *= radius / np.linalg.norm(points, axis=1, keepdims=True)
    else:
        half, angle = float(obj.geometry.halfLength), rng.uniform(0.0, 2.0 * np.pi, count)
        z = np.where(rng.random(count) < 0.5, rng.choice([-half, half], count), rng.uniform(-half, half, count))
        points = np.stack((radius * np.cos(angle), radius * np.sin(angle), z), axis=1)
    placed: Vector = points @ obj.placement.rotation.T + obj.placement.translation
    return placed


def test_the_pieces_enclose_the_original_primitives() -> None:
    """Every point on every primitive of the URDF lies in the piece that stands for it, to 1 µm."""
    rng, collision = np.random.default_rng(9), panda().collision
    pieces = list(collision.geometry.geometryObjects)
    home = {name: k for k, names in enumerate(collision.members) for name in names}
    originals = list(original_geometry().geometryObjects)
    assert sorted(home) == sorted(str(obj.name) for obj in originals)
    for obj in originals:
        piece = pieces[home[str(obj.name)]]
        assert piece.parentJoint == obj.parentJoint
        points = surface_points(obj, rng, 300)
        half = np.array([0.0, 0.0, piece.geometry.halfLength])
        a, b = (np.tile(piece.placement.act(end), (len(points), 1)) for end in (-half, half))
        assert point_distances(points, a, b).max() <= piece.geometry.radius + 1e-6


def test_the_pieces_are_not_much_larger_than_the_primitives() -> None:
    """A capsule's ends are caps of the URDF within 1 mm: an enclosure, not a balloon."""
    starts, ends, radii = capsule_ends(panda(), np.zeros(7))
    originals = list(original_geometry().geometryObjects)
    spheres = [obj for obj in originals if not hasattr(obj.geometry, "halfLength")]
    data = panda().pin_model.createData()
    pin.forwardKinematics(panda().pin_model, data, np.zeros(7))
    centres = np.array([(data.oMi[o.parentJoint] * o.placement).translation for o in spheres])
    sizes = np.array([float(o.geometry.radius) for o in spheres])
    for k, radius in enumerate(radii):
        caps = centres[np.abs(sizes - radius) < 1.1e-3]
        for end in (starts[k], ends[k]):
            gap: Vector = np.linalg.norm(caps - end, axis=1)
            assert gap.min() < 1.1e-3
