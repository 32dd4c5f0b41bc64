"""What a certificate says, tested against the dynamics themselves and on samples that it has not seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pinocchio as pin
import pytest

from safeguard.controllers.brake import StopPlan
from safeguard.controllers.scenario_program import scenario_bound, violation_bound
from safeguard.controllers.stop_design import Design, Search
from safeguard.controllers.stop_samples import StopSampler
from safeguard.controllers.tube import tube
from safeguard.core.certificate import Certificate, Uncertainty
from safeguard.core.types import Vector
from tests.unit.certificate_support import EPSILON, certificate
from tests.unit.controllers_support import panda, tiny_arm

OMEGA, DT = 30.0, 0.002


def search(made: Certificate, seed: int, count: int) -> Search:
    """Fresh samples of the certificate's own distribution."""
    return Search(
        panda(),
        made.dt_s,
        made.uncertainty,
        delay_ticks=made.delay_ticks,
        omega=made.tracking_radps,
        seed=seed,
        count=count,
        budget=0,
        room=1.0,
        spread=1.0,
    )


def design(made: Certificate) -> Design:
    """The certificate's numbers."""
    push = np.array([joint.push_radps2 for joint in made.joints])
    authority = np.array([joint.authority_nm for joint in made.joints])
    torque = panda().limits.tau_max - authority
    return Design(made.speed, made.deceleration, torque, made.torque_reserve, made.acceleration_error, push)


def rate(made: Certificate, changed: Design, seed: int = 12345, count: int = 4000) -> float:
    """How many of fresh stops break the numbers."""
    fresh = search(made, seed, count)
    return float(fresh.broken(changed, fresh.fresh(9).at(changed.speed)).mean())


def test_fresh_stops_break_the_numbers_less_often_than_epsilon() -> None:
    """On 4000 stops of another seed the violation rate is below epsilon."""
    assert rate(certificate(), design(certificate())) < EPSILON


@pytest.mark.parametrize(("name", "factor"), [("deceleration", 2.0), ("speed", 1.6), ("reserve", 0.5), ("push", 0.5)])
def test_a_planted_optimism_is_found(name: str, factor: float) -> None:
    """Twice the deceleration, more speed, half the reserve or half the push: fresh stops break it more often."""
    good = design(certificate())
    optimistic = replace(good, **{name: factor * getattr(good, name)})
    assert rate(certificate(), optimistic) > EPSILON


def test_a_disturbance_is_what_the_real_arm_needs_beyond_the_model(tmp_path: Path) -> None:
    """With masses 20 % wrong one way, rotors too, τ + D is the inverse dynamics of the arm with those masses."""
    robot = tiny_arm(tmp_path)
    u = Uncertainty.of(robot, mass_error_share=0.2, friction_nm=0.0, position_error_rad=0.0, velocity_error_radps=0.0)
    sampler = StopSampler(robot, u, 300, np.random.default_rng(1), OMEGA)
    speed, a = robot.limits.v_max, 0.3 * robot.limits.a_max
    stops = sampler.at(speed)
    q, v = sampler.q, sampler.speed * speed
    found = 0
    for k in range(300):
        torque, factors = stops.tau0[k] + stops.tau1[k] @ a, []
        needed = torque + stops.wrong0[k] + stops.wrong1[k] @ a
        nominal = inverse_dynamics(robot.pin_model, robot.viscous * v[k], q[k], v[k], stops.sign[k] * a, 1.0)
        factors = [
            inverse_dynamics(robot.pin_model, robot.viscous * v[k], q[k], v[k], stops.sign[k] * a, f)
            for f in (0.8, 1.2)
        ]
        coulomb = robot.coulomb * np.tanh(v[k] / 0.01)
        np.testing.assert_allclose(torque, nominal + coulomb, atol=1e-9)
        found += any(np.allclose(needed, f + coulomb, atol=1e-9) for f in factors)
    assert 100 < found < 200  # half of the stops are wrong by the whole share the same way


def inverse_dynamics(model: Any, viscous: Vector, q: Vector, v: Vector, a: Vector, factor: float) -> Vector:
    """Torque of an arm of which every mass is ``factor`` times that of the model, by RNEA."""
    heavy = model.copy()
    for i in range(1, heavy.njoints):
        heavy.inertias[i] = pin.Inertia.FromDynamicParameters(factor * heavy.inertias[i].toDynamicParameters())
    heavy.armature = factor * np.asarray(heavy.armature)
    torque: Vector = pin.rnea(heavy, heavy.createData(), q, v, a)
    return torque + viscous


def test_a_load_is_where_with_payload_puts_it() -> None:
    """A known load changes the nominal torque exactly as ``RobotModel.with_payload`` does."""
    robot = panda()
    u = Uncertainty.of(robot, payload_kg=(1.5, 1.5))
    loaded = robot.with_payload(1.5, [0.0, 0.0, 0.0])
    by_range = StopSampler(robot, u, 50, np.random.default_rng(3), OMEGA)
    plain = StopSampler(loaded, Uncertainty.of(robot), 50, np.random.default_rng(3), OMEGA)
    np.testing.assert_allclose(by_range.q, plain.q)
    speed, a = robot.limits.v_max, robot.limits.a_max
    np.testing.assert_allclose(by_range.at(speed).torque(a), plain.at(speed).torque(a), rtol=1e-9, atol=1e-9)


def test_an_unknown_load_is_a_disturbance_that_grows_with_it() -> None:
    """The nominal torque does not know of it; the disturbance at rest is its weight."""
    robot = panda()
    rest, a = 1e-9 * robot.limits.v_max, 1e-9 * robot.limits.a_max
    sizes: list[float] = []
    for mass in (0.0, 0.5, 1.0):
        exact = {"friction_nm": 0.0, "mass_error_share": 0.0, "position_error_rad": 0.0, "velocity_error_radps": 0.0}
        u = Uncertainty.of(robot, payload_error_kg=mass, **exact)
        sizes.append(float(StopSampler(robot, u, 400, np.random.default_rng(4), OMEGA).at(rest).disturbance(a).max()))
    assert sizes[0] < 1e-6
    assert sizes[2] == pytest.approx(2.0 * sizes[1], rel=1e-6)
    assert 9.81 * 0.5 < sizes[2] < 9.81 * 1.2  # 1 kg at an arm's length


def test_external_torque_counts_fully() -> None:
    """Whatever pushes adds its whole size to the disturbance of its joint."""
    robot = panda()
    stops = [
        StopSampler(robot, Uncertainty.of(robot, external_torque_nm=w), 100, np.random.default_rng(5), OMEGA).at(
            robot.limits.v_max
        )
        for w in (0.0, 2.0)
    ]
    a = robot.limits.a_max
    np.testing.assert_allclose(stops[1].disturbance(a), stops[0].disturbance(a) + 2.0)
    assert (stops[1].acceleration_error(a)[0] > stops[0].acceleration_error(a)[0]).all()


# -- a perturbed arm under the backup ---------------------------------------------------------------------


def test_a_perturbed_arm_follows_its_stops_within_the_margins() -> None:
    """Masses 10 % wrong, friction, measurement errors, a tick of delay: no stop leaves tube, envelope or torque."""
    made, rng = certificate(), np.random.default_rng(8)
    runs = [follow(made, rng, rng.choice((0.9, 1.1)), 0.0) for _ in range(20)]
    assert np.max(runs) <= 1.0
    assert np.max(runs, axis=0)[0] > 0.2  # the margins are not idle


def test_an_arm_outside_the_assumptions_leaves_the_margins() -> None:
    """The same with 3 kg that nobody declared: some stops leave the tube, so the test above can fail."""
    made, rng = certificate(), np.random.default_rng(8)
    runs = [follow(made, rng, 1.0, 3.0) for _ in range(10)]
    assert np.max(runs, axis=0)[0] > 1.0


def follow(made: Certificate, rng: np.random.Generator, factor: float, load: float) -> list[float]:
    """[path, lead, speed, torque] at most, in units of what the certificate allows, over one stop from a random state.

    The arm has ``factor`` times the masses and an unknown ``load`` (kg); its law acts one tick late and predicts it.
    """
    robot, dt = panda(), made.dt_s
    limits, v_most = robot.limits, made.speed - made.velocity_margin
    plan = StopPlan(rng.uniform(limits.q_min, limits.q_max), rng.choice((-1.0, 1.0), 7) * v_most, made.deceleration, 0)
    real = (robot.with_payload(load, [0.0, 0.0, 0.0]) if load else robot).pin_model.copy()
    for i in range(1, real.njoints):
        real.inertias[i] = pin.Inertia.FromDynamicParameters(factor * real.inertias[i].toDynamicParameters())
    real.armature = factor * np.asarray(real.armature)
    u, K = made.uncertainty, (made.tracking_radps**2, 2.0 * made.tracking_radps)
    friction, data, real_data = np.array(u.friction_nm), robot.pin_model.createData(), real.createData()
    x, w, s = plan.q0.copy(), plan.v0.copy(), 0.0
    acting = plan.acceleration(0.0, dt)
    tau = robot.bias(w, pin.rnea(robot.pin_model, data, x, w, acting))
    most = np.zeros(4)
    while s < plan.durations.max() + 0.1:
        q_seen = x + rng.choice((-1.0, 1.0), 7) * u.position_error_rad
        v_seen = w + rng.choice((-1.0, 1.0), 7) * u.velocity_error_radps
        q_then, v_then = q_seen + v_seen * dt + 0.5 * acting * dt * dt, v_seen + acting * dt
        q_ref, v_ref = plan.at(s + dt)
        wanted = plan.acceleration(s + dt, dt) + K[0] * (q_ref - q_then) + K[1] * (v_ref - v_then)
        tau_next = robot.bias(v_then, pin.rnea(robot.pin_model, data, q_then, v_then, wanted))
        held = np.clip(tau, -limits.tau_max, limits.tau_max)
        for _ in range(4):
            a = pin.aba(real, real_data, x, w, held - robot.viscous * w - friction * np.tanh(w / 0.003))
            x, w = x + w * (dt / 4) + 0.5 * a * (dt / 4) ** 2, w + a * (dt / 4)
        s += dt
        lead = np.sign(plan.v0) * (x - plan.at(s)[0])
        sizes = np.abs(lead) / made.path_margin, lead / made.position_margin, np.abs(w) / made.speed
        most = np.maximum(most, [size.max() for size in (*sizes, np.abs(tau) / limits.tau_max)])
        tau, acting = tau_next, wanted
    return most.tolist()


# -- the tube -------------------------------------------------------------------------------------------


def test_gains_tend_to_those_of_the_critically_damped_oscillator() -> None:
    """For dt → 0: 1/ω², 2/(eω) and 1 + 2e⁻²."""
    gains = tube(OMEGA, 1e-4, 0)
    assert gains.position == pytest.approx(1.0 / OMEGA**2, rel=1e-2)
    assert gains.speeds[-1] == pytest.approx(2.0 / (np.e * OMEGA), rel=1e-2)
    assert gains.feedback == pytest.approx(1.0 + 2.0 * np.exp(-2.0), rel=1e-2)


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_no_disturbance_leaves_the_tube_and_the_worst_one_nearly_touches_it(delay: int) -> None:
    """Simulated with random, constant and resonant errors of size W; a tube of 0.8 of the size is left."""
    gains, W, rng = tube(OMEGA, DT, delay), 7.0, np.random.default_rng(6)
    steps = 600
    waves = [np.sign(np.sin(2.0 * np.pi * f * DT * np.arange(steps))) for f in (1.0, 3.0, 5.0, 9.0)]
    errors = [W * np.ones(steps), *(W * wave for wave in waves)]
    errors += [rng.uniform(-W, W, steps) for _ in range(20)]
    worst = np.array([simulate(error, delay) for error in errors]).max(axis=0)
    bound = np.array((W * gains.position, W * gains.speeds[-1], W * gains.feedback))
    assert (worst <= bound * (1.0 + 1e-9)).all()
    assert (worst > 0.8 * bound).all()


def simulate(error: Vector, delay: int) -> tuple[float, float, float]:
    """Largest |position|, |speed| and |feedback| of the sampled tracking law under an acceleration error."""
    x = v = 0.0
    flight, most = [0.0] * delay, (0.0, 0.0, 0.0)
    for e in error:
        seen_x, seen_v = x, v
        for u in flight:
            seen_x, seen_v = seen_x + seen_v * DT + 0.5 * u * DT * DT, seen_v + u * DT
        flight.append(-(OMEGA**2) * seen_x - 2.0 * OMEGA * seen_v)
        u = flight.pop(0)
        x, v = x + v * DT + 0.5 * (u + e) * DT * DT, v + (u + e) * DT
        most = (max(most[0], abs(x)), max(most[1], abs(v)), max(most[2], abs(u)))
    return most


def test_a_push_below_the_deceleration_never_speeds_a_stop_up() -> None:
    """Overspeed is zero for W ≤ a and positive beyond."""
    gains, a = tube(OMEGA, DT, 1), np.array([4.0, 4.0, 4.0])
    over = gains.overspeed(np.array([0.0, 4.0 / 1.1, 8.0]), a, DT)
    assert over[0] == over[1] == 0.0
    assert over[2] > 0.01


# -- the bounds -----------------------------------------------------------------------------------------


def test_clopper_pearson_covers() -> None:
    """The bound lies below the true probability in no more than β of 2000 experiments; at p = 0.05 nearly as many."""
    rng, p, samples, beta = np.random.default_rng(7), 0.05, 400, 0.1
    missed = np.mean([violation_bound(int(k), samples, beta) < p for k in rng.binomial(samples, p, 2000)])
    assert 0.5 * beta < missed < beta + 0.02
    assert violation_bound(0, 1375, 1e-6) == pytest.approx(1.0 - 1e-6 ** (1.0 / 1375))
    assert violation_bound(5, 5, 0.1) == 1.0


def test_the_scenario_bound_is_the_binomial_tail() -> None:
    """Without samples left out it is Clopper–Pearson for d − 1 violations; leaving out costs; too few say nothing."""
    assert scenario_bound(1000, 14, 0, 1e-6) == pytest.approx(violation_bound(13, 1000, 1e-6), rel=1e-6)
    assert scenario_bound(1000, 14, 10, 1e-6) > scenario_bound(1000, 14, 0, 1e-6)
    assert scenario_bound(14, 14, 0, 1e-6) == 1.0
