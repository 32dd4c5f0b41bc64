"""Certifying how hard a robot can brake: speed envelope and deceleration, chosen together.

``certify`` solves one convex scenario program a speed share, takes the most useful answer and checks it on fresh
samples. ``quick_certificate`` looks for one common share without cvxpy, in a second or two, and is provisional.
Statement and symbols: docs/concepts/certificate.md.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from safeguard.controllers.scenario_program import load_cvxpy, scenario_bound, scenario_program, violation_bound
from safeguard.controllers.stop_design import SPEED_SHARES, Design, Search
from safeguard.controllers.stop_samples import DISTRIBUTION
from safeguard.core.certificate import (
    Certificate,
    CertificateError,
    JointCertificate,
    NotCertifiableError,
    Statement,
    Uncertainty,
)
from safeguard.core.config import BrakeConfig
from safeguard.core.robot import RobotModel
from safeguard.core.version import __version__

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many steps of it are done, and of how many."""

Kind = Literal["certified", "provisional"]

OMEGA = BrakeConfig().omega_radps

_ROOM, _QUICK_ROOM = 0.98, 0.95  # of the torque limits, what a design plans with
_SPREAD, _QUICK_SPREAD = 1.05, 1.25  # on the largest disturbance among the samples
_DROPPED, _QUICK_DROPPED = 0.7, 0.1  # of ε N, how many of the hardest samples a design may leave out
_ATTEMPTS = 3  # at the validation; β is divided among them
_QUICK_STOPS = 3000
_QUICK_SHARES = SPEED_SHARES[::2] + SPEED_SHARES[-1:]
_QUICK_REVISION = 1  # of what the quick certificate computes; part of its place in the cache


def certify(
    robot: RobotModel,
    dt: float = 0.002,
    uncertainty: Uncertainty | None = None,
    *,
    delay_ticks: int = 0,
    epsilon: float = 0.01,
    beta: float = 1e-6,
    omega: float = OMEGA,
    seed: int = 0,
    progress: Progress | None = None,
) -> Certificate:
    """The braking certificate of ``robot`` for control period ``dt`` (s) under ``uncertainty``.

    Args:
        robot: the model that the filter computes with, without the loads of ``uncertainty.payload_kg``.
        dt: control period, s.
        uncertainty: what the real arm may differ by; ``Uncertainty.of(robot)`` if None.
        delay_ticks: periods between decision and actuation.
        epsilon, beta: a fresh stop breaks the numbers with probability at most epsilon, with confidence 1 − beta.
        omega: natural frequency of the backup's tracking law, rad/s.
        seed: of all samples.
        progress: told how far it is.

    Raises:
        NotCertifiableError: no envelope leaves authority after the disturbance; names the joint and what would help.
        MissingExtraError: cvxpy is not installed.
        CertificateError: epsilon, beta or the uncertainty does not make sense.
    """
    load_cvxpy()
    count = _sample_count(epsilon, beta)
    budget = max(0, int(_DROPPED * epsilon * count) - 2 * robot.n)
    search = Search(
        robot,
        dt,
        uncertainty or Uncertainty.of(robot),
        delay_ticks=delay_ticks,
        omega=omega,
        seed=seed,
        count=count,
        budget=budget,
        room=_ROOM,
        spread=_SPREAD,
    )
    steps = len(SPEED_SHARES) + robot.n + 1
    tell = progress or _silent
    best, tried = search.best(SPEED_SHARES, search.program, lambda s, k: tell(f"speed {s:.0%}", k, steps))
    best = search.widened(best, lambda joint, k: tell(f"faster {joint}", len(SPEED_SHARES) + k, steps))
    tell("validation", steps - 1, steps)
    theorem = scenario_bound(count, 2 * robot.n, budget, beta / len(tried))
    statement = _statement(search, epsilon, beta, tried, theorem, inspect.getsource(scenario_program))
    return _validated(best, search, "certified", statement)


def quick_certificate(
    robot: RobotModel,
    dt: float = 0.002,
    uncertainty: Uncertainty | None = None,
    *,
    delay_ticks: int = 0,
    omega: float = OMEGA,
    folder: Path | None = None,
) -> Certificate:
    """A provisional certificate with one share for all joints, without cvxpy, kept on disk.

    Arguments and errors as ``certify``; ``folder`` is where it is kept, ``$XDG_CACHE_HOME/safeguard/certificates`` if
    None. A damaged file is made again; a folder that cannot be written is done without.
    """
    uncertainty = uncertainty or Uncertainty.of(robot)
    content = {
        "robot": robot.digest,
        "dt": dt,
        "uncertainty": uncertainty.model_dump(mode="json"),
        "delay": delay_ticks,
        "omega": omega,
        "distribution": DISTRIBUTION,
        "made by": [__version__, _QUICK_REVISION],
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path = (folder or _cache_folder()) / f"{key[:32]}.json"
    with suppress(CertificateError, OSError):
        found = Certificate.parse(path.read_bytes(), str(path))
        found.check(robot, dt, delay_ticks)
        return found
    made = quick_design(robot, dt, uncertainty, delay_ticks=delay_ticks, omega=omega)
    with suppress(OSError):
        _store(path, made)
    return made


def quick_design(
    robot: RobotModel,
    dt: float,
    uncertainty: Uncertainty,
    *,
    delay_ticks: int = 0,
    epsilon: float = 0.02,
    beta: float = 1e-3,
    omega: float = OMEGA,
    seed: int = 0,
) -> Certificate:
    """What ``quick_certificate`` keeps; arguments and errors as ``certify``."""
    _sample_count(epsilon, beta)
    search = Search(
        robot,
        dt,
        uncertainty,
        delay_ticks=delay_ticks,
        omega=omega,
        seed=seed,
        count=_QUICK_STOPS,
        budget=int(_QUICK_DROPPED * epsilon * _QUICK_STOPS),
        room=_QUICK_ROOM,
        spread=_QUICK_SPREAD,
    )
    best, tried = search.best(_QUICK_SHARES, search.common)
    program = "the largest common share of the acceleration limits that the samples allow, then joint by joint"
    statement = _statement(search, epsilon, beta, tried, None, program)
    return _validated(best, search, "provisional", statement)


def _statement(
    search: Search, epsilon: float, beta: float, tried: tuple[float, ...], theorem: float | None, program: str
) -> Statement:
    """What is known before the validation."""
    tools = ("numpy", "pin") if theorem is None else ("cvxpy", "clarabel", "numpy", "pin")
    return Statement(
        epsilon=epsilon,
        beta=beta,
        bound=0.0,
        scenario_bound=theorem,
        design_samples=search.count,
        dropped_samples=search.budget,
        validation_samples=search.count,
        violations=0,
        seed=search.seed,
        envelopes=tried,
        distribution=DISTRIBUTION,
        program=program,
        tools=tuple((name, version(name)) for name in tools),
    )


def _validated(best: Design, search: Search, kind: Kind, statement: Statement) -> Certificate:
    """The certificate of the design after fresh samples; it retreats where they say that it must."""
    design, count, bound = best, 0, 1.0
    for attempt in range(_ATTEMPTS):
        stops = search.fresh(1 + attempt).at(design.speed)
        count = int(search.broken(design, stops).sum())
        bound = violation_bound(count, search.count, statement.beta / _ATTEMPTS)
        if bound <= statement.epsilon:
            found = {**statement.model_dump(), "bound": bound, "violations": count}
            return _certificate(design, search, kind, Statement.model_validate(found))
        gentler = search.retreated(design, stops)
        if gentler is None:
            break
        design = gentler
    joint = search.tightest(design)
    raise NotCertifiableError(
        joint,
        f"{count} of {search.count} fresh stops broke the numbers, {joint!r} being the tightest joint: their "
        f"probability is bounded by {bound:.4f} only, epsilon is {statement.epsilon}; what would help: a larger "
        "epsilon, or a smaller uncertainty",
    )


def _certificate(design: Design, search: Search, kind: Kind, statement: Statement) -> Certificate:
    robot, limits = search.robot, search.robot.limits
    path, position, velocity = search.margins(design)
    authority = limits.tau_max - design.torque
    columns = {
        "speed_radps": design.speed,
        "speed_share": design.speed / limits.v_max,
        "deceleration_radps2": design.deceleration,
        "deceleration_share": design.deceleration / limits.a_max,
        "authority_nm": authority,
        "disturbance_nm": design.reserve,
        "remaining_nm": authority - design.reserve,
        "disturbance_radps2": design.error,
        "push_radps2": design.push,
        "path_margin_rad": path,
        "position_margin_rad": position,
        "velocity_margin_radps": velocity,
    }
    joints = [
        JointCertificate.model_validate({"joint": name, **{key: float(x[j]) for key, x in columns.items()}})
        for j, name in enumerate(robot.joints)
    ]
    return Certificate(
        kind=kind,
        robot=robot.name,
        robot_digest=robot.digest,
        own_changes=len(robot.source.get("changes", ())),
        dt_s=search.dt,
        delay_ticks=search.delay_ticks,
        tracking_radps=search.omega,
        uncertainty=search.uncertainty,
        joints=tuple(joints),
        statement=statement,
    ).sealed()


def _sample_count(epsilon: float, beta: float) -> int:
    for name, value in (("epsilon", epsilon), ("beta", beta)):
        if not 0.0 < value < 1.0:
            raise CertificateError(f"{name} = {value}: must lie in (0, 1)")
    return math.ceil(8.0 * math.log(1.0 / beta) / epsilon)


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "safeguard" / "certificates"


def _store(path: Path, certificate: Certificate) -> None:
    """Write it whole or not at all, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
    os.close(handle)
    try:
        certificate.save(Path(name))
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _silent(what: str, done: int, total: int) -> None:
    """Nobody is watching."""
