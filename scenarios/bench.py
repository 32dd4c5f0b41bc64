"""Timing of the whole tick, everything on: intake, policy port, controller, monitors, modes, filter, journal.

Two streams of proposals take turns in one process, in blocks of ticks, so that both see the same machine:
``admissible`` ones come out unchanged, ``qp`` ones lie beyond the limits. The body is the model itself,
so that nothing but the shield is timed; the Panda starts where the demo starts.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import JsonValue
from rich.table import Table

from safeguard.controllers import SafetyFilter
from safeguard.core.config import FilterConfig, SolverConfig
from safeguard.core.enums import FilterStatus, NominalKind, Reference, SolverStatus
from safeguard.core.errors import SafeguardError
from safeguard.core.robot import RobotModel
from safeguard.core.types import ActionSpec, Decision, Nominal, Observation, RobotState, Timings, Vector
from safeguard.policies import as_policy
from safeguard.scenarios.push import READY
from safeguard.shield import Shield

PERIOD = 0.002
STAGES = ("intake", "policy", "controller", "monitors", "modes", "filter", "record")
_WARM_UP = 600  # ticks: start, acknowledgement, caution
_BLOCK = 50  # ticks
_IMPORTS = 7


class _Stream:
    """A shield with its own body and one kind of proposal."""

    def __init__(self, robot: RobotModel, start: Vector, target: Callable[[Observation], Vector], folder: Path) -> None:
        spec = ActionSpec(robot.joints, "rad", Reference.ABSOLUTE, rate_hz=20.0, chunk=8)

        def propose(seen: Observation) -> Vector:
            return np.tile(target(seen), (8, 1))

        policy = as_policy(propose, spec=spec, name="bench")
        self.shield = Shield(robot, policy, period=PERIOD, audit=folder)
        self.shield.begin_episode("bench")
        self.shield.acknowledge(operator="bench", reason="timing", simulated=True)
        self.q, self.v, self.now = np.array(start), np.zeros(robot.n), 0
        self.timings: list[Timings] = []  # kept decisions would make the garbage collector part of the figure

    def tick(self) -> Decision:
        """One decision and one step of the body that follows it exactly."""
        decision = self.shield.step(Observation(RobotState(self.q, self.v, self.now)), now=self.now)
        a = decision.filter.acceleration
        self.q, self.v = self.q + self.v * PERIOD + 0.5 * a * PERIOD**2, self.v + a * PERIOD
        self.now += round(PERIOD * 1e9)
        return decision


def bench_tick(robot_name: str, ticks: int) -> dict[str, JsonValue]:
    """Percentiles of the tick in µs and the share of every stage, for both streams."""
    robot = RobotModel.load(robot_name)
    limits, home = robot.limits, np.array(READY) if robot_name == "panda" else robot.home

    def near(seen: Observation) -> Vector:
        phase = seen.state.t * 1e-9 * np.pi
        swing: Vector = 0.1 * np.sin(phase + np.arange(robot.n))
        return home + swing

    def beyond(seen: Observation) -> Vector:
        toward = np.where(np.arange(robot.n) % 2 == int(seen.state.t * 1e-9) % 2, 1.0, -1.0)
        wobble = 1e-6 * seen.state.t * 1e-9  # a chunk that repeats itself bit for bit would be refused
        return np.clip(home + 4.0 * toward, limits.q_min - 1.0, limits.q_max + 1.0) + wobble

    with tempfile.TemporaryDirectory() as folder:
        streams = {
            FilterStatus.ADMISSIBLE: _Stream(robot, home, near, Path(folder) / "admissible"),
            FilterStatus.CORRECTED: _Stream(robot, home, beyond, Path(folder) / "qp"),
        }
        for start in range(0, _WARM_UP + ticks, _BLOCK):
            for status, stream in streams.items():
                for number in range(start, start + _BLOCK):
                    decision = stream.tick()
                    if number >= _WARM_UP and decision.filter.status is status:
                        stream.timings.append(decision.timings)
        for stream in streams.values():
            stream.shield.close()
    figures: dict[str, JsonValue] = {"robot": robot_name, "period_s": PERIOD, "import_s": import_time()}
    for status, stream in streams.items():
        if len(stream.timings) < ticks // 10:
            raise SafeguardError(f"only {len(stream.timings)} of {ticks} ticks were {status.value}")
        figures[status.value] = _summary(stream.timings)
    return figures


def bench_filter(robot_name: str, ticks: int) -> dict[str, JsonValue]:
    """Percentiles of a call of ``SafetyFilter`` in µs: proposals that come out unchanged, and both solvers at work.

    As configured by default, most programs settle without a solver; "always" asks it every time. The proposals are
    those of ``bench_tick`` at acceleration level; the filters take turns in blocks of ticks.
    """
    robot = RobotModel.load(robot_name)
    home = np.array(READY) if robot_name == "panda" else robot.home
    calls = {
        "admissible": _Calls(robot, home, "osqp", FilterStatus.ADMISSIBLE),
        "QP active, OSQP": _Calls(robot, home, "osqp", FilterStatus.CORRECTED),
        "QP active, DAQP": _Calls(robot, home, "daqp", FilterStatus.CORRECTED),
        "always OSQP": _Calls(robot, home, "osqp", FilterStatus.CORRECTED, settle=False),
        "always DAQP": _Calls(robot, home, "daqp", FilterStatus.CORRECTED, settle=False),
    }
    for start in range(0, _WARM_UP + ticks, _BLOCK):
        for call in calls.values():
            for number in range(start, start + _BLOCK):
                call.tick(number >= _WARM_UP)
    return {name: {**_percentiles(np.array(call.spent)), "solver": call.shares()} for name, call in calls.items()}


class _Calls:
    """A filter with its own body, which follows it exactly, and one kind of proposal."""

    def __init__(
        self,
        robot: RobotModel,
        home: Vector,
        solver: Literal["osqp", "daqp"],
        status: FilterStatus,
        *,
        settle: bool = True,
    ) -> None:
        self._filter = SafetyFilter(robot, PERIOD, FilterConfig(solver=SolverConfig(settle=settle)), solver=solver)
        self._home, self._status, self._limits = home, status, robot.limits
        self._q, self._v, self._now = np.array(home), np.zeros(robot.n), 0
        self.spent: list[float] = []
        self._solvers = Counter[SolverStatus]()

    def shares(self) -> dict[str, JsonValue]:
        """How the counted ticks were answered, by ``SolverStatus``."""
        return {status.value: count / len(self.spent) for status, count in self._solvers.most_common()}

    def tick(self, counted: bool) -> None:
        """One call, counted if it came out as this kind of proposal should."""
        state = RobotState(self._q, self._v, self._now)
        nominal = Nominal(NominalKind.ACCELERATION, 225.0 * (self._target() - self._q) - 30.0 * self._v)
        begun = time.perf_counter_ns()
        result = self._filter.apply(state, nominal)
        if counted and result.status is self._status:
            self.spent.append((time.perf_counter_ns() - begun) / 1e3)
            self._solvers[result.solver] += 1
        a = result.acceleration
        self._q, self._v = self._q + self._v * PERIOD + 0.5 * a * PERIOD**2, self._v + a * PERIOD
        self._now += round(PERIOD * 1e9)

    def _target(self) -> Vector:
        seconds, joints = self._now * 1e-9, np.arange(len(self._home))
        if self._status is FilterStatus.ADMISSIBLE:
            swing: Vector = 0.1 * np.sin(seconds * np.pi + joints)
            return self._home + swing
        toward = np.where(joints % 2 == int(seconds) % 2, 1.0, -1.0)
        return np.clip(self._home + 4.0 * toward, self._limits.q_min - 1.0, self._limits.q_max + 1.0)


def filter_table(figures: dict[str, JsonValue], robot: str) -> Table:
    """The figures of ``bench_filter`` for people."""
    table = Table(title=f"one call of the safety filter on {robot}, µs")
    table.add_column("")
    for key in ("ticks", "p50", "p90", "p99", "max"):
        table.add_column(key, justify="right")
    table.add_column("answered by")
    for name, row in figures.items():
        assert isinstance(row, dict)
        shares = row["solver"]
        assert isinstance(shares, dict)
        how = ", ".join(f"{status} {share:.1%}" for status, share in shares.items())
        table.add_row(name, *(f"{row[key]:.0f}" for key in ("ticks", "p50", "p90", "p99", "max")), how)
    return table


def import_time() -> float:
    """Median time of ``import safeguard`` in a fresh interpreter, less the interpreter's own start, s."""

    def median(code: str) -> float:
        spent: list[float] = []
        for _ in range(_IMPORTS):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            spent.append(time.perf_counter() - start)
        return statistics.median(spent)

    return max(median("import safeguard") - median("pass"), 0.0)


def bench_table(figures: dict[str, JsonValue]) -> Table:
    """The figures for people: percentiles, then the share of every stage."""
    table = Table(title=f"whole tick on {figures['robot']}; import safeguard: {figures['import_s']:.3f} s")
    table.add_column("")
    rows = [figures[status.value] for status in (FilterStatus.ADMISSIBLE, FilterStatus.CORRECTED)]
    for name in ("admissible", "QP active"):
        table.add_column(name, justify="right")
    for key in ("ticks", "p50", "p90", "p99", "max"):
        unit = "" if key == "ticks" else " µs"
        table.add_row(key, *(f"{row[key]:.0f}{unit}" for row in rows if isinstance(row, dict)))
    table.add_section()
    for stage in STAGES:
        table.add_row(stage, *(f"{_share(row, stage):.0%}" for row in rows))
    return table


def _share(row: JsonValue, stage: str) -> float:
    assert isinstance(row, dict)
    shares = row["shares"]
    assert isinstance(shares, dict)
    share = shares[stage]
    assert isinstance(share, float)
    return share


def _summary(timings: list[Timings]) -> dict[str, JsonValue]:
    medians = {stage: statistics.median(getattr(one, stage) for one in timings) for stage in STAGES}
    whole = sum(medians.values())
    shares: dict[str, JsonValue] = {stage: medians[stage] / whole for stage in STAGES}
    return {**_percentiles(np.array([one.total for one in timings]) / 1e3), "shares": shares}


def _percentiles(spent: Vector) -> dict[str, JsonValue]:
    p50, p90, p99, most = (float(x) for x in np.percentile(spent, [50, 90, 99, 100])) if len(spent) else (0.0,) * 4
    return {"ticks": len(spent), "p50": p50, "p90": p90, "p99": p99, "max": most}
