"""The bound on the torques of a stop: every coefficient is an upper bound, and no stop that it lets pass needs more."""

from __future__ import annotations

from functools import cache

import numpy as np
import pinocchio as pin
import pytest

from safeguard.controllers.brake import StopPlan
from safeguard.controllers.dynamics import Dynamics
from safeguard.controllers.stop_torque import StopTorque, changes
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

ROBOTS = ("panda", "panda_fingers", "ur10", "so101", "g1")


@cache
def robot(name: str) -> RobotModel:
    """A robot by name."""
    return RobotModel.load(name)


def terms(body: RobotModel, q: Vector) -> tuple[Vector, Vector]:
    """(mass matrix, gravity) at ``q``, copies."""
    data = body.pin_model.createData()
    upper = np.triu(pin.crba(body.pin_model, data, q))
    return upper + np.triu(upper, 1).T, pin.computeGeneralizedGravity(body.pin_model, data, q).copy()


def random_q(body: RobotModel, rng: np.random.Generator) -> Vector:
    """Anywhere within the limits."""
    return rng.uniform(body.limits.q_min, body.limits.q_max)


@pytest.mark.parametrize("name", ROBOTS)
def test_mass_and_gravity_change_by_no_more_than_the_bound(name: str) -> None:
    """Between any two configurations |ΔM| ≤ D·|Δq| and |Δg| ≤ G·|Δq|; a fifth of it is needed somewhere."""
    body, rng = robot(name), np.random.default_rng(1)
    D, G = changes(body)
    tightest = 0.0
    for step in np.repeat((1e-4, 1e-2, 1.0), 40):
        q = random_q(body, rng)
        other = q + step * (random_q(body, rng) - q) * (rng.random(body.n) < 0.3)
        (M, g), (N, f), way = terms(body, q), terms(body, other), np.abs(other - q)
        rounding = 1e-9 * (1.0 + np.abs(M).max() + np.abs(g).max())
        assert (np.abs(N - M) <= D @ way + rounding).all()
        assert (np.abs(f - g) <= G @ way + rounding).all()
        bound = G @ way
        tightest = max(tightest, float((np.abs(f - g) / np.where(bound > 1e-6, bound, np.inf)).max()))
    assert tightest > 0.2


@pytest.mark.parametrize("name", ROBOTS)
def test_coriolis_torques_are_within_the_bound(name: str) -> None:
    """|c_i(q, v)| ≤ Σ Γ_ijk |v_j| |v_k| with Γ_ijk = (D_ijk + D_ikj + D_jki) / 2."""
    body, rng = robot(name), np.random.default_rng(2)
    D, _ = changes(body)
    gamma = 0.5 * (D + D.transpose(0, 2, 1) + np.einsum("jki->ijk", D))
    data = body.pin_model.createData()
    for _ in range(100):
        q, v = random_q(body, rng), rng.normal(size=body.n)
        coriolis = pin.nonLinearEffects(body.pin_model, data, q, v) - terms(body, q)[1]
        most = np.einsum("ijk,j,k->i", gamma, np.abs(v), np.abs(v))
        assert (np.abs(coriolis) <= most * (1.0 + 1e-9) + 1e-9).all()


@pytest.mark.parametrize("name", ROBOTS)
def test_a_stop_that_passes_needs_no_more_torque_at_any_moment(name: str) -> None:
    """Dense samples of stops that are called certain stay within the limit; fast and scarce ones are not called so."""
    body, rng = robot(name), np.random.default_rng(3)
    dynamics, passed, failed = Dynamics(body), 0, 0
    a_brake = 0.3 * body.limits.a_max
    for _ in range(400):
        q, v = random_q(body, rng), rng.choice([0.03, 0.3]) * rng.uniform(-1.0, 1.0, body.n) * body.limits.v_max
        plan = StopPlan(q + 1e-3 * rng.normal(size=body.n), v, a_brake, 0)
        dynamics.update(q, v)
        times = np.linspace(0.0, float(plan.durations.max()), 60)[:, None]
        along_q, along_v = plan.at(times)
        a = np.where(times < plan.durations, -np.sign(v) * a_brake, 0.0)
        M, gravity = dynamics.M.T.copy(), dynamics.gravity.copy()
        needed = np.abs(dynamics.torques_along(along_q, along_v, a)).max(axis=0)
        limit = rng.uniform(0.9, 3.0) * needed + 0.1
        open_ = StopTorque(body, a_brake, limit).uncertain(M, gravity, q, plan)
        held = np.ones(body.n, dtype=bool) if open_ is None else ~open_
        assert (needed <= limit)[held].all()
        passed += int(held.sum())
        failed += int((~held).sum())
    assert passed > 100
    assert failed > 100


def rests_seen(body: RobotModel, plan: StopPlan, torque: Vector, joint: int) -> None:
    """Among these torques of ``joint`` are those just before and just after every rest that it feels, and the start."""
    data, supports, needed = body.pin_model.createData(), body.pin_model.supports, list[float]()
    d = plan.durations
    for j in range(body.n):
        if joint + 1 in supports[j + 1] or j + 1 in supports[joint + 1]:
            q, v = plan.at(float(d[j]))
            for braking in (d >= d[j], d > d[j]):
                needed.append(body.bias(v, pin.rnea(body.pin_model, data, q, v, -plan.slope * braking))[joint])
    start = pin.rnea(body.pin_model, data, plan.q0, plan.v0, -plan.slope)
    needed.append(body.bias(plan.v0, start)[joint])
    gaps = np.abs(np.array(needed)[:, None] - torque[:, joint]).min(axis=1)
    assert gaps.max() < 1e-6 * (1.0 + np.abs(torque[:, joint]).max())


@pytest.mark.parametrize("name", ROBOTS)
def test_the_torques_along_a_stop_are_those_wherever_they_can_be_largest(name: str) -> None:
    """For any joints, before and after every rest that each feels; never more than 2 % short of dense samples."""
    body, rng = robot(name), np.random.default_rng(4)
    a_brake, dynamics = 0.3 * body.limits.a_max, Dynamics(body)
    stops = StopTorque(body, a_brake, body.limits.tau_max)
    for _ in range(20):
        v = rng.uniform(-1.0, 1.0, body.n) * np.minimum(0.5 * body.limits.v_max, 0.4 * a_brake)
        plan = StopPlan(random_q(body, rng), v, a_brake, 0)
        joints = rng.random(body.n) < rng.choice([0.1, 0.5, 1.0])
        joints[rng.integers(body.n)] = True
        torque, speed = stops.along(plan, joints)
        np.testing.assert_array_equal(torque[:, ~joints], 0.0)
        assert (np.abs(speed) <= np.abs(plan.v0)).all()
        for joint in np.flatnonzero(joints).tolist():
            rests_seen(body, plan, torque, joint)
        times = np.linspace(0.0, float(plan.durations.max()), 300)[:, None]
        q, v = plan.at(times)
        dense = dynamics.torques_along(q, v, np.where(times < plan.durations, -plan.slope, 0.0))
        slack = 0.02 * np.abs(dense).max(axis=0) + 1e-9
        assert (np.abs(torque).max(axis=0) + slack >= np.abs(dense).max(axis=0))[joints].all()


def test_limbs_apart_share_the_rows() -> None:
    """Of the G1, both legs, waist and arms need no more rows than waist and arms alone; in one row they would."""
    body, rng = robot("g1"), np.random.default_rng(5)
    stops = StopTorque(body, body.limits.a_max, body.limits.tau_max)
    plan = StopPlan(body.home, rng.uniform(0.02, 0.2, body.n) * body.limits.a_max, body.limits.a_max, 0)
    upper = np.arange(body.n) >= 12
    rows = [len(stops.along(plan, joints)[0]) for joints in (upper, ~upper, np.ones(body.n, dtype=bool))]
    assert rows[2] == max(rows)
    assert rows[2] == rows[0] < len(plan.corners()[0])
