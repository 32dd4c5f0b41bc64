"""Which pairs get a row, and what it asks for. Distances and gradients are in tests/theory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from safeguard.controllers.brake import StopPlan
from safeguard.controllers.clearance import Clearance, ClearanceRows
from safeguard.controllers.viability import braking_point
from safeguard.core.config import ClearanceConfig
from safeguard.core.types import Vector
from tests.unit.controllers_support import DT, capsule_distances, panda, random_q, tiny_arm

CONFIG = ClearanceConfig()
A_MAX = panda().limits.a_max
A_BRAKE = 0.45 * A_MAX
A_PLAN = 0.85 * A_BRAKE


def rows_at(q: Vector, v: Vector, config: ClearanceConfig = CONFIG) -> tuple[ClearanceRows, Vector, Vector]:
    """(rows, distances, braking point) at a state."""
    clearance, brake = Clearance(panda(), config), braking_point(v, A_BRAKE, DT)
    rows, _ = clearance.rows(q, v, A_PLAN, brake, -A_MAX, A_MAX, DT)
    return rows, clearance.now.d, brake


def left_after_stop(q: Vector, v: Vector) -> Vector:
    """Clearance left after a stop, by brute force."""
    return capsule_distances(panda(), StopPlan(q, v, A_PLAN, 0).at(1e3)[0])


def test_there_are_never_more_rows_than_slots_and_the_worst_pair_has_one() -> None:
    """At most ``slots`` rows, in a fixed order of pairs, and the pair whose stop leaves least is among them."""
    rng, full = np.random.default_rng(0), 0
    for _ in range(200):
        q, v = random_q(rng), 0.2 * rng.normal(size=7)
        rows, distances, _ = rows_at(q, v)
        pairs = rows.pairs.tolist()
        assert len(pairs) <= CONFIG.slots
        assert pairs == sorted(set(pairs))
        assert rows.C.shape == (len(pairs), 7)
        assert len(set(rows.slots.tolist())) == len(pairs)
        assert set(rows.slots.tolist()) <= set(range(CONFIG.slots))
        full += len(pairs) == CONFIG.slots
        if distances.min() < 0.0:
            assert int(distances.argmin()) in pairs
    assert full > 0


def test_rows_push_apart_whichever_piece_comes_first(tmp_path: Path) -> None:
    """Where the moving piece is the first of its pair, G is the difference quotient of the distance too."""
    robot = tiny_arm(tmp_path)
    assert robot.collision.names == ("fore|base",)
    everything = ClearanceConfig(zone_m=100.0)
    clearance, still, one = Clearance(robot, everything), np.zeros(2), np.ones(2)
    for q in (np.array([0.3, 2.6]), np.array([-0.5, -2.9]), np.array([1.0, 0.4])):
        rows, _ = clearance.rows(q, still, one, still, -one, one, DT)
        ends = [(clearance.measure(q + 1e-6 * e).d, clearance.measure(q - 1e-6 * e).d) for e in np.eye(2)]
        quotient = [(after - before)[0] / 2e-6 for after, before in ends]
        np.testing.assert_allclose(rows.C[0] / (0.5 * DT * DT), quotient, atol=1e-5)
        assert np.abs(quotient).max() > 0.05


def test_pairs_far_away_get_no_row() -> None:
    """A row is missing only for pairs that no stop after this period can bring into the zone."""
    rng = np.random.default_rng(1)
    zone = CONFIG.floor_m + CONFIG.buffer_m + CONFIG.zone_m
    skipped = 0
    for _ in range(100):
        q, v = random_q(rng), 0.1 * rng.normal(size=7)
        rows, _, _ = rows_at(q, v)
        if len(rows.pairs) == CONFIG.slots:
            continue
        others = np.setdiff1d(np.arange(len(panda().collision.pairs)), rows.pairs)
        for _ in range(3):
            a = rng.uniform(-1.0, 1.0, 7) * panda().limits.a_max
            w = v + a * DT
            assert left_after_stop(q + 0.5 * (v + w) * DT, w)[others].min() >= zone
        skipped += len(others)
    assert skipped > 100


def test_a_row_predicts_what_an_acceleration_leaves_after_the_stop() -> None:
    """C (a − planned braking) is the change of the brute-force clearance at the end of the stop, to first order.

    For pairs that come nearest there, at a fifth and at most of the speed limits, and far better than no row.
    """
    rng = np.random.default_rng(2)
    errors: list[float] = []
    scale: list[float] = []
    naive: list[float] = []
    while len(errors) < 60:
        v = rng.choice([0.2, 0.7]) * rng.uniform(-1.0, 1.0, 7) * panda().limits.v_max
        q = random_q(rng)
        rows, _, _ = rows_at(q, v)
        planned = braking_point(v, A_PLAN, DT)
        stop = StopPlan(q, v, A_PLAN, 0)
        path = stop.at(np.linspace(0.0, float(stop.durations.max()), 12)[:, None])[0]
        along = np.array([capsule_distances(panda(), x)[rows.pairs] for x in path]).reshape(12, -1)
        last = np.flatnonzero((along[-1] < along[:-1].min(axis=0)) & (along[-1] > 0.0))
        if len(last) == 0:
            continue
        a = planned + 0.5 * rng.uniform(-1.0, 1.0, 7)
        a = np.where((v + a * DT) * v > 0.0, a, planned)  # the formula is for joints that don't turn round
        moved = [left_after_stop(q + (v + 0.5 * x * DT) * DT, v + x * DT)[rows.pairs[last]] for x in (a, planned)]
        predicted = rows.C[last] @ (a - planned)
        errors.append(float(np.abs(moved[0] - moved[1] - predicted).max()))
        naive.append(float(np.abs(moved[0] - moved[1]).max()))
        scale.append(float(np.abs(predicted).max()))
    assert np.median(np.array(errors) / np.maximum(scale, 1e-12)) < 0.05
    assert np.median(naive) > 10.0 * np.median(errors)


def test_a_pair_keeps_its_slot_while_it_is_near() -> None:
    """Along a motion a pair changes its row only by leaving, whatever other pairs come and go."""
    rng = np.random.default_rng(5)
    clearance, changes, seen = Clearance(panda(), CONFIG), 0, 0
    for _ in range(20):
        clearance.reset()
        q, step, before = random_q(rng), 0.002 * rng.normal(size=7), dict[int, int]()
        for _ in range(100):
            q = q + step
            rows, _ = clearance.rows(q, np.zeros(7), A_PLAN, np.zeros(7), -A_MAX, A_MAX, DT)
            seats = dict(zip(rows.pairs.tolist(), rows.slots.tolist(), strict=True))
            assert all(seats[pair] == before[pair] for pair in seats.keys() & before.keys())
            changes += seats.keys() != before.keys()
            seen += len(seats)
            before = seats
    assert changes > 20
    assert seen > 1000


def test_braking_satisfies_every_row() -> None:
    """Bounds are relaxed to the braking point where needed, and the slack says by how much."""
    rng, relaxed = np.random.default_rng(3), 0
    for _ in range(200):
        rows, _, brake = rows_at(random_q(rng), 0.3 * rng.normal(size=7))
        assert (rows.C @ brake >= rows.bound - 1e-15).all()
        assert (rows.slack >= 0.0).all()
        relaxed += bool((rows.slack > 1e-5).any())
        unrelaxed = rows.slack == 0.0
        assert (rows.C @ brake >= (rows.bound + rows.slack))[unrelaxed].all()
    assert relaxed > 0


def test_a_retreat_gives_rows_what_braking_does_not_and_takes_nothing() -> None:
    """At least what braking gives of what every row wants, more of some, and within half the planned deceleration."""
    rng, away, gains = np.random.default_rng(6), 0, list[float]()
    lower, upper = -0.3 * A_MAX, 0.3 * A_MAX
    for _ in range(300):
        q, v = random_q(rng), 0.01 * rng.normal(size=7)
        brake = np.clip(braking_point(v, A_BRAKE, DT), lower, upper)
        rows, retreat = Clearance(panda(), CONFIG).rows(q, v, A_PLAN, brake, lower, upper, DT)
        wanted = rows.bound + rows.slack
        if retreat is brake:
            continue
        away += 1
        assert (np.abs(retreat - brake) <= 0.5 * A_PLAN + 1e-12).all()
        assert ((lower <= retreat) & (retreat <= upper)).all()
        firm = rows.relaxed(retreat)
        assert (firm.bound >= rows.bound - 1e-15).all()
        assert (firm.bound <= rows.C @ retreat).all()
        np.testing.assert_allclose(firm.bound + firm.slack, wanted, atol=1e-15)
        gains.append(float((firm.bound - rows.bound).max()))
    assert away >= 20
    assert np.median(gains) > 1e-7


def test_outside_the_buffer_at_rest_no_slack_is_needed() -> None:
    """At rest with 10 mm everywhere standing still satisfies every row as it is."""
    rng, seen = np.random.default_rng(4), 0
    while seen < 30:
        q = random_q(rng)
        if not 0.0101 < capsule_distances(panda(), q).min() < 0.014:
            continue
        rows, _, _ = rows_at(q, np.zeros(7))
        assert len(rows.pairs) > 0
        np.testing.assert_array_equal(rows.slack, 0.0)
        assert (rows.bound <= 0.0).all()
        seen += 1


def test_names_are_those_of_the_robot() -> None:
    """So that rows and refusals can be read."""
    assert Clearance(panda(), CONFIG).names == panda().collision.names


def test_what_a_pair_has_had_is_remembered_from_the_first_proof_on() -> None:
    """A pair seen far off and then pushed below its floor may not stay there, whatever happened in between."""
    rng, clearance, robot, seen = np.random.default_rng(9), Clearance(panda(), CONFIG), panda(), 0
    still = np.zeros(7)
    while seen < 5:
        q = random_q(rng)
        below = capsule_distances(robot, q) < CONFIG.floor_m
        if below.sum() != 1 or capsule_distances(robot, robot.home)[below][0] < 0.02:
            continue
        seen += 1
        for come_from, refused in ((q, False), (robot.home, True)):
            clearance.reset()
            for at in (come_from, q):
                now = clearance.measure(at)
                refusal = clearance.stop_refusal(now, now, StopPlan(at, still, A_BRAKE, 0))
            assert (refusal != "") is refused
