"""What the gate for hosts that play rows costs, and how much of an expert's motion it leaves alone.

    python benchmarks/gate.py [--chunks N] [--json FILE]

A Panda, chunks of 50 rows of 7 joints and a gripper at 50 Hz, 25 played between offers. The expert moves along
minimum-jerk curves between random postures, at most at ``SHARE`` of the limits of speed and acceleration; curves that
pass a limit or come near a self-collision, by dense sampling, are no expert's and are left out.

check:       the rows, the ways between them and two stops, as they are (``RowArm.filter``)
call:        ``ChunkGate.offer`` that changes nothing, with a journal
correction:  ``ChunkGate.offer`` that follows rows to a far posture with the filter
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from safeguard import RobotModel
from safeguard.controllers.clearance import Clearance
from safeguard.controllers.row_arm import RowArm
from safeguard.core.action import ActionSpec
from safeguard.core.config import ClearanceConfig
from safeguard.core.enums import FilterStatus, Mode, NominalKind, Reference
from safeguard.core.types import NS_PER_S, Nominal, RobotState, Vector
from safeguard.integrations.gate import ChunkGate

RATE, CHUNK, PLAYS, SHARE = 50.0, 50, 25, 0.6
MARGIN: Final = 0.06  # rad that an expert keeps from the ends of the ranges
CLEAR: Final = 0.02  # m that an expert keeps between links


class Expert:
    """Minimum-jerk motion between random postures, forever.

    Args:
        robot: the model.
        seed: of the postures.
    """

    def __init__(self, robot: RobotModel, seed: int) -> None:
        self._robot, self._rng = robot, np.random.default_rng(seed)
        self._clearance = Clearance(robot, ClearanceConfig())

    def leg(self, start: Vector) -> Vector:
        """Points from ``start`` to the next posture, 1/``RATE`` s apart, the start left out, shape (k, n)."""
        limits = self._robot.limits
        while True:
            goal = self._rng.uniform(limits.q_min + MARGIN, limits.q_max - MARGIN)
            way = np.abs(goal - start)
            seconds = max(
                float((1.875 * way / (SHARE * limits.v_max)).max()),
                float(np.sqrt(5.774 * way / (SHARE * limits.a_max)).max()),
            )
            s = (np.arange(1, round(seconds * RATE) + 1) / round(seconds * RATE))[:, None]
            points: Vector = start + s**3 * (10.0 - 15.0 * s + 6.0 * s * s) * (goal - start)
            if all(self._clearance.nearest(self._clearance.measure(q))[1] > CLEAR for q in points):
                return points

    def chunks(self, start: Vector, count: int) -> Iterator[Vector]:
        """Chunks of which ``PLAYS`` rows are played, each from where the last one led, shape (CHUNK, n)."""
        points = start[None][:0]
        for _ in range(count):
            while len(points) < CHUNK:
                points = np.vstack((points, self.leg(points[-1] if len(points) else start)))
            yield points[:CHUNK].copy()
            points = points[PLAYS:]


def _milliseconds(taken: list[float]) -> dict[str, float]:
    return {"p50_ms": float(np.percentile(taken, 50) * 1e3), "p99_ms": float(np.percentile(taken, 99) * 1e3)}


def checks(robot: RobotModel, chunks: list[Vector]) -> dict[str, float]:
    """Time of ``RowArm.filter`` on an expert's chunks."""
    arm, taken = RowArm(robot, rate_hz=RATE, chunk=CHUNK, plays=PLAYS), list[float]()
    state = RobotState(robot.home, np.zeros(robot.n), 0)
    for k, rows in enumerate(chunks):
        begun = time.perf_counter()
        result = arm.filter(state, Nominal(NominalKind.ROWS, rows))
        taken.append(time.perf_counter() - begun)
        arm.command(result, state.t, 0, k)
        assert arm.told is not None
        state = RobotState(arm.told.q[PLAYS], np.zeros(robot.n), state.t + round(PLAYS * NS_PER_S / RATE))
    return _milliseconds(taken)


def calls(robot: RobotModel, chunks: list[Vector], folder: Path) -> dict[str, float]:
    """Times of offers that change nothing, and of offers of a far posture; the share of an expert's left alone."""
    joints = (*robot.joints, "gripper")
    spec = ActionSpec(joints, "rad", Reference.ABSOLUTE, RATE, CHUNK, others=("gripper",))
    same, whole, corrected, now, q = 0, list[float](), list[float](), NS_PER_S, robot.home
    period = round(PLAYS * NS_PER_S / RATE)
    with ChunkGate(robot, spec, plays=PLAYS, audit=folder) as gate:
        gate.begin_episode("benchmark")
        gate.acknowledge(operator="benchmark", reason="start")
        while gate.shield.mode is not Mode.NOMINAL:
            gate.offer(q, np.tile(np.append(q, 0.04), (CHUNK, 1)), now=now)
            now += period
        for rows in chunks:
            wanted = np.hstack((rows, np.full((CHUNK, 1), 0.04)))
            begun = time.perf_counter()
            answer = gate.offer(q, wanted, now=now)
            taken = time.perf_counter() - begun
            if answer.actions.tobytes() == wanted.tobytes():
                same += 1
                whole.append(taken)
            q, now = answer.actions[PLAYS - 1, : robot.n].copy(), now + period
        for k in range(len(chunks) // 10):
            far = np.append(robot.home + 0.5 * (-1.0) ** k + 1e-4 * k, 0.04)
            begun = time.perf_counter()
            answer = gate.offer(q, np.tile(far, (CHUNK, 1)), now=now)
            if answer.decision.filter.status is FilterStatus.CORRECTED:
                corrected.append(time.perf_counter() - begun)
            q, now = answer.actions[PLAYS - 1, : robot.n].copy(), now + period
    found = {f"call_{name}": value for name, value in _milliseconds(whole).items()}
    found |= {f"correction_{name}": value for name, value in _milliseconds(corrected).items()}
    return {"expert_bit_for_bit": same / len(chunks), **found}


def main() -> None:
    """Print the figures, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=400, help="of the expert")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    given = parser.parse_args()
    robot = RobotModel.load("panda")
    chunks = list(Expert(robot, seed=1).chunks(robot.home, given.chunks))
    found = {f"check_{name}": value for name, value in checks(robot, chunks).items()}
    with tempfile.TemporaryDirectory() as folder:
        found |= calls(robot, chunks, Path(folder) / "run")
    found = {name: round(value, 4) for name, value in found.items()}
    print(json.dumps({"chunks": given.chunks, **found}, indent=1))
    if given.json is not None:
        given.json.write_text(json.dumps({"chunks": given.chunks, **found}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
