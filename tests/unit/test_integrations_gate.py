"""The gate: what comes back for what is offered, whatever that is."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safeguard import RobotModel
from safeguard.core.action import ActionSpec
from safeguard.core.config import ShieldConfig
from safeguard.core.enums import Authority, Cause, FilterStatus, Mode, Reference
from safeguard.core.errors import ConfigError, SpecError
from safeguard.core.types import NS_PER_S, PositionCommand, TerminalStop
from safeguard.integrations.gate import ChunkGate, rows_config
from safeguard.modes import load_table
from safeguard.replay import replay_run
from tests.unit.gate_world import QUICK, Host, gate, spec
from tests.unit.servo_world import load

HOME = load("panda").home


def running(**more: Any) -> Host:
    """A host whose gate is in NOMINAL."""
    host = Host(gate(**more))
    host.start()
    return host


def swing(host: Host, k: int, gripper: float = 0.04) -> Any:
    """The part of a slow sine that begins where the last one ended, 10 rows on."""
    t = (10 * k + np.arange(1, 16)) / 15.0
    rows = HOME + 0.2 * (1.0 - np.cos(0.8 * t))[:, None] * np.array([1, -1, 1, -1, 1, 1, 1])
    return host.chunk(rows, gripper)


# -- what is fine comes back as it is -------------------------------------------------------------------


def test_expert_chunks_come_back_bit_for_bit() -> None:
    """Chunks within every limit, each from where the last one led, are not changed in a single bit."""
    host = running(plays=10)
    for k in range(8):
        wanted = swing(host, k)
        answer = host.offer(wanted)
        assert answer.decision.filter.status is FilterStatus.ADMISSIBLE, answer.decision.filter.refusal
        assert answer.actions.tobytes() == wanted.tobytes()
        assert not answer.changed


def test_what_the_record_holds_is_what_was_answered() -> None:
    """The command of an offer holds every row, and expires with the last of them."""
    host = running(plays=10)
    for actions in (swing(host, 0), host.chunk(np.tile(HOME + 1.0, (15, 1))), None):
        answer = host.offer(actions)
        command = answer.decision.command
        assert isinstance(command, PositionCommand)
        assert np.array_equal(command.q, answer.actions[:, :7])
        assert command.expires == host.now + NS_PER_S


def test_a_far_target_is_approached_within_the_limits() -> None:
    """Rows towards a posture a radian away begin at rest, keep speed and acceleration, and are marked as changed."""
    host, limits = running(plays=10), load("panda").limits
    answer = host.offer(host.chunk(np.tile(HOME + np.array([1, 0, 0, 0, 0, 0, 1]), (15, 1))))
    assert answer.changed
    assert answer.decision.filter.status is FilterStatus.CORRECTED
    speed = np.diff(np.vstack((HOME, answer.actions[:, :7])), axis=0) * 15.0
    gain = np.diff(np.vstack((np.zeros(7), speed)), axis=0) * 15.0
    assert (np.abs(speed) <= limits.v_max).all()
    assert (np.abs(gain) <= limits.a_max * (1.0 + 1e-6)).all()
    assert answer.actions[9, 0] > HOME[0] + 0.3
    assert answer.decision.filter.refusal.startswith("panda_joint1: speed")


def test_a_bad_tail_is_replaced_and_the_played_rows_stay() -> None:
    """Rows behind those that are played do not spoil them: they become the stop."""
    host = running(plays=10)
    wanted = swing(host, 0)
    wanted[12:, :7] += 1.0
    answer = host.offer(wanted)
    assert answer.changed
    assert answer.actions[:10].tobytes() == wanted[:10].tobytes()
    assert np.abs(np.diff(answer.actions[12:, :7], axis=0)).max() < 1e-3


def test_nothing_moves_before_somebody_acknowledges() -> None:
    """An episode begins in HOLD: the rows are where the arm is, and the gripper is told nothing of the policy's."""
    host = Host(gate(plays=10))
    for k in range(4):
        answer = host.offer(swing(host, k))
        assert answer.decision.mode is Mode.HOLD
        assert np.array_equal(answer.actions[:, :7], np.tile(HOME, (15, 1)))
        assert (answer.actions[:, 7] == 0.0).all()


@pytest.mark.parametrize("reference", [Reference.ABSOLUTE, Reference.CHUNK_RELATIVE, Reference.DELTA])
def test_rows_come_back_in_the_numbers_of_the_policy(reference: Reference) -> None:
    """Degrees, another order, scale and offset, relative rows: what is told is what the answer means."""
    robot = load("panda")
    joints = ("gripper", *robot.joints[::-1])
    own = ActionSpec(
        joints, ("rad", *["deg"] * 7), reference, 15.0, 15, scale=(1.0, *[10.0] * 7), offset=0.5, others=("gripper",)
    )
    host = Host(ChunkGate(robot, own, plays=10, config=QUICK))

    def numbers(rows: Any) -> Any:
        values = rows - host.q if reference is not Reference.ABSOLUTE else rows
        if reference is Reference.DELTA:
            values = np.diff(values, axis=0, prepend=np.zeros((1, 7)))
        return np.hstack((np.full((15, 1), 0.3), (np.rad2deg(values) - 0.5)[:, ::-1] / 10.0))

    def meaning(actions: Any) -> Any:
        values = np.deg2rad(actions[:, 1:][:, ::-1] * 10.0 + 0.5)
        if reference is Reference.DELTA:
            values = np.cumsum(values, axis=0)
        return values if reference is Reference.ABSOLUTE else values + host.q

    host.gate.begin_episode("units")
    host.gate.acknowledge(operator="somebody", reason="test")
    statuses = list[FilterStatus]()
    for k in range(30):
        host.now += round(host.gate.plays * host.row_ns)
        wanted = numbers(host.q + (0.01 if k < 25 else 1.0) * np.linspace(0.0, 1.0, 16)[1:, None] ** 2 * np.ones(7))
        answer = host.gate.offer(host.q, wanted, now=host.now)
        command = answer.decision.command
        assert isinstance(command, PositionCommand)
        told = meaning(answer.actions)
        assert told == pytest.approx(command.q, abs=1e-9)
        statuses.append(answer.decision.filter.status)
        if statuses[-1] is FilterStatus.ADMISSIBLE:
            assert answer.actions.tobytes() == wanted.tobytes()
        host.q = told[9].copy()
    assert host.gate.shield.mode is Mode.NOMINAL
    assert FilterStatus.ADMISSIBLE in statuses
    assert statuses[-1] is FilterStatus.CORRECTED


# -- what was wrong once --------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [np.full(7, np.nan), HOME + 3.0, np.full(7, 1e30), np.zeros(6), "here", object(), 7.0])
def test_an_impossible_measurement_is_never_told_back(odd: Any) -> None:
    """Whatever the measurement is: in motion the rows brake along what was told, and then hold; none is made of it."""
    host = running(plays=10)
    answer = host.offer(swing(host, 0))
    for _ in range(3):
        answer = host.offer(swing(host, 1), q=odd)
        start = host.q
        assert np.isfinite(answer.actions).all()
        assert np.abs(answer.actions[0, :7] - start).max() < 0.05
        assert np.abs(answer.actions[-1, :7] - start).max() < 0.3
    assert answer.decision.mode is Mode.STOP
    assert Cause.STATE_INVALID in answer.decision.causes
    assert np.array_equal(answer.actions[:, :7], np.tile(host.q, (15, 1)))


def test_without_anything_known_the_answer_says_so() -> None:
    """A first measurement that is no number leaves nothing to tell but the home posture; the answer is ``blind``."""
    host = Host(gate(plays=10))
    answer = host.offer(host.hold(), q=np.full(7, np.nan))
    assert answer.blind
    assert isinstance(answer.decision.command, TerminalStop)
    assert np.array_equal(answer.actions[:, :7], np.tile(HOME, (15, 1)))


def test_an_emergency_stop_holds_where_the_arm_is() -> None:
    """Pressed at the first offer: the last posture that could be trusted, also when the next measurement is none."""
    host = Host(gate(plays=10))
    here = HOME + 0.1
    for q in (here, np.full(7, np.nan)):
        answer = host.offer(host.hold(), q=q, estop=True)
        assert isinstance(answer.decision.command, TerminalStop)
        assert not answer.blind
        assert np.array_equal(answer.actions[:, :7], np.tile(here, (15, 1)))


def _withhold(*record: object) -> bool:
    return False


def test_rows_that_were_withheld_were_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An offer whose record cannot be placed is answered by standing still, and the next one starts from there."""
    host = running(plays=10)
    here = host.q.copy()
    monkeypatch.setattr(host.gate.shield, "_recorded", _withhold)
    answer = host.offer(swing(host, 0))
    assert answer.decision.authority is Authority.BACKUP
    assert np.array_equal(answer.actions[:, :7], np.tile(here, (15, 1)))
    monkeypatch.undo()
    answer = host.offer(swing(host, 0))
    assert np.abs(answer.actions[0, :7] - here).max() < 0.02


def test_a_late_answer_keeps_the_gripper_where_it_was_played_to() -> None:
    """Ten rows are played of a chunk whose gripper moves row by row; a stop tells the tenth value, however late."""
    host = running(plays=10)
    wanted = swing(host, 0)
    wanted[:, 7] = np.arange(15.0)
    host.offer(wanted)
    answer = host.offer(None, late=4.0)
    assert (answer.actions[:, 7] == 9.0).all()


def test_an_early_stop_keeps_the_gripper_where_it_was_played_to() -> None:
    """Three rows and a half into the chunk it was the third value."""
    host = running(plays=10)
    wanted = swing(host, 0)
    wanted[:, 7] = np.arange(15.0)
    host.offer(wanted)
    answer = host.gate.offer(host.q, None, now=host.now + round(3.5 * host.row_ns))
    assert (answer.actions[:, 7] == 2.0).all()


def test_a_gripper_out_of_range_is_never_told() -> None:
    """It refuses the chunk; what is told is the last value played, before that what is nearest to 0."""
    low, high = (-4.0,) * 7 + (0.01,), (4.0,) * 7 + (0.08,)
    host = Host(ChunkGate(load("panda"), spec(low=low, high=high), plays=10, config=QUICK))
    assert (host.offer(host.hold()).actions[:, 7] == 0.01).all()
    host.start()
    assert (host.offer(host.hold(0.05)).actions[:, 7] == 0.05).all()
    answer = host.offer(host.hold(0.09))
    assert (answer.actions[:, 7] == 0.05).all()
    assert Cause.PROPOSAL_INVALID in answer.decision.causes


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gripper_that_is_no_number_stays(bad: float) -> None:
    """The answer has the value that was played last, in every row."""
    host = running(plays=10)
    wanted = swing(host, 0)
    wanted[7, 7] = bad
    answer = host.offer(wanted)
    assert (answer.actions[:, 7] == 0.04).all()
    assert Cause.PROPOSAL_INVALID in answer.decision.causes


def test_a_measured_gripper_stays_where_it_is_before_anything_is_told() -> None:
    """``others`` says where the gripper is; it is told to stay there until a chunk is accepted."""
    host = Host(gate(plays=10))
    assert (host.offer(host.hold(), others=[0.025]).actions[:, 7] == 0.025).all()
    assert (host.offer(host.hold(), others=[np.nan]).actions[:, 7] == 0.025).all()


@pytest.mark.parametrize(
    ("every", "plays"), [(0.1, 3), (0.28, 7), (0.5, 13), (0.52, 13), (1.0 / 25.0, 1), (0.3, 8), (0.02, 1)]
)
def test_rows_played_between_offers_are_rounded_up(every: float, plays: int) -> None:
    """At 25 Hz: a row that is begun is played, and 12.5 rows are 13; a whole number stays one, rounding or not."""
    made = ChunkGate(load("panda"), spec(25.0, 20), every_s=every, config=QUICK)
    assert made.plays == plays


def test_an_episode_that_begins_in_motion_goes_on_from_what_was_told() -> None:
    """The client starts anew while the arm moves: the next answer brakes along the way, without a jump back."""
    host = running(plays=10)
    for k in range(3):
        host.offer(swing(host, k))
    assert host.answer is not None
    before = host.answer.actions[:10, :7]
    speed = (before[9] - before[8]) * 15.0
    assert np.abs(speed).max() > 0.1
    host.gate.begin_episode("again")
    answer = host.offer(swing(host, 3))
    assert answer.decision.mode is Mode.HOLD
    first = (answer.actions[0, :7] - before[9]) * 15.0
    assert (np.abs(first - speed) * 15.0 <= load("panda").limits.a_max).all()
    assert (np.abs(first) <= np.abs(speed) + 1e-9).all()


def test_a_new_episode_takes_a_person() -> None:
    """A client that resets clears neither HOLD nor a stop; only an acknowledgement does."""
    host = running(plays=10)
    host.gate.stop(operator="somebody", reason="test")
    assert host.offer(host.hold()).decision.mode is Mode.STOP
    host.gate.begin_episode("again")
    for _ in range(12):
        assert host.offer(host.hold()).decision.mode is Mode.STOP
    host.gate.acknowledge(operator="somebody", reason="looked")
    assert host.offer(host.hold()).decision.mode is Mode.HOLD
    host.gate.begin_episode("once more")
    for _ in range(12):
        assert host.offer(host.hold()).decision.mode is Mode.HOLD


def test_a_clock_that_goes_back_does_not_jump_ahead() -> None:
    """1 ms before the last answer: the stop begins where that answer began, not where it would have led."""
    host = running(plays=10)
    host.offer(swing(host, 0))
    host.offer(swing(host, 1))
    start = host.q.copy()
    answer = host.gate.offer(start, swing(host, 2), now=host.now - 1_000_000)
    assert Cause.CLOCK_BACKWARDS in answer.decision.causes
    assert np.abs(answer.actions[0, :7] - start).max() < 0.03
    assert np.abs(answer.actions[-1, :7] - start).max() < 0.05


def test_a_policy_that_failed_is_answered_by_the_stop() -> None:
    """None for actions: the rows brake, and the record says that the policy failed."""
    host = running(plays=10)
    host.offer(swing(host, 0))
    answer = host.offer(None)
    assert answer.changed
    assert Cause.PROPOSAL_INVALID in answer.decision.causes
    assert answer.decision.filter.status is FilterStatus.BACKUP
    assert np.array_equal(answer.actions[-1], answer.actions[-2])
    assert host.offer(host.hold()).decision.mode is not Mode.HOLD  # one failure is bridged


class _Raises:
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no numbers here")


ODD: dict[str, Any] = {
    "object": np.array([[None] * 8] * 15, dtype=object),
    "ragged": [[1.0, 2.0], [3.0]],
    "string": "actions",
    "strings": np.full((15, 8), "x"),
    "complex": np.zeros((15, 8), dtype=complex),
    "masked": np.ma.masked_array(np.zeros((15, 8)), mask=np.eye(15, 8, dtype=bool)),
    "boolean": np.ones((15, 8), dtype=bool),
    "short": np.zeros((14, 8)),
    "narrow": np.zeros((15, 7)),
    "flat": np.zeros(120),
    "scalar": 1.0,
    "empty": np.zeros((0, 8)),
    "huge": np.zeros((100_000, 8), dtype=np.float32),
    "large": np.full((15, 8), 1e300),
    "beyond": np.full((15, 8), np.finfo(np.longdouble).max),
    "infinite": np.full((15, 8), np.inf),
    "raising": _Raises(),
    "dates": np.zeros((15, 8), dtype="datetime64[s]"),
    "dict": {"actions": 1},
}


@pytest.mark.parametrize("name", ODD)
def test_no_offer_raises(name: str) -> None:
    """Whatever an offer is made of, as actions or as measurement, the answer is finite and of the right shape."""
    for where in ("actions", "q", "others"):
        host = running(plays=10)
        host.offer(swing(host, 0))
        given: dict[str, Any] = {"actions": swing(host, 1), where: ODD[name]}
        answer = host.offer(given.pop("actions"), **given)
        assert answer.actions.shape == (15, 8)
        assert np.isfinite(answer.actions).all()
        assert np.abs(np.diff(answer.actions[:, :7], axis=0)).max() < 0.1
        if where != "others":
            assert answer.decision.authority is not Authority.POLICY
            assert answer.decision.causes != ()


@pytest.mark.parametrize("odd", [np.int64(5), 1.5, "now", True, 1 << 70])
def test_a_time_that_is_none_is_replaced_by_the_clocks(odd: Any) -> None:
    """Only a plain integer of 64 bits is a time."""
    made = gate(plays=10, clock=lambda: 77)
    command = made.offer(HOME, None, now=odd).decision.command
    assert command.t == 77


def test_arrays_are_copied_in_and_fresh_out() -> None:
    """The caller may go on writing into what it gave and what it got; neither changes the other or the gate."""
    host = running(plays=10)
    given, q = swing(host, 0), host.q.copy()
    given.setflags(write=False)
    host.now += NS_PER_S
    answer = host.gate.offer(q, given, now=host.now)
    assert answer.actions.flags.writeable
    assert answer.actions.flags.owndata
    kept = answer.actions.copy()
    answer.actions[:] = 0.0
    q[:] = 0.0
    told = host.gate._arm.told  # pyright: ignore[reportPrivateUsage]
    assert told is not None
    assert np.array_equal(told.q[1:], kept[:, :7])


# -- set-up ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plays", [2.0, "2", True, 0, -1, 16, np.nan, [3]])
def test_plays_that_are_no_number_of_rows_are_refused(plays: Any) -> None:
    """A whole number from 1 to the length of a chunk, else a ConfigError."""
    with pytest.raises(ConfigError, match="plays"):
        gate(plays=plays)


@pytest.mark.parametrize("every", [0.0, -1.0, np.inf, "fast", True])
def test_a_time_between_offers_is_positive(every: Any) -> None:
    """Else a ConfigError; so is one beside ``plays``, or longer than a chunk."""
    with pytest.raises(ConfigError, match="every_s"):
        gate(every_s=every)
    with pytest.raises(ConfigError, match="every_s"):
        gate(every_s=0.5, plays=3)
    with pytest.raises(ConfigError, match="whole number of rows"):
        gate(every_s=2.0)


@pytest.mark.parametrize("reference", [Reference.VELOCITY, Reference.TORQUE, Reference.POSE, Reference.WAYPOINTS])
def test_only_positions_have_rows(reference: Reference) -> None:
    """Other actions are no rows of joint positions."""
    robot = load("panda")
    unit = {Reference.VELOCITY: "rad/s", Reference.TORQUE: "N.m"}.get(reference, "m")
    with pytest.raises(SpecError):
        ChunkGate(robot, ActionSpec(robot.joints, unit, reference, 15.0, 15), config=QUICK)


def test_margins_must_cover_the_drives() -> None:
    """Margins that were set, and are smaller than the tracking error of the drives, are refused."""
    config = ShieldConfig.model_validate({"filter": {"margins": {"position_rad": 0.01}}})
    with pytest.raises(ConfigError, match="tracking_error_rad"):
        gate(config=config)


def test_what_was_configured_stays() -> None:
    """Defaults suit rows; what was set explicitly is not touched."""
    made = rows_config(None, 1.0)
    assert made.drive.interface == "position"
    assert made.filter.margins.position_rad == made.drive.tracking_error_rad
    assert made.policy.deadline_s == 4.0
    assert made.start_ack_s == 10.0
    given = ShieldConfig.model_validate({"policy": {"deadline_s": 0.3}, "start_ack_s": 2.0})
    assert rows_config(given, 1.0).policy.deadline_s == 0.3
    assert rows_config(given, 1.0).start_ack_s == 2.0


@pytest.mark.parametrize("strategy", ["vla", "monolithic", "modular", "dual"])
@pytest.mark.parametrize("period", [0.02, 0.06, 0.16, 0.67, 1.0, 3.0])
def test_tables_suit_every_pace(strategy: str, period: float) -> None:
    """However rarely a host asks, one bad output is bridged: the shortest bridge lasts two ticks or more."""
    table = load_table(strategy, period)
    assert (table.buckets[:, 1] >= 2 * 4).all()


# -- records --------------------------------------------------------------------------------------------


def test_a_run_replays_bit_for_bit(tmp_path: Path) -> None:
    """Accepted, corrected, refused and late offers, a stop, and an episode that begins in motion; also by itself."""
    path = tmp_path / "run"
    with gate(plays=10, audit=path) as made:
        host = Host(made)
        host.start()
        host.offer(swing(host, 0))
        host.offer(host.chunk(np.tile(HOME + 0.8, (15, 1))))
        host.offer(None, late=3.0)
        host.offer(swing(host, 1), q=host.q + 0.01)
        assert host.answer is not None
        assert np.abs(np.diff(host.answer.actions[:, :7], axis=0)).max() > 0.0
        made.begin_episode("in motion")
        made.acknowledge(operator="somebody", reason="test")
        for k in range(12):
            host.offer(swing(host, k))
        host.offer(swing(host, 9), q=np.full(7, np.nan))
        host.offer(swing(host, 10), estop=True)
    whole = replay_run(path)
    assert whole.identical, whole
    assert replay_run(path, episodes=[1]).identical


def test_the_record_says_why_the_policy_failed() -> None:
    """The reason that a proxy gives is in the verdict; one that cannot be written is cut and mended."""
    robot = RobotModel.load("panda")
    reasons = {"timed out after 0.2 s": "timed out after 0.2 s", "\ud800" * 500: "????"}
    with ChunkGate(robot, ActionSpec(robot.joints, "rad", Reference.ABSOLUTE, 20.0, 4)) as asked:
        for k, (reason, told) in enumerate(reasons.items()):
            decision = asked.offer(robot.home, None, reason=reason, now=(k + 1) * NS_PER_S).decision
            details = [v.detail for v in decision.verdicts if v.cause is Cause.PROPOSAL_INVALID]
            assert len(details) == 1
            assert f"the policy failed: {told}" in details[0]


@pytest.mark.parametrize("reference", [Reference.CHUNK_RELATIVE, Reference.DELTA])
def test_without_a_measurement_relative_rows_count_from_where_the_drives_are(reference: Reference) -> None:
    """The host adds to where its drives are by now: a stop is not told from where they were at the last offer."""
    robot, rows = RobotModel.load("panda"), 10
    with ChunkGate(robot, ActionSpec(robot.joints, "rad", reference, 20.0, rows), config=QUICK, plays=5) as asked:
        asked.begin_episode("test")
        asked.acknowledge(operator="ada", reason="go")
        q, now, speed = robot.home.copy(), NS_PER_S, 0.0
        for _ in range(40):
            moving = asked.shield.mode is Mode.NOMINAL
            steps = np.minimum(speed + 0.002 * np.arange(1, rows + 1), 0.02) if moving else np.zeros(rows)
            wanted = np.outer(np.cumsum(steps) if reference is Reference.CHUNK_RELATIVE else steps, np.ones(robot.n))
            told = asked.offer(q, wanted, now=now).actions
            speed = steps[4]
            q = q + (told[4] if reference is Reference.CHUNK_RELATIVE else told[:5].sum(axis=0))
            now += 5 * NS_PER_S // 20
            if speed >= 0.02:
                break
        assert speed == pytest.approx(0.02), "it moves"
        first = asked.offer(np.full(robot.n, np.nan), None, now=now).actions[0]
        assert np.abs(first).max() <= 0.021, "a jump"


def test_a_stop_from_another_thread_is_never_lost() -> None:
    """Whenever it comes, also in the middle of a tick, one of the next ticks stops."""
    asked = gate()
    host = Host(asked)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for trial in range(60):
            asked.shield.begin_episode("t")
            asked.acknowledge(operator="ada", reason="go")
            person = threading.Timer(1e-5 * trial, lambda: asked.stop(operator="ada", reason="stop!"))
            person.start()
            causes: set[Cause] = set()
            for k in range(4):
                if k == 3:
                    person.join()
                host.now += NS_PER_S
                causes |= set(asked.offer(host.q, host.hold(), now=host.now).decision.causes)
            assert Cause.OPERATOR_STOP in causes
    finally:
        sys.setswitchinterval(switch)
        asked.close()
