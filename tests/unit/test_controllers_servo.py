# pyright: reportPrivateUsage=false

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from safeguard.audit import verify_run
from safeguard.audit.reader import read_run
from safeguard.audit.records.decode import decode_decision
from safeguard.audit.records.registry import DecisionRecord
from safeguard.controllers import ArmPlatform
from safeguard.core.config import BrakeConfig, DriveConfig, FilterConfig, MarginConfig, ShieldConfig
from safeguard.core.enums import Authority, Cause, Enforcement, FilterStatus, NominalKind
from safeguard.core.errors import ConfigError
from safeguard.core.types import FULL_ENVELOPE, Command, Nominal, PositionCommand, RobotState, TerminalStop, Vector
from safeguard.replay import replay_run
from tests.laws.lab import Lab, beyond, near, outcome
from tests.unit.servo_world import ADVERSARIES, DT, SERVOS, ServoWorld, load, platform

TICK = 2_000_000


def accelerate(a: Vector) -> Nominal:
    """A proposal."""
    return Nominal(NominalKind.ACCELERATION, a)


def drive(name: str, adversary: str, ticks: int, *, shield: bool = True) -> tuple[ServoWorld, list[Command]]:
    """A world after ``ticks`` under an adversary, with the filter or without."""
    world, body = ServoWorld(name), platform(name)
    wish, commands = ADVERSARIES[adversary](world.robot), list[Command]()
    assert body.reset(world.state()) == ""
    for k in range(ticks):
        state = world.state()
        nominal = accelerate(wish(k, body.planned(state)))
        result = body.filter(state, nominal) if shield else body.bypass(state, nominal)
        commands.append(body.command(result, state.t, state.t + 3 * TICK, k))
        world.run(commands[-1])
    return world, commands


# -- the world judges -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVOS)
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_servos_stay_within_every_limit(name: str, adversary: str) -> None:
    """2 s of hostile proposals: MuJoCo sees no violation of any kind, and the drives follow as declared."""
    world, commands = drive(name, adversary, 1000)
    assert world.judgement.violations == {}
    assert world.lag < SERVOS[name][2]
    told = np.array([command.q for command in commands if isinstance(command, PositionCommand)])
    assert len(told) == len(commands)
    assert (np.abs(np.diff(told, axis=0)) <= world.robot.limits.v_max * DT).all()


@pytest.mark.parametrize("name", SERVOS)
@pytest.mark.parametrize("adversary", ["random", "bang-bang", "beyond the limits"])
def test_without_the_filter_the_same_proposals_leave_them(name: str, adversary: str) -> None:
    """The negative control: the world is able to show violations, and does."""
    world, _ = drive(name, adversary, 1000, shield=False)
    seen = {kind.value for kind in world.judgement.violations}
    assert seen >= {"position", "speed"} | ({"self_collision"} if adversary == "random" else set())


@pytest.mark.parametrize("name", SERVOS)
def test_a_motion_that_is_allowed_is_followed(name: str) -> None:
    """A slow sine about the middle of the ranges comes out unchanged; the arm follows within what is declared."""
    world, body = ServoWorld(name), platform(name)
    middle = 0.5 * (world.robot.home + 0.5 * (world.robot.limits.q_min + world.robot.limits.q_max))
    body.reset(world.state())
    statuses, off = list[FilterStatus](), 0.0
    for k in range(2000):
        state, phase = world.state(), np.pi * k * DT
        at, goal, speed = body.planned(state), middle + 0.1 * np.sin(phase), 0.1 * np.pi * np.cos(phase)
        result = body.filter(state, accelerate(25.0 * (goal - at.q) + 10.0 * (speed - at.v)))
        world.run(body.command(result, state.t, state.t + 3 * TICK, k))
        if k >= 1000:
            statuses.append(result.status)
            off = max(off, float(np.abs(world.state().q - goal).max()))
    assert statuses.count(FilterStatus.ADMISSIBLE) > 0.99 * len(statuses)
    assert off < 0.06
    assert world.judgement.violations == {}


def test_who_plans_from_the_measured_position_sinks() -> None:
    """Holding still: from its reference the arm stays where it is; told its own measured position it sinks."""
    held, sunk = ServoWorld("panda"), ServoWorld("panda")
    body = platform("panda")
    body.reset(held.state())
    for k in range(1000):
        state = held.state()
        held.run(body.command(body.filter(state, accelerate(np.zeros(7))), state.t, state.t + 3 * TICK, k))
        sunk.run(PositionCommand(sunk.state().q, sunk.time_ns, sunk.time_ns + 3 * TICK, k))
    home = load("panda").home
    assert np.abs(held.state().q - home).max() < 0.01
    assert np.abs(sunk.state().q - home).max() > 0.2


# -- what a command is ----------------------------------------------------------------------------------


@pytest.fixture
def body() -> ArmPlatform:
    """A Panda with position drives, its stop stored at home."""
    made = platform("panda")
    made.reset(at(0))
    return made


def at(tick: int, off: float | Vector = 0.0) -> RobotState:
    """Measured at rest, ``off`` rad from home."""
    return RobotState(load("panda").home + off, np.zeros(7), tick * TICK)


def send(body: ArmPlatform, tick: int, a: float, off: float = 0.0) -> PositionCommand:
    """One tick."""
    result = body.filter(at(tick, off), accelerate(np.full(7, a)))
    command = body.command(result, tick * TICK, tick * TICK + 5, tick)
    assert isinstance(command, PositionCommand)
    return command


def test_the_command_is_the_committed_reference(body: ArmPlatform) -> None:
    """Bit for bit the state that the verified stop starts from, stamped and numbered."""
    command = send(body, 0, 1.0)
    for tick in range(1, 5):
        command = send(body, tick, 1.0)
        plan = body.safety_filter.plan
        assert plan is not None
        np.testing.assert_array_equal(command.q, plan.q0)
        assert (command.t, command.expires, command.seq) == (tick * TICK, tick * TICK + 5, tick)
        assert not command.q.flags.writeable
    np.testing.assert_allclose(command.q - load("panda").home, 0.5 * (5 * DT) ** 2, rtol=1e-9)


def test_the_measured_position_does_not_reach_the_command(body: ArmPlatform) -> None:
    """Drives that lag by anything up to the declared error are told the same, bit for bit."""
    other = platform("panda")
    other.reset(at(0))
    for tick in range(20):
        one, two = send(body, tick, 2.0), send(other, tick, 2.0, off=0.09 if tick else 0.0)
        assert one.q.tobytes() == two.q.tobytes()


def test_the_backup_is_the_reference_of_the_stop(body: ArmPlatform) -> None:
    """After a proposal that is no number, and without a measurement, targets run along the stored stop to its end."""
    for tick in range(20):
        send(body, tick, 5.0)
    plan = body.safety_filter.plan
    assert plan is not None
    told = np.zeros(7)
    for k in range(1, 60):
        nominal, state = accelerate(np.full(7, np.nan)), at(19 + k)
        result = body.filter(state, nominal) if k % 2 else body.backup(None)
        assert result.status is FilterStatus.BACKUP
        command = body.command(result, 0, 1, k)
        assert isinstance(command, PositionCommand)
        told = command.q
        np.testing.assert_allclose(told, plan.at(k * DT)[0], atol=1e-15)
    assert body.safety_filter.plan is plan
    np.testing.assert_array_equal(told, plan.at(10.0)[0])


def test_drives_that_do_not_follow_are_answered_by_the_backup(body: ArmPlatform) -> None:
    """Further than declared: the stop, with joint and figures; within it again: the proposal."""
    for tick in range(5):
        send(body, tick, 1.0)
    behind = at(5, 0.11 * np.eye(7)[0])
    blocked = body.filter(behind, accelerate(np.full(7, 1.0)))
    assert blocked.status is FilterStatus.BACKUP
    assert blocked.refusal.startswith("panda_joint1 is 0.110 rad from what its drive was told, 0.1 rad is declared")
    body.command(blocked, 5 * TICK, 6 * TICK, 5)
    assert body.filter(at(6, 0.05), accelerate(np.full(7, 1.0))).source != "backup"


def test_after_the_terminal_stop_it_starts_where_the_arm_is(body: ArmPlatform) -> None:
    """Drives without power follow nothing: the next reference is the measured state; without one there is none."""
    for tick in range(5):
        send(body, tick, 1.0)
    assert isinstance(body.command(body.stopped("e-stop"), 0, 0, 5), TerminalStop)
    assert body.backup(None).status is FilterStatus.REFUSED
    body.reset(at(7, 0.05))
    command = body.command(body.backup(at(7, 0.05)), 0, 0, 7)
    assert isinstance(command, PositionCommand)
    np.testing.assert_allclose(command.q, load("panda").home + 0.05, atol=1e-12)


def test_without_a_reference_the_filter_starts_from_the_measured_state(body: ArmPlatform) -> None:
    """Asked right after the terminal stop, without a reset: the reference is where the arm is found."""
    send(body, 0, 1.0)
    body.command(body.stopped("e-stop"), 0, 0, 1)
    command = send(body, 9, 0.0, off=0.05)
    np.testing.assert_allclose(command.q, load("panda").home + 0.05, atol=1e-12)


def test_a_result_without_a_reference_stops_the_drives(body: ArmPlatform) -> None:
    """A torque result is no position: never sent as one, nor made up."""
    torques = ArmPlatform(load("panda"), DT, FilterConfig(brake=BrakeConfig(samples=100)))
    command = body.command(torques.filter(at(0), accelerate(np.zeros(7))), 0, 1, 0)
    assert isinstance(command, TerminalStop)
    assert command.reason == "no reference for the position drives"


def test_raw_targets_are_what_was_proposed(body: ArmPlatform) -> None:
    """A position goes out as it is; a torque, a velocity and a twist as the reference that they lead to."""
    home, far = load("panda").home, load("panda").home + 9.0
    gains = (np.full(7, 10.0), np.full(7, 1.0))
    raw = body.bypass(at(0), Nominal(NominalKind.POSITION, far, *gains))
    assert raw.position is not None
    np.testing.assert_array_equal(raw.position, far)
    speed = body.bypass(at(0), Nominal(NominalKind.VELOCITY, np.full(7, 0.5)))
    assert speed.position is not None
    np.testing.assert_allclose(speed.position, home + 0.5 * 0.5 * DT, atol=1e-12)
    push = body.bypass(at(0), Nominal(NominalKind.TORQUE, np.full(7, 300.0)))
    assert push.velocity is not None
    assert np.abs(push.velocity).max() > 1.0
    twist = np.array([0.1, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert np.isfinite(np.asarray(body.bypass(at(0), Nominal(NominalKind.TWIST, twist)).position)).all()


def test_a_drive_stays_with_the_last_target_that_was_a_number(body: ArmPlatform) -> None:
    """NaN is sent where nothing is enforced; the reference that comes next starts from the target before it."""
    told = send(body, 0, 1.0)
    raw = body.bypass(at(1), accelerate(np.full(7, np.nan)))
    command = body.command(raw, 0, 1, 1)
    assert isinstance(command, PositionCommand)
    assert np.isnan(command.q).all()
    np.testing.assert_array_equal(body.planned(at(2)).q, told.q)


def test_margins_must_cover_what_the_drives_lag() -> None:
    """Declared to lag 0.05 rad with 0.002 rad kept from the limits: refused, with both figures and the fix."""
    with pytest.raises(ConfigError, match=r"margins.position_rad = 0.002.*tracking_error_rad = 0.05.*keep at least"):
        ArmPlatform(load("panda"), DT, None, DriveConfig(interface="position"))


def test_torque_drives_get_no_reference() -> None:
    """The default is what it was: torques, planned from the measured state."""
    arm = ArmPlatform(load("panda"), DT, FilterConfig(brake=BrakeConfig(samples=100)))
    state = at(1)
    result = arm.filter(state, accelerate(np.zeros(7)), FULL_ENVELOPE)
    assert arm.planned(state) is state
    assert (result.position, result.velocity) == (None, None)


# -- in a shield ----------------------------------------------------------------------------------------

CONFIG = ShieldConfig(
    filter=FilterConfig(brake=BrakeConfig(samples=100), margins=MarginConfig(position_rad=0.02)),
    drive=DriveConfig(interface="position", tracking_error_rad=0.02),
)


class ServoLab(Lab):
    """Drives that are where they were told within a period."""

    def execute(self, command: Command) -> None:
        """One period of the body under ``command``."""
        if isinstance(command, PositionCommand) and np.isfinite(command.q).all():
            self.q, self.v = np.array(command.q), (command.q - self.q) / self.period
        else:
            self.v = np.zeros_like(self.v)
        self.now += round(self.period * 1e9)


@pytest.mark.parametrize("enforcement", Enforcement)
def test_a_run_with_position_drives_is_recorded_and_replays(enforcement: Enforcement, tmp_path: Path) -> None:
    """Through start, policy and operator stop: references in the journal, the same bits again."""
    lab = ServoLab(beyond, config=CONFIG, audit=tmp_path, enforcement=enforcement).start(60)
    lab.shield.stop(operator="lab", reason="test")
    lab.run(20)
    lab.shield.close()
    assert verify_run(tmp_path).sound
    report = replay_run(tmp_path)
    assert (report.identical, report.decisions) == (True, len(lab.decisions))
    bodies = [record.body for record in read_run(tmp_path) if isinstance(record.body, DecisionRecord)]
    for made, read in zip(lab.decisions, map(decode_decision, bodies), strict=True):
        assert isinstance(made.command, PositionCommand) or enforcement is not Enforcement.FULL
        assert outcome(read) == outcome(made)


def test_law_1_holds_for_references() -> None:
    """Under enforcement every target is the filter's or the stop's, within a period's motion of the one before."""
    lab = ServoLab(beyond, config=CONFIG).start(200)
    told = [d.command.q for d in lab.decisions if isinstance(d.command, PositionCommand)]
    assert len(told) == len(lab.decisions)
    assert all(d.command.q is d.filter.position for d in lab.decisions if isinstance(d.command, PositionCommand))
    limits = load("panda").limits
    assert (np.abs(np.diff(told, axis=0)) <= limits.v_max * DT).all()
    assert ((np.array(told) >= limits.q_min) & (np.array(told) <= limits.q_max)).all()


def test_watching_only_tells_the_drives_what_a_bare_stack_tells_them() -> None:
    """Under MONITOR_ONLY the targets are those of a run without a shield, bit for bit, and leave the limits."""
    watching, bare = (
        ServoLab(beyond, config=CONFIG, enforcement=e).start(200).decisions
        for e in (Enforcement.MONITOR_ONLY, Enforcement.OFF)
    )
    told = [[d.command.q.tobytes() for d in run if isinstance(d.command, PositionCommand)] for run in (watching, bare)]
    assert told[0] == told[1]
    assert len(told[0]) == len(watching)
    assert any(np.abs(np.frombuffer(q) - load("panda").home).max() > 2.0 for q in told[0])


def test_a_blocked_arm_is_a_cause() -> None:
    """Drives that stop following brake the reference in that tick; the next tick has the cause and holds in the end."""
    lab = ServoLab(near, config=CONFIG).start(50)
    stuck = lab.q.copy()
    for _ in range(200):
        lab.tick()
        lab.q, lab.v = stuck.copy(), np.zeros(7)
    refused = [d for d in lab.decisions if "from what its drive was told" in d.filter.refusal]
    assert refused
    assert refused[0].authority is Authority.POLICY
    assert Cause.FILTER_FAILED in lab.decisions[refused[0].tick + 1].causes
