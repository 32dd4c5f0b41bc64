"""Speed caps: what the speed of a body is, that motion under them is left alone, and that nothing passes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import numpy as np
import pinocchio as pin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeguard.controllers.clearance import ClearanceRows
from safeguard.controllers.daqp import DaqpSolver
from safeguard.controllers.shapes import Capsules
from safeguard.controllers.speed import SpeedCaps, joined
from safeguard.controllers.viability import JointBounds, braking_point
from safeguard.core.config import SolverConfig
from safeguard.core.robot import RobotModel
from safeguard.core.types import Vector
from tests.unit.controllers_support import DT, panda, random_q, tiny_arm

ROUNDING = 1e-8  # m/s
N = 7
LIMITS = panda().limits
A_BRAKE = 0.45 * LIMITS.a_max
FALL = 2.0  # m/s²


def speed_caps(share: float = 0.01) -> SpeedCaps:
    """Of the Panda."""
    return SpeedCaps(panda(), A_BRAKE, DT, deceleration=FALL, share=share)


@dataclass
class Loop:
    """A perfect arm that does what the rows, the last resort and the check leave of a wanted acceleration."""

    caps: Vector
    speed: SpeedCaps = field(default_factory=speed_caps)
    q: Vector = field(default_factory=lambda: panda().home.copy())
    v: Vector = field(default_factory=lambda: np.zeros(N))
    refused: int = 0

    def __post_init__(self) -> None:
        self._bounds = JointBounds(LIMITS.q_min, LIMITS.q_max, LIMITS.v_max, LIMITS.a_max, 0.85 * A_BRAKE, DT)
        self._solver = DaqpSolver(N, self.speed.slots, SolverConfig(name="daqp"))

    def tick(self, wanted: Vector, enforce: bool = True) -> Vector:
        """One period; the acceleration."""
        brake = braking_point(self.v, A_BRAKE, DT)
        lower, upper = self._bounds(self.q, self.v, brake)
        a = np.clip(wanted, lower, upper)
        if enforce and self.speed.refusal(self.q, self.v, a, brake, self.caps):
            a = self._filtered(a, brake, lower, upper)
        w = self.v + a * DT
        self.q, self.v = self.q + 0.5 * DT * (self.v + w), w
        return a

    def _filtered(self, wanted: Vector, brake: Vector, lower: Vector, upper: Vector) -> Vector:
        rows = self.speed.rows(self.q, self.v, wanted, brake, lower, upper, self.caps)
        dense, slots = np.zeros((self.speed.slots, N)), self.speed.slots
        dense[rows.slots] = rows.C / rows.length[:, None]
        low, high = np.concatenate((lower, np.full(slots, -1e4))), np.concatenate((upper, np.full(slots, 1e4)))
        low[N + rows.slots] = np.minimum(rows.bound, rows.C @ brake) / rows.length
        a, status, _ = self._solver.solve(wanted, dense, low, high, brake)
        assert status.answered
        a = self.speed.within(self.q, self.v, a, brake, self.caps)
        if self.speed.refusal(self.q, self.v, a, brake, self.caps):
            self.refused += 1
            return brake
        return a

    def speeds(self) -> Vector:
        """Of everything that can be capped, m/s."""
        found: Vector = self.speed.speeds(self.q[None], self.v[None])[0]
        return found


# -- what is measured ------------------------------------------------------------------------------------------


def test_the_speed_of_a_link_is_that_of_the_fastest_point_of_its_capsules() -> None:
    """Against points on the capsules moved by finite differences: none is faster, and some almost as fast."""
    speed, shapes, model = speed_caps(), Capsules.of(panda()), panda().pin_model
    rng, data, step = np.random.default_rng(0), model.createData(), 1e-6
    for _ in range(10):
        q, v = random_q(rng), rng.normal(size=N)
        found = dict(zip(speed.names, speed.speeds(q[None], v[None])[0], strict=True))
        fastest: dict[str, float] = {}
        for link, body, piece in zip(panda().collision.links, shapes.bodies.tolist(), shapes.pieces, strict=True):
            directions = rng.normal(size=(3000, 3))
            directions /= np.linalg.norm(directions, axis=1)[:, None]
            along = rng.random((3000, 1)).round()  # at the ends
            points = piece[:3] + along * (piece[3:6] - piece[:3]) + piece[6] * directions
            placed: list[Vector] = []
            for moved in (q - step * v, q + step * v):
                pin.forwardKinematics(model, data, moved)
                placed.append(points @ data.oMi[body].rotation.T + data.oMi[body].translation)
            moving = float(np.linalg.norm(placed[1] - placed[0], axis=1).max()) / (2.0 * step)
            fastest[link] = max(fastest.get(link, 0.0), moving)
        for link, moving in fastest.items():
            if f"speed:{link}" in found:
                assert moving <= found[f"speed:{link}"] + 1e-6
                assert moving >= 0.96 * found[f"speed:{link}"]
            else:
                assert moving < 1e-9  # attached to the world
        J = pin.computeFrameJacobian(model, data, q, model.getFrameId(panda().tool_frame), pin.LOCAL_WORLD_ALIGNED)
        assert found["speed:tool"] == pytest.approx(float(np.linalg.norm(J[:3] @ v)), rel=1e-9)


def test_the_first_row_is_the_tangent_of_the_speed_on_the_stop() -> None:
    """The kernel's speed is pinocchio's at the same moments; C is its gradient by finite differences."""
    speed, rng, seen = speed_caps(share=0.0), np.random.default_rng(1), 0
    far = np.full(N, 1e6)
    for _ in range(40):
        q, v, a = random_q(rng, 0.9), rng.uniform(-1.0, 1.0, N), rng.uniform(-5.0, 5.0, N)
        brake = braking_point(v, A_BRAKE, DT)

        def largest(a: Vector, q: Vector = q, v: Vector = v) -> Vector:
            w = v + a * DT
            return speed.stop_speeds(q + 0.5 * DT * (v + w), w)

        cap = 0.5 * float(largest(brake)[0])
        rows = speed.rows(q, v, a, brake, -far, far, speed.caps(tool=cap))
        if len(rows.pairs) == 0:  # no faster than braking
            continue
        first = rows.C[0]
        at_a = rows.bound[0] + rows.slack[0] - first @ a  # s(a) less what is allowed
        at_now = float(speed.stop_speeds(q, v)[0]) - 1.1 * FALL * DT
        allowed = max(cap, at_now, float(largest(brake)[0]))
        assert at_a == pytest.approx(float(largest(a)[0]) - allowed, abs=1e-9)
        numeric = np.array([(largest(a - d)[0] - largest(a + d)[0]) / 2e-4 for d in 1e-4 * np.eye(N)])
        if np.abs(numeric - first).max() < 1e-6 * np.abs(first).max() + 1e-9:
            seen += 1  # where the fastest moment is a corner, the two sides of it differ
    assert seen >= 8


# -- what is left alone -------------------------------------------------------------------------------------------


def test_motion_whose_stop_stays_under_the_caps_comes_out_bit_for_bit() -> None:
    """Random velocities whose stop reaches 99.9 % of a cap: no refusal, no pull; at 98 % no row either."""
    speed, rng = speed_caps(), np.random.default_rng(2)
    caps, a = speed.caps(tool=0.3, body=0.4), np.zeros(N)
    for _ in range(100):
        q, v = random_q(rng, 0.8), rng.uniform(-1.0, 1.0, N)
        for share in (0.999, 0.98):
            w = v
            for _ in range(60):  # a faster stop is longer: no straight line
                w = w * (share * caps / speed.stop_speeds(q + DT * w, w)).min()
            if not (speed.stop_speeds(q + DT * w, w) <= share * 1.0005 * caps).all():
                continue
            brake = braking_point(w, A_BRAKE, DT)
            assert speed.refusal(q, w, a, brake, caps) == ""
            assert speed.within(q, w, a, brake, caps) is a
            if share < 0.99:
                assert len(speed.rows(q, w, a, brake, -A_BRAKE, A_BRAKE, caps).pairs) == 0


def test_without_caps_there_is_nothing() -> None:
    """No rows and no refusal at any speed."""
    speed = speed_caps()
    q, v, none = panda().home, LIMITS.v_max, speed.caps()
    assert (none == inf).all()
    assert len(speed.rows(q, v, LIMITS.a_max, -A_BRAKE, -LIMITS.a_max, LIMITS.a_max, none).pairs) == 0
    assert speed.refusal(q, v, LIMITS.a_max, -A_BRAKE, none) == ""


# -- what is kept ------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), cap=st.sampled_from([0.1, 0.25, 0.6]), hold=st.sampled_from([1, 60]))
@settings(max_examples=12, deadline=None)
def test_no_point_passes_its_cap_whatever_is_proposed(seed: int, cap: float, hold: int) -> None:
    """Random accelerations, new in every period or held for 60: after each of 150 periods all is under its cap."""
    rng, loop, wanted = np.random.default_rng(seed), Loop(speed_caps().caps(tool=cap, body=cap)), np.zeros(N)
    for tick in range(150):
        if tick % hold == 0:
            wanted = rng.choice([-1.0, 1.0], N) * LIMITS.a_max
        loop.tick(wanted)
        assert (loop.speeds() <= cap + ROUNDING).all()
    assert loop.refused == 0


def test_without_enforcement_the_same_proposals_pass_the_cap() -> None:
    """The negative control, and the enforced arm still moves: at more than half the cap most of the time."""
    fast: list[list[float]] = []
    for enforce in (True, False):
        rng, loop, wanted = np.random.default_rng(5), Loop(speed_caps().caps(tool=0.25, body=0.25)), np.zeros(N)
        seen: list[float] = []
        for tick in range(300):
            if tick % 60 == 0:
                wanted = rng.choice([-1.0, 1.0], N) * LIMITS.a_max
            loop.tick(wanted, enforce)
            seen.append(float(loop.speeds().max()))
        fast.append(seen)
    assert max(fast[1]) > 1.0
    assert max(fast[0]) <= 0.25 + ROUNDING
    assert float(np.mean(np.array(fast[0]) > 0.125)) > 0.5


def test_a_lowered_cap_is_approached_as_declared_and_never_stepped() -> None:
    """From 0.46 m/s to a cap of 0.2: the tool loses 2 to 2.2 m/s² in every period until it is there."""
    loop, wanted_speed = Loop(speed_caps().caps()), np.zeros(N)
    wanted_speed[0] = 1.5
    for _ in range(300):
        loop.tick((wanted_speed - loop.v) / 0.05)
    before = float(loop.speeds()[0])
    assert before > 0.4
    loop.caps = loop.speed.caps(tool=0.2)
    falls: list[float] = []
    for _ in range(400):
        loop.tick((wanted_speed - loop.v) / 0.05)
        now = float(loop.speeds()[0])
        falls.append((before - now) / DT)
        before = now
    assert loop.refused == 0
    assert max(falls) <= 1.1 * FALL + 1e-3
    assert np.mean(falls[:55]) >= 0.9 * FALL
    assert 0.18 <= before <= 0.2 + ROUNDING


def test_what_braking_cannot_keep_is_relaxed_to_it_and_reported() -> None:
    """Far above the cap, with a deceleration that no brake has: slack, and braking is never refused."""
    speed = SpeedCaps(panda(), A_BRAKE, DT, deceleration=1e4)
    rng, seen = np.random.default_rng(4), 0
    for _ in range(20):
        q, v = random_q(rng, 0.8), rng.uniform(-1.0, 1.0, N)
        brake, caps = braking_point(v, A_BRAKE, DT), speed.caps(tool=0.01, body=0.01)
        assert speed.refusal(q, v, brake, brake, caps) == ""
        faster = brake + np.sign(v) * 3.0
        rows = speed.rows(q, v, faster, brake, np.minimum(brake, faster), np.maximum(brake, faster), caps)
        assert (rows.C @ brake >= rows.bound - 1e-12).all()
        if why := speed.refusal(q, v, faster, brake, caps):
            seen += 1
            assert why.startswith("speed:")
            pulled = speed.within(q, v, faster, brake, caps)
            assert speed.refusal(q, v, pulled, brake, caps) == ""
    assert seen > 10


def test_numbers_that_are_none_are_refused() -> None:
    """A NaN in position, speed or acceleration never compares as within."""
    speed = speed_caps()
    caps, zero = speed.caps(tool=0.2, body=0.2), np.zeros(N)
    for where in range(3):
        parts = [panda().home.copy(), np.full(N, 0.5), np.zeros(N)]
        parts[where][2] = np.nan
        assert speed.refusal(parts[0], parts[1], parts[2], zero, caps) != ""


def test_joined_rows_keep_their_names_and_slots() -> None:
    """The second set comes after the first; nothing to join gives the first itself."""

    def rows(pairs: list[int], slots: list[int]) -> ClearanceRows:
        k = len(pairs)
        ones = np.ones(k)
        seats = np.array(slots, dtype=np.intp)
        return ClearanceRows(np.array(pairs, dtype=np.intp), seats, np.ones((k, N)), ones, ones, ones)

    first, second = rows([3, 5], [1, 0]), rows([0, 0], [0, 1])
    both = joined(first, second, names=10, slots=8)
    assert both.pairs.tolist() == [3, 5, 10, 10]
    assert both.slots.tolist() == [1, 0, 8, 9]
    assert both.C.shape == (4, N)
    assert joined(first, rows([], []), 10, 8) is first


def test_a_sliding_joint_and_a_second_robot(tmp_path: Path) -> None:
    """On a two-joint arm with a slider the kernel and pinocchio agree: pulled to its cap, it has just that speed."""
    text = tiny_arm(tmp_path).urdf_text.replace('name="elbow" type="revolute"', 'name="elbow" type="prismatic"')
    robot: RobotModel = tiny_arm(tmp_path, text)
    a_brake = 0.45 * robot.limits.a_max
    speed, rng = SpeedCaps(robot, a_brake, DT), np.random.default_rng(6)
    pulled = 0
    for _ in range(50):
        q, v = rng.uniform(-1.0, 1.0, 2), rng.uniform(-1.0, 1.0, 2)
        brake, a = braking_point(v, a_brake, DT), np.sign(v) * robot.limits.a_max
        w = v + a * DT
        end = speed.stop_speeds(q + 0.5 * DT * (v + w), w)
        caps = speed.caps(tool=float(end[0]) - 1e-3)
        less = speed.within(q, v, a, brake, caps)
        if less is not a:
            pulled += 1
            w = v + less * DT
            assert float(speed.stop_speeds(q + 0.5 * DT * (v + w), w)[0]) <= caps[0] + ROUNDING
        assert speed.refusal(q, v, less, brake, caps) == ""
    assert pulled > 30
