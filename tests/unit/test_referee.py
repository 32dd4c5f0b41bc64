"""The referee: exact limits, MuJoCo's contacts, and the command stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pinocchio as pin
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeguard.core.robot import RobotModel
from safeguard.core.types import NS_PER_S, PDCommand, TerminalStop, TorqueCommand, Vector, frozen_array
from safeguard.scenarios.push import ReachPush
from safeguard.scenarios.referee import MOTION, Clearance, Referee, ViolationKind
from safeguard.scenarios.world import World

ROBOT = RobotModel.load("panda")
FOLDED = np.array([0.0, -0.79, 0.0, -2.97, 0.0, 0.35, 0.79])  # the fingers reach into link 3
MS = NS_PER_S // 1000


class Stage:
    """A robot put into states by hand, with the torque that a test wants to have been applied."""

    def __init__(self, task: ReachPush | None = None) -> None:
        self.world = World(ROBOT, task)
        self.model, self.data = self.world.model, self.world.data
        self.time_ns = 0
        self.applied_torque: Vector = np.zeros(ROBOT.n)
        self.dofs = [int(self.model.joint(name).dofadr[0]) for name in ROBOT.joints]

    def put(self, q: Any = None, v: Any = None) -> None:
        """The robot at ``q`` and ``v``, contacts up to date."""
        for j, address in enumerate(self.dofs):
            self.data.qpos[address] = ROBOT.home[j] if q is None else q[j]
            self.data.qvel[address] = 0.0 if v is None else v[j]
        mujoco.mj_forward(self.model, self.data)


def torque(seq: int, now: int = 0, expires: int | None = None, tau: float = 0.0) -> TorqueCommand:
    """A command of equal torques."""
    return TorqueCommand(frozen_array(np.full(ROBOT.n, tau)), now, now + 2 * MS if expires is None else expires, seq)


@pytest.mark.parametrize("joint", range(ROBOT.n))
@pytest.mark.parametrize("side", ["q_min", "q_max"])
def test_the_exact_position_limit_is_inside_and_the_next_number_is_not(joint: int, side: str) -> None:
    """Position is judged with a tolerance of 0.0."""
    stage = Stage()
    referee = Referee(ROBOT, stage)
    q = np.array(ROBOT.home)
    q[joint] = getattr(ROBOT.limits, side)[joint]
    stage.put(q)
    referee.observe()
    assert ViolationKind.POSITION not in referee.judgement().violations

    q[joint] = np.nextafter(q[joint], -np.inf if side == "q_min" else np.inf)
    stage.put(q)
    referee.observe()

    found = referee.judgement().violations[ViolationKind.POSITION]
    assert (found.where, found.ticks) == (ROBOT.joints[joint], 1)
    assert 0.0 < found.worst < 1e-12


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_exact_speed_and_torque_limits_are_inside_and_the_next_numbers_are_not(sign: float) -> None:
    """Speed and torque are judged with a tolerance of 0.0, in both directions of motion."""
    stage = Stage()
    referee = Referee(ROBOT, stage)
    stage.put(v=sign * ROBOT.limits.v_max)
    stage.applied_torque = np.array(ROBOT.limits.tau_max)
    referee.observe()
    assert referee.judgement().clean

    stage.put(v=sign * np.nextafter(ROBOT.limits.v_max, np.inf))
    stage.applied_torque = np.nextafter(ROBOT.limits.tau_max, np.inf)
    referee.observe()

    assert set(referee.judgement().violations) == {ViolationKind.SPEED, ViolationKind.TORQUE}


@given(st.lists(st.floats(-4.0, 4.0), min_size=7, max_size=7))
def test_a_position_violation_is_exactly_being_outside_the_limits(values: list[float]) -> None:
    """The referee agrees with the definition of the limits everywhere."""
    q = np.array(values)
    STAGE.put(q)
    REFEREE.reset()
    REFEREE.sample()

    outside = bool(((q < ROBOT.limits.q_min) | (q > ROBOT.limits.q_max)).any())
    assert (ViolationKind.POSITION in REFEREE.judgement().violations) == outside


STAGE = Stage()
REFEREE = Referee(ROBOT, STAGE)


def test_a_state_that_is_no_number_is_an_unbounded_violation() -> None:
    """NaN does not slip through a comparison."""
    stage = Stage()
    referee = Referee(ROBOT, stage)
    stage.data.qpos[stage.dofs[2]] = np.nan
    stage.data.qvel[stage.dofs[3]] = np.nan
    referee.observe()

    found = referee.judgement().violations
    assert found[ViolationKind.POSITION].worst == np.inf
    assert found[ViolationKind.SPEED].where == "panda_joint4"


def test_overlapping_links_are_named_and_a_lasting_contact_counts_once() -> None:
    """Self-collision is MuJoCo's penetration, by pair of links; contacts count their beginnings."""
    stage = Stage()
    referee = Referee(ROBOT, stage)
    for q in (ROBOT.home, FOLDED, FOLDED, ROBOT.home, FOLDED):
        stage.put(q)
        referee.observe()
    depth = max(0.0, -float(stage.data.contact.dist.min()))

    judgement = referee.judgement()
    found = judgement.violations[ViolationKind.SELF_COLLISION]
    assert (found.ticks, found.worst) == (3, depth)
    assert found.where in ROBOT.collision.names
    touching = {
        "|".join(sorted(str(stage.model.geom(int(g)).name).rsplit("_", 1)[0] for g in geoms))
        for geoms, dist in zip(stage.data.contact.geom, stage.data.contact.dist, strict=True)
        if dist < 0.0
    }
    assert judgement.contacts == 2 * len(touching)
    assert judgement.hazard


def test_touching_the_puck_is_no_self_collision() -> None:
    """Contacts with what stands around the robot are not judged."""
    task = ReachPush()
    stage = Stage(task)
    referee = Referee(ROBOT, stage)
    stage.put()
    hand = stage.data.geom("panda_hand_0").xpos
    puck = int(stage.model.geom("puck").id)
    for axis, name in enumerate(("puck_x", "puck_y")):
        stage.data.qpos[int(stage.model.joint(name).qposadr[0])] = hand[axis]
    stage.model.geom_pos[puck][2] = hand[2] - task.setup.height
    mujoco.mj_forward(stage.model, stage.data)
    referee.observe()

    assert (stage.data.contact.geom == puck).any()
    assert (stage.data.contact.dist < 0.0).any()
    assert referee.judgement().clean


def test_raw_torques_show_every_kind_of_motion_violation() -> None:
    """Negative control: without a shield the referee sees position, speed, torque and self-collision."""
    world = World(ROBOT)
    referee = Referee(ROBOT, world)
    for k in range(1000):
        tau = np.array([90.0, 40.0, 0.0, -60.0, 5.0, -5.0, 3.0])
        command = TorqueCommand(tau, world.time_ns, world.time_ns + 4 * MS, k)
        referee.command(command, world.time_ns)
        world.apply(command)
        world.advance()
        referee.observe()

    judgement = referee.judgement()
    assert set(judgement.violations) == MOTION
    assert judgement.violations[ViolationKind.TORQUE].where == "panda_joint1"
    assert judgement.violations[ViolationKind.TORQUE].worst == pytest.approx(3.0)
    assert judgement.violations[ViolationKind.TORQUE].ticks == judgement.ticks == 1000


def test_a_violation_between_two_period_ends_is_seen_by_a_sample() -> None:
    """Samples belong to the tick that is under way: they count it once and keep the worst."""
    stage = Stage()
    referee = Referee(ROBOT, stage)
    for excess in (0.1, 0.3, 0.2):
        stage.put(v=ROBOT.limits.v_max + excess)
        referee.sample()
    stage.put()
    referee.observe()
    assert not referee.within

    found = referee.judgement().violations[ViolationKind.SPEED]
    assert found.ticks == 1
    assert found.worst == pytest.approx(0.3)
    referee.observe()
    assert referee.within


@pytest.mark.parametrize(
    ("second", "now", "kind", "worst"),
    [
        (torque(1, 2 * MS, tau=np.nan), 2 * MS, ViolationKind.NON_FINITE, 7.0),
        (torque(1, 2 * MS, tau=np.inf), 2 * MS, ViolationKind.NON_FINITE, 7.0),
        (torque(1, 0, expires=MS), 3 * MS, ViolationKind.EXPIRED, 0.002),
        (torque(0, 2 * MS), 2 * MS, ViolationKind.ORDER, 1.0),
        (TerminalStop("again", 2 * MS, -4), 2 * MS, ViolationKind.ORDER, 5.0),
        (None, 2 * MS, ViolationKind.MISSING, 1.0),
    ],
)
def test_each_fault_of_the_command_stream_is_seen(
    second: TorqueCommand | TerminalStop | None, now: int, kind: ViolationKind, worst: float
) -> None:
    """Non-finite, expired, disordered and missing commands are found where MuJoCo would stay silent."""
    referee = Referee(ROBOT, Stage())
    referee.command(torque(0), 0)
    assert referee.judgement().clean
    referee.command(second, now)

    judgement = referee.judgement()
    assert set(judgement.violations) == {kind}
    assert judgement.violations[kind].worst == pytest.approx(worst)
    assert judgement.violations[kind].first == now
    assert not judgement.hazard


def test_every_number_of_a_command_is_looked_at() -> None:
    """One NaN in any field of a PD command is found."""
    for field in ("q", "v", "kp", "kd", "tau_ff"):
        numbers = {name: np.zeros(7) for name in ("q", "v", "kp", "kd", "tau_ff")}
        numbers[field][3] = np.nan
        referee = Referee(ROBOT, Stage())
        referee.command(PDCommand(**numbers, t=0, expires=MS, seq=0), 0)
        assert referee.judgement().violations[ViolationKind.NON_FINITE].worst == 1.0


def test_a_command_from_information_older_than_allowed_is_stale() -> None:
    """Age counts from what the policy really knew; the exact limit is still fresh."""
    referee = Referee(ROBOT, Stage(), max_age_s=0.1)
    referee.command(torque(0, 100 * MS), 100 * MS, 0)
    referee.command(torque(1, 102 * MS), 102 * MS, None)
    assert referee.judgement().clean
    referee.command(torque(2, 104 * MS), 104 * MS, 0)

    assert referee.judgement().violations[ViolationKind.STALE].worst == pytest.approx(0.104)


def test_reset_forgets_everything() -> None:
    """A new episode starts with a clean sheet and may start counting at any number."""
    stage = Stage()
    referee = Referee(ROBOT, stage)
    stage.put(FOLDED)
    referee.command(torque(5), 0)
    referee.observe()
    referee.reset()
    referee.command(torque(0), 0)

    judgement = referee.judgement()
    assert (judgement.clean, judgement.contacts, judgement.ticks) == (True, 0, 0)


def test_clearance_is_at_least_what_the_enclosing_pieces_have() -> None:
    """MuJoCo's distances between primitives are never below pinocchio's between what encloses them."""
    clearance, rng = Clearance(ROBOT), np.random.default_rng(3)
    model, geometry = ROBOT.pin_model, ROBOT.collision.geometry
    data, gdata = model.createData(), geometry.createData()
    near = 0
    for _ in range(200):
        q = rng.uniform(ROBOT.limits.q_min, ROBOT.limits.q_max)
        pin.computeDistances(model, data, geometry, gdata, q)
        enclosing = min(float(result.min_distance) for result in gdata.distanceResults)
        measured, pair = clearance(q)
        if not 0.0 < enclosing < 0.1:
            continue  # MuJoCo and coal define depth differently; far is not measured
        near += 1
        assert measured >= enclosing - 1e-6
        assert measured <= enclosing + 2e-3
        assert pair in ROBOT.collision.names or measured == 0.1
    assert near > 30


def test_a_simulation_that_diverges_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo's own warning of a state that is no number makes the run unstable."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings to a file beside the program
    world = World(ROBOT)
    referee = Referee(ROBOT, world)
    world.data.qvel[0] = np.nan
    world.advance()

    assert referee.judgement().unstable
