"""What the filter works with: how hard stops brake, and how far motion stays from every limit.

From a certificate, which covers a declared uncertainty, or from the configured margins alone; then the results are
``provisional``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from safeguard.controllers.brake import braking_deceleration
from safeguard.controllers.certify import quick_certificate
from safeguard.controllers.viability import Ceiling
from safeguard.core.certificate import Certificate, Uncertainty
from safeguard.core.config import FilterConfig
from safeguard.core.errors import ConfigError
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector, frozen_array


@dataclass(frozen=True, slots=True)
class Figures:
    """Numbers of one filter; arrays have shape (n,).

    Attributes:
        a_brake: deceleration of verified stops, rad/s².
        a_plan: deceleration that bounds and rows plan with, less by what model errors take, rad/s².
        q_min, q_max: where planned motion and stops end at most, rad.
        v_max: largest commanded speed, rad/s.
        ceiling: speed limits by position, as stops with a_plan need them; None if the robot has none.
        v_most: speed beyond which motion is not planned anew but stopped, rad/s; between v_max and the limit.
        tau_stop: torque that a verified stop may need; the rest is the feedback's, N·m.
        tube: how far the robot may be from the stop that it follows, rad.
        omega: natural frequency of the tracking law, rad/s.
        provisional: no certificate stands behind them.
    """

    a_brake: Vector
    a_plan: Vector
    q_min: Vector
    q_max: Vector
    v_max: Vector
    v_most: Vector
    tau_stop: Vector
    tube: Vector
    omega: float
    provisional: bool
    ceiling: Ceiling | None = None


def figures(robot: RobotModel, dt: float, config: FilterConfig) -> Figures:
    """Those that ``config`` names for ``robot``.

    Without a certificate one share of the acceleration limits is sampled for which all joints can brake at once at
    their speed limits; a robot that can't gets the quick certificate of an exact model, which lowers its speeds.

    Raises:
        CertificateError: the certificate is of something else.
        ConfigError: the position margin is less than what discrete time needs.
    """
    certificate = config.certificate
    if certificate is not None:
        certificate.check(robot, dt, config.delay_ticks)
    elif (braking := braking_deceleration(robot, config.brake)) is not None:
        return _checked(_from_margins(robot, config, braking), robot, dt, config)
    else:
        exact = Uncertainty.of(
            robot, mass_error_share=0.0, friction_nm=0.0, position_error_rad=0.0, velocity_error_radps=0.0
        )
        certificate = quick_certificate(robot, dt, exact, delay_ticks=config.delay_ticks)
    return _checked(_from_certificate(robot, config, certificate), robot, dt, config)


def _from_certificate(robot: RobotModel, config: FilterConfig, certificate: Certificate) -> Figures:
    limits, margins = robot.limits, config.margins
    kept = certificate.position_margin + margins.position_rad
    reserve = np.maximum(certificate.torque_reserve, margins.torque_share * limits.tau_max)
    speed = np.minimum(certificate.speed - certificate.velocity_margin, (1.0 - margins.velocity_share) * limits.v_max)
    return Figures(
        a_brake=certificate.deceleration,
        a_plan=frozen_array(config.brake.plan_share * certificate.deceleration),
        q_min=frozen_array(limits.q_min + kept),
        q_max=frozen_array(limits.q_max - kept),
        v_max=frozen_array(speed),
        v_most=frozen_array(0.5 * (speed + np.minimum(certificate.speed, limits.v_max))),
        tau_stop=frozen_array(limits.tau_max - reserve),
        tube=certificate.path_margin,
        omega=certificate.tracking_radps,
        provisional=certificate.provisional,
    )


def _from_margins(robot: RobotModel, config: FilterConfig, a_brake: Vector) -> Figures:
    limits, margins = robot.limits, config.margins
    return Figures(
        a_brake=a_brake,
        a_plan=frozen_array(config.brake.plan_share * a_brake),
        q_min=frozen_array(limits.q_min + margins.position_rad),
        q_max=frozen_array(limits.q_max - margins.position_rad),
        v_max=frozen_array((1.0 - margins.velocity_share) * limits.v_max),
        v_most=frozen_array((1.0 - 0.5 * margins.velocity_share) * limits.v_max),
        tau_stop=frozen_array((1.0 - margins.torque_share) * limits.tau_max),
        tube=frozen_array(np.zeros(robot.n)),
        omega=config.brake.omega_radps,
        provisional=True,
    )


def _checked(made: Figures, robot: RobotModel, dt: float, config: FilterConfig) -> Figures:
    """The same, within the robot's velocity curves."""
    margins, least = config.margins, float(made.a_brake.max()) * dt * dt / 8.0
    if margins.position_rad < least:
        raise ConfigError(
            f"margins.position_rad = {margins.position_rad}: the last, partial period of a stop runs "
            f"on by up to {least:.2g} rad at dt = {dt} s; keep at least that"
        )
    share = 1.0 - margins.velocity_share
    ceiling = Ceiling.of(robot.limits.velocity_curves, made.a_plan, share, margins.position_rad)
    if ceiling is None:
        return made
    low, high = np.maximum(made.q_min, ceiling.q_min), np.minimum(made.q_max, ceiling.q_max)
    return replace(made, q_min=frozen_array(low), q_max=frozen_array(high), ceiling=ceiling)
