from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safeguard.audit.reader import read_run
from safeguard.core.enums import Authority, Cause, Mode, RecordKind
from safeguard.core.errors import ConfigError
from safeguard.integrations.lerobot import ShieldedRobot
from tests.unit.lerobot_support import ARM, FRAME, KEYS, REST, Arm, Cell, Clock

STEP = math.degrees(float(ARM.limits.v_max[0])) / 30.0  # largest step of a row, degrees


# -- the contract ---------------------------------------------------------------------------------------


def test_everything_else_is_the_robots_own() -> None:
    """Names, features, calls and attributes go through."""
    arm = Arm()
    robot = ShieldedRobot(arm, ARM, clock=Clock())
    assert not robot.is_connected
    robot.connect(calibrate=False)
    robot.calibrate()
    robot.configure()
    assert (robot.name, robot.id, robot.robot_type, robot.camera) == (arm.name, arm.id, arm.robot_type, arm.camera)
    assert (robot.is_connected, robot.is_calibrated) == (True, True)
    assert robot.action_features == arm.action_features
    assert robot.observation_features == arm.observation_features
    assert robot.get_observation() == REST
    assert str(robot).startswith("shielded ")
    robot.disconnect()
    assert arm.calls == ["connect False", "calibrate", "configure", "disconnect"]
    with pytest.raises(AttributeError, match="nothing"):
        _ = robot.nothing


def test_a_with_block_connects_and_disconnects() -> None:
    """As LeRobot's own robots do; afterwards the run is over."""
    arm = Arm()
    with ShieldedRobot(arm, ARM, clock=Clock()) as robot:
        assert robot.is_connected
    assert arm.calls == ["connect True", "disconnect"]
    with pytest.raises(ConfigError, match="make a new ShieldedRobot"):
        robot.connect()


def test_the_record_is_closed_even_if_the_robot_cannot_be(tmp_path: Path) -> None:
    """A bus that fails on the way out does not leave the run open."""
    arm = Arm()
    robot = ShieldedRobot(arm, ARM, clock=Clock(), audit=tmp_path / "run")
    robot.connect()

    def fail() -> None:
        raise OSError("bus")

    arm.disconnect = fail  # type: ignore[method-assign]
    with pytest.raises(OSError, match="bus"):
        robot.disconnect()
    assert list(read_run(tmp_path / "run"))[-1].kind is RecordKind.RUN_CLOSE


def test_nothing_moves_before_it_is_acknowledged() -> None:
    """The arm is told to stay, and that is what is returned."""
    cell = Cell(start=False)
    cell.robot.begin_episode("test")
    sent = cell.move(shoulder_pan=5.0)
    assert sent == pytest.approx(REST, abs=1e-6)
    assert cell.arm.sent == [sent]
    cell.robot.acknowledge(operator="tester", reason="clear")
    for _ in range(30):
        sent = cell.move(shoulder_pan=5.0)
    assert sent["shoulder_pan.pos"] > 1.0


def test_a_slow_motion_comes_through_as_it_is() -> None:
    """What nothing speaks against is sent unchanged, and ``last`` says both."""
    cell, wanted, sent = Cell(), 0.0, dict[str, float]()
    for k in range(60):
        wanted = 0.5 * 20.0 * (1.0 - math.cos(0.1 * k))
        sent = cell.move(shoulder_pan=wanted, gripper=40.0)
    last = cell.robot.last
    assert last is not None
    assert last.decision.mode is Mode.NOMINAL
    assert last.sent == sent == cell.arm.sent[-1]
    assert isinstance(last.raw, dict)
    assert last.raw["shoulder_pan.pos"] == wanted
    assert sent["shoulder_pan.pos"] == pytest.approx(wanted, abs=1.0)
    assert sent["gripper.pos"] == 40.0


def test_a_far_target_is_approached_as_fast_as_allowed() -> None:
    """No row is further from the one before than the speed limit allows; it arrives."""
    cell = Cell()
    rows = [cell.move(shoulder_pan=45.0, wrist_roll=-30.0) for _ in range(60)]
    steps = np.abs(np.diff([[0.0] * 6] + [[row[key] for key in KEYS] for row in rows], axis=0))[:, :5]
    assert steps.max() <= STEP + 1e-6
    assert rows[-1]["shoulder_pan.pos"] == pytest.approx(45.0, abs=2.0)
    assert cell.arm.sent[-60:] == rows
    assert cell.robot.last is not None


def test_a_target_beyond_the_limits_is_not_reached() -> None:
    """The joint stops inside its range."""
    cell = Cell()
    rows = [cell.move(elbow_flex=170.0)["elbow_flex.pos"] for _ in range(90)]
    assert 60.0 < max(rows) < math.degrees(float(ARM.limits.q_max[2]))


# -- actions that cannot be used --------------------------------------------------------------------------


class Raising(dict[str, float]):
    """A dict that cannot be read."""

    def __iter__(self) -> Any:
        raise RuntimeError("no")

    def keys(self) -> Any:
        """Not these."""
        raise RuntimeError("no")


BAD: dict[str, Any] = {
    "NaN": {**REST, "elbow_flex.pos": math.nan},
    "infinite": {**REST, "elbow_flex.pos": math.inf},
    "text": {**REST, "elbow_flex.pos": "3"},
    "None in it": {**REST, "elbow_flex.pos": None},
    "several": {**REST, "elbow_flex.pos": np.zeros(2)},
    "gripper NaN": {**REST, "gripper.pos": math.nan},
    "too large": {**REST, "elbow_flex.pos": 10**400},
    "ticks": {**REST, "elbow_flex.pos": 2048.0},
    "missing": dict.fromkeys(KEYS[1:], 0.0),
    "extra": {**REST, "base.vel": 0.0},
    "renamed": {**dict.fromkeys(KEYS[1:], 0.0), "shoulder.pos": 0.0},
    "empty": {},
    "None": None,
    "list": [0.0] * 6,
    "tensor": torch.zeros(6),
    "raising": Raising(REST),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_an_action_that_cannot_be_used_is_answered_with_the_stop(bad: object) -> None:
    """Nothing is raised; the motors get finite numbers that brake, the gripper stays, and the record has the cause."""
    cell = Cell()
    for k in range(20):
        cell.move(shoulder_pan=float(k), gripper=40.0)
    moving = cell.arm.at["shoulder_pan.pos"]
    rows = [cell.frame(bad) for _ in range(12)]
    last = cell.robot.last
    assert last is not None
    assert Cause.PROPOSAL_INVALID in last.decision.causes
    assert last.decision.authority is Authority.BACKUP
    assert all(set(row) == set(KEYS) and all(map(math.isfinite, row.values())) for row in rows)
    assert [row["gripper.pos"] for row in rows] == [40.0] * 12
    assert abs(rows[-1]["shoulder_pan.pos"] - moving) < 20.0
    assert rows[-1] == pytest.approx(rows[-2], abs=1e-6)
    sent = cell.move(shoulder_pan=moving + 1.0)  # a stop takes a person to leave
    assert sent == pytest.approx(rows[-1], abs=1e-6)


KINDS: dict[str, Callable[[float], Any]] = {
    "float32": np.float32,
    "float64": np.float64,
    "tensor": torch.tensor,
    "tensor of one": lambda value: torch.tensor([value]),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_numbers_of_other_libraries_are_actions(kind: Any) -> None:
    """Numpy scalars and tensors work as floats do, and the motors get floats."""
    cell, sent = Cell(), dict[str, float]()
    for _ in range(10):
        sent = cell.frame({key: kind(value) for key, value in (REST | {"shoulder_pan.pos": 3.0}).items()})
    assert sent["shoulder_pan.pos"] > 0.5
    assert all(type(value) is float for row in cell.arm.sent for value in row.values())


# -- observations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, None, "0", math.inf])
def test_a_position_that_is_no_number_stops_the_arm(value: Any) -> None:
    """It is a cause, and what is sent stays finite."""
    cell = Cell()
    for k in range(10):
        cell.move(shoulder_pan=float(k))
    where = cell.arm.at["elbow_flex.pos"]
    cell.arm.at["elbow_flex.pos"] = value
    cell.robot.get_observation()
    sent = cell.robot.send_action(dict(REST))
    last = cell.robot.last
    assert last is not None
    assert Cause.STATE_INVALID in last.decision.causes
    assert sent["elbow_flex.pos"] == pytest.approx(where, abs=1.0)
    assert all(map(math.isfinite, sent.values()))


def test_an_arm_that_was_not_looked_at_is_read() -> None:
    """A host that only plays something back is served with measurements of its own; its actions have no age."""
    cell = Cell(start=False)
    cell.robot.begin_episode("play back", operator="tester")
    for _ in range(40):
        cell.clock.now += FRAME + 1
        cell.robot.send_action(REST | {"shoulder_pan.pos": 5.0})
    assert cell.arm.reads == 40
    assert cell.authority is Authority.POLICY
    assert cell.arm.at["shoulder_pan.pos"] > 2.0
    cell.clock.now += FRAME
    cell.robot.get_observation()
    cell.robot.send_action(dict(REST))
    assert cell.arm.reads == 41  # the observation is fresh


def test_reading_may_be_cheaper_than_an_observation() -> None:
    """``read`` is asked for the positions, and no picture is taken."""
    cell = Cell(start=False, read=lambda: dict(REST))
    cell.robot.begin_episode("test", operator="tester")
    cell.robot.send_action(dict(REST))
    assert cell.arm.reads == 0
    assert cell.robot.last is not None
    assert Cause.STATE_INVALID not in cell.robot.last.decision.causes


def test_an_arm_that_cannot_be_read_stops() -> None:
    """A driver that raises where the wrapper asks is a cause, not an exception."""
    cell = Cell(read=lambda: 1 / 0)
    cell.clock.now += FRAME
    cell.robot.send_action(dict(REST))
    assert cell.robot.last is not None
    assert Cause.STATE_INVALID in cell.robot.last.decision.causes


def test_an_action_from_an_old_observation_is_refused() -> None:
    """The policy took half a second: the state is read anew, the action is not followed, the reason says so."""
    cell = Cell()
    for k in range(10):
        cell.move(shoulder_pan=float(k))
    cell.robot.get_observation()
    reads = cell.arm.reads
    cell.clock.now += 500_000_000
    cell.robot.send_action(dict(REST))
    last = cell.robot.last
    assert last is not None
    assert "0.500 s ago, 0.2 s are allowed" in last.refusal
    assert last.decision.authority is Authority.BACKUP
    assert cell.arm.reads == reads + 1


def test_the_same_dict_every_time_is_no_stale_observation() -> None:
    """Some drivers write into one dict; what was seen then is not what stands there now."""
    one, other = Cell(in_place=True), Cell()
    rows = [[cell.move(shoulder_pan=float(k)) for k in range(40)] for cell in (one, other)]
    assert rows[0] == rows[1]
    assert one.robot.last is not None
    assert one.robot.last.decision.causes == (Cause.UNCALIBRATED,)


def test_where_nothing_is_known_nothing_is_sent() -> None:
    """An arm that could not be read since it was connected is not sent anywhere."""
    cell = Cell(start=False, read=lambda: 1 / 0)
    assert cell.robot.send_action(dict(REST)) == {}
    assert cell.arm.sent == []
    assert cell.robot.last is not None
    assert cell.robot.last.changed


# -- the gripper ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "sent"),
    [(70.0, 70.0), (0.0, 0.0), (100.0, 100.0), (101.0, 100.0), (-4.0, 0.0), (120.0, 40.0), (-20.0, 40.0)],
)
def test_a_gripper_goes_where_an_accepted_action_sends_it(asked: float, sent: float) -> None:
    """Within its range; a number just beyond is its end, one far beyond leaves it where it was sent last."""
    cell = Cell()
    for _ in range(3):
        cell.move(gripper=40.0)
    assert cell.move(gripper=asked)["gripper.pos"] == sent


def test_another_range_of_a_gripper() -> None:
    """Declared for the column by name."""
    cell = Cell(ranges={"gripper": (20.0, 60.0)})
    assert cell.move(gripper=62.0)["gripper.pos"] == 60.0


def test_a_gripper_is_where_it_is_before_anything_was_accepted() -> None:
    """And it is left out if the arm does not say where that is."""
    cell = Cell(start=False)
    assert cell.move(gripper=90.0)["gripper.pos"] == 50.0
    cell = Cell(start=False)
    cell.arm.at["gripper.pos"] = math.nan
    assert "gripper.pos" not in cell.frame(dict(REST))


# -- what the robot does with it ----------------------------------------------------------------------------


def test_what_the_robot_says_it_sent_counts() -> None:
    """A driver that rounds is believed, and its gripper is where it said."""
    cell = Cell()
    cell.arm.answer = dict.fromkeys(KEYS, 1.0)
    assert cell.frame(dict(REST)) == dict.fromkeys(KEYS, 1.0)
    assert cell.robot.last is not None
    assert cell.robot.last.sent == dict.fromkeys(KEYS, 1.0)
    assert cell.robot.last.changed
    cell.arm.answer = None
    assert cell.frame(BAD["list"])["gripper.pos"] == 1.0


@pytest.mark.parametrize("answer", [7, {}, {"shoulder_pan.pos": 3.0}, {**REST, "wrist_roll.pos": math.nan}])
def test_an_answer_that_says_nothing_is_not_believed(answer: object) -> None:
    """Then what it was given counts."""
    cell = Cell()
    cell.arm.answer = answer
    assert cell.frame(dict(REST)) == cell.arm.sent[-1]


def test_the_robots_own_errors_go_on_to_the_host() -> None:
    """A lost connection is for the host to handle; nothing pretends to have been sent."""
    cell = Cell()
    cell.frame(dict(REST))
    cell.robot.get_observation()
    before = cell.robot.last
    cell.arm.broken = ConnectionError("bus lost")
    with pytest.raises(ConnectionError, match="bus lost"):
        cell.robot.send_action(dict(REST))
    with pytest.raises(ConnectionError, match="bus lost"):
        cell.robot.get_observation()
    assert cell.robot.last is before


def test_raw_is_kept_as_it_came() -> None:
    """The host may write into its dict afterwards."""
    cell = Cell()
    action: dict[str, Any] = {**REST, "shoulder_pan.pos": "five"}
    cell.frame(action)
    action["shoulder_pan.pos"] = 0.0
    last = cell.robot.last
    assert last is not None
    assert isinstance(last.raw, dict)
    assert last.raw["shoulder_pan.pos"] == "five"
    assert last.refusal == "shoulder_pan.pos is 'five': not a finite number"
    assert last.changed


def test_both_are_in_the_record(tmp_path: Path) -> None:
    """The journal has what was asked for and what was sent, in rad."""
    cell = Cell(audit=tmp_path / "run")
    sent = [cell.move(shoulder_pan=45.0) for _ in range(5)][-1]
    cell.robot.disconnect()
    text = str(list(read_run(tmp_path / "run")))
    assert str(math.radians(45.0))[:12] in text
    assert str(math.radians(sent["shoulder_pan.pos"]))[:9] in text


# -- people -------------------------------------------------------------------------------------------------


def test_a_person_stops_the_arm_and_lets_it_go_again() -> None:
    """The stop takes effect with the next action; at standstill one acknowledgement leads to HOLD, one back to work."""
    cell = Cell()
    sent = dict[str, float]()
    for k in range(10):
        cell.move(shoulder_pan=float(k))
    cell.robot.stop(operator="tester", reason="test")
    rows = [cell.move(shoulder_pan=30.0) for _ in range(30)]
    assert rows[-1] == pytest.approx(rows[-2], abs=1e-6)
    assert rows[-1]["shoulder_pan.pos"] < 15.0
    for _ in range(2):
        assert cell.authority is Authority.BACKUP
        cell.robot.acknowledge(operator="tester", reason="clear")
        sent = [cell.move(shoulder_pan=30.0) for _ in range(30)][-1]
    assert sent["shoulder_pan.pos"] > 20.0
