"""Random and adversarial ticks for the specification, and the program that the solvers get for each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from safeguard.controllers.solver import BIG
from safeguard.core.types import Vector
from tests.theory.qp_specification import Physics
from tests.unit.solver_support import Problem, mass_matrix

Random = np.random.Generator


def plain(rng: Random, n: int, k: int, spread: float = 1.0) -> Physics:
    """Braking is allowed with room to spare everywhere; the nominal lies far outside."""
    M, brake = mass_matrix(rng, n, spread), rng.uniform(-5.0, 5.0, n)
    inertia = np.diagonal(M)
    h = inertia * rng.normal(0.0, 3.0, n)
    C = rng.normal(size=(k, n)) * 10.0 ** rng.uniform(-6.0, -3.0, (k, 1))  # m/(rad/s²) over one period
    return Physics(
        nominal=rng.normal(0.0, 15.0, n), brake=brake, M=M, h=h,
        tau=np.abs(M @ brake + h) + inertia * rng.uniform(0.1, 10.0, n),
        low=brake - rng.uniform(0.0, 8.0, n), high=brake + rng.uniform(0.0, 8.0, n),
        C=C, b=C @ brake - np.linalg.norm(C, axis=1) * rng.uniform(0.0, 2.0, k),
    )  # fmt: skip


def changed(p: Physics, **parts: Vector) -> Physics:
    """The same tick with other parts."""
    given = {name: getattr(p, name) for name in ("nominal", "brake", "M", "h", "tau", "low", "high", "C", "b")}
    return Physics(**{**given, **parts})


def ill_scaled(rng: Random, n: int, k: int) -> Physics:
    """Inertias differ by a factor of ten thousand, so heavy joints' torque rows are tiny in light joints' units."""
    return plain(rng, n, k, spread=2.0)


def vertex(rng: Random, n: int, k: int) -> Physics:
    """Half of the joint limits and all torque and clearance rows pass through the braking point."""
    p = plain(rng, n, k)
    low = np.where(rng.random(n) < 0.5, p.brake, p.low)
    return changed(p, low=low, tau=np.abs(p.M @ p.brake + p.h), b=p.C @ p.brake)


def conflict(rng: Random, n: int, k: int) -> Physics:
    """Clearance asks for more than braking gives and the torque for braking is not there: everything is relaxed."""
    p = plain(rng, n, k)
    lengths = np.linalg.norm(p.C, axis=1)
    return changed(p, b=p.C @ p.brake + lengths * rng.uniform(0.0, 5.0, k), tau=0.5 * p.tau)


def duplicates(rng: Random, n: int, k: int) -> Physics:
    """Half of the clearance rows repeat the others, a third of them turned round, some off by 1e-9."""
    p = plain(rng, n, k)
    C, half = p.C.copy(), k // 2
    C[half:] = C[: k - half] * np.where(rng.random(k - half) < 0.3, -1.0, 1.0)[:, None]
    if rng.random() < 0.5:
        C[half:] *= 1.0 + 1e-9 * rng.normal(size=(k - half, 1))
    return changed(p, C=C, b=C @ p.brake - np.linalg.norm(C, axis=1) * rng.choice([0.0, 1e-9, 0.5], k))


def parallel(rng: Random, n: int, k: int) -> Physics:
    """All clearance rows point nearly the same way."""
    p = plain(rng, n, k)
    C = p.C[:1] + 1e-5 * np.linalg.norm(p.C[0]) * rng.normal(size=(k, n))
    return changed(p, C=C, b=C @ p.brake - np.linalg.norm(C, axis=1) * rng.uniform(0.0, 2.0, k))


def point(rng: Random, n: int, k: int) -> Physics:
    """The joint limits leave the braking point and nothing else."""
    p = plain(rng, n, k)
    return changed(p, low=p.brake.copy(), high=p.brake.copy())


def thin(rng: Random, n: int, k: int) -> Physics:
    """The joint limits leave half of the joints no choice."""
    p = plain(rng, n, k)
    fixed = rng.random(n) < 0.5
    return changed(p, low=np.where(fixed, p.brake, p.low), high=np.where(fixed, p.brake, p.high))


def narrow(rng: Random, n: int, k: int) -> Physics:
    """Every interval is 0.2 mrad/s² wide or less."""
    p = plain(rng, n, k)
    return changed(p, low=p.brake - rng.uniform(0.0, 1e-4, n), high=p.brake + rng.uniform(0.0, 1e-4, n))


def unused(rng: Random, n: int, k: int) -> Physics:
    """Most clearance slots are empty: rows of zeros that always hold."""
    p = plain(rng, n, k)
    C = np.where(rng.random(k)[:, None] < 0.6, 0.0, p.C)
    return changed(p, C=C, b=np.where(C.any(axis=1), p.b, -1.0))


def wild(rng: Random, n: int, k: int) -> Physics:
    """The nominal is a thousand times what the arm can do."""
    return changed(plain(rng, n, k), nominal=rng.choice([-1.0, 1.0], n) * BIG)


def inside(rng: Random, n: int, k: int) -> Physics:
    """The nominal is allowed as it is."""
    p = plain(rng, n, k)
    return changed(p, nominal=p.brake.copy(), low=p.brake - 1.0, high=p.brake + 1.0, b=p.b - 1.0)


KINDS: tuple[Callable[[Random, int, int], Physics], ...] = (
    plain, ill_scaled, vertex, conflict, duplicates, parallel, point, thin, narrow, unused, wild, inside
)  # fmt: skip


def program(p: Physics, margin: float) -> Problem:
    """What a solver gets for a tick: every row in rad/s², as ``controllers/program.py`` says."""
    low, high, tau_low, tau_high, b = p.relaxed(margin)
    inertia, lengths = np.linalg.norm(p.M, axis=1), np.maximum(np.linalg.norm(p.C, axis=1), 1e-12)
    dense = np.concatenate((p.M / inertia[:, None], p.C / lengths[:, None]))
    lower = np.concatenate((low, (tau_low - p.h) / inertia, b / lengths))
    upper = np.concatenate((high, (tau_high - p.h) / inertia, np.full(len(b), BIG)))
    return Problem(p.nominal, dense, lower, upper, np.clip(p.nominal, low, high))
