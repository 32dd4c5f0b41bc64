"""Sampled stops under a declared uncertainty: what the model asks for, and what the real arm needs beyond it.

For a state (q, v), a deceleration a (rad/s², one a joint) and signs b ∈ {−1, 0, 1} (b_j = −sgn v_j while joint j
still brakes, 0 once it rests) the backup's torque and the disturbance are

    τ = M (b ∘ a) + h                                   nominal model, at the measured state
    D = M' (b ∘ a) + h' + f − τ + M (ω² e_q + 2ω e_v)   real arm, at the real state, with measurement errors

both affine in a. M, M' and the signs do not depend on the speed envelope; h, h' and f do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pinocchio as pin
from numpy.typing import NDArray

from safeguard.core.certificate import Uncertainty
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector

MIXTURE = {
    "uniform": 0.4,  # speeds uniform in the envelope, every joint brakes
    "corner": 0.2,  # every joint at plus or minus its envelope
    "aligned": 0.2,  # as corner, signs chosen so that all joints' braking adds to the gravity of a random joint
    "resting": 0.1,  # a random part of the joints has come to rest, the others are at a corner
    "slow": 0.1,  # corner signs at 1 % of the envelope: the moment before rest, where friction no longer helps
}
"""What share of the samples is of which kind."""

DISTRIBUTION = (
    "independent stops; kinds "
    + ", ".join(f"{name} {share:g}" for name, share in MIXTURE.items())
    + " (see safeguard.controllers.stop_samples); positions uniform within the limits, one in five at a limit for all "
    "kinds but uniform; masses: half of the stops have all links and rotors wrong by the whole share the same way, the "
    "others each link and rotor independently and uniformly; payload mass, its error and friction: one half at an end "
    "of their range, one half uniform; centres of mass uniform in their cube; state errors at plus or minus their bound"
)
"""The distribution in words; a certificate carries it."""

_AT_A_LIMIT = 0.2  # of the coordinates, for all kinds but uniform
_SLOW = 0.01  # of the envelope


@dataclass(frozen=True, slots=True)
class Stops:
    """Sampled stops at one speed envelope; ``k`` of them, everything affine in the deceleration.

    Attributes:
        tau0, tau1: nominal torque τ = tau0 + tau1 a, shapes (k, n) and (k, n, n), N·m.
        wrong0, wrong1: disturbance D = wrong0 + wrong1 a, shapes (k, n) and (k, n, n), N·m.
        sign: of the braking acceleration b, 0 for a joint at rest, shape (k, n).
        inertia: real mass matrices M', shape (k, n, n), kg·m².
        external: bound of the external torque, shape (n,), N·m.
    """

    tau0: Vector
    tau1: Vector
    wrong0: Vector
    wrong1: Vector
    sign: Vector
    inertia: Vector
    external: Vector

    def torque(self, a: Vector) -> Vector:
        """|τ| of every stop with deceleration ``a``, shape (k, n), N·m."""
        return np.abs(self.tau0 + self.tau1 @ a)

    def disturbance(self, a: Vector) -> Vector:
        """|D| + w of every stop, shape (k, n), N·m: what the feedback has to supply."""
        return np.abs(self.wrong0 + self.wrong1 @ a) + self.external

    def acceleration_error(self, a: Vector) -> tuple[Vector, Vector]:
        """(size, part that pushes along the motion) of M'⁻¹ D, with w at its worst, shapes (k, n), rad/s².

        How wrong the motion is without feedback. A joint at rest is pushed along whichever way it is pushed.
        """
        wrong = self.wrong0 + self.wrong1 @ a
        error = np.linalg.solve(self.inertia, wrong[..., None])[..., 0]
        along = np.where(self.sign == 0.0, np.abs(error), np.maximum(self.sign * error, 0.0))
        if self.external.any():
            push = np.abs(np.linalg.inv(self.inertia)) @ self.external
            return np.abs(error) + push, along + push
        return np.abs(error), along


class StopSampler:
    """``count`` independent stops of a robot, to be looked at under any speed envelope.

    Args:
        robot: the nominal model, without the load that ``uncertainty`` declares.
        uncertainty: what the real arm may differ by.
        count: number of stops.
        rng: its own random stream.
        omega: natural frequency of the tracking law, rad/s.

    Attributes:
        q: positions, shape (count, n), rad.
        speed: shares of the envelope, shape (count, n).
    """

    def __init__(
        self, robot: RobotModel, uncertainty: Uncertainty, count: int, rng: np.random.Generator, omega: float
    ) -> None:
        self._robot, self._uncertainty, self._count = robot, uncertainty, count
        n, limits = robot.n, robot.limits
        self._model, self._real = robot.pin_model.copy(), robot.pin_model.copy()
        self._data, self._loaded = self._model.createData(), uncertainty.payload_kg[1] > 0.0
        self._links = np.array([inertia.toDynamicParameters() for inertia in self._model.inertias])
        kinds = rng.choice(list(MIXTURE), size=count, p=list(MIXTURE.values()))
        self.q = rng.uniform(limits.q_min, limits.q_max, (count, n))
        ends = np.where(rng.random((count, n)) < 0.5, limits.q_min, limits.q_max)
        at_end = (rng.random((count, n)) < _AT_A_LIMIT) & (kinds != "uniform")[:, None]
        self.q[at_end] = ends[at_end]
        self._draw_errors(rng)
        self._M, gravity = self._nominal_inertia()
        self.speed, self._sign = self._draw_speeds(rng, kinds, gravity)
        self._M_real = self._real_inertia()
        noise = omega * omega * self._error_q + 2.0 * omega * self._error_v
        self._noise = np.einsum("kij,kj->ki", self._M, noise)
        self._tau1 = self._M * self._sign[:, None, :]
        self._wrong1 = (self._M_real - self._M) * self._sign[:, None, :]

    def at(self, envelope: Vector) -> Stops:
        """The stops with speeds scaled to ``envelope``, shape (n,), rad/s."""
        robot, model, wrong, data = self._robot, self._model, self._real, self._data
        v = self.speed * envelope
        q_seen, v_seen = self.q + self._error_q, v + self._error_v
        nominal, real = np.empty_like(v), np.empty_like(v)
        for k in range(self._count):
            if self._loaded:
                _carry(model, self._known[k])
            nominal[k] = pin.nonLinearEffects(model, data, q_seen[k], v_seen[k])
            _carry(wrong, self._actual[k])
            real[k] = pin.nonLinearEffects(wrong, data, self.q[k], v[k])
        tau0 = robot.bias(v_seen, nominal)
        wrong0 = robot.bias(v, real) + self._friction - tau0 + self._noise
        external = np.asarray(self._uncertainty.external_torque_nm, dtype=float)
        return Stops(tau0, self._tau1, wrong0, self._wrong1, self._sign, self._M_real, external)

    # -- drawing --------------------------------------------------------------------------------------

    def _draw_errors(self, rng: np.random.Generator) -> None:
        """State errors, and the inertial parameters of the nominal and of the real links of every stop."""
        u, count, n = self._uncertainty, self._count, self._robot.n
        self._error_q = u.position_error_rad * rng.choice((-1.0, 1.0), (count, n))
        self._error_v = u.velocity_error_radps * rng.choice((-1.0, 1.0), (count, n))
        self._friction_share = _ends_or_uniform(rng, 0.0, 1.0, (count, n))
        together = rng.random((count, 1)) < 0.5
        whole = np.where(rng.random((count, 1)) < 0.5, -1.0, 1.0)
        share = u.mass_error_share * np.where(together, whole, rng.uniform(-1.0, 1.0, (count, 2 * n)))
        self._rotor_real = np.asarray(self._model.armature) * (1.0 + share[:, n:])
        load = _ends_or_uniform(rng, *u.payload_kg, (count, 1))
        error = np.maximum(u.payload_error_kg * _ends_or_uniform(rng, -1.0, 1.0, (count, 1)), -load)
        coms = rng.uniform(-u.payload_com_m, u.payload_com_m, (count, 2, 3))
        joint, known = self._load(load[:, 0], coms[:, 0])
        _, wrong = self._load(error[:, 0], np.where(error < 0.0, coms[:, 0], coms[:, 1]))
        self._known = np.repeat(self._links[None], count, axis=0)
        self._known[:, joint] += known
        self._actual = self._known.copy()
        self._actual[:, joint] += wrong
        self._actual[:, 1:] *= 1.0 + share[:, :n, None]

    def _load(self, mass: Vector, com: Vector) -> tuple[int, Vector]:
        """(joint that carries the tool, inertial parameters of point loads in its frame, shape (k, 10))."""
        frame = self._model.frames[self._model.getFrameId(self._robot.tool_frame)]
        at = com @ np.asarray(frame.placement.rotation).T + np.asarray(frame.placement.translation)
        x, y, z = at.T
        zero = np.zeros_like(x)
        unit = np.stack(
            (zero + 1.0, x, y, z, y * y + z * z, -x * y, x * x + z * z, -x * z, -y * z, x * x + y * y), axis=1
        )
        return int(frame.parentJoint), mass[:, None] * unit

    def _draw_speeds(self, rng: np.random.Generator, kinds: NDArray[np.str_], gravity: Vector) -> tuple[Vector, Vector]:
        """(speed as a share of the envelope, sign of the braking acceleration), each of shape (k, n)."""
        count, n = self._count, self._robot.n
        corner = rng.choice((-1.0, 1.0), (count, n))
        rows = np.arange(count)
        joint = np.asarray(rng.integers(0, n, size=count), dtype=np.intp)
        toward = np.where(gravity[rows, joint] < 0.0, -1.0, 1.0)
        signs = -toward[:, None] * np.where(self._M[rows, joint] < 0.0, -1.0, 1.0)
        speed = np.where((kinds == "aligned")[:, None], signs, corner)
        resting = (kinds == "resting")[:, None] & (rng.random((count, n)) < 0.5)
        uniform = rng.uniform(-1.0, 1.0, (count, n))
        speed = np.where((kinds == "uniform")[:, None], uniform, speed)
        speed = np.where((kinds == "slow")[:, None], _SLOW * speed, np.where(resting, 0.0, speed))
        # Friction opposes motion. At rest it only holds: what it does there is no disturbance.
        self._friction = self._friction_share * np.asarray(self._uncertainty.friction_nm) * np.sign(speed)
        return speed, -np.sign(speed)

    # -- dynamics -------------------------------------------------------------------------------------

    def _nominal_inertia(self) -> tuple[Vector, Vector]:
        """(M at the measured position, gravity torque at the real one), shapes (k, n, n) and (k, n)."""
        count, n = self.q.shape
        inertia, gravity = np.empty((count, n, n)), np.empty((count, n))
        for k in range(count):
            if self._loaded:
                _carry(self._model, self._known[k])
            inertia[k] = pin.crba(self._model, self._data, self.q[k] + self._error_q[k])
            gravity[k] = pin.computeGeneralizedGravity(self._model, self._data, self.q[k])
        return inertia, gravity

    def _real_inertia(self) -> Vector:
        count, n = self.q.shape
        inertia = np.empty((count, n, n))
        for k in range(count):
            _carry(self._real, self._actual[k])
            self._real.armature = self._rotor_real[k]
            inertia[k] = pin.crba(self._real, self._data, self.q[k])
        return inertia


def _carry(model: Any, links: Vector) -> None:
    """Give the model these inertial parameters, shape (links, 10)."""
    for i in range(1, len(links)):
        model.inertias[i] = pin.Inertia.FromDynamicParameters(links[i])


def _ends_or_uniform(rng: np.random.Generator, low: float, high: float, shape: tuple[int, ...]) -> Vector:
    """Half of the values at an end of [low, high], half uniform between."""
    ends = np.where(rng.random(shape) < 0.5, low, high)
    return np.where(rng.random(shape) < 0.5, ends, rng.uniform(low, high, shape))
