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


@pytest.mark.parametrize("name", ["panda", "ur10", "so101"])
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
        certain = open_ is None
        held = np.ones(body.n, dtype=bool) if open_ is None else ~open_
        assert (needed <= limit)[held].all()
        passed += certain
        failed += not certain
    assert passed > 20
    assert failed > 20
